"""Work over whole tables, in segments: fanned out over a queue, page by page, and passed on.

A message is worked off until it is done or time runs out; then the rest goes on as a new message.
Whatever a page does has to be harmless when it is done twice: messages come more than once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loyalty import store
from loyalty.edge import logger

type Message = Mapping[str, Any]
type Page = Callable[[Message], tuple[Message | None, bool]]
"""Works off one page of a message: the message that is left (None: nothing is), and whether all of
the page could be done. It may raise Unavailable: the message comes again."""


@dataclass(frozen=True, slots=True)
class Work:
    """Work over a queue: `queue` gives its address and the number of segments, `page` works off one
    page, and to begin another `reserve_seconds` must be left of the run."""

    queue: Callable[[], tuple[str, int]]
    page: Page
    reserve_seconds: int

    def fan_out(self, messages: Sequence[Message]) -> None:
        """Put the messages on the queue."""
        store.send_messages(self.queue()[0], messages)

    def off(self, records: Sequence[Any], context: Any) -> dict[str, Any]:
        """Work off a batch of the queue; the messages that have to come again, as Lambda asks."""
        failed = [r["messageId"] for r in records if not self._done(r, context)]
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}

    def _done(self, record: Any, context: Any) -> bool:
        message: Message = json.loads(record["body"])
        whole = True
        while True:
            try:
                following, done = self.page(message)
            except store.Unavailable:
                logger.warning("interrupted", work=dict(message))
                return False
            whole &= done
            if following is None:
                return whole
            if context.get_remaining_time_in_millis() < self.reserve_seconds * 1000:
                self.fan_out([following])
                return whole
            message = following
