"""What a piece of work costs in the database's own units.

The store asks for ReturnConsumedCapacity; a hook in the SDK adds up what the answers say. Requests
that fail report nothing, here as in the cloud, where a write that fails by its condition is billed
all the same: for each item a unit for each KB, and in a transaction two.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

READS = {"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"}
"""The calls that write nothing."""


CONDITION_FAILED = {"ConditionalCheckFailedException", "TransactionCanceledException"}


@dataclass(slots=True)
class Units:
    """Read and write units consumed; `calls` counts the requests, those that failed too, and
    `failed` the write units that these are billed."""

    read: Decimal = Decimal(0)
    write: Decimal = Decimal(0)
    failed: Decimal = Decimal(0)
    calls: int = 0


_measured: ContextVar[Units | None] = ContextVar("measured", default=None)


def attach(target: Any) -> None:
    """Meter a boto3 DynamoDB client, or with a boto3 session every client made from it later."""
    events = target.events if hasattr(target, "events") else target.meta.events
    events.register("before-call.dynamodb", _remember, unique_id="loyalty-meter-before")
    events.register("after-call.dynamodb", _count, unique_id="loyalty-meter")


@contextmanager
def measure() -> Iterator[Units]:
    """What metered clients consume in this block and this thread."""
    units = Units()
    token = _measured.set(units)
    try:
        yield units
    finally:
        _measured.reset(token)


def size(item: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes of an item by DynamoDB's rule, at most: names, and values by their type. Binary values
    are bytes, or in Base64 as they are sent."""

    def of(value: Mapping[str, Any]) -> int:
        [(kind, content)] = value.items()
        if kind == "N":
            digits = len(content.removeprefix("-"))
            return (digits + 1) // 2 + 1 + (digits < len(content))
        if kind == "B" and isinstance(content, str):
            return len(base64.b64decode(content))
        raw: bytes = content.encode() if kind == "S" else content
        return len(raw)

    return sum(len(name.encode()) + of(value) for name, value in item.items())


def _remember(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    if _measured.get() is not None:
        context["loyalty_body"] = params["body"]


def _count(parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: object) -> None:
    units = _measured.get()
    if units is None:
        return
    units.calls += 1
    if parsed.get("Error", {}).get("Code") in CONDITION_FAILED:
        units.failed += _billed(json.loads(context["loyalty_body"]))
        return
    consumed = parsed.get("ConsumedCapacity") or []
    # A request to one table is told in one piece, one to several tables in a list.
    total = sum(
        # str: the parser gives floats, and these are decimal fractions.
        Decimal(str(each.get("CapacityUnits", 0)))
        for each in (consumed if isinstance(consumed, list) else [consumed])
    )
    if model.name in READS:
        units.read += total
    else:
        units.write += total


def _billed(body: dict[str, Any]) -> Decimal:
    """What a write that failed by its condition costs, of items of this size."""
    writes = body.get("TransactItems")
    if writes is None:
        return Decimal(_units(body))
    return Decimal(sum(2 * _units(request) for write in writes for request in write.values()))


def _units(write: dict[str, Any]) -> int:
    """Units of one item: of what is put; of an update the least, since no answer tells its size."""
    return max(1, -(-size(write.get("Item", {})) // 1024))
