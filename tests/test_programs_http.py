"""Programs over HTTP: publishing makes versions, and every entry keeps its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from conftest import Service

from tests.programs import example, shop, smallest

type Send = Callable[..., httpx.Response]


@pytest.fixture
def program_id() -> str:
    return f"program-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def send(service: Service, program_id: str) -> Send:
    """A function that sends a request of an admin to a program that is not published yet."""

    def send(method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return service.http.request(
            method,
            f"/v1/programs/{program_id}{path}",
            json=body,
            headers=service.headers("admin", None, **headers),
        )

    return send


@pytest.fixture
def clock(service: Service) -> Iterator[Callable[[str], None]]:
    yield service.set_clock
    service.set_clock(None)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def rule(points: int) -> dict[str, Any]:
    return {"rule_id": "review", "trigger": "review", "earn": {"points": points}}


def test_the_first_version_is_published_and_read_back(
    send: Send, program_id: str, clock: Callable[[str], None]
) -> None:
    clock("2026-03-02T10:00:00Z")
    document = shop(program_id=program_id)
    answer = send("PUT", "/program", document)
    published = {"version": 1, "effective_at": "2026-03-02T10:00:00Z"}
    assert (answer.status_code, answer.json()) == (200, published | {"warnings": []})
    assert answer.headers["etag"] == '"1"'
    current = send("GET", "/program")
    assert current.json() == published | {"program": document}
    assert current.headers["etag"] == '"1"'
    [version] = send("GET", "/program/versions").json()["items"]
    assert version | published == version
    assert version["published_at"] == "2026-03-02T10:00:00Z"


def test_a_document_is_kept_as_it_was_written(send: Send, program_id: str) -> None:
    document = smallest(
        program_id=program_id,
        name="Café “Zum Löwen” 🦁",
        rules=[rule(10) | {"name": "ü" * 100}],
        campaigns=[],
    )
    send("PUT", "/program", document)
    assert send("GET", "/program").json()["program"] == document


def test_the_next_version_names_the_one_it_replaces(send: Send, program_id: str) -> None:
    first, second = (shop(program_id=program_id, name=name) for name in ("One", "Two"))
    send("PUT", "/program", first)
    assert code(send("PUT", "/program", second)) == (428, "precondition_required")
    for other in ('"0"', '"2"', "2", '"one"'):
        answer = send("PUT", "/program", second, if_match=other)
        assert code(answer) == (412, "version_conflict")
    assert send("GET", "/program").json()["version"] == 1
    answer = send("PUT", "/program", second, if_match='"1"')
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert send("GET", "/program").json()["program"]["name"] == "Two"
    assert send("GET", "/program?version=1").json()["program"]["name"] == "One"
    assert code(send("PUT", "/program", first, if_match='"1"')) == (412, "version_conflict")
    # Back to an old document is a version of its own.
    assert send("PUT", "/program", first, if_match='"2"').json()["version"] == 3
    # As in all of HTTP, * is whatever there is.
    assert send("PUT", "/program", second, if_match="*").json()["version"] == 4


def test_the_first_version_needs_no_precondition_and_takes_none_that_fails(
    send: Send, program_id: str
) -> None:
    document = shop(program_id=program_id)
    for other in ('"1"', "*"):
        assert code(send("PUT", "/program", document, if_match=other)) == (412, "version_conflict")
    assert code(send("GET", "/program")) == (404, "program_not_found")
    assert send("PUT", "/program", document).status_code == 200


def test_publishing_the_same_again_changes_nothing(send: Send, program_id: str) -> None:
    document = shop(program_id=program_id)
    first = send("PUT", "/program", document)
    for headers in ({}, {"if_match": '"1"'}):
        again = send("PUT", "/program", document, **headers)
        assert (again.status_code, again.json()) == (200, first.json())
    assert len(send("GET", "/program/versions").json()["items"]) == 1


def test_pages_of_versions_show_every_version_once(send: Send, program_id: str) -> None:
    for number in range(7):
        document = smallest(program_id=program_id, name=f"Number {number + 1}")
        precondition = {"if_match": f'"{number}"'} if number else {}
        assert send("PUT", "/program", document, **precondition).status_code == 200
    everything = [row["version"] for row in send("GET", "/program/versions").json()["items"]]
    assert everything == [7, 6, 5, 4, 3, 2, 1]
    for limit in (1, 2, 3, 7, 100):
        seen: list[int] = []
        path = f"/program/versions?limit={limit}"
        query = ""
        while True:
            page = send("GET", path + query).json()
            seen += [row["version"] for row in page["items"]]
            if page["next_cursor"] is None:
                break
            query = f"&cursor={page['next_cursor']}"
        assert seen == everything


def test_entries_keep_the_version_they_were_decided_under(send: Send, program_id: str) -> None:
    send("PUT", "/program", shop(program_id=program_id, rules=[rule(10)]))
    send("POST", "/members", {"member_id": "mila"})
    review = {"event_id": "review-1", "type": "review", "member_id": "mila"}
    first = send("POST", "/awards", review)
    send("PUT", "/program", shop(program_id=program_id, rules=[rule(25)]), if_match="1")

    again = send("POST", "/awards", review)
    assert (again.content, first.json()["points"]) == (first.content, 10)
    second = send("POST", "/awards", review | {"event_id": "review-2"}).json()
    assert (second["points"], second["balance"]) == (25, 35)
    rows = send("GET", "/members/mila/entries").json()["items"]
    assert [(row["points"], row["explanation"][0]["points"]) for row in rows[:2]] == [
        (25, 25),
        (10, 10),
    ]
    # A rule that is gone still explains what it once gave.
    renamed = rule(5) | {"rule_id": "renamed"}
    send("PUT", "/program", shop(program_id=program_id, rules=[renamed]), if_match="2")
    rows = send("GET", "/members/mila/entries").json()["items"]
    assert {row["explanation"][0]["rule_id"] for row in rows[:2]} == {"review"}
    refund = send("POST", "/reversals", {"event_id": "review-1", "refund_id": "r"}).json()
    assert refund["points"] == 10


def test_a_document_with_faults_is_refused_with_all_of_them(send: Send, program_id: str) -> None:
    document = shop(program_id=program_id)
    document["currency"] = "EURO"
    document["surprise"] = 1
    document["rules"][1]["earn"] = {"points": -1, "per_amount": 100}
    document["rules"].append(document["rules"][0])
    document["rewards"][0]["cost"] = "100"
    document["locations"][0]["check_in"]["limits"][0]["per"] = "fortnight"
    answer = send("PUT", "/program", document)
    assert code(answer) == (422, "invalid_program")
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {
        "/currency",
        "/surprise",
        "/rules/1/earn/points",
        "/rules/5/rule_id",
        "/rewards/0/cost",
        "/locations/0/check_in/limits/0/per",
    }
    assert code(send("GET", "/program")) == (404, "program_not_found")


def test_what_would_be_silently_ignored_is_refused_by_name(send: Send, program_id: str) -> None:
    answer = send("PUT", "/program", example() | {"program_id": program_id})
    assert code(answer) == (422, "invalid_program")
    errors = answer.json()["errors"]
    assert errors
    assert {error["code"] for error in errors} == {"not_supported_yet"}
    assert "/locations/0/check_in/kinds/1" in {error["pointer"] for error in errors}
    assert code(send("GET", "/program")) == (404, "program_not_found")


def test_the_address_names_the_program(send: Send) -> None:
    answer = send("PUT", "/program", shop(program_id="another"))
    assert code(answer) == (422, "invalid_program")
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/program_id"]


def test_a_large_program_is_published_and_works(send: Send, program_id: str) -> None:
    """2,000 rules, each with its own products: more than one item of a table can hold."""
    rules = [
        {
            "rule_id": f"rule-{number}",
            "trigger": "purchase",
            "match": {"products": [uuid.uuid4().hex for _ in range(20)]},
            "earn": {"points": number + 1},
        }
        for number in range(2000)
    ]
    document = shop(program_id=program_id, rules=rules)
    assert len(json.dumps(document)) > 1_000_000
    assert send("PUT", "/program", document).status_code == 200
    assert send("GET", "/program").json()["program"] == document
    send("POST", "/members", {"member_id": "mila"})
    product = rules[1233]["match"]["products"][7]  # type: ignore[index]  # a rule is a nested dict
    line = {"line_id": "1", "product_id": product, "quantity": 1, "amount": 100}
    event = {
        "event_id": "order-1",
        "type": "purchase",
        "member_id": "mila",
        "purchase": {"currency": "EUR", "lines": [line]},
    }
    assert send("POST", "/awards", event).json()["points"] == 1000, "1,234 less the limit"


def test_nothing_works_in_a_program_that_is_not_published(send: Send) -> None:
    for method, path, body in (
        ("GET", "/program", None),
        ("GET", "/program/versions", None),
        ("POST", "/members", {"member_id": "mila"}),
        ("POST", "/awards", {"event_id": "e", "type": "review", "member_id": "mila"}),
        ("POST", "/check-ins", {"code": "x", "member_id": "mila"}),
        ("GET", "/members/mila/balance", None),
        ("GET", "/locations/corner/code", None),
        ("GET", "/locations/corner/poster.svg", None),
    ):
        assert code(send(method, path, body)) == (404, "program_not_found"), f"{method} {path}"
    answer = send("POST", "/redemptions", {"member_id": "m", "points": 1}, idempotency_key="k")
    assert code(answer) == (404, "program_not_found")


def test_the_published_schema_accepts_what_publishing_accepts(
    service: Service, send: Send, program_id: str
) -> None:
    answer = service.http.get("/program.schema.json")
    assert answer.headers["content-type"] == "application/schema+json"
    schema = answer.json()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = shop(program_id=program_id)
    validator.validate(document)
    assert send("PUT", "/program", document).status_code == 200
    assert list(validator.iter_errors(document | {"surprise": 1}))


def test_the_service_describes_itself_to_anyone(service: Service) -> None:
    assert service.http.get("/health").json() == {"status": "ok"}
    document = service.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/programs/{program_id}/awards" in document["paths"]
