"""The exact effect of every row, domain and step on the loss at the end of a training run (the hypergradient).

A run has the state z = (theta, m, v): weights and Adam's two moments. Its step t is z(t+1) = Phi_t(z(t), c(t)), where
c(t) are the coefficients of the step's rows in the loss. With an objective F(theta(S)) after the last step, the adjoint
lambda(t) = dF/dz(t) is pulled back from the end, one step after the other:

    lambda(S)      = (grad F, 0, 0)
    lambda_g       = pull-back of lambda(t+1) through AdamW and the clip, elementwise but for the norm   (`pull_back`)
    dF/dc_r(t)     = < g_r(t) , lambda_g >                 of every row r; DoGE's eq. 4 with lambda_g for lr sum_i g_i
    lambda_theta   = (1 - lr decay) lambda_theta + H(t) lambda_g             H: Hessian of the step's loss sum_r c_r L_r

Both products come from one backward pass through the backward pass that formed g(t), so that the cost depends neither
on the number of rows nor on that of domains. The idea of pulling the end's gradient back through training: Maclaurin et
al. 2015 (arXiv 1502.03492); for data weights, Engstrom et al. 2025 (arXiv 2503.13751).

Memory: the states at the first step of every segment (12 bytes per parameter and segment in float32), and the graphs of
one segment's steps. States in between are computed again: beside the run itself, every step is done once more with its
graph, which is then differentiated once for each objective.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from doge.grouped import row_losses

Reduce = Callable[[Tensor], Tensor]
CLIP_EPS = 1e-6  # that of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class AdamW:
    """The constants of a run's optimizer.

    decay:          decoupled weight decay of every entry (P,), times the learning rate at every step.
    betas, eps:     as torch.optim.AdamW.
    eps_root:       added to Adam's second moment inside the root; it keeps the derivative finite where v is near 0.
    max_grad_norm:  the gradient of a step is clipped to this norm.
    """

    decay: Tensor
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class RunState:
    """Weights `theta` and Adam's moments `m` and `v`, (P,) each; or an adjoint's derivatives by these three."""

    theta: Tensor
    m: Tensor
    v: Tensor


@dataclass(frozen=True)
class StepEffects:
    """What the rows of one step do for F objectives at the end of the run.

    step:   number of the step, from 0.
    rows:   change of each objective per unit of a row's coefficient (F, R), in the objective's unit; negative: the row
            helps.
    norms:  norm of each adjoint's lambda_theta before the step (F,).
    """

    step: int
    rows: Float[Tensor, "F R"]
    norms: Float[Tensor, " F"]


class Weights(nn.Module):
    """A model's row losses as a function of one flat vector of all its parameters; shared parameters count once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        parameters = dict(self.named_parameters())
        self.names, self.shapes = list(parameters), [parameter.shape for parameter in parameters.values()]
        self.sizes = [parameter.numel() for parameter in parameters.values()]

    def forward(self, rows: Int[Tensor, "R T"]) -> Float[Tensor, " R"]:
        """Return the mean token loss of every row."""
        return row_losses(self.model, rows)

    def flat(self) -> Tensor:
        """Return a copy of the model's parameters as one vector (P,)."""
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters()])

    def losses(self, theta: Tensor, rows: Int[Tensor, "R T"]) -> Float[Tensor, " R"]:
        """Return the row losses with the parameters `theta` (P,), by kernels that can be differentiated twice."""
        views = (part.view(shape) for part, shape in zip(theta.split(self.sizes), self.shapes, strict=True))
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self, dict(zip(self.names, views, strict=True)), (rows,))


def advance(state: RunState, gradient: Tensor, *, lr: float, step: int, optimizer: AdamW) -> RunState:
    """Return the state after step number `step` (from 0): the gradient is clipped, then AdamW moves the weights."""
    first, second = optimizer.betas
    clipped = gradient * _clip(gradient.norm(), optimizer.max_grad_norm)
    m = first * state.m + (1 - first) * clipped
    v = second * state.v + (1 - second) * clipped.square()
    moved = lr * (m / (1 - first ** (step + 1))) / _denominator(v, step, optimizer)
    return RunState((1 - lr * optimizer.decay) * state.theta - moved, m, v)


def pull_back(
    adjoint: RunState, after: RunState, gradient: Tensor, *, lr: float, step: int, optimizer: AdamW
) -> tuple[Tensor, RunState]:
    """Return lambda_g (P,) and the adjoint before the step, but for the Hessian's part of its theta.

    adjoint, after:  adjoint and state after step number `step` (from 0); gradient: the step's, before the clip.
    An entry whose second moment is 0 has only had gradients of 0; its derivative is that at the root's floor, or 0.
    """
    first, second = optimizer.betas
    below = _denominator(after.v, step, optimizer)
    root = below - optimizer.eps
    correction = 1 - second ** (step + 1)
    bias = 1 - first ** (step + 1)
    mean = after.m / bias
    m = adjoint.m - lr / bias * adjoint.theta / below
    slope = torch.where(root > 0, lr * mean / (2 * correction * below.square() * root), 0.0)
    v = adjoint.v + slope * adjoint.theta
    norm = gradient.norm()
    factor = _clip(norm, optimizer.max_grad_norm)
    clipped = (1 - first) * m + 2 * (1 - second) * factor * gradient * v
    lambda_g = factor * clipped
    if factor < 1:
        lambda_g = lambda_g - gradient * (gradient @ clipped) * factor / ((norm + CLIP_EPS) * norm)
    return lambda_g, RunState((1 - lr * optimizer.decay) * adjoint.theta, first * m, second * v)


def _clip(norm: Tensor, most: float) -> Tensor:
    return (most / (norm + CLIP_EPS)).clamp(max=1.0)


def _denominator(v: Tensor, step: int, optimizer: AdamW) -> Tensor:
    return (v / (1 - optimizer.betas[1] ** (step + 1)) + optimizer.eps_root).sqrt() + optimizer.eps


@dataclass(frozen=True)
class RunStep:
    """One step: what it started from, its gradient, and the state after it.

    own:    gradient of this process's rows, with its graph if one was asked for.
    whole:  gradient of all rows.
    """

    theta: Tensor
    coefficients: Tensor
    own: Tensor
    whole: Tensor
    after: RunState


@dataclass(frozen=True)
class Unrolled:
    """A training run as a function of its rows' coefficients.

    weights:    the model.
    optimizer:  its optimizer's constants.
    lrs:        learning rate of every step.
    rows:       rows(step) gives this process's rows (R, T) of a step and their coefficients (R,) in its loss.
    reduce:     function that sums a tensor over all processes; None if there is one process.
    """

    weights: Weights
    optimizer: AdamW
    lrs: Sequence[float]
    rows: Callable[[int], tuple[Int[Tensor, "R T"], Float[Tensor, " R"]]]
    reduce: Reduce | None = None

    def start(self) -> RunState:
        """Return the state before the first step: the model's weights, and moments of 0."""
        theta = self.weights.flat()
        return RunState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, state: RunState, number: int, *, graph: bool = False) -> RunStep:
        """Do step `number` (from 0) from `state`; with `graph`, its gradient can be differentiated once more."""
        theta = state.theta.detach().requires_grad_()
        rows, coefficients = self.rows(number)
        coefficients = coefficients.detach().requires_grad_(graph)
        loss = (self.weights.losses(theta, rows) * coefficients).sum()
        (own,) = torch.autograd.grad(loss, theta, create_graph=graph)
        whole = self._sum(own.detach().clone())
        after = advance(state, whole, lr=self.lrs[number], step=number, optimizer=self.optimizer)
        return RunStep(theta, coefficients, own, whole, after)

    def run(self, state: RunState, steps: range) -> RunState:
        """Return the state after `steps`."""
        for number in steps:
            state = self.step(state, number).after
        return state

    def effects(
        self, states: Sequence[RunState], starts: Sequence[int], end: Float[Tensor, "F P"]
    ) -> Iterator[StepEffects]:
        """Pull the objectives' gradients `end` at the last weights back; yield the effects of every step, last first.

        starts: the first step of every segment, from 0 up; states: the states before these steps.
        """
        adjoints = [RunState(row, torch.zeros_like(row), torch.zeros_like(row)) for row in end]
        for (first, last), state in reversed(list(zip(pairwise([*starts, len(self.lrs)]), states, strict=True))):
            steps = []
            for number in range(first, last):
                steps.append(self.step(state, number, graph=True))
                state = steps[-1].after
            for number in reversed(range(first, last)):
                step, rows = steps.pop(), []
                for index, adjoint in enumerate(adjoints):
                    lambda_g, before = pull_back(
                        adjoint, step.after, step.whole, lr=self.lrs[number], step=number, optimizer=self.optimizer
                    )
                    curved, effect = torch.autograd.grad(
                        step.own,
                        (step.theta, step.coefficients),
                        grad_outputs=lambda_g,
                        retain_graph=index + 1 < len(adjoints),
                    )
                    rows.append(effect)
                    adjoints[index] = RunState(before.theta + self._sum(curved), before.m, before.v)
                yield StepEffects(
                    number, torch.stack(rows), torch.stack([adjoint.theta.norm() for adjoint in adjoints])
                )

    def _sum(self, tensor: Tensor) -> Tensor:
        return tensor if self.reduce is None else self.reduce(tensor)
