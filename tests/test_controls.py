"""The tests that SECURITY.md names notice when the control beside them is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.controls import SWITCHES, Verdicts, named
from tools.template import ROOT

PARTS = 2


def verdicts(*options: str) -> Verdicts:
    # A process of its own: it runs tests, and forks for each control.
    command = [sys.executable, "-m", "tests.controls", "--json", *options]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}"}
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    found: Verdicts = json.loads(answer.stdout)
    return found


def test_every_control_of_the_table_can_be_switched_off() -> None:
    assert list(SWITCHES) == list(named())


@pytest.mark.parametrize("part", range(PARTS))
def test_a_control_that_is_missing_is_noticed_by_every_test_that_it_names(part: int) -> None:
    found = verdicts("--part", str(part), "--parts", str(PARTS))
    assert len(found) >= len(SWITCHES) // PARTS
    for control, said in found.items():
        assert said, f"{control}: all its tests ask other processes"
        assert all(said.values()), (control, said)


def test_nothing_is_noticed_where_nothing_is_missing() -> None:
    found = verdicts("--idle", "points")
    assert len(found) > 1
    assert not any(words for said in found.values() for words in said.values())
