"""The edge of a function: routes, callers, bodies, clock, problems. The only module that reads the
environment and the clock.

A handler is a few sentences: parse, load, decide, commit, answer. Everything around it that must
be the same for all is here.
"""

import base64
import binascii
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal
from uuid import uuid4

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from pydantic import BaseModel, ValidationError

from loyalty import projections
from loyalty import store as tables
from loyalty.codes import Secrets
from loyalty.commands import Body
from loyalty.dates import milliseconds
from loyalty.decisions import Guard, key_partition
from loyalty.model import Refusal
from loyalty.pages import SIGNED_IN_PATH, SignIn
from loyalty.problems import PROBLEMS
from loyalty.store import Committed, KeyReused, Proposed, Store, Unavailable
from loyalty.validation import Faults

type Role = Literal["admin", "staff", "merchant", "member"]
type Handler = Callable[..., "Response"]

BASE: Final = "/v1/programs/{program_id}"
BODY_BYTES: Final = 256 * 1024
"""Enough for 500 lines."""
PROGRAM_BYTES: Final = 5 * 1024 * 1024
"""A program of 2,000 rules has about 1 MiB."""
PAGE_LIMIT: Final = 100
DEFAULT_PAGE_LIMIT: Final = 25
PAGE_BYTES: Final = 5_000_000
"""A page ends before its answer is larger: Lambda gives none of more than 6 MiB."""
RETRY_AFTER_SECONDS: Final = 1
SCAN_SECONDS: Final = 20.0
"""How long the sweep waits for one page of accounts."""
METRICS_NAMESPACE: Final = "Loyalty"

ANYONE: Final[tuple[Role, ...]] = ("admin", "staff", "merchant", "member")
SHOP: Final[tuple[Role, ...]] = ("admin", "staff", "merchant")
STAFF: Final[tuple[Role, ...]] = ("admin", "staff")
OWN: Final[tuple[Role, ...]] = ("admin", "staff", "member")
ADMIN: Final[tuple[Role, ...]] = ("admin",)

logger = Logger()

_counted: ContextVar[Counter[str]] = ContextVar("counted")


def clock() -> datetime:
    """Now, in UTC. The local service and tests put another clock in this place."""
    return datetime.now(UTC)


def count(name: str, by: int = 1) -> None:
    """Add to a metric of the invocation; it is emitted when the invocation ends. Seconds where its
    name says so."""
    _counted.get()[name] += by


@contextmanager
def counting() -> Iterator[None]:
    """Collect what is counted within, and emit it as CloudWatch metrics at the end.

    Apart for each invocation: locally many run in one process.
    """
    counted = Counter[str]()
    token = _counted.set(counted)
    try:
        yield
    finally:
        _counted.reset(token)
        metrics = EphemeralMetrics(namespace=METRICS_NAMESPACE)
        for name, number in counted.items():
            unit = MetricUnit.Seconds if name.endswith("Seconds") else MetricUnit.Count
            metrics.add_metric(name, unit, number)
        if counted:
            metrics.flush_metrics()


# The environment


@cache
def store() -> Store:
    """The tables that this deployment's environment names."""
    return Store(
        tables.connect(),
        accounts=os.environ["ACCOUNTS_TABLE"],
        ledger=os.environ["LEDGER_TABLE"],
        records=os.environ["RECORDS_TABLE"],
        scanner=lambda: tables.connect(SCAN_SECONDS),
    )


@cache
def secrets() -> Secrets:
    """The secrets that sign codes; read once in the life of a process."""
    if "SECRETS_ARN" in os.environ:
        return tables.load_secrets(os.environ["SECRETS_ARN"])
    return tables.secrets_of(os.environ["LOYALTY_SECRETS"])


@cache
def sign_in() -> SignIn:
    """Where a person with a phone signs in, and as which OIDC client."""
    return SignIn(
        authorize_url=os.environ["AUTHORIZE_URL"],
        token_url=os.environ["TOKEN_URL"],
        client_id=os.environ["CLIENT_ID"],
        redirect_uri=SIGNED_IN_PATH,
        scope="openid loyalty/member",
    )


@cache
def publish_delay() -> timedelta:
    """How long a new version waits, so that every function knows of it before it counts."""
    return timedelta(seconds=int(os.environ.get("PROGRAM_DELAY_SECONDS", "30")))


def sweep_queue() -> tuple[str, int]:
    """(URL of the queue that the sweep fans out over, number of segments)."""
    return os.environ["SWEEP_QUEUE_URL"], int(os.environ.get("SWEEP_SEGMENTS", "4"))


def verify_queue() -> tuple[str, int]:
    """(URL of the queue that the verification fans out over, number of segments)."""
    return os.environ["VERIFY_QUEUE_URL"], int(os.environ.get("VERIFY_SEGMENTS", "4"))


def event_bus() -> str:
    """The name of the bus on which notices are put."""
    return os.environ["EVENT_BUS"]


# Answers


class Problem(Exception):
    """An answer that says what is wrong; `code` is a key of `problems.PROBLEMS`."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.more = more


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers; `body` is JSON unless it is text or bytes of the content type."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: roles by token scope, and the claims that narrow them."""

    subject: str
    roles: frozenset[str]
    member_id: str | None
    program_ids: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a route, authorised; `now` is in milliseconds and the same for all it does."""

    route: "Route"
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw_body: bytes
    caller: Caller
    request_id: str
    host: str
    now: int
    document: Any = None

    @property
    def program_id(self) -> str:
        return self.path["program_id"]

    @property
    def public_url(self) -> str:
        """Where this service is reached from outside, without a slash at the end."""
        return os.environ.get("PUBLIC_URL") or f"https://{self.host}"

    @property
    def is_by_a_member(self) -> bool:
        """Whether the route is open to the caller as a member only. What else it is elsewhere
        does not count: who works at a till may not erase whom a till may not erase."""
        return not self.caller.roles & {*self.route.roles} & {*SHOP}

    def member(self, member_id: str | None, pointer: str = "/member_id") -> str:
        """The member this call is about: a member reaches only itself, a shop names one, in the
        body at `pointer` where it is not in the path.

        Problem `forbidden`, whether the other member exists or not.
        """
        if self.is_by_a_member:
            if self.caller.member_id is None or member_id not in (None, self.caller.member_id):
                raise Problem("forbidden", "A member's token reaches that member only.")
            member_id = self.caller.member_id
        if member_id is None:
            raise Problem(
                "invalid_body",
                "The body does not say for whom.",
                errors=[_error(pointer, "required", "is required with this token")],
            )
        if not _MEMBER_ID.fullmatch(member_id):
            raise Refusal("member_not_found", "No member has such an id.")
        return member_id

    def key(self, *, required: bool = True) -> str | None:
        """The Idempotency-Key; Problem `idempotency_key_missing` or `idempotency_key_invalid`."""
        key = self.headers.get("idempotency-key")
        if key is None:
            if required:
                raise Problem("idempotency_key_missing", "Send an Idempotency-Key header.")
            return None
        if not 1 <= len(key) <= 128 or not key.isprintable() or "#" in key:
            raise Problem(
                "idempotency_key_invalid",
                "An Idempotency-Key has 1 to 128 printable characters, none of them #.",
            )
        return key

    def guard(self, partition: str, member_id: str, sort: str = "0") -> Guard:
        """The guard of this call under a key: its fingerprint covers route, member and body."""
        return Guard(partition, sort, self.fingerprint(member_id))

    def key_guard(self, key: str, member_id: str) -> Guard:
        return self.guard(key_partition(key), member_id)

    def fingerprint(self, member_id: str) -> bytes:
        return self.fingerprint_of(member_id, self.document)

    def fingerprint_of(self, member_id: str, said: Any) -> bytes:
        """As `fingerprint`, of what the body says. It stands in the ledger for ever, and whoever
        reads that can try guesses on it: what is personal may not be in it as it is."""
        parts = [self.route.operation, member_id, said]
        return sha256(canonical(parts).encode()).digest()[:16]

    def page(self) -> tuple[int, str | None]:
        """(limit, cursor) of a listing; Problem `invalid_query`."""
        limit = self.query.get("limit", str(DEFAULT_PAGE_LIMIT))
        if not (
            limit.isascii()
            and limit.isdecimal()
            and len(limit) < 5
            and 1 <= int(limit) <= PAGE_LIMIT
        ):
            raise Problem(
                "invalid_query",
                f"limit is a number from 1 to {PAGE_LIMIT}.",
                errors=[_error("/limit", "out_of_range", f"1 to {PAGE_LIMIT}")],
            )
        return int(limit), self.query.get("cursor")


def answer(committed: Committed | Proposed, body: Mapping[str, Any], status: int = 201) -> Response:
    """The answer to a committed command; a replay says so and is the same."""
    count("Replays" if committed.replayed else "Commits")
    count("Attempts", committed.attempts)
    headers = {"Idempotency-Replayed": "true"} if committed.replayed else {}
    return Response(body, status, headers)


# Routes


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the contract: what the template must route here and the OpenAPI document says.

    `operation` is its name for ever: the document's operationId, and part of every fingerprint,
    so that under another name repeats of what was done before would be refused. No roles: open to
    everyone.
    """

    method: str
    path: str
    operation: str
    handler: Handler
    roles: tuple[Role, ...]
    body: type[BaseModel] | None
    answers: Mapping[int, Any]
    problems: tuple[str, ...]
    query: tuple[str, ...]
    key: Literal["no", "optional", "required"]
    raw_document: bool
    body_bytes: int

    @property
    def key_of_gateway(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").strip()


class App:
    """The routes of one function, and the handler that Lambda calls."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    def route(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        roles: tuple[Role, ...] = (),
        body: type[BaseModel] | None = None,
        answers: Mapping[int, Any],
        problems: tuple[str, ...] = (),
        query: tuple[str, ...] = (),
        key: Literal["no", "optional", "required"] = "no",
        raw_document: bool = False,
        body_bytes: int = BODY_BYTES,
    ) -> Callable[[Handler], Handler]:
        """Serve `path` by a function of (request) or, with a `body` model, (request, command)."""

        def register(handler: Handler) -> Handler:
            route = Route(
                method,
                path,
                operation,
                handler,
                roles,
                body,
                answers,
                problems,
                query,
                key,
                raw_document,
                body_bytes,
            )
            self.routes[route.key_of_gateway] = route
            return handler

        return register

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG002  # Lambda passes it
        """Answer one API Gateway HTTP API event (payload format 2.0)."""
        request_id = event["requestContext"].get("requestId") or str(uuid4())
        logger.set_correlation_id(request_id)
        with counting():
            try:
                route = self.routes[event["routeKey"]]
                response = _rendered(_serve(route, event, request_id))
            except Exception as error:  # noqa: BLE001  # the last line: every answer is a problem document
                response = _rendered(_problem(error, request_id))
            count(f"Answers{response['statusCode'] // 100}xx")
        return response


def _serve(route: Route, event: dict[str, Any], request_id: str) -> Response:
    path = event.get("pathParameters") or {}
    caller = _caller(event)
    if route.roles:
        if not caller.roles & set(route.roles):
            raise Problem("forbidden", "This token has none of the scopes that the route needs.")
        if caller.program_ids is not None and path["program_id"] not in caller.program_ids:
            raise Problem("forbidden", "This token is not for this program.")
    if not _PROGRAM_ID.fullmatch(path.get("program_id", "-")):
        raise Refusal("program_not_found", "No program has such an id.")
    request = Request(
        route=route,
        path=path,
        query=event.get("queryStringParameters") or {},
        headers=event["headers"],
        raw_body=_body(event),
        caller=caller,
        request_id=request_id,
        host=event["requestContext"].get("domainName", ""),
        now=milliseconds(clock()),
    )
    # Public pages take what sign-in and link trackers append to an address.
    for name in request.query if route.roles else ():
        if name not in route.query:
            raise Problem("invalid_query", f"The route knows no query parameter {name[:40]!r}.")
    if len(request.raw_body) > route.body_bytes:
        raise Problem("body_too_large", f"The body is longer than {route.body_bytes} bytes.")
    if route.body is None and not route.raw_document:
        # Whoever says more than that something is to be done expects it to be heeded.
        if request.raw_body and route.method != "GET":
            validated(Body, decode(request.raw_body))
        return route.handler(request)
    request = replace(request, document=decode(request.raw_body))
    if route.body is None:
        return route.handler(request)
    return route.handler(request, validated(route.body, request.document))


_PROGRAM_ID: Final = re.compile(r"[a-z0-9-]{1,40}")
_MEMBER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _caller(event: dict[str, Any]) -> Caller:
    """Who is calling, as the gateway's authorizer has verified it."""
    jwt = event["requestContext"].get("authorizer", {}).get("jwt", {})
    claims = jwt.get("claims") or {}
    scopes = str(claims.get("scope", "")).split()
    programs = claims.get("program_ids")
    return Caller(
        subject=str(claims.get("sub", "")),
        roles=frozenset(s.removeprefix("loyalty/") for s in scopes if s.startswith("loyalty/")),
        member_id=claims.get("member_id") or None,
        program_ids=None if programs is None else frozenset(str(programs).strip("[]").split()),
    )


# Bodies


def _body(event: dict[str, Any]) -> bytes:
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise Problem("invalid_json", "The body is not the base64 it claims to be.") from None
    return str(body).encode("utf-8", "surrogatepass")


def decode(body: bytes) -> Any:
    """The JSON value of a body, whatever its sender tried: duplicate keys, NaN, numbers of 5,000
    digits, nesting without end and broken UTF-8 are each a Problem `invalid_json`."""
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer
        )
        canonical(value).encode()  # a lone surrogate can be read from JSON, but never stored
    except UnicodeError:
        raise Problem("invalid_json", "The body is not UTF-8 throughout.") from None
    except RecursionError:
        raise Problem("invalid_json", "The body is nested too deeply.") from None
    except ValueError as error:
        raise Problem("invalid_json", f"The body is not JSON: {error}.") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("a number has more than 40 digits")
    return int(digits)


def canonical(value: Any) -> str:
    """One text for equal JSON values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def validated[B: BaseModel](model: type[B], value: Any) -> B:
    """The body as a command; Problem `invalid_body` lists everything that does not fit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [
            _error(
                "".join(f"/{_escaped(part)}" for part in fault["loc"] if part != "[key]"),
                _FAULTS.get(fault["type"], fault["type"]),
                fault["msg"],
            )
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise Problem(
            "invalid_body", "The body does not fit; see errors.", errors=errors[:100]
        ) from None


_FAULTS: Final = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "int_type": "wrong_type",
    "string_type": "wrong_type",
    "bool_type": "wrong_type",
    "dict_type": "wrong_type",
    "list_type": "wrong_type",
    "model_type": "wrong_type",
    "model_attributes_type": "wrong_type",
    "string_pattern_mismatch": "bad_format",
    "string_too_short": "out_of_range",
    "string_too_long": "out_of_range",
    "too_short": "out_of_range",
    "too_long": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
}


def _escaped(part: object) -> str:
    # A name is as long as its sender likes; what names it may not outgrow the answer.
    return str(part)[:200].replace("~", "~0").replace("/", "~1")


def _error(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}


# Problems


def _problem(error: Exception, request_id: str) -> Response:
    code, detail, errors, more = _described(error)
    status, title = PROBLEMS[code]
    if status == 503:
        logger.warning("request shed", reason=str(error))
    elif status >= 500:
        logger.exception("request failed", code=code)
    wait = more.get("retry_after_seconds", RETRY_AFTER_SECONDS)
    headers = {"Retry-After": str(wait)} if status in (429, 503) else {}
    body = {
        **more,  # first: what a code adds never takes the place of a standard member
        "type": f"urn:loyalty-points:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": errors,
        "request_id": request_id,
    }
    return Response(body, status, headers, "application/problem+json")


def _described(error: Exception) -> tuple[str, str, list[dict[str, str]], dict[str, Any]]:
    """(code, detail, errors, further members) of what went wrong."""
    match error:
        case Problem():
            return error.code, error.detail, error.errors, error.more
        case Refusal():
            more = dict(error.more)
            pointer = more.pop("pointer", None)
            errors = [_error(pointer, error.code, error.detail)] if pointer else []
            return error.code, error.detail, errors, more
        case Faults():
            faults = [_error(f.pointer, f.code, f.detail) for f in error.faults]
            return "invalid_program", "The document is not a program; see errors.", faults, {}
        case KeyReused():
            detail = "This key was used for another command; a repeat must be the same."
            return "idempotency_key_reused", detail, [], {}
        case Unavailable():
            detail = "The request could not be carried out now; send it again, as it is."
            return "unavailable", detail, [], {}
        case _:
            return "internal_error", "Something is wrong on our side.", [], {}


def _rendered(response: Response) -> dict[str, Any]:
    headers = {
        "Content-Type": response.content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **response.headers,
    }
    result: dict[str, Any] = {"statusCode": response.status, "headers": headers}
    if isinstance(response.body, bytes):
        return result | {
            "body": base64.b64encode(response.body).decode(),
            "isBase64Encoded": True,
        }
    if isinstance(response.body, str):
        return result | {"body": response.body}
    text = json.dumps(response.body, ensure_ascii=False, separators=(",", ":"))
    return result | {"body": text}


# Pages of a listing


def page_of[T](items: Iterable[T], limit: int, *, beside: int = 0) -> tuple[list[T], bool]:
    """(The items that one page takes, whether there are more.) It may have fewer than `limit`: it
    ends before the answer has PAGE_BYTES, `beside` of them being taken by what else it says. The
    first item is on it whatever its size."""
    taken: list[T] = []
    room = PAGE_BYTES - beside
    for item in items:
        room -= projections.answer_bytes(item)
        if len(taken) == limit or (taken and room < 0):
            return taken, True
        taken.append(item)
    return taken, False


def cursor(position: str) -> str:
    """An opaque place to go on from."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def position(cursor: str) -> str:
    """What `cursor` was made of; Problem `invalid_query` for anything else."""
    try:
        return base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        raise Problem("invalid_query", "The cursor is not one of ours.") from None
