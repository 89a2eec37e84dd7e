"""The exact effect of every row, domain and step on the loss at the end of a training run (the hypergradient).

A run has the state z = (theta, m, v): weights and Adam's two moments. Its step t is z(t+1) = Phi_t(z(t), c(t)), where
c(t) are the coefficients of the step's rows in the loss. With an objective F(theta(S)) after the last step, the adjoint
lambda(t) = dF/dz(t) is pulled back from the end, one step after the other:

    lambda(S)      = (grad F, 0, 0)
    lambda_g       = pull-back of lambda(t+1) through AdamW and the clip, elementwise but for the norm   (`pull_back`)
    dF/dc_r(t)     = < g_r(t) , lambda_g >                 of every row r; DoGE's eq. 4 with lambda_g for lr sum_i g_i
    lambda_theta   = (1 - lr decay) lambda_theta + H(t) lambda_g             H: Hessian of the step's loss sum_r c_r L_r

Both products of a step are derivatives along lambda_g, of the step's gradient and of its rows' losses, so the cost
depends neither on the number of rows nor on that of domains. Either exactly, by a backward pass through the backward
pass that formed g(t) (about 4.3 plain steps), or by central differences, from two plain steps at theta +- h lambda_g
that need no second derivatives: any kernel will do, and no graph of a graph is kept. Differences deviate by about 4e-4
in float32 (docs/measured/exact-effects.md), far less than two seeds do. The idea of pulling the end's gradient back
through training: Maclaurin et al. 2015 (arXiv 1502.03492); for data weights, Engstrom et al. 2025 (arXiv 2503.13751).

Memory: a segment of the run is kept as the state before it (12 bytes per parameter in float32) and done once more when
the adjoint comes to it, or kept as all of its steps (16 bytes per parameter and step), which saves that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from doge.grouped import token_losses

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

    def to(self, device: torch.device | str) -> "RunState":
        """Return this state on a device."""
        return RunState(self.theta.to(device), self.m.to(device), self.v.to(device))


@dataclass(frozen=True)
class StepEffects:
    """What the rows of one step, and their tokens, do for F objectives at the end of the run.

    step:    number of the step, from 0.
    tokens:  change of each objective per unit of a token's coefficient in the loss (F, R, T-1), in the objective's
             unit; negative: predicting this token in training helps. A row's coefficient is shared by its tokens.
    norms:   norm of each adjoint's lambda_theta before the step (F,).
    """

    step: int
    tokens: Float[Tensor, "F R t"]
    norms: Float[Tensor, " F"]

    @property
    def rows(self) -> Float[Tensor, "F R"]:
        """Change of each objective per unit of a row's coefficient."""
        return self.tokens.mean(2)


class Weights(nn.Module):
    """A model's token losses as a function of one flat vector of all its parameters; shared parameters count once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        parameters = dict(self.named_parameters())
        self.names, self.shapes = list(parameters), [parameter.shape for parameter in parameters.values()]
        self.sizes = [parameter.numel() for parameter in parameters.values()]

    def forward(self, rows: Int[Tensor, "R T"]) -> Float[Tensor, "R t"]:
        """Return the loss of every token that the rows predict."""
        return token_losses(self.model, rows)

    def flat(self) -> Tensor:
        """Return a copy of the model's parameters as one vector (P,)."""
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters()])

    def losses(self, theta: Tensor, rows: Int[Tensor, "R T"], *, twice: bool = False) -> Float[Tensor, "R t"]:
        """Return the token losses with the parameters `theta` (P,); `twice`: by kernels with second derivatives."""
        views = (part.view(shape) for part, shape in zip(theta.split(self.sizes), self.shapes, strict=True))
        with sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
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
    """One step: its number (from 0), the weights that it started from, its gradient (P,), and the state after it.

    The gradient is that of all rows of all processes, before the clip.
    """

    number: int
    theta: Tensor
    gradient: Tensor
    after: RunState

    def to(self, device: torch.device | str) -> "RunStep":
        """Return this step on a device."""
        return RunStep(self.number, self.theta.to(device), self.gradient.to(device), self.after.to(device))


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of a run: the state before them, and the steps themselves if they are kept."""

    steps: range
    before: RunState
    kept: Sequence[RunStep] = ()


@dataclass(frozen=True)
class Unrolled:
    """A training run as a function of its rows' coefficients.

    weights:     the model.
    optimizer:   its optimizer's constants.
    lrs:         learning rate of every step.
    rows:        rows(step) gives this process's rows (R, T) of a step and their coefficients (R,) in its loss.
    parts:       number of parts that a step's rows are split into, which are computed one after the other.
    difference:  length of the moves along lambda_g from which derivatives are formed, relative to the norm of the
                 weights; None: they are formed exactly.
    reduce:      function that sums a tensor over all processes; None if there is one process.
    """

    weights: Weights
    optimizer: AdamW
    lrs: Sequence[float]
    rows: Callable[[int], tuple[Int[Tensor, "R T"], Float[Tensor, " R"]]]
    parts: int = 1
    difference: float | None = None
    reduce: Reduce | None = None

    def start(self) -> RunState:
        """Return the state before the first step: the model's weights, and moments of 0."""
        theta = self.weights.flat()
        return RunState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def run(self, state: RunState, steps: range) -> Iterator[RunStep]:
        """Do `steps` from `state`, and yield each."""
        for number in steps:
            gradient, _ = self._gradient(state.theta, number)
            gradient = self._sum(gradient)
            after = advance(state, gradient, lr=self.lrs[number], step=number, optimizer=self.optimizer)
            yield RunStep(number, state.theta, gradient, after)
            state = after

    def effects(self, segments: Sequence[Segment], end: Float[Tensor, "F P"]) -> Iterator[StepEffects]:
        """Pull the objectives' gradients `end` at the last weights back; yield the effects of every step, last first.

        segments: the run from its first step to its last; they may lie on another device than `end`.
        """
        adjoints = [RunState(row, torch.zeros_like(row), torch.zeros_like(row)) for row in end]
        for segment in reversed(segments):
            steps = segment.kept or list(self.run(segment.before.to(end.device), segment.steps))
            for step in (kept.to(end.device) for kept in reversed(steps)):
                tokens = []
                for index, adjoint in enumerate(adjoints):
                    lambda_g, before = pull_back(
                        adjoint,
                        step.after,
                        step.gradient,
                        lr=self.lrs[step.number],
                        step=step.number,
                        optimizer=self.optimizer,
                    )
                    curved, effects = self._along(step, lambda_g)
                    adjoints[index] = RunState(before.theta + self._sum(curved), before.m, before.v)
                    tokens.append(effects)
                norms = torch.stack([adjoint.theta.norm() for adjoint in adjoints])
                yield StepEffects(step.number, torch.stack(tokens), norms)

    def _along(self, step: RunStep, lambda_g: Tensor) -> tuple[Tensor, Float[Tensor, "R t"]]:
        """Return the derivatives along lambda_g: of the gradient (P,) of this process's rows, and of their tokens."""
        if self.difference is None:
            return self._exactly_along(step, lambda_g)
        length = self.difference * step.theta.norm() / lambda_g.norm().clamp(min=torch.finfo(lambda_g.dtype).tiny)
        (ahead, losses), (behind, losses_behind) = (
            self._gradient(step.theta + sign * length * lambda_g, step.number) for sign in (1, -1)
        )
        return (ahead - behind) / (2 * length), (losses - losses_behind) / (2 * length)

    def _exactly_along(self, step: RunStep, lambda_g: Tensor) -> tuple[Tensor, Float[Tensor, "R t"]]:
        curved, effects = torch.zeros_like(step.theta), []
        for rows, coefficients in self._parts(step.number):
            theta = step.theta.detach().requires_grad_()
            losses = self.weights.losses(theta, rows, twice=True)
            shares = (coefficients[:, None] / losses.shape[1]).expand_as(losses).detach().requires_grad_()
            (gradient,) = torch.autograd.grad((losses * shares).sum(), theta, create_graph=True)
            hessian, effect = torch.autograd.grad(gradient, (theta, shares), grad_outputs=lambda_g)
            curved += hessian
            effects.append(effect)
        return curved, torch.cat(effects)

    def _gradient(self, theta: Tensor, number: int) -> tuple[Tensor, Float[Tensor, "R t"]]:
        """Return the gradient (P,) of this process's rows of a step at theta, and their tokens' losses."""
        gradient, losses = torch.zeros_like(theta), []
        for rows, coefficients in self._parts(number):
            at = theta.detach().requires_grad_()
            losses.append(self.weights.losses(at, rows))
            gradient += torch.autograd.grad((losses[-1].mean(1) * coefficients).sum(), at)[0]
        return gradient, torch.cat(losses).detach()

    def _parts(self, number: int) -> Iterator[tuple[Int[Tensor, "r T"], Float[Tensor, " r"]]]:
        rows, coefficients = self.rows(number)
        return zip(rows.chunk(self.parts), coefficients.chunk(self.parts), strict=True)

    def _sum(self, tensor: Tensor) -> Tensor:
        return tensor if self.reduce is None else self.reduce(tensor)
