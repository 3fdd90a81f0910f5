"""Lots in time: when points become available, when they go, and in which order they are spent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.dates import Duration, from_day_number, plus
from loyalty.lots import (
    advance,
    available_on,
    credit,
    due_on,
    expiring,
    expiry,
    inactive_on,
    released,
    take,
)
from loyalty.model import NEVER, Account, Broken, Hold, Posting, Refusal
from loyalty.program import Program
from loyalty.projections import balance, history_rows
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import DAY, HOUR, Ledger, instant, number, refused

NOBODY = Account(program_id="test", member_id="ann")
REVIEW: dict[str, Any] = {"rule_id": "review", "trigger": "review", "earn": {"points": 10}}


def program(*expiries: dict[str, Any], **more: Any) -> Program:
    return parse(smallest(expiry=list(expiries), **more))


def expires(start: str, *expiries: dict[str, Any]) -> str | None:
    """The date on which points that can be spent from `start` go; None for never."""
    day = expiry(program(*expiries).expiry, number(start))
    return None if day == NEVER else from_day_number(day).isoformat()


# When a lot expires


@pytest.mark.parametrize(
    ("start", "policy", "expires_on"),
    [
        ("2026-01-15", {"after": "P12M"}, "2027-01-15"),
        ("2026-01-15", {"after": "P12M", "round_up_to": "day"}, "2027-01-15"),
        ("2026-01-15", {"after": "P12M", "round_up_to": "week"}, "2027-01-18"),
        ("2026-01-15", {"after": "P12M", "round_up_to": "month"}, "2027-02-01"),
        ("2026-01-15", {"after": "P12M", "round_up_to": "quarter"}, "2027-04-01"),
        ("2026-01-15", {"after": "P12M", "round_up_to": "year"}, "2028-01-01"),
        # A date that is the first of a period falls in that period.
        ("2026-01-01", {"after": "P1M", "round_up_to": "month"}, "2026-03-01"),
        # Month ends and leap days.
        ("2026-01-31", {"after": "P1M"}, "2026-02-28"),
        ("2024-01-31", {"after": "P1M"}, "2024-02-29"),
        ("2024-02-29", {"after": "P1Y"}, "2025-02-28"),
        ("2024-02-29", {"after": "P12M", "round_up_to": "month"}, "2025-03-01"),
        ("2026-08-31", {"after": "P6M"}, "2027-02-28"),
        ("2026-03-01", {"after": "P30D"}, "2026-03-31"),
        ("2026-03-01", {"after": "P2W"}, "2026-03-15"),
    ],
)
def test_a_duration_counts_from_the_local_date_of_earning(
    start: str, policy: dict[str, Any], expires_on: str
) -> None:
    assert expires(start, policy) == expires_on


def test_without_a_policy_points_never_expire() -> None:
    assert expires("2026-01-15") is None


def test_the_earliest_of_several_policies_counts() -> None:
    policies = {"after": "P1Y"}, {"after": "P9M", "round_up_to": "quarter"}
    assert expires("2026-01-15", *policies) == "2027-01-01"
    assert expires("2026-04-15", *policies) == "2027-04-01"
    assert expires("2026-03-31", *policies) == "2027-01-01"


def test_what_expires_beyond_the_calendar_never_does() -> None:
    assert expiry(program({"after": "P100Y"}).expiry, number("9950-01-01")) == NEVER


@pytest.mark.parametrize(
    ("start", "policy", "expires_on"),
    [
        # The fixed date is an expires_on: what is earned on it lives until the next one.
        ("2026-06-29", {"dates": ["06-30", "12-31"]}, "2026-06-30"),
        ("2026-06-30", {"dates": ["06-30", "12-31"]}, "2026-12-31"),
        ("2026-12-31", {"dates": ["06-30", "12-31"]}, "2027-06-30"),
        ("2026-07-01", {"dates": ["12-31", "06-30"]}, "2026-12-31"),
        # With older_than only what was earned on or before the date minus the duration goes.
        ("2025-12-31", {"dates": ["12-31"], "older_than": "P12M"}, "2026-12-31"),
        ("2026-01-01", {"dates": ["12-31"], "older_than": "P12M"}, "2027-12-31"),
        ("2026-02-28", {"dates": ["02-28"], "older_than": "P1Y"}, "2027-02-28"),
        ("2024-02-29", {"dates": ["02-28"], "older_than": "P1Y"}, "2026-02-28"),
    ],
)
def test_fixed_dates(start: str, policy: dict[str, Any], expires_on: str) -> None:
    assert expires(start, policy) == expires_on


@given(st.integers(0, 40_000), st.sampled_from(["P1D", "P1M", "P12M"]))
def test_points_live_at_least_a_day(start: int, older_than: str) -> None:
    for policies in (
        program({"after": "P1D"}),
        program({"dates": ["02-28", "03-01"]}),
        program({"dates": ["12-31"], "older_than": older_than}),
    ):
        assert expiry(policies.expiry, start) > start


# When pending points become available


@pytest.mark.parametrize(
    ("occurred_on", "wait", "available"),
    [
        ("2026-03-01", "P14D", "2026-03-15"),
        ("2026-01-31", "P1M", "2026-02-28"),
        ("2026-03-01", "P0D", "2026-03-01"),
        ("2026-03-01", None, "2026-03-01"),
    ],
)
def test_pending_points_become_available(
    occurred_on: str, wait: str | None, available: str
) -> None:
    duration = None if wait is None else Duration.parse(wait)
    assert available_on(duration, number(occurred_on)) == number(available)


def test_pending_p14d_from_1_march_ends_at_local_midnight_on_15_march() -> None:
    """Their expiry clock starts when they become available."""
    ledger = Ledger(
        smallest(
            time_zone="America/New_York",
            pending={"purchase": "P14D"},
            expiry=[{"after": "P1M"}],
            rules=[{"rule_id": "p", "trigger": "purchase", "earn": {"points": 1, "per_amount": 1}}],
        )
    )
    ledger.enrol(instant("2026-03-01T09:00", "America/New_York"))
    # 23:30 in New York is the day after in UTC: the local date counts.
    entry = ledger.buy(instant("2026-03-01T23:30", "America/New_York"), 100)
    assert entry.postings[0].pending == ((number("2026-03-15"), number("2026-04-15"), 100),)

    def points(at: str) -> tuple[int, int]:
        assert ledger.account
        shown = balance(ledger.rulebook, ledger.account, instant(at, "America/New_York"))
        return shown["available"], shown["pending"]

    assert points("2026-03-14T23:59:59") == (0, 100)
    assert points("2026-03-15T00:00") == (100, 0)
    assert points("2026-04-14T23:59:59") == (100, 0)
    assert points("2026-04-15T00:00") == (0, 0)


# A whole life


def lived(*expiries: dict[str, Any], **more: Any) -> Ledger:
    """A member who earned ten points for a review at noon of 15 January 2026 in Paris."""
    ledger = Ledger(smallest(expiry=list(expiries), rules=[REVIEW], **more))
    ledger.enrol(instant("2026-01-15T11:00", "Europe/Paris"))
    ledger.award(instant("2026-01-15T12:00", "Europe/Paris"), {"type": "review"})
    return ledger


@pytest.mark.parametrize(
    ("policy", "gone_at"),
    [
        ({"after": "P12M"}, "2027-01-15T00:00"),
        ({"after": "P12M", "round_up_to": "month"}, "2027-02-01T00:00"),
    ],
)
def test_points_are_spendable_through_the_whole_day_before_they_go(
    policy: dict[str, Any], gone_at: str
) -> None:
    ledger = lived(policy)
    assert ledger.account
    end = instant(gone_at, "Europe/Paris")
    assert balance(ledger.rulebook, ledger.account, end - 1)["available"] == 10
    assert balance(ledger.rulebook, ledger.account, end)["available"] == 0
    expires_on = gone_at[:10]
    shown = balance(ledger.rulebook, ledger.account, end - 1)["expiring"]
    assert shown == [{"points": 10, "expires_on": expires_on}]


def test_an_event_at_two_in_the_local_night_is_dated_by_the_local_date() -> None:
    ledger = Ledger(smallest(expiry=[{"after": "P1D"}], rules=[REVIEW], time_zone="Pacific/Apia"))
    ledger.enrol(instant("2026-01-15T02:00", "Pacific/Apia"))
    entry = ledger.award(instant("2026-01-15T02:00", "Pacific/Apia"), {"type": "review"})
    assert entry.postings == (
        Posting("award", number("2026-01-15"), lots=((number("2026-01-16"), 10),)),
    )


def test_what_fell_due_comes_first_in_the_entry_of_the_next_command() -> None:
    ledger = lived({"after": "P1M"}, pending={"quiz": "P3D"})
    entry = ledger.award(instant("2026-02-20T12:00"), {"type": "review"})
    assert entry.postings == (
        Posting("expire", number("2026-02-15"), lots=((number("2026-02-15"), -10),)),
        Posting("award", number("2026-02-20"), lots=((number("2026-03-20"), 10),)),
    )
    assert (entry.points, entry.balance) == (10, 10)


def test_a_lot_already_expired_when_granted_is_granted_and_expired_in_one_entry() -> None:
    ledger = lived({"after": "P1M"})
    entry = ledger.award(
        instant("2026-01-20T12:00"), {"type": "review", "occurred_at": "2025-12-01T12:00:00Z"}
    )
    gone = number("2026-01-01")
    assert entry.postings == (
        Posting("award", number("2025-12-01"), lots=((gone, 10),)),
        Posting("expire", gone, lots=((gone, -10),)),
    )
    assert (entry.points, entry.balance, entry.lifetime) == (10, 10, 10)
    assert ledger.account
    assert ledger.account.lots == ((number("2026-02-15"), 10),)


def test_points_that_waited_past_their_whole_life_are_seen_to_come_and_go() -> None:
    ledger = Ledger(smallest(expiry=[{"after": "P5D"}], pending={"review": "P3D"}, rules=[REVIEW]))
    ledger.enrol(instant("2026-03-01T12:00"))
    ledger.award(instant("2026-03-01T12:00"), {"type": "review"})
    entry = ledger.sweep(instant("2026-03-20T12:00"))
    assert entry
    start, end = number("2026-03-04"), number("2026-03-09")
    assert entry.postings == (
        Posting("activate", start, lots=((end, 10),), pending=((start, end, -10),)),
        Posting("expire", end, lots=((end, -10),)),
    )


def test_history_tells_activations_from_expiries_also_when_a_sweep_wrote_them() -> None:
    ledger = Ledger(smallest(expiry=[{"after": "P5D"}], pending={"review": "P3D"}, rules=[REVIEW]))
    ledger.enrol(instant("2026-03-01T12:00"))
    ledger.award(instant("2026-03-01T12:00"), {"type": "review"})
    entry = ledger.sweep(instant("2026-03-20T12:00"))
    assert entry
    rows = [(row["kind"], row["points"]) for row in history_rows(ledger.rulebook, entry)]
    assert rows == [("expire", -10), ("activate", 0)]


def test_the_due_date_is_the_next_day_on_which_something_happens_by_itself() -> None:
    ledger = lived({"after": "P1M"}, pending={"quiz": "P3D"})
    assert ledger.account
    assert ledger.account.due_on == number("2026-02-15")
    assert ledger.sweep(instant("2026-02-14T23:59", "Europe/Paris")) is None
    swept = ledger.sweep(instant("2026-02-15T00:00", "Europe/Paris"))
    assert swept
    assert (swept.points, swept.balance) == (-10, 0)
    assert ledger.account.due_on is None


def told(entry: Any) -> list[tuple[str, str]]:
    """(day, date on which points will go) of each notice in an entry."""
    return [
        (from_day_number(posting.on).isoformat(), from_day_number(gone).isoformat())
        for posting in entry.postings
        for gone, _ in posting.told
    ]


NOTICES: dict[str, Any] = {
    "expiry": [{"after": "P2D"}],
    "notifications": {"expiring": ["P7D", "P1D"]},
    "rules": [REVIEW],
}


def test_points_that_come_too_late_for_a_notice_are_told_of_by_the_next_one() -> None:
    """They wait for 14 days and live for 2: 7 days ahead nobody could tell."""
    ledger = Ledger(smallest(**NOTICES, pending={"review": "P14D"}))
    ledger.enrol(instant("2026-03-01T12:00"))
    ledger.award(instant("2026-03-01T12:00"), {"type": "review"})
    entry = ledger.sweep(instant("2026-03-16T12:00"))
    assert entry
    assert [posting.kind for posting in entry.postings] == ["activate", "notice"]
    assert told(entry) == [("2026-03-16", "2026-03-17")]


def test_points_that_become_available_on_the_day_of_a_notice_are_in_it() -> None:
    ledger = Ledger(smallest(**NOTICES | {"expiry": [{"after": "P1D"}]}, pending={"review": "P3D"}))
    ledger.enrol(instant("2026-03-01T12:00"))
    ledger.award(instant("2026-03-01T12:00"), {"type": "review"})
    entry = ledger.sweep(instant("2026-03-04T00:00", "Europe/Paris"))
    assert entry
    assert [posting.kind for posting in entry.postings] == ["activate", "notice"]
    assert told(entry) == [("2026-03-04", "2026-03-05")]


# found by every sweep, for ever.
def test_a_tier_that_falls_is_written_down_by_the_sweep() -> None:
    levels = [{"tier_id": "bronze", "at": 0}, {"tier_id": "silver", "at": 10}]
    tiers = {"window": {"rolling": "P30D"}, "downgrade": {"steps": "full"}, "levels": levels}
    ledger = lived(tiers=tiers)
    assert ledger.account
    assert ledger.account.tier == "silver"
    entry = ledger.sweep(instant("2026-03-01T12:00"))
    assert entry
    assert entry.tier == "bronze"
    assert ledger.account.due_on is None


# Spending and paying


def test_spending_takes_the_earliest_expiry_first_and_never_expiring_points_last() -> None:
    account = replace(NOBODY, lots=((100, 5), (200, 5), (NEVER, 5)))
    assert take(account, "redeem", 50, 3).lots == ((100, -3),)
    assert take(account, "redeem", 50, 5).lots == ((100, -5),)
    assert take(account, "redeem", 50, 12).lots == ((100, -5), (200, -5), (NEVER, -2))
    with pytest.raises(Broken):
        take(account, "redeem", 50, 16)


def test_lots_of_one_date_are_merged() -> None:
    grants = [(10, 100, 3), (10, 200, 4), (5, 100, 2), (30, 300, 1)]
    posting = credit(NOBODY, "award", 10, grants, today=10)
    assert posting.lots == ((100, 5), (200, 4))
    assert posting.pending == ((30, 300, 1),)


def test_new_credits_pay_debt_first_from_the_lots_that_expire_earliest() -> None:
    owing = replace(NOBODY, debt=7)
    posting = credit(owing, "award", 10, [(10, 200, 5), (10, 100, 4), (10, NEVER, 1)], today=10)
    assert posting == Posting("award", 10, lots=((200, 2), (NEVER, 1)), debt=-7)
    assert posting.points == 10
    after = owing.posted(posting)
    assert (after.debt, after.lots) == (0, ((200, 2), (NEVER, 1)))


def test_a_small_credit_is_all_taken_by_a_large_debt() -> None:
    posting = credit(replace(NOBODY, debt=7), "award", 10, [(10, 100, 4)], today=10)
    assert posting == Posting("award", 10, debt=-4)


def test_pending_points_pay_debt_on_the_day_they_become_available() -> None:
    owing = replace(NOBODY, debt=7)
    posting = credit(owing, "award", 10, [(20, 100, 10)], today=10)
    assert posting == Posting("award", 10, pending=((20, 100, 10),))
    waiting = owing.posted(posting)
    never = parse(smallest())
    assert advance(never, waiting, 19, 0) == (waiting, [])
    after, [activation] = advance(never, waiting, 20, 0)
    assert activation == Posting(
        "activate", 20, lots=((100, 3),), pending=((20, 100, -10),), debt=-7
    )
    assert (after.debt, after.lots, after.pending) == (0, ((100, 3),), ())
    assert activation.points == 0


def test_on_one_day_activations_come_before_expiries() -> None:
    account = replace(NOBODY, lots=((20, 4),), pending=((20, 30, 6),))
    after, postings = advance(parse(smallest()), account, 20, 0)
    assert [posting.kind for posting in postings] == ["activate", "expire"]
    assert after.lots == ((30, 6),)


LOTS = st.dictionaries(st.integers(1, 60) | st.just(NEVER), st.integers(1, 50), max_size=6)


@given(LOTS, st.integers(1, 300))
def test_a_debit_takes_what_it_says_in_spending_order(lots: dict[int, int], points: int) -> None:
    account = replace(NOBODY, lots=tuple(sorted(lots.items())))
    if points > account.available:
        with pytest.raises(Broken):
            take(account, "redeem", 0, points)
        return
    posting = take(account, "redeem", 0, points)
    after = dict(account.posted(posting).lots)
    assert posting.points == -points
    units = [day for day, held in account.lots for _ in range(held)]
    assert [day for day, held in sorted(after.items()) for _ in range(held)] == units[points:]


@given(LOTS, st.integers(0, 200), st.integers(0, 100))
def test_a_credit_is_whole_between_lots_and_debt(
    lots: dict[int, int], debt: int, today: int
) -> None:
    owing = replace(NOBODY, debt=debt)
    grants = [(0, end, points) for end, points in lots.items()]
    posting = credit(owing, "award", today, grants, today)
    after = owing.posted(posting)
    assert posting.points == sum(lots.values())
    assert after.balance == sum(lots.values()) - debt
    assert not (after.debt and after.lots)


# Inactivity. Publishing refuses it for now; its functions are here.

INACTIVE = program({"inactive_for": "P6M"})


def test_inactivity_takes_all_available_points_at_the_last_activitys_date_plus_the_duration() -> (
    None
):
    account = replace(
        NOBODY, lots=((number("2027-01-15"), 5), (NEVER, 7)), active_on=number("2026-03-31")
    )
    gone = number("2026-09-30")
    assert inactive_on(INACTIVE, account) == due_on(INACTIVE, account) == gone
    assert advance(INACTIVE, account, gone - 1, 0) == (account, [])
    after, [posting] = advance(INACTIVE, account, gone, 0)
    assert after.lots == ()
    assert posting == Posting("expire", gone, lots=((number("2027-01-15"), -5), (NEVER, -7)))


def test_inactivity_shows_in_what_expires_and_changes_no_lots_own_date() -> None:
    account = replace(
        NOBODY,
        lots=((number("2026-05-01"), 5), (number("2027-01-15"), 6), (NEVER, 7)),
        active_on=number("2026-03-31"),
    )
    assert expiring(INACTIVE, account) == [(number("2026-05-01"), 5), (number("2026-09-30"), 13)]
    later = replace(account, active_on=number("2026-04-30"))
    assert expiring(INACTIVE, later) == [(number("2026-05-01"), 5), (number("2026-10-30"), 13)]
    assert expiring(parse(smallest()), account)[-1] == (number("2027-01-15"), 6)


def test_who_was_never_active_loses_nothing_to_inactivity() -> None:
    account = replace(NOBODY, lots=((NEVER, 7),))
    assert inactive_on(INACTIVE, account) == NEVER
    assert advance(INACTIVE, account, 10**6, 0) == (account, [])


@given(
    LOTS,
    st.dictionaries(
        st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(1, 50), max_size=4
    ),
    st.integers(0, 100),
    st.none() | st.integers(0, 30),
    st.integers(0, 120),
)
def test_time_may_pass_in_any_steps(
    lots: dict[int, int],
    waiting: dict[tuple[int, int], int],
    debt: int,
    active_on: int | None,
    today: int,
) -> None:
    """Pending parts, debt, inactivity and fixed dates included: day by day equals at once."""
    policies = program({"inactive_for": "P20D"}, {"after": "P5D"})
    account = replace(
        NOBODY,
        lots=() if debt else tuple(sorted(lots.items())),
        pending=tuple(sorted((start, start + n, points) for (start, n), points in waiting.items())),
        debt=debt,
        active_on=active_on,
    )
    at_once, postings = advance(policies, account, today, 0)
    by_day, one_by_one = account, []
    for day in range(today + 1):
        by_day, due = advance(policies, by_day, day, 0)
        one_by_one += due
        assert all(posting.on == day for posting in due)
    assert (by_day, one_by_one) == (at_once, postings)
    folded = account
    for posting in postings:
        folded = folded.posted(posting)
    assert folded == at_once
    assert all(end > today for end, _ in at_once.lots)
    assert all(start > today for start, _, _ in at_once.pending)


# What can be held


def test_more_than_the_most_is_refused_before_it_is_owed_to_anyone() -> None:
    rule = REVIEW | {"earn": {"points": 10**15}}
    ledger = Ledger(smallest(rules=[rule]))
    now = instant("2026-03-01T12:00")
    ledger.enrol(now)
    ledger.award(now, {"type": "review"})
    before = ledger.account
    with refused("too_many_points"):
        ledger.award(now, {"type": "review"})
    assert ledger.account == before


def test_pending_points_never_become_too_many_to_spend() -> None:
    ledger = Ledger(
        smallest(pending={"review": "P1D"}, rules=[REVIEW | {"earn": {"points": 10**15}}])
    )
    now = instant("2026-03-01T12:00")
    ledger.enrol(now)
    ledger.award(now, {"type": "review"})
    with suppress(Refusal):  # one right answer
        ledger.award(now + HOUR, {"type": "review"})
    ledger.redeem(now + 2 * DAY, 1)


@given(st.integers(0, 40_000), st.integers(0, 1200))
def test_plain_durations_are_months_of_the_calendar(start: int, months: int) -> None:
    end = available_on(Duration(months=months), start)
    assert from_day_number(end) == plus(from_day_number(start), Duration(months=months))


# What falls due, day by day


def fell_due(policy: Program, account: Account, today: int, at: int = 0) -> list[tuple[str, int]]:
    """(kind, day) of what falls due up to a day, in order."""
    return [(posting.kind, posting.on) for posting in advance(policy, account, today, at)[1]]


def test_the_last_year_of_the_calendar_has_the_dates_that_are_left_of_it() -> None:
    dates = {"dates": ["01-01", "12-31"]}
    assert expires("9999-06-01", dates) == "9999-12-31"
    assert expires("9999-12-31", dates) is None


def test_of_several_times_of_inactivity_the_shortest_counts() -> None:
    policy = program({"inactive_for": "P60D"}, {"inactive_for": "P30D"}, {"inactive_for": "P90D"})
    account = replace(NOBODY, active_on=1000, lots=((NEVER, 5),))
    assert inactive_on(policy, account) == 1030
    assert due_on(policy, account) == 1030


def holding(until: int, *lots: tuple[int, int], key: str = "k") -> Account:
    """An account with these lots of which a hold that lapses then has one more point."""
    hold = Hold(key, until, 1)
    return replace(NOBODY, lots=lots, holds=((hold, ((NEVER, 1),)),))


def test_a_hold_is_due_on_the_day_on_which_it_lapses() -> None:
    until = instant("2026-03-10T12:00", "Europe/Paris")
    day = number("2026-03-10")
    assert due_on(program(), holding(until, (day + 9, 4))) == day
    assert due_on(program(), holding(until, (day - 9, 4))) == day - 9


def test_on_one_day_points_expire_before_holds_lapse_and_not_before_it_comes() -> None:
    until = instant("2026-03-10T12:00", "Europe/Paris")
    day = number("2026-03-10")
    for end, order in (
        (day, [("expire", day), ("lapse", day)]),
        (day - 1, [("expire", day - 1), ("lapse", day)]),
        (day + 1, [("lapse", day)]),
    ):
        account = holding(until, (end, 4))
        assert fell_due(program(), account, day, until) == order
        assert fell_due(program(), account, day, until - 1) == order[:-1]


def test_what_became_available_after_inactivity_had_run_out_goes_on_the_day_on_which_it_came() -> (
    None
):
    policy = program({"inactive_for": "P5D"})
    account = replace(
        NOBODY,
        active_on=100,
        lots=((NEVER, 1),),
        pending=((108, NEVER, 2), (110, NEVER, 3), (120, NEVER, 4)),
    )
    gone = [("expire", 105)]
    for day in (108, 110, 120):
        gone += [("activate", day), ("expire", day)]
    assert fell_due(policy, account, 130) == gone
    # What a hold gives back goes on the day on which it lapses.
    lapse = Hold("k", instant("1970-04-20T12:00", "Europe/Paris"), 1)
    held = replace(account, holds=((lapse, ((NEVER, 9),)),))
    order = fell_due(policy, held, 130, instant("1970-05-11T12:00", "Europe/Paris"))
    assert order == [*gone[:3], ("lapse", 109), ("expire", 109), *gone[3:]]


def notices(*ahead: str) -> Program:
    return program(notifications={"expiring": list(ahead)})


def test_notices_come_on_their_days_and_tell_of_what_goes_then() -> None:
    policy = notices("P30D", "P7D")
    account = replace(NOBODY, lots=((200, 5), (223, 6)), noticed_on=160)
    assert due_on(policy, account) == 170
    _, postings = advance(policy, account, 199, 0)
    assert [(posting.kind, posting.on, posting.told) for posting in postings] == [
        ("notice", 170, ((200, 5),)),
        # Of both on one day at once.
        ("notice", 193, ((200, 5), (223, 6))),
    ]


def test_nobody_is_told_of_what_was_due_before_notices_were_asked_for() -> None:
    policy = notices("P30D", "P7D")
    at = instant("1970-06-20T12:00", "Europe/Paris")  # day 170
    account = replace(NOBODY, lots=((200, 5),), recorded_at=at)
    assert fell_due(policy, account, 199) == [("notice", 193)]
    early = replace(account, recorded_at=at - DAY)
    assert fell_due(policy, early, 199) == [("notice", 170), ("notice", 193)]


def test_points_that_come_are_too_late_for_a_notice_of_the_day_before() -> None:
    policy = notices("P7D", "P3D")
    account = replace(NOBODY, pending=((108, 114, 5), (120, 127, 6)), noticed_on=100)
    assert fell_due(policy, account, 130) == [
        ("activate", 108),
        ("notice", 111),
        ("expire", 114),
        ("activate", 120),
        # Of what is due on the day itself is told.
        ("notice", 120),
        ("notice", 124),
        ("expire", 127),
    ]


def test_what_a_hold_gives_back_pays_debt_first() -> None:
    account = replace(holding(NEVER), debt=5)
    account = replace(account, holds=((account.holds[0][0], ((200, 3), (NEVER, 4))),))
    posting = released(account, "cancel", 9, "k")
    assert (posting.lots, posting.debt, posting.held) == (((NEVER, 2),), -5, -7)


def test_a_credit_is_written_in_one_order() -> None:
    grants = [(50, 300, 1), (40, 300, 2), (9, 300, 3), (8, 200, 4), (40, 200, 5), (50, 300, 6)]
    posting = credit(NOBODY, "award", 9, grants, 10)
    assert posting.lots == ((200, 4), (300, 3))
    assert posting.pending == ((40, 200, 5), (40, 300, 2), (50, 300, 7))
