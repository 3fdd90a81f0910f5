"""Program documents that tests share, as JSON-like values; each call gives a fresh copy."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = Path(__file__).parent.parent / "docs" / "program.example.yaml"


def example() -> dict[str, Any]:
    """The annotated example of the documentation, with every part of a program."""
    document: dict[str, Any] = json.loads(_example_as_json())
    return document


@cache
def _example_as_json() -> str:
    # YAML's dates become texts, as clients send them.
    return json.dumps(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), default=str)


def smallest(**more: Any) -> dict[str, Any]:
    """What every program has to say, and `more` on top."""
    return {
        "program_id": "test",
        "name": "Test",
        "currency": "EUR",
        "time_zone": "Europe/Paris",
    } | more


def shop(**more: Any) -> dict[str, Any]:
    """A coffee shop whose every part is evaluated today; `more` replaces whole sections."""
    return (
        smallest(
            program_id="shop",
            name="Corner Coffee",
            branding={"points_name": {"one": "bean", "other": "beans"}, "color": "#6f4e37"},
            expiry=[{"after": "P12M", "round_up_to": "month"}],
            limits=[{"points": 1000, "per": "transaction"}, {"points": 2000, "per": "day"}],
            rules=[
                {"rule_id": "welcome", "trigger": "registration", "earn": {"points": 50}},
                {
                    "rule_id": "purchase",
                    "trigger": "purchase",
                    "match": {"exclude": {"categories": ["gift-card"]}},
                    "earn": {"points": 1, "per_amount": 100},
                },
                {
                    "rule_id": "beans",
                    "trigger": "purchase",
                    "when": {"min_amount": 1000},
                    "match": {"categories": ["beans"]},
                    "earn": {"points": 20},
                    "frequency": [{"times": 1, "per": "week"}],
                },
                {
                    "rule_id": "review",
                    "trigger": "review",
                    "earn": {"points": 10},
                    "limits": [{"points": 20, "per": "week"}],
                    "frequency": [{"every": "PT4H"}],
                },
                {"rule_id": "visit", "trigger": "check_in", "earn": {"points": 5}},
            ],
            rewards=[
                {
                    "reward_id": "free-coffee",
                    "kind": "product",
                    "name": "A free coffee",
                    "cost": 100,
                    "voucher_validity": "P30D",
                },
                {
                    "reward_id": "five-off",
                    "kind": "discount",
                    "name": "Five euros off",
                    "cost": 500,
                    "discount": {"amount": 500},
                },
            ],
            locations=[
                {
                    "location_id": "corner",
                    "name": "The corner",
                    "check_in": {"kinds": ["static"], "limits": [{"times": 1, "per": "day"}]},
                }
            ],
        )
        | more
    )
