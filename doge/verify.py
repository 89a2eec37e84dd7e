"""The layer rules against autograd, on the model and rows at hand: a layer that calls its parameters in an unforeseen
way shows up
here, by name, before a run is spent on it."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from doge.grouped import NoRuleError, Use, grouped_backward, row_losses
from doge.rules import Sum


def verify(model: nn.Module, rows: Int[Tensor, "R T"], groups: int, *, tolerance: float = 1e-2) -> None:
    """Compare sum_g c_g * g_g from one grouped pass with autograd's gradient of sum_g c_g * loss_g, for unequal c.

    Raises NoRuleError naming every parameter that differs by more than `tolerance` of its gradient's norm. Costs two
    backward passes and `groups` gradients of one layer; runs without dropout, leaves no gradient and the model's mode
    as it was.
    """
    training = model.training
    model.eval()
    factors = torch.linspace(1, 2, groups, device=rows.device)
    found: dict[nn.Parameter, Tensor] = {}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        total = Sum(
            torch.zeros((groups, *parameter.shape), device=parameter.device, dtype=parameter.dtype), fresh=False
        )
        for use in uses:
            use.add(total, slice(0, parameter.shape[0]))
        found[parameter] = torch.einsum("g,g...->...", factors.to(total.value.dtype), total.value)

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
        difference = (found.get(parameter, torch.zeros_like(parameter)) - gradient).norm()
        if difference > tolerance * gradient.norm() + 1e-7:
            wrong.append(f"  {name}: off by {difference:.3g}, its gradient's norm is {gradient.norm():.3g}")
    if wrong:
        raise NoRuleError(
            "the layer rules do not give autograd's gradient for\n"
            + "\n".join(wrong)
            + "\nThe model uses these parameters outside their layer's call. Freeze them, or write a rule for the "
            "layer that uses them."
        )
