"""Paired differences between mixtures, with intervals over seeds and held-out rows. Pure.

Held-out losses come as one table a domain, (M, S, n): M mixtures, S seeds, the n rows of the domain, the same rows in
every run; NaN where a mixture was not run with a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean loss of a mixture minus that of another (nats per token; below zero: lower loss) and its 95 % interval.

    low and high are NaN where a domain has a single row. Variances are those of `value`; the seeds' is 0 where there
    are too few seeds to tell.
    """

    value: float
    low: float
    high: float
    seed_variance: float
    row_variance: float
    degrees: float

    @property
    def better(self) -> bool:
        """The whole interval is below zero."""
        return self.high < 0

    @property
    def worse(self) -> bool:
        """The whole interval is above zero."""
        return self.low > 0

    @property
    def identical(self) -> bool:
        """The two have the same loss in every row, so nothing is uncertain."""
        return self.value == 0 and self.seed_variance + self.row_variance == 0

    @property
    def known(self) -> bool:
        """There is an interval."""
        return bool(np.isfinite(self.low))


def paired_difference(
    losses: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    *,
    mixture: int,
    reference: int,
    pool: Sequence[int],
) -> Difference | None:
    """Difference between `mixture` and `reference` in the weighted mean over domains; None without a common seed.

    `losses`: tables (M, S, n) of the domains, `weights`: theirs (sum 1). Pairs are formed by seed and row. Two parts
    add
    up to the variance: seeds, 2 * MSE / pairs, where the MSE is the residual of mixtures x seeds over the mixtures in
    `pool` (a randomized block design: runs of one seed share initial weights and data); and rows, in every domain the
    variance of the seed-averaged paired row differences over their number. Student's t with the degrees of freedom of
    Welch and Satterthwaite. With one seed the interval is over rows only.
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
    error, degrees = residual_variance(objective[list(pool)])
    parts = [(2 * error / pairs.sum(), degrees)] if degrees else []
    parts += [(weight**2 * _mean_variance(row), len(row) - 1) for row, (_, weight) in zip(rows, used, strict=True)]
    total, freedom = _welch_satterthwaite(parts)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(total)
    seeds = parts[0][0] if degrees else 0.0
    return Difference(
        float(value), float(value - half), float(value + half), float(seeds), float(total - seeds), float(freedom)
    )


def mean_losses(losses: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """(M, S) weighted mean over domains of the mean over rows; NaN where a run is missing."""
    return np.sum([weight * table.mean(axis=2) for table, weight in zip(losses, weights, strict=True)], axis=0)


def residual_variance(table: np.ndarray) -> tuple[float, int]:
    """(variance, degrees of freedom) left in `table` (mixtures, seeds) by an effect of each mixture and each seed.

    The residual mean square of a randomized block design, (M - 1)(S - 1) degrees of freedom for a full table; cells
    that are NaN are left out of the least squares fit. (0, 0) where nothing is left to estimate it from.
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
    """The mixtures of `among` without those that repeat an earlier one in every row of all common seeds.

    A copy (UniMax whose cap does not bind is uniform) has no noise of its own and would make the pooled residual too
    small.
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
    """Variance of the mean of independent values; NaN of a single one."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else np.nan


def _welch_satterthwaite(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """(sum, degrees of freedom of the sum) of independent (variance, degrees of freedom)."""
    total = sum(variance for variance, _ in parts)
    if not total > 0:  # also NaN
        return total, np.inf
    return total, total**2 / sum(variance**2 / degrees for variance, degrees in parts if degrees)
