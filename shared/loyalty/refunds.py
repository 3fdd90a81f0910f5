"""Decisions that take back what an event gave.

A refund says which part of each line came back. What the event is left with is a pure function of
that part: so refunds are cumulative, in any order, and the last one takes the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Final

from loyalty.commands import Event, Line, Purchase, Reversal
from loyalty.dates import Duration, day_number, from_day_number, from_milliseconds, local_date, plus
from loyalty.decisions import Decision, Draft, Guard, Record, redemption_id
from loyalty.explanations import reasons_of, shares_of
from loyalty.limits import Usage
from loyalty.lots import credit, take
from loyalty.model import (
    MAX_POINTS,
    Account,
    Count,
    Day,
    Entry,
    History,
    Known,
    Posting,
    Refusal,
    Waiting,
    brings_another,
)
from loyalty.redeeming import Spending, restored_before, returned, spent, undone, withdrawn
from loyalty.rounding import spread
from loyalty.rules import (
    PROGRAM_BUDGET,
    Reason,
    Rulebook,
    Share,
    earning_base,
)
from loyalty.tiers import moved

type Parts = list[tuple[int, int, int]]
"""What came back: line number i and the part n/d of it, as (i, n, d)."""

EVENTS: Final = ("award", "check_in")
"""Kinds of entries that can be taken back."""
_STAYS_UNMET: Final = frozenset(
    {"not_started", "ended", "inactive", "channel", "location", "group", "tier", "weekday"}
    | {"hours", "attributes", "not_first_purchase", "frequency", "cooldown", "limit"}
)


def stored_event(
    rulebook: Rulebook, event: Event, points: Sequence[int], tier: str
) -> dict[str, Any]:
    """What a refund must know of an event, without what is empty; `points` are those of its lines.

    `c` channel, `o` location, `a` attributes that some condition names, `l` lines as [line_id,
    quantity, amount, points, product, categories, brand, discounted] cut after the last value that
    says something, `i` the member's tier, `x` tax, `s` shipping, `p` paid with points,
    `r` redemptions.
    """
    stored: dict[str, Any] = {}
    if event.channel is not None:
        stored["c"] = event.channel
    if event.location_id is not None:
        stored["o"] = event.location_id
    named = {k: v for k, v in event.attributes.items() if k in rulebook.named_attributes}
    if named:
        stored["a"] = named
    if event.purchase is not None:
        purchase = event.purchase
        lines = []
        for line, n in zip(purchase.lines, points, strict=True):
            row = [line.line_id, line.quantity, line.amount, n]
            row += [line.product_id, line.category_ids, line.brand_id, int(line.discounted)]
            while not row[-1] and len(row) > 4:
                row.pop()
            lines.append(row)
        stored["l"] = lines
        extras = {
            "i": tier,
            "x": purchase.tax,
            "s": purchase.shipping,
            "p": purchase.paid_with_points,
            "r": purchase.redemption_ids,
        }
        stored |= {key: value for key, value in extras.items() if value}
    return stored


def _line(row: Sequence[Any]) -> Line:
    line_id, quantity, amount, _, *more = row
    rest: list[Any] = [*more, None, None, None, None]
    product, categories, brand, discounted = rest[:4]
    return Line.model_construct(
        line_id=line_id,
        quantity=quantity,
        amount=amount,
        product_id=product,
        category_ids=categories or [],
        brand_id=brand,
        discounted=bool(discounted),
    )


@dataclass(frozen=True)
class Given:
    """What an event gave, as it was recorded: `rulebook` is the version it was decided under,
    `points` are those of rules and offers, `referral` those of a referral."""

    rulebook: Rulebook
    member_id: str
    type: str
    occurred_at: int
    stored: Mapping[str, Any]
    explanation: Mapping[str, Any]
    points: int
    referral: int

    @classmethod
    def by(cls, rulebook: Rulebook, entry: Entry) -> "Given":
        explanation = entry.explanation or {"r": ""}
        given = sum(p.points for p in _grants(entry.postings))
        referral = explanation.get("f", (0, 0))[0]
        return cls(
            rulebook,
            entry.member_id,
            entry.reason,
            entry.occurred_at,
            entry.event or {},
            explanation,
            given - referral,
            referral,
        )

    @cached_property
    def lines(self) -> list[Line]:
        return [_line(row) for row in self.stored.get("l", ())]

    @cached_property
    def event(self) -> Event:
        purchase = None
        if self.lines:
            purchase = Purchase.model_construct(
                currency=self.rulebook.program.currency,
                lines=self.lines,
                tax=self.stored.get("x", 0),
                shipping=self.stored.get("s", 0),
                paid_with_points=self.stored.get("p", 0),
                redemption_ids=self.stored.get("r", []),
            )
        return Event.model_construct(
            event_id="",
            type=self.type,
            member_id=self.member_id,
            channel=self.stored.get("c"),
            location_id=self.stored.get("o"),
            attributes=self.stored.get("a", {}),
            purchase=purchase,
        )

    @cached_property
    def bases(self) -> tuple[int, ...]:
        purchase = self.event.purchase
        return earning_base(self.rulebook.program, purchase) if purchase else ()

    @cached_property
    def shares(self) -> list[Share]:
        return shares_of(self.rulebook, self.explanation, self.event, self.occurred_at)

    def nothing(self) -> list[Fraction]:
        """Of each line the part that came back, before any refund."""
        return [Fraction(0)] * len(self.lines)

    def part(self, back: Sequence[Fraction]) -> Fraction:
        """Which part of the whole event came back, by what the lines cost."""
        amounts = [line.amount for line in self.lines]
        if not sum(amounts):
            return sum(back, Fraction(0)) / max(1, len(back))
        worth = (a * part for a, part in zip(amounts, back, strict=True))
        return sum(worth, Fraction(0)) / sum(amounts)

    def base_left(self, back: Sequence[Fraction]) -> Fraction:
        """The earning base of what the customer keeps, in minor units."""
        kept = (b * (1 - part) for b, part in zip(self.bases, back, strict=True))
        return sum(kept, Fraction(0))

    def refers(self, back: Sequence[Fraction], *, whole: bool) -> bool:
        """Whether what the customer keeps would still pay the referral."""
        terms = self.rulebook.program.referral
        least = terms.min_amount if terms else None
        return not whole and (least is None or self.base_left(back) >= least)

    def taken(self, back: Sequence[Fraction], *, whole: bool) -> int:
        """How many points are taken back in all when these parts of the lines have come back."""
        if whole:
            return self.points
        if not self.lines:
            return 0  # it is taken back as a whole or not at all
        match self.rulebook.program.refunds.method:
            case "per_line":
                return self._per_line(back)
            case "proportional":
                return int(self.points * self.part(back))
            case _:
                return self.points - min(self.points, self._recomputed(back))

    def _per_line(self, back: Sequence[Fraction]) -> int:
        taken = 0
        by_line = [0] * len(self.lines)
        left = self.base_left(back)
        for share in self.shares:
            source = self.rulebook.program.rules[share.index : share.index + 1]
            when = source[0].when if source else None
            least = when.min_amount if when else None
            remains = any(back[i] < 1 for i in share.lines)
            if not remains or (least is not None and left < least):
                taken += share.points  # a bonus that what is kept would not have earned
            elif not share.fixed:
                for i, points in share.lines.items():
                    by_line[i] += points
        return taken + sum(int(n * part) for n, part in zip(by_line, back, strict=True))

    def _recomputed(self, back: Sequence[Fraction]) -> int:
        """What the version and tier of the event give for what is kept, without window limits."""
        lines = [
            line.model_copy(
                update={
                    "quantity": -int(-line.quantity * (1 - part) // 1),
                    "amount": line.amount - int(line.amount * part),
                }
            )
            for line, part in zip(self.lines, back, strict=True)
            if part < 1
        ]
        purchase = self.event.purchase
        if not lines or purchase is None:
            return 0
        kept = 1 - self.part(back)
        update = {
            "lines": lines,
            "tax": int(purchase.tax * kept),
            "shipping": int(purchase.shipping * kept),
            "paid_with_points": int(purchase.paid_with_points * kept),
        }
        event = self.event.model_copy(update={"purchase": purchase.model_copy(update=update)})
        program = self.rulebook.program
        nobody = Account(
            program_id=program.program_id,
            member_id=self.member_id,
            tier=self.stored.get("i", ""),
        )
        on = local_date(from_milliseconds(self.occurred_at), program.zone)
        usage = Usage(nobody, on, program.zone, History(0, ()), free=True)
        plenty = dict.fromkeys(self.rulebook.budgets, MAX_POINTS)
        reasons = reasons_of(self.rulebook, self.explanation, self.type)
        barred: dict[int, Reason] = {i: r for i, r in reasons.items() if r in _STAYS_UNMET}
        # Who was in a group when it counted is not asked again.
        groups = {g for i, r in reasons.items() if r not in _STAYS_UNMET for g in self._groups(i)}
        nobody = replace(nobody, groups=tuple(groups))
        return self.rulebook.evaluate(nobody, event, self.occurred_at, usage, plenty, barred).points

    def _groups(self, index: int) -> Sequence[str]:
        source = self.rulebook.sources[index]
        groups = getattr(source, "groups", None)
        if groups is None:
            when = getattr(source, "when", None)
            groups = when.groups if when else ()
        return tuple(groups)


def _grants(postings: Sequence[Posting]) -> list[Posting]:
    """The postings that credited what the event gave."""
    return [posting for posting in postings if posting.kind in ("award", "referral")]


def parts_of(given: Given, refund: Reversal, back: Sequence[Fraction]) -> Parts | None:
    """What a refund says came back, after `back` came before; None for all that is left.

    Refusals: `more_than_bought`, `line_not_found`.
    """
    number = {line.line_id: i for i, line in enumerate(given.lines)}
    parts: Parts = []
    if refund.amount is not None:
        left = [line.amount * (1 - part) for line, part in zip(given.lines, back, strict=True)]
        if refund.amount > sum(left):
            raise Refusal("more_than_bought", "So much is not left of this purchase.")
        if refund.amount == sum(left):
            return None
        scale = lcm(*(part.denominator for part in left))
        weights = [int(part * scale) for part in left]
        shares = spread(refund.amount, weights)
        return [(i, n, given.lines[i].amount) for i, n in enumerate(shares) if n]
    if refund.lines is None:
        return None
    for at, line in enumerate(refund.lines):
        i = number.get(line.line_id)
        if i is None:
            raise Refusal(
                "line_not_found", "The purchase has no such line.", pointer=f"/lines/{at}/line_id"
            )
        bought = given.lines[i]
        if line.quantity is not None:
            part = Fraction(line.quantity, bought.quantity)
        elif line.amount is not None:
            part = Fraction(line.amount, bought.amount) if bought.amount else Fraction(2)
        else:
            part = 1 - back[i]
        if not part or back[i] + part > 1:
            raise Refusal(
                "more_than_bought",
                "So much is not left of this line.",
                pointer=f"/lines/{at}",
            )
        parts.append((i, part.numerator, part.denominator))
    return parts


@dataclass(slots=True)
class Progress:
    """How far an event has been taken back: the part of each line, whether all of it is, and how
    many points that took: what a refund has taken the next one does not take again, even where
    what is kept now would earn more than before."""

    given: Given
    back: list[Fraction]
    whole: bool = False
    taken: int = 0

    def add(self, parts: Parts | None) -> None:
        """Carry out one more refund; what is said too much is taken as everything."""
        if parts is None:
            self.whole = True
        for i, n, d in parts or ():
            self.back[i] = min(Fraction(1), self.back[i] + Fraction(n, d))
        if self.whole or (self.back and all(part == 1 for part in self.back)):
            self.whole, self.back = True, [Fraction(1)] * len(self.back)
        self.taken = max(self.taken, self.given.taken(self.back, whole=self.whole))

    @property
    def referral_ended(self) -> bool:
        """Whether what the customer keeps would no longer pay the referral."""
        return not self.given.refers(self.back, whole=self.whole)


def progress(given: Given, event: Entry, refunds: Sequence[Entry]) -> Progress:
    """Where the refunds of an event, in the order they were recorded, have come to."""
    so_far = Progress(given, given.nothing())
    for _, parts in (event.explanation or {}).get("w", ()):
        so_far.add(parts)
    for refund in refunds:
        so_far.add((refund.event or {}).get("b"))
    return so_far


@dataclass(frozen=True, slots=True)
class Restored:
    """What becomes of the redemptions that paid for what came back: `points` by redemption_id,
    vouchers that are cancelled, and what these had counted and drawn."""

    points: Sequence[tuple[str, int]] = ()
    vouchers: tuple[Record, ...] = ()
    counts: tuple[Count, ...] = ()
    draws: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Returned:
    """What had come back before its event came: the points it takes, the earning base that is left
    (minor units), what budgets keep, what paid for it; `told` is each refund as [refund_id,
    parts]."""

    given: Given
    progress: Progress
    points: int
    base: Fraction
    budgets: Mapping[str, int]
    restored: Restored
    told: list[Any]

    @property
    def whole(self) -> bool:
        return self.progress.whole

    def qualified(self, amount: int) -> int:
        """How much of what the event counts towards a tier it does not count."""
        tiers = self.given.rulebook.program.tiers
        if self.whole or tiers is None:
            return amount
        if tiers.qualify_by == "points":
            return min(amount, self.points)
        base = sum(self.given.bases)
        return int(amount * (1 - self.base / base)) if base else 0


def waited(
    draft: Draft,
    known: Known,
    given: Given,
    waiting: Sequence[Waiting],
    paid: Sequence[Spending],
) -> Returned:
    """What refunds that came before the event take back of it; what had `paid` for it is posted
    back at once. They were acknowledged, so that what does not fit is left out."""
    so_far = Progress(given, given.nothing())
    told: list[Any] = []
    for waits in waiting:
        if waits.refund is None:
            continue
        refund = Reversal.model_validate(waits.refund)
        try:
            parts = parts_of(given, refund, so_far.back)
        except Refusal:
            bought = {line.line_id for line in given.lines}
            if refund.amount is None and not any(r.line_id in bought for r in refund.lines or ()):
                parts = []
            else:
                parts = None if refund.amount else _clamped(given, refund)
        so_far.add(parts)
        told.append([refund.refund_id, parts])
    return Returned(
        given,
        so_far,
        so_far.taken,
        given.base_left(so_far.back),
        given_back_to_budgets(given, Progress(given, given.nothing()), so_far),
        _restore(draft, known, given, Progress(given, given.nothing()), so_far, paid),
        told,
    )


def _clamped(given: Given, refund: Reversal) -> Parts:
    parts: Parts = []
    number = {line.line_id: i for i, line in enumerate(given.lines)}
    for line in refund.lines or ():
        i = number.get(line.line_id)
        if i is None:
            continue
        bought = given.lines[i]
        n, d = 1, 1
        if line.quantity is not None:
            n, d = line.quantity, bought.quantity
        elif line.amount is not None:
            n, d = line.amount, bought.amount or 1
        parts.append((i, min(n, d), d))
    return parts


def reverse(
    rulebook: Rulebook,
    given: Given,
    known: Known,
    guard: Guard,
    entries: Sequence[Entry],
    refund: Reversal,
    paid: Sequence[Spending],
    now: int,
) -> Decision:
    """Take back what an event gave, or a part of it.

    `entries` are all that stand under its key, the award first; `paid` are the redemptions that it
    names. Points are taken from the event's own pending part, then from its lots, then by the
    program's policy from other lots, or not at all, or as debt. What had expired is not taken
    twice, and what nothing covers is forgiven. Points that paid for it come back to their old lots,
    and a voucher of theirs that was not used is cancelled. Refusals: `member_erased`,
    `more_than_bought`, `line_not_found`.
    """
    event, *others = entries
    if event.kind not in EVENTS:
        raise Refusal("event_not_found", "What stands under this key is no event.")
    own = [e for e in others if e.kind == "reverse" and e.sort.count("#") == 1]
    own.sort(key=lambda entry: (entry.recorded_at, entry.seq))  # a merge begins other numbers
    before = progress(given, event, own)
    if before.whole:
        raise Refusal("more_than_bought", "Everything this event gave has been taken back.")
    if not given.lines and (refund.lines is not None or refund.amount is not None):
        raise Refusal("more_than_bought", "This event has no lines: it is taken back as a whole.")
    parts = parts_of(given, refund, before.back)
    after = Progress(given, list(before.back), taken=before.taken)
    after.add(parts)
    if after.whole:
        parts = None
    points = after.taken - before.taken
    referral_ends = after.referral_ended and not before.referral_ended
    draft = Draft(rulebook, known.account(event.member_id), now)
    restored = _restore(draft, known, given, before, after, paid)
    taken = points + (given.referral if referral_ends else 0)
    brought = [e for e in others if e.kind == "referral"] if referral_ends else []
    same, apart = _referrers(draft, known, brought)
    entry = _taken_back(
        draft,
        known,
        guard,
        event,
        taken,
        _claimed([event, *own]),
        qualifying=_qualified(given, points, before, after),
        stored={} if parts is None else {"b": parts},
        restored=restored,
        same=same,
    )
    done = [entry]
    for other in apart:
        beside = Guard(guard.partition, f"{guard.sort}#{other.sort}", guard.fingerprint)
        account = Draft(rulebook, known.account(other.member_id), now)
        done.append(_taken_back(account, known, beside, other, other.points, {}, qualifying=None))
    draws = {**given_back_to_budgets(given, before, after), **restored.draws}
    return Decision(tuple(done), restored.vouchers, draws)


def _referrers(
    draft: Draft, known: Known, brought: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """What referrers were given, apart for those who are one with the drafted member by now; from
    who was erased nothing can be taken back."""
    same: list[Entry] = []
    apart: list[Entry] = []
    for entry in brought:
        try:
            account = known.account(entry.member_id)
        except Refusal:
            continue
        (same if account.member_id == draft.before.member_id else apart).append(entry)
    return same, apart


def given_back_to_budgets(given: Given, before: Progress, after: Progress) -> dict[str, int]:
    """What budgets get back, cumulatively: a campaign's in proportion to the points taken back, the
    program's, which paid every point, just those."""

    def back(progress: Progress, name: str, drawn: int) -> int:
        if progress.whole:
            return drawn
        if name == PROGRAM_BUDGET:
            referral = drawn - given.points if progress.referral_ended else 0
            return min(drawn, progress.taken + referral)
        return drawn * progress.taken // given.points if given.points else 0

    drawn = given.explanation.get("b", {}).items()
    draws = {name: back(before, name, n) - back(after, name, n) for name, n in drawn}
    return {name: points for name, points in draws.items() if points}


def _qualified(given: Given, points: int, before: Progress, after: Progress) -> int:
    """How much of what the event counted towards a tier it counts no more."""
    tiers = given.rulebook.program.tiers
    if tiers is None or tiers.qualify_by == "points":
        return points
    base = sum(given.bases)
    gone = [int(base - given.base_left(progress.back)) for progress in (before, after)]
    return gone[1] - gone[0]


def _restore(
    draft: Draft,
    known: Known,
    given: Given,
    before: Progress,
    after: Progress,
    paid: Sequence[Spending],
) -> Restored:
    """Post back the points that paid for what came back. With the first of them a voucher that was
    not used is cancelled, as if the redemption had been: the order that it was for is no more."""
    restored: list[tuple[str, int]] = []
    vouchers: list[Record] = []
    counts: list[Count] = []
    draws: dict[str, int] = {}
    today = draft.today
    grace = draft.rulebook.program.refunds.expired_grace
    own = _own(draft, known, paid)
    if own:
        known.history_since(min(spending.entries[0].recorded_at for spending in own))
    for spending in own:
        first = spending.entries[0]
        whole = -spent(first)
        at_all = int(whole * (1 if after.whole else given.part(after.back)))
        so_far = restored_before(known, first)
        points = min(at_all - int(whole * given.part(before.back)), whole - so_far)
        if points <= 0:
            continue
        lots = [
            (today, _with_grace(end, today, grace), part)
            for end, part in returned(first, points, so_far)
        ]
        draft.post(credit(draft.account, "cancel", today, lots, today))
        restored.append((redemption_id(first), points))
        if spending.voucher is not None and spending.voucher["status"] == "issued":
            vouchers.append(withdrawn(spending.voucher))
            uncounted, given_back = undone(draft, first)
            counts += uncounted
            for name, pieces in given_back.items():
                draws[name] = draws.get(name, 0) + pieces
    return Restored(restored, tuple(vouchers), tuple(counts), draws)


def _own(draft: Draft, known: Known, paid: Sequence[Spending]) -> list[Spending]:
    """Those that the drafted member made and that were not cancelled."""
    kept = [s for s in paid if all(entry.kind != "cancel" for entry in s.entries)]
    known.ask_for(spending.entries[0].member_id for spending in kept)
    return [spending for spending in kept if _is_own(draft, known, spending.entries[0])]


def _is_own(draft: Draft, known: Known, redemption: Entry) -> bool:
    """Whether the drafted member made the redemption, be it under an id that it had before."""
    try:
        return known.account(redemption.member_id).member_id == draft.before.member_id
    except Refusal:
        return False  # somebody else's, who was erased


def _with_grace(end: Day, today: Day, grace: Duration) -> Day:
    """Points whose date has passed live on for the grace period, others to their own date."""
    return end if end > today else max(end, day_number(plus(from_day_number(today), grace)))


def _claimed(entries: Sequence[Entry]) -> dict[Day, int]:
    """How many points of its lots an event has been asked for so far, by their expiry."""
    claimed: dict[Day, int] = {}
    for entry in entries:
        for end, points in (entry.explanation or {}).get("t", ()):
            claimed[end] = claimed.get(end, 0) + points
    return claimed


def _taken_back(
    draft: Draft,
    known: Known,
    guard: Guard,
    event: Entry,
    points: int,
    claimed: dict[Day, int],
    *,
    qualifying: int | None,
    stored: dict[str, Any] | None = None,
    restored: Restored | None = None,
    same: Sequence[Entry] = (),
) -> Entry:
    """The entry that takes back from one member what one entry gave, and what others gave the
    `same` member beside it."""
    explanation = take_back(draft, known, event, _grants(event.postings), points, claimed)
    for other in same:
        told = take_back(draft, known, other, _grants(other.postings), other.points, {})
        points += other.points
        for name in told.keys() - {"t"}:
            nothing: Any = [] if name == "x" else 0
            explanation[name] = explanation.get(name, nothing) + told[name]
    if restored and restored.points:
        explanation["s"] = list(restored.points)
    return draft.entry(
        "reverse",
        guard,
        lifetime=-points,
        counts=restored.counts if restored else (),
        qualifying=_unqualified(draft, known, event, qualifying),
        reason=event.partition.partition("#")[2],
        event=stored or None,
        # In the index: later refunds of the same lot must not count the same expiry again.
        explanation=explanation or None,
    )


def take_back(
    draft: Draft,
    known: Known,
    event: Entry | None,
    grants: Sequence[Posting],
    points: int,
    claimed: dict[Day, int],
) -> dict[str, Any]:
    """Post `points` back from what `grants` credited, after `claimed` of it (by expiry) were taken
    before; then by the program's policy. `event` is None where its entry is being made now.

    What to explain: `t` points claimed by lot, `x` of them expired, `y` expired as they came, `o`
    forgiven.
    """
    posting = Posting("reverse", draft.today)
    expired: dict[Day, int] = {}
    arrived = 0
    asked: dict[Day, int] = {}
    left = points
    parts = [part for grant in grants for part in grant.pending]
    parts += [(0, end, n) for grant in grants for end, n in grant.lots]
    for start, end, granted in parts:
        before = min(claimed.get(end, 0), granted)
        claimed[end] = claimed.get(end, 0) - before
        wanted = min(left, granted - before)
        if not wanted:
            continue
        left -= wanted
        asked[end] = asked.get(end, 0) + wanted
        waiting = sum(n for s, e, n in draft.account.pending if start and (s, e) == (start, end))
        waiting += sum(n for s, e, n in posting.pending if (s, e) == (start, end))
        part = min(wanted, waiting)
        posting = _and(posting, pending=((start, end, -part),))
        from_lot = _from_lot(draft, posting, end, wanted - part)
        posting = _and(posting, lots=from_lot)
        missing = wanted - part + _sum(from_lot)
        if event is not None and not start:
            at_once = min(missing, _gone(_on_arrival(event), end))
            arrived += at_once
            missing -= at_once
        gone = _expired(draft, known, event, end, missing, expired.get(end, 0))
        if gone:
            expired[end] = expired.get(end, 0) + gone
    draft.post(posting)
    short = points + posting.points - sum(expired.values()) - arrived
    policy = draft.rulebook.program.refunds.shortfall
    more = 0 if policy == "clamp" else min(short, draft.account.available)
    draft.post(take(draft.account, "reverse", draft.today, more))
    if policy == "debt" and short > more:
        draft.post(Posting("reverse", draft.today, debt=short - more))
        more = short
    told = {
        "t": sorted(asked.items()),
        "x": sorted(expired.items()),
        "y": arrived,
        "o": short - more,
    }
    return {name: value for name, value in told.items() if value}


def _unqualified(
    draft: Draft, known: Known, event: Entry, points: int | None
) -> tuple[tuple[int, int], ...]:
    """What the event counted towards a tier, or so much of it, taken back from where it counts."""
    counting = dict(draft.account.qualifying)
    taken = []
    for start, amount in _where_it_counts(draft, known, event):
        if amount > 0 and start in counting:
            part = min(amount, counting[start], amount if points is None else points)
            if part:
                taken.append((start, -part))
    return tuple(taken)


def _where_it_counts(draft: Draft, known: Known, event: Entry) -> tuple[tuple[int, int], ...]:
    """What the event counted, in the buckets into which merges have put it since."""
    terms = draft.rulebook.program.tiers
    buckets, member_id = event.qualifying, event.member_id
    while terms is not None and member_id != draft.before.member_id:
        merged = known.accounts.get(member_id)
        into = merged and known.accounts.get(merged.merged_into)
        if merged is None or into is None:
            break
        on = day_number(draft.local_date(merged.recorded_at))
        buckets, member_id = moved(terms, buckets, into.joined_on, on), into.member_id
    return buckets


def _and(
    posting: Posting,
    lots: tuple[tuple[int, int], ...] = (),
    pending: tuple[tuple[int, int, int], ...] = (),
) -> Posting:
    return replace(
        posting,
        lots=(*posting.lots, *(lot for lot in lots if lot[1])),
        pending=(*posting.pending, *(part for part in pending if part[2])),
    )


def _from_lot(draft: Draft, posting: Posting, end: int, points: int) -> tuple[tuple[int, int], ...]:
    """What the lot of that date still holds beyond what the posting takes, up to `points`."""
    held = sum(n for expires_on, n in draft.account.lots if expires_on == end)
    held += sum(n for expires_on, n in posting.lots if expires_on == end)
    return ((end, -min(points, held)),) if held and points else ()


def _sum(lots: tuple[tuple[int, int], ...]) -> int:
    return sum(points for _, points in lots)


def _expired(
    draft: Draft, known: Known, event: Entry | None, end: int, points: int, counted: int
) -> int:
    """How many of `points` of a lot have gone by expiry since the event, at its date or by
    inactivity, beyond those `counted` just now. A lot shared with other events counts for this one
    first: in favour of the member.
    """
    if not points or event is None or not _may_have_expired(draft, event, end):
        return 0
    later = _later(known.history_since(event.recorded_at), event)
    postings = [p for e in later for p in _of_shared_lots(e)]
    gone: int = _gone((*postings, *draft.postings), end)
    # What earlier refunds have counted as expired is not there for this one.
    gone -= sum(
        claimed
        for entry in later
        if entry.kind == "reverse"
        for day, claimed in (entry.explanation or {}).get("x", ())
        if day == end
    )
    return max(0, min(points, gone - counted))


def _of_shared_lots(entry: Entry) -> tuple[Posting, ...]:
    """The postings of an entry without what an event that was told too late granted and lost: that
    was never in a lot with others. What a cancellation or a refund gives back had been."""
    if entry.kind in ("cancel", "reverse"):
        return entry.postings
    return entry.postings[: len(entry.postings) - len(_on_arrival(entry))]


def _on_arrival(entry: Entry) -> tuple[Posting, ...]:
    """What went in the very entry that gave it."""
    last = max((i for i, p in enumerate(entry.postings) if p in entry.own_postings), default=None)
    return () if last is None else entry.postings[last + 1 :]


def _gone(postings: Iterable[Posting], end: Day) -> int:
    return sum(
        -change
        for posting in postings
        if posting.kind == "expire"
        for expires_on, change in posting.lots
        if expires_on == end
    )


def _later(history: History, event: Entry) -> list[Entry]:
    """The entries that follow an event in the life of its points: in the member's own history, and
    after each merge in that of the member they went to."""
    after, member_id = {event.member_id: event.seq}, event.member_id
    merges = {e.explanation["m"]: e for e in history.entries if brings_another(e)}
    while member_id in merges:
        merge = merges[member_id]
        member_id = merge.member_id
        after[member_id] = merge.seq
    return [e for e in history.entries if e.member_id in after and e.seq > after[e.member_id]]


def _may_have_expired(draft: Draft, event: Entry, end: int) -> bool:
    """Whether the history has to be asked; a version before this one may have let points go by
    inactivity too."""
    if end <= draft.today or event.version != draft.rulebook.version:
        return True
    return any(policy.inactive_for is not None for policy in draft.rulebook.program.expiry)
