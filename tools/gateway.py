"""What API Gateway does around the handlers: an HTTP API with payload format 2.0, in this process.

Routes, scopes and CORS come from template.yaml. Where the cloud's documents are silent this follows
what it was seen to do: `rawPath` is decoded, and a body is text only under a few content types, of
which that of a form is none.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tools.issuer import Authorizer, Forbidden, Grant, Unauthorized
from tools.meter import Units
from tools.runtime import Event, Runtime
from tools.template import Cors, Route, Template

log = logging.getLogger(__name__)

# Quotas of API Gateway (payload) and Lambda (event and answer of a synchronous invocation).
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_EVENT_BYTES = MAX_ANSWER_BYTES = 6 * 1024 * 1024

_TEXT_TYPES = {"application/json", "application/javascript", "application/xml"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Gateway:
    """An ASGI application that serves the template's routes.

    `after` is called with the route after each invocation, in the event loop.
    """

    def __init__(
        self,
        template: Template,
        runtime: Runtime,
        authorizer: Authorizer,
        after: Callable[[Route], None] = lambda _: None,
    ) -> None:
        self._runtime = runtime
        self._authorizer = authorizer
        self._after = after
        self._cors = template.cors
        self._routes = [_Matcher(route) for route in sorted(template.routes, key=_specificity)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = _preflight(request, self._cors) or await self._answer(request)
        except ClientDisconnect:
            return
        _allow_origin(request, response, self._cors)
        await response(scope, receive, send)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a path as it stands on the wire, and what its parameters are."""
        segments = [unquote(each) for each in raw_path.split("/")]
        for matcher in self._routes:
            parameters = matcher.match(method, segments)
            if parameters is not None:
                return matcher.route, parameters
        return None

    async def _answer(self, request: Request) -> Response:
        raw_path = request.scope.get("raw_path") or request.scope["path"].encode()
        found = self.find(request.method, raw_path.decode("latin-1"))
        return await self._serve(*found, request) if found else _message(404, "Not Found")

    async def _serve(self, route: Route, parameters: dict[str, str], request: Request) -> Response:
        grant = None
        if route.scopes is not None:
            try:
                grant = self._authorizer.check(request.headers.get("authorization"), route.scopes)
            except Unauthorized as error:
                return _denied(401, "Unauthorized", route, "invalid_token", error)
            except Forbidden as error:
                return _denied(403, "Forbidden", route, "insufficient_scope", error)
        body = await _body(request)
        if body is None:
            return _message(413, "Request Entity Too Large")
        event = make_event(route, parameters, request, body, grant)
        if len(event.get("body", "")) > MAX_EVENT_BYTES:
            return _message(413, "Request Entity Too Large")
        try:
            answer, units = await self._runtime.invoke_soon(route.function, event)
        except Exception:  # a fault of the handler, whatever it is, is the cloud's 500
            log.exception("%s failed", route.key)
            response = _message(500, "Internal Server Error")
        else:
            response = make_response(answer)
            response.headers.update(_units(units))
        response.headers["apigw-requestid"] = event["requestContext"]["requestId"]
        self._after(route)
        return response


@dataclass(frozen=True)
class _Matcher:
    """Matches paths against a route, by decoded segments."""

    route: Route

    def match(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """The path parameters, or None where the route is another's."""
        if self.route.method not in (method, "ANY"):
            return None
        parameters: dict[str, str] = {}
        wanted = self.route.path.split("/")
        for position, part in enumerate(wanted):
            if part.endswith("+}"):
                rest = "/".join(segments[position:])
                return {**parameters, part[1:-2]: rest} if rest else None
            if position >= len(segments):
                return None
            if part.startswith("{"):
                if not segments[position]:
                    return None
                parameters[part[1:-1]] = segments[position]
            elif part != segments[position]:
                return None
        return parameters if len(wanted) == len(segments) else None


def _specificity(route: Route) -> tuple[list[int], bool]:
    """Sorts the most specific route first: fixed segments, then parameters, then greedy ones."""
    kinds = [
        2 if part.endswith("+}") else 1 if part.startswith("{") else 0
        for part in route.path.split("/")
    ]
    return kinds, route.method == "ANY"


def make_event(
    route: Route,
    parameters: dict[str, str],
    request: Request,
    body: bytes,
    grant: Grant | None,
) -> Event:
    """The request as an event of payload format 2.0; keys without a value are absent."""
    now = datetime.now(UTC)
    client = request.client.host if request.client else "127.0.0.1"
    headers = _headers(request.headers.items())
    headers["x-forwarded-for"] = ", ".join(filter(None, [headers.get("x-forwarded-for"), client]))
    headers["x-forwarded-port"] = str(request.url.port or 80)
    headers["x-forwarded-proto"] = request.url.scheme
    domain = (request.url.hostname or "127.0.0.1").lower()
    # A path is handed on decoded, as the cloud does, with or without a parameter in it.
    path = unquote(request.scope.get("raw_path", b"").decode("latin-1")) or request.url.path
    context: Event = {
        "accountId": "123456789012",
        "apiId": "local",
        "domainName": domain,
        "domainPrefix": domain.split(".")[0],
        "http": {
            "method": request.method,
            "path": path,
            "protocol": f"HTTP/{request.scope.get('http_version', '1.1')}",
            "sourceIp": client,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": uuid.uuid4().hex[:16],
        "routeKey": route.key,
        "stage": "$default",
        "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "timeEpoch": int(now.timestamp() * 1000),
    }
    if grant is not None:
        context["authorizer"] = {
            "jwt": {"claims": grant.claims, "scopes": list(grant.scopes) or None}
        }
    event: Event = {
        "version": "2.0",
        "routeKey": route.key,
        "rawPath": path,
        "rawQueryString": request.scope.get("query_string", b"").decode("latin-1"),
        "headers": headers,
        "requestContext": context,
        "isBase64Encoded": False,
    }
    if cookies := request.headers.getlist("cookie"):
        event["cookies"] = [part.strip() for line in cookies for part in line.split(";")]
    if query := parse_qsl(event["rawQueryString"], keep_blank_values=True):
        event["queryStringParameters"] = _joined(query)
    if parameters:
        event["pathParameters"] = parameters
    if body:
        text = _text(body, request.headers.get("content-type", ""))
        event["isBase64Encoded"] = text is None
        event["body"] = base64.b64encode(body).decode() if text is None else text
    return event


def make_response(answer: Any) -> Response:
    """A handler's answer as HTTP; one without `statusCode` is itself the body of a 200.

    What the cloud cannot read as an answer is its 500.
    """
    try:
        if not (isinstance(answer, dict) and "statusCode" in answer):
            text = answer if isinstance(answer, str) else json.dumps(answer)
            return Response(text, 200, media_type="application/json")
        status = int(answer["statusCode"])
        content = answer.get("body")
        if content is None:
            content = ""
        elif not isinstance(content, str):
            content = json.dumps(content)
        body = (
            base64.b64decode(content, validate=True)
            if answer.get("isBase64Encoded")
            else content.encode()
        )
        headers = _as_text(answer.get("headers") or {})
        cookies = [str(cookie) for cookie in answer.get("cookies") or []]
        unreadable = [text for text in [*headers.values(), *cookies] if _CONTROL.search(text)]
        # Lambda counts the answer as the function hands it over: a body of JSON as a text in JSON.
        size = len(json.dumps(answer, ensure_ascii=False).encode())
        if unreadable or not 200 <= status <= 599 or size > MAX_ANSWER_BYTES:
            raise ValueError("a header, the status or the size is none that HTTP or Lambda allows")
    except (TypeError, ValueError, AttributeError, binascii.Error):
        log.exception("No answer of payload format 2.0: %.500r", answer)
        return _message(500, "Internal Server Error")
    response = Response(body if status not in (204, 304) else b"", status)
    response.headers.update(headers)
    if "content-type" not in response.headers and status not in (204, 304):
        response.headers["content-type"] = "text/plain;charset=UTF-8"
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


async def _body(request: Request) -> bytes | None:
    """The request's body, None where it is too large to be taken."""
    # The server has refused a length that is no number.
    if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
        return None
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            return None
    return bytes(received)


def _text(body: bytes, content_type: str) -> str | None:
    """The body as text, None where the cloud would hand it on in base64."""
    kind, _, rest = content_type.lower().partition(";")
    kind = kind.strip()
    charset = rest.partition("charset=")[2].strip(' "') or "utf-8"
    if charset != "utf-8" or not (kind.startswith("text/") or kind in _TEXT_TYPES):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return _joined((name.lower(), value) for name, value in pairs if name.lower() != "cookie")


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names with their values, those that come more than once joined by commas."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _as_text(headers: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.lower(): value if isinstance(value, str) else json.dumps(value)
        for name, value in headers.items()
    }


def _units(units: Units) -> dict[str, str]:
    """Headers that only the local service sends: what the request consumed."""
    return {
        "loyalty-read-units": f"{units.read.normalize():f}",
        "loyalty-write-units": f"{units.write.normalize():f}",
    }


def _message(status: int, text: str) -> Response:
    """An answer of the gateway itself."""
    return Response(json.dumps({"message": text}), status, media_type="application/json")


def _denied(status: int, text: str, route: Route, error: str, why: Exception) -> Response:
    response = _message(status, text)
    description = re.sub(r'[^ -~]|["\\]', " ", str(why))
    response.headers["www-authenticate"] = (
        f'Bearer scope="{" ".join(route.scopes or ())}" error="{error}" '
        f'error_description="{description}"'
    )
    return response


def _preflight(request: Request, cors: Cors | None) -> Response | None:
    """The answer to a CORS preflight, which never reaches a route."""
    if cors is None or request.method != "OPTIONS" or "origin" not in request.headers:
        return None
    if "access-control-request-method" not in request.headers:
        return None
    response = Response(status_code=204)
    if _allowed(request, cors):
        response.headers["access-control-allow-methods"] = ",".join(cors.methods)
        response.headers["access-control-allow-headers"] = ",".join(cors.headers)
        if cors.max_age_seconds is not None:
            response.headers["access-control-max-age"] = str(cors.max_age_seconds)
    return response


def _allow_origin(request: Request, response: Response, cors: Cors | None) -> None:
    if cors is None or not _allowed(request, cors):
        return
    every = "*" in cors.origins
    response.headers["access-control-allow-origin"] = "*" if every else request.headers["origin"]
    response.headers.add_vary_header("origin")
    if cors.credentials:
        response.headers["access-control-allow-credentials"] = "true"
    if cors.expose:
        response.headers["access-control-expose-headers"] = ",".join(cors.expose)


def _allowed(request: Request, cors: Cors) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and ("*" in cors.origins or origin in cors.origins)
