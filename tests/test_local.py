"""`make run`: up with one command, and everything still there after it ended, however it ended."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Service

from tools.template import ROOT, Template

StartService = Callable[..., Service]

DEMO = "/v1/programs/demo"


def balance(service: Service) -> int:
    answer = service.http.get(f"{DEMO}/members/ada/balance", headers=service.headers("staff"))
    return int(answer.raise_for_status().json()["available"])


def curl_lines(service: Service) -> list[str]:
    return [line.strip() for line in service.output if line.strip().startswith("curl ")]


def test_the_four_printed_curl_lines_work_as_printed_and_repeating_them_changes_nothing(
    start_service: StartService, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    service = start_service()
    lines = curl_lines(service)
    assert len(lines) == 4
    first, again = (
        [
            subprocess.run(
                ["/bin/sh", "-c", f"{line} --fail-with-body"],
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for line in lines
        ]
        for _ in range(2)
    )
    assert first[:3] == again[:3]
    # 50 for joining, 32 for 32.50 euros, 10 for the visit, less 25.
    assert balance(service) == 67
    page = next(line for line in service.output if "/c/" in line and "curl" not in line)
    assert "Beans &amp; Co" in httpx.get(page.strip()).text


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_service_finds_its_data_and_its_tokens_again(
    start_service: StartService, how: signal.Signals
) -> None:
    service = start_service()
    award = {
        "event_id": "order-1",
        "type": "purchase",
        "member_id": "ada",
        "purchase": {
            "currency": "EUR",
            "lines": [{"line_id": "1", "quantity": 1, "amount": 1000}],
        },
    }
    headers = service.headers("merchant")
    first = service.http.post(f"{DEMO}/awards", json=award, headers=headers)
    assert (first.status_code, balance(service)) == (201, 60)
    secrets = (service.data / "secrets.json").read_bytes()
    port = int(service.url.rpartition(":")[2])

    status = service.stop(how)
    assert status == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    service = start_service(data=service.data, port=port)

    replay = service.http.post(f"{DEMO}/awards", json=award, headers=headers)
    assert replay.headers["idempotency-replayed"] == "true"
    assert replay.content == first.content
    assert balance(service) == 60
    assert (service.data / "secrets.json").read_bytes() == secrets
    versions = service.http.get(f"{DEMO}/program/versions", headers=headers).json()
    assert len(versions["items"]) == 1, "the demo program is published once"


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_local("--port", str(port), "--data", str(tmp_path))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"Port {port} is in use. Another one: make run PORT={port + 1}\n"


def test_two_services_never_share_their_data(start_service: StartService) -> None:
    service = start_service("--no-demo")
    result = run_local("--port", "0", "--data", str(service.data))
    assert result.returncode == 1
    assert result.stderr == f"Another service runs with the data in {service.data}.\n"


@pytest.mark.parametrize("port", ["eighty", "-1", "65536"])
def test_a_port_that_is_none_is_one_clear_line(tmp_path: Path, port: str) -> None:
    result = run_local("--data", str(tmp_path), variables={"PORT": port})
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("PORT is a number")


def test_what_handlers_write_goes_to_the_log_and_not_to_the_console(
    start_service: StartService,
) -> None:
    service = start_service()
    assert "_aws" in (service.data / "service.log").read_text()
    assert not any("_aws" in line for line in service.output)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_a_service_that_make_started_ends_with_make(tmp_path: Path) -> None:
    # A shell stands in for make: it is killed, and its child must not stay behind with the port.
    command = [sys.executable, "-m", "tools.local", "--port", "0", "--data", str(tmp_path)]
    script = f"{shlex.join(command)} --no-demo --with-parent; true"
    parent = subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    with parent.stdout as output:
        url = next(line for line in output if line.startswith("Ready at ")).split()[2]
        parent.kill()
        parent.wait()
        # The child held the other end of this pipe.
        output.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_person_scans_the_code_signs_in_comes_back_and_has_earned(
    start_service: StartService, browser: Any
) -> None:
    service = start_service()
    address = next(line for line in service.output if "/c/" in line and "curl" not in line).strip()
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("button").first.click()
    page.wait_for_url("**/dev/authorize?**")
    page.fill("input[name=member_id]", "ada")
    with page.expect_response("**/check-ins") as answer:
        page.get_by_role("button").click()
    assert answer.value.status == 201
    assert page.url == address
    page.close()
    assert balance(service) == 60


def test_the_routes_of_this_machine_are_absent_from_the_template(template: Template) -> None:
    assert template.routes
    assert not [route for route in template.routes if route.path.startswith("/dev")]


def test_each_route_of_the_template_is_served_and_asks_for_its_token(
    service: Service, template: Template
) -> None:
    for route in template.routes:
        answer = service.http.request(route.method, route.path.replace("{", "").replace("}", ""))
        if route.scopes is None:
            assert answer.status_code != 401, route.key
        else:
            assert answer.status_code == 401, route.key


def run_local(
    *arguments: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.local", *arguments],
        cwd=ROOT,
        env=environment() | (variables or {}),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def environment() -> dict[str, str]:
    """What `make run` starts the service with."""
    return os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}"}
