"""The tables of a comparison as cells, and how their numbers are written; the report and the plots use them too."""

import math
from collections.abc import Sequence

from mixtures.compare.comparison import Comparison, Outcome
from mixtures.compare.statistics import Difference
from mixtures.text import shorten

NAME_WIDTH = 22


def loss_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table of losses, one row per mixture."""
    header = [
        "mixture",
        "seeds",
        "mean loss",
        "natural",
        "worst",
        "worst domain",
        "perplexity",
        "arithmetic",
        "bits/byte",
    ]
    rows = []
    for outcome in ranked(comparison):
        cells = [shorten(outcome.name, NAME_WIDTH), str(len(outcome.averaged or outcome.seeds))]
        if outcome.diverged:
            rows.append([*cells, "diverged", *["-"] * 6])
            continue
        cells += [f"{value:.4f}" for value in (outcome.mean_loss, outcome.natural_loss, outcome.worst_loss)]
        cells += [
            shorten(outcome.worst_domain, 20),
            f"{outcome.perplexity:.2f}",
            f"{outcome.arithmetic_perplexity:.2f}",
        ]
        rows.append([*cells, f"{outcome.bits_per_byte:.4f}"])
    return header, rows


def difference_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table of differences to the baseline and of costs, one row per mixture."""
    header = [
        "mixture",
        "pairs",
        "difference",
        "95 % interval",
        "by seed",
        f"against {shorten(comparison.baseline, 16)}",
        "FLOPs",
        "time",
    ]
    rows = []
    for outcome in ranked(comparison):
        cost = [percent(outcome.flops_percent), percent(outcome.seconds_percent)]
        spread = sorted(outcome.by_seed.values())
        seeds = f"{signed(spread[0], 4)} to {signed(spread[-1], 4)}" if len(spread) > 1 else "-"
        name, difference = shorten(outcome.name, NAME_WIDTH), outcome.difference
        if difference is None:
            word = "diverged" if outcome.diverged else "baseline" if outcome.name == comparison.baseline else "no pair"
            rows.append([name, *["-"] * 3, seeds, word, *cost])
            continue
        word = (
            "better"
            if difference.better
            else "worse"
            if difference.worse
            else "?"
            if not difference.known
            else "not distinguishable"
            if difference.over_seeds
            else "one seed"
        )
        shown = interval(difference, 4) if difference.known else "-"
        rows.append([name, str(len(spread)), signed(difference.value, 4), shown, seeds, word, *cost])
    return header, rows


def references(comparison: Comparison) -> list[str]:
    """Return the mixtures with uniform and with natural shares that are not the baseline."""
    return list(dict.fromkeys(name for outcome in comparison.outcomes for name in outcome.against))


def reference_cells(comparison: Comparison, name: str) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table of differences to the mixture `name`, one row per other mixture."""
    header = ["mixture", f"against {shorten(name, 16)}", "95 % interval"]
    found = [(outcome.name, outcome.against[name]) for outcome in ranked(comparison) if name in outcome.against]
    rows = [
        [shorten(other, NAME_WIDTH), signed(gap.value, 4), interval(gap, 4) if gap.known else "-"]
        for other, gap in found
    ]
    return header, rows


def ranked(comparison: Comparison) -> Sequence[Outcome]:
    """Return the outcomes by their difference to the baseline, lowest first; then those without, by mean loss.

    The difference is paired: means over unequal seeds may be in another order. Those that diverged come last.
    """

    def place(outcome: Outcome) -> tuple[bool, bool, float]:
        if outcome.name == comparison.baseline:
            return bool(outcome.diverged), False, 0.0
        if outcome.difference is None:
            return bool(outcome.diverged), True, outcome.mean_loss
        return bool(outcome.diverged), False, outcome.difference.value

    return sorted(comparison.outcomes, key=place)


def decimals(difference: Difference) -> int:
    """Return how many digits after the point show two figures of the interval's half width; from 3 to 6."""
    half = (difference.high - difference.low) / 2
    return min(max(3, 1 - math.floor(math.log10(half))), 6) if half > 0 else 4


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, such as `+0.031`; never `-0.000`."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def interval(difference: Difference, digits: int) -> str:
    """Return the interval as text, such as `-0.020 to +0.012`."""
    return f"{signed(difference.low, digits)} to {signed(difference.high, digits)}"


def percent(value: float) -> str:
    """Return a percentage as text, such as `23 %` or `0.42 %`; `? %` if a base run's cost is not known."""
    if math.isnan(value):
        return "? %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"
