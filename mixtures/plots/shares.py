"""Figures of shares: as dots with intervals beside the prior, as bars, or as steps over the tokens of the large run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixtures.plots.looks import PALETTE, REFERENCE, choose_looks
from mixtures.plots.style import MOST_BARS, PERCENT, draw_lines, name_lines, new_figure, token_axis
from mixtures.run.learned import average_runs
from mixtures.run.run import RunRecord
from mixtures.schedule.mixture import Mixture, learned_weights
from mixtures.schedule.show import part_text
from mixtures.text import shorten

MOST_ROWS = 60
SURE = PALETTE[0]
UNSURE = "#8A8A8A"


@dataclass(frozen=True)
class Panel:
    """The values of one stage: weights, learned weights before bounds, and ends of the intervals; all (D,)."""

    title: str
    weights: np.ndarray
    learned: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mixture_panels(mixture: Mixture, titles: Sequence[str]) -> list[Panel]:
    """Return one panel per stage of a mixture; an empty list if a stage has no intervals."""
    names = [domain.name for domain in mixture.domains]
    learned = learned_weights(mixture) or [stage.weights for stage in mixture.stages]
    panels = []
    for stage, before, title in zip(mixture.stages, learned, titles, strict=True):
        if stage.weights_ci95 is None:
            return []
        panels.append(panel(names, stage.weights, before, stage.weights_ci95, title=title))
    return panels


def run_whiskers(run: RunRecord) -> Figure | None:
    """Draw a run's weights with intervals, as an export would give them; None if the run has no intervals."""
    names, learned = run.trajectory.domains, average_runs([run], run.trajectory.domains)
    if learned.record is None or learned.intervals[0] is None:
        return None
    weights = dict(zip(names, learned.weights[0], strict=True))
    kept = part_text(learned.record.factor[0])
    title = f"average over the run; {kept} of the learned departure from the prior is kept"
    return whiskers_figure(
        [panel(names, weights, weights, learned.intervals[0], title=title)], names, prior=run.prior, natural=run.natural
    )


def panel(
    names: Sequence[str],
    weights: Mapping[str, float],
    learned: Mapping[str, float],
    intervals: Mapping[str, Any],
    *,
    title: str,
) -> Panel:
    """Return the panel of one stage, domains in the order of `names`."""
    low, high = np.array([intervals[name] for name in names]).T
    return Panel(
        title, np.array([weights[name] for name in names]), np.array([learned[name] for name in names]), low, high
    )


def whiskers_figure(panels: Sequence[Panel], names: Sequence[str], *, prior: np.ndarray, natural: np.ndarray) -> Figure:
    """Draw weights as dots with whiskers beside the prior (D,) and the natural shares (D,), one panel per stage.

    The largest weight is on top. A domain whose interval holds its prior is grey. If there are more than MOST_ROWS
    domains, those with the largest weights are drawn.
    """
    order = np.argsort(-np.mean([each.weights for each in panels], axis=0), kind="stable")[:MOST_ROWS]
    labels = [shorten(names[column], 28) for column in order]
    figure = Figure(figsize=(max(6.4, 2 + 2.5 * len(panels)), 1.5 + 0.2 * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for stage, place in zip(panels, axes, strict=True):
        _draw(place, stage, order, prior=prior, natural=natural)
        place.set_title(stage.title, fontsize=9, loc="left")
    highest = max(max(each.high[order].max(), each.weights[order].max()) for each in panels)
    axes[0].set_xlim(0, 1.05 * max(highest, prior[order].max(), natural[order].max()))
    axes[0].set_yticks(range(len(labels)), labels, fontsize=8)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    rest = f"; {len(names) - len(order)} smaller domains are not drawn" if len(names) > len(order) else ""
    figure.supxlabel(f"share of trained tokens, with 95 % interval{rest}", fontsize=9)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=3)
    return figure


def _draw(axes: Axes, panel: Panel, order: np.ndarray, *, prior: np.ndarray, natural: np.ndarray) -> None:
    """Draw one panel; its values are in a column at the right edge, where no marker can be under them."""
    weights, learned, low, high = panel.weights[order], panel.learned[order], panel.low[order], panel.high[order]
    prior, places = prior[order], np.arange(len(order))
    sure = (prior < low) | (prior > high)
    for chosen, color, label in ((sure, SURE, "weight"), (~sure, UNSURE, "weight, interval holds the prior")):
        axes.hlines(places[chosen], low[chosen], high[chosen], color=color, linewidth=1.6, zorder=3)
        axes.plot(weights[chosen], places[chosen], "o", color=color, markersize=4.5, zorder=5, label=label)
    moved = np.abs(weights - learned) > 1e-9
    if moved.any():
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": REFERENCE, "zorder": 4}
        axes.plot(
            learned[moved], places[moved], "o", markersize=4.5, linestyle="", label="learned, before bounds", **hollow
        )
    same = np.allclose(prior, natural[order])
    axes.vlines(
        prior, places - 0.5, places + 0.5, color="black", linewidth=1.1, zorder=2, label=f"prior{' (natural)' * same}"
    )
    if not same:
        diamonds: dict[str, Any] = {"color": PALETTE[4], "markersize": 3, "linestyle": "", "zorder": 2}
        axes.plot(natural[order], places, "D", label="natural (tokens in the corpus)", **diamonds)
    edge: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 7}
    for place, weight in zip(places, weights, strict=True):
        axes.annotate(f"{weight:.1%}", (1, place), xytext=(27, 0), ha="right", va="center", **edge)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def bars_figure(shares: np.ndarray, names: Sequence[str], *, natural: np.ndarray, titles: Sequence[str]) -> Figure:
    """Draw shares (stages, D) as bars beside uniform and natural shares, one panel per stage, largest on top."""
    order = np.argsort(-shares.mean(axis=0), kind="stable")
    uniform = 1 / len(names)
    labels = [shorten(names[column], 28) for column in order]
    shares, natural = shares[:, order], natural[order]
    if len(names) > MOST_BARS:
        rest = len(names) - MOST_BARS + 1
        labels = [*labels[:-rest], f"{rest} other domains, each"]
        shares = np.column_stack([shares[:, :-rest], shares[:, -rest:].mean(axis=1)])
        natural = np.append(natural[:-rest], natural[-rest:].mean())
    figure = Figure(figsize=(max(6.4, 2 + 2.3 * len(shares)), 1.2 + 0.2 * len(labels) + 0.1), layout="constrained")
    panels = figure.subplots(1, len(shares), sharey=True, sharex=True, squeeze=False)[0]
    limit = 1.05 * max(shares.max(), natural.max(), uniform)
    for axes, row, title in zip(panels, shares, titles, strict=True):
        _bars(axes, row, natural, uniform=uniform, limit=limit)
        axes.set_title(title, fontsize=9, loc="left")
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.supxlabel("share of trained tokens", fontsize=9)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], texts[::-1], loc="outside upper center", ncols=3)
    return figure


def _bars(axes: Axes, shares: np.ndarray, natural: np.ndarray, *, uniform: float, limit: float) -> None:
    """Draw one panel; its values are in a column at the right edge, where no marker can be under them."""
    places = np.arange(len(shares))
    axes.barh(places, shares, height=0.72, color=PALETTE[5], label="learned")
    axes.axvline(uniform, color=REFERENCE, linestyle=":", linewidth=1.1, label="uniform")
    axes.plot(natural, places, "D", color="black", markersize=3.2, linestyle="", label="natural (tokens in the corpus)")
    edge: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 7}
    for place, share in zip(places, shares, strict=True):
        axes.annotate(f"{share:.1%}", (1, place), xytext=(27, 0), ha="right", va="center", **edge)
    axes.set_xlim(0, limit)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def schedule_figure(shares: np.ndarray, names: Sequence[str], mixture: Mixture) -> Figure:
    """Draw the shares (stages, D) of many stages as steps over the tokens of the large run."""
    looks, uniform = choose_looks(shares), 1 / len(names)
    figure, axes = new_figure(7.2, 4.2)
    starts = np.array([*(stage.start_tokens for stage in mixture.stages), mixture.horizon.end_tokens])
    draw_lines(axes, starts, np.vstack([shares, shares[-1]]), looks, drawstyle="steps-post")
    axes.axhline(uniform, color=REFERENCE, linewidth=0.9, linestyle=":")
    axes.set_ylabel("share of trained tokens")
    axes.set_xlim(starts[0], starts[-1])
    token_axis(axes, starts[-1])
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(0, max(1.05 * shares.max(), 1.3 * uniform))
    name_lines(axes, shares[-1], names, looks, extra=[(uniform, "uniform")])
    return figure
