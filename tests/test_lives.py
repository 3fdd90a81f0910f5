"""Members' lives: blocked, unblocked, closed, made one with another. Nothing is made or lost on the
way, nothing that is paid once is paid twice, and every id that ever was goes on to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty import edge, lifecycle
from loyalty.dates import day_number, milliseconds
from loyalty.decisions import Guard
from loyalty.limits import token
from loyalty.model import NEVER, Account, Counts, Entry, History, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.validation import parse
from loyalty.wire import account_item, account_of, entry_item, entry_of
from tests import workers
from tests.faults import Fault
from tests.programs import shop, smallest
from tests.workers import NOON, Clients, by_member, done, send
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
TODAY = day_number(NOON.date())
NOW = milliseconds(NOON)
PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}
LEVELS = [
    {"tier_id": "basic", "name": "Basic", "at": 0},
    {"tier_id": "silver", "name": "Silver", "at": 100},
    {"tier_id": "gold", "name": "Gold", "at": 500},
]


class Life(workers.House):
    """The shop's handlers on fresh tables, on days counted from noon."""

    def open(self, *members: str, **sections: Any) -> None:
        """Publish a program and enrol members, who get nothing for it."""
        document = shop(**{"rules": [PER_EURO], "limits": [], "rewards": [], **sections})
        done(workers.publish(document))
        for member_id in members:
            done(workers.enrol(member_id))


@pytest.fixture
def life(engine: Engine, tables: Tables) -> Iterator[Life]:
    """A house that stands at noon."""
    life = Life(engine, tables)
    with life.on(0):
        yield life


def refused(call: workers.Call) -> tuple[int, str]:
    answer = send(call)
    return answer.status, answer.body["code"]


def available(member_id: str) -> int:
    return int(done(workers.balance(member_id))["available"])


# Blocked, unblocked, closed


def test_a_blocked_member_earns_and_cannot_spend(life: Life) -> None:
    life.open("ana", "ben", transfers={"enabled": True})
    done(workers.purchase("before", "ana", 5000))
    held = done(workers.redeem("ana", "held", points=10, hold=True))
    answer = done(workers.become("block", "ana"))
    assert answer == {"member_id": "ana", "status": "blocked", "balance": 40}
    assert done(workers.purchase("order", "ana", 1000))["points"] == 10
    sent = {"from_member_id": "ana", "to_member_id": "ben", "points": 10}
    transfer = workers.Call(
        "transfer", f"POST {workers.BASE}/transfers", body=sent, headers={"idempotency-key": "t"}
    )
    for call in (
        workers.redeem("ana", "pay", points=1),
        workers.redeem("ana", "hold", points=1, hold=True),
        workers.capture(held["redemption_id"]),
        transfer,
    ):
        assert refused(call) == (409, "member_blocked")
    assert done(workers.balance("ana"))["status"] == "blocked"
    assert done(workers.profile("ana"))["status"] == "blocked"
    assert done(workers.become("unblock", "ana"))["status"] == "active"
    assert "status" not in done(workers.balance("ana"))
    assert "status" not in done(workers.profile("ana"))
    done(workers.capture(held["redemption_id"]))
    done(workers.redeem("ana", "pay", points=50))
    assert life.accounts()["ana"].balance == 0


def test_a_closed_member_neither_earns_nor_spends_and_points_expire_by_themselves(
    life: Life,
) -> None:
    life.open("ana", "ben")
    done(workers.purchase("order", "ana", 5000))
    answer = done(workers.become("close", "ana"))
    assert answer == {"member_id": "ana", "status": "closed", "balance": 50}
    for call in (
        workers.purchase("later", "ana", 5000),
        workers.check_in("ana", "visit"),
        workers.redeem("ana", "pay", points=1),
        workers.redeem("ana", "hold", points=1, hold=True),
        workers.adjust("ana", 5, "gift"),
        workers.merge("ana", "ben", "one"),
        workers.merge("ben", "ana", "one"),
        workers.become("unblock", "ana"),
        workers.become("block", "ana"),
    ):
        assert refused(call) == (409, "member_closed"), call.route
    assert done(workers.balance("ana"))["status"] == "closed"
    assert done(workers.reverse("order", "return"))["points"] == 50
    done(workers.change("ana", name="Ana", groups=["vip"]))
    assert done(workers.profile("ana"))["groups"] == ["vip"]
    life.accounts()


def test_the_points_of_a_closed_member_go_on_their_day(life: Life) -> None:
    life.open("ana", expiry=[{"after": "P1M"}])
    done(workers.purchase("order", "ana", 5000))
    done(workers.become("close", "ana"))
    with life.on(31):
        assert available("ana") == 0
        life.sweep()
        assert life.accounts()["ana"].lots == ()
        assert done(workers.erase("ana")) == {"member_id": "ana", "status": "erased"}


@pytest.mark.parametrize(
    ("before", "what"),
    [([], "unblock"), (["block"], "block"), (["close"], "close")],
    ids=["unblock", "block", "close"],
)
def test_what_is_so_already_is_answered_and_written_nowhere(
    life: Life, before: list[str], what: str
) -> None:
    life.open("ana")
    for step in before:
        done(workers.become(step, "ana"))
    books = life.books()
    answer = send(workers.become(what, "ana"))
    assert answer.status == 200
    assert answer.body["status"] == done(workers.balance("ana")).get("status", "active")
    assert send(workers.become(what, "ana", "a key")).status == 200
    assert life.books() == books


@pytest.mark.parametrize("at", range(4))
def test_whoever_comes_between_is_not_in_the_answer(life: Life, at: int) -> None:
    life.open("ana")
    life.faults.follow({at: workers.meanwhile(workers.become("block", "ana"))}, of="GetItem")
    assert done(workers.become("unblock", "ana"))["status"] == "active"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"status": "blocked"}', 422, "invalid_body"),
        ("[]", 422, "invalid_body"),
        ('{"a": 1, "a": NaN}', 400, "invalid_json"),
        ("{bad", 400, "invalid_json"),
        (" " * 300_000, 413, "body_too_large"),
    ],
)
def test_what_nobody_asks_for_is_refused_and_not_passed_over(
    life: Life, body: str, status: int, code: str
) -> None:
    life.open("ana")
    done(workers.purchase("order", "ana", 5000))
    held = done(workers.redeem("ana", "cart", points=5, hold=True))["redemption_id"]
    books = life.books()
    for call in (workers.become("block", "ana"), workers.capture(held), workers.erase("ana")):
        assert refused(replace(call, body=body)) == (status, code)
        assert life.books() == books
    for empty in ("", "{}"):
        assert send(replace(workers.become("block", "ana"), body=empty)).status == 200


def test_a_repeat_under_its_key_gets_the_first_answer(life: Life) -> None:
    life.open("ana")
    first = send(workers.become("block", "ana", "block it"))
    done(workers.become("unblock", "ana", "unblock it"))
    done(workers.purchase("order", "ana", 5000))
    again = send(workers.become("block", "ana", "block it"))
    assert (again.status, again.body, again.replayed) == (200, first.body, True)
    assert refused(workers.become("close", "ana", "block it")) == (422, "idempotency_key_reused")
    assert life.accounts()["ana"].status == ""


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_blocks_once(life: Life, fault: Fault) -> None:
    life.open("ana")
    life.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.become("block", "ana"))["status"] == "blocked"
    life.faults.heal()
    assert life.accounts()["ana"].seq == 2


@pytest.mark.parametrize("scope", ["loyalty/merchant", "loyalty/member"])
def test_only_staff_block_close_and_merge(life: Life, scope: str) -> None:
    life.open("ana", "ben")
    calls = [workers.become(what, "ana") for what in ("block", "unblock", "close")]
    for call in [*calls, workers.merge("ana", "ben", "one")]:
        who = replace(call, scope=scope, claims={"member_id": "ana"})
        assert refused(who) == (403, "forbidden")


def test_blocking_costs_5_write_units(life: Life) -> None:
    life.open("ana")
    with meter.measure() as used:
        done(workers.become("block", "ana"))
    assert used.write == 5


def test_redemptions_and_a_block_at_once_leave_nothing_spent_after_it(life: Life) -> None:
    life.open("ana")
    done(workers.purchase("order", "ana", 100_000))
    pays = [[workers.redeem("ana", f"pay-{i}", points=10)] for i in range(8)]
    block = [[workers.become("block", "ana")]]
    scripts: list[list[workers.Call]] = [*pays, *block]
    scripts += [[] for _ in range(CLIENTS - len(scripts))]
    with Clients() as clients:
        clients.play(life.endpoint, life.tables, scripts)
    _, history = workers.proved(life.direct, life.tables)["ana"]
    kinds = [entry.kind for entry in history]
    assert "block" in kinds
    assert "redeem" not in kinds[kinds.index("block") :]


# Two members are one


def test_a_merge_moves_everything_with_its_dates(life: Life) -> None:
    life.open("ana", "ben", expiry=[{"after": "P1M"}], pending={"purchase": "P14D"})
    done(workers.purchase("early", "ben", 5000))
    with life.on(14):
        done(workers.purchase("late", "ben", 3000))
        done(workers.purchase("hers", "ana", 2000))
        before = life.accounts()
        answer = done(workers.merge("ben", "ana", "one"))
        assert answer == {
            "member_id": "ana",
            "merged_member_id": "ben",
            "entry_id": "ana.3",
            "points": 80,
            "balance": 50,
        }
        after = life.accounts()
        ben, ana = after["ben"], after["ana"]
        assert ana.lots == before["ben"].lots
        assert ana.pending == ((TODAY + 28, before["ben"].pending[0][1], 50),)
        assert (ben.available, ben.pending, ben.debt, ben.due_on) == (0, (), 0, None)
        assert (ben.status, ben.merged_into) == ("merged", "ana")
        assert (ben.lifetime, ana.lifetime) == (0, 100)
        first, second = edge.store().under("shop", "k#one")[0]
        assert {e.sort: (e.member_id, e.kind) for e in (first, second)} == {
            "0": ("ana", "merge"),
            "from": ("ben", "merge"),
        }
        assert first.points + second.points == 0


def test_a_repeated_merge_is_a_replay_and_another_one_is_refused(life: Life) -> None:
    life.open("ana", "ben", "cleo")
    done(workers.purchase("order", "ben", 1000))
    first = send(workers.merge("ben", "ana", "one"))
    books = life.books()
    again = send(workers.merge("ben", "ana", "one"))
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    assert refused(workers.merge("ben", "cleo", "one")) == (422, "idempotency_key_reused")
    assert refused(workers.merge("ben", "ana", "two")) == (409, "same_member")
    assert refused(workers.merge("ana", "ben", "two")) == (409, "same_member")
    assert refused(workers.merge("ana", "ana", "two")) == (409, "same_member")
    assert refused(workers.merge("ana", "nobody", "two")) == (404, "member_not_found")
    assert refused(workers.merge("nobody", "ana", "two")) == (404, "member_not_found")
    assert refused(workers.merge("ben", "ana", None)) == (400, "idempotency_key_missing")
    assert life.books() == books


def test_open_holds_are_settled_before_a_merge(life: Life) -> None:
    life.open("ana", "ben")
    for member_id in ("ana", "ben"):
        done(workers.purchase(f"order-{member_id}", member_id, 1000))
    held = done(workers.redeem("ben", "hold", points=4, hold=True))
    done(workers.redeem("ana", "own hold", points=3, hold=True))
    assert refused(workers.merge("ben", "ana", "one")) == (409, "open_holds")
    done(workers.cancel(held["redemption_id"]))
    done(workers.merge("ben", "ana", "one"))
    ana = life.accounts()["ana"]
    assert (ana.available, ana.held) == (17, 3)


def test_a_hold_that_has_lapsed_keeps_nobody_apart(life: Life) -> None:
    life.open("ana", "ben")
    done(workers.purchase("order", "ben", 1000))
    done(workers.redeem("ben", "hold", points=4, hold=True))
    with life.on(1):
        done(workers.merge("ben", "ana", "one"))
        assert life.accounts()["ana"].available == 10


@pytest.mark.parametrize("blocked", ["ana", "ben"])
def test_who_was_blocked_as_one_of_two_is_blocked_as_both(life: Life, blocked: str) -> None:
    life.open("ana", "ben")
    done(workers.become("block", blocked))
    done(workers.merge("ben", "ana", "one"))
    assert life.accounts()["ana"].status == "blocked"
    assert done(workers.balance("ben"))["status"] == "blocked"


def test_what_the_one_owes_is_paid_from_what_the_other_has(life: Life) -> None:
    life.open("ana", "ben", refunds={"shortfall": "debt"})
    done(workers.purchase("order", "ben", 3000))
    done(workers.redeem("ben", "pay", points=30))
    done(workers.reverse("order", "return"))
    done(workers.purchase("hers", "ana", 5000))
    assert done(workers.merge("ben", "ana", "one"))["points"] == -30
    ana = life.accounts()["ana"]
    assert (ana.available, ana.debt) == (20, 0)


def test_a_member_who_owes_is_helped_by_the_one_who_comes(life: Life) -> None:
    life.open("ana", "ben", refunds={"shortfall": "debt"})
    done(workers.purchase("order", "ana", 7000))
    done(workers.redeem("ana", "pay", points=70))
    done(workers.reverse("order", "return"))
    done(workers.purchase("his", "ben", 5000))
    done(workers.merge("ben", "ana", "one"))
    ana = life.accounts()["ana"]
    assert (ana.available, ana.debt) == (0, 20)


days = st.integers(TODAY + 1, TODAY + 6) | st.just(NEVER)
lots = st.dictionaries(days, st.integers(1, 50), max_size=5).map(lambda d: tuple(sorted(d.items())))
pending = st.lists(
    st.tuples(st.integers(TODAY + 1, TODAY + 3), st.just(NEVER), st.integers(1, 50)), max_size=1
).map(tuple)


@st.composite
def accounts(draw: st.DrawFn, member_id: str) -> Account:
    """An account with lots or a debt, or neither."""
    holds_lots = draw(st.booleans())
    return Account(
        program_id="test",
        member_id=member_id,
        seq=draw(st.integers(1, 9)),
        lots=draw(lots) if holds_lots else (),
        debt=0 if holds_lots else draw(st.integers(0, 120)),
        pending=draw(pending),
        joined_on=TODAY - draw(st.integers(0, 800)),
        lifetime=draw(st.integers(0, 500)),
        recorded_at=NOW - draw(st.integers(0, 5)),
        tier=(tier := draw(st.sampled_from(["", "silver", "gold"]))),
        tier_until=draw(st.sampled_from([TODAY + 30, TODAY + 300])) if tier else None,
        qualifying=draw(
            st.dictionaries(st.integers(TODAY - 20, TODAY), st.integers(1, 300), max_size=3).map(
                lambda d: tuple(sorted(d.items()))
            )
        ),
    )


def merged(ben: Account, ana: Account, **sections: Any) -> tuple[Account, Account, list[Entry]]:
    """(The one that goes, the one that stays, the entries) after a merge, read back from the
    table's items."""
    rulebook = Rulebook(parse(smallest(**sections)), 1)
    known = Known({"ben": ben, "ana": ana})
    guard = Guard("k#one", "0", b"")
    decision = lifecycle.merge(rulebook, known, guard, "ben", "ana", "staff", (), NOW)
    entries = [entry_of(entry_item(entry)) for entry in decision.entries]
    ana_entry, ben_entry = entries
    after = (ben.after(ben_entry), ana.after(ana_entry))
    for account in after:
        assert account_of(account_item(account)) == account
    return *after, entries


@given(accounts("ben"), accounts("ana"))
def test_a_merge_makes_and_loses_nothing_and_nets_debt_earliest_first(
    ben: Account, ana: Account
) -> None:
    ben_after, ana_after, entries = merged(ben, ana)

    def total(account: Account) -> int:
        return account.available + account.pending_points + account.held - account.debt

    assert sum(entry.points for entry in entries) == 0
    assert total(ben_after) == 0
    assert total(ana_after) == total(ben) + total(ana)
    assert (ben_after.lots, ben_after.pending, ben_after.debt) == ((), (), 0)
    owed = ben.debt + ana.debt
    together: dict[int, int] = {}
    for end, points in (*ben.lots, *ana.lots):
        together[end] = together.get(end, 0) + points
    for end in sorted(together):
        paid = min(owed, together[end])
        together[end] -= paid
        owed -= paid
    assert dict(ana_after.lots) == {end: points for end, points in together.items() if points}
    assert ana_after.debt == owed
    assert ana_after.pending_points == ben.pending_points + ana.pending_points
    assert ana_after.lifetime == ben.lifetime + ana.lifetime
    assert entries[0].recorded_at == entries[1].recorded_at


@given(accounts("ben"), accounts("ana"))
def test_the_higher_tier_is_kept_and_what_counts_adds_up(ben: Account, ana: Account) -> None:
    ben_after, ana_after, _ = merged(ben, ana, tiers={"window": "lifetime", "levels": LEVELS})
    rank = ["", "silver", "gold"]
    qualified = sum(n for _, n in (*ben.qualifying, *ana.qualifying))
    reached = "gold" if qualified >= 500 else "silver" if qualified >= 100 else ""
    reached = reached if ben.qualifying else ""  # nothing has come that could raise ana
    assert ana_after.tier == max(ben.tier, ana.tier, reached, key=rank.index)
    assert sum(n for _, n in ana_after.qualifying) == qualified
    assert (ben_after.qualifying, ben_after.tier, ben_after.tier_until) == ((), "", None)
    assert ben_after.due_on is None


def test_what_counts_goes_into_the_membership_year_of_the_one_who_stays() -> None:
    # The years of ana begin in June, those of ben in November.
    ana = Account(program_id="test", member_id="ana", seq=1, joined_on=day("2024-06-01"))
    ben = Account(
        program_id="test",
        member_id="ben",
        seq=1,
        joined_on=day("2024-11-01"),
        qualifying=((day("2024-11-01"), 40), (day("2025-11-01"), 60)),
    )
    ana = replace(ana, qualifying=((day("2025-06-01"), 50),))
    _, after, _ = merged(ben, ana, tiers={"window": {"membership": "year"}, "levels": LEVELS})
    assert after.qualifying == ((day("2024-06-01"), 40), (day("2025-06-01"), 110))
    assert after.tier == "silver"


def day(text: str) -> int:
    return day_number(datetime.fromisoformat(text).date())


def test_the_tier_of_the_one_who_goes_is_kept_until_its_day() -> None:
    until = TODAY + 40
    ben = Account(program_id="test", member_id="ben", seq=3, tier="gold", tier_until=until)
    ana = Account(program_id="test", member_id="ana", seq=3, tier="silver", tier_until=until + 9)
    terms = {"window": {"rolling": "P60D"}, "downgrade": {"steps": "full"}, "levels": LEVELS}
    _, after, [entry, _] = merged(ben, ana, tiers=terms)
    assert (after.tier, after.tier_until, after.due_on) == ("gold", until, until)
    assert (entry.tier, entry.tier_until) == ("gold", until)


def test_counters_of_windows_that_are_still_current_add_up() -> None:
    visits = token("times", "visit")
    other = token("times", "other")
    ana = Account(
        program_id="test",
        member_id="ana",
        seq=1,
        counters={
            "day": Counts(10, {visits: 1}),
            "week": Counts(5, {visits: 3}),
            "month": Counts(7, {visits: 2}),
        },
        cooldowns={visits: 500, other: 100},
        active_on=TODAY - 2,
    )
    ben = Account(
        program_id="test",
        member_id="ben",
        seq=1,
        counters={
            "day": Counts(10, {visits: 2, other: 4}),
            "week": Counts(4, {visits: 30}),
            "month": Counts(8, {visits: 1}),
            "ever": Counts(0, {other: 6}),
        },
        cooldowns={visits: 300, other: 900},
        active_on=TODAY - 1,
    )
    _, after, _ = merged(ben, ana)
    assert after.counters == {
        "day": Counts(10, {visits: 3, other: 4}),
        "week": Counts(5, {visits: 3}),
        "month": Counts(8, {visits: 1}),
        "ever": Counts(0, {other: 6}),
    }
    assert after.cooldowns == {visits: 500, other: 900}
    assert after.active_on == TODAY - 1


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("ana", "closed", "member_closed"),
        ("ben", "closed", "member_closed"),
        ("ana", "erased", "member_erased"),
        ("ben", "erased", "member_erased"),
    ],
)
def test_who_is_gone_is_merged_with_nobody(who: str, status: Any, code: str) -> None:
    both = {name: Account(program_id="test", member_id=name, seq=1) for name in ("ana", "ben")}
    both[who] = replace(both[who], status=status)
    with pytest.raises(Refusal) as refusal:
        merged(both["ben"], both["ana"])
    assert refusal.value.code == code


# Nothing is paid twice


def claim(rule_id: str, trigger: str) -> dict[str, Any]:
    return {"rule_id": rule_id, "trigger": trigger, "earn": {"points": 100}}


def test_a_first_purchase_is_the_first_of_both(life: Life) -> None:
    life.open("ana", "ben", rules=[claim("first", "first_purchase")])
    assert done(workers.purchase("his", "ben", 1000))["points"] == 100
    done(workers.merge("ben", "ana", "one"))
    for i, member_id in enumerate(("ana", "ben")):
        answer = done(workers.purchase(f"later-{i}", member_id, 1000))
        assert (answer["points"], answer["member_id"]) == (0, "ana")
    assert available("ana") == 100


@pytest.mark.parametrize("merged_on", [0, 12], ids=["on the day", "in the next year"])
@pytest.mark.parametrize("also", [False, True], ids=["", "and something else since"])
def test_a_birthday_is_paid_once_to_both(
    engine: Engine, tables: Tables, merged_on: int, also: bool
) -> None:
    """The birthday of 28 December; ben was paid for it, ana, who is one with him, is not again."""
    life = Life(engine, tables)
    december = 285  # 28 December, counted from 18 March
    yearly = {"rule_id": "any", "trigger": "review", "earn": {"points": 1}, "limits": [
        {"points": 1000, "per": "year"}]}  # fmt: skip
    with life.on(0):
        life.open(rules=[claim("birthday", "birthday"), yearly])
        done(workers.enrol("ben", birthday="1990-12-28"))
        done(workers.enrol("ana"))
    with life.on(december):
        life.sweep()
        assert available("ben") == 100
    with life.on(december + (merged_on and 5)):
        if also:
            for member_id in ("ana", "ben"):
                done(workers.award(f"review-{member_id}", member_id))
        done(workers.merge("ben", "ana", "one"))
        done(workers.change("ana", birthday="1990-12-28"))
        life.sweep()
        assert available("ana") == 100 + 2 * also
        life.accounts()


def test_an_anniversary_is_paid_once_to_both(life: Life) -> None:
    life.open("ana", "ben", rules=[claim("years", "anniversary")])
    with life.on(365):
        done(workers.enrol("cleo"))
        life.sweep()
        assert (available("ana"), available("ben")) == (100, 100)
        # What each was paid before they were one stays.
        done(workers.merge("ben", "ana", "one"))
        life.sweep()
        assert available("ana") == 200
    with life.on(731):
        life.sweep()
        assert available("ana") == 300


def test_an_anniversary_that_the_one_was_paid_the_other_is_not_again(life: Life) -> None:
    life.open("ben", rules=[claim("years", "anniversary")])
    with life.on(2):
        done(workers.enrol("ana"))
    with life.on(365):
        life.sweep()
        done(workers.merge("ben", "ana", "one"))
    with life.on(368):
        life.sweep()
        assert available("ana") == 100


def test_a_profile_is_completed_once(life: Life) -> None:
    life.open("ana", rules=[claim("whole", "profile_completed")])
    whole = {"name": "Ben", "email": "b@example.com", "phone": "+33 123", "birthday": "1990-01-01"}
    done(workers.enrol("ben", **whole))
    assert available("ben") == 100
    done(workers.merge("ben", "ana", "one"))
    done(workers.change("ana", **whole))
    assert available("ana") == 100
    done(workers.change("ana", name="Ana"))
    assert available("ana") == 100


def test_a_referral_is_paid_once_to_both(life: Life) -> None:
    terms = {"referrer_points": 200, "referred_points": 100, "award_on": "first_purchase"}
    life.open("ana", referral=terms)
    code = done(workers.profile("ana"))["referral_code"]
    for member_id in ("ben", "cleo"):
        done(workers.enrol(member_id, referral_code=code))
    assert done(workers.purchase("his", "ben", 1000))["points"] == 110
    done(workers.merge("ben", "cleo", "one"))
    assert done(workers.purchase("hers", "cleo", 1000))["points"] == 10
    assert done(workers.purchase("old id", "ben", 1000))["points"] == 10
    assert available("ana") == 200


def test_a_limit_of_an_older_window_counts_what_both_did_in_it(life: Life) -> None:
    """A late event is counted in its own window, which no account keeps any more."""
    daily = {"rule_id": "r", "trigger": "review", "earn": {"points": 10},
             "frequency": [{"times": 2, "per": "day"}]}  # fmt: skip
    life.open("ana", "ben", rules=[daily])
    done(workers.award("his", "ben"))
    done(workers.award("hers", "ana"))
    with life.on(1):
        for member_id in ("ana", "ben"):
            done(workers.award(f"tomorrow-{member_id}", member_id))
        done(workers.merge("ben", "ana", "one"))
        late = workers.award("late", "ana", occurred_at="2026-03-18T12:00:00Z")
        assert done(late)["points"] == 0
        assert done(workers.award("third", "ana"))["points"] == 0


def test_a_history_is_of_a_member_and_of_all_that_were_merged_into_it() -> None:
    def entry(member_id: str, seq: int, **more: Any) -> Entry:
        return Entry(
            program_id="test",
            member_id=member_id,
            seq=seq,
            partition=f"e#{member_id}-{seq}",
            kind=more.pop("kind", "award"),
            version=1,
            recorded_at=NOW + seq,
            occurred_at=NOW,
            postings=(),
            balance=0,
            **more,
        )

    entries = (
        entry("ana", 3),
        entry("ana", 2, kind="merge", explanation={"m": "ben"}),
        entry("ben", 3, kind="merge"),
        entry("ben", 2, kind="merge", explanation={"m": "cleo"}),
        entry("cleo", 1),
        entry("dan", 1),
    )
    history = History(0, entries)
    assert history.of("ana") == list(entries[:5])
    assert history.of("ben") == list(entries[2:5])
    assert history.of("dan") == [entries[5]]


# The old id


def test_every_route_reaches_the_survivor_under_the_old_id(life: Life) -> None:
    life.open("ana", "ben", "cleo", transfers={"enabled": True})
    done(workers.change("ben", name="Ben", email="ben@example.com"))
    done(workers.change("ana", name="Ana"))
    done(workers.purchase("before", "ben", 5000))
    done(workers.merge("ben", "ana", "one"))
    assert done(workers.purchase("after", "ben", 1000))["member_id"] == "ana"
    assert done(workers.redeem("ben", "pay", points=10))["member_id"] == "ana"
    assert done(workers.adjust("ben", 5, "gift"))["member_id"] == "ana"
    sent = {"from_member_id": "ben", "to_member_id": "cleo", "points": 10}
    transfer = workers.Call(
        "transfer", f"POST {workers.BASE}/transfers", body=sent, headers={"idempotency-key": "t"}
    )
    done(transfer)
    assert available("cleo") == 10
    assert done(workers.balance("ben")) == done(workers.balance("ana"))
    assert done(workers.entries("ben")) == done(workers.entries("ana"))
    assert done(workers.rewards("ben")) == done(workers.rewards("ana"))
    assert done(workers.profile("ben")) == done(workers.profile("ana"))
    assert done(workers.profile("ben"))["name"] == "Ana"
    assert done(workers.change("ben", name="Both"))["member_id"] == "ana"
    assert done(workers.profile("ana"))["name"] == "Both"
    assert done(workers.become("block", "ben"))["member_id"] == "ana"
    assert done(workers.export("ben")) == done(workers.export("ana"))
    assert available("ana") == 45
    life.accounts()


def test_a_check_in_with_the_old_id_counts_towards_the_same_limit(life: Life) -> None:
    life.open("ana", "ben", rules=[claim("visit", "check_in")])
    assert done(workers.check_in("ben", "first"))["member_id"] == "ben"
    done(workers.merge("ben", "ana", "one"))
    assert refused(workers.check_in("ana", "second")) == (409, "limit_reached")
    assert refused(workers.check_in("ben", "third")) == (409, "limit_reached")
    with life.on(1):
        assert done(workers.check_in("ben", "fourth"))["member_id"] == "ana"


def test_a_token_of_the_old_id_reaches_the_survivor_and_nobody_else(life: Life) -> None:
    life.open("ana", "ben", "cleo")
    done(workers.purchase("order", "ana", 1000))
    done(workers.merge("ben", "ana", "one"))
    for call in (workers.balance("ben"), workers.profile("ben"), workers.export("ben")):
        assert done(by_member(call, "ben")) == done(call)
    assert done(by_member(workers.redeem("ben", "pay", points=1), "ben"))["member_id"] == "ana"
    for other in ("ana", "cleo"):
        assert refused(by_member(workers.balance(other), "ben")) == (403, "forbidden")
    cursor = edge.cursor("cleo:")
    for page in (workers.export("ben", cursor=cursor), workers.entries("ben", cursor=cursor)):
        assert refused(by_member(page, "ben")) == (400, "invalid_query")


def test_an_alias_of_an_alias_reaches_the_last_survivor(life: Life) -> None:
    life.open("ana", "ben", "cleo")
    done(workers.purchase("order", "cleo", 1000))
    done(workers.merge("cleo", "ben", "one"))
    done(workers.merge("ben", "ana", "two"))
    assert done(workers.purchase("later", "cleo", 1000))["balance"] == 20
    assert available("cleo") == available("ana") == 20
    # What was merged already stands for its survivor.
    done(workers.enrol("dan"))
    answer = done(workers.merge("cleo", "dan", "three"))
    assert (answer["merged_member_id"], answer["balance"]) == ("ana", 20)
    assert {available(m) for m in ("ana", "ben", "cleo", "dan")} == {20}
    exported = done(workers.export("ana"))
    assert set(exported["merged_member_ids"]) == {"ana", "ben", "cleo"}
    assert sum(row["points"] for row in exported["entries"]["items"]) == 20
    life.accounts()


def test_the_past_of_both_ids_is_answered_as_it_was(life: Life) -> None:
    life.open("ana", "ben")
    done(workers.purchase("his", "ben", 5000))
    done(workers.purchase("hers", "ana", 1000))
    then = {m: done(workers.balance(m)) for m in ("ana", "ben")}
    with life.on(1):
        done(workers.merge("ben", "ana", "one"))
        now = done(workers.balance("ana"))
    with life.on(2):
        done(workers.purchase("more", "ana", 1000))
        for member_id, balance in then.items():
            for as_of in (balance["as_of"], "2026-03-19T11:59:59.999Z"):
                asked = done(workers.balance(member_id, as_of=as_of))
                assert asked == balance | {"as_of": asked["as_of"]}
            assert done(workers.balance(member_id, as_of=now["as_of"])) == now


def test_a_refund_of_an_order_of_the_old_id_is_taken_from_the_survivor(life: Life) -> None:
    life.open("ana", "ben", refunds={"shortfall": "debt"})
    done(workers.purchase("order", "ben", 3000, 2000))
    done(workers.reverse("order", "first", lines=[{"line_id": "1"}]))
    done(workers.merge("ben", "ana", "one"))
    answer = done(workers.reverse("order", "second"))
    assert (answer["member_id"], answer["points"]) == ("ana", 30)
    assert available("ana") == 0
    assert life.accounts()["ana"].lifetime == 0


def test_what_expired_after_the_merge_is_not_taken_twice(life: Life) -> None:
    life.open("ana", "ben", expiry=[{"after": "P1M"}], refunds={"shortfall": "debt"})
    done(workers.purchase("order", "ben", 5000))
    done(workers.merge("ben", "ana", "one"))
    with life.on(40):
        done(workers.purchase("later", "ana", 3000))
        answer = done(workers.reverse("order", "return"))
        assert (answer["points"], answer["expired_points"]) == (0, 50)
        assert available("ana") == 30


def test_a_refund_takes_qualifying_points_from_where_the_merge_put_them(life: Life) -> None:
    terms = {"window": {"membership": "year"}, "levels": LEVELS}
    life.open("ana", tiers=terms)
    with life.on(40):
        done(workers.enrol("ben"))
        done(workers.purchase("order", "ben", 50_000))
        assert done(workers.balance("ben"))["tier"]["id"] == "gold"
        done(workers.merge("ben", "ana", "one"))
        assert done(workers.balance("ana"))["tier"]["id"] == "gold"
        done(workers.reverse("order", "return"))
        shown = done(workers.balance("ana"))
        assert (shown["qualifying_points"], shown["tier"]["id"]) == (0, "basic")


ON_PURCHASE = {"referrer_points": 200, "referred_points": 100, "award_on": "first_purchase"}


def test_the_code_of_the_old_id_brings_friends_to_the_survivor(life: Life) -> None:
    life.open("ana", "ben", referral=ON_PURCHASE)
    code = done(workers.profile("ben"))["referral_code"]
    done(workers.enrol("early", referral_code=code))
    done(workers.merge("ben", "ana", "one"))
    done(workers.enrol("late", referral_code=code))
    for friend in ("early", "late"):
        assert done(workers.purchase(f"order-{friend}", friend, 1000))["points"] == 110
    assert available("ana") == 400
    done(workers.reverse("order-early", "return"))
    assert available("ana") == 200
    life.accounts()


def test_who_became_one_with_the_referrer_is_paid_no_referral(life: Life) -> None:
    life.open("ana", referral=ON_PURCHASE)
    code = done(workers.profile("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    done(workers.merge("ana", "ben", "one"))
    assert done(workers.purchase("order", "ben", 1000))["points"] == 10
    assert available("ana") == 10


def test_a_refund_takes_both_sides_from_who_was_referred_by_himself(life: Life) -> None:
    life.open("ana", referral=ON_PURCHASE)
    code = done(workers.profile("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    done(workers.purchase("order", "ben", 1000))
    done(workers.merge("ben", "ana", "one"))
    assert available("ana") == 310
    assert done(workers.reverse("order", "return"))["points"] == 310
    assert life.accounts()["ana"].lifetime == 0


@pytest.mark.parametrize("gone", ["close", "erase"])
def test_who_has_left_is_paid_for_nobody(life: Life, gone: str) -> None:
    life.open("ana", referral=ON_PURCHASE)
    code = done(workers.profile("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    done(workers.erase("ana") if gone == "erase" else workers.become("close", "ana"))
    assert done(workers.purchase("order", "ben", 1000))["points"] == 10


def test_a_refund_of_a_friends_order_works_after_the_referrer_was_erased(life: Life) -> None:
    life.open("ana", referral=ON_PURCHASE)
    code = done(workers.profile("ana"))["referral_code"]
    done(workers.enrol("ben", referral_code=code))
    done(workers.purchase("order", "ben", 1000))
    done(workers.erase("ana"))
    assert done(workers.reverse("order", "return"))["points"] == 110
    life.accounts()


# Races and faults


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict", "server error"])
def test_a_lost_answer_merges_once(life: Life, fault: Fault) -> None:
    life.open("ana", "ben")
    done(workers.purchase("order", "ben", 1000))
    life.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.merge("ben", "ana", "one"))["balance"] == 10
    life.faults.heal()
    assert life.accounts()["ana"].balance == 10


@pytest.mark.parametrize("who", ["ana", "ben"])
def test_an_award_between_look_and_write_is_not_lost(life: Life, who: str) -> None:
    life.open("ana", "ben")
    between = workers.meanwhile(workers.purchase("order", who, 1000))
    life.faults.follow({0: between}, of="TransactWriteItems")
    assert done(workers.merge("ben", "ana", "one"))["balance"] == 10


def test_a_merge_between_look_and_write_sends_an_award_to_the_survivor(life: Life) -> None:
    life.open("ana", "ben")
    between = workers.meanwhile(workers.merge("ben", "ana", "one"))
    life.faults.follow({0: between}, of="TransactWriteItems")
    assert done(workers.purchase("order", "ben", 1000))["member_id"] == "ana"
    assert life.accounts()["ana"].balance == 10


def test_merges_in_a_circle_at_once_leave_one_member_with_everything(life: Life) -> None:
    """Eight members, each merged into the next while all go on shopping."""
    names = [f"m{i}" for i in range(8)]
    life.open(*names)
    scripts: list[list[workers.Call]] = []
    for i, name in enumerate(names):
        scripts.append([workers.merge(name, names[(i + 1) % 8], f"merge-{i}")])
        scripts.append([workers.purchase(f"{name}-{n}", name, 1000) for n in range(3)])
    scripts += [[] for _ in range(CLIENTS - len(scripts))]
    with Clients() as clients:
        played = clients.play(life.endpoint, life.tables, scripts)
    merges = [script[0] for script in played.answers[:16:2]]
    assert sorted(answer.status for answer in merges) == [201] * 7 + [409]
    assert [a.body["code"] for a in merges if a.status == 409] == ["same_member"]
    members = life.accounts()
    [alone] = [account for account in members.values() if not account.merged_into]
    assert alone.balance == 8 * 3 * 10
    assert {available(name) for name in names} == {240}


def test_a_merge_costs_at_most_15_write_units(life: Life) -> None:
    life.open("ana", "ben")
    done(workers.purchase("order", "ben", 1000))
    with meter.measure() as used:
        done(workers.merge("ben", "ana", "one"))
    # Two accounts, two entries with their index rows, the profile that goes, the alias.
    assert used.write <= 15
