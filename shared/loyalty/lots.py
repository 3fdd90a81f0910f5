"""Lots in time: when a credit becomes available, when it expires, what falls due by itself.

`advance` carries the whole idea of time: it yields the postings that fell due up to a day. Reads
and commands advance an account first, the sweep only writes the same postings down, so no balance
depends on whether the sweep ran.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date

from loyalty import tiers
from loyalty.dates import (
    Duration,
    Rounding,
    day_number,
    from_day_number,
    from_milliseconds,
    local_date,
    minus,
    plus,
    round_up,
)
from loyalty.fields import MonthDay
from loyalty.model import NEVER, Account, Broken, Day, Hold, Kind, Posting
from loyalty.program import Expiry, Program


def expiry(policies: Iterable[Expiry], start: Day, earned: Day | None = None) -> Day:
    """The `expires_on` of points whose clock starts on `start`, `earned` on that day or before it;
    the earliest of several policies.

    Inactivity is not in it: it never changes a lot's stored date.
    """
    earliest = NEVER
    for policy in policies:
        if policy.after is not None:
            earliest = min(earliest, _after(start, policy.after, policy.round_up_to))
        if policy.dates is not None:
            on = start if earned is None else earned
            earliest = min(earliest, _fixed_date(start, on, policy.dates, policy.older_than))
    return earliest


def _after(start: Day, after: Duration, to: Rounding) -> Day:
    try:
        return day_number(round_up(plus(from_day_number(start), after), to))
    except (OverflowError, ValueError):
        return NEVER  # beyond the year 9999


def _fixed_date(
    start: Day, earned: Day, dates: Iterable[MonthDay], older_than: Duration | None
) -> Day:
    """The first of these yearly dates after `start` that takes what was earned on that day."""
    after, earned_on = from_day_number(start), from_day_number(earned)
    candidates = []
    for yearly in dates:
        on = date(after.year, yearly.month, yearly.day)
        try:
            while not (on > after and earned_on <= minus(on, older_than or Duration())):
                on = on.replace(year=on.year + 1)
        except (OverflowError, ValueError):
            continue  # beyond the year 9999
        candidates.append(day_number(on))
    return min(candidates, default=NEVER)


def available_on(duration: Duration | None, occurred_on: Day) -> Day:
    """The day pending points become spendable; `occurred_on` itself without a pending period."""
    if duration is None or duration.is_zero:
        return occurred_on
    return day_number(plus(from_day_number(occurred_on), duration))


def inactive_on(program: Program, account: Account) -> Day:
    """The day on which inactivity takes all available points; NEVER without such a policy."""
    if account.active_on is None:
        return NEVER
    last = from_day_number(account.active_on)
    return min(
        (
            day_number(plus(last, policy.inactive_for))
            for policy in program.expiry
            if policy.inactive_for is not None
        ),
        default=NEVER,
    )


def due_on(program: Program, account: Account) -> Day | None:
    """The next day on which anything happens to the account by itself; None for never."""
    due = NEVER
    if account.pending:
        due = account.pending[0][0]
    if account.lots:
        due = min(due, account.lots[0][0], inactive_on(program, account))
    tier_due = tiers.due_on(program, account)
    if tier_due is not None:
        due = min(due, tier_due)
    if account.holds:
        due = min(due, _lapses_on(program, account.holds[0][0]))
    if program.notifications.expiring:
        due = min(due, _notice(program, account)[0])
    return None if due >= NEVER else due


def _notice(program: Program, account: Account) -> tuple[Day, list[tuple[Day, int]]]:
    """The next day on which the member is to be told of points that will expire (NEVER for none),
    and which, as (expires_on, points)."""
    after = _told_until(program, account)
    due: dict[Day, list[tuple[Day, int]]] = {}
    for gone, points in expiring(program, account):
        for ahead in program.notifications.expiring:
            day = day_number(minus(from_day_number(gone), ahead))
            if day > after:
                due.setdefault(day, []).append((gone, points))
    return min(due.items(), default=(NEVER, []))


def _told_until(program: Program, account: Account) -> Day:
    if account.noticed_on is not None:
        return account.noticed_on
    # Nobody is told what was due before notices were asked for.
    return day_number(local_date(from_milliseconds(account.recorded_at), program.zone))


def _told(program: Program, account: Account, until: Day) -> Account:
    """The account when points came: they are too late for the notices of days up to `until`."""
    if not program.notifications.expiring:
        return account
    return replace(account, noticed_on=max(_told_until(program, account), until))


def _lapses_on(program: Program, hold: Hold) -> Day:
    return day_number(local_date(from_milliseconds(hold.until), program.zone))


def advance(
    program: Program, account: Account, today: Day, at: int
) -> tuple[Account, list[Posting]]:
    """The account as it stands at the instant `at` (milliseconds) of the day `today`, and the
    postings that fell due on the way, in order.

    On one day activations come before expiries, then notices, then holds that lapse. Advancing step
    by step equals advancing at once, and advancing twice equals advancing once.
    """
    postings: list[Posting] = []
    while True:
        lapsing = account.holds[0][0] if account.holds else None
        resting = replace(account, holds=()) if lapsing else account
        due = due_on(program, resting)
        if lapsing and lapsing.until <= at and (due is None or due > _lapses_on(program, lapsing)):
            on = _lapses_on(program, lapsing)
            posting = released(account, "lapse", on, lapsing.key)
            postings.append(posting)
            account = _told(program, account.posted(posting), on)
            continue
        if due is None or due > today:
            return account, postings
        if due == tiers.due_on(program, account):
            account = tiers.fallen(program, account, due)
            continue
        started = tuple(part for part in account.pending if part[0] <= due)
        everything = inactive_on(program, account) <= due
        gone = tuple(
            (expires_on, -points)
            for expires_on, points in account.lots
            if everything or expires_on <= due
        )
        if started:
            posting = _activation(account, due, started)
        elif gone:
            posting = Posting("expire", due, lots=gone)
        else:
            _, told = _notice(program, account)
            account = replace(account, noticed_on=due)
            postings.append(Posting("notice", due, told=tuple(told)))
            continue
        if postings and posting.on < postings[-1].on:
            # Points activated after the inactivity date go on the day they came, not before it.
            posting = replace(posting, on=postings[-1].on)
        postings.append(posting)
        account = _told(program, account.posted(posting), due - 1)


def released(account: Account, kind: Kind, on: Day, key: str) -> Posting:
    """The end of a hold without a redemption: its points go back to the lots they came from, at
    their old dates, after any debt is paid."""
    [(hold, lots)] = [pair for pair in account.holds if pair[0].key == key]
    kept, paid = _paying_debt(lots, account.debt)
    held = sum(points for _, points in lots)
    return Posting(kind, on, lots=kept, debt=-paid, held=-held, hold=hold)


def _activation(account: Account, on: Day, parts: Sequence[tuple[Day, Day, int]]) -> Posting:
    lots = [(expires_on, points) for _, expires_on, points in parts]
    kept, paid = _paying_debt(lots, account.debt)
    gone = tuple((start, end, -points) for start, end, points in parts)
    return Posting("activate", on, lots=kept, pending=gone, debt=-paid)


def credit(
    account: Account,
    kind: Kind,
    on: Day,
    grants: Iterable[tuple[Day, Day, int]],
    today: Day,
) -> Posting:
    """Points granted as (available_on, expires_on, points): debt is paid first, earliest lot first.

    What becomes available after `today` is pending. The account must have been advanced to `today`.
    """
    merged: dict[tuple[Day, Day], int] = {}
    for start, end, points in grants:
        # A start that has come is no longer news: such lots merge by their expiry date alone.
        key = (start if start > today else 0, end)
        merged[key] = merged.get(key, 0) + points
    parts = sorted((start, end, points) for (start, end), points in merged.items() if points)
    kept, paid = _paying_debt(
        [(end, points) for start, end, points in parts if not start], account.debt
    )
    pending = tuple(part for part in parts if part[0])
    return Posting(kind, on, lots=kept, pending=pending, debt=-paid)


def _paying_debt(
    lots: Sequence[tuple[Day, int]], debt: int
) -> tuple[tuple[tuple[Day, int], ...], int]:
    """(What is left of new lots after the debt is paid from the earliest, the debt paid.)"""
    kept: dict[Day, int] = {}
    left = debt
    for expires_on, points in sorted(lots):
        paid = min(points, left)
        left -= paid
        if points > paid:
            kept[expires_on] = kept.get(expires_on, 0) + points - paid
    return tuple(sorted(kept.items())), debt - left


def take(account: Account, kind: Kind, on: Day, points: int) -> Posting:
    """A debit of `points` available ones in spending order: earliest expiry first, never last.

    The caller has made sure that there are enough.
    """
    taken: list[tuple[Day, int]] = []
    left = points
    for expires_on, held in account.lots:
        if not left:
            break
        part = min(held, left)
        taken.append((expires_on, -part))
        left -= part
    if left:
        raise Broken("a debit of more than there is: the caller has not looked")
    return Posting(kind, on, lots=tuple(taken))


def expiring(program: Program, account: Account) -> list[tuple[Day, int]]:
    """All dated available lots, ascending, merged by the date on which they will really go."""
    inactive = inactive_on(program, account)
    merged: dict[Day, int] = {}
    for expires_on, points in account.lots:
        gone = min(expires_on, inactive)
        if gone < NEVER:
            merged[gone] = merged.get(gone, 0) + points
    return sorted(merged.items())
