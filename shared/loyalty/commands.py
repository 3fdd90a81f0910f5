"""What clients ask for: the bodies of requests, strict, with nothing unknown let through.

Money is integer minor units of `currency`, points are integers, instants are RFC 3339 with an
offset (kept as milliseconds since 1970-01-01T00:00Z).
"""

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loyalty.dates import day_number, is_time_zone, milliseconds
from loyalty.model import MAX_POINTS, NEVER

CHECK_IN_EVENT = "check-in:"
"""Check-ins are events too; this is how the id of one begins, and no other event's may."""
MAX_LINES = 500
"""The largest basket: its entry stays far below DynamoDB's 400 KB item limit."""


def instant(text: str) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time; None where it is none that we can take."""
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        # Days are numbered from 1970, and durations need room at the other end.
        return milliseconds(moment) if 1971 <= moment.year <= 9000 else None
    except (ValueError, OverflowError):
        return None


def _instant(value: Any) -> int:
    number = instant(value) if isinstance(value, str) else None
    if number is None:
        raise PydanticCustomError("bad_time", "must be an RFC 3339 time: 2026-11-22T10:15:00Z")
    return number


_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


def _day(value: Any) -> date:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        try:
            day = date.fromisoformat(value)
            if day.year >= 1850:
                return day
        except ValueError:
            pass
    raise PydanticCustomError("bad_date", "must be a date such as 1990-02-28")


def _printable(value: str) -> str:
    if not value.isprintable() or "#" in value:
        raise PydanticCustomError("bad_id", "must be printable characters without #")
    return value


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _clean(value: str) -> str:
    if _CONTROLS.search(value):
        raise PydanticCustomError("bad_text", "must not hold control characters")
    return value


def _zone(value: str) -> str:
    if not is_time_zone(value):
        raise PydanticCustomError("bad_time_zone", "must be an IANA time zone")
    return value


def _event_id(value: str) -> str:
    # A check-in's id is longer than the key that it is made of.
    if not 1 <= len(value.removeprefix(CHECK_IN_EVENT)) <= 128:
        raise PydanticCustomError("out_of_range", "must have at most 128 characters")
    return _printable(value)


def _attribute(value: Any) -> str | int | bool:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_POINTS):
        return value
    if isinstance(value, str) and len(value) <= 256:
        return _clean(value)
    raise PydanticCustomError(
        "bad_attribute", "must be true, false, an integer or a text of up to 256 characters"
    )


Instant = Annotated[
    int, PlainValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
# In pydantic's patterns $ is the end of the text and nothing else.
MemberId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A member's id: never an e-mail address or a phone number."""
Key = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_printable)]
"""An id that shops choose (event, refund, order, Idempotency-Key), compared by exact bytes."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_clean)]
RedemptionId = Annotated[
    str, StringConstraints(min_length=1, max_length=700), AfterValidator(_clean)
]
"""Made of an Idempotency-Key: 128 characters of up to four bytes, in base 64."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_clean)]
Amount = Annotated[int, Field(ge=0, le=MAX_POINTS)]
Attribute = Annotated[
    str | int | bool,
    PlainValidator(_attribute),
    WithJsonSchema({"type": ["string", "integer", "boolean"]}),
]


class Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Line(Body):
    """One line of a purchase. `amount` is its total after discounts, without tax."""

    line_id: Key
    product_id: Label | None = None
    category_ids: Annotated[list[Label], Field(max_length=50)] = []
    brand_id: Label | None = None
    quantity: Annotated[int, Field(ge=1, le=1_000_000_000)]
    amount: Amount
    discounted: bool = False


class Purchase(Body):
    """What was bought. `paid_with_points` is money; gift cards are payments, not discounts."""

    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    lines: Annotated[list[Line], Field(min_length=1, max_length=MAX_LINES)]
    tax: Amount = 0
    shipping: Amount = 0
    paid_with_points: Amount = 0
    redemption_ids: Annotated[list[RedemptionId], Field(max_length=20)] = []

    @model_validator(mode="after")
    def _lines_are_named_once(self) -> Self:
        _named_once(self.lines)
        return self


def _named_once(lines: "Sequence[Line | ReturnedLine]") -> None:
    seen = set()
    for line in lines:
        if line.line_id in seen:
            raise PydanticCustomError(
                "duplicate_line_id",
                "two lines have the id {line_id}",
                {"line_id": line.line_id},
            )
        seen.add(line.line_id)


class Event(Body):
    """Something a customer did, to be awarded by the program's rules.

    `occurred_at` is the moment of the command where it is absent.
    """

    event_id: Key
    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
    member_id: MemberId
    occurred_at: Instant | None = None
    channel: Label | None = None
    location_id: Label | None = None
    attributes: Annotated[dict[Label, Attribute], Field(max_length=50)] = {}
    purchase: Purchase | None = None

    @model_validator(mode="after")
    def _purchases_have_lines(self) -> Self:
        if (self.type == "purchase") != (self.purchase is not None):
            raise PydanticCustomError(
                "purchase_mismatch", "a purchase goes with the type purchase, and only with it"
            )
        return self


class ReturnedLine(Body):
    """One line that came back: by quantity, by amount, or (neither) all that is left of it."""

    line_id: Key
    quantity: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    amount: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.quantity is not None and self.amount is not None:
            raise PydanticCustomError("exactly_one", "give quantity or amount, not both")
        return self


class SimulatedLot(Body):
    """Points that the made-up account holds; without a date they never expire."""

    points: Annotated[int, Field(ge=1, le=MAX_POINTS)]
    expires_on: Day | None = None


class SimulatedAccount(Body):
    """An account made up for a dry run."""

    groups: Annotated[list[Label], Field(max_length=20)] = []
    lots: Annotated[list[SimulatedLot], Field(max_length=100)] = []


class Simulation(Body):
    """A dry run: an event as for an award; at a time; under a draft; for a made-up account."""

    event: Event
    now: Instant | None = None
    program: dict[str, Any] | None = None
    account: SimulatedAccount | None = None


def lots_of(account: SimulatedAccount) -> tuple[tuple[int, int], ...]:
    """The lots of a made-up account as (expires_on, points), ascending, one for each date."""
    lots: dict[int, int] = {}
    for lot in account.lots:
        day = NEVER if lot.expires_on is None else day_number(lot.expires_on)
        lots[day] = lots.get(day, 0) + lot.points
    return tuple(sorted(lots.items()))


class Reversal(Body):
    """A refund of an event: by lines, by amount, or (neither) of everything."""

    event_id: Annotated[str, StringConstraints(min_length=1), AfterValidator(_event_id)]
    refund_id: Key
    lines: Annotated[list[ReturnedLine], Field(min_length=1, max_length=MAX_LINES)] | None = None
    amount: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.lines is not None and self.amount is not None:
            raise PydanticCustomError("exactly_one", "give lines or amount, not both")
        _named_once(self.lines or ())
        return self


class Redemption(Body):
    """Points spent: on a reward, or plainly."""

    member_id: MemberId | None = None
    reward_id: Label | None = None
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    order: "Order | None" = None
    hold: bool = False

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.reward_id is None) == (self.points is None):
            raise PydanticCustomError("exactly_one", "give reward_id or points, not both")
        return self


class Order(Body):
    """The order that a redemption pays for."""

    order_id: Key
    amount: Amount
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class Transfer(Body):
    """Points from one member to another. Members send their own, shops name the sender."""

    from_member_id: MemberId | None = None
    to_member_id: MemberId
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)]


class Adjustment(Body):
    """Points that staff give or take. The note may be personal: it is kept with the profile."""

    member_id: MemberId
    points: Annotated[int, Field(ge=-MAX_POINTS, le=MAX_POINTS)]
    reason_code: Label
    note: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None
    expires_on: Day | None = None

    @model_validator(mode="after")
    def _moves_something(self) -> Self:
        if not self.points:
            raise PydanticCustomError("out_of_range", "must not be 0")
        if self.points < 0 and self.expires_on is not None:
            raise PydanticCustomError("does_not_belong", "only points that are given expire")
        return self


class Merge(Body):
    """The member that stays."""

    into_member_id: MemberId


class SetTier(Body):
    """A tier set by staff, gone at 00:00 of `until`; without one, what was set is taken off."""

    tier_id: Label | None = None
    until: Day | None = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if (self.tier_id is None) != (self.until is None):
            raise PydanticCustomError("exactly_one", "give tier_id and until, or neither")
        return self


class Scan(Body):
    """A check-in: the code as scanned. Members check in themselves, shops name the member."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    member_id: MemberId | None = None


class Profile(Body):
    """What the business knows of a person; kept apart from the ledger."""

    email: (
        Annotated[str, StringConstraints(pattern=r"^[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,190}$")]
        | None
    ) = None
    phone: (
        Annotated[
            str,
            # Three digits at least: two numbers without any would be the same person's.
            StringConstraints(pattern=r"^\+?(?:[ ()./-]*[0-9]){3,32}[ ()./-]*$", max_length=32),
        ]
        | None
    ) = None
    name: Text | None = None
    birthday: Day | None = None
    groups: Annotated[list[Label], Field(max_length=20)] | None = None
    timezone: Annotated[Label, AfterValidator(_zone)] | None = None


class Enrolment(Profile):
    """A new member; the id is made from the Idempotency-Key where none is given."""

    member_id: MemberId | None = None
    referral_code: Label | None = None
