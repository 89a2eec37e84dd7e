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
from mixtures.stream.tokens import as_rows
from proxies.corpus.batches import epoch_order, halves_of, part_indices

WINDOW = 64  # rows that are shuffled together, at least
WINDOW_ROWS = 8  # rows per domain in a window on average, at least


@dataclass(frozen=True)
class Pool:
    """Rows of several domains that are read as one group, N rows at each step of a run.

    tokens:  flat token ids of every domain.
    turns:   turns[step, row] is the number of the domain that the row comes from, in the order of `tokens`.
    places:  places[step, row] is how many rows of that domain come before it in the run, in the same half of a step.

    Every domain is read without replacement, and its rows are divided between the halves (`proxies.corpus.batches`).
    """

    tokens: dict[str, np.ndarray]  # name: flat token ids
    turns: Int64[np.ndarray, "steps N"]
    places: Int64[np.ndarray, "steps N"]

    def step_rows(self, *, seed: int, step: int, rows: int, row_tokens: int) -> Int64[np.ndarray, "rows row_tokens"]:
        """Return the first `rows` rows of `step` (from 0), as token ids (rows, row_tokens)."""
        members, count = list(self.tokens.items()), self.turns.shape[1]
        halves = halves_of(count)
        parts = []
        for row, (turn, place) in enumerate(zip(self.turns[step, :rows], self.places[step, :rows], strict=True)):
            name, tokens = members[turn]
            own = as_rows(tokens, row_tokens)
            half = {"half": row * halves // count, "halves": halves, "each": count // halves}
            parts.append(own[part_indices(len(own), place[None], seed=seed, domain=name, **half)].astype(np.int64))
        return np.concatenate(parts)


def make_pool(tokens: dict[str, np.ndarray], shares: Sequence[float], *, steps: int, rows: int, seed: int) -> Pool:
    """Lay out a pool of `rows` rows at each of `steps` steps, taken from the domains by `shares` (sum 1).

    Takes some microseconds and 16 bytes per row.
    """
    halves = halves_of(rows)
    orders = [_order(shares, count=steps * rows // halves, seed=seed, half=half) for half in range(halves)]
    turns = np.concatenate([order.reshape(steps, rows // halves) for order in orders], axis=1)
    places = np.concatenate([_places(order, len(tokens)).reshape(steps, rows // halves) for order in orders], axis=1)
    return Pool(tokens, turns, places)


def _places(order: np.ndarray, members: int) -> np.ndarray:
    """Return for every entry of `order` (count,) how many entries before it are the same domain."""
    places = np.empty_like(order)
    for member in range(members):
        of_member = order == member
        places[of_member] = np.arange(np.count_nonzero(of_member))
    return places


def _order(shares: Sequence[float], *, count: int, seed: int, half: int) -> np.ndarray:
    """Return the order (count,) in which domains supply rows: entry i is the number of row i's domain."""
    taking = Turns(starts=[0], shares=np.array([shares], dtype=np.float64), origin=0, base=[0] * len(shares))
    order = np.array([taking.next() for _ in range(count)], dtype=np.int64)
    window = max(WINDOW, WINDOW_ROWS * len(shares))
    for number, first in enumerate(range(0, count, window)):
        part = order[first : first + window]
        order[first : first + window] = part[epoch_order(seed, f"turns/{half}", number, len(part))]
    return order
