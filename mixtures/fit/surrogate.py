"""A surrogate of a swarm: predictions from shares, their cross-validation, and the best mixture by them.

`fit_surrogate` fits the surrogate to shares and measurements, and cross-validates it. `best_mixture` finds the lowest
prediction among convex combinations of the mixtures tried. mixtures/fit/regressions.py has the regressions,
mixtures/fit/validation.py the cross-validation, mixtures/fit/hull.py the search.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixtures.errors import UserError, quoted
from mixtures.fit.hull import INSIDE, lowest, violation
from mixtures.fit.regressions import MODELS, STEPWISE, SURROGATES, Predictor
from mixtures.fit.validation import Score, cross_validate, permutation_p

FOLDS = 10
ONE_BY_ONE = 20  # up to this number of mixtures, a fold is one mixture
LEAST = 4  # fewest mixtures for which there is an interval
CHANCE = 0.025  # largest p-value of shares that say something: one-sided, as an interval of 95 % that is above 0
DIGITS = 9  # mixtures whose shares agree up to this digit count as one, which must not be in two folds


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A regression of M metrics on the shares of D domains, fitted to K different mixtures."""

    model: str
    domains: tuple[str, ...]
    metrics: tuple[str, ...]
    importance: dict[str, float]  # {metric that counts: importance}, sum 1
    mixtures: int  # K
    folds: int
    scores: dict[str, Score]  # of every model that was tried, and of MEAN
    p: float  # p-value that the shares say nothing about the objective (`permutation_p`)
    predictor: Predictor

    @property
    def spearman(self) -> float:
        """Cross-validated rank correlation of the predicted with the measured objective."""
        return self.scores[self.model].spearman

    @property
    def spearman_ci(self) -> tuple[float, float]:
        """95 % interval of the rank correlation."""
        return self.scores[self.model].spearman_ci

    @property
    def ranks(self) -> bool:
        """Whether it ranks mixtures that it has not seen.

        The interval of its rank correlation is above 0, and the permutation test finds that shares say something.
        """
        return self.spearman_ci[0] > 0 and self.p <= CHANCE

    @property
    def r2(self) -> float:
        """Cross-validated share of the objective's variance that is predicted."""
        return self.scores[self.model].r2

    @property
    def rmse(self) -> float:
        """Cross-validated error of the objective, root mean square."""
        return self.scores[self.model].rmse

    def predict_metrics(self, shares: np.ndarray) -> np.ndarray:
        """Return the predicted metrics (N, M) for shares (N, D)."""
        return self.predictor(np.asarray(shares, dtype=np.float64))

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Return the predicted objective (N,) for shares (N, D): the metrics' mean, weighted by importance."""
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
    """Fit a surrogate that predicts the metrics of a mixture from its shares.

    ratios:      shares (lines, D); every line sums to 1.
    metrics:     measurements (lines, M), lower is better, with the same labels.
    importance:  {metric: number}; the objective is the mean of the metrics with these weights (None: equal weights).
    model:       ridge, law, boosting, or auto. auto takes the model whose cross-validated predictions of the objective
                 have the best rank correlation, to two digits; of equal ones the simplest.
    seed:        seed of the folds and of boosting.

    Lines with the same shares are one mixture, and their metrics are averaged. Every metric is regressed by itself.
    Raises UserError for tables that do not fit together, values that are not finite, and fewer than 4 different
    mixtures.
    """
    if model not in MODELS:
        raise UserError(f"model {quoted(model)}; allowed: {', '.join(MODELS)}")
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
        p=permutation_p(shares, values @ objective, folds=folds, seed=seed),
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
    """Return the shares (D,) with the lowest predicted objective among convex combinations of `ratios` (K, D).

    pull:          how much each nat of KL divergence from the mean of the mixtures must lower the objective.
    lower, upper:  least and largest shares (D,).

    The search is deterministic. Raises UserError if no combination of the mixtures tried keeps these bounds.
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
    """Return the different mixtures, and the mean of every metric over the lines of each mixture.

    A mixture has the label of its first line.
    """
    group = ratios.round(DIGITS).groupby(list(ratios.columns), sort=False).ngroup()
    first = ~group.duplicated().to_numpy()
    means = metrics.groupby(group.to_numpy(), sort=False).mean()
    return ratios[first], means.set_axis(ratios.index[first])


def normalized_importance(importance: Mapping[str, float] | None, metrics: list[str]) -> np.ndarray:
    """Return the importances (M,) in the order of `metrics`, scaled to sum 1; None gives equal ones.

    Raises UserError for unknown metrics, and for importances that are negative, not finite, or all 0.
    """
    if importance is None:
        return np.full(len(metrics), 1 / len(metrics))
    faults = [f"there is no metric {name}" for name in importance if name not in metrics]
    faults += [
        f"{name}={value:g} is not an importance" for name, value in importance.items() if not 0 <= value < math.inf
    ]
    if faults or not sum(importance.values()) > 0:
        raise UserError(
            f"objective: {'; '.join(faults) or 'every importance is 0'}; the metrics are {', '.join(metrics)}; "
            "give finite importances of at least 0, one of them above 0"
        )
    weights = np.array([importance.get(name, 0.0) for name in metrics], dtype=np.float64)
    return weights / weights.sum()


def _divergence(shares: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the KL divergence (N,) of shares (N, D) from `centre` (D,), in nats; domains that are 0 in both add 0."""
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
            f"different labels"
        )
    if not len(metrics.columns) or len(ratios.columns) < 2:
        faults.append(
            f"{len(ratios.columns)} domain(s) and {len(metrics.columns)} metric(s); needed: at least two domains and "
            f"one metric"
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
