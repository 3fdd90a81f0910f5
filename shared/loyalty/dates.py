"""Local dates: durations, calendar windows, and the instants at which a local day begins.

Everything here is pure. A date is always a local date of the program; an instant is an aware
`datetime`. Windows are numbered by plain integers so that a later window has a higher number.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

type Per = Literal["day", "week", "month", "year", "ever"]
type Rounding = Literal["day", "week", "month", "quarter", "year"]

EPOCH = date(1970, 1, 1).toordinal()
_EPOCH_BEGINS = datetime(1970, 1, 1, tzinfo=UTC)

_TIME_ZONE = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_ISO_DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,6})D)?"
    r"(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,7})S)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Duration:
    """An ISO 8601 duration, kept as written: `P12M` is twelve calendar months, not 365 days."""

    months: int = 0
    days: int = 0
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read `P1Y2M3W4DT5H6M7S`; ValueError when the text is not an ISO 8601 duration."""
        found = _ISO_DURATION.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not an ISO 8601 duration such as P14D, P12M or PT4H")
        years, months, weeks, days, hours, minutes, seconds = (int(n or 0) for n in found.groups())
        return cls(years * 12 + months, weeks * 7 + days, hours * 3600 + minutes * 60 + seconds)

    @property
    def is_zero(self) -> bool:
        return not (self.months or self.days or self.seconds)

    @property
    def in_whole_days(self) -> bool:
        """Whether it can be added to a date: it has no hours, minutes or seconds."""
        return self.seconds == 0


def is_time_zone(name: str) -> bool:
    """Whether this is an IANA time zone. What a machine has beside them (`localtime`, `posix/…`)
    is none: it means something else elsewhere."""
    if not _TIME_ZONE.fullmatch(name) or name == "Factory":
        return False
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False  # no such zone, not a zone file, or a folder of zones
    return True


def plus(day: date, duration: Duration) -> date:
    """`day` + duration; a day the month does not have becomes its last (31 January + P1M).

    OverflowError beyond the year 9999.
    """
    return _shift(day, duration.months, duration.days)


def minus(day: date, duration: Duration) -> date:
    """`day` − duration, months first, by the same month-end rule as `plus`."""
    return _shift(day, -duration.months, -duration.days)


def _shift(day: date, months: int, days: int) -> date:
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    if not 1 <= year <= 9999:
        raise OverflowError("date out of range")
    # Every month has 28 days; how many more is only asked where it matters.
    last = calendar.monthrange(year, month + 1)[1] if day.day > 28 else 28
    return date(year, month + 1, min(day.day, last)) + timedelta(days=days)


def round_up(day: date, to: Rounding) -> date:
    """The first day after the period in which `day` falls; `day` itself for "day"."""
    match to:
        case "day":
            return day
        case "week":
            return day + timedelta(days=7 - day.weekday())
        case "month":
            return _shift(day.replace(day=1), 1, 0)
        case "quarter":
            return _shift(day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1), 3, 0)
        case "year":
            return date(day.year + 1, 1, 1)


def window(per: Per, day: date) -> int:
    """The number of the calendar window of kind `per` that holds `day`; "ever" has only 0."""
    match per:
        case "day":
            return day.toordinal() - EPOCH
        case "week":
            return (day.toordinal() - day.weekday() - EPOCH) // 7
        case "month":
            return day.year * 12 + day.month - 1
        case "year":
            return day.year
        case "ever":
            return 0


def window_end(per: Per, day: date) -> date | None:
    """The first day after the window of kind `per` that holds `day`; None for "ever"."""
    match per:
        case "day":
            return day + timedelta(days=1)
        case "week" | "month" | "year":
            return round_up(day, per)
        case "ever":
            return None


def window_start(per: Per, number: int) -> date | None:
    """The first day of window `number`; None for "ever"."""
    match per:
        case "day":
            return date.fromordinal(number + EPOCH)
        case "week":
            # 1970-01-01 was a Thursday, so Mondays lie four days past multiples of seven.
            return date.fromordinal(number * 7 + EPOCH + 4)
        case "month":
            return date(number // 12, number % 12 + 1, 1)
        case "year":
            return date(number, 1, 1)
        case "ever":
            return None


def local(instant: datetime, zone: tzinfo) -> datetime:
    """The instant on the program's wall clock."""
    return instant.astimezone(zone)


def local_date(instant: datetime, zone: tzinfo) -> date:
    return instant.astimezone(zone).date()


def day_begins(day: date, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) whose local date is `day` or later.

    Usually 00:00 local; where a daylight-saving jump or a skipped day removes midnight, the
    instant of the jump.
    """
    # fold=0 reads a midnight that comes twice as its first, and one that never comes with the
    # offset before the jump, which lands after it: walk back to the jump itself.
    naive = datetime.combine(day, time.min)
    instant = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == naive:
        return instant
    low, high = instant - timedelta(days=2), instant + timedelta(days=2)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).date() >= day:
            high = middle
        else:
            low = middle
    return high


def milliseconds(instant: datetime) -> int:
    """Whole milliseconds since 1970-01-01T00:00Z."""
    return (instant - _EPOCH_BEGINS) // timedelta(milliseconds=1)


def from_milliseconds(number: int) -> datetime:
    return _EPOCH_BEGINS + timedelta(milliseconds=number)


def day_number(day: date) -> int:
    """Days since 1970-01-01: how dates stand in the tables."""
    return day.toordinal() - EPOCH


def from_day_number(number: int) -> date:
    return date.fromordinal(number + EPOCH)


def rfc3339(number: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC: 2026-11-22T10:15:00Z, with .mmm if not whole."""
    precision = "milliseconds" if number % 1000 else "seconds"
    return from_milliseconds(number).isoformat(timespec=precision).replace("+00:00", "Z")
