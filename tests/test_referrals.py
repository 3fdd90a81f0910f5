"""Friends brought along: both sides are paid once, nobody brings themselves, and a purchase that is
taken back takes back what it paid to both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty import earning, edge
from loyalty.commands import Event
from loyalty.dates import milliseconds
from loyalty.decisions import Decision, Guard, event_partition
from loyalty.explanations import explain
from loyalty.limits import ONCE
from loyalty.model import Account, Count, Known
from loyalty.referrals import same_person
from loyalty.rules import Rulebook
from loyalty.validation import parse
from loyalty.wire import account_item
from tests import workers
from tests.programs import shop, smallest
from tests.workers import NOON, Books, Call, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
TERMS = {"referrer_points": 200, "referred_points": 100}
ON_PURCHASE = TERMS | {"award_on": "first_purchase", "min_amount": 1000}
PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}


class House(workers.House):
    """The shop's handlers on fresh tables; ana is enrolled, and `code` is hers."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        self.code = ""

    def open(self, referral: dict[str, Any], **more: Any) -> None:
        """Publish a program with these terms, and enrol ana."""
        done(workers.publish(program(referral, **more)))
        self.code = done(workers.enrol("ana", email="Ana.Maria+shop@Example.com"))["referral_code"]

    def bring(self, member_id: str, **more: Any) -> dict[str, Any]:
        """Enrol a member whom ana brought."""
        answer: dict[str, Any] = done(workers.enrol(member_id, referral_code=self.code, **more))
        return answer

    def balances(self) -> dict[str, int]:
        """Every member's points with pending ones, after all entries have been found true."""
        members = workers.proved(self.direct, self.tables)
        return {
            member_id: account.available + account.pending_points - account.debt
            for member_id, (account, _) in members.items()
        }


def program(referral: dict[str, Any], **more: Any) -> dict[str, Any]:
    document = shop(**({"rules": [PER_EURO], "limits": [], "rewards": []} | more))
    return document | {"referral": referral}


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """A house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        yield house


def buy(event_id: str, member_id: str, amount: int = 1000, **more: Any) -> Call:
    return workers.purchase(event_id, member_id, amount, **more)


# What is paid, and when


def test_registration_pays_both_sides_at_once(house: House) -> None:
    house.open(TERMS)
    answer = house.bring("ben")
    assert (answer["points"], answer["balance"]) == (100, 100)
    assert house.balances() == {"ana": 200, "ben": 100}
    assert done(buy("order", "ben"))["points"] == 10
    assert house.balances() == {"ana": 200, "ben": 110}


def test_the_first_purchase_of_enough_pays_both_sides_and_no_later_one(house: House) -> None:
    house.open(ON_PURCHASE)
    assert house.bring("ben")["points"] == 0
    assert done(buy("small", "ben", 999))["points"] == 9
    assert house.balances() == {"ana": 0, "ben": 9}
    paid = done(buy("enough", "ben", 1000))
    assert (paid["points"], paid["balance"]) == (110, 119)
    assert done(buy("later", "ben", 5000))["points"] == 50
    assert house.balances() == {"ana": 200, "ben": 169}


@pytest.mark.parametrize(
    ("terms", "balances"),
    [
        ({"referrer_points": 200}, {"ana": 200, "ben": 0}),
        ({"referred_points": 100}, {"ana": 0, "ben": 100}),
    ],
    ids=["the referrer", "the referred"],
)
def test_one_side_alone_can_be_paid(
    house: House, terms: dict[str, Any], balances: dict[str, int]
) -> None:
    house.open(terms)
    house.bring("ben")
    assert house.balances() == balances


def test_who_came_alone_brings_nothing_to_anybody(house: House) -> None:
    house.open(ON_PURCHASE)
    done(workers.enrol("ben"))
    assert done(buy("order", "ben", 5000))["points"] == 50
    assert house.balances() == {"ana": 0, "ben": 50}


def test_the_code_is_found_in_any_case(house: House) -> None:
    house.open(TERMS)
    done(workers.enrol("ben", referral_code=house.code.lower()))
    assert house.balances() == {"ana": 200, "ben": 100}


def test_repeats_pay_nothing_more(house: House) -> None:
    house.open(ON_PURCHASE)
    first = house.bring("ben")
    paid = done(buy("order", "ben"))
    before = Books.read(house.direct, house.tables)
    assert house.bring("ben") == first
    assert done(buy("order", "ben")) == paid
    assert Books.read(house.direct, house.tables) == before


def test_both_sides_wait_for_the_pending_period(house: House) -> None:
    house.open(ON_PURCHASE, pending={"referral": "P14D"})
    house.bring("ben")
    paid = done(buy("order", "ben"))
    assert (paid["points"], paid["pending_points"], paid["balance"]) == (110, 100, 10)
    for who, available, pending in (("ana", 0, 200), ("ben", 10, 100)):
        balance = done(workers.balance(who))
        assert (balance["available"], balance["pending"]) == (available, pending)
    with house.on(14):
        for who, available in (("ana", 200), ("ben", 110)):
            balance = done(workers.balance(who))
            assert (balance["available"], balance["pending"]) == (available, 0)
    assert house.balances() == {"ana": 200, "ben": 110}


def test_history_and_answer_explain_the_referral(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    paid = done(buy("order", "ben"))
    rows = {row["rule_id"]: row for row in paid["explanation"]}
    assert rows["purchase"]["points"] == 10
    assert (rows["referral"]["fired"], rows["referral"]["points"]) == (True, 100)
    assert paid["desired_points"] == 110
    mine = [r for r in done(workers.entries("ben"))["items"] if r["event_id"] == "order"]
    assert sorted(row["points"] for row in mine) == [10, 100]
    assert all(row["explanation"] == paid["explanation"] for row in mine)
    [row] = [r for r in done(workers.entries("ana"))["items"] if r["points"]]
    assert (row["kind"], row["points"], row["event_id"]) == ("referral", 200, "order")
    [explained] = row["explanation"]
    assert (explained["rule_id"], explained["fired"]) == ("referral", True)
    assert explained["points"] == 200


# Limits


def test_a_referrer_is_paid_so_often_in_a_window_and_so_often_ever(house: House) -> None:
    limits = [{"times": 2, "per": "month"}, {"times": 3, "per": "ever"}]
    house.open(TERMS | {"limits": limits})
    found = []
    # 18, 28 and 31 March, 1, 2 and 30 April.
    for i, day in enumerate([0, 10, 13, 14, 15, 43]):
        with house.on(day):
            house.bring(f"friend-{i}")
            found.append(house.balances()["ana"])
    assert found == [200, 400, 400, 600, 600, 600]


def test_a_limit_that_took_effect_with_a_new_version_counts_what_was_paid_before(
    house: House,
) -> None:
    """Counters of all time are kept whether a rule asks for them or not."""
    monthly = {"times": 5, "per": "month"}
    house.open(TERMS | {"limits": [monthly, {"times": 9, "per": "ever"}]})
    house.bring("ben")
    terms = TERMS | {"limits": [monthly, {"times": 1, "per": "ever"}]}
    done(workers.publish(program(terms), 1))
    with house.on(1):
        house.bring("cleo")
    assert house.balances()["ana"] == 200


# occurred_at picks them.
def test_the_window_of_a_late_purchase_is_that_of_the_purchase(house: House) -> None:
    terms = TERMS | {"award_on": "first_purchase", "limits": [{"times": 1, "per": "day"}]}
    house.open(terms)
    house.bring("ben")
    house.bring("cleo")
    with house.on(1):
        done(buy("today", "cleo"))
        done(buy("yesterday", "ben", occurred_at="2026-03-18T12:00:00Z"))
    assert house.balances()["ana"] == 400


# Who may not


@pytest.mark.parametrize(
    "more",
    [
        {"email": "ana.maria+shop@example.com"},
        {"email": "ANAMARIA@EXAMPLE.COM"},
        {"email": "a.n.a.maria+again@example.com"},
        {"email": "other@example.com", "phone": "+33 1 23-45-67-89"},
        {"phone": "+33123456789"},
    ],
)
def test_nobody_refers_themselves_by_another_name(house: House, more: dict[str, str]) -> None:
    house.open(TERMS)
    done(workers.change("ana", phone="+33 (1) 23 45 67 89"))
    before = Books.read(house.direct, house.tables)
    answer = send(workers.enrol("anna", referral_code=house.code, **more))
    assert (answer.status, answer.body["code"]) == (409, "self_referral")
    assert Books.read(house.direct, house.tables) == before


def test_who_only_lives_next_door_may_be_referred(house: House) -> None:
    house.open(TERMS)
    house.bring("ben", email="ana.maria@example.org", phone="+33 1 23 45 67 80")
    assert house.balances() == {"ana": 200, "ben": 100}


def test_the_same_member_cannot_come_again_by_their_own_code(house: House) -> None:
    house.open(TERMS)
    answer = send(workers.enrol("ana", referral_code=house.code))
    assert answer.status in (409, 422)
    assert answer.body["code"] in ("self_referral", "member_exists")
    assert house.balances() == {"ana": 0}


names = st.text("abcxyz", min_size=1, max_size=8)


@given(names, st.text("abc.", max_size=4), st.integers(0, 7), st.booleans())
def test_an_address_is_the_same_in_any_case_with_any_dots_and_tag(
    name: str, tag: str, dot: int, upper: bool
) -> None:
    written = f"{name[:dot]}.{name[dot:]}+{tag}@mail.example"
    written = written.upper() if upper else written
    assert same_person({"email": f"{name}@mail.example"}, written, None)
    assert same_person({"email": written}, f"{name}@mail.example", None)
    assert not same_person({"email": f"{name}@mail.example"}, f"q{written}", None)
    assert not same_person({}, written, None)
    assert not same_person({"email": written}, None, None)


def test_an_unknown_code_is_422_and_enrols_nobody(house: House) -> None:
    house.open(TERMS)
    before = Books.read(house.direct, house.tables)
    answer = send(workers.enrol("ben", referral_code="NOBODYS1"))
    assert (answer.status, answer.body["code"]) == (422, "referral_code_unknown")
    assert Books.read(house.direct, house.tables) == before


def test_a_repeated_enrolment_is_a_replay_whatever_the_referrers_profile_says_now(
    house: House,
) -> None:
    house.open(TERMS)
    call = workers.enrol("ben", referral_code=house.code, email="family@example.com")
    first = send(call)
    done(workers.change("ana", email="family@example.com"))
    again = send(call)
    assert again.body == first.body
    assert (again.status, again.replayed) == (201, True)


def test_who_referred_each_other_get_nothing() -> None:
    """A circle cannot be made by enrolling; where a ledger says so, it does not pay."""
    document = smallest(rules=[PER_EURO], referral=ON_PURCHASE)
    rulebook = Rulebook(parse(document), 1)
    ana = Account(program_id="test", member_id="ana", seq=1, referrer="ben")
    ben = Account(program_id="test", member_id="ben", seq=1, referrer="ana")
    known = Known({"ana": ana, "ben": ben})
    purchase = {"currency": "EUR", "lines": [{"line_id": "1", "quantity": 1, "amount": 5000}]}
    event = Event.model_validate(
        {"event_id": "order", "type": "purchase", "member_id": "ben", "purchase": purchase}
    )
    guard = Guard(event_partition("order"), "0", b"")
    circle = earning.award(rulebook, known, guard, event, milliseconds(NOON))
    assert [entry.points for entry in circle.entries] == [50]
    straight = Known(
        {"ana": replace(ana, referrer=""), "ben": ben}, profiles={"ana": {}, "ben": {}}
    )
    paid = earning.award(rulebook, straight, guard, event, milliseconds(NOON))
    assert [entry.points for entry in paid.entries] == [150, 200]


SAME = {"email": "ana.maria@example.com"}
"""Ana's address, written otherwise."""


@pytest.mark.parametrize("who", ["ben", "ana"])
@pytest.mark.parametrize(
    ("enrolled", "changed"),
    [
        ({"ana": {}, "ben": {}}, {"ben": SAME, "ana": {"email": "BEN@example.com"}}),
        (
            {"ana": {"phone": "+33 1 23"}, "ben": {"phone": "+33 1 45"}},
            {"ben": {"phone": "+33-123"}, "ana": {"phone": "+33 (145)"}},
        ),
    ],
    ids=["address", "number"],
)
def test_who_becomes_the_referrer_after_enrolling_is_paid_nothing_for_it(
    house: House, who: str, enrolled: dict[str, Any], changed: dict[str, Any]
) -> None:
    """By either profile, and for ever: to change it back does not help."""
    house.open(ON_PURCHASE)
    house.bring("ben", **{"email": "ben@example.com"} | enrolled["ben"])
    if enrolled["ana"]:
        done(workers.change("ana", **enrolled["ana"]))
    before = done(workers.profile(who))
    done(workers.change(who, **changed[who]))
    paid = done(buy("order", "ben"))
    assert (paid["points"], [row["rule_id"] for row in paid["explanation"]]) == (10, ["purchase"])
    assert house.balances() == {"ana": 0, "ben": 10}
    done(workers.change(who, **{name: before.get(name) for name in ("email", "phone")}))
    assert done(buy("later", "ben"))["points"] == 10
    assert house.balances() == {"ana": 0, "ben": 20}


def test_what_was_compared_stands_neither_in_accounts_nor_in_the_ledger(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben", email="ben@example.com")
    done(workers.change("ben", **SAME))
    done(buy("order", "ben"))
    books = house.books()
    assert "example.com" not in str([books.accounts, books.ledger])
    assert house.accounts()["ben"].referrer == ""


def test_two_who_brought_each_other_under_ids_that_were_merged_get_nothing(house: House) -> None:
    """Zoe was brought by ben, and yan by ana; then ana becomes zoe, and ben yan."""
    house.open(ON_PURCHASE)
    code = done(workers.enrol("ben"))["referral_code"]
    done(workers.enrol("zoe", referral_code=code))
    house.bring("yan")
    done(workers.merge("ana", "zoe", "one"))
    done(workers.merge("ben", "yan", "two"))
    for who in ("zoe", "yan"):
        assert done(buy(f"order-{who}", who))["points"] == 10
    house.accounts()
    assert house.balances() == {"ana": 0, "ben": 0, "zoe": 10, "yan": 10}


def brought(
    left: int | None = None, rules: tuple[dict[str, Any], ...] = (PER_EURO,), **terms: Any
) -> Decision:
    """The decision on the purchase with which ana is paid for ben; `left` is in the budget."""
    budget = {} if left is None else {"budget": {"points": 1000}}
    document = smallest(rules=list(rules), referral=ON_PURCHASE | terms, **budget)
    rulebook = Rulebook(parse(document), 1)
    ana = Account(program_id="test", member_id="ana", seq=1)
    ben = Account(program_id="test", member_id="ben", seq=1, referrer="ana")
    known = Known(
        {"ana": ana, "ben": ben},
        budgets={} if left is None else {"program": left},
        profiles={"ana": {}, "ben": {}},
    )
    purchase = {"currency": "EUR", "lines": [{"line_id": "1", "quantity": 1, "amount": 5000}]}
    event = Event.model_validate(
        {"event_id": "order", "type": "purchase", "member_id": "ben", "purchase": purchase}
    )
    guard = Guard(event_partition("order"), "0", b"print")
    return earning.award(rulebook, known, guard, event, milliseconds(NOON))


def test_the_referrers_entry_stands_under_the_key_of_the_event_and_is_activity() -> None:
    own, other = brought().entries
    assert (other.partition, other.sort, other.fingerprint) == (own.partition, "referrer", b"print")
    assert (other.kind, other.reason, other.lifetime) == ("referral", "referral", 200)
    assert other.active_on == own.active_on == 20530


@pytest.mark.parametrize(
    ("left", "rules", "points", "told"),
    [
        (None, (PER_EURO,), (150, 200), {"r": "+", "g": [[0, 50, 50]], "f": [100, 100]}),
        (None, (), (100, 200), {"r": "", "f": [100, 100]}),
        (
            None,
            (PER_EURO | {"limits": [{"points": 20, "per": "transaction"}]},),
            (120, 200),
            {"r": "+", "g": [[0, 50, 20]], "l": [[0, 0]], "d": 150, "f": [100, 100]},
        ),
        (1000, (), (100, 200), {"r": "", "f": [100, 100], "b": {"program": 300}}),
        (300, (), (100, 200), {"r": "", "f": [100, 100], "b": {"program": 300}}),
        (
            350,
            (PER_EURO,),
            (150, 200),
            {"r": "+", "g": [[0, 50, 50]], "f": [100, 100], "b": {"program": 350}},
        ),
        (
            200,
            (),
            (100, 100),
            {
                "r": "",
                "f": [100, 100],
                "b": {"program": 200},
                "u": {"program": 200},
                "l": [[-3, 0]],
            },
        ),
        (
            60,
            (),
            (60, 0),
            {
                "r": "",
                "f": [60, 100],
                "b": {"program": 60},
                "u": {"program": 60},
                "l": [[-3, 0]],
                "d": 100,
            },
        ),
        (
            20,
            (PER_EURO,),
            (20, 0),
            {
                "r": "+",
                "g": [[0, 50, 20]],
                "f": [0, 100],
                "b": {"program": 20},
                "u": {"program": 20},
                "l": [[-3, 0]],
                "d": 150,
            },
        ),
        (
            -5,
            (),
            (0, 0),
            {"r": "", "f": [0, 100], "u": {"program": 0}, "l": [[-3, 0]], "d": 100},
        ),
    ],
)
def test_what_both_sides_get_is_told_and_drawn_in_one(
    left: int | None,
    rules: tuple[dict[str, Any], ...],
    points: tuple[int, int],
    told: dict[str, Any],
) -> None:
    decision = brought(left, rules)
    own, other = decision.entries
    assert (own.points, other.points) == points
    assert own.lifetime == points[0]
    assert own.explanation == told
    assert decision.draws == told.get("b", {})
    assert Count("ever", 0, ONCE["referral"], 1) in own.counts


@pytest.mark.parametrize(
    ("told", "fired", "reason"), [([60, 100], True, "granted"), ([0, 100], False, "limit")]
)
def test_a_referral_is_explained_beside_the_rules(
    told: list[int], fired: bool, reason: str
) -> None:
    rulebook = Rulebook(parse(smallest(rules=[PER_EURO], referral=ON_PURCHASE)), 1)
    rows = explain(rulebook, {"r": "+", "g": [[0, 5, 5]], "f": told}, "purchase", 20530)
    assert [row["rule_id"] for row in rows] == ["purchase", "referral"]
    assert rows[1] == {
        "rule_id": "referral",
        "name": "Referral",
        "fired": fired,
        "reason": reason,
        "points": told[0],
        "desired_points": 100,
        "factors": [],
    }


def test_who_gets_nothing_was_not_active() -> None:
    own, other = brought(referrer_points=0).entries
    assert (own.points, other.points) == (150, 0)
    assert (other.active_on, other.lifetime) == (None, 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("+33 (1) 23 45", "+33-1-2345", True),
        ("+33 1 23 45", "+33 1 23 46", False),
        ("0", "00", False),
        ("+33 1 23 45", "0033 12345", True),
        ("+33 1 23 45", "33 12345", True),
        (None, "+33 1 23 45", False),
    ],
)
def test_a_number_is_the_same_however_it_is_punctuated(
    one: str | None, other: str, same: bool
) -> None:
    assert same_person({"phone": one}, "someone@example.com", other) is same
    assert same_person({"phone": other}, None, one) is same


# Taken back


def test_a_refund_of_the_purchase_takes_both_sides_back(house: House) -> None:
    house.open(ON_PURCHASE, pending={"referral": "P14D"})
    house.bring("ben")
    done(buy("order", "ben"))
    assert house.balances() == {"ana": 200, "ben": 110}
    first = done(workers.reverse("order", "return"))
    assert first["points"] == 110
    assert house.balances() == {"ana": 0, "ben": 0}
    assert done(workers.reverse("order", "return")) == first
    assert send(workers.reverse("order", "again")).body["code"] == "more_than_bought"
    assert house.balances() == {"ana": 0, "ben": 0}
    for who in ("ana", "ben"):
        assert done(workers.balance(who))["lifetime_points"] == 0


def test_what_the_referrer_has_spent_becomes_a_debt(house: House) -> None:
    house.open(ON_PURCHASE, refunds={"shortfall": "debt"})
    house.bring("ben")
    done(buy("order", "ben"))
    done(workers.redeem("ana", "pay", points=150))
    done(workers.reverse("order", "return"))
    assert house.balances() == {"ana": -150, "ben": 0}


def test_a_refund_that_ends_the_referral_leaves_the_rest_of_the_purchase(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    done(buy("order", "ben", 1000))
    done(workers.reverse("order", "half", amount=500))
    assert house.balances() == {"ana": 0, "ben": 5}
    done(workers.reverse("order", "more", amount=300))
    assert house.balances() == {"ana": 0, "ben": 2}


@pytest.mark.parametrize("spends", [0, 200, 250, 310])
def test_what_referrer_and_referred_were_given_is_taken_from_the_member_they_became(
    house: House, spends: int
) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    done(buy("order", "ben"))
    done(workers.merge("ana", "ben", "one"))
    if spends:
        done(workers.redeem("ben", "spent", points=spends))
    taken = done(workers.reverse("order", "return"))
    account, entries = workers.proved(house.direct, house.tables)["ben"]
    last = entries[-1]
    assert (account.balance, account.lifetime, last.reason) == (0, 0, "order")
    assert (last.lifetime, last.points) == (-310, spends - 310)
    assert last.explanation.get("o", 0) == spends
    assert sum(points for _, points in last.explanation["t"]) == 110
    assert taken["points"] == 310 - spends


def test_what_both_were_given_and_has_expired_is_not_taken_again(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    done(buy("order", "ben"))
    done(workers.merge("ana", "ben", "one"))
    with house.on(500):
        done(buy("later", "ben", 50_000))
        done(workers.reverse("order", "return"))
        account, entries = workers.proved(house.direct, house.tables)["ben"]
    assert account.balance == 500
    assert sum(points for _, points in entries[-1].explanation["x"]) == 310


def test_only_the_referrers_part_may_have_expired(house: House) -> None:
    for_ever = PER_EURO | {"expiry": []}
    house.open({**ON_PURCHASE, "referred_points": 0}, rules=[for_ever])
    house.bring("ben")
    done(buy("order", "ben"))
    done(workers.merge("ana", "ben", "one"))
    with house.on(500):
        done(workers.reverse("order", "return"))
        account, entries = workers.proved(house.direct, house.tables)["ben"]
    assert (account.balance, entries[-1].points) == (0, -10)
    assert sum(points for _, points in entries[-1].explanation["x"]) == 200


def test_a_refund_of_another_purchase_leaves_the_referral(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    done(buy("order", "ben"))
    done(buy("other", "ben"))
    done(workers.reverse("other", "return"))
    assert house.balances() == {"ana": 200, "ben": 110}


def test_the_programs_budget_pays_both_sides_and_gets_both_back(house: House) -> None:
    house.open(ON_PURCHASE, budget={"points": 1000})
    house.bring("ben")
    done(buy("order", "ben"))
    assert workers.left("program") == 690
    done(workers.reverse("order", "return"))
    assert workers.left("program") == 1000


@pytest.mark.parametrize("budget", [300, 1000])
def test_registration_pays_both_sides_to_the_budgets_last_point(house: House, budget: int) -> None:
    house.open(TERMS, budget={"points": budget})
    house.bring("ben")
    assert house.balances() == {"ana": 200, "ben": 100}
    assert workers.left("program") == budget - 300


@pytest.mark.parametrize(
    ("budget", "balances"),
    [
        (310, {"ana": 200, "ben": 110}),
        (250, {"ana": 140, "ben": 110}),
        (60, {"ana": 0, "ben": 60}),
        (7, {"ana": 0, "ben": 7}),
    ],
)
def test_a_referral_gives_no_more_than_the_programs_budget_has(
    house: House, budget: int, balances: dict[str, int]
) -> None:
    house.open(ON_PURCHASE, budget={"points": budget})
    house.bring("ben")
    paid = done(buy("order", "ben"))
    assert house.balances() == balances
    assert workers.left("program") == 0
    assert (paid["desired_points"], paid["points"]) == (110, balances["ben"])
    assert paid["limited_by"] == ([] if budget == 310 else [{"scope": "budget"}])


# Cost and races


@pytest.mark.parametrize(
    ("referral", "more", "units"),
    [
        (ON_PURCHASE, {}, 10),
        (ON_PURCHASE | {"limits": [{"times": 5, "per": "month"}]}, {}, 10),
        (ON_PURCHASE, {"pending": {"referral": "P14D"}}, 10),
        (ON_PURCHASE, {"budget": {"points": 10_000}}, 12),
    ],
    ids=["plain", "limited", "pending", "budget"],
)
def test_a_referral_costs_ten_write_units(
    house: House, referral: dict[str, Any], more: dict[str, Any], units: int
) -> None:
    house.open(referral, **more)
    done(buy("before", "ana"))  # a budget is made at its first draw
    house.bring("ben")
    with meter.measure() as used:
        done(buy("order", "ben"))
    assert used.write == units
    # Both accounts, and both profiles once; a budget.
    assert used.read <= (3 if units == 10 else 4)
    with meter.measure() as used:
        done(buy("later", "ben"))
    assert used.write == units - 5


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_pays_once(house: House, fault: Any) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(buy("order", "ben"))["points"] == 110
    house.faults.heal()
    assert house.balances() == {"ana": 200, "ben": 110}


def test_two_purchases_at_once_pay_once(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    house.faults.follow({0: workers.meanwhile(buy("other", "ben"))}, of="TransactWriteItems")
    assert done(buy("order", "ben"))["points"] == 10
    assert house.balances() == {"ana": 200, "ben": 120}


def test_the_referrer_moves_between_look_and_write(house: House) -> None:
    house.open(ON_PURCHASE | {"limits": [{"times": 1, "per": "ever"}]})
    house.bring("ben")
    house.bring("cleo")
    house.faults.follow({0: workers.meanwhile(buy("other", "cleo"))}, of="TransactWriteItems")
    assert done(buy("order", "ben"))["points"] == 110
    assert house.balances() == {"ana": 200, "ben": 110, "cleo": 110}


def test_a_referrer_who_is_gone_is_no_obstacle(house: House) -> None:
    house.open(ON_PURCHASE)
    house.bring("ben")
    ben = edge.store().member("shop", "ben")
    stranger = replace(ben, referrer="nobody")
    house.direct.put_item(TableName=house.tables.accounts, Item=account_item(stranger))
    assert done(buy("order", "ben"))["points"] == 10


def test_16_purchases_of_four_friends_at_once_pay_each_friend_once_and_the_limit_holds(
    house: House,
) -> None:
    house.open(ON_PURCHASE | {"limits": [{"times": 3, "per": "month"}]})
    friends = [f"friend-{i}" for i in range(4)]
    for friend in friends:
        house.bring(friend)
    # One client in four buys, the others only look on.
    orders = [[buy(f"order-{i}", friends[i % 4])] for i in range(16)]
    scripts: list[list[Call]] = [orders[i // 4] if i % 4 == 0 else [] for i in range(CLIENTS)]
    with Clients() as clients:
        played = clients.play(house.endpoint, house.tables, scripts)
    assert [answer.status for answer in played.flat] == [201] * 16
    each = 16 // 4 * 10 + 100
    assert house.balances() == {"ana": 600, **dict.fromkeys(friends, each)}
