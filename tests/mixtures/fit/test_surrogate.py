import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

import mixtures.fit.regressions
import mixtures.fit.surrogate
from mixtures.errors import UserError
from mixtures.fit.hull import INSIDE, reach, violation
from mixtures.fit.optimum import unsupported
from mixtures.fit.regressions import SURROGATES, fit_law, fit_ridge
from mixtures.fit.surrogate import Surrogate, best_mixture, fit_surrogate
from mixtures.fit.validation import MEAN, PERMUTATIONS, Score, cross_validate, permutation_p, spearman_interval
from tests.mixtures.fit.helpers import DOMAINS, frames, law, planted, swarm_shares

OPTIMUM = np.array([0.26, 0.2, 0.16, 0.14, 0.1, 0.08, 0.06])


def fitted(shares: np.ndarray, values: np.ndarray, **choices: object) -> tuple[Surrogate, pd.DataFrame]:
    ratios, metrics = frames(shares, values)
    return fit_surrogate(ratios, metrics, **choices), ratios  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "model"), [(0, "auto"), (1, "law"), (2, "law"), (1, "ridge"), (2, "ridge")])
def test_planted_optimum_is_found_within_five_percent(seed: int, model: str) -> None:
    rng = np.random.default_rng(seed)
    shares = swarm_shares(rng)
    assert violation(shares, lower=OPTIMUM, upper=OPTIMUM) <= INSIDE
    noisy = planted(shares, OPTIMUM) + rng.normal(0, 0.004, shares.shape)
    surrogate, ratios = fitted(shares, noisy, model=model)
    found = best_mixture(surrogate, ratios)
    assert np.abs(found - OPTIMUM).max() < 0.05
    assert abs(found.sum() - 1) < 1e-9
    assert surrogate.spearman_ci[0] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["law", "ridge", "boosting"])
def test_optimum_outside_of_what_was_tried_is_not_jumped_to(model: str) -> None:
    rng = np.random.default_rng(3)
    far = np.array([0.64, *np.full(DOMAINS - 1, 0.06)])
    shares = rng.dirichlet(np.full(DOMAINS, 20.0), 32)
    assert shares[:, 0].max() < 0.4
    surrogate, ratios = fitted(shares, planted(shares, far).mean(axis=1, keepdims=True), model=model)
    found = best_mixture(surrogate, ratios)
    assert violation(shares, lower=found, upper=found) <= 10 * INSIDE
    assert found[0] <= shares[:, 0].max()
    assert found[0] > 0.18  # it goes that way
    if model == "law":
        assert reach(found, shares) < 1.01


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SURROGATES))
def test_same_tables_give_the_same_mixture(model: str) -> None:
    shares = swarm_shares(np.random.default_rng(0), count=24)
    found = [best_mixture(*fitted(shares, law(shares)[:, :1], model=model)) for _ in range(2)]
    assert np.array_equal(*found)


def test_law_without_noise_is_recovered() -> None:
    shares = swarm_shares(np.random.default_rng(0))
    new = np.random.default_rng(1).dirichlet(np.ones(DOMAINS), 50)
    assert np.allclose(fit_law(shares, law(shares), 0)(new), law(new), atol=1e-3)


@pytest.mark.slow
def test_a_metric_that_never_changes_is_predicted_as_it_is() -> None:
    shares = swarm_shares(np.random.default_rng(0))
    for fit in SURROGATES.values():
        assert np.allclose(fit(shares, np.full((len(shares), 1), 2.5), 0)(shares), 2.5, atol=1e-3)


@pytest.mark.slow
def test_ridge_is_its_closed_form_at_the_best_leave_one_out_alpha() -> None:
    rng = np.random.default_rng(0)
    shares = swarm_shares(rng, count=16)
    values = law(shares)[:, 0] + rng.normal(0, 0.02, len(shares))
    features = np.hstack([shares, np.log(shares + 0.1 / DOMAINS)])
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)

    def error(alpha: float) -> float:
        rest = [np.arange(len(shares)) != left for left in range(len(shares))]
        models = [Ridge(alpha=alpha).fit(scaled[kept], values[kept]) for kept in rest]
        return float(
            np.mean(
                [
                    (model.predict(scaled[~kept])[0] - values[~kept][0]) ** 2
                    for model, kept in zip(models, rest, strict=True)
                ]
            )
        )

    best = min(mixtures.fit.regressions.ALPHAS, key=error)
    slow = Ridge(alpha=best).fit(scaled, values).predict(scaled)
    assert np.allclose(fit_ridge(shares, values[:, None], 0)(shares)[:, 0], slow, atol=1e-9)


def test_cross_validation_never_sees_the_mixture_it_predicts() -> None:
    rng = np.random.default_rng(0)
    shares = swarm_shares(rng, count=14)
    values = law(shares)[:, :3] + rng.normal(0, 0.02, (len(shares), 3))
    objective = np.array([0.5, 0.5, 0.0])
    score = cross_validate(shares, values, objective, models=("ridge",), folds=len(shares), seed=0)["ridge"]
    predicted = []
    for left in range(len(shares)):
        rest = np.arange(len(shares)) != left
        predicted.append((fit_ridge(shares[rest], values[rest], 0)(shares[[left]]) @ objective)[0])
    measured = values @ objective
    assert score.rmse == pytest.approx(np.sqrt(np.mean((predicted - measured) ** 2)), abs=1e-12)
    assert score.spearman == pytest.approx(stats.spearmanr(predicted, measured).statistic)
    assert score.r2 == pytest.approx(1 - score.rmse**2 / measured.var())


def test_repeated_mixtures_are_one_and_their_metrics_are_averaged() -> None:
    shares = swarm_shares(np.random.default_rng(0), count=16)
    values = law(shares)[:, :2]
    once, _ = fitted(shares, values, model="ridge")
    noise = np.where(np.arange(len(shares)) % 2, 0.3, -0.3)[:, None]
    twice, _ = fitted(np.vstack([shares, shares]), np.vstack([values + noise, values - noise]), model="ridge")
    assert (once.mixtures, twice.mixtures) == (16, 16)
    assert twice.rmse == pytest.approx(once.rmse)
    assert np.allclose(once.predict(shares), twice.predict(shares))


@pytest.mark.slow
def test_rank_correlation_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    for rho, count in ((0.0, 25), (0.6, 25), (0.9, 40)):
        truth = 6 / np.pi * np.arcsin(rho / 2)
        pairs = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=(1000, count))
        ranks = stats.rankdata(pairs, axis=1)
        centred = ranks - ranks.mean(axis=1, keepdims=True)
        found = (centred[..., 0] * centred[..., 1]).sum(axis=1) / np.sqrt((centred**2).sum(axis=1).prod(axis=1))
        intervals = [spearman_interval(value, count) for value in found]
        assert 0.92 < np.mean([low <= truth <= high for low, high in intervals]) < 0.98


def test_noise_is_refused_with_the_numbers() -> None:
    rng = np.random.default_rng(0)
    shares = swarm_shares(rng)
    surrogate, _ = fitted(shares, rng.normal(size=(len(shares), 2)), model="ridge")
    refusal = unsupported(surrogate)
    for part in ("not distinguishable from 0", f"{surrogate.spearman:.2f}", "32 mixtures", "--force"):
        assert part in refusal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spearman", "chosen"), [((0.8, 0.9, 0.7), "law"), ((0.901, 0.9, 0.899), "ridge"), ((0.1, 0.9, 0.95), "boosting")]
)
def test_auto_takes_the_best_rank_correlation_and_the_simpler_of_equals(
    monkeypatch: pytest.MonkeyPatch, spearman: tuple[float, ...], chosen: str
) -> None:
    scores = {name: Score(value, (0, 1), 0.5, 0.1) for name, value in zip(SURROGATES, spearman, strict=True)}
    monkeypatch.setattr(mixtures.fit.surrogate, "permutation_p", lambda *_, **__: 0.001)
    monkeypatch.setattr(
        mixtures.fit.surrogate, "cross_validate", lambda *_, **__: {MEAN: Score(0, (0, 0), 0, 1), **scores}
    )
    shares = swarm_shares(np.random.default_rng(0), count=12)
    assert fitted(shares, law(shares)[:, :1])[0].model == chosen


@pytest.mark.slow
def test_permutation_p_is_that_of_a_loop_over_permuted_tables() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 12)
    measured = shares[:, 0] + 0.3 * rng.normal(size=12)
    order = np.random.default_rng(5)
    tables = [measured, *(order.permutation(measured) for _ in range(PERMUTATIONS))][:20]

    def ranks(table: np.ndarray) -> float:
        predicted = np.empty(12)
        for rest, fold in KFold(12, shuffle=True, random_state=5).split(shares):
            predicted[fold] = fit_ridge(shares[rest], table[rest][:, None], 5)(shares[fold])[:, 0]
        return float(stats.spearmanr(predicted, table).statistic)

    found = permutation_p(shares, measured, folds=12, seed=5, permutations=19)
    assert found == np.mean([ranks(table) >= ranks(measured) - 1e-12 for table in tables])
    assert 1 / 20 <= found < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("count", "domains"), [(8, 3), (12, 10), (21, 6)])
def test_on_noise_the_permutation_test_errs_as_often_as_it_says(count: int, domains: int) -> None:
    """Whatever the surrogate: one that ranks by the interval alone was found in up to a quarter of such tables."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        shares, measured = rng.dirichlet(np.ones(domains), count), rng.normal(size=count)
        folds = count if count <= 20 else 10
        found.append(permutation_p(shares, measured, folds=folds, seed=0, permutations=99))
    assert np.mean(np.array(found) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_objective_is_the_mean_of_the_metrics_weighted_by_importance() -> None:
    shares = swarm_shares(np.random.default_rng(0), count=12)
    surrogate, _ = fitted(shares, law(shares)[:, :3], model="ridge", importance={"m0": 3, "m2": 1})
    metrics = surrogate.predict_metrics(shares)
    assert metrics.shape == (12, 3)
    assert np.allclose(surrogate.predict(shares), 0.75 * metrics[:, 0] + 0.25 * metrics[:, 2])
    assert surrogate.importance == {"m0": 0.75, "m2": 0.25}


@pytest.mark.slow
def test_pull_brings_the_optimum_to_the_mean_of_what_was_tried() -> None:
    shares = swarm_shares(np.random.default_rng(0))
    surrogate, ratios = fitted(shares, planted(shares, OPTIMUM), model="law")
    mean = shares.mean(axis=0)
    away = [np.abs(best_mixture(surrogate, ratios, pull=pull) - mean).max() for pull in (0.0, 0.02, 10.0)]
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-3


@pytest.mark.slow
def test_bounds_are_kept_and_out_of_reach_ones_refused_with_the_numbers() -> None:
    shares = swarm_shares(np.random.default_rng(0))
    surrogate, ratios = fitted(shares, planted(shares, OPTIMUM), model="law")
    lower, upper = np.full(DOMAINS, 0.08), np.array([0.2, *np.ones(DOMAINS - 1)])
    found = best_mixture(surrogate, ratios, lower=lower, upper=upper)
    assert (found >= lower - 2 * INSIDE).all()
    assert (found <= upper + 2 * INSIDE).all()
    assert found[0] == pytest.approx(0.2, abs=1e-4)
    with pytest.raises(
        UserError, match=r"(?s)misses one by a share of 0\.\d+.*d0: allowed 0.9 to 1, tried 0\.0\d+ to 0\.74"
    ):
        best_mixture(surrogate, ratios, lower=np.array([0.9, *np.zeros(DOMAINS - 1)]))


def test_tables_that_do_not_fit_are_refused_with_all_faults() -> None:
    shares = swarm_shares(np.random.default_rng(0), count=12)
    ratios, metrics = frames(shares, law(shares)[:, :2])
    metrics.loc[3, "m1"] = np.nan
    ratios.loc[5, "d0"] += 0.5
    with pytest.raises(UserError, match=r"(?s)m1 is not finite in 1 line.*do not sum to 1: 5"):
        fit_surrogate(ratios, metrics)
    with pytest.raises(UserError, match=r"there is no metric m7; m0=-1 is not an importance; the metrics are m0, m1"):
        fit_surrogate(*frames(shares, law(shares)[:, :2]), importance={"m7": 1, "m0": -1})
    with pytest.raises(UserError, match="allowed: auto, ridge, law, boosting"):
        fit_surrogate(*frames(shares, law(shares)[:, :2]), model="tree")
    with pytest.raises(UserError, match="3 different mixtures: a regression needs at least 4"):
        fit_surrogate(*frames(shares[[0, 1, 2, 2]], law(shares)[:4, :2]))
