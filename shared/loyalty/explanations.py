"""Why an event earned what it did: from an evaluation to what the ledger stores of it, and from
that, with the version it was made under, to what people read.

A stored explanation has a character for each source that was considered and numbers for those that
fired; names, factors and dates are the version's to tell.
"""

import re
from fractions import Fraction
from functools import cache
from typing import Any

from loyalty.commands import Event
from loyalty.model import Day, iso
from loyalty.program import Offer
from loyalty.rules import BUDGET_HIT, CAMPAIGN_HIT, REASONS, Evaluation, Reason, Rulebook, Share


def stored_explanation(rulebook: Rulebook, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation's explanation in its stored form, as docs/tables.md has it."""
    stored: dict[str, Any] = {"r": _packed(evaluation.codes)}
    names = rulebook.factor_names
    granted = [
        [row.source, row.desired, row.points, *[names[factor] for factor in row.factors]]
        for row in evaluation.rows
    ]
    if granted:
        stored["g"] = granted
    if evaluation.desired != evaluation.points:
        stored["d"] = evaluation.desired
    if evaluation.draws:
        stored["b"] = dict(evaluation.draws)
    if evaluation.left:
        stored["u"] = dict(evaluation.left)
    if evaluation.hits:
        stored["l"] = [[hit.index, hit.limit] for hit in evaluation.hits]
    return stored


def reasons_of(rulebook: Rulebook, stored: Any, event_type: str) -> dict[int, Reason]:
    """Why each source fired or did not, from the stored explanation."""
    return rulebook.reasons(event_type, _unpacked(stored["r"]))


def shares_of(rulebook: Rulebook, stored: Any, event: Event, occurred_at: int) -> list[Share]:
    """What each source that granted something did on each line of its event, from the stored
    explanation."""
    return rulebook.shares(event, occurred_at, _unpacked(stored["r"]), stored.get("g", ()))


def explain(
    rulebook: Rulebook, stored: Any, event_type: str, occurred_on: Day
) -> list[dict[str, Any]]:
    """The explanation a person can read, from its stored form and the version it was made under."""
    considered = rulebook.considered(event_type)
    codes = _unpacked(stored["r"])
    granted = {row[0]: row for row in stored.get("g", ())}
    # Many rows have the same dates and factors.
    life = cache(lambda terms: [iso(day) for day in rulebook.life(terms, occurred_on)])
    factor = cache(lambda name: _factor(rulebook, name))
    explanation = []
    for index, code in zip(considered, codes, strict=True):
        source = rulebook.sources[index]
        _, desired, points, *factors = granted.get(index, (index, 0, 0))
        line: dict[str, Any] = (
            {"offer_id": source.offer_id}
            if isinstance(source, Offer)
            else {"rule_id": source.rule_id}
        )
        line |= {
            "name": source.name,
            "fired": code == "+",
            "reason": REASONS[code],
            "points": points,
            "desired_points": desired,
            "factors": [factor(name) for name in factors],
        }
        if points:
            line["available_on"], line["expires_on"] = life(rulebook.terms(index))
        explanation.append(line)
    if "f" in stored:
        points, desired = stored["f"]
        explanation.append(
            {
                "rule_id": "referral",
                "name": "Referral",
                "fired": bool(points),
                "reason": "granted" if points else "limit",
                "points": points,
                "desired_points": desired,
                "factors": [],
            }
        )
    return explanation


def limited_by(rulebook: Rulebook, stored: Any) -> list[dict[str, Any]]:
    """The limits that cut an award, from its stored explanation."""
    program = rulebook.program
    found: list[dict[str, Any]] = []
    for index, at in stored.get("l", ()):
        if index == CAMPAIGN_HIT:
            campaign = program.campaigns[at]
            found.append({"scope": "campaign", "campaign_id": campaign.campaign_id})
        elif index == BUDGET_HIT:
            found.append({"scope": "budget"})
        else:
            where: dict[str, Any] = {"scope": "program"}
            limits = program.limits
            if index >= 0:
                rule = program.rules[index]
                where, limits = {"scope": "rule", "rule_id": rule.rule_id}, rule.limits
            limit = limits[at]
            found.append({**where, "points": limit.points, "per": limit.per, "over": limit.over})
    return found


def _factor(rulebook: Rulebook, stored: str) -> dict[str, Any]:
    if stored[0] == "t":
        level = rulebook.program.tier_by_id[stored[1:]]
        return {
            "kind": "tier",
            "tier_id": level.tier_id,
            "multiplier": decimal(level.multiplier),
        }
    index = int(stored[1:])
    if stored[0] == "c":
        campaign = rulebook.program.campaigns[index]
        return {
            "kind": "campaign",
            "campaign_id": campaign.campaign_id,
            "multiplier": decimal(campaign.multiplier),
        }
    rule = rulebook.program.rules[index]
    return {
        "kind": "line",
        "rule_id": rule.rule_id,
        "multiplier": decimal(rule.earn.multiply or Fraction(0)),
    }


def decimal(number: Fraction) -> str:
    """A fraction that came from a decimal string, as that string."""
    whole, rest = divmod(abs(number), 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    sign = "-" if number < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def _packed(codes: str) -> str:
    """Run-length coded: `lll+` is `3l+`."""
    return re.sub(r"(.)\1+", lambda run: f"{len(run[0])}{run[1]}", codes)


def _unpacked(packed: str) -> str:
    return "".join(code * int(count or 1) for count, code in re.findall(r"(\d*)(\D)", packed))
