"""Reading a program document: a JSON-like value becomes a `Program`, or `Faults` say why it cannot.

`parse` raises `Faults` with everything that is wrong and where in the document it stands, the
contradictions between fields as well, which no single field shows. A program that it returns can
always be evaluated. `publishable` also refuses what is understood but not evaluated yet, and more
budgets at once than one award could draw on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from heapq import heappop, heappush
from itertools import chain
from typing import Any, Final

from pydantic import ValidationError

from loyalty.fields import PRINTABLE, PRINTABLE_LINES, PURCHASES
from loyalty.program import (
    Campaign,
    Dated,
    Location,
    Match,
    Part,
    Program,
    Reward,
    RewardWhen,
    Rule,
    Tiers,
    When,
    days_of,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a document: where (JSON Pointer), a stable code, and a sentence."""

    pointer: str
    code: str
    detail: str


class Faults(Exception):
    """A document that cannot be a program; `faults` lists everything that is wrong with it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{f.pointer}: {f.detail}" for f in self.faults[:5]))


# What pydantic finds, in the document's words: its type → our code and sentence.
_WORDS: Mapping[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown_field", "is not a field here"),
    "invalid_key": ("unknown_field", "is not a text, as names of fields are"),
    "int_type": ("wrong_type", "must be an integer"),
    "string_type": ("wrong_type", "must be a text"),
    "string_unicode": ("wrong_type", "must be text that UTF-8 can write"),
    "bool_type": ("wrong_type", "must be true or false"),
    "tuple_type": ("wrong_type", "must be a list"),
    "dict_type": ("wrong_type", "must be an object"),
    "model_type": ("wrong_type", "must be an object"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
    "string_too_short": ("bad_length", "must have at least {min_length} characters"),
    "string_too_long": ("bad_length", "must have at most {max_length} characters"),
    "too_short": ("bad_length", "must have at least {min_length} items"),
    "literal_error": ("not_allowed", "must be one of {expected}"),
    "string_pattern_mismatch": ("bad_format", "must match {pattern}"),
}
_READABLE = {
    PRINTABLE: "must not have control characters or line breaks",
    PRINTABLE_LINES: "must not have control characters",
}

# Beyond this a list helps nobody, and an answer that a Lambda may give (6 MB) could not hold it.
MOST_FAULTS = 5000

BUDGETS_AT_ONCE: Final = 12
"""Campaigns with a budget that may count at one moment, since one event can meet all of them. The
transaction of an award takes 100 items, and may need 86 for the rest: four for a member and who
brought it, 40 for stocks that lapsed holds of both give back, 40 for vouchers and stocks of
redemptions that a waiting refund restores, one for that, one for the program's budget."""

type Path = tuple[str | int, ...]


def _pointer(path: Path) -> str:
    """The JSON Pointer (RFC 6901) of a path; overlong names are cut, unwritable ones escaped."""
    text = "".join(f"/{str(step)[:200].replace('~', '~0').replace('/', '~1')}" for step in path)
    return text.encode("utf-8", "backslashreplace").decode()


def _real_path(document: Any, location: Path) -> Path:
    """The part of a pydantic location that exists in the document, or would if it were complete."""
    path: list[str | int] = []
    node = document
    for step in location:
        if isinstance(node, dict):
            if step not in node and step == "[key]":
                break
            path.append(step)
            node = node.get(step)
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            path.append(step)
            node = node[step]
        else:
            break
    return tuple(path)


def _shape_faults(document: Any, error: ValidationError) -> Iterator[tuple[Path, str, str]]:
    for found in error.errors(include_url=False, include_input=False):
        kind = found["type"]
        if kind == "default_factory_not_called":
            continue  # follows from another fault of the same part
        context = found.get("ctx", {})
        if kind in _WORDS:
            code, sentence = _WORDS[kind]
            detail = _READABLE.get(context.get("pattern", ""), sentence).format_map(context)
        else:
            # Faults that this module raises carry their own code and sentence.
            code, detail = kind, context.get("detail", found["msg"])
        yield _real_path(document, found["loc"]), code, detail


# --------------------------------------------------------------------------------------------
# Contradictions: what no single field shows

type _Found = tuple[Path, str, str]

# Where a document names things, and by which field.
_NAMED: tuple[tuple[Path, str], ...] = (
    (("tiers", "levels"), "tier_id"),
    (("rules",), "rule_id"),
    (("campaigns",), "campaign_id"),
    (("offers",), "offer_id"),
    (("rewards",), "reward_id"),
    (("locations",), "location_id"),
)
_REQUIRED = {"program_id": "unnamed", "name": "unnamed", "currency": "EUR", "time_zone": "UTC"}


def _at(document: Any, path: Path) -> Any:
    """What stands at a path of objects; None where something on the way is missing."""
    for step in path:
        if not isinstance(document, dict):
            return None
        document = document.get(step)
    return document


@dataclass(frozen=True, slots=True)
class _Whole:
    """The parts of a document that have the right shape, as a program, and what was left out.

    `kept` maps positions in the program's collections to those in the document.
    """

    program: Program
    left_out: frozenset[str]
    kept: Mapping[Path, Sequence[int]]

    def place(self, path: Path) -> Path:
        for prefix, positions in self.kept.items():
            n = len(prefix)
            if path[:n] == prefix and len(path) > n and isinstance(path[n], int):
                return (*prefix, positions[int(path[n])], *path[n + 1 :])
        return path


def _sound_parts(document: Any, faulty: Iterable[Path]) -> _Whole | None:
    """Leave the faulty items of collections and other faulty sections out of the document.

    None when nothing is left that could be read.
    """
    if not isinstance(document, dict):
        return None
    items: dict[Path, set[int]] = {}
    sections: set[str] = set()
    for path in faulty:
        for prefix, _ in _NAMED:
            n = len(prefix)
            if path[:n] == prefix and len(path) > n and isinstance(path[n], int):
                items.setdefault(prefix, set()).add(int(path[n]))
                break
        else:
            if not path:
                return None
            sections.add(str(path[0]))
    sound = {k: v for k, v in document.items() if isinstance(k, str) and k not in sections}
    kept: dict[Path, Sequence[int]] = {}
    for prefix, bad in items.items():
        if prefix[0] in sections:
            continue
        entries = _at(document, prefix)
        good = [i for i in range(len(entries)) if i not in bad]
        kept[prefix] = good
        chosen = [entries[i] for i in good]
        if prefix == ("tiers", "levels"):
            if not chosen:
                del sound["tiers"]
                sections.add("tiers")
            else:
                sound["tiers"] = {**document["tiers"], "levels": chosen}
        else:
            sound[str(prefix[0])] = chosen
    try:
        program = Program.model_validate(_REQUIRED | sound)
    except ValidationError:
        return None
    return _Whole(program, frozenset(sections), kept)


def _stated_ids(document: Any, collection: Path, field: str) -> Mapping[str, int] | None:
    """Ids that a collection states, well-formed or not, with their first position.

    None when the collection is not a list, so that nothing can be said about what it names.
    """
    if _at(document, collection[:1]) is None:
        return {}
    entries = _at(document, collection)
    if not isinstance(entries, list | tuple):
        return None
    found: dict[str, int] = {}
    for position, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(entry.get(field), str):
            found.setdefault(entry[field], position)
    return found


def _duplicates(document: Any) -> Iterator[_Found]:
    for collection, field in _NAMED:
        first = _stated_ids(document, collection, field)
        if not first:
            continue
        for position, entry in enumerate(_at(document, collection)):
            name = entry.get(field) if isinstance(entry, dict) else None
            if isinstance(name, str) and first[name] != position:
                yield (
                    (*collection, position, field),
                    "duplicate_id",
                    f"is the {field} of {_pointer((*collection, first[name]))} already",
                )


def _says_nothing(part: Part) -> bool:
    values = (getattr(part, name) for name in type(part).model_fields)
    return all(
        value is None or value == () or (isinstance(value, Part) and _says_nothing(value))
        for value in values
    )


def _filter(path: Path, part: Part | None) -> Iterator[_Found]:
    if part is not None and _says_nothing(part):
        yield path, "empty_filter", "filters on nothing: name something, or leave it out"


def _dates(path: Path, part: Dated | None) -> Iterator[_Found]:
    if part is None or part.from_ is None or part.until is None:
        return
    begins = (part.from_.day, part.from_.at or time.min)
    ends = (part.until.day, part.until.at if part.until.at is not None else time.max)
    if ends < begins:
        yield (*path, "until"), "ends_before_start", "is before from"


def _references(
    path: Path, names: Sequence[str], known: Mapping[str, int] | None, code: str, what: str
) -> Iterator[_Found]:
    if known is None:
        return
    for position, name in enumerate(names):
        if name not in known:
            yield (*path, position), code, f"is not the id of any {what} of this program"


def _when(
    path: Path,
    when: When | RewardWhen | None,
    tiers: Mapping[str, int] | None,
    locations: Mapping[str, int] | None,
) -> Iterator[_Found]:
    if when is None:
        return
    yield from _filter(path, when)
    yield from _dates(path, when)
    yield from _references((*path, "tiers"), when.tiers, tiers, "unknown_tier", "tier")
    if isinstance(when, When):
        yield from _references(
            (*path, "locations"), when.locations, locations, "unknown_location", "location"
        )


def _match(path: Path, match: Match | None) -> Iterator[_Found]:
    if match is None:
        return
    yield from _filter(path, match)
    for kind in ("products", "categories", "brands"):
        wanted = frozenset(getattr(match, kind))
        for position, name in enumerate(getattr(match.exclude, kind)):
            if name in wanted:
                yield (
                    (*path, "exclude", kind, position),
                    "included_and_excluded",
                    f"is named among {kind} to match as well",
                )


def _rule(path: Path, rule: Rule) -> Iterator[_Found]:
    if rule.trigger == "referral":
        yield (
            (*path, "trigger"),
            "reserved_trigger",
            "is paid by the referral part of the program, not by rules",
        )
    if rule.trigger not in PURCHASES:
        needs = "needs a purchase: the trigger must be purchase or first_purchase"
        if rule.earn.kind != "fixed":
            yield (*path, "earn", rule.earn.kind), "needs_purchase", needs
        if rule.match is not None:
            yield (*path, "match"), "needs_purchase", needs
        if rule.when is not None and rule.when.min_amount is not None:
            yield (*path, "when", "min_amount"), "needs_purchase", needs
    if rule.trigger in ("birthday", "anniversary") and rule.when is not None:
        for name in ("channels", "locations", "hours", "attributes"):
            if getattr(rule.when, name):
                yield (
                    (*path, "when", name),
                    "never_fires",
                    f"can never hold: {rule.trigger} is a day, without {name}",
                )
    if rule.earn.kind == "multiply":
        for name, stated in (
            ("limits", rule.limits),
            ("pending", rule.pending is not None),
            ("expiry", rule.expiry is not None),
            ("stacking", rule.stacking == "exclusive"),
        ):
            if stated:
                yield (
                    (*path, name),
                    "does_not_belong",
                    "has no meaning for a multiplier, which grants no points of its own",
                )


def _reward(path: Path, reward: Reward, tiers: Mapping[str, int] | None) -> Iterator[_Found]:
    if tiers is not None:
        for tier_id in reward.cost:
            if tier_id != "default" and tier_id not in tiers:
                yield (
                    (*path, "cost", tier_id),
                    "unknown_tier",
                    "is not the id of any tier of this program",
                )
    if reward.kind == "discount" and reward.discount is None:
        yield (*path, "discount"), "required", "is required for the kind discount"
    if reward.kind != "discount" and reward.discount is not None:
        yield (*path, "discount"), "does_not_belong", "belongs to the kind discount only"


def _tiers(tiers: Tiers, complete: bool) -> Iterator[_Found]:
    path = ("tiers", "levels")
    for position, level in enumerate(tiers.levels):
        if level.tier_id == "default":
            yield (*path, position, "tier_id"), "reserved_id", "is the word for any other tier"
        if position and level.at <= tiers.levels[position - 1].at:
            yield (*path, position, "at"), "tier_order", "must be above the level before"
    if complete and all(level.at for level in tiers.levels):
        yield (*path, 0, "at"), "no_base_tier", "must be 0, so that every member has a tier"


def _location(path: Path, location: Location) -> Iterator[_Found]:
    check_in = location.check_in
    if check_in is None:
        return
    path = (*path, "check_in")
    kinds: set[str] = set()
    for position, kind in enumerate(check_in.kinds):
        if kind in kinds:
            yield (*path, "kinds", position), "duplicate_value", "is named already"
        kinds.add(kind)
    if check_in.opening_hours is not None:
        if not any(check_in.opening_hours.values()):
            yield (*path, "opening_hours"), "empty_filter", "is never open"
        named: set[int] = set()
        for key in check_in.opening_hours:
            if named.intersection(days_of(key)):
                yield (*path, "opening_hours", key), "duplicate_day", "names a day once more"
            named.update(days_of(key))


def _money_worth(program: Program) -> Iterator[_Found]:
    if program.point_value:
        return
    users: list[Path] = []
    if program.offers:
        users.append(("offers",))
    if program.budget is not None and program.budget.money is not None:
        users.append(("budget", "money"))
    if any(c.budget is not None and c.budget.money is not None for c in program.campaigns):
        users.append(("campaigns",))
    if users:
        names = ", ".join(_pointer(user) for user in users)
        yield ("point_value",), "needs_point_value", f"must be above 0: {names} count in money"


def _settings(program: Program) -> Iterator[_Found]:
    if (referral := program.referral) is not None:
        if not (referral.referrer_points or referral.referred_points):
            yield ("referral",), "earns_nothing", "gives no points to either member"
        if referral.min_amount is not None and referral.award_on == "registration":
            yield (
                ("referral", "min_amount"),
                "needs_purchase",
                "needs a purchase: award_on must be first_purchase",
            )
    if (payment := program.points_payment) is not None:
        if payment.min_points % payment.step:
            yield (
                ("points_payment", "min_points"),
                "step_mismatch",
                f"must be a multiple of step ({payment.step})",
            )
        if payment.step * payment.amount < payment.points:
            yield ("points_payment", "step"), "worth_nothing", "is worth less than one minor unit"
    if (transfers := program.transfers) is not None:
        for position, limit in enumerate(transfers.limits):
            if limit.points < transfers.min_points:
                yield (
                    ("transfers", "limits", position, "points"),
                    "limit_below_minimum",
                    f"is below min_points ({transfers.min_points}): none could be sent",
                )


def _contradictions(document: Any, whole: _Whole) -> Iterator[_Found]:
    program = whole.program
    tiers = _stated_ids(document, ("tiers", "levels"), "tier_id")
    locations = _stated_ids(document, ("locations",), "location_id")
    if program.tiers is not None:
        yield from _tiers(program.tiers, complete=("tiers", "levels") not in whole.kept)
    for i, rule in enumerate(program.rules):
        path: Path = ("rules", i)
        yield from _rule(path, rule)
        yield from _when((*path, "when"), rule.when, tiers, locations)
        yield from _match((*path, "match"), rule.match)
    for i, campaign in enumerate(program.campaigns):
        path = ("campaigns", i)
        yield from _dates(path, campaign)
        yield from _when((*path, "when"), campaign.when, tiers, locations)
        yield from _match((*path, "match"), campaign.match)
    for i, offer in enumerate(program.offers):
        path = ("offers", i)
        yield from _dates(path, offer)
        yield from _filter((*path, "applies_to"), offer.applies_to)
    for i, reward in enumerate(program.rewards):
        path = ("rewards", i)
        yield from _reward(path, reward, tiers)
        yield from _when((*path, "when"), reward.when, tiers, locations)
    for i, location in enumerate(program.locations):
        yield from _location(("locations", i), location)
    if "point_value" not in whole.left_out:
        yield from _money_worth(program)
    yield from _settings(program)


def _examine(document: Any) -> tuple[_Whole | None, list[_Found]]:
    """What can be read of the document, and what is wrong with it."""
    found: list[_Found] = []
    whole: _Whole | None
    try:
        try:
            whole = _Whole(Program.model_validate(document), frozenset(), {})
        except ValidationError as error:
            if error.error_count() > MOST_FAULTS:
                return None, [((), "too_many_faults", f"has {error.error_count()} faults")]
            found.extend(_shape_faults(document, error))
            whole = _sound_parts(document, (path for path, _, _ in found))
        _add(found, _duplicates(document))
        if whole is not None:
            _add(
                found,
                (
                    (whole.place(path), code, detail)
                    for path, code, detail in _contradictions(document, whole)
                ),
            )
    except RecursionError:
        return None, [((), "too_deep", "is nested too deeply")]
    return whole, found


def _add(found: list[_Found], more: Iterable[_Found]) -> None:
    for one in more:
        if len(found) >= MOST_FAULTS:
            found[MOST_FAULTS - 1 :] = [((), "too_many_faults", "has more faults than are listed")]
            return
        found.append(one)


def _program(whole: _Whole | None, found: Sequence[_Found]) -> Program:
    if whole is None or found:
        raise Faults(Fault(_pointer(path), code, detail) for path, code, detail in found)
    return whole.program


def parse(document: Any) -> Program:
    """Read a JSON-like value as a program; `Faults` lists everything that is wrong with it.

    Dates may stand as `date` objects too, as YAML readers make them. Where some parts have the
    wrong shape, contradictions are still looked for among the others.
    """
    return _program(*_examine(document))


# --------------------------------------------------------------------------------------------
# Understood, but not evaluated yet


@dataclass(frozen=True, slots=True)
class NotYet:
    """A part of the document that nothing evaluates yet.

    `path` is a JSON Pointer in which `*` stands for every item of a list; `counts` says of a
    value written there whether leaving it out of the evaluation would be noticed.
    """

    path: str
    counts: Callable[[Any], bool] = lambda value: value not in (None, (), {})


def _among(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


NOT_SUPPORTED_YET: tuple[NotYet, ...] = (
    NotYet("/locations/*/check_in/kinds/*", _among("rotating", "one_time")),
)


def _written(value: Any, steps: Sequence[str], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The places of a program that match the steps, defaults left out, with their values."""
    if not steps:
        yield path, value
    elif steps[0] == "*":
        for position, item in enumerate(value or ()):
            yield from _written(item, steps[1:], (*path, position))
    elif isinstance(value, Part) and steps[0] in value.model_fields_set:
        yield from _written(getattr(value, steps[0]), steps[1:], (*path, steps[0]))


def _ignored(program: Program) -> Iterator[_Found]:
    for part in NOT_SUPPORTED_YET:
        for path, value in _written(program, part.path.split("/")[1:]):
            if part.counts(value):
                yield path, "not_supported_yet", "is understood, but not evaluated yet"


type _Moment = tuple[date, time]


def _too_many_budgets(program: Program) -> Iterator[_Found]:
    """Campaigns with a budget that begin while as many others count as may count at once."""
    spans = [(_span(c), i) for i, c in enumerate(program.campaigns) if c.budget is not None]
    ends: list[_Moment] = []
    for (begins, end), i in sorted(spans):
        while ends and ends[0] < begins:
            heappop(ends)
        if begins <= end:
            heappush(ends, end)
        if len(ends) > BUDGETS_AT_ONCE:
            yield (
                ("campaigns", i, "budget"),
                "too_many_budgets",
                f"is one of more than {BUDGETS_AT_ONCE} that count when its campaign begins",
            )


def _span(campaign: Campaign) -> tuple[_Moment, _Moment]:
    """From when a campaign may count, and to the end of which minute, in wall-clock time."""
    dated = [part for part in (campaign, campaign.when) if part is not None]
    begins = [(part.from_.day, part.from_.at or time.min) for part in dated if part.from_]
    ends = [(part.until.day, part.until.at or time.max) for part in dated if part.until]
    return max(begins, default=(date.min, time.min)), min(ends, default=(date.max, time.max))


def publishable(document: Any) -> Program:
    """Read a document that is to take effect.

    `Faults` lists everything that is wrong with it, the parts that are not evaluated yet, and
    budgets beyond those that one award can draw on.
    """
    whole, found = _examine(document)
    if whole is not None:
        more = chain(_ignored(whole.program), _too_many_budgets(whole.program))
        _add(found, ((whole.place(path), code, detail) for path, code, detail in more))
    return _program(whole, found)
