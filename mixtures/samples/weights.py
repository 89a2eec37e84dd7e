"""From scores of a domain's documents to weights inside the domain. Pure functions.

scores, tokens, weights: (S,), one entry per document of `tokens` tokens (at least 1). Weights have token-weighted mean
1, sum_i n_i w_i = sum_i n_i, so that the domain's share of the trained tokens does not change.
"""

from typing import Literal

import numpy as np

from mixtures.errors import UserError

Direction = Literal["direct", "inverse"]  # raise high scores, or low ones
Transform = Literal["none", "log", "rank"]  # change of the scores before their z-score
RULES = {  # rule: (mode of the policy, its settings beside score, shuffle and seed)
    "softmax": ("sampling_weight", ("direction", "temperature", "cap", "transform")),
    "multiplicity": ("multiplicity", ("direction", "temperature", "cap", "transform")),
    "linear_upper": ("sampling_weight", ("temperature",)),
    "filter": ("filter", ("drop_top", "drop_bottom")),
}


def zscore(scores: np.ndarray) -> np.ndarray:
    """Return the scores with mean 0 and variance 1 over the documents (PRESENCE, arXiv 2311.00913).

    Zeros where all scores are equal up to rounding.
    """
    largest = np.abs(scores).max(initial=0.0)
    if largest == 0:
        return np.zeros(len(scores))
    scaled = scores / largest  # so that no square overflows or vanishes
    centred = scaled - scaled.mean()
    spread = np.abs(centred).max()
    if spread <= 1e-13:
        return np.zeros(len(scores))
    centred /= spread
    return centred / np.sqrt(np.mean(centred**2))


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return ranks (S,) from 1 for the lowest score to S; equal scores share the mean of their ranks."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def softmax_weights(
    scores: np.ndarray, tokens: np.ndarray, *, temperature: float, direction: Direction, cap: float | None = None
) -> np.ndarray:
    """Return w_i proportional to exp(+-temperature z_i), with z the z-score inside the domain (PRESENCE).

    direction: direct raises documents with high scores (tau = +1 in PRESENCE), inverse those with low scores (tau =
    -1).
    temperature: factor of the z-scores; larger is sharper.
    cap: largest weight; what it takes away goes to the other documents in proportion (water-filling).
    Raises UserError for a temperature that is not positive and a cap below 1.
    """
    if fault := temperature_fault(temperature) or cap_fault(cap):
        raise UserError(fault)
    sign = 1 if direction == "direct" else -1
    return _mean_one(sign * temperature * zscore(scores), tokens, cap=cap)


def linear_upper(losses: np.ndarray, tokens: np.ndarray, *, delta: float = 1.0, r: float = 1.0) -> np.ndarray:
    """Return w = softmax(h / r), a control that only looks at losses (LinUpper of arXiv 2502.06733).

    h = min(delta, delta + s), with s the losses scaled from their range to [-delta, delta]: low losses count less, and
    all losses above the middle of the range count the same. Raises UserError for delta or r that are not positive.
    """
    if not (delta > 0 and r > 0):
        raise UserError(f"linear_upper with delta {delta:g}, r {r:g}: give positive numbers")
    low, high = losses.min(initial=np.inf), losses.max(initial=-np.inf)
    if not low < high:
        return np.ones(len(losses))
    scaled = 2 * delta * (losses - (low + high) / 2) / (high - low)
    return _mean_one(np.minimum(delta, delta + scaled) / r, tokens)


def keep_mask(scores: np.ndarray, tokens: np.ndarray, *, drop_top: float = 0.0, drop_bottom: float = 0.0) -> np.ndarray:
    """Return a mask (S,) that drops the documents with the highest and lowest scores, by shares of the tokens.

    At most the shares are dropped, in whole documents. Of equal scores, earlier documents are dropped first at the
    bottom and later ones at the top. Where all scores are equal they say nothing, and every document is kept. Raises
    UserError where the two shares are everything.
    """
    if fault := drop_fault(drop_top, drop_bottom):
        raise UserError(fault)
    if len(scores) == 0 or scores.min() == scores.max():
        return np.ones(len(scores), dtype=bool)
    order = np.argsort(scores, kind="stable")
    sizes = tokens[order].astype(np.float64)
    # tokens up to each document and from each document on, the document itself included
    below, above = np.cumsum(sizes), np.cumsum(sizes[::-1])[::-1]
    total = sizes.sum() * (1 + 1e-12)
    keep = np.empty(len(scores), dtype=bool)
    keep[order] = (below > drop_bottom * total) & (above > drop_top * total)
    return keep


def shuffled(scores: np.ndarray, *, seed: int | list[int]) -> np.ndarray:
    """Return the same scores dealt out to the documents at random: a control for every effect of their histogram alone.

    Weights made of them are the same weights on other documents, all multiplied by the one constant that keeps the
    token-weighted mean at 1 (documents differ in length). A filter drops the same shares of the tokens.
    """
    return np.random.default_rng(seed).permutation(scores)


def temperature_fault(temperature: float) -> str:
    """Return what is wrong with a temperature; empty where it is right."""
    if temperature == 0:
        return (
            "temperature 0 makes every weight 1: leave the sample weights out for that, or give a positive "
            "number; larger is sharper"
        )
    if not 0 < temperature < np.inf:
        return (
            f"temperature {temperature:g}: give a positive number (1 as in the paper, larger is sharper) and its "
            f"sign as direction"
        )
    return ""


def cap_fault(cap: float | None) -> str:
    """Return what is wrong with a cap; empty where it is right."""
    if cap is not None and not cap >= 1:
        return f"cap {cap:g}: weights have mean 1 and cannot all stay below it; give 1 or more, or no cap"
    return ""


def drop_fault(drop_top: float, drop_bottom: float) -> str:
    """Return what is wrong with the shares to drop; empty where they are right."""
    if not (drop_top >= 0 and drop_bottom >= 0 and drop_top + drop_bottom < 1):
        return (
            f"drop_top {drop_top:g} and drop_bottom {drop_bottom:g} are shares of a domain's tokens; give 0 or more, "
            "together less than 1, so that something stays"
        )
    return ""


def _mean_one(logits: np.ndarray, tokens: np.ndarray, *, cap: float | None = None) -> np.ndarray:
    """Return weights proportional to exp(logits), with token-weighted mean 1 and none above the cap."""
    if len(logits) == 0:
        return np.ones(0)
    tokens = tokens.astype(np.float64)
    weights = np.exp(logits - logits.max())
    weights *= tokens.sum() / (tokens @ weights)
    return weights if cap is None or weights.max() <= cap else _filled(logits, tokens, cap)


def _filled(logits: np.ndarray, tokens: np.ndarray, cap: float) -> np.ndarray:
    """Return min(cap, level exp(logits)), with the level at which the token-weighted mean is 1.

    Computed in logarithms, so that it also works where all but a few exp are 0.
    """
    order = np.argsort(-logits, kind="stable")
    falling, sizes = logits[order], tokens[order]
    # log of sum n exp(logit) from the k-th document on
    rest = np.logaddexp.accumulate((np.log(sizes) + falling)[::-1])[::-1]
    room = sizes.sum() - cap * (np.cumsum(sizes) - sizes)  # tokens left for these, if all before them are at the cap
    with np.errstate(divide="ignore"):
        level = np.log(np.maximum(room, 0)) - rest
    fits = level + falling <= np.log(cap)
    capped = int(fits.argmax()) if fits.any() else len(fits) - 1
    free = np.exp(falling[capped:] - falling[capped])
    weights = np.full(len(logits), float(cap))
    weights[order[capped:]] = free * (room[capped] / (sizes[capped:] @ free))
    return weights
