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
    "redemption_not_found": (404, "No such redemption"),
    "voucher_not_found": (404, "No such voucher"),
    "adjustment_not_found": (404, "No such adjustment"),
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
    "entry_too_large": (409, "Too much for one entry"),
    "adjustment_settled": (409, "Adjustment is settled"),
    "member_blocked": (409, "Member is blocked"),
    "member_closed": (409, "Membership has ended"),
    "member_erased": (409, "Member has been erased"),
    "not_held": (409, "Not held"),
    "open_holds": (409, "Holds are open"),
    "out_of_stock": (409, "Out of stock"),
    "payment_refused": (409, "Payment by points refused"),
    "redemption_restored": (409, "Points are back already"),
    "same_member": (409, "One and the same member"),
    "same_person": (409, "Another person has to agree"),
    "too_many_holds": (409, "Too many holds"),
    "transfer_refused": (409, "Transfer refused"),
    "voucher_cancelled": (409, "Voucher was cancelled"),
    "voucher_expired": (409, "Voucher has expired"),
    "voucher_used": (409, "Voucher was used"),
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
    "referral_code_unknown": (422, "No such referral code"),
    "self_referral": (409, "Own referral"),
    "line_not_found": (422, "No such line"),
    "expires_too_early": (422, "Expires too early"),
    "unknown_tier": (422, "No such tier"),
    # 429
    "too_many_guesses": (429, "Too many guesses"),
    # 5xx: ours
    "internal_error": (500, "Internal error"),
    "unavailable": (503, "Not available now"),
}
"""Status and title by code. Codes are stable: clients decide by them."""
