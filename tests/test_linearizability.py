"""Commands of one member are linearizable: what 16 clients at once were answered could have
happened one after the other. And the search that says so notices where it could not."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linearizability import (
    Event,
    Fault,
    Operation,
    Recorder,
    Response,
    State,
    judged,
    order,
    step,
)
from tools.engine import Engine, Tables

HISTORIES = 6
"""Of a thousand, which docs/proof.md reports on."""
FAULTY = 3

BUY, OTHER = Operation("award", "order", 10), Operation("award", "other", 10)
PAY, AGAIN = Operation("redeem", "till", 7), Operation("redeem", "till-2", 7)
LOOK = Operation("balance")


def at(called: int, answered: int, operation: Operation, *response: int | bool) -> Event:
    return Event(operation, called, answered, Response(*response))  # type: ignore[arg-type]


# What the service does


def test_what_16_clients_see_at_once_could_have_happened_one_after_the_other(
    engine: Engine, tables: Tables
) -> None:
    with Recorder(engine.endpoint, tables) as recorder:
        verdict = judged(recorder, HISTORIES, "sixteen")
    assert (verdict.linearizable, verdict.hurt) == (HISTORIES, 0)
    assert verdict.answers
    # All of it has happened: effects, replays, refusals, and looks at the balance.
    assert {"award 201", "award replay", "award 422", "redeem 201", "redeem replay", "redeem 409",
            "balance 200"} <= set(verdict.answers)  # fmt: skip


@pytest.mark.parametrize("fault", ["double award", "lost update"])
def test_a_store_without_a_condition_is_noticed(
    engine: Engine, tables: Tables, fault: Fault
) -> None:
    with Recorder(engine.endpoint, tables, fault) as recorder:
        verdict = judged(recorder, FAULTY, "faulty", fault)
    assert verdict.hurt > 0
    assert verdict.linearizable == FAULTY - verdict.hurt
    assert verdict.disagreed == 0


# What the search notices


def test_an_order_is_found_where_there_is_one() -> None:
    history = [
        at(0, 9, PAY, 201, 3),  # began first, and came after the award
        at(1, 5, BUY, 201, 10),
        at(2, 8, BUY, 201, 10, True),
        at(6, 7, LOOK, 200, 10),
        at(10, 11, LOOK, 200, 3),
    ]
    assert order(history) == [1, 2, 3, 0, 4] or order(history) == [1, 3, 2, 0, 4]
    assert order([]) == []


@pytest.mark.parametrize(
    "history",
    [
        [at(0, 1, BUY, 201, 10), at(2, 3, BUY, 201, 20)],
        [at(0, 5, BUY, 201, 10), at(1, 4, BUY, 201, 10)],
        [at(0, 5, BUY, 201, 10), at(1, 4, OTHER, 201, 10)],
        [at(0, 1, BUY, 201, 10), at(2, 3, LOOK, 200, 0)],
        [at(0, 1, BUY, 201, 10), at(2, 5, PAY, 201, 3), at(2, 5, AGAIN, 201, 3)],
        [at(0, 1, BUY, 201, 10), at(2, 3, PAY, 409, 7)],
        [at(0, 1, BUY, 201, 10, True)],
        [at(0, 1, PAY, 201, -7)],
    ],
    ids=[
        "a double award", "two first answers", "a lost update", "a stale look", "an overspend",
        "a refusal of what was there", "a replay of nothing", "a debt",
    ],
)  # fmt: skip
def test_what_cannot_have_happened_is_noticed(history: list[Event]) -> None:
    assert order(history) is None


OPERATIONS = st.sampled_from([BUY, OTHER, PAY, LOOK, Operation("award", "order", 11)])


@st.composite
def _histories(draw: st.DrawFn) -> list[Event]:
    """Few events, answered as in some order or nearly so."""
    operations = draw(st.lists(OPERATIONS, min_size=1, max_size=5))
    state, history = State(), []
    for number, operation in enumerate(operations):
        state, response = step(state, operation)
        if draw(st.integers(0, 9)) == 0:
            response = response._replace(number=response.number + draw(st.sampled_from([-10, 7])))
        called = draw(st.integers(0, 4 * number))
        history.append(Event(operation, called, called + draw(st.integers(1, 12)), response))
    return history


@given(_histories())
def test_the_search_finds_an_order_just_where_trying_all_of_them_does(history: list[Event]) -> None:
    found = order(history)
    everything = [list(each) for each in permutations(range(len(history)))]
    possible = [each for each in everything if _keeps_time(history, each) and _fits(history, each)]
    assert (found is not None) == bool(possible)
    assert found is None or found in possible


def _keeps_time(history: list[Event], numbers: list[int]) -> bool:
    return all(
        history[later].answered >= history[earlier].called
        for place, earlier in enumerate(numbers)
        for later in numbers[place + 1 :]
    )


def _fits(history: list[Event], numbers: list[int]) -> bool:
    state = State()
    for number in numbers:
        state, response = step(state, history[number].operation)
        if response != history[number].response:
            return False
    return True
