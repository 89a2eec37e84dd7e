from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mixtures.diagnosis.matrix import HelpMatrix, clustered_order, cosines_of, help_matrix
from mixtures.diagnosis.noise import interval_factor, mean_noise
from mixtures.plots.matrix import matrix_figure
from mixtures.plots.run import plot_run
from mixtures.plots.style import STYLE
from mixtures.run.grams import GramBlocks
from mixtures.run.run import REUSED, Reused, importance_of, read_run
from mixtures.run.trajectory import Trajectory, read_trajectory
from tests.mixtures.diagnosis.helpers import domain_names, planted_grams, planted_run


def matrix_of(path: Path, directions: np.ndarray, **keywords: object) -> HelpMatrix:
    found = help_matrix(read_run(planted_run(path, directions, **keywords)))  # type: ignore[arg-type]
    assert found is not None
    return found


def blocks_of(trajectory: Trajectory, blocks: int) -> np.ndarray:
    found = GramBlocks(trajectory.self_products, blocks=blocks)
    for place, gram in trajectory.measured_grams():
        found.add(place, gram)
    return found.means()


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "blocks"), [(1, 100), (3, 100), (60, 100), (60, 20), (60, 7), (61, 10)])
@pytest.mark.parametrize("flush_every", [1, 7, 100])
def test_blocks_are_means_of_their_steps_however_the_record_is_split(
    tmp_path: Path, steps: int, blocks: int, flush_every: int
) -> None:
    trajectory = read_trajectory(planted_run(tmp_path / "run", np.eye(3, 5), steps=steps, flush_every=flush_every))
    whole = trajectory.grams.copy()
    for gram, diagonal in zip(whole, trajectory.self_products, strict=True):
        np.fill_diagonal(gram, diagonal)
    length = -(-steps // blocks)
    count = steps // length
    borders = [*range(0, count * length, length), steps]
    slow = np.stack([whole[first:last].mean(axis=0) for first, last in pairwise(borders)])
    found = blocks_of(trajectory, blocks)
    assert len(found) == count <= blocks
    np.testing.assert_allclose(found, slow, rtol=1e-12)


def test_steps_without_a_gram_are_left_out(tmp_path: Path) -> None:
    grams, _ = planted_grams(np.eye(2, 4), noise=1, steps=4)
    grams[[0, 1, 2]] = np.nan
    trajectory = read_trajectory(planted_run(tmp_path / "run", np.eye(2, 4), steps=4, columns={"gram": grams}))
    found = blocks_of(trajectory, 2)
    assert found.shape == (1, 2, 2)
    assert found[0, 0, 1] == np.float32(grams[3, 0, 1])


def test_mean_noise_is_its_spread_over_runs_even_as_mean_and_noise_fall() -> None:
    rng = np.random.default_rng(0)
    scale, drift = np.linspace(2, 0.2, 40)[:, None], np.linspace(5, 0, 40)[:, None]
    runs = drift + scale * rng.normal(size=(40, 20_000))
    assert np.sqrt((mean_noise(runs) ** 2).mean()) == pytest.approx(runs.mean(axis=0).std(), rel=0.03)
    assert np.isnan(mean_noise(runs[:3])).all()


@pytest.mark.slow
def test_intervals_of_cosines_hold_the_true_ones() -> None:
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(5, 200)) / 14 + rng.normal(size=200) / 14
    scale = np.sqrt((directions**2).sum(axis=1))
    true = directions @ directions.T / np.outer(scale, scale)
    inside = []
    for seed in range(60):
        grams, products = planted_grams(directions, noise=2.0, steps=50, seed=seed)
        grams[:, range(5), range(5)] = products
        cosines, noise = cosines_of(grams)
        held = np.abs(cosines - true) <= interval_factor(50) * noise
        inside.append(held[np.triu_indices(5, k=1)].mean())
        np.testing.assert_array_equal(np.diag(cosines), 1)
        assert np.diag(noise).max() < 1e-12
    assert 0.9 < np.mean(inside) < 0.99


@pytest.mark.slow
def test_the_plain_diagonal_would_have_hidden_how_alike_two_domains_are(tmp_path: Path) -> None:
    same = np.array([[1.0, *[0.0] * 49], [1.0, *[0.0] * 49], [0.0, 1.0, *[0.0] * 48]])
    found = matrix_of(tmp_path / "run", same, noise=2.0, steps=200)
    assert found.unbiased
    assert found.cosines[0, 1] == pytest.approx(1, abs=0.15)
    odd = matrix_of(tmp_path / "odd", same, noise=2.0, steps=200, columns={"self_product": None})
    assert not odd.unbiased
    assert odd.cosines[0, 1] < 0.5


@pytest.mark.slow
def test_noise_of_forty_unrelated_domains_is_no_conflict_or_redundancy(tmp_path: Path) -> None:
    run = read_run(planted_run(tmp_path / "run", np.eye(40, 80), steps=4))
    studies, wrong, tempting = 20, 0, 0
    for seed in range(studies):
        grams, products = planted_grams(np.eye(40, 80), noise=3.0, steps=60, seed=seed)
        grams[:, range(40), range(40)] = products
        run.trajectory._blocks[:] = [grams]  # as if they had been read
        found = help_matrix(run)
        assert found is not None
        wrong += bool(found.conflicting or found.redundant)
        tempting += bool((found.cosines < -2 * found.noise).any())
    assert tempting == studies
    assert wrong <= 2, "one in forty is expected"


@pytest.mark.slow
def test_conflicts_and_redundancy_come_strongest_first_with_intervals(tmp_path: Path) -> None:
    directions = np.eye(8, 40)
    directions[1] = -0.6 * directions[0] + 0.8 * directions[1]
    directions[2] = -0.8 * directions[3] + 0.6 * directions[2]
    directions[5] = 0.9 * directions[4] + np.sqrt(1 - 0.81) * directions[5]
    directions[7] = -0.7 * directions[6] + 0.7 * directions[7]  # a target
    found = matrix_of(tmp_path / "run", directions, steps=200, targets=["catalan"])
    named = [(pair.first, pair.second) for pair in found.conflicting]
    assert named == [("domain_02", "domain_03"), ("domain_06", "catalan"), ("domain_00", "domain_01")]
    assert [(pair.first, pair.second) for pair in found.redundant] == [("domain_04", "domain_05")]
    for pair in (*found.conflicting, *found.redundant):
        assert -1 <= pair.low < pair.cosine < pair.high <= 1


def test_a_domain_without_a_measurable_gradient_has_no_cosine_and_is_named(tmp_path: Path) -> None:
    directions = np.eye(4, 30)
    directions[2] = 0
    found = matrix_of(tmp_path / "run", directions, steps=60)
    assert found.unmeasured == ("domain_02",)
    assert np.isnan(found.cosines[2]).all()
    assert np.isnan(found.cosines[:, 2]).all()
    assert not np.isnan(np.delete(np.delete(found.cosines, 2, 0), 2, 1)).any()
    assert found.order[-1] == 2


@pytest.mark.slow
def test_like_stands_beside_like(tmp_path: Path) -> None:
    clusters = np.random.default_rng(3).permutation(np.repeat(range(8), 5))
    directions = np.eye(8, 60)[clusters] + 0.5 * np.eye(40, 60, k=10)
    found = matrix_of(tmp_path / "run", directions, noise=1.0, steps=60)
    sequence = clusters[list(found.order)]
    assert (np.diff(sequence) != 0).sum() == 7, "eight runs of five"


@pytest.mark.slow
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 0.5))
def test_the_order_holds_every_domain_once_and_the_unmeasured_last(count: int, seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    cosines = np.corrcoef(rng.normal(size=(count, 6))).reshape(count, count) * rng.uniform(0.5, 1.5)
    gone = rng.random(count) < missing
    cosines[gone] = cosines[:, gone] = np.nan
    order = clustered_order(cosines)
    assert sorted(order) == list(range(count))
    assert set(order[count - gone.sum() :]) == set(np.flatnonzero(gone))


def test_targets_and_held_out_rows_are_only_columns_after_the_domains(tmp_path: Path) -> None:
    found = matrix_of(tmp_path / "run", np.eye(5, 20), targets=["catalan", "dutch"])
    assert found.rows == tuple(domain_names(3))
    assert found.columns == (*domain_names(3), "catalan", "dutch")
    assert found.cosines.shape == found.noise.shape == (3, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "targets", "expected"),
    [
        ({"objective": "auto"}, [], [1, 1, 1]),
        ({"objective": "auto"}, ["catalan"], [0, 0, 1]),
        ({"objective": {"domain_00": 2.0, "catalan": 1.0}}, ["catalan"], [2, 0, 1]),
        ({"objective": {"domain_00": 2.0}, "held_out": True}, ["domain_00@held_out"], [0, 0, 2]),
    ],
)
def test_the_objective_counts_the_groups_that_the_run_counted(
    tmp_path: Path, update: dict, targets: list[str], expected: list[float]
) -> None:
    run = read_run(planted_run(tmp_path / "run", np.eye(3, 20), targets=targets, update={"preset": "stable"} | update))
    np.testing.assert_array_equal(importance_of(run), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "expected"), [("universal", [2, 1, 1]), ({"wiki": 2.0, "news": 2.0, "domain_01": 1.0}, [4, 1, 0])]
)
def test_reused_domains_count_as_many_as_they_are(
    tmp_path: Path, objective: str | dict[str, float], expected: list[float]
) -> None:
    run = read_run(planted_run(tmp_path / "run", np.eye(3, 20), update={"preset": "stable", "objective": objective}))
    first, *rest = run.corpus.domains
    behind = tuple(first.model_copy(update={"name": name}) for name in ("wiki", "news"))
    names = (REUSED, "domain_01", "domain_02")
    reused = Reused(
        mixture="sha256:0", relative={"wiki": 0.5, "news": 0.5}, order=("wiki", "news", *names[1:]), domains=behind
    )
    corpus = run.corpus.model_copy(
        update={"domains": (first.model_copy(update={"name": REUSED}), *rest), "reused": reused}
    )
    run = replace(run, corpus=corpus, trajectory=replace(run.trajectory, domains=names, groups=names))
    np.testing.assert_allclose(importance_of(run), expected)


@pytest.mark.slow
def test_a_run_without_products_has_no_matrix(tmp_path: Path) -> None:
    path = planted_run(tmp_path / "run", np.eye(3, 20), columns={"gram": None, "self_product": None})
    assert help_matrix(read_run(path)) is None
    assert [file.name for file in plot_run(read_run(path), tmp_path / "plots")] == [
        "weights.png",
        "losses.png",
        "mixture.png",
    ]


def test_a_run_of_one_step_has_cosines_and_claims_nothing(tmp_path: Path) -> None:
    found = matrix_of(tmp_path / "run", np.eye(3, 20), steps=1, noise=0.1)
    assert np.isfinite(found.cosines).all()
    assert np.isnan(found.noise).all()
    assert found.redundant == found.conflicting == ()


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "targets"), [(2, 0), (5, 1), (40, 2), (90, 0)])
def test_names_of_the_heat_map_do_not_overlap_on_a_bounded_page(tmp_path: Path, domains: int, targets: int) -> None:
    directions = np.eye(domains + targets, 3 * domains)
    with matplotlib.rc_context(STYLE):
        figure = matrix_figure(
            matrix_of(tmp_path / "run", directions, steps=8, targets=[f"target_{n}" for n in range(targets)])
        )
        FigureCanvasAgg(figure).draw()
    assert max(figure.get_size_inches()) < 20
    axes = figure.axes[0]
    down = [label.get_window_extent() for label in axes.get_yticklabels()]
    across = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(lower.y1 <= upper.y0 + 1 for upper, lower in pairwise(down))
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(across))
    assert len(down) == domains if domains <= 80 else len(down) > 40


def test_the_heat_map_shows_cosines_in_order_and_leaves_the_diagonal_out() -> None:
    cosines = np.array([[1, -0.5, 0.25], [-0.5, 1, 0.5]])
    matrix = HelpMatrix(("a", "b"), ("a", "b", "target"), cosines, np.full((2, 3), 0.1), (1, 0), (), (), ())
    axes = matrix_figure(matrix).axes[0]
    shown = axes.images[0].get_array()
    assert isinstance(shown, np.ma.MaskedArray)
    assert shown.mask.tolist() == [[True, False, False], [False, True, False]]
    assert shown.compressed().tolist() == [-0.5, 0.5, -0.5, 0.25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a", "target"]
    assert [text.get_text() for text in axes.texts] == ["-0.50", "0.50", "-0.50", "0.25"]
