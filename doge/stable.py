"""The default rule: weights from the mean alignment over the run, without its noise and close to a prior.

    M     = sum_t lr_t G_t / sum_t lr_t, with G_t the gram of step t with its unbiased diagonal
    u_j   = sum over domains i of importance_i M_ji
            + sum over targets k of importance_k M_jk m / M_jj, with m the mean of all M_jj
    s     = share of the variance of u over domains that is signal, estimated from two halves of the steps
    a     proportional to prior * exp(tau s u / mean|u|), with the exponent scaled down until
            KL(a | prior) <= reach * log D

The paper's alignment (arXiv 2310.15393, eq. 4) enters as a mean over the run. So its noise averages out, while the
paper's mirror steps add it up. The learning rate weights a step by how far the model moved in it.

A target is a group that is not trained on. What a domain does for it is divided by the domain's own progress M_jj.
Without that, domains with long gradients would come out first, although what they give is soon used up (measured in
docs/estimator.md).

All functions are pure, compute in float64 and take leading batch axes (*B), so that the bootstrap (`replicates`) runs
the same code as the rule.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_PROGRESS = 0.2  # least M_jj to divide by, as a share of m; else noise would be divided by almost nothing


def alignment_parts(
    gram: Float[Tensor, "*B G G"], importance: Float[Tensor, " G"], targets: Bool[Tensor, " G"], domains: int
) -> Float[Tensor, "*B 3 D"]:
    """Return the three parts (*B, 3, D) of the domains' alignments, which are linear in the gram.

    Part 0 is the alignment with the groups that are no targets, part 1 that with the targets, each weighted by
    importance. Part 2 is M_jj, the product of a domain with itself. `domains` is the number D of training domains.
    A part is NaN if it needs an M_jj that was not measured (NaN).
    """
    self_products = gram.diagonal(dim1=-2, dim2=-1)[..., :domains]
    others = gram[..., :domains, :].clone()
    others.diagonal(dim1=-2, dim2=-1).zero_()
    counted = torch.where(importance[:domains] == 0, 0, importance[:domains] * self_products)
    return torch.stack([others @ (importance * ~targets) + counted, others @ (importance * targets), self_products], -2)


def alignments(parts: Float[Tensor, "*B 2 3 D"], shares: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B 2 D"]:
    """Return u for each of two halves of the steps.

    `parts`: the mean over each half's steps of the `alignment_parts`. `shares`: each half's share of the sum of all
    learning rates (sum 1). M_jj is taken over both halves together. A domain's u is NaN if it needs an M_jj that was
    not measured.
    """
    self_products = (parts[..., 2, :] * shares.unsqueeze(-1)).sum(-2, keepdim=True)
    mean = self_products.nanmean(-1, keepdim=True)
    progress = torch.where(mean > 0, torch.maximum(self_products, LEAST_PROGRESS * mean) / mean, 1)
    targets = parts[..., 1, :]
    return parts[..., 0, :] + torch.where(targets == 0, 0, targets / progress)


def stable_weights(
    halves: Float[Tensor, "*B 2 D"],
    shares: Float[Tensor, "*B 2"],
    prior: Float[Tensor, " D"],
    *,
    tau: float,
    reach: float,
) -> Float[Tensor, "*B D"]:
    """Return the weights a (sum 1) from u of two halves of the steps; for the arguments see `stable_scores`."""
    return within_reach(stable_scores(halves, shares, prior, tau=tau), prior, reach * math.log(len(prior)))


def stable_scores(
    halves: Float[Tensor, "*B 2 D"], shares: Float[Tensor, "*B 2"], prior: Float[Tensor, " D"], *, tau: float
) -> Float[Tensor, "*B D"]:
    """Return the scores tau s u / mean|u|, the log-ratios to the prior (up to a constant) before `reach` limits them.

    `halves`: u of each half. `shares`: each half's share of the sum of all learning rates (sum 1). If one half is
    empty, signal cannot be told from noise, and the scores are 0. The score of a domain without a measured u is NaN.
    """
    mean = (halves * shares.unsqueeze(-1)).sum(-2)
    scale = mean.abs().nanmean(-1, keepdim=True)
    signal = torch.where((shares > 0).all(-1), signal_share(halves, prior), 0)
    return torch.where(scale > 0, tau * signal.unsqueeze(-1) * mean / scale, 0 * mean)


def signal_share(halves: Float[Tensor, "*B 2 D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B"]:
    """Return the share s of the variance of u over domains that is signal and not noise, from 0 to 1.

    Both halves of the steps hold the same signal but different noise. So the product of the halves estimates the
    variance of the signal, and the square of their mean that of signal and noise together. Domains count by the prior;
    those without a measured u (NaN) do not count.
    """
    counted = torch.where(halves.isnan().any(-2), 0, prior)
    halves = halves.nan_to_num()
    counted = counted / counted.sum(-1, keepdim=True).clamp(min=1e-300)
    centred = halves - (halves * counted.unsqueeze(-2)).sum(-1, keepdim=True)
    signal = (centred.prod(-2) * counted).sum(-1)
    total = (centred.mean(-2).square() * counted).sum(-1)
    return torch.where(total > 0, signal / total, 0).clamp(0, 1)


def anchored(scores: Float[Tensor, "*B D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B D"]:
    """Return weights a proportional to prior * exp(scores), the maximum of <a, scores> - KL(a | prior).

    Unlike a mirror step this starts from the prior at every update, so noise does not add up over steps. A domain whose
    score is NaN keeps its prior.
    """
    kept = scores.isnan()
    if not bool(kept.any()):
        return torch.softmax(prior.log() + scores, -1)
    shares = torch.softmax(torch.where(kept, -torch.inf, prior.log() + scores), -1)
    return torch.where(kept, prior, shares * (1 - (prior * kept).sum(-1, keepdim=True)))


def within_reach(scores: Float[Tensor, "*B D"], prior: Float[Tensor, " D"], most: float) -> Float[Tensor, "*B D"]:
    """Return the weights of `anchored`, with the scores scaled down where KL(a | prior) would exceed `most` (nats).

    So no alignment, however large, can put all weight on one domain.
    """
    return anchored(reach_factor(scores, prior, most).unsqueeze(-1) * scores, prior)


def reach_factor(scores: Float[Tensor, "*B D"], prior: Float[Tensor, " D"], most: float) -> Float[Tensor, "*B"]:
    """Return the largest factor, 1 at most, for the scores with which KL(a | prior) does not exceed `most` (nats)."""
    whole = divergence(anchored(scores, prior), prior) <= most
    low, high = torch.zeros_like(scores[..., 0]), torch.ones_like(scores[..., 0])
    if bool(whole.all()):
        return high
    for _ in range(50):  # the divergence grows with the factor
        middle = (low + high) / 2
        inside = divergence(anchored(middle.unsqueeze(-1) * scores, prior), prior) <= most
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.where(whole, 1.0, low)


def divergence(weights: Float[Tensor, "*B D"], prior: Float[Tensor, " D"]) -> Float[Tensor, "*B"]:
    """Return KL(weights | prior), nats."""
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
    """Return the average weights (R, D) of `count` replicates of the run, each with its steps drawn again in blocks.

    The spread over replicates tells how far the weights would vary with other steps. The steps are cut into at most
    `blocks` blocks of about equal length. In a replicate, one of two neighbouring blocks counts twice and the other not
    at all, at random (half-samples: McCarthy 1969). So differences between neighbours count as noise, and a drift over
    the run does not. A replicate's weights are computed at the end of every block and averaged over the run. The
    gradients stay those of the original run, although other weights would have changed the model.

    parts:  `alignment_parts` of every step, from a gram with the unbiased diagonal.
    lrs:    learning rate of every step.

    Time R * D per block; memory R * D. Raises ValueError for fewer than four steps.
    """
    steps, domains = len(lrs), len(prior)
    pairs = min(blocks, steps // 2) // 2
    if not pairs:
        raise ValueError(f"the run has {steps} steps; replicates need at least four (two blocks of two steps)")
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
