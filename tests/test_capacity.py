"""What each operation costs, in the database's own units as the engine reports them, whatever the
length of a member's history and the number of its lots."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from loyalty import edge
from loyalty.dates import milliseconds
from loyalty.lots import due_on
from loyalty.model import Account
from loyalty.validation import publishable
from loyalty.wire import account_item, entry_item, entry_of
from tests import workers
from tests.memory import INDEXED
from tests.programs import shop, smallest
from tests.strategies import Ledger
from tests.workers import NOON, Books, Call, deployed, done, send, without_pause
from tools import meter
from tools.engine import Engine, Tables

NOW = milliseconds(NOON)
TODAY = 20_530
NOTHING = Decimal(0)
UNITS = Decimal(1)
HALF = Decimal("0.5")
ENTRIES = 10_000


class Till:
    """The shop's handlers, and what they consume."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.tables = tables
        self.client = workers.connect(engine.endpoint)
        self.direct = engine.client(parameter_validation=False)
        meter.attach(self.client)

    def publish(self, **more: Any) -> None:
        staff = {"second_person_above": 1000}
        with self.opened(days=-30):
            done(workers.publish(shop(transfers={}, adjustments=staff, **more)))

    @contextmanager
    def opened(self, days: int = 0) -> Iterator[None]:
        moment = NOON + timedelta(days=days)
        with deployed(self.client, self.tables, moment, sleep=without_pause):
            yield

    def cost(self, call: Call, status: int = 201) -> tuple[Decimal, Decimal]:
        """(Write units, read units) of a request whose program the process knows already."""
        with self.opened():
            edge.store().rulebook_in_force("shop", NOW)
            with meter.measure() as units:
                answer = send(call)
        assert answer.status == status, answer.body
        return units.write, units.read

    def put(self, account: Account) -> None:
        """Set an account up as it would stand after a long life."""
        self.direct.put_item(TableName=self.tables.accounts, Item=account_item(account))


@pytest.fixture
def till(engine: Engine, tables: Tables) -> Till:
    till = Till(engine, tables)
    till.publish()
    till.put(member("dora"))
    return till


LOTS = tuple((TODAY + 6 * i + 1, 100 + i) for i in range(60))


def member(member_id: str, *, lots: int = 1, seq: int = 1) -> Account:
    """A member with so many lots, all of them spendable, as it stands after `seq` entries."""
    account = Account(
        program_id="shop",
        member_id=member_id,
        seq=seq,
        lots=LOTS[:lots] if lots > 1 else ((TODAY + 300, 10_000),),
        lifetime=10_000,
        active_on=TODAY - 1,
        recorded_at=NOW - 86_400_000,
        hash=bytes(32),
    )
    return replace(account, due_on=due_on(publishable(shop()), account))


def with_history(till: Till, member_id: str, entries: int) -> None:
    """A member who has come so often, written beside the store: the same award again and again."""
    with till.opened(days=-500):
        account = workers.come_often(till.direct, till.tables, member_id, entries)
    # Enough points for anything, without a word about them in the history.
    till.put(replace(account, lots=((TODAY + 300, 100_000),), active_on=TODAY))


OPERATIONS: dict[str, tuple[Callable[[str], Call], Decimal]] = {
    "award": (lambda who: workers.purchase(f"order-{who}", who, 1250, 3000, 499), 5 * UNITS),
    "award of nothing": (lambda who: workers.award(f"other-{who}", who, "other"), 5 * UNITS),
    "check-in": (lambda who: workers.check_in(who, f"visit-{who}"), 5 * UNITS),
    "redemption": (lambda who: workers.redeem(who, f"pay-{who}", points=5), 5 * UNITS),
    "redemption of all": (lambda who: workers.redeem(who, f"all-{who}", points=5000), 5 * UNITS),
    "reward with a voucher": (
        lambda who: workers.redeem(who, f"voucher-{who}", reward_id="free-coffee"),
        7 * UNITS,
    ),
    "transfer": (
        lambda who: workers.transfer(
            f"gift-{who}", from_member_id=who, to_member_id="dora", points=500
        ),
        10 * UNITS,
    ),
    "adjustment": (lambda who: workers.adjust(who, -500, f"small-{who}"), 5 * UNITS),
    "adjustment with a note": (
        lambda who: workers.adjust(who, 50, f"noted-{who}", note="A long story."),
        7 * UNITS,
    ),
    "proposal": (lambda who: workers.adjust(who, -1001, f"large-{who}"), 6 * UNITS),
    "proposal with a note": (
        lambda who: workers.adjust(who, 1001, f"story-{who}", note="A long story."),
        8 * UNITS,
    ),
}


def reads(name: str) -> Decimal:
    """One eventual look at each account."""
    return UNITS if name == "transfer" else HALF


def status(name: str) -> int:
    return 202 if name.startswith("proposal") else 201


@pytest.mark.parametrize("lots", [1, 60])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_command_costs_the_same_at_1_and_at_60_lots(till: Till, name: str, lots: int) -> None:
    call, units = OPERATIONS[name]
    till.put(member("ana", lots=lots))
    assert till.cost(call("ana"), status(name)) == (units, reads(name))


@pytest.mark.parametrize("note", [None, "A long story."])
@pytest.mark.parametrize(("how", "units", "answered"), [("approve", 9, 201), ("refuse", 4, 200)])
def test_settling_a_proposal_costs_the_same_at_60_lots(
    till: Till, how: str, units: int, answered: int, note: str | None
) -> None:
    till.put(member("ana", lots=60))
    more = {} if note is None else {"note": note}
    with till.opened():
        proposed = send(workers.adjust("ana", -1001, "large", **more))
    call = workers.settle(how, proposed.body["adjustment_id"], by="another")
    write, read = till.cost(call, answered)
    # A note that is refused is removed; one that is approved stands already.
    assert write == units + 2 * (note is not None and how == "refuse")
    assert read <= 5


@pytest.fixture(scope="module")
def regulars(engine: Engine, new_tables: Callable[[], Tables]) -> Till:
    """A shop with a member of 2 entries, `new`, and one of 10,000, `old`."""
    till = Till(engine, new_tables())
    till.publish()
    # With its stream the engine takes longer for each write than for the one before.
    off = {"StreamEnabled": False}
    till.direct.update_table(TableName=till.tables.ledger, StreamSpecification=off)
    till.put(member("dora"))
    with_history(till, "new", 2)
    with_history(till, "old", ENTRIES)
    return till


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("who", ["new", "old"])
def test_a_command_costs_the_same_at_the_first_entries_and_at_10000(
    regulars: Till, name: str, who: str
) -> None:
    call, units = OPERATIONS[name]
    assert regulars.cost(call(who), status(name)) == (units, reads(name))


@pytest.mark.parametrize("who", ["new", "old"])
def test_a_balance_is_half_a_read_unit(regulars: Till, who: str) -> None:
    assert regulars.cost(workers.balance(who), status=200) == (NOTHING, HALF)


@pytest.mark.parametrize("lots", [1, 60])
def test_a_balance_of_many_lots_is_half_a_read_unit(till: Till, lots: int) -> None:
    till.put(member("ana", lots=lots))
    assert till.cost(workers.balance("ana"), status=200) == (NOTHING, HALF)


def test_a_page_of_25_entries_is_at_most_two_read_units(regulars: Till) -> None:
    with regulars.opened():
        first = done(workers.entries("old"))
    deep = {"cursor": edge.cursor("5000.1")}
    for query in ({}, {"cursor": first["next_cursor"]}, deep):
        write, read = regulars.cost(workers.entries("old", **query), status=200)
        assert write == 0
        assert read <= 3


def test_a_page_of_the_longest_rows_is_at_most_two_read_units(till: Till) -> None:
    """Rows as large as three lines under five rules make them, with ids of full length."""
    till.put(member("ana"))
    with till.opened():
        for i in range(26):
            order = f"order-{i:0122}"
            done(workers.purchase(order, "ana", 1250, 3000, 499))
    write, read = till.cost(workers.entries("ana"), status=200)
    assert write == 0
    assert read <= 2


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_replay_reads_half_a_unit_and_writes_nothing(till: Till, name: str) -> None:
    till.put(member("ana"))
    call, _ = OPERATIONS[name]
    with till.opened():
        send(call("ana"))
    before = Books.read(till.direct, till.tables)
    # A write that fails is charged in the cloud, and reported nowhere. A second scan is refused at
    # first sight, so that its key is read, by one unit, and no write is tried. A note is compared
    # with the one that is kept.
    read = 3 * HALF if name == "check-in" or "note" in name else reads(name)
    assert till.cost(call("ana"), status(name)) == (NOTHING, read)
    assert Books.read(till.direct, till.tables) == before


def test_what_fails_by_its_condition_is_billed_for_the_items_that_it_would_have_written(
    till: Till,
) -> None:
    till.put(member("ana"))
    with till.opened():
        done(workers.purchase("order", "ana", 1250))
        with meter.measure() as units:
            assert send(workers.purchase("order", "ana", 1250)).replayed
        assert (units.write, units.failed) == (NOTHING, 4 * UNITS)
        key = {"pk": {"S": "taken"}, "sk": {"S": "0"}}
        item = key | {"text": {"S": "x" * 1500}, "bytes": {"B": b"x" * 500}}
        put = {"TableName": till.tables.records, "Item": item}
        till.client.put_item(**put)
        with meter.measure() as units, pytest.raises(till.client.exceptions.ClientError):
            till.client.put_item(**put, ConditionExpression="attribute_not_exists(pk)")
        assert (units.write, units.failed) == (NOTHING, 2 * UNITS)


@pytest.mark.parametrize(
    "call",
    [
        workers.redeem("ana", "pay-1", points=10_001),
        workers.redeem("nobody", "pay-1", points=1),
        workers.award("order-1", "nobody"),
        workers.award("order-1", "ana", occurred_at="2026-03-20T12:00:00Z"),
        workers.reverse("check-in:unheard-of", "return-1"),
        workers.redeem("ana", "pay-1", reward_id="unheard-of"),
    ],
    ids=["too few points", "nobody pays", "nobody buys", "future", "no event", "no reward"],
)
def test_a_refusal_reads_and_sends_no_write(till: Till, call: Call) -> None:
    till.put(member("ana"))
    with till.opened():
        edge.store().rulebook_in_force("shop", NOW)
        with meter.measure() as units:
            answer = send(call)
    assert answer.status in (404, 409), answer.body
    assert units.write == 0
    # The eventual read, then the key and the account strongly; none of them is a transaction.
    assert units.read <= Decimal("2.5")
    assert units.calls <= 3


def test_a_refused_scan_reads_and_sends_no_write(till: Till) -> None:
    till.put(member("ana"))
    with till.opened():
        done(workers.check_in("ana", "visit-1"))
    write, read = till.cost(workers.check_in("ana", "visit-2"), status=409)
    assert write == 0
    assert read <= Decimal("2.5")


FIVE_RULES = [
    {
        "rule_id": f"rule-number-{i}-of-five",
        "name": f"The rule number {i} of five",
        "trigger": "purchase",
        "earn": {"points": i + 1, "per_amount": 100},
        "limits": [{"points": 5000, "per": "day"}, {"points": 20_000, "per": "month"}],
        "frequency": [{"times": 10, "per": "week"}],
    }
    for i in range(5)
]


def basket(lines: int) -> Call:
    """A purchase of so many lines, each of which says all that a line can say."""
    bought = {
        "currency": "EUR",
        "lines": [
            {
                "line_id": f"line-{i}",
                "product_id": f"SKU-{100_000 + i}",
                "category_ids": ["beans", "whole"],
                "brand_id": "own-brand",
                "quantity": 2,
                "amount": 1295 + i,
            }
            for i in range(lines)
        ],
    }
    return workers.award(
        "order-2026-03-18-000123",
        "m-4f8a1c2b9d3e7f60",
        "purchase",
        channel="store",
        location_id="corner",
        purchase=bought,
    )


@pytest.mark.parametrize("lots", [1, 60])
def test_an_award_of_3_lines_under_5_rules_costs_5(
    engine: Engine, tables: Tables, lots: int
) -> None:
    till = Till(engine, tables)
    till.publish(rules=FIVE_RULES)
    till.put(member("m-4f8a1c2b9d3e7f60", lots=lots))
    assert till.cost(basket(3)) == (5 * UNITS, HALF)


@pytest.mark.parametrize(
    ("program_id", "member_id", "event_id", "most"),
    [
        ("shop", "m-4f8a1c2b9d3e7f60", "order-2026-03-18-000123", 600),
        ("p" * 40, "m" * 64, "o" * 128, 1024),
    ],
    ids=["usual ids", "the longest ids"],
)
def test_a_row_of_history_is_one_write_unit_and_600_bytes_with_usual_ids(
    program_id: str, member_id: str, event_id: str, most: int
) -> None:
    """Three lines under five rules, whose limits bite, in a campaign and waiting."""
    document = smallest(
        program_id=program_id,
        rules=FIVE_RULES,
        limits=[{"points": 20_000, "per": "day"}],
        campaigns=[{"campaign_id": "double", "multiplier": 2}],
        expiry=[{"after": "P1Y"}],
        pending={"purchase": "P14D"},
    )
    ledger = Ledger(document, member_id)
    ledger.enrol(NOW)
    lines = [
        {"line_id": str(i), "product_id": f"SKU-{i}", "quantity": 2, "amount": 129_500 + i}
        for i in range(3)
    ]
    purchase = {"currency": "EUR", "lines": lines}
    entry = ledger.award(
        NOW, {"event_id": event_id, "type": "purchase", "purchase": purchase, "channel": "store"}
    )
    assert entry.points == 20_000
    assert len(entry.explanation["g"]) == 5
    item = entry_item(entry)
    assert meter.size(item) <= 1024
    assert meter.size({name: item[name] for name in INDEXED & item.keys()}) <= most


@pytest.mark.parametrize("lines", [3, 10, 30, 100, 500])
def test_each_further_kilobyte_of_entry_costs_at_most_3_more(
    engine: Engine, tables: Tables, lines: int
) -> None:
    till = Till(engine, tables)
    till.publish(rules=FIVE_RULES)
    till.put(member("m-4f8a1c2b9d3e7f60"))
    write, read = till.cost(basket(lines))
    [item] = Books.read(till.direct, till.tables).ledger
    kilobytes = -(-meter.size(item) // 1024)
    assert read == HALF
    assert write <= 5 + 3 * (kilobytes - 1)
    # The history's row stays small, so that in fact it is two.
    assert write == 5 + 2 * (kilobytes - 1)


# What happens by itself

DAYS_AHEAD = {"expiring": ["P7D"]}
TIERS = {
    "window": {"rolling": "P30D"},
    "downgrade": {"steps": "full"},
    "levels": [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 10}],
}
BIRTHDAY = {"rule_id": "birthday", "trigger": "birthday", "earn": {"points": 100}}
PINNED = workers.set_tier("ana", tier_id="gold", until="2026-12-31")


def swept(till: Till) -> tuple[Decimal, Decimal]:
    """(Write units, read units) of a sweep of all accounts, without those of its message."""
    import expire

    context = mock.Mock(get_remaining_time_in_millis=lambda: 900_000)
    with till.opened():
        edge.store().rulebook_in_force("shop", NOW)
        with meter.measure() as units:
            assert expire.handler(workers.sweep_event(), context) == {"batchItemFailures": []}
    # Where the segment stands, read once and written for each page, and when terms changed last.
    return units.write - 1, units.read - 2


@pytest.mark.parametrize(
    ("what", "program", "stands"),
    [
        ("expire", {}, {"lots": ((TODAY, 40),)}),
        ("notice", {"notifications": DAYS_AHEAD}, {"lots": ((TODAY + 7, 40),)}),
        ("tier", {"tiers": TIERS}, {"lots": (), "tier": "gold", "tier_until": TODAY}),
    ],
)
def test_what_falls_due_costs_5_once_and_then_half_a_unit_for_looking(
    engine: Engine, tables: Tables, what: str, program: dict[str, Any], stands: dict[str, Any]
) -> None:
    till = Till(engine, tables)
    till.publish(**program)
    till.put(replace(member("ana"), due_on=TODAY, **stands))
    write, read = swept(till)
    assert (write, read) == (5 * UNITS, 2 * HALF)
    [item] = Books.read(till.direct, till.tables).ledger
    assert entry_of(item).kind == what
    assert swept(till) == (NOTHING, HALF)


def test_a_birthday_costs_5_and_one_that_was_paid_a_read(engine: Engine, tables: Tables) -> None:
    till = Till(engine, tables)
    till.publish(rules=[BIRTHDAY])
    born = NOON.month * 100 + NOON.day
    till.put(replace(member("ana"), birthday=born, joined_on=TODAY - 40))
    write, read = swept(till)
    assert write == 5
    assert read <= 3
    write, read = swept(till)
    assert write == 0
    assert read <= 2


def test_a_tier_set_by_staff_costs_5(engine: Engine, tables: Tables) -> None:
    till = Till(engine, tables)
    till.publish(tiers=TIERS)
    till.put(member("ana"))
    # The answer shows the account as it stands then, by one more read.
    assert till.cost(PINNED, status=200) == (5 * UNITS, 3 * HALF)
