"""The sweep: what fell due by itself is written down.

The schedule fans out one message for each segment of the Accounts table; a message is worked off
page by page. What a page holds is committed account by account, so a message that comes twice, or
late, or was cut off in the middle, changes nothing that is not due. Where time runs out, be it
within a page, it is sent on.

The scheduled time is the job's key. Under it stands whether the job was fanned out, and how far it
has come in each segment: a schedule that fires twice sends its messages once, and a message that
comes again goes on where the segment stands. What is due is judged by the clock alone.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from loyalty import celebrations, edge, lifecycle
from loyalty.dates import day_number, from_milliseconds, local_date, milliseconds, rfc3339
from loyalty.decisions import Decision, Record
from loyalty.edge import count, counting, logger, store, sweep_queue
from loyalty.model import Account, Day, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.store import SWEEP, Unanswered, Unavailable, send_messages

RESERVE_MILLISECONDS: Final = 20_000
"""Time that must be left to begin another page or another account: for a slow page, an account that
is tried to the end of the store's patience, and writing the place down."""
KEPT_SECONDS: Final = 30 * 86_400
"""How long a job's items are kept: longer than a dead letter waits."""


class NotSwept(Exception):
    """Some accounts could not be done. All others are; the next job tries these again."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer the schedule (fan out) or a batch of the queue (sweep; failed messages come again).

    NotSwept, so that the alarm rings, when all that can be done is done.
    """
    with counting():
        if "Records" not in event:
            return _fan_out(str(event.get("scheduled_time") or rfc3339(_now())))
        failed, again = 0, []
        for record in event["Records"]:
            job = Job(json.loads(record["body"]))
            if not job.worked_off(context):
                again.append({"itemIdentifier": record["messageId"]})
            failed += job.failed
        if failed:
            raise NotSwept(f"{failed} accounts")
        return {"batchItemFailures": again}


def _fan_out(scheduled_time: str) -> dict[str, Any]:
    """Send a message for each segment, unless this job's have been sent."""
    queue, segments = sweep_queue()
    claim = {"segments": segments, "revision": 1, "ttl": _ttl()}
    store().create_record(Record(SWEEP, scheduled_time, claim))
    seen = store().record(SWEEP, scheduled_time)
    if seen is None or seen["revision"] > 1:
        return {"segments": 0}
    # As many as were claimed: who claimed may have sent some of them.
    segments = seen["segments"]
    send_messages(
        queue,
        [
            {"scheduled_time": scheduled_time, "segment": i, "segments": segments}
            for i in range(segments)
        ],
    )
    sent = claim | {"segments": segments, "revision": 2, "sent_at": _now()}
    store().replace_record(Record(SWEEP, scheduled_time, sent), seen=seen)
    return {"segments": segments}


class Job:
    """One segment of a job, worked off from where it stands; `failed` counts the accounts that
    could not be done by this message. Without a scheduled time nothing is remembered."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message
        self.scheduled_time: str = message.get("scheduled_time") or ""
        self.segment: int = message["segment"]
        self.failed = 0

    def worked_off(self, context: Any) -> bool:
        """Whether the message is done with: the segment is, or the rest was sent on. False where it
        has to come again, to go on or to see whether another one has."""

        def time_is_up() -> bool:
            left: int = context.get_remaining_time_in_millis()
            return left < RESERVE_MILLISECONDS

        try:
            stands = self._standing()
            changed_at = 0 if stands["done"] else store().terms_changed_at()
            while not stands["done"]:
                start = json.loads(stands["start"])
                following, failed = _sweep_page(
                    self.segment, self.message["segments"], start, changed_at, time_is_up
                )
                self.failed += failed
                moved = self._moved(stands, following, failed)
                if moved is None:
                    logger.info("another message works on it", segment=self.segment)
                    return False
                stands = moved
                if not stands["done"] and time_is_up():
                    send_messages(sweep_queue()[0], [self.message])
                    break
        except Unavailable:
            logger.warning("sweep interrupted", segment=self.segment)
            return False
        finally:
            self._tell_lag()
        return True

    def _record(self, fields: dict[str, Any]) -> Record:
        return Record(SWEEP, f"{self.scheduled_time}#{self.segment:04}", fields | {"ttl": _ttl()})

    def _standing(self) -> dict[str, Any]:
        """How far the segment has come: `start` of its next page (JSON), `pages` done, accounts
        `failed`, `done`."""
        fresh = {"start": "null", "pages": 0, "failed": 0, "done": 0, "revision": 0}
        record = self._record({})
        found = store().record(record.partition, record.sort) if self.scheduled_time else None
        return found or fresh

    def _moved(self, seen: dict[str, Any], start: Any, failed: int) -> dict[str, Any] | None:
        """The standing after a page, written down; None where it has moved meanwhile."""
        moved = {
            "start": json.dumps(start),
            "pages": seen["pages"] + 1,
            "failed": seen["failed"] + failed,
            "done": int(start is None),
            "revision": seen["revision"] + 1,
            "at": _now(),
        }
        if not self.scheduled_time:
            return moved
        record = self._record(moved)
        if not seen["revision"]:
            return moved if store().create_record(record) else None
        return moved if store().replace_record(record, seen=seen) else None

    def _tell_lag(self) -> None:
        if self.scheduled_time:
            lag = edge.clock() - datetime.fromisoformat(self.scheduled_time)
            count("SweepLagSeconds", max(0, int(lag.total_seconds())))


def _now() -> int:
    return milliseconds(edge.clock())


def _ttl() -> int:
    return _now() // 1000 + KEPT_SECONDS


def _sweep_page(
    segment: int, segments: int, start: Any, changed_at: int, time_is_up: Callable[[], bool]
) -> tuple[Any, int]:
    """Write down what is due on one page, or on as much of it as there is time for, which is one
    account at least: (where the next one starts or None, how many accounts could not be done). One
    that cannot keeps nobody else waiting."""
    now = _now()
    # The earliest time zone is a day ahead: what is due is decided at each program's own date.
    latest = day_number(edge.clock().date()) + 1
    feasts = celebrations.feasts(edge.clock().date())
    page = store().due_accounts(latest, changed_at, feasts, segment, segments, start)
    done, failed = None, 0
    for key, account in page.accounts:
        if done is not None and time_is_up():
            return done, failed
        done = key
        if account is None:
            failed += 1
            logger.error("account not readable", program_id=key["pk"]["S"].partition("#")[0])
            continue
        try:
            rulebook = store().rulebook_in_force(account.program_id, now)
            count("SweptAccounts", _expire(rulebook, account, now))
            for celebration in celebrations.due(rulebook, account, _today(rulebook, account, now)):
                count("Celebrations", _celebrate(rulebook, account, celebration, now))
        except Unanswered:
            raise
        except Exception:  # noqa: BLE001  # whatever is wrong with it is wrong with this one alone
            failed += 1
            logger.exception("account not swept", program_id=account.program_id)
    return page.following, failed


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
