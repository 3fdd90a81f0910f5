"""The documents say what the code does: links lead somewhere, tables and examples are true."""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import pytest

from loyalty import edge, lifecycle, validation, wire
from loyalty.dates import milliseconds
from loyalty.decisions import Decision
from loyalty.edge import App, Request, Response
from loyalty.model import Known
from loyalty.problems import PROBLEMS
from loyalty.store import KeyReused, Unavailable
from loyalty.validation import Faults
from tests import workers
from tests.programs import smallest
from tests.workers import Call, deployed, done
from tools.engine import Engine, Tables
from tools.openapi import apps
from tools.template import ROOT

DOCS = ROOT / "docs"
ERRORS = DOCS / "errors.md"
TABLES = DOCS / "tables.md"
SOURCES = sorted([*(ROOT / "shared" / "loyalty").glob("*.py"), *(ROOT / "functions").glob("*.py")])


def documents() -> list[Path]:
    """Every Markdown file of the project; what tools keep in hidden folders is not its own."""
    found = []
    for folder, folders, files in ROOT.walk():
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [folder / name for name in files if name.endswith(".md")]
    return sorted(found)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """The document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """Its blocks of code in a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def rows(path: Path, heading: str, first: str) -> list[list[str]]:
    """The cells of all rows under a heading, of tables whose first column has this name."""
    _, _, rest = path.read_text("utf-8").partition(f"\n## {heading}\n")
    assert rest, f"{named(path)} has no heading {heading!r}"
    found: list[list[str]] = []
    head: list[str] = []
    for line in rest.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif head[0] == first and not line.startswith("|--"):
            found.append(cells)
    return found


def code(cell: str) -> str:
    assert re.fullmatch(r"`[^`]+`", cell), f"{cell!r} is not in code style"
    return cell.strip("`")


DOCUMENTS = documents()
of_each = pytest.mark.parametrize("document", DOCUMENTS, ids=named)


# Every document


@of_each
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue  # another site, which no test asks
        path, _, anchor = target.partition("#")
        there = (document.parent / unquote(path)).resolve() if path else document
        assert there.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(there), f"{target}: there is no such heading"


def anchors(path: Path) -> set[str]:
    """What GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@of_each
def test_json_in_documents_is_json(document: Path) -> None:
    for block in blocks(document, "json"):
        json.loads(block)


@of_each
def test_documents_stand_alone(document: Path) -> None:
    """They speak of the project, not of how it came about."""
    words = re.compile(r"/work\b|\bsessions?\b|\bprompts?\b", re.IGNORECASE)
    assert not words.findall(document.read_text("utf-8"))


def test_every_decision_is_a_record_of_half_a_page() -> None:
    records = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert numbers == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. "), named(path)
        assert re.findall(r"^\*\*(\w+)", text, re.MULTILINE) == [
            "Question", "Choice", "Why", "Cost", "Look",
        ], named(path)  # fmt: skip
        assert len(text.split()) < 400, f"{named(path)} is longer than half a page"


# The map


@pytest.mark.parametrize("document", ["docs/architecture.md", "README.md"])
def test_every_module_is_on_the_map(document: str) -> None:
    names = set(re.findall(r"`([\w.]+)`", (ROOT / document).read_text("utf-8")))
    modules = {path.stem for path in SOURCES} - {"__init__"}
    assert not modules - names, "not named"


def test_every_verb_of_make_is_told() -> None:
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    verbs = re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE)
    assert "test" in verbs
    told = "".join((ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    assert not [verb for verb in verbs if not re.search(rf"make {verb}\b(?!-)", told)]


def test_contributing_is_one_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) <= 80


# Problems

INTERNAL = {
    # Raised by the sweep for itself: somebody else wrote down what was due. It answers no request.
    "nothing_due",
}


def test_the_table_of_problems_is_the_one_in_the_code() -> None:
    told = {code(row[0]): int(row[1]) for row in rows(ERRORS, "Problems", "code")}
    assert told == {name: status for name, (status, _) in PROBLEMS.items()}


def test_every_code_that_is_raised_is_a_problem_and_every_problem_is_raised() -> None:
    raised = set(called("Refusal", 0)) | set(called("Problem", 0))
    assert raised - set(PROBLEMS) == INTERNAL
    assert raised | answered() - INTERNAL >= set(PROBLEMS)


def test_every_problem_that_a_route_announces_is_one() -> None:
    for app in apps():
        for route in app.routes.values():
            assert set(route.problems) <= set(PROBLEMS), route.operation


def called(function: str, position: int) -> Iterator[str]:
    """The texts that stand at a position in all calls of a function."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == function:
                argument = node.args[position] if len(node.args) > position else None
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


def answered() -> set[str]:
    """The codes that exceptions without one of their own are answered with."""
    return {_answer(error) for error in (Faults([]), KeyReused(), Unavailable(), KeyError())}


def _answer(error: Exception) -> str:
    app = App()

    @app.route("GET", "/fails", operation="fails", answers={})
    def fails(_: Request) -> Response:
        raise error

    event = {"routeKey": "GET /fails", "headers": {}, "requestContext": {"requestId": "1"}}
    problem = json.loads(app(event, None)["body"])
    return str(problem["code"])


def test_the_table_of_a_bodys_faults_is_the_one_in_the_code() -> None:
    in_code = set(edge._FAULTS.values())
    in_code |= set(called("PydanticCustomError", 0)) | set(called("_error", 1))
    told = {code(row[0]) for row in rows(ERRORS, "Faults of a body or a query", "code")}
    assert told == in_code


def test_the_table_of_a_programs_faults_is_the_one_in_the_code() -> None:
    # Faults are made by fault(code, …) and Fault(place, code, …), or yielded as (place, code, …).
    in_code = {code for code, _ in validation._WORDS.values()}
    in_code |= {*called("fault", 0), *called("Fault", 1), *called("_references", 3)}
    for node in ast.walk(ast.parse(Path(validation.__file__).read_text("utf-8"))):
        match node:
            case ast.Tuple(elts=[place, ast.Constant(value=str(name)), _]):
                if not isinstance(place, ast.Constant | ast.Starred):
                    in_code.add(name)
    told = {code(row[0]) for row in rows(ERRORS, "Faults of a program", "code")}
    assert told == in_code


# Tables


def test_the_short_names_in_the_document_are_those_of_the_code() -> None:
    assert wire.__doc__
    for what in ("Account", "Entry"):
        text = re.search(rf"^{what}: (.+?)\.( |\n\n|$)", wire.__doc__, re.MULTILINE | re.DOTALL)
        assert text
        short = {part.split()[0] for part in text[1].split(",")}
        heading = "Accounts" if what == "Account" else "Ledger"
        told = {code(row[0]) for row in rows(TABLES, heading, "name")}
        assert told == short


STORY = smallest(
    program_id="shop",
    expiry=[{"after": "P12M", "round_up_to": "month"}],
    pending={"purchase": "P14D"},
    rules=[
        {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 50}},
        {"rule_id": "purchase", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}},
        {
            "rule_id": "visit",
            "trigger": "check_in",
            "earn": {"points": 10},
            "frequency": [{"times": 2, "per": "week"}],
        },
        {
            "rule_id": "review",
            "trigger": "review",
            "earn": {"points": 5},
            "frequency": [{"every": "PT4H"}],
        },
    ],
    rewards=[{"reward_id": "coffee", "kind": "product", "cost": 60, "voucher_validity": "P30D"}],
    locations=[{"location_id": "corner", "check_in": {"limits": [{"times": 1, "per": "day"}]}}],
)
"""The program of the example items."""


def test_the_example_items_are_what_the_code_writes(engine: Engine, tables: Tables) -> None:
    written = story(engine, tables)
    shown = [json.loads(block) for block in blocks(TABLES, "json")]
    assert len(shown) > 8
    for item in shown:
        assert item in written, f"{item['pk']} {item.get('sk')} is written otherwise"


def story(engine: Engine, tables: Tables) -> list[dict[str, Any]]:
    """Every item that stood in the tables at any time of a short life, bytes as base64."""
    client = engine.client()
    found: list[dict[str, Any]] = []

    def look() -> None:
        for table in (tables.accounts, tables.ledger, tables.records):
            found.extend(map(readable, client.scan(TableName=table)["Items"]))

    steps: list[tuple[str, Call]] = [
        ("2026-02-20T09:00", workers.publish(STORY)),
        ("2026-02-20T10:00", workers.enrol("ada", name="Ada", groups=["vip"])),
        ("2026-03-02T10:00", workers.purchase("order-1", "ada", 1250, 2000)),
        ("2026-03-03T10:00", workers.check_in("ada", "visit-1")),
        ("2026-03-04T10:00", workers.award("review-1", "ada")),
        ("2026-03-20T10:00", workers.redeem("ada", "till-7", reward_id="coffee")),
        ("2026-03-21T10:00", workers.reverse("order-1", "return-1")),
    ]
    for at, call in steps:
        now = datetime.fromisoformat(at).replace(tzinfo=UTC)
        salted = mock.patch("members.token_bytes", return_value=b"no random bytes!")
        with deployed(workers.connect(engine.endpoint), tables, now), salted:
            done(call)
        look()
    store = workers.of_tables(workers.connect(engine.endpoint), tables)
    account = store.account("shop", "ada")
    assert account
    now_ms = milliseconds(datetime(2027, 4, 1, 1, tzinfo=UTC))

    def decide(known: Known) -> Decision:
        decision = lifecycle.sweep(store.rulebook("shop", 1), known.account("ada"), now_ms)
        assert decision
        return decision

    store.commit("shop", ["ada"], lifecycle.guard(account), decide)
    look()
    return found


def readable(item: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An item as the document shows it."""
    return {
        name: {"B": base64.b64encode(bytes(value["B"])).decode()} if "B" in value else value
        for name, value in item.items()
    }


# The threats


def test_every_test_that_the_threats_name_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, name in named:
        source = (ROOT / path).read_text("utf-8")
        functions = {
            node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
        }
        assert not name or name in functions, f"{path} has no {name}"


def test_every_threat_has_controls_and_every_control_a_test() -> None:
    found = rows(ROOT / "SECURITY.md", "Threats", "threat")
    threats = [row[0] for row in found if row[0]]
    assert found[0][0]
    assert [threat.split()[0] for threat in threats[:10]] == [f"API{n}" for n in range(1, 11)]
    for _, control, tests in found:
        assert control
        assert "`tests/" in tests, control
