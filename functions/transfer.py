"""Points sent from member to member."""

from loyalty import projections, transfers
from loyalty.commands import Transfer
from loyalty.edge import ANYONE, BASE, App, Request, Response, answer, store

handler = App()


@handler.route(
    "POST",
    f"{BASE}/transfers",
    operation="transfer",
    roles=ANYONE,
    body=Transfer,
    answers={201: projections.Transferred},
    problems=(
        "member_not_found",
        "member_erased",
        "member_blocked",
        "member_closed",
        "same_member",
        "transfer_refused",
        "limit_reached",
        "insufficient_points",
        "too_many_points",
        "idempotency_key_reused",
    ),
    key="required",
)
def transfer(request: Request, command: Transfer) -> Response:
    """Send points to another member; they keep their dates."""
    key = request.key()
    sender = request.member(command.from_member_id, "/from_member_id")
    guard = request.key_guard(str(key), sender)
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    committed = store().commit(
        request.program_id,
        [sender, command.to_member_id],
        guard,
        lambda known: transfers.transfer(rulebook, known, guard, command, sender, request.now),
    )
    shown = projections.transferred(committed.entry, both=not request.is_by_a_member)
    return answer(committed, shown)
