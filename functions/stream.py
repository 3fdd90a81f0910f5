"""Watches the ledger's stream for what must never happen: an entry that was changed or removed."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

METRIC = "LedgerRecordChanged"  # an alarm of the template waits for this name

logger = Logger()
metrics = Metrics(namespace="Loyalty")


@metrics.log_metrics
def handler(event: dict[str, Any], _context: object) -> None:
    """Counts every record that is not an INSERT, and logs its key, never what it holds."""
    for record in event["Records"]:
        if record["eventName"] == "INSERT":
            continue
        metrics.add_metric(METRIC, MetricUnit.Count, 1)
        logger.error(
            "A ledger entry was changed or removed.",
            change=record["eventName"],
            key={name: value["S"] for name, value in record["dynamodb"]["Keys"].items()},
            sequence_number=record["dynamodb"]["SequenceNumber"],
        )
