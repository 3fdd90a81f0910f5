"""Tiers: what counts towards one, when it is reached, until when it is kept.

What qualifies is kept in buckets by the local date of the event: by day in rolling windows of up to
90 days, by month in longer ones, by period otherwise. A tier is reached at once. It is lost only at
its `tier_until`: a period's end that finds too little, plus grace; in a rolling window the day on
which what is left no longer suffices, plus grace. So a tier falls due as a lot does.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Final

from loyalty.dates import Duration, day_number, from_day_number, minus, plus, round_up
from loyalty.model import Account, Day
from loyalty.program import Program, Tier, Tiers

DAILY_UP_TO_DAYS: Final = 90
"""Rolling windows up to this are kept by day, longer ones by calendar month."""


def tier_of(program: Program, account: Account) -> Tier | None:
    """The member's tier: the one that staff have set, or that was reached; the lowest for who has
    reached none, None in a program without tiers."""
    tiers = program.tiers
    if tiers is not None and account.pinned in program.tier_by_id:
        return program.tier_by_id[account.pinned]
    return None if tiers is None else tiers.levels[_index(tiers, account)]


def bucket(tiers: Tiers, on: Day, joined_on: Day | None) -> Day:
    """The first day of the bucket in which something that happened on `on` is counted."""
    day = from_day_number(on)
    match tiers.window.kind:
        case "lifetime":
            return 0
        case "rolling":
            return on if _by_day(tiers) else day_number(day.replace(day=1))
        case _:
            return _period(tiers, on, joined_on)[0]


def moved(
    tiers: Tiers, buckets: Iterable[tuple[Day, int]], joined_on: Day | None, merged_on: Day
) -> tuple[tuple[Day, int], ...]:
    """Buckets of one member as they count for another, who joined on `joined_on`, from a merge on.

    A year of membership that is under way, or was so many years before, becomes the other's year
    of which the same is true: what counts goes on counting, and nothing counts twice.
    """
    summed: dict[Day, int] = {}
    for first, amount in buckets:
        start = first
        if tiers.window.kind == "membership":
            start, _ = _year(first, merged_on)
            years = from_day_number(start).year - from_day_number(first).year
            start = day_number(minus(from_day_number(merged_on), Duration(months=12 * years)))
        start = bucket(tiers, start, joined_on)
        summed[start] = summed.get(start, 0) + amount
    return tuple(sorted(summed.items()))


def counted(program: Program, account: Account, today: Day) -> int:
    """Qualifying points (or spend) that count on `today`."""
    tiers = program.tiers
    if tiers is None:
        return 0
    match tiers.window.kind:
        case "lifetime":
            return sum(amount for _, amount in account.qualifying)
        case "rolling":
            return sum(n for start, n in account.qualifying if _leaves(tiers, start) > today)
        case _:
            start, _ = _period(tiers, today, account.joined_on)
            return sum(n for first, n in account.qualifying if first == start)


def outdated(program: Program, account: Account, today: Day) -> tuple[tuple[Day, int], ...]:
    """Changes that drop the buckets which can never count again."""
    tiers = program.tiers
    if tiers is None or tiers.window.kind == "lifetime":
        return ()
    if tiers.window.kind == "rolling":
        gone = [(s, n) for s, n in account.qualifying if _leaves(tiers, s) <= today]
    else:
        # The period before this one still decides while grace lasts.
        start, _ = _period(tiers, today, account.joined_on)
        before, _ = _period(tiers, start - 1, account.joined_on)
        gone = [(s, n) for s, n in account.qualifying if s < before]
    return tuple((start, -amount) for start, amount in gone)


def raised(program: Program, account: Account, today: Day, on: Day) -> Account:
    """The account in the tier that it has reached by `today` through what happened on `on`, if
    that is higher, and with the date until which its tier is kept worked out again.

    A late event may complete the period before, one of a till whose clock is fast may begin the
    next.
    """
    tiers = program.tiers
    if tiers is None:
        return account
    best = counted(program, account, today)
    if tiers.window.kind != "rolling":
        best = max(best, counted(program, account, on))
    reached = _level(tiers, best)
    if reached > _index(tiers, account):
        account = replace(account, tier=tiers.levels[reached].tier_id)
    return _kept(program, account, max(today, on))


def higher(program: Program, account: Account, other: Account) -> Account:
    """The account in the higher of both tiers, until the later day where they are equal; with what
    staff have set for the other where nothing is set for this one."""
    tiers = program.tiers
    if tiers is None:
        return account
    mine, theirs = _index(tiers, account), _index(tiers, other)
    if theirs > mine:
        account = replace(account, tier=other.tier, tier_until=other.tier_until)
    elif theirs == mine and other.tier_until is not None and account.tier_until is not None:
        account = replace(account, tier_until=max(account.tier_until, other.tier_until))
    if other.pinned and not account.pinned:
        account = replace(account, pinned=other.pinned, pinned_until=other.pinned_until)
    return account


def lowered(program: Program, account: Account, before: Account, today: Day) -> Account:
    """The account after a refund: it falls at once to where it belongs, if it was the points now
    taken back that held it up."""
    tiers = program.tiers
    if tiers is None:
        return account
    index = _index(tiers, account)
    needed = tiers.levels[index].at
    best, was = _best(program, account, today), _best(program, before, today)
    if index and best < needed <= was:
        account = replace(account, tier=tiers.levels[_level(tiers, best)].tier_id)
    return _kept(program, account, today)


def due_on(program: Program, account: Account) -> Day | None:
    """The day on which the tier may be lost, or what staff have set ends."""
    if program.tiers is None:
        return None
    days = [day for day in (account.tier_until, account.pinned_until) if day is not None]
    return min(days, default=None)


def fallen(program: Program, account: Account, on: Day) -> Account:
    """The account after its `tier_until` came on `on`: renewed, one tier lower, or where it
    belongs; what staff had set until then is over."""
    tiers = program.tiers
    if tiers is None:
        return account
    if account.pinned_until is not None and account.pinned_until <= on:
        account = unpinned(tiers, account)
    if account.tier_until is None or account.tier_until > on:
        return account
    index = _index(tiers, account)
    best = _best(program, account, on)
    # A later version than the one that said when may have no downgrade.
    if best < tiers.levels[index].at and tiers.downgrade.steps != "none":
        lower = _level(tiers, best) if tiers.downgrade.steps == "full" else index - 1
        account = replace(account, tier=tiers.levels[lower].tier_id)
    return _kept(program, replace(account, tier_until=None), on)


def unpinned(tiers: Tiers, account: Account) -> Account:
    """The account without what staff have set, in the tier that it has reached: named also where
    that is the lowest, since it is told."""
    reached = tiers.levels[_index(tiers, account)].tier_id
    return replace(account, tier=reached, pinned="", pinned_until=None)


def _kept(program: Program, account: Account, today: Day) -> Account:
    """With `tier_until` as it follows from what counts on `today`."""
    tiers = program.tiers
    if tiers is None:
        return account
    index = _index(tiers, account)
    if not index or tiers.window.kind == "lifetime" or tiers.downgrade.steps == "none":
        return replace(account, tier_until=None)
    needed = tiers.levels[index].at
    enough = counted(program, account, today) >= needed
    if tiers.window.kind == "rolling":
        end = _too_little_on(tiers, account, needed) if enough else None
        if end is None:
            # Kept for one more window by a fall of one step, or for what is left of the grace.
            until = account.tier_until or _after(today, tiers.window.rolling)
            return replace(account, tier_until=until)
    else:
        _, end = _period(tiers, today, account.joined_on)
        if enough:
            _, end = _period(tiers, end, account.joined_on)
        elif account.tier_until is not None and account.tier_until < end:
            return account  # in grace: what the last period lacked is not forgotten
    return replace(account, tier_until=_after(end, tiers.downgrade.grace))


def _best(program: Program, account: Account, today: Day) -> int:
    """What may hold a tier on `today`: what counts now, or did in the period that has ended."""
    tiers = program.tiers
    now = counted(program, account, today)
    if tiers is None or tiers.window.kind in ("rolling", "lifetime"):
        return now
    start, _ = _period(tiers, today, account.joined_on)
    return max(now, counted(program, account, start - 1))


def _too_little_on(tiers: Tiers, account: Account, needed: int) -> Day:
    """The day on which so much has left the rolling window that less than `needed` is in it."""
    left = sum(amount for _, amount in account.qualifying)
    for start, amount in sorted(account.qualifying):
        left -= amount
        if left < needed:
            return _leaves(tiers, start)
    return _leaves(tiers, account.qualifying[-1][0])


def _leaves(tiers: Tiers, start: Day) -> Day:
    """The first day on which a rolling window no longer counts the bucket."""
    last = start
    if not _by_day(tiers):
        last = day_number(round_up(from_day_number(start), "month")) - 1
    return _after(last, tiers.window.rolling)


def _after(day: Day, duration: Duration | None) -> Day:
    return day_number(plus(from_day_number(day), duration or Duration()))


def _by_day(tiers: Tiers) -> bool:
    length = tiers.window.rolling or Duration()
    reference = date(2001, 1, 1)
    return (reference - minus(reference, length)).days <= DAILY_UP_TO_DAYS


def _period(tiers: Tiers, on: Day, joined_on: Day | None) -> tuple[Day, Day]:
    """(First day, day after the last) of the calendar or membership year that holds `on`."""
    if tiers.window.kind == "calendar" or joined_on is None:
        year = from_day_number(on).year
        return day_number(date(year, 1, 1)), day_number(date(year + 1, 1, 1))
    return _year(joined_on, on)


def _year(first: Day, on: Day) -> tuple[Day, Day]:
    """(First day, day after the last) of the year that holds `on`, counted from the day `first`."""
    day, begun = from_day_number(on), from_day_number(first)
    years = day.year - begun.year
    start = plus(begun, Duration(months=12 * years))
    if start > day:
        years -= 1
        start = plus(begun, Duration(months=12 * years))
    return day_number(start), day_number(plus(begun, Duration(months=12 * (years + 1))))


def _level(tiers: Tiers, amount: int) -> int:
    return max(i for i, level in enumerate(tiers.levels) if level.at <= amount or i == 0)


def _index(tiers: Tiers, account: Account) -> int:
    # A tier that a later version of the program has dropped counts as the lowest.
    ids = [level.tier_id for level in tiers.levels]
    return ids.index(account.tier) if account.tier in ids else 0
