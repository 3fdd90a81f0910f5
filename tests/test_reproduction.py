"""A stored award is reproduced exactly from its entry, its program version and its event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from loyalty import earning
from loyalty.codes import CheckInCode, check_in_code
from loyalty.commands import CHECK_IN_EVENT, Enrolment, Event
from loyalty.decisions import Decision, Guard, key_of
from loyalty.model import Account, Entry, History, Known, NeedsBudgets, NeedsHistory
from loyalty.projections import awarded
from loyalty.rules import Rulebook
from loyalty.validation import parse
from loyalty.wire import entry_item, entry_of, sealed_hash
from tests.programs import smallest
from tests.strategies import (
    BUSY_STORIES,
    DAY,
    INDEXED,
    LOCATION,
    SECRETS,
    STORIES,
    Done,
    Ledger,
    Played,
    Story,
    instant,
)

NOW = instant("2026-03-10T12:00")


def event_of(done: Done, entry: Entry, currency: str) -> dict[str, Any]:
    """The event of a step, as a client sent it."""
    occurred = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=done.now - done.step.late)
    event = done.step.arguments[0] | {
        "event_id": entry.partition.removeprefix("e#"),
        "member_id": entry.member_id,
        "occurred_at": occurred.isoformat(),
    }
    if "purchase" in event:
        event["purchase"] = event["purchase"] | {"currency": currency}
    return event


def budgets_of(rulebook: Rulebook, entry: Entry) -> dict[str, int]:
    """What was left in each budget as far as the entry tells: where one was too small, how much
    it had; otherwise enough."""
    return {**rulebook.budgets, **(entry.explanation or {}).get("u", {})}


def redecided(
    rulebook: Rulebook,
    before: list[Entry],
    entry: Entry,
    event: Mapping[str, Any] | None,
    groups: tuple[str, ...] = (),
    budgets: Mapping[str, int] | None = None,
) -> Entry:
    """The entry that the same command leads to, on the account folded from the entries before."""
    account = Account(program_id=entry.program_id, member_id=entry.member_id)
    for earlier in before:
        account = account.after(earlier)
    guard = Guard(entry.partition, entry.sort, entry.fingerprint)
    left = budgets_of(rulebook, entry) if budgets is None else budgets
    known = Known({entry.member_id: account if before else None}, budgets=left)
    decision: Decision | None = None
    while decision is None:
        try:
            decision = decide(rulebook, known, guard, entry, event, groups)
        except NeedsHistory as need:
            known = replace(known, history=history(before, need.since))
    [again] = decision.entries
    again = replace(again, hash=sealed_hash(again, account.hash))
    stored = entry_of(entry_item(again))
    # The first answer is made of what was decided, a replay of what is stored.
    assert awarded(rulebook, stored) == awarded(rulebook, again)
    return stored


def decide(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    entry: Entry,
    event: Mapping[str, Any] | None,
    groups: tuple[str, ...],
) -> Decision:
    now = entry.recorded_at
    if entry.kind == "award":
        command = Event.model_validate_json(json.dumps(event))
        return earning.award(rulebook, known, guard, command, now)
    if entry.kind == "check_in":
        code = check_in_code(SECRETS, CheckInCode(entry.program_id, LOCATION, 1))
        event_id = CHECK_IN_EVENT + key_of(entry.partition)
        return earning.check_in(
            rulebook, known, guard, entry.member_id, code, SECRETS, event_id, now
        )
    enrolment = Enrolment(member_id=entry.member_id, groups=list(groups))
    return earning.enrol(
        rulebook, known, guard, entry.member_id, enrolment, entry.answer["c"], "", (), now
    )


def history(entries: list[Entry], since: int) -> History:
    found = [entry for entry in reversed(entries) if entry.recorded_at >= since]
    items = ({k: v for k, v in entry_item(entry).items() if k in INDEXED} for entry in found)
    return History(since, tuple(entry_of(item) for item in items))


def assert_reproduced(story: Story, played: Played) -> None:
    """Every award of the history, decided again under a version compiled anew."""
    document = json.loads(json.dumps(story.document))
    rulebook = Rulebook(parse(document), played.ledger.rulebook.version)
    entries = played.ledger.entries
    for done in played.done:
        entry = done.entry
        if entry is None or entry.kind not in ("award", "check_in", "enrol"):
            continue
        stored = entry_of(entry_item(entry))
        event = event_of(done, entry, rulebook.program.currency) if entry.kind == "award" else None
        again = redecided(rulebook, entries[: entry.seq - 1], stored, event, story.groups)
        assert again == stored
        assert entry_item(again) == entry_item(stored)
        assert awarded(rulebook, stored) == awarded(played.ledger.rulebook, entry)
        assert awarded(rulebook, again) == awarded(rulebook, stored)


@settings(max_examples=40)
@given(STORIES)
def test_a_stored_award_is_reproduced_exactly(story: Story) -> None:
    assert_reproduced(story, story.play())


@settings(max_examples=25)
@given(BUSY_STORIES)
def test_so_is_one_that_limits_have_cut(story: Story) -> None:
    assert_reproduced(story, story.play())


def test_it_is_reproduced_under_its_own_version_whatever_came_later() -> None:
    rule = {"rule_id": "review", "trigger": "review", "earn": {"points": 5}}
    ledger = Ledger(smallest(rules=[rule]))
    ledger.enrol(NOW)
    body = {"event_id": "one", "member_id": "ann", "type": "review"}
    first = ledger.award(NOW + DAY, body)
    old = ledger.rulebook
    document = smallest(rules=[rule | {"earn": {"points": 9}}], expiry=[{"after": "P1M"}])
    ledger.rulebook = Rulebook(parse(document), 2)
    ledger.program = ledger.rulebook.program
    second = ledger.award(NOW + 2 * DAY, body | {"event_id": "two"})
    assert (first.version, first.points, second.version, second.points) == (1, 5, 2, 9)
    versions = {1: old, 2: ledger.rulebook}
    for entry, event_id in ((first, "one"), (second, "two")):
        before = ledger.entries[: entry.seq - 1]
        again = redecided(versions[entry.version], before, entry, body | {"event_id": event_id})
        assert again == entry


def test_an_award_that_two_budgets_cut_is_reproduced_from_its_entry() -> None:
    """The campaign has 6 points left and the program 12; the award would be 10 and 10 more."""
    document = smallest(
        rules=[{"rule_id": "review", "trigger": "review", "earn": {"points": 10}}],
        campaigns=[{"campaign_id": "spring", "multiplier": 2, "budget": {"points": 6}}],
        budget={"points": 12},
    )
    ledger = Ledger(document)
    ledger.enrol(NOW)
    body = {"event_id": "one", "member_id": "ann", "type": "review"}
    entry = ledger.award(NOW, body)
    assert entry.points == 12
    assert entry.explanation["b"] == {"campaign:spring": 2, "program": 12}
    again = redecided(ledger.rulebook, ledger.entries[:1], entry, body)
    assert again == entry


def test_a_budget_that_is_asked_for_is_named() -> None:
    document = smallest(
        rules=[{"rule_id": "review", "trigger": "review", "earn": {"points": 10}}],
        budget={"points": 12},
    )
    ledger = Ledger(document)
    ledger.enrol(NOW)
    body = {"event_id": "one", "member_id": "ann", "type": "review"}
    entry = ledger.award(NOW, body)
    with pytest.raises(NeedsBudgets) as caught:
        redecided(ledger.rulebook, ledger.entries[:1], entry, body, budgets={})
    assert caught.value.totals == {"program": 12}
