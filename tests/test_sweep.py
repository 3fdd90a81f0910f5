"""The sweep as a job: it happens once for each scheduled time, and loses nothing on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from unittest import mock

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

import expire
from loyalty import edge, store
from loyalty.store import Unavailable
from tests import workers
from tests.faults import Fault, Step, asked_of, cancelled
from tests.programs import shop, smallest
from tests.workers import NOON, House, done
from tools import meter
from tools.engine import Engine, Tables

JOB = "2027-05-01T00:04:00Z"
LATER = 420  # days; all points are gone by then
KILOBYTES = 300
MEMBERS = ("ana", "ben", "cleo", "dan", "eve")

type Message = dict[str, Any]


class Sweep:
    """A shop of five members whose points have expired, and the queue."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.queue: list[Message] = []
        self.fails_to_send = 0
        self.time_left = 900_000
        self.a_look_takes = 0

    def send(self, _url: str, bodies: list[Message]) -> None:
        if self.fails_to_send:
            self.fails_to_send -= 1
            raise Unavailable("the queue does not answer")
        self.queue += json.loads(json.dumps(bodies))

    def schedule(self, at: str = JOB) -> int:
        """Fire the schedule; how many messages it says it sent."""
        answer: dict[str, int] = expire.handler({"scheduled_time": at}, self)
        return answer["segments"]

    def deliver(self, message: Message) -> bool:
        """Whether the message is done with."""
        record = {"messageId": "1", "body": json.dumps(message)}
        return expire.handler({"Records": [record]}, self) == {"batchItemFailures": []}

    def get_remaining_time_in_millis(self) -> int:
        self.time_left -= self.a_look_takes
        return self.time_left

    def standing(self, segment: int = 0, job: str = JOB) -> dict[str, Any]:
        found = edge.store().record(expire.SWEEP, f"{job}#{segment:04}")
        assert found
        return found

    def swept(self) -> int:
        """How many members' points have been written off, each of them once."""
        members = workers.proved(self.house.direct, self.house.tables)
        kinds = [[entry.kind for entry in entries] for _, entries in members.values()]
        assert all(each.count("expire") <= 1 for each in kinds)
        return sum("expire" in each for each in kinds)


def fatten(house: House) -> None:
    """Make the accounts so large that a page of a scan holds few of them."""
    for page in house.direct.get_paginator("scan").paginate(TableName=house.tables.accounts):
        for item in page["Items"]:
            house.direct.put_item(
                TableName=house.tables.accounts,
                Item=item | {"filler": {"S": "x" * KILOBYTES * 1024}},
            )


def spoil(house: House, member_id: str) -> Callable[[], Any]:
    """Make an account unreadable; gives what mends it."""
    table, key = house.tables.accounts, {"pk": {"S": f"shop#{member_id}"}}
    whole = house.direct.get_item(TableName=table, Key=key)["Item"]
    house.direct.put_item(TableName=table, Item=whole | {"l": {"S": "?"}})
    return partial(house.direct.put_item, TableName=table, Item=whole)


@pytest.fixture
def of_a_page(engine: Engine, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A sweep of accounts that stand in one page."""
    house = House(engine, tables)
    with house.on(-1):
        done(workers.publish(shop()))
    with house.on(0):
        for member_id in MEMBERS:
            done(workers.enrol(member_id))
    sweep = Sweep(house)
    monkeypatch.setattr(store, "send_messages", sweep.send)
    monkeypatch.setattr(expire, "sweep_queue", lambda: ("queue", 1))
    with house.on(LATER):
        yield sweep


@pytest.fixture
def sweep(of_a_page: Sweep) -> Sweep:
    """One of accounts in more than one page."""
    fatten(of_a_page.house)
    return of_a_page


# The schedule


def test_a_schedule_that_fires_twice_fans_out_once(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expire, "sweep_queue", lambda: ("queue", 3))
    assert [sweep.schedule(), sweep.schedule()] == [3, 0]
    assert sorted(message["segment"] for message in sweep.queue) == [0, 1, 2]
    assert sweep.schedule("2027-05-01T01:04:00Z") == 3, "the next hour is another job"


def test_a_schedule_that_crashes_before_it_has_sent_loses_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.fails_to_send = 1
    with pytest.raises(Unavailable):
        sweep.schedule()
    assert not sweep.queue
    # A new number of segments is the next job's: two of one job would overlap and leave gaps.
    monkeypatch.setattr(expire, "sweep_queue", lambda: ("queue", 7))
    assert sweep.schedule() == 1
    assert sweep.queue == [{"scheduled_time": JOB, "segment": 0, "segments": 1}]


def test_a_schedule_without_a_time_is_named_by_the_clock(sweep: Sweep) -> None:
    expire.handler({}, sweep)
    now = (NOON + timedelta(days=LATER)).isoformat().replace("+00:00", "Z")
    assert sweep.queue[0]["scheduled_time"] == now


# Messages


def test_a_message_goes_on_where_its_segment_stands(sweep: Sweep) -> None:
    sweep.schedule()
    sweep.time_left = 0
    rounds = 0
    while sweep.queue:
        assert sweep.deliver(sweep.queue.pop(0))
        rounds += 1
        assert sweep.standing()["pages"] == rounds
    assert rounds > 1
    assert sweep.standing()["done"] == 1
    assert sweep.swept() == 5


def test_a_message_of_a_segment_that_is_done_reads_no_account(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    assert sweep.deliver(message)
    with meter.measure() as units:
        assert sweep.deliver(message)
    assert (units.read, units.write) == (1, 0), "where it stands, and nothing else"
    assert sweep.swept() == 5


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_where_time_runs_out_within_a_page_another_message_goes_on_behind_the_last_account(
    of_a_page: Sweep, at_once: int
) -> None:
    sweep = of_a_page
    sweep.schedule()
    sweep.a_look_takes = 1
    looked_at: list[str] = []

    def celebrations_due(_: Any, account: Any, __: int) -> list[Any]:
        looked_at.append(account.member_id)
        return []

    with mock.patch.object(expire.celebrations, "due", celebrations_due):
        rounds = 0
        while sweep.queue:
            sweep.time_left = expire.RESERVE_SECONDS * 1000 + at_once - 1
            assert sweep.deliver(sweep.queue.pop(0))
            rounds += 1
            assert sweep.standing()["pages"] == rounds
            assert len(looked_at) == min(rounds * at_once, 5), "none is looked at again"
    assert sorted(looked_at) == sorted(MEMBERS)
    assert (sweep.standing()["done"], sweep.swept()) == (1, 5)


def test_accounts_that_cannot_be_read_count_once_where_time_runs_out_between_them(
    of_a_page: Sweep,
) -> None:
    sweep = of_a_page
    sweep.schedule()
    mend = [spoil(sweep.house, member_id) for member_id in ("ana", "cleo", "eve")]
    sweep.time_left = 0
    for _ in range(4):
        assert sweep.deliver(sweep.queue.pop(0))
    with pytest.raises(expire.NotSwept, match="3 accounts"):
        sweep.deliver(sweep.queue.pop(0))
    assert (sweep.standing()["pages"], sweep.standing()["failed"]) == (5, 3)
    for whole in mend:
        whole()
    assert sweep.swept() == 2


def test_a_message_that_was_cut_off_goes_on_at_the_page_it_was_in(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    store = edge.store()
    read = store.due_accounts
    starts: list[Any] = []

    def second_page_fails(*arguments: Any) -> Any:
        starts.append(arguments[-1])
        if len(starts) == 2:
            raise Unavailable("cut off")
        return read(*arguments)

    with mock.patch.object(store, "due_accounts", second_page_fails):
        assert not sweep.deliver(message)
        written = sweep.swept()
        assert 0 < written < 5
        assert sweep.deliver(message)
    assert starts[0] is None
    assert starts[1] == starts[2]
    assert starts[1] is not None
    assert sweep.swept() == 5


def test_of_two_that_work_on_one_segment_one_stops_and_looks_again_later(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    store = edge.store()
    read = store.due_accounts
    met = False

    def meets_another(*arguments: Any) -> Any:
        nonlocal met
        if not met:
            met = True
            assert sweep.deliver(message), "the other one does all of it"
        return read(*arguments)

    with mock.patch.object(store, "due_accounts", meets_another):
        # It must not be taken off the queue: the other may be the same message, delivered twice.
        assert not sweep.deliver(message)
    assert sweep.standing()["done"] == 1
    assert sweep.deliver(message)
    assert sweep.swept() == 5


def test_messages_of_several_jobs_in_any_order_write_once(sweep: Sweep) -> None:
    sweep.schedule()
    sweep.schedule("2027-05-01T01:04:00Z")
    old, new = sweep.queue
    for message in (new, old, new, old):
        assert sweep.deliver(message)
    assert sweep.swept() == 5


# What cannot be done


def test_an_account_that_cannot_be_done_keeps_nobody_waiting_and_rings(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    mend = spoil(sweep.house, "ben")
    with pytest.raises(expire.NotSwept):
        sweep.deliver(message)
    assert (sweep.standing()["done"], sweep.standing()["failed"]) == (1, 1)
    assert sweep.deliver(message), "it rings once for each job"
    mend()
    assert sweep.swept() == 4
    # The next job finds it as it was.
    sweep.schedule("2027-05-01T01:04:00Z")
    assert sweep.deliver(sweep.queue[-1])
    assert sweep.swept() == 5


def test_an_account_whose_decision_fails_keeps_nobody_waiting(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    real = expire.lifecycle.sweep

    def defect(rulebook: Any, account: Any, now: int) -> Any:
        if account.member_id == "cleo":
            raise ZeroDivisionError
        return real(rulebook, account, now)

    with mock.patch.object(expire.lifecycle, "sweep", defect), pytest.raises(expire.NotSwept):
        sweep.deliver(message)
    assert sweep.standing()["failed"] == 1
    assert sweep.swept() == 4


def busy(member_id: str) -> Step:
    """A step of a plan: somebody else is writing to this member."""

    def step(request: AWSPreparedRequest) -> AWSResponse | None:
        items = asked_of(request)["TransactItems"]
        if items[0]["Put"]["Item"]["pk"]["S"] != f"shop#{member_id}":
            return None
        reasons = [{"Code": "TransactionConflict"}, *[{"Code": "None"}] * (len(items) - 1)]
        return cancelled(request, *reasons)

    return step


def test_a_member_to_whom_too_many_write_keeps_nobody_waiting(sweep: Sweep) -> None:
    sweep.schedule()
    [message] = sweep.queue
    faults = sweep.house.faults
    faults.follow({0: busy("ben")}, of="TransactWriteItems", from_then_on=True)
    with pytest.raises(expire.NotSwept):
        sweep.deliver(message)
    assert (sweep.standing()["done"], sweep.standing()["failed"]) == (1, 1)
    assert sweep.swept() == 4
    faults.heal()
    sweep.schedule("2027-05-01T01:04:00Z")
    assert sweep.deliver(sweep.queue[-1])
    assert sweep.swept() == 5


@pytest.mark.parametrize("fault", ["not connected", "server error", "throttled", "over capacity"])
def test_tables_that_do_not_answer_are_no_fault_of_an_account(sweep: Sweep, fault: Fault) -> None:
    sweep.schedule()
    [message] = sweep.queue
    sweep.house.faults.follow({2: fault}, of="TransactWriteItems", from_then_on=True)
    assert not sweep.deliver(message), "it comes again"
    assert sweep.swept() == 2
    sweep.house.faults.heal()
    assert sweep.deliver(message)
    assert (sweep.standing()["done"], sweep.standing()["failed"]) == (1, 0)
    assert sweep.swept() == 5


# The clock


def test_the_scheduled_time_names_the_job_and_decides_nothing(
    engine: Engine, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong input lets no point expire early."""
    house = House(engine, tables)
    with house.on(-1):
        done(workers.publish(smallest(program_id="shop", expiry=[{"after": "P1D"}], rules=[
            {"rule_id": "review", "trigger": "review", "earn": {"points": 5}},
        ])))  # fmt: skip
    sweep = Sweep(house)
    monkeypatch.setattr(store, "send_messages", sweep.send)
    monkeypatch.setattr(expire, "sweep_queue", lambda: ("queue", 1))
    with house.on(0):
        done(workers.enrol("ana"))
        done(workers.award("review-1", "ana"))
        sweep.schedule("2099-01-01T00:04:00Z")
        assert sweep.deliver(sweep.queue[-1])
        assert house.accounts()["ana"].balance == 5
    with house.on(1):
        sweep.schedule("2026-01-01T00:04:00Z")
        assert sweep.deliver(sweep.queue[-1])
        assert house.accounts()["ana"].balance == 0


def test_how_late_a_message_is_after_its_scheduled_time_is_a_metric(sweep: Sweep) -> None:
    message = {"segment": 0, "segments": 1}
    with mock.patch.object(expire, "count") as count:
        sweep.deliver(message | {"scheduled_time": "2027-05-12T09:30:00Z"})
        sweep.deliver(message | {"scheduled_time": "2099-01-01T00:04:00Z"})
    told = [call.args[1] for call in count.call_args_list if call.args[0] == "SweepLagSeconds"]
    assert told == [NOON.hour * 3600 - 9 * 3600 - 30 * 60, 0]
