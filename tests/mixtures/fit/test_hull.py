import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mixtures.fit.hull import INSIDE, Value, lowest, reach, violation

PROPERTY = settings(derandomize=True, deadline=None, max_examples=10)
FEW = settings(PROPERTY, max_examples=5)  # every example solves some hundred linear programs


def bowl(centre: np.ndarray) -> Value:
    return lambda shares: np.asarray(((shares - centre) ** 2).sum(axis=1))


def slow_lowest(value: Value, tried: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """The value that one general solver reaches over the shares of all mixtures tried."""
    count = len(tried)
    constraints = [
        {"type": "eq", "fun": lambda weights: weights.sum() - 1},
        {"type": "ineq", "fun": lambda weights: weights @ tried - lower},
        {"type": "ineq", "fun": lambda weights: upper - weights @ tried},
    ]
    starts = [np.full(count, 1 / count), *np.random.default_rng(0).dirichlet(np.ones(count), 2)]
    found = [
        minimize(
            lambda weights: value((weights @ tried)[None])[0],
            start,
            bounds=[(0, 1)] * count,
            constraints=constraints,
            tol=1e-12,
        )
        for start in starts
    ]
    return min(float(result.fun) for result in found if result.success)


@pytest.mark.slow
@PROPERTY
@given(st.integers(2, 6), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_lowest_stays_in_the_hull_and_no_general_solver_goes_lower(domains: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tried, value = rng.dirichlet(np.ones(domains), count), bowl(rng.dirichlet(np.full(domains, 0.5)))
    lower, upper = np.zeros(domains), np.ones(domains)
    found = lowest(value, tried, lower=lower, upper=upper, smooth=True)
    assert violation(tried, lower=found, upper=found) <= INSIDE
    assert value(found[None])[0] <= slow_lowest(value, tried, lower, upper) + 1e-5


@pytest.mark.slow
@FEW
@given(st.integers(3, 5), st.integers(0, 2**32 - 1))
def test_lowest_keeps_bounds_that_cut_the_hull(domains: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tried, value = rng.dirichlet(np.ones(domains), 12), bowl(rng.dirichlet(np.full(domains, 0.5)))
    inside = rng.dirichlet(np.ones(12)) @ tried
    lower, upper = 0.6 * inside, 1.2 * inside
    for smooth in (True, False):
        found = lowest(value, tried, lower=lower, upper=upper, smooth=smooth)
        assert violation(tried, lower=found, upper=found) <= 2 * INSIDE
        assert (found >= lower - 2 * INSIDE).all()
        assert (found <= upper + 2 * INSIDE).all()
        if smooth:
            assert value(found[None])[0] <= slow_lowest(value, tried, lower, upper) + 1e-5


def test_a_value_with_several_valleys_is_searched_from_several_starts() -> None:
    def valleys(shares: np.ndarray) -> np.ndarray:
        return np.asarray(-np.exp(-40 * (shares[:, 0] - 0.15) ** 2) - 1.3 * np.exp(-200 * (shares[:, 0] - 0.8) ** 2))

    found = lowest(valleys, np.eye(3), lower=np.zeros(3), upper=np.ones(3), smooth=True)
    assert abs(found[0] - 0.8) < 1e-3


def test_a_swarm_on_a_line_is_searched_along_it() -> None:
    tried = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.35, 0.3, 0.35]])
    found = lowest(bowl(np.array([0.4, 0.6, 0.0])), tried, lower=np.zeros(3), upper=np.ones(3), smooth=True)
    assert np.allclose(found, tried[0], atol=1e-4)


def test_violation_is_the_distance_from_what_was_tried() -> None:
    tried = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert violation(tried, lower=np.array([0.9, 0.0]), upper=np.ones(2)) > 0.29
    assert abs(violation(tried, lower=np.array([0.7, 0.3]), upper=np.array([0.7, 0.3])) - 0.1) < 1e-9
    assert violation(tried, lower=np.array([0.5, 0.5]), upper=np.array([0.5, 0.5])) <= 1e-9


def test_reach_is_one_at_the_border_and_says_how_far_it_is_to_it() -> None:
    corners = np.eye(3)
    assert abs(reach(np.array([1.0, 0.0, 0.0]), corners) - 1) < 1e-6
    assert abs(reach(np.array([0.5, 0.25, 0.25]), corners) - 4) < 1e-6
    assert reach(np.full(3, 1 / 3), corners) == np.inf
