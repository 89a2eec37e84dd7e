"""From the gram of a step to domain weights: pure functions, float64, no state of their own.

G groups: the D training domains first, then the groups that only serve the objective (targets, held-out rows).
`importance` (G,) says what the mixture should be good for; gram[:D] @ importance is the alignment W (D,): to first
order, what one step on a domain takes off the objective (DoGE, arXiv 2310.15393, eq. 4).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from doge.gram import Gram
from doge.stable import alignment_parts, alignments, stable_weights

Preset = Literal["stable", "paper", "official", "uniform", "doremi"]


@dataclass(frozen=True)
class Constants:
    """Everything that makes a rule: a preset's values, or those that a run puts in their place."""

    preset: Preset
    order: Literal["exact", "lagged"] = "exact"
    prior: Literal["uniform", "natural"] = "uniform"
    mu: float = 0.01  # paper section 4: 0.01 universal, 0.05 out of domain
    tau: float = 2.5
    reach: float = 0.1
    averaging: float = 1.0
    geometry: Literal["raw", "adam"] = "raw"
    floor: float = 0.0
    score_min: float = 0.0
    score_max: float = 5.0
    sharpness: float = 20.0
    eta: float = 1.0  # DoReMi, algorithm 1
    smoothing: float = 1e-3


PRESETS: dict[Preset, Constants] = {
    "stable": Constants("stable", order="lagged", geometry="adam", floor=0.01),
    "paper": Constants("paper"),
    "official": Constants("official"),
    "uniform": Constants("uniform", order="lagged"),
    "doremi": Constants("doremi"),
}
OF_ALIGNMENT = {"order", "floor", "sharpness"}  # read by every preset that goes by alignments
RULE_CONSTANTS: dict[Preset, set[str]] = {  # those that only some presets read
    "stable": {"tau", "reach", "averaging", "geometry"} | OF_ALIGNMENT,
    "paper": {"mu"} | OF_ALIGNMENT,
    "official": {"mu", "score_min", "score_max"} | OF_ALIGNMENT,
    "uniform": OF_ALIGNMENT,
    "doremi": {"eta", "smoothing"},
}


def without_effect(preset: Preset, given: Iterable[str]) -> list[str]:
    """Which of the given constants' names the preset does not read."""
    others = set().union(*RULE_CONSTANTS.values()) - RULE_CONSTANTS[preset]
    return [name for name in given if name in others]


@dataclass(frozen=True)
class Objective:
    """What the mixture should be good for.

    importance: how much every group counts. targets: the groups that nothing trains on, nor on other text of theirs.
    worst: lean to the groups whose loss has come down least, instead of the mean by importance.
    """

    importance: Float[Tensor, " G"]
    targets: Bool[Tensor, " G"]
    worst: bool = False


@dataclass(frozen=True)
class State:
    """What a rule carries from step to step: for even and for odd steps the sums of lr * gram, and of lr."""

    weights: Float[Tensor, " D"]
    gram_sums: Float[Tensor, "2 G G"]
    lr_sums: Float[Tensor, " 2"]
    steps: int = 0
    first_losses: Float[Tensor, " G"] | None = None


@dataclass(frozen=True)
class Decision:
    """A step's outcome: weights (sum 1), the factors its domain gradients are combined with, and the alignment behind
    them
    (DoReMi: the excess loss)."""

    weights: Float[Tensor, " D"]
    coefficients: Float[Tensor, " D"]
    alignment: Float[Tensor, " D"]


def start(prior: Float[Tensor, " D"], groups: int) -> State:
    """The state before the first step: the weights are the prior."""
    return State(prior, torch.zeros(2, groups, groups, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))


def update(
    gram: Gram,
    losses: Float[Tensor, " G"],
    state: State,
    *,
    constants: Constants,
    prior: Float[Tensor, " D"],
    objective: Objective,
    lr: float,
    max_grad_norm: float,
) -> tuple[State, Decision]:
    """One update of the domain weights by the preset that `constants` names; DoReMi's is `doge.doremi.reweight`."""
    assert constants.preset != "doremi", "DoReMi goes by excess losses, not by a gram"
    first = losses if state.first_losses is None else state.first_losses
    importance = objective.importance
    if objective.worst:
        importance = lean_to_worst(importance, losses / first, constants.sharpness)
    clip = torch.ones_like(state.weights)
    if constants.preset == "paper":
        alignment = alignment_of(gram.products, importance, len(prior))
        weights = mirror_step(state.weights, lr * alignment / constants.mu)
    elif constants.preset == "official":
        weights, clip, alignment = official(
            gram, state.weights, importance, constants, lr=lr, max_grad_norm=max_grad_norm
        )
    elif constants.preset == "stable":
        state = averaged(state, gram.unbiased, lr=lr, keep=constants.averaging)
        grams = state.gram_sums / state.lr_sums.clamp(min=1e-300)[:, None, None]
        shares = state.lr_sums / state.lr_sums.sum().clamp(min=1e-300)
        halves = alignments(alignment_parts(grams, importance, objective.targets, len(prior)), shares)
        alignment = shares @ halves
        weights = stable_weights(halves, shares, prior, tau=constants.tau, reach=constants.reach)
    else:
        alignment = alignment_of(gram.products, importance, len(prior))
        weights = prior
    weights = (1 - constants.floor) * weights + constants.floor * prior
    return replace(state, weights=weights, steps=state.steps + 1, first_losses=first), Decision(
        weights, weights * clip, alignment
    )


def alignment_of(products: Float[Tensor, "G G"], importance: Float[Tensor, " G"], domains: int) -> Float[Tensor, " D"]:
    """W_j = sum_i importance_i <g_j, g_i>: with all ones over the domains DoGE's universal objective, else its targets
    (eq. 4).
    """
    return products[:domains] @ importance


def mirror_step(weights: Float[Tensor, " D"], scores: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """a proportional to a_prev * exp(scores): the mirror step with KL divergence, DoGE eq. 6."""
    return torch.softmax(weights.log() + scores, 0)


def official(
    gram: Gram,
    weights: Float[Tensor, " D"],
    importance: Float[Tensor, " G"],
    constants: Constants,
    *,
    lr: float,
    max_grad_norm: float,
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"], Float[Tensor, " D"]]:
    """What the released DoGE code computes: every group's gradient is clipped before the products, the alignment is
    divided by the mean norm, scores below zero are cut off. Returns weights, the clip factors and the alignment (of
    clipped gradients).
    """
    domains = len(weights)
    clip = (max_grad_norm / (gram.norms + 1e-6)).clamp(max=1)
    alignment = alignment_of(clip[:, None] * gram.products * clip, importance, domains)
    scores = lr * alignment / ((clip * gram.norms)[:domains].mean() + 1e-6)
    scores = scores.clamp(lr * constants.score_min, lr * constants.score_max)
    return mirror_step(weights, scores / constants.mu), clip[:domains], alignment


def averaged(state: State, gram: Float[Tensor, "G G"], *, lr: float, keep: float) -> State:
    """The state with a step's gram in the running sums; `keep` of what they held stays (1: the whole run)."""
    turn = torch.tensor([1.0, 0.0] if state.steps % 2 == 0 else [0.0, 1.0], dtype=torch.float64) * lr
    return replace(
        state, gram_sums=keep * state.gram_sums + turn[:, None, None] * gram, lr_sums=keep * state.lr_sums + turn
    )


def lean_to_worst(importance: Float[Tensor, " G"], ratio: Float[Tensor, " G"], sharpness: float) -> Float[Tensor, " G"]:
    """Importance moved to the groups whose loss, as a share of its first value (`ratio`), has come down least; the sum
    stays.

    A smooth maximum: a group behind by 1/sharpness counts e times as much. Sharpness 0 is the mean.
    """
    counted = importance > 0
    lean = torch.where(counted, torch.exp(sharpness * (ratio - ratio[counted].max())), 0)
    return importance * lean * (importance.sum() / (importance * lean).sum())
