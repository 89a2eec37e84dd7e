"""Noise of means over a run, from the differences of blocks of steps that follow each other.

Every step draws new rows, so blocks that follow each other differ by noise and by little drift: differences of
neighbours measure the noise alone (of the steps' rows; not of the choice of the corpus).
"""

import numpy as np
from scipy import stats


def mean_noise(blocks: np.ndarray) -> np.ndarray:
    """(...) standard error of the mean of `blocks` (B, ...) from the differences of neighbours, in pairs; NaN below
    four blocks.

    A pair's squared difference is the sum of its two variances, so noise that grows or shrinks over the run counts as
    it is, and a drift only by what it does within a pair.
    """
    count = len(blocks)
    if count < 4:
        return np.full(blocks.shape[1:], np.nan)
    pairs = count // 2
    differences = blocks[0 : 2 * pairs : 2] - blocks[1 : 2 * pairs : 2]
    return np.sqrt((differences**2).mean(axis=0) / (2 * count))


def interval_factor(blocks: int, *, claims: int = 1) -> float:
    """Standard errors to either side of a mean over `blocks` that 95 % intervals take, all of `claims` at once
    (Bonferroni).
    """
    return float(stats.t.ppf(1 - 0.025 / claims, max(blocks // 2, 1)))
