"""The gram over a run, in blocks of steps: what means over the run and their noise are made of.

Every step draws new rows, so blocks that follow each other differ by noise and by little drift: differences of
neighbours measure the noise alone (of the steps' rows; not of the choice of the corpus).
"""

import numpy as np
from scipy import stats

from mixtures.run.trajectory import Trajectory

BLOCKS = 100


def gram_blocks(trajectory: Trajectory, *, blocks: int = BLOCKS) -> np.ndarray:
    """(B, G, G) means over at most `blocks` runs of equally many steps (the last may be longer), with the unbiased
    diagonal.

    Where no self product was measured the diagonal is the plain one, which holds the rows' noise. Blocks without a gram
    are left out. One part of the record and 8 * B * G * G bytes are in memory at a time.
    """
    steps, groups = len(trajectory.steps), len(trajectory.groups)
    length = -(-steps // blocks)
    count = steps // length
    sums, measured = np.zeros((count, groups, groups)), np.zeros(count)
    step, diagonal = 0, np.arange(groups)
    unbiased = None if np.isnan(trajectory.self_products).all() else trajectory.self_products
    for grams in trajectory.gram_parts():
        for gram in grams:
            if not np.isnan(gram).any():
                block = min(step // length, count - 1)
                if unbiased is not None:
                    gram[diagonal, diagonal] = unbiased[step]
                sums[block] += gram
                measured[block] += 1
            step += 1
    return sums[measured > 0] / measured[measured > 0, None, None]


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
