"""The sweep over many accounts: units, seconds and memory of a pass, killed in the middle too.

    python -m tools.bench_sweep [--accounts 1000000] [--due 0.01] [--write]

Accounts are put into a fresh local engine, a part of them with points that expire today. Workers,
each a process of its own as a Lambda would be, work off the segments by the handler's own code. The
first workers are killed when a third of what is due is written down; others begin anew and finish;
then a pass with nothing due is measured, and everything is counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from loyalty import edge
from loyalty.dates import day_number, milliseconds
from loyalty.model import Account
from loyalty.wire import account_item
from tools import meter
from tools.bench import told
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, create_tables

NOW = datetime(2026, 6, 1, 0, 5, tzinfo=UTC)
TODAY = day_number(NOW.date())
POINTS = 100
SEGMENTS = 8
WORKERS = 2
READ_PRICE, WRITE_PRICE = 0.125, 0.625
"""Dollars per million units, on demand, us-east-1."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass took: wall seconds, units, accounts written down, megabytes of the largest
    worker."""

    seconds: float
    read: float
    write: float
    swept: int
    megabytes: float


def account(number: int, is_due: bool) -> Account:
    """A member of a usual size: three lots, one of them due today or none."""
    first = TODAY if is_due else TODAY + 30
    lots = ((first, POINTS), (first + 61, 250), (first + 153, 75))
    return Account(
        program_id="bench",
        member_id=f"member-{number:08}",
        seq=7,
        lots=lots,
        lifetime=1900,
        joined_on=TODAY - 500,
        active_on=TODAY - 20,
        due_on=first,
        recorded_at=milliseconds(NOW) - 20 * 86_400_000,
        hash=bytes(32),
    )


def load(engine: Engine, tables: Tables, accounts: int, due: int) -> float:
    """Put the accounts; the seconds it took."""
    client = engine.client(parameter_validation=False)
    begun = time.monotonic()
    every = accounts // due

    def batch(start: int) -> None:
        numbers = range(start, min(start + 25, accounts))
        puts = [{"PutRequest": {"Item": account_item(account(n, n % every == 0))}} for n in numbers]
        left: Any = {tables.accounts: puts}
        while left:
            left = client.batch_write_item(RequestItems=left).get("UnprocessedItems")

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(batch, range(0, accounts, 25)):
            pass
    return time.monotonic() - begun


def environment(engine: Engine, tables: Tables) -> dict[str, str]:
    return {
        **LOCAL_CREDENTIALS,
        **tables.environment,
        "AWS_ENDPOINT_URL_DYNAMODB": engine.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PROGRAM_DELAY_SECONDS": "0",
        "POWERTOOLS_SERVICE_NAME": "bench",
        "POWERTOOLS_METRICS_DISABLED": "true",
        "POWERTOOLS_LOG_LEVEL": "CRITICAL",
    }


def work(segments: list[int], report: Any) -> None:
    """One worker: its segments to the end, then what they took."""
    import expire

    edge.clock = lambda: NOW
    store = edge.store()
    meter.attach(store.client)
    meter.attach(store._scanner)
    swept = 0

    def counted(name: str, by: int = 1) -> None:
        nonlocal swept
        if name == "SweptAccounts":
            swept += by

    setattr(expire, "count", counted)  # noqa: B010  # the handler's own name for it
    with meter.measure() as used:
        for segment in segments:
            start = None
            while True:
                start, _ = expire._sweep_page(segment, SEGMENTS, start)
                if start is None:
                    break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.put((float(used.read), float(used.write), swept, peak))


def begin(report: Any) -> list[Any]:
    """Start the workers, the segments dealt out among them."""
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=work, args=(list(range(n, SEGMENTS, WORKERS)), report))
        for n in range(WORKERS)
    ]
    for process in started:
        process.start()
    return started


def swept_pass() -> Pass:
    """A whole pass over all segments."""
    report = multiprocessing.get_context("spawn").Queue()
    begun = time.monotonic()
    started = begin(report)
    told = [report.get() for _ in started]
    for process in started:
        process.join()
    return Pass(
        time.monotonic() - begun,
        sum(row[0] for row in told),
        sum(row[1] for row in told),
        sum(row[2] for row in told),
        max(row[3] for row in told),
    )


def killed_pass(client: Any, tables: Tables, at: int) -> int:
    """Workers that are killed when so many entries stand in the ledger; how many stood then."""
    report = multiprocessing.get_context("spawn").Queue()
    started = begin(report)
    while written(client, tables) < at and any(process.is_alive() for process in started):
        time.sleep(0.5)
    for process in started:
        process.kill()
        process.join()
    return written(client, tables)


def written(client: Any, tables: Tables) -> int:
    """Entries in the ledger."""
    pages = client.get_paginator("scan").paginate(TableName=tables.ledger, Select="COUNT")
    return sum(int(page["Count"]) for page in pages)


def outstanding(client: Any, tables: Tables) -> tuple[int, int]:
    """(Points that are due and still stand in some account, accounts that are due)."""
    points = due = 0
    for page in client.get_paginator("scan").paginate(
        TableName=tables.accounts,
        FilterExpression="u <= :t",
        ExpressionAttributeValues={":t": {"N": str(TODAY)}},
    ):
        due += len(page["Items"])
        points += len(page["Items"]) * POINTS
    return points, due


def measured(accounts: int, share: float) -> str:
    """The table of one run."""
    due = max(1, int(accounts * share))
    with tempfile.TemporaryDirectory() as folder, Engine(Path(folder) / "bench.db") as engine:
        tables = create_tables(engine.endpoint, "bench-sweep")
        os.environ.update(environment(engine, tables))
        edge.store.cache_clear()
        document = {
            "program_id": "bench",
            "name": "Bench",
            "currency": "EUR",
            "time_zone": "Europe/Paris",
            "expiry": [{"after": "P12M"}],
        }
        published = edge.store().publish(
            "bench", document, number=1, now=0, delay=edge.publish_delay(), by="bench"
        )
        assert published
        client = engine.client(parameter_validation=False)
        loading = load(engine, tables, accounts, due)
        killed = killed_pass(client, tables, due // 3)
        rest = swept_pass()
        nothing = swept_pass()
        entries = written(client, tables)
        left = outstanding(client, tables)
    expected = len(range(0, accounts, accounts // due))
    assert entries == expected, f"{entries} entries for {expected} accounts that were due"
    assert left == (0, 0), f"still due: {left}"
    assert rest.swept == expected - killed, "what was written before the kill was written again"
    assert nothing.swept == 0
    per_account = nothing.read / accounts
    ten_million = per_account * 10_000_000
    rows = [
        "| | seconds | read units | write units | accounts written | peak memory of a worker, MB |",
        "|--|--:|--:|--:|--:|--:|",
        f"| begun anew after the kill | {rest.seconds:.0f} | {rest.read:,.0f} | {rest.write:,.0f}"
        f" | {rest.swept:,} | {rest.megabytes:.0f} |",
        f"| nothing due | {nothing.seconds:.0f} | {nothing.read:,.0f} | {nothing.write:,.0f}"
        f" | {nothing.swept:,} | {nothing.megabytes:.0f} |",
        "",
        f"{accounts:,} accounts, {expected:,} of them due; loaded in {loading:.0f} s. Killed"
        f" (SIGKILL, {WORKERS} workers) when {killed:,} were written; in the end {entries:,}"
        " entries stand in the ledger, one for each that was due, and nothing is due.",
        "",
        f"A pass reads {per_account:.3f} units for each account: {ten_million:,.0f} units and"
        f" {ten_million / 1e6 * READ_PRICE:.3f} dollars at ten million, due or not. Writing one"
        f" down takes {rest.write / max(1, rest.swept):.1f} write units: with 1 % due,"
        f" {100_000 * rest.write / max(1, rest.swept) / 1e6 * WRITE_PRICE:.2f} dollars.",
        "",
        f"Measured on {date.today().isoformat()}: {platform.machine()}, CPython"  # noqa: DTZ011  # the day of the measurement, wherever
        f" {platform.python_version()}, two cores, {WORKERS} workers, {SEGMENTS} segments.",
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--due", type=float, default=0.01, help="part of them that is due")
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    told("sweep", measured(options.accounts, options.due), write=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
