"""A person is handed everything that is held of them, and is forgotten: a thousand personal values,
planted through every door, are nowhere afterwards, the ledger still proves, and nothing that comes
late brings anybody back."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config

from loyalty import edge, projections
from loyalty.decisions import stock_id
from tests import workers
from tests.faults import Fault
from tests.programs import shop
from tests.workers import (
    Call,
    Clients,
    by_member,
    done,
    send,
)
from tools.engine import LOCAL_CREDENTIALS, Engine, create_tables

CLIENTS = 64
PEOPLE = 100
STEM = "Zephyrine"
"""In every text that is planted."""
DIGITS = "9955501990"
"""In every telephone number that is planted."""
PER_EURO = {
    "rule_id": "purchase",
    "trigger": "purchase",
    "earn": {"points": 1, "per_amount": 100},
}
WHOLE = {"rule_id": "whole", "trigger": "profile_completed", "earn": {"points": 3}}
VISIT = {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}}


class Office(workers.House):
    """The shop's handlers on fresh tables, on days counted from noon."""

    def open(self, **sections: Any) -> None:
        rules = [PER_EURO, WHOLE, VISIT]
        document = shop(**{"rules": rules, "limits": [], "rewards": [], **sections})
        done(workers.publish(document))

    def stream(self) -> list[Any]:
        """Every record of the ledger's stream."""
        client: Any = boto3.client(
            "dynamodbstreams",
            endpoint_url=self.endpoint,
            region_name=LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"],
            # The engine's sequence numbers are shorter than the cloud's.
            config=Config(parameter_validation=False),
        )
        found: list[Any] = []
        for stream in client.list_streams(TableName=self.tables.ledger)["Streams"]:
            about = client.describe_stream(StreamArn=stream["StreamArn"])["StreamDescription"]
            for shard in about["Shards"]:
                following = client.get_shard_iterator(
                    StreamArn=stream["StreamArn"],
                    ShardId=shard["ShardId"],
                    ShardIteratorType="TRIM_HORIZON",
                )["ShardIterator"]
                while following:
                    page = client.get_records(ShardIterator=following)
                    found += page["Records"]
                    following = page.get("NextShardIterator") if page["Records"] else None
        return found


@pytest.fixture
def office(engine: Engine) -> Iterator[Office]:
    """An office that stands at noon, whose ledger has its stream."""
    office = Office(engine, create_tables(engine.endpoint, f"o-{uuid.uuid4().hex}", stream=True))
    with office.on(0):
        yield office


def refused(call: Call) -> tuple[int, str]:
    answer = send(call)
    return answer.status, answer.body["code"]


def transfer(sender: str, receiver: str, key: str) -> Call:
    body = {"from_member_id": sender, "to_member_id": receiver, "points": 1}
    headers = {"idempotency-key": key}
    return Call("transfer", f"POST {workers.BASE}/transfers", body=body, headers=headers)


# What is looked for


def text_of(value: Any) -> str:
    """All that a value holds, as one text; bytes as the characters of the same numbers."""
    return json.dumps(value, default=_plain, ensure_ascii=False, sort_keys=True)


def _plain(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def disguises(marker: str) -> set[str]:
    """The marker in every dress in which it might stand somewhere."""
    found = set()
    for form in (marker, marker.lower(), marker.upper(), marker.swapcase()):
        raw = form.encode()
        found |= {form, form[::-1], quote(form), raw.hex(), raw.hex().upper()}
        found.add(form.encode("utf-16-le").decode("latin-1"))
        for before in range(3):
            # Whatever stands around it: the characters that depend on the marker alone.
            encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
            core = encoded[(before * 8 + 5) // 6 : -1]
            found |= {core, core.replace("+", "-").replace("/", "_"), core[::-1]}
    return found


STEMS = disguises(STEM) | disguises(DIGITS)


def traces(text: str, markers: list[str]) -> set[str]:
    """What of the planted is still there."""
    lower = text.lower()
    return {stem for stem in STEMS if stem in text} | {m for m in markers if m.lower() in lower}


def test_a_marker_is_found_in_every_dress() -> None:
    marker = f"{STEM} 017"
    for before in ("", "a", "ab"):
        told = base64.b64encode(f"{before}{marker} and more".encode()).decode()
        assert traces(told, [])
    for dress in (marker.upper(), marker[::-1], marker.encode().hex(), f'{{"n": "{marker}"}}'):
        assert traces(text_of({"name": dress}), [])
    assert traces(text_of({"raw": marker.encode()}), [])
    assert not traces(text_of({"name": "Zephyr"}), [marker])


# A thousand markers


def birthday(i: int) -> str:
    return (date(1901, 1, 1) + timedelta(days=i)).isoformat()


class Planted(NamedTuple):
    """What was planted with one member: in the profile, in notes, and what was not to be kept."""

    profile: list[str]
    notes: list[str]
    passing: list[str]

    @property
    def all(self) -> list[str]:
        return self.profile + self.notes + self.passing


def plant(i: int) -> Planted:
    """Enrol a member, and put a marker wherever something personal is taken."""
    member_id = f"m{i:03}"

    def profile(which: str) -> dict[str, str]:
        return {
            "email": f"{which}.{STEM}.{i:03}+shop@example.com",
            "phone": f"+{DIGITS}{len(which)}{i:03}",
            "name": f"{which} {STEM} {i:03}",
        }

    first, second = profile("First"), profile("Second")
    notes = [f"Is a cousin of {STEM} {i:03}", f"Broke a cup of {STEM} {i:03}"]
    strangers = [f"Strange {STEM} {i:03}", f"Unknown {STEM} {i:03}"]
    more: Any = {"birthday": birthday(i), "groups": ["vip"], "timezone": "Europe/Paris"}
    done(workers.enrol(member_id, **first, **more))
    done(workers.change(member_id, **second))
    assert send(workers.adjust(member_id, 7, f"small-{i}", note=notes[0])).status == 201
    assert send(workers.adjust(member_id, 500, f"large-{i}", note=notes[1])).status == 202
    # What no rule asks for is not kept.
    attributes = {"customer_name": first["name"], "customer_email": first["email"]}
    done(workers.award(f"review-{i}", member_id, attributes=attributes))
    # Refused, and nowhere either.
    assert send(workers.enrol(f"x{i}", surname=strangers[0])).status == 422
    assert send(workers.enrol(member_id, name=strangers[1])).status == 409
    return Planted(list(second.values()), notes, [*first.values(), *strangers])


def settle(i: int, how: str) -> None:
    """Another person approves or refuses the large adjustment."""
    [note] = [n for n in done(workers.export(f"m{i:03}"))["notes"] if n["note"].startswith("Broke")]
    again = send(workers.adjust(f"m{i:03}", 500, f"large-{i}", note=note["note"]))
    done(workers.settle(how, again.body["adjustment_id"], by="another"))


def test_a_thousand_personal_values_are_nowhere_after_their_members_were_erased(
    office: Office, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    office.open(adjustments={"second_person_above": 100})
    code = done(workers.enrol("other", name="Other"))["referral_code"]
    planted = [plant(i) for i in range(PEOPLE)]
    markers = [marker for each in planted for marker in each.all]
    assert len(set(markers)) == 1000
    for i in range(0, PEOPLE, 10):
        done(workers.merge(f"m{i:03}", f"m{i + 1:03}", f"merge-{i}"))
    done(workers.enrol("friend", referral_code=code, name=f"{STEM} friend"))
    settle(3, "approve")
    settle(2, "refuse")

    before = office.books()
    held = text_of(before.records)
    for i, each in enumerate(planted):
        # They are in one table, and there no longer than they have to be.
        assert all((marker in held) is bool(i % 10) for marker in each.profile)
        assert [marker in held for marker in each.notes] == [True, i != 2]
        assert not any(marker in held for marker in each.passing)
    dates = [birthday(i) for i in range(PEOPLE)]
    assert not traces(text_of([before.accounts, before.ledger]), markers + dates)

    for i in range(PEOPLE):
        answer = done(workers.erase(f"m{i:03}"))
        assert answer == {"member_id": f"m{i:03}", "status": "erased"}
    done(workers.erase("friend"))

    after = office.books()
    route = f"GET {workers.BASE}/adjustments"
    everything = {
        "accounts": after.accounts,
        "ledger": after.ledger,
        "records": after.records,
        "stream": office.stream(),
        "metrics": capsys.readouterr().out,
        "logs": [vars(record) | {"text": record.getMessage()} for record in caplog.records],
        "export of another": done(workers.export("other")),
        "proposals": done(Call("staff", route, query={"limit": "100"})),
    }
    assert len(everything["stream"]) >= len(after.ledger)
    for where, value in everything.items():
        assert traces(text_of(value), markers + dates) == set(), where
    assert not any("y" in account or "g" in account for account in after.accounts)
    kept = {item["pk"]["S"] for item in after.records}
    assert {pk for pk in kept if "#member#" in pk} == {"shop#member#other"}
    assert sum("#referral#" in pk for pk in kept) == 1
    # The ledger holds what it held, and goes on from there.
    assert set(map(text_of, before.ledger)) <= set(map(text_of, after.ledger))
    members = office.accounts()
    assert all(m.balance == m.pending_points == 0 for n, m in members.items() if n != "other")


# After it


def forget(office: Office, **sections: Any) -> None:
    """A program in which ben was merged into ana, who is erased; cleo is alive."""
    office.open(transfers={"enabled": True}, **sections)
    for member_id in ("ana", "ben", "cleo"):
        done(workers.enrol(member_id, name=STEM, email=f"{STEM}@example.com"))
        done(workers.purchase(f"order-{member_id}", member_id, 5000))
    done(workers.merge("ben", "ana", "one"))
    done(workers.erase("ana"))


LATE = {
    "award": lambda who: workers.award("late", who),
    "purchase": lambda who: workers.purchase("late", who, 1000),
    "refund": lambda who: workers.reverse(f"order-{who}", "return"),
    "check-in": lambda who: workers.check_in(who, "late"),
    "redemption": lambda who: workers.redeem(who, "late", points=1),
    "hold": lambda who: workers.redeem(who, "late", points=1, hold=True),
    "transfer to": lambda who: transfer("cleo", who, "late"),
    "transfer from": lambda who: transfer(who, "cleo", "late"),
    "adjustment": lambda who: workers.adjust(who, 5, "late", note=STEM),
    "merge": lambda who: workers.merge(who, "cleo", "late"),
    "merge into": lambda who: workers.merge("cleo", who, "late"),
    "block": lambda who: workers.become("block", who),
    "unblock": lambda who: workers.become("unblock", who),
    "close": lambda who: workers.become("close", who),
    "change": lambda who: workers.change(who, name=STEM, groups=["vip"], birthday="1990-01-01"),
    "change of groups": lambda who: workers.change(who, groups=["vip"]),
    "same enrolment": lambda who: workers.enrol(who, name=STEM, email=f"{STEM}@example.com"),
    "other enrolment": lambda who: workers.enrol(who, name=f"{STEM} again"),
    "enrolment by a key": lambda who: workers.enrol(who, key="late", name=STEM),
    "profile": workers.profile,
    "balance": workers.balance,
    "history": workers.entries,
    "rewards": workers.rewards,
    "export": workers.export,
}


@pytest.fixture(scope="module")
def forgotten(engine: Engine, new_tables: Any) -> Office:
    """Where ben was merged into ana, who is erased."""
    office = Office(engine, new_tables())
    with office.on(0):
        forget(office)
    return office


@pytest.mark.parametrize("who", ["ana", "ben"])
@pytest.mark.parametrize("what", LATE)
def test_nothing_that_comes_late_brings_anybody_back(
    forgotten: Office, what: str, who: str
) -> None:
    with forgotten.on(0.5):
        before = forgotten.books()
        assert refused(LATE[what](who)) == (409, "member_erased")
        assert forgotten.books() == before


def test_what_was_awarded_before_is_still_a_replay(forgotten: Office) -> None:
    with forgotten.on(0.5):
        answer = send(workers.purchase("order-ana", "ana", 5000))
        assert (answer.status, answer.replayed) == (201, True)


# Fingerprints, which stay


def guessed(operation: str, member_id: str, body: Any) -> bytes:
    """The fingerprint that this body would have, were everything in it as it is."""
    return hashlib.sha256(edge.canonical([operation, member_id, body]).encode()).digest()[:16]


def fingerprints(office: Office) -> set[bytes]:
    return {bytes(item["f"]["B"]) for item in office.books().ledger}


PERSON = {"email": "ana@example.com", "phone": "+33 123", "name": "Ana", "birthday": "1990-02-28"}


def test_no_fingerprint_confirms_a_guess_at_what_was_personal(office: Office) -> None:
    office.open(adjustments={"second_person_above": 100})
    commands = {
        "enrol": workers.enrol("ana", **PERSON),
        "change": workers.change("ana", name="Ada", birthday="1990-02-27"),
        "adjust": workers.adjust("ana", 5, "small", note="Ana slipped."),
    }
    for call in commands.values():
        done(call)
    assert send(workers.adjust("ana", 500, "large", note="Ana slipped.")).status == 202
    stored = fingerprints(office)
    assert not stored & {guessed(name, "ana", call.body) for name, call in commands.items()}
    done(workers.enrol("ben", **PERSON))
    [salt, another] = [item["salt"]["B"] for item in office.books().records if "salt" in item]
    assert salt != another
    done(workers.erase("ana"))
    done(workers.erase("ben"))
    assert not [item for item in office.books().records if "salt" in item]
    assert stored <= fingerprints(office)


def test_an_enrolment_without_anything_personal_keeps_the_fingerprint_it_had(
    office: Office,
) -> None:
    office.open()
    done(workers.enrol("ana", groups=["vip"]))
    body = {"member_id": "ana", "groups": ["vip"]}
    assert guessed("enrol", "ana", body) in fingerprints(office)
    assert send(workers.enrol("ana", groups=["vip"])).replayed
    assert refused(workers.enrol("ana", groups=["vip"], name="Ana")) == (409, "member_exists")


@pytest.mark.parametrize("key", [None, "till-1"])
@pytest.mark.parametrize("since", ["nothing", "a new number", "a merge", "two merges"])
def test_a_repeated_enrolment_is_known_as_long_as_the_person_is(
    office: Office, key: str | None, since: str
) -> None:
    office.open()
    first = done(workers.enrol("ana", key=key, **PERSON))
    done(workers.enrol("ben", name="Ben"))
    done(workers.enrol("cleo", name="Cleo"))
    if since == "a new number":
        done(workers.change("ana", phone="+33 456", name=None))
    if "merge" in since:
        done(workers.merge("ana", "ben", "one"))
    if since == "two merges":
        done(workers.merge("ben", "cleo", "two"))
    again = send(workers.enrol("ana", key=key, **PERSON))
    assert (again.status, again.body, again.replayed) == (201, first, True)
    for other in (PERSON | {"name": "Anna"}, {"name": "Ana"}, {}):
        expected = (409, "member_exists") if key is None else (422, "idempotency_key_reused")
        assert refused(workers.enrol("ana", key=key, **other)) == expected
    if key is not None:
        assert refused(workers.enrol("dora", key=key, **PERSON)) == (422, "idempotency_key_reused")
    last = "ana" if "merge" not in since else "ben" if since == "a merge" else "cleo"
    done(workers.erase(last))
    assert refused(workers.enrol("ana", key=key, **PERSON)) == (409, "member_erased")


@pytest.mark.parametrize("key", [None, "till-1"])
def test_an_enrolment_from_before_there_were_salts_is_known_by_its_fingerprint(
    office: Office, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    office.open()
    with monkeypatch.context() as before:
        before.setattr(importlib.import_module("members"), "token_bytes", lambda _: None)
        first = done(workers.enrol("ana", key=key, **PERSON))
    assert guessed("enrol", "ana", {"member_id": "ana", **PERSON}) in fingerprints(office)
    again = send(workers.enrol("ana", key=key, **PERSON))
    assert (again.status, again.body, again.replayed) == (201, first, True)
    assert refused(workers.enrol("ana", key=key, name="Anna"))[0] == (409 if key is None else 422)


def test_of_64_equal_enrolments_at_once_one_enrols_and_all_are_answered_alike(
    office: Office,
) -> None:
    office.open()
    calls = [workers.enrol("ana", key=("till", None)[i % 2], **PERSON) for i in range(CLIENTS)]
    with Clients() as clients:
        played = clients.play(office.endpoint, office.tables, [[call] for call in calls])
    assert {answer.status for answer in played.flat} == {201}
    assert len({json.dumps(answer.body, sort_keys=True) for answer in played.flat}) == 1
    assert sum(not answer.replayed for answer in played.flat) == 1


@pytest.mark.parametrize("points", [5, 500], ids=["carried out", "proposed"])
def test_a_repeated_note_is_compared_as_long_as_it_is_kept(office: Office, points: int) -> None:
    office.open(adjustments={"second_person_above": 100})
    done(workers.enrol("ana"))
    done(workers.enrol("ben"))
    call = workers.adjust("ana", points, "one", note="Ana slipped.")
    first = send(call)
    assert first.status in (201, 202)
    done(workers.merge("ana", "ben", "merge"))
    again = send(call)
    assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
    reused = (422, "idempotency_key_reused")
    assert refused(workers.adjust("ana", points, "one", note="Ben slipped.")) == reused
    assert refused(workers.adjust("ana", points, "one")) == reused
    done(workers.erase("ben"))
    assert send(call).replayed


@pytest.mark.parametrize("points", [5, 500], ids=["carried out", "proposed"])
def test_an_adjustment_from_when_fingerprints_had_notes_in_them_is_still_known(
    office: Office, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    office.open(adjustments={"second_person_above": 100})
    done(workers.enrol("ana"))
    call = workers.adjust("ana", points, "one", note="Ana slipped.")
    staff = importlib.import_module("staff")
    with monkeypatch.context() as before:
        before.setattr(staff, "_without_note", edge.Request.fingerprint)
        first = send(call)
    assert guessed("adjust", "ana", call.body) in fingerprints(office)
    again = send(call)
    assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
    assert refused(workers.adjust("ana", points, "one", note="Ben slipped."))[0] == 422


def test_no_sweep_finds_anything_to_do(office: Office) -> None:
    levels = [{"tier_id": "basic", "at": 0}, {"tier_id": "gold", "at": 10}]
    tiers = {"window": {"rolling": "P30D"}, "downgrade": {"steps": "full"}, "levels": levels}
    birthday = {"rule_id": "birthday", "trigger": "birthday", "earn": {"points": 9}}
    office.open(tiers=tiers, rules=[PER_EURO, birthday], expiry=[{"after": "P1M"}])
    done(workers.enrol("ana", birthday="1990-04-20"))
    done(workers.purchase("order", "ana", 5000))
    done(workers.erase("ana"))
    [account] = office.books().accounts
    assert "u" not in account
    before = office.books().without_jobs
    for days in (1, 33, 365):
        with office.on(days):
            office.sweep()
    assert office.books().without_jobs == before


def test_a_repeat_gets_the_same_answer_and_writes_nothing(office: Office) -> None:
    forget(office)
    before = office.books()
    for who in ("ana", "ben", "ana"):
        assert done(workers.erase(who)) == {"member_id": who, "status": "erased"}
    assert office.books() == before
    assert refused(workers.erase("nobody")) == (404, "member_not_found")


def test_an_alias_stands_for_the_person_who_is_erased(office: Office) -> None:
    office.open()
    for member_id in ("ana", "ben"):
        done(workers.enrol(member_id, name=STEM))
        assert send(workers.adjust(member_id, 5, member_id, note=STEM)).status == 201
    done(workers.merge("ben", "ana", "one"))
    assert len(done(workers.export("ben"))["notes"]) == 2
    done(by_member(workers.erase("ben"), "ben"))
    assert refused(workers.balance("ana")) == (409, "member_erased")
    assert not traces(text_of(office.books().records), [])
    assert {r["pk"]["S"] for r in office.books().records} == {"shop#program"}


def test_a_chain_of_aliases_is_forgotten_to_its_end(office: Office) -> None:
    office.open()
    names = ["ana", "ben", "cleo", "dan"]
    for member_id in names:
        done(workers.enrol(member_id, name=STEM))
        assert send(workers.adjust(member_id, 5, member_id, note=STEM)).status == 201
    done(workers.merge("dan", "cleo", "one"))
    done(workers.merge("cleo", "ben", "two"))
    done(workers.merge("ben", "ana", "three"))
    assert len(done(workers.export("dan"))["notes"]) == 4
    done(workers.erase("ana"))
    assert {r["pk"]["S"] for r in office.books().records} == {"shop#program"}
    assert {refused(workers.balance(name)) for name in names} == {(409, "member_erased")}


def test_everything_is_written_off(office: Office) -> None:
    reward = {"reward_id": "mug", "kind": "product", "name": "Mug", "cost": 10, "stock": 3}
    office.open(rewards=[reward], pending={"purchase": "P14D"}, refunds={"shortfall": "debt"})
    done(workers.enrol("ana"))
    assert send(workers.adjust("ana", 100, "gift")).status == 201
    done(workers.redeem("ana", "held", reward_id="mug", hold=True))
    done(workers.redeem("ana", "plain", points=5, hold=True))
    done(workers.purchase("order", "ana", 5000))
    assert workers.left(stock_id("mug")) == 2
    done(workers.erase("ana"))
    ana = office.accounts()["ana"]
    assert (ana.lots, ana.pending, ana.holds, ana.debt, ana.due_on) == ((), (), (), 0, None)
    assert (ana.status, ana.groups, ana.birthday, ana.tier) == ("erased", (), 0, "")
    # The piece that was held is there for others.
    assert workers.left(stock_id("mug")) == 3
    [entry] = edge.store().under("shop", "x#ana")[0]
    assert (entry.kind, entry.points) == ("erase", -150)


@pytest.mark.parametrize("status", ["block", "close"])
def test_who_is_blocked_or_closed_can_be_erased(office: Office, status: str) -> None:
    office.open()
    done(workers.enrol("ana", name=STEM))
    done(workers.become(status, "ana"))
    done(workers.erase("ana"))
    assert office.accounts()["ana"].status == "erased"


def test_a_debt_is_forgiven(office: Office) -> None:
    office.open(refunds={"shortfall": "debt"})
    done(workers.enrol("ana"))
    done(workers.purchase("order", "ana", 5000))
    done(workers.redeem("ana", "pay", points=50))
    done(workers.reverse("order", "return"))
    done(workers.erase("ana"))
    assert office.accounts()["ana"].debt == 0


@pytest.mark.parametrize(
    ("scope", "member_id", "expected"),
    [
        ("loyalty/admin", "", 200),
        ("loyalty/staff", "", 200),
        ("loyalty/member", "ana", 200),
        ("loyalty/member", "ben", 403),
        ("loyalty/merchant", "", 403),
    ],
)
@pytest.mark.parametrize("what", [workers.export, workers.erase])
def test_staff_and_the_member_alone_export_and_erase(
    office: Office, what: Any, scope: str, member_id: str, expected: int
) -> None:
    office.open()
    done(workers.enrol("ana"))
    claims = {"member_id": member_id} if member_id else {}
    assert send(replace(what("ana"), scope=scope, claims=claims)).status == expected


def test_the_code_of_who_was_erased_is_nobodys(office: Office) -> None:
    office.open()
    codes = [done(workers.enrol(name))["referral_code"] for name in ("ana", "ben")]
    done(workers.merge("ben", "ana", "one"))
    done(workers.erase("ana"))
    for code in codes:
        answer = refused(workers.enrol("cleo", referral_code=code))
        assert answer == (422, "referral_code_unknown")


# What is handed over


def test_an_export_holds_all_that_is_held(office: Office) -> None:
    office.open(adjustments={"second_person_above": 100})
    profile = {
        "email": "ana@example.com",
        "phone": "+33 123",
        "name": "Ana",
        "birthday": "1990-02-28",
        "timezone": "Europe/Paris",
    }
    done(workers.enrol("ana", groups=["vip"], **profile))
    done(workers.enrol("ben", name="Ben"))
    for member_id in ("ana", "ben"):
        done(workers.purchase(f"order-{member_id}", member_id, 1000))
    assert send(workers.adjust("ben", 5, "small", note="late parcel")).status == 201
    assert send(workers.adjust("ana", 500, "large", note="broken mug")).status == 202
    done(workers.merge("ben", "ana", "one"))
    exported = done(by_member(workers.export("ana"), "ana"))
    assert exported["profile"] | profile == exported["profile"]
    assert exported["profile"]["groups"] == ["vip"]
    assert exported["balance"] == done(workers.balance("ana"))
    assert exported["merged_member_ids"] == ["ben"]
    assert {note["note"] for note in exported["notes"]} == {"late parcel", "broken mug"}
    rows = exported["entries"]["items"]
    assert {row["entry_id"] for row in rows} == {
        "ana.1", "ana.2", "ana.3", "ana.4", "ben.1", "ben.2", "ben.3", "ben.4",
    }  # fmt: skip
    paged: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = done(workers.export("ben", limit="1", **cursor))["entries"]
        assert len(page["items"]) <= 1
        paged += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert paged == rows


def test_an_export_with_more_notes_than_an_answer_holds_comes_in_pages(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.open()
    done(workers.enrol("ana"))
    texts = {f"{i:02} {'☕' * 500}" for i in range(30)}
    for text in texts:
        assert send(workers.adjust("ana", 1, text[:2], note=text)).status == 201
    monkeypatch.setattr(edge, "PAGE_BYTES", 20_000)
    notes: list[str] = []
    rows: list[Any] = []
    query: dict[str, str] = {}
    pages = 0
    while query.get("cursor") is not None or not pages:
        answer = send(workers.export("ana", **query))
        assert answer.status == 200
        assert projections.answer_bytes(answer.body) < 25_000
        notes += [note["note"] for note in answer.body["notes"]]
        rows += answer.body["entries"]["items"]
        query = {"cursor": answer.body["entries"]["next_cursor"]}
        pages += 1
    assert pages > 3
    assert len(notes) == len(texts)
    assert set(notes) == texts
    assert [row["seq"] for row in rows] == list(range(31, 0, -1))
    for wrong in ("#notes:x", "#notes:-1", "#notes:" + "9" * 20):
        assert refused(workers.export("ana", cursor=edge.cursor(wrong))) == (400, "invalid_query")


# Faults and races


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "conflict", "server error"])
def test_a_lost_answer_erases_once(office: Office, fault: Fault) -> None:
    office.open()
    done(workers.enrol("ana", name=STEM))
    office.faults.follow({0: fault}, of="TransactWriteItems")
    assert done(workers.erase("ana"))["status"] == "erased"
    office.faults.heal()
    assert office.accounts()["ana"].seq == 2
    assert not traces(text_of(office.books().records), [])


def test_what_was_cut_off_is_finished_by_a_repeat(office: Office) -> None:
    """More notes than one transaction removes, and the connection goes after the first."""
    office.open()
    for member_id in ("ana", "ben"):
        done(workers.enrol(member_id, name=STEM))
        for i in range(60):
            note = workers.adjust(member_id, 1, f"{member_id}-{i}", note=f"{STEM} {i}")
            assert send(note).status == 201
    done(workers.merge("ben", "ana", "one"))
    office.faults.follow({1: "request lost"}, of="TransactWriteItems", from_then_on=True)
    assert send(workers.erase("ana")).status == 503
    office.faults.heal()
    assert traces(text_of(office.books().records), [])
    assert refused(workers.profile("ana")) == (409, "member_erased")
    assert done(workers.erase("ana"))["status"] == "erased"
    assert not traces(text_of(office.books().records), [])
    assert {r["pk"]["S"] for r in office.books().records} == {"shop#program"}
    office.accounts()


@pytest.mark.parametrize(
    "between",
    [
        workers.purchase("order", "ana", 1000),
        workers.change("ana", name=f"{STEM} again"),
        workers.change("ana", birthday="1990-01-01"),
        workers.adjust("ana", 5, "small", note=STEM),
        workers.become("block", "ana"),
    ],
    ids=["award", "name", "birthday", "note", "block"],
)
def test_what_comes_between_look_and_write_is_forgotten_too(office: Office, between: Call) -> None:
    office.open()
    done(workers.enrol("ana", name=STEM))
    office.faults.follow({0: workers.meanwhile(between)}, of="TransactWriteItems")
    assert done(workers.erase("ana"))["status"] == "erased"
    office.faults.heal()
    assert not traces(text_of(office.books().records), [])
    assert office.accounts()["ana"].balance == 0


def test_a_note_that_is_proposed_while_its_member_is_erased_is_nowhere(office: Office) -> None:
    office.open(adjustments={"second_person_above": 100})
    done(workers.enrol("ana", name=STEM))
    erasure = workers.meanwhile(workers.erase("ana"))
    office.faults.follow({0: erasure}, of="TransactWriteItems")
    answer = refused(workers.adjust("ana", 500, "large", note=STEM))
    office.faults.heal()
    assert answer == (409, "member_erased")
    assert not traces(text_of(office.books().records), [])


def test_a_profile_that_is_changed_while_its_member_is_erased_is_nowhere(office: Office) -> None:
    office.open()
    done(workers.enrol("ana", name=STEM))
    office.faults.follow({0: workers.meanwhile(workers.erase("ana"))}, of="PutItem")
    answer = refused(workers.change("ana", name=f"{STEM} again"))
    office.faults.heal()
    assert answer == (409, "member_erased")
    assert not traces(text_of(office.books().records), [])


def test_a_profile_that_is_changed_while_its_member_is_merged_stays_with_nobody(
    office: Office,
) -> None:
    office.open()
    for member_id in ("ana", "ben"):
        done(workers.enrol(member_id, name=member_id))
    office.faults.follow({0: workers.meanwhile(workers.merge("ben", "ana", "one"))}, of="PutItem")
    assert refused(workers.change("ben", name=STEM)) == (503, "unavailable")
    office.faults.heal()
    assert not traces(text_of(office.books().records), [])
    # The client tries again, as it is told, and reaches the one who stayed.
    assert done(workers.change("ben", name="Both"))["member_id"] == "ana"


@pytest.mark.parametrize("seed", range(3))
def test_of_8_clients_at_once_that_award_change_note_and_erase_nothing_personal_is_left(
    office: Office, seed: int
) -> None:
    office.open(adjustments={"second_person_above": 100})
    done(workers.enrol("ana", name=STEM, email=f"{STEM}@example.com"))
    changing = [workers.change("ana", name=f"{STEM} {i}", birthday="1990-01-01") for i in range(3)]
    busy: list[list[Call]] = [
        [workers.purchase(f"a-{i}", "ana", 1000) for i in range(4)],
        [workers.purchase(f"b-{i}", "ana", 1000) for i in range(4)],
        [workers.check_in("ana", "visit"), workers.redeem("ana", "pay", points=1)],
        changing,
        [workers.adjust("ana", 5, f"small-{i}", note=f"{STEM} {i}") for i in range(3)],
        [workers.adjust("ana", 500, f"large-{i}", note=f"{STEM} {i}") for i in range(3)],
        [workers.enrol("ana", name=STEM, email=f"{STEM}@example.com")],
        [workers.erase("ana")],
    ]
    scripts = busy + [[] for _ in range(CLIENTS - len(busy))]
    with Clients() as clients:
        played = clients.play(office.endpoint, office.tables, scripts, seed=seed)
    assert played.answers[7][0].status == 200
    for answer in played.flat:
        assert answer.status in (200, 201, 202) or answer.body["code"] in (
            "member_erased",
            "insufficient_points",
        )
    ana = office.accounts()["ana"]
    assert (ana.status, ana.balance, ana.birthday) == ("erased", 0, 0)
    assert not traces(text_of(list(office.books().records)), [])
