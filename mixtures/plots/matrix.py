"""The figure matrix.png: a heat map of the cosines between the domains' gradients, with the clearest pairs below."""

from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixtures.diagnosis.matrix import ALIKE, HelpMatrix, Pair
from mixtures.text import shorten

MOST_NUMBERS = 14  # up to this number of groups, the cells show their numbers
MOST_NAMES = 80  # most names that fit on the largest page
NAME_WIDTH = 28
PAIRS_NAMED = 3


def matrix_figure(matrix: HelpMatrix) -> Figure:
    """Draw the cosines (D, G) in clustered order, without the diagonal, which is 1.

    A line divides the training domains from groups that only the objective uses. Blue helps, red hurts, grey was not
    measured. The most redundant and the most conflicting pairs are listed below.
    """
    rows, count = len(matrix.rows), len(matrix.columns)
    columns = [*matrix.order, *range(rows, count)]
    shown = np.ma.masked_invalid(matrix.cosines[np.ix_(matrix.order, columns)])
    shown[np.arange(rows), np.arange(rows)] = np.ma.masked
    limit = float(np.clip(1.2 * np.abs(shown).max(), 0.1, 1)) if shown.count() else 1.0
    cell = 0.42 if count <= MOST_NUMBERS else 0.2
    width, height = (float(np.clip(cell * size, 2.2, 16)) for size in (count, rows))
    figure = Figure(figsize=(width + 2.6, height + 2.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes, label="cosine of gradients (1: same direction)", shrink=0.7)
    _name_groups(axes, [matrix.rows[row] for row in matrix.order], [matrix.columns[column] for column in columns])
    if rows < count:
        axes.axvline(rows - 0.5, color="black", linewidth=1)
    if count <= MOST_NUMBERS:
        _write_numbers(axes, shown, limit)
    figure.text(0.01, -0.01, _caption(matrix, width=int(17 * (width + 2.6))), fontsize=8, va="top")
    return figure


def _name_groups(axes: Axes, rows: list[str], columns: list[str]) -> None:
    every = -(-len(columns) // MOST_NAMES)
    size = 8 if len(columns) <= 25 else 6.5
    names = [shorten(name, NAME_WIDTH) for name in columns[::every]]
    axes.set_xticks(range(0, len(columns), every), names, rotation=90, fontsize=size)
    axes.set_yticks(range(0, len(rows), every), [shorten(name, NAME_WIDTH) for name in rows[::every]], fontsize=size)
    axes.set(xlabel="helps or hurts", ylabel="a step on")
    axes.set_facecolor("#DDDDDD")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _write_numbers(axes: Axes, shown: np.ma.MaskedArray, limit: float) -> None:
    for row, column in np.argwhere(~np.ma.getmaskarray(shown)):
        value = shown[row, column]
        color = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=6.5, color=color)


def _caption(matrix: HelpMatrix, *, width: int) -> str:
    """Return the caption: the clearest pairs, one per line with their intervals, and what was not measured."""

    def line(pair: Pair) -> str:
        names = f"{shorten(pair.first, NAME_WIDTH)} and {shorten(pair.second, NAME_WIDTH)}"
        return f"  {names}: {pair.cosine:.2f} ({pair.low:.2f} to {pair.high:.2f})"

    lines = []
    none = {"most alike": f"no pair at {ALIKE} or more beyond noise", "most opposed": "no pair below 0 beyond noise"}
    for title, pairs in zip(none, (matrix.redundant, matrix.conflicting), strict=True):
        lines += [f"{title}:", *map(line, pairs[:PAIRS_NAMED])] if pairs else [f"{title}: {none[title]}"]
    if matrix.unmeasured:
        lines.append(
            fill(f"gradient lost in noise: {', '.join(shorten(name, NAME_WIDTH) for name in matrix.unmeasured)}", width)
        )
    if not matrix.unbiased:
        lines.append(fill("no unbiased self products (rows_per_domain is odd): the cosines are too near 0", width))
    return "\n".join(lines)
