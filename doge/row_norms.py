"""Self-influence: the squared gradient norm of every row, from one backward pass that forms no row's gradient.

This is TracIn's self-influence (arXiv 2002.08484) at one checkpoint, computed as a "ghost" norm (Goodfellow, arXiv
1510.01799). A row's gradient of a layer follows from the row's input a (T, d) and output gradient b (T, p) of the
layer:

    linear       |sum_t b_t a_t^T|^2 = sum_{t,s} (a_t . a_s)(b_t . b_s), which takes T^2 (d + p) multiplications. If
                 b^T a itself takes fewer, T d p, it is formed instead, for a few rows at a time.
    embedding    sum over the distinct tokens of the row of |sum_{t: x_t = token} b_t|^2
    tied         the sum of both uses' norms and of twice their product sum_{t,s} b_s[x_t] (b'_t . a_s), with b' the
                 gradient of the embedding's output, and a and b the head's input and output gradient
    other        gradients of norm gains and biases are small; they are formed by their layer rule

The ordinary weight gradients are never computed (doge/grouped.py), so the pass costs about as much as a plain backward
pass, or less.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge import sums
from doge.grouped import Autocast, Use, find_rules, mean_losses, ruled, token_losses
from doge.rules import Sum, conv1d, embedding, linear
from doge.scopes import WORDS, scope_parameters
from doge.sums import CHUNK

BLOCK = 2**18  # entries that are formed at a time; so many fit into the cache of a CPU core


@dataclass(frozen=True)
class RowScores:
    """Losses and squared gradient norms of R rows, from one pass.

    token_losses:   loss (R, T-1) of every token but the first of each row, nats, zero at padding.
    squared_norms:  for every scope, the squared norm (R,) of the gradient of each row's mean token loss, float64 on the
                    CPU.
    """

    token_losses: Float[Tensor, "R t"]
    squared_norms: dict[str, Float[Tensor, " R"]]


def self_influence(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    scope: str = "all",
    *,
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> Float[Tensor, " R"]:
    """Return the squared norm (R,) of the gradient of every row's mean token loss over the parameters of `scope`.

    float64, on the CPU. See `row_scores`, which takes several scopes, for the arguments.
    """
    return row_scores(model, rows, scopes=[scope], lengths=lengths, autocast=autocast).squared_norms[scope]


def row_scores(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    *,
    scopes: Iterable[str] = ("all",),
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> RowScores:
    """Compute the token losses and, for every scope, the squared gradient norms of the rows, in one backward pass.

    rows:     token ids (R, T).
    scopes:   sets of parameters (doge/scopes.py). The scope `word_embedding` counts only the gradient that the input
              embedding gets as the model's input, also if it is tied to the output (TracIn-WE, arXiv 2202.11844, eq. 4
              for a sample with itself). Without any scope only losses are computed, without a backward pass.
    lengths:  number of real tokens of every row. The padding that follows on the right has no effect; a row of one
              token has no loss and the norm 0.

    Dropout acts if the model is in training mode. No gradient is left on the model. Memory beyond a forward and a
    backward pass: 1 MB, and the output gradient of a tied head until the pass ends. Raises ValueError for an unknown
    scope, and NoRuleError for a layer in a scope that no rule covers.
    """
    if rows.ndim != 2:
        raise ValueError(f"rows have the shape {tuple(rows.shape)}; expected (R, T)")
    scopes = list(dict.fromkeys(scopes))
    members = {scope: set(scope_parameters(model, "embedding" if scope == WORDS else scope)) for scope in scopes}
    norms = {scope: sums.zeros(len(rows), device=rows.device) for scope in scopes}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        holding = [scope for scope in scopes if scope != WORDS and parameter in members[scope]]
        if holding:
            squares = squared_norms(parameter, uses, units=len(rows))
            for scope in holding:
                norms[scope] += squares
        if parameter in members.get(WORDS, ()):
            inputs = [use for use in uses if use.rule is embedding]
            norms[WORDS] += (
                squares if holding and len(inputs) == len(uses) else squared_norms(parameter, inputs, units=len(rows))
            )

    if not scopes:
        with torch.no_grad():
            return RowScores(token_losses(model, rows, lengths=lengths, autocast=autocast), {})
    with ruled(model, rows, find_rules(model, set().union(*members.values())), on_parameter):
        losses = token_losses(model, rows, lengths=lengths, autocast=autocast)
        mean_losses(losses, lengths).sum().backward()
    return RowScores(losses.detach(), {scope: values.cpu() for scope, values in norms.items()})


def squared_norms(parameter: nn.Parameter, uses: Sequence[Use], *, units: int) -> Float[Tensor, " U"]:
    """Return the squared norm (U,) of a parameter's gradient for every unit of R/U adjacent rows, float64.

    The gradient is the sum over the parameter's uses (two for a tied embedding).
    """
    lookups = [use for use in uses if use.rule is embedding]
    products = [use for use in uses if use.rule in (linear, conv1d) and use.name == "weight"]
    if len(lookups) + len(products) < len(uses):
        return _formed(parameter, uses, units=units)
    total = sums.zeros(units, device=parameter.device)
    if products:
        a, b = (_joined(tensors, units) for tensors in ([use.x for use in products], [use.b for use in products]))
        pairs_are_fewer = a.shape[1] * (a.shape[2] + b.shape[2]) <= parameter.numel()
        total += _token_pairs(a, b) if pairs_are_fewer else _formed(parameter, products, units=units)
    if lookups:
        index, c = looked_up(lookups, units)
        total += _by_word(index, c, words=len(parameter))
    if products and lookups:
        total += 2 * _tied(index, c, a, b)
    return total


def _token_pairs(a: Float[Tensor, "U t d"], b: Float[Tensor, "U t p"]) -> Float[Tensor, " U"]:
    """Return the squared norms (U,) of a linear layer's gradient as sum_{t,s} (a_t . a_s)(b_t . b_s)."""
    a, b = _full(a), _full(b)
    size = max(1, BLOCK // a.shape[1] ** 2)
    parts = [dots(torch.bmm(x, x.mT), torch.bmm(y, y.mT)) for x, y in zip(a.split(size), b.split(size), strict=True)]
    return torch.cat(parts)


def _formed(parameter: nn.Parameter, uses: Sequence[Use], *, units: int) -> Float[Tensor, " U"]:
    """Return the squared norms (U,) by forming the gradients, for a block of units and of the first axis at a time."""
    length, dtype = len(parameter), torch.promote_types(parameter.dtype, torch.float32)
    size, step = max(1, BLOCK // parameter.numel()), max(1, BLOCK * length // parameter.numel())
    unit_uses = [
        replace(
            use,
            x=_by_unit(use.x, units) if use.rule is not embedding else use.x.reshape(units, -1),
            b=_by_unit(use.b, units),
        )
        for use in uses
    ]
    total = sums.zeros(units, device=parameter.device)
    for start in range(0, units, size):
        here = slice(start, min(start + size, units))
        block_uses = [replace(use, x=use.x[here], b=use.b[here]) for use in unit_uses]
        for first in range(0, length, step):
            part = slice(first, min(first + step, length))
            shape = (here.stop - start, part.stop - first, *parameter.shape[1:])
            block = Sum(torch.empty(shape, dtype=dtype, device=parameter.device), fresh=True)
            for use in block_uses:
                use.add(block, part)
            total[here] += dots(block.value, block.value)
    return total


def looked_up(uses: Sequence[Use], units: int) -> tuple[Int[Tensor, "U t"], Float[Tensor, "U t d"]]:
    """Return the tokens (U, t) that embeddings looked up, and the gradients (U, t, d) of the vectors they returned.

    The gradient of the embedding's padding token is zero, as in torch.
    """
    index = torch.cat([use.x.reshape(units, -1) for use in uses], 1)
    b = _full(_joined([use.b for use in uses], units))
    padding = getattr(uses[0].module, "padding_idx", None)
    return index, b if padding is None else b * (index != padding).unsqueeze(-1)


def _by_word(index: Int[Tensor, "U t"], b: Float[Tensor, "U t d"], *, words: int) -> Float[Tensor, " U"]:
    """Return for every unit the sum over its distinct tokens of |sum_{t: index_t = token} b_t|^2."""
    key = index + words * torch.arange(len(index), device=index.device)[:, None]
    distinct, place = torch.unique(key, return_inverse=True)
    gradients = b.new_zeros(len(distinct), b.shape[-1]).index_add_(0, place.flatten(), b.flatten(0, 1))
    squares = sums.total(gradients.square())
    return squares.new_zeros(len(index)).index_add_(0, (distinct // words).to(squares.device), squares)


def _tied(
    index: Int[Tensor, "U t"], c: Float[Tensor, "U t d"], a: Float[Tensor, "U s d"], b: Float[Tensor, "U s p"]
) -> Float[Tensor, " U"]:
    """Return the inner product (U,) of both uses' gradients of a tied embedding: sum_{t,s} b_s[index_t] (c_t . a_s).

    `index` and `c`: tokens looked up and the gradients of their vectors; `a` and `b`: input and output gradient of the
    head.
    """
    size = max(1, BLOCK // (index.shape[1] * a.shape[1]))
    parts = []
    for i, x, y, z in zip(index.split(size), c.split(size), a.split(size), b.split(size), strict=True):
        picked = z.gather(2, i[:, None, :].expand(-1, z.shape[1], -1))
        parts.append(dots(torch.bmm(_full(y), x.mT), _full(picked)))
    return torch.cat(parts)


def dots(x: Float[Tensor, "U ..."], y: Float[Tensor, "U ..."]) -> Float[Tensor, " U"]:
    """Return the inner product (U,) of x and y for every unit, float64.

    On a CPU, sums over CHUNK entries are in the precision of x and y, and these sums are added in float64.
    """
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if x.device.type == "cpu":
        return torch.stack(
            [
                sums.total(torch.stack([torch.dot(p, q) for p, q in zip(u.split(CHUNK), v.split(CHUNK), strict=True)]))
                for u, v in zip(x, y, strict=True)
            ]
        )
    return sums.total(x * y)


def _full(x: Tensor) -> Tensor:
    """Return x in float32 or better, so that inputs and output gradients under autocast are multiplied precisely."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_unit(x: Tensor, units: int) -> Tensor:
    """Return x (R, ..., d) or (R*T, d), reshaped to (U, t, d)."""
    return x.reshape(units, -1, x.shape[-1])


def _joined(tensors: Sequence[Tensor], units: int) -> Tensor:
    """Return the inputs (or the output gradients) of several uses joined along t, (U, t, d), as if they were one use.

    The sum of the uses' gradients is then the gradient of this one use.
    """
    parts = [_by_unit(tensor, units) for tensor in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
