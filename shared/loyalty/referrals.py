"""Friends brought along: what the referred member and the referrer get, once, when the referred
one registers or first buys enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Literal

from loyalty.dates import day_number
from loyalty.decisions import Draft, Guard
from loyalty.limits import ONCE, REFERRALS, Usage
from loyalty.lots import available_on, credit, expiry
from loyalty.model import Account, Count, Entry, Known, NeedsBudgets, Refusal
from loyalty.rules import PROGRAM_BUDGET, Rulebook


@dataclass(frozen=True, slots=True)
class Referral:
    """What a referral gives: to the referred member, and to the referrer, as it stands; the local
    date of the event that pays it; what the referred member misses because the program's budget
    had only `budget_left`, if it had too little for both."""

    referred_points: int
    referrer_points: int
    referrer: Account
    on: date
    missed_points: int = 0
    budget_left: int | None = None


def due(
    rulebook: Rulebook,
    known: Known,
    draft: Draft,
    usage: Usage,
    occasion: Literal["registration", "first_purchase"],
    base: int | Fraction,
    drawn: Mapping[str, int],
) -> Referral | None:
    """The referral that this occasion pays, or None.

    `base` is the earning base of the purchase, `drawn` what its award takes from budgets. Refused
    are two who have brought each other, a referral that was paid before, and what the referrer's
    limits do not allow.
    """
    terms = rulebook.program.referral
    referrer_id = draft.account.referrer
    if terms is None or terms.award_on != occasion or not referrer_id:
        return None
    if terms.min_amount is not None and occasion == "first_purchase" and base < terms.min_amount:
        return None
    if usage.used("ever", ONCE["referral"]):
        return None
    referrer = _payable(known, referrer_id)
    if referrer is None or _each_other(known, draft.account, referrer):
        return None
    brought = Usage(referrer, usage.on, rulebook.program.zone, known.history)
    within = all(brought.used(limit.per, REFERRALS) < limit.times for limit in terms.limits)
    wanted = (terms.referred_points, terms.referrer_points if within else 0)
    if rulebook.program.budget is None:
        return Referral(*wanted, referrer, usage.on)
    if PROGRAM_BUDGET not in known.budgets:
        total = rulebook.budgets[PROGRAM_BUDGET]
        raise NeedsBudgets(rulebook.version, {PROGRAM_BUDGET: total})
    left = max(0, known.budgets[PROGRAM_BUDGET] - drawn.get(PROGRAM_BUDGET, 0))
    referred_points = min(wanted[0], left)
    return Referral(
        referred_points,
        min(wanted[1], left - referred_points),
        referrer,
        usage.on,
        missed_points=wanted[0] - referred_points,
        budget_left=known.budgets[PROGRAM_BUDGET] if left < sum(wanted) else None,
    )


def _payable(known: Known, referrer_id: str) -> Account | None:
    """The referrer's account, or the one it was merged into; None for who can be paid nothing."""
    try:
        referrer = known.account(referrer_id)
    except Refusal:
        return None
    return None if referrer.status == "closed" else referrer


def _each_other(known: Known, account: Account, referrer: Account) -> bool:
    """Whether a member and its referrer are one, or have brought each other, under whatever ids
    before they were merged. Rings of more members, which take as many merges, are not looked for.
    """
    if account.member_id in (referrer.member_id, referrer.referrer):
        return True
    brought_by = _payable(known, referrer.referrer) if referrer.referrer else None
    return brought_by is not None and brought_by.member_id == account.member_id


def is_own(known: Known, draft: Draft, referral: Referral) -> bool:
    """Whether who was referred has the referrer's e-mail address or phone number by now; it asks
    for both profiles."""
    mine = known.profile(draft.account.member_id)
    theirs = known.profile(referral.referrer.member_id)
    return same_person(theirs, mine.get("email"), mine.get("phone"))


def grant(draft: Draft, points: int, occurred_on: int) -> None:
    """Credit a side of a referral, after its pending period."""
    program = draft.rulebook.program
    start = available_on(program.pending.get("referral"), occurred_on)
    lot = (start, expiry(program.expiry, start, occurred_on), points)
    draft.post(credit(draft.account, "referral", occurred_on, [lot], draft.today))


def referrer_entry(rulebook: Rulebook, referral: Referral, guard: Guard, now: int) -> Entry:
    """The referrer's side, under the key of the event that paid it."""
    draft = Draft(rulebook, referral.referrer, now)
    occurred_on = day_number(referral.on)
    grant(draft, referral.referrer_points, occurred_on)
    terms = rulebook.program.referral
    usage = Usage(referral.referrer, referral.on, rulebook.program.zone, None)
    windows = dict.fromkeys(limit.per for limit in terms.limits) if terms else {}
    counts: tuple[Count, ...] = ()
    if referral.referrer_points:
        counts = tuple(usage.count(per, REFERRALS, 1) for per in windows)
    return draft.entry(
        "referral",
        Guard(guard.partition, "referrer", guard.fingerprint),
        active_on=occurred_on if referral.referrer_points else None,
        lifetime=referral.referrer_points,
        counts=counts,
        reason="referral",
        explanation={"r": "", "f": [referral.referrer_points, referral.referrer_points]},
    )


def same_person(profile: Mapping[str, object], email: str | None, phone: str | None) -> bool:
    """Whether an e-mail address or a phone number is that profile's own, however it is written:
    case, dots and +tags of addresses and punctuation of numbers do not make another person."""
    known_email, known_phone = profile.get("email"), profile.get("phone")
    return bool(
        (email and known_email and _plain_email(email) == _plain_email(str(known_email)))
        or (phone and known_phone and _digits(phone) == _digits(str(known_phone)))
    )


def _plain_email(address: str) -> str:
    name, _, host = address.casefold().rpartition("@")
    plain = name.partition("+")[0].replace(".", "")
    return f"{plain or name}@{host}"


def _digits(number: str) -> str:
    digits = "".join(c for c in number if c.isdecimal())
    # What is dialled before a country in most of the world is written + on paper.
    return digits.removeprefix("00")
