"""Who helps whom: the cosines between domains' gradients over a run, their noise, and an order that puts like beside
like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtures.diagnosis.noise import interval_factor, mean_noise
from mixtures.run.run import RunRecord

ALIKE = 0.5  # cosine from which two domains are called alike: a quarter of either's squared gradient is the other's
MOST_PAIRS = 5


@dataclass(frozen=True)
class Pair:
    """Two domains, the first one trained: cosine of their gradients (noise can bring its estimate beyond 1, here it
    stays within) and a
    95 % interval that holds for all pairs at once."""

    first: str
    second: str
    cosine: float
    low: float
    high: float


@dataclass(frozen=True)
class HelpMatrix:
    """D trained domains (rows), G groups that they help or hurt (columns: the same D domains, then targets and held-out
    rows).
    """

    rows: tuple[str, ...]  # (D,) run's order
    columns: tuple[str, ...]  # (G,) run's order; columns[:D] == rows
    cosines: (
        np.ndarray
    )  # (D, G); may leave [-1, 1] by noise; NaN: not measured, or a group whose gradient is lost in noise
    noise: (
        np.ndarray
    )  # (D, G), standard errors of the cosines; NaN where the cosine is, and in a run of fewer than four steps
    order: tuple[
        int, ...
    ]  # the D rows (and first D columns), clustered: like beside like; the other columns stay as they are
    unmeasured: tuple[str, ...]  # groups whose self product is not above its noise (two standard errors)
    redundant: tuple[
        Pair, ...
    ]  # of training domains, most alike first: cosines of ALIKE or more that noise does not explain
    conflicting: tuple[Pair, ...]  # training domains, or one and a target, most opposed first: below 0 beyond noise
    unbiased: bool = (
        True  # False: the run measured no self products, its diagonal holds noise, and cosines are too near 0
    )


def help_matrix(run: RunRecord) -> HelpMatrix | None:
    """Return who helps whom in a run; None for a run that recorded no gram (DoReMi)."""
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
        unmeasured=tuple(name for name, own in zip(columns, np.diag(cosines), strict=True) if np.isnan(own)),
        redundant=pairs(alike, -1),
        conflicting=pairs(later & (high < 0), 1),
        unbiased=not np.isnan(run.trajectory.self_products).all(),
    )


def cosines_of(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, G) cosines of the mean of grams (B, G, G), and their standard errors; the diagonal is 1 without error.

    A group whose self product is not two standard errors above 0 (where those are known: above 0) has no direction to
    speak of: NaN. The errors are those of the ratio to first order: with m the mean gram, block b moves the cosine c_ij
    by m_b,ij / sqrt(m_ii m_jj) - c_ij/2 (m_b,ii / m_ii + m_b,jj / m_jj).
    """
    mean, noise = blocks.mean(axis=0), mean_noise(np.diagonal(blocks, axis1=1, axis2=2))
    own = np.diag(mean)
    own = np.where(own > 2 * np.nan_to_num(noise), own, np.nan)
    scale = np.sqrt(np.outer(own, own))
    cosines = mean / scale
    relative = np.diagonal(blocks, axis1=1, axis2=2) / own
    errors = np.empty_like(cosines)
    for row in range(len(cosines)):  # a row at a time: B * G numbers in memory beside the blocks
        moved = blocks[:, row] / scale[row] - cosines[row] / 2 * (relative[:, [row]] + relative)
        errors[row] = mean_noise(moved)
    return cosines, errors


def clustered_order(cosines: np.ndarray) -> tuple[int, ...]:
    """The D domains of `cosines` (D, D) by average linkage on 1 - cosine, neighbours as alike as the tree allows.

    Domains without cosines come last, in their order.
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
    """`a and b 0.64 (0.55 to 0.73), c and d ...`."""
    return ", ".join(
        f"{pair.first} and {pair.second} {pair.cosine:.2f} ({pair.low:.2f} to {pair.high:.2f})" for pair in pairs
    )
