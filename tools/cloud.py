"""The real template, deployed by SAM to an emulator of AWS on this machine (`make cloud-test`).

The emulator is ministack, in an environment of its own, since it pins other versions of what we
use. It runs the built functions as processes under the credentials of their roles and lets them do
only what the template's policies say. What it cannot do of the template is made up for here: it
ignores the definition in an HTTP API, so the routes and the authorizer of the translated template
are put in through the API of API Gateway.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
from botocore.config import Config

from tools.engine import Tables, end_with_parent, free_port
from tools.template import ROOT, Template

BIN = ROOT / ".local" / "cloud" / "bin"
SAM = ROOT / ".local" / "sam" / "bin"
BUILT = ROOT / ".local" / "cloud" / "build"
STACK = "loyalty-dev"
REGION = "eu-west-1"
ACCOUNT = "000000000000"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}
START_SECONDS = 60
# A function's first call unpacks its layer; on a busy machine that takes a while.
PATIENCE_SECONDS = 120
DEPLOY_SECONDS = 300
REDIRECT = "http://localhost:8000/c/signed-in"
PASSWORD = "Correct horse 8 battery!"  # noqa: S105  # of a person who exists only in the emulator


class CloudError(Exception):
    """The emulator does not start or the template cannot be deployed; the text says why."""


class Cloud:
    """The built template, deployed: `with Cloud() as cloud: cloud.http.get("/health")`.

    `http` is an httpx client of the HTTP API without a token; `client("sqs")` a boto3 client of
    the account's owner; `log` is what the emulator said. Everything ends with the block.

    Raises CloudError.
    """

    def __enter__(self) -> Self:
        # Zips, layers and state of the emulator; short, because sockets may be made in it.
        self._folder = Path(tempfile.mkdtemp(prefix="cloud-"))
        self.log = self._folder / "log"
        self._clients = contextlib.ExitStack()
        try:
            self._start()
            self._deploy()
            self._mend_policies()
            self._route()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clients.close()
        # The whole group: the functions are children of the emulator.
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    # What was deployed

    @functools.cache  # noqa: B019  # a few clouds in the life of a process
    def client(self, service: str) -> Any:
        """A boto3 client of the emulator, as the owner of the account."""
        client = boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE_SECONDS),
        )
        self._clients.callback(client.close)
        return client

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The outputs of the stack."""
        [stack] = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    @cached_property
    def names(self) -> dict[str, str]:
        """What CloudFormation called each resource, by its logical id."""
        found = self.client("cloudformation").describe_stack_resources(StackName=STACK)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in found["StackResources"]
        }

    @cached_property
    def tables(self) -> Tables:
        """The three tables."""
        return Tables(
            accounts=self.outputs["AccountsTableName"],
            ledger=self.outputs["LedgerTableName"],
            records=self.outputs["RecordsTableName"],
        )

    # Tokens

    def machine_token(self, client: str) -> str:
        """An access token of a machine, from the user pool: of "ShopClient" or "OperatorClient"."""
        found = self.client("cognito-idp").describe_user_pool_client(
            UserPoolId=self.outputs["UserPoolId"], ClientId=self.names[client]
        )["UserPoolClient"]
        answer = httpx.post(
            f"{self.endpoint}/oauth2/token",
            auth=(found["ClientId"], found["ClientSecret"]),
            data={"grant_type": "client_credentials"},
            timeout=PATIENCE_SECONDS,
        )
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    def person_token(self, email: str, attributes: dict[str, str], group: str | None = None) -> str:
        """A new person's access token: signed in at the page's client by code with PKCE."""
        pool = {"UserPoolId": self.outputs["UserPoolId"], "Username": email}
        cognito = self.client("cognito-idp")
        cognito.admin_create_user(
            **pool,
            MessageAction="SUPPRESS",
            UserAttributes=[
                {"Name": name, "Value": value}
                for name, value in {"email": email, "email_verified": "true", **attributes}.items()
            ],
        )
        cognito.admin_set_user_password(**pool, Password=PASSWORD, Permanent=True)
        if group is not None:
            cognito.admin_add_user_to_group(**pool, GroupName=group)
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        wish = {
            "client_id": self.outputs["PageClientId"],
            "redirect_uri": REDIRECT,
            "scope": "openid loyalty/member",
            "response_type": "code",
            "state": "",
            "code_challenge": challenge.decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        form = {**wish, "username": email, "password": PASSWORD}
        redirected = httpx.post(f"{self.endpoint}/login", data=form, timeout=PATIENCE_SECONDS)
        [code] = parse_qs(urlsplit(redirected.headers["location"]).query)["code"]
        answer = httpx.post(
            f"{self.endpoint}/oauth2/token",
            data={
                "grant_type": "authorization_code",
                "client_id": wish["client_id"],
                "code": code,
                "code_verifier": verifier,
                "redirect_uri": REDIRECT,
            },
            timeout=PATIENCE_SECONDS,
        )
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    # Start

    def _start(self) -> None:
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [BIN / "ministack"],
                cwd=self._folder,
                env={
                    **_environment(),
                    "TMPDIR": str(self._folder),
                    "STATE_DIR": str(self._folder / "state"),
                    "S3_DATA_DIR": str(self._folder / "s3"),
                    "GATEWAY_PORT": str(port),
                    "BIND_HOST": "127.0.0.1",
                    "MINISTACK_REGION": REGION,
                    "MINISTACK_ACCOUNT_ID": ACCOUNT,
                    # The policies of the template are held against every call of a function.
                    "AUTH": "true",
                    "MINISTACK_COGNITO_PRETOKEN_STRICT": "1",
                    # Listeners of its own on all addresses.
                    "IOT_MTLS_ENABLED": "0",
                    "SFTP_ENABLED": "0",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(end_with_parent, os.getpid()),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CloudError(f"The emulator does not answer: {self._said()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.endpoint}/_ministack/health", timeout=1).is_success
        return False

    def _said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")[-2000:]

    def _deploy(self) -> None:
        done = subprocess.run(
            [
                *(SAM / "sam", "deploy", "--template-file", BUILT / "template.yaml"),
                *("--config-file", ROOT / "samconfig.toml", "--no-progressbar"),
            ],
            cwd=self._folder,
            env={**_environment(), "AWS_ENDPOINT_URL": self.endpoint, "SAM_CLI_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
            check=False,
        )
        if done.returncode:
            raise CloudError(f"sam deploy: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _mend_policies(self) -> None:
        """Write the functions' policies as the emulator understands them.

        It makes a secret's name of `!Ref` where CloudFormation makes its ARN, and holds the ARN
        against the policies; and it takes for an action of its own what IAM has under SendMessage.
        """
        iam, name = self.client("iam"), self.names["CodeSecret"]
        arn = self.client("secretsmanager").describe_secret(SecretId=name)["ARN"]
        for logical_id, role in self.names.items():
            if not logical_id.endswith("FunctionRole"):
                continue
            for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
                found = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
                text = json.dumps(found).replace(f'"{name}"', f'"{arn}"')
                text = text.replace('"sqs:SendMessage"', '"sqs:SendMessage*"')
                iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=text)

    # The HTTP API

    def _route(self) -> None:
        """Put the definition of the API, which the emulator has passed over, in its place."""
        translated = self.client("cloudformation").get_template(
            StackName=STACK, TemplateStage="Processed"
        )["TemplateBody"]
        document = json.loads(json.dumps(translated))
        fill = functools.partial(_filled, Template(document), self._values(document))
        definition = document["Resources"]["Api"]["Properties"]["Body"]
        gateway, api_id = self.client("apigatewayv2"), self.names["Api"]
        authorizers = {}
        for name, scheme in definition["components"]["securitySchemes"].items():
            settings = fill(scheme["x-amazon-apigateway-authorizer"])
            authorizers[name] = gateway.create_authorizer(
                ApiId=api_id,
                Name=name,
                AuthorizerType=settings["type"].upper(),
                IdentitySource=[settings["identitySource"]],
                JwtConfiguration={
                    "Issuer": settings["jwtConfiguration"]["issuer"],
                    "Audience": settings["jwtConfiguration"]["audience"],
                },
            )["AuthorizerId"]
        for path, operations in definition["paths"].items():
            for method, operation in operations.items():
                integration = fill(operation["x-amazon-apigateway-integration"])
                made = gateway.create_integration(
                    ApiId=api_id,
                    IntegrationType=integration["type"].upper(),
                    IntegrationMethod=integration["httpMethod"],
                    IntegrationUri=integration["uri"],
                    PayloadFormatVersion=integration["payloadFormatVersion"],
                )
                [(name, scopes)] = operation["security"][0].items()
                door = {"AuthorizationType": "NONE"} if name == "NONE" else {
                    "AuthorizationType": "JWT",
                    "AuthorizerId": authorizers[name],
                    "AuthorizationScopes": scopes,
                }  # fmt: skip
                gateway.create_route(
                    ApiId=api_id,
                    RouteKey=f"{method.upper()} {path}",
                    Target=f"integrations/{made['IntegrationId']}",
                    **door,
                )
        # The emulator's form of an API's address that needs no name to be resolved.
        address = f"{self.endpoint}/_aws/execute-api/{api_id}/$default"
        self.http = self._clients.enter_context(
            httpx.Client(base_url=address, timeout=PATIENCE_SECONDS)
        )

    def _values(self, document: dict[str, Any]) -> dict[str, str]:
        """What references of the template stand for."""
        arns = {
            f"{logical_id}.Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
            for logical_id, name in self.names.items()
            if document["Resources"][logical_id]["Type"] == "AWS::Lambda::Function"
        }
        pseudo = {"AWS::Region": REGION, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
        return {**self.names, **arns, **pseudo}


def _environment() -> dict[str, str]:
    """Of this process only what programs need: neither PYTHONPATH nor an account of somebody's may
    reach the functions."""
    needed = {name: os.environ[name] for name in ("HOME", "LANG", "TZ") if name in os.environ}
    return {**needed, **CREDENTIALS, "PATH": f"{SAM}:{os.environ['PATH']}"}


def _filled(template: Template, values: dict[str, str], value: Any) -> Any:
    """`value` with its references resolved and its conditions decided."""
    fill = functools.partial(_filled, template, values)
    match value:
        case {"Ref": str(name)}:
            return values[name]
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([^}]+)\}", lambda found: values[found[1]], text)
        case {"Fn::If": [str(condition), then, otherwise]}:
            return fill(then if template.holds(condition) else otherwise)
        case dict():
            return {name: fill(each) for name, each in value.items()}
        case list():
            return [fill(each) for each in value]
        case _:
            return value
