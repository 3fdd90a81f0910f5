"""The sweep: what fell due by itself is written down.

The schedule fans out one message for each segment of the Accounts table (`segments`). What a page
holds is committed account by account, so a message that comes twice, or late, or was cut off in the
middle, changes nothing that is not due. What is due is judged by the clock alone, never by the
scheduled time.
"""

import json
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from loyalty import celebrations, edge, lifecycle
from loyalty.dates import day_number, from_milliseconds, local_date, milliseconds
from loyalty.decisions import Decision
from loyalty.edge import count, counting, logger, store, sweep_queue
from loyalty.model import Account, Day, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.segments import Job, Standing
from loyalty.store import SWEEP, Unanswered

RESERVE_SECONDS: Final = 20
"""Time that must be left to begin another page or another account: for a slow page, an account that
is tried to the end of the store's patience, and writing the place down."""
KEPT_SECONDS: Final = 30 * 86_400
"""How long a job's items are kept: longer than a dead letter waits."""


class NotSwept(Exception):
    """Some accounts could not be done. All others are; the next job tries these again."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer the schedule (fan out) or a batch of the queue (sweep; failed messages come again).

    NotSwept, so that the alarm rings, when all that can be done of a segment is done.
    """
    with counting():
        if "Records" not in event:
            return {"segments": Sweep.fan_out(event.get("scheduled_time"))}
        try:
            return Sweep.work(event["Records"], context)
        finally:
            for record in event["Records"]:
                _tell_lag(json.loads(record["body"]))


def _tell_lag(message: dict[str, Any]) -> None:
    lag = edge.clock() - datetime.fromisoformat(message["scheduled_time"])
    count("SweepLagSeconds", max(0, int(lag.total_seconds())))


class Sweep(Job):
    """One segment of the accounts; its standing counts those that `failed`."""

    partition = SWEEP
    kept_seconds = KEPT_SECONDS
    reserve_seconds = RESERVE_SECONDS

    @staticmethod
    def queue() -> tuple[str, int]:
        return sweep_queue()

    @cached_property
    def changed_at(self) -> int:
        """When the terms changed last, looked up once for each message that reads any account."""
        return store().terms_changed_at()

    def page(self, stands: Standing) -> tuple[Any, dict[str, Any]]:
        """Write down what is due on one page, or on as much of it as there is time for, which is
        one account at least. One that cannot be done keeps nobody else waiting."""
        now = milliseconds(edge.clock())
        # The earliest time zone is a day ahead: what is due is decided at each program's own date.
        latest = day_number(edge.clock().date()) + 1
        feasts = celebrations.feasts(edge.clock().date())
        start = json.loads(stands["start"])
        page = store().due_accounts(
            latest, self.changed_at, feasts, self.segment, self.segments, start
        )
        done, failed = None, stands.get("failed", 0)
        for key, account in page.accounts:
            if done is not None and self.time_is_up():
                return done, {"failed": failed}
            done = key
            if account is None:
                failed += 1
                logger.error("account not readable", program_id=key["pk"]["S"].partition("#")[0])
                continue
            try:
                _sweep(account, now)
            except Unanswered:
                raise
            except Exception:  # noqa: BLE001  # whatever is wrong with it is wrong with this one alone
                failed += 1
                logger.exception("account not swept", program_id=account.program_id)
        return page.following, {"failed": failed}

    def ended(self, stands: Standing, *, now: bool) -> None:
        """NotSwept, once, if accounts of the segment have failed."""
        if now and stands["failed"]:
            raise NotSwept(f"{stands['failed']} accounts")


def _sweep(account: Account, now: int) -> None:
    rulebook = store().rulebook_in_force(account.program_id, now)
    count("SweptAccounts", _expire(rulebook, account, now))
    for celebration in celebrations.due(rulebook, account, _today(rulebook, account, now)):
        count("Celebrations", _celebrate(rulebook, account, celebration, now))


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
