"""What a person's access token says is what the business has set, not what the client asked for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import pre_token

EVENTS = Path(__file__).parent.parent / "events"


def sample(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / f"pre_token_{name}.json").read_text("utf-8"))
    return event


def answer(event: dict[str, Any]) -> dict[str, Any]:
    response = pre_token.handler(event, None)["response"]["claimsAndScopeOverrideDetails"]
    access: dict[str, Any] = response["accessTokenGeneration"]
    return access


def scopes(event: dict[str, Any]) -> set[str]:
    """The scopes of the token that Cognito makes of the answer."""
    asked = set(event["request"]["scopes"])
    access = answer(event)
    return (asked - set(access["scopesToSuppress"])) | set(access["scopesToAdd"])


def test_a_member_gets_the_claims_and_the_scope_of_a_member() -> None:
    event = sample("member")
    assert answer(event)["claimsToAddOrOverride"] == {"member_id": "mila", "program_ids": "demo"}
    assert scopes(sample("member")) == {"openid", "loyalty/member"}


def test_a_member_gets_the_scope_without_asking() -> None:
    event = sample("member")
    event["request"]["scopes"] = ["openid"]
    assert scopes(event) == {"openid", "loyalty/member"}


def test_staff_get_the_scope_of_their_group_and_not_that_of_a_member() -> None:
    assert scopes(sample("staff")) == {"openid", "loyalty/staff"}
    assert answer(sample("staff"))["claimsToAddOrOverride"] == {}


@pytest.mark.parametrize("role", ["admin", "staff", "merchant"])
def test_each_group_gives_its_own_scope(role: str) -> None:
    event = sample("staff")
    event["request"]["groupConfiguration"]["groupsToOverride"] = [role]
    assert scopes(event) == {"openid", f"loyalty/{role}"}


def test_a_member_who_works_in_the_shop_has_both_scopes() -> None:
    event = sample("member")
    event["request"]["groupConfiguration"]["groupsToOverride"] = ["merchant"]
    assert scopes(event) == {"openid", "loyalty/member", "loyalty/merchant"}


def test_a_stranger_keeps_no_scope_of_the_engine_and_none_to_change_attributes() -> None:
    assert scopes(sample("stranger")) == {"openid"}
    assert answer(sample("stranger"))["claimsToAddOrOverride"] == {}


@pytest.mark.parametrize("group", ["member", "loyalty/admin", "Admin", "", "administrators"])
def test_other_groups_give_nothing(group: str) -> None:
    event = sample("staff")
    event["request"]["groupConfiguration"]["groupsToOverride"] = [group]
    assert scopes(event) == {"openid"}


@pytest.mark.parametrize("member_id", ["", " ", "a b", "mila#1", "a" * 65, "mila\n", "mïla"])
def test_what_is_no_member_id_makes_no_member(member_id: str) -> None:
    event = sample("member")
    event["request"]["userAttributes"]["custom:member_id"] = member_id
    assert scopes(event) == {"openid"}
    assert "member_id" not in answer(event)["claimsToAddOrOverride"]


def test_program_ids_are_separated_by_single_spaces() -> None:
    event = sample("member")
    event["request"]["userAttributes"]["custom:program_ids"] = "  demo \t beans "
    assert answer(event)["claimsToAddOrOverride"]["program_ids"] == "demo beans"


def test_without_program_ids_there_is_no_such_claim() -> None:
    event = sample("member")
    del event["request"]["userAttributes"]["custom:program_ids"]
    assert answer(event)["claimsToAddOrOverride"] == {"member_id": "mila"}


def test_a_person_narrowed_to_no_program_gets_nothing() -> None:
    event = sample("member")
    event["request"]["userAttributes"]["custom:program_ids"] = " "
    event["request"]["groupConfiguration"]["groupsToOverride"] = ["admin"]
    assert scopes(event) == {"openid"}
    assert answer(event)["claimsToAddOrOverride"] == {}


@pytest.mark.parametrize("absent", ["userAttributes", "groupConfiguration", "scopes"])
@pytest.mark.parametrize("how", ["missing", "null"])
def test_an_event_that_lacks_a_part_is_answered(absent: str, how: str) -> None:
    event = sample("member")
    if how == "missing":
        del event["request"][absent]
    else:
        event["request"][absent] = None
    answer(event)


def test_nothing_but_the_response_changes() -> None:
    event = sample("member")
    before = copy.deepcopy(event)
    after = pre_token.handler(event, None)
    assert {**after, "response": None} == {**before, "response": None}
