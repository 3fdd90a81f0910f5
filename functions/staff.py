"""What staff do to an account: adjustments, tiers, blocking, closing, merging."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Literal, NotRequired, TypedDict
from uuid import uuid4

from loyalty import adjusting, lifecycle, projections
from loyalty.commands import Adjustment, Merge, SetTier
from loyalty.dates import rfc3339
from loyalty.decisions import Decision, Guard, Record, key_partition
from loyalty.edge import (
    BASE,
    STAFF,
    App,
    Handler,
    Problem,
    Request,
    Response,
    answer,
    cursor,
    position,
    store,
)
from loyalty.model import Account, Known, Refusal, Waiting
from loyalty.store import Committed, KeyReused, Proposed, Unavailable, replayed

handler = App()

STATUSES = ("proposed", "lapsed", "approved", "refused")
"""Of proposals, in the order in which they are listed."""
_PLACE = re.compile(r"([a-z]+)#([0-9]{15}#a-[A-Za-z0-9_-]{1,700})")

type Status = Literal["proposed", "lapsed", "approved", "refused"]


class Proposal(TypedDict):
    """An adjustment that another person has to agree to, and what became of it."""

    adjustment_id: str
    status: Status
    member_id: str
    points: int
    reason_code: str
    expires_on: NotRequired[str]
    note: NotRequired[str]
    proposed_by: str
    proposed_at: str
    lapses_at: str
    settled_by: NotRequired[str]


class ProposalPage(TypedDict):
    """A page of proposals: first what waits, soonest to lapse first, then what has lapsed, what was
    approved, what was refused, the latest first."""

    items: list[Proposal]
    next_cursor: str | None


# Adjustments


@handler.route(
    "POST",
    f"{BASE}/adjustments",
    operation="adjust",
    roles=STAFF,
    body=Adjustment,
    answers={201: projections.Adjusted, 202: Proposal},
    problems=(
        "member_not_found",
        "member_erased",
        "member_closed",
        "insufficient_points",
        "too_many_points",
        "expires_too_early",
        "idempotency_key_reused",
    ),
    key="required",
)
def adjust(request: Request, command: Adjustment) -> Response:
    """Give or take points, with a reason. Beyond the program's amount it is only proposed (202);
    what nobody could ever approve is refused at once."""
    key = str(request.key())
    by = request.caller.subject
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    guard = Guard(key_partition(key), "0", _without_note(request, command.member_id))

    def decide(known: Known) -> Decision:
        notes = _notes(request, known, command, key)
        how = (rulebook, known, guard, command, by, request.now)
        if adjusting.needs_second_person(rulebook, command.points):
            return adjusting.propose(*how, notes)
        return adjusting.adjust(*how, records=notes)

    members = [command.member_id]
    try:
        done = store().commit_or_propose(request.program_id, members, guard, decide)
    except KeyReused as reused:
        if reused.stands is None:
            raise
        # It may have been carried out when fingerprints had notes in them.
        done = replayed(reused.stands, request.key_guard(key, command.member_id))
    if done.replayed and _another_note(request, command, key):
        raise KeyReused
    if isinstance(done, Proposed):
        return answer(done, _first_answer(command, key, done.waiting), status=202)
    return answer(done, projections.adjusted(done.entry))


def _without_note(request: Request, member_id: str) -> bytes:
    """The fingerprint of an adjustment: of its note only whether there is one, since a note may be
    personal and is forgotten, and the fingerprint is not."""
    said = request.document
    if said.get("note") is not None:
        said = said | {"note": True}
    return request.fingerprint_of(member_id, said)


def _another_note(request: Request, command: Adjustment, key: str) -> bool:
    """Whether another note stands under this key; one that was forgotten is none."""
    if command.note is None:
        return False
    program_id, member_id = request.program_id, command.member_id
    while True:
        kept = store().record(*adjusting.note_key(program_id, member_id, key))
        if kept is not None:
            return bool(kept["note"] != command.note)
        account = store().account(program_id, member_id, consistent=True)
        if account is None or not account.merged_into:
            return False
        member_id = account.merged_into


def _notes(request: Request, known: Known, command: Adjustment, key: str) -> tuple[Record, ...]:
    """The note, where there is one."""
    if command.note is None:
        return ()
    member_id = known.account(command.member_id).member_id
    fields = {
        "note": command.note,
        "by": request.caller.subject,
        "at": request.now,
        "revision": 1,
    }
    return (Record(*adjusting.note_key(request.program_id, member_id, key), fields),)


def _first_answer(command: Adjustment, key: str, waiting: Waiting) -> Proposal:
    """That it was proposed, whatever has become of it: what the ledger does not hold of it, the
    command has said, now as the first time."""
    shown: Proposal = {
        "adjustment_id": adjusting.adjustment_id(key),
        "status": "proposed",
        "member_id": command.member_id,
        "points": command.points,
        "reason_code": command.reason_code,
        "proposed_by": waiting.proposal["s"],
        "proposed_at": rfc3339(waiting.recorded_at),
        "lapses_at": rfc3339(waiting.proposal["u"]),
    }
    if command.expires_on is not None:
        shown["expires_on"] = command.expires_on.isoformat()
    if command.note is not None:
        shown["note"] = command.note
    return shown


def _proposal(record: dict[str, Any], now: int) -> Proposal:
    shown: Proposal = {
        "adjustment_id": adjusting.adjustment_id(record["key"]),
        "status": _status(record, now),
        "member_id": record["member_id"],
        "points": record["points"],
        "reason_code": record["reason_code"],
        "proposed_by": record["by"],
        "proposed_at": rfc3339(record["at"]),
        "lapses_at": rfc3339(record["lapses_at"]),
    }
    if "expires_on" in record:
        shown["expires_on"] = record["expires_on"]
    if "noted" in record:
        program_id = record["pk"].partition("#")[0]
        note = store().record(*adjusting.note_place(program_id, record))
        if note is not None:
            shown["note"] = note["note"]
    if "settled_by" in record:
        shown["settled_by"] = record["settled_by"]
    return shown


def _status(record: dict[str, Any], now: int) -> Status:
    status: Status = record["status"]
    return "lapsed" if status == "proposed" and now >= record["lapses_at"] else status


@handler.route(
    "GET",
    f"{BASE}/adjustments",
    operation="proposals",
    roles=STAFF,
    answers={200: ProposalPage},
    query=("status", "limit", "cursor"),
)
def proposals(request: Request) -> Response:
    """Adjustments that were proposed to a second person."""
    limit, after = request.page()
    store().rulebook_in_force(request.program_id, request.now)  # where no program is: 404
    wanted = request.query.get("status")
    if wanted is not None and wanted not in STATUSES:
        raise Problem("invalid_query", f"status is one of {', '.join(STATUSES)}.")
    first, place = _place(after)
    listed = (wanted,) if wanted else STATUSES
    if first not in ("", *listed):
        raise Problem("invalid_query", "The cursor is not one of ours.")
    found: list[tuple[str, dict[str, Any]]] = []
    for status in listed[listed.index(first) if first else 0 :]:
        # One more than is shown tells whether there is another page.
        left = limit + 1 - len(found)
        if left:
            records = _listed(request, status, place if status == first else "", left)
            found += [(status, record) for record in records]
    page: ProposalPage = {
        "items": [_proposal(record, request.now) for _, record in found[:limit]],
        "next_cursor": None,
    }
    if len(found) > limit:
        status, last = found[limit - 1]
        page["next_cursor"] = cursor(f"{status}#{last['sk']}")
    return Response(page)


def _place(after: str | None) -> tuple[str, str]:
    """(status, sort key) of the last proposal that was shown."""
    if after is None:
        return "", ""
    found = _PLACE.fullmatch(position(after))
    if found is None:
        raise Problem("invalid_query", "The cursor is not one of ours.")
    return found[1], found[2]


def _listed(request: Request, status: str, place: str, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` proposals of a status behind a place in their order."""
    now = adjusting.proposal_sort(request.now)
    partition = adjusting.proposals(
        request.program_id, "proposed" if status == "lapsed" else status
    )
    match status:
        case "proposed":
            return store().records_page(partition, limit, after=max(place, now))
        case "lapsed":
            return store().records_page(partition, limit, before=place or now)
        case _:
            return store().records_page(partition, limit, before=place or "~")


@handler.route(
    "POST",
    f"{BASE}/adjustments/{{adjustment_id}}/approve",
    operation="approve",
    roles=STAFF,
    answers={201: projections.Adjusted},
    problems=(
        "adjustment_not_found",
        "adjustment_settled",
        "same_person",
        "member_erased",
        "member_closed",
        "insufficient_points",
        "too_many_points",
        "expires_too_early",
    ),
)
def approve(request: Request) -> Response:
    """Carry out what another person has proposed."""
    program_id, by = request.program_id, request.caller.subject
    rulebook = store().rulebook_in_force(program_id, request.now)
    waiting = _waiting(request)
    first = _record(request, waiting)
    expires_on = first.get("expires_on")
    command = Adjustment.model_construct(
        member_id=first["member_id"],
        points=first["points"],
        reason_code=first["reason_code"],
        expires_on=None if expires_on is None else date.fromisoformat(expires_on),
    )
    guard = Guard(waiting.partition, "approved", waiting.fingerprint)

    def decide(known: Known) -> Decision:
        proposal = _record(request, waiting)
        _still_proposed(proposal, request.now)
        if proposal["by"] == by:
            raise Refusal("same_person", "Who proposed it cannot approve it.")
        return adjusting.adjust(
            rulebook,
            known,
            guard,
            command,
            proposal["by"],
            request.now,
            approved_by=by,
            records=adjusting.settled(program_id, proposal, "approved", by),
        )

    committed = store().commit(program_id, [command.member_id], guard, decide, reads=True)
    return answer(committed, projections.adjusted(committed.entry))


def _waiting(request: Request) -> Waiting:
    """What the ledger holds of the proposal; Refusal `adjustment_not_found`."""
    partition = adjusting.adjustment_partition(request.path["adjustment_id"])
    waiting = store().under(request.program_id, partition)[1] if partition else []
    for found in waiting:
        if found.proposal is not None:
            return found
    raise Refusal("adjustment_not_found", "No adjustment was proposed under this id.")


def _record(request: Request, waiting: Waiting) -> dict[str, Any]:
    """The proposal as it stands."""
    sort = adjusting.proposal_sort(waiting.proposal["u"], request.path["adjustment_id"])
    for place in adjusting.PLACES:
        record = store().record(adjusting.proposals(request.program_id, place), sort)
        if record is not None:
            return record
    raise Refusal("adjustment_not_found", "No adjustment was proposed under this id.")


def _still_proposed(proposal: dict[str, Any], now: int) -> None:
    status = _status(proposal, now)
    if status != "proposed":
        raise Refusal(
            "adjustment_settled", f"This adjustment is {status}.", adjustment_status=status
        )


@handler.route(
    "POST",
    f"{BASE}/adjustments/{{adjustment_id}}/refuse",
    operation="refuse",
    roles=STAFF,
    answers={200: Proposal},
    problems=("adjustment_not_found", "adjustment_settled", "unavailable"),
)
def refuse(request: Request) -> Response:
    """Refuse what was proposed, or withdraw it. Its note is forgotten."""
    by = request.caller.subject
    waiting = _waiting(request)
    proposal = _record(request, waiting)
    headers = {}
    if proposal["status"] == "proposed":
        _still_proposed(proposal, request.now)
        store().write_records(adjusting.settled(request.program_id, proposal, "refused", by))
        proposal = _record(request, waiting)
    else:
        headers = {"Idempotency-Replayed": "true"}
    if (proposal["status"], proposal.get("settled_by")) != ("refused", by):
        _still_proposed(proposal, request.now)
        raise Unavailable("somebody else settles it at this moment")
    return Response(_proposal(proposal, request.now), 200, headers)


# The account as a whole


@handler.route(
    "POST",
    f"{BASE}/members/{{member_id}}/merge",
    operation="merge",
    roles=STAFF,
    body=Merge,
    answers={201: projections.Merged},
    problems=(
        "member_not_found",
        "member_erased",
        "member_closed",
        "same_member",
        "open_holds",
        "too_many_points",
        "idempotency_key_reused",
    ),
    key="required",
)
def merge(request: Request, command: Merge) -> Response:
    """Make two members one; the id in the address is an alias of the other from then on."""
    program_id, member_id = request.program_id, request.member(request.path["member_id"])
    guard = request.key_guard(str(request.key()), member_id)
    rulebook = store().rulebook_in_force(program_id, request.now)

    def decide(known: Known) -> Decision:
        goes = known.account(member_id).member_id
        stays = known.account(command.into_member_id).member_id
        records = () if goes == stays else _handed_over(program_id, goes, stays)
        by = request.caller.subject
        return lifecycle.merge(
            rulebook, known, guard, member_id, command.into_member_id, by, records, request.now
        )

    committed = store().commit(program_id, [member_id, command.into_member_id], guard, decide)
    return answer(committed, projections.merged(committed.entry))


def _handed_over(program_id: str, goes: str, stays: str) -> tuple[Record, ...]:
    """The profile of the one that goes is removed; the one that stays remembers the other's id,
    under which its notes stand, and its referral code, which goes on to count."""
    profile = store().record(f"{program_id}#member#{goes}", "profile")
    kept = {} if profile is None else profile
    fields = {
        "member_id": goes,
        "referral_code": kept.get("referral_code"),
        "salt": kept.get("salt"),  # by which a repeat of the enrolment is still known
        "revision": 1,
    }
    alias = Record(f"{program_id}#member#{stays}", f"alias#{goes}", fields)
    if profile is None:
        return (alias,)
    return alias, Record(profile["pk"], profile["sk"], seen=int(profile["revision"]))


def _carried_out(
    request: Request, decide: Callable[[Known, str, Guard], Decision]
) -> Committed | Account:
    """Commit a change of an account under a key of its own; the account where it is so already."""
    member_id = request.member(request.path["member_id"])
    key = request.key(required=False)
    guard = request.key_guard(key or str(uuid4()), member_id)
    seen: list[Account] = []

    def decision(known: Known) -> Decision:
        seen[:] = [known.account(member_id)]
        return decide(known, member_id, guard)

    try:
        return store().commit(request.program_id, [member_id], guard, decision)
    except Refusal as refusal:
        if refusal.code != "nothing_due":  # a repeat: there is nothing to change
            raise
        # As it was when that was found: others may have changed it since.
        return seen[0]


def _change(request: Request, kind: Literal["block", "unblock", "close"]) -> Response:
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    by = request.caller.subject

    def decide(known: Known, member_id: str, guard: Guard) -> Decision:
        return lifecycle.change_status(rulebook, known, guard, member_id, kind, by, request.now)

    done = _carried_out(request, decide)
    if isinstance(done, Committed):
        return answer(done, projections.status_changed(done.entry), status=200)
    body: projections.StatusChanged = {
        "member_id": done.member_id,
        "status": done.status or "active",
        "balance": projections.balance_of(rulebook, done, request.now),
    }
    return Response(body)


STATUS_PROBLEMS = ("member_not_found", "member_erased", "member_closed", "idempotency_key_reused")


def _status_route(change: Literal["block", "unblock", "close"]) -> Callable[[Handler], Handler]:
    return handler.route(
        "POST",
        f"{BASE}/members/{{member_id}}/{change}",
        operation=change,
        roles=STAFF,
        answers={200: projections.StatusChanged},
        problems=STATUS_PROBLEMS,
        key="optional",
    )


@_status_route("block")
def block(request: Request) -> Response:
    """Let a member earn, but not spend."""
    return _change(request, "block")


@_status_route("unblock")
def unblock(request: Request) -> Response:
    """Let a member spend again."""
    return _change(request, "unblock")


@_status_route("close")
def close(request: Request) -> Response:
    """End a membership: nothing is earned or spent any more, points expire by themselves."""
    return _change(request, "close")


@handler.route(
    "POST",
    f"{BASE}/members/{{member_id}}/tier",
    operation="tier",
    roles=STAFF,
    body=SetTier,
    answers={200: projections.TierSet},
    problems=(*STATUS_PROBLEMS, "unknown_tier", "expires_too_early"),
    key="optional",
)
def tier(request: Request, command: SetTier) -> Response:
    """Put a member into a tier until a date, or take that off again."""
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    by = request.caller.subject

    def decide(known: Known, member_id: str, guard: Guard) -> Decision:
        return lifecycle.set_tier(rulebook, known, guard, member_id, command, by, request.now)

    _carried_out(request, decide)
    account = store().member(request.program_id, request.path["member_id"], consistent=True)
    body: projections.TierSet = {
        "member_id": account.member_id,
        "tier": projections.standing(rulebook, account, request.now),
    }
    return Response(body)
