"""Budgets that many members share: given out to the last point and never beyond it, by whatever
number of clients at once, and given back with what is taken back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loyalty.budgets import SHARDS, SLOTS, Pool, allocate, rebalanced, slot
from loyalty.commands import Event
from loyalty.dates import milliseconds
from loyalty.limits import Usage
from loyalty.model import MAX_POINTS, Account, NeedsBudgets
from loyalty.rules import BUDGET_HIT, Evaluation, LimitHit, Rulebook
from loyalty.validation import parse
from tests import workers
from tests.faults import Fault, asked_of
from tests.programs import shop, smallest
from tests.strategies import (
    BEGINNINGS,
    EVENTS,
    PROGRAM_DOCUMENTS,
    SOME_GROUPS,
    local_date,
    refused,
)
from tests.workers import NOON, Books, Clients, deployed, done, send, without_pause
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
NOW = milliseconds(NOON)

# Shards, without a table

lefts = st.lists(st.integers(0, 50), min_size=1, max_size=SHARDS)


@given(lefts, st.data())
def test_a_draw_is_taken_in_full_from_as_few_shards_as_hold_it(
    left: list[int], data: st.DataObject
) -> None:
    points = data.draw(st.integers(0, sum(left)))
    taken = allocate(Pool(dict(enumerate(left)), whole=True), points)
    assert sum(taken.values()) == points
    assert all(0 <= part <= left[shard] for shard, part in taken.items())
    largest = sorted(left, reverse=True)
    fewest = next(n for n in range(1, len(left) + 1) if sum(largest[:n]) >= points)
    assert len(taken) == fewest


@given(lefts, st.integers(-100, -1))
def test_what_is_given_back_goes_to_the_shard_that_has_least(left: list[int], points: int) -> None:
    back = allocate(Pool(dict(enumerate(left)), whole=True), points)
    assert back == {left.index(min(left)): points}


def test_a_draw_of_everything_takes_the_last_point_of_every_shard() -> None:
    pool = Pool({0: 1, 1: 0, 2: 1, 3: -4}, whole=True)
    assert allocate(pool, 2) == {0: 1, 2: 1}


def test_nothing_is_taken_from_the_first_shard_that_lacks_nothing() -> None:
    assert allocate(Pool({0: -1, 1: 5, 2: 3}, whole=True), 0) == {1: 0}


@pytest.mark.parametrize(
    ("whole", "drawn", "hidden"),
    [(False, 9, False), (False, 10, True), (False, 11, True), (True, 9, False), (True, 10, False)],
)
def test_a_draw_of_all_that_was_seen_may_have_been_held_back_by_what_was_not(
    whole: bool, drawn: int, hidden: bool
) -> None:
    assert Pool({0: 4, 5: 6}, whole).may_hide_more(drawn) is hidden


def test_a_hold_is_remembered_in_the_first_free_slot_or_in_one_by_chance() -> None:
    assert slot([], 0.99) == 0
    assert slot([0, 1, 3], 0.99) == 2
    taken = range(SLOTS)
    chances = [0.0, 0.124, 0.125, 0.5, 0.874, 0.875, 0.999, 1.0]
    assert [slot(taken, chance) for chance in chances] == [0, 0, 1, 4, 6, 7, 7, 7]


@given(lefts, st.integers(-500, 500))
def test_a_changed_total_is_spread_evenly_and_nothing_is_lost(left: list[int], change: int) -> None:
    after = rebalanced(left, change)
    assert sum(after) == sum(left) + change
    assert len(after) == len(left)
    if sum(after) >= 0:
        assert min(after) >= 0
        assert max(after) - min(after) <= 1
    else:
        assert max(after) <= 0


@given(st.integers(1, 400), st.lists(st.tuples(st.booleans(), st.integers(-99, 300)), max_size=20))
def test_a_budget_gives_its_total_whatever_is_drawn_and_however_it_changes(
    total: int, steps: list[tuple[bool, int]]
) -> None:
    left = rebalanced([0] * SHARDS, total)
    drawn = 0
    for draws, points in steps:
        pool = Pool(dict(enumerate(left)), whole=True)
        if draws:
            wanted = min(points, max(0, pool.points)) if points >= 0 else max(points, -drawn)
            taken = allocate(pool, wanted)
            left = [n - taken.get(shard, 0) for shard, n in enumerate(left)]
            drawn += wanted
            assert sum(taken.values()) == wanted
            assert drawn <= total or wanted <= 0
        else:
            left = rebalanced(left, abs(points) + 1 - total)
            total = abs(points) + 1
        assert sum(left) == total - drawn
        assert min(left) >= 0 or max(left) <= 0


# What an award takes from budgets

ANN = Account(program_id="test", member_id="ann")
PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}


def bought(document: dict[str, Any], amount: int, budgets: Mapping[str, int]) -> Evaluation:
    """What a purchase of one line of beans gives, with so much left in budgets."""
    line = {"line_id": "1", "quantity": 1, "amount": amount, "category_ids": ["beans"]}
    event = {
        "event_id": "order",
        "type": "purchase",
        "member_id": "ann",
        "purchase": {"currency": "EUR", "lines": [line]},
    }
    return decided(document, event, NOW, budgets)


def decided(
    document: dict[str, Any],
    event: dict[str, Any],
    at: int,
    budgets: Mapping[str, int],
    account: Account = ANN,
) -> Evaluation:
    rulebook = Rulebook(parse(document), 1)
    program = rulebook.program
    usage = Usage(account, local_date(at, program.time_zone), program.zone, None)
    command = Event.model_validate_json(json.dumps(event))
    return rulebook.evaluate(account, command, at, usage, budgets)


def campaign(campaign_id: str, multiplier: str, **more: Any) -> dict[str, Any]:
    return {"campaign_id": campaign_id, "multiplier": multiplier, **more}


def test_a_campaigns_budget_pays_what_the_award_is_larger_by_because_of_it() -> None:
    document = smallest(
        rules=[PER_EURO],
        campaigns=[
            campaign("spring", "2", budget={"points": 1000}),
            campaign("beans", "3", match={"categories": ["beans"]}, budget={"points": 1000}),
            campaign("tea", "5", match={"categories": ["tea"]}, budget={"points": 1000}),
        ],
    )
    plenty = dict.fromkeys(["campaign:spring", "campaign:beans", "campaign:tea"], 1000)
    found = bought(document, 1000, plenty)
    # 10 without them, 20 with the first, 60 with both.
    assert found.points == 60
    assert found.draws == {"campaign:spring": 10, "campaign:beans": 40}
    assert found.hits == ()


@pytest.mark.parametrize(
    ("left", "points", "drawn"), [(20, 30, 20), (19, 29, 19), (1, 11, 1), (0, 10, 0)]
)
def test_a_campaign_gives_what_its_budget_has_left_and_ends_with_it(
    left: int, points: int, drawn: int
) -> None:
    document = smallest(
        rules=[PER_EURO], campaigns=[campaign("spring", "3", budget={"points": 100})]
    )
    found = bought(document, 1000, {"campaign:spring": left})
    assert (found.points, found.desired) == (points, 30)
    assert found.draws == ({"campaign:spring": drawn} if drawn else {})
    assert len(found.hits) == (left < 20)
    # Used up, it is no factor of the award any more.
    [row] = found.rows
    assert [factor.multiplier for factor in row.factors] == ([3] if drawn else [])


def test_a_campaign_that_lowers_an_award_holds_as_long_as_its_budget_does() -> None:
    document = smallest(
        rules=[PER_EURO], campaigns=[campaign("lean", "0.5", budget={"points": 100})]
    )
    found = bought(document, 1000, {"campaign:lean": 100})
    assert (found.points, found.draws, found.hits) == (5, {}, ())
    document["budget"] = {"points": 100}
    found = bought(document, 1000, {"campaign:lean": 100, "program": 100})
    assert (found.points, found.draws, found.hits) == (5, {"program": 5}, ())


def test_the_programs_budget_caps_everything_and_its_campaigns_draw_no_more_than_was_given() -> (
    None
):
    document = smallest(
        rules=[PER_EURO],
        campaigns=[campaign("spring", "3", budget={"points": 100})],
        budget={"points": 1000},
    )
    found = bought(document, 1000, {"campaign:spring": 100, "program": 30})
    assert (found.points, found.hits, found.left) == (30, (), {})
    found = bought(document, 1000, {"campaign:spring": 100, "program": 13})
    assert (found.points, found.hits, found.left) == (
        13,
        (LimitHit(BUDGET_HIT, 0),),
        {"program": 13},
    )
    assert found.draws == {"campaign:spring": 3, "program": 13}
    found = bought(document, 1000, {"campaign:spring": 100, "program": 7})
    assert (found.points, found.draws) == (7, {"program": 7})
    found = bought(document, 1000, {"campaign:spring": 100, "program": 0})
    assert (found.points, found.desired, found.draws) == (0, 30, {})


def test_what_the_program_cannot_pay_its_last_campaign_gives_up_first() -> None:
    document = smallest(
        rules=[PER_EURO],
        campaigns=[
            campaign("spring", "2", budget={"points": 100}),
            campaign("beans", "3", match={"categories": ["beans"]}, budget={"points": 100}),
        ],
        budget={"points": 1000},
    )
    # 10 without them, 10 and 40 because of them.
    for left, drawn in ((60, (10, 40)), (30, (10, 10)), (20, (10, 0)), (15, (5, 0)), (10, (0, 0))):
        budgets = {"campaign:spring": 100, "campaign:beans": 100, "program": left}
        found = bought(document, 1000, budgets)
        names = "campaign:spring", "campaign:beans"
        assert tuple(found.draws.get(name, 0) for name in names) == drawn
        assert found.points == found.draws["program"] == left


def test_a_used_up_budget_has_nothing_left_and_a_lowered_one_no_less() -> None:
    document = smallest(
        rules=[PER_EURO], campaigns=[campaign("spring", "3", budget={"points": 100})]
    )
    for left in (0, -7):
        found = bought(document, 1000, {"campaign:spring": left})
        assert (found.points, found.left) == (10, {"campaign:spring": 0})


def test_campaigns_with_and_without_a_budget_are_told_in_the_order_of_the_document() -> None:
    document = smallest(
        rules=[PER_EURO],
        campaigns=[campaign("paid", "2", budget={"points": 100}), campaign("free", "3")],
    )
    for left, points in ((100, 60), (29, 59)):
        found = bought(document, 1000, {"campaign:paid": left})
        assert found.points == points
        assert [factor.multiplier for factor in found.rows[0].factors] == [2, 3]


def test_a_campaign_that_has_ended_is_no_factor_even_where_a_limit_hides_that() -> None:
    document = smallest(
        rules=[PER_EURO],
        campaigns=[
            campaign("over", "2", budget={"points": 100}),
            campaign("on", "5", budget={"points": 100}),
        ],
        limits=[{"points": 10, "per": "transaction"}],
    )
    found = bought(document, 800, {"campaign:over": 0, "campaign:on": 100})
    assert (found.points, found.draws) == (10, {"campaign:on": 2})
    assert [factor.multiplier for factor in found.rows[0].factors] == [5]


@pytest.mark.parametrize(
    ("mode", "amounts", "points", "campaigns"),
    [
        ("floor", (15, 5, 1), [2, 0, 0], []),
        ("ceil", (9, 1, 2), [1, 0, 1], []),
        ("ceil", (9, 1, 2), [1, 0, 1], [campaign("over", "2", budget={"points": 100})]),
    ],
)
def test_a_budget_that_is_enough_moves_no_point_from_line_to_line(
    mode: str, amounts: tuple[int, ...], points: list[int], campaigns: list[dict[str, Any]]
) -> None:
    products = [f"P{i}" for i in range(len(amounts))]
    document = smallest(
        rules=[
            {
                "rule_id": product,
                "trigger": "purchase",
                "earn": {"points": 1, "per_amount": 10},
                "match": {"products": [product]},
            }
            for product in products
        ],
        rounding={"mode": mode},
        budget={"points": 100},
        campaigns=campaigns,
    )
    lines = [
        {"line_id": product, "quantity": 1, "amount": amount, "product_id": product}
        for product, amount in zip(products, amounts, strict=True)
    ]
    event = {
        "event_id": "order",
        "type": "purchase",
        "member_id": "ann",
        "purchase": {"currency": "EUR", "lines": lines},
    }
    found = decided(document, event, NOW, {"program": 2, "campaign:over": 0})
    assert list(found.line_points) == points


def test_one_event_earns_no_more_than_the_ledger_holds_whoever_it_is_for() -> None:
    document = smallest(rules=[{**PER_EURO, "earn": {"points": 2, "per_amount": 1}}])
    assert bought(document, MAX_POINTS // 2, {}).points == MAX_POINTS
    with refused("too_many_points"):
        bought(document, MAX_POINTS // 2 + 1, {})


def test_a_budget_in_money_is_what_the_points_are_worth() -> None:
    """100 cents at 3 cents a point are 33 points: never more liability than was said."""
    document = smallest(
        rules=[PER_EURO],
        point_value=3,
        budget={"money": 100},
        campaigns=[campaign("spring", "2", budget={"money": 50})],
    )
    assert Rulebook(parse(document), 1).budgets == {"program": 33, "campaign:spring": 16}
    found = bought(document, 10_000, {"program": 33, "campaign:spring": 16})
    assert found.points == 33


def test_budgets_are_asked_for_only_where_the_event_draws_on_them() -> None:
    document = smallest(
        rules=[PER_EURO],
        campaigns=[
            campaign("spring", "2", budget={"points": 50}),
            campaign("web", "2", when={"channels": ["web"]}, budget={"points": 60}),
            campaign("past", "2", until="2025-01-01", budget={"points": 70}),
        ],
        budget={"points": 1000},
    )
    with pytest.raises(NeedsBudgets) as caught:
        bought(document, 1000, {})
    assert caught.value.totals == {"campaign:spring": 50, "program": 1000}
    assert bought(document, 0, {}).points == 0


@settings(max_examples=60)
@given(PROGRAM_DOCUMENTS, EVENTS, BEGINNINGS, SOME_GROUPS, st.data())
def test_no_award_draws_more_than_is_left(
    document: dict[str, Any],
    event: dict[str, Any],
    at: int,
    groups: tuple[str, ...],
    data: st.DataObject,
) -> None:
    document.setdefault("budget", {"points": 50})
    left = {
        name: data.draw(st.integers(0, 60), label=name)
        for name in Rulebook(parse(document), 1).budgets
    }
    account = Account(program_id="random", member_id="ann", groups=groups)
    found = decided(document, whole(event, document), at, left, account)
    assert all(0 < points <= left[name] for name, points in found.draws.items())
    # The program's budget pays everything, its campaigns no more than that.
    assert found.draws.get("program", 0) == found.points == sum(row.points for row in found.rows)
    assert sum(n for name, n in found.draws.items() if name != "program") <= found.points
    assert found.points <= found.desired
    if event["type"] == "purchase":
        assert sum(found.line_points) in (0, found.points)


@settings(max_examples=60)
@given(PROGRAM_DOCUMENTS, EVENTS, BEGINNINGS, SOME_GROUPS)
def test_budgets_with_enough_left_change_no_award(
    document: dict[str, Any], event: dict[str, Any], at: int, groups: tuple[str, ...]
) -> None:
    campaigns = document.get("campaigns", [])
    # Those that lower an award have a test of their own.
    assume(all(float(each["multiplier"]) > 1 for each in campaigns if "budget" in each))
    free = {name: part for name, part in document.items() if name not in ("budget", "campaigns")}
    if campaigns:
        free["campaigns"] = [
            {name: value for name, value in each.items() if name != "budget"} for each in campaigns
        ]
    account = Account(program_id="random", member_id="ann", groups=groups)
    plenty = dict.fromkeys(Rulebook(parse(document), 1).budgets, 10**9)
    limited = decided(document, whole(event, document), at, plenty, account)
    freely = decided(free, whole(event, document), at, {}, account)
    assert (limited.points, limited.grants, limited.line_points, limited.hits) == (
        freely.points,
        freely.grants,
        freely.line_points,
        freely.hits,
    )


def whole(event: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The event as it is sent under this program."""
    sent = {"event_id": "e", "member_id": "ann", **event}
    if "purchase" in sent:
        sent["purchase"] = sent["purchase"] | {"currency": document["currency"]}
    return sent


# Through the handlers, on the engine

REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 10}}


class House(workers.House):
    """The shop's handlers on fresh tables; every review gives 10 points, every euro 1."""

    def on(self, minutes: int) -> AbstractContextManager[Any]:
        """The service, so many minutes after noon, as a process that has just started."""
        return self.after(minutes=minutes)

    def publish(self, replaces: int | None = None, **more: Any) -> None:
        document = shop(rules=[REVIEW, PER_EURO], limits=[], rewards=[], **more)
        done(workers.publish(document, replaces))

    def proved(self) -> dict[str, Any]:
        return workers.proved(self.direct, self.tables)

    def shards(self, name: str = "program") -> list[int]:
        records = Books.read(self.direct, self.tables).records
        return [int(r["left"]["N"]) for r in records if r["pk"]["S"] == f"shop#budget#{name}"]


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


def review(event_id: str, member_id: str = "ana") -> dict[str, Any]:
    """The answer to a review, which wants 10 points."""
    answer: dict[str, Any] = done(workers.award(event_id, member_id))
    assert answer["desired_points"] == 10
    return answer


def test_exactly_the_budget_is_given_and_the_answer_says_what_bit(house: House) -> None:
    house.publish(budget={"points": 25})
    done(workers.enrol("ana"))
    done(workers.enrol("ben"))
    assert review("1")["limited_by"] == []
    assert review("2", "ben")["points"] == 10
    last = review("3")
    assert (last["points"], last["limited_by"]) == (5, [{"scope": "budget"}])
    none = review("4", "ben")
    assert (none["points"], none["limited_by"]) == (0, [{"scope": "budget"}])
    assert workers.left() == 0
    history = done(workers.entries("ana"))["items"]
    assert [row["points"] for row in history if row["kind"] == "award"] == [5, 10]
    assert {m: account.balance for m, (account, _) in house.proved().items()} == {
        "ana": 15,
        "ben": 10,
    }


def test_a_campaign_ends_with_its_budget_and_the_answer_names_it(house: House) -> None:
    house.publish(campaigns=[campaign("spring", "2", budget={"points": 15})])
    done(workers.enrol("ana"))
    answers = [done(workers.purchase(f"order-{i}", "ana", 1000)) for i in range(3)]
    assert [answer["points"] for answer in answers] == [20, 15, 10]
    hit = {"scope": "campaign", "campaign_id": "spring"}
    assert [answer["limited_by"] for answer in answers] == [[], [hit], [hit]]
    assert workers.left("campaign:spring") == 0
    house.proved()


@pytest.mark.usefixtures("house")
def test_registration_and_check_ins_draw_on_the_programs_budget_too() -> None:
    done(workers.publish(shop(budget={"points": 1000}, limits=[])))
    done(workers.enrol("ana"))
    done(workers.check_in("ana", "visit"))
    assert workers.left() == 945


@pytest.mark.usefixtures("house")
def test_registration_pays_what_the_programs_budget_has_left() -> None:
    done(workers.publish(shop(budget={"points": 75}, limits=[])))
    assert [done(workers.enrol(who))["points"] for who in ("ana", "ben", "cleo")] == [50, 25, 0]
    assert workers.left() == 0


def test_a_scan_earns_the_budgets_last_points_wherever_they_are(
    engine: Engine, tables: Tables
) -> None:
    client = workers.connect(engine.endpoint)
    # Always the first shard.
    with deployed(client, tables, sleep=without_pause, jitter=lambda: 0.0):
        done(workers.publish(shop(budget={"points": 53}, limits=[])))
        done(workers.enrol("ana"))
        assert workers.left() == 3
        answer = send(workers.check_in("ana", "visit"))
        assert (answer.status, answer.body.get("points")) == (201, 3)


def test_a_scan_that_a_used_up_budget_refuses_is_not_told_to_come_back_at_once(
    house: House,
) -> None:
    done(workers.publish(shop(budget={"points": 50}, limits=[])))
    done(workers.enrol("ana"))
    before = Books.read(house.direct, house.tables)
    answer = send(workers.check_in("ana", "visit"))
    assert answer.status == 409
    assert Books.read(house.direct, house.tables) == before
    assert answer.body.get("next_allowed_at") != "2026-03-18T12:00:00Z"


def test_a_budget_is_made_when_it_is_first_drawn_on(house: House) -> None:
    house.publish(budget={"points": 100})
    done(workers.enrol("ana"))
    done(workers.award("nothing", "ana", "other"))
    assert workers.left() is None
    review("1")
    assert workers.left() == 90
    shards = house.shards()
    assert len(shards) == SHARDS
    assert max(shards) <= -(-100 // SHARDS)


def test_a_new_version_raises_and_lowers_what_is_left(house: House) -> None:
    house.publish(budget={"points": 30})
    done(workers.enrol("ana"))
    assert [review(str(i))["points"] for i in range(4)] == [10, 10, 10, 0]
    house.publish(1, budget={"points": 45})
    with house.on(1):
        assert [review(f"raised-{i}")["points"] for i in range(3)] == [10, 5, 0]
        house.publish(2, budget={"points": 20})
    with house.on(2):
        assert review("lowered")["points"] == 0
        assert workers.left() == -25
        # 45 were given: a rise to 50 leaves 5, not 30.
        house.publish(3, budget={"points": 50})
    with house.on(3):
        assert [review(f"again-{i}")["points"] for i in range(2)] == [5, 0]
    house.proved()


def test_a_lowered_budget_that_was_not_used_gives_its_new_total(house: House) -> None:
    house.publish(budget={"points": 1000})
    done(workers.enrol("ana"))
    review("1")
    house.publish(1, budget={"points": 25})
    with house.on(1):
        assert [review(f"later-{i}")["points"] for i in range(3)] == [10, 5, 0]


def test_a_reversal_gives_the_points_back_once(house: House) -> None:
    house.publish(budget={"points": 35}, campaigns=[campaign("spring", "2", budget={"points": 15})])
    done(workers.enrol("ana"))
    done(workers.purchase("order-1", "ana", 1000))
    done(workers.purchase("order-2", "ana", 1000))
    assert (workers.left(), workers.left("campaign:spring")) == (0, 0)
    for _ in range(2):
        done(workers.reverse("order-1", "return-1"))
    assert (workers.left(), workers.left("campaign:spring")) == (20, 10)
    assert send(workers.reverse("order-1", "return-2")).body["code"] == "more_than_bought"
    assert (workers.left(), workers.left("campaign:spring")) == (20, 10)
    assert done(workers.purchase("order-3", "ana", 1000))["points"] == 20
    account, _ = house.proved()["ana"]
    assert account.balance == 35


def test_what_comes_back_to_a_lowered_budget_makes_up_for_what_was_given_beyond_it(
    house: House,
) -> None:
    house.publish(budget={"points": 40})
    done(workers.enrol("ana"))
    for i in range(4):
        review(str(i))
    house.publish(1, budget={"points": 15})
    with house.on(1):
        assert review("lowered")["points"] == 0
        done(workers.reverse("0", "return-0"))
        # 30 are out of 15.
        assert review("after-one")["points"] == 0
        done(workers.reverse("1", "return-1"))
        done(workers.reverse("2", "return-2"))
        # 10 are out of 15.
        assert review("after-three")["points"] == 5
        assert sum(account.balance for account, _ in house.proved().values()) == 15


# the budget was never drawn on, it is answered with 503 for ever.
@pytest.mark.parametrize("drawn_on", [False, True], ids=["fresh", "drawn on"])
def test_an_award_from_before_there_was_a_budget_gives_nothing_back_to_it(
    house: House, drawn_on: bool
) -> None:
    house.publish()
    done(workers.enrol("ana"))
    done(workers.purchase("order-0", "ana", 5000))
    house.publish(1, budget={"points": 30})
    with house.on(1):
        if drawn_on:
            review("1")
        assert send(workers.reverse("order-0", "return-0")).status == 201
        given = sum(review(f"later-{i}")["points"] for i in range(8))
        assert given + 10 * drawn_on == 30


@pytest.mark.parametrize(
    ("budgets", "units"),
    [
        ({}, 5),
        ({"budget": {"points": 10_000}}, 7),
        ({"campaigns": [campaign("spring", "2", budget={"points": 10_000})]}, 7),
        (
            {
                "budget": {"points": 10_000},
                "campaigns": [campaign("spring", "2", budget={"points": 10_000})],
            },
            9,
        ),
    ],
    ids=["none", "program", "campaign", "both"],
)
def test_each_budget_costs_two_write_units_more(
    house: House, budgets: dict[str, Any], units: int
) -> None:
    house.publish(**budgets)
    done(workers.enrol("ana"))
    done(workers.purchase("order-0", "ana", 1000))
    with meter.measure() as used:
        done(workers.purchase("order-1", "ana", 1000))
    assert used.write == units
    assert used.read == Decimal("0.5") + Decimal("0.5") * (units - 5) / 2
    with meter.measure() as used:
        done(workers.reverse("order-1", "return-1"))
    assert used.write == units


@pytest.mark.parametrize("fault", ["answer lost", "server error after all", "request lost"])
def test_a_lost_answer_draws_once(house: House, fault: Fault) -> None:
    house.publish(budget={"points": 100})
    done(workers.enrol("ana"))
    review("1")
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert review("2")["points"] == 10
    house.faults.follow({0: fault}, of="TransactWriteItems")
    done(workers.reverse("1", "return-1"))
    house.faults.heal()
    assert workers.left() == 90
    account, _ = house.proved()["ana"]
    assert account.balance == 10


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_budget_is_made_once_whatever_happens_to_its_making(house: House, fault: Fault) -> None:
    house.publish(budget={"points": 15})
    done(workers.enrol("ana"))
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert [review(str(i))["points"] for i in range(3)] == [10, 5, 0]


def test_somebody_else_takes_the_last_points_between_look_and_draw(house: House) -> None:
    house.publish(budget={"points": 12})
    done(workers.enrol("ana"))
    done(workers.enrol("ben"))
    review("0", "ben")
    house.faults.follow({0: workers.meanwhile(workers.award("1", "ben"))}, of="TransactWriteItems")
    answer = review("2")
    assert (answer["points"], answer["limited_by"]) == (0, [{"scope": "budget"}])
    assert (workers.left(), house.shards().count(0)) == (0, SHARDS)


# More shards than a transaction has items

DOZEN = [f"c{n}" for n in range(12)]


def publish_a_dozen(house: House, total: int, program: int) -> None:
    """Twelve campaigns with budgets, each of which adds to a purchase as much as it gives alone."""
    campaigns = [campaign(name, "2", budget={"points": total}) for name in DOZEN]
    combined = {"combine": "add"}
    house.publish(campaigns=campaigns, budget={"points": program}, multipliers=combined)


def items_sent(house: House) -> list[int]:
    """The number of items of each transaction that is sent from now on."""
    sent: list[int] = []
    house.client.meta.events.register(
        "before-send.dynamodb.TransactWriteItems",
        lambda request, **_: sent.append(len(asked_of(request)["TransactItems"])),
    )
    return sent


def test_a_draw_from_every_shard_of_a_dozen_budgets_is_gathered_first(house: House) -> None:
    publish_a_dozen(house, 8_000, 104_000)
    done(workers.enrol("ana"))
    sent = items_sent(house)
    answer = done(workers.purchase("order", "ana", 800_000))
    assert (answer["points"], answer["limited_by"]) == (104_000, [])
    # Thirteen budgets are made, one of them is gathered, all are drawn on.
    assert sent == [*[SHARDS] * 14, 2 + 12 * SHARDS + 1]
    assert [workers.left(f"campaign:{name}") for name in DOZEN] == [0] * 12
    done(workers.reverse("order", "back"))
    assert [workers.left(f"campaign:{name}") for name in DOZEN] == [8_000] * 12
    assert workers.left() == 104_000
    house.proved()


def test_what_somebody_takes_from_the_gathered_points_is_missed_by_nobody(house: House) -> None:
    publish_a_dozen(house, 8_000, 104_000)
    for who in ("ana", "ben"):
        done(workers.enrol(who))
    # Just before a budget is gathered, and just before all are drawn on.
    other = {n: workers.meanwhile(workers.purchase(f"{n}", "ben", 100)) for n in (13, 14)}
    house.faults.follow(other, of="TransactWriteItems")
    answer = done(workers.purchase("order", "ana", 800_000))
    assert answer["points"] == 104_000 - 2 * 13
    # The program could not pay the last two points of the last campaign.
    assert [workers.left(f"campaign:{name}") for name in DOZEN] == [*[0] * 11, 2]
    assert workers.left() == 0
    house.proved()


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_points_are_gathered_once_whatever_happens_to_it(house: House, fault: Fault) -> None:
    publish_a_dozen(house, 8_000, 104_000)
    done(workers.enrol("ana"))
    house.faults.follow({13: fault}, of="TransactWriteItems")
    assert done(workers.purchase("order", "ana", 800_000))["points"] == 104_000
    assert workers.left() == 0
    house.proved()


# Sixty-four at once


def test_64_clients_at_once_gather_the_same_budgets_and_overdraw_none(
    house: House, clients: Clients
) -> None:
    """Each wants nine tenths of twelve budgets, and every fourth brings it back."""
    publish_a_dozen(house, 10_000, 130_000)
    for i in range(CLIENTS):
        done(workers.enrol(f"member-{i}"))
    scripts = [
        [
            workers.purchase(f"order-{i}", f"member-{i}", 900_000),
            *[workers.reverse(f"order-{i}", f"return-{i}")] * (i % 4 == 0),
        ]
        for i in range(CLIENTS)
    ]
    done(workers.purchase("first", "member-1", 100))  # the budgets are made
    played = clients.play(house.endpoint, house.tables, scripts, seed=7, abreast=True)
    assert {answer.status for answer in played.flat} == {201}
    members = house.proved()
    drawn: Counter[str] = Counter()
    for _, history in members.values():
        for entry in history:
            drawn.update((entry.explanation or {}).get("b", {}))
            if entry.kind == "reverse":
                [award] = [e for e in history if e.kind == "award"]
                drawn.subtract((award.explanation or {}).get("b", {}))
    totals = {f"campaign:{name}": 10_000 for name in DOZEN} | {"program": 130_000}
    for name, total in totals.items():
        assert workers.left(name) == total - drawn[name]
        assert min(house.shards(name)) >= 0
    remaining = workers.left()
    assert remaining is not None
    assert sum(account.balance for account, _ in members.values()) == 130_000 - remaining


def test_64_clients_at_once_share_out_exactly_what_is_left(house: House, clients: Clients) -> None:
    house.publish(budget={"points": 215})
    for i in range(CLIENTS):
        done(workers.enrol(f"member-{i}"))
    review("first", "member-0")
    scripts = [[workers.award(f"review-{i}", f"member-{i}")] for i in range(CLIENTS)]
    played = clients.play(house.endpoint, house.tables, scripts, abreast=True)
    assert {answer.status for answer in played.flat} == {201}
    given = Counter(answer.body["points"] for answer in played.flat)
    assert sum(points * n for points, n in given.items()) == 205
    assert given[10] + given[0] + 1 >= CLIENTS
    assert house.shards() == [0] * SHARDS
    assert sum(account.balance for account, _ in house.proved().values()) == 215


def test_64_clients_on_a_faulty_wire_neither_overdraw_a_campaign_nor_lose_its_points(
    house: House, clients: Clients
) -> None:
    """Everybody buys for 10 points, and every other one brings it back."""
    house.publish(campaigns=[campaign("spring", "2", budget={"points": 444})])
    for i in range(CLIENTS):
        done(workers.enrol(f"member-{i}"))
    scripts = [
        [
            workers.purchase(f"order-{i}", f"member-{i}", 1000),
            *[workers.reverse(f"order-{i}", f"return-{i}")] * (i % 2),
        ]
        for i in range(CLIENTS)
    ]
    played = clients.play(house.endpoint, house.tables, scripts, seed=5, faults_in_thousand=20)
    assert {answer.status for answer in played.flat} == {201}
    members = house.proved()
    standing = sum(account.balance for account, _ in members.values())
    remaining = workers.left("campaign:spring")
    assert remaining is not None
    assert standing == 10 * CLIENTS // 2 + 444 - remaining
    assert min(house.shards("campaign:spring")) >= 0
