"""Sends what schemathesis makes of the OpenAPI document: requests that fit it, and others.

    python -m tools.generated [--cases 10000] [--seed 1] [--write]    half of `make fuzz`

Every route, as every role and as nobody, over the world of tools.fuzz and under its rules; and
under schemathesis' own: what does not fit the document is refused, what comes back fits it. Most
requests name the program and members that are there, since a stranger's name is refused by itself.
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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import requests
import schemathesis
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


def run(seed: int, cases: int, part: slice, endpoint: str, key: Path) -> Result:
    """So many cases over a part of the operations, against an engine."""
    result = Result()
    template = Template.load()
    begun = time.perf_counter()
    every = operations()
    each = max(1, cases // (len(every) * len(MODES)))
    tables = create_tables(endpoint, f"generated-{part.start}", template)
    with Inside(endpoint, tables, template, key) as service:
        world = World(service, fuzz.samples(), fuzz.contract())
        for operation in every[part]:
            for mode in MODES:
                _ask(world, operation, mode, each, seed, result)
    result.seconds = time.perf_counter() - begun
    return result


def _ask(
    world: World, operation: Any, mode: GenerationMode, most: int, seed: int, result: Result
) -> None:
    made = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def each(generated: Any) -> None:
        nonlocal made
        made += 1
        name = f"{operation.label} {mode.value} {made}"
        chance = Random(f"{seed}:{name}")  # noqa: S311  # replayable, and no secret
        if chance.random() < 0.8:
            _settle(chance, world, generated, mode)
        case, prepared = _case(world, generated, CALLERS[made % len(CALLERS)])
        fuzz.judge(world, case, name, result, lambda answer: _refuted(generated, prepared, answer))

    # A route without a parameter can be asked in no wrong way.
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        each()


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
    headers.pop("authorization", None)
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


def _work(seed: int, cases: int, part: slice, key: Path) -> Result:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # os.devnull is a name, not a path
        # Metrics and logs of the handlers are nobody's business here.
        os.dup2(nowhere.fileno(), 1)
        with Engine() as engine:
            return run(seed, cases, part, engine.endpoint, key)


def everywhere(seed: int, cases: int, processes: int, key: Path) -> Result:
    """So many cases, the operations shared among these processes."""
    parts: Sequence[slice] = [slice(first, None, processes) for first in range(processes)]
    total = Result()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        same = [[value] * processes for value in (seed, cases)]
        for result in pool.map(_work, *same, parts, [key] * processes):
            total.add(result)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=CASES, help=f"about; default: {CASES:,}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--write", action="store_true", help="put the result into docs/proof.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.pem"
        Issuer(key, "")  # one key for all processes: it takes long to make
        result = everywhere(options.seed, options.cases, options.processes, key)
    text = fuzz.report(result, options.seed, options.processes)
    told("generated", text, write=options.write, document=DOCUMENT)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
