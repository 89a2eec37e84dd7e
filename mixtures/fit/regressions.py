"""Regressions of a swarm's measurements on its mixtures' shares. Pure functions.

Each takes shares (K, D), measurements (K, M) and a seed, fits every column of the measurements by itself, and returns a
function from shares (N, D) to predictions (N, M).
"""

from collections.abc import Callable

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]
Regression = Callable[[np.ndarray, np.ndarray, int], Predictor]

ALPHAS = np.logspace(-4, 4, 33)  # penalties that ridge tries, for features with variance 1
NEAR_ZERO = 0.1  # part of the uniform share that is added to a share before its logarithm is taken
FLOORS = (0.1, 1.0, 10.0)  # starts of the law's search: distance of c below all measurements, in units of their range
PENALTY = 1e-3  # penalty on the law's slopes; without it, several sets of slopes fit if there are few mixtures
STEEPEST = 30.0  # upper limit of exponents, far above those of any fit


def fit_ridge(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fit a ridge regression on the shares and their logarithms; leave-one-out errors choose the penalty.

    `seed` is not used.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit(_features(shares))
    ridge = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(scaled.transform(_features(shares)), values)
    return lambda new: np.asarray(ridge.predict(scaled.transform(_features(new)))).reshape(len(new), -1)


def fit_law(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fit the data mixing law L = c + k exp(sum_j t_j w_j), by least squares from several starts.

    Ye et al., Data Mixing Laws, arXiv 2403.16952, eq. 8. Because shares w sum to 1, log k can be added to every t_j, so
    k is left out. `seed` is not used.
    """
    low = values.min(axis=0)
    span = np.ptp(values, axis=0)
    span = np.where(span > 0, span, 1.0)
    laws = np.array([_law(shares, column) for column in ((values - low) / span).T])  # (M, 1 + D)
    return lambda new: np.asarray(low + span * _predict(laws, new))


def fit_boosting(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fit gradient boosting (RegMix, arXiv 2407.01492) with shallow trees, which suit small tables."""
    from sklearn.ensemble import GradientBoostingRegressor

    settings = {
        "n_estimators": 100,
        "learning_rate": 0.1,
        "max_depth": 2,
        "min_samples_leaf": 3,
        "subsample": 0.7,
        "random_state": seed,
    }
    trees = [GradientBoostingRegressor(**settings).fit(shares, column) for column in values.T]
    return lambda new: np.column_stack([tree.predict(new) for tree in trees])


SURROGATES: dict[str, Regression] = {"ridge": fit_ridge, "law": fit_law, "boosting": fit_boosting}  # simplest first
MODELS = ("auto", *SURROGATES)
STEPWISE = ("boosting",)  # models whose predictions have no slopes


def _features(shares: np.ndarray) -> np.ndarray:
    return np.hstack([shares, np.log(shares + NEAR_ZERO / shares.shape[1])])


def _law(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the law (1 + D,) that fits values (K,) whose minimum is 0: log(-c), then t; the best of several starts."""
    from scipy.optimize import least_squares

    domains = shares.shape[1]
    flat = PENALTY * (np.eye(domains) - 1 / domains)  # the mean slope stands for log k and has no penalty

    def residuals(law: np.ndarray) -> np.ndarray:
        return np.concatenate([_predict(law[None], shares)[:, 0] - values, flat @ law[1:]])

    def jacobian(law: np.ndarray) -> np.ndarray:
        c = -np.exp(law[0])
        rise = _predict(law[None], shares) - c
        return np.vstack(
            [np.column_stack([np.full(len(shares), c), shares * rise]), np.column_stack([np.zeros(domains), flat])]
        )

    fits = [
        least_squares(residuals, _start(shares, values, floor), jac=jacobian, method="lm", max_nfev=200)
        for floor in FLOORS
    ]
    return np.asarray(min(fits, key=lambda result: result.cost).x)


def _predict(laws: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the predictions (N, M) of laws (M, 1 + D) for shares (N, D)."""
    return np.asarray(np.exp(np.minimum(shares @ laws[:, 1:].T, STEEPEST)) - np.exp(np.minimum(laws[:, 0], STEEPEST)))


def _start(shares: np.ndarray, values: np.ndarray, floor: float) -> np.ndarray:
    """Return the law (1 + D,) with c = -floor, by linear regression of log(L - c) on the shares."""
    return np.append(np.log(floor), np.linalg.lstsq(shares, np.log(values + floor), rcond=1e-6)[0])
