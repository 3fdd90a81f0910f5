"""An account as a whole: what falls due, what a member may do, members that are one or forgotten;
and what every decision is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loyalty.commands import SetTier
from loyalty.decisions import (
    Decision,
    Draft,
    Guard,
    Record,
    advanced,
    event_partition,
    id_of,
    member_id_from_key,
    partition_of,
    redemption_partition,
    revived_on,
    stock_id,
)
from loyalty.lifecycle import change_status, erase, merge, set_tier, sweep, written_down
from loyalty.limits import token
from loyalty.model import (
    MAX_POINTS,
    NEVER,
    Account,
    Count,
    Counts,
    Entry,
    Hold,
    Known,
    Posting,
    Status,
)
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import DAY, instant, number, refused

NOW = instant("2026-03-10T13:00", "Europe/Paris")
TODAY = number("2026-03-10")
GUARD = Guard("k#key", "0", b"print")
LEVELS = [
    {"tier_id": "bronze", "name": "Bronze", "at": 0},
    {"tier_id": "silver", "name": "Silver", "at": 100},
    {"tier_id": "gold", "name": "Gold", "at": 300},
]
TIERS = {
    "qualify_by": "points",
    "window": {"calendar": "year"},
    "levels": LEVELS,
    "downgrade": {"steps": "full"},
}
RECORDS = (Record("a", "b", {"c": 1}),)


def book(**more: Any) -> Rulebook:
    return Rulebook(parse(smallest(**more)), 1)


def ann(**more: Any) -> Account:
    return Account(**{"program_id": "test", "member_id": "ann", "seq": 4, **more})


def bob(**more: Any) -> Account:
    return Account(**{"program_id": "test", "member_id": "bob", "seq": 7, **more})


def known(*accounts: Account) -> Known:
    return Known({account.member_id: account for account in accounts})


# What falls due


@pytest.mark.parametrize(
    ("account", "more", "kind", "postings"),
    [
        (ann(lots=((TODAY, 5),)), {}, "expire", ["expire"]),
        (ann(pending=((TODAY, NEVER, 5),)), {}, "expire", ["activate"]),
        (
            ann(lots=((TODAY + 7, 5),), noticed_on=TODAY - 1),
            {"notifications": {"expiring": ["P7D"]}},
            "notice",
            ["notice"],
        ),
        (
            ann(lots=((TODAY, 1), (TODAY + 7, 5)), noticed_on=TODAY - 1),
            {"notifications": {"expiring": ["P7D"]}},
            "expire",
            ["expire", "notice"],
        ),
        (ann(tier="gold", tier_until=TODAY), {"tiers": TIERS}, "tier", []),
    ],
)
def test_what_fell_due_is_written_down_under_its_own_number(
    account: Account, more: dict[str, Any], kind: str, postings: list[str]
) -> None:
    decision = sweep(book(**more), account, NOW)
    assert decision
    [entry] = decision.entries
    assert (entry.kind, entry.partition, entry.sort) == (kind, "d#ann", "5")
    assert [posting.kind for posting in entry.postings] == postings
    after = account.after(entry)
    assert sweep(book(**more), after, NOW) is None
    with refused("nothing_due"):
        written_down(book(**more), known(after), "ann", NOW)
    assert written_down(book(**more), known(account), "ann", NOW) == decision


# What a member may do


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        ("", "block", "blocked"),
        ("blocked", "unblock", ""),
        ("", "close", "closed"),
        ("blocked", "close", "closed"),
    ],
)
def test_a_member_is_blocked_unblocked_and_closed(before: Status, kind: Any, after: str) -> None:
    [entry] = change_status(
        book(), known(ann(status=before)), GUARD, "ann", kind, "sam", NOW
    ).entries
    assert (entry.kind, entry.status, entry.answer) == (kind, after, {"s": "sam"})


@pytest.mark.parametrize(
    ("before", "kind", "code"),
    [
        ("blocked", "block", "nothing_due"),
        ("", "unblock", "nothing_due"),
        ("closed", "close", "nothing_due"),
        ("closed", "block", "member_closed"),
        ("closed", "unblock", "member_closed"),
    ],
)
def test_what_is_so_or_over_is_not_changed(before: Status, kind: Any, code: str) -> None:
    with refused(code):
        change_status(book(), known(ann(status=before)), GUARD, "ann", kind, "sam", NOW)


def put(account: Account, tier_id: str | None, until: str | None, **more: Any) -> Entry:
    day = None if until is None else f'"{until}"'
    tier = None if tier_id is None else f'"{tier_id}"'
    fields = [f'"{k}": {v}' for k, v in (("tier_id", tier), ("until", day)) if v is not None]
    command = SetTier.model_validate_json("{" + ", ".join(fields) + "}")
    rulebook = book(**{"tiers": TIERS} | more)
    return set_tier(rulebook, known(account), GUARD, "ann", command, "sam", NOW).entries[0]


def test_staff_put_a_member_into_a_tier_and_take_that_off() -> None:
    entry = put(ann(tier="silver"), "gold", "2026-03-11")
    assert (entry.kind, entry.reason, entry.answer) == ("tier", "set", {"s": "sam"})
    assert (entry.pinned, entry.pinned_until, entry.tier) == ("gold", TODAY + 1, None)
    set_ = ann(tier="silver", pinned="gold", pinned_until=TODAY + 1)
    entry = put(set_, None, None)
    assert (entry.pinned, entry.pinned_until, entry.tier) == ("", None, "silver")
    # The lowest is named too: it is told.
    assert put(replace(set_, tier=""), None, None).tier == "bronze"
    # Another day or another tier is news.
    assert put(set_, "gold", "2026-03-12").pinned_until == TODAY + 2
    assert put(set_, "silver", "2026-03-11").pinned == "silver"


@pytest.mark.parametrize(
    ("account", "tier_id", "until", "code", "more"),
    [
        (ann(), "platinum", "2026-12-31", "unknown_tier", {"pointer": "/tier_id"}),
        (ann(), "gold", "2026-03-10", "expires_too_early", {"pointer": "/until"}),
        (ann(), None, None, "nothing_due", {}),
        (ann(pinned="gold", pinned_until=TODAY + 1), "gold", "2026-03-11", "nothing_due", {}),
        (ann(status="closed"), "gold", "2026-12-31", "member_closed", {}),
    ],
)
def test_a_tier_that_cannot_be_set_is_refused(
    account: Account, tier_id: str | None, until: str | None, code: str, more: dict[str, Any]
) -> None:
    with refused(code, **more):
        put(account, tier_id, until)


# Two that are one


def merged(goes: Account, stays: Account, **more: Any) -> tuple[Entry, Entry]:
    decision = merge(
        book(**more), known(goes, stays), GUARD, goes.member_id, stays.member_id, "sam", RECORDS,
        NOW,
    )  # fmt: skip
    assert decision.records == RECORDS
    entry, gone = decision.entries
    return entry, gone


def test_all_that_one_has_goes_to_the_other_with_its_dates() -> None:
    goes = ann(
        lots=((TODAY + 9, 5), (NEVER, 20)),
        pending=((TODAY + 3, NEVER, 7),),
        lifetime=99,
        birthday=229,
        groups=("vip",),
        cooldowns={"n": 5},
        active_on=TODAY - 2,
        counters={"day": Counts(TODAY, {"n": 3})},
    )
    stays = bob(lots=((TODAY + 9, 1),), lifetime=1, counters={"day": Counts(TODAY, {"n": 2})})
    entry, gone = merged(goes, stays)
    assert (gone.kind, gone.sort, gone.reason, gone.answer) == (
        "merge", "from", "merged", {"s": "sam"},
    )  # fmt: skip
    assert (gone.status, gone.merged_into, gone.lifetime) == ("merged", "bob", -99)
    assert (gone.groups, gone.birthday) == ((), 0)
    assert [posting.kind for posting in gone.postings] == ["merge"]
    empty = goes.after(gone)
    assert (empty.available, empty.pending_points, empty.due_on) == (0, 0, None)
    assert (entry.kind, entry.sort, entry.reason, entry.answer) == (
        "merge", "0", "merged", {"s": "sam"},
    )  # fmt: skip
    assert entry.explanation == {"m": "ann"}
    assert (entry.lifetime, entry.active_on, entry.status) == (99, TODAY - 2, None)
    [brought] = entry.postings
    assert brought.lots == ((TODAY + 9, 5), (NEVER, 20))
    assert brought.pending == ((TODAY + 3, NEVER, 7),)
    after = stays.after(entry)
    assert after.lots == ((TODAY + 9, 6), (NEVER, 20))
    assert after.cooldowns == {"n": 5}
    assert after.counter("day", TODAY, "n") == 5


@pytest.mark.parametrize(
    ("mine", "owed", "theirs", "they_owe", "left", "debt"),
    [
        (((TODAY + 9, 5),), 0, (), 3, {TODAY + 9: 2}, 0),
        (((TODAY + 9, 5),), 0, (), 5, {}, 0),
        (((TODAY + 9, 5),), 0, (), 8, {}, 3),
        ((), 4, ((TODAY + 9, 5), (NEVER, 2)), 0, {TODAY + 9: 1, NEVER: 2}, 0),
        ((), 6, ((TODAY + 9, 5), (NEVER, 2)), 0, {NEVER: 1}, 0),
        ((), 4, (), 5, {}, 9),
        # The earliest pays, whoever had it.
        (((TODAY + 2, 3), (NEVER, 9)), 0, (), 4, {NEVER: 8}, 0),
        (((TODAY + 2, 3),), 4, ((NEVER, 9),), 0, {NEVER: 8}, 0),
    ],
)
def test_what_both_owe_is_paid_by_what_both_have(
    mine: tuple[tuple[int, int], ...],
    owed: int,
    theirs: tuple[tuple[int, int], ...],
    they_owe: int,
    left: dict[int, int],
    debt: int,
) -> None:
    goes, stays = ann(lots=mine, debt=owed), bob(lots=theirs, debt=they_owe)
    entry, gone = merged(goes, stays)
    after = stays.after(entry)
    assert (dict(after.lots), after.debt, entry.balance) == (left, debt, after.balance)
    assert (goes.after(gone).available, goes.after(gone).debt) == (0, 0)


def test_what_comes_is_written_in_the_order_of_its_dates() -> None:
    entry, _ = merged(ann(lots=((TODAY + 2, 3), (NEVER, 1))), bob(lots=((NEVER, 9),)))
    assert entry.postings[0].lots == ((TODAY + 2, 3), (NEVER, 1))


@pytest.mark.parametrize(
    ("mine", "theirs", "after"),
    [
        ("", "", None),
        ("blocked", "", "blocked"),
        ("", "blocked", None),
        ("blocked", "blocked", None),
    ],
)
def test_who_is_blocked_stays_blocked_under_the_other_id(
    mine: Status, theirs: Status, after: str | None
) -> None:
    assert merged(ann(status=mine), bob(status=theirs))[0].status == after


def test_counters_of_windows_that_are_over_are_not_brought() -> None:
    goes = ann(counters={"day": Counts(9, {"n": 3}), "week": Counts(9, {"n": 1}),
                         "ever": Counts(0, {"n": 4})})  # fmt: skip
    stays = bob(counters={"day": Counts(10, {}), "week": Counts(9, {})})
    entry, _ = merged(goes, stays)
    assert entry.counts == (Count("ever", 0, "n", 4), Count("week", 9, "n", 1))
    later = bob(counters={"day": Counts(8, {"n": 7})})
    assert Count("day", 9, "n", 3) in merged(goes, later)[0].counts


def test_what_holds_that_have_just_lapsed_had_counted_is_not_brought() -> None:
    name = token("reward", "gift")
    hold = Hold("k", NOW - 1, TODAY, "gift", 1, ("day", "ever"))
    counters = {"day": Counts(TODAY, {name: 3, "n": 2}), "ever": Counts(0, {name: 1})}
    goes = ann(holds=((hold, ((NEVER, 4),)),), counters=counters)
    entry, _ = merged(goes, bob())
    assert entry.counts == (Count("day", TODAY, "n", 2), Count("day", TODAY, name, 2))


def test_what_counts_towards_a_tier_adds_up_and_the_higher_one_is_kept() -> None:
    year = number("2026-01-01")
    goes = ann(tier="gold", tier_until=number("2028-01-01"), qualifying=((year, 300),))
    stays = bob(qualifying=((year, 30),))
    entry, gone = merged(goes, stays, tiers=TIERS)
    assert (entry.qualifying, gone.qualifying) == (((year, 300),), ((year, -300),))
    assert (entry.tier, gone.tier, gone.pinned) == ("gold", "", None)
    assert gone.tier_until is None
    assert entry.tier_until == number("2028-01-01")
    without, _ = merged(goes, stays)
    assert without.qualifying == ()


@pytest.mark.parametrize("expiry", [[], [{"inactive_for": "P1M"}]])
def test_two_who_were_never_active_are_one_who_never_was(expiry: list[dict[str, str]]) -> None:
    """So that nothing of what they were given goes by inactivity."""
    goes, stays = ann(lots=((NEVER, 5),)), bob(lots=((NEVER, 2),))
    entry, _ = merged(goes, stays, expiry=expiry)
    after = stays.after(entry)
    assert (after.active_on, after.due_on) == (None, None)


@pytest.mark.parametrize(
    ("goes", "stays", "code"),
    [
        (ann(), ann(), "same_member"),
        (ann(status="closed"), bob(), "member_closed"),
        (ann(), bob(status="closed"), "member_closed"),
        (ann(holds=((Hold("k", NOW + DAY, 1), ((NEVER, 1),)),)), bob(), "open_holds"),
        (ann(status="erased"), bob(), "member_erased"),
    ],
)
def test_who_cannot_be_merged_is_not(goes: Account, stays: Account, code: str) -> None:
    with refused(code):
        merged(goes, stays)


# Forgotten


def test_who_is_erased_leaves_nothing_but_the_id() -> None:
    year = number("2026-01-01")
    until = NOW + DAY
    account = ann(
        lots=((NEVER, 20),),
        pending=((TODAY + 3, NEVER, 7),),
        holds=(
            (Hold("one", until, 1, "gift", 2), ((NEVER, 4),)),
            (Hold("three", until, 1, "gift", 1), ((NEVER, 1),)),
            (Hold("two", until, 1), ((NEVER, 3), (TODAY + 9, 2))),
        ),
        birthday=229,
        groups=("vip",),
        referrer="bob",
        tier="gold",
        tier_until=number("2028-01-01"),
        qualifying=((year, 300),),
    )
    decision = erase(book(tiers=TIERS), known(account), GUARD, "ann", RECORDS, NOW)
    [entry] = decision.entries
    assert decision.records == RECORDS
    assert decision.draws == {stock_id("gift"): -3}
    assert (entry.kind, entry.status, entry.referrer) == ("erase", "erased", "")
    after = account.after(entry)
    assert (after.available, after.pending_points, after.held, after.balance) == (0, 0, 0, 0)
    assert (after.birthday, after.groups, after.referrer, after.tier) == (0, (), "", "")
    assert (after.qualifying, after.due_on, after.tier_until) == ((), None, None)
    assert (after.pinned, after.pinned_until) == ("", None)
    owes = ann(debt=9)
    [entry] = erase(book(), known(owes), GUARD, "ann", (), NOW).entries
    assert owes.after(entry).debt == 0


# What decisions are made of


def test_commands_stand_under_their_keys() -> None:
    assert event_partition("order") == "e#order"
    assert event_partition("check-in:key") == "k#key"
    assert id_of("r", "till-3-0815") == "r-dGlsbC0zLTA4MTU"
    assert redemption_partition("r-dGlsbC0zLTA4MTU") == "k#till-3-0815"
    assert partition_of("a", id_of("a", "x" * 128)) == "k#" + "x" * 128
    assert partition_of("a", id_of("a", "x")) == "k#x"
    assert member_id_from_key("shop", "key") == "m-nrvjU77Guvm9KNdghxkS"


@pytest.mark.parametrize(
    "identity",
    [
        "", "r-", "r-?", "r-dGlsbC0zLTA4MTU=", "x-dGlsbC0zLTA4MTU", "dGlsbC0zLTA4MTU",
        id_of("r", "x" * 129), id_of("r", "a#b"), "r-_w", "r-\u00e9",
    ],
)  # fmt: skip
def test_what_is_no_id_stands_nowhere(identity: str) -> None:
    assert redemption_partition(identity) is None


def test_stock_that_was_held_in_vain_is_drawn_no_more() -> None:
    held = Posting("lapse", 1, held=-4, lots=((NEVER, 4),), hold=Hold("k", 1, 1, "gift", 2))
    again = replace(held, hold=Hold("l", 1, 1, "gift", 1))
    plain = replace(held, hold=Hold("m", 1, 1))
    redeemed = Posting("redeem", 1, held=-4, hold=Hold("n", 1, 1, "gift", 5))
    [entry] = change_status(book(), known(ann()), GUARD, "ann", "block", "sam", NOW).entries
    entry = replace(entry, postings=(held, plain, again, redeemed))
    name = stock_id("gift")
    assert Decision((entry,)).all_draws == {name: -3}
    assert Decision((entry,), draws={name: 1, "program": 7}).all_draws == {name: -2, "program": 7}
    assert Decision((entry,), draws={name: 3}).all_draws == {}


def draft(account: Account, now: int = NOW, **more: Any) -> Draft:
    return Draft(book(**more), account, now)


def test_an_entry_says_when_it_was_and_for_whom() -> None:
    later = NOW + DAY
    entry = draft(ann(recorded_at=later)).entry("update", GUARD, occurred_at=NOW)
    assert (entry.recorded_at, entry.occurred_at) == (later, NOW)
    assert (entry.seq, entry.member_id, entry.program_id, entry.version) == (5, "ann", "test", 1)
    assert (entry.partition, entry.sort, entry.fingerprint) == ("k#key", "0", b"print")
    assert draft(ann()).entry("update", GUARD).occurred_at == NOW


def test_activity_never_goes_back() -> None:
    for before, active_on, told in (
        (None, None, None),
        (None, 9, 9),
        (9, None, None),
        (9, 8, None),
        (9, 9, None),
        (9, 10, 10),
    ):
        entry = draft(ann(active_on=before)).entry("update", GUARD, active_on=active_on)
        assert entry.active_on == told


@pytest.mark.parametrize(("days", "revived"), [(31, True), (30, True), (29, False)])
def test_who_had_run_out_by_inactivity_is_revived_by_what_comes(days: int, revived: bool) -> None:
    one = draft(ann(active_on=TODAY - days), expiry=[{"inactive_for": "P30D"}])
    assert revived_on(one) == (TODAY if revived else None)


def test_an_entry_tells_of_notices_only_where_the_program_has_them() -> None:
    assert draft(ann()).entry("update", GUARD).noticed_on is None
    noticing = draft(ann(noticed_on=TODAY - 9), notifications={"expiring": ["P7D"]})
    assert noticing.entry("update", GUARD).noticed_on == TODAY


@pytest.mark.parametrize(
    ("member", "tier", "pinned"),
    [
        ({"tier": "gold"}, None, None),
        ({"tier": "gold", "pinned": "silver", "pinned_until": TODAY + 9}, None, None),
        # What was reached is lost, or what was set is over: the entry names where one is now.
        ({"tier": "gold", "tier_until": TODAY}, "bronze", None),
        (
            {"tier": "gold", "tier_until": TODAY, "pinned": "silver", "pinned_until": TODAY + 9},
            "bronze",
            "silver",
        ),
        ({"tier": "gold", "pinned": "silver", "pinned_until": TODAY}, "gold", ""),
    ],
)
def test_an_entry_names_the_tier_where_it_changed(
    member: dict[str, Any], tier: str | None, pinned: str | None
) -> None:
    entry = draft(ann(**member), tiers=TIERS).entry("update", GUARD)
    assert (entry.tier, entry.pinned) == (tier, pinned)


def test_nothing_that_moves_nothing_is_posted() -> None:
    one = draft(ann(lots=((NEVER, 5),)))
    one.post(Posting("redeem", TODAY))
    assert one.postings == []
    for posting in (
        Posting("redeem", TODAY, lots=((NEVER, -1),)),
        Posting("award", TODAY, pending=((TODAY + 1, NEVER, 1),)),
        Posting("reverse", TODAY, debt=1),
        Posting("hold", TODAY, held=1, lots=((NEVER, -1),), hold=Hold("k", NOW + DAY, 1)),
    ):
        one.post(posting)
        assert one.postings[-1] == posting


def test_counts_are_written_in_one_order() -> None:
    counts = [Count("week", 1, "a", 1), Count("day", 1, "b", 1), Count("day", 1, "a", 1)]
    entry = draft(ann()).entry("update", GUARD, counts=counts)
    assert entry.counts == tuple(reversed(counts))


def test_a_hold_that_lapsed_gives_back_what_it_counted() -> None:
    hold = Hold("k", NOW - 1, TODAY, "gift", 1, ("day", "ever"))
    account = ann(holds=((hold, ((NEVER, 4),)),))
    entry = draft(account).entry("update", GUARD)
    name = token("reward", "gift")
    assert entry.counts == (Count("day", TODAY, name, -1), Count("ever", 0, name, -1))


@pytest.mark.parametrize(
    ("had", "given", "fits"),
    [
        (0, MAX_POINTS, True),
        (0, MAX_POINTS + 1, False),
        (1, MAX_POINTS - 1, True),
        (1, MAX_POINTS, False),
        # Who has too much already may still do what gives no more.
        (MAX_POINTS + 5, 0, True),
        (MAX_POINTS + 5, -1, True),
    ],
)
def test_a_member_holds_no_more_than_numbers_do(had: int, given: int, fits: bool) -> None:
    one = draft(ann(lots=((NEVER, had),) if had else ()))
    one.post(Posting("adjust", TODAY, lots=((NEVER, given),) if given else ()))
    if fits:
        assert one.entry("adjust", GUARD).balance == had + given
        return
    with refused("too_many_points"):
        one.entry("adjust", GUARD)


def test_pending_and_held_points_are_held_too() -> None:
    hold = Hold("k", NOW + DAY, 1)
    account = ann(pending=((TODAY + 9, NEVER, 5),), holds=((hold, ((NEVER, 3),)),))
    one = draft(account)
    one.post(Posting("adjust", TODAY, lots=((NEVER, MAX_POINTS - 8),)))
    assert one.entry("adjust", GUARD).balance == MAX_POINTS - 8
    one.post(Posting("adjust", TODAY, lots=((NEVER, 1),)))
    with refused("too_many_points"):
        one.entry("adjust", GUARD)


def test_who_has_too_much_in_whatever_form_may_do_what_gives_no_more() -> None:
    hold = Hold("k", NOW + DAY, 1)
    for more in (
        {"holds": ((hold, ((NEVER, 9),)),)},
        {"pending": ((TODAY + 9, NEVER, 9),)},
    ):
        account = ann(lots=((NEVER, MAX_POINTS),), **more)
        assert draft(account).entry("update", GUARD).balance == MAX_POINTS


# Time under several versions

END = instant("2026-03-10T00:30", "Europe/Paris")  # still the 9th in New York
NEW_YORK: dict[str, Any] = {"time_zone": "America/New_York"}


def after_reign(former: dict[str, Any], until: int, **more: Any) -> Rulebook:
    """A version that follows one by other terms, which ended at that instant."""
    reigns = [(parse(smallest(**former)), until)]
    return Rulebook(parse(smallest(**more)), 2, lambda _: reigns)


def holds(*untils: int) -> Account:
    return ann(
        holds=tuple((Hold(f"k{n}", until, 1), ((NEVER, 1),)) for n, until in enumerate(untils))
    )


def test_time_stands_at_the_very_instant() -> None:
    account = holds(NOW, NOW + 1)
    for at, lapsed in ((NOW - 1, 0), (NOW, 1), (NOW + 1, 2)):
        assert [p.kind for p in advanced(book(), account, at)[1]] == ["lapse"] * lapsed


def test_what_falls_due_on_the_first_day_of_a_version_falls_due_by_its_terms() -> None:
    midnight = instant("2026-03-10T00:00", "Europe/Paris")
    account = ann(lots=((NEVER, 5),), active_on=TODAY - 30)
    inactive = {"expiry": [{"inactive_for": "P30D"}]}
    for until, kinds in ((midnight, []), (midnight + 1, ["expire"])):
        after, postings = advanced(after_reign(inactive, until), account, NOW)
        assert [posting.kind for posting in postings] == kinds
        assert after.available == (0 if kinds else 5)


@pytest.mark.parametrize(
    ("until", "on"), [(END - 1, TODAY), (END, TODAY - 1), (END + 1, TODAY - 1)]
)
def test_a_hold_lapses_on_the_date_of_the_version_in_force(until: int, on: int) -> None:
    _, [lapse] = advanced(after_reign({}, END, **NEW_YORK), holds(until), NOW)
    assert (lapse.kind, lapse.on) == ("lapse", on)


def test_no_date_goes_back_where_the_time_zone_changes() -> None:
    lots = ((TODAY - 5, 1), (TODAY - 3, 1))
    account = replace(holds(END - 1, END, NOW + DAY), lots=lots)
    _, postings = advanced(after_reign({}, END, **NEW_YORK), account, NOW + DAY)
    days = [TODAY - 5, TODAY - 3, TODAY, TODAY, TODAY + 1]
    assert [posting.on for posting in postings] == days
