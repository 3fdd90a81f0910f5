"""Whatever a client sends, the answer is a problem that says what is wrong, and nothing is written.

Cases are sent over HTTP: to the local service those that are a matter of bytes, and all of them to
the same gateway in this process, whose tables can be looked at.
"""

from __future__ import annotations

import copy
import gzip
import importlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from conftest import Service

from loyalty import edge
from loyalty.commands import instant
from loyalty.decisions import id_of
from loyalty.problems import PROBLEMS
from tests.programs import shop
from tools.engine import Engine, Tables
from tools.gateway import Gateway
from tools.issuer import Authorizer, Issuer
from tools.runtime import Context, Runtime
from tools.template import Template

KIB = 1024


# ── Where cases are sent ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Target:
    """A service with a program, and mila in it with 50 points and the event `paid`."""

    http: httpx.Client
    headers: dict[str, str]
    program_id: str
    code: str
    dump: Callable[[], Any]
    """Everything that is stored, as far as it can be seen from here."""

    @property
    def base(self) -> str:
        return f"/v1/programs/{self.program_id}"

    def send(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, Any] | None = None
    ) -> httpx.Response:
        """Send bytes as they are; a header that is None is not sent."""
        path = path.replace("{base}", self.base)
        content = content.replace(b"{code}", self.code.encode())
        content = content.replace(b"{program_id}", self.program_id.encode())
        named = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        if method == "PUT":
            named["If-Match"] = '"1"'
        wanted = {
            k: v for k, v in (named | self.headers | (headers or {})).items() if v is not None
        }
        return self.http.request(method, path, content=content, headers=wanted)

    def post(self, name: str, body: Any, **headers: Any) -> httpx.Response:
        """Send a body to one of the routes that take one."""
        method, path, _ = BODIES[name]
        return self.send(method, path, json.dumps(body).encode(), headers)


def furnished(
    http: httpx.Client, headers: dict[str, str], dump: Callable[[str], Any], kind: str = "bad"
) -> Target:
    """A target of this client, with what every case may build on."""
    program_id = f"{kind}-{uuid.uuid4().hex[:8]}"
    base = f"/v1/programs/{program_id}"

    def must(method: str, path: str, body: Any = None) -> Any:
        answer = http.request(method, base + path, json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    must("PUT", "/program", shop(program_id=program_id))
    must("POST", "/members", {"member_id": "mila"})
    must("POST", "/awards", AWARD | {"event_id": "paid"})
    code = must("GET", "/locations/corner/code")["code"]
    return Target(http, headers, program_id, code, lambda: dump(base))


@pytest.fixture(scope="module", params=["served", "inside"])
def target(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def served(service: Service) -> Target:
    """The local service; what it stores is seen by reading the member, its history, the program."""
    headers = service.headers("admin")

    def dump(base: str) -> Any:
        paths = ("/members/mila", "/members/mila/entries?limit=100", "/program/versions")
        return [service.http.get(base + path, headers=headers).json() for path in paths]

    return furnished(service.http, headers, dump)


@pytest.fixture(scope="module")
def inside(
    engine: Engine,
    dynamodb: Any,
    new_tables: Callable[[], Tables],
    template: Template,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """The gateway and the handlers in this process; all three tables are compared."""
    tables = new_tables()
    issuer = Issuer(tmp_path_factory.mktemp("issuer") / "key.pem", "http://testserver/dev")
    variables = {
        **tables.environment,
        "AWS_ENDPOINT_URL_DYNAMODB": engine.endpoint,
        "LOYALTY_SECRETS": '{"1": "a secret of tests"}',
        "PROGRAM_DELAY_SECONDS": "0",
        "AUTHORIZE_URL": f"{issuer.url}/authorize",
        "TOKEN_URL": f"{issuer.url}/token",
        "CLIENT_ID": issuer.client_id,
    }
    cached = (edge.store, edge.secrets, edge.sign_in, edge.publish_delay)
    authorizer = Authorizer(issuer.url, issuer.jwks(), [issuer.client_id])
    runtime = Runtime()

    def dump(_: str) -> Any:
        stored = []
        for name in (tables.accounts, tables.ledger, tables.records):
            items = dynamodb.scan(TableName=name)["Items"]
            # Tests that mean to write do so to fresh programs.
            kept = [item for item in items if not item["pk"]["S"].startswith("fresh-")]
            stored.append(sorted(sorted(map(repr, item.items())) for item in kept))
        return stored

    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        for each in cached:
            each.cache_clear()
        gateway = Gateway(template, runtime, authorizer)
        server = uvicorn.Server(
            uvicorn.Config(gateway, port=0, http="httptools", lifespan="off", log_config=None)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {issuer.token(['admin'])}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield furnished(http, headers, dump)
        server.should_exit = True
        thread.join()
        runtime.close()
        for each in cached:
            each.cache_clear()


# ── Cases ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """A request that must be refused: with which status, code and errors (pointer, code).

    Cases of one group are tried in one test.
    """

    group: str
    name: str
    method: str
    path: str
    content: bytes = b""
    status: int | tuple[int, ...] = (400, 404, 409, 413, 422)
    code: str | None = None
    errors: tuple[tuple[str, str], ...] | None = None
    headers: dict[str, Any] = field(default_factory=dict)


AWARD: dict[str, Any] = {
    "event_id": "order-1",
    "type": "purchase",
    "member_id": "mila",
    "occurred_at": "2026-01-05T10:00:00Z",
    "channel": "web",
    "location_id": "corner",
    "attributes": {"rating": 5},
    "purchase": {
        "currency": "EUR",
        "lines": [
            {
                "line_id": "1",
                "product_id": "p",
                "category_ids": ["beans"],
                "brand_id": "b",
                "quantity": 1,
                "amount": 500,
                "discounted": False,
            }
        ],
        "tax": 0,
        "shipping": 0,
        "paid_with_points": 0,
        "redemption_ids": ["r"],
    },
}
REVERSAL = {"event_id": "paid", "refund_id": "refund-1"}
REDEMPTION = {
    "member_id": "mila",
    "points": 5,
    "order": {"order_id": "order-2", "amount": 100, "currency": "EUR"},
    "hold": False,
}
REWARD = {"member_id": "mila", "reward_id": "free-coffee"}
SCAN = {"code": "{code}", "member_id": "mila"}
ENROLMENT = {
    "member_id": "noor",
    "email": "noor@example.com",
    "phone": "+33 1 23 45 67 89",
    "name": "Noor",
    "groups": ["vip"],
    "timezone": "Europe/Paris",
}
PROFILE = {"name": "Mila", "groups": ["vip"]}
PROGRAM = shop(program_id="{program_id}", name="Renamed")

BODIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "awards": ("POST", "{base}/awards", AWARD),
    "reversals": ("POST", "{base}/reversals", REVERSAL),
    "redemptions": ("POST", "{base}/redemptions", REDEMPTION),
    "check-ins": ("POST", "{base}/check-ins", SCAN),
    "members": ("POST", "{base}/members", ENROLMENT),
    "profile": ("PATCH", "{base}/members/mila", PROFILE),
    "program": ("PUT", "{base}/program", PROGRAM),
}
"""A body that fits, for each route that takes one."""


def unreadable(name: str, body: dict[str, Any]) -> dict[str, bytes]:
    """What cannot be read as JSON, made from a body that fits: 400 `invalid_json`."""
    text = json.dumps(body)
    rest, first = text[1:], next(iter(body))

    def with_field(value: str) -> bytes:
        return f'{{"surprise": {value}, {rest}'.encode()

    deep = 100_000
    cases = {
        "nothing": b"",
        "blanks": b" \n ",
        "cut off": text[:-1].encode(),
        "two values": (text + text).encode(),
        "a trailing comma": (text[:-1] + ",}").encode(),
        "single quotes": text.replace('"', "'").encode(),
        "a comment": b"/* */" + text.encode(),
        "a key twice": f'{{"{first}": {json.dumps(body[first])}, {rest}'.encode(),
        "a key twice, once escaped": (
            f'{{"\\u{ord(first[0]):04x}{first[1:]}": {json.dumps(body[first])}, {rest}'.encode()
        ),
        "a key twice inside": with_field('{"a": 1, "a": 1}'),
        "NaN": with_field("NaN"),
        "Infinity": with_field("Infinity"),
        "-Infinity": with_field("-Infinity"),
        "5,000 digits": with_field("1" + "0" * 4999),
        "5,000 digits, negative": with_field("-" + "9" * 5000),
        "5,000 digits in a list": with_field("[0, " + "7" * 5000 + "]"),
        "100,000 arrays": with_field("[" * deep + "]" * deep),
        "100,000 open arrays": b"[" * deep,
        "a byte that is not UTF-8": text.encode().replace(b'"', b'"\xff', 1),
        "Latin-1": with_field('"é"').decode().encode("latin-1"),
        "an overlong form": text.encode().replace(b'"', b'"\xc0\xaf', 1),
        "a surrogate in UTF-8": text.encode().replace(b'"', b'"\xed\xa0\x80', 1),
        "UTF-16": text.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "half a surrogate pair": with_field('"\\ud83d"'),
        "half a surrogate pair in a name": with_field('{"\\udc00": 1}'),
        "a NUL in a text": with_field('"a\x00b"'),
        "a line break in a text": with_field('"a\nb"'),
        "a NUL at the end": text.encode() + b"\x00",
        "gzip": gzip.compress(text.encode()),
        "a form": b"member_id=mila&points=5",
        "XML": b"<?xml version='1.0'?><award/>",
    }
    if name == "program":
        # Objects open with five bytes: elsewhere this is beyond what a body may have.
        cases["100,000 objects"] = with_field('{"a":' * deep + "1" + "}" * deep)
    return cases


def misfits(body: dict[str, Any]) -> dict[str, tuple[bytes, tuple[tuple[str, str], ...]]]:
    """JSON that is no such command at all, with its errors: 422."""
    text = json.dumps(body)
    nothing = (("", "wrong_type"),)
    return {
        "an array": (f"[{text}]".encode(), nothing),
        "an empty array": (b"[]", nothing),
        "null": (b"null", nothing),
        "true": (b"true", nothing),
        "a number": (b"1", nothing),
        "a text": (json.dumps(text).encode(), nothing),
        "an unknown field": (
            json.dumps({**body, "surprise": 1}).encode(),
            (("/surprise", "unknown_field"),),
        ),
        "unknown fields with awkward names": (
            json.dumps({**body, "a/b~c": 1, "": 2, "é\n": None}).encode(),
            (("/", "unknown_field"), ("/a~1b~0c", "unknown_field"), ("/é\n", "unknown_field")),
        ),
        "a number beyond all floats": (
            (text[:-1] + ', "surprise": 1e999}').encode(),
            (("/surprise", "unknown_field"),),
        ),
        "a float of 5,000 digits": (
            (text[:-1] + ', "surprise": 0.' + "1" * 5000 + "}").encode(),
            (("/surprise", "unknown_field"),),
        ),
        "5,000 arrays": (
            (text[:-1] + ', "surprise": ' + "[" * 5000 + "]" * 5000 + "}").encode(),
            (("/surprise", "unknown_field"),),
        ),
    }


def whole_bodies() -> Iterator[Case]:
    for name, (method, path, body) in BODIES.items():
        for what, content in unreadable(name, body).items():
            yield Case(what, name, method, path, content, 400, "invalid_json")
        wrong = "invalid_program" if name == "program" else "invalid_body"
        for what, (content, errors) in misfits(body).items():
            yield Case(what, name, method, path, content, 422, wrong, errors)
        limit = 5 * KIB * KIB if name == "program" else 256 * KIB
        # With an unknown field, so that what has just the right size is not carried out.
        text = json.dumps({**body, "surprise": 1})
        # Placeholders are replaced by texts of another length on the way.
        room = limit - len(text.encode()) - 100
        for what, blanks, status, code in (
            ("as large as it may be", room, 422, wrong),
            ("too large", room + 200, 413, "body_too_large"),
        ):
            content = (text + " " * blanks).encode()
            yield Case(what, name, method, path, content, status, code)


class _Gone:
    def __repr__(self) -> str:
        return "nothing"


GONE = _Gone()
"""Stands for a field that is taken out."""


def put(body: Any, pointer: str, value: Any) -> Any:
    """A copy of the body with another value at the pointer."""
    body = copy.deepcopy(body)
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    node = body
    for step in way:
        node = node[int(step)] if isinstance(node, list) else node[step]
    place = int(last) if isinstance(node, list) else last
    if value is GONE:
        del node[place]
    else:
        node[place] = value
    return body


def leaves(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside the body, with its pointer."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield f"{pointer}/{key}", inner
        yield from leaves(inner, f"{pointer}/{key}")


NOT_INTEGERS: tuple[Any, ...] = (True, "199", "", 1.0, 1.5, 1e300, [], [1], {})
NOT_TEXTS: tuple[Any, ...] = (1, 1.5, True, [], ["a"], {})
NOT_BOOLEANS: tuple[Any, ...] = (0, 1, "true", "", [], None)
NOT_LISTS: tuple[Any, ...] = ({}, "a", 1, True)
NOT_OBJECTS: tuple[Any, ...] = ([], "a", 1, True)


def wrong_types() -> Iterator[Case]:
    for name, (method, path, body) in BODIES.items():
        if name == "program":
            continue  # test_program has them all
        for pointer, value in leaves(body):
            match value:
                case bool():
                    wrong = NOT_BOOLEANS
                case int():
                    wrong = NOT_INTEGERS
                case str():
                    wrong = NOT_TEXTS
                case list():
                    wrong = NOT_LISTS
                case _:
                    wrong = NOT_OBJECTS
            kind = "wrong_type"
            if pointer.startswith("/attributes/"):
                wrong, kind = (None, 1.5, [], {}), "bad_attribute"
            if pointer == "/occurred_at":
                kind = "bad_time"
            for each in wrong:
                content = json.dumps(put(body, pointer, each)).encode()
                yield Case(
                    f"wrong types, {name}{pointer}", repr(each), method, path, content, 422,
                    "invalid_body", ((pointer, kind),),
                )  # fmt: skip


MORE_THAN_ANY = 10**15 + 1
LINE = AWARD["purchase"]["lines"][0]
LONG_ID = "x" * 129
BAD_KEYS = {
    "": "out_of_range", LONG_ID: "out_of_range", "a#b": "bad_id", "a\n": "bad_id",
    "a\x00b": "bad_id", "a\x7fb": "bad_id", "a\u2028b": "bad_id", "\u202ea": "bad_id",
}  # fmt: skip
BAD_MEMBER_IDS = (
    "", "x" * 65, "a b", "a#b", "é", "mila\n", "\nmila", "a/b", "..", "mila@example.com",
    "+33123456789", "a\x00",
)  # fmt: skip

AWARD_POINTERS: dict[str, dict[Any, str]] = {
    "/event_id": {GONE: "required", **BAD_KEYS},
    "/type": {
        GONE: "required", "": "bad_format", "Purchase": "bad_format", "x" * 65: "bad_format",
        "a b": "bad_format", "review\n": "bad_format", "1st": "bad_format",
    },
    "/member_id": {GONE: "required", None: "wrong_type"}
    | dict.fromkeys(BAD_MEMBER_IDS, "bad_format"),
    "/occurred_at": dict.fromkeys(
        (
            "", "now", "2026-01-05", "2026-01-05T10:00:00", "2026-01-05 10:00:00Z",
            "2026-02-30T10:00:00Z", "2026-01-05T25:00:00Z", "2026-01-05T10:00:60Z",
            "2026-01-05T10:00:00+99:00", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "2026-01-05T10:00:00Z\n",
            "٢٠٢٦-01-05T10:00:00Z", "2026-01-05T10:00:00.1234567890Z",
        ),
        "bad_time",
    ),
    "/channel": {"": "out_of_range", LONG_ID: "out_of_range", "a\x00": "bad_text"},
    "/purchase/currency": dict.fromkeys(("", "eur", "EURO", "EU", "EUR\n", "€€€"), "bad_format")
    | {GONE: "required"},
    "/purchase/tax": {-1: "out_of_range", MORE_THAN_ANY: "out_of_range", None: "wrong_type"},
    "/purchase/shipping": {-1: "out_of_range", 10**30: "out_of_range"},
    "/purchase/paid_with_points": {-1: "out_of_range", 2**63: "out_of_range"},
    "/purchase/lines/0/quantity": {
        GONE: "required", 0: "out_of_range", -1: "out_of_range", 10**9 + 1: "out_of_range",
    },
    "/purchase/lines/0/amount": {
        GONE: "required", -1: "out_of_range", MORE_THAN_ANY: "out_of_range", 10**39: "out_of_range",
    },
    "/purchase/lines/0/line_id": {GONE: "required", **BAD_KEYS},
    "/purchase/lines/0/product_id": {"": "out_of_range", LONG_ID: "out_of_range", "\t": "bad_text"},
    "/purchase/lines/0/category_ids/0": {"": "out_of_range", LONG_ID: "out_of_range"},
}  # fmt: skip

FIELDS: list[tuple[str, str, Any, tuple[tuple[str, str], ...]]] = [
    *(
        ("awards", f"{pointer}: {value!r:.30}", put(AWARD, pointer, value), ((pointer, code),))
        for pointer, values in AWARD_POINTERS.items()
        for value, code in values.items()
    ),
    (
        "awards", "501 lines",
        put(AWARD, "/purchase/lines", [{**LINE, "line_id": str(n)} for n in range(501)]),
        (("/purchase/lines", "out_of_range"),),
    ),
    ("awards", "no line", put(AWARD, "/purchase/lines", []),
     (("/purchase/lines", "out_of_range"),)),
    ("awards", "two lines of one id", put(AWARD, "/purchase/lines", [LINE, LINE]),
     (("/purchase", "duplicate_line_id"),)),
    ("awards", "an unknown field in a line", put(AWARD, "/purchase/lines/0/price", 1),
     (("/purchase/lines/0/price", "unknown_field"),)),
    ("awards", "an unknown field in a purchase", put(AWARD, "/purchase/total", 1),
     (("/purchase/total", "unknown_field"),)),
    ("awards", "a purchase without its purchase", put(AWARD, "/purchase", GONE),
     (("", "purchase_mismatch"),)),
    ("awards", "a review with a purchase", AWARD | {"type": "review"},
     (("", "purchase_mismatch"),)),
    ("awards", "51 attributes", AWARD | {"attributes": {str(n): n for n in range(51)}},
     (("/attributes", "out_of_range"),)),
    ("awards", "51 categories", put(AWARD, "/purchase/lines/0/category_ids", ["c"] * 51),
     (("/purchase/lines/0/category_ids", "out_of_range"),)),
    ("awards", "an attribute of 257 characters", AWARD | {"attributes": {"a": "x" * 257}},
     (("/attributes/a", "bad_attribute"),)),
    ("awards", "a huge attribute", AWARD | {"attributes": {"a": 10**30}},
     (("/attributes/a", "bad_attribute"),)),
    ("awards", "a control character in an attribute", AWARD | {"attributes": {"a": "\x1b[31m"}},
     (("/attributes/a", "bad_text"),)),
    ("awards", "a control character in an attribute's name", AWARD | {"attributes": {"a\x01": 1}},
     (("/attributes/a\x01", "bad_text"),)),
    ("awards", "an attribute without a name", AWARD | {"attributes": {"": 1}},
     (("/attributes/", "out_of_range"),)),
    (
        "awards", "everything wrong at once",
        {"event_id": "#", "member_id": "a b", "purchase": {"currency": 5, "lines": [{}]}, "x": 0},
        (
            ("/event_id", "bad_id"), ("/type", "required"), ("/member_id", "bad_format"),
            ("/purchase/currency", "wrong_type"), ("/purchase/lines/0/line_id", "required"),
            ("/purchase/lines/0/quantity", "required"), ("/purchase/lines/0/amount", "required"),
            ("/x", "unknown_field"),
        ),
    ),
    ("awards", "an empty object", {},
     (("/event_id", "required"), ("/type", "required"), ("/member_id", "required"))),
    *(
        ("reversals", f"{name}: {value!r:.20}", REVERSAL | {name: value}, ((f"/{name}", code),))
        for name in ("event_id", "refund_id")
        for value, code in BAD_KEYS.items()
    ),
    ("reversals", "an empty object", {}, (("/event_id", "required"), ("/refund_id", "required"))),
    ("reversals", "no lines", REVERSAL | {"lines": []}, (("/lines", "out_of_range"),)),
    ("reversals", "a line without its id", REVERSAL | {"lines": [{"quantity": 1}]},
     (("/lines/0/line_id", "required"),)),
    ("reversals", "a returned quantity of 0",
     REVERSAL | {"lines": [{"line_id": "1", "quantity": 0}]},
     (("/lines/0/quantity", "out_of_range"),)),
    ("reversals", "a negative amount", REVERSAL | {"amount": -1}, (("/amount", "out_of_range"),)),
    ("reversals", "an amount as a text", REVERSAL | {"amount": "199"},
     (("/amount", "wrong_type"),)),
    *(
        ("redemptions", f"{value!r} points", REDEMPTION | {"points": value},
         (("/points", "out_of_range"),))
        for value in (0, -1, MORE_THAN_ANY, 2**63, 10**39)
    ),
    ("redemptions", "points and a reward", REDEMPTION | REWARD, (("", "exactly_one"),)),
    ("redemptions", "neither points nor a reward", {"member_id": "mila"}, (("", "exactly_one"),)),
    ("redemptions", "a reward's id as a number", REWARD | {"reward_id": 5},
     (("/reward_id", "wrong_type"),)),
    ("redemptions", "a reward's id too long", REWARD | {"reward_id": LONG_ID},
     (("/reward_id", "out_of_range"),)),
    ("redemptions", "an order without anything", REDEMPTION | {"order": {}},
     (("/order/order_id", "required"), ("/order/amount", "required"),
      ("/order/currency", "required"))),
    ("redemptions", "an order that is negative", put(REDEMPTION, "/order/amount", -1),
     (("/order/amount", "out_of_range"),)),
    ("redemptions", "an order's id with #", put(REDEMPTION, "/order/order_id", "a#b"),
     (("/order/order_id", "bad_id"),)),
    ("redemptions", "for no member", {"points": 5}, (("/member_id", "required"),)),
    *(
        ("redemptions", f"for {value!r:.20}", REDEMPTION | {"member_id": value},
         (("/member_id", "bad_format"),))
        for value in BAD_MEMBER_IDS
    ),
    ("check-ins", "no code", {"member_id": "mila"}, (("/code", "required"),)),
    ("check-ins", "an empty code", SCAN | {"code": ""}, (("/code", "out_of_range"),)),
    ("check-ins", "a code of 513 characters", SCAN | {"code": "x" * 513},
     (("/code", "out_of_range"),)),
    ("check-ins", "for no member", {"code": "{code}"}, (("/member_id", "required"),)),
    ("check-ins", "for a member of an odd name", SCAN | {"member_id": "a b"},
     (("/member_id", "bad_format"),)),
    *(
        ("members", f"{pointer}: {value!r:.30}", put(ENROLMENT, pointer, value), ((pointer, code),))
        for pointer, values in {
            "/member_id": dict.fromkeys(BAD_MEMBER_IDS, "bad_format"),
            "/email": dict.fromkeys(
                ("", "noor", "@", "a@", "@b", "a b@c", "a@b@c", "a@b\n", "x" * 65 + "@b",
                 "a@" + "b" * 191, "a\x00@b"),
                "bad_format",
            ),
            "/phone": dict.fromkeys(("", "12", "call me", "+33\n1234", "١٢٣٤", "...", "(-) 12"),
                                    "bad_format") | {"1" * 40: "out_of_range"},
            "/name": {"": "out_of_range", "x" * 257: "out_of_range", "No\x00or": "bad_text",
                      "\x1b[2J": "bad_text", "No\x7for": "bad_text", "\x9b2J": "bad_text"},
            "/groups/0": {"": "out_of_range", LONG_ID: "out_of_range", "\n": "bad_text"},
            "/timezone": {"": "out_of_range", "Mars/Olympus": "bad_time_zone",
                          "../../etc/passwd": "bad_time_zone", "/etc/passwd": "bad_time_zone",
                          "localtime": "bad_time_zone", "posix/Europe/Paris": "bad_time_zone",
                          "Europe": "bad_time_zone", "posixrules\x00": "bad_text",
                          LONG_ID: "out_of_range", "é": "bad_time_zone"},
            "/birthday": dict.fromkeys(
                (1990, "", "1990", "1990-2-28", "1990-02-30", "28/02/1990", "1990-02-28T00:00:00Z",
                 "1849-12-31", "0001-01-01", "١٩٩٠-02-28", "1990-02-28\n", True),
                "bad_date",
            ),
            "/referral_code": {"": "out_of_range", LONG_ID: "out_of_range", 5: "wrong_type"},
        }.items()
        for value, code in values.items()
    ),
    ("members", "21 groups", ENROLMENT | {"groups": [str(n) for n in range(21)]},
     (("/groups", "out_of_range"),)),
    ("profile", "an id, which stays", PROFILE | {"member_id": "noor"},
     (("/member_id", "unknown_field"),)),
    ("profile", "points", PROFILE | {"balance": 1000}, (("/balance", "unknown_field"),)),
    ("profile", "21 groups", {"groups": [str(n) for n in range(21)]},
     (("/groups", "out_of_range"),)),
    ("profile", "one of its values", PROFILE | {"email": "noor"}, (("/email", "bad_format"),)),
    ("program", "an empty object", {},
     tuple((f"/{name}", "required") for name in ("program_id", "name", "currency", "time_zone"))),
    ("program", "a rate as a float", put(PROGRAM, "/rules/1/earn/per_amount", 1.5),
     (("/rules/1/earn/per_amount", "wrong_type"),)),
    ("program", "points as a text", put(PROGRAM, "/rules/0/earn/points", "50"),
     (("/rules/0/earn/points", "wrong_type"),)),
    ("program", "points as true", put(PROGRAM, "/rules/0/earn/points", True),
     (("/rules/0/earn/points", "wrong_type"),)),
    ("program", "another program's id", PROGRAM | {"program_id": "another"},
     (("/program_id", "program_id_mismatch"),)),
    ("program", "control characters", PROGRAM | {"name": "a\x00b"}, (("/name", "bad_format"),)),
]  # fmt: skip


def fields() -> Iterator[Case]:
    for name, what, body, errors in FIELDS:
        method, path, _ = BODIES[name]
        code = "invalid_program" if name == "program" else "invalid_body"
        content = json.dumps(body).encode()
        group = f"{name}, {what.partition(':')[0]}"
        yield Case(group, what, method, path, content, 422, code, errors)


READS = {
    "member": "{base}/members/mila",
    "balance": "{base}/members/mila/balance",
    "entries": "{base}/members/mila/entries",
    "program": "{base}/program",
    "versions": "{base}/program/versions",
    "code": "{base}/locations/corner/code",
    "svg": "{base}/locations/corner/poster.svg",
    "png": "{base}/locations/corner/poster.png",
}
OPEN = ("/health", "/openapi.json", "/program.schema.json", "/c/signed-in")

BAD_LIMITS = (
    "0", "-1", "101", "1.5", "ten", "", "%201", "%2B1", "1e1", "0x1", "true", "null",
    "%EF%BC%91", "%D9%A1", "%C2%B2", "1" + "0" * 4999, "99999999999999999999",
    "0000000019999", "000000001" + "0" * 4991,
    "1&limit=2", "1%002",
)  # fmt: skip
NO_CURSORS = (
    "", "x", "%00", "....", "bm9uc2Vuc2U", "MS4", "LjE", "LTEuMA", "MS4tMQ", "MS54", "MS4xLjE",
    "A" * 3000, "%F0%9F%98%80", "8J-YgC4w", "MS4wIA", "%27%20OR%201%3D1",
)  # fmt: skip
BAD_CURSORS = {
    # Those of one listing are none of the other's: 1, and 1.1.
    "entries": (*NO_CURSORS, "MQ"),
    "versions": (*NO_CURSORS, "MS4x"),
}
BAD_TIMES = (
    "", "now", "yesterday", "0", "2026-01-05", "2026-01-05T10:00:00", "2026-01-05T10:00:00+01:00",
    "9000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "%00",
    "2026-01-05T10:00:00Z&as_of=2026-01-05T10:00:00Z", "-2026-01-05T10:00:00Z", "1" * 5000,
)  # fmt: skip


def queries() -> Iterator[Case]:
    bad = (400, "invalid_query")
    for name, path in READS.items():
        for unknown in ("surprise=1", "Limit=1", "=", "limit%00=1", f"{'x' * 1000}=1", "%FF=%FF"):
            yield Case(f"{name}, unknown", unknown, "GET", f"{path}?{unknown}", b"", *bad)
    for name in ("entries", "versions"):
        for limit in BAD_LIMITS:
            path = f"{READS[name]}?limit={limit}"
            yield Case(f"{name}, limit", limit, "GET", path, b"", *bad)
        for cursor in BAD_CURSORS[name]:
            path = f"{READS[name]}?cursor={cursor}"
            yield Case(f"{name}, cursor", cursor, "GET", path, b"", *bad)
    for time in BAD_TIMES:
        path = f"{READS['balance']}?as_of={time}"
        yield Case("balance, as_of", time, "GET", path, b"", *bad)
    for version in ("0", "2", "-1", "one", "1.0", "01", "9" * 5000, "%D9%A1", ""):
        path = f"{READS['program']}?version={version}"
        yield Case("program, version", version, "GET", path, b"", (400, 404))
    for name, (method, path, body) in BODIES.items():
        content = json.dumps(body).encode()
        yield Case("a query where none is", name, method, f"{path}?surprise=1", content, *bad)


HOSTILE = {
    "a NUL": "%00", "a NUL inside": "mila%00", "the parent folder": "..",
    "the parent folder, escaped": "%2e%2e", "a slash": "mila%2F..%2Fnoor", "a hash": "mila%23noor",
    "a blank": "%20mila", "a line break": "mila%0A", "a quote": "%27%3B--",
    "a brace": "{member_id}",
    "a star": "*", "an emoji": "%F0%9F%98%80", "half a surrogate pair": "%ED%A0%80",
    "a broken byte": "%ff", "a broken escape": "%zz", "another case": "MILA",
    "65 characters": "m" * 65,
    "1,025 characters": "m" * 1025, "3,000 characters": "m" * 3000,
    "3,000 emojis": quote("😀" * 1000),
}  # fmt: skip


def paths() -> Iterator[Case]:
    bad = (400, 404, 422)
    bodies = {name: json.dumps(body).encode() for name, (_, _, body) in BODIES.items()}
    for what, segment in HOSTILE.items():
        group = f"a member called {what}"
        for name in ("member", "balance", "entries"):
            yield Case(group, name, "GET", READS[name].replace("mila", segment), b"", bad)
        for content in (bodies["profile"], b'{"groups": []}', b"{}"):
            path = f"{{base}}/members/{segment}"
            yield Case(group, f"PATCH {content!r}", "PATCH", path, content, bad)
        for name in ("code", "svg", "png"):
            path = READS[name].replace("corner", segment)
            yield Case(f"a location called {what}", name, "GET", path, b"", bad)
        group = f"a program called {what}"
        for name in ("program", "versions", "entries", "balance"):
            path = READS[name].replace("{base}", f"/v1/programs/{segment}")
            yield Case(group, name, "GET", path, b"", bad)
        for name, (method, path, _) in BODIES.items():
            path = path.replace("{base}", f"/v1/programs/{segment}")
            yield Case(group, f"{method} {name}", method, path, bodies[name], bad)


def headers() -> Iterator[Case]:
    for name in ("redemptions", "check-ins", "members"):
        method, path, body = BODIES[name]
        content = json.dumps(body).encode()
        for key in ("", "k" * 129, "a#b", "#"):
            yield Case(
                "bad keys", f"{name} {key}", method, path, content, 400, "idempotency_key_invalid",
                (), {"Idempotency-Key": key},
            )  # fmt: skip
    nameless = {name: value for name, value in ENROLMENT.items() if name != "member_id"}
    for name, body in (("redemptions", REDEMPTION), ("members", nameless)):
        method, path, _ = BODIES[name]
        yield Case(
            "no key", name, method, path, json.dumps(body).encode(), 400,
            "idempotency_key_missing", (), {"Idempotency-Key": None},
        )  # fmt: skip
    program = json.dumps(PROGRAM).encode()
    for version in ('"2"', "2", "0", '"one"', 'W/"2"', '"' * 500, "1, 2", "9" * 5000, None):
        status, code = (
            (428, "precondition_required") if version is None else (412, "version_conflict")
        )
        yield Case(
            "If-Match", str(version), "PUT", "{base}/program", program, status, code, (),
            {"If-Match": version},
        )  # fmt: skip
    for kind in (
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/xml", "application/octet-stream", "nonsense", "",
        "application/json; charset=x",
    ):  # fmt: skip
        for name, (method, path, _) in BODIES.items():
            # Under whatever type it comes, a body is read as JSON, and this is none.
            yield Case(
                "content types", f"{name} {kind}", method, path, b"member_id=mila&points=5", 400,
                "invalid_json", (), {"Content-Type": kind},
            )  # fmt: skip


def refusals() -> Iterator[Case]:
    """Bodies that fit and ask for what there is not."""
    for name, body, status, code in (
        ("awards", AWARD | {"member_id": "nobody"}, 404, "member_not_found"),
        ("awards", put(AWARD, "/purchase/currency", "USD"), 422, "currency_mismatch"),
        ("awards", AWARD | {"occurred_at": "2999-01-01T00:00:00Z"}, 409, "event_in_future"),
        *(
            ("awards", {"event_id": "x", "member_id": "mila", "type": kind}, 422, "reserved_type")
            for kind in (
                "registration", "profile_completed", "referral", "check_in", "birthday",
                "anniversary",
            )
        ),
        ("awards", AWARD | {"event_id": "check-in:x"}, 422, "reserved_type"),
        ("awards", AWARD | {"event_id": "paid", "channel": "x"}, 422, "idempotency_key_reused"),
        ("reversals", REVERSAL | {"event_id": "check-in:none"}, 404, "event_not_found"),
        ("reversals", REVERSAL | {"amount": 10**9}, 409, "more_than_bought"),
        ("reversals", REVERSAL | {"lines": [{"line_id": "9"}]}, 422, "line_not_found"),
        (
            "reversals",
            REVERSAL | {"lines": [{"line_id": "1", "quantity": 1, "amount": 1}]},
            422,
            "invalid_body",
        ),
        ("reversals", REVERSAL | {"amount": 1, "lines": [{"line_id": "1"}]}, 422, "invalid_body"),
        ("redemptions", REDEMPTION | {"member_id": "nobody"}, 404, "member_not_found"),
        ("redemptions", REDEMPTION | {"points": 10**15}, 409, "insufficient_points"),
        ("redemptions", REWARD | {"reward_id": "no-such"}, 404, "reward_not_found"),
        ("redemptions", put(REDEMPTION, "/order/currency", "USD"), 422, "currency_mismatch"),
        ("check-ins", SCAN | {"member_id": "nobody"}, 404, "member_not_found"),
        ("check-ins", SCAN | {"code": "no code"}, 403, "code_invalid"),
        ("check-ins", SCAN | {"code": "{code}x"}, 403, "code_invalid"),
        ("check-ins", SCAN | {"code": "x{code}"}, 403, "code_invalid"),
        ("check-ins", SCAN | {"code": "é" * 512}, 403, "code_invalid"),
        ("members", ENROLMENT | {"member_id": "mila"}, 409, "member_exists"),
        ("members", ENROLMENT | {"referral_code": "FRIEND"}, 422, "referral_code_unknown"),
    ):  # fmt: skip
        method, path, _ = BODIES[name]
        content = json.dumps(body).encode()
        yield Case(
            f"{name}, refused", f"{code} {content!r:.60}", method, path, content, status, code
        )


def grouped(*cases: Iterator[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for each in cases:
        for case in each:
            groups.setdefault(case.group, []).append(case)
    return groups


IN_BYTES = grouped(whole_bodies(), queries(), paths(), headers())
IN_MEANING = grouped(wrong_types(), fields(), refusals())


# ── Proof ─────────────────────────────────────────────────────────────────────────────────────────


def assert_problem(answer: httpx.Response, status: int | tuple[int, ...]) -> dict[str, Any]:
    """The answer is a problem document of ours (RFC 9457) with one of these statuses."""
    statuses = (status,) if isinstance(status, int) else status
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text:.300}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "errors", "request_id"} <= set(problem)
    assert PROBLEMS[problem["code"]] == (answer.status_code, problem["title"])
    assert problem["status"] == answer.status_code
    assert problem["type"].endswith(problem["code"])
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["apigw-requestid"], "as the access log has it"
    for error in problem["errors"]:
        assert set(error) == {"pointer", "code", "detail"}
        assert re.fullmatch(r"(/([^~/]|~[01])*)*", error["pointer"], re.DOTALL)
        assert error["detail"]
    return problem


def complaint(target: Target, case: Case) -> str | None:
    """What is wrong with the answer to a case, if anything is."""
    answer = target.send(case.method, case.path, case.content, case.headers)
    if answer.status_code == 404 and "problem" not in answer.headers["content-type"]:
        # No route of ours has such a path: the gateway answers by itself.
        return None if "called" in case.group else "is no route"
    try:
        problem = assert_problem(answer, case.status)
        assert case.code in (None, problem["code"])
        if case.errors is not None:
            found = {(error["pointer"], error["code"]) for error in problem["errors"]}
            assert found == set(case.errors)
    except AssertionError as error:
        return f"{case.name:.80}: {answer.status_code} {answer.text:.300}\n{error}"
    return None


def assert_refused(target: Target, cases: list[Case]) -> None:
    before = target.dump()
    complaints = [found for case in cases if (found := complaint(target, case))]
    assert not complaints, "\n\n".join(complaints)
    assert target.dump() == before


@pytest.mark.parametrize("group", IN_BYTES)
def test_what_cannot_be_read_is_refused_and_nothing_is_written(target: Target, group: str) -> None:
    assert_refused(target, IN_BYTES[group])


@pytest.mark.parametrize("group", IN_MEANING)
def test_what_does_not_fit_is_refused_and_nothing_is_written(inside: Target, group: str) -> None:
    assert_refused(inside, IN_MEANING[group])


def test_cases_are_bad_for_the_one_reason_they_name(target: Target) -> None:
    """Every body that the cases are made from is carried out as it stands."""
    fresh = furnished(target.http, target.headers, lambda _: None, "fresh")
    for number, (name, (_, _, body)) in enumerate(BODIES.items()):
        answer = fresh.post(name, body, **{"Idempotency-Key": f"key-{number}"})
        assert answer.status_code in (200, 201), f"{name}: {answer.text}"
    for name, path in READS.items():
        assert fresh.send("GET", path).status_code == 200, name


@pytest.mark.parametrize("path", OPEN)
def test_open_pages_take_whatever_is_appended_to_their_address(served: Target, path: str) -> None:
    """Sign-in comes back with a code, mail programs and link trackers add marks of their own."""
    answer = served.send("GET", f"{path}?code=abc&state=%2Fc%2Fx&utm_source=mail&%FF=%00")
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_json_is_json_whatever_it_is_called(served: Target, kind: str | None) -> None:
    """curl calls what it sends a form unless it is told otherwise."""
    fresh = furnished(served.http, served.headers, lambda _: None, "fresh")
    assert fresh.post("awards", AWARD, **{"Content-Type": kind}).status_code == 201


def test_a_body_beyond_what_the_gateway_takes_is_refused(served: Target) -> None:
    """The gateway answers these by itself, as the cloud's does."""
    before = served.dump()
    for megabytes in (7, 11):
        for method, path, _ in BODIES.values():
            answer = served.send(method, path, b" " * (megabytes * KIB * KIB))
            assert answer.status_code == 413
    assert served.dump() == before


@pytest.mark.parametrize("where", ["rules", "fields"])
def test_as_many_faults_as_a_program_can_hold_are_still_an_answer(
    inside: Target, where: str
) -> None:
    """A document of megabytes in which nothing fits does not make an answer of many more."""
    before = inside.dump()
    faults: Any = (
        {"rules": [0] * 500_000}
        if where == "rules"
        else {f"field-{number}": 0 for number in range(50_000)}
    )
    answer = inside.post("program", {"program_id": inside.program_id} | faults)
    assert_problem(answer, 422)
    assert len(answer.content) < 6 * KIB * KIB
    assert inside.dump() == before


def test_as_many_faults_as_an_award_can_hold_are_still_an_answer(inside: Target) -> None:
    before = inside.dump()
    answer = inside.post("awards", put(AWARD, "/purchase/lines", [{"line_id": ""}] * 500))
    assert 0 < len(assert_problem(answer, 422)["errors"]) <= 100
    assert inside.dump() == before


@pytest.mark.parametrize("depth", [10, 200, 990, 1010, 2_000, 9_900, 20_000])
def test_no_depth_of_nesting_gets_through_to_an_internal_error(inside: Target, depth: int) -> None:
    """Between what is read and what is refused lie several recursion limits."""
    before = inside.dump()
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        nested = opening * depth + "1" + closing * depth
        for name, (method, path, body) in BODIES.items():
            field = {"awards": "attributes", "program": "rules"}.get(name, "surprise")
            text = json.dumps({key: value for key, value in body.items() if key != field})
            content = f'{text[:-1]}, "{field}": {nested}}}'.encode()
            assert_problem(inside.send(method, path, content), (400, 422))
    assert inside.dump() == before


def test_the_largest_values_that_fit_are_no_fault(inside: Target) -> None:
    """500 lines of the largest amount: more points than a member may hold, refused as that."""
    fresh = furnished(inside.http, inside.headers, lambda _: None, "fresh")
    every_cent = {"rule_id": "all", "trigger": "purchase", "earn": {"points": 1, "per_amount": 1}}
    document = shop(program_id=fresh.program_id, limits=[], expiry=[], rules=[every_cent])
    assert fresh.post("program", document).status_code == 200

    lines = [{**LINE, "line_id": str(number), "amount": 10**15} for number in range(500)]
    answer = fresh.post("awards", put(AWARD, "/purchase/lines", lines))
    assert assert_problem(answer, 409)["code"] == "too_many_points"

    answer = fresh.post("awards", AWARD | {"event_id": "x" * 128, "channel": "y" * 128})
    assert (answer.status_code, answer.json()["points"]) == (201, 500)

    paid = put(AWARD, "/purchase/paid_with_points", 10**15) | {"event_id": "paid with points"}
    answer = fresh.post("awards", paid)
    assert (answer.status_code, answer.json()["points"]) == (201, 0)


# What HTTP cannot say, said to the handlers


def directly(target: Target, method: str, path: str, **more: Any) -> dict[str, Any]:
    route = f"{method} {path.replace('{base}', '/v1/programs/{program_id}')}"
    route = route.replace("/mila", "/{member_id}")
    module = {
        "awards": "award", "reversals": "award", "redemptions": "redeem", "check-ins": "check_in",
        "members": "members", "{member_id}": "members", "program": "admin",
    }[route.rpartition("/")[2]]  # fmt: skip
    claims = {"scope": "loyalty/admin"}
    event = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"idempotency-key": "key-1", "if-match": "1"},
        "requestContext": {"authorizer": {"jwt": {"claims": claims, "scopes": None}}},
        "pathParameters": {"program_id": target.program_id, "member_id": "mila"},
        "isBase64Encoded": False,
    } | more
    answer: dict[str, Any] = importlib.import_module(module).handler(event, Context("bad", 1769, 9))
    return answer


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(
    "content",
    [
        {"body": "!!!", "isBase64Encoded": True},
        {"body": "e30", "isBase64Encoded": True},  # {} without its padding
        {"body": "e30=\n", "isBase64Encoded": True},
        {"body": "e30=e30=", "isBase64Encoded": True},
        {"body": "e3_-", "isBase64Encoded": True},
        {"body": "é===", "isBase64Encoded": True},
        {"body": "/////w==", "isBase64Encoded": True},
        {"body": '{"surprise": "\ud800"}'},
        {"body": ""},
        {"body": None},
        {},
    ],
    ids=str,
)
def test_what_is_no_base64_or_no_unicode_is_refused_by_the_handler(
    inside: Target, name: str, content: dict[str, Any]
) -> None:
    before = inside.dump()
    method, path, _ = BODIES[name]
    answer = directly(inside, method, path, **content)
    assert answer["statusCode"] == 400
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    problem = json.loads(answer["body"])
    assert (problem["status"], problem["code"]) == (400, "invalid_json")
    assert inside.dump() == before


def test_a_problem_never_repeats_what_was_sent(inside: Target) -> None:
    """What does not fit may be anything, a card number too: it is named by its place alone."""
    secret = "4111-1111-1111-1111"
    for name, (_, _, body) in BODIES.items():
        for pointer, value in leaves(body):
            if not isinstance(value, dict | list):
                answer = inside.post(name, put(body, pointer, [secret]))
                assert answer.status_code == 422
                assert secret not in answer.text, f"{name}{pointer}"


@pytest.mark.parametrize("characters", [129, 3000])
@pytest.mark.parametrize(
    ("kind", "command", "code"),
    [
        ("a", "adjustments/{}/approve", "adjustment_not_found"),
        ("a", "adjustments/{}/refuse", "adjustment_not_found"),
        ("r", "redemptions/{}/capture", "redemption_not_found"),
        ("r", "redemptions/{}/cancel", "redemption_not_found"),
    ],
)
def test_an_id_longer_than_any_key_is_an_id_of_nothing(
    inside: Target, kind: str, command: str, code: str, characters: int
) -> None:
    answer = inside.send("POST", "{base}/" + command.format(id_of(kind, "k" * characters)))
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_name_of_megabytes_is_cut_where_it_is_pointed_at(inside: Target) -> None:
    event = {"event_id": "e", "type": "review", "member_id": "mila"}
    content = json.dumps({"event": event, "~" * 4_900_000: 1}).encode()
    answer = inside.send("POST", "{base}/simulate", content)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert answer.json()["errors"][0]["pointer"] == "/" + "~0" * 200


@pytest.mark.parametrize("digits", ["1", "123", "123456", "1234567", "123456789"])
def test_a_time_may_be_finer_than_what_is_kept_of_it(digits: str) -> None:
    kept = int(digits[:3].ljust(3, "0"))
    assert instant(f"2026-01-05T10:00:00.{digits}Z") == 1767607200000 + kept
