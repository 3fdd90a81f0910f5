"""Clients of the handlers: in this process, or sixty-four at once in processes of their own; and
the proof that what stands in the tables afterwards obeys the ledger's laws."""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self
from unittest import mock

from loyalty import edge, store
from loyalty.codes import CheckInCode, check_in_code
from loyalty.dates import rfc3339
from loyalty.model import Account, Entry
from loyalty.wire import Item, account_of, entry_item, entry_of, is_waiting, item_hash
from tests.faults import Faults, Plan, Step
from tools import meter
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables
from tools.template import ROOT

NOON = datetime(2026, 3, 18, 12, 0, tzinfo=UTC)
"""A Wednesday, far from the edges of its day, week and month."""
SECRETS = json.dumps({"1": "a secret that only tests know"})
HANDLERS = ("admin", "award", "balance", "check_in", "members", "redeem", "staff")
BASE = "/v1/programs/{program_id}"
TRIES = 60
"""How often a client sends a request that was answered with 503, before it gives up."""
PROCESSES = 8
THREADS = 8
PATIENCE_SECONDS = 60


# Requests


@dataclass(frozen=True, slots=True)
class Call:
    """A request as a client means it: which route of which function, and what is sent."""

    module: str
    route: str
    path: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    program_id: str = "shop"
    scope: str = "loyalty/admin"
    subject: str = "tests"
    claims: Mapping[str, str] = field(default_factory=dict)

    def event(self) -> dict[str, Any]:
        """The event of API Gateway's payload format 2.0; a `body` that is a text goes as it is."""
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": self.route,
            "headers": {"content-type": "application/json", **self.headers},
            "pathParameters": {"program_id": self.program_id, **self.path},
            "requestContext": {
                "domainName": "points.example",
                "requestId": "request",
                "authorizer": {
                    "jwt": {"claims": {"scope": self.scope, "sub": self.subject, **self.claims}}
                },
            },
            "isBase64Encoded": False,
        }
        if self.query:
            event["queryStringParameters"] = dict(self.query)
        if self.body is not None:
            text = self.body if isinstance(self.body, str) else None
            event["body"] = json.dumps(self.body, ensure_ascii=False) if text is None else text
        return event


def _keyed(key: str | None) -> dict[str, str]:
    return {} if key is None else {"idempotency-key": key}


def enrol(member_id: str | None = None, *, key: str | None = None, **more: Any) -> Call:
    body = more if member_id is None else {"member_id": member_id, **more}
    return Call("members", f"POST {BASE}/members", body=body, headers=_keyed(key))


def change(member_id: str, **fields: Any) -> Call:
    """PATCH of a profile."""
    path = {"member_id": member_id}
    return Call("members", f"PATCH {BASE}/members/{{member_id}}", path, fields)


def profile(member_id: str) -> Call:
    return Call("members", f"GET {BASE}/members/{{member_id}}", {"member_id": member_id})


def export(member_id: str, **query: str) -> Call:
    path = {"member_id": member_id}
    return Call("members", f"GET {BASE}/members/{{member_id}}/export", path, query=query)


def erase(member_id: str) -> Call:
    return Call("members", f"DELETE {BASE}/members/{{member_id}}", {"member_id": member_id})


def merge(member_id: str, into: str, key: str | None) -> Call:
    """Make one member an alias of another."""
    path, body = {"member_id": member_id}, {"into_member_id": into}
    return Call("staff", f"POST {BASE}/members/{{member_id}}/merge", path, body, _keyed(key))


def become(what: str, member_id: str, key: str | None = None) -> Call:
    """`block`, `unblock` or `close` a member."""
    path = {"member_id": member_id}
    route = f"POST {BASE}/members/{{member_id}}/{what}"
    return Call("staff", route, path, headers=_keyed(key))


def adjust(member_id: str, points: int, key: str, **more: Any) -> Call:
    """Points that staff give or take."""
    body = {"member_id": member_id, "points": points, "reason_code": "goodwill", **more}
    return Call("staff", f"POST {BASE}/adjustments", body=body, headers=_keyed(key))


def set_tier(member_id: str, **body: Any) -> Call:
    return Call("staff", f"POST {BASE}/members/{{member_id}}/tier", {"member_id": member_id}, body)


def settle(how: str, adjustment_id: str, by: str = "tests") -> Call:
    """`approve` or `refuse` an adjustment that was proposed."""
    path = {"adjustment_id": adjustment_id}
    call = Call("staff", f"POST {BASE}/adjustments/{{adjustment_id}}/{how}", path)
    return replace(call, subject=by)


def by_member(call: Call, member_id: str) -> Call:
    """The same request with the token of a member."""
    return replace(call, scope="loyalty/member", claims={"member_id": member_id})


def award(event_id: str, member_id: str, type: str = "review", **more: Any) -> Call:
    body = {"event_id": event_id, "type": type, "member_id": member_id, **more}
    return Call("award", f"POST {BASE}/awards", body=body)


def purchase(event_id: str, member_id: str, *amounts: int, **more: Any) -> Call:
    """A purchase of lines of these amounts in cents; every one but the first is of beans."""
    lines = [
        {"line_id": str(i), "quantity": 1, "amount": amount, "category_ids": ["beans"][: bool(i)]}
        for i, amount in enumerate(amounts)
    ]
    bought = {"currency": "EUR", "lines": lines}
    return award(event_id, member_id, "purchase", purchase=bought, **more)


def reverse(event_id: str, refund_id: str, **what: Any) -> Call:
    body = {"event_id": event_id, "refund_id": refund_id, **what}
    return Call("award", f"POST {BASE}/reversals", body=body)


def redeem(member_id: str, key: str, **what: Any) -> Call:
    body = {"member_id": member_id, **what}
    return Call("redeem", f"POST {BASE}/redemptions", body=body, headers=_keyed(key))


def capture(redemption_id: str) -> Call:
    path = {"redemption_id": redemption_id}
    return Call("redeem", f"POST {BASE}/redemptions/{{redemption_id}}/capture", path)


def cancel(redemption_id: str) -> Call:
    path = {"redemption_id": redemption_id}
    return Call("redeem", f"POST {BASE}/redemptions/{{redemption_id}}/cancel", path)


def voucher(code: str) -> Call:
    return Call("vouchers", f"GET {BASE}/vouchers/{{code}}", {"code": code})


def use(code: str, key: str | None = None) -> Call:
    """Use a voucher."""
    path = {"code": code}
    return Call("vouchers", f"POST {BASE}/vouchers/{{code}}/use", path, headers=_keyed(key))


def rewards(member_id: str, **query: str) -> Call:
    path = {"member_id": member_id}
    return Call("balance", f"GET {BASE}/members/{{member_id}}/rewards", path, query=query)


def transfer(key: str, **what: Any) -> Call:
    return Call("transfer", f"POST {BASE}/transfers", body=what, headers=_keyed(key))


def check_in(member_id: str, key: str | None, location_id: str = "corner") -> Call:
    code = check_in_code(store.secrets_of(SECRETS), CheckInCode("shop", location_id, 1))
    body = {"member_id": member_id, "code": code}
    return Call("check_in", f"POST {BASE}/check-ins", body=body, headers=_keyed(key))


def publish(document: Mapping[str, Any], replaces: int | None = None) -> Call:
    return Call(
        "admin",
        f"PUT {BASE}/program",
        body=document,
        headers={} if replaces is None else {"if-match": f'"{replaces}"'},
        program_id=document["program_id"],
    )


def balance(member_id: str, **query: str) -> Call:
    path = {"member_id": member_id}
    return Call("balance", f"GET {BASE}/members/{{member_id}}/balance", path, query=query)


def entries(member_id: str, **query: str) -> Call:
    path = {"member_id": member_id}
    return Call("balance", f"GET {BASE}/members/{{member_id}}/entries", path, query=query)


# A deployment in this process


def connect(endpoint: str) -> Any:
    """The store's own client, of a local engine."""
    return store.connect(
        endpoint_url=endpoint,
        region_name=LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=LOCAL_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=LOCAL_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def without_pause(_seconds: float) -> None:
    """In place of `time.sleep`."""


def of_tables(client: Any, tables: Tables, **how: Any) -> store.Store:
    """A store that has just been started; it does not pause between attempts."""
    settings = {"sleep": without_pause, **how}
    return store.Store(
        client, accounts=tables.accounts, ledger=tables.ledger, records=tables.records, **settings
    )


@contextmanager
def deployed(
    client: Any, tables: Tables, now: datetime = NOON, **settings: Any
) -> Iterator[Callable[[], None]]:
    """The handlers work on these tables through this client, at a time that stands still.

    `settings` are the store's (sleep, monotonic, jitter). Gives a function that forgets what the
    process knew, as a newly started one.
    """
    variables = {
        **tables.environment,
        "LOYALTY_SECRETS": SECRETS,
        "PROGRAM_DELAY_SECONDS": "30",
    }

    def restart() -> None:
        for known in (edge.store, edge.secrets, edge.publish_delay):
            known.cache_clear()

    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(store, "connect", return_value=client),
        mock.patch.object(edge, "Store", partial(store.Store, **settings)),
        mock.patch.object(edge, "clock", return_value=now),
    ):
        restart()
        try:
            yield restart
        finally:
            restart()


class Answer(NamedTuple):
    """What came back, after how many tries."""

    status: int
    headers: Mapping[str, str]
    body: Any
    tries: int = 1

    @property
    def replayed(self) -> bool:
        return self.headers.get("Idempotency-Replayed") == "true"


def send(call: Call) -> Answer:
    """The handler's answer to a request sent once."""
    handler = importlib.import_module(call.module).handler
    answer = handler(call.event(), None)
    return Answer(answer["statusCode"], answer["headers"], json.loads(answer["body"]))


def insist(call: Call, pause: Callable[[float], None] = without_pause) -> Answer:
    """What a client gets that sends the same request again after each 503, as it is told to.

    `pause` is called with the seconds of Retry-After.
    """
    for tries in range(1, TRIES + 1):
        answer = send(call)
        if answer.status != 503:
            return answer._replace(tries=tries)
        assert answer.body["code"] == "unavailable"
        pause(float(answer.headers["Retry-After"]))
    raise AssertionError(f"still 503 after {TRIES} tries")


def done(call: Call) -> Any:
    """The body of an answer that has to be a success."""
    answer = send(call)
    assert answer.status in (200, 201), answer.body
    return answer.body


def meanwhile(call: Call) -> Step:
    """A step of a plan: somebody else sends this first, and succeeds."""

    def step(_: object) -> None:
        done(call)

    return step


# Many clients at once


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: each script by a thread of its own."""

    endpoint: str
    tables: Tables
    now: datetime
    scripts: Sequence[Sequence[Call]]
    seed: int
    faults_in_thousand: int
    abreast: bool


class Played(NamedTuple):
    """Answers by client, in the order sent; all transactions sent; seconds it took."""

    answers: list[list[Answer]]
    transactions: int
    seconds: float

    @property
    def flat(self) -> list[Answer]:
        return [answer for script in self.answers for answer in script]


class Clients:
    """Sixty-four clients in eight processes, each process with a store and a connection of its own.

    The processes come from a server that has imported everything once, and know nothing of this
    one's threads and connections.
    """

    def __enter__(self) -> Self:
        context = processes()
        self._barrier = context.Barrier(PROCESSES * THREADS, timeout=PATIENCE_SECONDS)
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._barrier), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(PATIENCE_SECONDS)
            process.close()

    def play(
        self,
        endpoint: str,
        tables: Tables,
        scripts: Sequence[Sequence[Call]],
        *,
        now: datetime = NOON,
        seed: int = 0,
        faults_in_thousand: int = 0,
        abreast: bool = False,
    ) -> Played:
        """Let every client send its script, all beginning at one moment; one script for each.

        With `faults_in_thousand`, so many of the calls to the tables meet a fault. `abreast`, no
        client writes before every one has read and decided: the worst race that there can be.
        """
        assert len(scripts) == PROCESSES * THREADS
        begun = time.monotonic()
        for i, pipe in enumerate(self._pipes):
            share = scripts[i * THREADS : (i + 1) * THREADS]
            pipe.send(Job(endpoint, tables, now, share, seed + i, faults_in_thousand, abreast))
        answers: list[list[Answer]] = []
        transactions = 0
        for pipe in self._pipes:
            assert pipe.poll(PATIENCE_SECONDS), "a process of clients does not answer"
            result = pipe.recv()
            if isinstance(result, Exception):
                raise result
            answers += result[0]
            transactions += result[1]
        return Played(answers, transactions, time.monotonic() - begun)


@cache
def processes() -> Any:
    """The context in which processes are started: from a clean one that has imported all this."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *HANDLERS])
    path = os.pathsep.join(str(ROOT / part) for part in ("functions", "shared", "."))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def _serve(pipe: Connection, barrier: threading.Barrier) -> None:
    hush()
    while (job := pipe.recv()) is not None:
        try:
            pipe.send(_play(job, barrier))
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the test that asked
            barrier.abort()
            pipe.send(RuntimeError(repr(error)))


def _play(job: Job, barrier: threading.Barrier) -> tuple[list[list[Answer]], int]:
    client = connect(job.endpoint)
    faults = Faults(client)
    chance = random.Random(job.seed)  # noqa: S311  # a test, reproducible

    def pause(seconds: float) -> None:
        # A second is long for a test; spread, so that clients do not come back together.
        time.sleep(seconds * 0.1 * chance.random())

    def client_of(script: Sequence[Call]) -> list[Answer]:
        barrier.wait()
        return [insist(call, pause) for call in script]

    written = threading.local()

    def wait_for_all(**_: object) -> None:
        if not hasattr(written, "once"):
            written.once = True
            barrier.wait()

    with deployed(client, job.tables, job.now):
        if job.abreast:
            client.meta.events.register("before-send.dynamodb.TransactWriteItems", wait_for_all)
        for program_id in {call.program_id for script in job.scripts for call in script}:
            edge.store().rulebook_in_force(program_id, 0)
        if job.faults_in_thousand:
            faults.scatter(job.faults_in_thousand, chance)
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(client_of, job.scripts))
    return answers, faults.operations.count("TransactWriteItems")


def die_at(endpoint: str, tables: Tables, now: datetime, call: Call, plan: Plan) -> None:
    """Send a request in a process that a fault of the plan kills; status 0 if it was not killed."""
    hush()
    client = connect(endpoint)
    Faults(client).follow(plan)
    with deployed(client, tables, now, sleep=without_pause):
        send(call)


def hush() -> None:
    # Metrics and logs of the handlers are nobody's business here.
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # os.devnull is a name, not a path
        os.dup2(nowhere.fileno(), 1)


# What stands in the tables


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that stands in the three tables, in a fixed order."""

    accounts: tuple[Item, ...]
    ledger: tuple[Item, ...]
    records: tuple[Item, ...]

    @classmethod
    def read(cls, client: Any, tables: Tables) -> Self:
        def every(table: str) -> tuple[Item, ...]:
            pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
            items = [item for page in pages for item in page["Items"]]
            return tuple(sorted(items, key=_key))

        return cls(every(tables.accounts), every(tables.ledger), every(tables.records))

    @property
    def without_jobs(self) -> Books:
        """The same but for where the jobs of the sweep stand."""
        records = tuple(item for item in self.records if item["pk"]["S"] != "#sweep")
        return replace(self, records=records)

    def put(self, client: Any, tables: Tables, now: Books) -> None:
        """Make the tables hold this and nothing else; `now` is what they hold."""
        for table, before, after in (
            (tables.accounts, now.accounts, self.accounts),
            (tables.ledger, now.ledger, self.ledger),
            (tables.records, now.records, self.records),
        ):
            kept = {_key(item) for item in after}
            requests: list[Any] = [
                {"DeleteRequest": {"Key": {k: v for k, v in item.items() if k in ("pk", "sk")}}}
                for item in before
                if _key(item) not in kept
            ]
            requests += [{"PutRequest": {"Item": item}} for item in after if item not in before]
            put_all(client, table, requests)


def come_often(client: Any, tables: Tables, member_id: str, entries: int) -> Account:
    """Enrol a member who has come so often, written beside the store: the same award again and
    again. The account after the first; in a service that is deployed."""
    done(enrol(member_id))
    done(award(f"review-{member_id}", member_id))
    first = edge.store().entry("shop", f"e#review-{member_id}")
    account = edge.store().account("shop", member_id)
    assert first is not None
    assert account is not None
    later = (
        replace(first, seq=seq, partition=f"e#{member_id}-{seq}") for seq in range(3, entries + 1)
    )
    put_all(client, tables.ledger, [{"PutRequest": {"Item": entry_item(e)}} for e in later])
    return replace(account, seq=max(2, entries))


def left(name: str = "program") -> int | None:
    """What the shop's budget or stock of that name has left; None where it was never drawn on."""
    standing = edge.store().budget("shop", name)
    return None if standing is None else standing[1]


def put_all(client: Any, table: str, requests: Sequence[Any]) -> None:
    """Write many items beside the store, as no function of the service may."""
    for at in range(0, len(requests), 25):
        answer = client.batch_write_item(RequestItems={table: requests[at : at + 25]})
        assert not answer.get("UnprocessedItems")


def _key(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"] if "sk" in item else ""


def proved(client: Any, tables: Tables) -> dict[str, tuple[Account, list[Entry]]]:
    """Every member's account and entries, oldest first, after all of this has been found true:

    the index shows the entries that the ledger holds, and every one belongs to a member; they are
    numbered from 1 without a gap and chained by hash; folding them from nothing gives the stored
    account and every balance on the way; points are neither made nor lost; every debit names lots
    that held it; counters are what the entries added.
    """
    books = Books.read(client, tables)
    stored = {_key(item): item for item in books.ledger if not is_waiting(item)}
    seen: Counter[tuple[str, str]] = Counter()
    members = {}
    for account_item in books.accounts:
        account = account_of(account_item)
        folded = Account(program_id=account.program_id, member_id=account.member_id)
        history = []
        points = 0
        for row in _index(client, tables, account_item["pk"]["S"]):
            item = stored[_key(row)]
            seen[_key(row)] += 1
            assert row == {name: item[name] for name in row}
            entry = entry_of(item)
            assert entry.seq == folded.seq + 1
            assert bytes(item["h"]["B"]) == item_hash(item, folded.hash)
            folded = folded.after(entry)
            points += sum(posting.points for posting in entry.postings)
            assert folded.balance == entry.balance
            total = folded.available + folded.pending_points + folded.held - folded.debt
            assert total == points
            history.append(entry)
        # A birthday is personal: the account holds it, the ledger does not.
        assert replace(folded, birthday=account.birthday) == account
        members[account.member_id] = account, history
    assert seen == Counter(stored.keys()), "an entry belongs to no member, or to two"
    return members


def sweep_event() -> dict[str, Any]:
    """The only message of another job of the sweep, as the queue delivers it."""
    at = rfc3339(next(_jobs) * 1000)
    message = {"scheduled_time": at, "segment": 0, "segments": 1}
    return {"Records": [{"messageId": "1", "body": json.dumps(message)}]}


_jobs = itertools.count()


class House:
    """The handlers on fresh tables, behind a wire that can be broken; its time begins at noon."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.endpoint = engine.endpoint
        self.tables = tables
        self.client = connect(engine.endpoint)
        self.direct = engine.client(parameter_validation=False)
        self.faults = Faults(self.client)
        meter.attach(self.client)

    def after(self, **passed: float) -> AbstractContextManager[Any]:
        """The service after so many `days`, `hours` or `minutes`, as a process just started."""
        return deployed(self.client, self.tables, NOON + timedelta(**passed), sleep=without_pause)

    def on(self, days: float) -> AbstractContextManager[Any]:
        return self.after(days=days)

    def books(self) -> Books:
        return Books.read(self.direct, self.tables)

    def accounts(self) -> dict[str, Account]:
        """Every account, after all entries have been found true."""
        members = proved(self.direct, self.tables)
        return {member_id: account for member_id, (account, _) in members.items()}

    def sweep(self) -> None:
        """The scheduled sweep of all accounts."""
        context = mock.Mock(get_remaining_time_in_millis=lambda: 900_000)
        handler = importlib.import_module("expire").handler
        assert handler(sweep_event(), context) == {"batchItemFailures": []}


def _index(client: Any, tables: Tables, member: str) -> Iterator[Item]:
    """A member's rows of the history index, oldest first."""
    pages = client.get_paginator("query").paginate(
        TableName=tables.ledger,
        IndexName="history",
        KeyConditionExpression="m = :m",
        ExpressionAttributeValues={":m": {"S": member}},
    )
    for page in pages:
        yield from page["Items"]
