"""Looking for the lowest value within what was tried: convex combinations of mixtures, inside bounds. Pure.

K mixtures of D shares were tried. Everything found here lies in their convex hull, where a surrogate interpolates.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import linprog, minimize

Value = Callable[[np.ndarray], np.ndarray]  # (N, D) -> (N,)
CORNERS = 80  # looked for where bounds cut the hull
CANDIDATES = 4000
STARTS = 3
BEST = 40  # of the candidates, averaged where a value has no slopes
STEP = 1e-6  # of a share, in slopes
ITERATIONS = 100
PRECISION = 1e-6  # of the candidates' range of values
INSIDE = 1e-6  # of a share


def lowest(
    value: Value, tried: np.ndarray, *, lower: np.ndarray, upper: np.ndarray, smooth: bool, seed: int = 0
) -> np.ndarray:
    """(D,) the convex combination of `tried` (K, D) with lower <= shares <= upper (D,) at which `value` is lowest.

    Random combinations are tried first. From the best of them a smooth value is followed downhill; of one without
    slopes the best are averaged (as RegMix does), which is a combination too. There must be one: `violation` up to
    INSIDE.
    """
    rng = np.random.default_rng(seed)
    corners = _corners(tried, lower, upper, rng)
    sparse = np.full(
        len(corners), min(1.0, 4 / len(corners))
    )  # a few at a time: combinations of many are all near the centre
    points = np.vstack([corners, rng.dirichlet(sparse, CANDIDATES) @ corners])
    values = value(points)
    order = np.argsort(values, kind="stable")
    if not smooth:
        return np.asarray(points[order[:BEST]].mean(axis=0))
    tolerance = PRECISION * float(np.ptp(values))
    ends = np.array([_downhill(value, points[start], tried, lower, upper, tolerance) for start in order[:STARTS]])
    return np.asarray(ends[value(ends).argmin()])


def violation(tried: np.ndarray, *, lower: np.ndarray, upper: np.ndarray) -> float:
    """The least amount (of a share) by which a combination of `tried` misses the bounds; a point's distance where both
    are the point.
    """
    count, domains = tried.shape
    gap = -np.ones((domains, 1))
    found = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.vstack([np.hstack([tried.T, gap]), np.hstack([-tried.T, gap])]),
        b_ub=np.concatenate([upper, -lower]),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        method="highs",
    )
    return float(found.fun)


def reach(point: np.ndarray, tried: np.ndarray) -> float:
    """How many times as far from the centre of `tried` as `point` the hull goes on; 1 at its border, infinity for the
    centre.
    """
    centre = tried.mean(axis=0)
    if np.abs(point - centre).max() <= INSIDE:
        return float("inf")
    found = linprog(
        np.append(np.zeros(len(tried)), -1.0),
        A_eq=np.vstack([np.hstack([tried.T, (centre - point)[:, None]]), np.append(np.ones(len(tried)), 0.0)]),
        b_eq=np.append(centre, 1.0),
        method="highs",
    )
    return float(found.x[-1])


def _corners(tried: np.ndarray, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, D) points whose combinations keep the bounds: the mixtures tried, and corners in random directions where some
    do not.
    """
    inside = (tried >= lower).all(axis=1) & (tried <= upper).all(axis=1)
    if inside.all():
        return tried
    directions = rng.normal(size=(CORNERS, tried.shape[1]))
    return np.vstack([tried[inside], *(_corner(direction, tried, lower, upper) for direction in directions)])


def _corner(slopes: np.ndarray, tried: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """(D,) the combination inside the bounds that is lowest for a value of these slopes (D,)."""
    above, below = upper < 1, lower > 0
    found = linprog(
        tried @ slopes,
        A_ub=np.vstack([tried.T[above], -tried.T[below]]),
        b_ub=np.concatenate([upper[above], -lower[below]]) + INSIDE,
        A_eq=np.ones((1, len(tried))),
        b_eq=[1.0],
        method="highs",
    )
    return np.asarray(found.x @ tried)


def _downhill(
    value: Value, start: np.ndarray, tried: np.ndarray, lower: np.ndarray, upper: np.ndarray, tolerance: float
) -> np.ndarray:
    """(D,) a lowest point reached from `start` (D,), by simplicial decomposition.

    The corner to which the slopes point is added, then the value is minimised over combinations of the corners held,
    until no corner promises `tolerance` more (the Frank-Wolfe gap) or nothing moves. A round costs one linear program,
    however many mixtures and bounds there are.
    """
    held, shares, point = start[None], np.ones(1), start
    for _ in range(ITERATIONS):
        slopes = _slopes(value, point)
        corner = _corner(slopes, tried, lower, upper)
        if slopes @ (point - corner) <= tolerance:
            break
        held, shares = np.vstack([held[shares > 0], corner]), np.append(shares[shares > 0], 0.0)
        shares = _combine(value, held, shares, scale=tolerance / PRECISION)
        before, point = point, shares @ held
        if np.abs(point - before).max() <= INSIDE:
            break
    return np.asarray(point)


def _combine(value: Value, held: np.ndarray, shares: np.ndarray, *, scale: float) -> np.ndarray:
    """(A,) the weights of the combination of `held` (A, D) at which the value is lowest, reached from `shares` (A,)."""
    found = minimize(
        lambda weights: float(value((weights @ held)[None])[0]) / scale,
        shares,
        jac=lambda weights: held @ _slopes(value, weights @ held) / scale,
        bounds=[(0, 1)] * len(held),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: np.ones(len(held))},
        method="SLSQP",
        options={"maxiter": 100, "ftol": 1e-10},
    ).x
    found = np.where(found > 1e-9, found, 0)
    return np.asarray(found / found.sum())


def _slopes(value: Value, point: np.ndarray) -> np.ndarray:
    """(D,) central differences."""
    steps = STEP * np.eye(len(point))
    ends = value(np.vstack([point + steps, point - steps]))
    return np.asarray((ends[: len(point)] - ends[len(point) :]) / (2 * STEP))
