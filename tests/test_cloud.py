"""The deployed template does the main job: an emulator of AWS runs it, with the template's own
roles, policies, doors, triggers and packages. `make cloud-test` builds what it runs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from loyalty.wire import account_of, member_key
from tests import programs
from tests.workers import award, deployed, done, enrol, proved
from tools.cloud import ACCOUNT, BUILT, REGION, STACK, Cloud
from tools.template import Template

pytestmark = pytest.mark.cloud

BASE = "/v1/programs/shop"
PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """The template as it was built, deployed; a program is in force."""
    assert (BUILT / "template.yaml").exists(), "make cloud-test builds it"
    with Cloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def admin(cloud: Cloud) -> dict[str, str]:
    """What an operator sends; the program `shop` is published."""
    headers = {"Authorization": f"Bearer {cloud.machine_token('OperatorClient')}"}
    answer = cloud.http.put(f"{BASE}/program", json=programs.shop(), headers=headers)
    assert answer.status_code == 200, answer.text
    return headers


@pytest.fixture(scope="module")
def till(cloud: Cloud, admin: dict[str, str]) -> dict[str, str]:
    """What a till of the shop sends."""
    assert admin
    return {"Authorization": f"Bearer {cloud.machine_token('ShopClient')}"}


def until[T](look: Callable[[], T | None]) -> T:
    """What `look` gives as soon as it gives something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.2)


def created(answer: httpx.Response) -> Any:
    assert answer.status_code == 201, answer.text
    return answer.json()


def buy(
    cloud: Cloud, till: Mapping[str, str], event_id: str, member_id: str, amount: int
) -> httpx.Response:
    lines = [{"line_id": "1", "quantity": 1, "amount": amount}]
    body = {
        "event_id": event_id,
        "type": "purchase",
        "member_id": member_id,
        "purchase": {"currency": "EUR", "lines": lines},
    }
    return cloud.http.post(f"{BASE}/awards", json=body, headers=dict(till))


def in_sight(cloud: Cloud, till: Mapping[str, str], member_id: str) -> int:
    answer = cloud.http.get(f"{BASE}/members/{member_id}/balance", headers=dict(till))
    assert answer.status_code == 200, answer.text
    available: int = answer.json()["available"]
    return available


def test_functions_and_layer_carry_bytecode_that_is_taken_without_a_look_at_the_source() -> None:
    sources = [path for path in BUILT.rglob("*.py") if "__pycache__" not in path.parts]
    assert len(sources) > 500
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert int.from_bytes(compiled[4:8], "little") == 0b01, source  # hash-based, unchecked


# ── The doors ──


def test_every_route_of_the_template_is_open_to_its_scopes_and_to_nobody_else(
    cloud: Cloud, template: Template, till: dict[str, str]
) -> None:
    for route in template.routes:
        path = route.path.replace("{program_id}", "nowhere").replace("{", "").replace("}", "")
        without = cloud.http.request(route.method, path)
        if route.scopes is None:
            # The function itself has answered, whatever it thinks of the code in the path.
            assert without.headers["x-content-type-options"] == "nosniff", route.key
            assert without.status_code != 500, route.key
            continue
        assert without.status_code == 401, route.key
        answer = cloud.http.request(route.method, path, headers=till)
        if "loyalty/merchant" in route.scopes:
            # Past the door, the function itself finds fault with it.
            assert answer.headers["content-type"] == "application/problem+json", route.key
            assert answer.status_code in (400, 404, 415, 422), (route.key, answer.text)
        else:
            assert (answer.status_code, answer.json()) == (403, {"message": "Forbidden"}), route.key


def test_a_token_that_somebody_altered_opens_nothing(cloud: Cloud, till: dict[str, str]) -> None:
    head, claims, signature = till["Authorization"].split(".")
    forged = {"Authorization": ".".join((head, claims[:-4] + "AAAA", signature))}
    assert cloud.http.get(f"{BASE}/program", headers=forged).status_code == 401
    assert cloud.http.get(f"{BASE}/program", headers=till).status_code == 200


# ── The main job ──


def test_a_member_earns_once_spends_and_is_refused_what_is_not_there(
    cloud: Cloud, till: dict[str, str]
) -> None:
    created(cloud.http.post(f"{BASE}/members", json={"member_id": "ada"}, headers=till))
    assert in_sight(cloud, till, "ada") == 50

    first = created(buy(cloud, till, "order-1", "ada", 3250))
    assert (first["points"], first["balance"]) == (32, 82)
    again = buy(cloud, till, "order-1", "ada", 3250)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first, "true")
    other = buy(cloud, till, "order-1", "ada", 9900)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert in_sight(cloud, till, "ada") == 82

    def redeem(points: int, key: str) -> httpx.Response:
        return cloud.http.post(
            f"{BASE}/redemptions",
            json={"member_id": "ada", "points": points},
            headers={**till, "Idempotency-Key": key},
        )

    assert created(redeem(30, "till-1"))["balance"] == 52
    refused = redeem(53, "till-2")
    assert (refused.status_code, refused.json()["code"]) == (409, "insufficient_points")
    assert in_sight(cloud, till, "ada") == 52


def test_a_person_signs_in_scans_the_poster_and_earns_only_for_that_person(
    cloud: Cloud, till: dict[str, str]
) -> None:
    created(cloud.http.post(f"{BASE}/members", json={"member_id": "mila"}, headers=till))
    token = cloud.person_token("mila@example.com", {"custom:member_id": "mila"})
    mila = {"Authorization": f"Bearer {token}"}
    poster = cloud.http.get(f"{BASE}/locations/corner/code", headers=till)
    assert poster.status_code == 200, poster.text

    def scan(key: str, **more: str) -> httpx.Response:
        body = {"code": poster.json()["code"], **more}
        return cloud.http.post(
            f"{BASE}/check-ins", json=body, headers={**mila, "Idempotency-Key": key}
        )

    visit = created(scan("visit-1"))
    assert visit["points"] > 0
    assert in_sight(cloud, mila, "mila") == 50 + visit["points"]
    twice = scan("visit-2")
    assert twice.status_code == 409, twice.text

    assert scan("visit-3", member_id="ada").status_code == 403
    assert cloud.http.get(f"{BASE}/members/ada/balance", headers=mila).status_code == 403
    assert buy(cloud, mila, "order-mila", "mila", 1000).status_code == 403


def test_profiles_vouchers_and_versions_change_outside_of_transactions(
    cloud: Cloud, admin: dict[str, str], till: dict[str, str]
) -> None:
    created(cloud.http.post(f"{BASE}/members", json={"member_id": "ines"}, headers=till))
    created(buy(cloud, till, "order-ines", "ines", 10_000))
    changed = cloud.http.patch(f"{BASE}/members/ines", json={"name": "Ines"}, headers=till)
    assert (changed.status_code, changed.json().get("name")) == (200, "Ines")
    bought = cloud.http.post(
        f"{BASE}/redemptions",
        json={"member_id": "ines", "reward_id": "free-coffee"},
        headers={**till, "Idempotency-Key": "coffee"},
    )
    code = created(bought)["voucher"]["code"]
    used = cloud.http.post(f"{BASE}/vouchers/{code}/use", headers=till)
    assert (used.status_code, used.json()["status"]) == (200, "used")
    assert cloud.http.get(f"{BASE}/vouchers/nothing", headers=till).status_code == 404
    answer = cloud.http.put(
        f"{BASE}/program",
        json=programs.shop(expiry=[{"after": "P18M"}]),
        headers={**admin, "If-Match": '"1"'},
    )
    assert answer.status_code == 200, answer.text


# ── Work without a caller ──


def test_the_schedule_has_points_expired_by_messages_over_the_queue(
    cloud: Cloud, till: dict[str, str]
) -> None:
    # The handlers of this process work on the deployed tables two years ago.
    past = datetime.now(UTC) - timedelta(days=730)
    with deployed(cloud.client("dynamodb"), cloud.tables, past):
        for member_id in ("grace", "linus"):
            done(enrol(member_id))
            done(award(f"review-{member_id}", member_id))

    scheduler = cloud.client("scheduler")
    schedule = scheduler.get_schedule(Name=cloud.names["ExpireFunctionSweep"])
    # The same as deployed, but for the hour: it is due at once.
    scheduler.create_schedule(
        Name="sweep-now",
        ScheduleExpression=f"at({datetime.now(UTC):%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow=schedule["FlexibleTimeWindow"],
        Target=schedule["Target"],
    )

    def written_down() -> bool:
        keys = [{"pk": {"S": member_key("shop", member_id)}} for member_id in ("grace", "linus")]
        found = cloud.client("dynamodb").batch_get_item(
            RequestItems={cloud.tables.accounts: {"Keys": keys}}
        )["Responses"][cloud.tables.accounts]
        return all(account_of(item).available == 0 for item in found)

    until(written_down)
    _, history = proved(cloud.client("dynamodb"), cloud.tables)["grace"]
    assert [posting.kind for posting in history[-1].postings] == ["expire"]
    assert in_sight(cloud, till, "grace") == 0


# ── The stream ──


def test_what_is_earned_is_told_on_the_bus(cloud: Cloud, till: dict[str, str]) -> None:
    queue = cloud.client("sqs").create_queue(QueueName="listener")["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:listener"
    events, bus = cloud.client("events"), cloud.names["PointsBus"]
    events.put_rule(
        Name="earned", EventBusName=bus, EventPattern=json.dumps({"source": ["loyalty.points"]})
    )
    events.put_targets(Rule="earned", EventBusName=bus, Targets=[{"Id": "queue", "Arn": arn}])
    created(cloud.http.post(f"{BASE}/members", json={"member_id": "noor"}, headers=till))
    created(buy(cloud, till, "order-noor", "noor", 1200))

    def told() -> Any:
        received = cloud.client("sqs").receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        bodies = [json.loads(message["Body"]) for message in received.get("Messages", ())]
        return [body for body in bodies if body["detail"].get("event_id") == "order-noor"]

    notice = until(told)[0]
    assert notice["detail-type"] == "Points Earned"
    assert (notice["detail"]["member_id"], notice["detail"]["points"]) == ("noor", 12)


def test_an_entry_that_somebody_changed_behind_the_ledgers_back_is_noticed(
    cloud: Cloud, till: dict[str, str]
) -> None:
    created(cloud.http.post(f"{BASE}/members", json={"member_id": "mallory"}, headers=till))
    created(buy(cloud, till, "order-mallory", "mallory", 100))
    dynamodb, ledger = cloud.client("dynamodb"), cloud.tables.ledger
    items = dynamodb.scan(TableName=ledger)["Items"]
    [key] = [{"pk": i["pk"], "sk": i["sk"]} for i in items if "order-mallory" in str(i)]

    dynamodb.update_item(
        TableName=ledger,
        Key=key,
        UpdateExpression="SET z = :z",
        ExpressionAttributeValues={":z": {"S": "behind its back"}},
    )

    def rung() -> bool:
        logs = cloud.client("logs").filter_log_events(
            logGroupName=f"/aws/lambda/{STACK}/stream", filterPattern="LedgerRecordChanged"
        )
        return bool(logs["events"])

    until(rung)
