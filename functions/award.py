"""Awards, and taking them back."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from loyalty import earning, projections, redeeming, refunds
from loyalty.commands import CHECK_IN_EVENT, Event, Reversal
from loyalty.decisions import Decision, event_partition, redemption_partition
from loyalty.edge import BASE, SHOP, App, Problem, Request, Response, answer, secrets, store
from loyalty.model import Entry, Known, Refusal, Waiting
from loyalty.redeeming import Spending
from loyalty.store import Awaited, Committed, KeyReused

handler = App()

AFTER_REFUNDS: Final = "1"
"""The sort key of an award whose refunds came first: the first of them stands where it would."""
WAITING_REFUNDS: Final = 20
"""Refunds that may wait for one event that has not come."""


@handler.route(
    "POST",
    f"{BASE}/awards",
    operation="award",
    roles=SHOP,
    body=Event,
    answers={201: projections.Awarded},
    problems=(
        "member_not_found",
        "member_erased",
        "member_closed",
        "reserved_type",
        "currency_mismatch",
        "event_in_future",
        "event_too_late",
        "idempotency_key_reused",
        "too_many_points",
        "account_too_large",
        "entry_too_large",
    ),
)
def award(request: Request, event: Event) -> Response:
    """Award what the program's rules give for one event, once for its event_id."""
    if event.type in earning.RESERVED_TYPES or event.event_id.startswith(CHECK_IN_EVENT):
        raise Problem("reserved_type", "Events of this type are raised by the service itself.")
    committed = _awarded(request, event)
    entry = committed.entry
    decided = store().rulebook(request.program_id, entry.version)
    return answer(committed, projections.awarded(decided, entry))


def _awarded(request: Request, event: Event) -> Committed:
    """The award; where refunds of the event have come before it, with them."""
    program_id = request.program_id
    rulebook = store().rulebook_in_force(program_id, request.now)
    partition = event_partition(event.event_id)
    guard = request.guard(partition, event.member_id)
    try:
        return store().commit(
            program_id,
            [event.member_id],
            guard,
            lambda known: earning.award(rulebook, known, guard, event, request.now),
        )
    except Awaited:
        behind = replace(guard, sort=AFTER_REFUNDS)

    def decide(known: Known) -> Decision:
        # Another refund that comes meanwhile takes the key that this award closes.
        waiting = store().under(program_id, partition)[1]
        paid = _paid(request, event.purchase.redemption_ids if event.purchase else ())
        return earning.award(rulebook, known, behind, event, request.now, waiting, paid)

    return store().commit(program_id, [event.member_id], behind, decide)


@handler.route(
    "POST",
    f"{BASE}/reversals",
    operation="reverse",
    roles=SHOP,
    body=Reversal,
    answers={201: projections.Reversed, 202: projections.WaitingRefund},
    problems=(
        "event_not_found",
        "more_than_bought",
        "line_not_found",
        "member_erased",
        "idempotency_key_reused",
    ),
)
def reverse(request: Request, command: Reversal) -> Response:
    """Take back what an event gave, or a part of it, once for its refund_id. A refund that comes
    before its event waits for it."""
    program_id = request.program_id
    partition = event_partition(command.event_id)
    # Whoever loses a turn loses it to another refund, which is one nearer to the limit.
    for _ in range(WAITING_REFUNDS + 1):
        entries, waiting = store().under(program_id, partition)
        known = _acknowledged(request, command, waiting)
        if known is not None:
            return known
        event = _event(entries)
        if event is not None:
            return _reversed(request, command, event)
        if entries or command.event_id.startswith(CHECK_IN_EVENT):
            break  # under an Idempotency-Key may stand a command that is no event, or come to
        if len(waiting) >= WAITING_REFUNDS:
            raise Refusal("more_than_bought", "Too many refunds wait for this event.")
        refund = Waiting(
            program_id,
            partition,
            earning.waiting_sort(len(waiting)),
            request.now,
            request.document,
            request.fingerprint(""),
        )
        if store().wait(refund):
            return Response(projections.waiting_refund(command), 202)
    raise Refusal("event_not_found", "No event of this id has been awarded.")


def _acknowledged(request: Request, command: Reversal, waiting: list[Waiting]) -> Response | None:
    """The first answer again to a refund that came before its event."""
    for waits in waiting:
        if waits.refund is not None and waits.refund["refund_id"] == command.refund_id:
            if waits.fingerprint != request.fingerprint(""):
                raise KeyReused
            again = {"Idempotency-Replayed": "true"}
            return Response(projections.waiting_refund(command), 202, again)
    return None


def _event(entries: list[Entry]) -> Entry | None:
    """The entry of the event itself, among all that stand under its key."""
    return next((e for e in entries if e.kind in refunds.EVENTS), None)


def _reversed(request: Request, command: Reversal, event: Entry) -> Response:
    program_id = request.program_id
    rulebook = store().rulebook_in_force(program_id, request.now)
    decided = store().rulebook(program_id, event.version)
    guard = request.guard(event.partition, event.member_id, sort=f"r#{command.refund_id}")
    given = refunds.Given.by(decided, event)

    def decide(known: Known) -> Decision:
        # Read after the account: a refund in between moves the account, and we come again.
        others = [e for e in _entries_under(request, event.partition) if e.sort != event.sort]
        paid = _paid(request, (event.event or {}).get("r", ()))
        return refunds.reverse(
            rulebook, given, known, guard, [event, *others], command, paid, request.now
        )

    committed = store().commit(program_id, [event.member_id], guard, decide, reads=True)
    return answer(committed, projections.reversed_(committed.entry))


def _paid(request: Request, redemption_ids: Iterable[str]) -> list[Spending]:
    """Those of these redemptions that have spent points, each with its voucher."""
    found = []
    for partition in dict.fromkeys(map(redemption_partition, redemption_ids)):
        entries = _entries_under(request, partition) if partition else []
        if {entry.kind for entry in entries} & {"redeem", "capture"}:
            place = redeeming.voucher_place(request.program_id, entries, secrets())
            voucher = store().record(place, redeeming.VOUCHER_SORT) if place else None
            found.append(Spending(entries, voucher))
    return found


def _entries_under(request: Request, partition: str) -> list[Entry]:
    return store().under(request.program_id, partition)[0]
