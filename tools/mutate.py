"""Mutation testing of the domain: each small change to it must make a test fail.

    python -m tools.mutate [--modules lots,tiers] [--every 1] [--workers 2] [--again] [--write]

Every function of the domain is mutated, but for those that read program documents: comparisons,
arithmetic, constants, conditions, returned values, calls that are left out. The tests are collected
once; a first run notes which functions each of them calls. Those that want tables get them in
memory. Then each mutant gets a child process in which the function's code is swapped (every
importer holds the same function object) and the tests that call it run, the most specific first,
until one fails. A mutant that no test fails for has survived; those that behave like the original
are listed in tools/mutants.toml, each with the reason.

Libraries for this reload the code for each mutant and leave out decorated functions, which took
them hours here where this takes minutes.

`--every 4` tries every fourth mutant, evenly over all functions. Results are kept under
.local/mutants/ as lines of JSON, and a second call goes on where the first one ended; `--again`
begins anew with the modules named.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final
from unittest import mock

import pytest

from loyalty import store
from tests import workers
from tests.memory import MemoryEngine, memory_tables
from tools import engine
from tools.bench import told
from tools.template import Template

ROOT: Final = Path(__file__).parent.parent
DOMAIN: Final = ROOT / "shared" / "loyalty"
RESULTS: Final = ROOT / ".local" / "mutants"
EQUIVALENT: Final = ROOT / "tools" / "mutants.toml"
PROOF: Final = ROOT / "docs" / "proof.md"

MODULES: Final = (
    "dates", "model", "tiers", "limits", "budgets", "commands", "codes", "lots", "rounding",
    "rules", "explanations", "decisions", "referrals", "redeeming", "transfers", "adjusting",
    "lifecycle", "refunds", "earning", "celebrations", "projections", "notices",
)  # fmt: skip
"""What decides, what it is told by commands and codes, and what is answered and told of it."""

LEFT_OUT: Final = {
    "fields": "types of the program document's fields",
    "program": "the program document's model",
    "validation": "what is wrong with a program document",
    "advice": "warnings about a program document",
}
"""The rest of the domain, and what it is: it has tests, and no score."""

TESTS: Final = (
    "account", "adjustments", "advice", "budgets", "catalog", "celebrations", "codes", "commands",
    "dates", "earning", "erasure", "findings", "holds", "laws", "lifecycle", "limits", "lives",
    "lots", "members", "offers", "paid_orders", "partial_refunds", "program", "projections",
    "publish", "redeeming", "referrals", "refunds", "reproduction", "simulate", "tiers", "time",
    "transfers", "versions", "vouchers", "waiting_refunds",
)  # fmt: skip
"""Files with tests of these modules: laws, properties and examples of pure code and of handlers."""

IMPURE: Final = frozenset({"service", "start_service", "browser", "clients"})
"""Fixtures of tests that need more than this process."""
TABLED: Final = frozenset({"engine", "dynamodb", "tables", "new_tables"})
"""Fixtures of tests that need tables, for which those in memory do: a test that asks more of them
is left out."""

BUDGET_SECONDS: Final = 10.0
"""CPU that tests may take for one mutant before it counts as a survivor."""
PATIENCE_SECONDS: Final = 20.0
"""A mutant that takes more CPU than this has made a loop that does not end: killed."""

MEMORY_BYTES: Final = 4 * 2**30
"""A mutant that asks for more fills a list without end: killed."""

type Key = tuple[str, int, str]
"""Module, first line, qualified name of a function."""


@dataclass(frozen=True)
class Mutant:
    """One change; what is known of it stays true while its function, `source`, stays the same."""

    key: Key
    where: str
    source: str
    code: CodeType


# What is changed

_COMPARE: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.Pow: ast.Mult,
}  # fmt: skip
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_TEXTS: Final = {
    "Refusal": 1, "_refused": 1, "PydanticCustomError": 1, "Broken": 0, "OverflowError": 0,
    "limit_reached": 0,
}  # fmt: skip
"""Calls whose texts are for people, which are nobody's decision: the argument before the text tells
programs which refusal it is (1), or there is none (0)."""


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the place of a node, with a description."""
    other: Any
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARE:
            other = copy.deepcopy(node)
            other.ops[0] = _COMPARE[type(op)]()
            yield _told(node, other), other
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            other = copy.deepcopy(node)
            other.op = _ARITHMETIC[type(op)]()
            yield _told(node, other), other
        case ast.BoolOp(op=op):
            other = copy.deepcopy(node)
            other.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield _told(node, other), other
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield _told(node, operand), operand
        case ast.Constant(value=bool(value)):
            yield _told(node, ast.Constant(not value)), ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield _told(node, ast.Constant(value + 1)), ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield _told(node, ast.Constant(value + "?")), ast.Constant(value + "?")
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            other = copy.deepcopy(node)
            other.func = ast.Name(_CALLS[name], ast.Load())
            if name == "sorted":
                other.keywords = []
            yield _told(node, other), other
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            # A comparison is turned round by itself already.
            if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                other = copy.deepcopy(node)
                other.test = ast.UnaryOp(ast.Not(), other.test)
                yield f"not {ast.unparse(test)}", other
        case ast.comprehension(ifs=[test, *_]) if not isinstance(test, ast.Compare | ast.UnaryOp):
            other = copy.deepcopy(node)
            other.ifs[0] = ast.UnaryOp(ast.Not(), other.ifs[0])
            yield f"if not {ast.unparse(test)}", other
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield f"return None for {ast.unparse(value)}", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield f"without {ast.unparse(node)}", ast.Pass()
        case ast.Continue():
            yield "break for continue", ast.Break()
        case ast.Break():
            yield "continue for break", ast.Continue()


def _told(node: ast.AST, other: ast.AST) -> str:
    return f"{ast.unparse(other)} for {ast.unparse(node)}"


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def _mutable(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body that decide something: no annotations, texts, docstring."""
    pending: list[ast.AST] = list(reversed(function.body))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        children: list[ast.AST] = list(ast.iter_child_nodes(node))
        match node:
            case ast.FunctionDef():
                children = list(node.body)
            case ast.AnnAssign(value=value):
                children = [value] if value else []
            case ast.JoinedStr():
                children = []
            case ast.Call(func=ast.Name(id=name)) if name in _TEXTS:
                text = _TEXTS[name]
                others = [*node.args[:text], *node.args[text + 1 :]]
                children = [*others, *(keyword.value for keyword in node.keywords)]
            case ast.Call(func=ast.Name(id="cast")):
                children = [*node.args[1:]]
        pending.extend(reversed(children))


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its source."""
    path = DOMAIN / f"{module}.py"
    tree = ast.parse(path.read_text("utf-8"))
    for classes, function in _functions(tree, ()):
        first = min((d.lineno for d in function.decorator_list), default=function.lineno)
        qualified = ".".join((*(c.name for c in classes), function.name))
        seen: Counter[str] = Counter()
        source = sha256(ast.unparse(function).encode()).hexdigest()[:12]
        for node in list(_mutable(function)):
            for change, other in changes(node):
                with contextlib.suppress(SyntaxError):
                    code = _compiled(classes, function, node, other, path)
                    seen[change] += 1
                    again = f" ({seen[change]})" if seen[change] > 1 else ""
                    where = f"{module}.{qualified}: {change}{again}"
                    yield Mutant((module, first, qualified), where, source, code)


def _functions(
    tree: ast.Module | ast.ClassDef, classes: tuple[ast.ClassDef, ...]
) -> Iterator[tuple[tuple[ast.ClassDef, ...], ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield classes, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, (*classes, node))


def _compiled(
    classes: tuple[ast.ClassDef, ...],
    function: ast.FunctionDef,
    old: ast.AST,
    new: ast.AST,
    path: Path,
) -> CodeType:
    """The code of a function with one node changed, named as it is in its module."""
    # Of the tree only the way to the node is copied: what stands beside it stays as it is.
    changed = _Swap(old, new).visit(copy.deepcopy(function, {id(old): old}))
    changed.decorator_list, changed.type_params = [], []
    body: Any = changed
    for outer in reversed(classes):
        body = ast.ClassDef(outer.name, [], [], [body], [], type_params=[])
    module = ast.fix_missing_locations(ast.Module([body], []))
    code = compile(module, str(path), "exec")
    for name in (*(c.name for c in classes), function.name):
        [code] = [
            const
            for const in code.co_consts
            if isinstance(const, CodeType) and const.co_name == name
        ]
    return code


# What runs


class Mutation:
    """A plugin of pytest that runs the tests once, then again for each mutant."""

    def __init__(
        self, modules: Iterable[str], every: int, shard: int, shards: int, results: Path
    ) -> None:
        self.modules = tuple(modules)
        self.every, self.shard, self.shards = every, shard, shards
        self.results = results
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = [
            item for item in session.items if not IMPURE & set(getattr(item, "fixturenames", ()))
        ]
        tests, seconds = self._first_run(items)
        functions = _live_functions()
        # A test that calls few functions is about them.
        width = Counter(number for numbers in tests.values() for number in numbers)
        everything = [mutant for module in self.modules for mutant in mutants(module)]
        everything = everything[:: self.every]
        done = _known()
        todo = [m for m in everything[self.shard :: self.shards] if (m.where, m.source) not in done]
        for same in (m for m in everything[:: len(everything) // 5 + 1] if m.key in functions):
            live = functions[same.key]
            unchanged = replace(same, code=live[0].__code__)
            if (
                self._tried(unchanged, live, [items[i] for i in tests.get(same.key, ())])
                == "killed"
            ):
                raise RuntimeError(f"tests fail in a child process without a mutant: {same.key}")
        with self.results.open("a") as out:
            for number, mutant in enumerate(todo):
                covering = sorted(tests.get(mutant.key, ()), key=lambda i: seconds[i] * width[i])
                begun = time.monotonic()
                verdict = self._tried(
                    mutant, functions.get(mutant.key, []), [items[i] for i in covering]
                )
                took = time.monotonic() - begun
                line = {
                    "where": mutant.where,
                    "source": mutant.source,
                    "verdict": verdict,
                    "seconds": round(took, 2),
                }
                out.write(json.dumps(line) + "\n")
                out.flush()
                if number % 50 == 0:
                    print(f"{number}/{len(todo)} {mutant.where[:60]}: {verdict}", file=sys.stderr)
        return True

    def _first_run(self, items: list[pytest.Item]) -> tuple[dict[Key, set[int]], list[float]]:
        """Which tests call which function, and how long each takes."""
        calls: dict[Key, set[int]] = defaultdict(set)
        seconds = []
        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.COVERAGE_ID, "mutate")
        current = 0

        def started(code: CodeType, _offset: int) -> Any:
            if code.co_filename.startswith(str(DOMAIN)):
                module = Path(code.co_filename).stem
                calls[module, code.co_firstlineno, code.co_qualname].add(current)
            return monitoring.DISABLE

        monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.PY_START, started)
        monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.PY_START)
        for current, item in enumerate(items):
            monitoring.restart_events()
            following = items[current + 1] if current + 1 < len(items) else None
            begun = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            seconds.append(time.process_time() - begun)
            if self.failed and not TABLED & set(getattr(item, "fixturenames", ())):
                raise RuntimeError(f"{item.nodeid} fails without any mutant")
            if self.failed:
                self.failed = False
                for numbers in calls.values():
                    numbers.discard(current)
        monitoring.set_events(monitoring.COVERAGE_ID, 0)
        monitoring.free_tool_id(monitoring.COVERAGE_ID)
        return calls, seconds

    def _tried(
        self, mutant: Mutant, functions: list[FunctionType], items: list[pytest.Item]
    ) -> str:
        if not functions or not items:
            return "uncovered"
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                return "killed"  # out of time or memory
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        try:
            # Seconds of CPU: what else the machine does decides nothing.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, PATIENCE_SECONDS)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            for function in functions:
                function.__code__ = mutant.code
            begun = time.process_time()
            for item in items:
                if time.process_time() - begun > BUDGET_SECONDS:
                    break
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self.failed:
                    os._exit(1)
            os._exit(0)
        except BaseException:  # noqa: BLE001  # whatever went wrong, the mutant did it
            os._exit(1)


def _live_functions() -> dict[Key, list[FunctionType]]:
    found: dict[Key, list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and thing.__code__.co_filename.startswith(str(DOMAIN)):
            code = thing.__code__
            found[Path(code.co_filename).stem, code.co_firstlineno, code.co_qualname].append(thing)
    return found


def _work(modules: list[str], every: int, shard: int, shards: int) -> int:
    """One worker: a process that holds all tests."""
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS]
    plugin = Mutation(modules, every, shard, shards, RESULTS / f"{shard}.jsonl")
    memory = MemoryEngine()
    with (
        mock.patch.object(engine, "Engine", return_value=memory),
        mock.patch.object(engine, "create_tables", memory_tables),
        mock.patch.object(store, "connect", memory.client),
        mock.patch.object(Template, "load", cache(Template.load)),
        mock.patch.object(workers.Clients, "__enter__", side_effect=NotImplementedError),
    ):
        options = [
            "-q",
            "--no-header",
            "--tb=no",
            "--no-summary",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        ended = pytest.main([*files, *options], [plugin])
    # Tests that ask more of the tables than those in memory can do have failed, and are left out.
    return 0 if ended in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(ended)


def _known() -> dict[tuple[str, str], str]:
    """Verdicts by mutant and source of its function; of several a kill counts."""
    known: dict[tuple[str, str], str] = {}
    for path in RESULTS.glob("*.jsonl"):
        for line in map(json.loads, _lines(path)):
            mutant = line["where"], line["source"]
            if known.get(mutant) != "killed":
                known[mutant] = line["verdict"]
    return known


def verdicts(modules: Iterable[str]) -> dict[str, str]:
    """What is known of the mutants that there are now."""
    known = _known()
    return {
        mutant.where: known[mutant.where, mutant.source]
        for module in modules
        for mutant in mutants(module)
        if (mutant.where, mutant.source) in known
    }


def equivalent() -> dict[str, str]:
    """Mutants that behave like the original, and why."""
    if not EQUIVALENT.exists():
        return {}
    return {m["mutant"]: m["why"] for m in tomllib.loads(EQUIVALENT.read_text("utf-8"))["mutants"]}


def table(modules: Iterable[str]) -> str:
    """The score by module, and the survivors."""
    same = equivalent()
    rows = [
        "| module | mutants | equivalent | killed | survived | score |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    total: Counter[str] = Counter()
    survivors = []
    for module in modules:
        known = verdicts([module])
        count = Counter(
            "equivalent" if w in same and v != "killed" else v for w, v in known.items()
        )
        survivors += [w for w, v in known.items() if v != "killed" and w not in same]
        rows.append(_row(f"`{module}`", count))
        total += count
    rows.append(_row("**all**", total))
    tried = sum(total.values())
    there = sum(1 for module in modules for _ in mutants(module))
    listed = [f"- `{where}`" for where in survivors]
    told = f"{tried:,} of {there:,} mutants tried, {len(survivors)} survive"
    rest = "; ".join(f"`{name}` ({what})" for name, what in LEFT_OUT.items())
    lines = ["", f"{told}{':' if survivors else '.'}", "", *listed, *([""] if survivors else [])]
    return "\n".join([*rows, *lines, f"Of the domain are not mutated: {rest}."])


def _row(name: str, count: Counter[str]) -> str:
    survived = count["survived"] + count["uncovered"]
    real = count["killed"] + survived
    # Rounded down: with a single survivor it is not 100.
    tenths = 1000 * count["killed"] // real if real else 0
    score = f"{tenths // 10}.{tenths % 10} %" if real else ""
    numbers = (real + count["equivalent"], count["equivalent"], count["killed"], survived)
    return f"| {' | '.join([name, *(f'{number:,}' for number in numbers), score])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modules", default=",".join(MODULES), help="those to mutate")
    parser.add_argument("--every", type=int, default=1, help="try only every n-th mutant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget what is known of them")
    parser.add_argument("--survivors", action="store_true", help="try again those that survived")
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="only tell what is known")
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    modules = options.modules.split(",")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.shard is not None:
        return _work(modules, options.every, options.shard, options.workers)
    if options.again or options.survivors:
        _forget(modules, survivors_only=not options.again)
    if not options.report:
        known = set(verdicts(MODULES))
        command = [sys.executable, "-m", "tools.mutate", "--modules", options.modules]
        command += ["--workers", str(options.workers), "--every", str(options.every)]
        workers = [
            subprocess.Popen([*command, "--shard", str(n)], cwd=ROOT)
            for n in range(options.workers)
        ]
        if sum(worker.wait() for worker in workers):
            return 1
        print(f"{len(set(verdicts(MODULES)) - known)} mutants tried")
    told("mutants", table(modules), write=options.write, document=PROOF)
    return 0


def _forget(modules: list[str], *, survivors_only: bool) -> None:
    for path in RESULTS.glob("*.jsonl"):
        kept = [
            line
            for line in _lines(path)
            if json.loads(line)["where"].split(".")[0] not in modules
            or (survivors_only and json.loads(line)["verdict"] == "killed")
        ]
        path.write_text("".join(f"{line}\n" for line in kept), "utf-8")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
