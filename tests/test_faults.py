"""Each fault at each call that a command makes: once the client has sent its request again, as a
503 tells it to, there is exactly one effect and the same answer."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest

import expire
from loyalty import store
from loyalty.codes import voucher_code
from tests import workers
from tests.faults import FAULTS, KILLED, READ_FAULTS, WRITES, Fault, Faults, Plan
from tests.programs import shop
from tests.workers import (
    NOON,
    Answer,
    Books,
    Call,
    deployed,
    insist,
    meanwhile,
    send,
    without_pause,
)
from tools.engine import Engine, Tables

HELD = 1070
"""What Ana holds before any of the commands."""
SURVIVED: tuple[Fault, ...] = tuple(f for f in FAULTS if not f.startswith("killed"))


@dataclass(frozen=True)
class Command:
    """A request, and what of its outcome each attempt draws anew (a pattern)."""

    call: Call
    drawn: str | None = None

    def text(self, value: Any) -> str:
        """A text that equal outcomes share."""
        if self.drawn is None:
            return _text(value)
        if isinstance(value, dict) and "pk" in value:
            value = {name: each for name, each in value.items() if name != "h"}
        return re.sub(self.drawn, "…", _text(value))


def _text(value: Any) -> str:
    return json.dumps(value, default=lambda raw: bytes(raw).hex(), sort_keys=True)


ENROLLED = r'\b[0-9A-Z]{10}\b|"(f|salt)": {"B": "[0-9a-f]{32}"}'
"""A referral code, a salt, and the fingerprint under it."""
REVISION = r'"revision": {"N": "[0-9]+"}'
USE = r'"use": {"S": "[0-9a-f]+"}'
KEY = r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"

PAID_ID = "r-Y29mZmVl"
"""Of the redemption that Fay made under the key `coffee`."""


def paid(event_id: str) -> Call:
    """An order of Fay's that her redemption paid for."""
    call = workers.purchase(event_id, "fay", 1000, 500)
    purchase = call.body["purchase"] | {"redemption_ids": [PAID_ID]}
    return replace(call, body=call.body | {"purchase": purchase})


VOUCHER = voucher_code(store.secrets_of(workers.SECRETS), 1, "shop", PAID_ID)
"""What she holds for it."""
HOLD_ID = "r-aGVsZA"
"""Of the hold that Dora has open under the key `held`."""
PROPOSAL_ID = "a-dGlja2V0LTA"
"""Of an adjustment of Dora's points that was proposed under the key `ticket-0`."""

SECTIONS: dict[str, Any] = {
    "transfers": {},
    "adjustments": {"second_person_above": 1000},
    "tiers": {"levels": [{"tier_id": "base", "at": 0}, {"tier_id": "gold", "at": 10**6}]},
}

COMMANDS: dict[str, Command] = {
    "enrolment": Command(workers.enrol("ben", name="Ben", groups=["vip"]), ENROLLED),
    "enrolment by key": Command(workers.enrol(key="till-7", email="cleo@example.com"), ENROLLED),
    "award": Command(workers.purchase("order-2", "ana", 1250, 3000, 499)),
    # The account keeps no counter of its week any more: the history is read.
    "late award": Command(
        workers.purchase(
            "order-3", "ana", 100, 2000, occurred_at=(NOON - timedelta(days=9)).isoformat()
        )
    ),
    "check-in": Command(workers.check_in("ana", "visit-1")),
    "redemption": Command(workers.redeem("ana", "pay-1", points=HELD)),
    "reward": Command(workers.redeem("ana", "pay-2", reward_id="free-coffee")),
    "reversal": Command(workers.reverse("order-1", "return-1")),
    "reversal of a line": Command(
        workers.reverse("order-1", "return-2", lines=[{"line_id": "1", "amount": 4_000}])
    ),
    "reversal of what has not come": Command(workers.reverse("order-9", "return-1")),
    "reversal of what a voucher paid": Command(workers.reverse("order-6", "return-1")),
    "award of what has come back and a voucher paid": Command(paid("order-7")),
    "award of what has come back": Command(workers.purchase("order-8", "ana", 1250, 3000)),
    "hold": Command(workers.redeem("ana", "hold-1", points=50, hold=True)),
    "capture": Command(workers.capture(HOLD_ID)),
    "cancellation": Command(workers.cancel(HOLD_ID)),
    "transfer": Command(
        workers.transfer("gift-1", from_member_id="ana", to_member_id="dora", points=70)
    ),
    "adjustment": Command(workers.adjust("ana", -30, "ticket-1", note="By mistake.")),
    "proposal": Command(workers.adjust("ana", 5000, "ticket-2", note="A long story.")),
    "approval": Command(workers.settle("approve", PROPOSAL_ID, by="another")),
    "refusal": Command(workers.settle("refuse", PROPOSAL_ID)),
    "merge": Command(workers.merge("eli", "ana", "merge-1")),
    # Each time one of these is sent it draws an id of its own.
    "voucher": Command(workers.use(VOUCHER, "scan-1"), USE),
    "tier": Command(workers.set_tier("ana", tier_id="gold", until="2026-12-31"), KEY),
    "block": Command(workers.become("block", "ana", "block-1")),
    "erasure": Command(workers.erase("dora")),
    "groups": Command(workers.change("ana", groups=["vip", "staff"]), KEY),
    "profile": Command(workers.change("ana", name="Ana B.", phone=None), REVISION),
    "program": Command(workers.publish(shop(name="Corner Coffee & Cake"), replaces=1)),
    "first program": Command(workers.publish(shop(program_id="another"))),
}


class Stage:
    """A shop of which every case begins with the same books, behind a wire that breaks."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.endpoint = engine.endpoint
        self.tables = tables
        self.direct = engine.client(parameter_validation=False)
        self.client = workers.connect(engine.endpoint)
        self.faults = Faults(self.client)
        for days, call in (
            (30, workers.publish(shop(**SECTIONS))),
            (20, workers.enrol("ana", name="Ana", phone="+33 1 23")),
            (9, workers.purchase("order-0", "ana", 1000, 1000)),
            (0, workers.purchase("order-1", "ana", 90_000, 8_000)),
            (0, workers.enrol("dora", name="Dora")),
            (0, workers.enrol("eli", email="eli@example.com")),
            (0, workers.redeem("dora", "held", points=20, hold=True)),
            (0, workers.reverse("order-8", "early", amount=500)),
            (0, workers.adjust("dora", 2000, "ticket-0", note="For her birthday.")),
            (0, workers.enrol("fay")),
            (0, workers.purchase("order-5", "fay", 90_000)),
            (0, workers.redeem("fay", "coffee", reward_id="free-coffee")),
            (0, paid("order-6")),
            (0, workers.reverse("order-7", "early")),
        ):
            with self.service(NOON - timedelta(days=days)):
                assert send(call).status in (200, 201, 202)
        self.before = self.read()
        self._undisturbed: dict[str, tuple[Answer, Books, list[str]]] = {}
        self._stands: Books | None  # None where something may have been written since

    def restore(self) -> None:
        """The books as they were, and a wire that is whole."""
        self.before.put(self.direct, self.tables, self._stands or self.read())
        self._stands = self.before
        self.faults.heal()

    def read(self) -> Books:
        """What stands in the tables."""
        self._stands = books = Books.read(self.direct, self.tables)
        return books

    @contextmanager
    def service(self, now: datetime = NOON) -> Iterator[None]:
        """A service that has just been started."""
        self._stands = None
        with deployed(self.client, self.tables, now, sleep=without_pause):
            yield

    def undisturbed(self, name: str) -> tuple[Answer, Books, list[str]]:
        """Answer, books afterwards and calls made where nothing breaks."""
        if name not in self._undisturbed:
            self.restore()
            self.faults.follow({})
            with self.service():
                answer = send(COMMANDS[name].call)
            assert answer.status in (200, 201, 202), answer.body
            calls = self.faults.operations
            workers.proved(self.direct, self.tables)
            self._undisturbed[name] = answer, self.read(), calls
        return self._undisturbed[name]

    def assert_same(self, name: str, answer: Answer, why: object) -> None:
        """The answer and all that stands in the tables are what they are where nothing breaks."""
        text = COMMANDS[name].text
        expected, books, _ = self.undisturbed(name)
        assert (answer.status, text(answer.body)) == (expected.status, text(expected.body)), why
        stands = self.read()
        for part in ("accounts", "ledger", "records"):
            found, wanted = getattr(stands, part), getattr(books, part)
            assert sorted(map(text, found)) == sorted(map(text, wanted)), (why, part)
        if COMMANDS[name].drawn:
            workers.proved(self.direct, self.tables)


@pytest.fixture(scope="module")
def stage(engine: Engine, new_tables: Callable[[], Tables]) -> Stage:
    return Stage(engine, new_tables())


@pytest.mark.parametrize("fault", SURVIVED)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_at_any_call_leaves_one_effect_and_the_same_answer(
    stage: Stage, name: str, fault: Fault
) -> None:
    *_, calls = stage.undisturbed(name)
    for at, operation in enumerate(calls):
        if operation not in WRITES and fault not in READ_FAULTS:
            continue
        stage.restore()
        stage.faults.follow({at: fault})
        with stage.service():
            answer = insist(COMMANDS[name].call)
        stage.assert_same(name, answer, (fault, at, operation))


@pytest.mark.parametrize("fault", ["answer lost", "throttled"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_outage_from_any_call_on_leaves_one_effect_once_it_is_over(
    stage: Stage, name: str, fault: Fault
) -> None:
    *_, calls = stage.undisturbed(name)
    for at, operation in enumerate(calls):
        stage.restore()
        stage.faults.follow({at: fault}, from_then_on=True)
        with stage.service():
            first = send(COMMANDS[name].call)
            assert first.status == 503, (at, operation, first.body)
            stage.faults.heal()
            answer = insist(COMMANDS[name].call)
        stage.assert_same(name, answer, (fault, at, operation))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_process_killed_between_any_two_calls_leaves_one_effect(stage: Stage, name: str) -> None:
    *_, calls = stage.undisturbed(name)
    plans: list[Plan] = [{at: "killed"} for at in range(len(calls))]
    plans.append({len(calls) - 1: "killed after"})
    for plan in plans:
        stage.restore()
        process = workers.processes().Process(
            target=workers.die_at,
            args=(stage.endpoint, stage.tables, NOON, COMMANDS[name].call, plan),
        )
        process.start()
        process.join(workers.PATIENCE_SECONDS)
        assert process.exitcode == KILLED, plan
        with stage.service():
            answer = insist(COMMANDS[name].call)
        stage.assert_same(name, answer, plan)


# then meets its own entry and is refused: 409 more_than_bought, though it was carried out.
@pytest.mark.parametrize("name", ["award", "check-in", "redemption", "reward", "reversal"])
def test_a_lost_race_and_then_a_lost_answer_leave_one_effect(stage: Stage, name: str) -> None:
    """Somebody else writes to the member first; the second attempt is carried out, unheard."""
    stage.restore()
    call = COMMANDS[name].call
    with stage.service():
        other = workers.award("review-1", "ana")
        stage.faults.follow({0: meanwhile(other), 1: "answer lost"}, of="TransactWriteItems")
        answer = insist(call)
        assert answer.status == 201, answer.body
        assert answer.replayed
        again = insist(call)
    assert (again.status, again.body) == (answer.status, answer.body)
    account, entries = workers.proved(stage.direct, stage.tables)["ana"]
    assert [entry.reason for entry in entries].count("review") == 1
    assert len(entries) == 5
    assert account.balance == answer.body["balance"]


@pytest.mark.parametrize("fault", SURVIVED)
def test_a_sweep_that_breaks_off_comes_again_and_writes_once(stage: Stage, fault: Fault) -> None:
    """Its client is the queue, which brings back a message that was reported as failed. What met
    others for too long is the next job's."""
    later = NOON + timedelta(days=420)
    context = mock.Mock(get_remaining_time_in_millis=lambda: 60_000)

    def swept(plan: Plan) -> tuple[Books, int]:
        """What stands then, and how many jobs it took."""
        stage.restore()
        stage.faults.follow(plan, from_then_on=True)
        jobs, again = 1, True
        for _ in range(3):
            hour = f"2027-05-01T0{jobs}:04:00Z"
            message = {"scheduled_time": hour, "segment": 0, "segments": 1}
            event = {"Records": [{"messageId": "1", "body": json.dumps(message)}]}
            try:
                with stage.service(later):
                    again = bool(expire.handler(event, context)["batchItemFailures"])
            except expire.NotSwept:
                jobs += 1
            stage.faults.heal()
            if not again:
                break
        assert not again
        return stage.read(), jobs

    expected, _ = swept({})
    calls = stage.faults.operations
    _, history = workers.proved(stage.direct, stage.tables)["ana"]
    assert (history[-1].kind, history[-1].balance) == ("expire", 0)
    for at, operation in enumerate(calls):
        books, jobs = swept({at: fault})
        written = books.accounts, books.ledger
        assert written == (expected.accounts, expected.ledger), (at, operation)
        if jobs == 1:
            assert books == expected, (at, operation)
        else:
            assert (fault, operation) == ("conflict", "TransactWriteItems")
