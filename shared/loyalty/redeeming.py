"""Decisions that spend points: redemptions, holds, what ends them, and what a member may have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

from loyalty.codes import Secrets, voucher_code, voucher_hash
from loyalty.commands import Order, Redemption
from loyalty.dates import Per, from_day_number, milliseconds, plus
from loyalty.dates import day_number as day_number_of
from loyalty.decisions import (
    Decision,
    Draft,
    Guard,
    Record,
    given_back,
    key_of,
    may_spend,
    redemption_id,
    stock_id,
)
from loyalty.explanations import decimal
from loyalty.limits import Usage, cooled_down, free_again, limit_reached, token
from loyalty.lots import credit, released, take
from loyalty.model import (
    Account,
    Count,
    Day,
    Entry,
    Hold,
    Known,
    NeedsBudgets,
    Posting,
    Refusal,
)
from loyalty.program import Discount, PointsPayment, Program, Reward
from loyalty.rules import Rulebook
from loyalty.tiers import tier_of

MAX_HOLDS: Final = 20
"""Holds that one member may have open: more are a defect of the shop, and would fill the
account."""
VOUCHER_SORT: Final = "voucher"
"""The sort key of every voucher's record."""


@dataclass(frozen=True, slots=True)
class Spending:
    """A redemption and what has become of it: `entries` are all that stand under its key, itself
    first, `voucher` is the record of its voucher, if it has one."""

    entries: Sequence[Entry]
    voucher: Mapping[str, Any] | None = None


def redeem(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    command: Redemption,
    secrets: Secrets,
    now: int,
) -> Decision:
    """Spend points on a reward of the program, as payment, or plainly, or reserve them by a hold;
    never more than are available.

    Refusals: `member_not_found`, `member_erased`, `member_blocked`, `member_closed`,
    `reward_not_found`, `reward_unavailable`, `reward_locked`, `limit_reached`, `out_of_stock`,
    `payment_refused`, `currency_mismatch`, `too_many_holds`, `insufficient_points` (with
    `missing_points`); it may ask for what is left of a stock.
    """
    draft = Draft(rulebook, known.account(member_id), now)
    program = rulebook.program
    may_spend(draft.account)
    order = command.order
    if order is not None and order.currency != program.currency:
        raise Refusal(
            "currency_mismatch",
            f"The program counts {program.currency}, the order {order.currency}.",
            pointer="/order/currency",
        )
    own = draft.account.held_by(key_of(guard.partition))
    # One that is open under this very key is a repeat, which the store finds before it refuses.
    if command.hold and (own or len(draft.account.holds) >= MAX_HOLDS):
        raise Refusal("too_many_holds", f"A member may have {MAX_HOLDS} holds open at once.")
    if command.reward_id is None:
        points = command.points or 0
        if program.points_payment is not None:
            _payable(program.points_payment, points, order)
        _enough(draft, points)
        answer: dict[str, Any] = {}
        return _spent(draft, guard, points, command, answer, secrets)
    reward = program.reward_by_id.get(command.reward_id)
    if reward is None:
        raise Refusal("reward_not_found", "The program has no reward of this id.")
    for refusal in obstacles(draft, known, reward):
        raise refusal
    answer = {"r": reward.reward_id}
    draws = {}
    if reward.stock is not None:
        draws = {stock_id(reward.reward_id): 1}
        answer["k"] = 1
    pers = tuple(dict.fromkeys(limit.per for limit in reward.limits))
    if pers:
        answer["c"] = pers
    usage = _usage(draft, known)
    counts = tuple(usage.count(per, token("reward", reward.reward_id), 1) for per in pers)
    decision = _spent(
        draft, guard, cost(draft, reward), command, answer, secrets, reward=reward, counts=counts
    )
    return replace(decision, draws=draws)


def cost(draft: Draft, reward: Reward) -> int:
    """What the reward costs this member, in points."""
    tier = tier_of(draft.rulebook.program, draft.account)
    return reward.cost_for(tier.tier_id if tier else None)


@dataclass(frozen=True, slots=True)
class Offered:
    """A reward as one member sees it at one moment: its cost in points, everything that keeps the
    member from it (nothing: it can be had), the pieces left where they are counted."""

    reward: Reward
    cost: int
    obstacles: tuple[Refusal, ...]
    left: int | None


def catalog(
    rulebook: Rulebook, known: Known, member_id: str, rewards: Sequence[Reward], now: int
) -> tuple[Account, list[Offered]]:
    """The member's account at `now` (milliseconds), and what it may have of these rewards: just
    what `redeem` would take.

    Refusals: `member_not_found`, `member_erased`; it may ask for what is left of stocks.
    """
    draft = Draft(rulebook, known.account(member_id), now)
    stocks = {stock_id(r.reward_id): r.stock for r in rewards if r.stock is not None}
    if unknown := {name: n for name, n in stocks.items() if name not in known.budgets}:
        raise NeedsBudgets(rulebook.version, unknown)  # all of them at one look
    return draft.account, [
        Offered(
            reward,
            cost(draft, reward),
            tuple(obstacles(draft, known, reward)),
            max(0, _left(draft, known, reward)) if reward.stock is not None else None,
        )
        for reward in rewards
    ]


def obstacles(draft: Draft, known: Known, reward: Reward) -> Iterator[Refusal]:
    """Everything that keeps this member from the reward now; it may ask for what is left of its
    stock, and for the history."""
    program = draft.rulebook.program
    try:
        may_spend(draft.account)
    except Refusal as refusal:
        yield refusal
    when = reward.when
    if when is not None:
        if not when.is_on(draft.instant().astimezone(program.zone)):
            yield Refusal("reward_unavailable", "This reward is not offered at this time.")
        if when.groups and not set(when.groups) & set(draft.account.groups):
            yield Refusal("reward_locked", "This reward is for members of other groups.")
        tier = tier_of(program, draft.account)
        if when.tiers and (tier is None or tier.tier_id not in when.tiers):
            yield Refusal("reward_locked", "This reward is for members of other tiers.")
    usage = _usage(draft, known)
    used_up = [x for x in reward.limits if _had(draft, usage, reward, x.per) >= x.times]
    if used_up:
        again = free_again((limit.per for limit in used_up), usage.on, program.zone)
        yield limit_reached(
            "You have had this reward as often as you may.", again, draft.recorded_at
        )
    if reward.stock is not None and _left(draft, known, reward) < 1:
        yield Refusal("out_of_stock", "Nothing is left of this reward.")
    missing = cost(draft, reward) - draft.account.available
    if missing > 0:
        yield _missing(draft, missing)


def _usage(draft: Draft, known: Known) -> Usage:
    """What the member has used of limits today, lapsed holds included."""
    today = draft.local_date(draft.recorded_at)
    return Usage(draft.before, today, draft.rulebook.program.zone, known.history)


def _had(draft: Draft, usage: Usage, reward: Reward, per: Per) -> int:
    """How often the member has had the reward, or holds it, in today's window of that kind."""
    name = token("reward", reward.reward_id)
    window = usage.count(per, name, 0).window
    lapsed = [count for hold in draft.lapsed for count in given_back(hold)]
    back = sum(c.by for c in lapsed if (c.per, c.window, c.name) == (per, window, name))
    return usage.used(per, name) + back


def _left(draft: Draft, known: Known, reward: Reward) -> int:
    """The pieces left for this member: a hold of its own that has lapsed gives back its own in the
    same entry. Below zero where a total was lowered below what was given."""
    name = stock_id(reward.reward_id)
    if name not in known.budgets:
        raise NeedsBudgets(draft.rulebook.version, {name: reward.stock or 0})
    own = sum(hold.drew for hold in draft.lapsed if hold.reward == reward.reward_id)
    return known.budgets[name] + own


def _missing(draft: Draft, missing: int) -> Refusal:
    return Refusal(
        "insufficient_points",
        f"{missing} points are missing: {draft.account.available} are available.",
        missing_points=missing,
    )


def _enough(draft: Draft, points: int) -> None:
    if points > draft.account.available:
        raise _missing(draft, points - draft.account.available)


def _payable(terms: PointsPayment, points: int, order: Order | None) -> None:
    """Refusal `payment_refused` where the program does not take so many points as payment."""
    if points < terms.min_points:
        raise Refusal("payment_refused", f"At least {terms.min_points} points pay at once.")
    if points % terms.step:
        raise Refusal("payment_refused", f"Points pay in steps of {terms.step}.")
    if order is not None and payment(terms, points) > order.amount * terms.max_share:
        share = decimal(terms.max_share)
        raise Refusal("payment_refused", f"Points may pay at most {share} of an order.")


def payment(terms: PointsPayment, points: int) -> int:
    """What so many points pay, in whole minor units."""
    return points * terms.amount // terms.points


def _spent(
    draft: Draft,
    guard: Guard,
    points: int,
    command: Redemption,
    answer: dict[str, Any],
    secrets: Secrets,
    reward: Reward | None = None,
    counts: tuple[Count, ...] = (),
) -> Decision:
    """The entry that spends or reserves the points, with the voucher of a reward at once."""
    posting = take(draft.account, "hold" if command.hold else "redeem", draft.today, points)
    if command.order is not None:
        answer["o"] = [command.order.order_id, command.order.amount]
    if command.hold:
        duration = draft.rulebook.program.holds.max_duration
        zone = draft.rulebook.program.zone
        hold = Hold(
            key_of(guard.partition),
            milliseconds(cooled_down(draft.recorded_at, duration, zone)),
            draft.today,
            reward.reward_id if reward else "",
            answer.get("k", 0),
            answer.get("c", ()),
        )
        posting = replace(posting, held=points, hold=hold)
        answer["u"] = hold.until
    elif reward is not None:
        answer |= _voucher_terms(reward, draft.today, secrets)
    draft.post(posting)
    entry = draft.entry(
        posting.kind,
        guard,
        active_on=draft.today,
        counts=counts,
        reason=command.reward_id or "",
        answer=answer or None,
    )
    if reward is None or command.hold:
        return Decision((entry,))
    return Decision((entry,), (_voucher(entry, secrets),))


def _voucher_terms(reward: Reward, today: Day, secrets: Secrets) -> dict[str, Any]:
    terms: dict[str, Any] = {"v": secrets.current}
    if reward.voucher_validity is not None:
        terms["x"] = day_number_of(plus(from_day_number(today), reward.voucher_validity))
    return terms


def voucher_key(program_id: str, code: str) -> str:
    """The partition of Records under which a voucher is found by its code."""
    return f"{program_id}#voucher#{voucher_hash(code)}"


def voucher_place(program_id: str, entries: Sequence[Entry], secrets: Secrets) -> str | None:
    """The partition of Records with the voucher of the redemption under whose key these entries
    stand; None where it has none."""
    version = next((e.answer["v"] for e in entries if "v" in (e.answer or {})), None)
    if version is None:
        return None
    code = voucher_code(secrets, version, program_id, redemption_id(entries[0]))
    return voucher_key(program_id, code)


def _voucher(entry: Entry, secrets: Secrets) -> Record:
    identity = redemption_id(entry)
    code = voucher_code(secrets, entry.answer["v"], entry.program_id, identity)
    return Record(
        voucher_key(entry.program_id, code),
        VOUCHER_SORT,
        {
            "redemption_id": identity,
            "member_id": entry.member_id,
            "reward_id": entry.answer["r"],
            "version": entry.answer.get("h", entry.version),
            "status": "issued",
            "revision": 1,
            **({"expires_on": entry.answer["x"]} if "x" in entry.answer else {}),
            **({"order_amount": entry.answer["o"][1]} if "o" in entry.answer else {}),
        },
    )


def capture(
    rulebook: Rulebook,
    held_under: Rulebook,
    known: Known,
    guard: Guard,
    entries: Sequence[Entry],
    secrets: Secrets,
    now: int,
) -> Decision:
    """Spend what a hold has reserved: `entries` are all that stand under the redemption's key, the
    hold first, `held_under` is the version it was made under.

    Refusals: `member_blocked`, `member_closed`, `not_held` (with its `redemption_status`).
    """
    held = entries[0]
    draft = Draft(rulebook, known.account(held.member_id), now)
    may_spend(draft.account)
    hold = _open_hold(draft, entries)
    points = draft.account.held_by(hold.key)
    draft.post(Posting("redeem", draft.today, held=-points, hold=hold))
    answer: dict[str, Any] = {k: v for k, v in (held.answer or {}).items() if k in "rok"}
    answer["h"] = held.version
    if "r" in answer:
        reward = held_under.program.reward_by_id[answer["r"]]
        answer |= _voucher_terms(reward, draft.today, secrets)
    entry = draft.entry("capture", guard, reason=held.reason, answer=answer)
    return Decision((entry,), (_voucher(entry, secrets),) if "r" in answer else ())


def _open_hold(draft: Draft, entries: Sequence[Entry]) -> Hold:
    """The hold of the redemption; Refusal `not_held` where it has ended."""
    key = key_of(entries[0].partition)
    for hold, _ in draft.account.holds:
        if hold.key == key:
            return hold
    status = status_of(entries)
    raise Refusal("not_held", f"This redemption is {status}.", redemption_status=status)


def status_of(entries: Sequence[Entry]) -> str:
    """How a redemption that holds nothing any more ended, by what stands under its key."""
    kinds = {entry.kind for entry in entries}
    if "cancel" in kinds:
        return "cancelled"
    return "captured" if kinds & {"capture", "redeem"} else "lapsed"


def cancel(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    spending: Spending,
    now: int,
) -> Decision:
    """Undo a redemption: a hold is given up, what was spent goes back to the lots it came from, at
    their old dates, and its voucher is cancelled.

    Refusals: `voucher_used`, `not_held` (where a hold had lapsed), `redemption_restored` (where
    refunds have given all of it back).
    """
    entries, voucher = spending.entries, spending.voucher
    first = entries[0]
    draft = Draft(rulebook, known.account(first.member_id), now)
    if draft.account.status == "closed":
        raise Refusal("member_closed", "This membership has ended.")
    key = key_of(first.partition)
    records: tuple[Record, ...] = ()
    points = draft.account.held_by(key)
    if points:
        draft.post(released(draft.account, "cancel", draft.today, key))
    else:
        if status_of(entries) != "captured":
            status = status_of(entries)
            raise Refusal("not_held", f"This redemption is {status}.", redemption_status=status)
        lots = returned(first, -spent(first), restored_before(known, first))
        if not lots:
            raise Refusal("redemption_restored", "Refunds have given these points back already.")
        if voucher is not None and voucher["status"] == "used":
            raise Refusal("voucher_used", "Its voucher has been used.")
        if voucher is not None and voucher["status"] == "issued":
            records = (withdrawn(voucher),)
        points = sum(part for _, part in lots)
        grants = [(draft.today, end, points) for end, points in lots]
        draft.post(credit(draft.account, "cancel", draft.today, grants, draft.today))
    # A refund that has withdrawn the voucher has given back what it had taken, too.
    ended_before = voucher is not None and voucher["status"] == "cancelled"
    counts, draws = ((), {}) if ended_before else undone(draft, first)
    entry = draft.entry("cancel", guard, reason=first.reason, counts=counts, answer={"p": points})
    return Decision((entry,), records, draws)


def withdrawn(voucher: Mapping[str, Any]) -> Record:
    """The voucher's record as it says that it was cancelled; it has to be still as it was seen."""
    fields = {name: value for name, value in voucher.items() if name not in ("pk", "sk")}
    fields |= {"status": "cancelled", "revision": voucher["revision"] + 1}
    return Record(voucher["pk"], voucher["sk"], fields, seen=int(voucher["revision"]))


def undone(draft: Draft, redemption: Entry) -> tuple[tuple[Count, ...], dict[str, int]]:
    """What a redemption that counts no more gives back: of its reward's limits, and of its stock
    (pieces by id, below zero)."""
    told = redemption.answer or {}
    key = key_of(redemption.partition)
    on = day_number_of(draft.local_date(redemption.recorded_at))
    reward_id, drew = told.get("r", ""), told.get("k", 0)
    hold = Hold(key, 0, on, reward_id, drew, tuple(told.get("c", ())))
    return tuple(given_back(hold)), {stock_id(reward_id): -drew} if drew else {}


def spent(entry: Entry) -> int:
    """The change of the balance that a redemption or hold made by itself; below zero."""
    return sum(posting.balance_change for posting in entry.own_postings)


def restored_before(known: Known, redemption: Entry) -> int:
    """How much of a redemption refunds have given back so far; it may ask for the history."""
    identity = redemption_id(redemption)
    return sum(
        points
        for entry in known.history_since(redemption.recorded_at).entries
        for name, points in (entry.explanation or {}).get("s", ())
        if name == identity
    )


def returned(redemption: Entry, points: int, before: int) -> list[tuple[Day, int]]:
    """Up to `points` of a redemption for its old lots, the longest-lived first, after `before` of
    them went back the same way."""
    lots: list[tuple[Day, int]] = []
    taken = [lot for posting in redemption.own_postings for lot in posting.lots]
    for end, change in sorted(taken, reverse=True):
        skipped = min(before, -change)
        before -= skipped
        part = min(points, -change - skipped)
        points -= part
        if part:
            lots.append((end, part))
    return lots


def discount(program: Program, terms: Discount, order_amount: int | None) -> dict[str, Any]:
    """What the reward takes off: an amount in minor units, never more than the order, or a
    percentage where no order says of what."""
    if terms.amount is not None:
        amount = terms.amount if order_amount is None else min(terms.amount, order_amount)
        return {"amount": amount, "currency": program.currency}
    percent = terms.percent or Fraction(0)
    if order_amount is None:
        capped = {} if terms.max_amount is None else {"max_amount": terms.max_amount}
        return {"percent": decimal(percent), "currency": program.currency} | capped
    amount = int(order_amount * percent / 100)
    if terms.max_amount is not None:
        amount = min(amount, terms.max_amount)
    return {"amount": amount, "currency": program.currency}
