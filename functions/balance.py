"""What a member has, and how it came."""

from loyalty import projections
from loyalty.commands import instant
from loyalty.edge import (
    ANYONE,
    BASE,
    App,
    Problem,
    Request,
    Response,
    cursor,
    position,
    store,
)
from loyalty.model import Account

handler = App()


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/balance",
    roles=ANYONE,
    answers={200: projections.Balance},
    problems=("member_not_found", "unavailable"),
    query=("as_of",),
)
def balance(request: Request) -> Response:
    """A member's points now, or at a past time as they were answered then."""
    member_id = request.member(request.path["member_id"])
    rulebook = store().rulebook_in_force(request.program_id, request.now)
    account = store().member(request.program_id, member_id)
    if "as_of" not in request.query:
        return Response(projections.balance(rulebook, account, request.now))
    at = instant(request.query["as_of"])
    if at is None or at > request.now:
        raise Problem("invalid_query", "as_of is a past RFC 3339 time.")
    entries, whole = store().history(request.program_id, account)
    if not whole:
        raise Problem("unavailable", "The history is not complete at this moment; ask again.")
    nothing = Account(program_id=request.program_id, member_id=member_id)
    then = store().rulebook_in_force(request.program_id, at)
    return Response(projections.balance_as_of(then, reversed(entries), nothing, at))


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/entries",
    roles=ANYONE,
    answers={200: projections.HistoryPage},
    problems=("member_not_found",),
    query=("limit", "cursor"),
)
def entries(request: Request) -> Response:
    """A member's history, newest first."""
    member_id = request.member(request.path["member_id"])
    limit, after = request.page()
    before, skipped = _place(after)
    # One entry may have been shown to its end on the page before, one tells whether there is more.
    found = store().history_page(request.program_id, member_id, limit=limit + 2, before=before)
    if not found and before is None:
        store().member(request.program_id, member_id)  # an empty history, or no such member
    rows: list[tuple[str, projections.HistoryRow]] = []
    for entry in found:
        rulebook = store().rulebook(request.program_id, entry.version)
        shown = skipped if entry.seq + 1 == before else 0
        for number, row in enumerate(projections.history_rows(rulebook, entry)):
            if number >= shown:
                rows.append((f"{entry.seq}.{number + 1}", row))
        if len(rows) > limit:
            break
    page: projections.HistoryPage = {
        "items": [row for _, row in rows[:limit]],
        "next_cursor": cursor(rows[limit - 1][0]) if len(rows) > limit else None,
    }
    return Response(page)


def _place(after: str | None) -> tuple[int | None, int]:
    """(read entries below this number, rows of the newest of them to skip)."""
    if after is None:
        return None, 0
    seq, _, rows = position(after).partition(".")
    if not (seq.isdecimal() and rows.isdecimal() and len(after) < 40):
        raise Problem("invalid_query", "The cursor is not one of ours.")
    return int(seq) + 1, int(rows)
