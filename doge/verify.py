"""A comparison of the layer rules with autograd, on a given model and rows.

It names the parameters of a layer that uses them in an unforeseen way, before a whole run is spent on wrong gradients.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from doge.grouped import NoRuleError, Use, grouped_backward, row_losses
from doge.rules import Sum


def verify(model: nn.Module, rows: Int[Tensor, "R T"], groups: int, *, tolerance: float = 1e-2) -> None:
    """Check that the layer rules give the same gradients as autograd, and raise NoRuleError if they do not.

    The gradients g_g of all groups come from one grouped pass. Their sum with unequal factors, sum_g c_g * g_g, is
    compared with autograd's gradient of sum_g c_g * loss_g. The error names every parameter for which the two differ by
    more than `tolerance` times the norm of its gradient.

    Costs two backward passes and memory for `groups` gradients of one layer. The passes run without dropout; no
    gradient is left on the model, and its mode (training or evaluation) stays as it was.
    """
    training = model.training
    model.eval()
    factors = torch.linspace(1, 2, groups, device=rows.device)
    ruled_gradients: dict[nn.Parameter, Tensor] = {}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        total = Sum(
            torch.zeros((groups, *parameter.shape), device=parameter.device, dtype=parameter.dtype), fresh=False
        )
        for use in uses:
            use.add(total, slice(0, parameter.shape[0]))
        ruled_gradients[parameter] = torch.einsum("g,g...->...", factors.to(total.value.dtype), total.value)

    try:
        grouped_backward(model, rows, groups=groups, on_parameter=on_parameter)
        losses = row_losses(model, rows).view(groups, -1).mean(1)
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        wanted = torch.autograd.grad((losses * factors).sum(), list(named.values()), allow_unused=True)
    finally:
        model.train(training)
    wrong = []
    for (name, parameter), gradient in zip(named.items(), wanted, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        difference = (ruled_gradients.get(parameter, torch.zeros_like(parameter)) - gradient).norm()
        if difference > tolerance * gradient.norm() + 1e-7:
            wrong.append(
                f"  {name}: norm of the difference {difference:.3g}, norm of autograd's gradient {gradient.norm():.3g}"
            )
    if wrong:
        raise NoRuleError(
            "the layer rules give other gradients than autograd for these parameters:\n"
            + "\n".join(wrong)
            + "\nThe model uses them outside the call of their layer. Freeze them, or write a rule for the layer that "
            "uses them."
        )
