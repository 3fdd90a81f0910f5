"""Runs handlers as Lambda does: several at once, each with a context."""

from __future__ import annotations

import asyncio
import importlib
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tools import meter
from tools.template import Function, Template

# More than the clients of a test at once would only wait for the interpreter and for the engine.
WORKERS = 32

Event = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What Lambda tells a handler about its invocation."""

    function_name: str
    memory_limit_in_mb: int
    timeout_seconds: int
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_version: str = "$LATEST"
    started: float = field(default_factory=time.monotonic, repr=False)

    @property
    def invoked_function_arn(self) -> str:
        return f"arn:aws:lambda:eu-west-1:123456789012:function:{self.function_name}"

    @property
    def log_group_name(self) -> str:
        return f"/aws/lambda/{self.function_name}"

    @property
    def log_stream_name(self) -> str:
        return "local"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end the invocation; here nothing is ended."""
        left = self.timeout_seconds - (time.monotonic() - self.started)
        return max(0, round(left * 1000))


class Runtime:
    """Invokes functions of the template, many at once, as Lambda would in many environments.

    `find` gives a module by its name. Handlers share one process here, which the cloud spares them.
    """

    def __init__(
        self, find: Callable[[str], ModuleType] = importlib.import_module, workers: int = WORKERS
    ) -> None:
        self._find = find
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="handler")

    def load(self, template: Template) -> None:
        """Import every handler that something here invokes, so that no request waits for it."""
        routes = [route.function for route in template.routes]
        for function in (*routes, *(source.function for source in template.sources)):
            self._find(function.module)

    def invoke(self, function: Function, event: Event) -> tuple[Any, meter.Units]:
        """The handler's answer and what it consumed. Raises whatever the handler raises."""
        handler = getattr(self._find(function.module), function.attribute)
        context = Context(function.module, function.memory_mb, function.timeout_seconds)
        with meter.measure() as units:
            answer = handler(event, context)
        return answer, units

    async def invoke_soon(self, function: Function, event: Event) -> tuple[Any, meter.Units]:
        """The same from an event loop, as soon as one of the threads is free."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.invoke, function, event)

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown()
