"""A shuffled order that is never stored: a permutation of any size, computed number by number from a key.

A Feistel network over the smallest power of four that is not below the size, repeated until the result is inside (Black
and Rogaway, Ciphers with arbitrary finite domains, 2002). Memory does not depend on the number of rows, any place of
any epoch can be computed at once, and the result does not depend on NumPy's version. Not for secrets.
"""

import hashlib
from functools import lru_cache

import numpy as np

ROUNDS = 8  # four mix well at large sizes; sizes of a few rows need more


@lru_cache(maxsize=4096)
def epoch_key(seed: int, domain: str, epoch: int) -> tuple[int, ...]:
    """Return the key (ROUNDS numbers of 64 bits) of one epoch of a domain."""
    digest = hashlib.shake_256(f"{seed}\0{domain}\0{epoch}".encode()).digest(8 * ROUNDS)
    return tuple(np.frombuffer(digest, dtype="<u8").tolist())


def shuffled(index: np.ndarray, *, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return where the permutation of 0..sizes-1 under `keys` puts `index`, int64 (N,).

    index, sizes: int64 (N,), 0 <= index < sizes; keys: uint64 (ROUNDS, N). For one size and key no two indices get the
    same place.
    """
    limit = sizes.astype(np.uint64)
    bits = np.frexp(np.maximum(sizes - 1, 1).astype(np.float64))[1]
    half = ((bits + 1) // 2).astype(np.uint64)
    values = _feistel(index.astype(np.uint64), half, keys)
    while (outside := np.flatnonzero(values >= limit)).size:
        values[outside] = _feistel(values[outside], half[outside], keys[:, outside])
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the values (N,) after a permutation of 0..4**half - 1."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele, Lea, Flood 2014); products wrap around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
