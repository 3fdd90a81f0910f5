"""The service connects to nobody but AWS, whatever addresses it is told."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.programs import shop
from tools.engine import Engine, Tables
from tools.inside import Inside
from tools.template import Template

ADDRESS = "https://127.0.0.1:9/logo.svg"
WORDS = {"name", "one", "other"}
"""Names of fields in which an address is as good as anything else."""


def addressed(value: Any) -> Any:
    """A program that is full of addresses."""
    match value:
        case dict():
            return {
                name: ADDRESS if name in WORDS and isinstance(part, str) else addressed(part)
                for name, part in value.items()
            }
        case list():
            return [addressed(part) for part in value]
    return value


@pytest.fixture
def asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every host that is looked up and every address that is connected to but the engine's, and
    none of them answers."""
    own = urlsplit(engine.endpoint)
    found: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def only_to_the_engine(self: socket.socket, address: Any) -> None:
        if address != (own.hostname, own.port):
            found.append(address)
            raise ConnectionRefusedError(address)
        connect(self, address)

    def only_of_the_engine(host: Any, *rest: Any, **more: Any) -> Any:
        if host != own.hostname:
            found.append(host)
            raise socket.gaierror(host)
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", only_to_the_engine)
    monkeypatch.setattr(socket.socket, "connect_ex", only_to_the_engine)
    monkeypatch.setattr(socket, "getaddrinfo", only_of_the_engine)
    return found


def test_no_address_that_is_told_is_connected_to(
    engine: Engine, new_tables: Callable[[], Tables], template: Template, asked: list[Any]
) -> None:
    document = addressed(shop())
    document["branding"] |= {"logo_url": ADDRESS, "card_image_url": ADDRESS}
    for rule in document["rules"]:
        rule["name"] = ADDRESS
    for reward in document["rewards"]:
        reward |= {"description": ADDRESS, "image_url": ADDRESS}
    base = f"/v1/programs/{document['program_id']}"
    place = f"{base}/locations/{document['locations'][0]['location_id']}"
    member = {"member_id": "ana", "name": ADDRESS}
    event = {
        "event_id": ADDRESS,
        "type": "review",
        "member_id": "ana",
        "channel": ADDRESS,
        "location_id": ADDRESS,
        "attributes": {ADDRESS: ADDRESS},
    }
    with Inside(engine.endpoint, new_tables(), template) as service:
        token = service.issuer.token(["admin"])

        def sent(method: str, path: str, body: Any = None) -> bytes:
            headers = [
                (b"authorization", f"Bearer {token}".encode()),
                (b"content-type", b"application/json"),
                (b"idempotency-key", ADDRESS.encode()),
                (b"referer", ADDRESS.encode()),
            ]
            content = b"" if body is None else json.dumps(body).encode()
            answer = service.send(method, path, headers, content)
            assert answer.status in (200, 201), (path, answer.content)
            return answer.content

        sent("PUT", f"{base}/program", document)
        sent("POST", f"{base}/members", member)
        sent("POST", f"{base}/awards", event)
        sent("POST", f"{base}/simulate", {"event": event, "program": document})
        code = json.loads(sent("GET", f"{place}/code"))["code"]
        page = sent("GET", f"/c/{code}")
        for path in ("poster.svg", "poster.png"):
            sent("GET", f"{place}/{path}")
        for path in ("program", "program/versions", "members/ana", "members/ana/rewards"):
            sent("GET", f"{base}/{path}")
    assert f'src="{ADDRESS}"'.encode() in page, "the browser is told where the logo is"
    assert asked == []
