"""Parts of all plots: sizes, fonts, axes, lines with names, and PNG files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.optimize import isotonic_regression

from mixtures.files import write_atomic
from mixtures.plots.looks import REFERENCE, Look
from mixtures.text import shorten, token_unit

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 200,
}

MOST_BARS = 60

LABEL_WIDTH = 24

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}%")


def draw_lines(axes: Axes, x: np.ndarray, values: np.ndarray, looks: Sequence[Look], **keywords: Any) -> None:
    """Draw the columns of `values` (S, D) over `x` (S,), grey lines below the others."""
    for column, look in enumerate(looks):
        width, order = (1.4, 3) if look.named else (0.6, 2)
        style: dict[str, Any] = {
            "color": look.color,
            "linestyle": look.style,
            "linewidth": width,
            "zorder": order,
            **keywords,
        }
        axes.plot(x, values[:, column], **style)


def name_lines(
    axes: Axes,
    ends: np.ndarray,
    names: Sequence[str],
    looks: Sequence[Look],
    *,
    extra: Sequence[tuple[float, str]] = (),
    fraction: float = 0.8,
) -> None:
    """Write the names of lines at the right edge, beside their ends and without overlap. Call it last.

    ends:      heights of the lines' ends (D,), in data units.
    extra:     further (height, name), in the colour of reference lines.
    fraction:  share of the figure's height that the axes take.
    """
    labels = [
        (end, shorten(name, LABEL_WIDTH), look)
        for end, name, look in zip(ends, names, looks, strict=True)
        if look.named and np.isfinite(end)
    ]
    labels += [(height, name, Look(REFERENCE, ":", True)) for height, name in extra]
    figure = axes.get_figure(root=True)
    assert figure is not None
    gap = 10.5 / 72 / (fraction * figure.get_size_inches()[1])  # a line of text, as a fraction of the axes
    axes.set_ylim(axes.get_ylim())
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(0, end) for end, _, _ in labels]))[:, 1]
    for (_, name, look), end, height in zip(labels, heights, spread(heights, gap=gap), strict=True):
        leader: dict[str, Any] = {"color": look.color, "linestyle": look.style, "linewidth": 0.8}
        axes.plot([1, 1.015, 1.03], [end, height, height], transform=axes.transAxes, clip_on=False, **leader)
        axes.annotate(name, (1.035, height), xycoords="axes fraction", color=look.color, fontsize=8, va="center")
    if grey := sum(not look.named for look in looks):
        text = f"grey: {grey} other domains"
        axes.annotate(text, (1, 1.01), xycoords="axes fraction", color="#777777", fontsize=8, ha="right", va="bottom")


def spread(heights: np.ndarray, *, gap: float) -> np.ndarray:
    """Move the heights as little as possible (least squares) so that all are at least `gap` apart and from 0 to 1.

    Their order is kept. If they do not fit, they are spaced evenly and closer.
    """
    count = len(heights)
    gap = min(gap, 1 / max(count - 1, 1))
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(count)
    fitted = isotonic_regression(np.asarray(heights, dtype=np.float64)[order] - steps).x
    placed = np.empty(count)
    placed[order] = np.clip(fitted, 0, max(1 - gap * (count - 1), 0)) + steps
    return placed


def token_axis(axes: Axes, last: float) -> None:
    """Label the x axis with trained tokens, up to `last`, in a suitable unit."""
    size, unit = token_unit(last)
    axes.set_xlabel(f"trained tokens ({unit})" if unit else "trained tokens")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens / size:g}"))


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this size (inches) with one panel, and the panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save_png(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path` atomically and return the path; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path


def save_figures(figures: Mapping[str, Figure], directory: str | Path) -> list[Path]:
    """Write every figure as NAME.png into `directory`; return the paths."""
    with matplotlib.rc_context(STYLE):
        return [save_png(figure, Path(directory) / f"{name}.png") for name, figure in figures.items()]
