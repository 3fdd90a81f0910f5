"""Every sample event runs through its handler and is answered as it should be.

The samples tell one story: `put_program` publishes a program, `enrol` enrols Mila, and what the
others need to have happened before is in this file.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import stream
from loyalty import edge, store
from loyalty.edge import App
from tools.engine import Engine, Tables
from tools.runtime import Context
from tools.template import ROOT, Template

EVENTS = ROOT / "events"
SAMPLES = sorted(path.stem for path in EVENTS.glob("*.json"))

NOW = datetime(2026, 3, 2, 10, 15, tzinfo=UTC)
"""When the samples of the API were sent."""
AFTER_EXPIRY = datetime(2027, 4, 1, 0, 4, tzinfo=UTC)
"""When the samples of the sweep were sent: what was earned in NOW's month is gone."""
SECRETS = '{"1": "the secret of the sample events"}'
"""It has signed the check-in code in the samples."""

MODULES = {
    path.stem: importlib.import_module(path.stem) for path in (ROOT / "functions").glob("*.py")
}
ROUTES = {
    route: module
    for module in MODULES.values()
    if isinstance(module.handler, App)
    for route in module.handler.routes
}

BEFORE: dict[str, tuple[str, ...]] = {
    "put_program": (),
    "enrol": ("put_program",),
    "reversal": ("put_program", "enrol", "award_purchase"),
    "entries": ("put_program", "enrol", "award_purchase", "redemption_points"),
    "balance": ("put_program", "enrol", "award_purchase"),
    "capture": ("put_program", "enrol", "redemption_hold"),
    "cancel": ("put_program", "enrol", "redemption_hold"),
    "voucher": ("put_program", "enrol", "redemption_reward"),
    "use_voucher": ("put_program", "enrol", "redemption_reward"),
    "transfer": ("put_program", "enrol", "enrol_noor"),
    "merge": ("put_program", "enrol", "enrol_noor"),
    "adjustments": ("put_program", "enrol", "adjustment_large"),
    "approve_adjustment": ("put_program", "enrol", "adjustment_large"),
    "refuse_adjustment": ("put_program", "enrol", "adjustment_large"),
    "unblock": ("put_program", "enrol", "block"),
    "export": ("put_program", "enrol", "adjustment"),
}
"""The samples that come before one; where none are named: `put_program` and `enrol`."""

WELCOME, ORDER = 50, 32
FIRST_OF_APRIL = "2027-04-01"


def sample(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text("utf-8"))
    return event


def handler_of(name: str, event: dict[str, Any]) -> Any:
    """The handler that the cloud would call: by the route, or else by the sample's name."""
    if "routeKey" in event:
        assert event["routeKey"] in ROUTES, f"no function serves {event['routeKey']}"
        return ROUTES[event["routeKey"]].handler
    named = [module for module in MODULES if name == module or name.startswith(f"{module}_")]
    assert len(named) == 1, f"events/{name}.json is no event of any function"
    return MODULES[named[0]].handler


def run(name: str) -> Any:
    event = sample(name)
    return handler_of(name, event)(event, Context("sample", 1769, 60))


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["body"])


@pytest.fixture
def queued(
    engine: Engine, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[dict[str, Any]]]:
    """Fresh tables behind the handlers; what they put on the queue."""
    for variable, value in {
        **tables.environment,
        "AWS_ENDPOINT_URL_DYNAMODB": engine.endpoint,
        "LOYALTY_SECRETS": SECRETS,
        "PUBLIC_URL": "https://points.example",
        "PROGRAM_DELAY_SECONDS": "0",
        "AUTHORIZE_URL": "https://login.example/oauth2/authorize",
        "TOKEN_URL": "https://login.example/oauth2/token",
        "CLIENT_ID": "1example23456789",
        "SWEEP_QUEUE_URL": "https://sqs.example/sweep",
        "SWEEP_SEGMENTS": "3",
        "VERIFY_QUEUE_URL": "https://sqs.example/verify",
        "VERIFY_SEGMENTS": "2",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("SECRETS_ARN", raising=False)
    monkeypatch.setattr(edge, "clock", lambda: NOW)
    monkeypatch.setattr(stream.metrics, "service", "loyalty-test")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(
        store, "send_messages", lambda url, bodies: sent.extend({"to": url, **b} for b in bodies)
    )
    cached = (edge.store, edge.secrets, edge.sign_in, edge.publish_delay)
    for each in cached:
        each.cache_clear()
    yield sent
    for each in cached:
        each.cache_clear()
    stream.metrics.clear_metrics()


def award(points: int, balance: int, **more: Any) -> dict[str, Any]:
    lots = [{"points": points, "expires_on": FIRST_OF_APRIL}]
    return {"member_id": "mila", "points": points, "balance": balance, "lots": lots, **more}


MILA = {"member_id": "mila", "name": "Mila", "groups": ["regulars"]}

ANSWERS: dict[str, tuple[int, Any]] = {
    "put_program": (200, {"version": 1, "effective_at": "2026-03-02T10:15:00Z"}),
    "get_program": (200, {"version": 1, "program": {"program_id": "beans", "currency": "EUR"}}),
    "program_versions": (200, {"items": [{"version": 1}], "next_cursor": None}),
    "enrol": (201, {"member_id": "mila", "points": WELCOME, "balance": WELCOME}),
    "get_member": (200, MILA | {"email": "mila@example.com"}),
    "patch_member": (
        200,
        MILA | {"phone": "+33 1 23 45 67 89", "birthday": "1990-02-28", "email": None},
    ),
    "award_purchase": (
        201,
        award(ORDER, WELCOME + ORDER, entry_id="mila.2", event_id="order-1001"),
    ),
    "simulate": (200, award(ORDER, ORDER, entry_id="mila.1", event_id="order-1001")),
    "award_custom": (201, award(10, WELCOME + 10, event_id="review-77")),
    "award_social_share": (201, award(5, WELCOME + 5, event_id="share-5")),
    "reversal": (
        201,
        {
            "event_id": "order-1001",
            "points": ORDER,
            "taken_from": [{"points": ORDER, "expires_on": FIRST_OF_APRIL}],
            "balance": WELCOME,
        },
    ),
    "redemption_reward": (
        201,
        {
            "member_id": "mila",
            "reward_id": "free-coffee",
            "status": "captured",
            "points": 40,
            "balance": WELCOME - 40,
            "voucher": {"expires_on": "2026-04-01"},
        },
    ),
    "redemption_points": (
        201,
        {"order_id": "order-1002", "status": "captured", "points": 25, "balance": WELCOME - 25},
    ),
    "check_in": (
        201,
        award(10, WELCOME + 10, location_id="marais", next_allowed_at="2026-03-02T23:00:00Z"),
    ),
    "balance": (
        200,
        {
            "available": WELCOME + ORDER,
            "lifetime_points": WELCOME + ORDER,
            "expiring": [{"points": WELCOME + ORDER, "expires_on": FIRST_OF_APRIL}],
            "as_of": "2026-03-02T10:15:00Z",
        },
    ),
    "entries": (
        200,
        {
            "items": [
                {"seq": 3, "kind": "redeem", "points": -25, "balance_after": 57},
                {"seq": 2, "kind": "award", "points": ORDER, "event_id": "order-1001"},
                {"seq": 1, "points": WELCOME, "balance_after": WELCOME},
            ],
            "next_cursor": None,
        },
    ),
    "redemption_hold": (201, {"status": "held", "points": 20, "balance": WELCOME - 20}),
    "capture": (200, {"status": "captured", "points": 20, "balance": WELCOME - 20}),
    "cancel": (200, {"status": "cancelled", "points": 20, "balance": WELCOME}),
    "voucher": (200, {"status": "issued", "expires_on": "2026-04-01"}),
    "use_voucher": (200, {"status": "used"}),
    "rewards": (200, {"balance": WELCOME, "next_cursor": None}),
    "enrol_noor": (201, {"member_id": "noor", "points": WELCOME}),
    "transfer": (
        201,
        {
            "to_member_id": "noor",
            "points": 15,
            "lots": [{"points": 15, "expires_on": FIRST_OF_APRIL}],
            "balances": {"mila": WELCOME - 15, "noor": None},
        },
    ),
    "adjustment": (201, {"points": 100, "balance": WELCOME + 100, "reason_code": "goodwill"}),
    "adjustment_large": (202, {"status": "proposed", "lapses_at": "2026-03-09T10:15:00Z"}),
    "adjustments": (200, {"items": [{"status": "proposed", "points": 5000}]}),
    "approve_adjustment": (201, {"points": 5000, "balance": WELCOME + 5000}),
    "refuse_adjustment": (200, {"status": "refused"}),
    "merge": (201, {"member_id": "mila", "merged_member_id": "noor", "balance": 2 * WELCOME}),
    "block": (200, {"status": "blocked", "balance": WELCOME}),
    "unblock": (200, {"status": "active", "balance": WELCOME}),
    "close": (200, {"status": "closed", "balance": WELCOME}),
    "set_tier": (200, {"tier": {"id": "gold", "until": "2026-12-31"}}),
    "erase": (200, {"member_id": "mila", "status": "erased"}),
    "export": (200, {"profile": MILA, "notes": [{"note": "The oven was cold."}]}),
    "page": (200, re.compile(r"<!doctype html>.*Beans &amp; Co", re.DOTALL)),
    "location_code": (200, {"location_id": "marais", "kind": "static"}),
    "poster_svg": (200, re.compile(r"<svg .*Marais", re.DOTALL)),
    "poster_png": (200, re.compile("^iVBORw0KGgo")),  # a PNG's first bytes in base64
    "verified": (200, {"status": "never", "violation_count": 0, "violations": []}),
    "health": (200, {"status": "ok"}),
    "openapi": (200, {"openapi": re.compile(r"^3\.1")}),
    "schema": (200, {"required": ["program_id", "name", "currency", "time_zone"]}),
}
"""Status and main fields of the answer; None for a field that is not there."""


def assert_says(actual: Any, expected: Any, where: str = "") -> None:
    """`actual` has everything that `expected` names."""
    match expected:
        case dict():
            for name, value in expected.items():
                assert_says(actual.get(name), value, f"{where}/{name}")
        case list():
            assert len(actual) == len(expected), where
            for position, (one, wanted) in enumerate(zip(actual, expected, strict=True)):
                assert_says(one, wanted, f"{where}/{position}")
        case re.Pattern():
            assert expected.search(actual), f"{where}: {actual:.200}"
        case _:
            assert actual == expected, where


@pytest.mark.parametrize("name", [name for name in SAMPLES if "routeKey" in sample(name)])
def test_a_sample_of_a_route_is_answered(queued: list[Any], name: str) -> None:
    assert name in ANSWERS, f"what events/{name}.json is answered with is not written down here"
    for earlier in BEFORE.get(name, ("put_program", "enrol")):
        assert run(earlier)["statusCode"] in (200, 201, 202)
    answer = run(name)
    status, expected = ANSWERS[name]
    assert answer["statusCode"] == status, answer["body"]
    assert_says(body(answer) if isinstance(expected, dict) else answer["body"], expected)
    assert queued == []


@pytest.mark.parametrize(
    "name",
    [
        "enrol", "award_purchase", "award_custom", "award_social_share", "check_in",
        "redemption_reward", "redemption_points", "reversal", "redemption_hold", "capture",
        "cancel", "transfer", "adjustment", "adjustment_large", "approve_adjustment",
        "refuse_adjustment", "merge",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("queued")
def test_a_sample_that_comes_twice_counts_once(name: str) -> None:
    for earlier in BEFORE.get(name, ("put_program", "enrol")):
        run(earlier)
    first, again = run(name), run(name)
    assert (again["statusCode"], again["body"]) == (first["statusCode"], first["body"])
    assert "Idempotency-Replayed" not in first["headers"]
    assert again["headers"]["Idempotency-Replayed"] == "true"


def test_the_schedule_fans_out_one_message_for_each_segment(queued: list[Any]) -> None:
    assert run("expire_schedule") == {"segments": 3}
    assert queued == [
        {
            "to": "https://sqs.example/sweep",
            "scheduled_time": "2027-04-01T00:04:00Z",
            "segment": segment,
            "segments": 3,
        }
        for segment in range(3)
    ]
    assert run("expire_schedule") == {"segments": 0}, "it fires twice and is sent once"
    assert len(queued) == 3


def test_a_message_of_the_sweep_writes_down_what_fell_due(
    queued: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for earlier in ("put_program", "enrol", "award_purchase"):
        run(earlier)
    monkeypatch.setattr(edge, "clock", lambda: AFTER_EXPIRY)
    assert run("expire_sqs") == {"batchItemFailures": []}
    items = body(run("entries"))["items"]
    assert_says(items[0], {"kind": "expire", "points": -82, "balance_after": 0, "seq": 3})
    assert run("expire_sqs") == {"batchItemFailures": []}
    assert body(run("entries"))["items"] == items, "a message that comes again changes nothing"
    assert queued == []


def test_the_daily_schedule_begins_a_verification_in_parts(queued: list[Any]) -> None:
    assert run("verify_schedule") == {"parts": 4}
    assert queued == [
        {
            "to": "https://sqs.example/verify",
            "scheduled_time": "2026-03-03T03:23:00Z",
            "kind": kind,
            "segment": segment,
            "segments": 2,
        }
        for kind in ("accounts", "index")
        for segment in range(2)
    ]
    assert run("verify_schedule") == {"parts": 0}, "it fires twice and is sent once"
    assert len(queued) == 4


def test_a_message_of_the_verification_is_worked_off_once(
    queued: list[Any], tables: Tables, dynamodb: Any
) -> None:
    for earlier in ("put_program", "enrol", "award_purchase"):
        run(earlier)
    for _ in range(2):
        assert run("verify_sqs") == {"batchItemFailures": []}
        records = dynamodb.scan(TableName=tables.records)["Items"]
        [part] = [r for r in records if r["pk"]["S"] == "#verification"]
        assert json.loads(part["tallies"]["S"])["beans"]["entries"] == 2
    assert queued == []  # the index has not been read yet


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("member", ["loyalty/member"]), ("staff", ["loyalty/staff"]), ("stranger", [])],
)
def test_the_sign_in_samples_get_what_their_person_may(name: str, scopes: list[str]) -> None:
    event = sample(f"pre_token_{name}")
    answer = run(f"pre_token_{name}")
    access = answer["response"]["claimsAndScopeOverrideDetails"]["accessTokenGeneration"]
    asked = event["request"]["scopes"]
    granted = {*asked, *access["scopesToAdd"]} - {*access["scopesToSuppress"]}
    assert sorted(each for each in granted if each.startswith("loyalty/")) == scopes


# A batch without a metric is what is wanted of a new entry; Powertools remarks on it.
@pytest.mark.filterwarnings("ignore:No application metrics to publish")
@pytest.mark.parametrize(("name", "alarms"), [("insert", 0), ("modify", 1), ("remove", 1)])
@pytest.mark.usefixtures("queued")
def test_the_stream_samples_raise_the_alarm_where_they_should(
    capsys: pytest.CaptureFixture[str], name: str, alarms: int
) -> None:
    assert run(f"stream_{name}") is None
    assert capsys.readouterr().out.count(f'"{stream.METRIC}":[1') == alarms


COVERED_BY_NAME = {
    "expire_schedule", "expire_sqs",
    "pre_token_member", "pre_token_staff", "pre_token_stranger",
    "publish_insert", "stream_insert", "stream_modify", "stream_remove",
    "verify_schedule", "verify_sqs",
}  # fmt: skip


def test_no_sample_is_left_out() -> None:
    assert set(SAMPLES) == set(ANSWERS) | COVERED_BY_NAME
    for name in SAMPLES:
        assert callable(handler_of(name, sample(name)))


def test_every_route_and_every_function_has_a_sample(template: Template) -> None:
    samples = {name: sample(name) for name in SAMPLES}
    sampled = {event["routeKey"] for event in samples.values() if "routeKey" in event}
    assert sampled == set(ROUTES) == {route.key for route in template.routes}
    functions = {function.module for function in template.functions.values()}
    handlers = {handler_of(name, event) for name, event in samples.items()}
    assert {importlib.import_module(name).handler for name in functions} == handlers


@pytest.mark.parametrize("name", [name for name in SAMPLES if "routeKey" in sample(name)])
def test_a_sample_is_whole_as_the_gateway_would_send_it(name: str) -> None:
    event = sample(name)
    method, path = event["routeKey"].split(" ")
    parameters = event.get("pathParameters", {})
    assert event["version"] == "2.0"
    assert event["rawPath"] == path.format_map(parameters)
    assert event["requestContext"]["routeKey"] == event["routeKey"]
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"]) == (method, event["rawPath"])
    assert int(event["headers"]["content-length"]) == len(event.get("body", "").encode())
    query = event.get("queryStringParameters", {})
    assert event["rawQueryString"] == "&".join(f"{key}={value}" for key, value in query.items())
    route = ROUTES[event["routeKey"]].handler.routes[event["routeKey"]]
    jwt = event["requestContext"].get("authorizer", {}).get("jwt")
    assert (jwt is not None) == bool(route.roles)
    if jwt:
        assert jwt["claims"]["scope"] in {f"loyalty/{role}" for role in route.roles}
        assert all(isinstance(value, str) for value in jwt["claims"].values())


@pytest.mark.usefixtures("queued")
def test_handlers_leave_the_event_as_it_came() -> None:
    for name in ("put_program", "enrol", "award_purchase", "check_in", "page", "poster_png"):
        event = sample(name)
        before = copy.deepcopy(event)
        handler_of(name, event)(event, Context("sample", 1769, 60))
        assert event == before


def test_personal_data_stands_nowhere_but_in_the_profile(
    queued: list[Any], tables: Tables, dynamodb: Any
) -> None:
    for name in (
        "put_program", "enrol", "patch_member", "award_purchase", "check_in", "redemption_reward",
        "reversal",
    ):  # fmt: skip
        assert run(name)["statusCode"] in (200, 201)
    enrolled, changed = (json.loads(sample(name)["body"]) for name in ("enrol", "patch_member"))
    personal = [enrolled["name"], changed["phone"], changed["birthday"]]
    for table in (tables.accounts, tables.ledger, tables.records):
        for item in dynamodb.scan(TableName=table)["Items"]:
            is_profile = item.get("sk") == {"S": "profile"}
            assert all(f"'{value}'" in str(item) for value in personal) == is_profile
            assert any(value in str(item) for value in personal) == is_profile
            assert enrolled["email"] not in str(item), "it was removed"
    assert queued == []


def test_samples_are_laid_out_for_reading() -> None:
    for name in SAMPLES:
        text = Path(EVENTS / f"{name}.json").read_text("utf-8")
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", name
