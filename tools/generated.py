"""Sends what schemathesis makes of the OpenAPI document: requests that fit it, and others.

    python -m tools.generated [--cases 10000] [--seed 1] [--write]    half of `make fuzz`
    python -m tools.generated --replay 1:27:2:311     a case again, with all before it in its part

Every route, and each request as every role and as nobody, over the world of tools.fuzz and under
its rules; and under schemathesis' own: what does not fit the document is refused, what comes back
fits it. Most requests name the program and members that are there, since a stranger's name is
refused by itself.

A case is a matter of (seed, requests made for a route in either way, part, number): the routes are
dealt out to parts with tables of their own, and a part is the same whenever and wherever it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import hypothesis
import requests
import schemathesis
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tools import fuzz
from tools.bench import told
from tools.engine import Engine, create_tables
from tools.fuzz import DOCUMENT, LAST, MORE, PROCESSES, Case, Result, World
from tools.inside import HOST, Answer, Inside
from tools.issuer import Issuer
from tools.openapi import FUNCTIONS, PATH_PATTERNS
from tools.template import Template

CASES = 10_000
CALLERS = ("admin", "staff", "merchant", "mila", "nobody")
PARTS = 4
"""Into how many parts the routes are dealt out; each has tables of its own."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


def operations() -> list[Any]:
    """Every operation of the committed document, as schemathesis has it."""
    document = json.loads((FUNCTIONS / "openapi.json").read_text("utf-8"))
    for path in document["paths"].values():
        for operation in path.values():
            del operation["security"]  # tokens are put in by us
    schema = schemathesis.openapi.from_dict(document)
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


def run(
    seed: int, examples: int, part: int, endpoint: str, key: Path, last: int | None = None
) -> Result:
    """The cases of a part, against an engine: of each of its routes so many requests that fit the
    document and so many others, as every caller; up to that number."""
    result = Result()
    template = Template.load()
    begun = time.perf_counter()
    tables = create_tables(endpoint, f"generated-{seed}-{part}", template)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Inside(endpoint, tables, template, key))
        for table in (tables.accounts, tables.ledger, tables.records):
            stack.callback(service.client.delete_table, TableName=table)
        world = World(service, fuzz.samples(), fuzz.contract())
        for generated, caller in _requests(world, seed, examples, part):
            if last is not None and result.cases > last:
                break
            case, prepared = _case(world, generated, caller)
            name = f"{seed}:{examples}:{part}:{result.cases}"
            refuted = partial(_refuted, generated, prepared)
            fuzz.judge(world, case, name, result, refuted)
    result.seconds = time.perf_counter() - begun
    return result


def _requests(world: World, seed: int, examples: int, part: int) -> Iterator[tuple[Any, str]]:
    """What is generated for the routes of a part, each as every caller in any order."""
    for operation in operations()[part::PARTS]:
        for mode in MODES:
            for number, generated in enumerate(_generated(operation, mode, seed, examples)):
                name = f"{seed}:{operation.label}:{mode.value}:{number}"
                chance = Random(name)  # noqa: S311  # replayable, and no secret
                if chance.random() < 0.8:
                    _settle(chance, world, generated, mode)
                for caller in chance.sample(CALLERS, len(CALLERS)):
                    yield generated, caller


def _generated(operation: Any, mode: GenerationMode, seed: int, examples: int) -> list[Any]:
    """So many requests, or fewer where there are no more; the same ones in every process."""
    made: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def each(generated: Any) -> None:
        made.append(generated)

    # Hypothesis also draws constants of whatever modules of ours happen to be loaded.
    with (
        mock.patch.object(providers, "_get_local_constants", Constants),
        mock.patch.object(providers, "CONSTANTS_CACHE", {}),
        # A route without a parameter can be asked in no wrong way.
        contextlib.suppress(hypothesis.errors.Unsatisfiable),
    ):
        each()
    return made


def _settle(chance: Random, world: World, generated: Any, mode: GenerationMode) -> None:
    """Let the request be about what is there, where it names something by a name that fits."""
    route = f"{generated.method.upper()} {generated.path}"
    sample = next(s for s in world.samples.values() if f"{s.method} {s.path}" == route)
    member_id = chance.choice(MORE if sample.name in LAST else ("mila", "noor", *MORE))
    known = dict(sample.parameters)
    if "member_id" in known:
        known["member_id"] = member_id
    given = generated.path_parameters
    if isinstance(given, dict):
        for name in given.keys() & known.keys():
            if re.search(PATH_PATTERNS[name], str(given[name])):
                given[name] = known[name]
    body = generated.body
    if mode is GenerationMode.POSITIVE and isinstance(body, dict) and "member_id" in body:
        generated.body = body | {"member_id": member_id}


def _case(world: World, generated: Any, caller: str) -> tuple[Case, requests.PreparedRequest]:
    wanted = generated.as_transport_kwargs(base_url=f"https://{HOST}")
    names = ("method", "url", "headers", "json", "data", "params", "cookies", "files")
    prepared = requests.Request(**{n: v for n, v in wanted.items() if n in names}).prepare()
    headers = {name.lower(): value for name, value in prepared.headers.items()}
    for name in ("authorization", "x-schemathesis-testcaseid"):  # the latter is another every time
        headers.pop(name, None)
    if (token := world.callers[caller]) is not None:
        headers["authorization"] = f"Bearer {token}"
    prepared.headers["authorization"] = headers.get("authorization", "")
    pairs = [(_bytes(name), _bytes(value)) for name, value in headers.items()]
    content = prepared.body if isinstance(prepared.body, str | bytes) else b""
    method = str(prepared.method)
    return Case(method, prepared.path_url, pairs, _bytes(content), caller), prepared


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _refuted(generated: Any, prepared: requests.PreparedRequest, answer: Answer) -> list[str]:
    """What schemathesis has against the answer."""
    response = schemathesis.Response(
        status_code=answer.status,
        headers={name: [value] for name, value in answer.headers.items()},
        content=answer.content,
        request=prepared,
        elapsed=answer.seconds,
        verify=True,
    )
    try:
        generated.validate_response(response, checks=CHECKS)
    except AssertionError as error:
        return [f"schemathesis: {error!s:.600}"]
    except BaseExceptionGroup as group:
        return [f"schemathesis: {error!s:.600}" for error in group.exceptions]
    return []


def _work(seed: int, examples: int, part: int, key: Path, last: int | None = None) -> Result:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # os.devnull is a name, not a path
        # Metrics and logs of the handlers are nobody's business here.
        os.dup2(nowhere.fileno(), 1)
        with Engine() as engine:
            return run(seed, examples, part, engine.endpoint, key, last)


def everywhere(seed: int, cases: int, processes: int, key: Path) -> Result:
    """About so many cases, the parts shared among these processes."""
    examples = max(1, cases // (len(operations()) * len(MODES) * len(CALLERS)))
    parts = [(seed, examples, part, key) for part in range(PARTS)]
    total = fuzz.together(_work, parts, processes)
    fuzz.judge_late(total, lambda names: again(names, key))
    return total


def again(names: Iterable[str], key: Path) -> Result:
    """Cases with all that came before them in their parts, one after the other."""
    last: dict[tuple[int, int, int], int] = {}
    for name in names:
        seed, examples, part, number = map(int, name.split(":"))
        of = seed, examples, part
        last[of] = max(number, last.get(of, 0))
    return fuzz.together(_work, [(*of, key, number) for of, number in last.items()], 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=CASES, help=f"about; default: {CASES:,}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--replay", metavar="SEED:REQUESTS:PART:NUMBER", help="run one case again")
    parser.add_argument("--write", action="store_true", help="put the result into docs/proof.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.pem"
        Issuer(key, "")  # one key for all processes: it takes long to make
        if options.replay:
            return fuzz.replayed(again([options.replay], key))
        result = everywhere(options.seed, options.cases, options.processes, key)
    command = fuzz.command("tools.generated")
    text = fuzz.report(result, command, options.seed, options.processes)
    told("generated", text, write=options.write, document=DOCUMENT)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
