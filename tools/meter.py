"""What a piece of work costs in the database's own units.

The store asks for ReturnConsumedCapacity; a hook in the SDK adds up what the answers say. Requests
that fail report nothing, here as in the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

READS = {"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"}
"""The calls that write nothing."""


@dataclass(slots=True)
class Units:
    """Read and write units consumed; `calls` counts the requests, those that failed too."""

    read: Decimal = Decimal(0)
    write: Decimal = Decimal(0)
    calls: int = 0


_measured: ContextVar[Units | None] = ContextVar("measured", default=None)


def attach(target: Any) -> None:
    """Meter a boto3 DynamoDB client, or with a boto3 session every client made from it later."""
    events = target.events if hasattr(target, "events") else target.meta.events
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


def _count(parsed: dict[str, Any], model: Any, **_: object) -> None:
    units = _measured.get()
    if units is None:
        return
    units.calls += 1
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
