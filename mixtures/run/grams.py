"""The gram as it is kept on disk, and its means over blocks of steps, from which diagnosis and matrix are computed."""

import numpy as np

BLOCKS = 100


class GramBlocks:
    """Means of the gram (G, G) over at most `blocks` blocks of equally many steps; the last block may be longer.

    The diagonal is the unbiased one. Where no self product was measured it is the plain diagonal, which contains the
    rows' noise. Steps without a gram do not count. Memory: 8 * B * G * G bytes.
    """

    def __init__(self, self_products: np.ndarray, *, blocks: int = BLOCKS) -> None:
        """Take the unbiased self products (S, G) of all steps, NaN where they were not measured."""
        steps, groups = self_products.shape
        self._length = -(-steps // blocks)
        count = steps // self._length
        self._sums, self._measured = np.zeros((count, groups, groups)), np.zeros(count)
        self._unbiased = None if np.isnan(self_products).all() else self_products

    def add(self, place: int, gram: np.ndarray) -> None:
        """Add the gram (G, G) of step number `place` (from 0), which is not changed; one with NaN does not count."""
        if np.isnan(gram).any():
            return
        block = min(place // self._length, len(self._sums) - 1)
        if self._unbiased is not None:
            gram = gram.copy()
            np.fill_diagonal(gram, self._unbiased[place])
        self._sums[block] += gram
        self._measured[block] += 1

    def means(self) -> np.ndarray:
        """Return the means (B, G, G) of the blocks that have a gram; B is 0 where no step has one."""
        kept = self._measured > 0
        return self._sums[kept] / self._measured[kept, None, None]


def packed(gram: np.ndarray) -> np.ndarray:
    """Return the lower triangle of a gram (G, G), row by row, as G * (G + 1) / 2 numbers in float32."""
    return np.asarray(gram[np.tri(len(gram), dtype=bool)], dtype=np.float32)


def unpacked(triangle: np.ndarray, groups: int) -> np.ndarray:
    """Return the gram (G, G), float64, of a triangle as `packed` returns it."""
    gram = np.empty((groups, groups))
    lower = np.tri(groups, dtype=bool)
    gram[lower] = triangle
    gram.T[lower] = triangle
    return gram
