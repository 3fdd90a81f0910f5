"""Answers to the last field, each made of an entry."""

from __future__ import annotations

from typing import Any

import pytest

from loyalty import projections
from loyalty.codes import Secrets
from loyalty.model import NEVER, Account, Entry, Posting
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import DAY, Ledger, instant, number

NOW = instant("2026-03-10T13:00", "Europe/Paris")
TODAY = number("2026-03-10")
END = number("2027-03-31")
SECRETS = Secrets({1: b"a secret"})


def entry(kind: Any, *postings: Posting, **more: Any) -> Entry:
    fields = {
        "program_id": "test", "member_id": "ann", "seq": 4, "partition": "k#key", "kind": kind,
        "version": 1, "recorded_at": NOW, "occurred_at": NOW, "postings": postings, "balance": 70,
    }  # fmt: skip
    return Entry(**fields | more)


def book(**more: Any) -> Rulebook:
    return Rulebook(parse(smallest(**more)), 1)


def test_an_award_counts_what_it_granted_whatever_came_back_before_it() -> None:
    given = entry(
        "award",
        Posting("cancel", TODAY, lots=((NEVER, 40),)),
        Posting("award", TODAY, lots=((END, 25),), pending=((TODAY + 3, NEVER, 5),)),
        Posting("reverse", TODAY, lots=((END, -7),)),
        partition="e#order",
        explanation={"r": "", "w": [], "s": [["r-1", 40]]},
    )
    assert projections.awarded(book(), given) == {
        "entry_id": "ann.4",
        "event_id": "order",
        "member_id": "ann",
        "points": 30,
        "desired_points": 30,
        "pending_points": 5,
        "balance": 70,
        "lots": [
            {"points": 25, "expires_on": "2027-03-31"},
            {"points": 5, "expires_on": None, "available_on": "2026-03-13"},
        ],
        "limited_by": [],
        "explanation": [],
        "reversed_points": 7,
        "restored_points": 40,
    }


def test_a_check_in_says_where_it_was_and_which_event_it_is() -> None:
    visit = {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}}
    ledger = Ledger(smallest(rules=[visit], locations=[{"location_id": "corner", "check_in": {}}]))
    ledger.enrol(NOW)
    answer = projections.checked_in(ledger.rulebook, ledger.check_in(NOW, "corner"))
    assert (answer["location_id"], answer["points"]) == ("corner", 5)
    assert answer["event_id"] == "check-in:key-1"
    assert projections.event_id(entry("redeem")) is None


WELCOME = {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 50}}


def test_an_enrolment_is_told_with_its_code_and_what_registration_gave() -> None:
    ledger = Ledger(smallest(rules=[WELCOME], expiry=[{"after": "P1Y"}]))
    assert projections.enrolled(ledger.rulebook, ledger.enrol(NOW)) == {
        "member_id": "ann",
        "referral_code": "CODE",
        "points": 50,
        "balance": 50,
        "explanation": [
            {
                "rule_id": "welcome",
                "name": "welcome",
                "fired": True,
                "reason": "granted",
                "points": 50,
                "desired_points": 50,
                "factors": [],
                "available_on": "2026-03-10",
                "expires_on": "2027-03-10",
            }
        ],
    }


def test_an_enrolment_tells_how_many_rules_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(smallest(rules=[WELCOME]))
    entry = ledger.enrol(NOW)
    monkeypatch.setattr(projections, "EXPLANATION_BYTES", 1)
    answer = projections.enrolled(ledger.rulebook, entry)
    assert (answer["explanation"], answer["explanation_left_out"]) == ([], 1)


def test_a_payment_with_points_is_worth_money_until_it_is_cancelled() -> None:
    rulebook = book(points_payment={"points": 10, "amount": 5})
    paid = entry("redeem", Posting("redeem", TODAY, lots=((END, -20),)), partition="k#pay")
    back = entry(
        "cancel",
        Posting("cancel", TODAY, lots=((END, 20),)),
        partition="k#pay",
        sort="cancel",
        answer={"p": 20},
    )
    shown = {
        "redemption_id": "r-cGF5",
        "entry_id": "ann.4",
        "member_id": "ann",
        "status": "captured",
        "points": 20,
        "balance": 70,
    }
    worth = {"discount": {"amount": 10, "currency": "EUR"}}
    assert projections.redeemed(rulebook, paid, SECRETS) == shown | worth
    assert projections.redeemed(rulebook, back, SECRETS) == shown | {"status": "cancelled"}


def test_a_reversal_says_what_was_taken_and_not_what_came_back_first() -> None:
    back = entry(
        "reverse",
        Posting("cancel", TODAY, lots=((NEVER, 40),)),
        Posting("reverse", TODAY, lots=((END, -20),), pending=((TODAY + 3, NEVER, -5),), debt=3),
        partition="e#order",
        sort="r#refund",
        explanation={"y": 1, "x": [[TODAY, 2]], "o": 4, "s": [["r-1", 40]]},
    )
    assert projections.reversed_(back) == {
        "status": "reversed",
        "entry_id": "ann.4",
        "event_id": "order",
        "refund_id": "refund",
        "member_id": "ann",
        "points": 28,
        "taken_from": [
            {"points": 5, "expires_on": None, "available_on": "2026-03-13"},
            {"points": 20, "expires_on": "2027-03-31"},
        ],
        "debt": 3,
        "expired_points": 3,
        "forgiven_points": 4,
        "restored_points": 40,
        "balance": 70,
    }


@pytest.mark.parametrize(
    ("both", "balances"), [(True, {"ann": 70, "bob": 90}), (False, {"ann": 70})]
)
def test_a_transfer_names_both_sides(both: bool, balances: dict[str, int]) -> None:
    sent = entry(
        "transfer",
        Posting("transfer", TODAY, lots=((END, -20), (NEVER, -1))),
        answer={"t": "bob", "b": 90},
    )
    assert projections.transferred(sent, both=both) == {
        "transfer_id": "t-a2V5",
        "entry_id": "ann.4",
        "from_member_id": "ann",
        "to_member_id": "bob",
        "points": 21,
        "lots": [
            {"points": 20, "expires_on": "2027-03-31"},
            {"points": 1, "expires_on": None},
        ],
        "balances": balances,
    }


@pytest.mark.parametrize("agreed", [{}, {"approved_by": "tom"}])
def test_an_adjustment_names_who_made_it_and_who_agreed(agreed: dict[str, str]) -> None:
    given = entry(
        "adjust",
        Posting("adjust", TODAY, lots=((END, 20),)),
        reason="goodwill",
        answer={"s": "sue"} | ({"a": "tom"} if agreed else {}),
    )
    assert (
        projections.adjusted(given)
        == {
            "adjustment_id": "a-a2V5",
            "status": "approved",
            "entry_id": "ann.4",
            "member_id": "ann",
            "points": 20,
            "reason_code": "goodwill",
            "lots": [{"points": 20, "expires_on": "2027-03-31"}],
            "balance": 70,
            "adjusted_by": "sue",
        }
        | agreed
    )


def ann(**more: Any) -> Account:
    return Account(program_id="test", member_id="ann", seq=3, **more)


def test_a_balance_has_every_number_of_the_account() -> None:
    account = ann(
        lots=((END, 9),), pending=((TODAY + 3, NEVER, 7),), lifetime=16, recorded_at=NOW,
        status="blocked",
    )  # fmt: skip
    assert projections.balance(book(), account, NOW - DAY) == {
        "member_id": "ann",
        "status": "blocked",
        "available": 9,
        "pending": 7,
        "held": 0,
        "debt": 0,
        "lifetime_points": 16,
        "qualifying_points": 0,
        "tier": None,
        "expiring": [{"points": 9, "expires_on": "2027-03-31"}],
        "as_of": "2026-03-10T12:00:00Z",
    }


def test_who_owes_has_a_balance_below_nothing() -> None:
    assert projections.balance_of(book(), ann(debt=4), NOW) == -4
    assert projections.balance_of(book(), ann(lots=((END, 9),)), NOW) == 9


def test_nothing_is_missing_to_a_tier_that_was_reached_beneath_one_that_staff_have_set() -> None:
    levels = [
        {"tier_id": "base", "name": "Base", "at": 0},
        {"tier_id": "gold", "name": "Gold", "at": 100, "multiplier": "1.5"},
    ]
    rulebook = book(tiers={"window": "lifetime", "levels": levels})
    until = TODAY + 9
    account = ann(qualifying=((0, 130),), tier="gold", pinned="base", pinned_until=until)
    assert projections.standing(rulebook, account, NOW) == {
        "id": "base",
        "name": "Base",
        "multiplier": "1",
        "next_tier": "gold",
        "points_to_next": 0,
        "until": "2026-03-19",
    }


def test_history_dates_a_command_by_when_it_was_and_what_fell_due_by_its_day() -> None:
    late = entry(
        "award",
        Posting("expire", TODAY - 1, lots=((TODAY - 1, -3),)),
        Posting("award", TODAY - 2, lots=((END, 25),)),
        partition="e#order",
        occurred_at=NOW - 2 * DAY,
        reason="purchase",
    )
    row = {"entry_id": "ann.4", "seq": 4, "recorded_at": "2026-03-10T12:00:00Z"}
    assert list(projections.history_rows(book(), late)) == [
        row
        | {
            "kind": "award",
            "points": 25,
            "balance_after": 70,
            "occurred_at": "2026-03-08T12:00:00Z",
            "event_id": "order",
            "reason": "purchase",
        },
        row
        | {
            "kind": "expire",
            "points": -3,
            "balance_after": 45,
            "occurred_at": "2026-03-08T23:00:00Z",
            "event_id": None,
            "reason": None,
        },
    ]
