"""Mutants are real changes of real functions, each under a name of its own."""

from __future__ import annotations

from collections import Counter
from datetime import date
from types import FunctionType

import pytest

from loyalty import dates
from tests.test_imports import DOMAIN
from tools import mutate


@pytest.mark.parametrize("module", mutate.MODULES)
def test_every_mutant_has_a_name_of_its_own(module: str) -> None:
    names = [mutant.where for mutant in mutate.mutants(module)]
    assert names
    assert len(set(names)) == len(names)


def test_a_mutant_is_its_function_with_one_change() -> None:
    name = "dates.day_number: day.toordinal() + EPOCH for day.toordinal() - EPOCH"
    [mutant] = [m for m in mutate.mutants("dates") if m.where == name]
    changed = FunctionType(mutant.code, dates.day_number.__globals__)
    day = date(2026, 3, 18)
    assert changed(day) == dates.day_number(day) + 2 * dates.EPOCH


def test_what_is_listed_as_equivalent_is_a_mutant_with_a_reason() -> None:
    there = {m.where for module in mutate.MODULES for m in mutate.mutants(module)}
    for name, why in mutate.equivalent().items():
        assert name in there
        assert why


def test_of_the_domain_everything_is_mutated_or_said_not_to_be() -> None:
    assert len(set(mutate.MODULES)) == len(mutate.MODULES)
    assert set(mutate.MODULES) | mutate.LEFT_OUT.keys() == DOMAIN
    assert not set(mutate.MODULES) & mutate.LEFT_OUT.keys()


def test_a_score_is_a_hundred_only_where_none_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [mutant.where for mutant in mutate.mutants("lots")]
    same = {name for name in mutate.equivalent() if name.startswith("lots.")}
    lost, *_ = (name for name in everything if name not in same)
    for survivors, score, ending in (
        ({lost}, "99.2 %", f"mutants tried, 1 survive:\n\n- `{lost}`\n\nOf the domain"),
        (set(), "100.0 %", "mutants tried, 0 survive.\n\nOf the domain"),
    ):
        known = {m: "survived" if m in survivors | same else "killed" for m in everything}
        monkeypatch.setattr(mutate, "verdicts", lambda _, known=known: known)
        text = mutate.table(["lots"])
        killed = len(everything) - len(same) - len(survivors)
        row = f"{len(everything)} | {len(same)} | {killed} | {len(survivors)} | {score} |"
        assert f"| `lots` | {row}" in text
        assert ending in text
    assert (
        mutate._row("x", Counter(killed=3034, survived=1))
        == "| x | 3,035 | 0 | 3,034 | 1 | 99.9 % |"
    )
