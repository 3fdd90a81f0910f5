"""How long a decision takes: CPU per award of the pure core, over rules, lines, lots and limits.

    python -m tools.bench [--write]     print the table, or write it into docs/benchmarks.md

CPU time of this thread, the best of many rounds, so that what else the machine does shows little;
and as a ratio to the smallest case of the same run, which is what carries over to another machine.
Programs are compiled before the clock starts, as they are once in the life of a process.
"""

import argparse
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from loyalty.commands import Event
from loyalty.decisions import Guard
from loyalty.earning import award
from loyalty.model import Account, Known
from loyalty.rules import Rulebook
from loyalty.validation import parse

NOW = 1_795_348_800_000
ROUNDS = 60
DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"

CASES = (
    # rules, campaigns, offers, lines
    (1, 0, 0, 1),
    (5, 1, 1, 3),
    (50, 5, 10, 10),
    (200, 20, 50, 10),
    (200, 20, 50, 50),
    (200, 20, 50, 500),
    (500, 20, 50, 50),
    (1000, 20, 50, 50),
    (2000, 20, 50, 50),
)


def program(rules: int, campaigns: int, offers: int) -> dict[str, Any]:
    """A shop's program: a base rule, and rules by category and product with conditions and limits.

    One rule in eight meets the basket, as bonuses on some of a shop's categories do.
    """
    return {
        "program_id": "bench",
        "name": "Bench",
        "currency": "EUR",
        "time_zone": "Europe/Paris",
        "point_value": "1",
        "expiry": [{"after": "P12M", "round_up_to": "month"}],
        "limits": [{"points": 1_000_000, "per": "day"}],
        "rules": [
            {"rule_id": "base", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}},
            *(
                {
                    "rule_id": f"bonus-{i}",
                    "trigger": "purchase",
                    "earn": (
                        {"points": 5, "per_quantity": 2}
                        if i % 3 == 0
                        else {"points": 2, "per_amount": 100}
                    ),
                    "match": (
                        {"categories": [f"c{i % 400}"]} if i % 2 else {"products": [f"p{i * 4}"]}
                    ),
                    "when": {"channels": ["web", "app"], "min_amount": 100 + i},
                    "limits": [{"points": 500, "per": "day"}],
                }
                for i in range(1, rules)
            ),
        ],
        "campaigns": [
            {
                "campaign_id": f"campaign-{i}",
                "name": "Bench",
                "from": "2026-01-01",
                "until": "2026-12-31",
                "multiplier": "1.5",
                "match": {"categories": [f"c{i}"]},
            }
            for i in range(campaigns)
        ],
        "offers": [
            {
                "offer_id": f"offer-{i}",
                "applies_to": {"categories": [f"c{i * 8}"]},
                "percent": "5",
                "validity": "P6M",
            }
            for i in range(offers)
        ],
    }


def purchase(lines: int) -> Event:
    return Event.model_validate(
        {
            "event_id": "order-1",
            "type": "purchase",
            "member_id": "ada",
            "channel": "web",
            "purchase": {
                "currency": "EUR",
                "lines": [
                    {
                        "line_id": str(i),
                        "product_id": f"p{i * 8}",
                        "category_ids": [f"c{i}", f"c{i + 50}"],
                        "quantity": 2,
                        "amount": 1299 + i,
                    }
                    for i in range(lines)
                ],
            },
        }
    )


def measured(case: tuple[int, int, int, int]) -> tuple[float, float, int]:
    """(milliseconds of CPU to decide, to compile, how many rules and offers fired)."""
    rules, campaigns, offers, lines = case
    document = program(rules, campaigns, offers)
    begun = time.thread_time()
    rulebook = Rulebook(parse(document), 1)
    compiled = time.thread_time() - begun
    event = purchase(lines)
    account = Account(program_id="bench", member_id="ada", seq=1)
    known, guard = Known({"ada": account}), Guard("e#order-1", "0", bytes(16))
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.thread_time()
        decision = award(rulebook, known, guard, event, NOW)
        best = min(best, time.thread_time() - begun)
    fired = len(decision.entries[0].explanation["g"])
    return best * 1000, compiled * 1000, fired


def table() -> str:
    rows = [
        "| rules | campaigns | offers | lines | fired | decide, ms of CPU | ratio | compile, ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    smallest = 0.0
    for case in CASES:
        decide, compiled, fired = measured(case)
        smallest = smallest or decide
        cells = [*map(str, case), str(fired), f"{decide:.2f}", f"{decide / smallest:.1f}"]
        rows.append(f"| {' | '.join(cells)} | {compiled:.0f} |")
    return "\n".join([*rows, "", measured_on()])


def measured_on(*more: str) -> str:
    """When and on what a table was measured, and whatever else has to be said of the machine."""
    cores = f"{os.cpu_count()} cores"
    machine = platform.machine(), f"CPython {platform.python_version()}", cores, *more
    day = date.today().isoformat()  # noqa: DTZ011  # of the day, wherever
    return f"Measured on {day}: {', '.join(machine)}."


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    told("decide", table(), write=options.write)
    return 0


def told(name: str, table: str, *, write: bool, document: Path = DOCUMENT) -> None:
    """Print a table, or put it into the document between the marks of that name."""
    if not write:
        print(table)
        return
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = document.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
