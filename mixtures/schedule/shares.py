"""Mixtures that need no run (uniform, natural, temperature, UniMax), and checks of given shares. Pure functions.

A learned mixture must beat these. `tokens` is {domain: unique tokens}; every result is {domain: share of trained
tokens} in the same order, sum 1.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from mixtures.errors import UserError, quoted
from mixtures.schedule.check import written_checks
from mixtures.schedule.mixture import TOLERANCE, Mixture
from mixtures.schedule.records import Domain, Horizon, Provenance, Sampling, Stage, Tokenizer
from mixtures.version import VERSION

ROUNDING = 1e-2  # how far written shares may sum from 1: programs round them to 3 or 4 decimals

PREFIX = "train_"  # RegMix writes it before the name of every training domain

# columns of a table that say which mixture a row is, so that no domain in a table can have such a name
LABELS = ("", "Unnamed: 0", "index", "run", "run_id", "name")


def uniform(tokens: Mapping[str, float]) -> dict[str, float]:
    """Return the same share for every domain. Raises UserError for counts that are not positive numbers."""
    return _normalised(dict.fromkeys(_counts(tokens), 1.0))


def natural(tokens: Mapping[str, float]) -> dict[str, float]:
    """Return shares proportional to the unique tokens. Raises UserError for counts that are not positive numbers."""
    return _normalised(_counts(tokens))


def temperature(tokens: Mapping[str, float], *, temperature: float) -> dict[str, float]:
    """Return shares proportional to n^(1/T) for n unique tokens and temperature T.

    T = 1 is natural, T to infinity uniform (T = 1/alpha of mT5). Raises UserError for a temperature of 0 or less, and
    for token counts that are not positive numbers.
    """
    _check_positive("temperature", temperature, "1 is natural, larger is closer to uniform")
    counts = _counts(tokens)
    largest = math.log(max(counts.values()))  # relative to the largest domain no power overflows
    return _normalised({name: math.exp((math.log(count) - largest) / temperature) for name, count in counts.items()})


def unimax(tokens: Mapping[str, float], *, budget: float, max_epochs: float) -> dict[str, float]:
    """Return equal shares of `budget` tokens, no domain above `max_epochs` epochs (arXiv 2304.09151, Algorithm 1).

    What a small domain cannot take is shared equally among the larger ones. Raises UserError, with the arithmetic,
    where `max_epochs` epochs of all domains are fewer tokens than the budget, and for numbers that are not positive.
    """
    _check_positive("budget", budget, "the tokens of the large run", finite=True)
    _check_positive("max_epochs", max_epochs, "how often a domain's tokens may be trained on")
    counts = _counts(tokens)
    unique = math.fsum(counts.values())
    if max_epochs * unique < budget * (1 - 1e-12):
        raise UserError(
            f"unimax: {max_epochs:g} epochs of all {len(counts)} domains are {max_epochs:g} x {unique:,.0f} = "
            f"{max_epochs * unique:,.0f} of {budget:,.0f} tokens; raise max_epochs to "
            f"{math.ceil(100 * budget / unique) / 100:,.2f} or more, or lower the budget"
        )
    caps = {name: max_epochs * count for name, count in counts.items()}
    left = level = float(budget)
    for capped, cap in enumerate(sorted(caps.values())):
        level = left / (len(caps) - capped)
        if cap >= level:  # the larger caps are too: these domains share equally what is left
            break
        left -= cap
    return _normalised({name: min(cap, level) for name, cap in caps.items()})


def _counts(tokens: Mapping[str, float]) -> dict[str, float]:
    """Return the token counts as floats. Raises UserError where one is not a positive finite number."""
    if not tokens:
        raise UserError("there are no domains; give {domain: unique tokens} with at least one")
    bad = [
        f"{name} {quoted(count)}"
        for name, count in tokens.items()
        if isinstance(count, bool) or not isinstance(count, Real) or not 0 < count < math.inf
    ]
    if bad:
        raise UserError(
            f"unique tokens of a domain must be a positive number; found {', '.join(bad)}; correct them, or leave "
            f"the domain out"
        )
    return {name: float(count) for name, count in tokens.items()}


def _check_positive(name: str, value: float, meaning: str, *, finite: bool = False) -> None:
    """Raise UserError where the setting `name` is not a positive number; `meaning` explains it in the message."""
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0 or (finite and value == math.inf):
        raise UserError(f"{name} {quoted(value)}: give a positive number ({meaning})")


def _normalised(amounts: dict[str, float]) -> dict[str, float]:
    """Return the amounts divided by their sum."""
    total = math.fsum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}


def fixed_mixture(
    shares: Mapping[str, float],
    *,
    tokenizer: Tokenizer,
    domains: Sequence[Domain],
    total_tokens: int,
    method: str,
    seed: int = 0,
) -> Mixture:
    """Return the Mixture that keeps `shares` over `total_tokens` tokens, with expected tokens, epochs and checks.

    method: what the provenance says, such as `unimax`. Raises UserError for shares that do not sum to 1 (within 1e-9),
    domains that do not match, and caps of the domains that are exceeded.
    """
    where = f"fixed mixture {quoted(method)}"
    if twice := [name for name, times in Counter(domain.name for domain in domains).items() if times > 1]:
        raise UserError(f"{where}: domains {', '.join(twice)} given more than once; give every domain once")
    if total_tokens < 1:
        raise UserError(f"{where}: {total_tokens} tokens in total; give a positive number of tokens")
    weights = matched_shares(
        checked_shares(shares, where=where, tolerance=TOLERANCE), [domain.name for domain in domains], where=where
    )
    content: dict[str, Any] = {
        "tokenizer": tokenizer,
        "horizon": Horizon(total_tokens=total_tokens),
        "domains": tuple(domains),
        "stages": (Stage(name="fixed", start_tokens=0, weights=weights),),
        "sampling": Sampling(seed=seed),
        "provenance": Provenance(tool="mixtures", tool_version=VERSION, method=method),
    }
    mixture = Mixture(**content)
    check_caps(mixture, where=where)
    return Mixture(**content, expected=mixture.compute_expected(), checks=tuple(written_checks(mixture)))


def checked_shares(values: Mapping[str, Any], *, where: str, tolerance: float) -> dict[str, float]:
    """Return the values as shares that sum to 1; a sum within `tolerance` of 1 is divided out.

    Raises UserError naming every value that is no share, or how far off the sum is.
    """
    if faults := [f"  - {name}: {fault}" for name, value in values.items() if (fault := _fault(value))]:
        raise UserError(
            f"{where}: these values are no shares:\n" + "\n".join(faults) + "\ngive every domain a number from 0 to 1"
        )
    total = math.fsum(values.values())
    if not abs(total - 1) <= tolerance + 1e-12:
        raise UserError(
            f"{where}: the shares of {len(values)} domains sum to {total:.10g}, off by {total - 1:+.3g}; allowed is "
            f"{tolerance:g}: add the missing domain, remove names that are no domains, or divide by the sum"
        )
    return {name: float(value) / total for name, value in values.items()}


def _fault(value: Any) -> str:
    """Return what keeps a value from being a share; empty for a share."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        return f"{quoted(value)} is no number"
    if value != value:
        return "NaN"
    if value < 0:
        return f"{value} is negative"
    return f"{value} is above 1" if value > 1 + ROUNDING else ""


def matched_shares(shares: dict[str, float], names: Sequence[str], *, where: str) -> dict[str, float]:
    """Return the shares in the order of `names`. Raises UserError with both lists where they name other domains.

    The prefix `train_` of RegMix is removed where the names match without it.
    """
    bare = {name.removeprefix(PREFIX): share for name, share in shares.items()}
    if shares.keys() != set(names) == bare.keys() and len(bare) == len(shares):
        shares = bare
    extra, missing = [name for name in shares if name not in names], [name for name in names if name not in shares]
    if extra or missing:
        raise UserError(
            f"{where}: the domains do not match:\n  - only in these shares: {', '.join(extra) or 'none'}\n"
            f"  - missing from these shares: {', '.join(missing) or 'none'}\n"
            "give every domain its share under its own name (0 is allowed), and no other names"
        )
    return {name: shares[name] for name in names}


def check_caps(
    mixture: Mixture, *, where: str, remedy: str = "lower these shares or the budget, or raise the caps"
) -> None:
    """Raise UserError listing every domain of which the schedule takes more than its cap allows."""
    over = [
        f"  - {row.domain}: {row.tokens:,.0f} of {domain.unique_tokens:,} tokens: {row.epochs:,.4g} epochs, at most "
        f"{domain.max_epochs:g}"
        for row, domain in zip(mixture.compute_expected(), mixture.domains, strict=True)
        if domain.over_cap(row.epochs)
    ]
    if over:
        raise UserError(f"{where}: caps are exceeded:\n" + "\n".join(over) + f"\n{remedy}")
