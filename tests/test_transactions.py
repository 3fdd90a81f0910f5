"""The largest command there can be fits into one transaction of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from loyalty.redeeming import MAX_HOLDS
from loyalty.store import TRANSACTION_ITEMS
from loyalty.validation import BUDGETS_AT_ONCE
from tests import workers
from tests.faults import asked_of
from tests.programs import shop
from tests.workers import Call, House, done, send
from tools.engine import Engine, Tables

PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}
CAMPAIGNS = [
    {"campaign_id": f"c{n}", "multiplier": 2, "budget": {"points": 80_000}}
    for n in range(BUDGETS_AT_ONCE)
]
MOST_BYTES = 4_000_000


def reward(reward_id: str) -> dict[str, Any]:
    return {
        "reward_id": reward_id,
        "kind": "product",
        "name": reward_id,
        "cost": 2,
        "stock": 5,
    }


class Crowd(House):
    """Ana, whom Dora has brought: all that the two can have open, each piece of another stock."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        self.sent: list[tuple[int, int]] = []
        self.client.meta.events.register(
            "before-send.dynamodb.TransactWriteItems",
            lambda request, **_: self.sent.append(
                (len(asked_of(request)["TransactItems"]), len(request.body))
            ),
        )
        self.redemption_ids: list[str] = []

    def fill(self, *, holds: bool) -> None:
        kinds = ("paid", "ana", "dora")
        done(
            workers.publish(
                shop(
                    rules=[PER_EURO],
                    limits=[],
                    rewards=[reward(f"{k}-{n}") for k in kinds for n in range(MAX_HOLDS)],
                    campaigns=CAMPAIGNS,
                    multipliers={"combine": "add"},
                    budget={"points": 1_000_000},
                    referral={
                        "award_on": "first_purchase",
                        "min_amount": 100_000,
                        "referrer_points": 5,
                        "referred_points": 5,
                    },
                )
            )
        )
        code = done(workers.enrol("dora"))["referral_code"]
        done(workers.enrol("ana", referral_code=code))
        for who in ("ana", "dora"):
            done(workers.adjust(who, 1000, f"begin-{who}"))
        for n in range(MAX_HOLDS):
            redeemed = done(workers.redeem("ana", f"paid-{n}", reward_id=f"paid-{n}"))
            self.redemption_ids.append(redeemed["redemption_id"])
        if holds:
            self.hold()

    def hold(self) -> None:
        """As many holds as two members may have."""
        for n in range(MAX_HOLDS):
            for who in ("ana", "dora"):
                done(workers.redeem(who, f"{who}-{n}", reward_id=f"{who}-{n}", hold=True))

    def order(self) -> Call:
        lines = [{"line_id": "0", "quantity": 2, "amount": 400_000}]
        purchase = {"currency": "EUR", "lines": lines, "redemption_ids": self.redemption_ids}
        return workers.award("order", "ana", "purchase", purchase=purchase)

    @property
    def largest(self) -> int:
        """Items of the largest transaction sent, none of which was too large."""
        assert max(size for _, size in self.sent) < MOST_BYTES
        items = max(n for n, _ in self.sent)
        assert items <= TRANSACTION_ITEMS
        return items


@pytest.fixture
def crowd(engine: Engine, tables: Tables) -> Iterator[Crowd]:
    """A crowd on the day before; the test's own calls come when its holds have lapsed."""
    crowd = Crowd(engine, tables)
    with crowd.on(-1):
        yield crowd


def test_the_largest_award_is_one_transaction(crowd: Crowd) -> None:
    """A refund waits for it, as many redemptions have paid for it as may, it draws on as many
    budgets as there may be, and pays a referral; the holds of both members have lapsed."""
    crowd.fill(holds=True)
    half = [{"line_id": "0", "quantity": 1}]
    assert send(workers.reverse("order", "back", lines=half)).status == 202
    with crowd.on(0):
        answer = send(crowd.order())
    assert answer.status == 201, answer.body
    # Two members, the slot, vouchers, budgets, stocks of redemptions and of holds.
    assert crowd.largest == 4 + 1 + 20 + (BUDGETS_AT_ONCE + 1) + 20 + 40 == 98
    crowd.accounts()


def test_the_largest_refund_is_one_transaction(crowd: Crowd) -> None:
    crowd.fill(holds=False)
    assert send(crowd.order()).status == 201
    crowd.hold()
    crowd.sent.clear()
    with crowd.on(0):
        done(workers.reverse("order", "back"))
    assert crowd.largest == 4 + 20 + (BUDGETS_AT_ONCE + 1) + 20 + 40 == 97
    assert crowd.accounts()["dora"].balance == 1000


def test_the_largest_merge_is_one_transaction(crowd: Crowd) -> None:
    crowd.fill(holds=True)
    crowd.sent.clear()
    with crowd.on(0):
        done(workers.merge("ana", "dora", "one"))
    assert crowd.largest == 4 + 2 + 40
    crowd.accounts()


def test_the_largest_draw_from_all_budgets_is_gathered_beside_all_else(crowd: Crowd) -> None:
    """Each budget has 10,000 a shard, and is asked for several times as much."""
    crowd.fill(holds=True)
    half = [{"line_id": "0", "quantity": 1}]
    assert send(workers.reverse("order", "back", lines=half)).status == 202
    large = crowd.order()
    assert large.body is not None
    large.body["purchase"]["lines"][0]["amount"] = 15_000_000
    with crowd.on(0):
        answer = send(large)
    assert answer.status == 201, answer.body
    assert crowd.largest <= TRANSACTION_ITEMS
    accounts = crowd.accounts()
    assert accounts["ana"].balance > 500_000
