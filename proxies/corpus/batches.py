"""The rows of a domain that a step reads: pure functions of (seed, domain, step), independent of rank and worker count.

Each domain is read without replacement: epoch 0 in one shuffled order, epoch 1 in another, and so on. A step that
reaches the end of an epoch continues in the order of the next one. Nothing is kept between steps, so a resumed run
needs only the number of the step.
"""

import hashlib
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from mixtures.stream.tokens import as_rows


# 4,096 orders are enough for two epochs (a step may reach into the next one) of 2,048 domains. An order is kept until
# every row in it was drawn, so the cache holds at most 8 bytes per row that the run draws, plus one epoch per domain.
@lru_cache(maxsize=4096)
def epoch_order(seed: int, domain: str, epoch: int, rows: int) -> Int64[np.ndarray, " rows"]:
    """Return the order in which `epoch` (from 0) reads the rows of a domain: a read-only permutation of 0..rows-1.

    It sorts raw Philox draws whose key is the sha256 of (seed, domain, epoch). These stay the same over versions of
    Python and NumPy, which `Generator.permutation` does not promise. Once per epoch this costs a sort and 8 bytes per
    row (twice that while sorting): 80 MB and a second for ten million rows.
    """
    digest = hashlib.sha256(f"{seed}\0{domain}\0{epoch}".encode()).digest()
    draws = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(rows)
    order = np.argsort(draws, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order


def step_indices(
    rows: int, *, seed: int, domain: str, step: int, rows_per_step: int
) -> Int64[np.ndarray, " rows_per_step"]:
    """Return the numbers (rows_per_step,) of the rows that `step` (from 0) reads from a domain of `rows` rows.

    Raises ValueError for a domain without rows, and for a negative step or number of rows per step.
    """
    if rows < 1:
        raise ValueError(f"domain {domain} has {rows} rows; at least one is needed to draw from it")
    if step < 0 or rows_per_step < 0:
        raise ValueError(f"step is {step} and rows_per_step is {rows_per_step}; neither may be negative")
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
    """Return the rows (rows_per_step, row_tokens) of token ids that `step` (from 0) reads from a domain.

    `tokens` is the domain's flat array of token ids, memory-mapped or not.
    """
    rows = as_rows(tokens, row_tokens)
    indices = step_indices(len(rows), seed=seed, domain=domain, step=step, rows_per_step=rows_per_step)
    return rows[indices].astype(np.int64)


def epochs_used(rows: int, steps: int, rows_per_step: int) -> float:
    """Return how many times a domain of `rows` rows was read, on average, after `steps` steps."""
    return steps * rows_per_step / rows


def evaluated_part(rows: int, evaluate_rows: int) -> int:
    """Return how many of a domain's `rows` held-out rows, from the first on, are reserved for evaluation.

    This is half of them, or `evaluate_rows` if that is more (all of them if there are fewer). The other rows are for a
    held-out objective. The split is the same in every run, whatever its objective.
    """
    return max(rows // 2, min(evaluate_rows, rows))


def evaluated_rows(rows: int, evaluate_rows: int) -> Int64[np.ndarray, " n"]:
    """Return the numbers (n,) of the held-out rows that are evaluated, spread evenly over the part reserved for this.

    n is `evaluate_rows`, or all held-out rows if there are fewer. They are spread because neighbouring rows belong to
    the same document: the first 64 rows of a domain of books are from one book.
    """
    count = min(evaluate_rows, rows)
    return np.arange(count, dtype=np.int64) * evaluated_part(rows, evaluate_rows) // max(count, 1)
