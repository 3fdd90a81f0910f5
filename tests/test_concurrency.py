"""Sixty-four clients at once, in processes of their own, on the real engine: no limit is passed, no
point is spent twice, and every account is what its entries add up to.

The clients do what they are told: after a 503 they send the same request again, a while later.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from loyalty.model import Account, Entry
from tests import workers
from tests.programs import shop
from tests.workers import NOON, Call, Clients, Played, deployed, done, without_pause
from tools.engine import Engine, Tables

log = logging.getLogger(__name__)

CLIENTS = 64
MEMBERS = [f"member-{i:02}" for i in range(20)]


class Town:
    """A shop on fresh tables, and the clients that come to it all at once."""

    def __init__(self, engine: Engine, tables: Tables, clients: Clients) -> None:
        self.endpoint = engine.endpoint
        self.tables = tables
        self.client = engine.client(parameter_validation=False)
        self._clients = clients

    def prepare(self, *calls: Call) -> None:
        with deployed(self.client, self.tables, NOON, sleep=without_pause):
            for call in calls:
                done(call)

    def at_once(self, call: Callable[[int], Call]) -> Played:
        """Each client sends one request; all have decided before the first of them writes."""
        return self.play([[call(i)] for i in range(CLIENTS)], abreast=True)

    def play(self, scripts: list[list[Call]], **how: Any) -> Played:
        played = self._clients.play(self.endpoint, self.tables, scripts, now=NOON, **how)
        answers = played.flat
        log.info(
            "%d requests, sent %d times, %d transactions, %d successes, %.1f s",
            len(answers),
            sum(answer.tries for answer in answers),
            played.transactions,
            sum(answer.status < 300 for answer in answers),
            played.seconds,
        )
        return played

    def proved(self) -> dict[str, tuple[Account, list[Entry]]]:
        return workers.proved(self.client, self.tables)


@pytest.fixture
def town(engine: Engine, tables: Tables, clients: Clients) -> Town:
    return Town(engine, tables, clients)


def outcomes(played: Played) -> Counter[str]:
    """How often each outcome came: the status of a success, the code of a refusal."""
    return Counter(
        str(answer.status) if answer.status < 400 else f"{answer.status} {answer.body['code']}"
        for answer in played.flat
    )


def test_of_64_redemptions_of_100_from_1000_points_exactly_10_succeed(town: Town) -> None:
    thousand = shop(
        rules=[{"rule_id": "gift", "trigger": "gift", "earn": {"points": 1000}}], locations=[]
    )
    town.prepare(
        workers.publish(thousand), workers.enrol("ana"), workers.award("gift-1", "ana", "gift")
    )
    played = town.at_once(lambda i: workers.redeem("ana", f"pay-{i}", points=100))
    assert outcomes(played) == {"201": 10, "409 insufficient_points": 54}
    balances = [answer.body["balance"] for answer in played.flat if answer.status == 201]
    assert sorted(balances) == [100 * i for i in range(10)]
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (0, 12)


def test_of_64_scans_where_one_a_day_counts_exactly_one_earns(town: Town) -> None:
    town.prepare(workers.publish(shop()), workers.enrol("ana"))
    played = town.at_once(lambda i: workers.check_in("ana", f"visit-{i}"))
    assert outcomes(played) == {"201": 1, "409 limit_reached": 63}
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (55, 2)


def test_64_times_the_same_event_is_one_award_and_63_replays(town: Town) -> None:
    town.prepare(workers.publish(shop()), workers.enrol("ana"))
    played = town.at_once(lambda _: workers.purchase("order-1", "ana", 1250, 3000))
    assert outcomes(played) == {"201": 64}
    assert Counter(answer.replayed for answer in played.flat) == {False: 1, True: 63}
    bodies = [answer.body for answer in played.flat]
    assert bodies == [bodies[0]] * 64
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (50 + 42 + 20, 2)


def test_64_times_the_same_new_member_is_one_member(town: Town) -> None:
    town.prepare(workers.publish(shop()))
    played = town.at_once(lambda i: workers.enrol("ana", name="Ana" if i % 4 else "Another Ana"))
    found = outcomes(played)
    assert found in (
        {"201": 48, "409 member_exists": 16},
        {"201": 16, "409 member_exists": 48},
    )
    assert sum(answer.status == 201 and not answer.replayed for answer in played.flat) == 1
    assert [len(history) for _, history in town.proved().values()] == [1]
    referrals = [
        item
        for item in workers.Books.read(town.client, town.tables).records
        if item["sk"]["S"] == "referral"
    ]
    assert len(referrals) == 1


def test_limits_of_a_rule_are_never_passed(town: Town) -> None:
    """64 reviews at once: 10 points each, at most 35 a day; a bonus for the first three."""
    rules: list[Any] = [
        {
            "rule_id": "review",
            "trigger": "review",
            "earn": {"points": 10},
            "limits": [{"points": 35, "per": "day"}],
        },
        {
            "rule_id": "first-three",
            "trigger": "review",
            "earn": {"points": 1},
            "frequency": [{"times": 3, "per": "week"}],
        },
    ]
    town.prepare(workers.publish(shop(rules=rules)), workers.enrol("ana"))
    played = town.at_once(lambda i: workers.award(f"review-{i}", "ana"))
    assert outcomes(played) == {"201": 64}
    granted = sorted((answer.body["points"] for answer in played.flat), reverse=True)
    assert granted[:5] == [11, 11, 11, 5, 0]
    assert sum(granted) == 38
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (38, 65)


def test_of_64_first_purchases_at_once_one_is_the_first(town: Town) -> None:
    rules: list[Any] = [
        {"rule_id": "base", "trigger": "purchase", "earn": {"points": 1}},
        {"rule_id": "first", "trigger": "first_purchase", "earn": {"points": 100}},
    ]
    town.prepare(workers.publish(shop(rules=rules)), workers.enrol("ana"))
    played = town.at_once(lambda i: workers.purchase(f"order-{i}", "ana", 1000))
    assert Counter(answer.body["points"] for answer in played.flat) == {101: 1, 1: 63}
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (164, 65)


def test_a_profile_that_64_changes_complete_at_once_is_paid_once(town: Town) -> None:
    whole = {"name": "Ana", "email": "ana@example.com", "birthday": "1990-03-01"}
    rules = [{"rule_id": "whole", "trigger": "profile_completed", "earn": {"points": 20}}]
    town.prepare(workers.publish(shop(rules=rules)), workers.enrol("ana", **whole))
    played = town.at_once(lambda i: workers.change("ana", phone=f"+33 1 23 45 67 {i:02}"))
    assert outcomes(played) == {"200": 64}
    account, history = town.proved()["ana"]
    assert (account.balance, len(history)) == (20, 2)


@pytest.mark.parametrize("faults_in_thousand", [0, 30], ids=["a whole wire", "a faulty wire"])
def test_a_mixed_load_makes_and_loses_no_point(town: Town, faults_in_thousand: int) -> None:
    town.prepare(workers.publish(shop()), *(workers.enrol(member) for member in MEMBERS))
    scripts = [mixed(random.Random(seed), seed) for seed in range(CLIENTS)]  # noqa: S311  # reproducible
    played = town.play(scripts, seed=11, faults_in_thousand=faults_in_thousand)
    members = town.proved()

    # What the clients were told is what stands in the ledger, no more and no less.
    assert {answer.status for answer in played.flat} <= {201, 202, 404, 409}
    told: dict[str, Any] = {}
    for call, answer in zip(
        (call for script in scripts for call in script), played.flat, strict=True
    ):
        if answer.status == 201:
            known = told.setdefault(answer.body["entry_id"], (call, answer.body))
            assert known == (call, answer.body), "a repeat got another answer"
    balances = dict.fromkeys(MEMBERS, 50)
    for call, body in told.values():
        gives = call.module in ("award", "check_in") and "refund_id" not in call.body
        balances[body["member_id"]] += body["points"] if gives else -body["points"]
        # What came back before the award itself.
        balances[body["member_id"]] -= body.get("reversed_points", 0)
    entries = [entry for _, history in members.values() for entry in history]
    assert set(told) == {f"{e.member_id}.{e.seq}" for e in entries if e.kind != "enrol"}
    assert {member: account.balance for member, (account, _) in members.items()} == balances


def mixed(chance: random.Random, client: int) -> list[Call]:
    """What one client does: it awards, spends, takes back and checks in, some of it twice."""
    calls: list[Call] = []
    awarded: list[str] = []
    for i in range(6):
        member = chance.choice(MEMBERS)
        own = f"{client}-{i}"
        match chance.choice(
            ["buy", "buy", "buy", "pay", "pay", "reward", "return", "scan", "again"]
        ):
            case "buy":
                amounts = [chance.randint(1, 200) * 100 for _ in range(chance.randint(1, 3))]
                calls.append(workers.purchase(f"order-{own}", member, *amounts))
                awarded.append(f"order-{own}")
            case "pay":
                calls.append(workers.redeem(member, f"pay-{own}", points=chance.randint(1, 120)))
            case "reward":
                calls.append(workers.redeem(member, f"pay-{own}", reward_id="free-coffee"))
            case "return":
                order = awarded.pop() if awarded else "order-of-nobody"
                calls.append(workers.reverse(order, f"return-{own}"))
            case "scan":
                calls.append(workers.check_in(member, f"visit-{own}"))
            case "again" if calls:
                calls.append(calls[-1])
    return calls
