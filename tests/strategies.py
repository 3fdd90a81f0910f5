"""Random programs and histories, and a member's ledger in memory to play them on.

Programs say everything that is evaluated today, with small numbers and few names, so that rules
meet, limits bite and lots run out. `Ledger` carries decisions out as the store does, through the
stored form of every entry and account, but without a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import strategies as st

from loyalty import celebrations, earning, lifecycle, redeeming, refunds
from loyalty.codes import CheckInCode, Secrets, check_in_code
from loyalty.commands import CHECK_IN_EVENT, Enrolment, Event, Redemption, Reversal, SetTier
from loyalty.decisions import (
    Decision,
    Guard,
    Record,
    event_partition,
    redemption_id,
    redemption_partition,
)
from loyalty.model import Account, Entry, History, Known, NeedsBudgets, NeedsHistory, Refusal
from loyalty.redeeming import Spending
from loyalty.rules import Rulebook
from loyalty.validation import parse
from loyalty.wire import Item, account_item, account_of, entry_item, entry_of, sealed_hash
from tests.memory import INDEXED

SECRETS: Final = Secrets({1: b"a secret of these tests"})

ZONES: Final = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
)
"""Daylight saving in both hemispheres, by half an hour, at midnight, and a day that never was."""

LOCATION: Final = "here"
PRODUCTS: Final = ("A", "B")
CATEGORIES: Final = ("x", "y")
BRANDS: Final = ("m", "n")
CHANNELS: Final = ("web", "store")
GROUPS: Final = ("vip", "staff")
CUSTOM: Final = ("review", "quiz")

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


def instant(text: str, zone: str = "UTC") -> int:
    """Milliseconds since 1970 of a local time such as 2026-03-01T12:00."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def local_date(at: int, zone: str) -> date:
    """The local date of an instant in milliseconds."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)
    return moment.astimezone(ZoneInfo(zone)).date()


def number(day: date | str) -> int:
    """A date as the number that lots carry."""
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return (day - date(1970, 1, 1)).days


@contextmanager
def refused(code: str, **more: Any) -> Iterator[None]:
    """The block is refused with this code, and with these members in the answer."""
    with pytest.raises(Refusal) as caught:
        yield
    assert (caught.value.code, caught.value.more) == (code, more)


# A member's ledger in memory


class NotDue(Exception):
    """The rules give nothing for a day that the member celebrates."""


class Ledger:
    """One member's account and entries under one program, oldest first.

    Its methods are the commands; each gives the entry that was written, or raises the Refusal.
    """

    def __init__(self, document: Any, member_id: str = "ann") -> None:
        self.rulebook = Rulebook(parse(document), 1)
        self.program = self.rulebook.program
        self.account: Account | None = None
        self.entries: list[Entry] = []
        self.records: list[Record] = []
        self.member_id = member_id
        self.budgets: dict[str, int] = {}
        self._keys = 0

    def enrol(self, now: int, groups: Iterable[str] = (), birthday: date | None = None) -> Entry:
        body = {"member_id": self.member_id, "groups": list(groups)}
        if birthday:
            body["birthday"] = birthday.isoformat()
        enrolment = Enrolment.model_validate_json(json.dumps(body))
        guard = Guard(f"m#{self.member_id}", "0", b"")
        return self._commit(
            lambda known: earning.enrol(
                self.rulebook, known, guard, self.member_id, enrolment, "CODE", "", (), now
            )
        )

    def award(self, now: int, event: dict[str, Any]) -> Entry:
        """Award an event given as the API takes it; event_id and member_id may be left out."""
        body = {"event_id": f"event-{self._key()}", "member_id": self.member_id} | event
        command = Event.model_validate_json(json.dumps(body))
        guard = Guard(event_partition(command.event_id), "0", b"")
        return self._commit(lambda known: earning.award(self.rulebook, known, guard, command, now))

    def buy(self, now: int, *amounts: int, **more: Any) -> Entry:
        """A purchase of one line for each amount, in the program's currency."""
        lines = [
            {"line_id": str(i), "quantity": 1, "amount": amount} for i, amount in enumerate(amounts)
        ]
        purchase = {"currency": self.program.currency, "lines": lines}
        return self.award(now, {"type": "purchase", "purchase": purchase} | more)

    def check_in(self, now: int, location_id: str = LOCATION) -> Entry:
        code = check_in_code(SECRETS, CheckInCode(self.program.program_id, location_id, 1))
        key = self._key()
        guard = Guard(f"k#{key}", "0", b"")
        return self._commit(
            lambda known: earning.check_in(
                self.rulebook,
                known,
                guard,
                self.member_id,
                code,
                SECRETS,
                CHECK_IN_EVENT + key,
                now,
            )
        )

    def redeem(self, now: int, points: int | None = None, **body: Any) -> Entry:
        """Redeem plain points, or what the body says (`reward_id=…`, `order=…`)."""
        command = Redemption.model_validate({"points": points} | body)
        guard = Guard(f"k#{self._key()}", "0", b"")
        return self._commit(
            lambda known: redeeming.redeem(
                self.rulebook, known, guard, self.member_id, command, SECRETS, now
            )
        )

    def capture(self, now: int, held: Entry) -> Entry:
        """Spend what a hold has reserved."""
        guard = Guard(held.partition, "capture", b"")
        return self._commit(
            lambda known: redeeming.capture(
                self.rulebook, self.rulebook, known, guard, self.entries_under(held), SECRETS, now
            )
        )

    def cancel(self, now: int, redemption: Entry) -> Entry:
        """Give up a hold, or undo a redemption."""
        guard = Guard(redemption.partition, "cancel", b"")
        spending = self.spending(redemption)
        return self._commit(
            lambda known: redeeming.cancel(self.rulebook, known, guard, spending, now)
        )

    def spending(self, redemption: Entry) -> Spending:
        """A redemption as it stands, with its voucher."""
        vouchers = [
            {"pk": record.partition, "sk": record.sort, **record.fields}
            for record in self.records
            if record.fields.get("redemption_id") == redemption_id(redemption)
        ]
        return Spending(self.entries_under(redemption), vouchers[-1] if vouchers else None)

    def entries_under(self, first: Entry) -> list[Entry]:
        """All that stands under an entry's key, that one first."""
        others = [e for e in self.entries if e.partition == first.partition and e != first]
        return [first, *others]

    def reverse(self, now: int, event: Entry, refund_id: str = "refund", **body: Any) -> Entry:
        """Take back the whole of an event, or what the body says (`lines=…`, `amount=…`)."""
        guard = Guard(event.partition, f"r#{refund_id}", b"")
        refund = Reversal.model_validate(
            {"event_id": event.partition.partition("#")[2], "refund_id": refund_id} | body
        )
        given = refunds.Given.by(self.rulebook, event)
        ids = (event.event or {}).get("r", ())
        named = [[e for e in self.entries if e.partition == redemption_partition(i)] for i in ids]
        paid = [self.spending(entries[0]) for entries in named if entries]
        standing = self.entries_under(event)
        return self._commit(
            lambda known: refunds.reverse(
                self.rulebook, given, known, guard, standing, refund, paid, now
            )
        )

    def regroup(self, now: int, groups: Iterable[str]) -> Entry:
        guard = Guard(f"k#{self._key()}", "0", b"")
        return self._commit(
            lambda known: earning.update(
                self.rulebook, known.account(self.member_id), guard, now, groups=groups
            )
        )

    def set_tier(self, now: int, tier_id: str | None, until: str | None) -> Entry:
        """Staff put the member into a tier until a date, or take that off."""
        command = SetTier.model_validate_json(json.dumps({"tier_id": tier_id, "until": until}))
        guard = Guard(f"k#{self._key()}", "0", b"")
        return self._commit(
            lambda known: lifecycle.set_tier(
                self.rulebook, known, guard, self.member_id, command, "staff", now
            )
        )

    def celebrate(self, now: int) -> Entry | None:
        """Pay the first birthday or anniversary that is due and was not paid, as the sweep does;
        None where there is none."""
        assert self.account
        at = max(now, self.account.recorded_at)
        today = number(local_date(at, self.program.time_zone))
        for each in celebrations.due(self.rulebook, self.account, today):
            guard = each.guard(self.account)
            if (guard.partition, guard.sort) in {(e.partition, e.sort) for e in self.entries}:
                continue
            with suppress(NotDue):
                return self._commit(lambda known, each=each: self._celebrated(known, each, now))
        return None

    def _celebrated(self, known: Known, each: celebrations.Celebration, now: int) -> Decision:
        decision = celebrations.celebrate(self.rulebook, known, self.member_id, each, now)
        if decision is None:
            raise NotDue
        return decision

    def sweep(self, now: int) -> Entry | None:
        """Write down what fell due; None where nothing did."""
        assert self.account
        decision = lifecycle.sweep(self.rulebook, self.account, now)
        return None if decision is None else self._write(decision)

    def _key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    def _commit(self, decide: Callable[[Known], Decision]) -> Entry:
        known = Known({self.member_id: self.account})
        while True:
            try:
                return self._write(decide(known))
            except NeedsHistory as need:
                if known.history is not None and need.since >= known.history.since:
                    raise AssertionError("asked again for a history that it has") from need
                known = replace(known, history=self._history(need.since))
            except NeedsBudgets as need:
                if not need.totals.keys() - known.budgets.keys():
                    raise AssertionError("asked again for budgets that it has") from need
                self.budgets = {**need.totals, **self.budgets}
                known = replace(known, budgets={**known.budgets, **self._left(need.totals)})

    def _left(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self.budgets[name] for name in names}

    def _history(self, since: int) -> History:
        found = [e for e in reversed(self.entries) if e.recorded_at >= since]
        items = (entry_item(entry) for entry in found)
        indexed = ({k: v for k, v in item.items() if k in INDEXED} for item in items)
        return History(since, tuple(entry_of(item) for item in indexed))

    def _write(self, decision: Decision) -> Entry:
        [entry] = decision.entries
        before = self.account or Account(
            program_id=self.program.program_id, member_id=self.member_id
        )
        entry = replace(entry, hash=sealed_hash(entry, before.hash))
        after = before.after(entry)
        assert after.balance == entry.balance
        self.account = account_of(account_item(after))
        self.entries.append(entry_of(entry_item(entry)))
        self.records += decision.records
        for name, points in decision.all_draws.items():
            self.budgets[name] -= points
            assert self.budgets[name] >= 0
        return self.entries[-1]

    @property
    def items(self) -> list[Item]:
        """The entries as they are stored."""
        return [entry_item(entry) for entry in self.entries]


# Histories


@dataclass(frozen=True, slots=True)
class Step:
    """A command, so many milliseconds after the one before.

    `what` is the method of Ledger; `arguments` its arguments after `now`, where for `award`
    `late` milliseconds lie between the event and the command, for `reverse` the argument counts
    the events back from the newest, and for `set_tier` the days until it ends from now.
    """

    after: int
    what: str
    arguments: tuple[Any, ...] = ()
    late: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a step: the entry, or the refusal, or (None) nothing was to do."""

    step: Step
    now: int
    before: Account | None
    after: Account
    result: Entry | Refusal | None

    @property
    def entry(self) -> Entry | None:
        return self.result if isinstance(self.result, Entry) else None


@dataclass(frozen=True, slots=True)
class Story:
    """A program and what shall happen under it to one member, who is enrolled at `begins`."""

    document: dict[str, Any]
    begins: int
    groups: tuple[str, ...]
    steps: tuple[Step, ...]

    def play(self, *, sweep_first: bool = False) -> Played:
        """Carry all steps out; with `sweep_first` a sweep runs before each of them."""
        ledger = Ledger(self.document)
        now = self.begins
        # A few days ahead, so that the story meets it.
        birthday = local_date(now + 5 * DAY, ledger.program.time_zone).replace(year=1992)
        first = ledger.enrol(now, self.groups, birthday)
        assert ledger.account
        enrolment = Step(0, "enrol")
        done = [Done(enrolment, now, None, ledger.account, first)]
        events: list[Entry] = []
        for step in self.steps:
            now += step.after
            if sweep_first:
                ledger.sweep(now)
            before = ledger.account
            result = _carry_out(ledger, step, now, events)
            assert ledger.account
            done.append(Done(step, now, before, ledger.account, result))
            if isinstance(result, Entry) and result.kind in ("award", "check_in"):
                events.append(result)
        return Played(ledger, tuple(done), now)


@dataclass(frozen=True, slots=True)
class Played:
    """A story that was carried out, up to the instant `now`."""

    ledger: Ledger
    done: tuple[Done, ...]
    now: int

    @property
    def zone(self) -> str:
        return self.ledger.program.time_zone


def _carry_out(ledger: Ledger, step: Step, now: int, events: list[Entry]) -> Entry | Refusal | None:
    arguments: tuple[Any, ...] = step.arguments
    if step.what == "award":
        occurred = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now - step.late)
        # Ids tell the events of a story apart, also in another one of the same story.
        occurrence = {"occurred_at": occurred.isoformat(), "event_id": f"e{len(events)}-{now}"}
        event = step.arguments[0] | occurrence
        if "purchase" in event:
            event["purchase"] = event["purchase"] | {"currency": ledger.program.currency}
        arguments = (event,)
    if step.what == "set_tier":
        tier_id, days = step.arguments
        until = local_date(now + days * DAY, ledger.program.time_zone).isoformat()
        arguments = (tier_id, until) if tier_id else (None, None)
    if step.what == "reverse":
        if not events:
            return None
        arguments = (events[-1 - step.arguments[0] % len(events)],)
    try:
        result: Entry | None = getattr(ledger, step.what)(now, *arguments)
    except Refusal as refusal:
        return refusal
    return result


# Strategies


def _some(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)


def _one_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with one of these fields."""
    return st.one_of([value.map(lambda v, n=name: {n: v}) for name, value in fields.items()])


@st.composite
def _part(draw: st.DrawFn, often: int = 4, **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    """An object with some of these fields, each of them once in `often` times."""
    # One draw says which: drawing for each field would be most of the cost of a program.
    wanted = draw(st.integers(0, often ** len(fields) - 1))
    part = {}
    for name, value in fields.items():
        wanted, digit = divmod(wanted, often)
        if digit == often - 1:
            part[name] = draw(value)
    return part


PERS: Final = st.sampled_from(["day", "week", "month", "year", "ever"])
OVER: Final = st.sampled_from(["cap", "refuse"])
LIMIT: Final = st.fixed_dictionaries(
    {
        "points": st.integers(1, 60),
        "per": st.sampled_from(["transaction", "day", "week", "month", "year", "ever"]),
    },
    optional={"over": OVER},
)
LIMITS: Final = st.lists(LIMIT, min_size=1, max_size=2)
TIMES: Final = st.fixed_dictionaries({"times": st.integers(1, 3), "per": PERS})
EVERY: Final = st.sampled_from(["PT10M", "PT4H", "PT36H"]).map(lambda every: {"every": every})
FREQUENCIES: Final = st.lists(st.one_of(TIMES, EVERY), min_size=1, max_size=2)
EXPIRIES: Final = st.lists(
    st.fixed_dictionaries(
        {"after": st.sampled_from(["P1D", "P5D", "P2W", "P1M", "P3M", "P1Y"])},
        optional={"round_up_to": st.sampled_from(["day", "week", "month", "quarter", "year"])},
    ),
    max_size=2,
)
PROGRAM_EXPIRIES: Final = st.one_of(
    EXPIRIES,
    st.tuples(
        EXPIRIES,
        st.lists(
            st.sampled_from(
                [
                    {"inactive_for": "P10D"},
                    {"inactive_for": "P2M"},
                    {"dates": ["03-31", "12-31"]},
                    {"dates": ["03-01"], "older_than": "P1M"},
                ]
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda policy: next(iter(policy)),
        ),
    ).map(lambda both: both[0] + both[1]),
)
"""What a rule may say of its points, and what a program may say of all."""
WAITS: Final = st.sampled_from(["P0D", "P1D", "P3D", "P14D"])
WHENS: Final = _one_of(
    channels=_some(CHANNELS),
    locations=st.just([LOCATION]),
    groups=_some(GROUPS),
    weekdays=_some(("mon", "wed", "sat", "sun")),
    hours=st.sampled_from([["08:00-20:00"], ["22:00-02:00"], ["00:00-12:00", "18:00-24:00"]]),
    attributes=st.sampled_from(
        [
            [{"name": "stars", "op": ">=", "value": 4}],
            [{"name": "tag", "op": "in", "value": ["red", "blue"]}],
            [{"name": "stars", "op": "!=", "value": 1}],
        ]
    ),
)
EARNINGS: Final = st.one_of(
    st.integers(0, 30).map(lambda points: {"points": points}),
    st.fixed_dictionaries(
        {"points": st.integers(1, 20), "per_amount": st.sampled_from([3, 70, 100, 200])},
        optional={"blocks": st.sampled_from(["continuous", "whole"])},
    ),
    st.fixed_dictionaries({"points": st.integers(0, 9), "per_quantity": st.integers(1, 3)}),
    st.fixed_dictionaries({"points": st.integers(0, 9), "per_line": st.integers(1, 3)}),
)
MULTIPLIERS: Final = st.sampled_from(["0", "0.5", "1.333", "1.5", "2", 3])


ANY_MATCH: Final = _one_of(
    products=_some(PRODUCTS),
    categories=_some(CATEGORIES),
    brands=_some(BRANDS),
    discounted=st.booleans(),
)
MATCHES: Final = st.one_of(
    ANY_MATCH,
    ANY_MATCH,
    # Exclusions never name what is asked for.
    st.sampled_from(
        [
            {"exclude": {"products": ["A"]}},
            {"categories": ["x"], "exclude": {"brands": ["m"], "categories": ["y"]}},
            {"products": ["B"], "discounted": False, "exclude": {"categories": ["y"]}},
        ]
    ),
)
RULE_PARTS: Final = _part(
    3,
    priority=st.integers(-1, 1),
    stacking=st.sampled_from(["stack", "exclusive", "last"]),
    limits=LIMITS,
    frequency=FREQUENCIES,
    pending=WAITS,
    expiry=EXPIRIES,
)
TRIGGERS: Final = st.sampled_from(
    [*["purchase"] * 4, "check_in", "registration", "review", "birthday", "anniversary"]
)
FIXED: Final = st.sampled_from([1, 5, 10, 25, 0])
LEAST: Final = st.sampled_from([0, 100, 500])


@st.composite
def _rules(draw: st.DrawFn) -> dict[str, Any]:
    """One rule without its id, of any trigger that is evaluated, with every effect, condition and
    limit."""
    trigger = draw(TRIGGERS)
    # One draw decides what else there is.
    chance = draw(st.integers(0, 119))
    rule: dict[str, Any] = {"trigger": trigger} | draw(RULE_PARTS)
    # What the sweep raises has no place, channel or attribute that a rule could ask for.
    raised = trigger in ("birthday", "anniversary")
    when = draw(WHENS) if chance % 4 == 3 and not raised else {}
    if trigger == "purchase":
        rule["earn"] = draw(EARNINGS)
        if chance % 5 == 4:
            rule["earn"] = {"multiply": draw(MULTIPLIERS)}
            for name in ("limits", "pending", "expiry", "stacking"):
                rule.pop(name, None)
        if chance % 3 == 2:
            rule["match"] = draw(MATCHES)
        if chance % 8 == 6:
            when = when | {"min_amount": draw(LEAST)}
    else:
        rule["earn"] = {"points": draw(FIXED)}
    return rule | ({"when": when} if when else {})


RULES: Final = _rules()
SEVERAL_RULES: Final = st.lists(RULES, min_size=1, max_size=5)
CURRENCIES: Final = st.sampled_from(["EUR", "JPY", "KWD"])
TIME_ZONES: Final = st.sampled_from(ZONES)
CHECK_INS: Final = _part(
    3, limits=st.lists(TIMES, max_size=2), cooldown=st.sampled_from(["PT10M", "PT4H"])
)
SETTINGS: Final = _part(
    2,
    earning_base=st.sampled_from(
        [{"tax": "include"}, {"shipping": "include"}, {"tax": "include", "shipping": "include"}]
    ),
    rounding=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["floor", "half_up", "ceil"]),
            "scope": st.sampled_from(["award", "rule", "line"]),
        }
    ),
    multipliers=st.fixed_dictionaries(
        {"combine": st.sampled_from(["multiply", "add", "best"])},
        optional={"max": st.sampled_from(["1", "1.5", "4"])},
    ),
    pending=_part(2, purchase=WAITS, check_in=WAITS, review=WAITS),
    expiry=PROGRAM_EXPIRIES,
    notifications=st.sampled_from([["P7D", "P1D"], ["P30D"]]).map(
        lambda ahead: {"expiring": ahead}
    ),
    leap_day=st.sampled_from(["feb_28", "mar_1"]),
    limits=LIMITS,
    max_lateness=st.sampled_from(["PT12H", "P7D", "P3M"]),
    refunds=st.sampled_from(["clamp", "debt"]).map(lambda policy: {"shortfall": policy}),
    campaigns=st.lists(
        st.fixed_dictionaries(
            {"campaign_id": st.sampled_from(["spring", "autumn"]), "multiplier": MULTIPLIERS},
            optional={
                "from": st.just("2026-02-01"),
                "match": st.just({"categories": ["x"]}),
                "budget": st.just({"points": 40}),
            },
        ),
        min_size=1,
        max_size=2,
        unique_by=lambda campaign: campaign["campaign_id"],
    ),
    offers=st.just(
        [
            {
                "offer_id": "week",
                "applies_to": {"categories": ["x"]},
                "percent": "12.5",
                "validity": "P2W",
                "exclude_discounted": True,
            }
        ]
    ),
    budget=st.sampled_from([{"points": 30}, {"points": 200}]),
    tiers=st.fixed_dictionaries(
        {
            "levels": st.just(
                [
                    {"tier_id": "bronze", "at": 0},
                    {"tier_id": "silver", "at": 20, "multiplier": "1.5"},
                    {"tier_id": "gold", "at": 60, "multiplier": 2},
                ]
            ),
            "window": st.sampled_from(
                [
                    {"rolling": "P30D"},
                    {"rolling": "P6M"},
                    {"calendar": "year"},
                    {"membership": "year"},
                    "lifetime",
                ]
            ),
            "downgrade": st.fixed_dictionaries(
                {"steps": st.sampled_from(["none", "one", "full"])},
                optional={"grace": st.just("P10D")},
            ),
        },
        optional={"qualify_by": st.just("spend")},
    ),
)
REWARDS: Final = (
    {"reward_id": "gift", "kind": "gift", "cost": 7, "voucher_validity": "P30D"},
    {"reward_id": "inner", "kind": "content", "cost": 3, "when": {"groups": ["vip"]}},
)


@st.composite
def _program_documents(draw: st.DrawFn) -> dict[str, Any]:
    rules = draw(SEVERAL_RULES)
    if rules[0]["trigger"] != "purchase":
        # Most of a history is purchases: they shall not all be for nothing.
        rules[0] |= {"trigger": "purchase", "earn": draw(EARNINGS)}
    return {
        "program_id": "random",
        "name": "Random",
        "currency": draw(CURRENCIES),
        "time_zone": draw(TIME_ZONES),
        "point_value": 2,
        "rules": [rule | {"rule_id": f"rule-{i}"} for i, rule in enumerate(rules)],
        "rewards": list(REWARDS),
        "locations": [{"location_id": LOCATION, "check_in": draw(CHECK_INS)}],
    } | draw(SETTINGS)


PROGRAM_DOCUMENTS: Final = _program_documents()
"""Programs that can be published today."""

EXTRA: Final = st.integers(0, 300)
LINE_PARTS: Final = _part(
    2,
    product_id=st.sampled_from(PRODUCTS),
    category_ids=_some(CATEGORIES),
    brand_id=st.sampled_from(BRANDS),
    discounted=st.booleans(),
)
AMOUNTS: Final = st.one_of(st.integers(0, 400), st.just(10_007))
QUANTITIES: Final = st.integers(1, 4)


@st.composite
def _lines(draw: st.DrawFn) -> dict[str, Any]:
    return {"quantity": draw(QUANTITIES), "amount": draw(AMOUNTS)} | draw(LINE_PARTS)


# Many small lines round away from their sum further than any limit expects.
MANY_LINES: Final = st.tuples(st.integers(4, 12), st.sampled_from([1, 45, 100])).map(
    lambda many: [{"quantity": 1, "amount": many[1]}] * many[0]
)
FEW_LINES: Final = st.lists(_lines(), min_size=1, max_size=3)
BASKETS: Final = st.one_of(FEW_LINES, FEW_LINES, MANY_LINES)
PURCHASE_PARTS: Final = _part(4, tax=EXTRA, shipping=EXTRA, paid_with_points=EXTRA)
EVENT_PARTS: Final = _part(
    2,
    channel=st.sampled_from(CHANNELS),
    location_id=st.just(LOCATION),
    attributes=st.sampled_from([{"stars": 1}, {"stars": 5}, {"tag": "red"}, {"tag": "green"}]),
)
EVENT_TYPES: Final = st.sampled_from([*["purchase"] * 3, *CUSTOM])


@st.composite
def _events(draw: st.DrawFn) -> dict[str, Any]:
    event: dict[str, Any] = {"type": draw(EVENT_TYPES)} | draw(EVENT_PARTS)
    if event["type"] == "purchase":
        lines = [line | {"line_id": f"l{i}"} for i, line in enumerate(draw(BASKETS))]
        event["purchase"] = {"lines": lines} | draw(PURCHASE_PARTS)
    return event


EVENTS: Final = _events()
"""Events as POST /awards takes them, without event_id, member_id, occurred_at and currency."""

# Most things happen close together, so that windows fill; some after their end.
GAPS: Final = st.one_of(
    st.sampled_from([0, 7 * SECOND, 20 * MINUTE]),
    st.integers(0, 6).map(lambda hours: hours * HOUR),
    st.integers(1, 80).map(lambda days: days * DAY + 1),
)
LATENESS: Final = st.one_of(
    st.just(0),
    st.just(-4 * MINUTE),  # the clock of the till is fast
    st.integers(1, 12).map(lambda hours: hours * HOUR),
    st.integers(1, 120).map(lambda days: days * DAY),
)
BEGINNINGS: Final = st.sampled_from(
    [
        "2023-12-31T22:57",
        "2024-02-28T11:00",
        "2026-01-31T12:00",
        "2026-03-28T23:30",
        "2026-10-24T15:00",
        "2011-12-28T12:00",
        "2017-10-13T20:00",
    ]
).map(instant)


COMMANDS: Final = st.sampled_from(
    [
        *["award"] * 5,
        *["check_in", "redeem", "reverse"] * 2,
        "sweep",
        "regroup",
        "set_tier",
        "celebrate",
    ]
)
SOME_GROUPS: Final = st.lists(st.sampled_from(GROUPS), unique=True).map(tuple)
ARGUMENTS: Final = {
    "award": EVENTS,
    "redeem": st.integers(1, 25),
    "reverse": st.integers(0, 3),
    "regroup": SOME_GROUPS,
    "set_tier": st.tuples(st.sampled_from([None, "silver", "gold"]), st.integers(1, 60)),
}


@st.composite
def _steps(draw: st.DrawFn) -> Step:
    what = draw(COMMANDS)
    drawn = draw(ARGUMENTS[what]) if what in ARGUMENTS else None
    arguments = drawn if what == "set_tier" else (drawn,) if what in ARGUMENTS else ()
    late = draw(LATENESS) if what == "award" else 0
    return Step(draw(GAPS), what, arguments, late)


STEPS: Final = st.lists(_steps(), min_size=4, max_size=14).map(tuple)


@st.composite
def _stories(draw: st.DrawFn) -> Story:
    return Story(draw(PROGRAM_DOCUMENTS), draw(BEGINNINGS), draw(SOME_GROUPS), draw(STEPS))


STORIES: Final = _stories()
"""A random program with a random history."""


LIMITED: Final = _part(2, limits=LIMITS, frequency=FREQUENCIES)
# Hours, so that windows and cooldowns are met by several events in any order.
BUSY_GAPS: Final = st.one_of(st.integers(0, 6).map(lambda hours: hours * HOUR), GAPS)
BUSY_LATENESS: Final = st.one_of(st.integers(0, 12).map(lambda hours: hours * HOUR), LATENESS)


@st.composite
def _busy_documents(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "program_id": "random",
        "name": "Random",
        "currency": "EUR",
        "time_zone": draw(TIME_ZONES),
        "point_value": 2,
        "rules": [
            {"rule_id": "review", "trigger": "review", "earn": {"points": 5}} | draw(LIMITED),
            {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 3}} | draw(LIMITED),
            {"rule_id": "purchase", "trigger": "purchase", "earn": draw(EARNINGS)} | draw(LIMITED),
        ],
        "locations": [{"location_id": LOCATION, "check_in": draw(CHECK_INS)}],
    } | draw(SETTINGS)


# Mostly the same again: with a review and a purchase in turn there is always something to earn.
BUSY_EVENTS: Final = st.one_of(
    st.just({"type": "review"}),
    st.just({"type": "review"}),
    BASKETS.map(
        lambda lines: {
            "type": "purchase",
            "purchase": {"lines": [line | {"line_id": str(i)} for i, line in enumerate(lines)]},
        }
    ),
)
BUSY_STEPS: Final = st.one_of(
    st.builds(Step, BUSY_GAPS, st.just("award"), st.tuples(BUSY_EVENTS), BUSY_LATENESS),
    st.builds(Step, BUSY_GAPS, st.just("award"), st.tuples(BUSY_EVENTS), BUSY_LATENESS),
    st.builds(Step, BUSY_GAPS, st.just("check_in")),
    st.builds(Step, st.just(0), st.just("reverse"), st.just((0,))),
)
BUSY_HISTORIES: Final = st.lists(BUSY_STEPS, min_size=6, max_size=16).map(tuple)
BUSY_DOCUMENTS: Final = _busy_documents()


@st.composite
def _busy_stories(draw: st.DrawFn) -> Story:
    return Story(draw(BUSY_DOCUMENTS), draw(BEGINNINGS), (), draw(BUSY_HISTORIES))


BUSY_STORIES: Final = _busy_stories()
"""Rules without conditions and full of limits, under many events of few kinds, late ones too."""
