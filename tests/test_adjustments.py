"""Points that staff give or take: with a reason, and a second person where they are many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import publish
from loyalty import adjusting, edge
from loyalty.commands import Adjustment
from loyalty.dates import milliseconds
from loyalty.decisions import Guard, Record
from loyalty.model import Account, Known
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests import workers
from tests.programs import shop, smallest
from tests.strategies import instant
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
    call = workers.adjust(**{"member_id": "ana", "points": points, "key": key, **more})
    return replace(call, scope="loyalty/staff", subject=by)


def settle(how: str, identity: str, by: str) -> Call:
    return replace(workers.settle(how, identity, by), scope="loyalty/staff")


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
    assert done(adjust(-40, "four"))["balance"] == 0


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
    if code == "expires_too_early":
        assert [error["pointer"] for error in answer.body["errors"]] == ["/expires_on"]
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


@pytest.mark.parametrize("how", ["nothing", "approve", "refuse", "erase"])
def test_the_repeat_of_a_proposal_is_its_first_answer_whatever_became_of_it(
    house: House, how: str
) -> None:
    house.open(**MANY)
    call = adjust(500, "large", note="A long story.", expires_on="2030-01-01")
    first = send(call)
    assert (first.status, first.body["note"]) == (202, "A long story.")
    if how == "erase":
        done(workers.erase("ana"))
    elif how != "nothing":
        done(settle(how, first.body["adjustment_id"], "kim"))
    with house.on(8):
        again = send(call)
    assert (again.status, again.replayed, again.body) == (202, True, first.body)


ONE_KEY = {
    "adjustment": lambda key: adjust(10, key),
    "larger adjustment": lambda key: adjust(501, key),
    "redemption": lambda key: workers.redeem("ana", key, points=10),
    "hold": lambda key: workers.redeem("ana", key, points=10, hold=True),
    "check-in": lambda key: workers.check_in("ana", key),
    "transfer": lambda key: workers.transfer(
        key, from_member_id="ana", to_member_id="ben", points=10
    ),
    "merge": lambda key: workers.merge("ben", "ana", key),
    "block": lambda key: workers.become("block", "ana", key),
    "enrolment": lambda key: workers.enrol(key=key),
}


@pytest.mark.parametrize("settled", ["", "approve", "refuse"])
def test_under_the_key_of_a_proposal_nothing_else_is_carried_out(
    house: House, settled: str
) -> None:
    visit = {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}}
    done(workers.publish(shop(**MANY, rules=[REVIEW, visit], transfers={})))
    for member_id in ("ana", "ben"):
        done(workers.enrol(member_id))
    done(workers.award("review", "ana"))
    identity = send(adjust(500, "large")).body["adjustment_id"]
    if settled:
        done(settle(settled, identity, "kim"))
    before = Books.read(house.direct, house.tables)
    for what, call in ONE_KEY.items():
        answer = send(call("large"))
        assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused"), what
    assert Books.read(house.direct, house.tables) == before
    workers.proved(house.direct, house.tables)


def test_nothing_is_proposed_under_the_key_of_something_else(house: House) -> None:
    done(workers.publish(shop(**MANY, rules=[REVIEW], transfers={})))
    for member_id in ("ana", "ben"):
        done(workers.enrol(member_id))
    done(workers.award("review", "ana"))
    others = ("redemption", "transfer", "block", "enrolment")
    for what in others:
        done(ONE_KEY[what](what))
    before = Books.read(house.direct, house.tables)
    for what in others:
        answer = send(adjust(500, what))
        assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused"), what
    assert Books.read(house.direct, house.tables) == before


def test_what_stands_under_the_key_of_a_proposal_is_no_redemption_and_no_event(
    house: House,
) -> None:
    identity = proposed(house)
    for how in (workers.capture, workers.cancel):
        answer = send(how(identity.replace("a-", "r-")))
        assert (answer.status, answer.body["code"]) == (404, "redemption_not_found")
    answer = send(workers.reverse("check-in:large", "return"))
    assert (answer.status, answer.body["code"]) == (404, "event_not_found")
    assert house.balance() == 50


def test_the_ledger_tells_who_proposed_and_nothing_personal(house: House) -> None:
    """It stands under the key, belongs to no member, and is told to nobody."""
    identity = proposed(house, note="Ana Lovelace slipped.")
    books = Books.read(house.direct, house.tables)
    [item] = [item for item in books.ledger if item["k"]["S"] == "g"]
    assert (item["pk"]["S"], item["sk"]["S"]) == ("shop#k#large", "0")
    assert "m" not in item
    assert json.loads(item["a"]["S"])["s"] == "sam"
    assert "Lovelace" not in str(books.ledger) + str(books.accounts)
    image = {"NewImage": item, "SequenceNumber": "1"}
    told = {"Records": [{"eventName": "INSERT", "dynamodb": image}]}
    assert publish.handler(told, None) == {"batchItemFailures": []}
    done(settle("approve", identity, "kim"))
    assert house.balance() == 550


@pytest.mark.parametrize(
    ("points", "more", "code", "status"),
    [
        (500, {"expires_on": NOON.date().isoformat()}, "expires_too_early", 422),
        (500, {"expires_on": "2020-01-01"}, "expires_too_early", 422),
        (500, {"member_id": "closed"}, "member_closed", 409),
        (500, {"member_id": "erased"}, "member_erased", 409),
        (500, {"member_id": "nobody"}, "member_not_found", 404),
    ],
)
def test_what_nobody_could_ever_approve_is_not_proposed(
    house: House, points: int, more: dict[str, Any], code: str, status: int
) -> None:
    house.open(**MANY)
    for member_id, end in (("closed", workers.become("close", "closed")), ("erased", None)):
        done(workers.enrol(member_id))
        done(end or workers.erase(member_id))
    before = Books.read(house.direct, house.tables)
    answer = send(adjust(points, "large", **more))
    assert (answer.status, answer.body["code"]) == (status, code)
    assert Books.read(house.direct, house.tables) == before


def test_what_may_heal_is_proposed_and_judged_when_it_is_approved(house: House) -> None:
    identity = proposed(house, -101)
    refused = send(settle("approve", identity, "kim"))
    assert (refused.status, refused.body["missing_points"]) == (409, 51)
    done(adjust(100, "more"))
    assert done(settle("approve", identity, "kim"))["balance"] == 49


def test_a_proposal_lapses_when_its_points_would_be_gone_at_once(house: House) -> None:
    expires_on = (NOON + timedelta(days=2)).date().isoformat()
    identity = proposed(house, expires_on=expires_on)
    [row] = listed()
    assert row["lapses_at"] == "2026-03-19T23:00:00Z"
    with house.on(2):
        answer = send(settle("approve", identity, "kim"))
        assert answer.body["adjustment_status"] == "lapsed"


def pages(limit: int, **query: str) -> Iterator[tuple[list[str], Any]]:
    """Each page of the list: the statuses of its proposals, and what it cost."""
    more: dict[str, str] = {}
    while True:
        with meter.measure() as used:
            query = {**query, "limit": str(limit), **more}
            page = done(Call("staff", f"GET {BASE}/adjustments", query=query))
        yield [row["status"] for row in page["items"]], used
        if page["next_cursor"] is None:
            return
        more = {"cursor": page["next_cursor"]}


def test_the_list_comes_in_pages_what_waits_first(house: House) -> None:
    house.open(**MANY)
    identities = [send(adjust(500, f"old-{i}")).body["adjustment_id"] for i in range(9)]
    with house.on(1):
        for i, identity in enumerate(identities[:6]):
            done(settle("refuse" if i % 2 else "approve", identity, "kim"))
    with house.on(7):
        for i in range(4):
            assert send(adjust(500, f"new-{i}")).status == 202
        expected = [
            *["proposed"] * 4, *["lapsed"] * 3, *["approved"] * 3, *["refused"] * 3,
        ]  # fmt: skip
        for limit in (1, 3, 4, 13, 100):
            found = [statuses for statuses, _ in pages(limit)]
            assert [status for statuses in found for status in statuses] == expected
            assert {len(statuses) for statuses in found[:-1]} <= {limit}
        for status in set(expected):
            found = [statuses for statuses, _ in pages(2, status=status)]
            assert [s for statuses in found for s in statuses] == [status] * expected.count(status)
        wrong = {"status": "refused", "cursor": edge.cursor("approved#000000000000001#a-eA")}
        for query in ({"cursor": "eA"}, {"cursor": edge.cursor("proposed#1")}, wrong):
            answer = send(Call("staff", f"GET {BASE}/adjustments", query=query))
            assert (answer.status, answer.body["code"]) == (400, "invalid_query")


def test_a_page_costs_what_it_shows_however_many_were_settled_or_have_lapsed(
    house: House,
) -> None:
    house.open(**MANY)
    identity = send(adjust(500, "old")).body["adjustment_id"]
    done(settle("approve", identity, "kim"))
    [settled] = [r for r in house.books().records if r["pk"]["S"].endswith("#approved")]
    for status in ("approved", "refused", "proposed"):
        many = [
            settled
            | {"pk": {"S": f"shop#adjustments#{status}"}, "status": {"S": status}}
            | {"sk": {"S": f"{i:015}#a-b2xk"}, "padding": {"S": "x" * 300}}
            for i in range(300)
        ]
        put = [{"PutRequest": {"Item": item}} for item in many]
        workers.put_all(house.direct, house.tables.records, put)
    for i in range(3):
        send(adjust(500, f"new-{i}"))
    [(statuses, used)] = pages(25, status="proposed")
    assert statuses == ["proposed"] * 3
    assert used.read <= 1
    statuses, used = next(pages(25, status="approved"))
    assert len(statuses) == 25
    assert used.read <= 4


def test_a_proposal_takes_nothing_from_whom_it_is_not_about(house: House) -> None:
    """An erasure reads what is held of its member, not everybody's proposals."""
    house.open(**MANY)
    done(workers.enrol("ben"))
    for i in range(20):
        send(adjust(500, f"large-{i}", note="x" * 2000))
    with meter.measure() as used:
        done(workers.erase("ben"))
    assert used.read <= 8


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


def test_of_64_who_propose_and_redeem_under_one_key_one_kind_wins(house: House) -> None:
    house.open(**MANY)
    calls = [adjust(500, "key"), workers.redeem("ana", "key", points=10)]
    with Clients() as clients:
        played = clients.play(
            house.endpoint, house.tables, [[calls[i % 2]] for i in range(64)], abreast=True
        )
    for i, mine in enumerate((202, 201)):
        statuses = {answers[0].status for answers in played.answers[i::2]}
        assert statuses in ({mine}, {422})
    [first] = [a for a in played.flat if a.status in (201, 202) and not a.replayed]
    assert house.balance() == (50 if first.status == 202 else 40)


def test_a_proposal_meets_a_member_who_moves_meanwhile(house: House) -> None:
    house.open(**MANY)
    other = workers.award("other", "ana")
    house.faults.follow({0: workers.meanwhile(other)}, of="TransactWriteItems")
    assert send(adjust(500, "large")).status == 202
    house.faults.heal()
    assert len(listed()) == 1
    assert house.balance() == 100


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


def test_a_proposal_costs_6_write_units_and_its_approval_9(house: House) -> None:
    """A plain one; with a note two more, once."""
    house.open(**MANY)
    for key, units in (("plain", 6), ("noted", 8)):
        more = {"note": "A long story."} if key == "noted" else {}
        with meter.measure() as used:
            identity = send(adjust(500, key, **more)).body["adjustment_id"]
        assert (used.write, used.read) == (units, Decimal("0.5"))
        with meter.measure() as used:
            done(settle("approve", identity, "kim"))
        assert used.write == 9


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


def test_staff_put_a_member_into_a_tier_until_a_date(house: House) -> None:
    house.open(tiers=TIERS)
    until = (NOON + timedelta(days=10)).date().isoformat()
    answer = done(workers.set_tier("ana", tier_id="gold", until=until))
    assert (answer["tier"]["id"], answer["tier"]["until"]) == ("gold", until)
    again = done(workers.set_tier("ana", tier_id="gold", until=until))
    assert again == answer  # nothing more is written
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
    done(workers.set_tier("ana", tier_id="bronze", until=until))
    assert done(workers.balance("ana"))["tier"]["id"] == "bronze"
    assert done(workers.set_tier("ana"))["tier"]["id"] == "silver"
    for body, code in (
        ({"tier_id": "none", "until": until}, "unknown_tier"),
        ({"tier_id": "gold", "until": NOON.date().isoformat()}, "expires_too_early"),
        ({"tier_id": "gold"}, "invalid_body"),
    ):
        answer = send(workers.set_tier("ana", **body))
        assert (answer.status, answer.body["code"]) == (422, code)
    house.balance()


# The record of a proposal


def test_a_proposals_record_moves_on_by_one_revision_and_says_all_it_said() -> None:
    rulebook = Rulebook(parse(smallest()), 1)
    known = Known({"ana": Account(program_id="test", member_id="ana", seq=1)})
    command = Adjustment.model_validate_json(
        '{"member_id": "ana", "points": 9, "reason_code": "goodwill", "expires_on": "2026-03-21"}'
    )
    note = Record("test#member#ana", "note#key", {"text": "She slipped."})
    now = milliseconds(NOON)
    proposed = adjusting.propose(
        rulebook, known, Guard("k#key", "0", b""), command, "sam", now, (note,)
    )
    record, beside = proposed.records
    lapses_at = instant("2026-03-21T00:00", "Europe/Paris")
    said = {
        "key": "key",
        "member_id": "ana",
        "points": 9,
        "reason_code": "goodwill",
        "expires_on": "2026-03-21",
        "by": "sam",
        "at": now,
        "lapses_at": lapses_at,
    }
    assert record.fields == said | {"status": "proposed", "noted": "ana", "revision": 1}
    assert (record.partition, beside) == ("test#adjustments#proposed", note)
    stored = {"pk": record.partition, "sk": record.sort, **record.fields}
    approved = adjusting.settled("test", stored, "approved", "tom")
    assert approved == (
        Record(record.partition, record.sort, seen=1),
        Record(
            "test#adjustments#approved",
            record.sort,
            said | {"status": "approved", "noted": "ana", "settled_by": "tom", "revision": 2},
        ),
    )
    # What was noted with one that is refused is forgotten.
    refused = adjusting.settled("test", stored, "refused", "tom")
    assert refused == (
        Record(record.partition, record.sort, seen=1),
        Record(
            "test#adjustments#refused",
            record.sort,
            said | {"status": "refused", "settled_by": "tom", "revision": 2},
        ),
        Record("test#member#ana", "note#key"),
    )
