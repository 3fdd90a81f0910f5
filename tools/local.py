"""`make run`: the whole service on this machine, over the engine, at http://127.0.0.1:$PORT.

Its data, keys and log lie in one folder, .local, and are found again by the next start, also after
`kill -9`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import shlex
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

import httpx
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.routing import Mount

from loyalty import edge
from tools import dev, meter
from tools.engine import (
    LOCAL_CREDENTIALS,
    Engine,
    EngineError,
    Tables,
    create_tables,
    end_with_parent,
)
from tools.gateway import Gateway
from tools.issuer import Authorizer, Issuer
from tools.runtime import Runtime
from tools.template import ROOT, Template
from tools.triggers import Bus, Queues, Stream, Sweep

DEFAULT_PORT = 8000
TABLE_PREFIX = "loyalty"
DEMO_PROGRAM = Path(__file__).with_name("demo_program.yaml")
DEMO_MEMBERS = {"ada": "Ada", "grace": "Grace", "linus": "Linus"}
MAX_LOG_BYTES = 20 * 1024 * 1024


class Failure(Exception):
    """The service cannot start; the text is the one line that says why."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it; the exit status."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--port", help="default: PORT, or 8000; 0: any free one")
    parser.add_argument("--data", type=Path, default=ROOT / ".local", help="default: .local")
    parser.add_argument("--no-demo", action="store_true", help="no demo program, no members")
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the process that started it ends"
    )
    options = parser.parse_args(arguments)
    if options.with_parent:
        end_with_parent()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _end)
    try:
        serve(_port(options.port or os.environ.get("PORT", "")), options.data, not options.no_demo)
    except (Failure, EngineError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(port: int, data: Path, demo: bool) -> None:
    """Serve at `port` with the data in the folder `data`, until a signal ends it.

    Raises Failure or EngineError before anything is served.
    """
    data = data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    template = Template.load()
    with _one_service(data), _bind(port) as listener, Engine(data / "loyalty.db") as engine:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        tables = create_tables(engine.endpoint, TABLE_PREFIX, template, stream=True)
        _index_stream(data / "loyalty.db")
        issuer = Issuer(data / "issuer.pem", f"{url}/dev")
        os.environ.update(environment(template, engine.endpoint, tables, url, issuer, data))
        # Made before the first request, since many at once would each make their own.
        meter.attach(edge.store().client)
        edge.secrets()
        with _log_to(data / "service.log") as console:
            runtime = Runtime()
            runtime.load(template)
            ledger = {"LedgerTable": tables.ledger}
            stream = Stream(template, runtime, engine.endpoint, ledger, data / "stream.json")
            authorizer = Authorizer(issuer.url, issuer.jwks(), [issuer.client_id])
            gateway = Gateway(template, runtime, authorizer)
            clock = dev.TestClock(edge)
            queues = Queues(template)
            bus = Bus()
            sweep = Sweep(template, runtime, queues, clock.now, "expire")
            verification = Sweep(template, runtime, queues, clock.now, "verify")
            members = list(DEMO_MEMBERS) if demo else []
            app = Starlette(
                routes=[
                    *dev.routes(issuer, clock, sweep, queues, bus, members, verification),
                    Mount("", app=gateway),
                ]
            )
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    http="httptools",
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=75,
                    timeout_graceful_shutdown=10,
                )
            )
            greeter = threading.Thread(
                target=_greet, args=(server, console, url, data, issuer, demo), daemon=True
            )
            stream.start()
            greeter.start()
            try:
                server.run(sockets=[listener])
            finally:
                runtime.close()
                stream.stop()


def _index_stream(database: Path) -> None:
    """Keep the engine's writes from growing dearer with every record of the ledger's stream.

    The pinned engine looks for a table's last stream record without an index: over 6,000 records a
    transaction went from 1.2 to 3.9 ms of CPU, and stays at 1.1 ms with these. Another engine has
    no such table, and nothing is done.
    """
    statements = (
        "CREATE INDEX IF NOT EXISTS stream_order"
        " ON _stream_records (table_name, CAST(sequence_number AS INTEGER))",
        "CREATE INDEX IF NOT EXISTS stream_ends"
        " ON _stream_records (table_name, shard_id, sequence_number)",
    )
    if not database.exists():
        return
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(database, timeout=5)) as connection,
        connection,
    ):
        for statement in statements:
            connection.execute(statement)


def environment(
    template: Template, endpoint: str, tables: Tables, url: str, issuer: Issuer, data: Path
) -> dict[str, str]:
    """The variables under which the handlers run, those of the template as far as it has them."""
    resources = (
        {
            "AccountsTable": tables.accounts,
            "LedgerTable": tables.ledger,
            "RecordsTable": tables.records,
        }
        | {
            source.of: f"{url}/dev/sqs/{source.of}"
            for source in template.sources
            if source.kind == "queue"
        }
        | {"PointsBus": "local"}
    )
    return {
        **template.environment(resources),
        **LOCAL_CREDENTIALS,
        "AWS_REGION": LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_DYNAMODB": endpoint,
        "AWS_ENDPOINT_URL_SQS": f"{url}/dev/sqs",
        "AWS_ENDPOINT_URL_EVENTBRIDGE": f"{url}/dev/bus",
        "STAGE": "local",
        "PUBLIC_URL": url,
        "PROGRAM_DELAY_SECONDS": "0",
        "LOYALTY_SECRETS": _secrets(data / "secrets.json"),
        "ISSUER": issuer.url,
        "AUTHORIZE_URL": f"{issuer.url}/authorize",
        "TOKEN_URL": f"{issuer.url}/token",
        "CLIENT_ID": issuer.client_id,
        "POWERTOOLS_SERVICE_NAME": "loyalty",
    }


def _greet(
    server: uvicorn.Server, console: TextIO, url: str, data: Path, issuer: Issuer, demo: bool
) -> None:
    """Put the demo program in place, once the server answers, and say what to try."""
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.005)
    token = issuer.token(["admin"])
    header = data / "authorization"
    header.touch(mode=0o600)
    header.write_text(f"Authorization: Bearer {token}\n")
    lines = [
        f"Ready at {url}",
        "",
        f"A token for everything, good for a day (as a header in {_shown(header)}):",
        f"  {token}",
    ]
    if demo:
        try:
            with httpx.Client(base_url=f"{url}/v1/programs/demo", timeout=30) as http:
                http.headers["authorization"] = f"Bearer {token}"
                code = _seed(http)
            lines += ["", *_trials(url, header, code)]
        except httpx.HTTPStatusError as error:
            answer = error.response
            lines += ["", f"The demo program is not in place: {answer.status_code} {answer.text}"]
    lines += ["", f"Log: {_shown(data / 'service.log')}", "Ctrl-C ends it, its data stays."]
    console.write("\n".join(lines) + "\n")
    console.flush()


def _seed(http: httpx.Client) -> dict[str, Any]:
    """Publish the demo program and enrol its members where they are absent; the code at Marais."""
    if http.get("/program").status_code == httpx.codes.NOT_FOUND:
        document = yaml.safe_load(DEMO_PROGRAM.read_text(encoding="utf-8"))
        http.put("/program", json=document).raise_for_status()
    for member_id, name in DEMO_MEMBERS.items():
        if http.get(f"/members/{member_id}").status_code == httpx.codes.NOT_FOUND:
            body = {"member_id": member_id, "name": name}
            http.post("/members", json=body).raise_for_status()
    answer = http.get("/locations/marais/code").raise_for_status()
    code: dict[str, Any] = answer.json()
    return code


def _trials(url: str, header: Path, code: dict[str, Any]) -> list[str]:
    """Four curl lines. Each start has its own ids, so that repeating a line shows a replay."""
    start = f"{datetime.now(UTC):%m%d-%H%M%S}"
    # A location gives its points once a day: the same key on the same day is a replay.
    today = datetime.now(ZoneInfo("Europe/Paris")).date()
    base = f"{url}/v1/programs/demo"
    curl = f"curl -s -H @{shlex.quote(str(header))}"
    post = f"{curl} -H 'Content-Type: application/json'"
    line = {"line_id": "1", "product_id": "ESPRESSO-1KG", "quantity": 1, "amount": 3250}
    purchase = {
        "event_id": f"order-{start}",
        "type": "purchase",
        "member_id": "ada",
        "purchase": {"currency": "EUR", "lines": [line]},
    }
    scan = {"code": code["code"], "member_id": "ada"}
    redemption = {"member_id": "ada", "points": 25}
    visit = f"-H 'Idempotency-Key: visit-{today}'"
    checkout = f"-H 'Idempotency-Key: checkout-{start}'"
    return [
        "Award the points of a purchase, check in, redeem, look at the balance:",
        f"  {post} -d '{json.dumps(purchase)}' {base}/awards",
        f"  {post} {visit} -d '{json.dumps(scan)}' {base}/check-ins",
        f"  {post} {checkout} -d '{json.dumps(redemption)}' {base}/redemptions",
        f"  {curl} {base}/members/ada/balance",
        "",
        "The page behind the QR code at Marais, for a phone or a browser:",
        f"  {code['url']}",
    ]


@contextlib.contextmanager
def _bind(port: int) -> Iterator[socket.socket]:
    """The port, taken and not yet open, so that nobody is answered before all is in place."""
    with socket.socket() as listener:
        # Connections of the last run may still linger.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for last_try in _tries():
            try:
                listener.bind(("127.0.0.1", port))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise Failure(f"Port {port} cannot be used: {error.strerror}") from error
                if last_try:
                    detail = f"Port {port} is in use. Another one: make run PORT={port + 1}"
                    raise Failure(detail) from error
        yield listener


@contextlib.contextmanager
def _one_service(data: Path) -> Iterator[None]:
    """Two services over one database file would each believe to be alone."""
    with (data / "lock").open("a") as lock:
        for last_try in _tries():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last_try:
                    detail = f"Another service runs with the data in {_shown(data)}."
                    raise Failure(detail) from error
        yield


def _tries() -> Iterator[bool]:
    """Whether this try is the last one: a service that was just killed may take a moment to go."""
    for _ in range(20):
        yield False
        time.sleep(0.05)
    yield True


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[TextIO]:
    """What handlers write goes to the log, as it goes to CloudWatch; gives the console."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    console = sys.stdout
    with (
        path.open("a", buffering=1, encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        logging.basicConfig(
            stream=file, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
        )
        yield console


def _secrets(path: Path) -> str:
    """The secrets of codes and vouchers, made at the first start: printed codes go on working."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({"1": secrets.token_urlsafe(48)}))
        fresh.rename(path)
    return path.read_text()


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isdecimal() or int(text) > 65535:
        raise Failure(f"PORT is a number up to 65535, not {text!r}.")
    return int(text)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _end(_signal: int, _frame: object) -> None:
    # Raised where the program stands, so that every block on the way ends what it began.
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
