"""The engine and the naive ledger of the reference model say the same: 50,000 random commands."""

from __future__ import annotations

import pytest

from tests import differential
from tests.differential import CHUNK, LENGTH, READINGS, compared, least, run, shown
from tests.scenarios import KINDS, scenario

CHUNKS = 10


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


def test_a_scenario_is_the_same_for_the_same_seed() -> None:
    assert scenario(7, LENGTH) == scenario(7, LENGTH) != scenario(8, LENGTH)
