"""Inner products between the groups' gradients, summed over parameters as they come out of the backward pass."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge.grouped import grouped_backward
from doge.rules import Sum

CHUNK = 16384  # entries multiplied in float32 before the sum goes on in float64


@dataclass(frozen=True)
class Gram:
    """Inner products of G groups' gradients (all float64, on the CPU).

    `products[i, j]` = <g_i, g_j>; its diagonal carries the noise of the rows: E|g|^2 = |g|^2 + tr(Sigma)/n.
    `self_products[i]` estimates <g_i, g_i> without that noise, from the two halves of the group's rows; None without halves.
    `norms[i]` = |g_i|, in plain geometry also when the products are in Adam's.
    """

    products: Float[Tensor, "G G"]
    norms: Float[Tensor, " G"]
    self_products: Float[Tensor, " G"] | None = None

    @property
    def unbiased(self) -> Float[Tensor, "G G"]:
        """`products` with the unbiased diagonal. Raises ValueError where no halves were measured."""
        if self.self_products is None:
            raise ValueError("no unbiased diagonal: it needs an even number of rows in every domain")
        return self.products.diagonal_scatter(self.self_products)


class GramSum:
    """The gram while parameters come in one by one. State: G^2 float64."""

    def __init__(self, groups: int, *, halves: int, device: torch.device | str = "cpu") -> None:
        self.products = torch.zeros(groups, groups, dtype=torch.float64, device=device)
        self.squares = torch.zeros(groups, dtype=torch.float64, device=device)
        self.halved = torch.zeros(groups, dtype=torch.float64, device=device) if halves == 2 else None

    def add(self, gradient: Tensor, *, metric: Tensor | None = None) -> Float[Tensor, "G p"]:
        """Add one parameter's gradients (halves, G, *shape), of half-group losses that sum to the group's; returns g, (G, p).

        `metric`, of the parameter's shape, weighs the products (Adam's geometry: 1 / (sqrt(v) + eps)). `gradient` is used up.
        """
        gradient = gradient.flatten(2)
        metric = None if metric is None else metric.flatten()
        if self.halved is not None:
            a, b = gradient
            self.halved += 4 * _dots(a if metric is None else a * metric, b)  # the mean gradients of the halves are 2a and 2b
            total = a.add_(b)
        else:
            total = gradient[0]
        products = products_of(total, total if metric is None else total * metric)
        self.products += (products + products.T) / 2
        self.squares += products.diagonal() if metric is None else _dots(total, total)
        return total

    def result(self) -> Gram:
        """The gram of everything added."""
        halved = None if self.halved is None else self.halved.cpu()
        return Gram(self.products.cpu(), self.squares.sqrt().cpu(), halved)


def products_of(a: Float[Tensor, "G p"], b: Float[Tensor, "G p"]) -> Float[Tensor, "G G"]:
    """a b^T in float64: chunks are multiplied in their own precision (float32 at least) and summed in float64.

    One float32 product over all entries is off by up to 4 % at 80 M entries (methods.md section 1).
    """
    whole = a.shape[1] // CHUNK * CHUNK
    rest = a[:, whole:].double() @ b[:, whole:].double().T
    if not whole:
        return rest
    a, b = (x[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1) for x in (a, b))
    return rest + torch.bmm(a, b.mT).double().sum(0)


def _dots(a: Float[Tensor, "G p"], b: Float[Tensor, "G p"]) -> Float[Tensor, " G"]:
    if a.device.type == "cpu":  # many times faster there than a product and a sum
        return torch.stack([_dot(x, y) for x, y in zip(a, b, strict=True)])
    return (a * b).sum(1, dtype=torch.float64)


def _dot(x: Float[Tensor, " p"], y: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    size = 64 * CHUNK
    return torch.stack([torch.dot(a, b).double() for a, b in zip(x.split(size), y.split(size), strict=True)]).sum()


class Workspace:
    """Memory for the groups' gradients, reused from layer to layer and from step to step.

    keep=False: one block as large as the largest layer's gradients, plus one for every parameter that is used twice.
    keep=True: groups * P entries, every parameter its own block, until `release`.
    """

    def __init__(self, *, groups: int, keep: bool) -> None:
        self.groups = groups
        self.keep = keep
        self._shared: Tensor | None = None
        self._own: dict[nn.Parameter, Tensor] = {}

    def block(self, parameter: nn.Parameter, *, lasting: bool) -> Tensor:
        """An undefined tensor (groups, *shape); the same one for the same lasting parameter."""
        shape = (self.groups, *parameter.shape)
        if lasting or self.keep:
            if parameter not in self._own:
                self._own[parameter] = torch.empty(shape, dtype=_dtype(parameter), device=parameter.device)
            return self._own[parameter]
        entries = self.groups * parameter.numel()
        if self._shared is None or self._shared.numel() < entries or self._shared.dtype != _dtype(parameter):
            self._shared = torch.empty(entries, dtype=_dtype(parameter), device=parameter.device)
        return self._shared[:entries].view(shape)


def _dtype(parameter: nn.Parameter) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def domain_gram(model: nn.Module, rows: Int[Tensor, "R T"], groups: int) -> Float[Tensor, "G G"]:
    """Gram of the groups' gradients: float64 (G, G), entry <g_i, g_j> with g_i the gradient of group i's mean token loss.

    `rows` are group-major: the first R/G rows are group 0. One backward pass, nothing left on the model (DoGE, arXiv
    2310.15393, eq. 4 takes its row sums). Memory: `groups` gradients of the largest layer. Raises NoRuleError for trainable
    parameters that no layer rule covers.
    """
    workspace = Workspace(groups=groups, keep=False)
    gram = GramSum(groups, halves=1, device=rows.device)

    def sum_of(parameter: nn.Parameter, lasting: bool) -> Sum:
        return Sum(workspace.block(parameter, lasting=lasting), fresh=True)

    def on_gradient(parameter: nn.Parameter, gradient: Sum) -> None:
        gram.add(gradient.value.unsqueeze(0))

    grouped_backward(model, rows, groups=groups, sum_of=sum_of, on_gradient=on_gradient)
    return gram.result().products
