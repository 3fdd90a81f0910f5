"""Puts what new ledger entries tell on the event bus: points earned, expiring, expired, tiers.

It reads the ledger's stream, so that nothing is told that was not written and nothing that was
written is kept back. A record that could not be put is delivered again, and those after it.
"""

from __future__ import annotations

import json
from typing import Any

from loyalty.edge import count, counting, event_bus, logger
from loyalty.notices import SOURCE, notices
from loyalty.store import put_events
from loyalty.wire import entry_of, is_waiting

UNREAD = ("f", "h")
"""Binary attributes, which the stream encodes otherwise than the table, and nobody reads here."""


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Tell of a batch of inserted entries; the answer names the first that has to come again."""
    with counting():
        for record in event["Records"]:
            image = record["dynamodb"]["NewImage"]
            if is_waiting(image):
                continue  # it belongs to nobody yet
            entry = entry_of({name: value for name, value in image.items() if name not in UNREAD})
            told = [
                {"Source": SOURCE, "DetailType": notice["type"], "Time": notice["at"],
                 "Detail": json.dumps(notice["detail"], ensure_ascii=False)}
                for notice in notices(entry)
            ]  # fmt: skip
            if not put_events(event_bus(), told):
                number = record["dynamodb"]["SequenceNumber"]
                logger.warning("notices not taken by the bus", sequence_number=number)
                count("NoticesFailed")
                return {"batchItemFailures": [{"itemIdentifier": number}]}
            count("Notices", len(told))
    return {"batchItemFailures": []}
