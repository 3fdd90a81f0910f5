"""Mutants are real changes of real functions, each under a name of its own."""

from __future__ import annotations

from datetime import date
from types import FunctionType

import pytest

from loyalty import dates
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
