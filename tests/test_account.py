"""A member's account: what an entry changes of it, and what it never allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loyalty.model import (
    NEVER,
    Account,
    Broken,
    Entry,
    History,
    Hold,
    Known,
    NeedsAccounts,
    NeedsBudgets,
    NeedsHistory,
    NeedsProfile,
    Posting,
)

ANN = Account(program_id="test", member_id="ann", seq=4, lots=((100, 30), (NEVER, 20)), debt=5)
FIRST, SECOND, THIRD = Hold("a", 3_000, 9), Hold("b", 1_000, 9), Hold("c", 3_000, 9)


def entry(**more: Any) -> Entry:
    return Entry(
        program_id="test",
        member_id="ann",
        seq=5,
        partition="k#5",
        kind="update",
        version=1,
        recorded_at=7_000,
        occurred_at=7_000,
        postings=(),
        balance=45,
        **more,
    )


def held(hold: Hold, points: int, end: int = 100) -> Posting:
    return Posting("hold", 9, lots=((end, -points),), held=points, hold=hold)


@pytest.mark.parametrize(
    "posting",
    [
        Posting("redeem", 9, lots=((100, -31),)),
        Posting("redeem", 9, lots=((101, -1),)),
        Posting("activate", 9, lots=((100, 1),), pending=((9, 100, -1),)),
        Posting("adjust", 9, debt=-6),
        # Points that are held belong to a hold, which has just those, once.
        Posting("hold", 9, lots=((100, -3),), held=3),
        Posting("hold", 9, lots=((100, -2),), held=3, hold=SECOND),
        Posting("hold", 9, lots=((100, -4),), held=3, hold=SECOND),
        held(FIRST, 7),
        Posting("cancel", 9, lots=((100, 6),), held=-6, hold=FIRST),
        Posting("cancel", 9, lots=((100, 8),), held=-8, hold=FIRST),
        Posting("cancel", 9, lots=((100, 7),), held=-7, hold=SECOND),
    ],
)
def test_what_would_contradict_the_account_is_a_defect_shown_loudly(posting: Posting) -> None:
    account = ANN.posted(held(FIRST, 7))
    with pytest.raises(Broken):
        account.posted(posting)


def test_debt_is_paid_to_the_last_point() -> None:
    assert ANN.posted(Posting("adjust", 9, debt=-5)).debt == 0


def test_holds_stand_in_the_order_in_which_they_lapse() -> None:
    account = ANN.posted(held(THIRD, 1)).posted(held(SECOND, 2)).posted(held(FIRST, 3, NEVER))
    assert account.holds == (
        (SECOND, ((100, 2),)),
        (FIRST, ((NEVER, 3),)),
        (THIRD, ((100, 1),)),
    )
    assert account.held == 6
    assert [account.held_by(key) for key in "abcd"] == [3, 2, 1, 0]
    ended = account.posted(Posting("redeem", 9, held=-2, hold=SECOND))
    assert [hold for hold, _ in ended.holds] == [FIRST, THIRD]


def test_a_hold_of_nothing_is_none() -> None:
    assert ANN.posted(Posting("hold", 9, hold=FIRST)).holds == ()


STATED: dict[str, Any] = {
    "groups": ("vip",),
    "joined_on": 3,
    "birthday": 229,
    "referrer": "bob",
    "status": "blocked",
    "merged_into": "eve",
    "tier": "gold",
    "pinned": "silver",
    "pinned_until": 99,
    "noticed_on": 12,
    "active_on": 9,
}


def test_an_entry_changes_what_it_states_and_leaves_the_rest() -> None:
    stated = ANN.after(entry(**STATED))
    assert {name: getattr(stated, name) for name in STATED} == STATED
    nothing = stated.after(entry().__replace__(seq=6))
    assert {name: getattr(nothing, name) for name in STATED} == STATED


def test_a_pin_ends_with_the_entry_that_takes_it_off() -> None:
    pinned = ANN.after(entry(pinned="silver", pinned_until=99))
    off = pinned.after(entry(pinned="").__replace__(seq=6))
    assert (off.pinned, off.pinned_until) == ("", None)


def test_a_circle_of_merged_members_is_nobody() -> None:
    """No command makes one; where a ledger says so, it is told instead of gone round for ever."""
    bea = replace(ANN, member_id="bea", merged_into="ann")
    known = Known({"ann": replace(ANN, merged_into="bea"), "bea": bea})
    with pytest.raises(Broken, match="in a circle"):
        known.account("ann")


def test_what_was_not_read_is_asked_for_by_name() -> None:
    known = Known({"ann": ANN})
    with pytest.raises(NeedsProfile, match="profile of ann needed"):
        known.profile("ann")
    with pytest.raises(NeedsAccounts, match="accounts of bob needed"):
        known.account("bob")
    with pytest.raises(NeedsAccounts, match="accounts of bob, cleo needed"):
        known.ask_for(["bob", "ann", "cleo", "bob"])
    known.ask_for(["ann"])
    with pytest.raises(NeedsHistory, match="history since 17 needed"):
        known.history_since(17)
    history = History(17, ())
    assert replace(known, history=history).history_since(17) is history
    with pytest.raises(NeedsHistory, match="history since 16 needed"):
        replace(known, history=history).history_since(16)
    assert str(NeedsHistory(17)) == "history since 17 needed"
    assert str(NeedsBudgets(2, {"program": 9, "campaign:x": 3})) == (
        "budgets program, campaign:x needed"
    )
