"""The nouns: account, posting, entry, refusal.

Points are integers. A *day* is a local date of the program as a number of days since 1970-01-01,
and `NEVER` (which sorts after every day) stands for a lot that does not expire. Instants are
integers too: milliseconds since 1970-01-01T00:00Z.

One idea carries the module: **an account changes only by an entry**. A decision describes what
happens as postings and counts; `Account.after(entry)` is the single place that carries them out,
for the command that is being committed as for the history that is being folded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

from loyalty.dates import Per, from_day_number

NEVER: Final = 9_999_999
"""The expiry day of a lot that never expires."""

MAX_POINTS: Final = 10**15
"""No balance or award passes this: far above any program, far below 64 bits and the 38 digits
of a DynamoDB number, so that sums of many such values stay exact everywhere (JSON included)."""

type Day = int
type Kind = Literal[
    "enrol",
    "award",
    "check_in",
    "referral",
    "birthday",
    "anniversary",
    "redeem",
    "hold",
    "capture",
    "cancel",
    "lapse",
    "reverse",
    "transfer",
    "adjust",
    "merge",
    "expire",
    "activate",
    "notice",
    "tier",
    "update",
    "block",
    "unblock",
    "close",
    "erase",
]
type Status = Literal["", "blocked", "closed", "merged", "erased"]
"""What a member may do: everything; earn but not spend; nothing any more."""

BY_ITSELF: Final = frozenset({"expire", "activate", "lapse", "notice"})
"""Kinds of postings that time makes, whatever command they are written down with."""


def iso(day: Day) -> str | None:
    """A day as YYYY-MM-DD; None for never."""
    return None if day >= NEVER else from_day_number(day).isoformat()


class Refusal(Exception):
    """A command that may not be carried out; it changed nothing.

    `code` is stable and documented (docs/errors.md); `more` holds members that the problem
    document carries besides the standard ones, such as `missing_points`.
    """

    def __init__(self, code: str, detail: str, /, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.more = more


class Broken(Exception):
    """The ledger would contradict itself. Never an answer to a client: a defect, shown loudly."""


class NeedsHistory(Exception):
    """A decision has to know entries recorded since an instant (milliseconds) to go on."""

    def __init__(self, since: int) -> None:
        super().__init__(f"history since {since} needed")
        self.since = since


class NeedsBudgets(Exception):
    """A decision has to know what budgets have left to go on: their totals in points by id, as
    that version of the program sets them."""

    def __init__(self, version: int, totals: Mapping[str, int]) -> None:
        super().__init__(f"budgets {', '.join(totals)} needed")
        self.version = version
        self.totals = totals


class NeedsProfile(Exception):
    """A decision has to look at what is kept of a person to go on."""

    def __init__(self, member_id: str) -> None:
        super().__init__(f"profile of {member_id} needed")
        self.member_id = member_id


class NeedsAccounts(Exception):
    """A decision touches other members too."""

    def __init__(self, member_ids: Sequence[str]) -> None:
        super().__init__(f"accounts of {', '.join(member_ids)} needed")
        self.member_ids = member_ids


@dataclass(frozen=True, slots=True)
class Hold:
    """Points reserved under a redemption's `key`, from the day `on` until an instant (milliseconds)
    at which they lapse; `reward` where one is reserved, `drew` how many pieces of its stock, and
    `counted` the kinds of windows in which it counts towards the reward's limits."""

    key: str
    until: int
    on: Day
    reward: str = ""
    drew: int = 0
    counted: tuple[Per, ...] = ()


@dataclass(frozen=True, slots=True)
class Posting:
    """One movement of points, as history shows it.

    `lots` (expires_on, change), `pending` (available_on, expires_on, change), the change of `held`
    and of `debt` say where the points came from and went to; they always sum to `points`, the
    signed change of available + pending + held − debt. `hold` is the one that begins (`held` above
    zero: it holds what `lots` lose) or ends. `on` is the day it is dated. A notice moves nothing:
    it has `told` of points that will expire, as (expires_on, points).
    """

    kind: Kind
    on: Day
    lots: tuple[tuple[Day, int], ...] = ()
    pending: tuple[tuple[Day, Day, int], ...] = ()
    debt: int = 0
    held: int = 0
    hold: Hold | None = None
    told: tuple[tuple[Day, int], ...] = ()

    @property
    def points(self) -> int:
        return self.balance_change + self.held + sum(change for _, _, change in self.pending)

    @property
    def balance_change(self) -> int:
        """The change of available − debt."""
        return sum(change for _, change in self.lots) - self.debt


@dataclass(frozen=True, slots=True)
class Counts:
    """Counter values by name within one calendar window."""

    window: int
    values: Mapping[str, int]


class Count(NamedTuple):
    """One addition to a counter: `name` in window number `window` of kind `per`."""

    per: Per
    window: int
    name: str
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An immutable row of the ledger.

    `partition` and `sort` are its key and the exactly-once guard (`e#<event_id>`,
    `k#<Idempotency-Key>`, …, without the program). `seq` numbers a member's entries from 1
    without gaps. `event` keeps what a refund must know, `explanation` why an award is what it
    is, `answer` what the first answer held and nothing else can tell; all three are JSON values
    whose keys their owners document. `hash` chains the stored bytes to the entry before it.

    `birthday` goes to the account alone and is not stored with the entry: it is personal, and the
    ledger is for ever.
    """

    program_id: str
    member_id: str
    seq: int
    partition: str
    sort: str = "0"
    kind: Kind
    version: int
    recorded_at: int
    occurred_at: int
    postings: tuple[Posting, ...]
    balance: int
    lifetime: int = 0
    counts: tuple[Count, ...] = ()
    cooldowns: Mapping[str, int] = field(default_factory=dict)
    active_on: Day | None = None
    due_on: Day | None = None
    groups: tuple[str, ...] | None = None
    joined_on: Day | None = None
    birthday: int | None = None
    referrer: str | None = None
    status: Status | None = None
    merged_into: str | None = None
    qualifying: tuple[tuple[Day, int], ...] = ()
    tier: str | None = None
    tier_until: Day | None = None
    pinned: str | None = None
    pinned_until: Day | None = None
    noticed_on: Day | None = None
    reason: str = ""
    event: Any = None
    explanation: Any = None
    answer: Any = None
    fingerprint: bytes = b""
    hash: bytes = b""

    @property
    def points(self) -> int:
        """What the command itself moved: its own postings, without what fell due before it."""
        return sum(posting.points for posting in self.own_postings)

    @property
    def own_postings(self) -> tuple[Posting, ...]:
        """The postings without those that fell due by themselves, which are all of a sweep's."""
        if self.kind in BY_ITSELF:
            return self.postings
        return tuple(p for p in self.postings if p.kind not in BY_ITSELF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Everything decisions need to know of one member, under its version `seq`.

    `lots` are (expires_on, points), ascending, one per date, never empty ones; `pending` are
    (available_on, expires_on, points), ascending. `counters` hold the current window of each
    kind only; `cooldowns` the last time (milliseconds) by name. `holds` are open ones with the
    lots that they were taken from, the first to lapse first. `due_on` is the due date;
    `birthday` the month and day as MMDD (0: unknown), `referrer` the member who brought this one;
    `qualifying` are (first day of the bucket, amount), `tier` is empty until one was reached and
    kept at least until `tier_until`; staff have `pinned` another one in its place before
    `pinned_until`. Up to `noticed_on` the member has been told of points that will expire.
    """

    program_id: str
    member_id: str
    seq: int = 0
    lots: tuple[tuple[Day, int], ...] = ()
    pending: tuple[tuple[Day, Day, int], ...] = ()
    holds: tuple[tuple[Hold, tuple[tuple[Day, int], ...]], ...] = ()
    debt: int = 0
    lifetime: int = 0
    counters: Mapping[Per, Counts] = field(default_factory=dict)
    cooldowns: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    joined_on: Day | None = None
    birthday: int = 0
    referrer: str = ""
    status: Status = ""
    merged_into: str = ""
    qualifying: tuple[tuple[Day, int], ...] = ()
    tier: str = ""
    tier_until: Day | None = None
    pinned: str = ""
    pinned_until: Day | None = None
    noticed_on: Day | None = None
    active_on: Day | None = None
    due_on: Day | None = None
    recorded_at: int = 0
    hash: bytes = b""

    @property
    def available(self) -> int:
        return sum(points for _, points in self.lots)

    @property
    def pending_points(self) -> int:
        return sum(points for _, _, points in self.pending)

    @property
    def held(self) -> int:
        return sum(points for _, lots in self.holds for _, points in lots)

    @property
    def balance(self) -> int:
        """Available minus debt; below zero only through a refund under policy `debt`."""
        return self.available - self.debt

    def posted(self, posting: Posting) -> "Account":
        """The account with the posting carried out; Broken if a lot would go below zero."""
        lots = _moved(self.lots, posting.lots)
        pending = _moved(
            (((start, end), points) for start, end, points in self.pending),
            (((start, end), change) for start, end, change in posting.pending),
        )
        debt = self.debt + posting.debt
        if debt < 0:
            raise Broken("debt below zero")
        return replace(
            self,
            lots=lots,
            pending=tuple((start, end, points) for (start, end), points in pending),
            debt=debt,
            holds=self._holding(posting),
        )

    def _holding(self, posting: Posting) -> tuple[tuple[Hold, tuple[tuple[Day, int], ...]], ...]:
        hold = posting.hold
        if hold is None:
            if posting.held:
                raise Broken("held points without a hold")
            return self.holds
        others = tuple(pair for pair in self.holds if pair[0].key != hold.key)
        if posting.held > 0:
            lots = tuple((end, -change) for end, change in posting.lots)
            if len(others) != len(self.holds) or sum(n for _, n in lots) != posting.held:
                raise Broken("a hold holds what its lots lose, once")
            return tuple(sorted((*others, (hold, lots)), key=lambda p: (p[0].until, p[0].key)))
        if self.held_by(hold.key) != -posting.held:
            raise Broken("a hold ends with all its points")
        return others

    def held_by(self, key: str) -> int:
        """The points of the hold under that key; 0 where there is none."""
        return sum(n for hold, lots in self.holds if hold.key == key for _, n in lots)

    def after(self, entry: Entry) -> "Account":
        """The account as `entry` leaves it. Folding a member's entries from nothing is this."""
        if entry.seq != self.seq + 1:
            raise Broken(f"entry {entry.seq} cannot follow {self.seq}: numbers have no gaps")
        account = self
        for posting in entry.postings:
            account = account.posted(posting)
        return replace(
            account,
            seq=entry.seq,
            lifetime=account.lifetime + entry.lifetime,
            counters=_counted(account.counters, entry.counts),
            cooldowns=_latest(account.cooldowns, entry.cooldowns),
            groups=account.groups if entry.groups is None else entry.groups,
            joined_on=account.joined_on if entry.joined_on is None else entry.joined_on,
            birthday=account.birthday if entry.birthday is None else entry.birthday,
            referrer=account.referrer if entry.referrer is None else entry.referrer,
            status=account.status if entry.status is None else entry.status,
            merged_into=account.merged_into if entry.merged_into is None else entry.merged_into,
            qualifying=added(account.qualifying, entry.qualifying),
            tier=account.tier if entry.tier is None else entry.tier,
            tier_until=entry.tier_until,
            pinned=account.pinned if entry.pinned is None else entry.pinned,
            pinned_until=account.pinned_until if entry.pinned is None else entry.pinned_until,
            noticed_on=account.noticed_on if entry.noticed_on is None else entry.noticed_on,
            active_on=account.active_on if entry.active_on is None else entry.active_on,
            due_on=entry.due_on,
            recorded_at=entry.recorded_at,
            hash=entry.hash,
        )

    def counter(self, per: Per, window: int, name: str) -> int | None:
        """The counter's value in that window; None where a later window has replaced it."""
        counts = self.counters.get(per)
        if counts is None or counts.window < window:
            return 0
        return counts.values.get(name, 0) if counts.window == window else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands under a key and belongs to no member yet: a `refund` that came before its
    purchase, as it was asked for; a `proposal` of an adjustment that another person has to agree
    to, as its first answer needs it (both JSON values); with neither, what stands after the
    last refund: the purchase has come, and none may wait any more."""

    program_id: str
    partition: str
    sort: str
    recorded_at: int
    refund: Any = None
    fingerprint: bytes = b""
    proposal: Any = None


@dataclass(frozen=True, slots=True)
class History:
    """All of a member's entries recorded at or after `since` (milliseconds), newest first; and
    those of members that were merged into it since."""

    since: int
    entries: tuple[Entry, ...]

    def of(self, member_id: str) -> list[Entry]:
        """The member's own entries, and those of members that were merged into it: a history may
        hold those of a second member too."""
        own = {member_id}
        merges = [entry for entry in self.entries if brings_another(entry)]
        for _ in merges:  # one that was merged may have had another merged into it before
            own |= {entry.explanation["m"] for entry in merges if entry.member_id in own}
        return [entry for entry in self.entries if entry.member_id in own]


def brings_another(entry: Entry) -> bool:
    """Whether another member was merged into the entry's: its `explanation` names it as `m`."""
    return entry.kind == "merge" and "m" in (entry.explanation or ())


@dataclass(frozen=True, slots=True)
class Known:
    """What a decision is made on: accounts by member (None: no such member), their history if it
    was asked for, the points left in budgets that were asked for, and profiles that were asked
    for, to be compared and for nothing else: they are personal, and no entry may tell of them.

    What a decision asks for it asks for at once, as far as it can tell: how often it asks must not
    depend on the program, nor on what is stored.
    """

    accounts: Mapping[str, Account | None]
    history: History | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def profile(self, member_id: str) -> Mapping[str, Any]:
        """What is kept of a person, maybe nothing; NeedsProfile if it was not read."""
        if member_id not in self.profiles:
            raise NeedsProfile(member_id)
        return self.profiles[member_id]

    def history_since(self, since: int) -> History:
        """What was recorded at or after an instant (milliseconds), and maybe before; NeedsHistory
        if it was not read so far back."""
        if self.history is None or self.history.since > since:
            raise NeedsHistory(since)
        return self.history

    def ask_for(self, member_ids: Iterable[str]) -> None:
        """NeedsAccounts of those of these members whose accounts were not read."""
        unknown = [m for m in dict.fromkeys(member_ids) if m not in self.accounts]
        if unknown:
            raise NeedsAccounts(unknown)

    def account(self, member_id: str) -> Account:
        """The member's account, or the one that it was merged into; NeedsAccounts if it was not
        read. Refusal `member_not_found` if there is none, `member_erased` if there was one."""
        for _ in range(len(self.accounts) + 1):
            self.ask_for([member_id])
            account = self.accounts[member_id]
            if account is None:
                raise Refusal("member_not_found", "No member of this program has this id.")
            if account.status == "erased":
                raise Refusal("member_erased", "This member has been erased.")
            if not account.merged_into:
                return account
            member_id = account.merged_into
        raise Broken("members who were merged in a circle")


def _moved[K](
    lots: Iterable[tuple[K, int]], changes: Iterable[tuple[K, int]]
) -> tuple[tuple[K, int], ...]:
    held = dict(lots)
    for key, change in changes:
        held[key] = held.get(key, 0) + change
        if held[key] < 0:
            raise Broken("a lot below zero")
    return tuple(sorted((key, points) for key, points in held.items() if points))


def added(
    buckets: tuple[tuple[Day, int], ...], changes: tuple[tuple[Day, int], ...]
) -> tuple[tuple[Day, int], ...]:
    """Buckets with changes added; empty ones are dropped."""
    if not changes:
        return buckets
    amounts = dict(buckets)
    for start, change in changes:
        amounts[start] = amounts.get(start, 0) + change
    return tuple(sorted((start, amount) for start, amount in amounts.items() if amount))


def _counted(counters: Mapping[Per, Counts], added: tuple[Count, ...]) -> Mapping[Per, Counts]:
    if not added:
        return counters
    result = dict(counters)
    for count in added:
        known = result.get(count.per)
        if known is None or known.window < count.window:
            result[count.per] = Counts(count.window, {count.name: count.by})
        elif known.window == count.window:
            values = dict(known.values)
            values[count.name] = values.get(count.name, 0) + count.by
            if not values[count.name]:
                del values[count.name]
            result[count.per] = Counts(known.window, values)
        # An older window is not kept: whoever needs it folds the history.
    return result


def _latest(known: Mapping[str, int], added: Mapping[str, int]) -> Mapping[str, int]:
    return {**known, **{name: max(at, known.get(name, at)) for name, at in added.items()}}
