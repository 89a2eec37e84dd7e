"""Paired differences between mixtures, with 95 % intervals over seeds and held-out rows. Pure functions.

Held-out losses come as one table per domain, (M, S, n): M mixtures, S seeds, and the n rows of the domain, which are
the same in every run. Values are NaN where a mixture was not run with a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean loss of one mixture minus that of another (nats per token), with its 95 % interval, low to high.

    A difference below zero means a lower loss. low and high are NaN if a domain has a single row. seed_variance and
    row_variance are the two parts of the variance of `value`. over_seeds is False, and seed_variance 0, if there are
    too few seeds to estimate it: the interval then says nothing about other seeds. degrees: degrees of freedom of
    seed_variance, or of row_variance without it.
    """

    value: float
    low: float
    high: float
    seed_variance: float
    row_variance: float
    degrees: float
    over_seeds: bool = True

    @property
    def better(self) -> bool:
        """Whether the whole interval is below zero, and is one over seeds."""
        return self.over_seeds and self.high < 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval is above zero, and is one over seeds."""
        return self.over_seeds and self.low > 0

    @property
    def identical(self) -> bool:
        """Whether the two mixtures have the same loss in every row, so that nothing is uncertain."""
        return self.value == 0 and self.seed_variance + self.row_variance == 0

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.low))


def paired_difference(
    losses: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    *,
    mixture: int,
    reference: int,
    pool: Sequence[int],
) -> Difference | None:
    """Return the difference of `mixture` to `reference` in the weighted mean over domains; None without a common seed.

    losses:              one table (M, S, n) per domain.
    weights:             weights of the domains, sum 1.
    mixture, reference:  numbers of two mixtures in the tables.
    pool:                numbers of the mixtures that the variance between seeds is estimated from.

    Pairs are formed by seed and row. The variance has two parts. Seeds: of the pairs' own variance and 2 * MSE the
    larger one, over the number of common seeds. MSE is the residual mean square of mixtures x seeds over `pool` (a
    randomized block design, because runs of one seed share initial weights and data). It alone would be too small for a
    mixture that varies more than the others, so it counts at most twice the degrees of freedom of the pairs. Rows: the
    paired row differences are averaged over seeds; in every domain, their variance is divided by their number. Each
    part has its own quantile of Student's t: the half width is the root of the sum of (quantile^2 * variance), after
    Cochran (1964). With one seed, the interval covers rows only.
    """
    used = [(table, weight) for table, weight in zip(losses, weights, strict=True) if weight]
    objective = mean_losses([table for table, _ in used], [weight for _, weight in used])
    pairs = np.isfinite(objective[[mixture, reference]]).all(axis=0)
    if not pairs.any():
        return None
    gaps = [table[mixture, pairs] - table[reference, pairs] for table, _ in used]  # (pairs, n) of every domain
    if not any(gap.any() for gap in gaps):
        return Difference(0.0, 0.0, 0.0, 0.0, 0.0, np.inf)
    rows = [gap.mean(axis=0) for gap in gaps]
    value = sum(weight * row.mean() for row, (_, weight) in zip(rows, used, strict=True))
    row_variance, freedom = _welch_satterthwaite(
        [(weight**2 * _mean_variance(row), len(row) - 1) for row, (_, weight) in zip(rows, used, strict=True)]
    )
    seed_variance, degrees = _seed_variance(objective, pool, objective[mixture, pairs] - objective[reference, pairs])
    half = np.sqrt(_squared_quantile(freedom) * row_variance + _squared_quantile(degrees) * seed_variance)
    return Difference(
        float(value),
        float(value - half),
        float(value + half),
        seed_variance,
        float(row_variance),
        float(degrees or freedom),
        over_seeds=degrees > 0,
    )


def _seed_variance(objective: np.ndarray, pool: Sequence[int], gaps: np.ndarray) -> tuple[float, int]:
    """Return (variance between seeds of the mean of `gaps`, its degrees of freedom); (0, 0) where nothing shows it.

    objective: losses (M, S) of all runs. gaps: differences (pairs,) of two mixtures with the same seeds.
    """
    error, degrees = residual_variance(objective[list(pool)])
    own = gaps.var(ddof=1) if len(gaps) > 1 else 0.0
    return float(max(own, 2 * error) / len(gaps)) if degrees else 0.0, min(degrees, 2 * max(len(gaps) - 1, 1))


def _squared_quantile(degrees: float) -> float:
    """Return the squared quantile of Student's t that half of CONFIDENCE lies below; 0 without degrees of freedom."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees) ** 2) if degrees else 0.0


def mean_losses(losses: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the losses (M, S) of all runs: the weighted mean over domains of the mean over rows; NaN if not run."""
    return np.sum([weight * table.mean(axis=2) for table, weight in zip(losses, weights, strict=True)], axis=0)


def residual_variance(table: np.ndarray) -> tuple[float, int]:
    """Return (variance, degrees of freedom) of the residual of `table` (M, S) after effects of mixtures and of seeds.

    This is the residual mean square of a randomized block design; a full table has (M - 1)(S - 1) degrees of freedom.
    NaN cells are left out of the least squares fit. The result is (0, 0) if no degrees of freedom are left.
    """
    mixtures, seeds = np.nonzero(np.isfinite(table))
    values = table[mixtures, seeds]
    design = np.zeros((len(values), sum(table.shape)))
    cells = np.arange(len(values))
    design[cells, mixtures] = design[cells, table.shape[0] + seeds] = 1
    effects, _, rank, _ = np.linalg.lstsq(design, values)
    degrees = len(values) - int(rank)
    residual = values - design @ effects
    return (float(residual @ residual / degrees), degrees) if degrees else (0.0, 0)


def distinct_mixtures(losses: Sequence[np.ndarray], *, among: Sequence[int]) -> list[int]:
    """Return the mixtures in `among`, without copies: those that equal an earlier one in every row of common seeds.

    A copy has no noise of its own and would make the pooled residual too small. For example, UniMax is uniform if its
    cap does not bind.
    """
    kept: list[int] = []
    for mixture in among:
        if not any(_same(losses, mixture, other) for other in kept):
            kept.append(mixture)
    return kept


def _same(losses: Sequence[np.ndarray], mixture: int, other: int) -> bool:
    common = np.isfinite([table[[mixture, other]].mean(axis=2) for table in losses]).all(axis=(0, 1))
    return bool(common.any()) and all(np.array_equal(table[mixture, common], table[other, common]) for table in losses)


def _mean_variance(values: np.ndarray) -> float:
    """Return the variance of the mean of independent values; NaN for a single value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else np.nan


def _welch_satterthwaite(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return (sum, its degrees of freedom) of independent variances, given as (variance, degrees of freedom)."""
    total = sum(variance for variance, _ in parts)
    if not total > 0:  # also NaN
        return total, np.inf
    return total, total**2 / sum(variance**2 / degrees for variance, degrees in parts if degrees)
