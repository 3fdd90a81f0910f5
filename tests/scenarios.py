"""Random programs and commands of all kinds for several members, drawn from a seed.

Everything is small and has few names, so that rules meet, limits bite and lots run out. A scenario
is drawn whole before anything is carried out, and its commands name one another by their keys: so
a part of it is a scenario too, which is what makes a difference small enough to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from loyalty.validation import Faults, publishable
from tests.strategies import DAY, HOUR, MINUTE, SECOND, ZONES, instant

type Document = dict[str, Any]
type Command = dict[str, Any]

MEMBERS: Final = ("ann", "bob", "cat", "dan", "eve")
LOCATIONS: Final = ("here", "there")
PRODUCTS: Final = ("A", "B")
CATEGORIES: Final = ("x", "y")
BRANDS: Final = ("m", "n")
CHANNELS: Final = ("web", "store")
GROUPS: Final = ("vip", "crew")
REWARDS: Final = ("gift", "off", "part")
TIERS: Final = ("bronze", "silver", "gold")
PEOPLE: Final = ("sue", "tom")
PERS: Final = ("day", "week", "month", "year", "ever")

IDLE: Final = ("P5D", "P1M", "P6M")

BEGINNINGS: Final = tuple(
    instant(text)
    for text in (
        "2023-12-31T22:57",
        "2024-02-28T11:00",
        "2026-01-31T12:00",
        "2026-03-28T23:30",
        "2026-06-14T09:00",
        "2026-10-24T15:00",
        "2011-12-28T12:00",
        "2017-10-13T20:00",
    )
)
"""Shortly before ends of years, of February, of daylight saving, and of a day that never was."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A program, and commands with the moments (milliseconds) at which they are given."""

    document: Document
    steps: tuple[tuple[int, Command], ...]


class Dice(Random):
    """Draws from a seed."""

    def often(self, percent: int) -> bool:
        return self.random() * 100 < percent

    def some[T](self, of: tuple[T, ...]) -> list[T]:
        """At least one of them, in their order."""
        chosen = [one for one in of if self.often(50)]
        return chosen or [self.choice(of)]

    def part(self, percent: int, **fields: Any) -> dict[str, Any]:
        """Those of the fields that fall out; a field that is a function is drawn by it."""
        return {
            name: value() if callable(value) else value
            for name, value in fields.items()
            if self.often(percent)
        }


# Programs


def program(
    dice: Dice, fixed: Document, old: Sequence[Document] = (), letter: str = "r"
) -> Document:
    """A document that can be published; what `fixed` says it says, with some of the `old` rules and
    some whose ids begin with the letter."""
    while True:
        document = _document(dice) | fixed
        for i, rule in enumerate(document["rules"]):
            rule["rule_id"] = f"{letter}{i}"
        document["rules"] += [_changed(dice, rule) for rule in old if dice.often(60)]
        document = {name: value for name, value in document.items() if value is not None}
        try:
            publishable(document)
        except Faults:
            continue
        return document


def _changed(dice: Dice, rule: Document) -> Document:
    """The rule as it stands in a new version, sometimes with other limits."""
    if dice.often(75):
        return rule
    kept = {name: value for name, value in rule.items() if name not in ("limits", "frequency")}
    if "multiply" not in rule["earn"]:
        kept |= dice.part(50, limits=lambda: _limits(dice))
    if "frequency" in rule or rule["trigger"] in ("purchase", "check_in", "review", "quiz"):
        kept |= dice.part(50, frequency=lambda: _frequency(dice))
    return kept


def _document(dice: Dice) -> Document:
    tiered = dice.often(60)
    document: Document = {
        "program_id": "random",
        "name": "Random",
        "currency": "EUR",
        "time_zone": dice.choice(ZONES),
        "point_value": dice.choice([1, 2, "0.5"]),
        "rules": _rules(dice, tiered),
        "rewards": _rewards(dice, tiered),
        "locations": [_location(dice, name) for name in LOCATIONS],
        "transfers": {"enabled": dice.often(90)}
        | dice.part(
            25,
            min_points=3,
            limits=lambda: [{"points": dice.randint(3, 20), "per": dice.choice(PERS)}],
            new_member_wait=dice.choice(["P1D", "P7D"]),
            fresh_points_wait=dice.choice(["P1D", "P3D", "P1M"]),
        ),
    }
    if tiered:
        document["tiers"] = _tiers(dice)
    return document | dice.part(
        35,
        earning_base=lambda: dice.part(60, tax="include", shipping="include"),
        rounding=lambda: {
            "mode": dice.choice(["floor", "half_up", "ceil"]),
            "scope": dice.choice(["award", "award", "rule", "line"]),
        },
        multipliers=lambda: (
            {"combine": dice.choice(["multiply", "add", "best"])}
            | dice.part(40, max=dice.choice(["1", "1.5", 4]))
        ),
        pending=lambda: dice.part(
            50, **{name: _wait(dice) for name in ("purchase", "review", "check_in", "referral")}
        ),
        expiry=lambda: [_expiry(dice) for _ in range(dice.randint(1, 2))],
        limits=lambda: _limits(dice),
        max_lateness=lambda: dice.choice(["PT12H", "P7D", "P3M"]),
        budget=lambda: dice.choice([{"points": 60}, {"points": 300}, {"money": 150}]),
        refunds=lambda: dice.part(
            60,
            method=dice.choice(["per_line", "proportional", "recompute"]),
            shortfall=dice.choice(["other_lots", "clamp", "debt"]),
            expired_grace=dice.choice(["P0D", "P10D"]),
        ),
        campaigns=lambda: _campaigns(dice),
        offers=lambda: _offers(dice),
        referral=lambda: _referral(dice),
        points_payment=lambda: (
            {"points": dice.choice([1, 3]), "amount": dice.choice([1, 10])}
            | dice.part(
                40, min_points=5, step=dice.choice([2, 5]), max_share=dice.choice(["0.5", 1])
            )
        ),
        holds={"max_duration": dice.choice(["PT30M", "P1D", "P3D"])},
        adjustments={"second_person_above": dice.choice([5, 15])},
    )


def _wait(dice: Dice) -> str:
    return dice.choice(["P0D", "P1D", "P3D", "P14D"])


def _expiry(dice: Dice) -> Document:
    kind = dice.randint(0, 4)
    if kind == 0:
        return {"inactive_for": dice.choice(IDLE)}
    if kind == 1:
        dates = dice.some(("03-31", "06-30", "12-31"))
        return {"dates": dates} | dice.part(30, older_than=dice.choice(["P1M", "P6M"]))
    length = dice.choice(["P1D", "P5D", "P2W", "P1M", "P3M", "P1Y"])
    return {"after": length} | dice.part(
        30, round_up_to=dice.choice(["day", "week", "month", "quarter", "year"])
    )


def _limits(dice: Dice, most: int = 60) -> list[Document]:
    pers = dice.sample(("transaction", *PERS), dice.randint(1, 2))
    return [
        {"points": dice.randint(1, most), "per": per} | dice.part(25, over="refuse") for per in pers
    ]


def _times(dice: Dice) -> Document:
    return {"times": dice.randint(1, 3), "per": dice.choice(PERS)}


def _frequency(dice: Dice) -> list[Document]:
    pers = dice.sample(PERS, dice.randint(0, 2))
    found: list[Document] = [{"times": dice.randint(1, 3), "per": per} for per in pers]
    if not found or dice.often(30):
        found.append({"every": dice.choice(["PT10M", "PT4H", "PT36H", "P2D"])})
    return found


def _when(dice: Dice, tiered: bool) -> Document:
    fields: dict[str, Any] = {
        "channels": lambda: dice.some(CHANNELS),
        "locations": lambda: dice.some(LOCATIONS),
        "groups": lambda: dice.some(GROUPS),
        "weekdays": lambda: dice.some(("mon", "wed", "fri", "sat", "sun")),
        "hours": lambda: dice.choice(
            [["08:00-20:00"], ["22:00-02:00"], ["00:00-12:00", "18:00-24:00"]]
        ),
        "attributes": lambda: [
            dice.choice(
                [
                    {"name": "stars", "op": ">=", "value": 4},
                    {"name": "tag", "op": "in", "value": ["red", "blue"]},
                    {"name": "stars", "op": "!=", "value": 1},
                ]
            )
        ],
        "from": lambda: dice.choice(["2024-01-10", "2026-02-01", "2026-04-01T10:30"]),
    }
    if tiered:
        fields["tiers"] = lambda: dice.some(TIERS)
    return {name: fields[name]() for name in dice.sample(sorted(fields), dice.randint(1, 2))}


def _filter(dice: Dice) -> Document:
    return dice.choice(
        [
            {"products": dice.some(PRODUCTS)},
            {"categories": dice.some(CATEGORIES)},
            {"brands": dice.some(BRANDS)},
            {"products": dice.some(PRODUCTS), "categories": dice.some(CATEGORIES)},
        ]
    )


def _match(dice: Dice) -> Document:
    match = _filter(dice) if dice.often(70) else {}
    match |= dice.part(20, discounted=dice.often(50))
    if not match or dice.often(20):
        match["exclude"] = _filter(dice)
    return match


def _rules(dice: Dice, tiered: bool) -> list[Document]:
    triggers = ["purchase", "check_in"]
    triggers += dice.choices(
        [
            *["purchase"] * 5,
            *["review", "quiz", "check_in", "first_purchase", "registration"],
            *["profile_completed", "birthday", "anniversary"],
        ],
        k=dice.randint(1, 5),
    )
    rules = [_rule(dice, name, tiered) for name in triggers]
    if dice.often(50):
        # So that there is something to spend.
        rules.append({"trigger": "registration", "earn": {"points": dice.choice([20, 60])}})
    return [{"rule_id": f"r{i}"} | rule for i, rule in enumerate(rules)]


def _rule(dice: Dice, trigger: str, tiered: bool) -> Document:
    rule: Document = {"trigger": trigger} | dice.part(
        25,
        priority=dice.randint(-1, 1),
        stacking=dice.choice(["stack", "exclusive", "last"]),
        limits=lambda: _limits(dice),
        frequency=lambda: _frequency(dice),
        pending=_wait(dice),
        expiry=lambda: [_expiry(dice)],
        tier_multiplier=dice.often(50),
    )
    if trigger in ("birthday", "anniversary", "profile_completed", "registration"):
        for name in ("frequency", "tier_multiplier"):
            rule.pop(name, None)
    if dice.often(25):
        rule["when"] = _when(dice, tiered)
    if trigger not in ("purchase", "first_purchase"):
        return rule | {"earn": {"points": dice.choice([1, 5, 10, 25, 0])}}
    rule["earn"] = _earning(dice)
    if "multiply" in rule["earn"]:
        for name in ("limits", "pending", "expiry", "stacking", "tier_multiplier"):
            rule.pop(name, None)
    if dice.often(35):
        rule["match"] = _match(dice)
    if dice.often(15):
        rule["when"] = rule.get("when", {}) | {"min_amount": dice.choice([0, 100, 500])}
    return rule


def _earning(dice: Dice) -> Document:
    kind = dice.randint(0, 6)
    if kind == 0:
        return {"multiply": dice.choice(["0", "0.5", "1.333", "1.5", 2, 3])}
    if kind == 1:
        return {"points": dice.randint(0, 30)}
    if kind == 2:
        return {"points": dice.randint(0, 9), "per_quantity": dice.randint(1, 3)}
    if kind == 3:
        return {"points": dice.randint(0, 9), "per_line": dice.randint(1, 3)}
    amount = dice.choice([30, 70, 100, 200])
    return {"points": dice.randint(1, 10), "per_amount": amount} | dice.part(
        30, blocks=dice.choice(["continuous", "whole"])
    )


def _campaigns(dice: Dice) -> list[Document]:
    return [
        {"campaign_id": name, "multiplier": dice.choice(["0.5", "1.333", "1.5", 2, 3])}
        | dice.part(
            30,
            match=lambda: _match(dice),
            when=lambda: {"channels": dice.some(CHANNELS)},
            budget=dice.choice([{"points": 15}, {"points": 100}, {"money": 50}]),
            until=dice.choice(["2024-02-10", "2026-05-01", "2026-11-30T23:59"]),
        )
        for name in dice.some(("spring", "autumn"))
    ]


def _offers(dice: Dice) -> list[Document]:
    return [
        {
            "offer_id": name,
            "applies_to": _filter(dice),
            "percent": dice.choice(["12.5", 5, 1]),
        }
        | dice.part(
            30,
            validity=dice.choice(["P2W", "P6M"]),
            exclude_discounted=True,
            groups=lambda: dice.some(GROUPS),
            channels=lambda: dice.some(CHANNELS),
            until=dice.choice(["2024-02-10", "2026-05-01"]),
        )
        | dice.part(10, active=False)
        for name in dice.some(("weekly", "monthly"))
    ]


def _referral(dice: Dice) -> Document:
    on = dice.choice(["registration", "first_purchase"])
    referral: Document = {
        "referrer_points": dice.choice([0, 7, 20]),
        "referred_points": dice.choice([5, 10]),
        "award_on": on,
    } | dice.part(40, limits=lambda: [_times(dice)])
    if on == "first_purchase":
        referral |= dice.part(50, min_amount=dice.choice([100, 250]))
    return referral


def _levels(dice: Dice) -> list[Document]:
    silver, gold = dice.choice([(20, 60), (20, 60), (10, 30), (40, 50)])
    return [
        {"tier_id": "bronze", "name": "Bronze", "at": 0},
        {"tier_id": "silver", "name": "Silver", "at": silver, "multiplier": "1.5"},
        {"tier_id": "gold", "name": "Gold", "at": gold, "multiplier": 2},
    ]


def _downgrade(dice: Dice) -> Document:
    steps = dice.choice(["none", "one", "full"])
    return {"steps": steps} | dice.part(50, grace=dice.choice(["P0D", "P10D"]))


def _other_terms(dice: Dice, tiers: Document) -> Document:
    """The tiers of a new version, but for rolling windows sometimes with other levels, or lost by
    other terms."""
    if "rolling" in tiers["window"]:
        return tiers
    other = tiers | dice.part(40, levels=lambda: _levels(dice))
    return other | dice.part(40, downgrade=lambda: _downgrade(dice))


def _tiers(dice: Dice) -> Document:
    levels = _levels(dice)
    tiers: Document = {"levels": levels} | dice.part(20, qualify_by="spend")
    tiers["window"] = dice.choice(
        [
            {"rolling": "P30D"},
            {"rolling": "P6M"},
            {"calendar": "year"},
            {"membership": "year"},
            "lifetime",
        ]
    )
    if dice.often(70):
        tiers["downgrade"] = _downgrade(dice)
    return tiers


def _rewards(dice: Dice, tiered: bool) -> list[Document]:
    discounts = {"off": {"amount": 50}, "part": {"percent": "10"}}
    rewards = []
    for name in REWARDS:
        reward: Document = {
            "reward_id": name,
            "kind": "discount" if name in discounts else "gift",
            "name": name,
            "cost": dice.choice([2, 5, 9]),
        } | dice.part(
            25,
            stock=dice.randint(1, 4),
            limits=lambda: [_times(dice)],
            voucher_validity=dice.choice(["P3D", "P30D"]),
        )
        if name in discounts:
            reward["discount"] = discounts[name]
            if name == "part":
                reward["discount"] |= dice.part(50, max_amount=20)
        if tiered and dice.often(20):
            reward["cost"] = {"default": 8, dice.choice(TIERS): 3}
        when = dice.part(15, groups=["vip"], until=dice.choice(["2024-02-10", "2026-05-01"]))
        if tiered:
            when |= dice.part(10, tiers=["silver", "gold"])
        if when:
            reward["when"] = when
        rewards.append(reward)
    return rewards


def _location(dice: Dice, name: str) -> Document:
    check_in: Document = {"kinds": ["static"]} | dice.part(
        30,
        limits=lambda: [_times(dice)],
        cooldown=dice.choice(["PT10M", "PT4H"]),
        opening_hours={"mon-fri": ["07:00-19:00"], "sat": ["10:00-02:00"]},
    )
    return {"location_id": name, "name": name, "check_in": check_in}


# Commands

GAPS: Final = (
    (30, 0, 90 * SECOND),
    (20, MINUTE, HOUR),
    (22, HOUR, 9 * HOUR),
    (18, DAY // 2, 3 * DAY),
    (7, 3 * DAY, 20 * DAY),
    (3, 20 * DAY, 130 * DAY),
)
"""In so many of a hundred cases, so long until the next command."""

SLOWEST: Final = 5 * MINUTE
"""By so much a server's clock is slow at most."""

KINDS: Final = {
    "award": 30,
    "check_in": 8,
    "reversal": 11,
    "redeem": 11,
    "capture": 4,
    "cancel": 5,
    "use_voucher": 3,
    "transfer": 5,
    "adjust": 5,
    "approve": 3,
    "refuse": 1,
    "set_groups": 1,
    "set_birthday": 1,
    "complete_profile": 2,
    "set_tier": 1,
    "block": 1,
    "unblock": 2,
    "close": 0.2,
    "erase": 0.2,
    "merge": 0.7,
    "enrol": 3,
    "sweep": 4,
    "repeat": 4,
    "reuse": 2,
    "publish": 0.7,
}
"""How often each kind is drawn."""


def scenario(seed: int, length: int) -> Scenario:
    """The scenario of that seed: a program and so many commands."""
    dice = Dice(seed)
    document = program(dice, {})
    return Scenario(document, tuple(_Teller(dice, document).steps(length)))


class _Teller:
    """Draws commands one after the other, knowing which it drew and not what became of them."""

    def __init__(self, dice: Dice, document: Document) -> None:
        self.dice = dice
        self.document = document
        self.now = dice.choice(BEGINNINGS) + dice.randint(0, DAY)
        self.enrolled: list[str] = []
        self.events: list[Command] = []
        self.redemptions: list[Command] = []
        self.proposals: list[str] = []
        self.keyed: list[Command] = []
        self.count = 0

    def steps(self, length: int) -> list[tuple[int, Command]]:
        steps = [(self.now, self.enrol()), (self.now, self.enrol())]
        kinds, weights = list(KINDS), list(KINDS.values())
        while len(steps) < length:
            self.now += self._gap()
            [kind] = self.dice.choices(kinds, weights)
            command = getattr(self, kind)()
            if command is not None:
                is_told = command["kind"] == "publish"
                steps.append((self.now if is_told else self._clock(), command))
        return steps

    def _clock(self) -> int:
        """What the clock of the server says that gets the command: now and then it is slow."""
        slow = self.dice.randint(1, SLOWEST) if self.dice.often(20) else 0
        return self.now - slow

    def _gap(self) -> int:
        [(_, least, most)] = self.dice.choices(GAPS, [weight for weight, _, _ in GAPS])
        return self.dice.randint(least, most)

    def _new(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def _member(self) -> str:
        if self.dice.often(2):
            return "nobody"
        # The first two meet more often than the others.
        return self.dice.choice(self.enrolled[:2] if self.dice.often(50) else self.enrolled)

    def _keyed(self, command: Command) -> Command:
        self.keyed.append(command)
        return command

    def _today(self) -> Any:
        zone = ZoneInfo(self.document["time_zone"])
        return datetime.fromtimestamp(self.now / 1000, UTC).astimezone(zone).date()

    def _date(self, least: int, most: int) -> str:
        return (self._today() + timedelta(days=self.dice.randint(least, most))).isoformat()

    def enrol(self) -> Command:
        new = [name for name in MEMBERS if name not in self.enrolled]
        if new and (len(self.enrolled) < 2 or self.dice.often(60)):
            member_id = new[0]
        else:
            member_id = self.dice.choice(self.enrolled)
        command: Command = {
            "kind": "enrol",
            "member_id": member_id,
            "email": f"{member_id}@example.com",
            "phone": f"+33 {1 + MEMBERS.index(member_id)} 000",
            "birthday": f"19{self.dice.randint(60, 99)}{self._date(-5, 60)[4:]}",
            "groups": self.dice.some(GROUPS) if self.dice.often(40) else [],
        }
        if command["birthday"].endswith("02-29"):
            command["birthday"] = "1996-02-29"
        if self.enrolled and self.dice.often(50):
            command["referrer"] = self.dice.choice(self.enrolled)
            if len(self.enrolled) > 1 and self.dice.often(10):
                command["email"] = f"{command['referrer']}+more@example.com"
        elif len(self.enrolled) > 1 and self.dice.often(3):
            command["referrer"] = "nobody"
        is_refused = "more@" in command["email"] or command.get("referrer") == "nobody"
        if member_id not in self.enrolled and not is_refused:
            self.enrolled.append(member_id)
        return self._keyed(command)

    def award(self) -> Command:
        dice = self.dice
        kind = dice.choice([*["purchase"] * 4, "review", "quiz"])
        waited = [e["event_id"] for e in self.events if e["kind"] == "reversal"]
        known = {e["event_id"] for e in self.events if e["kind"] == "award"}
        awaited = [e for e in waited if e not in known and not e.startswith("check-in:")]
        event_id = dice.choice(awaited) if awaited and dice.often(50) else self._new("e")
        command: Command = {
            "kind": "award",
            "event_id": event_id,
            "type": kind,
            "member_id": self._member(),
        } | dice.part(
            35,
            channel=dice.choice(CHANNELS),
            location_id=dice.choice(LOCATIONS),
            attributes=dice.choice([{"stars": 1}, {"stars": 5}, {"tag": "red"}, {"tag": "green"}]),
        )
        if dice.often(1):
            command["type"] = kind = "birthday"
        if dice.often(40):
            command["occurred_at"] = self.now - self._lateness()
        if kind == "purchase":
            command["purchase"] = self._purchase()
        self.events.append(command)
        return self._keyed(command)

    def _lateness(self) -> int:
        dice = self.dice
        return dice.choice(
            [
                -4 * MINUTE,  # the clock of the till is fast
                dice.randint(0, 12) * HOUR,
                dice.randint(0, 12) * HOUR,
                dice.randint(1, 9) * DAY,
                dice.randint(1, 120) * DAY,
                -dice.randint(4, 7) * MINUTE,
            ]
        )

    def _purchase(self) -> Document:
        dice = self.dice
        if dice.often(15):
            count, amount = dice.randint(4, 7), dice.choice([1, 45, 100])
            lines: list[Document] = [{"quantity": 1, "amount": amount} for _ in range(count)]
        else:
            lines = [
                {
                    "quantity": dice.randint(1, 4),
                    "amount": dice.choice([0, 7, 50, 100, 130, 299, dice.randint(1, 400)]),
                }
                for _ in range(dice.randint(1, 3))
            ]
        for i, line in enumerate(lines):
            line |= {"line_id": f"l{i}"} | dice.part(
                50,
                product_id=dice.choice(PRODUCTS),
                category_ids=lambda: dice.some(CATEGORIES),
                brand_id=dice.choice(BRANDS),
            )
            line |= dice.part(20, discounted=True)
        bought: Document = {"currency": "EUR", "lines": lines} | dice.part(
            15,
            tax=dice.randint(0, 60),
            shipping=dice.randint(0, 60),
            paid_with_points=dice.randint(0, 150),
        )
        if dice.often(2):
            bought["currency"] = "JPY"
        if dice.often(15):
            bought["redemption_ids"] = [one["key"] for one in self.redemptions][-2:][:1]
        return bought

    def check_in(self) -> Command:
        command: Command = {
            "kind": "check_in",
            "member_id": self._member(),
            "location_id": self.dice.choice(LOCATIONS),
        }
        if self.dice.often(80):
            key = command["key"] = self._new("k")
            self.events.append(command | {"event_id": f"check-in:{key}"})
            self.keyed.append(command)
        return command

    def reversal(self) -> Command | None:
        dice = self.dice
        if not self.events or dice.often(5):
            event: Command = {"event_id": self._new("e")}
        else:
            event = self.events[-1 - min(int(dice.expovariate(0.4)), len(self.events) - 1)]
        command: Command = {
            "kind": "reversal",
            "event_id": event["event_id"],
            "refund_id": self._new("f"),
        }
        lines = event.get("purchase", {}).get("lines") or [
            {"line_id": "l0", "quantity": 2, "amount": 100},
            {"line_id": "l1", "quantity": 1, "amount": 50},
        ]
        how = dice.randint(0, 5)
        if how in (1, 2, 3):
            returned = [self._returned(line) for line in lines if dice.often(60)]
            back = {one["line_id"]: one for one in returned or [self._returned(lines[0])]}
            command["lines"] = list(back.values())
        elif how == 4:
            total = sum(line["amount"] for line in lines)
            command["amount"] = dice.randint(1, max(1, total + total // 10))
        self.events.append(command | {"kind": "reversal", "purchase": event.get("purchase", {})})
        return self._keyed(command)

    def _returned(self, line: Document) -> Document:
        how = self.dice.randint(0, 3)
        back: Document = {"line_id": line["line_id"]}
        if self.dice.often(2):
            return {"line_id": "l9"}
        if how in (0, 1):
            back["quantity"] = self.dice.randint(1, line["quantity"])
        elif how == 2 and line["amount"]:
            back["amount"] = self.dice.randint(1, line["amount"])
        return back

    def redeem(self) -> Command:
        dice = self.dice
        command: Command = {"kind": "redeem", "key": self._new("k"), "member_id": self._member()}
        if dice.often(60):
            command["reward_id"] = dice.choice(REWARDS) if dice.often(97) else "none"
        else:
            command["points"] = dice.randint(1, 12)
        if dice.often(35):
            amount = dice.choice([20, 100, 255])
            currency = "JPY" if dice.often(5) else "EUR"
            command["order"] = {"order_id": "o", "amount": amount, "currency": currency}
        if dice.often(45):
            command["hold"] = True
        self.redemptions.append(command)
        return self._keyed(command)

    def _redemption(self, *wanted: str) -> str:
        """One of the last redemptions, mostly one with such fields."""
        names = [
            one["key"]
            for one in self.redemptions
            if all(name in one for name in wanted) or self.dice.often(10)
        ]
        if not names or self.dice.often(2):
            return "k0"
        return names[-1 - min(int(self.dice.expovariate(0.7)), len(names) - 1)]

    def capture(self) -> Command:
        return {"kind": "capture", "redemption_id": self._redemption("hold")}

    def cancel(self) -> Command:
        return {"kind": "cancel", "redemption_id": self._redemption()}

    def use_voucher(self) -> Command:
        return {"kind": "use_voucher", "redemption_id": self._redemption("reward_id")}

    def transfer(self) -> Command:
        sender = self._member()
        others = [name for name in self.enrolled if name != sender]
        return self._keyed(
            {
                "kind": "transfer",
                "key": self._new("k"),
                "from_member_id": sender,
                "to_member_id": self.dice.choice(others) if self.dice.often(90) else self._member(),
                "points": self.dice.randint(1, 12),
            }
        )

    def adjust(self) -> Command:
        dice = self.dice
        points = dice.randint(1, 30) if dice.often(75) else -dice.randint(1, 20)
        command: Command = {
            "kind": "adjust",
            "key": self._new("k"),
            "member_id": self._member(),
            "points": points,
            "by": dice.choice(PEOPLE),
        }
        if points > 0 and dice.often(40):
            command["expires_on"] = self._date(-1, 40)
        most = self.document.get("adjustments", {}).get("second_person_above", 100)
        if abs(points) > most:
            self.proposals.append(command["key"])
        return self._keyed(command)

    def _settled(self, kind: str) -> Command | None:
        if not self.proposals and self.dice.often(90):
            return None
        key = self.dice.choice(self.proposals[-3:]) if self.proposals else "k0"
        return {"kind": kind, "key": key, "by": self.dice.choice(PEOPLE)}

    def approve(self) -> Command | None:
        return self._settled("approve")

    def refuse(self) -> Command | None:
        return self._settled("refuse")

    def set_groups(self) -> Command:
        groups = self.dice.some(GROUPS) if self.dice.often(70) else []
        return {"kind": "set_groups", "member_id": self._member(), "groups": groups}

    def set_birthday(self) -> Command:
        birthday = f"1980{self._date(-9, 9)[4:]}"
        return {"kind": "set_birthday", "member_id": self._member(), "birthday": birthday}

    def complete_profile(self) -> Command:
        return {"kind": "complete_profile", "member_id": self._member()}

    def set_tier(self) -> Command:
        command: Command = {"kind": "set_tier", "member_id": self._member()}
        if self.dice.often(75):
            tier_id = self.dice.choice(TIERS) if self.dice.often(95) else "none"
            command |= {"tier_id": tier_id, "until": self._date(-1, 40)}
        return command

    def block(self) -> Command:
        return {"kind": "block", "member_id": self._member()}

    def unblock(self) -> Command:
        return {"kind": "unblock", "member_id": self._member()}

    def close(self) -> Command:
        return {"kind": "close", "member_id": self._member()}

    def erase(self) -> Command:
        return {"kind": "erase", "member_id": self._member()}

    def merge(self) -> Command:
        return self._keyed(
            {
                "kind": "merge",
                "key": self._new("k"),
                "member_id": self._member(),
                "into_member_id": self._member(),
            }
        )

    def sweep(self) -> Command:
        return {"kind": "sweep"}

    def repeat(self) -> Command | None:
        """An old command once more."""
        return self.dice.choice(self.keyed[-12:]) if self.keyed else None

    def reuse(self) -> Command | None:
        """Another command under the key of an old one."""
        if not self.keyed:
            return None
        old = self.dice.choice(self.keyed[-12:])
        if old["kind"] in ("redeem", "transfer", "adjust", "merge", "check_in"):
            other = self.dice.choice([self.redeem, self.transfer, self.check_in, self.adjust])()
            other = other | {"key": old["key"]}
        elif old["kind"] == "award":
            other = old | {"channel": "phone"}
        elif old["kind"] == "reversal":
            other = {name: old[name] for name in ("kind", "event_id", "refund_id")}
            other |= {"amount": self.dice.randint(1, 200)}
        else:
            other = old | {"groups": ["crew"]}
        return dict(other)

    def publish(self) -> Command:
        fixed = {name: self.document.get(name) for name in ("currency", "time_zone", "tiers")}
        if fixed["tiers"]:
            fixed["tiers"] = _other_terms(self.dice, fixed["tiers"])
        self.count += 1
        self.document = program(self.dice, fixed, self.document["rules"], f"v{self.count}")
        return {"kind": "publish", "document": self.document}
