"""The sweep: what fell due by itself is written down.

The schedule fans out one message for each segment of the Accounts table; a message is worked off
page by page. What a page holds is committed account by account, so a message that comes twice, or
late, or was cut off in the middle, changes nothing that is not due. Where time runs out, the rest
goes on as a new message.
"""

import json
from typing import Any

from loyalty import edge, lifecycle
from loyalty.dates import day_number, milliseconds
from loyalty.decisions import Decision
from loyalty.edge import count, counting, logger, store, sweep_queue
from loyalty.model import Account, Refusal
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
    while True:
        try:
            start = _sweep_page(message["segment"], message["segments"], start)
        except Unavailable:
            logger.warning("sweep interrupted", segment=message["segment"])
            return False
        if start is None:
            return True
        if context.get_remaining_time_in_millis() < RESERVE_MILLISECONDS:
            send_messages(sweep_queue()[0], [message | {"start": start}])
            return True


def _sweep_page(segment: int, segments: int, start: Any) -> Any:
    """Write down what is due on one page; returns where the next one starts, or None."""
    now = milliseconds(edge.clock())
    # The earliest time zone is a day ahead: what is due is decided at each program's own date.
    latest = day_number(edge.clock().date()) + 1
    accounts, following = store().due_accounts(latest, segment, segments, start)
    written = 0
    for account in accounts:
        written += _expire(account, now)
    count("SweptAccounts", written)
    return following


def _expire(account: Account, now: int) -> bool:
    program_id, member_id = account.program_id, account.member_id
    rulebook = store().rulebook_in_force(program_id, now)
    if lifecycle.sweep(rulebook, account, now) is None:
        return False  # its local midnight has not come

    def decide(accounts: Any, _: Any) -> Decision:
        decision = lifecycle.sweep(rulebook, accounts[member_id], now)
        if decision is None:
            raise Refusal("nothing_due", "Somebody else wrote it down.")
        return decision

    try:
        store().commit(program_id, [member_id], lifecycle.guard(account), decide)
    except Refusal:
        return False
    return True
