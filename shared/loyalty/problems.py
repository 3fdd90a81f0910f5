"""One table from problem code to status and title; docs/errors.md says the same in more words."""

from typing import Final

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    # 400: the request cannot be read
    "invalid_json": (400, "Not JSON"),
    "invalid_query": (400, "Query does not fit"),
    "idempotency_key_missing": (400, "Idempotency-Key missing"),
    "idempotency_key_invalid": (400, "Idempotency-Key does not fit"),
    # 403: not with this token, not with this code
    "forbidden": (403, "Not allowed"),
    "code_invalid": (403, "Code not valid"),
    # 404: not there
    "program_not_found": (404, "No such program"),
    "member_not_found": (404, "No such member"),
    "event_not_found": (404, "No such event"),
    "reward_not_found": (404, "No such reward"),
    "location_not_found": (404, "No such location"),
    # 409: refused by the rules of points; nothing was changed
    "event_in_future": (409, "Event lies in the future"),
    "event_too_late": (409, "Event is too old"),
    "insufficient_points": (409, "Not enough points"),
    "limit_reached": (409, "Limit reached"),
    "location_closed": (409, "Location is closed"),
    "member_exists": (409, "Member exists"),
    "more_than_bought": (409, "More than was bought"),
    "nothing_earned": (409, "Nothing earned"),
    "reward_locked": (409, "Reward not for this member"),
    "reward_unavailable": (409, "Reward not offered now"),
    "too_many_points": (409, "Too many points"),
    "account_too_large": (409, "Account is full"),
    # 412, 428: another version of the program is meant
    "version_conflict": (412, "Program has changed meanwhile"),
    "precondition_required": (428, "If-Match missing"),
    # 413
    "body_too_large": (413, "Body too large"),
    # 422: the request is understood and does not fit
    "invalid_body": (422, "Body does not fit"),
    "invalid_program": (422, "Not a program"),
    "currency_mismatch": (422, "Another currency"),
    "reserved_type": (422, "Type reserved for the service"),
    "idempotency_key_reused": (422, "Key used for another command"),
    "not_supported_yet": (422, "Not supported yet"),
    "referral_code_unknown": (422, "No such referral code"),
    "self_referral": (409, "Own referral"),
    # 5xx: ours
    "internal_error": (500, "Internal error"),
    "unavailable": (503, "Not available now"),
}
"""Status and title by code. Codes are stable: clients decide by them."""
