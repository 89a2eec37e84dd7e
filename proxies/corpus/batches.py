"""Which rows of a domain a step reads: pure functions of (seed, domain, step), never of rank or worker count.

Each domain is read without replacement: epoch 0 in one shuffled order, epoch 1 in another, and so on. A step that
reaches the end of an epoch goes on in the next one's order. Nothing is kept between steps, so a resumed run needs
only the step's number.
"""

import hashlib
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from mixtures.stream.tokens import as_rows


# 4,096 orders: two epochs (a step may cross a border) of 2,048 domains. An order is kept until every row in it was
# drawn, so the cache holds at most 8 bytes for each row the run draws, plus one epoch of each domain.
@lru_cache(maxsize=4096)
def epoch_order(seed: int, domain: str, epoch: int, rows: int) -> Int64[np.ndarray, " rows"]:
    """The order in which `epoch` (0-based) reads the rows of a domain: a read-only permutation of 0..rows-1.

    Sorts raw Philox draws keyed by sha256 of (seed, domain, epoch), which stay the same over Python and NumPy
    versions (the streams of `Generator.permutation` need not). Costs a sort and 8 bytes a row (twice that while
    sorting), once an epoch: 80 MB and a second for ten million rows.
    """
    digest = hashlib.sha256(f"{seed}\0{domain}\0{epoch}".encode()).digest()
    draws = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(rows)
    order = np.argsort(draws, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order


def step_indices(
    rows: int, *, seed: int, domain: str, step: int, rows_per_step: int
) -> Int64[np.ndarray, " rows_per_step"]:
    """Numbers (0..rows-1) of the rows that `step` (0-based) reads from a domain of that many rows.

    Raises ValueError for a domain without rows or a negative step.
    """
    if rows < 1:
        raise ValueError(f"domain {domain} has {rows} rows; at least one is needed to draw from it")
    if step < 0 or rows_per_step < 0:
        raise ValueError(f"step is {step} and rows_per_step {rows_per_step}; both count from zero")
    position = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
    epochs, place = np.divmod(position, rows)
    indices = np.empty(rows_per_step, dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = epoch_order(seed, domain, epoch, rows)[place[here]]
    return indices


def step_rows(
    tokens: np.ndarray, *, seed: int, domain: str, step: int, rows_per_step: int, row_tokens: int
) -> Int64[np.ndarray, "rows_per_step row_tokens"]:
    """The token rows (N, T) that `step` (0-based) reads from a domain.

    `tokens` is the domain's flat array of token ids, memory-mapped or not.
    """
    rows = as_rows(tokens, row_tokens)
    indices = step_indices(len(rows), seed=seed, domain=domain, step=step, rows_per_step=rows_per_step)
    return rows[indices].astype(np.int64)


def epochs_used(rows: int, steps: int, rows_per_step: int) -> float:
    """How many times a domain of `rows` rows was read, on average, after `steps` steps."""
    return steps * rows_per_step / rows


def evaluated_part(rows: int, evaluate_rows: int) -> int:
    """How many of a domain's `rows` held-out rows, from the first on, are for evaluation; the others are for a held-out
    objective.

    Half of them, or as many as are evaluated where that is more; the same in every run, whatever its objective.
    """
    return max(rows // 2, min(evaluate_rows, rows))


def evaluated_rows(rows: int, evaluate_rows: int) -> Int64[np.ndarray, " n"]:
    """Numbers of the held-out rows that are evaluated: `evaluate_rows`, or all there are, spread evenly over their
    part.

    Spread, because neighbouring rows are of one document: the first 64 rows of a domain of books are one book.
    """
    count = min(evaluate_rows, rows)
    return np.arange(count, dtype=np.int64) * evaluated_part(rows, evaluate_rows) // max(count, 1)
