"""A fit in words, for the terminal. At most 100 columns wide."""

import math
from textwrap import fill

import numpy as np

from mixtures.fit.optimum import SEEN, UNIFORM, Optimum
from mixtures.fit.surrogate import Surrogate, distinct
from mixtures.fit.swarm import Swarm
from mixtures.fit.validation import MEAN, PERMUTATIONS, Score
from mixtures.text import WIDTH, shorten, table

METRICS_NAMED = 6
MOVED_NAMED = 3


def surrogate_text(surrogate: Surrogate, swarm: Swarm) -> str:
    """Return the data of a fit, and the scores of every surrogate's cross-validated predictions, as text."""
    lines = f" in {len(swarm.ratios)} lines" if len(swarm.ratios) > surrogate.mixtures else ""
    facts = [
        f"{surrogate.mixtures} mixtures of {len(surrogate.domains)} domains{lines}; {_objective(surrogate)}",
        *swarm.notes,
    ]
    rows = [
        _score_row(name, surrogate.scores[name])
        for name in (*[name for name in surrogate.scores if name != MEAN], MEAN)
    ]
    folds = "leave-one-out" if surrogate.folds == surrogate.mixtures else f"{surrogate.folds}-fold"
    note = (
        f"{folds} cross-validation of the objective; mean: predicts the mean of the other mixtures; used: "
        f"{surrogate.model}; an interval is of one surrogate by itself, so the test is another: p {surrogate.p:.2g} "
        f"that shares say nothing about the objective ({PERMUTATIONS} permutations)"
    )
    header = ["surrogate", "rank correlation", "95 % interval", "R2", "RMSE"]
    return "\n".join(
        [*(fill(fact, WIDTH, subsequent_indent="  ") for fact in facts), "", table(header, rows), fill(note, WIDTH)]
    )


def optimum_text(optimum: Optimum, surrogate: Surrogate, swarm: Swarm) -> str:
    """Return the optimum beside the mixtures tried, its predicted gains, and how far to trust them, as text."""
    tried = distinct(swarm.ratios, swarm.metrics)[0]
    rows = [
        [name, f"{share:.4f}", f"{tried[name].mean():.4f}", f"{tried[name].min():.4f}", f"{tried[name].max():.4f}"]
        for name, share in sorted(optimum.shares.items(), key=lambda item: -item[1])
    ]
    sentences = [f"Predicted objective {optimum.objective:.4f}, cross-validated RMSE {surrogate.rmse:.4f}."]
    sentences += [_gain(name, value, optimum) for name, value in optimum.others.items()]
    sentences += [_worth(optimum, surrogate), _border(optimum, tried.mean().to_dict())]
    if optimum.held:
        sentences.append(f"At their bounds: {', '.join(optimum.held)}.")
    header = ["domain", "share", "mean tried", "lowest", "highest"]
    return "\n".join([table(header, rows), *(fill(sentence, WIDTH, subsequent_indent="  ") for sentence in sentences)])


def _objective(surrogate: Surrogate) -> str:
    alike = np.ptp(list(surrogate.importance.values())) < 1e-12
    named = [
        shorten(name) if alike else f"{shorten(name)} {weight:.3g}" for name, weight in surrogate.importance.items()
    ]
    more = f" and {len(named) - METRICS_NAMED} more" if len(named) > METRICS_NAMED else ""
    return (
        f"objective (lower is better): {'mean' if alike else 'weighted mean'} of "
        f"{', '.join(named[:METRICS_NAMED])}{more}"
    )


def _score_row(name: str, score: Score) -> list[str]:
    ranks = (
        ["-", "-"]
        if math.isnan(score.spearman)
        else [f"{score.spearman:.3f}", "{:.2f} to {:.2f}".format(*score.spearman_ci)]
    )
    return [name, *ranks, f"{score.r2:.3f}", f"{score.rmse:.4f}"]


def _gain(name: str, value: float | None, optimum: Optimum) -> str:
    seen = f" ({optimum.seen}, measured {optimum.measured:.4f})" if name == SEEN else ""
    if value is None:
        return f"Over {_the(name)}: not predicted, it lies outside of what was tried."
    return f"Over {_the(name)}{seen}: predicted gain {value - optimum.objective:+.4f}."


def _the(name: str) -> str:
    return name if name == UNIFORM else f"the {name}"


def _worth(optimum: Optimum, surrogate: Surrogate) -> str:
    if not surrogate.ranks:
        return "The surrogate does not rank mixtures that it has not seen: these predictions mean nothing."
    value = optimum.others[SEEN]
    assert value is not None
    if value - optimum.objective < surrogate.rmse:
        return (
            f"The gain over the {SEEN} is smaller than the RMSE: it does not show that the optimum is better than "
            f"that mixture."
        )
    return f"The gain over the {SEEN} is larger than the RMSE; train both, with several seeds, before a large run."


def _border(optimum: Optimum, mean: dict[str, float]) -> str:
    if not optimum.at_border:
        return (
            f"It lies inside of what was tried, which reaches {min(optimum.reach, 99):.2g} times as far from the "
            f"mean in this direction."
        )
    moved = sorted(optimum.shares, key=lambda name: mean[name] - optimum.shares[name])
    more = [name for name in moved if optimum.shares[name] > mean[name]][:MOVED_NAMED]
    less = [name for name in reversed(moved) if optimum.shares[name] < mean[name]][:MOVED_NAMED]
    return (
        "It lies at the border of what was tried: the best mixture may lie further out, where nothing is known. "
        f"Add mixtures with more {', '.join(more)} and less {', '.join(less)} to the swarm."
    )
