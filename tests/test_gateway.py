"""The local gateway does around a handler what the cloud's does, no more and no less."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from tools import dev, meter
from tools.engine import Engine, create_tables
from tools.gateway import Gateway
from tools.issuer import Authorizer, Issuer
from tools.runtime import Runtime
from tools.template import Template
from tools.triggers import Bus, Queues, Stream, Sweep

TEMPLATE = """
Parameters:
  Origins: {Type: CommaDelimitedList, Default: "https://shop.example,https://till.example"}
Conditions:
  HasOrigins: !Not [!Equals [!Join ["", !Ref Origins], ""]]
Globals:
  Function: {Timeout: 7, MemorySize: 512}
Resources:
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      Auth:
        DefaultAuthorizer: Token
        Authorizers:
          Token: {AuthorizationScopes: [loyalty/admin]}
      CorsConfiguration:
        AllowOrigins: !If [HasOrigins, !Ref Origins, !Ref AWS::NoValue]
        AllowMethods: [GET, POST]
        AllowHeaders: [authorization]
        ExposeHeaders: [etag]
        MaxAge: 600
  EchoFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: echo.handler
      Events:
        Public: {Type: HttpApi, Properties: {Method: any, Path: "/open/{name}", Auth: {Authorizer: NONE}}}
        Fixed: {Type: HttpApi, Properties: {Method: GET, Path: /open/fixed, Auth: {Authorizer: NONE}}}
        Deep: {Type: HttpApi, Properties: {Method: GET, Path: "/open/{name}/deep", Auth: {Authorizer: NONE}}}
        Greedy: {Type: HttpApi, Properties: {Method: GET, Path: "/files/{rest+}", Auth: {Authorizer: NONE}}}
        Staff: {Type: HttpApi, Properties: {Method: POST, Path: /staff, Auth: {AuthorizationScopes: [loyalty/staff, loyalty/merchant]}}}
        Inherited: {Type: HttpApi, Properties: {Method: GET, Path: /inherited}}
        Empty: {Type: HttpApi, Properties: {Method: GET, Path: /empty, Auth: {AuthorizationScopes: []}}}
  AnswerFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: answer.handler
      MemorySize: 1024
      Events:
        Answer: {Type: HttpApi, Properties: {Method: POST, Path: /answer, Auth: {Authorizer: NONE}}}
  SweepFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: sweep.handler
      Events:
        Hourly: {Type: ScheduleV2, Properties: {Input: '{"at": "<aws.scheduler.scheduled-time>"}'}}
  SweepQueue:
    Type: AWS::SQS::Queue
    Properties: {RedrivePolicy: {maxReceiveCount: 3}}
  SweepMapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      EventSourceArn: !GetAtt SweepQueue.Arn
      FunctionName: !Ref SweepFunction
      BatchSize: 2
  LedgerTable:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      StreamSpecification: {StreamViewType: NEW_AND_OLD_IMAGES}
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: stream.handler}
  StreamMapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      EventSourceArn: !GetAtt [LedgerTable, StreamArn]
      FunctionName: !Ref StreamFunction
      BatchSize: 2
      MaximumRetryAttempts: 2
      FilterCriteria: {Filters: [{Pattern: '{"eventName": ["MODIFY", "REMOVE"]}'}]}
"""  # noqa: E501 - one line for one route reads better


class Stubs:
    """Handlers of the template above; a test puts its own function in the place of one."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any, Any], Any]] = {}

    def __call__(self, name: str) -> ModuleType:
        module = ModuleType(name)
        module.handler = self.handlers[name]  # type: ignore[attr-defined]
        return module


class Edge:
    """The module that tells the time, as far as the gateway needs it."""

    clock = staticmethod(lambda: datetime.now(UTC))


class Local:
    """A gateway that listens, and the parts that a test reaches for."""

    def __init__(self, folder: Path) -> None:
        path = folder / "template.yaml"
        path.write_text(TEMPLATE)
        self.template = Template.load(path)
        self.stubs = Stubs()
        self.runtime = Runtime(self.stubs)
        self.issuer = Issuer(folder / "key.pem", "http://127.0.0.1/dev")
        self.edge = Edge()
        self.queues = Queues(self.template)
        clock = dev.TestClock(self.edge)
        sweep = Sweep(self.template, self.runtime, self.queues, clock.now, "sweep")
        authorizer = Authorizer(self.issuer.url, self.issuer.jwks(), [self.issuer.client_id])
        gateway = Gateway(self.template, self.runtime, authorizer)
        routes = dev.routes(self.issuer, clock, sweep, self.queues, Bus(), ["ada", 'q"<b>'])
        app = Starlette(routes=[*routes, Mount("", app=gateway)])
        self.server = uvicorn.Server(
            uvicorn.Config(app, port=0, lifespan="off", log_config=None, server_header=False)
        )
        self.thread = threading.Thread(target=self.server.run)

    def token(self, *scopes: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(scopes)}"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(tmp_path_factory.mktemp("gateway"))
    local.thread.start()
    while not local.server.started:
        assert local.thread.is_alive()
    yield local
    local.server.should_exit = True
    local.thread.join()
    local.runtime.close()


@pytest.fixture
def http(local: Local) -> Iterator[httpx.Client]:
    local.stubs.handlers = {"echo": lambda event, _: event}
    local.edge.clock = Edge.clock
    port = local.server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def answer(local: Local, http: httpx.Client) -> Callable[[Any], httpx.Response]:
    """What a client gets when the handler answers so."""

    def give(value: Any) -> httpx.Response:
        local.stubs.handlers["answer"] = lambda *_: value
        return http.post("/answer")

    return give


# ── Events ────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_becomes_an_event_of_payload_format_2(http: httpx.Client) -> None:
    headers = [("X-Twice", "a"), ("X-Twice", "b"), ("Cookie", "a=1; b=2"), ("User-Agent", "test/1")]
    url = "/open/caf%C3%A9%20%26?q=1&q=2&empty=&s=a%20b+c"
    event = http.post(url, headers=headers, json={"a": 1}).json()
    context = event["requestContext"]
    assert event["version"] == "2.0"
    assert event["routeKey"] == context["routeKey"] == "ANY /open/{name}"
    assert event["rawPath"] == context["http"]["path"] == "/open/café &"
    assert event["pathParameters"] == {"name": "café &"}
    assert event["rawQueryString"] == "q=1&q=2&empty=&s=a%20b+c"
    assert event["queryStringParameters"] == {"q": "1,2", "empty": "", "s": "a b c"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-twice"] == "a,b"
    assert event["headers"]["content-type"] == "application/json"
    assert event["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert "cookie" not in event["headers"]
    assert json.loads(event["body"]) == {"a": 1}
    assert event["isBase64Encoded"] is False
    assert context["http"]["method"] == "POST"
    assert context["http"]["protocol"] == "HTTP/1.1"
    assert context["http"]["sourceIp"] == "127.0.0.1"
    assert context["http"]["userAgent"] == "test/1"
    assert context["domainName"] == "127.0.0.1"
    assert context["stage"] == "$default"
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])
    assert abs(context["timeEpoch"] / 1000 - datetime.now(UTC).timestamp()) < 60
    assert "authorizer" not in context


def test_what_a_request_does_not_have_is_absent_from_its_event(http: httpx.Client) -> None:
    event = http.get("/open/fixed").json()
    assert event["routeKey"] == "GET /open/fixed"
    assert event["rawQueryString"] == ""
    for name in ("body", "cookies", "queryStringParameters", "pathParameters"):
        assert name not in event
    assert event["isBase64Encoded"] is False


@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("application/json", b"{}", True),
        ("application/json; charset=utf-8", "é".encode(), True),
        ("text/csv", b"a,b", True),
        ("application/xml", b"<a/>", True),
        ("application/javascript", b"1", True),
        ("application/json", b"\xff\xfe", False),
        ("application/json; charset=iso-8859-1", b"{}", False),
        ("application/problem+json", b"{}", False),
        ("application/x-www-form-urlencoded", b"a=1", False),
        ("application/octet-stream", b"a", False),
        (None, b"{}", False),
    ],
)
def test_a_body_is_text_only_under_a_few_content_types(
    http: httpx.Client, content_type: str | None, body: bytes, is_text: bool
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    event = http.post("/open/x", content=body, headers=headers).json()
    assert event["isBase64Encoded"] is not is_text
    expected = body.decode() if is_text else base64.b64encode(body).decode()
    assert event["body"] == expected


@pytest.mark.parametrize(
    ("method", "path", "route_key", "parameters"),
    [
        ("GET", "/open/fixed", "GET /open/fixed", None),
        ("PUT", "/open/fixed", "ANY /open/{name}", {"name": "fixed"}),
        ("GET", "/open/a%2Fb", "ANY /open/{name}", {"name": "a/b"}),
        ("GET", "/open/a/deep", "GET /open/{name}/deep", {"name": "a"}),
        ("GET", "/files/a/b.txt", "GET /files/{rest+}", {"rest": "a/b.txt"}),
    ],
)
def test_the_most_specific_route_serves(
    http: httpx.Client, method: str, path: str, route_key: str, parameters: dict[str, str] | None
) -> None:
    event = http.request(method, path).json()
    assert event["routeKey"] == route_key
    assert event.get("pathParameters") == parameters


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("GET", "/open/"),
        ("GET", "/open/fixed/"),
        ("GET", "/open/a/b"),
        ("GET", "/files/"),
        ("POST", "/inherited"),
        ("OPTIONS", "/staff"),
        ("GET", "/dev/nothing"),
    ],
)
def test_any_other_route_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    response = http.request(method, path)
    assert (response.status_code, response.json()) == (404, {"message": "Not Found"})


def test_a_handler_is_told_about_its_invocation(local: Local, http: httpx.Client) -> None:
    seen = {}

    def handler(_: Any, context: Any) -> str:
        left = context.get_remaining_time_in_millis()
        seen[context.aws_request_id] = (context.function_name, context.memory_limit_in_mb, left)
        return "seen"

    local.stubs.handlers |= {"answer": handler, "echo": handler}
    http.post("/answer")
    http.get("/open/x")
    (name, memory, left), (_, other_memory, _) = seen.values()
    assert (name, memory, other_memory) == ("answer", 1024, 512)
    assert 6000 < left <= 7000


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_route_asks_for_a_token_unless_it_says_that_it_does_not(http: httpx.Client) -> None:
    for method, path in (("POST", "/staff"), ("GET", "/inherited"), ("GET", "/empty")):
        response = http.request(method, path)
        assert (response.status_code, response.json()) == (401, {"message": "Unauthorized"})
        assert response.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("method", "path", "scope", "status"),
    [
        ("POST", "/staff", "staff", 200),
        ("POST", "/staff", "merchant", 200),
        ("POST", "/staff", "admin", 403),
        ("GET", "/inherited", "admin", 200),
        ("GET", "/inherited", "staff", 403),
        ("GET", "/empty", "admin", 200),
        ("GET", "/empty", "member", 403),
    ],
)
def test_a_token_needs_one_of_the_routes_scopes(
    local: Local, http: httpx.Client, method: str, path: str, scope: str, status: int
) -> None:
    response = http.request(method, path, headers=local.token(scope))
    assert response.status_code == status
    if status == 403:
        assert response.json() == {"message": "Forbidden"}
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
    else:
        grant = response.json()["requestContext"]["authorizer"]["jwt"]
        assert grant["claims"]["scope"] == f"loyalty/{scope}"
        assert grant["scopes"] == [f"loyalty/{scope}"]


def test_a_refused_request_never_reaches_the_handler(local: Local, http: httpx.Client) -> None:
    def handler(*_: Any) -> None:
        pytest.fail("the handler was invoked")

    local.stubs.handlers["echo"] = handler
    assert http.post("/staff", headers=local.token("member")).status_code == 403
    assert http.post("/staff", headers={"Authorization": "Bearer x"}).status_code == 401


def test_a_browser_may_call_from_the_origins_of_the_template_only(http: httpx.Client) -> None:
    ask = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    preflight = http.options("/staff", headers=ask)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert preflight.headers["access-control-allow-methods"] == "GET,POST"
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    assert preflight.headers["access-control-max-age"] == "600"
    response = http.get("/open/x", headers={"Origin": "https://till.example"})
    assert response.headers["access-control-allow-origin"] == "https://till.example"
    assert response.headers["access-control-expose-headers"] == "etag"
    other = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for refused in (http.options("/staff", headers=other), http.get("/open/x", headers=other)):
        assert "access-control-allow-origin" not in refused.headers


def test_a_body_beyond_ten_megabytes_is_not_taken(http: httpx.Client) -> None:
    large = b"x" * (10 * 1024 * 1024 + 1)
    assert http.post("/open/x", content=large).status_code == 413
    assert http.post("/open/x", content=iter([large])).status_code == 413


def test_an_event_beyond_what_lambda_takes_is_refused(http: httpx.Client) -> None:
    text = {"Content-Type": "text/plain"}
    large = b"x" * (6 * 1024 * 1024)
    assert http.post("/open/x", content=large + b"x", headers=text).status_code == 413
    # In base64 the same bytes are a third more.
    assert http.post("/open/x", content=large).status_code == 413


# ── Answers ───────────────────────────────────────────────────────────────────────────────────────


def test_a_handlers_answer_is_the_clients(answer: Callable[[Any], httpx.Response]) -> None:
    response = answer(
        {
            "statusCode": 201,
            "headers": {"Content-Type": "application/json", "X-Count": 3, "ETag": '"1"'},
            "cookies": ["a=1; HttpOnly", "b=2"],
            "body": '{"é": 1}',
        }
    )
    assert response.status_code == 201
    assert response.json() == {"é": 1}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-count"] == "3"
    assert response.headers["etag"] == '"1"'
    assert response.headers.get_list("set-cookie") == ["a=1; HttpOnly", "b=2"]
    assert response.headers["apigw-requestid"]


def test_an_answer_without_a_status_is_the_body_of_a_200(
    answer: Callable[[Any], httpx.Response],
) -> None:
    response = answer({"points": 5})
    assert (response.status_code, response.json()) == (200, {"points": 5})
    assert response.headers["content-type"] == "application/json"
    assert answer("hello").text == "hello"
    assert answer(None).json() is None


def test_binary_answers_come_in_base64(answer: Callable[[Any], httpx.Response]) -> None:
    png = b"\x89PNG\x00\xff"
    response = answer(
        {
            "statusCode": 200,
            "headers": {"content-type": "image/png"},
            "body": base64.b64encode(png).decode(),
            "isBase64Encoded": True,
        }
    )
    assert response.content == png
    assert response.headers["content-type"] == "image/png"


def test_an_answer_without_a_type_is_plain_text(answer: Callable[[Any], httpx.Response]) -> None:
    assert answer({"statusCode": 200, "body": "x"}).headers["content-type"].startswith("text/plain")
    empty = answer({"statusCode": 204, "body": "never sent"})
    assert (empty.status_code, empty.content) == (204, b"")


@pytest.mark.parametrize(
    "value",
    [
        {"statusCode": "many"},
        {"statusCode": 99},
        {"statusCode": None},
        {"statusCode": 200, "body": "not base64!", "isBase64Encoded": True},
        {"statusCode": 200, "headers": {"x": "a\r\nset-cookie: b"}},
        {"statusCode": 200, "headers": ["x"]},
        {"statusCode": 200, "body": "x" * (6 * 1024 * 1024)},
        {"statusCode": 200, "body": '"' * (3 * 1024 * 1024)},
        {1, 2},
    ],
    ids=range(9),
)
def test_an_answer_that_is_none_is_an_internal_error(
    answer: Callable[[Any], httpx.Response], value: Any
) -> None:
    response = answer(value)
    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})


def test_a_handler_that_fails_is_an_internal_error_and_the_next_one_is_served(
    local: Local, http: httpx.Client
) -> None:
    def handler(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    local.stubs.handlers["echo"] = handler
    response = http.get("/open/x")
    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})
    assert "fault" not in response.text
    local.stubs.handlers["echo"] = lambda *_: "well"
    assert http.get("/open/x").text == "well"


def test_requests_are_served_at_the_same_time(local: Local, http: httpx.Client) -> None:
    all_here = threading.Barrier(16, timeout=20)
    local.stubs.handlers["echo"] = lambda event, _: [all_here.wait(), event["rawPath"]][1]
    paths = [f"/open/{number}" for number in range(16)]
    answers: dict[str, str] = {}

    def get(path: str) -> None:
        answers[path] = http.get(path, timeout=30).text

    threads = [threading.Thread(target=get, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {path: path for path in paths}


def test_an_answer_says_what_the_request_consumed(
    local: Local, http: httpx.Client, engine: Engine
) -> None:
    client = engine.client()
    meter.attach(client)
    name = f"loyalty-meter-{id(client)}"
    client.create_table(TableName=name, **local.template.tables()["LedgerTable"])

    def handler(*_: Any) -> str:
        put = {"Put": {"TableName": name, "Item": {"pk": {"S": "a"}}}}
        client.transact_write_items(TransactItems=[put], ReturnConsumedCapacity="TOTAL")
        key = {"pk": {"S": "a"}}
        client.get_item(TableName=name, Key=key, ReturnConsumedCapacity="TOTAL")
        return "done"

    local.stubs.handlers["echo"] = handler
    headers = http.get("/open/x").headers
    assert (headers["loyalty-read-units"], headers["loyalty-write-units"]) == ("0.5", "2")
    local.stubs.handlers["echo"] = lambda *_: "nothing"
    headers = http.get("/open/x").headers
    assert (headers["loyalty-read-units"], headers["loyalty-write-units"]) == ("0", "0")


# ── Routes of this machine ────────────────────────────────────────────────────────────────────────


def test_a_token_of_dev_tokens_opens_doors(http: httpx.Client) -> None:
    wish = {"scope": "staff member", "member_id": "ada", "program_ids": ["beans", "tea"]}
    answer = http.post("/dev/tokens", json=wish)
    token = answer.json()
    assert (answer.status_code, token["token_type"], token["expires_in"]) == (200, "Bearer", 86400)
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    event = http.post("/staff", headers=headers).json()
    claims = event["requestContext"]["authorizer"]["jwt"]["claims"]
    assert claims["scope"] == "loyalty/staff loyalty/member"
    assert (claims["member_id"], claims["program_ids"]) == ("ada", "beans tea")


def test_a_shell_gets_the_bare_token(http: httpx.Client) -> None:
    response = http.post("/dev/tokens", json={"scope": "admin"}, headers={"Accept": "text/plain"})
    headers = {"Authorization": f"Bearer {response.text}"}
    assert http.get("/inherited", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/dev/tokens", b"", 400),
        ("/dev/tokens", b"\xff", 400),
        ("/dev/tokens", b"[" * 100_000, 413),
        ("/dev/tokens", b"[" * 60_000, 400),
        ("/dev/tokens", b'{"scope": "admin", "scope": "staff"}', 400),
        ("/dev/tokens", b"[]", 422),
        ("/dev/tokens", b"{}", 422),
        ("/dev/tokens", b'{"scope": "staff", "subject": "a b"}', 422),
        ("/dev/tokens", b'{"scope": 1}', 422),
        ("/dev/tokens", b'{"scope": " "}', 422),
        ("/dev/tokens", b'{"scope": "king"}', 422),
        ("/dev/tokens", b'{"scope": "member", "member_id": "a b"}', 422),
        ("/dev/tokens", b'{"scope": "member", "member_id": ""}', 422),
        ("/dev/tokens", b'{"scope": "admin", "program_ids": "beans"}', 422),
        ("/dev/tokens", b'{"scope": "admin", "program_ids": []}', 422),
        ("/dev/tokens", b'{"scope": "admin", "program_ids": ["A"]}', 422),
        ("/dev/tokens", b'{"scope": "admin", "more": 1}', 422),
        ("/dev/clock", b"{}", 422),
        ("/dev/clock", b'{"now": 5}', 422),
        ("/dev/clock", b'{"now": "tomorrow"}', 422),
        ("/dev/clock", b'{"now": "2026-01-01"}', 422),
        ("/dev/clock", b'{"now": "2026-01-01T12:00:00"}', 422),
        ("/dev/clock", b'{"now": "2026-02-30T12:00:00Z"}', 422),
        ("/dev/clock", b'{"now": "0001-01-01T00:00:00+05:00"}', 422),
        ("/dev/clock", b'{"now": "9999-12-31T23:59:59-05:00"}', 422),
    ],
)
def test_bad_input_to_dev_routes_is_refused_with_a_problem(
    http: httpx.Client, path: str, body: bytes, status: int
) -> None:
    response = http.post(path, content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["code"]
    assert http.get("/dev/clock").json()["real"] is True


def test_the_clock_stands_still_where_it_is_set(local: Local, http: httpx.Client) -> None:
    assert http.get("/dev/clock").json()["real"] is True
    answer = http.post("/dev/clock", json={"now": "1997-01-02T00:30:00+01:00"}).json()
    assert answer == {"now": "1997-01-01T23:30:00Z", "real": False}
    assert local.edge.clock() == datetime(1997, 1, 1, 23, 30, tzinfo=UTC)
    assert http.get("/dev/clock").json() == answer
    assert http.post("/dev/clock", json={"now": None}).json()["real"] is True
    assert abs((local.edge.clock() - datetime.now(UTC)).total_seconds()) < 60


def test_a_sweep_runs_the_schedule_and_then_all_that_it_queued(
    local: Local, http: httpx.Client
) -> None:
    url = f"{http.base_url}/dev/sqs"
    sqs = boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    seen: list[str] = []
    scheduled: list[Any] = []

    def handler(event: Any, _: Any) -> Any:
        if "Records" not in event:
            scheduled.append(event)
            entries = [{"Id": each, "MessageBody": each} for each in "ab"]
            sqs.send_message_batch(QueueUrl=f"{url}/SweepQueue", Entries=entries)
            for body in ("again", "never"):
                sqs.send_message(QueueUrl=f"{url}/SweepQueue", MessageBody=body)
            return None
        failed = []
        for record in event["Records"]:
            body, count = record["body"], record["attributes"]["ApproximateReceiveCount"]
            seen.append(body)
            if body == "a":
                sqs.send_message(QueueUrl=f"{url}/SweepQueue", MessageBody="continued")
            if body == "never" or (body == "again" and count == "1"):
                failed.append({"itemIdentifier": record["messageId"]})
        return {"batchItemFailures": failed}

    local.stubs.handlers["sweep"] = handler
    http.post("/dev/clock", json={"now": "1998-06-30T12:00:00Z"})
    answer = http.post("/dev/sweep")
    http.post("/dev/clock", json={"now": None})
    assert scheduled == [{"at": "1998-06-30T12:00:00Z"}]
    assert answer.json() == {"messages": 4, "retried": 3, "dead": 1}
    assert sorted(seen) == ["a", "again", "again", "b", "continued", "never", "never", "never"]


def test_a_batch_that_fails_comes_again_until_it_is_given_up(
    local: Local, http: httpx.Client
) -> None:
    sizes: list[int] = []

    def handler(event: Any, _: Any) -> None:
        if "Records" in event:
            sizes.append(len(event["Records"]))
            raise RuntimeError("not today")
        for body in "abc":
            local.queues.put("SweepQueue", body)

    local.stubs.handlers["sweep"] = handler
    assert http.post("/dev/sweep").json() == {"messages": 0, "retried": 6, "dead": 3}
    assert sum(sizes) == 9


def test_a_sweep_that_fails_says_so(local: Local, http: httpx.Client) -> None:
    def handler(*_: Any) -> None:
        raise RuntimeError("not today")

    local.stubs.handlers["sweep"] = handler
    response = http.post("/dev/sweep")
    assert (response.status_code, response.json()["code"]) == (500, "sweep_failed")


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("AmazonSQS.SendMessage", b'{"QueueUrl": "x/Other", "MessageBody": "a"}'),
        ("AmazonSQS.SendMessage", b'{"QueueUrl": "x/SweepQueue", "MessageBody": 1}'),
        ("AmazonSQS.SendMessage", b'{"QueueUrl": "x/SweepQueue"}'),
        ("AmazonSQS.SendMessage", b"[]"),
        ("AmazonSQS.SendMessage", b"\xff"),
        ("AmazonSQS.PurgeQueue", b'{"QueueUrl": "x/SweepQueue"}'),
    ],
)
def test_the_queue_refuses_what_it_does_not_know(
    http: httpx.Client, target: str, body: bytes
) -> None:
    response = http.post("/dev/sqs/SweepQueue", content=body, headers={"X-Amz-Target": target})
    assert response.status_code == 400
    assert response.json()["__type"].startswith("com.amazonaws.sqs#")


# ── Sign-in ───────────────────────────────────────────────────────────────────────────────────────

VERIFIER = "v" * 43
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


@pytest.fixture
def wish(http: httpx.Client) -> dict[str, str]:
    """What the check-in page asks the issuer for."""
    return {
        "response_type": "code",
        "client_id": "local-page",
        "redirect_uri": f"{http.base_url}/c/signed-in",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "scope": "openid loyalty/member",
        "state": 'back/to?"<script>',
    }


def test_a_person_signs_in_and_comes_back_with_a_code(
    http: httpx.Client, wish: dict[str, str]
) -> None:
    page = http.get("/dev/authorize", params=wish)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert 'q"<b>' not in page.text
    assert 'value="back/to?&quot;&lt;script&gt;"' in page.text

    back = http.post("/dev/authorize", data={**wish, "member_id": "ada"})
    assert back.status_code == 303
    address = urlsplit(back.headers["location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == wish["redirect_uri"]
    query = parse_qs(address.query)
    assert query["state"] == [wish["state"]]

    form = {
        "grant_type": "authorization_code",
        "code": query["code"][0],
        "code_verifier": VERIFIER,
        "redirect_uri": wish["redirect_uri"],
        "client_id": wish["client_id"],
    }
    answer = http.post("/dev/token", data=form)
    assert (answer.status_code, answer.json()["token_type"]) == (200, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    again = http.post("/dev/token", data=form)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"redirect_uri": "https://evil.example/c/signed-in"}, "invalid_redirect_uri"),
        ({"redirect_uri": "//evil.example/c/signed-in"}, "invalid_redirect_uri"),
        ({"redirect_uri": "/c/signed-in"}, "invalid_redirect_uri"),
        ({"redirect_uri": None}, "invalid_redirect_uri"),
        ({"client_id": "other"}, "invalid_client"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "pkce_required"),
        ({"code_challenge": "short"}, "pkce_required"),
        ({"code_challenge_method": "plain"}, "pkce_required"),
        ({"code_challenge_method": None}, "pkce_required"),
        ({"state": "x" * 3000}, "invalid_state"),
    ],
)
def test_a_sign_in_that_does_not_fit_is_refused_where_it_stands(
    http: httpx.Client, wish: dict[str, str], change: dict[str, str | None], code: str
) -> None:
    asked = {name: value for name, value in (wish | change).items() if value is not None}
    for response in (
        http.get("/dev/authorize", params=asked),
        http.post("/dev/authorize", data={**asked, "member_id": "ada"}),
    ):
        assert (response.status_code, response.json()["code"]) == (400, code)
        assert "location" not in response.headers


@pytest.mark.parametrize("member_id", ["", "a b", "<b>", "x" * 65])
def test_only_a_member_id_signs_in(
    http: httpx.Client, wish: dict[str, str], member_id: str
) -> None:
    response = http.post("/dev/authorize", data={**wish, "member_id": member_id})
    assert response.status_code == 422


@pytest.mark.parametrize("body", [b"", b"\xff", b"grant_type=password", b"a=1&a=2", b"a&" * 99])
def test_the_token_endpoint_refuses_other_grants(http: httpx.Client, body: bytes) -> None:
    assert http.post("/dev/token", content=body).status_code == 400


def test_the_issuer_can_be_discovered(local: Local, http: httpx.Client) -> None:
    document = http.get("/dev/.well-known/openid-configuration").json()
    assert document["issuer"] == local.issuer.url
    assert document["code_challenge_methods_supported"] == ["S256"]
    keys = http.get("/dev/.well-known/jwks.json").json()
    assert keys == local.issuer.jwks()
    assert set(keys["keys"][0]) == {"kty", "n", "e", "kid", "alg", "use"}


# ── The stream ────────────────────────────────────────────────────────────────────────────────────


def test_the_stream_brings_what_its_filter_lets_pass_and_goes_on_where_it_was(
    local: Local, engine: Engine, tmp_path: Path
) -> None:
    client = engine.client()
    name = f"loyalty-stream-{id(client)}"
    client.create_table(TableName=name, **local.template.tables()["LedgerTable"])
    seen: list[tuple[str, Any]] = []
    fail_once = [True]

    def handler(event: Any, _: Any) -> None:
        assert len(event["Records"]) <= 2
        if fail_once.pop() if fail_once else False:
            raise RuntimeError("not today")
        for record in event["Records"]:
            assert record["eventSource"] == "aws:dynamodb"
            seen.append((record["eventName"], record["dynamodb"]["OldImage"]["data"]))

    local.stubs.handlers["stream"] = handler

    def deliver() -> None:
        stream = Stream(
            local.template,
            local.runtime,
            engine.endpoint,
            {"LedgerTable": name},
            tmp_path / "stream.json",
        )
        stream.start()
        stream.stop()

    for key in "abc":
        client.put_item(TableName=name, Item={"pk": {"S": key}, "data": {"B": b"\x00\xff"}})
    for key in "abc":
        client.put_item(TableName=name, Item={"pk": {"S": key}, "data": {"S": key}})
    client.delete_item(TableName=name, Key={"pk": {"S": "b"}})
    deliver()
    assert seen == [("MODIFY", {"B": "AP8="})] * 3 + [("REMOVE", {"S": "b"})]
    deliver()
    assert len(seen) == 4
    client.delete_item(TableName=name, Key={"pk": {"S": "a"}})
    deliver()
    assert seen[4:] == [("REMOVE", {"S": "a"})]


# ── The engine ────────────────────────────────────────────────────────────────────────────────────


def test_tables_come_from_the_template_and_existing_ones_stay(engine: Engine) -> None:
    client = engine.client()
    for _ in range(2):
        names = create_tables(engine.endpoint, "loyalty-here", stream=True)
        client.put_item(TableName=names.accounts, Item={"pk": {"S": "a"}})
    ledger = client.describe_table(TableName=names.ledger)["Table"]
    assert [each["AttributeName"] for each in ledger["KeySchema"]] == ["pk", "sk"]
    assert ledger["GlobalSecondaryIndexes"][0]["IndexName"] == "history"
    assert ledger["StreamSpecification"]["StreamViewType"] == "NEW_AND_OLD_IMAGES"


def test_an_engine_with_a_file_survives_being_killed(tmp_path: Path) -> None:
    path = tmp_path / "loyalty.db"
    with Engine(path) as engine:
        names = create_tables(engine.endpoint, "loyalty")
        engine.client().put_item(TableName=names.accounts, Item={"pk": {"S": "a"}})
        engine.kill()
    with Engine(path) as engine:
        key = {"pk": {"S": "a"}}
        assert "Item" in engine.client().get_item(TableName=names.accounts, Key=key)
