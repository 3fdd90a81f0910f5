"""What a program's rules give for one event: exact, integer arithmetic, in one fixed order.

A `Rulebook` is one program version compiled for evaluation; `Rulebook.evaluate` is a pure function
of (version, account, event, time). Points stay rational until the end: what a rule gives is a
numerator over a denominator, and rounding happens once.

Lines are bits of an integer: which lines a rule counts is a few operations on whole baskets. What
an event cannot change is worked out when a version is compiled: conditions that sources share are
looked at once for an event, and a rule on products, categories or brands is only looked at where
the basket has one of them. So a basket of 50 lines under 200 rules is decided in about a
millisecond.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from functools import cached_property, reduce
from itertools import chain
from math import lcm
from operator import mul
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from loyalty.commands import Event, Line, Purchase
from loyalty.dates import Duration, Per, day_number, from_milliseconds, local, milliseconds
from loyalty.fields import PURCHASES, WEEKDAYS, LocalTime
from loyalty.limits import ONCE, PROGRAM_POINTS, Usage, cooled_down, longest, token
from loyalty.lots import available_on, expiry
from loyalty.model import MAX_POINTS, Account, Count, Day, NeedsBudgets, Refusal
from loyalty.program import (
    AppliesTo,
    Budget,
    Campaign,
    Expiry,
    Frequency,
    Limit,
    Match,
    Offer,
    Program,
    Rule,
    When,
)
from loyalty.rounding import round_points, settle, spread
from loyalty.tiers import tier_of

type Unit = Literal["amount", "quantity", "line"]
type Reason = Literal[
    "granted", "not_started", "ended", "inactive", "channel", "location", "group", "tier",
    "weekday", "hours", "attributes", "min_amount", "no_matching_line", "not_first_purchase",
    "frequency", "cooldown", "limit", "excluded", "after_last",
]  # fmt: skip

REASONS: Final[dict[str, Reason]] = {
    "+": "granted", "s": "not_started", "e": "ended", "i": "inactive", "c": "channel",
    "o": "location", "g": "group", "t": "tier", "w": "weekday", "h": "hours", "a": "attributes",
    "m": "min_amount", "l": "no_matching_line", "p": "not_first_purchase", "f": "frequency",
    "k": "cooldown", "r": "limit", "x": "excluded", "z": "after_last",
}  # fmt: skip
"""How each reason stands in a stored explanation: one character for a rule."""

MAX_NUMBER: Final = 2**63 - 1
"""No number of an answer is larger; only points that were desired and not granted come near."""
PROGRAM_BUDGET: Final = "program"
"""The id of the budget of the whole program."""
PROGRAM_HIT: Final = -1
CAMPAIGN_HIT: Final = -2
BUDGET_HIT: Final = -3

_CODES: Final = {reason: code for code, reason in REASONS.items()}
_GRANTED: Final = _CODES["granted"]
_NO_LINE: Final = _CODES["no_matching_line"]
_AFTER_LAST: Final = _CODES["after_last"]
_FIRST_PURCHASE: Final = ONCE["first_purchase"]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A multiplier that applied. There is one object for each that a rulebook declares."""

    multiplier: Fraction


class Row(NamedTuple):
    """What one rule or offer gave: `source` is its index in `Rulebook.sources`."""

    source: int
    desired: int
    points: int
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What a source (`index` in `Rulebook.sources`) granted: `points` in all, by line number in
    `lines`; `fixed` where they were for the event as a whole."""

    index: int
    points: int
    fixed: bool
    lines: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LimitHit:
    """What bit: the `limit`-th limit of the source at `index` or of the program (PROGRAM_HIT), the
    budget of campaign number `limit` (CAMPAIGN_HIT), or that of the program (BUDGET_HIT)."""

    index: int
    limit: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an event earns, and why.

    `grants` are (available_on, expires_on, points); `codes` has the reason's character for each
    source that was considered, in the order of evaluation; `rows` are those that fired; `draws` are
    the points taken from each budget, `left` what those had that were too small.
    """

    points: int
    desired: int
    grants: tuple[tuple[Day, Day, int], ...]
    line_points: tuple[int, ...]
    codes: str
    rows: tuple[Row, ...]
    hits: tuple[LimitHit, ...]
    counts: tuple[Count, ...]
    cooldowns: Mapping[str, int]
    draws: Mapping[str, int]
    left: Mapping[str, int]


class _Basket:
    """The lines of a purchase as bits: line i is 1 << i; `units` are what can be counted of each:
    its amount, its quantity, itself."""

    def __init__(self, lines: Sequence[Line], bases: Sequence[int]) -> None:
        self.lines = lines
        self.units: Mapping[Unit, Sequence[int]] = {
            "amount": bases,
            "quantity": [line.quantity for line in lines],
            "line": [1] * len(lines),
        }
        self.base = sum(bases)
        self.all = (1 << len(lines)) - 1
        self.products: dict[str, int] = {}
        self.categories: dict[str, int] = {}
        self.brands: dict[str, int] = {}
        self.discounted = 0
        self._indexes: dict[int, tuple[int, ...]] = {}
        for i, line in enumerate(lines):
            bit = 1 << i
            if line.product_id is not None:
                self.products[line.product_id] = self.products.get(line.product_id, 0) | bit
            if line.brand_id is not None:
                self.brands[line.brand_id] = self.brands.get(line.brand_id, 0) | bit
            for category in line.category_ids:
                self.categories[category] = self.categories.get(category, 0) | bit
            if line.discounted:
                self.discounted |= bit

    def indexes(self, mask: int) -> tuple[int, ...]:
        """The line numbers in a mask, ascending."""
        known = self._indexes.get(mask)
        if known is None:
            found = []
            rest = mask
            while rest:
                bit = rest & -rest
                found.append(bit.bit_length() - 1)
                rest ^= bit
            known = self._indexes[mask] = tuple(found)
        return known


def _any(table: dict[str, int], names: frozenset[str]) -> int:
    """The lines that carry any of the names."""
    mask = 0
    if len(names) <= len(table):
        for name in names:
            mask |= table.get(name, 0)
    else:
        for name, bits in table.items():
            if name in names:
                mask |= bits
    return mask


class _Matcher:
    """Which lines count."""

    __slots__ = ("_brands", "_categories", "_discounted", "_no", "_products", "specificity")

    def __init__(self, match: Match | AppliesTo | None, discounted: bool | None = None) -> None:
        match = match or Match()
        self._products = frozenset(match.products)
        self._categories = frozenset(match.categories)
        self._brands = frozenset(match.brands)
        self._discounted = match.discounted if isinstance(match, Match) else discounted
        self._no: tuple[frozenset[str], ...] = ()
        if isinstance(match, Match):
            no = match.exclude
            excluded = (frozenset(no.products), frozenset(no.categories), frozenset(no.brands))
            self._no = excluded if any(excluded) else ()
        named = (self._products, self._categories, self._brands)
        # The most specific of several line multipliers counts: product, category, brand.
        self.specificity = next((3 - k for k, names in enumerate(named) if names), 0)

    @property
    def named(self) -> frozenset[str]:
        """What a basket must have one of for any line to count, of the kind that `specificity`
        says; empty where it names nothing."""
        return self._products or self._categories or self._brands

    def __call__(self, basket: _Basket) -> int:
        mask = basket.all
        if self._products:
            mask &= _any(basket.products, self._products)
        if self._categories:
            mask &= _any(basket.categories, self._categories)
        if self._brands:
            mask &= _any(basket.brands, self._brands)
        if self._discounted is not None:
            mask &= basket.discounted if self._discounted else ~basket.discounted
        if self._no:
            products, categories, brands = self._no
            mask &= ~_any(basket.products, products)
            mask &= ~_any(basket.categories, categories)
            mask &= ~_any(basket.brands, brands)
        return mask


type _Check = tuple[Reason, Callable[["_Moment"], bool]]
"""What must hold of an event, and the reason told where it does not."""


def _window(dated: When | Campaign | Offer) -> Iterator[_Check]:
    """From when to when something counts, in the program's wall-clock time."""
    if dated.from_ is not None:
        begins = _wall(dated.from_)
        yield "not_started", lambda moment: moment.wall >= begins
    if dated.until is not None:
        # A last date includes the day, a last minute the minute.
        last = timedelta(days=1) if dated.until.at is None else timedelta(minutes=1)
        ends = _wall(dated.until) + last
        yield "ended", lambda moment: moment.wall < ends


def _wall(moment: LocalTime) -> datetime:
    return datetime.combine(moment.day, moment.at or time.min)


def _checks(when: When) -> Iterator[_Check]:
    """The conditions of a `when` that it states, in the order in which they are looked at."""
    yield from _window(when)
    if when.channels:
        channels = frozenset(when.channels)
        yield "channel", lambda moment: moment.event.channel in channels
    if when.locations:
        locations = frozenset(when.locations)
        yield "location", lambda moment: moment.event.location_id in locations
    if when.groups:
        groups = frozenset(when.groups)
        yield "group", lambda moment: not groups.isdisjoint(moment.groups)
    if when.tiers:
        yield "tier", lambda moment: moment.tier in when.tiers
    if when.weekdays:
        yield "weekday", lambda moment: moment.weekday in when.weekdays
    if when.hours:
        yield "hours", lambda moment: any(hours.hold(moment.minute) for hours in when.hours)
    if when.attributes:
        comparisons = [(c.name, c.holds) for c in when.attributes]
        yield (
            "attributes",
            lambda moment: all(
                holds(moment.event.attributes.get(name)) for name, holds in comparisons
            ),
        )
    if when.min_amount is not None:
        least = when.min_amount
        yield "min_amount", lambda moment: moment.basket.base >= least


def _unmet(checks: tuple[_Check, ...], moment: "_Moment") -> Reason | None:
    """The reason of the first check that does not hold, or None."""
    for reason, holds in checks:
        if not holds(moment):
            return reason
    return None


class _Moment:
    """The facts of one event that conditions ask for, worked out once."""

    def __init__(self, program: Program, account: Account, event: Event, occurred_at: int) -> None:
        self.event = event
        self.occurred_at = occurred_at
        here = local(from_milliseconds(occurred_at), program.zone)
        self.wall = here.replace(tzinfo=None)
        self.on: date = here.date()
        self.day = day_number(self.on)
        self.weekday = WEEKDAYS[here.weekday()]
        self.minute = here.hour * 60 + here.minute
        self.groups = account.groups
        self.first_purchase = not account.counter("ever", 0, _FIRST_PURCHASE)
        tier = tier_of(program, account)
        self.tier = None if tier is None else tier.tier_id
        purchase = event.purchase
        self.basket = _Basket(
            purchase.lines if purchase else (), earning_base(program, purchase) if purchase else ()
        )


class _Yield(NamedTuple):
    """What a source gives: `points` for each `size` units of what `of` counts on its lines, in
    `whole` blocks of their sum or continuously; without `of`, points for the event as a whole."""

    points: int
    size: int = 1
    of: Unit | None = None
    whole: bool = False


def _yield_of(source: Rule | Offer, point_value: Fraction | None) -> _Yield | None:
    """None for what only multiplies, and for a percentage where points are worth no money."""
    if isinstance(source, Offer):
        if not point_value:
            return None
        rate = source.percent / 100 / point_value
        return _Yield(rate.numerator, rate.denominator, "amount")
    earn = source.earn
    points = earn.points or 0
    match earn.kind:
        case "multiply":
            return None
        case "fixed":
            return _Yield(points)
        case "per_amount":
            return _Yield(points, earn.per_amount or 1, "amount", earn.blocks == "whole")
        case "per_quantity":
            return _Yield(points, earn.per_quantity or 1, "quantity", whole=True)
        case "per_line":
            return _Yield(points, earn.per_line or 1, "line", whole=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Source:
    """A rule or an offer, compiled: everything that is the same for every event.

    `index` is its place in the document, `place` that among what an event of its type is held
    against. `factor` is set for a line multiplier; `terms` is the number of those on which its
    points wait and expire.
    """

    index: int
    place: int
    is_rule: bool
    stacking: str = ""
    priority: int = 0
    gives: _Yield | None
    factor: Factor | None = None
    tiered: bool = False
    conditions: tuple[_Check, ...]
    matcher: _Matcher
    frequencies: tuple[Frequency, ...] = ()
    limits: tuple[tuple[int, Limit], ...] = ()
    windows: tuple[Per, ...] = ()
    terms: int
    points_token: str = ""
    times_token: str = ""


class _Held:
    """The sources that an event of one type is held against, in the order of evaluation, which is
    that of an explanation: `rules` of them are rules, the rest offers.

    Conditions that several share stand once in `conditions`; `condition_of` has each source's
    number in it. `longest` is what their cooldowns last at most, by their names.
    """

    def __init__(self, sources: Sequence[_Source]) -> None:
        self.sources = sources
        self.indexes = [source.index for source in sources]
        self.rules = sum(source.is_rule for source in sources)
        self.conditions = tuple(dict.fromkeys(source.conditions for source in sources))
        numbers = {conditions: n for n, conditions in enumerate(self.conditions)}
        self.condition_of = [numbers[source.conditions] for source in sources]
        self.longest: dict[str, timedelta] = {}
        for source in sources:
            lasts = [longest(f.every) for f in source.frequencies if f.every is not None]
            if lasts:
                self.longest[source.times_token] = max(lasts)
        self._always: list[int] = []
        self._by_name: list[dict[str, list[int]]] = [{}, {}, {}]
        for source in sources:
            # Whether a frequency is used up is told whatever the basket holds.
            if source.frequencies or not source.matcher.named:
                self._always.append(source.place)
                continue
            places = self._by_name[3 - source.matcher.specificity]
            for name in source.matcher.named:
                places.setdefault(name, []).append(source.place)

    def concerned(self, basket: _Basket) -> Iterable[int]:
        """The places of sources that may count a line of the basket, or have more to say than that
        they do not."""
        found = set(self._always)
        tables = (basket.products, basket.categories, basket.brands)
        for places, table in zip(self._by_name, tables, strict=True):
            for name in places.keys() & table.keys():
                found.update(places[name])
        return sorted(found)


class _Campaign:
    """A campaign, compiled."""

    __slots__ = ("budget", "budget_id", "conditions", "factor", "matcher")

    def __init__(self, campaign: Campaign) -> None:
        self.factor = Factor(campaign.multiplier)
        self.conditions = (*_window(campaign), *_checks(campaign.when or When()))
        self.matcher = _Matcher(campaign.match) if campaign.match else None
        self.budget = campaign.budget
        self.budget_id = f"campaign:{campaign.campaign_id}"


@dataclass(slots=True)
class _Worked:
    """An award worked out: its parts, what each grants, what falls on each line."""

    parts: list["_Part"]
    granted: list[int]
    line_points: list[int]
    desired: int
    hits: list[LimitHit]

    @property
    def total(self) -> int:
        return sum(self.granted)


@dataclass(slots=True)
class _Part:
    """A source that fired, while its award is being worked out: numerator/denominator points.

    `mask` are the lines it counts and `weights` what each of them counts with (none: it is for
    the event as a whole); `desired` are its points before limits.
    """

    source: _Source
    mask: int
    numerator: int
    denominator: int
    weights: Sequence[int] | None
    factors: "_Factors"
    desired: int = 0
    refused: bool = False


class _Factors:
    """The multipliers of one event: which apply to each line (−1: to the event as a whole), and
    the lines' `weights`: their units with the factors in, as integers over one denominator."""

    def __init__(self, basket: _Basket, combine: Callable[[tuple[Factor, ...]], Fraction]) -> None:
        self._basket = basket
        self._combine = combine
        self._applied: dict[int, tuple[Factor, ...]] = {}
        self.of: dict[int, list[Factor]] = {}

    def add(self, factor: Factor, mask: int, *, to_event: bool) -> None:
        for i in self._basket.indexes(mask):
            self.of.setdefault(i, []).append(factor)
        if to_event:
            self.of.setdefault(-1, []).append(factor)

    def settle(self) -> None:
        """Combine what was added; afterwards the weights are known."""
        basket = self._basket
        known: dict[tuple[Factor, ...], Fraction] = {}
        combined: dict[int, Fraction] = {}
        for i, factors in self.of.items():
            key = tuple(factors)
            if key not in known:
                known[key] = self._combine(key)
            combined[i] = known[key]
        self.event = combined.get(-1, Fraction(1))
        self.denominator = lcm(*(factor.denominator for factor in known.values()))
        self.weights = basket.units
        if combined:
            one = Fraction(1)
            scaled = [combined.get(i, one) for i in range(len(basket.lines))]
            scale = [f.numerator * (self.denominator // f.denominator) for f in scaled]
            self.weights = {
                unit: [a * b for a, b in zip(counted, scale, strict=True)]
                for unit, counted in basket.units.items()
            }

    def applied(self, mask: int) -> tuple[Factor, ...]:
        """The factors on any of these lines (no lines: on the event), each once."""
        if not self.of:
            return ()
        known = self._applied.get(mask)
        if known is None:
            lines = self._basket.indexes(mask) if mask else (-1,)
            found = chain.from_iterable([self.of.get(i, ()) for i in lines])
            known = self._applied[mask] = tuple(dict.fromkeys(found))
        return known


_NOTHING: Final = _Held(())


class Rulebook:
    """One version of a program, compiled once for evaluation.

    `sources` are its rules and then its offers, in document order: what an explanation's indexes
    mean. `former` gives, of the versions before it by whose terms time passed otherwise, those that
    counted after a moment (milliseconds), each with the moment from which it counted no more.
    """

    def __init__(
        self,
        program: Program,
        version: int,
        former: Callable[[int], Sequence[tuple[Program, int]]] = lambda _: (),
    ) -> None:
        self.program = program
        self.version = version
        self.former = former
        self.sources: tuple[Rule | Offer, ...] = (*program.rules, *program.offers)
        considered: dict[str, list[int]] = {}
        for index in sorted(range(len(program.rules)), key=lambda i: -program.rules[i].priority):
            trigger = program.rules[index].trigger
            event_type = "purchase" if trigger in PURCHASES else trigger
            considered.setdefault(event_type, []).append(index)
        offers = list(range(len(program.rules), len(self.sources)))
        if offers:
            considered.setdefault("purchase", []).extend(offers)
        self._conditions: dict[Any, tuple[_Check, ...]] = {}
        self._terms: dict[tuple[Duration | None, tuple[Expiry, ...]], int] = {}
        self._held = {
            event_type: _Held([self._compiled(i, place) for place, i in enumerate(indexes)])
            for event_type, indexes in considered.items()
        }
        self._by_index = {s.index: s for held in self._held.values() for s in held.sources}
        self._lives = tuple(self._terms)
        self._campaigns = [_Campaign(campaign) for campaign in program.campaigns]
        levels = program.tiers.levels if program.tiers else ()
        self._tier_factors = {
            level.tier_id: Factor(level.multiplier) for level in levels if level.multiplier != 1
        }
        self._limits = _in_order(program.limits)
        self._limit_windows = _windows(program.limits)

    def _compiled(self, index: int, place: int) -> _Source:
        source, program = self.sources[index], self.program
        gives = _yield_of(source, program.point_value)
        if isinstance(source, Offer):
            own = None if source.validity is None else Expiry.model_construct(after=source.validity)
            when = When.model_construct(
                from_=source.from_,
                until=source.until,
                channels=source.channels,
                groups=source.groups,
            )
            return _Source(
                index=index,
                place=place,
                is_rule=False,
                gives=gives,
                conditions=self._shared(when, active=source.active),
                matcher=_Matcher(source.applies_to, False if source.exclude_discounted else None),
                terms=self._number(
                    program.pending.get("purchase"), program.expiry if own is None else (own,)
                ),
            )
        multiplier = source.earn.multiply
        return _Source(
            index=index,
            place=place,
            is_rule=True,
            stacking=source.stacking,
            priority=source.priority,
            gives=gives,
            factor=None if multiplier is None else Factor(multiplier),
            tiered=source.tier_multiplier,
            conditions=self._shared(
                source.when or When(), first_purchase=source.trigger == "first_purchase"
            ),
            matcher=_Matcher(source.match),
            frequencies=source.frequency,
            limits=_in_order(source.limits),
            windows=_windows(source.limits),
            terms=self._number(
                program.pending.get(source.trigger) if source.pending is None else source.pending,
                program.expiry if source.expiry is None else source.expiry,
            ),
            points_token=token("points", source.rule_id),
            times_token=token("times", source.rule_id),
        )

    def _shared(
        self, when: When, *, first_purchase: bool = False, active: bool = True
    ) -> tuple[_Check, ...]:
        """The conditions of a source, the same object for sources with the same."""
        key = (when, first_purchase, active)
        checks = self._conditions.get(key)
        if checks is None:
            first: list[_Check] = []
            if not active:
                first.append(("inactive", lambda _: False))
            if first_purchase:
                first.append(("not_first_purchase", lambda moment: moment.first_purchase))
            checks = self._conditions[key] = (*first, *_checks(when))
        return checks

    def _number(self, wait: Duration | None, policies: tuple[Expiry, ...]) -> int:
        """The number of the terms on which points wait and expire: sources that share them share
        their dates, which are worked out once for an event."""
        return self._terms.setdefault((wait, policies), len(self._terms))

    @cached_property
    def budgets(self) -> Mapping[str, int]:
        """What the program and its campaigns may give in all, in points, by the budget's id."""
        found = {c.budget_id: c.budget for c in self._campaigns if c.budget is not None}
        if self.program.budget is not None:
            found[PROGRAM_BUDGET] = self.program.budget
        return {name: self._in_points(budget) for name, budget in found.items()}

    def _in_points(self, budget: Budget) -> int:
        if budget.points is not None:
            return budget.points
        # Publishing asks for a point value where a budget is in money.
        return int((budget.money or 0) / (self.program.point_value or 1))

    @cached_property
    def named_attributes(self) -> frozenset[str]:
        """The attributes that some condition names; the ledger keeps no others."""
        whens = [rule.when for rule in self.program.rules]
        whens += [campaign.when for campaign in self.program.campaigns]
        return frozenset(c.name for when in whens if when for c in when.attributes)

    @cached_property
    def factor_names(self) -> Mapping[Factor, str]:
        """How each multiplier stands in a stored explanation: `c` and `r` with the number of the
        campaign or rule, `t` with the tier's id."""
        names = {factor: f"t{tier_id}" for tier_id, factor in self._tier_factors.items()}
        names |= {campaign.factor: f"c{k}" for k, campaign in enumerate(self._campaigns)}
        rules = self._by_index.values()
        return names | {s.factor: f"r{s.index}" for s in rules if s.factor is not None}

    def considered(self, event_type: str) -> list[int]:
        """The sources an event of this type is held against, in the order of evaluation."""
        return self._held.get(event_type, _NOTHING).indexes

    def reasons(self, event_type: str, codes: str) -> dict[int, Reason]:
        """Why each source considered fired or did not, from the reasons' characters."""
        pairs = zip(self.considered(event_type), codes, strict=True)
        return {index: REASONS[code] for index, code in pairs}

    def evaluate(
        self,
        account: Account,
        event: Event,
        occurred_at: int,
        usage: Usage,
        budgets: Mapping[str, int] = MappingProxyType({}),
        barred: Mapping[int, Reason] = MappingProxyType({}),
    ) -> Evaluation:
        """What the event earns, if `budgets` (by id) have so many points left. Sources that are
        `barred` do not fire, for the reason given.

        Refusal where a number passes what the ledger can hold; NeedsBudgets where the event draws
        on budgets that are not among those given.
        """
        moment = _Moment(self.program, account, event, occurred_at)
        codes, fired = self._fire(moment, usage, barred)
        fired = self._exclude(fired, codes, moment)
        multiplied = self._line_multipliers(moment, fired)
        live = [k for k, c in enumerate(self._campaigns) if not _unmet(c.conditions, moment)]
        worked = self._work(moment, fired, multiplied, live, usage)
        draws: dict[str, int] = {}
        if self.budgets:
            worked, draws = self._within(budgets, worked, moment, fired, multiplied, live, usage)
        left = {name: max(0, budgets[name]) for name in self._bitten(worked.hits)}
        return self._evaluation(moment, usage, codes, worked, multiplied, draws, left)

    def _bitten(self, hits: Iterable[LimitHit]) -> Iterator[str]:
        """The ids of the budgets among what bit."""
        for hit in hits:
            if hit.index == BUDGET_HIT:
                yield PROGRAM_BUDGET
            elif hit.index == CAMPAIGN_HIT:
                yield self._campaigns[hit.limit].budget_id

    # How an event is decided, step by step.

    def shares(
        self, event: Event, occurred_at: int, codes: str, rows: Iterable[Sequence[Any]]
    ) -> list[Share]:
        """What each source that granted something did on each line of its event, worked out again
        from the reasons' characters and the rows of those that fired (`Row`, with names of factors
        in their place): they sum to the points that were recorded for the line."""
        nobody = Account(program_id=self.program.program_id, member_id=event.member_id)
        moment = _Moment(self.program, nobody, event, occurred_at)
        granted = {index: points for index, _, points, *_ in rows}
        held = self._held.get(event.type, _NOTHING)
        fired = [
            (source, source.matcher(moment.basket))
            for source, code in zip(held.sources, codes, strict=True)
            if code == _GRANTED or source.index in granted
        ]
        told = {factor for row in rows for factor in row[3:]}
        campaigns = [int(factor[1:]) for factor in told if factor[0] == "c"]
        tier = next((self._tier_factors[t[1:]] for t in told if t[0] == "t"), None)
        multiplied = self._line_multipliers(moment, fired)
        parts = self._parts(moment, fired, multiplied, campaigns, tier)
        by_line = self._round_first(parts, moment.basket)
        shares = []
        for p, part in enumerate(parts):
            points = granted.get(part.source.index)
            if points:
                lines = _on_lines(part, points, by_line[p] if by_line else None, moment.basket)
                shares.append(Share(part.source.index, points, part.weights is None, dict(lines)))
        return shares

    def _fire(
        self, moment: _Moment, usage: Usage, barred: Mapping[int, Reason]
    ) -> tuple[list[str], list[tuple[_Source, int]]]:
        """Why each source considered fires or not, as characters; those that do, with the lines
        they count."""
        held = self._held.get(moment.event.type, _NOTHING)
        basket = moment.basket
        # Whose conditions hold is told that no line matches, until one does.
        unmet = [_CODES[_unmet(c, moment) or "no_matching_line"] for c in held.conditions]
        codes = [unmet[n] for n in held.condition_of]
        fired: list[tuple[_Source, int]] = []
        for place in held.concerned(basket):
            source = held.sources[place]
            if codes[place] != _NO_LINE or source.index in barred:
                continue
            if source.frequencies and (reason := self._too_often(source, moment, usage)):
                codes[place] = _CODES[reason]
                continue
            mask = source.matcher(basket)
            if mask or not basket.all:
                codes[place] = _GRANTED
                fired.append((source, mask))
                if source.stacking == "last":
                    rest = held.rules - place - 1
                    codes[place + 1 : held.rules] = _AFTER_LAST * rest
        for index, reason in barred.items():
            codes[self._by_index[index].place] = _CODES[reason]
        return codes, fired

    def _too_often(self, source: _Source, moment: _Moment, usage: Usage) -> Reason | None:
        for frequency in source.frequencies:
            if frequency.every is not None:
                lasts = self._held[moment.event.type].longest
                paid = usage.paid_around(source.times_token, moment.occurred_at, lasts)
                if not _is_cool(paid, frequency.every, moment, self.program):
                    return "cooldown"
            elif frequency.per is not None and frequency.times is not None:
                used = usage.used(frequency.per, source.times_token)
                if used >= frequency.times:
                    return "frequency"
        return None

    def _exclude(
        self, fired: list[tuple[_Source, int]], codes: list[str], moment: _Moment
    ) -> list[tuple[_Source, int]]:
        """Only the exclusive rule of the highest priority counts; of equals, the one that grants
        most, judged before multipliers. Offers are no rules and stay, as do line multipliers."""
        exclusive = [pair for pair in fired if pair[0].stacking == "exclusive"]
        if not exclusive:
            return fired
        plain = _Factors(moment.basket, self._combined)
        plain.settle()

        def rank(pair: tuple[_Source, int]) -> tuple[int, Fraction, int]:
            source, mask = pair
            part = _part(source, mask, moment, plain)
            worth = Fraction(part.numerator, part.denominator) if part else Fraction(0)
            return (source.priority, worth, -source.index)

        best = max(exclusive, key=rank)[0]
        kept = []
        for source, mask in fired:
            if source is best or not source.is_rule or source.factor is not None:
                kept.append((source, mask))
            else:
                codes[source.place] = _CODES["excluded"]
        return kept

    def _line_multipliers(
        self, moment: _Moment, fired: list[tuple[_Source, int]]
    ) -> dict[int, _Source]:
        """For each line the one rule that multiplies it: the most specific, then the highest."""
        chosen: dict[int, tuple[tuple[int, Fraction, int], _Source]] = {}
        for source, mask in fired:
            if source.factor is None:
                continue
            rank = (source.matcher.specificity, source.factor.multiplier, -source.index)
            for i in moment.basket.indexes(mask):
                if i not in chosen or chosen[i][0] < rank:
                    chosen[i] = (rank, source)
        return {i: source for i, (_, source) in chosen.items()}

    def _work(
        self,
        moment: _Moment,
        fired: list[tuple[_Source, int]],
        multiplied: dict[int, _Source],
        campaigns: list[int],
        usage: Usage,
        most: int | None = None,
    ) -> _Worked:
        """Multiply, limit and round what fired, under these campaigns; at most `most` in all."""
        tier = self._tier_factors.get(moment.tier or "")
        parts = self._parts(moment, fired, multiplied, campaigns, tier)
        by_line = self._round_first(parts, moment.basket)
        desired = granted = self._settled(parts)
        for part, points in zip(parts, desired, strict=True):
            part.desired = points
        hits: list[LimitHit] = []
        cut = self._limit_each(parts, usage, hits)
        if self._limit_all(parts, usage, hits, most) or cut:
            granted = self._settled(parts)
        line_points = [0] * len(moment.basket.lines)
        for p, (part, points) in enumerate(zip(parts, granted, strict=True)):
            if points:
                rounded = by_line[p] if by_line else None
                for i, n in _on_lines(part, points, rounded, moment.basket):
                    line_points[i] += n
        return _Worked(parts, granted, line_points, sum(desired), hits)

    def _parts(
        self,
        moment: _Moment,
        fired: list[tuple[_Source, int]],
        multiplied: dict[int, _Source],
        campaigns: list[int],
        tier: Factor | None,
    ) -> list[_Part]:
        """What each source that fired gives, multiplied."""
        factors = self._factors(moment, multiplied, campaigns, None)
        tiered = self._factors(moment, multiplied, campaigns, tier) if tier else factors
        parts = []
        # Ties are settled in the order of the document, whatever the order of evaluation.
        for source, mask in sorted(fired, key=lambda pair: pair[0].index):
            part = _part(source, mask, moment, tiered if source.tiered else factors)
            if part is not None:
                parts.append(part)
        return parts

    def _within(
        self,
        budgets: Mapping[str, int],
        worked: _Worked,
        moment: _Moment,
        fired: list[tuple[_Source, int]],
        multiplied: dict[int, _Source],
        live: list[int],
        usage: Usage,
    ) -> tuple[_Worked, dict[str, int]]:
        """The award within budgets, and what it draws from each.

        A campaign's budget pays what the award is larger by because of it, campaigns counted one
        after another in document order; the program's pays everything. A budget that is used up
        ends its campaign.
        """
        limited = [k for k in live if self._campaigns[k].budget is not None]
        needed = [self._campaigns[k].budget_id for k in limited]
        if self.program.budget is not None:
            needed.append(PROGRAM_BUDGET)
        if not worked.total or not needed:
            return worked, {}
        if missing := {name: self.budgets[name] for name in needed if name not in budgets}:
            raise NeedsBudgets(self.version, missing)
        hits: list[LimitHit] = []
        draws: dict[str, int] = {}
        desired = worked.desired
        running = [k for k in live if k not in limited]
        if limited:
            allowed = before = self._work(moment, fired, multiplied, running, usage).total
        else:
            allowed = worked.total
        for k in limited:
            name = self._campaigns[k].budget_id
            running = sorted([*running, k])
            then = self._work(moment, fired, multiplied, running, usage).total
            extra = max(0, then - before)
            drawn = min(extra, max(0, budgets[name]))
            if drawn < extra:
                hits.append(LimitHit(CAMPAIGN_HIT, k))
            if drawn == 0 and extra:
                running.remove(k)  # used up: the campaign has ended
            else:
                allowed += min(0, then - before)
                draws[name] = drawn
                before = then
            allowed += drawn
        if self.program.budget is not None:
            left = max(0, budgets[PROGRAM_BUDGET])
            if allowed > left:
                hits.append(LimitHit(BUDGET_HIT, 0))
                # What the program cannot pay, its campaigns do not pay either.
                short = allowed - left
                for name in reversed(draws):
                    given_up = min(short, draws[name])
                    draws[name] -= given_up
                    short -= given_up
                allowed = left
            draws[PROGRAM_BUDGET] = allowed
        if running != live or worked.total > allowed:
            worked = self._work(moment, fired, multiplied, running, usage, allowed)
        worked.desired = desired
        worked.hits += hits
        return worked, {name: points for name, points in draws.items() if points}

    def _factors(
        self,
        moment: _Moment,
        multiplied: dict[int, _Source],
        campaigns: list[int],
        tier: Factor | None,
    ) -> _Factors:
        """Line, campaign and tier multipliers on every line, under the combined ceiling."""
        factors = _Factors(moment.basket, self._combined)
        for i, source in multiplied.items():
            if source.factor is not None:
                factors.add(source.factor, 1 << i, to_event=False)
        for k in campaigns:
            matcher = self._campaigns[k].matcher
            mask = moment.basket.all if matcher is None else matcher(moment.basket)
            factors.add(self._campaigns[k].factor, mask, to_event=matcher is None)
        if tier is not None:
            factors.add(tier, moment.basket.all, to_event=True)
        factors.settle()
        return factors

    def _combined(self, factors: tuple[Factor, ...]) -> Fraction:
        multipliers = [factor.multiplier for factor in factors]
        match self.program.multipliers.combine:
            case "multiply":
                combined = reduce(mul, multipliers)
            case "add":
                combined = max(Fraction(0), sum(multipliers, Fraction(1 - len(multipliers))))
            case "best":
                combined = max(multipliers)
        ceiling = self.program.multipliers.max
        return combined if ceiling is None else min(combined, ceiling)

    def _round_first(self, parts: list[_Part], basket: _Basket) -> list[dict[int, int]]:
        """Where the program rounds by rule or by line, the parts become integers before limits
        are applied: those integers are what limits count. Returns each part's points by line for
        rounding by line."""
        mode = self.program.rounding.mode
        if self.program.rounding.scope == "award":
            return []
        if self.program.rounding.scope == "rule":
            for part in parts:
                points = round_points(mode, part.numerator, part.denominator)
                part.numerator, part.denominator = points, 1
            return []
        _on_one_denominator(parts)
        by_line = _rounded_lines(mode, parts, basket)
        for part, lines in zip(parts, by_line, strict=True):
            part.numerator, part.denominator = sum(lines.values()), 1
        return by_line

    def _limit_each(self, parts: list[_Part], usage: Usage, hits: list[LimitHit]) -> bool:
        """Cut every part to what its own limits leave; whether there was anything to cut."""
        before = len(hits)
        for part in parts:
            source = part.source
            if source.limits:
                points = (part.numerator, part.denominator)
                ceiling, bitten, part.refused = _cut(
                    points, source.limits, source.points_token, usage
                )
                if ceiling is not None:
                    part.numerator, part.denominator = ceiling, 1
                    hits += [LimitHit(source.index, at) for at in bitten]
        return len(hits) > before

    def _limit_all(
        self, parts: list[_Part], usage: Usage, hits: list[LimitHit], budget: int | None
    ) -> bool:
        """Cut all parts in proportion to what the program's limits, and then its budgets, leave;
        whether there was anything to cut."""
        if budget is None and not self._limits:
            return False
        denominator = _on_one_denominator(parts)
        total = sum([part.numerator for part in parts])
        most, bitten, _ = _cut((total, denominator), self._limits, PROGRAM_POINTS, usage)
        hits += [LimitHit(PROGRAM_HIT, at) for at in bitten]
        if budget is not None and (most is None or budget < most) and total > budget * denominator:
            most = budget
        if most is None:
            return False
        for part in parts:
            part.numerator, part.denominator = part.numerator * most, total
        return True

    def _settled(self, parts: list[_Part]) -> list[int]:
        """Each part's integer points: the total is rounded once, then spread."""
        denominator = _on_one_denominator(parts)
        numerators = [part.numerator for part in parts]
        whole = round_points(self.program.rounding.mode, sum(numerators), denominator)
        return settle(whole, numerators, denominator)

    def _evaluation(
        self,
        moment: _Moment,
        usage: Usage,
        codes: list[str],
        worked: _Worked,
        multiplied: dict[int, _Source],
        draws: dict[str, int],
        left: dict[str, int],
    ) -> Evaluation:
        by_terms: dict[int, int] = {}
        counts: list[Count] = []
        cooldowns: dict[str, int] = {}
        rows: list[Row] = []
        spent: list[_Source] = []
        total = worked.total
        for part, points in zip(worked.parts, worked.granted, strict=True):
            source = part.source
            wanted = min(part.desired, MAX_NUMBER)
            if part.refused:
                codes[source.place] = _CODES["limit"]
            if wanted or points:
                applied = part.factors.applied(part.mask if part.weights is not None else 0)
                rows.append(Row(source.index, wanted, points, applied))
            if points:
                by_terms[source.terms] = by_terms.get(source.terms, 0) + points
                counts += [usage.count(per, source.points_token, points) for per in source.windows]
                if source.frequencies:
                    spent.append(source)
        if total:
            spent += dict.fromkeys(multiplied.values())
            counts += [usage.count(per, PROGRAM_POINTS, total) for per in self._limit_windows]
        for source in spent:
            pers = dict.fromkeys(f.per for f in source.frequencies if f.per is not None)
            counts += [usage.count(per, source.times_token, 1) for per in pers]
            if any(f.every is not None for f in source.frequencies):
                cooldowns[source.times_token] = moment.occurred_at
        if moment.event.type == "purchase" and moment.first_purchase:
            # Kept also while no rule asks for it: a rule of tomorrow must not pay it again.
            counts.append(usage.count("ever", _FIRST_PURCHASE, 1))
        if total > MAX_POINTS:
            raise Refusal("too_many_points", f"One event may earn at most {MAX_POINTS} points.")
        grants: dict[tuple[Day, Day], int] = {}
        for terms, points in by_terms.items():
            life = self.life(terms, moment.day)
            grants[life] = grants.get(life, 0) + points
        return Evaluation(
            points=total,
            desired=min(max(total, worked.desired), MAX_NUMBER),
            grants=tuple((start, end, points) for (start, end), points in grants.items()),
            line_points=tuple(worked.line_points),
            codes="".join(codes),
            rows=tuple(rows),
            hits=tuple(worked.hits),
            counts=tuple(counts),
            cooldowns=cooldowns,
            draws=draws,
            left=left,
        )

    def terms(self, index: int) -> int:
        """The number of the terms on which a source's points wait and expire."""
        return self._by_index[index].terms

    def life(self, terms: int, occurred_on: Day) -> tuple[Day, Day]:
        """(available_on, expires_on) of points granted on these terms for an event of that day."""
        wait, policies = self._lives[terms]
        start = available_on(wait, occurred_on)
        return start, expiry(policies, start, occurred_on)


def _part(source: _Source, mask: int, moment: _Moment, factors: _Factors) -> _Part | None:
    """What a source gives, multipliers included; None for one that gives no points itself."""
    gives = source.gives
    if gives is None:
        return None
    if gives.of is None:
        numerator = gives.points * factors.event.numerator
        return _Part(source, mask, numerator, factors.event.denominator, None, factors)
    lines = moment.basket.indexes(mask)
    weights = factors.weights[gives.of]
    numerator = gives.points * sum([weights[i] for i in lines])
    denominator = gives.size
    if gives.whole:
        # Whole blocks of the sum, which belong to the lines in proportion to what they brought.
        units = moment.basket.units[gives.of]
        whole = sum([units[i] for i in lines])
        numerator *= whole // gives.size
        denominator = max(1, whole)
    return _Part(source, mask, numerator, denominator * factors.denominator, weights, factors)


def _on_one_denominator(parts: list[_Part]) -> int:
    """Bring all parts over one denominator, and say which."""
    denominator = lcm(*{part.denominator for part in parts})
    for part in parts:
        if part.denominator != denominator:
            part.numerator *= denominator // part.denominator
            part.denominator = denominator
    return denominator


def _on_lines(
    part: _Part, points: int, rounded: dict[int, int] | None, basket: _Basket
) -> Iterable[tuple[int, int]]:
    """The points of a part that fall on each line, as (line number, points).

    What is for the event as a whole goes over all lines that match. Lines that were `rounded` each
    for itself keep what they got, unless a limit cut it.
    """
    if not basket.lines:
        return ()
    if rounded is not None and part.weights is not None and points == sum(rounded.values()):
        return rounded.items()
    lines = basket.indexes(part.mask)
    if len(lines) == 1:
        return ((lines[0], points),)
    weights = part.weights or basket.units["amount"]
    return zip(lines, spread(points, [weights[i] for i in lines]), strict=True)


def _rounded_lines(mode: str, parts: list[_Part], basket: _Basket) -> list[dict[int, int]]:
    """Each part's points by line, where each line's total over all rules is rounded; what is for
    the event as a whole is rounded by itself (line −1). The parts stand over one denominator."""
    denominator = parts[0].denominator if parts else 1
    points: list[dict[int, int]] = [{} for _ in parts]
    columns: dict[int, list[tuple[int, int, int]]] = {}
    for p, part in enumerate(parts):
        if part.weights is None:
            points[p][-1] = round_points(mode, part.numerator, denominator)
            continue
        lines = basket.indexes(part.mask)
        whole = sum(part.weights[i] for i in lines)
        for i in lines:
            if whole:
                cell = (p, part.numerator * part.weights[i], whole)
                columns.setdefault(i, []).append(cell)
    for i, column in columns.items():
        common = lcm(*(whole for _, _, whole in column))
        numbers = [numerator * (common // whole) for _, numerator, whole in column]
        total = round_points(mode, sum(numbers), common * denominator)
        for (p, _, _), n in zip(column, settle(total, numbers, common * denominator), strict=True):
            points[p][i] = n
    return points


def _in_order(limits: Sequence[Limit]) -> tuple[tuple[int, Limit], ...]:
    """Limits with their index: per transaction first, then by window, as they are applied."""
    return tuple(sorted(enumerate(limits), key=lambda pair: pair[1].per != "transaction"))


def _windows(limits: Iterable[Limit]) -> tuple[Any, ...]:
    """The windows whose counters these limits keep."""
    return tuple(dict.fromkeys(m.per for m in limits if m.per != "transaction"))


def _cut(
    points: tuple[int, int], limits: tuple[tuple[int, Limit], ...], name: str, usage: Usage
) -> tuple[int | None, list[int], bool]:
    """(The most that the limits leave of numerator/denominator `points` or None, which of them
    bit, whether one refused); `name` is the counter's."""
    numerator, denominator = points
    ceiling: int | None = None
    bitten: list[int] = []
    for at, limit in limits:
        left = limit.points
        if limit.per != "transaction":
            if usage.free:
                continue
            left = max(0, left - usage.used(limit.per, name))
        if numerator > left * denominator:
            bitten.append(at)
            if limit.over == "refuse":
                return 0, bitten, True
            numerator, denominator, ceiling = left, 1, left
    return ceiling, bitten, False


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


def _is_cool(paid: Iterable[int], every: Duration, moment: _Moment, program: Program) -> bool:
    """Whether none of the instants lies closer than the cooldown, before or after this one."""
    for paid_at in paid:
        earlier, later = sorted((paid_at, moment.occurred_at))
        if milliseconds(cooled_down(earlier, every, program.zone)) > later:
            return False
    return True
