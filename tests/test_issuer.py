"""Tokens of this machine pass, and only they, and only with the right scope."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tools.issuer import Authorizer, Forbidden, InvalidGrant, Issuer, Unauthorized

URL = "http://127.0.0.1:8000/dev"
CALLBACK = "http://127.0.0.1:8000/c/signed-in"
STAFF = ("loyalty/admin", "loyalty/staff")
# RFC 7636, appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.fixture(scope="module")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("issuer") / "key.pem"


@pytest.fixture(scope="module")
def issuer(key_path: Path) -> Issuer:
    return Issuer(key_path, URL)


@pytest.fixture(scope="module")
def authorizer(issuer: Issuer) -> Authorizer:
    return Authorizer(issuer.url, issuer.jwks(), [issuer.client_id])


@pytest.fixture
def forge(issuer: Issuer) -> Any:
    """A function that signs any claims with the issuer's own key, or as told."""

    def sign(*, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        good = {
            "iss": URL,
            "client_id": issuer.client_id,
            "exp": int(time.time()) + 60,
            "scope": "loyalty/staff",
        }
        claims = {name: value for name, value in (good | claims).items() if value is not None}
        header = {"kid": issuer.jwks()["keys"][0]["kid"]} | (header or {})
        algorithm = header.get("alg", "RS256")
        return jwt.encode(claims, key or issuer._key, algorithm=algorithm, headers=header)

    return sign


def test_a_token_opens_what_its_scope_opens(issuer: Issuer, authorizer: Authorizer) -> None:
    grant = authorizer.check(f"Bearer {issuer.token(['staff'], 'ada', ['beans', 'tea'])}", STAFF)
    assert grant.scopes == ("loyalty/staff",)
    assert grant.claims["member_id"] == "ada"
    assert grant.claims["program_ids"] == "beans tea"
    assert grant.claims["scope"] == "loyalty/staff"


def test_claims_are_all_strings_as_the_cloud_hands_them_on(
    forge: Any, authorizer: Authorizer
) -> None:
    grant = authorizer.check(forge(groups=["a", "b"], verified=True, level=3), STAFF)
    assert grant.claims["groups"] == "[a b]"
    assert grant.claims["verified"] == "true"
    assert grant.claims["level"] == "3"
    assert all(isinstance(value, str) for value in grant.claims.values())


def test_the_token_may_stand_with_or_without_the_word_bearer(
    issuer: Issuer, authorizer: Authorizer
) -> None:
    token = issuer.token(["admin"])
    for header in (token, f"Bearer {token}", f"bearer {token}"):
        assert authorizer.check(header, STAFF).scopes == ("loyalty/admin",)


def test_one_of_the_scopes_is_enough_and_none_of_them_is_not(
    issuer: Issuer, authorizer: Authorizer
) -> None:
    assert authorizer.check(issuer.token(["member", "staff"]), STAFF)
    with pytest.raises(Forbidden):
        authorizer.check(issuer.token(["member"]), STAFF)
    with pytest.raises(Forbidden):
        authorizer.check(issuer.token([]), STAFF)


def test_a_route_without_scopes_takes_any_token_that_holds(
    issuer: Issuer, authorizer: Authorizer
) -> None:
    assert authorizer.check(issuer.token([]), ()).scopes == ()


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"iss": "https://elsewhere.example"}, id="of another issuer"),
        pytest.param({"iss": None}, id="without an issuer"),
        pytest.param({"client_id": "another"}, id="for another client"),
        pytest.param({"client_id": None}, id="for nobody"),
        pytest.param({"aud": "another"}, id="whose aud counts before its client_id"),
        pytest.param({"aud": ["another", 5]}, id="for several audiences, not ours"),
        pytest.param({"exp": 1}, id="that has ended"),
        pytest.param({"exp": None}, id="that never ends"),
        pytest.param({"nbf": 32503680000}, id="that has not begun"),
        pytest.param({"iat": 32503680000}, id="of the future"),
    ],
)
def test_a_token_is_refused(forge: Any, authorizer: Authorizer, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        authorizer.check(forge(**claims), STAFF)


def test_an_audience_is_accepted_in_the_place_of_a_client_id(
    forge: Any, authorizer: Authorizer, issuer: Issuer
) -> None:
    assert authorizer.check(forge(client_id=None, aud=["x", issuer.client_id]), STAFF)


def test_scopes_may_come_as_a_list_under_scp(forge: Any, authorizer: Authorizer) -> None:
    assert authorizer.check(forge(scope=None, scp=["loyalty/admin"]), STAFF)
    with pytest.raises(Forbidden):
        authorizer.check(forge(scope=7), STAFF)


def test_only_the_issuers_key_and_algorithm_sign(
    forge: Any, issuer: Issuer, authorizer: Authorizer
) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = issuer.jwks()["keys"][0]["n"]
    forged = [
        forge(key=other),
        forge(header={"kid": "another"}),
        forge(header={"kid": ""}),
        forge(header={"alg": "RS512"}),
        forge(header={"alg": "HS256"}, key=secret),
    ]
    for token in forged:
        with pytest.raises(Unauthorized):
            authorizer.check(token, STAFF)


def test_an_unsigned_or_changed_token_is_refused(issuer: Issuer, authorizer: Authorizer) -> None:
    header, payload, signature = issuer.token(["staff"]).split(".")

    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = jwt.decode(f"{header}.{payload}.{signature}", options={"verify_signature": False})
    none = encoded({"alg": "none", "kid": issuer.jwks()["keys"][0]["kid"]})
    for token in (
        f"{none}.{payload}.",
        f"{header}.{encoded(claims | {'scope': 'loyalty/admin'})}.{signature}",
        f"{header}.{payload}.",
    ):
        with pytest.raises(Unauthorized):
            authorizer.check(token, STAFF)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRhOng=",
        "a.b.c",
        "Bearer é.é.é",
        "." * 5000,
        base64.urlsafe_b64encode(b'{"alg":' + b"[" * 100_000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":"RS256","kid":["x"]}').decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"kid":' + b"9" * 5000 + b"}").decode() + ".e30.e30",
    ],
    ids=range(11),
)
def test_nonsense_is_refused_and_nothing_worse(authorizer: Authorizer, header: str | None) -> None:
    with pytest.raises(Unauthorized):
        authorizer.check(header, STAFF)


def test_tokens_outlive_a_restart(issuer: Issuer, key_path: Path) -> None:
    token = issuer.token(["admin"])
    again = Issuer(key_path, URL)
    assert Authorizer(again.url, again.jwks(), [again.client_id]).check(token, STAFF)
    assert key_path.stat().st_mode & 0o077 == 0, "the key is its owner's alone"


def test_a_code_and_its_verifier_give_the_members_token(
    issuer: Issuer, authorizer: Authorizer
) -> None:
    code = issuer.code("ada", CHALLENGE, CALLBACK, issuer.client_id)
    token = issuer.exchange(code, VERIFIER, CALLBACK, issuer.client_id)
    grant = authorizer.check(token, ["loyalty/member"])
    assert grant.claims["member_id"] == "ada"
    with pytest.raises(Forbidden):
        authorizer.check(token, STAFF)


def test_a_code_is_good_once_even_for_many_at_a_time(issuer: Issuer) -> None:
    code = issuer.code("ada", CHALLENGE, CALLBACK, issuer.client_id)
    together = threading.Barrier(8)
    given: list[str] = []

    def exchange() -> None:
        together.wait()
        with contextlib.suppress(InvalidGrant):
            given.append(issuer.exchange(code, VERIFIER, CALLBACK, issuer.client_id))

    threads = [threading.Thread(target=exchange) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 1


@pytest.mark.parametrize(
    ("verifier", "redirect_uri", "client_id"),
    [
        (VERIFIER[:-1] + "A", CALLBACK, "local-page"),
        (CHALLENGE, CALLBACK, "local-page"),
        ("short", CALLBACK, "local-page"),
        ("", CALLBACK, "local-page"),
        (VERIFIER, "http://127.0.0.1:8000/c/other", "local-page"),
        (VERIFIER, CALLBACK, "another"),
    ],
)
def test_a_code_that_does_not_fit_is_used_up_all_the_same(
    issuer: Issuer, verifier: str, redirect_uri: str, client_id: str
) -> None:
    code = issuer.code("ada", CHALLENGE, CALLBACK, issuer.client_id)
    with pytest.raises(InvalidGrant):
        issuer.exchange(code, verifier, redirect_uri, client_id)
    with pytest.raises(InvalidGrant):
        issuer.exchange(code, VERIFIER, CALLBACK, issuer.client_id)


def test_a_code_ends_after_five_minutes(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    code = issuer.code("ada", CHALLENGE, CALLBACK, issuer.client_id)
    later = time.monotonic() + 301
    monkeypatch.setattr("tools.issuer.time.monotonic", lambda: later)
    with pytest.raises(InvalidGrant):
        issuer.exchange(code, VERIFIER, CALLBACK, issuer.client_id)


def test_the_verifier_of_the_standard_fits_its_challenge() -> None:
    digest = hashlib.sha256(VERIFIER.encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == CHALLENGE
