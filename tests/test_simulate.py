"""Dry runs: the same answer as the award that follows, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import count
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loyalty import edge
from loyalty.commands import CHECK_IN_EVENT
from loyalty.dates import from_milliseconds, rfc3339
from tests import workers
from tests.faults import Faults
from tests.programs import shop
from tests.strategies import (
    BEGINNINGS,
    BUSY_DOCUMENTS,
    BUSY_EVENTS,
    EVENTS,
    GAPS,
    LATENESS,
    PROGRAM_DOCUMENTS,
    SOME_GROUPS,
)
from tests.workers import BASE, NOON, Answer, Books, Call, deployed, done, send, without_pause
from tools.engine import Engine, Tables

type Json = dict[str, Any]


def simulate(event: Json, *, program_id: str = "shop", scope: str = "admin", **more: Any) -> Call:
    return Call(
        "simulate",
        f"POST {BASE}/simulate",
        body={"event": event, **more},
        program_id=program_id,
        scope=f"loyalty/{scope}",
    )


def purchase(event_id: str, amount: int, member_id: str = "ana", **more: Any) -> Json:
    """The body of an award of a purchase of one line."""
    event: Json = workers.purchase(event_id, member_id, amount, **more).body
    return event


def award(event: Json, program_id: str = "shop") -> Call:
    return Call("award", f"POST {BASE}/awards", body=event, program_id=program_id)


class House:
    """The shop's handlers on fresh tables."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.tables = tables
        self.client = workers.connect(engine.endpoint)
        self.direct = engine.client(parameter_validation=False)
        self.wire = Faults(self.client)

    def on(self, days: float) -> AbstractContextManager[Any]:
        """The service, so many days after noon, as a process that has just started."""
        return deployed(self.client, self.tables, NOON + timedelta(days=days), sleep=without_pause)

    def books(self) -> Books:
        return Books.read(self.direct, self.tables)

    def dry(self, event: Json, **more: Any) -> Json:
        """The answer to a dry run, which leaves the tables as they were."""
        before = self.books()
        answer: Json = done(simulate(event, **more))
        assert self.books() == before
        return answer

    def refused(self, event: Json, **more: Any) -> tuple[int, str]:
        """(Status, code) of a dry run that is refused."""
        before = self.books()
        answer = send(simulate(event, **more))
        assert self.books() == before
        return answer.status, answer.body["code"]


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house without a program; it is noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


@pytest.fixture
def open_house(house: House) -> House:
    """The shop with ana, who has 50 points."""
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    return house


# For whom, under what, when


def test_a_dry_run_for_a_member_is_the_award_that_follows(open_house: House) -> None:
    for event in (
        purchase("order-1", 1250),
        purchase("order-2", 300_000),
        workers.award("review-1", "ana").body,
        workers.award("review-2", "ana").body,
        workers.award("other-1", "ana", "other").body,
    ):
        foreseen = open_house.dry(event)
        assert open_house.dry(event) == foreseen
        assert done(award(event)) == foreseen


def test_a_made_up_account_needs_no_member(open_house: House) -> None:
    event = purchase("order-1", 1250, "nobody")
    assert open_house.refused(event) == (404, "member_not_found")
    foreseen = open_house.dry(event, account={})
    assert (foreseen["member_id"], foreseen["points"], foreseen["balance"]) == ("nobody", 12, 12)
    lots = [{"points": 30}, {"points": 5, "expires_on": "2026-12-31"}]
    assert open_house.dry(event, account={"lots": lots})["balance"] == 47


def test_a_made_up_account_takes_the_place_of_the_stored_one(house: House) -> None:
    for_vips = {
        "rule_id": "vips",
        "trigger": "review",
        "when": {"groups": ["vip"]},
        "earn": {"points": 7},
    }
    done(workers.publish(shop(rules=[for_vips])))
    done(workers.enrol("ana", groups=["vip"]))
    event = workers.award("review", "ana").body
    assert house.dry(event)["points"] == 7
    assert house.dry(event, account={"groups": []})["points"] == 0
    done(workers.enrol("ben"))
    event = workers.award("review", "ben").body
    assert house.dry(event)["points"] == 0
    assert house.dry(event, account={"groups": ["vip"]})["points"] == 7


@pytest.mark.parametrize("member_id", ["ana", "nobody"])
def test_a_made_up_account_has_no_history_whatever_the_event_is_dated(
    house: House, member_id: str
) -> None:
    """A late event counts in the window it belongs to; there the made-up account has nothing."""
    daily = [{"times": 1, "per": "day"}]
    rule = {"rule_id": "review", "trigger": "review", "earn": {"points": 7}, "frequency": daily}
    done(workers.publish(shop(rules=[rule | {"limits": [{"points": 9, "per": "week"}]}])))
    with house.on(-2):
        done(workers.enrol("ana"))
        done(workers.award("review-0", "ana"))
    done(workers.award("review-1", "ana"))
    event = workers.award("review", member_id, occurred_at="2026-03-16T12:00:00Z").body
    assert house.dry(event, account={})["points"] == 7


def test_a_draft_decides_without_being_published(open_house: House) -> None:
    rules: list[Json] = [
        {"rule_id": "twice", "trigger": "purchase", "earn": {"points": 2, "per_amount": 100}}
    ]
    event = purchase("order-1", 1000)
    foreseen = open_house.dry(event, program=shop(rules=rules))
    assert foreseen["points"] == 20
    assert [row["rule_id"] for row in foreseen["explanation"]] == ["twice"]
    assert open_house.dry(event)["points"] == 10
    assert done(award(event))["points"] == 10


def test_a_drafts_answer_is_that_of_the_version_it_becomes(house: House) -> None:
    done(workers.publish(shop()))
    done(workers.enrol("ana"))
    draft = shop(
        rules=[{"rule_id": "p", "trigger": "purchase", "earn": {"points": 3, "per_amount": 100}}],
        campaigns=[{"campaign_id": "c", "multiplier": "2", "budget": {"points": 45}}],
        tiers={
            "levels": [{"tier_id": "base", "at": 0}, {"tier_id": "top", "at": 40}],
            "window": "lifetime",
        },
    )
    event = purchase("order-1", 1000)
    foreseen = house.dry(event, program=draft, now="2026-03-19T12:00:00Z")
    done(workers.publish(draft, 1))
    with house.on(1):
        assert done(award(event)) == foreseen
        again = purchase("order-2", 1000)
        foreseen = house.dry(again, program=draft)
        assert foreseen["points"] == 45
        assert done(award(again)) == foreseen


def test_a_draft_that_contradicts_itself_is_refused_with_every_fault(open_house: House) -> None:
    rule = {"rule_id": "a", "trigger": "purchase", "earn": {"points": 1}}
    draft = shop(rules=[rule, rule, rule | {"rule_id": "b", "earn": {"points": -1}}])
    before = open_house.books()
    answer = send(simulate(purchase("order", 1000), program=draft))
    assert (answer.status, answer.body["code"]) == (422, "invalid_program")
    assert len(answer.body["errors"]) >= 1
    assert open_house.books() == before


def test_a_time_ahead_is_simulated_as_if_it_had_come(open_house: House) -> None:
    document = shop(
        campaigns=[
            {
                "campaign_id": "summer",
                "from": "2026-07-01",
                "until": "2026-07-31",
                "multiplier": "3",
            }
        ]
    )
    event = purchase("order-1", 1000)
    for now, points in (
        ("2026-06-30T12:00:00Z", 10),
        ("2026-07-01T12:00:00Z", 30),
        ("2026-08-01T12:00:00Z", 10),
    ):
        foreseen = open_house.dry(event, program=document, now=now)
        assert foreseen["points"] == points
    assert open_house.dry(event, program=document)["points"] == 10


def test_the_future_is_what_that_day_answers(open_house: House) -> None:
    """Lots have expired by then, and a version that has been published counts."""
    rules: list[Json] = [
        {"rule_id": "p", "trigger": "purchase", "earn": {"points": 5, "per_amount": 100}}
    ]
    done(workers.publish(shop(rules=rules), 1))
    event = purchase("order-1", 1000)
    then = NOON + timedelta(days=500)
    now = then.isoformat()
    foreseen = open_house.dry(event, now=now)
    assert (foreseen["points"], foreseen["balance"]) == (50, 50)
    with open_house.on(500):
        assert open_house.dry(event) == foreseen
        assert done(award(event)) == foreseen


def test_an_event_is_judged_by_the_time_of_the_dry_run(open_house: House) -> None:
    event = purchase("order-1", 1000, occurred_at="2026-04-01T12:00:00Z")
    assert open_house.refused(event) == (409, "event_in_future")
    foreseen = open_house.dry(event, now="2026-04-01T12:00:00Z")
    assert foreseen["points"] == 10


# What is refused


DOLLARS = {"currency": "USD", "lines": [{"line_id": "1", "quantity": 1, "amount": 1}]}


@pytest.mark.parametrize(
    ("event", "refusal"),
    [
        (workers.award("e", "ana", "registration").body, (422, "reserved_type")),
        (workers.award("e", "ana", "birthday").body, (422, "reserved_type")),
        (workers.award("e", "nobody").body, (404, "member_not_found")),
        (workers.award(f"{CHECK_IN_EVENT}e", "ana").body, (422, "reserved_type")),
        (purchase("e", 1) | {"purchase": DOLLARS}, (422, "currency_mismatch")),
        (purchase("e", 1, occurred_at="2026-03-18T13:00:00Z"), (409, "event_in_future")),
    ],
    ids=["registration", "birthday", "nobody", "an id of the service's own", "currency", "future"],
)
def test_what_an_award_refuses_a_dry_run_refuses(
    open_house: House, event: Json, refusal: tuple[int, str]
) -> None:
    sent = send(award(event))
    assert (sent.status, sent.body["code"]) == refusal
    assert open_house.refused(event) == refusal


def test_members_cannot_simulate(open_house: House) -> None:
    assert open_house.refused(purchase("e", 1), scope="member") == (403, "forbidden")


# Budgets and referrals


def test_a_dry_run_makes_no_budget_and_draws_on_none(house: House) -> None:
    campaigns = [{"campaign_id": "c", "multiplier": "3", "budget": {"points": 30}}]
    rules = shop()["rules"][1:]
    done(workers.publish(shop(budget={"points": 100}, campaigns=campaigns, rules=rules)))
    done(workers.enrol("ana"))
    for i, points in enumerate([30, 20, 10, 10]):
        event = purchase(f"order-{i}", 1000)
        foreseen = house.dry(event)
        if i == 0:
            assert workers.left("program") is None
            assert workers.left("campaign:c") is None
        assert foreseen["points"] == points
        assert done(award(event)) == foreseen
    assert workers.left("program") == 30
    assert workers.left("campaign:c") == 0
    event = purchase("large", 5000)
    assert house.dry(event)["points"] == 30
    assert house.dry(event, program=shop(budget={"points": 75}))["points"] == 5
    assert house.dry(event, program=shop(budget={"points": 60}))["points"] == 0
    assert done(award(event))["points"] == 30


def test_a_dry_run_tells_what_a_referral_would_give(house: House) -> None:
    referral = {"referrer_points": 200, "referred_points": 100, "award_on": "first_purchase"}
    done(workers.publish(shop(referral=referral, budget={"points": 600})))
    code = done(workers.enrol("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    event = purchase("order", 1000, "ben")
    foreseen = house.dry(event)
    assert foreseen["points"] == 110
    assert done(award(event)) == foreseen
    assert house.dry(purchase("next", 1000, "ben"))["points"] == 10


def test_a_dry_run_on_a_lowered_budget_is_the_award_that_follows(house: House) -> None:
    rule = {"rule_id": "review", "trigger": "review", "earn": {"points": 10}}
    done(workers.publish(shop(rules=[rule], budget={"points": 40})))
    done(workers.enrol("ana"))
    for i in range(4):
        done(workers.award(f"review-{i}", "ana"))
    done(workers.publish(shop(rules=[rule], budget={"points": 15}), 1))
    with house.on(1):
        done(workers.award("lowered", "ana"))
        done(workers.reverse("review-0", "return"))
        event = workers.award("next", "ana").body
        foreseen = house.dry(event)
        assert done(award(event)) == foreseen


# Any program, any event


@pytest.fixture(scope="module")
def shelf(engine: Engine, new_tables: Callable[[], Tables]) -> House:
    """A house that many examples share, each with a program of its own."""
    return House(engine, new_tables())


numbers = count()


def histories(events: st.SearchStrategy[Json]) -> st.SearchStrategy[list[tuple[Json, int, int]]]:
    """Events, each so long after the one before and told so late (milliseconds)."""
    return st.lists(st.tuples(events, GAPS, LATENESS), min_size=3, max_size=5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    story=st.one_of(
        st.tuples(PROGRAM_DOCUMENTS, histories(EVENTS)),
        st.tuples(BUSY_DOCUMENTS, histories(BUSY_EVENTS)),
    ),
    begins=BEGINNINGS,
    groups=SOME_GROUPS,
)
def test_a_dry_run_is_the_award_that_follows(
    shelf: House,
    story: tuple[Json, list[tuple[Json, int, int]]],
    begins: int,
    groups: tuple[str, ...],
) -> None:
    document, events = story
    program_id = f"random-{next(numbers)}"
    document = document | {"program_id": program_id}
    now = begins
    with deployed(shelf.client, shelf.tables, from_milliseconds(now), sleep=without_pause):
        done(workers.publish(document))
        body = {"member_id": "ana", "groups": list(groups)}
        done(Call("members", f"POST {BASE}/members", body=body, program_id=program_id))
        for i, (what, gap, late) in enumerate(events):
            now += gap
            occurred = {"occurred_at": rfc3339(now - late)}
            event = what | {"event_id": f"e{i}", "member_id": "ana"} | occurred
            if "purchase" in event:
                event["purchase"] = event["purchase"] | {"currency": document["currency"]}
            shelf.wire.follow({})
            # As a time that is still to come, and then as it is.
            ahead = told(simulate(event, program_id=program_id, now=rfc3339(now)))
            with mock.patch.object(edge, "clock", return_value=from_milliseconds(now)):
                dry = told(simulate(event, program_id=program_id))
                draft = told(simulate(event, program_id=program_id, program=document))
                assert set(shelf.wire.operations) <= {"GetItem", "Query"}
                awarded = told(award(event, program_id))
            assert [ahead, dry, draft] == [awarded] * 3


def told(call: Call) -> tuple[bool, Any]:
    """Whether it was done, and the answer or the refusal's code."""
    answer: Answer = send(call)
    assert answer.status < 500
    if answer.status < 300:
        return True, answer.body
    return False, answer.body["code"]
