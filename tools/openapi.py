"""Writes the documents that the service publishes: openapi.json and program.schema.json.

    python -m tools.openapi           write them to functions/
    python -m tools.openapi --check   fail if the committed ones say something else

Both are derived: the OpenAPI document from the routes of the functions, their models and the
problem table; the schema from the program model.
"""

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loyalty.edge import App, Route
from loyalty.problems import PROBLEMS
from loyalty.program import schema as program_schema

ROOT = Path(__file__).parent.parent
FUNCTIONS = ROOT / "functions"

PATH_PATTERNS = {
    "program_id": "^[a-z0-9-]{1,40}$",
    "member_id": "^[A-Za-z0-9_-]{1,64}$",
    "location_id": "^[A-Za-z0-9_-]{1,64}$",
    "code": "^.{1,512}$",
    "redemption_id": "^r-[A-Za-z0-9_-]{1,700}$",
    "adjustment_id": "^a-[A-Za-z0-9_-]{1,700}$",
}
QUERY = {
    "limit": (
        {"type": "integer", "minimum": 1, "maximum": 100, "default": 25},
        "Rows a page at most; one with much in it ends before.",
    ),
    "cursor": ({"type": "string"}, "`next_cursor` of the page before."),
    "as_of": ({"type": "string", "format": "date-time"}, "A past time."),
    "version": ({"type": "integer", "minimum": 1}, "A published version."),
    "status": (
        {"type": "string", "enum": ["proposed", "approved", "refused", "lapsed"]},
        "Only those that stand so.",
    ),
}
PROBLEM = {
    "type": "object",
    "description": "What is wrong (RFC 9457). Decide by `code`; docs/errors.md explains each.",
    "required": ["type", "title", "status", "detail", "code", "errors", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(PROBLEMS)},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON Pointer into the body."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
        "request_id": {"type": "string"},
        "missing_points": {"type": "integer"},
        "next_allowed_at": {"type": "string", "format": "date-time"},
        "retry_after_seconds": {"type": "integer"},
        "available_on": {"type": "string", "format": "date"},
        "reason": {"type": "string"},
        "redemption_status": {"type": "string"},
        "adjustment_status": {"type": "string"},
    },
}
GATEWAY = {
    "type": "object",
    "description": "An answer of the gateway itself, before any function ran.",
    "properties": {"message": {"type": "string"}},
}


def apps() -> list[App]:
    """The Apps of all functions, in the order of their modules' names."""
    modules = [importlib.import_module(path.stem) for path in sorted(FUNCTIONS.glob("*.py"))]
    handlers = [getattr(module, "handler", None) for module in modules]
    return [handler for handler in handlers if isinstance(handler, App)]


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route."""
    schemas: dict[str, Any] = {"Problem": PROBLEM, "GatewayMessage": GATEWAY}
    paths: dict[str, dict[str, Any]] = {}
    for app in apps():
        for route in app.routes.values():
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loyalty Points",
            "version": "1",
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": (
                "Award, redeem and expire customers' points, exactly once. Points are integers, "
                "money integer minor units, times RFC 3339 in UTC, dates local to the program."
            ),
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Any one of the scopes listed at the route suffices.",
                }
            },
        },
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "security": [{"token": [f"loyalty/{role}"]} for role in route.roles],
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        reference = _schema(route.body, schemas)
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    if route.raw_document:
        schemas["Program"] = {
            "type": "object",
            "description": "A program document, as /program.schema.json describes it.",
        }
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Program"}}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": PATH_PATTERNS[name]},
        }
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": QUERY[name][0], "description": QUERY[name][1]}
        for name in route.query
    ]
    if route.key != "no":
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": route.key == "required",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                "description": "A repeat under the same key gets the first answer again.",
            }
        )
    if route.raw_document:
        parameters.append(
            {
                "name": "If-Match",
                "in": "header",
                "schema": {"type": "string"},
                "description": "The version that is replaced; needed for all but the first.",
            }
        )
    return parameters


def _responses(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, shape in route.answers.items():
        response: dict[str, Any] = {"description": "As asked."}
        if isinstance(shape, str):
            response["content"] = {shape: {}}
        else:
            response["content"] = {"application/json": {"schema": _schema(shape, schemas)}}
        if status == 201:
            response["headers"] = {
                "Idempotency-Replayed": {
                    "schema": {"const": "true"},
                    "description": "Present where this is the answer that was given before.",
                }
            }
        responses[str(status)] = response
    for status, codes in sorted(_problems(route).items()):
        if str(status) in responses:
            continue  # a page, in its own words
        responses[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
    if route.roles:
        message = {"application/json": {"schema": {"$ref": "#/components/schemas/GatewayMessage"}}}
        responses["401"] = {"description": "No valid token.", "content": message}
        responses["403"]["content"] |= message
        ours = responses.get("429", {"description": "Too many requests.", "content": {}})
        responses["429"] = {**ours, "content": ours["content"] | message}
    return responses


def _problems(route: Route) -> dict[int, list[str]]:
    """Codes by status: what every route may answer, and what this one adds."""
    codes = ["invalid_query", "internal_error", "unavailable", *route.problems]
    if route.roles:
        codes += ["forbidden", "program_not_found"]
    if route.method != "GET":
        codes += ["invalid_json", "body_too_large"]
        if not route.raw_document:
            codes.append("invalid_body")
    if route.key != "no":
        codes.append("idempotency_key_invalid")
    if route.key == "required":
        codes.append("idempotency_key_missing")
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return by_status


def _schema(shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the shape, whose parts become components too."""
    document = TypeAdapter(shape).json_schema(
        ref_template="#/components/schemas/{model}", mode="validation"
    )
    schemas.update(document.pop("$defs", {}))
    name = document.get("title", shape.__name__)
    schemas[name] = document
    return {"$ref": f"#/components/schemas/{name}"}


def documents() -> dict[Path, str]:
    """What each published file has to say."""
    return {
        FUNCTIONS / "openapi.json": _text(openapi()),
        FUNCTIONS / "program.schema.json": _text(program_schema()),
    }


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    stale = []
    for path, text in documents().items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.write_text(text, "utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: not what the code says; run `make docs`")
    elif stale:
        print(f"wrote {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
