"""DoGE with one backward pass (arXiv 2310.15393, algorithm 1): the step, top to bottom.

    g_j   gradient of domain j's mean token loss, from one backward pass over all domains' rows     (grouped.py,
    rules.py)
    W_j   = < g_j , sum_i importance_i g_i >, from the gram of all g                                (eq. 4; gram.py)
    a     = rule(W)                                                                                 (eq. 6; updates.py)
    theta <- theta - lr * sum_j a_j g_j, through the optimizer that reads the combined gradient     (eq. 5)

The update of a does not see how rows were split: gradients of a group are summed over micro-batches and processes
before any product is taken (a sum of grams would be another quantity).
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge.gram import Gram, GramSum, Workspace, block_limit
from doge.grouped import Autocast, Use, grouped_backward
from doge.presence import Presence, SampleWeights, UnitRange
from doge.rules import Sum


@dataclass(frozen=True)
class MicroBatch:
    """Part of a step's rows: `rows` (H*n, T) group-major, its H groups are the half-groups first, ..., first + H - 1.

    Half-group h*G + g holds half h of the rows of group g; without halves there are just the G groups. `share` is n
    over the number of rows that the group has in the whole step; `start` is the number of the first of them in its
    group.
    """

    rows: Int[Tensor, "R T"]
    first: int
    count: int
    share: float
    start: int = 0

    @property
    def group_rows(self) -> int:
        """Rows of every group in the whole step."""
        return round(len(self.rows) / self.count / self.share)

    def place(self, *, groups: int, unit_rows: int) -> UnitRange:
        """Where its units, of `unit_rows` adjacent rows, lie among those of the G groups. Raises ValueError where it
        cuts units.
        """
        halves = self.count // groups
        rows = len(self.rows) // self.count
        if self.start % unit_rows or rows % unit_rows:
            raise ValueError(
                f"{rows} rows of a half-group, from row {self.start} on, are not whole units of {unit_rows} rows"
            )
        return UnitRange(slice(self.start // unit_rows, (self.start + halves * rows) // unit_rows), halves)


@dataclass(frozen=True)
class Step:
    """Outcome of the backward passes: losses (G,) nats per token and gram, over the global batch.

    `sample_weights`: of the units of the domains' rows, in their order, where the samples were weighted; None where
    not.
    """

    losses: Float[Tensor, " G"]
    gram: Gram
    sample_weights: Float[Tensor, "D U"] | None = None


class GroupGradients:
    """The backward passes of one step: gram of all groups, combined gradient of the training domains in
    `parameter.grad`.

    Order *lagged*: the coefficients are known beforehand; each layer's gradients are combined and their memory used
    again.
    Memory beyond a plain step: G gradients of the largest layer, 1 GB at most. Order *exact*: the coefficients come
    from this step's gram, so all `halves * G * P` entries are kept; so they are with several micro-batches, whose sums
    must be complete before the products. With W processes each sends `halves * G * P` entries a step.
    """

    def __init__(self, model: nn.Module, *, groups: int, halves: int, autocast: Autocast = nullcontext) -> None:
        self.model = model
        self.autocast = autocast
        self.groups = groups
        self.halves = halves
        self.workspaces: dict[bool, Workspace] = {}

    def step(
        self,
        micro_batches: Iterable[MicroBatch],
        *,
        decide: Callable[[Float[Tensor, " G"], Gram], Float[Tensor, " D"]],
        lagged: Float[Tensor, " D"] | None = None,
        metric: Callable[[nn.Parameter, slice], Tensor | None] = lambda parameter, part: None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        presence: Presence | None = None,
    ) -> Step:
        """Run the passes; call `decide(losses, gram)`; leave sum_j coefficient_j g_j in `.grad`.

        `lagged`: coefficients known beforehand (order lagged); None: those that `decide` returns (order exact).
        `metric` weighs the products of a slice of a parameter's first axis (see `GramSum.add`); None: plain products.
        `reduce` sums a tensor over processes, in place or not; None for one process.
        `presence` weighs the samples inside domains (presence.py): gram, halves and combined gradient are then those of
        the weighted gradients, the losses are not weighted. The weights see all rows of a domain, so its halves are not
        independent through them.
        """
        micro_batches = list(micro_batches)
        slots = self.halves * self.groups
        keep = lagged is None or len(micro_batches) > 1
        if keep not in self.workspaces:
            self.workspaces[keep] = Workspace(groups=slots, keep=keep, limit=block_limit(self.model, self.groups))
        workspace = self.workspaces[keep]
        gram = GramSum(self.groups, halves=self.halves, device=next(self.model.parameters()).device)
        losses = torch.zeros(slots, dtype=torch.float64, device=gram.products.device)
        kept: dict[nn.Parameter, Tensor] = {}  # all half-groups' gradients, summed over the micro-batches so far
        totals: dict[nn.Parameter, Tensor] = {}  # order exact: all groups' gradients, until the coefficients are known

        def finish(parameter: nn.Parameter, part: slice, block: Tensor) -> None:
            block = block if reduce is None else reduce(block)
            total = gram.add(block.unflatten(0, (self.halves, self.groups)), metric=metric(parameter, part))
            if lagged is None:
                totals[parameter] = total
            else:
                combine(parameter, part, total, lagged)

        samples = None if presence is None else self._sample_weights(presence, micro_batches, reduce)

        for batch in micro_batches:
            here = slice(batch.first, batch.first + batch.count)

            def on_parameter(
                parameter: nn.Parameter, uses: list[Use], here: slice = here, whole: bool = batch.count == slots
            ) -> None:
                for part, block in workspace.parts(parameter):
                    fresh = parameter not in kept
                    if fresh and not whole:
                        block.zero_()
                    total = Sum(block[here], fresh=fresh and whole)
                    for use in uses:
                        use.add(total, part)
                    if keep:
                        kept[parameter] = block
                    else:
                        finish(parameter, part, block)

            if samples is None:
                backward = partial(grouped_backward, self.model)
            else:
                backward = partial(
                    samples.backward, place=batch.place(groups=self.groups, unit_rows=samples.presence.unit_rows)
                )
            losses[here] += batch.share * backward(
                batch.rows,
                groups=batch.count,
                on_parameter=on_parameter,
                scale=batch.share,
                autocast=self.autocast,
            )
        for parameter, block in kept.items():
            finish(parameter, slice(0, parameter.shape[0]), block)
        losses = losses if reduce is None else reduce(losses)
        means = losses.view(self.halves, self.groups).sum(0).cpu()
        outcome = Step(means, gram.result(), None if samples is None else samples.of_domains)
        coefficients = decide(outcome.losses, outcome.gram)
        for parameter, total in totals.items():
            combine(parameter, slice(0, parameter.shape[0]), total, coefficients)
        return outcome

    def _sample_weights(
        self, presence: Presence, micro_batches: list[MicroBatch], reduce: Callable[[Tensor], Tensor] | None
    ) -> SampleWeights:
        """Known already where there are several micro-batches: all of the step's norms are needed first."""
        rows = micro_batches[0].group_rows
        samples = SampleWeights(presence, self.model, groups=self.groups, rows=rows, reduce=reduce)
        if len(micro_batches) > 1:
            places = [batch.place(groups=self.groups, unit_rows=presence.unit_rows) for batch in micro_batches]
            samples.measure(zip([batch.rows for batch in micro_batches], places, strict=True), autocast=self.autocast)
        return samples


def combine(
    parameter: nn.Parameter, part: slice, total: Float[Tensor, "G p"], coefficients: Float[Tensor, " D"]
) -> None:
    """parameter.grad[part] = sum_j coefficient_j g_j over the first D groups; the others only serve the objective (eq.
    5).
    """
    coefficients = coefficients.to(device=total.device, dtype=total.dtype)
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    gradient = parameter.grad[part]
    gradient.copy_((coefficients @ total[: len(coefficients)]).view(gradient.shape))
