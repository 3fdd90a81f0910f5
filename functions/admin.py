"""Programs, what describes the service, and whether its ledger holds."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from loyalty.advice import warnings
from loyalty.dates import from_milliseconds, rfc3339
from loyalty.edge import (
    ADMIN,
    ANYONE,
    BASE,
    PROGRAM_BYTES,
    STAFF,
    App,
    Problem,
    Request,
    Response,
    cursor,
    position,
    publish_delay,
    store,
)
from loyalty.limits import colliding
from loyalty.model import Refusal
from loyalty.store import Version, in_force
from loyalty.validation import Fault, Faults, publishable
from loyalty.verification import LAWS, Violation

handler = App()

HERE = Path(__file__).parent


class Oddity(TypedDict):
    """What the document probably does not mean, and where it says so."""

    pointer: str
    code: str
    detail: str


class Effective(TypedDict):
    """A version and the time from which it counts."""

    version: int
    effective_at: str


class Published(Effective):
    """A published version, with what is odd about it."""

    warnings: list[Oddity]


class CurrentProgram(Effective):
    """The version in force and its document."""

    program: dict[str, Any]


class VersionRow(Effective):
    """A version as the list shows it."""

    published_at: str
    published_by: str


class VersionPage(TypedDict):
    """A page of versions, newest first."""

    items: list[VersionRow]
    next_cursor: str | None


class Health(TypedDict):
    """The service answers."""

    status: str


@handler.route(
    "PUT",
    f"{BASE}/program",
    operation="publish",
    roles=ADMIN,
    answers={200: Published},
    problems=("invalid_program", "precondition_required", "version_conflict"),
    raw_document=True,
    body_bytes=PROGRAM_BYTES,
)
def publish(request: Request) -> Response:
    """Publish a version of the program. `If-Match` names the version it replaces."""
    program = publishable(request.document)
    if program.program_id != request.program_id:
        fault = Fault("/program_id", "program_id_mismatch", "is not the one in the address")
        raise Faults([fault])
    if pair := colliding(program):
        fault = Fault("", "counter_collision", f"rename one of {pair[0]} and {pair[1]}")
        raise Faults([fault])
    odd = warnings(program, from_milliseconds(request.now))
    versions = store().versions(request.program_id)
    if versions and store().document(request.program_id, versions[0].number) == request.document:
        return _published(versions[0], odd)  # a repeat, or nothing new: the answer is the same
    _check_precondition(request, versions[0].number if versions else None)
    version = store().publish(
        request.program_id,
        request.document,
        number=versions[0].number + 1 if versions else 1,
        now=request.now,
        delay=publish_delay(),
        by=request.caller.subject,
    )
    if version is None:
        raise Problem("version_conflict", "Another version was published at this moment.")
    return _published(version, odd)


def _check_precondition(request: Request, newest: int | None) -> None:
    match = request.headers.get("if-match")
    if match is None and newest is not None:
        raise Problem(
            "precondition_required", f'Send If-Match: "{newest}" to replace that version.'
        )
    if match is not None and match.strip() == "*" and newest is not None:
        return  # whatever there is
    if match is not None and match.strip('" ') != str(newest):
        raise Problem("version_conflict", f"The newest version is {newest}, not the one you mean.")


def _published(version: Version, odd: list[Fault]) -> Response:
    body: Published = {
        "version": version.number,
        "effective_at": _effective(version),
        "warnings": [{"pointer": f.pointer, "code": f.code, "detail": f.detail} for f in odd],
    }
    return Response(body, headers={"ETag": f'"{version.number}"'})


def _effective(version: Version) -> str:
    # A program's first version has always been in force; it shows the time it was published.
    return rfc3339(version.effective_at or version.published_at)


@handler.route(
    "GET",
    f"{BASE}/program",
    operation="current",
    roles=ANYONE,
    answers={200: CurrentProgram},
    problems=("program_not_found",),
    query=("version",),
)
def current(request: Request) -> Response:
    """The program in force, or the version asked for."""
    versions = store().versions(request.program_id)
    if not versions:
        raise Refusal("program_not_found", "No program of this id has been published.")
    version = in_force(versions, request.now)
    if "version" in request.query:
        wanted = [v for v in versions if str(v.number) == request.query["version"]]
        if not wanted:
            raise Refusal("program_not_found", "This version has not been published.")
        version = wanted[0]
    body: CurrentProgram = {
        "version": version.number,
        "effective_at": _effective(version),
        "program": store().document(request.program_id, version.number),
    }
    return Response(body, headers={"ETag": f'"{version.number}"'})


@handler.route(
    "GET",
    f"{BASE}/program/versions",
    operation="versions",
    roles=ANYONE,
    answers={200: VersionPage},
    problems=("program_not_found",),
    query=("limit", "cursor"),
)
def versions(request: Request) -> Response:
    """All versions, newest first."""
    limit, after = request.page()
    found = store().versions(request.program_id)
    if not found:
        raise Refusal("program_not_found", "No program of this id has been published.")
    if after is not None:
        last = position(after)
        if not last.isdecimal() or len(last) > 9:
            raise Problem("invalid_query", "The cursor is not one of ours.")
        found = tuple(v for v in found if v.number < int(last))
    shown = found[:limit]
    page: VersionPage = {
        "items": [
            {
                "version": v.number,
                "effective_at": _effective(v),
                "published_at": rfc3339(v.published_at),
                "published_by": v.published_by,
            }
            for v in shown
        ],
        "next_cursor": cursor(str(shown[-1].number)) if len(found) > limit else None,
    }
    return Response(page)


class Violated(TypedDict):
    """A law of the ledger that does not hold: whose, and which entry shows it."""

    law: int
    code: str
    member_id: NotRequired[str]
    entry: NotRequired[str]
    seq: NotRequired[int]
    detail: str


class Verified(TypedDict):
    """What the last verification of the program's ledger found: the first 100 `violations`, and
    how many there are; `points` moved by kind and outstanding. Before the first one, `never`."""

    status: Literal["never", "clean", "violated"]
    started_at: NotRequired[str]
    finished_at: NotRequired[str]
    entries: NotRequired[int]
    members: NotRequired[int]
    outstanding_points: NotRequired[int]
    moved_points: NotRequired[dict[str, int]]
    violation_count: int
    violations: list[Violated]


@handler.route(
    "GET",
    f"{BASE}/analytics/verify",
    operation="verified",
    roles=STAFF,
    answers={200: Verified},
    problems=("program_not_found",),
)
def verified(request: Request) -> Response:
    """State of the last verification of the ledger."""
    last = store().record(f"{request.program_id}#verification", "last")
    body: Verified = {"status": "never", "violation_count": 0, "violations": []}
    if last is not None:
        body = {
            "status": last["status"],
            "started_at": rfc3339(last["started_at"]),
            "finished_at": rfc3339(last["finished_at"]),
            "entries": last["entries"],
            "members": last["members"],
            "outstanding_points": last["outstanding"],
            "moved_points": json.loads(last["moved"]),
            "violation_count": last["violated"],
            "violations": [_violated(Violation(*row)) for row in json.loads(last["violations"])],
        }
    elif not store().versions(request.program_id):
        raise Refusal("program_not_found", "No program of this id has been published.")
    return Response(body)


def _violated(violation: Violation) -> Violated:
    shown: Violated = {
        "law": LAWS[violation.code],
        "code": violation.code,
        "detail": violation.detail,
    }
    if violation.member_id is not None:
        shown["member_id"] = violation.member_id
    if violation.entry is not None:
        shown["entry"] = violation.entry
    if violation.seq is not None:
        shown["seq"] = violation.seq
    return shown


@handler.route("GET", "/health", operation="health", answers={200: Health})
def health(request: Request) -> Response:  # noqa: ARG001  # every route takes one
    """Whether the service answers."""
    body: Health = {"status": "ok"}
    return Response(body)


@handler.route("GET", "/openapi.json", operation="openapi", answers={200: "application/json"})
def openapi(request: Request) -> Response:  # noqa: ARG001  # every route takes one
    """This document."""
    return Response(_file("openapi.json"))


@handler.route(
    "GET", "/program.schema.json", operation="schema", answers={200: "application/schema+json"}
)
def schema(request: Request) -> Response:  # noqa: ARG001  # every route takes one
    """The JSON Schema of a program document."""
    return Response(_file("program.schema.json"), content_type="application/schema+json")


@cache
def _file(name: str) -> str:
    return (HERE / name).read_text("utf-8")
