"""Colours and dashes of lines: a palette for the colour-blind, and grey for lines without a name."""

from dataclasses import dataclass

import numpy as np

from mixtures.run.average import running_mean

# The colours of Okabe and Ito that stand out on white; when all are used, further lines are dashed.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#B8B8B8"
COLORS = PALETTE[:6]  # the seventh, black, is for the baseline
STYLES = ("-", "--", ":", "-.")
REFERENCE = "#555555"
ALL_NAMED = 2 * len(PALETTE)  # up to this number of lines, every line has its own look


@dataclass(frozen=True)
class Look:
    """The look of one line; a domain has the same look in every plot of a run."""

    color: str
    style: str
    named: bool


def choose_looks(values: np.ndarray) -> list[Look]:
    """Choose a look for each column of `values` (S, D): if there are many, only those that move most get a colour."""
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
    """Return the window of the running mean (steps) that a line of `steps` points is drawn with."""
    return max(1, steps // 50)


def choose_mixture_looks(count: int) -> list[Look]:
    """Choose a look for every mixture: black for the baseline (first), colours and dashes for the others."""
    others = [
        Look(COLORS[turn % len(COLORS)], STYLES[turn // len(COLORS) % len(STYLES)], True) for turn in range(count - 1)
    ]
    return [Look("#000000", "-", True), *others]
