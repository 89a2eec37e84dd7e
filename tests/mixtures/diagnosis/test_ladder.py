"""Runs of several proxy sizes: agreement and trends are found where they were planted, and nothing is extrapolated
where not.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixtures.__main__ import main
from mixtures.diagnosis.ladder import (
    Ladder,
    extrapolate,
    fit_trend,
    parse_size,
    rank_agreement,
    read_ladder,
    refusals,
)
from mixtures.diagnosis.ladder_text import ladder_text
from mixtures.errors import UserError
from mixtures.plots.ladder import ladder_figure
from mixtures.run.run import read_run
from tests.mixtures.helpers import NAMES, make_run

SIZES = (1_000_000, 5_000_000, 25_000_000)


def shares(log_ratios: np.ndarray) -> np.ndarray:
    return np.exp(log_ratios) / np.exp(log_ratios).sum()


def sized(path: Path, *, parameters: int | None, weights: np.ndarray, **more: object) -> Path:
    """A run whose average weights (D,) are these."""
    make_run(path, domains=names_of(len(weights)), steps=4, weights=np.tile(weights, (4, 1)), evaluate_every=0, **more)  # type: ignore[arg-type]
    if parameters is not None:
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["environment"]["parameters"] = parameters
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def names_of(count: int) -> list[str]:
    return list(NAMES[:count]) if count <= len(NAMES) else [f"domain_{number:02d}" for number in range(count)]


def trending(
    folder: Path, *, domains: int = 9, noise: float = 0.0, slope: float = 0.3, sizes: tuple[int, ...] = SIZES
) -> list[Path]:
    """A run a size, log-ratios on a line over log10(parameters) but for noise."""
    draw = np.random.default_rng(0)
    start, slopes = draw.normal(size=domains), slope * draw.normal(size=domains)
    log_ratios = [start + slopes * np.log10(size / SIZES[0]) + noise * draw.normal(size=domains) for size in sizes]
    return [
        sized(folder / str(size), parameters=size, weights=shares(row))
        for size, row in zip(sizes, log_ratios, strict=True)
    ]


def slow_agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    found = stats.spearmanr(one, other).statistic
    drawn = [stats.spearmanr(one, other[list(order)]).statistic for order in itertools.permutations(range(len(one)))]
    return found, float(np.mean(np.array(drawn) >= found - 1e-9))


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_rank_agreement_is_spearman_against_every_permutation(count: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, count)).round(1)
    assert rank_agreement(one, other) == pytest.approx(slow_agreement(one, other))


@pytest.mark.slow
@given(values=st.lists(st.floats(-3, 3), min_size=8, max_size=12))
def test_p_is_a_probability_and_small_for_the_same_order(values: list[float]) -> None:
    one = np.array(values)
    correlation, p = rank_agreement(one, 2 * one + 1)
    assert 0 < p <= 1
    if len(np.unique(one.round(12))) == len(one):
        assert correlation == pytest.approx(1)
        assert p < 0.001


def test_a_size_that_learned_nothing_agrees_with_none() -> None:
    correlation, p = rank_agreement(np.zeros(5), np.arange(5.0))
    assert np.isnan(correlation)
    assert p == 1


def test_a_planted_trend_is_found_and_carried_on(tmp_path: Path) -> None:
    ladder = read_ladder(trending(tmp_path, noise=0.02)[::-1])  # in any order
    assert ladder.sizes.tolist() == list(SIZES)
    assert ladder.agrees
    assert refusals(ladder, 200_000_000) == []
    truth_at = trending(tmp_path / "truth", sizes=(200_000_000,))
    truth = read_run(truth_at[0]).trajectory.weights[0]
    found = extrapolate(ladder, 200_000_000)
    assert found.weights.sum() == pytest.approx(1)
    assert np.abs(np.log(found.weights / truth)).max() < 0.15
    assert ((found.low <= truth) & (truth <= found.high)).mean() > 0.8


def test_the_trend_is_least_squares_domain_by_domain(tmp_path: Path) -> None:
    ladder = read_ladder(trending(tmp_path, noise=0.1))
    trend, x = fit_trend(ladder), np.log10(SIZES)
    for domain, values in enumerate(ladder.log_ratios.T):
        slope, intercept = np.polyfit(x, values, 1)
        assert (trend.slope[domain], trend.intercept[domain]) == pytest.approx((slope, intercept))
        left = values - intercept - slope * x
        assert trend.residual[domain] == pytest.approx(np.sqrt((left**2).sum() / (len(x) - 2)))


def trends_found(*, domains: int, seeds: int, unequal: float, small: float, slope: float = 0.0) -> float:
    """The share of 300 ladders of three sizes with a trend beyond chance; noise differs by the factors `unequal`
    between domains and `small` between the smallest size and the others.
    """
    draw, sizes, found = np.random.default_rng(1), np.repeat(SIZES, seeds), 0
    scale = 0.1 * np.where(sizes == sizes.min(), small, 1.0)[:, None] * np.geomspace(1, unequal, domains)
    along = np.linspace(-slope, slope, domains) * np.log10(sizes / sizes.min())[:, None]
    for _ in range(300):
        log_ratios = along + scale * draw.normal(size=(len(sizes), domains))
        log_ratios -= log_ratios.mean(axis=1, keepdims=True)
        found += fit_trend(Ladder(names_of(domains), sizes, log_ratios, np.full(domains, 1 / domains), ())).p <= 0.05
    return found / 300


@pytest.mark.slow
@pytest.mark.parametrize("domains", [3, 7, 30, 300])
@pytest.mark.parametrize(("unequal", "small"), [(1, 1), (7, 1), (1, 3), (7, 3)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_noise_of_any_kind_is_seldom_taken_for_a_trend(domains: int, unequal: float, small: float, seeds: int) -> None:
    assert trends_found(domains=domains, seeds=seeds, unequal=unequal, small=small) <= 0.09


def test_a_trend_of_the_size_of_the_noise_is_found_with_two_seeds() -> None:
    assert trends_found(domains=7, seeds=2, unequal=1, small=1, slope=0.3) > 0.8


def test_several_seeds_of_a_size_are_averaged_and_counted_in_the_scatter(tmp_path: Path) -> None:
    runs = [*trending(tmp_path / "a", noise=0.05), *trending(tmp_path / "b", noise=0.0)]
    ladder = read_ladder(runs)
    assert ladder.by_size.shape == (3, 9)
    assert ladder.log_ratios.shape == (6, 9)
    pair = ladder.log_ratios[ladder.parameters == SIZES[0]]
    np.testing.assert_allclose(ladder.by_size[0], pair.mean(0))
    assert "1.00 M (2)" in ladder_text(ladder)


def refused(ladder: Ladder, size: int) -> str:
    with pytest.raises(UserError) as caught:
        extrapolate(ladder, size)
    return str(caught.value)


def test_two_sizes_show_no_trend(tmp_path: Path) -> None:
    said = refused(read_ladder(trending(tmp_path, sizes=SIZES[:2])), 10_000_000)
    assert "there are 2 sizes" in said
    assert "at least 3" in said


def test_more_than_ten_times_the_largest_is_refused_with_the_numbers(tmp_path: Path) -> None:
    said = refused(read_ladder(trending(tmp_path, noise=0.02)), 1_000_000_000)
    assert "it is 40 times the largest run (25,000,000 parameters); allowed: up to 10 times" in said


def test_scatter_larger_than_the_trend_is_refused_with_both(tmp_path: Path) -> None:
    ladder = read_ladder(trending(tmp_path, slope=0.0, noise=0.1))
    assert ladder.agrees
    said = refused(ladder, 50_000_000)
    assert "do not follow the size: trend" in said
    assert "scatter around it" in said
    assert "take their mean" in ladder_text(ladder)


def test_sizes_that_disagree_are_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    runs = [sized(tmp_path / str(size), parameters=size, weights=shares(draw.normal(size=9))) for size in SIZES]
    ladder = read_ladder(runs)
    assert "sizes 1,000,000 and 5,000,000 do not agree beyond chance: rank correlation" in refused(ladder, 30_000_000)
    assert "No agreement beyond chance on the order of the domains: 1.00 M and 5.00 M" in ladder_text(ladder)


def test_three_domains_are_too_few_to_agree_beyond_chance(tmp_path: Path) -> None:
    assert "3 domains are too few for that" in ladder_text(read_ladder(trending(tmp_path, domains=3)))


def test_one_size_is_no_ladder(tmp_path: Path) -> None:
    run = trending(tmp_path, sizes=SIZES[:1])[0]
    other = sized(tmp_path / "other", parameters=SIZES[0], weights=shares(np.arange(9.0)))
    with pytest.raises(UserError, match="at least two proxy sizes"):
        read_ladder([run, other])


def test_runs_of_other_domains_do_not_belong_on_the_ladder(tmp_path: Path) -> None:
    runs = [*trending(tmp_path / "nine", sizes=SIZES[:2]), *trending(tmp_path / "ten", domains=10, sizes=SIZES[2:])]
    with pytest.raises(UserError, match="domains only in"):
        read_ladder(runs)


def test_log_ratios_are_to_the_prior_that_the_run_started_from(tmp_path: Path) -> None:
    weights, update = shares(np.arange(4.0)), {"preset": "stable", "prior": "natural"}
    runs = [sized(tmp_path / str(size), parameters=size, weights=weights, update=update) for size in SIZES]
    natural = read_run(runs[0]).natural
    np.testing.assert_allclose(read_ladder(runs).log_ratios[0], np.log(weights / natural))


def test_parameters_of_older_runs_are_counted_in_their_checkpoint(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    run = sized(tmp_path / "old", parameters=None, weights=shares(np.arange(3.0)))
    with pytest.raises(UserError, match="write `parameters: NUMBER` into the environment block"):
        _ = read_run(run).parameters
    folder = run / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, folder / "model.safetensors")
    assert read_run(run).parameters == 17


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "beyond"), [(5, None), (40, 100_000_000)])
def test_the_figure_has_a_line_and_a_name_for_what_moves_most(tmp_path: Path, domains: int, beyond: int | None) -> None:
    ladder = read_ladder(trending(tmp_path, domains=domains, noise=0.02))
    figure = ladder_figure(ladder, None if beyond is None else extrapolate(ladder, beyond))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "prior" in texts
    assert len([text for text in texts if text in names_of(domains)]) == min(domains, 7)


@pytest.mark.parametrize("text", ["", "-1", "many", "1X"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a number of parameters"):
        parse_size(text)


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_prints_a_verdict_and_writes_what_compare_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = trending(tmp_path, noise=0.02)
    code, out, err = command(capsys, "ladder", *runs, "--at", "125M", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for part in ("1.00 M", "25.0 M", "at 125 M", "x per 10x", "order the domains alike", "ladder.png", "ladder.json"):
        assert part in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("wrote")) <= 100
    found = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert sum(found.values()) == pytest.approx(1)
    assert list(found) == names_of(9)
    assert (tmp_path / "out" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_a_refused_size_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "ladder", *trending(tmp_path, noise=0.02), "--at", "1T", "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "no weights for 1,000,000,000,000 parameters" in err
    assert not (tmp_path / "out").exists()
