"""Every control of SECURITY.md with a way to switch it off, and what its tests say without it.

    python -m tests.controls [--idle] [words of a control]

The tests that the table names are collected once. Each control is switched off in a child process
of its own, which ends with it, and runs the tests of its row until each has noticed. Tests that
ask other processes, where the switch changes nothing, are left out: beside one of them stands
another that is not.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import os
import re
import signal
import sys
import textwrap
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

import award
import balance
import members
import staff
import vouchers
from loyalty import (
    adjusting,
    codes,
    commands,
    decisions,
    earning,
    edge,
    pages,
    poster,
    program,
    projections,
    redeeming,
    referrals,
    refunds,
    store,
    transfers,
    wire,
)
from tools.issuer import Authorizer
from tools.template import ROOT, Template

SECURITY: Final = ROOT / "SECURITY.md"
ELSEWHERE: Final = frozenset({"service", "start_service", "clients"})
"""Fixtures of tests that ask other processes."""
PATIENCE_SECONDS: Final = 600
"""A child that takes longer waits for something that does not come: it is ended."""

type Switch = Callable[[], None]
type Verdicts = dict[str, dict[str, str]]
"""By control and test, what the test said; "" where it noticed nothing."""


def named() -> dict[str, list[str]]:
    """The controls of the table, each with the tests that are named beside it, as node ids."""
    _, _, rest = SECURITY.read_text("utf-8").partition("\n## Threats\n")
    found = {}
    for line in rest.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "threat" and not cells[0].startswith("--"):
            found[cells[1]] = re.findall(r"`(tests/[\w.]+(?:::\w+)?)`", cells[2])
    return found


# How a control is switched off: for good, in a process that ends with it


def both(*switches: Switch) -> Switch:
    def throw() -> None:
        for switch in switches:
            switch()

    return throw


def edited(function: Any, pieces: Mapping[str, str]) -> Switch:
    """The function, wherever it is held, with pieces of its text replaced."""

    def change(text: str) -> str:
        for old, new in pieces.items():
            assert text.count(old) == 1, f"{function.__qualname__} does not say once: {old}"
            text = text.replace(old, new)
        return text

    return lambda: _recompile(function, change=change)


def answering(function: Any, expression: str) -> Switch:
    """The function, wherever it is held, with an answer that does not depend on what it did."""
    return lambda: _recompile(function, first=f"return {expression}")


def _recompile(
    function: Any, change: Callable[[str], str] = lambda text: text, first: str = "pass"
) -> None:
    [definition] = ast.parse(change(textwrap.dedent(inspect.getsource(function)))).body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    definition.body[:0] = ast.parse(first).body
    made: dict[str, Any] = {}
    whole = ast.fix_missing_locations(ast.Module([definition], []))
    exec(compile(whole, "<without>", "exec"), function.__globals__, made)  # noqa: S102  # our own text
    function.__code__ = made[function.__name__].__code__


def valued(where: Any, name: str, value: Any) -> Switch:
    """Another value of a constant, for whoever asks the module or class for it."""
    return lambda: setattr(where, name, value)


def templated(change: Callable[[Any], object]) -> Switch:
    """A template with a change in it."""

    def throw() -> None:
        whole = Template.load()
        change(whole.document)
        Template.load = lambda: whole

    return throw


def reading(path: Path, change: Callable[[str], str]) -> Switch:
    """A file of the project with a change in its text."""

    def throw() -> None:
        read = Path.read_text

        def changed(self: Path, *how: Any, **more: Any) -> str:
            text = read(self, *how, **more)
            return change(text) if self == path else text

        Path.read_text = changed

    return throw


def bodies(change: Callable[[Any], object]) -> Switch:
    """Models of bodies with a change in them, compiled anew."""

    def throw() -> None:
        models = [commands.Body]
        for model in models:
            models += model.__subclasses__()
        for model in models:
            change(model)
        for model in models:
            model.model_rebuild(force=True)

    return throw


# Changes that take more than a line


def resource(whole: Any, logical_id: str) -> Any:
    return whole["Resources"][logical_id]["Properties"]


def api(whole: Any) -> Any:
    return resource(whole, "Api")


def statement(whole: Any, logical_id: str) -> Any:
    return resource(whole, logical_id)["Policies"][0]["Statement"][0]


def unencrypted(whole: Any) -> None:
    resource(whole, "AccountsTable")["SSESpecification"]["SSEEnabled"] = False
    resource(whole, "SweepQueue")["SqsManagedSseEnabled"] = False


def bound_elsewhere(whole: Any) -> None:
    for each in resource(whole, "MembersFunction")["Policies"][0]["Statement"]:
        if each["Sid"] == "ChangeProfiles":
            each["Condition"] = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["*#program"]}}


def free_claims(whole: Any) -> None:
    client = resource(whole, "PageClient")
    client["WriteAttributes"].append("custom:member_id")
    client["AllowedOAuthScopes"].append("loyalty/admin")


def changeable(whole: Any) -> None:
    policy = resource(whole, "LedgerTable")["ResourcePolicy"]["PolicyDocument"]
    policy["Statement"][0]["Action"].remove("dynamodb:DeleteItem")
    statement(whole, "AwardFunction").update(
        Action="dynamodb:DeleteItem", Resource={"Fn::GetAtt": "LedgerTable.Arn"}
    )


def endless_lines(model: Any) -> None:
    if "lines" in model.model_fields:
        lines = model.model_fields["lines"]
        lines.metadata = [each for each in lines.metadata if not hasattr(each, "max_length")]


def plain_logos() -> None:
    program.Branding.model_fields["logo_url"].annotation = str
    program.Branding.model_rebuild(force=True)
    program.Program.model_rebuild(force=True)


def fetching_the_logo() -> None:
    publish = store.Store.publish

    def fetching(self: store.Store, program_id: str, document: Any, **more: Any) -> Any:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(document["branding"]["logo_url"])  # noqa: S310  # nobody answers
        return publish(self, program_id, document, **more)

    store.Store.publish = fetching


def scripted(name: str, old: str, new: str) -> Switch:
    """A page's script with a piece of it replaced."""

    def throw() -> None:
        script = getattr(pages, name)
        assert script.count(old) == 1, f"{name} does not say once: {old}"
        setattr(pages, name, script.replace(old, new))

    return throw


def one_more_route() -> None:
    routes = members.handler.routes
    read = routes[f"GET {edge.BASE}/members/{{member_id}}"]
    routes["GET /new"] = replace(read, path="/new")


SWITCHES: Final[Mapping[str, Switch]] = {
    "A member's token reaches that member only; another's name is 403": answering(
        edge.Request.member, "member_id or self.caller.member_id"
    ),
    "That 403 comes before anything is looked up, whether there is the other member or not": edited(
        edge.Request.member,
        {
            'raise Problem("forbidden", ': (
                'store().account(self.program_id, str(member_id)); raise Problem("forbidden", '
            )
        },
    ),
    "Ids of another program are ids of nothing": edited(
        wire.member_key, {"{program_id}#": "{'-' * len(program_id)}#"}
    ),
    "Every route asks for a token, but for four that only read": templated(
        lambda whole: api(whole)["Auth"].pop("DefaultAuthorizer")
    ),
    "Signature, issuer and end of every token are checked before any function runs": edited(
        Authorizer.check,
        {'"verify_aud": False}': '"verify_aud": False, "verify_signature": False}'},
    ),
    "Tokens for other clients than ours open nothing": templated(
        lambda whole: api(whole)["Auth"]["Authorizers"]["Token"]["JwtConfiguration"]["audience"][
            "Fn::If"
        ][1].append({"Ref": "AnotherClient"})
    ),
    "Only RS256 by a key of the issuer counts": edited(
        Authorizer.check,
        {"self._keys[kid],": "self._keys[kid].key,", '["RS256"]': '["RS256", "RS512"]'},
    ),
    "Bodies are closed models: an unknown field is refused": bodies(
        lambda model: model.model_config.update(extra="ignore")
    ),
    "A member does not set its groups": edited(
        members.change, {'"groups" in given and request.is_by_a_member': "False"}
    ),
    "Answers hold no field that the document does not name": edited(
        edge._rendered,
        {
            "json.dumps(response.body,": (
                'json.dumps({**response.body, "x": 1} if type(response.body) is dict else 0,'
            )
        },
    ),
    "A body ends at 256 KiB, a program at 5 MiB": edited(
        edge._serve, {"len(request.raw_body) > route.body_bytes": "False"}
    ),
    "No nesting and no number gets through to an internal error": edited(
        edge.decode, {"except RecursionError": "except ZeroDivisionError"}
    ),
    "A purchase has at most 500 lines": bodies(endless_lines),
    "A page has at most 100 items": valued(edge, "PAGE_LIMIT", 10**6),
    "A page ends before it is larger than Lambda answers": answering(projections.answer_bytes, "0"),
    "A member's lots end where its account would grow beyond 100,000 bytes": edited(
        store.Store._requests, {"> ACCOUNT_BYTES": "> 10**9"}
    ),
    "A member has at most 20 open holds": valued(redeeming, "MAX_HOLDS", 10**6),
    "At most 20 refunds wait for a purchase": valued(award, "WAITING_REFUNDS", 10**6),
    "The stage throttles": templated(lambda whole: api(whole)["DefaultRouteSettings"].clear()),
    "No request takes a second of CPU": edited(
        balance.balance,
        {"account = store()": "sum(1 for _ in range(5 * 10**7)); account = store()"},
    ),
    "A route's roles stand in one place, from which template and document are checked": lambda: (
        members.handler.routes.update(
            {
                key: replace(route, roles=edge.ANYONE)
                for key, route in members.handler.routes.items()
                if key.startswith("DELETE ")
            }
        )
    ),
    "A handler asks for the scope itself": edited(edge._serve, {"if route.roles:": "if False:"}),
    "Two scopes open no more than one of them does": edited(
        edge.Request.is_by_a_member.fget, {" & {*self.route.roles}": ""}
    ),
    "Limits are decided on the very account that is written, under any concurrency": edited(
        store._as_seen, {"return {": "return {} and {"}
    ),
    "No function fetches an address, nor could it but by the SDK": both(
        reading(ROOT / "functions/admin.py", lambda text: text + "\nimport urllib.request\n"),
        fetching_the_logo,
    ),
    "A program's logo is an https address": plain_logos,
    "It is loaded by the browser alone; pages connect only where they must": edited(
        pages._page, {"or \"'none'\"": "or '*'"}
    ),
    "No wildcard in any role": templated(
        lambda whole: statement(whole, "AwardFunction").update(Action="dynamodb:*")
    ),
    "What a role writes outside of transactions is bound to its keys": templated(bound_elsewhere),
    "Tables and queues are encrypted": templated(unencrypted),
    "Strict headers and a policy on every page": edited(
        pages._page, {"default-src 'none'": "default-src *"}
    ),
    "Nothing of the local service is deployed": templated(
        lambda whole: api(whole).update(Name="/dev/tokens")
    ),
    "A route stands in code, template and the document, which is derived from it": one_more_route,
    "A route that is not in the table of authorization fails the tests": lambda: sys.modules[
        "test_authorization"
    ].OPERATIONS.update({"GET /new": {"security": []}}),
    "The only services asked are those of AWS": reading(
        ROOT / "shared/loyalty/store.py",
        lambda text: text + "\ndef fetch(name: str) -> None:\n    _client(name)\n",
    ),
    "What a lost or repeated answer means is decided by the key in the table": edited(
        store.Store._requests, {"self._ledger, said, _FREE": "self._ledger, said, {}"}
    ),
    "The engine keeps no password: people sign in at the issuer, by code": templated(
        lambda whole: resource(whole, "PageClient").update(AllowedOAuthFlows=["implicit"])
    ),
    "The code is worth nothing without the verifier of the tab that asked (PKCE)": scripted(
        "_CHECK_IN_SCRIPT", "code_challenge: base64url(new Uint8Array(digest)),", ""
    ),
    "A state that this tab did not make is refused": scripted(
        "_SIGNED_IN_SCRIPT", " || started.state !== state", ""
    ),
    "A planted address leads nowhere": scripted(
        "_SIGNED_IN_SCRIPT",
        "url.origin === location.origin && /^\\/c\\/[^/]/.test(url.pathname)",
        "true",
    ),
    "People choose neither claims nor scopes": templated(free_claims),
    "A stolen token reaches one member until it ends; staff can block it at once": edited(
        decisions.may_spend, {'account.status == "blocked"': "False"}
    ),
    "Off unless the program allows them": edited(
        transfers.transfer, {"terms is None or not terms.enabled": "False"}
    ),
    "Limits by window": answering(transfers._within_limits, "None"),
    "A wait for new members": answering(transfers._old_enough, "None"),
    "A wait for fresh points": answering(transfers._fresh, "{}"),
    "Points keep their dates": edited(
        transfers.transfer, {"(receiver.today, end, points)": "(receiver.today, end + 365, points)"}
    ),
    "Not by the same e-mail address or telephone number in another dress": answering(
        referrals.same_person, "False"
    ),
    "Not each other, under whatever ids before a merge": answering(referrals._each_other, "False"),
    "Paid by the first purchase of enough where the program says so": edited(
        referrals.due,
        {"terms is None or terms.award_on != occasion or not referrer_id": "not referrer_id"},
    ),
    "Taken back with that purchase": answering(refunds.Progress.referral_ended.fget, "False"),
    "A poster is public: limits per member, day and week bound a photograph's worth": answering(
        earning._allowed_from, "at"
    ),
    "So do opening hours": answering(program.CheckIn.is_open, "True"),
    "`code_version` withdraws every poster": edited(
        earning.scanned_location, {" and rules.code_version == code.code_version": ""}
    ),
    "A code is signed, for its program": edited(
        codes.read_check_in_code, {"genuine = False": "genuine = True"}
    ),
    "100 bits": valued(codes, "VOUCHER_CHARACTERS", 10),
    "A hundred wrong codes a minute for one subject of tokens": valued(vouchers, "GUESSES", 10**6),
    "The same work and words for whatever is no code": edited(
        vouchers._found,
        {"VOUCHER_SORT)": 'VOUCHER_SORT) if len(request.path["code"]) > 9 else None'},
    ),
    "Tables hold only the hash": answering(codes.voucher_hash, "code"),
    "A refund takes what the event gave, once": edited(
        refunds.reverse, {"if before.whole:": "if False:"}
    ),
    "Never more than was bought": edited(
        refunds.parts_of,
        {"refund.amount > sum(left)": "False", "not part or back[i] + part > 1": "not part"},
    ),
    "What was spent meanwhile is taken from other points or owed": edited(
        refunds.take_back,
        {
            "min(short, draft.account.available)": "0",
            'policy == "debt" and short > more': "False",
        },
    ),
    "Limits against abuse get no room back": edited(
        refunds._taken_back,
        {
            "counts=restored.counts if restored else ()": (
                "counts=[Count(per, c.window, name, -n)"
                " for per, c in draft.account.counters.items() for name, n in c.values.items()]"
            )
        },
    ),
    "Personal values stand beside the ledger alone, from where erasing removes them": answering(
        members._held, "[]"
    ),
    "Fingerprints, which stay, have them only under a random salt that goes with it": edited(
        members._fingerprint, {"if salt is not None:": "if False:"}
    ),
    "Every adjustment says who and why": edited(adjusting.adjust, {'{"s": by}': '{"s": ""}'}),
    "The ledger can be changed by nobody": templated(changeable),
    "Above an amount another person has to agree": answering(
        adjusting.needs_second_person, "False"
    ),
    "Who proposed it is no other person": edited(staff.approve, {'proposal["by"] == by': "False"}),
    "Escaped in HTML": answering(pages._text, "value"),
    "Escaped in SVG": valued(poster, "escape", str),
    "One script, by its hash": answering(pages._hash, repr("'unsafe-inline'")),
    "Logs are JSON": templated(
        lambda whole: whole["Globals"]["Function"]["LoggingConfig"].update(LogFormat="Text")
    ),
    "A control character in a field is refused": answering(commands._clean, "value"),
}


class Watch:
    """A plugin of pytest that runs the tests of each control without it."""

    def __init__(self, controls: Mapping[str, list[str]], *, idle: bool) -> None:
        self.controls = controls
        self.idle = idle
        self.verdicts: Verdicts = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            if asks_here(item):
                items[item.nodeid.partition("[")[0]].append(item)
        for control, tests in self.controls.items():
            begun = time.monotonic()
            here = {test: items[test] for test in tests if items[test]}
            self.verdicts[control] = self._without(control, here)
            self.seconds[control] = time.monotonic() - begun
        return True

    def _without(self, control: str, tests: Mapping[str, list[pytest.Item]]) -> dict[str, str]:
        """What each test says in a child process in which the switch is thrown."""
        here, there = os.pipe()
        child = os.fork()
        if child:
            os.close(there)
            with os.fdopen(here, encoding="utf-8") as pipe:
                told: dict[str, str] = json.load(pipe)
            os.waitpid(child, 0)
            if "" in told:
                raise RuntimeError(f"{control}: {told['']}")
            return told
        try:
            signal.alarm(PATIENCE_SECONDS)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if not self.idle:
                SWITCHES[control]()
            told = said(tests)
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to who asked
            told = {"": repr(error)}
        with os.fdopen(there, "w", encoding="utf-8") as pipe:
            json.dump(told, pipe)
        os._exit(0)


def asks_here(item: Any) -> bool:
    """Whether the test asks nothing but this process."""
    chosen = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return ELSEWHERE.isdisjoint(item.fixturenames) and "served" not in chosen


def said(tests: Mapping[str, list[pytest.Item]]) -> dict[str, str]:
    """How each test has failed, or "". Of one with parameters the first failure is enough."""
    told = dict.fromkeys(tests, "")
    for test, items in tests.items():
        for item, following in zip(items, [*items[1:], None], strict=True):
            for report in runtestprotocol(item, log=False, nextitem=following):
                if report.failed and report.when == "setup":
                    raise RuntimeError(f"{test} could not be tried: {report.longreprtext}")
                if report.failed:
                    told[test] = report.longreprtext[-2000:]
            if told[test]:
                item.session._setupstate.teardown_exact(None)
                break
    return told


def run(words: Iterable[str] = (), part: int = 0, parts: int = 1, *, idle: bool = False) -> Watch:
    """The verdicts on the controls with these words, or on one of so many parts of them."""
    chosen = [
        control for control in named() if all(word.lower() in control.lower() for word in words)
    ]
    controls = {control: named()[control] for control in chosen[part::parts]}
    watch = Watch(controls, idle=idle)
    tests = sorted({test for each in controls.values() for test in each})
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        ended = pytest.main([*options, *tests], [watch])
    if ended != pytest.ExitCode.OK:
        raise RuntimeError(told.getvalue())
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only the controls with these words")
    parser.add_argument("--part", type=int, default=0, help="only one of so many --parts")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--idle", action="store_true", help="throw no switch")
    parser.add_argument("--json", action="store_true", help="the verdicts as JSON")
    options = parser.parse_args()
    watch = run(options.words, options.part, options.parts, idle=options.idle)
    if options.json:
        print(json.dumps(watch.verdicts))
        return
    for control, told in watch.verdicts.items():
        print(f"\n{control} ({watch.seconds[control]:.1f} s)")
        for test, words in told.items():
            lines = [line for line in words.splitlines() if "Error" in line or line[:2] == "E "]
            print(f"  {test}: {' / '.join(lines)[:300] if words else 'NOTICED NOTHING'}")


if __name__ == "__main__":
    main()
