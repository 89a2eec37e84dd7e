"""Layer rules: the gradient of every *group* of rows, from a layer's input and its output gradient.

The loss is the sum of the groups' losses, and the rows of a group are adjacent. So a reshape splits a layer's output
gradient by group, and the gradient of group g is the ordinary weight gradient over the rows of that group alone. One
`bmm` over the groups costs the same arithmetic as the ordinary product over all rows.

A rule is a function `(module, name, x, b, out, part) -> None`. It adds the groups' gradients of the module's parameter
`name` to the `Sum` `out`, for the slice `part` of the parameter's first axis (large parameters are done in parts to
save memory). `x` is the layer's input (R, ..., d) and `b` the gradient of its output (R, ..., p).

Rules are written for layer *types*. A layer is recognized by its class if it keeps that class's `forward`, and by its
behaviour otherwise (`find_rule`). So a new model family that is built from known layers needs no new rule.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doge import sums

# errors of a device that is out of memory or broken: they say nothing about a layer
BROKEN = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


class Sum:
    """Sum of the groups' gradients (G, *shape) of a parameter or a part of it, in the tensor `value`.

    `fresh` is True as long as nothing was added; the content of `value` is then undefined.
    """

    def __init__(self, value: Tensor, *, fresh: bool) -> None:
        self.value = value
        self.fresh = fresh

    def add(self, gradients: Tensor) -> None:
        """Add gradients of the same shape."""
        self.value.copy_(gradients) if self.fresh else self.value.add_(gradients)
        self.fresh = False

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add left^T right (G, p, d) of every group, with left (G, n, p) and right (G, n, d)."""
        if left.dtype != self.value.dtype:  # under autocast: multiply as a plain backward pass does, sum in float32
            return self.add(torch.bmm(left.mT, right.to(left.dtype)))
        if self.fresh:  # not baddbmm with beta = 0: on Apple's MPS it multiplies what was in the memory, NaN included
            torch.bmm(left.mT, right.to(left.dtype), out=self.value)
        else:
            torch.baddbmm(self.value, left.mT, right.to(left.dtype), out=self.value)
        self.fresh = False

    def add_rows(self, index: Tensor, gradients: Tensor) -> None:
        """Add gradients (G, n, d) to the rows of the groups' tables whose numbers are in index (G, n)."""
        groups, table_rows = self.value.shape[:2]
        if self.fresh:
            self.value.zero_()
        index = index + table_rows * torch.arange(groups, device=index.device)[:, None]
        self.value.flatten(0, 1).index_add_(0, index.flatten(), gradients.flatten(0, 1).to(self.value.dtype))
        self.fresh = False

    def grouped(self, x: Tensor) -> Tensor:
        """Return x (R, ..., d), in which the rows of a group are adjacent, reshaped to (G, n, d)."""
        return x.reshape(self.value.shape[0], -1, x.shape[-1])


Rule = Callable[[nn.Module, str, Any, Tensor, Sum, slice], None]


def linear(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """Add the gradients of a linear layer y = x W^T + bias: sum_t b_t x_t^T for W, sum_t b_t for the bias."""
    if name == "bias":
        return add_bias(b, out, part)
    out.add_product(out.grouped(b[..., part]), out.grouped(x))


def conv1d(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """Add the gradients of GPT-2's linear layer y = x W + bias: sum_t x_t b_t^T for W, sum_t b_t for the bias."""
    if name == "bias":
        return add_bias(b, out, part)
    out.add_product(out.grouped(x[..., part].to(b.dtype)), out.grouped(b))


def embedding(module: nn.Module, name: str, index: Tensor, b: Tensor, out: Sum, part: slice) -> None:
    """Add the gradient of an embedding y = W[index]: b_t is added to row index_t."""
    b = out.grouped(b)
    index = index.reshape(b.shape[:2])
    padding = getattr(module, "padding_idx", None)  # torch gives the padding row no gradient
    inside = (index >= part.start) & (index < part.stop) & (index != (-1 if padding is None else padding))
    if not inside.all():
        b, index = b * inside.unsqueeze(-1), index.clamp(part.start, part.stop - 1)
    out.add_rows(index - part.start, b)


def gain(module: nn.Module, name: str, x: Tensor, b: Tensor, out: Sum, part: slice, *, one: float) -> None:
    """Add the gradients of a layer like LayerNorm or RMSNorm: sum_t b_t * unit(x_t) for the weight, sum_t b_t for bias.

    Such a layer computes y = unit(x) * (weight + 1 - one) (+ bias) over the last axis, where `one` is the value of the
    stored weight that multiplies by one. unit(x) is computed by calling the layer itself, because the classes of
    Hugging Face models convert data types inside.
    """
    if name == "bias":
        return add_bias(b, out, part)
    unit = call_with(module, _stored(module, one), x)
    out.add(out.grouped((b * unit.to(b.dtype))[..., part]).sum(1))


def add_bias(b: Tensor, out: Sum, part: slice) -> None:
    """Add the gradient of a bias, y = ... + bias: sum_t b_t."""
    out.add(out.grouped(b[..., part]).sum(1))


def lookup(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Return the numbers (R, T) of the table rows that an embedding module looks up, and the factor it multiplies by.

    The factor is None for a plain nn.Embedding. A subclass may compute positions from a mask, add an offset (OPT) or
    scale the output (Gemma). So the module itself is called, once with ones and once with row numbers as its table.
    """
    if type(module).forward is nn.Embedding.forward:
        return args[0] if args else kwargs["input"], None
    weight = module._parameters["weight"]
    assert weight is not None
    table = torch.arange(len(weight), dtype=sums.widest(weight.device), device=weight.device)[:, None]
    factor = call_with(module, {"weight": torch.ones_like(table)}, *args, **kwargs)
    index = call_with(module, {"weight": table}, *args, **kwargs) / factor
    return index.squeeze(-1).round().long(), factor.to(weight.dtype)


@torch.no_grad()
def call_with(module: nn.Module, parameters: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Return the module's output with other parameter values, without a change to the module or a call of its hooks."""
    twin = copy.copy(module)
    twin.__dict__["_parameters"] = {**module._parameters, **parameters}
    return type(module).forward(twin, *args, **kwargs)


def find_rule(module: nn.Module) -> Rule | None:
    """Return the rule for the parameters that the module itself holds, or None if no rule covers it."""
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
    """Return the stored gain that multiplies by one: 1, or 0 if the layer adds one to it (Gemma); None: no gain layer.

    The layer's output for two fixed inputs decides, because every model family has its own RMSNorm class.
    """
    parameters = module._parameters
    weight = parameters.get("weight")
    if weight is None or weight.ndim != 1 or set(parameters) - {"weight", "bias"} or module._modules:
        return None
    steps = torch.arange(weight.shape[0], device=weight.device)
    x = torch.stack([torch.sin(steps + 1) + 0.3, torch.cos(2 * steps) - 0.1]).to(weight.dtype)
    stored = torch.linspace(0.5, 1.5, weight.shape[0], device=weight.device, dtype=weight.dtype)
    output = _output(module, {**_stored(module, 0.0), "weight": stored}, x)
    for unit_gain in (1.0, 0.0):
        unit = _output(module, _stored(module, unit_gain), x)
        if output is None or unit is None:
            return None
        if torch.allclose(output, unit * (stored + 1 - unit_gain), rtol=1e-2, atol=1e-3):
            return unit_gain
    return None


def _output(module: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
    """Return the module's output for x, or None if it needs more inputs, inputs of another shape, or changes the shape.

    These are TypeError (an input is missing), AttributeError (an input that is None by default is used, as in a gated
    norm), and ValueError, IndexError and RuntimeError (a shape does not fit). A device that is out of memory or broken
    is no answer, and is raised.
    """
    try:
        output = call_with(module, parameters, x)
    except BROKEN:
        raise
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError):
        return None
    return output if isinstance(output, Tensor) and output.shape == x.shape else None


def _stored(module: nn.Module, gain: float) -> dict[str, Tensor]:
    """Return tensors shaped like the module's own parameters: `gain` everywhere in the weight, zero in the bias."""
    own = {name: p for name, p in module._parameters.items() if p is not None}
    return {name: torch.full_like(p, gain if name == "weight" else 0.0) for name, p in own.items()}
