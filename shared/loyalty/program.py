"""The program document: one business's loyalty program as data.

`Program` and its parts are frozen, and say what they can say about themselves; `fields` has the
types of their fields, and `validation` reads a document. `schema` is the public JSON Schema.

Points and amounts are integers, amounts in minor units of the program's currency. Rates,
multipliers and percents are exact `Fraction`s. Dates and times are local to the program's zone.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from loyalty.dates import Duration, is_time_zone
from loyalty.fields import (
    LARGEST,
    MINOR_DIGITS,
    PURCHASES,
    TRIGGERS,
    WEEKDAYS,
    Ceiling,
    Count,
    Days,
    HourRange,
    Hours,
    Id,
    Label,
    Labels,
    LocalMoment,
    LocalTime,
    Many,
    Maybe,
    Money,
    Multiplier,
    Name,
    Per,
    Percent,
    PerOrTransaction,
    Points,
    PointValue,
    Share,
    SomeMoney,
    SomePoints,
    Span,
    Text,
    Trigger,
    Url,
    Wait,
    Weekday,
    YearlyDate,
    duration,
    fault,
    positive,
    whole_days,
)


class Part(BaseModel):
    # Built at the first parse and not at import: a Lambda that never reads a program pays nothing.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Dated(Part):
    from_: Maybe[LocalMoment] = Field(
        default=None, alias="from", description="First local date or minute."
    )
    until: Maybe[LocalMoment] = Field(
        default=None, description="Last local date or minute, which is still inside."
    )

    def is_on(self, at: datetime) -> bool:
        """Whether the local date and time `at` lies from `from` to the end of `until`."""
        return (self.from_ is None or not _before(at, self.from_)) and (
            self.until is None or not _after(at, self.until)
        )


def _before(at: datetime, bound: LocalTime) -> bool:
    if bound.at is None:
        return at.date() < bound.day
    return (at.date(), at.time()) < (bound.day, bound.at)


def _after(at: datetime, bound: LocalTime) -> bool:
    if bound.at is None:
        return at.date() > bound.day
    minute = at.time().replace(second=0, microsecond=0)
    return (at.date(), minute) > (bound.day, bound.at)


class PointsName(Part):
    """What the program calls its points."""

    one: Name = Field(description="The word for one point.")
    other: Name = Field(description="The word for any other number of points.")


class Branding(Part):
    """How pages and posters look."""

    points_name: Maybe[PointsName] = None
    color: Maybe[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]] = Field(
        default=None, description="Main colour as #rrggbb."
    )
    logo_url: Maybe[Url] = Field(default=None, description="Address of the logo.")
    card_image_url: Maybe[Url] = Field(default=None, description="Address of the card's picture.")


class EarningBase(Part):
    """What a purchase's base holds besides the lines after discounts."""

    tax: Literal["exclude", "include"] = "exclude"
    shipping: Literal["exclude", "include"] = "exclude"


class Rounding(Part):
    """How fractions of points become points."""

    mode: Literal["floor", "half_up", "ceil"] = "floor"
    scope: Literal["award", "rule", "line"] = Field(
        default="award",
        description="What is rounded: the award's total, each rule's total, or each line's.",
    )


class Multipliers(Part):
    """How line, campaign and tier multipliers combine."""

    combine: Literal["multiply", "add", "best"] = Field(
        default="multiply",
        description="Their product, 1 plus the sum of what each adds to 1, or the highest.",
    )
    max: Maybe[Ceiling] = Field(default=None, description="Ceiling of the combined factor.")


def _exactly_one(part: Part, *names: str) -> None:
    if sum(getattr(part, name) is not None for name in names) != 1:
        raise fault("exactly_one", f"must have exactly one of {', '.join(names)}")


def _only_with(part: Part, owner: str, *names: str) -> None:
    if getattr(part, owner) is None and (strays := part.model_fields_set.intersection(names)):
        raise fault("does_not_belong", f"{', '.join(sorted(strays))} belongs to {owner} only")


def _kinds(*names: str, **needs: list[str]) -> ConfigDict:
    """For the JSON Schema: exactly one of the names, and fields that need others beside them."""
    extra: dict[str, Any] = {"oneOf": [{"required": [name]} for name in names]}
    return ConfigDict(json_schema_extra=extra | ({"dependentRequired": needs} if needs else {}))


class Expiry(Part):
    """One way in which points expire: after a time, by inactivity, or at fixed dates."""

    model_config = _kinds(
        "after", "inactive_for", "dates", round_up_to=["after"], older_than=["dates"]
    )

    after: Maybe[Days] = Field(
        default=None, description="So long after the local date from which they can be spent."
    )
    round_up_to: Literal["day", "week", "month", "quarter", "year"] = Field(
        default="day",
        description="With `after`: moved to the first day after the period the date falls in.",
    )
    inactive_for: Maybe[Days] = Field(
        default=None, description="All points go after so long without earning or redeeming."
    )
    dates: Maybe[Annotated[Many[YearlyDate], Field(min_length=1)]] = Field(
        default=None, description='At 00:00 of these days of every year ("06-30").'
    )
    older_than: Maybe[Days] = Field(
        default=None,
        description="With `dates`: only what was earned at least so long before the date.",
    )

    @property
    def kind(self) -> Literal["after", "inactive_for", "dates"]:
        if self.after is not None:
            return "after"
        return "inactive_for" if self.inactive_for is not None else "dates"

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Expiry":
        _exactly_one(self, "after", "inactive_for", "dates")
        _only_with(self, "after", "round_up_to")
        _only_with(self, "dates", "older_than")
        return self


class Limit(Part):
    """At most so many points in each window."""

    points: SomePoints = Field(description="The most points in one window.")
    per: PerOrTransaction = Field(description="The window, in the program's time zone.")
    over: Literal["cap", "refuse"] = Field(
        default="cap", description="Beyond it: grant what is left, or nothing."
    )


class Times(Part):
    """At most so many times in each window."""

    times: Count = Field(description="The most times in one window.")
    per: Per = Field(description="The window, in the program's time zone.")


class Frequency(Part):
    """How often a rule may pay: so many times in a window, or not again before a time is over."""

    model_config = _kinds("times", "every", times=["per"], per=["times"])

    times: Maybe[Count] = Field(default=None, description="The most times in one window.")
    per: Maybe[Per] = Field(default=None, description="The window of `times`.")
    every: Maybe[Span] = Field(default=None, description="The least time between two.")

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Frequency":
        _exactly_one(self, "times", "every")
        _only_with(self, "times", "per")
        if self.times is not None and self.per is None:
            raise fault("required", "per is required beside times")
        return self


class Budget(Part):
    """A ceiling in points, or in the money that the points are worth."""

    model_config = _kinds("points", "money")

    points: Maybe[SomePoints] = None
    money: Maybe[SomeMoney] = Field(default=None, description="In minor units.")

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Budget":
        _exactly_one(self, "points", "money")
        return self


@dataclass(frozen=True, slots=True)
class TierWindow:
    """The time over which a member qualifies; `rolling` is set for that kind only."""

    kind: Literal["rolling", "calendar", "membership", "lifetime"]
    rolling: Duration | None = None


def _tier_window(value: Any) -> TierWindow:
    match value:
        case "lifetime":
            return TierWindow("lifetime")
        case {"rolling": span, **rest} if not rest:
            return TierWindow("rolling", positive(whole_days(duration(span))))
        case {"calendar": "year", **rest} if not rest:
            return TierWindow("calendar")
        case {"membership": "year", **rest} if not rest:
            return TierWindow("membership")
    raise fault(
        "bad_window",
        "must be {rolling: P365D}, {calendar: year}, {membership: year} or lifetime",
    )


QualifyingWindow = Annotated[
    TierWindow,
    PlainValidator(_tier_window),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "lifetime"},
                *(
                    {
                        "type": "object",
                        "properties": {name: value},
                        "required": [name],
                        "additionalProperties": False,
                    }
                    for name, value in (
                        ("rolling", {"type": "string", "pattern": "^P[0-9A-Z]+$"}),
                        ("calendar", {"const": "year"}),
                        ("membership", {"const": "year"}),
                    )
                ),
            ]
        }
    ),
]


class Downgrade(Part):
    """What happens at the period's end to a member who no longer qualifies."""

    steps: Literal["none", "one", "full"] = Field(
        default="none", description="Keeps the tier, falls one tier, or to where it belongs."
    )
    grace: Wait = Field(
        default_factory=Duration, description="How long the tier is kept after the period."
    )


class Tier(Part):
    """A level that members reach by qualifying."""

    tier_id: Id
    name: Name = Field(default_factory=lambda known: known["tier_id"])
    at: Points = Field(description="Reached at so many qualifying points, or so much spend.")
    multiplier: Multiplier = Field(
        default_factory=lambda: Fraction(1), description="On the purchase points of its members."
    )


class Tiers(Part):
    """The program's levels, lowest first."""

    qualify_by: Literal["points", "spend"] = "points"
    window: QualifyingWindow = Field(
        default_factory=lambda: TierWindow("rolling", Duration(days=365)),
        description="The time that counts; {rolling: P365D} when absent.",
    )
    downgrade: Downgrade = Field(default_factory=Downgrade)
    levels: Many[Tier] = Field(description="By rising `at`; the first is at 0.", min_length=1)


type Scalar = str | int | bool


_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def _scalar(value: Any) -> Scalar:
    if type(value) is bool:
        return value
    if type(value) is int and abs(value) <= LARGEST:
        return value
    if isinstance(value, str) and len(value) <= 256 and not _UNWRITABLE.search(value):
        return value
    raise fault("wrong_type", "must be a short text, an integer, true or false")


def _compared(value: Any) -> Scalar | tuple[Scalar, ...]:
    if isinstance(value, list | tuple):
        return tuple(_scalar(item) for item in value)
    return _scalar(value)


_SCALAR_SCHEMA = {"type": ["string", "integer", "boolean"]}
Compared = Annotated[
    Scalar | tuple[Scalar, ...],
    PlainValidator(_compared),
    WithJsonSchema({"anyOf": [_SCALAR_SCHEMA, {"type": "array", "items": _SCALAR_SCHEMA}]}),
]


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Comparison(Part):
    """A condition on one attribute of the event.

    Integers compare with integers and texts with texts; a value of another type, or an absent
    attribute, is not equal to anything and never ordered.
    """

    name: Label = Field(description="The attribute's name.")
    op: Literal["==", "!=", "<", "<=", ">", ">=", "in"]
    value: Compared = Field(description="What it is compared with; for `in`, a list.")

    def holds(self, attribute: Any) -> bool:
        """Whether an event's value of the attribute (None: absent) meets the condition."""
        if isinstance(self.value, tuple):
            return any(_same(attribute, item) for item in self.value)
        if self.op == "==":
            return _same(attribute, self.value)
        if self.op == "!=":
            return not _same(attribute, self.value)
        return type(attribute) is type(self.value) and bool(_ORDERS[self.op](attribute, self.value))

    # True == 1 in Python, but not in a document.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comparison) and self._written == other._written

    def __hash__(self) -> int:
        return hash(self._written)

    @property
    def _written(self) -> tuple[str, str, str]:
        return self.name, self.op, repr(self.value)

    @model_validator(mode="after")
    def _can_compare(self) -> "Comparison":
        if self.op == "in":
            if not isinstance(self.value, tuple):
                raise fault("operator_mismatch", "in needs a list of values")
            if not self.value:
                raise fault("empty_filter", "in needs at least one value")
        elif isinstance(self.value, tuple):
            raise fault("operator_mismatch", f"{self.op} needs one value, not a list")
        elif self.op not in ("==", "!=") and isinstance(self.value, bool):
            raise fault("operator_mismatch", f"true and false have no order for {self.op}")
        return self


def _same(left: Any, right: Any) -> bool:
    # True == 1 in Python, but not in a document.
    return type(left) is type(right) and bool(left == right)


class When(Dated):
    """Conditions on the event and the member, all of which must hold."""

    min_amount: Maybe[Money] = Field(
        default=None, description="The least earning base, in minor units, inclusive."
    )
    channels: Labels = Field(default=(), description="Any of these sales channels.")
    locations: Many[Id] = Field(default=(), description="At any of these locations.")
    groups: Labels = Field(default=(), description="Members of any of these groups.")
    tiers: Many[Id] = Field(default=(), description="Members in any of these tiers.")
    weekdays: Many[Weekday] = Field(default=(), description="On any of these local weekdays.")
    hours: Many[HourRange] = Field(
        default=(),
        description="In any of these local hours, the end excluded; they may wrap midnight.",
    )
    attributes: Many[Comparison] = Field(default=(), description="All of these comparisons.")


class Exclusions(Part):
    """Lines that never count."""

    products: Labels = ()
    categories: Labels = ()
    brands: Labels = ()


class Match(Part):
    """Which lines of a purchase count."""

    products: Labels = Field(default=(), description="Any of these products.")
    categories: Labels = Field(default=(), description="In any of these categories.")
    brands: Labels = Field(default=(), description="Of any of these brands.")
    discounted: Maybe[bool] = Field(
        default=None, description="Only discounted lines (true), or only the others (false)."
    )
    exclude: Exclusions = Field(
        default_factory=Exclusions, description="Lines left out, whatever else they match."
    )


def _rate(value: Any) -> int:
    if type(value) is not int:
        raise fault("wrong_type", "must be an integer")
    if value < 0:
        raise fault("negative_rate", "must not be negative")
    if value > LARGEST:
        raise fault("out_of_range", f"must not be more than {LARGEST}")
    return value


def _unit(value: Any) -> int:
    if _rate(value) == 0:
        raise fault("out_of_range", "must be at least 1")
    return int(value)


RatePoints = Annotated[
    int,
    PlainValidator(_rate),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LARGEST}),
]
RateUnit = Annotated[
    int,
    PlainValidator(_unit),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": LARGEST}),
]


class Earn(Part):
    """What a rule gives: points per amount, per quantity, per line or per event, or a factor."""

    model_config = _kinds(
        "points",
        "multiply",
        per_amount=["points"],
        per_quantity=["points"],
        per_line=["points"],
        blocks=["per_amount"],
    )

    points: Maybe[RatePoints] = Field(default=None, description="Points for each unit below.")
    per_amount: Maybe[RateUnit] = Field(
        default=None, description="For each so much of the matching lines' base, in minor units."
    )
    blocks: Literal["continuous", "whole"] = Field(
        default="continuous",
        description="With `per_amount`: fractions count, or only whole blocks of the sum do.",
    )
    per_quantity: Maybe[RateUnit] = Field(
        default=None, description="For each so many units bought, whole blocks on their sum."
    )
    per_line: Maybe[RateUnit] = Field(
        default=None, description="For each so many matching lines, whole blocks."
    )
    multiply: Maybe[Multiplier] = Field(
        default=None, description="What the matching lines earn is multiplied by this."
    )

    @property
    def kind(self) -> Literal["per_amount", "per_quantity", "per_line", "fixed", "multiply"]:
        if self.multiply is not None:
            return "multiply"
        if self.per_amount is not None:
            return "per_amount"
        if self.per_quantity is not None:
            return "per_quantity"
        return "per_line" if self.per_line is not None else "fixed"

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Earn":
        _exactly_one(self, "points", "multiply")
        units = [n for n in ("per_amount", "per_quantity", "per_line") if getattr(self, n)]
        if len(units) > 1:
            raise fault("exactly_one", f"must have only one of {', '.join(units)}")
        _only_with(self, "points", "per_quantity", "per_line", "per_amount")
        _only_with(self, "per_amount", "blocks")
        return self


class Rule(Part):
    """One way to earn: at a trigger, under conditions, an effect within limits."""

    rule_id: Id
    name: Name = Field(default_factory=lambda known: known["rule_id"])
    trigger: Trigger = Field(
        description="The type of event: one of "
        + ", ".join(TRIGGERS)
        + ", or any name of the business's own."
    )
    when: Maybe[When] = Field(default=None, description="Conditions; absent: always.")
    match: Maybe[Match] = Field(default=None, description="Lines that count; absent: all.")
    earn: Earn
    tier_multiplier: bool = Field(
        default_factory=lambda known: known["trigger"] in PURCHASES,
        description="Whether the member's tier multiplies it; by default for purchases only.",
    )
    stacking: Literal["stack", "exclusive", "last"] = Field(
        default="stack",
        description="Adds to others, counts alone, or ends the evaluation after it.",
    )
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = Field(
        default=0, description="Higher is evaluated first; then in the order of the document."
    )
    limits: Many[Limit] = Field(default=(), description="On the rule's points, per member.")
    frequency: Many[Frequency] = Field(default=(), description="How often it pays a member.")
    pending: Maybe[Wait] = Field(
        default=None, description="How long its points wait; absent: as the program says."
    )
    expiry: Maybe[Many[Expiry]] = Field(
        default=None,
        description="How its points expire; absent: as the program says; empty: never.",
    )


class Campaign(Dated):
    """A window in which everything earned is multiplied."""

    campaign_id: Id
    name: Name = Field(default_factory=lambda known: known["campaign_id"])
    multiplier: Multiplier
    when: Maybe[When] = Field(default=None, description="Conditions; absent: always.")
    match: Maybe[Match] = Field(default=None, description="Lines that count; absent: all.")
    budget: Maybe[Budget] = Field(
        default=None,
        description="What it may add; when reached, the campaign stops. Of campaigns that count "
        "at one moment at most 12 may have one.",
    )


class AppliesTo(Part):
    """The lines that an offer gives a percentage of."""

    products: Labels = ()
    categories: Labels = ()
    brands: Labels = ()


class Offer(Dated):
    """Cashpoints: a percentage of matching lines back, as points worth that money."""

    offer_id: Id
    name: Name = Field(default_factory=lambda known: known["offer_id"])
    description: Text = ""
    terms: Text = ""
    applies_to: AppliesTo
    percent: Percent = Field(description="More than 0, at most 100.")
    validity: Maybe[Days] = Field(
        default=None, description="How long its points live; absent: as the program says."
    )
    exclude_discounted: bool = Field(default=False, description="Not on discounted lines.")
    groups: Labels = Field(default=(), description="Members of any of these groups.")
    channels: Labels = Field(default=(), description="Any of these sales channels.")
    active: bool = True


class Referral(Part):
    """What a member who brings another one gets, and what the other one gets."""

    referrer_points: Points = 0
    referred_points: Points = 0
    award_on: Literal["registration", "first_purchase"] = "registration"
    min_amount: Maybe[Money] = Field(
        default=None, description="With `first_purchase`: its least base, in minor units."
    )
    limits: Many[Times] = Field(default=(), description="Per referrer.")


class Discount(Part):
    """Money off: an amount, or a percentage up to an amount."""

    model_config = _kinds("amount", "percent", max_amount=["percent"])

    amount: Maybe[SomeMoney] = Field(default=None, description="In minor units.")
    percent: Maybe[Percent] = Field(default=None, description="More than 0, at most 100.")
    max_amount: Maybe[SomeMoney] = Field(
        default=None, description="With `percent`: the most it takes off, in minor units."
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Discount":
        _exactly_one(self, "amount", "percent")
        _only_with(self, "percent", "max_amount")
        return self


class RewardWhen(Dated):
    """Who may redeem a reward, and when; all of it must hold."""

    tiers: Many[Id] = Field(default=(), description="Members in any of these tiers.")
    groups: Labels = Field(default=(), description="Members of any of these groups.")


def _cost(value: Any) -> Any:
    if type(value) is int:
        return {"default": value}
    if not isinstance(value, dict):
        raise fault("wrong_type", "must be an integer, or an object of integers by tier_id")
    if "default" not in value:
        raise fault("required", "must have a default beside the costs of tiers")
    return value


Cost = Annotated[
    dict[str, SomePoints],
    BeforeValidator(_cost),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": LARGEST},
                {
                    "type": "object",
                    "required": ["default"],
                    "additionalProperties": {"type": "integer", "minimum": 1, "maximum": LARGEST},
                },
            ]
        }
    ),
]


class Reward(Part):
    """What points are redeemed for."""

    reward_id: Id
    kind: Literal["discount", "product", "service", "experience", "early_access", "content", "gift"]
    name: Name = Field(default_factory=lambda known: known["reward_id"])
    description: Text = ""
    terms: Text = ""
    image_url: Maybe[Url] = None
    cost: Cost = Field(
        description="In points: one number, or `default` and numbers for some tiers by tier_id."
    )
    discount: Maybe[Discount] = Field(default=None, description="For the kind `discount`.")
    when: Maybe[RewardWhen] = Field(default=None, description="Conditions; absent: always.")
    stock: Maybe[Points] = Field(default=None, description="How many there are; absent: no end.")
    limits: Many[Times] = Field(default=(), description="Per member.")
    voucher_validity: Maybe[Days] = Field(
        default=None, description="How long its voucher can be used; absent: for ever."
    )

    def cost_for(self, tier_id: str | None) -> int:
        """The cost in points for a member of the tier (None: of no tier)."""
        if tier_id is not None and tier_id in self.cost:
            return self.cost[tier_id]
        return self.cost["default"]


class PointsPayment(Part):
    """Points as payment: `points` points pay `amount` minor units."""

    points: SomePoints
    amount: SomeMoney
    step: SomePoints = Field(
        default_factory=lambda known: known["points"],
        description="Payments are multiples of this; by default `points`.",
    )
    min_points: SomePoints = Field(
        default_factory=lambda known: known["step"],
        description="The least that can be paid at once; by default one `step`.",
    )
    max_share: Share = Field(
        default_factory=lambda: Fraction(1),
        description='The most of an order that points may pay: "0.5" for one half.',
    )


class Holds(Part):
    """Points reserved at checkout."""

    max_duration: Span = Field(
        default_factory=lambda: Duration(seconds=1800),
        description="After this a hold ends by itself; PT30M when absent.",
    )


class TransferLimit(Part):
    """At most so many points sent by a member in each window."""

    points: SomePoints
    per: Per


class Transfers(Part):
    """Points from member to member."""

    enabled: bool = True
    min_points: SomePoints = 1
    limits: Many[TransferLimit] = ()
    new_member_wait: Wait = Field(
        default_factory=Duration, description="How long after enrolment the first may come."
    )
    fresh_points_wait: Wait = Field(
        default_factory=Duration,
        description="How long points stay with who got them, from when they can be spent.",
    )


class Refunds(Part):
    """How a refund takes back what its event gave."""

    method: Literal["per_line", "proportional", "recompute"] = "per_line"
    shortfall: Literal["other_lots", "clamp", "debt"] = Field(
        default="other_lots", description="Where the event's own points are gone."
    )
    expired_grace: Wait = Field(
        default_factory=Duration,
        description="How long points that come back from a returned order live at least.",
    )


class Adjustments(Part):
    """Corrections by staff."""

    second_person_above: Maybe[Points] = Field(
        default=None, description="Beyond so many points, another person has to agree."
    )


_DAY_RANGE = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)(?:-(mon|tue|wed|thu|fri|sat|sun))?")


def days_of(key: str) -> tuple[int, ...]:
    """Weekdays (Monday is 0) of `sat`, `mon-fri` or `fri-mon`; ValueError for anything else."""
    found = _DAY_RANGE.fullmatch(key)
    if found is None:
        raise ValueError(key)
    first, last = found.groups()
    begin = WEEKDAYS.index(first)
    end = begin if last is None else WEEKDAYS.index(last)
    return tuple((begin + i) % 7 for i in range((end - begin) % 7 + 1))


DayRange = Annotated[str, Field(pattern=f"^{_DAY_RANGE.pattern}$")]
OpeningHours = dict[DayRange, Many[HourRange]]


class CheckIn(Part):
    """How members check in at a location."""

    kinds: Many[Literal["static", "rotating", "one_time"]] = Field(
        default=("static",),
        min_length=1,
        description="A code on a poster, a changing one on a screen, one on each receipt.",
    )
    limits: Many[Times] = Field(default=(), description="Per member at this location.")
    cooldown: Maybe[Span] = Field(default=None, description="The least time between two.")
    opening_hours: Maybe[OpeningHours] = Field(
        default=None,
        description="Local hours by day (`sat`) or days (`mon-fri`); absent: always open; "
        "days that are not named are closed.",
    )
    code_version: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Raising it revokes all posters printed before."
    )

    @cached_property
    def hours_by_weekday(self) -> tuple[tuple[Hours, ...], ...]:
        """Seven tuples of hours from Monday; whole days where no opening hours are given."""
        if self.opening_hours is None:
            return ((Hours(0, 1440),),) * 7
        week: list[tuple[Hours, ...]] = [()] * 7
        for key, hours in self.opening_hours.items():
            for day in days_of(key):
                week[day] += hours
        return tuple(week)

    def is_open(self, at: datetime) -> bool:
        """Whether the local date and time lies in the opening hours, begun that day or before."""
        minute = at.hour * 60 + at.minute
        today = self.hours_by_weekday[at.weekday()]
        yesterday = self.hours_by_weekday[at.weekday() - 1]
        return any(minute >= h.begins and (h.wraps or minute < h.ends) for h in today) or any(
            h.wraps and minute < h.ends for h in yesterday
        )


class Location(Part):
    """A place of the business."""

    location_id: Id
    name: Name = Field(default_factory=lambda known: known["location_id"])
    check_in: Maybe[CheckIn] = Field(default=None, description="Absent: no check-in here.")


class Notifications(Part):
    """What members are told about."""

    expiring: Many[Days] = Field(default=(), description="So long before points expire.")


def _currency(value: str) -> str:
    if value not in MINOR_DIGITS:
        raise fault("unknown_currency", "must be an active ISO 4217 code such as EUR")
    return value


def _time_zone(value: str) -> str:
    if is_time_zone(value):
        return value
    raise fault("unknown_time_zone", "must be an IANA time zone such as Europe/Paris")


class Program(Part):
    """A loyalty program, everything in one document.

    Amounts are integers in minor units of `currency`. Rates and multipliers are decimal strings
    or integers. Durations are ISO 8601. Dates and times are local to `time_zone`.
    """

    program_id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    name: Name
    currency: Annotated[
        str,
        AfterValidator(_currency),
        WithJsonSchema({"type": "string", "enum": sorted(MINOR_DIGITS)}),
    ] = Field(description="ISO 4217 code.")
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        description="IANA name, such as Europe/Paris; every date and window is local to it."
    )
    locale: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}$")] = Field(
        default="en", description="BCP 47 language of the program's texts."
    )
    point_value: Maybe[PointValue] = Field(
        default=None, description="Money that one point is worth, in minor units, for liability."
    )
    branding: Branding = Field(default_factory=Branding)
    earning_base: EarningBase = Field(default_factory=EarningBase)
    rounding: Rounding = Field(default_factory=Rounding)
    multipliers: Multipliers = Field(default_factory=Multipliers)
    pending: dict[Trigger, Wait] = Field(
        default_factory=dict, description="By trigger: how long points wait before they count."
    )
    expiry: Many[Expiry] = Field(
        default=(), description="When points expire, the earliest counts; absent: never."
    )
    limits: Many[Limit] = Field(default=(), description="Over all rules, per member.")
    max_lateness: Maybe[Span] = Field(
        default=None, description="How old an event may be; absent: any age."
    )
    budget: Maybe[Budget] = Field(default=None, description="Of the whole program.")
    tiers: Maybe[Tiers] = None
    rules: Many[Rule] = ()
    campaigns: Many[Campaign] = ()
    offers: Many[Offer] = ()
    referral: Maybe[Referral] = None
    leap_day: Literal["feb_28", "mar_1"] = Field(
        default="feb_28", description="When birthdays of 29 February fall in common years."
    )
    rewards: Many[Reward] = ()
    points_payment: Maybe[PointsPayment] = None
    holds: Holds = Field(default_factory=Holds)
    transfers: Maybe[Transfers] = Field(default=None, description="Absent: no transfers.")
    refunds: Refunds = Field(default_factory=Refunds)
    adjustments: Adjustments = Field(default_factory=Adjustments)
    locations: Many[Location] = ()
    notifications: Notifications = Field(default_factory=Notifications)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The program's time zone."""
        return ZoneInfo(self.time_zone)

    @cached_property
    def tier_by_id(self) -> Mapping[str, Tier]:
        """Tiers by tier_id; empty where the program has none."""
        return {} if self.tiers is None else {tier.tier_id: tier for tier in self.tiers.levels}

    @cached_property
    def reward_by_id(self) -> Mapping[str, Reward]:
        """Rewards by reward_id."""
        return {reward.reward_id: reward for reward in self.rewards}

    @cached_property
    def location_by_id(self) -> Mapping[str, Location]:
        """Locations by location_id."""
        return {location.location_id: location for location in self.locations}


# --------------------------------------------------------------------------------------------
# The public schema


def _tidy(node: Any) -> Any:
    """Drop what pydantic adds for itself: titles of fields, null branches, empty defaults."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _tidy(value) for key, value in node.items()}
    if node.get("default", ...) in (None, []):
        del node["default"]
    if "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    branches = node.get("anyOf", [])
    if {"type": "null"} in branches:
        branches.remove({"type": "null"})
        if len(branches) == 1:
            del node["anyOf"]
            node = branches[0] | node
    if isinstance(node.get("properties"), dict):
        for field in node["properties"].values():
            field.pop("title", None)
    return node


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, as published.

    Whatever `parse` accepts as JSON is valid under it. The reverse does not hold: contradictions
    between fields, currencies and time zones are for `parse` to find.
    """
    document: dict[str, Any] = _tidy(Program.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:loyalty-points:program",
    } | document
