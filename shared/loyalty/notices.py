"""Notices: what an entry of the ledger tells the outside world, as events for a bus.

They are made of the entry alone, so that they can be made again from the stream, which may deliver
an entry more than once: `id` is the same each time, and consumers drop what they have seen. They
hold no personal data: a consumer that writes to people looks the profile up.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, TypedDict

from loyalty.dates import rfc3339
from loyalty.model import Entry, Posting, iso
from loyalty.projections import entry_id, event_id

type NoticeType = Literal["Points Earned", "Points Expiring", "Points Expired", "Tier Changed"]

SOURCE: Final = "loyalty.points"
"""Where all notices come from, as rules on the bus match it."""


class Notice(TypedDict):
    """One event for the bus: its type, the moment it was recorded at (RFC 3339), what it says."""

    type: NoticeType
    at: str
    detail: dict[str, Any]


def notices(entry: Entry) -> Iterator[Notice]:
    """What the entry tells, in the order of its postings, the tier last.

    Points Earned {points, pending_points, reason, event_id, balance} · Points Expiring {points,
    expires_on} · Points Expired {points, expires_on, balance} · Tier Changed {tier_id}; each
    with {id, program_id, member_id, entry_id}.
    """
    said = [said for posting in entry.postings for said in _of(entry, posting)]
    if tier_id := _tier(entry):
        said.append(("Tier Changed", {"tier_id": tier_id}))
    for number, (kind, detail) in enumerate(said):
        who = {"program_id": entry.program_id, "member_id": entry.member_id}
        identity = {"id": f"{entry.program_id}.{entry_id(entry)}.{number}"}
        yield {
            "type": kind,
            "at": rfc3339(entry.recorded_at),
            "detail": {**identity, **who, "entry_id": entry_id(entry), **detail},
        }


def _tier(entry: Entry) -> str | None:
    """The tier that the member is in since this entry, and was not told of before; None where
    that has not changed or ended with the membership."""
    if not entry.pinned:
        return entry.tier or None
    # While staff have set a tier, what is reached beneath it shows nowhere.
    set_here = entry.reason == "set" or entry.kind == "merge"
    return entry.pinned if set_here else None


def _of(entry: Entry, posting: Posting) -> Iterator[tuple[NoticeType, dict[str, Any]]]:
    match posting.kind:
        case "award" | "referral" if posting.points:
            pending = sum(points for _, _, points in posting.pending)
            yield (
                "Points Earned",
                {
                    "points": posting.points,
                    "pending_points": pending,
                    "reason": entry.reason,
                    "event_id": event_id(entry),
                    "balance": entry.balance,
                },
            )
        case "notice":
            for expires_on, points in posting.told:
                yield "Points Expiring", {"points": points, "expires_on": iso(expires_on)}
        case "expire":
            expired = {"points": -posting.points, "expires_on": iso(posting.on)}
            yield "Points Expired", {**expired, "balance": entry.balance}
        case _:
            pass
