"""The default rule: mean alignment over the run, told from its noise, tied to a prior. Pure functions, float64.

    M     = sum_t lr_t G_t / sum_t lr_t, G_t a step's gram with the unbiased diagonal                    (methods.md
    section 1)
    u_j   = sum over domains i of importance_i M_ji + sum over targets k of importance_k M_jk m / M_jj, m the mean of
    the M_jj
    s     = share of the spread of u over domains that is signal, from two halves of the steps
    a     proportional to prior * exp( tau s u / mean|u| ), s lowered until KL(a | prior) <= reach * log D

The alignment of the paper (arXiv 2310.15393, eq. 4) enters as a mean over the run, so noise averages out where the
paper's mirror steps add it up; the learning rate weighs a step by how far the model went with it. For a target, which
nothing trains on, it counts what a domain gives it *in proportion to its own progress* M_jj: a domain with long
gradients would otherwise win by them, and what it gives is soon used up (measured in docs/estimator.md). Every function
takes leading batch axes, so the bootstrap (`replicates`) runs through the same lines as the rule.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_PROGRESS = 0.2  # of the mean: a domain that makes less counts as this, lest noise is divided by nothing


def alignment_parts(
    gram: Float[Tensor, "*B G G"], importance: Float[Tensor, " G"], targets: Bool[Tensor, " G"], domains: int
) -> Float[Tensor, "*B 3 D"]:
    """(*B, 3, D) what a domain does for domains and for targets, by importance, and for itself: linear in the gram."""
    rows = gram[..., :domains, :]
    own = rows.diagonal(dim1=-2, dim2=-1)[..., :domains]
    return torch.stack([rows @ (importance * ~targets), rows @ (importance * targets), own], -2)


def alignments(parts: Float[Tensor, "*B 2 3 D"], shares: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B 2 D"]:
    """u of two halves of the steps, whose means are `parts` and which have `shares` of the learning rates (sum 1)."""
    own = (parts[..., 2, :] * shares.unsqueeze(-1)).sum(-2, keepdim=True)
    mean = own.mean(-1, keepdim=True)
    progress = torch.where(mean > 0, torch.maximum(own, LEAST_PROGRESS * mean) / mean, 1)
    return parts[..., 0, :] + parts[..., 1, :] / progress


def stable_weights(
    halves: Float[Tensor, "*B 2 D"],
    shares: Float[Tensor, "*B 2"],
    prior: Float[Tensor, " D"],
    *,
    tau: float,
    reach: float,
) -> Float[Tensor, "*B D"]:
    """Weights (sum 1) from u of two halves of the steps, which have `shares` of the learning rates (sum 1).

    With nothing in one half there is no telling signal from noise: the weights are the prior.
    """
    mean = (halves * shares.unsqueeze(-1)).sum(-2)
    scale = mean.abs().mean(-1, keepdim=True)
    signal = torch.where((shares > 0).all(-1), signal_share(halves, prior), 0)
    scores = torch.where(scale > 0, tau * signal.unsqueeze(-1) * mean / scale, 0)
    return within_reach(scores, prior, reach * math.log(len(prior)))


def signal_share(halves: Float[Tensor, "*B 2 D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B"]:
    """Share of the variance of the mean alignment over domains that is not noise, 0 to 1.

    The two halves share the signal and not the noise: their product estimates the signal's variance, their mean's
    square that of signal and noise together.
    """
    centred = halves - (halves @ prior).unsqueeze(-1)
    signal = (centred.prod(-2) * prior).sum(-1)
    total = (centred.mean(-2).square() * prior).sum(-1)
    return torch.where(total > 0, signal / total, 0).clamp(0, 1)


def anchored(scores: Float[Tensor, "*B D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B D"]:
    """a proportional to prior * exp(scores): the maximum of <a, scores> - KL(a | prior).

    Unlike the mirror step it starts from the prior at every update, so noise does not add up over steps.
    """
    return torch.softmax(prior.log() + scores, -1)


def within_reach(scores: Float[Tensor, "*B D"], prior: Float[Tensor, " D"], most: float) -> Float[Tensor, "*B D"]:
    """`anchored`, with the scores scaled down where needed to keep KL(a | prior) <= most (nats): no alignment, however
    large or
    hostile, brings one-hot weights."""
    weights = anchored(scores, prior)
    whole = divergence(weights, prior).unsqueeze(-1) <= most
    if bool(whole.all()):
        return weights
    low, high = torch.zeros_like(scores[..., :1]), torch.ones_like(scores[..., :1])
    for _ in range(50):  # the divergence grows with the factor
        middle = (low + high) / 2
        inside = divergence(anchored(middle * scores, prior), prior).unsqueeze(-1) <= most
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.where(whole, weights, anchored(low * scores, prior))


def divergence(weights: Float[Tensor, "*B D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B"]:
    """KL(weights | prior), nats."""
    return torch.special.xlogy(weights, weights / prior).sum(-1)


def replicates(
    parts: Float[Tensor, "S 3 D"],
    lrs: Float[Tensor, " S"],
    prior: Float[Tensor, " D"],
    *,
    tau: float,
    reach: float,
    averaging: float,
    floor: float,
    count: int = 200,
    blocks: int = 100,
    seed: int = 0,
) -> Float[Tensor, "R D"]:
    """Average weights over the steps of `count` runs that drew these again, in blocks.

    parts: `alignment_parts` of every step, with the unbiased diagonal. Of two neighbouring blocks one counts twice in a
    replicate and the other not at all (half-samples: McCarthy 1969), so what differs between neighbours is noise, and a
    drift over the run is not. What weights do to the model on the way stays as it was; weights are taken at the ends of
    the blocks. Time and memory R * D for each block. Raises ValueError for fewer than four steps.
    """
    steps, domains = len(lrs), len(prior)
    pairs = min(blocks, steps // 2) // 2
    if not pairs:
        raise ValueError(f"{steps} steps: replicates need two blocks of two steps at least")
    block = torch.arange(steps) * (2 * pairs) // steps
    lengths = torch.bincount(block).tolist()
    first = torch.rand(count, pairs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) < 0.5
    factors = 2.0 * torch.stack([first, ~first], -1).flatten(1).double()
    sums, counted = (
        torch.zeros(count, 2, *parts.shape[1:], dtype=torch.float64),
        torch.zeros(count, 2, dtype=torch.float64),
    )
    average = torch.zeros(count, domains, dtype=torch.float64)
    for number, length in enumerate(lengths):
        here = torch.arange(steps)[block == number]
        rates = lrs[here] * averaging ** (here[-1] - here).double()
        for half in (0, 1):
            chosen = here % 2 == half
            sums[:, half] = averaging**length * sums[:, half] + factors[:, number, None, None] * torch.einsum(
                "s,spd->pd", rates[chosen], parts[here[chosen]]
            )
            counted[:, half] = averaging**length * counted[:, half] + factors[:, number] * rates[chosen].sum()
        shares = counted / counted.sum(-1, keepdim=True).clamp(min=1e-300)
        halves = alignments(sums / counted.clamp(min=1e-300)[..., None, None], shares)
        weights = stable_weights(halves, shares, prior, tau=tau, reach=reach)
        average += length / steps * ((1 - floor) * weights + floor * prior)
    return average
