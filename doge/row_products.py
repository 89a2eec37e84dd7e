"""Inner products of row gradients, which tell how much training on one row helps another.

Three kinds: between rows (influence between samples), with a given gradient (influence on a target), and token by token
in the embedding (which shared tokens an influence comes from).

To first order, a gradient step on row j lowers the loss of row i by lr * <g_i, g_j>. So a large positive product means
that row j helps row i (a proponent), a negative one that it harms row i (an opponent): TracIn, arXiv 2002.08484, eq. 1.
The notebook published with TracIn-WE swaps the two. The product of a row with a copy of itself is the squared norm of
its gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doge import sums
from doge.gram import domain_gram
from doge.grouped import Use, grouped_backward
from doge.row_norms import dots, looked_up
from doge.rules import Sum, conv1d, embedding, linear
from doge.scopes import scope_parameters


def row_products(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    others: Int[Tensor, "S T"],
    scope: str = "all",
    *,
    lengths: Int[Tensor, " N"] | None = None,
) -> Float[Tensor, "R S"]:
    """Return <g_i, g_j> for every row i of `rows` and every row j of `others`: float64 (R, S), in one backward pass.

    g is the gradient of a row's mean token loss over the parameters of `scope`. `lengths`: number of real tokens of
    the rows, then of the others, if they are padded on the right. Memory: R + S gradients of the largest layer, 1 GB at
    most. Raises the errors of `domain_gram`.
    """
    both = torch.cat([rows, others])
    return domain_gram(model, both, groups=len(both), scope=scope, lengths=lengths)[: len(rows), len(rows) :]


def mean_gradient(model: nn.Module, rows: Int[Tensor, "R T"], scope: str = "all") -> dict[str, Tensor]:
    """Return the gradient of the rows' mean token loss by parameter name, as `products_with` takes it.

    Only the parameters of `scope` are in it. No gradient is left on the model.
    """
    parameters = scope_parameters(model, scope)
    gradients: dict[nn.Parameter, Tensor] = {}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        total = Sum(torch.empty_like(parameter).unsqueeze(0), fresh=True)
        for use in uses:
            use.add(total, slice(0, len(parameter)))
        gradients[parameter] = total.value[0]

    grouped_backward(model, rows, groups=1, on_parameter=on_parameter, parameters=parameters)
    return {name: gradients[p] for name, p in model.named_parameters() if p in gradients}


def products_with(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    gradient: Mapping[str, Tensor],
    *,
    lengths: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, " R"]:
    """Return <g_i, v> for every row i and one `gradient` v: float64 (R,), in one backward pass.

    g_i is the gradient of row i's mean token loss. v holds tensors by parameter name, each of the parameter's shape;
    parameters that v does not name do not count. The cost is one product per layer; no row's gradient is formed.
    `lengths`: number of real tokens of every row, if rows are padded on the right. Raises ValueError for names and
    shapes that no trainable parameter of the model has.
    """
    known = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if wrong := [
        f"{name} {tuple(v.shape)}" for name, v in gradient.items() if name not in known or v.shape != known[name].shape
    ]:
        allowed = ", ".join(f"{name} {tuple(p.shape)}" for name, p in known.items())
        raise ValueError(
            f"the gradient names {', '.join(wrong)}, but the model has no such trainable parameter; allowed: {allowed}"
        )
    directions = {known[name]: value for name, value in gradient.items()}
    total = sums.zeros(len(rows), device=rows.device)

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        for use in uses:
            total.add_(_product(use, parameter, directions[parameter], rows=len(rows)))

    grouped_backward(
        model, rows, groups=len(rows), on_parameter=on_parameter, parameters=list(directions), lengths=lengths
    )
    return total.cpu()


def _product(use: Use, parameter: nn.Parameter, v: Tensor, *, rows: int) -> Float[Tensor, " R"]:
    """Return <gradient of one use, v> for every row (R,).

    In a linear layer this is sum_t b_t^T V a_t, with a its input and b its output gradient; in an embedding it is the
    sum over t of the inner product of b_t with row x_t of V. The gradient of any other layer is formed.
    """
    b = use.b.reshape(rows, -1, use.b.shape[-1])
    if use.rule is embedding:
        index, b = looked_up([use], rows)
        return dots(b, v[index])
    if use.name == "weight" and use.rule in (linear, conv1d):
        a = use.x.reshape(rows, -1, use.x.shape[-1]).to(v.dtype)
        return dots(b.to(v.dtype), a @ (v.T if use.rule is linear else v))
    total = Sum(torch.empty((rows, *parameter.shape), dtype=v.dtype, device=v.device), fresh=True)
    use.add(total, slice(0, len(parameter)))
    return dots(total.value, v.expand_as(total.value))


@dataclass(frozen=True)
class WordProducts:
    """Inner products of embedding gradients, split by token.

    words:     ids (W,) of the tokens that occur on both sides, ascending.
    products:  what each of these tokens contributes to the product of two rows, float64 (R, S, W). The sum over W is
               the whole product, because only tokens that both rows hold contribute.
    """

    words: Int[Tensor, " W"]
    products: Float[Tensor, "R S W"]


def word_products(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    others: Int[Tensor, "S T"],
    *,
    positions: int | None = None,
    lengths: Int[Tensor, " N"] | None = None,
) -> WordProducts:
    """Compute how much each shared token contributes to the product of two rows' gradients of the input embedding.

    This is TracIn-WE (arXiv 2202.11844, eq. 4) for every row of `rows` with every row of `others`. Only the use as the
    model's input counts, also if the embedding is tied, because the use as its output gives every token of the
    vocabulary a gradient.

    positions:  number of positions per row that count, those with the largest gradients (TracIn-WE-Topk; the paper
                takes 10); None: all.
    lengths:    as in `row_products`.

    Memory: W (R + S) d numbers for W shared tokens and d dimensions of the embedding.
    """
    layer = model.get_input_embeddings()  # type: ignore[operator]
    both = torch.cat([rows, others])
    input_uses: list[Use] = []
    grouped_backward(
        model,
        both,
        groups=len(both),
        on_parameter=lambda parameter, uses: input_uses.extend(use for use in uses if use.module is layer),
        parameters=scope_parameters(model, "embedding"),
        lengths=lengths,
    )
    index, b = looked_up(input_uses, len(both))
    if positions is not None and positions < both.shape[1]:
        weak = b.norm(dim=2).argsort(dim=1, descending=True)[:, positions:]
        b = b.scatter(1, weak.unsqueeze(-1).expand(-1, -1, b.shape[2]), 0.0)
    mine, theirs = torch.unique(index[: len(rows)]), torch.unique(index[len(rows) :])
    shared = mine[torch.isin(mine, theirs)]
    gradients = sums.zeros(len(shared), len(both), b.shape[2], device=b.device)
    for word, gradient in zip(shared, gradients, strict=True):
        gradient += sums.widened((b * (index == word).unsqueeze(-1)).sum(1))
    products = torch.bmm(gradients[:, : len(rows)], gradients[:, len(rows) :].mT)
    return WordProducts(shared.cpu(), products.permute(1, 2, 0).cpu())


def unpack(
    rows: Int[Tensor, "R T"], begins: Bool[Tensor, "R T"]
) -> tuple[Int[Tensor, "S L"], Int[Tensor, " S"], Int[Tensor, " S"]]:
    """Give every document that is packed into `rows` a row of its own, so that documents can be scored separately.

    Returns rows (S, L) padded on the right with 0, the number of tokens of each (S,), and the number of the row that
    each came from (S,). `begins` is True where a document begins; the first token of a row always begins one.

    Scored with these `lengths`, every document has the score that it has by itself. In a packed row this is not so:
    through attention, the loss of a later document also depends on the tokens of the documents before it.
    """
    begins = begins.clone()
    begins[:, 0] = True
    source, start = begins.nonzero(as_tuple=True)
    after = torch.cat([start[1:], start.new_zeros(1)])
    lengths = torch.where(after > start, after, rows.shape[1]) - start
    places = torch.arange(int(lengths.max()), device=rows.device)
    inside = places < lengths[:, None]
    taken = rows[source[:, None], (start[:, None] + places).clamp(max=rows.shape[1] - 1)]
    return taken * inside, lengths, source
