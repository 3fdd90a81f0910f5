"""Holds every law of the ledger against everything that is stored, and names what breaks one.

    python -m tools.verify                     the running local service's ledger (`make verify`)
    python -m tools.verify --stack NAME        the tables of a deployed stack, read from here
    python -m tools.verify --accounts A --ledger L --records R     tables by their names

The local service runs what is scheduled in the cloud, and GET /analytics/verify tells its result
afterwards. Of tables it reads here, with the credentials of the environment, this command writes
nothing. It ends with status 1 where a law is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import httpx

import verify
from loyalty import edge
from loyalty.verification import LAWS, Tally, Violation
from tools import meter

TOLD = 20
"""Violations of a program that are printed one by one."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one reading of everything showed by program, and what it took."""

    tallies: dict[str, Tally]
    seconds: float
    read_units: float

    @property
    def entries(self) -> int:
        return sum(tally.entries for tally in self.tallies.values())

    @property
    def members(self) -> int:
        return sum(tally.members for tally in self.tallies.values())

    @property
    def violations(self) -> list[Violation]:
        return [v for tally in self.tallies.values() for v in tally.violations]


def verified(segments: int = 1) -> Pass:
    """Read all that is stored in the tables of `edge.store()` by the function's own pages, one
    after the other, and write nothing."""
    begun = time.monotonic()
    tallies: dict[str, Tally] = {}
    with meter.measure() as units:
        for found in _pages(("accounts", "index"), segments):
            verify.add(tallies, found)
        before = verify.budgets(tallies)
        for found in _pages(("ledger",), segments):
            verify.add(tallies, found)
        tallies = verify.conclusions(tallies, before)
    return Pass(tallies, time.monotonic() - begun, float(units.read))


def _pages(kinds: tuple[str, ...], segments: int) -> Iterator[dict[str, Tally]]:
    for kind in kinds:
        for segment in range(segments):
            start = None
            while True:
                found, start = verify.page(kind, segment, segments, start)
                yield found
                if start is None:
                    break


def told(violation: Violation) -> str:
    """A violation in one line."""
    whose = violation.member_id or "-"
    entry = f"{violation.entry or '-'}" + (f" (entry {violation.seq})" if violation.seq else "")
    law = LAWS.get(violation.code, "?")
    return f"  law {law:>2} {violation.code:<13} {whose}  {entry}: {violation.detail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('PORT') or 8000}")
    parser.add_argument("--stack", help="a deployed stack, whose outputs name its tables")
    for table in ("accounts", "ledger", "records"):
        parser.add_argument(f"--{table}", help=f"the name of the table of {table}")
    options = parser.parse_args()
    names = {t: getattr(options, t) for t in ("accounts", "ledger", "records")}
    if options.stack:
        names = _tables_of(options.stack)
    if not any(names.values()):
        return _by_service(options.url)
    if not all(names.values()):
        parser.error("name all three tables, or a stack")
    os.environ.update({f"{table.upper()}_TABLE": name for table, name in names.items()})
    os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "verify")
    if "SECRETS_ARN" not in os.environ:
        os.environ.setdefault("LOYALTY_SECRETS", "{}")  # then vouchers are not looked for
    meter.attach(edge.store().client)
    meter.attach(edge.store()._scanner)
    done = verified()
    for program_id, tally in sorted(done.tallies.items()):
        print(f"{program_id}: {tally.entries:,} entries, {tally.members:,} members, ", end="")
        print(f"{tally.outstanding:,} points outstanding, {tally.violated:,} violations")
        _print(tally.violations)
    print(f"{done.seconds:.1f} s, {done.read_units:,.1f} read units")
    return 1 if done.violations else 0


def _tables_of(stack: str) -> dict[str, str]:
    answer = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    found = {output["OutputKey"]: output["OutputValue"] for output in answer["Outputs"]}
    os.environ.setdefault("SECRETS_ARN", found["CodeSecretArn"])
    return {t: found[f"{t.title()}TableName"] for t in ("accounts", "ledger", "records")}


def _by_service(url: str) -> int:
    """Let the local service verify its own tables, as the schedule would."""
    try:
        answer = httpx.post(f"{url}/dev/verify", timeout=None)  # noqa: S113  # as long as it takes
        answer.raise_for_status()
    except httpx.HTTPError as error:
        print(f"The local service does not answer at {url} (make run starts it): {error}")
        return 2
    results: dict[str, Any] = answer.json()["programs"]
    for program_id, result in sorted(results.items()):
        violations = [Violation(*row) for row in json.loads(result["violations"])]
        print(
            f"{program_id}: {result['entries']:,} entries, {result['members']:,} members, ", end=""
        )
        print(f"{result['outstanding']:,} points outstanding, {result['violated']:,} violations")
        _print(violations)
    return 1 if any(result["violated"] for result in results.values()) else 0


def _print(violations: list[Violation]) -> None:
    for violation in violations[:TOLD]:
        print(told(violation))
    if len(violations) > TOLD:
        print(f"  … {len(violations) - TOLD} more")


if __name__ == "__main__":
    sys.exit(main())
