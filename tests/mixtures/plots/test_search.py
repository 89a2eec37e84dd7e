"""The figures of a search."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixtures.plots.search import BINS, effects_figure, plot_search, rounds_figure, weights_figure

NAMES = ["wiki", "code", "forum"]


def one(value: float, *, kept: bool = True, start: int | None = 0, low: float | None = None) -> dict[str, Any]:
    change = {"value": value, "low": low, "high": None if low is None else 2 * value - low}
    weights = dict(zip(NAMES, [0.5 - value, 0.25 + value, 0.25], strict=True))
    return {
        "weights": weights,
        "against_prior": change,
        "start": start,
        "predicted": None if start is None else value / 2,
        "kept": kept,
    }


def record() -> dict[str, Any]:
    return {"rounds": [one(0.0, start=None), one(-0.1, low=-0.15), one(-0.05, kept=False), one(-0.12, start=1)]}


def effects(steps: int) -> pd.DataFrame:
    rows = [(seed, step + 1, name) for seed in (0, 1) for step in range(steps) for name in NAMES]
    frame = pd.DataFrame(rows, columns=["seed", "step", "domain"])
    return frame.assign(effect=np.where(frame["domain"] == "wiki", -1.0, 0.5) * (1 + frame["seed"]))


def test_rounds_show_what_was_measured_beside_what_was_predicted() -> None:
    axes = rounds_figure(record()).axes[0]
    marks = {str(line.get_label()): line for line in axes.lines}
    np.testing.assert_allclose(marks["predicted by the slopes"].get_ydata(), [-0.05, -0.025, -0.16])
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} >= {"measured, kept", "measured, not kept", "prior"}


def test_weights_are_those_of_the_rounds_that_were_kept() -> None:
    axes = weights_figure(record()).axes[0]
    assert [0.5, 0.6, 0.62] in [np.round(line.get_ydata(), 6).tolist() for line in axes.lines]


def test_effects_are_means_over_seeds_and_spans_of_steps() -> None:
    for steps in (3, 100):
        lines = [line for line in effects_figure(effects(steps), NAMES).axes[0].lines if len(line.get_xdata()) > 2]
        assert {len(line.get_xdata()) for line in lines if line.get_linestyle() != ":"} >= {min(steps, BINS)}
        assert any(np.allclose(line.get_ydata(), -1.5) for line in lines)


def test_a_search_without_intervals_is_drawn(tmp_path: Path) -> None:
    paths = plot_search({"rounds": [one(0.0, start=None)]}, effects(1), tmp_path)
    assert [path.name for path in paths] == ["rounds.png", "weights.png", "effects.png"]
    assert all(path.stat().st_size > 1000 for path in paths)
