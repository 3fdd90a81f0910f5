"""Points spent."""

from loyalty import projections, redeeming
from loyalty.commands import Redemption
from loyalty.edge import ANYONE, BASE, App, Problem, Request, Response, answer, secrets, store

handler = App()


@handler.route(
    "POST",
    f"{BASE}/redemptions",
    roles=ANYONE,
    body=Redemption,
    answers={201: projections.Redeemed},
    problems=(
        "member_not_found",
        "reward_not_found",
        "reward_locked",
        "reward_unavailable",
        "insufficient_points",
        "currency_mismatch",
        "not_supported_yet",
        "idempotency_key_reused",
    ),
    key="required",
)
def redeem(request: Request, command: Redemption) -> Response:
    """Spend points on a reward, or plainly; never more than are available."""
    if command.hold:
        raise Problem("not_supported_yet", "Holds are not supported yet: redeem at once.")
    key = request.key()
    member_id = request.member(command.member_id)
    guard = request.key_guard(str(key), member_id)
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    committed = store().commit(
        request.program_id,
        [member_id],
        guard,
        lambda known: redeeming.redeem(
            rulebook, known.account(member_id), guard, command, secrets(), request.now
        ),
    )
    entry = committed.entry
    decided = store().rulebook(request.program_id, entry.version)
    return answer(committed, projections.redeemed(decided, entry, secrets()))
