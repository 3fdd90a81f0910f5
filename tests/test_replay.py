"""Real purchases, posted to a running service, come to what their file alone says.

`make replay` posts all of them; here it is every tenth customer, through the same code.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import cdnow
from tools import replay
from tools.template import ROOT

if TYPE_CHECKING:
    from conftest import Service

SAME = ["members", "points issued", "points expired", "points outstanding", "ledger entries"]
README_HEADER = "| members | points issued | points expired | points outstanding |"


def customers(first: int, every: int, path: Path) -> list[replay.Purchase]:
    """The purchases of some customers, every n-th by first purchase, as the file at `path`."""
    header, *rows = cdnow.CSV.read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = set(list(dict.fromkeys(row.split(",")[1] for row in rows))[first::every])
    path.write_text(header + "".join(row for row in rows if row.split(",")[1] in chosen))
    return replay.purchases(path)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every tenth customer."""
    path = tmp_path_factory.mktemp("cdnow") / "some.csv"
    customers(0, 10, path)
    return path


@pytest.fixture(scope="module")
def report(service: Service, some: Path) -> replay.Report:
    """The first replay of that file."""
    with replay.Service(service.url, replay.WORKERS) as running:
        return replay.replay(running, replay.purchases(some))


def clock(service: Service) -> dict[str, Any]:
    shown: dict[str, Any] = service.http.get("/dev/clock").json()
    return shown


def test_the_members_have_what_the_file_alone_says(report: replay.Report, some: Path) -> None:
    totals, expected = report.totals, cdnow.expected(some)
    assert totals.members == expected.members == 236
    assert totals.issued == expected.issued
    assert totals.expired == expected.expired
    assert totals.outstanding == expected.outstanding
    assert totals.expiring == expected.expiring
    assert totals.other == {}


def test_no_point_is_lost_or_made_for_any_member(report: replay.Report) -> None:
    totals = report.totals
    assert totals.difference == totals.issued - totals.expired - totals.outstanding == 0
    assert totals.unbalanced == ()
    assert totals.later == 0


def test_every_purchase_and_enrolment_is_posted_once(report: replay.Report, some: Path) -> None:
    expected = cdnow.expected(some)
    assert report.new == len(report.answers) == expected.members + expected.purchases
    assert report.replays == 0


def test_an_award_costs_five_write_units_and_half_a_read_unit(report: replay.Report) -> None:
    awards = [answer for answer in report.answers if answer.path == "/awards"]
    assert max(award.write_units for award in awards) <= 5
    # Now and then one of them reads for all whether there is a new version of the program.
    assert sum(award.read_units <= 0.5 for award in awards) > 0.9 * len(awards)


def test_a_second_run_changes_nothing_and_says_so(
    report: replay.Report, service: Service, some: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main(["--url", service.url, "--csv", str(some)]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    before = dict(replay.lines(report))
    for name in SAME:
        assert f"{name} {before[name]}".split() in said
    assert said[-1] == f"nothing new: {len(report.answers):,} replays".split()


def test_a_replay_that_is_broken_off_leaves_real_time_and_goes_on_later(
    service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "few.csv"
    few = customers(5, 200, path)

    def broken_off(what: str, _: int) -> None:
        if what > "1997-02-15":
            raise KeyboardInterrupt

    with replay.Service(service.url, replay.WORKERS) as running:
        with pytest.raises(KeyboardInterrupt):
            replay.replay(running, few, step=broken_off)
        assert clock(service)["real"]
        report = replay.replay(running, few)
    expected = cdnow.expected(path)
    assert 0 < report.replays < len(report.answers)
    assert report.totals.issued == expected.issued
    assert report.totals.outstanding == expected.outstanding
    assert report.totals.expiring == expected.expiring


def test_the_clock_is_back_at_real_time(report: replay.Report, service: Service) -> None:  # noqa: ARG001  # after it
    assert clock(service)["real"]


def test_totals_are_those_of_june_1998_whatever_happened_later(
    service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "few.csv"
    few = customers(6, 400, path)
    with replay.Service(service.url, replay.WORKERS) as running:
        first = replay.replay(running, few)
        service.sweep()
        second = replay.replay(running, few)
    assert second.new == 0
    assert second.totals.outstanding == first.totals.outstanding == cdnow.expected(path).outstanding
    assert second.totals.moved == first.totals.moved
    assert second.totals.unbalanced == ()
    assert second.totals.later > 0


def test_the_sweep_goes_by_the_test_clock(service: Service) -> None:
    program = {
        "program_id": "sweep-clock",
        "name": "Sweep",
        "currency": "USD",
        "time_zone": "America/New_York",
        "expiry": [{"after": "P1M"}],
        "rules": [{"rule_id": "welcome", "trigger": "registration", "earn": {"points": 50}}],
    }
    base = "/v1/programs/sweep-clock"
    headers = service.headers("admin")
    service.http.put(f"{base}/program", json=program, headers=headers).raise_for_status()
    try:
        service.set_clock("1997-01-15T12:00:00Z")
        body = {"member_id": "m"}
        service.http.post(f"{base}/members", json=body, headers=headers).raise_for_status()
        service.set_clock("1997-02-16T12:00:00Z")
        service.sweep()
        history = service.http.get(f"{base}/members/m/entries", headers=headers).json()["items"]
    finally:
        service.set_clock(None)
    assert [(row["kind"], row["recorded_at"]) for row in history] == [
        ("expire", "1997-02-16T12:00:00Z"),
        ("award", "1997-01-15T12:00:00Z"),
    ]


def canned(answers: list[httpx.Response]) -> replay.Service:
    """A service that gives these answers, one after the other."""
    waiting = iter(answers)
    service = replay.Service("http://canned", 1)
    service.http = httpx.Client(
        base_url=service.url, transport=httpx.MockTransport(lambda _: next(waiting))
    )
    return service


LATER = {"retry-after": "0"}
UNITS = {"loyalty-read-units": "0.5", "loyalty-write-units": "5"}


def test_a_command_that_is_told_to_come_later_comes_again() -> None:
    done = httpx.Response(201, headers=UNITS)
    service = canned([httpx.Response(503, headers=LATER), httpx.Response(429, headers=LATER), done])
    with service.http:
        answered = service.command("/awards", {})
    assert answered.sent == 3
    assert not answered.replayed


def test_a_command_that_is_always_told_to_come_later_fails_in_the_end() -> None:
    service = canned([httpx.Response(503, headers=LATER) for _ in range(replay.ATTEMPTS)])
    with service.http, pytest.raises(replay.Failure, match="503"):
        service.command("/awards", {})


def test_another_program_of_that_name_is_left_alone() -> None:
    service = canned([httpx.Response(428)])
    with service.http, pytest.raises(replay.Failure, match="Another program"):
        service.publish()


def test_without_a_service_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else can answer there.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert replay.main(["--url", url]) == 1
    assert capsys.readouterr().err == f"No service answers at {url}: say `make run` first.\n"


def test_a_file_that_holds_no_purchases_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("a,b\n1,2\n")
    assert replay.main(["--csv", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_the_file_is_whole() -> None:
    found = replay.purchases()
    assert len(found) == len({purchase.event_id for purchase in found}) == 6919
    assert len({purchase.member_id for purchase in found}) == 2357
    assert (found[0].on.isoformat(), found[-1].on.isoformat()) == ("1997-01-01", "1998-06-30")


def test_a_purchase_says_when_it_happened_at_noon_in_new_york() -> None:
    event = replay.purchases()[0].event
    happened = datetime.fromisoformat(event["occurred_at"])
    assert happened.astimezone(UTC) == datetime(1997, 1, 1, 17, tzinfo=UTC)


def test_the_totals_in_the_readme_are_those_of_the_file() -> None:
    expected = cdnow.expected()
    row = (
        f"| {expected.members:,} | {expected.issued:,} "
        f"| {expected.expired:,} | {expected.outstanding:,} |"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert README_HEADER in readme
    assert readme[readme.index(README_HEADER) + 2] == row
