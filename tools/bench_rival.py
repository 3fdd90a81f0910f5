"""The design that most samples use, implemented as they do, to be measured beside ours.

An idempotency table kept by Powertools (a record in progress before, its answer after), a counter
item for each limit and window, a balance item, a ledger item. Twice: `separate`, as samples write
it, one call after another (a crash in between leaves half of it), and `atomic`, with everything but
the idempotency record in one transaction. Neither knows lots, expiry, refunds or explanations, and
its keys are forgotten after an hour, as Powertools does where nothing is said: it does less than
what it is measured against.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

COUNTER_LIMIT = 1_000_000
CALLS = ("GetItem", "PutItem", "UpdateItem", "TransactWriteItems")


class Rival:
    """Awards, redemptions and balances of the design, on a table for items and one of keys."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self.items, self.keys = f"{prefix}-items", f"{prefix}-keys"
        for call in CALLS:
            # Powertools asks for no numbers; what it consumes counts all the same.
            client.meta.events.register(f"provide-client-params.dynamodb.{call}", _metered)
        self._layer = DynamoDBPersistenceLayer(table_name=self.keys, boto3_client=client)

    def create(self) -> None:
        """Make the two tables."""
        for name, keys in ((self.items, ("pk", "sk")), (self.keys, ("id",))):
            self.client.create_table(
                TableName=name,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": k, "AttributeType": "S"} for k in keys],
                KeySchema=[
                    {"AttributeName": key, "KeyType": kind}
                    for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
                ],
            )

    def award(self, event: dict[str, Any], *, atomic: bool) -> dict[str, Any]:
        """10 points, within a daily and a weekly limit; keyed by event_id."""
        writes = [
            self._count(event["member_id"], "day#2026-03-18"),
            self._count(event["member_id"], "week#2026-W12"),
            self._balance(event["member_id"], 10, lifetime=10),
            self._entry(event["member_id"], event["event_id"], 10),
        ]
        return self._once(event, writes, atomic=atomic)

    def redeem(self, event: dict[str, Any], *, atomic: bool) -> dict[str, Any]:
        """5 points, if there are as many."""
        writes = [
            self._balance(event["member_id"], -5),
            self._entry(event["member_id"], event["event_id"], -5),
        ]
        return self._once(event, writes, atomic=atomic)

    def least(self, name: str, *, atomic: bool) -> None:
        """The two writes that an award cannot do without: the member's item and an entry."""
        writes = [
            {"Put": {"TableName": self.items, "Item": {**_key(name, "account"), "n": {"N": "1"}}}},
            self._entry(name, name, 10),
        ]
        if atomic:
            self.client.transact_write_items(TransactItems=writes)
        else:
            for write in writes:
                self.client.put_item(**write["Put"])

    def balance(self, member_id: str) -> int:
        """What the balance item says."""
        item = self.client.get_item(TableName=self.items, Key=_key(member_id, "balance")).get(
            "Item"
        )
        return int(item["points"]["N"]) if item else 0

    def _once(
        self, event: dict[str, Any], writes: list[dict[str, Any]], *, atomic: bool
    ) -> dict[str, Any]:
        @idempotent_function(  # type: ignore[untyped-decorator]  # Powertools does not type it
            data_keyword_argument="event",
            persistence_store=self._layer,
            config=IdempotencyConfig(event_key_jmespath="event_id", use_local_cache=False),
        )
        def once(*, event: dict[str, Any]) -> dict[str, Any]:
            if atomic:
                self.client.transact_write_items(TransactItems=writes)
            else:
                for write in writes:
                    [(kind, request)] = write.items()
                    call = self.client.put_item if kind == "Put" else self.client.update_item
                    call(**request)
            return {"event_id": event["event_id"], "member_id": event["member_id"], "points": 10}

        answer: dict[str, Any] = once(event=event)
        return answer

    def _count(self, member_id: str, window: str) -> dict[str, Any]:
        request = {
            "TableName": self.items,
            "Key": _key(member_id, f"count#{window}"),
            "UpdateExpression": "ADD points :p",
            "ConditionExpression": "attribute_not_exists(points) OR points <= :most",
            "ExpressionAttributeValues": {
                ":p": {"N": "10"},
                ":most": {"N": str(COUNTER_LIMIT - 10)},
            },
        }
        return {"Update": request}

    def _balance(self, member_id: str, points: int, lifetime: int = 0) -> dict[str, Any]:
        request: dict[str, Any] = {
            "TableName": self.items,
            "Key": _key(member_id, "balance"),
            "UpdateExpression": "ADD points :p, lifetime :l",
            "ExpressionAttributeValues": {":p": {"N": str(points)}, ":l": {"N": str(lifetime)}},
        }
        if points < 0:
            request["ConditionExpression"] = "points >= :needed"
            request["ExpressionAttributeValues"][":needed"] = {"N": str(-points)}
        return {"Update": request}

    def _entry(self, member_id: str, event_id: str, points: int) -> dict[str, Any]:
        item = {
            **_key(member_id, f"entry#2026-03-18T12:00:00Z#{event_id}"),
            "points": {"N": str(points)},
            "type": {"S": "review"},
            "event_id": {"S": event_id},
            "created_at": {"S": "2026-03-18T12:00:00Z"},
        }
        return {"Put": {"TableName": self.items, "Item": item}}


def _key(member_id: str, sort: str) -> dict[str, Any]:
    return {"pk": {"S": f"member#{member_id}"}, "sk": {"S": sort}}


def _metered(params: dict[str, Any], **_: object) -> dict[str, Any]:
    return {**params, "ReturnConsumedCapacity": "TOTAL"}


def dollars(write: Decimal, read: Decimal, milliseconds: Decimal = Decimal(15)) -> Decimal:
    """Dollars for a million such requests, all in: DynamoDB, HTTP API, Lambda on arm64.

    List prices of us-east-1, on demand; the time in Lambda is assumed, with 1,769 MB.
    """
    database = write * Decimal("0.625") + read * Decimal("0.125")
    gigabyte_seconds = milliseconds * 1000 * Decimal(1769) / 1024
    return database + Decimal(1) + Decimal("0.20") + gigabyte_seconds * Decimal("0.0000133334")
