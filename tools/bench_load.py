"""Many clients at once: on one member and on a thousand; and what an award's CPU goes to.

    python -m tools.bench_load [--seconds 10] [--write]

The handlers run in processes of their own, as Lambda functions would, on a fresh engine in memory;
each client sends its next award as soon as the last was answered, a review worth 10 points. A 503
is shed: the client sends the same award again after Retry-After. In the end the books are read:
every award that was acknowledged stands in the ledger once, and nothing else does.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
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


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does: so many clients, each with awards of its own, for a while."""

    endpoint: str
    tables: Tables
    clients: range
    members: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Of one request: milliseconds until the answer, whether it was shed, its Retry-After."""

    milliseconds: float
    shed: bool
    retry_after: float


def _load(share: Share) -> tuple[list[Heard], int, int]:
    """(What the clients heard, transactions sent, awards acknowledged)."""
    client = connect(share.endpoint)
    sent = 0

    def count(**_: object) -> None:
        nonlocal sent
        sent += 1

    client.meta.events.register("before-send.dynamodb.TransactWriteItems", count)
    with (
        deployed(client, share.tables, NOON, sleep=time.sleep),
        ThreadPoolExecutor(len(share.clients)) as pool,
    ):
        edge.store().rulebook_in_force("shop", 0)
        until = time.monotonic() + share.seconds
        work = [pool.submit(_client, number, share.members, until) for number in share.clients]
        answers = [heard for each in work for heard in each.result()]
    return answers, sent, sum(not heard.shed for heard in answers)


def _prepare(endpoint: str, tables: Tables, members: int) -> None:
    with deployed(connect(endpoint), tables):
        workers.done(workers.publish(_program()))
        for number in range(members):
            workers.done(workers.enrol(HOT if members == 1 else f"member-{number}"))


def _client(number: int, members: int, until: float) -> list[Heard]:
    chance = random.Random(number)  # noqa: S311  # which member comes next, and when
    heard: list[Heard] = []
    event = 0
    while time.monotonic() < until:
        member = HOT if members == 1 else f"member-{chance.randrange(members)}"
        call = workers.award(f"{number}-{event}", member)
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
    awards: int
    seconds: float
    p50: float
    p95: float
    p99: float
    attempts: float
    shed: int
    slowest_shed: float

    def row(self) -> str:
        cells = (
            self.clients,
            self.members,
            f"{self.awards / self.seconds:.0f}",
            *(f"{value:.0f}" for value in (self.p50, self.p95, self.p99)),
            f"{self.attempts:.2f}",
            self.shed,
            f"{self.slowest_shed:.0f}" if self.shed else "",
        )
        return f"| {' | '.join(map(str, cells))} |"


def under_load(clients: int, members: int, seconds: float) -> Result:
    """So many clients on so many members; raises if an award is lost or doubled."""
    with Engine() as engine:
        tables = create_tables(engine.endpoint, "loyalty-load", Template.load())
        processes = min(PROCESSES, clients)
        shares = [
            Share(engine.endpoint, tables, range(n, clients, processes), members, seconds)
            for n in range(processes)
        ]
        with ProcessPoolExecutor(processes, workers.processes(), _quiet) as pool:
            pool.submit(_prepare, engine.endpoint, tables, members).result()
            outcomes = list(pool.map(_load, shares))
        books = proved(engine.client(), tables)
    awards = sum(acknowledged for _, _, acknowledged in outcomes)
    kept = sum(entry.kind == "award" for _, entries in books.values() for entry in entries)
    points = sum(account.balance for account, _ in books.values())
    if not awards == kept == points // POINTS:
        raise AssertionError(f"{awards} acknowledged, {kept} in the ledger, {points} points")
    heard = [each for answers, _, _ in outcomes for each in answers]
    waits = sorted(each.milliseconds for each in heard if not each.shed)
    shed = [each.milliseconds for each in heard if each.shed]
    return Result(
        clients,
        members,
        awards,
        seconds,
        waits[len(waits) // 2],
        waits[len(waits) * 95 // 100],
        waits[len(waits) * 99 // 100],
        sum(sent for _, sent, _ in outcomes) / awards,
        len(shed),
        max(shed, default=0),
    )


def _program() -> dict[str, Any]:
    review = {"rule_id": "review", "trigger": "review", "earn": {"points": POINTS}}
    return shop(rules=[review], limits=[])


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
