"""How functions start: CPU of their imports and of their first client, beside a bare one.

    python -m tools.startup [--write]     print the table, or write it into docs/benchmarks.md

Measured on the functions and the layer as they are built for Lambda (`make bench-startup` builds
them, for this machine), each start in a process of its own that sees nothing else. CPU time of the
process, the best of several rounds that take turns, so that what else the machine does shows
little; and as a ratio to a process that only makes a DynamoDB client with boto3.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.bench import measured_on, told
from tools.cloud import BUILT
from tools.template import Function, Template

ROUNDS = 7
BARE = "import boto3; boto3.client('dynamodb')"
# The first request needs the tables, except where a function has none.
WITHOUT_TABLES = {"pre_token", "stream", "publish"}
# What is imported is not written back: the disk of the runtime cannot be written to.
PYTHON = (sys.executable, "-S", "-E", "-B", "-c")
TIMED = """
import sys, time
sys.path[:0] = sys.argv[2:]
before, begun = len(sys.modules), time.process_time()
exec(sys.argv[1])
print(time.process_time() - begun, len(sys.modules) - before)
"""
ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nobody",
    "ACCOUNTS_TABLE": "accounts",
    "LEDGER_TABLE": "ledger",
    "RECORDS_TABLE": "records",
    "POWERTOOLS_SERVICE_NAME": "startup",
}


@dataclass(frozen=True, slots=True)
class Start:
    """One way to start: seconds of CPU, and modules that were imported."""

    seconds: float
    modules: int


def measured(statement: str, function: str, built: Path) -> Start:
    """`statement` in a new process that has the function and the layer of a build."""
    paths = [str(built / function), str(built / "LoyaltyLayer" / "python")]
    done = subprocess.run(
        [*PYTHON, TIMED, statement, *paths],
        env=ENVIRONMENT | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, modules = done.stdout.split()
    return Start(float(seconds), int(modules))


def cases(functions: list[Function], plain: Path) -> Iterator[tuple[tuple[str, str], str, Path]]:
    """((function, what), statement, build) of everything that is measured."""
    yield ("", "bare"), BARE, BUILT
    for function in functions:
        imports = f"import {function.module}"
        yield (function.logical_id, "imports"), imports, BUILT
        yield (function.logical_id, "compiles"), imports, plain
        if function.module not in WITHOUT_TABLES:
            ready = f"{imports}; from loyalty import edge; edge.store()"
            yield (function.logical_id, "ready"), ready, BUILT


def table() -> str:
    """The table in Markdown, slowest function first."""
    functions = list(Template.load().functions.values())
    best: dict[tuple[str, str], Start] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "build"
        shutil.copytree(BUILT, plain, ignore=shutil.ignore_patterns("__pycache__"))
        for _ in range(ROUNDS):
            for key, statement, built in cases(functions, plain):
                start = measured(statement, key[0] or functions[0].logical_id, built)
                best[key] = min(best.get(key, start), start, key=lambda each: each.seconds)
    bare = best["", "bare"]
    rows = [
        "| function | modules | import without bytecode, ms | with, ms | and client, ms | ratio |",
        "|---|--:|--:|--:|--:|--:|",
        f"| only boto3 | {bare.modules} | | | {bare.seconds * 1000:.0f} | 1.00 |",
    ]

    def whole(function: Function) -> Start:
        imports = best[function.logical_id, "imports"]
        return best.get((function.logical_id, "ready"), imports)

    for function in sorted(functions, key=lambda each: -whole(each).seconds):
        compiles = best[function.logical_id, "compiles"].seconds * 1000
        imports = best[function.logical_id, "imports"].seconds * 1000
        start = whole(function)
        ready = "" if function.module in WITHOUT_TABLES else f"{start.seconds * 1000:.0f}"
        rows.append(
            f"| `{function.module}` | {start.modules} | {compiles:.0f} | {imports:.0f} | {ready} "
            f"| {start.seconds / bare.seconds:.2f} |"
        )
    return "\n".join([*rows, "", measured_on()])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    told("startup", table(), write=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
