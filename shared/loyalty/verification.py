"""Whether what stands in the tables obeys the ledger's laws.

Pure, and in two views of the same entries that each need little memory. `checked_member` folds one
member's entries, oldest first, against the account that is stored. `checked_key` looks at all that
stands under one key of the ledger, where both sides of a transfer, a merge or a referral and an
event with its refunds stand together. What is left are sums over a program, which a `Tally` keeps.

Items are taken as they are stored, and nothing about them is believed: one that cannot be read is a
violation like any other.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loyalty import refunds
from loyalty.codes import Secrets, voucher_code
from loyalty.dates import Per, day_number, from_milliseconds, local_date
from loyalty.decisions import redemption_id, stock_id
from loyalty.earning import waiting_sort
from loyalty.limits import ONCE, POINTS_SENT, PROGRAM_POINTS, REFERRALS, token
from loyalty.model import Account, Broken, Day, Entry, Refusal
from loyalty.program import Program
from loyalty.redeeming import spent, voucher_key
from loyalty.rules import PROGRAM_BUDGET, Rulebook
from loyalty.wire import (
    Item,
    account_item,
    account_of,
    entry_of,
    is_waiting,
    item_hash,
    waiting_of,
)

MOST_TOLD: Final = 100
"""Violations that are kept one by one of a program; of more than these only the number is told."""

LAWS: Final = {
    "balance": 1,  # available less debt is not what the entry says
    "conservation": 1,  # what was moved does not add up to what is there
    "broken": 2,  # a lot, a debt or a hold would fall below zero
    "expired_lot": 2,  # a debit took from a lot past its date
    "expired_early": 2,  # a lot was let expire before its date
    "revived": 2,  # a lot past its date is still there
    "points": 3,  # the entry's points are not those of its postings
    "key": 4,  # an entry of a kind that cannot stand under its key
    "missing_leg": 4,  # what was written together with it is not there
    "waiting": 4,  # refunds that wait are not as they were left
    "voucher": 4,  # a redemption's voucher is not as its entries say
    "limit": 6,  # a counter passed its limit
    "budget": 6,  # a budget or a stock is not what entries have drawn
    "overdrawn": 6,  # more was drawn than there ever was
    "refund": 7,  # more was taken back than the event gave
    "restored": 7,  # more came back of a redemption than was spent
    "account": 8,  # folding the entries gives another account
    "no_account": 8,  # an entry of a member who has no account
    "missing": 8,  # the account says that there are more entries
    "birthday": 8,  # the account's birthday is not the profile's
    "version": 8,  # a version of the program that was never published
    "gap": 9,  # numbers that no entry of the index has
    "number_twice": 9,  # two entries under one number
    "not_stored": 9,  # the index shows what the ledger does not hold
    "index": 9,  # the index shows something else than the ledger holds
    "hash": 9,  # the stored bytes are not those that were hashed
    "time": 9,  # recorded before the entry that it follows
    "unreadable": 9,  # an item that no code of ours has written
    "legs": 10,  # the sides of a transfer or a merge do not cancel out
    "attribute": 12,  # an attribute that entries do not have
}
"""The law that each kind of violation breaks, by the numbers of docs/proof.md."""

ENTRY_NAMES: Final = frozenset({"pk", "sk", *"mnkpborvwcxeafsh"})
_UNREADABLE: Final = (KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError)
"""What reading an item raises that is not one of ours."""

# Under which keys which kinds may stand, by the letter of the partition and the sort key.
_PLACES: Final = tuple(
    (re.compile(letter), re.compile(sort), frozenset(kinds.split()))
    for letter, sort, kinds in (
        ("e", "[01]", "award"),
        ("k", "0", "redeem hold check_in enrol transfer adjust merge update block unblock"),
        ("k", "0", "close tier"),
        ("k", "capture", "capture"),
        ("k", "cancel", "cancel"),
        ("k", "to", "transfer"),
        ("k", "from", "merge"),
        ("k", "approved", "adjust"),
        ("[ek]", "r#.*", "reverse"),
        ("[ekm]", "referrer", "referral"),
        ("m", "0", "enrol"),
        ("p", "0", "award"),
        ("x", "0", "erase"),
        ("b", r"\d+", "birthday"),
        ("a", r"\d+", "anniversary"),
        ("d", r"\d+", "expire notice tier"),
    )
)


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that does not hold: its kind (a key of LAWS), whose it is, and which entry shows it.

    `member_id` is None for what belongs to no member, `entry` is the key of the entry (partition
    and sort key, a space between; None where it is the account), `seq` its number if it has one.
    """

    code: str
    program_id: str
    member_id: str | None
    entry: str | None
    seq: int | None
    detail: str

    def as_json(self) -> list[Any]:
        return [
            self.code, self.program_id, self.member_id, self.entry, self.seq, self.detail
        ]  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What was found of one program: `entries` that were folded and `members`, points `moved` by
    kind of posting and `outstanding` in accounts, `drawn` from budgets and stocks; the first
    violations, and how many there are in all."""

    entries: int = 0
    members: int = 0
    moved: Counter[str] = field(default_factory=Counter)
    outstanding: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    violated: int = 0

    def blame(self, *violations: Violation) -> None:
        self.violated += len(violations)
        self.violations += violations[: max(0, MOST_TOLD - len(self.violations))]

    def add(self, other: "Tally") -> None:
        self.entries += other.entries
        self.members += other.members
        self.moved.update(other.moved)
        self.outstanding += other.outstanding
        self.drawn.update(other.drawn)
        self.violations += other.violations[: max(0, MOST_TOLD - len(self.violations))]
        self.violated += other.violated

    def as_json(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "members": self.members,
            "moved": dict(self.moved),
            "outstanding": self.outstanding,
            "drawn": dict(self.drawn),
            "violations": [violation.as_json() for violation in self.violations],
            "violated": self.violated,
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> "Tally":
        return cls(
            value["entries"],
            value["members"],
            Counter(value["moved"]),
            value["outstanding"],
            Counter(value["drawn"]),
            [Violation(*row) for row in value["violations"]],
            value["violated"],
        )


class Terms:
    """What laws ask of programs: `rulebook` gives a version of one, or raises a Refusal. What is
    derived from them is kept."""

    def __init__(self, rulebook: Callable[[str, int], Rulebook]) -> None:
        self._rulebook = rulebook
        self._ceilings: dict[tuple[str, int], Mapping[tuple[Per, str], int]] = {}

    def rulebook(self, program_id: str, version: int) -> Rulebook | None:
        """None for a version that was never published."""
        try:
            return self._rulebook(program_id, version)
        except Refusal:
            return None

    def ceilings(self, rulebook: Rulebook) -> Mapping[tuple[Per, str], int]:
        """How far each counter may be raised under that version, by kind of window and name."""
        key = rulebook.program.program_id, rulebook.version
        if key not in self._ceilings:
            self._ceilings[key] = _ceilings(rulebook.program)
        return self._ceilings[key]


def _ceilings(program: Program) -> Mapping[tuple[Per, str], int]:
    found: dict[tuple[Per, str], int] = {
        ("ever", ONCE["referral"]): 1,
        ("ever", ONCE["first_purchase"]): 1,
        ("ever", ONCE["profile_completed"]): 1,
        ("year", ONCE["birthday"]): 1,
        ("year", ONCE["anniversary"]): 1,
    }

    def at_most(per: Per | None, name: str, most: int) -> None:
        if per is not None:
            found[per, name] = min(most, found.get((per, name), most))

    def points(limits: Iterable[Any], name: str) -> None:
        for limit in limits:
            if limit.per != "transaction":
                at_most(limit.per, name, limit.points)

    points(program.limits, PROGRAM_POINTS)
    for rule in program.rules:
        points(rule.limits, token("points", rule.rule_id))
        for frequency in rule.frequency:
            at_most(frequency.per, token("times", rule.rule_id), frequency.times or 0)
    for location in program.locations:
        for scans in location.check_in.limits if location.check_in else ():
            at_most(scans.per, token("location", location.location_id), scans.times)
    for reward in program.rewards:
        for times in reward.limits:
            at_most(times.per, token("reward", reward.reward_id), times.times)
    points(program.transfers.limits if program.transfers else (), POINTS_SENT)
    for brought in program.referral.limits if program.referral else ():
        at_most(brought.per, REFERRALS, brought.times)
    return found


# One member


def checked_member(
    stored: Item, rows: Iterable[tuple[Item, Item | None]], birthday: int, terms: Terms
) -> Tally:
    """What is found of one member: `stored` is its account, `rows` are its entries in the order of
    the index, each as the index shows it and as the ledger holds it (None: not at all), `birthday`
    is the profile's, as MMDD.

    Entries beyond the account's number are left out: they came after it was read. Memory does not
    grow with the entries, only with the windows in which something was counted.
    """
    check = _Member(stored, terms)
    for row, item in rows:
        check.add(row, item)
    check.end(birthday)
    return check.tally


class _Member:
    """A member's entries on their way through."""

    def __init__(self, stored: Item, terms: Terms) -> None:
        self.tally = Tally(members=1)
        self._stored = stored
        self._terms = terms
        self._program_id, _, self._member_id = stored["pk"]["S"].partition("#")
        self._account: Account | None = None
        try:
            self._account = account_of(stored)
        except _UNREADABLE as error:
            self._blame("unreadable", f"the account cannot be read: {error!r}")
        nobody = Account(program_id=self._program_id, member_id=self._member_id)
        self._folded: Account | None = nobody
        self._previous: bytes | None = b""
        self._seq = 0
        self._points = 0
        self._counts: Counter[tuple[Per, int, str]] = Counter()
        self._spent: dict[str, int] = {}
        self._restored: Counter[str] = Counter()

    def _blame(
        self, code: str, detail: str, row: Item | None = None, seq: int | None = None
    ) -> None:
        """What is wrong with an entry, or with what should have that number."""
        if row is not None:
            seq = _number(row)
        entry = None if row is None else _named(self._program_id, row)
        self.tally.blame(
            Violation(code, self._program_id, self._member_id, entry, seq, detail)
        )  # fmt: skip

    def add(self, row: Item, item: Item | None) -> None:
        """The next entry of the index."""
        number = row["n"]["N"]
        if not number.isdecimal() or number == "0":
            self._blame("unreadable", f"no entry has the number {number}", row)
            return
        seq = int(number)
        if self._account is not None and seq > self._account.seq:
            return
        if seq <= self._seq:
            self._blame("number_twice", f"another entry has the number {seq} too", row)
            return
        if seq > self._seq + 1:
            lacking = f"{self._seq + 1}" + (f" to {seq - 1}" if seq > self._seq + 2 else "")
            self._blame("gap", f"the index has no entry {lacking}", seq=self._seq + 1)
            self._previous = self._folded = None
        self._seq = seq
        if item is None:
            self._blame("not_stored", "the index shows it, the ledger does not hold it", row)
            self._previous = self._folded = None
            return
        self.tally.entries += 1
        if row != {name: item.get(name) for name in row}:
            self._blame("index", "the index shows it otherwise than the ledger holds it", row)
        if strange := item.keys() - ENTRY_NAMES:
            self._blame("attribute", f"entries have no attribute {', '.join(sorted(strange))}", row)
        try:
            self._chained(item)
            entry = entry_of(item)
            self._fold(entry, item)
        except _UNREADABLE as error:
            self._blame("unreadable", f"it cannot be read: {error!r}", item)
            self._folded = None

    def _chained(self, item: Item) -> None:
        own = bytes(item["h"]["B"])
        previous, self._previous = self._previous, own
        if previous is not None and item_hash(item, previous) != own:
            self._blame("hash", "its bytes are not those that were hashed after the last", item)

    def _fold(self, entry: Entry, item: Item) -> None:
        if int(item["p"]["N"]) != entry.points:
            self._blame("points", f"its postings move {entry.points} points", item)
        for posting in entry.postings:
            self.tally.moved[posting.kind] += posting.points
            self._points += posting.points
        rulebook = self._terms.rulebook(self._program_id, entry.version)
        if rulebook is None:
            self._blame("version", f"version {entry.version} was never published", item)
        before = self._folded
        if before is None:
            return
        try:
            after = replace(before, seq=entry.seq - 1).after(entry)
        except Broken as broken:
            self._blame("broken", str(broken), item)
            self._folded = None
            return
        self._folded = after
        if after.balance != entry.balance:
            self._blame("balance", f"the balance after it is {after.balance}", item)
        if _total(after) != self._points:
            self._blame("conservation", f"{_total(after)} points of {self._points} moved", item)
        if entry.recorded_at < before.recorded_at:
            self._blame("time", "it was recorded before the entry that it follows", item)
        if rulebook is not None:
            self._in_time(after, entry, rulebook.program, item)
            self._within_limits(entry, rulebook, item)
        self._not_restored_twice(entry, item)

    def _in_time(self, after: Account, entry: Entry, program: Program, item: Item) -> None:
        """2. No debit takes from a lot past its date, and none outlives it."""
        today = day_number(local_date(from_milliseconds(entry.recorded_at), program.zone))
        inactivity = any(policy.inactive_for is not None for policy in program.expiry)
        came: set[Day] = set()
        for posting in entry.postings:
            for end, change in posting.lots:
                if change > 0:
                    came.add(end)  # what is granted too late goes within the same entry
                elif posting.kind == "expire":
                    if end > posting.on and not inactivity:
                        self._blame("expired_early", f"a lot of day {end} went too early", item)
                elif end <= today and end not in came:
                    self._blame("expired_lot", f"a debit from a lot that ended on {end}", item)
        if any(end <= today for end, _ in after.lots):
            self._blame("revived", "a lot is there past its date", item)

    def _within_limits(self, entry: Entry, rulebook: Rulebook, item: Item) -> None:
        """6. No counter passes its limit. A merge adds what both have used, which may be more."""
        ceilings = self._terms.ceilings(rulebook)
        for count in entry.counts:
            used = self._counts[count.per, count.window, count.name] + count.by
            self._counts[count.per, count.window, count.name] = used
            most = ceilings.get((count.per, count.name))
            if most is not None and used > most and count.by > 0 and entry.kind != "merge":
                self._blame("limit", f"{used} of {most} in a {count.per} ({count.name})", item)

    def _not_restored_twice(self, entry: Entry, item: Item) -> None:
        """7. Refunds give back of a redemption no more than it spent."""
        if entry.kind in ("redeem", "hold"):
            self._spent[redemption_id(entry)] = -spent(entry)
        for name, points in (entry.explanation or {}).get("s", ()):
            self._restored[name] += points
            if self._restored[name] > self._spent.get(name, self._restored[name]):
                self._blame("restored", f"{self._restored[name]} points of {name} are back", item)

    def end(self, birthday: int) -> None:
        """After the last entry."""
        account = self._account
        if account is None:
            return
        self.tally.outstanding += _total(account)
        if self._seq != account.seq:
            detail = f"the account is at entry {account.seq}, the last one is {self._seq}"
            self._blame("missing", detail, seq=self._seq + 1)
        elif self._folded is not None:
            folded = account_item(replace(self._folded, birthday=account.birthday))
            names = folded.keys() | self._stored.keys()
            others = sorted(n for n in names if folded.get(n) != self._stored.get(n))
            if others:
                self._blame("account", f"folding gives another {', '.join(others)}")
        if account.birthday != birthday:
            detail = "the account's birthday is not the profile's; a change that was cut off may"
            self._blame("birthday", f"{detail} have left it: set it again")


def _waiting_number(sort: str) -> int:
    """Which refund waits under a sort key, counted from 0; −1 where none can."""
    digits = sort.removeprefix("w#")
    number = int(digits) if digits.isdecimal() else -1
    return number if number >= 0 and waiting_sort(number) == sort else -1


def _total(account: Account) -> int:
    return account.available + account.pending_points + account.held - account.debt


def _number(item: Item) -> int | None:
    """The number of an entry, as far as it has one."""
    whole = str(item.get("n", {}).get("N", "")).partition(".")[0]
    return int(whole) if whole.removeprefix("-").isdecimal() else None


def _named(program_id: str, item: Item) -> str:
    """The key of an entry without its program, to be shown."""
    partition = item["pk"]["S"].removeprefix(f"{program_id}#")
    return f"{partition} {item['sk']['S']}"


# One key


def checked_key(items: Sequence[Item], terms: Terms) -> Tally:
    """What is found of all items that stand under one partition of the ledger, by their sort key:
    whether they may stand there, whether what belongs together is there and adds up; and what they
    drew from budgets and stocks."""
    return _Key(items, terms).tally


class _Key:
    """What stands under one partition."""

    def __init__(self, items: Sequence[Item], terms: Terms) -> None:
        self.tally = Tally()
        self._program_id, _, self._partition = items[0]["pk"]["S"].partition("#")
        self._terms = terms
        self._entries: dict[str, Entry] = {}
        self._waiting: list[Item] = []
        self._proposal: Item | None = None
        for item in items:
            try:
                if is_waiting(item):
                    self._wait(item)
                else:
                    entry = entry_of(item)
                    self._entries[entry.sort] = entry
            except _UNREADABLE as error:
                self._blame("unreadable", f"it cannot be read: {error!r}", item)
        if self.tally.violated:
            return  # what belongs to it cannot be judged
        try:
            self._judge()
        except (Broken, Refusal, *_UNREADABLE) as error:
            for item in items:
                self._blame("unreadable", f"what stands together does not fit: {error!r}", item)

    def _wait(self, item: Item) -> None:
        """Keep what waits: a proposal, or a refund or the end of those. It is in no member's chain,
        and its hash is its own."""
        strange = item.keys() - ENTRY_NAMES or item.keys() & {"m", "n"}
        if strange or item_hash(item, b"") != bytes(item.get("h", {}).get("B", b"")):
            self._blame("waiting", "it is not as it was left", item)
        if waiting_of(item).proposal is None:
            self._waiting.append(item)
            return
        self._proposal = item
        if item["sk"]["S"] != "0" or not self._partition.startswith("k#"):
            self._blame("key", "no proposal stands under such a key", item)

    def _blame(self, code: str, detail: str, what: Item | Entry) -> None:
        if isinstance(what, Entry):
            name = f"{what.partition} {what.sort}"
            told = Violation(code, self._program_id, what.member_id, name, what.seq, detail)
        else:
            member = what["m"]["S"].partition("#")[2] if "S" in what.get("m", {}) else None
            name = _named(self._program_id, what)
            told = Violation(code, self._program_id, member, name, _number(what), detail)
        self.tally.blame(told)

    def _lost(self, code: str, sort: str, detail: str) -> None:
        """Something that belonged to no member is not there."""
        key = f"{self._partition} {sort}"
        self.tally.blame(Violation(code, self._program_id, None, key, None, detail))

    def _judge(self) -> None:
        for entry in self._entries.values():
            if not self._may_stand(entry):
                self._blame("key", f"no {entry.kind} stands under such a key", entry)
        self._wait_in_order()
        self._have_their_legs()
        self._refunds_fit()
        self._draws()

    def _may_stand(self, entry: Entry) -> bool:
        letter, _, name = entry.partition.partition("#")
        own = letter in ("m", "x", "b", "a", "d") and entry.kind != "referral"
        if own and name != entry.member_id:
            return False
        if letter == "d" and entry.sort != str(entry.seq):
            return False
        return any(
            entry.kind in kinds and where.fullmatch(letter) and sort.fullmatch(entry.sort)
            for where, sort, kinds in _PLACES
        )

    def _wait_in_order(self) -> None:
        """Refunds that came before their event: as they were left, none lost; the event closes the
        row behind them and names each of them."""
        award = self._entries.get("1")
        told = [name for name, _ in ((award and award.explanation) or {}).get("w", ())]
        waiting = {item["sk"]["S"]: item for item in self._waiting}
        most = len(told) + 1 if award else max(map(_waiting_number, waiting), default=-1) + 1
        refund_ids = []
        for number in range(most):
            name = waiting_sort(number)
            if name not in waiting:
                self._lost("waiting", name, "a refund that waited, or their end, is not there")
                continue
            item = waiting.pop(name)
            refund = waiting_of(item).refund
            if (refund is None) != (award is not None and number == len(told)):
                self._blame("waiting", "it closes what is open, or is open behind the end", item)
            refund_ids += [] if refund is None else [refund["refund_id"]]
        for item in waiting.values():
            self._blame("waiting", "no refund waits in such a place", item)
        if award and told != refund_ids:
            self._blame("waiting", "those that waited are not those that it took", award)

    def _have_their_legs(self) -> None:
        """4. and 10. What one transaction has written is all there, and cancels out."""
        entries = self._entries
        first = entries.get("0")
        event = self._event()
        for entry in entries.values():
            missing = None
            if entry.kind == "capture" and (first is None or first.kind != "hold"):
                missing = "the hold that it ends"
            elif entry.kind == "cancel" and (first is None or first.kind not in ("redeem", "hold")):
                missing = "the redemption that it undoes"
            elif entry.kind == "reverse" and (event is None or event.kind not in refunds.EVENTS):
                missing = "the event that it takes back"
            elif entry.sort == "approved" and self._proposal is None:
                missing = "the proposal that was approved"
                self._lost("missing_leg", "0", "a proposal that was approved is not there")
            elif entry.kind == "referral" and not self._refers(event):
                missing = "the event that has paid it"
            elif entry.sort.count("#") == 2 and entry.sort.rpartition("#")[0] not in entries:
                missing = "the refund beside it"
            if missing:
                self._blame("missing_leg", f"{missing} is not there", entry)
        if event and self._refers(event) and "referrer" not in entries:
            self._blame("missing_leg", "what the referrer was given is not there", event)
        for kind, other in (("transfer", "to"), ("merge", "from")):
            beside = entries.get(other)
            if first and first.kind == kind and beside is None:
                self._blame("missing_leg", "the other side is not there", first)
            elif beside and (first is None or first.kind != kind):
                self._blame("missing_leg", "the other side is not there", beside)
            elif first and beside and first.points + beside.points:
                self._blame("legs", f"{first.points} and {beside.points} points", first)
                self._blame("legs", f"{first.points} and {beside.points} points", beside)

    def _event(self) -> Entry | None:
        found = [self._entries[sort] for sort in ("0", "1") if sort in self._entries]
        return found[0] if found else None

    def _refers(self, event: Entry | None) -> bool:
        return event is not None and "f" in (event.explanation or ())

    def _refunds(self) -> list[Entry]:
        """The reversals of the event itself, in the order they were recorded."""
        own = [e for e in self._entries.values() if e.kind == "reverse" and e.sort.count("#") == 1]
        return sorted(own, key=lambda entry: (entry.recorded_at, entry.seq))

    def _refunds_fit(self) -> None:
        """7. Refunds take back no more than the event gave, to whomever."""
        event = self._event()
        if event is None or event.kind not in refunds.EVENTS:
            return
        entries = self._entries.values()
        granted = [p for e in entries for p in e.postings if p.kind in ("award", "referral")]
        given, back = sum(posting.points for posting in granted), 0
        for entry in entries:
            back -= sum(p.points for p in entry.postings if p.kind == "reverse")
            if back > given:
                self._blame("refund", f"{back} points are back of {given}", entry)
                return

    def _draws(self) -> None:
        """What was drawn from budgets and stocks, less what came back."""
        drawn = self.tally.drawn
        first, event = self._entries.get("0"), self._event()
        for entry in self._entries.values():
            for name, points in (entry.explanation or {}).get("b", {}).items():
                drawn[name] += points
            for posting in entry.postings:
                if posting.kind in ("lapse", "erase") and posting.hold and posting.hold.drew:
                    drawn[stock_id(posting.hold.reward)] -= posting.hold.drew
        answer = (first.answer or {}) if first else {}
        if first and first.kind in ("redeem", "hold") and answer.get("k"):
            name = stock_id(answer["r"])
            drawn[name] += answer["k"] * (1 - ("cancel" in self._entries))
        if (
            event is not None
            and event.kind in refunds.EVENTS
            and (event.explanation or {}).get("b")
        ):
            rulebook = self._terms.rulebook(self._program_id, event.version)
            if rulebook is not None:
                for name, points in self._returned(event, refunds.Given.by(rulebook, event)):
                    drawn[name] += points

    def _returned(self, event: Entry, given: refunds.Given) -> Iterator[tuple[str, int]]:
        """What budgets got back, below zero."""
        nothing = refunds.Progress(given, given.nothing())
        before = refunds.progress(given, event, ())
        after = refunds.progress(given, event, self._refunds())
        yield from refunds.given_back_to_budgets(given, before, after).items()
        if "w" in given.explanation:
            # When it came, the referral that it pays was not yet part of what it drew.
            drawn = dict(given.explanation["b"])
            referrer = self._entries.get("referrer")
            both = given.referral + (referrer.points if referrer else 0)
            if PROGRAM_BUDGET in drawn:
                drawn[PROGRAM_BUDGET] -= both
            alone = replace(given, explanation={**given.explanation, "b": drawn}, referral=0)
            yield from refunds.given_back_to_budgets(alone, nothing, before).items()


# What stands beside the ledger


@dataclass(frozen=True, slots=True)
class ExpectedVoucher:
    """The voucher that a redemption made: the partition of its record, and what that has to say;
    the `pieces` of a `stock` that the redemption drew."""

    entry: Entry
    partition: str
    cancelled: bool
    stock: str = ""
    pieces: int = 0

    def withdrawn(self, record: Mapping[str, Any] | None) -> bool:
        """Whether it is cancelled though the redemption is not: only a refund does that, and gives
        the pieces back."""
        return record is not None and record["status"] == "cancelled" and not self.cancelled

    def restored_by(self, entry: Entry) -> bool:
        """Whether that entry has given back points of the redemption."""
        told = (entry.explanation or {}).get("s", ())
        return any(name == redemption_id(self.entry) for name, _ in told)

    def violation(self, record: Mapping[str, Any] | None) -> Violation | None:
        """What is wrong with the record as it was found, if no refund has withdrawn it; None where
        it is right."""
        detail = None
        if record is None:
            detail = "its voucher is not there"
        elif record["redemption_id"] != redemption_id(self.entry):
            detail = "its voucher is another redemption's"
        elif (record["status"] == "cancelled") != self.cancelled:
            detail = f"its voucher is {record['status']}"
        if detail is None:
            return None
        entry, name = self.entry, f"{self.entry.partition} {self.entry.sort}"
        return Violation("voucher", entry.program_id, entry.member_id, name, entry.seq, detail)


def voucher(items: Sequence[Item], secrets: Secrets) -> ExpectedVoucher | None:
    """The voucher that what stands under a key has made, if it has made one and the secret that it
    was derived from is still known. Items have to be readable."""
    entries = {e.sort: e for e in (entry_of(item) for item in items if not is_waiting(item))}
    for sort in ("0", "capture"):
        entry = entries.get(sort)
        answer = (entry.answer or {}) if entry else {}
        if entry is None or not {"r", "v"} <= answer.keys() or answer["v"] not in secrets.versions:
            continue
        code = voucher_code(secrets, answer["v"], entry.program_id, redemption_id(entry))
        place = voucher_key(entry.program_id, code)
        drew = (entries["0"].answer or {}) if "0" in entries else {}
        stock, pieces = stock_id(drew.get("r", "")), drew.get("k", 0)
        return ExpectedVoucher(entry, place, "cancel" in entries, stock, pieces)
    return None


def without_account(row: Item, last: int | None) -> Violation | None:
    """What is wrong with an entry of the index beside its member's account, whose number is `last`
    (None: there is no account)."""
    program_id, _, member_id = row["m"]["S"].partition("#")
    number = row["n"]["N"]
    if last is not None and number.isdecimal() and int(number) <= last:
        return None
    detail = "its member has no account"
    if last is not None:
        detail = f"the member's account is at entry {last}"
    name = _named(program_id, row)
    return Violation("no_account", program_id, member_id, name, _number(row), detail)


def summed_up(
    program_id: str,
    tally: Tally,
    budgets: Mapping[str, tuple[int, int] | None],
    most: Mapping[str, int],
) -> Tally:
    """The tally with what only the whole program shows: points moved and outstanding, and budgets.

    `budgets` are (points given by the shards, points left) of each budget and stock that stood
    still while entries were read; None for one that moved, which is not judged this time. `most`
    is the largest total that any version has set.
    """
    if sum(tally.moved.values()) != tally.outstanding:
        moved = sum(tally.moved.values())
        detail = f"{moved} points were moved and {tally.outstanding} are outstanding"
        tally.blame(Violation("conservation", program_id, None, None, None, detail))
    for name in sorted(budgets.keys() | +tally.drawn):
        stands = budgets.get(name, (0, 0))
        if stands is None:
            continue
        given, left = stands
        if given != tally.drawn[name]:
            detail = f"{name}: entries drew {tally.drawn[name]}, {given} are gone"
            tally.blame(Violation("budget", program_id, None, None, None, detail))
        if left < 0 and given > most.get(name, given):
            detail = f"{name}: {given} were drawn of {most[name]}"
            tally.blame(Violation("overdrawn", program_id, None, None, None, detail))
    return tally
