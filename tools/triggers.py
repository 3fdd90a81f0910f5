"""What invokes handlers besides HTTP: the sweep's schedule, its queue, the ledger's stream.

The queue is a small part of SQS, of its JSON protocol the messages that a handler sends, kept in
memory: whatever of a sweep is lost with the process, the next one finds again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loyalty.dates import rfc3339
from tools.engine import LOCAL_CREDENTIALS
from tools.runtime import Event, Runtime
from tools.template import Source, Template

log = logging.getLogger(__name__)

REGION = LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"]
ACCOUNT = "123456789012"
# How long the stream rests when it has nothing new; an invocation wakes it.
STREAM_SECONDS = 1.0


@dataclass(slots=True)
class Message:
    """A message in a queue; `receives` counts its deliveries."""

    body: str
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    receives: int = 0

    @property
    def md5(self) -> str:
        return _md5(self.body)


class Queues:
    """The template's queues, and the endpoint to which handlers send."""

    def __init__(self, template: Template) -> None:
        self.sources = {source.of: source for source in template.sources if source.kind == "queue"}
        self._messages: dict[str, deque[Message]] = {name: deque() for name in self.sources}

    def put(self, name: str, body: str) -> Message:
        """Append a message. Raises KeyError for a queue that the template does not have."""
        message = Message(body)
        self._messages[name].append(message)
        return message

    def put_back(self, name: str, message: Message) -> None:
        self._messages[name].append(message)

    def take(self, name: str, at_most: int) -> list[Message]:
        """The next messages, none when the queue is empty."""
        taken: list[Message] = []
        while len(taken) < at_most and self._messages[name]:
            message = self._messages[name].popleft()
            message.receives += 1
            taken.append(message)
        return taken

    async def endpoint(self, request: Request) -> Response:
        """SendMessage and SendMessageBatch."""
        operation = request.headers.get("x-amz-target", "").partition(".")[2]
        try:
            parameters = json.loads(await request.body())
            name = parameters["QueueUrl"].rpartition("/")[2]
            match operation:
                case "SendMessage":
                    sent = self.put(name, _string(parameters["MessageBody"]))
                    answer: dict[str, Any] = _sent(sent)
                case "SendMessageBatch":
                    entries = [
                        (each["Id"], _string(each["MessageBody"])) for each in parameters["Entries"]
                    ]
                    answer = {
                        "Successful": [
                            {"Id": entry, **_sent(self.put(name, body))} for entry, body in entries
                        ],
                        "Failed": [],
                    }
                case _:
                    return _sqs_error("UnsupportedOperation", f"{operation} is not served here")
        except KeyError as error:
            return _sqs_error("QueueDoesNotExist", f"no such queue or parameter: {error}")
        except (TypeError, AttributeError, ValueError) as error:
            return _sqs_error("InvalidParameterValue", str(error))
        return JSONResponse(answer, media_type="application/x-amz-json-1.0")


class Bus:
    """The template's event bus: it keeps what was put on it last, for whoever wants to look."""

    def __init__(self, most: int = 1000) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=most)

    async def endpoint(self, request: Request) -> Response:
        """PutEvents."""
        operation = request.headers.get("x-amz-target", "").partition(".")[2]
        if operation != "PutEvents":
            return JSONResponse({"__type": "UnsupportedOperation"}, 400)
        entries = json.loads(await request.body())["Entries"]
        for entry in entries:
            told = {
                "source": entry["Source"],
                "detail-type": entry["DetailType"],
                "time": rfc3339(round(entry["Time"] * 1000)),  # the SDK sends seconds
                "detail": json.loads(entry["Detail"]),
            }
            self.events.append(told)
        answer = {
            "FailedEntryCount": 0,
            "Entries": [{"EventId": str(uuid.uuid4())} for _ in entries],
        }
        return JSONResponse(answer, media_type="application/x-amz-json-1.1")


class Sweep:
    """A schedule: invokes its function, then delivers what that queued until nothing is left."""

    def __init__(
        self,
        template: Template,
        runtime: Runtime,
        queues: Queues,
        now: Callable[[], datetime],
        module: str,
    ) -> None:
        own = [each for each in template.sources if each.function.module == module]
        self._schedules = [each for each in own if each.kind == "schedule"]
        self._fed = [each for each in own if each.kind == "queue"]
        self._runtime = runtime
        self._queues = queues
        self._now = now
        self._one_at_a_time = threading.Lock()
        self._last: datetime | None = None

    def run(self) -> dict[str, int]:
        """Sweep to the end. `messages`: delivered and done; `retried`; `dead`: given up.

        Raises whatever the scheduled function raises.
        """
        counts = {"messages": 0, "retried": 0, "dead": 0}
        with self._one_at_a_time:
            for schedule in self._schedules:
                at = self._scheduled_time()
                self._runtime.invoke(schedule.function, schedule_event(schedule, at))
            for source in self._fed:
                name = source.of
                while batch := self._queues.take(name, source.batch_size):
                    failed = self._deliver(source, batch)
                    counts["messages"] += len(batch) - len(failed)
                    for message in failed:
                        if message.receives < source.attempts:
                            counts["retried"] += 1
                            self._queues.put_back(name, message)
                        else:
                            counts["dead"] += 1
                            log.error("Given up after %d times: %s", message.receives, message.body)
        return counts

    def _scheduled_time(self) -> datetime:
        """Now, as a schedule would have it: each is another one, also while the clock stands."""
        now = self._now().replace(microsecond=0)
        if self._last is not None:
            now = max(now, self._last + timedelta(seconds=1))
        self._last = now
        return now

    def _deliver(self, source: Source, batch: list[Message]) -> list[Message]:
        """Those of the messages that failed."""
        try:
            answer, _ = self._runtime.invoke(source.function, queue_event(source, batch))
        except Exception:  # whatever a handler raises, its messages come again
            log.exception("A batch of %s failed", source.of)
            return batch
        failed = _failures(answer)
        return [message for message in batch if message.message_id in failed]


class Stream(threading.Thread):
    """Delivers a table's stream to its functions, in order, each record at least once.

    The place that was reached is kept in `place`. Starts with `start()`, ends with `stop()`.
    """

    def __init__(
        self,
        template: Template,
        runtime: Runtime,
        endpoint: str,
        tables: dict[str, str],
        place: Path,
    ) -> None:
        super().__init__(name="stream", daemon=True)
        self._sources = [
            (source, tables[source.of]) for source in template.sources if source.kind == "stream"
        ]
        self._runtime = runtime
        self._client = boto3.client(
            "dynamodbstreams",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=LOCAL_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=LOCAL_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            # The engine's sequence numbers are shorter than the cloud's.
            config=Config(parameter_validation=False),
        )
        self._place = place
        self._reached: dict[str, str] = json.loads(place.read_text()) if place.exists() else {}
        self._awake = threading.Event()
        self._ends = threading.Event()

    def wake(self) -> None:
        """Look for records now."""
        self._awake.set()

    def stop(self) -> None:
        """Deliver what is there, then end."""
        self._ends.set()
        self._awake.set()
        if self.is_alive():
            self.join(10)

    def run(self) -> None:
        while True:
            last = self._ends.is_set()
            self._awake.clear()
            for source, table in self._sources:
                try:
                    self._read(source, table)
                except Exception:  # the engine may be gone or busy: the records stay there
                    log.exception("The stream of %s cannot be read", table)
            if last:
                return
            self._awake.wait(STREAM_SECONDS)

    def _read(self, source: Source, table: str) -> None:
        for stream in self._client.list_streams(TableName=table)["Streams"]:
            arn = stream["StreamArn"]
            shards = self._client.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
            for shard in shards:
                self._read_shard(source, arn, shard["ShardId"])

    def _read_shard(self, source: Source, arn: str, shard_id: str) -> None:
        place = f"{source.function.logical_id} {arn}/{shard_id}"
        reached = self._reached.get(place)
        start: dict[str, str] = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": reached}
            if reached
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        iterator = self._client.get_shard_iterator(StreamArn=arn, ShardId=shard_id, **start)
        following = iterator["ShardIterator"]
        while following:
            page = self._client.get_records(ShardIterator=following)
            following = page.get("NextShardIterator")
            if not page["Records"]:
                return
            records = [_record(each, arn) for each in page["Records"]]
            wanted = [each for each in records if _passes(each, source)]
            for first in range(0, len(wanted), source.batch_size):
                self._deliver(source, wanted[first : first + source.batch_size])
            self._reached[place] = records[-1]["dynamodb"]["SequenceNumber"]
            fresh = self._place.with_name(f"{self._place.name}.new")
            fresh.write_text(json.dumps(self._reached))
            fresh.rename(self._place)

    def _deliver(self, source: Source, batch: list[Event]) -> None:
        for _ in range(source.attempts):
            try:
                answer, _ = self._runtime.invoke(source.function, {"Records": batch})
            except Exception:  # whatever a handler raises, its records come again
                log.exception("A batch of the stream of %s failed", source.of)
                if source.halves and len(batch) > 1:
                    middle = len(batch) // 2
                    self._deliver(source, batch[:middle])
                    self._deliver(source, batch[middle:])
                    return
                continue
            failed = _failures(answer)
            numbers = [each["dynamodb"]["SequenceNumber"] for each in batch]
            # The stream goes on at the first record that failed.
            first = next((at for at, number in enumerate(numbers) if number in failed), None)
            if first is None:
                return
            batch = batch[first:]
        log.error("Given up: %d records of the stream of %s", len(batch), source.of)


def schedule_event(schedule: Source, now: datetime) -> Event:
    """What EventBridge Scheduler hands over: the template's input, or its own form without one."""
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{schedule.of}"
    if schedule.input is None:
        return {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.scheduler",
            "account": ACCOUNT,
            "time": at,
            "region": REGION,
            "resources": [arn],
            "detail": "{}",
        }
    text = schedule.input
    for name, value in {
        "schedule-arn": arn,
        "scheduled-time": at,
        "execution-id": str(uuid.uuid4()),
        "attempt-number": "1",
    }.items():
        text = text.replace(f"<aws.scheduler.{name}>", value)
    event: Event = json.loads(text)
    return event


def queue_event(source: Source, batch: list[Message]) -> Event:
    """A batch of messages as Lambda gets it from SQS."""
    return {
        "Records": [
            {
                "messageId": message.message_id,
                "receiptHandle": message.message_id,
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": str(message.receives),
                    "SentTimestamp": str(message.sent_ms),
                    "SenderId": ACCOUNT,
                    "ApproximateFirstReceiveTimestamp": str(message.sent_ms),
                },
                "messageAttributes": {},
                "md5OfBody": message.md5,
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{source.of}",
                "awsRegion": REGION,
            }
            for message in batch
        ]
    }


def _record(record: dict[str, Any], arn: str) -> Event:
    """A record as Lambda gets it: bytes in base64, the time in seconds."""
    change = _plain(record["dynamodb"])
    change["ApproximateCreationDateTime"] = int(
        record["dynamodb"]["ApproximateCreationDateTime"].timestamp()
    )
    return {**record, "dynamodb": change, "awsRegion": REGION, "eventSourceARN": arn}


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value


def _passes(record: Event, source: Source) -> bool:
    """Whether one of the source's filters lets the record pass; without filters all do."""
    return not source.filters or any(_fits(record, pattern) for pattern in source.filters)


def _fits(value: Any, pattern: Any) -> bool:
    """EventBridge's patterns, as far as the template uses them: names, and lists of values."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            _fits(value.get(name), each) for name, each in pattern.items()
        )
    return value in pattern


def _failures(answer: Any) -> set[str]:
    """What a handler reports as failed, by ReportBatchItemFailures; nothing means none."""
    if not isinstance(answer, dict):
        return set()
    return {each["itemIdentifier"] for each in answer.get("batchItemFailures") or ()}


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("MessageBody is a string")
    return value


def _md5(text: str) -> str:
    # What SQS answers with, no matter of security.
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _sent(message: Message) -> dict[str, str]:
    return {"MessageId": message.message_id, "MD5OfMessageBody": message.md5}


def _sqs_error(code: str, text: str) -> Response:
    return JSONResponse(
        {"__type": f"com.amazonaws.sqs#{code}", "message": text},
        400,
        media_type="application/x-amz-json-1.0",
    )
