"""The ledger's laws over a shop's whole life, through the handlers on the real engine.

Members pay, reserve, capture, give up and forget; use vouchers until the stock is gone; return
orders in parts, also before they come; send points to one another; and staff adjust, block, merge,
close and erase. A model by the simplest means says what every answer has to be and what everybody
has; after each command everything that stands in the tables is proved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import count
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import expire
from loyalty import edge
from loyalty.decisions import stock_id
from loyalty.limits import token
from tests import workers
from tests.programs import smallest
from tests.workers import Answer, Books, Call, House, deployed, send, without_pause
from tools.engine import Engine, Tables
from tools.verify import verified

EXAMPLES = 8
STEPS = 40
STOCK, TIMES, COST = 6, 3, 20
STEP = 5
"""Points pay in steps of so many, and one point pays one cent."""
PRESENT = 15
CAUGHT_UP = timedelta(days=7)
VALID = timedelta(days=20)
APPROVED_ABOVE = 60
GOLD_AT = 60
NAMES = ("ana", "ben", "cleo", "dora")

DAY = timedelta(days=1)

type Lots = list[tuple[date | None, int]]


@dataclass(frozen=True)
class Terms:
    """What the model knows of a program."""

    name: str
    zone: str
    lives: timedelta | None
    shortfall: str
    begins: datetime

    def document(self) -> dict[str, Any]:
        passing: dict[str, Any] = {}
        if self.lives:
            passing["expiry"] = [{"after": f"P{self.lives.days}D"}]
            passing["notifications"] = {"expiring": ["P3D"]}
        return smallest(
            program_id="shop",
            time_zone=self.zone,
            rules=[
                {"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}},
                {"rule_id": "party", "trigger": "birthday", "earn": {"points": PRESENT}},
            ],
            rewards=[
                {
                    "reward_id": "gift",
                    "kind": "gift",
                    "cost": COST,
                    "stock": STOCK,
                    "limits": [{"times": TIMES, "per": "month"}],
                    "voucher_validity": f"P{VALID.days}D",
                }
            ],
            points_payment={"points": 1, "amount": 1, "step": STEP, "max_share": "0.5"},
            transfers={},
            refunds={"shortfall": self.shortfall},
            adjustments={"second_person_above": APPROVED_ABOVE},
            tiers={
                "qualify_by": "points",
                "window": "lifetime",
                "downgrade": {"steps": "none"},
                "levels": [{"tier_id": "bronze", "at": 0}, {"tier_id": "gold", "at": GOLD_AT}],
            },
            **passing,
        )


ALL_TERMS = (
    Terms("owing", "Europe/Paris", None, "debt", datetime(2026, 3, 27, 12, tzinfo=UTC)),
    Terms(
        "passing",
        "America/New_York",
        timedelta(days=10),
        "other_lots",
        datetime(2026, 10, 30, 12, tzinfo=UTC),
    ),
)


# The model


def by_date(lots: Iterable[tuple[date | None, int]]) -> Lots:
    """Lots in spending order."""
    return sorted(lots, key=lambda lot: lot[0] or date.max)


@dataclass(eq=False)
class Member:
    lots: Counter[date | None] = field(default_factory=Counter)
    debt: int = 0
    lifetime: int = 0
    status: str = ""
    pin: tuple[str, date] | None = None
    pin_is_known: bool = True
    birthday: date | None = None
    given_in: set[int] = field(default_factory=set)

    @property
    def available(self) -> int:
        return self.lots.total()

    def credit(self, lots: Lots) -> int:
        """Put points into lots; debt is paid first. What went into the lots."""
        put = 0
        for end, points in by_date(lots):
            paid = min(points, self.debt)
            self.debt -= paid
            self.lots[end] += points - paid
            put += points - paid
        return put

    def spend(self, points: int) -> Lots:
        taken: Lots = []
        for end, held in by_date(self.lots.items()):
            part = min(points, held)
            points -= part
            self.lots[end] -= part
            if part:
                taken.append((end, part))
        assert not points
        return taken


@dataclass(eq=False)
class Redeemed:
    """A redemption: what it took, whether its piece and its place in the limit are gone."""

    identity: str
    member_id: str
    taken: Lots
    on: date
    is_gift: bool
    until: datetime | None = None
    state: str = "captured"
    was_held: bool = False
    was_captured: bool = False
    voucher: str = ""
    code: str = ""
    ends: date | None = None
    restored: int = 0
    counts: bool = True

    @property
    def points(self) -> int:
        return sum(points for _, points in self.taken)

    def back(self, points: int) -> Lots:
        """The next so many of its points that go back, the longest-lived first."""
        skip, lots = self.restored, []
        for end, n in reversed(by_date(self.taken)):
            over = min(skip, n)
            skip -= over
            part = min(points, n - over)
            points -= part
            lots.append((end, part))
        return lots


@dataclass(eq=False)
class Order:
    """A purchase: its lines as (quantity, cents), and the part of each that came back."""

    event_id: str
    member_id: str
    lines: list[tuple[int, int]]
    paid_by: list[Redeemed]
    back: list[Fraction] = field(default_factory=list)
    end: date | None = None
    granted: int = 0
    claimed: int = 0
    returns: int = 0

    @property
    def points(self) -> int:
        return sum(cents // 100 for _, cents in self.lines)

    def taken(self) -> int:
        return sum(
            int(cents // 100 * part) for (_, cents), part in zip(self.lines, self.back, strict=True)
        )

    def part(self) -> Fraction:
        worth = sum(c * part for (_, c), part in zip(self.lines, self.back, strict=True))
        return Fraction(worth) / sum(cents for _, cents in self.lines)


LINES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 40).map(lambda euros: euros * 100)),
    min_size=1,
    max_size=3,
)
WHO = st.sampled_from(NAMES)
WHICH = st.integers(0, 20)
SELDOM = st.sampled_from([False, False, False, True])
numbers = count()


class ShopMachine(RuleBasedStateMachine):
    """Four members of one program, on tables of their own."""

    def __init__(self, engine: Engine, tables: Tables, terms: Terms) -> None:
        super().__init__()
        self.terms = terms
        self.house = House(engine, tables)
        self.now = terms.begins
        self.keys = count()
        self.stack = ExitStack()
        self.stack.enter_context(deployed(self.house.client, tables, self.now, sleep=without_pause))
        self.members = {name: Member() for name in NAMES}
        self.aliases: dict[str, str] = {}
        self.redeemed: list[Redeemed] = []
        self.orders: list[Order] = []
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.sent: list[tuple[Call, Answer]] = []
        self.told: list[tuple[str, str, Any]] = []
        self.books: Books | None = None

    @initialize()
    def begin(self) -> None:
        workers.done(workers.publish(self.terms.document()))
        self.joined = self.today
        for days, name in enumerate(NAMES, -1):
            self.members[name].birthday = birthday = self.today + 5 * days * DAY
            workers.done(workers.enrol(name, birthday=f"1980-{birthday:%m-%d}"))
            self.adjusted(name, 60)
            self.adjusted(name, 40)

    def teardown(self) -> None:
        """At the end of a life the verification finds nothing in what it has left."""
        with self.stack:
            assert verified().violations == []

    # Time

    @property
    def today(self) -> date:
        zone = edge.store().rulebook("shop", 1).program.zone
        return self.now.astimezone(zone).date()

    def pass_time(self, time: timedelta) -> None:
        self.now += time
        mock_clock: Any = edge.clock
        mock_clock.return_value = self.now

    def settle(self) -> None:
        """Holds end, then points."""
        for each in sorted(self.redeemed, key=lambda r: r.until or self.now):
            if each.state == "held" and each.until and each.until <= self.now:
                each.state, each.counts = "lapsed", False
                self.of(each.member_id).credit(each.taken)
        for member in self.members.values():
            for end in [end for end in member.lots if end and end <= self.today]:
                del member.lots[end]

    @rule(minutes=st.sampled_from([1, 29, 31, 700]))
    def minutes_pass(self, minutes: int) -> None:
        self.pass_time(timedelta(minutes=minutes))

    @rule(days=st.sampled_from([1, 2, 4, 11, 25]))
    def days_pass(self, days: int) -> None:
        self.pass_time(timedelta(days=days))

    @rule()
    def sweep(self) -> None:
        self.step()  # what it writes is not of the moment that was just told
        context = mock.Mock(get_remaining_time_in_millis=lambda: 900_000)
        for _ in range(2):  # what is due is written once
            answer = expire.handler(workers.sweep_event(), context)
            assert answer == {"batchItemFailures": []}
            before, self.books = self.books, self.house.books()
        assert before.without_jobs == self.books.without_jobs
        self.settle()
        for member in self.members.values():
            self.celebrate(member)

    def celebrate(self, member: Member) -> None:
        """A birthday is paid by the sweep, once a year, on its day or within a week."""
        day = member.birthday
        if day is None or member.status in ("closed", "erased") or day.year in member.given_in:
            return
        if self.joined <= day <= self.today <= day + CAUGHT_UP:
            member.given_in.add(day.year)
            member.lifetime += PRESENT
            member.credit([(day + self.terms.lives if self.terms.lives else None, PRESENT)])

    @rule(who=WHO, days=st.integers(-9, 6))
    def move_a_birthday(self, who: str, days: int) -> None:
        """A changed date earns nothing twice."""
        self.step()
        birthday = self.today + days * DAY
        changed = workers.change(who, birthday=f"1980-{birthday:%m-%d}")
        if self.does(changed, self.may_change(who)):
            self.of(who).birthday = birthday

    def may_change(self, member_id: str) -> str:
        return "member_erased" if self.of(member_id).status == "erased" else ""

    # Sending

    def name(self, member_id: str) -> str:
        while member_id in self.aliases:
            member_id = self.aliases[member_id]
        return member_id

    def of(self, member_id: str) -> Member:
        return self.members[self.name(member_id)]

    def key(self) -> str:
        return f"k{next(self.keys)}"

    def does(self, call: Call, *refusals: str, writes: bool = False) -> Answer | None:
        """Send a command at a moment of its own. With a refusal among those that the model sees
        coming, the first of them has to be the answer, and nothing may change unless lapsed holds
        of others were written down (`writes`)."""
        expected = next((code for code in refusals if code), None)
        answer = send(call)
        if expected is None:
            assert answer.status in (200, 201, 202), (call, answer.body)
            assert not answer.replayed
            if call.headers or "event_id" in (call.body or {}):
                self.sent.append((call, answer))
            return answer
        assert (answer.status in (403, 404, 409), answer.body["code"]) == (True, expected), call
        if not writes:
            assert self.house.books() == self.books
        return None

    def may_earn(self, member_id: str) -> str:
        status = self.of(member_id).status
        return {"erased": "member_erased", "closed": "member_closed"}.get(status, "")

    def may_spend(self, member_id: str) -> str:
        blocked = self.of(member_id).status == "blocked"
        return self.may_earn(member_id) or ("member_blocked" if blocked else "")

    def lacks(self, member_id: str, points: int) -> str:
        return "insufficient_points" if points > self.of(member_id).available else ""

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 60))
    def repeat(self, which: int) -> None:
        """4. Whatever has happened since: one effect, and the first answer."""
        call, first = self.sent[which % len(self.sent)]
        self.step()
        again = send(call)
        assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
        assert self.house.books() == self.books

    def step(self) -> None:
        self.pass_time(timedelta(seconds=1))
        self.settle()

    # Buying and returning

    @rule(who=WHO, lines=LINES, paid=st.booleans(), which=WHICH)
    def buy(self, who: str, lines: list[tuple[int, int]], paid: bool, which: int) -> None:
        self.step()
        mine = [r for r in self.redeemed if r.state == "captured" and self.is_of(r, who)]
        paid_by = [mine[which % len(mine)]] if paid and mine else []
        self.purchase(Order(f"o{self.key()}", who, lines, paid_by))

    def is_of(self, redeemed: Redeemed, who: str) -> bool:
        return self.name(redeemed.member_id) == self.name(who)

    def purchase(self, order: Order) -> None:
        rows = [
            {"line_id": str(i), "quantity": quantity, "amount": cents}
            for i, (quantity, cents) in enumerate(order.lines)
        ]
        ids = [r.identity for r in order.paid_by] * 2  # named twice, restored once
        bought = {"currency": "EUR", "lines": rows, "redemption_ids": ids}
        call = workers.award(order.event_id, order.member_id, "purchase", purchase=bought)
        answer = self.does(call, self.may_earn(order.member_id))
        if answer is None:
            return
        member = self.of(order.member_id)
        order.back = [Fraction(0)] * len(order.lines)
        order.end = self.today + self.terms.lives if self.terms.lives else None
        self.orders.append(order)
        waiting = self.waiting.pop(order.event_id, [])
        restored = 0
        before = Fraction(0)
        for body in waiting:
            self.come_back(order, body)
        if waiting:
            restored = self.restore(order, before)
        order.granted = member.credit([(order.end, order.points)])
        member.lifetime += order.points
        assert answer.body["points"] == order.points
        if waiting:
            taken, _ = self.take_back(order, order.taken())
            assert answer.body["reversed_points"] == taken
            assert answer.body.get("restored_points", 0) == restored

    def come_back(self, order: Order, body: dict[str, Any]) -> None:
        """Which part of each line has come back, after this refund too."""
        if "amount" in body:
            order.back[0] += Fraction(body["amount"], order.lines[0][1])
        elif "lines" in body:
            for line in body["lines"]:
                i = int(line["line_id"])
                order.back[i] += Fraction(line["quantity"], order.lines[i][0])
        else:
            order.back = [Fraction(1)] * len(order.lines)
        order.back = [min(part, Fraction(1)) for part in order.back]

    def take_back(self, order: Order, points: int) -> tuple[int, int]:
        """(Points taken, what is forgiven), after what paid for the order has been restored."""
        member = self.of(order.member_id)
        member.lifetime -= points
        wanted = min(points, order.granted - order.claimed)
        order.claimed += wanted
        own = min(wanted, member.lots[order.end])
        member.lots[order.end] -= own
        other = min(points - own, member.available)
        member.spend(other)
        short = points - own - other
        if self.terms.shortfall == "debt":
            member.debt += short
            return points, 0
        return points - short, short

    def restore(self, order: Order, part_before: Fraction) -> int:
        """What paid for what came back is given back, and its vouchers end."""
        total = 0
        for each in order.paid_by:
            if each.state == "cancelled" or not self.is_of(each, order.member_id):
                continue
            points = int(each.points * order.part()) - int(each.points * part_before)
            points = min(points, each.points - each.restored)
            if points <= 0:
                continue
            self.of(each.member_id).credit(each.back(points))
            each.restored += points
            total += points
            if each.voucher == "issued":
                each.voucher, each.counts = "cancelled", False
        self.settle()  # what comes back too late goes at once
        return total

    @precondition(lambda self: self.orders)
    @rule(which=WHICH, how=st.sampled_from(["whole", "line", "line", "amount"]), n=WHICH)
    def return_some(self, which: int, how: str, n: int) -> None:
        """7. Never more than was given: by line, by amount, whole, in any order."""
        order = self.orders[which % len(self.orders)]
        self.step()
        if order.end is not None and order.end <= self.today:
            return  # whose points have expired of a lot that several share, can be told in two ways
        body: dict[str, Any] = {}
        i = n % len(order.lines)
        quantity, cents = order.lines[i]
        too_much = order.part() == 1
        if how == "line":
            pieces = 1 + n % quantity
            body = {"lines": [{"line_id": str(i), "quantity": pieces}]}
            too_much |= order.back[i] + Fraction(pieces, quantity) > 1
        elif how == "amount" and len(order.lines) == 1:
            amount = 1 + n * cents // 21
            body = {"amount": amount}
            too_much |= order.back[0] + Fraction(amount, cents) > 1
        order.returns += 1
        call = workers.reverse(order.event_id, f"r{order.returns}", **body)
        gone = "member_erased" if self.of(order.member_id).status == "erased" else ""
        answer = self.does(call, "more_than_bought" if too_much else "", gone)
        if answer is None:
            return
        taken, part = order.taken(), order.part()
        self.come_back(order, body)
        restored = self.restore(order, part)
        points, forgiven = self.take_back(order, order.taken() - taken)
        assert answer.body["points"] == points
        assert answer.body["forgiven_points"] == forgiven
        assert answer.body["restored_points"] == restored
        assert answer.body["expired_points"] == 0
        assert 0 <= order.taken() <= order.points

    @rule(who=WHO, lines=LINES, whole=st.booleans(), paid=st.booleans())
    def a_return_comes_first(
        self, who: str, lines: list[tuple[int, int]], whole: bool, paid: bool
    ) -> None:
        self.step()
        mine = [r for r in self.redeemed if r.state == "captured" and self.is_of(r, who)]
        order = Order(f"o{self.key()}", who, lines, mine[-1:] if paid else [])
        bodies: list[dict[str, Any]] = [{"lines": [{"line_id": "0", "quantity": 1}]}]
        if whole:
            bodies.append({})
        for i, body in enumerate(bodies):
            answer = send(workers.reverse(order.event_id, f"early{i}", **body))
            assert answer.status == 202
        self.books = self.house.books()
        self.waiting[order.event_id] = bodies
        self.step()
        self.purchase(order)

    # Spending

    @rule(who=WHO, steps=st.integers(1, 6), odd=st.booleans(), hold=st.booleans(), order=WHICH)
    def pay(self, who: str, steps: int, odd: bool, hold: bool, order: int) -> None:
        """Points as payment: in steps, and at most half of the order."""
        self.step()
        points = steps * STEP + (1 if odd and order % 4 == 0 else 0)
        cents = 10 + order * 5
        body = {"order": {"order_id": "o", "amount": cents, "currency": "EUR"}} if order else {}
        refused = points % STEP or (order and 2 * points > cents)
        self.redeem(who, points, hold, "payment_refused" if refused else "", points=points, **body)

    @rule(who=WHO, hold=st.booleans())
    def redeem_the_gift(self, who: str, hold: bool) -> None:
        """6. The stock is never below zero, and nobody has more than the limit."""
        self.step()
        had = sum(
            r.counts and r.is_gift and self.is_of(r, who) and r.on.replace(day=1) == self.month
            for r in self.redeemed
        )
        self.redeem(
            who,
            COST,
            hold,
            "limit_reached" if had >= TIMES else "",
            "out_of_stock" if self.pieces_left() < 1 else "",
            reward_id="gift",
        )

    @rule(who=WHO, lines=LINES, early=st.booleans())
    def pay_an_order_with_a_voucher(
        self, who: str, lines: list[tuple[int, int]], early: bool
    ) -> None:
        """So that there is something to restore when it comes back."""
        self.redeem_the_gift(who, hold=False)
        if early:
            self.a_return_comes_first(who, lines, whole=False, paid=True)
        else:
            self.buy(who, lines, paid=True, which=-1)

    @property
    def month(self) -> date:
        return self.today.replace(day=1)

    def pieces_left(self) -> int:
        return STOCK - sum(r.is_gift and r.counts for r in self.redeemed)

    def redeem(self, who: str, cost: int, hold: bool, *refusals: str, **body: Any) -> None:
        is_gift = "reward_id" in body
        held = sum(r.state == "held" and self.is_of(r, who) for r in self.redeemed)
        assert held < 20
        answer = self.does(
            workers.redeem(who, self.key(), hold=hold, **body),
            self.may_spend(who),
            *refusals,
            self.lacks(who, cost),
            writes=is_gift,
        )
        if answer is None:
            return
        taken = self.of(who).spend(cost)
        each = Redeemed(answer.body["redemption_id"], who, taken, self.today, is_gift)
        each.counts = is_gift
        self.redeemed.append(each)
        if hold:
            each.state, each.was_held = "held", True
            each.until = self.now + timedelta(minutes=30)
        elif is_gift:
            self.issue(each, answer)

    def issue(self, each: Redeemed, answer: Answer) -> None:
        each.voucher, each.code = "issued", answer.body["voucher"]["code"]
        each.ends = self.today + VALID
        assert answer.body["voucher"]["expires_on"] == each.ends.isoformat()

    @precondition(lambda self: self.redeemed)
    @rule(which=WHICH)
    def capture(self, which: int) -> None:
        each = self.redeemed[-1 - which % len(self.redeemed)]
        self.step()
        if each.was_captured:
            return  # a repeat, which has a rule of its own
        answer = self.does(
            workers.capture(each.identity),
            self.may_spend(each.member_id),
            "not_held" if each.state != "held" else "",
        )
        if answer is not None:
            each.state, each.was_captured = "captured", True
            if each.is_gift:
                self.issue(each, answer)

    @precondition(lambda self: self.redeemed)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        each = self.redeemed[-1 - which % len(self.redeemed)]
        self.step()
        if each.state == "cancelled":
            return
        left = each.points - each.restored
        answer = self.does(
            workers.cancel(each.identity),
            self.may_earn(each.member_id),
            "not_held" if each.state == "lapsed" else "",
            "redemption_restored" if not left else "",
            "voucher_used" if each.voucher == "used" else "",
        )
        if answer is not None:
            self.of(each.member_id).credit(each.back(left))
            each.state, each.counts = "cancelled", False
            each.voucher = each.voucher and "cancelled"
            self.settle()

    @precondition(lambda self: any(r.code for r in self.redeemed))
    @rule(which=WHICH, look=st.booleans())
    def use_a_voucher(self, which: int, look: bool) -> None:
        """Once, before its date, if nothing has ended it."""
        vouchers = [r for r in self.redeemed if r.code]
        each = vouchers[which % len(vouchers)]
        self.step()
        assert each.ends
        over = each.voucher == "issued" and each.ends <= self.today
        status = "expired" if over else each.voucher
        if look:
            assert workers.done(workers.voucher(each.code))["status"] == status
            return
        answer = self.does(
            workers.use(each.code), f"voucher_{status}" if status != "issued" else ""
        )
        if answer is not None:
            each.voucher = "used"

    # From member to member, and staff

    @rule(who=WHO, to=WHO, points=st.integers(1, 60))
    def transfer(self, who: str, to: str, points: int) -> None:
        self.step()
        gone = any(self.of(each).status == "erased" for each in (who, to))
        same = self.name(who) == self.name(to)
        call = workers.transfer(self.key(), from_member_id=who, to_member_id=to, points=points)
        if self.does(
            call,
            "member_erased" if gone else "",
            "same_member" if same else "",
            self.may_spend(who),
            self.may_earn(to),
            self.lacks(who, points),
        ):
            self.of(to).credit(self.of(who).spend(points))

    @rule(who=WHO, points=st.integers(-40, APPROVED_ABOVE).filter(bool))
    def adjust(self, who: str, points: int) -> None:
        self.step()
        self.adjusted(who, points)

    def adjusted(self, who: str, points: int) -> None:
        call = workers.adjust(who, points, self.key())
        if self.does(call, *self.obstacles(who, points)):
            self.give(who, points)

    def obstacles(self, who: str, points: int) -> tuple[str, ...]:
        gone = "member_erased" if self.of(who).status == "erased" else ""
        if points > 0:
            return gone, self.may_earn(who)
        return gone, self.lacks(who, -points)

    def give(self, who: str, points: int) -> None:
        end = self.today + self.terms.lives if self.terms.lives else None
        if points > 0:
            self.of(who).credit([(end, points)])
        else:
            self.of(who).spend(-points)

    @rule(who=WHO, points=st.sampled_from([61, 100, -70]), agreed=st.booleans())
    def propose(self, who: str, points: int, agreed: bool) -> None:
        """What one person proposes, another one carries out or refuses."""
        if self.of(who).status == "erased":
            return
        self.step()
        proposal = workers.adjust(who, points, self.key())
        if points > 0 and (never := self.may_earn(who)):
            self.does(proposal, never)  # nobody could ever agree to it
            return
        first = send(proposal)
        assert first.status == 202
        self.books = self.house.books()
        path = {"adjustment_id": first.body["adjustment_id"]}
        verb = "approve" if agreed else "refuse"
        route = f"POST {workers.BASE}/adjustments/{{adjustment_id}}/{verb}"
        settle = Call("staff", route, path, subject="another")
        self.step()
        if not agreed:
            assert workers.done(settle)["status"] == "refused"
            return
        own = send(replace(settle, subject="tests"))
        assert own.body["code"] == "same_person"
        if self.does(settle, *self.obstacles(who, points)):
            self.give(who, points)

    @rule(who=WHO, what=st.sampled_from(["block", *["unblock"] * 3, "close"]))
    def change_status(self, who: str, what: str) -> None:
        member = self.of(who)
        others = [m for m in self.members.values() if m is not member and not m.status]
        if what == "close" and (len(others) < 2 or member.status == "closed"):
            return
        self.step()
        after = {"block": "blocked", "unblock": "", "close": "closed"}[what]
        if member.status == "closed":
            self.does(workers.become(what, who), "member_closed")
        elif self.does(workers.become(what, who), self.may_earn(who)):
            member.status = after

    @rule(who=WHO, into=WHO)
    def merge(self, who: str, into: str) -> None:
        goes, stays = self.of(who), self.of(into)
        if goes is not stays and (goes.status or len(self.members) < 4):
            return  # enough of them have to stay
        self.step()
        open_holds = any(r.state == "held" and self.is_of(r, who) for r in self.redeemed)
        if not self.does(
            workers.merge(who, into, self.key()),
            "member_erased" if goes.status == "erased" else "",
            "member_erased" if stays.status == "erased" else "",
            "same_member" if goes is stays else "",
            self.may_earn(into),
            "open_holds" if open_holds else "",
        ):
            return
        stays.lots.update(goes.lots)
        stays.debt += goes.debt
        paid = min(stays.debt, stays.available)
        stays.spend(paid)
        stays.debt -= paid
        stays.lifetime += goes.lifetime
        stays.given_in |= goes.given_in
        stays.pin_is_known = goes.pin is stays.pin is None
        self.aliases[self.name(who)] = self.name(into)
        self.members = {name: m for name, m in self.members.items() if m is not goes}

    @rule(who=WHO, seldom=SELDOM)
    def erase(self, who: str, seldom: bool) -> None:
        if (
            not seldom
            or self.of(who).status
            or sum(not m.status for m in self.members.values()) < 3
        ):
            return
        self.step()
        workers.done(workers.erase(who))
        self.members[self.name(who)] = Member(status="erased")
        for each in self.redeemed:
            if each.state == "held" and self.is_of(each, who):
                each.state, each.counts = "erased", False
        self.told = [row for row in self.told if self.of(row[0]).status != "erased"]

    @rule(who=WHO, days=st.integers(1, 9), tier=st.sampled_from(["gold", "bronze"]))
    def pin_a_tier(self, who: str, days: int, tier: str) -> None:
        self.step()
        until = self.today + timedelta(days=days)
        call = workers.set_tier(who, tier_id=tier, until=until.isoformat())
        if self.does(call, self.may_earn(who)):
            self.of(who).pin = (tier, until)

    # Laws

    @invariant()
    def everything_stands(self) -> None:
        """1, 2, 3, 6, 8, 9, 10, 11: what the model says, whether or not the sweep ran."""
        if not self.sent:
            return
        self.settle()
        self.books = self.house.books()
        proved = workers.proved(self.house.direct, self.house.tables)
        moved: Counter[str] = Counter()
        for account, entries in proved.values():
            for entry in entries:
                for posting in entry.own_postings:
                    moved[posting.kind] += posting.points
                    if posting.kind == "redeem" and posting.hold is None:
                        assert posting.points == sum(n for _, n in posting.lots)
                        assert all(end > posting.on for end, _ in posting.lots)
                    if posting.kind == "notice":
                        assert posting.points == 0
                        assert all(end > posting.on for end, _ in posting.told)
            counted = account.counters.get("month")
            gifts = counted.values.get(token("reward", "gift"), 0) if counted else 0
            assert 0 <= gifts <= TIMES or account.merged_into or self.has_aliases(account.member_id)
        assert moved["transfer"] == 0
        self.stock_stands(proved)
        for name, member in self.members.items():
            if member.status != "erased":
                self.balance_stands(name, member)

    def has_aliases(self, member_id: str) -> bool:
        """Two who become one may have had the reward more often together than one alone may."""
        return member_id in self.aliases.values()

    def stock_stands(self, proved: dict[str, Any]) -> None:
        """Pieces are in a shard, in a hold, or had: none is lost, and none is twice."""
        assert self.books
        shards = [r for r in self.books.records if f"#budget#{stock_id('gift')}" in r["pk"]["S"]]
        left = [int(shard["left"]["N"]) for shard in shards]
        assert all(n >= 0 for n in left)
        held = sum(h.drew for account, _ in proved.values() for h, _ in account.holds)
        had = sum(r.is_gift and r.counts and r.state == "captured" for r in self.redeemed)
        assert not shards or sum(left) + held + had == STOCK

    def balance_stands(self, name: str, member: Member) -> None:
        body = workers.done(workers.balance(name))
        held = sum(
            r.points for r in self.redeemed if r.state == "held" and self.name(r.member_id) == name
        )
        assert body["available"] == member.available
        assert (body["held"], body["pending"], body["debt"]) == (held, 0, member.debt)
        assert body["lifetime_points"] == member.lifetime
        dated = {str(end): n for end, n in (+member.lots).items() if end}
        assert {row["expires_on"]: row["points"] for row in body["expiring"]} == dated
        if member.pin_is_known:
            reached = "gold" if member.lifetime >= GOLD_AT else "bronze"
            pinned = member.pin is not None and self.today < member.pin[1]
            assert body["tier"]["id"] == (member.pin[0] if pinned and member.pin else reached)
        self.told.append((name, body["as_of"], body))

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 200))
    def ask_again(self, which: int) -> None:
        """The balance of any past moment is what was answered then, whatever came since."""
        name, moment, body = self.told[which % len(self.told)]
        self.step()
        if name in self.members:
            assert workers.done(workers.balance(name, as_of=moment)) == body


@pytest.mark.parametrize("terms", ALL_TERMS, ids=lambda terms: terms.name)
def test_a_shops_life_keeps_the_laws_and_is_what_a_simple_model_says(
    terms: Terms, engine: Engine, new_tables: Callable[[], Tables]
) -> None:
    run_state_machine_as_test(
        lambda: ShopMachine(engine, new_tables(), terms),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            # The engine is another process: how long it takes says nothing of this one.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
