"""What a member has, and how it came."""

from loyalty import projections, redeeming
from loyalty.commands import instant
from loyalty.edge import (
    ANYONE,
    BASE,
    App,
    Problem,
    Request,
    Response,
    cursor,
    page_of,
    position,
    store,
)
from loyalty.history import history_page
from loyalty.model import Account, Known
from loyalty.program import Program

handler = App()


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/balance",
    operation="balance",
    roles=ANYONE,
    answers={200: projections.Balance},
    problems=("member_not_found", "member_erased", "unavailable"),
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
    account = _at(request.program_id, member_id, account, at)
    entries, whole = store().history(request.program_id, account)
    if not whole:
        raise Problem("unavailable", "The history is not complete at this moment; ask again.")
    nothing = Account(program_id=request.program_id, member_id=account.member_id)
    then = store().rulebook_in_force(request.program_id, at)
    return Response(projections.balance_as_of(then, reversed(entries), nothing, at))


def _at(program_id: str, member_id: str, account: Account, at: int) -> Account:
    """The account that the id stood for at that instant: before a merge its own."""
    while member_id != account.member_id:
        former = store().account(program_id, member_id, consistent=True)
        if former is None or at < former.recorded_at:
            return former or account
        member_id = former.merged_into
    return account


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/entries",
    operation="entries",
    roles=ANYONE,
    answers={200: projections.HistoryPage},
    problems=("member_not_found", "member_erased"),
    query=("limit", "cursor"),
)
def entries(request: Request) -> Response:
    """A member's history, newest first."""
    return Response(history_page(request, request.member(request.path["member_id"])))


@handler.route(
    "GET",
    f"{BASE}/members/{{member_id}}/rewards",
    operation="rewards",
    roles=ANYONE,
    answers={200: projections.Catalog},
    problems=("member_not_found", "member_erased", "invalid_query"),
    query=("limit", "cursor"),
)
def rewards(request: Request) -> Response:
    """The rewards of the program, in its order: which of them the member may have now, what they
    cost it, and what keeps it from the others."""
    program_id = request.program_id
    member_id = request.member(request.path["member_id"])
    limit, after = request.page()
    rulebook = store().rulebook_in_force(program_id, request.now)
    program = rulebook.program
    account = store().member(program_id, member_id)
    begin = _following(program, after)
    page = program.rewards[begin : begin + limit]
    newest, offered = store().look(
        program_id,
        Known({account.member_id: account}),
        lambda known: redeeming.catalog(rulebook, known, account.member_id, page, request.now),
        request.now,
    )
    items, cut = page_of((projections.reward(program, each) for each in offered), limit)
    more = cut or begin + limit < len(program.rewards)
    catalog: projections.Catalog = {
        "items": items,
        "balance": newest.balance,
        "next_cursor": cursor(items[-1]["reward_id"]) if more else None,
    }
    return Response(catalog)


def _following(program: Program, after: str | None) -> int:
    """The index of the reward to go on with."""
    if after is None:
        return 0
    last = program.reward_by_id.get(position(after))
    if last is None:
        raise Problem("invalid_query", "The cursor is of no reward of the program; begin again.")
    return program.rewards.index(last) + 1
