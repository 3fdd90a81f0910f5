"""Points that staff give or take: with a reason, and a second person where they are many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests import workers
from tests.programs import shop
from tests.workers import BASE, NOON, Books, Call, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 50}}


class House(workers.House):
    """The shop's handlers on fresh tables; ana has 50 points."""

    def open(self, **more: Any) -> None:
        done(workers.publish(shop(rules=[REVIEW], limits=[], rewards=[], **more)))
        done(workers.enrol("ana"))
        done(workers.award("review", "ana"))

    def balance(self) -> int:
        """Ana's balance, after all entries have been found true."""
        account, _ = workers.proved(self.direct, self.tables)["ana"]
        return account.balance


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    house = House(engine, tables)
    with house.on(0):
        yield house


def adjust(points: int, key: str, by: str = "sam", **more: Any) -> Call:
    body = {"member_id": "ana", "points": points, "reason_code": "goodwill", **more}
    call = Call("staff", f"POST {BASE}/adjustments", body=body, headers={"idempotency-key": key})
    return replace(call, scope="loyalty/staff", subject=by)


def settle(how: str, identity: str, by: str) -> Call:
    path = {"adjustment_id": identity}
    call = Call("staff", f"POST {BASE}/adjustments/{{adjustment_id}}/{how}", path)
    return replace(call, scope="loyalty/staff", subject=by)


def listed(**query: str) -> list[Any]:
    answer = done(Call("staff", f"GET {BASE}/adjustments", query=query))
    items: list[Any] = answer["items"]
    return items


def test_points_are_given_with_a_reason_a_date_and_who_did_it(house: House) -> None:
    house.open()
    answer = done(adjust(100, "one", expires_on="2026-12-31"))
    assert answer["lots"] == [{"points": 100, "expires_on": "2026-12-31"}]
    said = ("status", "points", "balance", "reason_code", "adjusted_by")
    assert [answer[name] for name in said] == ["approved", 100, 150, "goodwill", "sam"]
    row = done(workers.entries("ana"))["items"][0]
    assert (row["kind"], row["points"], row["reason"]) == ("adjust", 100, "goodwill")
    balance = done(workers.balance("ana"))
    assert (balance["available"], balance["lifetime_points"]) == (150, 50)
    assert house.balance() == 150


def test_points_are_taken_in_spending_order_and_never_more_than_there_are(house: House) -> None:
    house.open()
    done(adjust(30, "one", expires_on="2026-12-31"))
    answer = done(adjust(-40, "two"))
    assert [lot["points"] for lot in answer["lots"]] == [-30, -10]
    refused = send(adjust(-41, "three"))
    assert (refused.status, refused.body["missing_points"]) == (409, 1)
    assert house.balance() == 40


@pytest.mark.parametrize(
    ("points", "more", "code"),
    [
        (0, {}, "invalid_body"),
        (-1, {"expires_on": "2030-01-01"}, "invalid_body"),
        (1, {"expires_on": NOON.date().isoformat()}, "expires_too_early"),
        (1, {"reason_code": ""}, "invalid_body"),
    ],
)
def test_what_makes_no_sense_is_refused(
    house: House, points: int, more: dict[str, Any], code: str
) -> None:
    house.open()
    before = Books.read(house.direct, house.tables)
    answer = send(adjust(points, "one", **more))
    assert (answer.status, answer.body["code"]) == (422, code)
    assert Books.read(house.direct, house.tables) == before


def test_a_repeat_gets_the_first_answer_and_another_body_none(house: House) -> None:
    house.open()
    first = send(adjust(100, "one"))
    again = send(adjust(100, "one"))
    assert (again.replayed, again.body) == (True, first.body)
    other = send(adjust(101, "one"))
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    assert house.balance() == 150


def test_a_note_stands_beside_the_profile_and_nowhere_else(house: House) -> None:
    house.open()
    done(adjust(100, "one", note="She slipped on the stairs."))
    books = Books.read(house.direct, house.tables)
    assert "slipped" not in str(books.ledger) + str(books.accounts)
    [note] = [item for item in books.records if "slipped" in str(item)]
    assert note["pk"]["S"] == "shop#member#ana"


# A second person

MANY = {"adjustments": {"second_person_above": 100}}


def proposed(house: House, points: int = 500, **more: Any) -> str:
    house.open(**MANY)
    answer = send(adjust(points, "large", **more))
    assert (answer.status, answer.body["status"]) == (202, "proposed")
    assert house.balance() == 50
    return str(answer.body["adjustment_id"])


def test_up_to_the_amount_one_person_is_enough(house: House) -> None:
    house.open(**MANY)
    assert done(adjust(100, "one"))["status"] == "approved"
    assert send(adjust(-101, "two")).status == 202


def test_another_person_approves_once(house: House) -> None:
    identity = proposed(house)
    mine = send(settle("approve", identity, "sam"))
    assert (mine.status, mine.body["code"]) == (409, "same_person")
    answer = done(settle("approve", identity, "kim"))
    assert (answer["balance"], answer["adjusted_by"], answer["approved_by"]) == (550, "sam", "kim")
    for by in ("kim", "lou"):
        again = send(settle("approve", identity, by))
        assert (again.replayed, again.body) == (True, answer)
    late = send(settle("refuse", identity, "lou"))
    assert (late.status, late.body["code"]) == (409, "adjustment_settled")
    assert (late.body["status"], late.body["adjustment_status"]) == (409, "approved")
    repeat = send(adjust(500, "large"))
    assert (repeat.status, repeat.replayed, repeat.body["status"]) == (202, True, "proposed")
    assert [row["status"] for row in listed()] == ["approved"]
    assert house.balance() == 550


def test_refused_or_withdrawn_it_never_counts(house: House) -> None:
    identity = proposed(house, note="A secret.")
    answer = send(settle("refuse", identity, "sam"))
    assert (answer.status, answer.body["status"]) == (200, "refused")
    late = send(settle("approve", identity, "kim"))
    assert late.body["code"] == "adjustment_settled"
    assert "secret" not in str(Books.read(house.direct, house.tables))
    assert house.balance() == 50


def test_after_seven_days_it_has_lapsed(house: House) -> None:
    identity = proposed(house)
    assert [row["status"] for row in listed(status="proposed")] == ["proposed"]
    with house.on(7):
        assert send(settle("approve", identity, "kim")).body["code"] == "adjustment_settled"
        assert [row["status"] for row in listed()] == ["lapsed"]
        assert listed(status="proposed") == []
    assert house.balance() == 50


def test_nobody_settles_what_was_not_proposed(house: House) -> None:
    house.open(**MANY)
    for how in ("approve", "refuse"):
        answer = send(settle(how, "a-bm9uZQ", "kim"))
        assert (answer.status, answer.body["code"]) == (404, "adjustment_not_found")


def test_of_64_who_settle_it_at_once_one_kind_wins(house: House) -> None:
    identity = proposed(house)
    scripts = [
        [settle("refuse" if i % 2 else "approve", identity, f"person-{i}")] for i in range(64)
    ]
    with Clients() as clients:
        played = clients.play(house.endpoint, house.tables, scripts)
    approved = [answer for answer in played.flat if answer.status == 201]
    refused = [a for a in played.flat if a.status == 200 and not a.replayed]
    assert bool(approved) != bool(refused)
    assert len([answer for answer in approved if not answer.replayed]) <= 1
    assert house.balance() == (550 if approved else 50)


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_gives_once(house: House, fault: Any) -> None:
    identity = proposed(house)
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(settle("approve", identity, "kim"))["balance"] == 550
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(adjust(10, "small"))["balance"] == 560
    house.faults.heal()
    assert house.balance() == 560


def test_it_costs_five_write_units(house: House) -> None:
    house.open()
    with meter.measure() as used:
        done(adjust(10, "one"))
    assert used.write == 5


# A tier set by staff

TIERS = {
    "qualify_by": "points",
    "window": "lifetime",
    "downgrade": {"steps": "none"},
    "levels": [
        {"tier_id": "bronze", "at": 0},
        {"tier_id": "silver", "at": 40, "multiplier": "2"},
        {"tier_id": "gold", "at": 1000},
    ],
}


def set_tier(**body: Any) -> Call:
    path = {"member_id": "ana"}
    return Call("staff", f"POST {BASE}/members/{{member_id}}/tier", path, body)


def test_staff_put_a_member_into_a_tier_until_a_date(house: House) -> None:
    house.open(tiers=TIERS)
    until = (NOON + timedelta(days=10)).date().isoformat()
    answer = done(set_tier(tier_id="gold", until=until))
    assert (answer["tier"]["id"], answer["tier"]["until"]) == ("gold", until)
    assert done(set_tier(tier_id="gold", until=until)) == answer  # nothing more is written
    done(workers.award("more", "ana"))
    with house.on(9):
        assert done(workers.balance("ana"))["tier"]["id"] == "gold"
    with house.on(10):
        assert done(workers.balance("ana"))["tier"]["id"] == "silver"
        done(workers.award("later", "ana"))
    kinds = [row["kind"] for row in done(workers.entries("ana"))["items"]]
    assert kinds.count("tier") == 1
    house.balance()


def test_a_set_tier_is_taken_off_again(house: House) -> None:
    house.open(tiers=TIERS)
    until = (NOON + timedelta(days=10)).date().isoformat()
    done(set_tier(tier_id="bronze", until=until))
    assert done(workers.balance("ana"))["tier"]["id"] == "bronze"
    assert done(set_tier())["tier"]["id"] == "silver"
    for body, code in (
        ({"tier_id": "none", "until": until}, "unknown_tier"),
        ({"tier_id": "gold", "until": NOON.date().isoformat()}, "expires_too_early"),
        ({"tier_id": "gold"}, "invalid_body"),
    ):
        answer = send(set_tier(**body))
        assert (answer.status, answer.body["code"]) == (422, code)
    house.balance()
