"""Dry runs: what would be awarded, with the very code that awards, and nothing written."""

from loyalty import earning, projections
from loyalty.commands import CHECK_IN_EVENT, Simulation, lots_of
from loyalty.decisions import event_partition
from loyalty.edge import BASE, PROGRAM_BYTES, SHOP, App, Problem, Request, Response, store
from loyalty.model import Account, Known
from loyalty.rules import Rulebook
from loyalty.validation import publishable

handler = App()


@handler.route(
    "POST",
    f"{BASE}/simulate",
    operation="simulate",
    roles=SHOP,
    body=Simulation,
    answers={200: projections.Awarded},
    problems=(
        "invalid_program",
        "member_not_found",
        "reserved_type",
        "currency_mismatch",
        "event_in_future",
        "event_too_late",
        "too_many_points",
    ),
    body_bytes=PROGRAM_BYTES,
)
def simulate(request: Request, command: Simulation) -> Response:
    """What an event would earn: now or at a given time, under the program or a draft of it, for
    a member or an account made up for it. Nothing is written."""
    event, program_id = command.event, request.program_id
    if event.type in earning.RESERVED_TYPES or event.event_id.startswith(CHECK_IN_EVENT):
        raise Problem("reserved_type", "Events of this type are raised by the service itself.")
    now = request.now if command.now is None else command.now
    if command.program is None:
        rulebook = store().rulebook_in_force(program_id, now)
    else:
        rulebook = Rulebook(publishable(command.program), 0)
    if command.account is None:
        account = store().member(program_id, event.member_id, consistent=True)
    else:
        account = Account(
            program_id=program_id,
            member_id=event.member_id,
            groups=tuple(sorted(set(command.account.groups))),
            lots=lots_of(command.account),
        )
    guard = request.guard(event_partition(event.event_id), event.member_id)
    decision = store().foresee(
        program_id,
        Known({event.member_id: account}),
        lambda known: earning.award(rulebook, known, guard, event, now),
    )
    return Response(projections.awarded(rulebook, decision.entries[0]))
