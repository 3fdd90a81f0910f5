"""What a valid program probably does not mean: rules that can never fire, or never count.

Publishing refuses contradictions; these are warnings, and the program is published all the same.
A warning is only given where it is certain.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import accumulate, batched, chain, islice
from operator import or_

from loyalty.celebrations import CAUGHT_UP_DAYS
from loyalty.dates import Duration, minus
from loyalty.fields import PURCHASES, WEEKDAYS, LocalTime
from loyalty.program import Match, Program, Rule, When
from loyalty.validation import MOST_FAULTS, Fault

# What events that the service raises itself never carry. Birthdays and anniversaries, whose
# programs are refused for it, are not among them.
_BARE = ("channels", "locations", "attributes")
LACKING = {
    "registration": _BARE,
    "profile_completed": _BARE,
    "check_in": ("channels", "attributes"),
}

AT_ONCE = 1024
"""Rules that are looked at in one go: more of them take more memory for each day, amount and name
that they ask for."""

EVERYTHING = When()
ALL_LINES = Match()


def warnings(program: Program, now: datetime) -> list[Fault]:
    """Rules, campaigns and offers that can never fire from `now` on, and rules that another one
    always shadows, each with its place in the document; the first MOST_FAULTS of them."""
    today = now.astimezone(program.zone).date()
    found = chain(
        _ended(program, today),
        _without_day(program),
        _lacking(program),
        _nowhere(program),
        _shadowed(program),
    )
    return list(islice(found, MOST_FAULTS))


def _ended(program: Program, today: date) -> Iterator[Fault]:
    for i, rule in enumerate(program.rules):
        if rule.when and (earliest := _earliest(program, rule.trigger, today)):
            yield from _over(f"/rules/{i}/when/until", rule.when.until, earliest)
    purchases, birthdays = (_earliest(program, t, today) for t in ("purchase", "birthday"))
    if purchases and birthdays:
        earliest = min(purchases, birthdays)
        for i, campaign in enumerate(program.campaigns):
            yield from _over(f"/campaigns/{i}/until", campaign.until, earliest)
            if campaign.when:
                yield from _over(f"/campaigns/{i}/when/until", campaign.when.until, earliest)
        for i, offer in enumerate(program.offers):
            yield from _over(f"/offers/{i}/until", offer.until, earliest)


def _over(place: str, until: LocalTime | None, earliest: date) -> Iterator[Fault]:
    if until is not None and until.day < earliest:
        yield Fault(place, "has_ended", f"ended on {until.day}: this can never fire")


def _earliest(program: Program, trigger: str, today: date) -> date | None:
    """The earliest day of which such an event can still be told; None where any can."""
    if trigger in ("birthday", "anniversary"):
        return today - timedelta(days=CAUGHT_UP_DAYS)
    if trigger in ("registration", "profile_completed", "check_in"):
        return today
    # A day more: a cooldown's worth of hours may reach into the day before.
    lateness = program.max_lateness
    if lateness is None:
        return None
    return minus(today, Duration(lateness.months, lateness.days + lateness.seconds // 86_400 + 1))


def _without_day(program: Program) -> Iterator[Fault]:
    """Rules whose dates hold none of their weekdays."""
    for i, rule in enumerate(program.rules):
        when = rule.when
        if when is None or not when.weekdays or when.from_ is None or when.until is None:
            continue
        days = (when.until.day - when.from_.day).days + 1
        names = {
            WEEKDAYS[(when.from_.day + timedelta(days=n)).weekday()] for n in range(min(7, days))
        }
        if not names & set(when.weekdays):
            yield Fault(f"/rules/{i}/when", "never_fires", "none of its weekdays is in its dates")


def _lacking(program: Program) -> Iterator[Fault]:
    """Rules that ask for what no event of their type carries."""
    for i, rule in enumerate(program.rules):
        when = rule.when or EVERYTHING
        asked = {
            "channels": when.channels,
            "locations": when.locations,
            "attributes": [c for c in when.attributes if not c.holds(None)],
        }
        for name in LACKING.get(rule.trigger, ()):
            if asked[name]:
                detail = f"no event of type {rule.trigger} has {name}"
                yield Fault(f"/rules/{i}/when/{name}", "never_fires", detail)
        lowest = program.tiers.levels[0].tier_id if program.tiers else ""
        if rule.trigger == "registration" and when.tiers and lowest not in when.tiers:
            detail = "whoever registers is in the lowest tier"
            yield Fault(f"/rules/{i}/when/tiers", "never_fires", detail)


def _nowhere(program: Program) -> Iterator[Fault]:
    """Check-in rules where nobody can check in."""
    open_ = {location.location_id for location in program.locations if location.check_in}
    for i, rule in enumerate(program.rules):
        if rule.trigger != "check_in":
            continue
        places = rule.when.locations if rule.when and rule.when.locations else open_
        if open_.isdisjoint(places):
            yield Fault(f"/rules/{i}", "never_fires", "nobody can check in at its locations")


def _shadowed(program: Program) -> Iterator[Fault]:
    """Rules that never count because another one ends or excludes them whenever they fire."""
    rules = program.rules
    order = sorted(range(len(rules)), key=lambda i: -rules[i].priority)
    place = {index: at for at, index in enumerate(order)}
    ending = [at for at, index in enumerate(order) if rules[index].stacking == "last"]
    strong = [i for i in order if rules[i].stacking != "stack" and not rules[i].frequency]
    asked = [_Asked.by(rule) for rule in rules]
    shadows: dict[int, int] = {}
    for part in batched(strong, AT_ONCE, strict=False):
        wide = _Wide([asked[i] for i in part])
        places = [place[i] for i in part]
        falling = [-rules[i].priority for i in part]
        last = _bits(n for n, i in enumerate(part) if rules[i].stacking == "last")
        exclusive = _below(len(part)) & ~last
        for index, rule in enumerate(rules):
            if index in shadows:
                continue
            at = place[index]
            found = last & _below(bisect_left(places, at))
            if rule.stacking == "exclusive":
                # Of two exclusive ones of one priority the one that grants most counts.
                found |= exclusive & _below(bisect_left(falling, -rule.priority))
            elif rule.earn.multiply is None:
                # A rule that ends the evaluation may keep a later exclusive one out of it. Line
                # multipliers stay in force beside an exclusive rule.
                end = bisect_left(ending, at)
                reach = ending[end] if end < len(ending) else len(order)
                found |= exclusive & _below(bisect_right(places, reach))
            if found := found and found & wide.covering(asked[index]):
                shadows[index] = part[(found & -found).bit_length() - 1]
    for index, other in sorted(shadows.items()):
        detail = f"rule {rules[other].rule_id} fires whenever it does, and it never counts"
        yield Fault(f"/rules/{index}", "always_shadowed", detail)


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << n for n in numbers)


def _below(n: int) -> int:
    """The first n bits."""
    return (1 << n) - 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a rule asks for: one of the values of each kind in `any_of` that has some, everything in
    `all_of`, at least `min_amount`, and a time from `from_` to `until`."""

    any_of: Mapping[str, tuple[Hashable, ...]]
    all_of: frozenset[Hashable]
    min_amount: int
    from_: LocalTime | None
    until: LocalTime | None

    @classmethod
    def by(cls, rule: Rule) -> "_Asked":
        when, match = rule.when or EVERYTHING, rule.match or ALL_LINES
        lines = ("products", "categories", "brands")
        any_of: dict[str, tuple[Hashable, ...]] = {
            # A first purchase is a purchase too.
            "triggers": tuple(PURCHASES) if rule.trigger == "purchase" else (rule.trigger,),
            "hours": (when.hours,) if when.hours else (),
            "discounted": () if match.discounted is None else (match.discounted,),
        }
        for name in ("channels", "locations", "groups", "tiers", "weekdays"):
            any_of[name] = getattr(when, name)
        for name in lines:
            any_of[name] = getattr(match, name)
        excluded = ((name, value) for name in lines for value in getattr(match.exclude, name))
        all_of = frozenset((*when.attributes, *excluded))
        return cls(any_of, all_of, when.min_amount or 0, when.from_, when.until)

    @property
    def begins(self) -> int:
        """The number of its first day; less than that of any day where it has none."""
        return 0 if self.from_ is None else self.from_.day.toordinal()

    @property
    def ends(self) -> int:
        """That of its last day, negative, so that more time is less here too."""
        return -date.max.toordinal() - 1 if self.until is None else -self.until.day.toordinal()


class _Wide:
    """Rules, each a bit, by what they ask for, so that it takes a few operations to tell which of
    them surely fire whenever another rule does."""

    def __init__(self, rules: Sequence[_Asked]) -> None:
        self._asking: dict[str, int] = {}
        self._naming: dict[tuple[str, Hashable], int] = {}
        self._from: dict[LocalTime | None, int] = {}
        self._until: dict[LocalTime | None, int] = {}
        whole: dict[frozenset[Hashable], int] = {}
        for n, asked in enumerate(rules):
            bit = 1 << n
            for kind, values in asked.any_of.items():
                for value in values:
                    self._asking[kind] = self._asking.get(kind, 0) | bit
                    self._naming[kind, value] = self._naming.get((kind, value), 0) | bit
            self._from[asked.from_] = self._from.get(asked.from_, 0) | bit
            self._until[asked.until] = self._until.get(asked.until, 0) | bit
            whole[asked.all_of] = whole.get(asked.all_of, 0) | bit
        self._nothing = whole.pop(frozenset(), 0)
        # Everything that a rule asks for is only compared where the rarest part of it is there.
        common = Counter(chain.from_iterable(whole))
        self._whole: dict[Hashable, list[tuple[frozenset[Hashable], int]]] = {}
        for all_of, bits in whole.items():
            rarest = min(all_of, key=common.__getitem__)
            self._whole.setdefault(rarest, []).append((all_of, bits))
        self._amounts = _Rising(asked.min_amount for asked in rules)
        self._begins = _Rising(asked.begins for asked in rules)
        self._ends = _Rising(asked.ends for asked in rules)

    def covering(self, narrow: _Asked) -> int:
        """Those that surely fire whenever a rule does that asks for this."""
        found = self._amounts.up_to(narrow.min_amount)
        # Of two times on one day nothing is said, unless they are the same.
        found &= self._begins.up_to(narrow.begins - 1) | self._from.get(narrow.from_, 0)
        found &= self._ends.up_to(narrow.ends - 1) | self._until.get(narrow.until, 0)
        for kind, asking in self._asking.items():
            if not found:
                return 0
            values = narrow.any_of[kind]
            accepting = asking if values else 0
            for value in values:
                accepting &= self._naming.get((kind, value), 0)
                if not accepting:
                    break
            found &= ~asking | accepting
        asked = self._nothing
        for part in narrow.all_of:
            for all_of, bits in self._whole.get(part, ()):
                if all_of <= narrow.all_of:
                    asked |= bits
        return found & asked


class _Rising:
    """Rules, each a bit, by a number that each of them has."""

    def __init__(self, numbers: Iterable[int]) -> None:
        bits: dict[int, int] = {}
        for n, number in enumerate(numbers):
            bits[number] = bits.get(number, 0) | 1 << n
        self._numbers = sorted(bits)
        self._bits: list[int] = [0, *accumulate((bits[n] for n in self._numbers), or_)]

    def up_to(self, number: int) -> int:
        """Those whose number is not above this one."""
        return self._bits[bisect_right(self._numbers, number)]
