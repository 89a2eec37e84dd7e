"""Figures of sample scores: distributions, relation to document length, and effective sample size of weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mixtures.plots.looks import GREY, PALETTE, REFERENCE, Look, choose_looks
from mixtures.plots.run import PERCENT
from mixtures.plots.style import LABEL_WIDTH, MOST_BARS, STYLE, draw_lines, save_png
from mixtures.run.run import RunRecord
from mixtures.samples.summary import TEMPERATURES, DomainScores, Summary
from mixtures.text import shorten

TALL = 20  # from this number of domains on, more panels are drawn side by side and rows are narrower
TITLE = 30  # most characters in a line of a panel's title
CLOUD = 1_000  # above this number of documents, their points are faint
LEAST_SIZE = 1e-3  # lower end of the axis of effective sample sizes


def plot_scores(summary: Summary, run: RunRecord, directory: str | Path) -> list[Path]:
    """Write scores.png, score_length.png, score_length_rho.png and sample_size.png of a run's scores; return the paths.

    `summary`: the summary of the run's scores, with sample sizes. Domains have the same look as in the run's other
    plots.
    """
    looks = dict(zip(run.trajectory.domains, choose_looks(run.trajectory.weights), strict=True))
    panels = [(score, transform) for score in summary.names for transform in summary.transforms(score)]
    with matplotlib.rc_context(STYLE):
        figures = {
            "scores.png": distributions_figure(summary),
            "score_length.png": length_figure(summary, looks),
            "score_length_rho.png": rho_figure(summary),
            "sample_size.png": sizes_figure(summary, {panel: summary.sizes(*panel) for panel in panels}, looks),
        }
        return [save_png(figure, Path(directory) / name) for name, figure in figures.items()]


def distributions_figure(summary: Summary) -> Figure:
    """Draw the quantiles of every score, one panel per score and one row per domain.

    The domain with the highest median of the first score is on top.
    """
    domains = sorted(
        summary.domains, key=lambda domain: -np.nan_to_num(domain.quantiles[next(iter(summary.names))][3], nan=-np.inf)
    )
    left_out = len(domains) - MOST_BARS
    if left_out > 0:
        domains = [*domains[: MOST_BARS // 2], *domains[-MOST_BARS // 2 :]]
    row = 0.2 if len(domains) < TALL else 0.16
    figure, panels = _panels(
        len(summary.names),
        width=2.1,
        height=0.55 + row * (len(domains) + 0.5),
        across=8 if len(domains) >= TALL else 4,
        left=1.6,
        sharey=True,
    )
    for axes, (score, names) in zip(panels, summary.names.items(), strict=True):
        values = np.array([domain.quantiles[score] for domain in domains])
        draw_quantiles(axes, values)
        scale_axis(axes, "x", values[:, [0, -1]], log=summary.heavy_tailed(score))
        axes.set_title(_title(names), fontsize=9, loc="left")
    panels[0].set_ylim(len(domains) - 0.4, -0.6)
    panels[0].set_yticks(range(len(domains)), [_domain_label(domain) for domain in domains])
    for axes in panels:
        axes.tick_params(axis="y", labelsize=8 if len(domains) < TALL else 7)
    what = f"score of a {summary.unit}"
    figure.supxlabel(
        f"{what}; {left_out} domains between the upper and the lower half are left out" if left_out > 0 else what,
        fontsize=9,
    )
    figure.legend(handles=quantile_handles(f"one {summary.unit}"), loc="outside upper center", ncols=4)
    return figure


def _title(names: Sequence[str]) -> str:
    """Return a panel's title, such as `nll_mean = information_v1`; on two lines if it is too long for one."""
    first, *others = (shorten(name, TITLE) for name in names)
    same = f" = {others[0] if len(others) == 1 else f'{len(others)} others'}" if others else ""
    return first + (same if len(first + same) <= TITLE else f"\n{same.strip()}")


def _domain_label(domain: DomainScores) -> str:
    return shorten(domain.name) if domain.documents else f"{shorten(domain.name, 20)} (none)"


def draw_quantiles(axes: Axes, values: np.ndarray) -> None:
    """Draw one box per row of `values` (D, 7): line 1 to 99 %, box 25 to 75 %, tick at the median, dots at the ends."""
    places = np.arange(len(values))
    ends: dict[str, Any] = {"linestyle": "", "marker": ".", "markersize": 3, "color": REFERENCE}
    axes.plot(values[:, [0, -1]].ravel(), places.repeat(2), **ends)
    axes.hlines(places, values[:, 1], values[:, 5], color=REFERENCE, linewidth=0.9)
    axes.hlines(places, values[:, 2], values[:, 4], color=PALETTE[5], linewidth=5.5, zorder=2.5)
    axes.plot(values[:, 3], places, linestyle="", marker="|", markersize=7, markeredgewidth=1.4, color="black")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def quantile_handles(extreme: str) -> list[Line2D]:
    """Return the legend entries for `draw_quantiles`; `extreme` names what one dot stands for."""
    return [
        Line2D([], [], linestyle="", marker="|", markersize=7, markeredgewidth=1.4, color="black", label="median"),
        Line2D([], [], color=PALETTE[5], linewidth=5.5, label="25 to 75 %"),
        Line2D([], [], color=REFERENCE, linewidth=0.9, label="1 to 99 %"),
        Line2D([], [], linestyle="", marker=".", markersize=3, color=REFERENCE, label=f"lowest, highest ({extreme})"),
    ]


def length_figure(summary: Summary, looks: Mapping[str, Look]) -> Figure:
    """Draw every score over length, one panel per score and one colour per domain.

    Documents are points; the median by length is a line.
    """
    looks = {domain.name: looks.get(domain.name, Look(GREY, "-", False)) for domain in summary.domains}
    figure, panels = _panels(len(summary.names), width=2.9, height=2.4, across=3, left=2.3)
    alpha = 0.3 if sum(len(domain.points) for domain in summary.domains) > CLOUD else 0.7
    for axes, (score, names) in zip(panels, summary.names.items(), strict=True):
        for domain in summary.domains:
            look = looks[domain.name]
            point: dict[str, Any] = {
                "color": look.color,
                "zorder": 2 + look.named,
                "markersize": 2.5,
                "markeredgewidth": 0,
            }
            axes.plot(domain.points["tokens"], domain.points[score], ".", alpha=alpha, **point)
            trend = domain.trend[score]
            marker = {"marker": "o", "markersize": 3.5} if len(trend) == 1 else {}
            draw_lines(axes, trend[:, 0], trend[:, 1:], [look], **marker, zorder=4 + look.named)
        trends = [domain.trend[score] for domain in summary.domains]
        heights = [*(trend[:, 1] for trend in trends), *(domain.points[score] for domain in summary.domains)]
        lengths = [*(trend[:, 0] for trend in trends), *(domain.points["tokens"] for domain in summary.domains)]
        scale_axis(axes, "y", np.concatenate(heights), log=summary.positive(score))
        scale_axis(axes, "x", np.concatenate(lengths), log=True)
        axes.set_title(_title(names), fontsize=9, loc="left")
    figure.supxlabel(f"length of a {summary.unit} (tokens)", fontsize=9)
    extra = [
        Line2D([], [], color=REFERENCE, linewidth=1.4, label="median by length"),
        Line2D([], [], color=REFERENCE, linestyle="", marker=".", markersize=3, label=_points_label(summary)),
    ]
    figure.legend(handles=[*extra, *_name_handles(looks)], loc="outside right upper", fontsize=8)
    return figure


def _points_label(summary: Summary) -> str:
    most = max(len(domain.points) for domain in summary.domains)
    thinned = any(len(domain.points) < domain.documents for domain in summary.domains)
    return f"one {summary.unit}" + (f" (at most {most:,} per domain)" if thinned else "")


def _name_handles(looks: Mapping[str, Look]) -> Iterator[Line2D]:
    """Yield the legend entries: the names of the lines in colour, and the number of grey ones."""
    for name, look in looks.items():
        if look.named:
            style: dict[str, Any] = {"color": look.color, "linestyle": look.style, "linewidth": 1.4}
            yield Line2D([], [], **style, label=shorten(name, LABEL_WIDTH))
    if grey := sum(not look.named for look in looks.values()):
        yield Line2D([], [], color=GREY, linewidth=0.6, label=f"{grey} other domains" if grey > 1 else "another domain")


def rho_figure(summary: Summary) -> Figure:
    """Draw a heat map, with numbers, of Spearman's rho between score and length per domain; grey means no value."""
    rho = np.array([[domain.rho[score] for score in summary.names] for domain in summary.domains])
    domains, scores = rho.shape
    figure = Figure(figsize=(0.45 * scores + 3.4, 0.2 * domains + 2.2), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#DDDDDD")
    image = axes.imshow(np.ma.masked_invalid(rho), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    height = figure.get_size_inches()[1]
    figure.colorbar(image, ax=axes, ticks=[-1, -0.5, 0, 0.5, 1], aspect=max(8, 5 * min(height, 6)))
    axes.set_title("Spearman's rho of score and length", fontsize=9, loc="left")
    axes.set_xticks(range(scores), [_title(names) for names in summary.names.values()], rotation=90, fontsize=8)
    axes.set_yticks(range(domains), [_domain_label(domain) for domain in summary.domains], fontsize=8)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(rho):
        text = f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else "-"
        axes.text(
            column, row, text, ha="center", va="center", fontsize=6.5, color="white" if abs(value) > 0.6 else "black"
        )
    return figure


def sizes_figure(summary: Summary, sizes: Mapping[tuple[str, str], np.ndarray], looks: Mapping[str, Look]) -> Figure:
    """Draw the effective sample size over temperature, one panel per score and transform, both directions in one panel.

    `sizes`: {(score, transform): effective sample sizes (D, K) at K temperatures}.
    """
    looks = {domain.name: looks.get(domain.name, Look(GREY, "-", False)) for domain in summary.domains}
    figure, panels = _panels(len(sizes), width=2.6, height=2.1, across=4, left=2.2, sharey=True)
    for axes, ((score, transform), values) in zip(panels, sizes.items(), strict=True):
        draw_lines(axes, TEMPERATURES, values.T, list(looks.values()))
        axes.axvline(0, color=REFERENCE, linewidth=0.9, linestyle=":")
        axes.set_yscale("log")
        axes.set_ylim(LEAST_SIZE, 1.15)
        axes.set_xlim(TEMPERATURES[0], TEMPERATURES[-1])
        axes.set_xticks(range(-3, 4), ["3", "2", "1", "0", "1", "2", "3"])
        axes.yaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(("log of " if transform == "log" else "") + _title(summary.names[score]), fontsize=8, loc="left")
    figure.supxlabel(
        "temperature of softmax weights without cap\ninverse: low scores up ← 0 → direct: high scores up", fontsize=9
    )
    figure.supylabel("effective sample size\n(share of the domain's tokens)", fontsize=9)
    figure.legend(handles=list(_name_handles(looks)), loc="outside right upper", fontsize=8)
    return figure


def scale_axis(axes: Axes, which: str, values: np.ndarray, *, log: bool) -> None:
    """Set limits and few ticks of the x or y axis to show the finite `values`.

    With `log`, the axis is logarithmic if they span more than a decade.
    """
    axis, limits = (axes.xaxis, axes.set_xlim) if which == "x" else (axes.yaxis, axes.set_ylim)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
    if log and high > 10 * low:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        room = (high / low) ** 0.04
        limits(low / room, high * room)
        if high > 300 * low:
            axis.set_major_locator(LogLocator(numticks=5))
        else:  # powers of ten alone would give one or two ticks only
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1, 3)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        return
    room = max(0.05 * (high - low), 0.02 * abs(high), 1e-9)
    limits(low - room, high + room)
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis=which, style="sci", scilimits=(-4, 5), useOffset=False)  # type: ignore[arg-type]


def _panels(
    count: int, *, width: float, height: float, across: int, left: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels of a size (inches), at most `across` in a row.

    `left` is the width (inches) of the column for what is drawn beside the panels.
    """
    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(left + width * across, height * down + 0.7), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=sharey).ravel().tolist()
    for surplus in panels[count:]:
        surplus.remove()
    return figure, panels[:count]
