"""Budgets that many members share, in shards: how points are taken from them and spread over them.

One item takes about 1,000 writes a second, so a budget is spread over SHARDS items that each hold
a part of what is left. A draw takes from one shard while that has enough, and from several when the
budget runs low; no draw takes a shard below zero, so the budget is never overdrawn. Where its total
was lowered below what was already given, one shard stands below zero by what is lacking, and is
filled first by what comes back. Everything here is pure; `store` reads and writes the shards.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

SHARDS: Final = 8
"""About 8,000 awards a second on one budget; reading all of them costs 8 read units."""
SLOTS: Final = 8
"""Holds that a shard of a stock remembers, so that its item stays below 1 KB."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What is known of a budget: points left by shard, whether those are all of its shards, (where
    they are) the program version that set its total, and by shard the slots that are not free."""

    left: Mapping[int, int]
    whole: bool
    version: int = 0
    slots: Mapping[int, Collection[int]] = field(default_factory=dict)

    @property
    def points(self) -> int:
        return sum(self.left.values())

    def may_hide_more(self, drawn: int) -> bool:
        """Whether a decision that drew so much may have been held back by shards not looked at."""
        return not self.whole and drawn >= self.points


def slot(taken: Collection[int], chance: float) -> int:
    """In which slot of its shard a hold is remembered: a free one, or else that of another one by
    chance (from 0 up to 1), which is then forgotten."""
    free = [number for number in range(SLOTS) if number not in taken]
    return free[0] if free else min(int(chance * SLOTS), SLOTS - 1)


def allocate(pool: Pool, points: int) -> dict[int, int]:
    """How many points each shard gives (below zero: gets back), from as few shards as possible.

    The caller has made sure that the pool holds them. What comes back fills what is lacking first.
    """
    if points < 0:
        neediest = min(pool.left, key=lambda shard: (pool.left[shard], shard))
        return {neediest: points}
    enough = [shard for shard, left in pool.left.items() if left >= points]
    if enough:
        return {enough[0]: points}
    taken: dict[int, int] = {}
    for shard, left in sorted(pool.left.items(), key=lambda pair: -pair[1]):
        part = min(left, points)
        if part > 0:
            taken[shard] = part
            points -= part
    return taken


def rebalanced(left: Sequence[int], change: int) -> list[int]:
    """Points left by shard after the budget's total changed, spread evenly.

    A total lowered below what was already given leaves the first shard below zero.
    """
    points = sum(left) + change
    if points < 0:
        return [points] + [0] * (len(left) - 1)
    share, rest = divmod(points, len(left))
    return [share + (1 if shard < rest else 0) for shard in range(len(left))]
