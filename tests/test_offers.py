"""Cashpoint offers: a percentage back, as points worth that money, with a life of their own."""

from __future__ import annotations

from typing import Any

import pytest

from loyalty.model import Entry
from loyalty.projections import Explained, awarded
from loyalty.validation import Faults, parse
from tests.programs import smallest
from tests.strategies import DAY, HOUR, Ledger, instant, number

NOW = instant("2026-03-10T13:00", "Europe/Paris")


def offer(offer_id: str = "beans", **more: Any) -> dict[str, Any]:
    return {"offer_id": offer_id, "applies_to": {"categories": ["beans"]}, "percent": "5"} | more


def shop(*offers: dict[str, Any], groups: tuple[str, ...] = (), **more: Any) -> Ledger:
    """A program of these offers whose points are worth a cent, and a member of these groups."""
    ledger = Ledger(smallest(**{"point_value": "1", "offers": list(offers)} | more))
    ledger.enrol(NOW - HOUR, groups)
    return ledger


def line(amount: int, category: str | None = "beans", **more: Any) -> dict[str, Any]:
    named = {} if category is None else {"category_ids": [category]}
    return {"quantity": 1, "amount": amount} | named | more


def basket(ledger: Ledger, *lines: dict[str, Any], now: int = NOW, **more: Any) -> Entry:
    """A purchase of these lines; `more` stands beside it (channel)."""
    numbered = [one | {"line_id": str(i)} for i, one in enumerate(lines)]
    purchase = {"currency": ledger.program.currency, "lines": numbered}
    return ledger.award(now, {"type": "purchase", "purchase": purchase} | more)


def rows(ledger: Ledger, entry: Entry) -> dict[str | None, Explained]:
    return {
        row.get("offer_id", row.get("rule_id")): row
        for row in awarded(ledger.rulebook, entry)["explanation"]
    }


def why(ledger: Ledger, entry: Entry) -> str:
    return rows(ledger, entry)["beans"]["reason"]


# Percent


@pytest.mark.parametrize(
    ("percent", "value", "amount", "points"),
    [
        ("5", "1", 2_000, 100),
        ("5", "2", 2_000, 50),
        ("5", "0.5", 2_000, 200),
        ("12.5", "1", 999, 124),  # 124.875
        ("0.01", "1", 9_999, 0),
        ("0.01", "1", 10_000, 1),
        ("100", "1", 1_234, 1_234),
        ("7", "0.3", 100, 23),  # 7 cents are 23.33 points
        ("10", "0.333", 333, 100),  # 33.3 cents, exactly a hundred points
        (5, 3, 2_000, 33),
    ],
)
def test_percent_of_the_amount_comes_back_as_points_worth_it(
    percent: Any, value: Any, amount: int, points: int
) -> None:
    assert basket(shop(offer(percent=percent), point_value=value), line(amount)).points == points


@pytest.mark.parametrize(
    ("currency", "amount", "points"),
    [
        ("JPY", 1_999, 99),  # 5 % of 1,999 yen, a point is worth a yen
        ("KWD", 12_345, 617),  # 5 % of 12.345 dinars, a point is worth a fils
        ("EUR", 12_345, 617),
    ],
)
def test_amounts_are_minor_units_of_any_currency(currency: str, amount: int, points: int) -> None:
    assert basket(shop(offer(), currency=currency), line(amount)).points == points


def test_only_the_lines_it_applies_to_are_counted() -> None:
    applies: list[tuple[dict[str, Any], int]] = [
        ({"products": ["A"]}, 50),
        ({"categories": ["beans"]}, 150),
        ({"brands": ["acme"]}, 100),
        ({"categories": ["beans"], "brands": ["acme"]}, 100),
    ]
    for applies_to, points in applies:
        ledger = shop(offer(applies_to=applies_to))
        entry = basket(
            ledger,
            line(1_000, product_id="A"),
            line(2_000, brand_id="acme"),
            line(4_000, "tea"),
        )
        assert entry.points == points, applies_to


def test_its_points_lie_on_its_lines() -> None:
    entry = basket(shop(offer()), line(999), line(500, "tea"), line(1_001))
    assert entry.points == 100
    assert [row[3] for row in entry.event["l"]] == [50, 0, 50]


def test_discounted_lines_count_unless_it_says_otherwise() -> None:
    for excluded, points in ((False, 150), (True, 50)):
        ledger = shop(offer(exclude_discounted=excluded))
        assert basket(ledger, line(1_000), line(2_000, discounted=True)).points == points
    entry = basket(ledger, line(2_000, discounted=True))
    assert (entry.points, why(ledger, entry)) == (0, "no_matching_line")


def test_a_part_paid_with_points_earns_nothing() -> None:
    ledger = shop(offer())
    purchase = {
        "currency": "EUR",
        "lines": [line(2_000) | {"line_id": "1"}],
        "paid_with_points": 500,
    }
    assert ledger.award(NOW, {"type": "purchase", "purchase": purchase}).points == 75


def test_offers_add_to_rules_and_to_each_other() -> None:
    rule = {"rule_id": "base", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}
    ledger = shop(offer(), offer("more", percent="2"), rules=[rule])
    entry = basket(ledger, line(1_000), line(1_000, "tea"))
    assert {name: row["points"] for name, row in rows(ledger, entry).items()} == {
        "base": 20, "beans": 50, "more": 20,
    }  # fmt: skip


def test_an_exclusive_or_a_last_rule_leaves_offers_in_force() -> None:
    for stacking in ("exclusive", "last"):
        rule = {
            "rule_id": "base",
            "trigger": "purchase",
            "stacking": stacking,
            "earn": {"points": 7},
        }
        assert basket(shop(offer(), rules=[rule]), line(1_000)).points == 57


def test_an_offer_is_for_purchases_only() -> None:
    ledger = shop(offer())
    entry = ledger.award(NOW, {"type": "review"})
    assert (entry.points, awarded(ledger.rulebook, entry)["explanation"]) == (0, [])


def test_a_program_with_offers_says_what_a_point_is_worth() -> None:
    for value in (None, "0"):
        document = smallest(offers=[offer()])
        with pytest.raises(Faults):
            parse(document if value is None else document | {"point_value": value})


@pytest.mark.parametrize("percent", ["0", "-5", "100.01", 5.5, "5%"])
def test_percent_is_more_than_0_and_at_most_100(percent: Any) -> None:
    with pytest.raises(Faults):
        parse(smallest(offers=[offer(percent=percent)], point_value="1"))


# Life


@pytest.mark.parametrize(
    ("validity", "expires_on"),
    [
        ("P10D", "2026-03-20"),
        ("P2W", "2026-03-24"),
        ("P6M", "2026-09-10"),
        ("P1Y", "2027-03-10"),
    ],
)
def test_its_points_live_as_long_as_it_says(validity: str, expires_on: str) -> None:
    rule = {"rule_id": "base", "trigger": "purchase", "earn": {"points": 3}}
    ledger = shop(
        offer(validity=validity),
        rules=[rule],
        expiry=[{"after": "P2Y", "round_up_to": "year"}],
    )
    entry = basket(ledger, line(1_000))
    assert awarded(ledger.rulebook, entry)["lots"] == [
        {"points": 50, "expires_on": expires_on},
        {"points": 3, "expires_on": "2029-01-01"},
    ]
    assert ledger.account
    assert ledger.account.lots[0] == (number(expires_on), 50)
    assert rows(ledger, entry)["beans"]["expires_on"] == expires_on


def test_months_end_where_the_month_ends() -> None:
    ledger = shop(offer(validity="P1M"))
    entry = basket(ledger, line(1_000), now=instant("2027-01-31T12:00", "Europe/Paris"))
    assert awarded(ledger.rulebook, entry)["lots"] == [{"points": 50, "expires_on": "2027-02-28"}]


def test_without_a_validity_the_programs_expiry_counts() -> None:
    ledger = shop(offer(), expiry=[{"after": "P12M", "round_up_to": "month"}])
    lots = awarded(ledger.rulebook, basket(ledger, line(1_000)))["lots"]
    assert lots == [{"points": 50, "expires_on": "2027-04-01"}]
    forever = shop(offer())
    lots = awarded(forever.rulebook, basket(forever, line(1_000)))["lots"]
    assert lots == [{"points": 50, "expires_on": None}]


def test_its_clock_starts_when_its_points_become_available() -> None:
    ledger = shop(offer(validity="P10D"), pending={"purchase": "P14D"})
    lots = awarded(ledger.rulebook, basket(ledger, line(1_000)))["lots"]
    assert lots == [
        {"points": 50, "available_on": "2026-03-24", "expires_on": "2026-04-03"},
    ]


# For whom, where, when


def test_it_is_for_its_groups() -> None:
    for groups, points in (((), 0), (("other",), 0), (("retail",), 50), (("x", "staff"), 50)):
        ledger = shop(offer(groups=["retail", "staff"]), groups=groups)
        entry = basket(ledger, line(1_000))
        assert (entry.points, why(ledger, entry)) == (points, "granted" if points else "group")


def test_it_is_for_its_channels() -> None:
    ledger = shop(offer(channels=["web", "app"]))
    for channel, points in (("web", 50), ("app", 50), ("store", 0)):
        assert basket(ledger, line(1_000), channel=channel).points == points
    entry = basket(ledger, line(1_000))
    assert (entry.points, why(ledger, entry)) == (0, "channel")


def test_it_runs_from_its_first_local_day_through_its_last() -> None:
    ledger = shop(offer(**{"from": "2026-03-15", "until": "2026-03-28"}))
    for moment, reason in (
        ("2026-03-14T23:59", "not_started"),
        ("2026-03-15T00:00", "granted"),
        ("2026-03-28T23:59", "granted"),
        ("2026-03-29T00:00", "ended"),
    ):
        entry = basket(ledger, line(1_000), now=instant(moment, "Europe/Paris"))
        assert (why(ledger, entry), entry.points) == (reason, 50 if reason == "granted" else 0)


def test_the_day_of_the_event_decides_not_that_of_its_arrival() -> None:
    ledger = shop(offer(until="2026-03-10"))
    late = basket(ledger, line(1_000), now=NOW + 5 * DAY, occurred_at="2026-03-10T22:59:00Z")
    assert late.points == 50
    assert basket(ledger, line(1_000), now=NOW + 5 * DAY).points == 0


def test_one_that_is_not_active_gives_nothing() -> None:
    ledger = shop(offer(active=False))
    entry = basket(ledger, line(1_000))
    assert (entry.points, why(ledger, entry)) == (0, "inactive")


# Multipliers


def test_campaigns_multiply_offers_and_tiers_do_not() -> None:
    rule = {"rule_id": "base", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}
    ledger = shop(
        offer(),
        rules=[rule],
        tiers={"levels": [{"tier_id": "gold", "at": 0, "multiplier": "2"}]},
        campaigns=[{"campaign_id": "spring", "multiplier": "3"}],
    )
    entry = basket(ledger, line(1_000))
    shown = rows(ledger, entry)
    assert (shown["base"]["points"], shown["beans"]["points"]) == (60, 150)
    assert [factor["kind"] for factor in shown["beans"]["factors"]] == ["campaign"]
    assert [factor["kind"] for factor in shown["base"]["factors"]] == ["campaign", "tier"]


def test_a_campaign_multiplies_only_the_lines_it_matches() -> None:
    ledger = shop(
        offer(),
        campaigns=[{"campaign_id": "acme", "multiplier": "2", "match": {"brands": ["acme"]}}],
    )
    assert basket(ledger, line(1_000), line(1_000, brand_id="acme")).points == 50 + 100


def test_line_multipliers_touch_what_lines_earn_by_offers_too() -> None:
    double = {
        "rule_id": "double",
        "trigger": "purchase",
        "match": {"products": ["A"]},
        "earn": {"multiply": "2"},
    }
    ledger = shop(offer(), rules=[double])
    entry = basket(ledger, line(1_000, product_id="A"), line(1_000))
    assert entry.points == 150


def test_the_programs_limits_cap_offers() -> None:
    ledger = shop(offer(), limits=[{"points": 80, "per": "day"}])
    assert basket(ledger, line(1_000)).points == 50
    entry = basket(ledger, line(1_000))
    assert (entry.points, rows(ledger, entry)["beans"]["desired_points"]) == (30, 50)
