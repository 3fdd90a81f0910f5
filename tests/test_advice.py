"""Publishing warns of rules that can never fire, or that another one always shadows."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import Service

from loyalty.advice import warnings
from loyalty.dates import rfc3339
from loyalty.projections import awarded
from loyalty.validation import MOST_FAULTS, parse
from tests.programs import example, shop, smallest
from tests.strategies import DAY, Ledger, instant, refused

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
STRICT = {"max_lateness": "P1D"}
"""No event that is older than a day counts."""


def rule(rule_id: str = "one", **more: Any) -> dict[str, Any]:
    return {"rule_id": rule_id, "trigger": "purchase", "earn": {"points": 5}} | more


def told(*rules: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """(pointer, code) of every warning."""
    program = parse(smallest(rules=list(rules), **more))
    return [(fault.pointer, fault.code) for fault in warnings(program, NOW)]


# Ended


def test_what_has_ended_is_told_with_its_place() -> None:
    campaign = {"campaign_id": "c", "multiplier": 2}
    offer = {"offer_id": "o", "applies_to": {"brands": ["m"]}, "percent": 5}
    assert told(
        rule(),
        rule("two", when={"until": "2026-03-01"}),
        campaigns=[campaign, campaign | {"campaign_id": "d", "until": "2026-03-01T12:00"}],
        offers=[offer | {"until": "2026-02-28"}],
        point_value=1,
        **STRICT,
    ) == [
        ("/rules/1/when/until", "has_ended"),
        ("/campaigns/1/until", "has_ended"),
        ("/offers/0/until", "has_ended"),
    ]


def test_the_last_day_is_still_a_day_in_the_programs_zone() -> None:
    last = rule(when={"until": "2026-03-10"})
    assert told(last) == []
    program = parse(smallest(rules=[last], **STRICT))
    late = datetime(2026, 3, 10, 22, 59, tzinfo=UTC)
    assert warnings(program, late) == []


def test_what_begins_later_is_no_oddity() -> None:
    assert told(rule(when={"from": "2027-01-01", "until": "2027-02-01"})) == []


@pytest.mark.parametrize("lateness", [None, "P30D"])
def test_what_late_events_may_still_earn_is_not_called_ended(lateness: str | None) -> None:
    ended = rule(when={"until": "2026-03-08"})
    more = {} if lateness is None else {"max_lateness": lateness}
    ledger = Ledger(smallest(rules=[ended], **more))
    now = instant("2026-03-10T12:00")
    ledger.enrol(now - 10 * DAY)
    assert ledger.buy(now, 100, occurred_at=rfc3339(now - 3 * DAY)).points == 5
    assert told(ended, **more) == []


def test_what_cannot_be_late_has_ended_on_its_last_day() -> None:
    yesterday = {"until": "2026-03-09"}
    places = [{"location_id": "open", "check_in": {"kinds": ["static"]}}]
    for trigger in ("registration", "check_in"):
        ended = rule(trigger=trigger, when=yesterday)
        assert told(ended, locations=places) == [("/rules/0/when/until", "has_ended")]
    # A birthday is caught up within a week.
    for until, said in (("2026-03-02", True), ("2026-03-03", False)):
        birthday = rule(trigger="birthday", when={"until": until})
        assert bool(told(birthday)) is said


def test_a_campaigns_own_condition_may_end_before_it_does() -> None:
    campaign = {"campaign_id": "c", "multiplier": 2, "when": {"until": "2026-03-01"}}
    assert told(rule(), campaigns=[campaign], **STRICT) == [
        ("/campaigns/0/when/until", "has_ended")
    ]


# Never a day, never a place


def test_weekdays_that_its_dates_do_not_hold() -> None:
    # 2026-03-14 is a Saturday.
    dates = {"from": "2026-03-14", "until": "2026-03-15"}
    assert told(rule(), rule("two", when=dates | {"weekdays": ["mon", "fri"]})) == [
        ("/rules/1/when", "never_fires")
    ]
    for weekdays in (["sat"], ["mon", "sun"]):
        assert told(rule(when=dates | {"weekdays": weekdays})) == []
    week = {"from": "2026-03-14", "until": "2026-03-20"}
    assert told(rule(when=week | {"weekdays": ["fri"]})) == []
    for end in ("from", "until"):
        assert told(rule(when={end: dates[end], "weekdays": ["mon"]})) == []


def test_check_ins_where_nobody_can_check_in() -> None:
    visit = rule(trigger="check_in")
    closed = {"location_id": "closed"}
    open_ = {"location_id": "open", "check_in": {"kinds": ["static"]}}
    never = [("/rules/0", "never_fires")]
    assert told(visit) == never
    assert told(visit, locations=[closed]) == never
    assert told(visit, locations=[closed, open_]) == []
    at_closed = visit | {"when": {"locations": ["closed"]}}
    assert told(at_closed, locations=[closed, open_]) == never
    at_both = visit | {"when": {"locations": ["closed", "open"]}}
    assert told(at_both, locations=[closed, open_]) == []
    # Other events may name any place.
    assert told(rule(when={"locations": ["closed"]}), locations=[closed]) == []


@pytest.mark.parametrize(
    ("trigger", "asked"),
    [
        *((trigger, "channels") for trigger in ("registration", "profile_completed", "check_in")),
        *((trigger, "attributes") for trigger in ("registration", "profile_completed", "check_in")),
        *((trigger, "locations") for trigger in ("registration", "profile_completed")),
        ("registration", "tiers"),
    ],
)
def test_what_events_of_its_type_never_carry(trigger: str, asked: str) -> None:
    conditions = {
        "channels": ["web"],
        "locations": ["here"],
        "attributes": [{"name": "a", "op": ">=", "value": 1}],
        "tiers": ["gold"],
    }
    levels = [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 10}]
    sections = {
        "locations": [{"location_id": "here", "check_in": {}}],
        "tiers": {"levels": levels, "window": "lifetime"},
    }
    asks = rule(trigger=trigger, when={asked: conditions[asked]})
    assert told(asks, **sections) == [(f"/rules/0/when/{asked}", "never_fires")]
    ledger = Ledger(smallest(rules=[asks], **sections))
    now = instant("2026-03-10T12:00")
    assert ledger.enrol(now).points == 0
    if trigger == "check_in":
        with refused("nothing_earned"):
            ledger.check_in(now, "here")


def test_what_events_of_its_type_may_carry_is_no_oddity() -> None:
    here = {"locations": [{"location_id": "here", "check_in": {}}]}
    levels = [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 10}]
    tiers = {"tiers": {"levels": levels, "window": "lifetime"}}
    assert told(rule(trigger="check_in", when={"locations": ["here"]}), **here) == []
    assert told(rule(trigger="registration", when={"groups": ["vip"]})) == []
    assert told(rule(trigger="registration", when={"tiers": ["base"]}), **tiers) == []
    assert told(rule(trigger="profile_completed", when={"tiers": ["gold"]}), **tiers) == []
    # An attribute that is not there is not equal to anything.
    other = {"attributes": [{"name": "a", "op": "!=", "value": 1}]}
    assert told(rule(trigger="registration", when=other)) == []
    assert Ledger(smallest(rules=[rule(trigger="registration", when=other)])).enrol(0).points == 5


# Shadowed

SHADOWED = [("/rules/1", "always_shadowed")]


def test_a_rule_after_a_last_one_that_fires_whenever_it_does() -> None:
    assert told(rule(stacking="last"), rule("two")) == SHADOWED
    assert told(rule(stacking="last"), rule("two", earn={"multiply": 2})) == SHADOWED
    assert told(rule(), rule("two", stacking="last")) == []


def test_a_rule_beside_an_exclusive_one_of_higher_priority() -> None:
    first = rule(stacking="exclusive", priority=1)
    assert told(first, rule("two")) == SHADOWED
    assert told(first, rule("two", stacking="exclusive")) == SHADOWED
    # An exclusive rule also excludes what comes before it.
    assert told(rule(stacking="exclusive", priority=-1), rule("two")) == SHADOWED
    assert told(rule(stacking="exclusive"), rule("two", earn={"multiply": 2})) == []


def test_of_two_exclusive_rules_of_one_priority_either_may_grant_more() -> None:
    assert told(rule(stacking="exclusive"), rule("two", stacking="exclusive")) == []


@pytest.mark.parametrize("stacking", ["last", "exclusive"])
@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({}, {"when": {"channels": ["web"]}}),
        ({"when": {"channels": ["web", "app"]}}, {"when": {"channels": ["web"]}}),
        ({"when": {"weekdays": ["mon"]}}, {"when": {"weekdays": ["mon"]}}),
        ({"when": {"min_amount": 100}}, {"when": {"min_amount": 200}}),
        ({"when": {"hours": ["08:00-10:00"]}}, {"when": {"hours": ["08:00-10:00"]}}),
        ({"when": {"from": "2026-03-01"}}, {"when": {"from": "2026-04-01"}}),
        ({"when": {"until": "2027-01-01"}}, {"when": {"until": "2026-12-31T12:00"}}),
        ({}, {"trigger": "first_purchase"}),
        ({}, {"match": {"categories": ["x"]}}),
        ({"match": {"categories": ["x", "y"]}}, {"match": {"categories": ["x"]}}),
        (
            {"match": {"exclude": {"brands": ["m"]}}},
            {"match": {"exclude": {"brands": ["m", "n"]}}},
        ),
        (
            {"when": {"attributes": [{"name": "a", "op": "==", "value": 1}]}},
            {
                "when": {
                    "attributes": [
                        {"name": "a", "op": "==", "value": 1},
                        {"name": "b", "op": ">", "value": 1},
                    ]
                }
            },
        ),
    ],
)
def test_the_wider_rule_shadows_the_narrower_and_never_the_other_way_round(
    stacking: str, wide: dict[str, Any], narrow: dict[str, Any]
) -> None:
    assert told(rule(stacking=stacking) | wide, rule("two") | narrow) == SHADOWED
    if wide.get("when") != narrow.get("when") or wide.get("match") != narrow.get("match"):
        assert told(rule(stacking=stacking) | narrow, rule("two") | wide) == []


@pytest.mark.parametrize("stacking", ["last", "exclusive"])
@pytest.mark.parametrize(
    "sometimes",
    [
        {"frequency": [{"times": 1, "per": "day"}]},
        {"frequency": [{"every": "PT1H"}]},
        {"trigger": "first_purchase"},
        {"trigger": "review"},
        {"when": {"groups": ["vip"]}},
        {"when": {"hours": ["00:00-23:00"]}},
        {"when": {"until": "2026-12-31"}},
        {"when": {"from": "2026-03-11T08:00"}},
        {"match": {"brands": ["m"]}},
        {"match": {"discounted": False}},
        {"match": {"exclude": {"products": ["A"]}}},
    ],
)
def test_a_rule_that_only_sometimes_fires_shadows_nothing(
    stacking: str, sometimes: dict[str, Any]
) -> None:
    assert told(rule(stacking=stacking) | sometimes, rule("two")) == []


def test_a_rule_for_true_does_not_shadow_one_for_1() -> None:
    def asks(value: Any) -> dict[str, Any]:
        return {"attributes": [{"name": "vip", "op": "==", "value": value}]}

    assert told(rule(stacking="last", when=asks(True)), rule("two", when=asks(1))) == []
    assert told(rule(stacking="last", when=asks(1)), rule("two", when=asks(1))) == SHADOWED


def test_an_exclusive_rule_that_a_last_one_may_keep_from_being_evaluated_shadows_nothing() -> None:
    rules = [
        rule("small", priority=2),
        rule("web", priority=1, stacking="last", when={"channels": ["web"]}),
        rule("big", stacking="exclusive", earn={"points": 100}),
    ]
    ledger = Ledger(smallest(rules=rules))
    now = instant("2026-03-10T12:00")
    ledger.enrol(now)
    entry = ledger.buy(now, 100, channel="web")
    explanation = awarded(ledger.rulebook, entry)["explanation"]
    shown = {row["rule_id"]: row["reason"] for row in explanation}
    assert shown == {"small": "granted", "web": "granted", "big": "after_last"}
    assert told(*rules) == []


def test_a_rule_that_two_others_shadow_is_told_once() -> None:
    rules = [
        rule("end", priority=1, stacking="last"),
        rule("small"),
        rule("big", stacking="exclusive"),
    ]
    assert told(*rules) == [
        ("/rules/1", "always_shadowed"),
        ("/rules/2", "always_shadowed"),
    ]


@pytest.mark.parametrize(
    "asked",
    [
        lambda _: {},
        lambda n: {"match": {"products": [f"p{n}", f"p{n + 1}"]}},
        lambda n: {"when": {"min_amount": 2000 - n}, "stacking": "last"},
        lambda n: {"when": {"attributes": [{"name": "a", "op": "==", "value": n}]}},
    ],
)
def test_two_thousand_rules_that_count_alone_are_looked_at_in_a_moment(
    asked: Callable[[int], dict[str, Any]],
) -> None:
    """Publishing has 10 seconds; held against each other one by one they took 30."""
    rules = [rule(f"r{n}", **{"stacking": "exclusive"} | asked(n)) for n in range(2000)]
    program = parse(smallest(rules=rules))
    began = time.process_time()
    assert warnings(program, NOW) == []
    assert time.process_time() - began < 1


def test_a_rule_far_behind_is_told_of_the_first_that_shadows_it() -> None:
    odd = [rule(f"r{n}", stacking="last", match={"products": [f"p{n}"]}) for n in range(1500)]
    shadowed = rule("late", match={"products": ["p1200"]})
    everything = rule("all", stacking="last")
    program = parse(smallest(rules=[*odd, everything, everything | {"rule_id": "b"}, shadowed]))
    assert [(f.pointer, f.detail.split()[1]) for f in warnings(program, NOW)] == [
        ("/rules/1501", "all"),
        ("/rules/1502", "r1200"),
    ]


def test_more_warnings_than_an_answer_holds_are_not_told() -> None:
    rules = [rule(f"r{n}", stacking="last") for n in range(MOST_FAULTS + 2)]
    assert len(warnings(parse(smallest(rules=rules)), NOW)) == MOST_FAULTS


def test_programs_that_mean_what_they_say_have_no_warnings() -> None:
    assert warnings(parse(shop()), NOW) == []
    document = example()
    assert [fault.code for fault in warnings(parse(document), NOW)] == []


# Over HTTP


@pytest.fixture
def at_noon(service: Service) -> Iterator[Service]:
    """The service, its clock standing at NOW."""
    service.set_clock("2026-03-10T12:00:00Z")
    yield service
    service.set_clock(None)


def test_publishing_answers_with_its_warnings_and_publishes_all_the_same(
    at_noon: Service,
) -> None:
    program_id = f"advice-{uuid.uuid4().hex[:8]}"
    path = f"/v1/programs/{program_id}/program"
    document = smallest(
        program_id=program_id,
        rules=[
            rule(stacking="last"),
            rule("two"),
            rule("visit", trigger="check_in"),
            rule("old", when={"until": "2026-03-01"}, trigger="review"),
        ],
        **STRICT,
    )
    headers = at_noon.headers("admin")
    for _ in range(2):  # a repeat is answered alike
        answer = at_noon.http.put(path, json=document, headers=headers)
        assert answer.status_code == 200, answer.text
        published = answer.json()
        assert published["version"] == 1
        assert sorted((w["pointer"], w["code"]) for w in published["warnings"]) == [
            ("/rules/1", "always_shadowed"),
            ("/rules/2", "never_fires"),
            ("/rules/3/when/until", "has_ended"),
        ]
        assert all(warning["detail"] for warning in published["warnings"])
    assert at_noon.http.get(path, headers=headers).json()["program"] == document
