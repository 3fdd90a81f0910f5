"""What every decision is made of: a guard, a draft, a result.

A decision is a pure function of (program version, account, command, now). It drafts an entry; the
commit writes the entry and the account it leads to in one transaction, or nothing.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from hashlib import sha256
from typing import Any

from loyalty import tiers
from loyalty.commands import CHECK_IN_EVENT
from loyalty.dates import day_number, from_milliseconds, local_date
from loyalty.lots import advance, due_on
from loyalty.model import MAX_POINTS, Account, Count, Day, Entry, Kind, Posting, Refusal, added
from loyalty.rules import Rulebook


@dataclass(frozen=True, slots=True)
class Guard:
    """The key that makes a command happen once for the life of the ledger, and the fingerprint
    that tells a repeat from another command under the same key."""

    partition: str
    sort: str
    fingerprint: bytes


def event_partition(event_id: str) -> str:
    """Where an event's award and its refunds stand."""
    if event_id.startswith(CHECK_IN_EVENT):
        return key_partition(event_id.removeprefix(CHECK_IN_EVENT))
    return f"e#{event_id}"


def key_partition(key: str) -> str:
    """Where the command under an Idempotency-Key stands."""
    return f"k#{key}"


def redemption_id(entry: Entry) -> str:
    """A redemption's id: its Idempotency-Key, so that it is found by one strongly read."""
    key = entry.partition.removeprefix("k#")
    return "r-" + urlsafe_b64encode(key.encode()).decode().rstrip("=")


def member_id_from_key(program_id: str, key: str) -> str:
    """The id of a member who was enrolled without one: the same for a repeat of the command."""
    digest = sha256(f"member\0{program_id}\0{key}".encode()).digest()
    return "m-" + urlsafe_b64encode(digest[:15]).decode()


@dataclass(frozen=True, slots=True)
class Record:
    """An item of the Records table to be created with the entries, by a key not yet taken."""

    partition: str
    sort: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """Entries to write, one per account touched, the command's own first; new records; and the
    points drawn from budgets by id (below zero: given back)."""

    entries: tuple[Entry, ...]
    records: tuple[Record, ...] = ()
    draws: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """An account on its way to an entry: what fell due is carried out first (FIFO in time), then
    the command posts what it does."""

    rulebook: Rulebook
    before: Account
    now: int
    account: Account = field(init=False)
    recorded_at: int = field(init=False)
    today: Day = field(init=False)
    postings: list[Posting] = field(init=False)

    def __post_init__(self) -> None:
        # For one member time never goes back, whatever the clocks of our servers say.
        self.recorded_at = max(self.now, self.before.recorded_at)
        self.today = day_number(self.local_date(self.recorded_at))
        program = self.rulebook.program
        self.account, self.postings = advance(program, self.before, self.today)

    def local_date(self, instant: int) -> date:
        return local_date(from_milliseconds(instant), self.rulebook.program.zone)

    def instant(self) -> datetime:
        return from_milliseconds(self.recorded_at)

    def post(self, posting: Posting) -> None:
        if posting.lots or posting.pending or posting.debt:
            self.account = self.account.posted(posting)
            self.postings.append(posting)

    def entry(
        self,
        kind: Kind,
        guard: Guard,
        *,
        occurred_at: int | None = None,
        active_on: Day | None = None,
        qualifying: tuple[tuple[Day, int], ...] = (),
        counts: Iterable[Count] = (),
        **rest: Any,
    ) -> Entry:
        """The entry that says all that was drafted; what it granted too late goes at once."""
        program = self.rulebook.program
        at = self.recorded_at if occurred_at is None else occurred_at
        dated = day_number(self.local_date(at))
        active = max(
            (day for day in (active_on, self.before.active_on) if day is not None), default=None
        )
        account = replace(self.account, active_on=active)
        standing = account
        account = replace(account, qualifying=added(account.qualifying, qualifying))
        outdated = tiers.outdated(program, account, self.today)
        account = replace(account, qualifying=added(account.qualifying, outdated))
        if kind == "reverse":
            account = tiers.lowered(program, account, standing, self.today)
        elif qualifying:
            account = tiers.raised(program, account, self.today, dated)
        account, gone = advance(program, account, self.today)
        held = account.available + account.pending_points
        if held > MAX_POINTS and held > self.before.available + self.before.pending_points:
            raise Refusal("too_many_points", f"A member may hold at most {MAX_POINTS} points.")
        return Entry(
            program_id=self.before.program_id,
            member_id=self.before.member_id,
            seq=self.before.seq + 1,
            partition=guard.partition,
            sort=guard.sort,
            fingerprint=guard.fingerprint,
            kind=kind,
            version=self.rulebook.version,
            recorded_at=self.recorded_at,
            occurred_at=at,
            postings=(*self.postings, *gone),
            balance=account.balance,
            active_on=None if active == self.before.active_on else active,
            due_on=due_on(program, account),
            qualifying=(*qualifying, *outdated),
            counts=tuple(sorted(counts, key=lambda count: (count.per, count.name))),
            tier=None if account.tier == self.before.tier else account.tier,
            tier_until=account.tier_until,
            **rest,
        )
