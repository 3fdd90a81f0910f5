"""Members: enrolment and profile."""

from itertools import count
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

from loyalty import codes, earning, projections, referrals
from loyalty.commands import Enrolment, Event, Profile
from loyalty.dates import rfc3339
from loyalty.decisions import Decision, Guard, Record, member_id_from_key
from loyalty.edge import ANYONE, BASE, SHOP, App, Problem, Request, Response, answer, store
from loyalty.model import Known, Refusal
from loyalty.store import Committed, KeyReused, Unavailable

handler = App()

PERSONAL = ("email", "phone", "name", "birthday", "timezone")
"""What a profile holds; groups stand in the account, where rules ask for them."""
COMPLETE = ("email", "phone", "name", "birthday")
"""What makes a profile complete."""

CHANGE_ATTEMPTS = 4
"""How often a change of a profile is tried while others change it too."""


class Member(TypedDict):
    """A member's profile."""

    member_id: str
    referral_code: str
    groups: list[str]
    enrolled_at: str
    email: NotRequired[str]
    phone: NotRequired[str]
    name: NotRequired[str]
    birthday: NotRequired[str]
    timezone: NotRequired[str]


@handler.route(
    "POST",
    f"{BASE}/members",
    roles=SHOP,
    body=Enrolment,
    answers={201: projections.Enrolled},
    problems=(
        "idempotency_key_missing",
        "member_exists",
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
    guard = request.guard(f"m#{member_id}" if key is None else f"k#{key}", member_id)
    rulebook = store().rulebook_in_force(program_id, request.now)
    salts = count()

    def decide(known: Known) -> Decision:
        # Judged here, so that a repeat is recognised before.
        referrer = _referrer(program_id, command, member_id)
        code = codes.referral_code(program_id, member_id, next(salts))
        personal = command.model_dump(mode="json", include=set(PERSONAL), exclude_none=True)
        profile = personal | {
            "referral_code": code,
            "enrolled_at": request.now,
            "enrolled_by": guard.partition,
            "revision": 1,
        }
        records = (
            Record(f"{program_id}#member#{member_id}", "profile", profile),
            Record(f"{program_id}#referral#{code}", "referral", {"member_id": member_id}),
        )
        return earning.enrol(
            rulebook, known, guard, member_id, command, code, referrer, records, request.now
        )

    try:
        committed = store().commit(program_id, [member_id], guard, decide)
    except KeyReused:
        if key is not None:
            raise
        raise Refusal("member_exists", "Another member was enrolled under this id.") from None
    except Refusal as refusal:
        # Enrolled before, under another key: the same body is a replay all the same.
        before = _enrolment(program_id, member_id) if refusal.code == "member_exists" else None
        if before is None or before.fingerprint != guard.fingerprint:
            raise
        committed = Committed(before, True, 0)
    _complete(request, member_id)
    decided = store().rulebook(program_id, committed.entry.version)
    return answer(committed, projections.enrolled(decided, committed.entry))


def _referrer(program_id: str, command: Enrolment, member_id: str) -> str:
    """Who brought this member; Refusal for an unknown code or one's own."""
    if command.referral_code is None:
        return ""
    code = store().record(f"{program_id}#referral#{command.referral_code.upper()}", "referral")
    if code is None:
        raise Refusal("referral_code_unknown", "No member has this code.", pointer="/referral_code")
    referrer = str(code["member_id"])
    profile = store().record(f"{program_id}#member#{referrer}", "profile") or {}
    if referrer == member_id or referrals.same_person(profile, command.email, command.phone):
        raise Refusal("self_referral", "Nobody can refer themselves.")
    return referrer


def _complete(request: Request, member_id: str) -> None:
    """Pay for a completed profile, once and for ever, if the rules do."""
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
    store().commit(
        request.program_id,
        [member_id],
        guard,
        lambda known: earning.award(rulebook, known, guard, event, request.now),
    )


def _enrolment(program_id: str, member_id: str) -> Any:
    profile = store().record(f"{program_id}#member#{member_id}", "profile")
    return profile and store().entry(program_id, profile["enrolled_by"])


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}",
    roles=ANYONE,
    answers={200: Member},
    problems=("member_not_found",),
)
def read(request: Request) -> Response:
    """A member's profile."""
    return Response(_member(request, request.member(request.path["member_id"])))


@handler.route(
    "PATCH",
    f"{BASE}/members/{{member_id}}",
    roles=ANYONE,
    body=Profile,
    answers={200: Member},
    problems=("member_not_found", "forbidden"),
)
def change(request: Request, command: Profile) -> Response:
    """Change a profile: fields that are given are set, null removes one. Groups are the shop's."""
    member_id = request.member(request.path["member_id"])
    given = command.model_fields_set
    if "groups" in given and request.caller.is_only_a_member:
        raise Problem("forbidden", "Groups are set by the shop.")
    program_id = request.program_id
    partition = f"{program_id}#member#{member_id}"
    values = command.model_dump(mode="json", include=set(PERSONAL))
    changes = {name: values[name] for name in PERSONAL if name in given}
    for _ in range(CHANGE_ATTEMPTS if changes else 0):
        profile = store().record(partition, "profile")
        if profile is None:
            raise Refusal("member_not_found", "No member of this program has this id.")
        fields = {k: v for k, v in profile.items() if k not in ("pk", "sk")} | changes
        fields["revision"] += 1
        if store().replace_record(Record(partition, "profile", fields), seen=profile):
            break
    else:
        if changes:
            raise Unavailable("the profile is being changed by others")
    if "groups" in given or "birthday" in given:
        rulebook = store().rulebook_in_force(program_id, request.now)
        guard = request.key_guard(str(uuid4()), member_id)
        groups = (command.groups or []) if "groups" in given else None
        birthday = earning.birthday_of(command.birthday) or 0 if "birthday" in given else None
        try:
            store().commit(
                program_id,
                [member_id],
                guard,
                lambda known: earning.update(
                    rulebook,
                    known.account(member_id),
                    guard,
                    request.now,
                    groups=groups,
                    birthday=birthday,
                ),
            )
        except Refusal as refusal:
            if refusal.code != "nothing_due":  # a repeat: there is nothing to change
                raise
    if changes:
        _complete(request, member_id)
    return Response(_member(request, member_id))


def _member(request: Request, member_id: str) -> Member:
    account = store().member(request.program_id, member_id, consistent=True)
    profile = store().record(f"{request.program_id}#member#{member_id}", "profile") or {}
    member: Member = {
        "member_id": member_id,
        "referral_code": profile.get("referral_code", ""),
        "groups": list(account.groups),
        "enrolled_at": rfc3339(profile.get("enrolled_at", 0)),
    }
    for name in PERSONAL:
        if name in profile:
            member[name] = profile[name]  # type: ignore[literal-required]  # names of the TypedDict
    return member
