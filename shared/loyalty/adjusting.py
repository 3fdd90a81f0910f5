"""Points that staff give or take, with a reason."""

from typing import Any

from loyalty.commands import Adjustment
from loyalty.dates import day_number
from loyalty.decisions import Decision, Draft, Guard, Record, id_of, may_earn, revived_on
from loyalty.lots import credit, expiry, take
from loyalty.model import Known, Refusal
from loyalty.rules import Rulebook


def adjustment_id(key: str) -> str:
    """An adjustment's id: its Idempotency-Key."""
    return id_of("a", key)


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
