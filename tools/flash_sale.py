"""A flash sale: a thousand pieces, five thousand buyers, sixty-four of them at any moment.

    python -m tools.flash_sale [--pieces 1000] [--buyers 5000]

The handlers run in processes of their own on a fresh engine in memory. A buyer who is answered 503
sends the same request again, as told. In the end the books are read: exactly as many pieces are
sold as there were, each for its cost, and the exit status says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, create_tables
from tools.template import Template

PROGRAM = "sale"
COST = 10
PROCESSES = 4
THREADS = 16
BASE = "/v1/programs/{program_id}"

DOCUMENT: dict[str, Any] = {
    "program_id": PROGRAM,
    "name": "Flash sale",
    "currency": "EUR",
    "time_zone": "Europe/Paris",
    "rules": [{"rule_id": "hello", "trigger": "registration", "earn": {"points": 100}}],
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request: the function, the route, the body, the Idempotency-Key."""

    module: str
    route: str
    body: dict[str, Any]
    key: str | None = None

    def event(self) -> dict[str, Any]:
        claims = {"scope": "loyalty/admin", "sub": "flash-sale"}
        return {
            "version": "2.0",
            "routeKey": self.route,
            "headers": {} if self.key is None else {"idempotency-key": self.key},
            "pathParameters": {"program_id": PROGRAM},
            "requestContext": {"authorizer": {"jwt": {"claims": claims}}},
            "body": json.dumps(self.body),
            "isBase64Encoded": False,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a buyer fared: the last answer, how often it was put off, milliseconds until then."""

    outcome: str
    put_off: int
    milliseconds: float


def publish(pieces: int) -> Call:
    reward = {"reward_id": "piece", "kind": "product", "cost": COST, "stock": pieces}
    return Call("admin", f"PUT {BASE}/program", DOCUMENT | {"rewards": [reward]})


def enrol(buyer: int) -> Call:
    return Call("members", f"POST {BASE}/members", {"member_id": f"buyer-{buyer}"})


def buy(buyer: int) -> Call:
    body = {"member_id": f"buyer-{buyer}", "reward_id": "piece"}
    return Call("redeem", f"POST {BASE}/redemptions", body, f"sale-{buyer}")


def _insist(call: Call) -> Outcome:
    begun = time.monotonic()
    handler = importlib.import_module(call.module).handler
    put_off = 0
    while True:
        answer = handler(call.event(), None)
        if answer["statusCode"] != 503:
            break
        put_off += 1
        time.sleep(float(answer["headers"]["Retry-After"]) * random.random())  # noqa: S311  # spread
    body = json.loads(answer["body"])
    outcome = body["code"] if answer["statusCode"] >= 400 else "done"
    return Outcome(outcome, put_off, (time.monotonic() - begun) * 1000)


def _prepare(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # What the handlers log and measure is nobody's business here.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _share(calls: Sequence[Call]) -> list[Outcome]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_insist, calls))


def _all(processes: ProcessPoolExecutor, calls: list[Call]) -> list[Outcome]:
    shares = [calls[i::PROCESSES] for i in range(PROCESSES)]
    return [outcome for share in processes.map(_share, shares) for outcome in share]


def _spent(engine: Engine, tables: Tables) -> int:
    """Points that all accounts together have spent."""
    from loyalty.wire import account_of

    pages = engine.client().get_paginator("scan").paginate(TableName=tables.accounts)
    accounts = [account_of(item) for page in pages for item in page["Items"]]
    return sum(100 - account.balance for account in accounts)


def _left(engine: Engine, tables: Tables) -> int:
    """Pieces that the shards of the stock still hold."""
    answer = engine.client().query(
        TableName=tables.records,
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues={":p": {"S": f"{PROGRAM}#budget#reward:piece"}},
    )
    return sum(int(item["left"]["N"]) for item in answer["Items"])


def run(pieces: int, buyers: int) -> bool:
    """Hold the sale, print what came of it; whether exactly all pieces were sold."""
    with Engine() as engine:
        tables = create_tables(engine.endpoint, "loyalty-flash-sale", Template.load())
        environment = {
            **LOCAL_CREDENTIALS,
            **tables.environment,
            "AWS_ENDPOINT_URL_DYNAMODB": engine.endpoint,
            "LOYALTY_SECRETS": json.dumps({"1": "a secret of this sale alone"}),
        }
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, context, _prepare, (environment,)) as processes:
            for answer in _all(processes, [publish(pieces)]):
                assert answer.outcome == "done", answer
            for answer in _all(processes, [enrol(i) for i in range(buyers)]):
                assert answer.outcome == "done", answer
            begun = time.monotonic()
            answers = _all(processes, [buy(i) for i in range(buyers)])
            seconds = time.monotonic() - begun
        spent, left = _spent(engine, tables), _left(engine, tables)
    outcomes = Counter(answer.outcome for answer in answers)
    waits = sorted(answer.milliseconds for answer in answers)
    sold = outcomes["done"]
    print(f"{pieces} pieces, {buyers} buyers, {PROCESSES * THREADS} at once: {seconds:.1f} s")
    print(f"sold {sold}, refused {dict(outcomes - Counter(done=sold))}, left {left}")
    print(f"503s {sum(answer.put_off for answer in answers)}, oversold {max(0, sold - pieces)}")
    print(f"p50 {waits[len(waits) // 2]:.0f} ms, p99 {waits[len(waits) * 99 // 100]:.0f} ms")
    return sold == min(pieces, buyers) and left == pieces - sold and spent == sold * COST


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pieces", type=int, default=1000)
    parser.add_argument("--buyers", type=int, default=5000)
    wish = parser.parse_args()
    return 0 if run(wish.pieces, wish.buyers) else 1


if __name__ == "__main__":
    sys.exit(main())
