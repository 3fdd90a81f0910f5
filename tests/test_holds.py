"""Points reserved at a checkout: captured, given up, or lapsed by themselves, and back in the lots
they came from with the lives they had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty import edge, projections
from loyalty.budgets import SLOTS, slot
from loyalty.dates import milliseconds, rfc3339
from loyalty.decisions import key_of, stock_id
from loyalty.lots import advance
from loyalty.model import NEVER, Account, Counts, Entry, Posting, Refusal
from loyalty.redeeming import status_of
from loyalty.wire import account_item, account_of, entry_item, entry_of
from tests import workers
from tests.faults import Fault
from tests.programs import shop, smallest
from tests.strategies import (
    DAY,
    HOUR,
    MINUTE,
    SECRETS,
    Ledger,
    instant,
    local_date,
    number,
    refused,
)
from tests.workers import NOON, Answer, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
ZONE = "Europe/Paris"
NOW = instant("2026-03-10T13:00", ZONE)
TODAY = number("2026-03-10")
HALF_AN_HOUR = 30 * MINUTE
PER_CENT = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 1},
}
SHORT = {
    "rule_id": "quiz",
    "trigger": "quiz",
    "earn": {"points": 10},
    "expiry": [{"after": "P2D"}],
}
"""Points that are gone on 12 March when they were earned on the 10th."""
GIFT = {"reward_id": "gift", "kind": "gift", "cost": 40}


def member(points: int = 100, **more: Any) -> Ledger:
    """A member with so many points that never expire, and quizzes for more that do."""
    ledger = Ledger(smallest(**{"rules": [PER_CENT, SHORT], "rewards": [GIFT]} | more))
    ledger.enrol(NOW)
    if points:
        ledger.buy(NOW, points)
    return ledger


def account(ledger: Ledger) -> Account:
    assert ledger.account
    return ledger.account


def at(ledger: Ledger, now: int) -> projections.Balance:
    """The balance as it is answered at that moment."""
    return projections.balance(ledger.rulebook, account(ledger), now)


def points(ledger: Ledger, now: int) -> tuple[int, int, int]:
    """(available, held, debt) at that moment."""
    balance = at(ledger, now)
    return balance["available"], balance["held"], balance["debt"]


# One hold after another


def test_held_points_are_nobodys_to_spend_until_the_hold_has_ended() -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 70, hold=True)
    assert (held.kind, held.balance) == ("hold", 30)
    assert points(ledger, NOW) == (30, 70, 0)
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(NOW, 31)
    with refused("insufficient_points", missing_points=1):
        ledger.redeem(NOW, 31, hold=True)
    ledger.redeem(NOW, 30)
    captured = ledger.capture(NOW, held)
    assert (captured.kind, captured.points, captured.balance) == ("capture", -70, 0)
    assert points(ledger, NOW) == (0, 0, 0)


def test_a_hold_lapses_at_the_very_instant_of_its_end() -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 70, hold=True)
    end = NOW + HALF_AN_HOUR
    assert points(ledger, end - 1) == (30, 70, 0)
    assert points(ledger, end) == (100, 0, 0)
    assert ledger.sweep(end - 1) is None
    with refused("not_held", redemption_status="lapsed"):
        ledger.capture(end, held)
    assert ledger.capture(end - 1, held).points == -70


@pytest.mark.parametrize("swept", [False, True], ids=["before the sweep", "after the sweep"])
def test_what_has_lapsed_can_neither_be_captured_nor_cancelled(swept: bool) -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 70, hold=True)
    later = NOW + HOUR
    if swept:
        swept_entry = ledger.sweep(later)
        assert swept_entry
        [lapse] = swept_entry.postings
        assert (lapse.kind, lapse.lots, lapse.held) == ("lapse", ((NEVER, 70),), -70)
    with refused("not_held", redemption_status="lapsed"):
        ledger.capture(later, held)
    with refused("not_held", redemption_status="lapsed"):
        ledger.cancel(later, held)
    assert points(ledger, later) == (100, 0, 0)
    assert ledger.sweep(later) is None or not swept


def test_a_hold_says_until_when_it_lasts() -> None:
    ledger = member(100, holds={"max_duration": "P1D"})
    held = ledger.redeem(NOW, 70, hold=True)
    shown = projections.redeemed(ledger.rulebook, held, SECRETS)
    assert (shown["status"], shown["points"], shown["balance"]) == ("held", 70, 30)
    assert shown["held_until"] == "2026-03-11T12:00:00Z"


def test_a_captured_hold_is_not_captured_again_and_a_cancelled_one_not_at_all() -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 30, hold=True)
    ledger.capture(NOW, held)
    with refused("not_held", redemption_status="captured"):
        ledger.capture(NOW, held)
    given_up = ledger.redeem(NOW, 30, hold=True)
    ledger.cancel(NOW, given_up)
    with refused("not_held", redemption_status="cancelled"):
        ledger.capture(NOW, given_up)
    with refused("not_held", redemption_status="cancelled"):
        ledger.cancel(NOW, given_up)
    spent = ledger.redeem(NOW, 30)
    with refused("not_held", redemption_status="captured"):
        ledger.capture(NOW, spent)


def test_points_do_not_expire_while_they_are_held() -> None:
    ledger = member(0, holds={"max_duration": "P10D"})
    ledger.award(NOW, {"type": "quiz"})
    held = ledger.redeem(NOW, 10, hold=True)
    long_after = NOW + 5 * DAY
    assert points(ledger, long_after) == (0, 10, 0)
    entry = ledger.capture(long_after, held)
    assert [p.kind for p in entry.postings] == ["redeem"]
    assert points(ledger, long_after) == (0, 0, 0)


@pytest.mark.parametrize("how", ["cancel", "lapse"])
def test_points_whose_date_passed_while_held_go_at_once_and_the_ledger_shows_it(how: str) -> None:
    ledger = member(5, holds={"max_duration": "P4D"})
    ledger.award(NOW, {"type": "quiz"})
    held = ledger.redeem(NOW, 15, hold=True)
    entry: Entry | None
    if how == "cancel":
        entry = ledger.cancel(NOW + 3 * DAY, held)
        on = TODAY + 2  # the date they had
    else:
        entry = ledger.sweep(NOW + 5 * DAY)
        on = TODAY + 4
    assert entry
    back, gone = entry.postings
    assert (back.kind, back.lots) == (how, ((TODAY + 2, 10), (NEVER, 5)))
    assert gone == Posting("expire", on, lots=((TODAY + 2, -10),))
    assert account(ledger).lots == ((NEVER, 5),)
    rows = list(projections.history_rows(ledger.rulebook, entry))
    assert [(row["kind"], row["points"], row["balance_after"]) for row in rows] == [
        ("expire", -10, 5),
        (how, 0, 15),
    ]


@pytest.mark.parametrize("written", ["by a sweep", "before a command"])
def test_a_lapse_is_dated_at_the_end_of_its_hold(written: str) -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 70, hold=True)
    later = NOW + 2 * DAY
    entry = ledger.sweep(later) if written == "by a sweep" else ledger.redeem(later, 10)
    assert entry
    rows = projections.history_rows(ledger.rulebook, entry)
    [lapse] = [row for row in rows if row["kind"] == "lapse"]
    assert (lapse["occurred_at"], lapse["recorded_at"]) == (
        "2026-03-10T12:30:00Z",
        "2026-03-12T12:00:00Z",
    )
    [begun] = projections.history_rows(ledger.rulebook, held)
    assert begun["occurred_at"] == "2026-03-10T12:00:00Z"


def test_points_come_back_with_the_dates_they_had() -> None:
    ledger = member(100)
    ledger.award(NOW, {"type": "quiz"})
    before = account(ledger).lots
    held = ledger.redeem(NOW, 60, hold=True)
    assert account(ledger).lots == ((NEVER, 50),)
    ledger.cancel(NOW + MINUTE, held)
    assert account(ledger).lots == before == ((TODAY + 2, 10), (NEVER, 100))


def test_what_was_captured_comes_back_to_its_old_lots_and_never_lives_longer() -> None:
    ledger = member(100)
    ledger.award(NOW, {"type": "quiz"})
    before = account(ledger).lots
    held = ledger.redeem(NOW, 60, hold=True)
    ledger.capture(NOW, held)
    cancelled = ledger.cancel(NOW + DAY, held)
    assert (cancelled.points, account(ledger).lots) == (60, before)
    # Two days later the ten are dead, wherever they were in the meantime.
    ledger = member(100)
    ledger.award(NOW, {"type": "quiz"})
    spent = ledger.redeem(NOW, 60)
    late = ledger.cancel(NOW + 2 * DAY, spent)
    assert [p.kind for p in late.postings] == ["cancel", "expire"]
    assert (late.balance, account(ledger).lots) == (100, ((NEVER, 100),))


def test_what_a_hold_gives_back_pays_debt_first() -> None:
    ledger = member(100, refunds={"shortfall": "debt"})
    ledger.redeem(NOW, 40, hold=True)
    ledger.reverse(NOW, ledger.entries[1])
    assert points(ledger, NOW) == (0, 40, 40)
    end = NOW + HALF_AN_HOUR
    assert points(ledger, end) == (0, 0, 0)
    entry = ledger.sweep(end)
    assert entry
    assert entry.postings == (
        replace(entry.postings[0], kind="lapse", lots=(), debt=-40, held=-40),
    )


def test_at_most_20_holds_are_open_at_once() -> None:
    ledger = member(100)
    for _ in range(20):
        ledger.redeem(NOW, 1, hold=True)
    with refused("too_many_holds"):
        ledger.redeem(NOW, 1, hold=True)
    assert ledger.redeem(NOW, 1).points == -1
    # They lapse all at once, and there is room again.
    assert ledger.redeem(NOW + HALF_AN_HOUR, 1, hold=True).balance == 98


def test_a_hold_is_activity_and_its_capture_is_none() -> None:
    ledger = member(100, expiry=[{"inactive_for": "P30D"}], holds={"max_duration": "P60D"})
    held = ledger.redeem(NOW + 3 * DAY, 10, hold=True)
    ledger.capture(NOW + 5 * DAY, held)
    assert account(ledger).active_on == TODAY + 3


def test_who_is_blocked_neither_holds_nor_captures_but_may_give_up() -> None:
    ledger = member(100)
    held = ledger.redeem(NOW, 10, hold=True)
    ledger.account = replace(account(ledger), status="blocked")
    with refused("member_blocked"):
        ledger.redeem(NOW, 10, hold=True)
    with refused("member_blocked"):
        ledger.capture(NOW, held)
    assert ledger.cancel(NOW, held).balance == 100


# What a hold reserves of a reward


def test_a_lapsed_hold_gives_back_the_limit_and_the_piece_before_any_sweep() -> None:
    once = GIFT | {"stock": 1, "limits": [{"times": 1, "per": "month"}]}
    ledger = member(100, rewards=[once])
    ledger.redeem(NOW, reward_id="gift", hold=True)
    with refused("limit_reached", next_allowed_at="2026-03-31T22:00:00Z"):
        ledger.redeem(NOW, reward_id="gift")
    assert ledger.budgets[stock_id("gift")] == 0
    again = ledger.redeem(NOW + HALF_AN_HOUR, reward_id="gift")
    assert [p.kind for p in again.postings] == ["lapse", "redeem"]
    assert ledger.budgets[stock_id("gift")] == 0
    with refused("limit_reached", next_allowed_at="2026-03-31T22:00:00Z"):
        ledger.redeem(NOW + HALF_AN_HOUR, reward_id="gift")


def test_a_cancelled_hold_gives_back_the_limit_and_leaves_an_account_that_can_be_read() -> None:
    ledger = member(100, rewards=[GIFT | {"limits": [{"times": 1, "per": "day"}]}])
    held = ledger.redeem(NOW, reward_id="gift", hold=True)
    ledger.cancel(NOW, held)
    assert account(ledger).counters["day"] == Counts(TODAY, {})
    assert ledger.redeem(NOW, reward_id="gift").points == -40


def test_a_hold_of_yesterday_that_lapses_today_gives_back_yesterdays_limit_only() -> None:
    late = instant("2026-03-10T23:50", ZONE)
    daily = GIFT | {"limits": [{"times": 1, "per": "day"}, {"times": 2, "per": "month"}]}
    ledger = member(200, rewards=[daily])
    ledger.redeem(late, reward_id="gift", hold=True)
    today = late + HOUR
    taken = ledger.redeem(today, reward_id="gift")
    assert sorted((c.per, c.window, c.by) for c in taken.counts) == [
        ("day", TODAY, -1),
        ("day", TODAY + 1, 1),
        ("month", 2026 * 12 + 2, 0),
    ]
    with refused("limit_reached", next_allowed_at="2026-03-11T23:00:00Z"):
        ledger.redeem(today, reward_id="gift")
    assert ledger.redeem(today + DAY, reward_id="gift").points == -40
    folded(ledger)


def test_a_limit_that_came_later_is_not_lowered_by_holds_from_before_it() -> None:
    ledger = member(200, rewards=[GIFT])
    ledger.redeem(NOW, reward_id="gift", hold=True)
    limited = Ledger(
        smallest(
            rules=[PER_CENT, SHORT],
            rewards=[GIFT | {"limits": [{"times": 1, "per": "ever"}]}],
        )
    )
    limited.account, limited.entries = ledger.account, ledger.entries
    limited.redeem(NOW, reward_id="gift", order=None)
    with refused("limit_reached"):
        limited.redeem(NOW + HOUR, reward_id="gift")


# Random holds


@dataclass(slots=True)
class Tale:
    """What happened to one member, and what the member was told at every moment of it."""

    ledger: Ledger
    now: int = NOW
    results: list[Entry | Refusal | None] = field(default_factory=list)
    told: dict[int, projections.Balance] = field(default_factory=dict)

    @property
    def redemptions(self) -> list[Entry]:
        return [e for e in self.ledger.entries if e.kind in ("hold", "redeem")]


GAPS = st.one_of(
    st.sampled_from([0, 29 * MINUTE, 30 * MINUTE, HOUR]),
    st.integers(1, 4).map(lambda days: days * DAY),
)
ACTS = st.one_of(
    st.tuples(st.just("buy"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["quiz", "sweep", "gift", "hold gift", "hold gift"]), st.just(0)),
    st.tuples(st.sampled_from(["redeem", "hold", "hold"]), st.integers(1, 25)),
    st.tuples(st.sampled_from(["capture", "cancel", "cancel", "reverse"]), st.integers(0, 3)),
)
ACTIONS = st.lists(st.tuples(GAPS, ACTS), min_size=4, max_size=14)
LIMITS = st.sampled_from([(1, "day"), (2, "week"), (3, "ever")])


@st.composite
def _programs(draw: st.DrawFn) -> dict[str, Any]:
    times, per = draw(LIMITS)
    gift = {
        "reward_id": "gift",
        "kind": "gift",
        "cost": 7,
        "stock": 3,
        "limits": [{"times": times, "per": per}],
    }
    return smallest(
        time_zone=draw(st.sampled_from([ZONE, "Australia/Lord_Howe", "America/Sao_Paulo"])),
        rules=[PER_CENT, SHORT],
        rewards=[gift],
        holds={"max_duration": draw(st.sampled_from(["PT30M", "PT36H", "P5D"]))},
        refunds={"shortfall": "debt"},
        expiry=draw(st.sampled_from([[], [{"after": "P4D"}], [{"inactive_for": "P6D"}]])),
    )


PROGRAMS = _programs()


def play(document: dict[str, Any], actions: list[Any], *, sweep_first: bool = False) -> Tale:
    ledger = Ledger(document)
    ledger.enrol(NOW)
    ledger.buy(NOW, 30)
    tale = Tale(ledger)
    for gap, (what, argument) in actions:
        # Up to this moment nothing but time has passed.
        for moment in (tale.now, tale.now + gap // 2, tale.now + gap):
            tale.told[moment] = at(ledger, moment)
        tale.now += gap
        if sweep_first:
            ledger.sweep(tale.now)
        try:
            tale.results.append(_act(tale, what, argument))
        except Refusal as refusal:
            tale.results.append(refusal)
        tale.told[tale.now] = at(ledger, tale.now)
    return tale


def _act(tale: Tale, what: str, argument: int) -> Entry | None:
    ledger, now = tale.ledger, tale.now
    match what:
        case "buy":
            return ledger.buy(now, argument)
        case "quiz":
            return ledger.award(now, {"type": "quiz"})
        case "sweep":
            ledger.sweep(now)
            return None
        case "gift" | "hold gift":
            return ledger.redeem(now, reward_id="gift", hold=what != "gift")
        case "redeem" | "hold":
            return ledger.redeem(now, argument, hold=what == "hold")
        case "reverse":
            return ledger.reverse(now, ledger.entries[1])
    redemptions = tale.redemptions
    if not redemptions:
        return None
    first = redemptions[-1 - argument % len(redemptions)]
    if what == "capture":
        return ledger.capture(now, first)
    return ledger.cancel(now, first)


def folded(ledger: Ledger) -> Account:
    """The account that the entries add up to, which is the stored one."""
    result = Account(program_id=account(ledger).program_id, member_id="ann")
    moved = 0
    for entry in ledger.entries:
        stored = entry_item(entry)
        assert entry_item(entry_of(stored)) == stored
        result = result.after(entry)
        moved += sum(posting.points for posting in entry.postings)
        assert account_of(account_item(result)) == result
        assert result.available + result.held - result.debt == moved
    assert result == account(ledger)
    return result


holds = settings(max_examples=60)


@holds
@given(PROGRAMS, ACTIONS)
def test_folding_gives_the_stored_account_and_points_are_neither_made_nor_lost(
    document: dict[str, Any], actions: list[Any]
) -> None:
    """1, 8."""
    folded(play(document, actions).ledger)


@holds
@given(PROGRAMS, ACTIONS)
def test_no_sweep_changes_what_anybody_is_told(
    document: dict[str, Any], actions: list[Any]
) -> None:
    """11. Neither balances, nor what is refused, nor limits and stock."""
    unswept, swept = play(document, actions), play(document, actions, sweep_first=True)
    assert unswept.told == swept.told
    assert len(unswept.results) == len(swept.results)
    for one, other in zip(unswept.results, swept.results, strict=True):
        if isinstance(one, Refusal):
            assert isinstance(other, Refusal)
            assert (one.code, one.more) == (other.code, other.more)
        elif one is not None:
            assert isinstance(other, Entry)
            assert (one.own_postings, one.balance) == (other.own_postings, other.balance)


@holds
@given(PROGRAMS, ACTIONS)
def test_the_balance_of_any_past_moment_is_what_was_answered_then(
    document: dict[str, Any], actions: list[Any]
) -> None:
    tale = play(document, actions)
    nobody = Account(program_id="test", member_id="ann")
    for moment, told in tale.told.items():
        then = projections.balance_as_of(tale.ledger.rulebook, tale.ledger.entries, nobody, moment)
        assert then == told


@holds
@given(PROGRAMS, ACTIONS, st.sampled_from([HOUR, 7 * HOUR, DAY, 3 * DAY]))
def test_time_in_small_steps_is_time_at_once(
    document: dict[str, Any], actions: list[Any], step: int
) -> None:
    tale = play(document, actions)
    program = tale.ledger.program
    end = tale.now + 9 * DAY

    def day(moment: int) -> int:
        return number(local_date(moment, program.time_zone))

    at_once, postings = advance(program, account(tale.ledger), day(end), end)
    stepwise, one_by_one = account(tale.ledger), []
    for moment in (*range(tale.now, end, step), end):
        stepwise, due = advance(program, stepwise, day(moment), moment)
        one_by_one += due
    assert (stepwise, one_by_one) == (at_once, postings)
    assert not at_once.holds
    dates = [posting.on for posting in postings]
    assert dates == sorted(dates)


@holds
@given(PROGRAMS, ACTIONS)
def test_what_comes_back_lives_as_long_as_before_and_no_longer(
    document: dict[str, Any], actions: list[Any]
) -> None:
    ledger = play(document, actions).ledger
    taken: dict[str, Counter[int]] = {}
    for entry in ledger.entries:
        for posting in entry.postings:
            if posting.hold is not None and posting.held > 0:
                taken[posting.hold.key] = Counter({end: -n for end, n in posting.lots})
            elif posting.kind == "redeem" and posting.hold is None:
                key = key_of(entry.partition)
                taken[key] = Counter({end: -n for end, n in posting.lots})
            elif posting.kind in ("cancel", "lapse"):
                hold = posting.hold
                key = hold.key if hold else key_of(entry.partition)
                back = Counter(dict(posting.lots))
                assert back <= taken[key]
                # What does not come back has paid a debt.
                assert back.total() - posting.debt == taken.pop(key).total()


@holds
@given(PROGRAMS, ACTIONS)
def test_limits_and_stock_count_what_stands(document: dict[str, Any], actions: list[Any]) -> None:
    """6. No counter passes its limit, no stock goes below zero, and what is given back is there."""
    tale = play(document, actions)
    ledger = tale.ledger
    end = tale.now + 9 * DAY
    ledger.sweep(end)
    gifts = [e for e in tale.redemptions if "r" in (e.answer or {})]
    standing = [e for e in gifts if status_of(ledger.entries_under(e)) == "captured"]
    assert ledger.budgets.get(stock_id("gift"), 3) == 3 - len(standing)
    [limit] = ledger.program.rewards[0].limits
    in_window = Counter(
        {
            "day": lambda on: on,
            "week": lambda on: on.isocalendar()[:2],
            "ever": lambda _: None,
        }[limit.per](local_date(e.recorded_at, ledger.program.time_zone))
        for e in standing
    )
    assert max(in_window.values(), default=0) <= limit.times
    counted = [n for counts in account(ledger).counters.values() for n in counts.values.values()]
    assert all(0 < n <= limit.times for n in counted)


# Through the handlers, on the engine

COFFEE = {
    "reward_id": "coffee",
    "kind": "product",
    "name": "A free coffee",
    "cost": 40,
    "stock": 5,
    "limits": [{"times": 1, "per": "day"}],
    "voucher_validity": "P30D",
}
PLAIN = {"reward_id": "plain", "kind": "experience", "cost": 40}


class House(workers.House):
    """The shop's handlers on fresh tables; a gift gives 100 points."""

    def on(self, minutes: float) -> AbstractContextManager[Any]:
        """The service, so many minutes after noon, as a process that has just started."""
        return self.after(minutes=minutes)

    def open(self, *members: str, **more: Any) -> None:
        """Publish a program, and give these members 100 points each."""
        rule = {"rule_id": "gift", "trigger": "gift", "earn": {"points": 100}}
        done(workers.publish(shop(**{"rules": [rule], "rewards": [COFFEE, PLAIN]} | more)))
        for member_id in members:
            done(workers.enrol(member_id))
            done(workers.award(f"gift-{member_id}", member_id, "gift"))

    def balances(self) -> dict[str, tuple[int, int]]:
        """(available, held) of every member, after all entries have been found true."""
        members = workers.proved(self.direct, self.tables)
        return {who: (account.available, account.held) for who, (account, _) in members.items()}


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


def hold(member_id: str, key: str, **what: Any) -> dict[str, Any]:
    answer: dict[str, Any] = done(workers.redeem(member_id, key, hold=True, **what))
    assert answer["status"] == "held"
    return answer


def told(answer: Answer) -> str:
    return str(answer.body.get("code") or answer.body["status"])


def test_a_hold_goes_from_the_checkout_to_its_capture(house: House) -> None:
    house.open("ana")
    order = {"order_id": "o-1", "amount": 1000, "currency": "EUR"}
    held = hold("ana", "cart", reward_id="coffee", order=order)
    assert "voucher" not in held
    assert (held["points"], held["balance"]) == (40, 60)
    assert held["held_until"] == "2026-03-18T12:30:00Z"
    shown = done(workers.balance("ana"))
    assert (shown["available"], shown["held"]) == (60, 40)
    with house.on(29):
        captured = done(workers.capture(held["redemption_id"]))
    assert captured["status"] == "captured"
    assert (captured["points"], captured["balance"], captured["order_id"]) == (40, 60, "o-1")
    # The voucher lives from its capture on, and for thirty days.
    assert captured["voucher"]["expires_on"] == "2026-04-17"
    assert done(workers.voucher(captured["voucher"]["code"]))["status"] == "issued"
    assert house.balances() == {"ana": (60, 0)}


def test_every_step_is_answered_again_as_the_first_time(house: House) -> None:
    house.open("ana")
    steps = [workers.redeem("ana", "cart", reward_id="coffee", hold=True)]
    identity = done(steps[0])["redemption_id"]
    steps += [workers.capture(identity), workers.cancel(identity)]
    firsts = [send(call) for call in steps]
    with house.on(24 * 60):
        for call, first in zip(steps, firsts, strict=True):
            again = send(call)
            assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
    assert [(answer.status, told(answer)) for answer in firsts] == [
        (201, "held"),
        (200, "captured"),
        (200, "cancelled"),
    ]
    assert house.balances() == {"ana": (100, 0)}


def test_a_capture_that_comes_too_late_says_what_became_of_the_hold(house: House) -> None:
    house.open("ana")
    identity = hold("ana", "cart", points=70)["redemption_id"]
    with house.on(30):
        for _ in range(2):
            late = send(workers.capture(identity))
            assert (late.status, told(late)) == (409, "not_held")
            assert (late.body["status"], late.body["redemption_status"]) == (409, "lapsed")
        assert done(workers.balance("ana"))["available"] == 100
    assert send(workers.capture("r-nothing")).status == 404
    assert send(workers.cancel("no id at all")).status == 404


def test_the_balance_during_a_hold_is_found_again_afterwards(house: House) -> None:
    house.open("ana")
    identity = hold("ana", "cart", points=70)["redemption_id"]
    with house.on(10):
        during = done(workers.balance("ana"))
        assert during["held"] == 70
    with house.on(11):
        done(workers.capture(identity))
    with house.on(60):
        assert done(workers.balance("ana", as_of=during["as_of"])) == during
        lapsing = hold("ana", "other cart", points=10)
        assert lapsing["balance"] == 20
    with house.on(100):
        now = done(workers.balance("ana"))
        assert (now["available"], now["held"]) == (30, 0)
        at_the_end = done(workers.balance("ana", as_of="2026-03-18T13:30:00Z"))
        before = done(workers.balance("ana", as_of="2026-03-18T13:29:59.999Z"))
        assert (at_the_end["available"], at_the_end["held"]) == (30, 0)
        assert (before["available"], before["held"]) == (20, 10)


def test_a_cancelled_redemption_gives_back_points_piece_and_limit_and_ends_its_voucher(
    house: House,
) -> None:
    house.open("ana")
    taken = done(workers.redeem("ana", "till", reward_id="coffee"))
    assert workers.left(stock_id("coffee")) == 4
    assert send(workers.redeem("ana", "more", reward_id="coffee")).body["code"] == "limit_reached"
    back = done(workers.cancel(taken["redemption_id"]))
    assert (back["status"], back["points"], back["balance"]) == ("cancelled", 40, 100)
    assert workers.left(stock_id("coffee")) == 5
    assert done(workers.voucher(taken["voucher"]["code"]))["status"] == "cancelled"
    used = send(workers.use(taken["voucher"]["code"]))
    assert (used.status, told(used)) == (409, "voucher_cancelled")
    assert done(workers.redeem("ana", "more", reward_id="coffee"))["balance"] == 60
    assert house.balances() == {"ana": (60, 0)}


def test_what_was_used_is_not_given_back(house: House) -> None:
    house.open("ana")
    taken = done(workers.redeem("ana", "till", reward_id="coffee"))
    done(workers.use(taken["voucher"]["code"]))
    refused_cancel = send(workers.cancel(taken["redemption_id"]))
    assert (refused_cancel.status, told(refused_cancel)) == (409, "voucher_used")
    assert workers.left(stock_id("coffee")) == 4
    assert house.balances() == {"ana": (60, 0)}


def test_a_sweep_brings_back_the_pieces_of_lapsed_holds(house: House) -> None:
    import expire

    house.open("ana", "ben")
    hold("ana", "cart-a", reward_id="coffee")
    hold("ben", "cart-b", reward_id="coffee")
    assert workers.left(stock_id("coffee")) == 3

    class Context:
        @staticmethod
        def get_remaining_time_in_millis() -> int:
            return 60_000

    with house.on(29):
        assert expire.handler(workers.sweep_event(), Context) == {"batchItemFailures": []}
        assert workers.left(stock_id("coffee")) == 3
    with house.on(30):
        for _ in range(2):
            assert expire.handler(workers.sweep_event(), Context) == {"batchItemFailures": []}
            assert workers.left(stock_id("coffee")) == 5
        history = done(workers.entries("ana"))["items"]
    assert [(row["kind"], row["points"], row["balance_after"]) for row in history[:2]] == [
        ("lapse", 0, 100),
        ("hold", 0, 60),
    ]
    assert history[0]["occurred_at"] == rfc3339(milliseconds(NOON) + HALF_AN_HOUR)
    assert house.balances() == {"ana": (100, 0), "ben": (100, 0)}


# Stock that others have abandoned

ONE = COFFEE | {"reward_id": "one", "stock": 1, "limits": []}


def test_a_piece_of_a_hold_that_lapsed_is_had_by_the_next_one_before_any_sweep(
    house: House,
) -> None:
    house.open("ana", "ben", rewards=[ONE])
    hold("ana", "cart", reward_id="one")
    with house.on(29):
        assert told(send(workers.redeem("ben", "early", reward_id="one"))) == "out_of_stock"
        [shown] = done(workers.rewards("ben"))["items"]
        assert (shown["available"], shown["stock_left"]) == (False, 0)
    with house.on(30):
        for member_id in ("ana", "ben"):
            [shown] = done(workers.rewards(member_id))["items"]
            assert (shown["available"], shown["stock_left"]) == (True, 1)
        done(workers.redeem("ben", "till", reward_id="one"))
        assert told(send(workers.redeem("ana", "late", reward_id="one"))) == "out_of_stock"
        assert workers.left(stock_id("one")) == 0
        rows = done(workers.entries("ana"))["items"]
    assert [(row["kind"], row["balance_after"]) for row in rows[:2]] == [
        ("lapse", 100),
        ("hold", 60),
    ]
    assert house.balances() == {"ana": (100, 0), "ben": (60, 0)}


def test_a_hold_that_was_captured_or_given_up_keeps_nobody_looking_for_its_piece(
    house: House,
) -> None:
    house.open("ana", "ben", "cleo", rewards=[ONE | {"stock": 2}])
    done(workers.capture(hold("ana", "one", reward_id="one")["redemption_id"]))
    done(workers.cancel(hold("ana", "two", reward_id="one")["redemption_id"]))
    done(workers.redeem("ben", "three", reward_id="one"))
    with house.on(60):
        with meter.measure() as used:
            assert told(send(workers.redeem("cleo", "four", reward_id="one"))) == "out_of_stock"
        assert used.write == 0
        [shown] = done(workers.rewards("cleo"))["items"]
        assert shown["stock_left"] == 0
    assert house.balances() == {"ana": (60, 0), "ben": (60, 0), "cleo": (100, 0)}


@pytest.mark.parametrize("raised", [False, True], ids=["one version", "a new total"])
def test_all_pieces_that_were_abandoned_are_found_again(house: House, raised: bool) -> None:
    """As many as the shards can remember, whatever version has set the total since."""
    members = [f"m{i:02}" for i in range(8)]
    house.open(*members, *(f"n{i:02}" for i in range(8)), rewards=[ONE | {"stock": 8}])
    for member_id in members:
        hold(member_id, member_id, reward_id="one")
    if raised:
        rule = {"rule_id": "gift", "trigger": "gift", "earn": {"points": 100}}
        document = shop(rules=[rule], rewards=[ONE | {"stock": 9}])
        done(workers.publish(document, replaces=1))
    with house.on(31):
        if raised:
            done(workers.redeem(members[0], "ninth", reward_id="one"))
        for i in range(8):
            answer = send(workers.redeem(f"n{i:02}", f"n{i:02}", reward_id="one"))
            assert answer.status == 201, answer.body
        assert workers.left(stock_id("one")) == 0
        last = send(workers.redeem(members[1], "late", reward_id="one"))
        assert told(last) == "out_of_stock"


def test_of_64_that_want_four_abandoned_pieces_four_get_one(house: House, clients: Clients) -> None:
    members = [f"m{i}" for i in range(4)]
    buyers = [f"n{i}" for i in range(CLIENTS)]
    house.open(*members, *buyers, rewards=[ONE | {"stock": 4}])
    for member_id in members:
        hold(member_id, member_id, reward_id="one")
    later = NOON + timedelta(minutes=30)
    scripts = [[workers.redeem(who, who, reward_id="one")] for who in buyers]
    played = clients.play(house.endpoint, house.tables, scripts, now=later)
    assert Counter(map(told, played.flat)) == {"captured": 4, "out_of_stock": CLIENTS - 4}
    assert workers.left(stock_id("one")) == 0
    balances = house.balances()
    assert all(balances[who] == (100, 0) for who in members)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_on_the_way_to_an_abandoned_piece_leaves_one_effect(
    house: House, fault: Fault, at: int
) -> None:
    house.open("ana", "ben", rewards=[ONE])
    hold("ana", "cart", reward_id="one")
    with house.on(30):
        house.faults.follow({at: fault}, of="TransactWriteItems")
        answer = workers.insist(workers.redeem("ben", "till", reward_id="one"))
        assert (answer.status, answer.body["balance"]) == (201, 60)
        house.faults.heal()
        assert workers.left(stock_id("one")) == 0
    assert house.balances() == {"ana": (100, 0), "ben": (60, 0)}


def test_a_shard_that_remembers_as_many_holds_as_it_can_stays_below_a_kilobyte(
    house: House,
) -> None:
    """So that remembering costs nothing: with ids of full length."""
    reward = ONE | {"reward_id": "r" * 64, "stock": 100}
    members = [f"{i:064}" for i in range(80)]
    house.open(*members, rewards=[reward])
    for member_id in members:
        with meter.measure() as used:
            hold(member_id, member_id, reward_id=reward["reward_id"])
        # The first one makes the stock, and long keys make a long entry.
        assert used.write <= (7 + 8 * 2 if member_id == members[0] else 7)
    shards = [r for r in house.books().records if "#budget#" in r["pk"]["S"]]
    assert len(shards) == 8
    assert max(map(meter.size, shards)) < 1024


@given(st.frozensets(st.integers(0, SLOTS - 1)), st.integers(0, 999))
def test_a_hold_is_remembered_in_a_free_slot_if_there_is_one(
    taken: frozenset[int], chance: int
) -> None:
    found = slot(taken, chance / 1000)
    assert 0 <= found < SLOTS
    assert found not in taken or len(taken) == SLOTS


@pytest.mark.parametrize("fault", ["answer lost", "server error after all", "request lost"])
def test_a_lost_answer_is_one_effect(house: House, fault: Fault) -> None:
    house.open("ana")
    house.faults.follow({0: fault}, of="TransactWriteItems")
    identity = hold("ana", "cart", reward_id="coffee")["redemption_id"]
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.capture(identity))["balance"] == 60
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.cancel(identity))["balance"] == 100
    house.faults.heal()
    assert workers.left(stock_id("coffee")) == 5
    assert house.balances() == {"ana": (100, 0)}


# What it costs

BARE = {"reward_id": "bare", "kind": "gift", "cost": 10}


@pytest.mark.parametrize(
    ("what", "held", "captured", "cancelled"),
    [
        ({"points": 10}, 5, 5, 5),
        # A voucher is two more where it is made and where it ends, and so is stock.
        ({"reward_id": "plain"}, 5, 7, 7),
        ({"reward_id": "coffee"}, 7, 7, 9),
    ],
    ids=["points", "voucher", "voucher and stock"],
)
def test_what_holding_capturing_and_cancelling_cost(
    house: House, what: dict[str, Any], held: int, captured: int, cancelled: int
) -> None:
    house.open("ana")
    # The first draw makes the stock.
    done(workers.redeem("ana", "first", reward_id="coffee"))
    with house.on(24 * 60):
        edge.store().rulebook_in_force("shop", NOW)
        units = []
        with meter.measure() as used:
            identity = hold("ana", "cart", **what)["redemption_id"]
        units.append(used.write)
        with meter.measure() as used:
            done(workers.capture(identity))
        units.append(used.write)
        with meter.measure() as used:
            done(workers.cancel(identity))
        units.append(used.write)
    assert units == [Decimal(held), Decimal(captured), Decimal(cancelled)]


@pytest.mark.parametrize(("what", "units"), [({"points": 10}, 5), ({"reward_id": "plain"}, 5)])
def test_giving_up_a_hold_costs_no_more_than_holding(
    house: House, what: dict[str, Any], units: int
) -> None:
    house.open("ana")
    identity = hold("ana", "cart", **what)["redemption_id"]
    with meter.measure() as used:
        done(workers.cancel(identity))
    assert used.write == units


# Sixty-four at once


def test_of_64_holds_and_redemptions_at_once_no_point_goes_twice(
    house: House, clients: Clients
) -> None:
    house.open("ana")
    scripts = [
        [workers.redeem("ana", f"pay-{i}", points=9, hold=bool(i % 2))] for i in range(CLIENTS)
    ]
    played = clients.play(house.endpoint, house.tables, scripts)
    outcomes = Counter(told(answer) for answer in played.flat)
    assert outcomes["held"] + outcomes["captured"] == 11
    assert outcomes["insufficient_points"] == CLIENTS - 11
    assert house.balances() == {"ana": (1, 9 * outcomes["held"])}


def test_of_64_that_capture_or_cancel_one_hold_the_first_of_each_counts_once(
    house: House, clients: Clients
) -> None:
    """Whoever comes second meets what the first has made of it: nothing is captured after it was
    cancelled, and one cancellation brings the points back."""
    house.open("ana")
    identity = hold("ana", "cart", reward_id="coffee")["redemption_id"]
    scripts = [
        [workers.capture(identity) if i % 2 else workers.cancel(identity)] for i in range(CLIENTS)
    ]
    played = clients.play(house.endpoint, house.tables, scripts)
    cancels = [script[0] for script in played.answers[0::2]]
    captures = [script[0] for script in played.answers[1::2]]
    assert Counter(told(answer) for answer in cancels) == {"cancelled": CLIENTS // 2}
    assert sum(not answer.replayed for answer in cancels) == 1
    outcomes = Counter(told(answer) for answer in captures)
    assert outcomes in ({"captured": CLIENTS // 2}, {"not_held": CLIENTS // 2})
    if outcomes["captured"]:
        assert sum(not answer.replayed for answer in captures) == 1
    assert workers.left(stock_id("coffee")) == 5
    assert house.balances() == {"ana": (100, 0)}
