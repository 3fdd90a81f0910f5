"""What somebody with access to the tables could do behind the service's back, one thing at a time:
edits of any attribute, deletions, swaps; and whether the verification finds and names each.

    python -m tests.mutations [--number 1000] [--members 20] [--commands 400] [--write]

A ledger of all kinds of commands is written by the handlers on a fresh engine. Then each mutation
is put straight into the tables, everything is verified, and the mutation is undone. With --write
the report goes into docs/proof.md. It ends with status 1 if one was not found or not named.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import verify
from loyalty.verification import Violation
from loyalty.wire import Item, is_waiting
from tests import ledgers
from tests.workers import Books, House
from tools import meter
from tools.bench import measured_on, told
from tools.engine import LOCAL_CREDENTIALS, Engine, create_tables
from tools.template import ROOT
from tools.verify import Pass, verified

PROOF: Path = ROOT / "docs" / "proof.md"

type Chance = random.Random
type Change = tuple[Item | None, Item | None]
"""An item before and after; None where there is none."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Changes of one table's items, made together, and what they are called."""

    what: str
    table: str
    changes: tuple[Change, ...]

    def put(self, house: House, *, back: bool = False) -> None:
        """Make the changes, or take them `back`."""
        table = getattr(house.tables, self.table)
        ways = [change[::-1] if back else change for change in self.changes]
        for old, new in ways:
            if old is not None and (new is None or _key(old) != _key(new)):
                house.direct.delete_item(TableName=table, Key=_key(old))
        for _, new in ways:
            if new is not None:
                house.direct.put_item(TableName=table, Item=new)


def _key(item: Item) -> Item:
    return {name: item[name] for name in ("pk", "sk") if name in item}


class Mutations:
    """Random mutations of what stands in the books."""

    def __init__(self, books: Books, chance: Chance) -> None:
        self._chance = chance
        self._items = {"accounts": list(books.accounts), "ledger": list(books.ledger)}
        self._keys = {(i["pk"]["S"], i["sk"]["S"]) for i in books.ledger}
        self._makers: tuple[Callable[[str], Mutation | None], ...] = (
            self.edit, self.edit, self.edit, self.edit,
            self.remove_attribute, self.add_attribute, self.delete, self.delete,
            self.swap_items, self.swap_attribute, self.rename,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Mutation]:
        while True:
            table = self._chance.choice(["accounts", "ledger", "ledger"])
            made = self._chance.choice(self._makers)(table)
            if made is not None:
                yield made

    def _any(self, table: str) -> Item:
        return self._chance.choice(self._items[table])

    def edit(self, table: str) -> Mutation | None:
        """One attribute gets another value."""
        item = self._any(table)
        name = self._chance.choice(sorted(item.keys() - {"pk", "sk"}))
        value = self._other(item[name], keep_type=name in ("m", "n"))
        if value == item[name]:
            return None
        return Mutation(f"edit of {name}", table, ((item, {**item, name: value}),))

    def _other(self, value: Mapping[str, Any], *, keep_type: bool) -> dict[str, Any]:
        [(kind, content)] = value.items()
        chance = self._chance
        if not keep_type and chance.random() < 0.1:
            return {"S": str(content)} if kind != "S" else {"N": "7"}
        match kind:
            case "N":
                number = int(content)
                return {"N": str(chance.choice([number + 1, number - 1, number * 10, -number, 0]))}
            case "B":
                raw = bytearray(bytes(content) or b"\0")
                raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
                return {"B": bytes(raw)}
            case _:
                at = chance.randrange(len(content))
                digits = [i for i, c in enumerate(content) if c.isdigit()]
                if digits and chance.random() < 0.7:
                    at = chance.choice(digits)  # JSON stays JSON: a quieter lie
                other = chance.choice("0123456789ax")
                return {"S": content[:at] + other + content[at + 1 :]}

    def remove_attribute(self, table: str) -> Mutation | None:
        item = self._any(table)
        name = self._chance.choice(sorted(item.keys() - {"pk", "sk"}))
        left = {k: v for k, v in item.items() if k != name}
        return Mutation(f"removal of {name}", table, ((item, left),))

    def add_attribute(self, table: str) -> Mutation | None:
        item = self._any(table)
        names = set("abcdefghijklopqrstuvwxyz1")
        name = self._chance.choice(sorted(names - item.keys()))
        value = self._chance.choice([{"N": "1"}, {"S": "x"}, {"S": "[]"}])
        return Mutation("addition of an attribute", table, ((item, {**item, name: value}),))

    def delete(self, table: str) -> Mutation | None:
        item = self._any(table)
        if table == "ledger" and is_waiting(item) and not self._is_followed(item):
            return None  # nothing else says that it was there: docs/proof.md tells so
        return Mutation("deletion", table, ((item, None),))

    def _is_followed(self, item: Item) -> bool:
        """Whether the event of a refund that waits has come, or another refund waits behind it;
        whether a proposal was approved."""
        pk, sk = item["pk"]["S"], item["sk"]["S"]
        if item["k"]["S"] == "g":
            return (pk, "approved") in self._keys
        behind = f"w#{int(sk.removeprefix('w#')) + 1:03}" if sk != "0" else "w#001"
        return (pk, "1") in self._keys or (pk, behind) in self._keys

    def swap_items(self, table: str) -> Mutation | None:
        """Two items of a table change places."""
        one, other = self._any(table), self._any(table)
        changes = tuple(
            (here, {**_key(here), **{k: v for k, v in there.items() if k not in ("pk", "sk")}})
            for here, there in ((one, other), (other, one))
        )
        return self._swapped("swap of two items", table, changes)

    def swap_attribute(self, table: str) -> Mutation | None:
        """Two items of a table exchange one attribute."""
        one, other = self._any(table), self._any(table)
        shared = sorted((one.keys() & other.keys()) - {"pk", "sk"})
        name = self._chance.choice(shared)
        changes = ((one, {**one, name: other[name]}), (other, {**other, name: one[name]}))
        return self._swapped(f"swap of {name}", table, changes)

    def _swapped(self, what: str, table: str, changes: tuple[Change, ...]) -> Mutation | None:
        same = any(before == after for before, after in changes)
        return None if same else Mutation(what, table, changes)

    def rename(self, table: str) -> Mutation | None:
        """An item is moved under another key."""
        item = self._any(table)
        if table == "ledger" and is_waiting(item) and not self._is_followed(item):
            return None
        name = "sk" if table == "ledger" and self._chance.random() < 0.5 else "pk"
        return Mutation("rename", table, ((item, {**item, name: {"S": item[name]["S"] + "9"}}),))


def names(violations: Sequence[Violation], mutation: Mutation) -> bool:
    """Whether every item that was touched is named: by its member and number, or its key, that
    under which it now stands too."""
    return all(
        any(_is_named(v, item) for v in violations for item in change if item is not None)
        for change in mutation.changes
    )


def _is_named(violation: Violation, item: Item) -> bool:
    if "sk" not in item:
        program_id, _, member_id = item["pk"]["S"].partition("#")
        return (violation.program_id, violation.member_id) == (program_id, member_id)
    program_id, _, partition = item["pk"]["S"].partition("#")
    if violation.program_id != program_id:
        return False
    if violation.entry == f"{partition} {item['sk']['S']}":
        return True
    if "m" not in item or "n" not in item:
        return False
    member_id, number = item["m"]["S"].partition("#")[2], item["n"]["N"]
    return (violation.member_id, str(violation.seq)) == (member_id, number)


@dataclass(slots=True)
class Report:
    """What came of all mutations: those that were missed, and by which laws others were found."""

    whole: Pass
    tried: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    missed: list[tuple[Mutation, list[Violation]]] = field(default_factory=list)
    seconds: float = 0


def prove(house: House, number: int, seed: int = 1) -> Report:
    """Try so many mutations of what stands in the house's tables, each alone and undone."""
    # Nothing moves here but what we move: one more look is as good as four.
    with mock.patch.object(verify, "LOOKS", 1):
        return _proved(house, number, seed)


def _proved(house: House, number: int, seed: int) -> Report:
    books = house.books()
    report = Report(verified())
    assert not report.whole.violations, report.whole.violations
    begun = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  # a test, reproducible
    for mutation in Mutations(books, chance):
        mutation.put(house)
        found = verified().violations
        mutation.put(house, back=True)
        kind = mutation.what.partition(" of ")[0] if " of " in mutation.what else mutation.what
        report.tried[f"{kind}, {mutation.table}"] += 1
        report.codes.update({violation.code for violation in found})
        if not names(found, mutation):
            report.missed.append((mutation, found))
        if report.tried.total() == number:
            break
    report.seconds = time.monotonic() - begun
    assert house.books() == books, "a mutation was not undone"
    assert not verified().violations
    return report


def table(report: Report, kinds: int) -> str:
    """The report as it stands in the document."""
    rows = ["| what | table | tried | found and named |", "|--|--|--:|--:|"]
    missed = Counter(f"{m.what.partition(' of ')[0]}, {m.table}" for m, _ in report.missed)
    for name, tried in sorted(report.tried.items()):
        what, _, where = name.partition(", ")
        rows.append(f"| {what} | {where} | {tried} | {tried - missed[name]} |")
    total = report.tried.total()
    rows.append(f"| all | | {total:,} | {total - len(report.missed):,} |")
    whole = report.whole
    found = ", ".join(f"`{code}` {n}" for code, n in report.codes.most_common())
    for mutation, told_of in report.missed:
        rows += ["", f"Missed: {mutation.what} in {mutation.table}: {mutation.changes}; {told_of}"]
    rows += [
        "",
        f"A ledger of {whole.entries:,} entries of {kinds} kinds and {whole.members} members."
        f" Kinds of violations, by how many of the mutations showed them: {found}.",
        "",
        f"Reading everything once took {whole.seconds:.2f} s,"
        f" {whole.entries / whole.seconds:,.0f} entries a second, and"
        f" {whole.read_units / whole.entries:.2f} read units an entry;"
        f" all mutations {report.seconds:.0f} s.",
        "",
        measured_on(),
    ]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--commands", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the report into docs/proof.md")
    options = parser.parse_args()
    os.environ.update(LOCAL_CREDENTIALS)
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "POWERTOOLS_METRICS_DISABLED": "true"}
    os.environ |= {"POWERTOOLS_SERVICE_NAME": "proof", "POWERTOOLS_LOG_LEVEL": "CRITICAL"}
    with Engine() as engine:
        house = House(engine, create_tables(engine.endpoint, "proof-verify"))
        meter.attach(house.client)
        ledgers.fill(house, members=options.members, commands=options.commands)
        kinds = len({item["k"]["S"] for item in house.books().ledger} - {"w", "g"})
        with house.on(365):
            report = prove(house, options.number, options.seed)
    told("verify", table(report, kinds), write=options.write, document=PROOF)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
