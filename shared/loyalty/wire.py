"""How accounts and entries stand in DynamoDB: the one place that knows the short names.

The price of a write is its size, so names are short, numbers of lots and counters are base 36 and
dates are differences. docs/tables.md shows an item of each kind, taken apart. Everything here is
pure and exact: what is read is what was written, and an entry's hash covers the stored bytes.

Account: pk, n seq, l lots, q pending, o holds, d debt, t lifetime, c counters, k cooldowns,
g groups, j joined_on, z joined_on as MMDD, y birthday as MMDD, f referrer, s status,
m merged_into, b qualifying, i tier, v tier_until, e pinned, p pinned_until, w noticed_on,
a active_on, u due_on, r recorded_at, h hash of the last entry.

Entry: pk, sk, m member, n seq, k kind, p points, b balance, o occurred_at (absent: recorded_at),
r recorded_at, v version, w reason, c changes, x explanation, e event, a answer, f fingerprint,
s schema, h hash. Changes: p postings as [kind, on, lots, pending, debt, held, hold, told],
n counts, k cooldowns, l lifetime, a active_on, u due_on, g groups, j joined_on, f referrer,
s status, m merged_into, b qualifying, i tier, v tier_until, e pinned, o pinned_until,
w noticed_on.

Waiting (a refund that came before its purchase, an adjustment that was proposed): pk, sk, k kind,
r recorded_at, a refund or proposal, f fingerprint, s schema, h hash. It belongs to no member yet,
so it is in no index and in no chain; its hash follows nothing.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, cast

from loyalty.dates import Per, from_day_number
from loyalty.model import (
    NEVER,
    Account,
    Count,
    Counts,
    Entry,
    Hold,
    Kind,
    Posting,
    Status,
    Waiting,
)

type Item = dict[str, dict[str, Any]]
"""An item as DynamoDB's API has it: {"n": {"N": "7"}}."""

SCHEMA: Final = 1
"""Of entries. Every schema ever written stays readable."""

_KINDS: Final[dict[Kind, str]] = {
    "enrol": "n", "award": "a", "check_in": "c", "redeem": "r", "reverse": "v", "expire": "x",
    "referral": "f", "birthday": "b", "anniversary": "j",
    "activate": "y", "tier": "t", "update": "u",
    "hold": "h", "capture": "p", "cancel": "q", "lapse": "l",
    "transfer": "s", "adjust": "d", "merge": "m",
    "notice": "i",
    "block": "k", "unblock": "o", "close": "z", "erase": "e",
}  # fmt: skip
_KIND_OF: Final = {code: kind for kind, code in _KINDS.items()}
_PERS: Final[dict[Per, str]] = {"day": "d", "week": "w", "month": "m", "year": "y", "ever": "e"}
_PER_OF: Final = {code: per for per, code in _PERS.items()}
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_TOKEN: Final = 6
"""Characters of a counter's token."""


def member_key(program_id: str, member_id: str) -> str:
    """The partition of a member: its account, and its entries in the index."""
    return f"{program_id}#{member_id}"


def entry_key(program_id: str, partition: str, sort: str) -> Item:
    return {"pk": {"S": f"{program_id}#{partition}"}, "sk": {"S": sort}}


# Accounts


def account_item(account: Account) -> Item:
    """The whole account as an item; under 1 KB with 60 lots and 24 counters."""
    item: Item = {
        "pk": {"S": member_key(account.program_id, account.member_id)},
        "n": {"N": str(account.seq)},
        "r": {"N": str(account.recorded_at)},
        "h": {"B": account.hash},
    }
    for name, number in (("d", account.debt), ("t", account.lifetime)):
        if number:
            item[name] = {"N": str(number)}
    for name, day in (
        ("a", account.active_on),
        ("u", account.due_on),
        ("v", account.tier_until),
        ("p", account.pinned_until),
        ("w", account.noticed_on),
    ):
        if day is not None:
            item[name] = {"N": str(day)}
    for name, text in (
        ("l", _lots_text(account.lots)),
        ("q", _pending_text(account.pending)),
        ("o", _holds_text(account)),
        ("s", account.status),
        ("m", account.merged_into),
        ("c", _counters_text(account.counters)),
        ("b", _lots_text(account.qualifying)),
        ("f", account.referrer),
        ("i", account.tier),
        ("e", account.pinned),
        ("k", ",".join(f"{name}{_base36(at)}" for name, at in sorted(account.cooldowns.items()))),
    ):
        if text:
            item[name] = {"S": text}
    if account.joined_on is not None:
        item["j"] = {"N": str(account.joined_on)}
        joined = from_day_number(account.joined_on)
        item["z"] = {"N": str(joined.month * 100 + joined.day)}
    if account.birthday:
        item["y"] = {"N": str(account.birthday)}
    if account.groups:
        item["g"] = {"S": json.dumps(account.groups, ensure_ascii=False, separators=(",", ":"))}
    return item


def account_of(item: Item) -> Account:
    """The account that an item holds."""
    program_id, _, member_id = item["pk"]["S"].partition("#")
    return Account(
        program_id=program_id,
        member_id=member_id,
        seq=int(item["n"]["N"]),
        lots=tuple(_lots(_text(item, "l"))),
        pending=tuple(_pending(_text(item, "q"))),
        holds=tuple(_holds(_text(item, "o"))),
        status=cast("Status", _text(item, "s")),
        merged_into=_text(item, "m"),
        debt=_number(item, "d") or 0,
        lifetime=_number(item, "t") or 0,
        counters=_counters(_text(item, "c")),
        cooldowns={
            part[:_TOKEN]: int(part[_TOKEN:], 36) for part in _text(item, "k").split(",") if part
        },
        groups=tuple(json.loads(item["g"]["S"])) if "g" in item else (),
        joined_on=_number(item, "j"),
        birthday=_number(item, "y") or 0,
        referrer=_text(item, "f"),
        qualifying=tuple(_lots(_text(item, "b"))),
        tier=_text(item, "i"),
        tier_until=_number(item, "v"),
        pinned=_text(item, "e"),
        pinned_until=_number(item, "p"),
        noticed_on=_number(item, "w"),
        active_on=_number(item, "a"),
        due_on=_number(item, "u"),
        recorded_at=int(item["r"]["N"]),
        hash=bytes(item["h"]["B"]),
    )


def _lots_text(lots: Iterable[tuple[int, int]]) -> str:
    """`g8k:3c,v:1e,-:5`: the first day, then differences; `-` never expires."""
    parts, before = [], 0
    for day, points in lots:
        parts.append(f"{'-' if day == NEVER else _base36(day - before)}:{_base36(points)}")
        before = day
    return ",".join(parts)


def _lots(text: str) -> Iterable[tuple[int, int]]:
    before = 0
    for part in text.split(",") if text else ():
        day, _, points = part.partition(":")
        before = NEVER if day == "-" else before + int(day, 36)
        yield before, int(points, 36)


def _pending_text(pending: Iterable[tuple[int, int, int]]) -> str:
    """`g8k:9h:3c`: available_on, how many days later it expires, points."""
    return ",".join(
        f"{_base36(start)}:{'-' if end == NEVER else _base36(end - start)}:{_base36(points)}"
        for start, end, points in pending
    )


def _pending(text: str) -> Iterable[tuple[int, int, int]]:
    for part in text.split(",") if text else ():
        start, days, points = part.split(":")
        begins = int(start, 36)
        ends = NEVER if days == "-" else begins + int(days, 36)
        yield begins, ends, int(points, 36)


def _holds_text(account: Account) -> str:
    """`key#until#on#drew and kinds counted#reward#lots`, one after another; no key has a #."""
    return "#".join(
        f"{hold.key}#{_base36(hold.until)}#{_base36(hold.on)}#{hold.drew}{_pers_text(hold)}"
        f"#{hold.reward}#{_lots_text(lots)}"
        for hold, lots in account.holds
    )


def _holds(text: str) -> Iterable[tuple[Hold, tuple[tuple[int, int], ...]]]:
    parts = iter(text.split("#") if text else ())
    for key, until, on, drew, reward, lots in zip(*[parts] * 6, strict=True):
        pieces = drew.rstrip("".join(_PER_OF))
        counted = _pers(drew.removeprefix(pieces))
        hold = Hold(key, int(until, 36), int(on, 36), reward, int(pieces), counted)
        yield hold, tuple(_lots(lots))


def _pers_text(hold: Hold) -> str:
    return "".join(_PERS[per] for per in hold.counted)


def _pers(text: str) -> tuple[Per, ...]:
    return tuple(_PER_OF[code] for code in text)


def _counters_text(counters: Mapping[Per, Counts]) -> str:
    """`dfsa:Ab3_x15,Qq09Zz2;w…`: kind and window, then token and value."""
    return _windows_text((per, counts.window, counts.values) for per, counts in counters.items())


def _windows_text(windows: Iterable[tuple[Per, int, Mapping[str, int]]]) -> str:
    return ";".join(
        f"{_PERS[per]}{_base36(window)}:"
        + ",".join(f"{name}{_base36(value)}" for name, value in sorted(values.items()))
        for per, window, values in sorted(windows, key=lambda part: part[:2])
    )


def _counters(text: str) -> dict[Per, Counts]:
    return dict(_windows(text))


def _windows(text: str) -> Iterable[tuple[Per, Counts]]:
    for part in text.split(";") if text else ():
        window, _, values = part.partition(":")
        # A window without a value: everything that was counted in it was given back.
        named = {v[:_TOKEN]: int(v[_TOKEN:], 36) for v in values.split(",") if v}
        yield _PER_OF[window[0]], Counts(int(window[1:], 36), named)


def _counts_text(counts: Iterable[Count]) -> str:
    """What an entry adds to counters, as counters stand; what a hold that lapsed gives back may
    belong to an older window than what the command itself counts."""
    added: dict[tuple[Per, int], dict[str, int]] = {}
    for count in counts:
        values = added.setdefault((count.per, count.window), {})
        values[count.name] = values.get(count.name, 0) + count.by
    return _windows_text((per, window, values) for (per, window), values in added.items())


# Entries


def entry_item(entry: Entry) -> Item:
    """The entry as an item, its hash included."""
    item = _entry_body(entry)
    item["h"] = {"B": entry.hash}
    return item


def sealed_hash(entry: Entry, previous: bytes) -> bytes:
    """The hash that chains the entry to the one before: SHA-256 over that one's hash and the
    bytes to be stored, as canonical JSON of the item without its own hash."""
    return _hash(_entry_body(entry), previous)


def item_hash(item: Item, previous: bytes) -> bytes:
    """The hash that a stored item must have after `previous`."""
    return _hash({name: value for name, value in item.items() if name != "h"}, previous)


def _hash(body: Item, previous: bytes) -> bytes:
    text = json.dumps(
        body,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        default=lambda raw: b64encode(bytes(raw)).decode(),
    )
    return sha256(previous + text.encode()).digest()


def _entry_body(entry: Entry) -> Item:
    item: Item = {
        **entry_key(entry.program_id, entry.partition, entry.sort),
        "m": {"S": member_key(entry.program_id, entry.member_id)},
        "n": {"N": str(entry.seq)},
        "k": {"S": _KINDS[entry.kind]},
        "p": {"N": str(entry.points)},
        "b": {"N": str(entry.balance)},
        "r": {"N": str(entry.recorded_at)},
        "v": {"N": str(entry.version)},
        "s": {"N": str(SCHEMA)},
        "f": {"B": entry.fingerprint},
    }
    if entry.occurred_at != entry.recorded_at:
        item["o"] = {"N": str(entry.occurred_at)}
    if entry.reason:
        item["w"] = {"S": entry.reason}
    for name, value in (
        ("c", _changes(entry)),
        ("x", entry.explanation),
        ("e", entry.event),
        ("a", entry.answer),
    ):
        if value:
            item[name] = {"S": json.dumps(value, ensure_ascii=False, separators=(",", ":"))}
    return item


def entry_of(item: Item) -> Entry:
    """The entry that an item holds; from the index, without event, answer, fingerprint, hash."""
    program_id, _, member_id = item["m"]["S"].partition("#")
    changes = _json(item, "c") or {}
    recorded_at = int(item["r"]["N"])
    return Entry(
        program_id=program_id,
        member_id=member_id,
        seq=int(item["n"]["N"]),
        partition=item["pk"]["S"][len(program_id) + 1 :],
        sort=item["sk"]["S"],
        kind=_KIND_OF[item["k"]["S"]],
        version=int(item["v"]["N"]),
        recorded_at=recorded_at,
        occurred_at=int(item["o"]["N"]) if "o" in item else recorded_at,
        postings=tuple(_posting(row) for row in changes.get("p", ())),
        balance=int(item["b"]["N"]),
        lifetime=changes.get("l", 0),
        counts=tuple(
            Count(per, counts.window, name, by)
            for per, counts in _windows(changes.get("n", ""))
            for name, by in counts.values.items()
        ),
        cooldowns=changes.get("k", {}),
        active_on=changes.get("a"),
        due_on=changes.get("u"),
        groups=tuple(changes["g"]) if "g" in changes else None,
        joined_on=changes.get("j"),
        referrer=changes.get("f"),
        status=changes.get("s"),
        merged_into=changes.get("m"),
        qualifying=tuple((start, change) for start, change in changes.get("b", ())),
        tier=changes.get("i"),
        tier_until=changes.get("v"),
        pinned=changes.get("e"),
        pinned_until=changes.get("o"),
        noticed_on=changes.get("w"),
        reason=_text(item, "w"),
        event=_json(item, "e"),
        explanation=_json(item, "x"),
        answer=_json(item, "a"),
        fingerprint=bytes(item["f"]["B"]) if "f" in item else b"",
        hash=bytes(item["h"]["B"]) if "h" in item else b"",
    )


def _changes(entry: Entry) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if entry.postings:
        changes["p"] = [_posting_row(posting) for posting in entry.postings]
    if entry.counts:
        changes["n"] = _counts_text(entry.counts)
    if entry.cooldowns:
        changes["k"] = dict(entry.cooldowns)
    if entry.lifetime:
        changes["l"] = entry.lifetime
    if entry.active_on is not None:
        changes["a"] = entry.active_on
    if entry.due_on is not None:
        changes["u"] = entry.due_on
    profile = {
        "g": entry.groups,
        "j": entry.joined_on,
        "f": entry.referrer,
        "s": entry.status,
        "m": entry.merged_into,
        "b": entry.qualifying or None,
        "i": entry.tier,
        "v": entry.tier_until,
        "e": entry.pinned,
        "o": entry.pinned_until,
        "w": entry.noticed_on,
    }
    changes |= {name: value for name, value in profile.items() if value is not None}
    return changes


def _posting_row(posting: Posting) -> list[Any]:
    row: list[Any] = [
        _KINDS[posting.kind],
        posting.on,
        [[_dash(day), change] for day, change in posting.lots],
        [[start, _dash(end), change] for start, end, change in posting.pending],
        posting.debt,
        posting.held,
        _hold_row(posting.hold),
        [[_dash(day), points] for day, points in posting.told],
    ]
    while not row[-1]:
        row.pop()
    return row


def _hold_row(hold: Hold | None) -> list[Any]:
    if hold is None:
        return []
    return [hold.key, hold.until, hold.on, hold.reward, hold.drew, _pers_text(hold)]


def _hold(row: list[Any]) -> Hold | None:
    if not row:
        return None
    key, until, on, reward, drew, counted = row
    return Hold(key, until, on, reward, drew, _pers(counted))


def _posting(row: list[Any]) -> Posting:
    kind, on, lots, pending, debt, held, hold, told = row + [[], [], 0, 0, [], []][len(row) - 2 :]
    return Posting(
        _KIND_OF[kind],
        on,
        lots=tuple((_day(day), change) for day, change in lots),
        pending=tuple((start, _day(end), change) for start, end, change in pending),
        debt=debt,
        held=held,
        hold=_hold(hold),
        told=tuple((_day(day), points) for day, points in told),
    )


def _dash(day: int) -> int | str:
    return "-" if day == NEVER else day


def _day(stored: int | str) -> int:
    return NEVER if stored == "-" else int(stored)


# What waits: refunds for their purchase, adjustments for a second person


_WAITING: Final = "w"
_PROPOSED: Final = "g"


def waiting_item(waiting: Waiting) -> Item:
    """It stands in the ledger under the key of its event or command and belongs to no member."""
    item: Item = {
        **entry_key(waiting.program_id, waiting.partition, waiting.sort),
        "k": {"S": _WAITING if waiting.proposal is None else _PROPOSED},
        "r": {"N": str(waiting.recorded_at)},
        "f": {"B": waiting.fingerprint},
        "s": {"N": str(SCHEMA)},
    }
    said = waiting.refund if waiting.proposal is None else waiting.proposal
    if said is not None:
        item["a"] = {"S": json.dumps(said, ensure_ascii=False, separators=(",", ":"))}
    item["h"] = {"B": item_hash(item, b"")}
    return item


def is_waiting(item: Item) -> bool:
    """Whether an item of the ledger is no entry of a member: something waits there."""
    return item["k"]["S"] in (_WAITING, _PROPOSED)


def waiting_of(item: Item) -> Waiting:
    program_id, _, partition = item["pk"]["S"].partition("#")
    said, proposed = _json(item, "a"), item["k"]["S"] == _PROPOSED
    return Waiting(
        program_id=program_id,
        partition=partition,
        sort=item["sk"]["S"],
        recorded_at=int(item["r"]["N"]),
        refund=None if proposed else said,
        fingerprint=bytes(item["f"]["B"]),
        proposal=said if proposed else None,
    )


# Small readers


def _text(item: Item, name: str) -> str:
    return str(item[name]["S"]) if name in item else ""


def _number(item: Item, name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _json(item: Item, name: str) -> Any:
    return json.loads(item[name]["S"]) if name in item else None


def _base36(number: int) -> str:
    if number < 0:
        return "-" + _base36(-number)  # what an entry takes back from a counter
    if number < 36:
        return _DIGITS[number]
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text
