"""What an operation costs, beside the design that samples use and the least there is; and whether
that grows with a member's history, lots or the program's rules.

    python -m tools.bench_costs [--write]

Units are what the engine reports (ReturnConsumedCapacity), exact and the same in the cloud. What a
write that fails is billed no engine reports: it is worked out from the items of the request.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from io import StringIO
from typing import Any

from loyalty import edge
from loyalty.dates import milliseconds
from loyalty.lots import due_on
from loyalty.model import Account
from loyalty.validation import publishable
from loyalty.wire import account_item
from tests import workers
from tests.programs import shop
from tests.workers import NOON, Call, deployed, done, send
from tools import meter
from tools.bench import measured_on, told
from tools.bench_rival import Rival, dollars
from tools.engine import Engine, create_tables
from tools.template import Template

NOW = milliseconds(NOON)
TODAY = 20_530
ROUNDS = 40
"""Of each growth case; the least time counts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Units and calls of one request, and the seconds it took here."""

    write: Decimal
    failed: Decimal
    read: Decimal
    calls: int
    seconds: float


class Bench:
    """The handlers on tables of their own, metered."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.direct = engine.client(parameter_validation=False)
        self.client = workers.connect(engine.endpoint)
        meter.attach(self.client)
        self.tables = create_tables(engine.endpoint, f"loyalty-{name}", Template.load())

    def publish(self, document: dict[str, Any]) -> None:
        with self.opened(days=-30):
            done(workers.publish(document))

    def opened(self, days: int = 0) -> Any:
        moment = NOON + timedelta(days=days)
        return deployed(self.client, self.tables, moment)

    def cost(self, call: Call, status: int = 201) -> Cost:
        """What a request takes whose program the process knows already."""
        with self.opened():
            edge.store().rulebook_in_force("shop", NOW)
            return measured(lambda: _expect(call, status))

    def put(self, account: Account) -> None:
        """Set an account up as it would stand after a long life."""
        self.direct.put_item(TableName=self.tables.accounts, Item=account_item(account))


def measured(work: Callable[[], object]) -> Cost:
    """What some work consumed and how long it took."""
    with meter.measure() as units:
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    return Cost(units.write, units.failed, units.read, units.calls, seconds)


def _expect(call: Call, status: int) -> None:
    answer = send(call)
    assert answer.status == status, answer.body


def operations(engine: Engine) -> str:
    """The table of operations: ours, the samples' design, the floor."""
    ours = _ours(Bench(engine, "costs"))
    # Powertools asks for Lambda's context, which would only tell it when to give up.
    warnings.simplefilter("ignore", UserWarning)
    bench = Bench(engine, "rival")
    rival = Rival(bench.client, "rival")
    rival.create()
    theirs: dict[str, tuple[Cost, Cost]] = {}
    for name, call in (("award (3 lines)", rival.award), ("redemption", rival.redeem)):
        call({"member_id": "ana", "event_id": f"warm-{name}"}, atomic=False)
        events = [{"member_id": "ana", "event_id": f"{name}-{i}"} for i in range(2)]
        separate = measured(partial(call, events[0], atomic=False))
        atomic = measured(partial(call, events[1], atomic=True))
        theirs[name] = separate, atomic
    again = {"member_id": "ana", "event_id": "award (3 lines)-1"}
    replay = measured(lambda: rival.award(again, atomic=True))
    theirs["award again (replay)"] = replay, replay
    balance = measured(lambda: rival.balance("ana"))
    theirs["balance"] = balance, balance
    floor = {
        "*two writes, the least an award can be, outside a transaction*": measured(
            partial(rival.least, "floor-1", atomic=False)
        ),
        "*the same two in a transaction*": measured(partial(rival.least, "floor-2", atomic=True)),
    }
    head = "write units", "read units", "calls", "dollars per million"
    rows = [
        f"| operation | {' | '.join(head)} | samples: write, read, calls | dollars per million"
        " | samples in a transaction | dollars per million |",
        f"|---|{'--:|' * 8}",
    ]
    for name, cost in (ours | floor).items():
        cells = [name, _write(cost), cost.read, cost.calls, _price(cost)]
        for other in theirs.get(name, ()):
            cells += [f"{_write(other)}, {other.read}, {other.calls}", _price(other)]
        cells += [""] * (9 - len(cells))
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def _ours(bench: Bench) -> dict[str, Cost]:
    document = shop()
    document["transfers"] = {"enabled": True, "min_points": 1}
    document["referral"] = {
        "award_on": "first_purchase", "referrer_points": 5, "referred_points": 5
    }  # fmt: skip
    document["tiers"] = {
        "qualify_by": "points",
        "window": "lifetime",
        "levels": [
            {"tier_id": "basic", "name": "Basic", "at": 0},
            {"tier_id": "gold", "name": "Gold", "at": 9_000_000},
        ],
    }
    bench.publish(document)
    with bench.opened(days=-1):
        codes = {
            member: done(workers.enrol(member))["referral_code"]
            for member in ("ana", "ben", "cleo", "dora")
        }
        for member in ("ana", "ben"):
            done(workers.adjust(member, 10_000, f"gift-{member}"))
        done(workers.enrol("friend", referral_code=codes["ben"]))
        done(workers.purchase("order-0", "ana", 1250))
        voucher = done(workers.redeem("ana", "tea", reward_id="free-coffee"))["voucher"]["code"]
    costs: dict[str, Cost] = {}

    def add(name: str, call: Call, status: int = 201) -> None:
        costs[name] = bench.cost(call, status)

    add("award (3 lines)", workers.purchase("order-1", "ana", 1250, 3000, 499))
    add("award again (replay)", workers.purchase("order-1", "ana", 1250, 3000, 499))
    add("first purchase that pays a referral", workers.purchase("order-2", "friend", 1250))
    add("check-in", workers.check_in("ana", "visit"))
    add("enrolment", workers.enrol("emil", name="Emil", email="emil@example.com"))
    add("redemption", workers.redeem("ana", "pay", points=5))
    add("redemption with a voucher", workers.redeem("ana", "coffee", reward_id="free-coffee"))
    add("use of a voucher", workers.use(voucher), 200)
    add("hold", workers.redeem("ana", "aGVsZA", points=5, hold=True))
    add("capture", workers.capture(_redemption("aGVsZA")), 200)
    with bench.opened():
        done(workers.redeem("ana", "held", points=5, hold=True))
    add("cancellation", workers.cancel(_redemption("held")), 200)
    add("refund", workers.reverse("order-1", "back"))
    add("transfer", workers.transfer("gift", from_member_id="ana", to_member_id="ben", points=5))
    add("adjustment", workers.adjust("ana", 5, "sorry"))
    add("tier set by staff", workers.set_tier("ana", tier_id="gold", until="2027-01-01"), 200)
    add("merge", workers.merge("cleo", "dora", "one"))
    add("balance", workers.balance("ana"), 200)
    add("25 rows of history", workers.entries("ana"), 200)
    add("refusal", workers.redeem("ana", "more", points=900_000), 409)
    return costs


def _redemption(key: str) -> str:
    return "r-" + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _write(cost: Cost) -> str:
    return f"{cost.write}" if not cost.failed else f"{cost.write} + {cost.failed} failed"


def _price(cost: Cost) -> str:
    return f"{dollars(cost.write + cost.failed, cost.read):.2f}"


def growth(engine: Engine) -> str:
    """The table of what grows and what it costs."""
    rows = [
        "| an award of a member with | write units | read units | ms | ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    for cases in (_lots(engine), _programs(engine), _histories(engine)):
        costs = _side_by_side(cases)
        for case, cost in zip(cases, costs, strict=True):
            ratio = cost.seconds / costs[0].seconds
            cells = case.name, cost.write, cost.read, f"{cost.seconds * 1000:.1f}", f"{ratio:.2f}"
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class Case:
    """A member of whom an award is measured."""

    name: str
    bench: Bench
    member_id: str


def _lots(engine: Engine) -> list[Case]:
    bench = Bench(engine, "lots")
    bench.publish(shop())
    cases = []
    for lots in (1, 12, 60, 365):
        account = Account(
            program_id="shop",
            member_id=f"lots-{lots}",
            seq=1,
            lots=tuple((TODAY + 2 * i + 1, 100) for i in range(lots)),
            lifetime=10_000,
            active_on=TODAY - 1,
            recorded_at=NOW - 86_400_000,
            hash=bytes(32),
        )
        bench.put(replace(account, due_on=due_on(publishable(shop()), account)))
        cases.append(Case(_counted(lots, "live lot", "live lots"), bench, account.member_id))
    return cases


def _programs(engine: Engine) -> list[Case]:
    cases = []
    for rules in (1, 2_000):
        bench = Bench(engine, f"rules-{rules}")
        base = {"rule_id": "base", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}
        more = [
            {
                "rule_id": f"extra-{i}",
                "trigger": "purchase",
                "match": {"products": [f"SKU-{i}"]},
                "earn": {"points": 1},
            }
            for i in range(1, rules)
        ]
        bench.publish(shop(rules=[base, *more], limits=[]))
        with bench.opened(days=-1):
            done(workers.enrol("ana"))
        cases.append(Case(f"a program of {_counted(rules, 'rule', 'rules')}", bench, "ana"))
    return cases


def _histories(engine: Engine) -> list[Case]:
    bench = Bench(engine, "histories")
    bench.publish(shop())
    cases = []
    for entries in (1, 1_000, 100_000):
        case = Case(_counted(entries, "entry", "entries"), bench, f"old-{entries}")
        with bench.opened(days=-20):
            bench.put(workers.come_often(bench.direct, bench.tables, case.member_id, entries))
        cases.append(case)
    return cases


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _side_by_side(cases: Sequence[Case]) -> list[Cost]:
    """What each case costs, and the least time it took in rounds that take turns, so that whatever
    else the machine does meets them alike."""
    costs: list[list[Cost]] = [[] for _ in cases]
    for i in range(ROUNDS):
        for case, found in zip(cases, costs, strict=True):
            order = f"{case.member_id}-order-{i}"
            found.append(case.bench.cost(workers.purchase(order, case.member_id, 1250)))
    return [replace(found[0], seconds=min(cost.seconds for cost in found)) for found in costs]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into the document")
    wish = parser.parse_args()
    with redirect_stdout(StringIO()), Engine() as engine:  # handlers print their metrics
        costs, grown = operations(engine), growth(engine)
    told("costs", f"{costs}\n\n{measured_on()}", write=wish.write)
    told("growth", f"{grown}\n\n{measured_on()}", write=wish.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
