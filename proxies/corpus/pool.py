"""Several domains read as one group: whose row is next is laid out beforehand, by shares, for a whole run.

Each half of a step's rows has an order of its own: rows go to the domains in turn (`mixtures.stream.apportion`), never
a whole row away from their shares, and that order is shuffled inside windows. Without the shuffle the halves would hold
the same domains step after step, and the product of the halves' gradients would not be that of the mixed gradient with
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mixtures.stream.apportion import Turns
from proxies.corpus.batches import epoch_order, step_rows

WINDOW = 64  # rows that are shuffled together, at least; and
WINDOW_ROWS = 8  # of every domain on average


@dataclass(frozen=True)
class Pool:
    """The rows of K domains as one. turns (steps, N): which domain a row of a step comes from; places (steps, N): its
    how many-th.

    Every domain is read in its own order, without replacement, as it would be alone (`proxies.corpus.batches`).
    """

    tokens: dict[str, np.ndarray]  # name: flat token ids
    turns: Int64[np.ndarray, "steps N"]
    places: Int64[np.ndarray, "steps N"]

    def step_rows(self, *, seed: int, step: int, rows: int, row_tokens: int) -> Int64[np.ndarray, "rows row_tokens"]:
        """The first `rows` of the rows of `step` (0-based)."""
        members = list(self.tokens.items())
        found = []
        for turn, place in zip(self.turns[step, :rows].tolist(), self.places[step, :rows].tolist(), strict=True):
            name, tokens = members[turn]
            found.append(step_rows(tokens, seed=seed, domain=name, step=place, rows_per_step=1, row_tokens=row_tokens))
        return np.concatenate(found)


def make_pool(tokens: dict[str, np.ndarray], shares: Sequence[float], *, steps: int, rows: int, seed: int) -> Pool:
    """The pool of a run: `rows` rows at each of `steps` steps, by `shares` (sum 1). Takes some microseconds and 16
    bytes a row.
    """
    halves = 2 if rows % 2 == 0 else 1
    orders = [_order(shares, count=steps * rows // halves, seed=seed, half=half) for half in range(halves)]
    turns = np.concatenate([order.reshape(steps, rows // halves) for order in orders], axis=1)
    flat = turns.ravel()
    places = np.empty_like(flat)
    for member in range(len(tokens)):
        own = flat == member
        places[own] = np.arange(np.count_nonzero(own))
    return Pool(tokens, turns, places.reshape(turns.shape))


def _order(shares: Sequence[float], *, count: int, seed: int, half: int) -> np.ndarray:
    """(count,) whose row is next."""
    taking = Turns(starts=[0], shares=np.array([shares], dtype=np.float64), origin=0, base=[0] * len(shares))
    order = np.array([taking.next() for _ in range(count)], dtype=np.int64)
    window = max(WINDOW, WINDOW_ROWS * len(shares))
    for number, first in enumerate(range(0, count, window)):
        part = order[first : first + window]
        order[first : first + window] = part[epoch_order(seed, f"turns/{half}", number, len(part))]
    return order
