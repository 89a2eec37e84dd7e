"""The default rule: an anchored optimum, no departure without signal, no collapse, a bootstrap through the same
lines.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from doge.stable import (
    LEAST_PROGRESS,
    alignment_parts,
    alignments,
    anchored,
    divergence,
    reach_factor,
    replicates,
    signal_share,
    stable_weights,
    within_reach,
)

CONSTANTS = {"tau": 2.5, "reach": 0.1}
HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)


def uniform(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_anchored_maximises_scores_minus_the_distance_to_the_prior() -> None:
    scores, prior = (
        torch.tensor([1.7, -0.9, 3.4], dtype=torch.float64),
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    )

    def value(a: Tensor) -> float:
        return float(a @ scores - (a * (a / prior).log()).sum())

    found = anchored(scores, prior)
    grid = [torch.tensor([i, j, 60 - i - j]) / 60 for i in range(1, 59) for j in range(1, 60 - i)]
    best = max(grid, key=lambda a: value(a.double()))
    assert value(found) >= value(best.double())
    assert (found - best).abs().max() < 1 / 60


def test_weights_of_a_known_alignment_are_found_within_5_percent_in_noise() -> None:
    truth, prior = torch.tensor([1.5, 1.2, 1.0, 0.8, 0.5, 0.4], dtype=torch.float64), uniform(6)
    best = anchored(2 * truth / truth.abs().mean(), prior)
    assert divergence(best, prior) < 0.3 * math.log(6)  # within reach
    steps = truth + normal(20_000, 6, seed=0)  # noise as large as the alignment
    found = stable_weights(torch.stack([steps[0::2].mean(0), steps[1::2].mean(0)]), HALF, prior, tau=2.0, reach=0.3)
    assert (found / best - 1).abs().max() < 0.05


def test_without_signal_weights_stay_near_the_prior_whatever_the_noise() -> None:
    halves = normal(400, 2, 8, seed=1)  # 400 studies of pure noise
    plain = anchored(2 * halves.mean(1) / halves.mean(1).abs().mean(1, keepdim=True), uniform(8))
    found = stable_weights(halves, HALF.expand(400, 2), uniform(8), **CONSTANTS)
    away = divergence(found, uniform(8))
    assert away.median() < 0.01
    assert away.mean() < divergence(plain, uniform(8)).mean() / 4


def test_without_alignment_or_with_one_half_only_weights_are_the_prior() -> None:
    prior = torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert torch.allclose(
        stable_weights(torch.zeros(2, 2).double(), HALF, prior, **CONSTANTS), prior, rtol=0, atol=1e-15
    )
    alone = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(stable_weights(normal(2, 2, seed=0), alone, prior, **CONSTANTS), prior, rtol=0, atol=1e-15)


@pytest.mark.slow
@given(
    domains=st.integers(2, 40), exponent=st.integers(-12, 12), seed=st.integers(0, 10_000), reach=st.floats(0.01, 0.9)
)
def test_no_alignment_brings_weights_further_from_the_prior_than_reach(
    domains: int, exponent: int, seed: int, reach: float
) -> None:
    prior = torch.softmax(normal(domains, seed=seed), 0)
    one_hot = torch.zeros(domains, dtype=torch.float64)
    one_hot[seed % domains] = 10.0**exponent
    for hostile in (one_hot, -one_hot, 10.0**exponent * normal(domains, seed=seed + 1) ** 5):
        found = stable_weights(torch.stack([hostile, hostile]), HALF, prior, tau=50.0, reach=reach)
        assert float(found.sum()) == pytest.approx(1, abs=1e-12)
        assert divergence(found, prior) <= reach * math.log(domains) + 1e-9


def test_a_hostile_stream_of_alignments_does_not_bring_one_hot_weights() -> None:
    for domains in (2, 7, 11, 300):
        hostile = torch.zeros(2, domains, dtype=torch.float64)
        hostile[:, 0] = 1e6
        largest = float(stable_weights(hostile, HALF, uniform(domains), **CONSTANTS).max())
        assert largest < 0.9, (domains, largest)


def test_signal_share_is_one_without_noise_and_half_with_equal_noise() -> None:
    truth = normal(50, seed=2)
    assert float(signal_share(torch.stack([truth, truth]), uniform(50))) == pytest.approx(1)
    noise = (
        normal(2000, 2, 50, seed=3) * math.sqrt(2) * truth.std(correction=0)
    )  # of a half: twice the variance of the mean's
    assert float(signal_share(truth + noise, uniform(50)).mean()) == pytest.approx(0.5, abs=0.03)


def test_a_batch_gives_what_its_members_give() -> None:
    halves, prior = normal(5, 2, 4, seed=4) * torch.tensor([0.1, 1, 10, 100, 1000]).double()[:, None, None], uniform(4)
    together = stable_weights(halves, HALF.expand(5, 2), prior, tau=3.0, reach=0.2)
    alone = [stable_weights(each, HALF, prior, tau=3.0, reach=0.2) for each in halves]
    assert torch.allclose(together, torch.stack(alone), rtol=0, atol=1e-14)


def slow_replicate(
    parts: Tensor, lrs: Tensor, prior: Tensor, factors: list[float], *, ends: int, floor: float, keep: float
) -> Tensor:
    """One replicate, step by step: every step counts factors[step] times; the mean of the weights after every `ends`
    steps.
    """
    sums, rates = [torch.zeros(parts.shape[1:], dtype=torch.float64) for _ in range(2)], [0.0, 0.0]
    found = []
    for step in range(len(parts)):
        for half in (0, 1):
            counted = factors[step] * float(lrs[step]) * (step % 2 == half)
            sums[half] = keep * sums[half] + counted * parts[step]
            rates[half] = keep * rates[half] + counted
        if (step + 1) % ends == 0:
            shares = torch.tensor(rates, dtype=torch.float64) / sum(rates)
            halves = alignments(torch.stack([total / rate for total, rate in zip(sums, rates, strict=True)]), shares)
            found.append((1 - floor) * stable_weights(halves, shares, prior, **CONSTANTS) + floor * prior)
    return torch.stack(found).mean(0)


def parts_of(alignment: Tensor) -> Tensor:
    """For domains alone, all with the same progress."""
    return torch.stack([alignment, torch.zeros_like(alignment), torch.ones_like(alignment)], -2)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1.0, 0.8])
def test_each_replicate_counts_one_of_every_two_neighbouring_blocks_twice(keep: float) -> None:
    parts, lrs, prior = 1 + normal(12, 3, 3, seed=5), torch.linspace(0, 1e-3, 12, dtype=torch.float64), uniform(3)
    found = replicates(parts, lrs, prior, **CONSTANTS, averaging=keep, floor=0.01, count=4, blocks=4, seed=7)
    uniforms = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for replicate, row in zip(found, uniforms.tolist(), strict=True):
        factors = [2.0 * ((row[step // 6] < 0.5) == (step // 3 % 2 == 0)) for step in range(12)]
        assert torch.allclose(
            replicate, slow_replicate(parts, lrs, prior, factors, ends=3, floor=0.01, keep=keep), rtol=0, atol=1e-12
        )


@pytest.mark.slow
def test_replicates_spread_as_runs_of_other_seeds_do() -> None:
    truth, lrs, prior = (
        torch.tensor([1.4, 1.1, 0.9, 0.6], dtype=torch.float64),
        torch.ones(400, dtype=torch.float64),
        uniform(4),
    )
    drift = torch.linspace(0, 2, 400, dtype=torch.float64)[:, None] * torch.tensor(
        [0.5, 0.2, -0.2, -0.5], dtype=torch.float64
    )
    settings = {"tau": 1.0, "reach": 0.9, "averaging": 1.0, "floor": 0.01}
    runs = [truth + drift + normal(400, 4, seed=seed) for seed in range(200)]
    ends = torch.arange(3, 400, 4)  # of the blocks

    def whole(run: Tensor) -> Tensor:
        """The run itself: its average weights over the ends of the blocks."""
        sums = torch.stack(
            [torch.where(torch.arange(400)[:, None] % 2 == half, run, 0).cumsum(0) for half in (0, 1)], 1
        )
        halves = sums[ends] / ((ends + 1) / 2)[:, None, None]
        return stable_weights(halves, HALF.expand(len(ends), 2), prior, tau=1.0, reach=0.9).mean(0)

    real = torch.stack([whole(run) for run in runs]).std(0)
    spread = torch.stack(
        [replicates(parts_of(run), lrs, prior, **settings, count=100).std(0) for run in runs[:20]]
    ).mean(0)
    assert (spread / real > 0.7).all()
    assert (spread / real < 1.4).all()


def test_gain_for_a_target_is_divided_by_own_progress_not_by_noise() -> None:
    parts = torch.tensor([[0.0, 0.0, 0.0], [4.0, 2.0, 1.0], [8.0, 2.0, -1.0]], dtype=torch.float64).expand(2, 3, 3)
    found = alignments(parts, HALF)[0]
    mean = 3.0
    assert found.tolist() == pytest.approx([4 * mean / 8, 2 * mean / 2, 1 / LEAST_PROGRESS])


def test_a_domain_whose_self_product_is_not_measured_keeps_its_prior() -> None:
    prior, nothing = uniform(5), torch.zeros(5, dtype=torch.bool)
    steps = normal(2, 5, 40, seed=3) * 0.1 + normal(5, 40, seed=4) * torch.arange(1, 6)[:, None]
    grams = steps @ steps.mT
    known = alignments(alignment_parts(grams, torch.ones(5).double(), nothing, 5), HALF)
    grams.diagonal(dim1=-2, dim2=-1)[:, 2] = torch.nan
    found = alignments(alignment_parts(grams, torch.ones(5).double(), nothing, 5), HALF)
    assert found[:, 2].isnan().all()
    others = torch.tensor([0, 1, 3, 4])
    assert torch.allclose(found[:, others], known[:, others])
    weights = stable_weights(found, HALF, prior, tau=2.5, reach=1.0)
    assert weights[2] == 0.2
    assert weights.sum() == pytest.approx(1)
    alone = stable_weights(found[:, others], HALF, uniform(4), tau=2.5, reach=1.0)
    assert torch.allclose(weights[others], 0.8 * alone)


def test_a_target_is_learned_for_without_the_self_products_that_are_missing() -> None:
    steps = normal(2, 4, 40, seed=5)
    grams = steps @ steps.mT
    importance, targets = torch.tensor([0.0, 0, 0, 1]).double(), torch.tensor([False, False, False, True])
    grams.diagonal(dim1=-2, dim2=-1)[:, 3] = torch.nan  # the target's own is not needed
    assert alignments(alignment_parts(grams, importance, targets, 3), HALF).isfinite().all()
    grams.diagonal(dim1=-2, dim2=-1)[:, 1] = torch.nan
    found = alignments(alignment_parts(grams, importance, targets, 3), HALF)
    assert found.isnan().tolist() == [[False, True, False]] * 2


def test_the_reach_factor_is_1_inside_and_lands_on_the_bound_outside() -> None:
    scores, most = normal(50, 6, seed=6) * torch.linspace(0, 5, 50)[:, None], 0.18
    factors = reach_factor(scores, uniform(6), most)
    away = divergence(within_reach(scores, uniform(6), most), uniform(6))
    inside = divergence(anchored(scores, uniform(6)), uniform(6)) <= most
    assert inside.any()
    assert (factors[inside] == 1).all()
    assert (factors[~inside] < 1).all()
    assert torch.allclose(away[~inside], torch.tensor(most).double(), atol=1e-9)
