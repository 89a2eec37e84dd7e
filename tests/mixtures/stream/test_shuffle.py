"""Orders that are computed, not stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.stream.shuffle import ROUNDS, epoch_key, shuffled

WORD = 2**64 - 1


def order(size: int, *, seed: int = 0, domain: str = "wiki", epoch: int = 0) -> np.ndarray:
    keys = np.array(epoch_key(seed, domain, epoch), dtype=np.uint64)
    return shuffled(np.arange(size), sizes=np.full(size, size), keys=np.repeat(keys[:, None], size, axis=1))


def slow_shuffled(index: int, size: int, key: tuple[int, ...]) -> int:
    """One number at a time, in Python's integers."""
    half = (max(size - 1, 1).bit_length() + 1) // 2
    while True:
        left, right = index >> half, index & (2**half - 1)
        for word in key:
            mixed = (right + word) & WORD
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & (2**half - 1))
        index = (left << half) | right
        if index < size:
            return index


@pytest.mark.slow
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_every_number_comes_exactly_once(size: int, seed: int) -> None:
    assert sorted(order(size, seed=seed).tolist()) == list(range(size))


def test_the_order_is_the_one_written_out_slowly() -> None:
    for size in (1, 2, 3, 5, 64, 65, 1000):
        key = epoch_key(7, "code", 2)
        assert order(size, seed=7, domain="code", epoch=2).tolist() == [
            slow_shuffled(i, size, key) for i in range(size)
        ]


def test_domains_of_different_sizes_and_epochs_are_shuffled_in_one_call() -> None:
    sizes, keys = (
        np.array([5, 1000, 5, 2**33]),
        [epoch_key(0, "a", 0), epoch_key(0, "b", 3), epoch_key(0, "a", 1), epoch_key(0, "c", 0)],
    )
    together = shuffled(np.array([4, 999, 4, 2**33 - 1]), sizes=sizes, keys=np.array(keys, dtype=np.uint64).T)
    alone = [slow_shuffled(int(size) - 1, int(size), key) for size, key in zip(sizes, keys, strict=True)]
    assert together.tolist() == alone


def test_seed_domain_and_epoch_each_change_the_order() -> None:
    orders = [order(500), order(500, seed=1), order(500, domain="code"), order(500, epoch=1)]
    for n, one in enumerate(orders):
        for other in orders[n + 1 :]:
            assert (one == other).mean() < 0.05


def test_the_order_does_not_change_between_versions() -> None:
    assert len(epoch_key(0, "wiki", 0)) == ROUNDS
    assert order(10).tolist() == [3, 9, 8, 1, 4, 5, 7, 6, 0, 2]


@pytest.mark.slow
def test_orders_look_random() -> None:
    """Over 4,000 keys every number of 0..6 comes first about equally often, and neighbours do not stay neighbours."""
    firsts = np.bincount([order(7, seed=seed)[0] for seed in range(4000)], minlength=7)
    assert (np.abs(firsts - 4000 / 7) < 5 * np.sqrt(4000 / 7)).all()
    places = order(20_000)
    assert abs(np.corrcoef(np.arange(20_000), places)[0, 1]) < 0.03
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.03
