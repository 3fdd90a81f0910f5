"""Points from member to member: they change hands with the dates they have."""

from collections.abc import Iterator
from dataclasses import replace
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
    rfc3339,
)
from loyalty.decisions import Decision, Draft, Guard, id_of, may_earn, may_spend, revived_on
from loyalty.limits import Usage, free_again, token
from loyalty.lots import credit
from loyalty.model import (
    Account,
    Day,
    Entry,
    Known,
    NeedsHistory,
    Posting,
    Refusal,
)
from loyalty.program import Transfers
from loyalty.rules import Rulebook, iso

SENT = token("program", "transfers")
"""The counter of points that a member has sent."""
_ONE_DAY = Duration(days=1)


def transfer_id(entry: Entry) -> str:
    """A transfer's id: its Idempotency-Key."""
    return id_of("t", entry.partition.removeprefix("k#"))


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
    sender = Draft(rulebook, known.account(from_id), now)
    receiver = Draft(rulebook, known.account(command.to_member_id), now)
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
    _within_limits(usage, terms, command.points, rulebook)
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
        usage.count(per, SENT, command.points) for per in dict.fromkeys(m.per for m in terms.limits)
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


def _within_limits(usage: Usage, terms: Transfers, points: int, rulebook: Rulebook) -> None:
    for limit in terms.limits:
        if usage.used(limit.per, SENT) + points > limit.points:
            free = free_again(limit.per, usage.on, rulebook.program.zone)
            again = {} if free is None else {"next_allowed_at": rfc3339(milliseconds(free))}
            raise Refusal("limit_reached", "So many points may not be sent for now.", **again)


def _fresh(sender: Draft, known: Known, terms: Transfers) -> dict[Day, int]:
    """Points by expiry that came too lately to be sent, as far as they are still there."""
    wait = terms.fresh_points_wait
    if wait.is_zero:
        return {}
    zone = sender.rulebook.program.zone
    # The whole of the first local date that is not old enough.
    first = plus(minus(from_day_number(sender.today), wait), _ONE_DAY)
    since = milliseconds(day_begins(first, zone))
    if known.history is None or known.history.since > since:
        raise NeedsHistory(since)
    came: dict[Day, int] = {}
    for entry in known.history.entries:
        if entry.member_id != sender.before.member_id or entry.recorded_at < since:
            continue
        for posting in entry.own_postings:
            for end, change in posting.lots:
                if change > 0 and posting.kind != "cancel":
                    came[end] = came.get(end, 0) + change
    held = dict(sender.account.lots)
    fresh = {end: min(points, held.get(end, 0)) for end, points in came.items()}
    return {end: points for end, points in fresh.items() if points}


def _lots(account: Account, fresh: dict[Day, int], points: int) -> Iterator[tuple[Day, int]]:
    """Up to `points` of the lots in spending order, without what is fresh."""
    for end, held in account.lots:
        part = min(points, held - fresh.get(end, 0))
        if part > 0:
            points -= part
            yield end, part
