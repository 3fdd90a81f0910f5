"""Many clients at once: on one member and on a thousand; and what an award's CPU goes to.

    python -m tools.bench_load [--seconds 10] [--write]

The handlers run in processes of their own, as Lambda functions would, on a fresh engine in memory;
each client sends its next award as soon as the last was answered, a review worth 10 points under
limits a day and a week that nobody reaches. A 503 is shed: the client sends the same award again
after Retry-After. In the end the books are read: every award that was acknowledged stands in the
ledger once, and nothing else does.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from loyalty import edge
from tests import workers
from tests.programs import shop
from tests.workers import NOON, connect, deployed, proved
from tools.bench import measured_on, told
from tools.engine import Engine, Tables, create_tables
from tools.template import Template

PROCESSES = 8
HOT = "hot"
MEMBERS = 1_000
POINTS = 10
STOCK = 100_000
"""What each member has before the first of many redemptions."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does: so many clients, each with requests of its own, for a while."""

    endpoint: str
    tables: Tables
    clients: range
    members: int
    seconds: float
    redeem: bool


@dataclass(frozen=True, slots=True)
class Done:
    """What a process did: what its clients heard, the transactions and all calls it sent."""

    heard: list[Heard]
    transactions: int
    calls: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Of one request: milliseconds until the answer, whether it was shed, its Retry-After."""

    milliseconds: float
    shed: bool
    retry_after: float


def _load(share: Share) -> Done:
    client = connect(share.endpoint)
    sent: Counter[str] = Counter()

    def count(event_name: str, **_: object) -> None:
        sent[event_name] += 1

    client.meta.events.register("before-send.dynamodb", count)
    with (
        deployed(client, share.tables, NOON, sleep=time.sleep),
        ThreadPoolExecutor(len(share.clients)) as pool,
    ):
        edge.store().rulebook_in_force("shop", 0)
        sent.clear()
        until = time.monotonic() + share.seconds
        work = [pool.submit(_client, share, number, until) for number in share.clients]
        heard = [one for each in work for one in each.result()]
    transactions = sum(n for name, n in sent.items() if name.endswith("TransactWriteItems"))
    return Done(heard, transactions, sent.total())


def _prepare(share: Share) -> None:
    with deployed(connect(share.endpoint), share.tables):
        workers.done(workers.publish(_program()))
        for number in range(share.members):
            member = _member(share, number)
            workers.done(workers.enrol(member))
            if share.redeem:
                workers.done(workers.adjust(member, STOCK, f"stock-{member}"))


def _member(share: Share, number: int) -> str:
    return HOT if share.members == 1 else f"member-{number}"


def _client(share: Share, number: int, until: float) -> list[Heard]:
    chance = random.Random(number)  # noqa: S311  # which member comes next, and when
    heard: list[Heard] = []
    event = 0
    while time.monotonic() < until:
        member = _member(share, chance.randrange(share.members))
        key = f"{number}-{event}"
        if share.redeem:
            call = workers.redeem(member, key, points=POINTS)
        else:
            call = workers.award(key, member)
        while True:
            begun = time.monotonic()
            answer = workers.send(call)
            waited = (time.monotonic() - begun) * 1000
            if answer.status == 201:
                heard.append(Heard(waited, False, 0))
                break
            assert answer.status == 503, answer.body
            after = float(answer.headers["Retry-After"])
            heard.append(Heard(waited, True, after))
            time.sleep(after * (0.5 + chance.random()))
        event += 1
    return heard


def _quiet() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@dataclass(frozen=True, slots=True)
class Result:
    """What so many clients met."""

    clients: int
    members: int
    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float
    attempts: float
    calls: float
    shed: int
    slowest_shed: float

    def row(self) -> str:
        cells = (
            self.clients,
            self.members,
            f"{self.requests / self.seconds:.0f}",
            *(f"{value:.0f}" for value in (self.p50, self.p95, self.p99)),
            f"{self.attempts:.2f}",
            self.shed,
            f"{self.slowest_shed:.0f}" if self.shed else "",
        )
        return f"| {' | '.join(map(str, cells))} |"


def under_load(clients: int, members: int, seconds: float, *, redeem: bool = False) -> Result:
    """So many clients on so many members; raises if an award or redemption is lost or doubled."""
    with Engine() as engine:
        tables = create_tables(engine.endpoint, "loyalty-load", Template.load())
        processes = min(PROCESSES, clients)
        shares = [
            Share(engine.endpoint, tables, range(n, clients, processes), members, seconds, redeem)
            for n in range(processes)
        ]
        with ProcessPoolExecutor(processes, workers.processes(), _quiet) as pool:
            pool.submit(_prepare, shares[0]).result()
            outcomes = list(pool.map(_load, shares))
        books = proved(engine.client(), tables)
    kind = "redeem" if redeem else "award"
    kept = sum(entry.kind == kind for _, entries in books.values() for entry in entries)
    points = sum(account.balance for account, _ in books.values())
    moved = members * STOCK - points if redeem else points
    heard = [each for outcome in outcomes for each in outcome.heard]
    waits = sorted(each.milliseconds for each in heard if not each.shed)
    if not len(waits) == kept == moved // POINTS:
        raise AssertionError(f"{len(waits)} acknowledged, {kept} in the ledger, {moved} points")
    shed = [each.milliseconds for each in heard if each.shed]
    return Result(
        clients,
        members,
        kept,
        seconds,
        waits[len(waits) // 2],
        waits[len(waits) * 95 // 100],
        waits[len(waits) * 99 // 100],
        sum(outcome.transactions for outcome in outcomes) / kept,
        sum(outcome.calls for outcome in outcomes) / kept,
        len(shed),
        max(shed, default=0),
    )


def _program() -> dict[str, Any]:
    review = {"rule_id": "review", "trigger": "review", "earn": {"points": POINTS}}
    limits = [{"points": 1_000_000_000, "per": per} for per in ("day", "week")]
    return shop(rules=[review], limits=limits)


def hot(seconds: float) -> str:
    """The table of one busy member beside a thousand."""
    head = (
        "| clients | members | awards/s | p50, ms | p95, ms | p99, ms "
        "| transactions per award | 503s | slowest 503, ms |"
    )
    cases = ((1, 1), (8, 1), (64, 1), (1, MEMBERS), (8, MEMBERS), (64, MEMBERS))
    rows = [under_load(*case, seconds).row() for case in cases]
    return "\n".join([head, "|--:|--:|--:|--:|--:|--:|--:|--:|--:|", *rows, "", measured_on()])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each case")
    parser.add_argument("--write", action="store_true", help="put the tables into the document")
    wish = parser.parse_args()
    told("hot", hot(wish.seconds), write=wish.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
