"""The ledger's laws over what is stored, on the real engine, after every one of random commands.

A model of a few lines (lots in a dictionary, dates by hand) predicts every member's points. The
commands go through the store's commit with the real decisions; some are sent twice, some arrive
late, some lose a race.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

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

from loyalty import celebrations, earning, lifecycle, redeeming, refunds
from loyalty.codes import CheckInCode, check_in_code, voucher_code, voucher_hash
from loyalty.commands import CHECK_IN_EVENT, Enrolment, Event, Redemption, Reversal
from loyalty.dates import rfc3339
from loyalty.decisions import Decision, Guard, redemption_id
from loyalty.model import NEVER, Account, Entry, Known, Refusal
from loyalty.projections import balance
from loyalty.rules import Rulebook
from loyalty.store import Decide, KeyReused, Store, connect
from loyalty.validation import publishable
from loyalty.wire import entry_key, item_hash
from tests.programs import smallest
from tests.strategies import DAY, HOUR, LOCATION, MINUTE, SECRETS, instant, local_date, number
from tools.engine import Engine, Tables

EXAMPLES = 12
STEPS = 40
"""Of each program: some hundreds of commands, each with a reading of all that is stored."""

# The programs, each said twice: as a document, and by hand for the model.


@dataclass(frozen=True)
class Terms:
    """What the model knows of a program."""

    document: dict[str, Any]
    expires: Callable[[date], date | None]
    waits: int
    limit: tuple[int, str, str]
    reviews: tuple[int, str]
    shortfall: str
    begins: int


def _document(program_id: str, **more: Any) -> dict[str, Any]:
    times, window = more.pop("reviews")
    return smallest(
        program_id=program_id,
        rules=[
            {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 15}},
            {"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}},
            {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}},
            {
                "rule_id": "review",
                "trigger": "review",
                "earn": {"points": 10},
                "frequency": [{"times": times, "per": window}],
            },
        ],
        rewards=[{"reward_id": "gift", "kind": "gift", "cost": 20, "voucher_validity": "P1M"}],
        locations=[{"location_id": LOCATION, "check_in": {"limits": [{"times": 1, "per": "day"}]}}],
        **more,
    )


def _after_two_months(day: date) -> date:
    """P1M rounded up to the month: the first of the month after the next."""
    months = day.year * 12 + day.month - 1 + 2
    return date(months // 12, months % 12 + 1, 1)


ALL_TERMS = (
    Terms(
        _document(
            "plain",
            reviews=(1, "week"),
            expiry=[{"after": "P1M", "round_up_to": "month"}],
            limits=[{"points": 100, "per": "day"}],
        ),
        expires=_after_two_months,
        waits=0,
        limit=(100, "day", "cap"),
        reviews=(1, "week"),
        shortfall="other_lots",
        begins=instant("2026-03-27T12:00"),
    ),
    Terms(
        _document(
            "waiting",
            reviews=(2, "day"),
            time_zone="America/New_York",
            pending={"purchase": "P3D"},
            expiry=[{"after": "P10D"}],
            limits=[{"points": 200, "per": "week"}],
            refunds={"shortfall": "debt"},
        ),
        expires=lambda day: day + timedelta(days=10),
        waits=3,
        limit=(200, "week", "cap"),
        reviews=(2, "day"),
        shortfall="debt",
        begins=instant("2026-10-30T12:00"),
    ),
    Terms(
        _document(
            "lasting",
            reviews=(2, "month"),
            time_zone="Pacific/Apia",
            limits=[{"points": 120, "per": "week", "over": "refuse"}],
            refunds={"shortfall": "clamp"},
        ),
        expires=lambda _: None,
        waits=0,
        limit=(120, "week", "refuse"),
        reviews=(2, "month"),
        shortfall="clamp",
        begins=instant("2011-12-27T12:00"),
    ),
)


def window(kind: str, day: date) -> Any:
    return {"day": day, "week": day.isocalendar()[:2], "month": (day.year, day.month)}[kind]


# The model


@dataclass
class Given:
    """What an event gave: its lots as they were granted, after the debt it paid."""

    points: int
    serial: int
    lots: list[tuple[date | None, date | None, int]] = field(default_factory=list)
    is_reversed: bool = False


@dataclass
class Model:
    """One member's points by the simplest means."""

    terms: Terms
    lots: Counter[date | None] = field(default_factory=Counter)
    waiting: Counter[tuple[date, date | None]] = field(default_factory=Counter)
    debt: int = 0
    lifetime: int = 0
    serial: int = 0
    gone: list[tuple[int, date, int]] = field(default_factory=list)
    earned: list[tuple[date, int]] = field(default_factory=list)
    reviewed: list[date] = field(default_factory=list)
    scanned: set[date] = field(default_factory=set)
    flow: Counter[str] = field(default_factory=Counter)

    def due(self) -> Iterator[date]:
        yield from (start for start, _ in +self.waiting)
        yield from (end for end in +self.lots if end is not None)

    def settle(self, today: date) -> None:
        """Let time pass: on each day first what becomes available, then what goes."""
        while due := [day for day in self.due() if day <= today]:
            day = min(due)
            for (start, end), points in list((+self.waiting).items()):
                if start == day:
                    del self.waiting[start, end]
                    self.credit(end, points)
            if day in self.lots:
                self.gone.append((self.serial, day, self.lots[day]))
                self.flow["expired"] += self.lots.pop(day)

    def credit(self, end: date | None, points: int) -> int:
        """Put points into a lot; debt is paid first. What went into the lot."""
        paid = min(points, self.debt)
        self.debt -= paid
        if points > paid:
            self.lots[end] += points - paid
        return points - paid

    def award(self, kind: str, on: date, desired: int, today: date) -> Given:
        most, per, over = self.terms.limit
        used = sum(points for day, points in self.earned if window(per, day) == window(per, on))
        points = min(desired, max(0, most - used))
        if over == "refuse" and points < desired:
            points = 0
        if kind == "review":
            times, per = self.terms.reviews
            if sum(window(per, day) == window(per, on) for day in self.reviewed) >= times:
                points = 0
        if points and kind == "review":
            self.reviewed.append(on)
        given = Given(points, self.serial)
        if points:
            self.earned.append((on, points))
            self.lifetime += points
            self.flow["issued"] += points
            start = on + timedelta(days=self.terms.waits if kind == "purchase" else 0)
            end = self.terms.expires(start)
            if start > today:
                self.waiting[start, end] += points
                given.lots.append((start, end, points))
            elif put := self.credit(end, points):
                given.lots.append((None, end, put))
            self.settle(today)
        return given

    @property
    def available(self) -> int:
        return self.lots.total()

    def spend(self, points: int) -> None:
        for end in sorted(+self.lots, key=lambda day: day or date.max):
            part = min(points, self.lots[end])
            self.lots[end] -= part
            points -= part

    def take_back(self, given: Given) -> tuple[int, int]:
        """(What had expired, what is forgiven.)"""
        given.is_reversed = True
        self.lifetime -= given.points
        short, expired = given.points, 0
        for start, end, points in given.lots:
            left = points
            if start is not None and self.waiting[start, end]:
                self.waiting[start, end] -= points
                left = 0
            part = min(left, self.lots[end])
            self.lots[end] -= part
            short -= points - left + part
            gone = sum(n for serial, day, n in self.gone if serial >= given.serial and day == end)
            expired += min(left - part, gone)
        short -= expired
        other = 0 if self.terms.shortfall == "clamp" else min(short, self.available)
        self.spend(other)
        if self.terms.shortfall == "debt":
            self.debt += short - other
            other = short
        self.flow["reversed"] += given.points - expired - (short - other)
        return expired, short - other


# The machine


@dataclass
class Sent:
    """A command that was carried out."""

    guard: Guard
    member_id: str
    decide: Decide
    entry: Entry


@dataclass
class Member:
    """A member: what the model says of it, and what was sent for it."""

    member_id: str
    model: Model
    account: Account | None = None
    entries: list[Entry] = field(default_factory=list)
    events: list[tuple[Entry, Given]] = field(default_factory=list)


AMOUNTS = st.lists(st.sampled_from([1000, 100, 350, 1990, 2500, 99]), min_size=1, max_size=3)
LATE = st.sampled_from([0, 0, 0, 0, HOUR, 20 * HOUR, 3 * DAY, 8 * DAY, 45 * DAY])
WHO = st.integers(0, 1)
numbers = count()


class LedgerMachine(RuleBasedStateMachine):
    """Two members of one program."""

    def __init__(self, store: Store, tables: Tables, terms: Terms, rulebook: Rulebook) -> None:
        super().__init__()
        self.store = store
        self.tables = tables
        self.terms = terms
        self.rulebook = rulebook
        self.program_id = rulebook.program.program_id
        self.now = terms.begins
        # Tables are shared by all examples: ids are not.
        self.prefix = f"x{next(numbers)}"
        self.keys = count()
        self.sent: list[Sent] = []
        self.members: list[Member] = []

    @initialize()
    def begin(self) -> None:
        for i in range(2):
            self.members.append(Member(f"{self.prefix}-{i}", Model(self.terms)))
            self.enrol(self.members[-1])

    def enrol(self, member: Member) -> None:
        enrolment = Enrolment(member_id=member.member_id)
        guard = Guard(f"m#{member.member_id}", "0", b"enrol")

        def decide(known: Known) -> Decision:
            return earning.enrol(
                self.rulebook, known, guard, member.member_id, enrolment, "CODE", "", (), self.now
            )

        entry = self.commit(member, guard, decide)
        self.award_in_model(member, entry, "registration", self.today, 15)

    # Commands

    @rule(who=WHO, amounts=AMOUNTS, late=LATE)
    def buy(self, who: int, amounts: list[int], late: int) -> None:
        if self.terms.limit[2] == "refuse":
            # Whether half a point passes a limit that refuses is open to judgement.
            amounts = [amount // 100 * 100 for amount in amounts]
        lines = [
            {"line_id": str(i), "quantity": 1, "amount": amount} for i, amount in enumerate(amounts)
        ]
        purchase = {"currency": "EUR", "lines": lines}
        self.award(who, late, sum(amounts) // 100, type="purchase", purchase=purchase)

    @rule(who=WHO, late=LATE)
    def review(self, who: int, late: int) -> None:
        self.award(who, late, 10, type="review")

    @rule(who=WHO, late=LATE)
    def something_that_earns_nothing(self, who: int, late: int) -> None:
        self.award(who, late, 0, type="unheard-of")

    @rule(who=WHO, amount=st.sampled_from([100, 1500]))
    def lose_a_race(self, who: int, amount: int) -> None:
        """Another command for the member is committed between the reading and the writing."""
        member = self.members[who]
        race = iter([lambda: self.review(who, 0)])

        def first(decide: Decide) -> Decide:
            def raced(known: Known) -> Decision:
                decision = decide(known)
                for other in race:
                    other()
                return decision

            return raced

        lines = [{"line_id": "0", "quantity": 1, "amount": amount}]
        purchase = {"currency": "EUR", "lines": lines}
        before = len(member.entries)
        self.award(who, 0, amount // 100, around=first, type="purchase", purchase=purchase)
        assert [entry.reason for entry in member.entries[before:]] == ["review", "purchase"]
        assert self.attempts >= 2

    @rule(who=WHO)
    def check_in(self, who: int) -> None:
        member = self.members[who]
        key = self.key()
        code = check_in_code(SECRETS, CheckInCode(self.program_id, LOCATION, 1))
        guard = self.guard(f"k#{key}")
        predicted = copy.deepcopy(member.model)
        predicted.settle(self.today)
        scanned_today = self.today in predicted.scanned
        earns = not scanned_today and predicted.award("check_in", self.today, 5, self.today).points

        def decide(known: Known) -> Decision:
            return earning.check_in(
                self.rulebook,
                known,
                guard,
                member.member_id,
                code,
                SECRETS,
                CHECK_IN_EVENT + key,
                self.now,
            )

        if not earns:
            self.refuse(member, guard, decide, "limit_reached")
            return
        entry = self.commit(member, guard, decide)
        member.model.scanned.add(self.today)
        self.award_in_model(member, entry, "check_in", self.today, 5)

    @rule(who=WHO, points=st.integers(1, 25))
    def redeem(self, who: int, points: int) -> None:
        self.spend(who, points, {"points": points})

    @rule(who=WHO)
    def redeem_a_reward(self, who: int) -> None:
        entry = self.spend(who, 20, {"reward_id": "gift"})
        if entry is not None:
            code = voucher_code(SECRETS, 1, self.program_id, redemption_id(entry))
            partition = f"{self.program_id}#voucher#{voucher_hash(code)}"
            record = self.store.record(partition, "voucher")
            assert record is not None
            assert (record["redemption_id"], record["status"]) == (redemption_id(entry), "issued")

    @rule(who=WHO, which=st.integers(0, 5))
    def reverse(self, who: int, which: int) -> None:
        member = self.members[who]
        if not member.events:
            return
        event, given = member.events[-1 - which % len(member.events)]
        key = self.key()
        guard = self.guard(event.partition, f"r#{key}")
        refund = Reversal(event_id=event.partition.partition("#")[2], refund_id=key)

        def decide(known: Known) -> Decision:
            entries, _ = self.store.under(self.program_id, event.partition)
            given = refunds.Given.by(self.rulebook, entries[0])
            return refunds.reverse(
                self.rulebook, given, known, guard, entries, refund, (), self.now
            )

        if given.is_reversed:
            self.refuse(member, guard, decide, "more_than_bought")
            return
        if self.is_open_to_judgement(member, given):
            return
        entry = self.commit(member, guard, decide)
        member.model.settle(self.today)
        expired, forgiven = member.model.take_back(given)
        assert -entry.points == given.points - expired - forgiven
        assert 0 <= -entry.points <= given.points

    @rule(who=WHO)
    def take_back_what_was_spent(self, who: int) -> None:
        """The shortest way to a debt, where the program has any."""
        predicted = copy.deepcopy(self.members[who].model)
        predicted.settle(self.today)
        if predicted.available:
            self.redeem(who, predicted.available)
        self.reverse(who, 0)

    def is_open_to_judgement(self, member: Member, given: Given) -> bool:
        """Whose points it were that expired in a lot that several events share, can be told in
        more than one way."""
        model = copy.deepcopy(member.model)
        model.settle(self.today)
        ends = {end for _, end, _ in given.lots} & {day for _, day, _ in model.gone}
        sharing = [g for _, g in member.events if ends & {end for _, end, _ in g.lots}]
        return len(sharing) > 1

    @rule()
    def sweep(self) -> None:
        """Everybody of whom something is due is found, and it is written down."""
        today, found, start = number(self.today), [], None
        while True:
            page = self.store.due_accounts(today, 0, celebrations.feasts(self.today), 0, 1, start)
            accounts = [account for _, account in page.accounts if account]
            assert len(accounts) == len(page.accounts)
            found += accounts
            start = page.following
            if start is None:
                break
        members = {member.member_id: member for member in self.members}
        # Those who have something to celebrate are found too; nothing of theirs is due.
        due = [a for a in found if a.member_id in members and a.due_on and a.due_on <= today]
        assert {account.member_id for account in due} == {
            member.member_id
            for member in self.members
            if any(day <= self.today for day in member.model.due())
        }
        for account in due:
            self.write_down(members[account.member_id], account)

    def write_down(self, member: Member, account: Account) -> None:
        guard = lifecycle.guard(account)

        def decide(known: Known) -> Decision:
            decision = lifecycle.sweep(self.rulebook, known.account(member.member_id), self.now)
            if decision is None:
                raise Refusal("nothing_due", "")
            return decision

        self.commit(member, guard, decide)
        member.model.settle(self.today)
        # A message that is delivered twice writes once.
        again = self.store.commit(self.program_id, [member.member_id], guard, decide)
        assert again.replayed

    @rule(minutes=st.sampled_from([1, 50, 300, 1300]))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(days=st.integers(1, 40))
    def days_pass(self, days: int) -> None:
        self.now += days * DAY

    # Repeating

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 60), later=st.sampled_from([0, 100 * DAY]))
    def repeat(self, which: int, later: int) -> None:
        """One key, one effect: the same command again gives the first entry, for ever."""
        sent = self.sent[which % len(self.sent)]
        self.now += later
        before = self.stored(sent.member_id)
        committed = self.store.commit(self.program_id, [sent.member_id], sent.guard, sent.decide)
        self.now -= later
        assert committed.replayed
        assert committed.entry == sent.entry
        assert self.stored(sent.member_id) == before

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 60), who=WHO)
    def reuse_a_key(self, which: int, who: int) -> None:
        """Another command under a key that was used is refused, whoever it is for."""
        sent = self.sent[which % len(self.sent)]
        member = self.members[who]
        guard = Guard(sent.guard.partition, sent.guard.sort, b"another body")
        event = Event(event_id="any", type="review", member_id=member.member_id)
        before = self.stored(member.member_id)
        with pytest.raises(KeyReused):
            self.store.commit(
                self.program_id,
                [member.member_id],
                guard,
                lambda known: earning.award(self.rulebook, known, guard, event, self.now),
            )
        assert self.stored(member.member_id) == before

    # How a command is sent

    @property
    def today(self) -> date:
        return local_date(self.now, self.rulebook.program.time_zone)

    def key(self) -> str:
        return f"{self.prefix}-{next(self.keys)}"

    def guard(self, partition: str, sort: str = "0") -> Guard:
        fingerprint = sha256(f"{partition} {sort}".encode()).digest()[:16]
        return Guard(partition, sort, fingerprint)

    def award(
        self,
        who: int,
        late: int,
        desired: int,
        around: Callable[[Decide], Decide] = lambda decide: decide,
        **body: Any,
    ) -> None:
        member = self.members[who]
        if late > 9 * DAY and member.model.debt:
            return  # whether points that are dead on arrival pay debt is open to judgement
        at = self.now - late
        event = Event.model_validate(
            {
                "event_id": self.key(),
                "member_id": member.member_id,
                "occurred_at": rfc3339(at),
                **body,
            }
        )
        guard = self.guard(f"e#{event.event_id}")

        def decide(known: Known) -> Decision:
            return earning.award(self.rulebook, known, guard, event, self.now)

        entry = self.commit(member, guard, decide, around)
        on = local_date(at, self.rulebook.program.time_zone)
        self.award_in_model(member, entry, event.type, on, desired)

    def award_in_model(
        self, member: Member, entry: Entry, kind: str, on: date, desired: int
    ) -> None:
        member.model.settle(self.today)
        given = member.model.award(kind, on, desired, self.today)
        assert entry.points == given.points
        if entry.kind != "enrol":
            member.events.append((entry, given))

    def spend(self, who: int, points: int, body: dict[str, Any]) -> Entry | None:
        member = self.members[who]
        command = Redemption.model_validate(body)
        guard = self.guard(f"k#{self.key()}")

        def decide(known: Known) -> Decision:
            return redeeming.redeem(
                self.rulebook, known, guard, member.member_id, command, SECRETS, self.now
            )

        predicted = copy.deepcopy(member.model)
        predicted.settle(self.today)
        missing = points - predicted.available
        if missing > 0:
            refusal = self.refuse(member, guard, decide, "insufficient_points")
            assert refusal.more == {"missing_points": missing}
            return None
        entry = self.commit(member, guard, decide)
        assert entry.points == -points
        member.model.settle(self.today)
        member.model.spend(points)
        member.model.flow["redeemed"] += points
        return entry

    def commit(
        self,
        member: Member,
        guard: Guard,
        decide: Decide,
        around: Callable[[Decide], Decide] = lambda decide: decide,
    ) -> Entry:
        committed = self.store.commit(self.program_id, [member.member_id], guard, around(decide))
        assert not committed.replayed
        self.attempts = committed.attempts
        member.entries.append(committed.entry)
        member.account = None
        member.model.serial += 1
        stored = self.first_answer(committed.entry)
        if stored.kind != "expire":  # what falls due has no key of a client's
            self.sent.append(Sent(guard, member.member_id, decide, stored))
        return committed.entry

    def first_answer(self, entry: Entry) -> Entry:
        """The entry as the table has it: what every later answer is made from."""
        stored = self.store.entry(self.program_id, entry.partition, entry.sort)
        assert stored is not None
        assert (stored.seq, stored.hash, stored.postings) == (entry.seq, entry.hash, entry.postings)
        return stored

    def refuse(
        self,
        member: Member,
        guard: Guard,
        decide: Decide,
        code: str,
    ) -> Refusal:
        """Send a command that is refused: nothing at all changes."""
        before = self.stored(member.member_id)
        with pytest.raises(Refusal) as refused:
            self.store.commit(self.program_id, [member.member_id], guard, decide)
        assert refused.value.code == code
        assert self.stored(member.member_id) == before
        assert self.store.entry(self.program_id, guard.partition, guard.sort) is None
        return refused.value

    # Laws

    def stored(self, member_id: str) -> Account:
        account = self.store.account(self.program_id, member_id, consistent=True)
        assert account is not None
        return account

    @invariant()
    def points_are_what_the_model_says(self) -> None:
        """1, 2, 6, 11: conservation, no dead lots, no limit passed, swept or not."""
        for member in self.members:
            account, model = self.seen(member), copy.deepcopy(member.model)
            # What is due and not yet written down is in the account as it was.
            assert account.lots == _dated(model.lots)
            model.settle(self.today)
            shown = balance(self.rulebook, account, self.now)
            assert shown["available"] == model.available
            assert shown["pending"] == model.waiting.total()
            assert shown["debt"] == model.debt
            assert shown["lifetime_points"] == model.lifetime
            expiring = {row["expires_on"]: row["points"] for row in shown["expiring"]}
            assert expiring == {str(end): n for end, n in (+model.lots).items() if end}
            flow = model.flow
            outstanding = flow["issued"] - flow["redeemed"] - flow["expired"] - flow["reversed"]
            assert outstanding == shown["available"] + shown["pending"] - shown["debt"]

    def seen(self, member: Member) -> Account:
        """The stored account, read once after every command of the member.

        3, 8, 9: its entries are numbered without gaps, and folded from nothing they are it.
        """
        if member.account is None:
            member.account = account = self.stored(member.member_id)
            entries, whole = self.store.history(self.program_id, account)
            assert whole
            assert [e.seq for e in entries] == list(range(len(member.entries), 0, -1))
            folded = Account(program_id=self.program_id, member_id=member.member_id)
            for entry in reversed(entries):
                folded = folded.after(entry)
                assert entry.balance == folded.balance
                for posting in entry.own_postings:
                    if posting.kind == "redeem":
                        assert posting.points == sum(change for _, change in posting.lots)
                        assert all(on > posting.on for on, _ in posting.lots)
            # The index does not hold the entries' hashes; the whole items are read at the end.
            assert replace(folded, hash=account.hash) == account
        return member.account

    def teardown(self) -> None:
        """9: each member's entries are chained by the hashes of what is stored."""
        for member in self.members:
            previous = b""
            for entry in member.entries:
                answer = self.store.client.get_item(
                    TableName=self.tables.ledger,
                    Key=entry_key(self.program_id, entry.partition, entry.sort),
                    ConsistentRead=True,
                )
                item: Any = answer["Item"]
                assert bytes(item["h"]["B"]) == item_hash(item, previous) == entry.hash
                previous = entry.hash
            assert self.stored(member.member_id).hash == previous


def _dated(lots: Counter[date | None]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((NEVER if end is None else number(end), n) for end, n in (+lots).items()))


@pytest.mark.parametrize("terms", ALL_TERMS, ids=lambda terms: terms.document["program_id"])
def test_the_stored_ledger_keeps_its_laws_and_is_what_a_simple_model_says(
    terms: Terms, engine: Engine, new_tables: Callable[[], Tables]
) -> None:
    """The laws 1 to 9 and 11, after every operation of random histories on the real engine."""
    tables = new_tables()
    store = Store(
        connect(endpoint_url=engine.endpoint),
        accounts=tables.accounts,
        ledger=tables.ledger,
        records=tables.records,
        jitter=lambda: 0.0,
    )
    rulebook = Rulebook(publishable(terms.document), 1)
    run_state_machine_as_test(
        lambda: LedgerMachine(store, tables, terms, rulebook),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            # The engine is another process: how long it takes says nothing of this one.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
