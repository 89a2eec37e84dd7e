"""The rows of a domain that a step reads: pure functions of (seed, domain, step), independent of rank and worker count.

Each domain is read without replacement: epoch 0 in one shuffled order, epoch 1 in another, and so on. A step that
reaches the end of an epoch continues in the order of the next one. Nothing is kept between steps, so a resumed run
needs only the number of the step.

A step of an even number of rows reads two halves, and the product of their gradients estimates a squared norm (the
gram's unbiased diagonal). A row in both halves would bias it by that row's noise. So the domain's rows are divided
between the halves once for the whole run, as epoch 0 deals them out, and each half goes through its own part in epochs
of its own. In epoch 0 a step reads the same rows as without halves.
"""

import hashlib
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from mixtures.stream.tokens import as_rows


# 4,096 orders are enough for epoch 0 and the epochs of two halves (a step may reach into the next one) of 800 domains.
# So the cache holds up to 24 bytes per row of the domains that the run repeats, and 8 per row of the others.
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

    If rows_per_step is even, the first half of them and the second half never share a row, in this or any other step
    (but for a domain of a single row). Raises ValueError for a domain without rows, and for a negative step or number
    of rows per step.
    """
    if rows < 1:
        raise ValueError(f"domain {domain} has {rows} rows; at least one is needed to draw from it")
    if step < 0 or rows_per_step < 0:
        raise ValueError(f"step is {step} and rows_per_step is {rows_per_step}; neither may be negative")
    halves = halves_of(rows_per_step)
    each = rows_per_step // halves
    positions = np.arange(step * each, (step + 1) * each, dtype=np.int64)
    parts = [
        part_indices(rows, positions, seed=seed, domain=domain, half=half, halves=halves, each=each)
        for half in range(halves)
    ]
    return np.concatenate(parts)


def halves_of(rows_per_step: int) -> int:
    """Return in how many halves a step's rows of a domain are read: 2 if their number is even, else 1."""
    return 2 if rows_per_step % 2 == 0 else 1


def part_indices(
    rows: int, positions: Int64[np.ndarray, " n"], *, seed: int, domain: str, half: int, halves: int, each: int
) -> Int64[np.ndarray, " n"]:
    """Return the numbers (n,) of the rows at these positions, from 0, in what one half reads during the whole run.

    A half has `each` rows of every step. With halves=1, it reads the whole domain.
    """
    if rows == 1:  # nothing to divide: both halves read the same row
        half, halves = 0, 1
    steps, rest = divmod(rows, halves * each)  # whole steps in epoch 0; the rows left over go to the halves in turn
    size = steps * each + (rest + halves - 1 - half) // halves
    epochs, places = np.divmod(positions, size)
    for epoch in np.unique(epochs[epochs > 0]).tolist():
        here = epochs == epoch
        places[here] = epoch_order(seed, f"{domain}/half {half}", epoch, size)[places[here]]
    in_whole_steps = (places // each * halves + half) * each + places % each
    left_over = steps * halves * each + (places - steps * each) * halves + half
    dealt = np.where(places < steps * each, in_whole_steps, left_over)
    return epoch_order(seed, domain, 0, rows)[dealt]


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
