"""The store on the real engine: what is written is read back, repeats are replays, races are
decided again, nothing is refused on a stale read, and no entry is ever written twice."""

import importlib
import json
import random
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loyalty import edge
from loyalty.codes import referral_code
from loyalty.contention import ATTEMPTS, CROWDED_SECONDS, PATIENCE_SECONDS
from loyalty.dates import Per, milliseconds
from loyalty.limits import token
from loyalty.model import (
    MAX_POINTS,
    NEVER,
    Account,
    Broken,
    Count,
    Counts,
    Entry,
    Kind,
    Posting,
    Refusal,
)
from loyalty.store import ACCOUNT_BYTES, in_force
from loyalty.wire import Item, account_item, account_of, entry_item, entry_of, item_hash
from tests import workers
from tests.faults import Faults, asked_of, cancelled
from tests.programs import shop, smallest
from tests.workers import (
    NOON,
    Books,
    Call,
    deployed,
    done,
    insist,
    meanwhile,
    of_tables,
    send,
    without_pause,
)
from tools import meter
from tools.engine import Engine, Tables

NOW = milliseconds(NOON)
DAY = timedelta(days=1)

# Any account and any entry

days = st.integers(1, 3_000_000)
ends = days | st.just(NEVER)
points = st.integers(1, 10 * MAX_POINTS)
changes = points | points.map(lambda number: -number)
instants = st.integers(0, 2**45)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
keys = st.text(st.characters(exclude_categories=["C"], exclude_characters="#"), min_size=1)
tokens = st.from_regex(r"[A-Za-z0-9_-]{6}", fullmatch=True)
pers = st.sampled_from(list[Per](["day", "week", "month", "year", "ever"]))
kinds = st.sampled_from(
    list[Kind](["enrol", "award", "check_in", "redeem", "reverse", "expire", "activate", "update"])
)
hashes = st.binary(min_size=32, max_size=32)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_POINTS, MAX_POINTS) | texts,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(texts, values, max_size=4),
    max_leaves=12,
).filter(lambda value: value is None or bool(value))  # nothing and empty are stored alike

accounts = st.builds(
    Account,
    program_id=st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True),
    member_id=ids,
    seq=st.integers(1, 10**9),
    lots=st.dictionaries(ends, points, max_size=8).map(lambda lots: tuple(sorted(lots.items()))),
    pending=st.dictionaries(st.tuples(days, days), points, max_size=5).map(
        lambda lots: tuple(sorted((a, a + b, n) for (a, b), n in lots.items()))
    )
    | st.dictionaries(days, points, max_size=3).map(
        lambda lots: tuple(sorted((a, NEVER, n) for a, n in lots.items()))
    ),
    debt=st.integers(0, MAX_POINTS),
    lifetime=st.integers(-MAX_POINTS, 10 * MAX_POINTS),
    counters=st.dictionaries(
        pers,
        st.builds(
            Counts, st.integers(0, 10**6), st.dictionaries(tokens, points, min_size=1, max_size=5)
        ),
    ),
    cooldowns=st.dictionaries(tokens, instants, max_size=4),
    groups=st.lists(texts, max_size=4, unique=True).map(lambda names: tuple(sorted(names))),
    active_on=st.none() | days,
    due_on=st.none() | days,
    recorded_at=instants,
    hash=hashes,
)
postings = st.builds(
    Posting,
    kinds,
    days,
    lots=st.lists(st.tuples(ends, changes), max_size=4).map(tuple),
    pending=st.lists(st.tuples(days, ends, changes), max_size=3).map(tuple),
    debt=st.just(0) | changes,
)
entries = st.builds(
    Entry,
    program_id=st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True),
    member_id=ids,
    seq=st.integers(1, 10**9),
    partition=st.builds("{}#{}".format, st.sampled_from("ekmd"), keys),
    sort=st.just("0") | keys.map("r#{}".format),
    kind=kinds,
    version=st.integers(1, 999_999),
    recorded_at=instants,
    occurred_at=instants,
    postings=st.lists(postings, max_size=4).map(tuple),
    balance=st.integers(-MAX_POINTS, 10 * MAX_POINTS),
    lifetime=st.integers(-MAX_POINTS, MAX_POINTS),
    counts=st.lists(
        st.builds(Count, pers, st.just(20_500), tokens, points),
        max_size=4,
        unique_by=lambda count: (count.per, count.name),
    )
    .map(lambda found: sorted(found, key=lambda count: (count.per, count.name)))
    .map(tuple),
    cooldowns=st.dictionaries(tokens, instants, max_size=3),
    active_on=st.none() | days,
    due_on=st.none() | days,
    groups=st.none() | st.lists(texts, max_size=3).map(tuple),
    reason=st.just("") | texts,
    event=json_values,
    explanation=json_values,
    answer=json_values,
    fingerprint=st.binary(min_size=16, max_size=16),
    hash=hashes,
)


@given(accounts)
def test_an_account_reads_back_from_its_item_as_it_was(account: Account) -> None:
    assert account_of(account_item(account)) == account


@given(entries)
def test_an_entry_reads_back_from_its_item_as_it_was(entry: Entry) -> None:
    assert entry_of(entry_item(entry)) == entry


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(account=accounts, entry=entries)
def test_accounts_and_entries_pass_through_the_engine_unchanged(
    dynamodb: Any, shelf: Tables, account: Account, entry: Entry
) -> None:
    ledger = of_tables(dynamodb, shelf)
    dynamodb.put_item(TableName=shelf.accounts, Item=account_item(account))
    dynamodb.put_item(TableName=shelf.ledger, Item=entry_item(entry))
    for consistent in (False, True):
        found = ledger.account(account.program_id, account.member_id, consistent=consistent)
        assert found == account
    assert ledger.entry(entry.program_id, entry.partition, entry.sort) == entry
    # The hash is over what is stored, whatever the engine makes of it.
    key = {name: entry_item(entry)[name] for name in ("pk", "sk")}
    stored = dynamodb.get_item(TableName=shelf.ledger, Key=key)["Item"]
    assert item_hash(stored, account.hash) == item_hash(entry_item(entry), account.hash)


@pytest.fixture(scope="module")
def shelf(new_tables: Callable[[], Tables]) -> Tables:
    """Tables that many examples of one test share."""
    return new_tables()


def crowded(lots: int = 60, member_id: str = "m-4f8a1c2b9d3e7f60") -> Account:
    """An account of a busy member: many lots, waiting points, counters and cooldowns."""
    chance = random.Random(7)  # noqa: S311  # a test, reproducible
    tomorrow = 20_531
    counted: dict[Per, list[str]] = {"day": [], "week": [], "month": [], "year": []}
    for i in range(24):
        name = token("points", f"rule-{i}")
        counted[(*counted,)[i % 4]].append(name)
    windows = {"day": 20_530, "week": 2933, "month": 674, "year": 2026}
    return Account(
        program_id="corner-coffee",
        member_id=member_id,
        seq=48_211,
        lots=tuple((tomorrow + 3 * i, chance.randint(1, 2000)) for i in range(lots)),
        pending=tuple(
            (tomorrow + i, tomorrow + 400 + i, chance.randint(1, 2000)) for i in range(12)
        ),
        lifetime=1_234_567,
        counters={
            per: Counts(windows[per], {name: chance.randint(1, 2000) for name in names})
            for per, names in counted.items()
        },
        cooldowns={token("times", "rule-1"): NOW, token("location", "corner"): NOW},
        groups=("vip",),
        active_on=20_530,
        due_on=tomorrow,
        recorded_at=NOW,
        hash=bytes(32),
    )


def test_an_account_of_sixty_lots_stays_below_a_write_unit() -> None:
    # 12 waiting lots stand for the buckets of a tier's rolling window.
    assert meter.size(account_item(crowded())) < 1024


# A shop behind the handlers


class Shop:
    """The shop's handlers on fresh tables, and its wire."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.tables = tables
        self.client = workers.connect(engine.endpoint)
        self.direct = engine.client(parameter_validation=False)
        self.faults = Faults(self.client)

    def books(self) -> Books:
        return Books.read(self.direct, self.tables)

    def proved(self, member_id: str = "ana") -> tuple[Account, list[Entry]]:
        return workers.proved(self.direct, self.tables)[member_id]

    def on(self, days: float, **settings: Any) -> Any:
        """The service, so many days later (or earlier)."""
        settings = {"sleep": without_pause, **settings}
        return deployed(self.client, self.tables, NOON + timedelta(days=days), **settings)


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[Shop]:
    """A shop with one member, Ana, who has 50 points; today is `NOON`."""
    house = Shop(engine, tables)
    with house.on(-20):
        done(workers.publish(shop()))
        done(workers.enrol("ana", name="Ana"))
    with house.on(0):
        edge.store().rulebook_in_force("shop", NOW)
        house.faults.follow({})
        yield house


# Replays


def test_a_repeat_is_a_replay_whatever_its_function_is_called_by_then(
    house: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = workers.redeem("ana", "pay-1", points=10)
    first = done(call)
    monkeypatch.setattr(importlib.import_module("redeem").redeem, "__name__", "spend")
    again = send(call)
    assert (again.status, again.body) == (201, first)
    assert again.replayed
    house.proved()


@pytest.mark.parametrize(
    "call",
    [
        workers.enrol("ben", name="Ben"),
        workers.enrol(key="till-1", name="Cleo"),
        workers.purchase("order-1", "ana", 1250),
        workers.check_in("ana", "visit-1"),
        workers.redeem("ana", "pay-1", points=50),
        workers.redeem("ana", "pay-2", reward_id="free-coffee"),
        workers.reverse("order-0", "return-1"),
    ],
    ids=["enrolment", "enrolment by key", "award", "check-in", "redemption", "reward", "reversal"],
)
def test_a_repeat_gets_the_first_answer_and_writes_nothing(house: Shop, call: Call) -> None:
    done(workers.purchase("order-0", "ana", 20_000))
    first = send(call)
    assert first.status == 201, first.body
    assert "Idempotency-Replayed" not in first.headers
    # Other things happen meanwhile; they change nothing about it.
    with house.on(40):
        done(workers.award("review-9", "ana"))
        stands = house.books()
        again = send(call)
    assert again.replayed
    assert (again.status, again.body) == (first.status, first.body)
    assert house.books().ledger == stands.ledger
    house.proved()


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (workers.purchase("order-1", "ana", 1250), workers.purchase("order-1", "ana", 1251)),
        (workers.purchase("order-1", "ana", 1250), workers.purchase("order-1", "ben", 1250)),
        (workers.purchase("order-1", "ana", 1250), workers.award("order-1", "ana")),
        (workers.redeem("ana", "k", points=5), workers.redeem("ana", "k", points=6)),
        (workers.redeem("ana", "k", points=5), workers.redeem("ben", "k", points=5)),
        (workers.redeem("ana", "k", points=5), workers.check_in("ana", "k")),
        (workers.check_in("ana", "k"), workers.redeem("ana", "k", points=5)),
        (workers.check_in("ana", "k"), workers.enrol(key="k")),
    ],
)
def test_a_key_used_for_another_command_is_422(house: Shop, first: Call, other: Call) -> None:
    done(workers.enrol("ben"))
    done(first)
    before = house.books()
    answer = send(other)
    assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")
    assert house.books() == before


@pytest.mark.usefixtures("house")
def test_a_replay_is_recognised_before_anything_else_is_judged() -> None:
    scan = workers.check_in("ana", "visit-1")
    first = send(scan)
    pay = workers.redeem("ana", "pay-1", points=55)
    paid = send(pay)
    assert send(workers.check_in("ana", "visit-2")).body["code"] == "limit_reached"
    assert send(workers.redeem("ana", "pay-2", points=55)).body["code"] == "insufficient_points"
    for call, before in ((scan, first), (pay, paid)):
        again = send(call)
        assert again.replayed
        assert again.body == before.body


# Refusals


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (workers.redeem("ana", "k", points=51), "insufficient_points"),
        (workers.redeem("nobody", "k", points=1), "member_not_found"),
        (workers.award("e", "nobody"), "member_not_found"),
        (workers.reverse("check-in:unheard-of", "return"), "event_not_found"),
        (workers.enrol("ana", name="Another"), "member_exists"),
        (workers.award("e", "ana", occurred_at="2026-03-19T12:00:00Z"), "event_in_future"),
    ],
)
def test_a_refused_command_leaves_nothing(house: Shop, call: Call, code: str) -> None:
    before = house.books()
    answer = send(call)
    assert answer.body["code"] == code
    assert house.books() == before
    assert "TransactWriteItems" not in house.faults.operations or code == "member_exists"


def stale(house: Shop, table: str, item: Item | None) -> None:
    """From now on eventual reads of a table give this item: they lag behind."""

    def rewrite(asked: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if asked["TableName"] != table or asked.get("ConsistentRead"):
            return answer
        rest = {name: value for name, value in answer.items() if name != "Item"}
        return rest if item is None else rest | {"Item": _as_json(item)}

    house.faults.rewrite("GetItem", rewrite)


def _as_json(item: Item) -> Any:
    return json.loads(json.dumps(item, default=lambda raw: b64encode(raw).decode()))


def test_nothing_is_refused_because_of_a_stale_read(house: Shop) -> None:
    [poor] = house.books().accounts
    done(workers.purchase("order-1", "ana", 10_000))
    stale(house, house.tables.accounts, poor)
    answer = send(workers.redeem("ana", "pay-1", points=150))
    assert answer.status == 201, answer.body
    assert answer.body["balance"] == 0
    # And what must be refused is, though the stale read would allow it.
    refused = send(workers.redeem("ana", "pay-2", points=1))
    assert refused.body["code"] == "insufficient_points"
    house.proved()


def test_a_member_whom_a_stale_read_does_not_know_is_not_unknown(house: Shop) -> None:
    stale(house, house.tables.accounts, None)
    assert send(workers.redeem("ana", "pay-1", points=50)).status == 201
    assert send(workers.award("review-1", "ana")).status == 201
    house.proved()


def test_a_replay_needs_no_fresh_read(house: Shop) -> None:
    [before] = house.books().accounts
    pay = workers.redeem("ana", "pay-1", points=50)
    first = done(pay)
    stale(house, house.tables.accounts, before)
    house.faults.follow({})
    again = send(pay)
    assert (again.body, again.replayed) == (first, True)
    assert house.faults.operations == ["GetItem", "TransactWriteItems"]


# Races


def test_a_lost_race_is_decided_again_after_a_pause_on_what_stands_then(
    house: Shop,
) -> None:
    others = [workers.award(f"custom-{i}", "ana", "visit") for i in range(ATTEMPTS - 1)]
    plan = {i: meanwhile(other) for i, other in enumerate(others)}
    house.faults.follow(plan, of="TransactWriteItems")
    answer = send(workers.redeem("ana", "pay-1", points=50))
    assert answer.status == 201
    # A look costs a twentieth of a transaction that fails because somebody came in the pause.
    assert house.faults.operations == ["GetItem", "TransactWriteItems"] * ATTEMPTS
    account, history = house.proved()
    assert (account.balance, len(history)) == (0, ATTEMPTS + 1)


def test_who_came_in_the_pause_is_seen_before_anything_is_sent(house: Shop) -> None:
    """Who keeps losing lets others go first, and sends nothing that must fail."""
    others = iter([workers.award(f"custom-{i}", "ana", "visit") for i in range(7)])
    house.faults.follow({0: meanwhile(next(others))}, of="TransactWriteItems")

    def sleep(_seconds: float) -> None:
        for other in islice(others, 2):
            done(other)

    with house.on(0, sleep=sleep):
        assert send(workers.redeem("ana", "pay-1", points=50)).status == 201
    account, history = house.proved()
    assert (account.balance, len(history)) == (0, 9)
    # Six of the others' in three pauses; of its own the one that lost and the one that won.
    assert house.faults.operations.count("TransactWriteItems") == 6 + 2


def test_what_a_lost_race_forbids_is_refused_without_another_read(house: Shop) -> None:
    winner = workers.redeem("ana", "pay-1", points=30)
    house.faults.follow({0: meanwhile(winner)}, of="TransactWriteItems")
    answer = send(workers.redeem("ana", "pay-2", points=30))
    assert answer.body["code"] == "insufficient_points"
    assert answer.body["missing_points"] == 10
    assert house.faults.operations == ["GetItem", "TransactWriteItems"]
    house.proved()


def test_a_conflict_at_the_key_is_no_proof_that_it_is_free(house: Shop) -> None:
    """The first attempt is carried out and its answer lost; the second meets the moved account and
    a conflict at its own entry. What is refused then must not have happened: it has to look."""

    def step(request: AWSPreparedRequest) -> AWSResponse:
        [account] = house.books().accounts
        moved = {"Code": "ConditionalCheckFailed", "Item": _as_json(account)}
        return cancelled(request, moved, {"Code": "TransactionConflict"})

    house.faults.follow({0: "answer lost", 1: step}, of="TransactWriteItems")
    answer = insist(workers.redeem("ana", "pay-1", points=50))
    assert answer.status == 201, answer.body
    assert answer.replayed


def test_a_member_too_busy_is_shed_with_503_after_a_bounded_number_of_attempts(
    house: Shop,
) -> None:
    before = house.books()
    pauses: list[float] = []
    with house.on(0, sleep=pauses.append, jitter=lambda: 1.0):
        house.faults.follow({0: "conflict"}, of="TransactWriteItems", from_then_on=True)
        answer = send(workers.award("review-1", "ana"))
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert house.faults.operations.count("TransactWriteItems") == ATTEMPTS
    assert pauses == sorted(pauses), "each pause is longer than the one before"
    assert house.books() == before
    assert len(pauses) == ATTEMPTS - 1


def test_no_attempt_is_begun_after_the_patience_is_over(house: Shop) -> None:
    time = 0.0

    def monotonic() -> float:
        return time

    def sleep(seconds: float) -> None:
        nonlocal time
        time += seconds

    begun: list[float] = []

    def step(request: AWSPreparedRequest) -> AWSResponse:
        nonlocal time
        begun.append(time)
        time += 0.1  # so long takes a transaction
        return cancelled(request, {"Code": "TransactionConflict"}, {"Code": "None"})

    with house.on(0, sleep=sleep, monotonic=monotonic, jitter=lambda: 1.0):
        house.faults.follow({0: step}, of="TransactWriteItems", from_then_on=True)
        answer = send(workers.award("review-1", "ana"))
    assert answer.status == 503
    assert len(begun) > 3
    assert max(begun) - begun[0] <= PATIENCE_SECONDS


def test_after_a_lost_race_a_process_lets_others_in_before_its_next_command(house: Shop) -> None:
    """So that a till that sends one after the other does not win for ever; of other members, and
    a second later, nobody waits."""
    time = 0.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal time
        time += seconds
        pauses.append(seconds)

    def another(_: object) -> None:
        nonlocal time
        time += 0.01  # so long takes a transaction
        done(workers.award("review-0", "ana"))

    with house.on(0, sleep=sleep, monotonic=lambda: time, jitter=lambda: 1.0):
        done(workers.enrol("ben"))
        house.faults.follow({0: another}, of="TransactWriteItems")
        done(workers.award("review-1", "ana"))
        [after_the_loss] = pauses
        done(workers.award("review-2", "ben"))
        assert pauses == [after_the_loss]
        done(workers.award("review-3", "ana"))
        assert len(pauses) == 2
        assert 0 < pauses[1] <= after_the_loss
        time += CROWDED_SECONDS
        done(workers.award("review-4", "ana"))
        assert len(pauses) == 2
    house.proved()


def test_an_enrolment_whose_referral_code_is_taken_draws_another(house: Shop) -> None:
    taken = referral_code("shop", "ben", 0)
    item = {"pk": {"S": f"shop#referral#{taken}"}, "sk": {"S": "referral"}}
    house.direct.put_item(TableName=house.tables.records, Item=item)
    first = done(workers.enrol("ben"))
    assert first["referral_code"] == referral_code("shop", "ben", 1)
    assert done(workers.enrol("ben")) == first


def test_a_page_of_history_goes_on_where_the_index_gives_only_a_megabyte(house: Shop) -> None:
    done(workers.award("first", "ana"))
    first = edge.store().entry("shop", "e#first")
    assert first is not None
    long = first.explanation | {"u": {"budget": "9" * 20_000}}
    later = [
        replace(first, seq=seq, partition=f"e#later-{seq}", explanation=long)
        for seq in range(3, 103)
    ]
    puts = [{"PutRequest": {"Item": entry_item(entry)}} for entry in later]
    workers.put_all(house.direct, house.tables.ledger, puts)
    page = done(workers.entries("ana", limit="100"))
    assert [row["seq"] for row in page["items"]] == list(range(102, 2, -1))
    rest = done(workers.entries("ana", limit="100", cursor=page["next_cursor"]))
    assert ([row["seq"] for row in rest["items"]], rest["next_cursor"]) == ([2, 1], None)


def test_an_entry_that_no_item_could_hold_is_refused_and_leaves_nothing(house: Shop) -> None:
    rules = [
        {"rule_id": f"r{n}", "trigger": "purchase", "earn": {"points": 1, "per_quantity": 1}}
        for n in range(200)
    ]
    campaigns = [{"campaign_id": f"c{n}", "name": "More", "multiplier": "1.01"} for n in range(160)]
    done(workers.publish(shop(rules=rules, campaigns=campaigns, limits=[]), replaces=1))
    before = house.books()
    lines = [
        {"line_id": f"{n:03}" + "\N{BEER MUG}" * 100, "quantity": 1, "amount": 100}
        for n in range(500)
    ]
    order = workers.award("o", "ana", "purchase", purchase={"currency": "EUR", "lines": lines})
    with house.on(1):
        answer = send(order)
        assert (answer.status, answer.body["code"]) == (409, "entry_too_large")
        assert house.books() == before
        lines[:] = lines[:250]
        assert send(order).status == 201


def test_an_account_that_is_full_is_refused_but_its_repeats_are_replays(house: Shop) -> None:
    [item] = house.books().accounts
    account = account_of(item)
    used = sum(len(content) for value in item.values() for content in value.values())

    def fill(seen: Account, left: int) -> None:
        # By groups: what fills an account does not matter here.
        full = replace(seen, groups=("x" * (ACCOUNT_BYTES - used - left),))
        house.direct.put_item(TableName=house.tables.accounts, Item=account_item(full))

    fill(account, left=100)
    pay = workers.redeem("ana", "pay-1", points=10)
    first = done(pay)
    [item] = house.books().accounts
    fill(account_of(item), left=0)
    before = house.books()
    answer = send(workers.redeem("ana", "pay-2", points=10))
    assert (answer.status, answer.body["code"]) == (409, "account_too_large")
    assert house.books() == before
    again = send(pay)
    assert (again.status, again.body) == (201, first)


# Late events and the index


def beans(event_id: str, days: float) -> Call:
    """A purchase so many days from today, that gets 20 points extra once a week."""
    moment = NOON + timedelta(days=days)
    return workers.purchase(event_id, "ana", 100, 1900, occurred_at=moment.isoformat())


def test_a_late_event_counts_in_its_own_window(house: Shop) -> None:
    with house.on(-8):
        assert done(beans("order-1", -8))["points"] == 40
    assert done(beans("order-2", 0))["points"] == 40
    # Last week's counter is gone from the account; the history still knows.
    assert done(beans("late-1", -9))["points"] == 20
    # Of the week before that nothing is in the history, until this is.
    assert done(beans("late-2", -15))["points"] == 40
    assert done(beans("late-3", -16))["points"] == 20
    house.proved()


def test_a_late_event_waits_for_the_index_to_catch_up(house: Shop) -> None:
    with house.on(-8):
        done(beans("order-1", -8))
    done(beans("order-2", 0))
    asked_for = 0

    def lag(asked: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked_for
        if asked.get("IndexName") != "history":
            return answer
        asked_for += 1
        behind = max(0, 3 - asked_for)  # the newest entries are not there yet
        items = answer["Items"][behind:]
        return answer | {"Items": items, "Count": len(items)}

    house.faults.rewrite("Query", lag)
    assert done(beans("late-1", -9))["points"] == 20
    assert asked_for == 3
    house.proved()


def test_a_hole_in_the_index_is_never_taken_for_the_history(house: Shop) -> None:
    with house.on(-8):
        done(beans("order-1", -8))
    done(beans("order-2", 0))
    before = house.books()

    def hole(_: object, answer: dict[str, Any]) -> dict[str, Any]:
        items = [item for item in answer["Items"] if item.get("n") != {"N": "2"}]
        return answer | {"Items": items, "Count": len(items)}

    house.faults.rewrite("Query", hole)
    answer = send(beans("late-1", -9))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert house.books() == before


def test_a_late_event_that_loses_a_race_is_counted_again(house: Shop) -> None:
    with house.on(-8):
        done(workers.award("visit-0", "ana", "visit"))
    done(beans("order-2", 0))
    # Both are late for the same week, which pays the extra points once.
    house.faults.follow({0: meanwhile(beans("late-1", -9))}, of="TransactWriteItems")
    assert done(beans("late-2", -9))["points"] == 20
    house.proved()


# History


@pytest.mark.usefixtures("house")
def test_history_comes_in_pages_without_a_gap_or_a_double() -> None:
    for i in range(60):
        done(workers.award(f"visit-{i}", "ana", "visit"))
    rows: list[Any] = []
    pages = []
    query: dict[str, str] = {}
    while True:
        page = done(workers.entries("ana", **query))
        pages.append(len(page["items"]))
        rows += page["items"]
        if page["next_cursor"] is None:
            break
        query = {"cursor": page["next_cursor"]}
        # What comes in between does not move what was asked for.
        done(workers.award(f"between-{len(pages)}", "ana", "visit"))
    # the listing ends there.
    assert pages == [25, 25, 11]
    assert [row["seq"] for row in rows] == list(range(61, 0, -1))
    assert rows[-1]["kind"] == "award"


def test_what_fell_due_before_a_command_stands_in_its_entry_as_a_row_of_its_own(
    house: Shop,
) -> None:
    with house.on(420):
        done(workers.purchase("order-1", "ana", 1000))
        items = done(workers.entries("ana"))["items"]
        ones = [done(workers.entries("ana", limit="1"))]
        while ones[-1]["next_cursor"]:
            ones.append(done(workers.entries("ana", limit="1", cursor=ones[-1]["next_cursor"])))
    assert [(row["seq"], row["kind"], row["points"]) for row in items] == [
        (2, "award", 10),
        (2, "expire", -50),
        (1, "award", 50),
    ]
    assert [row for page in ones for row in page["items"]] == items
    house.proved()


@pytest.mark.usefixtures("house")
def test_every_entry_under_a_key_is_found_beside_the_award() -> None:
    done(workers.purchase("order-1", "ana", 1000))
    done(workers.reverse("order-1", "return-1"))
    found, waiting = edge.store().under("shop", "e#order-1")
    assert waiting == []
    assert [(entry.sort, entry.kind) for entry in found] == [
        ("0", "award"),
        ("r#return-1", "reverse"),
    ]


def test_the_ledger_only_ever_grows(house: Shop) -> None:
    """Every write to it is a put within a transaction under a key that must be free."""
    seen: dict[tuple[str, str], Item] = {}

    def watch(request: AWSPreparedRequest, event_name: str, **_: object) -> None:
        asked = asked_of(request)
        table = house.tables.ledger
        if event_name.endswith("TransactWriteItems"):
            writes = [write for item in asked["TransactItems"] for write in item.items()]
            for kind, write in writes:
                if write["TableName"] == table:
                    assert kind == "Put"
                    assert write["ConditionExpression"] == "attribute_not_exists(pk)"
        elif asked.get("TableName") == table:
            assert event_name.endswith(("GetItem", "Query"))
        else:
            assert table not in json.dumps(asked)

    house.client.meta.events.register("before-send.dynamodb", watch)
    calls = [
        workers.enrol("ben", groups=["vip"]),
        workers.purchase("order-1", "ana", 12_000),
        workers.check_in("ana", "visit-1"),
        workers.redeem("ana", "pay-1", reward_id="free-coffee"),
        workers.redeem("ana", "pay-2", points=7),
        workers.change("ana", groups=["vip"], name="Anna"),
        workers.reverse("order-1", "return-1"),
    ]
    for call in calls * 2:
        insist(call)
        for item in house.books().ledger:
            key = item["pk"]["S"], item["sk"]["S"]
            assert seen.setdefault(key, item) == item
        assert len(seen) == len(house.books().ledger)
    house.proved()


def test_every_due_account_is_found_once_whatever_the_segments(house: Shop) -> None:
    for i in range(40):
        due = replace(crowded(member_id=f"m-{i}"), due_on=20_530 + i)
        house.direct.put_item(TableName=house.tables.accounts, Item=account_item(due))
    for segments in (1, 3, 8):
        found: list[str] = []
        for segment in range(segments):
            start: Item | None = None
            while True:
                page = edge.store().due_accounts(20_549, 0, [101], segment, segments, start)
                found += [account.member_id for _, account in page.accounts if account]
                start = page.following
                if start is None:
                    break
        assert sorted(found) == sorted(f"m-{i}" for i in range(20))


# Records


def test_of_two_changes_of_one_profile_both_are_made(house: Shop) -> None:
    change = workers.change("ana", name="Anna")
    house.faults.follow({0: meanwhile(workers.change("ana", phone="+33 1"))}, of="PutItem")
    changed = done(change)
    assert (changed["name"], changed["phone"]) == ("Anna", "+33 1")


# Programs


def words(chance: random.Random, length: int) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz éà0123456789", k=length))


def large(rules: int, labels: int) -> dict[str, Any]:
    """A program that hardly compresses."""
    chance = random.Random(1)  # noqa: S311  # a test, reproducible
    return shop(
        rules=[
            {
                "rule_id": "purchase",
                "trigger": "purchase",
                "earn": {"points": 1, "per_amount": 100},
            },
            *(
                {
                    "rule_id": f"rule-{i}",
                    "name": words(chance, 60).strip() or "x",
                    "trigger": "purchase",
                    "match": {"products": [words(chance, 100) for _ in range(labels)]},
                    "earn": {"points": 1, "per_amount": 100},
                }
                for i in range(1, rules)
            ),
        ]
    )


def test_a_program_of_five_mebibytes_and_2000_rules_is_kept_in_parts(house: Shop) -> None:
    document = large(2000, 22)
    size = len(json.dumps(document, ensure_ascii=False).encode())
    assert 4_900_000 < size <= edge.PROGRAM_BYTES
    answer = send(workers.publish(document, replaces=1))
    assert answer.status == 200, answer.body
    assert answer.body["version"] == 2
    newest = edge.store().versions("shop")[0]
    assert newest.parts > 5
    assert edge.store().document("shop", 2) == document
    with house.on(1):
        assert len(edge.store().rulebook_in_force("shop", NOW + 10**8).program.rules) == 2000
        assert done(workers.purchase("order-1", "ana", 1000))["points"] == 10


def test_a_version_whose_part_is_missing_is_a_defect_and_no_program(house: Shop) -> None:
    ledger = edge.store()
    document = {"text": words(random.Random(2), 600_000)}  # noqa: S311  # a test, reproducible
    published = ledger.publish("other", document, number=1, now=NOW, delay=DAY, by="tests")
    assert published is not None
    assert published.parts == 2
    assert ledger.document("other", 1) == document
    key = {"pk": {"S": "other#program"}, "sk": {"S": f"p#{published.digest}#1"}}
    house.direct.delete_item(TableName=house.tables.records, Key=key)
    with pytest.raises(Broken):
        ledger.document("other", 1)


def test_one_version_number_is_taken_once(house: Shop) -> None:
    ledger = edge.store()
    publish = ledger.publish
    first = publish("other", {"a": 1}, number=1, now=NOW, delay=DAY, by="ann")
    assert first is not None
    assert publish("other", {"a": 2}, number=1, now=NOW, delay=DAY, by="ben") is None
    assert ledger.versions("other") == (first,)
    assert ledger.document("other", 1) == {"a": 1}
    # A header that says so little stands for all: the number is what counts.
    house.faults.follow({1: meanwhile(workers.publish(smallest(program_id="x")))}, of="PutItem")
    answer = send(workers.publish(smallest(program_id="x", name="Another")))
    assert (answer.status, answer.body["code"]) == (412, "version_conflict")
    assert edge.store().document("x", 1)["name"] == "Test"


@pytest.mark.usefixtures("house")
def test_publishing_names_the_version_that_it_replaces() -> None:
    two = shop(name="Two")
    assert send(workers.publish(two)).body["code"] == "precondition_required"
    assert send(workers.publish(two, replaces=7)).body["code"] == "version_conflict"
    first = done(workers.publish(two, replaces=1))
    assert done(workers.publish(two, replaces=1)) == first, "a repeat gets the same answer"
    assert [version.number for version in edge.store().versions("shop")] == [2, 1]


def test_a_version_counts_from_its_time_on(house: Shop) -> None:
    done(workers.publish(shop(limits=[]), replaces=1))
    in_force_at = {
        NOW - 10**9: 1,
        NOW: 1,
        NOW + 29_999: 1,
        NOW + 30_000: 2,
        NOW + 10**9: 2,
    }
    versions = edge.store().versions("shop")
    assert {at: in_force(versions, at).number for at in in_force_at} == in_force_at
    big = workers.purchase("order-1", "ana", 200_000)
    assert done(big)["points"] == 1000
    with house.on(30 / 86_400):
        assert done(workers.purchase("order-2", "ana", 200_000))["points"] == 2000
        # A replay is told by the version that it was decided under.
        assert send(big).body["limited_by"]
    _, history = house.proved()
    assert [entry.version for entry in history] == [1, 1, 2]


def test_a_process_hears_of_a_new_version_before_it_counts(engine: Engine, tables: Tables) -> None:
    time = 0.0
    ledger = of_tables(workers.connect(engine.endpoint), tables, monotonic=lambda: time)
    other = of_tables(workers.connect(engine.endpoint), tables)
    delay = timedelta(seconds=30)
    other.publish("shop", shop(), number=1, now=NOW, delay=delay, by="tests")
    assert ledger.rulebook_in_force("shop", NOW).version == 1
    other.publish("shop", shop(name="Two"), number=2, now=NOW, delay=delay, by="tests")
    time += 29
    assert ledger.rulebook_in_force("shop", NOW + 29_000).version == 1
    time += 1
    assert ledger.rulebook_in_force("shop", NOW + 30_000).version == 2
    with pytest.raises(Refusal, match="No program"):
        ledger.rulebook_in_force("unheard-of", NOW)
