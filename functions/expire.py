"""The sweep: what fell due by itself is written down.

The schedule fans out one message for each segment of the Accounts table; a message is worked off
page by page. What a page holds is committed account by account, so a message that comes twice, or
late, or was cut off in the middle, changes nothing that is not due. Where time runs out, the rest
goes on as a new message.
"""

import json
from typing import Any

from loyalty import celebrations, edge, lifecycle
from loyalty.dates import day_number, from_milliseconds, local_date, milliseconds
from loyalty.decisions import Decision
from loyalty.edge import count, counting, logger, store, sweep_queue
from loyalty.model import Account, Day, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.store import Unavailable, send_messages

RESERVE_MILLISECONDS = 20_000
"""Time that must be left to begin another page: 1 MB of accounts, each due one a transaction."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer the schedule (fan out) or a batch of the queue (sweep; failed messages come again)."""
    with counting():
        if "Records" not in event:
            return _fan_out(str(event.get("scheduled_time", "")))
        failures = [r["messageId"] for r in event["Records"] if not _swept(r, context)]
        return {"batchItemFailures": [{"itemIdentifier": i} for i in failures]}


def _fan_out(scheduled_time: str) -> dict[str, Any]:
    queue, segments = sweep_queue()
    bodies = [
        {"scheduled_time": scheduled_time, "segment": i, "segments": segments, "start": None}
        for i in range(segments)
    ]
    send_messages(queue, bodies)
    return {"segments": segments}


def _swept(record: dict[str, Any], context: Any) -> bool:
    """Work off one message; False if it has to come again."""
    message = json.loads(record["body"])
    start = message["start"]
    whole = True
    while True:
        try:
            start, done = _sweep_page(message["segment"], message["segments"], start)
        except Unavailable:
            logger.warning("sweep interrupted", segment=message["segment"])
            return False
        whole &= done
        if start is None:
            return whole
        if context.get_remaining_time_in_millis() < RESERVE_MILLISECONDS:
            send_messages(sweep_queue()[0], [message | {"start": start}])
            return whole


def _sweep_page(segment: int, segments: int, start: Any) -> tuple[Any, bool]:
    """Write down what is due on one page: (where the next one starts or None, whether all of it
    could be done). One account that cannot be done keeps nobody else waiting, and rings the alarm
    when its message has come back often enough."""
    now = milliseconds(edge.clock())
    # The earliest time zone is a day ahead: what is due is decided at each program's own date.
    latest = day_number(edge.clock().date()) + 1
    accounts, following = store().due_accounts(
        latest, celebrations.feasts(edge.clock().date()), segment, segments, start
    )
    failed = 0
    for account in accounts:
        try:
            rulebook = store().rulebook_in_force(account.program_id, now)
            count("SweptAccounts", _expire(rulebook, account, now))
            for celebration in celebrations.due(rulebook, account, _today(rulebook, account, now)):
                count("Celebrations", _celebrate(rulebook, account, celebration, now))
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  # whatever is wrong with it is wrong with this one alone
            failed += 1
            logger.exception("account not swept", program_id=account.program_id)
    count("SweepFailures", failed)
    return following, not failed


def _today(rulebook: Rulebook, account: Account, now: int) -> Day:
    at = from_milliseconds(max(now, account.recorded_at))
    return day_number(local_date(at, rulebook.program.zone))


def _celebrate(
    rulebook: Rulebook, account: Account, celebration: celebrations.Celebration, now: int
) -> bool:
    """Pay a birthday or an anniversary, if it was not paid before and there is anything to pay."""
    program_id, member_id = account.program_id, account.member_id
    guard = celebration.guard(account)
    if not rulebook.considered(celebration.kind):
        return False
    if store().entry(program_id, guard.partition, guard.sort) is not None:
        return False

    def decide(known: Known) -> Decision:
        decision = celebrations.celebrate(rulebook, known, member_id, celebration, now)
        if decision is None:
            raise Refusal("nothing_due", "The rules give nothing for this day.")
        return decision

    try:
        return not store().commit(program_id, [member_id], guard, decide).replayed
    except Refusal:
        return False


def _expire(rulebook: Rulebook, account: Account, now: int) -> bool:
    """Write down what fell due, if anything did."""
    program_id, member_id = account.program_id, account.member_id
    if lifecycle.sweep(rulebook, account, now) is None:
        return False  # its local midnight has not come

    try:
        store().commit(
            program_id,
            [member_id],
            lifecycle.guard(account),
            lambda known: lifecycle.written_down(rulebook, known, member_id, now),
        )
    except Refusal:
        return False
    return True
