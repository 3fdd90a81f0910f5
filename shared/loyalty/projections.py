"""What clients are shown: answers, balances, history, each derived from what is stored.

A first answer and its replay come from the same entry through the same function, so they cannot
differ.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NotRequired, TypedDict, cast
from zoneinfo import ZoneInfo

from loyalty.adjusting import adjustment_id
from loyalty.codes import Secrets, voucher_code
from loyalty.commands import CHECK_IN_EVENT, Reversal
from loyalty.dates import (
    Duration,
    day_begins,
    day_number,
    from_day_number,
    from_milliseconds,
    local_date,
    milliseconds,
    rfc3339,
)
from loyalty.decisions import advanced, key_of, redemption_id
from loyalty.explanations import decimal, explain, limited_by
from loyalty.lots import expiring
from loyalty.model import BY_ITSELF, NEVER, Account, Entry, Posting, iso
from loyalty.program import Program
from loyalty.redeeming import Offered, discount, payment
from loyalty.rules import Rulebook
from loyalty.tiers import counted, tier_of
from loyalty.transfers import transfer_id

type Json = dict[str, Any]

EXPLANATION_BYTES: Final = 3_000_000
"""Of the 6 MiB of an answer: 2,000 rules with the longest names, and as much for all else."""
EXPLAINED_BYTES: Final = 1_400
"""Of one rule, or of one factor, at most: names have up to 200 letters of up to 4 bytes."""
LIMITS_TOLD: Final = 2_000
"""Of the limits that bit, at most."""


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
    """An award. `points` is everything granted, of which `pending_points` is pending;
    `reversed_points` went at once for refunds that came before it, and `restored_points`, which had
    paid for what came back, are the member's again. So many rules as `explanation_left_out` tells
    found no room in the explanation: those that fired go first."""

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
    explanation_left_out: NotRequired[int]
    reversed_points: NotRequired[int]
    restored_points: NotRequired[int]


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
    """Points spent or, `held` until `held_until`, reserved; or, `cancelled`, come back."""

    redemption_id: str
    entry_id: str
    member_id: str
    status: Literal["held", "captured", "cancelled", "lapsed"]
    points: int
    balance: int
    held_until: NotRequired[str]
    order_id: NotRequired[str]
    reward_id: NotRequired[str]
    voucher: NotRequired[Voucher]
    discount: NotRequired[DiscountGiven]


class Transferred(TypedDict):
    """Points sent, with the dates they have; balances afterwards by member. A member is shown the
    own one only."""

    transfer_id: str
    entry_id: str
    from_member_id: str
    to_member_id: str
    points: int
    lots: list[GrantedLot]
    balances: dict[str, int]


class Adjusted(TypedDict):
    """Points given or taken by staff, and who agreed to it."""

    adjustment_id: str
    status: Literal["approved"]
    entry_id: str
    member_id: str
    points: int
    reason_code: str
    lots: list[GrantedLot]
    balance: int
    adjusted_by: str
    approved_by: NotRequired[str]


class StatusChanged(TypedDict):
    """What a member may do from now on."""

    member_id: str
    status: str
    balance: int


class TierSet(TypedDict):
    """The tier that counts for the member now."""

    member_id: str
    tier: "Standing | None"


class Merged(TypedDict):
    """Two members that are one. `points` came from the one that is an alias now."""

    member_id: str
    merged_member_id: str
    entry_id: str
    points: int
    balance: int


class NamedReward(TypedDict):
    """What a voucher is for."""

    reward_id: str
    name: str
    kind: str


class VoucherShown(TypedDict):
    """A voucher as a till sees it; its code is not repeated. `expires_on` null: never."""

    status: Literal["issued", "used", "cancelled", "expired"]
    redemption_id: str
    member_id: str
    reward: NamedReward
    expires_on: str | None
    discount: NotRequired[DiscountGiven]
    used_at: NotRequired[str]


# `from` is no name for a field of a class.
Dated = TypedDict("Dated", {"from": NotRequired[str], "until": NotRequired[str]})


class RewardShown(Dated):
    """A reward for one member now. `reasons` are the codes with which redeeming it would be
    refused, none if it is `available`; `from` and `until` are local and both included;
    `stock_left` where pieces are counted; `voucher_validity` an ISO 8601 duration."""

    reward_id: str
    kind: str
    name: str
    description: str
    terms: str
    image_url: str | None
    cost: int
    available: bool
    reasons: list[str]
    missing_points: int
    discount: NotRequired[DiscountGiven]
    next_allowed_at: NotRequired[str]
    stock_left: NotRequired[int]
    voucher_validity: NotRequired[str]


class Catalog(TypedDict):
    """A page of the rewards, in the order of the program; `balance` is what is available now,
    minus debt."""

    items: list[RewardShown]
    balance: int
    next_cursor: str | None


class Reversed(TypedDict):
    """Points taken back, and from where. What had expired or was forgiven is not in `points`;
    `restored_points` had paid for what came back, and are the member's again."""

    status: Literal["reversed"]
    entry_id: str
    event_id: str | None
    refund_id: str
    member_id: str
    points: int
    taken_from: list[GrantedLot]
    debt: int
    expired_points: int
    forgiven_points: int
    restored_points: int
    balance: int


class WaitingRefund(TypedDict):
    """A refund that came before its event, and is carried out when that comes."""

    status: Literal["waiting"]
    event_id: str
    refund_id: str


class Enrolled(TypedDict):
    """A new member, and what registration gave; `explanation_left_out` as of an award."""

    member_id: str
    referral_code: str
    points: int
    balance: int
    explanation: list[Explained]
    explanation_left_out: NotRequired[int]


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
    """A member's points at `as_of`; `available` is never negative, `debt` stands apart. `status`
    (blocked, closed) stands only where the member may not do everything."""

    member_id: str
    status: NotRequired[str]
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
    """One posting of an entry, or a command that moved nothing; rows of one entry share `seq`.
    `explanation_left_out` as of an award."""

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
    explanation_left_out: NotRequired[int]


class HistoryPage(TypedDict):
    """A page of history, newest first; with long explanations of fewer rows than asked for."""

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
    points = pending = 0
    for posting in entry.own_postings:
        if posting.kind not in ("award", "referral"):
            continue  # refunds that came before it
        points += posting.points
        lots += [GrantedLot(points=n, expires_on=iso(end)) for end, n in posting.lots]
        for start, end, n in posting.pending:
            pending += n
            lots.append({"points": n, "expires_on": iso(end), "available_on": iso(start)})
    explanation = entry.explanation
    told, left_out = _told(rulebook, entry)
    answer: Awarded = {
        "entry_id": entry_id(entry),
        "event_id": event_id(entry),
        "member_id": entry.member_id,
        "points": points,
        "desired_points": explanation.get("d", points),
        "pending_points": pending,
        "balance": entry.balance,
        "lots": lots,
        "limited_by": limited_by(rulebook, explanation)[:LIMITS_TOLD],
        "explanation": told,
    }
    if left_out:
        answer["explanation_left_out"] = left_out
    if "w" in explanation:
        back = [posting.points for posting in entry.own_postings if posting.kind == "reverse"]
        answer["reversed_points"] = -sum(back)
    if "s" in explanation:
        answer["restored_points"] = sum(points for _, points in explanation["s"])
    return answer


def explanation_of(rulebook: Rulebook, entry: Entry) -> list[Explained]:
    """Why an award is what it is, rule by rule."""
    on = local_date(from_milliseconds(entry.occurred_at), rulebook.program.zone)
    rows = explain(rulebook, entry.explanation, entry.reason, day_number(on))
    return cast("list[Explained]", rows)


def _told(rulebook: Rulebook, entry: Entry) -> tuple[list[Explained], int]:
    """(The explanation as far as an answer holds it, how many rules are left out: from the last
    back, and those that fired only after all others.)"""
    rows = explanation_of(rulebook, entry)
    parts = len(rows) + sum(len(row["factors"]) for row in rows)
    if parts * EXPLAINED_BYTES <= EXPLANATION_BYTES:
        return rows, 0
    room = EXPLANATION_BYTES
    told = set()
    for number in sorted(range(len(rows)), key=lambda number: not rows[number]["fired"]):
        room -= answer_bytes(rows[number])
        if room < 0:
            break
        told.add(number)
    return [row for number, row in enumerate(rows) if number in told], len(rows) - len(told)


def answer_bytes(value: Any) -> int:
    """How much of Lambda's answer this takes: the body is JSON, written as a text within JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(json.dumps(text, ensure_ascii=False).encode())


def checked_in(rulebook: Rulebook, entry: Entry) -> CheckedIn:
    """The answer to a check-in."""
    here: Json = {"location_id": entry.event["o"]}
    if entry.answer:
        here["next_allowed_at"] = rfc3339(entry.answer["n"])
    return cast("CheckedIn", awarded(rulebook, entry) | here)


_STATUS: dict[str, Literal["held", "captured", "cancelled"]] = {
    "hold": "held",
    "cancel": "cancelled",
}


def redeemed(rulebook: Rulebook, entry: Entry, secrets: Secrets) -> Redeemed:
    """The answer to a redemption, its capture or cancellation; `rulebook` is the version that its
    terms are of. The voucher's code is derived again."""
    program = rulebook.program
    stored = entry.answer or {}
    own = entry.own_postings
    points = sum(p.held for p in own) if entry.kind == "hold" else -entry.points
    if entry.kind == "cancel":
        points = stored["p"]
    answer: Redeemed = {
        "redemption_id": redemption_id(entry),
        "entry_id": entry_id(entry),
        "member_id": entry.member_id,
        "status": _STATUS.get(entry.kind, "captured"),
        "points": points,
        "balance": entry.balance,
    }
    if "u" in stored:
        answer["held_until"] = rfc3339(stored["u"])
    order_amount = None
    if "o" in stored:
        answer["order_id"], order_amount = stored["o"]
    if "r" in stored:
        reward = program.reward_by_id[stored["r"]]
        answer["reward_id"] = reward.reward_id
        if "v" in stored:
            identity = redemption_id(entry)
            answer["voucher"] = {
                "code": voucher_code(secrets, stored["v"], program.program_id, identity),
                "expires_on": iso(stored["x"]) if "x" in stored else None,
            }
        if reward.discount is not None:
            off = discount(program, reward.discount, order_amount)
            answer["discount"] = cast("DiscountGiven", off)
    elif program.points_payment is not None and entry.kind != "cancel":
        worth = payment(program.points_payment, points)
        answer["discount"] = {"amount": worth, "currency": program.currency}
    return answer


def voucher(rulebook: Rulebook, record: Json, today: int) -> VoucherShown:
    """The voucher of a record on a local date (a day number) of the program; `rulebook` is the
    version that its reward is of."""
    reward = rulebook.program.reward_by_id[record["reward_id"]]
    ended = record["status"] == "issued" and record.get("expires_on", NEVER) <= today
    shown: VoucherShown = {
        "status": "expired" if ended else record["status"],
        "redemption_id": record["redemption_id"],
        "member_id": record["member_id"],
        "reward": {"reward_id": reward.reward_id, "name": reward.name, "kind": reward.kind},
        "expires_on": iso(record["expires_on"]) if "expires_on" in record else None,
    }
    if reward.discount is not None:
        off = discount(rulebook.program, reward.discount, record.get("order_amount"))
        shown["discount"] = cast("DiscountGiven", off)
    if "used_at" in record:
        shown["used_at"] = rfc3339(record["used_at"])
    return shown


def reward(program: Program, offered: Offered) -> RewardShown:
    """One reward of a member's catalog."""
    reward = offered.reward
    more = {name: value for each in offered.obstacles for name, value in each.more.items()}
    shown: Json = {
        "reward_id": reward.reward_id,
        "kind": reward.kind,
        "name": reward.name,
        "description": reward.description,
        "terms": reward.terms,
        "image_url": reward.image_url,
        "cost": offered.cost,
        "available": not offered.obstacles,
        "reasons": list(dict.fromkeys(refusal.code for refusal in offered.obstacles)),
        "missing_points": 0,
        **more,
    }
    if reward.discount is not None:
        shown["discount"] = discount(program, reward.discount, None)
    if offered.left is not None:
        shown["stock_left"] = offered.left
    if reward.voucher_validity is not None:
        shown["voucher_validity"] = _iso_8601(reward.voucher_validity)
    when = reward.when
    for name, bound in (("from", when.from_), ("until", when.until)) if when is not None else ():
        if bound is not None:
            at = "" if bound.at is None else f"T{bound.at:%H:%M}"
            shown[name] = f"{bound.day.isoformat()}{at}"
    return cast("RewardShown", shown)


def _iso_8601(whole_days: Duration) -> str:
    parts = ((whole_days.months, "M"), (whole_days.days, "D"))
    return "P" + "".join(f"{number}{unit}" for number, unit in parts if number)


def reversed_(entry: Entry) -> Reversed:
    """The answer to a reversal."""
    taken: list[GrantedLot] = []
    points = debt = 0
    for posting in entry.own_postings:
        if posting.kind != "reverse":
            continue
        taken += [
            GrantedLot(points=-n, expires_on=iso(end), available_on=iso(start))
            for start, end, n in posting.pending
        ]
        taken += [GrantedLot(points=-n, expires_on=iso(end)) for end, n in posting.lots]
        debt += posting.debt
        points -= posting.points
    stored = entry.explanation or {}
    return {
        "status": "reversed",
        "entry_id": entry_id(entry),
        "event_id": event_id(entry),
        "refund_id": entry.sort.removeprefix("r#"),
        "member_id": entry.member_id,
        "points": points,
        "taken_from": taken,
        "debt": debt,
        "expired_points": stored.get("y", 0) + sum(points for _, points in stored.get("x", ())),
        "forgiven_points": stored.get("o", 0),
        "restored_points": sum(points for _, points in stored.get("s", ())),
        "balance": entry.balance,
    }


def transferred(entry: Entry, *, both: bool) -> Transferred:
    """The answer to a transfer: of `both` members, or the sender's side."""
    [sent] = entry.own_postings
    receiver = entry.answer["t"]
    balances = {entry.member_id: entry.balance}
    if both:
        balances[receiver] = entry.answer["b"]
    return {
        "transfer_id": transfer_id(entry),
        "entry_id": entry_id(entry),
        "from_member_id": entry.member_id,
        "to_member_id": receiver,
        "points": -sent.points,
        "lots": [GrantedLot(points=-n, expires_on=iso(end)) for end, n in sent.lots],
        "balances": balances,
    }


def adjusted(entry: Entry) -> Adjusted:
    """The answer to an adjustment."""
    answer: Adjusted = {
        "adjustment_id": adjustment_id(key_of(entry.partition)),
        "status": "approved",
        "entry_id": entry_id(entry),
        "member_id": entry.member_id,
        "points": entry.points,
        "reason_code": entry.reason,
        "lots": [
            GrantedLot(points=n, expires_on=iso(end))
            for posting in entry.own_postings
            for end, n in posting.lots
        ],
        "balance": entry.balance,
        "adjusted_by": entry.answer["s"],
    }
    if "a" in entry.answer:
        answer["approved_by"] = entry.answer["a"]
    return answer


def status_changed(entry: Entry) -> StatusChanged:
    """The answer to a block, an unblock, a close."""
    return {
        "member_id": entry.member_id,
        "status": entry.status or "active",
        "balance": entry.balance,
    }


def merged(entry: Entry) -> Merged:
    """The answer to a merge."""
    return {
        "member_id": entry.member_id,
        "merged_member_id": entry.explanation["m"],
        "entry_id": entry_id(entry),
        "points": entry.points,
        "balance": entry.balance,
    }


def balance_of(rulebook: Rulebook, account: Account, now: int) -> int:
    """Available points less debt at `now` (milliseconds)."""
    shown = balance(rulebook, account, now)
    return shown["available"] - shown["debt"]


def standing(rulebook: Rulebook, account: Account, now: int) -> Standing | None:
    """The member's tier at `now` (milliseconds)."""
    return balance(rulebook, account, now)["tier"]


def waiting_refund(refund: Reversal) -> WaitingRefund:
    """The answer to a refund that came before its event."""
    return {"status": "waiting", "event_id": refund.event_id, "refund_id": refund.refund_id}


def enrolled(rulebook: Rulebook, entry: Entry) -> Enrolled:
    """The answer to an enrolment."""
    told, left_out = _told(rulebook, entry)
    answer: Enrolled = {
        "member_id": entry.member_id,
        "referral_code": entry.answer["c"],
        "balance": entry.balance,
        "points": entry.points,
        "explanation": told,
    }
    if left_out:
        answer["explanation_left_out"] = left_out
    return answer


def balance(rulebook: Rulebook, account: Account, now: int) -> Balance:
    """A member's balance at `now` (milliseconds), right whether or not the sweep has run."""
    program = rulebook.program
    at = max(now, account.recorded_at)
    today = day_number(local_date(from_milliseconds(at), program.zone))
    account, _ = advanced(rulebook, account, at)
    shown: Balance = {
        "member_id": account.member_id,
        "available": account.available,
        "pending": account.pending_points,
        "held": account.held,
        "debt": account.debt,
        "lifetime_points": account.lifetime,
        "qualifying_points": counted(program, account, today),
        "tier": _tier(program, account, today),
        "expiring": [
            {"points": points, "expires_on": iso(day)} for day, points in expiring(program, account)
        ],
        "as_of": rfc3339(at),
    }
    if account.status:
        shown["status"] = account.status
    return shown


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
    until = account.pinned_until if account.pinned else account.tier_until
    if until is not None:
        standing["until"] = str(iso(until))
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
    return balance(rulebook, account, at)


_MANY = ("enrol", "expire")
"""Kinds of entries whose postings are each of a kind of their own."""


def history_rows(rulebook: Rulebook, entry: Entry) -> Iterator[HistoryRow]:
    """The entry's rows as history shows them, newest first: one for each posting, and one for a
    command that moved nothing, whatever fell due before it."""
    zone = rulebook.program.zone
    balance_after = entry.balance
    own = entry.own_postings or (Posting(entry.kind, 0),)
    postings = entry.postings if entry.own_postings else (*entry.postings, *own)
    for posting in reversed(postings):
        is_own = posting in own
        # A refund that waited for its event is one, though it stands in the event's entry.
        names_itself = entry.kind in _MANY or posting.kind == "reverse"
        row: HistoryRow = {
            "entry_id": entry_id(entry),
            "seq": entry.seq,
            "kind": entry.kind if is_own and not names_itself else posting.kind,
            "points": posting.points,
            "balance_after": balance_after,
            "occurred_at": rfc3339(_occurred_at(entry, posting, zone)),
            "recorded_at": rfc3339(entry.recorded_at),
            "event_id": event_id(entry) if is_own else None,
            "reason": entry.reason or None if is_own else None,
        }
        if is_own and "r" in (entry.explanation or ()):
            row["explanation"], left_out = _told(rulebook, entry)
            if left_out:
                row["explanation_left_out"] = left_out
        yield row
        balance_after -= posting.balance_change


def _occurred_at(entry: Entry, posting: Posting, zone: ZoneInfo) -> int:
    """When a posting happened (milliseconds): a lapse at its hold's end, whatever else fell due by
    itself at the beginning of its day, the rest with its entry."""
    if posting.kind not in BY_ITSELF:
        return entry.occurred_at
    if posting.hold is not None:
        return posting.hold.until
    return milliseconds(day_begins(from_day_number(posting.on), zone))
