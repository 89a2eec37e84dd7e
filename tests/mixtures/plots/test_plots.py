from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from mixtures.__main__ import main
from mixtures.export import export_mixture
from mixtures.plots.looks import ALL_NAMED, GREY, PALETTE, choose_looks
from mixtures.plots.run import losses_figure, plot_run, weights_figure
from mixtures.plots.style import spread
from mixtures.run.run import read_run
from tests.mixtures.helpers import NAMES, make_run

PNG = b"\x89PNG"


def names_of(count: int) -> list[str]:
    return list(NAMES[:count]) if count <= len(NAMES) else [f"domain_{number:02d}" for number in range(count)]


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(heights=st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=30), gap=st.floats(0.001, 0.2))
def test_labels_are_spread_without_overlap_in_their_order(heights: list[float], gap: float) -> None:
    placed = spread(np.array(heights), gap=gap)
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9
    assert all(second - first >= gap - 1e-9 for first, second in pairwise(sorted(placed)))
    order = np.argsort(heights, kind="stable")
    assert (np.diff(placed[order]) > 0).all()


def test_labels_that_do_not_touch_stay_where_they_are() -> None:
    np.testing.assert_allclose(spread(np.array([0.9, 0.1, 0.5]), gap=0.1), [0.9, 0.1, 0.5])


@pytest.mark.parametrize("count", [2, 11, ALL_NAMED])
def test_few_lines_all_have_a_name_and_a_look_of_their_own(count: int) -> None:
    looks = choose_looks(np.random.default_rng(0).random((50, count)))
    assert all(look.named for look in looks)
    assert len({(look.color, look.style) for look in looks}) == count


def test_of_many_lines_those_that_move_most_are_named() -> None:
    values = np.full((50, 40), 0.025)
    movers = [3, 8, 12, 20, 25, 31, 39]
    values[:, movers] += np.linspace(0, 0.2, 50)[:, None]
    looks = choose_looks(values)
    assert [column for column, look in enumerate(looks) if look.named] == movers
    assert [looks[column].color for column in movers] == list(PALETTE)
    assert looks[0].color == GREY


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "steps"), [(2, 1), (2, 3), (11, 60), (40, 60)])
def test_a_run_is_drawn_in_four_plots(tmp_path: Path, domains: int, steps: int) -> None:
    run = make_run(tmp_path / "run", domains=names_of(domains), targets=["catalan"], steps=steps)
    paths = plot_run(read_run(run), run / "plots")
    assert [path.name for path in paths] == ["weights.png", "losses.png", "matrix.png", "mixture.png"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    assert sorted((run / "plots").iterdir()) == sorted(paths)


@pytest.mark.slow
def test_a_run_without_evaluation_is_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluate_every=0)
    assert len(plot_run(read_run(run), tmp_path / "plots")) == 4


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = read_run(run)
    first, second = plot_run(record, tmp_path / "first"), plot_run(record, tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 3, 5, 6, 20])
def test_a_mixture_of_any_number_of_stages_is_drawn(tmp_path: Path, stages: int) -> None:
    run = make_run(tmp_path / "run", domains=names_of(11))
    export_mixture([run], stages=stages).save(tmp_path / "mixture.json")
    assert main(["plot", str(tmp_path / "mixture.json"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "mixture.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_hundreds_of_domains_are_drawn_on_a_bounded_page(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", domains=names_of(120), steps=4))
    paths = plot_run(run, tmp_path / "plots")
    assert len(paths) == 4


def drawn_names(figure: Figure) -> list[Annotation]:
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation) and "grey" not in text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("domains", [2, 11, 40])
@pytest.mark.parametrize("draw", [weights_figure, losses_figure])
def test_names_beside_the_lines_do_not_overlap_and_are_on_the_page(tmp_path: Path, domains: int, draw: object) -> None:
    run = read_run(make_run(tmp_path / "run", domains=names_of(domains), targets=["catalan"], steps=60))
    figure = draw(run)  # type: ignore[operator]
    texts = drawn_names(figure)
    expected = domains if domains <= ALL_NAMED else len(PALETTE)
    assert len(texts) == expected + 1  # uniform, or the target
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.y0)
    assert all(upper.y0 >= lower.y1 - 2 for lower, upper in pairwise(boxes))
    width, height = figure.canvas.get_width_height()
    assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
