"""Points from member to member: they change hands with their dates, and none is made or lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty import transfers
from loyalty.commands import Transfer
from loyalty.decisions import Decision, Guard
from loyalty.model import NEVER, Account, Entry, History, Known, NeedsHistory, Posting, Refusal
from loyalty.rules import Rulebook
from loyalty.validation import parse
from loyalty.wire import account_of
from tests import workers
from tests.programs import shop, smallest
from tests.strategies import DAY, MINUTE, instant, number
from tests.strategies import refused as coded
from tests.workers import NOON, Books, Call, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 50}}
QUIZ = {
    "rule_id": "quiz",
    "trigger": "quiz",
    "earn": {"points": 30},
    "expiry": [{"after": "P1M"}],
}


class House(workers.House):
    """The shop's handlers on fresh tables."""

    def open(self, *members: str, terms: dict[str, Any] | None = None, **more: Any) -> None:
        """Publish a program with transfers, and enrol members with 50 points each."""
        document = shop(
            **({"rules": [REVIEW, QUIZ], "limits": [], "rewards": []} | more), transfers=terms or {}
        )
        done(workers.publish(document))
        for member in members:
            done(workers.enrol(member))
            done(workers.award(f"review-{member}", member))

    def balances(self) -> dict[str, int]:
        """Every member's balance, after all entries have been found true."""
        members = workers.proved(self.direct, self.tables)
        return {member_id: account.balance for member_id, (account, _) in members.items()}


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    house = House(engine, tables)
    with house.on(0):
        yield house


def sent(to: str, points: int, key: str, sender: str | None = "ana") -> Call:
    body: dict[str, Any] = {"to_member_id": to, "points": points}
    if sender is not None:
        body["from_member_id"] = sender
    return workers.transfer(key, **body)


def refused(call: Call, code: str, **more: Any) -> None:
    answer = send(call)
    assert (answer.status, answer.body["code"]) in ((409, code), (404, code)), answer.body
    assert {name: answer.body.get(name) for name in more} == more


def test_points_change_hands_in_spending_order_with_their_dates(house: House) -> None:
    house.open("ana", "ben")
    done(workers.award("quiz", "ana", "quiz"))
    answer = done(sent("ben", 40, "one"))
    soon, later = answer["lots"]
    assert (soon["points"], later["points"]) == (30, 10)
    assert soon["expires_on"] < later["expires_on"]
    assert (answer["points"], answer["balances"]) == (40, {"ana": 40, "ben": 90})
    assert answer["transfer_id"] == "t-b25l"  # the key, in base 64
    assert house.balances() == {"ana": 40, "ben": 90}
    expiring = done(workers.balance("ben"))["expiring"]
    assert expiring[0] == {"points": 30, "expires_on": soon["expires_on"]}


def test_it_counts_for_nothing_but_the_balance(house: House) -> None:
    house.open("ana", "ben")
    done(sent("ben", 40, "one"))
    assert done(workers.balance("ben"))["lifetime_points"] == 50
    for who, points in (("ana", -40), ("ben", 40)):
        row = done(workers.entries(who))["items"][0]
        assert (row["kind"], row["points"]) == ("transfer", points)
        assert row["reason"] == ("sent" if points < 0 else "received")


def test_a_repeat_gets_the_first_answer_and_another_body_none(house: House) -> None:
    house.open("ana", "ben")
    first = send(sent("ben", 40, "one"))
    again = send(sent("ben", 40, "one"))
    assert (again.replayed, again.body) == (True, first.body)
    other = send(sent("ben", 41, "one"))
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    assert house.balances() == {"ana": 10, "ben": 90}


def test_members_send_their_own_and_see_their_own(house: House) -> None:
    house.open("ana", "ben")
    own = workers.by_member(sent("ben", 10, "one", None), "ana")
    assert done(own)["balances"] == {"ana": 40}
    assert send(own).body["balances"] == {"ana": 40}
    stranger = workers.by_member(sent("cleo", 10, "two", "ben"), "ana")
    assert send(stranger).status == 403


def test_what_the_program_does_not_allow_is_refused_with_its_reason(house: House) -> None:
    house.open("ana", "ben", terms={"min_points": 10, "new_member_wait": "P7D"})
    refused(sent("ben", 9, "one"), "transfer_refused", reason="min_points")
    refused(
        sent("ben", 10, "two"),
        "transfer_refused",
        reason="new_member",
        available_on=(NOON + timedelta(days=7)).date().isoformat(),
    )
    refused(sent("ana", 10, "three"), "same_member")
    refused(sent("nobody", 10, "four"), "member_not_found")
    with house.on(7):
        refused(sent("ben", 51, "five"), "insufficient_points", missing_points=1)
        done(sent("ben", 10, "six"))
    assert house.balances() == {"ana": 40, "ben": 60}


def test_without_transfers_none_is_made(house: House) -> None:
    house.open("ana", "ben", terms={"enabled": False})
    before = Books.read(house.direct, house.tables)
    refused(sent("ben", 10, "one"), "transfer_refused", reason="disabled")
    assert Books.read(house.direct, house.tables) == before


def test_limits_count_what_was_sent_in_their_window(house: House) -> None:
    house.open("ana", "ben", terms={"limits": [{"points": 30, "per": "day"}]})
    done(sent("ben", 20, "one"))
    refused(sent("ben", 11, "two"), "limit_reached")
    assert next_allowed(sent("ben", 30, "all of a day")) == "2026-03-18T23:00:00Z"
    assert "next_allowed_at" in send(sent("ben", 11, "two")).body
    done(sent("ben", 10, "three"))
    with house.on(1):
        done(sent("ben", 20, "four"))
    assert house.balances() == {"ana": 0, "ben": 100}


def next_allowed(call: Call) -> str | None:
    answer = send(call)
    assert (answer.status, answer.body["code"]) == (409, "limit_reached")
    at: str | None = answer.body.get("next_allowed_at")
    return at


def test_the_next_time_is_that_of_all_limits_in_the_way(house: House) -> None:
    """A Wednesday: the day ends before the week does."""
    limits = [{"points": 30, "per": "day"}, {"points": 40, "per": "week"}]
    house.open("ana", "ben", terms={"limits": limits})
    done(sent("ben", 30, "one"))
    assert next_allowed(sent("ben", 10, "two")) == "2026-03-18T23:00:00Z"
    assert next_allowed(sent("ben", 11, "three")) == "2026-03-22T23:00:00Z"
    # As much as the day allows, and not more.
    assert next_allowed(sent("ben", 30, "four")) == "2026-03-22T23:00:00Z"


@pytest.mark.parametrize(
    ("limits", "points"),
    [
        ([{"points": 30, "per": "day"}, {"points": 45, "per": "ever"}], 25),
        ([{"points": 45, "per": "ever"}, {"points": 30, "per": "day"}], 25),
        ([{"points": 30, "per": "day"}], 31),
        ([{"points": 30, "per": "day"}, {"points": 35, "per": "week"}], 31),
    ],
    ids=["ever", "ever first", "more than the limit", "more than one of them"],
)
def test_no_time_is_promised_for_what_is_never_allowed(
    house: House, limits: list[dict[str, Any]], points: int
) -> None:
    house.open("ana", "ben", "cleo", terms={"limits": limits})
    done(sent("ben", 30, "one"))
    with house.on(1):
        done(workers.award("more", "ana"))
        if "ever" in {limit["per"] for limit in limits}:
            done(sent("ben", 10, "two"))
        assert next_allowed(sent("ben", points, "three")) is None


def test_fresh_points_stay_with_who_earned_them(house: House) -> None:
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"})
    refused(sent("ben", 1, "one"), "insufficient_points", missing_points=1, fresh_points=50)
    with house.on(3):
        done(workers.award("quiz", "ana", "quiz"))
        refused(sent("ben", 51, "two"), "insufficient_points", missing_points=1, fresh_points=30)
        answer = done(sent("ben", 50, "three"))
        assert [lot["points"] for lot in answer["lots"]] == [50]
    assert house.balances() == {"ana": 30, "ben": 100}


def test_points_that_were_pending_are_fresh_from_when_they_are_available(house: House) -> None:
    """Whether or not the day was written down: by nobody, by the sweep, by another command."""
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"}, pending={"review": "P14D"})
    for days in (14, 16):
        with house.on(days):
            refused(sent("ben", 1, "a"), "insufficient_points", missing_points=1, fresh_points=50)
    with house.on(16):
        house.sweep()
        refused(sent("ben", 1, "b"), "insufficient_points", missing_points=1, fresh_points=50)
        done(workers.award("quiz", "ana", "quiz"))
        refused(sent("ben", 1, "c"), "insufficient_points", missing_points=1, fresh_points=80)
    with house.on(17):
        refused(sent("ben", 51, "d"), "insufficient_points", missing_points=1, fresh_points=30)
        assert done(sent("ben", 50, "e"))["points"] == 50
    house.balances()


def test_a_hold_that_lapsed_makes_nothing_fresh(house: House) -> None:
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"})
    with house.on(5):
        done(workers.redeem("ana", "held", points=50, hold=True))
    with house.on(5.5):
        house.sweep()
        assert done(sent("ben", 50, "one"))["points"] == 50


def bought(event_id: str, points: int, **more: Any) -> Call:
    return workers.purchase(event_id, "ana", points * 100, **more)


PER_EURO = {"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}
ONE_DATE = {"expiry": [{"dates": ["12-31"]}], "rules": [REVIEW, PER_EURO]}
"""All points expire on the same date, so that they stand in one lot."""


def test_what_was_returned_freezes_no_older_points(house: House) -> None:
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"}, **ONE_DATE)
    with house.on(5):
        done(bought("order", 80))
        done(workers.reverse("order", "half", amount=4000))
        refused(sent("ben", 51, "a"), "insufficient_points", missing_points=1, fresh_points=40)
        done(workers.reverse("order", "rest"))
        refused(sent("ben", 51, "b"), "insufficient_points", missing_points=1)
        assert done(sent("ben", 50, "c"))["points"] == 50
    assert house.balances() == {"ana": 0, "ben": 100}


def test_what_came_back_before_it_was_bought_freezes_nothing(house: House) -> None:
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"}, **ONE_DATE)
    with house.on(5):
        assert send(workers.reverse("order", "early")).status == 202
        done(bought("order", 80))
        assert done(sent("ben", 50, "one"))["points"] == 50


def test_the_return_of_an_old_purchase_frees_no_fresh_points(house: House) -> None:
    house.open("ana", "ben", terms={"fresh_points_wait": "P3D"}, **ONE_DATE)
    done(bought("old", 40))
    with house.on(5):
        done(bought("new", 40))
        done(workers.reverse("old", "return"))
        refused(sent("ben", 51, "a"), "insufficient_points", missing_points=1, fresh_points=40)
        assert done(sent("ben", 50, "b"))["points"] == 50


def test_the_return_of_what_was_pending_frees_what_had_become_available_and_no_more(
    house: House,
) -> None:
    terms = {"fresh_points_wait": "P3D"}
    house.open("ana", "ben", terms=terms, pending={"purchase": "P14D"}, **ONE_DATE)
    done(bought("one", 40))
    with house.on(13):
        done(bought("two", 30))
        done(workers.adjust("ana", 20, "gift"))
    with house.on(15):
        # Points that are pending still take nothing from those that are fresh.
        done(workers.reverse("two", "return"))
        refused(sent("ben", 51, "a"), "insufficient_points", missing_points=1, fresh_points=60)
        # The event is older than what is fresh; its points are not.
        done(workers.reverse("one", "return"))
        refused(sent("ben", 51, "b"), "insufficient_points", missing_points=1, fresh_points=20)
        assert done(sent("ben", 50, "c"))["points"] == 50


def test_a_blocked_member_sends_nothing_and_may_receive(house: House) -> None:
    house.open("ana", "ben", "cleo")
    done(workers.become("block", "ana"))
    refused(sent("ben", 10, "one"), "member_blocked")
    done(sent("ana", 10, "two", "ben"))
    done(workers.become("close", "ben"))
    refused(sent("ben", 10, "three", "ben"), "same_member")
    refused(sent("ben", 10, "four", "cleo"), "member_closed")
    assert house.balances() == {"ana": 60, "ben": 40, "cleo": 50}


def test_what_the_receiver_owes_is_paid_first(house: House) -> None:
    house.open("ana", "ben", refunds={"shortfall": "debt"})
    done(workers.redeem("ben", "spent", points=50))
    done(workers.reverse("review-ben", "return"))
    done(sent("ben", 20, "one"))
    balance = done(workers.balance("ben"))
    assert (balance["available"], balance["debt"]) == (0, 30)


def test_a_transfer_reaches_a_member_whom_inactivity_had_emptied(house: House) -> None:
    house.open("ben", expiry=[{"inactive_for": "P1M"}])
    with house.on(60):
        done(workers.enrol("ana"))
        done(workers.award("new", "ana"))
        done(sent("ben", 20, "one"))
        assert done(workers.balance("ben"))["available"] == 20


def test_it_costs_ten_write_units_and_one_read_unit(house: House) -> None:
    house.open("ana", "ben")
    with meter.measure() as used:
        done(sent("ben", 10, "one"))
    assert (used.write, used.read) == (10, 1)


def test_nothing_is_lost_where_the_clock_of_the_receivers_server_was_ahead(house: House) -> None:
    """The receiver was written to after the sender's points have expired: then nothing is sent."""
    house.open("ana", "ben", rules=[{**REVIEW, "expiry": [{"after": "P1M"}]}, QUIZ])
    with house.on(30.45):  # 00:48 in Paris
        done(workers.award("tomorrow", "ben"))
    with house.on(30.4):
        refused(sent("ben", 40, "one"), "insufficient_points", missing_points=40)
    assert house.balances()["ben"] == 50


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_sends_once(house: House, fault: Any) -> None:
    house.open("ana", "ben")
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(sent("ben", 10, "one"))["balances"] == {"ana": 40, "ben": 60}
    house.faults.heal()
    assert house.balances() == {"ana": 40, "ben": 60}


def test_a_ring_of_members_keeps_its_total_at_every_look_on_a_faulty_wire(house: House) -> None:
    ring = [f"member-{i}" for i in range(16)]
    house.open(*ring)
    chance = random.Random(7)  # noqa: S311  # reproducible
    scripts = [
        [
            sent(ring[(i + 1) % 16], chance.randint(1, 40), f"{client}-{n}", ring[i])
            for n, i in enumerate(chance.sample(range(16), 3))
        ]
        for client in range(64)
    ]
    table = house.tables.accounts
    everybody: Any = [
        {"Get": {"TableName": table, "Key": {"pk": {"S": f"shop#{member}"}}}} for member in ring
    ]
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        """Read all accounts at one moment, until it is over."""
        while not over.wait(0.01):
            answer = house.direct.transact_get_items(TransactItems=everybody)
            found = [account_of(each["Item"]) for each in answer["Responses"]]
            seen.append(sum(account.balance for account in found))

    with Clients() as clients, ThreadPoolExecutor(1) as reader:
        looking = reader.submit(look)
        try:
            clients.play(house.endpoint, house.tables, scripts, seed=3, faults_in_thousand=30)
        finally:
            over.set()
        looking.result()
    assert len(seen) >= 10
    assert set(seen) == {16 * 50}
    balances = house.balances()
    assert sum(balances.values()) == 16 * 50
    assert min(balances.values()) >= 0


def test_64_clients_at_once_send_exactly_what_the_limit_allows(house: House) -> None:
    house.open("ana", "ben", terms={"limits": [{"points": 30, "per": "day"}]})
    scripts = [[sent("ben", 10, f"key-{i}")] for i in range(64)]
    with Clients() as clients:
        played = clients.play(house.endpoint, house.tables, scripts)
    assert sum(answer.status == 201 for answer in played.flat) == 3
    assert house.balances() == {"ana": 20, "ben": 80}


# Any lots, without a table

LOTS = st.dictionaries(st.sampled_from([*range(20_600, 20_610), NEVER]), st.integers(1, 90)).map(
    lambda lots: tuple(sorted(lots.items()))
)


@given(LOTS, LOTS, st.integers(0, 200), st.integers(1, 300))
def test_a_transfer_makes_and_destroys_nothing_and_keeps_every_date(
    mine: Any, theirs: Any, debt: int, points: int
) -> None:
    rulebook = Rulebook(parse(smallest(transfers={})), 1)
    ana = Account(program_id="test", member_id="ana", seq=1, lots=mine)
    ben = Account(program_id="test", member_id="ben", seq=1, lots=() if debt else theirs, debt=debt)
    known = Known({"ana": ana, "ben": ben})
    command = Transfer(to_member_id="ben", points=points)
    guard = Guard("k#key", "0", b"")
    now = 1_770_000_000_000
    if points > ana.available:
        with pytest.raises(Refusal):
            transfers.transfer(rulebook, known, guard, command, "ana", now)
        return
    one, other = transfers.transfer(rulebook, known, guard, command, "ana", now).entries
    after, later = ana.after(replace(one)), ben.after(other)
    assert (ana.balance - after.balance, later.balance - ben.balance) == (points, points)
    gone = {end: n - dict(after.lots).get(end, 0) for end, n in ana.lots}
    for end, n in later.lots:
        assert n - dict(ben.lots).get(end, 0) <= gone.get(end, 0)
    assert sum(gone.values()) == points


# What is fresh, by the entries of a history: ana has 100 points that end at FAR and 100 at NEAR,
# and of those that came since the 16th none is sent.

NEAR, FAR = 20_600, 20_700
SINCE = instant("2026-03-16T00:00", "Europe/Paris")
TODAY, FIRST = number("2026-03-18"), number("2026-03-16")
REFUND: dict[str, Any] = {"kind": "reverse", "sort": "r#1"}


def came(end: int, points: int, partition: str = "e#one", **more: Any) -> Entry:
    """An entry that brought points on the 16th, or what `more` says."""
    fields: dict[str, Any] = {
        "member_id": "ana",
        "kind": "award",
        "recorded_at": SINCE,
        "postings": (Posting("award", FIRST, lots=((end, points),)),),
    }
    return Entry(
        program_id="test",
        seq=2,
        partition=partition,
        version=1,
        occurred_at=SINCE,
        balance=0,
        **fields | more,
    )


def claimed(end: int, points: int, partition: str = "e#one", **more: Any) -> Entry:
    """The entry of a refund that took so much of what its event had given."""
    gone = Posting("reverse", FIRST, lots=((end, -points),))
    told = {"explanation": {"t": [[end, points]]}, "postings": (gone,)}
    return came(end, 0, partition, **REFUND | told | more)


def sending(points: int, *entries: Entry, since: int = SINCE, **more: Any) -> Decision:
    document = smallest(transfers={"fresh_points_wait": "P3D"}, **more)
    lots = ((NEAR, 100), (FAR, 100))
    ana = Account(program_id="test", member_id="ana", seq=9, lots=lots, joined_on=1)
    ben = Account(program_id="test", member_id="ben", seq=1)
    known = Known({"ana": ana, "ben": ben}, History(since, entries))
    command = Transfer(to_member_id="ben", points=points)
    now = instant("2026-03-18T12:00", "Europe/Paris")
    guard = Guard("k#key", "0", b"")
    return transfers.transfer(Rulebook(parse(document), 1), known, guard, command, "ana", now)


def pending(start: int, points: int, **more: Any) -> Entry:
    posting = Posting("award", FIRST - 9, pending=((start, FAR, points),))
    return came(FAR, 0, postings=(posting,), **{"recorded_at": SINCE - 9 * DAY} | more)


ACTIVATED = came(
    FAR,
    0,
    "e#later",
    postings=(Posting("activate", FIRST, lots=((FAR, 40),), pending=((FIRST, FAR, -40),)),),
)


@pytest.mark.parametrize(
    ("entries", "fresh"),
    [
        ([], 0),
        ([came(FAR, 40)], 40),
        ([came(FAR, 1)], 1),
        ([came(FAR, 40), came(FAR, 7, "e#two"), came(NEAR, 5, "e#three")], 52),
        ([came(FAR, 400)], 100),
        ([came(FAR + 1, 40)], 0),
        ([came(FAR, 40, recorded_at=SINCE - 1)], 0),
        ([came(FAR, 40, member_id="cleo")], 0),
        # What a redemption gives back was there before.
        ([came(FAR, 0, postings=(Posting("cancel", FIRST, lots=((FAR, 40),)),))], 0),
        ([came(FAR, 0, postings=(Posting("lapse", FIRST, lots=((FAR, 40),)),))], 0),
        # Pending points are fresh from the day on which they are available.
        ([ACTIVATED], 40),
        ([came(FAR, 0, postings=(Posting("activate", FIRST - 1, lots=((FAR, 40),)),))], 0),
        # What was taken back is there no more, and takes nothing from what came otherwise.
        ([claimed(FAR, 40), came(FAR, 40)], 0),
        ([claimed(FAR, 1), came(FAR, 1)], 0),
        ([claimed(FAR, 39), came(FAR, 40)], 1),
        ([claimed(FAR, 30), claimed(FAR, 30), came(FAR, 50, "e#two"), came(FAR, 40)], 50),
        ([claimed(FAR, 30), came(FAR, 50, "e#two"), came(FAR, 40, recorded_at=SINCE - 1)], 50),
        (
            [
                claimed(FAR, 0, explanation={"t": [[FAR, 30], [NEAR, 9]]}),
                came(FAR, 40),
                came(NEAR, 4, recorded_at=SINCE - 1),
            ],
            10,
        ),
        # An event of before, whose points became available on the first day that counts.
        ([claimed(FAR, 30), ACTIVATED, pending(FIRST, 40)], 10),
        ([claimed(FAR, 1), ACTIVATED, pending(FIRST, 1)], 39),
        ([claimed(FAR, 30), ACTIVATED, pending(FIRST - 1, 40)], 40),
    ],
)
def test_what_came_lately_is_not_sent(entries: list[Entry], fresh: int) -> None:
    since = SINCE - 99 * DAY
    answer = sending(200 - fresh, *entries, since=since)
    assert -answer.entries[0].points == 200 - fresh
    more = {"fresh_points": fresh} if fresh else {}
    with coded("insufficient_points", missing_points=1, **more):
        sending(201 - fresh, *entries, since=since)


@pytest.mark.parametrize(
    ("entries", "since"),
    [
        # What came since the first day that counts is enough, where all events are among it.
        ([came(FAR, 40)], SINCE),
        ([claimed(FAR, 30), came(FAR, 40)], SINCE),
        ([claimed(NEAR, 30, "e#old"), came(FAR, 40)], SINCE),
        # An older event may have given points that waited until that day.
        ([claimed(FAR, 30, "e#old"), came(FAR, 40)], SINCE - 14 * DAY - 5 * MINUTE),
        (
            [claimed(FAR, 0, "e#old", explanation={"t": [[NEAR, 1], [FAR, 2]]}), came(FAR, 40)],
            SINCE - 14 * DAY - 5 * MINUTE,
        ),
    ],
)
def test_the_history_is_asked_for_no_further_back_than_it_matters(
    entries: list[Entry], since: int
) -> None:
    waits = {"pending": {"review": "P14D", "purchase": "P7D"}}
    sending(1, *entries, since=since, **waits)
    with pytest.raises(NeedsHistory) as asked:
        sending(1, *entries, since=since + 1, **waits)
    assert asked.value.since == since


def test_the_receivers_entry_stands_beside_the_senders_under_one_key() -> None:
    one, other = sending(5).entries
    assert (one.partition, one.sort, other.partition, other.sort) == ("k#key", "0", "k#key", "to")
    assert (one.reason, other.reason) == ("sent", "received")


def test_a_member_of_whom_nobody_knows_since_when_waits_for_nothing() -> None:
    rulebook = Rulebook(parse(smallest(transfers={"new_member_wait": "P7D"})), 1)
    ana = Account(program_id="test", member_id="ana", seq=1, lots=((NEVER, 9),))
    ben = Account(program_id="test", member_id="ben", seq=1)
    known = Known({"ana": ana, "ben": ben})
    command = Transfer(to_member_id="ben", points=9)
    now = instant("2026-03-18T12:00", "Europe/Paris")
    guard = Guard("k#key", "0", b"")
    assert transfers.transfer(rulebook, known, guard, command, "ana", now).entries[0].points == -9
    new = Known({"ana": replace(ana, joined_on=TODAY - 6), "ben": ben})
    with coded("transfer_refused", reason="new_member", available_on="2026-03-19"):
        transfers.transfer(rulebook, new, guard, command, "ana", now)


@pytest.mark.usefixtures("house")
def test_a_shop_that_names_no_sender_is_told_which_field_it_lacks() -> None:
    answer = send(sent("ben", 5, "gift", sender=None))
    assert answer.status == 422
    assert [error["pointer"] for error in answer.body["errors"]] == ["/from_member_id"]
