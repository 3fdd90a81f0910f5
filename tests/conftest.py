"""What tests share: an engine, fresh tables, a running service, a browser.

Nothing here reaches a cloud: credentials are dummies, the engine is a child process, and the
service listens on 127.0.0.1.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx
import hypothesis
import pytest

from tests.workers import Clients
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, create_tables
from tools.template import ROOT, Template

# In CI a commit gives the same result whenever it is tested. A slow machine is never a failure.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, print_blob=True
)
# For a mutant it is enough to know that a test fails, not by which smallest example.
hypothesis.settings.register_profile(
    "mutants",
    parent=hypothesis.settings.get_profile("ci"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    report_multiple_bugs=False,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

READY_SECONDS = 90


def missing(what: str) -> NoReturn:
    """Skip a test for want of something on this machine; continuous integration has everything, and
    there it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session", autouse=True)
def _no_cloud() -> Iterator[None]:
    """Whatever credentials the developer has, tests have dummies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        for name, value in LOCAL_CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def template() -> Template:
    """template.yaml."""
    return Template.load()


@pytest.fixture(scope="session")
def engine(_no_cloud: None) -> Iterator[Engine]:
    """A real engine in memory, one for each worker of pytest: `engine.endpoint`, `.client()`."""
    with Engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def dynamodb(engine: Engine) -> Any:
    """A boto3 client of the engine."""
    return engine.client(max_pool_connections=64)


@pytest.fixture
def tables(new_tables: Callable[[], Tables]) -> Tables:
    """Three fresh tables; `.accounts`, `.ledger`, `.records`, `.environment`."""
    return new_tables()


@pytest.fixture(scope="session")
def new_tables(engine: Engine, dynamodb: Any, template: Template) -> Callable[[], Tables]:
    """A function that makes three fresh tables, for a test that wants more than one set of them."""

    def make() -> Tables:
        prefix = f"loyalty-{uuid.uuid4().hex[:12]}"
        return create_tables(engine.endpoint, prefix, template, dynamodb=dynamodb)

    return make


class Service:
    """The local service as a process of its own, as `make run` starts it.

    `url` without a slash at the end; `http` is an httpx client of it without a token, whose methods
    take paths ("/health"). `data` is its folder: starting another service there finds what it kept.
    """

    def __init__(self, data: Path, *options: str, port: int = 0) -> None:
        self.data = data
        self.url = ""
        self._command = [
            sys.executable, "-m", "tools.local", "--port", str(port), "--data", str(data), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self._tokens: dict[tuple[str, str | None, tuple[str, ...] | None], str] = {}
        self.output: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        lines: queue.Queue[str | None] = queue.Queue()

        def read(stream: Any) -> None:
            with stream:
                for line in stream:
                    lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=read, args=(self._process.stdout,), daemon=True).start()
        self.output = []
        while True:
            line = lines.get(timeout=READY_SECONDS)
            if line is None:
                raise RuntimeError("The service ended at once:\n" + "\n".join(self.output))
            self.output.append(line)
            if line.startswith("Ready at "):
                self.url = line.split()[2]
            # The last line that it prints when everything is in place.
            if line.startswith("Ctrl-C"):
                break
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, with SIGKILL if so told, and give its exit status."""
        assert self._process
        self.http.close()
        self._process.send_signal(how)
        try:
            return self._process.wait(15)
        finally:
            self._process.kill()

    def token(
        self, scope: str, member_id: str | None = None, program_ids: list[str] | None = None
    ) -> str:
        """A token of the local issuer; `scope` is the short name ("admin", "member")."""
        wish = scope, member_id, tuple(program_ids) if program_ids is not None else None
        if wish not in self._tokens:
            body: dict[str, Any] = {"scope": scope}
            if member_id is not None:
                body["member_id"] = member_id
            if program_ids is not None:
                body["program_ids"] = program_ids
            answer = self.http.post("/dev/tokens", json=body)
            answer.raise_for_status()
            self._tokens[wish] = answer.json()["access_token"]
        return self._tokens[wish]

    def headers(self, scope: str, member_id: str | None = None, **more: str) -> dict[str, str]:
        """Headers with such a token; `idempotency_key="x"` adds `idempotency-key: x`."""
        return {"Authorization": f"Bearer {self.token(scope, member_id)}"} | {
            name.replace("_", "-"): value for name, value in more.items()
        }

    def set_clock(self, now: str | None) -> None:
        """Stop the test clock at `now` (RFC 3339), or with None go back to real time."""
        self.http.post("/dev/clock", json={"now": now}).raise_for_status()

    def sweep(self) -> dict[str, Any]:
        """Run the scheduled sweep to its end; what it did."""
        answer = self.http.post("/dev/sweep", timeout=300)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result


@pytest.fixture(scope="session")
def service(_no_cloud: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service without the demo program, one for each worker of pytest.

    Tests share it: each publishes a program of its own name and leaves the clock at real time.
    """
    with Service(tmp_path_factory.mktemp("service"), "--no-demo") as service:
        yield service


@pytest.fixture
def start_service(
    _no_cloud: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """A function that starts a service of the test's own: `start_service("--no-demo", data=…)`.

    Without `data` in a new folder. Those that still run are ended after the test.
    """
    running: list[Service] = []

    def start(*options: str, data: Path | None = None, port: int = 0) -> Service:
        service = Service(data or tmp_path_factory.mktemp("service"), *options, port=port)
        service.start()
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    """Sixty-four clients in eight processes."""
    with Clients() as clients:
        yield clients


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium (playwright's Browser); skipped where there is none, except in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("Chromium is not installed: /usr/bin/chromium (Debian's package chromium)")
    from playwright.sync_api import sync_playwright

    flags = [
        "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    if os.geteuid() == 0:
        # Chromium's sandbox refuses to run as root, as in containers.
        flags.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
