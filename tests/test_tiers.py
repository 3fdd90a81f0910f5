"""Tiers: what counts towards one, how it is reached and lost, and what a member of it gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.dates import rfc3339
from loyalty.lots import advance
from loyalty.model import Account, Entry
from loyalty.program import Program
from loyalty.projections import Explained, awarded, balance
from loyalty.tiers import (
    DAILY_UP_TO_DAYS,
    bucket,
    due_on,
    fallen,
    higher,
    lowered,
    moved,
    outdated,
    raised,
)
from loyalty.validation import parse
from loyalty.wire import account_item, account_of
from tests.programs import smallest
from tests.strategies import (
    BEGINNINGS,
    DAY,
    HOUR,
    PROGRAM_DOCUMENTS,
    SOME_GROUPS,
    STEPS,
    Ledger,
    Story,
    instant,
    local_date,
    number,
    refused,
)

JOINED = "2026-01-10"
LEVELS: list[dict[str, Any]] = [
    {"tier_id": "bronze", "name": "Bronze", "at": 0},
    {"tier_id": "silver", "name": "Silver", "at": 100, "multiplier": "1.5"},
    {"tier_id": "gold", "name": "Gold", "at": 300, "multiplier": "2"},
]
BY_EURO = {
    "rule_id": "base",
    "trigger": "purchase",
    "tier_multiplier": False,
    "earn": {"points": 1, "per_amount": 100},
}
"""A point for a euro whatever the tier, so that sums are easy."""
LIFETIME = "lifetime"
CALENDAR = {"calendar": "year"}
MEMBERSHIP = {"membership": "year"}


def noon(day: str) -> int:
    return instant(f"{day}T12:00", "Europe/Paris")


def member(
    window: Any = LIFETIME,
    steps: str = "none",
    grace: str | None = None,
    qualify_by: str = "points",
    levels: list[dict[str, Any]] | None = None,
    rules: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Ledger:
    """Ann, who joined on JOINED, in a program with tiers of this kind."""
    downgrade = {"steps": steps} | ({} if grace is None else {"grace": grace})
    tiers = {
        "qualify_by": qualify_by,
        "window": window,
        "downgrade": downgrade,
        "levels": levels or LEVELS,
    }
    ledger = Ledger(smallest(tiers=tiers, rules=rules or [BY_EURO], **more))
    ledger.enrol(instant(f"{JOINED}T09:00", "Europe/Paris"))
    return ledger


def buy(ledger: Ledger, day: str, euros: int, occurred_on: str | None = None) -> Entry:
    """A purchase at noon, dated earlier where `occurred_on` says so."""
    when = {} if occurred_on is None else {"occurred_at": rfc3339(noon(occurred_on))}
    return ledger.buy(noon(day), euros * 100, **when)


def standing(ledger: Ledger, day: str) -> dict[str, Any]:
    """The tier as the balance of that noon shows it, with what counts."""
    assert ledger.account
    shown = balance(ledger.rulebook, ledger.account, noon(day))
    return {**(shown["tier"] or {}), "counted": shown["qualifying_points"]}


def tier(ledger: Ledger, day: str) -> str:
    return str(standing(ledger, day)["id"])


def rows(ledger: Ledger, entry: Entry) -> dict[str | None, Explained]:
    return {
        row.get("rule_id", row.get("offer_id")): row
        for row in awarded(ledger.rulebook, entry)["explanation"]
    }


# What counts, and for how long


def test_points_count_whoever_spent_them_and_spend_counts_whatever_it_earned() -> None:
    rules = [BY_EURO, {"rule_id": "review", "trigger": "review", "earn": {"points": 40}}]
    by_points = member(rules=rules)
    by_spend = member(qualify_by="spend", rules=rules, levels=[
        {"tier_id": "bronze", "at": 0}, {"tier_id": "silver", "at": 10_000},
    ])  # fmt: skip
    for ledger in (by_points, by_spend):
        buy(ledger, "2026-02-01", 60)
        ledger.award(noon("2026-02-02"), {"type": "review"})
    assert standing(by_points, "2026-02-03")["counted"] == 100
    assert tier(by_points, "2026-02-03") == "silver"
    assert standing(by_spend, "2026-02-03")["counted"] == 6_000
    assert tier(by_spend, "2026-02-03") == "bronze"
    buy(by_spend, "2026-02-04", 40)
    assert tier(by_spend, "2026-02-04") == "silver"


def test_spend_is_the_earning_base_also_of_a_purchase_that_earned_nothing() -> None:
    for tax, counted in (("exclude", 9_000), ("include", 9_900)):
        ledger = member(
            qualify_by="spend",
            rules=[BY_EURO | {"when": {"channels": ["web"]}}],
            earning_base={"tax": tax, "shipping": "exclude"},
        )
        purchase = {
            "currency": "EUR",
            "lines": [{"line_id": "1", "quantity": 1, "amount": 10_000}],
            "tax": 1_000,
            "shipping": 500,
            "paid_with_points": 1_000 if tax == "exclude" else 1_100,
        }
        entry = ledger.award(noon("2026-02-01"), {"type": "purchase", "purchase": purchase})
        assert entry.points == 0
        assert standing(ledger, "2026-02-01")["counted"] == counted


def test_a_rolling_window_of_30_days_counts_an_event_for_30_days() -> None:
    ledger = member({"rolling": "P30D"}, "full")
    buy(ledger, "2026-02-01", 60)
    buy(ledger, "2026-02-11", 50)
    assert standing(ledger, "2026-03-02") | {"counted": 110, "until": "2026-03-03"} == standing(
        ledger, "2026-03-02"
    )
    assert standing(ledger, "2026-03-03") == {
        "id": "bronze", "name": "Bronze", "multiplier": "1",
        "next_tier": "silver", "points_to_next": 50, "counted": 50,
    }  # fmt: skip
    assert standing(ledger, "2026-03-12")["counted"] == 50
    assert standing(ledger, "2026-03-13")["counted"] == 0


def test_windows_of_up_to_90_days_are_kept_by_day_longer_ones_by_month() -> None:
    assert DAILY_UP_TO_DAYS == 90
    for window, first_without in (
        ("P90D", "2026-05-11"),  # 10 February and 90 days
        ("P2M", "2026-04-10"),
        ("P91D", "2026-05-30"),  # 28 February, the month's last day, and 91 days
        ("P3M", "2026-05-28"),
        ("P365D", "2027-02-28"),
        ("P1Y", "2027-02-28"),
    ):
        ledger = member({"rolling": window}, "full")
        buy(ledger, "2026-02-10", 120)
        before = (date.fromisoformat(first_without) - timedelta(days=1)).isoformat()
        assert (tier(ledger, before), tier(ledger, first_without)) == ("silver", "bronze"), window
        assert standing(ledger, before)["counted"] == 120
        assert standing(ledger, first_without)["counted"] == 0
        assert standing(ledger, before)["until"] == first_without


def test_a_calendar_year_counts_from_january_to_december_in_the_programs_zone() -> None:
    ledger = member(CALENDAR, "full", time_zone="America/New_York")
    # 23:00 on 31 December there is the next year here.
    ledger.buy(instant("2026-12-31T23:00", "America/New_York"), 7_000)
    last, new = instant("2026-12-31T23:59", "America/New_York"), instant("2027-01-01T06:00")
    assert ledger.account
    assert balance(ledger.rulebook, ledger.account, last)["qualifying_points"] == 70
    assert balance(ledger.rulebook, ledger.account, new)["qualifying_points"] == 0


def test_a_membership_year_begins_on_the_day_of_joining() -> None:
    ledger = member(MEMBERSHIP, "full")
    buy(ledger, "2026-12-31", 60)
    buy(ledger, "2027-01-09", 30)
    assert standing(ledger, "2027-01-09")["counted"] == 90
    assert standing(ledger, "2027-01-10")["counted"] == 0
    buy(ledger, "2027-01-10", 90)
    assert (tier(ledger, "2027-01-10"), standing(ledger, "2027-01-10")["counted"]) == ("bronze", 90)


def test_the_membership_year_of_who_joined_on_29_february_ends_on_the_28th() -> None:
    document = smallest(
        tiers={"window": MEMBERSHIP, "downgrade": {"steps": "full"}, "levels": LEVELS},
        rules=[BY_EURO],
    )
    ledger = Ledger(document)
    ledger.enrol(noon("2024-02-29"))
    buy(ledger, "2025-02-27", 70)
    assert standing(ledger, "2025-02-27")["counted"] == 70
    assert standing(ledger, "2025-02-28")["counted"] == 0
    buy(ledger, "2028-02-28", 40)
    assert standing(ledger, "2028-02-28")["counted"] == 40
    assert standing(ledger, "2028-02-29")["counted"] == 0


def test_a_lifetime_never_ends() -> None:
    ledger = member(LIFETIME, "full")
    buy(ledger, "2026-02-01", 100)
    shown = standing(ledger, "2099-01-01")
    assert (shown["id"], shown["counted"]) == ("silver", 100)
    assert "until" not in shown


def test_an_event_counts_in_the_window_of_its_own_date() -> None:
    ledger = member(CALENDAR, "full")
    buy(ledger, "2027-01-05", 90, occurred_on="2026-12-30")
    assert standing(ledger, "2027-01-05")["counted"] == 0
    buy(ledger, "2027-01-06", 90)
    assert (standing(ledger, "2027-01-06")["counted"], tier(ledger, "2027-01-06")) == (90, "bronze")
    rolling = member({"rolling": "P30D"}, "full")
    buy(rolling, "2026-03-10", 100, occurred_on="2026-02-10")
    assert standing(rolling, "2026-03-10")["counted"] == 100
    assert standing(rolling, "2026-03-12")["counted"] == 0


# Up


def test_a_tier_is_reached_at_once_but_its_award_was_decided_under_the_one_before() -> None:
    ledger = member(rules=[BY_EURO | {"tier_multiplier": True}])
    entry = buy(ledger, "2026-02-01", 100)
    assert (entry.points, entry.tier) == (100, "silver")
    entry = buy(ledger, "2026-02-01", 100)
    assert (entry.points, entry.tier) == (150, None)
    entry = buy(ledger, "2026-02-01", 40)
    assert (entry.points, entry.tier) == (60, "gold")
    assert buy(ledger, "2026-02-01", 10).points == 20


def test_one_award_may_climb_several_tiers() -> None:
    ledger = member()
    buy(ledger, "2026-02-01", 99)
    assert tier(ledger, "2026-02-01") == "bronze"
    buy(ledger, "2026-02-01", 201)
    assert standing(ledger, "2026-02-01") == {
        "id": "gold", "name": "Gold", "multiplier": "2", "counted": 300,
    }  # fmt: skip


def test_the_balance_shows_what_the_next_tier_asks_for() -> None:
    ledger = member({"rolling": "P30D"}, "full")
    assert standing(ledger, "2026-01-11") == {
        "id": "bronze", "name": "Bronze", "multiplier": "1",
        "next_tier": "silver", "points_to_next": 100, "counted": 0,
    }  # fmt: skip
    buy(ledger, "2026-02-01", 130)
    assert standing(ledger, "2026-02-01") == {
        "id": "silver", "name": "Silver", "multiplier": "1.5",
        "next_tier": "gold", "points_to_next": 170, "until": "2026-03-03", "counted": 130,
    }  # fmt: skip
    buy(ledger, "2026-02-02", 200)
    assert standing(ledger, "2026-02-02") == {
        "id": "gold", "name": "Gold", "multiplier": "2", "until": "2026-03-03", "counted": 330,
    }  # fmt: skip


def test_a_program_without_tiers_shows_none() -> None:
    ledger = Ledger(smallest(rules=[BY_EURO]))
    ledger.enrol(noon(JOINED))
    buy(ledger, "2026-02-01", 500)
    assert ledger.account
    shown = balance(ledger.rulebook, ledger.account, noon("2026-02-01"))
    assert (shown["tier"], shown["qualifying_points"]) == (None, 0)


@pytest.mark.parametrize("window", [CALENDAR, MEMBERSHIP])
def test_an_event_of_the_first_minutes_of_a_new_period_raises_once_it_has_begun(
    window: Any,
) -> None:
    """The clock of the till is 3 minutes fast, which is within what is taken."""
    begins = "2027-01-01" if window == CALENDAR else "2027-01-10"
    midnight = instant(f"{begins}T00:00", "Europe/Paris")
    ledger = member(window, "full")
    ledger.buy(midnight - 60_000, 12_000, occurred_at=rfc3339(midnight + 120_000))
    shown = standing(ledger, begins)
    assert (shown["counted"], shown["id"]) == (120, "silver")


@pytest.mark.parametrize("window", [CALENDAR, MEMBERSHIP])
def test_a_late_event_that_completes_the_last_period_raises_as_it_would_have_in_time(
    window: Any,
) -> None:
    late, timely = member(window, "full"), member(window, "full")
    for ledger in (late, timely):
        buy(ledger, "2026-05-01", 60)
    buy(timely, "2026-12-30", 60)
    buy(late, "2027-01-12", 60, occurred_on="2026-12-30")
    for on in ("2027-01-12", "2027-12-31", "2028-01-09", "2028-01-10"):
        assert standing(late, on) == standing(timely, on), on
    assert standing(late, "2027-01-12")["id"] == "silver"
    assert standing(late, "2028-01-10")["id"] == "bronze"


# Down


@pytest.mark.parametrize(
    ("steps", "then"), [("none", "gold"), ("one", "silver"), ("full", "bronze")]
)
def test_at_the_periods_end_it_falls_as_the_program_says(steps: str, then: str) -> None:
    ledger = member(CALENDAR, steps)
    buy(ledger, "2026-05-01", 300)
    # What was reached this year is kept through the next.
    for day in ("2026-12-31", "2027-01-01", "2027-12-31"):
        assert tier(ledger, day) == "gold", day
    assert tier(ledger, "2028-01-01") == then


def test_one_step_is_one_for_every_period() -> None:
    ledger = member(CALENDAR, "one")
    buy(ledger, "2026-05-01", 300)
    assert [tier(ledger, f"{year}-06-01") for year in (2027, 2028, 2029)] == [
        "gold", "silver", "bronze",
    ]  # fmt: skip


def test_full_falls_to_where_the_member_belongs_not_below() -> None:
    ledger = member(CALENDAR, "full")
    buy(ledger, "2026-05-01", 300)
    buy(ledger, "2027-05-01", 120)
    assert tier(ledger, "2027-12-31") == "gold"
    assert (tier(ledger, "2028-01-01"), tier(ledger, "2028-12-31")) == ("silver", "silver")
    assert tier(ledger, "2029-01-01") == "bronze"


def test_grace_keeps_the_tier_after_the_periods_end_and_lets_it_be_saved() -> None:
    ledger = member(CALENDAR, "full", "P30D")
    buy(ledger, "2026-05-01", 100)
    assert standing(ledger, "2026-05-01")["until"] == "2028-01-31"
    assert (tier(ledger, "2028-01-30"), tier(ledger, "2028-01-31")) == ("silver", "bronze")
    buy(ledger, "2028-01-15", 100)
    shown = standing(ledger, "2028-01-31")
    assert (shown["id"], shown["until"]) == ("silver", "2030-01-31")


def test_too_little_in_grace_saves_nothing() -> None:
    ledger = member(CALENDAR, "full", "P30D")
    buy(ledger, "2026-05-01", 100)
    buy(ledger, "2028-01-15", 99)
    assert standing(ledger, "2028-01-15")["until"] == "2028-01-31"
    assert (tier(ledger, "2028-01-30"), tier(ledger, "2028-01-31")) == ("silver", "bronze")


def test_a_late_event_of_the_last_period_saves_the_tier_in_grace() -> None:
    ledger = member(CALENDAR, "full", "P30D")
    buy(ledger, "2026-05-01", 100)
    buy(ledger, "2028-01-10", 100, occurred_on="2027-12-20")
    assert tier(ledger, "2028-02-01") == "silver"


def test_a_rolling_tier_is_lost_when_too_little_is_left_and_grace_is_over() -> None:
    ledger = member({"rolling": "P30D"}, "full", "P10D")
    buy(ledger, "2026-02-01", 100)
    shown = standing(ledger, "2026-03-12")
    assert (shown["id"], shown["counted"], shown["until"]) == ("silver", 0, "2026-03-13")
    assert tier(ledger, "2026-03-13") == "bronze"
    buy(ledger, "2026-03-12", 100)
    assert (tier(ledger, "2026-03-13"), tier(ledger, "2026-04-20")) == ("silver", "silver")
    assert tier(ledger, "2026-04-21") == "bronze"


def test_a_membership_tier_is_kept_to_the_end_of_the_next_membership_year() -> None:
    ledger = member(MEMBERSHIP, "full")
    buy(ledger, "2026-05-01", 100)
    assert (tier(ledger, "2028-01-09"), tier(ledger, "2028-01-10")) == ("silver", "bronze")


def test_one_step_in_a_rolling_window_is_one_for_every_window() -> None:
    ledger = member({"rolling": "P30D"}, "one")
    buy(ledger, "2026-02-01", 300)
    assert [tier(ledger, day) for day in ("2026-03-02", "2026-03-03", "2026-04-01")] == [
        "gold", "silver", "silver",
    ]  # fmt: skip
    assert standing(ledger, "2026-03-03")["until"] == "2026-04-02"
    assert tier(ledger, "2026-04-02") == "bronze"
    buy(ledger, "2026-03-20", 100)
    assert (tier(ledger, "2026-04-18"), tier(ledger, "2026-04-19")) == ("silver", "bronze")


def test_grace_may_be_longer_than_a_period() -> None:
    ledger = member({"rolling": "P30D"}, "full", "P1Y")
    buy(ledger, "2026-02-01", 100)
    assert (tier(ledger, "2027-03-02"), tier(ledger, "2027-03-03")) == ("silver", "bronze")


def test_what_fell_decides_the_next_award_whether_or_not_the_sweep_has_run() -> None:
    for swept in (False, True):
        ledger = member({"rolling": "P30D"}, "full", rules=[BY_EURO | {"tier_multiplier": True}])
        buy(ledger, "2026-02-01", 100)
        if swept:
            ledger.sweep(noon("2026-03-03"))
        assert buy(ledger, "2026-03-04", 10).points == 10
        assert tier(ledger, "2026-03-04") == "bronze"


def test_a_member_whose_tier_fell_is_not_due_for_ever() -> None:
    """The sweep writes the fall down, though no points move."""
    ledger = member({"rolling": "P30D"}, "full")
    buy(ledger, "2026-02-01", 100)
    day = "2026-04-01"
    ledger.sweep(noon(day))
    assert ledger.account
    assert ledger.account.due_on is None or ledger.account.due_on > number(day)
    assert ledger.account.tier == "bronze"


# Spending and refunds


def test_spending_never_lowers_a_tier_and_refunds_do() -> None:
    ledger = member(CALENDAR, "none")
    first = buy(ledger, "2026-02-01", 60)
    buy(ledger, "2026-02-02", 40)
    ledger.redeem(noon("2026-02-03"), 100)
    shown = standing(ledger, "2026-02-03")
    assert (shown["id"], shown["counted"]) == ("silver", 100)
    ledger.reverse(noon("2026-02-04"), first)
    shown = standing(ledger, "2026-02-04")
    assert (shown["id"], shown["counted"]) == ("bronze", 40)


def test_points_that_expire_still_count() -> None:
    ledger = member(expiry=[{"after": "P10D"}])
    buy(ledger, "2026-02-01", 100)
    assert ledger.sweep(noon("2026-03-01"))
    assert tier(ledger, "2026-03-01") == "silver"


def test_a_refund_lowers_only_what_it_held_up() -> None:
    ledger = member({"rolling": "P30D"}, "full")
    first = buy(ledger, "2026-02-01", 250)
    second = buy(ledger, "2026-02-02", 100)
    ledger.reverse(noon("2026-02-03"), second)
    assert tier(ledger, "2026-02-03") == "silver"
    third = buy(ledger, "2026-02-04", 20)
    ledger.reverse(noon("2026-02-05"), third, "other")
    assert (tier(ledger, "2026-02-05"), standing(ledger, "2026-02-05")["counted"]) == (
        "silver", 250,
    )  # fmt: skip
    ledger.reverse(noon("2026-02-06"), first, "first")
    assert (tier(ledger, "2026-02-06"), standing(ledger, "2026-02-06")["counted"]) == ("bronze", 0)


@pytest.mark.parametrize("counted", ["points", "spend"])
def test_the_last_of_several_refunds_takes_only_what_still_counts(counted: str) -> None:
    ledger = member(CALENDAR, "full", qualify_by=counted)
    scale = 100 if counted == "spend" else 1
    first = buy(ledger, "2026-02-01", 100)
    buy(ledger, "2026-02-02", 60)
    ledger.reverse(noon("2026-02-03"), first, "some", amount=9000)
    assert standing(ledger, "2026-02-03")["counted"] == 70 * scale
    ledger.reverse(noon("2026-02-04"), first, "rest")
    assert standing(ledger, "2026-02-04")["counted"] == 60 * scale


def test_a_refund_of_last_years_purchase_takes_the_tier_that_it_gave() -> None:
    ledger = member(CALENDAR, "full")
    entry = buy(ledger, "2026-12-01", 120)
    assert tier(ledger, "2027-02-01") == "silver"
    ledger.reverse(noon("2027-02-01"), entry)
    assert tier(ledger, "2027-02-01") == "bronze"


def test_a_refund_takes_back_spend_that_counted() -> None:
    ledger = member(qualify_by="spend", levels=[
        {"tier_id": "low", "at": 0}, {"tier_id": "high", "at": 10_000},
    ])  # fmt: skip
    entry = buy(ledger, "2026-02-01", 100)
    assert tier(ledger, "2026-02-01") == "high"
    ledger.reverse(noon("2026-02-02"), entry)
    assert (tier(ledger, "2026-02-02"), standing(ledger, "2026-02-02")["counted"]) == ("low", 0)


@pytest.mark.parametrize("window", [{"rolling": "P30D"}, {"rolling": "P6M"}, CALENDAR, MEMBERSHIP])
def test_a_refund_of_what_no_longer_counts_takes_nothing_from_what_does(window: Any) -> None:
    ledger = member(window, "full")
    old = buy(ledger, "2026-02-01", 80)
    later = "2028-06-01"
    ledger.reverse(noon(later), old)
    assert ledger.account
    assert ledger.account.qualifying == ()
    buy(ledger, later, 100)
    assert (tier(ledger, later), standing(ledger, later)["counted"]) == ("silver", 100)


# What a tier gives


def test_a_tier_multiplies_purchases_by_default_and_other_events_where_they_say_so() -> None:
    plain = {key: value for key, value in BY_EURO.items() if key != "tier_multiplier"}
    rules = [
        plain,
        {"rule_id": "not", "trigger": "purchase", "tier_multiplier": False, "earn": {"points": 10}},
        {"rule_id": "review", "trigger": "review", "earn": {"points": 10}},
        {"rule_id": "quiz", "trigger": "quiz", "tier_multiplier": True, "earn": {"points": 10}},
    ]
    ledger = member(rules=rules, levels=[
        {"tier_id": "silver", "at": 0, "multiplier": "1.5"},
    ])  # fmt: skip
    shown = rows(ledger, buy(ledger, "2026-02-01", 10))
    assert (shown["base"]["points"], shown["not"]["points"]) == (15, 10)
    assert shown["base"]["factors"] == [{"kind": "tier", "tier_id": "silver", "multiplier": "1.5"}]
    assert shown["not"]["factors"] == []
    assert ledger.award(noon("2026-02-01"), {"type": "review"}).points == 10
    assert ledger.award(noon("2026-02-01"), {"type": "quiz"}).points == 15


@pytest.mark.parametrize(
    ("combine", "ceiling", "points"),
    [
        ("multiply", None, 300),  # 2 × 1.25 × 1.2
        ("add", None, 245),  # 1 + 1 + 0.25 + 0.2
        ("best", None, 200),
        ("multiply", "2.75", 275),
        ("add", "2.4", 240),
        ("best", "1.5", 150),
    ],
)
def test_line_campaign_and_tier_multipliers_combine(
    combine: str, ceiling: str | None, points: int
) -> None:
    plain = {key: value for key, value in BY_EURO.items() if key != "tier_multiplier"}
    double = {
        "rule_id": "double",
        "trigger": "purchase",
        "match": {"categories": ["beans"]},
        "earn": {"multiply": "2"},
    }
    ledger = member(
        rules=[plain, double],
        levels=[{"tier_id": "silver", "at": 0, "multiplier": "1.2"}],
        campaigns=[{"campaign_id": "spring", "multiplier": "1.25"}],
        multipliers={"combine": combine} | ({} if ceiling is None else {"max": ceiling}),
    )
    line = {"line_id": "1", "quantity": 1, "amount": 10_000, "category_ids": ["beans"]}
    purchase = {"currency": "EUR", "lines": [line]}
    entry = ledger.award(noon("2026-02-01"), {"type": "purchase", "purchase": purchase})
    assert entry.points == points
    kinds = [factor["kind"] for factor in rows(ledger, entry)["base"]["factors"]]
    assert kinds == ["line", "campaign", "tier"]


def test_rules_and_campaigns_may_ask_for_a_tier() -> None:
    ledger = member(
        rules=[
            BY_EURO,
            {
                "rule_id": "lounge",
                "trigger": "purchase",
                "tier_multiplier": False,
                "when": {"tiers": ["silver", "gold"]},
                "earn": {"points": 7},
            },
        ],
        campaigns=[{"campaign_id": "gold", "multiplier": "3", "when": {"tiers": ["gold"]}}],
    )
    first = buy(ledger, "2026-02-01", 100)
    assert (first.points, rows(ledger, first)["lounge"]["reason"]) == (100, "tier")
    assert buy(ledger, "2026-02-01", 200).points == 207
    assert tier(ledger, "2026-02-01") == "gold"
    assert buy(ledger, "2026-02-01", 10).points == 3 * 17


def test_rewards_are_for_tiers_and_cost_by_tier() -> None:
    rewards = [
        {"reward_id": "lounge", "kind": "experience", "cost": 5, "when": {"tiers": ["silver"]}},
        {"reward_id": "cup", "kind": "product", "cost": {"default": 50, "silver": 40, "gold": 30}},
    ]
    ledger = member(rewards=rewards)
    day = noon("2026-02-02")
    buy(ledger, "2026-02-01", 90)
    with refused("reward_locked"):
        ledger.redeem(day, reward_id="lounge")
    assert ledger.redeem(day, reward_id="cup").points == -50
    ledger.buy(day, 1_000)
    assert ledger.redeem(day, reward_id="lounge").points == -5
    assert ledger.redeem(day, reward_id="cup").points == -40
    ledger.buy(day, 20_000)
    with refused("reward_locked"):
        ledger.redeem(day, reward_id="lounge")
    assert ledger.redeem(day, reward_id="cup").points == -30


def test_a_tier_that_fell_opens_no_reward() -> None:
    rewards = [
        {"reward_id": "lounge", "kind": "experience", "cost": 5, "when": {"tiers": ["silver"]}}
    ]
    ledger = member({"rolling": "P30D"}, "full", rewards=rewards)
    buy(ledger, "2026-02-01", 100)
    with refused("reward_locked"):
        ledger.redeem(noon("2026-03-03"), reward_id="lounge")


# Properties

TIERED = st.fixed_dictionaries(
    {
        "window": st.sampled_from(
            [{"rolling": "P30D"}, {"rolling": "P6M"}, CALENDAR, MEMBERSHIP, LIFETIME]
        ),
        "downgrade": st.fixed_dictionaries(
            {"steps": st.sampled_from(["none", "one", "full"])},
            optional={"grace": st.sampled_from(["P10D", "P2M"])},
        ),
        "levels": st.just(
            [
                {"tier_id": "bronze", "at": 0},
                {"tier_id": "silver", "at": 20, "multiplier": "1.5"},
                {"tier_id": "gold", "at": 60, "multiplier": 2},
            ]
        ),
    },
    optional={"qualify_by": st.just("spend")},
)
STORIES = st.builds(
    lambda document, tiers, begins, groups, steps: Story(
        document | {"tiers": tiers}, begins, groups, steps
    ),
    PROGRAM_DOCUMENTS,
    TIERED,
    BEGINNINGS,
    SOME_GROUPS,
    STEPS,
)


@settings(max_examples=25)
@given(STORIES, st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_advancing_day_by_day_equals_advancing_at_once(story: Story, strides: list[int]) -> None:
    played = story.play()
    ledger = played.ledger
    assert ledger.account
    start = number(local_date(played.now, played.zone))
    end = start + sum(strides)
    at_once, _ = advance(ledger.program, ledger.account, end, 0)
    step_by_step = ledger.account
    day = start
    for stride in strides:
        day += stride
        step_by_step, _ = advance(ledger.program, step_by_step, day, 0)
    assert step_by_step == at_once
    assert advance(ledger.program, at_once, end, 0) == (at_once, [])


@settings(max_examples=15)
@given(STORIES)
def test_what_counts_and_the_tier_do_not_depend_on_the_sweep(story: Story) -> None:
    lazy, swept = story.play(), story.play(sweep_first=True)
    for at in (lazy.now, lazy.now + 40 * DAY, lazy.now + 800 * DAY):
        shown = []
        for played in (lazy, swept):
            assert played.ledger.account
            shown.append(balance(played.ledger.rulebook, played.ledger.account, at))
        assert shown[0] == shown[1]


@settings(max_examples=20)
@given(STORIES)
def test_entries_rebuild_the_account_and_no_bucket_is_below_zero(story: Story) -> None:
    ledger = story.play().ledger
    account = Account(program_id=ledger.program.program_id, member_id=ledger.member_id)
    for entry in ledger.entries:
        account = account.after(entry)
        assert account_of(account_item(account)) == account
        assert all(amount > 0 for _, amount in account.qualifying)
    assert ledger.account
    # A birthday is personal: the account holds it, the ledger does not.
    assert replace(account, birthday=ledger.account.birthday) == ledger.account


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 45), st.integers(1, 80)), min_size=1, max_size=8),
    st.sampled_from([1, 30, 90]),
    st.integers(0, 60),
)
def test_a_rolling_window_by_day_is_the_sum_of_its_days(
    purchases: list[tuple[int, int]], length: int, later: int
) -> None:
    ledger = member({"rolling": f"P{length}D"}, "full")
    now = noon("2026-02-01")
    made = []
    for gap, euros in purchases:
        now += gap * DAY
        ledger.buy(now + HOUR, euros * 100)
        made.append((now, euros))
    at = now + later * DAY + 2 * HOUR
    today = local_date(at, "Europe/Paris")
    expected = sum(
        euros for when, euros in made if (today - local_date(when, "Europe/Paris")).days < length
    )
    assert ledger.account
    assert balance(ledger.rulebook, ledger.account, at)["qualifying_points"] == expected
    shown = balance(ledger.rulebook, ledger.account, at)["tier"]
    assert shown
    assert shown["id"] == [level["tier_id"] for level in LEVELS if level["at"] <= expected][-1]


# What the rules of tiers say of an account


def rules_of(
    window: Any = LIFETIME, steps: str = "full", grace: str | None = None, **more: Any
) -> Program:
    downgrade = {"steps": steps} | ({} if grace is None else {"grace": grace})
    tiers = {
        "qualify_by": "points",
        "window": window,
        "levels": LEVELS,
        "downgrade": downgrade,
    }
    return parse(smallest(tiers=tiers, **more))


def who(tier: str = "", *qualifying: tuple[str, int], **more: Any) -> Account:
    """A member in that tier, with what counts by the first day of its bucket."""
    fields: dict[str, Any] = {"joined_on": number("2024-03-01")} | more
    for name in ("tier_until", "pinned_until"):
        if name in fields:
            fields[name] = number(fields[name])
    counts = tuple((number(day), amount) for day, amount in qualifying)
    return Account(program_id="test", member_id="ann", tier=tier, qualifying=counts, **fields)


def rolling(length: str) -> dict[str, str]:
    return {"rolling": length}


@pytest.mark.parametrize(
    ("window", "on", "first"),
    [
        (LIFETIME, "2026-03-10", "1970-01-01"),
        (CALENDAR, "2026-03-10", "2026-01-01"),
        (MEMBERSHIP, "2026-03-10", "2026-03-01"),
        (MEMBERSHIP, "2026-02-28", "2025-03-01"),
        (MEMBERSHIP, "2028-02-28", "2027-03-01"),
        (rolling("P90D"), "2026-03-10", "2026-03-10"),
        (rolling("P2M29D"), "2026-03-10", "2026-03-10"),
        (rolling("P2M30D"), "2026-03-10", "2026-03-01"),
        (rolling("P91D"), "2026-03-10", "2026-03-01"),
        (rolling("P6M"), "2026-03-31", "2026-03-01"),
    ],
)
def test_what_counts_is_kept_by_day_by_month_or_by_year(window: Any, on: str, first: str) -> None:
    terms = rules_of(window).tiers
    assert terms
    assert bucket(terms, number(on), number("2024-03-01")) == number(first)


def test_a_year_of_membership_moves_into_the_others_year_of_the_same_number() -> None:
    terms = rules_of(MEMBERSHIP).tiers
    assert terms
    buckets = [(number("2025-05-10"), 4), (number("2023-05-10"), 1), (number("2024-05-10"), 2)]
    moves = moved(terms, buckets, number("2024-03-01"), number("2026-03-10"))
    assert moves == (
        (number("2024-03-01"), 1),
        (number("2025-03-01"), 2),
        (number("2026-03-01"), 4),
    )
    calendar = rules_of(CALENDAR).tiers
    assert calendar
    same = [(number("2026-01-01"), 4), (number("2025-01-01"), 1)]
    assert moved(calendar, same, None, number("2026-03-10")) == tuple(sorted(same))


@pytest.mark.parametrize(
    ("window", "gone"),
    [
        (LIFETIME, []),
        (rolling("P30D"), ["2024-05-01", "2025-06-01", "2026-02-07", "2026-02-08"]),
        (CALENDAR, ["2024-05-01"]),
    ],
)
def test_what_can_never_count_again_is_dropped(window: Any, gone: list[str]) -> None:
    """On 10 March; of the year before grace may still decide."""
    days = ["2024-05-01", "2025-06-01", "2026-02-07", "2026-02-08", "2026-02-09"]
    account = who("", *((day, 5) for day in days))
    dropped = outdated(rules_of(window), account, number("2026-03-10"))
    assert dropped == tuple((number(day), -5) for day in gone)


def test_without_tiers_nobody_is_raised_and_nobody_falls() -> None:
    program, account = parse(smallest()), who("silver", ("2026-03-01", 500))
    today = number("2026-03-10")
    assert raised(program, account, today, today) == account
    assert fallen(program, account, today) == account
    assert higher(program, account, who("gold")) == account
    assert lowered(program, account, account, today) == account
    assert due_on(program, account) is None
    assert outdated(program, account, today) == ()


def test_only_what_lifts_a_member_names_a_tier() -> None:
    program, today = rules_of(), number("2026-03-10")
    for amount, tier in ((99, ""), (100, "silver"), (299, "silver"), (300, "gold")):
        account = who("", ("1970-01-01", amount))
        assert raised(program, account, today, today).tier == tier
    assert raised(program, who("gold", ("1970-01-01", 100)), today, today).tier == "gold"


def test_a_late_event_lifts_nobody_by_what_has_left_the_window() -> None:
    program, today = rules_of(rolling("P30D")), number("2026-03-10")
    account = who("", ("2026-01-01", 100))
    assert raised(program, account, today, number("2026-01-01")).tier == ""
    by_year = rules_of(CALENDAR)
    before = who("", ("2025-01-01", 100))
    assert raised(by_year, before, today, number("2025-12-31")).tier == "silver"


def test_an_event_of_the_year_that_is_about_to_begin_is_kept_for_that_year() -> None:
    program = rules_of(CALENDAR)
    account = who("", ("2026-01-01", 100))
    after = raised(program, account, number("2025-12-31"), number("2026-01-01"))
    assert (after.tier, after.tier_until) == ("silver", number("2028-01-01"))


def test_a_tier_is_kept_until_too_little_is_left_in_the_window() -> None:
    program, today = rules_of(rolling("P30D")), number("2026-03-10")
    account = who("silver", ("2026-02-20", 50), ("2026-03-01", 99), ("2026-03-05", 1))
    assert raised(program, account, today, today).tier_until == number("2026-03-31")
    less = who("silver", ("2026-02-20", 50), ("2026-03-01", 99))
    assert raised(program, less, today, today).tier_until == number("2026-03-22")


def test_a_grace_that_came_later_counts_from_the_end_of_the_year() -> None:
    account = who("silver", ("2026-01-01", 5), tier_until="2027-01-01")
    today = number("2026-03-10")
    assert raised(rules_of(CALENDAR, grace="P1M"), account, today, today).tier_until == number(
        "2027-02-01"
    )
    in_grace = replace(account, tier_until=number("2026-04-01"))
    after = raised(rules_of(CALENDAR, grace="P3M"), in_grace, today, today)
    assert after.tier_until == number("2026-04-01")


EARLY, LATE = "2027-01-01", "2028-01-01"


@pytest.mark.parametrize(
    ("mine", "theirs", "tier", "until"),
    [
        (who("silver", tier_until=EARLY), who("gold", tier_until=LATE), "gold", LATE),
        (who("gold", tier_until=EARLY), who("silver", tier_until=LATE), "gold", EARLY),
        (who("gold", tier_until=EARLY), who("gold", tier_until=LATE), "gold", LATE),
        (who("gold", tier_until=LATE), who("gold", tier_until=EARLY), "gold", LATE),
        # What has no end stays without one; of equals one's own is kept.
        (who("gold"), who("gold", tier_until=EARLY), "gold", None),
        (who("gold", tier_until=EARLY), who("gold"), "gold", EARLY),
        (who(), who("bronze"), "", None),
    ],
)
def test_of_two_tiers_the_higher_stays(
    mine: Account, theirs: Account, tier: str, until: str | None
) -> None:
    after = higher(rules_of(CALENDAR), mine, theirs)
    assert (after.tier, after.tier_until) == (tier, None if until is None else number(until))


def test_what_staff_have_set_is_taken_over_where_nothing_is_set() -> None:
    program = rules_of(CALENDAR)
    plain, set_ = who("silver"), who("silver", pinned="gold", pinned_until=LATE)
    other = who("silver", pinned="bronze", pinned_until=EARLY)
    for mine, theirs, pinned, until in (
        (plain, set_, "gold", LATE),
        (other, set_, "bronze", EARLY),
        (set_, plain, "gold", LATE),
    ):
        after = higher(program, mine, theirs)
        assert (after.pinned, after.pinned_until) == (pinned, number(until))
    assert higher(program, plain, plain).pinned == ""


@pytest.mark.parametrize(
    ("tier", "before", "after", "falls_to"),
    [
        ("gold", 300, 300, "gold"),
        ("gold", 300, 299, "silver"),
        ("gold", 310, 300, "gold"),
        ("gold", 300, 5, "bronze"),
        # Not by points that did not hold it up.
        ("gold", 299, 5, "gold"),
        ("silver", 100, 99, "bronze"),
        ("bronze", 5, 0, "bronze"),
        ("", 5, 0, ""),
    ],
)
def test_a_refund_lowers_whom_its_points_held_up(
    tier: str, before: int, after: int, falls_to: str
) -> None:
    today = number("2026-03-10")
    was, now = (who(tier, ("1970-01-01", amount)) for amount in (before, after))
    assert lowered(rules_of(), now, was, today).tier == falls_to


def test_what_ends_first_is_due_first() -> None:
    program = rules_of(CALENDAR)
    for tier_until, pinned_until in ((EARLY, LATE), (LATE, EARLY)):
        account = who("gold", tier_until=tier_until, pinned="gold", pinned_until=pinned_until)
        assert due_on(program, account) == number(EARLY)
    assert due_on(program, who("gold", tier_until=LATE)) == number(LATE)
    assert due_on(program, who("gold")) is None


@pytest.mark.parametrize(
    ("steps", "amount", "tier"),
    [
        ("full", 300, "gold"),
        ("full", 299, "silver"),
        ("full", 5, "bronze"),
        ("one", 5, "silver"),
        ("one", 300, "gold"),
        ("none", 5, "gold"),
    ],
)
def test_at_its_end_a_tier_is_renewed_or_lost(steps: str, amount: int, tier: str) -> None:
    account = who("gold", ("2026-01-01", amount), tier_until=EARLY)
    assert fallen(rules_of(CALENDAR, steps), account, number(EARLY)).tier == tier


def test_what_staff_have_set_is_over_on_its_day() -> None:
    program = rules_of()
    account = who("silver", ("1970-01-01", 100), pinned="gold", pinned_until=EARLY)
    assert fallen(program, account, number(EARLY) - 1) == account
    after = fallen(program, account, number(EARLY))
    assert (after.tier, after.pinned, after.pinned_until) == ("silver", "", None)
