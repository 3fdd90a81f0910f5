"""The sweep over many accounts: units, seconds and memory of a pass, killed in the middle too.

    python -m tools.bench_sweep [--accounts 1000000] [--due 0.01] [--write]

Accounts are written as DynamoDB would export them, and the engine imports them; a part of them has
points that expire today. Workers, each a process of its own as a Lambda would be, work off the
segments by the handler's own code. The first workers are killed when a third of what is due is
written down; others go on where the job stands and finish; then a pass with nothing due is
measured, and everything is counted. Beside it stands what an index on the due date would cost, by a
table that has one.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import multiprocessing
import os
import queue
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from loyalty import edge
from loyalty.dates import day_number, milliseconds, window
from loyalty.limits import token
from loyalty.lots import due_on
from loyalty.model import Account, Counts
from loyalty.program import Program
from loyalty.store import connect
from loyalty.validation import publishable
from loyalty.wire import account_item
from tools import meter
from tools.bench import measured_on, told
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, binary, create_tables
from tools.template import Template

NOW = datetime(2026, 6, 1, 0, 5, tzinfo=UTC)
TODAY = day_number(NOW.date())
POINTS = 100
SEGMENTS = 8
WORKERS = 2
POLL_SECONDS = 2
SHARDS = 10
"""Keys over which an index would have to spread the accounts that are due on one day."""
READ_PRICE, WRITE_PRICE = 0.125, 0.625
"""Dollars per million units, on demand, us-east-1."""
PREFIX = "bench-sweep"
PROGRAM: dict[str, Any] = {
    "program_id": "bench",
    "name": "Bench",
    "currency": "EUR",
    "time_zone": "Europe/Paris",
    "expiry": [{"after": "P12M"}],
    "tiers": {
        "window": {"calendar": "year"},
        "downgrade": {"steps": "one"},
        "levels": [{"tier_id": "base", "at": 0}, {"tier_id": "silver", "at": 200}],
    },
}


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass took: wall seconds, seconds of CPU of all workers, units, accounts written down,
    messages that came again since the engine did not answer, megabytes of the largest worker."""

    seconds: float
    cpu: float
    read: float
    write: float
    swept: int
    again: int
    megabytes: float


@cache
def program() -> Program:
    return publishable(PROGRAM)


def account(number: int, is_due: bool) -> Account:
    """A member of a usual size: three lots, one of them due today or none, a tier, counters."""
    first = TODAY if is_due else TODAY + 30
    month = window("month", NOW.date())
    unsaved = Account(
        program_id="bench",
        member_id=f"member-{number:08}",
        seq=7,
        lots=((first, POINTS), (first + 61, 250), (first + 153, 75)),
        lifetime=1900,
        counters={"month": Counts(month, {token("scan", "corner"): 3, token("rule", "review"): 1})},
        joined_on=TODAY - 500,
        birthday=1015,
        qualifying=((day_number(date(2026, 1, 1)), 325),),
        tier="silver",
        tier_until=day_number(date(2028, 1, 1)),
        active_on=TODAY - 20,
        recorded_at=milliseconds(NOW) - 20 * 86_400_000,
        hash=bytes(32),
    )
    return replace(unsaved, due_on=due_on(program(), unsaved))


def load(folder: Path, database: Path, accounts: int, due: int) -> float:
    """Let the engine import the accounts into a new database; the seconds it took."""
    begun = time.monotonic()
    table = f"{PREFIX}-accounts"
    files = folder / "export" / table / "data"
    files.mkdir(parents=True)
    schema = folder / "schema.json"
    described = {"TableName": table, **Template.load().tables()["AccountsTable"]}
    schema.write_text(json.dumps([{"Table": described}]))
    # All are alike but for their ids: written out once, the rest is text.
    like = account(0, False), account(0, True)
    calm, is_due = (
        json.dumps({"Item": account_item(each)}, default=_base64) + "\n" for each in like
    )
    every = accounts // due
    with gzip.open(files / "1.json.gz", "wt", compresslevel=1) as lines:
        for number in range(accounts):
            line = calm if number % every else is_due
            lines.write(line.replace("member-00000000", f"member-{number:08}"))
    source = ["--source", str(folder / "export"), "--schema", str(schema)]
    command = [str(binary()), "import", *source, "--output", str(database)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def index_units(engine: Engine) -> tuple[float, float, float]:
    """What an index on the due date costs, of a table that has one beside one that has not:
    (write units for each due date that is new, for each that moves, read units of a query that
    finds nothing due)."""
    client = engine.client(parameter_validation=False)
    spent: dict[str, list[float]] = {}
    plain = Template.load().tables()["AccountsTable"]
    keys = [{"AttributeName": "s", "KeyType": "HASH"}, {"AttributeName": "u", "KeyType": "RANGE"}]
    index = {
        "IndexName": "due",
        "KeySchema": keys,
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }
    indexed = plain | {
        "AttributeDefinitions": [
            *plain["AttributeDefinitions"],
            {"AttributeName": "s", "AttributeType": "N"},
            {"AttributeName": "u", "AttributeType": "N"},
        ],
        "GlobalSecondaryIndexes": [index],
    }
    for name, request in (("index-plain", plain), ("index-due", indexed)):
        client.create_table(TableName=name, **request)
        item = account_item(account(1, False)) | {"s": {"N": "1"}}
        moved = item | {"u": {"N": str(TODAY + 91)}}
        spent[name] = []
        for each in (item, moved):
            answer = client.transact_write_items(
                TransactItems=[{"Put": {"TableName": name, "Item": each}}],
                ReturnConsumedCapacity="TOTAL",
            )
            spent[name].append(answer["ConsumedCapacity"][0]["CapacityUnits"])
    found = client.query(
        TableName="index-due",
        IndexName="due",
        KeyConditionExpression="s = :s AND u <= :t",
        ExpressionAttributeValues={":s": {"N": "1"}, ":t": {"N": str(TODAY)}},
        ReturnConsumedCapacity="TOTAL",
    )
    assert not found["Items"]
    new, moved_ = (a - b for a, b in zip(spent["index-due"], spent["index-plain"], strict=True))
    return new, moved_, found["ConsumedCapacity"]["CapacityUnits"]


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


def message(job: str, segment: int) -> dict[str, Any]:
    """A segment's message as the queue delivers it."""
    body = {"scheduled_time": job, "segment": segment, "segments": SEGMENTS}
    return {"Records": [{"messageId": "1", "body": json.dumps(body)}]}


class Context:
    """A Lambda's, whose time does not run out."""

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 900_000


def work(job: str, segments: list[int], report: Any) -> None:
    """One worker: its segments of the job to the end, then what they took."""
    import expire

    edge.clock = lambda: NOW
    store = edge.store()
    # In the engine a write waits for the page that another worker reads.
    store.client = connect(edge.SCAN_SECONDS)
    meter.attach(store.client)
    meter.attach(store._scanner)
    swept = again = 0

    def counted(name: str, by: int = 1) -> None:
        nonlocal swept
        if name == "SweptAccounts":
            swept += by

    setattr(expire, "count", counted)  # noqa: B010  # the handler's own name for it
    with meter.measure() as used:
        for segment in segments:
            while expire.handler(message(job, segment), Context)["batchItemFailures"]:
                again += 1  # its message comes again
    own = resource.getrusage(resource.RUSAGE_SELF)
    cpu, peak = own.ru_utime + own.ru_stime, own.ru_maxrss / 1024
    report.put((cpu, float(used.read), float(used.write), swept, again, peak))


def begin(job: str, report: Any) -> list[Any]:
    """Start the workers, the segments dealt out among them."""
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=work, args=(job, list(range(n, SEGMENTS, WORKERS)), report))
        for n in range(WORKERS)
    ]
    for process in started:
        process.start()
    return started


def swept_pass(job: str) -> Pass:
    """All that is left of a job."""
    report = multiprocessing.get_context("spawn").Queue()
    begun = time.monotonic()
    started = begin(job, report)
    told: list[tuple[float, ...]] = []
    while len(told) < len(started):
        try:
            told.append(report.get(timeout=POLL_SECONDS))
        except queue.Empty:
            if any(process.exitcode for process in started):
                raise RuntimeError("a worker has ended before its work was done") from None
    for process in started:
        process.join()
    seconds = time.monotonic() - begun
    cpu, read, write, swept, again, peaks = zip(*told, strict=True)
    return Pass(
        seconds, sum(cpu), sum(read), sum(write), int(sum(swept)), int(sum(again)), max(peaks)
    )


def killed_pass(job: str, client: Any, tables: Tables, at: int) -> int:
    """Workers that are killed when so many entries stand in the ledger; how many stood then."""
    report = multiprocessing.get_context("spawn").Queue()
    started = begin(job, report)
    while written(client, tables) < at and any(process.is_alive() for process in started):
        time.sleep(POLL_SECONDS)
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = folder / "bench.db"
        loading = load(folder, database, accounts, due)
        with Engine(database) as engine:
            return _measured(engine, accounts, due, loading)


def _measured(engine: Engine, accounts: int, due: int, loading: float) -> str:
    tables = create_tables(engine.endpoint, PREFIX)
    client = engine.client(parameter_validation=False)
    # Nobody listens here, and with its stream the engine takes longer for each write than for the
    # one before.
    client.update_table(TableName=tables.ledger, StreamSpecification={"StreamEnabled": False})
    os.environ.update(environment(engine, tables))
    edge.store.cache_clear()
    published = edge.store().publish(
        "bench", PROGRAM, number=1, now=0, delay=edge.publish_delay(), by="bench"
    )
    assert published
    killed = killed_pass("2026-06-01T00:04:00Z", client, tables, due // 3)
    rest = swept_pass("2026-06-01T00:04:00Z")
    nothing = swept_pass("2026-06-01T01:04:00Z")
    entries = written(client, tables)
    left = outstanding(client, tables)
    expected = len(range(0, accounts, accounts // due))
    assert entries == expected, f"{entries} entries for {expected} accounts that were due"
    assert left == (0, 0), f"still due: {left}"
    assert rest.swept <= expected - killed, "what was written before the kill was written again"
    assert nothing.swept == 0
    return told_of(accounts, expected, loading, killed, rest, nothing, index_units(engine))


def told_of(
    accounts: int,
    due: int,
    loading: float,
    killed: int,
    rest: Pass,
    nothing: Pass,
    index: tuple[float, float, float],
) -> str:
    """The table, and the arithmetic to ten million."""
    ten_million = nothing.read / accounts * 10_000_000
    a_pass = ten_million / 1e6 * READ_PRICE
    each = rest.write / max(1, rest.swept)
    new, moved, query = index
    rows = [
        "| | seconds | of them CPU of the workers | read units | write units | accounts written"
        " | peak memory of a worker, MB |",
        "|--|--:|--:|--:|--:|--:|--:|",
        _row("gone on with after the kill", rest),
        _row("nothing due", nothing),
        "",
        f"{accounts:,} accounts, {due:,} of them due; loaded in {loading:.0f} s. Killed"
        f" (SIGKILL, {WORKERS} workers) when {killed:,} were written; in the end {due:,}"
        " entries stand in the ledger, one for each that was due, and nothing is due."
        f" {rest.again + nothing.again} messages came again since the engine did not answer.",
        "",
        f"To ten million: a pass reads {nothing.read / accounts:.4f} units for each account"
        f" ({nothing.read * 8192 / accounts:.0f} bytes, 8 KB a unit), {ten_million:,.0f} units and"
        f" {a_pass:.3f} dollars, due or not; {a_pass * 730:.0f} dollars a month at one an hour."
        f" Writing one down takes {each:.1f} write units: with 1 % due,"
        f" {100_000 * each / 1e6 * WRITE_PRICE:.2f} dollars. The workers' own CPU is"
        f" {nothing.cpu / accounts * 1e7:.0f} s for a pass and"
        f" {(rest.cpu - nothing.cpu) / max(1, rest.swept) * 1000:.1f} ms for each account written.",
        "",
        f"Beside it an index on the due date, in {SHARDS} shards: a pass with nothing due reads"
        f" {SHARDS * query:.0f} units, whatever the number of accounts, and every command that"
        f" sets a due date costs {new:.0f} write unit more, one that moves it {moved:.0f}. A month"
        f" of scans costs as much as {a_pass * 730 / WRITE_PRICE / moved:.1f} million due dates"
        f" that move, {a_pass * 730 / WRITE_PRICE / moved / 10:.1f} for each of ten million"
        " members.",
        "",
        measured_on(
            f"{WORKERS} workers",
            f"{SEGMENTS} segments",
            f"load average at the end {os.getloadavg()[0]:.1f}",
        ),
    ]
    return "\n".join(rows)


def _row(name: str, done: Pass) -> str:
    return (
        f"| {name} | {done.seconds:.0f} | {done.cpu:.0f} | {done.read:,.1f} | {done.write:,.0f}"
        f" | {done.swept:,} | {done.megabytes:.0f} |"
    )


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
