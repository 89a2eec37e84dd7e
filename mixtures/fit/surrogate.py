"""A swarm's table -> the mixture that regression on it thinks best, never outside of what was tried.

`fit_surrogate` learns from shares and measurements and says by cross-validation what that is worth; `best_mixture`
looks for the lowest prediction among convex combinations of the mixtures tried. mixtures/fit/regressions.py has the
regressions, mixtures/fit/validation.py the cross-validation, mixtures/fit/hull.py the search.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixtures.errors import UserError
from mixtures.fit.hull import INSIDE, lowest, violation
from mixtures.fit.regressions import MODELS, STEPWISE, SURROGATES, Predictor
from mixtures.fit.validation import Score, cross_validate

FOLDS = 10
ONE_BY_ONE = 20  # up to here a fold is one mixture
LEAST = 4  # mixtures without which there is no interval
DIGITS = 9  # of shares: mixtures that are alike up to here are one, which must not stand in two folds


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A regression of measurements on shares. D domains, M metrics, K different mixtures."""

    model: str
    domains: tuple[str, ...]
    metrics: tuple[str, ...]
    importance: dict[str, float]  # of the metrics that count, sum 1
    mixtures: int
    folds: int
    scores: dict[str, Score]  # of every model that was tried, and of MEAN
    predictor: Predictor

    @property
    def spearman(self) -> float:
        """Cross-validated rank correlation of the objective."""
        return self.scores[self.model].spearman

    @property
    def spearman_ci(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return self.scores[self.model].spearman_ci

    @property
    def ranks(self) -> bool:
        """It tells good mixtures from bad ones that it has not seen: the interval is above 0."""
        return self.spearman_ci[0] > 0

    @property
    def r2(self) -> float:
        """Cross-validated share of the objective's variance that is predicted."""
        return self.scores[self.model].r2

    @property
    def rmse(self) -> float:
        """Cross-validated error of the objective, root mean square."""
        return self.scores[self.model].rmse

    def predict_metrics(self, shares: np.ndarray) -> np.ndarray:
        """(N, M) for shares (N, D)."""
        return self.predictor(np.asarray(shares, dtype=np.float64))

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """(N,) the objective, the mean of the metrics weighted by importance, for shares (N, D)."""
        weights = np.array([self.importance.get(name, 0.0) for name in self.metrics])
        return np.asarray(self.predict_metrics(shares) @ weights)


def fit_surrogate(
    ratios: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    importance: Mapping[str, float] | None = None,
    model: str = "auto",
    seed: int = 0,
) -> Surrogate:
    """The surrogate of `metrics` (K, M; lower is better) by `ratios` (K, D; shares, every line sums to 1), line by
    line.

    importance: {metric: number}, what the objective is the mean of (None: all metrics alike). model: ridge, law,
    boosting, or auto: the one whose cross-validated predictions of the objective have the best rank correlation, to two
    digits (ties: the simpler). Lines with the same shares are one mixture, their metrics averaged. Every metric is
    regressed for itself.
    Raises UserError for tables that do not fit together, values that are not finite, fewer than 4 different mixtures.
    """
    if model not in MODELS:
        raise UserError(f"model {model!r}; allowed: {', '.join(MODELS)}")
    _check_tables(ratios, metrics)
    objective = normalized_importance(importance, list(metrics.columns))
    shares, values = (frame.to_numpy(dtype=np.float64) for frame in distinct(ratios, metrics))
    if len(shares) < LEAST:
        raise UserError(
            f"{len(shares)} different mixtures: a regression needs at least {LEAST}; add mixtures to the swarm"
        )
    tried = tuple(SURROGATES) if model == "auto" else (model,)
    folds = len(shares) if len(shares) <= ONE_BY_ONE else FOLDS
    scores = cross_validate(shares, values, objective, models=tried, folds=folds, seed=seed)
    chosen = max(tried, key=lambda name: round(np.nan_to_num(scores[name].spearman, nan=-1.0), 2))
    return Surrogate(
        model=chosen,
        domains=tuple(map(str, ratios.columns)),
        metrics=tuple(map(str, metrics.columns)),
        importance={
            str(name): float(weight) for name, weight in zip(metrics.columns, objective, strict=True) if weight
        },
        mixtures=len(shares),
        folds=folds,
        scores=scores,
        predictor=SURROGATES[chosen](shares, values, seed),
    )


def best_mixture(
    surrogate: Surrogate,
    ratios: pd.DataFrame,
    *,
    pull: float = 0.0,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
) -> np.ndarray:
    """(D,) shares with the lowest predicted objective among convex combinations of the mixtures `ratios` (K, D).
    Deterministic.

    pull: objective that a nat of KL divergence from the mean of the mixtures must earn. lower, upper (D,): least and
    largest shares.
    Raises UserError where no combination of what was tried keeps these bounds.
    """
    tried = np.unique(ratios.to_numpy(dtype=np.float64), axis=0)
    domains = tried.shape[1]
    lower, upper = np.zeros(domains) if lower is None else lower, np.ones(domains) if upper is None else upper
    if (misses := violation(tried, lower=lower, upper=upper)) > INSIDE:
        raise UserError(_out_of_reach(surrogate.domains, tried, lower, upper, misses))
    centre = tried.mean(axis=0)

    def value(shares: np.ndarray) -> np.ndarray:
        predicted = surrogate.predict(shares)
        return predicted + pull * _divergence(shares, centre) if pull else predicted

    return lowest(value, tried, lower=lower, upper=upper, smooth=surrogate.model not in STEPWISE)


def distinct(ratios: pd.DataFrame, metrics: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The different mixtures, labelled as the first line of each, and the mean of every metric over the lines of
    each.
    """
    group = ratios.round(DIGITS).groupby(list(ratios.columns), sort=False).ngroup()
    first = ~group.duplicated().to_numpy()
    means = metrics.groupby(group.to_numpy(), sort=False).mean()
    return ratios[first], means.set_axis(ratios.index[first])


def normalized_importance(importance: Mapping[str, float] | None, metrics: list[str]) -> np.ndarray:
    """(M,) sum 1, in the order of `metrics`.

    Raises UserError for unknown metrics and numbers that are no importance.
    """
    if importance is None:
        return np.full(len(metrics), 1 / len(metrics))
    faults = [f"there is no metric {name}" for name in importance if name not in metrics]
    faults += [f"{name}={value:g} is no importance" for name, value in importance.items() if not 0 <= value < math.inf]
    if faults or not sum(importance.values()) > 0:
        raise UserError(
            f"objective: {'; '.join(faults) or 'every importance is 0'}; the metrics are {', '.join(metrics)}; "
            "give finite importances of at least 0, one of them above 0"
        )
    weights = np.array([importance.get(name, 0.0) for name in metrics], dtype=np.float64)
    return weights / weights.sum()


def _divergence(shares: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(N,) KL divergence of shares (N, D) from `centre` (D,), nats; a domain that nobody tried has none in either."""
    used = centre > 0
    ratio = np.maximum(shares[:, used], 1e-12) / centre[used]
    return np.asarray((shares[:, used] * np.log(ratio)).sum(axis=1))


def _out_of_reach(
    names: tuple[str, ...], tried: np.ndarray, lower: np.ndarray, upper: np.ndarray, misses: float
) -> str:
    lines = [
        f"  - {name}: allowed {least:.4g} to {most:.4g}, tried {low:.4g} to {high:.4g}"
        for name, least, most, low, high in zip(names, lower, upper, tried.min(axis=0), tried.max(axis=0), strict=True)
        if least > 0 or most < 1
    ]
    return (
        f"no combination of the {len(tried)} mixtures tried keeps the bounds (the closest misses one by a share of "
        f"{misses:.3g}):\n" + "\n".join(lines) + "\nrelax the bounds, or add mixtures to the swarm that keep them"
    )


def _check_tables(ratios: pd.DataFrame, metrics: pd.DataFrame) -> None:
    faults = []
    if len(ratios) != len(metrics) or not ratios.index.equals(metrics.index):
        faults.append(
            f"the tables do not belong together: {len(ratios)} lines of shares, {len(metrics)} lines of metrics, or "
            f"other labels"
        )
    if not len(metrics.columns) or len(ratios.columns) < 2:
        faults.append(
            f"{len(ratios.columns)} domain(s) and {len(metrics.columns)} metric(s); needed: two domains and a metric "
            f"at least"
        )
    for name, column in metrics.items():
        if not np.isfinite(column.to_numpy(dtype=np.float64)).all():
            faults.append(f"metric {name} is not finite in {int((~np.isfinite(column.astype(float))).sum())} line(s)")
    shares = ratios.to_numpy(dtype=np.float64)
    off = ~(np.isfinite(shares).all(axis=1) & (shares >= 0).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) < 1e-6))
    if off.any():
        faults.append(
            f"lines whose shares are negative, not finite or do not sum to 1: "
            f"{', '.join(map(str, ratios.index[off][:6]))}"
        )
    if faults:
        raise UserError("\n".join(faults))
