"""Standard errors of means over a run, from the differences between neighbouring blocks of steps.

Every step draws new rows, and the gradients drift slowly. So neighbouring blocks differ almost only by noise,
and their differences measure it. This is the noise from the rows drawn, not from the choice of the corpus, and not what
another seed would change (SEEDS).
"""

import numpy as np
from scipy import stats

# variance over seeds of a mean alignment, in squares of its `mean_noise`: the most of the pairs of real runs in
# docs/intervals.md (0.3 to 4.9)
SEEDS = 5.0


def mean_noise(blocks: np.ndarray) -> np.ndarray:
    """Return the standard error (...) of the mean of `blocks` (B, ...); NaN for fewer than four blocks.

    It comes from the differences between the two blocks of each pair of neighbours. The squared difference of a pair
    estimates the sum of its two variances. So noise may grow or shrink over the run, and a drift counts only by its
    change within a pair.
    """
    count = len(blocks)
    if count < 4:
        return np.full(blocks.shape[1:], np.nan)
    pairs = count // 2
    differences = blocks[0 : 2 * pairs : 2] - blocks[1 : 2 * pairs : 2]
    return np.sqrt((differences**2).mean(axis=0) / (2 * count))


def interval_factor(blocks: int, *, claims: int = 1) -> float:
    """Return the half width of 95 % intervals, in standard errors of a mean over `blocks` blocks.

    The intervals hold for all of `claims` means at once (Bonferroni).
    """
    return float(stats.t.ppf(1 - 0.025 / claims, max(blocks // 2, 1)))
