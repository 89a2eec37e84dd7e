"""Many lines in one plot that stay readable: a colour-blind-safe palette, names at the right end, the rest in grey."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from scipy.optimize import isotonic_regression

from mixtures.run.average import running_mean
from mixtures.text import shorten

# Okabe and Ito's colours that stand out on white; the second time round the lines are dashed.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#B8B8B8"
REFERENCE = "#555555"
ALL_NAMED = 2 * len(PALETTE)  # up to here every line has a colour of its own
LABEL_WIDTH = 24
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}%")


@dataclass(frozen=True)
class Look:
    """How one line is drawn; the same domain looks the same in every plot of a run."""

    color: str
    style: str
    named: bool


def choose_looks(values: np.ndarray) -> list[Look]:
    """A look for each column of `values` (S, D): all named where there are few, else those that move most."""
    count = values.shape[1]
    if count <= ALL_NAMED:
        named = list(range(count))
    else:
        moved = np.ptp(running_mean(values, window=smoothing_window(len(values))), axis=0)
        named = sorted(np.argsort(-moved, kind="stable")[: len(PALETTE)].tolist())
    looks = [Look(GREY, "-", False)] * count
    for turn, column in enumerate(named):
        looks[column] = Look(PALETTE[turn % len(PALETTE)], "--" if turn >= len(PALETTE) else "-", True)
    return looks


def smoothing_window(steps: int) -> int:
    """Length of the running mean that a line of `steps` points is drawn with."""
    return max(1, steps // 50)


def draw_lines(axes: Axes, x: np.ndarray, values: np.ndarray, looks: Sequence[Look], **keywords: Any) -> None:
    """The columns of `values` (S, D) over `x` (S,), grey ones underneath."""
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
    """Names at the right edge, each beside the end of its line and none over another. Call it last.

    `ends` (D,) in data units; `extra`: further (height, name) in the colour of reference lines; `fraction`: of the
    figure's height that the axes have.
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
    for (_, name, look), own, height in zip(labels, heights, spread(heights, gap=gap), strict=True):
        leader: dict[str, Any] = {"color": look.color, "linestyle": look.style, "linewidth": 0.8}
        axes.plot([1, 1.015, 1.03], [own, height, height], transform=axes.transAxes, clip_on=False, **leader)
        axes.annotate(name, (1.035, height), xycoords="axes fraction", color=look.color, fontsize=8, va="center")
    if grey := sum(not look.named for look in looks):
        text = f"grey: {grey} other domains"
        axes.annotate(text, (1, 1.01), xycoords="axes fraction", color="#777777", fontsize=8, ha="right", va="bottom")


def spread(heights: np.ndarray, *, gap: float) -> np.ndarray:
    """The heights moved as little as possible (least squares) so that all are `gap` apart and inside 0 to 1.

    Order is kept. Where they do not fit they are spaced evenly and closer.
    """
    count = len(heights)
    gap = min(gap, 1 / max(count - 1, 1))
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(count)
    fitted = isotonic_regression(np.asarray(heights, dtype=np.float64)[order] - steps).x
    placed = np.empty(count)
    placed[order] = np.clip(fitted, 0, max(1 - gap * (count - 1), 0)) + steps
    return placed
