"""What new entries tell goes to the bus: every notice at least once, the same each time."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Service

import publish
from loyalty.model import NEVER, Entry, Posting
from loyalty.notices import notices
from loyalty.wire import Waiting, entry_item, waiting_item
from tests.programs import smallest
from tests.strategies import DAY, Ledger, instant
from tools.runtime import Runtime
from tools.template import Template
from tools.triggers import Stream

NOW = instant("2026-03-10T13:00", "Europe/Paris")
REVIEW = {"rule_id": "review", "trigger": "review", "earn": {"points": 50}}
EVENTS = Path(__file__).parent.parent / "events"


def told(entry: Entry) -> list[tuple[str, dict[str, Any]]]:
    """(type, detail without who and which) of an entry's notices."""
    names = ("id", "program_id", "member_id", "entry_id")
    return [
        (notice["type"], {k: v for k, v in notice["detail"].items() if k not in names})
        for notice in notices(entry)
    ]


def ledger(**more: Any) -> Ledger:
    made = Ledger(smallest(**({"rules": [REVIEW]} | more)))
    made.enrol(NOW)
    return made


def review(ledger: Ledger, now: int = NOW) -> Entry:
    return ledger.award(now, {"type": "review"})


# Which notices there are


def test_points_earned_are_told_with_what_is_pending() -> None:
    earned = {"points": 50, "reason": "review", "event_id": "event-key-1"}
    assert told(review(ledger())) == [
        ("Points Earned", earned | {"pending_points": 0, "balance": 50})
    ]
    assert told(review(ledger(pending={"review": "P3D"}))) == [
        ("Points Earned", earned | {"pending_points": 50, "balance": 0})
    ]


def test_an_award_of_nothing_and_a_redemption_tell_nothing() -> None:
    made = ledger()
    assert told(made.award(NOW, {"type": "unknown"})) == []
    review(made)
    assert told(made.redeem(NOW, 10)) == []


def test_members_are_told_before_points_expire_and_when_they_have() -> None:
    made = ledger(expiry=[{"after": "P60D"}], notifications={"expiring": ["P30D", "P7D"]})
    review(made)
    assert made.sweep(NOW + 29 * DAY) is None
    for days in (30, 53):
        entry = made.sweep(NOW + days * DAY)
        assert entry
        assert (entry.kind, entry.points) == ("notice", 0)
        assert told(entry) == [("Points Expiring", {"points": 50, "expires_on": "2026-05-09"})]
        assert made.sweep(NOW + days * DAY) is None
    entry = made.sweep(NOW + 60 * DAY)
    assert entry
    expired = {"points": 50, "expires_on": "2026-05-09", "balance": 0}
    assert told(entry) == [("Points Expired", expired)]


def test_what_was_missed_is_told_with_the_next_command() -> None:
    made = ledger(expiry=[{"after": "P60D"}], notifications={"expiring": ["P30D", "P7D"]})
    review(made)
    kinds = [kind for kind, _ in told(review(made, NOW + 55 * DAY))]
    assert kinds == ["Points Expiring", "Points Expiring", "Points Earned"]


def test_points_spent_or_new_are_not_announced() -> None:
    made = ledger(expiry=[{"after": "P60D"}], notifications={"expiring": ["P30D", "P60D"]})
    review(made)  # 60 days before is today: the answer has told it
    made.redeem(NOW + DAY, 50)
    assert made.sweep(NOW + 40 * DAY) is None


def test_a_tier_that_is_reached_and_lost_is_told() -> None:
    tiers = {
        "qualify_by": "points",
        "window": {"rolling": "P30D"},
        "downgrade": {"steps": "full"},
        "levels": [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 50}],
    }
    made = ledger(tiers=tiers)
    assert told(review(made))[1] == ("Tier Changed", {"tier_id": "gold"})
    entry = made.sweep(NOW + 30 * DAY)
    assert entry
    assert told(entry) == [("Tier Changed", {"tier_id": "base"})]


def test_a_tier_that_staff_have_set_hides_what_is_reached_until_it_ends() -> None:
    tiers = {
        "qualify_by": "points",
        "window": {"rolling": "P30D"},
        "levels": [
            {"tier_id": "base", "at": 0},
            {"tier_id": "silver", "at": 50},
            {"tier_id": "gold", "at": 100},
        ],
    }
    made = ledger(tiers=tiers)

    def changed(entry: Entry | None) -> list[Any]:
        assert entry
        return [detail["tier_id"] for kind, detail in told(entry) if kind == "Tier Changed"]

    assert changed(made.set_tier(NOW, "gold", "2026-04-01")) == ["gold"]
    assert changed(review(made)) == []
    # It ends with a sweep, or in the next entry, or because staff say so.
    ends = instant("2026-04-01T00:00", "Europe/Paris")
    assert changed(made.sweep(ends)) == ["silver"]
    assert changed(made.set_tier(ends, "gold", "2026-05-01")) == ["gold"]
    assert changed(made.set_tier(ends, None, None)) == ["silver"]
    fresh = ledger(tiers=tiers)
    fresh.set_tier(NOW, "silver", "2026-04-01")
    assert changed(fresh.award(ends, {"type": "unknown"})) == ["base"]


def test_a_merge_tells_the_tier_that_staff_had_set_for_the_other_id() -> None:
    merged = Entry(
        program_id="test", member_id="ann", seq=2, partition="k#one", kind="merge", version=1,
        recorded_at=NOW, occurred_at=NOW, postings=(), balance=0, reason="merged", pinned="gold",
    )  # fmt: skip
    assert told(merged) == [("Tier Changed", {"tier_id": "gold"})]
    assert told(replace(merged, kind="award")) == []


def test_a_referrer_is_told_of_points_earned() -> None:
    made = ledger()
    referral = replace(
        review(made),
        kind="referral",
        reason="referral",
        postings=(Posting("referral", 9, lots=((NEVER, 50),)),),
    )
    [(kind, said)] = told(referral)
    assert (kind, said["points"], said["reason"]) == ("Points Earned", 50, "referral")


def test_a_notice_has_an_id_of_its_own_and_names_nobody() -> None:
    made = ledger(expiry=[{"after": "P60D"}], notifications={"expiring": ["P30D", "P7D"]})
    review(made)
    entry = review(made, NOW + 55 * DAY)
    found = [notice["detail"] for notice in notices(entry)]
    assert [detail["id"] for detail in found] == ["test.ann.3.0", "test.ann.3.1", "test.ann.3.2"]
    assert {(d["program_id"], d["member_id"], d["entry_id"]) for d in found} == {
        ("test", "ann", "ann.3")
    }
    assert list(notices(entry)) == list(notices(entry))


# From the stream to the bus


def record(item: Any, number: int) -> dict[str, Any]:
    """An insert as Lambda gets it: binary values are base64 there."""
    image = {
        name: {kind: "AAAA" if kind == "B" else value for kind, value in field.items()}
        for name, field in item.items()
    }
    return {
        "eventName": "INSERT",
        "dynamodb": {"SequenceNumber": str(number), "NewImage": image},
    }


class Bus:
    def __init__(self, fails_at: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.calls = 0
        self.fails_at = fails_at

    def put(self, name: str, events: list[dict[str, Any]]) -> bool:
        assert name == "the-bus"
        self.calls += 1
        if self.calls == self.fails_at:
            return False
        self.events += events
        return True


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus()
    monkeypatch.setenv("EVENT_BUS", "the-bus")
    monkeypatch.setattr(publish, "put_events", bus.put)
    return bus


def batch(reviews: int = 3) -> list[dict[str, Any]]:
    """An enrolment, which tells nothing, and reviews."""
    made = ledger()
    for _ in range(reviews):
        review(made)
    return [record(item, i) for i, item in enumerate(made.items)]


def test_every_entry_of_a_batch_is_told(bus: Bus) -> None:
    assert publish.handler({"Records": batch()}, None) == {"batchItemFailures": []}
    assert {event["Source"] for event in bus.events} == {"loyalty.points"}
    assert [event["DetailType"] for event in bus.events] == ["Points Earned"] * 3


def test_what_the_bus_did_not_take_comes_again_with_all_after_it(bus: Bus) -> None:
    records = batch()
    bus.fails_at = 2
    answer = publish.handler({"Records": records}, None)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "2"}]}
    publish.handler({"Records": records[2:]}, None)
    ids = [json.loads(event["Detail"])["id"] for event in bus.events]
    assert sorted(set(ids)) == ["test.ann.2.0", "test.ann.3.0", "test.ann.4.0"]


def spoiled(records: list[dict[str, Any]], *numbers: int) -> list[dict[str, Any]]:
    """The batch with records of which nothing can be made."""
    for number in numbers:
        records[number]["dynamodb"]["NewImage"]["k"] = {"S": "?"}
    return records


def test_a_record_of_which_nothing_can_be_made_leaves_what_came_before_it_told(bus: Bus) -> None:
    answer = publish.handler({"Records": spoiled(batch(), 2)}, None)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "2"}]}
    assert [json.loads(event["Detail"])["id"] for event in bus.events] == ["test.ann.2.0"]


def test_a_batch_that_begins_with_one_fails_and_tells_nothing(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError):
        publish.handler({"Records": spoiled(batch(), 0)}, None)
    assert bus.calls == 0
    assert '"NoticesFailed":[1' in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [[0], [3], [6], [2, 3], [0, 4, 6], [*range(7)]])
def test_a_record_of_which_nothing_can_be_made_is_given_up_alone(
    bus: Bus, template: Template, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: list[int]
) -> None:
    """Delivered as the template's mapping says: every other notice goes out, once."""
    [source] = [
        s for s in template.sources if s.kind == "stream" and s.function.module == "publish"
    ]
    runtime = Runtime(lambda _: publish)
    stream = Stream(template, runtime, "http://nowhere", {"LedgerTable": "x"}, tmp_path / "place")
    stream._deliver(source, spoiled(batch(reviews=6), *wrong))
    told = [json.loads(event["Detail"])["id"] for event in bus.events]
    assert told == [f"test.ann.{n + 1}.0" for n in range(1, 7) if n not in wrong]
    given_up = [r for r in caplog.records if r.message.startswith("Given up")]
    assert [record.args for record in given_up] == [(1, "LedgerTable")] * len(wrong)


def test_a_refund_that_waits_belongs_to_nobody_yet(bus: Bus) -> None:
    waiting = waiting_item(Waiting("test", "e#order", "0", NOW, {"refund_id": "r"}, b"f"))
    assert publish.handler({"Records": [record(waiting, 1)]}, None) == {"batchItemFailures": []}
    assert bus.events == []


def test_the_sample_event_tells_three_things(bus: Bus) -> None:
    event = json.loads((EVENTS / "publish_insert.json").read_text("utf-8"))
    assert publish.handler(event, None) == {"batchItemFailures": []}
    assert [each["DetailType"] for each in bus.events] == [
        "Points Earned",
        "Points Expiring",
        "Tier Changed",
    ]


def test_an_entry_survives_the_way_to_the_stream() -> None:
    made = ledger()
    entry = review(made)
    assert entry_item(entry)["m"] == {"S": "test#ann"}


def test_the_local_service_shows_what_was_told(service: Service) -> None:
    program_id = f"notices-{uuid.uuid4().hex[:8]}"
    base = f"/v1/programs/{program_id}"
    admin = service.headers("admin")
    document = smallest(program_id=program_id, rules=[REVIEW])
    assert service.http.put(f"{base}/program", json=document, headers=admin).status_code == 200
    member = {"member_id": "ann"}
    assert service.http.post(f"{base}/members", json=member, headers=admin).status_code == 201
    event = {"event_id": "one", "type": "review", "member_id": "ann"}
    assert service.http.post(f"{base}/awards", json=event, headers=admin).status_code == 201
    deadline = time.monotonic() + 20
    told: list[Any] = []
    while not told and time.monotonic() < deadline:
        items = service.http.get("/dev/events").json()["items"]
        told = [each for each in items if each["detail"]["program_id"] == program_id]
    assert [each["detail-type"] for each in told] == ["Points Earned"]
    assert told[0]["detail"]["points"] == 50
    assert datetime.fromisoformat(told[0]["time"]).tzinfo is not None
