"""Inner products of row gradients: with other rows' (influence between samples), with a given gradient (influence on a
target), and word by word in the embedding (why).

A step down row j's gradient lowers row i's loss by lr * <g_i, g_j> to first order, so a *larger* product means a
proponent, a negative one an opponent (TracIn, arXiv 2002.08484, eq. 1; the notebook published with TracIn-WE swaps the
two). A copy of a row has the row's own squared norm as product with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

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
    """<g_i, g_j> of every row i and every other row j: float64 (R, S), gradients of mean token losses over the
    parameters of `scope`.

    `lengths`: real tokens of the rows, then of the others, where they are padded on the right. One backward pass;
    memory (R + S) gradients of the largest layer, 1 GB at most. Raises as `domain_gram`.
    """
    both = torch.cat([rows, others])
    return domain_gram(model, both, groups=len(both), scope=scope, lengths=lengths)[: len(rows), len(rows) :]


def mean_gradient(model: nn.Module, rows: Int[Tensor, "R T"], scope: str = "all") -> dict[str, Tensor]:
    """{parameter: gradient of the rows' mean token loss}, for `products_with`; nothing is left on the model."""
    parameters = scope_parameters(model, scope)
    found: dict[nn.Parameter, Tensor] = {}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        total = Sum(torch.empty_like(parameter).unsqueeze(0), fresh=True)
        for use in uses:
            use.add(total, slice(0, len(parameter)))
        found[parameter] = total.value[0]

    grouped_backward(model, rows, groups=1, on_parameter=on_parameter, parameters=parameters)
    return {name: found[p] for name, p in model.named_parameters() if p in found}


def products_with(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    gradient: Mapping[str, Tensor],
    *,
    lengths: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, " R"]:
    """<g_i, v> of every row i and one `gradient` v, {parameter name: tensor of its shape}: float64 (R,).

    Parameters that v does not name do not count. From one backward pass and one product a layer, without a row's
    gradient.
    Raises ValueError for names and shapes that are not the model's.
    """
    known = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if wrong := [
        f"{name} {tuple(v.shape)}" for name, v in gradient.items() if name not in known or v.shape != known[name].shape
    ]:
        allowed = ", ".join(f"{name} {tuple(p.shape)}" for name, p in known.items())
        raise ValueError(f"the gradient has {', '.join(wrong)}, which this model has not; allowed: {allowed}")
    given = {known[name]: value for name, value in gradient.items()}
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        for use in uses:
            total.add_(_product(use, parameter, given[parameter], rows=len(rows)))

    grouped_backward(model, rows, groups=len(rows), on_parameter=on_parameter, parameters=list(given), lengths=lengths)
    return total.cpu()


def _product(use: Use, parameter: nn.Parameter, v: Tensor, *, rows: int) -> Float[Tensor, " R"]:
    """<gradient of one use, v> of every row: sum_t b_t^T V a_t in a linear layer, sum_t b_t .

    V[x_t] in an embedding.
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
    """Products of embedding gradients by word: `words` (W,) token ids that occur on both sides, ascending; `products`
    float64 (R, S, W).

    The sum over W is the whole product, as only words that both rows hold contribute.
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
    """What every shared word contributes to the product of two rows' gradients of the input embedding (TracIn-WE, arXiv
    2202.11844, eq. 4).

    Of a tied embedding only the use as input counts: from the output every word of the vocabulary gets a gradient.
    `positions`: of every row only this many positions count, those with the largest gradient (TracIn-WE-Topk, 10 in the
    paper); None: all. `lengths` as in `row_products`. Memory W (R + S) d numbers.
    """
    layer = model.get_input_embeddings()  # type: ignore[operator]
    both = torch.cat([rows, others])
    found: list[Use] = []
    grouped_backward(
        model,
        both,
        groups=len(both),
        on_parameter=lambda parameter, uses: found.extend(use for use in uses if use.module is layer),
        parameters=scope_parameters(model, "embedding"),
        lengths=lengths,
    )
    index, b = looked_up(found, len(both))
    if positions is not None and positions < both.shape[1]:
        weak = b.norm(dim=2).argsort(dim=1, descending=True)[:, positions:]
        b = b.scatter(1, weak.unsqueeze(-1).expand(-1, -1, b.shape[2]), 0.0)
    mine, theirs = torch.unique(index[: len(rows)]), torch.unique(index[len(rows) :])
    shared = mine[torch.isin(mine, theirs)]
    sums = b.new_zeros(len(shared), len(both), b.shape[2], dtype=torch.float64)
    for word, total in zip(shared, sums, strict=True):
        total += (b * (index == word).unsqueeze(-1)).sum(1)
    return WordProducts(shared.cpu(), torch.bmm(sums[:, : len(rows)], sums[:, len(rows) :].mT).permute(1, 2, 0).cpu())


def unpack(
    rows: Int[Tensor, "R T"], begins: Bool[Tensor, "R T"]
) -> tuple[Int[Tensor, "S L"], Int[Tensor, " S"], Int[Tensor, " S"]]:
    """Documents packed into rows, each in a row of its own, to be scored apart: rows (S, L) padded on the right with 0,
    their lengths (S,) and the row that each came from (S,).

    `begins` is True where a document begins (a row's first token always does). Scores of these rows (`lengths`) are
    those of the
    documents by themselves: in the packed row a later document's loss also reaches an earlier one's tokens through
    attention.
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
