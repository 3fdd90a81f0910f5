"""What the replay of the CDNOW purchases has to come to, worked out from the file alone.

Nothing of the service is used here. The terms of the program: 1 point per whole dollar of a
purchase, 50 points at a customer's first one, and points that end twelve months after they were
earned, rounded up to the end of that month.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CSV = Path(__file__).parent / "data" / "cdnow_purchases.csv"
AS_OF = "1998-06-30"


@dataclass(frozen=True)
class Expected:
    """Totals at the end of AS_OF, in points; `expiring` by the date on which they will be gone."""

    members: int
    purchases: int
    issued: int
    expired: int
    outstanding: int
    expiring: dict[str, int]


def first_of_thirteenth_month(day: str) -> str:
    """When points earned on `day` are gone: twelve months later is the same month of the next
    year, and what is rounded up to a month goes on the first of the month after it."""
    year, month = int(day[:4]) + 1, int(day[5:7]) + 1
    if month == 13:
        year, month = year + 1, 1
    return f"{year}-{month:02}-01"


def expected(path: Path = CSV) -> Expected:
    """The totals of the purchases in the file."""
    credited: Counter[str] = Counter()
    customers: set[str] = set()
    purchases = 0
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            purchases += 1
            gone = first_of_thirteenth_month(row["date"])
            credited[gone] += int(row["amount_cents"]) // 100
            if row["member_id"] not in customers:
                # The file is in the order of dates: this is the customer's first purchase.
                customers.add(row["member_id"])
                credited[gone] += 50
    # ISO dates compare as texts. On its date itself a lot is gone already.
    alive = {day: points for day, points in sorted(credited.items()) if day > AS_OF}
    issued = credited.total()
    outstanding = sum(alive.values())
    return Expected(
        members=len(customers),
        purchases=purchases,
        issued=issued,
        expired=issued - outstanding,
        outstanding=outstanding,
        expiring=alive,
    )
