"""A member's history, page by page, newest first, as several routes show it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from loyalty import projections
from loyalty.edge import Problem, Request, cursor, page_of, position, store
from loyalty.model import Entry

type Placed = tuple[str, projections.HistoryRow]
"""A row, behind the place from which to go on after it."""


def history_page(request: Request, member_id: str) -> projections.HistoryPage:
    """One page of a member's history; of the one that it was merged into, if it was.

    Refusals: `member_not_found`, `member_erased`; Problem `invalid_query`.
    """
    limit, after = request.page()
    told = "" if after is None else position(after)
    place = told.removesuffix(".m")
    is_alias = place != told
    before, skipped = (None, 0) if after is None else _place(place)
    program_id, shown_id = request.program_id, member_id
    if is_alias:
        shown_id = store().member(program_id, member_id).member_id
    found = _entries(program_id, shown_id, limit, before)
    if after is None:
        newest = next(found, None)
        if newest is not None and newest.status not in ("merged", "erased"):
            found = chain((newest,), found)
        else:
            # An empty history, no such member, or one whose history goes on elsewhere or nowhere.
            shown_id = store().member(program_id, member_id).member_id
            is_alias = shown_id != member_id
            found = _entries(program_id, shown_id, limit, None)
    rows, more = page_of(_rows(program_id, found, before, skipped), limit)
    following = f"{rows[-1][0]}{'.m' if is_alias else ''}" if more else None
    return _page(rows, following)


def whole_history_page(
    request: Request, member_ids: Sequence[str], told: str | None, *, beside: int
) -> projections.HistoryPage:
    """One page of all that one person did under these ids: one id after the other, each newest
    first, from where a cursor has `told`. `beside` is the size of what the answer says besides.
    Problem `invalid_query`."""
    limit, _ = request.page()
    ids = list(member_ids)
    before, skipped = None, 0
    if told is not None:
        first, _, place = told.partition(":")
        if first not in ids:
            raise not_ours()
        ids = ids[ids.index(first) :]
        before, skipped = _place(place)

    def placed() -> Iterator[Placed]:
        start = before
        for member_id in ids:
            found = _entries(request.program_id, member_id, limit, start)
            for place, row in _rows(request.program_id, found, start, skipped):
                yield f"{member_id}:{place}", row
            start = None

    rows, more = page_of(placed(), limit, beside=beside)
    return _page(rows, rows[-1][0] if more else None)


def _page(rows: Sequence[Placed], following: str | None) -> projections.HistoryPage:
    return {
        "items": [row for _, row in rows],
        "next_cursor": None if following is None else cursor(following),
    }


def _entries(program_id: str, member_id: str, limit: int, before: int | None) -> Iterator[Entry]:
    # One may have been shown to its end on the page before, one tells whether there are more.
    return store().newest_entries(program_id, member_id, at_once=limit + 2, before=before)


def _rows(
    program_id: str, entries: Iterable[Entry], before: int | None, skipped: int
) -> Iterator[Placed]:
    """The rows of these entries, without the first `skipped` of the entry just below `before`."""
    for entry in entries:
        rulebook = store().rulebook(program_id, entry.version)
        shown = skipped if entry.seq + 1 == before else 0
        for number, row in enumerate(projections.history_rows(rulebook, entry), 1):
            if number > shown:
                yield f"{entry.seq}.{number}", row


def _place(text: str) -> tuple[int, int]:
    """(Read entries below this number, rows of the newest of them to skip); Problem
    `invalid_query`."""
    seq, _, rows = text.partition(".")
    if not (seq.isdecimal() and rows.isdecimal() and len(text) < 30):
        raise not_ours()
    return int(seq) + 1, int(rows)


def not_ours() -> Problem:
    """What a cursor is answered that no page has told."""
    return Problem("invalid_query", "The cursor is not one of ours.")
