"""From fractions to whole points: exact integers in, integers out, and nothing is lost between."""

from collections.abc import Sequence


def round_points(mode: str, numerator: int, denominator: int) -> int:
    """numerator/denominator as the program's rounding `mode` has it: floor, ceil or half_up."""
    match mode:
        case "floor":
            return numerator // denominator
        case "ceil":
            return -(-numerator // denominator)
        case _:
            return (2 * numerator + denominator) // (2 * denominator)


def settle(total: int, numerators: Sequence[int], denominator: int) -> list[int]:
    """Integers that sum to `total`, each the floor or the ceiling of its numerator/denominator."""
    shares = [numerator // denominator for numerator in numerators]
    missing = total - sum(shares)
    if missing:
        remainders = [numerator % denominator for numerator in numerators]
        largest = sorted(range(len(shares)), key=remainders.__getitem__, reverse=True)
        for i in largest[:missing]:
            shares[i] += 1
    return shares


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in integer shares proportional to `weights` by largest remainder, ties in order.

    Weights that sum to nothing are taken as equal.
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    return settle(total, [weight * total for weight in weights], whole)
