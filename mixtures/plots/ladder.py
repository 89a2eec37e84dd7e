"""The figure ladder.png: weight / prior over the size of the proxy, one line per domain."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mixtures.diagnosis.ladder import Extrapolation, Ladder
from mixtures.plots.looks import REFERENCE, choose_looks
from mixtures.plots.style import STYLE, draw_lines, name_lines, save_png
from mixtures.text import tokens_text


def plot_ladder(ladder: Ladder, path: Path, beyond: Extrapolation | None = None) -> Path:
    """Write the figure of a ladder to `path`, and return the path."""
    with matplotlib.rc_context(STYLE):
        return save_png(ladder_figure(ladder, beyond), path)


def ladder_figure(ladder: Ladder, beyond: Extrapolation | None = None) -> Figure:
    """Draw the means of the sizes as lines, single runs as points, and `beyond` as dotted lines with intervals."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes, ratios = ladder.sizes, np.exp(ladder.by_size)
    looks = choose_looks(np.vstack([np.zeros(len(ladder.names)), ladder.by_size]))
    draw_lines(axes, sizes, ratios, looks)
    draw_lines(axes, ladder.parameters, np.exp(ladder.log_ratios), looks, linestyle="", marker="o", markersize=3)
    ends, ticks = ratios[-1], sizes.tolist()
    if beyond is not None:
        ends, ticks = beyond.weights / ladder.prior, [*ticks, beyond.parameters]
        last = np.argmin(np.where(sizes <= beyond.parameters, beyond.parameters - sizes, np.inf))
        draw_lines(
            axes, np.array([sizes[last], beyond.parameters]), np.stack([ratios[last], ends]), looks, linestyle=":"
        )
        for column, look in enumerate(looks):
            if look.named:
                low, high = beyond.low[column] / ladder.prior[column], beyond.high[column] / ladder.prior[column]
                axes.plot([beyond.parameters] * 2, [low, high], color=look.color, linewidth=1, alpha=0.6)
    axes.axhline(1, color=REFERENCE, linewidth=0.9, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="parameters of the proxy", ylabel="weight / prior")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: tokens_text(size)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator([2 ** (power / 2) for power in range(-24, 25)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:.2g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(ticks), max(ticks))
    name_lines(axes, ends, ladder.names, looks, extra=[(1.0, "prior")])
    return figure
