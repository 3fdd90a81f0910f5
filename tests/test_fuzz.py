"""Five thousand bent requests at every run; `make fuzz` sends two hundred thousand."""

from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from tools import fuzz, generated, mutations
from tools.engine import Engine, Tables
from tools.gateway import Gateway
from tools.inside import Answer, Inside
from tools.issuer import Issuer
from tools.template import Template

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


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, fuzz.Case]:
    """The cases that are sent from now on, by name."""
    cases = {}

    def judge(world: fuzz.World, case: fuzz.Case, name: str, *more: Any) -> None:
        cases[name] = case
        judged(world, case, name, *more)

    judged = fuzz.judge
    monkeypatch.setattr(fuzz, "judge", judge)
    return cases


def role(case: fuzz.Case) -> str | None:
    """That of the token that goes with a request; None without one."""
    token = dict(case.headers).get(b"authorization")
    if token is None:
        return None
    payload = token.split(b".")[1]
    [scope] = json.loads(urlsafe_b64decode(payload + b"=="))["scope"].split()
    return str(scope).removeprefix("loyalty/")


def test_what_is_generated_for_every_route_and_every_role_is_answered_as_the_document_says(
    engine: Engine, key: Path, sent: dict[str, fuzz.Case]
) -> None:
    result = fuzz.Result()
    for part in range(generated.PARTS):
        result.add(generated.run(1, 3, part, engine.endpoint, key))
    assert result.faults == []
    assert {"200", "201", "400", "401", "403", "404", "422"} <= result.statuses.keys()
    gateway = Gateway(Template.load(), None, None)  # type: ignore[arg-type]  # it only finds routes
    asked = set()
    for case in sent.values():
        if found := gateway.find(case.method, case.target.partition("?")[0]):
            asked.add((found[0].key, role(case)))
    roles = ("admin", "staff", "merchant", "member", None)
    assert asked == {(route, role) for route in fuzz.contract().routes for role in roles}


# Every case can be sent again.


@pytest.mark.parametrize("tool", [fuzz, generated])
def test_a_case_is_the_same_when_another_process_sends_it_again(
    engine: Engine, key: Path, sent: dict[str, fuzz.Case], tool: ModuleType
) -> None:
    if tool is fuzz:
        fuzz.run(7, range(1000, 1040), engine.endpoint, key)
        name = "7:1039"
    else:
        generated.run(7, 3, 2, engine.endpoint, key)
        name = "7:3:2:107"
    again = tool.again([name], key)
    assert again.last.startswith(f"{name}: {sent[name].shown()}\n")
    assert again.cases == list(sent).index(name) + 1


def test_a_case_that_is_sent_again_is_told_with_its_answer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fuzz.Result(cases=12, last="1:11: GET /health\n200 b''", late={"1:3": 1.25})
    monkeypatch.setattr(sys, "argv", ["fuzz", "--replay", "1:11"])
    monkeypatch.setattr(fuzz, "again", lambda names, _: result if names == ["1:11"] else None)
    assert fuzz.main() == 0
    told = capfd.readouterr().out
    assert told == "1:11: GET /health\n200 b''\n1:3: 1.25 s by the clock\n0 faults in 12 cases\n"


# A second by the clock is a fault only where it is one every time.


def test_a_case_is_late_by_the_clock(world: fuzz.World, monkeypatch: pytest.MonkeyPatch) -> None:
    case, good = answered(world, "balance")
    result = fuzz.Result()
    for seconds in (0.2, 1.1, 1.0):
        answer = changed(good, seconds=seconds)
        monkeypatch.setattr(world, "send", lambda _, answer=answer: answer)
        fuzz.judge(world, case, f"took {seconds}", result)
    assert (result.late, result.faults) == ({"took 1.1": 1.1}, [])


def test_a_late_case_is_sent_again_alone_until_it_is_in_time_once() -> None:
    result = fuzz.Result(late={"1:5": 1.2, "1:7": 1.3, "1:9": 9.0})
    answers = [{"1:5", "1:9"}, {"1:6", "1:9"}, {"1:5", "1:9"}, {"1:9"}, {"1:9"}]
    asked = []

    def alone(names: set[str]) -> fuzz.Result:
        asked.append(set(names))
        return fuzz.Result(late=dict.fromkeys(answers[len(asked) - 1], 2.0))

    fuzz.judge_late(result, alone)
    assert asked == [{"1:5", "1:7", "1:9"}, {"1:5", "1:9"}, {"1:9"}, {"1:9"}, {"1:9"}]
    assert result.faults == ["1:9: over 1 s by the clock, 5 times alone too"]
    assert (len(result.late), result.always_late) == (3, 1)


def test_nothing_is_sent_again_where_nothing_was_late() -> None:
    result = fuzz.Result(cases=5)
    fuzz.judge_late(result, lambda _: pytest.fail("nothing was late"))
    assert (result.faults, result.always_late) == ([], 0)


def test_the_report_is_told_by_the_command_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["…/fuzz.py", "--cases", "9", "--seed", "3"])
    command = fuzz.command("tools.fuzz")
    assert command == "python -m tools.fuzz --cases 9 --seed 3"
    text = fuzz.report(fuzz.Result(late={"3:1": 2.0}, always_late=1), command, 3, 2)
    assert "| over one second by the clock, and so sent again alone | 1 |" in text
    assert "| over one second alone too, each of 5 times | 1 |" in text
    assert f" by `{command}`, 2 processes on " in text


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
