"""Layer rules: the gradient of every *group* of rows, from a layer's input and its output gradient.

With loss = sum over groups of each group's own loss, and rows of a group adjacent, the output gradient of a layer
splits by group as a reshape, and the gradient of group g is the ordinary weight gradient taken over that group's rows
alone. One `bmm` over groups costs the same arithmetic as the ordinary product over all rows.

A rule is `(module, name, x, b, out, part) -> None`: it adds to the `Sum` `out` the groups' gradients of the module's
parameter `name`, of the slice `part` of its first axis (large layers are formed in parts to bound memory). `x` is the
layer's input (R, ..., d) and `b` the gradient of its output (R, ..., p). Rules are written for layer *types*; a layer
is matched by its class when it keeps that class's `forward`, and by behaviour otherwise (`find_rule`), so that a model
family of known layers needs nothing new.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Sum:
    """Gradients by group of (a part of) one parameter, (G, *shape); `fresh` while nothing was added (its memory is then
    undefined).
    """

    def __init__(self, value: Tensor, *, fresh: bool) -> None:
        self.value = value
        self.fresh = fresh

    def add(self, gradients: Tensor) -> None:
        """Add gradients of the same shape."""
        self.value.copy_(gradients) if self.fresh else self.value.add_(gradients)
        self.fresh = False

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add left^T right of every group: left (G, n, p), right (G, n, d) -> (G, p, d)."""
        if (
            left.dtype != self.value.dtype
        ):  # autocast: the product as a plain backward pass forms it, kept in full precision
            return self.add(torch.bmm(left.mT, right.to(left.dtype)))
        beta = 0 if self.fresh else 1  # beta = 0 ignores what was in the memory, NaN included
        torch.baddbmm(self.value, left.mT, right.to(left.dtype), beta=beta, out=self.value)
        self.fresh = False

    def add_rows(self, index: Tensor, gradients: Tensor) -> None:
        """Add gradients (G, n, d) to the table rows named by index (G, n)."""
        groups, table_rows = self.value.shape[:2]
        if self.fresh:
            self.value.zero_()
        index = index + table_rows * torch.arange(groups, device=index.device)[:, None]
        self.value.flatten(0, 1).index_add_(0, index.flatten(), gradients.flatten(0, 1).to(self.value.dtype))
        self.fresh = False

    def grouped(self, x: Tensor) -> Tensor:
        """(R, ..., d) as (G, n, d): rows of a group are adjacent."""
        return x.reshape(self.value.shape[0], -1, x.shape[-1])


Rule = Callable[[nn.Module, str, Any, Tensor, Sum, slice], None]


def linear(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """y = x W^T + bias: sum_t b_t x_t^T, and sum_t b_t."""
    if name == "bias":
        return add_bias(b, out, part)
    out.add_product(out.grouped(b[..., part]), out.grouped(x))


def conv1d(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """GPT-2's linear layer with the weight stored transposed: sum_t x_t b_t^T, and sum_t b_t."""
    if name == "bias":
        return add_bias(b, out, part)
    out.add_product(out.grouped(x[..., part].to(b.dtype)), out.grouped(b))


def embedding(module: nn.Module, name: str, index: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """y = W[index]: b_t goes to row index_t."""
    b = out.grouped(b)
    index = index.reshape(b.shape[:2])
    padding = getattr(module, "padding_idx", None)  # torch gives the padding row no gradient
    inside = (index >= part.start) & (index < part.stop) & (index != (-1 if padding is None else padding))
    if not inside.all():
        b, index = b * inside.unsqueeze(-1), index.clamp(part.start, part.stop - 1)
    out.add_rows(index - part.start, b)


def gain(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice, *, one: float) -> None:
    """y = unit(x) * (weight + 1 - one) (+ bias) over the last axis, the family of LayerNorm and RMSNorm: sum_t b_t *
    unit(x_t).

    `one` is the stored weight that multiplies by one. The layer's own arithmetic gives unit(x), as HF classes cast
    inside.
    """
    if name == "bias":
        return add_bias(b, out, part)
    unit = call_with(module, _stored(module, one), x)
    out.add(out.grouped((b * unit.to(b.dtype))[..., part]).sum(1))


def add_bias(b: Tensor, out: Sum, part: slice) -> None:
    """y = ... + bias: sum_t b_t."""
    out.add(out.grouped(b[..., part]).sum(1))


def lookup(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Which table rows an embedding module looked up, (R, T), and the factor it multiplied them with.

    A subclass may compute positions from a mask, add an offset (OPT) or scale the output (Gemma). Asking the module
    itself, with the table replaced by row numbers and then by ones, answers for all of them.
    """
    if type(module).forward is nn.Embedding.forward:
        return args[0] if args else kwargs["input"], None
    weight = module._parameters["weight"]
    assert weight is not None
    table = torch.arange(len(weight), dtype=torch.float64, device=weight.device)[:, None]
    factor = call_with(module, {"weight": torch.ones_like(table)}, *args, **kwargs)
    index = call_with(module, {"weight": table}, *args, **kwargs) / factor
    return index.squeeze(-1).round().long(), factor.to(weight.dtype)


@torch.no_grad()
def call_with(module: nn.Module, parameters: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """The module's output with other parameter values; the module itself and its hooks are left alone."""
    twin = copy.copy(module)
    twin.__dict__["_parameters"] = {**module._parameters, **parameters}
    return type(module).forward(twin, *args, **kwargs)


def find_rule(module: nn.Module) -> Rule | None:
    """The rule for this module's own parameters, None where there is none."""
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return linear
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return conv1d
    if isinstance(module, nn.Embedding):
        return embedding if module.max_norm is None and not module.scale_grad_by_freq else None
    one = _gain_of_one(module)
    return None if one is None else partial(gain, one=one)


def _gain_of_one(module: nn.Module) -> float | None:
    """The stored gain that multiplies by one: 1, or 0 where the layer adds one (Gemma); None if this is no gain layer.

    Judged by what the layer does to two fixed inputs, because every model family has an RMSNorm class of its own.
    """
    own = module._parameters
    weight = own.get("weight")
    if weight is None or weight.ndim != 1 or set(own) - {"weight", "bias"} or module._modules:
        return None
    steps = torch.arange(weight.shape[0], device=weight.device)
    x = torch.stack([torch.sin(steps + 1) + 0.3, torch.cos(2 * steps) - 0.1]).to(weight.dtype)
    stored = torch.linspace(0.5, 1.5, weight.shape[0], device=weight.device, dtype=weight.dtype)
    try:
        output = call_with(module, {**_stored(module, 0.0), "weight": stored}, x)
        for one in (1.0, 0.0):
            unit = call_with(module, _stored(module, one), x)
            if output.shape == x.shape and torch.allclose(output, unit * (stored + 1 - one), rtol=1e-2, atol=1e-3):
                return one
    except (TypeError, RuntimeError):  # it takes other inputs than one tensor: no gain layer
        return None
    return None


def _stored(module: nn.Module, gain: float) -> dict[str, Tensor]:
    """The module's own vectors, the gain constant and the bias zero."""
    own = {name: p for name, p in module._parameters.items() if p is not None}
    return {name: torch.full_like(p, gain if name == "weight" else 0.0) for name, p in own.items()}
