"""Five thousand bent requests at every run; `make fuzz` sends two hundred thousand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tools import fuzz, generated, mutations
from tools.engine import Engine, Tables
from tools.inside import Answer, Inside
from tools.issuer import Issuer

OURS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "key.pem"
    Issuer(path, "")
    return path


@pytest.mark.parametrize("first", [0, 1000, 2000, 3000, 4000])
def test_no_bent_request_breaks_a_promise(engine: Engine, key: Path, first: int) -> None:
    result = fuzz.run(11, range(first, first + 1000), engine.endpoint, key)
    assert result.faults == []
    assert result.cases == 1000
    # It reaches into the service, and not only to its doors.
    assert result.statuses["200"] > 50
    assert result.statuses["201"] > 20
    assert len(result.codes) > 20


def test_what_is_generated_from_the_document_is_answered_as_the_document_says(
    engine: Engine, key: Path
) -> None:
    result = generated.run(1, 150, slice(0, None, 3), engine.endpoint, key)
    assert result.faults == []
    assert result.cases > 20


# A fuzzer that finds nothing has to show that it can.


@pytest.fixture
def world(engine: Engine, new_tables: Callable[[], Tables], key: Path) -> Iterator[fuzz.World]:
    with Inside(engine.endpoint, new_tables(), key=key) as service:
        yield fuzz.World(service, fuzz.samples(), fuzz.contract())


def answered(world: fuzz.World, name: str) -> tuple[fuzz.Case, Answer]:
    case = world.plain(world.samples[name], world.callers["admin"])
    return case, world.send(case)


def changed(answer: Answer, **what: Any) -> Answer:
    fields = {name: getattr(answer, name) for name in Answer.__slots__}
    return Answer(**fields | what)


def test_a_good_answer_has_no_faults(world: fuzz.World) -> None:
    for name in ("balance", "entries", "page", "poster_svg", "get_program", "award_purchase"):
        case, answer = answered(world, name)
        assert list(fuzz.faults_of(world, case, answer)) == [], name


def test_every_broken_promise_is_noticed(world: fuzz.World) -> None:
    case, good = answered(world, "balance")
    body = json.loads(good.content)
    refused = world.send(fuzz.Case("GET", case.target + "?as_of=x", case.headers, b"", "admin"))
    problem = json.loads(refused.content)

    def faults(answer: Answer) -> list[str]:
        return list(fuzz.faults_of(world, case, answer))

    assert refused.status == 400
    assert faults(refused) == []
    broken: dict[str, Answer] = {
        "5xx": changed(good, status=500),
        "another status": changed(good, status=201),
        "another type": changed(good, headers=good.headers | {"content-type": "text/plain"}),
        "a field more": changed(good, content=json.dumps(body | {"secret": 1}).encode()),
        "a field less": changed(good, content=json.dumps({"available": 1}).encode()),
        "a float": changed(good, content=json.dumps(body | {"available": 1.5}).encode()),
        "may be stored": changed(good, headers=good.headers | {"cache-control": "public"}),
        "another code": changed(refused, content=json.dumps(problem | {"code": "no"}).encode()),
        "a code of another status": changed(
            refused, content=json.dumps(problem | {"code": "forbidden"}).encode()
        ),
        "a refusal that writes": changed(refused, writes=1),
        "slow": changed(good, cpu_seconds=1.1),
        "a secret": changed(good, content=good.content.replace(b"mila", fuzz.SECRET.encode())),
        "a traceback": changed(good, content=good.content.replace(b"mila", b"Traceback (most")),
        "two lines": changed(good, headers=good.headers | {"etag": "a\r\nb"}),
    }
    for what, answer in broken.items():
        assert faults(answer), what
    page, html = answered(world, "page")
    tagged = changed(html, content=html.content + mutations.MARK.encode())
    assert list(fuzz.faults_of(world, page, tagged))
    bare = changed(html, headers={"content-type": "text/html", **OURS})
    assert list(fuzz.faults_of(world, page, bare))


def test_a_case_is_the_same_whenever_it_is_made(world: fuzz.World) -> None:
    def shown(number: int) -> str:
        return world.case(Random(f"1:{number}"), number).shown()  # noqa: S311  # no secret

    first = [shown(number) for number in range(200)]
    assert [shown(number) for number in range(200)] == first
    assert len(set(first)) > 190


def test_bodies_are_bent_in_every_way() -> None:
    body = '{"a": [1, "x", {"b": true}], "occurred_at": "2026-03-02T10:15:00Z"}'
    made = []
    for number in range(3000):
        chance = Random(number)  # noqa: S311  # no secret
        made.append(mutations.rendered(mutations.bend(chance, mutations.parsed(body), ["c"])))
    text = "\n".join(made)
    for wanted in ("NaN", "1e400", '"c":', "[[[[[", "null", "9" * 400, "2026-02-29"):
        assert wanted in text, wanted
    assert any(each.count('"a"') > 1 for each in made), "a name that comes twice"
    assert any(max(map(ord, each)) > 0xFFFF for each in made), "a plane beyond the first"
