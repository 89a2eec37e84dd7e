"""PNGs of a run and of a mixture, for a screen or a paper. Nothing here touches matplotlib's global state."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mixtures.diagnosis.matrix import help_matrix
from mixtures.files import write_atomic
from mixtures.plots.looks import (
    PALETTE,
    PERCENT,
    REFERENCE,
    Look,
    choose_looks,
    draw_lines,
    name_lines,
    smoothing_window,
)
from mixtures.plots.matrix import matrix_figure
from mixtures.plots.shares import mixture_panels, run_whiskers, whiskers_figure
from mixtures.run.average import running_mean
from mixtures.run.run import Run, natural_shares, read_run
from mixtures.run.trajectory import read_evaluation
from mixtures.schedule.mixture import Mixture
from mixtures.text import shorten, token_unit, tokens_text

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
MOST_PANELS = 5


def plot_run(run_dir: str | Path, directory: str | Path) -> list[Path]:
    """Write weights.png, losses.png, matrix.png and mixture.png of a run into `directory`; the paths written.

    Raises UserError for a damaged run.
    """
    run = read_run(run_dir)
    with matplotlib.rc_context(STYLE):
        figures = {"weights.png": weights_figure(run), "losses.png": losses_figure(run)}
        if (matrix := help_matrix(run)) is not None:
            figures["matrix.png"] = matrix_figure(matrix)
        figures["mixture.png"] = run_whiskers(run) or _run_bars(run)
        return [save_png(figure, Path(directory) / name) for name, figure in figures.items()]


def _run_bars(run: Run) -> Figure:
    names = run.trajectory.domains
    return bars_figure(run.trajectory.average[None], names, natural=run.natural, titles=["average over the run"])


def plot_mixture(path: str | Path, directory: str | Path) -> list[Path]:
    """Write mixture.png of a mixture file into `directory`; the paths written. Raises UserError for a bad file."""
    mixture = Mixture.load(path)
    names = [domain.name for domain in mixture.domains]
    natural = natural_shares([domain.unique_tokens for domain in mixture.domains])
    shares = np.array([[stage.weights[name] for name in names] for stage in mixture.stages])
    with matplotlib.rc_context(STYLE):
        titles = [f"{stage.name}, from {tokens_text(stage.start_tokens)} tokens" for stage in mixture.stages]
        titles = titles if len(shares) > 1 else [f"{tokens_text(mixture.horizon.total_tokens)} tokens"]
        if len(shares) <= MOST_PANELS and (panels := mixture_panels(mixture, titles)):
            record = mixture.provenance.uncertainty
            prior = np.array([record.prior[name] if record else 1 / len(names) for name in names])
            figure = whiskers_figure(panels, names, prior=prior, natural=natural)
        elif len(shares) > MOST_PANELS:
            figure = schedule_figure(shares, names, mixture)
        else:
            figure = bars_figure(shares, names, natural=natural, titles=titles)
        return [save_png(figure, Path(directory) / "mixture.png")]


def weights_figure(run: Run) -> Figure:
    """Weights over steps: running mean, the single steps faint behind it, and the uniform weight."""
    trajectory = run.trajectory
    weights, window = trajectory.weights, smoothing_window(len(trajectory.steps))
    looks, uniform = choose_looks(weights), 1 / len(run.mixed)
    figure, axes = _figure(7.2, 4.2)
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


def losses_figure(run: Run) -> Figure:
    """Training loss of every domain and target over steps as a running mean; held-out losses as points."""
    trajectory, evaluation = run.trajectory, read_evaluation(run.path)
    names = [domain.name for domain in run.corpus.domains]
    targets = len(names) - len(trajectory.domains)
    looks = [*choose_looks(trajectory.weights), *[Look("#000000", ":", True)] * targets]
    figure, axes = _figure(7.2, max(4.2, 0.8 + 0.19 * sum(look.named for look in looks)))
    window, ends = smoothing_window(len(trajectory.steps)), np.full(len(names), np.nan)
    for column, (name, look) in enumerate(zip(names, looks, strict=True)):
        points = evaluation[evaluation["domain"] == name]
        if len(points):
            size, edge = (3.5, 1.0) if look.named else (2.0, 0.5)
            style: dict[str, Any] = {"color": look.color, "markerfacecolor": "white", "markeredgewidth": edge}
            axes.plot(points["step"], points["loss"], "o", markersize=size, zorder=2 + look.named, clip_on=False, **style)
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


def bars_figure(shares: np.ndarray, names: Sequence[str], *, natural: np.ndarray, titles: Sequence[str]) -> Figure:
    """Shares (stages, D) as horizontal bars, a panel a stage, largest on top, beside uniform and natural shares."""
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
    """One panel; values in a column at its right edge, where no marker can be under them."""
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
    """Shares (stages, D) of many stages as steps over the tokens of the large run."""
    looks, uniform = choose_looks(shares), 1 / len(names)
    figure, axes = _figure(7.2, 4.2)
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


def token_axis(axes: Axes, last: float) -> None:
    """Trained tokens along x, up to `last`, in the unit that fits."""
    size, unit = token_unit(last)
    axes.set_xlabel(f"trained tokens ({unit})" if unit else "trained tokens")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens / size:g}"))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _mean_of(window: int) -> str:
    return f" (running mean over {window})" if window > 1 else ""


def _step_axis(axes: Axes, steps: np.ndarray) -> None:
    axes.set_xlim(0 if len(steps) > 1 else 0.5, steps[-1] + (0.5 if len(steps) == 1 else 0))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))


def save_png(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path` atomically, the same bytes for the same figure; the path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path
