"""The ledger's laws, as properties of the pure decisions under random programs and histories.

The fourth law, exactly once, is the store's: tests/test_ledger_machine.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.celebrations import CAUGHT_UP_DAYS
from loyalty.dates import minus, rfc3339
from loyalty.lots import advance
from loyalty.model import NEVER, Account, Entry, Posting, Refusal
from loyalty.notices import notices
from loyalty.program import Rule
from loyalty.projections import explanation_of, reversed_
from loyalty.tiers import tier_of
from loyalty.validation import publishable
from loyalty.wire import account_item, account_of, entry_item, entry_of, item_hash
from tests.programs import smallest
from tests.strategies import (
    BUSY_DOCUMENTS,
    BUSY_STORIES,
    DAY,
    HOUR,
    MINUTE,
    PROGRAM_DOCUMENTS,
    SECOND,
    STORIES,
    Done,
    Ledger,
    Played,
    Story,
    instant,
    local_date,
    number,
)

# Enough for every law to have failed in its time; a program and its history cost 25 ms to make up.
law = settings(max_examples=60)

EARNINGS = ("enrol", "award", "check_in", "birthday", "anniversary")

NOBODY = Account(program_id="random", member_id="ann")


@law
@given(st.one_of(PROGRAM_DOCUMENTS, BUSY_DOCUMENTS))
def test_the_programs_of_these_laws_can_be_published(document: dict[str, Any]) -> None:
    """A document that is accepted always evaluates: under these programs all laws hold."""
    publishable(document)


@law
@given(STORIES)
def test_conservation(story: Story) -> None:
    """1. For each member, available + pending + held − debt = Σ credits − Σ debits; over the
    program issued − redeemed − expired − reversed = outstanding."""
    played = story.play()
    moved: Counter[str] = Counter()
    for done in played.done:
        if done.entry is None:
            continue
        for posting in done.entry.postings:
            change = _outcome(posting)
            # Nothing goes the wrong way: credits add, debits take, activation moves.
            match posting.kind:
                case "award":
                    assert change > 0
                case "activate" | "notice":
                    assert change == 0
                case _:
                    assert change < 0
            moved[posting.kind] += change
        after = done.after
        outstanding = after.available + after.pending_points - after.debt
        assert outstanding == sum(moved.values())
        assert done.entry.balance == after.available - after.debt
        # A debt takes every point there is before it stands.
        assert not (after.debt and after.lots)
        assert after.debt >= 0
        assert after.debt == 0 or played.ledger.program.refunds.shortfall == "debt"


def _outcome(posting: Posting) -> int:
    return (
        sum(change for _, change in posting.lots)
        + sum(change for _, _, change in posting.pending)
        - posting.debt
    )


@law
@given(STORIES)
def test_lots_end_at_their_date(story: Story) -> None:
    """2. No lot is ever below zero, none comes back to life, no debit takes from a lot past its
    expiry."""
    played = story.play()
    for done in played.done:
        if done.entry is None:
            continue
        today = number(local_date(done.entry.recorded_at, played.zone))
        lots: dict[int, int] = dict(done.before.lots) if done.before else {}
        # Inactivity takes points before the date of their lot.
        inactive = any(policy.inactive_for for policy in played.ledger.program.expiry)
        granted_late: set[int] = set()
        for posting in done.entry.postings:
            for expires_on, change in posting.lots:
                lots[expires_on] = lots.get(expires_on, 0) + change
                assert lots[expires_on] >= 0
                match posting.kind:
                    case "expire":
                        assert expires_on <= posting.on or inactive
                        assert posting.on <= today
                        assert change < 0
                    case "award" | "activate":
                        assert change > 0
                        granted_late |= {expires_on} if expires_on <= today else set()
                    case _:
                        assert expires_on > today
                        assert change < 0
            for available_on, _, change in posting.pending:
                assert posting.kind in ("award", "activate", "reverse")
                assert (change > 0) == (posting.kind == "award")
                assert (available_on <= today) == (posting.kind == "activate")
        # What came too late to live went within the same entry, and nothing dead is kept.
        assert all(not lots[expires_on] for expires_on in granted_late)
        assert all(points > 0 and expires_on > today for expires_on, points in done.after.lots)
        assert all(
            points > 0 and today < available_on < expires_on
            for available_on, expires_on, points in done.after.pending
        )


@law
@given(STORIES)
def test_debits_name_their_lots(story: Story) -> None:
    """3. Every debit names the lots it took from, and they sum to it."""
    played = story.play()
    for done in played.done:
        entry = done.entry
        if entry is None or entry.kind == "enrol":
            continue
        assert done.before is not None
        today = number(local_date(entry.recorded_at, played.zone))
        before, due = advance(played.ledger.program, done.before, today, done.now)
        assert entry.postings[: len(due)] == tuple(due)
        if entry.kind == "redeem":
            [posting] = entry.own_postings
            assert not posting.pending
            assert not posting.debt
            spent = done.step.arguments[0]
            assert -sum(change for _, change in posting.lots) == spent == -entry.points
            # Spending order: the earliest lots whole, then a part of the next.
            for (on, held), (taken_on, change) in zip(before.lots, posting.lots, strict=False):
                assert on == taken_on
                assert held == -change or taken_on == posting.lots[-1][0]
        if entry.kind in ("redeem", "reverse"):
            gone = before.available + before.pending_points - before.debt
            gone -= done.after.available + done.after.pending_points - done.after.debt
            named = sum(-c for p in entry.own_postings for _, c in p.lots)
            named += sum(-c for p in entry.own_postings for _, _, c in p.pending)
            owed = sum(p.debt for p in entry.own_postings)
            assert gone == named + owed == -entry.points


@law
@given(STORIES)
def test_refused_commands_change_nothing(story: Story) -> None:
    """5. A refused command changes nothing at all."""
    played = story.play()
    for done in played.done:
        if not isinstance(done.result, Entry):
            assert done.before == done.after
    # Not even what comes later: the same history without them gives the same entries.
    accepted: list[Done] = [d for d in played.done[1:] if isinstance(d.result, Entry)]
    now, steps = story.begins, []
    references = _references(played)
    for done in accepted:
        step = replace(done.step, after=done.now - now)
        if step.what == "reverse" and done.entry:
            step = replace(step, arguments=(references[done.entry.seq],))
        steps.append(step)
        now = done.now
    again = replace(story, steps=tuple(steps)).play()
    assert [_without_ids(e) for e in again.ledger.entries] == [
        _without_ids(e) for e in played.ledger.entries
    ]


def _references(played: Played) -> dict[int, int]:
    """For each reversal, by its number: how many events came after the one it takes back."""
    events = [e for e in played.ledger.entries if e.kind in ("award", "check_in")]
    return {
        e.seq: sum(1 for x in events if x.seq < e.seq)
        - 1
        - [x.partition for x in events].index(e.partition)
        for e in played.ledger.entries
        if e.kind == "reverse"
    }


def _without_ids(entry: Entry) -> Entry:
    # Keys are numbered by the commands sent, refused ones included.
    reason = entry.reason if entry.kind != "reverse" else ""
    return replace(entry, partition="", reason=reason, hash=b"")


@law
@given(st.one_of(BUSY_STORIES, BUSY_STORIES, STORIES))
def test_no_counter_passes_its_limit(story: Story) -> None:
    """6. No counter passes its limit: counted from what each entry granted, window by window."""
    played = story.play()
    program = played.ledger.program
    points: Counter[tuple[Any, ...]] = Counter()
    times: Counter[tuple[Any, ...]] = Counter()
    scans: Counter[Any] = Counter()
    check_in = program.locations[0].check_in
    assert check_in
    if check_in.cooldown:
        scanned = [e.occurred_at for e in played.ledger.entries if e.kind == "check_in"]
        wait = check_in.cooldown.seconds * SECOND
        assert all(later - earlier >= wait for earlier, later in pairwise(scanned))
    for entry in _earnings(played):
        on = local_date(entry.occurred_at, played.zone)
        granted = _granted(played, entry)
        total = sum(granted.values())
        for index, limit in enumerate(program.limits):
            points["program", index, _window(limit.per, on, entry)] += total
        for rule in program.rules:
            earned = granted.get(rule.rule_id, 0)
            for index, limit in enumerate(rule.limits):
                points[rule.rule_id, index, _window(limit.per, on, entry)] += earned
            for index, frequency in enumerate(rule.frequency):
                if frequency.per and _fired(played, entry, rule, earned):
                    times[rule.rule_id, index, _window(frequency.per, on, entry)] += 1
        if entry.kind == "check_in":
            for index, allowed in enumerate(check_in.limits):
                window = index, _window(allowed.per, on, entry)
                scans[window] += 1
                assert scans[window] <= allowed.times
    budget = program.budget.points if program.budget else None
    given = 0
    for entry in played.ledger.entries:
        if entry.kind in EARNINGS:
            given += entry.points
        if entry.kind == "reverse":  # what it took back, it gave to the budget
            given -= next(e.points for e in played.ledger.entries if e.partition == entry.partition)
        assert budget is None or given <= budget
    rules_by_id = {rule.rule_id: rule for rule in program.rules}
    for (name, index, _), used in points.items():
        limits = program.limits if name == "program" else rules_by_id[name].limits
        assert used <= limits[index].points
    for (name, index, _), used in times.items():
        assert used <= (rules_by_id[name].frequency[index].times or 0)


@law
@given(st.sampled_from([10, 240]), st.lists(st.integers(0, 60).map(lambda n: 10 * n), max_size=8))
def test_cooldowns_lie_between(every: int, minutes: list[int]) -> None:
    """6. No counter passes its limit: nor does a rule pay twice within its cooldown, in whatever
    order the events arrive."""
    rule = {
        "rule_id": "review",
        "trigger": "review",
        "earn": {"points": 5},
        "frequency": [{"every": f"PT{every}M"}],
    }
    ledger = Ledger(smallest(rules=[rule]))
    begins = instant("2026-03-10T08:00")
    ledger.enrol(begins)
    paid = []
    for late, minute in enumerate(minutes):
        at = begins + minute * MINUTE
        entry = ledger.award(begins + DAY + late, {"type": "review", "occurred_at": rfc3339(at)})
        paid += [minute] if entry.points else []
    assert all(later - earlier >= every for earlier, later in pairwise(sorted(paid)))


def _earnings(played: Played) -> list[Entry]:
    return [e for e in played.ledger.entries if e.kind in EARNINGS]


def _granted(played: Played, entry: Entry) -> dict[str, int]:
    """What each rule gave, by its id."""
    rows = explanation_of(played.ledger.rulebook, entry)
    assert sum(row["points"] for row in rows) == entry.points
    return {row.get("rule_id") or row["offer_id"]: row["points"] for row in rows}


def _fired(played: Played, entry: Entry, rule: Rule, earned: int) -> bool:
    """Whether the rule gave points, or multiplied what others gave."""
    if rule.earn.kind != "multiply":
        return earned > 0
    rows = explanation_of(played.ledger.rulebook, entry)
    factors = [factor for row in rows if row["points"] for factor in row["factors"]]
    return any(factor.get("rule_id") == rule.rule_id for factor in factors)


def _window(per: str, on: date, entry: Entry) -> Any:
    match per:
        case "transaction":
            return entry.seq
        case "day":
            return on
        case "week":
            return on.isocalendar()[:2]
        case "month":
            return on.year, on.month
        case "year":
            return on.year
    return "ever"


@law
@given(STORIES)
def test_refunds_take_no_more_than_was_given(story: Story) -> None:
    """7. A refund never takes back more than its event gave."""
    played = story.play()
    awards = {e.partition: e for e in played.ledger.entries if e.kind in ("award", "check_in")}
    taken: Counter[str] = Counter()
    for done in played.done:
        if done.step.what != "reverse":
            continue
        if isinstance(done.result, Refusal):
            assert done.result.code == "more_than_bought"
        elif done.entry:
            given = awards[done.entry.partition].points
            taken[done.entry.partition] += -done.entry.points
            assert 0 <= taken[done.entry.partition] <= given
            # What was not taken is accounted for: it had expired, or nothing covered it.
            other = reversed_(done.entry)
            expired, forgiven = other["expired_points"], other["forgiven_points"]
            assert min(expired, forgiven) >= 0
            assert -done.entry.points + expired + forgiven == given


@law
@given(STORIES)
def test_replay(story: Story) -> None:
    """8. Folding a member's entries from nothing gives exactly the stored account."""
    played = story.play()
    account = NOBODY
    entries = iter(played.ledger.entries)
    for done in played.done:
        if done.entry:
            stored = entry_item(next(entries))
            assert entry_item(entry_of(stored)) == stored
            account = account.after(entry_of(stored))
        # A birthday is personal: the account holds it, the ledger does not.
        account = replace(account, birthday=done.after.birthday)
        assert account == done.after
        assert account_of(account_item(account)) == account
    assert next(entries, None) is None


@law
@given(STORIES, st.data())
def test_entries_are_numbered_and_chained(story: Story, data: st.DataObject) -> None:
    """9. Entries are append-only, numbered without gaps per member, chained by hash."""
    played = story.play()
    items = played.ledger.items
    previous = b""
    for at, item in enumerate(items):
        assert item["n"] == {"N": str(at + 1)}
        assert item["h"]["B"] == item_hash(item, previous)
        previous = item["h"]["B"]
    assert played.ledger.account
    assert played.ledger.account.hash == previous
    # Whatever is changed in a stored entry shows.
    at = data.draw(st.integers(0, len(items) - 1))
    name = data.draw(st.sampled_from(sorted(items[at].keys() - {"h"})))
    [(kind, value)] = items[at][name].items()
    forged = items[at] | {name: {kind: value + (b"!" if kind == "B" else "1")}}
    before = items[at - 1]["h"]["B"] if at else b""
    assert item_hash(forged, before) != items[at]["h"]["B"]
    assert (
        item_hash({k: v for k, v in items[at].items() if k != name}, before) != items[at]["h"]["B"]
    )


@law
@given(STORIES)
def test_the_sweep_does_not_matter(story: Story) -> None:
    """11. The balance at time T does not depend on whether the sweep ran."""
    swept = story.play(sweep_first=True)
    unswept = story.play()
    program = unswept.ledger.program
    for one, other in zip(swept.done, unswept.done, strict=True):
        today = number(local_date(other.now, unswept.zone))
        assert _points(program, one.after, today) == _points(program, other.after, today)
        for later in (1, 40, 400):
            assert _points(program, one.after, today + later) == _points(
                program, other.after, today + later
            )
        if isinstance(other.result, Refusal):
            assert isinstance(one.result, Refusal)
            assert (one.result.code, one.result.more) == (other.result.code, other.result.more)
        elif other.step.what != "sweep" and other.entry:
            assert one.entry
            assert one.entry.own_postings == other.entry.own_postings
            assert one.entry.balance == other.entry.balance
            assert one.entry.explanation == other.entry.explanation


def _points(program: Any, account: Account, today: int) -> tuple[Any, ...]:
    account, _ = advance(program, account, today, 0)
    tier = tier_of(program, account)
    return account.lots, account.pending, account.debt, account.lifetime, tier


@law
@given(STORIES, st.integers(0, 500))
def test_advancing_in_days_is_advancing_at_once(story: Story, days: int) -> None:
    """11. The balance at time T does not depend on when the sweep ran, nor on how often."""
    played = story.play()
    program, account = played.ledger.program, played.ledger.account
    assert account
    today = number(local_date(played.now, played.zone))
    at_once, postings = advance(program, account, today + days, 0)
    day_by_day, one_by_one = account, []
    for day in range(today, today + days + 1):
        day_by_day, due = advance(program, day_by_day, day, 0)
        one_by_one += due
        assert all(posting.on == day for posting in due) or day == today
    assert (day_by_day, one_by_one) == (at_once, postings)
    assert advance(program, at_once, today + days, 0) == (at_once, [])
    assert all(
        today + days < expires_on <= NEVER and points > 0 for expires_on, points in at_once.lots
    )


@law
@given(STORIES)
def test_the_sweep_writes_once_and_only_what_is_due(story: Story) -> None:
    """11. What is due is told by the account's due date, is written down once, and then is not
    due any more."""
    played = story.play()
    ledger = played.ledger
    now = played.now
    while ledger.account and ledger.account.due_on is not None:
        now += 12 * HOUR
        is_due = ledger.account.due_on <= number(local_date(now, played.zone))
        before = ledger.account
        assert (ledger.sweep(now) is not None) == is_due
        assert ledger.sweep(now) is None
        if not is_due:
            assert ledger.account == before
            days_left = before.due_on - number(local_date(now, played.zone))
            now += max(0, days_left - 2) * DAY
    assert ledger.account
    assert not ledger.account.pending
    assert all(expires_on == NEVER for expires_on, _ in ledger.account.lots)


@law
@given(STORIES)
def test_events_alone_tell_the_tier(story: Story) -> None:
    """Who follows the events on the bus knows the tier of every member at every entry."""
    played = story.play()
    program = played.ledger.program
    shown = program.tiers.levels[0].tier_id if program.tiers else None
    for done in played.done:
        if done.entry:
            for notice in notices(done.entry):
                if notice["type"] == "Tier Changed":
                    shown = notice["detail"]["tier_id"]
        tier = tier_of(program, done.after)
        assert shown == (tier and tier.tier_id)


@law
@given(STORIES)
def test_of_each_day_is_told_once_and_ahead(story: Story) -> None:
    """A member is told of points before they go, so long before as the program says, and of
    each day that comes up once."""
    played = story.play()
    ahead = played.ledger.program.notifications.expiring
    told = [p for e in played.ledger.entries for p in e.postings if p.kind == "notice"]
    assert all(earlier.on < later.on for earlier, later in pairwise(told))
    for posting in told:
        assert posting.told
        for gone, points in posting.told:
            assert points > 0
            day = date.fromordinal(date(1970, 1, 1).toordinal() + gone)
            assert posting.on in {number(minus(day, each)) for each in ahead}


@law
@given(STORIES)
def test_celebrations_are_paid_once_in_their_week(story: Story) -> None:
    """A birthday and an anniversary are paid once a year, on their day or within 7 days."""
    played = story.play()
    paid = [e for e in played.ledger.entries if e.kind in ("birthday", "anniversary")]
    assert len({(e.kind, e.sort) for e in paid}) == len(paid)
    for entry in paid:
        on = local_date(entry.occurred_at, played.zone)
        late = local_date(entry.recorded_at, played.zone) - on
        assert 0 <= late.days <= CAUGHT_UP_DAYS
        assert str(on.year) == entry.sort
        assert entry.points > 0


@law
@given(STORIES)
def test_decisions_are_pure(story: Story) -> None:
    """Everything a program decides is a pure function of (program version, account, event,
    time)."""
    assert story.play().ledger.items == story.play().ledger.items


def test_a_gap_in_the_numbers_is_a_defect_shown_loudly() -> None:
    """9. Entries are numbered without gaps: an entry that does not follow is not folded."""
    from loyalty.model import Broken

    entry = Entry(
        program_id="random",
        member_id="ann",
        seq=2,
        partition="e#1",
        kind="award",
        version=1,
        recorded_at=0,
        occurred_at=0,
        postings=(),
        balance=0,
    )
    with pytest.raises(Broken):
        NOBODY.after(entry)
