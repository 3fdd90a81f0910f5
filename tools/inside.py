"""The whole service in this process and without a socket: gateway, handlers, tables of an engine.

For what sends a great many requests: one that is refused before it reaches the tables takes about a
third of a millisecond. Requests come one after the other, at a time that stands still.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

from loyalty import edge
from loyalty import store as stores
from tools import meter
from tools.engine import LOCAL_CREDENTIALS, Tables
from tools.gateway import Gateway
from tools.issuer import Authorizer, Grant, Issuer
from tools.runtime import Event, Runtime
from tools.template import Function, Template

HOST = "points.example"
NOW = datetime(2026, 3, 2, 10, 15, tzinfo=UTC)
"""When the sample events were sent."""
SECRET = "the secret of the sample events"  # noqa: S105  # it signs codes of samples and no others


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: header names in lower case; how many calls have written to the tables,
    but for totals of budgets; the seconds that it took, by the clock and of CPU."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    writes: int
    seconds: float
    cpu_seconds: float


class Inside:
    """A service over these tables: `with Inside(endpoint, tables) as service: service.send(…)`.

    `issuer` signs the tokens that it takes, with the private key in the file `key`, which is made
    where there is none; `client` is of its tables. One at a time in a process: handlers read
    their environment.
    """

    def __init__(
        self,
        endpoint: str,
        tables: Tables,
        template: Template | None = None,
        key: Path | None = None,
    ) -> None:
        self.tables = tables
        self._key = key
        self._endpoint = endpoint
        self._template = template or Template.load()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self.key = self._key or folder / "key.pem"
        self.issuer = Issuer(self.key, f"https://{HOST}/dev")
        variables = {
            **LOCAL_CREDENTIALS,
            **self.tables.environment,
            "AWS_ENDPOINT_URL_DYNAMODB": self._endpoint,
            "LOYALTY_SECRETS": f'{{"1": "{SECRET}"}}',
            "PUBLIC_URL": f"https://{HOST}",
            "PROGRAM_DELAY_SECONDS": "0",
            "AUTHORIZE_URL": f"{self.issuer.url}/authorize",
            "TOKEN_URL": f"{self.issuer.url}/token",
            "CLIENT_ID": self.issuer.client_id,
        }
        self._open.enter_context(mock.patch.dict(os.environ, variables))
        os.environ.pop("SECRETS_ARN", None)
        self._open.enter_context(mock.patch.object(edge, "clock", return_value=NOW))
        # A lost race would be the only reason to wait, and here nobody races.
        unpaused = partial(stores.Store, sleep=lambda _: None)
        self._open.enter_context(mock.patch.object(edge, "Store", unpaused))
        for known in (edge.store, edge.secrets, edge.sign_in, edge.publish_delay):
            known.cache_clear()
            self._open.callback(known.cache_clear)
        self.client = edge.store().client
        meter.attach(self.client)
        self.client.meta.events.register("provide-client-params.dynamodb", self._note)
        self.client.meta.events.register("after-call.dynamodb", self._count_writes)
        self._writes = 0
        self._asked: Any = {}
        self.runtime = _InTurn()
        self._open.callback(self.runtime.close)
        authorizer = _Remembering(self.issuer.url, self.issuer.jwks(), [self.issuer.client_id])
        self.gateway = Gateway(self._template, self.runtime, authorizer)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
        content: bytes = b"",
    ) -> Answer:
        """The answer to a request for `target`, a path with its query as it stands on the wire."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "headers": [(b"host", HOST.encode()), *headers],
            "server": (HOST, 443),
            "client": ("203.0.113.7", 40000),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        self._writes = 0
        begun, cpu_begun = time.perf_counter(), time.thread_time()
        serving = self.gateway(scope, receive, send)
        try:
            serving.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("nothing in this process waits")
        seconds, cpu_seconds = time.perf_counter() - begun, time.thread_time() - cpu_begun
        start, *bodies = sent
        return Answer(
            start["status"],
            {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
            b"".join(body.get("body", b"") for body in bodies),
            self._writes,
            seconds,
            cpu_seconds,
        )

    def _note(self, params: Any, **_: object) -> None:
        self._asked = params

    def _count_writes(self, http_response: Any, model: Any, **_: object) -> None:
        if http_response.status_code < 300 and model.name not in meter.READS:
            self._writes += not _is_a_total(self._asked)


def _is_a_total(params: Any) -> bool:
    """Whether a transaction does nothing but put the totals of a budget or of a stock in place, as
    the program in force says them: whoever looks at one first does that, and what is left of it is
    as much as before."""
    puts = [item.get("Put", {"Item": {}})["Item"] for item in params.get("TransactItems", ())]
    return bool(puts) and all("#budget#" in put.get("pk", {"S": ""})["S"] for put in puts)


class _Remembering(Authorizer):
    """Checks a token that holds once for each set of scopes; they are good for a day."""

    def __init__(self, issuer: str, jwks: dict[str, Any], audience: Sequence[str]) -> None:
        super().__init__(issuer, jwks, audience)
        self._known: dict[tuple[str | None, tuple[str, ...]], Grant] = {}

    def check(self, authorization: str | None, scopes: Collection[str]) -> Grant:
        asked = authorization, tuple(scopes)
        if asked not in self._known:
            self._known[asked] = super().check(authorization, scopes)
        return self._known[asked]


class _InTurn(Runtime):
    """Runs each handler where the request came in. `meddle` may change an event on its way."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.meddle: Callable[[Event], None] | None = None

    async def invoke_soon(self, function: Function, event: Event) -> tuple[Any, meter.Units]:
        if self.meddle is not None:
            self.meddle(event)
        return self.invoke(function, event)
