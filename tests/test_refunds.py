"""Taking back what an event gave: from where, how much, and what stays."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from loyalty.commands import Reversal
from loyalty.decisions import Draft, Guard
from loyalty.model import NEVER, Account, Entry, History, Known, Posting
from loyalty.projections import balance, reversed_
from loyalty.refunds import Given, Progress, given_back_to_budgets, reverse, take_back
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import DAY, HOUR, LOCATION, Ledger, instant, number, refused

NOW = instant("2026-03-10T13:00", "Europe/Paris")
IN_A_MONTH = number("2026-04-10")

RULES: list[dict[str, Any]] = [
    {"rule_id": "purchase", "trigger": "purchase", "earn": {"points": 1, "per_amount": 1}},
    {
        "rule_id": "short",
        "trigger": "quiz",
        "earn": {"points": 30},
        "expiry": [{"after": "P1M"}],
    },
    {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}},
]
POLICIES = ["other_lots", "clamp", "debt"]


def shop(shortfall: str | None = None, **more: Any) -> Ledger:
    """A point for each cent, thirty for a quiz that live a month; a member enrolled at NOW."""
    if shortfall is not None:
        more["refunds"] = {"shortfall": shortfall}
    locations = [{"location_id": LOCATION, "check_in": {}}]
    ledger = Ledger(smallest(**({"rules": RULES, "locations": locations} | more)))
    ledger.enrol(NOW)
    return ledger


def quiz(ledger: Ledger, now: int = NOW, **more: Any) -> Entry:
    return ledger.award(now, {"type": "quiz"} | more)


def lots(ledger: Ledger) -> dict[int, int]:
    assert ledger.account
    return dict(ledger.account.lots)


def owed(ledger: Ledger) -> int:
    assert ledger.account
    return ledger.account.debt


@pytest.mark.parametrize("shortfall", POLICIES)
def test_a_refund_takes_the_events_own_points_before_any_others(shortfall: str) -> None:
    ledger = shop(shortfall)
    event = ledger.buy(NOW, 100)
    quiz(ledger)
    entry = ledger.reverse(NOW, event)
    assert lots(ledger) == {IN_A_MONTH: 30}
    assert (entry.points, entry.balance, entry.lifetime) == (-100, 30, -100)
    assert reversed_(entry) == {
        "status": "reversed",
        "entry_id": "ann.4",
        "event_id": "event-key-1",
        "refund_id": "refund",
        "member_id": "ann",
        "points": 100,
        "taken_from": [{"points": 100, "expires_on": None}],
        "debt": 0,
        "expired_points": 0,
        "forgiven_points": 0,
        "restored_points": 0,
        "balance": 30,
    }


def test_an_event_is_taken_back_once() -> None:
    ledger = shop()
    event = ledger.buy(NOW, 100)
    ledger.reverse(NOW, event, "first")
    before = ledger.account
    with refused("more_than_bought"):
        ledger.reverse(NOW, event, "second")
    assert ledger.account == before


def test_an_event_that_gave_nothing_can_be_taken_back() -> None:
    ledger = shop()
    entry = ledger.reverse(NOW, ledger.award(NOW, {"type": "unknown"}))
    assert (entry.points, entry.postings) == (0, ())
    with refused("more_than_bought"):
        ledger.reverse(NOW, ledger.entries[1], "again")


# Where points that were spent are taken from


def spent(shortfall: str) -> tuple[Ledger, Entry]:
    """A purchase of 100 points of which 70 were spent, and 30 points of a quiz that are left."""
    ledger = shop(shortfall)
    event = ledger.buy(NOW, 100)
    ledger.redeem(NOW, 70)
    quiz(ledger)
    return ledger, event


def test_other_lots_are_taken_next_and_what_none_covers_is_forgiven() -> None:
    ledger, event = spent("other_lots")
    answer = reversed_(ledger.reverse(NOW, event))
    assert (answer["points"], answer["forgiven_points"], answer["balance"]) == (60, 40, 0)
    assert answer["taken_from"] == [
        {"points": 30, "expires_on": None},
        {"points": 30, "expires_on": "2026-04-10"},
    ]
    assert owed(ledger) == 0


def test_other_lots_are_taken_in_spending_order() -> None:
    ledger = shop("other_lots")
    event = quiz(ledger)
    ledger.redeem(NOW, 30)
    ledger.buy(NOW, 10)
    quiz(ledger, NOW + DAY)
    answer = reversed_(ledger.reverse(NOW + DAY, event))
    assert answer["points"] == 30
    assert lots(ledger) == {NEVER: 10}


def test_clamped_at_zero_a_refund_leaves_other_lots_alone() -> None:
    ledger, event = spent("clamp")
    answer = reversed_(ledger.reverse(NOW, event))
    assert (answer["points"], answer["forgiven_points"], answer["balance"]) == (30, 70, 30)
    assert lots(ledger) == {IN_A_MONTH: 30}


def test_what_no_lot_covers_becomes_debt_where_the_policy_says_so() -> None:
    ledger, event = spent("debt")
    entry = ledger.reverse(NOW, event)
    answer = reversed_(entry)
    assert (answer["points"], answer["debt"], answer["forgiven_points"]) == (100, 40, 0)
    assert answer["balance"] == -40
    assert ledger.account
    shown = balance(ledger.rulebook, ledger.account, NOW)
    # In a balance available is never negative, and debt stands apart.
    assert (shown["available"], shown["debt"]) == (0, 40)


def test_the_next_credit_pays_the_debt() -> None:
    ledger, event = spent("debt")
    ledger.reverse(NOW, event)
    first = ledger.buy(NOW, 25)
    assert (first.points, first.balance, owed(ledger)) == (25, -15, 15)
    second = ledger.buy(NOW, 25)
    assert (second.points, second.balance, owed(ledger)) == (25, 10, 0)
    assert lots(ledger) == {NEVER: 10}


def test_pending_points_pay_the_debt_when_they_become_available() -> None:
    ledger = shop("debt", pending={"quiz": "P3D"})
    event = ledger.buy(NOW, 100)
    ledger.redeem(NOW, 90)
    quiz(ledger)
    ledger.reverse(NOW, event)
    assert owed(ledger) == 90
    ledger.sweep(NOW + 3 * DAY)
    assert (owed(ledger), lots(ledger)) == (60, {})


def test_the_points_that_paid_a_debt_are_owed_again_when_their_event_is_taken_back() -> None:
    ledger, event = spent("debt")
    ledger.reverse(NOW, event)
    paying = ledger.buy(NOW, 25)
    answer = reversed_(ledger.reverse(NOW, paying))
    assert (answer["points"], answer["debt"], owed(ledger)) == (25, 25, 40)


# What had expired


def test_points_that_have_expired_are_not_taken_twice() -> None:
    ledger = shop("other_lots")
    event = quiz(ledger)
    ledger.buy(NOW, 100)
    answer = reversed_(ledger.reverse(NOW + 60 * DAY, event))
    assert (answer["points"], answer["expired_points"], answer["forgiven_points"]) == (0, 30, 0)
    assert lots(ledger) == {NEVER: 100}


@pytest.mark.parametrize(
    ("shortfall", "taken", "forgiven", "left"),
    [("other_lots", 20, 0, 80), ("clamp", 0, 20, 100), ("debt", 20, 0, 80)],
)
def test_of_points_partly_spent_and_partly_expired_only_the_spent_ones_are_taken(
    shortfall: str, taken: int, forgiven: int, left: int
) -> None:
    ledger = shop(shortfall)
    event = quiz(ledger)
    ledger.redeem(NOW, 20)
    ledger.buy(NOW, 100)
    ledger.sweep(NOW + 40 * DAY)
    answer = reversed_(ledger.reverse(NOW + 60 * DAY, event))
    assert (answer["points"], answer["expired_points"], answer["forgiven_points"]) == (
        taken,
        10,
        forgiven,
    )
    assert answer["balance"] == left


def test_an_event_that_came_too_late_to_live_gives_nothing_to_take() -> None:
    ledger = shop("debt")
    event = quiz(ledger, occurred_at="2026-01-05T12:00:00Z")
    assert (event.points, event.balance) == (30, 0)
    answer = reversed_(ledger.reverse(NOW, event))
    assert (answer["points"], answer["debt"], answer["expired_points"]) == (0, 0, 30)


def test_what_expired_once_is_not_counted_for_two_refunds() -> None:
    ledger = shop("debt")
    one, other = quiz(ledger), quiz(ledger)
    ledger.redeem(NOW, 30)
    later = NOW + 60 * DAY  # the other thirty have expired
    answers = [reversed_(ledger.reverse(later, event)) for event in (one, other)]
    assert sum(answer["expired_points"] for answer in answers) == 30
    assert owed(ledger) == 30


def test_what_expired_before_the_event_is_not_the_events_own() -> None:
    ledger = shop("debt", expiry=[{"inactive_for": "P1M"}, {"after": "P1Y", "round_up_to": "year"}])
    ledger.buy(NOW, 100)
    later = NOW + 60 * DAY
    event = ledger.buy(later, 100)  # the first hundred go; this one has the same expiry date
    ledger.redeem(later, 100)
    answer = reversed_(ledger.reverse(later, event))
    assert (answer["expired_points"], answer["debt"]) == (0, 100)


# Pending points


def test_the_events_pending_points_are_taken_first() -> None:
    rules = [
        {"rule_id": "now", "trigger": "purchase", "earn": {"points": 1, "per_amount": 10}},
        {
            "rule_id": "later",
            "trigger": "purchase",
            "earn": {"points": 1, "per_amount": 1},
            "pending": "P14D",
        },
    ]
    ledger = shop(rules=rules)
    event = ledger.buy(NOW, 100)
    ledger.buy(NOW, 50)
    answer = reversed_(ledger.reverse(NOW, event))
    assert answer["taken_from"] == [
        {"points": 100, "expires_on": None, "available_on": "2026-03-24"},
        {"points": 10, "expires_on": None},
    ]
    # The other purchase's points wait on.
    assert ledger.account
    assert (ledger.account.pending_points, ledger.account.available) == (50, 5)


def test_pending_points_that_have_become_available_are_taken_from_their_lot() -> None:
    ledger = shop("debt", pending={"quiz": "P3D"})
    event = quiz(ledger)
    ledger.redeem(NOW + 3 * DAY, 10)
    answer = reversed_(ledger.reverse(NOW + 4 * DAY, event))
    assert answer["taken_from"] == [{"points": 20, "expires_on": "2026-04-13"}]
    assert (answer["points"], answer["debt"]) == (30, 10)


def test_pending_points_that_became_available_and_expired_are_not_taken_twice() -> None:
    ledger = shop("debt", pending={"quiz": "P3D"})
    event = quiz(ledger)
    answer = reversed_(ledger.reverse(NOW + 90 * DAY, event))
    assert (answer["points"], answer["debt"], answer["expired_points"]) == (0, 0, 30)


# What a refund is not


def test_a_refund_takes_what_the_event_recorded_and_not_what_todays_rules_would_give() -> None:
    ledger = shop()
    event = ledger.buy(NOW, 100)
    richer = RULES[0] | {"earn": {"points": 5, "per_amount": 1}}
    ledger.rulebook = Rulebook(parse(smallest(rules=[richer])), 2)
    ledger.buy(NOW, 100)
    entry = ledger.reverse(NOW, event)
    assert (entry.points, entry.balance, entry.version) == (-100, 500, 2)


def test_a_refund_gives_no_room_back_in_limits_against_abuse() -> None:
    limited = RULES[0] | {
        "limits": [{"points": 100, "per": "day"}],
        "frequency": [{"times": 2, "per": "day"}],
    }
    ledger = shop(rules=[limited])
    event = ledger.buy(NOW, 60)
    ledger.reverse(NOW, event)
    assert ledger.buy(NOW, 60).points == 40
    assert ledger.buy(NOW, 60).points == 0


def test_a_check_in_can_be_taken_back() -> None:
    ledger = shop()
    event = ledger.check_in(NOW)
    entry = ledger.reverse(NOW + HOUR, event)
    assert (entry.points, entry.balance) == (-5, 0)


def test_refunds_are_subtracted_from_lifetime_points() -> None:
    ledger = shop("clamp")
    event = ledger.buy(NOW, 100)
    ledger.buy(NOW, 11)
    ledger.redeem(NOW, 40)
    ledger.reverse(NOW, event)
    assert ledger.account
    assert ledger.account.lifetime == 11


@pytest.mark.parametrize("kind", ["redemption", "enrolment"])
def test_only_events_can_be_taken_back(kind: str) -> None:
    ledger = shop()
    ledger.buy(NOW, 100)
    entry = ledger.redeem(NOW, 60) if kind == "redemption" else ledger.entries[0]
    with refused("event_not_found"):
        ledger.reverse(NOW, entry)
    assert lots(ledger) == {NEVER: 40 if kind == "redemption" else 100}


# the end of the window, on the first command after it: the amount falls below zero, and the
# account can no longer be written (IndexError in wire, a 500).
def test_an_event_can_be_taken_back_after_its_tier_window_has_ended() -> None:
    levels = [{"tier_id": "bronze", "at": 0}, {"tier_id": "silver", "at": 50}]
    ledger = shop(tiers={"window": {"rolling": "P30D"}, "levels": levels})
    event = ledger.buy(NOW, 100)
    ledger.reverse(NOW + 31 * DAY, event)
    assert ledger.account
    assert ledger.account.qualifying == ()


# What is taken from where, lot by lot

TODAY = number("2026-03-10")
PAST, SOON, FAR = TODAY - 22, TODAY + 78, TODAY + 178
WAITS = TODAY + 8


def rule(rule_id: str, **more: Any) -> dict[str, Any]:
    """A point for each cent."""
    return {
        "rule_id": rule_id,
        "trigger": "purchase",
        "earn": {"points": 1, "per_amount": 1},
    } | more


def row(seq: int, kind: str, *postings: Posting, **more: Any) -> Entry:
    """An entry of ann's, recorded so many milliseconds after the first."""
    fields: dict[str, Any] = {"version": 1, "member_id": "ann"} | more
    at = instant("2026-01-10T12:00", "Europe/Paris") + seq
    return Entry(
        program_id="test",
        seq=seq,
        partition=f"e#{seq}",
        kind=kind,  # type: ignore[arg-type]
        recorded_at=at,
        occurred_at=at,
        postings=postings,
        balance=0,
        **fields,
    )


def lot(kind: str, *lots: tuple[int, int], on: int = TODAY - 60) -> Posting:
    return Posting(kind, on, lots=lots)  # type: ignore[arg-type]


def takes(
    points: int,
    *grants: Posting,
    lots: tuple[tuple[int, int], ...] = (),
    pending: tuple[tuple[int, int, int], ...] = (),
    claimed: dict[int, int] | None = None,
    event: Entry | None = None,
    later: tuple[Entry, ...] = (),
    shortfall: str = "other_lots",
    beside: dict[str, Account] | None = None,
    **more: Any,
) -> tuple[dict[str, Any], dict[int, int], tuple[tuple[int, int, int], ...], int]:
    """What is told, and the lots, the pending points and the debt that are left."""
    rulebook = Rulebook(parse(smallest(refunds={"shortfall": shortfall}, **more)), 1)
    ann = Account(program_id="test", member_id="ann", seq=50, lots=lots, pending=pending)
    draft = Draft(rulebook, ann, instant("2026-03-10T12:00", "Europe/Paris"))
    known = Known({"ann": ann, **(beside or {})}, History(0, later))
    told = take_back(draft, known, event, grants, points, claimed or {})
    account = draft.account
    return told, dict(account.lots), account.pending, account.debt


def test_an_events_own_lots_are_taken_in_the_order_in_which_they_were_given() -> None:
    grants = lot("award", (SOON, 5), (FAR, 10))
    lots = ((SOON, 5), (FAR, 10))
    assert takes(5, grants, lots=lots) == ({"t": [(SOON, 5)]}, {FAR: 10}, (), 0)
    assert takes(9, grants, lots=lots) == ({"t": [(SOON, 5), (FAR, 4)]}, {FAR: 6}, (), 0)
    backwards = lot("award", (FAR, 10)), lot("award", (SOON, 5))
    assert takes(12, *backwards, lots=lots)[0] == {"t": [(SOON, 2), (FAR, 10)]}
    twice = lot("award", (FAR, 10)), lot("award", (FAR, 5))
    assert takes(15, *twice, lots=((FAR, 15),)) == ({"t": [(FAR, 15)]}, {}, (), 0)


def test_what_was_claimed_before_is_not_claimed_again() -> None:
    grants = lot("award", (SOON, 5), (FAR, 10))
    rich = ((SOON, 50), (FAR, 20))
    told, lots, _, _ = takes(10, grants, lots=rich, claimed={SOON: 5, FAR: 4})
    # Six are left of its own, the others leave in spending order.
    assert (told, lots) == ({"t": [(FAR, 6)]}, {SOON: 46, FAR: 14})
    twice = lot("award", (FAR, 10)), lot("award", (FAR, 10))
    told, lots, _, _ = takes(8, *twice, lots=((FAR, 20),), claimed={FAR: 12})
    assert (told, lots) == ({"t": [(FAR, 8)]}, {FAR: 12})


def test_a_lot_gives_what_it_holds_and_other_lots_the_rest() -> None:
    twice = lot("award", (FAR, 10)), lot("award", (FAR, 5))
    told, lots, _, debt = takes(15, *twice, lots=((SOON, 9), (FAR, 12)))
    assert (told, lots, debt) == ({"t": [(FAR, 15)]}, {SOON: 6}, 0)
    for shortfall, left, owed, forgiven in (
        ("other_lots", {}, 0, 4),
        ("clamp", {SOON: 3}, 0, 7),
        ("debt", {}, 4, 0),
    ):
        told, lots, _, debt = takes(15, *twice, lots=((SOON, 3), (FAR, 8)), shortfall=shortfall)
        assert (lots, debt, told.get("o", 0)) == (left, owed, forgiven)


def test_pending_points_are_taken_before_what_became_of_them() -> None:
    grant = Posting("award", TODAY - 9, pending=((WAITS, FAR, 10),))
    told, lots, pending, _ = takes(
        10, grant, lots=((FAR, 50),), pending=((WAITS, FAR, 4), (WAITS + 1, SOON, 9))
    )
    assert (told, lots, pending) == ({"t": [(FAR, 10)]}, {FAR: 44}, ((WAITS + 1, SOON, 9),))
    again = Posting("award", TODAY - 9, pending=((WAITS, FAR, 5),))
    told, lots, pending, _ = takes(15, grant, again, lots=((FAR, 50),), pending=((WAITS, FAR, 12),))
    assert (told, lots, pending) == ({"t": [(FAR, 15)]}, {FAR: 47}, ())


def test_what_has_expired_since_is_not_taken_from_elsewhere() -> None:
    event = row(2, "award", lot("award", (PAST, 10)))
    gone = row(9, "expire", lot("expire", (PAST, -10), (SOON, -3)))
    told, lots, _, _ = takes(10, *event.postings, lots=((SOON, 50),), event=event, later=(gone,))
    assert (told, lots) == ({"t": [(PAST, 10)], "x": [(PAST, 10)]}, {SOON: 50})
    # Only so much of it as has expired, beyond what others were told of.
    counted = row(12, "reverse", explanation={"x": [[PAST, 6], [SOON, 2]]})
    told, lots, _, _ = takes(
        10, *event.postings, lots=((SOON, 50),), event=event, later=(counted, gone)
    )
    assert (told["x"], lots) == ([(PAST, 4)], {SOON: 44})
    before = row(1, "expire", lot("expire", (PAST, -10)))
    told, lots, _, _ = takes(10, *event.postings, lots=((SOON, 50),), event=event, later=(before,))
    assert (told, lots) == ({"t": [(PAST, 10)]}, {SOON: 40})


def test_two_grants_of_one_date_share_what_has_expired() -> None:
    event = row(2, "award", lot("award", (PAST, 6)), lot("award", (PAST, 8)))
    gone = row(9, "expire", lot("expire", (PAST, -10)))
    told, lots, _, _ = takes(14, *event.postings, lots=((SOON, 50),), event=event, later=(gone,))
    assert (told, lots) == ({"t": [(PAST, 14)], "x": [(PAST, 10)]}, {SOON: 46})
    dates = row(2, "award", lot("award", (PAST, 6)), lot("award", (PAST - 1, 8)))
    both = row(9, "expire", lot("expire", (PAST, -6), (PAST - 1, -8)))
    told, _, _, _ = takes(14, *dates.postings, event=dates, later=(both,))
    assert told["x"] == [(PAST - 1, 8), (PAST, 6)]


def test_of_what_is_missing_no_more_than_that_has_expired() -> None:
    """Of an older version: then points may have gone by inactivity before their date."""
    event = row(2, "award", lot("award", (FAR, 10)), version=0)
    gone = row(9, "expire", lot("expire", (FAR, -20)))
    told, lots, _, _ = takes(
        10, *event.postings, lots=((SOON, 50), (FAR, 4)), event=event, later=(gone,)
    )
    assert (told, lots) == ({"t": [(FAR, 10)], "x": [(FAR, 6)]}, {SOON: 50})
    waiting = row(2, "award", Posting("award", TODAY - 60, pending=((WAITS, FAR, 10),)), version=0)
    told, lots, _, _ = takes(
        10,
        *waiting.postings,
        lots=((SOON, 50),),
        pending=((WAITS, FAR, 4),),
        event=waiting,
        later=(gone,),
    )
    assert (told, lots) == ({"t": [(FAR, 10)], "x": [(FAR, 6)]}, {SOON: 50})


def test_what_went_as_it_came_took_nothing_from_others() -> None:
    late = row(2, "award", lot("award", (PAST, 10)), lot("expire", (PAST, -10)))
    others = row(9, "expire", lot("expire", (PAST, -7)))
    told, lots, _, _ = takes(10, late.postings[0], lots=((SOON, 50),), event=late, later=(others,))
    assert (told, lots) == ({"t": [(PAST, 10)], "y": 10}, {SOON: 50})


@pytest.mark.parametrize(("kind", "shared"), [("award", 0), ("cancel", 8), ("reverse", 8)])
def test_what_another_entry_gave_and_lost_was_shared_only_where_it_was_given_back(
    kind: str, shared: int
) -> None:
    event = row(2, "award", lot("award", (PAST, 10)))
    other = row(9, kind, lot(kind, (PAST, 8)), lot("expire", (PAST, -8)))
    told, lots, _, _ = takes(10, *event.postings, lots=((SOON, 50),), event=event, later=(other,))
    assert (told.get("x", []), lots) == ([(PAST, shared)] if shared else [], {SOON: 40 + shared})


def test_a_sweep_may_have_let_several_lots_go() -> None:
    event = row(2, "award", lot("award", (PAST, 10)))
    swept = row(9, "expire", lot("expire", (PAST - 9, -5)), lot("expire", (PAST, -10)))
    told, _, _, _ = takes(10, *event.postings, event=event, later=(swept,))
    assert told["x"] == [(PAST, 10)]


def test_what_goes_today_has_gone() -> None:
    event = row(2, "award", lot("award", (TODAY, 10)))
    gone = row(9, "expire", lot("expire", (TODAY, -10)))
    told, lots, _, _ = takes(10, *event.postings, lots=((SOON, 50),), event=event, later=(gone,))
    assert (told["x"], lots) == ([(TODAY, 10)], {SOON: 50})


@pytest.mark.parametrize(
    ("expiry", "expired"),
    [
        ([{"after": "P5Y"}, {"inactive_for": "P30D"}], 10),
        ([{"inactive_for": "P30D"}, {"after": "P5Y"}], 10),
        # Without inactivity nothing goes before its date, and nobody looks.
        ([{"after": "P5Y"}], 0),
        ([], 0),
    ],
)
def test_points_may_have_gone_by_inactivity_before_their_date(
    expiry: list[dict[str, Any]], expired: int
) -> None:
    event = row(2, "award", lot("award", (FAR, 10)))
    gone = row(9, "expire", lot("expire", (FAR, -10)))
    told, _, _, _ = takes(
        10,
        *event.postings,
        lots=((SOON, 50),),
        event=event,
        later=(gone,),
        expiry=expiry,
    )
    assert sum(points for _, points in told.get("x", [])) == expired


@pytest.mark.parametrize(
    ("seq", "who", "expired"),
    [
        (3, "bob", 10),  # before the merge, in the history of who earned it
        (1, "bob", 0),
        (19, "ann", 0),
        (21, "ann", 10),
        (25, "ann", 10),
        (25, "cleo", 0),
    ],
)
def test_after_a_merge_points_go_on_in_the_history_of_who_has_them(
    seq: int, who: str, expired: int
) -> None:
    """What fell due for that member before, and is written down with the merge, is another's."""
    event = row(2, "award", lot("award", (PAST, 10)), member_id="bob")
    merged = row(20, "merge", lot("expire", (PAST, -10)), explanation={"m": "bob"})
    gone = row(seq, "expire", lot("expire", (PAST, -10)), member_id=who)
    told, _, _, _ = takes(10, *event.postings, event=event, later=(gone, merged))
    assert sum(points for _, points in told.get("x", [])) == expired
    told, _, _, _ = takes(10, *event.postings, event=event, later=(gone,))
    assert sum(points for _, points in told.get("x", [])) == (expired if who == "bob" else 0)


def test_what_counted_for_a_tier_is_taken_from_whom_a_merge_has_given_it() -> None:
    tiers = {
        "qualify_by": "points",
        "window": "lifetime",
        "levels": [{"tier_id": "base", "name": "Base", "at": 0}],
    }
    rulebook = Rulebook(parse(smallest(tiers=tiers)), 1)
    granted = lot("award", (FAR, 10))
    event = row(2, "award", granted, member_id="bob", qualifying=((0, 10),))
    bob = Account(program_id="test", member_id="bob", merged_into="ann")
    ann = Account(
        program_id="test", member_id="ann", lots=((FAR, 10),), qualifying=((0, 30),), lifetime=10
    )
    refund = Reversal.model_validate({"event_id": "2", "refund_id": "a"})
    guard = Guard("e#2", "r#a", b"")
    given_ = Given.by(rulebook, event)
    known = Known({"ann": ann, "bob": bob})
    [entry] = reverse(rulebook, given_, known, guard, [event], refund, [], NOW).entries
    assert (entry.member_id, entry.points, entry.qualifying) == ("ann", -10, ((0, -10),))


def test_a_second_refund_goes_on_where_the_first_has_ended() -> None:
    ledger = Ledger(
        smallest(
            rules=[
                rule("soon", expiry=[{"after": "P1M"}]),
                rule("far", expiry=[{"after": "P1Y"}]),
            ]
        )
    )
    ledger.enrol(NOW)
    event = ledger.buy(NOW, 10)
    told = [
        ledger.reverse(NOW, event, f"r{i}", amount=amount).explanation["t"]
        for i, amount in enumerate((3, 3, 4))
    ]
    soon, far = number("2026-04-10"), number("2027-03-10")
    assert [[(end, n) for end, n in each] for each in told] == [
        [(soon, 6)],
        [(soon, 4), (far, 2)],
        [(far, 8)],
    ]


def test_refunds_count_in_the_order_in_which_they_were_made() -> None:
    """What one has taken the next does not take again, whatever their ids."""
    pairs = {
        "rule_id": "pairs",
        "trigger": "purchase",
        "earn": {"points": 5, "per_quantity": 2},
        "match": {"products": ["TEA"]},
        "stacking": "exclusive",
    }
    document = smallest(rules=[pairs, rule("base")], refunds={"method": "recompute"})
    ledger = Ledger(document)
    ledger.enrol(NOW)
    lines = [
        {"line_id": "tea", "quantity": 3, "amount": 300, "product_id": "TEA"},
        {"line_id": "salt", "quantity": 1, "amount": 1000},
    ]
    event = ledger.award(NOW, {"type": "purchase", "purchase": {"currency": "EUR", "lines": lines}})
    first, second = (
        ledger.reverse(NOW, event, name, lines=[{"line_id": "tea", "quantity": n}])
        for name, n in (("z", 2), ("a", 1))
    )
    assert (event.points, first.points, second.points) == (5, -5, 0)
    refund = Reversal.model_validate({"event_id": "event-1", "refund_id": "rest"})
    guard = Guard(event.partition, "r#rest", b"")
    known = Known({"ann": ledger.account}, History(0, tuple(reversed(ledger.entries))))
    given_ = Given.by(ledger.rulebook, event)
    entries = [event, second, first]
    decision = reverse(ledger.rulebook, given_, known, guard, entries, refund, [], NOW)
    [rest] = decision.entries
    assert (rest.points, rest.lifetime, rest.explanation) == (0, 0, None)


# What budgets get back


def test_budgets_get_back_in_proportion_and_the_programs_just_what_it_paid() -> None:
    rulebook = Rulebook(
        parse(
            smallest(
                rules=[rule("base")],
                referral={"referrer_points": 60, "award_on": "first_purchase", "min_amount": 80},
            )
        ),
        1,
    )
    stored = {"l": [["0", 10, 100, 90]]}
    told = {"r": "+", "b": {"campaign:spring": 45, "program": 150}}
    event = Given(rulebook, "ann", "purchase", NOW, stored, told, 90, 0)

    def back(quarters: int, taken: int, *, whole: bool = False) -> Progress:
        return Progress(event, [Fraction(quarters, 4)], whole, taken)

    def between(before: Progress, after: Progress) -> dict[str, int]:
        return {name: -n for name, n in given_back_to_budgets(event, before, after).items()}

    nothing, a_little, half = back(0, 0), back(0, 9), back(2, 45)
    everything = back(4, 90, whole=True)
    assert between(nothing, nothing) == {}
    assert between(nothing, a_little) == {"campaign:spring": 4, "program": 9}
    # The referral ends with what is kept: its 60 points come back with the first half.
    assert between(nothing, half) == {"campaign:spring": 22, "program": 105}
    assert between(half, everything) == {"campaign:spring": 23, "program": 45}
    assert between(nothing, everything) == {"campaign:spring": 45, "program": 150}
