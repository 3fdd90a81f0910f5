"""Every route asks who is there, but for the few that are for everyone; members reach themselves.

What the gateway answers by itself (401, and 403 for a scope) promises only its status.
"""

from __future__ import annotations

import base64
import hmac
import importlib
import json
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import jwt
import pytest
from conftest import Service
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loyalty.edge import App
from tests.programs import shop
from tools.issuer import Issuer
from tools.runtime import Context
from tools.template import ROOT, Route, Template

TEMPLATE = Template.load()
OPEN = {"GET /health", "GET /openapi.json", "GET /program.schema.json", "GET /c/{code}"}
GUARDED = [route for route in TEMPLATE.routes if route.key not in OPEN]
SCOPES = {"loyalty/admin", "loyalty/staff", "loyalty/merchant", "loyalty/member"}
BODIES: dict[str, dict[str, Any]] = {
    "awards": {"event_id": "e", "type": "review", "member_id": "theo"},
    "reversals": {"event_id": "e", "refund_id": "r"},
    "redemptions": {"points": 1},
    "check-ins": {"code": "no-code"},
    "transfers": {"to_member_id": "noor", "points": 1},
    "adjustments": {"member_id": "theo", "points": 1, "reason_code": "none"},
    "merge": {"into_member_id": "nobody"},
}
"""A body that fits, by the end of the path; elsewhere an empty one."""

type World = tuple[Service, str]

every_guarded_route = pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.key)


@pytest.fixture(scope="module")
def world(service: Service) -> World:
    """The service, and a program in it with the members mila, noor and theo."""
    program_id = f"doors-{uuid.uuid4().hex[:8]}"
    base = f"/v1/programs/{program_id}"
    admin = service.headers("admin")
    document = shop(program_id=program_id)
    service.http.put(f"{base}/program", json=document, headers=admin).raise_for_status()
    for member_id in ("mila", "noor", "theo"):
        body = {"member_id": member_id}
        service.http.post(f"{base}/members", json=body, headers=admin).raise_for_status()
    return service, program_id


@pytest.fixture(scope="module")
def issuer(world: World) -> Issuer:
    """The issuer whose tokens the service trusts, by the key that it keeps."""
    service, _ = world
    return Issuer(service.data / "issuer.pem", f"{service.url}/dev")


def knock(
    world: World, route: Route, token: str | None, *, program_id: str | None = None
) -> httpx.Response:
    """Call the route for theo, with a body that fits where it wants one."""
    service, own = world
    path = route.path.format(
        program_id=program_id or own,
        member_id="theo",
        location_id="corner",
        code="no-code",
        redemption_id="r-bm9uZQ",
        adjustment_id="a-bm9uZQ",
    )
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    content = None
    if route.method in ("POST", "PUT", "PATCH"):
        content = json.dumps(BODIES.get(path.rpartition("/")[2], {}))
    return service.http.request(route.method, path, headers=headers, content=content)


def short(scopes: Any) -> list[str]:
    return [scope.removeprefix("loyalty/") for scope in sorted(scopes)]


def test_only_four_routes_are_open_to_everyone(world: World) -> None:
    assert {route.key for route in TEMPLATE.routes if route.scopes is None} == OPEN
    for route in TEMPLATE.routes:
        if route.key in OPEN:
            # A code that is none gets its page, which says so: no token is asked for.
            assert knock(world, route, None).status_code == (403 if "code" in route.path else 200)


@every_guarded_route
def test_without_a_token_there_is_no_answer(world: World, route: Route) -> None:
    answer = knock(world, route, None)
    assert (answer.status_code, set(answer.json())) == (401, {"message"})
    assert answer.headers["www-authenticate"].startswith("Bearer")


@every_guarded_route
def test_a_token_opens_the_routes_of_its_scopes_and_no_others(
    world: World, issuer: Issuer, route: Route
) -> None:
    assert route.scopes
    for scope in SCOPES:
        answer = knock(world, route, issuer.token(short([scope]), "theo"))
        if scope in route.scopes:
            assert answer.status_code not in (401, 500), scope
            # A forged code is a 403 too, but one that says so.
            assert answer.status_code != 403 or answer.json()["code"] == "code_invalid", scope
        else:
            assert (answer.status_code, set(answer.json())) == (403, {"message"}), scope
    assert knock(world, route, issuer.token([], "theo")).status_code == 403
    assert knock(world, route, issuer.token(["root", "ADMIN", "*"])).status_code == 403


type Claims = dict[str, Any]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@cache
def strangers_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def forgeries(own: bytes, good: str) -> dict[str, str]:
    """Tokens that would open the doors of a good one if one thing about them did not matter.

    `own` is the private key that has signed the good one.
    """
    claims: Claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    stranger = strangers_key()
    public = serialization.load_pem_private_key(own, None).public_key()
    public_pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def signed(changes: Claims, key: Any = own, kid: str = header["kid"]) -> str:
        wanted = {k: v for k, v in (claims | changes).items() if v is not None}
        return jwt.encode(wanted, key, algorithm="RS256", headers={"kid": kid})

    def raw(head: Claims, body: Claims, signature: bytes) -> str:
        parts = (json.dumps(head).encode(), json.dumps(body).encode(), signature)
        return ".".join(base64url(part) for part in parts)

    head, body, signature = good.split(".")
    other_body = raw({}, claims | {"member_id": "noor"}, b"").split(".")[1]
    # The trap of libraries that take the public key for a shared secret.
    hs256 = raw({"alg": "HS256", "typ": "JWT", "kid": header["kid"]}, claims, b"").rstrip(".")
    hmac_signature = hmac.digest(public_pem, hs256.encode(), "sha256")
    other_signature = ("B" if signature[0] == "A" else "A") + signature[1:]
    now = int(time.time())
    return {
        "expired": signed({"exp": now - 1, "iat": now - 100}),
        "without an end": signed({"exp": None}),
        "of a time to come": signed({"nbf": now + 3600}),
        "for another audience": signed({"client_id": "another-app"}),
        "for another audience by aud": signed({"aud": "another-app"}),
        "for no audience": signed({"client_id": None}),
        "of another issuer": signed({"iss": "https://issuer.example"}),
        "of no issuer": signed({"iss": None}),
        "of a stranger's key": signed({}, stranger),
        "of a stranger's key under its own name": signed({}, stranger, "stranger"),
        "unsigned": raw({"alg": "none", "typ": "JWT", "kid": header["kid"]}, claims, b""),
        "signed by the public key": f"{hs256}.{base64url(hmac_signature)}",
        "with another signature": f"{head}.{body}.{other_signature}",
        "with other claims": f"{head}.{other_body}.{signature}",
        "without its signature": f"{head}.{body}.",
        "cut off": good[:-10],
        "no token": "letmein",
    }


def test_a_token_that_does_not_hold_opens_no_door(world: World, issuer: Issuer) -> None:
    service, _ = world
    own = (service.data / "issuer.pem").read_bytes()
    good = issuer.token(short(SCOPES), "theo")
    for what, token in forgeries(own, good).items():
        for route in GUARDED:
            answer = knock(world, route, token)
            assert (answer.status_code, set(answer.json())) == (401, {"message"}), (
                f"{route.key} with a token {what}"
            )


def test_the_word_bearer_is_no_token(world: World) -> None:
    service, program_id = world
    for header in ("Bearer", "Basic YWRtaW46YWRtaW4=", "bearer bearer", "null"):
        answer = service.http.get(
            f"/v1/programs/{program_id}/program", headers={"Authorization": header}
        )
        assert answer.status_code == 401, header


# The handlers ask again: a route that the template guards badly is still no open door.


def functions() -> dict[str, App]:
    return {
        route: module.handler
        for path in (ROOT / "functions").glob("*.py")
        if isinstance((module := importlib.import_module(path.stem)).handler, App)
        for route in module.handler.routes
    }


def asked_directly(route: str, authorizer: dict[str, Any]) -> tuple[int, str]:
    """(status, code) of the handler, called around the gateway."""
    event = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"idempotency-key": "k"},
        "requestContext": {"requestId": "r", "domainName": "points.example", **authorizer},
        "pathParameters": {"program_id": "doors", "member_id": "mila", "location_id": "corner"},
        "isBase64Encoded": False,
    }
    answer = functions()[route](event, Context("doors", 1769, 10))
    return answer["statusCode"], json.loads(answer["body"])["code"]


def claims(**values: str) -> dict[str, Any]:
    return {"authorizer": {"jwt": {"claims": values, "scopes": None}}}


@every_guarded_route
def test_a_handler_asks_for_the_scope_itself(route: Route) -> None:
    assert route.scopes
    assert asked_directly(route.key, {}) == (403, "forbidden")
    assert asked_directly(route.key, claims(sub="x")) == (403, "forbidden")
    for scope in (SCOPES - set(route.scopes)) | {"admin", "loyalty/", "loyalty/adminx", "openid"}:
        assert asked_directly(route.key, claims(scope=scope)) == (403, "forbidden"), scope
    for programs in ("", "other", "[other]", "[other another]", "door doorss"):
        narrowed = claims(scope=" ".join(route.scopes), member_id="mila", program_ids=programs)
        assert asked_directly(route.key, narrowed) == (403, "forbidden"), programs


def test_the_handlers_want_the_scopes_that_the_template_wants() -> None:
    apps = functions()
    for route in TEMPLATE.routes:
        roles = apps[route.key].routes[route.key].roles
        assert {f"loyalty/{role}" for role in roles} == set(route.scopes or ())


def test_the_routes_for_developers_are_in_no_function() -> None:
    assert not [route for route in functions() if "/dev" in route]
    assert not [route for route in TEMPLATE.routes if "/dev" in route.path]


# Claims narrow a token


@every_guarded_route
def test_a_token_for_some_programs_reaches_no_other(
    world: World, issuer: Issuer, route: Route
) -> None:
    assert route.scopes
    _, program_id = world
    for scope in route.scopes:
        other = issuer.token(short([scope]), "theo", [f"{program_id}x", "another"])
        answer = knock(world, route, other)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        own = issuer.token(short([scope]), "theo", ["another", program_id])
        answer = knock(world, route, own)
        assert answer.status_code != 403 or answer.json()["code"] == "code_invalid"


def test_a_program_that_is_not_there_is_no_different_to_a_narrowed_token(
    world: World, issuer: Issuer
) -> None:
    service, _ = world
    headers = {"Authorization": f"Bearer {issuer.token(['admin'], None, ['another'])}"}
    there, not_there = (
        service.http.get(f"/v1/programs/{program}/program", headers=headers).json()
        | {"request_id": ""}
        for program in (world[1], "no-such-program")
    )
    assert there == not_there


@pytest.fixture(scope="module")
def mila(world: World, issuer: Issuer) -> Callable[..., httpx.Response]:
    """A function that sends a request with mila's token: `mila("GET", "/members/noor")`."""
    service, program_id = world
    token = issuer.token(["member"], "mila")

    def send(method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": uuid.uuid4().hex}
        return service.http.request(
            method, f"/v1/programs/{program_id}{path}", json=body, headers=headers
        )

    return send


ABOUT_A_MEMBER: list[tuple[str, str, Any]] = [
    ("GET", "/members/{}", None),
    ("PATCH", "/members/{}", {"name": "Mine"}),
    ("GET", "/members/{}/balance", None),
    ("GET", "/members/{}/balance?as_of=2026-01-01T00:00:00Z", None),
    ("GET", "/members/{}/entries", None),
    ("GET", "/members/{}/entries?limit=1&cursor=MS4x", None),
    ("POST", "/redemptions", {"member_id": "{}", "points": 1}),
    ("POST", "/check-ins", {"member_id": "{}", "code": "no-code"}),
]


@pytest.mark.parametrize(
    ("method", "path", "body"), ABOUT_A_MEMBER, ids=[" ".join(each[:2]) for each in ABOUT_A_MEMBER]
)
def test_a_member_cannot_tell_whether_another_one_exists(
    mila: Callable[..., httpx.Response], method: str, path: str, body: Any
) -> None:
    def about(member_id: str) -> httpx.Response:
        named = body and {k: v.replace("{}", member_id) if k == "member_id" else v
                          for k, v in body.items()}  # fmt: skip
        return mila(method, path.format(member_id), named)

    exists, does_not, nearly = about("noor"), about("nobody"), about("Mila")
    for answer in (exists, does_not, nearly):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert answer.json() | {"request_id": ""} == exists.json() | {"request_id": ""}
        # Nothing was looked up either.
        assert answer.headers["loyalty-read-units"] == "0"
        assert answer.headers["loyalty-write-units"] == "0"


def test_a_member_reaches_itself(mila: Callable[..., httpx.Response]) -> None:
    assert mila("GET", "/members/mila").json()["member_id"] == "mila"
    assert mila("GET", "/members/mila/balance").json()["available"] == 50
    assert mila("GET", "/members/mila/entries").json()["items"][0]["points"] == 50
    assert mila("PATCH", "/members/mila", {"name": "Mila"}).json()["name"] == "Mila"
    assert mila("POST", "/redemptions", {"points": 1}).json()["member_id"] == "mila"
    named = mila("POST", "/redemptions", {"points": 1, "member_id": "mila"})
    assert (named.status_code, named.json()["balance"]) == (201, 48)


@pytest.mark.parametrize("groups", [["vip"], [], None])
def test_a_member_does_not_choose_its_groups(
    mila: Callable[..., httpx.Response], groups: Any
) -> None:
    answer = mila("PATCH", "/members/mila", {"groups": groups, "name": "Sneaky"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    after = mila("GET", "/members/mila").json()
    assert after["groups"] == []
    assert after.get("name") != "Sneaky", "a refused command changes nothing at all"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/members", {"member_id": "new"}),
        ("POST", "/awards", {"event_id": "mine", "type": "review", "member_id": "mila"}),
        ("POST", "/reversals", {"event_id": "mine", "refund_id": "r"}),
        ("PUT", "/program", shop()),
        ("GET", "/locations/corner/code", None),
        ("GET", "/locations/corner/poster.svg", None),
    ],
)
def test_a_member_does_not_do_what_the_shop_does(
    mila: Callable[..., httpx.Response], method: str, path: str, body: Any
) -> None:
    assert mila(method, path, body).status_code == 403


def test_a_members_token_that_names_nobody_reaches_nobody(world: World, issuer: Issuer) -> None:
    service, program_id = world
    headers = {"Authorization": f"Bearer {issuer.token(['member'])}", "Idempotency-Key": "nobody"}
    base = f"/v1/programs/{program_id}"
    for path in ("/members/mila", "/members/mila/balance", "/members/mila/entries"):
        assert service.http.get(base + path, headers=headers).status_code == 403
    for body in ({"points": 1}, {"points": 1, "member_id": "mila"}):
        answer = service.http.post(f"{base}/redemptions", json=body, headers=headers)
        assert answer.status_code in (403, 422)
    assert service.http.get(f"{base}/program", headers=headers).status_code == 200


def test_a_member_who_works_in_the_shop_acts_for_others(world: World, issuer: Issuer) -> None:
    service, program_id = world
    token = issuer.token(["member", "merchant"], "mila")
    answer = service.http.get(
        f"/v1/programs/{program_id}/members/noor/balance",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert (answer.status_code, answer.json()["member_id"]) == (200, "noor")


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("GET", "/export")])
def test_two_scopes_together_open_nothing_that_neither_opens(
    world: World, issuer: Issuer, method: str, path: str
) -> None:
    # A till reaches every member on other routes, a member itself on this one.
    service, program_id = world
    headers = {"Authorization": f"Bearer {issuer.token(['member', 'merchant'], 'mila')}"}
    for other in ("noor", "nobody"):
        url = f"/v1/programs/{program_id}/members/{other}{path}"
        answer = service.http.request(method, url, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    admin = service.headers("admin")
    assert service.http.get(f"/v1/programs/{program_id}/members/noor", headers=admin).is_success


def test_tokens_live_on_real_time_whatever_the_test_clock_says(
    world: World, issuer: Issuer
) -> None:
    service, program_id = world
    headers = {"Authorization": f"Bearer {issuer.token(['admin'])}"}
    path = f"/v1/programs/{program_id}/program/versions"
    try:
        for now in ("2099-01-01T00:00:00Z", "2020-01-01T00:00:00Z"):
            service.set_clock(now)
            assert service.http.get(path, headers=headers).status_code == 200, now
    finally:
        service.set_clock(None)
