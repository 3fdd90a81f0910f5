"""Decisions that take back what an event gave."""

from collections.abc import Sequence
from typing import Any

from loyalty.decisions import Decision, Draft, Guard
from loyalty.lots import take
from loyalty.model import Entry, History, Known, NeedsHistory, Posting, Refusal
from loyalty.rules import Rulebook


def reverse(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    entries: Sequence[Entry],
    now: int,
) -> Decision:
    """Take back everything that an event gave: `entries` are all that stand under its key, the
    award first, then what a referral gave its referrer, and refunds that came before.

    Points are taken from the event's own pending part, then from its lots, then by the program's
    policy from other lots, or not at all, or as debt. What had expired is not taken twice, and
    what nothing covers is forgiven. Refusals: `member_not_found`, `more_than_bought`.
    """
    if any(entry.kind == "reverse" for entry in entries):
        raise Refusal("more_than_bought", "Everything this event gave has been taken back.")
    event, *others = entries
    if event.kind not in ("award", "check_in"):
        raise Refusal("event_not_found", "What stands under this key is no event.")
    drawn = (event.explanation or {}).get("b", {})
    taken = [_taken_back(rulebook, known, guard, event, now)]
    for other in others:  # the referrer's side goes with the purchase that earned it
        beside = Guard(guard.partition, f"{guard.sort}#{other.sort}", guard.fingerprint)
        taken.append(_taken_back(rulebook, known, beside, other, now))
    return Decision(tuple(taken), draws={name: -points for name, points in drawn.items()})


def _taken_back(rulebook: Rulebook, known: Known, guard: Guard, event: Entry, now: int) -> Entry:
    """The entry that takes back from one member what one entry gave."""
    draft = Draft(rulebook, known.account(event.member_id), now)
    history = known.history
    given = event.points
    posting = Posting("reverse", draft.today)
    expired: dict[int, int] = {}
    for own in event.own_postings:
        for start, end, points in own.pending:
            waiting = sum(n for s, e, n in draft.account.pending if (s, e) == (start, end))
            waiting += sum(n for s, e, n in posting.pending if (s, e) == (start, end))
            part = min(points, waiting)
            posting = _and(posting, pending=((start, end, -part),))
            from_lot = _from_lot(draft, posting, end, points - part)
            posting = _and(posting, lots=from_lot)
            missing = points - part + _sum(from_lot)
            _add(expired, end, _expired(draft, event, history, end, missing))
        for end, points in own.lots:
            from_lot = _from_lot(draft, posting, end, points)
            posting = _and(posting, lots=from_lot)
            _add(expired, end, _expired(draft, event, history, end, points + _sum(from_lot)))
    draft.post(posting)
    short = given + posting.points - sum(expired.values())
    policy = rulebook.program.refunds.shortfall
    more = 0 if policy == "clamp" else min(short, draft.account.available)
    draft.post(take(draft.account, "reverse", draft.today, more))
    if policy == "debt" and short > more:
        draft.post(Posting("reverse", draft.today, debt=short - more))
        more = short
    return draft.entry(
        "reverse",
        guard,
        lifetime=-given,
        qualifying=_unqualified(draft, event),
        reason=event.partition.partition("#")[2],
        # In the index: later refunds of the same lot must not count the same expiry again.
        explanation=_without_nothing({"x": sorted(expired.items()), "f": short - more}),
    )


def _add(expired: dict[int, int], end: int, points: int) -> None:
    if points:
        expired[end] = expired.get(end, 0) + points


def _without_nothing(values: dict[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in values.items() if value} or None


def _unqualified(draft: Draft, event: Entry) -> tuple[tuple[int, int], ...]:
    """What the event counted towards a tier, taken back from where it still counts."""
    known = dict(draft.account.qualifying)
    return tuple(
        (start, -min(amount, known[start]))
        for start, amount in event.qualifying
        if amount > 0 and start in known
    )


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
    later = [e for e in history.entries if e.member_id == event.member_id and e.seq > event.seq]
    # Of the event's own entry only what went after the grant: points that came too late to live.
    last = max((i for i, p in enumerate(event.postings) if p in event.own_postings), default=-1)
    postings = [*event.postings[last + 1 :], *(p for e in later for p in e.postings)]
    gone: int = sum(
        -change
        for posting in (*postings, *draft.postings)
        if posting.kind == "expire"
        for expires_on, change in posting.lots
        if expires_on == end
    )
    # What earlier refunds have counted as expired is not there for this one.
    gone -= sum(
        claimed
        for entry in later
        if entry.kind == "reverse"
        for day, claimed in (entry.explanation or {}).get("x", ())
        if day == end
    )
    return max(0, min(points, gone))


def _may_have_expired(draft: Draft, end: int) -> bool:
    policies = draft.rulebook.program.expiry
    return end <= draft.today or any(policy.inactive_for is not None for policy in policies)
