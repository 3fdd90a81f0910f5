"""Members: enrolment, profile, export, erasure."""

import hmac
import re
from collections.abc import Iterator
from itertools import count
from secrets import token_bytes
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

from loyalty import codes, earning, lifecycle, projections, referrals
from loyalty.commands import Enrolment, Event, Profile
from loyalty.dates import rfc3339
from loyalty.decisions import Decision, Guard, Record, key_partition, member_id_from_key
from loyalty.edge import (
    ANYONE,
    BASE,
    OWN,
    SHOP,
    App,
    Problem,
    Request,
    Response,
    answer,
    canonical,
    cursor,
    page_of,
    position,
    store,
)
from loyalty.history import not_ours, whole_history_page
from loyalty.model import Entry, Known, Refusal
from loyalty.store import Committed, KeyReused, Unavailable

handler = App()

PERSONAL = ("email", "phone", "name", "birthday", "timezone")
"""What a profile holds; groups stand in the account, where rules ask for them."""
NOTES = "#notes:"
"""Before how many notes of an export have been told, in its cursor."""
COMPLETE = ("email", "phone", "name", "birthday")
"""What makes a profile complete."""
SALT_BYTES = 16

MOST_RECORDS = 75
"""Removed in the transaction that erases a member, which takes 100 items in all: there are two for
the account, and one for the stock of each of 20 holds. The rest is removed right after it."""
CHANGE_ATTEMPTS = 4
"""How often a change of a profile is tried while others change it too."""


class Member(TypedDict):
    """A member's profile; `status` where the member may not do everything."""

    member_id: str
    status: NotRequired[str]
    referral_code: str
    groups: list[str]
    enrolled_at: str
    email: NotRequired[str]
    phone: NotRequired[str]
    name: NotRequired[str]
    birthday: NotRequired[str]
    timezone: NotRequired[str]


class Note(TypedDict):
    """What staff noted with an adjustment."""

    note: str
    by: str
    at: str


class Exported(TypedDict):
    """All that is held of a person; the ledger page by page, with what was done under the ids that
    were merged into this one."""

    profile: Member
    merged_member_ids: list[str]
    balance: projections.Balance
    notes: list[Note]
    entries: projections.HistoryPage


class Erased(TypedDict):
    """A member who is forgotten; the id brings nobody back."""

    member_id: str
    status: str


@handler.route(
    "POST",
    f"{BASE}/members",
    operation="enrol",
    roles=SHOP,
    body=Enrolment,
    answers={201: projections.Enrolled},
    problems=(
        "idempotency_key_missing",
        "member_exists",
        "member_erased",
        "referral_code_unknown",
        "self_referral",
        "idempotency_key_reused",
    ),
    key="optional",
)
def enrol(request: Request, command: Enrolment) -> Response:
    """Enrol a member; registration pays at once. The same body again is a replay."""
    program_id = request.program_id
    key = request.key(required=command.member_id is None)
    member_id = command.member_id or member_id_from_key(program_id, str(key))
    salt = token_bytes(SALT_BYTES) if request.document.keys() & {*PERSONAL} else None
    partition = f"m#{member_id}" if key is None else key_partition(key)
    guard = Guard(partition, "0", _fingerprint(request, member_id, salt))
    rulebook = store().rulebook_in_force(program_id, request.now)
    draws = count()

    def decide(known: Known) -> Decision:
        # Judged here, so that a repeat is recognised before.
        referrer = _referrer(program_id, command, member_id)
        code = codes.referral_code(program_id, member_id, next(draws))
        personal = command.model_dump(mode="json", include=set(PERSONAL), exclude_none=True)
        profile = personal | {
            "referral_code": code,
            "enrolled_at": request.now,
            "enrolled_by": guard.partition,
            "salt": salt,
            "revision": 1,
        }
        records = (
            Record(f"{program_id}#member#{member_id}", "profile", profile),
            Record(
                f"{program_id}#referral#{code}",
                "referral",
                {"member_id": member_id, "revision": 1},
            ),
        )
        return earning.enrol(
            rulebook, known, guard, member_id, command, code, referrer, records, request.now
        )

    try:
        committed = store().commit(program_id, [member_id], guard, decide)
    except KeyReused as reused:
        before = reused.stands
        if not isinstance(before, Entry) or before.member_id != member_id:
            raise
        if not _is_repeat(request, before):
            # Of one who was erased nobody can tell whether it is a repeat.
            store().member(program_id, member_id, consistent=True)
            if key is not None:
                raise
            raise Refusal("member_exists", "Another member was enrolled under this id.") from None
        committed = Committed(before, True, 0)
    except Refusal as refusal:
        # Enrolled before, under another key: the same body is a replay all the same.
        before = _enrolment(program_id, member_id) if refusal.code == "member_exists" else None
        if before is None or not _is_repeat(request, before):
            raise
        committed = Committed(before, True, 0)
    if committed.replayed:
        # Nobody is told that a member is enrolled who was erased since.
        store().member(program_id, member_id, consistent=True)
    _complete(request, member_id)
    decided = store().rulebook(program_id, committed.entry.version)
    return answer(committed, projections.enrolled(decided, committed.entry))


def _fingerprint(request: Request, member_id: str, salt: bytes | None) -> bytes:
    """The fingerprint of an enrolment. What is personal is in it only as an HMAC under the salt,
    a random one that stands in the profile and goes with it: then no guess can be tried any more.
    """
    said = request.document
    if salt is not None:
        personal = {name: value for name, value in said.items() if name in PERSONAL}
        told = {name: value for name, value in said.items() if name not in PERSONAL}
        said = told | {"personal": hmac.digest(salt, canonical(personal).encode(), "sha256").hex()}
    return request.fingerprint_of(member_id, said)


def _is_repeat(request: Request, before: Entry) -> bool:
    """Whether an entry is the enrolment that this body asks for, as far as its salt is kept."""
    salt = _salt(request.program_id, before.member_id)
    return before.fingerprint == _fingerprint(request, before.member_id, salt)


def _salt(program_id: str, member_id: str) -> bytes | None:
    """The salt of a member's enrolment; with one who was merged it is where its id is kept."""
    profile = store().record(f"{program_id}#member#{member_id}", "profile")
    if profile is None:
        account = store().account(program_id, member_id, consistent=True)
        if account is None or not account.merged_into:
            return None
        into = f"{program_id}#member#{account.merged_into}"
        profile = store().record(into, f"alias#{member_id}") or {}
    return profile.get("salt")


def _referrer(program_id: str, command: Enrolment, member_id: str) -> str:
    """Who brought this member; Refusal for an unknown code or one's own."""
    if command.referral_code is None:
        return ""
    code = store().record(f"{program_id}#referral#{command.referral_code.upper()}", "referral")
    if code is None:
        raise Refusal("referral_code_unknown", "No member has this code.", pointer="/referral_code")
    try:
        referrer = store().member(program_id, str(code["member_id"])).member_id
    except Refusal:
        raise Refusal(
            "referral_code_unknown", "Who had this code has gone.", pointer="/referral_code"
        ) from None
    profile = store().record(f"{program_id}#member#{referrer}", "profile") or {}
    if referrer == member_id or referrals.same_person(profile, command.email, command.phone):
        raise Refusal("self_referral", "Nobody can refer themselves.")
    return referrer


def _complete(request: Request, member_id: str) -> None:
    """Pay for a completed profile, once and for ever, when the rules do: where they give nothing
    yet, the next change asks again. A merge in between leaves nothing to pay for."""
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    if not rulebook.considered("profile_completed"):
        return
    profile = store().record(f"{request.program_id}#member#{member_id}", "profile") or {}
    if not all(profile.get(name) for name in COMPLETE):
        return
    event = Event.model_construct(
        event_id=f"profile_completed:{member_id}",
        type="profile_completed",
        member_id=member_id,
        attributes={},
    )
    guard = Guard(f"p#{member_id}", "0", b"")
    try:
        store().commit(
            request.program_id,
            [member_id],
            guard,
            lambda known: earning.complete_profile(rulebook, known, guard, event, request.now),
        )
    except Refusal as refusal:
        if refusal.code not in ("nothing_due", "member_closed"):
            raise


def _enrolment(program_id: str, member_id: str) -> Any:
    profile = store().record(f"{program_id}#member#{member_id}", "profile")
    return profile and store().entry(program_id, profile["enrolled_by"])


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}",
    operation="read",
    roles=ANYONE,
    answers={200: Member},
    problems=("member_not_found", "member_erased"),
)
def read(request: Request) -> Response:
    """A member's profile."""
    return Response(_member(request, request.member(request.path["member_id"])))


@handler.route(
    "PATCH",
    f"{BASE}/members/{{member_id}}",
    operation="change",
    roles=ANYONE,
    body=Profile,
    answers={200: Member},
    problems=("member_not_found", "member_erased", "forbidden"),
)
def change(request: Request, command: Profile) -> Response:
    """Change a profile: fields that are given are set, null removes one. Groups are the shop's."""
    member_id = request.member(request.path["member_id"])
    given = command.model_fields_set
    if "groups" in given and request.is_by_a_member:
        raise Problem("forbidden", "Groups are set by the shop.")
    program_id = request.program_id
    # The profile of a member who was merged is the other one's.
    member_id = store().member(program_id, member_id).member_id
    partition = f"{program_id}#member#{member_id}"
    values = command.model_dump(mode="json", include=set(PERSONAL))
    changes = {name: values[name] for name in PERSONAL if name in given}
    for _ in range(CHANGE_ATTEMPTS if changes else 0):
        profile = store().record(partition, "profile")
        if profile is None:
            store().member(program_id, member_id, consistent=True)  # not where it was erased
            raise Unavailable("merged meanwhile: this profile is no more")
        fields = {k: v for k, v in profile.items() if k not in ("pk", "sk")} | changes
        fields["revision"] += 1
        if store().replace_record(Record(partition, "profile", fields), seen=profile):
            break
    else:
        if changes:
            raise Unavailable("the profile is being changed by others")
    if "groups" in given or "birthday" in given:
        rulebook = store().rulebook_in_force(program_id, request.now)
        # Nobody sends this key again: there is nothing to compare, and the body is personal.
        guard = Guard(key_partition(str(uuid4())), "0", b"")
        groups = (command.groups or []) if "groups" in given else None
        birthday = earning.birthday_of(command.birthday) or 0 if "birthday" in given else None

        def decide(known: Known) -> Decision:
            account = known.account(member_id)
            if account.member_id != member_id:
                raise Unavailable("merged meanwhile: this profile is no more")
            return earning.update(
                rulebook, account, guard, request.now, groups=groups, birthday=birthday
            )

        try:
            store().commit(program_id, [member_id], guard, decide)
        except Refusal as refusal:
            if refusal.code != "nothing_due":  # a repeat: there is nothing to change
                raise
    _complete(request, member_id)
    return Response(_member(request, member_id))


@handler.route(
    "DELETE",
    f"{BASE}/members/{{member_id}}",
    operation="erase",
    roles=OWN,
    answers={200: Erased},
    problems=("member_not_found",),
)
def erase(request: Request) -> Response:
    """Forget a member: every personal value is removed, points are written off, the id stays as a
    tombstone. An id that was merged into another stands for that one. A repeat gets this answer
    again, and finishes what was cut off."""
    program_id, asked = request.program_id, request.member(request.path["member_id"])
    rulebook = store().rulebook_in_force(program_id, request.now)
    member_id = _person(program_id, asked)
    guard = Guard(f"x#{member_id}", "0", b"")

    def decide(known: Known) -> Decision:
        if known.account(member_id).member_id != member_id:
            raise Unavailable("merged meanwhile: this is another member now")
        held = [r for r in _held(program_id, member_id) if not r["sk"].startswith("alias#")]
        records = tuple(_removals(program_id, held))[:MOST_RECORDS]
        return lifecycle.erase(rulebook, known, guard, member_id, records, request.now)

    try:
        store().commit(program_id, [member_id], guard, decide)
    except Refusal as refusal:
        if refusal.code != "member_erased":
            raise
    # What was too much for one transaction, and what came in at the same moment.
    while held := _held(program_id, member_id):
        store().remove_records(list(_removals(program_id, held)))
    body: Erased = {"member_id": asked, "status": "erased"}
    return Response(body)


def _person(program_id: str, member_id: str) -> str:
    """The id under which the account stands, of one who was erased too; `member_not_found`."""
    *_, (person, account) = store().followed(program_id, [member_id], consistent=True).items()
    if account is None:
        raise Refusal("member_not_found", "No member of this program has this id.")
    return person


def _held(program_id: str, member_id: str) -> list[dict[str, Any]]:
    """All records of a person: the profile first, then those under ids that were merged into this
    one, and under each what leads to other ids behind all that stands under those."""
    held: list[list[dict[str, Any]]] = []
    ids = [member_id]
    for each in ids:  # it grows on the way
        found = store().records_of(f"{program_id}#member#{each}")
        found.sort(key=lambda record: record["sk"].startswith("alias#"))
        ids += _aliases(found)
        held.append(found)
    records = [record for found in reversed(held) for record in found]
    records.sort(key=lambda record: record["sk"] != "profile")
    return records


def _aliases(held: list[dict[str, Any]]) -> list[str]:
    """The ids that were merged into a person's, of all that is held of it."""
    return [r["member_id"] for r in held if r["sk"].startswith("alias#")]


def _removals(program_id: str, held: list[dict[str, Any]]) -> Iterator[Record]:
    """The removal of these records, each with the referral code that it names."""
    for record in held:
        if record.get("referral_code"):
            yield Record(f"{program_id}#referral#{record['referral_code']}", "referral")
        yield Record(record["pk"], record["sk"])


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/export",
    operation="export",
    roles=OWN,
    answers={200: Exported},
    problems=("member_not_found", "member_erased"),
    query=("limit", "cursor"),
)
def export(request: Request) -> Response:
    """All that is held of a person, to be handed over: profile, balance, notes, the ledger."""
    program_id, member_id = request.program_id, request.member(request.path["member_id"])
    account = store().member(program_id, member_id, consistent=True)
    rulebook = store().rulebook_in_force(program_id, request.now)
    held = _held(program_id, account.member_id)
    aliases = _aliases(held)
    ids = [account.member_id, *aliases]
    body: Exported = {
        "profile": _member(request, account.member_id),
        "merged_member_ids": aliases,
        "balance": projections.balance(rulebook, account, request.now),
        "notes": [],
        "entries": {"items": [], "next_cursor": None},
    }
    beside = projections.answer_bytes(body)
    after = request.page()[1]
    told = NOTES if after is None else position(after)
    if not told.startswith(NOTES):
        body["entries"] = whole_history_page(request, ids, told, beside=beside)
        return Response(body)
    # Notes come first: as many as find room, then the entries behind the last of them.
    notes = [r for r in held if r["sk"].startswith("note#")]
    counted = told.removeprefix(NOTES)
    if counted and not re.fullmatch("[0-9]{1,9}", counted):
        raise not_ours()
    shown = int(counted or 0)
    items: list[Note] = [
        {"note": r["note"], "by": r["by"], "at": rfc3339(r["at"])} for r in notes[shown:]
    ]
    body["notes"], cut = page_of(items, len(items), beside=beside)
    if cut:
        more = cursor(f"{NOTES}{shown + len(body['notes'])}")
        body["entries"] = {"items": [], "next_cursor": more}
    else:
        beside = projections.answer_bytes(body)
        body["entries"] = whole_history_page(request, ids, None, beside=beside)
    return Response(body)


def _member(request: Request, member_id: str) -> Member:
    account = store().member(request.program_id, member_id, consistent=True)
    member_id = account.member_id
    profile = store().record(f"{request.program_id}#member#{member_id}", "profile") or {}
    member: Member = {
        "member_id": member_id,
        "referral_code": profile.get("referral_code", ""),
        "groups": list(account.groups),
        "enrolled_at": rfc3339(profile.get("enrolled_at", 0)),
    }
    if account.status:
        member["status"] = account.status
    for name in PERSONAL:
        if name in profile:
            member[name] = profile[name]  # type: ignore[literal-required]  # names of the TypedDict
    return member
