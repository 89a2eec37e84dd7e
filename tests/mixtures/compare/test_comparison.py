"""What `summarize` makes of the tables of a comparison, and what it refuses."""

import math

import numpy as np
import pandas as pd
import pytest

from mixtures.compare.statistics import paired_difference
from mixtures.errors import UserError
from tests.mixtures.compare.helpers import END, change, drop, make_tables, of_run, summarized


def test_losses_are_those_of_the_last_step_written_out() -> None:
    tables = make_tables()
    tables["importance"] = {"wiki": 3.0, "law": 1.0}
    outcome = summarized(tables).outcome("natural")
    last = [row for _, row in tables["results"].iterrows() if row["step"] == END and row["mixture"] == "natural"]
    loss = {(row["seed"], row["domain"]): row["loss"] for row in last}
    bits = {(row["seed"], row["domain"]): row["bits_per_byte"] for row in last}
    mean = {name: (loss[0, name] + loss[1, name]) / 2 for name in ("wiki", "code", "law")}
    assert outcome.losses == pytest.approx(mean)
    assert outcome.mean_loss == pytest.approx(0.75 * mean["wiki"] + 0.25 * mean["law"])
    assert outcome.natural_loss == pytest.approx(mean["wiki"] / 6 + mean["code"] / 3 + mean["law"] / 2)
    assert outcome.worst_domain == max(("wiki", "law"), key=mean.__getitem__)
    assert outcome.worst_loss == pytest.approx(max(mean["wiki"], mean["law"]))
    assert outcome.perplexity == pytest.approx(math.exp(outcome.mean_loss))
    arithmetic = [0.75 * math.exp(loss[seed, "wiki"]) + 0.25 * math.exp(loss[seed, "law"]) for seed in (0, 1)]
    assert outcome.arithmetic_perplexity == pytest.approx(sum(arithmetic) / 2)
    assert outcome.bits_per_byte == pytest.approx(
        0.75 * (bits[0, "wiki"] + bits[1, "wiki"]) / 2 + 0.25 * (bits[0, "law"] + bits[1, "law"]) / 2
    )


def test_differences_are_paired_by_seed_and_row() -> None:
    tables = make_tables(effects={"natural": 0.1})
    comparison = summarized(tables)
    frame = tables["rows"].set_index(["mixture", "seed", "row"]).sort_index()
    arrays = [
        np.array(
            [
                [frame[frame["domain"] == domain].loc[(m, s), "loss"] for s in (0, 1)]
                for m in ("uniform", "natural", "unimax")
            ]
        )
        for domain in ("wiki", "code", "law")
    ]
    overall = paired_difference(arrays, [1 / 3] * 3, mixture=1, reference=0, pool=[0, 1, 2])
    code = paired_difference(arrays[1:2], [1.0], mixture=1, reference=0, pool=[0, 1, 2])
    outcome = comparison.outcome("natural")
    for found, expected in ((outcome.difference, overall), (outcome.by_domain["code"], code)):
        np.testing.assert_allclose(list(vars(found).values()), list(vars(expected).values()), rtol=1e-9)
    assert np.mean(list(outcome.by_seed.values())) == pytest.approx(outcome.difference.value)  # type: ignore[union-attr]
    assert comparison.outcomes[0].difference is None
    assert comparison.seed_degrees == 2


@pytest.mark.slow
def test_order_of_lines_does_not_matter() -> None:
    tables = make_tables()
    mixed = {**tables, **{name: tables[name].sample(frac=1, random_state=1) for name in ("results", "rows")}}
    for name in ("natural", "unimax"):
        first, second = (summarized(each).outcome(name) for each in (tables, mixed))
        np.testing.assert_allclose(list(vars(first.difference).values()), list(vars(second.difference).values()))
    assert summarized(mixed).outcomes[0].name == "uniform"


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_mixtures_are_ranked_as_they_were_made(noise: float) -> None:
    effects = {"natural": 0.2, "unimax": -0.1, "doremi": -0.3}
    comparison = summarized(make_tables(mixtures=["uniform", *effects], effects=effects, noise=noise))
    assert comparison.best == "doremi"
    assert comparison.tied == ()
    assert [outcome.name for outcome in comparison.compared if outcome.difference and outcome.difference.worse] == [
        "natural"
    ]


def test_no_best_where_mixtures_differ_by_noise_alone() -> None:
    comparison = summarized(make_tables(mixtures=["uniform", "natural", "unimax", "doremi"]))
    assert (comparison.best, comparison.tied) == (None, ())


def test_the_best_names_those_it_cannot_be_told_from() -> None:
    comparison = summarized(make_tables(effects={"natural": -0.3, "unimax": -0.301}))
    assert {comparison.best, *comparison.tied} == {"natural", "unimax"}


@pytest.mark.slow
def test_a_mixture_that_is_the_baseline_again_is_no_different() -> None:
    tables = make_tables()
    for name in ("results", "rows"):
        frame = tables[name]
        frame.loc[frame["mixture"] == "unimax", "loss"] = frame.loc[frame["mixture"] == "uniform", "loss"].to_numpy()
    comparison = summarized(tables)
    difference = comparison.outcome("unimax").difference
    assert difference is not None
    assert difference.identical
    assert (
        comparison.outcome("natural").difference
        == summarized(drop(tables, of_run("unimax"))).outcome("natural").difference
    )


def test_one_seed_leaves_the_interval_to_the_rows() -> None:
    comparison = summarized(make_tables(seeds=[3]))
    outcome = comparison.outcome("natural")
    assert comparison.seed_degrees == 0
    assert outcome.seeds == (3,)
    assert outcome.difference is not None
    assert outcome.difference.seed_variance == 0
    assert outcome.difference.known


def test_unequal_seeds_are_compared_by_pairs() -> None:
    tables = drop(make_tables(seeds=(0, 1, 2)), of_run("natural", 0))
    comparison = summarized(tables)
    outcome = comparison.outcome("natural")
    assert outcome.seeds == (1, 2)
    assert list(outcome.by_seed) == [1, 2]
    assert outcome.difference is not None
    assert outcome.difference.value == pytest.approx(np.mean(list(outcome.by_seed.values())))
    assert comparison.seed_degrees == 3


@pytest.mark.slow
def test_a_mixture_added_with_one_seed_leaves_the_others_as_they_were() -> None:
    tables = make_tables(seeds=(0, 1))
    fewer = drop(tables, of_run("unimax", 1))
    before = summarized(drop(tables, of_run("unimax"))).outcome("natural").difference
    after = summarized(fewer).outcome("natural").difference
    np.testing.assert_allclose(list(vars(after).values()), list(vars(before).values()), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_run_is_reported_and_never_averaged(value: float) -> None:
    tables = change(make_tables(seeds=(0, 1, 2)), of_run("natural", 1), lambda losses: value)
    comparison = summarized(tables)
    outcome = comparison.outcome("natural")
    assert outcome.diverged == (1,)
    assert outcome.seeds == (0, 1, 2)
    assert math.isnan(outcome.mean_loss)
    assert outcome.difference is None
    assert not outcome.by_domain
    assert list(outcome.by_seed) == [0, 2]
    assert (
        comparison.outcome("unimax").difference
        == summarized(drop(tables, of_run("natural"))).outcome("unimax").difference
    )


def test_a_run_that_stopped_when_it_diverged_is_diverged() -> None:
    tables = change(
        make_tables(), lambda frame: of_run("natural", 1)(frame) & (frame["domain"] == "code"), lambda losses: np.nan
    )
    tables["results"] = tables["results"][
        ~(of_run("natural", 1)(tables["results"]) & (tables["results"]["step"] > 500))
    ]
    tables["rows"] = tables["rows"][~of_run("natural", 1)(tables["rows"])]
    assert summarized(tables).outcome("natural").diverged == (1,)


def test_a_seed_with_which_the_baseline_diverged_makes_no_pair() -> None:
    tables = change(make_tables(seeds=(0, 1, 2)), of_run("uniform", 1), lambda losses: np.nan)
    comparison = summarized(tables)
    assert comparison.outcomes[0].diverged == (1,)
    assert list(comparison.outcome("natural").by_seed) == [0, 2]
    assert comparison.outcome("natural").difference is not None


def test_nothing_is_compared_where_everything_diverged() -> None:
    comparison = summarized(change(make_tables(), lambda frame: frame["seed"] >= 0, lambda losses: np.nan))
    assert comparison.compared == ()
    assert comparison.best is None


def test_a_seed_that_the_baseline_lacks_makes_no_pair() -> None:
    tables = drop(drop(make_tables(), of_run("uniform", 1)), of_run("natural", 0))
    outcome = summarized(tables).outcome("natural")
    assert outcome.difference is None
    assert outcome.diverged == ()
    assert math.isfinite(outcome.mean_loss)


def test_cost_is_in_percent_of_a_base_run() -> None:
    tables = make_tables()
    tables["costs"]["natural"] = {"seconds": 50.0, "flops": 2e11}
    outcome = summarized(tables).outcome("natural")
    assert (outcome.flops_percent, outcome.seconds_percent) == (20, 25)
    tables["base_cost"] = {"seconds": 0.0, "flops": 1e12}
    comparison = summarized(tables)
    assert math.isnan(comparison.outcome("natural").seconds_percent)
    assert comparison.outcome("unimax").seconds_percent == 0


def test_curves_hold_the_objective_at_every_evaluation() -> None:
    tables = change(
        make_tables(), lambda frame: of_run("natural", 1)(frame) & (frame["domain"] == "code"), lambda losses: np.nan
    )
    curves = summarized(tables).curves.set_index(["mixture", "seed", "step"])["loss"].sort_index()
    at = tables["results"]
    chosen = at[of_run("uniform", 0)(at) & (at["step"] == 250)]
    assert curves["uniform", 0, 250] == pytest.approx(chosen["loss"].mean())
    assert len(curves) == 3 * 2 * 5
    assert curves["natural", 1].isna().all()


def test_input_tables_stay_as_they_are() -> None:
    tables = change(make_tables(), of_run("natural", 1), lambda losses: np.nan)
    before = {name: tables[name].copy() for name in ("results", "rows")}
    summarized(tables)
    assert all(tables[name].equals(before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: {**t, "baseline": "nobody"}, "baseline nobody: the results hold uniform, natural, unimax"),
        (lambda t: drop(t, lambda f: f["mixture"] != "uniform"), "at least one other mixture"),
        (
            lambda t: {**t, "importance": {"wiki": 1, "novels": 2}},
            "importance names novels; the results hold wiki, code, law",
        ),
        (lambda t: {**t, "importance": {"wiki": -1.0, "law": 2.0}}, "importance is .*at least 0"),
        (lambda t: {**t, "natural": {"wiki": math.nan}}, "natural is .*finite"),
        (lambda t: {**t, "costs": {"uniform": t["costs"]["uniform"]}}, r"costs lack the mixture\(s\) natural, unimax"),
        (lambda t: {**t, "weights": {}}, r"weights lack the mixture\(s\) uniform, natural, unimax"),
        (
            lambda t: {**t, "rows": t["rows"].drop(columns=["row"])},
            r"rows lacks the column\(s\) row; needed: mixture, seed",
        ),
        (
            lambda t: drop(t, lambda f: of_run("natural", 1)(f) & (f["domain"] == "law")),
            "runs without all domains at their last step: natural seed 1 lacks law",
        ),
        (
            lambda t: {**t, "rows": t["rows"][~(of_run("unimax", 0)(t["rows"]) & (t["rows"]["row"] == 5))]},
            "held-out rows of wiki are missing for unimax seed 0",
        ),
        (
            lambda t: {**t, "results": t["results"][~(of_run("natural")(t["results"]) & (t["results"]["step"] > 500))]},
            "end at different places: natural seed 0 at step 500, 256,000 tokens; natural seed 1 at step 500",
        ),
        (
            lambda t: {**t, "rows": change(t, of_run("natural", 1), lambda losses: losses + 0.1)["rows"]},
            "losses that are not the mean of their rows: natural seed 1 wiki .* rows and results come from "
            "different runs",
        ),
    ],
)
def test_tables_that_are_not_comparable_are_refused(damage: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarized(damage(make_tables()))  # type: ignore[operator]


def test_a_run_that_stands_there_twice_is_refused() -> None:
    tables = make_tables()
    tables["results"] = pd.concat([tables["results"], tables["results"][of_run("natural", 1)(tables["results"])]])
    with pytest.raises(UserError, match="results holds the same step, domain twice for natural seed 1"):
        summarized(tables)
