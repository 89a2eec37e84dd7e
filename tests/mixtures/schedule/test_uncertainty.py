from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixtures.schedule.uncertainty import (
    POOLED,
    REPLICATED,
    SEEDS,
    SEEDS_FREEDOM,
    SEEDS_TARGETS,
    Estimate,
    estimate,
    log_odds,
    needed_signal,
    shrink_factor,
    shrunk,
)

STUDIES, STEPS, BLOCK, DRAWS = 250, 200, 20, 100
DOMAINS = 7
UNIFORM = np.full(DOMAINS, 1 / DOMAINS)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def simulate(
    rng: np.random.Generator, count: tuple[int, ...], *, goal: np.ndarray, between: float, shared: float
) -> np.ndarray:
    """(*count, STEPS, D) weights over steps: AR(1) noise around `goal`, 2.7 times larger in the last domain than in the
    first.

    between: a shift of every run, as another seed makes it; shared: how much of the steps' noise moves half of the
    domains together.
    """
    size = 0.5 * np.exp(np.linspace(-0.5, 0.5, len(goal)))
    fresh = rng.normal(size=(*count, STEPS, len(goal)))
    fresh += shared * rng.normal(size=(*count, STEPS, 1)) * (np.arange(len(goal)) % 2)
    noise = np.empty_like(fresh)
    noise[..., 0, :] = fresh[..., 0, :]
    for step in range(1, STEPS):
        noise[..., step, :] = 0.8 * noise[..., step - 1, :] + 0.6 * fresh[..., step, :]
    shift = between * rng.normal(size=(*count, 1, len(goal)))
    return softmax(goal + size * (noise + shift))


def log_ratio(shares: np.ndarray) -> np.ndarray:
    """To uniform weights, mean 0."""
    return np.log(shares) - np.log(shares).mean()


def redraw(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """(..., DRAWS, D) averages of `weights` (..., STEPS, D) over blocks of neighbouring steps drawn again, the steps in
    a circle.
    """
    around = np.concatenate([weights, weights[..., :BLOCK, :]], axis=-2).cumsum(axis=-2)
    blocks = (around[..., BLOCK:, :] - around[..., :-BLOCK, :]) / BLOCK
    return blocks[..., rng.integers(0, STEPS, size=(DRAWS, STEPS // BLOCK)), :].mean(axis=-2)


def studies(
    runs: int, *, goal: np.ndarray, replicates: bool, between: float = 0.0, shared: float = 0.0
) -> tuple[list[Estimate], np.ndarray]:
    """(estimates of STUDIES studies of so many runs, the weights that runs have in the mean: about softmax(goal))."""
    rng = np.random.default_rng(runs)
    lifted = simulate(rng, (1000,), goal=np.zeros(len(goal)), between=between, shared=shared).mean(
        axis=(0, 1)
    )  # noise lifts the mean of e^noise
    goal = goal - log_ratio(lifted)
    truth = simulate(rng, (1000,), goal=goal, between=between, shared=shared).mean(axis=(0, 1))
    weights = simulate(rng, (STUDIES, runs), goal=goal, between=between, shared=shared)
    drawn = redraw(rng, weights) if replicates else np.empty((STUDIES, 0))
    made = [
        estimate(each, prior=np.full(len(goal), 1 / len(goal)), replicates=list(again))
        for each, again in zip(weights.mean(axis=-2), drawn, strict=True)
    ]
    return [each for each in made if each is not None], truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "replicates", "settings"),
    [
        (2, False, {"between": 0.3}),
        (2, True, {"between": 0.3}),
        (3, True, {}),
        (3, False, {}),
        (3, True, {"between": 0.5}),
        (3, False, {"between": 0.5, "shared": 0.7}),
        (5, True, {"between": 0.3}),
        (5, False, {"between": 0.3}),
    ],
)
def test_nineteen_of_twenty_intervals_hold_the_true_weight(
    runs: int, replicates: bool, settings: dict[str, Any]
) -> None:
    found, truth = studies(runs, goal=np.linspace(-0.7, 0.7, DOMAINS)[::-1], replicates=replicates, **settings)
    holds = np.array([(each.low <= truth) & (truth <= each.high) for each in found])
    assert len(holds) == STUDIES
    assert 0.9 <= holds.mean() <= 0.99, holds.mean(axis=0)
    assert holds.mean(axis=0).min() >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "replicates", "settings"), [(1, True, {}), (3, False, {"between": 0.3}), (3, True, {"between": 0.3})]
)
def test_where_the_prior_is_the_truth_the_weights_are_the_prior(
    runs: int, replicates: bool, settings: dict[str, Any]
) -> None:
    found, _ = studies(runs, goal=np.zeros(DOMAINS), replicates=replicates, **settings)
    assert np.mean([each.factor == 0 for each in found]) > 0.88
    held = next(each for each in found if each.factor == 0)
    assert (shrunk(held.mean, prior=UNIFORM, factor=held.factor) == UNIFORM).all()


def null_studies(domains: int, runs: int, *, level: float | None, count: int, targets: bool = False) -> np.ndarray:
    """(count, 3): does a study leave the prior, which is the truth; the share of intervals that hold the prior, and
    that of those that hold the weights of one more seed.

    level: variance over seeds in variances of the replicates; None: there are no replicates.
    """
    rng, prior, found = np.random.default_rng(0), np.full(domains, 1 / domains), []
    for _ in range(count):
        *odds, other = 0.1 * np.sqrt(level or 1) * rng.normal(size=(runs + 1, domains))
        drawn = [softmax(each + 0.1 * rng.normal(size=(200, domains))) for each in odds] if level else []
        made = estimate(softmax(np.array(odds)), prior=prior, replicates=drawn, targets=targets)
        assert made is not None
        holds = [((made.low <= weights) & (weights <= made.high)).mean() for weights in (prior, softmax(other))]
        found.append((made.factor > 0, *holds))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("domains", [2, 3, 7, 30, 300])
@pytest.mark.parametrize("runs", [2, 3, 5])
def test_few_or_many_domains_leave_the_prior_in_one_null_study_of_twenty(domains: int, runs: int) -> None:
    left, holds, _ = null_studies(domains, runs, level=None, count=300).mean(axis=0)
    assert 0.01 <= left <= 0.09
    assert 0.92 <= holds <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("domains", [2, 7, 30])
@pytest.mark.parametrize(("targets", "level"), [(False, SEEDS), (True, SEEDS_TARGETS), (True, 1.0)])
def test_one_runs_interval_holds_the_weights_of_another_seed(domains: int, targets: bool, level: float) -> None:
    left, _, holds = null_studies(domains, 1, level=level, count=300, targets=targets).mean(axis=0)
    assert left <= 0.09
    assert holds >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "most"), [(0.05, 0.3), (0.3, 1.35), (1.2, 1.01)])
def test_shrinkage_helps_much_at_low_signal_and_costs_little_elsewhere(spread: float, most: float) -> None:
    """The price of staying at the prior without support is paid in between: a quarter more squared error of the
    log-ratios.
    """
    found, truth = studies(3, goal=spread * np.linspace(-1, 1, DOMAINS), replicates=True, between=0.3)
    error = np.array(
        [[(log_ratio(w) - log_ratio(truth)) ** 2 for w in (each.mean, shrink_to_uniform(each))] for each in found]
    )
    plain, after = error.mean(axis=(0, 2))
    assert after < most * plain


def shrink_to_uniform(found: Estimate) -> np.ndarray:
    return shrunk(found.mean, prior=UNIFORM, factor=found.factor)


def test_variances_are_those_of_a_loop_over_domains() -> None:
    """The slow twin, seeds alone and seeds with replicates."""
    rng = np.random.default_rng(0)
    shares, drawn = rng.dirichlet(np.full(5, 20.0), size=3), rng.dirichlet(np.full(5, 50.0), size=(3, 40))
    spread = [np.var([np.log(run[j] / (1 - run[j])) for run in shares], ddof=1) for j in range(5)]
    alone = [(POOLED * np.mean(spread) + 2 * one) / (POOLED + 2) for one in spread]
    check(estimate(shares, prior=np.full(5, 0.2)), shares, alone, POOLED + 2, replicated=False)
    within = [
        np.mean([np.var([np.log(row[j] / (1 - row[j])) for row in run], ddof=1) for run in drawn]) for j in range(5)
    ]
    for targets, seeds in ((False, SEEDS), (True, SEEDS_TARGETS)):
        ratio = np.mean([one / (seeds * shape) for one, shape in zip(spread, within, strict=True)])
        level = (SEEDS_FREEDOM + 8 * ratio) / (SEEDS_FREEDOM + 8)
        both = [
            (REPLICATED * level * seeds * shape + 2 * one) / (REPLICATED + 2)
            for one, shape in zip(spread, within, strict=True)
        ]
        found = estimate(shares, prior=np.full(5, 0.2), replicates=list(drawn), targets=targets)
        check(found, shares, both, REPLICATED + 2, replicated=True)


def check(found: Estimate | None, shares: np.ndarray, variance: list[float], freedom: int, *, replicated: bool) -> None:
    assert found is not None
    for j in range(5):
        mean = np.mean([run[j] for run in shares])
        reach = stats.t.ppf(0.975, freedom) * np.sqrt(variance[j] / 3)
        centre = np.log(mean / (1 - mean))
        np.testing.assert_allclose(
            [found.low[j], found.high[j]], [1 / (1 + np.exp(-centre + sign * reach)) for sign in (1, -1)]
        )
    departures = [(log_odds(shares.mean(axis=0))[j] - np.log(0.2 / 0.8)) ** 2 / (variance[j] / 3) for j in range(5)]
    np.testing.assert_allclose(found.signal, sum(departures) / 5)
    assert found.needed == needed_signal(3, 5, replicated=replicated)


def test_the_needed_signal_falls_with_domains_and_is_chi_squared_where_the_variance_is_known() -> None:
    for domains in (3, 7, 30):
        known = stats.chi2.ppf(0.95, domains - 1) / (domains - 1)
        assert needed_signal(1, domains, replicated=True) == pytest.approx(known, rel=0.06)
    needed = [needed_signal(3, domains, replicated=False) for domains in (2, 3, 7, 30, 300)]
    assert needed == sorted(needed, reverse=True)
    assert needed[3] < 2


@st.composite
def share_tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    runs, count = draw(st.integers(1, 5)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sharpness = draw(st.sampled_from([0.02, 0.3, 5.0]))  # the first has shares of zero
    shares = rng.dirichlet(np.full(count, sharpness), size=runs)
    return (
        shares,
        rng.dirichlet(np.full(count, 3.0)),
        list(rng.dirichlet(np.full(count, sharpness), size=(draw(st.integers(0, 2)), 20))),
    )


@pytest.mark.slow
@given(table=share_tables(), factor=st.floats(0, 1))
def test_intervals_hold_means_and_shrinkage_ends_between_mean_and_prior(
    table: tuple[np.ndarray, np.ndarray, list[np.ndarray]], factor: float
) -> None:
    shares, prior, replicates = table
    found = estimate(shares, prior=prior, replicates=replicates)
    if len(shares) == 1 and not replicates:
        assert found is None
    mean = shares.mean(axis=0) / shares.mean(axis=0).sum()
    weights = shrunk(mean, prior=prior, factor=factor)
    assert abs(weights.sum() - 1) < 1e-12
    assert (weights >= 0).all()
    positive = (mean > 1e-200) & (weights > 0)
    ratios, ends = np.log(weights[positive] / prior[positive]), np.log(mean[positive] / prior[positive])
    np.testing.assert_allclose(ratios - ratios[0], factor * (ends - ends[0]), rtol=1e-6, atol=1e-6)
    if found is not None:
        assert (found.low >= 0).all()
        assert (found.low <= found.mean).all()
        assert (found.mean <= found.high).all()
        assert (found.high <= 1).all()
        assert np.isfinite([found.signal, found.needed]).all()
        assert 0 <= found.factor < 1


@pytest.mark.slow
@given(table=share_tables())
def test_the_order_of_runs_and_domains_does_not_matter(table: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> None:
    shares, prior, replicates = table
    one = estimate(shares, prior=prior, replicates=replicates)
    other = estimate(shares[::-1, ::-1], prior=prior[::-1], replicates=[each[:, ::-1] for each in replicates[::-1]])
    if one is not None:
        assert other is not None
        np.testing.assert_allclose(other.low[::-1], one.low, rtol=1e-9)
        np.testing.assert_allclose(other.signal, one.signal, rtol=1e-9)


def test_nothing_is_said_where_nothing_tells_how_weights_vary() -> None:
    shares = np.array([[0.2, 0.8]])
    assert estimate(shares, prior=np.array([0.5, 0.5])) is None
    assert estimate(np.repeat(shares, 3, axis=0), prior=np.array([0.5, 0.5])) is None, "a rule that does not learn"
    assert estimate(np.ones((3, 1)), prior=np.ones(1)) is None, "one domain"
    assert estimate(shares, prior=np.array([0.5, 0.5]), replicates=[np.repeat(shares, 9, axis=0)]) is None


def test_shrink_factor_is_0_below_needed_signal_and_1_minus_noise_above() -> None:
    assert [shrink_factor(signal, 2.0) for signal in (0.0, 1.5, 2.0, 4.0, 100.0)] == [0, 0, 0.5, 0.75, 0.99]
    assert shrink_factor(0.5, 0.1) == 0


@pytest.mark.slow
def test_more_runs_give_narrower_intervals() -> None:
    goal = np.linspace(-0.7, 0.7, DOMAINS)
    width = [
        np.mean([each.high - each.low for each in studies(runs, goal=goal, replicates=False, between=0.3)[0]])
        for runs in (2, 3, 5)
    ]
    assert width[0] > 1.15 * width[1] > 1.15**2 * width[2]
