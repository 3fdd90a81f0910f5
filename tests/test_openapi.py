"""The published documents: valid, in step with the code, complete."""

import json

import jsonschema
import openapi_spec_validator
import pytest

from loyalty.problems import PROBLEMS
from tests.programs import example
from tools import openapi

DOCUMENT = openapi.openapi()
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def test_the_committed_documents_say_what_the_code_says() -> None:
    stale = [path.name for path, text in openapi.documents().items() if path.read_text() != text]
    assert stale == [], "run `make docs`"


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(json.loads(json.dumps(DOCUMENT)))


@pytest.mark.parametrize(("path", "operation"), [each[1:] for each in OPERATIONS])
def test_every_operation_states_its_scopes_and_its_problems(
    path: str, operation: dict[str, object]
) -> None:
    assert operation["summary"]
    is_public = not path.startswith("/v1/")
    assert bool(operation["security"]) is not is_public
    responses = operation["responses"]
    assert isinstance(responses, dict)
    assert {"500", "503"} <= set(responses)
    if not is_public:
        assert {"401", "403", "429"} <= set(responses)


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names))


def test_every_problem_code_is_announced_by_some_route() -> None:
    announced = json.dumps(DOCUMENT["paths"])
    missing = [code for code in PROBLEMS if f"`{code}`" not in announced]
    assert missing == []


def test_the_example_program_is_valid_under_the_published_schema() -> None:
    schema = json.loads((openapi.FUNCTIONS / "program.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(example())
