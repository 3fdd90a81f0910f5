"""Counters of limits: their names, how far back one has to look, and when there is room again."""

from __future__ import annotations

from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from loyalty.dates import Duration, Per
from loyalty.limits import (
    FOREVER,
    ONCE,
    POINTS_SENT,
    PROGRAM_POINTS,
    REFERRALS,
    Subject,
    Usage,
    cooled_down,
    free_again,
    limit_reached,
    longest,
    token,
)
from loyalty.model import Account, Broken, Count, Counts, Entry, History, NeedsHistory
from tests.strategies import DAY, HOUR, MINUTE, instant

PARIS = ZoneInfo("Europe/Paris")
ON = date(2026, 3, 10)
AT = instant("2026-03-10T13:00", "Europe/Paris")


def usage(history: History | None = None, **more: Any) -> Usage:
    account = Account(program_id="test", member_id="ann", **more)
    return Usage(account, ON, PARIS, history)


def entry(seq: int, recorded_at: int, **more: Any) -> Entry:
    fields: dict[str, Any] = {"member_id": "ann", "kind": "award", "postings": (), "balance": 0}
    return Entry(
        program_id="test",
        seq=seq,
        partition=f"e#{seq}",
        version=1,
        recorded_at=recorded_at,
        occurred_at=recorded_at,
        **fields | more,
    )


@pytest.mark.parametrize(
    ("subject", "name", "written"),
    [
        ("points", "a rule of long ago", "DnR_N-"),
        ("times", "a rule of long ago", "OCfEMg"),
        ("reward", "a reward of long ago", "7pBA_m"),
        ("location", "a place of long ago", "VATQ1I"),
    ],
)
def test_a_counter_has_the_name_under_which_it_was_always_stored(
    subject: Subject, name: str, written: str
) -> None:
    token.cache_clear()
    assert token(subject, name) == written


def test_counters_of_every_program_have_the_names_under_which_they_were_always_stored() -> None:
    assert ONCE == {
        "first_purchase": "YNTawb",
        "profile_completed": "-N-9MP",
        "referral": "ypAiCf",
        "birthday": "H6JfoT",
        "anniversary": "8LfWmC",
    }
    assert (PROGRAM_POINTS, POINTS_SENT, REFERRALS) == ("8-lXIl", "_Zj8Ud", "MVzsvO")


@pytest.mark.parametrize(
    ("per", "begins"),
    [
        ("day", "2026-03-09T23:55"),
        ("week", "2026-03-08T23:55"),
        ("month", "2026-02-28T23:55"),
        ("year", "2025-12-31T23:55"),
    ],
)
def test_a_window_that_is_no_longer_kept_is_counted_from_its_beginning(
    per: Per, begins: str
) -> None:
    """Five minutes before it: an event of its first minutes may have been recorded by then."""
    since = instant(begins, "Europe/Paris")
    kept = {per: Counts(99_999, {"n": 8})}
    window = usage().count(per, "n", 0).window
    counted = entry(2, since, counts=(Count(per, window, "n", 3), Count(per, window, "m", 5)))
    later = entry(3, since, counts=(Count(per, window + 1, "n", 7),))
    for history in (None, History(since + 1, ())):
        with pytest.raises(NeedsHistory) as asked:
            usage(history, counters=kept).used(per, "n")
        assert asked.value.since == since
    assert usage(History(since, (later, counted)), counters=kept).used(per, "n") == 3


def test_the_window_of_all_time_is_never_replaced() -> None:
    with pytest.raises(Broken):
        usage(counters={"ever": Counts(1, {})}).used("ever", "n")


@pytest.mark.parametrize(
    ("every", "back"),
    [
        ("PT4H", 4 * HOUR + DAY),
        ("P3D", 7 * DAY),
        ("P1M", 32 * DAY),
        ("P1M2DT3H", 36 * DAY + 3 * HOUR),
    ],
)
def test_a_late_event_asks_for_the_history_that_its_cooldown_may_reach(
    every: str, back: int
) -> None:
    """Months of 31 days, days of 48 hours, a day for a clock that changes, and what clocks of
    tills may run ahead."""
    since = AT - back - 5 * MINUTE
    # Longer ones that nothing has met since the event are asked for nothing.
    years = longest(Duration.parse("P9Y"))
    lasts = {"n": longest(Duration.parse(every)), "m": years, "l": years}
    newer, own, other = AT + 9 * DAY, AT - HOUR, AT - 2 * HOUR
    entries = (
        entry(4, newer, cooldowns={"n": newer}),
        entry(3, own, cooldowns={"n": own}),
        entry(2, other, cooldowns={"m": other}),
    )
    for history in (None, History(since + 1, entries)):
        with pytest.raises(NeedsHistory) as asked:
            usage(history, cooldowns={"n": newer, "l": AT}).paid_around("n", AT, lasts)
        assert asked.value.since == since
    known = usage(History(since, entries), cooldowns={"n": newer})
    assert known.paid_around("n", AT, lasts) == [newer, newer, own]


def test_the_newest_event_needs_no_history() -> None:
    lasts = {"n": longest(Duration.parse("P1M"))}
    assert usage().paid_around("n", AT, lasts) == []
    assert usage(cooldowns={"n": AT - 1}).paid_around("n", AT, lasts) == [AT - 1]
    assert usage(cooldowns={"n": AT}).paid_around("n", AT, lasts) == [AT]


def test_the_history_is_asked_for_once_for_all_windows_and_cooldowns() -> None:
    kept = {
        "day": Counts(99_999, {"n": 8}),
        "month": Counts(99_999, {"n": 8}),
        "year": Counts(usage().count("year", "n", 0).window, {"n": 8}),
    }
    with pytest.raises(NeedsHistory) as asked:
        usage(counters=kept).used("day", "n")
    assert asked.value.since == instant("2026-02-28T23:55", "Europe/Paris")
    lasts = {name: longest(Duration.parse(every)) for name, every in (("n", "P1D"), ("m", "P9D"))}
    with pytest.raises(NeedsHistory) as asked:
        usage(cooldowns={"n": AT + 1, "m": AT + 1}).paid_around("n", AT, lasts)
    assert asked.value.since == AT - 19 * DAY - 5 * MINUTE


@pytest.mark.parametrize(
    ("pers", "again"),
    [
        ([], 0),
        (["day"], instant("2026-03-11T00:00", "Europe/Paris")),
        (["day", "month", "week"], instant("2026-04-01T00:00", "Europe/Paris")),
        (["day", "ever"], FOREVER),
    ],
)
def test_used_up_limits_allow_something_again_when_the_last_window_ends(
    pers: list[Per], again: int
) -> None:
    assert free_again(pers, ON, PARIS) == again


@pytest.mark.parametrize(
    ("again", "promised"),
    [
        (AT - 1, None),
        (AT, None),
        (AT + 1, "2026-03-10T12:00:00.001Z"),
        (FOREVER, None),
    ],
)
def test_no_time_is_promised_that_has_come_or_never_comes(again: int, promised: str | None) -> None:
    told = limit_reached("Enough.", again, AT).more
    assert told == ({} if promised is None else {"next_allowed_at": promised})


@pytest.mark.parametrize(
    ("every", "over"),
    [
        ("PT4H", "2026-03-28T16:30"),
        # A day later at the same time, though that night had 23 hours, and 24 hours of the clock.
        ("P1D", "2026-03-29T12:30"),
        ("PT24H", "2026-03-29T13:30"),
        ("P1M", "2026-04-28T12:30"),
        ("P1MT1H", "2026-04-28T13:30"),
    ],
)
def test_a_cooldown_moves_dates_and_counts_hours(every: str, over: str) -> None:
    began = instant("2026-03-28T12:30", "Europe/Paris")
    ends = cooled_down(began, Duration.parse(every), PARIS)
    assert ends.timestamp() * 1000 == instant(over, "Europe/Paris")
