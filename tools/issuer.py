"""Sign-in on this machine: an OpenID Connect issuer, and the check of the cloud's authorizer.

Its tokens are what the user pool's would be: RS256, `client_id` instead of `aud`, scopes
`loyalty/…`, the claims `member_id` and `program_ids`. They live on real time, whatever the test
clock says.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "local-page"
SCOPES = ("admin", "staff", "merchant", "member")
# A day is the longest that a user pool lets a token live.
TOKEN_SECONDS = 24 * 3600
SIGN_IN_SECONDS = 3600
CODE_SECONDS = 300
# Sign-ins begun and not ended are forgotten, oldest first.
MAX_CODES = 1000

MEMBER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# RFC 7636: 43 to 128 of these; SHA-256 in base64url has always 43.
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


class Unauthorized(Exception):
    """No token, or none that holds: 401. The text names the reason."""


class Forbidden(Exception):
    """The token holds, and has none of the scopes of which one is needed: 403."""


class InvalidGrant(Exception):
    """The code of a sign-in, or what comes with it, does not fit: 400."""


@dataclass(frozen=True, slots=True)
class Grant:
    """An accepted token: its claims as the cloud hands them on, all strings, and its scopes."""

    claims: dict[str, str]
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Code:
    member_id: str
    challenge: str
    redirect_uri: str
    client_id: str
    ends: float


class Issuer:
    """The issuer at `url`; its key is kept at `key`, so that tokens outlive a restart."""

    def __init__(self, key: Path, url: str, client_id: str = CLIENT_ID) -> None:
        self.url = url
        self.client_id = client_id
        self._key = _load_or_make(key)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        # RFC 7638: the hash of the members that make the key, in this order and without spaces.
        needed = json.dumps(
            {name: public[name] for name in ("e", "kty", "n")}, separators=(",", ":")
        )
        self._kid = _base64url(hashlib.sha256(needed.encode()).digest())
        self._jwk = {name: public[name] for name in ("kty", "n", "e")} | {
            "kid": self._kid,
            "alg": "RS256",
            "use": "sig",
        }
        self._codes: dict[str, _Code] = {}
        self._lock = threading.Lock()

    def token(
        self,
        scopes: Collection[str],
        member_id: str | None = None,
        program_ids: Collection[str] | None = None,
        seconds: int = TOKEN_SECONDS,
        subject: str | None = None,
    ) -> str:
        """A signed access token; `scopes` are the short names, `subject` is whose it is: the
        member's, or the developer's."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "sub": subject or member_id or "local-developer",
            "client_id": self.client_id,
            "token_use": "access",
            "scope": " ".join(f"loyalty/{scope}" for scope in scopes),
            "iat": now,
            "exp": now + seconds,
            "jti": str(uuid.uuid4()),
        }
        if member_id is not None:
            claims["member_id"] = member_id
        if program_ids is not None:
            claims["program_ids"] = " ".join(program_ids)
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._kid})

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        return {"keys": [self._jwk]}

    def configuration(self) -> dict[str, Any]:
        """OpenID Connect discovery."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/.well-known/jwks.json",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", *(f"loyalty/{scope}" for scope in SCOPES)],
        }

    def code(self, member_id: str, challenge: str, redirect_uri: str, client_id: str) -> str:
        """A code for one sign-in of `member_id`, good for five minutes and once."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._codes) >= MAX_CODES:
                del self._codes[next(iter(self._codes))]
            self._codes[code] = _Code(
                member_id, challenge, redirect_uri, client_id, time.monotonic() + CODE_SECONDS
            )
        return code

    def exchange(self, code: str, verifier: str, redirect_uri: str, client_id: str) -> str:
        """The member's token for a code. Raises InvalidGrant; the code is used up either way."""
        with self._lock:
            known = self._codes.pop(code, None)
        if known is None or known.ends < time.monotonic():
            raise InvalidGrant("the code is unknown, used or too old")
        if (redirect_uri, client_id) != (known.redirect_uri, known.client_id):
            raise InvalidGrant("redirect_uri or client_id is not that of the code")
        if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(
            _base64url(hashlib.sha256(verifier.encode()).digest()), known.challenge
        ):
            raise InvalidGrant("the code_verifier does not fit the code_challenge")
        return self.token(["member"], known.member_id, seconds=SIGN_IN_SECONDS)


def is_challenge(text: str) -> bool:
    """Whether `text` can be an S256 challenge."""
    return _CHALLENGE.fullmatch(text) is not None


class Authorizer:
    """The JWT authorizer of an HTTP API: the same checks, in the cloud's order.

    `jwks` are the issuer's keys, `audience` the accepted values of `aud` or, in a token without it,
    of `client_id`.
    """

    def __init__(self, issuer: str, jwks: dict[str, Any], audience: Sequence[str]) -> None:
        self._issuer = issuer
        self._keys = {key["kid"]: jwt.PyJWK(key) for key in jwks["keys"]}
        self._audience = frozenset(audience)

    def check(self, authorization: str | None, scopes: Collection[str]) -> Grant:
        """What the header `Authorization` grants; `scopes`: one of them is enough, none: any token.

        Raises Unauthorized or Forbidden.
        """
        if not authorization:
            raise Unauthorized("no token")
        scheme, _, rest = authorization.partition(" ")
        # API Gateway takes the token with "Bearer" before it and without.
        token = rest.strip() if scheme.lower() == "bearer" else authorization.strip()
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            if kid not in self._keys:
                raise Unauthorized("the token's kid is not a key of the issuer")
            claims = jwt.decode(
                token,
                self._keys[kid],
                algorithms=["RS256"],
                issuer=self._issuer,
                options={"require": ["exp", "iss"], "verify_aud": False},
            )
        except (jwt.InvalidTokenError, RecursionError) as error:
            # RecursionError: a header of thousands of brackets.
            raise Unauthorized(str(error) or "the token is not valid") from error
        audience = claims.get("aud", claims.get("client_id"))
        named = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(each, str) and each in self._audience for each in named):
            raise Unauthorized("the token does not have a valid audience")
        scope = claims.get("scope", claims.get("scp", ""))
        granted = scope.split() if isinstance(scope, str) else scope
        if scopes and not (isinstance(granted, list) and set(scopes) & set(map(str, granted))):
            raise Forbidden("the token has none of the scopes " + " ".join(scopes))
        return Grant(
            {name: _as_string(value) for name, value in claims.items()},
            tuple(each for each in scopes if each in granted),
        )


def _as_string(value: Any) -> str:
    """A claim as API Gateway hands it on: `true`, `12`, `[a b]`."""
    match value:
        case str():
            return value
        case list():
            return "[" + " ".join(_as_string(each) for each in value) + "]"
        case _:
            return json.dumps(value)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _load_or_make(path: Path) -> rsa.RSAPrivateKey:
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        # Written beside it first: a process that is killed leaves no half of a key.
        fresh = path.with_name(f"{path.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(text)
        fresh.rename(path)
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded
