"""The pages behind a QR code, in a real browser, against a shop and an issuer on two hosts."""

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from loyalty import pages
from loyalty.program import PointsName

BEANS = PointsName(one="bean", other="beans")
CODE = "bWFyYWlz.c2lnbmVk"
API = "/v1/programs/beans/check-ins"
HOSTILE = (
    '"><script>globalThis.ran=1</script></script ><!--</script x'
    "'\"><img src=x onerror=ran=1>{x}😀\u202e"
)

Answer = tuple[int, dict[str, str], object]


def earned(points: int = 10, balance: int = 1250, **more: object) -> Answer:
    body = {"entry_id": "e1", "member_id": "lea", "points": points, "balance": balance, **more}
    return 201, {}, body


def problem(status: int, code: str, detail: str = "", **more: object) -> Answer:
    return (
        status,
        {},
        {"type": "about:blank", "status": status, "code": code, "detail": detail} | more,
    )


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    body: str
    headers: dict[str, str]


class Post:
    """A check-in as the shop received it."""

    def __init__(self, request: Request) -> None:
        self.at = time.monotonic()
        self.token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.key = request.headers.get("idempotency-key", "")
        self.body = json.loads(request.body)


def first_values(encoded: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(encoded).items()}


class World:
    """A shop on one host and its OIDC issuer on another, both on this machine.

    `answers` are given to the check-ins in turn, then `earned()`; None loses the answer.
    """

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []
        self.posts: list[Post] = []
        self.authorized: list[dict[str, str]] = []
        self.exchanged: list[dict[str, str]] = []
        self.valid_tokens: set[str] = set()
        self.token_status = 200
        self.page: dict[str, object] = {}
        self.shop = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(self._shop))
        self.issuer = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(self._issuer))
        self.url = f"http://127.0.0.1:{self.shop.server_port}"
        self.issuer_url = f"http://127.0.0.1:{self.issuer.server_port}"
        self.sign_in = pages.SignIn(
            f"{self.issuer_url}/oauth2/authorize",
            f"{self.issuer_url}/oauth2/token",
            "check-in-page",
            f"{self.url}{pages.SIGNED_IN_PATH}",
            "openid loyalty/member",
        )
        self.code_url = f"{self.url}/c/{CODE}"

    def check_in(self) -> pages.Page:
        given = {
            "program_name": "Beans & Co",
            "color": "#6f4e37",
            "points_name": BEANS,
            "logo_url": None,
            "locale": "en",
            "location_name": "Marais",
            "code": CODE,
            "api_url": API,
            "sign_in": self.sign_in,
            "time_zone": "Europe/Paris",
        }
        return pages.check_in(**{**given, **self.page})  # type: ignore[arg-type] # a test's choice

    def new_token(self) -> str:
        token = secrets.token_hex(8)
        self.valid_tokens.add(token)
        return token

    def _shop(self, request: Request) -> Answer | pages.Page | None:
        if request.method == "GET":
            if request.path == pages.SIGNED_IN_PATH:
                return pages.signed_in(self.sign_in)
            return self.check_in()
        assert request.path == API
        post = Post(request)
        self.posts.append(post)
        if post.token not in self.valid_tokens:
            return 401, {}, {"message": "Unauthorized"}
        return self.answers.pop(0) if self.answers else earned()

    def _issuer(self, request: Request) -> Answer | pages.Page | None:
        if request.path == "/oauth2/authorize":
            query = request.query
            self.authorized.append(query)
            back = query["redirect_uri"] + "?"
            yes = back + urlencode(
                {"code": f"code-{len(self.authorized)}", "state": query["state"]}
            )
            no = back + urlencode({"error": "access_denied", "state": query["state"]})
            links = f"<a href='{yes}'>Continue as Lea</a> <a href='{no}'>Cancel</a>"
            return pages.Page(
                f"<!doctype html><title>Issuer</title>{links}", {"content-type": "text/html"}
            )
        if request.path != "/oauth2/token":  # the browser asks every host for its icon
            return 404, {}, {}
        sent = first_values(request.body)
        self.exchanged.append(sent)
        asked = self.authorized[int(sent["code"].removeprefix("code-")) - 1]
        digest = hashlib.sha256(sent["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        proven = challenge == asked["code_challenge"] and asked["code_challenge_method"] == "S256"
        same = all(sent[name] == asked[name] for name in ("client_id", "redirect_uri"))
        if not (proven and same) or self.token_status != 200:
            return max(400, self.token_status), {}, {"error": "invalid_grant"}
        return (
            200,
            {},
            {"access_token": self.new_token(), "token_type": "Bearer", "expires_in": 3600},
        )

    def _handler(
        self, answer: Callable[[Request], Answer | pages.Page | None]
    ) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                size = int(self.headers.get("content-length", 0))
                request = Request(
                    self.command,
                    parts.path,
                    first_values(parts.query),
                    self.rfile.read(size).decode(),
                    {name.lower(): value for name, value in self.headers.items()},
                )
                given = answer(request)
                if given is None:  # the work is done, the answer is lost
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if isinstance(given, pages.Page):
                    status, headers, payload = 200, given.headers, given.html.encode()
                else:
                    status, headers, payload = given[0], given[1], json.dumps(given[2]).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("access-control-allow-origin", "*")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Keep the tests' output to the tests."""

        return Handler


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    servers = (world.shop, world.issuer)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    yield world
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """A tab on a phone; the test fails where a page breaks its own policy or a script fails."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, locale="en-GB", timezone_id="Europe/Paris"
    )
    page = context.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on(
        "console",
        lambda message: (
            broken.append(message.text)
            if "Security Policy" in message.text or "Trusted" in message.text
            else None
        ),
    )
    yield page
    context.close()
    assert broken == []


def give_token(phone: Page, world: World) -> str:
    """Sign the person in before the visit, as an earlier visit in this tab would have."""
    token = world.new_token()
    kept = json.dumps({"token": token, "until": 9e12})
    phone.goto(f"{world.url}/c/earlier")
    phone.evaluate("kept => sessionStorage.setItem('loyalty.token', kept)", kept)
    return token


def tap(phone: Page, name: str = "Check in") -> None:
    phone.get_by_role("button", name=name).click()


def says(phone: Page, text: str | re.Pattern[str]) -> None:
    expect(phone.get_by_role("status")).to_contain_text(text)


# ---- the visit ---------------------------------------------------------------------------------


def test_a_first_visit_signs_in_comes_back_and_checks_in_once_with_one_tap(
    phone: Page, world: World
) -> None:
    phone.goto(world.code_url)
    expect(phone.get_by_role("heading", name="Beans & Co")).to_be_visible()
    expect(phone.get_by_text("You sign in first and come straight back here.")).to_be_visible()
    tap(phone)
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "+10 beans")
    says(phone, "1,250 beans")
    assert phone.url == world.code_url
    [post] = world.posts
    assert post.body == {"code": CODE}
    assert re.fullmatch(r"[0-9a-f-]{36}", post.key)
    assert post.token in world.valid_tokens
    [asked] = world.authorized
    assert asked["scope"] == "openid loyalty/member"
    assert asked["response_type"] == "code"
    assert len(asked["state"]) > 40


def test_reloading_after_the_check_in_does_not_check_in_again(phone: Page, world: World) -> None:
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "+10 beans")
    phone.reload()
    expect(phone.get_by_role("button", name="Check in")).to_be_enabled()
    phone.wait_for_load_state("networkidle")
    assert len(world.posts) == 1


def test_a_second_visit_checks_in_at_the_tap_with_a_new_key(phone: Page, world: World) -> None:
    token = give_token(phone, world)
    keys = set()
    for visit in (1, 2):
        phone.goto(world.code_url)
        expect(phone.get_by_text("You sign in first")).to_be_hidden()
        tap(phone)
        says(phone, "You’re checked in")
        assert len(world.posts) == visit
        assert world.posts[-1].token == token
        keys.add(world.posts[-1].key)
    assert len(keys) == 2
    assert world.authorized == []


def test_looking_at_the_page_checks_nobody_in(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.goto(world.code_url)
    expect(phone.get_by_role("button", name="Check in")).to_be_enabled()
    phone.wait_for_load_state("networkidle")
    assert world.posts == []
    assert world.authorized == []


def test_the_answer_shows_pending_points_and_the_next_check_in(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.clock.set_fixed_time(datetime(2026, 3, 28, 9, tzinfo=UTC))
    world.answers = [
        earned(1, 1, pending_points=1, next_allowed_at="2026-03-29T05:30:00Z"),
        earned(next_allowed_at="2026-03-28T23:00:00Z"),
        earned(next_allowed_at="2026-03-30T22:00:00Z"),
        earned(next_allowed_at=None),
    ]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "+1 bean")
    says(phone, "Available later 1 bean")
    # In the shop's zone, where the clocks go forward that night.
    says(phone, re.compile(r"Next check-in tomorrow, 0?7:30"))
    for text in ("Next check-in tomorrow", "Next check-in Tuesday"):
        phone.reload()
        tap(phone)
        says(phone, re.compile(text + "$"))
    phone.reload()
    tap(phone)
    says(phone, "+10 beans")
    expect(phone.get_by_role("status")).not_to_contain_text("Next check-in")


# ---- answers lost and delayed ------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_under_the_same_key(phone: Page, world: World) -> None:
    give_token(phone, world)
    world.answers = [None, earned()]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "+10 beans")
    first, again = world.posts
    assert first.key == again.key


def test_a_lost_answer_is_asked_for_under_the_same_key_even_after_a_reload(
    phone: Page, world: World
) -> None:
    give_token(phone, world)
    world.answers = [(503, {"retry-after": "600"}, {})]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "It’s very busy right now")
    phone.reload()
    tap(phone)
    says(phone, "+10 beans")
    first, again = world.posts
    assert first.key == again.key


def test_an_old_unanswered_key_is_not_used_for_a_later_visit(phone: Page, world: World) -> None:
    give_token(phone, world)
    world.answers = [(503, {"retry-after": "600"}, {})]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "It’s very busy right now")
    phone.clock.set_fixed_time(datetime.now(UTC) + timedelta(minutes=20))
    phone.reload()
    tap(phone)
    says(phone, "+10 beans")
    first, later = world.posts
    assert first.key != later.key


def test_trying_again_is_the_same_check_in_however_long_the_page_stays_open(
    phone: Page, world: World
) -> None:
    give_token(phone, world)
    world.answers = [(503, {"retry-after": "600"}, {})] * 2
    phone.goto(world.code_url)
    tap(phone)
    for hours in (1, 30):
        says(phone, "never counts twice")
        phone.clock.set_fixed_time(datetime.now(UTC) + timedelta(hours=hours))
        tap(phone, "Try again")
    says(phone, "+10 beans")
    assert len({post.key for post in world.posts}) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_no_sooner_than_it_says(
    phone: Page, world: World, status: int
) -> None:
    give_token(phone, world)
    world.answers = [(status, {"retry-after": "1"}, {}), earned()]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "Still trying…")
    says(phone, "+10 beans")
    first, again = world.posts
    assert again.at - first.at >= 1
    assert first.key == again.key


def test_retries_end_and_the_person_may_try_again_without_counting_twice(
    phone: Page, world: World
) -> None:
    give_token(phone, world)
    world.answers = [None] * 5
    phone.goto(world.code_url)
    phone.clock.install()
    tap(phone)
    retry = phone.get_by_role("button", name="Try again")
    # The phone's clock is run by hand: each step lets the waits of a second pass at once.
    give_up = time.monotonic() + 30
    while not retry.is_visible() and time.monotonic() < give_up:
        phone.clock.run_for(1000)
    says(phone, "We couldn’t reach Beans & Co")
    says(phone, "never counts twice")
    assert len(world.posts) == 5
    retry.click()
    says(phone, "+10 beans")
    assert len({post.key for post in world.posts}) == 1


def test_a_second_tap_while_the_first_is_under_way_does_nothing(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.goto(world.code_url)
    phone.evaluate("go.click(); go.click(); go.click()")
    says(phone, "+10 beans")
    assert len(world.posts) == 1


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(409, "limit_reached"), "You’ve already checked in"),
        (problem(403, "code_invalid"), "This code isn’t valid"),
        (problem(409, "code_expired"), "This code has expired"),
        (problem(409, "code_used"), "This code was already used"),
        (problem(409, "member_blocked"), "Your account is blocked"),
        (problem(409, "nothing_earned"), "No beans this time"),
        (problem(404, "member_not_found"), "You’re not a member yet"),
        (problem(409, "location_closed"), "We’re closed right now"),
        (problem(409, "member_closed"), "Your membership has ended"),
        (problem(409, "member_erased", "The member was erased."), "Your membership has ended"),
        ((403, {}, {"message": "Forbidden"}), "Please try again, or ask at the counter."),
        ((400, {}, "<html>"), "Please try again, or ask at the counter."),
    ],
)
def test_a_refusal_is_told_in_words_and_not_repeated(
    phone: Page, world: World, answer: Answer, words: str
) -> None:
    give_token(phone, world)
    world.answers = [answer]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, words)
    assert len(world.posts) == 1
    assert phone.evaluate("sessionStorage.getItem('loyalty.' + visit)") is None


@pytest.mark.parametrize("code", ["member_not_found", "member_closed", "member_erased"])
def test_who_is_no_member_may_sign_in_as_somebody_else(
    phone: Page, world: World, code: str
) -> None:
    first = give_token(phone, world)
    world.answers = [problem(409, code)]
    phone.goto(world.code_url)
    tap(phone)
    tap(phone, "Use another account")
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "+10 beans")
    refused, done = world.posts
    assert refused.token == first != done.token
    assert refused.key != done.key


def test_a_reached_limit_tells_when_the_next_check_in_is(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.clock.set_fixed_time(datetime(2026, 6, 1, 9, tzinfo=UTC))
    world.answers = [problem(409, "limit_reached", next_allowed_at="2026-06-01T22:00:00Z")]
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "Next check-in tomorrow")
    expect(phone.get_by_role("button")).to_have_count(0)


def test_a_token_that_is_refused_leads_to_sign_in_and_back(phone: Page, world: World) -> None:
    give_token(phone, world)
    world.valid_tokens.clear()
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "+10 beans")
    refused, accepted = world.posts
    assert refused.key == accepted.key


def test_a_fresh_token_that_is_refused_does_not_go_in_circles(phone: Page, world: World) -> None:
    world.answers = [(401, {}, {"message": "Unauthorized"})]
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "Your sign-in wasn’t accepted")
    assert len(world.authorized) == 1
    tap(phone, "Try again")
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "+10 beans")


def test_a_token_past_its_time_is_not_sent(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.evaluate(
        "sessionStorage.setItem('loyalty.token', JSON.stringify({token: 'old', until: 1}))"
    )
    phone.goto(world.code_url)
    tap(phone)
    expect(phone.get_by_role("link", name="Continue as Lea")).to_be_visible()
    assert world.posts == []


# ---- coming back from sign-in ------------------------------------------------------------------


def refuses_sign_in(phone: Page, world: World, words: str) -> None:
    expect(phone.get_by_role("heading", name="You’re not signed in")).to_be_visible()
    says(phone, words)
    assert phone.evaluate("sessionStorage.getItem('loyalty.token')") is None
    # A reload begins where the button leads: at a page of ours, with neither code nor state.
    back = phone.locator("#back").get_attribute("href")
    assert phone.url == (urljoin(world.code_url, back) if back else world.sign_in.redirect_uri)
    assert world.posts == []


def test_a_state_that_this_tab_did_not_make_is_refused(phone: Page, world: World) -> None:
    phone.goto(world.code_url)
    tap(phone)
    expect(phone.get_by_role("link", name="Continue as Lea")).to_be_visible()
    phone.goto(f"{world.sign_in.redirect_uri}?code=code-1&state=forged.L2MvZXZpbA")
    refuses_sign_in(phone, world, "This sign-in wasn’t started here")
    assert world.exchanged == []


def test_a_callback_without_a_sign_in_is_refused(phone: Page, world: World) -> None:
    for query in ("", "?code=code-1", "?state=", "?code=code-1&state="):
        phone.goto(world.sign_in.redirect_uri + query)
        refuses_sign_in(phone, world, "Scan the QR code again")
        expect(phone.get_by_role("link")).to_have_count(0)
    assert world.exchanged == []


def test_a_sign_in_is_good_for_one_return(phone: Page, world: World) -> None:
    phone.goto(world.code_url)
    tap(phone)
    back = phone.get_by_role("link", name="Continue as Lea").get_attribute("href")
    assert back is not None
    world.token_status = 500
    phone.goto(back)
    refuses_sign_in(phone, world, "could not be completed")
    phone.goto(back)
    refuses_sign_in(phone, world, "finished already")
    assert len(world.exchanged) == 1


def test_a_cancelled_sign_in_leads_back_to_where_it_began(phone: Page, world: World) -> None:
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Cancel").click()
    refuses_sign_in(phone, world, "The sign-in was cancelled.")
    phone.get_by_role("link", name="Start again").click()
    expect(phone.get_by_role("button", name="Check in")).to_be_enabled()
    assert phone.url == world.code_url
    assert world.posts == []


def test_a_reload_after_a_cancelled_sign_in_begins_anew(phone: Page, world: World) -> None:
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Cancel").click()
    refuses_sign_in(phone, world, "The sign-in was cancelled.")
    phone.reload()
    expect(phone.get_by_role("button", name="Check in")).to_be_enabled()
    assert phone.url == world.code_url
    assert world.posts == []


def test_a_sign_in_that_returns_in_another_tab_leads_back_to_the_page_by_a_tap(
    phone: Page, world: World
) -> None:
    phone.goto(world.code_url)
    tap(phone)
    back = phone.get_by_role("link", name="Continue as Lea").get_attribute("href")
    assert back is not None
    other = phone.context.new_page()
    other.goto(back)
    refuses_sign_in(other, world, "This sign-in wasn’t started here")
    link = other.get_by_role("link", name="Start again")
    expect(link).to_have_attribute("href", f"/c/{CODE}")


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/c/x",
        "//evil.example/c/x",
        "/\\evil.example/c/x",
        "/c/../console",
        "/c/%2e%2e/console",
        "/c//evil.example",
        "/console",
        "javascript:globalThis.ran=1",
        "/c/signed-in",
        "",
    ],
)
def test_a_planted_address_leads_nowhere_after_sign_in(
    phone: Page, world: World, path: str
) -> None:
    carried = base64.urlsafe_b64encode(path.encode()).decode().rstrip("=")
    state = f"planted.{carried}"
    phone.goto(world.sign_in.redirect_uri)
    phone.evaluate(
        "([state, path]) => sessionStorage.setItem('loyalty.sign_in',"
        " JSON.stringify({state, path, verifier: 'v'}))",
        [state, path],
    )
    phone.goto(f"{world.sign_in.redirect_uri}?code=code-1&state={state}")
    refuses_sign_in(phone, world, "could not be completed")
    expect(phone.get_by_role("link")).to_have_count(0)
    phone.goto(f"{world.sign_in.redirect_uri}?code=code-1&state={state}")
    refuses_sign_in(phone, world, "This sign-in wasn’t started here")
    expect(phone.get_by_role("link")).to_have_count(0)
    assert world.exchanged == []


def test_the_address_bar_keeps_neither_the_code_nor_the_state(phone: Page, world: World) -> None:
    world.token_status = 400
    phone.goto(world.code_url)
    tap(phone)
    phone.get_by_role("link", name="Continue as Lea").click()
    refuses_sign_in(phone, world, "could not be completed")
    assert phone.url == world.code_url


# ---- how it looks and reads --------------------------------------------------------------------


def test_hostile_names_are_shown_as_written_and_never_run(phone: Page, world: World) -> None:
    world.page = {
        "program_name": HOSTILE,
        "location_name": HOSTILE,
        "points_name": PointsName(one=HOSTILE, other=HOSTILE),
        "logo_url": "https://127.0.0.1:9/x.png?\"'><script>globalThis.ran=1</script>",
        "code": HOSTILE,
        "color": "#fff}</style><script>globalThis.ran=1</script>",
    }
    world.answers = [problem(409, "odd", HOSTILE), earned(next_allowed_at=HOSTILE)]
    shown = pages.clean(HOSTILE)
    give_token(phone, world)
    phone.goto(world.code_url)
    expect(phone.get_by_role("heading", level=1)).to_have_text(shown)
    expect(phone.locator(".place bdi")).to_have_text(shown)
    says(phone, f"Check in and earn {shown}.")
    tap(phone)
    says(phone, HOSTILE)
    tap(phone, "Try again")
    says(phone, f"+10 {shown}")
    assert world.posts[0].body == {"code": HOSTILE}
    assert phone.evaluate("globalThis.ran") is None
    assert phone.locator("script").count() == 2


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("locale", ["en", "fr"])
def test_nothing_is_wider_than_the_screen_and_targets_are_large(
    phone: Page, world: World, width: int, locale: str
) -> None:
    world.page = {
        "locale": locale,
        "program_name": "Donaudampfschifffahrtsgesellschaftskapitänskajüte & Söhne",
        "location_name": "Galeries Lafayette Haussmann, troisième étage",
    }
    world.answers = [problem(409, "limit_reached", next_allowed_at="2199-01-01T05:30:00Z")]
    give_token(phone, world)
    phone.set_viewport_size({"width": width, "height": 640})
    phone.goto(world.code_url)
    button = phone.get_by_role("button")
    box = button.bounding_box()
    assert box is not None
    assert box["height"] >= 44
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert phone.evaluate(overflow) == 0
    button.click()
    expect(phone.locator("main")).to_have_attribute("data-state", "refused")
    assert phone.evaluate(overflow) == 0


def test_the_page_speaks_french_where_the_program_does(phone: Page, world: World) -> None:
    world.page = {
        "locale": "fr-CA",
        "points_name": PointsName(one="grain", other="grains"),
    }
    world.answers = [earned(0, 1250), earned()]
    phone.goto(world.code_url)
    expect(phone.locator("html")).to_have_attribute("lang", "fr")
    tap(phone, "Valider ma visite")
    phone.get_by_role("link", name="Continue as Lea").click()
    says(phone, "Visite validée")
    says(phone, re.compile(r"\+0 grain(?!s)"))
    says(phone, re.compile(r"1\s250 grains"))


def test_the_sign_in_page_wears_the_colours_and_language_it_was_left_in(
    phone: Page, world: World
) -> None:
    world.page = {"locale": "fr"}
    phone.goto(world.code_url)
    tap(phone, "Valider ma visite")
    phone.get_by_role("link", name="Cancel").click()
    says(phone, "La connexion a été annulée.")
    expect(phone.get_by_role("heading", name="Beans & Co")).to_be_visible()
    expect(phone.locator(".brand")).to_have_css("background-color", "rgb(111, 78, 55)")


def test_a_phone_on_its_side_shows_the_button_without_scrolling(phone: Page, world: World) -> None:
    phone.set_viewport_size({"width": 667, "height": 375})
    give_token(phone, world)
    phone.goto(world.code_url)
    button = phone.get_by_role("button", name="Check in")
    expect(button).to_be_in_viewport(ratio=1)
    expect(phone.get_by_role("heading", name="Beans & Co")).to_be_in_viewport(ratio=1)
    button.click()
    says(phone, "+10")
    expect(phone.locator(".gain")).to_be_in_viewport(ratio=1)


def test_a_logo_that_does_not_come_leaves_the_first_letter(phone: Page, world: World) -> None:
    world.page = {"logo_url": "https://127.0.0.1:9/logo.svg"}
    phone.goto(world.code_url)
    expect(phone.locator("#logo")).to_have_count(0)
    expect(phone.locator(".mark")).to_have_text("B")


def test_the_button_is_reached_and_pressed_by_keyboard(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.goto(world.code_url)
    phone.keyboard.press("Tab")
    expect(phone.get_by_role("button", name="Check in")).to_be_focused()
    world.answers = [(503, {"retry-after": "600"}, {})]
    phone.keyboard.press("Enter")
    says(phone, "It’s very busy right now")
    expect(phone.get_by_role("button", name="Try again")).to_be_focused()
    phone.keyboard.press("Enter")
    says(phone, "+10 beans")
    expect(phone.get_by_role("status")).to_be_focused()


def test_motion_is_left_out_for_those_who_ask(phone: Page, world: World) -> None:
    give_token(phone, world)
    phone.emulate_media(reduced_motion="reduce")
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "+10 beans")
    assert (
        phone.locator(".gain").evaluate("e => parseFloat(getComputedStyle(e).animationDuration)")
        < 0.001
    )


def test_a_browser_without_storage_is_told_so(phone: Page, world: World) -> None:
    phone.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('denied'); }})"
    )
    phone.goto(world.code_url)
    tap(phone)
    says(phone, "This browser can’t check in")
    assert world.posts == []


def test_without_javascript_the_page_says_what_is_missing(browser: Browser, world: World) -> None:
    with contextlib.closing(browser.new_context(java_script_enabled=False)) as context:
        page = context.new_page()
        page.goto(world.code_url)
        missing = page.locator("noscript .text")
        expect(missing).to_be_visible()
        assert "Checking in needs JavaScript." in missing.inner_text()
        expect(page.get_by_role("heading", name="Beans & Co")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)


# ---- the documents -----------------------------------------------------------------------------


def every_page(world: World) -> dict[str, pages.Page]:
    return {
        "check_in": world.check_in(),
        "signed_in": pages.signed_in(world.sign_in),
        "refused": pages.refused(reason="code_invalid", locale="fr"),
    }


@pytest.mark.parametrize("name", ["check_in", "signed_in", "refused"])
def test_every_page_is_small_private_and_fetches_nothing(world: World, name: str) -> None:
    page = every_page(world)[name]
    assert len(page.html.encode()) < 20_000
    assert 'name="robots" content="noindex"' in page.html
    assert re.findall(r'<(?:script|link|img|iframe)[^>]* (?:src|href)="(?!data:)', page.html) == []
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_pages_connect_only_where_they_must(world: World) -> None:
    documents = every_page(world)
    policies = {name: page.headers["content-security-policy"] for name, page in documents.items()}
    assert "connect-src 'self';" in policies["check_in"]
    assert f"connect-src {world.issuer_url};" in policies["signed_in"]
    assert "connect-src 'none';" in policies["refused"]
    assert "script-src 'none';" in policies["refused"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("code_invalid", "This code isn’t valid"),
        ("code_expired", "This code has expired"),
        ("code_used", "This code was already used"),
        ("unavailable", "This page isn’t available right now"),
        ("anything else", "That didn’t work"),
    ],
)
def test_a_refused_code_has_a_page_that_says_why(reason: str, words: str) -> None:
    page = pages.refused(reason=reason, program_name=HOSTILE, location_name=HOSTILE)
    assert f"<h2>{words}</h2>" in page.html
    assert "<script" not in page.html


def test_a_page_can_be_encoded_whatever_a_name_holds() -> None:
    pages.refused(reason="code_used", program_name="a\ud800\x00b\n\ufffec").html.encode()


@pytest.mark.parametrize("locale", [None, "de", "en-GB", "EN", "zh-Hant"])
def test_other_languages_fall_back_to_english(locale: str | None) -> None:
    page = pages.refused(reason="code_invalid", locale=locale)
    assert '<html lang="en">' in page.html


def test_both_languages_have_every_word_with_the_same_gaps() -> None:
    english, french = pages.WORDS["en"], pages.WORDS["fr"]
    assert english.keys() == french.keys()
    for key, words in english.items():
        assert set(re.findall(r"\{\w+\}", words)) == set(re.findall(r"\{\w+\}", french[key]))


@pytest.mark.parametrize(
    "color", ["#000000", "#ffffff", "#ffd400", "#6f4e37", "#777777", "#00ff00", "#0000ff", "#f60"]
)
def test_every_colour_is_legible(color: str) -> None:
    accent = pages.parse_color(color)
    assert pages.contrast(pages.text_on(accent), accent) >= 4.5
    for sheet in ("#ffffff", "#1b1b1f"):
        assert pages.contrast(pages.legible(accent, sheet, 4.5), sheet) >= 4.5


@pytest.mark.parametrize(
    "color", [None, "", "red", "#12", "#12345", "#1234567", "#ff0000\n", "url(x)"]
)
def test_what_is_no_colour_is_the_neutral_one(color: str | None) -> None:
    assert pages.parse_color(color) == pages.DEFAULT_COLOR
