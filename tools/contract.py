"""Whether an answer is one that the OpenAPI document announces, to the last field.

Stricter than the document, which lets clients meet fields that they do not know: what is answered
today is described today.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from loyalty.problems import PROBLEMS
from tools.inside import Answer
from tools.template import ROOT

PROBLEM = "application/problem+json"
_WRITTEN_DOWN = set(
    re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text("utf-8"), re.MULTILINE)
)
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""What every answer of a function says beside its content."""


class Contract:
    """The answers of an OpenAPI 3.1 document; `routes` are its "METHOD /path"."""

    def __init__(self, document: dict[str, Any]) -> None:
        components = {"components": _closed(copy.deepcopy(document["components"]))}
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}
        self.routes: list[str] = []
        self.query: dict[str, list[str]] = {}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                route = f"{method.upper()} {path}"
                self.routes.append(route)
                self.query[route] = [
                    each["name"] for each in operation["parameters"] if each["in"] == "query"
                ]
                for status, response in operation["responses"].items():
                    kinds = {
                        kind: jsonschema_rs.Draft202012Validator(described["schema"] | components)
                        if "schema" in described
                        else None
                        for kind, described in response["content"].items()
                    }
                    self._answers[route, int(status)] = kinds

    def faults(self, route: str | None, answer: Answer) -> Iterator[str]:
        """What about an answer is not as announced. Without a route it is the gateway's 404."""
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if route is None:
            if (answer.status, kind) != (404, "application/json"):
                yield f"no route, and yet {answer.status} {kind}"
            return
        announced = self._answers.get((route, answer.status))
        if announced is None:
            yield f"status {answer.status} is not announced"
            return
        if kind not in announced:
            yield f"{answer.status} as {kind} is not announced"
            return
        validator = announced[kind]
        if "json" in kind:
            value = json.loads(answer.content)
            if validator is not None and not validator.is_valid(value):
                error = next(validator.iter_errors(value))
                yield f"{answer.status} body: {error.message[:300]} at {error.instance_path}"
            if kind == PROBLEM:
                yield from _faults_of_problem(answer, value)
        is_gateways = kind == "application/json" and answer.status in (401, 403, 413, 429)
        if not is_gateways:
            for name, content in HEADERS.items():
                if answer.headers.get(name) != content:
                    yield f"header {name} is {answer.headers.get(name)}"


def _faults_of_problem(answer: Answer, problem: dict[str, Any]) -> Iterator[str]:
    status = PROBLEMS.get(problem.get("code", ""), (0, ""))[0]
    if not answer.status == status == problem.get("status"):
        yield f"{problem.get('code')} has status {answer.status}, not {status}"
    for each in problem.get("errors", ()):
        if each.get("code") not in _WRITTEN_DOWN:
            yield f"docs/errors.md knows no {each.get('code')}"
    if (answer.status in (429, 503)) != ("retry-after" in answer.headers):
        yield "Retry-After goes with 429 and 503"


def _closed(schema: Any) -> Any:
    """The same schemas without room for fields that they do not name."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return {name: _closed(each) for name, each in schema.items()}
