"""Mixtures that nobody has to learn: what a learned one must beat. Pure.

`tokens` is {domain: unique tokens}; every result is {domain: share of trained tokens} in the same order, sum 1.
"""

import math
from collections.abc import Mapping
from numbers import Real

from mixtures.errors import UserError


def uniform(tokens: Mapping[str, float]) -> dict[str, float]:
    """The same share for every domain. Raises UserError for token counts that are not positive numbers."""
    return _normalised(dict.fromkeys(_counts(tokens), 1.0))


def natural(tokens: Mapping[str, float]) -> dict[str, float]:
    """Shares proportional to the unique tokens. Raises UserError for token counts that are not positive numbers."""
    return _normalised(_counts(tokens))


def temperature(tokens: Mapping[str, float], *, temperature: float) -> dict[str, float]:
    """Shares proportional to n^(1/T) for n unique tokens: T = 1 is natural, T to infinity uniform (T = 1/alpha of mT5).

    Raises UserError for a temperature of 0 or less, and for token counts that are not positive numbers.
    """
    _check_positive("temperature", temperature, "1 is natural, larger is closer to uniform")
    counts = _counts(tokens)
    largest = math.log(max(counts.values()))  # relative to the largest domain no power overflows
    return _normalised({name: math.exp((math.log(count) - largest) / temperature) for name, count in counts.items()})


def unimax(tokens: Mapping[str, float], *, budget: float, max_epochs: float) -> dict[str, float]:
    """Equal shares of `budget` tokens, no domain above `max_epochs` of its unique tokens (arXiv 2304.09151, Algorithm 1).

    What a small domain cannot take is shared equally among the larger ones. Raises UserError, with the arithmetic,
    where `max_epochs` of all domains hold fewer tokens than the budget, and for numbers that are not positive.
    """
    _check_positive("budget", budget, "the tokens of the large run", finite=True)
    _check_positive("max_epochs", max_epochs, "how often a domain's tokens may be trained on")
    counts = _counts(tokens)
    unique = math.fsum(counts.values())
    if max_epochs * unique < budget * (1 - 1e-12):
        raise UserError(
            f"unimax: {max_epochs:g} epochs of all {len(counts)} domains hold {max_epochs:g} x {unique:,.0f} = {max_epochs * unique:,.0f} "
            f"of {budget:,.0f} tokens; raise max_epochs to {math.ceil(100 * budget / unique) / 100:,.2f} or more, or lower the budget"
        )
    caps = {name: max_epochs * count for name, count in counts.items()}
    left = level = float(budget)
    for capped, cap in enumerate(sorted(caps.values())):
        level = left / (len(caps) - capped)
        if cap >= level:  # and so is every larger one: they share what is left
            break
        left -= cap
    return _normalised({name: min(cap, level) for name, cap in caps.items()})


def _counts(tokens: Mapping[str, float]) -> dict[str, float]:
    """The token counts as floats, all positive and finite."""
    if not tokens:
        raise UserError("there are no domains; give {domain: unique tokens} with at least one")
    bad = [
        f"{name} {count!r}"
        for name, count in tokens.items()
        if isinstance(count, bool) or not isinstance(count, Real) or not 0 < count < math.inf
    ]
    if bad:
        raise UserError(
            f"unique tokens of a domain must be a positive number; found {', '.join(bad)}; correct them, or leave the domain out"
        )
    return {name: float(count) for name, count in tokens.items()}


def _check_positive(name: str, value: float, meaning: str, *, finite: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0 or (finite and value == math.inf):
        raise UserError(f"{name} {value!r}: give a positive number ({meaning})")


def _normalised(amounts: dict[str, float]) -> dict[str, float]:
    total = math.fsum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}
