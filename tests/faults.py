"""Faults between the store and its tables: at a chosen call, or scattered.

They are put in where botocore sends, on a real client against a real engine. So what the store
meets is what it would meet in the cloud: an exception of the SDK, or an error that the SDK read
from the answer.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from botocore.httpsession import URLLib3Session

type Fault = Literal[
    "not connected",
    "request lost",
    "answer lost",
    "server error",
    "server error after all",
    "bad gateway",
    "throttled",
    "over capacity",
    "conflict",
    "killed",
    "killed after",
]
"""`after` and `answer lost`: the engine has carried the call out, and nobody was told."""

FAULTS: Final[tuple[Fault, ...]] = get_args(Fault.__value__)
READ_FAULTS: Final[tuple[Fault, ...]] = (
    "not connected", "answer lost", "server error", "throttled", "killed",
)  # fmt: skip
"""Those that a read can tell apart: it has no effect of which nobody was told."""
WRITES: Final = frozenset({"PutItem", "TransactWriteItems"})
KILLED: Final = 86
"""The exit status of a process that a fault killed."""

type Step = Callable[[AWSPreparedRequest], AWSResponse | None]
"""Something that happens just before a call, and may answer it in the engine's place."""
type Plan = Mapping[int, Fault | Step]
"""What happens at which call, counted from 0."""
type Rewrite = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""Another answer in the engine's place: of (the request, the engine's answer)."""


class Faults:
    """The calls of a client, and what befalls them.

    `operations` are the names of the calls made, broken ones too, since the last plan; `met` counts
    the faults that calls met, by kind.
    """

    def __init__(self, client: Any) -> None:
        self.operations: list[str] = []
        self.met: Counter[str] = Counter()
        self._plan: Plan = {}
        self._of: str | None = None
        self._from_then_on = False
        self._chance: tuple[float, random.Random] | None = None
        self._rewrites: dict[str, Rewrite] = {}
        self._session = URLLib3Session(max_pool_connections=64)
        self._inside = False
        client.meta.events.register("before-send.dynamodb", self._before_send)

    def follow(self, plan: Plan, *, of: str | None = None, from_then_on: bool = False) -> None:
        """Break the calls that the plan names, numbered among those `of` an operation or among all;
        with `from_then_on` all calls after them too."""
        self.operations = []
        self._plan = plan
        self._of = of
        self._from_then_on = from_then_on

    def heal(self) -> None:
        """From now on nothing breaks."""
        self._plan, self._from_then_on, self._chance = {}, False, None
        self._rewrites.clear()

    def scatter(self, in_thousand: int, chance: random.Random) -> None:
        """Break so many of a thousand calls, each by a fault that is drawn."""
        self._chance = in_thousand / 1000, chance

    def rewrite(self, operation: str, rewrite: Rewrite) -> None:
        """Answer every call of an operation by what `rewrite` makes of the engine's answer."""
        self._rewrites[operation] = rewrite

    def _before_send(
        self, request: AWSPreparedRequest, event_name: str, **_: object
    ) -> AWSResponse | None:
        if self._inside:
            return None  # a call that a plan makes of its own
        operation = event_name.rpartition(".")[2]
        self.operations.append(operation)
        fault = self._planned(operation)
        if fault is None and self._chance and self._chance[1].random() < self._chance[0]:
            kinds = FAULTS[: FAULTS.index("killed")]
            fault = self._chance[1].choice(kinds)
        if callable(fault):
            self._inside = True
            try:
                return fault(request)
            finally:
                self._inside = False
        if fault is not None:
            return self._break(fault, operation, request)
        if operation in self._rewrites:
            answer = json.loads(self._session.send(request).content)
            asked = asked_of(request)
            return _answer(request, 200, self._rewrites[operation](asked, answer))
        return None

    def _planned(self, operation: str) -> Fault | Step | None:
        if not self._plan or self._of not in (None, operation):
            return None
        calls = len(self.operations) if self._of is None else self.operations.count(operation)
        last = max(self._plan)
        if self._from_then_on and calls > last:
            return self._plan[last]
        return self._plan.get(calls - 1)

    def _break(self, fault: Fault, operation: str, request: AWSPreparedRequest) -> AWSResponse:
        self.met[fault] += 1
        match fault:
            case "not connected":
                raise EndpointConnectionError(endpoint_url=request.url)
            case "request lost":
                raise ConnectionClosedError(endpoint_url=request.url)
            case "answer lost":
                self._session.send(request)
                raise ReadTimeoutError(endpoint_url=request.url)
            case "server error":
                return _error(request, 500, "InternalServerError")
            case "server error after all":
                self._session.send(request)
                return _error(request, 500, "InternalServerError")
            case "bad gateway":
                return _answer(request, 502, "<html>Bad Gateway</html>")
            case "throttled":
                return _error(request, 400, "ThrottlingException")
            case "over capacity":
                if operation == "TransactWriteItems":
                    return _cancelled(request, "ProvisionedThroughputExceeded")
                return _error(request, 400, "ProvisionedThroughputExceededException")
            case "conflict":
                if operation == "TransactWriteItems":
                    return _cancelled(request, "TransactionConflict")
                return _error(request, 400, "TransactionConflictException")
            case "killed":
                os._exit(KILLED)
            case "killed after":
                self._session.send(request)
                os._exit(KILLED)


def asked_of(request: AWSPreparedRequest) -> Any:
    """What a request asks for, as JSON has it."""
    body: Any = request.body
    return json.loads(body)


def cancelled(request: AWSPreparedRequest, *reasons: Mapping[str, Any]) -> AWSResponse:
    """The answer to a transaction that was cancelled for these reasons, as JSON has them."""
    codes = ", ".join(reason["Code"] for reason in reasons)
    body = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": f"Transaction cancelled, please refer cancellation reasons [{codes}]",
        "CancellationReasons": reasons,
    }
    return _answer(request, 400, body)


def _cancelled(request: AWSPreparedRequest, code: str) -> AWSResponse:
    # The first item met it: the account, which is the one that is shared.
    items = asked_of(request)["TransactItems"]
    return cancelled(request, {"Code": code}, *[{"Code": "None"}] * (len(items) - 1))


def _error(request: AWSPreparedRequest, status: int, code: str) -> AWSResponse:
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "A fault of a test."}
    return _answer(request, status, body)


class _Raw(io.BytesIO):
    def stream(self, **_: object) -> Any:
        yield self.read()


def _answer(request: AWSPreparedRequest, status: int, body: Any) -> AWSResponse:
    content = body if isinstance(body, str) else json.dumps(body)
    headers: Any = {"content-type": "application/x-amz-json-1.0"}
    return AWSResponse(request.url, status, headers, _Raw(content.encode()))
