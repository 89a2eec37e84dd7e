"""Figures of a run: weights, losses, matrix and mixture. They do not change matplotlib's global state."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mixtures.diagnosis.matrix import help_matrix
from mixtures.plots.looks import REFERENCE, Look, choose_looks, smoothing_window
from mixtures.plots.matrix import matrix_figure
from mixtures.plots.shares import bars_figure, run_whiskers
from mixtures.plots.style import PERCENT, STYLE, draw_lines, name_lines, new_figure, save_figures
from mixtures.run.average import running_mean
from mixtures.run.run import RunRecord


def run_figures(run: RunRecord) -> dict[str, Figure]:
    """Draw the figures of a run: weights, losses, matrix (if gradient products were recorded), mixture."""
    with matplotlib.rc_context(STYLE):
        figures = {"weights": weights_figure(run), "losses": losses_figure(run)}
        if (matrix := help_matrix(run)) is not None:
            figures["matrix"] = matrix_figure(matrix)
        return figures | {"mixture": run_whiskers(run) or _run_bars(run)}


def plot_run(run: RunRecord, directory: str | Path) -> list[Path]:
    """Write weights.png, losses.png, matrix.png and mixture.png of a run into `directory`; return the paths."""
    return save_figures(run_figures(run), directory)


def _run_bars(run: RunRecord) -> Figure:
    names = run.trajectory.domains
    return bars_figure(run.trajectory.average[None], names, natural=run.natural, titles=["average over the run"])


def weights_figure(run: RunRecord) -> Figure:
    """Draw the weights over the steps: the running mean, the single steps faint behind it, and the uniform weight."""
    trajectory = run.trajectory
    weights, window = trajectory.weights, smoothing_window(len(trajectory.steps))
    looks, uniform = choose_looks(weights), 1 / len(run.mixed)
    figure, axes = new_figure(7.2, 4.2)
    smooth = running_mean(weights, window=window)
    if window > 1:
        named = [column for column, look in enumerate(looks) if look.named]
        draw_lines(axes, trajectory.steps, weights[:, named], [looks[c] for c in named], alpha=0.25, linewidth=0.5)
    draw_lines(axes, trajectory.steps, smooth, looks)
    axes.axhline(uniform, color=REFERENCE, linewidth=0.9, linestyle=":")
    axes.set(xlabel="step" + _mean_of(window), ylabel="weight (share of trained tokens)")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(0, max(1.05 * np.nanmax(weights), 1.3 * uniform))
    _step_axis(axes, trajectory.steps)
    name_lines(axes, smooth[-1], trajectory.domains, looks, extra=[(uniform, "uniform")])
    return figure


def losses_figure(run: RunRecord) -> Figure:
    """Draw the losses of every domain and target over the steps: training as a running mean, held-out as points."""
    trajectory, evaluation = run.trajectory, run.evaluation
    names = [domain.name for domain in run.corpus.domains]
    targets = len(names) - len(trajectory.domains)
    looks = [*choose_looks(trajectory.weights), *[Look("#000000", ":", True)] * targets]
    figure, axes = new_figure(7.2, max(4.2, 0.8 + 0.19 * sum(look.named for look in looks)))
    window, ends = smoothing_window(len(trajectory.steps)), np.full(len(names), np.nan)
    for column, (name, look) in enumerate(zip(names, looks, strict=True)):
        points = evaluation[evaluation["domain"] == name]
        if len(points):
            size, edge = (3.5, 1.0) if look.named else (2.0, 0.5)
            style: dict[str, Any] = {"color": look.color, "markerfacecolor": "white", "markeredgewidth": edge}
            axes.plot(
                points["step"], points["loss"], "o", markersize=size, zorder=2 + look.named, clip_on=False, **style
            )
            ends[column] = points["loss"].iloc[-1]
        if name in trajectory.groups:  # a target that the objective leaves out has no training loss
            smooth = running_mean(trajectory.losses[:, [trajectory.groups.index(name)]], window=window)
            draw_lines(axes, trajectory.steps, smooth, [look])
            ends[column] = smooth[-1, 0]
    axes.set(xlabel="step" + _mean_of(window), ylabel="loss (nats per token)")
    _step_axis(axes, trajectory.steps)
    name_lines(axes, ends, names, looks)
    handles = [Line2D([], [], color=REFERENCE, label="training")]
    if len(evaluation):
        point = {"marker": "o", "markerfacecolor": "white", "markersize": 3.5, "linestyle": ""}
        handles.append(Line2D([], [], color=REFERENCE, label="held out", **point))  # type: ignore[arg-type]
    axes.legend(handles=handles, loc="upper right")
    return figure


def _mean_of(window: int) -> str:
    return f" (running mean over {window})" if window > 1 else ""


def _step_axis(axes: Axes, steps: np.ndarray) -> None:
    axes.set_xlim(0 if len(steps) > 1 else 0.5, steps[-1] + (0.5 if len(steps) == 1 else 0))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
