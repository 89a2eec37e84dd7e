"""Figures of a search: the objective over its rounds, the weights over them, and the effects of domains over steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixtures.plots.looks import REFERENCE, choose_looks
from mixtures.plots.style import PERCENT, STYLE, draw_lines, name_lines, new_figure, save_figures

BINS = 20  # spans of steps that effects are averaged over


def plot_search(record: Mapping[str, Any], effects: pd.DataFrame, directory: str | Path) -> list[Path]:
    """Write rounds.png, weights.png and effects.png of a search into `directory`; return the paths.

    record: the content of rounds.json. effects: seed, step, domain and effect of the round whose slopes are drawn.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "rounds": rounds_figure(record),
            "weights": weights_figure(record),
            "effects": effects_figure(effects, list(record["rounds"][0]["weights"])),
        }
    return save_figures(figures, directory)


def rounds_figure(record: Mapping[str, Any]) -> Figure:
    """Draw the objective of every round against the prior's, with intervals, beside what slopes had predicted."""
    rounds = record["rounds"]
    numbers = np.arange(len(rounds))
    change = np.array([one["against_prior"]["value"] for one in rounds])
    kept = np.array([one["kept"] for one in rounds])
    figure, axes = new_figure(7.2, 4.2)
    axes.axhline(0, color=REFERENCE, linewidth=0.9, linestyle=":")
    for ok, face, label in ((True, "C0", "measured, kept"), (False, "white", "measured, not kept")):
        here = (kept == ok) & (numbers > 0)
        if not here.any():
            continue
        ends = [one["against_prior"] for one, use in zip(rounds, here, strict=True) if use]
        spread = [[_length(each, end) for each in ends] for end in ("low", "high")]
        axes.errorbar(
            numbers[here], change[here], yerr=spread, fmt="o", color="C0", markerfacecolor=face, capsize=3, label=label
        )
    told = [n for n in numbers if rounds[n]["predicted"] is not None]
    promised = [change[rounds[n]["start"]] + rounds[n]["predicted"] for n in told]
    axes.plot(told, promised, "_", color="C1", markersize=14, markeredgewidth=1.8, label="predicted by the slopes")
    axes.plot(0, 0, "s", color=REFERENCE, label="prior")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel="objective against the prior (nats per token)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def weights_figure(record: Mapping[str, Any]) -> Figure:
    """Draw the mixture of every round; rounds that were not kept are left out but for their number."""
    rounds = [(number, one) for number, one in enumerate(record["rounds"]) if one["kept"]]
    numbers, names = np.array([number for number, _ in rounds]), list(rounds[0][1]["weights"])
    weights = np.array([list(one["weights"].values()) for _, one in rounds])
    figure, axes = new_figure(7.2, 4.2)
    looks = choose_looks(weights)
    draw_lines(axes, numbers, weights, looks, marker="o", markersize=3)
    axes.set(xlabel="round (those kept)", ylabel="weight (share of trained tokens)")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1.05 * weights.max())
    name_lines(axes, weights[-1], names, looks)
    return figure


def effects_figure(effects: pd.DataFrame, names: list[str]) -> Figure:
    """Draw the effect of every domain over the steps: mean over seeds and spans of steps, nats per step."""
    wide = effects.groupby(["step", "domain"])["effect"].mean().unstack()[names]
    span = np.minimum(np.arange(len(wide)) * BINS // max(len(wide), 1), BINS - 1)
    means = wide.groupby(span).mean().to_numpy()
    steps = wide.index.to_series().groupby(span).mean().to_numpy()
    figure, axes = new_figure(7.2, 4.2)
    looks = choose_looks(-means)
    axes.axhline(0, color=REFERENCE, linewidth=0.9, linestyle=":")
    draw_lines(axes, steps, means, looks)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="effect of a domain on the objective\n(nats per unit of its log-weight and step)")
    name_lines(axes, means[-1], names, looks)
    return figure


def _length(change: Mapping[str, Any], end: str) -> float:
    """Return the length of one side of an interval; 0 where there is none."""
    return 0.0 if change[end] is None else abs(change[end] - change["value"])
