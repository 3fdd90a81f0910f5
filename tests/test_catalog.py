"""What a member may have: the catalog says just what redeeming would say, at every moment."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty import projections, redeeming
from loyalty.model import Known, NeedsBudgets, NeedsHistory, Refusal
from tests import workers
from tests.programs import shop, smallest
from tests.strategies import DAY, HOUR, MINUTE, Ledger, instant
from tests.workers import NOON, Call, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
NOW = instant("2026-03-10T13:00", "Europe/Paris")
PER_CENT = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 1},
}
LEVELS = [{"tier_id": "bronze", "at": 0}, {"tier_id": "gold", "at": 40}]


def listed(ledger: Ledger, now: int) -> list[projections.RewardShown]:
    """The catalog of the ledger's member at that moment."""
    known = Known({ledger.member_id: ledger.account})
    program = ledger.program
    while True:
        try:
            _, offered = redeeming.catalog(
                ledger.rulebook, known, ledger.member_id, program.rewards, now
            )
        except NeedsBudgets as need:
            left = {name: ledger.budgets.get(name, total) for name, total in need.totals.items()}
            known = replace(known, budgets=left)
        except NeedsHistory as need:
            assert known.history is None
            known = replace(known, history=ledger._history(need.since))
        else:
            return [projections.reward(program, each) for each in offered]


def tried(ledger: Ledger, now: int, reward_id: str) -> Refusal | None:
    """What redeeming it at that moment is refused with; the ledger stays as it is."""
    trial = copy.copy(ledger)
    trial.entries, trial.records = [*ledger.entries], [*ledger.records]
    trial.budgets = dict(ledger.budgets)
    try:
        trial.redeem(now, reward_id=reward_id)
    except Refusal as refusal:
        return refusal
    return None


# Random rewards

COSTS = st.one_of(
    st.integers(1, 60),
    st.integers(1, 60).map(lambda gold: {"default": 30, "gold": gold}),
)
WHENS = st.fixed_dictionaries(
    {},
    optional={
        "groups": st.sampled_from([["vip"], ["vip", "staff"]]),
        "tiers": st.sampled_from([["gold"], ["bronze", "gold"]]),
        "from": st.sampled_from(["2026-03-11", "2026-03-10T13:00", "2026-01-01"]),
        "until": st.sampled_from(["2026-03-12", "2026-03-12T13:30", "2026-12-31"]),
    },
).filter(bool)
TIMES = st.fixed_dictionaries(
    {
        "times": st.integers(1, 2),
        "per": st.sampled_from(["day", "week", "month", "year", "ever"]),
    }
)
REWARDS = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["gift", "content"]), "cost": COSTS},
        optional={
            "when": WHENS,
            "stock": st.integers(0, 2),
            "limits": st.lists(TIMES, min_size=1, max_size=2),
        },
    ),
    min_size=1,
    max_size=4,
)
GAPS = st.one_of(
    st.sampled_from([0, 30 * MINUTE, HOUR, 10 * HOUR + 57 * MINUTE]),
    st.integers(1, 9).map(lambda days: days * DAY),
)
ACTS = st.one_of(
    st.tuples(st.just("buy"), st.integers(1, 60)),
    # A till whose clock is four minutes fast: an event of tomorrow, before midnight.
    st.tuples(st.just("buy ahead"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["redeem", "hold", "hold"]), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["regroup", "sweep"]), st.integers(0, 1)),
)


def carry_out(ledger: Ledger, now: int, what: str, argument: int) -> None:
    rewards = ledger.program.rewards
    match what:
        case "buy":
            ledger.buy(now, argument)
        case "buy ahead":
            late = NOON.fromtimestamp((now + 4 * MINUTE) / 1000, NOON.tzinfo)
            ledger.buy(now, argument, occurred_at=late.isoformat())
        case "redeem" | "hold":
            reward = rewards[argument % len(rewards)]
            ledger.redeem(now, reward_id=reward.reward_id, hold=what == "hold")
        case "cancel":
            held = [e for e in ledger.entries if e.kind == "hold"]
            if held:
                ledger.cancel(now, held[-1 - argument % len(held)])
        case "regroup":
            ledger.regroup(now, ["vip"] * argument)
        case "sweep":
            ledger.sweep(now)


@settings(max_examples=150)
@given(
    REWARDS,
    st.sampled_from([[], [{"after": "P5D"}]]),
    st.lists(st.tuples(GAPS, ACTS), max_size=10),
    st.sampled_from(["", "", "", "blocked", "closed"]),
)
def test_what_is_listed_as_available_is_just_what_redeeming_would_take(
    rewards: list[dict[str, Any]], expiry: list[Any], actions: list[Any], status: Any
) -> None:
    named = [reward | {"reward_id": f"r{i}"} for i, reward in enumerate(rewards)]
    tiers = {"levels": LEVELS, "window": {"rolling": "P30D"}}
    ledger = Ledger(smallest(rules=[PER_CENT], rewards=named, expiry=expiry, tiers=tiers))
    now = NOW
    ledger.enrol(now)
    moments = [*actions, (0, None)]
    for gap, action in moments:
        now += gap
        if action is None:
            assert ledger.account
            ledger.account = replace(ledger.account, status=status)
        for shown in listed(ledger, now):
            refusal = tried(ledger, now, shown["reward_id"])
            assert shown["available"] == (refusal is None)
            assert shown["available"] == (not shown["reasons"])
            if refusal is not None:
                assert refusal.code == shown["reasons"][0]
                for name, value in refusal.more.items():
                    assert shown.get(name) == value
        if action is not None:
            try:
                carry_out(ledger, now, *action)
            except Refusal:
                continue


# What it says


def reward(**more: Any) -> dict[str, Any]:
    return {"reward_id": "gift", "kind": "gift", "cost": 40} | more


def shown(points: int, *rewards: dict[str, Any], now: int = NOW, **more: Any) -> Any:
    """The last reward of the catalog of a member with so many points."""
    ledger = Ledger(smallest(**{"rules": [PER_CENT], "rewards": list(rewards)} | more))
    ledger.enrol(NOW)
    if points:
        ledger.buy(NOW, points)
    return listed(ledger, now)[-1]


def test_a_reward_is_shown_with_all_that_the_program_says_of_it() -> None:
    everything = reward(
        kind="discount",
        name="Five euros off",
        description="Off your next order.",
        terms="One for each order.",
        image_url="https://example.com/five.png",
        discount={"amount": 500},
        when={"from": "2026-03-01", "until": "2026-03-31T18:00"},
        stock=12,
        voucher_validity="P1M15D",
    )
    assert shown(100, everything) == {
        "reward_id": "gift",
        "kind": "discount",
        "name": "Five euros off",
        "description": "Off your next order.",
        "terms": "One for each order.",
        "image_url": "https://example.com/five.png",
        "cost": 40,
        "available": True,
        "reasons": [],
        "missing_points": 0,
        "discount": {"amount": 500, "currency": "EUR"},
        "from": "2026-03-01",
        "until": "2026-03-31T18:00",
        "stock_left": 12,
        "voucher_validity": "P1M15D",
    }


def test_a_short_reward_is_shown_shortly() -> None:
    found = shown(0, reward())
    assert (found["name"], found["image_url"], found["terms"]) == ("gift", None, "")
    assert {"discount", "stock_left", "voucher_validity", "from", "until"} & found.keys() == set()


def test_missing_points_are_told() -> None:
    found = shown(15, reward())
    assert (found["available"], found["reasons"], found["missing_points"]) == (
        False,
        ["insufficient_points"],
        25,
    )


def test_everything_that_is_in_the_way_is_told_at_once() -> None:
    locked = reward(
        when={"groups": ["vip"], "tiers": ["gold"], "until": "2026-03-09"},
        stock=0,
    )
    found = shown(15, locked, tiers={"levels": LEVELS, "window": "lifetime"})
    assert found["reasons"] == [
        "reward_unavailable",
        "reward_locked",
        "out_of_stock",
        "insufficient_points",
    ]


def test_a_member_of_a_better_tier_sees_its_own_cost() -> None:
    two_costs = reward(cost={"default": 40, "gold": 10})
    terms = {"levels": LEVELS, "window": "lifetime"}
    assert shown(39, two_costs, tiers=terms)["cost"] == 40
    assert shown(40, two_costs, tiers=terms)["cost"] == 10


def test_when_a_used_up_limit_is_free_again_is_told() -> None:
    ledger = Ledger(
        smallest(rules=[PER_CENT], rewards=[reward(limits=[{"times": 1, "per": "week"}])])
    )
    ledger.enrol(NOW)
    ledger.buy(NOW, 100)
    ledger.redeem(NOW, reward_id="gift")
    [found] = listed(ledger, NOW)
    assert found["reasons"] == ["limit_reached"]
    assert found["next_allowed_at"] == "2026-03-15T23:00:00Z"
    [later] = listed(ledger, instant("2026-03-16T00:00", "Europe/Paris"))
    assert later["available"]


# Over HTTP


class House(workers.House):
    """The shop's handlers on fresh tables; who enrols is given 100 points."""

    def on(self, minutes: float) -> AbstractContextManager[Any]:
        return self.after(minutes=minutes)

    def publish(self, rewards: list[dict[str, Any]], replaces: int | None = None) -> None:
        rule = {"rule_id": "hello", "trigger": "registration", "earn": {"points": 100}}
        done(workers.publish(shop(rules=[rule], rewards=rewards), replaces))

    def enrol(self, *members: str) -> None:
        for member_id in members:
            done(workers.enrol(member_id))


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


def take(member_id: str, key: str, **more: Any) -> Call:
    return workers.redeem(member_id, key, reward_id="gift", **more)


def left(member_id: str = "ana") -> int:
    [item] = done(workers.rewards(member_id))["items"]
    found: int = item["stock_left"]
    return found


def test_the_catalog_comes_in_pages_in_the_order_of_the_program(house: House) -> None:
    house.publish([reward(reward_id=f"gift-{i}", cost=30 * i + 10) for i in range(5)])
    house.enrol("ana")
    whole = done(workers.rewards("ana"))
    assert [item["reward_id"] for item in whole["items"]] == [f"gift-{i}" for i in range(5)]
    assert [item["missing_points"] for item in whole["items"]] == [0, 0, 0, 0, 30]
    assert (whole["balance"], whole["next_cursor"]) == (100, None)
    paged: list[Any] = []
    query = {"limit": "2"}
    for size in (2, 2, 1):
        page = done(workers.rewards("ana", **query))
        assert len(page["items"]) == size
        paged += page["items"]
        query = {"limit": "2", "cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert paged == whole["items"]


@pytest.mark.usefixtures("house")
def test_a_program_without_rewards_has_an_empty_catalog(house: House) -> None:
    house.publish([])
    house.enrol("ana")
    assert done(workers.rewards("ana")) == {"items": [], "balance": 100, "next_cursor": None}


def test_nobodys_catalog_is_not_found_and_another_members_is_forbidden(house: House) -> None:
    house.publish([reward()])
    house.enrol("ana")
    assert send(workers.rewards("nobody")).status == 404
    member = replace(workers.rewards("ana"), scope="loyalty/member")
    assert send(member).status == 403
    assert send(workers.rewards("ana", cursor="!")).status == 400
    assert send(workers.rewards("ana", limit="0")).status == 400


def test_looking_costs_no_write(house: House) -> None:
    house.publish([reward(stock=5)])
    house.enrol("ana")
    with meter.measure() as units:
        assert left() == 5
    assert units.write == 0
    done(take("ana", "first"))
    with meter.measure() as units:
        assert left() == 4
    assert units.write == 0


# Stock and limits


def test_a_new_version_changes_what_is_left_by_what_it_changes_the_total(house: House) -> None:
    house.publish([reward(cost=10, stock=3)])
    house.enrol("ana")
    for i in range(2):
        done(take("ana", f"first-{i}"))
    assert left() == 1
    house.publish([reward(cost=10, stock=5)], 1)
    with house.on(1):
        assert left() == 3
        for i in range(3):
            done(take("ana", f"raised-{i}"))
        assert send(take("ana", "none")).body["code"] == "out_of_stock"
        house.publish([reward(cost=10, stock=2)], 2)
    with house.on(2):
        # Five are out of two.
        assert left() == 0
        assert send(take("ana", "lowered")).body["code"] == "out_of_stock"
        for i in range(3):
            identity = done(take("ana", f"raised-{i}"))["redemption_id"]
            done(workers.cancel(identity))
        assert left() == 0
        assert send(take("ana", "still none")).body["code"] == "out_of_stock"
        identity = done(take("ana", "first-0"))["redemption_id"]
        done(workers.cancel(identity))
        assert left() == 1
        done(take("ana", "one"))
        assert left() == 0
    workers.proved(house.direct, house.tables)


def test_of_64_at_once_one_member_gets_as_many_as_the_limit_says(
    house: House, clients: Clients
) -> None:
    house.publish([reward(cost=1, limits=[{"times": 3, "per": "day"}])])
    house.enrol("ana")
    scripts = [[take("ana", f"take-{i}")] for i in range(CLIENTS)]
    played = clients.play(house.endpoint, house.tables, scripts)
    assert sum(answer.status == 201 for answer in played.flat) == 3
    assert {a.body["code"] for a in played.flat if a.status != 201} == {"limit_reached"}
    account, _ = workers.proved(house.direct, house.tables)["ana"]
    assert account.available == 97


def test_a_sale_of_60_pieces_to_300_buyers_sells_exactly_60(house: House, clients: Clients) -> None:
    """Some pay at once, some reserve and pay, some reserve and go."""
    house.publish([reward(cost=10, stock=60)])
    buyers = [f"buyer-{i}" for i in range(300)]
    clients.play(house.endpoint, house.tables, _shared([workers.enrol(who) for who in buyers]))
    calls = [take(who, f"sale-{who}", hold=bool(i % 3)) for i, who in enumerate(buyers)]
    played = clients.play(house.endpoint, house.tables, _shared(calls))
    outcomes = [answer.status for answer in played.flat]
    assert (outcomes.count(201), outcomes.count(409)) == (60, 240)
    assert {a.body["code"] for a in played.flat if a.status == 409} == {"out_of_stock"}
    assert left("buyer-0") == 0
    members = workers.proved(house.direct, house.tables)
    spent = [100 - account.available for account, _ in members.values()]
    assert sorted(spent) == [0] * 240 + [10] * 60
    with house.on(1):
        gone = [a.body["redemption_id"] for a in played.flat if a.body.get("status") == "held"]
        for identity in gone[:4]:
            done(workers.cancel(identity))
        assert left("buyer-0") == 4


def _shared(calls: list[Call]) -> list[list[Call]]:
    """The calls, in turn over all clients."""
    return [calls[i::CLIENTS] for i in range(CLIENTS)]
