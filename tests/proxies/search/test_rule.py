"""The step from slopes to the next mixture, and the trust region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxies.search.rule import LARGEST, Slopes, TrustRegion, gained, lowest, slopes


def divergence(new: np.ndarray, old: np.ndarray) -> float:
    here = new > 0
    return float(np.sum(new[here] * np.log(new[here] / old[here])))


@st.composite
def any_slopes(draw: st.DrawFn) -> Slopes:
    count = draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    weights = generator.dirichlet(np.full(count, draw(st.sampled_from([0.3, 3.0]))))
    value = generator.normal(size=count) * draw(st.sampled_from([1e-6, 1.0, 1e6]))
    return Slopes(weights, value - weights @ value, np.zeros(count))


@given(found=any_slopes(), radius=st.sampled_from([1e-3, 0.05, 0.5]))
def test_a_step_stays_on_the_simplex_within_its_divergence(found: Slopes, radius: float) -> None:
    new = found.step(radius)
    assert new.sum() == pytest.approx(1)
    assert (new >= 0).all()
    assert divergence(new, found.weights) <= radius * (1 + 1e-6)


@given(found=any_slopes(), radius=st.sampled_from([1e-3, 0.05]), seed=st.integers(0, 50))
def test_no_mixture_within_the_divergence_promises_more(found: Slopes, radius: float, seed: int) -> None:
    new = found.step(radius)
    other = new * np.exp(0.1 * np.random.default_rng(seed).normal(size=len(new)))
    other /= other.sum()
    while divergence(other, found.weights) > radius:  # towards the start, until it is near enough
        other = 0.9 * other + 0.1 * found.weights
    assert found.predict(new) <= found.predict(other) + 1e-9 * np.abs(found.value).max()


def test_a_step_reaches_its_divergence_and_goes_downhill() -> None:
    found = Slopes(np.full(4, 0.25), np.array([-2.0, 0.0, 1.0, 1.0]), np.zeros(4))
    new = found.step(0.05)
    assert divergence(new, found.weights) == pytest.approx(0.05, rel=1e-6)
    assert new[0] > 0.25 > new[2] == pytest.approx(new[3])
    assert found.predict(new) < 0


def test_a_domain_without_weight_stays_without() -> None:
    found = slopes(np.array([[0.0, -1.0, 1.0]]), np.array([0.0, 0.5, 0.5]))
    assert found.value[0] == 0
    assert found.step(0.1)[0] == 0


def test_slopes_are_per_unit_of_weight_less_their_mean() -> None:
    weights = np.array([0.2, 0.8])
    found = slopes(np.array([[0.2, -0.8]]), weights)  # nats per unit of the logarithm: 1 and -1 per unit of weight
    np.testing.assert_allclose(found.value, [1 + 0.6, -1 + 0.6])
    assert weights @ found.value == pytest.approx(0)


def test_signal_is_what_seeds_agree_on() -> None:
    weights = np.full(4, 0.25)
    agreed = np.array([-1.0, 0.0, 0.5, 0.5])
    assert slopes(np.stack([agreed, agreed]), weights).signal == 1
    assert slopes(np.stack([agreed, -agreed]), weights).signal == 0
    assert slopes(agreed[None], weights).signal == 1  # one seed cannot say
    noise = np.random.default_rng(0).normal(size=(200, 2, 4))
    assert np.mean([slopes(one, weights).signal for one in noise]) < 0.4


def test_a_region_grows_after_kept_promises_and_shrinks_after_none() -> None:
    region = TrustRegion(0.1)
    assert region.after(predicted=-0.1, came=-0.08, error=0.01).radius == 0.2
    assert region.after(predicted=-0.1, came=-0.03, error=0.01) == TrustRegion(0.1)
    missed = region.after(predicted=-0.1, came=-0.005, error=0.01)
    assert missed.radius == pytest.approx(0.025)
    assert missed.failed == 1
    assert missed.after(predicted=-0.1, came=0.1, error=0.01).failed == 2
    assert missed.after(predicted=-0.01, came=-0.1, error=0.01).failed == 0
    assert region.after(predicted=-0.004, came=-0.005, error=0.01) == TrustRegion(0.2, failed=1)  # too short to see
    assert TrustRegion(0.4).after(predicted=-0.1, came=-0.1, error=0.0).radius == LARGEST
    assert TrustRegion(2.0).after(predicted=-0.1, came=-0.1, error=0.0).radius == 2  # as asked for, and kept


def test_a_step_too_far_is_shortened_to_where_a_parabola_is_lowest() -> None:
    share, hope = lowest(predicted=-0.1, came=0.3)
    points = np.linspace(0, 1, 1001)
    curve = -0.1 * points + 0.4 * points**2  # 0 at the start, 0.3 at the end, the slope as predicted
    assert share == pytest.approx(points[curve.argmin()], abs=1e-3)
    assert hope == pytest.approx(-curve.min(), abs=1e-6)
    region = TrustRegion(0.1).after(predicted=-0.1, came=0.3, error=0.01)
    assert region.radius == pytest.approx(0.1 * share**2)
    assert region.hope == hope
    assert lowest(predicted=-0.1, came=0.0)[0] == 0.5


def test_a_gain_within_its_error_is_none() -> None:
    assert gained(came=-0.02, error=0.01)
    assert not gained(came=-0.01, error=0.02)
    assert not gained(came=0.1, error=0.01)
    assert not gained(came=0.0, error=0.0)
