"""The main job over HTTP: a shop awards, checks in, redeems, reads balances, lets points expire."""

from __future__ import annotations

import json
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import Service

from tests.programs import shop as shop_program

type Json = dict[str, Any]


class Shop:
    """A program of the test's own in a running service, with the member mila in it."""

    def __init__(self, service: Service, document: Json) -> None:
        self.service = service
        self.program_id = document["program_id"]
        self.base = f"/v1/programs/{self.program_id}"
        assert self.send("PUT", "/program", document, scope="admin").status_code == 200
        self.enrol("mila")

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        scope: str = "merchant",
        member_id: str | None = None,
        key: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        if key is not None:
            headers["idempotency_key"] = key
        return self.service.http.request(
            method,
            self.base + path,
            json=body,
            headers=self.service.headers(scope, member_id, **headers),
        )

    def get(self, path: str, **query: Any) -> Json:
        """The answer to a question that must have one."""
        answer = self.service.http.get(
            self.base + path, params=query, headers=self.service.headers("staff")
        )
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def enrol(self, member_id: str, **profile: Any) -> None:
        answer = self.send("POST", "/members", {"member_id": member_id, **profile})
        assert answer.status_code == 201, answer.text

    def award(
        self, event_id: str, type: str = "review", member_id: str = "mila", **event: Any
    ) -> httpx.Response:
        body = {"event_id": event_id, "type": type, "member_id": member_id, **event}
        return self.send("POST", "/awards", body)

    def buy(self, event_id: str, *amounts: int, member_id: str = "mila", **more: Any) -> Json:
        """Award a purchase with one line for each amount."""
        lines = [
            {"line_id": str(number), "quantity": 1, "amount": amount}
            for number, amount in enumerate(amounts, 1)
        ]
        purchase = {"currency": "EUR", "lines": lines}
        answer = self.award(event_id, "purchase", member_id, purchase=purchase, **more)
        assert answer.status_code == 201, answer.text
        awarded: Json = answer.json()
        return awarded

    def redeem(self, key: str, **body: Any) -> httpx.Response:
        return self.send("POST", "/redemptions", {"member_id": "mila", **body}, key=key)

    def scan(self, code: str, key: str | None = None, member_id: str = "mila") -> httpx.Response:
        body = {"code": code, "member_id": member_id}
        return self.send("POST", "/check-ins", body, key=key)

    def code(self, location_id: str = "corner") -> str:
        return str(self.get(f"/locations/{location_id}/code")["code"])

    def available(self, member_id: str = "mila") -> int:
        return int(self.get(f"/members/{member_id}/balance")["available"])

    def entries(self, member_id: str = "mila", limit: int = 100) -> list[Json]:
        """The whole history, newest first, read page by page."""
        rows: list[Json] = []
        query: Json = {"limit": limit}
        while True:
            page = self.get(f"/members/{member_id}/entries", **query)
            assert len(page["items"]) <= limit
            rows += page["items"]
            if page["next_cursor"] is None:
                return rows
            query["cursor"] = page["next_cursor"]


OPENED = "2026-01-05T10:00:00Z"


@pytest.fixture
def open_shop(service: Service, at: Callable[[str], None]) -> Callable[..., Shop]:
    """A function that opens a shop: `open_shop(expiry=[...])` replaces sections of the program.

    The clock stands at OPENED until it is moved: for a member time never goes back.
    """
    at(OPENED)

    def open_(**sections: Any) -> Shop:
        program_id = f"http-{uuid.uuid4().hex[:8]}"
        return Shop(service, shop_program(**{"program_id": program_id} | sections))

    return open_


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    """The coffee shop of `tests.programs`."""
    return open_shop()


@pytest.fixture
def at(service: Service) -> Iterator[Callable[[str], None]]:
    """A function that stops the test clock at a time; afterwards it runs again."""
    yield service.set_clock
    service.set_clock(None)


def assert_refused(answer: httpx.Response, status: int, code: str) -> Json:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["code"] == code
    return problem


# ── Awards ────────────────────────────────────────────────────────────────────────────────────────


def test_a_purchase_is_awarded_and_explained(shop: Shop, at: Callable[[str], None]) -> None:
    at("2026-03-02T10:15:00Z")
    shop.enrol("noor")
    body = {
        "event_id": "order-1",
        "type": "purchase",
        "member_id": "noor",
        "purchase": {
            "currency": "EUR",
            "lines": [
                {"line_id": "a", "category_ids": ["beans"], "quantity": 2, "amount": 2450},
                {"line_id": "b", "category_ids": ["gift-card"], "quantity": 1, "amount": 5000},
                {"line_id": "c", "quantity": 1, "amount": 175},
            ],
        },
    }
    answer = shop.send("POST", "/awards", body)
    assert answer.status_code == 201
    awarded = answer.json()
    assert {k: v for k, v in awarded.items() if k != "explanation"} == {
        "entry_id": "noor.2",
        "event_id": "order-1",
        "member_id": "noor",
        # 24.50 + 1.75 give 26, and beans of that worth 20 more; the gift card gives nothing.
        "points": 46,
        "desired_points": 46,
        "pending_points": 0,
        "balance": 96,
        "lots": [{"points": 46, "expires_on": "2027-04-01"}],
        "limited_by": [],
    }
    fired = {row["rule_id"]: (row["fired"], row["points"]) for row in awarded["explanation"]}
    assert fired == {"purchase": (True, 26), "beans": (True, 20)}
    assert shop.get("/members/noor/balance") == {
        "member_id": "noor",
        "available": 96,
        "pending": 0,
        "held": 0,
        "debt": 0,
        "lifetime_points": 96,
        "qualifying_points": 0,
        "tier": None,
        "expiring": [{"points": 96, "expires_on": "2027-04-01"}],
        "as_of": "2026-03-02T10:15:00Z",
    }


def test_the_explanation_says_why_a_rule_did_not_fire(shop: Shop) -> None:
    for event, reason in (("order-1", "granted"), ("order-2", "frequency"), ("order-3", "amount")):
        amount = 500 if event == "order-3" else 1500
        line = {"line_id": "1", "category_ids": ["beans"], "quantity": 1, "amount": amount}
        purchase = {"currency": "EUR", "lines": [line]}
        awarded = shop.award(event, "purchase", purchase=purchase).json()
        beans = next(row for row in awarded["explanation"] if row["rule_id"] == "beans")
        assert beans["fired"] == (event == "order-1")
        assert reason in beans["reason"]
        assert beans["points"] == (20 if event == "order-1" else 0)
        assert awarded["points"] == amount // 100 + beans["points"]


def test_an_event_that_comes_again_is_awarded_once_and_answered_alike(shop: Shop) -> None:
    body = {"event_id": "review-1", "type": "review", "member_id": "mila", "channel": "app"}
    first = shop.send("POST", "/awards", body)
    shop.redeem("in-between", points=5)
    again = shop.send("POST", "/awards", dict(reversed(body.items())), scope="admin")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content, "the first answer, not today's balance"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert shop.available() == 50 + 10 - 5


@pytest.mark.parametrize(
    "change", [{"channel": "web"}, {"member_id": "noor"}, {"type": "promotion"}, {"attributes": {}}]
)
def test_another_event_under_the_same_id_is_refused(shop: Shop, change: Json) -> None:
    shop.enrol("noor")
    body = {"event_id": "review-1", "type": "review", "member_id": "mila", "channel": "app"}
    shop.send("POST", "/awards", body)
    answer = shop.send("POST", "/awards", body | change)
    assert_refused(answer, 422, "idempotency_key_reused")
    assert (shop.available(), shop.available("noor")) == (60, 50)


def test_an_event_that_earns_nothing_is_recorded_all_the_same(shop: Shop) -> None:
    answer = shop.award("promo-1", "promotion")
    assert (answer.status_code, answer.json()["points"], answer.json()["lots"]) == (201, 0, [])
    assert shop.award("promo-1", "promotion").headers["idempotency-replayed"] == "true"
    assert [(row["points"], row["event_id"]) for row in shop.entries()] == [
        (0, "promo-1"),
        (50, None),
    ]


def test_limits_cap_what_is_granted_and_say_so(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    shop = open_shop(limits=[{"points": 100, "per": "day"}], rules=[BY_EURO])
    at("2026-03-02T10:00:00Z")
    assert shop.buy("order-1", 6000)["points"] == 60
    capped = shop.buy("order-2", 7000)
    assert (capped["points"], capped["desired_points"]) == (40, 70)
    assert len(capped["limited_by"]) == 1
    assert shop.buy("order-3", 7000)["points"] == 0
    at("2026-03-02T22:59:59Z")
    assert shop.buy("order-4", 7000)["points"] == 0
    at("2026-03-02T23:00:00Z")  # midnight in Paris
    assert shop.buy("order-5", 7000)["points"] == 70
    assert shop.available() == 170


BY_EURO = {"rule_id": "purchase", "trigger": "purchase", "earn": {"points": 1, "per_amount": 100}}


def test_a_late_event_counts_in_the_window_it_belongs_to(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    shop = open_shop(limits=[{"points": 100, "per": "day"}], rules=[BY_EURO])
    at("2026-03-02T10:00:00Z")
    assert shop.buy("order-1", 8000)["points"] == 80
    at("2026-03-03T10:00:00Z")
    assert shop.buy("order-2", 9000)["points"] == 90
    late = shop.buy("order-3", 9000, occurred_at="2026-03-02T12:00:00Z")
    assert late["points"] == 20, "the day before had room for 20 more"
    assert shop.buy("order-4", 9000)["points"] == 10


def test_an_event_from_the_future_or_of_an_age_that_is_too_great_is_refused(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    shop = open_shop(max_lateness="P30D")
    at("2026-03-31T10:00:00Z")
    assert shop.award("soon", occurred_at="2026-03-31T10:05:00Z").status_code == 201
    too_soon = shop.award("too-soon", occurred_at="2026-03-31T10:05:01Z")
    assert_refused(too_soon, 409, "event_in_future")
    late = shop.award("late", occurred_at="2026-03-01T12:00:00Z")
    assert late.status_code == 201
    too_late = shop.award("too-late", occurred_at="2026-02-27T10:00:00Z")
    assert_refused(too_late, 409, "event_too_late")
    at("2026-06-01T10:00:00Z")
    again = shop.award("late", occurred_at="2026-03-01T12:00:00Z")
    assert again.content == late.content, "a repeat is recognised before its age is judged"


# ── Taking back ───────────────────────────────────────────────────────────────────────────────────


def reverse(shop: Shop, event_id: str, refund_id: str = "refund-1") -> httpx.Response:
    return shop.send("POST", "/reversals", {"event_id": event_id, "refund_id": refund_id})


def test_a_refund_takes_back_what_the_event_gave_once(
    shop: Shop, at: Callable[[str], None]
) -> None:
    at("2026-03-02T10:00:00Z")
    shop.buy("order-1", 3000)
    first = reverse(shop, "order-1")
    assert first.status_code == 201
    assert first.json() | {"entry_id": ""} == {
        "status": "reversed",
        "entry_id": "",
        "event_id": "order-1",
        "refund_id": "refund-1",
        "member_id": "mila",
        "points": 30,
        "taken_from": [{"points": 30, "expires_on": "2027-04-01"}],
        "debt": 0,
        "expired_points": 0,
        "forgiven_points": 0,
        "restored_points": 0,
        "balance": 50,
    }
    again = reverse(shop, "order-1")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert_refused(reverse(shop, "order-1", "refund-2"), 409, "more_than_bought")
    balance = shop.get("/members/mila/balance")
    assert (balance["available"], balance["lifetime_points"]) == (50, 50)
    assert [row["kind"] for row in shop.entries()][:2] == ["reverse", "award"]


@pytest.mark.parametrize(
    ("shortfall", "debt", "forgiven", "balance"),
    [("other_lots", 0, 20, 0), ("clamp", 0, 30, 0), ("debt", 20, 0, -20)],
)
def test_points_that_were_spent_are_taken_as_the_program_says(
    open_shop: Callable[..., Shop], shortfall: str, debt: int, forgiven: int, balance: int
) -> None:
    shop = open_shop(refunds={"shortfall": shortfall}, rules=[BY_EURO])
    shop.buy("order-1", 3000)
    shop.redeem("checkout-1", points=30)
    other = 10 if shortfall != "clamp" else 0
    if other:
        shop.buy("order-2", other * 100)
    answer = reverse(shop, "order-1").json()
    assert (answer["debt"], answer["forgiven_points"], answer["balance"]) == (
        debt, forgiven, balance,
    )  # fmt: skip
    read = shop.get("/members/mila/balance")
    assert (read["available"], read["debt"]) == (0, debt)
    if debt:
        # New credit pays the debt first.
        assert shop.buy("order-3", 5000)["balance"] == 30


def test_a_check_in_is_an_event_that_can_be_taken_back(shop: Shop) -> None:
    checked_in = shop.scan(shop.code(), "visit-1").json()
    answer = reverse(shop, checked_in["event_id"])
    assert (answer.status_code, answer.json()["points"], answer.json()["balance"]) == (201, 5, 50)


def test_a_check_in_under_the_longest_key_can_be_taken_back_too(shop: Shop) -> None:
    checked_in = shop.scan(shop.code(), "v" * 128).json()
    answer = reverse(shop, checked_in["event_id"])
    assert (answer.status_code, answer.json().get("points")) == (201, 5)


def test_only_events_can_be_taken_back(shop: Shop) -> None:
    """Redemptions and enrolments stand under keys, as check-ins do, and are no events."""
    shop.send("POST", "/members", {"member_id": "noor"}, key="joining")
    shop.redeem("checkout-1", points=20)
    for event_id in ("check-in:checkout-1", "check-in:joining", "check-in:no-such"):
        assert_refused(reverse(shop, event_id), 404, "event_not_found")
    assert (shop.available(), shop.available("noor")) == (30, 50)
    assert shop.get("/members/mila/balance")["lifetime_points"] == 50


# ── Redemptions ───────────────────────────────────────────────────────────────────────────────────

VOUCHER = re.compile(r"[0-9A-HJKMNP-TV-Z]{5}(-[0-9A-HJKMNP-TV-Z]{5}){3}")


def test_a_reward_costs_its_points_and_gives_a_voucher(
    shop: Shop, at: Callable[[str], None]
) -> None:
    at("2026-03-02T10:00:00Z")
    shop.buy("order-1", 20000)
    first = shop.redeem("checkout-1", reward_id="free-coffee")
    assert first.status_code == 201
    redeemed = first.json()
    voucher = redeemed.pop("voucher")
    assert redeemed == {
        "redemption_id": redeemed["redemption_id"],
        "entry_id": "mila.3",
        "member_id": "mila",
        "status": "captured",
        "points": 100,
        "balance": 150,
        "reward_id": "free-coffee",
    }
    assert VOUCHER.fullmatch(voucher["code"])
    assert voucher["expires_on"] == "2026-04-01"

    again = shop.redeem("checkout-1", reward_id="free-coffee")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    other = shop.redeem("checkout-2", reward_id="free-coffee").json()
    assert other["voucher"]["code"] != voucher["code"]
    assert other["redemption_id"] != redeemed["redemption_id"]
    assert shop.available() == 50
    # The code is for who redeems; the history, which others may read, does not show it.
    assert voucher["code"] not in str(shop.entries())


def test_a_discount_says_what_it_takes_off(open_shop: Callable[..., Shop]) -> None:
    def reward(reward_id: str, **discount: Any) -> Json:
        name = reward_id.replace("-", " ")
        return {"reward_id": reward_id, "kind": "discount", "name": name, "cost": 1} | {
            "discount": discount
        }

    shop = open_shop(
        rewards=[
            reward("five-off", amount=500),
            reward("ten-percent", percent="10", max_amount=300),
        ]
    )
    order = {"order_id": "order-9", "amount": 2550, "currency": "EUR"}
    large = order | {"amount": 100000}
    for number, (reward_id, on, discount) in enumerate(
        (
            ("five-off", None, {"amount": 500, "currency": "EUR"}),
            ("ten-percent", order, {"amount": 255, "currency": "EUR"}),
            ("ten-percent", large, {"amount": 300, "currency": "EUR"}),
            ("ten-percent", None, {"percent": "10", "max_amount": 300, "currency": "EUR"}),
        )
    ):
        body = {"reward_id": reward_id} | ({"order": on} if on else {})
        answer = shop.redeem(f"checkout-{number}", **body)
        assert answer.status_code == 201
        assert answer.json()["discount"] == discount
        assert answer.json().get("order_id") == (on and on["order_id"])


def test_too_few_points_are_refused_with_what_is_missing_and_nothing_changes(shop: Shop) -> None:
    before = shop.entries()
    problem = assert_refused(shop.redeem("k", reward_id="free-coffee"), 409, "insufficient_points")
    assert problem["missing_points"] == 50
    problem = assert_refused(shop.redeem("k", points=51), 409, "insufficient_points")
    assert problem["missing_points"] == 1
    assert (shop.available(), shop.entries()) == (50, before)
    # A refusal is not stored: the same key serves when the points are there.
    shop.buy("order-1", 5000)
    answer = shop.redeem("k", reward_id="free-coffee")
    assert (answer.status_code, answer.json()["balance"]) == (201, 0)
    assert "idempotency-replayed" not in answer.headers


def test_one_key_is_one_command(shop: Shop) -> None:
    first = shop.redeem("k", points=10)
    assert (first.status_code, "voucher" in first.json()) == (201, False)
    assert_refused(shop.redeem("k", points=11), 422, "idempotency_key_reused")
    assert_refused(shop.redeem("k", reward_id="five-off"), 422, "idempotency_key_reused")
    scan = shop.scan(shop.code(), "k")
    assert_refused(scan, 422, "idempotency_key_reused")
    assert shop.available() == 40
    # A key is the program's, an event's id is another thing.
    assert shop.award("k").status_code == 201


def test_a_reward_for_others_or_for_another_time_is_refused(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    def reward(reward_id: str, **when: Any) -> Json:
        return {"reward_id": reward_id, "kind": "product", "name": "It", "cost": 5, "when": when}

    shop = open_shop(
        rewards=[
            reward("for-vips", groups=["vip"]),
            reward("spring", **{"from": "2026-03-20", "until": "2026-06-20"}),
        ]
    )
    at("2026-03-19T22:59:59Z")
    assert_refused(shop.redeem("a", reward_id="for-vips"), 409, "reward_locked")
    assert_refused(shop.redeem("a", reward_id="spring"), 409, "reward_unavailable")
    shop.send("PATCH", "/members/mila", {"groups": ["vip"]})
    at("2026-03-19T23:00:00Z")
    assert shop.redeem("a", reward_id="for-vips").status_code == 201
    assert shop.redeem("b", reward_id="spring").status_code == 201
    at("2026-06-20T22:00:00Z")
    assert_refused(shop.redeem("c", reward_id="spring"), 409, "reward_unavailable")


# ── Check-ins ─────────────────────────────────────────────────────────────────────────────────────


def test_a_visit_from_the_poster_to_the_points(shop: Shop, at: Callable[[str], None]) -> None:
    at("2026-03-02T10:00:00Z")
    poster = shop.get("/locations/corner/code")
    assert (poster["location_id"], poster["kind"]) == ("corner", "static")
    assert poster["url"] == f"{shop.service.url}/c/{poster['code']}"
    for kind, content_type in (("svg", "image/svg+xml"), ("png", "image/png")):
        picture = shop.send("GET", f"/locations/corner/poster.{kind}")
        assert (picture.status_code, picture.headers["content-type"]) == (200, content_type)

    # A phone, a link preview and a scanner fetch the address: nothing happens.
    before = shop.entries()
    for _ in range(3):
        page = httpx.get(poster["url"])
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "Corner Coffee" in page.text
        assert "#6f4e37" in page.text.lower()
        assert page.headers["loyalty-write-units"] == "0"
    assert shop.entries() == before

    body = {"code": poster["code"]}
    visit = shop.send("POST", "/check-ins", body, scope="member", member_id="mila", key="visit-1")
    assert visit.status_code == 201
    earned = visit.json()
    assert (earned["points"], earned["balance"], earned["location_id"]) == (5, 55, "corner")
    assert earned["next_allowed_at"] == "2026-03-02T23:00:00Z"
    again = shop.send("POST", "/check-ins", body, scope="member", member_id="mila", key="visit-1")
    assert (again.content, again.headers["idempotency-replayed"]) == (visit.content, "true")

    at("2026-03-02T22:59:59Z")
    problem = assert_refused(shop.scan(poster["code"]), 409, "limit_reached")
    assert problem["next_allowed_at"] == "2026-03-02T23:00:00Z"
    assert [row["points"] for row in shop.entries()] == [5, 50]
    at(problem["next_allowed_at"])
    assert shop.scan(poster["code"]).json()["balance"] == 60


def test_check_ins_are_limited_by_week_and_by_cooldown_too(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    check_in = {
        "kinds": ["static"],
        "limits": [{"times": 2, "per": "day"}, {"times": 3, "per": "week"}],
        "cooldown": "PT1H",
    }
    locations = [{"location_id": "corner", "name": "The corner", "check_in": check_in}]
    shop = open_shop(locations=locations)
    code = shop.code()
    # Saturday 7 March 2026; the ISO week ends with Sunday.
    for now, next_allowed_at in (
        ("2026-03-07T09:00:00Z", None),
        ("2026-03-07T09:59:59Z", "2026-03-07T10:00:00Z"),
        ("2026-03-07T10:00:00Z", None),
        ("2026-03-07T18:00:00Z", "2026-03-07T23:00:00Z"),
        ("2026-03-08T09:00:00Z", None),
        ("2026-03-08T18:00:00Z", "2026-03-08T23:00:00Z"),
        ("2026-03-08T23:00:00Z", None),
    ):
        at(now)
        answer = shop.scan(code)
        if next_allowed_at is None:
            assert answer.status_code == 201, f"{now}: {answer.text}"
        else:
            problem = assert_refused(answer, 409, "limit_reached")
            assert problem["next_allowed_at"] == next_allowed_at, now
    assert shop.available() == 50 + 4 * 5


def test_a_location_that_is_closed_gives_nothing(
    open_shop: Callable[..., Shop], at: Callable[[str], None]
) -> None:
    check_in = {"kinds": ["static"], "opening_hours": {"mon-fri": ["07:00-19:00"]}}
    shop = open_shop(
        locations=[{"location_id": "corner", "name": "The corner", "check_in": check_in}]
    )
    code = shop.code()
    for now in ("2026-03-06T05:59:59Z", "2026-03-06T18:00:00Z", "2026-03-07T10:00:00Z"):
        at(now)
        assert_refused(shop.scan(code), 409, "location_closed")
    at("2026-03-06T06:00:00Z")
    assert shop.scan(code).status_code == 201


def test_a_check_in_that_earns_nothing_is_refused_and_leaves_nothing(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(rules=[BY_EURO])
    assert_refused(shop.scan(shop.code()), 409, "nothing_earned")
    assert len(shop.entries()) == 1


def test_a_withdrawn_code_is_no_longer_good(shop: Shop) -> None:
    old = shop.code()
    location = {
        "location_id": "corner",
        "name": "The corner",
        "check_in": {"kinds": ["static"], "code_version": 2},
    }
    document = shop_program(program_id=shop.program_id, locations=[location])
    shop.send("PUT", "/program", document, scope="admin", if_match='"1"').raise_for_status()
    new = shop.code()
    assert new != old
    assert_refused(shop.scan(old), 403, "code_invalid")
    page = shop.service.http.get(f"/c/{old}")
    assert (page.status_code, page.headers["content-type"][:9]) == (403, "text/html")
    assert shop.scan(new).status_code == 201


def test_a_repeat_is_recognised_before_anything_else_is_judged(
    shop: Shop, at: Callable[[str], None]
) -> None:
    """The code withdrawn, the rules changed, the points spent: the first answer stays."""
    code = shop.code()
    shop.buy("order-1", 10000)
    firsts = [
        shop.scan(code, "visit-1"),
        shop.redeem("checkout-1", reward_id="free-coffee"),
        shop.redeem("checkout-2", points=55),
    ]
    assert shop.available() == 0
    document = shop_program(program_id=shop.program_id, rewards=[], locations=[], rules=[BY_EURO])
    shop.send("PUT", "/program", document, scope="admin", if_match='"1"').raise_for_status()
    at("2030-01-01T00:00:00Z")
    agains = [
        shop.scan(code, "visit-1"),
        shop.redeem("checkout-1", reward_id="free-coffee"),
        shop.redeem("checkout-2", points=55),
    ]
    for first, again in zip(firsts, agains, strict=True):
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
    assert shop.available() == 0


def test_the_same_ids_in_two_programs_are_two_things(
    shop: Shop, open_shop: Callable[..., Shop]
) -> None:
    other = open_shop()
    for each in (shop, other):
        assert each.award("review-1").status_code == 201
        assert each.redeem("checkout-1", points=5).status_code == 201
        assert each.scan(each.code(), "visit-1").status_code == 201
        assert each.available() == 50 + 10 - 5 + 5


def test_codes_that_are_not_this_programs_own_leave_no_trace(
    shop: Shop, open_shop: Callable[..., Shop]
) -> None:
    own, foreign = shop.code(), open_shop().code()
    payload, _, signature = own.rpartition(".")
    swapped = signature[1:] + signature[0]
    before = shop.entries()
    for code in (
        foreign,
        f"{payload}.{swapped}",
        f"{payload}.",
        payload,
        own[:-1],
        own + "x",
        own.lower() if own.lower() != own else own.upper(),
        f"{payload[:-1]}2.{signature}",
        own.replace("corner", "market"),
        f"{foreign.rpartition('.')[0]}.{signature}",
        ".",
        "...",
    ):
        assert_refused(shop.scan(code), 403, "code_invalid")
        if code not in (foreign, ".", "..."):
            assert shop.service.http.get(f"/c/{code}").status_code == 403, code
    assert shop.entries() == before
    assert shop.service.http.get(f"/c/{foreign}").status_code == 200


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────


def test_points_are_gone_at_local_midnight_whether_or_not_the_sweep_has_run(
    shop: Shop, at: Callable[[str], None]
) -> None:
    at("2026-02-15T10:00:00Z")
    shop.buy("order-1", 3000)
    at("2027-01-31T22:59:59Z")
    before = shop.get("/members/mila/balance")
    assert (before["available"], before["expiring"]) == (
        80,
        [{"points": 50, "expires_on": "2027-02-01"}, {"points": 30, "expires_on": "2027-03-01"}],
    )

    at("2027-01-31T23:00:00Z")  # 00:00 in Paris
    unswept = shop.get("/members/mila/balance")
    assert (unswept["available"], unswept["expiring"]) == (30, before["expiring"][1:])
    rows = shop.entries()
    assert [row["points"] for row in rows] == [30, 50], "nothing has been written yet"
    problem = assert_refused(shop.redeem("k", points=31), 409, "insufficient_points")
    assert problem["missing_points"] == 1

    assert shop.service.sweep()["dead"] == 0
    assert shop.get("/members/mila/balance") == unswept
    swept = shop.entries()
    assert swept[1:] == rows
    assert swept[0] | {"entry_id": ""} == {
        "entry_id": "",
        "seq": 3,
        "kind": "expire",
        "points": -50,
        "balance_after": 30,
        "occurred_at": "2027-01-31T23:00:00Z",
        "recorded_at": "2027-01-31T23:00:00Z",
        "event_id": None,
        "reason": None,
    }

    shop.service.sweep()
    assert shop.entries() == swept, "a second sweep changes nothing"
    assert shop.redeem("k", points=30).status_code == 201


def test_what_fell_due_before_a_command_is_part_of_its_entry(
    shop: Shop, at: Callable[[str], None]
) -> None:
    at("2027-02-10T10:00:00Z")
    shop.award("review-1")
    assert [
        (row["seq"], row["kind"], row["points"], row["balance_after"], row["occurred_at"][:10])
        for row in shop.entries()
    ] == [
        (2, "award", 10, 10, "2027-02-10"),
        (2, "expire", -50, 0, "2027-01-31"),
        (1, "award", 50, 50, "2026-01-05"),
    ]
    shop.service.sweep()
    assert len(shop.entries()) == 3, "nothing is left to be written down"


def test_each_program_has_its_own_midnight(
    open_shop: Callable[..., Shop], at: Callable[[str], None], service: Service
) -> None:
    at("2027-01-15T22:30:00Z")
    expiry = [{"after": "P10D"}]
    west = open_shop(time_zone="Pacific/Honolulu", expiry=expiry)  # 15 January there
    east = open_shop(time_zone="Pacific/Auckland", expiry=expiry)  # 16 January there
    for now, left in (
        ("2027-01-25T09:59:59Z", (50, 50)),
        ("2027-01-25T10:00:00Z", (0, 50)),
        ("2027-01-25T10:59:59Z", (0, 50)),
        ("2027-01-25T11:00:00Z", (0, 0)),
    ):
        at(now)
        service.sweep()
        assert (west.available(), east.available()) == left, now
        written = tuple(shop.entries()[0]["kind"] == "expire" for shop in (west, east))
        assert written == tuple(points == 0 for points in left), now


def test_pending_points_become_available_by_themselves(
    open_shop: Callable[..., Shop], at: Callable[[str], None], service: Service
) -> None:
    shop = open_shop(pending={"purchase": "P14D"}, expiry=[{"after": "P1M"}], rules=[BY_EURO])
    at("2026-03-01T10:00:00Z")
    awarded = shop.buy("order-1", 3000)
    assert (awarded["points"], awarded["pending_points"], awarded["balance"]) == (30, 30, 0)
    assert awarded["lots"] == [
        {"points": 30, "expires_on": "2026-04-15", "available_on": "2026-03-15"}
    ]
    at("2026-03-14T22:59:59Z")
    balance = shop.get("/members/mila/balance")
    assert (balance["available"], balance["pending"], balance["expiring"]) == (0, 30, [])
    assert_refused(shop.redeem("k", points=1), 409, "insufficient_points")
    at("2026-03-14T23:00:00Z")
    unswept = shop.get("/members/mila/balance")
    assert (unswept["available"], unswept["pending"]) == (30, 0)
    assert unswept["expiring"] == [{"points": 30, "expires_on": "2026-04-15"}]
    service.sweep()
    assert shop.get("/members/mila/balance") == unswept
    assert shop.redeem("k", points=30).status_code == 201


# ── History ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy(open_shop: Callable[..., Shop], at: Callable[[str], None]) -> Shop:
    """A shop whose mila has 16 rows of history, three of them in one entry."""
    shop = open_shop(
        rules=[BY_EURO | {"expiry": [{"after": "P10D"}]}],
        pending={"purchase": "P3D"},
    )
    for day in range(1, 10):
        at(f"2026-03-{day:02}T10:00:00Z")
        shop.buy(f"order-{day}", day * 1000)
    at("2026-03-20T10:00:00Z")
    shop.award("promo-1", "promotion")
    return shop


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 16, 100])
def test_pages_of_history_show_every_row_exactly_once(busy: Shop, limit: int) -> None:
    whole = busy.entries(limit=100)
    assert busy.entries(limit=limit) == whole


def test_history_adds_up_to_the_balance(busy: Shop) -> None:
    rows = busy.entries()
    numbers = [row["seq"] for row in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers) == set(range(1, max(numbers) + 1)), "numbered without gaps"
    shared = [number for number in set(numbers) if numbers.count(number) > 1]
    assert shared, "some entry has several postings"
    for number in shared:
        postings = [row for row in rows if row["seq"] == number]
        assert len({row["entry_id"] for row in postings}) == 1
        assert {row["kind"] for row in postings} >= {"activate"}
    balance = busy.get("/members/mila/balance")
    assert sum(row["points"] for row in rows) == balance["available"] + balance["pending"]
    assert rows[0]["balance_after"] == balance["available"]
    recorded = [row["recorded_at"] for row in rows]
    assert recorded == sorted(recorded, reverse=True)
    awards = [row for row in rows if row["event_id"] and row["event_id"].startswith("order-")]
    assert sorted(row["points"] for row in awards) == [day * 10 for day in range(1, 10)]


def test_a_page_is_not_moved_by_what_comes_after_it(shop: Shop) -> None:
    for number in range(6):
        shop.award(f"promo-{number}", "promotion")
    first = shop.get("/members/mila/entries", limit=3)
    shop.award("promo-later", "promotion")
    second = shop.get("/members/mila/entries", limit=3, cursor=first["next_cursor"])
    seen = [row["seq"] for row in first["items"] + second["items"]]
    assert seen == [7, 6, 5, 4, 3, 2]


def many_rules(number: int) -> list[Json]:
    """So many rules, each with its own product and a name of some length."""
    return [
        {
            "rule_id": f"rule-{n}",
            "name": f"Ten points for each of product {n} that is bought in any of our shops",
            "trigger": "purchase",
            "match": {"products": [f"product-{n}"]},
            "earn": {"points": 10, "per_quantity": 1},
        }
        for n in range(number)
    ]


LAMBDA_BYTES = 6 * 1024 * 1024
"""The largest answer of a function, whose body is a JSON text within JSON."""


def in_lambda(answer: httpx.Response) -> int:
    return len(json.dumps(answer.text, ensure_ascii=False).encode())


@pytest.mark.parametrize("path", ["entries", "export"])
def test_pages_under_2000_rules_hold_every_row_once_and_are_no_larger_than_lambda_answers(
    open_shop: Callable[..., Shop], path: str
) -> None:
    shop = open_shop(rules=[BY_EURO, *many_rules(2_000)])
    for number in range(24):
        assert shop.buy(f"order-{number}", 1000)["points"] == 10
    seen: list[Json] = []
    query: Json = {"limit": 100}
    while True:
        answer = shop.service.http.get(
            f"{shop.base}/members/mila/{path}", params=query, headers=shop.service.headers("staff")
        )
        assert answer.status_code == 200, answer.text
        assert in_lambda(answer) <= 5_001_000
        page = answer.json() if path == "entries" else answer.json()["entries"]
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        assert len(page["items"]) > 10, "a page is as long as it can be"
    assert [row["seq"] for row in seen] == list(range(25, 0, -1))
    assert {len(row["explanation"]) for row in seen} == {0, 2001}


def test_an_award_of_500_lines_under_2000_rules_with_the_longest_names_is_answered_whole(
    open_shop: Callable[..., Shop],
) -> None:
    rules = [rule | {"name": "\N{BEER MUG}" * 200} for rule in many_rules(2_000)]
    shop = open_shop(rules=rules, limits=[])
    lines = [
        {"line_id": f"{n:0128}", "product_id": f"product-{n}", "quantity": 1, "amount": 100}
        for n in range(500)
    ]
    answer = shop.award("order-1", "purchase", purchase={"currency": "EUR", "lines": lines})
    assert answer.status_code == 201
    assert (answer.json()["points"], len(answer.json()["explanation"])) == (5000, 2000)
    assert in_lambda(answer) < LAMBDA_BYTES
    [row, _] = shop.entries()
    assert row["explanation"] == answer.json()["explanation"]


def test_pages_of_rewards_are_no_larger_than_lambda_answers(open_shop: Callable[..., Shop]) -> None:
    words = {"description": "é" * 20_000, "terms": "é" * 20_000}
    rewards = [
        {"reward_id": f"r{n}", "kind": "gift", "name": "Words", "cost": 1, **words}
        for n in range(65)
    ]
    shop = open_shop(rewards=rewards)
    seen: list[str] = []
    query: Json = {"limit": 100}
    while query.get("cursor", "") is not None:
        answer = shop.service.http.get(
            f"{shop.base}/members/mila/rewards",
            params=query,
            headers=shop.service.headers("staff"),
        )
        assert answer.status_code == 200, answer.text
        assert in_lambda(answer) <= 5_001_000
        seen += [reward["reward_id"] for reward in answer.json()["items"]]
        query["cursor"] = answer.json()["next_cursor"]
        assert len(seen) > 60
    assert seen == [reward["reward_id"] for reward in rewards]


def test_a_past_balance_is_what_was_answered_then(
    open_shop: Callable[..., Shop], at: Callable[[str], None], service: Service
) -> None:
    at("2026-01-01T10:00:00Z")
    shop = open_shop(
        pending={"purchase": "P3D"},
        expiry=[{"after": "P1M"}],
        refunds={"shortfall": "debt"},
        rules=[BY_EURO, {"rule_id": "hi", "trigger": "registration", "earn": {"points": 50}}],
    )
    answers = [shop.get("/members/mila/balance")]

    def then(now: str, step: Callable[[], Any]) -> None:
        at(now)
        answers.append(shop.get("/members/mila/balance"))
        at(now.replace(":00Z", ":01Z"))
        step()
        answers.append(shop.get("/members/mila/balance"))

    then("2026-01-05T10:00:00Z", lambda: shop.buy("order-1", 7000))
    then("2026-01-07T10:00:00Z", lambda: shop.redeem("a", points=40))
    then("2026-01-08T10:00:00Z", lambda: shop.redeem("b", points=75))
    then("2026-01-09T10:00:00Z", lambda: reverse(shop, "order-1"))
    then("2026-01-10T10:00:00Z", lambda: shop.buy("order-2", 20000))
    document = shop_program(program_id=shop.program_id, expiry=[], rules=[BY_EURO])
    then(
        "2026-01-11T10:00:00Z",
        lambda: shop.send("PUT", "/program", document, scope="admin", if_match="1"),
    )
    then("2026-02-01T10:00:00Z", lambda: shop.buy("order-3", 1000))
    then("2026-02-20T10:00:00Z", service.sweep)
    then("2026-02-28T10:00:00Z", lambda: shop.award("promo", "promotion"))

    assert len({(each["available"], each["pending"], each["debt"]) for each in answers}) > 6
    at("2026-03-15T10:00:00Z")
    for answered in answers:
        assert shop.get("/members/mila/balance", as_of=answered["as_of"]) == answered
    assert_refused(
        shop.send("GET", "/members/mila/balance?as_of=2026-03-15T10:00:01Z"), 400, "invalid_query"
    )


# ── Crashes ───────────────────────────────────────────────────────────────────────────────────────


def test_whatever_was_answered_is_still_there_after_a_kill(
    start_service: Callable[..., Service],
) -> None:
    service = start_service("--no-demo")
    shop = Shop(service, shop_program(program_id="lasting"))
    shop.buy("order-1", 20000)
    voucher = shop.redeem("checkout-1", reward_id="free-coffee")
    code = shop.code()
    visit = shop.scan(code, "visit-1")
    shop.send("PATCH", "/members/mila", {"name": "Mila"})

    def told() -> list[Json]:
        return [
            shop.get("/members/mila/balance") | {"as_of": ""},
            shop.get("/members/mila/entries"),
            shop.get("/members/mila"),
            shop.get("/program"),
            shop.get("/program/versions"),
        ]

    before = told()
    port = int(service.url.rpartition(":")[2])
    service.stop(signal.SIGKILL)
    shop.service = start_service("--no-demo", data=service.data, port=port)
    assert told() == before
    assert shop.code() == code, "printed posters stay good"
    for first, again in (
        (voucher, shop.redeem("checkout-1", reward_id="free-coffee")),
        (visit, shop.scan(code, "visit-1")),
    ):
        assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert told() == before
