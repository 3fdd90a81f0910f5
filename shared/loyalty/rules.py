"""What a program's rules give for one event: exact, integer arithmetic, in one fixed order.

A `Rulebook` is one program version compiled for evaluation; `Rulebook.evaluate` is a pure function
of (version, account, event, time). Points stay rational until the end: all parts of one award are
integer numerators over one common denominator, caps in proportion only change the denominator, and
rounding happens once.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Final, Literal

from loyalty.commands import Event, Line, Purchase
from loyalty.dates import (
    Duration,
    day_number,
    from_day_number,
    from_milliseconds,
    local,
    milliseconds,
)
from loyalty.limits import Subject, Usage, cooled_down, token
from loyalty.lots import available_on, expiry
from loyalty.model import MAX_POINTS, NEVER, Account, Count, Day, Refusal
from loyalty.program import (
    PURCHASES,
    WEEKDAYS,
    Campaign,
    Expiry,
    Limit,
    Match,
    Offer,
    Program,
    Rule,
    When,
)

type Reason = Literal[
    "granted", "not_started", "ended", "inactive", "channel", "location", "group", "weekday",
    "hours", "attributes", "min_amount", "no_matching_line", "not_first_purchase",
    "frequency", "cooldown", "limit", "excluded", "after_last",
]  # fmt: skip

REASONS: Final[dict[str, Reason]] = {
    "+": "granted", "s": "not_started", "e": "ended", "i": "inactive", "c": "channel",
    "o": "location", "g": "group", "w": "weekday", "h": "hours", "a": "attributes",
    "m": "min_amount", "l": "no_matching_line", "p": "not_first_purchase", "f": "frequency",
    "k": "cooldown", "r": "limit", "x": "excluded", "z": "after_last",
}  # fmt: skip
"""How each reason stands in a stored explanation: one character a rule."""

_CODES: Final = {reason: code for code, reason in REASONS.items()}


@dataclass(frozen=True, slots=True)
class Factor:
    """A multiplier that applied: `kind` line or campaign, and the id of what declares it."""

    kind: Literal["line", "campaign"]
    id: str
    multiplier: Fraction


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one rule or offer (`index` in `Rulebook.sources`), and why."""

    index: int
    reason: Reason
    desired: int = 0
    points: int = 0
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitHit:
    """A limit that bit: of the source at `index` (−1: of the program), the limit's own index."""

    index: int
    limit: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an event earns. `grants` are (available_on, expires_on, points)."""

    points: int
    desired: int
    grants: tuple[tuple[Day, Day, int], ...]
    line_points: tuple[int, ...]
    rows: tuple[Row, ...]
    hits: tuple[LimitHit, ...]
    counts: tuple[Count, ...]
    cooldowns: dict[str, int]


@dataclass(slots=True)
class _Part:
    """A source that fired, while its award is being worked out.

    `numerators` are (line index or −1 for the event as a whole, numerator over the award's common
    denominator); `ceiling` is the most its own limits leave.
    """

    index: int
    cells: list[tuple[int, Fraction, int]]
    factors: tuple[Factor, ...] = ()
    numerators: list[tuple[int, int]] = field(default_factory=list)
    ceiling: int | None = None
    desired: Fraction = Fraction(0)
    refused: bool = False

    @property
    def total(self) -> int:
        return sum(numerator for _, numerator in self.numerators)


class _Matcher:
    """Which lines count, with its lists as sets."""

    def __init__(self, match: Match) -> None:
        self._products = frozenset(match.products)
        self._categories = frozenset(match.categories)
        self._brands = frozenset(match.brands)
        self._discounted = match.discounted
        self._no_products = frozenset(match.exclude.products)
        self._no_categories = frozenset(match.exclude.categories)
        self._no_brands = frozenset(match.exclude.brands)
        # The most specific of several line multipliers counts: product, category, brand.
        self.specificity = (
            3 if self._products else 2 if self._categories else 1 if self._brands else 0
        )

    def __call__(self, line: Line) -> bool:
        if self._products and line.product_id not in self._products:
            return False
        if self._categories and self._categories.isdisjoint(line.category_ids):
            return False
        if self._brands and line.brand_id not in self._brands:
            return False
        if self._discounted is not None and line.discounted is not self._discounted:
            return False
        return not (
            line.product_id in self._no_products
            or line.brand_id in self._no_brands
            or not self._no_categories.isdisjoint(line.category_ids)
        )


class _Moment:
    """The facts of one event that conditions ask for, worked out once."""

    def __init__(self, program: Program, account: Account, event: Event, occurred_at: int) -> None:
        self.event = event
        self.occurred_at = occurred_at
        self.local: datetime = local(from_milliseconds(occurred_at), program.zone)
        self.on: date = self.local.date()
        self.weekday = WEEKDAYS[self.local.weekday()]
        self.minute = self.local.hour * 60 + self.local.minute
        self.groups = frozenset(account.groups)
        self.lines: Sequence[Line] = event.purchase.lines if event.purchase else ()
        self.bases = earning_base(program, event.purchase) if event.purchase else ()
        self.base = sum(self.bases)

    def unmet(self, when: When | None) -> Reason | None:
        """The first condition that does not hold, or None."""
        if when is None:
            return None
        event = self.event
        if outside := _outside(when, self.local):
            return outside
        if when.channels and event.channel not in when.channels:
            return "channel"
        if when.locations and event.location_id not in when.locations:
            return "location"
        if when.groups and self.groups.isdisjoint(when.groups):
            return "group"
        if when.weekdays and self.weekday not in when.weekdays:
            return "weekday"
        if when.hours and not any(hours.hold(self.minute) for hours in when.hours):
            return "hours"
        if not all(c.holds(event.attributes.get(c.name)) for c in when.attributes):
            return "attributes"
        if when.min_amount is not None and (not self.lines or self.base < when.min_amount):
            return "min_amount"
        return None


def colliding(program: Program) -> tuple[str, str] | None:
    """Two ids whose counters would share a token of 36 bits, if there are any."""
    names: list[tuple[Subject, str]] = [("program", "points"), ("once", "first_purchase")]
    names += [("points", rule.rule_id) for rule in program.rules]
    names += [("times", rule.rule_id) for rule in program.rules]
    names += [("location", location.location_id) for location in program.locations]
    seen: dict[str, tuple[Subject, str]] = {}
    for pair in names:
        other = seen.setdefault(token(*pair), pair)
        if other != pair:
            return other[1], pair[1]
    return None


def _outside(dated: When | Campaign | Offer, at: datetime) -> Reason | None:
    if dated.is_on(at):
        return None
    start = dated.from_
    if start is None or (at.date(), at.time()) >= (start.day, start.at or time.min):
        return "ended"
    return "not_started"


def earning_base(program: Program, purchase: Purchase) -> tuple[int, ...]:
    """What each line earns on, in minor units: its net amount, plus tax and shipping where the
    program includes them, less the part paid with points, both spread in proportion."""
    amounts = [line.amount for line in purchase.lines]
    extra = 0
    if program.earning_base.tax == "include":
        extra += purchase.tax
    if program.earning_base.shipping == "include":
        extra += purchase.shipping
    if extra:
        amounts = [a + b for a, b in zip(amounts, spread(extra, amounts), strict=True)]
    total = sum(amounts)
    if purchase.paid_with_points:
        paid = min(purchase.paid_with_points, total)
        amounts = [a - b for a, b in zip(amounts, spread(paid, amounts), strict=True)]
    return tuple(amounts)


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in integer shares proportional to `weights` by largest remainder, ties in order.

    Weights that sum to nothing are taken as equal.
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    return _settle(total, [weight * total for weight in weights], whole)


def _settle(total: int, numerators: Sequence[int], denominator: int) -> list[int]:
    """Integers that sum to `total`, each the floor or the ceiling of its numerator/denominator."""
    shares = [numerator // denominator for numerator in numerators]
    missing = total - sum(shares)
    if missing:
        by_remainder = sorted(range(len(shares)), key=lambda i: -(numerators[i] % denominator))
        for i in by_remainder[:missing]:
            shares[i] += 1
    return shares


def _rounded(mode: str, numerator: int, denominator: int) -> int:
    match mode:
        case "floor":
            return numerator // denominator
        case "ceil":
            return -(-numerator // denominator)
        case _:
            return (2 * numerator + denominator) // (2 * denominator)


class Rulebook:
    """One version of a program, compiled once for evaluation.

    `sources` are its rules and then its offers, in document order: what an explanation's indexes
    mean.
    """

    def __init__(self, program: Program, version: int) -> None:
        self.program = program
        self.version = version
        self.sources: tuple[Rule | Offer, ...] = (*program.rules, *program.offers)
        self._matchers = [
            _Matcher(
                Match.model_validate(source.applies_to.model_dump() | {"discounted": False})
                if isinstance(source, Offer) and source.exclude_discounted
                else Match.model_validate(source.applies_to.model_dump())
                if isinstance(source, Offer)
                else source.match or Match()
            )
            for source in self.sources
        ]
        self._campaign_matchers = [
            _Matcher(campaign.match) if campaign.match else None for campaign in program.campaigns
        ]
        order = sorted(range(len(program.rules)), key=lambda i: -program.rules[i].priority)
        self._by_trigger: dict[str, list[int]] = {}
        for index in order:
            rule = program.rules[index]
            event_type = "purchase" if rule.trigger in PURCHASES else rule.trigger
            self._by_trigger.setdefault(event_type, []).append(index)

    @cached_property
    def named_attributes(self) -> frozenset[str]:
        """The attributes that some condition names; the ledger keeps no others."""
        whens = [rule.when for rule in self.program.rules]
        whens += [campaign.when for campaign in self.program.campaigns]
        return frozenset(c.name for when in whens if when for c in when.attributes)

    def considered(self, event_type: str) -> list[int]:
        """The sources an event of this type is held against, in the order of evaluation."""
        rules = self._by_trigger.get(event_type, [])
        if event_type != "purchase":
            return rules
        return rules + list(range(len(self.program.rules), len(self.sources)))

    def evaluate(
        self, account: Account, event: Event, occurred_at: int, usage: Usage
    ) -> Evaluation:
        """What the event earns; Refusal where a number passes what the ledger can hold."""
        moment = _Moment(self.program, account, event, occurred_at)
        reasons, parts, multipliers = self._fire(moment, usage)
        self._multiply(moment, parts, multipliers)
        denominator = _on_one_denominator(parts)
        hits: list[LimitHit] = []
        denominator, ceiling = self._limit(parts, denominator, usage, hits)
        shares = self._round(parts, denominator, ceiling)
        return self._evaluation(moment, usage, reasons, parts, multipliers, shares, hits)

    # How an event is decided, step by step.

    def _fire(
        self, moment: _Moment, usage: Usage
    ) -> tuple[dict[int, Reason], list[_Part], dict[int, int]]:
        """Which sources fire: their reasons, their parts, and line → multiplying rule."""
        reasons: dict[int, Reason] = {}
        parts: list[_Part] = []
        multiplying: list[int] = []
        ended = False
        for index in self.considered(moment.event.type):
            source = self.sources[index]
            if isinstance(source, Offer):
                reason = self._offer_unmet(source, moment)
            elif ended:
                reason = "after_last"
            else:
                reason = self._rule_unmet(source, moment, usage)
            if reason is None:
                matcher = self._matchers[index]
                lines = [i for i, line in enumerate(moment.lines) if matcher(line)]
                if moment.lines and not lines:
                    reason = "no_matching_line"
                elif isinstance(source, Rule) and source.earn.multiply is not None:
                    multiplying.append(index)
                else:
                    parts.append(_Part(index, _cells(self.program, source, moment, lines)))
            reasons[index] = reason or "granted"
            ended = ended or (
                reason is None and isinstance(source, Rule) and source.stacking == "last"
            )
        parts = self._exclude(parts, reasons)
        return reasons, parts, self._line_multipliers(moment, multiplying)

    def _rule_unmet(self, rule: Rule, moment: _Moment, usage: Usage) -> Reason | None:
        if rule.trigger == "first_purchase" and usage.used("ever", token("once", rule.trigger)):
            return "not_first_purchase"
        if reason := moment.unmet(rule.when):
            return reason
        name = token("times", rule.rule_id)
        for frequency in rule.frequency:
            if frequency.every is not None:
                if not _is_cool(usage, name, frequency.every, moment, self.program):
                    return "cooldown"
            elif usage.used(frequency.per or "ever", name) >= (frequency.times or 0):
                return "frequency"
        return None

    def _offer_unmet(self, offer: Offer, moment: _Moment) -> Reason | None:
        if not offer.active:
            return "inactive"
        if outside := _outside(offer, moment.local):
            return outside
        if offer.channels and moment.event.channel not in offer.channels:
            return "channel"
        if offer.groups and moment.groups.isdisjoint(offer.groups):
            return "group"
        return None

    def _exclude(self, parts: list[_Part], reasons: dict[int, Reason]) -> list[_Part]:
        """Only the exclusive rule of the highest priority counts; of equals, the one that grants
        most, judged before multipliers. Offers are no rules and stay."""
        exclusive = [
            part
            for part in parts
            if isinstance(source := self.sources[part.index], Rule)
            and source.stacking == "exclusive"
        ]
        if not exclusive:
            return parts
        rules = self.program.rules
        best = max(exclusive, key=lambda p: (rules[p.index].priority, _sum(p), -p.index))
        kept = []
        for part in parts:
            if part is best or isinstance(self.sources[part.index], Offer):
                kept.append(part)
            else:
                reasons[part.index] = "excluded"
        return kept

    def _line_multipliers(self, moment: _Moment, multiplying: list[int]) -> dict[int, int]:
        """For each line the one rule that multiplies it: the most specific, then the highest."""
        chosen: dict[int, int] = {}
        for i, line in enumerate(moment.lines):
            candidates = [index for index in multiplying if self._matchers[index](line)]
            if candidates:
                chosen[i] = max(
                    candidates,
                    key=lambda index: (
                        self._matchers[index].specificity,
                        self.program.rules[index].earn.multiply or 0,
                        -index,
                    ),
                )
        return chosen

    def _multiply(self, moment: _Moment, parts: list[_Part], by_line: dict[int, int]) -> None:
        """Put line and campaign multipliers on every cell, under the combined ceiling."""
        campaigns = []
        for campaign, matcher in zip(self.program.campaigns, self._campaign_matchers, strict=True):
            if _outside(campaign, moment.local) or moment.unmet(campaign.when):
                continue
            factor = Factor("campaign", campaign.campaign_id, campaign.multiplier)
            lines = {i for i, line in enumerate(moment.lines) if matcher is None or matcher(line)}
            campaigns.append((factor, lines | ({-1} if matcher is None else set())))
        if not campaigns and not by_line:
            return
        factors_of: dict[int, tuple[Factor, ...]] = {}
        for i in range(-1, len(moment.lines)):
            found = [factor for factor, lines in campaigns if i in lines]
            if i in by_line:
                rule = self.program.rules[by_line[i]]
                found.insert(0, Factor("line", rule.rule_id, rule.earn.multiply or Fraction(0)))
            factors_of[i] = tuple(found)
        for part in parts:
            part.cells = [
                (i, rate * self._combined(factors_of[i]), weight) for i, rate, weight in part.cells
            ]
            applied = dict.fromkeys(f for i, _, _ in part.cells for f in factors_of[i])
            part.factors = tuple(applied)

    def _combined(self, factors: tuple[Factor, ...]) -> Fraction:
        if not factors:
            return Fraction(1)
        multipliers = [factor.multiplier for factor in factors]
        match self.program.multipliers.combine:
            case "multiply":
                combined = Fraction(1)
                for multiplier in multipliers:
                    combined *= multiplier
            case "add":
                combined = max(Fraction(0), sum(multipliers, Fraction(1 - len(multipliers))))
            case "best":
                combined = max(multipliers)
        ceiling = self.program.multipliers.max
        return combined if ceiling is None else min(combined, ceiling)

    def _limit(
        self, parts: list[_Part], denominator: int, usage: Usage, hits: list[LimitHit]
    ) -> tuple[int, int | None]:
        """Cut the parts to what limits leave; (new denominator, the most the program leaves)."""
        for part in parts:
            part.desired = Fraction(part.total, denominator)
            source = self.sources[part.index]
            if isinstance(source, Rule):
                room = _room(source.limits, token("points", source.rule_id), usage)
                part.ceiling, bitten, part.refused = _cut(part.desired, room)
                hits += [LimitHit(part.index, at) for at in bitten]
        cuts = {
            id(part): part.ceiling / part.desired
            for part in parts
            if part.ceiling is not None and part.desired
        }
        scale = lcm(*(cut.denominator for cut in cuts.values()))
        for part in parts:
            cut = cuts.get(id(part), Fraction(1))
            by = cut.numerator * (scale // cut.denominator)
            part.numerators = [(i, n * by) for i, n in part.numerators]
        denominator *= scale
        total = sum(part.total for part in parts)
        room = _room(self.program.limits, token("program", "points"), usage)
        most, bitten, _ = _cut(Fraction(total, denominator), room)
        hits += [LimitHit(-1, at) for at in bitten]
        if most is not None:
            for part in parts:
                part.numerators = [(i, n * most * denominator) for i, n in part.numerators]
            denominator *= total
        return denominator, most

    def _round(
        self, parts: list[_Part], denominator: int, ceiling: int | None
    ) -> list[dict[int, int]]:
        """Each part's integer points by line (−1: no line), rounded as the program says."""
        mode, scope = self.program.rounding.mode, self.program.rounding.scope
        totals = [part.total for part in parts]
        if scope == "line":
            shares: list[dict[int, int]] = [{} for _ in parts]
            columns: dict[tuple[int, int], list[tuple[int, int]]] = {}
            for p, part in enumerate(parts):
                for i, numerator in part.numerators:
                    # What belongs to no line is a column of its own, rule by rule.
                    columns.setdefault((i, p if i < 0 else -1), []).append((p, numerator))
            for (i, _), column in columns.items():
                numbers = [numerator for _, numerator in column]
                settled = _settle(_rounded(mode, sum(numbers), denominator), numbers, denominator)
                for (p, _), points in zip(column, settled, strict=True):
                    shares[p][i] = points
            granted = [sum(share.values()) for share in shares]
        else:
            if scope == "rule":
                granted = [_rounded(mode, total, denominator) for total in totals]
            else:
                whole = _rounded(mode, sum(totals), denominator)
                granted = _settle(whole, totals, denominator)
            shares = [_by_line(part, points) for part, points in zip(parts, granted, strict=True)]
        # Rounding up by rule or line may pass a limit that the exact points kept: cut again.
        kept = [
            points if part.ceiling is None else min(points, part.ceiling)
            for part, points in zip(parts, granted, strict=True)
        ]
        if ceiling is not None and sum(kept) > ceiling:
            kept = spread(ceiling, kept)
        return [
            share if points == before else _by_line(part, points)
            for part, share, points, before in zip(parts, shares, kept, granted, strict=True)
        ]

    def _evaluation(
        self,
        moment: _Moment,
        usage: Usage,
        reasons: dict[int, Reason],
        parts: list[_Part],
        multipliers: dict[int, int],
        shares: list[dict[int, int]],
        hits: list[LimitHit],
    ) -> Evaluation:
        program = self.program
        occurred_on = day_number(moment.on)
        line_points = [0] * len(moment.lines)
        grants: list[tuple[Day, Day, int]] = []
        counts: list[Count] = []
        cooldowns: dict[str, int] = {}
        rows: dict[int, Row] = {i: Row(i, reason) for i, reason in reasons.items()}

        def fired(rule: Rule) -> None:
            name = token("times", rule.rule_id)
            pers = dict.fromkeys(f.per for f in rule.frequency if f.per is not None)
            counts.extend(usage.count(per, name, 1) for per in pers)
            if any(f.every is not None for f in rule.frequency):
                cooldowns[name] = moment.occurred_at

        def granted(limits: Iterable[Limit], name: str, points: int) -> None:
            windows = dict.fromkeys(m.per for m in limits if m.per != "transaction")
            counts.extend(usage.count(per, name, points) for per in windows)

        total = 0
        for part, share in zip(parts, shares, strict=True):
            source = self.sources[part.index]
            points = sum(share.values())
            total += points
            desired = _rounded(
                program.rounding.mode, part.desired.numerator, part.desired.denominator
            )
            reason: Reason = "limit" if part.refused else "granted"
            rows[part.index] = Row(part.index, reason, desired, points, part.factors)
            for i, n in self._over_lines(part, share, moment):
                line_points[i] += n
            if not points:
                continue
            grants.append((*self.life(source, occurred_on), points))
            if isinstance(source, Rule):
                granted(source.limits, token("points", source.rule_id), points)
                fired(source)
        if total:
            for index in dict.fromkeys(multipliers.values()):
                fired(program.rules[index])
            granted(program.limits, token("program", "points"), total)
        if moment.event.type == "purchase":
            # Kept also while no rule asks for it: a rule of tomorrow must not pay it again.
            once = token("once", "first_purchase")
            if not usage.used("ever", once):
                counts.append(usage.count("ever", once, 1))
        if total > MAX_POINTS:
            raise Refusal("too_many_points", f"One event may earn at most {MAX_POINTS} points.")
        desired_total = sum((part.desired for part in parts), Fraction(0))
        return Evaluation(
            points=total,
            desired=max(
                total,
                _rounded(program.rounding.mode, desired_total.numerator, desired_total.denominator),
            ),
            grants=tuple(grants),
            line_points=tuple(line_points),
            rows=tuple(rows[index] for index in reasons),
            hits=tuple(hits),
            counts=tuple(counts),
            cooldowns=cooldowns,
        )

    def _over_lines(
        self, part: _Part, share: dict[int, int], moment: _Moment
    ) -> Iterable[tuple[int, int]]:
        """The part's points on lines; what belongs to the event as a whole goes over all lines
        that match, so that lines always sum to the total."""
        for i, points in share.items():
            if i >= 0:
                yield i, points
            elif moment.lines:
                matcher = self._matchers[part.index]
                matching = [k for k, line in enumerate(moment.lines) if matcher(line)]
                yield from zip(
                    matching, spread(points, [moment.bases[k] for k in matching]), strict=True
                )

    def life(self, source: Rule | Offer, occurred_on: Day) -> tuple[Day, Day]:
        """(available_on, expires_on) of points that the source grants for an event of that day."""
        program = self.program
        if isinstance(source, Offer):
            start = available_on(program.pending.get("purchase"), occurred_on)
            if source.validity is None:
                return start, expiry(program.expiry, start)
            return start, expiry((Expiry.model_construct(after=source.validity),), start)
        wait = source.pending if source.pending is not None else program.pending.get(source.trigger)
        start = available_on(wait, occurred_on)
        policies = program.expiry if source.expiry is None else source.expiry
        return start, expiry(policies, start)


def _cells(
    program: Program, source: Rule | Offer, moment: _Moment, lines: list[int]
) -> list[tuple[int, Fraction, int]]:
    """What a source gives before multipliers, as (line or −1, rate, integer weight)."""
    if isinstance(source, Offer):
        worth = program.point_value
        if not worth:
            return []
        return [(i, source.percent / 100 / worth, moment.bases[i]) for i in lines]
    earn = source.earn
    points = earn.points or 0
    match earn.kind:
        case "per_amount":
            unit = earn.per_amount or 1
            weights = [moment.bases[i] for i in lines]
            if earn.blocks == "continuous":
                return [(i, Fraction(points, unit), w) for i, w in zip(lines, weights, strict=True)]
            blocks = sum(weights) // unit
        case "per_quantity":
            weights = [moment.lines[i].quantity for i in lines]
            blocks = sum(weights) // (earn.per_quantity or 1)
        case "per_line":
            weights = [1] * len(lines)
            blocks = len(lines) // (earn.per_line or 1)
        case _:
            return [(-1, Fraction(points), 1)]
    whole = sum(weights)
    if not whole:
        return []
    rate = Fraction(blocks * points, whole)
    return [(i, rate, weight) for i, weight in zip(lines, weights, strict=True)]


def _sum(part: _Part) -> Fraction:
    return sum((rate * weight for _, rate, weight in part.cells), Fraction(0))


def _on_one_denominator(parts: list[_Part]) -> int:
    denominator = lcm(*{rate.denominator for part in parts for _, rate, _ in part.cells})
    for part in parts:
        part.numerators = [
            (i, rate.numerator * (denominator // rate.denominator) * weight)
            for i, rate, weight in part.cells
        ]
    return denominator


def _room(limits: Iterable[Limit], name: str, usage: Usage) -> Iterable[tuple[int, Limit, int]]:
    """(points left, the limit, its index): per transaction first, then by window."""
    ordered = sorted(enumerate(limits), key=lambda pair: pair[1].per != "transaction")
    for at, limit in ordered:
        if limit.per == "transaction":
            yield limit.points, limit, at
        else:
            yield max(0, limit.points - usage.used(limit.per, name)), limit, at


def _cut(
    points: Fraction, room: Iterable[tuple[int, Limit, int]]
) -> tuple[int | None, list[int], bool]:
    """(The most that the limits leave or None, which of them bit, whether one refused)."""
    ceiling: int | None = None
    bitten: list[int] = []
    for left, limit, at in room:
        if points > left:
            bitten.append(at)
            if limit.over == "refuse":
                return 0, bitten, True
            points, ceiling = Fraction(left), left
    return ceiling, bitten, False


def _by_line(part: _Part, points: int) -> dict[int, int]:
    weights = [numerator for _, numerator in part.numerators]
    if not weights:
        return {}
    shares = spread(points, weights)
    return {i: n for (i, _), n in zip(part.numerators, shares, strict=True)}


def _is_cool(usage: Usage, name: str, every: Duration, moment: _Moment, program: Program) -> bool:
    last = usage.last(name)
    if last is None:
        return True
    earlier, later = sorted((last, moment.occurred_at))
    return milliseconds(cooled_down(earlier, every, program.zone)) <= later


def explain(
    rulebook: Rulebook, stored: Any, event_type: str, occurred_on: Day
) -> list[dict[str, Any]]:
    """The explanation a person can read, from its stored form and the version it was made under."""
    considered = rulebook.considered(event_type)
    codes = _unpacked(stored["r"])
    granted = {row[0]: row for row in stored.get("g", ())}
    explanation = []
    for index, code in zip(considered, codes, strict=True):
        source = rulebook.sources[index]
        _, desired, points, *factors = granted.get(index, (index, 0, 0))
        line: dict[str, Any] = (
            {"offer_id": source.offer_id}
            if isinstance(source, Offer)
            else {"rule_id": source.rule_id}
        )
        line |= {
            "name": source.name,
            "fired": code == "+",
            "reason": REASONS[code],
            "points": points,
            "desired_points": desired,
            "factors": [_factor(rulebook, factor) for factor in factors],
        }
        if points:
            start, end = rulebook.life(source, occurred_on)
            line["available_on"] = iso(start)
            line["expires_on"] = iso(end)
        explanation.append(line)
    return explanation


def stored_explanation(rulebook: Rulebook, evaluation: Evaluation) -> dict[str, Any]:
    """An explanation in its stored form: a code for each source considered, numbers for those
    that fired; names, factors and dates are the version's to tell."""
    stored: dict[str, Any] = {"r": _packed("".join(_CODES[row.reason] for row in evaluation.rows))}
    granted = [
        [row.index, row.desired, row.points, *(_factor_index(rulebook, f) for f in row.factors)]
        for row in evaluation.rows
        if row.points or row.desired
    ]
    if granted:
        stored["g"] = granted
    if evaluation.desired != evaluation.points:
        stored["d"] = evaluation.desired
    if evaluation.hits:
        stored["l"] = [[hit.index, hit.limit] for hit in evaluation.hits]
    return stored


def limited_by(rulebook: Rulebook, stored: Any) -> list[dict[str, Any]]:
    """The limits that cut an award, from its stored explanation."""
    found = []
    for index, at in stored.get("l", ()):
        if index < 0:
            limit, where = rulebook.program.limits[at], {"scope": "program"}
        else:
            rule = rulebook.program.rules[index]
            limit, where = rule.limits[at], {"scope": "rule", "rule_id": rule.rule_id}
        found.append({**where, "points": limit.points, "per": limit.per, "over": limit.over})
    return found


def _factor_index(rulebook: Rulebook, factor: Factor) -> str:
    program = rulebook.program
    if factor.kind == "campaign":
        ids = [campaign.campaign_id for campaign in program.campaigns]
        return f"c{ids.index(factor.id)}"
    return f"r{[rule.rule_id for rule in program.rules].index(factor.id)}"


def _factor(rulebook: Rulebook, stored: str) -> dict[str, Any]:
    index = int(stored[1:])
    if stored[0] == "c":
        campaign = rulebook.program.campaigns[index]
        return {
            "kind": "campaign",
            "campaign_id": campaign.campaign_id,
            "multiplier": decimal(campaign.multiplier),
        }
    rule = rulebook.program.rules[index]
    return {
        "kind": "line",
        "rule_id": rule.rule_id,
        "multiplier": decimal(rule.earn.multiply or Fraction(0)),
    }


def decimal(number: Fraction) -> str:
    """A fraction that came from a decimal string, as that string."""
    whole, rest = divmod(abs(number), 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    sign = "-" if number < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def iso(day: Day) -> str | None:
    """A day as YYYY-MM-DD; None for never."""
    return None if day >= NEVER else from_day_number(day).isoformat()


def _packed(codes: str) -> str:
    """Run-length coded: `lll+` is `3l+`."""
    packed, at = [], 0
    while at < len(codes):
        end = at
        while end < len(codes) and codes[end] == codes[at]:
            end += 1
        packed.append((str(end - at) if end - at > 1 else "") + codes[at])
        at = end
    return "".join(packed)


def _unpacked(packed: str) -> str:
    return "".join(code * int(count or 1) for count, code in re.findall(r"(\d*)(\D)", packed))
