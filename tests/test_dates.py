"""Local dates: durations, calendar windows, and the instants at which local days begin."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.dates import (
    Duration,
    Per,
    Rounding,
    day_begins,
    day_number,
    from_day_number,
    from_milliseconds,
    is_time_zone,
    local_date,
    milliseconds,
    minus,
    plus,
    rfc3339,
    round_up,
    window,
    window_end,
    window_start,
)
from tests.strategies import PERS, ZONES

DAYS = st.dates(date(1970, 1, 1), date(2100, 12, 31))
ZONE = st.sampled_from([ZoneInfo(name) for name in ZONES])
ROUNDINGS: tuple[Rounding, ...] = ("day", "week", "month", "quarter", "year")


def on(text: str) -> date:
    return date.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("P12M", Duration(months=12)),
        ("P1Y", Duration(months=12)),
        ("P2W", Duration(days=14)),
        ("P14D", Duration(days=14)),
        ("P0D", Duration()),
        ("PT4H", Duration(seconds=14_400)),
        ("P1Y2M3W4DT5H6M7S", Duration(14, 25, 5 * 3600 + 6 * 60 + 7)),
    ],
)
def test_durations_are_kept_as_written(text: str, duration: Duration) -> None:
    assert Duration.parse(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1", "1D", "P-1D", "-P1D", "P1.5D", "P1DT", "P1D2M", "p1d", "P1D "],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Duration.parse(text)


def test_durations_are_written_in_ascii_digits() -> None:
    with pytest.raises(ValueError):
        Duration.parse("P１２M")


@pytest.mark.parametrize(
    ("day", "duration", "end"),
    [
        ("2026-01-15", "P12M", "2027-01-15"),
        ("2026-01-31", "P1M", "2026-02-28"),
        ("2024-01-31", "P1M", "2024-02-29"),
        ("2024-02-29", "P1Y", "2025-02-28"),
        ("2024-02-29", "P4Y", "2028-02-29"),
        ("2023-02-28", "P1Y", "2024-02-28"),
        ("2026-03-31", "P6M", "2026-09-30"),
        ("2026-12-31", "P2M", "2027-02-28"),
        ("2026-03-01", "P14D", "2026-03-15"),
        ("2026-12-28", "P1W", "2027-01-04"),
        # Months first, then days: 31 January + 1 month is 28 February, and a day is 1 March.
        ("2026-01-31", "P1M1D", "2026-03-01"),
        ("2026-05-05", "P0D", "2026-05-05"),
    ],
)
def test_durations_count_in_the_calendar(day: str, duration: str, end: str) -> None:
    assert plus(on(day), Duration.parse(duration)) == on(end)


def test_durations_count_back_by_the_same_rule() -> None:
    assert minus(on("2026-03-31"), Duration.parse("P1M")) == on("2026-02-28")
    assert minus(on("2024-03-31"), Duration.parse("P1M")) == on("2024-02-29")
    assert minus(on("2026-01-10"), Duration.parse("P14D")) == on("2025-12-27")


def test_the_calendar_ends_with_its_first_and_its_last_day() -> None:
    assert minus(on("0002-01-01"), Duration.parse("P1Y")) == date.min
    assert plus(on("9998-12-31"), Duration.parse("P1Y")) == date.max
    with pytest.raises(OverflowError):
        minus(on("0001-12-31"), Duration.parse("P1Y"))
    with pytest.raises(OverflowError):
        plus(on("9999-01-31"), Duration.parse("P1Y"))
    with pytest.raises(OverflowError):
        plus(date.max, Duration.parse("P1D"))


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("Europe/Paris", True),
        ("America/Argentina/Buenos_Aires", True),
        ("UTC", True),
        ("Etc/GMT+12", True),
        ("Mars/Olympus", False),
        ("Europe", False),  # a folder
        ("Factory", False),  # stands for a clock that nobody has set
        ("localtime", False),
        ("posix/Europe/Paris", False),
        ("../Europe/Paris", False),
        ("", False),
    ],
)
def test_a_time_zone_has_a_name_that_means_the_same_everywhere(name: str, there: bool) -> None:
    assert is_time_zone(name) is there


@given(DAYS, st.integers(0, 1200))
def test_a_month_later_is_the_same_day_or_the_months_last(day: date, months: int) -> None:
    end = plus(day, Duration(months=months))
    assert (end.year * 12 + end.month) - (day.year * 12 + day.month) == months
    assert end.day == min(day.day, calendar.monthrange(end.year, end.month)[1])


@pytest.mark.parametrize(
    ("to", "first_after"),
    [
        ("day", "2027-01-15"),
        ("week", "2027-01-18"),
        ("month", "2027-02-01"),
        ("quarter", "2027-04-01"),
        ("year", "2028-01-01"),
    ],
)
def test_rounding_up_moves_to_the_first_day_after_the_period(
    to: Rounding, first_after: str
) -> None:
    assert round_up(on("2027-01-15"), to) == on(first_after)


def test_the_first_day_of_a_period_is_rounded_up_to_its_end_too() -> None:
    assert round_up(on("2026-02-01"), "month") == on("2026-03-01")
    assert round_up(on("2026-11-23"), "week") == on("2026-11-30")  # a Monday
    assert round_up(on("2026-11-22"), "week") == on("2026-11-23")  # a Sunday
    assert round_up(on("2026-10-01"), "quarter") == on("2027-01-01")
    assert round_up(on("2026-01-01"), "year") == on("2027-01-01")


@given(DAYS, st.sampled_from(ROUNDINGS))
def test_rounding_up_never_shortens_and_ends_where_a_period_begins(day: date, to: Rounding) -> None:
    end = round_up(day, to)
    assert day <= end if to == "day" else day < end
    first_days = {
        "day": True,
        "week": end.isoweekday() == 1,
        "month": end.day == 1,
        "quarter": end.day == 1 and end.month in (1, 4, 7, 10),
        "year": (end.month, end.day) == (1, 1),
    }
    assert first_days[to]
    longest = {"day": 0, "week": 7, "month": 31, "quarter": 92, "year": 366}
    assert (end - day).days <= longest[to]


def _named(per: Per, day: date) -> object:
    """A calendar window by the name that people give it."""
    match per:
        case "day":
            return day
        case "week":
            return day.isocalendar()[:2]
        case "month":
            return day.year, day.month
        case "year":
            return day.year
        case "ever":
            return None


@given(DAYS, DAYS, PERS)
def test_two_days_share_a_window_exactly_when_the_calendar_says_so(
    one: date, other: date, per: Per
) -> None:
    same = _named(per, one) == _named(per, other)
    assert (window(per, one) == window(per, other)) == same
    if not same:
        # A later window has a higher number.
        assert (window(per, one) < window(per, other)) == (one < other)


@given(DAYS, PERS)
def test_a_window_begins_where_it_says_and_ends_where_the_next_begins(day: date, per: Per) -> None:
    number = window(per, day)
    start, end = window_start(per, number), window_end(per, day)
    if per == "ever":
        assert (number, start, end) == (0, None, None)
        return
    assert start is not None
    assert end is not None
    assert start <= day < end
    assert window(per, start) == number == window(per, end - timedelta(days=1))
    assert window(per, end) == number + 1
    if start > date(1970, 1, 1):
        assert window(per, start - timedelta(days=1)) == number - 1


@pytest.mark.parametrize(
    ("first", "last"),
    [
        # ISO years of 53 weeks, and weeks that lie in two years.
        ("2020-12-28", "2021-01-03"),
        ("2024-12-30", "2025-01-05"),
        ("2026-12-28", "2027-01-03"),
        ("1970-01-05", "1970-01-11"),
    ],
)
def test_weeks_run_from_monday_to_sunday_over_the_new_year(first: str, last: str) -> None:
    week = window("week", on(first))
    assert window("week", on(last)) == week
    assert window("week", on(first) - timedelta(days=1)) == week - 1
    assert window("week", on(last) + timedelta(days=1)) == week + 1


# Where local days begin


@given(DAYS, ZONE)
def test_a_day_begins_at_its_first_instant(day: date, zone: ZoneInfo) -> None:
    begins = day_begins(day, zone)
    assert begins.utcoffset() == timedelta()
    assert local_date(begins, zone) >= day
    assert local_date(begins - timedelta(seconds=1), zone) < day
    if (begins.astimezone(zone).hour, begins.astimezone(zone).minute) != (0, 0):
        # Only where the clock jumps over midnight.
        before = (begins - timedelta(seconds=1)).astimezone(zone).utcoffset()
        assert begins.astimezone(zone).utcoffset() != before


@pytest.mark.parametrize(
    "zone",
    [
        "Europe/Paris",
        "America/New_York",
        "Australia/Lord_Howe",  # shifts by half an hour
        "Pacific/Apia",  # skipped 30 December 2011
        "America/Sao_Paulo",  # shifts at midnight
    ],
)
def test_every_day_from_1970_to_2100_begins_at_its_first_instant(zone: str) -> None:
    """The days tile the calendar: each begins where the one before ends, at the first instant of
    its date, and ends with the last."""
    place, tick = ZoneInfo(zone), timedelta(microseconds=1)
    begins = day_begins(date(1970, 1, 1), place)
    for number in range(day_number(date(2101, 1, 1))):
        day = from_day_number(number)
        ends = day_begins(day + timedelta(days=1), place)
        if (day, zone) == (date(2011, 12, 30), "Pacific/Apia"):
            assert ends == begins
            continue
        assert local_date(begins, place) == local_date(ends - tick, place) == day
        begins = ends


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(2100, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001  # Hypothesis wants naive bounds
    ZONE,
)
def test_every_instant_lies_in_its_own_local_day(at: datetime, zone: ZoneInfo) -> None:
    day = local_date(at, zone)
    assert day_begins(day, zone) <= at < day_begins(day + timedelta(days=1), zone)


@pytest.mark.parametrize(
    ("zone", "day", "begins", "hours"),
    [
        # Spring and autumn of five zones: 23 and 25 hours, 23.5 and 24.5 on Lord Howe.
        ("Europe/Paris", "2026-03-29", "2026-03-28T23:00Z", 23),
        ("Europe/Paris", "2026-10-25", "2026-10-24T22:00Z", 25),
        ("America/New_York", "2026-03-08", "2026-03-08T05:00Z", 23),
        ("America/New_York", "2026-11-01", "2026-11-01T04:00Z", 25),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30Z", 23.5),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00Z", 24.5),
        # The clock jumped from 00:00 to 01:00: the day began at 01:00.
        ("America/Sao_Paulo", "2017-10-15", "2017-10-15T03:00Z", 23),
        # It fell back from 00:00 to 23:00: the day before had 25 hours.
        ("America/Sao_Paulo", "2018-02-17", "2018-02-17T02:00Z", 25),
        ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00Z", 24),
        ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00Z", 24),
        # Samoa left out 30 December 2011: it has no instant, and the next one is its beginning.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00Z", 0),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00Z", 24),
        # Toronto's clocks went from half past eleven in the evening to half past midnight.
        ("America/Toronto", "1919-03-30", "1919-03-30T05:00Z", 23.5),
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30Z", 23.5),
    ],
)
def test_days_of_other_lengths(zone: str, day: str, begins: str, hours: float) -> None:
    place = ZoneInfo(zone)
    start = day_begins(on(day), place)
    assert start == datetime.fromisoformat(begins)
    end = day_begins(on(day) + timedelta(days=1), place)
    assert end - start == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("zone", "night"),
    [
        ("Europe/Paris", "2026-10-25"),
        ("America/New_York", "2026-11-01"),
        ("Australia/Lord_Howe", "2026-04-05"),
        ("America/Sao_Paulo", "2018-02-17"),
    ],
)
def test_a_day_of_25_hours_is_one_day(zone: str, night: str) -> None:
    place = ZoneInfo(zone)
    begins = day_begins(on(night), place)
    ends = day_begins(on(night) + timedelta(days=1), place)
    quarters = range(int((ends - begins) / timedelta(minutes=15)))
    assert {local_date(begins + i * timedelta(minutes=15), place) for i in quarters} == {on(night)}


# Numbers for dates and instants


@given(DAYS)
def test_days_are_numbered_from_1970(day: date) -> None:
    assert from_day_number(day_number(day)) == day
    assert day_number(day) == (day - date(1970, 1, 1)).days


@given(st.integers(0, 4_133_980_799_999))
def test_instants_are_milliseconds(number: int) -> None:
    assert milliseconds(from_milliseconds(number)) == number
    written = rfc3339(number)
    assert written.endswith("Z")
    assert milliseconds(datetime.fromisoformat(written)) == number


def test_instants_are_written_as_rfc_3339() -> None:
    assert rfc3339(1_795_342_500_000) == "2026-11-22T10:15:00Z"
    assert rfc3339(1_795_342_500_007) == "2026-11-22T10:15:00.007Z"
