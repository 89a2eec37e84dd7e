"""Means of a run's gram over blocks of steps, small enough to keep in memory; means and their noise come from them."""

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
        self._step = 0

    def add(self, grams: np.ndarray) -> None:
        """Add the grams (n, G, G) of the next n steps, NaN where a gram was not measured; the array is not changed."""
        diagonal = np.arange(grams.shape[1])
        for gram in grams:
            if not np.isnan(gram).any():
                block = min(self._step // self._length, len(self._sums) - 1)
                if self._unbiased is not None:
                    gram = gram.copy()
                    gram[diagonal, diagonal] = self._unbiased[self._step]
                self._sums[block] += gram
                self._measured[block] += 1
            self._step += 1

    def means(self) -> np.ndarray:
        """Return the means (B, G, G) of the blocks that have a gram; B is 0 where no step has one."""
        kept = self._measured > 0
        return self._sums[kept] / self._measured[kept, None, None]
