"""Every route, every role, every object, every token: authorization.csv says what is answered.

Which kinds of object a route has is told by the document. The columns of the table: `own` is an
object of the caller (its account, its redemption, what it proposed; for a shop simply a member),
`foreign` another's in the same program, `elsewhere` one that only another program has, `missing`
one that is nowhere; - where there is no such thing. A cell is the status, with the problem's code
where it is one; `shut` is the gateway's own 403 for a token without the scope.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from loyalty.codes import CheckInCode, check_in_code
from loyalty.decisions import id_of
from loyalty.edge import secrets
from tests.programs import shop
from tests.test_doors import forgeries
from tools.engine import Engine, Tables
from tools.inside import Answer, Inside
from tools.openapi import FUNCTIONS
from tools.template import Template

TABLE = Path(__file__).with_name("authorization.csv")
DOCUMENT = json.loads((FUNCTIONS / "openapi.json").read_text("utf-8"))
ROLES = ("admin", "staff", "merchant", "member")
OBJECTS = ("own", "foreign", "elsewhere", "missing")
HERE, THERE = "doors", "annex"
FAULTS = (
    "expired",
    "for another audience",
    "of another issuer",
    "unsigned",
    "with another signature",
    "with other claims",
)
"""What may be wrong with a token; test_doors tries more of it, one token on every route."""

type Object = Literal["own", "foreign", "elsewhere", "missing"]


class Row(NamedTuple):
    """One line of the table: what the roles are answered about each kind of object."""

    route: str
    about: str
    roles: str
    own: str
    foreign: str
    elsewhere: str
    missing: str


@cache
def table() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == list(Row._fields)
    return [Row(*line) for line in lines[1:]]


OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}


def scopes(route: str) -> set[str]:
    """The roles that the document names at the route; none: it is open to everyone."""
    names = [each["token"][0] for each in OPERATIONS[route]["security"]]
    return {name.removeprefix("loyalty/") for name in names}


# ── The table against the document ────────────────────────────────────────────────────────────────

IN_PATHS = {
    "/programs/{program_id}": "program",
    "/members/{member_id}": "member",
    "/redemptions/{redemption_id}": "hold",
    "/vouchers/{code}": "voucher",
    "/adjustments/{adjustment_id}": "proposal",
    "/locations/{location_id}": "location",
    "/c/{code}": "code",
}
"""What a path names."""
IN_BODIES = {"member_id": "member", "from_member_id": "member", "event_id": "event"}
"""What a body names, the first of them that it has."""
KINDS = {
    "service": OBJECTS[:1],
    **dict.fromkeys(("program", "location", "code"), ("own", *OBJECTS[2:])),
}
"""The kinds that there are of an object, where not all: programs are nobody's in them."""


def object_of(route: str) -> str:
    """What the route is about, by the document: the last thing that its path names, or what its
    body names where that is only the program."""
    places = re.findall(r"/[\w-]+/\{\w+\}", route)
    named = [IN_PATHS[place] for place in places] or ["service"]
    if named == ["program"]:
        body = OPERATIONS[route].get("requestBody", {"content": {}})["content"]
        names = set(properties(body.get("application/json", {})))
        named += [kind for name, kind in IN_BODIES.items() if name in names][:1]
    return named[-1]


def properties(schema: Any) -> Iterator[str]:
    """The names of all properties within a schema, whatever they are required for."""
    match schema:
        case {"$ref": str(reference)}:
            yield from properties(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]])
        case dict():
            yield from schema.get("properties", ())
            for part in schema.values():
                yield from properties(part)
        case list():
            for part in schema:
                yield from properties(part)


def misfits(rows: Sequence[Row]) -> list[str]:
    """Rows that are about something else than the document says, and cells that are blank where
    there is such an object, or filled where there is none."""
    wrong = []
    for row in rows:
        thing = object_of(row.route)
        filled = tuple(kind for kind in OBJECTS if getattr(row, kind) != "-")
        if (row.about, filled) != (thing, KINDS.get(thing, OBJECTS)):
            wrong.append(f"{row.route} of a {thing} for {row.roles}")
    return wrong


def test_every_kind_of_object_that_a_route_can_name_has_its_cell() -> None:
    assert misfits(table()) == []


@pytest.mark.parametrize("kind", OBJECTS)
def test_no_cell_can_be_left_blank(kind: Object) -> None:
    filled = [row for row in table() if getattr(row, kind) != "-"]
    assert len(filled) > 50
    for row in filled:
        assert misfits([row._replace(**{kind: "-"})]), row


def test_every_route_of_the_document_has_one_row_for_every_role() -> None:
    named = [(row.route, role) for row in table() for role in row.roles.split()]
    wanted = [
        (route, role)
        for route in OPERATIONS
        for role in (ROLES if OPERATIONS[route]["security"] else ("anyone",))
    ]
    assert sorted(named) == sorted(wanted)


def test_a_door_is_shut_to_just_those_whom_the_document_does_not_name() -> None:
    for row in table():
        for role in row.roles.split():
            is_open = role == "anyone" or role in scopes(row.route)
            assert ("shut" in row[3:]) is not is_open, (row.route, role)


def test_the_document_knows_every_status_of_the_table() -> None:
    for row in table():
        known = {*OPERATIONS[row.route]["responses"], "shut", "-"}
        assert {cell.partition(" ")[0] for cell in row[3:]} <= known, row.route


# ── The table against the service ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Wish:
    """A request, but for the token."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class World:
    """Two programs; members and what they have are made as they are asked for."""

    def __init__(self, service: Inside) -> None:
        self.service = service
        self._serial = itertools.count()
        self.admin = service.issuer.token(["admin"], "root")
        for program_id in (HERE, THERE):
            answer = self.send(_publishing(program_id), self.admin)
            assert answer.status == 200, answer.content

    def send(self, wish: Wish, token: str | None) -> Answer:
        headers = {"content-type": "application/json", **wish.headers}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        content = b"" if wish.body is None else json.dumps(wish.body).encode()
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return self.service.send(wish.method, wish.path, pairs, content)

    def name(self) -> str:
        """Another name for whatever needs one."""
        return f"n{next(self._serial)}"

    def member(self, program_id: str = HERE) -> str:
        member_id = self.name()
        self.does(program_id, "POST", "members", {"member_id": member_id})
        return member_id

    def does(self, program_id: str, method: str, path: str, body: Any, by: str = "root") -> Any:
        """The answer to what a shop does before."""
        wish = Wish(method, f"/v1/programs/{program_id}/{path}", body, _keyed(self.name()))
        answer = self.send(wish, self.service.issuer.token(["admin"], by))
        assert answer.status in (200, 201, 202), answer.content
        return json.loads(answer.content)


def _keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def _publishing(program_id: str) -> Wish:
    document = shop(
        program_id=program_id,
        transfers={"min_points": 1},
        adjustments={"second_person_above": 1000},
    )
    document["rules"][0]["earn"]["points"] = 500
    document["locations"][0]["location_id"] = _place(program_id)
    return Wish("PUT", f"/v1/programs/{program_id}/program", document)


def about(world: World, row: Row, kind: Object, me: str) -> Wish:
    """A request that fits, about such an object, by somebody called `me`."""
    method, path = row.route.split(" ")
    where = THERE if kind == "elsewhere" else HERE
    holder = {
        "own": lambda: me,
        "foreign": world.member,
        "elsewhere": lambda: world.member(THERE),
        "missing": world.name,
    }[kind]()
    names = {"program_id": HERE, "member_id": holder}
    if row.about not in ("member", "service"):
        made: dict[str, Callable[[], dict[str, str]]] = {
            "program": lambda: {"program_id": holder if kind == "missing" else where},
            "location": lambda: {"location_id": "x" if kind == "missing" else _place(where)},
            "code": lambda: {"code": _code(where) if kind != "missing" else "doors.corner.1.x"},
            "event": lambda: {"event_id": _event(world, where, holder, kind)},
            "hold": lambda: {"redemption_id": _hold(world, where, holder, kind)},
            "voucher": lambda: {"code": _voucher(world, where, holder, kind)},
            "proposal": lambda: {"adjustment_id": _proposal(world, where, holder, kind, me)},
        }  # fmt: skip
        names |= made[row.about]()
    return Wish(method, path.format(**names), _body(world, row.route, names), _keyed(world.name()))


def _code(program_id: str) -> str:
    return check_in_code(secrets(), CheckInCode(program_id, _place(program_id), 1))


def _place(program_id: str) -> str:
    """The one location of a program."""
    return "attic" if program_id == THERE else "corner"


def _event(world: World, program_id: str, member_id: str, kind: Object) -> str:
    event = {"event_id": world.name(), "type": "review", "member_id": member_id}
    if kind != "missing":
        world.does(program_id, "POST", "awards", event)
    return event["event_id"]


def _hold(world: World, program_id: str, member_id: str, kind: Object) -> str:
    if kind == "missing":
        return id_of("r", world.name())
    body = {"member_id": member_id, "points": 1, "hold": True}
    return str(world.does(program_id, "POST", "redemptions", body)["redemption_id"])


def _voucher(world: World, program_id: str, member_id: str, kind: Object) -> str:
    if kind == "missing":
        return "AAAAA-AAAAA-AAAAA-AAAAA"
    body = {"member_id": member_id, "reward_id": "free-coffee"}
    return str(world.does(program_id, "POST", "redemptions", body)["voucher"]["code"])


def _proposal(world: World, program_id: str, member_id: str, kind: Object, me: str) -> str:
    if kind == "missing":
        return id_of("a", world.name())
    by = me if kind == "own" else "another"
    body = {"member_id": member_id, "points": 5000, "reason_code": "goodwill"}
    return str(world.does(program_id, "POST", "adjustments", body, by)["adjustment_id"])


def _body(world: World, route: str, names: dict[str, str]) -> Any:
    member_id = names["member_id"]
    event = {"event_id": world.name(), "type": "review", "member_id": member_id}
    match route.split(" ")[0], route.rpartition("/")[2]:
        case "PUT", "program":
            return _publishing(names["program_id"]).body
        case "POST", "members":
            return {"member_id": member_id, "name": "Somebody else"}
        case "PATCH", _:
            return {"name": "Mila"}
        case "POST", "awards":
            return event
        case "POST", "simulate":
            return {"event": event}
        case "POST", "reversals":
            return {"event_id": names["event_id"], "refund_id": "r"}
        case "POST", "redemptions":
            return {"member_id": member_id, "points": 1}
        case "POST", "transfers":
            to = world.member()
            return {"from_member_id": member_id, "to_member_id": to, "points": 1}
        case "POST", "check-ins":
            return {"member_id": member_id, "code": _code(HERE)}
        case "POST", "adjustments":
            return {"member_id": member_id, "points": 1, "reason_code": "goodwill"}
        case "POST", "merge":
            return {"into_member_id": world.member()}
        case "POST", "tier":
            return {}
        case _:
            return None


@pytest.fixture(scope="module")
def world(engine: Engine, new_tables: Callable[[], Tables], template: Template) -> Iterator[World]:
    with Inside(engine.endpoint, new_tables(), template) as service:
        yield World(service)


@pytest.fixture(scope="module")
def forged(world: World) -> dict[str, dict[str, str | None]]:
    """By role, every token that is none, under what is wrong with it."""
    key = world.service.key.read_bytes()
    found = {}
    for role in ROLES:
        every = forgeries(key, world.service.issuer.token([role], "theo"))
        found[role] = {"missing": None, **{fault: every[fault] for fault in FAULTS}}
    return found


def said(answer: Answer) -> str:
    """The answer as a cell of the table."""
    kind = answer.headers["content-type"]
    if kind == "application/problem+json":
        return f"{answer.status} {json.loads(answer.content)['code']}"
    if answer.status == 403 and kind == "application/json":
        assert set(json.loads(answer.content)) == {"message"}
        return "shut"
    return str(answer.status)


GUARDED = sorted({row.route for row in table() if row.roles != "anyone"})


@pytest.mark.parametrize("route", GUARDED)
def test_the_service_answers_as_the_table_says(
    world: World, forged: dict[str, dict[str, str | None]], route: str
) -> None:
    token = world.service.issuer.token
    for row in (row for row in table() if row.route == route):
        for role, kind in itertools.product(row.roles.split(), OBJECTS):
            expected = getattr(row, kind)
            if expected == "-":
                continue
            what = f"{route} as {role}, {kind}"
            me = world.member()
            wish = about(world, row, kind, me)  # type: ignore[arg-type]  # one of OBJECTS
            for fault, none in forged[role].items():
                answer = world.send(wish, none)
                assert (answer.status, answer.writes) == (401, 0), f"{what}, token {fault}"
                assert set(json.loads(answer.content)) == {"message"}
            # A token for other programs opens nothing, and one for this program as much as before.
            answer = world.send(wish, token([role], me, ["another", f"{HERE}x"]))
            assert said(answer) == ("shut" if expected == "shut" else "403 forbidden"), what
            assert answer.writes == 0, what
            program_id = wish.path.split("/")[3]
            answer = world.send(wish, token([role], me, ["another", program_id]))
            assert said(answer) == expected, (what, answer.content)
            # One for every program too; what was done is answered again.
            answer = world.send(wish, token([role], me))
            assert said(answer) == expected, (what, answer.content)
            if not expected.startswith("2"):
                # That a voucher was guessed is counted.
                assert answer.writes == ("voucher_not_found" in expected), what


@pytest.mark.parametrize("row", [row for row in table() if row.roles == "anyone"], ids=str)
def test_an_open_route_asks_for_no_token_and_looks_at_none(
    world: World, forged: dict[str, dict[str, str | None]], row: Row
) -> None:
    for kind in OBJECTS:
        if getattr(row, kind) == "-":
            continue
        wish = about(world, row, kind, "nobody")  # type: ignore[arg-type]  # one of OBJECTS
        good = [world.service.issuer.token([role]) for role in ROLES]
        for none in (None, *good, *forged["admin"].values()):
            assert str(world.send(wish, none).status) == getattr(row, kind)


@pytest.mark.parametrize(
    "row", [row for row in table() if "403 forbidden" in row], ids=lambda row: row.route
)
def test_who_names_another_member_cannot_tell_whether_there_is_one(world: World, row: Row) -> None:
    me = world.member()
    token = world.service.issuer.token(["member"], me)
    answers = [
        world.send(about(world, row, kind, me), token)  # type: ignore[arg-type]  # one of OBJECTS
        for kind in OBJECTS[1:]
    ]
    bodies = [json.loads(answer.content) | {"request_id": ""} for answer in answers]
    assert bodies[0]["code"] == "forbidden"
    assert bodies[1:] == bodies[:1] * 2
    for answer in answers:
        # Nothing is looked up, so that the time tells nothing either.
        assert answer.headers["loyalty-read-units"] == "0"
        assert answer.headers.keys() == answers[0].headers.keys()


@pytest.mark.parametrize(
    "roles", [("merchant", "member"), ("staff", "merchant"), ("admin", "staff")], ids="+".join
)
def test_two_roles_open_what_one_of_them_opens(world: World, roles: tuple[str, str]) -> None:
    for route in GUARDED:
        rows = {r: row for row in table() if row.route == route for r in row.roles.split()}
        for kind in OBJECTS:
            cells = [getattr(rows[role], kind) for role in roles]
            if cells[0] == cells[1]:
                continue
            me = world.member()
            wish = about(world, rows[roles[0]], kind, me)  # type: ignore[arg-type]  # of OBJECTS
            # The stronger role comes first in ROLES, and counts wherever it is let in.
            expected = cells[1] if cells[0] == "shut" else cells[0]
            answer = world.send(wish, world.service.issuer.token(roles, me))
            assert said(answer) == expected, (route, kind, answer.content)


def test_a_key_that_another_member_has_used_tells_nothing_and_does_nothing(world: World) -> None:
    one, other = world.member(), world.member()
    key = _keyed(world.name())
    path = f"/v1/programs/{HERE}/redemptions"
    token = world.service.issuer.token
    first = world.send(Wish("POST", path, {"points": 1}, key), token(["member"], one))
    assert first.status == 201
    for role, body in (("member", {"points": 1}), ("merchant", {"member_id": other, "points": 1})):
        answer = world.send(Wish("POST", path, body, key), token([role], other))
        assert (said(answer), answer.writes) == ("422 idempotency_key_reused", 0)
        assert one not in answer.content.decode()


def test_a_member_does_not_choose_its_groups(world: World) -> None:
    me = world.member()
    path = f"/v1/programs/{HERE}/members/{me}"
    token = world.service.issuer.token(["member"], me)
    for groups in (["vip"], [], None):
        answer = world.send(Wish("PATCH", path, {"groups": groups, "name": "Sneaky"}), token)
        assert (said(answer), answer.writes) == ("403 forbidden", 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("members/{me}/../{other}", 404),
        ("members/{me}%2F..%2F{other}", 403),
        ("members/{other}%00", 403),
        ("members/{other}/", 404),
        ("members//{other}", 404),
        ("Members/{other}", 404),
        ("members/{other}%20", 403),
        ("members/{other};{me}", 403),
        ("members/{other}%3Fmember_id={me}", 403),
    ],
)
def test_no_spelling_of_an_address_leads_to_another_member(
    world: World, path: str, status: int
) -> None:
    me, other = world.member(), world.member()
    address = f"/v1/programs/{HERE}/{path.format(me=me, other=other)}"
    answer = world.send(Wish("GET", address), world.service.issuer.token(["member"], me))
    assert (answer.status, answer.writes) == (status, 0)


@pytest.mark.parametrize("claim", ["*", "a b", "[a]", "", "../a", "a#b"])
def test_a_claim_is_a_name_and_no_pattern(world: World, claim: str) -> None:
    other = world.member()
    wish = Wish("GET", f"/v1/programs/{HERE}/members/{other}")
    token = world.service.issuer.token
    assert said(world.send(wish, token(["member"], claim))) == "403 forbidden"
    assert said(world.send(wish, token(["admin"], None, [claim]))) == "403 forbidden"
