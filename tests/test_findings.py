"""What the comparison with the reference model has found in the engine, each by an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.differential import Product, Told, coded, deployed
from tests.memory import MemoryTables
from tests.programs import smallest
from tests.strategies import DAY, HOUR, instant

NOW = instant("2026-03-10T12:00", "Europe/Paris")
PER_CENT = {"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}
LEVELS = [
    {"tier_id": "bronze", "name": "Bronze", "at": 0},
    {"tier_id": "silver", "name": "Silver", "at": 20},
]


class Shop:
    """A program, its members, and a clock that is moved by hand."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.now = NOW

    def do(self, kind: str, **fields: Any) -> Told:
        command = coded({"kind": kind, **fields}, self.product.codes)
        return self.product.do(command, self.now)

    def enrol(self, member_id: str, **more: Any) -> Told:
        return self.do("enrol", member_id=member_id, **more)

    def buy(self, event_id: str, *amounts: int, member_id: str = "ann", **more: Any) -> Told:
        rows = [{"line_id": str(i), "quantity": 1, "amount": n} for i, n in enumerate(amounts)]
        ids = more.pop("redemption_ids", [])
        bought = {"currency": "EUR", "lines": rows, "redemption_ids": ids}
        fields = {"event_id": event_id, "type": "purchase", "member_id": member_id, **more}
        return self.do("award", purchase=bought, **fields)

    def refund(self, event_id: str, refund_id: str, *lines: int) -> Told:
        """Of these lines by number, or without any of all that is left."""
        back = {"lines": [{"line_id": str(i)} for i in lines]} if lines else {}
        return self.do("reversal", event_id=event_id, refund_id=refund_id, **back)

    def has(self, member_id: str = "ann") -> Told:
        return self.product.view(member_id, self.now)


@pytest.fixture
def open_shop() -> Iterator[Callable[..., Shop]]:
    """A function that publishes a program and enrols ann and bob."""
    with deployed(MemoryTables()) as product:

        def open_it(*rules: dict[str, Any], **more: Any) -> Shop:
            product.now = NOW
            document = smallest(rules=list(rules) or [PER_CENT], **more)
            product.publish(document | {"program_id": "random"})
            shop = Shop(product)
            for member_id in ("ann", "bob"):
                shop.enrol(member_id)
            return shop

        yield open_it


def here(**rule: Any) -> dict[str, Any]:
    """A rule of check-ins."""
    return {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}} | rule


HERE = [{"location_id": "here", "check_in": {}}]


def check_in(shop: Shop, key: str) -> Told:
    return shop.do("check_in", member_id="ann", location_id="here", key=key)


def test_a_check_in_that_uses_up_a_limit_for_ever_is_answered(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(here(limits=[{"points": 5, "per": "ever"}]), locations=HERE)
    first, again = check_in(shop, "k"), check_in(shop, "k")
    assert first["points"] == again["points"] == 5
    assert "next_allowed_at" not in first


def test_a_rule_that_gives_nothing_does_not_promise_the_next_check_in(
    open_shop: Callable[..., Shop],
) -> None:
    nothing = here(rule_id="nothing", earn={"points": 0})
    shop = open_shop(here(frequency=[{"every": "PT4H"}]), nothing, locations=HERE)
    assert check_in(shop, "k")["next_allowed_at"] == NOW + 4 * HOUR


@pytest.mark.parametrize("qualify_by", ["points", "spend"])
def test_the_last_refund_of_an_event_subtracts_only_what_is_left_of_it(
    open_shop: Callable[..., Shop], qualify_by: str
) -> None:
    shop = open_shop(tiers={"levels": LEVELS, "qualify_by": qualify_by})
    shop.buy("other", 3000)
    shop.buy("order", 1000, 1000)
    worth = 1 if qualify_by == "points" else 100
    counted = []
    for refund_id, lines in (("one", (0,)), ("rest", ())):
        shop.refund("order", refund_id, *lines)
        counted.append(shop.has()["qualifying_points"] // worth)
    assert counted == [40, 30]


def test_spend_counts_the_same_whether_a_refund_comes_before_or_after(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(tiers={"levels": LEVELS, "qualify_by": "spend"})
    third = {"lines": [{"line_id": "0", "quantity": 1}]}
    line = {"line_id": "0", "quantity": 3, "amount": 299}
    for member_id, order in (("ann", ("award", "reversal")), ("bob", ("reversal", "award"))):
        event = {
            "event_id": member_id,
            "type": "purchase",
            "member_id": member_id,
            "purchase": {"currency": "EUR", "lines": [line]},
        }
        back = {"event_id": member_id, "refund_id": "r", **third}
        for kind in order:
            shop.do(kind, **(event if kind == "award" else back))
    assert shop.has("ann")["qualifying_points"] == shop.has("bob")["qualifying_points"] == 200


@pytest.mark.parametrize("window", [{"membership": "year"}, {"calendar": "year"}, "lifetime"])
def test_registration_reaches_a_tier_at_once(open_shop: Callable[..., Shop], window: Any) -> None:
    welcome = {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 25}}
    shop = open_shop(welcome, tiers={"levels": LEVELS, "window": window})
    assert shop.has()["tier"]["id"] == "silver"


def test_what_is_kept_is_worked_out_again_without_limits_of_windows(
    open_shop: Callable[..., Shop],
) -> None:
    capped = PER_CENT | {"limits": [{"points": 24, "per": "year"}]}
    beside = {"rule_id": "lines", "trigger": "purchase", "earn": {"points": 10, "per_line": 1}}
    shop = open_shop(capped, beside, refunds={"method": "recompute"})
    assert shop.buy("order", 2600, 500)["points"] == 24 + 20
    # Of what is kept 26 would be given, and 10 for the line.
    assert shop.refund("order", "one", 1)["points"] == 44 - 36


def test_refunds_take_no_more_than_was_given_where_what_is_kept_would_earn_more(
    open_shop: Callable[..., Shop],
) -> None:
    alone = PER_CENT | {"rule_id": "alone", "stacking": "exclusive", "when": {"min_amount": 600}}
    many = {"rule_id": "many", "trigger": "purchase", "earn": {"points": 90}}
    shop = open_shop(alone, many, refunds={"method": "recompute"})
    shop.buy("other", 10_000)
    assert shop.buy("order", 500, 300, 200)["points"] == 10
    taken = [shop.refund("order", str(n), *lines)["points"] for n, lines in enumerate([(2,), (1,)])]
    taken.append(shop.refund("order", "rest")["points"])
    assert (sum(taken), shop.has()["available"]) == (10, 100)


def test_a_purchase_paid_by_a_redemption_of_who_was_erased_can_be_refunded(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop()
    shop.buy("before", 1000, member_id="bob")
    shop.do("redeem", member_id="bob", points=5, key="pay")
    shop.buy("order", 700, redemption_ids=["pay"])
    shop.do("erase", member_id="bob")
    back = shop.refund("order", "r")
    assert (back["points"], back["restored_points"]) == (7, 0)


def test_fixed_dates_ask_when_points_were_earned_and_not_when_they_became_available(
    open_shop: Callable[..., Shop],
) -> None:
    yearly = [{"dates": ["03-31", "06-30"], "older_than": "P1M"}]
    shop = open_shop(pending={"purchase": "P14D"}, expiry=yearly)
    early = instant("2026-02-24T12:00", "Europe/Paris")
    assert shop.buy("order", 500, occurred_at=early)["lots"] == [["2026-03-31", 5]]
    shop.now += DAY
    assert shop.buy("late", 500)["lots"] == [["2026-06-30", 5]]


def test_a_partial_refund_gives_a_budget_back_what_it_takes(
    open_shop: Callable[..., Shop],
) -> None:
    referral = {"referrer_points": 20, "referred_points": 10, "award_on": "first_purchase"}
    shop = open_shop(budget={"points": 60}, referral=referral)
    shop.enrol("cat", referrer="ann")
    assert shop.buy("order", 1000, 1000, member_id="cat")["points"] == 20 + 10
    assert shop.refund("order", "one", 0)["points"] == 10
    # 50 were drawn, 10 came back: 20 are left, and no more.
    assert shop.buy("more", 9000, member_id="bob")["points"] == 20


def test_what_went_by_inactivity_under_an_older_version_is_not_taken_twice(
    open_shop: Callable[..., Shop],
) -> None:
    owed = {"refunds": {"shortfall": "debt"}}
    shop = open_shop(expiry=[{"inactive_for": "P5D"}], **owed)
    shop.buy("order", 700)
    shop.now += 6 * DAY
    shop.do("sweep")
    later = smallest(rules=[PER_CENT], **owed) | {"program_id": "random"}
    shop.do("publish", document=later)
    back = shop.refund("order", "r")
    assert (back["points"], back["expired_points"], back["debt"]) == (0, 7, 0)


def test_what_counts_in_a_year_of_membership_goes_on_counting_after_merges(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(tiers={"levels": LEVELS, "window": {"membership": "year"}})
    shop.now += 200 * DAY
    shop.enrol("cat")
    shop.now += 100 * DAY
    shop.enrol("dan")
    shop.buy("before", 1000, member_id="cat")
    # The second year of ann and bob has begun, the first of cat and dan has not ended.
    shop.now += 80 * DAY
    shop.buy("order", 3000, member_id="dan")
    shop.do("merge", member_id="dan", into_member_id="cat", key="one")
    assert shop.has("cat")["qualifying_points"] == 40
    shop.do("merge", member_id="cat", into_member_id="ann", key="two")
    assert shop.has("ann")["qualifying_points"] == 40
    shop.refund("order", "r")
    assert shop.has("ann")["qualifying_points"] == 10
    shop.refund("before", "r")
    assert shop.has("ann")["qualifying_points"] == 0


@pytest.mark.parametrize(("goes", "stays"), [("bob", "ann"), ("ann", "bob")])
def test_a_merge_with_who_has_run_out_loses_no_points(
    open_shop: Callable[..., Shop], goes: str, stays: str
) -> None:
    """Bob was never active, and so nothing of his goes by inactivity; ann was, long ago."""
    shop = open_shop(expiry=[{"inactive_for": "P1M"}])
    shop.buy("order", 700)
    shop.do("adjust", member_id="bob", points=20, key="gift", by="sue")
    shop.now += 40 * DAY
    shop.do("merge", member_id=goes, into_member_id=stays, key="one")
    assert shop.has(stays)["available"] == 20
    shop.now += 20 * DAY
    assert shop.has(stays)["available"] == 20
    shop.now += 20 * DAY
    assert shop.has(stays)["available"] == 0


def test_points_that_were_over_when_they_came_are_no_other_events(
    open_shop: Callable[..., Shop],
) -> None:
    beside = {"rule_id": "stay", "trigger": "review", "earn": {"points": 60}, "expiry": []}
    shop = open_shop(PER_CENT, beside, expiry=[{"dates": ["12-31"]}])
    spring = shop.now
    assert shop.buy("first", 2500)["points"] == 25
    shop.now += 320 * DAY
    shop.do("award", event_id="stay", type="review", member_id="ann")
    late = shop.buy("late", 3300, occurred_at=spring + 250 * DAY)
    assert (late["points"], shop.has()["available"]) == (33, 60)
    for event_id, points in (("first", 25), ("late", 33)):
        back = shop.refund(event_id, "r")
        assert (back["points"], back["expired_points"]) == (0, points)
    assert shop.has()["available"] == 60


def test_the_wait_of_fresh_points_ends_with_the_month_that_is_shorter(
    open_shop: Callable[..., Shop],
) -> None:
    gift = {"member_id": "ann", "points": 5, "by": "sue"}
    shop = open_shop(transfers={"enabled": True, "fresh_points_wait": "P1M"})
    for day in (30, 31):
        shop.now = instant(f"2027-01-{day}T12:00", "Europe/Paris")
        shop.do("adjust", key=f"gift {day}", **gift)
    send = {"from_member_id": "ann", "to_member_id": "bob", "points": 10}
    shop.now = instant("2027-02-27T12:00", "Europe/Paris")
    assert shop.do("transfer", key="one", **send)["missing_points"] == 10
    shop.now += DAY
    assert shop.do("transfer", key="two", **send)["points"] == 10


def test_a_hold_that_had_lapsed_counts_in_no_limit_after_a_merge(
    open_shop: Callable[..., Shop],
) -> None:
    weekly = {"reward_id": "gift", "kind": "gift", "name": "Gift", "cost": 5}
    weekly["limits"] = [{"times": 1, "per": "week"}]
    shop = open_shop(rewards=[weekly])
    shop.buy("order", 1000)
    shop.do("redeem", member_id="ann", reward_id="gift", hold=True, key="held")
    shop.now += HOUR
    shop.do("merge", member_id="ann", into_member_id="bob", key="merge")
    assert shop.do("redeem", member_id="bob", reward_id="gift", key="taken")["points"] == 5
    assert shop.do("redeem", member_id="bob", reward_id="gift", key="more")["code"] == (
        "limit_reached"
    )


def test_a_version_without_downgrade_takes_no_tier_away(open_shop: Callable[..., Shop]) -> None:
    yearly: dict[str, Any] = {"levels": LEVELS, "window": {"calendar": "year"}}
    shop = open_shop(tiers=yearly | {"downgrade": {"steps": "full"}})
    shop.buy("order", 3000)
    later = smallest(rules=[PER_CENT], tiers=yearly) | {"program_id": "random"}
    shop.do("publish", document=later)
    shop.now += 3 * 365 * DAY
    assert shop.has()["tier"]["id"] == "silver"


def test_what_went_between_two_merges_is_not_taken_again(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(expiry=[{"after": "P1M"}], refunds={"shortfall": "debt"})
    shop.enrol("cat")
    shop.buy("order", 700)
    shop.do("merge", member_id="ann", into_member_id="bob", key="one")
    shop.now += 40 * DAY
    shop.do("sweep")
    shop.do("merge", member_id="bob", into_member_id="cat", key="two")
    back = shop.refund("order", "r")
    assert (back["points"], back["expired_points"], back["debt"]) == (0, 7, 0)


@pytest.mark.parametrize("swept", [False, True])
def test_what_the_other_lost_before_a_merge_is_no_excuse(
    open_shop: Callable[..., Shop], swept: bool
) -> None:
    shop = open_shop(expiry=[{"after": "P1M"}], refunds={"shortfall": "debt"})
    for member_id in ("ann", "bob"):
        shop.buy(member_id, 700, member_id=member_id)
    shop.do("redeem", member_id="ann", points=7, key="spent")
    shop.now += 40 * DAY
    if swept:
        shop.do("sweep")
    shop.do("merge", member_id="ann", into_member_id="bob", key="merge")
    back = shop.refund("ann", "r")
    assert (back["points"], back["expired_points"], back["debt"]) == (7, 0, 7)


def test_the_history_shows_a_command_that_moved_nothing_after_points_had_expired(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(expiry=[{"after": "P1M"}])
    shop.buy("order", 700)
    shop.now += 40 * DAY
    shop.do("block", member_id="ann")
    rows = shop.product.history("ann", shop.now)
    assert rows == [["enrol", 0, 0], ["award", 7, 7], ["expire", -7], ["block", 0, 0]]
