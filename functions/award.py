"""Awards, and taking them back."""

from loyalty import earning, projections, refunds
from loyalty.commands import CHECK_IN_EVENT, Event, Reversal
from loyalty.decisions import event_partition
from loyalty.edge import BASE, SHOP, App, Problem, Request, Response, answer, store
from loyalty.model import Refusal

handler = App()


@handler.route(
    "POST",
    f"{BASE}/awards",
    roles=SHOP,
    body=Event,
    answers={201: projections.Awarded},
    problems=(
        "member_not_found",
        "reserved_type",
        "currency_mismatch",
        "event_in_future",
        "event_too_late",
        "idempotency_key_reused",
        "too_many_points",
        "account_too_large",
    ),
)
def award(request: Request, event: Event) -> Response:
    """Award what the program's rules give for one event, once for its event_id."""
    if event.type in earning.RESERVED_TYPES or event.event_id.startswith(CHECK_IN_EVENT):
        raise Problem("reserved_type", "Events of this type are raised by the service itself.")
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    guard = request.guard(event_partition(event.event_id), event.member_id)
    committed = store().commit(
        request.program_id,
        [event.member_id],
        guard,
        lambda known: earning.award(rulebook, known, guard, event, request.now),
    )
    entry = committed.entry
    decided = store().rulebook(request.program_id, entry.version)
    return answer(committed, projections.awarded(decided, entry))


@handler.route(
    "POST",
    f"{BASE}/reversals",
    roles=SHOP,
    body=Reversal,
    answers={201: projections.Reversed},
    problems=("event_not_found", "more_than_bought", "not_supported_yet", "idempotency_key_reused"),
)
def reverse(request: Request, command: Reversal) -> Response:
    """Take back everything that an event gave, once for its refund_id."""
    if command.lines is not None or command.amount is not None:
        raise Problem("not_supported_yet", "Refunds by line or amount: only whole ones so far.")
    partition = event_partition(command.event_id)
    event = store().entry(request.program_id, partition)
    # Under an Idempotency-Key may stand a command that is no event.
    if event is None or event.kind not in ("award", "check_in"):
        raise Refusal("event_not_found", "No event of this id has been awarded.")
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    guard = request.guard(partition, event.member_id, sort=f"r#{command.refund_id}")
    committed = store().commit(
        request.program_id,
        [event.member_id],
        guard,
        lambda known: refunds.reverse(
            rulebook,
            known,
            guard,
            # Read after the account: a refund in between moves the account, and we come again.
            store().entries(request.program_id, partition),
            request.now,
        ),
    )
    return answer(committed, projections.reversed_(committed.entry))
