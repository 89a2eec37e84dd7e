"""Which domain helps which: cosines between the domains' gradients over a run, their noise, and a clustered order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtures.diagnosis.noise import interval_factor, mean_noise
from mixtures.run.run import RunRecord

ALIKE = 0.5  # two domains are called alike from this cosine on; one then explains a quarter of the other's squared norm
MOST_PAIRS = 5


@dataclass(frozen=True)
class Pair:
    """Two domains, the first one trained, and the cosine of their gradients with its 95 % interval, low to high.

    The interval holds for all pairs at once. Estimates that noise brings beyond -1 or 1 are cut to that.
    """

    first: str
    second: str
    cosine: float
    low: float
    high: float


@dataclass(frozen=True)
class HelpMatrix:
    """Cosines between the gradients of D trained domains (rows) and of G groups that they help or hurt (columns).

    The columns are the same D domains, then targets and held-out rows; columns[:D] == rows.

    cosines:      (D, G); noise can bring them beyond -1 or 1. NaN if not measured, or if a gradient is lost in noise.
    noise:        standard errors of the cosines (D, G); NaN where the cosine is NaN, and if the run has fewer than four
                  steps.
    order:        clustered order of the D rows (and the first D columns): domains that are alike are neighbours.
    unmeasured:   groups whose self product is not above its noise (two standard errors).
    redundant:    pairs of training domains with cosines of ALIKE or more that noise does not explain, most alike first.
    conflicting:  pairs of training domains, or of one and a target, with cosines below 0 that noise does not explain,
                  most opposed first.
    unbiased:     False if the run measured no self products; the diagonal then holds noise, and cosines are too near 0.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cosines: np.ndarray
    noise: np.ndarray
    order: tuple[int, ...]
    unmeasured: tuple[str, ...]
    redundant: tuple[Pair, ...]
    conflicting: tuple[Pair, ...]
    unbiased: bool = True


def help_matrix(run: RunRecord) -> HelpMatrix | None:
    """Compute the cosines between the domains' gradients over a run; None if it recorded no gram (DoReMi)."""
    blocks = run.trajectory.gram_blocks
    if not len(blocks):
        return None
    rows, columns = run.trajectory.domains, run.trajectory.groups
    cosines, noise = cosines_of(blocks)
    count = len(rows)
    kept = np.array([not name.endswith("@held_out") for name in columns])
    later = (
        np.triu(np.ones((count, len(columns)), dtype=bool), k=1)
        & np.isfinite(cosines[:count])
        & np.isfinite(noise[:count])
        & kept
    )
    reach = interval_factor(len(blocks), claims=max(int(later.sum()), 1)) * noise[:count]
    low, high = cosines[:count] - reach, cosines[:count] + reach
    alike = later & (cosines[:count] >= ALIKE) & (low > 0) & (np.arange(len(columns)) < count)

    def pairs(chosen: np.ndarray, sign: int) -> tuple[Pair, ...]:
        places = sorted(np.argwhere(chosen).tolist(), key=lambda place: sign * cosines[tuple(place)])[:MOST_PAIRS]
        values = np.clip([cosines[:count], low, high], -1, 1)
        return tuple(Pair(rows[i], columns[j], *values[:, i, j].tolist()) for i, j in places)

    return HelpMatrix(
        rows=rows,
        columns=columns,
        cosines=cosines[:count],
        noise=noise[:count],
        order=clustered_order(cosines[:count, :count]),
        unmeasured=tuple(name for name, cosine in zip(columns, np.diag(cosines), strict=True) if np.isnan(cosine)),
        redundant=pairs(alike, -1),
        conflicting=pairs(later & (high < 0), 1),
        unbiased=not np.isnan(run.trajectory.self_products).all(),
    )


def cosines_of(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines (G, G) of the mean of grams (B, G, G), and their standard errors (G, G).

    The diagonal is 1, without error. If a group's self product is not two standard errors above 0 (or not above 0, if
    its error is not known), its direction is lost in noise, and its cosines are NaN. The errors are those of the ratio
    to first order: with m the mean gram, block b moves the cosine c_ij by
    m_b,ij / sqrt(m_ii m_jj) - c_ij/2 (m_b,ii / m_ii + m_b,jj / m_jj).
    """
    mean, noise = blocks.mean(axis=0), mean_noise(np.diagonal(blocks, axis1=1, axis2=2))
    squares = np.diag(mean)
    squares = np.where(squares > 2 * np.nan_to_num(noise), squares, np.nan)
    scale = np.sqrt(np.outer(squares, squares))
    cosines = mean / scale
    relative = np.diagonal(blocks, axis1=1, axis2=2) / squares
    errors = np.empty_like(cosines)
    for row in range(len(cosines)):  # row by row, so that only B * G numbers are in memory beside the blocks
        moved = blocks[:, row] / scale[row] - cosines[row] / 2 * (relative[:, [row]] + relative)
        errors[row] = mean_noise(moved)
    return cosines, errors


def clustered_order(cosines: np.ndarray) -> tuple[int, ...]:
    """Return an order of the D domains in `cosines` (D, D) in which neighbours are as alike as the tree allows.

    The tree is made by average linkage on 1 - cosine. Domains without cosines come last, in their order.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

    known = np.flatnonzero(~np.isnan(np.diag(cosines)))
    rest = tuple(np.flatnonzero(np.isnan(np.diag(cosines))).tolist())
    if len(known) < 3:
        return (*known.tolist(), *rest)
    distances = np.clip(1 - cosines[np.ix_(known, known)], 0, 2)[np.triu_indices(len(known), k=1)]
    tree = optimal_leaf_ordering(linkage(distances, method="average"), distances)
    return (*known[leaves_list(tree)].tolist(), *rest)


def pairs_text(pairs: Sequence[Pair]) -> str:
    """Return pairs as text, such as `a and b 0.64 (0.55 to 0.73), c and d ...`."""
    return ", ".join(
        f"{pair.first} and {pair.second} {pair.cosine:.2f} ({pair.low:.2f} to {pair.high:.2f})" for pair in pairs
    )
