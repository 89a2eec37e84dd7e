"""DoReMi (Xie et al. 2023, arXiv 2305.10429, algorithm 1): domain weights from excess losses over a reference model.
Pure, float64.

    lambda_j = mean over the tokens of domain j's rows of max(l_proxy - l_reference, 0)      a domain weighs more while
    the proxy
    a        = softmax(log a_prev + eta * lambda)                                            has something left to learn
    there
    a       <- (1 - c) a + c / D
    theta   <- theta - lr * sum_j a_j g_j                                                    with the new weights
    output     mean over all steps of a

The weights start uniform, whatever prior the reference was trained on.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from doge.updates import mirror_step


def excess_losses(proxy: Float[Tensor, "D n"], reference: Float[Tensor, "D n"]) -> Float[Tensor, " D"]:
    """lambda (D,), nats per token, from the losses of every domain's n tokens; clipped at zero token by token."""
    return (proxy.detach() - reference).clamp(min=0).mean(1, dtype=torch.float64)


def reweight(
    weights: Float[Tensor, " D"], excess: Float[Tensor, " D"], *, eta: float, smoothing: float
) -> Float[Tensor, " D"]:
    """The weights (sum 1) after one step with these excess losses, smoothed with the uniform weights by the share
    `smoothing`.
    """
    return (1 - smoothing) * mirror_step(weights, eta * excess) + smoothing / len(weights)
