"""What the trainer will really do: shares of trained tokens, and passes over every domain."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixtures.convert.job import Draw, Job
from mixtures.schedule.records import Domain

RUNS = 400  # simulated runs for the range of shares in 95 % of runs
RELATIVE, ABSOLUTE = 0.005, 1e-4  # how far rounding may move a share: the larger of the two


def token_shares(job: Job, draw: Draw) -> dict[str, float]:
    """Return {name: share of trained tokens}, sum 1, that the draw gives on average.

    Units are turned into tokens by the mean tokens per unit. A domain that the draw does not name has share 0.
    """
    tokens = {name: share * job.unit_tokens(name) for name, share in draw.shares.items() if share > 0}
    total = math.fsum(tokens.values())
    return {domain.name: tokens.get(domain.name, 0.0) / total for domain in job.mixture.domains}


def share_ranges(job: Job, draw: Draw) -> dict[str, tuple[float, float]] | None:
    """Return {name: (low, high)}: the range of each domain's token share in 95 % of runs, from RUNS simulated runs.

    None where nothing is drawn at random, or where sequences are drawn and their length is not known. The counts of
    units are multinomial; the tokens of n documents are normal with mean n * mean and variance n * sd^2.
    """
    if not draw.random or (job.unit == "sequence" and job.sequence_length is None):
        return None
    names = [name for name, share in draw.shares.items() if share > 0]
    means = np.array([job.unit_tokens(name) for name in names])
    spread = np.array([job.texts[name].sd_tokens if job.unit == "document" else 0.0 for name in names])
    shares = np.array([draw.shares[name] for name in names])
    unit = shares @ means * (job.sequence_length or 1 if job.unit == "sequence" else 1)
    rng = np.random.default_rng(job.seed)
    counts = rng.multinomial(max(1, round(draw.tokens / unit)), shares / shares.sum(), size=RUNS)
    tokens = counts * means + rng.standard_normal(counts.shape) * spread * np.sqrt(counts)
    low, high = np.quantile(tokens / tokens.sum(axis=1, keepdims=True), [0.025, 0.975], axis=0)
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(names)}


def epochs(job: Job, draws: Sequence[Draw], shares: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return for every stage {name: passes over the domain}."""
    return [
        {name: draw.tokens * share / job.texts[name].pass_tokens for name, share in stage_shares.items()}
        for draw, stage_shares in zip(draws, shares, strict=True)
    ]


def whole_parts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Divide `total` into whole numbers by the shares (sum 1); a domain whose part is 0 is left out.

    Every part is its exact part rounded down or up, by the method of largest remainders (Hamilton).
    """
    exact = {name: share * total for name, share in shares.items()}
    parts = {name: math.floor(part) for name, part in exact.items()}
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[: total - sum(parts.values())]:
        parts[name] += 1
    return {name: part for name, part in parts.items() if part}


def over_cap(domain: Domain, passes: float) -> bool:
    """Say whether a domain is read more often than its max_epochs, by more than rounding (0.5 %) explains."""
    return domain.max_epochs is not None and passes > domain.max_epochs * (1 + RELATIVE)


def cap_to_hold(domain: Domain, passes: float) -> float | None:
    """Return the number of passes that a trainer with caps of its own is to allow; None for no limit.

    This is the domain's max_epochs. It is None where the domain has no cap, and where the schedule makes more passes
    than the cap and the domain's on_exhausted is `repeat`, which allows that.
    """
    return None if over_cap(domain, passes) and domain.on_exhausted == "repeat" else domain.max_epochs


def off(asked: float, given: float) -> bool:
    """Say whether a share is further from the share asked for than rounding may move it.

    That is more than 0.5 % of it and more than 0.0001. A share above 0 that becomes 0 is always too far, and the
    reverse.
    """
    return (given == 0) != (asked == 0) or abs(given - asked) > max(RELATIVE * asked, ABSOLUTE) + 1e-12
