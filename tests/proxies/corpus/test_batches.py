"""Rows of a step: without replacement inside an epoch, a pure function of (seed, domain, step)."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxies.corpus.batches import (
    epoch_order,
    epochs_used,
    evaluated_part,
    evaluated_rows,
    step_indices,
    step_rows,
)

examples = settings(derandomize=True, deadline=None, max_examples=60)
sizes = st.integers(1, 40)


def drawn(rows: int, steps: int, rows_per_step: int, seed: int = 3, domain: str = "wiki") -> list[int]:
    """All rows in the order in which the steps read them."""
    each = [step_indices(rows, seed=seed, domain=domain, step=s, rows_per_step=rows_per_step) for s in range(steps)]
    return np.concatenate(each).tolist()


odd, even = (st.integers(0, 6).map(lambda n, first=first: 2 * n + first) for first in (1, 2))


@pytest.mark.slow
@examples
@given(rows=sizes, rows_per_step=odd)
def test_no_row_repeats_before_the_epoch_ends_and_every_row_comes(rows: int, rows_per_step: int) -> None:
    order = drawn(rows, 3 * rows // rows_per_step + 1, rows_per_step)
    for start in range(0, len(order) - rows + 1, rows):
        assert sorted(order[start : start + rows]) == list(range(rows))


@examples
@given(rows=st.integers(2, 40), rows_per_step=even)
def test_the_halves_of_a_step_never_share_a_row_and_each_reads_epochs(rows: int, rows_per_step: int) -> None:
    steps = np.array(drawn(rows, 3 * rows // rows_per_step + 3, rows_per_step)).reshape(-1, 2, rows_per_step // 2)
    halves = [steps[:, half].ravel().tolist() for half in (0, 1)]
    parts = [set(half) for half in halves]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(range(rows))
    assert len(parts[0]) - len(parts[1]) in (0, 1)
    for half, part in zip(halves, parts, strict=True):
        for start in range(0, len(half) - len(part) + 1, len(part)):
            assert set(half[start : start + len(part)]) == part


@examples
@given(rows=sizes, rows_per_step=st.integers(1, 12))
def test_within_the_first_epoch_halves_change_nothing(rows: int, rows_per_step: int) -> None:
    whole = rows // rows_per_step
    first = drawn(rows, whole + 1, rows_per_step)[: whole * rows_per_step]
    assert first == epoch_order(3, "wiki", 0, rows)[: whole * rows_per_step].tolist()


@pytest.mark.slow
@examples
@given(rows=sizes, total=st.integers(1, 60), parts=st.sampled_from([1, 3, 5]))
def test_rows_do_not_depend_on_how_many_a_step_takes_without_halves(rows: int, total: int, parts: int) -> None:
    assert drawn(rows, total, parts) == drawn(rows, total * parts, 1)


def test_rows_do_not_depend_on_what_was_asked_before() -> None:
    epoch_order.cache_clear()
    late = step_indices(7, seed=1, domain="a", step=9, rows_per_step=5)
    for step in range(9):
        step_indices(7, seed=1, domain="a", step=step, rows_per_step=5)
    np.testing.assert_array_equal(step_indices(7, seed=1, domain="a", step=9, rows_per_step=5), late)


@pytest.mark.parametrize("change", [{"seed": 1}, {"domain": "b"}, {"epoch": 1}])
def test_seed_domain_and_epoch_each_change_the_order(change: dict) -> None:
    base = {"seed": 0, "domain": "a", "epoch": 0, "rows": 100}
    assert epoch_order(**base).tolist() != epoch_order(**{**base, **change}).tolist()


@pytest.mark.slow
def test_every_order_of_a_small_domain_is_as_likely() -> None:
    counts = np.zeros((4, 4))
    for epoch in range(4000):
        counts[np.arange(4), epoch_order(0, "a", epoch, 4)] += 1
    assert np.abs(counts / 4000 - 0.25).max() < 0.03  # four standard deviations


@pytest.mark.slow
def test_the_order_is_the_same_in_another_process_and_on_another_day() -> None:
    assert epoch_order(0, "wiki_en", 2, 10).tolist() == PINNED
    code = "from proxies.corpus.batches import epoch_order; print(epoch_order(0, 'wiki_en', 2, 10).tolist())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(PINNED)


PINNED = [1, 5, 7, 2, 4, 9, 8, 3, 6, 0]


def test_rows_are_cut_from_the_tokens_and_a_short_last_row_is_left_out() -> None:
    tokens = np.arange(23, dtype=np.uint16)
    rows = step_rows(tokens, seed=0, domain="a", step=0, rows_per_step=4, row_tokens=5)
    assert rows.dtype == np.int64
    assert rows.shape == (4, 5)
    assert sorted(rows.tolist()) == tokens[:20].reshape(4, 5).tolist()


def test_a_memory_map_gives_the_same_rows(tmp_path) -> None:
    tokens = np.arange(60, dtype=np.uint32)
    tokens.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", np.uint32, mode="r")
    wanted = {"seed": 4, "domain": "a", "step": 3, "rows_per_step": 7, "row_tokens": 6}
    np.testing.assert_array_equal(step_rows(mapped, **wanted), step_rows(tokens, **wanted))


def test_the_cached_order_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, "a", 0, 5)[0] = 1


def test_a_domain_without_rows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="domain tiny has 0 rows"):
        step_rows(np.arange(3), seed=0, domain="tiny", step=0, rows_per_step=1, row_tokens=4)


def test_epochs_used_counts_reads_of_each_row() -> None:
    assert epochs_used(rows=10, steps=15, rows_per_step=2) == 3.0


@given(rows=st.integers(1, 3000), wanted=st.integers(1, 400))
def test_evaluated_rows_are_evenly_spread_and_leave_the_objective_the_rest(rows: int, wanted: int) -> None:
    chosen, part = evaluated_rows(rows, wanted), evaluated_part(rows, wanted)
    assert len(chosen) == min(rows, wanted)
    assert chosen[0] == 0
    assert chosen[-1] < part <= rows
    steps = np.diff(np.append(chosen, part))
    assert (steps >= 1).all()
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
    assert part == rows // 2 or part == len(chosen)
