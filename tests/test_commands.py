"""Bodies of requests: what is let through, and by which code it is refused where it is not."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from loyalty import commands
from loyalty.commands import instant, lots_of
from loyalty.model import MAX_POINTS, NEVER
from tests.strategies import number

LINE = {"line_id": "1", "quantity": 1, "amount": 100}
PURCHASE = {"currency": "EUR", "lines": [LINE]}
EVENT = {"event_id": "one", "type": "review", "member_id": "ann"}
REFUND = {"event_id": "one", "refund_id": "r"}
ADJUSTMENT = {"member_id": "ann", "points": 5, "reason_code": "goodwill"}
DAYS = 24 * 60 * 60 * 1000


def read(model: type[BaseModel], body: dict[str, Any]) -> Any:
    return model.model_validate_json(json.dumps(body))


def codes(model: type[BaseModel], body: dict[str, Any]) -> list[tuple[str, str]]:
    """(where, code) of everything that is wrong with a body."""
    try:
        read(model, body)
    except ValidationError as error:
        return [(".".join(map(str, each["loc"])), each["type"]) for each in error.errors()]
    return []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1971-01-01T00:00:00Z", 365 * DAYS),
        ("1971-01-01t01:00:00.5+01:00", 365 * DAYS + 500),
        ("1970-12-31T23:59:59Z", None),
        ("9000-12-31T00:00:00Z", (number("9000-12-31")) * DAYS),
        ("9001-01-01T00:00:00Z", None),
        ("2026-02-29T00:00:00Z", None),
        ("2026-03-10T12:00:00", None),
        ("2026-03-10", None),
        ("2026-03-10T12:00:00z ", None),
    ],
)
def test_instants_have_an_offset_and_lie_in_the_years_that_can_be_counted(
    text: str, at: int | None
) -> None:
    assert instant(text) == at
    wrong = [] if at is not None else [("occurred_at", "bad_time")]
    assert codes(commands.Event, EVENT | {"occurred_at": text}) == wrong
    if at is not None:
        assert read(commands.Event, EVENT | {"occurred_at": text}).occurred_at == at


@pytest.mark.parametrize("value", [5, True, ["2026-03-10T12:00:00Z"]])
def test_an_instant_is_a_text(value: Any) -> None:
    assert codes(commands.Event, EVENT | {"occurred_at": value}) == [("occurred_at", "bad_time")]


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("1850-01-01", date(1850, 1, 1)),
        ("1849-12-31", None),
        ("2024-02-29", date(2024, 2, 29)),
        ("2026-02-29", None),
        ("20240229", None),
        ("2024-02-29T00:00:00", None),
        (20240229, None),
    ],
)
def test_a_birthday_is_a_date_of_somebody_who_may_live(value: Any, day: date | None) -> None:
    if day is None:
        assert codes(commands.Profile, {"birthday": value}) == [("birthday", "bad_date")]
    else:
        assert read(commands.Profile, {"birthday": value}).birthday == day


@pytest.mark.parametrize(
    ("model", "body", "wrong"),
    [
        # Ids are printable, and # parts keys of the tables.
        (commands.Event, EVENT | {"event_id": "é 1"}, []),
        (commands.Event, EVENT | {"event_id": "a#b"}, [("event_id", "bad_id")]),
        (commands.Event, EVENT | {"event_id": "a\tb"}, [("event_id", "bad_id")]),
        # Labels and texts are without control characters.
        (commands.Event, EVENT | {"channel": "a#b"}, []),
        (commands.Event, EVENT | {"channel": "a\u2028b"}, [("channel", "bad_text")]),
        (commands.Profile, {"name": "a\x7f"}, [("name", "bad_text")]),
        (commands.Profile, {"timezone": "Europe/Paris"}, []),
        (commands.Profile, {"timezone": "Europe/Nowhere"}, [("timezone", "bad_time_zone")]),
        # A refund names an event, or a check-in by a longer id.
        (commands.Reversal, REFUND | {"event_id": "e" * 128}, []),
        (commands.Reversal, REFUND | {"event_id": "e" * 129}, [("event_id", "out_of_range")]),
        (commands.Reversal, REFUND | {"event_id": "check-in:" + "e" * 128}, []),
        (commands.Reversal, REFUND | {"event_id": "check-in:e"}, []),
        (commands.Reversal, REFUND | {"event_id": "e"}, []),
        (commands.Reversal, REFUND | {"event_id": "check-in:"}, [("event_id", "out_of_range")]),
        (commands.Reversal, REFUND | {"event_id": "a#b"}, [("event_id", "bad_id")]),
        # A purchase goes with its type, and names each line once.
        (commands.Event, EVENT | {"type": "purchase", "purchase": PURCHASE}, []),
        (commands.Event, EVENT | {"type": "purchase"}, [("", "purchase_mismatch")]),
        (commands.Event, EVENT | {"purchase": PURCHASE}, [("", "purchase_mismatch")]),
        (commands.Purchase, PURCHASE | {"lines": [LINE, LINE | {"line_id": "2"}]}, []),
        (commands.Purchase, PURCHASE | {"lines": [LINE, LINE]}, [("", "duplicate_line_id")]),
        # One way to say what comes back.
        (commands.ReturnedLine, {"line_id": "1"}, []),
        (commands.ReturnedLine, {"line_id": "1", "quantity": 1}, []),
        (commands.ReturnedLine, {"line_id": "1", "amount": 1}, []),
        (
            commands.ReturnedLine,
            {"line_id": "1", "quantity": 1, "amount": 1},
            [("", "exactly_one")],
        ),
        (commands.Reversal, REFUND | {"lines": [{"line_id": "1"}]}, []),
        (commands.Reversal, REFUND | {"amount": 1}, []),
        (
            commands.Reversal,
            REFUND | {"lines": [{"line_id": "1"}], "amount": 1},
            [("", "exactly_one")],
        ),
        (
            commands.Reversal,
            REFUND | {"lines": [{"line_id": "1"}, {"line_id": "1"}]},
            [("", "duplicate_line_id")],
        ),
        # One thing to spend points on.
        (commands.Redemption, {"points": 1}, []),
        (commands.Redemption, {"reward_id": "gift"}, []),
        (commands.Redemption, {"reward_id": "gift", "points": 1}, [("", "exactly_one")]),
        (commands.Redemption, {}, [("", "exactly_one")]),
        # An adjustment moves something, and only what is given expires.
        (commands.Adjustment, ADJUSTMENT | {"points": 0}, [("", "out_of_range")]),
        (commands.Adjustment, ADJUSTMENT | {"points": 1}, []),
        (commands.Adjustment, ADJUSTMENT | {"points": -1}, []),
        (commands.Adjustment, ADJUSTMENT | {"points": 1, "expires_on": "2027-01-01"}, []),
        (
            commands.Adjustment,
            ADJUSTMENT | {"points": -1, "expires_on": "2027-01-01"},
            [("", "does_not_belong")],
        ),
        # A tier that staff set ends.
        (commands.SetTier, {}, []),
        (commands.SetTier, {"tier_id": "gold", "until": "2027-01-01"}, []),
        (commands.SetTier, {"tier_id": "gold"}, [("", "exactly_one")]),
        (commands.SetTier, {"until": "2027-01-01"}, [("", "exactly_one")]),
    ],
)
def test_a_body_is_let_through_or_told_what_is_wrong(
    model: type[BaseModel], body: dict[str, Any], wrong: list[tuple[str, str]]
) -> None:
    assert codes(model, body) == wrong
    if not wrong:
        assert read(model, body).model_dump(mode="json", exclude_unset=True) == body


def test_a_line_that_comes_twice_is_named() -> None:
    with pytest.raises(ValidationError, match=r"two lines have the id 7\b"):
        read(commands.Purchase, PURCHASE | {"lines": [LINE | {"line_id": "7"}] * 2})


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (True, True),
        (MAX_POINTS, True),
        (-MAX_POINTS, True),
        (MAX_POINTS + 1, False),
        (-MAX_POINTS - 1, False),
        ("a" * 256, True),
        ("a" * 257, False),
        (1.5, False),
        (None, False),
        ([1], False),
    ],
)
def test_an_attribute_is_a_flag_an_integer_or_a_short_text(value: Any, taken: bool) -> None:
    body = EVENT | {"attributes": {"a": value}}
    assert codes(commands.Event, body) == ([] if taken else [("attributes.a", "bad_attribute")])
    if taken:
        assert read(commands.Event, body).attributes == {"a": value}
    wrong = EVENT | {"attributes": {"a": "\x00"}}
    assert codes(commands.Event, wrong) == [("attributes.a", "bad_text")]


def test_lots_of_a_made_up_account_are_one_for_each_date_in_their_order() -> None:
    lots = [
        {"points": 5},
        {"points": 1, "expires_on": "2027-01-01"},
        {"points": 2, "expires_on": "2026-12-31"},
        {"points": 3, "expires_on": "2027-01-01"},
        {"points": 6},
    ]
    account = read(commands.SimulatedAccount, {"lots": lots})
    assert lots_of(account) == ((number("2026-12-31"), 2), (number("2027-01-01"), 4), (NEVER, 11))
