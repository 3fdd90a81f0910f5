"""Decisions that grant points: enrolment, awards, check-ins."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from loyalty import referrals, refunds, tiers
from loyalty.codes import Secrets, read_check_in_code
from loyalty.commands import Enrolment, Event
from loyalty.dates import day_number, milliseconds
from loyalty.decisions import Decision, Draft, Guard, Record, may_earn
from loyalty.explanations import stored_explanation
from loyalty.limits import (
    FOREVER,
    FUTURE_TOLERANCE,
    ONCE,
    PROGRAM_POINTS,
    Usage,
    cooled_down,
    free_again,
    limit_reached,
    token,
)
from loyalty.lots import credit
from loyalty.model import Account, Count, Day, Entry, Kind, Known, Refusal, Waiting
from loyalty.program import CheckIn, Frequency, Rule
from loyalty.redeeming import Spending
from loyalty.referrals import Referral
from loyalty.refunds import Given, Returned
from loyalty.rules import (
    BUDGET_HIT,
    PROGRAM_BUDGET,
    Evaluation,
    Rulebook,
    earning_base,
)

RESERVED_TYPES = frozenset(
    {"registration", "profile_completed", "referral", "check_in", "birthday", "anniversary"}
)
"""Event types that only the service itself raises."""


def award(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    event: Event,
    now: int,
    waiting: Sequence[Waiting] = (),
    paid: Sequence[Spending] = (),
    counts: tuple[Count, ...] = (),
) -> Decision:
    """Award what the program's rules give for one event.

    `now` is in milliseconds. An event that earns nothing is recorded all the same. A referral of
    one and the same person pays nothing and is forgotten. Refunds that came before the event and
    are `waiting` are carried out in the same entry, with what they mean for the redemptions that
    have `paid` for it. Refusals: `member_not_found`, `member_erased`, `member_closed`,
    `event_too_late`, `event_in_future`, `currency_mismatch`, `too_many_points`; it may ask for more
    to be known: the history where a late event's window has to be counted again, budgets where it
    draws on them, profiles where it pays a referral.
    """
    draft = Draft(rulebook, known.account(event.member_id), now)
    may_earn(draft.account)
    occurred_at = draft.recorded_at if event.occurred_at is None else event.occurred_at
    _in_time(draft, occurred_at)
    program = rulebook.program
    if event.purchase is not None and event.purchase.currency != program.currency:
        raise Refusal(
            "currency_mismatch",
            f"The program counts {program.currency}, the purchase {event.purchase.currency}.",
            pointer="/purchase/currency",
        )
    usage = Usage(draft.before, draft.local_date(occurred_at), program.zone, known.history)
    evaluation = rulebook.evaluate(draft.account, event, occurred_at, usage, known.budgets)
    before = _returned_before(draft, known, event, occurred_at, evaluation, waiting, paid)
    referral = None
    if event.purchase and not (before and before.whole):
        base = before.base if before else sum(earning_base(program, event.purchase))
        drawn = evaluation.draws
        referral = referrals.due(rulebook, known, draft, usage, "first_purchase", base, drawn)
    own = referral is not None and referrals.is_own(known, draft, referral)
    if own:
        referral = None
    entry = granted(
        draft,
        "award",
        guard,
        event,
        occurred_at,
        evaluation,
        referral,
        counts,
        before=before,
        known=known,
        # Who refers themselves has no referrer, whatever the profile says later.
        referrer="" if own else None,
    )
    decision = _with_referrer(rulebook, entry, evaluation, referral, guard, now)
    if before is None:
        return decision
    draws = {**decision.draws}
    for name, points in (*before.budgets.items(), *before.restored.draws.items()):
        draws[name] = draws.get(name, 0) + points
    records = (*decision.records, *before.restored.vouchers)
    closing = (guard.partition, waiting_sort(len(waiting)))
    return replace(decision, records=records, draws=draws, closing=closing)


def waiting_sort(number: int) -> str:
    """The sort key of the refund that waits as the `number`-th, counted from 0."""
    return f"w#{number:03}" if number else "0"


def _returned_before(
    draft: Draft,
    known: Known,
    event: Event,
    occurred_at: int,
    evaluation: Evaluation,
    waiting: Sequence[Waiting],
    paid: Sequence[Spending],
) -> Returned | None:
    """What refunds that were waiting take back of the event; None where none was."""
    if not waiting:
        return None
    given = Given(
        draft.rulebook,
        event.member_id,
        event.type,
        occurred_at,
        _stored(draft, event, evaluation),
        stored_explanation(draft.rulebook, evaluation),
        evaluation.points,
        0,
    )
    return refunds.waited(draft, known, given, waiting, paid)


def _stored(draft: Draft, event: Event, evaluation: Evaluation) -> dict[str, Any]:
    tier = tiers.tier_of(draft.rulebook.program, draft.account)
    tier_id = tier.tier_id if tier else ""
    return refunds.stored_event(draft.rulebook, event, evaluation.line_points, tier_id)


def complete_profile(
    rulebook: Rulebook, known: Known, guard: Guard, event: Event, now: int
) -> Decision:
    """Award a completed profile, once and for ever, also where two members became one.

    Refusals: those of `award`, and `nothing_due` where it was paid before, or where the rules give
    nothing for now: what a member may do once is not used up by what gave nothing.
    """
    account = known.account(event.member_id)
    once = Count("ever", 0, ONCE["profile_completed"], 1)
    if account.counter("ever", 0, once.name):
        raise Refusal("nothing_due", "This profile was completed before.")
    decision = award(rulebook, known, guard, event, now, counts=(once,))
    if not decision.entries[0].points:
        raise Refusal("nothing_due", "The rules give nothing for this profile yet.")
    return decision


def _with_referrer(
    rulebook: Rulebook,
    entry: Entry,
    evaluation: Evaluation,
    referral: Referral | None,
    guard: Guard,
    now: int,
    records: tuple[Record, ...] = (),
) -> Decision:
    """The decision on an entry, with the other side of the referral that it pays."""
    if referral is None:
        return Decision((entry,), records, evaluation.draws)
    draws = dict(evaluation.draws)
    if rulebook.program.budget is not None and (
        referral.referred_points or referral.referrer_points
    ):
        both = referral.referred_points + referral.referrer_points
        draws[PROGRAM_BUDGET] = draws.get(PROGRAM_BUDGET, 0) + both
    other = referrals.referrer_entry(rulebook, referral, guard, now)
    return Decision((entry, other), records, draws)


def _in_time(draft: Draft, occurred_at: int) -> None:
    lateness = draft.rulebook.program.max_lateness
    if occurred_at > draft.recorded_at + FUTURE_TOLERANCE.total_seconds() * 1000:
        raise Refusal("event_in_future", "occurred_at lies more than 5 minutes ahead of our clock.")
    if lateness is not None:
        latest = cooled_down(occurred_at, lateness, draft.rulebook.program.zone)
        if milliseconds(latest) < draft.recorded_at:
            raise Refusal("event_too_late", "The event is older than the program's max_lateness.")


def granted(
    draft: Draft,
    kind: Kind,
    guard: Guard,
    event: Event,
    occurred_at: int,
    evaluation: Evaluation,
    referral: Referral | None = None,
    counts: tuple[Count, ...] = (),
    cooldowns: dict[str, int] | None = None,
    before: Returned | None = None,
    known: Known | None = None,
    **rest: Any,
) -> Entry:
    """The entry of an evaluated event, with the referred member's side of a referral, and less
    what came back `before` it."""
    occurred_on = draft.local_date(occurred_at)
    day = day_number(occurred_on)
    draft.post(credit(draft.account, "award", day, evaluation.grants, draft.today))
    points = evaluation.points
    stored = _stored(draft, event, evaluation)
    explanation = stored_explanation(draft.rulebook, evaluation)
    if referral is not None:
        referrals.grant(draft, referral.referred_points, day)
        points += referral.referred_points
        counts = (*counts, Count("ever", 0, ONCE["referral"], 1))
        _explain_referral(explanation, referral, evaluation)
        both = referral.referred_points + referral.referrer_points
        if draft.rulebook.program.budget is not None and both:
            # What the event drew in all: a reversal gives back just that.
            drawn = explanation.get("b", {})
            explanation["b"] = {**drawn, PROGRAM_BUDGET: drawn.get(PROGRAM_BUDGET, 0) + both}
    lifetime, qualifying = points, _qualifying(draft, event, day, evaluation.points)
    if before is not None and known is not None:
        grants = [posting for posting in draft.postings if posting.kind == "award"]
        explanation["w"] = before.told
        if before.restored.points:
            explanation["s"] = list(before.restored.points)
        counts = (*counts, *before.restored.counts)
        explanation |= refunds.take_back(draft, known, None, grants, before.points, {})
        lifetime -= before.points
        qualifying = tuple((start, n - before.qualified(n)) for start, n in qualifying)
    return draft.entry(
        kind,
        guard,
        occurred_at=occurred_at,
        active_on=day if points else None,
        lifetime=lifetime,
        qualifying=tuple(pair for pair in qualifying if pair[1]),
        counts=(*counts, *evaluation.counts),
        cooldowns={**(cooldowns or {}), **evaluation.cooldowns},
        reason=event.type,
        event=stored,
        explanation=explanation,
        **rest,
    )


def _explain_referral(
    explanation: dict[str, Any], referral: Referral, evaluation: Evaluation
) -> None:
    """The referred member's side, in the stored explanation of what paid it."""
    wanted = referral.referred_points + referral.missed_points
    explanation["f"] = [referral.referred_points, wanted]
    if "d" in explanation or referral.missed_points:
        explanation["d"] = evaluation.desired + wanted
    if referral.budget_left is not None:
        bitten = explanation.setdefault("l", [])
        if [BUDGET_HIT, 0] not in bitten:
            bitten.append([BUDGET_HIT, 0])
        explanation["u"] = {**evaluation.left, PROGRAM_BUDGET: max(0, referral.budget_left)}


def _qualifying(draft: Draft, event: Event, day: Day, points: int) -> tuple[tuple[Day, int], ...]:
    """What the event counts towards a tier, dated by it."""
    terms = draft.rulebook.program.tiers
    if terms is None:
        return ()
    amount = points
    if terms.qualify_by == "spend":
        purchase = event.purchase
        amount = sum(earning_base(draft.rulebook.program, purchase)) if purchase else 0
    if not amount:
        return ()
    return ((tiers.bucket(terms, day, draft.before.joined_on or draft.today), amount),)


def enrol(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    enrolment: Enrolment,
    referral_code: str,
    referrer: str,
    records: tuple[Record, ...],
    now: int,
) -> Decision:
    """A new member, with what the program gives for registration.

    Refusal `member_exists` where the id is taken.
    """
    if known.accounts[member_id] is not None:
        known.account(member_id)  # one that was erased is not brought back
        raise Refusal("member_exists", "Another member was enrolled under this id.")
    nobody = Account(program_id=rulebook.program.program_id, member_id=member_id)
    groups = tuple(sorted(set(enrolment.groups or ())))
    nobody = replace(nobody, groups=groups, referrer=referrer)
    draft = Draft(rulebook, nobody, now)
    # What registration gives may reach a tier at once, in the year that begins today.
    draft.account = replace(draft.account, joined_on=draft.today)
    event = Event.model_construct(
        event_id=member_id, type="registration", member_id=member_id, attributes={}
    )
    usage = Usage(nobody, draft.local_date(draft.recorded_at), rulebook.program.zone, None)
    evaluation = rulebook.evaluate(nobody, event, draft.recorded_at, usage, known.budgets)
    referral = referrals.due(rulebook, known, draft, usage, "registration", 0, evaluation.draws)
    entry = granted(
        draft,
        "enrol",
        guard,
        event,
        draft.recorded_at,
        evaluation,
        referral,
        groups=groups or None,
        joined_on=draft.today,
        birthday=birthday_of(enrolment.birthday),
        referrer=referrer or None,
        answer={"c": referral_code},
    )
    return _with_referrer(rulebook, entry, evaluation, referral, guard, now, records)


def birthday_of(day: date | None) -> int | None:
    """A date of birth as the account keeps it: month and day as MMDD, without the year."""
    return None if day is None else day.month * 100 + day.day


def update(
    rulebook: Rulebook,
    account: Account,
    guard: Guard,
    now: int,
    *,
    groups: Iterable[str] | None = None,
    birthday: int | None = None,
) -> Decision:
    """What rules ask of a profile, set anew: buyer groups, birthday (MMDD, 0 to forget it).

    Refusal `nothing_due` where they are so already.
    """
    draft = Draft(rulebook, account, now)
    before = draft.before
    named = before.groups if groups is None else tuple(sorted(set(groups)))
    day = before.birthday if birthday is None else birthday
    if (named, day) == (before.groups, before.birthday):
        raise Refusal("nothing_due", "The profile says so already.")
    entry = draft.entry(
        "update",
        guard,
        groups=None if named == before.groups else named,
        birthday=None if day == before.birthday else day,
    )
    return Decision((entry,))


def check_in(
    rulebook: Rulebook,
    known: Known,
    guard: Guard,
    member_id: str,
    code: str,
    secrets: Secrets,
    event_id: str,
    now: int,
) -> Decision:
    """A scan of a location's code; it is awarded, or refused and leaves nothing.

    Refusals: `code_invalid`, `member_not_found`, `location_closed`, `limit_reached` (with
    `next_allowed_at`), `nothing_earned`.
    """
    location, rules = scanned_location(rulebook, secrets, code)
    draft = Draft(rulebook, known.account(member_id), now)
    may_earn(draft.account)
    at = draft.recorded_at
    zone = rulebook.program.zone
    if not rules.is_open(draft.instant().astimezone(zone)):
        raise Refusal("location_closed", "This location is closed at this hour.")
    usage = Usage(draft.before, draft.local_date(at), zone, known.history)
    name = token("location", location)
    limits = [Frequency.model_construct(times=t.times, per=t.per) for t in rules.limits]
    if rules.cooldown is not None:
        limits.append(Frequency.model_construct(every=rules.cooldown))
    if (again := _allowed_from(limits, name, usage, at, rulebook)) > at:
        raise _limit_reached(again, at)
    event = Event.model_construct(
        event_id=event_id,
        type="check_in",
        member_id=member_id,
        location_id=location,
        attributes={},
    )
    evaluation = rulebook.evaluate(draft.account, event, at, usage, known.budgets)
    if not evaluation.points:
        stopped = {"frequency", "cooldown", "limit"}
        reasons = rulebook.reasons(event.type, evaluation.codes)
        if evaluation.hits or not stopped.isdisjoint(reasons.values()):
            raise _limit_reached(_rules_allow_from(rulebook, evaluation, usage, at), at)
        raise Refusal("nothing_earned", "No rule of the program gives points for this check-in.")
    counts = tuple(usage.count(per, name, 1) for per in dict.fromkeys(t.per for t in rules.limits))
    cooldowns = {} if rules.cooldown is None else {name: at}
    entry = granted(
        draft, "check_in", guard, event, at, evaluation, counts=counts, cooldowns=cooldowns
    )
    later = Usage(draft.before.after(entry), usage.on, zone, known.history)
    again = max(
        _allowed_from(limits, name, later, at, rulebook),
        _rules_allow_from(rulebook, evaluation, later, at),
    )
    if at < again < FOREVER:
        entry = replace(entry, answer={"n": again})
    return Decision((entry,), draws=evaluation.draws)


def scanned_location(rulebook: Rulebook, secrets: Secrets, text: str) -> tuple[str, CheckIn]:
    """The location whose valid code this is, and how one checks in there; `code_invalid`."""
    code = read_check_in_code(secrets, text)
    program = rulebook.program
    if code is not None and code.program_id == program.program_id:
        location = program.location_by_id.get(code.location_id)
        rules = location.check_in if location else None
        if rules and "static" in rules.kinds and rules.code_version == code.code_version:
            return code.location_id, rules
    raise Refusal("code_invalid", "This code is not one of ours, or it has been withdrawn.")


def _limit_reached(again: int, at: int) -> Refusal:
    # Nobody can tell when a budget is raised: then no time is promised.
    return limit_reached("You have checked in as often as is counted for now.", again, at)


def _allowed_from(
    limits: Iterable[Frequency], name: str, usage: Usage, at: int, rulebook: Rulebook
) -> int:
    """The instant (milliseconds) from which all these limits allow one more time."""
    again = at
    zone = rulebook.program.zone
    for limit in limits:
        if limit.every is not None:
            last = usage.last(name)
            if last is not None:
                again = max(again, milliseconds(cooled_down(last, limit.every, zone)))
        elif limit.per is not None and usage.used(limit.per, name) >= (limit.times or 0):
            again = max(again, free_again([limit.per], usage.on, zone))
    return again


def _rules_allow_from(rulebook: Rulebook, evaluation: Evaluation, usage: Usage, at: int) -> int:
    """The first instant at which one of the rules that could pay here may pay again, by its own
    frequency and points limits and the program's."""
    paying = {"granted", "frequency", "cooldown", "limit"}
    program = rulebook.program
    instants = []
    for index, reason in rulebook.reasons("check_in", evaluation.codes).items():
        rule = rulebook.sources[index]
        if reason not in paying or not isinstance(rule, Rule) or not rule.earn.points:
            continue
        again = _allowed_from(rule.frequency, token("times", rule.rule_id), usage, at, rulebook)
        for limits, name in (
            (rule.limits, token("points", rule.rule_id)),
            (program.limits, PROGRAM_POINTS),
        ):
            for limit in limits:
                if limit.per != "transaction" and usage.used(limit.per, name) >= limit.points:
                    again = max(again, free_again([limit.per], usage.on, program.zone))
        instants.append(again)
    return min(instants, default=at)
