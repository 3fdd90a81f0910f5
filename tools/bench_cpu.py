"""What an award's CPU goes to, and how many a second the whole local service and the core alone do.

    python -m tools.bench_cpu [--seconds 10] [--write]

CPU is that of the thread that serves the award, the median of many, with the engine in a process of
its own: reading the request (JSON, model, fingerprint), the decision, the forms in which items are
written and read, the SDK (botocore, both calls), and what is left (routing, metrics, the answer).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from statistics import median
from typing import Any
from unittest import mock

import httpx

from loyalty import earning, edge, projections, store
from loyalty.commands import Event
from loyalty.decisions import Guard
from loyalty.model import Account, Known
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests import workers
from tests.programs import shop
from tests.workers import NOON, connect, deployed, done, send
from tools.bench import measured_on, told
from tools.engine import Engine, create_tables
from tools.template import ROOT, Template

AWARDS = 400

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading the request": ((edge, "decode"), (edge, "validated"), (edge, "canonical")),
    "deciding": ((earning, "award"),),
    "items: written and read": (
        (store, "account_item"), (store, "account_of"), (store, "entry_item"),
        (store, "sealed_hash"),
    ),
    "the answer": ((projections, "awarded"),),
}  # fmt: skip


class Watch:
    """Seconds of this thread's CPU by part; what one part spends in another is the other's."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def watched(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **kwargs: Any) -> Any:
            self._open.append(0.0)
            begun = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                took = time.thread_time() - begun
                self.spent[part] += took - self._open.pop()
                if self._open:
                    self._open[-1] += took

        return watching


def split() -> str:
    """The table of an award's CPU."""
    watch = Watch()
    rounds: list[dict[str, float]] = []
    with Engine() as engine, ExitStack() as stack:
        tables = create_tables(engine.endpoint, "loyalty-cpu", Template.load())
        client = connect(engine.endpoint)
        stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(deployed(client, tables, NOON))
        done(workers.publish(shop(limits=[])))
        done(workers.enrol("ana"))
        for part, places in PARTS.items():
            for module, name in places:
                watching = watch.watched(part, getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, watching))
        for name in ("get_item", "transact_write_items"):
            watching = watch.watched("the SDK", getattr(client, name))
            stack.enter_context(mock.patch.object(client, name, watching))
        whole = watch.watched("the rest", send)
        for number in range(AWARDS):
            call = workers.purchase(f"order-{number}", "ana", 1250, 3000, 499)
            watch.spent.clear()
            assert whole(call).status == 201
            rounds.append(dict(watch.spent))
    rounds = rounds[AWARDS // 10 :]
    parts = [*PARTS, "the SDK", "the rest"]
    middle = {part: median(spent.get(part, 0.0) for spent in rounds) * 1000 for part in parts}
    total = sum(middle.values())
    rows = ["| part of an award | ms of CPU | share |", "|---|--:|--:|"]
    for part, spent in middle.items():
        rows.append(f"| {part} | {spent:.2f} | {100 * spent / total:.0f} % |")
    rows.append(f"| **all** | **{total:.2f}** | |")
    return "\n".join(rows)


def core(seconds: float) -> float:
    """Awards a second that the core alone decides, on one processor."""
    rulebook = Rulebook(parse(shop()), 1)
    call = workers.purchase("order-1", "ana", 1250, 3000, 499)
    event = Event.model_validate(call.body)
    known = Known({"ana": Account(program_id="shop", member_id="ana", seq=1)})
    guard = Guard("e#order-1", "0", bytes(16))
    decided = 0
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        earning.award(rulebook, known, guard, event, 1_773_835_200_000)
        decided += 1
    return decided / (time.process_time() - begun)


@contextmanager
def service() -> Iterator[tuple[str, dict[str, str]]]:
    """The local service with its demo program: its address, and headers with a token."""
    with tempfile.TemporaryDirectory(prefix="loyalty-cpu-") as data:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.local", "--port", "0", "--data", data],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout
            url = ""
            for line in process.stdout:
                if line.startswith("Ready at "):
                    url = line.split()[2]
                if line.startswith("Ctrl-C"):
                    break
            token = httpx.post(f"{url}/dev/tokens", json={"scope": "admin"}).json()["access_token"]
            yield url, {"Authorization": f"Bearer {token}"}
        finally:
            process.terminate()
            process.wait(30)


def throughput(clients: int, seconds: float) -> float:
    """Awards a second of the whole local service: HTTP, tokens, handlers, engine, stream."""
    with service() as (url, headers), httpx.Client(base_url=url, headers=headers) as http:
        base = "/v1/programs/demo"
        for number in range(clients):
            http.post(f"{base}/members", json={"member_id": f"m-{number}"}).raise_for_status()

        def client(number: int) -> int:
            sent = 0
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                body = {
                    "event_id": f"{number}-{sent}",
                    "type": "survey",
                    "member_id": f"m-{number}",
                }
                assert http.post(f"{base}/awards", json=body).status_code == 201
                sent += 1
            return sent

        with ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(client, range(clients))) / seconds


def table(seconds: float) -> str:
    """Both tables."""
    rows = ["| | awards/s |", "|---|--:|"]
    alone = core(seconds / 2)
    rows.append(f"| the core alone, one processor | {alone:.0f} |")
    for clients in (1, 8):
        rate = throughput(clients, seconds)
        rows.append(
            f"| the local service over HTTP, {clients} client{'s' * (clients > 1)} | {rate:.0f} |"
        )
    return "\n".join([split(), "", *rows, "", measured_on()])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each case")
    parser.add_argument("--write", action="store_true", help="put the tables into the document")
    wish = parser.parse_args()
    told("cpu", table(wish.seconds), write=wish.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
