"""Surrogates: from the shares of a swarm's mixtures to what was measured of each, learned by regression. Pure.

A fit takes shares (K, D), measurements (K, M) and a seed, regresses every column for itself, and gives the function
from shares (N, D) to predictions (N, M).
"""

from collections.abc import Callable

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]
Regression = Callable[[np.ndarray, np.ndarray, int], Predictor]

ALPHAS = np.logspace(-4, 4, 33)  # of features with variance 1
NEAR_ZERO = 0.1  # of the uniform share: below it the logarithm of a share hardly falls any more
FLOORS = (0.1, 1.0, 10.0)  # where the law's search starts: how far its c lies below all measurements, in their ranges
PENALTY = 1e-3  # on the law's slopes: with few mixtures more than one set of them fits
STEEPEST = 30.0  # exponent that no fit comes near


def fit_ridge(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Linear in the shares and their logarithms, shrunk; how much by leave-one-out errors. There is no chance in it."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit(_features(shares))
    ridge = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(scaled.transform(_features(shares)), values)
    return lambda new: np.asarray(ridge.predict(scaled.transform(_features(new)))).reshape(len(new), -1)


def fit_law(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """The data mixing law L = c + k exp(sum_j t_j w_j), by least squares from several starts. There is no chance in it.

    Ye et al., Data Mixing Laws, arXiv 2403.16952, eq. 8. Shares sum to 1, so that log k is one number added to every
    t_j, and k is left out.
    """
    low = values.min(axis=0)
    span = np.ptp(values, axis=0)
    span = np.where(span > 0, span, 1.0)
    laws = np.array([_law(shares, column) for column in ((values - low) / span).T])  # (M, 1 + D)
    return lambda new: np.asarray(low + span * _predict(laws, new))


def fit_boosting(shares: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Gradient boosting (RegMix, arXiv 2407.01492) of shallow trees, as small tables need them."""
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
    return lambda new: np.column_stack([each.predict(new) for each in trees])


SURROGATES: dict[str, Regression] = {"ridge": fit_ridge, "law": fit_law, "boosting": fit_boosting}  # simple ones first
MODELS = ("auto", *SURROGATES)
STEPWISE = ("boosting",)  # predictions without slopes


def _features(shares: np.ndarray) -> np.ndarray:
    return np.hstack([shares, np.log(shares + NEAR_ZERO / shares.shape[1])])


def _law(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(1 + D,) log(-c), then t, for values (K,) from 0 on: the best of several starts."""
    from scipy.optimize import least_squares

    domains = shares.shape[1]
    flat = PENALTY * (np.eye(domains) - 1 / domains)  # slopes that are all alike are k, which is free

    def residuals(law: np.ndarray) -> np.ndarray:
        return np.concatenate([_predict(law[None], shares)[:, 0] - values, flat @ law[1:]])

    def jacobian(law: np.ndarray) -> np.ndarray:
        c = -np.exp(law[0])
        rise = _predict(law[None], shares) - c
        return np.vstack(
            [np.column_stack([np.full(len(shares), c), shares * rise]), np.column_stack([np.zeros(domains), flat])]
        )

    found = [
        least_squares(residuals, _start(shares, values, floor), jac=jacobian, method="lm", max_nfev=200)
        for floor in FLOORS
    ]
    return np.asarray(min(found, key=lambda result: result.cost).x)


def _predict(laws: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N, M) of laws (M, 1 + D) for shares (N, D)."""
    return np.asarray(np.exp(np.minimum(shares @ laws[:, 1:].T, STEEPEST)) - np.exp(np.minimum(laws[:, 0], STEEPEST)))


def _start(shares: np.ndarray, values: np.ndarray, floor: float) -> np.ndarray:
    """The law for c = -floor by linear regression of log(L - c) on the shares."""
    return np.append(np.log(floor), np.linalg.lstsq(shares, np.log(values + floor), rcond=1e-6)[0])
