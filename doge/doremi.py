"""DoReMi (Xie et al. 2023, arXiv 2305.10429, algorithm 1): domain weights from excess losses over a reference model.

    lambda_j = mean over the tokens of domain j's rows of max(l_proxy - l_reference, 0)    (the excess loss)
    a        = softmax(log a_prev + eta * lambda)
    a       <- (1 - c) a + c / D
    theta   <- theta - lr * sum_j a_j g_j, with the new weights
    output     the mean of a over all steps

So a domain weighs more as long as the proxy has something left to learn there. The weights start uniform, whatever
prior the reference model was trained on. The functions here are pure and compute in float64.
"""

from jaxtyping import Float
from torch import Tensor

from doge import sums
from doge.updates import mirror_step


def excess_losses(proxy: Float[Tensor, "D n"], reference: Float[Tensor, "D n"]) -> Float[Tensor, " D"]:
    """Return the excess loss lambda (D,), nats per token, from the losses of the n tokens of every domain.

    The difference of proxy and reference is set to zero for every token where it is negative.
    """
    return sums.mean((proxy.detach() - reference).clamp(min=0))


def reweight(
    weights: Float[Tensor, " D"], excess: Float[Tensor, " D"], *, eta: float, smoothing: float
) -> Float[Tensor, " D"]:
    """Return the weights (sum 1) after one step with these excess losses.

    `smoothing` (c above) is the share of the uniform weights that is mixed in.
    """
    return (1 - smoothing) * mirror_step(weights, eta * excess) + smoothing / len(weights)
