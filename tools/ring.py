"""A ring of members who send points to one another at once, under the eye of a reader.

    python -m tools.ring [--members 50] [--transfers 200000] [--write]

Clients in processes of their own send random numbers of points from random members to the next one
in the ring, through the store and on a fresh engine in memory, until so many transfers are
committed. All the while a reader reads all accounts in one TransactGetItems, again and again: every
time it must find the same points in all, and the same for each date on which they expire. In the
end every entry is read: two for each transfer, numbered, chained and adding up to the accounts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from loyalty import earning, transfers
from loyalty.commands import Enrolment, Transfer
from loyalty.dates import milliseconds
from loyalty.decisions import Decision, Guard
from loyalty.model import Account, Entry, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.store import Store, Unavailable, connect
from loyalty.validation import publishable
from loyalty.wire import Item, account_item, account_of, entry_of, item_hash
from tools.bench import measured_on, told
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, create_tables

NOW = milliseconds(datetime(2026, 6, 1, 12, tzinfo=UTC))
DAY = 86_400_000
PROGRAM = "ring"
POINTS = 1000
"""What each member begins with."""
MOST = 150
"""Points sent at once, at most: now and then more than a member has by then."""
DATES = 5
"""The members' points expire on so many dates."""
PROCESSES = 4
THREADS = 3
PAUSE_SECONDS = 0.1
"""Between two looks of the reader, so that it leaves the engine to the clients."""
RULEBOOK = Rulebook(
    publishable(
        {
            "program_id": PROGRAM,
            "name": "Ring",
            "currency": "EUR",
            "time_zone": "Europe/Paris",
            "rules": [{"rule_id": "hello", "trigger": "registration", "earn": {"points": POINTS}}],
            "expiry": [{"after": "P12M"}],
            "transfers": {},
        }
    ),
    1,
)


@dataclass(slots=True)
class Sent:
    """What a client has done: transfers committed, transactions they took, how often a sender had
    too little, and how often the store gave up and was asked again."""

    committed: int = 0
    transactions: int = 0
    refused: int = 0
    put_off: int = 0

    def add(self, other: Sent) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def name(number: int) -> str:
    return f"member-{number:03}"


def store_of(endpoint: str, tables: Tables) -> Store:
    os.environ.update(LOCAL_CREDENTIALS)
    client = connect(endpoint_url=endpoint)
    return Store(client, accounts=tables.accounts, ledger=tables.ledger, records=tables.records)


def enrol(store: Store, number: int) -> None:
    """A new member with its points, which expire on one of a few dates."""
    member_id = name(number)
    guard = Guard(f"m#{member_id}", "0", b"")
    command = Enrolment(member_id=member_id)
    at = NOW - (1 + number % DATES) * 30 * DAY

    def decide(known: Known) -> Decision:
        return earning.enrol(RULEBOOK, known, guard, member_id, command, "", "", (), at)

    store.commit(PROGRAM, [member_id], guard, decide)


def send(store: Store, sent: Sent, key: str, sender: str, receiver: str, points: int) -> None:
    """One transfer, asked for again under its key until it is committed or refused."""
    guard = Guard(f"k#{key}", "0", b"")
    command = Transfer(to_member_id=receiver, points=points)
    while True:
        try:
            committed = store.commit(
                PROGRAM,
                [sender, receiver],
                guard,
                lambda known: transfers.transfer(RULEBOOK, known, guard, command, sender, NOW),
            )
        except Unavailable:
            sent.put_off += 1
        except Refusal as refusal:
            if refusal.code != "insufficient_points":
                raise
            sent.refused += 1
            return
        else:
            sent.committed += 1
            sent.transactions += committed.attempts
            return


def work(number: int, endpoint: str, tables: Tables, ring: int, wanted: int, report: Any) -> None:
    """One process of clients, until so many of its transfers are committed."""
    store = store_of(endpoint, tables)

    def client(thread: int) -> Sent:
        chance = random.Random(number * THREADS + thread)  # noqa: S311  # reproducible
        sent = Sent()
        tries = 0
        while sent.committed < wanted // THREADS + (thread < wanted % THREADS):
            tries += 1
            giver = chance.randrange(ring)
            key = f"{number}-{thread}-{tries}"
            points = chance.randint(1, MOST)
            send(store, sent, key, name(giver), name((giver + 1) % ring), points)
        return sent

    done = Sent()
    with ThreadPoolExecutor(THREADS) as pool:
        for sent in pool.map(client, range(THREADS)):
            done.add(sent)
    report.put(done)


def totals(client: Any, tables: Tables, ring: int) -> Counter[int]:
    """The points of all members by their expiry, at one moment."""
    keys = [account_item(Account(program_id=PROGRAM, member_id=name(i)))["pk"] for i in range(ring)]
    items = [{"Get": {"TableName": tables.accounts, "Key": {"pk": key}}} for key in keys]
    answer = client.transact_get_items(TransactItems=items)
    points: Counter[int] = Counter()
    for each in answer["Responses"]:
        points.update(dict(account_of(each["Item"]).lots))
    return points


def watch(endpoint: str, tables: Tables, ring: int, over: Any, report: Any) -> None:
    """The reader: how often it has looked, and the different totals that it has seen."""
    client = store_of(endpoint, tables).client
    looks = 0
    seen = set()
    while not over.is_set():
        try:
            points = totals(client, tables, ring)
        except client.exceptions.TransactionCanceledException:
            continue  # it met a transfer: nothing was read
        looks += 1
        seen.add(tuple(sorted(points.items())))
        time.sleep(PAUSE_SECONDS)
    report.put((looks, seen))


def prove(client: Any, tables: Tables, ring: int, transfers: int) -> None:
    """Two entries stand for each transfer; they have no gaps, are chained by their hashes, and
    folded from nothing they are the accounts."""

    def every(table: str) -> list[Item]:
        pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    accounts = {account.member_id: account for account in map(account_of, every(tables.accounts))}
    folded = {who: Account(program_id=PROGRAM, member_id=who) for who in accounts}
    entries = sorted(every(tables.ledger), key=lambda item: int(item["n"]["N"]))
    assert len(entries) == ring + 2 * transfers, f"{len(entries)} entries"
    for item in entries:
        entry: Entry = entry_of(item)
        account = folded[entry.member_id]
        assert entry.hash == item_hash(item, account.hash)
        folded[entry.member_id] = account.after(entry)  # raises where a number is missing
    assert folded == accounts


def measured(ring: int, wanted: int) -> str:
    """The table of one run."""
    context = multiprocessing.get_context("spawn")
    with Engine() as engine:
        tables = create_tables(engine.endpoint, "bench-ring")
        client = engine.client(parameter_validation=False)
        # With its stream the engine takes longer for each write than for the one before.
        off = {"StreamEnabled": False}
        client.update_table(TableName=tables.ledger, StreamSpecification=off)
        store = store_of(engine.endpoint, tables)
        for number in range(ring):
            enrol(store, number)
        before = totals(client, tables, ring)
        assert before.total() == ring * POINTS
        over, report, looked = context.Event(), context.Queue(), context.Queue()
        watching = (engine.endpoint, tables, ring, over, looked)
        reader = context.Process(target=watch, args=watching, daemon=True)
        shares = [wanted // PROCESSES + (i < wanted % PROCESSES) for i in range(PROCESSES)]
        clients = [
            context.Process(
                target=work, args=(i, engine.endpoint, tables, ring, share, report), daemon=True
            )
            for i, share in enumerate(shares)
        ]
        begun = time.monotonic()
        for process in (reader, *clients):
            process.start()
        done = Sent()
        for _ in clients:
            done.add(report.get())
        seconds = time.monotonic() - begun
        over.set()
        looks, seen = looked.get()
        for process in (reader, *clients):
            process.join()
        assert totals(client, tables, ring) == before
        assert done.committed == wanted
        assert seen == {tuple(sorted(before.items()))}, f"the reader saw {seen}"
        prove(client, tables, ring, wanted)
    rows = [
        "| transfers | seconds | a second | transactions a transfer | refused | put off"
        " | looks at all | different totals |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| {wanted:,} | {seconds:,.0f} | {wanted / seconds:,.0f}"
        f" | {done.transactions / wanted:.2f} | {done.refused:,} | {done.put_off:,}"
        f" | {looks:,} | {len(seen)} |",
        "",
        f"{ring} members with {POINTS:,} points each, on {len(before)} dates;"
        f" {PROCESSES * THREADS} clients in {PROCESSES} processes. In the end"
        f" {ring + 2 * wanted:,} entries stand in the ledger, without a gap, chained, and adding up"
        f" to the accounts: {ring * POINTS:,} points, as many for each date as in the beginning.",
        "",
        measured_on("engine and clients together"),
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=50, help="at most 100: one read of all")
    parser.add_argument("--transfers", type=int, default=200_000)
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    told("ring", measured(options.members, options.transfers), write=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
