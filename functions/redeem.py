"""Points spent, reserved, and given back."""

from contextlib import suppress
from typing import Final

from loyalty import lifecycle, projections, redeeming
from loyalty.commands import Redemption
from loyalty.decisions import Decision, redemption_partition, stock_id
from loyalty.edge import (
    ANYONE,
    BASE,
    SHOP,
    App,
    Request,
    Response,
    answer,
    secrets,
    store,
)
from loyalty.model import Entry, Known, Refusal
from loyalty.rules import Rulebook
from loyalty.store import Committed

handler = App()

STOCK_LOOKS: Final = 3
"""How often lapsed holds are looked for where nothing is left of a stock: others want them too."""
REDEMPTION = f"{BASE}/redemptions/{{redemption_id}}"


@handler.route(
    "POST",
    f"{BASE}/redemptions",
    operation="redeem",
    roles=ANYONE,
    body=Redemption,
    answers={201: projections.Redeemed},
    problems=(
        "member_not_found",
        "member_erased",
        "member_blocked",
        "member_closed",
        "reward_not_found",
        "reward_locked",
        "reward_unavailable",
        "limit_reached",
        "out_of_stock",
        "payment_refused",
        "too_many_holds",
        "insufficient_points",
        "currency_mismatch",
        "idempotency_key_reused",
    ),
    key="required",
)
def redeem(request: Request, command: Redemption) -> Response:
    """Spend points on a reward, as payment, or plainly; or reserve them by a hold. Never more than
    are available."""
    key = request.key()
    member_id = request.member(command.member_id)
    guard = request.key_guard(str(key), member_id)
    rulebook = store().rulebook_in_force(request.program_id, request.now)

    def commit() -> Committed:
        return store().commit(
            request.program_id,
            [member_id],
            guard,
            lambda known: redeeming.redeem(
                rulebook, known, guard, member_id, command, secrets(), request.now
            ),
        )

    for _ in range(STOCK_LOOKS):
        try:
            committed = commit()
            break
        except Refusal as refusal:
            if refusal.code != "out_of_stock" or not _freed(request, rulebook, command):
                raise
    else:
        committed = commit()
    entry = committed.entry
    decided = store().rulebook(request.program_id, entry.version)
    return answer(committed, projections.redeemed(decided, entry, secrets()))


@handler.route(
    "POST",
    f"{REDEMPTION}/capture",
    operation="capture",
    roles=SHOP,
    answers={200: projections.Redeemed},
    problems=(
        "redemption_not_found",
        "member_erased",
        "member_blocked",
        "member_closed",
        "not_held",
    ),
)
def capture(request: Request) -> Response:
    """Spend what a hold has reserved."""
    first = _redemption(request)
    guard = request.guard(first.partition, first.member_id, sort="capture")
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    held_under = store().rulebook(request.program_id, first.version)

    def decide(known: Known) -> Decision:
        # Read after the account: what ends the hold meanwhile moves the account.
        entries = _entries(request, first)
        return redeeming.capture(
            rulebook, held_under, known, guard, entries, secrets(), request.now
        )

    committed = store().commit(request.program_id, [first.member_id], guard, decide, reads=True)
    shown = projections.redeemed(held_under, committed.entry, secrets())
    return answer(committed, shown, status=200)


@handler.route(
    "POST",
    f"{REDEMPTION}/cancel",
    operation="cancel",
    roles=SHOP,
    answers={200: projections.Redeemed},
    problems=(
        "redemption_not_found",
        "member_erased",
        "member_closed",
        "not_held",
        "voucher_used",
        "redemption_restored",
    ),
)
def cancel(request: Request) -> Response:
    """Give up a hold, or undo a redemption: points go back to the lots they came from."""
    first = _redemption(request)
    program_id = request.program_id
    guard = request.guard(first.partition, first.member_id, sort="cancel")
    rulebook = store().rulebook_in_force(program_id, request.now)

    def decide(known: Known) -> Decision:
        entries = _entries(request, first)
        place = redeeming.voucher_place(program_id, entries, secrets())
        voucher = store().record(place, redeeming.VOUCHER_SORT) if place else None
        spending = redeeming.Spending(entries, voucher)
        return redeeming.cancel(rulebook, known, guard, spending, request.now)

    committed = store().commit(program_id, [first.member_id], guard, decide, reads=True)
    held_under = store().rulebook(program_id, first.version)
    shown = projections.redeemed(held_under, committed.entry, secrets())
    return answer(committed, shown, status=200)


def _freed(request: Request, rulebook: Rulebook, command: Redemption) -> bool:
    """Write down holds of other members that have lapsed and keep pieces of the reward, as the
    sweep would; whether there were any."""
    program_id, now = request.program_id, request.now
    lapsed = store().lapsed(program_id, stock_id(command.reward_id or ""), now)
    for member_id in lapsed:
        account = store().member(program_id, member_id, consistent=True)

        def decide(known: Known, member_id: str = member_id) -> Decision:
            return lifecycle.written_down(rulebook, known, member_id, now)

        with suppress(Refusal):  # somebody else wrote it down
            store().commit(program_id, [member_id], lifecycle.guard(account), decide)
    return bool(lapsed)


def _redemption(request: Request) -> Entry:
    """The redemption or hold of that id; Refusal `redemption_not_found`."""
    partition = redemption_partition(request.path["redemption_id"])
    entry = store().entry(request.program_id, partition) if partition else None
    if entry is None or entry.kind not in ("redeem", "hold"):
        raise Refusal("redemption_not_found", "No redemption of this program has this id.")
    return entry


def _entries(request: Request, first: Entry) -> list[Entry]:
    """All that stands under the redemption's key, the redemption first."""
    return store().under(request.program_id, first.partition)[0]
