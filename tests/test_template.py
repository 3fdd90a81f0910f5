"""What the template promises: least privilege, an append-only ledger, doors, alarms, backups."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from conftest import missing

from loyalty import edge
from tests import workers
from tests.programs import shop
from tests.workers import Call
from tools.engine import Engine, Tables
from tools.template import ROOT, Template

BASE = "/v1/programs/{program_id}"
ADMIN = {"loyalty/admin"}
SHOP = {"loyalty/admin", "loyalty/staff", "loyalty/merchant"}
ANYONE = SHOP | {"loyalty/member"}
STAFF = {"loyalty/admin", "loyalty/staff"}
OWN = STAFF | {"loyalty/member"}

# function module → route → scopes of which one is enough; None: open to everyone.
ROUTES: dict[str, dict[str, set[str] | None]] = {
    "simulate": {f"POST {BASE}/simulate": SHOP},
    "award": {
        f"POST {BASE}/awards": SHOP,
        f"POST {BASE}/reversals": SHOP,
    },
    "redeem": {
        f"POST {BASE}/redemptions": ANYONE,
        f"POST {BASE}/redemptions/{{redemption_id}}/capture": SHOP,
        f"POST {BASE}/redemptions/{{redemption_id}}/cancel": SHOP,
    },
    "vouchers": {
        f"GET {BASE}/vouchers/{{code}}": SHOP,
        f"POST {BASE}/vouchers/{{code}}/use": SHOP,
    },
    "transfer": {f"POST {BASE}/transfers": ANYONE},
    "staff": {
        f"POST {BASE}/adjustments": STAFF,
        f"GET {BASE}/adjustments": STAFF,
        f"POST {BASE}/adjustments/{{adjustment_id}}/approve": STAFF,
        f"POST {BASE}/adjustments/{{adjustment_id}}/refuse": STAFF,
        f"POST {BASE}/members/{{member_id}}/merge": STAFF,
        f"POST {BASE}/members/{{member_id}}/block": STAFF,
        f"POST {BASE}/members/{{member_id}}/unblock": STAFF,
        f"POST {BASE}/members/{{member_id}}/close": STAFF,
        f"POST {BASE}/members/{{member_id}}/tier": STAFF,
    },
    "check_in": {f"POST {BASE}/check-ins": ANYONE},
    "pages": {
        "GET /c/{code}": None,
        f"GET {BASE}/locations/{{location_id}}/code": SHOP,
        f"GET {BASE}/locations/{{location_id}}/poster.svg": SHOP,
        f"GET {BASE}/locations/{{location_id}}/poster.png": SHOP,
    },
    "balance": {
        f"GET {BASE}/members/{{member_id}}/balance": ANYONE,
        f"GET {BASE}/members/{{member_id}}/entries": ANYONE,
        f"GET {BASE}/members/{{member_id}}/rewards": ANYONE,
    },
    "members": {
        f"POST {BASE}/members": SHOP,
        f"GET {BASE}/members/{{member_id}}": ANYONE,
        f"PATCH {BASE}/members/{{member_id}}": ANYONE,
        f"DELETE {BASE}/members/{{member_id}}": OWN,
        f"GET {BASE}/members/{{member_id}}/export": OWN,
    },
    "admin": {
        f"PUT {BASE}/program": ADMIN,
        f"GET {BASE}/program": ANYONE,
        f"GET {BASE}/program/versions": ANYONE,
        f"GET {BASE}/analytics/verify": STAFF,
        "GET /health": None,
        "GET /openapi.json": None,
        "GET /program.schema.json": None,
    },
}
WITHOUT_ROUTES = {"expire", "verify", "stream", "publish", "pre_token"}

READ_ACCOUNTS = {"GetItem AccountsTable"}
READ_LEDGER = {
    f"{action} LedgerTable{of}" for action in ("GetItem", "Query") for of in ("", "/index/history")
}
READ_RECORDS = {"GetItem RecordsTable", "Query RecordsTable"}
READ = READ_ACCOUNTS | READ_LEDGER | READ_RECORDS
COMMIT = {"PutItem AccountsTable in a transaction", "PutItem LedgerTable in a transaction"}
DRAW = {f"{action} RecordsTable in a transaction" for action in ("PutItem", "UpdateItem")}
REMOVE = {"DeleteItem RecordsTable in a transaction"}
# function module → everything that it may do with the tables.
ACCESS: dict[str, set[str]] = {
    "award": READ | COMMIT | DRAW,
    "simulate": READ_ACCOUNTS | READ_RECORDS | {"Query LedgerTable/index/history"},
    "redeem": READ | COMMIT | DRAW,
    "vouchers": READ_RECORDS
    | {"PutItem RecordsTable of *#voucher#*", "UpdateItem RecordsTable of *#misses#*"},
    "transfer": READ | COMMIT | DRAW,
    "staff": READ | COMMIT | DRAW | REMOVE | {"ConditionCheckItem AccountsTable in a transaction"},
    "check_in": READ | COMMIT | DRAW,
    "pages": READ_RECORDS,
    "balance": READ,
    "members": READ | COMMIT | DRAW | REMOVE | {"PutItem RecordsTable of *#member#*"},
    "admin": READ_RECORDS | {"PutItem RecordsTable of *#program and #sweep"},
    "expire": READ | COMMIT | DRAW | {"Scan AccountsTable", "PutItem RecordsTable of #sweep"},
    "verify": READ_RECORDS
    | {
        "Scan AccountsTable",
        "BatchGetItem AccountsTable",
        "Scan LedgerTable",
        "Query LedgerTable",
        "BatchGetItem LedgerTable",
        "Scan LedgerTable/index/history",
        "Query LedgerTable/index/history",
        "BatchGetItem RecordsTable",
        "PutItem RecordsTable of #verification and *#verification",
    },
    "stream": {
        f"{action} LedgerTable.StreamArn"
        for action in ("DescribeStream", "GetRecords", "GetShardIterator")
    },
    "publish": {
        f"{action} LedgerTable.StreamArn"
        for action in ("DescribeStream", "GetRecords", "GetShardIterator")
    },
    "pre_token": set(),
}
READS_SECRET = {"award", "redeem", "check_in", "pages", "verify"}

MODULES = sorted(ACCESS)
TABLES = ["AccountsTable", "LedgerTable", "RecordsTable"]


# ── Reading the template ──


def resources(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    return {
        logical_id: resource.get("Properties", {})
        for logical_id, resource in template.document["Resources"].items()
        if resource["Type"] == kind
    }


def resource(template: Template, logical_id: str) -> dict[str, Any]:
    properties: dict[str, Any] = template.document["Resources"][logical_id]["Properties"]
    return properties


def logical_id_of(template: Template, module: str) -> str:
    [logical_id] = [
        each.logical_id for each in template.functions.values() if each.module == module
    ]
    return logical_id


def function(template: Template, module: str) -> dict[str, Any]:
    return resource(template, logical_id_of(template, module))


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(template: Template, module: str) -> list[dict[str, Any]]:
    """The statements of a function's role that stand in the template."""
    return [
        statement
        for policy in function(template, module).get("Policies", [])
        for statement in policy["Statement"]
    ]


def target(arn: dict[str, str]) -> str:
    """A resource of a statement, as in ACCESS."""
    [(how, value)] = arn.items()
    if how == "Fn::Sub":
        value = value.replace("${", "").replace("}", "")
    return value.replace(".Arn", "")


def table_access(template: Template, module: str) -> set[str]:
    """As in ACCESS."""
    access = set()
    for statement in statements(template, module):
        condition, where = statement.get("Condition"), ""
        match condition:
            case None:
                pass
            case {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [partition]}}:
                where = f" of {partition}"
            case {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": partitions}}:
                where = f" of {' and '.join(partitions)}"
            case _:
                in_transaction = {"dynamodb:EnclosingOperation": "TransactWriteItems"}
                # As the guide of DynamoDB has it: the operation comes as a list of values.
                assert condition == {"ForAnyValue:StringEquals": in_transaction}
                where = " in a transaction"
        for action in listed(statement["Action"]):
            service, _, name = action.partition(":")
            if service == "dynamodb":
                access |= {f"{name} {target(arn)}{where}" for arn in listed(statement["Resource"])}
    return access


def environment(template: Template, module: str) -> dict[str, Any]:
    common = template.document["Globals"]["Function"]["Environment"]["Variables"]
    return {**common, **function(template, module).get("Environment", {}).get("Variables", {})}


# ── Tables ──


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_on_demand_backed_up_encrypted_and_hard_to_lose(
    template: Template, table: str
) -> None:
    safe(template.document["Resources"][table])


def safe(table: dict[str, Any]) -> None:
    properties = table["Properties"]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"]["SSEEnabled"] is True
    assert properties["DeletionProtectionEnabled"] is True
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"


def test_there_are_three_tables_with_names_from_the_stack(template: Template) -> None:
    tables = resources(template, "AWS::DynamoDB::Table")
    assert sorted(tables) == TABLES
    assert not any("TableName" in properties for properties in tables.values())


def test_the_ledger_has_its_history_and_its_stream(template: Template) -> None:
    ledger = resource(template, "LedgerTable")
    [index] = ledger["GlobalSecondaryIndexes"]
    assert index["IndexName"] == "history"
    assert [key["AttributeName"] for key in index["KeySchema"]] == ["m", "n"]
    assert index["Projection"]["NonKeyAttributes"] == list("kpborvwcx")
    assert ledger["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


def test_time_deletes_nothing_from_accounts_and_ledger(template: Template) -> None:
    assert "TimeToLiveSpecification" not in resource(template, "AccountsTable")
    assert "TimeToLiveSpecification" not in resource(template, "LedgerTable")


def test_the_ledger_itself_refuses_changes_by_whomever(template: Template) -> None:
    [statement] = resource(template, "LedgerTable")["ResourcePolicy"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert "Condition" not in statement
    assert {action.removeprefix("dynamodb:") for action in statement["Action"]} == {
        "UpdateItem",
        "DeleteItem",
        "BatchWriteItem",
        "PartiQLUpdate",
        "PartiQLDelete",
    }


def test_the_secret_outlives_the_stack_and_is_drawn_as_version_1(template: Template) -> None:
    whole = template.document["Resources"]["CodeSecret"]
    assert whole["DeletionPolicy"] == whole["UpdateReplacePolicy"] == "Retain"
    drawn = whole["Properties"]["GenerateSecretString"]
    assert (drawn["SecretStringTemplate"], drawn["GenerateStringKey"]) == ("{}", "1")
    assert drawn["PasswordLength"] >= 32


# ── Functions and what they may do ──


def test_the_functions_are_those_of_the_contract(template: Template) -> None:
    assert sorted(each.module for each in template.functions.values()) == MODULES
    assert set(MODULES) == set(ROUTES) | WITHOUT_ROUTES
    assert {each.attribute for each in template.functions.values()} == {"handler"}


def test_all_functions_run_python_on_arm_with_tracing_and_json_logs(template: Template) -> None:
    common = template.document["Globals"]["Function"]
    assert (common["Runtime"], common["Architectures"]) == ("python3.13", ["arm64"])
    assert (common["CodeUri"], common["Tracing"]) == ("functions", "Active")
    assert common["LoggingConfig"]["LogFormat"] == "JSON"
    layer = resource(template, "LoyaltyLayer")
    assert layer["ContentUri"] == "shared"
    assert layer["CompatibleArchitectures"] == ["arm64"]
    for properties in resources(template, "AWS::Serverless::Function").values():
        assert not {"Runtime", "Architectures", "CodeUri", "Tracing"} & properties.keys()


@pytest.mark.parametrize("module", MODULES)
def test_each_function_has_its_own_log_group_that_forgets(template: Template, module: str) -> None:
    group = resource(template, function(template, module)["LoggingConfig"]["LogGroup"]["Ref"])
    assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert group["LogGroupName"] == {"Fn::Sub": f"/aws/lambda/${{AWS::StackName}}/{module}"}


@pytest.mark.parametrize("module", MODULES)
def test_each_function_has_a_role_of_its_own_written_by_hand(
    template: Template, module: str
) -> None:
    properties = function(template, module)
    # Without "Role", SAM makes one for each function.
    assert "Role" not in properties
    for policy in properties.get("Policies", []):
        # Neither a managed policy nor one of SAM's policy templates.
        assert policy.keys() == {"Version", "Statement"}


@pytest.mark.parametrize("module", MODULES)
def test_no_function_has_a_wildcard(template: Template, module: str) -> None:
    for statement in statements(template, module):
        assert statement["Effect"] == "Allow"
        assert "*" not in json.dumps(statement["Action"])
        assert all(isinstance(arn, dict) for arn in listed(statement["Resource"]))
        assert "*" not in json.dumps(statement["Resource"])


@pytest.mark.parametrize("module", MODULES)
def test_each_function_may_do_to_the_tables_what_it_needs_and_no_more(
    template: Template, module: str
) -> None:
    assert table_access(template, module) == ACCESS[module]


def test_nobody_updates_or_deletes_in_the_ledger_or_puts_outside_of_a_transaction(
    template: Template,
) -> None:
    everything = set().union(*(table_access(template, module) for module in MODULES))
    ledger = {access for access in everything if "LedgerTable" in access}
    assert {access.split()[0] for access in ledger} == {
        "GetItem",
        "BatchGetItem",
        "Query",
        "Scan",
        "PutItem",
        "DescribeStream",
        "GetRecords",
        "GetShardIterator",
    }
    assert "PutItem LedgerTable" not in ledger
    assert "PutItem AccountsTable" not in everything
    assert "PutItem RecordsTable" not in everything, "it names the keys, or is in a transaction"
    changes = re.compile("Update|Delete|BatchWrite|PartiQL")
    changing = {access for access in everything if changes.match(access)}
    assert changing == {
        "UpdateItem RecordsTable in a transaction",  # budgets and stock
        "UpdateItem RecordsTable of *#misses#*",  # counted guesses at vouchers
        "DeleteItem RecordsTable in a transaction",  # what is personal
    }


class Desk(workers.House):
    """The handlers on fresh tables; `written` is what they wrote, as (function, as in ACCESS but
    with the very key)."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        super().__init__(engine, tables)
        self.written: set[tuple[str, str, str]] = set()
        self.module = ""
        events = self.client.meta.events
        for action in ("PutItem", "UpdateItem", "DeleteItem"):
            events.register(f"provide-client-params.dynamodb.{action}", self._wrote)
        events.register("provide-client-params.dynamodb.TransactWriteItems", self._transacted)

    def send(self, *calls: Call) -> list[Any]:
        """The bodies of the answers."""
        bodies = []
        for call in calls:
            self.module = call.module
            bodies.append(workers.send(call).body)
        return bodies

    def _wrote(self, params: Any, model: Any, **_: Any) -> None:
        self._keep(model.name, params, "")

    def _transacted(self, params: Any, **_: Any) -> None:
        for item in params["TransactItems"]:
            [(kind, request)] = item.items()
            name = "ConditionCheckItem" if kind == "ConditionCheck" else f"{kind}Item"
            self._keep(name, request, " in a transaction")

    def _keep(self, action: str, request: Any, where: str) -> None:
        names = {
            self.tables.accounts: "AccountsTable",
            self.tables.ledger: "LedgerTable",
            self.tables.records: "RecordsTable",
        }
        key = request.get("Item") or request["Key"]
        access = f"{action} {names[request['TableName']]}{where}"
        self.written.add((self.module, access, key["pk"]["S"]))


def test_the_roles_allow_whatever_the_functions_write_and_its_keys(
    template: Template, engine: Engine, tables: Tables
) -> None:
    desk = Desk(engine, tables)
    terms = {"budget": {"points": 10_000}, "adjustments": {"second_person_above": 100}}
    with desk.on(-40):
        desk.send(workers.publish(shop(transfers={}, **terms)))
    with desk.on(-30):
        desk.send(workers.publish(shop(transfers={}, expiry=[{"after": "P20D"}], **terms), 1))
    with desk.on(-29):
        desk.send(*map(workers.enrol, ("ana", "ben", "cleo", "dora")))
        desk.send(workers.purchase("order-1", "ana", 90_000), workers.check_in("ana", "visit-1"))
        desk.send(workers.transfer("t", from_member_id="ana", to_member_id="ben", points=5))
        [redeemed] = desk.send(workers.redeem("ana", "till-1", reward_id="free-coffee"))
        code = redeemed["voucher"]["code"]
        desk.send(workers.use(code), workers.voucher(f"0{code[1:]}"), workers.voucher("none"))
        desk.send(workers.redeem("ana", "till-2", reward_id="free-coffee", hold=True))
        desk.send(workers.change("ana", name="Ana"), workers.reverse("order-1", "r1", amount=100))
        desk.send(workers.adjust("ben", 500, "large", note="lost"), workers.erase("ben"))
        desk.send(workers.merge("cleo", "dora", "one"))
    with desk.on(0):
        desk.module = "expire"
        desk.sweep()
    assert {module for module, *_ in desk.written} == {
        "admin", "award", "check_in", "expire", "members", "redeem", "staff", "transfer",
        "vouchers",
    }  # fmt: skip
    assert ("admin", "PutItem RecordsTable", "#sweep") in desk.written
    bound = set()
    for module, access, key in desk.written:
        allowed = table_access(template, module)
        if access not in allowed:
            patterns = [a.removeprefix(f"{access} of ") for a in allowed if f"{access} of " in a]
            assert patterns, f"{module}: {access} {key}"
            assert any(fnmatchcase(key, each) for each in patterns[0].split(" and ")), (module, key)
            bound.add(f"{module}: {access}")
    assert bound == {
        "admin: PutItem RecordsTable",
        "expire: PutItem RecordsTable",
        "members: PutItem RecordsTable",
        "vouchers: PutItem RecordsTable",
        "vouchers: UpdateItem RecordsTable",
    }


def test_only_the_sweep_scans_accounts_and_only_the_verification_the_ledger(
    template: Template,
) -> None:
    scans = {
        (module, access)
        for module in MODULES
        for access in table_access(template, module)
        if access.startswith("Scan")
    }
    assert scans == {
        ("expire", "Scan AccountsTable"),
        ("verify", "Scan AccountsTable"),
        ("verify", "Scan LedgerTable"),
        ("verify", "Scan LedgerTable/index/history"),
    }


def test_the_verification_writes_nothing_but_its_results(template: Template) -> None:
    writes = {a for a in table_access(template, "verify") if re.match("Put|Update|Delete", a)}
    assert writes == {"PutItem RecordsTable of #verification and *#verification"}


@pytest.mark.parametrize("module", MODULES)
def test_the_secret_is_read_where_codes_are_made_or_checked(
    template: Template, module: str
) -> None:
    reads = any(
        statement["Action"] == "secretsmanager:GetSecretValue"
        and statement["Resource"] == {"Ref": "CodeSecret"}
        for statement in statements(template, module)
    )
    assert reads == ("SECRETS_ARN" in environment(template, module)) == (module in READS_SECRET)


def test_the_functions_get_the_variables_that_the_edge_insists_on(template: Template) -> None:
    source = Path(edge.__file__).read_text("utf-8")
    needed = set(re.findall(r'environ\["([A-Z_]+)"\]', source))
    given = set().union(*(environment(template, module) for module in MODULES))
    # Locally the secrets themselves are in the environment, in the cloud only where they are.
    assert needed - {"LOYALTY_SECRETS"} <= given
    assert "LOYALTY_SECRETS" not in given


# ── Doors ──


@pytest.mark.parametrize("module", sorted(ROUTES))
def test_a_function_has_the_routes_and_scopes_of_the_contract(
    template: Template, module: str
) -> None:
    found = {
        route.key: None if route.scopes is None else set(route.scopes)
        for route in template.routes
        if route.function.module == module
    }
    assert found == ROUTES[module]


@pytest.mark.parametrize("module", sorted(ROUTES))
def test_a_handler_serves_what_the_template_routes_to_it_under_the_same_scopes(
    module: str,
) -> None:
    app = importlib.import_module(module).handler
    assert isinstance(app, edge.App)
    served = {
        key: {f"loyalty/{role}" for role in route.roles} or None
        for key, route in app.routes.items()
    }
    assert served == ROUTES[module]


def test_a_route_needs_a_token_unless_it_says_otherwise(template: Template) -> None:
    auth = resource(template, "Api")["Auth"]
    assert auth["DefaultAuthorizer"] == "Token"
    assert auth["Authorizers"].keys() == {"Token"}


def test_only_four_routes_are_public_and_all_of_them_only_read(template: Template) -> None:
    assert {route.key for route in template.routes if route.scopes is None} == {
        "GET /c/{code}",
        "GET /health",
        "GET /openapi.json",
        "GET /program.schema.json",
    }


def test_no_protected_route_has_an_empty_list_of_scopes(template: Template) -> None:
    # It would let any token of the issuer pass.
    assert [route.key for route in template.routes if route.scopes == ()] == []


def test_routes_name_scopes_that_exist(template: Template) -> None:
    server = resource(template, "ResourceServer")
    known = {f"{server['Identifier']}/{scope['ScopeName']}" for scope in server["Scopes"]}
    assert {scope for route in template.routes for scope in route.scopes or ()} == known


def test_nothing_of_the_local_service_is_deployed(template: Template) -> None:
    assert not [route for route in template.routes if "/dev" in route.path]
    assert "/dev" not in json.dumps(template.document["Resources"])


def test_tokens_of_every_client_are_accepted_and_of_no_other(template: Template) -> None:
    authorizer = resource(template, "Api")["Auth"]["Authorizers"]["Token"]
    condition, own, foreign = authorizer["JwtConfiguration"]["audience"]["Fn::If"]
    assert condition == "HasUserPool"
    assert {client["Ref"] for client in own} == set(
        resources(template, "AWS::Cognito::UserPoolClient")
    )
    assert foreign == {"Fn::Split": [",", {"Ref": "Audience"}]}


def test_the_page_signs_people_in_by_code_without_a_secret(template: Template) -> None:
    client = resource(template, "PageClient")
    assert client["GenerateSecret"] is False
    assert client["AllowedOAuthFlows"] == ["code"]
    assert set(client["AllowedOAuthScopes"]) == {"openid", "loyalty/member"}
    assert client["ExplicitAuthFlows"] == ["ALLOW_REFRESH_TOKEN_AUTH"]


@pytest.mark.parametrize(
    ("client", "scope"), [("ShopClient", "loyalty/merchant"), ("OperatorClient", "loyalty/admin")]
)
def test_a_machine_has_a_secret_and_one_scope(template: Template, client: str, scope: str) -> None:
    properties = resource(template, client)
    assert properties["GenerateSecret"] is True
    assert properties["AllowedOAuthFlows"] == ["client_credentials"]
    assert properties["AllowedOAuthScopes"] == [scope]


def test_people_cannot_choose_whom_they_are(template: Template) -> None:
    pool = resource(template, "UserPool")
    assert pool["AdminCreateUserConfig"] == {"AllowAdminCreateUserOnly": True}
    writable = resource(template, "PageClient")["WriteAttributes"]
    assert not [name for name in writable if name.startswith("custom:")]


def test_the_pool_asks_our_function_what_a_token_says(template: Template) -> None:
    pool = resource(template, "UserPool")
    assert pool["UserPoolTier"] == "ESSENTIALS"
    assert pool["LambdaConfig"]["PreTokenGenerationConfig"] == {
        "LambdaArn": {"Fn::GetAtt": "PreTokenFunction.Arn"},
        "LambdaVersion": "V2_0",
    }
    assert {attribute["Name"] for attribute in pool["Schema"]} == {"member_id", "program_ids"}
    groups = resources(template, "AWS::Cognito::UserPoolGroup").values()
    assert {group["GroupName"] for group in groups} == {"admin", "staff", "merchant"}


def test_with_an_issuer_of_ones_own_nothing_of_cognito_is_made(template: Template) -> None:
    for logical_id, whole in template.document["Resources"].items():
        if whole["Type"].startswith("AWS::Cognito::"):
            assert whole["Condition"] == "HasUserPool", logical_id


def test_requests_are_throttled_and_logged_without_what_is_personal(template: Template) -> None:
    api = resource(template, "Api")
    assert api["DefaultRouteSettings"].keys() == {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
    log = json.loads(api["AccessLogSettings"]["Format"])
    assert {"requestId", "route", "status"} <= log.keys()
    personal = re.compile(r"identity|path|ip|userAgent|query|claims\.(?!client_id)", re.IGNORECASE)
    assert not [value for value in log.values() if personal.search(value)]
    assert resource(template, "AccessLogs")["RetentionInDays"] == {"Ref": "LogRetentionDays"}


# ── Work without a caller ──


def test_the_sweep_runs_every_hour_and_knows_for_when(template: Template) -> None:
    [event] = function(template, "expire")["Events"].values()
    schedule = event["Properties"]
    assert event["Type"] == "ScheduleV2"
    assert re.fullmatch(r"cron\([1-9] \* \* \* \? \*\)", schedule["ScheduleExpression"])
    assert json.loads(schedule["Input"]) == {"scheduled_time": "<aws.scheduler.scheduled-time>"}
    # Names of schedules are shared by all stacks of an account.
    assert "${AWS::StackName}" in schedule["Name"]["Fn::Sub"]


@pytest.mark.parametrize(("module", "name"), [("expire", "Sweep"), ("verify", "Verify")])
def test_a_segment_is_not_handed_out_twice_while_it_runs(
    template: Template, module: str, name: str
) -> None:
    queues = [source for source in template.sources if source.kind == "queue"]
    [mapping] = [source for source in queues if source.function.module == module]
    assert mapping.of == f"{name}Queue"
    visible_again = resource(template, f"{name}Queue")["VisibilityTimeout"]
    assert visible_again >= 6 * mapping.function.timeout_seconds
    properties = resource(template, f"{name}Mapping")
    assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_the_ledger_is_verified_once_a_day(template: Template) -> None:
    [event] = function(template, "verify")["Events"].values()
    schedule = event["Properties"]
    assert event["Type"] == "ScheduleV2"
    assert re.fullmatch(r"cron\(\d+ \d+ \* \* \? \*\)", schedule["ScheduleExpression"])
    assert "${AWS::StackName}" in schedule["Name"]["Fn::Sub"]
    assert schedule["DeadLetterConfig"]["Arn"] == {"Fn::GetAtt": "ScheduleDeadLetters.Arn"}
    assert ("Loyalty", "LedgerViolations", json.dumps({"Ref": "AWS::StackName"})) in alarms(
        template
    )


def test_the_stream_wakes_its_function_only_for_what_must_not_happen(template: Template) -> None:
    mappings = {s.function.module: s for s in template.sources if s.kind == "stream"}
    assert mappings.keys() == {"stream", "publish"}
    assert {mapping.of for mapping in mappings.values()} == {"LedgerTable"}
    assert mappings["stream"].filters == ({"eventName": ["MODIFY", "REMOVE"]},)
    assert mappings["publish"].filters == ({"eventName": ["INSERT"]},)


def test_notices_go_to_a_bus_of_our_own_and_come_again_where_it_fails(template: Template) -> None:
    [put] = [s for s in statements(template, "publish") if s["Action"] == "events:PutEvents"]
    assert put["Resource"] == {"Fn::GetAtt": "PointsBus.Arn"} or put["Resource"] == {
        "Fn::GetAtt": ["PointsBus", "Arn"]
    }
    assert environment(template, "publish")["EVENT_BUS"] == {"Ref": "PointsBus"}
    mapping = resource(template, "PublishMapping")
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    # One of which nothing can be made is given up alone.
    assert mapping["BisectBatchOnFunctionError"] is True
    assert mapping["DestinationConfig"]["OnFailure"]["Destination"] == {
        "Fn::GetAtt": "PublishDeadLetters.Arn"
    }


def test_work_that_is_given_up_is_kept(template: Template) -> None:
    for name in ("Sweep", "Verify"):
        redrive = resource(template, f"{name}Queue")["RedrivePolicy"]
        assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": f"{name}DeadLetters.Arn"}
    expire = function(template, "expire")
    in_function = expire["EventInvokeConfig"]["DestinationConfig"]["OnFailure"]["Destination"]
    before_it = expire["Events"]["Sweep"]["Properties"]["DeadLetterConfig"]["Arn"]
    assert in_function == before_it == {"Fn::GetAtt": "ScheduleDeadLetters.Arn"}
    stream = resource(template, "StreamMapping")
    assert stream["DestinationConfig"]["OnFailure"]["Destination"] == {
        "Fn::GetAtt": "StreamDeadLetters.Arn"
    }
    assert stream["BisectBatchOnFunctionError"] is True
    assert stream["MaximumRetryAttempts"] >= 0


def test_queues_are_encrypted_and_dead_letters_wait_two_weeks(template: Template) -> None:
    for logical_id, queue in resources(template, "AWS::SQS::Queue").items():
        assert queue["SqsManagedSseEnabled"] is True, logical_id
        if logical_id.endswith("DeadLetters"):
            assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600


# ── Alarms ──


def alarms(template: Template) -> set[tuple[str, str, str]]:
    """(namespace, metric, what it watches) of every alarm."""
    return {
        (alarm["Namespace"], alarm["MetricName"], json.dumps(dimension["Value"]))
        for alarm in resources(template, "AWS::CloudWatch::Alarm").values()
        for dimension in alarm["Dimensions"]
    }


@pytest.mark.parametrize("metric", ["Errors", "Throttles"])
@pytest.mark.parametrize("module", MODULES)
def test_each_function_has_its_alarms(template: Template, module: str, metric: str) -> None:
    watched = json.dumps({"Ref": logical_id_of(template, module)})
    assert ("AWS/Lambda", metric, watched) in alarms(template)


def test_each_queue_of_dead_letters_has_an_alarm(template: Template) -> None:
    queues = [each for each in resources(template, "AWS::SQS::Queue") if "DeadLetters" in each]
    assert len(queues) == 5
    for queue in queues:
        watched = json.dumps({"Fn::GetAtt": f"{queue}.QueueName"})
        assert ("AWS/SQS", "ApproximateNumberOfMessagesVisible", watched) in alarms(template)


def test_a_sweep_that_falls_behind_or_does_not_run_has_an_alarm(template: Template) -> None:
    service = json.dumps(environment(template, "expire")["POWERTOOLS_SERVICE_NAME"])
    assert ("Loyalty", "SweepLagSeconds", service) in alarms(template)
    alarm = resource(template, "SweepBehindAlarm")
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Maximum", 7200)
    # Each period of an hour has a sweep in it; silence is the worst that it can say.
    assert (alarm["Period"], alarm["TreatMissingData"]) == (3600, "breaching")


def test_faults_of_the_api_and_changes_of_the_ledger_have_alarms(template: Template) -> None:
    assert ("AWS/ApiGateway", "5xx", json.dumps({"Ref": "Api"})) in alarms(template)
    service = json.dumps(environment(template, "stream")["POWERTOOLS_SERVICE_NAME"])
    assert ("Loyalty", "LedgerRecordChanged", service) in alarms(template)


def test_alarms_are_sent_where_an_address_is_given_and_stay_quiet_without_data(
    template: Template,
) -> None:
    for logical_id, alarm in resources(template, "AWS::CloudWatch::Alarm").items():
        if logical_id != "SweepBehindAlarm":
            assert alarm["TreatMissingData"] == "notBreaching", logical_id
        assert alarm["AlarmActions"]["Fn::If"][:2] == ["HasAlarmEmail", [{"Ref": "AlarmTopic"}]]


# ── Deployment ──


def test_every_parameter_is_explained_and_has_a_default(template: Template) -> None:
    for name, parameter in template.document["Parameters"].items():
        assert parameter["Description"], name
        assert "Default" in parameter, name


def test_the_outputs_tell_what_a_client_needs(template: Template) -> None:
    assert {
        "ApiUrl",
        "AccountsTableName",
        "LedgerTableName",
        "RecordsTableName",
        "UserPoolId",
        "PageClientId",
        "ShopClientId",
        "OperatorClientId",
        "AuthorizeEndpoint",
        "TokenEndpoint",
    } <= template.document["Outputs"].keys()


@pytest.mark.parametrize(("table", "stage"), [("default", "dev"), ("prod", "prod")])
def test_a_stage_is_deployed_under_its_own_name(table: str, stage: str) -> None:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text("utf-8"))[table]
    assert config["global"]["parameters"]["stack_name"] == f"loyalty-{stage}"
    deploy = config["deploy"]["parameters"]
    assert f"Stage={stage}" in deploy["parameter_overrides"]
    assert deploy["capabilities"] == "CAPABILITY_IAM"
    assert deploy["resolve_s3"] is True
    assert deploy["fail_on_empty_changeset"] is False
    assert deploy["confirm_changeset"] is (stage == "prod")


def test_the_template_is_linted_whenever_it_is_validated() -> None:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text("utf-8"))
    assert config["default"]["validate"]["parameters"]["lint"] is True


def test_the_pinned_tools_are_the_ones_that_make_installs() -> None:
    [wanted] = re.findall(
        r"^SAM_VERSION := (\S+)$", (ROOT / "tools/sam.mk").read_text("utf-8"), re.MULTILINE
    )
    lock = (ROOT / "tools/sam-requirements.txt").read_text("utf-8")
    assert f"\naws-sam-cli=={wanted} " in lock
    assert "://" not in lock


# ── What SAM makes of it ──

SAM_PYTHON = ROOT / ".local" / "sam" / "bin" / "python"
TRANSLATE = """
import json, pathlib, sys
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

template = yaml_parse(pathlib.Path(sys.argv[1]).read_text("utf-8"))
# The translator takes no folders: "sam build" has replaced them by then.
template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
template["Resources"]["LoyaltyLayer"]["Properties"]["ContentUri"] = "s3://bucket/key"
json.dump(Translator({}, Parser()).translate(template, {}), sys.stdout, default=str)
"""


@pytest.fixture(scope="module")
def translated() -> dict[str, dict[str, Any]]:
    return translation(SAM_PYTHON)


def translation(sam_python: Path) -> dict[str, dict[str, Any]]:
    """The resources that SAM makes of the template."""
    if not sam_python.exists():
        missing("SAM is not set up (make validate does it)")
    answer = subprocess.run(
        [sam_python, "-c", TRANSLATE, ROOT / "template.yaml"],
        env={"AWS_DEFAULT_REGION": "eu-west-1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    made: dict[str, dict[str, Any]] = json.loads(answer.stdout)["Resources"]
    return made


@pytest.mark.parametrize(
    ("ci", "ends"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_what_sam_makes_is_left_unseen_only_outside_of_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, ends: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ends, match="make validate"):
        translation(tmp_path / "python")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_deployed_on_demand_backed_up_encrypted_and_hard_to_lose(
    translated: dict[str, dict[str, Any]], table: str
) -> None:
    safe(translated[table])


def test_sam_gives_every_function_a_role_that_no_other_has(
    translated: dict[str, dict[str, Any]],
) -> None:
    roles = [
        made["Properties"]["Role"]["Fn::GetAtt"][0]
        for made in translated.values()
        if made["Type"] == "AWS::Lambda::Function"
    ]
    assert len(roles) == len(set(roles)) == len(MODULES)


def test_sam_adds_no_wildcard_and_no_policy_but_for_logs_and_traces(
    translated: dict[str, dict[str, Any]],
) -> None:
    for logical_id, made in translated.items():
        if made["Type"] != "AWS::IAM::Role":
            continue
        managed = {
            arn.rpartition("/")[2] for arn in made["Properties"].get("ManagedPolicyArns", [])
        }
        assert managed <= {"AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess"}, logical_id
        for policy in made["Properties"].get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                assert "*" not in json.dumps(statement["Action"]), logical_id
                assert "*" not in json.dumps(statement["Resource"]), logical_id


def functions_of(translated: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The functions that are deployed, by their modules."""
    return {
        made["Properties"]["Handler"].partition(".")[0]: made["Properties"]
        for made in translated.values()
        if made["Type"] == "AWS::Lambda::Function"
    }


def ledger_actions(role: dict[str, Any]) -> set[tuple[str, bool]]:
    """What a role may do to the ledger, its index or its stream; whether only in a transaction."""
    return {
        (action.removeprefix("dynamodb:"), "Condition" in statement)
        for policy in role["Properties"].get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
        if "LedgerTable" in json.dumps(statement["Resource"])
        for action in listed(statement["Action"])
    }


def test_no_role_that_is_deployed_can_change_the_ledger_and_only_the_verifier_reads_all_of_it(
    translated: dict[str, dict[str, Any]],
) -> None:
    functions = functions_of(translated)
    may = {
        module: ledger_actions(translated[properties["Role"]["Fn::GetAtt"][0]])
        for module, properties in functions.items()
    }
    reads = {"GetItem", "Query", "DescribeStream", "GetRecords", "GetShardIterator"}
    usual = {(action, False) for action in reads} | {("PutItem", True)}
    for module, actions in may.items():
        everything = {("Scan", False), ("BatchGetItem", False)} if module == "verify" else set()
        assert actions <= usual | everything, module
    # Besides the functions' roles there is the schedule's, which knows no table.
    others = {k for k, made in translated.items() if made["Type"] == "AWS::IAM::Role"} - {
        properties["Role"]["Fn::GetAtt"][0] for properties in functions.values()
    }
    assert not [role for role in others if "Table" in json.dumps(translated[role])]


def test_every_function_is_deployed_with_tracing_on_arm_and_a_log_that_forgets(
    translated: dict[str, dict[str, Any]],
) -> None:
    for module, properties in functions_of(translated).items():
        assert properties["Architectures"] == ["arm64"], module
        assert properties["TracingConfig"] == {"Mode": "Active"}, module
        group = translated[properties["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}, module
    layers = [made for made in translated.values() if made["Type"] == "AWS::Lambda::LayerVersion"]
    assert [layer["Properties"]["CompatibleArchitectures"] for layer in layers] == [["arm64"]]


def test_whatever_invokes_a_function_unasked_keeps_what_it_gives_up(
    translated: dict[str, dict[str, Any]],
) -> None:
    kept = set()
    for logical_id, made in translated.items():
        properties = made.get("Properties", {})
        match made["Type"]:
            case "AWS::Lambda::EventSourceMapping":
                source, attribute = properties["EventSourceArn"]["Fn::GetAtt"]
                if attribute == "StreamArn":
                    where = properties["DestinationConfig"]["OnFailure"]["Destination"]
                else:
                    where = translated[source]["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]
            case "AWS::Scheduler::Schedule":
                where = properties["Target"]["DeadLetterConfig"]["Arn"]
            case "AWS::Lambda::EventInvokeConfig":
                where = properties["DestinationConfig"]["OnFailure"]["Destination"]
            case _:
                continue
        queue = where["Fn::GetAtt"][0]
        assert translated[queue]["Type"] == "AWS::SQS::Queue", logical_id
        kept.add(queue)
    assert kept == {k for k in translated if k.endswith("DeadLetters")}


def test_nobody_but_the_api_and_the_user_pool_of_the_stack_may_call_a_function(
    translated: dict[str, dict[str, Any]],
) -> None:
    own = {"apigateway.amazonaws.com": "Api", "cognito-idp.amazonaws.com": "UserPool"}
    other_doors = {"AWS::Lambda::Url", "AWS::ApiGateway::RestApi"}
    assert not other_doors & {made["Type"] for made in translated.values()}
    for logical_id, made in translated.items():
        if made["Type"] == "AWS::Lambda::Permission":
            caller = own[made["Properties"]["Principal"]]
            assert f'"{caller}"' in json.dumps(made["Properties"]["SourceArn"]), logical_id
        if made["Type"] == "AWS::IAM::Role":
            [trust] = made["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            [service] = trust["Principal"]["Service"]
            assert service in ("lambda.amazonaws.com", "scheduler.amazonaws.com"), logical_id


def test_the_api_definition_routes_and_guards_what_the_template_says(
    translated: dict[str, dict[str, Any]], template: Template
) -> None:
    body = translated["Api"]["Properties"]["Body"]
    found = {
        f"{method.upper()} {path}": operation["security"]
        for path, operations in body["paths"].items()
        for method, operation in operations.items()
    }
    assert found == {
        route.key: [{"NONE": []} if route.scopes is None else {"Token": list(route.scopes)}]
        for route in template.routes
    }
    assert body["components"]["securitySchemes"].keys() == {"Token"}


def test_cross_origin_settings_stand_together_or_not_at_all(
    translated: dict[str, dict[str, Any]],
) -> None:
    condition, settings, otherwise = translated["Api"]["Properties"]["Body"][
        "x-amazon-apigateway-cors"
    ]["Fn::If"]
    assert (condition, otherwise) == ("HasCors", {"Ref": "AWS::NoValue"})
    assert settings.keys() == {
        "allowOrigins",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
        "maxAge",
    }
