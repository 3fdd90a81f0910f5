"""Vouchers at tills: looked up, and used once."""

from hashlib import sha256
from typing import Any
from uuid import uuid4

from loyalty import projections, redeeming
from loyalty.dates import day_number, from_milliseconds, local_date
from loyalty.decisions import Record
from loyalty.edge import BASE, SHOP, App, Problem, Request, Response, count, store
from loyalty.model import Refusal
from loyalty.store import Unavailable, miss_key

handler = App()

VOUCHER = f"{BASE}/vouchers/{{code}}"
GUESSES = 100
"""Wrong codes that a token's subject may show in a minute. All tills of a shop may share one
subject, and 20 of them do not mistype five codes each. Guessing gains nothing by it: a year of it
is 2^26 codes, which find one of a million open vouchers (2^20 among 2^100) with a chance of 2^-54.
"""
MINUTE_SECONDS = 60
USE_ATTEMPTS = 3
"""A voucher is used or cancelled once, so what has moved is seen at the second look."""


@handler.route(
    "GET",
    VOUCHER,
    operation="voucher",
    roles=SHOP,
    answers={200: projections.VoucherShown},
    problems=("voucher_not_found", "too_many_guesses"),
)
def voucher(request: Request) -> Response:
    """What a voucher is for, and whether it can still be used."""
    return Response(_shown(request, _found(request)))


@handler.route(
    "POST",
    f"{VOUCHER}/use",
    operation="use",
    roles=SHOP,
    answers={200: projections.VoucherShown},
    problems=(
        "voucher_not_found",
        "voucher_used",
        "voucher_cancelled",
        "voucher_expired",
        "too_many_guesses",
    ),
    key="optional",
)
def use(request: Request) -> Response:
    """Use a voucher, once. With an Idempotency-Key, the same use again is answered as the first."""
    key = request.key(required=False)
    under = None if key is None else sha256(key.encode()).hexdigest()[:32]
    record = _found(request)
    for _ in range(USE_ATTEMPTS):
        if under is not None and record.get("used_under") == under:
            count("Replays")
            return Response(_shown(request, record), headers={"Idempotency-Replayed": "true"})
        _usable(_shown(request, record))
        used = record | {
            "status": "used",
            "revision": record["revision"] + 1,
            "used_at": request.now,
            "used_by": request.caller.subject,
            "used_under": under,
            # No two uses are alike: what stands there after a lost answer is ours or another's.
            "use": uuid4().hex,
        }
        fields = {name: value for name, value in used.items() if name not in ("pk", "sk")}
        if store().replace_record(Record(record["pk"], record["sk"], fields), seen=record):
            return Response(_shown(request, used))
        record = store().record(record["pk"], record["sk"]) or record
    raise Unavailable("the voucher moves too often")


def _usable(shown: projections.VoucherShown) -> None:
    match shown["status"]:
        case "used":
            raise Refusal("voucher_used", "This voucher has been used.")
        case "cancelled":
            raise Refusal("voucher_cancelled", "This voucher was cancelled.")
        case "expired":
            raise Refusal("voucher_expired", "This voucher has expired.")


def _found(request: Request) -> dict[str, Any]:
    """The record of the voucher of that code; Refusal `voucher_not_found` for any other text, after
    the same work.

    Problem `too_many_guesses` for whoever has shown too many wrong codes, whatever comes next.
    """
    program_id, subject = request.program_id, request.caller.subject
    store().rulebook_in_force(program_id, request.now)  # where no program is, nothing is counted
    minute, milliseconds = divmod(request.now, MINUTE_SECONDS * 1000)
    tell = Problem(
        "too_many_guesses",
        "Too many codes were wrong; wait until the minute is over.",
        retry_after_seconds=MINUTE_SECONDS - milliseconds // 1000,
    )
    missed = store().record(*miss_key(program_id, subject))
    if missed is not None and missed["window"] == minute and missed["misses"] >= GUESSES:
        raise tell
    key = redeeming.voucher_key(program_id, request.path["code"])
    record = store().record(key, redeeming.VOUCHER_SORT)
    if record is None:
        if not store().count_miss(program_id, subject, minute, GUESSES):
            raise tell
        raise Refusal("voucher_not_found", "No voucher has this code.")
    return record


def _shown(request: Request, record: dict[str, Any]) -> projections.VoucherShown:
    program_id = request.program_id
    zone = store().rulebook_in_force(program_id, request.now).program.zone
    today = day_number(local_date(from_milliseconds(request.now), zone))
    return projections.voucher(store().rulebook(program_id, record["version"]), record, today)
