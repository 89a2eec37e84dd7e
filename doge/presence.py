"""Sample weights inside domains while the model trains (PRESENCE, arXiv 2311.00913, online form; methods.md section 4).

Inside each domain, over its U units of a step (a unit: `unit_rows` adjacent rows; the paper's are microbatches, here
one row by default):

    s_i  = |gradient of unit i's mean token loss|^2 over the parameters of `scope`          self-influence; row_norms.py
    s   <- (s - mean) / sqrt(var + eps)                                                     eps = (1e-4 mean)^2: free of
    scale
    w    = U * softmax(tau * s)                                                             mean 1: a domain's share
    stays its own
    g_j  = 1/N sum_i w_ji grad l_ji                                                         in place of the plain mean

tau > 0 prefers large gradients ("direct", novelty), tau < 0 small ones ("inverse", stability); the paper takes +1, then
-1 from 10 % of the steps on. Everything that a step makes of gradients is made of these g_j: gram, halves, combined
gradient. Losses are not weighted.

One micro-batch takes one backward pass: inputs and output gradients of all layers are held until the weights are known,
then every parameter's gradients are formed, one parameter at a time. Several micro-batches take a pass for the norms
first, then the weighted ones.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doge.grouped import Autocast, OnParameter, Use, find_rules, grouped_backward, row_losses, ruled
from doge.row_norms import squared_norms
from doge.rules import conv1d, linear
from doge.scopes import scope_parameters

EPSILON = 1e-8  # of the squared mean: norms that agree to 1e-4 count as equal


@dataclass(frozen=True)
class Presence:
    """How the samples of a step are weighted: `temperature` tau, its sign that of the step's phase.

    Only the first `domains` groups are weighted; those that serve the objective alone keep weights of 1.
    """

    temperature: float
    domains: int
    scope: str = "first_block"
    unit_rows: int = 1


@dataclass(frozen=True)
class UnitRange:
    """Where the units of a micro-batch's rows lie in a step: it holds the `units` of every group, half-major in
    `halves` halves.
    """

    units: slice
    halves: int

    def by_group(self, values: Float[Tensor, " X"], groups: int) -> Float[Tensor, "G U"]:
        """Values of its units, in the order of its rows, as those of each group."""
        return values.view(self.halves, groups, -1).transpose(0, 1).flatten(1)

    def of_rows(self, table: Float[Tensor, "G U"], unit_rows: int) -> Float[Tensor, " R"]:
        """The values that its rows have in a table of the step's units."""
        mine = table[:, self.units].unflatten(1, (self.halves, -1)).transpose(0, 1)
        return mine.repeat_interleave(unit_rows, 2).flatten()


def presence_weights(squared_norms: Float[Tensor, "G U"], *, temperature: float) -> Float[Tensor, "G U"]:
    """w = U * softmax(temperature * s), s the z-scores of each group's squared norms (population variance): mean 1 in
    every group.

    Equal norms give exactly 1. Two units always have s = -1, 1.
    """
    above = squared_norms - squared_norms[:, :1]  # exactly zero where all are equal
    variance = above.var(1, correction=0, keepdim=True) + EPSILON * squared_norms.mean(1, keepdim=True).square()
    scores = (above - above.mean(1, keepdim=True)) / variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    odds = torch.exp(temperature * scores - (temperature * scores).amax(1, keepdim=True))
    return odds / odds.mean(1, keepdim=True)


class SampleWeights:
    """The sample weights of one step: norms of all its units, the weights once these are known, the passes that use
    them.

    State: `norms` (G, U), then `weights` (G, U). `rows` is what a group has in the whole step, `reduce` the sum over
    processes (None: one). Raises ValueError for rows that do not make at least two whole units, and for an unknown
    scope.
    """

    def __init__(
        self, presence: Presence, model: nn.Module, *, groups: int, rows: int, reduce: Callable[[Tensor], Tensor] | None
    ) -> None:
        units, rest = divmod(rows, presence.unit_rows)
        if rest or units < 2:
            raise ValueError(
                f"{rows} rows of a group in units of {presence.unit_rows}: expected at least two whole units"
            )
        self.presence, self.model, self.groups, self.reduce = presence, model, groups, reduce
        self.scope = set(scope_parameters(model, presence.scope))
        self.norms = torch.zeros(groups, units, dtype=torch.float64, device=next(model.parameters()).device)
        self.weights: Tensor | None = None

    @property
    def of_domains(self) -> Float[Tensor, "D U"]:
        """The weights of the domains' units, in the order of their rows, on the CPU."""
        assert self.weights is not None
        return self.weights[: self.presence.domains].cpu()

    def measure(self, parts: Iterable[tuple[Tensor, UnitRange]], *, autocast: Autocast = nullcontext) -> None:
        """Decide the weights from a forward and backward pass over every micro-batch's rows, which forms no gradient.

        Costs about two thirds of a plain step. Dropout acts in the weighted passes as it did here.
        """
        with torch.random.fork_rng([self.norms.device] if self.norms.is_cuda else []):
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
        """The norms of all processes' units, then the weights inside each group."""
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
        """`grouped_backward` on weighted gradients; the returned losses are not weighted.

        Before `measure` the rows are the whole of this process's step, and their norms come from this very pass. Memory
        beyond
        `grouped_backward`: the input and the output gradient of every layer, all at once (but what layers share is held
        once).
        """
        known = self.weights is not None
        held: dict[nn.Parameter, list[Use]] = {}
        norms = self.norms.new_zeros(len(rows) // self.presence.unit_rows)

        def form(parameter: nn.Parameter, uses: list[Use]) -> None:
            assert self.weights is not None
            row_weights = place.of_rows(self.weights, self.presence.unit_rows)
            on_parameter(parameter, [weighted(use, row_weights) for use in uses])

        def hold(parameter: nn.Parameter, uses: list[Use]) -> None:
            held[parameter] = uses
            if parameter in self.scope:
                norms.add_(squared_norms(parameter, uses, units=len(norms)))

        run = partial(grouped_backward, self.model, rows, groups=groups, scale=scale, autocast=autocast)
        losses = run(on_parameter=form if known else hold)
        if not known:
            self._keep(place, norms)
            self._decide()
            with torch.no_grad():
                for parameter in list(held):
                    form(parameter, held.pop(parameter))
        return losses


def weighted(use: Use, weights: Float[Tensor, " R"]) -> Use:
    """The use whose gradient is the sum over rows of weight times the row's gradient.

    A product sum_t b_t x_t^T may take the weights on either side: on the smaller, which spares a copy of the logits'
    gradient.
    """

    def scaled(tensor: Tensor) -> Tensor:
        factors = weights.to(torch.promote_types(tensor.dtype, torch.float32))
        return (tensor.reshape(len(factors), -1) * factors[:, None]).reshape(tensor.shape).to(tensor.dtype)

    if use.name == "weight" and use.rule in (linear, conv1d) and use.x.numel() < use.b.numel():
        return replace(use, x=scaled(use.x))
    return replace(use, b=scaled(use.b))


def presence_temperature(progress: float, *, temperature: float, switch_at: float) -> float:
    """The signed temperature of PRESENCE's two stages: + (direct) before `switch_at` of the run, - (inverse) from there
    on.
    """
    return temperature if progress < switch_at else -temperature
