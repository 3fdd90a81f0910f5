"""Versions of a program that change how time passes: what fell due under one stays so under the
next, whether or not anybody had written it down."""

from __future__ import annotations

from typing import Any

import pytest

from loyalty import edge
from loyalty.store import Version, former_reigns
from tests import workers
from tests.programs import smallest
from tests.workers import House, done
from tools import meter
from tools.engine import Engine, Tables

REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 10}}
LEVELS = [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 10}]
FALLING = {"window": {"rolling": "P5D"}, "downgrade": {"steps": "full"}, "levels": LEVELS}
STAYING = FALLING | {"downgrade": {"steps": "none"}}


@pytest.fixture
def house(engine: Engine, tables: Tables) -> House:
    return House(engine, tables)


def publish(replaces: int | None = None, **sections: Any) -> None:
    document = smallest(program_id="shop", rules=[REVIEW], **sections)
    assert done(workers.publish(document, replaces))["version"] == (replaces or 0) + 1


def balance() -> dict[str, Any]:
    answer: dict[str, Any] = done(workers.balance("ana"))
    return answer


@pytest.mark.parametrize("swept", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ({"expiry": [{"inactive_for": "P5D"}]}, {}, (0, None)),
        ({"expiry": [{"inactive_for": "P5D"}]}, {"expiry": [{"inactive_for": "P1Y"}]}, (0, None)),
        ({"tiers": FALLING}, {"tiers": STAYING}, (10, "base")),
    ],
    ids=["inactivity is dropped", "inactivity is longer", "tiers never fall again"],
)
def test_what_fell_due_does_not_come_back_with_a_new_version(
    house: House,
    swept: bool,
    before: dict[str, Any],
    after: dict[str, Any],
    shown: tuple[int, str | None],
) -> None:
    with house.on(0):
        publish(**before)
        done(workers.enrol("ana"))
        done(workers.award("first", "ana"))
    with house.on(6):
        if swept:
            house.sweep()
        publish(1, **after)
    with house.on(7):
        seen = balance()
        assert (seen["available"], (seen["tier"] or {}).get("id")) == shown
        done(workers.award("second", "ana"))
        assert balance()["available"] == shown[0] + 10
        assert balance()["lifetime_points"] == 20
        house.accounts()
    with house.on(8):
        then = done(workers.balance("ana", as_of="2026-03-25T12:00:00Z"))
        assert then["available"] == shown[0] + 10
        past = done(workers.balance("ana", as_of="2026-03-25T11:59:59Z"))
        assert past["available"] == shown[0]


def test_what_the_versions_between_let_go_is_gone(house: House) -> None:
    """The second version lets points go after five days, the third keeps them: nobody looked."""
    with house.on(0):
        publish()
        done(workers.enrol("ana"))
        done(workers.award("first", "ana"))
    with house.on(2):
        publish(1, expiry=[{"inactive_for": "P5D"}])
    with house.on(6):
        publish(2)
    with house.on(9):
        assert balance()["available"] == 0


def test_a_version_that_ends_on_the_day_before_lets_nothing_go(house: House) -> None:
    with house.on(0):
        publish(expiry=[{"inactive_for": "P5D"}])
        done(workers.enrol("ana"))
        done(workers.award("first", "ana"))
    with house.on(4):
        publish(1)
    with house.on(9):
        assert balance()["available"] == 10


@pytest.mark.parametrize(
    ("sections", "kind"),
    [
        ({"expiry": [{"inactive_for": "P5D"}]}, "expire"),
        ({"expiry": [{"after": "P30D"}], "notifications": {"expiring": ["P20D"]}}, "notice"),
    ],
    ids=["inactivity", "notices"],
)
def test_the_sweep_finds_what_a_new_version_has_made_due(
    house: House, sections: dict[str, Any], kind: str
) -> None:
    """Of who has stood still since, the due date is that of an older version."""
    with house.on(0):
        publish(expiry=[{"after": "P30D"}])
        done(workers.enrol("ana"))
        done(workers.award("first", "ana"))
    with house.on(1):
        publish(1, **sections)
    with house.on(12):
        house.sweep()
        books = house.books().without_jobs
        house.sweep()
        assert house.books().without_jobs == books
        [(_, entries)] = workers.proved(house.direct, house.tables).values()
        assert [entry.kind for entry in entries] == ["enrol", "award", kind]


def test_versions_under_which_time_passes_alike_are_not_read(house: House) -> None:
    with house.on(0):
        publish(expiry=[{"after": "P30D"}])
        done(workers.enrol("ana"))
    for version in range(1, 4):
        with house.on(version):
            publish(version, expiry=[{"after": "P30D"}], name=f"Version {version}")
    with house.on(9):
        edge.store().rulebook_in_force("shop", 10**13)
        with meter.measure() as units:
            assert balance()["available"] == 0
        assert (units.read, units.write) == (0.5, 0)


def version(number: int, effective_at: int, passing: str) -> Version:
    return Version(
        number=number,
        effective_at=effective_at,
        published_at=0,
        published_by="tests",
        digest="",
        parts=1,
        passing=passing,
    )


@pytest.mark.parametrize(
    ("versions", "reigns"),
    [
        ([(0, "a")], []),
        ([(0, "a"), (10, "a"), (20, "a")], []),
        ([(0, "a"), (10, "b")], [(1, 10)]),
        ([(0, "a"), (10, "a"), (20, "b"), (30, "b")], [(2, 20)]),
        ([(0, "a"), (10, "b"), (20, "a")], [(1, 10), (2, 20)]),
        # The second was never in force: the third, from a server whose clock is behind, came first.
        ([(0, "a"), (20, "b"), (15, "a")], []),
        ([(0, "a"), (20, "b"), (15, "c")], [(1, 15)]),
    ],
)
def test_reigns_by_other_terms(
    versions: list[tuple[int, str]], reigns: list[tuple[int, int]]
) -> None:
    known = [version(number, *rest) for number, rest in enumerate(versions, 1)]
    assert former_reigns(known[::-1]) == reigns
