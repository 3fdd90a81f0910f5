"""Points that staff give or take, with a reason; many of them are first proposed."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from loyalty.commands import Adjustment
from loyalty.dates import day_begins, day_number, milliseconds
from loyalty.decisions import (
    Decision,
    Draft,
    Guard,
    Record,
    id_of,
    key_of,
    may_earn,
    partition_of,
    revived_on,
)
from loyalty.lots import credit, expiry, take
from loyalty.model import Known, Refusal, Waiting
from loyalty.rules import Rulebook

PROPOSAL_DAYS: Final = 7
"""How long a proposed adjustment waits for another person."""
_MAY_HEAL: Final = frozenset({"insufficient_points", "too_many_points"})
"""Refusals of an adjustment that may be none by the time it is approved."""


def adjustment_id(key: str) -> str:
    """An adjustment's id: its Idempotency-Key."""
    return id_of("a", key)


def adjustment_partition(identity: str) -> str | None:
    """Where the adjustment of that id stands; None for what cannot be an id."""
    return partition_of("a", identity)


def note_key(program_id: str, member_id: str, key: str) -> tuple[str, str]:
    """Where a note stands: beside the profile. It may be personal, and goes when that goes."""
    return f"{program_id}#member#{member_id}", f"note#{key}"


def needs_second_person(rulebook: Rulebook, points: int) -> bool:
    """Whether another person has to agree to so many points."""
    most = rulebook.program.adjustments.second_person_above
    return most is not None and abs(points) > most


def adjust(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    command: Adjustment,
    by: str,
    now: int,
    *,
    approved_by: str | None = None,
    records: tuple[Record, ...] = (),
) -> Decision:
    """Give points, as a lot of that date or by the program's expiry, or take some away.

    What is taken leaves in spending order, and debt is paid first. It counts for no tier and not
    for lifetime points, and is no activity; only where inactivity had run out for the member its
    clock starts anew. `by` and `approved_by` are the subjects of the tokens. Refusals:
    `member_not_found`, `member_erased`, `member_closed`, `insufficient_points`,
    `too_many_points`, `expires_too_early`.
    """
    draft = Draft(rulebook, known.account(command.member_id), now)
    revived = None
    if command.points > 0:
        may_earn(draft.account)
        end = expiry(rulebook.program.expiry, draft.today)
        if command.expires_on is not None:
            end = day_number(command.expires_on)
        if end <= draft.today:
            raise Refusal(
                "expires_too_early", "These points would be gone at once.", pointer="/expires_on"
            )
        revived = revived_on(draft)
        grant = (draft.today, end, command.points)
        draft.post(credit(draft.account, "adjust", draft.today, [grant], draft.today))
    else:
        missing = -command.points - draft.account.available
        if missing > 0:
            raise Refusal(
                "insufficient_points",
                f"{missing} points are missing: {draft.account.available} are available.",
                missing_points=missing,
            )
        draft.post(take(draft.account, "adjust", draft.today, -command.points))
    answer: dict[str, Any] = {"s": by}
    if approved_by is not None:
        answer["a"] = approved_by
    entry = draft.entry(
        "adjust", guard, active_on=revived, reason=command.reason_code, answer=answer
    )
    return Decision((entry,), records)


# A second person


PLACES: Final = ("proposed", "approved", "refused")
"""Where the record of a proposal stands: it goes from the first to one of the others, for ever."""


def proposals(program_id: str, place: str) -> str:
    """The partition of Records with the proposals that stand in one of the PLACES."""
    return f"{program_id}#adjustments#{place}"


def proposal_sort(lapses_at: int, identity: str = "~") -> str:
    """The sort key of a proposal: those that lapse first come first. Without an `identity`, a key
    behind all that lapse at this instant (milliseconds)."""
    return f"{lapses_at:015}#{identity}"


def propose(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    command: Adjustment,
    by: str,
    now: int,
    notes: tuple[Record, ...],
) -> Decision:
    """Put an adjustment to a second person: it takes its key, moves nothing, and lapses after a
    week, or when its points would be gone at once.

    Refusals: those of `adjust` that would stand however long one waits.
    """
    try:
        adjust(rulebook, known, guard, command, by, now)
    except Refusal as refusal:
        if refusal.code not in _MAY_HEAL:
            raise
    lapses_at = now + PROPOSAL_DAYS * 86_400_000
    expires_on = command.expires_on
    if expires_on is not None:
        gone = milliseconds(day_begins(expires_on, rulebook.program.zone))
        lapses_at = min(lapses_at, gone)
    member_id = known.account(command.member_id).member_id
    program_id = rulebook.program.program_id
    key = key_of(guard.partition)
    fields = {
        "key": key,
        "status": "proposed",
        "member_id": command.member_id,
        "points": command.points,
        "reason_code": command.reason_code,
        "expires_on": None if expires_on is None else expires_on.isoformat(),
        "noted": member_id if notes else None,
        "by": by,
        "at": now,
        "lapses_at": lapses_at,
        "revision": 1,
    }
    sort = proposal_sort(lapses_at, adjustment_id(key))
    record = Record(proposals(program_id, "proposed"), sort, fields)
    waits = Waiting(
        program_id,
        guard.partition,
        guard.sort,
        now,
        fingerprint=guard.fingerprint,
        proposal={"s": by, "u": lapses_at},
    )
    return Decision((), (record, *notes), waits=waits, about=member_id)


def settled(
    program_id: str, proposal: Mapping[str, Any], how: Literal["approved", "refused"], by: str
) -> tuple[Record, ...]:
    """A proposal's record moves from those that wait to those that are settled. What was noted with
    one that is refused is forgotten."""
    seen = int(proposal["revision"])
    fields = {k: v for k, v in proposal.items() if k not in ("pk", "sk")}
    fields |= {"status": how, "settled_by": by, "revision": seen + 1}
    forgotten: tuple[Record, ...] = ()
    if how == "refused" and fields.pop("noted", None):
        forgotten = (Record(*note_place(program_id, proposal)),)
    gone = Record(proposal["pk"], proposal["sk"], seen=seen)
    return gone, Record(proposals(program_id, how), proposal["sk"], fields), *forgotten


def note_place(program_id: str, proposal: Mapping[str, Any]) -> tuple[str, str]:
    """Where the note of a proposal stands, if it has one: with the member who had it then."""
    return note_key(program_id, proposal["noted"], proposal["key"])
