"""Check-ins by QR code."""

from uuid import uuid4

from loyalty import earning, projections
from loyalty.commands import CHECK_IN_EVENT, Scan
from loyalty.edge import ANYONE, BASE, App, Request, Response, answer, secrets, store

handler = App()


@handler.route(
    "POST",
    f"{BASE}/check-ins",
    operation="check_in",
    roles=ANYONE,
    body=Scan,
    answers={201: projections.CheckedIn},
    problems=(
        "code_invalid",
        "member_not_found",
        "limit_reached",
        "location_closed",
        "nothing_earned",
        "idempotency_key_reused",
    ),
    key="optional",
)
def check_in(request: Request, scan: Scan) -> Response:
    """Check in with a location's code; what is refused leaves nothing."""
    member_id = request.member(scan.member_id)
    key = request.key(required=False) or str(uuid4())
    guard = request.key_guard(key, member_id)
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    committed = store().commit(
        request.program_id,
        [member_id],
        guard,
        lambda known: earning.check_in(
            rulebook,
            known,
            guard,
            member_id,
            scan.code,
            secrets(),
            CHECK_IN_EVENT + key,
            request.now,
        ),
    )
    entry = committed.entry
    decided = store().rulebook(request.program_id, entry.version)
    return answer(committed, projections.checked_in(decided, entry))
