"""Inner products between the groups' gradients, summed up parameter by parameter during the backward pass."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doge import sums
from doge.grouped import Use, grouped_backward
from doge.rules import Sum
from doge.scopes import scope_parameters
from doge.sums import CHUNK


@dataclass(frozen=True)
class Gram:
    """Inner products of the gradients of G groups, all float64 on the CPU.

    products:       products[i, j] = <g_i, g_j>. The diagonal is too large by the noise of the rows: the expectation of
                    |g|^2 over draws of n rows is |true gradient|^2 + tr(Sigma) / n, with Sigma the covariance of a
                    row's gradient.
    norms:          norms[i] = |g_i|, always in plain geometry, also where the products are in Adam's.
    self_products:  self_products[i] estimates <g_i, g_i> without that noise, from the two halves of the group's rows;
                    None if the rows were not split into halves, NaN for a group with too few rows for it.
    """

    products: Float[Tensor, "G G"]
    norms: Float[Tensor, " G"]
    self_products: Float[Tensor, " G"] | None = None

    def only_measured(self, divided: Bool[Tensor, " G"]) -> "Gram":
        """Return this gram with the self product NaN of every group whose halves are not of different rows.

        `divided` is False for such a group. Its estimate would contain the noise of the rows that are in both halves.
        """
        if self.self_products is None:
            return self
        return replace(self, self_products=torch.where(divided, self.self_products, torch.nan))

    @property
    def unbiased(self) -> Float[Tensor, "G G"]:
        """`products` with the unbiased diagonal in place of its own. Raises ValueError if there are no halves."""
        if self.self_products is None:
            raise ValueError("the gram has no unbiased diagonal: it needs an even number of rows in every domain")
        return self.products.diagonal_scatter(self.self_products)


class GramSum:
    """Sum of inner products that becomes the gram, to which the parameters' gradients are added one by one.

    It holds G^2 float64 numbers.
    """

    def __init__(self, groups: int, *, halves: int, device: torch.device) -> None:
        self.products = sums.zeros(groups, groups, device=device)
        self.squares = sums.zeros(groups, device=device)
        self.halved = sums.zeros(groups, device=device) if halves == 2 else None

    def add(self, gradient: Tensor, *, metric: Tensor | None = None) -> Float[Tensor, "G p"]:
        """Add the half-groups' gradients (halves, G, *shape) of a parameter or a part of it; return the groups' (G, p).

        The gradients are those of half-group losses that sum to the loss of the group. `metric` (*shape) multiplies
        every entry's product; in Adam's geometry it is 1 / (sqrt(v) + eps). `gradient` may be overwritten.
        """
        gradient = gradient.flatten(2)
        metric = None if metric is None else metric.flatten()
        if self.halved is not None:
            a, b = gradient
            self.halved += 4 * _dots(
                a if metric is None else a * metric, b
            )  # the mean gradients of the halves are 2a and 2b
            total = a.add_(b)
        else:
            total = gradient[0]
        if metric is None:
            # BLAS is a quarter faster if the number of rows is a multiple of 8, so rows of the second half fill up the
            # matrix where there are any, and their products are cut off again.
            wide = gradient.flatten(0, 1)[: -(-len(total) // 8) * 8]
            products = products_of(wide, wide)[: len(total), : len(total)]
        else:
            products = products_of(total, total * metric)
        self.products += (products + products.T) / 2
        self.squares += products.diagonal() if metric is None else _dots(total, total)
        return total

    def result(self) -> Gram:
        """Return the gram of all gradients that were added."""
        halved = None if self.halved is None else self.halved.cpu()
        return Gram(self.products.cpu(), self.squares.sqrt().cpu(), halved)


def products_of(a: Float[Tensor, "G p"], b: Float[Tensor, "G p"]) -> Float[Tensor, "G G"]:
    """Return a b^T in float64: chunks of entries are multiplied in the precision of a and b, then summed in float64.

    a and b are float32 or better. A single float32 product over all entries would be off by up to 4 % at 80 M entries.
    """
    whole = a.shape[1] // CHUNK * CHUNK
    rest = sums.widened(a[:, whole:] @ b[:, whole:].T)
    if not whole:
        return rest
    a, b = (x[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1) for x in (a, b))
    return rest + sums.widened(torch.bmm(a, b.mT)).sum(0)


def _dots(a: Float[Tensor, "G p"], b: Float[Tensor, "G p"]) -> Float[Tensor, " G"]:
    if a.device.type == "cpu" and a.shape[1] > CHUNK:  # on a CPU many times faster than to multiply and then sum
        return torch.stack([_dot(x, y) for x, y in zip(a, b, strict=True)])
    return sums.total(a * b)


def _dot(x: Float[Tensor, " p"], y: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    size = 64 * CHUNK  # larger than CHUNK, because one call of torch.dot sums in many lanes
    dots = [torch.dot(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    return sums.total(torch.stack(dots))


class Workspace:
    """Memory for the groups' gradients that is used again at every step.

    keep=False: all parameters share one block of about `limit` entries; a parameter that needs more is handed out in
    parts. keep=True: every parameter has a block of its own, groups * P entries in all for P parameters.
    """

    def __init__(self, *, groups: int, keep: bool, limit: int) -> None:
        self.groups = groups
        self.keep = keep
        self.limit = limit
        self._shared: Tensor | None = None
        self._own: dict[nn.Parameter, Tensor] = {}

    def parts(self, parameter: nn.Parameter) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of the parameter's first axis, each with a tensor (groups, *shape of the slice) to write to.

        The tensor's content is undefined.
        """
        length = parameter.shape[0]
        if self.keep:
            if parameter not in self._own:
                self._own[parameter] = self._empty(self.groups * parameter.numel(), parameter)
            yield slice(0, length), self._own[parameter].view(self.groups, *parameter.shape)
            return
        row = self.groups * parameter.numel() // length
        step = min(length, max(1, self.limit // row))
        if self._shared is None or self._shared.numel() < step * row or self._shared.dtype != _dtype(parameter):
            self._shared = self._empty(step * row, parameter)
        for start in range(0, length, step):
            part = slice(start, min(start + step, length))
            shape = (self.groups, part.stop - part.start, *parameter.shape[1:])
            yield part, self._shared[: (part.stop - part.start) * row].view(shape)

    @property
    def entries(self) -> int:
        """Number of entries that are allocated at present."""
        blocks = [*self._own.values(), *([] if self._shared is None else [self._shared])]
        return sum(block.numel() for block in blocks)

    def _empty(self, entries: int, parameter: nn.Parameter) -> Tensor:
        return torch.empty(entries, dtype=_dtype(parameter), device=parameter.device)


def _dtype(parameter: nn.Parameter) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def block_limit(model: nn.Module, groups: int) -> int:
    """Return the size of the shared block: `groups` gradients of the largest parameter, at most 2^28 entries (1 GB)."""
    return min(groups * max(p.numel() for p in model.parameters() if p.requires_grad), 2**28)


def domain_gram(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    groups: int,
    scope: str = "all",
    *,
    lengths: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, "G G"]:
    """Return the gram (G, G) of the groups' gradients, float64, from one backward pass; leave no gradient on the model.

    Entry (i, j) is <g_i, g_j>, with g_i the gradient of group i's mean token loss. DoGE's alignment (arXiv 2310.15393,
    eq. 4) is a weighted sum over a row of it.

    rows:     token ids (R, T); the first R/G rows are group 0, the next R/G rows group 1, and so on.
    groups:   number G of groups.
    scope:    parameters whose gradients are multiplied (doge/scopes.py).
    lengths:  number of real tokens of every row, if rows are padded on the right. A group's loss is then the mean of
              its rows' mean losses.

    Memory: `groups` gradients of the largest layer, 1 GB at most. Raises NoRuleError for a trainable parameter in scope
    that no layer rule covers, and ValueError for an unknown scope.
    """
    parameters = scope_parameters(model, scope)
    workspace = Workspace(groups=groups, keep=False, limit=block_limit(model, groups))
    gram = GramSum(groups, halves=1, device=rows.device)

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        for part, block in workspace.parts(parameter):
            total = Sum(block, fresh=True)
            for use in uses:
                use.add(total, part)
            gram.add(block.unsqueeze(0))

    grouped_backward(model, rows, groups=groups, on_parameter=on_parameter, parameters=parameters, lengths=lengths)
    return gram.result().products
