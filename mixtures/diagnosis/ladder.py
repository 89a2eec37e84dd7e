"""Runs of several proxy sizes over the same domains: do the weights agree, do they move with the size, and where would
they go?

With r_d = log(weight_d / prior_d), the weight averaged over the run's tokens:
agreement: Spearman's rank correlation of r over the domains between two sizes; p is the share of permutations of the
domains that correlate at least as much. Trend: r_d = a_d + b_d log10(parameters), least squares over the runs; it holds
where it explains more than the scatter around it (F test over all domains together).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from mixtures.errors import UserError
from mixtures.export import read_runs
from mixtures.run.run import RunRecord
from mixtures.text import parse_tokens

LEVEL = 0.05  # of the tests
EXACT = 7  # domains up to which every permutation is tried; 9,999 random ones above
DRAWS = 9999
REACH = 10  # times: how far beyond the sizes that were run weights are extrapolated
FEWEST_SIZES = 3  # two lie on a line whatever they are


@dataclass(frozen=True)
class SizePair:
    """Two sizes (parameters), the rank correlation of their log-ratios, and its one-sided p-value; NaN and 1 where one
    is constant.
    """

    small: int
    large: int
    correlation: float
    p: float

    @property
    def agrees(self) -> bool:
        """The two order the domains alike, beyond chance."""
        return self.p <= LEVEL


@dataclass(frozen=True)
class Ladder:
    """What R runs of N sizes over D domains say; runs of one size are averaged for weights and pairs, but not for the
    trend.
    """

    names: tuple[str, ...]
    parameters: np.ndarray  # (R,) ascending
    log_ratios: np.ndarray  # (R, D)
    prior: np.ndarray  # (D,) of the largest run
    pairs: tuple[SizePair, ...]  # neighbouring sizes, then the smallest and the largest

    @property
    def sizes(self) -> np.ndarray:
        """(N,) parameters, ascending."""
        return np.unique(self.parameters)

    @property
    def by_size(self) -> np.ndarray:
        """(N, D) mean log-ratios of every size."""
        return np.stack([self.log_ratios[self.parameters == size].mean(axis=0) for size in self.sizes])

    @property
    def weights(self) -> np.ndarray:
        """(N, D) weights of every size, rows sum to 1."""
        return _weights(self.prior, self.by_size)

    @property
    def agrees(self) -> bool:
        """Every compared pair of sizes does."""
        return all(pair.agrees for pair in self.pairs)


@dataclass(frozen=True)
class Trend:
    """Least squares of the log-ratios over log10(parameters): `slope` (D,) a tenfold size, `residual` (D,) standard
    deviation around it.

    `moved` and `scatter` are root mean squares over all domains, in log-ratios, that are equal on average where nothing
    but noise is fitted; p is the F test's. NaN where there are no runs to spare (R = 2).
    """

    intercept: np.ndarray
    slope: np.ndarray
    residual: np.ndarray
    moved: float
    scatter: float
    p: float


@dataclass(frozen=True)
class Extrapolation:
    """Weights (D,) of a size that was not run, sum 1, and their 95 % intervals (D,) by the scatter around the trend."""

    parameters: int
    weights: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_ladder(run_dirs: Sequence[str | Path]) -> Ladder:
    """The runs' averages side by side.

    Raises UserError for damaged runs, runs that do not belong together, fewer than two sizes, and weights of zero.
    """
    runs = sorted(read_runs(run_dirs), key=lambda run: run.parameters)
    parameters = np.array([run.parameters for run in runs])
    if len(set(parameters)) < 2:
        found = ", ".join(f"{run.path} {run.parameters:,}" for run in runs)
        raise UserError(
            f"a ladder needs runs of at least two proxy sizes; found (parameters): {found}; add a run with another "
            f"`model`"
        )
    names = runs[0].trajectory.domains
    log_ratios = np.stack([_log_ratios(run, names) for run in runs])
    by_size = [log_ratios[parameters == size].mean(axis=0) for size in np.unique(parameters)]
    steps = list(itertools.pairwise(range(len(by_size))))
    ends = [(0, len(by_size) - 1)] if len(by_size) > 2 else []
    sizes = np.unique(parameters).tolist()
    pairs = [SizePair(sizes[a], sizes[b], *rank_agreement(by_size[a], by_size[b])) for a, b in [*steps, *ends]]
    return Ladder(names, parameters, log_ratios, _in_order(runs[-1], runs[-1].prior, names), tuple(pairs))


def _log_ratios(run: RunRecord, names: Sequence[str]) -> np.ndarray:
    """(D,) log of average weight over prior, domains in the order of `names`."""
    trajectory = run.trajectory
    average = trajectory.average
    if zero := [name for name, weight in zip(trajectory.domains, average, strict=True) if weight <= 0]:
        raise UserError(
            f"{run.path}: the weight of {', '.join(zero)} is 0 throughout, which has no ratio to the prior; leave this "
            "run out, or learn it with a rule that keeps weights above 0 (update.floor)"
        )
    return _in_order(run, np.log(average / run.prior), names)


def _in_order(run: RunRecord, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return values[[run.trajectory.domains.index(name) for name in names]]


def rank_agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of (D,) and (D,), and the share of permutations of the domains that give as much or more.

    All of them up to 7 domains, 9,999 random ones (always the same) above. (NaN, 1) where one of the two is constant.
    """
    first, second = (stats.rankdata(np.round(values, 12)) - (len(values) + 1) / 2 for values in (one, other))
    norm = np.sqrt((first @ first) * (second @ second))
    if norm == 0:
        return np.nan, 1.0
    found = first @ second / norm
    everyone = np.arange(len(first))
    if len(first) <= EXACT:
        drawn = second[np.array(list(itertools.permutations(everyone)))] @ first / norm
        return float(found), float(np.mean(drawn >= found - 1e-9))
    orders = np.random.default_rng(0).permuted(np.tile(everyone, (DRAWS, 1)), axis=1)
    reached = np.count_nonzero(second[orders] @ first / norm >= found - 1e-9)
    return float(found), (1 + reached) / (1 + DRAWS)


def fit_trend(ladder: Ladder) -> Trend:
    """The trend of every domain over the sizes, and whether all of them together are more than scatter."""
    x = np.log10(ladder.parameters)
    runs, free = (
        len(x),
        len(ladder.names) - 1,
    )  # log-ratios of D domains have D - 1 degrees of freedom: weights sum to 1
    centred = x - x.mean()
    spread = centred @ centred
    slope = centred @ ladder.log_ratios / spread
    intercept = ladder.log_ratios.mean(axis=0) - slope * x.mean()
    if runs == 2:
        unknown = np.full(len(slope), np.nan)
        return Trend(intercept, slope, unknown, float("nan"), float("nan"), float("nan"))
    left = ladder.log_ratios - intercept - np.outer(x, slope)
    explained, scatter = spread * (slope @ slope) / free, (left**2).sum() / (free * (runs - 2))
    p = float(stats.f.sf(explained / scatter, free, free * (runs - 2))) if scatter > 0 else float(explained == 0)
    return Trend(
        intercept,
        slope,
        np.sqrt((left**2).sum(axis=0) / (runs - 2)),
        float(np.sqrt(explained)),
        float(np.sqrt(scatter)),
        p,
    )


def extrapolate(ladder: Ladder, parameters: int) -> Extrapolation:
    """The weights of a proxy of so many parameters, along the trend.

    Raises UserError, listing every reason with its numbers, where the runs do not support that: see `refusals`.
    """
    if reasons := refusals(ladder, parameters):
        raise UserError(
            f"no weights for {parameters:,} parameters:\n" + "\n".join(f"  - {reason}" for reason in reasons) + "\n"
            "take the mean of the runs (`mixtures export RUN RUN ...`), or those of the largest; or add runs: more "
            "sizes, more steps, "
            "more seeds"
        )
    trend, x = fit_trend(ladder), np.log10(ladder.parameters)
    at = np.log10(parameters)
    centre = trend.intercept + trend.slope * at
    away = 1 + 1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    width = stats.t.ppf(0.975, (len(ladder.names) - 1) * (len(x) - 2)) * trend.scatter * np.sqrt(away)
    weights = _weights(ladder.prior, centre[None])[0]
    return Extrapolation(parameters, weights, weights * np.exp(-width), np.minimum(weights * np.exp(width), 1))


def refusals(ladder: Ladder, parameters: int) -> list[str]:
    """Why the runs say nothing about this size, one reason each; empty where they do."""
    sizes, trend = ladder.sizes, fit_trend(ladder)
    reasons = []
    if parameters > REACH * sizes[-1]:
        reasons.append(
            f"it is {parameters / sizes[-1]:.3g} times the largest run ({sizes[-1]:,} parameters); allowed: up to "
            f"{REACH} times"
        )
    if parameters * REACH < sizes[0]:
        reasons.append(
            f"the smallest run is {sizes[0] / parameters:.3g} times as large ({sizes[0]:,}); allowed: up to {REACH} "
            f"times"
        )
    if len(sizes) < FEWEST_SIZES:
        reasons.append(
            f"there are {len(sizes)} sizes, which lie on a line whatever they are; at least {FEWEST_SIZES} are needed"
        )
    elif not trend.p <= LEVEL:
        reasons.append(
            f"the weights do not follow the size: trend {trend.moved:.3g}, scatter around it {trend.scatter:.3g} "
            f"(log-ratios), p {trend.p:.2g}; needed: {LEVEL} or less"
        )
    for pair in ladder.pairs:
        if not pair.agrees:
            reasons.append(
                f"sizes {pair.small:,} and {pair.large:,} do not agree beyond chance: rank correlation "
                f"{pair.correlation:.2f}, p {pair.p:.2g}; needed: {LEVEL} or less"
            )
    return reasons


def parse_size(text: str) -> int:
    """Parameters from `1B`, `125M`, `1e9` or digits. Raises UserError for anything else."""
    try:
        return parse_tokens(text)
    except UserError:
        raise UserError(
            f"{text!r} is no number of parameters; give a positive whole number such as 1B, 125M or 1e9"
        ) from None


def _weights(prior: np.ndarray, log_ratios: np.ndarray) -> np.ndarray:
    """(N, D) prior * exp(log_ratios), rows sum to 1."""
    weights = prior * np.exp(log_ratios)
    return weights / weights.sum(axis=1, keepdims=True)
