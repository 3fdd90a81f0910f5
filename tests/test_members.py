"""Members over HTTP: enrolment pays once, the profile is theirs, groups are the shop's."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import Service

from tests.programs import shop

type Send = Callable[..., httpx.Response]

NOOR = {
    "member_id": "noor",
    "email": "noor@example.com",
    "phone": "+33 1 23 45 67 89",
    "name": "Noor",
    "birthday": "1990-02-28",
    "groups": ["vip", "early", "vip"],
    "timezone": "Europe/Paris",
}
WELCOME = 50


@pytest.fixture
def send(service: Service) -> Send:
    """A function that sends a request of a merchant to a fresh program."""
    program_id = f"members-{uuid.uuid4().hex[:8]}"
    for_vips = {
        "rule_id": "vips",
        "trigger": "visit",
        "when": {"groups": ["vip"]},
        "earn": {"points": 7},
    }
    document = shop(program_id=program_id)
    document["rules"].append(for_vips)

    def send(
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        scope: str = "merchant",
        member_id: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        if key is not None:
            headers["idempotency_key"] = key
        return service.http.request(
            method,
            f"/v1/programs/{program_id}{path}",
            json=body,
            headers=service.headers(scope, member_id, **headers),
        )

    assert send("PUT", "/program", document, scope="admin").status_code == 200
    return send


def available(send: Send, member_id: str) -> int:
    return int(send("GET", f"/members/{member_id}/balance").json()["available"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_enrolment_answers_with_what_joining_gave(send: Send) -> None:
    answer = send("POST", "/members", NOOR)
    assert answer.status_code == 201
    enrolled = answer.json()
    assert enrolled["member_id"] == "noor"
    assert (enrolled["points"], enrolled["balance"]) == (WELCOME, WELCOME)
    assert [(row["rule_id"], row["fired"]) for row in enrolled["explanation"]] == [
        ("welcome", True)
    ]
    assert len(enrolled["referral_code"]) >= 6
    profile = send("GET", "/members/noor").json()
    assert profile.pop("enrolled_at").endswith("Z")
    assert profile == NOOR | {
        "groups": ["early", "vip"],
        "referral_code": enrolled["referral_code"],
    }


def test_a_member_may_be_nothing_but_an_id(send: Send) -> None:
    assert send("POST", "/members", {"member_id": "m"}).status_code == 201
    profile = send("GET", "/members/m").json()
    assert set(profile) == {"member_id", "referral_code", "groups", "enrolled_at"}


def test_the_same_enrolment_again_is_a_replay(send: Send) -> None:
    first = send("POST", "/members", NOOR)
    again = send("POST", "/members", NOOR)
    with_a_key = send("POST", "/members", NOOR, key="joining")
    for replay in (again, with_a_key):
        assert (replay.status_code, replay.content) == (201, first.content)
        assert replay.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert available(send, "noor") == WELCOME


def test_a_replay_shows_the_first_answer_even_after_the_profile_changed(send: Send) -> None:
    first = send("POST", "/members", NOOR)
    send("PATCH", "/members/noor", {"name": "Nour"})
    again = send("POST", "/members", NOOR)
    assert (again.status_code, again.content) == (201, first.content)
    assert send("GET", "/members/noor").json()["name"] == "Nour"


@pytest.mark.parametrize("key", [None, "another-key"])
def test_another_enrolment_under_the_same_id_is_refused(send: Send, key: str | None) -> None:
    send("POST", "/members", NOOR)
    answer = send("POST", "/members", NOOR | {"name": "Somebody else"}, key=key)
    assert code(answer) == (409, "member_exists")
    assert send("GET", "/members/noor").json()["name"] == "Noor"
    assert available(send, "noor") == WELCOME


def test_an_id_is_made_from_the_key_where_none_is_given(send: Send) -> None:
    first = send("POST", "/members", {"name": "Ines"}, key="joining-1")
    again = send("POST", "/members", {"name": "Ines"}, key="joining-1")
    other = send("POST", "/members", {"name": "Ines"}, key="joining-2")
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    member_id = first.json()["member_id"]
    assert other.json()["member_id"] != member_id
    assert send("GET", f"/members/{member_id}").json()["name"] == "Ines"
    assert available(send, member_id) == WELCOME


def test_a_key_that_enrolled_one_member_enrols_no_other(send: Send) -> None:
    send("POST", "/members", {"name": "Ines"}, key="joining-1")
    for body in ({"name": "Iris"}, {"member_id": "iris"}, {}):
        answer = send("POST", "/members", body, key="joining-1")
        assert code(answer) == (422, "idempotency_key_reused")
    assert send("GET", "/members/iris").status_code == 404


def test_ids_are_compared_by_their_exact_letters(send: Send) -> None:
    for member_id in ("noor", "Noor", "NOOR", "noor-", "_noor"):
        assert send("POST", "/members", {"member_id": member_id}).status_code == 201
    codes = {
        send("GET", f"/members/{each}").json()["referral_code"]
        for each in ("noor", "Noor", "NOOR", "noor-", "_noor")
    }
    assert len(codes) == 5, "every member has a code of its own"


def test_members_are_a_programs_own(send: Send, service: Service) -> None:
    send("POST", "/members", NOOR)
    other = f"/v1/programs/members-{uuid.uuid4().hex[:8]}"
    headers = service.headers("admin")
    document = shop(program_id=other.rpartition("/")[2])
    service.http.put(f"{other}/program", json=document, headers=headers).raise_for_status()
    assert service.http.get(f"{other}/members/noor", headers=headers).status_code == 404
    assert service.http.post(f"{other}/members", json=NOOR, headers=headers).status_code == 201


def test_a_profile_is_changed_field_by_field(send: Send) -> None:
    send("POST", "/members", NOOR)
    before = send("GET", "/members/noor").json()
    change = {"name": "Nour", "email": None, "timezone": "Africa/Casablanca"}
    answer = send("PATCH", "/members/noor", change)
    assert answer.status_code == 200
    expected = before | {"name": "Nour", "timezone": "Africa/Casablanca"}
    del expected["email"]
    assert answer.json() == expected
    assert send("GET", "/members/noor").json() == expected
    assert send("PATCH", "/members/noor", {}).json() == expected
    assert send("PATCH", "/members/noor", {"email": "n@example.org"}).json() == expected | {
        "email": "n@example.org"
    }


def test_a_member_keeps_the_own_profile(send: Send) -> None:
    send("POST", "/members", NOOR)
    answer = send("PATCH", "/members/noor", {"name": "Nour"}, scope="member", member_id="noor")
    assert (answer.status_code, answer.json()["name"]) == (200, "Nour")
    read = send("GET", "/members/noor", scope="member", member_id="noor")
    assert read.json() == answer.json()


def test_groups_are_set_by_the_shop_and_rules_ask_for_them(send: Send) -> None:
    send("POST", "/members", {"member_id": "noor"})

    def visit(number: int) -> int:
        body = {"event_id": f"visit-{number}", "type": "visit", "member_id": "noor"}
        return int(send("POST", "/awards", body).json()["points"])

    assert visit(1) == 0
    answer = send("PATCH", "/members/noor", {"groups": ["vip", "early"], "name": "Noor"})
    assert (answer.json()["groups"], answer.json()["name"]) == (["early", "vip"], "Noor")
    assert visit(2) == 7
    for none in ([], None):
        send("PATCH", "/members/noor", {"groups": ["vip"]})
        assert send("PATCH", "/members/noor", {"groups": none}).json()["groups"] == []
        assert visit(3) == 0
    history = send("GET", "/members/noor/entries?limit=100").json()["items"]
    # Every change of an account is an entry: the groups too, so that folding rebuilds it whole.
    assert [row["kind"] for row in history].count("update") == 5
    assert [row["seq"] for row in history] == list(range(len(history), 0, -1))


def test_an_unknown_member_is_not_found(send: Send) -> None:
    for method, path, body in (
        ("GET", "/members/nobody", None),
        ("GET", "/members/nobody/balance", None),
        ("GET", "/members/nobody/entries", None),
        ("PATCH", "/members/nobody", {"name": "Nobody"}),
        ("PATCH", "/members/nobody", {"groups": []}),
        ("PATCH", "/members/nobody", {}),
    ):
        assert code(send(method, path, body)) == (404, "member_not_found"), f"{method} {path}"
    assert send("GET", "/members/nobody").status_code == 404, "nobody was made by asking"


def test_an_unknown_referral_code_is_not_silently_ignored(send: Send) -> None:
    answer = send("POST", "/members", NOOR | {"referral_code": "FRIEND"})
    assert code(answer) == (422, "referral_code_unknown")
    assert send("GET", "/members/noor").status_code == 404
