"""What events earn: the arithmetic that programs print, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loyalty import limits, projections
from loyalty.codes import CheckInCode, check_in_code
from loyalty.commands import Event
from loyalty.dates import rfc3339
from loyalty.decisions import Decision, Guard
from loyalty.earning import complete_profile, scanned_location, update
from loyalty.explanations import decimal, explain, reasons_of, shares_of
from loyalty.limits import ONCE, PROGRAM_POINTS, Usage, colliding, token
from loyalty.model import Account, Count, Counts, Entry, Known, Refusal
from loyalty.projections import Explained, answer_bytes, awarded, checked_in, history_rows
from loyalty.refunds import Given
from loyalty.rounding import spread
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import (
    BASKETS,
    DAY,
    EARNINGS,
    HOUR,
    LOCATION,
    MATCHES,
    MINUTE,
    SECOND,
    SECRETS,
    Ledger,
    instant,
    number,
    refused,
)

NOW = instant("2026-03-10T13:00", "Europe/Paris")
"""A Tuesday."""


def rule(rule_id: str = "base", **more: Any) -> dict[str, Any]:
    """A rule on purchases unless `more` says otherwise."""
    return {
        "rule_id": rule_id,
        "trigger": "purchase",
        "earn": {"points": 1, "per_amount": 1},
    } | more


def per(points: int, amount: int, **more: Any) -> dict[str, Any]:
    return {"points": points, "per_amount": amount} | more


def shop(*rules: dict[str, Any], **more: Any) -> Ledger:
    """A program of these rules in euros and Paris, and a member enrolled an hour before NOW."""
    ledger = Ledger(smallest(rules=list(rules), **more))
    ledger.enrol(NOW - HOUR)
    return ledger


def line(amount: int, product_id: str | None = None, **more: Any) -> dict[str, Any]:
    named = {} if product_id is None else {"product_id": product_id}
    return {"quantity": 1, "amount": amount} | named | more


def basket(ledger: Ledger, *lines: dict[str, Any], now: int = NOW, **more: Any) -> Entry:
    """A purchase of these lines; `more` goes beside them (tax, shipping, paid_with_points)."""
    numbered = [one | {"line_id": str(i)} for i, one in enumerate(lines)]
    purchase = {"currency": ledger.program.currency, "lines": numbered} | more
    return ledger.award(now, {"type": "purchase", "purchase": purchase})


def earned(ledger: Ledger, *lines: dict[str, Any], **more: Any) -> int:
    return basket(ledger, *lines, **more).points


def review(ledger: Ledger, now: int = NOW, occurred_at: int | None = None, **more: Any) -> Entry:
    when = {} if occurred_at is None else {"occurred_at": rfc3339(occurred_at)}
    return ledger.award(now, {"type": "review"} | when | more)


def why(ledger: Ledger, entry: Entry) -> dict[str | None, Explained]:
    """The explanation's rows by rule."""
    return {row["rule_id"]: row for row in awarded(ledger.rulebook, entry)["explanation"]}


def by_line(entry: Entry) -> list[int]:
    """What a refund will find on each line."""
    return [row[3] for row in entry.event["l"]]


# Rates


def test_ten_points_for_every_2_dollars_in_whole_blocks() -> None:
    ledger = shop(rule(earn=per(10, 200, blocks="whole")), currency="USD")
    assert earned(ledger, line(799)) == 30
    assert earned(ledger, line(199)) == 0
    assert earned(ledger, line(200)) == 10
    # Blocks are counted on the sum of the lines: 1.50 + 0.50.
    assert earned(ledger, line(150), line(50)) == 10


def test_ten_points_for_every_2_dollars_continuously() -> None:
    ledger = shop(rule(earn=per(10, 200)), currency="USD")
    assert earned(ledger, line(799)) == 39  # 39.95
    assert earned(ledger, line(19)) == 0  # 0.95
    assert earned(ledger, line(20)) == 1


def test_four_points_a_euro_half_as_many_again_in_a_campaign() -> None:
    campaign = {
        "campaign_id": "spring",
        "from": "2026-03-01",
        "until": "2026-03-31",
        "multiplier": "1.5",
    }
    ledger = shop(rule(earn=per(4, 100)), campaigns=[campaign])
    entry = basket(ledger, line(1000))
    assert entry.points == 60
    assert why(ledger, entry)["base"]["factors"] == [
        {"kind": "campaign", "campaign_id": "spring", "multiplier": "1.5"}
    ]
    # 4.90 × 4 = 19.6, × 1.5 = 29.4: rounded once, at the end.
    assert earned(ledger, line(490)) == 29
    assert earned(ledger, line(1000), now=NOW + 31 * DAY) == 40


def test_one_point_a_pound_floored_line_by_line() -> None:
    rounding = {"mode": "floor", "scope": "line"}
    ledger = shop(rule(earn=per(1, 100)), currency="GBP", rounding=rounding)
    entry = basket(ledger, line(199), line(250), line(99))
    assert entry.points == 3
    assert by_line(entry) == [1, 2, 0]
    on_the_sum = shop(rule(earn=per(1, 100)), currency="GBP")
    assert earned(on_the_sum, line(199), line(250), line(99)) == 5  # 5.48


def test_ten_points_for_every_hundred_spent() -> None:
    ledger = shop(rule(earn=per(10, 100_00, blocks="whole")), currency="INR")
    assert earned(ledger, line(999_00)) == 90
    assert earned(ledger, line(99_99)) == 0


def test_currencies_without_and_with_three_decimals() -> None:
    yen = shop(rule(earn=per(1, 100)), currency="JPY")
    assert earned(yen, line(12_345)) == 123
    dinar = shop(rule(earn=per(1, 1000)), currency="KWD")
    assert earned(dinar, line(12_999)) == 12


def test_points_for_quantities_and_lines_count_whole_blocks_on_their_sum() -> None:
    ledger = shop(
        rule("units", earn={"points": 2, "per_quantity": 3}),
        rule("lines", earn={"points": 7, "per_line": 2}),
    )
    # 2 + 5 + 1 units are two blocks of three; three lines are one block of two.
    entry = basket(ledger, line(1) | {"quantity": 2}, line(1) | {"quantity": 5}, line(1))
    rows = why(ledger, entry)
    assert (rows["units"]["points"], rows["lines"]["points"]) == (4, 7)
    assert entry.points == 11


def test_fixed_points_are_given_once_for_an_event_whatever_its_lines() -> None:
    ledger = shop(rule(earn={"points": 50}, match={"categories": ["beans"]}))
    beans = line(1, category_ids=["beans"])
    entry = basket(ledger, beans, line(300), beans)
    assert entry.points == 50
    # For a refund they lie on the lines that match, so that lines sum to the total.
    assert by_line(entry) == [25, 0, 25]
    assert why(ledger, basket(ledger, line(300)))["base"]["reason"] == "no_matching_line"


def test_categories_with_rates_of_their_own() -> None:
    ledger = shop(
        rule("coffee", earn=per(5, 100), match={"categories": ["coffee"]}),
        rule("books", earn=per(2, 100), match={"categories": ["books"]}),
        rule("rest", earn=per(1, 100), match={"exclude": {"categories": ["coffee", "books"]}}),
    )
    entry = basket(
        ledger,
        line(1000, category_ids=["coffee"]),
        line(550, category_ids=["books", "gifts"]),
        line(490, category_ids=["tea"]),
        line(210),
    )
    # 50 + 11 + (4.90 + 2.10 = 7)
    assert entry.points == 68
    assert {name: row["points"] for name, row in why(ledger, entry).items()} == {
        "coffee": 50,
        "books": 11,
        "rest": 7,
    }


def test_exclusions_win_over_everything_a_line_matches() -> None:
    match = {
        "categories": ["drinks"],
        "exclude": {"products": ["GIFT-CARD"], "categories": ["tobacco"], "brands": ["acme"]},
    }
    ledger = shop(rule(earn=per(1, 100), match=match))
    drinks: dict[str, Any] = {"category_ids": ["drinks"]}
    assert earned(ledger, line(1000, **drinks)) == 10
    assert earned(ledger, line(1000, "GIFT-CARD", **drinks)) == 0
    assert earned(ledger, line(1000, category_ids=["drinks", "tobacco"])) == 0
    assert earned(ledger, line(1000, brand_id="acme", **drinks)) == 0
    assert earned(ledger, line(1000, brand_id="ACME", **drinks)) == 10
    assert earned(ledger, line(1000, "GIFT-CARD", **drinks), line(300, "TEA", **drinks)) == 3


def test_products_brands_and_discounted_lines_must_all_match() -> None:
    match = {"products": ["A", "B"], "brands": ["acme"], "discounted": False}
    ledger = shop(rule(match=match))
    assert earned(ledger, line(7, "A", brand_id="acme")) == 7
    assert earned(ledger, line(7, "B", brand_id="acme", discounted=False)) == 7
    assert earned(ledger, line(7, "C", brand_id="acme")) == 0
    assert earned(ledger, line(7, "A", brand_id="other")) == 0
    assert earned(ledger, line(7, "A", brand_id="acme", discounted=True)) == 0
    assert earned(ledger, line(7)) == 0


def test_a_rule_may_name_products_categories_and_brands_at_once() -> None:
    match = {"products": ["A"], "categories": ["beans"], "brands": ["acme"]}
    ledger = shop(rule(match=match), rule("c", match={"categories": ["A", "acme"]}))
    whole = line(7, "A", category_ids=["new", "beans"], brand_id="acme")
    assert earned(ledger, whole) == 7
    for missing in ("product_id", "category_ids", "brand_id"):
        assert earned(ledger, {k: v for k, v in whole.items() if k != missing}) == 0


# The base


def test_a_minimum_amount_is_inclusive_and_tests_the_whole_base() -> None:
    ledger = shop(rule(when={"min_amount": 1000}, match={"categories": ["beans"]}))
    beans = line(400, category_ids=["beans"])
    # Ten euros in all, of which four count.
    assert earned(ledger, beans, line(600)) == 400
    entry = basket(ledger, beans, line(599))
    assert (entry.points, why(ledger, entry)["base"]["reason"]) == (0, "min_amount")


def test_tax_and_shipping_count_where_the_program_includes_them() -> None:
    def points(**base: str) -> int:
        ledger = shop(rule(), earning_base=base)
        return earned(ledger, line(1000), line(500), tax=190, shipping=399)

    assert points() == 1500
    assert points(tax="include") == 1690
    assert points(shipping="include") == 1899
    assert points(tax="include", shipping="include") == 2089


def test_tax_and_shipping_are_spread_over_the_lines_in_proportion() -> None:
    ledger = shop(
        rule(match={"products": ["A"]}), earning_base={"tax": "include", "shipping": "include"}
    )
    # 89 over 1000 and 500: 59.33 and 29.67, so 59 and 30.
    assert earned(ledger, line(1000, "A"), line(500, "B"), tax=50, shipping=39) == 1059
    # And decide whether a minimum is met.
    least = shop(rule(when={"min_amount": 1050}), earning_base={"tax": "include"})
    assert earned(least, line(1000), tax=50) == 1050
    assert earned(least, line(1000), tax=49) == 0


def test_the_part_paid_with_points_comes_off_every_line_in_proportion() -> None:
    ledger = shop(rule("a", match={"products": ["A"]}), rule("b", match={"products": ["B"]}))
    # 1.00 over 10.00 and 5.00: 66.67 and 33.33, so 67 and 33.
    entry = basket(ledger, line(1000, "A"), line(500, "B"), paid_with_points=100)
    assert by_line(entry) == [933, 467]
    assert entry.points == 1400


def test_a_purchase_paid_with_points_alone_earns_nothing_and_is_recorded() -> None:
    ledger = shop(rule())
    entry = basket(ledger, line(1000), paid_with_points=1000)
    assert (entry.points, entry.seq) == (0, 2)
    assert earned(ledger, line(1000), paid_with_points=1500) == 0


def test_zero_amounts_earn_nothing_by_amount_and_still_what_is_fixed() -> None:
    ledger = shop(
        rule(), rule("extra", earn={"points": 3}), rule("l", earn={"points": 2, "per_line": 1})
    )
    entry = basket(ledger, line(0), line(0))
    assert entry.points == 7
    assert sum(by_line(entry)) == 7


def test_500_lines_are_one_award() -> None:
    ledger = shop(rule(earn=per(1, 100)), rounding={"mode": "half_up"})
    entry = basket(ledger, *[line(101)] * 500)
    assert entry.points == 505
    assert sum(by_line(entry)) == 505
    assert set(by_line(entry)) == {1, 2}
    with pytest.raises(ValidationError):
        basket(ledger, *[line(1)] * 501)


def test_another_currency_is_refused() -> None:
    ledger = shop(rule())
    purchase = {"currency": "USD", "lines": [line(100) | {"line_id": "1"}]}
    with refused("currency_mismatch", pointer="/purchase/currency"):
        ledger.award(NOW, {"type": "purchase", "purchase": purchase})
    assert len(ledger.entries) == 1


# Rules together


def test_rules_add_up_before_anything_is_rounded() -> None:
    ledger = shop(
        rule("a", earn=per(1, 200)), rule("b", earn=per(1, 200)), rule("c", earn=per(3, 100))
    )
    # 0.5 + 0.5 + 3
    assert earned(ledger, line(100)) == 4


@pytest.mark.parametrize(("combine", "points"), [("multiply", 300), ("add", 250), ("best", 200)])
def test_bonuses_compound_add_or_compete(combine: str, points: int) -> None:
    """Double points on coffee in a campaign of 1.5: 2 × 1.5, 1 + 1 + 0.5, or 2."""
    ledger = shop(
        rule(earn=per(1, 1)),
        rule("double", earn={"multiply": "2"}, match={"categories": ["coffee"]}),
        campaigns=[{"campaign_id": "c", "multiplier": "1.5"}],
        multipliers={"combine": combine},
    )
    assert earned(ledger, line(100, category_ids=["coffee"])) == points
    assert earned(ledger, line(100)) == 150


def test_bonuses_that_take_away_add_to_no_less_than_nothing() -> None:
    campaigns = [{"campaign_id": str(i), "multiplier": "0.2"} for i in range(3)]
    ledger = shop(rule(), campaigns=campaigns, multipliers={"combine": "add"})
    assert earned(ledger, line(100)) == 0  # 1 − 3 × 0.8


@pytest.mark.parametrize(("ceiling", "points"), [("2.5", 250), ("3", 300), ("4", 300), (1, 100)])
def test_the_ceiling_holds_the_combined_factor(ceiling: Any, points: int) -> None:
    ledger = shop(
        rule(),
        rule("double", earn={"multiply": 2}),
        campaigns=[{"campaign_id": "c", "multiplier": "1.5"}],
        multipliers={"max": ceiling},
    )
    assert earned(ledger, line(100)) == points


def test_of_line_multipliers_the_most_specific_counts() -> None:
    ledger = shop(
        rule(),
        rule("brand", earn={"multiply": 5}, match={"brands": ["acme"]}),
        rule("category", earn={"multiply": 3}, match={"categories": ["coffee"]}),
        rule("product", earn={"multiply": 2}, match={"products": ["A"]}),
        rule("everything", earn={"multiply": 7}),
    )
    entry = basket(
        ledger,
        line(100, "A", category_ids=["coffee"], brand_id="acme"),
        line(100, "B", category_ids=["coffee"], brand_id="acme"),
        line(100, "B", brand_id="acme"),
        line(100),
    )
    assert by_line(entry) == [200, 300, 500, 700]
    factors = why(ledger, entry)["base"]["factors"]
    assert [factor["rule_id"] for factor in factors] == [
        "product",
        "category",
        "brand",
        "everything",
    ]


def test_of_equal_line_multipliers_the_first_of_the_document_counts() -> None:
    doubles = [rule(name, earn={"multiply": 2}) for name in ("one", "two", "three")]
    ledger = shop(rule(), *doubles)
    entry = basket(ledger, line(100))
    assert entry.points == 200
    assert [factor["rule_id"] for factor in why(ledger, entry)["base"]["factors"]] == ["one"]


def test_line_multipliers_touch_what_lines_earn_and_not_what_an_event_earns() -> None:
    ledger = shop(
        rule(),
        rule("fixed", earn={"points": 10}),
        rule("x", earn={"multiply": 2}),
        campaigns=[
            {"campaign_id": "all", "multiplier": 3},
            {"campaign_id": "some", "multiplier": 5, "match": {"products": ["A"]}},
        ],
    )
    entry = basket(ledger, line(100), line(10, "A"))
    assert entry.points == 600 + 300 + 30
    rows = why(ledger, entry)
    assert [factor["multiplier"] for factor in rows["base"]["factors"]] == ["2", "3", "5"]
    assert [factor["multiplier"] for factor in rows["fixed"]["factors"]] == ["3"]


def test_a_multiplier_of_zero_takes_a_line_out() -> None:
    ledger = shop(rule(), rule("none", earn={"multiply": 0}, match={"products": ["A"]}))
    entry = basket(ledger, line(100, "A"), line(50, "B"))
    assert by_line(entry) == [0, 50]
    assert why(ledger, entry)["base"]["factors"] == [
        {"kind": "line", "rule_id": "none", "multiplier": "0"}
    ]


def test_of_exclusive_rules_the_one_of_highest_priority_counts_alone() -> None:
    ledger = shop(
        rule("base"),
        rule("small", earn={"points": 5}, stacking="exclusive", priority=2),
        rule("large", earn={"points": 500}, stacking="exclusive", priority=1),
    )
    entry = basket(ledger, line(100))
    assert entry.points == 5
    reasons = {name: row["reason"] for name, row in why(ledger, entry).items()}
    assert reasons == {"small": "granted", "large": "excluded", "base": "excluded"}


def test_of_exclusive_rules_of_one_priority_the_one_that_grants_most_counts() -> None:
    """Judged before multipliers, which stay in force; of equals the first in the document."""
    ledger = shop(
        rule("eight", earn=per(8, 100), stacking="exclusive"),
        rule("nine", earn={"points": 9}, stacking="exclusive"),
        rule("double", earn={"multiply": 2}),
    )
    # 8 doubled would be 16, but 9 is more than 8. Twice as much: 16 against 9, doubled.
    assert earned(ledger, line(100)) == 9
    assert earned(ledger, line(200)) == 32
    equals = shop(
        rule("one", earn={"points": 9}, stacking="exclusive"),
        rule("two", earn={"points": 9}, stacking="exclusive"),
    )
    assert [r["rule_id"] for r in _granting(equals, basket(equals, line(1)))] == ["one"]


def _granting(ledger: Ledger, entry: Entry) -> list[Explained]:
    return [row for row in awarded(ledger.rulebook, entry)["explanation"] if row["points"]]


def test_an_exclusive_rule_that_does_not_fire_excludes_nothing() -> None:
    ledger = shop(
        rule("base"),
        rule(
            "once",
            earn={"points": 5},
            stacking="exclusive",
            when={"channels": ["web"]},
            frequency=[{"times": 1, "per": "day"}],
        ),
    )
    assert ledger.buy(NOW, 100, channel="store").points == 100
    assert ledger.buy(NOW, 100, channel="web").points == 5
    assert ledger.buy(NOW, 100, channel="web").points == 100  # its frequency is used up


def test_rules_after_a_last_one_are_not_evaluated() -> None:
    ledger = shop(
        rule("second", earn={"points": 20}),
        rule("first", earn={"points": 10}, priority=5),
        rule("end", earn={"points": 1}, stacking="last", when={"min_amount": 100}, priority=1),
        rule("third", earn={"points": 40}),
    )
    entry = basket(ledger, line(100))
    assert entry.points == 11
    assert [
        (row["rule_id"], row["reason"]) for row in awarded(ledger.rulebook, entry)["explanation"]
    ] == [
        ("first", "granted"),
        ("end", "granted"),
        ("second", "after_last"),
        ("third", "after_last"),
    ]
    # Stopped by its condition it ends nothing.
    assert earned(ledger, line(99)) == 70


def test_a_last_rule_ends_those_that_stand_far_behind_it() -> None:
    def on(product: str, **more: Any) -> dict[str, Any]:
        return rule(f"on-{product}", earn={"points": 1}, match={"products": [product]}, **more)

    ledger = shop(on("a"), on("b", stacking="last"), *(on(name) for name in "cdefghij"))
    entry = basket(ledger, line(1, "i"), line(1, "b"))
    rows = why(ledger, entry)
    assert entry.points == 1
    assert {name: row["reason"] for name, row in rows.items()} == {
        "on-a": "no_matching_line",
        "on-b": "granted",
        **{f"on-{name}": "after_last" for name in "cdefghij"},
    }


# Limits


def test_a_daily_cap_is_met_in_the_middle_of_an_award() -> None:
    ledger = shop(rule(earn=per(1, 100)), limits=[{"points": 100, "per": "day"}])
    assert earned(ledger, line(80_00)) == 80
    entry = basket(ledger, line(50_00))
    answer = awarded(ledger.rulebook, entry)
    assert (answer["points"], answer["desired_points"], answer["balance"]) == (20, 50, 100)
    assert answer["limited_by"] == [
        {"scope": "program", "points": 100, "per": "day", "over": "cap"}
    ]
    assert earned(ledger, line(50_00)) == 0
    assert earned(ledger, line(50_00), now=NOW + 11 * HOUR) == 50  # 00:00 in Paris


def test_caps_of_rules_come_before_the_programs_which_cut_in_proportion() -> None:
    ledger = shop(
        rule("a", earn={"points": 100}, limits=[{"points": 40, "per": "transaction"}]),
        rule("b", earn={"points": 60}),
        limits=[{"points": 51, "per": "transaction"}],
    )
    entry = basket(ledger, line(1))
    # 100 → 40; 40 + 60 → 51 is 20.4 + 30.6; by largest remainder 20 + 31.
    rows = why(ledger, entry)
    assert (rows["a"]["points"], rows["b"]["points"], entry.points) == (20, 31, 51)
    assert (rows["a"]["desired_points"], rows["b"]["desired_points"]) == (100, 60)
    assert [limit["scope"] for limit in awarded(ledger.rulebook, entry)["limited_by"]] == [
        "rule",
        "program",
    ]


def test_counters_count_what_was_granted_and_not_what_was_desired() -> None:
    capped = rule("a", earn={"points": 100}, limits=[{"points": 60, "per": "week"}])
    ledger = shop(capped, limits=[{"points": 50, "per": "transaction"}])
    assert [earned(ledger, line(1)) for _ in range(3)] == [50, 10, 0]


def test_a_limit_that_refuses_gives_all_or_nothing() -> None:
    ledger = shop(
        rule(limits=[{"points": 100, "per": "day", "over": "refuse"}]),
        rule("b", earn={"points": 1}),
    )
    assert earned(ledger, line(60)) == 61
    entry = basket(ledger, line(41))
    row = why(ledger, entry)["base"]
    assert (entry.points, row["points"], row["fired"], row["reason"]) == (1, 0, False, "limit")
    assert earned(ledger, line(40)) == 41  # exactly what is left


def test_the_programs_limit_that_refuses_refuses_the_whole_award() -> None:
    ledger = shop(rule(), limits=[{"points": 100, "per": "week", "over": "refuse"}])
    assert earned(ledger, line(101)) == 0
    assert earned(ledger, line(100)) == 100
    assert earned(ledger, line(1)) == 0


@pytest.mark.parametrize(
    ("window", "same", "next_"),
    [
        ("day", "2026-03-10T23:59:59", "2026-03-11T00:00"),
        ("week", "2026-03-15T23:59:59", "2026-03-16T00:00"),
        ("month", "2026-03-31T23:59:59", "2026-04-01T00:00"),
        ("year", "2026-12-31T23:59:59", "2027-01-01T00:00"),
        ("ever", "2099-01-01T00:00", None),
    ],
)
def test_windows_are_those_of_the_local_calendar(window: str, same: str, next_: str | None) -> None:
    by_points = rule(
        "p", trigger="review", earn={"points": 3}, limits=[{"points": 3, "per": window}]
    )
    by_times = rule(
        "t", trigger="review", earn={"points": 4}, frequency=[{"times": 1, "per": window}]
    )
    ledger = shop(by_points, by_times)
    assert review(ledger).points == 7
    assert review(ledger, instant(same, "Europe/Paris")).points == 0
    if next_ is not None:
        assert review(ledger, instant(next_, "Europe/Paris")).points == 7


@pytest.mark.parametrize("night", ["2026-03-29", "2026-10-25"])
def test_a_day_of_23_or_25_hours_has_one_counter(night: str) -> None:
    once = rule(trigger="review", earn={"points": 3}, frequency=[{"times": 1, "per": "day"}])
    ledger = shop(once)
    at = instant(f"{night}T00:00", "Europe/Paris")
    assert review(ledger, at).points == 3
    ends = at + (23 if night == "2026-03-29" else 25) * HOUR
    assert review(ledger, ends - SECOND).points == 0
    assert review(ledger, ends).points == 3


def test_a_cooldown_counts_elapsed_hours_from_the_last_event_that_earned() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=[{"every": "PT4H"}]))
    assert review(ledger).points == 3
    assert review(ledger, NOW + 4 * HOUR - 1).points == 0
    assert review(ledger, NOW + 4 * HOUR).points == 3
    assert review(ledger, NOW + 7 * HOUR).points == 0


def test_a_cooldown_of_days_moves_the_local_date_at_the_same_hour() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=[{"every": "P1D"}]))
    at = instant("2026-03-28T12:00", "Europe/Paris")
    assert review(ledger, at).points == 3
    # The night between has 23 hours only.
    assert review(ledger, instant("2026-03-29T11:59", "Europe/Paris")).points == 0
    assert review(ledger, instant("2026-03-29T12:00", "Europe/Paris")).points == 3


def test_a_late_event_meets_the_cooldown_of_the_event_before_it() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=[{"every": "PT4H"}]))
    assert review(ledger, NOW).points == 3
    assert review(ledger, NOW + 10 * HOUR).points == 3
    assert review(ledger, NOW + 10 * HOUR + MINUTE, occurred_at=NOW + HOUR).points == 0


def test_a_late_event_meets_the_cooldown_of_the_event_after_it() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=[{"every": "PT4H"}]))
    assert review(ledger, NOW).points == 3
    assert review(ledger, NOW + MINUTE, occurred_at=NOW - 3 * HOUR).points == 0
    assert review(ledger, NOW + MINUTE, occurred_at=NOW - 4 * HOUR).points == 3


def test_frequency_comes_before_points_limits() -> None:
    ledger = shop(
        rule(
            trigger="review",
            earn={"points": 30},
            frequency=[{"times": 2, "per": "day"}],
            limits=[{"points": 50, "per": "day"}],
        )
    )
    assert [review(ledger).points for _ in range(3)] == [30, 20, 0]
    entry = ledger.entries[-1]
    assert why(ledger, entry)["base"]["reason"] == "frequency"
    assert awarded(ledger.rulebook, entry)["limited_by"] == []


def test_an_event_that_earned_nothing_uses_up_no_frequency() -> None:
    ledger = shop(rule(earn=per(1, 100), frequency=[{"times": 1, "per": "day"}]))
    assert [earned(ledger, line(99)), earned(ledger, line(500)), earned(ledger, line(500))] == [
        0,
        5,
        0,
    ]


# Late, early, in time


def test_a_late_event_counts_in_the_window_it_belongs_to() -> None:
    ledger = Ledger(
        smallest(
            rules=[
                rule(trigger="review", earn={"points": 6}, limits=[{"points": 10, "per": "day"}])
            ]
        )
    )
    yesterday = NOW - DAY
    ledger.enrol(yesterday - HOUR)
    assert review(ledger, yesterday).points == 6
    assert review(ledger, NOW).points == 6
    # Yesterday has 4 left, counted from the history; and today 4, which late events do not touch.
    assert review(ledger, NOW, occurred_at=yesterday + HOUR).points == 4
    assert review(ledger, NOW, occurred_at=yesterday + 2 * HOUR).points == 0
    assert review(ledger, NOW + HOUR).points == 4
    assert review(ledger, NOW + HOUR).points == 0


def test_a_late_event_counts_in_every_window_of_its_own_date() -> None:
    """31 March is another week and month than 10 April, and the same year."""
    windows = [("month", 1), ("week", 1), ("year", 3)]
    limited = rule(
        trigger="review",
        earn={"points": 1},
        frequency=[{"times": n, "per": per} for per, n in windows],
    )
    ledger = Ledger(smallest(rules=[limited]))
    april = instant("2026-04-10T12:00")
    march = instant("2026-03-31T12:00")
    ledger.enrol(march - 30 * DAY)
    assert review(ledger, april).points == 1
    assert review(ledger, april, occurred_at=march).points == 1
    assert review(ledger, april, occurred_at=march).points == 0
    # The week of 30 March goes over into April: used, though April's month is another one.
    assert review(ledger, april, occurred_at=instant("2026-04-02T12:00")).points == 0
    assert review(ledger, april, occurred_at=march - 28 * DAY).points == 0  # 3 March: March is used
    assert review(ledger, april, occurred_at=instant("2026-02-20T12:00")).points == 1
    assert review(ledger, april, occurred_at=instant("2026-01-20T12:00")).points == 0  # third time


def test_an_event_up_to_5_minutes_ahead_counts_in_the_window_it_belongs_to() -> None:
    daily = rule(trigger="review", earn={"points": 6}, limits=[{"points": 6, "per": "day"}])
    ledger = shop(daily)
    before_midnight = instant("2026-03-10T23:58", "Europe/Paris")
    after_midnight = instant("2026-03-11T00:02", "Europe/Paris")
    assert review(ledger, before_midnight, occurred_at=after_midnight).points == 6
    assert review(ledger, before_midnight).points == 6  # still today, whose counter is another
    assert review(ledger, before_midnight).points == 0
    assert review(ledger, after_midnight).points == 0


def test_an_event_is_of_the_future_from_the_first_millisecond_beyond_5_minutes() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 3}))
    assert review(ledger, NOW, occurred_at=NOW + 5 * MINUTE).points == 3
    with refused("event_in_future"):
        review(ledger, NOW, occurred_at=NOW + 5 * MINUTE + 1)


def test_events_of_the_future_are_refused() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 6}))
    assert review(ledger, NOW, occurred_at=NOW + 5 * MINUTE).points == 6
    with refused("event_in_future"):
        review(ledger, NOW, occurred_at=NOW + 5 * MINUTE + SECOND)


@pytest.mark.parametrize(
    ("max_lateness", "oldest"),
    [
        ("P30D", "2026-03-01T12:00"),
        ("P1M", "2026-02-28T12:00"),  # 28 February + 1 month is 28 March: see below
        ("PT12H", "2026-03-31T00:00"),
    ],
)
def test_events_older_than_the_program_allows_are_refused(max_lateness: str, oldest: str) -> None:
    ledger = shop(rule(trigger="review", earn={"points": 6}), max_lateness=max_lateness)
    zone = "Europe/Paris"
    now = instant("2026-03-31T12:00", zone)
    if max_lateness == "P1M":
        now = instant("2026-03-28T12:00", zone)
    at = instant(oldest, zone)
    assert review(ledger, now, occurred_at=at).points == 6
    with refused("event_too_late"):
        review(ledger, now, occurred_at=at - SECOND)


def test_without_max_lateness_an_event_may_have_any_age() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 6}))
    assert review(ledger, NOW, occurred_at=instant("1999-12-31T12:00")).points == 6


def test_a_server_whose_clock_is_behind_does_not_turn_time_back() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 6}))
    assert review(ledger, NOW).recorded_at == NOW
    late = review(ledger, NOW - HOUR)
    assert (late.recorded_at, late.occurred_at) == (NOW, NOW)


# Rounding


@pytest.mark.parametrize(
    ("mode", "scope", "points"),
    [
        # a: 0.5 + 1.25 = 1.75 by line; b: 0.5 on the first line only. 2.25 in all.
        ("floor", "award", 2),
        ("half_up", "award", 2),
        ("ceil", "award", 3),
        ("floor", "rule", 1),  # 1.75 → 1, 0.5 → 0
        ("half_up", "rule", 3),  # 2, 1
        ("ceil", "rule", 3),
        ("floor", "line", 2),  # 0.5 + 0.5 → 1, 1.25 → 1
        ("half_up", "line", 2),
        ("ceil", "line", 3),
    ],
)
def test_rounding_by_mode_and_scope(mode: str, scope: str, points: int) -> None:
    ledger = shop(
        rule("a", earn=per(1, 100)),
        rule("b", earn=per(1, 100), match={"products": ["A"]}),
        rounding={"mode": mode, "scope": scope},
    )
    entry = basket(ledger, line(50, "A"), line(125, "B"))
    assert entry.points == points
    assert sum(by_line(entry)) == points
    assert sum(row["points"] for row in why(ledger, entry).values()) == points


@pytest.mark.parametrize(("mode", "points"), [("floor", 2), ("half_up", 3), ("ceil", 3)])
def test_a_half_is_rounded_up_by_half_up(mode: str, points: int) -> None:
    ledger = shop(rule(earn=per(1, 100)), rounding={"mode": mode})
    assert earned(ledger, line(250)) == points


def test_points_go_over_lines_by_largest_remainder() -> None:
    ledger = shop(rule(earn=per(10, 300, blocks="whole")))
    # 10 over three equal lines: 3.33 each; the one that is missing goes to the first.
    assert by_line(basket(ledger, line(100), line(100), line(100))) == [4, 3, 3]
    # 10 over 1.00, 1.20, 0.80: 3.33, 4, 2.67.
    assert by_line(basket(ledger, line(100), line(120), line(80))) == [3, 4, 3]


def test_rules_that_tie_are_served_in_the_order_of_the_document() -> None:
    ledger = shop(rule("a", earn=per(1, 200)), rule("b", earn=per(1, 200)))
    rows = why(ledger, basket(ledger, line(100)))
    assert (rows["a"]["points"], rows["b"]["points"]) == (1, 0)


def test_rules_that_tie_are_served_in_the_order_of_the_document_whatever_their_priority() -> None:
    ledger = shop(rule("a", earn=per(1, 200)), rule("b", earn=per(1, 200), priority=1))
    rows = why(ledger, basket(ledger, line(100)))
    assert (rows["a"]["points"], rows["b"]["points"]) == (1, 0)


@pytest.mark.parametrize("mode", ["half_up", "ceil"])
@pytest.mark.parametrize("where", ["rule", "program"])
def test_rounding_by_line_passes_no_limit(mode: str, where: str) -> None:
    limits = [{"points": 10, "per": "day"}]
    ledger = shop(
        rule(earn=per(1, 100), limits=limits if where == "rule" else []),
        limits=limits if where == "program" else [],
        rounding={"mode": mode, "scope": "line"},
    )
    assert earned(ledger, *[line(50)] * 20) == 10  # 20 × 0.5 is 10, rounded up by line 20


def test_rounding_by_rule_passes_no_limit_of_the_program() -> None:
    rules = [rule(f"r{i}", earn=per(1, 100)) for i in range(20)]
    rounding = {"mode": "ceil", "scope": "rule"}
    ledger = shop(*rules, limits=[{"points": 10, "per": "transaction"}], rounding=rounding)
    assert earned(ledger, line(40)) == 10  # 20 × 0.4 is 8, rounded up by rule 20


@pytest.mark.parametrize("scope", ["line", "rule"])
def test_a_cap_grants_what_is_left_whatever_is_rounded(scope: str) -> None:
    rules = [rule(f"r{i}", earn=per(1, 100)) for i in range(20 if scope == "rule" else 1)]
    ledger = shop(
        *rules,
        limits=[{"points": 10, "per": "transaction"}],
        rounding={"mode": "floor", "scope": scope},
    )
    lines = [line(100)] * (20 if scope == "line" else 1)
    assert earned(ledger, *lines) == 10  # of 20


@pytest.mark.parametrize("scope", ["line", "rule"])
def test_without_a_limit_what_is_granted_is_what_was_desired(scope: str) -> None:
    ledger = shop(
        rule("a", earn=per(1, 100)),
        rule("b", earn=per(1, 100)),
        rounding={"mode": "floor", "scope": scope},
    )
    answer = awarded(ledger.rulebook, basket(ledger, line(199), line(199)))
    assert answer["limited_by"] == []
    assert answer["desired_points"] == answer["points"]
    for row in answer["explanation"]:
        assert row["desired_points"] == row["points"]


@given(
    st.lists(EARNINGS, min_size=1, max_size=3),
    st.lists(MATCHES | st.none(), min_size=3, max_size=3),
    BASKETS,
    st.sampled_from(["floor", "half_up", "ceil"]),
    st.sampled_from(["award", "rule", "line"]),
    st.none() | st.integers(1, 60),
)
def test_lines_and_rules_sum_to_the_total_which_keeps_the_limit(
    earnings: list[dict[str, Any]],
    matches: list[dict[str, Any] | None],
    lines: list[dict[str, Any]],
    mode: str,
    scope: str,
    limit: int | None,
) -> None:
    rules = [
        rule(f"r{i}", earn=earn) | ({"match": match} if match else {})
        for i, (earn, match) in enumerate(zip(earnings, matches, strict=False))
    ]
    limits = [] if limit is None else [{"points": limit, "per": "transaction"}]
    ledger = shop(*rules, rounding={"mode": mode, "scope": scope}, limits=limits)
    entry = basket(ledger, *lines)
    assert sum(by_line(entry)) == entry.points
    assert min(by_line(entry)) >= 0
    rows = why(ledger, entry)
    assert sum(row["points"] for row in rows.values()) == entry.points
    if limit is not None and scope == "award":  # the other scopes have tests of their own above
        assert entry.points <= limit
    exact = _exact(rules, lines)
    if limit is None and scope == "award":
        rounded = {
            "floor": exact // 1,
            "half_up": (exact + Fraction(1, 2)) // 1,
            "ceil": -(-exact // 1),
        }
        assert entry.points == rounded[mode]
    if limit is None:
        # Nothing is further off than one point for each thing that is rounded.
        assert (
            abs(entry.points - exact)
            < {"award": 1, "rule": len(rules), "line": len(lines) + 3}[scope]
        )


def _exact(rules: list[dict[str, Any]], lines: list[dict[str, Any]]) -> Fraction:
    """What the rules give before anything is rounded, without limits."""
    total = Fraction(0)
    for one in rules:
        earn, match = one["earn"], one.get("match", {})
        counted = [each for each in lines if _matches(match, each)]
        amount = sum(each["amount"] for each in counted)
        if "per_amount" in earn:
            blocks = Fraction(amount, earn["per_amount"])
            total += earn["points"] * (blocks // 1 if earn.get("blocks") == "whole" else blocks)
        elif "per_quantity" in earn:
            units = sum(each["quantity"] for each in counted)
            total += earn["points"] * (units // earn["per_quantity"])
        elif "per_line" in earn:
            total += earn["points"] * (len(counted) // earn["per_line"])
        elif counted:
            total += earn["points"]
    return total


def _matches(match: dict[str, Any], one: dict[str, Any]) -> bool:
    def among(names: dict[str, Any], kind: str, value: Any) -> bool:
        values = value if isinstance(value, list) else [value]
        return bool(set(values) & set(names.get(kind, ())))

    fields = {
        "products": one.get("product_id"),
        "categories": one.get("category_ids", []),
        "brands": one.get("brand_id"),
    }
    wanted = all(among(match, kind, fields[kind]) for kind in fields if kind in match)
    unwanted = any(among(match.get("exclude", {}), kind, fields[kind]) for kind in fields)
    sale = match.get("discounted") in (None, one.get("discounted", False))
    return wanted and sale and not unwanted


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**15), min_size=1, max_size=8))
def test_spreading_is_whole_and_fair(total: int, weights: list[int]) -> None:
    shares = spread(total, weights)
    assert sum(shares) == total
    whole = sum(weights)
    for share, weight in zip(shares, weights, strict=True):
        exact = Fraction(total * weight, whole) if whole else Fraction(total, len(weights))
        assert abs(share - exact) < 1


@given(st.decimals(0, 10**6, places=6))
def test_a_factor_is_shown_as_it_was_written(number: Any) -> None:
    shown = decimal(Fraction(number))
    assert Fraction(shown) == Fraction(number)
    assert "E" not in shown


# Size


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (2, "2"), ("1.5", "1.5"), ("0.05", "0.05"), ("-1.5", "-1.5"), (-3, "-3")],
)
def test_decimals_are_written_without_what_they_do_not_need(number: Any, written: str) -> None:
    assert decimal(Fraction(number)) == written


def test_an_award_of_the_most_points_is_granted_and_more_is_refused() -> None:
    most = 10**15
    assert earned(shop(rule()), line(most)) == most
    ledger = shop(rule(earn=per(2, 1)))
    with refused("too_many_points"):
        basket(ledger, line(most))
    assert len(ledger.entries) == 1
    with refused("too_many_points"):
        basket(
            shop(rule(earn=per(10**15, 1)), rule("x", earn={"multiply": 10**6})), *[line(most)] * 9
        )


def test_every_number_of_an_answer_fits_64_bits() -> None:
    ledger = shop(rule(earn=per(10**15, 1)), limits=[{"points": 10, "per": "transaction"}])
    try:
        entry = basket(ledger, line(10**15))
    except Refusal as refusal:
        refused_as = refusal.code
    else:
        refused_as = "too_many_points"
        answer = awarded(ledger.rulebook, entry)
        assert answer["desired_points"] < 2**63
        assert all(row["desired_points"] < 2**63 for row in answer["explanation"])
    assert refused_as == "too_many_points"


# Conditions, and the reasons that an explanation names


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ({"from": "2026-03-11"}, "not_started"),
        ({"until": "2026-03-09"}, "ended"),
        ({"from": "2026-03-10T13:01"}, "not_started"),
        ({"until": "2026-03-10T12:59"}, "ended"),
        ({"channels": ["app"]}, "channel"),
        ({"locations": ["there"]}, "location"),
        ({"groups": ["staff"]}, "group"),
        ({"weekdays": ["mon", "wed"]}, "weekday"),
        ({"hours": ["08:00-13:00", "22:00-02:00"]}, "hours"),
        ({"attributes": [{"name": "stars", "op": ">", "value": 4}]}, "attributes"),
        ({"attributes": [{"name": "none", "op": "==", "value": 4}]}, "attributes"),
        (
            {
                "attributes": [
                    {"name": "stars", "op": "==", "value": 4},
                    {"name": "none", "op": "==", "value": 4},
                ]
            },
            "attributes",
        ),
        ({"min_amount": 101}, "min_amount"),
        ({"from": "2026-03-10", "until": "2026-03-10"}, "granted"),
        ({"from": "2026-03-10T13:00", "until": "2026-03-10T13:00"}, "granted"),
        ({"channels": ["app", "web"]}, "granted"),
        ({"locations": ["there", "here"]}, "granted"),
        ({"groups": ["staff", "vip"]}, "granted"),
        ({"weekdays": ["tue"]}, "granted"),
        ({"hours": ["13:00-13:01"]}, "granted"),
        ({"hours": ["08:00-11:00", "13:00-14:00"]}, "granted"),
        ({"attributes": [{"name": "stars", "op": ">=", "value": 4}]}, "granted"),
        ({"attributes": [{"name": "stars", "op": "in", "value": [1, 4]}]}, "granted"),
        ({"attributes": [{"name": "stars", "op": "!=", "value": "4"}]}, "granted"),
        ({"min_amount": 100}, "granted"),
    ],
)
def test_every_rule_that_does_not_fire_says_why(when: dict[str, Any], reason: str) -> None:
    locations = [{"location_id": "here"}, {"location_id": "there"}]
    ledger = Ledger(smallest(rules=[rule(when=when), rule("b")], locations=locations))
    ledger.enrol(NOW, groups=["vip"])
    entry = ledger.buy(NOW, 100, channel="web", location_id="here", attributes={"stars": 4})
    row = why(ledger, entry)["base"]
    assert row["reason"] == reason
    assert row["fired"] == (reason == "granted")
    assert row["points"] == (100 if row["fired"] else 0)
    assert why(ledger, entry)["b"]["points"] == 100


@pytest.mark.parametrize("trigger", ["review", "social_share", "promotion", "quiz.passed"])
def test_an_event_is_held_against_the_rules_of_its_own_type(trigger: str) -> None:
    other = "review" if trigger != "review" else "promotion"
    ledger = shop(
        rule("mine", trigger=trigger, earn={"points": 7}),
        rule("other", trigger=other, earn={"points": 9}),
        rule("purchase"),
    )
    entry = ledger.award(NOW, {"type": trigger})
    assert entry.points == 7
    assert list(why(ledger, entry)) == ["mine"]


def test_a_first_purchase_is_the_first_one_whether_or_not_a_rule_asked_then() -> None:
    first = rule("first", trigger="first_purchase", earn={"points": 50})
    ledger = shop(rule(), first)
    assert earned(ledger, line(10)) == 60
    entry = basket(ledger, line(10))
    assert (entry.points, why(ledger, entry)["first"]["reason"]) == (10, "not_first_purchase")
    # A rule of tomorrow pays nobody who has bought before.
    later = shop(rule())
    assert earned(later, line(10)) == 10
    later.rulebook = Rulebook(parse(smallest(rules=[rule(), first])), 2)
    assert earned(later, line(10)) == 10


def test_the_first_reason_is_told_whatever_the_basket_holds() -> None:
    """Conditions, then frequency, then lines: also of rules on products that nobody bought."""
    tea = {"match": {"products": ["TEA"]}}
    once = {"frequency": [{"times": 1, "per": "day"}]}
    ledger = shop(
        rule("channel", when={"channels": ["app"]}, **tea, **once),
        rule("once", **tea, **once),
        rule("tea", **tea),
        rule("category", match={"categories": ["tea"]}),
        rule("brand", match={"brands": ["acme"]}),
        rule("first", trigger="first_purchase", earn={"points": 1}, **tea),
        rule("reduced", match={"discounted": True}),
        rule("others", match={"exclude": {"products": ["TEA"]}}),
    )
    basket(ledger, line(1, "TEA"))
    rows = why(ledger, basket(ledger, line(1, "COFFEE")))
    assert {name: row["reason"] for name, row in rows.items()} == {
        "channel": "channel",
        "once": "frequency",
        "tea": "no_matching_line",
        "category": "no_matching_line",
        "brand": "no_matching_line",
        "first": "not_first_purchase",
        "reduced": "no_matching_line",
        "others": "granted",
    }


def test_rules_that_compare_with_true_and_with_1_keep_apart() -> None:
    def asks(value: Any) -> dict[str, Any]:
        return {"attributes": [{"name": "vip", "op": "==", "value": value}]}

    def listed(value: Any) -> dict[str, Any]:
        return {"attributes": [{"name": "vip", "op": "in", "value": [value]}]}

    rules = {"true": asks(True), "one": asks(1), "a true": listed(True), "a one": listed(1)}
    ledger = shop(
        *(
            rule(name.replace(" ", "-"), trigger="review", earn={"points": 1}, when=when)
            for name, when in rules.items()
        )
    )
    for value, fired in ((True, {"true", "a-true"}), (1, {"one", "a-one"})):
        rows = why(ledger, review(ledger, attributes={"vip": value}))
        assert {name for name, row in rows.items() if row["fired"]} == fired


@pytest.mark.parametrize(
    ("at", "holds"),
    [
        ("2026-03-10T21:59", False),
        ("2026-03-10T22:00", True),
        ("2026-03-11T01:59", True),
        ("2026-03-11T02:00", False),
    ],
)
def test_hours_may_wrap_midnight_and_end_before_their_end(at: str, holds: bool) -> None:
    ledger = shop(rule(trigger="review", earn={"points": 1}, when={"hours": ["22:00-02:00"]}))
    assert bool(review(ledger, instant(at, "Europe/Paris")).points) == holds


@pytest.mark.parametrize(
    ("at", "holds"), [("12:59", False), ("13:29", False), ("13:30", True), ("13:45", False)]
)
def test_hours_are_held_to_the_minute(at: str, holds: bool) -> None:
    ledger = shop(rule(trigger="review", earn={"points": 1}, when={"hours": ["13:30-13:45"]}))
    assert bool(review(ledger, instant(f"2026-03-11T{at}", "Europe/Paris")).points) == holds


def test_until_with_a_time_includes_that_minute() -> None:
    until = {"until": "2026-11-30T23:59"}
    ledger = shop(rule(trigger="review", earn={"points": 1}, when=until))
    assert review(ledger, instant("2026-11-30T23:59:59", "Europe/Paris")).points == 1
    assert review(ledger, instant("2026-12-01T00:00", "Europe/Paris")).points == 0


def test_conditions_look_at_the_local_time_of_the_event_and_not_of_the_command() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 1}, when={"weekdays": ["sun"]}))
    sunday = instant("2026-03-08T00:30", "Europe/Paris")  # still Saturday in London
    assert review(ledger, NOW, occurred_at=sunday).points == 1
    assert review(ledger, NOW, occurred_at=sunday - HOUR).points == 0


def test_groups_are_those_of_the_member_when_it_is_decided() -> None:
    ledger = shop(rule(trigger="review", earn={"points": 1}, when={"groups": ["vip"]}))
    assert review(ledger).points == 0
    ledger.regroup(NOW, ["vip", "vip"])
    assert review(ledger).points == 1
    ledger.regroup(NOW, [])
    assert review(ledger).points == 0


def test_attributes_that_no_rule_names_are_not_stored() -> None:
    condition = {"attributes": [{"name": "stars", "op": ">=", "value": 1}]}
    ledger = shop(rule(trigger="review", earn={"points": 1}, when=condition))
    entry = review(ledger, attributes={"stars": 4, "comment": "by Ann Smith"})
    assert entry.event == {"a": {"stars": 4}}


# An award whole


BASKET_PRICES = [(195, 97, 13, 7), (20, 30, 40, 50), (7, 9, 11, 13), (199, 1, 199, 1)]


@pytest.mark.parametrize("scope", ["award", "rule", "line"])
@pytest.mark.parametrize("prices", BASKET_PRICES)
def test_what_each_rule_gave_for_each_line_is_told_again_by_the_explanation(
    scope: str, prices: tuple[int, ...]
) -> None:
    """Also where a multiplier did not apply, and where a rule was refused by its limit."""
    ledger = Ledger(
        smallest(
            rules=[
                rule("fixed", earn={"points": 9}),
                rule("base", earn=per(1, 10)),
                rule("tea", earn={"multiply": 2}, match={"products": ["TEA"]}),
                rule("web", earn={"multiply": 5}, when={"channels": ["web"]}),
                rule(
                    "most",
                    earn=per(1, 7),
                    limits=[{"points": 1, "per": "transaction", "over": "refuse"}],
                ),
                rule("plain", earn=per(1, 13), tier_multiplier=False),
            ],
            campaigns=[
                {"campaign_id": "off", "multiplier": 7, "until": "2026-01-01"},
                {"campaign_id": "some", "multiplier": 3, "match": {"products": ["MILK"]}},
            ],
            tiers={
                "qualify_by": "points",
                "window": "lifetime",
                "levels": [{"tier_id": "base", "name": "Base", "at": 0, "multiplier": "2.3"}],
            },
            rounding={"scope": scope},
        )
    )
    ledger.enrol(NOW - HOUR)
    products = ["MILK", "TEA", "SALT", "MILK"]
    entry = basket(ledger, *map(line, prices, products))
    rows = {index: points for index, _, points, *_ in entry.explanation["g"]}
    event = Given.by(ledger.rulebook, entry).event
    shares = shares_of(ledger.rulebook, entry.explanation, event, entry.occurred_at)
    assert {share.index: share.points for share in shares} == {k: n for k, n in rows.items() if n}
    assert [share.index for share in shares if share.fixed] == [0]
    lines = [sum(share.lines.get(i, 0) for share in shares) for i in range(4)]
    assert lines == by_line(entry)
    assert sum(lines) == entry.points


def test_a_refused_rule_takes_part_in_the_rounding_of_its_lines() -> None:
    limits = [{"points": 1, "per": "transaction", "over": "refuse"}]
    ledger = shop(
        rule("none", earn=per(1, 2), limits=limits),
        rule("base", earn=per(1, 2)),
        rounding={"scope": "line"},
    )
    entry = basket(ledger, line(3), line(4))
    event = Given.by(ledger.rulebook, entry).event
    shares = shares_of(ledger.rulebook, entry.explanation, event, entry.occurred_at)
    assert [sum(share.lines.get(i, 0) for share in shares) for i in range(2)] == by_line(entry)


def test_what_is_for_the_event_and_what_is_for_lines_are_rounded_beside_each_other() -> None:
    ledger = shop(
        rule("fixed", earn={"points": 10}),
        rule("base", earn=per(1, 100)),
        rounding={"scope": "line"},
    )
    assert earned(ledger, line(250), line(199)) == 13


def test_a_limit_per_transaction_comes_before_those_of_windows() -> None:
    limits = [{"points": 5, "per": "day"}, {"points": 8, "per": "transaction"}]
    ledger = shop(rule(limits=limits))
    entry = basket(ledger, line(10))
    told = awarded(ledger.rulebook, entry)
    assert (entry.points, why(ledger, entry)["base"]["reason"]) == (5, "granted")
    assert [limit["per"] for limit in told["limited_by"]] == ["transaction", "day"]
    assert {limit["rule_id"] for limit in told["limited_by"]} == {"base"}


def test_where_windows_do_not_count_limits_per_transaction_still_do() -> None:
    limits = [{"points": 5, "per": "day"}, {"points": 8, "per": "transaction"}]
    ledger = shop(rule(limits=limits))
    event = Given.by(ledger.rulebook, basket(ledger, line(10))).event
    account = ledger.account
    assert account
    usage = Usage(account, date(2026, 3, 10), ledger.program.zone, None, free=True)
    assert ledger.rulebook.evaluate(account, event, NOW, usage).points == 8


def test_of_two_windows_the_one_with_less_left_counts() -> None:
    ledger = shop(rule(limits=[{"points": 10, "per": "day"}, {"points": 8, "per": "week"}]))
    assert earned(ledger, line(12)) == 8


def test_what_a_limit_has_refused_is_told_as_desired() -> None:
    limits = [{"points": 5, "per": "day", "over": "refuse"}]
    ledger = shop(rule(limits=limits), rule("other", when={"channels": ["web"]}))
    rows = why(ledger, basket(ledger, line(12)))
    assert [(row["reason"], row["points"], row["desired_points"]) for row in rows.values()] == [
        ("limit", 0, 12),
        ("channel", 0, 0),
    ]


def test_a_rule_may_have_a_cooldown_and_a_frequency() -> None:
    often = [{"every": "PT4H"}, {"times": 2, "per": "day"}]
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=often))
    points = [review(ledger, NOW + n * HOUR).points for n in (0, 3, 4, 8)]
    assert points == [3, 0, 3, 0]
    at = instant("2026-03-11T00:00", "Europe/Paris")
    assert [review(ledger, at).points, review(ledger, at + 4 * HOUR - 1).points] == [3, 0]


def test_a_late_event_meets_the_longest_of_a_rules_cooldowns() -> None:
    often = [{"every": "PT1H"}, {"every": "P10D"}]
    ledger = shop(rule(trigger="review", earn={"points": 3}, frequency=often))
    assert [review(ledger, NOW + n * DAY).points for n in (0, 16)] == [3, 3]
    assert review(ledger, NOW + 16 * DAY, occurred_at=NOW + 5 * DAY).points == 0


def test_counters_have_the_names_that_publishing_compares() -> None:
    ledger = shop(
        rule(limits=[{"points": 90, "per": "day"}], frequency=[{"times": 9, "per": "ever"}]),
        limits=[{"points": 900, "per": "ever"}],
    )
    counts = {(count.per, count.name): count.by for count in basket(ledger, line(7)).counts}
    assert counts == {
        ("day", token("points", "base")): 7,
        ("ever", token("times", "base")): 1,
        ("ever", PROGRAM_POINTS): 7,
        ("ever", ONCE["first_purchase"]): 1,
    }


@pytest.mark.parametrize(
    "other",
    [
        ("program", "transfers"),
        ("once", "first_purchase"),
        ("once", "anniversary"),
        ("reward", "mug"),
        ("points", "base"),
        ("times", "base"),
        ("location", "here"),
        ("times", "@referral"),
    ],
)
@pytest.mark.parametrize("one", [("program", "points"), ("program", "transfers")])
def test_no_two_counters_may_share_a_name(
    one: tuple[str, str], other: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = parse(
        smallest(
            rules=[rule()],
            rewards=[{"reward_id": "mug", "kind": "product", "cost": 9}],
            locations=[{"location_id": "here"}],
        )
    )
    assert colliding(program) is None

    def alike(*pair: str) -> str:
        return "same" if pair in (one, other) else " ".join(pair)

    monkeypatch.setattr(limits, "_hashed", alike)
    assert colliding(program) == ((one[1], other[1]) if one != other else None)


def test_an_explanation_is_stored_in_a_few_characters() -> None:
    ledger = shop(
        *(rule(name, match={"products": [name]}) for name in "abc"),
        rule("d"),
        *(rule(name, when={"channels": ["web"]}) for name in "ef"),
        campaigns=[{"campaign_id": "spring", "multiplier": 3, "budget": {"points": 10}}],
    )
    stored = basket(ledger, line(4)).explanation
    assert stored == {
        "r": "3l+2c",
        "g": [[3, 12, 12, "c0"]],
        "b": {"campaign:spring": 8},
    }
    assert list(reasons_of(ledger.rulebook, stored, "purchase").values()) == [
        *["no_matching_line"] * 3,
        "granted",
        *["channel"] * 2,
    ]
    cut = basket(ledger, line(4))
    assert cut.explanation == {
        "r": "3l+2c",
        "g": [[3, 12, 6, "c0"]],
        "d": 12,
        "b": {"campaign:spring": 2},
        "u": {"campaign:spring": 2},
        "l": [[-2, 0]],
    }
    assert awarded(ledger.rulebook, cut)["limited_by"] == [
        {"scope": "campaign", "campaign_id": "spring"}
    ]


def test_the_programs_budget_is_named_among_what_has_cut_an_award() -> None:
    ledger = shop(rule(), budget={"points": 10})
    entry = basket(ledger, line(12))
    assert entry.points == 10
    assert awarded(ledger.rulebook, entry)["limited_by"] == [{"scope": "budget"}]


def test_an_explanation_of_another_version_is_a_defect_shown_loudly() -> None:
    ledger = shop(rule(), rule("more"))
    entry = basket(ledger, line(100))
    later = Rulebook(parse(smallest(rules=[rule()])), 2)
    event = Given.by(ledger.rulebook, entry).event
    with pytest.raises(ValueError):
        later.reasons("purchase", "++")
    with pytest.raises(ValueError):
        shares_of(later, entry.explanation, event, entry.occurred_at)
    with pytest.raises(ValueError):
        explain(later, entry.explanation, "purchase", number("2026-03-10"))


def test_what_no_answer_could_hold_is_left_out_but_not_what_fired() -> None:
    silent = [
        rule(f"r{n}", name="\N{BEER MUG}" * 200, match={"products": ["tea"]}) for n in range(5_000)
    ]
    ledger = shop(*silent, rule("paid"))
    entry = basket(ledger, line(100))
    answer = awarded(ledger.rulebook, entry)
    told = [row["rule_id"] for row in answer["explanation"]]
    assert 2_000 < len(told) < 5_000
    assert told == [*(f"r{n}" for n in range(len(told) - 1)), "paid"]
    assert len(told) + answer["explanation_left_out"] == 5_001
    assert answer_bytes(answer) < 3_100_000
    [row] = history_rows(ledger.rulebook, entry)
    assert row["explanation"] == answer["explanation"]
    assert row["explanation_left_out"] == answer["explanation_left_out"]


def test_what_multiplied_takes_room_in_an_answer_too() -> None:
    many = [rule(f"{n:04}" * 16, name="\N{BEER MUG}" * 200) for n in range(2_100)]
    campaigns = [
        {"campaign_id": f"c{n}" * 32, "name": "c", "multiplier": "1.5", "from": "2026-01-01"}
        for n in range(4)
    ]
    ledger = shop(*many, campaigns=campaigns)
    answer = awarded(ledger.rulebook, basket(ledger, line(100)))
    assert answer["explanation_left_out"] > 0
    assert answer_bytes(answer) < 3_100_000


def test_what_just_fits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = shop(rule(), rule("more"))
    entry = basket(ledger, line(100))
    told = awarded(ledger.rulebook, entry)["explanation"]
    room = sum(answer_bytes(row) for row in told)
    monkeypatch.setattr(projections, "EXPLAINED_BYTES", room)
    for less, left_out in [(0, None), (1, 1)]:
        monkeypatch.setattr(projections, "EXPLANATION_BYTES", room - less)
        answer = awarded(ledger.rulebook, entry)
        assert answer["explanation"] == told[: len(told) - less]
        assert answer.get("explanation_left_out") == left_out


def test_the_room_of_an_answer_is_that_of_json_within_json() -> None:
    assert answer_bytes({"a": 'é"', "b": []}) == len(r'"{\"a\":\"é\\\"\",\"b\":[]}"'.encode())


def test_an_award_explains_itself_to_the_last_date() -> None:
    ledger = shop(
        rule(earn=per(1, 100), pending="P14D", expiry=[{"after": "P3M"}]),
        rule("bonus", earn={"points": 20}, when={"channels": ["web"]}),
        expiry=[{"after": "P12M", "round_up_to": "month"}],
    )
    entry = ledger.buy(NOW, 1000, channel="web", event_id="order-1")
    assert awarded(ledger.rulebook, entry) == {
        "entry_id": "ann.2",
        "event_id": "order-1",
        "member_id": "ann",
        "points": 30,
        "desired_points": 30,
        "pending_points": 10,
        "balance": 20,
        "lots": [
            {"points": 20, "expires_on": "2027-04-01"},
            {"points": 10, "expires_on": "2026-06-24", "available_on": "2026-03-24"},
        ],
        "limited_by": [],
        "explanation": [
            {
                "rule_id": "base",
                "name": "base",
                "fired": True,
                "reason": "granted",
                "points": 10,
                "desired_points": 10,
                "factors": [],
                "available_on": "2026-03-24",
                "expires_on": "2026-06-24",
            },
            {
                "rule_id": "bonus",
                "name": "bonus",
                "fired": True,
                "reason": "granted",
                "points": 20,
                "desired_points": 20,
                "factors": [],
                "available_on": "2026-03-10",
                "expires_on": "2027-04-01",
            },
        ],
    }
    assert entry.lifetime == 30


def test_an_event_that_earns_nothing_is_recorded_all_the_same() -> None:
    ledger = shop(rule())
    entry = ledger.award(NOW, {"type": "quiz", "event_id": "q"})
    answer = awarded(ledger.rulebook, entry)
    assert (answer["points"], answer["lots"], answer["explanation"]) == (0, [], [])
    assert entry.postings == ()
    assert ledger.account
    assert ledger.account.seq == 2


def test_pending_by_trigger_gives_way_to_the_rules_own() -> None:
    ledger = shop(
        rule("waits", trigger="review", earn={"points": 1}),
        rule("now", trigger="review", earn={"points": 2}, pending="P0D"),
        pending={"review": "P7D"},
    )
    answer = awarded(ledger.rulebook, review(ledger))
    assert (answer["pending_points"], answer["balance"]) == (1, 2)


def test_a_rule_may_say_that_its_points_never_expire() -> None:
    never = rule("never", trigger="review", earn={"points": 2}, expiry=[])
    ledger = shop(never, expiry=[{"after": "P1M"}])
    assert awarded(ledger.rulebook, review(ledger))["lots"] == [{"points": 2, "expires_on": None}]


def completed(document: dict[str, Any], **member: Any) -> Decision:
    book = Rulebook(parse(document), 1)
    ann = Account(program_id="test", member_id="ann", seq=1, **member)
    event = Event.model_construct(
        event_id="profile", type="profile_completed", member_id="ann", attributes={}
    )
    guard = Guard("p#ann", "0", b"")
    return complete_profile(book, Known({"ann": ann}), guard, event, NOW)


def test_a_completed_profile_is_paid_once_for_ever() -> None:
    paying = rule("whole", trigger="profile_completed", earn={"points": 20})
    [entry] = completed(smallest(rules=[paying])).entries
    once = Count("ever", 0, ONCE["profile_completed"], 1)
    assert (entry.points, entry.counts) == (20, (once,))
    paid = {"ever": Counts(0, {once.name: 1})}
    with refused("nothing_due"):
        completed(smallest(rules=[paying]), counters=paid)
    other = {"ever": Counts(0, {ONCE["birthday"]: 1})}
    assert completed(smallest(rules=[paying]), counters=other).entries[0].points == 20


def test_a_completed_profile_that_earns_nothing_yet_is_refused() -> None:
    with refused("nothing_due"):
        completed(smallest(rules=[]))


def test_an_entry_keeps_no_tier_of_who_has_none() -> None:
    entry = basket(shop(rule()), line(7))
    assert entry.event == {"l": [["0", 1, 7, 7]]}


def test_registration_earns_at_enrolment_and_once() -> None:
    welcome = rule("welcome", trigger="registration", earn={"points": 50})
    ledger = Ledger(smallest(rules=[welcome]))
    assert ledger.enrol(NOW).points == 50
    with refused("member_exists"):
        ledger.enrol(NOW)


def test_who_is_not_a_member_earns_nothing() -> None:
    ledger = Ledger(smallest(rules=[rule()]))
    with refused("member_not_found"):
        ledger.buy(NOW, 100)


# Check-ins


def cafe(check_in: dict[str, Any], *rules: dict[str, Any], **more: Any) -> Ledger:
    visit = rule("visit", trigger="check_in", earn={"points": 5})
    locations = [{"location_id": LOCATION, "check_in": check_in}]
    return shop(*(rules or (visit,)), locations=locations, **more)


def test_a_location_counts_its_own_scans_by_day() -> None:
    ledger = cafe({"limits": [{"times": 2, "per": "day"}]})
    first, second = ledger.check_in(NOW), ledger.check_in(NOW)
    assert (first.points, second.points) == (5, 5)
    assert "next_allowed_at" not in checked_in(ledger.rulebook, first)
    assert checked_in(ledger.rulebook, second)["next_allowed_at"] == "2026-03-10T23:00:00Z"
    with refused("limit_reached", next_allowed_at="2026-03-10T23:00:00Z"):
        ledger.check_in(NOW)
    assert ledger.check_in(instant("2026-03-11T00:00", "Europe/Paris")).points == 5


def test_a_location_has_a_cooldown_of_its_own() -> None:
    ledger = cafe({"cooldown": "PT1H"})
    assert ledger.check_in(NOW).points == 5
    with refused("limit_reached", next_allowed_at="2026-03-10T13:00:00Z"):
        ledger.check_in(NOW + HOUR - 1)
    assert ledger.check_in(NOW + HOUR).points == 5


def test_a_rules_frequency_counts_over_all_locations() -> None:
    visit = rule(
        "visit", trigger="check_in", earn={"points": 5}, frequency=[{"times": 1, "per": "week"}]
    )
    locations = [{"location_id": place, "check_in": {}} for place in ("here", "there")]
    ledger = shop(visit, locations=locations)
    assert ledger.check_in(NOW, "here").points == 5
    with refused("limit_reached", next_allowed_at="2026-03-15T23:00:00Z"):
        ledger.check_in(NOW, "there")


def test_a_check_in_that_earns_nothing_is_refused_and_leaves_nothing() -> None:
    nothing = rule("visit", trigger="check_in", earn={"points": 5}, when={"groups": ["vip"]})
    ledger = cafe({}, nothing)
    before = ledger.account
    with refused("nothing_earned"):
        ledger.check_in(NOW)
    assert ledger.account == before


def test_a_check_in_beyond_the_days_points_is_refused() -> None:
    ledger = cafe({}, limits=[{"points": 8, "per": "day"}])
    assert [ledger.check_in(NOW).points, ledger.check_in(NOW).points] == [5, 3]
    with refused("limit_reached", next_allowed_at="2026-03-10T23:00:00Z"):
        ledger.check_in(NOW)


def test_a_closed_location_takes_no_check_ins() -> None:
    ledger = cafe({"opening_hours": {"mon-fri": ["07:00-13:00"]}})
    assert ledger.check_in(NOW - MINUTE).points == 5
    with refused("location_closed"):
        ledger.check_in(NOW)


def test_a_code_of_no_location_of_ours_is_refused() -> None:
    ledger = cafe({})
    with refused("code_invalid"):
        ledger.check_in(NOW, "elsewhere")


def visit(rule_id: str, **more: Any) -> dict[str, Any]:
    return rule(rule_id, **({"trigger": "check_in", "earn": {"points": 5}} | more))


DAILY = {"frequency": [{"times": 1, "per": "day"}]}
MIDNIGHT = "2026-03-10T23:00:00Z"
IN_TWO_HOURS = "2026-03-10T14:00:00Z"


@pytest.mark.parametrize(
    ("rules", "again"),
    [
        ([visit("a", **DAILY)], MIDNIGHT),
        # The first of the rules that may pay again counts, by all that keeps it from that.
        ([visit("a", **DAILY), visit("b", frequency=[{"every": "PT2H"}])], IN_TWO_HOURS),
        ([visit("a", frequency=[{"every": "PT2H"}, {"times": 1, "per": "day"}])], MIDNIGHT),
        ([visit("a", frequency=[{"every": "P2D"}, {"times": 1, "per": "day"}])],
         "2026-03-12T12:00:00Z"),
        ([visit("a", limits=[{"points": 5, "per": "day"}])], MIDNIGHT),
        ([visit("a", limits=[{"points": 9, "per": "day", "over": "refuse"}])], None),
        (
            [
                visit("a", limits=[{"points": 5, "per": "day", "over": "refuse"}]),
                visit("b", frequency=[{"times": 1, "per": "week"}]),
            ],
            MIDNIGHT,
        ),
        # A limit that is not used up is in nobody's way, nor is one per transaction.
        (
            [
                visit(
                    "a",
                    frequency=[{"every": "PT2H"}],
                    limits=[{"points": 90, "per": "day"}, {"points": 5, "per": "transaction"}],
                )
            ],
            IN_TWO_HOURS,
        ),
        # What pays others, or only multiplies, is no reason to come back.
        ([visit("vip", when={"groups": ["vip"]}), visit("a", **DAILY)], MIDNIGHT),
        ([visit("other", trigger="review"), visit("a", **DAILY)], MIDNIGHT),
    ],
)  # fmt: skip
def test_a_scan_too_many_says_when_one_counts_again(
    rules: list[dict[str, Any]], again: str | None
) -> None:
    ledger = cafe({}, *rules)
    first = ledger.check_in(NOW)
    assert checked_in(ledger.rulebook, first).get("next_allowed_at") == again
    more = {} if again is None else {"next_allowed_at": again}
    with refused("limit_reached", **more):
        ledger.check_in(NOW + MINUTE)


def test_a_scan_counts_under_the_name_of_its_location() -> None:
    ledger = cafe({"limits": [{"times": 2, "per": "day"}], "cooldown": "PT1H"})
    entry = ledger.check_in(NOW)
    name = token("location", LOCATION)
    assert [(count.per, count.name, count.by) for count in entry.counts] == [("day", name, 1)]
    assert entry.cooldowns == {name: NOW}


def test_a_code_of_another_program_opens_no_door_here() -> None:
    ledger = cafe({})
    theirs = check_in_code(SECRETS, CheckInCode("other", LOCATION, 1))
    ours = check_in_code(SECRETS, CheckInCode("test", LOCATION, 1))
    old = check_in_code(SECRETS, CheckInCode("test", LOCATION, 2))
    assert scanned_location(ledger.rulebook, SECRETS, ours)[0] == LOCATION
    for text in (theirs, old, ours[:-1], "nonsense"):
        with refused("code_invalid"):
            scanned_location(ledger.rulebook, SECRETS, text)


def test_another_code_version_withdraws_every_poster_and_tells_its_codes_apart() -> None:
    old = check_in_code(SECRETS, CheckInCode("test", LOCATION, 1))
    new = check_in_code(SECRETS, CheckInCode("test", LOCATION, 2))
    for version, good, withdrawn in ((1, old, new), (2, new, old)):
        rulebook = cafe({"code_version": version}).rulebook
        assert scanned_location(rulebook, SECRETS, good)[0] == LOCATION
        with refused("code_invalid"):
            scanned_location(rulebook, SECRETS, withdrawn)


# What rules ask of a profile


def test_groups_and_birthday_are_written_down_where_they_change() -> None:
    ledger = shop(rule())
    ledger.account = replace(_account(ledger), groups=("a", "b"), birthday=1231)

    def change(**more: Any) -> Entry:
        guard = Guard("k#key", "0", b"")
        return update(ledger.rulebook, _account(ledger), guard, NOW, **more).entries[0]

    names = [f"g{n}" for n in range(9, 0, -1)]
    assert change(groups=names).groups == tuple(sorted(names))
    for more, groups, birthday in (
        ({"groups": ["c", "a", "c"]}, ("a", "c"), None),
        ({"groups": []}, (), None),
        ({"birthday": 704}, None, 704),
        ({"birthday": 0}, None, 0),
        ({"groups": ["b", "a"], "birthday": 704}, None, 704),
        ({"groups": ["b"], "birthday": 1231}, ("b",), None),
    ):
        entry = change(**more)
        assert (entry.kind, entry.groups, entry.birthday) == ("update", groups, birthday)
    for same in ({}, {"groups": ["b", "a"]}, {"birthday": 1231}):
        with refused("nothing_due"):
            change(**same)


def _account(ledger: Ledger) -> Account:
    assert ledger.account
    return ledger.account


def test_an_id_is_given_once_for_ever() -> None:
    ledger = shop(rule())
    with refused("member_exists"):
        ledger.enrol(NOW)
    ledger.account = replace(_account(ledger), status="erased")
    with refused("member_erased"):
        ledger.enrol(NOW)


def test_groups_are_kept_in_one_order() -> None:
    ledger = Ledger(smallest())
    names = [f"g{n}" for n in range(9, 0, -1)]
    assert ledger.enrol(NOW, groups=[*names, "g1"]).groups == tuple(sorted(names))


def test_only_purchases_count_where_a_tier_is_reached_by_spending() -> None:
    ledger = shop(
        rule(),
        rule("review", trigger="review", earn={"points": 3}),
        tiers={
            "qualify_by": "spend",
            "window": {"membership": "year"},
            "levels": [{"tier_id": "base", "name": "Base", "at": 0}],
        },
    )
    joined = number("2025-12-24")
    ledger.account = replace(_account(ledger), joined_on=joined)
    assert review(ledger).qualifying == ()
    assert basket(ledger, line(500), line(7)).qualifying == ((joined, 507),)
