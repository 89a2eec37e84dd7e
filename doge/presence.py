"""Sample weights inside domains while the model trains: PRESENCE (arXiv 2311.00913), computed anew at every step.

A unit is `unit_rows` adjacent rows of a domain (the paper weights microbatches; here a unit is one row by default).
At each step and inside each domain j, over its U units or N rows:

    s_i  = |gradient of unit i's mean token loss|^2 over the parameters of `scope`    (self-influence; row_norms.py)
    s   <- (s - mean) / sqrt(var + eps), with eps = (1e-4 mean)^2, so that the scale of s has no effect
    w    = U * softmax(tau * s), whose mean is 1, so that a domain's share of the training stays the same
    g_j  = 1/N sum_i w_ji grad l_ji, the weighted mean of the N rows' gradients in place of the plain mean

tau > 0 prefers large gradients (the paper's "direct" stage, for novelty), tau < 0 small ones ("inverse", for
stability). The paper uses +1 for the first 10 % of the steps and -1 after that. Everything that a step computes from
gradients uses these g_j: the gram, its halves and the combined gradient. Losses are not weighted.

With one micro-batch, one backward pass is enough: the inputs and output gradients of all layers are kept until the
weights are known, then the gradients are formed, one parameter at a time. With several micro-batches, passes for the
norms come first and the weighted passes follow.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge import sums
from doge.grouped import Autocast, OnParameter, Use, find_rules, grouped_backward, row_losses, ruled
from doge.row_norms import squared_norms
from doge.rules import conv1d, linear
from doge.scopes import scope_parameters

EPSILON = 1e-8  # as a share of the squared mean; so squared norms that agree to 1e-4 count as nearly equal


@dataclass(frozen=True)
class Presence:
    """Settings of the sample weights of one step.

    temperature:  tau; positive in the direct stage, negative in the inverse stage.
    domains:      number of groups, from the first on, whose samples are weighted. The groups after them only serve the
                  objective, and their samples keep the weight 1.
    scope:        parameters whose gradient norms decide the weights (doge/scopes.py).
    unit_rows:    number of adjacent rows that share one weight.
    """

    temperature: float
    domains: int
    scope: str = "first_block"
    unit_rows: int = 1


@dataclass(frozen=True)
class UnitRange:
    """Position of a micro-batch's units among the U units that every group has in the whole step.

    units:   the units 0, ..., U - 1 of a group that the micro-batch holds, as a slice; the same for every group.
    halves:  order of the rows in the micro-batch. 1: all these units of group 0, then of group 1, and so on. 2: the
             first half of these units of group 0, of group 1, ..., then the second half of group 0, of group 1, ...
    """

    units: slice
    halves: int

    def by_group(self, values: Float[Tensor, " X"], groups: int) -> Float[Tensor, "G U"]:
        """Return values (X,) of the micro-batch's units, given in the order of its rows, in a table by group."""
        return values.view(self.halves, groups, -1).transpose(0, 1).flatten(1)

    def of_rows(self, table: Float[Tensor, "G U"], unit_rows: int) -> Float[Tensor, " R"]:
        """Return the value of every row of the micro-batch, given a `table` (G, U) of values of all units of the step.

        A row has the value of its unit; a unit is `unit_rows` rows.
        """
        by_half = table[:, self.units].unflatten(1, (self.halves, -1)).transpose(0, 1)
        return by_half.repeat_interleave(unit_rows, 2).flatten()


def presence_weights(squared_norms: Float[Tensor, "G U"], *, temperature: float) -> Float[Tensor, "G U"]:
    """Return the weights w = U * softmax(temperature * s) of the U units of every group; their mean is 1 in each group.

    s are the z-scores of a group's squared norms, with the population variance. Equal norms give weights of exactly 1.
    In a group of two units with different norms, s is -1 and 1, however large the difference is.
    """
    above = squared_norms - squared_norms[:, :1]  # exactly zero where all are equal
    variance = above.var(1, correction=0, keepdim=True) + EPSILON * squared_norms.mean(1, keepdim=True).square()
    scores = (above - above.mean(1, keepdim=True)) / variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    odds = torch.exp(temperature * scores - (temperature * scores).amax(1, keepdim=True))
    return odds / odds.mean(1, keepdim=True)


class SampleWeights:
    """Sample weights of one step: it measures the units' gradient norms, computes the weights, and applies them.

    `norms` (G, U) are the squared gradient norms of the units, `weights` (G, U) their weights, None until all norms
    are known. Arguments: `rows`, the number of rows of a group in the whole step; `reduce`, which returns the sum of a
    tensor over all processes (None: there is one process). Raises ValueError if the rows of a group are not at least
    two whole units, and for an unknown scope.
    """

    def __init__(
        self, presence: Presence, model: nn.Module, *, groups: int, rows: int, reduce: Callable[[Tensor], Tensor] | None
    ) -> None:
        units, rest = divmod(rows, presence.unit_rows)
        if rest or units < 2:
            raise ValueError(
                f"a group has {rows} rows per step, in units of {presence.unit_rows} rows; "
                "expected at least two whole units"
            )
        self.presence, self.model, self.groups, self.reduce = presence, model, groups, reduce
        self.scope = set(scope_parameters(model, presence.scope))
        self.device = next(model.parameters()).device
        self.norms = sums.zeros(groups, units, device=self.device)
        self.weights: Tensor | None = None

    @property
    def of_domains(self) -> Float[Tensor, "D U"]:
        """Weights (D, U) of the domains' units, in the order of their rows, on the CPU."""
        assert self.weights is not None
        return self.weights[: self.presence.domains].cpu()

    def measure(self, parts: Iterable[tuple[Tensor, UnitRange]], *, autocast: Autocast = nullcontext) -> None:
        """Compute the weights from a forward and a backward pass over every micro-batch, without forming gradients.

        `parts` holds the rows of every micro-batch of this process and the position of their units. The passes cost
        about two thirds of a plain step. They leave the random state as it was, so that dropout in the weighted passes
        draws the same numbers again.
        """
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices, device_type=self.device.type):
            for rows, place in parts:
                self._keep(place, self._unit_norms(rows, autocast=autocast))
        self._decide()

    def _unit_norms(self, rows: Int[Tensor, "R T"], *, autocast: Autocast) -> Float[Tensor, " U"]:
        norms = self.norms.new_zeros(len(rows) // self.presence.unit_rows)

        def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
            norms.add_(squared_norms(parameter, uses, units=len(norms)))

        with ruled(self.model, rows, find_rules(self.model, self.scope), on_parameter):
            row_losses(self.model, rows, autocast=autocast).sum().backward()
        return norms

    def _keep(self, place: UnitRange, norms: Float[Tensor, " X"]) -> None:
        self.norms[:, place.units] = place.by_group(norms, self.groups)

    def _decide(self) -> None:
        """Sum the norms over all processes, then compute the weights inside each group."""
        norms = self.norms if self.reduce is None else self.reduce(self.norms)
        self.weights = presence_weights(norms, temperature=self.presence.temperature)
        self.weights[self.presence.domains :] = 1

    def backward(
        self,
        rows: Int[Tensor, "R T"],
        *,
        place: UnitRange,
        groups: int,
        on_parameter: OnParameter,
        scale: float = 1.0,
        autocast: Autocast = nullcontext,
    ) -> Float[Tensor, " G"]:
        """Run `grouped_backward` with weighted gradients; return the groups' losses (G,), which are not weighted.

        If the weights are not known yet (no `measure` before), `rows` must be all rows of this process in the step,
        and the norms come from this same pass. Memory beyond `grouped_backward`: the inputs and output gradients of all
        layers at the same time; a tensor that several layers share is kept once.
        """
        known = self.weights is not None
        kept_uses: dict[nn.Parameter, list[Use]] = {}
        norms = self.norms.new_zeros(len(rows) // self.presence.unit_rows)

        def form(parameter: nn.Parameter, uses: list[Use]) -> None:
            assert self.weights is not None
            row_weights = place.of_rows(self.weights, self.presence.unit_rows)
            on_parameter(parameter, [weighted(use, row_weights) for use in uses])

        def hold(parameter: nn.Parameter, uses: list[Use]) -> None:
            kept_uses[parameter] = uses
            if parameter in self.scope:
                norms.add_(squared_norms(parameter, uses, units=len(norms)))

        run = partial(grouped_backward, self.model, rows, groups=groups, scale=scale, autocast=autocast)
        losses = run(on_parameter=form if known else hold)
        if not known:
            self._keep(place, norms)
            self._decide()
            with torch.no_grad():
                for parameter in list(kept_uses):
                    form(parameter, kept_uses.pop(parameter))
        return losses


def weighted(use: Use, weights: Float[Tensor, " R"]) -> Use:
    """Return a use whose gradient is the sum over the rows of the row's weight times the row's gradient.

    In a product sum_t b_t x_t^T the weights may multiply either b or x. They multiply the smaller of the two, which
    avoids a copy of the logits' gradient.
    """

    def scaled(tensor: Tensor) -> Tensor:
        factors = weights.to(tensor.device, torch.promote_types(tensor.dtype, torch.float32))
        return (tensor.reshape(len(factors), -1) * factors[:, None]).reshape(tensor.shape).to(tensor.dtype)

    if use.name == "weight" and use.rule in (linear, conv1d) and use.x.numel() < use.b.numel():
        return replace(use, x=scaled(use.x))
    return replace(use, b=scaled(use.b))


def presence_temperature(progress: float, *, temperature: float, switch_at: float) -> float:
    """Return tau of PRESENCE's two stages: `temperature` (direct) while `progress` < `switch_at`, then its negative.

    `progress` and `switch_at` are shares of the run's steps, from 0 to 1.
    """
    return temperature if progress < switch_at else -temperature
