"""The alternative a shop would pick: a ledger written by hand on PostgreSQL.

    python -m tools.bench_postgres [--seconds 10] [--write]

A server of its own (Debian's, as installed: fsync and synchronous_commit on) in a temporary folder,
reached over a Unix socket with psycopg. An award and a redemption do what ours do in one
transaction each: an entry behind a unique key, limits per day and week, lots with expiry dates
taken in spending order, the balance. Round trips are counted: each statement is one, and so are
BEGIN and COMMIT.

Beside it, in the same run and on the same machine, our handlers on the local engine with as many
clients. Both sides are measured with all members apart, so that nobody waits for a lock.
"""

from __future__ import annotations

import argparse
import os
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg

from tools.bench import measured_on, told
from tools.bench_load import under_load

MEMBERS = 1_000
SCHEMA = """
CREATE TABLE members (
    member_id text PRIMARY KEY,
    balance bigint NOT NULL CHECK (balance >= 0),
    lifetime bigint NOT NULL,
    seq bigint NOT NULL
);
CREATE TABLE lots (
    member_id text REFERENCES members,
    expires_on date,
    points bigint NOT NULL CHECK (points >= 0),
    PRIMARY KEY (member_id, expires_on)
);
CREATE TABLE counters (
    member_id text,
    name text,
    window_no int,
    value bigint NOT NULL,
    PRIMARY KEY (member_id, name, window_no)
);
CREATE TABLE entries (
    key text PRIMARY KEY,
    member_id text NOT NULL,
    seq bigint NOT NULL,
    points bigint NOT NULL,
    balance bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    explanation jsonb,
    UNIQUE (member_id, seq)
);
"""


class Refused(Exception):
    """A limit is reached, or there are too few points."""


def award(connection: Any, key: str, member_id: str, points: int) -> bool:
    """Award within a daily and a weekly limit, once for the key; False for a repeat."""
    with connection.transaction():
        member = connection.execute(
            "SELECT balance, seq FROM members WHERE member_id = %s FOR UPDATE", [member_id]
        ).fetchone()
        balance, seq = member
        entry = connection.execute(
            "INSERT INTO entries (key, member_id, seq, points, balance, explanation)"
            " VALUES (%s, %s, %s, %s, %s, '[]') ON CONFLICT (key) DO NOTHING RETURNING 1",
            [key, member_id, seq + 1, points, balance + points],
        ).fetchone()
        if entry is None:
            return False
        counted = connection.execute(
            "INSERT INTO counters VALUES (%(m)s, 'day', 20530, %(p)s), (%(m)s, 'week', 2932, %(p)s)"
            " ON CONFLICT (member_id, name, window_no)"
            " DO UPDATE SET value = counters.value + %(p)s RETURNING value",
            {"m": member_id, "p": points},
        ).fetchall()
        if max(value for (value,) in counted) > 1_000_000_000:
            raise Refused
        connection.execute(
            "INSERT INTO lots VALUES (%s, '2027-04-01', %s)"
            " ON CONFLICT (member_id, expires_on) DO UPDATE SET points = lots.points + %s",
            [member_id, points, points],
        )
        connection.execute(
            "UPDATE members SET balance = balance + %s, lifetime = lifetime + %s, seq = seq + 1"
            " WHERE member_id = %s",
            [points, points, member_id],
        )
    return True


def redeem(connection: Any, key: str, member_id: str, points: int) -> bool:
    """Spend points, earliest expiry first, once for the key; False for a repeat."""
    with connection.transaction():
        member = connection.execute(
            "SELECT balance, seq FROM members WHERE member_id = %s FOR UPDATE", [member_id]
        ).fetchone()
        balance, seq = member
        entry = connection.execute(
            "INSERT INTO entries (key, member_id, seq, points, balance)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING 1",
            [key, member_id, seq + 1, -points, balance - points],
        ).fetchone()
        if entry is None:
            return False
        if balance < points:
            raise Refused
        left = points
        for expires_on, held in connection.execute(
            "SELECT expires_on, points FROM lots WHERE member_id = %s AND points > 0"
            " AND expires_on > '2026-03-18' ORDER BY expires_on FOR UPDATE",
            [member_id],
        ).fetchall():
            part = min(left, held)
            connection.execute(
                "UPDATE lots SET points = points - %s WHERE member_id = %s AND expires_on = %s",
                [part, member_id, expires_on],
            )
            left -= part
            if not left:
                break
        if left:
            raise Refused
        connection.execute(
            "UPDATE members SET balance = balance - %s, seq = seq + 1 WHERE member_id = %s",
            [points, member_id],
        )
    return True


class Counted(psycopg.Connection[Any]):
    """A connection that counts its round trips: what it waits for, one at a time."""

    trips = 0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.trips += 1
        return super().wait(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Share:
    """What one client does, in a process of its own."""

    socket: str
    client: int
    seconds: float
    what: str


def _work(share: Share) -> tuple[int, list[float]]:
    """(Round trips, milliseconds of each request)."""
    chance = random.Random(share.client)  # noqa: S311  # which member comes next
    work = award if share.what == "award" else redeem
    waits: list[float] = []
    with Counted.connect(host=share.socket, dbname="postgres", user="postgres") as connection:
        connection.autocommit = True
        connection.trips = 0
        until = time.monotonic() + share.seconds
        while time.monotonic() < until:
            begun = time.monotonic()
            key = f"{share.what}-{share.client}-{len(waits)}"
            assert work(connection, key, f"member-{chance.randrange(MEMBERS)}", 10)
            waits.append((time.monotonic() - begun) * 1000)
        return connection.trips, waits


@contextmanager
def server() -> Iterator[str]:
    """A fresh server; the folder of its socket."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise SystemExit("PostgreSQL's server is not installed (Debian's package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="loyalty-postgres-"))
    user = {}
    if os.geteuid() == 0:
        # The server refuses to run as root.
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = {"user": "postgres"}
    data = folder / "data"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    initdb: list[Path | str] = [
        programs[-1] / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
    ]
    subprocess.run(initdb, check=True, cwd=folder, **quiet)
    process = subprocess.Popen(
        [programs[-1] / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
        cwd=folder,
        **quiet,
    )
    try:
        _until_it_answers(str(folder))
        yield str(folder)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _until_it_answers(socket: str) -> None:
    for _ in range(200):
        try:
            psycopg.connect(host=socket, dbname="postgres", user="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("PostgreSQL does not start")


def table(seconds: float) -> str:
    """Requests a second and waits, of both, at one client and at eight."""
    rows = [
        "| | clients | requests/s | p50, ms | p99, ms | round trips |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    with server() as socket, ProcessPoolExecutor(8, get_context("spawn")) as pool:
        with psycopg.connect(host=socket, dbname="postgres", user="postgres") as connection:
            connection.execute(SCHEMA)
            for number in range(MEMBERS):
                member = f"member-{number}"
                connection.execute("INSERT INTO members VALUES (%s, 0, 0, 0)", [member])
        for what in ("award", "redeem"):
            if what == "redeem":
                with psycopg.connect(host=socket, dbname="postgres", user="postgres") as connection:
                    connection.execute(
                        "INSERT INTO lots SELECT member_id, '2027-04-01', 1000000 FROM members"
                        " ON CONFLICT (member_id, expires_on) DO UPDATE SET points = 1000000"
                    )
                    connection.execute("UPDATE members SET balance = 1000000")
            for clients in (1, 8):
                base = 100 * clients
                shares = [Share(socket, base + n, seconds, what) for n in range(clients)]
                results = list(pool.map(_work, shares))
                waits = sorted(wait for _, each in results for wait in each)
                trips = sum(sent for sent, _ in results) / len(waits)
                p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
                name = f"PostgreSQL, {what}"
                rows.append(_row(name, clients, len(waits) / seconds, p50, p99, trips))
    for what in ("award", "redeem"):
        for clients in (1, 8):
            ours = under_load(clients, MEMBERS, seconds, redeem=what == "redeem")
            rate = ours.requests / seconds
            name = f"this, {what}, whole handler"
            rows.append(_row(name, clients, rate, ours.p50, ours.p99, ours.calls))
    return "\n".join([*rows, "", measured_on()])


def _row(name: str, clients: int, rate: float, p50: float, p99: float, trips: float) -> str:
    return f"| {name} | {clients} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {trips:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each case")
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    wish = parser.parse_args()
    told("postgres", table(wish.seconds), write=wish.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
