"""Sends what nobody would send by mistake, and looks whether the service holds.

    python -m tools.fuzz [--cases 191000] [--seed 1] [--write]    half of `make fuzz`
    python -m tools.fuzz --replay 1:4711      a case again, with all before it: what came of it

A case is a request made of the sample events in events/, bent by tools.mutations, from one of many
callers. Each is a matter of (seed, number): cases come in blocks of fresh tables, in which the
samples have happened, and a block is the same whenever and wherever it runs.

Of every answer this must hold: no 5xx; nothing that the OpenAPI document does not announce; every
problem in the one table; nothing written by a refusal; no secret and no traceback told; no tag in a
page that is not the page's own; no second spent on it. Of some, besides: the tables hold byte for
byte what they held before a refusal, and a command that is sent again is answered as it was.

A second of CPU is one wherever it runs. By the clock a case may only have waited for its turn: one
that took more than a second is sent again, five times at most, with all before it and with nothing
beside it, when the others are through. It is a fault where it takes more than a second every time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml

from loyalty.decisions import id_of
from loyalty.problems import PROBLEMS
from tools import mutations
from tools.bench import told
from tools.contract import PROBLEM, Contract
from tools.engine import Engine, create_tables
from tools.inside import SECRET, Answer, Inside
from tools.issuer import Issuer
from tools.openapi import FUNCTIONS
from tools.runtime import Event
from tools.template import ROOT, Template

EVENTS = ROOT / "events"
EXAMPLE = ROOT / "docs" / "program.example.yaml"
DOCUMENT = ROOT / "docs" / "proof.md"
CASES = 191_000
PROCESSES = 2
BLOCK = 1_000
"""Cases over the same tables: enough for one to build on another, few enough to be run again."""
MOST_SECONDS = 1.0
TRIES = 5
"""How often a case is sent again that took longer by the clock."""
LOOKED_AT = 100
"""Of so many cases one has the tables compared before and after."""
SENT_AGAIN = 10
"""Of so many commands that were carried out one is sent again."""

BEFORE = (
    "put_program", "enrol", "enrol_noor", "award_purchase", "redemption_reward", "redemption_hold",
    "adjustment_large",
)  # fmt: skip
"""The samples that have happened at the beginning of a block."""
LIKELY = ("admin", "admin", "admin", "merchant", "staff", "mila", "an admin of this program")
"""Callers of three cases in four."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "X")
SELDOM = ("put_program", "poster_svg", "poster_png", "health", "openapi", "schema")
"""Samples that change everything for those that come after, or of which little can be learnt."""
LAST = ("erase", "close", "merge", "block")
"""Samples after which a member is not what it was: meant for those who are there for it."""
MORE = tuple(f"m{number}" for number in range(20))
"""Members beside mila and noor."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A request of events/, taken apart."""

    name: str
    method: str
    path: str
    parameters: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: str | None
    by_a_member: bool

    @classmethod
    def read(cls, path: Path) -> Sample | None:
        event = json.loads(path.read_text("utf-8"))
        if "routeKey" not in event:
            return None
        method, route = event["routeKey"].split(" ")
        kept = ("content-type", "idempotency-key", "if-match")
        return cls(
            path.stem,
            method,
            route,
            event.get("pathParameters", {}),
            event.get("queryStringParameters", {}),
            {name: event["headers"][name] for name in kept if name in event["headers"]},
            event.get("body"),
            "loyalty/member" in json.dumps(event["requestContext"].get("authorizer")),
        )


@dataclass(slots=True)
class Case:
    """A request, and what is done to its event between the gateway and the handler."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    content: bytes
    caller: str
    meddle: Callable[[Event], None] | None = None

    def shown(self) -> str:
        sent = [f"{name.decode()}: {value!r}" for name, value in self.headers]
        secret = [each for each in sent if not each.startswith("authorization")]
        content = repr(self.content[:1500])
        return f"{self.method} {self.target[:500]} as {self.caller} {secret} {content}"


@dataclass(slots=True)
class Result:
    """What many cases came to."""

    cases: int = 0
    seconds: float = 0.0
    """By the clock, of all that was done at once."""
    statuses: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    callers: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    repeated: int = 0
    slowest: tuple[float, float, str] = (0.0, 0.0, "")
    late: dict[str, float] = field(default_factory=dict)
    """Seconds by the clock of cases that took too many."""
    always_late: int = 0
    faults: list[str] = field(default_factory=list)
    last: str = ""
    """The last case, and what was answered."""

    def add(self, other: Result) -> None:
        self.cases += other.cases
        for name in ("statuses", "routes", "done", "codes", "callers"):
            getattr(self, name).update(getattr(other, name))
        self.compared += other.compared
        self.repeated += other.repeated
        self.slowest = max(self.slowest, other.slowest)
        self.last = other.last
        self.late |= other.late
        self.faults += other.faults


class Known(list[str]):
    """The last of what answers have named, to be sent back."""

    def learn(self, value: str) -> None:
        self.append(value)
        del self[:-30]


class World:
    """A service in which the samples have happened, and what a sender has learnt of it."""

    def __init__(self, service: Inside, samples: Sequence[Sample], contract: Contract) -> None:
        self.service = service
        self.contract = contract
        self.samples = {sample.name: sample for sample in samples}
        # Bodies are where most can be bent, and cheapest to refuse.
        self._likely = [s for s in samples for _ in range(1 if s.body is None else 3)]
        self.cursors, self.redemptions, self.vouchers = Known(), Known(), Known()
        token = service.issuer.token
        member = token(["member"], "mila")
        head, _, tail = member.partition(".")
        self.callers: dict[str, str | None] = {
            "admin": token(["admin"], "root"),
            "staff": token(["staff"], "boss"),
            "merchant": token(["merchant"], "till"),
            "mila": member,
            "noor": token(["member"], "noor"),
            "a member without an account": token(["member"], "stranger"),
            "a member without an id": token(["member"]),
            "mila at the till": token(["member", "merchant"], "mila"),
            "an admin of this program": token(["admin"], "root", ["beans"]),
            "an admin of another program": token(["admin"], "root", ["beans-2"]),
            "a token of no role": token([], "mila"),
            "a cut token": member[:-9],
            "an unsigned token": f"{head}.{tail.rpartition('.')[0]}.",
            "nobody": None,
        }
        for name in BEFORE:
            sample = self.samples[name]
            self._must(self.plain(sample, self.callers["mila" if sample.by_a_member else "admin"]))
        for member_id in MORE:
            self._enrolled(member_id)
        for number, member_id in enumerate((*MORE, "mila", "mila", "mila", "noor")):
            self._given(member_id, f"gift-{number}")

    def _enrolled(self, member_id: str) -> None:
        case = self.plain(self.samples["enrol_noor"], self.callers["admin"])
        case.content = json.dumps({"member_id": member_id}).encode()
        self._must(case)

    def _given(self, member_id: str, key: str) -> None:
        case = self.plain(self.samples["adjustment"], self.callers["admin"])
        gift = {"member_id": member_id, "points": 900, "reason_code": "goodwill"}
        case.content = json.dumps(gift).encode()
        case.headers.append((b"idempotency-key", key.encode()))
        self._must(case)

    def _must(self, case: Case) -> None:
        answer = self.send(case)
        assert answer.status in (200, 201, 202), (case.shown(), answer.content)

    def plain(self, sample: Sample, token: str | None) -> Case:
        """The sample as it is."""
        path = sample.path.format_map({n: quote(v, safe="") for n, v in sample.parameters.items()})
        query = "&".join(f"{name}={value}" for name, value in sample.query.items())
        headers = [(n.encode(), v.encode()) for n, v in sample.headers.items()]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        content = (sample.body or "").encode()
        return Case(sample.method, f"{path}?{query}" if query else path, headers, content, "")

    def send(self, case: Case) -> Answer:
        self.service.runtime.meddle = case.meddle
        return self.service.send(case.method, case.target, case.headers, case.content)

    def learn(self, answer: Answer) -> None:
        """Keep what the answer names."""
        if answer.status > 201 or answer.headers.get("content-type") != "application/json":
            return
        value = json.loads(answer.content)
        if isinstance(value.get("next_cursor"), str):
            self.cursors.learn(value["next_cursor"])
        if "redemption_id" in value:
            self.redemptions.learn(value["redemption_id"])
        if isinstance(value.get("voucher"), dict) and "code" in value["voucher"]:
            self.vouchers.learn(value["voucher"]["code"])

    def held(self) -> dict[str, list[str]]:
        """All that stands in the tables, but for how often somebody has guessed and for totals of
        budgets, which whoever looks first puts in place."""
        client, tables = self.service.client, self.service.tables
        found = {}
        for table in (tables.accounts, tables.ledger, tables.records):
            pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
            items = [item for page in pages for item in page["Items"]]
            kept = [i for i in items if "misses" not in i and "#budget#" not in i["pk"]["S"]]
            found[table] = sorted(repr(sorted(item.items())) for item in kept)
        return found

    # Cases

    def case(self, chance: Random, number: int) -> Case:
        """A request of that chance; `number` makes what it names its own."""
        while True:
            sample = chance.choice(self._likely)
            if sample.name not in SELDOM or chance.random() < 0.15:
                break
        caller = chance.choice(LIKELY if chance.random() < 0.75 else list(self.callers))
        if sample.by_a_member and chance.random() < 0.5:
            caller = "mila"
        elif sample.name in LAST and caller in ("mila", "noor") and chance.random() < 0.95:
            caller = "admin"
        names = self.contract.query.get(f"{sample.method} {sample.path}", [])
        made = self.plain(self._afresh(chance, sample, number), None)
        path, _, query = made.target.partition("?")
        headers = dict(made.headers)
        content = made.content
        if sample.body is not None:
            content = self._content(chance, content)
        if chance.random() < 0.12:
            path = self._path(chance, sample)
        elif chance.random() < 0.04:
            path = mutations.address(chance, path)
        if chance.random() < (0.3 if names else 0.05):
            query = mutations.query(chance, names, self.cursors)
        if (token := self.callers[caller]) is not None:
            headers[b"authorization"] = f"Bearer {token}".encode()
        for _ in range(chance.choice((0, 0, 0, 0, 1, 1, 2))):
            keys = [sample.headers.get("idempotency-key", "k"), "checkout-3003", "visit-3001"]
            name, value = mutations.header(chance, keys)
            twice = name in headers and chance.random() < 0.05
            # A second one is joined to the first, as the gateway does it.
            headers[name] = headers[name] + b"," + value if twice else value
        method = sample.method
        if chance.random() < 0.01:
            method = chance.choice(METHODS)
        target = f"{path}?{query}" if query else path
        return Case(method, target, list(headers.items()), content, caller, _meddling(chance))

    def _afresh(self, chance: Random, sample: Sample, number: int) -> Sample:
        """The sample with ids of its own, mostly, so that it is no repeat."""
        body, headers, parameters = sample.body, dict(sample.headers), dict(sample.parameters)
        if chance.random() < 0.8:
            for name in ("order-1001", "review-77", "share-5"):
                if body is not None and sample.name != "reversal":
                    body = body.replace(name, f"e{number}")
            if "idempotency-key" in headers:
                headers["idempotency-key"] = f"k{number}"
            elif chance.random() < 0.3:
                headers["idempotency-key"] = f"k{chance.randrange(50)}"
        if sample.name == "put_program":
            headers["if-match"] = f'"{chance.randint(1, 5)}"'
        if "redemption_id" in parameters and self.redemptions and chance.random() < 0.7:
            parameters["redemption_id"] = chance.choice(self.redemptions)
        if "code" in parameters and "/vouchers/" in sample.path and self.vouchers:
            parameters["code"] = chance.choice(self.vouchers)
        if "adjustment_id" in parameters and chance.random() < 0.7:
            parameters["adjustment_id"] = id_of("a", f"k{chance.randrange(number + 1)}")
        if sample.name in LAST or chance.random() < 0.3:
            one = chance.choice(MORE)
            if "member_id" in parameters:
                parameters["member_id"] = one
            elif body is not None:
                body = body.replace('"mila"', f'"{one}"')
        return replace(sample, parameters=parameters, headers=headers, body=body)

    def _content(self, chance: Random, content: bytes) -> bytes:
        tree = mutations.parsed(content.decode())
        if chance.random() < 0.15:
            others = [each.body for each in self.samples.values() if each.body is not None]
            tree = mutations.parsed(chance.choice(others))
        for _ in range(chance.choice((0, 0, 1, 1, 1, 1, 2, 3, 5))):
            tree = mutations.bend(chance, tree, _NAMES)
        made = mutations.rendered(tree).encode("utf-8", "surrogatepass")
        return mutations.broken(chance, made) if chance.random() < 0.08 else made

    def _path(self, chance: Random, sample: Sample) -> str:
        bent = chance.choice(list(sample.parameters)) if sample.parameters else ""
        return sample.path.format_map(
            {
                name: mutations.segment(chance, value) if name == bent else quote(value, safe="")
                for name, value in sample.parameters.items()
            }
        )


_NAMES = [
    "event_id", "type", "member_id", "occurred_at", "channel", "location_id", "attributes",
    "points", "purchase", "currency", "lines", "line_id", "quantity", "amount", "tax",
    "paid_with_points", "redemption_ids", "refund_id", "reward_id", "order", "hold",
    "to_member_id", "from_member_id", "reason_code", "note", "expires_on", "into_member_id",
    "tier_id", "until", "code", "email", "phone", "name", "birthday", "groups", "timezone",
    "referral_code", "program", "account", "now", "balance", "seq", "status", "scope", "role",
    "__proto__", "rules", "limits", "expiry", "rewards", "locations", "branding", "campaigns",
    "offers", "tiers", "transfers", "referrals", "budget", "rounding", "holds", "payment",
    "refunds", "logo_url", "color", "locale",
]  # fmt: skip


def _meddling(chance: Random) -> Callable[[Event], None] | None:
    """What a gateway of another making might do to an event."""
    if chance.random() > 0.02:
        return None
    body = chance.choice(("!!!", "e30", "e30=\n", "ZQ==ZQ==", "\ud800", "é", "/w==", "7aCA"))
    encoded = chance.random() < 0.8

    def meddle(event: Event) -> None:
        event["body"] = body
        event["isBase64Encoded"] = encoded
        event.pop("queryStringParameters", None)

    return meddle


# What must hold


def faults_of(world: World, case: Case, answer: Answer) -> Iterator[str]:
    """What an answer should not have been."""
    if answer.status >= 500:
        yield f"{answer.status}"
    found = world.service.gateway.find(case.method, case.target.partition("?")[0])
    route = None if found is None else found[0].key
    if answer.status == 413 and answer.headers["content-type"] == "application/json":
        route = None if len(case.content) < 4_000_000 else "too much for the gateway"
    if route != "too much for the gateway":
        yield from world.contract.faults(route, answer)
    if 400 <= answer.status < 500 and answer.writes and _code(answer) != "voucher_not_found":
        yield f"{answer.status} {_code(answer)}, and {answer.writes} writes"
    if answer.cpu_seconds > MOST_SECONDS:
        yield f"{answer.cpu_seconds:.2f} s of CPU"
    yield from _told(world, answer)


def _code(answer: Answer) -> str:
    if answer.headers.get("content-type") != PROBLEM:
        return ""
    return str(json.loads(answer.content).get("code"))


def _told(world: World, answer: Answer) -> Iterator[str]:
    for secret in (SECRET, "Traceback (most", 'File "/', world.service.tables.ledger, "127.0.0.1:"):
        if secret.encode() in answer.content:
            yield f"it tells {secret!r}"
    if any("\n" in value or "\r" in value for value in answer.headers.values()):
        yield "a header has two lines"
    kind = answer.headers.get("content-type", "")
    if kind.startswith(("text/html", "image/svg")):
        if b"<zz9" in answer.content:
            yield "a tag that was sent stands in the page"
        if kind.startswith("image/svg"):
            ElementTree.fromstring(answer.content)  # noqa: S314  # our own poster; an error is a finding
        elif "default-src 'none'" not in answer.headers.get("content-security-policy", ""):
            yield "a page without its policy"


# Running


def run(seed: int, numbers: Sequence[int], endpoint: str, key: Path) -> Result:
    """The cases of these numbers, against an engine; whole blocks, but for the last one."""
    result = Result()
    template = Template.load()
    plain = samples()
    rich = [_enriched(sample) for sample in plain]
    begun = time.perf_counter()
    block: int | None = None
    with contextlib.ExitStack() as stack:
        for number in numbers:
            if number // BLOCK != block:
                block = number // BLOCK
                stack.close()
                tables = create_tables(endpoint, f"fuzz-{seed}-{block}", template)
                service = stack.enter_context(Inside(endpoint, tables, template, key))
                for table in (tables.accounts, tables.ledger, tables.records):
                    stack.callback(service.client.delete_table, TableName=table)
                world = World(service, [plain, rich][block % 2], contract())
            chance = Random(f"{seed}:{number}")  # noqa: S311  # replayable, and no secret
            _try(world, chance, f"{seed}:{number}", number % BLOCK, result)
    result.seconds = time.perf_counter() - begun
    return result


def samples() -> list[Sample]:
    """Every request of events/."""
    found = map(Sample.read, sorted(EVENTS.glob("*.json")))
    return [sample for sample in found if sample is not None]


@cache
def contract() -> Contract:
    """What the committed document announces; it takes a second to compile."""
    return Contract(json.loads((FUNCTIONS / "openapi.json").read_text("utf-8")))


def _enriched(sample: Sample) -> Sample:
    """The sample; that of a program with every part that a program can have."""
    if sample.name != "put_program":
        return sample
    plain = json.loads(sample.body or "")
    whole = json.loads(json.dumps(yaml.safe_load(EXAMPLE.read_text("utf-8")), default=str))
    for rule in plain["rules"]:
        rule["rule_id"] = f"plain-{rule['rule_id']}"
    whole["locations"][0]["check_in"]["kinds"] = ["static"]
    whole["rewards"][0]["stock"] = 3
    whole["points_payment"] = {"points": 10, "amount": 5}
    for part in ("rules", "rewards", "locations"):
        whole[part] = plain[part] + whole[part]
    kept = {name: plain[name] for name in ("program_id", "name", "adjustments")}
    return replace(sample, body=json.dumps(whole | kept, ensure_ascii=False))


def _try(world: World, chance: Random, name: str, number: int, result: Result) -> None:
    case = world.case(chance, number)
    before = world.held() if chance.randrange(LOOKED_AT) == 0 else None
    again = chance.randrange(SENT_AGAIN) == 0

    def more(answer: Answer) -> Iterator[str]:
        if before is not None and 400 <= answer.status < 500:
            result.compared += 1
            if world.held() != before:
                yield f"{answer.status} has changed what the tables hold"
        # Without a key a check-in is another one.
        keyed = "/check-ins" not in case.target or b"idempotency-key" in dict(case.headers)
        if again and keyed and answer.status == 201:
            repeat = world.send(case)
            result.repeated += 1
            if (repeat.status, repeat.content) != (201, answer.content):
                yield f"sent again: {repeat.status} {repeat.content[:300]!r}"

    judge(world, case, name, result, more)


def judge(
    world: World,
    case: Case,
    name: str,
    result: Result,
    more: Callable[[Answer], Iterable[str]] = lambda _: (),
) -> None:
    """Send a case, look at its answer, and count what came of it."""
    answer = world.send(case)
    faults = [*faults_of(world, case, answer), *more(answer)]
    world.learn(answer)
    found = world.service.gateway.find(case.method, case.target.partition("?")[0])
    route = "none" if found is None else found[0].key
    result.cases += 1
    result.statuses[str(answer.status)] += 1
    result.routes[route] += 1
    result.callers[case.caller] += 1
    if answer.status < 300:
        result.done[route] += 1
    if code := _code(answer):
        result.codes[code] += 1
    result.slowest = max(result.slowest, (answer.cpu_seconds, answer.seconds, name))
    if answer.seconds > MOST_SECONDS:
        result.late[name] = answer.seconds
    result.last = f"{name}: {case.shown()}\n{answer.status} {answer.content[:2000]!r}"
    for fault in faults:
        _add_fault(result, f"{name}: {fault}\n    {case.shown()}")


def _add_fault(result: Result, fault: str) -> None:
    result.faults.append(fault)
    print(fault, file=sys.stderr, flush=True)  # at once: the rest may take long


def judge_late(result: Result, alone: Callable[[set[str]], Result]) -> None:
    """Find out which late cases are late always, which is a fault: `alone` sends the cases of these
    names again, with nothing beside them."""
    late = set(result.late)
    for _ in range(TRIES):
        if late:
            late &= alone(late).late.keys()
    result.always_late = len(late)
    for name in sorted(late):
        _add_fault(result, f"{name}: over {MOST_SECONDS:g} s by the clock, {TRIES} times alone too")


def _work(seed: int, numbers: Sequence[int], key: Path) -> Result:
    """The same in a process of its own, with an engine of its own."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # os.devnull is a name, not a path
        # Metrics and logs of the handlers are nobody's business here.
        os.dup2(nowhere.fileno(), 1)
        with Engine() as engine:
            return run(seed, numbers, engine.endpoint, key)


def everywhere(seed: int, cases: int, processes: int, key: Path) -> Result:
    """So many cases, block by block in these processes."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    for number in range(cases):
        shares[number // BLOCK % processes].append(number)
    total = together(_work, [(seed, numbers, key) for numbers in shares], processes)
    judge_late(total, lambda names: again(names, key))
    return total


def together(
    work: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], processes: int
) -> Result:
    """What all of this work came to, done in so many processes."""
    total = Result()
    begun = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(work, *zip(*arguments, strict=True)):
            total.add(result)
    total.seconds = time.perf_counter() - begun
    return total


def again(names: Iterable[str], key: Path) -> Result:
    """Cases with all that came before them in their blocks, one after the other."""
    last: dict[tuple[int, int], int] = {}
    for name in names:
        seed, number = map(int, name.split(":"))
        block = seed, number // BLOCK
        last[block] = max(number, last.get(block, 0))
    blocks = [(s, range(b * BLOCK, number + 1), key) for (s, b), number in last.items()]
    return together(_work, blocks, 1)


def report(result: Result, command: str, seed: int, processes: int) -> str:
    """The section of the document."""
    classes = Counter[str]()
    for status, count in result.statuses.items():
        classes[f"{status[0]}xx"] += count
    cpu, _, name = result.slowest
    today = date.today().isoformat()  # noqa: DTZ011  # the day of the run, wherever
    statuses = ", ".join(f"{n:,} × {status}" for status, n in sorted(result.statuses.items()))
    callers = ", ".join(f"{n:,} × {caller}" for caller, n in sorted(result.callers.items()))
    never = sorted(set(PROBLEMS) - set(result.codes) - {"internal_error", "unavailable"})
    lines = [
        f"{result.cases:,} requests of seed {seed} in {result.seconds:,.0f} s"
        f" ({result.cases / max(result.seconds, 1):,.0f} a second): {len(result.faults)} faults.",
        "",
        "| asked | requests |",
        "|---|--:|",
        f"| answered with a success | {classes['2xx']:,} |",
        f"| refused | {classes['4xx']:,} |",
        f"| 5xx | {classes['5xx']:,} |",
        f"| refusals around which all three tables were compared | {result.compared:,} |",
        f"| commands sent again, and answered the same | {result.repeated:,} |",
        f"| slowest, CPU of one request | {cpu * 1000:,.0f} ms (case {name}) |",
        f"| over one second by the clock, and so sent again alone | {len(result.late):,} |",
        f"| over one second alone too, each of {TRIES} times | {result.always_late:,} |",
        "",
        f"By status: {statuses}.",
        "",
        f"By caller: {callers}.",
        "",
        f"Problems met: {len(result.codes)} of {len(PROBLEMS)}. Not met: "
        + (", ".join(f"`{code}`" for code in never) or "none")
        + ".",
        "",
        "| route | requests | of them done |",
        "|---|--:|--:|",
        *(
            f"| `{route}` | {count:,} | {result.done[route]:,} |"
            for route, count in sorted(result.routes.items())
        ),
        "",
        f"Run on {today} by `{command}`, {processes} processes on {os.cpu_count()} cores;"
        f" load average {os.getloadavg()[1]:.1f}.",
    ]
    return "\n".join(lines)


def command(module: str) -> str:
    """How this process was called."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=CASES, help=f"default: {CASES:,}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one case again")
    parser.add_argument("--write", action="store_true", help="put the result into docs/proof.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.pem"
        Issuer(key, "")  # one key for all processes: it takes long to make
        if options.replay:
            return replayed(again([options.replay], key))
        result = everywhere(options.seed, options.cases, options.processes, key)
    text = report(result, command("tools.fuzz"), options.seed, options.processes)
    told("fuzz", text, write=options.write, document=DOCUMENT)
    return 1 if result.faults else 0


def replayed(result: Result) -> int:
    """Tell what came of the last case, and the exit status."""
    print(result.last)
    late = [f"{name}: {seconds:.2f} s by the clock" for name, seconds in result.late.items()]
    print(*late, f"{len(result.faults)} faults in {result.cases:,} cases", sep="\n")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
