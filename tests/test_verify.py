"""The verification: a ledger that the service has written is found whole, and whatever somebody
does to the tables behind its back is found and named."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any
from unittest import mock

import pytest

import verify
from loyalty import store, verification
from loyalty.dates import rfc3339
from loyalty.decisions import stock_id
from loyalty.model import Account, Entry, Posting
from loyalty.verification import (
    LAWS,
    MOST_TOLD,
    Tally,
    Terms,
    Violation,
    checked_key,
    checked_member,
    summed_up,
)
from loyalty.wire import Item, account_item, entry_item, item_hash, sealed_hash
from tests import ledgers, mutations, workers
from tests.programs import shop, smallest
from tests.strategies import DAY, Ledger, instant
from tests.workers import NOON, House, by_member, done, send
from tools.engine import Engine, Tables
from tools.template import ROOT
from tools.verify import main as command
from tools.verify import told, verified

MUTATIONS = 30
"""Of a thousand, which docs/proof.md reports on."""


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    house = House(engine, tables)
    with house.on(0):
        yield house


@pytest.fixture(scope="module")
def filled(engine: Engine, new_tables: Callable[[], Tables]) -> House:
    """A house with a ledger of most kinds of entries, for tests that leave it as it is."""
    house = House(engine, new_tables())
    ledgers.fill(house, members=6, commands=120)
    return house


_minutes = count()


class Scheduled:
    """The function as the cloud invokes it: by its schedule, then by its queue, until that is
    empty; `seconds` are those that each run has."""

    def __init__(self, number: int = 2, seconds: float = 900) -> None:
        self.messages: list[Any] = []
        self.delivered: list[Any] = []
        self._number = number
        self._context = mock.Mock(get_remaining_time_in_millis=lambda: seconds * 1000)

    def begin(self, at: str = "") -> None:
        """Fire the schedule, for another time than ever before if not `at` one."""
        at = at or rfc3339(next(_minutes) * 60_000)
        with self._queue():
            verify.handler({"scheduled_time": at}, self._context)

    def deliver(self, message: Any, *, comes_again: bool = False) -> None:
        record = {"messageId": "1", "body": json.dumps(message)}
        self.delivered.append(message)
        with self._queue():
            answer = verify.handler({"Records": [record]}, self._context)
        assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}] * comes_again}

    def finish(self) -> None:
        while self.messages:
            self.deliver(self.messages.pop(0))

    def whole(self) -> None:
        self.begin()
        self.finish()

    @contextmanager
    def _queue(self) -> Iterator[None]:
        environment = {"VERIFY_QUEUE_URL": "verify", "VERIFY_SEGMENTS": str(self._number)}
        with (
            mock.patch.dict("os.environ", environment),
            mock.patch.object(store, "send_messages", lambda _, sent: self.messages.extend(sent)),
        ):
            yield


def result(program_id: str = "shop") -> Any:
    route = f"GET {workers.BASE}/analytics/verify"
    return done(workers.Call("admin", route, program_id=program_id, scope="loyalty/staff"))


# What the service writes


def test_a_ledger_that_the_service_wrote_is_whole(filled: House) -> None:
    with filled.on(365):
        found = verified(segments=3)
    assert found.violations == []
    books = filled.books()
    entries = [item for item in books.ledger if "m" in item]
    assert (found.entries, found.members) == (len(entries), len(books.accounts))
    assert len({item["k"]["S"] for item in entries}) >= 15
    tally = found.tallies["shop"]
    assert sum(tally.moved.values()) == tally.outstanding
    assert tally.moved["transfer"] == tally.moved["merge"] == 0
    assert tally.drawn["program"] > 0


def test_thirty_random_mutations_are_found_and_named(filled: House) -> None:
    with filled.on(365):
        report = mutations.prove(filled, MUTATIONS)
    assert [(m.what, m.table, m.changes, found) for m, found in report.missed] == []


def test_reading_needs_less_than_a_unit_for_an_entry(filled: House) -> None:
    with filled.on(365):
        verified()  # programs are known from now on
        found = verified()
    assert found.read_units < found.entries


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize("award_on", ["registration", "first_purchase"])
def test_a_referral_stands_under_the_key_of_what_paid_it(award_on: str) -> None:
    referral = {"award_on": award_on, "referred_points": 5, "referrer_points": 7}
    done(workers.publish(shop(referral=referral, budget={"points": 500})))
    code = done(workers.enrol("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    assert send(workers.reverse("order", "early", amount=1000)).status == 202
    done(workers.purchase("order", "ben", 4000, 1000))
    done(workers.reverse("order", "return", lines=[{"line_id": "1"}]))
    found = verified()
    assert found.violations == []
    assert found.tallies["shop"].moved["referral"] == 12


# In the cloud


def test_the_daily_run_tells_its_result_of_each_program(filled: House) -> None:
    scheduled = Scheduled()
    with filled.on(365):
        scheduled.whole()
        found = result()
        direct = verified().tallies["shop"]
    at = (NOON + timedelta(days=365)).isoformat().replace("+00:00", "Z")
    assert found == {
        "status": "clean",
        "started_at": at,
        "finished_at": at,
        "entries": direct.entries,
        "members": direct.members,
        "outstanding_points": direct.outstanding,
        "moved_points": dict(direct.moved),
        "violation_count": 0,
        "violations": [],
    }
    kinds = [message["kind"] for message in scheduled.delivered]
    assert sorted(kinds[:4]) == ["accounts"] * 2 + ["index"] * 2
    assert kinds[4:] == ["ledger"] * 2


def test_a_run_without_time_goes_on_page_by_page_and_counts_the_same(
    filled: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "ACCOUNTS_AT_ONCE", 1)
    scheduled = Scheduled(number=1, seconds=0)
    with filled.on(365):
        scheduled.whole()
        assert result()["entries"] == verified().entries
    assert len(scheduled.delivered) > len(filled.books().accounts)


def test_messages_that_come_twice_and_in_any_order_count_once(filled: House) -> None:
    scheduled = Scheduled(number=2)
    with filled.on(365):
        scheduled.begin()
        for message in reversed([*scheduled.messages]):
            scheduled.deliver(message)
            scheduled.deliver(message)
        scheduled.messages = scheduled.messages[4:]
        for message in [*scheduled.messages, *scheduled.messages]:
            scheduled.deliver(message)
        scheduled.messages.clear()
        found = result()
        direct = verified()
    assert (found["entries"], found["members"]) == (direct.entries, direct.members)
    assert (found["status"], found["violation_count"]) == ("clean", 0)


def test_a_schedule_that_fires_twice_reads_the_ledger_once(filled: House) -> None:
    at = "2027-03-18T03:23:00Z"
    scheduled = Scheduled(number=1)
    with filled.on(365):
        scheduled.begin(at)
        scheduled.begin(at)
        assert [message["kind"] for message in scheduled.messages] == ["accounts", "index"]
        scheduled.finish()
        assert [m["kind"] for m in scheduled.delivered] == ["accounts", "index", "ledger"]
        found = result()
        scheduled.begin(at)
        assert scheduled.messages == []
        # A message that comes again begins no second reading of the ledger, and sums up the same.
        for message in [*scheduled.delivered]:
            scheduled.deliver(message)
        assert scheduled.messages == []
        assert result() == found


def test_a_run_that_ends_late_does_not_take_the_place_of_a_later_one(
    filled: House, capsys: pytest.CaptureFixture[str]
) -> None:
    late, early = Scheduled(), Scheduled()
    with filled.on(365):
        late.begin("2026-03-03T03:23:00Z")
        early.begin("2026-03-04T03:23:00Z")
    with filled.on(366):
        early.finish()
        told = result()
    found = next(item for item in filled.books().ledger if "m" in item)
    change(filled, found["pk"]["S"], found["sk"]["S"], h={"B": bytes(32)})
    capsys.readouterr()
    with filled.on(367):
        late.finish()
        assert result() == told
    # What it found is counted for the alarm all the same.
    assert re.search(r'"LedgerViolations":\[[1-9]', capsys.readouterr().out)


def test_of_two_that_read_one_part_one_stops_and_looks_again_later(
    filled: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "ACCOUNTS_AT_ONCE", 1)
    scheduled = Scheduled(number=1)
    page = verify.page
    met = False

    def meets_another(*arguments: Any) -> Any:
        nonlocal met
        if not met:
            met = True
            scheduled.deliver(scheduled.messages[0])
        return page(*arguments)

    with filled.on(365):
        scheduled.begin()
        with mock.patch.object(verify, "page", meets_another):
            scheduled.deliver(scheduled.messages[0], comes_again=True)
        scheduled.finish()
        found = result()
        assert (found["entries"], found["status"]) == (verified().entries, "clean")


def test_what_is_wrong_is_told_by_the_route_and_counted_for_the_alarm(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "loyalty-test")
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    done(workers.award("review-1", "ana"))
    route = f"GET {workers.BASE}/analytics/verify"
    assert result() == {"status": "never", "violation_count": 0, "violations": []}
    change(house, "shop#e#review-1", p={"N": "11"})
    scheduled = Scheduled()
    scheduled.whole()
    found = result()
    assert (found["status"], found["violation_count"]) == ("violated", 2)
    assert {(v["law"], v["code"], v["member_id"], v["entry"], v["seq"])
            for v in found["violations"]} == {
        (9, "hash", "ana", "e#review-1 0", 2),
        (3, "points", "ana", "e#review-1 0", 2),
    }  # fmt: skip
    assert '"LedgerViolations":[2' in capsys.readouterr().out
    change(house, "shop#e#review-1", p={"N": "10"})
    scheduled.whole()
    assert result()["status"] == "clean"
    answer = send(by_member(workers.Call("admin", route), "ana"))
    assert (answer.status, answer.body["code"]) == (403, "forbidden")
    answer = send(workers.Call("admin", route, program_id="nobody"))
    assert (answer.status, answer.body["code"]) == (404, "program_not_found")


def change(house: House, pk: str, sk: str | None = "0", **attributes: Any) -> None:
    """Set attributes of an item behind the service's back."""
    table = house.tables.ledger if sk else house.tables.accounts
    key = {"pk": {"S": pk}} | ({"sk": {"S": sk}} if sk else {})
    item = house.direct.get_item(TableName=table, Key=key)["Item"]
    house.direct.put_item(TableName=table, Item=item | attributes)


# While the shop is open


@pytest.mark.parametrize("at", range(6))
def test_commands_that_come_meanwhile_are_no_violations(house: House, at: int) -> None:
    """Before each read in turn, somebody else buys, spends, sends and joins."""
    done(workers.publish(ledgers.DOCUMENT))
    for member in ("ana", "ben"):
        done(workers.enrol(member))
    done(workers.adjust("ana", 200, "gift"))
    number = iter(range(1000))
    reads = iter(range(1000))

    def meanwhile(**_: object) -> None:
        if busy or next(reads) % 6 != at:
            return
        busy.append(True)
        n = next(number)
        done(workers.purchase(f"order-{n}", "ana", 5000, 3000))
        done(workers.transfer(f"send-{n}", from_member_id="ana", to_member_id="ben", points=1))
        done(workers.redeem("ana", f"mug-{n}", points=3))
        done(workers.enrol(f"new-{n}"))
        done(workers.reverse(f"order-{n}", f"return-{n}"))
        busy.clear()

    busy: list[bool] = []
    for operation in ("Scan", "Query", "BatchGetItem"):
        house.client.meta.events.register(f"before-call.dynamodb.{operation}", meanwhile)
    found = verified(segments=2)
    assert next(number) > 2
    assert found.violations == []


def test_what_the_index_shows_late_is_waited_for(house: House) -> None:
    """The index follows the ledger a little later: the newest entry is not in it at first."""
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    done(workers.award("review-1", "ana"))
    late = iter([1])

    def cut(parsed: Any, model: Any, **_: object) -> None:
        if model.name == "Query" and any("n" in item for item in parsed.get("Items", ())):
            for _once in late:
                parsed["Items"].pop()

    house.client.meta.events.register("after-call.dynamodb.Query", cut)
    assert verified().violations == []
    assert next(late, None) is None


# Each law by itself: a forger who seals everything anew

NOW = instant("2026-03-18T12:00")


def books_of(**more: Any) -> Ledger:
    ledger = Ledger(smallest(expiry=[{"after": "P1M"}], **more))
    ledger.enrol(NOW)
    return ledger


def codes_of(ledger: Ledger, entries: list[Entry]) -> set[tuple[str, int | None]]:
    """What is found of these entries, with all hashes and the account made to fit them."""
    account = Account(program_id=ledger.program.program_id, member_id=ledger.member_id)
    items: list[Item] = []
    for entry in entries:
        sealed = replace(entry, hash=sealed_hash(entry, account.hash))
        account = account.after(sealed)
        items.append(entry_item(sealed))
    terms = Terms(lambda *_: ledger.rulebook)
    rows = [({k: v for k, v in item.items() if k not in "eafsh"}, item) for item in items]
    tally = checked_member(account_item(account), rows, 0, terms)
    return {(v.code, v.seq) for v in tally.violations}


REVIEWS = {"rule_id": "review", "trigger": "review", "earn": {"points": 10}}


def test_a_balance_that_its_postings_do_not_give() -> None:
    ledger = books_of(rules=[REVIEWS])
    entry = ledger.award(NOW, {"type": "review"})
    forged = replace(entry, balance=entry.balance + 1)
    assert codes_of(ledger, [ledger.entries[0], forged]) == {("balance", 2)}


def test_a_debit_from_a_lot_past_its_date_and_one_that_lives_on() -> None:
    ledger = books_of(rules=[REVIEWS])
    earned = ledger.award(NOW, {"type": "review"})
    late = NOW + 40 * DAY
    spent = ledger.redeem(NOW, 4)
    forged = replace(spent, recorded_at=late, occurred_at=late)
    assert codes_of(ledger, [ledger.entries[0], earned, forged]) == {
        ("expired_lot", 3),
        ("revived", 3),
    }


def test_a_lot_that_is_let_expire_too_early() -> None:
    ledger = books_of(rules=[REVIEWS])
    ledger.award(NOW, {"type": "review"})
    swept = ledger.sweep(NOW + 40 * DAY)
    assert swept
    [posting] = swept.postings
    early = replace(posting, on=posting.on - 20)
    forged = replace(swept, recorded_at=NOW, occurred_at=NOW, postings=(early,))
    assert codes_of(ledger, [*ledger.entries[:2], forged]) == {("expired_early", 3)}


def test_a_counter_past_its_limit() -> None:
    rule = REVIEWS | {"frequency": [{"times": 1, "per": "day"}]}
    ledger = books_of(rules=[rule])
    first = ledger.award(NOW, {"type": "review"})
    again = replace(first, seq=3, partition="e#another", balance=2 * first.balance)
    assert codes_of(ledger, [*ledger.entries, again]) == {("limit", 3)}


def test_an_entry_recorded_before_the_one_it_follows() -> None:
    ledger = books_of(rules=[REVIEWS])
    entry = ledger.award(NOW, {"type": "review"})
    forged = replace(entry, recorded_at=NOW - 1, occurred_at=NOW - 1)
    assert codes_of(ledger, [ledger.entries[0], forged]) == {("time", 2)}


def test_a_version_that_was_never_published(house: House) -> None:
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    [item] = house.books().ledger
    forged = item | {"v": {"N": "9"}}
    forged["h"] = {"B": item_hash(forged, b"")}
    house.direct.put_item(TableName=house.tables.ledger, Item=forged)
    change(house, "shop#ana", None, h=forged["h"])
    assert [(v.code, v.entry) for v in verified().violations] == [("version", "m#ana 0")]


def test_points_that_come_back_of_a_redemption_twice() -> None:
    ledger = books_of(rules=[REVIEWS])
    ledger.award(NOW, {"type": "review"})
    spent = ledger.redeem(NOW, 4)
    back = Posting(
        "cancel", spent.own_postings[0].on, lots=((spent.own_postings[0].lots[0][0], 3),)
    )
    told_of = {"s": [["r-a2V5LTI", 3]]}
    assert spent.partition == "k#key-2"
    refund = replace(
        spent, kind="reverse", partition="e#order", postings=(back,), explanation=told_of
    )
    refunds = [replace(refund, seq=n, sort=f"r#{n}", balance=3 * n - 3) for n in (4, 5)]
    entries = [*ledger.entries, *refunds]
    assert ("restored", 5) in codes_of(ledger, entries)
    assert ("restored", 4) not in codes_of(ledger, entries)


def under_one_key(ledger: Ledger, *entries: Entry) -> list[tuple[str, str | None]]:
    tally = checked_key([entry_item(e) for e in entries], Terms(lambda *_: ledger.rulebook))
    return [(v.code, v.entry) for v in tally.violations]


def test_a_refund_of_more_than_its_event_gave() -> None:
    ledger = books_of(rules=[REVIEWS])
    award = ledger.award(NOW, {"type": "review", "event_id": "one"})
    refund = ledger.reverse(NOW, award)
    assert under_one_key(ledger, award, refund) == []
    again = replace(refund, sort="r#again")
    assert under_one_key(ledger, award, refund, again) == [("refund", "e#one r#again")]


def test_what_was_written_together_is_missed() -> None:
    ledger = books_of(rules=[REVIEWS])
    award = ledger.award(NOW, {"type": "review", "event_id": "one"})
    refund = ledger.reverse(NOW, award)
    sent = replace(award, kind="transfer", partition="k#send", sort="0")
    received = replace(sent, sort="to", member_id="ben")
    assert under_one_key(ledger, refund) == [("missing_leg", "e#one r#refund")]
    assert under_one_key(ledger, sent) == [("missing_leg", "k#send 0")]
    assert under_one_key(ledger, received) == [("missing_leg", "k#send to")]
    assert under_one_key(ledger, sent, received) == [
        ("legs", "k#send 0"),
        ("legs", "k#send to"),
    ]  # both of them got points


def test_a_kind_that_cannot_stand_under_its_key() -> None:
    ledger = books_of(rules=[REVIEWS])
    award = ledger.award(NOW, {"type": "review", "event_id": "one"})
    assert under_one_key(ledger, replace(award, partition="k#one")) == [("key", "k#one 0")]
    swept = replace(award, kind="expire", partition="d#ann", sort="7")
    assert under_one_key(ledger, swept) == [("key", "d#ann 7")]
    assert under_one_key(ledger, replace(swept, sort="2", member_id="ben")) == [("key", "d#ann 2")]


def test_a_refund_that_waits_is_missed(house: House) -> None:
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    for refund_id in ("one", "two"):
        assert send(workers.reverse("order", refund_id, amount=100)).status == 202
    table = house.tables.ledger

    def without(sort: str) -> list[str | None]:
        key = {"pk": {"S": "shop#e#order"}, "sk": {"S": sort}}
        item = house.direct.get_item(TableName=table, Key=key)["Item"]
        house.direct.delete_item(TableName=table, Key=key)
        found = [v.entry for v in verified().violations if v.code == "waiting"]
        house.direct.put_item(TableName=table, Item=item)
        return found

    assert verified().violations == []
    assert without("0") == ["e#order 0"]
    assert without("w#001") == []  # nothing else says that it waited: docs/proof.md tells so
    done(workers.purchase("order", "ana", 5000))
    assert verified().violations == []
    for sort in ("0", "w#001", "w#002"):
        assert f"e#order {sort}" in without(sort)


def test_a_budget_that_is_not_what_entries_have_drawn(house: House) -> None:
    done(workers.publish(shop(budget={"points": 500})))
    done(workers.enrol("ana"))
    done(workers.purchase("order", "ana", 5000, 3000))
    done(workers.reverse("order", "return", lines=[{"line_id": "0"}]))
    assert verified().violations == []
    shards = [r for r in house.books().records if "#budget#" in r["pk"]["S"]]
    house.direct.put_item(
        TableName=house.tables.records,
        Item=shards[3] | {"left": {"N": str(int(shards[3]["left"]["N"]) + 1)}},
    )
    [violation] = verified().violations
    assert (violation.code, violation.program_id) == ("budget", "shop")
    assert violation.detail == "program: entries drew 100, 99 are gone"


def test_a_budget_that_moved_meanwhile_is_not_judged() -> None:
    tally = Tally()
    tally.drawn["spring"] = 7
    assert summed_up("shop", tally, {"spring": None}, {}).violations == []
    assert [v.code for v in summed_up("shop", tally, {"spring": (8, 0)}, {}).violations] == [
        "budget"
    ]


def test_a_stock_beyond_every_total_is_overdrawn() -> None:
    tally = Tally()
    tally.drawn["reward:mug"] = 41
    found = summed_up("shop", tally, {"reward:mug": (41, -1)}, {"reward:mug": 40})
    assert [v.code for v in found.violations] == ["overdrawn"]


def test_a_voucher_that_is_gone_or_lies(house: House) -> None:
    done(workers.publish(ledgers.DOCUMENT))
    done(workers.enrol("ana"))
    done(workers.adjust("ana", 100, "gift"))
    bought = done(workers.redeem("ana", "mug", reward_id="mug"))
    assert verified().violations == []
    [record] = [r for r in house.books().records if r["sk"]["S"] == "voucher"]
    table = house.tables.records
    for wrong in ({"status": {"S": "cancelled"}}, {"redemption_id": {"S": "r-b3RoZXI"}}):
        house.direct.put_item(TableName=table, Item=record | wrong)
        assert [(v.code, v.entry) for v in verified().violations] == [("voucher", "k#mug 0")]
    house.direct.delete_item(TableName=table, Key={k: record[k] for k in ("pk", "sk")})
    [violation] = verified().violations
    assert violation.detail == "its voucher is not there"
    house.direct.put_item(TableName=table, Item=record)
    done(workers.cancel(bought["redemption_id"]))
    assert verified().violations == []


@pytest.mark.parametrize("waits", [False, True], ids=["refunded", "refunded before"])
def test_a_voucher_that_a_refund_has_withdrawn(house: House, waits: bool) -> None:
    done(workers.publish(ledgers.DOCUMENT))
    done(workers.enrol("ana"))
    done(workers.adjust("ana", 100, "gift"))
    bought = done(workers.redeem("ana", "mug", reward_id="mug"))
    order = workers.purchase("order", "ana", 1000, 3000)
    order.body["purchase"]["redemption_ids"] = [bought["redemption_id"]]
    refund = workers.reverse("order", "return", lines=[{"line_id": "1"}])
    for call in (refund, order) if waits else (order, refund):
        assert send(call).status < 300
    [record] = [r for r in house.books().records if r["sk"]["S"] == "voucher"]
    assert record["status"]["S"] == "cancelled"
    found = verified()
    assert found.violations == []
    assert found.tallies["shop"].drawn[stock_id("mug")] == 0
    done(workers.cancel(bought["redemption_id"]))  # what the refund has left of it
    assert verified().violations == []


def test_a_proposal_is_held_to_what_it_was_and_to_its_approval(house: House) -> None:
    done(workers.publish(ledgers.DOCUMENT))
    done(workers.enrol("ana"))
    proposed = send(workers.adjust("ana", 400, "large")).body
    assert verified().violations == []
    [item] = [item for item in house.books().ledger if item["k"]["S"] == "g"]
    key = {name: item[name] for name in ("pk", "sk")}
    table = house.tables.ledger
    for wrong in ({"a": {"S": '{"s":"eve","u":1}'}}, {"m": {"S": "shop#ana"}}, {"z": {"S": "?"}}):
        house.direct.put_item(TableName=table, Item=item | wrong)
        assert ("waiting", "k#large 0") in {(v.code, v.entry) for v in verified().violations}
    moved = {**item, "sk": {"S": "1"}}
    moved["h"] = {"B": item_hash({n: v for n, v in moved.items() if n != "h"}, b"")}
    house.direct.delete_item(TableName=table, Key=key)
    house.direct.put_item(TableName=table, Item=moved)
    assert [(v.code, v.entry) for v in verified().violations] == [("key", "k#large 1")]
    house.direct.delete_item(TableName=table, Key={n: moved[n] for n in ("pk", "sk")})
    house.direct.put_item(TableName=table, Item=item)
    done(workers.settle("approve", proposed["adjustment_id"], by="another"))
    assert verified().violations == []
    house.direct.delete_item(TableName=table, Key=key)
    assert [(v.code, v.entry) for v in verified().violations] == [
        ("missing_leg", "k#large 0"),
        ("missing_leg", "k#large approved"),
    ]


def test_a_profile_that_says_another_birthday(house: House) -> None:
    done(workers.publish(shop()))
    done(workers.enrol("ana", birthday="1990-02-28"))
    assert verified().violations == []
    change(house, "shop#ana", None, y={"N": "301"})
    assert [(v.code, v.member_id) for v in verified().violations] == [("birthday", "ana")]


# What is told


def test_of_many_violations_the_first_are_told_and_all_are_counted() -> None:
    one = Violation("gap", "shop", "ana", None, 3, "the index has no entry 3")
    tally = Tally()
    for _ in range(MOST_TOLD + 20):
        tally.blame(one)
    tally.add(Tally.of_json(json.loads(json.dumps(tally.as_json()))))
    assert (len(tally.violations), tally.violated) == (MOST_TOLD, 2 * (MOST_TOLD + 20))


def test_a_violation_is_told_in_one_line() -> None:
    violation = Violation("hash", "shop", "ana", "e#order-1 0", 2, "its bytes are others")
    assert told(violation).split() == [
        "law", "9", "hash", "ana", "e#order-1", "0", "(entry", "2):", "its", "bytes", "are",
        "others",
    ]  # fmt: skip


def test_every_kind_of_violation_is_one_that_is_raised() -> None:
    source = inspect.getsource(verification)
    for code in LAWS:
        assert source.count(f'"{code}"') >= 2, code


# On a developer's machine


def test_the_running_service_verifies_its_own_ledger(service: Any) -> None:
    program = shop(program_id="verified-here")
    headers = service.headers("admin")
    base = "/v1/programs/verified-here"
    service.http.put(f"{base}/program", json=program, headers=headers).raise_for_status()
    body = {"member_id": "ana", "birthday": "1990-02-28"}
    service.http.post(f"{base}/members", json=body, headers=headers).raise_for_status()
    command = [sys.executable, "-m", "tools.verify", "--url", service.url]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}"}
    said = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "verified-here: 1 entries, 1 members, 50 points outstanding, 0 violations" in said
    answer = service.http.get(f"{base}/analytics/verify", headers=headers).json()
    assert (answer["status"], answer["entries"]) == ("clean", 1)


def test_tables_are_verified_by_their_names_and_the_status_says_whether_they_are_whole(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    names = [f"--{t}={getattr(house.tables, t)}" for t in ("accounts", "ledger", "records")]
    monkeypatch.setattr(sys, "argv", ["verify", *names])
    assert command() == 0
    assert "shop: 1 entries, 1 members, 50 points outstanding, 0 violations" in (
        capsys.readouterr().out
    )
    change(house, "shop#m#ana", b={"N": "51"})
    assert command() == 1
    assert "law  9 hash          ana  m#ana 0 (entry 1)" in capsys.readouterr().out
