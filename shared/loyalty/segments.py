"""Jobs over whole tables, in segments: fanned out over a queue, worked off page by page, sent on.

The scheduled time is the job's key. Under it stands in Records whether the job was fanned out, and
how far it has come in each of its parts: a schedule that fires twice sends its messages once, and a
message that comes again goes on where its part stands. Where time runs out it is sent on.

A page may be cut off before its place is written down, or be met by another message: what it does
has to be harmless when it is done twice.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from loyalty import edge, store
from loyalty.dates import milliseconds, rfc3339
from loyalty.decisions import Record
from loyalty.edge import logger

type Standing = Mapping[str, Any]
"""How far a part has come: `start` of its next page (JSON), `pages` that have been worked off,
`done`, `revision`, and what the pages have found."""


class Job(ABC):
    """A part of a job, as a message names it: a `segment` of `segments`, and its `kind` where the
    job has several.

    A kind of job is a class of its own. It stands in a `partition` of Records, for `kept_seconds`,
    and begins another page only where `reserve_seconds` are left of the run.
    """

    partition: ClassVar[str]
    kept_seconds: ClassVar[int]
    reserve_seconds: ClassVar[int]

    def __init__(self, message: Mapping[str, Any], context: Any) -> None:
        self.message = message
        self.scheduled_time: str = message["scheduled_time"]
        self.kind: str = message.get("kind", "")
        self.segment: int = message["segment"]
        self.segments: int = message["segments"]
        self._context = context

    @staticmethod
    @abstractmethod
    def queue() -> tuple[str, int]:
        """(URL of the queue, number of segments)."""

    @abstractmethod
    def page(self, stands: Standing) -> tuple[Any, dict[str, Any]]:
        """Work off one page: where the next one starts, or None, and what is found by now. It may
        raise Unavailable: the message comes again."""

    @abstractmethod
    def ended(self, stands: Standing, *, now: bool) -> None:
        """What follows a part that is done, since `now` or before; it may be asked for twice."""

    @classmethod
    def fan_out(
        cls,
        scheduled_time: str | None,
        kinds: Sequence[str] = ("",),
        *,
        stage: str = "",
        **kept: Any,
    ) -> int:
        """Send a message for each segment of these kinds, unless those of the job, or of a later
        `stage` of it, have been sent; how many. What is `kept` with that is the first caller's."""
        queue, segments = cls.queue()
        scheduled_time = scheduled_time or rfc3339(_now())
        fields = {"segments": segments, "started_at": _now(), **kept, "ttl": cls._ttl()}
        claim = Record(cls.partition, _sort(scheduled_time, stage), fields | {"revision": 1})
        edge.store().create_record(claim)
        seen = cls.fanned_out(scheduled_time, stage)
        if seen is None or seen["revision"] > 1:
            return 0
        # As many as were claimed: who claimed may have sent some of them.
        messages = [
            {"scheduled_time": scheduled_time}
            | ({"kind": kind} if kind else {})
            | {"segment": segment, "segments": seen["segments"]}
            for kind in kinds
            for segment in range(seen["segments"])
        ]
        store.send_messages(queue, messages)
        sent = Record(claim.partition, claim.sort, {**seen, "revision": 2})
        edge.store().replace_record(sent, seen=seen)
        return len(messages)

    @classmethod
    def fanned_out(cls, scheduled_time: str, stage: str = "") -> dict[str, Any] | None:
        """What is kept of a job, or of a later stage of it: `segments`, `started_at`
        (milliseconds), `revision` (2 when its messages have been sent)."""
        return edge.store().record(cls.partition, _sort(scheduled_time, stage))

    @classmethod
    def work(cls, records: Sequence[Any], context: Any) -> dict[str, Any]:
        """Work off a batch of the queue; the messages that have to come again, as Lambda asks."""
        again = [r for r in records if not cls(json.loads(r["body"]), context)._worked_off()]
        return {"batchItemFailures": [{"itemIdentifier": r["messageId"]} for r in again]}

    def time_is_up(self) -> bool:
        """Whether another page is another message's."""
        left: int = self._context.get_remaining_time_in_millis()
        return left < self.reserve_seconds * 1000

    def standings(self, kinds: Sequence[str]) -> list[Standing]:
        """How far all the parts of these kinds have come, those that have begun."""
        keys = [
            (self.partition, _part(self.scheduled_time, kind, segment))
            for kind in kinds
            for segment in range(self.segments)
        ]
        return list(edge.store().records(keys, consistent=True).values())

    def _worked_off(self) -> bool:
        """Whether the message is done with: its part is, or the rest was sent on. False where it
        has to come again, to go on or to see whether another one has."""
        try:
            stands = self._standing()
            done_before = bool(stands["done"])
            while not stands["done"]:
                following, found = self.page(stands)
                moved = self._moved(stands, following, found)
                if moved is None:
                    logger.info("another message works on it", part=dict(self.message))
                    return False
                stands = moved
                if not stands["done"] and self.time_is_up():
                    store.send_messages(self.queue()[0], [self.message])
                    return True
            self.ended(stands, now=not done_before)
        except store.Unavailable:
            logger.warning("interrupted", part=dict(self.message))
            return False
        return True

    def _standing(self) -> Standing:
        fresh = {"start": "null", "pages": 0, "done": 0, "revision": 0}
        sort = _part(self.scheduled_time, self.kind, self.segment)
        return edge.store().record(self.partition, sort) or fresh

    def _moved(self, seen: Standing, start: Any, found: Mapping[str, Any]) -> Standing | None:
        """The standing after a page, written down; None where it has moved meanwhile."""
        moved = {
            **found,
            "start": json.dumps(start),
            "pages": seen["pages"] + 1,
            "done": int(start is None),
            "revision": seen["revision"] + 1,
            "at": _now(),
            "ttl": self._ttl(),
        }
        record = Record(self.partition, _part(self.scheduled_time, self.kind, self.segment), moved)
        if not seen["revision"]:
            return moved if edge.store().create_record(record) else None
        return moved if edge.store().replace_record(record, seen=seen) else None

    @classmethod
    def _ttl(cls) -> int:
        return _now() // 1000 + cls.kept_seconds


def _sort(*parts: str) -> str:
    return "#".join(part for part in parts if part)


def _part(scheduled_time: str, kind: str, segment: int) -> str:
    return _sort(scheduled_time, kind, f"{segment:04}")


def _now() -> int:
    return milliseconds(edge.clock())
