"""What the report says, and that it fits the terminal."""

import math
import re

import numpy as np
import pytest

from mixtures.compare.cells import decimals, loss_cells, percent, ranked, signed
from mixtures.compare.statistics import Difference
from mixtures.compare.text import compare_words, comparison_text, overall, verdict
from tests.mixtures.compare.helpers import MIXTURES, change, drop, make_tables, of_run, summarized


def difference(value: float, low: float, high: float) -> Difference:
    return Difference(value, low, high, 1e-6, 1e-6, 5.0)


def plain(text: str) -> str:
    """The text with its line breaks undone."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (difference(-0.031, -0.05, -0.012), "better than uniform by 0.031 nats (95 % 0.012 to 0.050)"),
        (difference(0.031, 0.012, 0.05), "worse than uniform by 0.031 nats (95 % 0.012 to 0.050)"),
        (
            difference(-0.004, -0.02, 0.012),
            "not distinguishable from uniform (difference -0.004 nats, 95 % -0.020 to +0.012)",
        ),
        (difference(0.00042, 0.0001, 0.00074), "worse than uniform by 0.00042 nats (95 % 0.00010 to 0.00074)"),
        (
            Difference(0.0, 0.0, 0.0, 0.0, 0.0, math.inf),
            "not distinguishable from uniform: the same loss in every row with every seed",
        ),
        (
            difference(-0.0312, math.nan, math.nan),
            "difference to uniform -0.0312 nats, without an interval (a domain has only one held-out row)",
        ),
    ],
)
def test_a_difference_is_said_in_plain_words(found: Difference, words: str) -> None:
    assert compare_words(found, "uniform") == words


def test_numbers_show_two_figures_of_the_uncertainty_and_no_negative_zero() -> None:
    assert [decimals(difference(0, -half, half)) for half in (0.5, 0.019, 0.0019, 2e-9)] == [3, 3, 4, 6]
    assert signed(-0.0001, 3) == "+0.000"
    assert [percent(value) for value in (0.0, 0.4213, 23.4, 120.0, math.nan)] == [
        "0 %",
        "0.42 %",
        "23 %",
        "120 %",
        "? %",
    ]


@pytest.mark.slow
def test_the_overall_line_names_the_best_or_says_that_there_is_none() -> None:
    assert overall(summarized(make_tables(seed=1))) == "no mixture is distinguishable from uniform"
    worse = overall(summarized(make_tables(effects={"unimax": 0.3})))
    assert worse == "no mixture is distinguishably better than uniform; worse: unimax"
    assert overall(summarized(make_tables(effects={"unimax": -0.3}))).startswith(
        "best: unimax, better than uniform by 0."
    )
    tied = overall(summarized(make_tables(effects={"natural": -0.3, "unimax": -0.301})))
    assert "; not distinguishable from " in tied
    diverged = change(make_tables(seed=1), of_run("natural", 1), lambda losses: np.nan)
    assert overall(summarized(diverged)) == "no mixture is distinguishable from uniform; diverged: natural"


def test_a_verdict_says_who_paid_and_who_gained_with_their_shares() -> None:
    tables = change(
        make_tables(), lambda f: of_run("natural")(f) & (f["domain"] == "code"), lambda losses: losses + 0.5
    )
    tables = change(tables, lambda f: of_run("natural")(f) & (f["domain"] == "law"), lambda losses: losses - 0.5)
    tables["weights"]["natural"] = {"wiki": 0.33, "code": 0.01, "law": 0.66}
    comparison = summarized(tables)
    text = verdict(comparison.outcome("natural"), comparison)
    paid, gained = text.split("Paid most: ")[1].split(" Gained most: ")
    assert paid.startswith("code +0.5")
    assert paid.endswith("), share 1.0 % against 33.3 %.")
    assert gained.startswith("law -0.")
    assert gained.endswith("), share 66.0 % against 33.3 %.")


def test_a_verdict_says_when_no_domain_paid() -> None:
    comparison = summarized(make_tables(effects={"natural": -0.5}))
    text = verdict(comparison.outcome("natural"), comparison)
    assert "No domain's loss rose. Gained most: " in text


def test_a_verdict_marks_a_rise_that_may_be_none_and_a_target() -> None:
    tables = make_tables()
    tables["weights"] = {name: {"wiki": 0.5, "law": 0.5} for name in tables["weights"]}
    comparison = summarized(tables)
    texts = [verdict(outcome, comparison) for outcome in comparison.compared]
    assert any("not distinguishable from 0" in text for text in texts)
    assert any("not trained on" in text for text in texts)


@pytest.mark.slow
def test_a_cost_is_said_only_where_there_is_one() -> None:
    tables = make_tables()
    tables["costs"]["natural"] = {"seconds": 50.0, "flops": 2e11}
    comparison = summarized(tables)
    cost = "Learning it took 20 % of a base run's FLOPs and 25 % of its time."
    assert verdict(comparison.outcome("natural"), comparison).endswith(cost)
    assert "Learning" not in verdict(comparison.outcome("unimax"), comparison)
    assert "not about learning them again" in plain(comparison_text(comparison))
    assert "learning them again" not in plain(comparison_text(summarized(make_tables())))


def test_the_report_says_sizes_method_and_what_the_intervals_are_not() -> None:
    text = plain(comparison_text(summarized(make_tables())))
    assert "mean over 3 domains alike" in text
    assert "at step 1,000 (512 k tokens), means over 2 seeds (0, 1) and 12 held-out rows per domain" in text
    assert "with 2 degrees of freedom), whichever is larger. With so few degrees they are rough: add seeds." in text
    assert "Every interval is for one comparison by itself" in text


def test_one_seed_is_said_to_say_nothing_about_others() -> None:
    text = plain(comparison_text(summarized(make_tables(seeds=[0]))))
    assert "means over 1 seed (0)" in text
    assert "with one seed the comparison says nothing about other seeds" in text
    assert "degrees of freedom" not in text


def test_one_seed_gives_no_best_and_no_better() -> None:
    comparison = summarized(make_tables(seeds=[0], effects={"natural": -0.5, "unimax": 0.5}))
    text = plain(comparison_text(comparison))
    assert comparison.best is None
    assert overall(comparison).startswith("one seed cannot say whether a mixture is better than uniform")
    for word in ("best:", "better than uniform by", "worse than uniform by", "not distinguishable"):
        assert word not in text
    assert re.search(r"natural: lower than uniform by 0\.[45]\d+ nats on these held-out rows with one seed", text)
    two = summarized(make_tables(seeds=[0, 1], effects={"natural": -0.5}))
    assert two.best == "natural"


def test_the_tables_are_in_paired_order_and_average_the_seeds_that_all_share() -> None:
    """Unequal seeds: the mixture with the lowest mean over its own seeds is the worst of the paired ones."""
    tables = make_tables(seeds=(0, 1, 2), effects={"natural": 0.1, "unimax": -0.1})
    for name in ("results", "rows"):
        tables[name]["loss"] += 3.0 * (tables[name]["seed"] == 2)  # a seed whose rows are hard for all
    comparison = summarized(drop(tables, of_run("natural", 2)))
    assert [outcome.name for outcome in ranked(comparison)] == ["unimax", "uniform", "natural"]
    losses = [float(row[2]) for row in loss_cells(comparison)[1]]
    assert losses == sorted(losses)
    assert {outcome.averaged for outcome in comparison.outcomes} == {(0, 1)}
    assert comparison.outcome("unimax").by_seed.keys() == {0, 1, 2}


def test_differences_to_natural_stand_beside_those_to_uniform() -> None:
    tables = make_tables(effects={"natural": -0.2, "unimax": 0.1})
    tables["weights"]["natural"] = tables["natural"]
    tables["weights"]["unimax"] = {"wiki": 0.2, "code": 0.2, "law": 0.6}
    comparison = summarized(tables)
    gap = comparison.outcome("unimax").against["natural"]
    own = comparison.outcome("unimax").difference.value - comparison.outcome("natural").difference.value
    assert gap.value == pytest.approx(own)
    assert "against natural" in comparison_text(comparison)
    assert comparison.outcome("natural").against == {}


def test_the_verdict_speaks_of_the_objective_first_and_of_the_others_apart() -> None:
    tables = make_tables(domains=("junk", "wiki", "law", "catalan"), effects={"natural": -0.1})
    tables["importance"] = {"wiki": 1.0, "law": 1.0}
    tables["natural"] = {"junk": 0.5, "wiki": 0.3, "law": 0.2}
    junk = lambda frame: of_run("natural")(frame) & (frame["domain"] == "junk")  # noqa: E731
    comparison = summarized(change(tables, junk, lambda losses: losses + 1.0))
    outcome = comparison.outcome("natural")
    assert outcome.trained is not None
    assert outcome.trained.value == pytest.approx(
        np.mean([outcome.by_domain[n].value for n in ("junk", "wiki", "law")])
    )
    said = verdict(outcome, comparison)
    assert said.index("Of the objective") < said.index("All trained domains alike") < said.index("Outside of the")
    of_objective = said[: said.index("All trained domains")]
    assert "junk" not in of_objective
    assert re.search(r"Outside of the objective, paid most: junk \+0\.[89]", said)


@pytest.mark.slow
def test_diverged_runs_stand_in_the_report() -> None:
    text = plain(comparison_text(summarized(change(make_tables(), of_run("natural", 1), lambda losses: np.nan))))
    assert (
        "natural: diverged (loss not finite) with 1 of 2 seeds: 1; no average and no interval; difference of the "
        "others: " in text
    )
    text = plain(comparison_text(summarized(change(make_tables(), of_run("uniform", 1), lambda losses: np.nan))))
    assert "uniform: diverged (loss not finite) with 1 of 2 seeds: 1, left out of every difference." in text
    everything = plain(
        comparison_text(summarized(change(make_tables(), lambda f: f["seed"] >= 0, lambda losses: np.nan)))
    )
    assert "no mixture could be compared with uniform; diverged: uniform, natural, unimax" in everything


@pytest.mark.slow
def test_unequal_seeds_stand_in_the_report() -> None:
    text = plain(comparison_text(summarized(drop(make_tables(seeds=(0, 1, 2)), of_run("natural", 0)))))
    assert (
        "Not every mixture has every seed (natural 1, 2): a difference is over the seeds shared with uniform, and mean "
        "losses are over the seeds that all mixtures share." in text
    )
    text = plain(comparison_text(summarized(drop(drop(make_tables(), of_run("uniform", 1)), of_run("natural", 0)))))
    assert "natural: not compared, no seed that finished is shared with uniform; run it with the same seeds." in text


@pytest.mark.slow
@pytest.mark.parametrize(("mixtures", "domains"), [(2, 1), (7, 11), (8, 40)])
def test_the_report_fits_120_columns(mixtures: int, domains: int) -> None:
    names = [f"{name}_with_a_name_that_is_long_{number}" for number, name in enumerate(MIXTURES[:mixtures])]
    tables = make_tables(
        mixtures=names, domains=[f"domain_of_some_length_and_more_{number}" for number in range(domains)]
    )
    assert max(map(len, comparison_text(summarized(tables)).splitlines())) <= 120
