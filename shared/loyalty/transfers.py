"""Points from member to member: they change hands with the dates they have."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from typing import Any

from loyalty.commands import Transfer
from loyalty.dates import (
    Duration,
    day_begins,
    day_number,
    from_day_number,
    milliseconds,
    minus,
    plus,
)
from loyalty.decisions import (
    Decision,
    Draft,
    Guard,
    at_one_moment,
    id_of,
    key_of,
    may_earn,
    may_spend,
    revived_on,
)
from loyalty.limits import (
    FOREVER,
    FUTURE_TOLERANCE,
    POINTS_SENT,
    Usage,
    free_again,
    limit_reached,
)
from loyalty.lots import credit
from loyalty.model import (
    BY_ITSELF,
    Account,
    Day,
    Entry,
    Known,
    Posting,
    Refusal,
    iso,
)
from loyalty.program import Transfers
from loyalty.rules import Rulebook

_ONE_DAY = Duration(days=1)
_MONTHS_DIFFER_BY = Duration(days=-3)


def transfer_id(entry: Entry) -> str:
    """A transfer's id: its Idempotency-Key."""
    return id_of("t", key_of(entry.partition))


def transfer(
    rulebook: Rulebook, known: Known, guard: Guard, command: Transfer, from_id: str, now: int
) -> Decision:
    """Send points to another member: two entries, the sender's first, or nothing.

    Lots leave in spending order and keep their dates; what the receiver owes is paid first. It is
    no activity and counts for no tier; only where inactivity had run out for the receiver its
    clock starts anew, so that a transfer destroys nothing. Refusals: `member_not_found`,
    `member_erased`, `same_member`, `member_blocked`, `member_closed`, `transfer_refused` (with a
    `reason`), `limit_reached`, `insufficient_points` (with `missing_points`).
    """
    both = known.account(from_id), known.account(command.to_member_id)
    sender, receiver = at_one_moment(rulebook, both, now)
    if sender.before.member_id == receiver.before.member_id:
        raise Refusal("same_member", "Sender and receiver are one and the same member.")
    may_spend(sender.account)
    may_earn(receiver.account)
    terms = rulebook.program.transfers
    if terms is None or not terms.enabled:
        raise _refused("disabled", "The program has no transfers.")
    if command.points < terms.min_points:
        raise _refused("min_points", f"At least {terms.min_points} points are sent at once.")
    _old_enough(sender, terms)
    usage = Usage(
        sender.before, sender.local_date(sender.recorded_at), rulebook.program.zone, known.history
    )
    _within_limits(usage, terms, command.points, sender)
    fresh = _fresh(sender, known, terms)
    lots = list(_lots(sender.account, fresh, command.points))
    missing = command.points - sum(points for _, points in lots)
    if missing:
        held_back = {"fresh_points": sum(fresh.values())} if fresh else {}
        raise Refusal(
            "insufficient_points",
            f"{missing} points are missing of those that can be sent.",
            missing_points=missing,
            **held_back,
        )
    taken = tuple((end, -points) for end, points in lots)
    sender.post(Posting("transfer", sender.today, lots=taken))
    counts = tuple(
        usage.count(per, POINTS_SENT, command.points)
        for per in dict.fromkeys(m.per for m in terms.limits)
    )
    grants = [(receiver.today, end, points) for end, points in lots]
    revived = revived_on(receiver)
    receiver.post(credit(receiver.account, "transfer", receiver.today, grants, receiver.today))
    beside = replace(guard, sort="to")
    received = receiver.entry("transfer", beside, active_on=revived, reason="received")
    answer = {"t": receiver.before.member_id, "b": received.balance}
    sent = sender.entry("transfer", guard, counts=counts, reason="sent", answer=answer)
    return Decision((sent, received))


def _refused(reason: str, detail: str, **more: Any) -> Refusal:
    return Refusal("transfer_refused", detail, reason=reason, **more)


def _old_enough(sender: Draft, terms: Transfers) -> None:
    joined = sender.before.joined_on
    if joined is None or terms.new_member_wait.is_zero:
        return
    first = day_number(plus(from_day_number(joined), terms.new_member_wait))
    if sender.today < first:
        raise _refused("new_member", "New members send nothing yet.", available_on=iso(first))


def _within_limits(usage: Usage, terms: Transfers, points: int, sender: Draft) -> None:
    """Refusal `limit_reached`, with the time from which all limits allow it; none where it is more
    than one of them ever allows."""
    full = [m for m in terms.limits if usage.used(m.per, POINTS_SENT) + points > m.points]
    if full:
        again = free_again((m.per for m in full), usage.on, sender.rulebook.program.zone)
        if any(points > limit.points for limit in full):
            again = FOREVER
        raise limit_reached("So many points may not be sent for now.", again, sender.recorded_at)


def _fresh(sender: Draft, known: Known, terms: Transfers) -> dict[Day, int]:
    """Points by expiry that came too lately to be sent, as far as they are still there.

    Points come when they can first be spent: pending ones on the day on which they become
    available, whenever that was written down, all others when they were recorded. What a
    redemption gives back was there before, and what a refund has taken back is there no more.
    """
    wait = terms.fresh_points_wait
    if wait.is_zero:
        return {}
    first = _first_fresh(from_day_number(sender.today), wait)
    since = milliseconds(day_begins(first, sender.rulebook.program.zone))
    entries = known.history_since(since).of(sender.before.member_id)
    own = [e for e in entries if e.member_id == sender.before.member_id and e.recorded_at >= since]
    came: dict[Day, int] = {}
    for posting in (*(p for entry in own for p in entry.postings), *sender.postings):
        for end, points in _came(posting, day_number(first)):
            came[end] = came.get(end, 0) + points
    refunds = [e for e in own if any(end in came for end, _ in _claimed(e))]
    began = {e.partition for e in entries if e.kind != "reverse"}
    if any(e.partition not in began for e in refunds):
        known.history_since(_earliest(sender, first))
    given = _given(entries, since, day_number(first))
    for refund in refunds:
        for end, points in _claimed(refund):
            gone = min(points, given.get((refund.partition, end), 0))
            if gone:
                given[refund.partition, end] -= gone
                came[end] -= gone
    held = dict(sender.account.lots)
    fresh = {end: min(points, held.get(end, 0)) for end, points in came.items()}
    return {end: points for end, points in fresh.items() if points > 0}


def _first_fresh(today: date, wait: Duration) -> date:
    """The first local date since which a wait is not over: all of it counts."""
    # Counted forwards, as every duration: of the ends of months none is the way back.
    first = plus(minus(today, wait), _MONTHS_DIFFER_BY)
    while plus(first, wait) <= today:
        first = plus(first, _ONE_DAY)
    return first


def _came(posting: Posting, first: Day) -> Iterator[tuple[Day, int]]:
    """What a posting of these days brought into lots, by their expiry."""
    if posting.kind == "activate":
        brings = posting.on >= first
    else:
        brings = posting.kind != "cancel" and posting.kind not in BY_ITSELF
    yield from (lot for lot in posting.lots if brings and lot[1] > 0)


def _claimed(entry: Entry) -> Iterator[tuple[Day, int]]:
    """What refunds in this entry took back of points that were available, by their expiry."""
    pending: dict[Day, int] = {}
    for _, end, change in (p for own in entry.own_postings for p in own.pending if p[2] < 0):
        pending[end] = pending.get(end, 0) - change
    for end, points in (entry.explanation or {}).get("t", ()):
        yield end, points - pending.get(end, 0)


def _given(entries: Iterable[Entry], since: int, first: Day) -> dict[tuple[str, Day], int]:
    """What came by each event of the entries, by its partition and the points' expiry."""
    given: dict[tuple[str, Day], int] = {}
    for entry in entries:
        for posting in entry.own_postings:
            lots = list(_came(posting, first)) if entry.recorded_at >= since else []
            lots += [(end, points) for start, end, points in posting.pending if start >= first]
            for end, points in lots:
                if points > 0:
                    key = entry.partition, end
                    given[key] = given.get(key, 0) + points
    return given


def _earliest(sender: Draft, first: date) -> int:
    """Since when an event may have been recorded whose points became available on `first`."""
    program = sender.rulebook.program
    waits = [*program.pending.values(), *(rule.pending for rule in program.rules if rule.pending)]
    earliest = min((minus(first, wait) for wait in waits), default=first)
    return milliseconds(day_begins(earliest, program.zone) - FUTURE_TOLERANCE)


def _lots(account: Account, fresh: dict[Day, int], points: int) -> Iterator[tuple[Day, int]]:
    """Up to `points` of the lots in spending order, without what is fresh."""
    for end, held in account.lots:
        part = min(points, held - fresh.get(end, 0))
        if part > 0:
            points -= part
            yield end, part
