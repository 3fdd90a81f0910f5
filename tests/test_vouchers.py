"""Vouchers at tills: looked up, used once, found by nobody who guesses, and written nowhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from loyalty.codes import voucher_code, voucher_hash
from loyalty.store import secrets_of
from tests import workers
from tests.faults import Fault
from tests.programs import shop
from tests.workers import (
    Answer,
    Books,
    Call,
    Clients,
    done,
    send,
)
from tools import meter
from tools.engine import Engine, Tables

CLIENTS = 64
DAYS = 24 * 60
REWARDS = [
    {
        "reward_id": "coffee",
        "kind": "product",
        "name": "A free coffee",
        "cost": 10,
        "voucher_validity": "P30D",
    },
    {
        "reward_id": "ten-off",
        "kind": "discount",
        "cost": 10,
        "discount": {"percent": "10", "max_amount": 500},
    },
    {"reward_id": "five-off", "kind": "discount", "cost": 10, "discount": {"amount": 500}},
]
WRONG = "00000-00000-00000-00000"


class House(workers.House):
    """The shop's handlers on fresh tables; ana has 1,000 points."""

    def on(self, minutes: float) -> AbstractContextManager[Any]:
        """The service, so many minutes after noon, as a process that has just started."""
        return self.after(minutes=minutes)

    def open(self) -> None:
        rule = {"rule_id": "hello", "trigger": "registration", "earn": {"points": 1000}}
        done(workers.publish(shop(rules=[rule], rewards=REWARDS, limits=[])))
        done(workers.enrol("ana"))


@pytest.fixture
def house(engine: Engine, tables: Tables) -> Iterator[House]:
    """An open house that stands at noon."""
    house = House(engine, tables)
    with house.on(0):
        house.open()
        yield house


def taken(key: str = "till", reward_id: str = "coffee", **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = done(workers.redeem("ana", key, reward_id=reward_id, **more))
    return answer


def code_of(redeemed: dict[str, Any]) -> str:
    code: str = redeemed["voucher"]["code"]
    return code


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body.get("code") or answer.body["status"]


# Looked up and used


def test_a_voucher_says_what_it_is_for(house: House) -> None:
    redeemed = taken()
    with house.on(DAYS):
        assert done(workers.voucher(code_of(redeemed))) == {
            "status": "issued",
            "redemption_id": redeemed["redemption_id"],
            "member_id": "ana",
            "reward": {"reward_id": "coffee", "name": "A free coffee", "kind": "product"},
            "expires_on": "2026-04-17",
        }


@pytest.mark.parametrize(
    ("reward_id", "order_amount"), [("ten-off", None), ("ten-off", 1999), ("five-off", 300)]
)
@pytest.mark.usefixtures("house")
def test_its_discount_is_the_one_that_redeeming_promised(
    reward_id: str, order_amount: int | None
) -> None:
    order = {"order_id": "o-1", "amount": order_amount, "currency": "EUR"}
    redeemed = taken(reward_id=reward_id, **({} if order_amount is None else {"order": order}))
    shown = done(workers.voucher(code_of(redeemed)))
    assert shown["discount"] == redeemed["discount"]
    assert shown["expires_on"] is None


@pytest.mark.usefixtures("house")
def test_a_voucher_is_found_however_it_is_typed() -> None:
    code = code_of(taken())
    for typed in (code.lower(), code.replace("-", ""), code.replace("-", " ")):
        assert done(workers.voucher(typed))["status"] == "issued"


def test_a_voucher_is_used_once(house: House) -> None:
    code = code_of(taken())
    with house.on(5):
        used = done(workers.use(code))
        assert (used["status"], used["used_at"]) == ("used", "2026-03-18T12:05:00Z")
    with house.on(6):
        assert told(send(workers.use(code))) == (409, "voucher_used")
        assert done(workers.voucher(code)) == used


def test_a_use_that_is_sent_again_under_its_key_is_answered_as_the_first(house: House) -> None:
    code = code_of(taken())
    first = send(workers.use(code, "scan-1"))
    assert (first.status, first.replayed) == (200, False)
    # Later than the voucher's own date, too.
    with house.on(60 * DAYS):
        again = send(workers.use(code, "scan-1"))
        assert (again.status, again.body, again.replayed) == (200, first.body, True)
        assert told(send(workers.use(code, "scan-2"))) == (409, "voucher_used")
        assert told(send(workers.use(code))) == (409, "voucher_used")


def test_a_voucher_ends_at_midnight_before_its_date(house: House) -> None:
    code = code_of(taken())
    # 17 April begins in Paris at 22:00 UTC of the 16th.
    last = 29 * DAYS + 10 * 60
    with house.on(last):
        assert done(workers.voucher(code))["status"] == "expired"
        assert told(send(workers.use(code))) == (409, "voucher_expired")
    with house.on(last - 0.01):
        assert done(workers.voucher(code))["status"] == "issued"
        assert done(workers.use(code))["status"] == "used"
    with house.on(last + DAYS):
        assert done(workers.voucher(code))["status"] == "used"


@pytest.mark.usefixtures("house")
def test_a_cancelled_voucher_is_not_used() -> None:
    redeemed = taken()
    done(workers.cancel(redeemed["redemption_id"]))
    assert done(workers.voucher(code_of(redeemed)))["status"] == "cancelled"
    assert told(send(workers.use(code_of(redeemed)))) == (409, "voucher_cancelled")


@pytest.mark.usefixtures("house")
def test_members_have_no_business_with_vouchers() -> None:
    code = code_of(taken())
    for call in (workers.voucher(code), workers.use(code)):
        assert send(replace(call, scope="loyalty/member")).status == 403
    for scope in ("loyalty/merchant", "loyalty/staff"):
        assert send(replace(workers.voucher(code), scope=scope)).status == 200


@pytest.mark.usefixtures("house")
def test_a_voucher_of_another_program_is_none_here() -> None:
    code = code_of(taken())
    other = shop(program_id="other", rules=[], rewards=REWARDS)
    done(workers.publish(other))
    foreign = send(replace(workers.voucher(code), program_id="other"))
    assert told(foreign) == (404, "voucher_not_found")
    nowhere = send(replace(workers.voucher(code), program_id="nowhere"))
    assert told(nowhere) == (404, "program_not_found")


@pytest.mark.parametrize("fault", ["answer lost", "server error after all", "request lost"])
def test_a_lost_answer_is_one_use(house: House, fault: Fault) -> None:
    code = code_of(taken())
    house.faults.follow({0: fault}, of="PutItem")
    assert told(send(workers.use(code))) == (200, "used")
    house.faults.heal()
    assert told(send(workers.use(code))) == (409, "voucher_used")


@pytest.mark.usefixtures("house")
def test_a_use_costs_one_small_write() -> None:
    code = code_of(taken())
    with meter.measure() as units:
        done(workers.use(code))
    assert units.write == 1
    with meter.measure() as units:
        done(workers.voucher(code))
    assert (units.write, units.read <= 2) == (0, True)


# Guessed


@pytest.mark.parametrize(
    "text", [WRONG, "", "x", "ÿ" * 40, "A" * 4000, "../../program", "'; DROP", "\ud800", "00000"]
)
@pytest.mark.usefixtures("house")
def test_whatever_is_no_code_is_answered_alike_and_after_the_same_work(text: str) -> None:
    calls: list[int] = []
    answers = []
    send(workers.voucher("first"))  # what the process has to know is known
    for call in (workers.voucher(WRONG[:-1] + "1"), workers.voucher(text), workers.use(text)):
        with meter.measure() as units:
            answers.append(send(call))
        calls.append(units.calls)
    assert {told(answer) for answer in answers} == {(404, "voucher_not_found")}
    assert len({json.dumps(answer.body) for answer in answers}) == 1
    assert len(set(calls)) == 1


def guess(n: int, subject: str = "mallory") -> Call:
    return replace(workers.voucher(f"{n:05}-AAAAA-BBBBB-CCCCC"), subject=subject)


def test_after_100_wrong_codes_in_a_minute_no_code_is_looked_up_any_more(house: House) -> None:
    code = code_of(taken())
    with house.on(1 / 4):
        for n in range(99):
            assert told(send(guess(n))) == (404, "voucher_not_found")
        # What is right does not count.
        assert send(replace(workers.voucher(code), subject="mallory")).status == 200
        assert told(send(guess(99))) == (404, "voucher_not_found")
        right = send(replace(workers.voucher(code), subject="mallory"))
        wrong = send(guess(100))
        using = send(replace(workers.use(code), subject="mallory"))
        assert {told(a) for a in (right, wrong, using)} == {(429, "too_many_guesses")}
        assert right.body == wrong.body == using.body
        assert {a.headers["Retry-After"] for a in (right, wrong, using)} == {"45"}
        # Another till is not held up.
        assert send(workers.voucher(code)).status == 200
    with house.on(59.99 / 60):
        late = send(guess(101))
        assert (late.status, late.headers["Retry-After"]) == (429, "1")
    with house.on(1):
        assert send(replace(workers.use(code), subject="mallory")).status == 200
        assert told(send(guess(102))) == (404, "voucher_not_found")


def test_guesses_are_counted_in_one_item_that_says_nothing_of_them(house: House) -> None:
    before = Books.read(house.direct, house.tables)
    for minute in range(3):
        with house.on(minute):
            for n in range(102):
                send(guess(n))
    after = Books.read(house.direct, house.tables)
    assert (after.accounts, after.ledger) == (before.accounts, before.ledger)
    [item] = [record for record in after.records if record not in before.records]
    assert set(item) == {"pk", "sk", "window", "misses"}
    assert item["misses"] == {"N": "100"}
    assert "mallory" not in json.dumps(item)


def test_of_128_guesses_by_64_at_once_100_are_answered(house: House, clients: Clients) -> None:
    scripts = [[guess(n), guess(CLIENTS + n)] for n in range(CLIENTS)]
    played = clients.play(house.endpoint, house.tables, scripts)
    assert Counter(answer.status for answer in played.flat) == {404: 100, 429: 2 * CLIENTS - 100}


# Sixty-four at once


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with one key"])
def test_of_64_that_use_a_voucher_one_does(house: House, clients: Clients, keyed: bool) -> None:
    code = code_of(taken())
    scripts = [[workers.use(code, "scan" if keyed else None)] for _ in range(CLIENTS)]
    played = clients.play(house.endpoint, house.tables, scripts)
    fresh = [a for a in played.flat if a.status == 200 and not a.replayed]
    assert len(fresh) == 1
    others = Counter(told(a) for a in played.flat if a is not fresh[0])
    same = (200, "used") if keyed else (409, "voucher_used")
    assert others == {same: CLIENTS - 1}


def test_of_a_use_and_a_cancellation_at_once_exactly_one_wins(
    house: House, clients: Clients
) -> None:
    """32 pairs, each about a voucher of its own."""
    vouchers = [taken(f"till-{i}") for i in range(CLIENTS // 2)]
    scripts: list[list[Call]] = []
    for redeemed in vouchers:
        scripts += [[workers.use(code_of(redeemed))], [workers.cancel(redeemed["redemption_id"])]]
    played = clients.play(house.endpoint, house.tables, scripts, seed=3)
    used = played.flat[0::2]
    cancelled = played.flat[1::2]
    for use, cancel in zip(used, cancelled, strict=True):
        assert (told(use), told(cancel)) in (
            ((200, "used"), (409, "voucher_used")),
            ((409, "voucher_cancelled"), (200, "cancelled")),
        )
    back = sum(answer.status == 200 for answer in cancelled)
    account, _ = workers.proved(house.direct, house.tables)["ana"]
    assert account.available == 1000 - 10 * (len(vouchers) - back)


def test_of_64_that_use_or_cancel_one_voucher_exactly_one_wins(
    house: House, clients: Clients
) -> None:
    redeemed = taken()
    identity = redeemed["redemption_id"]
    scripts = [
        [workers.use(code_of(redeemed)) if i % 2 else workers.cancel(identity)]
        for i in range(CLIENTS)
    ]
    played = clients.play(house.endpoint, house.tables, scripts, abreast=False)
    outcomes = Counter(told(a) for a in played.flat)
    half = CLIENTS // 2
    assert outcomes in (
        {(200, "used"): 1, (409, "voucher_used"): CLIENTS - 1},
        {(200, "cancelled"): half, (409, "voucher_cancelled"): half},
    )
    account, _ = workers.proved(house.direct, house.tables)["ana"]
    assert account.available == (990 if outcomes[200, "used"] else 1000)


# Written nowhere


def test_a_code_stands_in_no_table_and_in_no_log(
    house: House, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    redeemed = taken()
    code = code_of(redeemed)
    assert code == voucher_code(secrets_of(workers.SECRETS), 1, "shop", redeemed["redemption_id"])
    done(workers.voucher(code))
    done(workers.use(code, "scan"))
    send(workers.use(code))
    send(workers.cancel(redeemed["redemption_id"]))
    house.faults.follow({0: "server error"} | dict.fromkeys(range(9), "server error"), of="GetItem")
    assert send(workers.voucher(code)).status >= 500
    house.faults.heal()
    books = Books.read(house.direct, house.tables)
    stored = repr(books)
    written = "".join(capfd.readouterr()) + caplog.text
    assert written
    assert voucher_hash(code) in stored
    for text in (code, code.replace("-", ""), code.lower()):
        assert text not in stored
        assert text not in written
