"""Several domains read as one group, with the order of their rows laid out beforehand for a whole run.

Each half of a step's rows has its own order. Domains supply rows in turn (`mixtures.stream.apportion`), so that none is
ever a whole row away from its share, and the order is then shuffled inside windows. Without the shuffle each half would
hold the same domains step after step, and the product of the halves' gradients would not estimate the squared norm of
the mixed gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mixtures.stream.apportion import Turns
from proxies.corpus.batches import epoch_order, step_rows

WINDOW = 64  # rows that are shuffled together, at least
WINDOW_ROWS = 8  # rows per domain in a window on average, at least


@dataclass(frozen=True)
class Pool:
    """Rows of several domains that are read as one group, N rows at each step of a run.

    tokens:  flat token ids of every domain.
    turns:   turns[step, row] is the number of the domain that the row comes from, in the order of `tokens`.
    places:  places[step, row] is how many rows of that domain come before it in the run.

    Every domain is read in its own order, without replacement, as it would be alone (`proxies.corpus.batches`).
    """

    tokens: dict[str, np.ndarray]  # name: flat token ids
    turns: Int64[np.ndarray, "steps N"]
    places: Int64[np.ndarray, "steps N"]

    def step_rows(self, *, seed: int, step: int, rows: int, row_tokens: int) -> Int64[np.ndarray, "rows row_tokens"]:
        """Return the first `rows` rows of `step` (from 0), as token ids (rows, row_tokens)."""
        members = list(self.tokens.items())
        parts = []
        for turn, place in zip(self.turns[step, :rows].tolist(), self.places[step, :rows].tolist(), strict=True):
            name, tokens = members[turn]
            parts.append(step_rows(tokens, seed=seed, domain=name, step=place, rows_per_step=1, row_tokens=row_tokens))
        return np.concatenate(parts)


def make_pool(tokens: dict[str, np.ndarray], shares: Sequence[float], *, steps: int, rows: int, seed: int) -> Pool:
    """Lay out a pool of `rows` rows at each of `steps` steps, taken from the domains by `shares` (sum 1).

    Takes some microseconds and 16 bytes per row.
    """
    halves = 2 if rows % 2 == 0 else 1
    orders = [_order(shares, count=steps * rows // halves, seed=seed, half=half) for half in range(halves)]
    turns = np.concatenate([order.reshape(steps, rows // halves) for order in orders], axis=1)
    flat = turns.ravel()
    places = np.empty_like(flat)
    for member in range(len(tokens)):
        of_member = flat == member
        places[of_member] = np.arange(np.count_nonzero(of_member))
    return Pool(tokens, turns, places.reshape(turns.shape))


def _order(shares: Sequence[float], *, count: int, seed: int, half: int) -> np.ndarray:
    """Return the order (count,) in which domains supply rows: entry i is the number of row i's domain."""
    taking = Turns(starts=[0], shares=np.array([shares], dtype=np.float64), origin=0, base=[0] * len(shares))
    order = np.array([taking.next() for _ in range(count)], dtype=np.int64)
    window = max(WINDOW, WINDOW_ROWS * len(shares))
    for number, first in enumerate(range(0, count, window)):
        part = order[first : first + window]
        order[first : first + window] = part[epoch_order(seed, f"turns/{half}", number, len(part))]
    return order
