"""What a decision asks for on the way is read in a few looks, whatever the program and the data:
a program that was accepted always evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from loyalty.dates import milliseconds
from tests import workers
from tests.programs import shop
from tests.workers import NOON, Call, House, done, meanwhile, send
from tools.engine import Engine, Tables

PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}
A_DAY = milliseconds(NOON + timedelta(days=1)) - milliseconds(NOON)


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


def published(*rules: Any, **sections: Any) -> None:
    limits = sections.pop("limits", [])
    done(workers.publish(shop(rules=rules, limits=limits, rewards=[], **sections)))


def late(event_id: str, member_id: str, days: float, amount: int = 1000) -> Call:
    moment = NOON + timedelta(days=days)
    return workers.purchase(event_id, member_id, amount, occurred_at=moment.isoformat())


def test_a_late_event_meets_any_number_of_cooldowns(house: House) -> None:
    every = [
        {**PER_EURO, "rule_id": f"every-{n}", "frequency": [{"every": f"P{n}D"}]}
        for n in range(1, 31)
    ]
    with house.on(-60):
        published(*every)
        done(workers.enrol("ana"))
    with house.on(-20):
        assert done(workers.purchase("order-1", "ana", 1000))["points"] == 300
    done(workers.purchase("order-2", "ana", 1000))
    # Ten days from both: who waits no longer than that pays.
    house.faults.follow({})
    assert done(late("late", "ana", -10))["points"] == 100
    assert house.faults.operations.count("Query") == 1
    house.accounts()


def test_a_late_event_counts_every_window_at_one_look(house: House) -> None:
    pers = ("day", "week", "month", "year")
    limits = [{"points": 10 + n, "per": per} for n, per in enumerate(pers)]
    with house.on(-100):
        published(PER_EURO, limits=limits)
        done(workers.enrol("ana"))
        done(workers.purchase("order-1", "ana", 1000))
    done(workers.purchase("order-2", "ana", 1000))
    house.faults.follow({})
    # Of that day's 10 points all were given, of that month's 12 ten.
    assert done(late("late", "ana", -99.9))["points"] == 0
    assert done(late("late-2", "ana", -90))["points"] == 2
    assert house.faults.operations.count("Query") == 2
    house.accounts()


def bought(event_id: str, member_id: str, redemption_ids: list[str]) -> Call:
    lines = [{"line_id": "0", "quantity": 1, "amount": 1000}]
    purchase = {"currency": "EUR", "lines": lines, "redemption_ids": redemption_ids}
    return workers.award(event_id, member_id, "purchase", purchase=purchase)


@pytest.mark.parametrize("waits", [False, True], ids=["after its purchase", "before it"])
def test_a_refund_restores_the_most_redemptions_however_old_they_are(
    house: House, waits: bool
) -> None:
    ids = []
    with house.on(-30):
        published(PER_EURO)
        done(workers.enrol("ana"))
        done(workers.purchase("order-0", "ana", 100_000))
    for n in range(20):
        with house.on(n - 25):
            ids.append(done(workers.redeem("ana", f"pay-{n}", points=10 + n))["redemption_id"])
    commands = [bought("order", "ana", ids[::-1]), workers.reverse("order", "back")]
    for command in reversed(commands) if waits else commands:
        assert send(command).status in (201, 202)
    assert house.accounts()["ana"].balance == 1000


@pytest.mark.parametrize("waits", [False, True], ids=["after its purchase", "before it"])
def test_a_refund_of_what_many_members_have_paid_for_restores_its_own(
    house: House, waits: bool
) -> None:
    published(PER_EURO)
    ids = []
    for n in range(20):
        done(workers.enrol(f"m{n}"))
        done(workers.purchase(f"order-{n}", f"m{n}", 10_000))
        ids.append(done(workers.redeem(f"m{n}", f"pay-{n}", points=10))["redemption_id"])
    done(workers.merge("m0", "m1", "one"))
    commands = [bought("order", "m1", ids), workers.reverse("order", "back")]
    for command in reversed(commands) if waits else commands:
        assert send(command).status in (201, 202)
    accounts = house.accounts()
    assert accounts["m1"].balance == 200
    assert {accounts[f"m{n}"].balance for n in range(2, 20)} == {90}


def test_a_late_purchase_counts_how_many_friends_were_brought_in_its_own_window(
    house: House,
) -> None:
    """The member's own history was read before anybody knew of a referrer."""
    review = {"rule_id": "review", "trigger": "review", "earn": {"points": 1}}
    with house.on(-9):
        published(
            PER_EURO,
            review,
            limits=[{"points": 1000, "per": "day"}],
            referral={
                "award_on": "first_purchase",
                "referrer_points": 40,
                "limits": [{"times": 1, "per": "day"}],
            },
        )
        code = done(workers.enrol("ana"))["referral_code"]
        for friend in ("ben", "cleo", "dan"):
            done(workers.enrol(friend, referral_code=code))
    with house.on(-8):
        done(workers.purchase("order-1", "ben", 1000))
    done(workers.purchase("order-2", "cleo", 1000))
    done(workers.award("review", "dan"))
    done(late("late", "dan", -8))
    accounts = house.accounts()
    assert accounts["ana"].balance == 80
    assert accounts["dan"].balance == 11


def test_a_late_event_of_who_is_merged_while_it_is_decided_counts_what_the_other_had(
    house: House,
) -> None:
    with house.on(-9):
        published(PER_EURO, limits=[{"points": 15, "per": "day"}])
        done(workers.enrol("ana"))
        done(workers.enrol("ben"))
    with house.on(-8):
        done(workers.purchase("order-1", "ben", 1000))
    for who in ("ana", "ben"):
        done(workers.purchase(f"today-{who}", who, 1000))
    # The second look at the account, before its history is read.
    house.faults.follow({1: meanwhile(workers.merge("ana", "ben", "one"))}, of="GetItem")
    assert done(late("late", "ana", -8))["points"] == 5
    house.accounts()
