"""`make replay`: 6,919 real purchases through the running service, over HTTP and nothing else.

Customers are enrolled at their first purchase, and time goes through 1997 and 1998 by the service's
test clock: day by day for the purchases, with a sweep at the beginning of each month. Every id is
the file's, so that a second run finds everything done and changes nothing. The clock is back at
real time at the end, however that comes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import httpx
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tools.template import ROOT

URL = "http://127.0.0.1:8000"
CSV = ROOT / "tests" / "data" / "cdnow_purchases.csv"
PROGRAM = Path(__file__).with_name("replay_program.yaml")
PROGRAM_ID = "cdnow"
ZONE = ZoneInfo("America/New_York")
AS_OF = datetime(1998, 6, 30, 23, 59, 59, tzinfo=ZONE)
"""The end of the last day of the file: the moment of which the totals speak."""
WORKERS = 8
ATTEMPTS = 10
"""Times that a command is sent which is answered 503 or 429; each waits as long as it is told."""

NOON = time_of_day(12, tzinfo=ZONE)
MIDNIGHT = time_of_day(0, tzinfo=ZONE)


class Failure(Exception):
    """The replay cannot go on; the text is the one line that says why."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One line of the file; `amount` is in cents, `on` a date in New York."""

    event_id: str
    member_id: str
    on: date
    quantity: int
    amount: int

    @property
    def event(self) -> dict[str, Any]:
        """The body of its award.

        It says when it happened: the date is the sale's, whenever it is posted, so that a run which
        goes on where another one was broken off earns the same.
        """
        line = {"line_id": "1", "quantity": self.quantity, "amount": self.amount}
        return {
            "event_id": self.event_id,
            "type": "purchase",
            "member_id": self.member_id,
            "occurred_at": datetime.combine(self.on, NOON).isoformat(),
            "purchase": {"currency": "USD", "lines": [line]},
        }


@dataclass(frozen=True, slots=True)
class Answered:
    """One command and its answer: `seconds` from the first sending, with every wait in between."""

    path: str
    replayed: bool
    seconds: float
    sent: int
    read_units: Decimal
    write_units: Decimal


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the service shows it: points by kind of movement over the whole history."""

    moved: Counter[str]
    outstanding: int
    expiring: Counter[str]
    entries: int
    later: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the service's members have, at AS_OF. `expiring`: outstanding points by the date on
    which they will be gone. `later`: movements recorded after AS_OF, which count for nothing here.
    `unbalanced`: members whose history does not come to their balance; there are none."""

    members: int
    moved: Counter[str]
    outstanding: int
    expiring: dict[str, int]
    entries: int
    later: int
    unbalanced: tuple[str, ...]

    @property
    def issued(self) -> int:
        return self.moved["award"]

    @property
    def expired(self) -> int:
        return -self.moved["expire"]

    @property
    def other(self) -> dict[str, int]:
        """Movements that no purchase makes, by kind: somebody used the program for more."""
        return {
            kind: points
            for kind, points in sorted(self.moved.items())
            if kind not in ("award", "expire") and points
        }

    @property
    def difference(self) -> int:
        """issued − expired ± whatever else moved − outstanding: 0, where nothing is lost."""
        return self.moved.total() - self.outstanding


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay did and found; `seconds` for the commands, clock and sweeps between them."""

    totals: Totals
    answers: Sequence[Answered]
    seconds: float

    @property
    def replays(self) -> int:
        return sum(answer.replayed for answer in self.answers)

    @property
    def new(self) -> int:
        return len(self.answers) - self.replays


@dataclass(slots=True)
class Service:
    """The running service, used as a block; requests may come from several threads.

    Raises Failure where it does not answer, or answers with what was not to be expected.
    """

    url: str
    workers: int
    http: httpx.Client = field(init=False)

    def __enter__(self) -> Self:
        limits = httpx.Limits(max_connections=self.workers, max_keepalive_connections=self.workers)
        self.http = httpx.Client(base_url=self.url, timeout=30, limits=limits, trust_env=False)
        try:
            clock = self.http.get("/dev/clock")
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            self.http.close()
            raise Failure(f"No service answers at {self.url}: say `make run` first.") from error
        if clock.status_code != httpx.codes.OK:
            self.http.close()
            raise Failure(f"What answers at {self.url} is no local service: it has no test clock.")
        token = self._asked("POST", "/dev/tokens", json={"scope": "admin"})["access_token"]
        self.http.headers["authorization"] = f"Bearer {token}"
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def set_clock(self, now: datetime | None) -> None:
        """Stop the test clock, or with None go back to real time."""
        self._asked("POST", "/dev/clock", json={"now": now and now.isoformat()})

    def sweep(self) -> None:
        """Run the sweep to its end."""
        done = self._asked("POST", "/dev/sweep", timeout=600)
        if done["dead"]:
            raise Failure("The sweep gave up on a part of the members; the service's log says why.")

    def publish(self) -> None:
        """Publish the program where it is absent; the same document again changes nothing."""
        document = yaml.safe_load(PROGRAM.read_text(encoding="utf-8"))
        answer = self._request("PUT", f"/v1/programs/{PROGRAM_ID}/program", json=document)
        if answer.status_code == httpx.codes.PRECONDITION_REQUIRED:
            raise Failure(f"Another program is published as {PROGRAM_ID}: use a fresh service.")
        _expect(answer, httpx.codes.OK)

    def command(self, path: str, body: dict[str, Any]) -> Answered:
        """Send a command until it is answered by something else than "later"."""
        begun = time.perf_counter()
        for sent in range(1, ATTEMPTS + 1):  # noqa: B007  # the answer tells it
            answer = self._request("POST", f"/v1/programs/{PROGRAM_ID}{path}", json=body)
            if answer.status_code not in (
                httpx.codes.SERVICE_UNAVAILABLE,
                httpx.codes.TOO_MANY_REQUESTS,
            ):
                break
            time.sleep(float(answer.headers.get("retry-after", 1)))
        seconds = time.perf_counter() - begun
        _expect(answer, httpx.codes.CREATED)
        return Answered(
            path,
            answer.headers.get("idempotency-replayed") == "true",
            seconds,
            sent,
            Decimal(answer.headers["loyalty-read-units"]),
            Decimal(answer.headers["loyalty-write-units"]),
        )

    def member(self, member_id: str) -> Member:
        """The balance and the whole history of a member, at AS_OF; the clock stands there."""
        path = f"/v1/programs/{PROGRAM_ID}/members/{member_id}"
        balance = self._asked("GET", f"{path}/balance")
        if datetime.fromisoformat(balance["as_of"]) > AS_OF:
            # Somebody moved this account in a later time: look back.
            balance = self._asked("GET", f"{path}/balance", params={"as_of": AS_OF.isoformat()})
        moved: Counter[str] = Counter()
        numbers = set()
        later = 0
        query = {"limit": "100"}
        while True:
            page = self._asked("GET", f"{path}/entries", params=query)
            for row in page["items"]:
                if datetime.fromisoformat(row["recorded_at"]) > AS_OF:
                    later += 1
                    continue
                moved[row["kind"]] += row["points"]
                numbers.add(row["seq"])
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        parts = Counter[str]()
        for part in balance["expiring"]:
            parts[part["expires_on"]] += part["points"]
        outstanding = balance["available"] + balance["pending"] + balance["held"] - balance["debt"]
        return Member(moved, outstanding, parts, len(numbers), later)

    def _asked(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self._request(method, path, **more)
        _expect(answer, httpx.codes.OK)
        found: dict[str, Any] = answer.json()
        return found

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self.http.request(method, path, **more)
        except httpx.TransportError as error:
            raise Failure(
                f"The service at {self.url} no longer answers ({type(error).__name__}). "
                "Once it runs again, `make replay` goes on from there."
            ) from error


def _expect(answer: httpx.Response, status: int) -> None:
    if answer.status_code != status:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise Failure(f"{asked} was answered with {answer.status_code}: {answer.text[:500]}")


def purchases(path: Path = CSV) -> list[Purchase]:
    """The purchases of a file in the order of their dates; Failure where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = [
                Purchase(
                    row["event_id"],
                    row["member_id"],
                    date.fromisoformat(row["date"]),
                    int(row["quantity"]),
                    int(row["amount_cents"]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"{path} cannot be read as purchases: {error}") from error
    return sorted(found, key=attrgetter("on"))


type Step = Callable[[str, int], None]
"""Told of progress: (what is being done, commands or members done since)."""


def replay(
    service: Service,
    wanted: Sequence[Purchase],
    workers: int = WORKERS,
    step: Step = lambda _, __: None,
) -> Report:
    """Post the purchases, each customer's in order, and read what the members then have.

    The clock is left at real time, also where the replay is broken off.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="replay")
    try:
        service.publish()
        begun = time.perf_counter()
        answers = list(_posted(service, pool, wanted, step))
        seconds = time.perf_counter() - begun
        members = list(dict.fromkeys(purchase.member_id for purchase in wanted))
        return Report(_totals(service, pool, members, step), answers, seconds)
    finally:
        try:
            # What is on its way must arrive in its own time, not in ours.
            pool.shutdown(cancel_futures=True)
        finally:
            service.set_clock(None)


def _posted(
    service: Service, pool: ThreadPoolExecutor, wanted: Iterable[Purchase], step: Step
) -> Iterator[Answered]:
    """Everything in the order of time; the sweep at month begins, and at AS_OF."""
    enrolled: set[str] = set()
    month: date | None = None
    for day, group in groupby(wanted, key=attrgetter("on")):
        if day.replace(day=1) != month:
            month = day.replace(day=1)
            service.set_clock(datetime.combine(month, MIDNIGHT))
            service.sweep()
        service.set_clock(datetime.combine(day, NOON))
        customers: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for purchase in group:
            member_id = purchase.member_id
            commands = customers.setdefault(member_id, [])
            if member_id not in enrolled:
                enrolled.add(member_id)
                commands.append(("/members", {"member_id": member_id}))
            commands.append(("/awards", purchase.event))

        def post(commands: list[tuple[str, dict[str, Any]]]) -> list[Answered]:
            return [service.command(path, body) for path, body in commands]

        # The day ends for all before the clock goes on.
        for answers in pool.map(post, customers.values()):
            yield from answers
            step(day.isoformat(), len(answers))
    service.set_clock(AS_OF)
    service.sweep()


def _totals(
    service: Service, pool: ThreadPoolExecutor, members: Sequence[str], step: Step
) -> Totals:
    moved: Counter[str] = Counter()
    expiring: Counter[str] = Counter()
    outstanding = entries = later = 0
    unbalanced = []
    for member_id, member in zip(members, pool.map(service.member, members), strict=True):
        moved.update(member.moved)
        expiring.update(member.expiring)
        outstanding += member.outstanding
        entries += member.entries
        later += member.later
        if member.moved.total() != member.outstanding:
            unbalanced.append(member_id)
        step("balances", 1)
    return Totals(
        len(members),
        moved,
        outstanding,
        dict(sorted(expiring.items())),
        entries,
        later,
        tuple(unbalanced),
    )


def lines(report: Report) -> Iterator[tuple[str, str]]:
    """The report as rows of a name and a value."""
    totals = report.totals
    yield "members", f"{totals.members:,}"
    yield "points issued", f"{totals.issued:,}"
    yield "points expired", f"{totals.expired:,}"
    for kind, points in totals.other.items():
        yield f"points by {kind}", f"{points:+,}"
    yield "points outstanding", f"{totals.outstanding:,}"
    even = totals.members - len(totals.unbalanced)
    yield (
        "issued − expired" + (" + others" if totals.other else "") + " − outstanding",
        f"{totals.difference:,}, checked for each member: {even:,} of {totals.members:,} agree",
    )
    yield "ledger entries", f"{totals.entries:,}"
    if totals.later:
        yield "recorded later, not counted", f"{totals.later:,}"
    answers = report.answers
    sent = sum(answer.sent for answer in answers)
    retries = sent - len(answers)
    yield (
        "requests",
        f"{sent:,}: {report.new:,} new, {report.replays:,} replays, {retries:,} retries",
    )
    yield "requests per second", f"{sent / report.seconds:.0f} over {report.seconds:.1f} s"
    times = sorted(answer.seconds for answer in answers)
    if times:
        p50, p99 = (times[round(part * (len(times) - 1))] * 1000 for part in (0.50, 0.99))
        yield "latency", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    for replayed, name in ((False, "award"), (True, "replayed award")):
        awards = [a for a in answers if a.path == "/awards" and a.replayed is replayed]
        if awards:
            reads = [a.read_units for a in awards]
            writes = [a.write_units for a in awards]
            yield f"read units per {name}", f"{_mean(reads)} (at most {max(reads)})"
            yield f"write units per {name}", f"{_mean(writes)} (at most {max(writes)})"


def _mean(values: Sequence[Decimal]) -> str:
    return f"{sum(values, Decimal(0)) / len(values):.3f}".rstrip("0").rstrip(".")


def main(arguments: list[str] | None = None) -> int:
    """Replay, and show the table; the exit status, not 0 also where the sums do not agree."""
    parser = argparse.ArgumentParser(prog="make replay", description=__doc__)
    parser.add_argument("--url", default=URL, help=f"of the running service; default: {URL}")
    parser.add_argument("--csv", type=Path, default=CSV, help="default: tests/data/…")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"default: {WORKERS}")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        wanted = purchases(options.csv)
        with (
            Service(options.url.rstrip("/"), options.workers) as service,
            _progress(console, wanted) as step,
        ):
            report = replay(service, wanted, options.workers, step)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Broken off; `make replay` goes on from there.", file=sys.stderr)
        return 130
    console.print(f"As of {AS_OF:%Y-%m-%dT%H:%M:%S} New York:")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in lines(report):
        table.add_row(name, value)
    console.print(table)
    if not report.new:
        console.print(f"nothing new: {report.replays:,} replays")
    return 0 if not report.totals.difference and not report.totals.unbalanced else 1


@contextlib.contextmanager
def _progress(console: Console, wanted: Sequence[Purchase]) -> Iterator[Step]:
    members = len({purchase.member_id for purchase in wanted})
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Nothing is left of the bar but the table; without a terminal there is none.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        posting = bar.add_task("purchases", total=members + len(wanted))
        reading = bar.add_task("balances", total=members, visible=False)

        def step(what: str, by: int) -> None:
            if what == "balances":
                bar.update(reading, advance=by, visible=True)
            else:
                bar.update(posting, advance=by, description=what)

        yield step


if __name__ == "__main__":
    # A polite kill leaves as Ctrl-C does: with the clock back at real time.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
