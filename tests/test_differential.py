"""The engine and the naive ledger of the reference model say the same: 50,000 random commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from loyalty import lifecycle, projections, store
from loyalty.model import Account, Entry, Posting
from loyalty.rules import Rulebook
from tests import differential
from tests.differential import (
    CHUNK,
    LENGTH,
    READINGS,
    Tally,
    Told,
    compared,
    compared_through_the_store,
    least,
    run,
    shown,
    summary,
    told,
)
from tests.faults import FAULTS
from tests.scenarios import KINDS, scenario
from tests.strategies import DAY
from tools.engine import Engine

CHUNKS = 10
STORED = 10
"""Scenarios that go through the store."""
PLAYED = range(1, 100)
"""Scenarios in which a mistake is noticed sooner or later."""
SURVIVED = FAULTS[: FAULTS.index("killed")]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_engine_answers_as_the_reference_model_does(chunk: int) -> None:
    seeds = range(1 + chunk * CHUNK, 1 + (chunk + 1) * CHUNK)
    tally = run(seeds)
    if tally.differing:
        play = scenario(tally.differing[0], LENGTH)
        found = compared(play)
        assert found
        pytest.fail(
            f"python -m tests.differential --seed {tally.differing[0]}\n"
            + shown(*least(play, found))
        )
    assert tally.programs == CHUNK
    assert sum(tally.done.values()) == CHUNK * LENGTH
    # Most of it happens, and not little is refused.
    assert len(tally.done) >= 20
    assert 0.1 < sum(tally.refused.values()) / (CHUNK * LENGTH) < 0.6
    # Repeats and reuses are commands of other kinds.
    assert tally.done.keys() <= KINDS.keys()


def test_a_difference_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differential, "READINGS", READINGS | {"EXPIRING_UNDATED": False})
    plays = (scenario(seed, LENGTH) for seed in range(1, 50))
    play, found = next((play, found) for play in plays if (found := compared(play)))
    smaller, same = least(play, found)
    assert same.sort == found.sort
    assert len(smaller.steps) <= 6
    assert "expiring" in shown(smaller, same)


@pytest.mark.parametrize(
    ("kind", "code", "wrong"),
    [
        ("redeem", "member_blocked", "member_not_found"),
        ("redeem", "member_blocked", "member_erased"),
        ("redeem", "insufficient_points", "payment_refused"),
        ("reversal", "more_than_bought", "line_not_found"),
        ("reversal", "line_not_found", "more_than_bought"),
        ("award", "event_too_late", "event_in_future"),
        ("award", "member_not_found", "event_too_late"),
        ("award", "member_not_found", "member_erased"),
        ("transfer", "member_closed", "member_blocked"),
        ("approve", "same_person", "adjustment_settled"),
    ],
)
def test_a_refusal_that_does_not_apply_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kind: str, code: str, wrong: str
) -> None:
    def mistaken(asked: str, answer: Any) -> Told:
        found = told(asked, answer)
        if (asked, found.get("code")) != (kind, code):
            return found
        besides = {"adjustment_status": "approved"} if wrong == "adjustment_settled" else {}
        return {"ok": False, "code": wrong, **besides}

    monkeypatch.setattr(differential, "told", mistaken)
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


@pytest.mark.parametrize("name", ["missing_points", "next_allowed_at"])
def test_what_a_refusal_tells_besides_is_compared(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def mistaken(asked: str, answer: Any) -> Told:
        found = told(asked, answer)
        return found if found["ok"] or name not in found else found | {name: found[name] + 1}

    monkeypatch.setattr(differential, "told", mistaken)
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


def test_points_that_an_erasure_leaves_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Posting("erase", 0)
    monkeypatch.setattr(lifecycle, "_everything", lambda *_: nothing)
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


def test_limits_that_are_not_told_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "limited_by", lambda *_: [])
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


@pytest.mark.parametrize("name", ["points", "desired_points"])
def test_the_numbers_of_an_explanation_are_compared(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    explained(monkeypatch, lambda row: row | {name: row[name] + 1})
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


@pytest.mark.parametrize("kind", ["line", "tier", "campaign"])
def test_factors_that_are_not_told_are_noticed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    explained(
        monkeypatch,
        lambda row: row | {"factors": [f for f in row["factors"] if f["kind"] != kind]},
    )
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


@pytest.mark.parametrize(
    ("reason", "wrong"),
    [
        ("min_amount", "no_matching_line"),
        ("no_matching_line", "channel"),
        ("not_started", "ended"),
        ("ended", "not_started"),
        ("inactive", "ended"),
        ("group", "tier"),
        ("weekday", "hours"),
        ("not_first_purchase", "after_last"),
        ("frequency", "cooldown"),
        ("cooldown", "frequency"),
        ("limit", "frequency"),
        ("excluded", "after_last"),
        ("after_last", "excluded"),
    ],
)
def test_a_reason_that_does_not_apply_is_noticed(
    monkeypatch: pytest.MonkeyPatch, reason: str, wrong: str
) -> None:
    explained(
        monkeypatch,
        lambda row: row | {"reason": wrong if row["reason"] == reason else row["reason"]},
    )
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


def explained(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Told], Told]) -> None:
    """Every row of an explanation with a mistake in it."""
    explain = projections.explain
    monkeypatch.setattr(projections, "explain", lambda *of: [mistake(row) for row in explain(*of)])


@pytest.mark.parametrize("name", ["next_tier", "points_to_next", "until", "multiplier"])
def test_what_is_told_of_a_tier_is_compared(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tier = projections._tier

    def mistaken(*of: Any) -> Any:
        shown: Any = tier(*of)
        return shown and {each: value for each, value in shown.items() if each != name}

    monkeypatch.setattr(projections, "_tier", mistaken)
    assert any(compared(scenario(seed, LENGTH)) for seed in PLAYED)


@pytest.mark.parametrize("name", ["kind", "points", "balance_after"])
def test_the_history_is_compared(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = projections.history_rows

    def mistaken(rulebook: Rulebook, entry: Entry) -> Iterator[Any]:
        for row in rows(rulebook, entry):
            wrong: Any = {"kind": "award", "points": row["points"] + 1}
            wrong["balance_after"] = row["balance_after"] + 1
            yield row | {name: wrong[name]} if row["kind"] == "cancel" else row

    monkeypatch.setattr(projections, "history_rows", mistaken)
    found = next(found for seed in PLAYED if (found := compared(scenario(seed, LENGTH))))
    assert found.sort == "the history of"


def test_balances_in_the_past_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    as_of = projections.balance_as_of

    def now(rulebook: Rulebook, history: Any, member: Account, at: int) -> Any:
        return as_of(rulebook, history, member, at + DAY)

    monkeypatch.setattr(projections, "balance_as_of", now)
    found = next(found for seed in PLAYED if (found := compared(scenario(seed, LENGTH))))
    assert found.sort.startswith("what had:")


def test_a_scenario_is_the_same_for_the_same_seed() -> None:
    assert scenario(7, LENGTH) == scenario(7, LENGTH) != scenario(8, LENGTH)


@pytest.mark.parametrize("first", range(1, 1 + STORED, STORED // 2))
def test_clients_at_once_and_broken_calls_change_nothing_of_it(engine: Engine, first: int) -> None:
    tally = Tally()
    for seed in range(first, first + STORED // 2):
        found = compared_through_the_store(scenario(seed, LENGTH), seed, engine, tally)
        assert found is None, f"python -m tests.differential --store --seed {seed}\n{found}"
    assert sum(tally.done.values()) > 0.9 * LENGTH * STORED // 2
    # Calls broke in every way, some commands were shed, and of some nobody was told the first time.
    assert tally.faults.keys() == set(SURVIVED)
    assert tally.unavailable
    assert tally.found
    assert "503" in summary(tally)


def test_a_store_that_forgets_its_condition_is_found_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store._put

    def careless(table: str, item: Any, condition: Mapping[str, Any]) -> Any:
        unseen = condition.get("ConditionExpression") == "n = :n"
        return put(table, item, {} if unseen else condition)

    monkeypatch.setattr(store, "_put", careless)
    plays = ((seed, scenario(seed, LENGTH)) for seed in range(1, 1 + STORED))
    assert any(compared_through_the_store(play, seed, engine, Tally()) for seed, play in plays)
