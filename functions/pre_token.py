"""Cognito's pre token generation trigger (V2_0): what a person's access token says.

It grants by what the business has set on the person (groups, and attributes that people cannot
write themselves), never by what the client asked for. Tokens of machines do not pass here: their
clients hold their scopes.
"""

from __future__ import annotations

import re
from typing import Any

_PREFIX = "loyalty/"
_ROLES = ("admin", "staff", "merchant")  # names of groups and of scopes alike
_MEMBER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# With it a person could change the own attributes through Cognito's API. No client of ours has it.
_SELF_SERVICE = "aws.cognito.signin.user.admin"


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """The event with its response filled in.

    The access token gets the person's claims `member_id` and `program_ids` (separated by spaces)
    where they are set, the scope `loyalty/member` if there is a member_id, and the scopes of the
    groups admin, staff and merchant. Whatever else of `loyalty/…` was asked for is taken out.
    """
    request = event["request"]
    attributes = request.get("userAttributes") or {}
    groups = (request.get("groupConfiguration") or {}).get("groupsToOverride") or []
    asked = request.get("scopes") or []

    claims: dict[str, str] = {}
    granted = {_PREFIX + role for role in _ROLES if role in groups}
    member_id = attributes.get("custom:member_id", "")
    if _MEMBER_ID.fullmatch(member_id):
        claims["member_id"] = member_id
        granted.add(_PREFIX + "member")
    if (programs := attributes.get("custom:program_ids")) is not None:
        claims["program_ids"] = " ".join(programs.split())
        if not claims["program_ids"]:
            # Narrowed to nothing. An empty claim could pass for an absent one: every program.
            claims, granted = {}, set()

    event["response"]["claimsAndScopeOverrideDetails"] = {
        "accessTokenGeneration": {
            "claimsToAddOrOverride": claims,
            "scopesToAdd": sorted(granted - set(asked)),
            "scopesToSuppress": sorted(
                scope
                for scope in set(asked) - granted
                if scope.startswith(_PREFIX) or scope == _SELF_SERVICE
            ),
        }
    }
    return event
