"""What a valid program probably does not mean: rules that can never fire, or never count.

Publishing refuses contradictions; these are warnings, and the program is published all the same.
A warning is only given where it is certain.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

from loyalty.celebrations import CAUGHT_UP_DAYS
from loyalty.dates import Duration, minus
from loyalty.fields import PURCHASES, WEEKDAYS, LocalTime
from loyalty.program import Match, Program, Rule, When
from loyalty.validation import Fault

# What events that the service raises itself never carry. Birthdays and anniversaries, whose
# programs are refused for it, are not among them.
_BARE = ("channels", "locations", "attributes")
LACKING = {
    "registration": _BARE,
    "profile_completed": _BARE,
    "check_in": ("channels", "attributes"),
}

EVERYTHING = When()
ALL_LINES = Match()


def warnings(program: Program, now: datetime) -> list[Fault]:
    """Rules, campaigns and offers that can never fire from `now` on, and rules that another one
    always shadows, each with its place in the document."""
    today = now.astimezone(program.zone).date()
    return [
        *_ended(program, today),
        *_without_day(program),
        *_lacking(program),
        *_nowhere(program),
        *_shadowed(program),
    ]


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
        places = set(rule.when.locations) if rule.when and rule.when.locations else open_
        if not places & open_:
            yield Fault(f"/rules/{i}", "never_fires", "nobody can check in at its locations")


def _shadowed(program: Program) -> Iterator[Fault]:
    """Rules that never count because another one ends or excludes them whenever they fire."""
    order = sorted(range(len(program.rules)), key=lambda i: -program.rules[i].priority)
    place = {index: at for at, index in enumerate(order)}
    ending = [i for i in order if program.rules[i].stacking == "last"]
    strong = [i for i in order if program.rules[i].stacking != "stack"]
    for index, rule in enumerate(program.rules):
        for other_index in strong:
            other = program.rules[other_index]
            if other_index == index or other.frequency or not _covers(other, rule):
                continue
            earlier = place[other_index] < place[index]
            if other.stacking == "last":
                shadows = earlier
            else:
                # A rule that ends the evaluation may keep a later exclusive one out of it.
                between = range(place[index], place[other_index])
                kept_out = any(place[i] in between for i in ending)
                shadows = _excludes(other, rule) and (earlier or not kept_out)
            if shadows:
                detail = f"rule {other.rule_id} fires whenever it does, and it never counts"
                yield Fault(f"/rules/{index}", "always_shadowed", detail)
                break


def _excludes(exclusive: Rule, rule: Rule) -> bool:
    """Whether the rule does not count where the exclusive one fires too."""
    if rule.earn.multiply is not None:
        return False  # line multipliers stay in force beside an exclusive rule
    # Of two exclusive ones of one priority the one that grants most counts.
    return rule.stacking != "exclusive" or rule.priority < exclusive.priority


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whether `wide` surely fires whenever `narrow` does."""
    if wide.trigger != narrow.trigger and not (
        wide.trigger == "purchase" and narrow.trigger in PURCHASES
    ):
        return False
    outer, inner = wide.when or EVERYTHING, narrow.when or EVERYTHING
    lists = ("channels", "locations", "groups", "tiers", "weekdays")
    return (
        all(_holds(getattr(outer, name), getattr(inner, name)) for name in lists)
        and (not outer.hours or outer.hours == inner.hours)
        and set(outer.attributes) <= set(inner.attributes)
        and (outer.min_amount or 0) <= (inner.min_amount or 0)
        and _starts_before(outer.from_, inner.from_)
        and _ends_after(outer.until, inner.until)
        and _counts_more(wide.match or ALL_LINES, narrow.match or ALL_LINES)
    )


def _holds(wide: tuple[object, ...], narrow: tuple[object, ...]) -> bool:
    return not wide or (bool(narrow) and set(narrow) <= set(wide))


def _starts_before(wide: LocalTime | None, narrow: LocalTime | None) -> bool:
    return wide is None or ((narrow is not None and wide == narrow) or _earlier(wide, narrow))


def _earlier(one: LocalTime, other: LocalTime | None) -> bool:
    return other is not None and one.day < other.day


def _ends_after(wide: LocalTime | None, narrow: LocalTime | None) -> bool:
    return wide is None or (narrow is not None and (wide == narrow or narrow.day < wide.day))


def _counts_more(wide: Match, narrow: Match) -> bool:
    out, inside = wide.exclude, narrow.exclude
    return all(
        _holds(getattr(wide, name), getattr(narrow, name))
        and set(getattr(out, name)) <= set(getattr(inside, name))
        for name in ("products", "categories", "brands")
    ) and wide.discounted in (None, narrow.discounted)
