"""The program document: one business's loyalty program as data, read, checked and published.

`parse` turns a JSON-like value into a frozen `Program`, or raises `Faults` with every fault and
where in the document it stands. A program that `parse` returns can always be evaluated.
`publishable` also refuses the parts that are understood but not evaluated yet; `schema` is the
public JSON Schema of the document.

Points and amounts are integers, amounts in minor units of the program's currency. Rates,
multipliers and percents are exact `Fraction`s. Dates and times are local to the program's zone.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loyalty.dates import Duration, is_time_zone
from loyalty.model import MAX_POINTS

# One field's ceiling, for points and for money. Sums of thousands of such numbers stay below
# 2**63, and each is below 2**53, so that readers of JSON who use doubles lose nothing either.
LARGEST = MAX_POINTS

# ISO 4217, active codes of money that has minor units (funds codes included; metals, bond
# units, SDR, test and "no currency" codes are not money that a shop can charge).
_DIGITS: Mapping[str, int] = {
    code: digits
    for digits, codes in {
        0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
        2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN "
        "BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP "
        "GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT "
        "LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN "
        "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE "
        "SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES "
        "WST XCD XCG YER ZAR ZMW ZWG",
        3: "BHD IQD JOD KWD LYD OMR TND",
        4: "CLF UYW",
    }.items()
    for code in codes.split()
}


def minor_digits(currency: str) -> int:
    """How many digits the currency has after the point: 2 for EUR, 0 for JPY, 3 for KWD.

    KeyError when `currency` is not an active ISO 4217 code.
    """
    return _DIGITS[currency]


# --------------------------------------------------------------------------------------------
# Values


def _fault(code: str, detail: str) -> PydanticCustomError:
    # Braces would be read as placeholders of the message template.
    return PydanticCustomError(code, "{detail}", {"detail": detail})


T = TypeVar("T")


def _not_null[V](value: V) -> V:
    if value is None:
        raise _fault("wrong_type", "null is not a value: leave the field out")
    return value


# Longer lists do not fit a document of 5 MiB, unless they are rubbish that costs memory to refuse.
MOST_ITEMS = 100_000


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) > MOST_ITEMS:
        raise _fault("bad_length", f"must have at most {MOST_ITEMS} items")
    return tuple(value)


# `null` is refused although absent fields read as None: absent has one spelling.
Maybe = Annotated[T | None, BeforeValidator(_not_null)]
Many = Annotated[tuple[T, ...], BeforeValidator(_listed)]

_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


def _decimal(value: Any) -> Fraction:
    if type(value) is int:
        if abs(value) > LARGEST:
            raise _fault("out_of_range", "has more than 15 digits")
        number = Fraction(value)
    elif isinstance(value, str) and _DECIMAL.fullmatch(value):
        if sum(c.isdigit() for c in value) > 18:
            raise _fault("out_of_range", "has more than 18 digits")
        number = Fraction(value)
    else:
        raise _fault("bad_decimal", 'must be an integer or a decimal string such as "1.5"')
    if number < 0 or str(value).startswith("-"):  # "-0" too
        raise _fault("negative_rate", "must not be negative")
    return number


def _between(low: int, high: int) -> AfterValidator:
    def check(number: Fraction) -> Fraction:
        if not low <= number <= high:
            raise _fault("out_of_range", f"must be from {low} to {high}")
        return number

    return AfterValidator(check)


def _percent(number: Fraction) -> Fraction:
    if number > 100:
        raise _fault("percent_over_100", "must not be more than 100 percent")
    if number == 0:
        raise _fault("out_of_range", "must be more than 0")
    return number


def _share(number: Fraction) -> Fraction:
    if not 0 < number <= 1:
        raise _fault("out_of_range", 'must be more than 0 and at most 1, as "0.5" for one half')
    return number


def _decimal_schema(low: int, high: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,18})?$"},
            ]
        }
    )


# A millionfold is beyond any promotion and keeps every product of factors small.
_MOST = 1_000_000
_Decimal = PlainValidator(_decimal)
PointValue = Annotated[Fraction, _Decimal, _between(0, 10**9), _decimal_schema(0, 10**9)]
Multiplier = Annotated[Fraction, _Decimal, _between(0, _MOST), _decimal_schema(0, _MOST)]
Ceiling = Annotated[Fraction, _Decimal, _between(1, _MOST), _decimal_schema(1, _MOST)]
Percent = Annotated[Fraction, _Decimal, AfterValidator(_percent), _decimal_schema(1, 100)]
Share = Annotated[Fraction, _Decimal, AfterValidator(_share), _decimal_schema(1, 1)]

# A hundred years: dates that are added to stay inside the calendar.
_LONGEST = Duration(months=1200, days=36_600, seconds=36_600 * 86_400)


def _duration(value: Any) -> Duration:
    if not isinstance(value, str) or len(value) > 64:
        raise _fault("bad_duration", "must be an ISO 8601 duration such as P14D, P12M or PT4H")
    try:
        duration = Duration.parse(value)
    except ValueError as error:
        raise _fault("bad_duration", str(error)) from None
    if (
        duration.months > _LONGEST.months
        or duration.days > _LONGEST.days
        or duration.seconds > _LONGEST.seconds
    ):
        raise _fault("out_of_range", "must not be longer than 100 years")
    return duration


def _positive(duration: Duration) -> Duration:
    if duration.is_zero:
        raise _fault("out_of_range", "must be longer than zero")
    return duration


def _whole_days(duration: Duration) -> Duration:
    if not duration.in_whole_days:
        raise _fault("not_whole_days", "must be in days, weeks, months or years, without a time")
    return duration


def _duration_schema(time_part: bool) -> WithJsonSchema:
    days = r"^P(?=[0-9T])([0-9]{1,4}Y)?([0-9]{1,5}M)?([0-9]{1,5}W)?([0-9]{1,6}D)?"
    times = r"(T(?=[0-9])([0-9]{1,6}H)?([0-9]{1,6}M)?([0-9]{1,7}S)?)?"
    return WithJsonSchema({"type": "string", "pattern": days + (times if time_part else "") + "$"})


# Any time above zero · whole days, zero allowed · whole days above zero.
Span = Annotated[
    Duration, PlainValidator(_duration), AfterValidator(_positive), _duration_schema(True)
]
Wait = Annotated[
    Duration, PlainValidator(_duration), AfterValidator(_whole_days), _duration_schema(False)
]
Days = Annotated[
    Duration,
    PlainValidator(_duration),
    AfterValidator(_whole_days),
    AfterValidator(_positive),
    _duration_schema(False),
]


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A local date, or a local date with a time of day to the minute."""

    day: date
    at: time | None = None


_LOCAL = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2})(?::00)?)?", re.ASCII)


def _local_time(value: Any) -> LocalTime:
    # YAML readers turn unquoted dates into objects.
    if isinstance(value, date):
        value = value.isoformat()
    found = _LOCAL.fullmatch(value) if isinstance(value, str) else None
    try:
        if found is not None:
            day, at = found.groups()
            return LocalTime(
                date.fromisoformat(day), time.fromisoformat(at) if at is not None else None
            )
    except ValueError:
        pass  # digits in the right places that are no date: 2026-02-30
    raise _fault(
        "bad_date", "must be a local date (2026-11-27) or date and time (2026-11-27T08:00)"
    )


_MONTH_DAY = "(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
LocalMoment = Annotated[
    LocalTime,
    PlainValidator(_local_time),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^[0-9]{{4}}-{_MONTH_DAY}(T([01][0-9]|2[0-3]):[0-5][0-9](:00)?)?$",
        }
    ),
]


@dataclass(frozen=True, slots=True)
class Hours:
    """A time of day range in minutes since midnight, its end excluded; it may wrap midnight."""

    begins: int
    ends: int

    @property
    def wraps(self) -> bool:
        return self.ends < self.begins

    def hold(self, minute: int) -> bool:
        """Whether the minute of the day (0 to 1439) lies in the range."""
        if self.wraps:
            return minute >= self.begins or minute < self.ends
        return self.begins <= minute < self.ends


_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", re.ASCII)


def _hours(value: Any) -> Hours:
    found = _HOURS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _fault("bad_hours", 'must be hours such as "08:00-11:00" or "22:00-02:00"')
    h, m, end_h, end_m = found.groups()
    begins = int(h) * 60 + int(m)
    ends = 1440 if end_h is None else int(end_h) * 60 + int(end_m)
    if begins == ends:
        raise _fault("bad_hours", 'begins when it ends; the whole day is "00:00-24:00"')
    return Hours(begins, ends)


HourRange = Annotated[
    Hours,
    PlainValidator(_hours),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        }
    ),
]


@dataclass(frozen=True, slots=True)
class MonthDay:
    """A day that comes every year."""

    month: int
    day: int


def _month_day(value: Any) -> MonthDay:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{2}-[0-9]{2}", value):
        month, day = int(value[:2]), int(value[3:])
        try:
            date(2001, month, day)  # a common year: 29 February does not come every year
        except ValueError:
            pass
        else:
            return MonthDay(month, day)
    raise _fault("bad_date", 'must be a month and day that every year has, such as "06-30"')


YearlyDate = Annotated[
    MonthDay,
    PlainValidator(_month_day),
    WithJsonSchema({"type": "string", "pattern": f"^{_MONTH_DAY}$"}),
]


Points = Annotated[int, Field(ge=0, le=LARGEST)]
SomePoints = Annotated[int, Field(ge=1, le=LARGEST)]
Money = Annotated[int, Field(ge=0, le=LARGEST)]
SomeMoney = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]

# Control characters would break the poster, which is XML.
_PRINTABLE = r"^[^\x00-\x1f\x7f\ufffe\uffff]*$"
_PRINTABLE_LINES = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]*$"
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_PRINTABLE)]
Text = Annotated[str, Field(max_length=20_000, pattern=_PRINTABLE_LINES)]
# What the shop's own systems call a product, category, brand, channel or group.
Label = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]
Labels = Many[Label]
# https only: pages are served over it and would not load pictures from elsewhere.
Url = Annotated[str, Field(max_length=2048, pattern=r"^https://[^\s\x00-\x20\"'<>\\^`{|}]+$")]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Per = Literal["day", "week", "month", "year", "ever"]
PerOrTransaction = Literal["transaction", "day", "week", "month", "year", "ever"]

PURCHASES = frozenset({"purchase", "first_purchase"})
TRIGGERS: tuple[str, ...] = (
    "registration",
    "profile_completed",
    "purchase",
    "first_purchase",
    "birthday",
    "anniversary",
    "review",
    "social_share",
    "promotion",
    "check_in",
)
Trigger = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]


# --------------------------------------------------------------------------------------------
# The document, part by part


class _Part(BaseModel):
    # Built at the first parse and not at import: a Lambda that never reads a program pays nothing.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class _Dated(_Part):
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


class PointsName(_Part):
    """What the program calls its points."""

    one: Name = Field(description="The word for one point.")
    other: Name = Field(description="The word for any other number of points.")


class Branding(_Part):
    """How pages and posters look."""

    points_name: Maybe[PointsName] = None
    color: Maybe[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]] = Field(
        default=None, description="Main colour as #rrggbb."
    )
    logo_url: Maybe[Url] = Field(default=None, description="Address of the logo.")
    card_image_url: Maybe[Url] = Field(default=None, description="Address of the card's picture.")


class EarningBase(_Part):
    """What a purchase's base holds besides the lines after discounts."""

    tax: Literal["exclude", "include"] = "exclude"
    shipping: Literal["exclude", "include"] = "exclude"


class Rounding(_Part):
    """How fractions of points become points."""

    mode: Literal["floor", "half_up", "ceil"] = "floor"
    scope: Literal["award", "rule", "line"] = Field(
        default="award",
        description="What is rounded: the award's total, each rule's total, or each line's.",
    )


class Multipliers(_Part):
    """How line, campaign and tier multipliers combine."""

    combine: Literal["multiply", "add", "best"] = Field(
        default="multiply",
        description="Their product, 1 plus the sum of what each adds to 1, or the highest.",
    )
    max: Maybe[Ceiling] = Field(default=None, description="Ceiling of the combined factor.")


def _exactly_one(part: _Part, *names: str) -> None:
    if sum(getattr(part, name) is not None for name in names) != 1:
        raise _fault("exactly_one", f"must have exactly one of {', '.join(names)}")


def _only_with(part: _Part, owner: str, *names: str) -> None:
    if getattr(part, owner) is None and (strays := part.model_fields_set.intersection(names)):
        raise _fault("does_not_belong", f"{', '.join(sorted(strays))} belongs to {owner} only")


def _kinds(*names: str, **needs: list[str]) -> ConfigDict:
    """For the JSON Schema: exactly one of the names, and fields that need others beside them."""
    extra: dict[str, Any] = {"oneOf": [{"required": [name]} for name in names]}
    return ConfigDict(json_schema_extra=extra | ({"dependentRequired": needs} if needs else {}))


class Expiry(_Part):
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


class Limit(_Part):
    """At most so many points in each window."""

    points: SomePoints = Field(description="The most points in one window.")
    per: PerOrTransaction = Field(description="The window, in the program's time zone.")
    over: Literal["cap", "refuse"] = Field(
        default="cap", description="Beyond it: grant what is left, or nothing."
    )


class Times(_Part):
    """At most so many times in each window."""

    times: Count = Field(description="The most times in one window.")
    per: Per = Field(description="The window, in the program's time zone.")


class Frequency(_Part):
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
            raise _fault("required", "per is required beside times")
        return self


class Budget(_Part):
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
            return TierWindow("rolling", _positive(_whole_days(_duration(span))))
        case {"calendar": "year", **rest} if not rest:
            return TierWindow("calendar")
        case {"membership": "year", **rest} if not rest:
            return TierWindow("membership")
    raise _fault(
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


class Downgrade(_Part):
    """What happens at the period's end to a member who no longer qualifies."""

    steps: Literal["none", "one", "full"] = Field(
        default="none", description="Keeps the tier, falls one tier, or to where it belongs."
    )
    grace: Wait = Field(
        default_factory=Duration, description="How long the tier is kept after the period."
    )


class Tier(_Part):
    """A level that members reach by qualifying."""

    tier_id: Id
    name: Name = Field(default_factory=lambda known: known["tier_id"])
    at: Points = Field(description="Reached at so many qualifying points, or so much spend.")
    multiplier: Multiplier = Field(
        default_factory=lambda: Fraction(1), description="On the purchase points of its members."
    )


class Tiers(_Part):
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
    raise _fault("wrong_type", "must be a short text, an integer, true or false")


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


class Comparison(_Part):
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
                raise _fault("operator_mismatch", "in needs a list of values")
            if not self.value:
                raise _fault("empty_filter", "in needs at least one value")
        elif isinstance(self.value, tuple):
            raise _fault("operator_mismatch", f"{self.op} needs one value, not a list")
        elif self.op not in ("==", "!=") and isinstance(self.value, bool):
            raise _fault("operator_mismatch", f"true and false have no order for {self.op}")
        return self


def _same(left: Any, right: Any) -> bool:
    # True == 1 in Python, but not in a document.
    return type(left) is type(right) and bool(left == right)


class When(_Dated):
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


class Exclusions(_Part):
    """Lines that never count."""

    products: Labels = ()
    categories: Labels = ()
    brands: Labels = ()


class Match(_Part):
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
        raise _fault("wrong_type", "must be an integer")
    if value < 0:
        raise _fault("negative_rate", "must not be negative")
    if value > LARGEST:
        raise _fault("out_of_range", f"must not be more than {LARGEST}")
    return value


def _unit(value: Any) -> int:
    if _rate(value) == 0:
        raise _fault("out_of_range", "must be at least 1")
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


class Earn(_Part):
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
            raise _fault("exactly_one", f"must have only one of {', '.join(units)}")
        _only_with(self, "points", "per_quantity", "per_line", "per_amount")
        _only_with(self, "per_amount", "blocks")
        return self


class Rule(_Part):
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


class Campaign(_Dated):
    """A window in which everything earned is multiplied."""

    campaign_id: Id
    name: Name = Field(default_factory=lambda known: known["campaign_id"])
    multiplier: Multiplier
    when: Maybe[When] = Field(default=None, description="Conditions; absent: always.")
    match: Maybe[Match] = Field(default=None, description="Lines that count; absent: all.")
    budget: Maybe[Budget] = Field(
        default=None, description="What it may add; when reached, the campaign stops."
    )


class AppliesTo(_Part):
    """The lines that an offer gives a percentage of."""

    products: Labels = ()
    categories: Labels = ()
    brands: Labels = ()


class Offer(_Dated):
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


class Referral(_Part):
    """What a member who brings another one gets, and what the other one gets."""

    referrer_points: Points = 0
    referred_points: Points = 0
    award_on: Literal["registration", "first_purchase"] = "registration"
    min_amount: Maybe[Money] = Field(
        default=None, description="With `first_purchase`: its least base, in minor units."
    )
    limits: Many[Times] = Field(default=(), description="Per referrer.")


class Discount(_Part):
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


class RewardWhen(_Dated):
    """Who may redeem a reward, and when; all of it must hold."""

    tiers: Many[Id] = Field(default=(), description="Members in any of these tiers.")
    groups: Labels = Field(default=(), description="Members of any of these groups.")


def _cost(value: Any) -> Any:
    if type(value) is int:
        return {"default": value}
    if not isinstance(value, dict):
        raise _fault("wrong_type", "must be an integer, or an object of integers by tier_id")
    if "default" not in value:
        raise _fault("required", "must have a default beside the costs of tiers")
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


class Reward(_Part):
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


class PointsPayment(_Part):
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


class Holds(_Part):
    """Points reserved at checkout."""

    max_duration: Span = Field(
        default_factory=lambda: Duration(seconds=1800),
        description="After this a hold ends by itself; PT30M when absent.",
    )


class TransferLimit(_Part):
    """At most so many points sent by a member in each window."""

    points: SomePoints
    per: Per


class Transfers(_Part):
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


class Refunds(_Part):
    """How a refund takes back what its event gave."""

    method: Literal["per_line", "proportional", "recompute"] = "per_line"
    shortfall: Literal["other_lots", "clamp", "debt"] = Field(
        default="other_lots", description="Where the event's own points are gone."
    )
    expired_grace: Wait = Field(
        default_factory=Duration,
        description="How long points that come back from a returned order live at least.",
    )


class Adjustments(_Part):
    """Corrections by staff."""

    second_person_above: Maybe[Points] = Field(
        default=None, description="Beyond so many points, another person has to agree."
    )


_DAY_RANGE = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)(?:-(mon|tue|wed|thu|fri|sat|sun))?")


def _days(key: str) -> tuple[int, ...]:
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


class CheckIn(_Part):
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
            for day in _days(key):
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


class Location(_Part):
    """A place of the business."""

    location_id: Id
    name: Name = Field(default_factory=lambda known: known["location_id"])
    check_in: Maybe[CheckIn] = Field(default=None, description="Absent: no check-in here.")


class Notifications(_Part):
    """What members are told about."""

    expiring: Many[Days] = Field(default=(), description="So long before points expire.")


def _currency(value: str) -> str:
    if value not in _DIGITS:
        raise _fault("unknown_currency", "must be an active ISO 4217 code such as EUR")
    return value


def _time_zone(value: str) -> str:
    if is_time_zone(value):
        return value
    raise _fault("unknown_time_zone", "must be an IANA time zone such as Europe/Paris")


class Program(_Part):
    """A loyalty program, everything in one document.

    Amounts are integers in minor units of `currency`. Rates and multipliers are decimal strings
    or integers. Durations are ISO 8601. Dates and times are local to `time_zone`.
    """

    program_id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    name: Name
    currency: Annotated[
        str,
        AfterValidator(_currency),
        WithJsonSchema({"type": "string", "enum": sorted(_DIGITS)}),
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

    @cached_property
    def rules_by_trigger(self) -> Mapping[str, tuple[Rule, ...]]:
        """Rules in the order of evaluation: by falling priority, then as in the document."""
        found: dict[str, list[Rule]] = {}
        for rule in sorted(self.rules, key=lambda rule: -rule.priority):
            found.setdefault(rule.trigger, []).append(rule)
        return {trigger: tuple(rules) for trigger, rules in found.items()}


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
    _PRINTABLE: "must not have control characters or line breaks",
    _PRINTABLE_LINES: "must not have control characters",
}

# Beyond this a list helps nobody, and an answer that a Lambda may give (6 MB) could not hold it.
MOST_FAULTS = 5000

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


def _says_nothing(part: _Part) -> bool:
    values = (getattr(part, name) for name in type(part).model_fields)
    return all(
        value is None or value == () or (isinstance(value, _Part) and _says_nothing(value))
        for value in values
    )


def _filter(path: Path, part: _Part | None) -> Iterator[_Found]:
    if part is not None and _says_nothing(part):
        yield path, "empty_filter", "filters on nothing: name something, or leave it out"


def _dates(path: Path, part: _Dated | None) -> Iterator[_Found]:
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
            if named.intersection(_days(key)):
                yield (*path, "opening_hours", key), "duplicate_day", "names a day once more"
            named.update(_days(key))


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
    elif isinstance(value, _Part) and steps[0] in value.model_fields_set:
        yield from _written(getattr(value, steps[0]), steps[1:], (*path, steps[0]))


def _ignored(program: Program) -> Iterator[_Found]:
    for part in NOT_SUPPORTED_YET:
        for path, value in _written(program, part.path.split("/")[1:]):
            if part.counts(value):
                yield path, "not_supported_yet", "is understood, but not evaluated yet"


def unsupported(program: Program) -> tuple[Fault, ...]:
    """Where the program says something that would be silently ignored today."""
    found: list[_Found] = []
    _add(found, _ignored(program))
    return tuple(Fault(_pointer(path), code, detail) for path, code, detail in found)


def publishable(document: Any) -> Program:
    """Read a document that is to take effect.

    `Faults` lists everything that is wrong with it, and the parts that are not evaluated yet.
    """
    whole, found = _examine(document)
    if whole is not None:
        _add(
            found,
            ((whole.place(path), code, detail) for path, code, detail in _ignored(whole.program)),
        )
    return _program(whole, found)


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
