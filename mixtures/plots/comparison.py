"""Figures of a comparison: losses over tokens, and the difference of every domain under each mixture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mixtures.compare.cells import signed
from mixtures.compare.comparison import SETTLED, Comparison, Outcome, curve_table, late
from mixtures.compare.statistics import Difference
from mixtures.plots.looks import PALETTE, REFERENCE, Look, choose_mixture_looks
from mixtures.plots.style import STYLE, draw_lines, name_lines, save_figures, token_axis
from mixtures.text import shorten

BETTER, WORSE, UNCLEAR = PALETTE[0], PALETTE[1], "#888888"
WARM = 0.2  # part of training before which losses may lie outside the axis of losses


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw the figures of a comparison: loss_over_tokens and difference_by_domain.

    The second is left out if no mixture has a difference to the baseline (everything diverged).
    """
    with matplotlib.rc_context(STYLE):
        figures = {"loss_over_tokens": curves_figure(comparison)}
        return figures | ({"difference_by_domain": domains_figure(comparison)} if comparison.compared else {})


def plot_comparison(comparison: Comparison, directory: str | Path) -> list[Path]:
    """Write loss_over_tokens.png and difference_by_domain.png into `directory`; return the paths."""
    return save_figures(comparison_figures(comparison), directory)


def curves_figure(comparison: Comparison) -> Figure:
    """Draw the mean loss of the objective over tokens, and below it the difference to the baseline.

    Thick lines are means over seeds, thin lines are single seeds. A line ends where a run diverged. The final
    differences have 95 % intervals.
    """
    outcomes = comparison.outcomes
    looks = choose_mixture_looks(len(outcomes))
    tokens, losses = curve_table(comparison)
    gaps = losses - losses[:1]
    figure = Figure(figsize=(7.6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    _draw_seeds(upper, tokens, losses, looks)
    upper.set_ylim(*_limits(losses[:, :, late(tokens, WARM)], []))
    upper.set_ylabel("loss over the objective\n(nats per token)")
    _draw_seeds(lower, tokens, gaps[1:], looks[1:])
    lower.axhline(0, color=looks[0].color, linewidth=1.4)
    ends = [outcome.difference for outcome in outcomes[1:]]
    right = _draw_intervals(lower, tokens[-1], ends, looks[1:])
    lower.set_ylim(*_limits(gaps[:, :, late(tokens, SETTLED)], ends))
    lower.set_ylabel(f"difference to {shorten(comparison.baseline)}\n(nats per token)")
    lower.set_xlim(tokens[0] if len(tokens) > 1 else 0, right)
    token_axis(lower, tokens[-1])
    lower.set_xticks([tick for tick in lower.get_xticks() if 0 <= tick <= 1.001 * tokens[-1]])
    names = [outcome.name + (" (diverged)" if outcome.diverged else "") for outcome in outcomes]
    final = [0.0, *(end.value if end else np.nan for end in ends)]
    name_lines(lower, np.array(final), names, looks, fraction=0.48)
    _legend(figure, looks, names, final, seeds=max(len(outcome.seeds) for outcome in outcomes))
    return figure


def domains_figure(comparison: Comparison) -> Figure:
    """Draw the difference to the baseline of every domain, with 95 % interval and number, one panel per mixture."""
    outcomes = comparison.compared
    means = {name: np.mean([outcome.by_domain[name].value for outcome in outcomes]) for name in comparison.rows}
    names = sorted(means, key=lambda name: -means[name])
    height = 1.35 + 0.2 * (len(names) + 1.5)
    figure = Figure(figsize=(1.6 + max(1.75 * len(outcomes), 2.6), height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09)  # type: ignore[union-attr,call-arg]
    panels = figure.subplots(1, len(outcomes), sharey=True, sharex=True, squeeze=False)[0]
    for axes, outcome in zip(panels, outcomes, strict=True):
        _dots(axes, outcome, names)
        axes.set_title(shorten(outcome.name, 20), fontsize=9, loc="left")
    labels = ["objective", *(shorten(name, 24) + ("" if name in comparison.importance else " *") for name in names)]
    panels[0].set_yticks([-1.5, *range(len(names))], labels, fontsize=8)
    panels[0].get_yticklabels()[0].set_fontweight("bold")
    panels[0].set_ylim(len(names) - 0.4, -2.1)
    panels[0].xaxis.set_major_locator(MaxNLocator(3, symmetric=False))
    outside = "; *: not in the objective" if len(comparison.importance) < len(names) else ""
    figure.supxlabel(
        f"loss minus that of {shorten(comparison.baseline)} (nats per token), 95 % intervals{outside}", fontsize=9
    )
    colors = {"better": BETTER, "not distinguishable": UNCLEAR, "worse": WORSE}
    handles = [Line2D([], [], color=color, marker="o", markersize=4, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _draw_seeds(axes: Axes, tokens: np.ndarray, values: np.ndarray, looks: Sequence[Look]) -> None:
    """Draw `values` (M, S, P): single seeds as thin lines, their mean as a thick one that ends with the first seed."""
    for runs, look in zip(values, looks, strict=True):
        runs = runs[np.isfinite(runs).any(axis=1)]
        if len(runs) > 1:
            draw_lines(axes, tokens, runs.T, [look] * len(runs), linewidth=0.6, alpha=0.45)
        marker = {"marker": "o", "markersize": 3} if len(tokens) == 1 else {}
        if len(runs):
            draw_lines(axes, tokens, runs.mean(axis=0)[:, None], [look], **marker)


def _draw_intervals(axes: Axes, last: float, ends: Sequence[Difference | None], looks: Sequence[Look]) -> float:
    """Draw the final differences with their intervals, in a strip right of the lines; return where the strip ends."""
    step = 0.018 * last
    for place, (end, look) in enumerate(zip(ends, looks, strict=True), start=1):
        if end is not None:
            reach = [[end.value - end.low], [end.high - end.value]] if end.known else None
            style: dict[str, Any] = {"color": look.color, "markersize": 3.5, "elinewidth": 1.2, "capsize": 2}
            axes.errorbar(last + place * step, end.value, yerr=reach, fmt="o", zorder=4, **style)
    axes.axvline(last, color=REFERENCE, linewidth=0.6, zorder=1)
    return last + (len(ends) + 1) * step


def _limits(values: np.ndarray, ends: Sequence[Difference | None]) -> tuple[float, float]:
    """Return the limits of an axis that holds the finite `values` and the intervals, with some room."""
    bounds = [bound for end in ends if end is not None for bound in (end.value, end.low, end.high)]
    heights = np.array([*values[np.isfinite(values)], *bounds, *([0.0] if ends else [])])
    heights = heights[np.isfinite(heights)]
    if not len(heights):
        return 0.0, 1.0
    room = max(0.06 * float(np.ptp(heights)), 1e-4)
    return float(heights.min()) - room, float(heights.max()) + room


def _legend(figure: Figure, looks: Sequence[Look], names: Sequence[str], final: Sequence[float], *, seeds: int) -> None:
    """Draw the legend: what the lines mean, and the mixtures whose lines have no end to put their name at."""
    thick, thin = (Line2D([], [], color=REFERENCE, linewidth=width) for width in (1.4, 0.6))
    entries: list[tuple[Any, str]] = [(thick, "mean over seeds"), (thin, "single seed")] if seeds > 1 else []
    entries.append(
        (Line2D([], [], color=REFERENCE, marker="o", markersize=3.5, linewidth=1.2), "final difference, 95 %")
    )
    for look, name, end in zip(looks, names, final, strict=True):
        if np.isnan(end):
            style: dict[str, Any] = {"color": look.color, "linestyle": look.style}
            entries.append((Line2D([], [], **style), shorten(name)))
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


def _dots(axes: Axes, outcome: Outcome, names: Sequence[str]) -> None:
    """Draw one panel: the objective on top, then the domains; the numbers are in a column at the right."""
    assert outcome.difference is not None
    edge: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 7}
    for place, difference in zip(
        [-1.5, *range(len(names))], [outcome.difference, *(outcome.by_domain[name] for name in names)], strict=True
    ):
        color = BETTER if difference.better else WORSE if difference.worse else UNCLEAR
        if difference.known:
            axes.plot(
                [difference.low, difference.high], [place, place], color=color, linewidth=1.3, solid_capstyle="butt"
            )
        axes.plot([difference.value], [place], "o", color=color, markersize=4)
        axes.annotate(
            signed(difference.value, 3), (1, place), xytext=(30, 0), ha="right", va="center", color=color, **edge
        )
    axes.axvline(0, color=REFERENCE, linewidth=0.9)
    axes.axhline(-0.75, color="#CCCCCC", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)  # otherwise the numbers would seem to belong to the next panel
    axes.grid(True, axis="y", color="#F0F0F0")
