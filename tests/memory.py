"""The three tables in dicts: the calls that the store makes, answered without an engine.

For runs of so many commands that a real engine would be most of the time. It knows the store's own
expressions and nothing else, so a new one fails loudly; that the real engine means the same by
them is what all the other tests show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, Self

from botocore.exceptions import ClientError

from loyalty.wire import Item
from tools.engine import Tables

MEMORY: Final = Tables("accounts", "ledger", "records")
INDEXED: Final = frozenset({"pk", "sk", *"mnkpborvwcx"})
"""What the index of the history gives back of an entry."""

type Values = dict[str, dict[str, Any]]


def _absent(item: Item | None, _: Values) -> bool:
    return item is None


def _same(name: str, value: str) -> Callable[[Item | None, Values], bool]:
    return lambda item, values: item is not None and item.get(name) == values[value]


def _both(item: Item | None, values: Values) -> bool:
    return _same("left", ":l")(item, values) and _same("version", ":v")(item, values)


def _enough(item: Item | None, values: Values) -> bool:
    return item is not None and int(item["left"]["N"]) >= int(values[":n"]["N"])


def _in_window(item: Item | None, values: Values) -> bool:
    same = _same("window", ":window")(item, values)
    return same and int((item or {})["misses"]["N"]) < int(values[":allowed"]["N"])


def _other_window(item: Item | None, values: Values) -> bool:
    return not _same("window", ":window")(item, values)


CONDITIONS: Final = {
    None: lambda _item, _values: True,
    "attribute_not_exists(pk)": _absent,
    "n = :n": _same("n", ":n"),
    "revision = :r": _same("revision", ":r"),
    "version = :v": _same("version", ":v"),
    "#l = :l AND version = :v": _both,
    "#l >= :n": _enough,
    "#w = :window AND misses < :allowed": _in_window,
    "attribute_not_exists(pk) OR #w <> :window": _other_window,
}


def _with(item: Item | None, key: Item, how: Any) -> Item:
    values: Values = how["ExpressionAttributeValues"]
    number = {name: int(value["N"]) for name, value in values.items() if "N" in value}
    before = dict(item or key)
    match how["UpdateExpression"]:
        case "SET #l = #l - :n":
            return before | {"left": {"N": str(int(before["left"]["N"]) - number[":n"])}}
        case "SET #l = #l - :n, #w = :w":
            left = {"N": str(int(before["left"]["N"]) - number[":n"])}
            return before | {"left": left, how["ExpressionAttributeNames"]["#w"]: values[":w"]}
        case "SET misses = misses + :one":
            return before | {"misses": {"N": str(int(before["misses"]["N"]) + number[":one"])}}
        case "SET #w = :window, misses = :one":
            return before | {"window": values[":window"], "misses": values[":one"]}
    raise NotImplementedError(how["UpdateExpression"])


class MemoryTables:
    """Empty tables, in place of a DynamoDB client of the store. Hooks on it are never called."""

    meta: Final = SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None))

    def __init__(self) -> None:
        self._items: defaultdict[str, defaultdict[str, dict[str, Item]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._history: defaultdict[tuple[str, str], list[Item]] = defaultdict(list)

    def get_item(self, *, TableName: str, Key: Item, **_: Any) -> dict[str, Any]:
        item = self._found(TableName, Key)
        return {} if item is None else {"Item": item}

    def put_item(self, *, TableName: str, Item: Item, **how: Any) -> dict[str, Any]:
        if self._refused(TableName, Item, how) is not None:
            raise _error("PutItem", "ConditionalCheckFailedException")
        self._put(TableName, Item)
        return {}

    def update_item(self, *, TableName: str, Key: Item, **how: Any) -> dict[str, Any]:
        if self._refused(TableName, Key, how) is not None:
            raise _error("UpdateItem", "ConditionalCheckFailedException")
        self._update(TableName, Key, how)
        return {}

    def transact_write_items(self, *, TransactItems: list[Any], **_: Any) -> dict[str, Any]:
        writes = [next(iter(each.items())) for each in TransactItems]
        reasons = [
            self._refused(how["TableName"], how.get("Item") or how["Key"], how) for _, how in writes
        ]
        if any(reason is not None for reason in reasons):
            told = [reason or {"Code": "None"} for reason in reasons]
            raise _error(
                "TransactWriteItems", "TransactionCanceledException", CancellationReasons=told
            )
        for what, how in writes:
            table = how["TableName"]
            if what == "Put":
                self._put(table, how["Item"])
            elif what == "Update":
                self._update(table, how["Key"], how)
            elif what == "Delete":
                key = how["Key"]
                self._items[table][key["pk"]["S"]].pop(_sort(key), None)
        return {}

    def query(self, *, TableName: str, **how: Any) -> dict[str, Any]:
        values = how["ExpressionAttributeValues"]
        forward = how.get("ScanIndexForward", True)
        if how.get("IndexName") == "history":
            found = self._history[TableName, values[":m"]["S"]][:: 1 if forward else -1]
            if ":n" in values:
                below = int(values[":n"]["N"])
                found = [item for item in found if int(item["n"]["N"]) < below]
            return {"Items": found[: how.get("Limit")]}
        partition = self._items[TableName][values[":p"]["S"]]
        begins = values.get(":v", {"S": ""})["S"]
        bound = values.get(":s", {"S": ""})["S"]
        sorts = sorted((s for s in partition if s.startswith(begins)), reverse=not forward)
        if ":s" in values:
            sorts = [s for s in sorts if (s > bound if forward else s < bound)]
        return {"Items": [partition[sort] for sort in sorts[: how.get("Limit")]]}

    def scan(self, *, TableName: str, **how: Any) -> dict[str, Any]:
        """All accounts that are due or have a feast, or all there is, as one page."""
        if "FilterExpression" not in how:
            return {"Items": [i for each in self._items[TableName].values() for i in each.values()]}
        values = how["ExpressionAttributeValues"]
        today, changed_at = int(values[":t"]["N"]), int(values[":c"]["N"])
        feasts = [day for name, day in values.items() if name not in (":t", ":c")]
        return {
            "Items": [
                item
                for partition in self._items[TableName].values()
                for item in partition.values()
                if ("u" in item and int(item["u"]["N"]) <= today)
                or int(item["r"]["N"]) < changed_at
                or item.get("y") in feasts
                or item.get("z") in feasts
            ]
        }

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(paginate=lambda **how: [getattr(self, operation)(**how)])

    def _found(self, table: str, key: Item) -> Item | None:
        return self._items[table][key["pk"]["S"]].get(_sort(key))

    def _refused(self, table: str, key: Item, how: Any) -> dict[str, Any] | None:
        """Why the condition does not hold, as a transaction tells it; None where it does."""
        item = self._found(table, key)
        holds = CONDITIONS[how.get("ConditionExpression")]
        if holds(item, how.get("ExpressionAttributeValues", {})):
            return None
        reason: dict[str, Any] = {"Code": "ConditionalCheckFailed"}
        return reason if item is None else reason | {"Item": item}

    def _put(self, table: str, item: Item) -> None:
        self._items[table][item["pk"]["S"]][_sort(item)] = item
        if table.endswith(MEMORY.ledger) and "m" in item:
            shown = {name: value for name, value in item.items() if name in INDEXED}
            self._history[table, item["m"]["S"]].append(shown)

    def _update(self, table: str, key: Item, how: Any) -> None:
        item = self._found(table, key)
        changed = _with(item, key, how)
        self._items[table][key["pk"]["S"]][_sort(key)] = changed


class MemoryEngine:
    """In place of the engine, for tests of what the service decides."""

    endpoint: Final = "memory"

    def __init__(self) -> None:
        self._tables = MemoryTables()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def client(self, **_: Any) -> MemoryTables:
        return self._tables


def memory_tables(_endpoint: str, prefix: str, *_: Any, **__: Any) -> Tables:
    """In place of `create_tables`."""
    return Tables(f"{prefix}-accounts", f"{prefix}-ledger", f"{prefix}-records")


def _sort(key: Item) -> str:
    return str(key["sk"]["S"]) if "sk" in key else ""


def _error(operation: str, code: str, **more: Any) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": code},
        "ResponseMetadata": {"HTTPStatusCode": 400},
        **more,
    }
    return ClientError(answer, operation)
