"""The verification: every law of the ledger, held against everything that is stored.

The schedule begins a run, as one message for each part of it (`segments`). First every account is
read with its member's entries, and the index for entries without an account; when all of that is
done, the ledger by its keys, with budgets looked at before and after. What a part has found stands
with its place, so that a message that comes twice counts nothing twice. The last part to end sums
up.

Commands go on meanwhile: what looks wrong is looked at again, strongly consistent, before it
counts.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import batched, groupby
from typing import Any, Final

from loyalty import edge
from loyalty.dates import milliseconds
from loyalty.decisions import Record, stock_id
from loyalty.earning import birthday_of
from loyalty.edge import count, counting, logger, secrets, store, verify_queue
from loyalty.segments import Job, Standing
from loyalty.verification import (
    ExpectedVoucher,
    Tally,
    Terms,
    checked_key,
    checked_member,
    summed_up,
    voucher,
    without_account,
)
from loyalty.wire import Item, account_of, entry_of

ACCOUNTS_AT_ONCE: Final = 100
"""Accounts of one page: their entries are read one account after the other, a second or two."""
RESERVE_SECONDS: Final = 300
"""Time that must be left to begin another page: time for a page of members with 1,000 entries each,
and more."""
LOOKS: Final = 4
"""How often something that looks wrong is looked at again."""
FIRST_PAUSE: Final = 3
"""The first pause between looks, as the number of an attempt: 64 ms on average, then doubled."""
KEPT_SECONDS: Final = 7 * 86_400
"""How long the parts of a run are kept."""
FIRST: Final = ("accounts", "index")
"""What is read before the ledger itself."""

type Tallies = dict[str, Tally]
type Budgets = dict[str, dict[str, tuple[int, int]]]
"""By program and name: (points that the shards have given, points left)."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer the schedule (begin a run) or a batch of the queue (parts; failed ones come again)."""
    with counting():
        if "Records" not in event:
            return {"parts": Verification.fan_out(event.get("scheduled_time"), FIRST)}
        return Verification.work(event["Records"], context)


class Verification(Job):
    """A part of a run; its standing has the `tallies` of the pages by now, as JSON."""

    partition = "#verification"
    kept_seconds = KEPT_SECONDS
    reserve_seconds = RESERVE_SECONDS

    @staticmethod
    def queue() -> tuple[str, int]:
        return verify_queue()

    def page(self, stands: Standing) -> tuple[Any, dict[str, Any]]:
        """Read one page, and add what it shows to the tallies."""
        start = json.loads(stands["start"])
        found, following = page(self.kind, self.segment, self.segments, start)
        tallies = _tallies(stands.get("tallies", "{}"))
        add(tallies, found)
        text = json.dumps({name: tally.as_json() for name, tally in tallies.items()})
        return following, {"tallies": text}

    def ended(self, stands: Standing, *, now: bool) -> None:  # noqa: ARG002  # as every job is told
        """What follows a part that is done, if it was the last of its kind: the ledger, or the
        result."""
        kinds = FIRST if self.kind in FIRST else (*FIRST, "ledger")
        parts = self.standings(kinds)
        if len(parts) < len(kinds) * self.segments or not all(part["done"] for part in parts):
            return
        tallies: Tallies = {}
        for part in parts:
            add(tallies, _tallies(part["tallies"]))
        if self.kind in FIRST:
            kept = {"segments": self.segments, "standing": json.dumps(budgets(tallies))}
            self.fan_out(self.scheduled_time, ["ledger"], stage="ledger", **kept)
            return
        begun = self.fanned_out(self.scheduled_time)
        before = self.fanned_out(self.scheduled_time, "ledger")
        if begun and before:
            run = {"run": self.scheduled_time, "started_at": begun["started_at"]}
            _conclude(run, tallies, json.loads(before["standing"]))


def _tallies(text: str) -> Tallies:
    return {name: Tally.of_json(value) for name, value in json.loads(text).items()}


def add(tallies: Tallies, found: Tallies) -> None:
    """Add what was found to what was found before."""
    for program_id, tally in found.items():
        tallies.setdefault(program_id, Tally()).add(tally)


def _conclude(run: dict[str, Any], tallies: Tallies, before: Budgets) -> None:
    last = store().record("#verification", "last")
    for program_id in json.loads(last["programs"]) if last else ():
        tallies.setdefault(program_id, Tally())  # of which nothing is left
    for program_id, tally in conclusions(tallies, before).items():
        fields = {
            **run,
            "status": "violated" if tally.violated else "clean",
            "finished_at": milliseconds(edge.clock()),
            "entries": tally.entries,
            "members": tally.members,
            "outstanding": tally.outstanding,
            "violated": tally.violated,
            "moved": json.dumps(tally.moved),
            "violations": json.dumps([v.as_json() for v in tally.violations]),
        }
        if _keep(f"{program_id}#verification", fields):
            count("VerifiedEntries", tally.entries)
            count("LedgerViolations", tally.violated)
            for violation in tally.violations:
                logger.error("ledger violated", violation=violation.as_json())
    _keep("#verification", {"run": run["run"], "programs": json.dumps(sorted(tallies))})


def _keep(partition: str, fields: dict[str, Any]) -> bool:
    """Put the result of a run in the place of the last one's, unless that of a later run stands
    there; False where this very one does."""
    while True:
        seen = store().record(partition, "last")
        if seen is not None and seen["run"] >= fields["run"]:
            return bool(seen["run"] > fields["run"])
        revision = 1 if seen is None else seen["revision"] + 1
        record = Record(partition, "last", {**fields, "revision": revision})
        if seen is None:
            kept = store().create_record(record)
        else:
            kept = store().replace_record(record, seen=seen)
        if kept:
            return True


# Pages


def page(kind: str, segment: int, number: int, start: Any) -> tuple[Tallies, Any]:
    """What one page of a kind of part shows by program, and where the next one starts, or None."""
    match kind:
        case "accounts":
            return _accounts(segment, number, start)
        case "index":
            return _index(segment, number, start)
        case _:
            return _ledger(segment, number, start)


def _terms() -> Terms:
    return Terms(store().rulebook)


def _accounts(segment: int, number: int, start: Any) -> tuple[Tallies, Any]:
    """Accounts, each with its member's entries."""
    accounts, following = store().scanned_accounts(segment, number, start, ACCOUNTS_AT_ONCE)
    profiles = store().records([_profile_key(account["pk"]["S"]) for account in accounts])
    terms = _terms()
    tallies: Tallies = {}
    for account in accounts:
        member = account["pk"]["S"]
        birthday = _birthday(profiles.get(_profile_key(member)))
        tally = checked_member(account, _rows(member, consistent=False), birthday, terms)
        if tally.violated:
            tally = _member_again(member, terms)
        add(tallies, {_program_of(member): tally})
    return tallies, following


def _member_again(member: str, terms: Terms) -> Tally:
    """A member looked at until nothing is wrong, or it stays wrong."""
    tally = Tally()
    for look in range(LOOKS):
        store().rest(FIRST_PAUSE + look)
        account = store().stored_accounts([member], consistent=True).get(member)
        if account is None:
            return Tally()
        profile = store().record(*_profile_key(member))
        tally = checked_member(account, _rows(member, consistent=True), _birthday(profile), terms)
        if not tally.violated:
            break
    return tally


def _rows(member: str, *, consistent: bool) -> Iterator[tuple[Item, Item | None]]:
    """A member's entries as the index shows them and as the ledger holds them."""
    for rows in store().index_rows(member):
        for some in batched(rows, 100, strict=False):  # not a whole page of entries at once
            stored = store().stored_entries([_key(row) for row in some], consistent=consistent)
            for row in some:
                yield row, stored.get(_key(row))


def _key(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _program_of(key: str) -> str:
    return key.partition("#")[0]


def _profile_key(member: str) -> tuple[str, str]:
    program_id, _, member_id = member.partition("#")
    return f"{program_id}#member#{member_id}", "profile"


def _birthday(profile: dict[str, Any] | None) -> int:
    text = (profile or {}).get("birthday")
    return (birthday_of(date.fromisoformat(text)) if text else None) or 0


def _index(segment: int, number: int, start: Any) -> tuple[Tallies, Any]:
    """Entries that no account knows of."""
    rows, following = store().scanned_index(segment, number, start)
    members = dict.fromkeys(row["m"]["S"] for row in rows)
    accounts = store().stored_accounts(members)
    tallies: Tallies = {}
    for row in rows:
        member = row["m"]["S"]
        if without_account(row, _last(accounts.get(member))) is None:
            continue
        entry = store().stored_entries([_key(row)], consistent=True).get(_key(row))
        again = store().stored_accounts([member], consistent=True).get(member)
        violation = without_account(row, _last(again))
        if violation and entry and all(entry.get(name) == row[name] for name in "mn"):
            tally = Tally()
            tally.blame(violation)
            add(tallies, {_program_of(member): tally})
    return tallies, following


def _last(account: Item | None) -> int | None:
    """The number of an account's last entry; None where there is no account."""
    number = (account or {}).get("n", {}).get("N", "0")
    return None if account is None else int(number) if number.isdecimal() else 0


def _ledger(segment: int, number: int, start: Any) -> tuple[Tallies, Any]:
    """All that stands under each key."""
    items, following = store().scanned_ledger(segment, number, start)
    together = [list(group) for _, group in groupby(items, key=lambda item: item["pk"]["S"])]
    if following is not None and together:
        # The page may have ended within the last one: it is read whole, and the next starts after.
        together[-1] = store().stored_under(together[-1][0]["pk"]["S"]) or together[-1]
        following = {name: together[-1][-1][name] for name in ("pk", "sk")}
    terms = _terms()
    tallies: Tallies = {}
    expected = []
    for group in together:
        tally = checked_key(group, terms)
        if tally.violated:
            tally = _key_again(group[0]["pk"]["S"], terms)
        elif (made := voucher(group, secrets())) is not None:
            expected.append((group[0]["pk"]["S"], made))
        add(tallies, {_program_of(group[0]["pk"]["S"]): tally})
    found = store().records([(made.partition, "voucher") for _, made in expected])
    for partition, made in expected:
        if made.violation(found.get((made.partition, "voucher"))) is not None:
            tally = _voucher_again(partition)
            add(tallies, {_program_of(partition): tally})
    return tallies, following


def _key_again(partition: str, terms: Terms) -> Tally:
    """What stands under a key, looked at until nothing is wrong, or it stays wrong."""
    tally = Tally()
    for look in range(LOOKS):
        store().rest(FIRST_PAUSE + look)
        items = store().stored_under(partition)
        tally = checked_key(items, terms) if items else Tally()
        if not tally.violated:
            break
    return tally


def _voucher_again(partition: str) -> Tally:
    tally = Tally()
    made = voucher(store().stored_under(partition), secrets())
    record = store().record(made.partition, "voucher") if made else None
    violation = made and made.violation(record)
    if made and made.withdrawn(record) and _restored(made):
        tally.drawn[made.stock] -= made.pieces
    elif violation:
        tally.blame(violation)
    return tally


def _restored(made: ExpectedVoucher) -> bool:
    """Whether a refund gave points of the redemption back to who made it, or to who that is now."""
    program_id, member_id = made.entry.program_id, made.entry.member_id
    seen: set[str] = set()
    while member_id and member_id not in seen:
        seen.add(member_id)
        member = f"{program_id}#{member_id}"
        for _, item in _rows(member, consistent=True):
            if item is not None and "x" in item and made.restored_by(entry_of(item)):
                return True
        account = store().stored_accounts([member], consistent=True).get(member)
        member_id = account_of(account).merged_into if account else ""
    return False


# Budgets and stocks


def budgets(tallies: Iterable[str]) -> Budgets:
    """What the budgets and stocks of these programs stand at now, of all their versions."""
    found: Budgets = {}
    for program_id in tallies:
        names = _most(program_id)
        found[program_id] = {name: _standing(program_id, name) for name in names}
    return found


def _most(program_id: str) -> dict[str, int]:
    """The largest total that any version of the program has set, of each budget and stock."""
    most: dict[str, int] = {}
    for version in store().versions(program_id):
        rulebook = store().rulebook(program_id, version.number)
        totals = dict(rulebook.budgets)
        rewards = rulebook.program.rewards
        totals |= {stock_id(r.reward_id): r.stock for r in rewards if r.stock is not None}
        for name, total in totals.items():
            most[name] = max(total, most.get(name, total))
    return most


def _standing(program_id: str, name: str) -> tuple[int, int]:
    """(Points given, points left) of a budget, or pieces of a stock."""
    return store().budget(program_id, name) or (0, 0)


def conclusions(tallies: Tallies, before: Budgets) -> Tallies:
    """The tallies with what only the whole shows; `before` is what budgets stood at when the
    reading of the ledger began."""
    after = budgets(tallies)
    concluded: Tallies = {}
    for program_id, tally in tallies.items():
        known = before.get(program_id, {})
        still = {
            name: now if tuple(known.get(name, ())) == now else None
            for name, now in after[program_id].items()
        }
        concluded[program_id] = summed_up(program_id, tally, still, _most(program_id))
    return concluded
