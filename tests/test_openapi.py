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


NAMES_FOR_EVER = {
    "POST /adjustments": "adjust",
    "POST /adjustments/{adjustment_id}/approve": "approve",
    "POST /awards": "award",
    "POST /members/{member_id}/block": "block",
    "POST /redemptions/{redemption_id}/cancel": "cancel",
    "POST /redemptions/{redemption_id}/capture": "capture",
    "PATCH /members/{member_id}": "change",
    "POST /check-ins": "check_in",
    "POST /members/{member_id}/close": "close",
    "POST /members": "enrol",
    "DELETE /members/{member_id}": "erase",
    "POST /members/{member_id}/merge": "merge",
    "PUT /program": "publish",
    "POST /redemptions": "redeem",
    "POST /adjustments/{adjustment_id}/refuse": "refuse",
    "POST /reversals": "reverse",
    "POST /simulate": "simulate",
    "POST /members/{member_id}/tier": "tier",
    "POST /transfers": "transfer",
    "POST /members/{member_id}/unblock": "unblock",
    "POST /vouchers/{code}/use": "use",
}


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


def test_operations_that_change_something_keep_the_name_that_stored_fingerprints_have() -> None:
    """A name may come to it. One that changes turns repeats of what was done into refusals."""
    named = {
        f"{method.upper()} {path.removeprefix('/v1/programs/{program_id}')}": each["operationId"]
        for method, path, each in OPERATIONS
        if method != "get"
    }
    assert named == NAMES_FOR_EVER


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
