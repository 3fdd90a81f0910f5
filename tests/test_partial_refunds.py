"""Refunds by line, by amount and in parts: cumulative, never more than was given."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loyalty.commands import Purchase, Reversal
from loyalty.decisions import Guard, redemption_id
from loyalty.model import Account, Entry, History, Known, Refusal
from loyalty.projections import reversed_
from loyalty.redeeming import Spending
from loyalty.refunds import Given, reverse
from tests.programs import smallest
from tests.strategies import (
    BUSY_STORIES,
    DAY,
    PROGRAM_DOCUMENTS,
    Ledger,
    Story,
    instant,
    number,
    refused,
)

NOW = instant("2026-03-10T13:00", "Europe/Paris")
PER_CENT = {"rule_id": "purchase", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}


def shop(*rules: dict[str, Any], method: str = "per_line", **more: Any) -> Ledger:
    refunds = {"method": method} | more.pop("refunds", {})
    ledger = Ledger(smallest(rules=list(rules) or [PER_CENT], refunds=refunds, **more))
    ledger.enrol(NOW)
    return ledger


def bought(ledger: Ledger, *lines: tuple[int, int], **more: Any) -> Entry:
    """A purchase of lines (quantity, amount), their ids 0, 1, 2 …"""
    rows = [
        {"line_id": str(i), "quantity": quantity, "amount": amount}
        for i, (quantity, amount) in enumerate(lines)
    ]
    purchase = {"currency": ledger.program.currency, "lines": rows} | more
    return ledger.award(NOW, {"type": "purchase", "purchase": purchase})


def taken(ledger: Ledger, event: Entry, refund_id: str, **body: Any) -> int:
    return reversed_(ledger.reverse(NOW, event, refund_id, **body))["points"]


def piece(line: int = 0, **part: int) -> dict[str, Any]:
    return {"lines": [{"line_id": str(line)} | part]}


# By line


def test_a_line_that_comes_back_piece_by_piece_gives_its_points_back_cumulatively() -> None:
    ledger = shop()
    event = bought(ledger, (3, 1000))
    assert event.points == 10
    back = [taken(ledger, event, f"r{i}", **piece(quantity=1)) for i in range(3)]
    assert back == [3, 3, 4]  # floor(10/3), floor(20/3) - 3, the rest
    with refused("more_than_bought"):
        ledger.reverse(NOW, event, "r4", **piece(quantity=1))


def test_a_line_may_come_back_by_amount_or_all_that_is_left_of_it() -> None:
    ledger = shop()
    event = bought(ledger, (1, 1000), (1, 500))
    assert taken(ledger, event, "a", **piece(amount=250)) == 2
    assert taken(ledger, event, "b", **piece()) == 8
    assert taken(ledger, event, "c", **piece(1)) == 5
    assert ledger.account
    assert ledger.account.balance == 0


def test_an_amount_is_spread_over_what_is_left_of_the_lines() -> None:
    ledger = shop()
    event = bought(ledger, (1, 1000), (1, 500))
    assert taken(ledger, event, "a", amount=300) == 3
    assert taken(ledger, event, "b", **piece(0)) == 8
    assert taken(ledger, event, "c", amount=400) == 4
    assert ledger.account
    assert ledger.account.balance == 0


@pytest.mark.parametrize(
    "body",
    [
        piece(quantity=3),
        piece(amount=1001),
        {"amount": 1501},
        {"lines": [{"line_id": "1", "amount": 501}, {"line_id": "0", "quantity": 1}]},
    ],
)
def test_more_than_was_bought_is_refused_and_changes_nothing(body: dict[str, Any]) -> None:
    ledger = shop()
    event = bought(ledger, (2, 1000), (1, 500))
    before = ledger.account
    with refused("more_than_bought", **({"pointer": "/lines/0"} if "lines" in body else {})):
        ledger.reverse(NOW, event, "a", **body)
    assert ledger.account == before


def test_a_line_that_was_not_bought_is_named() -> None:
    ledger = shop()
    event = bought(ledger, (2, 1000))
    with refused("line_not_found", pointer="/lines/0/line_id"):
        ledger.reverse(NOW, event, "a", **piece(7))


def test_an_event_without_lines_is_taken_back_as_a_whole() -> None:
    ledger = shop({"rule_id": "review", "trigger": "review", "earn": {"points": 50}})
    event = ledger.award(NOW, {"type": "review"})
    for body in (piece(), {"amount": 1}):
        with refused("more_than_bought"):
            ledger.reverse(NOW, event, "a", **body)
    assert taken(ledger, event, "b") == 50


# Bonuses

BONUS = {
    "rule_id": "bonus",
    "trigger": "purchase",
    "when": {"min_amount": 2000},
    "earn": {"points": 50},
}


def test_a_bonus_stays_while_what_is_kept_would_earn_it_and_goes_as_a_whole() -> None:
    ledger = shop(PER_CENT, BONUS)
    event = bought(ledger, (3, 3000))
    assert event.points == 80
    assert taken(ledger, event, "a", **piece(quantity=1)) == 10  # 20.00 are kept
    assert taken(ledger, event, "b", **piece(quantity=1)) == 10 + 50
    assert taken(ledger, event, "c", **piece(quantity=1)) == 10


def test_a_rate_with_a_threshold_goes_with_it() -> None:
    double = {
        "rule_id": "double",
        "trigger": "purchase",
        "when": {"min_amount": 2000},
        "earn": {"points": 1, "per_amount": 100},
    }
    ledger = shop(PER_CENT, double)
    event = bought(ledger, (3, 3000))
    assert event.points == 60
    assert taken(ledger, event, "a", **piece(quantity=2)) == 20 + 30
    assert taken(ledger, event, "b") == 10


def test_a_bonus_for_a_line_that_came_back_goes() -> None:
    only = {
        "rule_id": "sku",
        "trigger": "purchase",
        "match": {"products": ["SKU"]},
        "earn": {"points": 7},
    }
    ledger = shop(PER_CENT, only)
    lines = [
        {"line_id": "0", "quantity": 1, "amount": 1000, "product_id": "SKU"},
        {"line_id": "1", "quantity": 1, "amount": 1000},
    ]
    purchase = {"currency": ledger.program.currency, "lines": lines}
    event = ledger.award(NOW, {"type": "purchase", "purchase": purchase})
    assert event.points == 27
    assert taken(ledger, event, "a", **piece(1)) == 10
    assert taken(ledger, event, "b", **piece(0)) == 17


def test_proportional_refunds_take_their_part_of_everything() -> None:
    ledger = shop(PER_CENT, BONUS, method="proportional")
    event = bought(ledger, (3, 3000))
    back = [taken(ledger, event, f"r{i}", **piece(quantity=1)) for i in range(3)]
    assert back == [26, 27, 27]


def test_recomputed_refunds_leave_what_the_rest_would_have_earned() -> None:
    blocks = {
        "rule_id": "blocks",
        "trigger": "purchase",
        "earn": {"points": 10, "per_amount": 1000, "blocks": "whole"},
    }
    ledger = shop(blocks, BONUS, method="recompute")
    event = bought(ledger, (1, 1500), (1, 1500))
    assert event.points == 80
    assert taken(ledger, event, "a", **piece(0)) == 70  # 15.00: one block, no bonus
    assert taken(ledger, event, "b") == 10


def test_recomputing_uses_the_tier_and_the_version_that_the_event_recorded() -> None:
    tiers = {
        "qualify_by": "points",
        "window": "lifetime",
        "downgrade": {"steps": "none"},
        "levels": [
            {"tier_id": "bronze", "at": 0},
            {"tier_id": "gold", "at": 10, "multiplier": "2"},
        ],
    }
    ledger = shop(method="recompute", tiers=tiers)
    first = bought(ledger, (1, 1000))
    second = bought(ledger, (2, 2000))
    assert (first.points, second.points) == (10, 40)
    assert taken(ledger, first, "a", **piece(amount=500)) == 5
    assert taken(ledger, second, "b", **piece(quantity=1)) == 20


def test_recomputing_forgets_window_limits_but_never_leaves_more_than_was_given() -> None:
    ledger = shop(method="recompute", limits=[{"points": 15, "per": "day"}])
    event = bought(ledger, (2, 4000))
    assert event.points == 15
    assert taken(ledger, event, "a", **piece(quantity=1)) == 0  # the rest would earn 20
    assert taken(ledger, event, "b", **piece(amount=1000)) == 5
    assert taken(ledger, event, "c") == 10


# Points that paid for the order


def paid_order(**refunds: Any) -> tuple[Ledger, Entry, Entry]:
    """An order of 20.00, paid for with 60 points of which 50 live for a month and 10 for ever."""
    rules = [
        {
            "rule_id": "quiz",
            "trigger": "quiz",
            "earn": {"points": 50},
            "expiry": [{"after": "P1M"}],
        },
        {"rule_id": "gift", "trigger": "gift", "earn": {"points": 10}},
    ]
    ledger = shop(*rules, refunds=refunds)
    ledger.award(NOW, {"type": "quiz"})
    ledger.award(NOW, {"type": "gift"})
    spent = ledger.redeem(NOW, 60)
    event = bought(ledger, (4, 2000), redemption_ids=[redemption_id(spent)])
    return ledger, spent, event


def restored(ledger: Ledger, event: Entry, refund_id: str, at: int = NOW, **body: Any) -> int:
    return reversed_(ledger.reverse(at, event, refund_id, **body))["restored_points"]


def test_points_that_paid_for_it_go_back_to_their_old_lots() -> None:
    ledger, _, event = paid_order()
    before = ledger.entries[2]
    assert restored(ledger, event, "a") == 60
    assert ledger.account
    assert ledger.account.available == 60
    assert [end for end, _ in ledger.account.lots] == [
        end for end, _ in ledger.entries[1].postings[0].lots + before.postings[0].lots
    ]


def test_a_part_of_the_order_gives_its_part_back_and_the_last_one_the_rest() -> None:
    ledger, spent, event = paid_order()
    assert restored(ledger, event, "a", **piece(quantity=1)) == 15
    assert restored(ledger, event, "b", **piece(quantity=2)) == 30
    assert restored(ledger, event, "c") == 15
    with refused("redemption_restored"):
        ledger.cancel(NOW, spent)


def test_cancelling_gives_back_what_no_refund_has() -> None:
    ledger, spent, event = paid_order()
    assert restored(ledger, event, "a", **piece(quantity=1)) == 15
    assert ledger.cancel(NOW, spent).balance == 60
    assert restored(ledger, event, "b") == 0
    assert ledger.account
    assert ledger.account.available == 60


def test_two_orders_that_name_one_redemption_get_its_points_once() -> None:
    ledger, spent, event = paid_order()
    other = bought(ledger, (1, 500), redemption_ids=[redemption_id(spent), "r-nonsense"])
    assert restored(ledger, event, "a") + restored(ledger, other, "b") == 60


def test_points_whose_date_has_passed_go_at_once_or_live_for_the_grace_period() -> None:
    later = NOW + 60 * DAY
    ledger, _, event = paid_order()
    entry = ledger.reverse(later, event, "a")
    assert reversed_(entry)["restored_points"] == 60
    assert entry.balance == 10
    assert entry.postings[-1].kind == "expire"
    ledger, _, event = paid_order(expired_grace="P14D")
    entry = ledger.reverse(later, event, "a")
    assert entry.balance == 60
    assert ledger.account
    assert ledger.account.lots[0][1] == 50
    ledger.sweep(later + 14 * DAY)
    assert ledger.account
    assert ledger.account.available == 10


# What is known of the event


BARE = {"quantity": 1, "amount": 100}


def test_an_event_is_read_again_as_it_was_but_for_what_no_rule_asks() -> None:
    asks = {"attributes": [{"name": "vip", "op": "==", "value": True}]}
    bonus = {"rule_id": "vip", "trigger": "purchase", "earn": {"points": 5}, "when": asks}
    ledger = shop(PER_CENT, bonus)
    purchase = {
        "currency": "EUR",
        "lines": [
            {"line_id": "0", **BARE},
            {"line_id": "1", **BARE, "product_id": "A"},
            {"line_id": "2", **BARE, "category_ids": ["x", "y"]},
            {"line_id": "3", **BARE, "brand_id": "acme"},
            {"line_id": "4", "quantity": 3, "amount": 0, "discounted": True},
        ],
        "tax": 7,
        "shipping": 8,
        "paid_with_points": 9,
        "redemption_ids": ["r-x"],
    }
    entry = ledger.award(
        NOW,
        {
            "type": "purchase",
            "purchase": purchase,
            "channel": "web",
            "location_id": "here",
            "attributes": {"vip": True, "shoe": 43},
        },
    )
    [points, *more] = [row[3] for row in entry.event["l"]]
    assert entry.event == {
        "c": "web",
        "o": "here",
        "a": {"vip": True},
        "l": [
            ["0", 1, 100, points],
            ["1", 1, 100, more[0], "A"],
            ["2", 1, 100, more[1], None, ["x", "y"]],
            ["3", 1, 100, more[2], None, [], "acme"],
            ["4", 3, 0, more[3], None, [], None, 1],
        ],
        "x": 7,
        "s": 8,
        "p": 9,
        "r": ["r-x"],
    }
    event = Given.by(ledger.rulebook, entry).event
    assert event.purchase
    assert event.purchase.model_dump() == Purchase.model_validate(purchase).model_dump()
    assert (event.type, event.channel, event.location_id) == ("purchase", "web", "here")
    assert event.attributes == {"vip": True}


def test_what_says_nothing_is_not_stored() -> None:
    review = {"rule_id": "review", "trigger": "review", "earn": {"points": 5}}
    ledger = shop(PER_CENT, review)
    entry = ledger.award(NOW, {"type": "review"})
    assert not entry.event
    event = Given.by(ledger.rulebook, entry).event
    assert (event.purchase, event.channel, event.location_id) == (None, None, None)
    assert event.attributes == {}
    plain = bought(ledger, (1, 0))
    assert plain.event == {"l": [["0", 1, 0, 0]]}
    read = Given.by(ledger.rulebook, plain).event.purchase
    assert read
    assert (read.tax, read.shipping, read.paid_with_points) == (0, 0, 0)
    assert read.redemption_ids == []


def test_what_a_referral_gave_is_told_apart_from_what_rules_gave() -> None:
    ledger = shop()
    entry = bought(ledger, (1, 1000))
    assert entry.points == 10
    told = replace(entry, explanation={**entry.explanation, "f": [3, 8]})
    given_ = Given.by(ledger.rulebook, told)
    assert (given_.points, given_.referral) == (7, 3)
    plain = Given.by(ledger.rulebook, entry)
    assert (plain.points, plain.referral) == (10, 0)
    silent = Given.by(ledger.rulebook, replace(entry, explanation=None, event=None))
    assert (silent.explanation, silent.points, silent.lines) == ({"r": ""}, 10, [])


HALF, NONE, ALL = Fraction(1, 2), Fraction(0), Fraction(1)


@pytest.mark.parametrize(
    ("lines", "back", "part"),
    [
        (((1, 300), (1, 100)), [NONE, ALL], Fraction(1, 4)),
        (((1, 300), (1, 100)), [HALF, NONE], Fraction(3, 8)),
        (((1, 300), (1, 100)), [ALL, ALL], Fraction(1)),
        # Where nothing was paid every line is worth the same.
        (((1, 0), (1, 0)), [ALL, NONE], Fraction(1, 2)),
        (((1, 0),), [HALF], Fraction(1, 2)),
    ],
)
def test_the_part_of_an_event_is_measured_by_what_its_lines_cost(
    lines: tuple[tuple[int, int], ...], back: list[Fraction], part: Fraction
) -> None:
    ledger = shop()
    assert Given.by(ledger.rulebook, bought(ledger, *lines)).part(back) == part


def test_an_event_without_lines_is_taken_back_as_a_whole_or_not_at_all() -> None:
    review = {"rule_id": "review", "trigger": "review", "earn": {"points": 5}}
    ledger = shop(review)
    given_ = Given.by(ledger.rulebook, ledger.award(NOW, {"type": "review"}))
    assert given_.part([]) == 0
    assert (given_.taken([], whole=False), given_.taken([], whole=True)) == (0, 5)


def test_what_is_kept_pays_a_referral_while_it_is_enough() -> None:
    def refers(back: Fraction, *, whole: bool = False, **terms: int) -> bool:
        referral = {"referrer_points": 1, "award_on": "first_purchase", **terms}
        ledger = shop(referral=referral)
        return Given.by(ledger.rulebook, bought(ledger, (1, 1000))).refers([back], whole=whole)

    assert refers(NONE)
    assert refers(Fraction(9, 10))
    assert not refers(ALL, whole=True)
    assert refers(HALF, min_amount=500)
    assert not refers(HALF, min_amount=501)
    assert not refers(NONE, whole=True, min_amount=1)


def test_a_bonus_for_lines_that_all_came_back_comes_back() -> None:
    tea = {"match": {"products": ["TEA"]}}
    bonus = {"rule_id": "tea", "trigger": "purchase", "earn": {"points": 30}, **tea}
    ledger = shop(PER_CENT, bonus)
    lines = [
        {"line_id": str(i), "quantity": 2, "amount": 1000, "product_id": name}
        for i, name in enumerate(["TEA", "SALT"])
    ]
    event = ledger.award(NOW, {"type": "purchase", "purchase": {"currency": "EUR", "lines": lines}})
    assert event.points == 50
    assert taken(ledger, event, "a", **piece(1, quantity=1)) == 5
    assert taken(ledger, event, "b", **piece(0, quantity=1)) == 5
    assert taken(ledger, event, "c", **piece(0)) == 35
    assert taken(ledger, event, "d") == 5


# Worked out again


def recomputed(*rules: dict[str, Any], **more: Any) -> Ledger:
    return shop(*rules, method="recompute", **more)


def test_a_piece_that_came_back_in_part_is_kept_as_a_whole_one() -> None:
    each = {"rule_id": "unit", "trigger": "purchase", "earn": {"points": 4, "per_quantity": 1}}
    ledger = recomputed(each)
    event = bought(ledger, (3, 900))
    assert event.points == 12
    # A third of the amount is one piece; a half leaves one and a half, which are two.
    assert taken(ledger, event, "a", **piece(amount=300)) == 4
    assert taken(ledger, event, "b", **piece(amount=150)) == 0
    assert taken(ledger, event, "c", **piece(amount=150)) == 4


def test_tax_shipping_and_what_points_paid_come_back_in_proportion() -> None:
    per_unit = {"rule_id": "p", "trigger": "purchase", "earn": {"points": 1, "per_amount": 1}}
    ledger = recomputed(per_unit, earning_base={"tax": "include", "shipping": "include"})
    event = bought(ledger, (1, 1000), tax=200, shipping=100, paid_with_points=400)
    assert event.points == 900
    # A quarter is kept: 250 + 50 + 25 - 100.
    assert taken(ledger, event, "a", amount=750) == 900 - 225


def test_what_could_not_count_then_does_not_count_when_it_is_worked_out_again() -> None:
    once = {
        "rule_id": "once",
        "trigger": "purchase",
        "earn": {"points": 50},
        "frequency": [{"times": 1, "per": "day"}],
    }
    first = {"rule_id": "first", "trigger": "first_purchase", "earn": {"points": 7}}
    ledger = recomputed(PER_CENT, once, first)
    assert bought(ledger, (2, 1000)).points == 67
    event = bought(ledger, (2, 1000))
    assert event.points == 10
    assert taken(ledger, event, "a", **piece(quantity=1)) == 5


def test_who_was_in_a_group_then_is_taken_as_in_it_when_it_is_worked_out_again() -> None:
    vip = {
        "rule_id": "vip",
        "trigger": "purchase",
        "earn": {"points": 50},
        "when": {"groups": ["vip"]},
    }
    offer = {
        "offer_id": "staff",
        "percent": 10,
        "groups": ["staff"],
        "applies_to": {"products": ["TEA"]},
    }
    ledger = recomputed(PER_CENT, vip, offers=[offer], point_value=1)
    ledger.regroup(NOW, ["vip", "staff"])
    row = {"line_id": "0", "quantity": 2, "amount": 1000, "product_id": "TEA"}
    event = ledger.award(NOW, {"type": "purchase", "purchase": {"currency": "EUR", "lines": [row]}})
    assert event.points == 10 + 50 + 100
    ledger.regroup(NOW, [])
    assert taken(ledger, event, "a", **piece(quantity=1)) == 5 + 50


def test_the_tier_of_the_event_counts_when_it_is_worked_out_again() -> None:
    levels = [
        {"tier_id": "base", "name": "Base", "at": 0},
        {"tier_id": "gold", "name": "Gold", "at": 10, "multiplier": 3},
    ]
    tiers = {"qualify_by": "points", "window": "lifetime", "levels": levels}
    ledger = recomputed(tiers=tiers)
    first, event = bought(ledger, (2, 1000)), bought(ledger, (2, 1000))
    assert (first.points, event.points) == (10, 30)
    assert taken(ledger, event, "a", **piece(quantity=1)) == 15
    assert taken(ledger, first, "b", **piece(quantity=1)) == 5


def test_an_amount_is_spread_by_what_is_left_of_each_line_to_the_fraction() -> None:
    ledger = shop()
    event = bought(ledger, (3, 1000), (1, 500))
    ledger.reverse(NOW, event, "a", **piece(quantity=1))
    # 666.67 and 500 are left: of 300 they bear 171.43 and 128.57.
    assert ledger.reverse(NOW, event, "b", amount=300).event == {
        "b": [[0, 171, 1000], [1, 129, 500]]
    }


@pytest.mark.parametrize(("amount", "points"), [(33, 0), (34, 1), (67, 2), (1999, 59)])
def test_what_comes_back_is_whole_points_and_none_is_told_where_there_is_none(
    amount: int, points: int
) -> None:
    ledger, spent, event = paid_order()
    entry = ledger.reverse(NOW, event, "a", amount=amount)
    told = entry.explanation or {}
    assert told.get("s", []) == ([[redemption_id(spent), points]] if points else [])
    assert reversed_(entry)["restored_points"] == points


def test_what_was_not_given_back_in_time_is_not_given_back_later() -> None:
    """A refund that found nothing to give back has spoken for its part all the same."""
    ledger, _, event = paid_order()
    stored = {name: value for name, value in event.event.items() if name != "r"}
    half = piece(quantity=2)
    assert restored(ledger, replace(event, event=stored), "a", **half) == 0
    assert restored(ledger, event, "b") == 30


def test_of_several_redemptions_those_that_stand_are_given_back() -> None:
    ledger = shop({"rule_id": "gift", "trigger": "gift", "earn": {"points": 90}})
    ledger.award(NOW, {"type": "gift"})
    gone, spent, other = (ledger.redeem(NOW, points) for points in (10, 20, 30))
    ledger.cancel(NOW, gone)
    ids = [redemption_id(entry) for entry in (gone, spent, other)]
    first = bought(ledger, (1, 2000), redemption_ids=ids[:2])
    assert restored(ledger, first, "a") == 20
    event = bought(ledger, (1, 2000), redemption_ids=ids)
    entry = ledger.reverse(NOW, event, "b")
    assert entry.explanation["s"] == [[ids[2], 30]]
    assert entry.balance == 90


def test_another_members_redemption_is_not_given_back_and_ones_own_beside_it_is() -> None:
    ledger, spent, _ = paid_order()
    theirs = replace(spent, member_id="bob", partition="k#theirs")
    event = bought(ledger, (4, 2000))
    refund = Reversal.model_validate({"event_id": "order", "refund_id": "a"})
    given_ = Given.by(ledger.rulebook, event)
    bob = Account(program_id="test", member_id="bob", seq=3)
    for who in (bob, replace(bob, status="erased")):
        history = History(0, tuple(reversed(ledger.entries)))
        known = Known({"ann": ledger.account, "bob": who}, history)
        guard = Guard(event.partition, "r#a", b"")
        paid = [Spending([theirs]), Spending([spent])]
        decision = reverse(ledger.rulebook, given_, known, guard, [event], refund, paid, NOW)
        assert decision.entries[0].explanation["s"] == [(redemption_id(spent), 60)]


def test_points_whose_last_day_is_over_today_live_for_the_grace_period() -> None:
    ledger, _, event = paid_order(expired_grace="P14D")
    last = instant("2026-04-10T12:00", "Europe/Paris")
    entry = ledger.reverse(last, event, "a")
    assert entry.balance == 60
    assert ledger.account
    assert ledger.account.lots[0] == (number("2026-04-24"), 50)


def test_a_single_point_is_taken_out_of_what_counts_for_a_tier() -> None:
    tiers = {
        "qualify_by": "points",
        "window": "lifetime",
        "levels": [{"tier_id": "base", "name": "Base", "at": 0}],
    }
    ledger = shop(tiers=tiers)
    event = bought(ledger, (1, 100))
    [(start, counted)] = event.qualifying
    assert counted == 1
    assert ledger.reverse(NOW, event, "a").qualifying == ((start, -1),)
    # Where nothing of it counts any more nothing is taken out.
    event = bought(ledger, (1, 300))
    assert ledger.account
    ledger.account = replace(ledger.account, qualifying=())
    assert ledger.reverse(NOW, event, "b").qualifying == ()


# Laws, over any program and any purchase

PARTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4000)), max_size=6)


@settings(max_examples=60)
@given(st.one_of(PROGRAM_DOCUMENTS.map(lambda d: (d, None)), BUSY_STORIES.map(lambda s: (None, s))))
def test_what_sources_granted_on_lines_sums_to_what_was_recorded(case: Any) -> None:
    document, story = case
    assume(story is not None or document is not None)
    if story is None:
        ledger = Ledger(document)
        ledger.enrol(NOW)
        entries = [ledger.buy(NOW, 1999, 501, 0), ledger.buy(NOW + DAY, 3)]
    else:
        assert isinstance(story, Story)
        played = story.play()
        ledger, entries = played.ledger, played.ledger.entries
    for entry in entries:
        if entry.kind != "award" or "l" not in (entry.event or {}):
            continue
        gift = Given.by(ledger.rulebook, entry)
        sums = [0] * len(gift.lines)
        for share in gift.shares:
            assert sum(share.lines.values()) == share.points
            for i, points in share.lines.items():
                sums[i] += points
        assert sums == [row[3] for row in entry.event["l"]]


@settings(max_examples=80)
@given(
    PROGRAM_DOCUMENTS,
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4000)), min_size=1, max_size=4),
    PARTS,
    st.sampled_from(["per_line", "proportional", "recompute"]),
)
def test_refunds_in_any_parts_take_what_was_given_and_never_more(
    document: dict[str, Any],
    lines: list[tuple[int, int]],
    parts: list[tuple[int, int, int]],
    method: str,
) -> None:
    ledger = Ledger(document | {"refunds": {"method": method, "shortfall": "debt"}})
    ledger.enrol(NOW)
    event = bought(ledger, *lines)
    gift = Given.by(ledger.rulebook, event)
    given_points = gift.points + gift.referral
    entries = []
    whole = False
    for n, (line, quantity, amount) in enumerate(parts):
        body = piece(line, quantity=quantity) if n % 2 else piece(line, amount=amount)
        try:
            entries.append(ledger.reverse(NOW, event, f"r{n}", **body))
        except Refusal:
            continue  # more than is left of it, or no such line
        whole = entries[-1].event is None
        assert sum(-entry.lifetime for entry in entries) <= given_points
        assert all(entry.lifetime <= 0 for entry in entries)
    if not whole:
        entries.append(ledger.reverse(NOW, event, "rest"))
    assert sum(-entry.lifetime for entry in entries) == given_points
    with refused("more_than_bought"):
        ledger.reverse(NOW, event, "once more")
