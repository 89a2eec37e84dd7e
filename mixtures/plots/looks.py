"""Many lines in one plot that stay readable: a colour-blind-safe palette, names at the right end, the rest in grey."""

from dataclasses import dataclass

import numpy as np

from mixtures.run.average import running_mean

# Okabe and Ito's colours that stand out on white; the second time round the lines are dashed.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#B8B8B8"
COLORS = PALETTE[:6]  # the seventh, black, is the baseline's
STYLES = ("-", "--", ":", "-.")
REFERENCE = "#555555"
ALL_NAMED = 2 * len(PALETTE)  # up to here every line has a colour of its own


@dataclass(frozen=True)
class Look:
    """How one line is drawn; the same domain looks the same in every plot of a run."""

    color: str
    style: str
    named: bool


def choose_looks(values: np.ndarray) -> list[Look]:
    """A look for each column of `values` (S, D): all named where there are few, else those that move most."""
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
    """Length of the running mean that a line of `steps` points is drawn with."""
    return max(1, steps // 50)


def choose_mixture_looks(count: int) -> list[Look]:
    """A look for every mixture: the baseline (first) black, the others each their own colour and dashes."""
    others = [
        Look(COLORS[turn % len(COLORS)], STYLES[turn // len(COLORS) % len(STYLES)], True) for turn in range(count - 1)
    ]
    return [Look("#000000", "-", True), *others]
