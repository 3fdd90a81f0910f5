"""The naive ledger does what the product promises: by example, a sentence each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from reference import READINGS, Model, largest_remainder, plus, round_up

type Fields = dict[str, Any]

BASE: Fields = {
    "program_id": "beans",
    "name": "Beans & Co",
    "currency": "EUR",
    "time_zone": "Europe/Paris",
    "point_value": "1",
    "rules": [{"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}],
}


def at(text: str) -> int:
    """Milliseconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NOON = at("2026-03-10T12:00")


def line(amount: int, line_id: str = "1", quantity: int = 1, **fields: Any) -> Fields:
    return {"line_id": line_id, "quantity": quantity, "amount": amount, **fields}


class Shop:
    """A model with a clock that stands where it is set, and member `ann`."""

    def __init__(self, readings: Fields | None = None, **fields: Any) -> None:
        self.model = Model({**BASE, **fields}, readings=readings)
        self.now = NOON
        self.count = 0
        self.do("enrol", member_id="ann", own_code="ANN")

    def do(self, kind: str, **fields: Any) -> Fields:
        return self.model.do({"kind": kind, **fields}, self.now)

    def enrol(self, member_id: str, **fields: Any) -> Fields:
        return self.do("enrol", member_id=member_id, own_code=member_id.upper(), **fields)

    def buy(self, *lines: Fields | int, member_id: str = "ann", **fields: Any) -> Fields:
        self.count += 1
        event = {"event_id": f"e{self.count}", "type": "purchase", "member_id": member_id}
        purchase = {
            "currency": "EUR",
            "lines": [
                one if isinstance(one, dict) else line(one, str(i + 1))
                for i, one in enumerate(lines)
            ],
        }
        for name in ("tax", "shipping", "paid_with_points", "redemption_ids"):
            if name in fields:
                purchase[name] = fields.pop(name)
        return self.do("award", **{**event, "purchase": purchase, **fields})

    def happens(self, kind: str, **fields: Any) -> Fields:
        self.count += 1
        event = {"event_id": f"e{self.count}", "type": kind, "member_id": "ann"}
        return self.do("award", **{**event, **fields})

    def give(self, points: int, expires_on: str | None = None, member_id: str = "ann") -> Fields:
        self.count += 1
        fields: Fields = {"key": f"a{self.count}", "member_id": member_id, "by": "sam"}
        if expires_on:
            fields["expires_on"] = expires_on
        return self.do("adjust", points=points, reason_code="test", **fields)

    def spend(self, points: int, key: str = "x", **fields: Any) -> Fields:
        return self.do("redeem", key=key, member_id="ann", points=points, **fields)

    def refund(self, event_id: str = "e1", refund_id: str = "r1", **fields: Any) -> Fields:
        return self.do("reversal", event_id=event_id, refund_id=refund_id, **fields)

    def ann(self) -> Fields:
        return self.model.view("ann", self.now)


def rule(rule_id: str, earn: Fields, **fields: Any) -> Fields:
    return {"rule_id": rule_id, "trigger": "purchase", "earn": earn, **fields}


EURO = rule("buy", {"points": 1, "per_amount": 100})


# --- looking back ---


def test_the_history_tells_what_was_done_and_what_was_lost_between() -> None:
    shop = Shop(expiry=[{"after": "P1M"}])
    shop.buy(700)
    shop.spend(2)
    shop.now = at("2026-05-01T12:00")
    shop.do("block", member_id="ann")
    shop.do("block", member_id="ann")
    assert shop.model.history("ann") == [
        ["enrol", 0, 0],
        ["award", 7, 7],
        ["redeem", -2, 5],
        ["expire", -5, 0],
        ["block", 0, 0],
    ]


def test_a_balance_in_the_past_is_that_of_the_last_command_until_then() -> None:
    shop = Shop(expiry=[{"after": "P1M"}])
    shop.buy(700)
    bought = shop.now
    shop.now += 1
    shop.spend(2)
    shop.enrol("bob")
    shop.now += 1
    shop.do("merge", key="m", member_id="ann", into_member_id="bob")
    assert [
        (shop.model.view_as_of(name, then) or {}).get("available")
        for name, then in [
            ("ann", bought),
            ("ann", bought + 1),
            ("ann", shop.now),
            ("bob", bought),
            ("bob", bought + 1),
            ("ann", at("2026-04-10T12:00")),
        ]
    ] == [7, 5, 5, None, 0, 0]


# --- arithmetic ---


def test_a_month_after_31_january_is_the_last_day_of_february() -> None:
    assert str(plus(datetime(2026, 1, 31, tzinfo=UTC).date(), "P1M")) == "2026-02-28"


def test_rounding_up_moves_to_the_first_day_after_the_period() -> None:
    day = datetime(2026, 1, 15, tzinfo=UTC).date()
    assert [str(round_up(day, p)) for p in ("day", "week", "month", "quarter", "year")] == [
        "2026-01-15",
        "2026-01-19",
        "2026-02-01",
        "2026-04-01",
        "2027-01-01",
    ]


def test_shares_sum_to_the_whole_and_ties_go_by_order() -> None:
    assert largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert largest_remainder(3, [0, 0]) == [2, 1]


# --- earning ---


def test_points_are_rounded_once_over_all_lines() -> None:
    assert Shop().buy(150, 150)["points"] == 3


@pytest.mark.parametrize(("mode", "points"), [("floor", 1), ("half_up", 2), ("ceil", 2)])
def test_rounding_modes(mode: str, points: int) -> None:
    assert Shop(rounding={"mode": mode}).buy(150)["points"] == points


def test_rounding_by_line_rounds_each_line() -> None:
    assert Shop(rounding={"scope": "line"}).buy(150, 150)["points"] == 2


def test_whole_blocks_are_counted_on_the_sum_of_the_lines() -> None:
    rules = [rule("buy", {"points": 10, "per_amount": 200, "blocks": "whole"})]
    assert Shop(rules=rules).buy(150, 150)["points"] == 10


def test_quantities_and_lines_earn() -> None:
    rules = [
        rule("q", {"points": 2, "per_quantity": 2}),
        rule("l", {"points": 5, "per_line": 1}, match={"brands": ["acme"]}),
    ]
    answer = Shop(rules=rules).buy(line(9, "1", 3), line(9, "2", 2, brand_id="acme"))
    assert [row["points"] for row in answer["explanation"]] == [4, 5]


def test_tax_counts_only_where_the_program_says_so() -> None:
    assert Shop().buy(1000, tax=200)["points"] == 10
    assert Shop(earning_base={"tax": "include"}).buy(1000, tax=200)["points"] == 12


def test_what_was_paid_with_points_earns_nothing() -> None:
    assert Shop().buy(1000, paid_with_points=400)["points"] == 6


def test_a_minimum_is_of_the_whole_base_and_inclusive() -> None:
    rules = [rule("big", {"points": 50}, when={"min_amount": 500})]
    assert Shop(rules=rules).buy(200, 300)["points"] == 50
    assert Shop(rules=rules).buy(200, 299)["points"] == 0


def test_excluded_lines_earn_nothing() -> None:
    rules = [{**EURO, "match": {"exclude": {"products": ["GIFT-CARD"]}}}]
    assert (
        Shop(rules=rules).buy(line(500, "1", product_id="GIFT-CARD"), line(300, "2"))["points"] == 3
    )


def test_hours_may_pass_midnight() -> None:
    shop = Shop(rules=[rule("night", {"points": 1}, when={"hours": ["22:00-02:00"]})])
    shop.now = at("2026-03-11T00:30")  # 01:30 in Paris
    assert shop.buy(1)["points"] == 1
    shop.now = at("2026-03-11T01:00")
    assert shop.buy(1)["points"] == 0


def test_until_a_date_includes_that_day_and_with_a_time_that_minute() -> None:
    shop = Shop(rules=[rule("a", {"points": 1}, when={"until": "2026-03-10"})])
    shop.now = at("2026-03-10T22:59")
    assert shop.buy(1)["points"] == 1
    shop.now = at("2026-03-10T23:00")
    assert shop.buy(1)["points"] == 0
    shop = Shop(rules=[rule("a", {"points": 1}, when={"until": "2026-03-10T13:00"})])
    assert shop.buy(1)["points"] == 1


def test_an_attribute_is_compared() -> None:
    when = {"attributes": [{"name": "rating", "op": ">=", "value": 4}]}
    shop = Shop(rules=[{"rule_id": "r", "trigger": "review", "earn": {"points": 7}, "when": when}])
    assert shop.happens("review", attributes={"rating": 4})["points"] == 7
    assert shop.happens("review", attributes={"rating": 3})["points"] == 0


def test_only_the_exclusive_rule_counts_and_multipliers_of_lines_stay() -> None:
    rules = [
        EURO,
        rule("only", {"points": 3, "per_amount": 100}, stacking="exclusive"),
        rule("twice", {"multiply": "2"}),
    ]
    assert Shop(rules=rules).buy(500)["points"] == 30


def test_rules_after_the_last_are_not_evaluated() -> None:
    rules = [EURO, rule("first", {"points": 5}, stacking="last", priority=1)]
    assert Shop(rules=rules).buy(500)["points"] == 5


def test_the_most_specific_line_multiplier_counts() -> None:
    rules = [
        EURO,
        rule("b", {"multiply": "5"}, match={"brands": ["acme"]}),
        rule("p", {"multiply": "2"}, match={"products": ["x"]}),
    ]
    assert Shop(rules=rules).buy(line(100, "1", brand_id="acme", product_id="x"))["points"] == 2


TWO = [{"tier_id": "base", "name": "Base", "at": 0, "multiplier": "2"}]
THREE = [{"campaign_id": "c", "name": "C", "multiplier": "3"}]


@pytest.mark.parametrize(("how", "points"), [("multiply", 60), ("add", 40), ("best", 30)])
def test_factors_combine_as_the_program_says(how: str, points: int) -> None:
    shop = Shop(tiers={"levels": TWO}, campaigns=THREE, multipliers={"combine": how})
    assert shop.buy(1000)["points"] == points


def test_a_ceiling_holds_the_combined_factor() -> None:
    shop = Shop(tiers={"levels": TWO}, campaigns=THREE, multipliers={"max": "5"})
    assert shop.buy(1000)["points"] == 50


def test_campaigns_multiply_offers_and_tiers_do_not() -> None:
    offer = {"offer_id": "o", "name": "O", "applies_to": {"categories": ["tea"]}, "percent": "5"}
    shop = Shop(tiers={"levels": TWO}, campaigns=THREE, rules=[], offers=[offer])
    assert shop.buy(line(1000, "1", category_ids=["tea"]))["points"] == 150


def test_a_campaign_stops_at_its_budget() -> None:
    shop = Shop(campaigns=[{**THREE[0], "budget": {"points": 30}}])
    assert [shop.buy(1000)["points"] for _ in range(3)] == [30, 20, 10]


def test_frequency_counts_calendar_windows() -> None:
    rules = [rule("a", {"points": 4}, frequency=[{"times": 1, "per": "week"}])]
    shop = Shop(rules=rules)
    assert [shop.buy(1)["points"], shop.buy(1)["points"]] == [4, 0]
    shop.now = at("2026-03-15T23:00")  # Monday in Paris
    assert shop.buy(1)["points"] == 4


def test_a_cap_grants_what_is_left_and_says_what_was_desired() -> None:
    shop = Shop(limits=[{"points": 15, "per": "day"}])
    assert shop.buy(1000)["points"] == 10
    answer = shop.buy(1000)
    assert (answer["points"], answer["desired_points"]) == (5, 10)
    assert answer["limited_by"]


def test_a_refusing_limit_grants_nothing_over_it() -> None:
    rules = [{**EURO, "limits": [{"points": 15, "per": "week", "over": "refuse"}]}]
    shop = Shop(rules=rules)
    assert [shop.buy(1000)["points"], shop.buy(1000)["points"]] == [10, 0]


def test_a_cap_over_several_rules_cuts_in_proportion() -> None:
    rules = [EURO, rule("more", {"points": 30})]
    answer = Shop(rules=rules, limits=[{"points": 20, "per": "transaction"}]).buy(1000)
    assert [row["points"] for row in answer["explanation"]] == [5, 15]


def test_refunds_give_room_back_in_budgets_and_not_in_limits() -> None:
    shop = Shop(budget={"points": 10})
    assert shop.buy(1000)["points"] == 10
    shop.refund()
    assert shop.buy(1000)["points"] == 10
    shop = Shop(limits=[{"points": 10, "per": "day"}])
    shop.buy(1000)
    shop.refund()
    assert shop.buy(1000)["points"] == 0


def test_late_and_future_events_are_refused() -> None:
    shop = Shop(max_lateness="P30D")
    assert shop.buy(100, occurred_at=NOON - 31 * 86_400_000)["code"] == "event_too_late"
    assert shop.buy(100, occurred_at=NOON + 300_001)["code"] == "event_in_future"
    assert shop.buy(100, occurred_at=NOON + 300_000)["ok"]


def test_the_first_purchase_is_paid_once() -> None:
    rules = [{"rule_id": "f", "trigger": "first_purchase", "earn": {"points": 9}}]
    shop = Shop(rules=rules)
    assert [shop.buy(1)["points"], shop.buy(1)["points"]] == [9, 0]


def test_a_repeat_gets_the_first_answer_and_another_body_none() -> None:
    shop = Shop()
    first = shop.buy(1000)
    again = shop.buy(1000, event_id="e1")
    assert again == {**first, "replayed": True}
    assert shop.buy(2000, event_id="e1")["code"] == "idempotency_key_reused"
    assert shop.ann()["available"] == 10


# --- members ---


def test_a_referral_pays_both_and_its_refund_takes_both() -> None:
    referral = {"referrer_points": 20, "referred_points": 10, "award_on": "first_purchase"}
    shop = Shop(rules=[], referral={**referral, "min_amount": 1000})
    shop.enrol("bob", referral_code="ANN")
    shop.buy(999, member_id="bob")
    assert shop.ann()["available"] == 0
    assert shop.buy(1000, member_id="bob")["points"] == 10
    assert shop.ann()["available"] == 20
    shop.refund("e2")
    assert (shop.ann()["available"], shop.model.view("bob", shop.now)["available"]) == (0, 0)


def test_nobody_refers_themselves_by_a_variant_of_the_address() -> None:
    shop = Shop(referral={"referrer_points": 1, "award_on": "registration"})
    shop.enrol("bob", email="bob.smith@mail.com")
    answer = shop.enrol("rob", email="BobSmith+x@mail.com", referral_code="BOB")
    assert answer["code"] == "self_referral"


def test_a_birthday_is_caught_up_and_paid_once_a_year() -> None:
    rules = [{"rule_id": "b", "trigger": "birthday", "earn": {"points": 5}}]
    shop = Shop(rules=rules)
    shop.enrol("leap", birthday="1992-02-29")
    shop.now = at("2027-03-02T12:00")
    assert shop.do("sweep")["paid"] == 5
    shop.do("set_birthday", member_id="leap", birthday="1992-03-01")
    assert shop.do("sweep")["paid"] == 0


def test_a_check_in_that_earns_nothing_leaves_nothing() -> None:
    place = {"location_id": "marais", "check_in": {"kinds": ["static"]}}
    shop = Shop(rules=[], locations=[place])
    before = shop.ann()
    assert shop.do("check_in", member_id="ann", location_id="marais")["code"] == "nothing_earned"
    assert shop.ann() == before


def test_check_ins_keep_limits_cooldown_and_hours() -> None:
    setting = {
        "kinds": ["static"],
        "limits": [{"times": 2, "per": "day"}],
        "cooldown": "PT1H",
        "opening_hours": {"mon-fri": ["07:00-19:00"]},
    }
    rules = [{"rule_id": "c", "trigger": "check_in", "earn": {"points": 1}}]
    shop = Shop(rules=rules, locations=[{"location_id": "m", "check_in": setting}])
    scan = {"member_id": "ann", "location_id": "m"}
    assert shop.do("check_in", **scan)["next_allowed_at"] == NOON + 3_600_000
    assert shop.do("check_in", **scan)["code"] == "limit_reached"
    shop.now += 3_600_000
    assert shop.do("check_in", **scan)["points"] == 1
    shop.now += 3_600_000
    refused = shop.do("check_in", **scan)
    assert (refused["code"], refused["next_allowed_at"]) == (
        "limit_reached",
        at("2026-03-10T23:00"),
    )
    shop.now = at("2026-03-11T18:00")
    assert shop.do("check_in", **scan)["code"] == "location_closed"


# --- lots ---


def test_a_lot_is_gone_at_midnight_of_its_date_without_any_sweep() -> None:
    shop = Shop(expiry=[{"after": "P1M"}])
    assert shop.buy(1000)["lots"] == [{"points": 10, "expires_on": "2026-04-10"}]
    shop.now = at("2026-04-09T21:59")
    assert shop.ann()["available"] == 10
    shop.now = at("2026-04-09T22:00")
    assert shop.ann()["available"] == 0


def test_pending_points_start_their_clock_when_they_are_available() -> None:
    shop = Shop(pending={"purchase": "P14D"}, expiry=[{"after": "P1M"}])
    assert shop.buy(1000)["pending_points"] == 10
    assert shop.ann()["pending_lots"] == [["2026-03-24", "2026-04-24", 10]]
    shop.now = at("2026-03-23T23:00")
    assert shop.ann()["available"] == 10


def test_the_earliest_of_several_policies_counts() -> None:
    policies = [{"after": "P12M"}, {"dates": ["06-30", "12-31"]}]
    assert Shop(expiry=policies).buy(100)["lots"][0]["expires_on"] == "2026-06-30"
    policies = [{"dates": ["06-30", "12-31"], "older_than": "P6M"}]
    assert Shop(expiry=policies).buy(100)["lots"][0]["expires_on"] == "2026-12-31"


def test_inactivity_takes_everything_and_activity_puts_it_off() -> None:
    shop = Shop(expiry=[{"inactive_for": "P30D"}, {"after": "P12M"}])
    shop.buy(1000)
    shop.now = at("2026-04-01T12:00")
    shop.buy(100)
    assert shop.ann()["expiring"] == [{"points": 11, "expires_on": "2026-05-01"}]
    shop.now = at("2026-04-30T22:00")
    assert shop.ann()["available"] == 0


def test_spending_takes_the_earliest_expiry_first_and_never_expiring_last() -> None:
    shop = Shop()
    shop.give(5)
    shop.give(5, "2026-06-01")
    shop.give(5, "2026-05-01")
    shop.spend(7)
    assert shop.ann()["lots"] == [["2026-06-01", 3], [None, 5]]


# --- spending ---


def test_too_few_points_say_how_many_are_missing() -> None:
    shop = Shop()
    shop.give(57)
    refused = shop.spend(100)
    assert (refused["code"], refused["missing_points"]) == ("insufficient_points", 43)


def test_held_points_do_not_expire_and_go_when_they_come_back_too_late() -> None:
    shop = Shop(holds={"max_duration": "P5D"})
    shop.give(10, "2026-03-12")
    shop.spend(10, hold=True)
    shop.now = at("2026-03-13T12:00")
    assert shop.ann()["held"] == 10
    shop.do("cancel", redemption_id="x")
    assert (shop.ann()["held"], shop.ann()["available"]) == (0, 0)


def test_a_hold_ends_by_itself() -> None:
    shop = Shop()
    shop.give(10)
    shop.spend(10, hold=True)
    shop.now += 1_800_000
    assert shop.ann()["available"] == 10
    assert shop.do("capture", redemption_id="x")["redemption_status"] == "lapsed"


REWARD = {"reward_id": "r", "kind": "product", "name": "R", "cost": {"default": 5, "gold": 4}}


def test_a_reward_has_stock_limits_and_costs_by_tier() -> None:
    levels = [
        {"tier_id": "base", "name": "Base", "at": 0},
        {"tier_id": "gold", "name": "Gold", "at": 9},
    ]
    reward = {**REWARD, "stock": 2, "limits": [{"times": 2, "per": "day"}]}
    shop = Shop(rewards=[reward], tiers={"levels": levels})
    shop.give(50)
    redeem = {"member_id": "ann", "reward_id": "r"}
    assert shop.do("redeem", key="1", **redeem)["points"] == 5
    shop.do("set_tier", member_id="ann", tier_id="gold", until="2026-04-01")
    assert shop.do("redeem", key="2", **redeem)["points"] == 4
    refused = shop.do("redeem", key="3", **redeem)
    assert refused["next_allowed_at"] == at("2026-03-10T23:00")
    shop.now = at("2026-03-11T12:00")
    assert shop.do("redeem", key="3", **redeem)["code"] == "out_of_stock"
    shop.do("cancel", redemption_id="1")
    assert shop.do("redeem", key="3", **redeem)["ok"]


def test_a_voucher_is_used_once_within_its_days() -> None:
    shop = Shop(rewards=[{**REWARD, "voucher_validity": "P30D"}])
    shop.give(10)
    for key in ("1", "2"):
        answer = shop.do("redeem", key=key, member_id="ann", reward_id="r")
        assert answer["voucher"]["expires_on"] == "2026-04-09"
    assert shop.do("use_voucher", key="1")["ok"]
    assert shop.do("use_voucher", key="1")["code"] == "voucher_used"
    shop.now = at("2026-04-08T22:00")
    assert shop.do("use_voucher", key="2")["code"] == "voucher_expired"


def test_points_pay_in_steps_from_a_minimum_up_to_a_share() -> None:
    payment = {"points": 100, "amount": 100, "min_points": 20, "step": 10, "max_share": "0.5"}
    shop = Shop(points_payment=payment)
    shop.give(500)
    order = {"order_id": "o", "amount": 100, "currency": "EUR"}
    for points in (10, 25, 60):
        assert shop.spend(points, order=order)["code"] == "payment_refused"
    assert shop.spend(50, order=order)["discount"] == {"amount": 50, "currency": "EUR"}


def test_a_blocked_member_earns_but_cannot_spend() -> None:
    shop = Shop()
    shop.do("block", member_id="ann")
    assert shop.buy(1000)["points"] == 10
    assert shop.spend(5)["code"] == "member_blocked"


# --- transfers ---


def test_a_transfer_keeps_dates_and_waits_for_fresh_points() -> None:
    setting = {"enabled": True, "min_points": 2, "fresh_points_wait": "P3D"}
    shop = Shop(transfers={**setting, "limits": [{"points": 8, "per": "day"}]})
    shop.enrol("bob")
    shop.give(10, "2026-06-01")
    send = {"from_member_id": "ann", "to_member_id": "bob"}
    assert shop.do("transfer", key="1", points=5, **send)["missing_points"] == 5
    shop.now = at("2026-03-13T12:00")
    assert shop.do("transfer", key="1", points=1, **send)["code"] == "transfer_refused"
    sent = shop.do("transfer", key="1", points=5, **send)
    assert sent["balances"] == {"ann": 5, "bob": 5}
    assert shop.model.view("bob", shop.now)["lots"] == [["2026-06-01", 5]]
    assert shop.do("transfer", key="2", points=5, **send)["next_allowed_at"] == at(
        "2026-03-13T23:00"
    )


# --- taking back ---


def test_a_refund_takes_the_floor_of_the_share_and_the_last_the_rest() -> None:
    shop = Shop()
    shop.buy(line(1000, "1", 3))
    taken = [
        shop.refund("e1", f"r{i}", lines=[{"line_id": "1", "quantity": 1}])["points"]
        for i in range(3)
    ]
    assert taken == [3, 3, 4]
    assert shop.refund("e1", "r4")["code"] == "more_than_bought"


def test_fixed_points_stay_while_the_threshold_is_still_reached() -> None:
    shop = Shop(rules=[rule("big", {"points": 50}, when={"min_amount": 500})])
    shop.buy(400, 300, 100)
    assert shop.refund("e1", "r1", lines=[{"line_id": "2"}])["points"] == 0
    assert shop.refund("e1", "r2", lines=[{"line_id": "3"}])["points"] == 50


def test_a_refund_by_amount_is_spread_over_what_is_left() -> None:
    shop = Shop()
    shop.buy(1000, 500)
    assert shop.refund("e1", "r1", amount=300)["points"] == 3
    assert shop.refund("e1", "r2", amount=1201)["code"] == "more_than_bought"
    assert shop.refund("e1", "r2", amount=1200)["points"] == 12


def test_proportional_refunds_ignore_the_lines() -> None:
    rules = [rule("one", {"points": 10, "per_line": 1}, match={"products": ["a"]})]
    shop = Shop(rules=rules, refunds={"method": "proportional"})
    shop.buy(line(100, "1", product_id="a"), line(100, "2"))
    assert shop.refund("e1", "r1", lines=[{"line_id": "2"}])["points"] == 5


def test_recomputing_awards_the_remainder_anew() -> None:
    rules = [rule("buy", {"points": 10, "per_amount": 200, "blocks": "whole"})]
    shop = Shop(rules=rules, refunds={"method": "recompute"})
    shop.buy(300, 200)
    assert shop.refund("e1", "r1", lines=[{"line_id": "2"}])["points"] == 10


@pytest.mark.parametrize(
    ("shortfall", "points", "available", "owed"),
    [("other_lots", 10, 3, 0), ("clamp", 2, 11, 0), ("debt", 10, 3, 0)],
)
def test_a_shortfall_is_taken_elsewhere_or_forgiven(
    shortfall: str, points: int, available: int, owed: int
) -> None:
    shop = Shop(refunds={"shortfall": shortfall}, expiry=[{"after": "P1M"}])
    shop.buy(1000)
    shop.spend(8)
    shop.give(11, "2026-09-01")
    assert shop.refund()["points"] == points
    assert (shop.ann()["available"], shop.ann()["debt"]) == (available, owed)


def test_new_credits_pay_debt_first() -> None:
    shop = Shop(refunds={"shortfall": "debt"})
    shop.buy(1000)
    shop.spend(8)
    assert shop.refund()["balance"] == -8
    assert shop.buy(1000)["balance"] == 2
    assert shop.ann()["debt"] == 0


def test_what_had_expired_is_not_taken_twice() -> None:
    shop = Shop(refunds={"shortfall": "debt"}, expiry=[{"after": "P1M"}])
    shop.buy(1000)
    shop.now = at("2026-05-01T12:00")
    answer = shop.refund()
    assert (answer["points"], answer["expired_points"], answer["balance"]) == (0, 10, 0)


def test_a_refund_before_its_purchase_waits_for_it() -> None:
    shop = Shop()
    assert shop.refund("e1")["status"] == "waiting"
    answer = shop.buy(1000)
    assert (answer["points"], answer["reversed_points"], answer["balance"]) == (10, 10, 0)


def test_points_that_paid_come_back_with_their_old_dates() -> None:
    shop = Shop(rules=[])
    shop.give(10, "2026-06-01")
    shop.spend(10)
    shop.buy(100, 100, redemption_ids=["x"])
    assert shop.refund("e2", "r1", lines=[{"line_id": "1"}])["restored_points"] == 5
    assert shop.refund("e2", "r2")["restored_points"] == 5
    assert shop.ann()["lots"] == [["2026-06-01", 10]]
    assert shop.do("cancel", redemption_id="x")["code"] == "redemption_restored"


# --- tiers ---


LEVELS = [
    {"tier_id": "bronze", "name": "Bronze", "at": 0},
    {"tier_id": "silver", "name": "Silver", "at": 5, "multiplier": "1"},
    {"tier_id": "gold", "name": "Gold", "at": 10, "multiplier": "2"},
]


def tiers(window: Fields | str, steps: str, grace: str = "P0D") -> Fields:
    return {"window": window, "downgrade": {"steps": steps, "grace": grace}, "levels": LEVELS}


def test_an_upgrade_is_at_once_and_after_the_event() -> None:
    shop = Shop(tiers=tiers("lifetime", "none"))
    assert shop.buy(1000)["points"] == 10
    assert shop.ann()["tier"]["id"] == "gold"
    assert shop.buy(1000)["points"] == 20


def test_a_tier_tells_what_is_missing_to_the_next_and_until_when_it_is_kept() -> None:
    shop = Shop(tiers=tiers({"calendar": "year"}, "one", "P30D"))
    shop.buy(500)
    assert shop.ann()["tier"] == {
        "id": "silver",
        "name": "Silver",
        "multiplier": "1",
        "next_tier": "gold",
        "points_to_next": 5,
        "until": "2028-01-31",
    }
    shop.do("set_tier", member_id="ann", tier_id="gold", until="2026-05-01")
    assert shop.ann()["tier"]["until"] == "2026-05-01"
    assert "next_tier" not in shop.ann()["tier"]


def test_limits_that_cut_an_award_are_told() -> None:
    shop = Shop(rules=[{**EURO, "limits": [{"points": 3, "per": "day"}]}])
    assert shop.buy(500)["limited_by"] == [
        {"limit": "buy:day", "points": 3, "over": "cap", "refuses": False}
    ]


def test_spending_never_lowers_qualifying_points_and_refunds_do() -> None:
    shop = Shop(tiers=tiers("lifetime", "none"))
    shop.buy(1000)
    shop.spend(10)
    assert shop.ann()["qualifying_points"] == 10
    shop.refund(amount=500)
    assert (shop.ann()["qualifying_points"], shop.ann()["lifetime_points"]) == (5, 5)


@pytest.mark.parametrize(
    ("steps", "tier"), [("none", "gold"), ("one", "silver"), ("full", "bronze")]
)
def test_a_calendar_year_without_points_ends_in_a_downgrade(steps: str, tier: str) -> None:
    shop = Shop(tiers=tiers({"calendar": "year"}, steps, "P30D"))
    shop.buy(1000)
    shop.now = at("2028-01-30T12:00")
    assert shop.ann()["tier"]["id"] == "gold"
    shop.now = at("2028-01-31T12:00")
    assert shop.ann()["tier"]["id"] == tier


def test_a_rolling_window_lets_days_out_and_grace_puts_the_step_off() -> None:
    shop = Shop(tiers=tiers({"rolling": "P30D"}, "full", "P10D"))
    shop.buy(1000)
    shop.now = at("2026-04-09T12:00")
    assert shop.ann()["qualifying_points"] == 0
    shop.now = at("2026-04-18T12:00")
    assert shop.ann()["tier"]["id"] == "gold"
    shop.now = at("2026-04-19T12:00")
    assert shop.ann()["tier"]["id"] == "bronze"


def test_a_month_of_a_long_window_counts_until_its_last_day_has_left() -> None:
    shop = Shop(tiers=tiers({"rolling": "P365D"}, "full"))
    shop.buy(1000)
    shop.now = at("2027-03-30T12:00")
    assert shop.ann()["qualifying_points"] == 10
    shop.now = at("2027-03-31T12:00")
    assert shop.ann()["qualifying_points"] == 0


# --- staff ---


def test_large_adjustments_need_a_second_person() -> None:
    shop = Shop(adjustments={"second_person_above": 10})
    assert shop.give(11)["status"] == "proposed"
    assert shop.do("approve", key="a1", by="sam")["code"] == "same_person"
    assert shop.do("approve", key="a1", by="kim")["balance"] == 11
    assert shop.do("refuse", key="a1", by="kim")["adjustment_status"] == "approved"


def test_a_merge_nets_debt_keeps_dates_and_leaves_an_alias() -> None:
    shop = Shop(refunds={"shortfall": "debt"})
    shop.enrol("bob")
    shop.buy(1000)
    shop.spend(8)
    shop.refund()
    shop.give(20, "2026-06-01", member_id="bob")
    shop.do("merge", key="m", member_id="ann", into_member_id="bob")
    assert shop.ann()["lots"] == [["2026-06-01", 12]]
    assert shop.buy(100)["member_id"] == "bob"


def test_an_erased_member_is_not_brought_back() -> None:
    shop = Shop()
    shop.buy(1000)
    assert shop.do("erase", member_id="ann") == shop.do("erase", member_id="ann")
    assert shop.buy(1000)["code"] == "member_erased"
    assert shop.enrol("ann")["code"] == "member_erased"
    assert shop.ann()["available"] == 0


def test_a_closed_member_neither_earns_nor_spends() -> None:
    shop = Shop()
    shop.give(10)
    shop.do("close", member_id="ann")
    assert shop.buy(1000)["code"] == shop.spend(1)["code"] == "member_closed"
    assert shop.ann()["available"] == 10


# --- the model itself ---


def test_a_sweep_changes_no_balance() -> None:
    shop = Shop(expiry=[{"after": "P1M"}], pending={"purchase": "P3D"})
    shop.buy(1000)
    shop.now = at("2026-05-01T12:00")
    before = shop.ann()
    shop.do("sweep")
    assert shop.ann() == before


def test_a_reading_can_be_turned_and_an_unknown_one_cannot() -> None:
    rules = [{**EURO, "match": {"products": ["a"], "brands": ["b"]}}]
    bought = line(100, "1", product_id="a")
    assert Shop(rules=rules).buy(bought)["points"] == 0
    assert Shop(readings={"MATCH": "any"}, rules=rules).buy(bought)["points"] == 1
    with pytest.raises(ValueError, match="no such readings"):
        Model(BASE, readings={**READINGS, "NONSENSE": 1})
