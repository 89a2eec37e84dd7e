import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, brentq, minimize

from mixtures.schedule.constrain import capacity, constrain, divergence, moved

PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)
NONE = np.inf


def solve(
    weights: list[list[float]],
    *,
    tokens: list[float],
    caps: list[float] | None = None,
    least: list[float] | None = None,
) -> np.ndarray:
    count = len(weights[0])
    bounds = {"caps": np.array(caps or [NONE] * count), "least": np.array(least or [0.0] * count)}
    return constrain(np.array(weights), np.array(tokens, dtype=float), **bounds)


@st.composite
def problems(
    draw: st.DrawFn, *, most_stages: int = 6, most_domains: int = 12, zeros: bool = True
) -> dict[str, np.ndarray]:
    """A problem that has a solution; from loose to with hardly any room, flat to peaked, with zeros and tiny shares."""
    stages, domains = draw(st.integers(1, most_stages)), draw(st.integers(1, most_domains))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.dirichlet(np.full(domains, draw(st.sampled_from([0.05, 0.3, 1, 10]))), size=stages) + 1e-30
    if zeros and draw(st.booleans()):
        weights *= rng.random(weights.shape) < 0.7
        weights[:, 0] += weights.sum(axis=1) == 0
    weights /= weights.sum(axis=1, keepdims=True)
    tokens = np.ceil(1e9 * rng.dirichlet(np.full(stages, draw(st.sampled_from([0.3, 50.0])))))
    least = draw(st.sampled_from([0, 0.3, 0.99])) * rng.dirichlet(np.ones(domains)) * draw(st.sampled_from([0.01, 1.0]))
    caps = rng.dirichlet(np.full(domains, draw(st.sampled_from([0.3, 3.0])))) * tokens.sum() + 1
    caps[rng.random(domains) < draw(st.sampled_from([0, 0.4]))] = np.inf
    room = capacity(weights, tokens, caps=caps, least=least)
    if room < 1e9:
        caps *= draw(st.sampled_from([1.0, 1 + 1e-9, 1 + 1e-4, 1.3, 4.0])) / room
    return {"weights": weights, "stage_tokens": tokens, "caps": np.maximum(caps, least * tokens.sum()), "least": least}


def arguments(problem: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return problem["weights"], problem["stage_tokens"], problem["caps"], problem["least"]


@pytest.mark.slow
@PROPERTY
@given(problem=problems())
def test_every_stage_sums_to_one_and_caps_and_least_shares_are_kept(problem: dict[str, np.ndarray]) -> None:
    weights, tokens, caps, least = arguments(problem)
    found = constrain(**problem)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    assert (tokens @ found <= caps * (1 + 3e-9)).all()
    assert (found >= least * (1 - 3e-9)).all()
    zero = weights == 0
    np.testing.assert_allclose(found[zero], np.broadcast_to(least, weights.shape)[zero], rtol=1e-8)


@pytest.mark.slow
@PROPERTY
@given(problem=problems())
def test_caps_are_kept_to_1e_9_where_they_have_any_room(problem: dict[str, np.ndarray]) -> None:
    problem["caps"] = problem["caps"] * 1.001
    found = constrain(**problem)
    assert (problem["stage_tokens"] @ found <= problem["caps"] * (1 + 1e-11)).all()
    assert (found >= problem["least"] * (1 - 1e-11)).all()


@pytest.mark.slow
@PROPERTY
@given(problem=problems())
def test_weights_that_keep_the_constraints_come_back_bit_for_bit(problem: dict[str, np.ndarray]) -> None:
    weights, tokens, _, least = arguments(problem)
    count = weights.shape[1]
    free = {"caps": np.full(count, np.inf), "least": np.zeros(count)}
    assert np.array_equal(constrain(weights, tokens, **free), weights)
    exactly = {"caps": np.maximum(tokens @ weights, 1e-6), "least": np.minimum(least, weights.min(axis=0))}
    assert np.array_equal(constrain(weights, tokens, **exactly), weights)


@pytest.mark.slow
@PROPERTY
@given(problem=problems(zeros=False))
def test_the_solution_fulfils_the_optimality_conditions(problem: dict[str, np.ndarray]) -> None:
    """log(x/a) = mu_s - lambda_j above the least share, lambda >= 0, and 0 where the cap is not used up (Karush, Kuhn,
    Tucker).
    """
    problem["caps"] = problem["caps"] * 1.01
    weights, tokens, caps, least = arguments(problem)
    found = constrain(**problem)
    stages, domains = weights.shape
    used_up = tokens @ found >= caps * (1 - 1e-9)
    above = found > np.maximum(least * (1 + 1e-6), 1e-25)
    rows, goal = [], []
    for stage, domain in np.argwhere(above):
        row = np.zeros(stages + domains)
        row[stage], row[stages + domain] = 1, -1.0 * used_up[domain]
        rows.append(row)
        goal.append(np.log(found[stage, domain] / weights[stage, domain]))
    solution, *_ = np.linalg.lstsq(np.array(rows), np.array(goal), rcond=None)
    np.testing.assert_allclose(np.array(rows) @ solution, goal, atol=1e-5)
    mu, price = solution[:stages], solution[stages:] * used_up
    if above.any(axis=1).all() and not used_up[above.any(axis=0)].all():
        assert price[above.any(axis=0)].min() >= -1e-5
    wanted = weights * np.exp(np.minimum(mu[:, None] - price, 100))
    held = ~above & (above.any(axis=0) | ~used_up) & above.any(axis=1)[:, None]
    assert (wanted[held] <= (np.broadcast_to(least, weights.shape)[held] + 1e-25) * (1 + 1e-4)).all()


@pytest.mark.slow
@settings(PROPERTY, max_examples=30)
@given(problem=problems())
def test_nothing_feasible_nearby_is_closer(problem: dict[str, np.ndarray]) -> None:
    """Steps towards random feasible schedules: other problems' solutions under the same constraints."""
    weights, tokens, _, _ = arguments(problem)
    found = constrain(**problem)
    rng = np.random.default_rng(0)
    for _ in range(3):
        other = weights * rng.uniform(0.2, 5, size=weights.shape)
        other = constrain(**{**problem, "weights": other / other.sum(axis=1, keepdims=True)})
        for step in (1e-4, 0.1, 1.0):
            assert gap(found, weights, tokens) <= gap((1 - step) * found + step * other, weights, tokens) + 1e-8


def gap(x: np.ndarray, weights: np.ndarray, tokens: np.ndarray) -> float:
    """What is minimised, over the entries with a learned share (the others are the same for all)."""
    used = (x > 0) & (weights > 0)
    terms = np.where(used, x, 0) * np.log(np.where(used, x, 1) / np.where(used, weights, 1))
    return float(tokens @ terms.sum(axis=1) / tokens.sum())


def slow(
    weights: np.ndarray, tokens: np.ndarray, caps: np.ndarray, least: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The slow twin: a general solver on the weights themselves, from many starts."""
    stages, domains = weights.shape
    sums = LinearConstraint(np.kron(np.eye(stages), np.ones(domains)), 1, 1)
    taken = LinearConstraint(
        np.kron(tokens / tokens.sum(), np.eye(domains)), -np.inf, np.minimum(caps / tokens.sum(), 2)
    )
    best = None
    for _ in range(6):
        start = rng.dirichlet(np.ones(domains), size=stages).ravel()
        result = minimize(
            lambda x: gap(x.reshape(weights.shape), weights, tokens),
            start,
            jac=lambda x: (
                tokens[:, None] / tokens.sum() * (np.log(np.maximum(x.reshape(weights.shape), 1e-12) / weights) + 1)
            ).ravel(),
            bounds=[(max(floor, 1e-12), 1) for _ in range(stages) for floor in least],
            constraints=[sums, taken],
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        if result.success and (best is None or result.fun < best.fun):
            best = result
    assert best is not None
    return best.x.reshape(weights.shape)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_a_general_solver_finds_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stages, domains = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    weights = rng.dirichlet(np.ones(domains), size=stages) * 0.98 + 0.02 / domains
    tokens = rng.integers(50, 200, size=stages).astype(float)
    caps = rng.dirichlet(np.full(domains, 2)) * tokens.sum() * 1.3
    caps[rng.random(domains) < 0.2] = np.inf
    least = rng.uniform(0, 0.6, size=domains) * np.minimum(caps / tokens.sum(), 1 / domains)
    found, reference = constrain(weights, tokens, caps=caps, least=least), slow(weights, tokens, caps, least, rng)
    np.testing.assert_allclose(found, reference, atol=2e-6)
    assert gap(found, weights, tokens) <= gap(reference, weights, tokens) + 1e-9


def test_trying_all_weights_on_a_grid_finds_nothing_closer() -> None:
    weights, tokens = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]]), np.array([300.0, 700.0])
    caps, least = np.array([150.0, 450.0, 500.0]), np.array([0.04, 0.0, 0.1])
    found = constrain(weights, tokens, caps=caps, least=least)
    grid = np.arange(0, 101, 2) / 100
    rows = np.array([(a, b, 1 - a - b) for a, b in itertools.product(grid, grid) if a + b <= 1 + 1e-9]).clip(0)
    rows = rows[(rows >= least - 1e-12).all(axis=1)]
    costs = np.array(
        [[0.3 * gap(row[None], weights[:1], tokens[:1]), 0.7 * gap(row[None], weights[1:], tokens[1:])] for row in rows]
    )
    total = costs[:, None, 0] + costs[None, :, 1]
    used = tokens[0] * rows[:, None] + tokens[1] * rows[None]
    total[(used > caps + 1e-9).any(axis=2)] = np.inf
    best = np.unravel_index(total.argmin(), total.shape)
    assert total.min() >= gap(found, weights, tokens)
    np.testing.assert_allclose(rows[list(best)], found, atol=0.021)


@pytest.mark.parametrize("seed", range(10))
def test_a_single_stage_is_filled_like_a_vessel(seed: int) -> None:
    """The slow twin for one stage: x_j = a_j t, cut off at the cap and the least share, t by bisection."""
    rng = np.random.default_rng(seed)
    weights, least = rng.dirichlet(np.full(40, 0.5)), np.full(40, 0.002)
    caps = np.maximum(rng.dirichlet(np.full(40, 0.5)) * 1.2, 0.003)
    level = brentq(lambda t: np.clip(weights * t, least, caps).sum() - 1, 0, 1e9, xtol=1e-14)
    found = constrain(weights[None], np.array([1.0]), caps=caps, least=least)
    np.testing.assert_allclose(found[0], np.clip(weights * level, least, caps), rtol=1e-9)


def test_capping_one_domain_scales_the_others_in_proportion() -> None:
    found = solve([[0.5, 0.3, 0.15, 0.05]], tokens=[1000], caps=[200, NONE, NONE, NONE])
    np.testing.assert_allclose(found, [[0.2, 0.48, 0.24, 0.08]], rtol=1e-12)


def test_a_cap_counts_all_stages_together() -> None:
    found = solve([[0.8, 0.2], [0.2, 0.8]], tokens=[500, 500], caps=[300, NONE])
    odds = found[:, 0] / found[:, 1] / np.array([4, 0.25])
    np.testing.assert_allclose(500 * found[:, 0].sum(), 300)
    np.testing.assert_allclose(odds, odds[0])
    assert found[0, 0] > found[1, 0], "the order of the stages is kept"


def test_least_shares_hold_in_each_stage_and_others_shrink_in_proportion() -> None:
    found = solve([[0.6, 0.4, 0.0], [0.2, 0.7, 0.1]], tokens=[1, 3], least=[0, 0, 0.05])
    np.testing.assert_allclose(found, [[0.57, 0.38, 0.05], [0.2, 0.7, 0.1]], rtol=1e-12)


def test_a_learned_zero_stays_zero() -> None:
    found = solve([[0.7, 0.3, 0.0]], tokens=[100], caps=[50, NONE, NONE])
    np.testing.assert_allclose(found[0, :2], 0.5, rtol=1e-12)
    assert found[0, 2] == 0


def test_caps_that_hold_exactly_the_budget_are_all_used_up() -> None:
    caps = np.array([100.0, 700.0, 200.0])
    found = solve([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]], tokens=[400, 600], caps=caps.tolist())
    np.testing.assert_allclose(np.array([400, 600]) @ found, caps, rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    odds = found[0] / found[1] / np.array([5, 2, 0.375])
    np.testing.assert_allclose(odds, odds[0], rtol=1e-6)


def test_least_shares_that_leave_nothing_to_choose_are_the_weights() -> None:
    assert solve([[0.9, 0.1], [0.5, 0.5]], tokens=[1, 1], least=[0.25, 0.75]).tolist() == [[0.25, 0.75], [0.25, 0.75]]


@pytest.mark.parametrize("slack", [1.0, 1 + 1e-6, 1.5])
def test_three_hundred_domains_in_ten_stages(slack: float) -> None:
    rng = np.random.default_rng(5)
    weights, tokens = rng.dirichlet(np.full(300, 0.1), size=10), np.full(10, 3e10)
    weights = np.where(weights < 1e-12, 1e-60, weights)
    weights /= weights.sum(axis=1, keepdims=True)
    caps = rng.dirichlet(np.full(300, 0.7)) * 3e11 * slack
    least = np.minimum(0.0005, 0.5 * caps / 3e11)
    found = constrain(weights, tokens, caps=caps, least=least)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    assert (tokens @ found <= caps * (1 + 1e-9)).all()
    assert (found >= least * (1 - 1e-9)).all()
    assert found.min() > 0


@pytest.mark.slow
@PROPERTY
@given(problem=problems())
def test_capacity_is_where_weights_that_keep_the_constraints_end(problem: dict[str, np.ndarray]) -> None:
    weights, tokens, caps, least = arguments(problem)
    room = capacity(weights, tokens, caps=caps, least=least)
    if room == np.inf:
        return
    constrain(weights, tokens * room, caps=caps, least=least)
    with pytest.raises(AssertionError, match=r"room for 0\.9999"):
        constrain(weights, tokens * room * 1.00001, caps=caps, least=least)


def test_capacity_counts_only_what_a_stage_may_use() -> None:
    bounds = {"caps": np.array([100.0, 1000.0]), "least": np.zeros(2)}
    only_first = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert capacity(only_first, np.array([200.0, 200.0]), **bounds) == pytest.approx(0.5)
    assert capacity(np.full((2, 2), 0.5), np.array([200.0, 200.0]), **bounds) == pytest.approx(1100 / 400)
    assert capacity(only_first[:1], np.array([200.0]), **bounds) == pytest.approx(0.5)
    bounds["least"] = np.array([0.0, 0.75])
    assert capacity(only_first[:1], np.array([200.0]), **bounds) == pytest.approx(2.0)


def test_what_moved_and_how_far_is_counted_in_tokens() -> None:
    learned, tokens = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([1.0, 3.0])
    weights = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert moved(weights, learned, tokens) == pytest.approx(0.75 * 0.25)
    assert divergence(weights, learned, tokens) == pytest.approx(0.75 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5)))
    assert divergence(learned, learned, tokens) == moved(learned, learned, tokens) == 0
    assert divergence(np.array([[0.9, 0.1]]), np.array([[1.0, 0.0]]), np.ones(1)) == np.inf
