"""The fields of a program document: what a number, a duration, a date or a name is there.

Each is a type that pydantic reads strictly and that tells its own JSON Schema. What is refused is
told by `fault`: a stable code and a sentence that begins after the field's name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from loyalty.dates import Duration
from loyalty.model import MAX_POINTS

# One field's ceiling, for points and for money. Sums of thousands of such numbers stay below
# 2**63, and each is below 2**53, so that readers of JSON who use doubles lose nothing either.
LARGEST = MAX_POINTS

# How many digits a currency has after the point, by its active ISO 4217 code: 2 for EUR, 0 for JPY.
# Money that has minor units, funds codes included; metals, bond units, SDR, test and "no currency"
# codes are not money that a shop can charge.
MINOR_DIGITS: Mapping[str, int] = {
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


def fault(code: str, detail: str) -> PydanticCustomError:
    # Braces would be read as placeholders of the message template.
    return PydanticCustomError(code, "{detail}", {"detail": detail})


T = TypeVar("T")


def _not_null[V](value: V) -> V:
    if value is None:
        raise fault("wrong_type", "null is not a value: leave the field out")
    return value


# Longer lists do not fit a document of 5 MiB, unless they are rubbish that costs memory to refuse.
MOST_ITEMS = 100_000


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) > MOST_ITEMS:
        raise fault("bad_length", f"must have at most {MOST_ITEMS} items")
    return tuple(value)


# `null` is refused although absent fields read as None: absent has one spelling.
Maybe = Annotated[T | None, BeforeValidator(_not_null)]
Many = Annotated[tuple[T, ...], BeforeValidator(_listed)]

_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


def _decimal(value: Any) -> Fraction:
    if type(value) is int:
        if abs(value) > LARGEST:
            raise fault("out_of_range", "has more than 15 digits")
        number = Fraction(value)
    elif isinstance(value, str) and _DECIMAL.fullmatch(value):
        if sum(c.isdigit() for c in value) > 18:
            raise fault("out_of_range", "has more than 18 digits")
        number = Fraction(value)
    else:
        raise fault("bad_decimal", 'must be an integer or a decimal string such as "1.5"')
    if number < 0 or str(value).startswith("-"):  # "-0" too
        raise fault("negative_rate", "must not be negative")
    return number


def _between(low: int, high: int) -> AfterValidator:
    def check(number: Fraction) -> Fraction:
        if not low <= number <= high:
            raise fault("out_of_range", f"must be from {low} to {high}")
        return number

    return AfterValidator(check)


def _percent(number: Fraction) -> Fraction:
    if number > 100:
        raise fault("percent_over_100", "must not be more than 100 percent")
    if number == 0:
        raise fault("out_of_range", "must be more than 0")
    return number


def _share(number: Fraction) -> Fraction:
    if not 0 < number <= 1:
        raise fault("out_of_range", 'must be more than 0 and at most 1, as "0.5" for one half')
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


def duration(value: Any) -> Duration:
    if not isinstance(value, str) or len(value) > 64:
        raise fault("bad_duration", "must be an ISO 8601 duration such as P14D, P12M or PT4H")
    try:
        duration = Duration.parse(value)
    except ValueError as error:
        raise fault("bad_duration", str(error)) from None
    if (
        duration.months > _LONGEST.months
        or duration.days > _LONGEST.days
        or duration.seconds > _LONGEST.seconds
    ):
        raise fault("out_of_range", "must not be longer than 100 years")
    return duration


def positive(duration: Duration) -> Duration:
    if duration.is_zero:
        raise fault("out_of_range", "must be longer than zero")
    return duration


def whole_days(duration: Duration) -> Duration:
    if not duration.in_whole_days:
        raise fault("not_whole_days", "must be in days, weeks, months or years, without a time")
    return duration


def _duration_schema(time_part: bool) -> WithJsonSchema:
    days = r"^P(?=[0-9T])([0-9]{1,4}Y)?([0-9]{1,5}M)?([0-9]{1,5}W)?([0-9]{1,6}D)?"
    times = r"(T(?=[0-9])([0-9]{1,6}H)?([0-9]{1,6}M)?([0-9]{1,7}S)?)?"
    return WithJsonSchema({"type": "string", "pattern": days + (times if time_part else "") + "$"})


# Any time above zero · whole days, zero allowed · whole days above zero.
Span = Annotated[
    Duration, PlainValidator(duration), AfterValidator(positive), _duration_schema(True)
]
Wait = Annotated[
    Duration, PlainValidator(duration), AfterValidator(whole_days), _duration_schema(False)
]
Days = Annotated[
    Duration,
    PlainValidator(duration),
    AfterValidator(whole_days),
    AfterValidator(positive),
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
    raise fault("bad_date", "must be a local date (2026-11-27) or date and time (2026-11-27T08:00)")


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
        raise fault("bad_hours", 'must be hours such as "08:00-11:00" or "22:00-02:00"')
    h, m, end_h, end_m = found.groups()
    begins = int(h) * 60 + int(m)
    ends = 1440 if end_h is None else int(end_h) * 60 + int(end_m)
    if begins == ends:
        raise fault("bad_hours", 'begins when it ends; the whole day is "00:00-24:00"')
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
    raise fault("bad_date", 'must be a month and day that every year has, such as "06-30"')


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
PRINTABLE = r"^[^\x00-\x1f\x7f\ufffe\uffff]*$"
PRINTABLE_LINES = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]*$"
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
Text = Annotated[str, Field(max_length=20_000, pattern=PRINTABLE_LINES)]
# What the shop's own systems call a product, category, brand, channel or group.
Label = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTABLE)]
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
