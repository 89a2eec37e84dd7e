"""The plots of a comparison are on the page, readable, and the same for the same data."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from mixtures.compare.comparison import Comparison
from mixtures.plots.comparison import curves_figure, domains_figure, plot_comparison
from mixtures.plots.looks import choose_mixture_looks
from tests.mixtures.compare.helpers import MIXTURES, change, make_tables, of_run, summarized

PNG = b"\x89PNG"


def made(mixtures: int = 3, domains: int = 3, **more: object) -> Comparison:
    names = [f"a_domain_{number:02d}" for number in range(domains)]
    return summarized(make_tables(mixtures=MIXTURES[:mixtures], domains=names, **more))  # type: ignore[arg-type]


def annotations(figure: Figure) -> list[Annotation]:
    FigureCanvasAgg(figure).draw()
    return [text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixtures", "domains", "seeds"), [(2, 2, (0,)), (4, 12, (0, 1, 2)), (7, 11, (0, 1)), (8, 40, (0, 1))]
)
def test_a_comparison_is_drawn_in_two_plots(
    tmp_path: Path, mixtures: int, domains: int, seeds: tuple[int, ...]
) -> None:
    paths = plot_comparison(made(mixtures, domains, seeds=seeds, rows=4), tmp_path / "plots")
    assert [path.name for path in paths] == ["loss_over_tokens.png", "difference_by_domain.png"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [1, 2, 30])
def test_few_evaluations_are_drawn(tmp_path: Path, evaluations: int) -> None:
    assert len(plot_comparison(made(evaluations=evaluations), tmp_path)) == 2


@pytest.mark.slow
def test_a_diverged_mixture_is_named_and_left_out_of_the_differences(tmp_path: Path) -> None:
    comparison = summarized(change(make_tables(), of_run("natural", 1), lambda losses: np.nan))
    figure = curves_figure(comparison)
    assert "natural (diverged)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert [axes.get_title(loc="left") for axes in domains_figure(comparison).axes] == ["unimax"]
    assert len(plot_comparison(comparison, tmp_path)) == 2


@pytest.mark.slow
def test_a_run_diverged_between_evaluations_leaves_other_lines_whole() -> None:
    tables = make_tables()
    results, rows = tables["results"], tables["rows"]
    own = of_run("natural", 1)(results)
    results.loc[own & (results["step"] == 750), ["step", "tokens", "loss"]] = [600, 600 * 512, np.nan]
    tables |= {"results": results[~(own & (results["step"] > 600))], "rows": rows[~of_run("natural", 1)(rows)]}
    figure = curves_figure(summarized(tables))
    uniform = next(line for line in figure.axes[0].lines if line.get_linewidth() == 1.4)
    assert len(uniform.get_xdata()) == 5  # type: ignore[arg-type]
    assert np.isfinite(np.asarray(uniform.get_ydata(), dtype=float)).all()


@pytest.mark.slow
def test_everything_diverged_is_drawn_without_differences(tmp_path: Path) -> None:
    comparison = summarized(change(make_tables(), lambda frame: frame["seed"] >= 0, lambda losses: np.nan))
    assert [path.name for path in plot_comparison(comparison, tmp_path)] == ["loss_over_tokens.png"]


@pytest.mark.slow
def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (plot_comparison(made(), tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_every_mixture_looks_different() -> None:
    looks = choose_mixture_looks(20)
    assert len({(look.color, look.style) for look in looks}) == 20
    assert looks[0].color == "#000000"


@pytest.mark.slow
@pytest.mark.parametrize("mixtures", [2, 4, 8, 12])
def test_names_of_mixtures_do_not_overlap_and_are_on_the_page(mixtures: int) -> None:
    names = [f"mixture_{number:02d}" for number in range(mixtures)]
    figure = curves_figure(summarized(make_tables(mixtures=names, evaluations=10)))
    texts = annotations(figure)
    assert sorted(text.get_text() for text in texts) == names
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.y0)
    assert all(upper.y0 >= lower.y1 - 2 for lower, upper in pairwise(boxes))
    width, height = figure.canvas.get_width_height()
    assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


@pytest.mark.slow
@pytest.mark.parametrize(("mixtures", "domains"), [(2, 2), (8, 12)])
def test_domain_numbers_overlap_neither_each_other_nor_the_next_panel(mixtures: int, domains: int) -> None:
    figure = domains_figure(made(mixtures, domains, rows=4))
    assert len(annotations(figure)) == (mixtures - 1) * (domains + 1)
    width, height = figure.canvas.get_width_height()
    for axes, following in zip(figure.axes, [*figure.axes[1:], None], strict=True):
        boxes = [text.get_window_extent() for text in axes.texts]
        assert all(upper.y0 >= lower.y1 - 2 for lower, upper in pairwise(sorted(boxes, key=lambda box: box.y0)))
        right = width if following is None else following.get_window_extent().x0
        assert max(box.x1 for box in boxes) <= right
        assert min(box.x0 for box in boxes) >= axes.get_window_extent().x1
        assert max(box.y1 for box in boxes) <= height


def test_the_plot_shows_the_interval_of_every_domain_and_of_the_objective() -> None:
    comparison = made(2, 3)
    outcome = comparison.outcome("natural")
    axes = domains_figure(comparison).axes[0]
    shown = {tuple(np.round(np.asarray(line.get_xdata(), dtype=float), 9)) for line in axes.lines}
    for difference in (outcome.difference, *outcome.by_domain.values()):
        assert difference is not None
        assert (round(difference.low, 9), round(difference.high, 9)) in shown
        assert (round(difference.value, 9),) in shown


@pytest.mark.slow
def test_domains_outside_the_objective_are_marked() -> None:
    tables = make_tables()
    tables["importance"] = {"wiki": 1}
    labels = [label.get_text() for label in domains_figure(summarized(tables)).axes[0].get_yticklabels()]
    assert labels[0] == "objective"
    assert sorted(labels[1:]) == ["code *", "law *", "wiki"]
