"""Whether what clients saw at once could have happened one after the other.

A history is what 16 concurrent clients of one member asked and were answered, with the times of
both. It is linearizable if each operation can be given one moment between its call and its answer,
so that in the order of these moments a program of a few lines (`step`) gives the same answers. The
search for such an order is that of Wing and Gong with the memory of Lowe: an operation is taken as
the next if no other ended before it began, and no set of operations is tried twice in one state.

    python -m tests.linearizability [--histories 1000] [--write]

records histories from clients in processes of their own through the handlers on a fresh engine, and
the same with the store's conditions taken away, which has to be noticed. With --write the report
goes into docs/proof.md. It ends with status 1 if anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Literal, NamedTuple, Self

from loyalty import store
from tests import workers
from tests.mutations import PROOF
from tests.programs import smallest
from tests.workers import NOON, Call, deployed
from tools.bench import measured_on, told
from tools.engine import LOCAL_CREDENTIALS, Engine, Tables, create_tables

PROCESSES: Final = 4
THREADS: Final = 4
CLIENTS: Final = PROCESSES * THREADS
OPERATIONS: Final = 3
"""Of each client in a history."""
PATIENCE_SECONDS: Final = 120

type Fault = Literal["", "double award", "lost update"]
"""Which condition of the store's transactions is taken away: that of the entry, of the account."""

PROGRAM: Final = smallest(
    program_id="line",
    rules=[{"rule_id": "buy", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}],
)


# What is asked and answered


class Operation(NamedTuple):
    """What a client asked for: to `award` points for an event, to `redeem` them under a key (both
    `name`), or for the `balance`."""

    what: str
    name: str = ""
    points: int = 0

    def call(self, member_id: str) -> Call:
        match self.what:
            case "award":
                call = workers.purchase(f"{member_id}-{self.name}", member_id, self.points * 100)
            case "redeem":
                call = workers.redeem(member_id, f"{member_id}-{self.name}", points=self.points)
            case _:
                call = workers.balance(member_id)
        return Call(**{f: getattr(call, f) for f in call.__slots__} | {"program_id": "line"})


class Response(NamedTuple):
    """What came back: the status, a number (the balance, or the points that are missing), and
    whether it was a replay."""

    status: int
    number: int = 0
    replayed: bool = False

    @classmethod
    def of(cls, answer: workers.Answer) -> Response:
        body = answer.body
        numbers = [body[n] for n in ("balance", "available", "missing_points") if n in body]
        return cls(answer.status, numbers[0] if numbers else 0, answer.replayed)


class Event(NamedTuple):
    """An operation in a history, from `called` to `answered` (nanoseconds of one clock)."""

    operation: Operation
    called: int
    answered: int
    response: Response


# The specification


class State(NamedTuple):
    """A member, sequentially: the balance, and the commands carried out so far as (kind, name,
    points, balance after it)."""

    balance: int = 0
    done: frozenset[tuple[str, str, int, int]] = frozenset()


def step(state: State, operation: Operation) -> tuple[State, Response]:
    """What one operation does and answers, were it alone."""
    what, name, points = operation
    if what == "balance":
        return state, Response(200, state.balance)
    for kind, known, before, balance in state.done:
        if (kind, known) == (what, name):
            # Once for each name: a repeat gets the first answer, another payload a refusal.
            return state, Response(201, balance, True) if before == points else Response(422)
    if what == "redeem" and points > state.balance:
        return state, Response(409, points - state.balance)
    balance = state.balance + (points if what == "award" else -points)
    return State(balance, state.done | {(what, name, points, balance)}), Response(201, balance)


# The search


def order(history: Sequence[Event]) -> list[int] | None:
    """An order of the history's events in which `step` answers as they were answered, and which
    keeps to time; None if there is none."""
    everything = (1 << len(history)) - 1
    tried: set[tuple[int, State]] = set()
    # Depth first: the events taken so far, and for each the candidates that are left to try.
    path: list[int] = []
    states = [State()]
    taken = 0
    candidates = [_next(history, taken)]
    while taken != everything:
        if not candidates[-1]:
            candidates.pop()
            if not path:
                return None
            taken &= ~(1 << path.pop())
            states.pop()
            continue
        number = candidates[-1].pop()
        state, response = step(states[-1], history[number].operation)
        reached = taken | 1 << number
        if response != history[number].response or (reached, state) in tried:
            continue
        tried.add((reached, state))
        path.append(number)
        states.append(state)
        taken = reached
        candidates.append(_next(history, taken))
    return path


def _next(history: Sequence[Event], taken: int) -> list[int]:
    """The events of which one may be the next: none that is left has ended before they began."""
    left = [i for i in range(len(history)) if not taken >> i & 1]
    ends = min((history[i].answered for i in left), default=0)
    # Tried from the end of the list: what ended first is the likeliest to have been first.
    found = [i for i in left if history[i].called <= ends]
    return sorted(found, key=lambda i: -history[i].answered)


# Recording


def script(chance: random.Random) -> list[list[Operation]]:
    """What 16 clients do: few names, so that many repeat what others do, some with other points."""

    def any_of_them() -> Operation:
        match chance.choice(["award", "award", "redeem", "redeem", "balance"]):
            case "award":
                number = chance.randint(1, 12)
                other = 3 * (chance.random() < 0.1)
                return Operation("award", f"event-{number}", 5 + number + other)
            case "redeem":
                number = chance.randint(1, 12)
                return Operation("redeem", f"key-{number}", 4 + number)
        return Operation("balance")

    return [[any_of_them() for _ in range(OPERATIONS)] for _ in range(CLIENTS)]


@dataclass(frozen=True, slots=True)
class Job:
    """What the clients of one process do to a member."""

    member_id: str
    scripts: Sequence[Sequence[Operation]]
    seed: int


class Recorder:
    """Sixteen clients in four processes; with a `fault`, their stores lack a condition."""

    def __init__(self, endpoint: str, tables: Tables, fault: Fault = "") -> None:
        self._endpoint, self._tables, self._fault = endpoint, tables, fault
        self._client = workers.connect(endpoint)

    def __enter__(self) -> Self:
        context = workers.processes()
        self._barrier = context.Barrier(CLIENTS, timeout=PATIENCE_SECONDS)
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, self._barrier, self._endpoint, self._tables, self._fault),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        with deployed(self._client, self._tables, NOON):
            workers.done(workers.publish(PROGRAM))
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(PATIENCE_SECONDS)
            process.close()

    def record(self, member_id: str, chance: random.Random) -> list[Event]:
        """The history of a new member, with a look at the balance when all is over."""
        with deployed(self._client, self._tables, NOON):
            body = {"member_id": member_id}
            enrolment = Call(
                "members", f"POST {workers.BASE}/members", body=body, program_id="line"
            )
            workers.done(enrolment)
            scripts = script(chance)
            for i, pipe in enumerate(self._pipes):
                share = scripts[i * THREADS : (i + 1) * THREADS]
                pipe.send(Job(member_id, share, chance.randrange(1 << 30)))
            history: list[Event] = []
            for pipe in self._pipes:
                assert pipe.poll(PATIENCE_SECONDS), "a process of clients does not answer"
                result = pipe.recv()
                if isinstance(result, Exception):
                    raise result
                history += result
            history.append(_asked(Operation("balance"), member_id, random.Random(0)))  # noqa: S311
        return sorted(history, key=lambda event: event.called)

    def effects(self, member_id: str) -> int:
        """How many commands the account says have been carried out, the enrolment apart."""
        known = workers.of_tables(self._client, self._tables)
        account = known.account("line", member_id, consistent=True)
        assert account
        return account.seq - 1


def _serve(
    pipe: Connection, barrier: threading.Barrier, endpoint: str, tables: Tables, fault: Fault
) -> None:
    workers.hush()
    # Time enough for every answer: one that was lost would be a replay of its own first effect.
    client = store.connect(
        read_timeout_seconds=60,
        endpoint_url=endpoint,
        region_name=LOCAL_CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=LOCAL_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=LOCAL_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    _break(client, tables, fault)
    with deployed(client, tables, NOON), ThreadPoolExecutor(THREADS) as pool:
        while (job := pipe.recv()) is not None:
            try:
                pipe.send(_played(job, barrier, pool))
            except Exception as error:  # noqa: BLE001  # whatever it is belongs to who asked
                barrier.abort()
                pipe.send(RuntimeError(repr(error)))


def _break(client: Any, tables: Tables, fault: Fault) -> None:
    """Take a condition away from every transaction of the client."""
    broken = {"double award": tables.ledger, "lost update": tables.accounts}.get(fault)

    def without(params: Any, **_: object) -> None:
        for request in params["TransactItems"]:
            if request.get("Put", {}).get("TableName") == broken:
                request["Put"].pop("ConditionExpression")
                request["Put"].pop("ExpressionAttributeValues", None)

    if broken:
        client.meta.events.register("provide-client-params.dynamodb.TransactWriteItems", without)


def _played(job: Job, barrier: threading.Barrier, pool: ThreadPoolExecutor) -> list[Event]:
    def client(number: int) -> list[Event]:
        chance = random.Random(job.seed + number)  # noqa: S311  # a test, reproducible
        barrier.wait()
        return [_asked(operation, job.member_id, chance) for operation in job.scripts[number]]

    return [event for events in pool.map(client, range(THREADS)) for event in events]


def _asked(operation: Operation, member_id: str, chance: random.Random) -> Event:
    """One operation of a client that sends again what is answered with 503, as it is told to."""

    def pause(seconds: float) -> None:
        time.sleep(seconds * 0.1 * chance.random())

    called = time.monotonic_ns()
    answer = workers.insist(operation.call(member_id), pause)
    return Event(operation, called, time.monotonic_ns(), Response.of(answer))


# The proof


@dataclass(slots=True)
class Verdict:
    """Of so many histories: how many are linearizable; with a fault, in how many it took effect,
    and those on which the search and that did not agree."""

    histories: int = 0
    linearizable: int = 0
    hurt: int = 0
    disagreed: int = 0
    longest: float = 0
    seconds: float = 0
    answers: Counter[str] | None = None


def judged(recorder: Recorder, histories: int, prefix: str, fault: Fault = "") -> Verdict:
    """Record so many histories and judge each; `prefix` begins the ids of their members."""
    verdict = Verdict(answers=Counter())
    begun = time.monotonic()
    for number in range(histories):
        chance = random.Random(f"{prefix}-{number}")  # noqa: S311  # reproducible scripts
        member_id = f"{prefix}-{number}"
        history = recorder.record(member_id, chance)
        search = time.monotonic()
        fits = order(history) is not None
        verdict.longest = max(verdict.longest, time.monotonic() - search)
        hurt = _hurt(history, recorder.effects(member_id), fault)
        verdict.histories += 1
        verdict.linearizable += fits
        verdict.hurt += hurt
        verdict.disagreed += fits == hurt
        assert verdict.answers is not None
        for event in history:
            told_as = "replay" if event.response.replayed else str(event.response.status)
            verdict.answers[f"{event.operation.what} {told_as}"] += 1
    verdict.seconds = time.monotonic() - begun
    return verdict


def _hurt(history: Sequence[Event], effects: int, fault: Fault) -> bool:
    """Whether the fault took effect, by what it leaves behind."""
    made = [e.operation for e in history if e.response.status == 201 and not e.response.replayed]
    if fault == "double award":
        return len({(o.what, o.name) for o in made}) < len(made)
    return effects != len(made)


def table(verdicts: dict[Fault, Verdict]) -> str:
    """The report as it stands in the document."""
    rows = [
        "| store | histories | linearizable | fault took effect | flagged of those |",
        "|--|--:|--:|--:|--:|",
    ]
    for fault, verdict in verdicts.items():
        name = {"": "as it is", "double award": "without the entry's condition"}.get(
            fault, "without the account's condition"
        )
        rows.append(
            f"| {name} | {verdict.histories:,} | {verdict.linearizable:,} | {verdict.hurt:,} |"
            f" {verdict.histories - verdict.linearizable:,} |"
        )
    whole = verdicts[""]
    answers = whole.answers or Counter()
    shown = ", ".join(f"{name} {n:,}" for name, n in sorted(answers.items()))
    rows += [
        "",
        f"Answers in the {whole.histories:,} histories of the store as it is: {shown}. The longest"
        f" search took {whole.longest * 1000:.0f} ms; recording and judging"
        f" {whole.seconds:.0f} s.",
        "",
        measured_on(f"{CLIENTS} clients in {PROCESSES} processes", f"{OPERATIONS} operations each"),
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="put the report into docs/proof.md")
    options = parser.parse_args()
    os.environ.update(LOCAL_CREDENTIALS)
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "POWERTOOLS_METRICS_DISABLED": "true"}
    os.environ |= {"POWERTOOLS_SERVICE_NAME": "proof", "POWERTOOLS_LOG_LEVEL": "CRITICAL"}
    verdicts: dict[Fault, Verdict] = {}
    faults: tuple[Fault, ...] = ("", "double award", "lost update")
    for number, fault in enumerate(faults):
        with Engine() as engine:
            tables = create_tables(engine.endpoint, f"proof-linear-{number}")
            with Recorder(engine.endpoint, tables, fault) as recorder:
                # A tenth is enough to see whether a fault is noticed.
                many = options.histories if not fault else max(1, options.histories // 10)
                verdicts[fault] = judged(recorder, many, f"h{number}", fault)
    told("linearizability", table(verdicts), write=options.write, document=PROOF)
    return 1 if any(verdict.disagreed for verdict in verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
