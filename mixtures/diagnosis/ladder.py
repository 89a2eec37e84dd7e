"""Runs of several proxy sizes over the same domains: agreement of their weights, trend over the size, extrapolation.

All of it uses r_d = log(weight_d / prior_d) of every domain d, with the weight averaged over the run's tokens.
Agreement of two sizes is Spearman's rank correlation of r over the domains; p is the share of permutations of the
domains that correlate at least as much. The trend is r_d = a_d + b_d log10(parameters), by least squares over the runs;
it holds if it explains more than the scatter around it (F test over all domains together).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from mixtures.errors import UserError, quoted
from mixtures.export import read_runs
from mixtures.run.run import RunRecord
from mixtures.text import parse_tokens

LEVEL = 0.05  # significance level of the tests
EXACT = 7  # up to this number of domains, every permutation is tried; above, DRAWS random ones
DRAWS = 9999
REACH = 10  # weights are extrapolated to sizes up to this many times larger or smaller than those that were run
FEWEST_SIZES = 3  # fewest sizes for a trend: any two lie on a line


@dataclass(frozen=True)
class SizePair:
    """Two sizes (parameters), the rank correlation of their log-ratios, and its one-sided p-value.

    The correlation is NaN and p is 1 if the log-ratios of one size are constant.
    """

    small: int
    large: int
    correlation: float
    p: float

    @property
    def agrees(self) -> bool:
        """Whether the two sizes order the domains alike, beyond chance."""
        return self.p <= LEVEL


@dataclass(frozen=True)
class Ladder:
    """The weights of R runs of N proxy sizes over D domains.

    Runs of one size are averaged for weights and pairs, but not for the trend.
    """

    names: tuple[str, ...]
    parameters: np.ndarray  # (R,) ascending
    log_ratios: np.ndarray  # (R, D) log(weight / prior)
    prior: np.ndarray  # (D,) of the largest run
    pairs: tuple[SizePair, ...]  # neighbouring sizes, then the smallest and the largest

    @property
    def sizes(self) -> np.ndarray:
        """The sizes (N,) in parameters, ascending."""
        return np.unique(self.parameters)

    @property
    def by_size(self) -> np.ndarray:
        """Mean log-ratios (N, D) of every size."""
        return np.stack([self.log_ratios[self.parameters == size].mean(axis=0) for size in self.sizes])

    @property
    def weights(self) -> np.ndarray:
        """Weights (N, D) of every size; rows sum to 1."""
        return _weights(self.prior, self.by_size)

    @property
    def agrees(self) -> bool:
        """Whether every compared pair of sizes agrees."""
        return all(pair.agrees for pair in self.pairs)


@dataclass(frozen=True)
class Trend:
    """The least squares line of every domain's log-ratio over log10(parameters).

    slope:           change of the log-ratio (D,) per tenfold size.
    residual:        standard deviation around the line (D,).
    moved, scatter:  root mean squares over all domains, in log-ratios, of the trend and of what is left around it; they
                     are equal on average if there is only noise, as large for every size.
    p:               p-value that there is no trend (`_trend_p`).

    residual, moved, scatter and p are NaN for two runs, which leave nothing to estimate them from.
    """

    intercept: np.ndarray
    slope: np.ndarray
    residual: np.ndarray
    moved: float
    scatter: float
    p: float


@dataclass(frozen=True)
class Extrapolation:
    """Weights (D,), sum 1, of a size that was not run, with 95 % intervals (D,) from the scatter around the trend."""

    parameters: int
    weights: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_ladder(run_dirs: Sequence[str | Path]) -> Ladder:
    """Read runs of several proxy sizes and compare their average weights.

    Raises UserError for damaged runs, runs that do not belong together, fewer than two sizes, and weights of zero.
    """
    runs = sorted(read_runs(run_dirs), key=lambda run: run.parameters)
    parameters = np.array([run.parameters for run in runs])
    if len(set(parameters)) < 2:
        listed = ", ".join(f"{run.path} {run.parameters:,}" for run in runs)
        raise UserError(
            f"a ladder needs runs of at least two proxy sizes; found (parameters): {listed}; add a run with another "
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
    """Return the log (D,) of average weight / prior of one run, domains in the order of `names`."""
    trajectory = run.trajectory
    average = trajectory.average
    if zero := [name for name, weight in zip(trajectory.domains, average, strict=True) if weight <= 0]:
        raise UserError(
            f"{run.path}: the weight of {', '.join(zero)} is 0 in all steps, and the logarithm of 0 is not finite; "
            "leave this run out, or learn it with a rule that keeps weights above 0 (update.floor)"
        )
    return _in_order(run, np.log(average / run.prior), names)


def _in_order(run: RunRecord, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return values[[run.trajectory.domains.index(name) for name in names]]


def rank_agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return Spearman's correlation of `one` (D,) and `other` (D,), and its one-sided p-value.

    p is the share of permutations of the domains whose correlation is as large or larger. All permutations are tried
    for up to 7 domains, otherwise 9,999 random ones (always the same). The result is (NaN, 1) if `one` or `other` is
    constant.
    """
    first, second = (stats.rankdata(np.round(values, 12)) - (len(values) + 1) / 2 for values in (one, other))
    norm = np.sqrt((first @ first) * (second @ second))
    if norm == 0:
        return np.nan, 1.0
    correlation = first @ second / norm
    everyone = np.arange(len(first))
    if len(first) <= EXACT:
        drawn = second[np.array(list(itertools.permutations(everyone)))] @ first / norm
        return float(correlation), float(np.mean(drawn >= correlation - 1e-9))
    orders = np.random.default_rng(0).permuted(np.tile(everyone, (DRAWS, 1)), axis=1)
    reached = np.count_nonzero(second[orders] @ first / norm >= correlation - 1e-9)
    return float(correlation), (1 + reached) / (1 + DRAWS)


def fit_trend(ladder: Ladder) -> Trend:
    """Fit the trend of every domain over the sizes, and test whether all of them together are more than scatter."""
    x = np.log10(ladder.parameters)
    # log-ratios of D domains have D - 1 degrees of freedom, because weights sum to 1
    runs, free = len(x), len(ladder.names) - 1
    centred = x - x.mean()
    spread = centred @ centred
    slope = centred @ ladder.log_ratios / spread
    intercept = ladder.log_ratios.mean(axis=0) - slope * x.mean()
    if runs == 2:
        unknown = np.full(len(slope), np.nan)
        return Trend(intercept, slope, unknown, float("nan"), float("nan"), float("nan"))
    residuals = ladder.log_ratios - intercept - np.outer(x, slope)
    explained, scatter = spread * (slope @ slope) / free, (residuals**2).sum() / (free * (runs - 2))
    p = _trend_p(centred, slope, residuals) if scatter > 0 else float(explained == 0)
    return Trend(
        intercept,
        slope,
        np.sqrt((residuals**2).sum(axis=0) / (runs - 2)),
        float(np.sqrt(explained)),
        float(np.sqrt(scatter)),
        p,
    )


def _trend_p(centred: np.ndarray, slope: np.ndarray, residuals: np.ndarray) -> float:
    """Return the p-value that slopes (D,) over `centred` (R,), with residuals (R, D), are noise of any kind.

    An F test of the squared slopes against their variance. Noise may differ between sizes: a slope's variance comes
    from every run's own residual, scaled up by its leverage (HC3: MacKinnon and White 1985). It may differ between
    domains: both degrees of freedom are multiplied by Box's epsilon (1954), from the domains' variances. The plain test
    erred in 10 % of simulated ladders with unequal domains, and in up to all with a noisier small size.
    """
    runs, free = residuals.shape[0], residuals.shape[1] - 1
    spread, rest = centred @ centred, residuals.shape[0] - 2
    leverage = 1 / runs + centred**2 / spread
    noise = (centred**2 / spread) @ (residuals / (1 - leverage)[:, None]) ** 2
    variances = (residuals**2).sum(axis=0) / rest
    epsilon = variances.sum() ** 2 / (
        free * (variances**2).sum() * rest / (rest + 2)
    )  # less what noise adds to squares
    epsilon = min(1.0, max(1 / free, float(epsilon)))
    return float(stats.f.sf(spread * (slope @ slope) / noise.sum(), epsilon * free, epsilon * free * rest))


def extrapolate(ladder: Ladder, parameters: int) -> Extrapolation:
    """Return the weights of a proxy with this number of parameters, extrapolated along the trend.

    Raises UserError if the runs do not support that; it lists every reason with its numbers (see `refusals`).
    """
    if reasons := refusals(ladder, parameters):
        raise UserError(
            f"no weights for {parameters:,} parameters:\n" + "\n".join(f"  - {reason}" for reason in reasons) + "\n"
            "take the mean of the runs (`mixtures export RUN RUN ...`), or the weights of the largest; or add runs: "
            "more sizes, more steps, more seeds"
        )
    trend, x = fit_trend(ladder), np.log10(ladder.parameters)
    at = np.log10(parameters)
    centre = trend.intercept + trend.slope * at
    away = 1 + 1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    width = stats.t.ppf(0.975, (len(ladder.names) - 1) * (len(x) - 2)) * trend.scatter * np.sqrt(away)
    weights = _weights(ladder.prior, centre[None])[0]
    return Extrapolation(parameters, weights, weights * np.exp(-width), np.minimum(weights * np.exp(width), 1))


def refusals(ladder: Ladder, parameters: int) -> list[str]:
    """Return the reasons why weights cannot be extrapolated to this size; empty if they can."""
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
        reasons.append(f"there are {len(sizes)} sizes, and any two lie on a line; at least {FEWEST_SIZES} are needed")
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
    """Read a number of parameters: `1B`, `125M`, `1e9` or digits. Raises UserError for anything else."""
    try:
        return parse_tokens(text)
    except UserError:
        raise UserError(
            f"{quoted(text)} is not a number of parameters; give a positive whole number such as 1B, 125M or 1e9"
        ) from None


def _weights(prior: np.ndarray, log_ratios: np.ndarray) -> np.ndarray:
    """Return the weights (N, D) proportional to prior * exp(log_ratios); rows sum to 1."""
    weights = prior * np.exp(log_ratios)
    return weights / weights.sum(axis=1, keepdims=True)
