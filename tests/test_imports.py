"""Who may import whom: the domain knows neither the cloud nor the clock, and imports go one way."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tools.template import ROOT

LAYERS = (
    {"dates"},
    {"model"},
    {"fields"},
    {"program"},
    {"validation"},
    {"tiers", "limits", "commands", "codes", "budgets"},
    {"lots", "rounding"},
    {"rules"},
    {"decisions", "explanations"},
    {"referrals", "redeeming", "lifecycle", "transfers", "adjusting"},
    {"refunds"},
    {"earning"},
    {"celebrations", "projections"},
    {"advice", "notices"},
)
"""The domain, from below: a module imports those of the layers before its own."""

BESIDE = {
    # How things are written to the tables knows the nouns, and nothing that decides.
    "wire": {"dates", "model"},
    "contention": set(),
    "store": {
        "dates", "model", "program", "validation", "rules", "codes", "decisions", "wire", "budgets",
        "contention",
    },
    "pages": {"program"},
    "poster": {"program", "pages"},
    "problems": set(),
    "edge": {
        "dates", "model", "validation", "codes", "commands", "decisions", "rules", "projections",
        "store", "pages", "problems",
    },
    "history": {"model", "projections", "edge"},
    "segments": {"dates", "decisions", "store", "edge"},
    # What holds the laws against stored items knows how they are stored, and touches no table.
    "verification": {
        "dates", "model", "program", "codes", "limits", "rules", "decisions", "redeeming",
        "refunds", "earning", "wire",
    },
}  # fmt: skip
"""Modules beside the domain, and what each may import; the domain imports none of them."""

SDK = {"boto3", "botocore", "mypy_boto3_dynamodb", "mypy_boto3_sqs"}

OFFLINE = {
    "__future__", "abc", "aws_lambda_powertools", "aws_lambda_powertools.metrics", "base64",
    "binascii", "bisect", "calendar", "collections", "collections.abc", "contextlib", "contextvars",
    "dataclasses", "datetime", "fractions", "functools", "gzip", "hashlib", "heapq", "hmac", "html",
    "io", "itertools", "json", "math", "operator", "os", "pathlib", "pydantic", "pydantic_core",
    "random", "re", "secrets", "segno", "time", "types", "typing", "unicodedata", "urllib.parse",
    "uuid", "xml.sax.saxutils", "zoneinfo",
}  # fmt: skip
"""Modules from elsewhere that connect to nothing, whatever they are given. Connections are made by
the SDK alone, and to AWS alone."""

LOYALTY = {path.stem: path for path in (ROOT / "shared" / "loyalty").glob("*.py")}
DOMAIN = {name for layer in LAYERS for name in layer}
FUNCTIONS = {path.stem: path for path in (ROOT / "functions").glob("*.py")}
MODULES = LOYALTY | FUNCTIONS


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), path.name)


def modules(path: Path) -> set[str]:
    """The modules that are imported, or out of which something is."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
    return names


def imported(path: Path) -> set[str]:
    """Every module that is imported, anywhere in the file, as `a.b.c`."""
    names = modules(path)
    for node in ast.walk(tree(path)):
        match node:
            case ast.ImportFrom(module=module, names=aliases, level=level):
                assert level == 0, f"{path.name}: imports are absolute"
                assert module is not None
                # `from loyalty import store` names a module, `from loyalty.store import Store` not.
                names |= {f"{module}.{alias.name}" for alias in aliases}
    return names


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def of_loyalty(path: Path) -> set[str]:
    """The modules of `loyalty` that are imported."""
    parts = [name.split(".") for name in imported(path)]
    return {name[1] for name in parts if name[0] == "loyalty" and len(name) > 1} & set(LOYALTY)


def attributes(path: Path) -> Iterator[str]:
    """Every dotted name that the file reads, `os.environ` as `os.environ`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def test_every_module_has_its_place() -> None:
    assert set(LOYALTY) == DOMAIN | set(BESIDE) | {"__init__"}
    assert not of_loyalty(LOYALTY["__init__"])


@pytest.mark.parametrize("name", sorted(DOMAIN))
def test_the_domain_imports_downwards_only(name: str) -> None:
    below: set[str] = set()
    for layer in LAYERS:
        if name in layer:
            break
        below |= layer
    wrong = of_loyalty(LOYALTY[name]) - below
    assert not wrong, f"{name} imports upwards or sideways: {sorted(wrong)}"


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_a_module_beside_the_domain_imports_what_it_is_for(name: str) -> None:
    assert of_loyalty(LOYALTY[name]) <= BESIDE[name]


def test_only_the_store_knows_the_sdk() -> None:
    assert {name for name, path in MODULES.items() if packages(path) & SDK} == {"store"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_can_connect_to_anything_but_by_the_sdk(name: str) -> None:
    path = MODULES[name]
    used = modules(path) | {each for each in attributes(path) if each.startswith("urllib.")}
    others = {m for m in used if m.partition(".")[0] not in {"loyalty", *SDK}}
    assert others <= OFFLINE
    assert {each for each in attributes(path) if each.startswith("os.")} <= {"os.environ"}
    names = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    assert not names & {"__import__", "eval", "exec", "compile", "open", "globals", "__builtins__"}


def test_the_sdk_is_asked_for_services_of_aws_and_for_nothing_else() -> None:
    store = MODULES["store"]
    assert {each for each in modules(store) if each.partition(".")[0] in SDK} == {
        "botocore.config", "botocore.exceptions", "botocore.session", "mypy_boto3_dynamodb",
    }  # fmt: skip
    calls = [node for node in ast.walk(tree(store)) if isinstance(node, ast.Call)]
    clients = [call for call in calls if ast.unparse(call.func) == "_client"]
    assert [ast.unparse(call) for call in calls if "create_client" in ast.unparse(call.func)] == [
        "_session().create_client(service, **settings)"
    ]
    assert {call.args[0].value for call in clients if isinstance(call.args[0], ast.Constant)} == {
        "dynamodb", "events", "secretsmanager", "sqs",
    }  # fmt: skip
    assert all(isinstance(call.args[0], ast.Constant) for call in clients)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"edge"}))
def test_only_the_edge_reads_the_environment_and_the_clock(name: str) -> None:
    names = set(attributes(MODULES[name]))
    from_time = {"time.time", "time.time_ns", "time.localtime", "time.gmtime"}
    now = {f"{what}.{how}" for what in ("datetime", "date") for how in ("now", "utcnow", "today")}
    environment = {"os.environ", "os.environb", "os.getenv"}
    assert not names & (from_time | now | environment)
    assert not imported(MODULES[name]) & {
        "os.environ", "os.getenv", "time.time", "time.time_ns"
    }  # fmt: skip


def test_the_clock_is_always_asked_for_in_its_place() -> None:
    """A test clock is put in the place of `edge.clock`: a name bound elsewhere would not see it."""
    for name, path in FUNCTIONS.items():
        assert "loyalty.edge.clock" not in imported(path), f"{name} binds the clock's name"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_stands_alone(name: str) -> None:
    others = set(FUNCTIONS) - {name}
    assert not packages(FUNCTIONS[name]) & others, "a function imports another one"
    assert "tools" not in packages(FUNCTIONS[name])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_read_or_connected_at_import(name: str) -> None:
    """What runs at import is definitions: no environment, no client, no file."""
    calls = {"open", "print", "input", "exec", "eval"}
    assert calls <= set(dir(builtins))
    for node in tree(MODULES[name]).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                assert inner.func.id not in calls
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                assert f"{inner.value.id}.{inner.attr}" not in {
                    "os.environ", "os.getenv", "boto3.client", "boto3.resource", "sys.path"
                }  # fmt: skip


def test_no_import_is_a_trick() -> None:
    """No path is changed, no import is tried and forgiven, nothing is loaded by its name."""
    for name, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Try):
                tried = {type(each) for statement in node.body for each in ast.walk(statement)}
                assert not tried & {ast.Import, ast.ImportFrom}, f"{name} forgives an import"
        assert "sys.path" not in set(attributes(path)), name
        assert not packages(path) & {"importlib", "imp", "runpy"}, name


def test_no_test_reaches_into_the_path_either() -> None:
    for path in (ROOT / "tests").glob("*.py"):
        assert "sys.path" not in set(attributes(path)), path.name
