"""Routes that only the local service has: tokens, the test clock, the sweep, the sign-in page."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

from loyalty import edge
from tools.issuer import (
    MEMBER_ID,
    SCOPES,
    SIGN_IN_SECONDS,
    TOKEN_SECONDS,
    InvalidGrant,
    Issuer,
    is_challenge,
)
from tools.triggers import Bus, Queues, Sweep

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
MAX_STATE_CHARACTERS = 2048
PROGRAM_ID = re.compile(r"[a-z0-9-]{1,40}")
# RFC 3339, so that "now" cannot be a date or a time without its offset.
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})")
# The one address to which a sign-in comes back.
CALLBACK_PATH = "/c/signed-in"


class HasClock(Protocol):
    """The module that tells the handlers what time it is."""

    clock: Callable[[], datetime]


class Problem(Exception):
    """A request that is refused: `status`, a stable `code`, and a sentence on what is wrong."""

    def __init__(self, status: int, code: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.pointer = pointer

    def response(self) -> Response:
        """The refusal as an RFC 9457 document."""
        errors = (
            [{"pointer": self.pointer, "code": self.code, "detail": self.detail}]
            if self.pointer is not None
            else []
        )
        document = {
            "type": "about:blank",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "errors": errors,
            "request_id": uuid.uuid4().hex[:16],
        }
        return JSONResponse(document, self.status, media_type="application/problem+json")


class TestClock:
    """A clock in the place of the handlers': it stands still where it is set."""

    __test__ = False  # no test class, whatever its name

    def __init__(self, edge: HasClock) -> None:
        self._edge = edge
        self._real = edge.clock

    @property
    def real(self) -> bool:
        """Whether it shows real time."""
        return self._edge.clock is self._real

    def now(self) -> datetime:
        """The time that the handlers see."""
        return self._edge.clock()

    def set(self, now: datetime | None) -> None:
        """Stand still at `now`, or with None go back to real time."""
        self._edge.clock = self._real if now is None else lambda: now


def routes(
    issuer: Issuer,
    clock: TestClock,
    sweep: Sweep,
    queues: Queues,
    bus: Bus,
    members: Sequence[str] = (),
    verification: Sweep | None = None,
) -> list[Route]:
    """The routes under /dev. `members` are the ids that the sign-in page proposes."""
    tokens = _Tokens(issuer)
    sign_in = _SignIn(issuer, members)
    time_of_day = _Time(clock)

    async def run_sweep(_: Request) -> Response:
        try:
            counts = await asyncio.get_running_loop().run_in_executor(None, sweep.run)
        except Exception as error:  # whatever the handler raises is told, the service goes on
            log.exception("The sweep failed")
            raise Problem(500, "sweep_failed", "The log of the service says why.") from error
        return JSONResponse(counts)

    async def run_verification(_: Request) -> Response:
        """What is scheduled once a day, now and to its end; the results by program."""
        if verification is None:
            raise Problem(404, "not_served", "Nothing verifies here.")
        loop = asyncio.get_running_loop()
        try:
            counts = await loop.run_in_executor(None, verification.run)
        except Exception as error:  # whatever the handler raises is told, the service goes on
            log.exception("The verification failed")
            detail = "The log of the service says why."
            raise Problem(500, "verification_failed", detail) from error
        programs = await loop.run_in_executor(None, _verified_programs)
        return JSONResponse(counts | {"programs": programs})

    async def keys(_: Request) -> Response:
        return JSONResponse(issuer.jwks())

    async def told(_: Request) -> Response:
        return JSONResponse({"items": list(bus.events)})

    async def configuration(_: Request) -> Response:
        return JSONResponse(issuer.configuration())

    return [
        _route("/dev/tokens", tokens.make, "POST"),
        _route("/dev/clock", time_of_day.show, "GET"),
        _route("/dev/clock", time_of_day.set, "POST"),
        _route("/dev/sweep", run_sweep, "POST"),
        _route("/dev/verify", run_verification, "POST"),
        _route("/dev/authorize", sign_in.page, "GET"),
        _route("/dev/authorize", sign_in.submit, "POST"),
        _route("/dev/token", sign_in.exchange, "POST"),
        _route("/dev/.well-known/jwks.json", keys, "GET"),
        _route("/dev/.well-known/openid-configuration", configuration, "GET"),
        *(
            # SDKs differ: some add a slash to an endpoint, some send to the queue's own address.
            Route(path, queues.endpoint, methods=["POST"])
            for path in ("/dev/sqs", "/dev/sqs/{queue:path}")
        ),
        *(Route(path, bus.endpoint, methods=["POST"]) for path in ("/dev/bus", "/dev/bus/")),
        _route("/dev/events", told, "GET"),
    ]


def _verified_programs() -> dict[str, Any]:
    """What the last verification has found, by program, as it is kept."""
    last = edge.store().record("#verification", "last")
    found = json.loads(last["programs"]) if last else []
    return {name: edge.store().record(f"{name}#verification", "last") for name in found}


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    async def guarded(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except Problem as problem:
            response = problem.response()
        response.headers["cache-control"] = "no-store"
        return response

    return Route(path, guarded, methods=[method])


class _Tokens:
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def make(self, request: Request) -> Response:
        """POST /dev/tokens; with `Accept: text/plain` the bare token, for a shell."""
        body = await _object(request, {"scope", "member_id", "program_ids", "subject"})
        scopes = body.get("scope")
        if not isinstance(scopes, str) or not scopes.split():
            raise Problem(422, "invalid_scope", f"One or more of: {' '.join(SCOPES)}.", "/scope")
        unknown = [scope for scope in scopes.split() if scope not in SCOPES]
        if unknown:
            detail = f"There are the scopes {' '.join(SCOPES)}, none called {unknown[0]!r}."
            raise Problem(422, "invalid_scope", detail, "/scope")
        member_id = body.get("member_id")
        if member_id is not None and not _is(member_id, MEMBER_ID):
            detail = "A member_id has 1 to 64 letters, digits, - and _."
            raise Problem(422, "invalid_member_id", detail, "/member_id")
        programs = body.get("program_ids")
        if programs is not None and not (
            isinstance(programs, list)
            and programs
            and all(_is(each, PROGRAM_ID) for each in programs)
        ):
            detail = "A list of program ids, or nothing for every program."
            raise Problem(422, "invalid_program_ids", detail, "/program_ids")
        subject = body.get("subject")
        if subject is not None and not _is(subject, MEMBER_ID):
            detail = "A subject, whose token it is, has 1 to 64 letters, digits, - and _."
            raise Problem(422, "invalid_subject", detail, "/subject")
        token = self._issuer.token(scopes.split(), member_id, programs, subject=subject)
        if request.headers.get("accept", "").startswith("text/plain"):
            return PlainTextResponse(token)
        return _token_answer(token, TOKEN_SECONDS)


class _Time:
    def __init__(self, clock: TestClock) -> None:
        self._clock = clock

    async def show(self, _: Request) -> Response:
        now = self._clock.now().astimezone(UTC)
        return JSONResponse(
            {"now": now.isoformat().replace("+00:00", "Z"), "real": self._clock.real}
        )

    async def set(self, request: Request) -> Response:
        body = await _object(request, {"now"})
        if "now" not in body:
            detail = 'A time, {"now": "2026-01-01T12:00:00Z"}, or {"now": null} for real time.'
            raise Problem(422, "now_missing", detail, "/now")
        self._clock.set(None if body["now"] is None else _instant(body["now"]))
        return await self.show(request)


class _SignIn:
    """OpenID Connect's code flow with PKCE, with a page that believes whoever signs in."""

    def __init__(self, issuer: Issuer, members: Sequence[str]) -> None:
        self._issuer = issuer
        self._members = members

    async def page(self, request: Request) -> Response:
        """GET /dev/authorize: a form that asks who it is."""
        wish = self._wish(request, dict(request.query_params))
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in wish.items()
        )
        options = "".join(f'<option value="{html.escape(each)}">' for each in self._members)
        return HTMLResponse(
            _PAGE.format(hidden=hidden, options=options),
            headers={
                "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
                "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
                "referrer-policy": "no-referrer",
                "x-content-type-options": "nosniff",
            },
        )

    async def submit(self, request: Request) -> Response:
        """POST /dev/authorize: back to the page that sent the person, with a code."""
        form = await _form(request)
        wish = self._wish(request, form)
        member_id = form.get("member_id", "")
        if not MEMBER_ID.fullmatch(member_id):
            detail = "A member_id has 1 to 64 letters, digits, - and _."
            raise Problem(422, "invalid_member_id", detail)
        code = self._issuer.code(
            member_id, wish["code_challenge"], wish["redirect_uri"], wish["client_id"]
        )
        back = {"code": code} | {name: wish[name] for name in ("state",) if name in wish}
        return RedirectResponse(f"{wish['redirect_uri']}?{urlencode(back)}", 303)

    async def exchange(self, request: Request) -> Response:
        """POST /dev/token: a code and its verifier for a token."""
        form = await _form(request)
        if form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        try:
            token = self._issuer.exchange(
                form.get("code", ""),
                form.get("code_verifier", ""),
                form.get("redirect_uri", ""),
                form.get("client_id", ""),
            )
        except InvalidGrant as error:
            answer = {"error": "invalid_grant", "error_description": str(error)}
            return JSONResponse(answer, 400)
        return _token_answer(token, SIGN_IN_SECONDS)

    def _wish(self, request: Request, given: dict[str, str]) -> dict[str, str]:
        """What is asked for, checked. Nothing is sent back to an address that does not hold."""
        own = f"{request.url.scheme}://{request.url.netloc}{CALLBACK_PATH}"
        if given.get("redirect_uri") != own:
            raise Problem(400, "invalid_redirect_uri", f"redirect_uri is {own}, nothing else.")
        if given.get("client_id") != self._issuer.client_id:
            detail = f"client_id is {self._issuer.client_id}, nothing else."
            raise Problem(400, "invalid_client", detail)
        if given.get("response_type") != "code":
            raise Problem(400, "unsupported_response_type", "response_type is code.")
        if given.get("code_challenge_method") != "S256" or not is_challenge(
            given.get("code_challenge", "")
        ):
            detail = "A code_challenge with code_challenge_method=S256 is needed."
            raise Problem(400, "pkce_required", detail)
        if len(given.get("state", "")) > MAX_STATE_CHARACTERS:
            detail = f"state has at most {MAX_STATE_CHARACTERS} characters."
            raise Problem(400, "invalid_state", detail)
        names = "redirect_uri", "client_id", "response_type", "code_challenge", "state"
        wish = {name: given[name] for name in names if name in given}
        return wish | {"code_challenge_method": "S256"}


def _token_answer(token: str, seconds: int) -> Response:
    return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": seconds})


async def _bytes(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            detail = f"At most {MAX_BODY_BYTES} bytes."
            raise Problem(413, "body_too_large", detail)
    return bytes(received)


async def _object(request: Request, names: set[str]) -> dict[str, Any]:
    """The body as a JSON object with no other fields than `names`."""
    try:
        body = json.loads(await _bytes(request), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "invalid_json", "The body is a JSON object.") from error
    if not isinstance(body, dict):
        raise Problem(422, "invalid_body", "The body is a JSON object.", "")
    for name in body:
        if name not in names:
            known = ", ".join(sorted(names))
            raise Problem(422, "unknown_field", f"There are only: {known}.", f"/{name}")
    return body


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, each of which comes once."""
    try:
        fields = parse_qs((await _bytes(request)).decode(), max_num_fields=50)
    except ValueError as error:
        raise Problem(400, "invalid_form", "The body is a form in UTF-8.") from error
    if any(len(values) > 1 for values in fields.values()):
        raise Problem(400, "invalid_form", "A field comes once.")
    return {name: values[0] for name, values in fields.items()}


def _is(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _instant(value: Any) -> datetime:
    try:
        if not isinstance(value, str) or not _INSTANT.fullmatch(value):
            raise ValueError("not RFC 3339")
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        detail = "A time with its offset, as 2026-01-01T12:00:00Z, or null for real time."
        raise Problem(422, "invalid_time", detail, "/now") from error


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in</title>
<style>
:root {{ color-scheme: light dark; font: 1.125rem/1.5 system-ui, sans-serif }}
main {{ max-width: 22rem; margin: 15vh auto 0; padding: 0 1rem }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .6rem }}
input, button {{ margin-top: .6rem }}
</style>
<main>
<h1>Sign in</h1>
<p>This page stands in for the sign-in of your deployment. It believes everyone.</p>
<form method="post" action="/dev/authorize">
{hidden}
<label>Member id
<input name="member_id" list="members" required maxlength="64" pattern="[A-Za-z0-9_\\-]+"
 autocomplete="username" autocapitalize="none" autofocus></label>
<datalist id="members">{options}</datalist>
<button>Continue</button>
</form>
</main>
</html>
"""
