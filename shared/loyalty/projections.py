"""What clients are shown: answers, balances, history, each derived from what is stored.

A first answer and its replay come from the same entry through the same function, so they cannot
differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, NotRequired, TypedDict, cast

from loyalty.codes import Secrets, voucher_code
from loyalty.commands import CHECK_IN_EVENT, Order
from loyalty.dates import (
    day_begins,
    day_number,
    from_day_number,
    from_milliseconds,
    local_date,
    milliseconds,
    rfc3339,
)
from loyalty.decisions import redemption_id
from loyalty.lots import advance, expiring
from loyalty.model import Account, Entry, Posting
from loyalty.program import Program
from loyalty.redeeming import discount
from loyalty.rules import Rulebook, decimal, explain, iso, limited_by
from loyalty.tiers import counted, tier_of

type Json = dict[str, Any]


class GrantedLot(TypedDict):
    """Points with one life. `expires_on` null: never; `available_on`: pending until then."""

    points: int
    expires_on: str | None
    available_on: NotRequired[str | None]


class Explained(TypedDict):
    """What one rule or offer gave, or why it did not."""

    rule_id: NotRequired[str]
    offer_id: NotRequired[str]
    name: str
    fired: bool
    reason: str
    points: int
    desired_points: int
    factors: list[Json]
    available_on: NotRequired[str | None]
    expires_on: NotRequired[str | None]


class Awarded(TypedDict):
    """An award. `points` is everything granted, of which `pending_points` is pending."""

    entry_id: str
    event_id: str | None
    member_id: str
    points: int
    desired_points: int
    pending_points: int
    balance: int
    lots: list[GrantedLot]
    limited_by: list[Json]
    explanation: list[Explained]


class CheckedIn(Awarded):
    """A check-in: an award, where, and from when the next one can count."""

    location_id: str
    next_allowed_at: NotRequired[str]


class Voucher(TypedDict):
    """A code to be used once; `expires_on` null: never."""

    code: str
    expires_on: str | None


class DiscountGiven(TypedDict):
    """Money off in minor units, or a percentage where no order said of what."""

    amount: NotRequired[int]
    percent: NotRequired[str]
    max_amount: NotRequired[int]
    currency: str


class Redeemed(TypedDict):
    """Points spent."""

    redemption_id: str
    entry_id: str
    member_id: str
    status: Literal["held", "captured", "cancelled", "lapsed"]
    points: int
    balance: int
    order_id: NotRequired[str]
    reward_id: NotRequired[str]
    voucher: NotRequired[Voucher]
    discount: NotRequired[DiscountGiven]


class Reversed(TypedDict):
    """Points taken back, and from where. What had expired or was forgiven is not in `points`."""

    entry_id: str
    event_id: str | None
    member_id: str
    points: int
    taken_from: list[GrantedLot]
    debt: int
    expired_points: int
    forgiven_points: int
    restored_points: int
    balance: int


class Enrolled(TypedDict):
    """A new member, and what registration gave."""

    member_id: str
    referral_code: str
    points: int
    balance: int
    explanation: list[Explained]


class ExpiringPoints(TypedDict):
    """Available points that go at 00:00 of that local date."""

    points: int
    expires_on: str | None


class Standing(TypedDict):
    """A member's tier: what the next one asks for (points, or spend in minor units), and the
    date on which this one is looked at again."""

    id: str
    name: str
    multiplier: str
    next_tier: NotRequired[str]
    points_to_next: NotRequired[int]
    until: NotRequired[str]


class Balance(TypedDict):
    """A member's points at `as_of`; `available` is never negative, `debt` stands apart."""

    member_id: str
    available: int
    pending: int
    held: int
    debt: int
    lifetime_points: int
    qualifying_points: int
    tier: Standing | None
    expiring: list[ExpiringPoints]
    as_of: str


class HistoryRow(TypedDict):
    """One posting of an entry; postings of one entry share `seq`."""

    entry_id: str
    seq: int
    kind: str
    points: int
    balance_after: int
    occurred_at: str
    recorded_at: str
    event_id: str | None
    reason: str | None
    explanation: NotRequired[list[Explained]]


class HistoryPage(TypedDict):
    """A page of history, newest first."""

    items: list[HistoryRow]
    next_cursor: str | None


def entry_id(entry: Entry) -> str:
    """Unique in a program: the member and the entry's number."""
    return f"{entry.member_id}.{entry.seq}"


def event_id(entry: Entry) -> str | None:
    """The event that the entry belongs to, if it does to one."""
    kind, _, name = entry.partition.partition("#")
    if kind == "e":
        return name
    return CHECK_IN_EVENT + name if entry.kind == "check_in" else None


def awarded(rulebook: Rulebook, entry: Entry) -> Awarded:
    """The answer to an award; `rulebook` is the version that the entry was decided under."""
    lots: list[GrantedLot] = []
    pending = 0
    for posting in entry.own_postings:
        lots += [GrantedLot(points=n, expires_on=iso(end)) for end, n in posting.lots]
        for start, end, n in posting.pending:
            pending += n
            lots.append({"points": n, "expires_on": iso(end), "available_on": iso(start)})
    explanation = entry.explanation or {"r": ""}
    return {
        "entry_id": entry_id(entry),
        "event_id": event_id(entry),
        "member_id": entry.member_id,
        "points": entry.points,
        "desired_points": explanation.get("d", entry.points),
        "pending_points": pending,
        "balance": entry.balance,
        "lots": lots,
        "limited_by": limited_by(rulebook, explanation),
        "explanation": explanation_of(rulebook, entry),
    }


def explanation_of(rulebook: Rulebook, entry: Entry) -> list[Explained]:
    """Why an award is what it is, rule by rule."""
    if entry.explanation is None:
        return []
    on = local_date(from_milliseconds(entry.occurred_at), rulebook.program.zone)
    rows = explain(rulebook, entry.explanation, entry.reason, day_number(on))
    return cast("list[Explained]", rows)


def checked_in(rulebook: Rulebook, entry: Entry) -> CheckedIn:
    """The answer to a check-in."""
    here: Json = {"location_id": entry.event["o"]}
    if entry.answer:
        here["next_allowed_at"] = rfc3339(entry.answer["n"])
    return cast("CheckedIn", awarded(rulebook, entry) | here)


def redeemed(rulebook: Rulebook, entry: Entry, secrets: Secrets) -> Redeemed:
    """The answer to a redemption; the voucher's code is derived again."""
    program = rulebook.program
    stored = entry.answer or {}
    answer: Redeemed = {
        "redemption_id": redemption_id(entry),
        "entry_id": entry_id(entry),
        "member_id": entry.member_id,
        "status": "captured",
        "points": -entry.points,
        "balance": entry.balance,
    }
    order = None
    if "o" in stored:
        order_id, amount = stored["o"]
        order = Order(order_id=order_id, amount=amount, currency=program.currency)
        answer["order_id"] = order_id
    if "r" in stored:
        reward = program.reward_by_id[stored["r"]]
        answer["reward_id"] = reward.reward_id
        answer["voucher"] = {
            "code": voucher_code(secrets, stored["v"], program.program_id, redemption_id(entry)),
            "expires_on": iso(stored["x"]) if "x" in stored else None,
        }
        if reward.discount is not None:
            answer["discount"] = cast("DiscountGiven", discount(program, reward.discount, order))
    return answer


def reversed_(entry: Entry) -> Reversed:
    """The answer to a reversal."""
    taken: list[GrantedLot] = []
    debt = 0
    for posting in entry.own_postings:
        taken += [
            GrantedLot(points=-n, expires_on=iso(end), available_on=iso(start))
            for start, end, n in posting.pending
        ]
        taken += [GrantedLot(points=-n, expires_on=iso(end)) for end, n in posting.lots]
        debt += posting.debt
    stored = entry.explanation or {}
    return {
        "entry_id": entry_id(entry),
        "event_id": event_id(entry),
        "member_id": entry.member_id,
        "points": -entry.points,
        "taken_from": taken,
        "debt": debt,
        "expired_points": sum(points for _, points in stored.get("x", ())),
        "forgiven_points": stored.get("f", 0),
        "restored_points": 0,
        "balance": entry.balance,
    }


def enrolled(rulebook: Rulebook, entry: Entry) -> Enrolled:
    """The answer to an enrolment."""
    return {
        "member_id": entry.member_id,
        "referral_code": entry.answer["c"],
        "balance": entry.balance,
        "points": entry.points,
        "explanation": explanation_of(rulebook, entry),
    }


def balance(rulebook: Rulebook, account: Account, now: int) -> Balance:
    """A member's balance at `now` (milliseconds), right whether or not the sweep has run."""
    program = rulebook.program
    at = max(now, account.recorded_at)
    today = day_number(local_date(from_milliseconds(at), program.zone))
    account, _ = advance(program, account, today)
    return {
        "member_id": account.member_id,
        "available": account.available,
        "pending": account.pending_points,
        "held": 0,
        "debt": account.debt,
        "lifetime_points": account.lifetime,
        "qualifying_points": counted(program, account, today),
        "tier": _tier(program, account, today),
        "expiring": [
            {"points": points, "expires_on": iso(day)} for day, points in expiring(program, account)
        ],
        "as_of": rfc3339(at),
    }


def _tier(program: Program, account: Account, today: int) -> Standing | None:
    tier = tier_of(program, account)
    if tier is None or program.tiers is None:
        return None
    standing: Standing = {
        "id": tier.tier_id,
        "name": tier.name,
        "multiplier": decimal(tier.multiplier),
    }
    above = [level for level in program.tiers.levels if level.at > tier.at]
    if above:
        standing["next_tier"] = above[0].tier_id
        missing = above[0].at - counted(program, account, today)
        standing["points_to_next"] = max(0, missing)
    if account.tier_until is not None:
        standing["until"] = str(iso(account.tier_until))
    return standing


def balance_as_of(
    rulebook: Rulebook, history: Iterable[Entry], member: Account, at: int
) -> Balance:
    """The balance as it was answered at a past instant: `history` is every entry, oldest first,
    and `member` the account before the first."""
    account = member
    for entry in history:
        if entry.recorded_at > at:
            break
        account = account.after(entry)
    return balance(rulebook, replace(account, recorded_at=0), at)


_MANY = ("enrol", "expire")
"""Kinds of entries whose postings are each of a kind of their own."""


def history_rows(rulebook: Rulebook, entry: Entry) -> Iterator[HistoryRow]:
    """The entry's rows as history shows them, newest first: one for each posting, or one for an
    entry that moved nothing."""
    zone = rulebook.program.zone
    balance_after = entry.balance
    for posting in reversed(entry.postings or (Posting(entry.kind, 0),)):
        is_own = not entry.postings or posting in entry.own_postings
        occurred = entry.occurred_at
        if posting.kind in ("expire", "activate"):
            occurred = milliseconds(day_begins(from_day_number(posting.on), zone))
        row: HistoryRow = {
            "entry_id": entry_id(entry),
            "seq": entry.seq,
            "kind": entry.kind if is_own and entry.kind not in _MANY else posting.kind,
            "points": posting.points,
            "balance_after": balance_after,
            "occurred_at": rfc3339(occurred),
            "recorded_at": rfc3339(entry.recorded_at),
            "event_id": event_id(entry) if is_own else None,
            "reason": entry.reason or None if is_own else None,
        }
        if is_own and "r" in (entry.explanation or ()):
            row["explanation"] = explanation_of(rulebook, entry)
        yield row
        balance_after -= posting.balance_change
