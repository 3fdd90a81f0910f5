"""Decisions that time makes: what fell due, written down."""

from loyalty.decisions import Decision, Draft, Guard
from loyalty.model import Account, Kind
from loyalty.rules import Rulebook


def sweep(rulebook: Rulebook, account: Account, now: int) -> Decision | None:
    """The entry of what fell due by itself, or None where nothing did.

    It changes no balance: every read has counted with it since the day came. Its guard is the
    entry's own number, so that a message delivered twice writes once.
    """
    draft = Draft(rulebook, account, now)
    if draft.account == account:
        return None
    kind: Kind = "expire" if draft.postings else "tier"  # a tier falls without moving points
    return Decision((draft.entry(kind, guard(account)),))


def guard(account: Account) -> Guard:
    """Under which what falls due after the account's last entry is written down."""
    return Guard(f"d#{account.member_id}", str(account.seq + 1), b"")
