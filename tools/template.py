"""template.yaml as the local service and the tests read it: tables, functions, routes, triggers.

The template stays the single source: a table, route or scope that is not in it does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent

# The defaults of Lambda and SAM where the template is silent.
_TIMEOUT_SECONDS = 3
_MEMORY_MB = 128
_BATCH_SIZES = {"queue": 10, "stream": 100}


@dataclass(frozen=True, slots=True)
class Function:
    """A Lambda function: `module` and `attribute` of its handler, and what its context tells it."""

    logical_id: str
    module: str
    attribute: str
    timeout_seconds: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the HTTP API. `scopes`: one of them is enough; None: no token is needed."""

    method: str
    path: str
    function: Function
    scopes: tuple[str, ...] | None

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Source:
    """What invokes a function besides the API: a "queue", a "stream" or a "schedule".

    `of` is the logical id of the queue, of the table, or of the scheduled function. `attempts`
    counts the first one too. Where it `halves`, a batch that has failed comes again in halves.
    """

    kind: str
    of: str
    function: Function
    batch_size: int = 1
    attempts: int = 1
    halves: bool = False
    filters: tuple[dict[str, Any], ...] = ()
    input: str | None = None


@dataclass(frozen=True, slots=True)
class Cors:
    """Origins that may call the API from a browser, and what they may send and see."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age_seconds: int | None = None
    credentials: bool = False


@dataclass(frozen=True)
class Template:
    """A SAM template, with its parameters at their defaults."""

    document: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path = ROOT / "template.yaml") -> Template:
        with path.open(encoding="utf-8") as file:
            # The loader below only makes plain values: it is a safe one.
            return cls(yaml.load(file, _Loader))  # noqa: S506

    @cached_property
    def functions(self) -> dict[str, Function]:
        """The functions by their logical ids."""
        common = self.document.get("Globals", {}).get("Function", {})
        functions = {}
        for logical_id, properties in self._of_type("AWS::Serverless::Function"):
            settings = common | properties
            module, _, attribute = settings["Handler"].rpartition(".")
            functions[logical_id] = Function(
                logical_id,
                module,
                attribute,
                settings.get("Timeout", _TIMEOUT_SECONDS),
                settings.get("MemorySize", _MEMORY_MB),
            )
        return functions

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """The routes of the HTTP API.

        An empty list of scopes still asks for a token: that is what API Gateway makes of it. Only
        `Authorizer: NONE`, or an API without a default authorizer, makes a route public.
        """
        routes = []
        for function, event in self._events("HttpApi"):
            api = self._api.get("Auth", {})
            auth = event.get("Auth", {})
            authorizer = auth.get("Authorizer", api.get("DefaultAuthorizer", "NONE"))
            if authorizer == "NONE":
                scopes = None
            else:
                inherited = api.get("Authorizers", {}).get(authorizer, {})
                own = auth.get("AuthorizationScopes")
                scopes = tuple(own or inherited.get("AuthorizationScopes", ()))
            routes.append(Route(event["Method"].upper(), event["Path"], function, scopes))
        return tuple(routes)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """What invokes functions besides the API."""
        sources = [
            Source("schedule", function.logical_id, function, input=event.get("Input"))
            for function, event in self._events("ScheduleV2")
        ]
        for _, mapping in self._of_type("AWS::Lambda::EventSourceMapping"):
            target, _, attribute = mapping["EventSourceArn"]["Fn::GetAtt"].partition(".")
            kind = "stream" if attribute == "StreamArn" else "queue"
            queue = self.document["Resources"][target].get("Properties", {})
            patterns = mapping.get("FilterCriteria", {}).get("Filters", [])
            sources.append(
                Source(
                    kind,
                    target,
                    self.functions[mapping["FunctionName"]["Ref"]],
                    batch_size=mapping.get("BatchSize", _BATCH_SIZES[kind]),
                    attempts=(
                        queue.get("RedrivePolicy", {}).get("maxReceiveCount", 1)
                        if kind == "queue"
                        else mapping.get("MaximumRetryAttempts", 0) + 1
                    ),
                    halves=mapping.get("BisectBatchOnFunctionError", False),
                    filters=tuple(yaml.safe_load(each["Pattern"]) for each in patterns),
                )
            )
        return tuple(sources)

    @cached_property
    def cors(self) -> Cors | None:
        """CORS of the API, or None where no origin is allowed."""
        settings = self._resolve(self._api.get("CorsConfiguration"))
        if not isinstance(settings, dict) or not settings.get("AllowOrigins"):
            return None
        return Cors(
            origins=tuple(settings["AllowOrigins"]),
            methods=tuple(settings.get("AllowMethods", ())),
            headers=tuple(settings.get("AllowHeaders", ())),
            expose=tuple(settings.get("ExposeHeaders", ())),
            max_age_seconds=settings.get("MaxAge"),
            credentials=settings.get("AllowCredentials", False),
        )

    def tables(self) -> dict[str, dict[str, Any]]:
        """What CreateTable needs of each table, without its name, by its logical id.

        Backups, encryption, deletion protection and time to live are left out: they change nothing
        that the engine's code can see.
        """
        needed = "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode"
        tables = {}
        for logical_id, properties in self._of_type("AWS::DynamoDB::Table"):
            tables[logical_id] = {name: properties[name] for name in needed if name in properties}
            if stream := properties.get("StreamSpecification"):
                tables[logical_id]["StreamSpecification"] = stream | {"StreamEnabled": True}
        return tables

    def environment(self, resources: Mapping[str, str]) -> dict[str, str]:
        """The functions' environment variables, those of all of them together.

        `resources` tells what a reference to a resource is here: a table's name, a queue's address.
        What exists only when deployed is left out.
        """
        variables: dict[str, Any] = {}
        for settings in (
            self.document.get("Globals", {}).get("Function", {}),
            *(properties for _, properties in self._of_type("AWS::Serverless::Function")),
        ):
            variables |= settings.get("Environment", {}).get("Variables", {})
        values = {
            name: resources.get(value["Ref"], self._resolve(value))
            if isinstance(value, dict) and "Ref" in value
            else self._resolve(value)
            for name, value in variables.items()
        }
        return {
            name: str(value)
            for name, value in values.items()
            if isinstance(value, str | int) and value != ""
        }

    def holds(self, condition: str) -> bool:
        """Whether a condition holds, with parameters at their defaults."""
        return bool(self._resolve({"Condition": condition}))

    @cached_property
    def _api(self) -> dict[str, Any]:
        return next((properties for _, properties in self._of_type("AWS::Serverless::HttpApi")), {})

    def _of_type(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for logical_id, resource in self.document["Resources"].items():
            # Fn::ForEach holds a list: its loops make alarms, nothing that is served here.
            if isinstance(resource, dict) and resource["Type"] == kind:
                yield logical_id, resource.get("Properties", {})

    def _events(self, kind: str) -> Iterator[tuple[Function, dict[str, Any]]]:
        for logical_id, properties in self._of_type("AWS::Serverless::Function"):
            for event in properties.get("Events", {}).values():
                if event["Type"] == kind:
                    yield self.functions[logical_id], event.get("Properties", {})

    def _resolve(self, value: Any) -> Any:
        """`value` with parameters at their defaults; what exists only when deployed is None."""
        if isinstance(value, list):
            return [self._resolve(each) for each in value]
        if not isinstance(value, dict):
            return value
        match list(value.items()):
            case [("Ref", str(name))]:
                parameter = self.document.get("Parameters", {}).get(name, {})
                default = parameter.get("Default")
                if parameter.get("Type") == "CommaDelimitedList":
                    return str(default).split(",")
                return default
            case [("Condition", str(name))]:
                return self._resolve(self.document["Conditions"][name])
            case [("Fn::If", [str(name), then, otherwise])]:
                chosen = then if self._resolve({"Condition": name}) else otherwise
                return self._resolve(chosen)
            case [("Fn::Equals", [left, right])]:
                return self._resolve(left) == self._resolve(right)
            case [("Fn::Not", [inner])]:
                return not self._resolve(inner)
            case [("Fn::Join", [str(between), parts])]:
                return between.join(self._resolve(parts))
            case _:
                return {name: self._resolve(each) for name, each in value.items()}


class _Loader(yaml.CSafeLoader):
    """Reads CloudFormation's short forms: `!Ref x` as {"Ref": "x"}, `!Sub x` as {"Fn::Sub": x}."""


def _short_form(loader: yaml.CSafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
        if name == "GetAtt" and all(isinstance(part, str) for part in value):
            value = ".".join(value)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _short_form)
