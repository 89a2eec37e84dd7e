"""Weights inside a domain: they keep the domain's tokens, and each formula is its slow restatement."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from doge.presence import presence_temperature
from mixtures.errors import UserError
from mixtures.samples.weights import keep_mask, linear_upper, ranks, shuffled, softmax_weights, zscore
from mixtures.schedule.manifest import effective_sample_size, multiplicities

SIZE = st.shared(st.integers(1, 60), key="documents")
SCORES = SIZE.flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6, allow_subnormal=False)))
TOKENS = SIZE.flatmap(lambda n: arrays(np.int64, n, elements=st.integers(1, 10**9)))


def mean(weights: np.ndarray, tokens: np.ndarray) -> float:
    """Token-weighted, without rounding on the way."""
    return math.fsum(float(w) * int(n) for w, n in zip(weights, tokens, strict=True)) / int(tokens.sum())


def softmax_slowly(scores: np.ndarray, tokens: np.ndarray, *, signed: float, cap: float) -> list[float]:
    """One document after the other; the level of the cap by bisection."""
    average = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((s - average) ** 2 for s in scores) / len(scores))
    raw = [math.exp(signed * (s - average) / deviation) for s in scores]
    low, high = 0.0, 1e12
    for _ in range(200):
        level = (low + high) / 2
        held = math.fsum(n * min(cap, level * w) for n, w in zip(tokens, raw, strict=True))
        low, high = (level, high) if held < tokens.sum() else (low, level)
    return [min(cap, low * w) for w in raw]


@pytest.mark.slow
@given(SCORES, TOKENS, st.floats(0.01, 100), st.sampled_from(["direct", "inverse"]), st.none() | st.floats(1, 50))
def test_softmax_weights_keep_the_domains_tokens(
    scores: np.ndarray, tokens: np.ndarray, temperature: float, direction: Any, cap: float | None
) -> None:
    weights = softmax_weights(scores, tokens, temperature=temperature, direction=direction, cap=cap)
    assert abs(mean(weights, tokens) - 1) < 1e-12
    assert (weights >= 0).all()
    assert weights.max() <= (math.inf if cap is None else cap * (1 + 1e-9))
    order = np.argsort(scores if direction == "direct" else -scores, kind="stable")
    assert (np.diff(weights[order]) >= -1e-9 * weights.max()).all()


@pytest.mark.slow
@pytest.mark.parametrize("cap", [1.0, 1.2, 2.0, 5.0, math.inf])
@pytest.mark.parametrize("signed", [-1.0, 0.5, 3.0])
def test_softmax_weights_are_the_slow_ones(signed: float, cap: float) -> None:
    rng = np.random.default_rng(7)
    scores, tokens = rng.normal(3, 2, size=40), rng.integers(2, 5000, size=40)
    direction: Any = "direct" if signed > 0 else "inverse"
    weights = softmax_weights(scores, tokens, temperature=abs(signed), direction=direction, cap=cap)
    np.testing.assert_allclose(weights, softmax_slowly(scores, tokens, signed=signed, cap=cap), rtol=1e-9)


def test_a_cap_is_kept_where_all_other_weights_underflow() -> None:
    weights = softmax_weights(np.array([0.0, 1, 2, 1000]), np.full(4, 10), temperature=1e6, direction="direct", cap=1.5)
    np.testing.assert_allclose(weights, [0, 1, 1.5, 1.5], atol=1e-9)


@pytest.mark.parametrize("scores", [[0.1] * 7, [3.0], [0.0] * 3, [1e300] * 2, [0.1 + 0.2, 0.3]])
def test_where_scores_say_nothing_every_weight_is_exactly_one(scores: list[float]) -> None:
    values, tokens = np.array(scores), np.arange(3, 3 + len(scores))
    assert (softmax_weights(values, tokens, temperature=5, direction="inverse", cap=2) == 1).all()
    assert keep_mask(values[:1], tokens[:1], drop_top=0.9).all()
    if values.min() == values.max():
        assert (linear_upper(values, tokens) == 1).all()
        assert keep_mask(values, tokens, drop_top=0.5, drop_bottom=0.4).all()
        assert (zscore(values) == 0).all()


@pytest.mark.slow
@given(SCORES.filter(lambda scores: np.ptp(scores) > 1e-3))
def test_zscores_have_mean_zero_and_variance_one_whatever_the_scale(scores: np.ndarray) -> None:
    z = zscore(scores)
    assert abs(z.mean()) < 1e-6
    assert abs(z.var() - 1) < 1e-9
    np.testing.assert_allclose(zscore(scores * 1e200), z, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(zscore(scores * 1e-200), z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"temperature": 0}, r"temperature 0 makes every weight 1: leave the sample weights out"),
        ({"temperature": -1}, r"temperature -1: give a positive number .* and its sign as direction"),
        ({"temperature": math.nan}, r"temperature nan: give a positive number"),
        ({"cap": 0.9}, r"cap 0.9: weights have mean 1 .* give 1 or more, or no cap"),
        ({"cap": math.nan}, r"cap nan"),
    ],
)
def test_a_temperature_or_cap_that_cannot_be_is_refused(settings: dict[str, float], found: str) -> None:
    with pytest.raises(UserError, match=found):
        softmax_weights(np.arange(3.0), np.ones(3), **{"temperature": 1, "direction": "direct", **settings})  # type: ignore[arg-type]


@pytest.mark.slow
@given(SCORES, TOKENS, st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_filter_drops_as_many_documents_as_its_share_of_tokens_holds(
    scores: np.ndarray, tokens: np.ndarray, top: float, bottom: float
) -> None:
    keep = keep_mask(scores, tokens, drop_top=top, drop_bottom=bottom)
    assert keep.any()
    if scores.min() == scores.max():
        assert keep.all()
        return
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    dropped: set[int] = set()
    for side, share in ((order, bottom), (order[::-1], top)):
        gone = 0
        for document in side:
            gone += int(tokens[document])
            if gone > share * int(tokens.sum()) * (1 + 1e-12):
                break
            dropped.add(document)
    assert set(np.flatnonzero(~keep).tolist()) == dropped


def test_drop_shares_are_by_tokens_and_not_by_documents() -> None:
    scores, tokens = np.array([1.0, 2, 3, 4, 5]), np.array([100, 100, 100, 100, 600])
    assert keep_mask(scores, tokens, drop_top=0.5).all()
    assert keep_mask(scores, tokens, drop_top=0.6).tolist() == [True, True, True, True, False]
    assert keep_mask(scores, tokens, drop_bottom=0.2, drop_top=0.6).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize(("top", "bottom"), [(0.6, 0.4), (1, 0), (-0.1, 0), (0, math.nan)])
def test_shares_that_leave_nothing_are_refused(top: float, bottom: float) -> None:
    with pytest.raises(UserError, match=r"are shares of a domain's tokens; give 0 or more, together less than 1"):
        keep_mask(np.arange(4.0), np.ones(4), drop_top=top, drop_bottom=bottom)


@pytest.mark.slow
@given(SCORES, TOKENS, st.floats(0.1, 5), st.floats(0.1, 5))
def test_linear_upper_is_its_formula(losses: np.ndarray, tokens: np.ndarray, delta: float, r: float) -> None:
    weights = linear_upper(losses, tokens, delta=delta, r=r)
    assert abs(mean(weights, tokens) - 1) < 1e-12
    low, high = min(losses), max(losses)
    if low == high:
        return
    middle = (low + high) / 2
    raw = [math.exp(min(delta, delta + 2 * delta * (loss - middle) / (high - low)) / r) for loss in losses]
    scale = tokens.sum() / math.fsum(n * w for n, w in zip(tokens, raw, strict=True))
    np.testing.assert_allclose(weights, [scale * w for w in raw], rtol=1e-9)


def test_linear_upper_lowers_low_losses_and_levels_all_above_the_middle() -> None:
    weights = linear_upper(np.array([1.0, 2, 3, 4, 5]), np.ones(5))
    assert weights[0] < weights[1] < weights[2] == weights[3] == weights[4]
    assert weights[2] / weights[0] == pytest.approx(math.e)
    with pytest.raises(UserError, match="give positive numbers"):
        linear_upper(np.arange(3.0), np.ones(3), r=0)


def test_shuffled_scores_give_the_same_histogram_of_weights_up_to_a_factor() -> None:
    rng = np.random.default_rng(0)
    scores, tokens = rng.normal(size=300), rng.integers(2, 1000, size=300)
    made = [
        softmax_weights(each, tokens, temperature=1, direction="inverse") for each in (scores, shuffled(scores, seed=3))
    ]
    ratio = np.sort(made[1]) / np.sort(made[0])
    assert np.ptp(ratio) < 1e-12
    assert all(abs(mean(weights, tokens) - 1) < 1e-12 for weights in made)
    assert abs(np.corrcoef(made[0], made[1])[0, 1]) < 0.2
    assert (shuffled(scores, seed=3) == shuffled(scores, seed=3)).all()
    assert (shuffled(scores, seed=3) != shuffled(scores, seed=4)).any()


@pytest.mark.slow
@given(SCORES, TOKENS)
def test_the_effective_sample_size_is_a_fraction_of_the_tokens(scores: np.ndarray, tokens: np.ndarray) -> None:
    weights = softmax_weights(scores, tokens, temperature=1, direction="direct")
    size = effective_sample_size(weights, tokens)
    assert 0 < size <= 1
    assert size == pytest.approx(min(1, 1 / mean(weights**2, tokens)))


def test_the_effective_sample_size_of_a_filter_is_the_share_it_keeps() -> None:
    assert effective_sample_size(np.ones(3), np.array([5, 1, 9])) == 1
    assert effective_sample_size(np.array([1.0, 0, 1]), np.array([50, 25, 25])) == pytest.approx(0.75)


@pytest.mark.slow
@given(SIZE.flatmap(lambda n: arrays(np.float64, n, elements=st.floats(0, 7))))
def test_multiplicities_are_the_weights_on_average_over_the_offset(weights: np.ndarray) -> None:
    offsets = np.arange(500) / 500
    counts = np.array([multiplicities(weights, offset=offset) for offset in offsets])
    assert counts.dtype == np.int64
    assert (np.abs(counts - weights) < 1 + 1e-9).all()
    assert np.abs(counts.mean(axis=0) - weights).max() <= 1 / 500 + 1e-9
    assert (np.abs(counts.sum(axis=1) - weights.sum()) < 1 + 1e-9).all()


def test_weights_of_one_are_read_once_at_every_offset() -> None:
    for offset in (0.0, 0.3, 0.999999):
        assert (multiplicities(np.ones(1000), offset=offset) == 1).all()


def test_presence_is_direct_before_the_switch_and_inverse_after_it() -> None:
    found = [presence_temperature(progress, temperature=2.0, switch_at=0.1) for progress in (0.0, 0.0999, 0.1, 1.0)]
    assert found == [2, 2, -2, -2]
    assert presence_temperature(0.0, temperature=1.0, switch_at=0.0) == -1


def test_equal_scores_share_their_rank() -> None:
    assert ranks(np.array([3.0, 1, 3, 7])).tolist() == [2.5, 1, 2.5, 4]
