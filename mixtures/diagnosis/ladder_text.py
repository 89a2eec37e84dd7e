"""A ladder of proxy sizes as text: weights per size, agreement between sizes, a verdict."""

from textwrap import fill

import numpy as np

from mixtures.diagnosis.ladder import (
    EXACT,
    FEWEST_SIZES,
    LEVEL,
    REACH,
    Extrapolation,
    Ladder,
    Trend,
    fit_trend,
)
from mixtures.text import WIDTH, table, tokens_text


def ladder_text(ladder: Ladder, beyond: Extrapolation | None = None) -> str:
    """Return a ladder as text: tables of weights and of agreement, and a verdict.

    `beyond`: weights of a size that was not run.
    """
    trend = fit_trend(ladder)
    blocks = [_weights(ladder, trend, beyond), _pairs(ladder), fill(verdict(ladder, trend), WIDTH)]
    return "\n\n".join(blocks)


def verdict(ladder: Ladder, trend: Trend) -> str:
    """Return the verdict on all sizes together, in sentences."""
    sizes = [tokens_text(size) for size in ladder.sizes]
    if off := [pair for pair in ladder.pairs if not pair.agrees]:
        named = ", ".join(f"{tokens_text(pair.small)} and {tokens_text(pair.large)}" for pair in off)
        few = (
            f" ({len(ladder.names)} domains are too few for that, whatever their order)"
            if len(ladder.names) < 4
            else ""
        )
        return (
            f"No agreement beyond chance on the order of the domains: {named}{few}. The weights of one size cannot be "
            "carried over to another; more steps or seeds may show whether that is noise."
        )
    agreed = f"All sizes from {sizes[0]} to {sizes[-1]} order the domains alike, beyond chance."
    if len(sizes) < FEWEST_SIZES:
        return f"{agreed} Two sizes cannot show a trend; add a third one."
    moved = f"(trend {trend.moved:.3g}, scatter {trend.scatter:.3g} in log-ratios, p {trend.p:.2g})"
    if trend.p <= LEVEL:
        return (
            f"{agreed} The weights move with the size, more than they scatter {moved}: --at gives those of another "
            f"size, up to {REACH} times the largest."
        )
    return f"{agreed} No trend beyond the scatter {moved}: take their mean, `mixtures export RUN RUN ...`."


def _weights(ladder: Ladder, trend: Trend, beyond: Extrapolation | None) -> str:
    """Return the table of weights, one line per domain, in the order of the largest size's weights."""
    known = np.isfinite(trend.scatter)
    sizes = [tokens_text(size) for size in ladder.sizes]
    header = ["domain", "prior", *sizes, "x per 10x", *(["scatter"] if known else [])]
    header += [] if beyond is None else [f"at {tokens_text(beyond.parameters)}", "95 % interval"]
    weights = ladder.weights
    rows = []
    for domain in np.argsort(-weights[-1], kind="stable"):
        cells = [
            ladder.names[domain],
            f"{ladder.prior[domain]:.4f}",
            *(f"{weight:.4f}" for weight in weights[:, domain]),
        ]
        cells.append(f"{np.exp(trend.slope[domain]):.2f}")
        cells += [f"{np.expm1(trend.residual[domain]):.1%}"] if known else []
        if beyond is not None:
            cells += [f"{beyond.weights[domain]:.4f}", f"{beyond.low[domain]:.4f} to {beyond.high[domain]:.4f}"]
        rows.append(cells)
    counts = [f"{tokens_text(size)} ({np.count_nonzero(ladder.parameters == size)})" for size in ladder.sizes]
    note = (
        f"average weights by parameters of the proxy (runs): {', '.join(counts)}; x per 10x: factor of weight "
        f"over prior when the proxy is "
    )
    note += "ten times as large" + ("; scatter: standard deviation of one run around that" if known else "")
    return f"{table(header, rows)}\n{fill(note, WIDTH)}"


def _pairs(ladder: Ladder) -> str:
    rows = [
        [
            f"{tokens_text(pair.small)} and {tokens_text(pair.large)}",
            f"{pair.correlation:.2f}",
            f"{pair.p:.2g}",
            "yes" if pair.agrees else "no",
        ]
        for pair in ladder.pairs
    ]
    how = f"{'all' if len(ladder.names) <= EXACT else '9,999 random'} permutations, one-sided"
    note = f"rank correlation of log(weight / prior) over {len(ladder.names)} domains; p: {how}; agree: {LEVEL} or less"
    return f"{table(['sizes', 'rank correlation', 'p', 'agree'], rows)}\n{fill(note, WIDTH)}"
