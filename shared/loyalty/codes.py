"""Codes that people scan, show and share: signed check-in codes, vouchers, referral codes.

Secrets have versions. The highest signs; all of them verify, so that what was printed or handed
out before a rotation stays good. Every purpose has its own key, derived from the secret.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no letter that is read as another one over a counter."""

SIGNATURE_CHARACTERS = 16
"""96 bits of HMAC-SHA256: out of reach of guessing, and the QR code stays small."""
VOUCHER_CHARACTERS = 20
"""100 bits."""
REFERRAL_CHARACTERS = 10
"""50 bits: short enough to spell; a collision is met with the next salt."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets by version, at least one."""

    versions: Mapping[int, bytes]

    @property
    def current(self) -> int:
        return max(self.versions)

    def mac(self, version: int, purpose: str, *parts: str) -> bytes:
        key = hmac.digest(self.versions[version], purpose.encode(), "sha256")
        return hmac.digest(key, "\0".join(parts).encode(), "sha256")


@dataclass(frozen=True, slots=True)
class CheckInCode:
    """What a static code says: where, and which generation of posters it is from."""

    program_id: str
    location_id: str
    code_version: int


def check_in_code(secrets: Secrets, code: CheckInCode) -> str:
    """The signed code of a location's poster, safe in a URL path."""
    payload = f"{code.program_id}.{code.location_id}.{code.code_version}"
    return f"{payload}.{_signature(secrets, secrets.current, payload)}"


def read_check_in_code(secrets: Secrets, text: str) -> CheckInCode | None:
    """What the code says if it was signed by any of our secrets; None otherwise.

    The same work is done for every text, so that the time tells nothing.
    """
    payload, _, signature = text.rpartition(".")
    genuine = False
    for version in secrets.versions:
        expected = _signature(secrets, version, payload)
        genuine |= hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
    parts = payload.split(".")
    if not genuine or len(parts) != 3 or not parts[2].isdecimal():
        return None
    return CheckInCode(parts[0], parts[1], int(parts[2]))


def _signature(secrets: Secrets, version: int, payload: str) -> str:
    digest = secrets.mac(version, "check-in", payload)
    return urlsafe_b64encode(digest).decode()[:SIGNATURE_CHARACTERS]


def voucher_code(secrets: Secrets, version: int, program_id: str, redemption_id: str) -> str:
    """The voucher of a redemption, derived so that a replay can show it again: the table keeps
    only its hash. Four groups of five characters, 100 bits."""
    characters = _base32(
        secrets.mac(version, "voucher", program_id, redemption_id), VOUCHER_CHARACTERS
    )
    return "-".join(characters[i : i + 5] for i in range(0, VOUCHER_CHARACTERS, 5))


def voucher_hash(code: str) -> str:
    """Under which a voucher is looked up, however it was typed."""
    normal = code.upper().replace("-", "").replace(" ", "")
    return sha256(f"voucher {normal}".encode("utf-8", "replace")).hexdigest()[:40]


def referral_code(program_id: str, member_id: str, salt: int) -> str:
    """A member's code for friends; another salt gives another one."""
    digest = sha256(f"referral\0{program_id}\0{member_id}\0{salt}".encode()).digest()
    return _base32(digest, REFERRAL_CHARACTERS)


def _base32(digest: bytes, characters: int) -> str:
    number = int.from_bytes(digest)
    bits = len(digest) * 8
    return "".join(_ALPHABET[number >> (bits - 5 * i) & 31] for i in range(1, characters + 1))
