"""Decisions that spend points."""

from fractions import Fraction
from typing import Any

from loyalty.codes import Secrets, voucher_code, voucher_hash
from loyalty.commands import Order, Redemption
from loyalty.dates import day_number as day_number_of
from loyalty.dates import from_day_number, plus
from loyalty.decisions import Decision, Draft, Guard, Record, redemption_id
from loyalty.lots import take
from loyalty.model import Account, Refusal
from loyalty.program import Discount, Program, Reward
from loyalty.rules import Rulebook, decimal
from loyalty.tiers import tier_of


def redeem(
    rulebook: Rulebook,
    account: Account,
    guard: Guard,
    command: Redemption,
    secrets: Secrets,
    now: int,
) -> Decision:
    """Spend points on a reward of the program, or plainly; never more than are available.

    Refusals: `member_not_found`, `reward_not_found`, `reward_unavailable`, `reward_locked`,
    `currency_mismatch`, `insufficient_points` (with `missing_points`).
    """
    draft = Draft(rulebook, account, now)
    program = rulebook.program
    if command.order is not None and command.order.currency != program.currency:
        raise Refusal(
            "currency_mismatch",
            f"The program counts {program.currency}, the order {command.order.currency}.",
            pointer="/order/currency",
        )
    reward = None if command.reward_id is None else _offered(draft, command.reward_id)
    tier = tier_of(program, draft.account)
    points = command.points or 0
    if reward is not None:
        points = reward.cost_for(tier.tier_id if tier else None)
    missing = points - draft.account.available
    if missing > 0:
        raise Refusal(
            "insufficient_points",
            f"{missing} points are missing: {draft.account.available} are available.",
            missing_points=missing,
        )
    draft.post(take(draft.account, "redeem", draft.today, points))
    answer: dict[str, Any] = {}
    if reward is not None:
        answer = {"r": reward.reward_id, "v": secrets.current}
        if reward.voucher_validity is not None:
            end = plus(from_day_number(draft.today), reward.voucher_validity)
            answer["x"] = day_number_of(end)
    if command.order is not None:
        answer["o"] = [command.order.order_id, command.order.amount]
    entry = draft.entry(
        "redeem",
        guard,
        active_on=draft.today,
        reason=command.reward_id or "",
        answer=answer or None,
    )
    if reward is None:
        return Decision((entry,))
    identity = redemption_id(entry)
    code = voucher_code(secrets, secrets.current, program.program_id, identity)
    voucher = Record(
        f"{program.program_id}#voucher#{voucher_hash(code)}",
        "voucher",
        {
            "redemption_id": identity,
            "member_id": entry.member_id,
            "reward_id": reward.reward_id,
            "status": "issued",
            **({"expires_on": answer["x"]} if "x" in answer else {}),
        },
    )
    return Decision((entry,), (voucher,))


def _offered(draft: Draft, reward_id: str) -> Reward:
    """The reward, if this member may have it now."""
    program = draft.rulebook.program
    reward = program.reward_by_id.get(reward_id)
    if reward is None:
        raise Refusal("reward_not_found", "The program has no reward of this id.")
    if reward.when is not None:
        if not reward.when.is_on(draft.instant().astimezone(program.zone)):
            raise Refusal("reward_unavailable", "This reward is not offered at this time.")
        groups = reward.when.groups
        if groups and not set(groups) & set(draft.account.groups):
            raise Refusal("reward_locked", "This reward is for members of other groups.")
        tier = tier_of(program, draft.account)
        if reward.when.tiers and (tier is None or tier.tier_id not in reward.when.tiers):
            raise Refusal("reward_locked", "This reward is for members of other tiers.")
    return reward


def discount(program: Program, terms: Discount, order: Order | None) -> dict[str, Any]:
    """What the reward takes off: an amount in minor units, or a percentage where no order says
    of what."""
    if terms.amount is not None:
        return {"amount": terms.amount, "currency": program.currency}
    percent = terms.percent or Fraction(0)
    if order is None:
        capped = {} if terms.max_amount is None else {"max_amount": terms.max_amount}
        return {"percent": decimal(percent), "currency": program.currency} | capped
    amount = int(order.amount * percent / 100)
    if terms.max_amount is not None:
        amount = min(amount, terms.max_amount)
    return {"amount": amount, "currency": program.currency}
