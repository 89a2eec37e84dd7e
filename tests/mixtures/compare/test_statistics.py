"""Intervals against slow twins, scipy's tests, a bootstrap, and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixtures.compare.statistics import (
    Difference,
    distinct_mixtures,
    mean_losses,
    paired_difference,
    residual_variance,
)


def draw(
    rng: np.random.Generator,
    *,
    mixtures: int = 4,
    seeds: int = 3,
    rows: tuple[int, ...] = (12, 20, 9),
    run: float = 0.01,
    row: float = 0.03,
    rest: float = 0.01,
    effect: float = 0.02,
    noisier: float = 1.0,
) -> list[np.ndarray]:
    """Tables (M, S, n): common seed and row effects, and noise of runs, of mixtures x rows, of all three; mixture m is
    m * effect worse, and mixture 1 varies `noisier` times as much between runs.
    """
    common, own = rng.normal(0, 0.05, seeds), rng.normal(0, run, (mixtures, seeds))
    own[1] *= noisier
    levels = effect * np.arange(mixtures)[:, None] + common + own
    return [
        levels[:, :, None]
        + rng.normal(0, 0.3, count)
        + rng.normal(0, row, (mixtures, 1, count))
        + rng.normal(0, rest, (mixtures, seeds, count))
        for count in rows
    ]


def slow_difference(losses: list[np.ndarray], weights: list[float], mixture: int) -> Difference:
    """Full tables, baseline 0, every sum written out."""
    count, seeds = losses[0].shape[:2]
    mean = [
        [
            sum(
                w * sum(t[m, s, r] for r in range(t.shape[2])) / t.shape[2]
                for t, w in zip(losses, weights, strict=True)
            )
            for s in range(seeds)
        ]
        for m in range(count)
    ]
    value = sum(mean[mixture][s] - mean[0][s] for s in range(seeds)) / seeds
    grand = sum(mean[m][s] for m in range(count) for s in range(seeds)) / (count * seeds)
    by_mixture = [sum(mean[m]) / seeds for m in range(count)]
    by_seed = [sum(mean[m][s] for m in range(count)) / count for s in range(seeds)]
    squares = sum((mean[m][s] - by_mixture[m] - by_seed[s] + grand) ** 2 for m in range(count) for s in range(seeds))
    degrees = (count - 1) * (seeds - 1)
    differences = [mean[mixture][s] - mean[0][s] for s in range(seeds)]
    own = sum((one - value) ** 2 for one in differences) / (seeds - 1) if seeds > 1 else 0
    seed_variance = max(2 * squares / degrees, own) / seeds if degrees else 0.0
    variances = []
    for table, weight in zip(losses, weights, strict=True):
        number = table.shape[2]
        gaps = [sum(table[mixture, s, r] - table[0, s, r] for s in range(seeds)) / seeds for r in range(number)]
        center = sum(gaps) / number
        variances.append((weight**2 * sum((gap - center) ** 2 for gap in gaps) / (number - 1) / number, number - 1))
    rows = sum(variance for variance, _ in variances)
    freedom = rows**2 / sum(variance**2 / degree for variance, degree in variances)
    square = stats.t.ppf(0.975, freedom) ** 2 * rows
    if degrees:
        degrees = min(degrees, 2 * (seeds - 1))
        square += stats.t.ppf(0.975, degrees) ** 2 * seed_variance
    half = math.sqrt(square)
    return Difference(value, value - half, value + half, seed_variance, rows, degrees or freedom, bool(degrees))


@pytest.mark.slow
@given(
    number=st.integers(0, 10_000),
    mixtures=st.integers(2, 5),
    seeds=st.integers(1, 4),
    rows=st.lists(st.integers(2, 6), min_size=1, max_size=3),
)
def test_difference_is_that_of_the_sums_written_out(number: int, mixtures: int, seeds: int, rows: list[int]) -> None:
    rng = np.random.default_rng(number)
    losses = draw(rng, mixtures=mixtures, seeds=seeds, rows=tuple(rows))
    weights = rng.dirichlet(np.ones(len(rows))).tolist()
    found = paired_difference(losses, weights, mixture=mixtures - 1, reference=0, pool=range(mixtures))
    expected = slow_difference(losses, weights, mixtures - 1)
    np.testing.assert_allclose(list(vars(found).values()), list(vars(expected).values()), rtol=1e-7, atol=1e-12)


def test_two_mixtures_without_row_noise_give_the_paired_t_test() -> None:
    levels = np.random.default_rng(0).normal(size=(2, 5))
    found = paired_difference([np.repeat(levels[:, :, None], 4, axis=2)], [1.0], mixture=1, reference=0, pool=[0, 1])
    expected = stats.ttest_rel(levels[1], levels[0]).confidence_interval(0.95)
    assert found is not None
    np.testing.assert_allclose([found.low, found.high, found.degrees], [expected.low, expected.high, 4])


def test_one_seed_and_one_domain_give_the_paired_t_test_over_rows() -> None:
    table = np.random.default_rng(0).normal(size=(3, 1, 30))
    found = paired_difference([table], [1.0], mixture=2, reference=0, pool=[0, 1, 2])
    expected = stats.ttest_rel(table[2, 0], table[0, 0]).confidence_interval(0.95)
    assert found is not None
    np.testing.assert_allclose([found.low, found.high, found.degrees], [expected.low, expected.high, 29])
    assert found.seed_variance == 0
    assert [found.over_seeds, found.better, found.worse] == [False] * 3


@pytest.mark.slow
def test_a_bootstrap_over_seeds_and_rows_finds_the_same_error() -> None:
    rng = np.random.default_rng(5)
    losses = draw(rng, mixtures=2, seeds=30, rows=(60, 40), run=0.01, row=0.05, rest=0.0)
    weights = [0.6, 0.4]
    found = paired_difference(losses, weights, mixture=1, reference=0, pool=[0, 1])
    assert found is not None
    values = []
    for _ in range(2000):
        seeds = rng.integers(30, size=30)
        values.append(
            sum(
                w
                * (t[1, seeds].mean(axis=0) - t[0, seeds].mean(axis=0))[
                    rng.integers(t.shape[2], size=t.shape[2])
                ].mean()
                for t, w in zip(losses, weights, strict=True)
            )
        )
    assert np.std(values) == pytest.approx(math.sqrt(found.seed_variance + found.row_variance), rel=0.1)
    low, high = np.quantile(values, [0.025, 0.975])
    np.testing.assert_allclose([low, high], [found.low, found.high], atol=0.2 * (found.high - found.low) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixtures", "seeds", "noise"),
    [
        (4, 2, {}),
        (7, 2, {}),
        (4, 3, {"row": 0.0, "rest": 0.0}),  # seeds alone
        (4, 2, {"run": 0.0}),  # rows alone
        (4, 1, {"run": 0.0}),
        (4, 2, {"noisier": 3.0}),
        (7, 2, {"noisier": 3.0}),
        (7, 3, {"noisier": 3.0}),
        (2, 2, {}),
    ],
)
def test_intervals_hold_the_true_difference_as_often_as_they_say(
    mixtures: int, seeds: int, noise: dict[str, float]
) -> None:
    rng, weights, hits = np.random.default_rng(1), [0.5, 0.3, 0.2], 0
    for _ in range(400):
        losses = draw(rng, mixtures=mixtures, seeds=seeds, **noise)
        found = paired_difference(losses, weights, mixture=1, reference=0, pool=range(mixtures))
        assert found is not None
        hits += found.low <= 0.02 <= found.high
    assert hits / 400 >= 0.925  # a standard error is 0.011; what rows and runs share counts twice, to the safe side


@pytest.mark.slow
@pytest.mark.parametrize("part", ["seed_variance", "row_variance"])
def test_neither_part_of_the_variance_can_be_left_out(part: str) -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(400):
        losses = draw(rng, mixtures=4, seeds=3, run=0.01, row=0.04)
        found = paired_difference(losses, [0.5, 0.3, 0.2], mixture=1, reference=0, pool=range(4))
        assert found is not None
        quantile = stats.t.ppf(0.975, found.degrees) if part == "seed_variance" else 1.96
        hits += abs(found.value - 0.02) <= quantile * math.sqrt(getattr(found, part))
    assert hits / 400 < 0.9


def test_pooling_over_mixtures_makes_two_seeds_worth_something() -> None:
    rng = np.random.default_rng(3)
    pooled, alone = [], []
    for _ in range(100):
        losses = draw(rng, mixtures=7, seeds=2)
        for widths, pool in ((pooled, range(7)), (alone, [0, 1])):
            found = paired_difference(losses, [0.5, 0.3, 0.2], mixture=1, reference=0, pool=pool)
            assert found is not None
            widths.append(found.high - found.low)
    assert np.mean(pooled) < 0.7 * np.mean(alone)


def test_a_missing_seed_leaves_the_pairs_and_keeps_the_other_cells() -> None:
    losses = draw(np.random.default_rng(0), mixtures=3, seeds=3)
    for table in losses:
        table[2, 1:] = np.nan
    weights = [0.5, 0.3, 0.2]
    found = paired_difference(losses, weights, mixture=2, reference=0, pool=[0, 1, 2])
    table = mean_losses(losses, weights)
    residual, degrees = residual_variance(table)
    assert found is not None
    assert found.value == pytest.approx(table[2, 0] - table[0, 0])
    assert (residual, degrees) == (
        pytest.approx(residual_variance(table[:2])[0]),
        2,
    )  # one cell says nothing about noise
    assert found.seed_variance == pytest.approx(2 * residual)


def test_residual_of_missing_cells_is_that_of_a_fit_by_hand() -> None:
    table = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, np.nan], [0.0, 3.0, 3.0]])
    cells = [(m, s) for m in range(3) for s in range(3) if np.isfinite(table[m, s])]
    mixtures, seeds = np.zeros(3), np.zeros(3)
    for _ in range(500):  # Gauss and Seidel: each effect the mean of what the others leave
        for m in range(3):
            mixtures[m] = np.mean([table[c] - seeds[c[1]] for c in cells if c[0] == m])
        for s in range(3):
            seeds[s] = np.mean([table[c] - mixtures[c[0]] for c in cells if c[1] == s])
    squares = sum((table[m, s] - mixtures[m] - seeds[s]) ** 2 for m, s in cells)
    assert residual_variance(table) == (pytest.approx(squares / 3), 3)


def test_no_common_seed_gives_no_difference() -> None:
    losses = draw(np.random.default_rng(0), mixtures=2, seeds=2)
    for table in losses:
        table[0, 0] = table[1, 1] = np.nan
    assert paired_difference(losses, [0.5, 0.3, 0.2], mixture=1, reference=0, pool=[0, 1]) is None


def test_a_copy_of_the_baseline_differs_by_zero_and_narrows_no_interval() -> None:
    losses = draw(np.random.default_rng(0), mixtures=3, seeds=2)
    copied = [np.concatenate([table, table[:1], table[1:2]]) for table in losses]
    pool = distinct_mixtures(copied, among=range(5))
    assert pool == [0, 1, 2]
    weights = [0.5, 0.3, 0.2]
    copy = paired_difference(copied, weights, mixture=3, reference=0, pool=pool)
    assert copy is not None
    assert (copy.value, copy.low, copy.high) == (0, 0, 0)
    assert copy.identical
    assert not copy.better
    assert not copy.worse
    with_copies = paired_difference(copied, weights, mixture=1, reference=0, pool=pool)
    assert with_copies == paired_difference(losses, weights, mixture=1, reference=0, pool=range(3))


def test_a_single_row_gives_a_difference_without_an_interval() -> None:
    losses = draw(np.random.default_rng(0), mixtures=2, seeds=2, rows=(8, 1))
    found = paired_difference(losses, [0.5, 0.5], mixture=1, reference=0, pool=[0, 1])
    assert found is not None
    assert math.isfinite(found.value)
    assert not found.known
    assert not any([found.better, found.worse, found.identical])
    without = paired_difference(losses, [1.0, 0.0], mixture=1, reference=0, pool=[0, 1])
    assert without is not None
    assert without.known
