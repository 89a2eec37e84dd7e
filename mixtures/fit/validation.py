"""Cross-validation: how good a surrogate's predictions are for mixtures that it has not seen. Pure functions."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.model_selection import KFold

from mixtures.fit.regressions import SURROGATES, fit_ridge

MEAN = "mean"  # name of the baseline that predicts the mean of the other mixtures
CONFIDENCE = 0.95
PERMUTATIONS = 999


@dataclass(frozen=True)
class Score:
    """Scores of cross-validated predictions of the objective; NaN where predictions or measurements do not vary."""

    spearman: float
    spearman_ci: tuple[float, float]  # 95 %
    r2: float
    rmse: float


def cross_validate(
    shares: np.ndarray, values: np.ndarray, objective: np.ndarray, *, models: tuple[str, ...], folds: int, seed: int
) -> dict[str, Score]:
    """Return the score of every model and of MEAN: a mixture is predicted from the mixtures of the other folds.

    shares:     (K, D).
    values:     metrics (K, M).
    objective:  importance of the metrics (M,), sum 1.
    """
    used = objective > 0
    measured = values @ objective
    predictions = {name: np.empty(len(shares)) for name in (MEAN, *models)}
    for rest, fold in KFold(folds, shuffle=True, random_state=seed).split(shares):
        predictions[MEAN][fold] = measured[rest].mean()
        for name in models:
            predict = SURROGATES[name](shares[rest], values[rest][:, used], seed)
            predictions[name][fold] = predict(shares[fold]) @ objective[used]
    return {name: _score(predicted, measured, ranked=name != MEAN) for name, predicted in predictions.items()}


def _score(predicted: np.ndarray, measured: np.ndarray, *, ranked: bool) -> Score:
    error = float(np.mean((predicted - measured) ** 2))
    variance = float(measured.var())
    rho = float("nan")
    if ranked and variance > 0 and np.ptp(predicted) > 0:
        rho = float(stats.spearmanr(predicted, measured).statistic)
    return Score(
        rho, spearman_interval(rho, len(measured)), 1 - error / variance if variance > 0 else math.nan, math.sqrt(error)
    )


def spearman_interval(rho: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation over `count` pairs.

    It is Fisher's z with the variance of Bonett and Wright (2000).
    """
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + rho**2 / 2) / (count - 3))
    z = math.atanh(max(-1 + 1e-12, min(rho, 1 - 1e-12))) if rho == rho else math.nan
    return math.tanh(z - half), math.tanh(z + half)


def permutation_p(
    shares: np.ndarray, measured: np.ndarray, *, folds: int, seed: int, permutations: int = PERMUTATIONS
) -> float:
    """Return the p-value that the shares (K, D) say nothing about the measured objective (K,).

    It is the share of tables with the measurements in random order, the table itself included, in which the predictions
    of a cross-validated ridge regression have as high a rank correlation with the measurements. So it holds for any
    number of mixtures and domains, and does not depend on which surrogate is chosen afterwards. An interval around the
    best of several rank correlations does not: on noise it lies above 0 in up to one table of four.
    """
    order = np.random.default_rng(seed)
    tables = np.column_stack([measured, *(order.permutation(measured) for _ in range(permutations))])
    predicted = np.empty_like(tables)
    for rest, fold in KFold(folds, shuffle=True, random_state=seed).split(shares):
        predicted[fold] = fit_ridge(shares[rest], tables[rest], seed)(shares[fold])
    first, second = (stats.rankdata(np.round(table, 12), axis=0) for table in (predicted, tables))
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    ranks = np.divide((first * second).sum(axis=0), scale, out=np.full(len(scale), -1.0), where=scale > 0)
    return float(np.mean(ranks >= ranks[0] - 1e-12))
