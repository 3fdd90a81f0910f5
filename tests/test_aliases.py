"""An id that was merged into another stands for it for ever, however often that one was merged on:
everything that is done under it is done to the member who is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from loyalty import edge
from loyalty.model import Account, Broken, Known
from loyalty.wire import account_item
from tests import workers
from tests.programs import shop
from tests.workers import Call, House, done, send
from tools import meter
from tools.engine import Engine, Tables

HOPS = 30
FIRST, LAST = "m0", f"m{HOPS}"


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A shop with a member whose first id leads to the last one over all others."""
    house = House(engine, tables)
    with house.on(-60):
        done(workers.publish(shop(transfers={"fresh_points_wait": "P3D"})))
        done(workers.enrol(FIRST))
        done(workers.enrol("dora"))
        done(workers.purchase("first", FIRST, 20_000))
        paid = done(workers.redeem(FIRST, "paid", points=20))["redemption_id"]
        more = {"currency": "EUR", "redemption_ids": [paid]}
        lines = [{"line_id": "0", "quantity": 1, "amount": 1000}]
        bought = more | {"lines": lines}
        done(workers.award("paid-for", FIRST, "purchase", purchase=bought))
        for i in range(HOPS):
            done(workers.enrol(f"m{i + 1}"))
            done(workers.merge(f"m{i}", f"m{i + 1}", f"merge-{i}"))
    with house.on(0):
        yield house


COMMANDS: dict[str, tuple[Call, int | None]] = {
    "purchase": (workers.purchase("order", FIRST, 1500), 15),
    "late purchase": (
        workers.purchase("late", FIRST, 0, 1500, occurred_at="2026-01-20T12:00:00Z"),
        35,
    ),
    "refund of its first purchase": (workers.reverse("first", "back"), -200),
    "refund of what its points paid for": (workers.reverse("paid-for", "back"), -10 + 20),
    "check-in": (workers.check_in(FIRST, "visit"), 5),
    "redemption": (workers.redeem(FIRST, "pay", points=10), -10),
    "cancellation": (workers.cancel("r-cGFpZA"), 20),
    "transfer": (
        workers.transfer("gift", from_member_id=FIRST, to_member_id="dora", points=50),
        -50,
    ),
    "transfer to it": (
        workers.transfer("gift", from_member_id="dora", to_member_id=FIRST, points=50),
        50,
    ),
    "adjustment": (workers.adjust(FIRST, 7, "small"), 7),
    "merge": (workers.merge(FIRST, "dora", "merge-on"), None),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_reaches_the_member_over_any_number_of_merges(house: House, name: str) -> None:
    call, points = COMMANDS[name]
    before = edge.store().member("shop", FIRST).balance
    answer = send(call)
    assert answer.status in (200, 201), answer.body
    assert send(call).replayed
    accounts = house.accounts()
    if points is None:
        assert accounts[LAST].merged_into == "dora"
    else:
        assert accounts[LAST].balance == before + points


@pytest.mark.usefixtures("house")
def test_a_merge_on_the_way_costs_half_a_read_unit_more() -> None:
    done(workers.purchase("before", FIRST, 100))  # the process knows the program now
    with meter.measure() as units:
        done(workers.purchase("order", FIRST, 100))
    assert (units.write, units.read) == (5, Decimal(HOPS + 1) / 2)


@pytest.mark.usefixtures("house")
def test_a_refusal_is_given_over_any_number_of_merges() -> None:
    answer = send(workers.redeem(FIRST, "pay", points=1_000_000))
    assert answer.body["code"] == "insufficient_points"


@pytest.mark.usefixtures("house")
def test_what_is_read_under_the_first_id_is_the_last_ones() -> None:
    balance = done(workers.balance(FIRST))
    assert balance == done(workers.balance(LAST))
    assert done(workers.entries(FIRST)) == done(workers.entries(LAST))
    assert done(workers.rewards(FIRST)) == done(workers.rewards(LAST))
    assert done(workers.profile(FIRST))["member_id"] == LAST
    found: Any = done(workers.export(FIRST, limit="100"))
    assert sorted(found["merged_member_ids"]) == sorted(f"m{i}" for i in range(HOPS))


def test_a_referral_is_paid_to_who_the_referrer_is_by_now(house: House) -> None:
    sections = {"referral": {"award_on": "first_purchase", "referrer_points": 40}}
    first = edge.store().entry("shop", f"m#{FIRST}")
    assert first is not None
    done(workers.publish(shop(**sections), 1))
    with house.on(1):
        done(workers.enrol("fred", referral_code=first.answer["c"]))
        before = house.accounts()[LAST].balance
        done(workers.purchase("of-fred", "fred", 1000))
        assert house.accounts()[LAST].balance == before + 40
        done(workers.reverse("of-fred", "back"))
        assert house.accounts()[LAST].balance == before


def test_erasing_the_first_id_erases_the_last(house: House) -> None:
    done(workers.erase(FIRST))
    assert house.accounts()[LAST].status == "erased"
    assert send(workers.purchase("order", FIRST, 100)).body["code"] == "member_erased"


def test_a_circle_of_aliases_is_a_defect_and_no_endless_search(house: House) -> None:
    """No command can make one."""
    for member_id, other in (("x", "y"), ("y", "x")):
        account = Account(
            program_id="shop", member_id=member_id, seq=1, status="merged", merged_into=other
        )
        house.direct.put_item(
            TableName=house.tables.accounts, Item=account_item(replace(account, hash=bytes(32)))
        )
    with pytest.raises(Broken):
        edge.store().member("shop", "x")
    assert send(workers.purchase("order", "x", 100)).status == 500
    with pytest.raises(Broken):
        Known({"x": account, "y": replace(account, merged_into="x")}).account("x")
