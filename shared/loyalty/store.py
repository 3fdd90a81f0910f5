"""The tables: reads, and the one commit. The only module that knows the SDK.

A commit puts each account under the version it was read at and each entry under a key that must
be free, in one transaction. So decisions about one member are serializable, an effect happens
once, and a lost answer is found again: the retry fails its own condition and answers as a replay.
"""

import gzip
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, cached_property, partial
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.session import Session

from loyalty.budgets import SHARDS, SLOTS, Pool, allocate, rebalanced, slot
from loyalty.codes import Secrets
from loyalty.contention import ATTEMPTS, Contention, Race
from loyalty.decisions import Decision, Guard, Record, stock_id
from loyalty.model import (
    Account,
    Broken,
    Entry,
    History,
    Known,
    NeedsAccounts,
    NeedsBudgets,
    NeedsHistory,
    NeedsProfile,
    Refusal,
    Waiting,
    brings_another,
)
from loyalty.program import Program
from loyalty.rules import CAMPAIGN_HIT, Rulebook
from loyalty.validation import parse
from loyalty.wire import (
    Item,
    account_item,
    account_of,
    entry_item,
    entry_key,
    entry_of,
    is_waiting,
    member_key,
    sealed_hash,
    waiting_item,
    waiting_of,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LOOKS: Final = 24
"""How often a decision may ask for more to be read. Where nothing moves meanwhile none asks more
than 15 times, whatever the program and the data: an award for which refunds were waiting, late for
its windows, its cooldowns and its referrer's windows, which pays the referral from budgets that are
nearly used up."""
PROGRAM_REFRESH_SECONDS: Final = 20.0
"""Age at which the list of versions is read again; below the delay of publishing."""
PASSING: Final = ("time_zone", "expiry", "tiers", "notifications")
"""The sections of a program by which time passes for an account."""
SWEEP: Final = "#sweep"
"""Where the jobs of the sweep stand in Records, beside all programs, and what they have to know."""
PART_BYTES: Final = 350_000
"""A program larger than this (compressed) is stored in parts: items hold at most 400 KB."""
LAPSED_LOOKS: Final = 20
"""Accounts that are looked at for holds that have lapsed, where nothing is left of a stock."""
TRANSACTION_ITEMS: Final = 100
"""DynamoDB's limit."""
BATCH_ITEMS: Final = 100
"""DynamoDB's limit of a BatchGetItem."""
ACCOUNT_BYTES: Final = 100_000
"""An account larger than this is refused, long before DynamoDB would."""
ENTRY_BYTES: Final = 400_000
"""An entry larger than this is refused, a little before DynamoDB would: 409,600 with all names."""

_RETRIED: Final = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_RETRIED_REASONS: Final = frozenset(
    {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
)
_MET_OTHERS: Final = frozenset({"ConditionalCheckFailed", "TransactionConflict"})


class Unavailable(Exception):
    """The tables did not answer in time, or too many write to one member: try again later."""


class Unanswered(Unavailable):
    """The tables do not answer, or take no more: whatever the next command is about, it will hardly
    fare better."""


class Awaited(Exception):
    """Under the key of an event that has not come stand refunds that wait for it."""


class KeyReused(Exception):
    """Another command was carried out under the same key; `stands` is what it left there, if it is
    known."""

    def __init__(self, stands: Entry | Waiting | None = None) -> None:
        super().__init__()
        self.stands = stands


@dataclass(frozen=True, slots=True)
class Committed:
    """The entry that stands in the ledger under the command's key; whether it stood there before;
    how many transactions were sent."""

    entry: Entry
    replayed: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """What waits in the ledger under the command's key, in the place of its entry; whether it stood
    there before; how many transactions were sent."""

    waiting: Waiting
    replayed: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Version:
    """A published version of a program: its number, from when it counts, who published it.
    Versions by whose terms time passes alike have the same `passing`."""

    number: int
    effective_at: int
    published_at: int
    published_by: str
    digest: str
    parts: int
    passing: str


@dataclass(frozen=True, slots=True)
class DuePage:
    """Accounts on which something may be due, each behind its key, which is where a page may start;
    None for one that nobody can read. Where the next page starts, None after the last."""

    accounts: list[tuple[Item, Account | None]]
    following: Item | None


@dataclass(frozen=True, slots=True)
class _Moved:
    """Why a transaction failed: accounts that were no longer as seen; whether the key was free;
    whether it met others, where it did not fail for want of an answer."""

    accounts: Mapping[str, Account | None]
    key_was_free: bool
    met_others: bool = False


@dataclass(slots=True)
class _Sight:
    """What a command has seen so far; `certain` where no refusal can come from an old read."""

    known: Known
    pools: dict[str, Pool] = field(default_factory=dict)
    certain: bool = False

    def moved(self, by: _Moved) -> None:
        """See what a transaction that failed saw; nothing that was read before is believed."""
        accounts = self.known.accounts
        # Only a failed transaction that saw the key free, and these accounts at that moment,
        # leaves nothing open: an answer that was lost may have been an effect.
        self.certain = by.key_was_free and len(by.accounts) == len(accounts)
        self.pools.clear()
        if by.accounts:
            self.known = Known({**accounts, **by.accounts})
        else:
            self.known = replace(self.known, profiles={})


type Decide = Callable[[Known], Decision]
"""The pure decision of a command on what is known."""


@cache
def _session() -> Session:
    return Session()


def _client(service: str, **settings: Any) -> Any:
    """What boto3.client gives. boto3 itself would add its resources and its file transfers to every
    start of a function, a sixth of all of it, and nobody here uses them."""
    return _session().create_client(service, **settings)


def connect(read_timeout_seconds: float = 1, **settings: Any) -> "DynamoDBClient":
    """A DynamoDB client that retries nothing by itself: the store knows what may be repeated."""
    config = Config(
        connect_timeout=1,
        read_timeout=read_timeout_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=64,
        parameter_validation=False,  # items are made by `wire` alone; the check costs time
    )
    client: DynamoDBClient = _client("dynamodb", config=config, **settings)
    return client


def load_secrets(arn: str) -> Secrets:
    """The secrets of a Secrets Manager secret: JSON of version → text."""
    text = _client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return secrets_of(text)


def secrets_of(text: str) -> Secrets:
    """Secrets from JSON such as {"1": "…"}."""
    return Secrets({int(version): value.encode() for version, value in json.loads(text).items()})


def send_messages(queue_url: str, bodies: Sequence[Mapping[str, Any]]) -> None:
    """Put messages on an SQS queue; raises if any was not taken."""
    client = _client("sqs")
    for start in range(0, len(bodies), 10):
        batch = bodies[start : start + 10]
        answer = client.send_message_batch(
            QueueUrl=queue_url,
            Entries=[{"Id": str(i), "MessageBody": json.dumps(b)} for i, b in enumerate(batch)],
        )
        if answer.get("Failed"):
            raise Unavailable(f"{len(answer['Failed'])} messages were not taken by the queue")


@cache
def _bus_client() -> Any:
    return _client("events")


def put_events(bus: str, events: Sequence[Mapping[str, Any]]) -> bool:
    """Put events on a bus; False if any was not taken, so that all of them have to come again."""
    for start in range(0, len(events), 10):
        entries = [{**event, "EventBusName": bus} for event in events[start : start + 10]]
        try:
            answer = _bus_client().put_events(Entries=entries)
        except (ClientError, HTTPClientError, BotoConnectionError):
            return False
        if answer["FailedEntryCount"]:
            return False
    return True


class Store:
    """The three tables. Thread-safe; one per process."""

    def __init__(
        self,
        client: "DynamoDBClient",
        *,
        accounts: str,
        ledger: str,
        records: str,
        scanner: "Callable[[], DynamoDBClient] | None" = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.client = client
        self._make_scanner = scanner
        self._accounts = accounts
        self._ledger = ledger
        self._records = records
        self._monotonic = monotonic
        self._jitter = jitter
        self._contention = Contention(sleep, monotonic, jitter)
        self._versions: dict[str, tuple[float, tuple[Version, ...]]] = {}
        self._rulebooks: dict[tuple[str, int], Rulebook] = {}
        self._reigns: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._published = 0

    @cached_property
    def _scanner(self) -> "DynamoDBClient":
        """A client with time for pages of a megabyte, where one is given: nobody waits for them."""
        return self._make_scanner() if self._make_scanner else self.client

    # Reads

    def account(
        self, program_id: str, member_id: str, *, consistent: bool = False
    ) -> Account | None:
        """One member's account as stored; half a read unit while under 4 KB."""
        key: Item = {"pk": {"S": member_key(program_id, member_id)}}
        item = self._get(self._accounts, key, consistent)
        return None if item is None else account_of(item)

    def member(self, program_id: str, member_id: str, *, consistent: bool = False) -> Account:
        """The account of a member that there must be, or of the one it was merged into; Refusal
        `member_not_found` or `member_erased`."""
        found = self.followed(program_id, [member_id], consistent=consistent)
        return Known(found).account(member_id)

    def followed(
        self,
        program_id: str,
        members: Iterable[str],
        seen: Mapping[str, Account | None] = MappingProxyType({}),
        *,
        consistent: bool = False,
    ) -> dict[str, Account | None]:
        """The accounts that were `seen`, those of `members`, and those that these were merged
        into, to the end, each right behind what leads to it."""
        found = dict(seen)
        for member_id in members:
            while member_id and member_id not in found:
                account = self.account(program_id, member_id, consistent=consistent)
                found[member_id] = account
                member_id = account.merged_into if account else ""
        return found

    def entry(self, program_id: str, partition: str, sort: str = "0") -> Entry | None:
        """One entry by its key, strongly consistent; None where something waits there."""
        found = self._found(program_id, partition, sort)
        return found if isinstance(found, Entry) else None

    def _found(self, program_id: str, partition: str, sort: str) -> Entry | Waiting | None:
        item = self._get(self._ledger, entry_key(program_id, partition, sort), consistent=True)
        return None if item is None else _stands(item)

    def under(self, program_id: str, partition: str) -> tuple[list[Entry], list[Waiting]]:
        """All that stands under one key, strongly consistent: entries, such as an award and its
        refunds, by their sort key, and what waits there, in the order it came."""
        items = self._partition(self._ledger, f"{program_id}#{partition}")
        waiting = [waiting_of(item) for item in items if is_waiting(item)]
        return [entry_of(item) for item in items if not is_waiting(item)], waiting

    def wait(self, waiting: Waiting) -> bool:
        """Keep a refund until its purchase comes; False where its slot is taken by now."""
        item = waiting_item(waiting)
        for attempt in range(ATTEMPTS):
            failed = self._attempted([_put(self._ledger, item, _FREE)])
            if failed == []:
                return True
            if failed and failed[0]["Code"] == "ConditionalCheckFailed":
                return bool(failed[0]["Item"] == item)  # ours, if an answer was lost
            self.rest(attempt)
        raise Unavailable("the ledger does not answer")

    def _attempted(self, requests: list[Any]) -> list[Any] | None:
        """Send a transaction that may be sent again: [] if it was committed, the reasons if it was
        cancelled, None if nobody knows or it was not taken now."""
        try:
            self.client.transact_write_items(TransactItems=requests, ReturnConsumedCapacity="TOTAL")
        except ClientError as error:
            response: Any = error.response
            code, status = response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "TransactionCanceledException":
                reasons: list[Any] = response["CancellationReasons"]
                return reasons
            if code not in _RETRIED and status < 500:
                raise
            return None
        except (HTTPClientError, BotoConnectionError):
            return None
        return []

    def rest(self, attempt: int) -> None:
        """Pause before what is tried again."""
        self._contention.rest(attempt)

    def newest_entries(
        self, program_id: str, member_id: str, *, at_once: int, before: int | None = None
    ) -> Iterator[Entry]:
        """A member's entries, newest first, below number `before`; as the index projects them, and
        read as they are asked for."""
        request = self._history_request(program_id, member_id)
        request["Limit"] = at_once
        if before is not None:
            request["KeyConditionExpression"] += " AND n < :n"
            request["ExpressionAttributeValues"][":n"] = {"N": str(before)}
        for page in self._pages(request):
            yield from map(entry_of, page)

    def history(
        self, program_id: str, account: Account, *, since: int = 0
    ) -> tuple[list[Entry], bool]:
        """The account's entries recorded at or after `since` (milliseconds), newest first, and
        whether they are all there: the index follows the ledger a little later."""
        found: list[Entry] = []
        for page in self._pages(self._history_request(program_id, account.member_id)):
            for item in page:
                entry = entry_of(item)
                if entry.seq > account.seq:
                    continue
                if entry.seq != account.seq - len(found):
                    return found, False
                if entry.recorded_at < since:
                    return found, True
                found.append(entry)
        return found, len(found) == account.seq

    def record(self, partition: str, sort: str) -> dict[str, Any] | None:
        """One item of Records, strongly consistent, as plain values."""
        key: Item = {"pk": {"S": partition}, "sk": {"S": sort}}
        item = self._get(self._records, key, consistent=True)
        return None if item is None else _plain(item)

    def records_of(self, partition: str) -> list[dict[str, Any]]:
        """All items of Records in a partition, strongly consistent, by their sort key."""
        return [_plain(item) for item in self._partition(self._records, partition)]

    def records_page(
        self, partition: str, limit: int, *, after: str = "", before: str = ""
    ) -> list[dict[str, Any]]:
        """Up to `limit` items of Records in a partition, strongly consistent: those `after` a sort
        key, ascending, or those `before` one, descending."""
        request: dict[str, Any] = {
            "TableName": self._records,
            "KeyConditionExpression": f"pk = :p AND sk {'<' if before else '>'} :s",
            "ExpressionAttributeValues": {":p": {"S": partition}, ":s": {"S": before or after}},
            "ScanIndexForward": not before,
            "Limit": limit,
            "ConsistentRead": True,
        }
        found: list[dict[str, Any]] = []
        for page in self._pages(request):
            found += map(_plain, page)
            if len(found) >= limit:
                break
        return found[:limit]

    def create_record(self, record: Record) -> bool:
        """Put a record under a key not yet taken; False if it is."""
        return self._put_record(record, **_FREE)

    def replace_record(self, record: Record, *, seen: Mapping[str, Any]) -> bool:
        """Put a record in place of the one seen (compared by its `revision`); False if it moved."""
        return self._put_record(
            record,
            ConditionExpression="revision = :r",
            ExpressionAttributeValues={":r": {"N": str(seen["revision"])}},
        )

    def _put_record(self, record: Record, **condition: Any) -> bool:
        item = _record_item(record)
        try:
            self._read(
                lambda: self.client.put_item(
                    TableName=self._records,
                    Item=item,
                    ReturnConsumedCapacity="TOTAL",
                    **condition,
                )
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return self._holds(item)
        return True

    def remove_records(self, records: Sequence[Record]) -> None:
        """Remove records in this order, whatever they say by now."""
        for at in range(0, len(records), TRANSACTION_ITEMS):
            # In a transaction, since no function may delete outside of one.
            self.write_records(records[at : at + TRANSACTION_ITEMS])

    def write_records(self, records: Sequence[Record]) -> bool:
        """Create, replace and remove records in one transaction; False where one of them is not as
        it was seen, which may be this very call's doing, if its answer was lost."""
        requests = [self._written(record) for record in records]
        for attempt in range(ATTEMPTS):
            failed = self._attempted(requests)
            if failed == []:
                return True
            if failed and any(each["Code"] == "ConditionalCheckFailed" for each in failed):
                return False
            self.rest(attempt)
        raise Unavailable("the records do not answer")

    def count_miss(self, program_id: str, who: str, window: int, allowed: int) -> bool:
        """Count something that went wrong for somebody in a window of time; False, and nothing is
        counted, where so many have gone wrong in it already."""
        partition, sort = miss_key(program_id, who)
        in_window = {"window": window, "allowed": allowed, "one": 1}
        for _ in range(ATTEMPTS):
            if self._updated(partition, sort, "SET misses = misses + :one", _IN_WINDOW, in_window):
                return True
            found = self.record(partition, sort)
            if found is not None and found["window"] == window and found["misses"] >= allowed:
                return False
            first = {"window": window, "one": 1}
            if self._updated(
                partition, sort, "SET #w = :window, misses = :one", _OTHER_WINDOW, first
            ):
                return True
        raise Unavailable("too many count at once")

    def _updated(
        self, partition: str, sort: str, change: str, condition: str, values: Mapping[str, int]
    ) -> bool:
        """Change an item of Records in place; False where its condition does not hold."""
        try:
            self._read(
                lambda: self.client.update_item(
                    TableName=self._records,
                    Key={"pk": {"S": partition}, "sk": {"S": sort}},
                    UpdateExpression=change,
                    ConditionExpression=condition,
                    ExpressionAttributeNames={"#w": "window"},
                    ExpressionAttributeValues={f":{n}": {"N": str(v)} for n, v in values.items()},
                    ReturnConsumedCapacity="TOTAL",
                )
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def due_accounts(
        self,
        today: int,
        changed_at: int,
        feasts: Sequence[int],
        segment: int,
        segments: int,
        start: Item | None,
    ) -> DuePage:
        """One page of a segment of all accounts: those due by `today`, those that have stood still
        since `changed_at` (what is due on them may have moved), and those with a birthday or an
        anniversary on one of `feasts` (MMDD). What is filtered out costs the same reads."""
        names = [f":f{i}" for i in range(len(feasts))]
        days = ", ".join(names)
        found, following = self._scanned(
            self._accounts,
            segment,
            segments,
            start,
            FilterExpression=f"u <= :t OR r < :c OR y IN ({days}) OR z IN ({days})",
            ExpressionAttributeValues={
                ":t": {"N": str(today)},
                ":c": {"N": str(changed_at)},
                **{name: {"N": str(day)} for name, day in zip(names, feasts, strict=True)},
            },
        )
        accounts: list[tuple[Item, Account | None]] = []
        for item in found:
            try:
                account = account_of(item)
            except (Broken, LookupError, ValueError):
                account = None
            accounts.append(({"pk": item["pk"]}, account))
        return DuePage(accounts, following)

    # Whole tables, as they are stored: for the verification, which believes nothing

    def scanned_accounts(
        self, segment: int, segments: int, start: Item | None, limit: int
    ) -> tuple[list[Item], Item | None]:
        """At most `limit` accounts of a segment, and where to go on."""
        return self._scanned(self._accounts, segment, segments, start, Limit=limit)

    def scanned_index(
        self, segment: int, segments: int, start: Item | None
    ) -> tuple[list[Item], Item | None]:
        """One page of a segment of the index of the history, and where to go on."""
        return self._scanned(self._ledger, segment, segments, start, IndexName="history")

    def scanned_ledger(
        self, segment: int, segments: int, start: Item | None
    ) -> tuple[list[Item], Item | None]:
        """One page of a segment of the ledger, and where to go on. What stands under one partition
        comes together, though a page may end within it."""
        return self._scanned(self._ledger, segment, segments, start)

    def index_rows(self, member: str) -> Iterator[list[Item]]:
        """All of a member's rows of the index (`program_id#member_id`), oldest first, in pages."""
        request = {
            "TableName": self._ledger,
            "IndexName": "history",
            "KeyConditionExpression": "m = :m",
            "ExpressionAttributeValues": {":m": {"S": member}},
        }
        return self._pages(request)

    def stored_entries(
        self, keys: Sequence[tuple[str, str]], *, consistent: bool = False
    ) -> dict[tuple[str, str], Item]:
        """The items of the ledger under these keys (pk, sk), as far as there are any."""
        wanted: list[Item] = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys]
        found = self._batch(self._ledger, wanted, consistent)
        return {(item["pk"]["S"], item["sk"]["S"]): item for item in found}

    def stored_accounts(
        self, members: Iterable[str], *, consistent: bool = False
    ) -> dict[str, Item]:
        """The items of these accounts (`program_id#member_id`), as far as there are any."""
        wanted: list[Item] = [{"pk": {"S": member}} for member in members]
        return {item["pk"]["S"]: item for item in self._batch(self._accounts, wanted, consistent)}

    def stored_under(self, partition: str) -> list[Item]:
        """All that stands under one partition of the ledger (program included), strongly
        consistent."""
        return self._partition(self._ledger, partition)

    def records(
        self, keys: Sequence[tuple[str, str]], *, consistent: bool = False
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """The items of Records under these keys, as plain values, as far as there are any."""
        wanted: list[Item] = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys]
        found = [_plain(item) for item in self._batch(self._records, wanted, consistent)]
        return {(record["pk"], record["sk"]): record for record in found}

    def _scanned(
        self, table: str, segment: int, segments: int, start: Item | None, **more: Any
    ) -> tuple[list[Item], Item | None]:
        """One page of a segment of a table or an index, and where to go on."""
        request: dict[str, Any] = {
            "TableName": table,
            "Segment": segment,
            "TotalSegments": segments,
            "ReturnConsumedCapacity": "TOTAL",
            **more,
        }
        if start:
            request["ExclusiveStartKey"] = start
        answer = self._read(lambda: self._scanner.scan(**request))
        return answer["Items"], answer.get("LastEvaluatedKey")

    def _batch(self, table: str, keys: Sequence[Item], consistent: bool) -> list[Item]:
        """The items under any number of different keys."""
        found: list[Item] = []
        for at in range(0, len(keys), BATCH_ITEMS):
            asked: list[Item] = list(keys[at : at + BATCH_ITEMS])
            for attempt in range(ATTEMPTS):
                request = {table: {"Keys": asked, "ConsistentRead": consistent}}
                answer = self._read(
                    lambda request=request: self.client.batch_get_item(  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                        RequestItems=request, ReturnConsumedCapacity="TOTAL"
                    )
                )
                found += answer["Responses"].get(table, ())
                asked = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
                if not asked:
                    break
                self.rest(attempt)
            else:
                raise Unavailable("the tables give only a part of what is asked for")
        return found

    # Programs

    def rulebook_in_force(self, program_id: str, now: int) -> Rulebook:
        """The program as it counts at `now` (milliseconds); Refusal `program_not_found`."""
        versions = self._known_versions(program_id)
        if not versions:
            raise Refusal("program_not_found", "No program of this id has been published.")
        return self.rulebook(program_id, in_force(versions, now).number)

    def rulebook(self, program_id: str, number: int) -> Rulebook:
        """One version, compiled; kept for the life of the process, since it never changes."""
        known = self._rulebooks.get((program_id, number))
        if known is None:
            former = partial(self._former, program_id, number)
            known = Rulebook(parse(self.document(program_id, number)), number, former)
            self._rulebooks[program_id, number] = known
        return known

    def _former(self, program_id: str, number: int, since: int) -> Sequence[tuple[Program, int]]:
        """What `Rulebook.former` is of this version. Others are read only where time passed
        otherwise under them, and for accounts that have stood still since then."""
        reigns = self._reigns.get((program_id, number))
        if reigns is None:
            known = self._known_versions(program_id)
            reigns = former_reigns([version for version in known if version.number <= number])
            self._reigns[program_id, number] = reigns
        return [
            (self.rulebook(program_id, n).program, until) for n, until in reigns if until > since
        ]

    def document(self, program_id: str, number: int) -> Any:
        """The JSON document of a version, as it was published."""
        header = self.record(_program_key(program_id), _version_sort(number))
        if header is None:
            raise Refusal("program_not_found", "This version has not been published.")
        parts = []
        for part in range(header["parts"]):
            item = self.record(_program_key(program_id), f"p#{header['digest']}#{part}")
            if item is None:
                raise Broken(f"{program_id} version {number} lacks part {part}")
            parts.append(item["body"])
        return json.loads(gzip.decompress(b"".join(parts)))

    def versions(self, program_id: str) -> tuple[Version, ...]:
        """All versions, newest first, read now."""
        request: dict[str, Any] = {
            "TableName": self._records,
            "KeyConditionExpression": "pk = :p AND begins_with(sk, :v)",
            "ExpressionAttributeValues": {
                ":p": {"S": _program_key(program_id)},
                ":v": {"S": "v#"},
            },
            "ScanIndexForward": False,
            "ConsistentRead": True,
        }
        found = []
        for page in self._pages(request):
            for item in page:
                plain = _plain(item)
                found.append(
                    Version(
                        number=int(plain["sk"].removeprefix("v#")),
                        effective_at=plain["effective_at"],
                        published_at=plain["published_at"],
                        published_by=plain["published_by"],
                        digest=plain["digest"],
                        parts=plain["parts"],
                        passing=plain.get("passing", plain["digest"]),
                    )
                )
        return tuple(found)

    def publish(
        self, program_id: str, document: Any, *, number: int, now: int, delay: timedelta, by: str
    ) -> Version | None:
        """Store version `number`; None if another one took that number.

        The first version of a program has always been in force, later ones are after `delay`, so
        that every function knows of them before they count.
        """
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        # A fixed time in the header of the archive: equal documents have equal parts.
        body = gzip.compress(text.encode(), mtime=0)
        digest = sha256(body).hexdigest()[:32]
        parts = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
        for i, part in enumerate(parts):
            item = _record_item(Record(_program_key(program_id), f"p#{digest}#{i}", {"body": part}))
            self._read(lambda item=item: self.client.put_item(TableName=self._records, Item=item))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        version = Version(
            number=number,
            effective_at=0 if number == 1 else now + delay // timedelta(milliseconds=1),
            published_at=now,
            published_by=by,
            digest=digest,
            parts=len(parts),
            passing=_passing(document),
        )
        before = next((v for v in self.versions(program_id) if v.number == number - 1), None)
        if before is not None and before.passing != version.passing:
            self._tell_the_sweep(version.effective_at)
        header = Record(
            _program_key(program_id),
            _version_sort(number),
            {
                "effective_at": version.effective_at,
                "published_at": now,
                "published_by": by,
                "digest": digest,
                "parts": len(parts),
                "passing": version.passing,
            },
        )
        try:
            if not self.create_record(header):
                return None
        finally:
            self._published += 1
            self._versions.pop(program_id, None)
        return version

    def terms_changed_at(self) -> int:
        """From when the last version counts by whose terms time passes otherwise than before: what
        is due on accounts that have stood still since may have moved."""
        seen = self.record(SWEEP, "terms")
        return seen["at"] if seen else 0

    def _tell_the_sweep(self, changed_at: int) -> None:
        for attempt in range(ATTEMPTS):
            seen = self.record(SWEEP, "terms") or {"at": 0, "revision": 0}
            if seen["at"] >= changed_at:
                return
            fields = {"at": changed_at, "revision": seen["revision"] + 1}
            record = Record(SWEEP, "terms", fields)
            if self.replace_record(record, seen=seen) if seen["at"] else self.create_record(record):
                return
            self.rest(attempt)
        raise Unavailable("others publish at this moment")

    def _holds(self, item: Item) -> bool:
        """Whether Records holds just this item: then it was our own put whose answer was lost."""
        key = {"pk": item["pk"], "sk": item["sk"]}
        return self._get(self._records, key, consistent=True) == item

    def _known_versions(self, program_id: str) -> tuple[Version, ...]:
        known = self._versions.get(program_id)
        if known is None or self._monotonic() - known[0] > PROGRAM_REFRESH_SECONDS:
            # The age counts from before the read: what it may have missed came after.
            asked, published = self._monotonic(), self._published
            versions = self.versions(program_id)
            # A program that is about to be published must not be missed for long, nor a version
            # that was published here while we read.
            if versions and published == self._published:
                self._versions[program_id] = (asked, versions)
            return versions
        return known[1]

    # The commit

    def commit(
        self,
        program_id: str,
        members: Sequence[str],
        guard: Guard,
        decide: Decide,
        *,
        reads: bool = False,
    ) -> Committed:
        """Carry out a command once: decide on the accounts of `members`, write, answer.

        A decision that `reads` more by itself may find the effect of this very command there,
        carried out since the accounts were seen: its refusals are always looked into.

        Raises what `decide` refuses (after a strongly consistent look at everything it judged),
        KeyReused, Awaited, Unanswered, or Unavailable where the member is too busy.
        """
        done = self.commit_or_propose(program_id, members, guard, decide, reads=reads)
        if isinstance(done, Proposed):
            raise Broken("a command that nobody proposes waits for a second person")
        return done

    def commit_or_propose(
        self,
        program_id: str,
        members: Sequence[str],
        guard: Guard,
        decide: Decide,
        *,
        reads: bool = False,
    ) -> Committed | Proposed:
        """As `commit`, for a command of which the decision may be that it waits for somebody."""
        race = self._contention.race([(program_id, member_id) for member_id in members])
        sight = _Sight(Known(self.followed(program_id, members)))
        while race.goes_on():
            try:
                decision = self._decided(program_id, decide, sight)
                # What the winner's account forbids is refused without a pause.
                if race.crowded and self._others_came(program_id, sight, race):
                    decision = self._decided(program_id, decide, sight)
                accounts = sight.known.accounts
                sealed = [_sealed(entry, accounts[entry.member_id]) for entry in decision.entries]
                requests, owners = self._requests(program_id, sight, sealed, decision)
            except Refusal:
                if sight.certain and not reads:
                    raise
                # No refusal on an eventual read: look again, at the key first.
                if (before := self._found(program_id, guard.partition, guard.sort)) is not None:
                    return replayed(before, guard, race.sent)
                seen = sight.known.accounts
                fresh = self.followed(program_id, seen, consistent=True)
                if fresh == seen:
                    raise
                sight.known = Known(fresh)
                continue
            if len(requests) > TRANSACTION_ITEMS:
                self._gather(program_id, sight, decision, len(requests) - TRANSACTION_ITEMS)
                continue
            outcome = race.send(partial(self._transact, requests, owners))
            if outcome is None and decision.waits is not None:
                return Proposed(decision.waits, False, race.sent)
            if outcome is None:
                return Committed(sealed[0], False, race.sent)
            if not isinstance(outcome, _Moved):
                return replayed(outcome, guard, race.sent)
            sight.moved(outcome)
            if outcome.accounts:
                race.lost([(program_id, member_id) for member_id in outcome.accounts])
            else:
                race.failed(met_others=outcome.met_others)
        gave_up = Unavailable if race.met_others else Unanswered
        raise gave_up(f"after {race.sent} transactions")

    def _others_came(self, program_id: str, sight: "_Sight", race: Race) -> bool:
        """Pause after a lost race and look at the accounts again, for a while as long as others
        keep writing; whether any did.

        A transaction that fails is billed and a look is nearly free; a decision on an account that
        moved during the pause could only fail again.
        """
        came = False
        while race.others_first():
            seen = sight.known.accounts
            fresh = {m: _newer(a, self.account(program_id, m)) for m, a in seen.items()}
            others = sum(_seq(fresh[m]) - _seq(account) for m, account in seen.items())
            if others:
                came, sight.known, sight.certain = True, Known(fresh), False
            if others < 2 or not race.yields():
                return came
        raise Unavailable("too many write to this member")

    def foresee(self, program_id: str, known: Known, decide: Decide) -> Decision:
        """What would be decided on what is known: the same reads on the way, nothing written."""
        return self._decided(program_id, decide, _Sight(known), pool=self._left)

    def look[T](self, program_id: str, known: Known, show: Callable[[Known], T], now: int) -> T:
        """What a projection shows of what is known at `now` (milliseconds), with the history and
        what budgets and stocks have left read where it asks for them; nothing is written."""
        for _ in range(LOOKS):
            try:
                return show(known)
            except NeedsHistory as need:
                accounts, history = self._with_history(program_id, known.accounts, need.since)
                known = replace(known, accounts=accounts, history=history)
            except NeedsBudgets as need:
                left = {}
                for name, total in need.totals.items():
                    left[name] = self._left_at(program_id, name, total, need.version)
                    if left[name] < 1:
                        lapsed = self.lapsed(program_id, name, now)
                        # What its own member's holds give back the projection knows by itself.
                        left[name] += sum(n for m, n in lapsed.items() if m not in known.accounts)
                known = replace(known, budgets={**known.budgets, **left})
        raise Unavailable("the projection asks for more and more")

    def _decided(
        self,
        program_id: str,
        decide: Decide,
        sight: "_Sight",
        pool: Callable[[str, str, int, int], Pool] | None = None,
    ) -> Decision:
        """Decide, reading what the decision asks for on the way: other members, profiles, the
        history, budgets (by `pool`, as of a program, name, total and version)."""
        for _ in range(LOOKS):
            known = sight.known
            known = replace(known, budgets={name: p.points for name, p in sight.pools.items()})
            try:
                decision = decide(known)
            except NeedsAccounts as need:
                accounts = self.followed(program_id, need.member_ids, known.accounts)
                history = known.history
                if history is not None:
                    accounts, history = self._with_history(program_id, accounts, history.since)
                sight.known = replace(known, accounts=accounts, history=history)
                sight.certain = False
                continue
            except NeedsProfile as need:
                kept = self.record(f"{program_id}#member#{need.member_id}", "profile") or {}
                profiles = {**known.profiles, need.member_id: kept}
                sight.known = replace(known, profiles=profiles)
                continue
            except NeedsHistory as need:
                accounts, history = self._with_history(program_id, known.accounts, need.since)
                sight.known, sight.certain = Known(accounts, history), False
                continue
            except NeedsBudgets as need:
                for name, total in need.totals.items():
                    look = pool or self._pool
                    sight.pools[name] = look(program_id, name, total, need.version)
                continue
            except Refusal:
                # What was refused on one shard may stand on all of them.
                partial = [name for name, known_pool in sight.pools.items() if not known_pool.whole]
                if not partial:
                    raise
                for name in partial:
                    sight.pools[name] = self._whole_pool(program_id, name)
                continue
            drawn = decision.all_draws
            cut = _cut_by_budgets(decision)
            hidden = [
                name
                for name, known_pool in sight.pools.items()
                if known_pool.may_hide_more(drawn.get(name, 0)) or (cut and not known_pool.whole)
            ]
            if not hidden:
                return decision
            for name in hidden:
                sight.pools[name] = self._whole_pool(program_id, name)
        raise Unavailable("the decision asks for more and more")

    def _requests(
        self,
        program_id: str,
        sight: "_Sight",
        entries: Sequence[Entry],
        decision: Decision,
    ) -> tuple[list[Any], list[str | None]]:
        """The transaction's writes, and for each of them the member whose account it is, if any.

        Refusal `account_too_large` or `entry_too_large` where one is too large to be written.
        """
        requests: list[Any] = []
        owners: list[str | None] = []
        if decision.waits is not None:
            seen = sight.known.accounts[decision.about]
            requests.append(self._unmoved(program_id, decision.about, seen))
            requests.append(_put(self._ledger, waiting_item(decision.waits), _FREE))
            owners += [decision.about, None]
        for entry in entries:
            seen = sight.known.accounts[entry.member_id]
            after = _before(entry, seen).after(entry)
            if after.balance != entry.balance:
                raise Broken("the entry's balance is not the account's")
            item = account_item(after)
            if _bytes(item) > ACCOUNT_BYTES:
                raise Refusal("account_too_large", "The member holds too many different lots.")
            said = entry_item(entry)
            if _bytes(said) > ENTRY_BYTES:
                raise Refusal("entry_too_large", "The entry would be larger than one may be.")
            requests.append(_put(self._accounts, item, _as_seen(seen)))
            requests.append(_put(self._ledger, said, _FREE))
            owners += [entry.member_id, None]
        for record in decision.records:
            requests.append(self._written(record))
            owners.append(None)
        if decision.closing is not None:
            partition, sort = decision.closing
            program_id = entries[0].program_id
            slot = Waiting(program_id, partition, sort, entries[0].recorded_at)
            requests.append(_put(self._ledger, waiting_item(slot), _FREE))
            owners.append(None)
        holders = {
            stock_id(p.hold.reward): f"{p.hold.until}#{entry.member_id}"
            for entry in entries
            for p in entry.postings
            if p.kind == "hold" and p.hold and p.hold.drew
        }
        for name, points in decision.all_draws.items():
            pool = sight.pools.get(name)
            if points < 0 and (pool is None or not pool.whole):
                pool = self._whole_pool(program_id, name)  # which shard lacks the most
            if pool is None:
                raise Broken("a draw on a budget that nobody has looked at")
            for shard, part in allocate(pool, points).items():
                holder = holders.get(name)
                requests.append(self._draw(program_id, name, shard, part, pool, holder))
                owners.append(None)
        return requests, owners

    def _unmoved(self, program_id: str, member_id: str, seen: Account | None) -> dict[str, Any]:
        """The condition that an account is still as it was seen; it writes nothing."""
        return {
            "ConditionCheck": {
                "TableName": self._accounts,
                "Key": {"pk": {"S": member_key(program_id, member_id)}},
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                **_as_seen(seen),
            }
        }

    def _written(self, record: Record) -> dict[str, Any]:
        """The write of a record: created, or replaced or removed as it was seen."""
        item = _record_item(record)
        seen: dict[str, Any] = {}
        if record.seen is not None:
            seen = {
                "ConditionExpression": "revision = :r",
                "ExpressionAttributeValues": {":r": {"N": str(record.seen)}},
            }
        if record.fields:
            return _put(self._records, item, seen or _FREE)
        return {"Delete": {"TableName": self._records, "Key": item, **seen}}

    def _transact(
        self, requests: list[Any], owners: Sequence[str | None]
    ) -> "Entry | Waiting | _Moved | None":
        """Send the transaction. None: committed. An entry, or what waits: the key was taken, by
        that one. Otherwise what had moved: worth another try."""
        try:
            self.client.transact_write_items(TransactItems=requests, ReturnConsumedCapacity="TOTAL")
        except ClientError as error:
            return self._cancelled(error, owners)
        except (HTTPClientError, BotoConnectionError):
            return _Moved({}, False)  # the answer is lost: if it was committed, its key says so
        return None

    # Budgets

    def budget(self, program_id: str, name: str) -> tuple[int, int] | None:
        """(Points given so far, points left) of a budget; None for one that was never drawn on.
        Less than nothing is left where its total was lowered below what was given."""
        shards = self._shards(program_id, name)
        if not shards:
            return None
        left = sum(int(shard["left"]) for shard in shards)
        return int(shards[0]["total"]) - left, left

    def _left_at(self, program_id: str, name: str, total: int, version: int) -> int:
        """What the budget has left once it has this total, as that version sets it."""
        shards = self._shards(program_id, name)
        if not shards:
            return total
        change = total - int(shards[0]["total"]) if int(shards[0]["version"]) < version else 0
        return sum(int(shard["left"]) for shard in shards) + change

    def _pool(self, program_id: str, name: str, total: int, version: int) -> Pool:
        """One shard of the budget, by chance; all are made or set to a new total first if the
        version in force asks for that."""
        number = self._any_shard()
        key: Item = {"pk": {"S": _budget_key(program_id, name)}, "sk": {"S": str(number)}}
        item = self._get(self._records, key, consistent=False)
        if item is not None:
            shard = _plain(item)
            if shard["total"] == total or shard["version"] >= version:
                return Pool({number: shard["left"]}, False, slots={number: _slots(shard)})
        self._set_total(program_id, name, total, version)
        return self._whole_pool(program_id, name)

    def _whole_pool(self, program_id: str, name: str) -> Pool:
        shards = self._shards(program_id, name)
        left = {int(shard["sk"]): shard["left"] for shard in shards}
        slots = {int(shard["sk"]): _slots(shard) for shard in shards}
        return Pool(left, True, shards[0]["version"] if shards else 0, slots)

    def _shards(self, program_id: str, name: str) -> list[dict[str, Any]]:
        return self.records_of(_budget_key(program_id, name))

    def _set_total(self, program_id: str, name: str, total: int, version: int) -> None:
        """Make the budget's shards, or spread a changed total over them: all in one transaction
        on what they were seen to hold."""
        for attempt in range(ATTEMPTS):
            shards = self._shards(program_id, name)
            if shards and (shards[0]["total"] == total or shards[0]["version"] >= version):
                return
            before = [shard["left"] for shard in shards] or [0] * SHARDS
            change = total - (shards[0]["total"] if shards else 0)
            left = rebalanced(before, change)
            requests: list[Any] = []
            for number, points in enumerate(left):
                seen = shards[number] if shards else {}
                fields = {name: seen[name] for name in _slots(seen).values()}
                fields |= {"left": points, "total": total, "version": version}
                record = Record(_budget_key(program_id, name), str(number), fields)
                condition = _FREE
                if shards:
                    condition = {
                        "ConditionExpression": "#l = :l AND version = :v",
                        "ExpressionAttributeNames": {"#l": "left"},
                        "ExpressionAttributeValues": {
                            ":l": {"N": str(shards[number]["left"])},
                            ":v": {"N": str(shards[number]["version"])},
                        },
                    }
                requests.append(_put(self._records, _record_item(record), condition))
            if self._attempted(requests) == []:
                return
            self.rest(attempt)  # looked at again: what was written shows
        raise Unavailable("the budget is too busy to change its total")

    def _any_shard(self) -> int:
        return min(int(self._jitter() * SHARDS), SHARDS - 1)

    def lapsed(self, program_id: str, name: str, now: int) -> dict[str, int]:
        """Pieces of a stock that holds keep which had lapsed by `now`, by member: those that its
        shards remember, and not more than a few. One read unit, and half of one for each member."""
        holders = [
            holder.partition("#")
            for shard in self._shards(program_id, name)
            for holder in map(shard.get, _slots(shard).values())
            if holder
        ]
        members = list(dict.fromkeys(m for until, _, m in holders if int(until) <= now))
        begin = int(self._jitter() * len(members))  # others look at others
        kept: dict[str, int] = {}
        for member_id in (members[begin:] + members[:begin])[:LAPSED_LOOKS]:
            account = self.account(program_id, member_id)
            holds = [hold for hold, _ in account.holds] if account else []
            mine = [h for h in holds if h.until <= now and stock_id(h.reward) == name]
            if mine:
                kept[member_id] = sum(hold.drew for hold in mine)
        return kept

    def _draw(
        self, program_id: str, name: str, shard: int, points: int, pool: Pool, holder: str | None
    ) -> dict[str, Any]:
        """The write of a draw; the shard remembers the `holder` of what is drawn, if any."""
        names = {"#l": "left"}
        values = {":n": {"N": str(points)}}
        change = "SET #l = #l - :n"
        condition = "#l >= :n"
        if holder is not None and points > 0:
            change += ", #w = :w"
            names["#w"] = f"w{slot(pool.slots.get(shard, ()), self._jitter())}"
            values[":w"] = {"S": holder}
        if points < 0:
            # The shard that lacked the most does so only until the total is spread anew.
            condition = "version = :v"
            values[":v"] = {"N": str(pool.version)}
        return {
            "Update": {
                "TableName": self._records,
                "Key": {"pk": {"S": _budget_key(program_id, name)}, "sk": {"S": str(shard)}},
                "UpdateExpression": change,
                "ConditionExpression": condition,
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": values,
            }
        }

    def _gather(self, program_id: str, sight: "_Sight", decision: Decision, too_many: int) -> None:
        """Move what a decision draws from several shards of a budget into one of them, of as many
        budgets as it takes for a transaction that has so many items `too_many`.

        The budget has as much as before. Who draws on it meanwhile may be in the way, or take what
        was moved: it is looked at again.
        """
        draws = decision.all_draws.items()
        parts = {name: allocate(sight.pools[name], n) for name, n in draws if n > 0}
        if sum(len(shards) - 1 for shards in parts.values()) < too_many:
            raise Broken("a command of more items than a transaction may have")
        for name in sorted(parts, key=lambda name: -len(parts[name])):
            if too_many <= 0:
                break
            pool, (into, *others) = sight.pools[name], parts[name]
            taken = {shard: parts[name][shard] for shard in others}
            moves = {**taken, into: -sum(taken.values())}
            self._attempted(
                [self._draw(program_id, name, n, part, pool, None) for n, part in moves.items()]
            )
            sight.pools[name] = self._whole_pool(program_id, name)
            too_many -= len(others)

    def _left(self, program_id: str, name: str, total: int, version: int) -> Pool:
        """What the budget would have left if its total were this; nothing is written."""
        del version  # a draft's, or the one in force: what was given is the same
        shards = self._shards(program_id, name)
        if not shards:
            return Pool({0: total}, whole=True)
        spent = int(shards[0]["total"]) - sum(int(shard["left"]) for shard in shards)
        return Pool({0: max(0, total - spent)}, whole=True)

    def _cancelled(
        self, error: ClientError, owners: Sequence[str | None]
    ) -> "Entry | Waiting | _Moved":
        response: Any = error.response
        code = response["Error"]["Code"]
        if code != "TransactionCanceledException":
            if code in _RETRIED or response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                return _Moved({}, False)
            raise error
        reasons = response["CancellationReasons"]
        # The command's own entry stands second, behind its account.
        if reasons[1]["Code"] == "ConditionalCheckFailed":
            return _stands(reasons[1]["Item"])
        moved: dict[str, Account | None] = {}
        for member_id, reason in zip(owners, reasons, strict=True):
            if reason["Code"] == "ConditionalCheckFailed" and member_id:
                item = reason.get("Item")
                moved[member_id] = account_of(item) if item else None
            elif reason["Code"] not in ("None", "ConditionalCheckFailed", *_RETRIED_REASONS):
                raise error
        met_others = any(reason["Code"] in _MET_OTHERS for reason in reasons)
        # A conflict at the key leaves open whether it is taken.
        return _Moved(moved, reasons[1]["Code"] == "None", met_others)

    def _with_history(
        self, program_id: str, members: Iterable[str], since: int
    ) -> tuple[dict[str, Account | None], History]:
        """Accounts, and the history since an instant that belongs to them.

        The index may lag: it is believed only if it goes back from the account's own number
        without a gap.
        """
        for attempt in range(ATTEMPTS):
            accounts = self.followed(program_id, members, consistent=True)
            entries: list[Entry] = []
            complete = True
            read = set()
            waiting = [account for account in accounts.values() if account is not None]
            while waiting:
                account = waiting.pop()
                if account.member_id in read:
                    continue
                read.add(account.member_id)
                found, whole = self.history(program_id, account, since=since)
                complete &= whole
                entries += found
                # What a member did before a merge stands in the history of the other id.
                for merged_id in (e.explanation["m"] for e in found if brings_another(e)):
                    merged = self.account(program_id, merged_id, consistent=True)
                    waiting += [] if merged is None else [merged]
            if complete:
                return accounts, History(since, tuple(entries))
            self.rest(attempt)
        raise Unavailable("the index of the history lags behind")

    # Calls

    def _get(self, table: str, key: Item, consistent: bool) -> Item | None:
        answer = self._read(
            lambda: self.client.get_item(
                TableName=table,
                Key=key,
                ConsistentRead=consistent,
                ReturnConsumedCapacity="TOTAL",
            )
        )
        item: Item | None = answer.get("Item")
        return item

    def _partition(self, table: str, key: str) -> list[Item]:
        """All items of a partition, strongly consistent, by their sort key."""
        request = {
            "TableName": table,
            "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": {":p": {"S": key}},
            "ConsistentRead": True,
        }
        return [item for page in self._pages(request) for item in page]

    def _pages(self, request: dict[str, Any]) -> Iterator[list[Item]]:
        request = {**request, "ReturnConsumedCapacity": "TOTAL"}
        while True:
            answer = self._read(lambda: self.client.query(**request))
            yield answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _history_request(self, program_id: str, member_id: str) -> dict[str, Any]:
        return {
            "TableName": self._ledger,
            "IndexName": "history",
            "KeyConditionExpression": "m = :m",
            "ExpressionAttributeValues": {":m": {"S": member_key(program_id, member_id)}},
            "ScanIndexForward": False,
            "ReturnConsumedCapacity": "TOTAL",
        }

    def _read(self, call: Callable[[], Any]) -> Any:
        """An idempotent call, tried again a few times when the table does not answer."""
        for attempt in range(4):
            try:
                return call()
            except ClientError as error:
                response: Any = error.response
                status = response["ResponseMetadata"]["HTTPStatusCode"]
                if response["Error"]["Code"] not in _RETRIED and status < 500:
                    raise
            except (HTTPClientError, BotoConnectionError):
                pass
            self.rest(attempt)
        raise Unanswered("the tables do not answer")


_FREE: Final[dict[str, Any]] = {"ConditionExpression": "attribute_not_exists(pk)"}
_IN_WINDOW: Final = "#w = :window AND misses < :allowed"
_OTHER_WINDOW: Final = "attribute_not_exists(pk) OR #w <> :window"


def in_force(versions: Sequence[Version], now: int) -> Version:
    """The newest version that counts at `now`; the first has always counted."""
    return next((v for v in versions if v.effective_at <= now), versions[-1])


def former_reigns(versions: Sequence[Version]) -> list[tuple[int, int]]:
    """Of versions, newest first: those before the newest that have counted, oldest first, as
    (number, when it counted no more). Of successive ones with equal terms of time the last."""
    reigns: list[tuple[int, int]] = []
    newest, *others = versions
    passing, until = newest.passing, newest.effective_at
    for version in others:
        if version.effective_at >= until:
            continue  # another one was published for an earlier time
        if version.passing != passing:
            reigns.append((version.number, until))
        passing, until = version.passing, version.effective_at
    return reigns[::-1]


def _passing(document: Mapping[str, Any]) -> str:
    terms = [document.get(name) for name in PASSING]
    return sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]


def _stands(item: Item) -> Entry | Waiting:
    return waiting_of(item) if is_waiting(item) else entry_of(item)


def _as_seen(seen: Account | None) -> dict[str, Any]:
    """The condition under which an account is still the one that was seen."""
    if seen is None:
        return _FREE
    return {
        "ConditionExpression": "n = :n",
        "ExpressionAttributeValues": {":n": {"N": str(seen.seq)}},
    }


def _seq(account: Account | None) -> int:
    return account.seq if account else 0


def _newer(one: Account | None, other: Account | None) -> Account | None:
    """The later state of an account of two that were read: an eventual read may be the older."""
    return max(one, other, key=_seq)


def _cut_by_budgets(decision: Decision) -> bool:
    """Whether a budget bit, as the explanation tells."""
    told = ((entry.explanation or {}).get("l", ()) for entry in decision.entries)
    return any(index <= CAMPAIGN_HIT for limits in told for index, _ in limits)


def replayed(stands: Entry | Waiting, guard: Guard, attempts: int = 0) -> Committed | Proposed:
    """What stands under the command's key as what came of it; KeyReused where that was another's,
    Awaited."""
    if isinstance(stands, Waiting) and stands.proposal is None:
        raise Awaited
    if stands.fingerprint != guard.fingerprint:
        raise KeyReused(stands)
    if isinstance(stands, Waiting):
        return Proposed(stands, True, attempts)
    return Committed(stands, True, attempts)


def _before(entry: Entry, seen: Account | None) -> Account:
    return seen or Account(program_id=entry.program_id, member_id=entry.member_id)


def _sealed(entry: Entry, seen: Account | None) -> Entry:
    return replace(entry, hash=sealed_hash(entry, _before(entry, seen).hash))


def _bytes(item: Item) -> int:
    """The size of an item's values; a little more than DynamoDB counts for its numbers."""
    return sum(
        len(content.encode() if isinstance(content, str) else content)
        for value in item.values()
        for content in value.values()
    )


def _put(table: str, item: Item, condition: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Put": {
            "TableName": table,
            "Item": item,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            **condition,
        }
    }


def miss_key(program_id: str, who: str) -> tuple[str, str]:
    """Where is kept how often things went wrong for somebody lately: `window` and `misses`."""
    return f"{program_id}#misses#{sha256(who.encode()).hexdigest()[:32]}", "misses"


def _slots(shard: Mapping[str, Any]) -> dict[int, str]:
    """The slots of a shard that remember a hold, and the names under which they do."""
    return {n: f"w{n}" for n in range(SLOTS) if f"w{n}" in shard}


def _program_key(program_id: str) -> str:
    return f"{program_id}#program"


def _budget_key(program_id: str, name: str) -> str:
    return f"{program_id}#budget#{name}"


def _version_sort(number: int) -> str:
    return f"v#{number:06}"


def _record_item(record: Record) -> Item:
    item: Item = {"pk": {"S": record.partition}, "sk": {"S": record.sort}}
    for name, value in record.fields.items():
        match value:
            case None:
                continue
            case bytes():
                item[name] = {"B": value}
            case int():
                item[name] = {"N": str(value)}
            case _:
                item[name] = {"S": str(value)}
    return item


def _plain(item: Item) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in item.items():
        [(kind, content)] = value.items()
        plain[name] = int(content) if kind == "N" else bytes(content) if kind == "B" else content
    return plain
