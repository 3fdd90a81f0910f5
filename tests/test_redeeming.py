"""Spending points: how many, on what, and what one gets for them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.codes import Secrets, voucher_code, voucher_hash
from loyalty.commands import Purchase, Redemption
from loyalty.decisions import Guard, Record, redemption_id, redemption_partition
from loyalty.model import NEVER, Entry, Known, Posting
from loyalty.projections import Redeemed, redeemed
from loyalty.redeeming import catalog, redeem, returned, withdrawn
from loyalty.rules import Rulebook
from tests.programs import smallest
from tests.strategies import DAY, SECRETS, Ledger, instant, number, refused

ZONE = "Europe/Paris"
NOW = instant("2026-03-10T13:00", ZONE)
RULE: dict[str, Any] = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 1},
}


def reward(**more: Any) -> dict[str, Any]:
    return {"reward_id": "gift", "kind": "gift", "cost": 40} | more


def member(points: int = 100, *rewards: dict[str, Any], **more: Any) -> Ledger:
    """A member with so many points."""
    ledger = Ledger(smallest(rules=[RULE], rewards=list(rewards), **more))
    ledger.enrol(NOW)
    if points:
        ledger.buy(NOW, points)
    return ledger


def answer(ledger: Ledger, entry: Entry) -> Redeemed:
    return redeemed(ledger.rulebook, entry, SECRETS)


# How many


def test_all_that_is_available_can_be_spent_and_not_one_point_more() -> None:
    ledger = member(100)
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(NOW, 101)
    entry = ledger.redeem(NOW, 100)
    assert (entry.points, entry.balance) == (-100, 0)
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(NOW, 1)


@given(st.integers(0, 60), st.lists(st.integers(1, 40), max_size=6))
def test_never_more_than_available(points: int, wishes: list[int]) -> None:
    ledger = member(points)
    left = points
    for wish in wishes:
        if wish > left:
            with refused("insufficient_points", missing_points=wish - left):
                ledger.redeem(NOW, wish)
        else:
            left -= wish
            assert ledger.redeem(NOW, wish).balance == left


def test_plain_points_have_no_voucher() -> None:
    ledger = member(100)
    entry = ledger.redeem(NOW, 30)
    assert answer(ledger, entry) == {
        "redemption_id": redemption_id(entry),
        "entry_id": "ann.3",
        "member_id": "ann",
        "status": "captured",
        "points": 30,
        "balance": 70,
    }
    assert ledger.records == []


def test_pending_points_cannot_be_spent() -> None:
    ledger = member(100, pending={"purchase": "P14D"})
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(NOW, 1)
    assert ledger.redeem(instant("2026-03-24T00:00", ZONE), 100).balance == 0


def test_points_can_be_spent_through_the_whole_day_before_they_expire() -> None:
    ledger = member(100, expiry=[{"after": "P1M"}])
    last = instant("2026-04-09T23:59:59", ZONE)
    assert ledger.redeem(last, 60).balance == 40
    with refused("insufficient_points", missing_points=40):
        ledger.redeem(last + 1000, 40)


def test_who_owes_points_has_none_to_spend() -> None:
    ledger = member(100, refunds={"shortfall": "debt"})
    ledger.redeem(NOW, 100)
    ledger.reverse(NOW, ledger.entries[1])
    with refused("insufficient_points", missing_points=5):
        ledger.redeem(NOW, 5)


def test_points_that_expire_first_are_spent_first() -> None:
    short = {
        "rule_id": "quiz",
        "trigger": "quiz",
        "earn": {"points": 10},
        "expiry": [{"after": "P1W"}],
    }
    ledger = Ledger(smallest(rules=[RULE, short]))
    ledger.enrol(NOW)
    ledger.buy(NOW, 50)
    ledger.award(NOW, {"type": "quiz"})
    entry = ledger.redeem(NOW, 25)
    assert entry.postings == (
        Posting("redeem", number("2026-03-10"), lots=((number("2026-03-17"), -10), (NEVER, -15))),
    )


def test_who_is_not_a_member_spends_nothing() -> None:
    ledger = Ledger(smallest())
    with refused("member_not_found"):
        ledger.redeem(NOW, 1)


# Rewards


def test_a_reward_costs_what_it_says() -> None:
    ledger = member(100, reward(cost=40))
    entry = ledger.redeem(NOW, reward_id="gift")
    shown = answer(ledger, entry)
    assert (shown["points"], shown["balance"], shown["reward_id"]) == (40, 60, "gift")
    ledger.redeem(NOW, 30)
    with refused("insufficient_points", missing_points=10):
        ledger.redeem(NOW, reward_id="gift")


def test_an_unknown_reward_is_refused() -> None:
    with refused("reward_not_found"):
        member(100, reward()).redeem(NOW, reward_id="other")


@pytest.mark.parametrize(
    ("at", "offered"),
    [
        ("2026-03-31T23:59:59", False),
        ("2026-04-01T00:00", True),
        ("2026-04-30T23:59:59", True),
        ("2026-05-01T00:00", False),
    ],
)
def test_a_reward_has_a_window_of_local_dates(at: str, offered: bool) -> None:
    ledger = member(100, reward(when={"from": "2026-04-01", "until": "2026-04-30"}))
    if offered:
        assert ledger.redeem(instant(at, ZONE), reward_id="gift").points == -40
    else:
        with refused("reward_unavailable"):
            ledger.redeem(instant(at, ZONE), reward_id="gift")


def test_a_reward_may_be_for_some_groups_only() -> None:
    ledger = member(100, reward(when={"groups": ["vip", "staff"]}))
    with refused("reward_locked"):
        ledger.redeem(NOW, reward_id="gift")
    ledger.regroup(NOW, ["staff"])
    assert ledger.redeem(NOW, reward_id="gift").points == -40


@pytest.mark.parametrize(
    "kind", ["product", "service", "experience", "early_access", "content", "gift"]
)
def test_every_kind_of_reward_is_paid_for_and_comes_with_a_voucher(kind: str) -> None:
    ledger = member(100, reward(kind=kind))
    shown = answer(ledger, ledger.redeem(NOW, reward_id="gift"))
    assert (shown["status"], shown["points"], shown["balance"]) == ("captured", 40, 60)
    assert shown["voucher"]["code"]
    assert "discount" not in shown


TIERS = {
    "levels": [{"tier_id": "bronze", "at": 0}, {"tier_id": "gold", "at": 60}],
    "window": "lifetime",
}


@pytest.mark.parametrize(("points", "cost"), [(59, 40), (60, 25)])
def test_a_reward_may_cost_members_of_a_tier_less(points: int, cost: int) -> None:
    ledger = member(points, reward(cost={"default": 40, "gold": 25}), tiers=TIERS)
    assert ledger.redeem(NOW, reward_id="gift").points == -cost


def test_spending_takes_nobody_out_of_a_tier() -> None:
    ledger = member(60, reward(cost={"default": 40, "gold": 25}), tiers=TIERS)
    assert ledger.redeem(NOW, reward_id="gift").balance == 35
    assert ledger.redeem(NOW, reward_id="gift").balance == 10


def test_a_reward_may_be_for_some_tiers_only() -> None:
    golden = reward(when={"tiers": ["gold"]})
    with refused("reward_locked"):
        member(59, golden, tiers=TIERS).redeem(NOW, reward_id="gift")
    assert member(60, golden, tiers=TIERS).redeem(NOW, reward_id="gift").points == -40


def test_everything_that_a_reward_asks_for_has_to_hold() -> None:
    strict = reward(when={"tiers": ["gold"], "groups": ["vip"], "until": "2026-03-10"})
    ledger = member(60, strict, tiers=TIERS)
    with refused("reward_locked"):
        ledger.redeem(NOW, reward_id="gift")
    ledger.regroup(NOW, ["vip"])
    with refused("reward_unavailable"):
        ledger.redeem(NOW + DAY, reward_id="gift")
    assert ledger.redeem(NOW, reward_id="gift").points == -40


# Limits and stock


@pytest.mark.parametrize(
    ("per", "again"),
    [
        ("day", "2026-03-10T23:00:00Z"),
        ("week", "2026-03-15T23:00:00Z"),
        ("month", "2026-03-31T22:00:00Z"),
        ("year", "2026-12-31T23:00:00Z"),
    ],
)
def test_a_member_has_a_reward_so_often_in_a_window(per: str, again: str) -> None:
    ledger = member(1000, reward(limits=[{"times": 2, "per": per}]))
    for _ in range(2):
        ledger.redeem(NOW, reward_id="gift")
    with refused("limit_reached", next_allowed_at=again):
        ledger.redeem(NOW, reward_id="gift")
    free = instant(again.removesuffix("Z"))
    with refused("limit_reached", next_allowed_at=again):
        ledger.redeem(free - 1, reward_id="gift")
    assert ledger.redeem(free, reward_id="gift").points == -40


def test_what_may_be_had_once_for_ever_has_no_next_time() -> None:
    limits = [{"times": 1, "per": "ever"}, {"times": 1, "per": "day"}]
    ledger = member(1000, reward(limits=limits), reward(reward_id="other"))
    ledger.redeem(NOW, reward_id="gift")
    with refused("limit_reached"):
        ledger.redeem(NOW, reward_id="gift")
    assert ledger.redeem(NOW, reward_id="other").points == -40


def test_a_fast_clock_of_a_till_opens_no_window_twice() -> None:
    """An event of tomorrow moves the day's counters on; what was had today still counts."""
    late = instant("2026-03-10T23:58", ZONE)
    ledger = member(1000, reward(limits=[{"times": 1, "per": "day"}]))
    ledger.redeem(late, reward_id="gift")
    ledger.buy(late, 5, occurred_at="2026-03-11T00:01:00+01:00")
    with refused("limit_reached", next_allowed_at="2026-03-10T23:00:00Z"):
        ledger.redeem(late + 1, reward_id="gift")


def test_the_last_piece_is_had_once() -> None:
    ledger = member(1000, reward(stock=2))
    first = ledger.redeem(NOW, reward_id="gift")
    ledger.redeem(NOW, reward_id="gift")
    with refused("out_of_stock"):
        ledger.redeem(NOW, reward_id="gift")
    ledger.cancel(NOW, first)
    assert ledger.redeem(NOW, reward_id="gift").points == -40


# Points as payment

PAYMENT = {"points": 100, "amount": 150, "min_points": 200, "step": 50, "max_share": "0.5"}


def pay(points: int, amount: int | None = None, currency: str = "EUR", **terms: Any) -> Redeemed:
    """The answer to a payment with so many points for an order of that amount in cents."""
    ledger = member(10_000, points_payment=PAYMENT | terms)
    order = {"order_id": "o-1", "amount": amount, "currency": currency}
    given = {} if amount is None else {"order": order}
    return answer(ledger, ledger.redeem(NOW, points, **given))


def test_points_pay_what_the_program_says_they_are_worth() -> None:
    shown = pay(250, 1000)
    assert (shown["points"], shown["balance"], shown["order_id"]) == (250, 9750, "o-1")
    assert shown["discount"] == {"amount": 375, "currency": "EUR"}
    assert "voucher" not in shown


def test_points_pay_without_an_order_too() -> None:
    assert pay(1000)["discount"] == {"amount": 1500, "currency": "EUR"}


def test_at_least_the_minimum_pays() -> None:
    with refused("payment_refused"):
        pay(150, 100_000)
    with refused("payment_refused"):
        pay(150)
    assert pay(200, 100_000)["points"] == 200


def test_points_pay_in_steps() -> None:
    for points in (201, 225, 249):
        with refused("payment_refused"):
            pay(points, 100_000)
    assert pay(250, 100_000)["points"] == 250


def test_points_pay_at_most_their_share_of_the_order() -> None:
    # 200 points are 300 cents: half of 600, and more than half of 599.
    assert pay(200, 600)["discount"] == {"amount": 300, "currency": "EUR"}
    with refused("payment_refused"):
        pay(200, 599)
    assert pay(200, 300, max_share="1")["points"] == 200
    with refused("payment_refused"):
        pay(200, 299, max_share="1")
    with refused("payment_refused"):
        pay(200, 0)


def test_what_the_terms_leave_out_is_one_rate_at_a_time() -> None:
    ledger = member(1000, points_payment={"points": 100, "amount": 1})
    with refused("payment_refused"):
        ledger.redeem(NOW, 99)
    with refused("payment_refused"):
        ledger.redeem(NOW, 150)
    assert answer(ledger, ledger.redeem(NOW, 200))["discount"]["amount"] == 2


def test_a_payment_that_is_worth_no_whole_cent_rounds_down() -> None:
    ledger = member(1000, points_payment={"points": 2, "amount": 3, "step": 1})
    entry = ledger.redeem(NOW, 3)
    assert answer(ledger, entry)["discount"] == {"amount": 4, "currency": "EUR"}


def test_an_order_in_another_currency_is_not_paid() -> None:
    with refused("currency_mismatch", pointer="/order/currency"):
        pay(200, 1000, "USD")


def test_a_payment_can_be_reserved() -> None:
    ledger = member(1000, points_payment=PAYMENT)
    order = {"order_id": "o-1", "amount": 1000, "currency": "EUR"}
    with refused("payment_refused"):
        ledger.redeem(NOW, 199, hold=True)
    held = ledger.redeem(NOW, 200, order=order, hold=True)
    captured = ledger.capture(NOW, held)
    for entry, status in ((held, "held"), (captured, "captured")):
        shown = answer(ledger, entry)
        assert (shown["status"], shown["points"], shown["order_id"]) == (status, 200, "o-1")
        assert shown["discount"] == {"amount": 300, "currency": "EUR"}


# Vouchers


def test_a_reward_comes_with_a_voucher_until_its_date() -> None:
    ledger = member(100, reward(voucher_validity="P30D"), reward(reward_id="other", cost=1))
    voucher = answer(ledger, ledger.redeem(NOW, reward_id="gift"))["voucher"]
    assert voucher["expires_on"] == "2026-04-09"
    # Twenty characters of 5 bits: 100 bits, in groups that can be read out.
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}", voucher["code"])
    other = answer(ledger, ledger.redeem(NOW, reward_id="other"))["voucher"]
    assert other["expires_on"] is None
    assert other["code"] != voucher["code"]


def test_the_table_holds_only_the_vouchers_hash() -> None:
    ledger = member(100, reward(voucher_validity="P30D"))
    entry = ledger.redeem(NOW, reward_id="gift")
    code = answer(ledger, entry)["voucher"]["code"]
    [record] = ledger.records
    assert record.partition == f"test#voucher#{voucher_hash(code)}"
    assert record.fields == {
        "redemption_id": redemption_id(entry),
        "member_id": "ann",
        "reward_id": "gift",
        "version": 1,
        "status": "issued",
        "revision": 1,
        "expires_on": number("2026-04-09"),
    }
    for stored in (repr(ledger.items), repr(record)):
        assert code not in stored
        assert code.replace("-", "") not in stored


def test_a_replay_shows_the_same_voucher_also_after_the_secret_was_changed() -> None:
    ledger = member(100, reward())
    entry = ledger.redeem(NOW, reward_id="gift")
    first = answer(ledger, entry)
    rotated = Secrets({**SECRETS.versions, 2: b"a newer secret"})
    assert redeemed(ledger.rulebook, entry, rotated) == first
    # What is handed out from now on is under the new one.
    code = voucher_code(rotated, rotated.current, "test", redemption_id(entry))
    assert code != first["voucher"]["code"]


def test_vouchers_of_two_programs_and_two_secrets_have_nothing_in_common() -> None:
    other = Secrets({1: b"another secret"})
    codes = {
        voucher_code(secrets, 1, program_id, redemption)
        for secrets in (SECRETS, other)
        for program_id in ("a", "b")
        for redemption in ("r-1", "r-2")
    }
    assert len(codes) == 8


def test_a_voucher_is_found_however_it_is_typed() -> None:
    code = voucher_code(SECRETS, 1, "test", "r-1")
    assert voucher_hash(code.lower().replace("-", " ")) == voucher_hash(code)
    assert voucher_hash(code) != voucher_hash(code[:-1] + ("0" if code[-1] != "0" else "1"))
    assert len(voucher_hash(code)) * 4 >= 80


# Discounts


def off(order: dict[str, Any] | None = None, **discount: Any) -> Any:
    ledger = member(100, reward(kind="discount", discount=discount))
    given = {} if order is None else {"order": {"order_id": "o-1", "currency": "EUR"} | order}
    return answer(ledger, ledger.redeem(NOW, reward_id="gift", **given))["discount"]


def test_a_discount_of_an_amount() -> None:
    assert off(amount=500) == {"amount": 500, "currency": "EUR"}
    assert off({"amount": 2000}, amount=500) == {"amount": 500, "currency": "EUR"}
    # Nobody is paid for shopping.
    assert off({"amount": 300}, amount=500) == {"amount": 300, "currency": "EUR"}


def test_a_discount_of_a_percentage_of_the_order() -> None:
    assert off({"amount": 1999}, percent="10") == {"amount": 199, "currency": "EUR"}
    assert off({"amount": 1000}, percent="12.5") == {"amount": 125, "currency": "EUR"}


def test_a_percentage_takes_off_at_most_its_maximum() -> None:
    assert off({"amount": 19_999}, percent="10", max_amount=2000)["amount"] == 1999
    assert off({"amount": 20_010}, percent="10", max_amount=2000)["amount"] == 2000
    assert off({"amount": 90_000}, percent="10", max_amount=2000)["amount"] == 2000


def test_a_percentage_of_no_order_is_told_as_it_is() -> None:
    assert off(percent="12.5") == {"percent": "12.5", "currency": "EUR"}
    assert off(percent=10, max_amount=2000) == {
        "percent": "10",
        "max_amount": 2000,
        "currency": "EUR",
    }


def test_an_order_in_another_currency_is_refused() -> None:
    ledger = member(100, reward())
    order = {"order_id": "o-1", "amount": 100, "currency": "USD"}
    with refused("currency_mismatch", pointer="/order/currency"):
        ledger.redeem(NOW, reward_id="gift", order=order)
    assert len(ledger.entries) == 2


def test_the_order_that_was_paid_for_is_remembered() -> None:
    ledger = member(100)
    order = {"order_id": "o-1", "amount": 100, "currency": "EUR"}
    entry = ledger.redeem(NOW, 10, order=order)
    assert answer(ledger, entry)["order_id"] == "o-1"


def test_a_redemption_is_activity_and_earns_no_lifetime_points() -> None:
    ledger = member(100)
    ledger.redeem(NOW + 3 * DAY, 10)
    assert ledger.account
    assert ledger.account.active_on == number("2026-03-13")
    assert ledger.account.lifetime == 100


def test_an_order_can_name_the_redemption_of_even_the_longest_key() -> None:
    ledger = member(100)
    entry = replace(ledger.redeem(NOW, 10), partition=f"k#{'𝛼' * 128}")
    line = {"line_id": "1", "quantity": 1, "amount": 100}
    bought = {"currency": "EUR", "lines": [line], "redemption_ids": [redemption_id(entry)]}
    assert redemption_partition(redemption_id(entry)) == entry.partition
    assert Purchase.model_validate(bought).redemption_ids == [redemption_id(entry)]


# What an entry says


def test_exactly_enough_is_enough_for_a_reward() -> None:
    ledger = member(40, reward())
    assert ledger.redeem(NOW, reward_id="gift").balance == 0
    with refused("insufficient_points", missing_points=40):
        ledger.redeem(NOW, reward_id="gift")


def test_who_is_blocked_sees_that_among_what_is_in_the_way() -> None:
    ledger = member(10, reward())
    assert ledger.account
    for status, codes in (
        ("", ["insufficient_points"]),
        ("blocked", ["member_blocked", "insufficient_points"]),
        ("closed", ["member_closed", "insufficient_points"]),
    ):
        known = Known({"ann": replace(ledger.account, status=status)})
        _, [offered] = catalog(ledger.rulebook, known, "ann", ledger.program.rewards, NOW)
        assert [refusal.code for refusal in offered.obstacles] == codes


def test_plain_points_name_no_reward_and_a_hold_of_one_does() -> None:
    ledger = member(100, reward())
    plain, kept = ledger.redeem(NOW, 5, hold=True), ledger.redeem(NOW, reward_id="gift", hold=True)
    holds = [posting.hold for entry in (plain, kept) for posting in entry.postings]
    assert [hold.reward for hold in holds if hold] == ["", "gift"]
    assert (plain.reason, kept.reason) == ("", "gift")
    assert ledger.capture(NOW, kept).reason == "gift"
    assert ledger.redeem(NOW, 5).reason == ""


def test_the_key_of_an_open_hold_is_no_key_of_another() -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 5, hold=True)
    command = Redemption.model_validate({"points": 5, "hold": True})
    known, guard = Known({"ann": ledger.account}), Guard(held.partition, "0", b"")
    with refused("too_many_holds"):
        redeem(ledger.rulebook, known, guard, "ann", command, SECRETS, NOW)


def test_a_voucher_is_of_the_version_under_which_its_points_were_reserved() -> None:
    ledger = member(100, reward())
    held = ledger.redeem(NOW, reward_id="gift", hold=True)
    ledger.rulebook = Rulebook(ledger.program, 2)
    captured = ledger.capture(NOW, held)
    assert (held.version, captured.version, captured.answer["h"]) == (1, 2, 1)
    assert ledger.records[-1].fields["version"] == 1
    ledger.redeem(NOW, reward_id="gift")
    assert ledger.records[-1].fields["version"] == 2


def test_who_left_takes_nothing_back() -> None:
    ledger = member(100)
    entry = ledger.redeem(NOW, 5)
    assert ledger.account
    ledger.account = replace(ledger.account, status="closed")
    with refused("member_closed"):
        ledger.cancel(NOW, entry)


def test_what_refunds_have_given_back_is_not_given_back_again() -> None:
    ledger = member(100)
    entry = ledger.redeem(NOW, 60)
    lines = [{"line_id": "1", "quantity": 1, "amount": 60}]
    ids = [redemption_id(entry)]
    purchase = {"currency": "EUR", "lines": lines, "paid_with_points": 60, "redemption_ids": ids}
    bought = ledger.award(NOW, {"type": "purchase", "purchase": purchase})
    ledger.reverse(NOW, bought)
    assert ledger.account
    assert ledger.account.balance == 100
    with refused("redemption_restored"):
        ledger.cancel(NOW, entry)


def test_a_withdrawn_voucher_is_replaced_where_it_stands_as_it_was_seen() -> None:
    seen = {"pk": "a", "sk": "voucher", "status": "issued", "revision": 3, "reward_id": "gift"}
    assert withdrawn(seen) == Record(
        "a", "voucher", {"status": "cancelled", "revision": 4, "reward_id": "gift"}, seen=3
    )


@pytest.mark.parametrize(
    ("points", "before", "lots"),
    [
        (100, 0, [(NEVER, 20), (300, 30), (200, 50)]),
        (45, 0, [(NEVER, 20), (300, 25)]),
        (20, 0, [(NEVER, 20)]),
        (100, 20, [(300, 30), (200, 50)]),
        (10, 25, [(300, 10)]),
        (100, 55, [(200, 45)]),
        (30, 15, [(NEVER, 5), (300, 25)]),
        (9, 100, []),
    ],
)
def test_what_comes_back_in_parts_begins_with_what_lives_longest(
    points: int, before: int, lots: list[tuple[int, int]]
) -> None:
    ledger = member(0)
    assert ledger.account
    parts = ((200, 50), (300, 30), (NEVER, 20))
    ledger.account = replace(ledger.account, lots=parts)
    entry = replace(
        ledger.entries[0],
        kind="redeem",
        postings=(Posting("redeem", 9, lots=tuple((end, -n) for end, n in parts)),),
    )
    assert returned(entry, points, before) == lots
