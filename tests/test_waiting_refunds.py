"""A refund that comes before its purchase waits for it, and is carried out with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from award import WAITING_REFUNDS
from loyalty import earning
from loyalty.commands import Event, Redemption, Reversal
from loyalty.dates import milliseconds
from loyalty.decisions import Decision, Guard, stock_id
from loyalty.model import NEVER, Account, History, Known, Waiting
from loyalty.redeeming import Spending, redeem
from loyalty.refunds import Given, reverse
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests import workers
from tests.programs import shop, smallest
from tests.strategies import SECRETS
from tests.workers import NOON, Books, Clients, done, send
from tools import meter
from tools.engine import Engine, Tables

PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}
FIRST = {"rule_id": "first", "trigger": "first_purchase", "earn": {"points": 30}}


class House(workers.House):
    """The shop's handlers on fresh tables; ana is enrolled."""

    def open(self, **more: Any) -> None:
        document = shop(**({"rules": [PER_EURO], "limits": [], "rewards": []} | more))
        done(workers.publish(document))
        done(workers.enrol("ana"))

    def balance(self) -> int:
        """Ana's points, after all entries have been found true."""
        account, _ = workers.proved(self.direct, self.tables)["ana"]
        return account.balance + account.pending_points


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    house = House(engine, tables)
    with house.on(0):
        yield house


def waits(event_id: str, refund_id: str, **what: Any) -> None:
    answer = send(workers.reverse(event_id, refund_id, **what))
    assert (answer.status, answer.replayed) == (202, False)
    assert answer.body == {"status": "waiting", "event_id": event_id, "refund_id": refund_id}


def test_the_purchase_is_taken_back_as_it_comes(house: House) -> None:
    house.open()
    waits("order", "return")
    answer = done(workers.purchase("order", "ana", 1000, 500))
    assert (answer["points"], answer["reversed_points"], answer["balance"]) == (15, 15, 0)
    assert answer["lots"] == [{"points": 15, "expires_on": answer["lots"][0]["expires_on"]}]
    assert house.balance() == 0
    rows = done(workers.entries("ana"))["items"]
    assert [(row["kind"], row["points"]) for row in rows if row["event_id"] == "order"] == [
        ("reverse", -15),
        ("award", 15),
    ]


def test_a_part_that_came_first_is_taken_and_the_rest_can_follow(house: House) -> None:
    house.open()
    waits("order", "one", lines=[{"line_id": "1", "quantity": 1}])
    waits("order", "two", amount=250)
    answer = done(workers.purchase("order", "ana", 500, 1000))
    assert (answer["points"], answer["balance"]) == (15, 15 - answer["reversed_points"])
    later = done(workers.reverse("order", "three"))
    assert later["points"] == 15 - answer["reversed_points"]
    assert house.balance() == 0
    assert send(workers.reverse("order", "four")).body["code"] == "more_than_bought"


def test_each_repeat_gets_its_first_answer(house: House) -> None:
    house.open()
    waits("order", "return")
    for _ in range(2):
        again = send(workers.reverse("order", "return"))
        assert (again.status, again.replayed, again.body["status"]) == (202, True, "waiting")
        other = send(workers.reverse("order", "return", amount=1))
        assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
        first = send(workers.purchase("order", "ana", 1000))
        repeat = send(workers.purchase("order", "ana", 1000))
        assert (repeat.replayed, repeat.body) == (True, first.body)
    assert house.balance() == 0


def test_no_more_than_20_refunds_wait_for_a_purchase(house: House) -> None:
    house.open()
    for number in range(20):
        waits("order", f"return-{number}", amount=1)
    before = Books.read(house.direct, house.tables)
    answer = send(workers.reverse("order", "one more", amount=1))
    assert (answer.status, answer.body["code"]) == (409, "more_than_bought")
    assert Books.read(house.direct, house.tables) == before
    assert send(workers.reverse("order", "return-19", amount=1)).replayed


def test_what_does_not_fit_the_purchase_is_left_out(house: House) -> None:
    house.open()
    waits("order", "unknown", lines=[{"line_id": "nine"}])
    waits("order", "many", lines=[{"line_id": "1", "quantity": 5}])
    answer = done(workers.purchase("order", "ana", 500, 1000))
    assert answer["reversed_points"] in (5, 10)
    assert house.balance() == 15 - answer["reversed_points"]


@pytest.mark.parametrize("early", [WAITING_REFUNDS - 1, WAITING_REFUNDS])
def test_after_the_purchase_its_early_refunds_stand_in_nobodys_way(
    house: House, early: int
) -> None:
    house.open()
    for n in range(early):
        waits("order", f"early-{n}", amount=100)
    done(workers.purchase("order", "ana", 5000))
    later = done(workers.reverse("order", "later", amount=100))
    assert (later["points"], house.balance()) == (1, 50 - early - 1)
    again = send(workers.reverse("order", "early-3", amount=100))
    assert (again.status, again.replayed) == (202, True)
    assert done(workers.reverse("order", "rest"))["balance"] == house.balance() == 0


def test_so_many_refunds_wait_for_an_event_and_no_more(house: House) -> None:
    house.open()
    for n in range(WAITING_REFUNDS):
        waits("order", f"early-{n}", amount=100)
    before = Books.read(house.direct, house.tables)
    answer = send(workers.reverse("order", "more", amount=100))
    assert (answer.status, answer.body["code"]) == (409, "more_than_bought")
    assert Books.read(house.direct, house.tables) == before
    assert done(workers.purchase("order", "ana", 5000))["reversed_points"] == WAITING_REFUNDS


def test_a_referral_and_a_first_purchase_that_came_back_before_pay_nothing(house: House) -> None:
    terms = {
        "referrer_points": 200,
        "referred_points": 100,
        "award_on": "first_purchase",
        "min_amount": 1000,
    }
    house.open(rules=[PER_EURO, FIRST], referral=terms)
    code = done(workers.enrol("bob"))["referral_code"]
    done(workers.enrol("eve", referral_code=code))
    waits("order", "return")
    done(workers.purchase("order", "eve", 5000))
    members = workers.proved(house.direct, house.tables)
    assert {name: account.balance for name, (account, _) in members.items()} == {
        "ana": 0, "bob": 0, "eve": 0,
    }  # fmt: skip


def test_a_budget_keeps_what_came_back_before(house: House) -> None:
    house.open(budget={"points": 100})
    done(workers.purchase("other", "ana", 1000))
    waits("order", "return", amount=2000)
    done(workers.purchase("order", "ana", 5000))
    assert workers.left("program") == 100 - 10 - 30


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict"])
def test_a_lost_answer_leaves_one_effect(house: House, fault: Any) -> None:
    house.open()
    house.faults.follow({0: fault}, of="TransactWriteItems")
    assert send(workers.reverse("order", "return")).status == 202
    house.faults.follow({1: fault}, of="TransactWriteItems")
    assert done(workers.purchase("order", "ana", 1000))["reversed_points"] == 10
    house.faults.heal()
    assert house.balance() == 0


def test_refunds_and_their_purchase_at_once_are_each_carried_out_once(house: House) -> None:
    """Whoever comes first, what was acknowledged counts: 16 orders, three refunds of each."""
    house.open()
    scripts = [
        [
            workers.purchase(f"order-{i % 16}", "ana", 400, 300, 200, 100)
            if i < 16
            else workers.reverse(
                f"order-{i % 16}", f"r{i // 16}", lines=[{"line_id": str(i // 16)}]
            )
        ]
        for i in range(64)
    ]
    with Clients() as clients:
        played = clients.play(house.endpoint, house.tables, scripts)
    assert {answer.status for answer in played.flat} <= {201, 202}
    with house.on(1):
        # Every refund was acknowledged, so that only the first line of each order is left.
        assert house.balance() == 16 * 4


def test_the_event_of_a_check_in_is_not_waited_for(house: House) -> None:
    house.open()
    before = Books.read(house.direct, house.tables)
    answer = send(workers.reverse("check-in:unheard-of", "return"))
    assert (answer.status, answer.body["code"]) == (404, "event_not_found")
    assert Books.read(house.direct, house.tables) == before


def test_an_award_that_refunds_waited_for_costs_two_units_more(
    house: House,
) -> None:
    house.open()
    with meter.measure() as used:
        waits("order", "return")
    assert used.write == 2
    with meter.measure() as used:
        done(workers.purchase("order", "ana", 1000))
    assert used.write == 7


# Decided without a table

NOW = milliseconds(NOON)
GIFT = {"reward_id": "gift", "kind": "gift", "cost": 40, "stock": 3}
ONE_LINE = {"lines": [{"line_id": "1"}]}


def taken(
    *refunds: dict[str, Any],
    amounts: tuple[int, ...] = (1000, 500),
    pays: bool = False,
    **more: Any,
) -> Decision:
    """The decision on a purchase of ann's after these refunds; it was paid by a gift where it
    `pays`."""
    document = smallest(**({"rules": [PER_EURO], "rewards": [GIFT]} | more))
    rulebook = Rulebook(parse(document), 1)
    ann = Account(program_id="test", member_id="ann", seq=1, lots=((NEVER, 60),), joined_on=1)
    known = Known({"ann": ann}, History(0, ()), {"program": 100, stock_id("gift"): 3})
    paid = []
    if pays:
        command = Redemption.model_validate({"reward_id": "gift"})
        guard = Guard("k#pay", "0", b"")
        spent = redeem(rulebook, known, guard, "ann", command, SECRETS, NOW)
        known = replace(known, accounts={"ann": ann.after(spent.entries[0])})
        [voucher] = spent.records
        stored = {"pk": voucher.partition, "sk": voucher.sort, **voucher.fields}
        paid = [Spending(spent.entries, stored)]
    lines = [{"line_id": str(i), "quantity": 1, "amount": n} for i, n in enumerate(amounts)]
    bought = {"currency": "EUR", "lines": lines}
    fields = {"event_id": "order", "type": "purchase", "member_id": "ann", "purchase": bought}
    waiting = [
        Waiting("test", "e#order", earning.waiting_sort(i), NOW, {"event_id": "order", **refund})
        for i, refund in enumerate(refunds)
    ]
    guard = Guard("e#order", "0", b"")
    event = Event.model_validate(fields)
    return earning.award(rulebook, known, guard, event, NOW, waiting, paid)


def test_what_came_back_is_told_with_what_was_earned() -> None:
    decision = taken({"refund_id": "one", **ONE_LINE})
    [entry] = decision.entries
    assert [(posting.kind, posting.points) for posting in entry.postings] == [
        ("award", 15),
        ("reverse", -5),
    ]
    assert (entry.balance, entry.lifetime) == (70, 10)
    assert entry.explanation == {
        "r": "+",
        "g": [[0, 15, 15]],
        "w": [["one", [(1, 1, 1)]]],
        "t": [(NEVER, 5)],
    }
    assert decision.closing == ("e#order", "w#001")


def test_without_refunds_nothing_is_closed() -> None:
    decision = taken()
    assert (decision.closing, decision.entries[0].lifetime) == (None, 15)
    assert "w" not in decision.entries[0].explanation


@pytest.mark.parametrize(
    ("qualify_by", "refund", "counts"),
    [
        ("points", {}, ()),
        ("points", ONE_LINE, (19,)),
        ("spend", {}, ()),
        ("spend", ONE_LINE, (1000,)),
    ],
)
def test_what_came_back_counts_for_no_tier(
    qualify_by: str, refund: dict[str, Any], counts: tuple[int, ...]
) -> None:
    tiers = {
        "qualify_by": qualify_by,
        "window": "lifetime",
        "levels": [{"tier_id": "base", "name": "Base", "at": 0}],
    }
    bonus = {"rule_id": "bonus", "trigger": "purchase", "earn": {"points": 9}}
    [entry] = taken({"refund_id": "one", **refund}, rules=[PER_EURO, bonus], tiers=tiers).entries
    assert tuple(amount for _, amount in entry.qualifying) == counts


def test_a_budget_draws_only_what_stays_given() -> None:
    decision = taken({"refund_id": "one", **ONE_LINE}, budget={"points": 100})
    assert decision.draws == {"program": 10}


def test_what_paid_comes_back_at_once_with_its_piece_and_its_voucher() -> None:
    decision = taken({"refund_id": "one"}, pays=True)
    [entry] = decision.entries
    assert entry.balance == 60
    assert entry.explanation["s"] == [("r-cGF5", 40)]
    assert decision.draws == {stock_id("gift"): -1}
    [voucher] = decision.records
    assert (voucher.fields["status"], voucher.seen) == ("cancelled", 1)
    kept = taken({"refund_id": "one", **ONE_LINE}, pays=True)
    assert kept.entries[0].explanation["s"] == [("r-cGF5", 13)]


@pytest.mark.parametrize(
    ("refunds", "amounts", "told", "points"),
    [
        # What is left out, and what fits all the same: 10 points for line 0, 5 for line 1.
        ([{"lines": [{"line_id": "nine"}]}], (1000, 500), [[]], 0),
        ([{"lines": [{"line_id": "0"}, {"line_id": "nine"}]}], (1000, 500), [[(0, 1, 1)]], 10),
        ([{"lines": [{"line_id": "nine"}, {"line_id": "0"}]}], (1000, 500), [[(0, 1, 1)]], 10),
        ([{"lines": [{"line_id": "0", "quantity": 5}]}], (1000, 500), [[(0, 1, 1)]], 10),
        ([{"lines": [{"line_id": "1", "amount": 900}]}], (1000, 500), [[(1, 500, 500)]], 5),
        (
            [{"lines": [{"line_id": "0", "amount": 250}, {"line_id": "nine"}]}],
            (1000, 500),
            [[(0, 250, 1000)]],
            2,
        ),
        ([{"lines": [{"line_id": "0", "amount": 1}]}], (0, 500), [[(0, 1, 1)]], 0),
        ([{"amount": 99_999}], (1000, 500), [None], 15),
        ([{"amount": 300}], (1000, 500), [[(0, 200, 1000), (1, 100, 500)]], 3),
        # One after the other, and a line twice.
        (
            [{"lines": [{"line_id": "0"}]}, {"lines": [{"line_id": "0"}, {"line_id": "1"}]}],
            (1000, 500),
            [[(0, 1, 1)], [(0, 1, 1), (1, 1, 1)]],
            15,
        ),
        (
            [{"lines": [{"line_id": "0"}]}, {"lines": [{"line_id": "0", "quantity": 1}]}],
            (1000, 500),
            [[(0, 1, 1)], [(0, 1, 1)]],
            10,
        ),
    ],
)
def test_of_what_came_before_counts_what_fits(
    refunds: list[dict[str, Any]], amounts: tuple[int, ...], told: list[Any], points: int
) -> None:
    named = [{"refund_id": f"r{i}", **refund} for i, refund in enumerate(refunds)]
    [entry] = taken(*named, amounts=amounts).entries
    assert entry.explanation["w"] == [[f"r{i}", parts] for i, parts in enumerate(told)]
    assert sum(posting.points for posting in entry.postings[1:]) == -points


def test_a_refund_that_follows_takes_only_the_rest_whatever_else_there_is() -> None:
    early = taken({"refund_id": "one", **ONE_LINE}).entries[0]
    rulebook = Rulebook(parse(smallest(rules=[PER_EURO], rewards=[GIFT])), 1)
    ann = Account(program_id="test", member_id="ann", seq=1, lots=((NEVER, 60),), joined_on=1)
    known = Known({"ann": ann.after(early)}, History(0, ()))
    refund = Reversal.model_validate({"event_id": "order", "refund_id": "two"})
    guard = Guard("e#order", "r#two", b"")
    given = Given.by(rulebook, early)
    late = reverse(rulebook, given, known, guard, [early], refund, [], NOW)
    assert late.entries[0].points == -10


def test_an_order_that_came_back_whole_pays_no_referral() -> None:
    referral = {"referrer_points": 9, "referred_points": 8, "award_on": "first_purchase"}
    rulebook = Rulebook(parse(smallest(rules=[PER_EURO], referral=referral)), 1)
    bob = Account(program_id="test", member_id="bob", seq=1)
    ann = Account(program_id="test", member_id="ann", seq=1, referrer="bob")
    known = Known({"ann": ann, "bob": bob}, profiles={"ann": {}, "bob": {}})
    line = {"line_id": "0", "quantity": 1, "amount": 500}
    event = Event.model_validate(
        {
            "event_id": "order",
            "type": "purchase",
            "member_id": "ann",
            "purchase": {"currency": "EUR", "lines": [line]},
        }
    )
    guard = Guard("e#order", "0", b"")
    for what, entries in (({}, 1), ({"amount": 100}, 2)):
        refund = {"event_id": "order", "refund_id": "one", **what}
        waits = Waiting("test", "e#order", "0", NOW, refund)
        decision = earning.award(rulebook, known, guard, event, NOW, [waits])
        assert len(decision.entries) == entries
