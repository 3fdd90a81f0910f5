"""Budgets that many members share, in shards: how points are taken from them and spread over them.

One item takes about 1,000 writes a second, so a budget is spread over SHARDS items that each hold
a part of what is left. A draw takes from one shard while that has enough, and from several when the
budget runs low; no shard goes below zero, so the budget is never overdrawn. Everything here is
pure; `store` reads and writes the shards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SHARDS: Final = 8
"""About 8,000 awards a second on one budget; reading all of them costs 8 read units."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What is known of a budget: points left by shard, and whether those are all of its shards."""

    left: Mapping[int, int]
    whole: bool

    @property
    def points(self) -> int:
        return sum(self.left.values())

    def may_hide_more(self, drawn: int) -> bool:
        """Whether a decision that drew so much may have been held back by shards not looked at."""
        return not self.whole and drawn >= self.points


def allocate(pool: Pool, points: int) -> dict[int, int]:
    """How many points each shard gives (below zero: gets back), from as few shards as possible.

    The caller has made sure that the pool holds them.
    """
    if points < 0:
        return {min(pool.left): points}
    enough = [shard for shard, left in pool.left.items() if left >= points]
    if enough:
        return {enough[0]: points}
    taken: dict[int, int] = {}
    for shard, left in sorted(pool.left.items(), key=lambda pair: -pair[1]):
        part = min(left, points)
        if part:
            taken[shard] = part
            points -= part
    return taken


def rebalanced(left: Sequence[int], deficit: int, change: int) -> tuple[list[int], int]:
    """(Points left by shard, deficit) after the budget's total changed.

    What is left is spread evenly. A total lowered below what was already given leaves a deficit,
    which a later rise fills first.
    """
    points = sum(left) - deficit + change
    if points < 0:
        return [0] * len(left), -points
    share, rest = divmod(points, len(left))
    return [share + (1 if shard < rest else 0) for shard in range(len(left))], 0
