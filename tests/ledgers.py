"""A ledger as years of a busy shop leave it: every kind of entry, written by the handlers on the
real engine, some commands sent twice and many refused."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests import workers
from tests.programs import shop
from tests.workers import BASE, Call, House, send

DOCUMENT: dict[str, Any] = shop(
    expiry=[{"after": "P3M"}],
    pending={"purchase": "P5D"},
    refunds={"shortfall": "debt"},
    holds={"max_duration": "PT1H"},
    notifications={"expiring": ["P7D"]},
    budget={"points": 100_000},
    campaigns=[
        {
            "campaign_id": "spring",
            "name": "Spring",
            "from": "2026-03-01",
            "until": "2027-12-31",
            "multiplier": 2,
            "match": {"categories": ["beans"]},
            "budget": {"points": 3_000},
        }
    ],
    tiers={
        "levels": [
            {"tier_id": "basic", "name": "Basic", "at": 0},
            {"tier_id": "silver", "name": "Silver", "at": 100},
            {"tier_id": "gold", "name": "Gold", "at": 400, "multiplier": "1.5"},
        ],
        "window": {"rolling": "P60D"},
        "downgrade": {"steps": "full"},
    },
    transfers={"enabled": True, "limits": [{"points": 200, "per": "day"}]},
    adjustments={"second_person_above": 300},
    referral={
        "award_on": "first_purchase",
        "referred_points": 20,
        "referrer_points": 30,
        "limits": [{"times": 5, "per": "year"}],
    },
)
DOCUMENT["rules"] += [
    {"rule_id": "birthday", "trigger": "birthday", "earn": {"points": 15}},
    {"rule_id": "anniversary", "trigger": "anniversary", "earn": {"points": 7}},
    {"rule_id": "profile", "trigger": "profile_completed", "earn": {"points": 9}},
]
DOCUMENT["rewards"] += [
    {
        "reward_id": "mug",
        "kind": "product",
        "name": "A mug",
        "cost": 20,
        "stock": 40,
        "limits": [{"times": 3, "per": "month"}],
        "voucher_validity": "P30D",
    }
]
"""A program in which nearly everything happens."""

COMMANDS = (
    *["buy"] * 8, *["refund"] * 4, *["pay"] * 3, *["reward"] * 4, *["hold"] * 4, *["end"] * 4,
    *["cancel"] * 2, *["scan"] * 2, *["review"] * 2, "early", "late", "transfer", "transfer",
    "adjust", "large", "approve", "use", "groups", "birthday", "tier", "block", "unblock", "again",
)  # fmt: skip


@dataclass
class Shop:
    """The shop's random life; `chance` makes it the same every time."""

    chance: random.Random
    members: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    redeemed: list[str] = field(default_factory=list)
    vouchers: list[str] = field(default_factory=list)
    proposed: list[str] = field(default_factory=list)
    last: Call | None = None
    numbers: int = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def enrol(self) -> None:
        chance, name = self.chance, f"member-{self.number()}"
        more: dict[str, Any] = {}
        if self.codes and chance.random() < 0.5:
            more["referral_code"] = chance.choice(self.codes)
        if chance.random() < 0.5:
            month, day = chance.randint(3, 6), chance.randint(1, 28)
            more["birthday"] = f"1990-{month:02}-{day:02}"
        if chance.random() < 0.3:
            more |= {"name": name, "email": f"{name}@example.com", "phone": f"+33 {self.numbers}"}
        key = None if chance.random() < 0.7 else f"enrol-{name}"
        answer = send(workers.enrol(name, key=key, groups=chance.choice([[], ["vip"]]), **more))
        if answer.status != 201:
            assert answer.body["code"] == "referral_code_unknown", answer.body  # who had it is gone
            return
        self.members.append(name)
        self.codes.append(answer.body["referral_code"])

    def call(self) -> Call | None:
        """The next command, as it comes to a till's mind."""
        chance, n = self.chance, self.number()
        member = chance.choice(self.members)
        match chance.choice(COMMANDS):
            case "buy":
                order = f"order-{n}"
                if self.waiting and chance.random() < 0.5:
                    order = self.waiting.pop()
                self.orders.append(order)
                amounts = [chance.randint(1, 90) * 100 for _ in range(chance.randint(1, 3))]
                paid = {}
                if self.redeemed and chance.random() < 0.3:
                    paid = {"redemption_ids": [chance.choice(self.redeemed)]}
                call = workers.purchase(order, member, *amounts)
                call.body["purchase"] |= paid
                return call
            case "refund" if self.orders:
                what: Any = chance.choice([{}, {"amount": 100}, {"lines": [{"line_id": "0"}]}])
                return workers.reverse(chance.choice(self.orders), f"refund-{n}", **what)
            case "early":
                order = f"early-{n}"
                self.waiting.append(order)
                return workers.reverse(order, f"refund-{n}", amount=chance.randint(1, 50) * 100)
            case "late" if self.waiting:
                return workers.reverse(chance.choice(self.waiting), f"refund-{n}", amount=300)
            case "pay":
                return workers.redeem(member, f"pay-{n}", points=chance.randint(1, 60))
            case "reward":
                reward = chance.choice(["mug", "mug", "free-coffee"])
                return workers.redeem(member, f"reward-{n}", reward_id=reward)
            case "hold":
                what = chance.choice([{"points": 12}, {"reward_id": "mug"}])
                return workers.redeem(member, f"hold-{n}", hold=True, **what)
            case "end" if self.held:
                end = chance.choice([workers.capture, workers.cancel])
                return end(self.held.pop(chance.randrange(len(self.held))))
            case "cancel" if self.redeemed:
                return workers.cancel(chance.choice(self.redeemed))
            case "scan":
                return workers.check_in(member, f"visit-{n}")
            case "review":
                return workers.award(f"review-{n}", member)
            case "transfer":
                other = chance.choice(self.members)
                points = chance.randint(1, 40)
                return workers.transfer(
                    f"send-{n}", from_member_id=member, to_member_id=other, points=points
                )
            case "adjust":
                return workers.adjust(member, chance.choice([25, 5, -10]), f"adjust-{n}")
            case "large":
                return workers.adjust(member, 400, f"large-{n}", note="a large one")
            case "approve" if self.proposed:
                path = {"adjustment_id": self.proposed.pop()}
                route = f"POST {BASE}/adjustments/{{adjustment_id}}/approve"
                return Call("staff", route, path, subject="another")
            case "use" if self.vouchers:
                return workers.use(self.vouchers.pop(), f"use-{n}")
            case "groups":
                return workers.change(member, groups=chance.choice([[], ["vip"], ["staff"]]))
            case "birthday":
                return workers.change(member, birthday=f"1980-04-{chance.randint(1, 28):02}")
            case "tier":
                return workers.set_tier(member, tier_id="gold", until="2026-12-31")
            case "block" | "unblock" as what:
                return workers.become(what, member)
            case "again":
                return self.last
        return None

    def happen(self) -> None:
        """One command, and what the shop remembers of its answer."""
        call = self.call()
        if call is None:
            return
        self.last = call
        answer = send(call)
        assert answer.status < 500, answer.body
        if answer.status not in (200, 201, 202) or not isinstance(answer.body, dict):
            return
        body = answer.body
        if "redemption_id" in body and call.route.endswith("/redemptions"):
            (self.held if body["status"] == "held" else self.redeemed).append(body["redemption_id"])
        if "voucher" in body:
            self.vouchers.append(body["voucher"]["code"])
        if body.get("status") == "proposed":
            self.proposed.append(body["adjustment_id"])

    def leave(self) -> None:
        """Members who go: merged with others, closed, erased."""
        self.chance.shuffle(self.members)
        for what in ("merge", "erase", "close"):
            member = self.members.pop()
            if what == "merge":
                send(workers.merge(member, self.members[0], f"merge-{self.number()}"))
            elif what == "erase":
                send(workers.erase(member))
            else:
                send(workers.become("close", member))


def fill(house: House, *, members: int, commands: int, days: int = 150, seed: int = 7) -> Shop:
    """Let so many members join and so many commands come on the way through `days`, with a sweep
    on each day on which something happens; the house's tables hold what they leave."""
    shop = Shop(random.Random(seed))  # noqa: S311  # a test, reproducible
    chapters = 12
    with house.on(0):
        workers.done(workers.publish(DOCUMENT))
    for chapter in range(chapters):
        with house.on(chapter * days // chapters + 1):
            house.sweep()
            for _ in range(members // chapters + (chapter < members % chapters)):
                shop.enrol()
            for _ in range(commands // chapters if shop.members else 0):
                shop.happen()
            if chapter in (5, 9) and len(shop.members) > 6:
                shop.leave()
    return shop
