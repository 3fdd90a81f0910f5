"""Decisions that take back what an event gave."""

from collections.abc import Sequence

from loyalty.decisions import Decision, Draft, Guard, known
from loyalty.lots import take
from loyalty.model import Account, Entry, History, NeedsHistory, Posting, Refusal
from loyalty.rules import Rulebook


def reverse(
    rulebook: Rulebook,
    account: Account | None,
    guard: Guard,
    event: Entry,
    refunds: Sequence[Entry],
    now: int,
    history: History | None = None,
) -> Decision:
    """Take back everything that `event` gave; `refunds` are those recorded for it before.

    Points are taken from the event's own pending part, then from its lots, then by the program's
    policy from other lots, or not at all, or as debt. What had expired is not taken twice, and
    what nothing covers is forgiven. Refusals: `member_not_found`, `more_than_bought`.
    """
    draft = Draft(rulebook, known(account), now)
    if refunds:
        raise Refusal("more_than_bought", "Everything this event gave has been taken back.")
    given = event.points
    posting = Posting("reverse", draft.today)
    expired = 0
    for own in event.own_postings:
        for start, end, points in own.pending:
            waiting = sum(n for s, e, n in draft.account.pending if (s, e) == (start, end))
            part = min(points, waiting)
            posting = _and(posting, pending=((start, end, -part),))
            draft_lots = _from_lot(draft, posting, end, points - part)
            posting = _and(posting, lots=draft_lots)
            expired += _expired(draft, event, history, end, points - part + _sum(draft_lots))
        for end, points in own.lots:
            taken = _from_lot(draft, posting, end, points)
            posting = _and(posting, lots=taken)
            expired += _expired(draft, event, history, end, points + _sum(taken))
    draft.post(posting)
    short = given + posting.points - expired
    policy = rulebook.program.refunds.shortfall
    more = 0 if policy == "clamp" else min(short, draft.account.available)
    draft.post(take(draft.account, "reverse", draft.today, more))
    if policy == "debt" and short > more:
        draft.post(Posting("reverse", draft.today, debt=short - more))
        more = short
    entry = draft.entry(
        "reverse",
        guard,
        lifetime=-given,
        reason=event.partition.partition("#")[2],
        answer={"x": expired, "f": short - more} if expired or short > more else None,
    )
    return Decision((entry,))


def _and(
    posting: Posting,
    lots: tuple[tuple[int, int], ...] = (),
    pending: tuple[tuple[int, int, int], ...] = (),
) -> Posting:
    return Posting(
        posting.kind,
        posting.on,
        lots=(*posting.lots, *(lot for lot in lots if lot[1])),
        pending=(*posting.pending, *(part for part in pending if part[2])),
    )


def _from_lot(draft: Draft, posting: Posting, end: int, points: int) -> tuple[tuple[int, int], ...]:
    """What the lot of that date still holds beyond what the posting takes, up to `points`."""
    held = sum(n for expires_on, n in draft.account.lots if expires_on == end)
    held += sum(n for expires_on, n in posting.lots if expires_on == end)
    return ((end, -min(points, held)),) if held and points else ()


def _sum(lots: tuple[tuple[int, int], ...]) -> int:
    return sum(points for _, points in lots)


def _expired(draft: Draft, event: Entry, history: History | None, end: int, points: int) -> int:
    """How many of `points` of a lot have gone by expiry since the event, at its date or by
    inactivity. A lot shared with other events counts for this one first: in favour of the member.
    """
    if not points or not _may_have_expired(draft, end):
        return 0
    if history is None or history.since > event.recorded_at:
        raise NeedsHistory(event.recorded_at)
    postings = [p for e in history.entries if e.seq > event.seq for p in e.postings]
    # Points that were late when they came expired within the event's own entry.
    postings += [*event.postings, *draft.postings]
    gone = sum(
        -change
        for posting in postings
        if posting.kind == "expire"
        for expires_on, change in posting.lots
        if expires_on == end
    )
    return min(points, gone)


def _may_have_expired(draft: Draft, end: int) -> bool:
    policies = draft.rulebook.program.expiry
    return end <= draft.today or any(policy.inactive_for is not None for policy in policies)
