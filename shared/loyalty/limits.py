"""Counters: their names, and what a member has used of a limit in the window of an event.

A counter belongs to a calendar window of the local date of the event. The account keeps only the
current window of each kind; an event of an earlier one is counted from the history.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

from loyalty.dates import (
    Duration,
    Per,
    day_begins,
    from_milliseconds,
    local,
    milliseconds,
    plus,
    rfc3339,
    window_end,
    window_start,
)
from loyalty.dates import window as window_of
from loyalty.model import (
    Account,
    Broken,
    Count,
    Entry,
    History,
    NeedsHistory,
    Refusal,
    brings_another,
)
from loyalty.program import Program

type Subject = Literal["points", "times", "location", "reward"]
"""What is counted by an id: points and times of a rule, scans of a location, redemptions of a
reward."""
type Once = Literal["first_purchase", "profile_completed", "referral", "birthday", "anniversary"]
"""What a member is paid for once, for ever or in a year."""

FUTURE_TOLERANCE = timedelta(minutes=5)
"""How far ahead of our clock an event may be dated: clocks of tills run fast."""
FOREVER = 2**53
"""An instant that never comes (milliseconds)."""


@lru_cache(maxsize=8192)
def token(subject: Subject, identity: str) -> str:
    """The name of a counter in the table: 36 bits of a hash, so that long ids cost no room.

    Publishing refuses a program in which two counters would share a token.
    """
    return _hashed(subject, identity)


def _hashed(subject: str, name: str) -> str:
    digest = blake2b(f"{subject}:{name}".encode(), digest_size=6).digest()
    return urlsafe_b64encode(digest).decode()[:6]


_ONCE: Final[tuple[Once, ...]] = get_args(Once.__value__)
_FIXED: Final = (
    ("program", "points"),  # of all rules
    ("program", "transfers"),  # points sent by a member to others
    ("times", "@referral"),  # friends that a referrer was paid for; no rule's id has an @
    *(("once", once) for once in _ONCE),
)
"""Counters that every program has."""
PROGRAM_POINTS, POINTS_SENT, REFERRALS, *_tokens = (_hashed(*pair) for pair in _FIXED)
ONCE: Final[Mapping[Once, str]] = dict(zip(_ONCE, _tokens, strict=True))


def _ids(program: Program, subject: Subject) -> list[str]:
    match subject:
        case "points" | "times":
            return [rule.rule_id for rule in program.rules]
        case "location":
            return [location.location_id for location in program.locations]
        case "reward":
            return [reward.reward_id for reward in program.rewards]


def colliding(program: Program) -> tuple[str, str] | None:
    """Two names whose counters would share a token of 36 bits, if there are any."""
    subjects: tuple[Subject, ...] = get_args(Subject.__value__)
    named = ((subject, name) for subject in subjects for name in _ids(program, subject))
    seen: dict[str, tuple[str, str]] = {}
    for pair in (*_FIXED, *named):
        other = seen.setdefault(_hashed(*pair), pair)
        if other != pair:
            return other[1], pair[1]
    return None


class Usage:
    """What the member has used in the windows that hold the local date `on`; where it is `free`,
    limits of points in windows do not count."""

    def __init__(
        self,
        account: Account,
        on: date,
        zone: ZoneInfo,
        history: History | None,
        *,
        free: bool = False,
    ) -> None:
        self._account = account
        self._history = history
        self._zone = zone
        self._windows: dict[Per, int] = {}
        self.on = on
        self.free = free

    def used(self, per: Per, name: str) -> int:
        """The counter's value; NeedsHistory, of all such windows at once, if the account no longer
        keeps the window."""
        window = self._window(per)
        value = self._account.counter(per, window, name)
        if value is not None:
            return value
        if self._history is None or self._history.since > self._begins(per):
            counters = self._account.counters.items()
            gone = (other for other, kept in counters if kept.window > self._window(other))
            raise NeedsHistory(min(map(self._begins, gone)))
        return _folded(self._history.of(self._account.member_id), per, window, name)

    def _begins(self, per: Per) -> int:
        """Since when (milliseconds) what counts in the window may have been recorded."""
        start = window_start(per, self._window(per))
        if start is None:
            raise Broken("the window of all time is always kept")
        return milliseconds(day_begins(start, self._zone) - FUTURE_TOLERANCE)

    def count(self, per: Per, name: str, by: int) -> Count:
        """The addition to make when `by` more is used."""
        return Count(per, self._window(per), name, by)

    def paid_around(self, name: str, at: int, longest: Mapping[str, timedelta]) -> list[int]:
        """The instants that a cooldown may keep apart from `at` (milliseconds), by how `longest`
        that and all other cooldowns of the event may last.

        The account keeps the newest only; for an event before it the history tells the others:
        NeedsHistory, for all of these cooldowns at once.
        """
        last = self.last(name)
        if last is None or last <= at:
            return [] if last is None else [last]
        if self._history is None or self._history.since > _before(at, longest[name]):
            later = (lasts for other, lasts in longest.items() if (self.last(other) or at) > at)
            raise NeedsHistory(_before(at, max(later)))
        own = self._history.of(self._account.member_id)
        told = (entry.cooldowns.get(name) for entry in own)
        return [last, *(paid for paid in told if paid is not None)]

    def _window(self, per: Per) -> int:
        number = self._windows.get(per)
        if number is None:
            number = self._windows[per] = window_of(per, self.on)
        return number

    def last(self, name: str) -> int | None:
        """When (milliseconds) the cooldown's clock last started; None for never."""
        return self._account.cooldowns.get(name)


def longest(every: Duration) -> timedelta:
    """What a cooldown lasts at most: no month has more than 31 days, no day of the wall clock more
    than 48 hours."""
    return timedelta(days=2 * every.days + 31 * every.months + 1, seconds=every.seconds)


def _before(at: int, lasts: timedelta) -> int:
    """Since when (milliseconds) an event may have been recorded that lies so long before `at`."""
    return at - (lasts + FUTURE_TOLERANCE) // timedelta(milliseconds=1)


def _folded(history: Iterable[Entry], per: Per, window: int, name: str) -> int:
    return sum(
        count.by
        for entry in history
        if not brings_another(entry)  # what it brings stands in the other's entries too
        for count in entry.counts
        if (count.per, count.window, count.name) == (per, window, name)
    )


def free_again(pers: Iterable[Per], on: date, zone: ZoneInfo) -> int:
    """The instant (milliseconds) from which limits of all these kinds that are used up on the day
    `on` allow something again: FOREVER where one is "ever", 0 where there is none."""
    ends = [window_end(per, on) for per in pers]
    return max(
        (FOREVER if end is None else milliseconds(day_begins(end, zone)) for end in ends), default=0
    )


def limit_reached(detail: str, again: int, at: int) -> Refusal:
    """The refusal of what limits allow again from the instant `again` on, asked for `at` another.

    It promises no time that never comes, nor one that has come: then something else is in the way.
    """
    more = {"next_allowed_at": rfc3339(again)} if at < again < FOREVER else {}
    return Refusal("limit_reached", detail, **more)


def cooled_down(last: int, every: Duration, zone: ZoneInfo) -> datetime:
    """The instant from which a cooldown that started at `last` (milliseconds) is over.

    Months and days move the local date at the same local time; hours are elapsed time.
    """
    began = from_milliseconds(last)
    if every.months or every.days:
        wall = local(began, zone)
        day = plus(wall.date(), Duration(every.months, every.days))
        began = wall.replace(year=day.year, month=day.month, day=day.day).astimezone(began.tzinfo)
    return began + timedelta(seconds=every.seconds)
