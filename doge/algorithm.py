"""DoGE with one backward pass (arXiv 2310.15393, algorithm 1): the step, top to bottom.

    g_j   gradient of domain j's mean token loss, from one backward pass over all domains' rows     (grouped.py, rules.py)
    W_j   = < g_j , sum_i importance_i g_i >, from the gram of all g                                (eq. 4; gram.py)
    a     = rule(W)                                                                                 (eq. 6; updates.py)
    theta <- theta - lr * sum_j a_j g_j, through the optimizer that reads the combined gradient     (eq. 5)

The update of a does not see how rows were split: gradients of a group are summed over micro-batches and processes before any
product is taken (a sum of grams would be another quantity).
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge.gram import Gram, GramSum, Workspace
from doge.grouped import Autocast, grouped_backward
from doge.rules import Sum


@dataclass(frozen=True)
class MicroBatch:
    """Part of a step's rows: `rows` (H*n, T) group-major, its H groups are the half-groups first, ..., first + H - 1.

    Half-group h*G + g holds half h of the rows of group g; without halves there are just the G groups. `share` is n over
    the number of rows that the group has in the whole step.
    """

    rows: Int[Tensor, "R T"]
    first: int
    count: int
    share: float


@dataclass(frozen=True)
class Step:
    """Outcome of the backward passes: losses (G,) nats per token and gram, over the global batch."""

    losses: Float[Tensor, " G"]
    gram: Gram


class GroupGradients:
    """The backward passes of one step: gram of all groups, combined gradient of the training domains in `parameter.grad`.

    Order *lagged*: the coefficients are known beforehand, each layer's gradients are combined and their memory used again;
    beyond a plain step that is `halves * G` gradients of the largest layer (and of tied embeddings). Order *exact*: the
    coefficients come from this step's gram, so all `halves * G * P` entries are kept; so they are with several micro-batches,
    whose sums must be complete before the products. With W processes each sends `halves * G * P` entries a step.
    """

    def __init__(self, model: nn.Module, *, groups: int, halves: int, autocast: Autocast = nullcontext) -> None:
        self.model = model
        self.autocast = autocast
        self.groups = groups
        self.halves = halves
        self._workspaces: dict[bool, Workspace] = {}

    def step(
        self,
        micro_batches: Iterable[MicroBatch],
        *,
        decide: Callable[[Float[Tensor, " G"], Gram], Float[Tensor, " D"]],
        lagged: Float[Tensor, " D"] | None = None,
        metric: Callable[[nn.Parameter], Tensor | None] = lambda parameter: None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Step:
        """Run the passes; call `decide(losses, gram)`; leave sum_j coefficient_j g_j in `.grad`.

        `lagged`: coefficients known beforehand (order lagged); None: those that `decide` returns (order exact).
        `reduce` sums a tensor over processes, in place or not; None for one process.
        """
        micro_batches = list(micro_batches)
        slots = self.halves * self.groups
        keep = lagged is None or len(micro_batches) > 1
        workspace = self._workspaces.setdefault(keep, Workspace(groups=slots, keep=keep))
        gram = GramSum(self.groups, halves=self.halves, device=next(self.model.parameters()).device)
        losses = torch.zeros(slots, dtype=torch.float64, device=gram.products.device)
        blocks: dict[nn.Parameter, Tensor] = {}  # all half-groups' gradients, of the parameters this step has come to
        totals: dict[nn.Parameter, Tensor] = {}  # order exact: all groups' gradients, until the coefficients are known

        def finish(parameter: nn.Parameter) -> None:
            block = blocks[parameter] if reduce is None else reduce(blocks[parameter])
            total = gram.add(block.unflatten(0, (self.halves, self.groups)), metric=metric(parameter))
            if lagged is None:
                totals[parameter] = total
            else:
                combine(parameter, total, lagged)

        for batch in micro_batches:
            here = slice(batch.first, batch.first + batch.count)

            def sum_of(parameter: nn.Parameter, lasting: bool, here: slice = here, whole: bool = batch.count == slots) -> Sum:
                if fresh := parameter not in blocks:
                    blocks[parameter] = workspace.block(parameter, lasting=lasting)
                    if not whole:
                        blocks[parameter].zero_()
                return Sum(blocks[parameter][here], fresh=fresh and whole)

            def on_gradient(parameter: nn.Parameter, gradient: Sum) -> None:
                if not keep:
                    finish(parameter)

            losses[here] += batch.share * grouped_backward(
                self.model,
                batch.rows,
                groups=batch.count,
                sum_of=sum_of,
                on_gradient=on_gradient,
                scale=batch.share,
                autocast=self.autocast,
            )
        if keep:
            for parameter in blocks:
                finish(parameter)
        losses = losses if reduce is None else reduce(losses)
        outcome = Step(losses.view(self.halves, self.groups).sum(0).cpu(), gram.result())
        coefficients = decide(outcome.losses, outcome.gram)
        for parameter, total in totals.items():
            combine(parameter, total, coefficients)
        return outcome


def combine(parameter: nn.Parameter, total: Float[Tensor, "G p"], coefficients: Float[Tensor, " D"]) -> None:
    """parameter.grad = sum_j coefficient_j g_j over the first D groups; the others only serve the objective (eq. 5)."""
    coefficients = coefficients.to(device=total.device, dtype=total.dtype)
    gradient = coefficients @ total[: len(coefficients)]
    parameter.grad = gradient.view(parameter.shape).to(parameter.dtype)
