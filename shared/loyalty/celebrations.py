"""Birthdays and anniversaries: which days come round, and what the rules give for them.

They are events that the sweep raises, in the member's last days up to today, so that a missed run
is caught up; the year in the guard makes each happen once, however often it is looked at and
whatever the birth date is changed to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

from loyalty.commands import Event
from loyalty.dates import day_begins, day_number, from_day_number, milliseconds
from loyalty.decisions import Decision, Draft, Guard, may_earn
from loyalty.earning import granted
from loyalty.limits import ONCE, Usage
from loyalty.model import Account, Day, Known
from loyalty.rules import Rulebook

CAUGHT_UP_DAYS: Final = 7
"""A celebration is paid on its day or up to so many dates later."""


@dataclass(frozen=True, slots=True)
class Celebration:
    """A member's birthday or anniversary: the day it falls on, and of which year it is."""

    kind: Literal["birthday", "anniversary"]
    on: Day
    year: int

    def guard(self, account: Account) -> Guard:
        return Guard(f"{self.kind[0]}#{account.member_id}", str(self.year), b"")


def feasts(today: date) -> list[int]:
    """The days (MMDD) that a sweep on `today` looks at, in any time zone."""
    days = [today + timedelta(days=n) for n in range(-CAUGHT_UP_DAYS - 1, 2)]
    found = {day.month * 100 + day.day for day in days}
    # In common years 29 February is kept on a neighbour.
    return sorted(found | {229} if found & {228, 301} else found)


def due(rulebook: Rulebook, account: Account, today: Day) -> Iterator[Celebration]:
    """What the member celebrates on `today` or has in the last days, not before enrolment."""
    joined_on = account.joined_on
    if joined_on is None or account.status not in ("", "blocked"):
        return
    joined = from_day_number(joined_on)
    for days in range(CAUGHT_UP_DAYS + 1):
        on = from_day_number(today - days)
        if account.birthday and on >= joined and _falls(account.birthday, on, rulebook):
            yield Celebration("birthday", day_number(on), on.year)
        if on > joined and _falls(joined.month * 100 + joined.day, on, rulebook):
            yield Celebration("anniversary", day_number(on), on.year)


def _falls(month_day: int, on: date, rulebook: Rulebook) -> bool:
    common = on.month * 100 + on.day
    if month_day != 229 or _is_leap(on.year):
        return month_day == common
    return common == (228 if rulebook.program.leap_day == "feb_28" else 301)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def celebrate(
    rulebook: Rulebook, known: Known, member_id: str, celebration: Celebration, now: int
) -> Decision | None:
    """What the rules give for the day, dated by it; None where they give nothing."""
    draft = Draft(rulebook, known.account(member_id), now)
    may_earn(draft.account)
    on = from_day_number(celebration.on)
    # Noon exists on every day of every zone; no event is dated after the moment it is recorded.
    noon = day_begins(on, rulebook.program.zone) + timedelta(hours=12)
    occurred_at = min(milliseconds(noon), draft.recorded_at)
    event = Event.model_construct(
        event_id=f"{celebration.kind}:{member_id}:{celebration.year}",
        type=celebration.kind,
        member_id=member_id,
        attributes={},
    )
    usage = Usage(draft.before, on, rulebook.program.zone, known.history)
    # Kept with the account too, so that two that are merged are not paid twice for one day.
    once = ONCE[celebration.kind]
    if usage.used("year", once):
        return None
    evaluation = rulebook.evaluate(draft.account, event, occurred_at, usage, known.budgets)
    if not evaluation.points:
        return None
    guard = celebration.guard(draft.before)
    counts = (usage.count("year", once, 1),)
    entry = granted(draft, celebration.kind, guard, event, occurred_at, evaluation, counts=counts)
    return Decision((entry,), draws=evaluation.draws)
