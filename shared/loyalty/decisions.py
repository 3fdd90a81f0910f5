"""What every decision is made of: a guard, a draft, a result.

A decision is a pure function of (program version, account, command, now). It drafts an entry; the
commit writes the entry and the account it leads to in one transaction, or nothing.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from hashlib import sha256
from operator import attrgetter
from typing import Any

from loyalty import tiers
from loyalty.commands import CHECK_IN_EVENT
from loyalty.dates import day_number, from_day_number, from_milliseconds, local_date, window
from loyalty.limits import token
from loyalty.lots import advance, due_on, inactive_on
from loyalty.model import (
    MAX_POINTS,
    Account,
    Count,
    Day,
    Entry,
    Hold,
    Kind,
    Posting,
    Refusal,
    Waiting,
    added,
)
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


def key_of(partition: str) -> str:
    """The Idempotency-Key of what stands there."""
    return partition.removeprefix("k#")


def redemption_id(entry: Entry) -> str:
    """A redemption's id: its Idempotency-Key, so that it is found by one strongly read."""
    return id_of("r", key_of(entry.partition))


def id_of(kind: str, key: str) -> str:
    """The id of what a command under an Idempotency-Key made, safe in a URL path."""
    return f"{kind}-{urlsafe_b64encode(key.encode()).decode().rstrip('=')}"


def redemption_partition(identity: str) -> str | None:
    """Where the redemption of that id stands; None for what cannot be an id."""
    return partition_of("r", identity)


def partition_of(kind: str, identity: str) -> str | None:
    """Where the command stands that made what has this id; None for what cannot be an id."""
    encoded = identity.removeprefix(f"{kind}-")
    try:
        key = urlsafe_b64decode(encoded.encode() + b"=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    # A longer text would not fit into a key of the tables either.
    is_key = 1 <= len(key) <= 128 and "#" not in key
    return key_partition(key) if is_key and identity == id_of(kind, key) else None


def revived_on(draft: "Draft") -> Day | None:
    """The day from which the member counts as active again where inactivity had run out before
    points are given; None where it had not."""
    ran_out = inactive_on(draft.rulebook.program, draft.account) <= draft.today
    return draft.today if ran_out else None


def may_earn(account: Account) -> None:
    """Refusal `member_closed` for a member who earns nothing any more."""
    if account.status == "closed":
        raise Refusal("member_closed", "This membership has ended.")


def may_spend(account: Account) -> None:
    """Refusal `member_blocked` or `member_closed` for a member who may not spend."""
    may_earn(account)
    if account.status == "blocked":
        raise Refusal("member_blocked", "This member is blocked: points may come, none may go.")


def member_id_from_key(program_id: str, key: str) -> str:
    """The id of a member who was enrolled without one: the same for a repeat of the command."""
    digest = sha256(f"member\0{program_id}\0{key}".encode()).digest()
    return "m-" + urlsafe_b64encode(digest[:15]).decode()


@dataclass(frozen=True, slots=True)
class Record:
    """An item of the Records table to be written with the entries: created under a key not yet
    taken or, where it was `seen` at a revision, replaced or (without fields) removed. Without
    either it is removed, whatever it says by now."""

    partition: str
    sort: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Entries to write, one per account touched, the command's own first; records to create,
    replace or remove; `closing` the key (partition, sort) under which no refund may wait any
    more; the points drawn from budgets and pieces from stocks by id (below zero: given back).

    Or no entry, and what `waits` under the command's key: it touches no account, and is written
    only where that of the member `about` stands as it was seen."""

    entries: tuple[Entry, ...]
    records: tuple[Record, ...] = ()
    draws: Mapping[str, int] = field(default_factory=dict)
    closing: tuple[str, str] | None = None
    waits: Waiting | None = None
    about: str = ""

    @property
    def all_draws(self) -> dict[str, int]:
        """`draws`, less the stock of holds that lapsed before these entries."""
        draws = dict(self.draws)
        for posting in (p for entry in self.entries for p in entry.postings):
            if posting.kind == "lapse" and posting.hold and posting.hold.drew:
                name = stock_id(posting.hold.reward)
                draws[name] = draws.get(name, 0) - posting.hold.drew
        return {name: points for name, points in draws.items() if points}


def stock_id(reward_id: str) -> str:
    """Under which a reward's stock is kept, beside the budgets."""
    return f"reward:{reward_id}"


def given_back(hold: Hold) -> Iterator[Count]:
    """What a hold that ends without a redemption gives back of its reward's limits."""
    name = token("reward", hold.reward)
    on = from_day_number(hold.on)
    for per in hold.counted:
        yield Count(per, window(per, on), name, -1)


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
    lapsed: list[Hold] = field(init=False)
    _dates: dict[int, date] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        # For one member time never goes back, whatever the clocks of our servers say.
        self.recorded_at = max(self.now, self.before.recorded_at)
        self.today = day_number(self.local_date(self.recorded_at))
        self.account, self.postings = advanced(self.rulebook, self.before, self.recorded_at)
        self.lapsed = [p.hold for p in self.postings if p.kind == "lapse" and p.hold]

    def local_date(self, instant: int) -> date:
        on = self._dates.get(instant)
        if on is None:
            on = local_date(from_milliseconds(instant), self.rulebook.program.zone)
            self._dates[instant] = on
        return on

    def instant(self) -> datetime:
        return from_milliseconds(self.recorded_at)

    def post(self, posting: Posting) -> None:
        if posting.lots or posting.pending or posting.debt or posting.held:
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
        dropped: tuple[tuple[Day, int], ...] = (),
        counts: Iterable[Count] = (),
        **rest: Any,
    ) -> Entry:
        """The entry that says all that was drafted; what it granted too late goes at once.

        `qualifying` counts towards a tier from now on, `dropped` counts no more, and the drafted
        account is without it already.
        """
        program = self.rulebook.program
        at = self.recorded_at if occurred_at is None else occurred_at
        dated = day_number(self.local_date(at))
        active = max(
            (day for day in (active_on, self.before.active_on) if day is not None), default=None
        )
        account = replace(
            self.account,
            active_on=active,
            qualifying=added(self.account.qualifying, qualifying),
        )
        outdated = tiers.outdated(program, account, self.today)
        if outdated:
            account = replace(account, qualifying=added(account.qualifying, outdated))
        if kind == "reverse":
            account = tiers.lowered(program, account, self.account, self.today)
        elif qualifying:
            account = tiers.raised(program, account, self.today, dated)
        if program.notifications.expiring:
            # Of what comes today the answer tells, and not a notice.
            account = replace(account, noticed_on=self.today)
        account, gone = advance(program, account, self.today, self.recorded_at)
        for hold in self.lapsed:
            counts = (*counts, *given_back(hold))
        before_pin = (self.before.pinned, self.before.pinned_until)
        repinned = (account.pinned, account.pinned_until) != before_pin
        retiered = account.tier != self.before.tier
        # The entry alone has to tell which tier the member is in now.
        names_pin = repinned or (retiered and account.pinned != "")
        names_tier = retiered or (repinned and not account.pinned)
        points = account.available + account.pending_points + account.held
        before = self.before.available + self.before.pending_points + self.before.held
        if points > MAX_POINTS and points > before:
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
            qualifying=(*qualifying, *outdated, *dropped),
            counts=tuple(sorted(counts, key=attrgetter("per", "name"))),
            tier=account.tier if names_tier else None,
            tier_until=account.tier_until,
            pinned=account.pinned if names_pin else None,
            pinned_until=account.pinned_until if names_pin else None,
            noticed_on=account.noticed_on,
            **rest,
        )


def advanced(rulebook: Rulebook, account: Account, at: int) -> tuple[Account, list[Posting]]:
    """The account as it stands at the instant `at` (milliseconds), and the postings that fell due
    on the way: those of a version's reign by its terms, also if nobody has written them down."""
    postings: list[Posting] = []
    reigns = [*rulebook.former(account.recorded_at), (rulebook.program, at + 1)]
    for program, until in reigns:
        today = day_number(local_date(from_milliseconds(until - 1), program.zone))
        account, due = advance(program, account, today, until - 1)
        if postings:
            # In another time zone it may have been the day before again.
            due = [replace(posting, on=max(posting.on, postings[-1].on)) for posting in due]
        postings += due
    return account, postings


def at_one_moment(rulebook: Rulebook, accounts: Iterable[Account], now: int) -> list[Draft]:
    """Drafts of members between whom points pass: at the latest of their times, so that there is
    no moment at which the points are twice or nowhere, nor a day on which they expire on the way.
    """
    accounts = list(accounts)
    now = max(now, *(account.recorded_at for account in accounts))
    return [Draft(rulebook, account, now) for account in accounts]
