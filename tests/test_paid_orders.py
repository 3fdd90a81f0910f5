"""What paid for an order that comes back: points go home, and what they had bought ends with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from loyalty.decisions import stock_id
from loyalty.model import Account
from tests import workers
from tests.faults import Fault
from tests.programs import shop
from tests.workers import Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
FIVE_OFF = {
    "reward_id": "five-off",
    "kind": "discount",
    "cost": 40,
    "discount": {"amount": 500},
    "stock": 5,
    "limits": [{"times": 1, "per": "ever"}],
    "voucher_validity": "P30D",
}
PLENTY = FIVE_OFF | {"reward_id": "plenty", "stock": 100}


class House(workers.House):
    """The shop's handlers on fresh tables; a gift gives 100 points, a purchase nothing."""

    def open(self, *members: str) -> None:
        rule = {"rule_id": "gift", "trigger": "gift", "earn": {"points": 100}}
        done(workers.publish(shop(rules=[rule], rewards=[FIVE_OFF, PLENTY])))
        for member_id in members:
            done(workers.enrol(member_id))
            done(workers.award(f"gift-{member_id}", member_id, "gift"))

    def ana(self) -> Account:
        """Ana's account, after all entries have been found true."""
        return self.accounts()["ana"]


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """An open house in which ana has 100 points."""
    house = House(engine, tables)
    with house.on(0):
        house.open("ana")
        yield house


def bought(event_id: str, *redeemed: dict[str, Any], member_id: str = "ana") -> workers.Call:
    """An order of 10.00 and 30.00 that these redemptions paid for."""
    call = workers.purchase(event_id, member_id, 1000, 3000)
    ids = [each["redemption_id"] for each in redeemed]
    return replace(
        call, body=call.body | {"purchase": call.body["purchase"] | {"redemption_ids": ids}}
    )


def taken(key: str = "till", **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = done(workers.redeem("ana", key, reward_id="five-off", **more))
    return answer


def status(redeemed: dict[str, Any]) -> str:
    shown: str = done(workers.voucher(redeemed["voucher"]["code"]))["status"]
    return shown


def pieces() -> int | None:
    return workers.left(stock_id("five-off"))


QUARTER = {"lines": [{"line_id": "0", "quantity": 1}]}


def test_an_order_that_comes_back_gives_the_points_and_takes_the_voucher(house: House) -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    answer = done(workers.reverse("order", "return"))
    assert (answer["restored_points"], answer["balance"]) == (40, 100)
    assert status(redeemed) == "cancelled"
    used = send(workers.use(redeemed["voucher"]["code"]))
    assert (used.status, used.body["code"]) == (409, "voucher_cancelled")
    # The piece and the member's limit are there again, as after a cancellation.
    assert pieces() == 5
    assert taken("again")["balance"] == 60
    assert house.ana().balance == 60


def test_the_voucher_of_a_captured_hold_ends_too(house: House) -> None:
    held = done(workers.redeem("ana", "cart", reward_id="five-off", hold=True))
    captured = done(workers.capture(held["redemption_id"]))
    done(bought("order", captured))
    assert done(workers.reverse("order", "return"))["restored_points"] == 40
    assert status(captured) == "cancelled"
    assert pieces() == 5
    assert house.ana().balance == 100


def test_a_voucher_that_was_used_stays_used_and_its_points_come_back(house: House) -> None:
    """It has bought what it was for; the order that it helped to pay is no more."""
    redeemed = taken()
    done(workers.use(redeemed["voucher"]["code"]))
    done(bought("order", redeemed))
    assert done(workers.reverse("order", "return"))["restored_points"] == 40
    assert status(redeemed) == "used"
    assert pieces() == 4
    assert send(workers.redeem("ana", "again", reward_id="five-off")).status == 409
    assert house.ana().balance == 100


def test_the_first_part_that_comes_back_ends_the_voucher_and_gives_its_piece_once(
    house: House,
) -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    first = done(workers.reverse("order", "one", **QUARTER))
    assert (first["restored_points"], first["balance"]) == (10, 70)
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    rest = done(workers.reverse("order", "rest"))
    assert (rest["restored_points"], rest["balance"]) == (30, 100)
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    taken("again")
    assert house.ana().balance == 60


def test_what_a_part_has_left_can_be_cancelled_and_gives_the_piece_once(house: House) -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    done(workers.reverse("order", "one", **QUARTER))
    answer = done(workers.cancel(redeemed["redemption_id"]))
    assert (answer["points"], answer["balance"]) == (30, 100)
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    taken("again")
    assert send(workers.redeem("ana", "third", reward_id="five-off")).body["code"] == (
        "limit_reached"
    )
    assert house.ana().balance == 60


def test_a_redemption_that_is_named_twice_is_restored_once(house: House) -> None:
    redeemed = taken()
    done(bought("order", redeemed, redeemed))
    assert done(workers.reverse("order", "return"))["restored_points"] == 40
    assert house.ana().balance == 100


def test_a_refund_that_came_first_restores_with_the_purchase(house: House) -> None:
    redeemed = taken()
    assert send(workers.reverse("order", "early")).status == 202
    answer = done(bought("order", redeemed))
    assert (answer["reversed_points"], answer["restored_points"]) == (0, 40)
    assert answer["balance"] == 100
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    again = send(bought("order", redeemed))
    assert (again.replayed, again.body) == (True, answer)
    assert house.ana().balance == 100


def test_a_part_that_came_first_is_restored_and_the_rest_follows(house: House) -> None:
    redeemed = taken()
    assert send(workers.reverse("order", "early", **QUARTER)).status == 202
    assert done(bought("order", redeemed))["restored_points"] == 10
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    assert done(workers.reverse("order", "rest"))["restored_points"] == 30
    assert pieces() == 5
    assert house.ana().balance == 100


@pytest.mark.parametrize("after_the_purchase", [False, True])
def test_what_one_has_paid_comes_back_to_the_one_that_both_became(
    house: House, after_the_purchase: bool
) -> None:
    done(workers.enrol("ben"))
    redeemed = taken()
    if after_the_purchase:
        done(bought("order", redeemed))
    done(workers.merge("ana", "ben", "merge"))
    if not after_the_purchase:
        done(bought("order", redeemed))
    assert done(workers.reverse("order", "return"))["restored_points"] == 40
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    assert done(workers.redeem("ben", "again", reward_id="five-off"))["balance"] == 60
    assert house.accounts()["ben"].balance == 60


@pytest.mark.usefixtures("house")
def test_what_somebody_else_has_paid_is_not_given_to_the_buyer() -> None:
    redeemed = taken()
    done(workers.enrol("ben"))
    done(bought("order", redeemed, member_id="ben"))
    done(bought("other", redeemed, member_id="ben"))
    assert done(workers.reverse("order", "return"))["restored_points"] == 0
    assert status(redeemed) == "issued"
    done(workers.erase("ana"))
    assert done(workers.reverse("other", "return"))["restored_points"] == 0


@pytest.mark.parametrize("fault", ["answer lost", "server error after all", "conflict"])
def test_a_lost_answer_restores_once(house: House, fault: Fault) -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.reverse("order", "return"))["balance"] == 100
    house.faults.heal()
    assert (status(redeemed), pieces()) == ("cancelled", 5)
    assert house.ana().balance == 100


def test_a_voucher_used_between_look_and_write_stays_used(house: House) -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    use = workers.meanwhile(workers.use(redeemed["voucher"]["code"]))
    house.faults.follow({0: use}, of="TransactWriteItems")
    assert done(workers.reverse("order", "return"))["restored_points"] == 40
    house.faults.heal()
    assert (status(redeemed), pieces()) == ("used", 4)
    assert house.ana().balance == 100


def test_of_uses_refunds_and_cancellations_at_once_each_voucher_ends_once(
    house: House, clients: Clients
) -> None:
    redeemed = []
    scripts: list[list[workers.Call]] = []
    for i in range(CLIENTS // 4):
        done(workers.enrol(f"m{i}"))
        done(workers.award(f"gift-{i}", f"m{i}", "gift"))
        each = done(workers.redeem(f"m{i}", f"till-{i}", reward_id="plenty"))
        done(bought(f"order-{i}", each, member_id=f"m{i}"))
        redeemed.append(each)
        scripts += [
            [workers.use(each["voucher"]["code"])],
            [workers.cancel(each["redemption_id"])],
            [workers.reverse(f"order-{i}", "part", **QUARTER)],
            [workers.reverse(f"order-{i}", "rest")],
        ]
    played = clients.play(house.endpoint, house.tables, scripts)
    ended = Counter(map(status, redeemed))
    assert ended.total() == ended["used"] + ended["cancelled"] == 16
    assert {answer.status for answer in played.flat} <= {200, 201, 409}
    assert workers.left(stock_id("plenty")) == 100 - ended["used"]
    assert {account.balance for account in house.accounts().values()} == {100}


@pytest.mark.usefixtures("house")
def test_a_voucher_that_ends_with_a_refund_costs_two_units_and_its_piece_two() -> None:
    redeemed = taken()
    done(bought("order", redeemed))
    done(bought("plain"))
    units = []
    for event_id in ("plain", "order"):
        with meter.measure() as used:
            done(workers.reverse(event_id, "return"))
        units.append((used.write, used.read))
    assert units == [(Decimal(5), Decimal("2.5")), (Decimal(9), Decimal(10))]
