"""The weights closest to the learned ones that keep caps on domains and least shares. Pure functions.

Stage s has n_s tokens; a are the learned weights, x the weights to be found, j counts the domains:

    minimise    sum_s n_s KL(x_s || a_s),    KL(x || a) = sum_j x_j log(x_j / a_j)
    subject to  sum_j x_sj = 1,    sum_s n_s x_sj <= cap_j,    x_sj >= least_j

This is the I-projection of Csiszar (1975) on the feasible schedules. Its solution has the form

    x_sj = max(least_j, a_sj exp(mu_s - lambda_j)),    lambda_j >= 0, and > 0 only where cap_j is used up.

So what a capped domain gives up goes to the other domains in proportion to their learned shares. A learned share of
zero stays zero; with a least share it becomes the least share (the limit of ever smaller learned shares). For given mu
the lambda have a closed form. What remains is a smooth concave dual in one number per stage, however many domains there
are.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import brentq, linprog, minimize, root

ROUNDING = 1e-12  # relative: constraints that are missed by less count as kept
PRECISION = 1e-9  # relative: by so much constraints may be missed where no weights keep them better
NOTHING = 1e-200  # a learned share up to this counts as zero: no multiple of it fills a stage
LARGEST_MU = 600.0  # exp of it lifts the smallest share that counts above 1 and does not overflow
PLENTY = 1e6  # times the tokens: from here on the capacity counts as infinite


class Problem(NamedTuple):
    """The problem in fractions, for S stages and D domains.

    weights (S, D); share (S,): the stages' fractions of the tokens, sum 1; caps (D,): fractions of all tokens; least
    (D,): least share in every stage.
    """

    weights: np.ndarray
    share: np.ndarray
    caps: np.ndarray
    least: np.ndarray


class Allotment(NamedTuple):
    """The weights of some mu: x (S, D); free (S, D): above the least share; capped (D,): the cap is used up."""

    x: np.ndarray
    free: np.ndarray
    capped: np.ndarray


def constrain(weights: np.ndarray, stage_tokens: np.ndarray, *, caps: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the weights (S, D) that keep the constraints and are closest to `weights` (S, D), whose rows sum to 1.

    stage_tokens: (S,) tokens of every stage.
    caps: (D,) most tokens over all stages together, infinity for no cap.
    least: (D,) least share in every stage.
    Weights that already keep the constraints are returned unchanged. Some weights must keep them: `capacity` must be at
    least 1. It may fall short by PRECISION, and the caps are then exceeded by as much.
    """
    room = capacity(weights, stage_tokens, caps=caps, least=least)
    assert room >= 1 - PRECISION, f"the constraints have room for {room} of the tokens"
    kept = stage_tokens @ weights <= caps * (1 + ROUNDING)
    if kept.all() and (weights >= least * (1 - ROUNDING)).all():
        return weights
    if least.sum() >= 1 - ROUNDING:
        return np.tile(least / least.sum(), (len(weights), 1))
    tokens = stage_tokens.sum()
    problem = Problem(weights, stage_tokens / tokens, caps / tokens / min(1, room), least)
    solution = _allot(problem, _solve(problem)).x
    sums = solution.sum(axis=1, keepdims=True)
    assert np.abs(sums - 1).max() <= 2 * PRECISION, f"the search ended where stages sum to {sums.ravel()}"
    return solution / sums


def capacity(weights: np.ndarray, stage_tokens: np.ndarray, *, caps: np.ndarray, least: np.ndarray) -> float:
    """Return the largest multiple of the tokens for which some weights keep the constraints; infinity for any multiple.

    Arguments as in `constrain`. In stages where its learned weight is zero a domain takes only its least share. The
    least shares must sum to at most 1.
    """
    share, caps, usable = stage_tokens / stage_tokens.sum(), caps / stage_tokens.sum(), weights > NOTHING
    some, every = usable.any(axis=0), usable.all(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a domain without a least share sets no limit
        limits = [*np.where(least > 0, caps / least, np.inf), caps[some].sum() / max(0, 1 - least[~some].sum())]
    if (some != every).any():
        limits.append(_capacity_by_flow(share, caps, least, usable))
    return float(np.nanmin(limits))


def divergence(weights: np.ndarray, learned: np.ndarray, stage_tokens: np.ndarray) -> float:
    """Return the mean over the tokens of KL(weights || learned), nats; infinity where a learned zero was raised."""
    used = weights > 0
    if (learned[used] == 0).any():
        return float("inf")
    terms = np.zeros_like(weights)
    terms[used] = weights[used] * np.log(weights[used] / learned[used])
    return max(0.0, float(stage_tokens @ terms.sum(axis=1) / stage_tokens.sum()))


def moved(weights: np.ndarray, learned: np.ndarray, stage_tokens: np.ndarray) -> float:
    """Return the fraction of all tokens that `weights` give to other domains than `learned` (total variation)."""
    return float(stage_tokens @ np.abs(weights - learned).sum(axis=1) / 2 / stage_tokens.sum())


def _solve(problem: Problem) -> np.ndarray:
    """Return the mu (S,) at which every stage sums to 1."""

    def excess(mu: np.ndarray) -> np.ndarray:
        return _allot(problem, mu).x.sum(axis=1) - 1

    def jacobian(mu: np.ndarray) -> np.ndarray:
        return _jacobian(problem, mu)

    mu = minimize(
        lambda mu: _dual(problem, mu),
        np.zeros(len(problem.share)),
        jac=True,
        hess=lambda mu: problem.share[:, None] * jacobian(mu),
        method="trust-exact",
        options={"gtol": 1e-10, "maxiter": 500, "max_trust_radius": 50.0},
    ).x
    every = np.ones(len(mu), dtype=bool)
    # the value of the dual is too coarse for the last digits, and for stages of few tokens; its gradient is not
    for _ in range(3):
        mu = _shift(problem, mu, every)
        for stage in np.flatnonzero(np.abs(excess(mu)) > PRECISION):
            mu = _shift(problem, mu, np.arange(len(mu)) == stage)
        polished = root(excess, mu, jac=jacobian, method="hybr", options={"xtol": 1e-15}).x
        mu = min(mu, polished, key=lambda candidate: np.abs(excess(candidate)).max())
        if np.abs(excess(mu)).max() < ROUNDING:
            break
    return mu


def _shift(problem: Problem, mu: np.ndarray, stages: np.ndarray) -> np.ndarray:
    """Return `mu` plus one number for the stages where `stages` (S,) is True, so that their tokens together are right.

    Over all stages together the dual is flat in this direction where the caps allow hardly more than the budget.
    """
    share = problem.share * stages / problem.share[stages].sum()

    def excess(shift: float) -> float:
        sums = _allot(problem, mu + shift * stages).x.sum(axis=1)
        return share @ sums - 1 + ROUNDING / 10  # where the caps leave no room, 1 itself cannot be reached

    reach = 1e-3
    while not excess(-reach) <= 0 <= excess(reach):
        reach *= 2
        if reach > LARGEST_MU:
            return mu
    return mu + stages * brentq(excess, -reach, reach, xtol=1e-15)


def _allot(problem: Problem, mu: np.ndarray) -> Allotment:
    """Return the weights of a mu: a_sj exp(mu_s), scaled down per domain to its cap, nowhere below the least share."""
    weights, share, caps, least = problem
    usable = weights > NOTHING
    wanted = np.where(usable, weights * np.exp(np.minimum(mu, LARGEST_MU))[:, None], 0)
    capped = share @ np.maximum(wanted, least) > caps
    scale = np.ones(len(caps))
    scale[capped] = _scale(wanted[:, capped], share, caps[capped], least[capped])
    wanted = wanted * scale
    return Allotment(np.maximum(wanted, least), usable & (wanted > least), capped)


def _scale(wanted: np.ndarray, share: np.ndarray, caps: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the factors v (D,) with sum_s share_s max(least_j, v_j wanted_sj) = cap_j.

    If it were known that exactly the k stages that want most lie above the least share, v would follow at once. The
    first k that is consistent is taken.
    """
    order = np.argsort(-wanted, axis=0)
    sorted_wanted, sorted_share = np.take_along_axis(wanted, order, axis=0), share[order]
    above, at_least = np.cumsum(sorted_share * sorted_wanted, axis=0), least * (1 - np.cumsum(sorted_share, axis=0))
    factors = np.divide(caps - at_least, above, out=np.zeros_like(above), where=above > 0)
    following = np.concatenate([sorted_wanted[1:], np.zeros((1, len(caps)))])
    first = (factors * following <= least).argmax(axis=0)
    return np.take_along_axis(factors, first[None], axis=0)[0]


def _dual(problem: Problem, mu: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the dual's negative value and gradient (S,), without the terms that do not depend on mu."""
    x = _allot(problem, mu).x
    used = (problem.weights > NOTHING) & (x > 0)
    ratio = np.where(used, x, 1) / np.where(used, problem.weights, 1)
    cost = np.where(used, x * (np.log(ratio) - 1), 0).sum(axis=1)
    excess = x.sum(axis=1) - 1
    return float(problem.share @ (mu * excess - cost)), problem.share * excess


def _jacobian(problem: Problem, mu: np.ndarray) -> np.ndarray:
    """Return the derivatives (S, S) of the stages' sums by mu.

    What a capped domain gains in one stage it loses in the others.
    """
    x, free, capped = _allot(problem, mu)
    moving = np.where(free, x, 0)
    shared = moving[:, capped]
    used = problem.share @ shared
    shared, used = shared[:, used > 0], used[used > 0]
    return np.diag(moving.sum(axis=1)) - (shared / used) @ (problem.share[:, None] * shared).T


def _capacity_by_flow(share: np.ndarray, caps: np.ndarray, least: np.ndarray, usable: np.ndarray) -> float:
    """Solve `capacity` as a linear program: tokens above the least shares flow from stages to domains they may use."""
    stages, domains = usable.shape
    limited = np.isfinite(caps)
    into_stage = sparse.kron(sparse.eye(stages), np.ones((1, domains)))
    into_domain = sparse.kron(np.ones((1, stages)), sparse.eye(domains))
    result = linprog(
        np.append(np.zeros(stages * domains), -1.0),
        A_ub=sparse.hstack([into_domain, least[:, None]]).tocsr()[limited],
        b_ub=caps[limited],
        A_eq=sparse.hstack([into_stage, -share[:, None] * (1 - least.sum())]).tocsr(),
        b_eq=np.zeros(stages),
        bounds=[*((0, None if may else 0) for may in usable.ravel()), (0, PLENTY)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10},
    )
    return float("inf") if result.x[-1] >= PLENTY else float(result.x[-1])
