"""The engine beside the naive ledger of `reference.py`: the same commands, the same answers.

Random scenarios (`scenarios.py`) are carried out by the handlers over tables in memory and by the
model, and after each command the answers, and what members have, are compared. A difference is
shown with the least program and the fewest commands that lead to it:

    python -m tests.differential --seed 123 [--ops N] [-v]     one scenario
    python -m tests.differential --ops 1000000 --jobs 2        a million commands, two processes
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import logging
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import groupby, permutations
from operator import itemgetter
from typing import Any, Final
from unittest import mock

import expire
from loyalty import edge, projections, store
from loyalty.codes import CheckInCode, check_in_code, voucher_code
from loyalty.dates import from_day_number, from_milliseconds, rfc3339
from loyalty.decisions import advanced, id_of
from loyalty.model import NEVER
from tests import workers
from tests.faults import Faults
from tests.memory import MEMORY, MemoryTables
from tests.reference import Model
from tests.scenarios import MEMBERS, Command, Dice, Document, Scenario, scenario
from tests.strategies import DAY, HOUR
from tests.turns import Turns
from tests.workers import BASE, SECRETS, Call, without_pause
from tools.bench import told as told_in
from tools.engine import Engine, Tables, create_tables
from tools.template import ROOT, Template

READINGS: Final[dict[str, Any]] = {
    "PAYMENT_NEEDS_ORDER": False,
    "RESTORED_POINTS": "all",
    "INACTIVITY_PENDING": False,
    "BIRTHDAY_DAYS": 7,
    "RESTORE_FIRST": True,
    "EXPIRING_UNDATED": True,
}
"""Where the documents leave a choice, what the product has chosen and documented."""

LENGTH: Final = 100
"""Commands of a scenario."""
CHUNK: Final = 50
"""Scenarios that a process plays before it tells."""
DOCUMENT: Final = ROOT / "docs" / "proof.md"
PROGRAM: Final = "random"
UNKNOWN: Final = "0000000000"
"""A referral code that nobody has."""

type Told = dict[str, Any]
"""What an answer says, as both sides can say it."""


# The product


class Product:
    """The deployed handlers at a time that is set. `insists`: what was answered with 503 is sent
    again, as clients are told to, and so is a message of the sweep that failed; `unavailable` and
    `unswept` count them."""

    def __init__(self, *, insists: bool = False) -> None:
        self.now = 0
        self.unavailable = self.unswept = 0
        self._insists = insists
        self.codes: dict[str, str] = {}
        self._versions = 0

    def clock(self) -> datetime:
        """In place of the edge's."""
        return from_milliseconds(self.now)

    def do(self, command: Command, now: int) -> Told:
        """Carry a command out; what the answer tells."""
        self.now = now
        kind = command["kind"]
        if kind == "sweep":
            while not sweep():
                assert self._insists, "an account was not swept"
                self.unswept += 1
            return {"ok": True}
        if kind == "publish":
            return self.publish(command["document"])
        answer = self._sent(call_of(command))
        if kind == "enrol" and answer["statusCode"] == 201:
            self.codes[command["member_id"]] = json.loads(answer["body"])["referral_code"]
        return told(kind, answer)

    def publish(self, document: Document) -> Told:
        answer = self._sent(workers.publish(document, self._versions or None))
        if answer["statusCode"] != 200:
            raise AssertionError(answer["body"])
        self._versions = json.loads(answer["body"])["version"]
        return {"ok": True}

    def _sent(self, call: Call) -> Any:
        handler: Any = importlib.import_module(call.module).handler
        for _ in range(TRIES):
            answer = handler(call.event(), None)
            if answer["statusCode"] != 503 or not self._insists:
                break
            self.unavailable += 1
        return answer

    def view(self, member_id: str, now: int) -> Told:
        """What a member has, and where."""
        self.now = now
        account = edge.store().account(PROGRAM, member_id, consistent=True)
        while account is not None and account.merged_into:
            account = edge.store().account(PROGRAM, account.merged_into, consistent=True)
        if account is None:
            return {"ok": False, "code": "member_not_found"}
        rulebook = edge.store().rulebook_in_force(PROGRAM, now)
        shown = projections.balance(rulebook, account, now)
        account, _ = advanced(rulebook, account, max(now, account.recorded_at))
        open_holds = [hold for hold, _ in account.holds]
        return {
            **{name: shown[name] for name in SUMS},  # type: ignore[literal-required]  # names of it
            "tier": None if account.status == "erased" else shown["tier"],
            "lots": [[_iso(day), points] for day, points in account.lots],
            "pending_lots": [[_iso(a), _iso(b), points] for a, b, points in account.pending],
            "holds": sorted([account.held_by(hold.key), hold.until] for hold in open_holds),
            "expiring": shown["expiring"],
            "status": account.status or "active",
        }

    def view_as_of(self, member_id: str, now: int, then: int) -> Told:
        """What was shown of a member at a past time, as it is told now."""
        self.now = now
        answer = self._sent(read(workers.balance(member_id, as_of=rfc3339(then))))
        shown = json.loads(answer["body"])
        if answer["statusCode"] != 200:
            return {"ok": False, "code": shown["code"]}
        names = (*SUMS, "tier", "expiring")
        return {name: shown[name] for name in names} | {"status": shown.get("status", "active")}

    def history(self, member_id: str, now: int) -> list[list[Any]] | None:
        """What was done and what was lost, the first first; None for who is not to be read."""
        self.now = now
        rows: list[Told] = []
        query = {"limit": "100"}
        while True:
            answer = self._sent(read(workers.entries(member_id, **query)))
            if answer["statusCode"] != 200:
                return None
            page = json.loads(answer["body"])
            rows += page["items"]
            if page["next_cursor"] is None:
                return _rows(rows[::-1])
            query["cursor"] = page["next_cursor"]


def _by_itself(row: Told) -> bool:
    """Whether it fell due; a tier that staff have not set is one that was lost."""
    is_due = row["kind"] in ("expire", "activate", "lapse", "notice")
    return is_due or (row["kind"] == "tier" and row["reason"] is None)


def _rows(rows: list[Told]) -> list[list[Any]]:
    """A row for what each command did, as documents do not say in how many it is shown, with the
    balance after all of it; and one for what was lost between."""
    found: list[list[Any]] = []
    for seq, group in groupby(rows, itemgetter("seq")):
        entry = list(group)
        own = [i for i, row in enumerate(entry) if not _by_itself(row)]
        first, last = (own[0], own[-1]) if own else (0, -1)
        found.append(["expire", sum(row["points"] for row in entry[:first])])
        if own:
            kind = "enrol" if seq == 1 else entry[first]["kind"]
            points = sum(entry[i]["points"] for i in own)
            found.append([kind, points, entry[-1]["balance_after"]])
        found.append(["expire", sum(row["points"] for row in entry[last + 1 :])])
    return joined(found)


FEASTS: Final = {"birthday", "anniversary"}


def joined(rows: Iterable[list[Any]]) -> list[list[Any]]:
    """What is lost in a row as one row, and a birthday with the anniversary that is paid beside it:
    no document says which comes first."""
    found: list[list[Any]] = []
    for kind, points, *rest in rows:
        if found and {kind, found[-1][0]} == FEASTS:
            found[-1] = ["birthday and anniversary", found[-1][1] + points, *rest]
        elif kind != "expire":
            found.append([kind, points, *rest])
        elif points and found and found[-1][0] == kind:
            found[-1] = [kind, found[-1][1] + points]
        elif points:
            found.append([kind, points])
    return found


def read(call: Call) -> Call:
    return replace(call, program_id=PROGRAM)


SUMS: Final = (
    "available", "pending", "held", "debt", "lifetime_points", "qualifying_points",
)  # fmt: skip


class Silent:
    """In place of metrics."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def add_metric(self, *_: object) -> None:
        """Nobody looks at it."""

    flush_metrics = add_metric


@contextmanager
def deployed(
    client: Any,
    tables: Tables = MEMORY,
    *,
    insists: bool = False,
    jitter: Callable[[], float] = lambda: 0.0,
) -> Iterator[Product]:
    """The handlers on tables that this client reaches, which nobody has used before."""
    product = Product(insists=insists)
    variables = {
        **tables.environment,
        "LOYALTY_SECRETS": SECRETS,
        "PROGRAM_DELAY_SECONDS": "0",
    }
    known = (edge.store, edge.secrets, edge.publish_delay)
    # Patience is measured by a clock that stands still: how busy the machine is changes nothing.
    settings = {"sleep": without_pause, "jitter": jitter, "monotonic": lambda: 0.0}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(store, "connect", return_value=client),
        mock.patch.object(edge, "Store", partial(store.Store, **settings)),
        mock.patch.object(edge, "clock", product.clock),
        mock.patch.object(edge, "EphemeralMetrics", Silent),
    ):
        for each in known:
            each.cache_clear()
        try:
            yield product
        finally:
            for each in known:
                each.cache_clear()


def sweep() -> bool:
    """One message of the sweep, over everything; whether all of it was done."""
    context = mock.Mock()
    context.get_remaining_time_in_millis.return_value = 900_000
    return expire.handler(workers.sweep_event(), context) == {"batchItemFailures": []}


def _iso(day: int) -> str | None:
    return None if day >= NEVER else from_day_number(day).isoformat()


def call_of(command: Command) -> Call:
    """The request that a command is."""
    kind = command["kind"]
    body = {name: value for name, value in command.items() if name not in ("kind", "key", "by")}
    key = command.get("key")
    call: Call
    match kind:
        case "enrol":
            call = workers.enrol(body.pop("member_id"), **body)
        case "award":
            if "occurred_at" in body:
                body["occurred_at"] = rfc3339(body["occurred_at"])
            if "redemption_ids" in body.get("purchase", {}):
                ids = [id_of("r", key) for key in body["purchase"]["redemption_ids"]]
                body["purchase"] = body["purchase"] | {"redemption_ids": ids}
            call = Call("award", f"POST {BASE}/awards", body=body)
        case "complete_profile":
            call = workers.change(body["member_id"], name="Somebody")
        case "set_groups" | "set_birthday":
            call = workers.change(body.pop("member_id"), **body)
        case "check_in":
            place = CheckInCode(PROGRAM, body.pop("location_id"), 1)
            body["code"] = check_in_code(edge.secrets(), place)
            headers = {} if key is None else {"idempotency-key": key}
            call = Call("check_in", f"POST {BASE}/check-ins", body=body, headers=headers)
        case "reversal":
            call = Call("award", f"POST {BASE}/reversals", body=body)
        case "redeem":
            call = workers.redeem(body.pop("member_id"), str(key), **body)
        case "capture":
            call = workers.capture(id_of("r", body["redemption_id"]))
        case "cancel":
            call = workers.cancel(id_of("r", body["redemption_id"]))
        case "use_voucher":
            identity = id_of("r", body["redemption_id"])
            secrets = edge.secrets()
            code = voucher_code(secrets, secrets.current, PROGRAM, identity)
            call = workers.use(code, key)
        case "transfer":
            call = workers.transfer(str(key), **body)
        case "adjust":
            call = workers.adjust(body.pop("member_id"), body.pop("points"), str(key), **body)
        case "approve" | "refuse":
            path = {"adjustment_id": id_of("a", str(key))}
            call = Call("staff", f"POST {BASE}/adjustments/{{adjustment_id}}/{kind}", path)
        case "merge":
            call = workers.merge(body["member_id"], body["into_member_id"], str(key))
        case "block" | "unblock" | "close":
            call = workers.become(kind, body["member_id"])
        case "erase":
            call = workers.erase(body["member_id"])
        case "set_tier":
            call = workers.set_tier(body.pop("member_id"), **body)
        case _:
            raise NotImplementedError(kind)
    return replace(call, program_id=PROGRAM, subject=command.get("by", "tests"))


def told(kind: str, answer: Any) -> Told:
    """What an answer of the product tells, in the model's words."""
    body = json.loads(answer["body"])
    if answer["statusCode"] >= 400:
        refusal = _refusal(body)
        if "next_allowed_at" in refusal:
            refusal["next_allowed_at"] = _milliseconds(refusal["next_allowed_at"])
        return {"ok": False, **refusal}
    found: Told = {"ok": True, "replayed": "Idempotency-Replayed" in answer["headers"]}
    for name in FIELDS.get(kind, ()):
        if name in body:
            found[name] = body[name]
    if "lots" in found:
        found["lots"] = _by_date(found["lots"])
    if "taken_from" in body:
        found["taken"] = _by_date(body["taken_from"])
    if kind == "award":
        found.setdefault("reversed_points", 0)
    if "explanation" in found:
        rows = [
            {**row, "factors": [_told_factor(factor) for factor in row["factors"]]}
            for row in found["explanation"]
        ]
        found["explanation"] = _explained(rows)
    for name in ("held_until", "next_allowed_at"):
        if name in found:
            found[name] = _milliseconds(found[name])
    if "voucher" in found:
        found["voucher"] = found["voucher"]["expires_on"]
    if "limited_by" in found:
        found["limited_by"] = [_limit(each) for each in found["limited_by"]]
    return found


REFUSED: Final = (
    "code", "missing_points", "fresh_points", "next_allowed_at", "reason", "redemption_status",
    "adjustment_status",
)  # fmt: skip
"""What is compared of a refusal."""


def _refusal(fields: Told) -> Told:
    return {name: fields[name] for name in REFUSED if fields.get(name) not in (None, 0)}


FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "enrol": ("member_id", "points", "balance", "explanation"),
    "award": (
        "member_id", "points", "desired_points", "pending_points", "lots", "balance",
        "explanation", "limited_by", "reversed_points",
    ),
    "check_in": (
        "member_id", "points", "desired_points", "pending_points", "lots", "balance",
        "explanation", "limited_by", "next_allowed_at", "location_id",
    ),
    "reversal": (
        "status", "member_id", "points", "debt", "expired_points", "forgiven_points",
        "restored_points", "balance", "taken",
    ),
    "redeem": ("status", "points", "balance", "held_until", "voucher", "discount"),
    "capture": ("status", "points", "balance", "voucher", "discount"),
    "cancel": ("status", "points", "balance"),
    "use_voucher": ("status",),
    "transfer": ("points", "lots", "balances"),
    "adjust": ("status", "points", "lots", "balance"),
    "approve": ("status", "points", "lots", "balance"),
    "refuse": ("status",),
    "merge": ("member_id", "points", "balance"),
    "block": ("status", "balance"),
    "unblock": ("status", "balance"),
    "close": ("status", "balance"),
    "set_tier": ("tier",),
    "erase": ("status",),
}  # fmt: skip
"""What is compared of an answer to each kind of command; of others, whether it was refused."""


def _milliseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )


def _by_date(lots: list[Told]) -> list[list[Any]]:
    sums: dict[str, int] = {}
    for lot in lots:
        day = lot["expires_on"] or ""
        sums[day] = sums.get(day, 0) + abs(lot["points"])
    # Without a date: never, so last.
    return [[day or None, sums[day]] for day in sorted(sums, key=lambda day: day or "~")]


def _limit(shown: Told) -> Told:
    """A limit that cut an award, in the model's words."""
    name = ":".join(shown[each] for each in ("rule_id", "campaign_id") if each in shown)
    match shown["scope"]:
        case "campaign":
            return {"limit": f"campaign:{name}"}
        case "budget":
            return {"limit": "program:budget"}
        case scope:
            name = f"{name or scope}:{shown['per']}"
            return {"limit": name, "points": shown["points"], "over": shown["over"]}


def _explained(rows: list[Told]) -> list[Told]:
    """By name: why each rule or offer fired or did not, what it gave, and by what multiplied."""
    found = []
    for row in rows:
        each: Told = {
            "name": row.get("rule_id", row.get("offer_id")),
            "points": row["points"],
            "desired_points": row["desired_points"],
            "factors": [],
        }
        if row["points"] or row["desired_points"]:
            each["factors"] = sorted(row["factors"])
        if "reasons" in row:
            each["reasons"] = row["reasons"] or ["granted"]
        else:
            assert row["fired"] == (row["reason"] == "granted")
            each["reason"] = row["reason"]
        found.append(each)
    return sorted(found, key=lambda row: str(row["name"]))


def _told_factor(factor: Told) -> tuple[str, str, Fraction]:
    """Kind, id and number of a multiplier."""
    name = {"line": "rule_id", "tier": "tier_id", "campaign": "campaign_id"}[factor["kind"]]
    return factor["kind"], factor[name], Fraction(factor["multiplier"])


# The model


class Naive:
    """The model, its answers in the same words."""

    def __init__(self, document: Document, readings: dict[str, Any], codes: dict[str, str]) -> None:
        self._codes = codes
        self._named: set[str] = set()
        self.model = Model(document, readings=readings)

    def do(self, command: Command, now: int) -> Told:
        kind = command["kind"]
        if kind == "publish":
            self.model.publish(command["document"], now)
            return {"ok": True}
        if kind == "enrol":
            own = self._codes.get(command["member_id"])
            command = command | {"own_code": own}
        answer = self.model.do(command, now)
        self._complete(command, answer, now)
        if not answer["ok"]:
            reasons = [answer, *answer.get("others", ())]
            return {"ok": False, "any_of": [_refusal(reason) for reason in reasons]}
        if kind == "sweep":
            return {"ok": True}
        found: Told = {"ok": True, "replayed": bool(answer.get("replayed"))}
        for name in FIELDS.get(kind, ()):
            if name in answer:
                found[name] = answer[name]
        if "lots" in found:
            found["lots"] = _by_date(found["lots"])
        if "explanation" in found:
            found["explanation"] = _explained(found["explanation"])
        if "limited_by" in found:
            found["limited_by"] = [_without(each, "refuses") for each in found["limited_by"]]
        if "voucher" in found:
            found["voucher"] = found["voucher"]["expires_on"]
        return found

    def _complete(self, command: Command, answer: Told, now: int) -> None:
        """Every change of a profile that is complete is looked at: rules may be new."""
        kind, ok = command["kind"], answer["ok"]
        if not ok or kind not in (
            "complete_profile",
            "set_birthday",
            "set_groups",
            "enrol",
        ):
            return
        member_id = command["member_id"]
        if kind == "complete_profile":
            self._named.add(self.model.resolved(member_id))
        elif kind in ("set_birthday", "set_groups"):
            member_id = self.model.resolved(member_id)
        if member_id in self._named and kind != "complete_profile":
            self.model.do({"kind": "complete_profile", "member_id": member_id}, now)

    def copy(self) -> Naive:
        """Another one that has seen the same."""
        # Documents never change, nor does what a command leaves of a member.
        past = (state for states in self.model.past.values() for state in states)
        same = (*self.model.documents.values(), *self.model.members.values(), *past)
        kept = {id(each): each for each in same}
        other = copy.copy(self)
        other.model, other._named = copy.deepcopy((self.model, self._named), kept)
        return other

    def view(self, member_id: str, now: int) -> Told:
        return self.model.view(member_id, now)

    def view_as_of(self, member_id: str, then: int) -> Told | None:
        shown = self.model.view_as_of(member_id, then)
        if shown is None or "code" in shown:
            return shown
        return {name: value for name, value in shown.items() if name not in UNSEEN}

    def history(self, member_id: str) -> list[list[Any]]:
        return joined(self.model.history(member_id))


UNSEEN: Final = frozenset({"lots", "pending_lots", "holds"})
"""What a balance does not show."""

# Both


@dataclass(frozen=True, slots=True)
class Difference:
    """What was not the same, after which command (counted from 0)."""

    step: int
    what: str
    product: Any
    model: Any

    @property
    def sort(self) -> str:
        """What kind of difference it is: smaller ones of the same kind stand for it."""
        what = self.what
        if not what.startswith("the answers"):
            what = " ".join(word for word in what.split()[:3] if word not in MEMBERS)
        if not (isinstance(self.product, dict) and isinstance(self.model, dict)):
            return what
        if "any_of" in self.model:
            codes = {refusal["code"] for refusal in self.model["any_of"]}
            return f"{what}: code {self.product.get('code')}/{' or '.join(sorted(codes))}"
        names = self.product.keys() | self.model.keys()
        return f"{what}: " + ", ".join(
            f"{n} {self.product.get(n)}/{self.model.get(n)}" if n == "code" else n
            for n in sorted(names)
            if self.product.get(n) != self.model.get(n)
        )

    def __str__(self) -> str:
        lines = [f"after command {self.step}: {self.what}"]
        if isinstance(self.product, dict) and isinstance(self.model, dict):
            for name in sorted(self.product.keys() | self.model.keys()):
                ours, theirs = self.product.get(name), self.model.get(name)
                if ours != theirs:
                    lines += [f"  {name}:", f"    product {ours}", f"    model   {theirs}"]
        elif isinstance(self.product, list) and isinstance(self.model, list):
            pairs = zip(self.product, self.model, strict=False)
            at = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
            at = min(len(self.product), len(self.model)) if at is None else at
            lines += [
                f"  row {at}:",
                f"    product {self.product[at : at + 3]}",
                f"    model   {self.model[at : at + 3]}",
            ]
        else:
            lines += [f"  product {self.product}", f"  model   {self.model}"]
        return "\n".join(lines)


def same(ours: Told, theirs: Told) -> bool:
    """Whether two answers say the same: of refusals, and of reasons for which a rule did not fire,
    one that applies; and all else."""
    if not ours["ok"] and not theirs["ok"]:
        return _refusal(ours) in theirs["any_of"]
    if "explanation" not in ours or "explanation" not in theirs:
        return ours == theirs
    rows, expected = ours["explanation"], theirs["explanation"]
    but = {"explanation": None}
    return (
        ours | but == theirs | but
        and len(rows) == len(expected)
        and all(map(_same_row, rows, expected))
    )


def _same_row(ours: Told, theirs: Told) -> bool:
    """Of the reasons that apply, one."""
    rest = {name: value for name, value in ours.items() if name != "reason"}
    return ours["reason"] in theirs["reasons"] and rest == {
        name: value for name, value in theirs.items() if name != "reasons"
    }


@dataclass(slots=True)
class Tally:
    """What was compared."""

    programs: int = 0
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    several: int = 0
    """Refusals for one of several reasons that applied."""
    faults: Counter[str] = field(default_factory=Counter)
    """Those that calls to the tables met, by kind."""
    unavailable: int = 0
    """Answers 503."""
    unswept: int = 0
    """Messages of the sweep that failed."""
    found: int = 0
    """Commands of which a first attempt had taken effect: their answers were replays."""
    differing: list[int] = field(default_factory=list)

    def count(self, command: Command, ours: Told, theirs: Told) -> None:
        """An answer that was the same."""
        self.done[command["kind"]] += 1
        if not ours["ok"]:
            self.refused[ours["code"]] += 1
            self.several += len(theirs["any_of"]) > 1

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            both = getattr(self, each.name) + getattr(other, each.name)
            setattr(self, each.name, both)
        return self


def coded(command: Command, codes: dict[str, str]) -> Command:
    """The command with a referrer's code in place of the name."""
    if "referrer" not in command:
        return command
    code = codes.get(command["referrer"], UNKNOWN)
    rest = {name: value for name, value in command.items() if name != "referrer"}
    return rest | {"referral_code": code}


def concerned(command: Command) -> set[str]:
    """The members that a command names."""
    names = ("member_id", "from_member_id", "to_member_id", "into_member_id", "referrer")
    return {command[name] for name in names if name in command}


def compared(
    play: Scenario, tally: Tally | None = None, show: Callable[[str], None] | None = None
) -> Difference | None:
    """Carry the scenario out on both sides up to the first difference."""
    tally = tally or Tally()
    members: set[str] = set()
    with deployed(MemoryTables()) as product:
        product.now = play.steps[0][0] if play.steps else 0
        product.publish(play.document)
        naive = Naive(play.document, READINGS, product.codes)
        for i, (now, command) in enumerate(play.steps):
            command = coded(command, product.codes)
            ours, theirs = product.do(command, now), naive.do(command, now)
            if show:
                show(f"{i:4} {rfc3339(now)} {json.dumps(command)}\n       {ours}")
            if not same(ours, theirs):
                return Difference(i, f"the answers to {command['kind']}", ours, theirs)
            tally.count(command, ours, theirs)
            members |= concerned(command)
            whole = i % 10 == 0 or i + 1 == len(play.steps) or not concerned(command)
            for member_id in sorted(members if whole else concerned(command)):
                ours, theirs = product.view(member_id, now), naive.view(member_id, now)
                if ours != theirs:
                    return Difference(i, f"what {member_id} has", ours, theirs)
        if found := _looking_back(play, members, product, naive):
            return found
    tally.programs += 1
    return None


def unordered(rows: list[list[Any]]) -> list[list[Any]]:
    """What was done, without balances, and what was lost in all."""
    lost = sum(row[1] for row in rows if row[0] == "expire")
    return [*sorted(row[:2] for row in rows if row[0] != "expire"), ["expire", lost]]


def _looking_back(
    play: Scenario,
    members: set[str],
    product: Product,
    naive: Naive,
    seen: Callable[[list[list[Any]]], list[list[Any]]] = list,
) -> Difference | None:
    """What differs of the history, as it is `seen`, and of a balance in the past."""
    if not play.steps:
        return None
    last, now = len(play.steps) - 1, max(now for now, _ in play.steps)
    dice = Dice(now)
    then = min(now, dice.choice(play.steps)[0] + dice.choice([0, HOUR, 9 * DAY]))
    for member_id in sorted(members):
        theirs = naive.view_as_of(member_id, then)
        ours = product.view_as_of(member_id, now, then)
        if theirs is not None and ours != theirs:
            return Difference(last, f"what {member_id} had at {rfc3339(then)}", ours, theirs)
        rows = product.history(member_id, now)
        if rows is None:
            continue
        rows, shown = seen(rows), seen(naive.history(member_id))
        if rows != shown:
            return Difference(last, f"the history of {member_id}", rows, shown)
    return None


# Through the store: a real engine, broken calls, clients at once

ALONE: Final = ("publish", "sweep")
"""What no client does."""
KEYLESS: Final = ("complete_profile", "set_birthday", "set_groups")
"""Changes of a profile."""
TRIES: Final = 2000
"""A client that is answered with 503 gives up after so many: no storm asks for half of them."""
AT_ONCE: Final = 3
"""Clients at most: all orders of what they did are looked at."""
BROKEN: Final = 25
"""So many of a thousand calls to the tables meet a fault."""
STORM: Final = 500
"""And so many for a while in one case of ten, so that commands are shed with 503."""


def _groups(play: Scenario, dice: Dice) -> Iterator[list[Command | int]]:
    """The commands in their order, some of them at once: [when the last is given, commands …]."""
    group: list[Any] = []
    for now, command in play.steps:
        command = dict(command)
        if command["kind"] == "check_in" and "key" not in command:
            continue  # a repeat of it would be another one
        if command["kind"] == "use_voucher":
            command["key"] = f"use {len(group)} at {now}"
        # Of two refunds of one event that wait for it no answer tells which one came first.
        refunds = [c["event_id"] for c in (*group[1:], command) if c["kind"] == "reversal"]
        # A change of a profile has no key: one that a merge overtook comes again as another.
        kinds = {c["kind"] for c in (*group[1:], command)}
        apart = "merge" in kinds and not kinds.isdisjoint(KEYLESS)
        alone = command["kind"] in ALONE or apart or len(set(refunds)) < len(refunds)
        if group and (alone or len(group) > AT_ONCE or dice.often(40)):
            yield group
            group = []
        group = [now, *group[1:], command]
        if command["kind"] in ALONE:
            yield group
            group = []
    if group:
        yield group


def compared_through_the_store(
    play: Scenario, seed: int, engine: Engine, tally: Tally
) -> Difference | None:
    """Carry the scenario out by clients at once on a real engine of which calls break, and find an
    order of what they did at once in which the model says the same."""
    dice = Dice(seed)
    turns = Turns(dice)
    client = workers.connect(engine.endpoint)
    client.meta.events.register_first("before-send.dynamodb", lambda **_: turns.pause())
    faults = Faults(client)
    tables = create_tables(engine.endpoint, f"d{uuid.uuid4().hex[:12]}", Template.load())
    members: set[str] = set()
    with deployed(client, tables, insists=True, jitter=dice.random) as product:
        product.now = play.steps[0][0]
        product.publish(play.document)
        naive = Naive(play.document, READINGS, product.codes)
        step = 0
        for now, *commands in _groups(play, dice):
            together = [coded(command, product.codes) for command in commands]
            faults.scatter(STORM if dice.often(10) else BROKEN, dice)
            answers = turns.run([partial(product.do, command, now) for command in together])
            faults.heal()
            for command in together:
                members |= concerned(command)
            views = {member_id: product.view(member_id, now) for member_id in sorted(members)}
            first = None
            for order in permutations(range(len(together))):
                other = naive.copy() if len(together) > 1 else naive
                theirs = {i: other.do(together[i], now) for i in order}
                found = _differing(together, answers, theirs, views, other, now, step)
                if found is None:
                    naive = other
                    break
                first = first or found
            else:
                return first
            step += len(together)
            for i, command in enumerate(together):
                tally.count(command, answers[i], theirs[i])
                tally.found += answers[i].get("replayed", False) > theirs[i].get("replayed", False)
        # Of what was done at once either order may be the one in the history.
        if found := _looking_back(play, members, product, naive, unordered):
            return found
        tally.faults += faults.met
        tally.unavailable += product.unavailable
        tally.unswept += product.unswept
    tally.programs += 1
    return None


def _differing(
    commands: Sequence[Command],
    answers: Sequence[Told],
    theirs: dict[int, Told],
    views: dict[str, Told],
    naive: Naive,
    now: int,
    step: int,
) -> Difference | None:
    """What differs if the commands were carried out in the order in which the model did."""
    for i, their in theirs.items():
        # A repeat after a lost answer is a replay, and its answer the first one's.
        if not same(_without(answers[i], "replayed"), _without(their, "replayed")):
            return Difference(step + i, f"the answers to {commands[i]['kind']}", answers[i], their)
    for member_id, ours in views.items():
        shown = naive.view(member_id, now)
        if ours != shown:
            return Difference(step, f"what {member_id} has", ours, shown)
    return None


def _without(shown: Told, name: str) -> Told:
    return {each: value for each, value in shown.items() if each != name}


def run_through_the_store(seeds: range, length: int = LENGTH) -> Tally:
    """Compare the scenarios of these seeds through the store."""
    tally = Tally()
    with Engine() as engine:
        for seed in seeds:
            play = scenario(seed, length)
            if compared_through_the_store(play, seed, engine, tally) is not None:
                tally.differing.append(seed)
    return tally


# The least of a difference


def least(play: Scenario, found: Difference) -> tuple[Scenario, Difference]:
    """A smaller scenario that ends in a difference of the same kind."""

    def differs(smaller: Scenario) -> Difference | None:
        try:
            other = compared(smaller)
        except Exception:  # noqa: BLE001  # what is left makes no sense to one of them
            return None
        return other if other is not None and other.sort == found.sort else None

    play = replace(play, steps=play.steps[: found.step + 1])
    best = differs(play) or found
    size = max(1, len(play.steps) // 2)
    while True:
        at, shrunk = 0, False
        while at < len(play.steps):
            smaller = replace(play, steps=play.steps[:at] + play.steps[at + size :])
            if other := differs(smaller):
                play = replace(smaller, steps=smaller.steps[: other.step + 1])
                best, shrunk = other, True
            else:
                at += size
        if not shrunk and size == 1:
            break
        if not shrunk:
            size //= 2
    changed = True
    while changed:
        changed = False
        for document in _smaller(play.document):
            smaller = replace(play, document=document)
            if other := differs(smaller):
                play, best, changed = smaller, other, True
                break
    return play, best


def _smaller(part: Any) -> Iterator[Any]:
    """The same with one thing less, somewhere."""
    if isinstance(part, dict):
        for name in part:
            yield {n: v for n, v in part.items() if n != name}
        for name, value in part.items():
            for less in _smaller(value):
                yield part | {name: less}
    elif isinstance(part, list):
        for i in range(len(part)):
            yield part[:i] + part[i + 1 :]
        for i, value in enumerate(part):
            for less in _smaller(value):
                yield [*part[:i], less, *part[i + 1 :]]


def shown(play: Scenario, found: Difference) -> str:
    """A difference for people: the program, the commands, what is not the same."""
    lines = [json.dumps(play.document)]
    lines += [f"{i:4} {rfc3339(now)} {json.dumps(c)}" for i, (now, c) in enumerate(play.steps)]
    return "\n".join([*lines, str(found)])


# The command line


def run(seeds: range, length: int = LENGTH) -> Tally:
    """Compare the scenarios of these seeds."""
    tally = Tally()
    for seed in seeds:
        if compared(scenario(seed, length), tally) is not None:
            tally.differing.append(seed)
    return tally


def run_all(play: Callable[[range], Tally], seeds: range, jobs: int) -> Tally:
    """The same in so many processes."""
    tally = Tally()
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs) as pool:
        for done in pool.map(play, chunks):
            tally += done
    return tally


def summary(tally: Tally) -> str:
    """What was compared, as a table for the document."""
    commands, refused = sum(tally.done.values()), sum(tally.refused.values())
    kinds = sorted(tally.done.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [
        f"{commands:,} commands of {len(kinds)} kinds in {tally.programs:,} random programs, "
        f"{refused:,} of them refused for {len(tally.refused)} reasons "
        f"({tally.several:,} where several applied): "
        f"**{len(tally.differing)} differences**.",
        "",
        *_faults(tally),
        "| kind | commands |",
        "|---|---:|",
        *(f"| {kind} | {count:,} |" for kind, count in kinds),
    ]
    return "\n".join(rows)


def _faults(tally: Tally) -> list[str]:
    """What broke and what came of it, where anything broke."""
    if not tally.faults:
        return []
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(tally.faults.items()))
    return [
        f"{tally.faults.total():,} calls to the tables met a fault: {kinds}. "
        f"{tally.unavailable:,} answers were a 503 and {tally.unswept:,} messages of the sweep "
        f"failed; both were sent again. {tally.found:,} commands had taken effect unknown to who "
        "gave them: the answer to the next attempt was a replay.",
        "",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Play one scenario or many; the exit status says whether there was a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, help="one scenario, and what differs in it")
    parser.add_argument("--ops", type=int, help="commands in all (of one scenario: 100)")
    parser.add_argument("--first", type=int, default=1, help="the seed to begin with")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--store", action="store_true", help="on a real engine with faults, clients at once"
    )
    parser.add_argument("--write", action="store_true", help="put the result into docs/proof.md")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every command")
    options = parser.parse_args(arguments)
    if options.store:
        logging.disable(logging.CRITICAL)  # of requests that were shed: they are sent again
    if options.seed is not None and options.store:
        return _one_through_the_store(options.seed, options.ops or LENGTH)
    if options.seed is not None:
        return _one(options.seed, options.ops or LENGTH, verbose=options.verbose)
    count = -(-(options.ops or 10_000) // LENGTH)
    play = run_through_the_store if options.store else run
    tally = run_all(play, range(options.first, options.first + count), options.jobs)
    name = "store" if options.store else "model"
    told_in(name, summary(tally), write=options.write, document=DOCUMENT)
    how = "--store " if options.store else ""
    for seed in tally.differing[:20]:
        print(f"python -m tests.differential {how}--seed {seed}")
    return 1 if tally.differing else 0


def _one_through_the_store(seed: int, length: int) -> int:
    with Engine() as engine:
        play = scenario(seed, length)
        found = compared_through_the_store(play, seed, engine, Tally())
    print(f"seed {seed}: no difference" if found is None else found)
    return 0 if found is None else 1


def _one(seed: int, length: int, *, verbose: bool) -> int:
    play = scenario(seed, length)
    found = compared(play, show=print if verbose else None)
    if found is None:
        print(f"seed {seed}: {len(play.steps)} commands, no difference")
        return 0
    print(shown(*least(play, found)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
