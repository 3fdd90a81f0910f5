"""Decisions about an account as a whole: what fell due, what a member may do, members that are
one, members that are forgotten."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from loyalty import tiers
from loyalty.commands import SetTier
from loyalty.dates import day_number
from loyalty.decisions import (
    Decision,
    Draft,
    Guard,
    Record,
    at_one_moment,
    given_back,
    may_earn,
    revived_on,
    stock_id,
)
from loyalty.model import Account, Count, Day, Hold, Kind, Known, Posting, Refusal, Status
from loyalty.rules import Rulebook


def sweep(rulebook: Rulebook, account: Account, now: int) -> Decision | None:
    """The entry of what fell due by itself, or None where nothing did.

    It changes no balance: every read has counted with it since the day came. Its guard is the
    entry's own number, so that a message delivered twice writes once.
    """
    draft = Draft(rulebook, account, now)
    if draft.account == account:
        return None
    kinds = {posting.kind for posting in draft.postings}
    # A tier falls without moving points, and so does a notice.
    kind: Kind = "expire" if kinds - {"notice"} else "notice" if kinds else "tier"
    return Decision((draft.entry(kind, guard(account)),))


def guard(account: Account) -> Guard:
    """Under which what falls due after the account's last entry is written down."""
    return Guard(f"d#{account.member_id}", str(account.seq + 1), b"")


def written_down(rulebook: Rulebook, known: Known, member_id: str, now: int) -> Decision:
    """What fell due for a member; Refusal `nothing_due` where somebody else wrote it down."""
    decision = sweep(rulebook, known.account(member_id), now)
    if decision is None:
        raise Refusal("nothing_due", "Somebody else wrote it down.")
    return decision


def change_status(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    kind: Literal["block", "unblock", "close"],
    by: str,
    now: int,
) -> Decision:
    """Let a member earn but not spend (block), do both again (unblock), or neither (close).

    What a closed member has stays and expires by itself. Refusals: `member_not_found`,
    `member_erased`, `member_closed`, `nothing_due` where it is so already.
    """
    draft = Draft(rulebook, known.account(member_id), now)
    status: Status = {"block": "blocked", "unblock": "", "close": "closed"}[kind]  # type: ignore[assignment]  # the values are literals
    if draft.account.status == status:
        raise Refusal("nothing_due", "It is so already.")
    may_earn(draft.account)
    draft.account = replace(draft.account, status=status)
    return Decision((draft.entry(kind, guard, status=status, answer={"s": by}),))


def set_tier(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    command: SetTier,
    by: str,
    now: int,
) -> Decision:
    """Put a member into a tier until a date, whatever was reached; or take that off again.

    Refusals: `member_not_found`, `member_erased`, `member_closed`, `unknown_tier`,
    `expires_too_early`, `nothing_due` where it is so already.
    """
    draft = Draft(rulebook, known.account(member_id), now)
    may_earn(draft.account)
    if command.tier_id is not None and command.tier_id not in rulebook.program.tier_by_id:
        raise Refusal("unknown_tier", "The program has no such tier.", pointer="/tier_id")
    until = None if command.until is None else day_number(command.until)
    if until is not None and until <= draft.today:
        raise Refusal("expires_too_early", "This day has come already.", pointer="/until")
    pinned = command.tier_id or ""
    if (draft.account.pinned, draft.account.pinned_until) == (pinned, until):
        raise Refusal("nothing_due", "It is so already.")
    terms = rulebook.program.tiers
    if not pinned and terms is not None:
        draft.account = tiers.unpinned(terms, draft.account)
    else:
        draft.account = replace(draft.account, pinned=pinned, pinned_until=until)
    return Decision((draft.entry("tier", guard, reason="set", answer={"s": by}),))


def merge(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    from_id: str,
    into_id: str,
    by: str,
    records: tuple[Record, ...],
    now: int,
) -> Decision:
    """Make two members one: two entries, that of the one who stays first.

    Points keep their dates; what both owe is paid from what both have, the earliest first. What
    counts towards a tier adds up, and the higher tier is kept; counters of windows that are still
    current add up, so that nothing that is paid once is paid twice. The other id is an alias from
    now on. Refusals: `member_not_found`, `member_erased`, `same_member`, `member_closed`,
    `open_holds`.
    """
    both = known.account(from_id), known.account(into_id)
    goes, stays = at_one_moment(rulebook, both, now)
    if goes.before.member_id == stays.before.member_id:
        raise Refusal("same_member", "Both ids are one and the same member's.")
    may_earn(goes.account)
    may_earn(stays.account)
    if goes.account.holds:
        raise Refusal("open_holds", "Capture or cancel the holds of this member first.")
    source, today = goes.account, goes.today
    goes.post(_everything(source, "merge", today))
    status: Status = "blocked" if "blocked" in (source.status, stays.account.status) else ""
    goes.account = replace(
        _without_standing(goes.account), status="merged", merged_into=stays.before.member_id
    )
    gone = goes.entry(
        "merge",
        replace(guard, sort="from"),
        status="merged",
        merged_into=stays.before.member_id,
        lifetime=-source.lifetime,
        groups=(),
        birthday=0,
        dropped=_uncounted(source),
        reason="merged",
        answer={"s": by},
    )
    stays.post(_brought(stays.account, source, today))
    terms = rulebook.program.tiers
    stays.account = tiers.higher(rulebook.program, stays.account, source)
    active = max(one.active_on or 0 for one in (stays.account, source)) or None
    stays.account = replace(stays.account, status=status, active_on=active)
    entry = stays.entry(
        "merge",
        guard,
        # What comes to who has run out is not lost on the way: whoever may have kept it may go on.
        active_on=revived_on(stays) or active,
        lifetime=source.lifetime,
        qualifying=()
        if terms is None
        else tiers.moved(terms, source.qualifying, stays.before.joined_on, today),
        counts=_united(stays.before, source, goes.lapsed),
        cooldowns=dict(source.cooldowns),
        status=None if status == stays.before.status else status,
        reason="merged",
        # In the index: who folds the history of the one goes on with that of the other.
        explanation={"m": goes.before.member_id},
        answer={"s": by},
    )
    return Decision((entry, gone), records)


def _everything(account: Account, kind: Kind, today: Day) -> Posting:
    """All points of the account going away, and what it owes."""
    return Posting(
        kind,
        today,
        lots=tuple((end, -points) for end, points in account.lots),
        pending=tuple((start, end, -points) for start, end, points in account.pending),
        debt=-account.debt,
    )


def _without_standing(account: Account) -> Account:
    """The account without tier and birthday: nothing is left that could fall due."""
    return replace(
        account,
        birthday=0,
        qualifying=(),
        tier="",
        tier_until=None,
        pinned="",
        pinned_until=None,
    )


def _uncounted(account: Account) -> tuple[tuple[Day, int], ...]:
    """What the account counts towards a tier, as it counts no more."""
    return tuple((start, -amount) for start, amount in account.qualifying)


def _brought(stays: Account, source: Account, today: Day) -> Posting:
    """What comes to the account that stays: lots and pending with their dates, debts netted."""
    debt = stays.debt + source.debt
    together = dict(stays.lots)
    for end, points in source.lots:
        together[end] = together.get(end, 0) + points
    left = debt
    for end in sorted(together):
        paid = min(left, together[end])
        together[end] -= paid
        left -= paid
    had = dict(stays.lots)
    lots = tuple(
        (end, points - had.get(end, 0))
        for end, points in sorted(together.items())
        if points != had.get(end, 0)
    )
    return Posting("merge", today, lots=lots, pending=source.pending, debt=left - stays.debt)


def _united(stays: Account, source: Account, lapsed: Iterable[Hold]) -> tuple[Count, ...]:
    """The counters that the other account brings, without those of holds that have just lapsed;
    those of windows that are over are dropped."""
    back = Counter((c.per, c.window, c.name) for hold in lapsed for c in given_back(hold))
    brought = [
        Count(per, counts.window, name, by - back[per, counts.window, name])
        for per, counts in source.counters.items()
        if per not in stays.counters or stays.counters[per].window <= counts.window
        for name, by in counts.values.items()
    ]
    return tuple(count for count in brought if count.by)


def erase(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    records: tuple[Record, ...],
    now: int,
) -> Decision:
    """Forget a member: points are written off, what is personal is removed, the id stays as a
    tombstone that brings nobody back.

    Refusals: `member_not_found`, `member_erased`.
    """
    draft = Draft(rulebook, known.account(member_id), now)
    draws: dict[str, int] = {}
    for hold, lots in draft.account.holds:
        held = sum(points for _, points in lots)
        draft.post(Posting("erase", draft.today, held=-held, hold=hold))
        if hold.drew:
            name = stock_id(hold.reward)
            draws[name] = draws.get(name, 0) - hold.drew
    account = draft.account
    draft.post(_everything(account, "erase", draft.today))
    draft.account = replace(_without_standing(draft.account), status="erased")
    entry = draft.entry(
        "erase",
        guard,
        status="erased",
        groups=(),
        birthday=0,
        referrer="",
        dropped=_uncounted(account),
    )
    return Decision((entry,), records, draws)
