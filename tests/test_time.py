"""Time does its work: at the very instant, in any zone, however often and late one looks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.dates import day_begins, day_number, from_day_number, milliseconds
from loyalty.lots import advance, due_on, expiry
from loyalty.model import NEVER, Account
from loyalty.projections import balance
from loyalty.validation import publishable
from tests.programs import smallest
from tests.strategies import DAY, HOUR, MINUTE, Ledger, refused

# One with a half-hour shift, one that skipped a whole day (30 December 2011).
ZONES = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
)
REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 50}}
POLICIES: tuple[list[dict[str, Any]], ...] = (
    [{"after": "P1D"}],
    [{"after": "P1M"}],
    [{"after": "P12M", "round_up_to": "month"}],
    [{"after": "P2W", "round_up_to": "week"}],
    [{"after": "P1M", "round_up_to": "quarter"}],
    [{"after": "P1Y", "round_up_to": "year"}],
    [{"inactive_for": "P6M"}],
    [{"dates": ["06-30", "12-31"]}],
    [{"dates": ["03-01"], "older_than": "P12M"}],
    [{"after": "P12M", "round_up_to": "month"}, {"inactive_for": "P3M"}, {"dates": ["12-31"]}],
)
MOMENTS = st.datetimes(
    datetime(1972, 1, 1),  # noqa: DTZ001  # Hypothesis wants naive bounds
    datetime(2098, 12, 31),  # noqa: DTZ001  # the same
    timezones=st.just(UTC),
)


def available(ledger: Ledger, at: int) -> int:
    assert ledger.account
    return balance(ledger.rulebook, ledger.account, at)["available"]


def program(zone: str, **more: Any) -> dict[str, Any]:
    document = smallest(time_zone=zone, rules=[REVIEW]) | more
    publishable(document)
    return document


@settings(max_examples=150)
@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(POLICIES), st.sampled_from(["P0D", "P14D"]))
def test_points_are_there_until_the_last_instant_before_their_day_and_then_are_gone(
    moment: datetime, zone: str, policies: list[dict[str, Any]], wait: str
) -> None:
    at = milliseconds(moment)
    ledger = Ledger(program(zone, expiry=policies, pending={"review": wait}))
    ledger.enrol(at)
    entry = ledger.award(at, {"type": "review"})
    assert ledger.account
    [expiring] = balance(ledger.rulebook, ledger.account, at + 15 * DAY)["expiring"] or [None]
    if expiring is None:
        # Gone within the fortnight, or before it came: then it is told by the lots themselves.
        day = min(
            end
            for p in entry.postings
            for _, end, _ in (*p.pending, *((0, *lot) for lot in p.lots))
        )
    else:
        day = day_number(date.fromisoformat(str(expiring["expires_on"])))
    begins = milliseconds(day_begins(from_day_number(day), ZoneInfo(zone)))
    assert available(ledger, begins) == 0
    if wait == "P0D" and begins > at:
        assert available(ledger, begins - 1) == 50
    ledger.sweep(max(begins, at))
    assert ledger.account
    assert ledger.account.available == 0


@settings(max_examples=150)
@given(MOMENTS, st.sampled_from(ZONES), st.integers(1, 60))
def test_pending_points_are_spendable_from_the_first_instant_of_their_day(
    moment: datetime, zone: str, days: int
) -> None:
    at = milliseconds(moment)
    ledger = Ledger(program(zone, pending={"review": f"P{days}D"}))
    ledger.enrol(at)
    ledger.award(at, {"type": "review"})
    local = moment.astimezone(ZoneInfo(zone)).date()
    begins = milliseconds(day_begins(local + timedelta(days=days), ZoneInfo(zone)))
    assert (available(ledger, begins - 1), available(ledger, begins)) == (0, 50)
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(begins - 1, 1)
    assert ledger.redeem(begins, 50).balance == 0


@pytest.mark.parametrize("zone", ZONES)
def test_every_month_end_and_every_leap_day_from_1970_to_2100(zone: str) -> None:
    """31 January and a month is the last of February; rounded up it is the first of March."""
    document = program(zone, expiry=[{"after": "P1M"}, {"after": "P1M", "round_up_to": "month"}])
    policies = publishable(document).expiry
    for year in range(1970, 2101):
        for month in range(1, 13):
            following = date(year + month // 12, month % 12 + 1, 1)
            last = following - timedelta(days=1)
            after = date(following.year + following.month // 12, following.month % 12 + 1, 1)
            expected = min(last.day, (after - timedelta(days=1)).day)
            ends = from_day_number(expiry(policies[:1], day_number(last)))
            assert ends == following.replace(day=expected)
            assert from_day_number(expiry(policies[1:], day_number(last))) == after


# Clocks that are wrong


def test_a_server_whose_clock_is_five_minutes_behind_brings_nothing_back() -> None:
    """For one member time never goes back: what expired at midnight stays expired."""
    ledger = Ledger(program("Europe/Paris", expiry=[{"after": "P1D"}]))
    midnight = milliseconds(day_begins(date(2026, 3, 11), ZoneInfo("Europe/Paris")))
    ledger.enrol(midnight - DAY)
    ledger.award(midnight - HOUR, {"type": "review"})
    assert available(ledger, midnight - 1) == 50
    ledger.award(midnight, {"type": "unknown"})
    with refused("insufficient_points", missing_points=50):
        ledger.redeem(midnight - 5 * MINUTE, 50)
    assert available(ledger, midnight - 5 * MINUTE) == 0
    late = ledger.award(midnight - 5 * MINUTE, {"type": "review"})
    assert late.recorded_at == midnight


def test_a_till_whose_clock_is_five_minutes_ahead_is_believed_and_no_further() -> None:
    ledger = Ledger(program("Europe/Paris", expiry=[{"after": "P1D"}]))
    midnight = milliseconds(day_begins(date(2026, 3, 11), ZoneInfo("Europe/Paris")))
    ledger.enrol(midnight - DAY)

    def at(number: int) -> str:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number)).isoformat()

    now = midnight - 3 * MINUTE
    entry = ledger.award(now, {"type": "review", "occurred_at": at(now + 5 * MINUTE)})
    # Earned tomorrow, so that it is spendable from tomorrow.
    tomorrow = day_number(date(2026, 3, 11))
    assert entry.postings[0].pending == ((tomorrow, tomorrow + 1, 50),)
    with refused("event_in_future"):
        ledger.award(now, {"type": "review", "occurred_at": at(now + 5 * MINUTE + 1)})


# Step by step, with everything that happens by itself

EVERYTHING = program(
    "Europe/Paris",
    expiry=[{"after": "P20D"}, {"inactive_for": "P30D"}],
    pending={"review": "P3D"},
    notifications={"expiring": ["P7D", "P1D"]},
    holds={"max_duration": "PT30H"},
    tiers={
        "qualify_by": "points",
        "window": {"rolling": "P15D"},
        "downgrade": {"steps": "one", "grace": "P2D"},
        "levels": [
            {"tier_id": "base", "at": 0},
            {"tier_id": "silver", "at": 50},
            {"tier_id": "gold", "at": 120},
        ],
    },
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["award", "hold", "redeem"]), st.integers(0, 72)), max_size=8
)


@settings(max_examples=120)
@given(STEPS, st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_looking_hour_by_hour_finds_what_looking_once_finds(
    steps: list[tuple[str, int]], looks: list[int]
) -> None:
    now = milliseconds(datetime(2026, 3, 10, 12, tzinfo=UTC))
    ledger = Ledger(EVERYTHING)
    ledger.enrol(now)
    for what, hours in steps:
        now += hours * HOUR
        held = available(ledger, now)
        if what == "award":
            ledger.award(now, {"type": "review"})
        elif held:
            ledger.redeem(now, max(1, held // 2), hold=what == "hold")
    assert ledger.account
    program_ = ledger.program

    def moved(account: Account, at: int) -> tuple[Account, list[Any]]:
        day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(
            program_.zone
        )
        return advance(program_, account, day_number(day.date()), at)

    end = now + sum(looks) * HOUR
    at_once, told = moved(ledger.account, end)
    step, found, at = ledger.account, [], now
    for hours in looks:
        at += hours * HOUR
        step, more = moved(step, at)
        found += more
        assert moved(step, at) == (step, [])
    assert step == at_once
    assert found == told
    assert due_on(program_, at_once) is None or due_on(program_, at_once) <= NEVER
    total = at_once.available + at_once.pending_points + at_once.held - at_once.debt
    before = ledger.account
    began = before.available + before.pending_points + before.held - before.debt
    assert total == began + sum(posting.points for posting in told)


def test_the_balance_tells_what_comes() -> None:
    now = milliseconds(datetime(2026, 3, 10, 12, tzinfo=UTC))
    ledger = Ledger(EVERYTHING)
    ledger.enrol(now)
    ledger.award(now, {"type": "review"})
    assert ledger.account
    shown = balance(ledger.rulebook, ledger.account, now + 4 * DAY)
    assert shown["expiring"] == [{"points": 50, "expires_on": "2026-04-02"}]
    assert shown["tier"] == {
        "id": "silver",
        "name": "silver",
        "multiplier": "1",
        "next_tier": "gold",
        "points_to_next": 70,
        "until": "2026-03-27",
    }
