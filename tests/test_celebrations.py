"""Birthdays and anniversaries are paid by the sweep, completed profiles at once; each once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import httpx
import pytest
from conftest import Service
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.celebrations import CAUGHT_UP_DAYS, Celebration, celebrate, due, feasts
from loyalty.decisions import Decision
from loyalty.limits import ONCE
from loyalty.model import Account, Count, Counts, Known
from loyalty.rules import Rulebook
from loyalty.validation import parse
from tests.programs import smallest
from tests.strategies import instant, number, refused

type Json = dict[str, Any]

BIRTHDAY = {"rule_id": "birthday", "trigger": "birthday", "earn": {"points": 100}}
ANNIVERSARY = {"rule_id": "years", "trigger": "anniversary", "earn": {"points": 30}}
COMPLETED = {"rule_id": "complete", "trigger": "profile_completed", "earn": {"points": 20}}
WHOLE = {
    "name": "Mila",
    "email": "mila@example.com",
    "phone": "+33 1 23 45 67 89",
    "birthday": "1990-07-20",
}


class Club:
    """A program of the test's own in a running service."""

    def __init__(self, service: Service, **sections: Any) -> None:
        self.service = service
        program_id = f"feast-{uuid.uuid4().hex[:8]}"
        self.base = f"/v1/programs/{program_id}"
        self.document = smallest(program_id=program_id, **sections)
        self.send("PUT", "/program", self.document, scope="admin")

    def send(
        self, method: str, path: str, body: Any = None, scope: str = "staff", **headers: str
    ) -> httpx.Response:
        answer = self.service.http.request(
            method, self.base + path, json=body, headers=self.service.headers(scope, **headers)
        )
        assert answer.status_code < 300, answer.text
        return answer

    def publish(self, **sections: Any) -> None:
        self.document = self.document | sections
        newest = self.send("GET", "/program/versions").json()["items"][0]["version"]
        self.send("PUT", "/program", self.document, scope="admin", if_match=f'"{newest}"')

    def enrol(self, member_id: str = "mila", **profile: Any) -> Json:
        enrolled: Json = self.send("POST", "/members", {"member_id": member_id, **profile}).json()
        return enrolled

    def change(self, member_id: str = "mila", **profile: Any) -> None:
        self.send("PATCH", f"/members/{member_id}", profile)

    def sweep(self) -> None:
        assert self.service.sweep()["dead"] == 0

    def paid(self, member_id: str = "mila") -> list[tuple[str, int, str]]:
        """(kind, points, occurred_at) of what was credited, oldest first."""
        rows = self.send("GET", f"/members/{member_id}/entries?limit=100").json()["items"]
        credits = [(r["kind"], r["points"], r["occurred_at"]) for r in rows if r["points"]]
        return credits[::-1]


@pytest.fixture
def at(service: Service) -> Iterator[Callable[[str], None]]:
    """A function that stops the test clock at a time; afterwards it runs again."""
    yield service.set_clock
    service.set_clock(None)


@pytest.fixture
def open_club(service: Service, at: Callable[[str], None]) -> Callable[..., Club]:
    """A function that opens a club at noon on 5 January 2026 in Paris."""
    at("2026-01-05T11:00:00Z")
    return lambda **sections: Club(service, **sections)


# Paid by the sweep


def test_a_birthday_is_paid_once_on_its_local_day_however_often_the_sweep_runs(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY])
    club.enrol(birthday="1990-03-10")
    at("2026-03-09T22:59:59Z")
    club.sweep()
    assert club.paid() == []
    for now in (
        "2026-03-09T23:00:00Z",  # 00:00 in Paris
        "2026-03-09T23:00:00Z",
        "2026-03-10T00:00:00Z",
        "2026-03-10T12:00:00Z",
        "2026-03-17T12:00:00Z",
    ):
        at(now)
        club.sweep()
        assert club.paid() == [("birthday", 100, "2026-03-09T23:00:00Z")], now
    at("2027-03-10T13:00:00Z")
    club.sweep()
    assert [points for _, points, _ in club.paid()] == [100, 100]


def test_a_missed_run_is_caught_up_for_7_days_and_dated_by_the_birthday(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY], expiry=[{"after": "P1M"}])
    club.enrol("early", birthday="1990-03-09")
    club.enrol("just", birthday="1990-03-10")
    at("2026-03-17T22:59:00Z")
    club.sweep()
    assert club.paid("early") == []
    assert club.paid("just") == [("birthday", 100, "2026-03-10T11:00:00Z")]
    balance = club.send("GET", "/members/just/balance").json()
    assert balance["expiring"] == [{"points": 100, "expires_on": "2026-04-10"}]


def test_a_birthday_at_the_end_of_the_year_is_caught_up_in_the_next_for_its_own(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY])
    club.enrol(birthday="1990-12-30")
    for now in ("2027-01-03T10:00:00Z", "2027-12-30T12:00:00Z", "2028-01-02T10:00:00Z"):
        at(now)
        club.sweep()
    assert [(points, when[:10]) for _, points, when in club.paid()] == [
        (100, "2026-12-30"),
        (100, "2027-12-30"),
    ]


def test_a_birthday_before_enrolment_earns_nothing_one_on_the_day_does(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY])
    club.enrol("before", birthday="1990-01-04")
    club.enrol("same", birthday="1990-01-05")
    at("2026-01-06T11:00:00Z")
    club.sweep()
    assert club.paid("before") == []
    [(kind, points, when)] = club.paid("same")
    assert (kind, points, when[:10]) == ("birthday", 100, "2026-01-05")


def test_a_changed_birth_date_earns_nothing_twice_in_a_year(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY])
    club.enrol(birthday="1990-03-10")
    at("2026-03-10T12:00:00Z")
    club.sweep()
    club.change(birthday="1990-03-12")
    at("2026-03-12T12:00:00Z")
    club.sweep()
    club.change(birthday=None)
    club.change(birthday="1990-08-01")
    at("2026-08-01T12:00:00Z")
    club.sweep()
    assert [points for _, points, _ in club.paid()] == [100]
    at("2027-08-01T12:00:00Z")
    club.sweep()
    assert [points for _, points, _ in club.paid()] == [100, 100]


def test_a_birth_date_told_later_counts_and_one_taken_away_does_not(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY])
    club.enrol("told")
    club.enrol("gone", birthday="1990-03-10")
    club.change("told", birthday="1990-03-10")
    club.change("gone", birthday=None)
    at("2026-03-11T12:00:00Z")
    club.sweep()
    assert [points for _, points, _ in club.paid("told")] == [100]
    assert club.paid("gone") == []


def test_an_anniversary_is_paid_every_year_but_not_on_the_day_of_joining(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[ANNIVERSARY])
    club.enrol()
    for now in ("2026-01-05T12:00:00Z", "2027-01-04T12:00:00Z"):
        at(now)
        club.sweep()
        assert club.paid() == [], now
    for now in ("2027-01-05T12:00:00Z", "2027-01-06T12:00:00Z", "2028-01-08T12:00:00Z"):
        at(now)
        club.sweep()
    assert [(kind, points, when[:10]) for kind, points, when in club.paid()] == [
        ("anniversary", 30, "2027-01-05"),
        ("anniversary", 30, "2028-01-05"),
    ]


def test_each_program_celebrates_on_its_own_local_date(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    west = open_club(rules=[BIRTHDAY], time_zone="Pacific/Honolulu")
    east = open_club(rules=[BIRTHDAY], time_zone="Pacific/Auckland")
    for club in (west, east):
        club.enrol(birthday="1990-07-20")
    for now, paid in (
        ("2026-07-19T11:59:00Z", (0, 0)),
        ("2026-07-19T12:00:00Z", (0, 1)),
        ("2026-07-20T09:59:00Z", (0, 1)),
        ("2026-07-20T10:00:00Z", (1, 1)),
    ):
        at(now)
        west.sweep()
        assert (len(west.paid()), len(east.paid())) == paid, now


def test_a_day_that_gives_nothing_leaves_nothing_and_may_still_be_paid_in_its_week(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    club = open_club(rules=[BIRTHDAY | {"when": {"groups": ["vip"]}}])
    club.enrol(birthday="1990-03-10")
    at("2026-03-10T12:00:00Z")
    club.sweep()
    assert len(club.send("GET", "/members/mila/entries").json()["items"]) == 1
    club.change(groups=["vip"])
    at("2026-03-12T12:00:00Z")
    club.sweep()
    assert [points for _, points, _ in club.paid()] == [100]


def test_points_that_fell_due_on_the_same_day_are_written_down_as_well(
    open_club: Callable[..., Club], at: Callable[[str], None]
) -> None:
    joining = {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 50}}
    club = open_club(rules=[BIRTHDAY, ANNIVERSARY, joining], expiry=[{"after": "P1Y"}])
    club.enrol(birthday="1990-01-05")
    at("2027-01-05T12:00:00Z")
    club.sweep()
    club.sweep()
    assert sorted((kind, points) for kind, points, _ in club.paid()[1:]) == [
        ("anniversary", 30),
        ("birthday", 100),
        ("expire", -50),
    ]


# Completed profiles


def test_a_profile_that_is_whole_at_enrolment_is_paid_once(
    open_club: Callable[..., Club],
) -> None:
    club = open_club(rules=[COMPLETED])
    club.enrol(**WHOLE)
    club.enrol(**WHOLE)  # a replay
    club.change(name="Mia")
    assert [(kind, points) for kind, points, _ in club.paid()] == [("award", 20)]


def test_a_profile_is_paid_when_its_last_part_comes_and_never_again(
    open_club: Callable[..., Club],
) -> None:
    club = open_club(rules=[COMPLETED])
    club.enrol(name=WHOLE["name"])
    for part in ("email", "phone"):
        club.change(**{part: WHOLE[part]})
        assert club.paid() == []
    club.change(birthday=WHOLE["birthday"])
    assert [points for _, points, _ in club.paid()] == [20]
    club.change(email=None, birthday=None)
    club.change(email="other@example.com", birthday="1991-01-01")
    assert [points for _, points, _ in club.paid()] == [20]


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_profile_that_lacks_any_part_is_not_complete(
    open_club: Callable[..., Club], missing: str
) -> None:
    club = open_club(rules=[COMPLETED])
    club.enrol(**{name: value for name, value in WHOLE.items() if name != missing})
    club.change(timezone="Europe/Rome", groups=["vip"])
    assert club.paid() == []


def test_a_profile_completed_before_there_was_a_rule_is_paid_at_its_next_change(
    open_club: Callable[..., Club],
) -> None:
    club = open_club()
    club.enrol(**WHOLE)
    club.publish(rules=[COMPLETED])
    assert club.paid() == []
    club.change(name="Mia")
    assert [points for _, points, _ in club.paid()] == [20]


def test_a_profile_whose_rule_gives_nothing_yet_is_paid_at_a_change_that_finds_it_giving(
    open_club: Callable[..., Club],
) -> None:
    for_vips = COMPLETED | {"when": {"groups": ["vip"]}}
    club = open_club(rules=[for_vips])
    club.enrol(**WHOLE)
    club.change(name="Mia")
    assert club.paid() == []
    club.change(groups=["vip"])
    club.change(name="Mila")
    assert [(kind, points) for kind, points, _ in club.paid()] == [("award", 20)]


def test_a_completed_profile_that_earns_nothing_leaves_nothing(
    open_club: Callable[..., Club],
) -> None:
    club = open_club(rules=[COMPLETED | {"when": {"from": "2026-02-01"}}])
    club.enrol(**WHOLE)
    rows = club.send("GET", "/members/mila/entries").json()["items"]
    assert [row["kind"] for row in rows] == ["enrol"]


# Which day it is


def rulebook(**more: Any) -> Rulebook:
    return Rulebook(parse(smallest(rules=[BIRTHDAY, ANNIVERSARY], **more)), 1)


def celebrated(
    book: Rulebook, first: str, last: str, birthday: int = 0, joined: str = "2019-06-15"
) -> list[tuple[str, str, int]]:
    """Every (kind, day, year) that daily sweeps find, in order, each guard once."""
    account = Account(
        program_id="test", member_id="ann", birthday=birthday, joined_on=number(joined)
    )
    found: dict[str, Celebration] = {}
    for today in range(number(first), number(last) + 1):
        for one in due(book, account, today):
            guard = one.guard(account)
            found.setdefault(f"{guard.partition}/{guard.sort}", one)
    return [
        (one.kind, (date(1970, 1, 1) + timedelta(days=one.on)).isoformat(), one.year)
        for one in found.values()
    ]


def test_29_february_falls_on_the_28th_in_common_years() -> None:
    days = celebrated(rulebook(), "2023-01-01", "2025-05-01", birthday=229)
    assert [day for kind, day, _ in days if kind == "birthday"] == [
        "2023-02-28", "2024-02-29", "2025-02-28",
    ]  # fmt: skip


def test_29_february_falls_on_1_march_where_the_program_says_so() -> None:
    days = celebrated(rulebook(leap_day="mar_1"), "2023-01-01", "2025-05-01", birthday=229)
    assert [day for kind, day, _ in days if kind == "birthday"] == [
        "2023-03-01", "2024-02-29", "2025-03-01",
    ]  # fmt: skip


def test_neighbours_of_29_february_keep_their_own_days() -> None:
    for setting in ("feb_28", "mar_1"):
        book = rulebook(leap_day=setting)
        for birthday, day in ((228, "02-28"), (301, "03-01")):
            days = celebrated(book, "2023-01-01", "2025-05-01", birthday=birthday)
            assert [one for kind, one, _ in days if kind == "birthday"] == [
                f"{year}-{day}" for year in (2023, 2024, 2025)
            ]


def test_2100_will_be_a_common_year() -> None:
    days = celebrated(rulebook(), "2100-02-20", "2100-03-10", birthday=229)
    assert days == [("birthday", "2100-02-28", 2100)]


def test_who_joined_on_29_february_has_an_anniversary_every_year() -> None:
    days = celebrated(rulebook(), "2024-02-29", "2028-05-01", joined="2024-02-29")
    assert [day for _, day, _ in days] == [
        "2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29",
    ]  # fmt: skip


DATES = st.dates(date(2023, 1, 1), date(2029, 12, 31))


@settings(max_examples=100)
@given(
    DATES,
    st.dates(date(1992, 1, 1), date(1992, 12, 31)),
    st.sampled_from(["feb_28", "mar_1"]),
    st.integers(-1, 1),
)
def test_the_sweep_reads_everybody_who_has_something_to_celebrate(
    today: date, born: date, setting: str, ahead: int
) -> None:
    """Wherever on earth the program is: its date is at most a day from the sweep's."""
    month_day = born.month * 100 + born.day
    account = Account(
        program_id="test", member_id="ann", birthday=month_day, joined_on=number("2020-06-15")
    )
    for one in due(rulebook(leap_day=setting), account, number(today)):
        looked_at = month_day if one.kind == "birthday" else 615
        assert looked_at in feasts(today + timedelta(days=ahead))


@settings(max_examples=20)
@given(st.dates(date(1992, 1, 1), date(1992, 12, 31)), st.integers(1, CAUGHT_UP_DAYS + 1), DATES)
def test_runs_at_most_8_days_apart_find_every_birthday_once(
    born: date, stride: int, begin: date
) -> None:
    account = Account(
        program_id="test",
        member_id="ann",
        birthday=born.month * 100 + born.day,
        joined_on=number("2020-06-15"),
    )
    book = rulebook()
    first = number(begin)
    sweeps = range(first, first + 3 * 366, stride)
    found = [c for day in sweeps for c in due(book, account, day) if c.kind == "birthday"]
    days = {c.on for c in found}
    assert len(days) == len({c.year for c in found})
    every = {
        day
        for day in range(first, sweeps[-1] + 1)
        if any(c.on == day for c in due(book, account, day) if c.kind == "birthday")
    }
    assert every <= days


# Decided without a table

NOW = instant("2026-01-10T15:00", "Europe/Paris")
BIRTHDAY_ON = Celebration("birthday", number("2026-01-08"), 2026)


def paid(
    day: Celebration = BIRTHDAY_ON, at: int = NOW, member: dict[str, Any] | None = None, **more: Any
) -> Decision | None:
    """What ann is paid for a day, as an account that says so much of her."""
    book = rulebook(**more)
    ann = Account(program_id="test", member_id="ann", seq=3, **member or {})
    return celebrate(book, Known({"ann": ann}), "ann", day, at)


def test_a_birthday_is_dated_by_noon_of_its_day_and_counts_as_activity() -> None:
    decision = paid()
    assert decision is not None
    [entry] = decision.entries
    assert (entry.kind, entry.partition, entry.sort) == ("birthday", "b#ann", "2026")
    assert entry.occurred_at == instant("2026-01-08T12:00", "Europe/Paris")
    assert entry.recorded_at == NOW
    assert (entry.points, entry.lifetime, entry.active_on) == (100, 100, BIRTHDAY_ON.on)
    once = Count("year", 2026, ONCE["birthday"], 1)
    assert once in entry.counts


def test_no_celebration_is_dated_after_the_moment_it_is_written_down() -> None:
    early = instant("2026-01-08T00:10", "Europe/Paris")
    decision = paid(at=early)
    assert decision is not None
    assert decision.entries[0].occurred_at == early


def test_a_day_that_was_paid_under_another_id_is_not_paid_again() -> None:
    names = {kind: ONCE[kind] for kind in ("birthday", "anniversary")}
    for kind, is_paid in (("birthday", False), ("anniversary", True)):
        counters = {"year": Counts(2026, {names[kind]: 1})}
        assert (paid(member={"counters": counters}) is not None) is is_paid


def test_who_left_celebrates_nothing_and_who_is_blocked_does() -> None:
    with refused("member_closed"):
        paid(member={"status": "closed"})
    assert paid(member={"status": "blocked"}) is not None


def test_what_is_paid_draws_on_the_programs_budget() -> None:
    book = rulebook(budget={"points": 300})
    ann = Account(program_id="test", member_id="ann", seq=3)
    decision = celebrate(
        book, Known({"ann": ann}, budgets={"program": 70}), "ann", BIRTHDAY_ON, NOW
    )
    assert decision is not None
    assert (decision.entries[0].points, decision.draws) == (70, {"program": 70})
    nothing = Known({"ann": ann}, budgets={"program": 0})
    assert celebrate(book, nothing, "ann", BIRTHDAY_ON, NOW) is None


@pytest.mark.parametrize(
    ("member", "today", "found"),
    [
        ({"birthday": 108}, "2026-01-07", []),
        ({"birthday": 108}, "2026-01-08", [("birthday", "2026-01-08", 2026)]),
        ({"birthday": 108}, "2026-01-15", [("birthday", "2026-01-08", 2026)]),
        ({"birthday": 108}, "2026-01-16", []),
        ({"birthday": 1230}, "2026-01-02", [("birthday", "2025-12-30", 2025)]),
        ({"birthday": 0}, "2026-01-08", []),
        ({"birthday": 108, "status": "blocked"}, "2026-01-08", [("birthday", "2026-01-08", 2026)]),
        ({"birthday": 108, "status": "closed"}, "2026-01-08", []),
        ({"birthday": 108, "joined_on": None}, "2026-01-08", []),
        # Not before enrolment: a birthday on the day itself, an anniversary a year later.
        (
            {"birthday": 108, "joined_on": number("2026-01-08")},
            "2026-01-09",
            [("birthday", "2026-01-08", 2026)],
        ),
        ({"birthday": 108, "joined_on": number("2026-01-09")}, "2026-01-09", []),
        (
            {"joined_on": number("2025-01-08")},
            "2026-01-09",
            [("anniversary", "2026-01-08", 2026)],
        ),
    ],
)
def test_what_a_member_celebrates_in_its_last_days(
    member: dict[str, Any], today: str, found: list[tuple[str, str, int]]
) -> None:
    known = {"joined_on": number("2019-06-15")} | member
    ann = Account(program_id="test", member_id="ann", **known)
    days = due(rulebook(), ann, number(today))
    assert [(one.kind, one.on, one.year) for one in days] == [
        (kind, number(on), year) for kind, on, year in found
    ]


@pytest.mark.parametrize(
    ("today", "days"),
    [
        ("2026-01-05", [101, 102, 103, 104, 105, 106, 1228, 1229, 1230, 1231]),
        ("2026-03-09", [229, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310]),
        ("2026-02-27", [219, 220, 221, 222, 223, 224, 225, 226, 227, 228, 229]),
        ("2026-03-10", [302, 303, 304, 305, 306, 307, 308, 309, 310, 311]),
    ],
)
def test_the_sweep_looks_a_week_back_and_a_day_around_the_world(
    today: str, days: list[int]
) -> None:
    assert feasts(date.fromisoformat(today)) == days


@pytest.mark.parametrize(
    ("year", "on"), [(2000, "2000-02-29"), (2100, "2100-02-28"), (2400, "2400-02-29")]
)
def test_every_fourth_century_is_a_leap_year(year: int, on: str) -> None:
    days = celebrated(
        rulebook(), f"{year}-02-20", f"{year}-03-05", birthday=229, joined="1999-06-15"
    )
    assert days == [("birthday", on, year)]
