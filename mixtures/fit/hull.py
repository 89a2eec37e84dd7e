"""The search for the lowest value among convex combinations of the mixtures tried, inside bounds. Pure functions.

K mixtures of D shares were tried. All results lie in their convex hull, where a surrogate interpolates.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import linprog, minimize

Value = Callable[[np.ndarray], np.ndarray]  # (N, D) -> (N,)
CORNERS = 80  # number of random directions to look for corners in, if bounds cut the hull
CANDIDATES = 4000  # number of random combinations
STARTS = 3  # number of candidates that the search continues from
BEST = 40  # number of candidates that are averaged if the value has no slopes
STEP = 1e-6  # step of a share for the slopes
ITERATIONS = 100
PRECISION = 1e-6  # tolerance of the search, as a part of the candidates' range of values
INSIDE = 1e-6  # tolerance of a share


def lowest(
    value: Value, tried: np.ndarray, *, lower: np.ndarray, upper: np.ndarray, smooth: bool, seed: int = 0
) -> np.ndarray:
    """Return the convex combination (D,) of `tried` (K, D) within lower <= shares <= upper where `value` is lowest.

    value:         function from shares (N, D) to values (N,).
    lower, upper:  bounds (D,); some combination must keep them (`violation` is at most INSIDE).
    smooth:        whether `value` has slopes.
    seed:          seed of the random combinations.

    Random combinations are tried first. If the value is smooth, the search then goes downhill from the best of them. If
    not, the best are averaged, as RegMix does; the average is a combination as well.
    """
    rng = np.random.default_rng(seed)
    corners = _corners(tried, lower, upper, rng)
    # each combination is mainly of a few corners, because combinations of many are all near the centre
    sparse = np.full(len(corners), min(1.0, 4 / len(corners)))
    points = np.vstack([corners, rng.dirichlet(sparse, CANDIDATES) @ corners])
    values = value(points)
    order = np.argsort(values, kind="stable")
    if not smooth:
        return np.asarray(points[order[:BEST]].mean(axis=0))
    tolerance = PRECISION * float(np.ptp(values))
    ends = np.array([_downhill(value, points[start], tried, lower, upper, tolerance) for start in order[:STARTS]])
    return np.asarray(ends[value(ends).argmin()])


def violation(tried: np.ndarray, *, lower: np.ndarray, upper: np.ndarray) -> float:
    """Return the least amount, in a share, by which a convex combination of `tried` (K, D) misses the bounds (D,).

    If `lower` and `upper` are the same point, this is the point's distance from the hull, in its largest component.
    """
    count, domains = tried.shape
    gap = -np.ones((domains, 1))
    solution = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.vstack([np.hstack([tried.T, gap]), np.hstack([-tried.T, gap])]),
        b_ub=np.concatenate([upper, -lower]),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        method="highs",
    )
    return float(solution.fun)


def reach(point: np.ndarray, tried: np.ndarray) -> float:
    """Return how far the hull of `tried` (K, D) reaches in the direction of `point` (D,) from its centre.

    The result is a multiple of the distance from the centre to `point`: 1 if `point` is at the border, infinity if it
    is the centre.
    """
    centre = tried.mean(axis=0)
    if np.abs(point - centre).max() <= INSIDE:
        return float("inf")
    solution = linprog(
        np.append(np.zeros(len(tried)), -1.0),
        A_eq=np.vstack([np.hstack([tried.T, (centre - point)[:, None]]), np.append(np.ones(len(tried)), 0.0)]),
        b_eq=np.append(centre, 1.0),
        method="highs",
    )
    return float(solution.x[-1])


def _corners(tried: np.ndarray, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return points (N, D) whose combinations keep the bounds.

    These are the mixtures tried that keep the bounds and, if some do not, corners in random directions.
    """
    inside = (tried >= lower).all(axis=1) & (tried <= upper).all(axis=1)
    if inside.all():
        return tried
    directions = rng.normal(size=(CORNERS, tried.shape[1]))
    return np.vstack([tried[inside], *(_corner(direction, tried, lower, upper) for direction in directions)])


def _corner(slopes: np.ndarray, tried: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the combination (D,) inside the bounds at which a linear value with these slopes (D,) is lowest."""
    above, below = upper < 1, lower > 0
    solution = linprog(
        tried @ slopes,
        A_ub=np.vstack([tried.T[above], -tried.T[below]]),
        b_ub=np.concatenate([upper[above], -lower[below]]) + INSIDE,
        A_eq=np.ones((1, len(tried))),
        b_eq=[1.0],
        method="highs",
    )
    return np.asarray(solution.x @ tried)


def _downhill(
    value: Value, start: np.ndarray, tried: np.ndarray, lower: np.ndarray, upper: np.ndarray, tolerance: float
) -> np.ndarray:
    """Return a local minimum (D,) reached from `start` (D,), by simplicial decomposition.

    Each round adds the corner to which the slopes point and minimises the value over combinations of the corners so
    far. It ends if no corner promises more than `tolerance` (the Frank-Wolfe gap), or nothing moves. A round costs one
    linear program, however many mixtures and bounds there are.
    """
    corners, shares, point = start[None], np.ones(1), start
    for _ in range(ITERATIONS):
        slopes = _slopes(value, point)
        corner = _corner(slopes, tried, lower, upper)
        if slopes @ (point - corner) <= tolerance:
            break
        corners, shares = np.vstack([corners[shares > 0], corner]), np.append(shares[shares > 0], 0.0)
        shares = _combine(value, corners, shares, scale=tolerance / PRECISION)
        before, point = point, shares @ corners
        if np.abs(point - before).max() <= INSIDE:
            break
    return np.asarray(point)


def _combine(value: Value, corners: np.ndarray, shares: np.ndarray, *, scale: float) -> np.ndarray:
    """Return the weights (A,) at which the combination of `corners` (A, D) is lowest; the search starts at `shares`."""
    best = minimize(
        lambda weights: float(value((weights @ corners)[None])[0]) / scale,
        shares,
        jac=lambda weights: corners @ _slopes(value, weights @ corners) / scale,
        bounds=[(0, 1)] * len(corners),
        constraints={
            "type": "eq",
            "fun": lambda weights: weights.sum() - 1,
            "jac": lambda weights: np.ones(len(corners)),
        },
        method="SLSQP",
        options={"maxiter": 100, "ftol": 1e-10},
    ).x
    best = np.where(best > 1e-9, best, 0)
    return np.asarray(best / best.sum())


def _slopes(value: Value, point: np.ndarray) -> np.ndarray:
    """Return the slopes (D,) of the value at `point` (D,), by central differences."""
    steps = STEP * np.eye(len(point))
    ends = value(np.vstack([point + steps, point - steps]))
    return np.asarray((ends[: len(point)] - ends[len(point) :]) / (2 * STEP))
