"""From the gram of a step to domain weights: pure functions in float64.

The G groups are the D training domains, followed by the groups that only serve the objective (targets, held-out rows).
`importance` (G,) is how much each group counts in the objective. gram[:D] @ importance is the alignment W (D,): to
first order, the amount by which one step on a domain lowers the objective (DoGE, arXiv 2310.15393, eq. 4).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from doge.gram import Gram
from doge.stable import alignment_parts, alignments, anchored, reach_factor, stable_scores

Preset = Literal["stable", "paper", "official", "uniform", "doremi"]


@dataclass(frozen=True)
class Constants:
    """Constants of an update rule: a preset's values, or a run's own values in their place.

    order:       compute the combined gradient with the new weights (exact), or with the previous ones (lagged).
    prior:       weights to start from: equal for all domains, or in proportion to their text.
    mu:          paper, official: Bregman coefficient; a smaller one moves the weights faster.
    tau:         stable: log-odds against the prior for a domain whose alignment is as large as the mean one.
    reach:       stable: largest KL divergence of the weights from the prior, as a share of log D.
    averaging:   stable: factor by which the running sums of the gram decay at every step; 1: no decay.
    geometry:    stable: plain inner products, or inner products in Adam's geometry.
    floor:       share of the prior that is mixed into the weights.
    score_min, score_max:  official: limits of the score, in multiples of the learning rate.
    sharpness:   how much more a group counts whose loss has come down less (see `lean_to_worst`).
    eta:         doremi: step of the log-weights per nat of excess loss.
    smoothing:   doremi: share of the uniform weights that is mixed into the weights at every step.
    """

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
OF_ALIGNMENT = {"order", "floor", "sharpness"}  # read by every preset that uses alignments
RULE_CONSTANTS: dict[Preset, set[str]] = {  # which of the constants that not every preset reads a preset does read
    "stable": {"tau", "reach", "averaging", "geometry"} | OF_ALIGNMENT,
    "paper": {"mu"} | OF_ALIGNMENT,
    "official": {"mu", "score_min", "score_max"} | OF_ALIGNMENT,
    "uniform": OF_ALIGNMENT,
    "doremi": {"eta", "smoothing"},
}


def without_effect(preset: Preset, given: Iterable[str]) -> list[str]:
    """Return those names of constants in `given` that the preset does not read."""
    others = set().union(*RULE_CONSTANTS.values()) - RULE_CONSTANTS[preset]
    return [name for name in given if name in others]


@dataclass(frozen=True)
class Objective:
    """What the mixture should be good for.

    importance:  how much each group counts (G,).
    targets:     True for the groups whose domain is not trained on at all, neither on these rows nor on other text of
                 that domain (G,).
    worst:       move the importance to the groups whose loss has come down least (`lean_to_worst`).
    """

    importance: Float[Tensor, " G"]
    targets: Bool[Tensor, " G"]
    worst: bool = False


@dataclass(frozen=True)
class State:
    """State that a rule carries from step to step.

    weights:       domain weights (D,) after the last step; the prior before the first.
    gram_sums:     sums of lr * gram (2, G, G), over the even steps (0) and the odd steps (1); used by stable.
    lr_sums:       sums of lr (2,) over the same steps.
    steps:         number of steps done.
    first_losses:  losses (G,) of the first step; None before it.
    """

    weights: Float[Tensor, " D"]
    gram_sums: Float[Tensor, "2 G G"]
    lr_sums: Float[Tensor, " 2"]
    steps: int = 0
    first_losses: Float[Tensor, " G"] | None = None


@dataclass(frozen=True)
class Decision:
    """Domain weights that a rule decided on at one step.

    weights:       domain weights (D,), sum 1.
    coefficients:  factors (D,) that the domains' gradients are combined with.
    alignment:     alignments (D,) that the weights follow from; for DoReMi the excess losses.
    reach_factor:  stable: factor by which `reach` scaled the log-ratios to the prior down; 1 if it did not.
    parts:         stable: `alignment_parts` (3, D) of this step's gram alone.
    """

    weights: Float[Tensor, " D"]
    coefficients: Float[Tensor, " D"]
    alignment: Float[Tensor, " D"]
    reach_factor: float | None = None
    parts: Float[Tensor, "3 D"] | None = None


def start(prior: Float[Tensor, " D"], groups: int) -> State:
    """Return the state before the first step, in which the weights are the prior."""
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
    """Compute the next domain weights by the preset in `constants`, from the gram and losses (G,) of one step.

    DoReMi is not handled here (`doge.doremi.reweight`).
    """
    assert constants.preset != "doremi", "DoReMi goes by excess losses, not by a gram"
    first = losses if state.first_losses is None else state.first_losses
    importance = objective.importance
    if objective.worst:
        importance = lean_to_worst(importance, losses / first, constants.sharpness)
    clip, factor, parts = torch.ones_like(state.weights), None, None
    if constants.preset == "paper":
        alignment = alignment_of(gram.products, importance, len(prior))
        weights = mirror_step(state.weights, lr * alignment / constants.mu)
    elif constants.preset == "official":
        weights, clip, alignment = official(
            gram, state.weights, importance, constants, lr=lr, max_grad_norm=max_grad_norm
        )
    elif constants.preset == "stable":
        parts = alignment_parts(gram.unbiased, importance, objective.targets, len(prior))
        state = averaged(state, gram.unbiased, lr=lr, keep=constants.averaging)
        grams = state.gram_sums / state.lr_sums.clamp(min=1e-300)[:, None, None]
        shares = state.lr_sums / state.lr_sums.sum().clamp(min=1e-300)
        halves = alignments(alignment_parts(grams, importance, objective.targets, len(prior)), shares)
        alignment = shares @ halves
        scores = stable_scores(halves, shares, prior, tau=constants.tau)
        factor = float(reach_factor(scores, prior, constants.reach * math.log(len(prior))))
        weights = anchored(factor * scores, prior)
    else:
        alignment = alignment_of(gram.products, importance, len(prior))
        weights = prior
    weights = (1 - constants.floor) * weights + constants.floor * prior
    return replace(state, weights=weights, steps=state.steps + 1, first_losses=first), Decision(
        weights, weights * clip, alignment, factor, parts
    )


def alignment_of(products: Float[Tensor, "G G"], importance: Float[Tensor, " G"], domains: int) -> Float[Tensor, " D"]:
    """Return the alignments W_j = sum_i importance_i <g_j, g_i> of the first `domains` groups (eq. 4).

    An importance of 1 for every training domain gives DoGE's universal objective; importances of target groups give its
    out-of-domain objective.
    """
    return products[:domains] @ importance


def mirror_step(weights: Float[Tensor, " D"], scores: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return weights proportional to weights * exp(scores): a mirror step with the KL divergence (DoGE, eq. 6)."""
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
    """Compute the update of the released DoGE code; return the weights, the clip factors and the alignment, (D,) each.

    Unlike the paper, it clips every group's gradient to the norm `max_grad_norm` before the products are taken, divides
    the alignment by the mean norm of the domains' clipped gradients, and limits the result to the range from
    `score_min` to `score_max`. The alignment that is returned is that of the clipped gradients.
    """
    domains = len(weights)
    clip = (max_grad_norm / (gram.norms + 1e-6)).clamp(max=1)
    alignment = alignment_of(clip[:, None] * gram.products * clip, importance, domains)
    scores = lr * alignment / ((clip * gram.norms)[:domains].mean() + 1e-6)
    scores = scores.clamp(lr * constants.score_min, lr * constants.score_max)
    return mirror_step(weights, scores / constants.mu), clip[:domains], alignment


def averaged(state: State, gram: Float[Tensor, "G G"], *, lr: float, keep: float) -> State:
    """Return the state with a step's gram added to the running sums, which are first multiplied by `keep`.

    With keep = 1 the sums are over the whole run.
    """
    turn = torch.tensor([1.0, 0.0] if state.steps % 2 == 0 else [0.0, 1.0], dtype=torch.float64) * lr
    return replace(
        state, gram_sums=keep * state.gram_sums + turn[:, None, None] * gram, lr_sums=keep * state.lr_sums + turn
    )


def lean_to_worst(importance: Float[Tensor, " G"], ratio: Float[Tensor, " G"], sharpness: float) -> Float[Tensor, " G"]:
    """Return the importance moved towards the groups whose loss has come down least; its sum stays the same.

    `ratio` is each group's loss divided by its loss at the first step. The importance of a group is multiplied by
    exp(sharpness * ratio) and then rescaled: if the ratio of one group is larger by 1 / sharpness than that of another,
    its importance grows e times as much. This is a smooth maximum over the groups; sharpness 0 changes nothing. Groups
    without importance stay without it.
    """
    counted = importance > 0
    lean = torch.where(counted, torch.exp(sharpness * (ratio - ratio[counted].max())), 0)
    return importance * lean * (importance.sum() / (importance * lean).sum())
