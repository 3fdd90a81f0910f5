"""What staff do to an account: adjustments, tiers, blocking, closing, merging."""

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
from loyalty.model import Known, Refusal
from loyalty.store import Committed, KeyReused

handler = App()

PROPOSAL_DAYS = 7
"""How long a proposed adjustment waits for another person."""
STATUSES = ("proposed", "approved", "refused", "lapsed")

type Status = Literal["proposed", "approved", "refused", "lapsed"]


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
    """A page of proposals, in the order of their ids."""

    items: list[Proposal]
    next_cursor: str | None


# Adjustments


@handler.route(
    "POST",
    f"{BASE}/adjustments",
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
    """Give or take points, with a reason. Beyond the program's amount it is only proposed (202)."""
    key = str(request.key())
    program_id, by = request.program_id, request.caller.subject
    rulebook = store().rulebook_in_force(program_id, request.now)
    guard = request.key_guard(key, command.member_id)
    known = store().record(_proposals(program_id), adjusting.adjustment_id(key))
    if known is not None:
        return _proposed_before(known, guard)
    done = store().entry(program_id, guard.partition)
    if done is None and adjusting.needs_second_person(rulebook, command.points):
        return _propose(request, command, key, guard)
    committed = store().commit(
        program_id,
        [command.member_id],
        guard,
        lambda known: adjusting.adjust(
            rulebook,
            known,
            guard,
            command,
            by,
            request.now,
            records=_notes(request, known, command, key, by),
        ),
    )
    return answer(committed, projections.adjusted(committed.entry))


def _notes(
    request: Request, known: Known, command: Adjustment, key: str, by: str
) -> tuple[Record, ...]:
    """The note, beside the profile: it may be personal, and goes when that goes."""
    if command.note is None:
        return ()
    member_id = known.account(command.member_id).member_id
    fields = {"note": command.note, "by": by, "at": request.now, "revision": 1}
    partition = f"{request.program_id}#member#{member_id}"
    return (Record(partition, f"note#{key}", fields),)


def _proposals(program_id: str) -> str:
    return f"{program_id}#adjustments"


def _propose(request: Request, command: Adjustment, key: str, guard: Guard) -> Response:
    store().member(request.program_id, command.member_id, consistent=True)
    fields = {
        "key": key,
        "fingerprint": guard.fingerprint,
        "member_id": command.member_id,
        "points": command.points,
        "reason_code": command.reason_code,
        "expires_on": None if command.expires_on is None else command.expires_on.isoformat(),
        "note": command.note,
        "by": request.caller.subject,
        "at": request.now,
        "status": "proposed",
        "revision": 1,
    }
    identity = adjusting.adjustment_id(key)
    if not store().create_record(Record(_proposals(request.program_id), identity, fields)):
        known = store().record(_proposals(request.program_id), identity) or {}
        return _proposed_before(known, guard)
    made = store().record(_proposals(request.program_id), identity) or {}
    try:
        store().member(request.program_id, command.member_id, consistent=True)
    except Refusal:
        # Erased since we looked: whoever erased may not have seen this note.
        kept = {k: v for k, v in made.items() if k not in ("pk", "sk", "note")}
        without = Record(made["pk"], made["sk"], kept | {"revision": made["revision"] + 1})
        store().replace_record(without, seen=made)
        raise
    return Response(_proposal(made, made["at"]), 202)


def _proposed_before(known: dict[str, Any], guard: Guard) -> Response:
    """The first answer again: that it was proposed."""
    if known["fingerprint"] != guard.fingerprint:
        raise KeyReused
    first = _proposal({**known, "status": "proposed", "settled_by": None}, known["at"])
    return Response(first, 202, {"Idempotency-Replayed": "true"})


def _proposal(record: dict[str, Any], now: int) -> Proposal:
    lapses_at = record["at"] + PROPOSAL_DAYS * 86_400_000
    lapsed = record["status"] == "proposed" and now >= lapses_at
    shown: Proposal = {
        "adjustment_id": record["sk"],
        "status": "lapsed" if lapsed else record["status"],
        "member_id": record["member_id"],
        "points": record["points"],
        "reason_code": record["reason_code"],
        "proposed_by": record["by"],
        "proposed_at": rfc3339(record["at"]),
        "lapses_at": rfc3339(lapses_at),
    }
    if record.get("expires_on"):
        shown["expires_on"] = record["expires_on"]
    if record.get("note"):
        shown["note"] = record["note"]
    if record.get("settled_by"):
        shown["settled_by"] = record["settled_by"]
    return shown


@handler.route(
    "GET",
    f"{BASE}/adjustments",
    roles=STAFF,
    answers={200: ProposalPage},
    query=("status", "limit", "cursor"),
)
def proposals(request: Request) -> Response:
    """Adjustments that were proposed to a second person."""
    limit, after = request.page()
    wanted = request.query.get("status")
    if wanted is not None and wanted not in STATUSES:
        raise Problem("invalid_query", f"status is one of {', '.join(STATUSES)}.")
    place = "" if after is None else position(after)
    records = store().records_of(_proposals(request.program_id))
    shown = [_proposal(record, request.now) for record in records if record["sk"] > place]
    found = [row for row in shown if wanted in (None, row["status"])]
    page: ProposalPage = {
        "items": found[:limit],
        "next_cursor": cursor(found[limit - 1]["adjustment_id"]) if len(found) > limit else None,
    }
    return Response(page)


@handler.route(
    "POST",
    f"{BASE}/adjustments/{{adjustment_id}}/approve",
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
    first = _open(request)
    expires_on = first.get("expires_on")
    command = Adjustment.model_construct(
        member_id=first["member_id"],
        points=first["points"],
        reason_code=first["reason_code"],
        note=first.get("note"),
        expires_on=None if expires_on is None else date.fromisoformat(expires_on),
    )
    guard = Guard(key_partition(first["key"]), "approved", first["fingerprint"])

    def decide(known: Known) -> Decision:
        proposal = _open(request)
        _still_proposed(proposal, request.now)
        if proposal["by"] == by:
            raise Refusal("same_person", "Who proposed it cannot approve it.")
        # The note goes to the profile now, where it is erased with it.
        settled = _settled(proposal, "approved", by) | {"note": None}
        records = (
            Record(proposal["pk"], proposal["sk"], settled, seen=proposal["revision"]),
            *_notes(request, known, command, proposal["key"], proposal["by"]),
        )
        return adjusting.adjust(
            rulebook,
            known,
            guard,
            command,
            proposal["by"],
            request.now,
            approved_by=by,
            records=records,
        )

    committed = store().commit(program_id, [command.member_id], guard, decide, reads=True)
    return answer(committed, projections.adjusted(committed.entry))


def _open(request: Request) -> dict[str, Any]:
    identity = request.path["adjustment_id"]
    proposal = store().record(_proposals(request.program_id), identity)
    if proposal is None:
        raise Refusal("adjustment_not_found", "No adjustment was proposed under this id.")
    return proposal


def _still_proposed(proposal: dict[str, Any], now: int) -> None:
    status = _proposal(proposal, now)["status"]
    if status != "proposed":
        raise Refusal(
            "adjustment_settled", f"This adjustment is {status}.", adjustment_status=status
        )


def _settled(proposal: dict[str, Any], status: Status, by: str) -> dict[str, Any]:
    kept = {name: value for name, value in proposal.items() if name not in ("pk", "sk")}
    return kept | {"status": status, "settled_by": by, "revision": proposal["revision"] + 1}


@handler.route(
    "POST",
    f"{BASE}/adjustments/{{adjustment_id}}/refuse",
    roles=STAFF,
    answers={200: Proposal},
    problems=("adjustment_not_found", "adjustment_settled", "unavailable"),
)
def refuse(request: Request) -> Response:
    """Refuse what was proposed, or withdraw it."""
    by = request.caller.subject
    proposal = _open(request)
    if proposal["status"] == "refused" and proposal["settled_by"] == by:
        again = {"Idempotency-Replayed": "true"}
        return Response(_proposal(proposal, request.now), 200, again)
    _still_proposed(proposal, request.now)
    settled = _settled(proposal, "refused", by) | {"note": None}
    record = Record(proposal["pk"], proposal["sk"], settled)
    if not store().replace_record(record, seen=proposal):
        _still_proposed(_open(request), request.now)
        raise Problem("unavailable", "Somebody else settles it at this moment; look again.")
    return Response(_proposal(_open(request), request.now))


# The account as a whole


@handler.route(
    "POST",
    f"{BASE}/members/{{member_id}}/merge",
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
    code = None if profile is None else profile["referral_code"]
    fields = {"member_id": goes, "referral_code": code, "revision": 1}
    alias = Record(f"{program_id}#member#{stays}", f"alias#{goes}", fields)
    if profile is None:
        return (alias,)
    return alias, Record(profile["pk"], profile["sk"], seen=int(profile["revision"]))


def _carried_out(
    request: Request, decide: Callable[[str, Guard], Callable[[Known], Decision]]
) -> Committed | None:
    """Commit a change of an account under a key of its own; None where it is so already."""
    member_id = request.member(request.path["member_id"])
    key = request.key(required=False)
    guard = request.key_guard(key or str(uuid4()), member_id)
    try:
        return store().commit(request.program_id, [member_id], guard, decide(member_id, guard))
    except Refusal as refusal:
        if refusal.code != "nothing_due":  # a repeat: there is nothing to change
            raise
        return None


def _change(request: Request, kind: Literal["block", "unblock", "close"]) -> Response:
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    by = request.caller.subject

    def decision(member_id: str, guard: Guard) -> Callable[[Known], Decision]:
        return lambda known: lifecycle.change_status(
            rulebook, known, guard, member_id, kind, by, request.now
        )

    committed = _carried_out(request, decision)
    if committed is not None:
        return answer(committed, projections.status_changed(committed.entry), status=200)
    account = store().member(request.program_id, request.path["member_id"], consistent=True)
    body: projections.StatusChanged = {
        "member_id": account.member_id,
        "status": account.status or "active",
        "balance": projections.balance_of(rulebook, account, request.now),
    }
    return Response(body)


STATUS_PROBLEMS = ("member_not_found", "member_erased", "member_closed", "idempotency_key_reused")


def _status_route(change: str) -> Callable[[Handler], Handler]:
    return handler.route(
        "POST",
        f"{BASE}/members/{{member_id}}/{change}",
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

    def decision(member_id: str, guard: Guard) -> Callable[[Known], Decision]:
        return lambda known: lifecycle.set_tier(
            rulebook, known, guard, member_id, command, by, request.now
        )

    _carried_out(request, decision)
    account = store().member(request.program_id, request.path["member_id"], consistent=True)
    body: projections.TierSet = {
        "member_id": account.member_id,
        "tier": projections.standing(rulebook, account, request.now),
    }
    return Response(body)
