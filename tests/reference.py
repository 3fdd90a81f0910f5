"""A second ledger, as naive as possible, to compare the real one with.

It shares no code and no idea of storage with the engine: a point is one small dict in a list, what
happened is a list of facts, and every limit, window, budget and sum is counted anew from them each
time. It was written from the description of the product alone, by somebody who had not read the
engine; where that description leaves a choice, the choice is listed here and, where it is cheap,
can be turned by `Model(document, readings={...})`.

    model = Model(document)                     # a program document; model.publish(document) later
    answer = model.do({"kind": "award", ...}, now)      # now: integer milliseconds since 1970, UTC
    shown = model.view("ann", now)                      # what a read shows; changes nothing

A command is the body of the API's route and a `kind`: enrol (own_code: this member's referral
code), award (occurred_at in ms), complete_profile, set_groups, set_birthday, check_in, reversal,
redeem, capture, cancel, use_voucher (redemption_id: the key of the redeem), transfer, adjust,
approve, refuse (key: that of the adjust), merge, block, unblock, close, erase, set_tier, sweep.
An answer is {"ok": True, ...} or {"ok": False, "code": ...}; times in it are milliseconds.

Readings (R..; the names in capitals are keys of READINGS):

Earning
R1  MATCH: several lists in one `match` or `applies_to` are all to hold (`all`), not one of them
    (`any`). In `exclude` one hit is enough.
R2  Tax and shipping that count are spread over the lines in proportion to their amounts, and what
    was paid with points over the lines in proportion to that sum; a base is never below 0.
R3  `hours` and opening hours are half open: at the end it is over. Hours of a location that pass
    midnight belong to the day they begin on; a rule's weekday is that of the local date.
R4  An attribute that is absent, or of another kind than the value, is not equal to it (`!=`
    holds), and is in no order. true is no 1.
R5  A rule without a line that matches has not fired. One that fires and gives 0 has.
R6  The line multiplier of a line is that of the most specific match (by products, else categories,
    else brands, else none), ties: the largest. It also multiplies what offers
    gave to the line (OFFER_LINE_MULTIPLIER). A multiplier's own `exclusive` means nothing.
R7  An exclusive rule silences rules, not offers.
R8  A campaign with a `match` multiplies what matching lines earned and no fixed points; all
    campaigns that hold multiply; referral points are multiplied by nothing.
R9  A campaign's budget pays what the award is larger by because of it, in whole points, one
    campaign after the other; where nothing is left, the campaign is over, and only limits that cut
    what is left without it are told. What the program's
    budget cannot pay its campaigns do not pay either, the last one first.
R10 `tier_multiplier` is true by default for the triggers purchase and first_purchase.
R11 FREQUENCY_COUNTS: a rule's frequency counts the times that it paid more than 0 (`paid`), not
    those it fired (`fired`). Times of line multipliers are counted when they multiply a line of
    what paid. COOLDOWN: it holds in both directions, between times of occurrence.
R12 A limit is compared with unrounded points, with the scopes `rule` and `line` with rounded ones.
    It counts what was given since there has been a limit for that window. `refuse` in a rule's
    limit takes the rule's points, in the program's limit all of the event's. The program's limits
    count awards by rules and offers, not referrals; the program's budget counts referrals too.
R13 Points per event are a line of their own. A rounded total is spread over rules: each one's
    points rounded down, the largest fractions up; then in proportion over each rule's lines.
R14 The first purchase is the first one recorded, whatever it earned and whether or not it was
    refunded. Pending and multipliers go by the rule's trigger (FIRST_PURCHASE_PENDS).
R15 A duration of lateness, cooldown, or wait with days is counted on the local clock.
R16 The fixed date of an expiry is the first one after the start of the lot's clock; `older_than`
    is measured from the day of earning. Inactivity is the program's, also where a rule overrides.
R17 Points that are granted expired pay debt too. Pending points pay it when they become available.
R18 Referral points are pending by `pending.referral`, expire as the program says, and are part of
    the `points` of the referred member's award (REFERRAL_IN_AWARD). A limit of the referrer stops
    the referrer's points alone. The referred member is paid first. Both
    count as awarded, not as qualifying. A referrer who is gone, closed, or was brought by the
    referred member: nobody is paid.
R19 BIRTHDAY_DAYS: the last 7 local dates are today and the 6 before. Only the sweep pays birthdays
    and anniversaries, anniversaries under the same conditions. Once a day has
    paid anything it pays no more. The order of members in a sweep is that of enrolment.
R20 A check-in that gives 0: limit_reached where a frequency or a cap was the cause, otherwise
    nothing_earned. Refusals in this order: code, member, hours, limits, points.
    `next_allowed_at` is when location and the first of the rules that could pay here allow it.

Expiry
R21 INACTIVITY_PENDING: inactivity takes pending points too, held ones when they come back.
    INACTIVITY_LATER: also those credited (sent, adjusted, merged) after its date without any
    activity. Without any activity there is no such date.
R22 EXPIRING_UNDATED: points without a date are not in `expiring`, inactivity or not.

Tiers
R23 A refund takes down at once, to where the member belongs, a tier that its points held up.
    Calendar and membership years: judged when they end, carried out after the grace by the better
    of the year that ended and the running one. Rolling windows: each midnight ends one; a member
    who is below at each midnight of the grace goes down; after one step the next is a window later.
    Downgrade absent: none. Window absent: rolling P365D.
    What a new version lowers is reached by the next event that qualifies, or with a merge.
R24 A tier set by staff replaces the earned one, higher or lower. Without `until` it has no end.
R25 Without tiers qualifying points are 0. TIER_REFUND: a refund subtracts all that its event gave
    for what came back, expired and forgiven points included, from lifetime and (dated by the
    event) qualifying points. Adjustments are neither.

Spending
R26 PAYMENT_NEEDS_ORDER: points are a payment where there is an order and a points_payment, plain
    otherwise.
R27 Every reward that is not on hold gives a voucher; a hold gives it when it is captured. A
    discount of an amount is given in full; a percentage is rounded down.
R28 LIMIT_FORGETS_CANCELLED: what was cancelled or lapsed counts in no limit of a reward. With the
    first points that a refund gives back of a redemption its voucher, unless it was used, is as if
    it had been cancelled; later cancelling gives back the rest of the points.
R29 REPEAT_ENDS: capturing, cancelling, approving, refusing again what ended this way is a replay.
R30 Refusals of a redemption in this order: member, reward, currency, window, tier and group,
    limit, stock, holds, payment, points.
R31 Waits of transfers are whole local dates: of the sender, from the enrolment; of points, from
    the date on which this member could first spend them. Of points that expire on one date the
    older ones are spent first, whichever were spent before. What a redemption gives back is as old
    as it was; what a refund asks back is fresh no more. Fresh points are missing as others are:
    insufficient_points.
R32 Blocking and closing end no hold. A blocked member's hold can be cancelled and not captured, a
    closed one's neither; both lapse.

Taking back
R33 A refund takes of the event's parts by their dates: pending ones first, then lots; of a lot the
    points of that date, whose ever, then what expired of that date since, then by policy.
R34 Under `debt`, other lots are taken first, the rest is owed.
R35 THRESHOLD_RULES are all with a min_amount: below it on what remains, all of theirs go (`fixed`:
    only those with points per event). Points per event go when no matching line remains.
R36 Where a line's points come from several rules, and where points are taken by `proportional`,
    they are taken in proportion to what is left of each.
R37 RESTORE_FIRST: points that paid come back after the refund has taken its own. In proportion of
    the lines' amounts, the longest-lived first. RESTORED_POINTS: `restored_points` are those that
    live. GRACE_FROM: a grace counts from the refund's date; without
    one what is over gets that date, and goes at once.
R38 A refund that waited and does not fit is carried out as far as it fits. A refund of what is
    gone already, also of everything, is more_than_bought, and a refund of lines of what has none.
R39 Adjustments expire as the program says unless they name a date; proposals lapse after 7 days of
    24 hours and are judged when they are approved.
R40 A merge keeps enrolment, groups and referrer of the member that stays, the higher tier (raised
    by the joint points); who was blocked stays so. Only holds of the one that goes are in the way.
    `points` are what was available and pending. What counts in a
    year of membership counts in the other's year of the same number, back from the merge's day.

Elsewhere
R41 An offer's percentage is of the line's base, worth that money divided by `point_value`.
R42 `best` takes the largest factor, also one below 1; `add` is never below 0.
R43 Whatever becomes available pays debt first, also what is cancelled, lapses or is restored.
R44 Referral points above 0 are activity, as every award. Capturing, transfers, adjustments: none.
R45 A late event dated in the calendar or membership year before this one may raise the tier; of
    older ones none does.
R46 A referral counts as paid when the purchase that reaches `min_amount` is awarded, also where
    the referrer may not have it; what is refunded is not paid by a later purchase.
R47 Erasing cancels open holds (their stock comes back); what was issued still counts in budgets
    and in lifetime points, and towards no tier.
R48 The policies for shortfall, expiry and pending are those of the version in force at the command,
    the method of a refund that of the event's. What qualifies is decided with the event.

R49 Who asks is no part of a command: the same one of another person under its key is its repeat.

R50 Who only brought the member, or whose redemption paid, has a time of its own in a command.
    Which version counts the clock of the server says, also where it is slow. What falls due in the
    reign of a version falls due by its terms.

R51 A budget that cut what a referral gives to either is told with the award. In the history of who
    brought a member the referral stands also where it gives nothing, and so does its end. What is
    so already leaves no row; a refund that waits leaves none before its event.

Not modelled: signatures of codes, rotating and one-time codes, 1 March birthdays, too_many_points,
account_too_large, entries as they are stored, hashes, notices.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import cache
from zoneinfo import ZoneInfo

READINGS = {
    "MATCH": "all",  # all | any
    "OFFER_LINE_MULTIPLIER": True,
    "FREQUENCY_COUNTS": "paid",  # paid | fired
    "COOLDOWN": "both",  # both | after: of events before this one only
    "THRESHOLD_RULES": "all",  # all | fixed
    "RESTORED_POINTS": "alive",  # alive | all
    "FIRST_PURCHASE_PENDS": "own",  # own | purchase
    "REFERRAL_IN_AWARD": True,
    "BIRTHDAY_DAYS": 6,  # days before today
    "INACTIVITY_PENDING": True,
    "INACTIVITY_LATER": True,
    "EXPIRING_UNDATED": False,
    "PAYMENT_NEEDS_ORDER": True,
    "LIMIT_FORGETS_CANCELLED": True,
    "REPEAT_ENDS": "replay",  # replay | refuse
    "RESTORE_FIRST": False,
    "GRACE_FROM": "refund",  # refund | expiry
    "TIER_REFUND": "all",  # all | taken
}

KINDS = {
    "reversal": "reverse",
    "complete_profile": "award",
    "set_groups": "update",
    "set_birthday": "update",
    "set_tier": "tier",
    "approve": "adjust",
}

RESERVED = {
    "registration",
    "profile_completed",
    "referral",
    "check_in",
    "birthday",
    "anniversary",
}
REFERRAL = "referral"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
FUTURE_TOLERANCE_MS = 5 * 60 * 1000
DEFAULT_HOLD = "PT30M"
MOST_HOLDS = 20
PROPOSAL_MS = 7 * 24 * 3600 * 1000


class RefusedError(Exception):
    """`refusals` are those of which one is told, each with its fields; no document says which."""

    def __init__(self, code, **details):
        super().__init__(code)
        self.refusals = [{"code": code, **details}]


def refuse_for_any(*checks):
    """Carry out checks that no document puts in order: if any refuse, one of them is told."""
    found = []
    for check in checks:
        try:
            check()
        except RefusedError as refused:
            found += [one for one in refused.refusals if one not in found]
    if found:
        told = RefusedError(**found[0])
        told.refusals = found
        raise told


# --- numbers -------------------------------------------------------------------------------------


@cache
def number(text):
    """An exact number from an integer or a decimal string."""
    return Fraction(text)


def largest_remainder(total, weights):
    """`total` in whole parts, in proportion to the weights; ties in their order."""
    if not weights:
        return []
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    quotas = [Fraction(total) * weight / whole for weight in weights]
    shares = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(weights)), key=lambda i: (shares[i] - quotas[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def floors_and_fractions(total, weights):
    """`total` in whole parts: each weight rounded down, the largest fractions rounded up."""
    shares = [rounded(weight, "floor") for weight in weights]
    missing = total - sum(shares)
    fractions = [weight - share for weight, share in zip(weights, shares, strict=True)]
    if not 0 <= missing <= sum(1 for one in fractions if one):
        return largest_remainder(total, weights)
    for i in sorted(range(len(weights)), key=lambda i: (-fractions[i], i))[:missing]:
        shares[i] += 1
    return shares


def in_order(limits, member):
    """Limits of a transaction come first; without a member windows do not count."""
    return [one for one in limits if one["per"] == "transaction"] + [
        one for one in limits if one["per"] != "transaction" and member is not None
    ]


def bit(name, limit):
    """A limit that cut an award, as its answer tells."""
    return {"limit": name, "points": limit["points"], "over": limit.get("over", "cap")}


def rounded(value, mode):
    value = Fraction(value)
    below = value.numerator // value.denominator
    if mode == "ceil":
        return -((-value.numerator) // value.denominator)
    if mode == "half_up":
        return below + (1 if value - below >= Fraction(1, 2) else 0)
    return below


# --- time ----------------------------------------------------------------------------------------


@cache
def duration(text):
    """Months, days and seconds of an ISO 8601 duration."""
    found = re.fullmatch(
        r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?",
        text,
    )
    years, months, weeks, days, hours, minutes, seconds = (int(g or 0) for g in found.groups())
    return 12 * years + months, 7 * weeks + days, 3600 * hours + 60 * minutes + seconds


def days_in_month(year, month):
    following = date(year + month // 12, month % 12 + 1, 1)
    return (following - date(year, month, 1)).days


def add_months(day, months):
    """31 January + 1 month is the last day of February."""
    count = day.year * 12 + day.month - 1 + months
    year, month = count // 12, count % 12 + 1
    return date(year, month, min(day.day, days_in_month(year, month)))


def plus(day, text):
    months, days, _ = duration(text)
    return add_months(day, months) + timedelta(days=days)


def minus(day, text):
    months, days, _ = duration(text)
    return add_months(day, -months) - timedelta(days=days)


def window(per, day):
    """What two dates have in common that lie in the same calendar window."""
    if per == "day":
        return day
    if per == "week":
        return day - timedelta(days=day.weekday())
    if per == "month":
        return (day.year, day.month)
    if per == "year":
        return day.year
    return None


def next_window(per, day):
    if per == "day":
        return day + timedelta(days=1)
    if per == "week":
        return day + timedelta(days=7 - day.weekday())
    if per == "month":
        return add_months(day.replace(day=1), 1)
    if per == "year":
        return date(day.year + 1, 1, 1)
    return None


def round_up(day, period):
    """The first day after the period in which the date falls."""
    if period == "week":
        return next_window("week", day)
    if period == "month":
        return next_window("month", day)
    if period == "quarter":
        first = date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)
        return add_months(first, 3)
    if period == "year":
        return next_window("year", day)
    return day


def on_year(year, month, day):
    """That day of the year; 29 February is the 28th in common years."""
    return date(year, month, min(day, days_in_month(year, month)))


def minutes_of(text):
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def within_hours(spans, minute):
    for span in spans:
        start, end = (minutes_of(part) for part in span.split("-"))
        if start < end and start <= minute < end:
            return True
        if start >= end and (minute >= start or minute < end):
            return True
    return False


def days_named(key):
    """The weekdays that a key of opening hours names."""
    named = []
    for part in key.split(","):
        first, _, last = part.strip().partition("-")
        i = WEEKDAYS.index(first)
        named.append(i)
        while last and WEEKDAYS[i] != last:
            i = (i + 1) % 7
            named.append(i)
    return named


def is_open(hours, local):
    if not hours:
        return True
    minute = 60 * local.hour + local.minute
    for key, spans in hours.items():
        for span in spans:
            start, end = (minutes_of(part) for part in span.split("-"))
            for day in days_named(key):
                if start < end:
                    if day == local.weekday() and start <= minute < end:
                        return True
                elif (day == local.weekday() and minute >= start) or (
                    (day + 1) % 7 == local.weekday() and minute < end
                ):
                    return True
    return False


def started(text, local):
    if text is None:
        return True
    if "T" in text:
        return local.replace(tzinfo=None) >= datetime.fromisoformat(text)
    return local.date() >= date.fromisoformat(text)


def not_over(text, local):
    if text is None:
        return True
    if "T" in text:
        last = datetime.fromisoformat(text) + timedelta(minutes=1)
        return local.replace(tzinfo=None) < last
    return local.date() <= date.fromisoformat(text)


# --- conditions ----------------------------------------------------------------------------------


def compares(attribute, attributes):
    """Whether one comparison of an attribute holds."""
    have, op, want = attributes.get(attribute["name"]), attribute["op"], attribute["value"]
    if op == "in":
        return any(type(have) is type(one) and have == one for one in want)
    if type(have) is not type(want):
        return op == "!="
    if op == "==":
        return have == want
    if op == "!=":
        return have != want
    if isinstance(have, bool):
        return False
    return {"<": have < want, "<=": have <= want, ">": have > want, ">=": have >= want}[op]


def unmet(when, event):
    """The conditions that do not hold, in their order."""
    if when is None:
        return []
    local = event["local"]
    reasons = []
    if "min_amount" in when and event["base"] < when["min_amount"]:
        reasons.append("min_amount")
    if "channels" in when and event["channel"] not in when["channels"]:
        reasons.append("channel")
    if "locations" in when and event["location_id"] not in when["locations"]:
        reasons.append("location")
    if when.get("groups") and not set(when["groups"]) & set(event["groups"]):
        reasons.append("group")
    if when.get("tiers") and event["tier_id"] not in when["tiers"]:
        reasons.append("tier")
    if "weekdays" in when and WEEKDAYS[local.weekday()] not in when["weekdays"]:
        reasons.append("weekday")
    if "hours" in when and not within_hours(when["hours"], 60 * local.hour + local.minute):
        reasons.append("hours")
    reasons += outside(when, local)
    if not all(compares(one, event["attributes"]) for one in when.get("attributes", [])):
        reasons.append("attributes")
    return reasons


def outside(terms, local):
    """Whether an instant is before or after the dates of something."""
    reasons = []
    if not started(terms.get("from"), local):
        reasons.append("not_started")
    if not not_over(terms.get("until"), local):
        reasons.append("ended")
    return reasons


def row_of(kind, source, reasons):
    """A row of an explanation: every reason for which the source does not fire."""
    return {kind: source[kind], "fired": not reasons, "reasons": reasons}


def is_often(row):
    """Whether only frequency stopped a rule."""
    return bool(row["reasons"]) and set(row["reasons"]) <= {"frequency", "cooldown"}


def names_line(filters, line):
    """For each list that is there, whether it names the line."""
    answers = []
    if filters.get("products"):
        answers.append(line["product_id"] in filters["products"])
    if filters.get("categories"):
        answers.append(any(one in filters["categories"] for one in line["category_ids"]))
    if filters.get("brands"):
        answers.append(line["brand_id"] in filters["brands"])
    return answers


def matches(match, line, how):
    if not match:
        return True
    named = names_line(match, line)
    if named and not (all(named) if how == "all" else any(named)):
        return False
    if "discounted" in match and line["discounted"] != match["discounted"]:
        return False
    return not any(names_line(match.get("exclude") or {}, line))


def specificity(match):
    match = match or {}
    for rank, name in enumerate(["products", "categories", "brands"]):
        if match.get(name):
            return rank
    return 3


def copied(member):
    """A member on which a command may work: nothing is changed until it succeeds."""
    fresh = dict(member)
    fresh["points"] = [point.copy() for point in member["points"]]
    fresh["owed"] = list(member["owed"])
    fresh["log"] = list(member["log"])
    fresh["rows"] = list(member["rows"])
    fresh["redemptions"] = {key: dict(one) for key, one in member["redemptions"].items()}
    return fresh


def spending_order(points):
    """Earliest expiry first, never-expiring last, then in the order of credit."""
    return sorted(points, key=lambda p: (p["expires_on"] or date.max, p["nr"]))


def by_date(points):
    """[[expires_on, points]] ascending, never-expiring last."""
    sums = {}
    for point in points:
        sums[point["expires_on"]] = sums.get(point["expires_on"], 0) + 1
    ordered = sorted(sums, key=lambda day: day or date.max)
    return [[day.isoformat() if day else None, sums[day]] for day in ordered]


def as_lots(points):
    return [{"points": count, "expires_on": day} for day, count in by_date(points)]


def available(member):
    return [point for point in member["points"] if point["state"] == "available"]


def debt(member):
    return sum(1 for one in member["owed"] if one == "owed")


def balance(member):
    return len(available(member)) - debt(member)


def whole(member):
    """All that a member has, less what is owed: what a row of the history moves."""
    states = ("available", "pending", "held")
    return sum(1 for point in member["points"] if point["state"] in states) - debt(member)


def begin_row(member):
    member["begun"] = (whole(member), member["lost"])


def end_row(member, kind):
    """What was done since its beginning, beside what was lost: [kind, points, balance]."""
    before, lost = member["begun"]
    lost = member["lost"] - lost
    member["rows"].append([kind, whole(member) - before + lost, balance(member)])
    lose_row(member, lost)
    begin_row(member)


def lose_row(member, lost):
    if lost:
        member["rows"].append(["expire", -lost, balance(member)])


def simple_email(email):
    name, _, host = email.lower().partition("@")
    return name.partition("+")[0].replace(".", "") + "@" + host


def simple_phone(phone):
    return re.sub(r"[^0-9]", "", phone)


def share_of(amounts, returned):
    """Which part of the whole came back, by what the lines cost."""
    if not sum(amounts):
        return sum(returned, Fraction(0)) / max(1, len(returned))
    return sum((a * f for a, f in zip(amounts, returned, strict=True)), Fraction(0)) / sum(amounts)


def kept(lines, returned):
    """The base of what the customer keeps."""
    return sum(line["base"] * (1 - f) for line, f in zip(lines, returned, strict=True))


class Work:
    """What one command touches: copies that replace the originals when it succeeds."""

    def __init__(self, model, now):
        self.model = model
        self.clock = self.now = now
        self.members = {}
        self.apart = set()  # those whose time is their own
        self.kind = "expire"  # that of the entries; "expire": of what falls due by itself
        self.kinds = {}  # of some members another one
        self.adding = []  # what else is to be done on success

    def member(self, member_id, *, apart=False):
        model = self.model
        member_id = model.resolved(member_id)
        if member_id in self.members:
            return self.members[member_id]
        if member_id not in model.members:
            raise RefusedError("member_not_found")
        if model.members[member_id]["status"] == "erased":
            raise RefusedError("member_erased")
        member = copied(model.members[member_id])
        if apart:
            self.apart.add(member_id)
            now = max(self.clock, member["recorded"])
        else:
            now = self.now = max(self.now, member["recorded"])
        lost = member["lost"]
        model.advance(member, now)
        lose_row(member, member["lost"] - lost)
        begin_row(member)
        member["recorded"] = now
        self.members[member_id] = member
        return member

    def commit(self):
        for member in self.members.values():
            if member["member_id"] not in self.apart:
                member["recorded"] = self.now
            self.model.advance(member, member["recorded"])
            kind = self.kinds.get(member["member_id"], self.kind)
            if kind == "expire":
                lose_row(member, member["lost"] - member["begun"][1])
            else:
                end_row(member, kind)
            self.model.members[member["member_id"]] = member
            self.model.past.setdefault(member["member_id"], []).append(member)
        for act in self.adding:
            act()


class Model:
    """Programs, members and what happened to them."""

    def __init__(self, document, version=1, readings=None):
        unknown = set(readings or {}) - set(READINGS)
        if unknown:
            raise ValueError(f"no such readings: {unknown}")
        self.readings = {**READINGS, **(readings or {})}
        self.documents = {version: document}
        self.since = {version: -1}  # when each came into force
        self.clock = 0
        self.members = {}  # in the order of enrolment; what a command leaves never changes
        self.past = {}  # member_id -> all that the member ever was
        self.aliases = {}
        self.keys = {}  # (kind of key, key) -> (fingerprint, answer)
        self.events = {}  # event_id -> what it recorded
        self.waiting = {}  # event_id -> commands
        self.owners = {}  # redemption -> member_id
        self.proposals = {}
        self.merges = []  # (number, source, target)
        self.number = 0
        self.commands = 0

    # --- the program ---

    def publish(self, document, now=0):
        """A later version, in force at once for whose clock says so."""
        number = max(self.documents) + 1
        self.documents[number] = document
        self.since[number] = now

    @property
    def version(self):
        return max(number for number, since in self.since.items() if since <= self.clock)

    @property
    def program(self):
        return self.documents[self.version]

    @property
    def zone(self):
        return ZoneInfo(self.program["time_zone"])

    def local(self, ms):
        return (EPOCH + timedelta(milliseconds=ms)).astimezone(self.zone)

    def day(self, ms):
        return self.local(ms).date()

    def instant(self, wall):
        """Milliseconds of a naive local date and time."""
        return (wall.replace(tzinfo=self.zone) - EPOCH) // timedelta(milliseconds=1)

    def midnight(self, day):
        return self.instant(datetime(day.year, day.month, day.day))  # noqa: DTZ001 local, see instant

    def later(self, ms, text):
        """A duration after an instant: months and days on the local clock."""
        months, days, seconds = duration(text)
        if months or days:
            wall = self.local(ms).replace(tzinfo=None)
            there = add_months(wall.date(), months) + timedelta(days=days)
            ms = self.instant(datetime.combine(there, wall.time()))
        return ms + 1000 * seconds

    def earlier(self, ms, text):
        months, days, seconds = duration(text)
        if months or days:
            wall = self.local(ms).replace(tzinfo=None)
            there = add_months(wall.date(), -months) - timedelta(days=days)
            ms = self.instant(datetime.combine(there, wall.time()))
        return ms - 1000 * seconds

    # --- commands ---

    def do(self, command, now):
        """Carry a command out, or refuse it and change nothing."""
        self.commands += 1
        self.clock = now
        work = Work(self, now)
        work.kind = self.kind_of(command)
        try:
            key = self.key_of(command)
            fingerprint = {
                name: value for name, value in command.items() if value is not None and name != "by"
            }
            if key in self.keys:
                first, answer = self.keys[key]
                if first != fingerprint:
                    raise RefusedError(
                        "member_exists" if key[0] == "member" else "idempotency_key_reused"
                    )
                return {**answer, "replayed": True}
            answer = getattr(self, "do_" + command["kind"])(command, work)
        except RefusedError as refused:
            first, *others = refused.refusals
            return {"ok": False, **first} | ({"others": others} if others else {})
        work.commit()
        answer = {"ok": True, **answer}
        if key is not None:
            self.keys[key] = (fingerprint, answer)
        return dict(answer)

    def kind_of(self, command):
        """That of the entry that a command leaves."""
        if command["kind"] == "redeem":
            return "hold" if command.get("hold") else "redeem"
        return KINDS.get(command["kind"], command["kind"])

    def key_of(self, command):
        kind = command["kind"]
        if kind == "award":
            return ("event", command["event_id"])
        if kind == "reversal":
            return ("refund", command["event_id"], command["refund_id"])
        if kind == "enrol":
            member_id = self.resolved(command["member_id"])
            if member_id in self.members and self.members[member_id]["status"] == "erased":
                raise RefusedError("member_erased")
            return ("member", command["member_id"])
        if kind in ("capture", "cancel", "approve", "refuse", "use_voucher"):
            return None
        return ("key", command["key"]) if command.get("key") is not None else None

    def resolved(self, member_id):
        while member_id in self.aliases:
            member_id = self.aliases[member_id]
        return member_id

    def view(self, member_id, now):
        """What a read shows at that time; nothing changes."""
        member_id = self.resolved(member_id)
        if member_id not in self.members:
            return {"ok": False, "code": "member_not_found"}
        return self.shown(self.members[member_id], now)

    def view_as_of(self, member_id, then):
        """What a read showed at a past time; None before the member came."""
        now = self.members.get(self.resolved(member_id), {"status": "not_found"})
        if now["status"] in ("not_found", "erased"):
            return {"ok": False, "code": "member_" + now["status"]}
        states = [one for one in self.past[member_id] if one["recorded"] <= then]
        if states and states[-1]["status"] == "merged":
            return self.view_as_of(self.aliases[member_id], then)
        return self.shown(states[-1], then) if states else None

    def history(self, member_id):
        """[kind, points, balance afterwards] of all that was done and lost, the first first."""
        return self.members[self.resolved(member_id)]["rows"]

    def shown(self, member, now):
        self.clock = now
        member = copied(member)
        self.advance(member, max(now, member["recorded"]))
        today = self.day(max(now, member["recorded"]))
        states = [point["state"] for point in member["points"]]
        pending = {}
        for point in member["points"]:
            if point["state"] == "pending":
                place = (point["available_on"], point["expires_on"])
                pending[place] = pending.get(place, 0) + 1
        pending_lots = [
            [start.isoformat(), end.isoformat() if end else None, pending[start, end]]
            for start, end in sorted(pending, key=lambda p: (p[0], p[1] or date.max))
        ]
        inactive = self.inactive_on(member)
        expiring = {}
        for point in available(member):
            day = point["expires_on"]
            if day is None and not (self.readings["EXPIRING_UNDATED"] and inactive):
                continue
            day = min(one for one in (day, inactive) if one is not None)
            expiring[day] = expiring.get(day, 0) + 1
        return {
            "available": states.count("available"),
            "pending": states.count("pending"),
            "held": states.count("held"),
            "debt": debt(member),
            "lifetime_points": self.lifetime(member),
            "qualifying_points": self.qualifying(member, today),
            "tier": None if member["status"] == "erased" else self.standing(member, today),
            "lots": by_date(available(member)),
            "pending_lots": pending_lots,
            "holds": sorted(
                [one["points"], one["held_until"]]
                for one in member["redemptions"].values()
                if one["status"] == "held"
            ),
            "expiring": [
                {"points": expiring[day], "expires_on": day.isoformat()} for day in sorted(expiring)
            ],
            "status": member["status"],
        }

    # --- what happens by itself ---

    def inactive_on(self, member):
        """The date on which everything goes unless something happens before; or None."""
        policies = [one for one in self.program.get("expiry", []) if "inactive_for" in one]
        active = [fact["on"] for fact in member["log"] if fact.get("active")]
        if not policies or not active:
            return None
        return min(plus(max(active), one["inactive_for"]) for one in policies)

    def advance(self, member, now):
        """What falls due in the reign of each version, by its terms."""
        asked = self.clock
        for since in sorted(self.since.values()):
            if member["recorded"] < since <= asked:
                self.clock = since - 1
                self.pass_time(member, since - 1)
        self.clock = asked
        self.pass_time(member, now)

    def pass_time(self, member, now):
        """Expiry, activation, lapsing of holds and tiers up to an instant, in order of time."""
        today = self.day(now)
        moments = set()
        for point in member["points"]:
            if point["state"] == "pending" and point["available_on"] <= today:
                moments.add((point["available_on"], 0))
            if (
                point["state"] in ("pending", "available", "held")
                and point["expires_on"]
                and point["expires_on"] <= today
            ):
                moments.add((point["expires_on"], 0))
        for one in member["redemptions"].values():
            if one["status"] == "held" and one["held_until"] <= now:
                moments.add((self.day(one["held_until"]), one["held_until"]))
        inactive = self.inactive_on(member)
        if inactive and inactive <= today:
            moments.add((inactive, 0))
        for day, ms in sorted(moments):
            if ms == 0:
                ready = [
                    point
                    for point in member["points"]
                    if point["state"] == "pending" and point["available_on"] <= day
                ]
                self.make_available(member, ready, day)
                for point in member["points"]:
                    if self.is_over(point, day, inactive):
                        self.expire(member, point)
            else:
                for key, one in member["redemptions"].items():
                    if one["status"] == "held" and one["held_until"] == ms:
                        one["status"] = "lapsed"
                        held = [p for p in member["points"] if p["redemption"] == key]
                        self.give_back(member, held, day)
        self.advance_tier(member, today)

    def revive(self, member, today):
        """Who has points given after inactivity had taken all counts as active again."""
        inactive = self.inactive_on(member)
        if inactive and inactive <= today:
            member["log"].append({"kind": "revived", "on": today, "active": True})

    def expire(self, member, point):
        self.number += 1
        member["lost"] += 1
        point["state"], point["gone"] = "expired", self.number
        point["gone_from"] = member["member_id"]
        point["on_arrival"] = point["made_by"] == self.commands

    def is_over(self, point, day, inactive):
        if point["state"] not in ("pending", "available"):
            return False
        if point["expires_on"] and point["expires_on"] <= day:
            return True
        if not inactive or inactive > day:
            return False
        if point["state"] == "pending" and not self.readings["INACTIVITY_PENDING"]:
            return False
        return self.readings["INACTIVITY_LATER"] or point["since"] < inactive

    def make_available(self, member, points, day):
        """Debt is paid first."""
        for point in spending_order(points):
            if "owed" in member["owed"]:
                member["owed"][member["owed"].index("owed")] = "paid"
                point["state"] = "paid"
            else:
                point["state"] = "available"
                point["came"] = point["came"] or day

    def give_back(self, member, points, day, grace=None, last=True):
        """Points that were held or spent, to their old dates. Returns how many live."""
        inactive = self.inactive_on(member)
        for point in points:
            point["redemption"] = None
            if point["expires_on"] and point["expires_on"] <= day and grace:
                if self.readings["GRACE_FROM"] == "refund":
                    point["expires_on"] = plus(day, grace)
                else:
                    point["expires_on"] = plus(point["expires_on"], grace)
        self.make_available(member, points, day)
        for point in points if last else []:
            if self.is_over(point, day, inactive):
                self.expire(member, point)
        return sum(1 for point in points if point["state"] != "expired")

    # --- sums ---

    def lifetime(self, member):
        awarded = sum(fact["points"] for fact in member["log"] if fact["kind"] == "award")
        refunded = sum(fact["counted"] for fact in member["log"] if fact["kind"] == "refund")
        return awarded - refunded

    def qualifying_between(self, member, holds):
        """What qualifies of the dates for which `holds`."""
        return sum(
            fact["qualifies"]
            for fact in member["log"]
            if fact["kind"] in ("award", "refund") and holds(fact["counts_on"])
        )

    def qualifying(self, member, today):
        if not self.program.get("tiers") or member["status"] == "erased":
            return 0
        frame = self.program["tiers"].get("window", {"rolling": "P365D"})
        if frame == "lifetime":
            return self.qualifying_between(member, lambda _: True)
        if "rolling" in frame:
            return self.qualifying_between(member, lambda on: self.still_counts(frame, on, today))
        start, end = self.period(member, today)
        return self.qualifying_between(member, lambda on: start <= on < end)

    def still_counts(self, frame, on, today):
        return self.leaves(frame, on) > today

    def leaves(self, frame, on):
        """The first day on which a date is in the window no more; in a long one a month is to its
        last day."""
        months, days, _ = duration(frame["rolling"])
        if 30 * months + days > 90:
            on = date(on.year, on.month, days_in_month(on.year, on.month))
        return plus(on, frame["rolling"])

    def period_start(self, member, year):
        """The day on which a calendar or membership year begins in that calendar year."""
        if "calendar" in self.program["tiers"]["window"]:
            return date(year, 1, 1)
        joined = member["enrolled_on"]
        return on_year(year, joined.month, joined.day)

    def period(self, member, today):
        start = self.period_start(member, today.year)
        if start > today:
            return self.period_start(member, today.year - 1), start
        return start, self.period_start(member, today.year + 1)

    def level_for(self, total, terms=None):
        reached = 0
        for i, level in enumerate((terms or self.program["tiers"])["levels"]):
            if level["at"] <= total:
                reached = i
        return reached

    def advance_tier(self, member, today):
        if not self.program.get("tiers"):
            return
        member["tier"] = min(member["tier"], len(self.program["tiers"]["levels"]) - 1)
        day = member["looked_on"]
        while day < today and member["tier"]:
            day += timedelta(days=1)
            self.look(member, day)
        member["looked_on"] = max(member["looked_on"], today)

    def is_yearly(self):
        frame = self.program["tiers"].get("window", {"rolling": "P365D"})
        return frame != "lifetime" and "rolling" not in frame

    def in_year_of(self, member, day):
        """What qualifies in the calendar or membership year of a date."""
        start, end = self.period(member, day)
        return self.qualifying_between(member, lambda on: start <= on < end)

    def lift(self, member, today, on=None):
        """Up at once, also by an event of the year before this one or just after it."""
        if not self.program.get("tiers"):
            return
        total = self.qualifying(member, today)
        if on is not None and self.is_yearly():
            start, _ = self.period(member, today)
            before, _ = self.period(member, start - timedelta(days=1))
            if on >= before:
                total = max(total, self.in_year_of(member, on))
        level = self.level_for(total)
        member["tier"] = max(member["tier"], level)
        member["terms"] = self.version
        if level >= member["tier"]:
            member["kept_until"] = None

    def holds_up(self, member, today):
        """What can hold a tier up: what counts now, or did in the year before."""
        if not self.program.get("tiers"):
            return 0
        total = self.qualifying(member, today)
        if self.is_yearly():
            start, _ = self.period(member, today)
            total = max(total, self.in_year_of(member, start - timedelta(days=1)))
        return total

    def lower(self, member, was, today):
        """Down at once after a refund, where what it took was what had held the tier up."""
        if not self.program.get("tiers"):
            return
        total = self.holds_up(member, today)
        member["terms"] = self.version
        if total < self.program["tiers"]["levels"][member["tier"]]["at"] <= was:
            member["tier"] = self.level_for(total)
            member["kept_until"] = None

    def look(self, member, day):
        """Whether the member goes down on that day: where the tier would have been lost by the
        terms under which it was last reached or kept, those in force now say what becomes of it."""
        terms = self.documents[member["terms"]].get("tiers") or self.program["tiers"]
        downgrade = terms.get("downgrade") or {}
        grace = downgrade.get("grace", "P0D")
        frame = terms.get("window", {"rolling": "P365D"})
        if frame == "lifetime" or downgrade.get("steps", "none") == "none":
            return
        steps = (self.program["tiers"].get("downgrade") or {}).get("steps", "none")
        if "rolling" in frame:
            total = self.qualifying(member, day)
            if self.level_for(total, terms) >= member["tier"]:
                member["kept_until"] = None
                return
            if member["kept_until"] is None:
                member["kept_until"] = plus(day, grace)
            if day < member["kept_until"]:
                return
            member["terms"] = self.version
            level = member["tier"] if steps == "none" else self.level_for(total)
            if level < member["tier"]:
                member["tier"] = level if steps == "full" else member["tier"] - 1
            # One step down is for one more window.
            below = level < member["tier"]
            member["kept_until"] = plus(day, frame["rolling"]) if below else None
            return
        for year in (day.year - 2, day.year - 1, day.year):
            end = self.period_start(member, year)
            if end <= member["enrolled_on"] or plus(end, grace) != day:
                continue
            before = self.in_year_of(member, end - timedelta(days=1))
            total = max(before, self.qualifying(member, day))
            if self.level_for(total, terms) < member["tier"]:
                member["terms"] = self.version
                level = member["tier"] if steps == "none" else self.level_for(total)
                if level < member["tier"]:
                    member["tier"] = level if steps == "full" else member["tier"] - 1

    def tier_id(self, member, today):
        if not self.program.get("tiers"):
            return None
        levels = self.program["tiers"]["levels"]
        return self.pinned(member, today) or levels[member["tier"]]["tier_id"]

    def pinned(self, member, today):
        """The tier that staff have set, while it counts; or None."""
        tier_id, until = member["pin"] or (None, None)
        known = [level["tier_id"] for level in self.program["tiers"]["levels"]]
        return tier_id if tier_id in known and (until is None or today < until) else None

    def standing(self, member, today):
        """The tier as a balance shows it; or None in a program without tiers."""
        if not self.program.get("tiers"):
            return None
        levels = self.program["tiers"]["levels"]
        tier_id = self.tier_id(member, today)
        at = [level["tier_id"] for level in levels].index(tier_id)
        shown = {
            "id": tier_id,
            "name": levels[at]["name"],
            "multiplier": str(levels[at].get("multiplier", 1)),
        }
        if at + 1 < len(levels):
            shown["next_tier"] = levels[at + 1]["tier_id"]
            shown["points_to_next"] = max(0, levels[at + 1]["at"] - self.qualifying(member, today))
        until = member["pin"][1] if self.pinned(member, today) else self.kept_to(member, today)
        return shown | ({"until": until.isoformat()} if until else {})

    def kept_to(self, member, today):
        """The date on which a tier is lost if nothing more qualifies, by the terms under which it
        was last reached or kept; None where it never is."""
        terms = self.documents[member["terms"]].get("tiers") or self.program["tiers"]
        downgrade = terms.get("downgrade") or {}
        frame = terms.get("window", {"rolling": "P365D"})
        if not member["tier"] or frame == "lifetime" or downgrade.get("steps", "none") == "none":
            return None
        grace = downgrade.get("grace", "P0D")
        if "rolling" not in frame:
            for year in range(today.year - 1, today.year + 4):
                end = self.period_start(member, year)
                day = plus(end, grace)
                if end <= member["enrolled_on"] or day <= today:
                    continue
                before = self.in_year_of(member, end - timedelta(days=1))
                total = max(before, self.qualifying(member, day))
                if self.level_for(total, terms) < member["tier"]:
                    return day
        if member["kept_until"]:
            return member["kept_until"]
        dates = {fact["counts_on"] for fact in member["log"] if fact.get("qualifies")}
        for day in sorted(self.leaves(frame, on) for on in dates):
            if day > today and self.level_for(self.qualifying(member, day), terms) < member["tier"]:
                return plus(day, grace)
        return None

    # --- earning ---

    def base_of(self, purchase, program=None):
        """The lines of a purchase with what each earns on."""
        rules = (program or self.program).get("earning_base") or {}
        lines = [
            {
                "line_id": line["line_id"],
                "product_id": line.get("product_id"),
                "category_ids": line.get("category_ids") or [],
                "brand_id": line.get("brand_id"),
                "quantity": line["quantity"],
                "amount": line["amount"],
                "discounted": bool(line.get("discounted")),
            }
            for line in purchase["lines"]
        ]
        bases = [line["amount"] for line in lines]
        added = 0
        for name in ("tax", "shipping"):
            if rules.get(name) == "include":
                added += purchase.get(name) or 0
        shares = largest_remainder(added, bases)
        bases = [base + share for base, share in zip(bases, shares, strict=True)]
        paid = min(purchase.get("paid_with_points") or 0, sum(bases))
        shares = largest_remainder(paid, bases)
        for line, base, share in zip(lines, bases, shares, strict=True):
            line["base"] = base - share
        return lines

    def event_of(self, member, kind, ms, lines=(), **fields):
        local = self.local(ms)
        today = self.day(max(ms, member["recorded"]))
        return {
            "type": kind,
            "ms": ms,
            "local": local,
            "on": local.date(),
            "channel": fields.get("channel"),
            "location_id": fields.get("location_id"),
            "attributes": fields.get("attributes") or {},
            "lines": list(lines),
            "base": sum(line["base"] for line in lines),
            "groups": member["groups"],
            "tier_id": self.tier_id(member, fields.get("today") or today),
            "first_purchase": fields.get("first_purchase", False),
        }

    def evaluate(self, program, event, member, skip=(), stopped=None):
        """What the rules give for an event.

        `member` None: without windows, frequency and budgets (what a refund recomputes); then
        `stopped` are the rules that frequency had stopped.
        """
        explanation = []
        fired = []
        frequency_stopped = set()
        rules = list(enumerate(program.get("rules", [])))
        rules.sort(key=lambda pair: (-pair[1].get("priority", 0), pair[0]))
        ended = False
        for _, rule in rules:
            if rule["rule_id"] in skip:
                continue
            if not self.is_triggered(rule, event):
                if event["type"] == "purchase" and rule["trigger"] == "first_purchase":
                    late = ["after_last"] if ended else ["not_first_purchase"]
                    explanation.append(row_of("rule_id", rule, late))
                continue
            reasons = ["after_last"] if ended else unmet(rule.get("when"), event)
            if not ended and event["lines"] and not self.matching(rule, event):
                reasons.append("no_matching_line")
            if not reasons and member is None and rule["rule_id"] in (stopped or ()):
                reasons.append("frequency")
            if not ended and member is not None and (often := self.too_often(rule, event, member)):
                if not reasons:
                    frequency_stopped.add(rule["rule_id"])
                reasons += often
            if not reasons:
                fired.append(rule)
                ended = ended or rule.get("stacking") == "last"
            explanation.append(row_of("rule_id", rule, reasons))

        earning = [rule for rule in fired if "multiply" not in rule["earn"]]
        raw = {rule["rule_id"]: self.raw_points(rule, event) for rule in earning}
        exclusive = [rule for rule in earning if rule.get("stacking") == "exclusive"]
        if exclusive:
            winner = min(
                exclusive,
                key=lambda rule: (
                    -rule.get("priority", 0),
                    -sum(raw[rule["rule_id"]].values()),
                    program["rules"].index(rule),
                ),
            )
            for rule in earning:
                if rule is not winner:
                    row = next(e for e in explanation if e["rule_id"] == rule["rule_id"])
                    row["fired"], row["reasons"] = False, ["excluded"]
            earning = [winner]
        earning.sort(key=program.get("rules", []).index)
        multipliers = [rule for rule in fired if "multiply" in rule["earn"]]
        campaigns = [
            campaign
            for campaign in program.get("campaigns", [])
            if started(campaign.get("from"), event["local"])
            and not_over(campaign.get("until"), event["local"])
            and not unmet(campaign.get("when"), event)
        ]
        gives = {rule["rule_id"]: (rule, raw[rule["rule_id"]]) for rule in earning}
        for offer in program.get("offers", []):
            if event["type"] != "purchase":
                continue
            points, reasons = self.offer_points(program, offer, event)
            explanation.append(row_of("offer_id", offer, reasons))
            gives[offer["offer_id"]] = (None, points)

        def award(running, most=None):
            return self.award_under(program, event, gives, multipliers, running, member, most)

        granted, limited_by, desired, multiplied = award(campaigns)
        wanted = desired
        multiplying = {
            self.line_multiplier(program, event["lines"][line], multipliers)["rule_id"]
            for line in range(len(event["lines"]))
            if self.line_multiplier(program, event["lines"][line], multipliers)
        }
        drawn = {}
        running = campaigns
        if member is not None and sum(granted.values()):
            granted, drawn, running = self.within_budgets(
                program, award, campaigns, granted, limited_by
            )
        if running != campaigns:
            *_, wanted, multiplied = award(running)
        for row in explanation:
            name = row.get("rule_id", row.get("offer_id"))
            row["points"] = sum(n for (rule, _), n in granted.items() if rule == name)
            row["desired_points"] = wanted.get(name, 0)
            row["factors"] = multiplied.get(name, [])
        refused = {
            one["limit"].rpartition(":")[0] for one in limited_by if one.get("refuses")
        } & set(raw)
        paid = []
        for row in explanation:
            name = row.get("rule_id", row.get("offer_id"))
            multiplies = name in multiplying
            if row["fired"] and (
                row["points"] > 0
                or (multiplies and granted)
                or self.readings["FREQUENCY_COUNTS"] == "fired"
            ):
                paid.append(name)
            if name in refused:
                row["reasons"] = ["limit"]
        return {
            "parts": granted,
            "points": sum(granted.values()),
            "desired": sum(desired.values()),
            "explanation": explanation,
            "limited_by": limited_by,
            "drawn": drawn,
            "paid": paid,
            "stopped": frequency_stopped | refused,
        }

    def is_triggered(self, rule, event):
        if rule["trigger"] == "first_purchase":
            return event["type"] == "purchase" and event["first_purchase"]
        return rule["trigger"] == event["type"]

    def matching(self, rule, event):
        how = self.readings["MATCH"]
        return [i for i, line in enumerate(event["lines"]) if matches(rule.get("match"), line, how)]

    def raw_points(self, rule, event):
        """Points by line, before multipliers; None is no line."""
        earn = rule["earn"]
        points = number(earn["points"])
        lines = self.matching(rule, event)
        if "per_line" in earn:
            blocks = len(lines) // number(earn["per_line"])
            return dict.fromkeys(lines, points * blocks / max(1, len(lines)))
        if "per_amount" in earn or "per_quantity" in earn:
            by = "base" if "per_amount" in earn else "quantity"
            block = earn.get("per_amount") or earn.get("per_quantity")
            total = sum(Fraction(event["lines"][i][by]) for i in lines)
            blocks = total / number(block)
            if by == "quantity" or earn.get("blocks") == "whole":
                blocks = Fraction(rounded(blocks, "floor"))
            if total == 0:
                return dict.fromkeys(lines, Fraction(0))
            return {i: points * blocks * event["lines"][i][by] / total for i in lines}
        return {None: points}

    def offer_points(self, program, offer, event):
        local = event["local"]
        reasons = [] if offer.get("active", True) else ["inactive"]
        reasons += outside(offer, local)
        if offer.get("groups") and not set(offer["groups"]) & set(event["groups"]):
            reasons.append("group")
        if offer.get("channels") and event["channel"] not in offer["channels"]:
            reasons.append("channel")
        worth = number(program["point_value"])
        points = {}
        for i, line in enumerate(event["lines"]):
            if not matches(offer.get("applies_to"), line, self.readings["MATCH"]):
                continue
            if offer.get("exclude_discounted") and line["discounted"]:
                continue
            points[i] = line["base"] * number(offer["percent"]) / 100 / worth
        if not points:
            reasons.append("no_matching_line")
        return ({} if reasons else points), reasons

    def line_multiplier(self, program, line, multipliers):
        """The one rule that multiplies a line, or None."""
        how = self.readings["MATCH"]
        return min(
            (rule for rule in multipliers if matches(rule.get("match"), line, how)),
            key=lambda rule: (
                specificity(rule.get("match")),
                -number(rule["earn"]["multiply"]),
                program["rules"].index(rule),
            ),
            default=None,
        )

    def factor(self, program, line, event, multipliers, campaigns, with_tier):
        """What the points of a line (None: of the event) are multiplied by, by what does."""
        factors = {}
        if line is not None:
            best = self.line_multiplier(program, event["lines"][line], multipliers)
            if best:
                factors["line", best["rule_id"]] = number(best["earn"]["multiply"])
        if with_tier and event["tier_id"] is not None:
            levels = program["tiers"]["levels"]
            level = next(one for one in levels if one["tier_id"] == event["tier_id"])
            if "multiplier" in level:
                factors["tier", level["tier_id"]] = number(level["multiplier"])
        for campaign in campaigns:
            if campaign.get("match") and (
                line is None
                or not matches(campaign["match"], event["lines"][line], self.readings["MATCH"])
            ):
                continue
            factors["campaign", campaign["campaign_id"]] = number(campaign["multiplier"])
        return factors

    def combined(self, program, factors):
        setting = program.get("multipliers") or {}
        how = setting.get("combine", "multiply")
        result = Fraction(1)
        if how == "multiply":
            for factor in factors:
                result *= factor
        elif how == "add":
            result = max(Fraction(0), 1 + sum(factor - 1 for factor in factors))
        elif factors:
            result = max(factors)
        if "max" in setting:
            result = min(result, number(setting["max"]))
        return result

    def award_under(self, program, event, gives, multipliers, campaigns, member, most):
        """Whole points by (rule or offer, line) under these campaigns, at most `most` in all; the
        limits that bit; and by rule or offer the whole points before limits, and what multiplied
        any of them."""
        setting = program.get("rounding") or {}
        mode, scope = setting.get("mode", "floor"), setting.get("scope", "award")
        sources = {}
        multiplied = {}
        for name, (rule, raw) in gives.items():
            with_tier = rule is not None and rule.get(
                "tier_multiplier", rule["trigger"] in ("purchase", "first_purchase")
            )
            factors = {
                line: self.factor(program, line, event, multipliers, campaigns, with_tier)
                for line in raw
            }
            sources[name] = {
                line: raw[line] * self.combined(program, list(factors[line].values()))
                for line in raw
            }
            multiplied[name] = sorted(
                {(*what, by) for line in raw for what, by in factors[line].items()}
            )
        weights = sources
        if scope == "rule":
            totals = {name: rounded(sum(lines.values()), mode) for name, lines in sources.items()}
        elif scope == "line":
            sources = self.rounded_by_line(sources, mode)
            totals = {name: sum(lines.values()) for name, lines in sources.items()}
        else:
            totals = {name: sum(lines.values(), Fraction(0)) for name, lines in sources.items()}
        names = list(totals)

        def settled():
            points = [Fraction(totals[name]) for name in names]
            return dict(
                zip(
                    names,
                    floors_and_fractions(rounded(sum(points), mode), points),
                    strict=True,
                )
            )

        desired = settled()
        limited_by = []
        for rule in program.get("rules", []):
            name = rule["rule_id"]
            refusing = {one["per"] for one in rule.get("limits", []) if one.get("over") == "refuse"}
            for one in in_order(rule.get("limits", []), member) if name in totals else []:
                left = self.limit_left(one, event, member, name)
                if totals[name] > left:
                    refuses = one["per"] in refusing
                    limited_by.append({**bit(f"{name}:{one['per']}", one), "refuses": refuses})
                    totals[name] = 0 if one.get("over") == "refuse" else left
        total = sum(totals.values())
        ceiling = total if most is None else min(total, most)
        for one in in_order(program.get("limits", []), member):
            left = self.limit_left(one, event, member, None)
            if ceiling > left:
                limited_by.append(bit(f"program:{one['per']}", one))
                ceiling = 0 if one.get("over") == "refuse" else left
        if ceiling < total:
            totals = {name: Fraction(points) * ceiling / total for name, points in totals.items()}
        granted = {}
        for name, points in settled().items():
            lines = {line: sources[name][line] for line in weights[name]}
            if scope == "line" and points == sum(lines.values()):
                shares = list(lines.values())
            else:
                shares = largest_remainder(points, list(weights[name].values()))
            for line, share in zip(lines, shares, strict=True):
                if share:
                    granted[name, line] = share
        return granted, limited_by, desired, multiplied

    def rounded_by_line(self, sources, mode):
        result = {name: {} for name in sources}
        for line in dict.fromkeys(line for lines in sources.values() for line in lines):
            here = [name for name, lines in sources.items() if line in lines]
            if line is None:
                for name in here:
                    result[name][line] = rounded(sources[name][line], mode)
                continue
            points = [sources[name][line] for name in here]
            shares = floors_and_fractions(rounded(sum(points), mode), points)
            for name, share in zip(here, shares, strict=True):
                result[name][line] = share
        return result

    def limit_left(self, one, event, member, name):
        """What a limit of a rule, or of the program (None), leaves."""
        if one["per"] == "transaction":
            return one["points"]
        return max(0, one["points"] - self.points_used(member, one["per"], event["on"], name))

    def points_used(self, member, per, on, name):
        """What a limit counts in the window of a date: since there has been a limit for it."""
        here = window(per, on)
        used = 0
        for fact in member["log"]:
            if fact["kind"] == "award" and window(per, fact["on"]) == here:
                counted = {one["per"] for one in self.terms_of(fact, name).get("limits", [])}
                if per in counted:
                    used += (
                        sum(fact["rules"].values()) if name is None else fact["rules"].get(name, 0)
                    )
        return used

    def terms_of(self, fact, name):
        """The rule, or (None) the program, of the version under which a fact was recorded."""
        document = self.documents[fact["version"]]
        if name is None:
            return document
        return next((r for r in document.get("rules", []) if r["rule_id"] == name), {})

    def within_budgets(self, program, award, campaigns, granted, limited_by):
        """The award within the budgets, what it draws from each, and the campaigns that go on. A
        campaign's budget pays what the award is larger by because of it, one campaign after
        another; the program's, all."""
        bitten = list(limited_by)
        limited_by.clear()
        paying = [c for c in campaigns if "budget" in c]
        running = [c for c in campaigns if c not in paying]
        drawn = {}
        before = sum(award(running)[0].values()) if paying else sum(granted.values())
        allowed = before
        for campaign in paying:
            name = "campaign:" + campaign["campaign_id"]
            with_it = [c for c in campaigns if c in running or c is campaign]
            then = sum(award(with_it)[0].values())
            more = max(0, then - before)
            paid = min(more, self.budget_left(campaign["budget"], self.drawn(name)))
            if paid < more:
                limited_by.append({"limit": name})
            if paid == 0 and more:
                continue  # the campaign is over
            running = with_it
            allowed += paid + min(0, then - before)
            before = then
            drawn[name] = paid
        if "budget" in program:
            left = self.budget_left(program["budget"], self.drawn("program"))
            if allowed > left:
                limited_by.append({"limit": "program:budget"})
                short = allowed - left
                for name in reversed(drawn):
                    less = min(short, drawn[name])
                    drawn[name] -= less
                    short -= less
                allowed = left
            drawn["program"] = allowed
        limited_by[:0] = bitten if running == campaigns else award(running)[1]
        if running != campaigns or sum(granted.values()) > allowed:
            granted = award(running, allowed)[0]
        return granted, drawn, running

    def too_often(self, rule, event, member):
        """Which kinds of frequency stop a rule."""
        return [
            "cooldown" if "every" in one else "frequency"
            for one in rule.get("frequency", [])
            if self.frequency_blocks({**rule, "frequency": [one]}, event, member)
        ]

    def frequency_blocks(self, rule, event, member):
        """For each frequency that stops the rule, the instant at which it ends (True: never)."""
        times = [
            fact
            for fact in member["log"]
            if fact["kind"] == "award" and rule["rule_id"] in fact["paid"]
        ]
        ends = []
        for one in rule.get("frequency", []):
            if "every" in one:
                for fact in times:
                    terms = self.terms_of(fact, rule["rule_id"])
                    if not any("every" in other for other in terms.get("frequency", [])):
                        continue
                    if self.readings["COOLDOWN"] == "after" and fact["ms"] > event["ms"]:
                        continue
                    first, second = sorted((fact["ms"], event["ms"]))
                    if self.later(first, one["every"]) > second:
                        ends.append(self.later(fact["ms"], one["every"]))
            else:
                here = window(one["per"], event["on"])
                count = sum(
                    1
                    for fact in times
                    if window(one["per"], fact["on"]) == here
                    and any(
                        other.get("per") == one["per"]
                        for other in self.terms_of(fact, rule["rule_id"]).get("frequency", [])
                    )
                )
                if count >= one["times"]:
                    following = next_window(one["per"], event["on"])
                    ends.append(self.midnight(following) if following else True)
        return ends

    def budget_left(self, budget, used):
        most = Fraction(budget["points"]) if "points" in budget else None
        if most is None:
            most = Fraction(budget["money"]) / number(self.program["point_value"])
        return max(0, rounded(most - used, "floor"))

    def drawn(self, name):
        """What awards have drawn from a budget, less what their refunds gave back."""
        total = 0
        for member in self.members.values():
            for fact in member["log"]:
                if fact["kind"] in ("award", "refund"):
                    total += fact["drawn"].get(name, 0)
        return total

    def expiry_of(self, policies, start, earned):
        """The date on which points go whose clock starts on a date; or None."""
        dates = []
        for policy in policies or []:
            if "after" in policy:
                dates.append(
                    round_up(plus(start, policy["after"]), policy.get("round_up_to", "day"))
                )
            if "dates" in policy:
                fixed = []
                for year in range(start.year, start.year + 200):
                    for text in policy["dates"]:
                        day = on_year(year, int(text[:2]), int(text[3:]))
                        if day > start and (
                            "older_than" not in policy or earned <= minus(day, policy["older_than"])
                        ):
                            fixed.append(day)
                    if fixed:
                        break
                dates.append(min(fixed))
        return min(dates) if dates else None

    def life_of(self, name, on):
        """available_on (None: at once) and expires_on of what a rule or an offer gives."""
        program = self.program
        pendings = program.get("pending") or {}
        policies = program.get("expiry")
        trigger = "purchase"
        own = None
        for rule in program.get("rules", []):
            if rule["rule_id"] == name:
                trigger = rule["trigger"]
                own = rule.get("pending")
                policies = rule.get("expiry", policies)
        for offer in program.get("offers", []):
            if offer["offer_id"] == name and "validity" in offer:
                policies = [{"after": offer["validity"]}]
        if name == REFERRAL:
            trigger = REFERRAL
        wait = own if own is not None else pendings.get(trigger)
        if (
            wait is None
            and trigger == "first_purchase"
            and self.readings["FIRST_PURCHASE_PENDS"] == "purchase"
        ):
            wait = pendings.get("purchase")
        start = plus(on, wait) if wait else on
        return start, self.expiry_of(policies, start, on)

    def credit(self, member, count, today, event=None, rule=None, available_on=None, until=None):
        """New points, pending or not; debt is paid, what is over goes at once."""
        fresh = []
        for _ in range(count):
            self.number += 1
            fresh.append(
                {
                    "nr": self.number,
                    "made_by": self.commands,
                    "event": event,
                    "rule": rule,
                    "since": today,
                    "came": None,
                    "asked_back": False,
                    "available_on": available_on,
                    "expires_on": until,
                    "state": "pending",
                    "redemption": None,
                }
            )
        member["points"].extend(fresh)
        if available_on is None or available_on <= today:
            self.make_available(member, fresh, today)
        return fresh

    def owner_at(self, member_id, number):
        """Whose the points of a member were, after so much had happened."""
        for merged, source_id, target_id in self.merges:
            if source_id == member_id and merged < number:
                member_id = target_id
        return member_id

    def parts_of(self, points, member):
        """What was given, by its life: pending parts first, then lots, by date."""
        sums = {}
        for point in points:
            if point["state"] != "paid":
                pends = point["available_on"] if point["state"] == "pending" else None
                place = (pends, point["expires_on"])
                sums[place] = sums.get(place, 0) + 1
        nr = points[-1]["nr"] if points else 0
        return ordered_parts(
            [
                {
                    "start": start,
                    "until": until,
                    "points": count,
                    "member_id": member["member_id"],
                    "asked": 0,
                    "nr": nr,
                    "numbers": {point["nr"] for point in points},
                    "beside": False,
                }
                for (start, until), count in sums.items()
            ]
        )

    def grant(self, work, member, event, event_id, skip=(), purchase=None):
        """Award an event to a member; the answer's fields, and what a refund has to know."""
        today = self.day(work.now)
        result = self.evaluate(self.program, event, member, skip)
        rules = {}
        for (rule, _), count in result["parts"].items():
            rules[rule] = rules.get(rule, 0) + count
        lives = {rule: self.life_of(rule, event["on"]) for rule in rules}
        fresh = []
        for rule, count in rules.items():
            fresh += [(rule, count, *lives[rule])]
        fresh.sort(key=lambda one: one[3] or date.max)
        points = []
        for rule, count, start, end in fresh:
            points += self.credit(member, count, today, event_id, rule, start, end)
        lots = as_lots([point for point in points if point["state"] != "paid"])
        gave = self.parts_of(points, member)
        fact = {
            "kind": "award",
            "type": event["type"],
            "event_id": event_id,
            "on": event["on"],
            "ms": event["ms"],
            "points": result["points"],
            "rules": rules,
            "paid": result["paid"],
            "base": event["base"],
            "location_id": event["location_id"],
            "drawn": result["drawn"],
            "version": self.version,
            "active": result["points"] > 0,
            "counts_on": event["on"],
            "qualify_by": self.qualify_by(),
            "qualifies": 0,
        }
        if fact["qualify_by"]:
            fact["qualifies"] = {"spend": event["base"], "points": result["points"]}[
                fact["qualify_by"]
            ]
        member["log"].append(fact)
        if fact["qualifies"]:
            self.lift(member, today, event["on"])
        record = {
            "event_id": event_id,
            "member_id": member["member_id"],
            "event": event,
            "purchase": purchase or {},
            "version": self.version,
            "parts": result["parts"],
            "gave": gave,
            "stopped": result["stopped"],
            "rules": {
                rule["rule_id"]: rule
                for rule in self.program.get("rules", [])
                if rule["rule_id"] in rules
            },
            "referral": None,
            "redemption_ids": [],
            "restored": {},
        }
        answer = {
            "points": result["points"],
            "desired_points": result["desired"],
            "pending_points": sum(
                count for _, count, start, _ in fresh if start is not None and start > today
            ),
            "lots": lots,
            "limited_by": result["limited_by"],
            "explanation": result["explanation"],
        }
        return answer, record

    def qualify_by(self):
        """What counts towards a tier, by the terms in force when an event is decided."""
        tiers = self.program.get("tiers")
        return tiers.get("qualify_by", "points") if tiers else None

    # --- members ---

    def do_enrol(self, command, work):
        member_id = command["member_id"]
        if self.resolved(member_id) in self.members:
            raise RefusedError("member_exists")
        referrer = None
        if command.get("referral_code") is not None:
            for other in self.members.values():
                if other["code"] == command["referral_code"]:
                    referrer = self.members[self.resolved(other["member_id"])]
            if referrer is not None and referrer["status"] == "erased":
                referrer = None
            if referrer is None:
                raise RefusedError("referral_code_unknown")
            for field, simple in (("email", simple_email), ("phone", simple_phone)):
                mine, theirs = command.get(field), referrer[field]
                if mine and theirs and simple(mine) == simple(theirs):
                    raise RefusedError("self_referral")
        today = self.day(work.now)
        member = {
            "member_id": member_id,
            "enrolled_on": today,
            "recorded": work.now,
            "groups": list(command.get("groups") or []),
            "birthday": command.get("birthday"),
            "email": command.get("email"),
            "phone": command.get("phone"),
            "code": command.get("own_code"),
            "status": "active",
            "referred_by": referrer["member_id"] if referrer else None,
            "points": [],
            "owed": [],
            "log": [],
            "rows": [],
            "lost": 0,
            "redemptions": {},
            "tier": 0,
            "looked_on": today,
            "kept_until": None,
            "terms": self.version,
            "pin": None,
        }
        begin_row(member)
        work.members[member_id] = member
        event = self.event_of(member, "registration", work.now)
        answer, record = self.grant(work, member, event, None)
        referral = self.program.get("referral") or {}
        if referral.get("award_on") == "registration":
            self.pay_referral(work, member, event, answer, record)
        self.advance(member, work.now)
        return {
            "member_id": member_id,
            "referral_code": member["code"],
            **answer,
            "balance": balance(member),
        }

    def pay_referral(self, work, member, event, answer, record):
        """Pay the referrer and the referred, once."""
        referral = self.program.get("referral")
        if not referral or not member["referred_by"]:
            return
        if any(fact["kind"] == "referred" for fact in member["log"]):
            return
        today = self.day(work.now)
        paid = []
        award = member["log"][-1]
        left = None
        if "budget" in self.program:
            left = self.budget_left(self.program["budget"], self.drawn("program"))
            left = max(0, left - award["drawn"].get("program", 0))
        try:
            referrer = work.member(member["referred_by"], apart=True)
        except RefusedError:
            return
        if referrer is member:
            return
        if (
            referrer["status"] == "closed"
            or self.resolved(referrer["referred_by"]) == member["member_id"]
        ):
            del work.members[referrer["member_id"]]
            return
        member["log"].insert(0, {"kind": "referred", "on": event["on"]})
        work.kinds[referrer["member_id"]] = REFERRAL
        witness = referrer["member_id"]
        if self.referred_enough(referral, referrer, event["on"]):
            referrer = None
        for who, field in ((member, "referred_points"), (referrer, "referrer_points")):
            count = referral.get(field, 0)
            if who is None or not count:
                continue
            if left is not None:
                budget = {"limit": "program:budget"}
                if count > left and budget not in answer["limited_by"]:
                    answer["limited_by"].append(budget)
                count = min(count, left)
                left -= count
            if not count and who is referrer:
                continue
            start, end = self.life_of(REFERRAL, event["on"])
            fresh = self.credit(who, count, today, record["event_id"], REFERRAL, start, end)
            who["log"].append(
                {
                    "kind": "award",
                    "type": REFERRAL,
                    "role": field,
                    "event_id": None,
                    "on": event["on"],
                    "ms": event["ms"],
                    "points": count,
                    "rules": {},
                    "paid": [],
                    "base": 0,
                    "location_id": None,
                    "drawn": {},
                    "version": self.version,
                    "active": count > 0,
                    "counts_on": event["on"],
                    "qualifies": 0,
                }
            )
            if left is not None:
                award["drawn"]["program"] = award["drawn"].get("program", 0) + count
            gave = self.parts_of(fresh, who)
            if who is member:
                for part in gave:
                    part["beside"] = True
                record["gave"] = ordered_parts(record["gave"] + gave)
                gave = record["gave"]
            paid.append((who["member_id"], count, gave))
            if who is member and self.readings["REFERRAL_IN_AWARD"]:
                answer["points"] += count
                answer["desired_points"] += referral[field]
                if start is not None and start > today:
                    answer["pending_points"] += count
                merged = [dict(one) for one in answer["lots"]] + as_lots(fresh)
                answer["lots"] = merged_lots(merged)
                answer["explanation"].append(
                    {
                        **row_of("rule_id", {"rule_id": REFERRAL}, [] if count else ["limit"]),
                        "points": count,
                        "desired_points": referral[field],
                        "factors": [],
                    }
                )
        for i, (name, count, _) in enumerate(paid):
            if name == member["member_id"]:
                paid[i] = (name, count, record["gave"])
        record["referral"] = {
            "paid": paid,
            "min_amount": referral.get("min_amount", 0),
            "witness": witness,
        }

    def referred_enough(self, referral, referrer, on):
        for one in referral.get("limits", []):
            here = window(one["per"], on)
            count = sum(
                1
                for fact in referrer["log"]
                if fact["kind"] == "award"
                and fact.get("role") == "referrer_points"
                and any(
                    other["per"] == one["per"]
                    for other in self.documents[fact["version"]]["referral"].get("limits", [])
                )
                and window(one["per"], fact["on"]) == here
            )
            if count >= one["times"]:
                return True
        return False

    def do_award(self, command, work):
        if command["type"] in RESERVED or command["event_id"].startswith("check-in:"):
            raise RefusedError("reserved_type")
        purchase = command.get("purchase")
        if (command["type"] == "purchase") != (purchase is not None):
            raise RefusedError("invalid_body")
        refuse_for_any(
            lambda: self.check_currency(purchase),
            lambda: self.not_closed(work, command["member_id"]),
            lambda: self.check_time(command.get("occurred_at"), work),
        )
        member, now = work.member(command["member_id"]), work.now
        occurred = command.get("occurred_at")
        occurred = now if occurred is None else occurred
        first = command["type"] == "purchase" and not any(
            fact["kind"] == "award" and fact["type"] == "purchase" for fact in member["log"]
        )
        event = self.event_of(
            member,
            command["type"],
            occurred,
            self.base_of(purchase) if purchase else (),
            channel=command.get("channel"),
            location_id=command.get("location_id"),
            attributes=command.get("attributes"),
            first_purchase=first,
            today=self.day(now),
        )
        event_id = command["event_id"]
        stood = {name: member[name] for name in ("tier", "kept_until", "terms")}
        answer, record = self.grant(work, member, event, event_id, purchase=purchase)
        record["redemption_ids"] = list((purchase or {}).get("redemption_ids") or [])
        referral = self.program.get("referral") or {}
        after = [Fraction(0)] * len(event["lines"])
        for refund in self.waiting.get(event_id, []):
            after = self.returned(event["lines"], after, refund)
        if (
            command["type"] == "purchase"
            and referral.get("award_on") == "first_purchase"
            and not all(share == 1 for share in after)
            and kept(event["lines"], after) >= referral.get("min_amount", 0)
        ):
            self.pay_referral(work, member, event, answer, record)
        reversed_points = 0
        for refund in self.waiting.get(event_id, []):
            taken = self.reverse(work, member, record, refund, fitting=True)
            reversed_points += taken["points"]
            member.update(stood)
            qualifies = sum(
                fact["qualifies"]
                for fact in member["log"]
                if fact["kind"] in ("award", "refund") and fact["event_id"] == event_id
            )
            if qualifies:
                self.lift(member, self.day(now), event["on"])
        self.advance(member, work.now)
        work.adding.append(lambda: self.events.__setitem__(event_id, record))
        work.adding.append(lambda: self.waiting.pop(event_id, None))
        return {
            "event_id": event_id,
            "member_id": member["member_id"],
            **answer,
            "reversed_points": reversed_points,
            "balance": balance(member),
        }

    def check_currency(self, bought):
        """Of a purchase or an order, if there is one."""
        own = self.program["currency"]
        if bought and bought.get("currency", own) != own:
            raise RefusedError("currency_mismatch")

    def check_time(self, occurred, work):
        if occurred is None:
            return
        if occurred > work.now + FUTURE_TOLERANCE_MS:
            raise RefusedError("event_in_future")
        late = self.program.get("max_lateness")
        if late is not None and occurred < self.earlier(work.now, late):
            raise RefusedError("event_too_late")

    def not_closed(self, work, member_id):
        member = work.member(member_id)
        if member["status"] == "closed":
            raise RefusedError("member_closed")
        return member

    def do_complete_profile(self, command, work):
        member = work.member(command["member_id"])
        rules = [r for r in self.program.get("rules", []) if r["trigger"] == "profile_completed"]
        if (
            not rules
            or member["status"] == "closed"
            or any(
                fact["kind"] == "award" and fact["type"] == "profile_completed"
                for fact in member["log"]
            )
        ):
            work.members.clear()
            return {"points": 0, "balance": balance(member)}
        event = self.event_of(member, "profile_completed", work.now)
        answer, _ = self.grant(work, member, event, None)
        if not answer["points"]:
            # It is paid once, not asked once: a later change of the profile may earn.
            work.members.clear()
            return {"points": 0, "balance": balance(self.members[member["member_id"]])}
        self.advance(member, work.now)
        return {**answer, "balance": balance(member)}

    def do_set_groups(self, command, work):
        member = work.member(command["member_id"])
        if set(member["groups"]) == set(command["groups"]):
            work.members.clear()
        member["groups"] = list(command["groups"])
        return {"member_id": command["member_id"]}

    def do_set_birthday(self, command, work):
        member = work.member(command["member_id"])
        before, member["birthday"] = member["birthday"], command["birthday"]
        if before and before[5:] == command["birthday"][5:]:
            work.members.clear()
            member_id = member["member_id"]
            self.members[member_id] = self.members[member_id] | {"birthday": command["birthday"]}
        return {"member_id": command["member_id"]}

    def do_check_in(self, command, work):
        location = next(
            (
                one
                for one in self.program.get("locations", [])
                if one["location_id"] == command["location_id"]
            ),
            None,
        )
        if location is None or "static" not in location.get("check_in", {}).get("kinds", []):
            raise RefusedError("code_invalid")
        setting = location["check_in"]
        member = self.not_closed(work, command["member_id"])
        now = work.now
        if not is_open(setting.get("opening_hours"), self.local(now)):
            raise RefusedError("location_closed")
        ends = self.scans_block(setting, location["location_id"], member, now)
        if ends:
            raise self.limit_reached(ends)
        event = self.event_of(member, "check_in", now, location_id=location["location_id"])
        if command.get("key") is not None:
            event_id = "check-in:" + command["key"]
        else:
            self.number += 1
            event_id = f"check-in:#{self.number}"
        answer, record = self.grant(work, member, event, event_id)
        if answer["points"] == 0:
            member["log"].pop()  # it leaves nothing
            stopped = any(is_often(row) for row in answer["explanation"])
            if stopped or answer["limited_by"]:
                ends = self.rules_block(answer, event, member)
                raise self.limit_reached(ends) if ends else RefusedError("limit_reached")
            raise RefusedError("nothing_earned")
        work.adding.append(lambda: self.events.__setitem__(event_id, record))
        self.advance(member, work.now)
        answer = {
            "event_id": event_id,
            "member_id": member["member_id"],
            "location_id": location["location_id"],
            **answer,
            "balance": balance(member),
        }
        ends = self.scans_block(setting, location["location_id"], member, now)
        ends += self.rules_block(answer, event, member)
        if ends and True not in ends:
            answer["next_allowed_at"] = max(ends)
        return answer

    def rules_block(self, answer, event, member):
        """For each limit that must end before a rule can pay here again, the instant at which it
        does: those of the rule that may pay first."""
        candidates = []
        for row in answer["explanation"]:
            rule = next((r for r in self.program["rules"] if r["rule_id"] == row["rule_id"]), None)
            if rule is None or not rule["earn"].get("points"):
                continue
            if not row["fired"] and not is_often(row):
                continue
            ends = self.frequency_blocks(rule, event, member)
            for name, terms in ((rule["rule_id"], rule), (None, self.program)):
                for one in terms.get("limits", []):
                    if one["per"] == "transaction":
                        continue
                    used = self.points_used(member, one["per"], event["on"], name)
                    if used >= one["points"]:
                        following = next_window(one["per"], event["on"])
                        ends.append(self.midnight(following) if following else True)
            candidates.append(ends)
        if [] in candidates or not candidates:
            return []
        return min(candidates, key=lambda ends: (True in ends, True in ends or max(ends)))

    def limit_reached(self, ends):
        if True in ends:
            return RefusedError("limit_reached")
        return RefusedError("limit_reached", next_allowed_at=max(ends))

    def check_in_terms(self, fact, location_id):
        """How one checked in there by the version under which a fact was recorded."""
        for one in self.documents[fact["version"]].get("locations", []):
            if one["location_id"] == location_id:
                return one.get("check_in", {})
        return {}

    def scans_block(self, setting, location_id, member, now):
        """For each limit of the location that is reached, the instant at which it ends."""
        scans = [
            fact
            for fact in member["log"]
            if fact["kind"] == "award"
            and fact["type"] == "check_in"
            and fact["location_id"] == location_id
        ]
        today = self.day(now)
        ends = []
        for one in setting.get("limits", []):
            here = window(one["per"], today)
            count = 0
            for fact in scans:
                limits = self.check_in_terms(fact, location_id).get("limits", [])
                counted = any(other["per"] == one["per"] for other in limits)
                count += counted and window(one["per"], fact["on"]) == here
            if count >= one["times"]:
                following = next_window(one["per"], today)
                ends.append(self.midnight(following) if following else True)
        scans = [f for f in scans if "cooldown" in self.check_in_terms(f, location_id)]
        if "cooldown" in setting and scans:
            end = self.later(max(fact["ms"] for fact in scans), setting["cooldown"])
            if end > now:
                ends.append(end)
        return ends

    # --- taking back ---

    def do_reversal(self, command, work):
        if command.get("lines") is not None and command.get("amount") is not None:
            raise RefusedError("invalid_body")
        event_id = command["event_id"]
        record = self.events.get(event_id)
        if record is None:
            if event_id.startswith("check-in:"):
                raise RefusedError("event_not_found")
            work.adding.append(lambda: self.waiting.setdefault(event_id, []).append(dict(command)))
            return {
                "status": "waiting",
                "event_id": event_id,
                "refund_id": command["refund_id"],
            }
        owner = self.members[self.resolved(record["member_id"])]
        refuse_for_any(
            lambda: work.member(owner["member_id"]),
            lambda: self.check_refund(owner, record, command),
        )
        member = work.member(owner["member_id"])
        answer = self.reverse(work, member, record, command)
        self.advance(member, work.now)
        return {
            "status": "reversed",
            "event_id": event_id,
            "refund_id": command["refund_id"],
            "member_id": member["member_id"],
            **answer,
            "balance": balance(member),
        }

    def refunded(self, member, record):
        """The refunds of an event until now, and by line the share that came back with them."""
        refunds = [
            fact
            for fact in member["log"]
            if fact["kind"] == "refund" and fact["event_id"] == record["event_id"]
        ]
        lines = range(len(record["event"]["lines"]))
        return refunds, [sum((f["returned"][i] for f in refunds), Fraction(0)) for i in lines]

    def check_refund(self, member, record, command):
        """Refuse what does not fit into what is left."""
        lines = {line["line_id"]: line for line in record["event"]["lines"]}
        refunds, shares = self.refunded(member, record)
        before = dict(zip(lines, shares, strict=True))
        over = any(fact["whole"] for fact in refunds)
        over = over or (bool(lines) and all(share == 1 for share in shares))
        if command.get("amount") is not None:
            left = sum(line["amount"] * (1 - before[name]) for name, line in lines.items())
            over = over or command["amount"] > left
        unknown = False
        for one in command.get("lines") or []:
            name = one["line_id"]
            if name not in lines:
                over, unknown = over or not lines, bool(lines)
            if name in lines:
                share = self.share_asked(one, lines[name], before[name])
                over = over or share == 0 or before[name] + share > 1

        def check(wrong, code):
            if wrong:
                raise RefusedError(code)

        refuse_for_any(
            lambda: check(over, "more_than_bought"), lambda: check(unknown, "line_not_found")
        )

    def share_asked(self, asked, line, before):
        """The share of a line that a refund names; all that is left where it names no part."""
        if asked.get("quantity") is not None:
            return Fraction(asked["quantity"], line["quantity"])
        if asked.get("amount") is not None:
            return Fraction(asked["amount"], line["amount"]) if line["amount"] else Fraction(2)
        return 1 - before

    def reverse(self, work, member, record, command, fitting=False):
        """Take back; `fitting`: a refund that came before its event, as far as it fits."""
        event = record["event"]
        lines = event["lines"]
        refunds, before = self.refunded(member, record)
        after = self.returned(lines, before, command)
        left = dict(record["parts"])
        for fact in refunds:
            for place, count in fact["parts"].items():
                left[place] -= count
        everything = all(one == 1 for one in after)
        if not lines and command.get("lines") is not None:
            everything = False
        nominal = self.nominal(record, after, left, everything)

        remaining = kept(lines, after)
        award = next(
            fact
            for fact in member["log"]
            if fact["kind"] == "award" and fact["event_id"] == record["event_id"]
        )
        was = self.holds_up(member, self.day(work.now))
        fact = {
            "kind": "refund",
            "event_id": record["event_id"],
            "on": event["on"],
            "returned": [new - old for new, old in zip(after, before, strict=True)],
            "parts": nominal,
            "points": sum(nominal.values()),
            "counts_on": award["counts_on"],
            "drawn": {},
            "whole": everything,
        }
        spend = rounded(event["base"] - remaining, "floor")
        spend -= rounded(event["base"] - kept(lines, before), "floor")
        restored = 0
        if self.readings["RESTORE_FIRST"]:
            restored = self.restore(work, member, record, after, everything)
        referral = record["referral"]
        theirs, beside, referred = [], [], 0
        if (
            referral
            and not any(f.get("referral") for f in refunds)
            and (everything or remaining < referral["min_amount"])
        ):
            fact["referral"] = True
            for member_id, count, gave in referral["paid"]:
                if gave is record["gave"] or self.resolved(member_id) == member["member_id"]:
                    fact["points"] += count
                    referred += count
                    if gave is not record["gave"]:
                        beside.append((count, gave))
                else:
                    theirs.append((member_id, count, gave))
            if self.members[self.resolved(referral["witness"])]["status"] != "erased":
                work.member(referral["witness"], apart=True)
        # A refund that waited finds only what the award itself gave.
        parts = [part for part in record["gave"] if not (fitting and part["beside"])]
        taken = self.take_back(member, parts, fact["points"] - sum(n for n, _ in beside))
        for count, gave in beside:
            also = self.take_back(member, gave, count)
            taken = {
                name: also[name] + value if name != "taken" else merged_dates(value, also[name])
                for name, value in taken.items()
            }
        fact["counted"] = self.counted(fact["points"], taken)
        counted = self.counted(fact["points"] - referred, taken)
        fact["qualifies"] = -{None: 0, "points": counted, "spend": spend}[award["qualify_by"]]
        member["log"].append(fact)
        self.lower(member, was, self.day(work.now))
        for member_id, count, gave in theirs:
            try:
                other = work.member(member_id, apart=True)
            except RefusedError:
                continue
            lost = self.take_back(other, gave, count)
            other["log"].append(
                {
                    "kind": "refund",
                    "event_id": None,
                    "on": event["on"],
                    "returned": [],
                    "parts": {},
                    "points": count,
                    "counted": self.counted(count, lost),
                    "counts_on": event["on"],
                    "drawn": {},
                    "qualifies": 0,
                }
            )
        self.give_back_to_budgets(fact, award, record, refunds, everything)
        if not self.readings["RESTORE_FIRST"]:
            restored = self.restore(work, member, record, after, everything)
        return {
            "points": taken["points"],
            "taken": taken["taken"],
            "debt": taken["debt"],
            "expired_points": taken["expired"],
            "forgiven_points": taken["forgiven"],
            "restored_points": restored,
        }

    def give_back_to_budgets(self, fact, award, record, refunds, everything):
        """In proportion of the points, in all of it with the last; a program's to the point."""
        given = sum(record["parts"].values())
        taken = sum(sum(one["parts"].values()) for one in [*refunds, fact])
        for name, points in award["drawn"].items():
            back = points
            if not everything and name == "program":
                ended = any(one.get("referral") for one in [*refunds, fact])
                back = taken + (points - given if ended else 0)
            elif not everything:
                back = points * taken // given if given else 0
            back += sum(one["drawn"].get(name, 0) for one in refunds)
            fact["drawn"][name] = -back

    def counted(self, nominal, taken):
        return nominal if self.readings["TIER_REFUND"] == "all" else taken["points"]

    def returned(self, lines, before, command):
        """By line, the share that has come back with this refund, as far as there is so much."""
        after = list(before)
        if command.get("lines") is None and command.get("amount") is None:
            return [Fraction(1)] * len(lines)
        if command.get("amount") is not None:
            left = [line["amount"] * (1 - f) for line, f in zip(lines, before, strict=True)]
            if command["amount"] >= sum(left):
                return [Fraction(1)] * len(lines)
            for i, share in enumerate(largest_remainder(command["amount"], left)):
                if share:
                    after[i] = min(Fraction(1), after[i] + Fraction(share, lines[i]["amount"]))
            return after
        ids = [line["line_id"] for line in lines]
        for one in command["lines"]:
            if one["line_id"] in ids:
                i = ids.index(one["line_id"])
                share = self.share_asked(one, lines[i], after[i])
                after[i] = min(Fraction(1), after[i] + share)
        return after

    def nominal(self, record, after, left, everything):
        """Points of the event that go, by (rule, line)."""
        event = record["event"]
        lines = event["lines"]
        if everything:
            return {place: count for place, count in left.items() if count}
        if not lines:
            return {}
        program = self.documents[record["version"]]
        method = (program.get("refunds") or {}).get("method", "per_line")
        gone = dict.fromkeys(left, 0)

        def take(places, count):
            shares = largest_remainder(count, [left[p] - gone[p] for p in places])
            for place, share in zip(places, shares, strict=True):
                gone[place] += share

        if method == "proportional":
            share = share_of([line["amount"] for line in lines], after)
            should = rounded(sum(record["parts"].values()) * share, "floor")
            already = sum(record["parts"].values()) - sum(left.values())
            take(list(left), max(0, should - already))
        elif method == "recompute":
            rest = {**event, "lines": self.what_stays(program, record["purchase"], lines, after)}
            rest["base"] = sum(line["base"] for line in rest["lines"])
            again = self.evaluate(program, rest, None, stopped=record["stopped"])
            places = [i for i, f in enumerate(after) if f < 1]
            now = {
                (rule, None if i is None else places[i]): count
                for (rule, i), count in again["parts"].items()
            }
            over = {place: max(0, left[place] - now.get(place, 0)) for place in left}
            count = max(0, sum(left.values()) - again["points"])
            shares = largest_remainder(min(count, sum(over.values())), list(over.values()))
            gone = dict(zip(over, shares, strict=True))
        else:
            remaining = kept(lines, after)
            whole = set()
            for place in left:
                rule = record["rules"].get(place[0], {})
                least = (rule.get("when") or {}).get("min_amount")
                if place[1] is not None and self.readings["THRESHOLD_RULES"] == "fixed":
                    least = None
                stays = any(
                    f < 1 and matches(rule.get("match"), line, self.readings["MATCH"])
                    for line, f in zip(lines, after, strict=True)
                )
                if (least is not None and remaining < least) or (place[1] is None and not stays):
                    gone[place] = left[place]
                    whole.add(place)
            for i, f in enumerate(after):
                # What is gone altogether does not count by parts.
                places = [place for place in left if place[1] == i and place not in whole]
                total = sum(record["parts"][place] for place in places)
                already = total - sum(left[place] for place in places)
                should = rounded(total * f, "floor")
                take(places, max(0, should - already))
        return {place: count for place, count in gone.items() if count}

    def what_stays(self, program, purchase, lines, after):
        """The lines that the customer keeps, with what they earn on."""
        amounts = [line["amount"] for line in lines]
        gone = share_of(amounts, after)
        rest = []
        for line, f in zip(lines, after, strict=True):
            if f < 1:
                amount = line["amount"] - rounded(line["amount"] * f, "floor")
                quantity = rounded(line["quantity"] * (1 - f), "ceil")
                rest.append({**line, "amount": amount, "quantity": quantity})
        names = ("tax", "shipping", "paid_with_points")
        extras = {n: rounded((purchase.get(n) or 0) * (1 - gone), "floor") for n in names}
        return self.base_of({"lines": rest, **extras}, program)

    def take_back(self, member, parts, count):
        """Take so many points of what an event gave: of its pending parts, of its lots, those that
        go first before others."""
        policy = (self.program.get("refunds") or {}).get("shortfall", "other_lots")
        taken, expired, short = [], 0, 0
        for part in parts:
            wanted = min(count, part["points"] - part["asked"])
            count -= wanted
            part["asked"] += wanted
            until = part["until"]
            own = [
                p
                for p in member["points"]
                if p["state"] == "pending"
                and (p["available_on"], p["expires_on"]) == (part["start"], until)
            ]
            chosen = own[:wanted] if part["start"] else []
            mine = [p for p in member["points"] if p["nr"] in part["numbers"]]
            mine = [p for p in mine if p["expires_on"] == until]
            mine = [p for p in mine if p["came"] and not p["asked_back"]]
            for point in mine[: wanted - len(chosen)]:
                point["asked_back"] = True
            lot = [p for p in member["points"] if p["state"] == "available"]
            lot = [p for p in lot if p["expires_on"] == until]
            chosen += lot[: wanted - len(chosen)]
            lost = [p for p in member["points"] if p["state"] == "expired"]
            lost = [p for p in lost if p["expires_on"] == until and p["gone"] > part["nr"]]
            # What was another member's when it went is not this one's.
            lost = [
                p for p in lost if p["gone_from"] == self.owner_at(part["member_id"], p["gone"])
            ]
            # What went as it came was never in a lot with others.
            lost = [p for p in lost if not p["on_arrival"] or p["nr"] in part["numbers"]]
            lost = lost[: wanted - len(chosen)]
            for point in lost:
                point["state"] = "expired and refunded"
            for point in chosen:
                point["state"] = "taken"
            expired += len(lost)
            taken += chosen
            short += wanted - len(chosen) - len(lost)
        short += count
        others = spending_order(available(member))[:short] if policy != "clamp" else []
        for point in others:
            point["state"] = "taken"
        taken += others
        short -= len(others)
        owed = short if policy == "debt" else 0
        member["owed"] += ["owed"] * owed
        return {
            "points": len(taken) + owed,
            "taken": by_date(taken),
            "debt": owed,
            "expired": expired,
            "forgiven": short - owed,
        }

    def restore(self, work, member, record, after, everything):
        """Points that paid for what came back."""
        lines = record["event"]["lines"]
        share = share_of([line["amount"] for line in lines], after)
        restored = 0
        grace = (self.program.get("refunds") or {}).get("expired_grace", "P0D")
        for key in record["redemption_ids"]:
            if key not in self.owners:
                continue
            # What comes back of another member's is lost, also where they become one later.
            owner = self.members[self.resolved(self.owners[key])]
            one = member["redemptions"].get(key, owner["redemptions"][key])
            if one["status"] != "captured":
                continue
            should = one["points"] if everything else rounded(one["points"] * share, "floor")
            spent = [p for p in member["points"] if p["redemption"] == key]
            mine = record["restored"].get(key, 0)
            count = max(0, min(should - mine, one["points"] - one["restored"]))
            record["restored"][key] = max(mine, should)
            if key not in member["redemptions"]:
                continue
            chosen = spending_order(spent)[::-1][:count]
            one["restored"] += len(chosen)
            if chosen and one["voucher"] and not one["used"]:
                one["withdrawn"] = True
            # What a refund takes first may be just that; what is over goes with the command.
            first = self.readings["RESTORE_FIRST"]
            alive = self.give_back(member, chosen, self.day(work.now), grace, last=not first)
            restored += alive if self.readings["RESTORED_POINTS"] == "alive" else len(chosen)
        return restored

    # --- spending ---

    def spender(self, work, member_id):
        member = self.not_closed(work, member_id)
        if member["status"] == "blocked":
            raise RefusedError("member_blocked")
        return member

    def do_redeem(self, command, work):
        if (command.get("reward_id") is None) == (command.get("points") is None):
            raise RefusedError("invalid_body")
        program, order = self.program, command.get("order")
        discount = None
        refuse_for_any(
            lambda: self.spender(work, command["member_id"]),
            lambda: self.reward_of(command),
            lambda: self.check_currency(order),
        )
        member, reward = work.member(command["member_id"]), self.reward_of(command)
        now, today = work.now, self.day(work.now)
        if reward:
            cost = self.reward_cost(reward, member, today)
            self.check_reward(reward, member, now)
            discount = self.reward_discount(reward, order)
        else:
            cost = command["points"]
        held = [one for one in member["redemptions"].values() if one["status"] == "held"]
        if command.get("hold") and len(held) >= MOST_HOLDS:
            raise RefusedError("too_many_holds")
        payment = program.get("points_payment")
        pays = not reward and payment and (order or not self.readings["PAYMENT_NEEDS_ORDER"])
        have = spending_order(available(member))
        refuse_for_any(
            lambda: self.payment(payment, cost, order) if pays else None,
            lambda: self.check_enough(cost, have),
        )
        if pays:
            discount = self.payment(payment, cost, order)
        key = command["key"]
        for point in have[:cost]:
            point["state"] = "held" if command.get("hold") else "spent"
            point["redemption"] = key
        one = {
            "status": "held" if command.get("hold") else "captured",
            "points": cost,
            "reward_id": reward["reward_id"] if reward else None,
            "version": self.version,
            "drew": bool(reward and "stock" in reward),
            "counted": {one["per"] for one in (reward or {}).get("limits", [])},
            "on": today,
            "held_until": None,
            "restored": 0,
            "voucher": None,
            "used": False,
            "withdrawn": False,
            "discount": discount,
        }
        if command.get("hold"):
            longest = (program.get("holds") or {}).get("max_duration", DEFAULT_HOLD)
            one["held_until"] = self.later(now, longest)
        else:
            self.give_voucher(one, reward, today)
        member["redemptions"][key] = one
        member["log"].append({"kind": "redeem", "on": today, "active": True})
        work.adding.append(lambda: self.owners.__setitem__(key, member["member_id"]))
        return self.redeemed(key, member, one)

    def reward_of(self, command):
        """The reward that a redemption names; None if it names none."""
        if command.get("reward_id") is None:
            return None
        for reward in self.program.get("rewards", []):
            if reward["reward_id"] == command["reward_id"]:
                return reward
        raise RefusedError("reward_not_found")

    def check_enough(self, points, have, **more):
        if len(have) < points:
            raise RefusedError("insufficient_points", missing_points=points - len(have), **more)

    def redeemed(self, key, member, one):
        answer = {
            "redemption_id": key,
            "member_id": member["member_id"],
            "status": one["status"],
            "points": one["points"],
            "balance": balance(member),
        }
        if one["discount"]:
            answer["discount"] = one["discount"]
        if one["status"] == "held":
            answer["held_until"] = one["held_until"]
        if one["voucher"] and one["status"] == "captured":
            answer["voucher"] = {"expires_on": one["voucher"]["expires_on"]}
        return answer

    def give_voucher(self, one, reward, today):
        if reward:
            validity = reward.get("voucher_validity")
            until = plus(today, validity).isoformat() if validity else None
            one["voucher"] = {"expires_on": until}

    def reward_cost(self, reward, member, today):
        cost = reward["cost"]
        if isinstance(cost, dict):
            cost = cost.get(self.tier_id(member, today), cost.get("default"))
            if cost is None:
                raise RefusedError("reward_locked")
        return cost

    def check_reward(self, reward, member, now):
        today, local = self.day(now), self.local(now)
        when = reward.get("when") or {}
        if not started(when.get("from"), local) or not not_over(when.get("until"), local):
            raise RefusedError("reward_unavailable")
        if when.get("tiers") and self.tier_id(member, today) not in when["tiers"]:
            raise RefusedError("reward_locked")
        if when.get("groups") and not set(when["groups"]) & set(member["groups"]):
            raise RefusedError("reward_locked")
        forgets = self.readings["LIMIT_FORGETS_CANCELLED"]
        ends = []
        for one in reward.get("limits", []):
            here = window(one["per"], today)
            count = sum(
                1
                for had in member["redemptions"].values()
                if had["reward_id"] == reward["reward_id"]
                and not (forgets and (had["status"] in ("cancelled", "lapsed") or had["withdrawn"]))
                and one["per"] in had["counted"]
                and window(one["per"], had["on"]) == here
            )
            if count >= one["times"]:
                following = next_window(one["per"], today)
                ends.append(self.midnight(following) if following else True)
        if ends:
            raise self.limit_reached(ends)
        if "stock" in reward:
            out = 0
            for other in {**self.members, member["member_id"]: member}.values():
                for had in other["redemptions"].values():
                    if (
                        had["reward_id"] == reward["reward_id"]
                        and had["drew"]
                        and not had["withdrawn"]
                        and had["status"] in ("held", "captured")
                        and not (had["status"] == "held" and had["held_until"] <= now)
                    ):
                        out += 1
            if out >= reward["stock"]:
                raise RefusedError("out_of_stock")

    def reward_discount(self, reward, order):
        offered = reward.get("discount")
        if not offered:
            return None
        currency = self.program["currency"]
        if "amount" in offered:
            most = offered["amount"] if order is None else order["amount"]
            return {"amount": min(offered["amount"], most), "currency": currency}
        if order is None:
            return {**offered, "currency": currency}
        amount = rounded(order["amount"] * number(offered["percent"]) / 100, "floor")
        if "max_amount" in offered:
            amount = min(amount, offered["max_amount"])
        return {"amount": amount, "currency": currency}

    def payment(self, payment, points, order):
        step = payment.get("step", payment["points"])
        if points < payment.get("min_points", step) or points % step:
            raise RefusedError("payment_refused")
        amount = rounded(Fraction(points * payment["amount"], payment["points"]), "floor")
        if order:
            share = number(payment.get("max_share", 1))
            if amount > order["amount"] * share:
                raise RefusedError("payment_refused")
        return {"amount": amount, "currency": self.program["currency"]}

    def redemption(self, command):
        key = command.get("redemption_id", command.get("key"))
        if key not in self.owners:
            raise RefusedError("redemption_not_found")
        return key, self.members[self.resolved(self.owners[key])]["redemptions"][key]

    def do_capture(self, command, work):
        key, one = self.redemption(command)
        if one.get("captured_answer") and self.readings["REPEAT_ENDS"] == "replay":
            return {**one["captured_answer"], "replayed": True}
        member = self.spender(work, self.owners[key])
        one = member["redemptions"][key]
        if one["status"] != "held":
            raise RefusedError("not_held", redemption_status=one["status"])
        one["status"] = "captured"
        for point in member["points"]:
            if point["redemption"] == key:
                point["state"] = "spent"
        reward = next(
            (
                r
                for r in self.documents[one["version"]].get("rewards", [])
                if r["reward_id"] == one["reward_id"]
            ),
            None,
        )
        self.give_voucher(one, reward, self.day(work.now))
        one["captured_answer"] = self.redeemed(key, member, one)
        return one["captured_answer"]

    def do_cancel(self, command, work):
        key, one = self.redemption(command)
        if one.get("cancelled_answer") and self.readings["REPEAT_ENDS"] == "replay":
            return {**one["cancelled_answer"], "replayed": True}
        member = self.not_closed(work, self.owners[key])
        one = member["redemptions"][key]
        if one["status"] in ("cancelled", "lapsed"):
            raise RefusedError("not_held", redemption_status=one["status"])
        if one["points"] and one["restored"] >= one["points"]:
            raise RefusedError("redemption_restored")
        if one["used"]:
            raise RefusedError("voucher_used")
        one["status"] = "cancelled"
        out = [point for point in member["points"] if point["redemption"] == key]
        self.give_back(member, out, self.day(work.now))
        one["cancelled_answer"] = {**self.redeemed(key, member, one), "points": len(out)}
        return one["cancelled_answer"]

    def do_use_voucher(self, command, work):
        key = command.get("redemption_id", command.get("key"))
        if key not in self.owners:
            raise RefusedError("voucher_not_found")
        # Who has the voucher may use it, also where the member has been erased.
        member = self.members[self.resolved(self.owners[key])]
        one = dict(member["redemptions"][key])
        if one["voucher"] is None:
            raise RefusedError("voucher_not_found")
        if one["status"] == "cancelled" or one["withdrawn"]:
            raise RefusedError("voucher_cancelled")
        if one["used"]:
            raise RefusedError("voucher_used")
        until = one["voucher"]["expires_on"]
        if until and date.fromisoformat(until) <= self.day(work.now):
            raise RefusedError("voucher_expired")
        one["used"] = True
        then = member | {"redemptions": member["redemptions"] | {key: one}}
        work.adding.append(lambda: self.members.__setitem__(member["member_id"], then))
        return {"redemption_id": key, "status": "used"}

    def do_transfer(self, command, work):
        source_id = self.resolved(command["from_member_id"])
        target_id = self.resolved(command["to_member_id"])
        refuse_for_any(
            lambda: self.spender(work, source_id),
            lambda: self.check_two(source_id, target_id),
            lambda: self.not_closed(work, target_id),
        )
        source, target = work.member(source_id), work.member(target_id)
        today = self.day(work.now)
        points = command["points"]
        setting = self.program.get("transfers") or {}
        if not setting.get("enabled", False):
            raise RefusedError("transfer_refused", reason="disabled")
        if points < setting.get("min_points", 1):
            raise RefusedError("transfer_refused", reason="min_points")
        if "new_member_wait" in setting and today < plus(
            source["enrolled_on"], setting["new_member_wait"]
        ):
            raise RefusedError("transfer_refused", reason="new_member")
        sent = [fact for fact in source["log"] if fact["kind"] == "sent"]
        ends = []
        for one in setting.get("limits", []):
            here = window(one["per"], today)
            now_sent = [
                fact
                for fact in sent
                if window(one["per"], fact["on"]) == here and one["per"] in fact["counted"]
            ]
            following = next_window(one["per"], today)
            if "times" in one:
                over = len(now_sent) >= one["times"]
                never = False
            else:
                over = sum(fact["points"] for fact in now_sent) + points > one["points"]
                never = points > one["points"]
            if over:
                ends.append(True if never or following is None else self.midnight(following))
        if ends:
            raise self.limit_reached(ends)
        have = spending_order(available(source))
        fresh = {}
        if "fresh_points_wait" in setting:
            have = self.ripe(source, setting["fresh_points_wait"], today)
            fresh = {"fresh_points": len(available(source)) - len(have)}
        self.check_enough(points, have, **fresh)
        moved = have[:points]
        self.revive(target, today)
        for point in moved:
            point["state"] = "sent"
            self.credit(target, 1, today, until=point["expires_on"])
        self.advance(target, work.now)
        counted = {one["per"] for one in setting.get("limits", [])}
        source["log"].append({"kind": "sent", "on": today, "points": points, "counted": counted})
        return {
            "points": points,
            "lots": as_lots(moved),
            "balances": {source_id: balance(source), target_id: balance(target)},
        }

    def check_two(self, one_id, other_id):
        if one_id == other_id and one_id in self.members:
            raise RefusedError("same_member")

    def ripe(self, member, wait, today):
        """What is old enough to be sent: of each date those that are not the last that came."""
        chosen = []
        for day, _ in by_date(available(member)):
            dated = [p for p in member["points"] if str(p["expires_on"]) == str(day)]
            fresh = [
                p
                for p in dated
                if p["came"] and plus(p["came"], wait) > today and not p["asked_back"]
            ]
            here = [p for p in dated if p["state"] == "available"]
            chosen += here[: max(0, len(here) - len(fresh))]
        return chosen

    # --- staff ---

    def do_adjust(self, command, work):
        points = command["points"]
        if points == 0 or (points < 0 and command.get("expires_on")):
            raise RefusedError("invalid_body")
        member = work.member(command["member_id"])
        most = (self.program.get("adjustments") or {}).get("second_person_above")
        if most is not None and abs(points) > most:
            lapses_at = work.now + PROPOSAL_MS
            if points > 0:
                # What nobody could ever agree to is not proposed.
                self.check_adjust(command, member, work)
                if command.get("expires_on"):
                    gone = self.midnight(date.fromisoformat(command["expires_on"]))
                    lapses_at = min(lapses_at, gone)
            proposal = {
                "command": dict(command),
                "status": "proposed",
                "settled_by": None,
                "lapses_at": lapses_at,
            }
            until = command.get("expires_on")
            if until and date.fromisoformat(until) <= self.day(work.now):
                raise RefusedError("expires_too_early")
            work.members.clear()
            work.adding.append(lambda: self.proposals.__setitem__(command["key"], proposal))
            return {"status": "proposed", "adjustment_id": command["key"], "points": points}
        return self.adjust(command, member, work)

    def check_adjust(self, command, member, work):
        self.check_receiver(command, member)
        until = command.get("expires_on")
        if until and date.fromisoformat(until) <= self.day(work.now):
            raise RefusedError("expires_too_early")
        self.check_enough(-command["points"], available(member))

    def adjust(self, command, member, work):
        self.check_adjust(command, member, work)
        points, today = command["points"], self.day(work.now)
        if points > 0:
            if command.get("expires_on"):
                until = date.fromisoformat(command["expires_on"])
            else:
                until = self.expiry_of(self.program.get("expiry"), today, today)
            if until and until <= today:
                raise RefusedError("expires_too_early")
            self.revive(member, today)
            moved = self.credit(member, points, today, until=until)
            moved = [point for point in moved if point["state"] != "paid"]
            self.advance(member, work.now)
        else:
            moved = spending_order(available(member))[:-points]
            for point in moved:
                point["state"] = "adjusted"
        return {
            "status": "approved",
            "adjustment_id": command["key"],
            "points": points,
            "lots": as_lots(moved),
            "balance": balance(member),
        }

    def do_approve(self, command, work):
        proposal = self.proposal(command)
        if self.is_repeat(command, proposal, "approved"):
            return {**proposal["answer"], "replayed": True}
        asked = proposal["command"]
        refuse_for_any(
            lambda: self.check_open(proposal, work),
            lambda: self.check_other_person(command, asked),
            lambda: self.check_receiver(asked, work.member(asked["member_id"])),
        )
        answer = self.adjust(asked, work.member(asked["member_id"]), work)
        settled = {"status": "approved", "settled_by": command["by"], "answer": answer}
        work.adding.append(lambda: proposal.update(settled))
        return answer

    def do_refuse(self, command, work):
        proposal = self.proposal(command)
        if self.is_repeat(command, proposal, "refused"):
            return {**proposal["answer"], "replayed": True}
        self.check_open(proposal, work)
        answer = {"status": "refused", "adjustment_id": command["key"]}
        settled = {"status": "refused", "settled_by": command["by"], "answer": answer}
        work.adding.append(lambda: proposal.update(settled))
        return answer

    def proposal(self, command):
        if command["key"] not in self.proposals:
            raise RefusedError("adjustment_not_found")
        return self.proposals[command["key"]]

    def is_repeat(self, command, proposal, end):
        """Whether it has ended this way already."""
        return (
            self.readings["REPEAT_ENDS"] == "replay"
            and proposal["status"] == end
            and (end == "approved" or proposal["settled_by"] == command["by"])
        )

    def check_open(self, proposal, work):
        status = proposal["status"]
        if status == "proposed" and work.now >= proposal["lapses_at"]:
            status = "lapsed"
        if status != "proposed":
            raise RefusedError("adjustment_settled", adjustment_status=status)

    def check_other_person(self, command, asked):
        if command["by"] == asked["by"]:
            raise RefusedError("same_person")

    def check_receiver(self, command, member):
        if member["status"] == "closed" and command["points"] > 0:
            raise RefusedError("member_closed")

    def do_merge(self, command, work):
        source_id = self.resolved(command["member_id"])
        target_id = self.resolved(command["into_member_id"])
        refuse_for_any(
            lambda: self.not_closed(work, source_id),
            lambda: self.check_two(source_id, target_id),
            lambda: self.not_closed(work, target_id),
        )
        source, target = work.member(source_id), work.member(target_id)
        if any(one["status"] == "held" for one in source["redemptions"].values()):
            raise RefusedError("open_holds")
        today = self.day(work.now)
        moved = [p for p in source["points"] if p["state"] in ("available", "pending")]
        self.move_years(source, today)
        target["points"] += source["points"]
        target["owed"] += source["owed"]
        source_log = source["log"]
        target["log"] += source_log
        self.revive(target, today)
        target["redemptions"].update(source["redemptions"])
        for point in moved:
            point["came"] = today if point["state"] == "available" else None
        self.make_available(target, available(target), today)
        source_status = source["status"]
        source.update(points=[], owed=[], log=[], redemptions={}, status="merged")
        if source["tier"] > target["tier"]:
            target.update({name: source[name] for name in ("tier", "kept_until", "terms")})
        elif source["tier"] == target["tier"] and source["kept_until"] and target["kept_until"]:
            target["kept_until"] = max(source["kept_until"], target["kept_until"])
        if not target["pin"] or (target["pin"][1] and target["pin"][1] <= today):
            target["pin"] = source["pin"]
        if "blocked" in (source_status, target["status"]):
            target["status"] = "blocked"
        if any(fact.get("qualifies") for fact in source_log):
            self.lift(target, today)
        self.number += 1
        merged = (self.number, source_id, target_id)
        work.adding.append(lambda: self.merges.append(merged))
        work.adding.append(lambda: self.aliases.__setitem__(source_id, target_id))
        return {
            "member_id": target_id,
            "merged_member_id": source_id,
            "points": len(moved),
            "balance": balance(target),
        }

    def move_years(self, member, today):
        """What counts in a year of membership counts as on this very day of that year."""
        if "membership" not in ((self.program.get("tiers") or {}).get("window") or {}):
            return
        current, _ = self.period(member, today)
        for i, fact in enumerate(member["log"]):
            if "counts_on" in fact:
                start, _ = self.period(member, fact["counts_on"])
                years = current.year - start.year
                member["log"][i] = {**fact, "counts_on": minus(today, f"P{12 * years}M")}

    def set_status(self, command, work, status):
        member = work.member(command["member_id"])
        if member["status"] == "closed" != status:
            raise RefusedError("member_closed")
        if member["status"] == status:
            work.members.clear()
        member["status"] = status
        return {
            "member_id": member["member_id"],
            "status": status,
            "balance": balance(member),
        }

    def do_block(self, command, work):
        return self.set_status(command, work, "blocked")

    def do_unblock(self, command, work):
        return self.set_status(command, work, "active")

    def do_close(self, command, work):
        return self.set_status(command, work, "closed")

    def do_erase(self, command, work):
        member_id = self.resolved(command["member_id"])
        if member_id in self.members and self.members[member_id]["status"] == "erased":
            return {"member_id": member_id, "status": "erased"}
        member = work.member(member_id)
        for point in member["points"]:
            if point["state"] in ("pending", "available", "held"):
                point["state"] = "written off"
        for one in member["redemptions"].values():
            if one["status"] == "held":
                one["status"] = "cancelled"
        member.update(status="erased", owed=[], email=None, phone=None, birthday=None, groups=[])
        return {"member_id": member_id, "status": "erased"}

    def do_set_tier(self, command, work):
        member = self.not_closed(work, command["member_id"])
        today = self.day(work.now)
        tier_id, until = command.get("tier_id"), command.get("until")
        before = member["pin"]
        if before and before[1] and before[1] <= today:
            before = None  # it is over
        if tier_id is None:
            member["pin"] = None
        else:
            levels = (self.program.get("tiers") or {}).get("levels", [])
            if tier_id not in [level["tier_id"] for level in levels]:
                raise RefusedError("unknown_tier")
            until = date.fromisoformat(until) if until else None
            if until and until <= today:
                raise RefusedError("expires_too_early")
            member["pin"] = (tier_id, until)
        if member["pin"] == before:
            work.members.clear()
        return {"member_id": member["member_id"], "tier": self.standing(member, today)}

    def do_sweep(self, command, work):  # noqa: ARG002 a sweep has no fields
        paid = 0
        for member_id in list(self.members):
            if self.members[member_id]["status"] in ("merged", "erased"):
                continue
            own = Work(self, work.now)
            member = own.member(member_id)
            before = self.members[member_id]
            if member["status"] != "closed":
                paid += self.pay_dates(own, member)
            # That somebody has looked is not written down.
            unsaid = {"looked_on": None, "recorded": None}
            if {**member, **unsaid} != {**before, **unsaid}:
                own.commit()
        return {"paid": paid}

    def pay_dates(self, work, member):
        """Birthdays and anniversaries of the last days."""
        today = self.day(work.now)
        joined = member["enrolled_on"]
        paid = 0
        for back in range(self.readings["BIRTHDAY_DAYS"], -1, -1):
            day = today - timedelta(days=back)
            if day < joined:
                continue
            kinds = []
            if member["birthday"]:
                born = date.fromisoformat(member["birthday"])
                if on_year(day.year, born.month, born.day) == day:
                    kinds.append("birthday")
            if day > joined and on_year(day.year, joined.month, joined.day) == day:
                kinds.append("anniversary")
            for kind in kinds:
                claimed = set()
                for fact in member["log"]:
                    if (
                        fact["kind"] == "award"
                        and fact["type"] == kind
                        and fact["on"].year == day.year
                    ):
                        claimed |= set(fact["fired"])
                if claimed:
                    continue
                event = self.event_of(member, kind, self.midnight(day), today=today)
                tried = copied(member)
                answer, _ = self.grant(work, tried, event, None, skip=claimed)
                fired = [row["rule_id"] for row in answer["explanation"] if row["fired"]]
                if fired and answer["points"]:
                    tried["log"][-1]["fired"] = fired
                    self.advance(tried, work.now)
                    end_row(tried, kind)
                    member.clear()
                    member.update(tried)
                    paid += answer["points"]
        return paid


def ordered_parts(parts):
    """Pending parts first, then lots, each by their dates."""
    return sorted(
        parts,
        key=lambda p: (
            p["start"] is None,
            p["beside"],
            p["start"] or date.max,
            p["until"] or date.max,
        ),
    )


def merged_dates(one, other):
    sums = {}
    for day, count in [*one, *other]:
        sums[day] = sums.get(day, 0) + count
    return [[day, sums[day]] for day in sorted(sums, key=lambda day: day or "9999-99-99")]


def merged_lots(lots):
    sums = {}
    for lot in lots:
        sums[lot["expires_on"]] = sums.get(lot["expires_on"], 0) + lot["points"]
    ordered = sorted(sums, key=lambda day: day or "9999-99-99")
    return [{"points": sums[day], "expires_on": day} for day in ordered]
