"""A whole step of DoGE (arXiv 2310.15393, algorithm 1), with one backward pass for all domains.

    g_j      gradient of domain j's mean token loss; one backward pass gives all of them    (grouped.py, rules.py)
    W_j    = < g_j , sum_i importance_i g_i >, computed from the gram of all g              (eq. 4; gram.py)
    a      = rule(W), the new domain weights                                                (eq. 6; updates.py)
    theta <- theta - lr * sum_j a_j g_j; the optimizer finds this sum in `parameter.grad`   (eq. 5)

The weights a do not depend on how the rows are split: each group's gradient is first summed over micro-batches and
processes, and only then multiplied with the others. (A sum of the micro-batches' grams would be a different quantity.)
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doge import sums
from doge.gram import Gram, GramSum, Workspace, block_limit
from doge.grouped import Autocast, Use, grouped_backward
from doge.presence import Presence, SampleWeights, UnitRange
from doge.rules import Sum


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's rows, ordered by half-group.

    A step has G groups of N rows each. If the rows of a group are split into two halves, half-group h * G + g is half h
    (0 or 1) of the rows of group g; without halves, half-group g is the whole group g.

    rows:   token ids (count * n, T): n rows of half-group `first`, then n rows of half-group `first + 1`, and so on.
    first:  number of the first half-group in this micro-batch.
    count:  number of half-groups in this micro-batch.
    share:  n / N, the share of a group's rows that one half-group of this micro-batch holds.
    start:  position, from 0, of the micro-batch's first row of a group among the N rows of that group.
    """

    rows: Int[Tensor, "R T"]
    first: int
    count: int
    share: float
    start: int = 0

    @property
    def group_rows(self) -> int:
        """Number N of rows that every group has in the whole step."""
        return round(len(self.rows) / self.count / self.share)

    def place(self, *, groups: int, unit_rows: int) -> UnitRange:
        """Return which units of the groups this micro-batch holds. A unit is `unit_rows` adjacent rows of a group.

        `groups` is the number G of groups in the step. Raises ValueError if the micro-batch begins or ends inside a
        unit.
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
    """Result of the backward passes of a step, over the rows of all micro-batches and processes.

    losses:          mean loss of every group (G,), nats per token.
    gram:            inner products of the groups' gradients.
    sample_weights:  weights (D, U) of the U units of every domain, in the order of its rows; None if samples are not
                     weighted.
    """

    losses: Float[Tensor, " G"]
    gram: Gram
    sample_weights: Float[Tensor, "D U"] | None = None


class GroupGradients:
    """Engine that runs the backward passes of a step: it computes the gram of all groups and the combined gradient.

    The combined gradient is the sum of the training domains' gradients times one coefficient per domain. It is written
    to `parameter.grad`. G is the number of groups, P the number of trainable parameters.

    Order *lagged*: the coefficients are known before the pass. The gradients of each layer are combined at once and
    their memory is used again. Memory beyond a plain step: G gradients of the largest layer, 1 GB at most.

    Order *exact*: the coefficients are computed from this step's gram, so the gradients of all groups are kept until
    the passes are over: `halves * G * P` entries. Several micro-batches need the same memory in either order, because
    the gradients must be summed over all micro-batches before the products are taken.

    If there are several processes, each sends `halves * G * P` entries per step.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        groups: int,
        halves: int,
        divided: Bool[Tensor, " G"] | None = None,
        autocast: Autocast = nullcontext,
    ) -> None:
        """Take the number of groups and of halves of their rows.

        `divided` is False for a group whose two halves share rows, which leaves its self product unmeasured; None:
        there is no such group.
        """
        self.model = model
        self.divided = torch.ones(groups, dtype=torch.bool) if divided is None else divided
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
        """Run the backward passes, call `decide(losses, gram)`, and write sum_j coefficient_j g_j to `parameter.grad`.

        decide:    returns the coefficients (D,) for the losses (G,) and the gram of this step.
        lagged:    coefficients (D,) that are known before the pass (order lagged); None: use those that `decide`
                   returns (order exact).
        metric:    returns the weights of the products' entries for a slice of a parameter's first axis (see
                   `GramSum.add`), or None for plain products.
        reduce:    returns the sum of a tensor over all processes, in place or not; None: there is one process.
        presence:  how to weight the samples inside domains (presence.py). The gram, its halves and the combined
                   gradient are then computed from weighted gradients; the losses are not weighted. A sample's weight
                   depends on all rows of its domain, so the two halves of a domain are no longer independent.
        """
        micro_batches = list(micro_batches)
        slots = self.halves * self.groups
        keep = lagged is None or len(micro_batches) > 1
        if keep not in self.workspaces:
            self.workspaces[keep] = Workspace(groups=slots, keep=keep, limit=block_limit(self.model, self.groups))
        workspace = self.workspaces[keep]
        device = next(self.model.parameters()).device
        gram, losses = GramSum(self.groups, halves=self.halves, device=device), sums.zeros(slots, device=device)
        kept: dict[nn.Parameter, Tensor] = {}  # gradients of all half-groups, summed over the micro-batches so far
        totals: dict[nn.Parameter, Tensor] = {}  # order exact: gradients of all groups until the coefficients are known

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
            means = backward(
                batch.rows,
                groups=batch.count,
                on_parameter=on_parameter,
                scale=batch.share,
                autocast=self.autocast,
            )
            losses[here] += sums.widened(batch.share * means)
        for parameter, block in kept.items():
            finish(parameter, slice(0, parameter.shape[0]), block)
        losses = losses if reduce is None else reduce(losses)
        means = losses.view(self.halves, self.groups).sum(0).cpu()
        outcome = Step(
            means, gram.result().only_measured(self.divided), None if samples is None else samples.of_domains
        )
        coefficients = decide(outcome.losses, outcome.gram)
        for parameter, total in totals.items():
            combine(parameter, slice(0, parameter.shape[0]), total, coefficients)
        return outcome

    def _sample_weights(
        self, presence: Presence, micro_batches: list[MicroBatch], reduce: Callable[[Tensor], Tensor] | None
    ) -> SampleWeights:
        """Return the step's sample weights, already measured if there are several micro-batches.

        A weight depends on the norms of all rows of a group. With one micro-batch the weighted pass measures them
        itself; several micro-batches need passes of their own for it.
        """
        rows = micro_batches[0].group_rows
        samples = SampleWeights(presence, self.model, groups=self.groups, rows=rows, reduce=reduce)
        if len(micro_batches) > 1:
            places = [batch.place(groups=self.groups, unit_rows=presence.unit_rows) for batch in micro_batches]
            samples.measure(zip([batch.rows for batch in micro_batches], places, strict=True), autocast=self.autocast)
        return samples


def combine(
    parameter: nn.Parameter, part: slice, total: Float[Tensor, "G p"], coefficients: Float[Tensor, " D"]
) -> None:
    """Set parameter.grad[part] to sum_j coefficient_j g_j over the first D groups, the training domains (eq. 5).

    The other groups only serve the objective.
    """
    coefficients = coefficients.to(device=total.device, dtype=total.dtype)
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    gradient = parameter.grad[part]
    gradient.copy_((coefficients @ total[: len(coefficients)]).view(gradient.shape))
