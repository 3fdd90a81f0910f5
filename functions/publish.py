"""Puts what new ledger entries tell on the event bus: points earned, expiring, expired, tiers.

It reads the ledger's stream, so that nothing is told that was not written and nothing that was
written is kept back. A record that could not be put is delivered again, and those after it. One of
which nothing can be made is told apart from the others: the batch begins anew with it, and one that
begins with it fails, which Lambda halves until it is alone; so it goes to the dead letters alone.
"""

from __future__ import annotations

import json
from typing import Any

from loyalty.edge import count, counting, event_bus, logger
from loyalty.notices import SOURCE, notices
from loyalty.store import put_events
from loyalty.wire import Item, entry_of, is_waiting

UNREAD = ("f", "h")
"""Binary attributes, which the stream encodes otherwise than the table, and nobody reads here."""


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Tell of a batch of inserted entries; the answer names the first that has to come again.

    Raises what is wrong with the first of them.
    """
    with counting():
        for at, record in enumerate(event["Records"]):
            number = record["dynamodb"]["SequenceNumber"]
            try:
                told = _events(record["dynamodb"]["NewImage"])
                taken = not told or put_events(event_bus(), told)
            except Exception:
                count("NoticesFailed")
                if at == 0:
                    raise
                logger.exception("notices not made", sequence_number=number)
                return _again_from(number)
            if not taken:
                logger.warning("notices not taken by the bus", sequence_number=number)
                count("NoticesFailed")
                return _again_from(number)
            count("Notices", len(told))
    return {"batchItemFailures": []}


def _events(image: Item) -> list[dict[str, Any]]:
    """What an item of the ledger tells, as the bus takes it."""
    if is_waiting(image):
        return []  # it belongs to nobody yet
    entry = entry_of({name: value for name, value in image.items() if name not in UNREAD})
    return [
        {"Source": SOURCE, "DetailType": notice["type"], "Time": notice["at"],
         "Detail": json.dumps(notice["detail"], ensure_ascii=False)}
        for notice in notices(entry)
    ]  # fmt: skip


def _again_from(number: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": number}]}
