"""A newcomer's first quarter of an hour: a clone, `make run`, the calls that are shown, a restart.

Slow: the clone sets itself up from the package registries, as a newcomer's would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.template import ROOT

SETUP_SECONDS = 900
PRINTED_PORT = 8000
MEMBERS = ("ada", "grace", "linus")

# What uv, pip and npm say where no registry can be reached.
NO_NETWORK = re.compile(
    r"dns error|error sending request|failed to fetch|could not connect|connection (refused|error)"
    r"|network is unreachable|name resolution|getaddrinfo|ENOTFOUND|EAI_AGAIN|ECONNREFUSED"
    r"|no matching distribution|tunnel connection failed",
    re.IGNORECASE,
)
A_TIME = re.compile(r"\d{4}-\d{2}-\d{2}(T[\d:.]+Z)?")


class Clone:
    """The project in a folder of its own, with nothing that was set up here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.output: list[str] = []
        self.tried: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_run(self) -> None:
        """`make run`, until the service says that everything is in place."""
        # What this test run was started with is not a newcomer's.
        foreign = ("AWS_", "LOYALTY_", "MAKE", "MFLAGS", "PYTEST", "PYTHON", "VIRTUAL_ENV")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        process = self._process = subprocess.Popen(
            ["make", "run", f"PORT={self.port}"],  # noqa: S607 - found on PATH, as a newcomer's
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        watchdog = threading.Timer(SETUP_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.daemon = True
        watchdog.start()
        self.output = []
        assert process.stdout
        for line in process.stdout:
            self.output.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        else:
            process.stdout.close()
            said = "\n".join(self.output)
            if NO_NETWORK.search(said) and os.environ.get("CI") != "true":
                pytest.skip(f"no package registry can be reached from here:\n{said}")
            pytest.fail(f"`make run` ended with {process.wait()}:\n{said}")
        watchdog.cancel()

    def stop(self, how: signal.Signals) -> None:
        """End make, and wait until nothing of the service is left."""
        assert self._process
        assert self._process.stdout
        self._process.send_signal(how)
        with self._process.stdout as output:
            output.read()  # the service held the other end
        self._process.wait(30)

    def end(self) -> None:
        """End whatever still runs."""
        if self._process and self._process.poll() is None:
            self.stop(signal.SIGTERM)

    def shell(self, line: str) -> tuple[int, Any]:
        """Run a curl line as it is printed: the status, and the JSON that is answered."""
        result = subprocess.run(
            ["/bin/sh", "-c", f"{line} -w '\\n%{{http_code}}'"],
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said, _, status = result.stdout.rpartition("\n")
        # Where headers are shown too (-i), the body is what comes last.
        return int(status), json.loads(said.splitlines()[-1])

    def balances(self) -> list[Any]:
        header, _, token = (self.folder / ".local" / "authorization").read_text().partition(": ")
        answers = [
            httpx.get(
                f"{self.url}/v1/programs/demo/members/{member_id}/{what}",
                headers={header: token.strip()},
                timeout=30,
            )
            for member_id in MEMBERS
            for what in ("balance", "entries?limit=100")
        ]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.json() | {"as_of": ""} for answer in answers]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    for tool in ("git", "make", "curl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("clone") / "loyalty-points"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - found on PATH too
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no git repository, so nothing says what belongs to a clone")
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file():  # and not just removed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    clone = Clone(folder)
    clone.make_run()
    yield clone
    clone.end()


def curl_blocks(text: str) -> Iterator[tuple[str, Any]]:
    """The curl lines of a Markdown document, each with the answer that is shown right below it."""
    block = r"^```{}\n(.*?)^```\n"
    pattern = block.format("sh") + rf"(?:\n?{block.format('json')})?"
    for line, answer in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        if line.startswith("curl "):
            yield line.strip(), json.loads(answer) if answer else None


def undated(answer: Any) -> Any:
    """The answer with every date alike: what is shown was answered on another day."""
    return json.loads(A_TIME.sub("some day", json.dumps(answer)))


# The tests below are one story, in this order.


def test_nothing_but_the_project_is_needed(clone: Clone) -> None:
    assert clone.output[-1].startswith("Ctrl-C")
    assert f"Ready at {clone.url}" in clone.output
    assert (clone.folder / ".venv").is_dir()
    assert httpx.get(f"{clone.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(("name", "calls"), [("README.md", 5), ("docs/tour.md", 13)])
def test_the_calls_of_a_document_are_answered_as_it_shows(
    clone: Clone, name: str, calls: int
) -> None:
    shown = list(curl_blocks((clone.folder / name).read_text("utf-8")))
    assert len(shown) == calls
    answers = []
    for line, expected in shown:
        # As printed, but for the port: 8000 may be somebody else's here.
        status, answer = clone.shell(line.replace(f":{PRINTED_PORT}/", f":{clone.port}/"))
        assert status in (200, 201, 202), f"{line}\n{answer}"
        if expected is not None:
            assert undated(answer) == undated(expected), line
        answers.append(answer)
    assert sum(expected is not None for _, expected in shown) >= 3


def test_the_four_printed_lines_work_as_printed(clone: Clone) -> None:
    clone.tried = [line.strip() for line in clone.output if line.strip().startswith("curl ")]
    assert len(clone.tried) == 4
    before = clone.balances()[0]["available"]
    award, visit, redemption, balance = (clone.shell(line) for line in clone.tried)
    assert [each[0] for each in (award, visit, redemption, balance)] == [201, 201, 201, 200]
    assert award[1]["points"] == 32
    assert award[1]["balance"] == before + 32
    assert visit[1]["points"] == 10
    assert redemption[1]["points"] == 25
    assert balance[1]["available"] == redemption[1]["balance"] == before + 32 + 10 - 25


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_balances_are_the_same_after_a_restart(clone: Clone, how: signal.Signals) -> None:
    if how == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends the service with make")
    before = clone.balances()
    clone.stop(how)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{clone.url}/health")
    clone.make_run()
    assert clone.balances() == before
    # The lines that the first start printed are repeats by now, and change nothing.
    for line in clone.tried[:3]:
        assert clone.shell(line)[0] == 201
    assert clone.balances() == before
    assert not any("Setting up" in line for line in clone.output), "set-up is for the first time"
