"""A proxy run with a given mixture, as the function of its rows' coefficients that `doge.adjoint` pulls back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from doge.adjoint import AdamW, RunState, RunStep, Segment, StepEffects, Unrolled, Weights
from mixtures import Mixture, MixtureStream
from mixtures.errors import UserError
from proxies.corpus.corpus import CorpusData
from proxies.effects.memory import MemoryPlan
from proxies.models import build_model, optimization
from proxies.place import Place
from proxies.settings import Loop, Settings
from proxies.step import groups_of, read_rows

EPS_ROOT = 1e-8  # under Adam's root: at most a tenth of a typical root, and enough for a finite derivative at v = 0
DIFFERENCE = 2e-4  # in float32, half way between rounding (0.04 %) and curvature (0.04 %)
ROUGH = 2.0  # growth of the adjoint over its median norm in the later half of the steps, that ends the pull-back


@dataclass(frozen=True)
class StepRows:
    """This process's rows of a step: token ids, the number of each row's domain, and its coefficient in the loss."""

    tokens: Int[Tensor, "R T"]
    domains: Int[Tensor, " R"]
    coefficients: Float[Tensor, " R"]


@dataclass(frozen=True)
class DomainEffects:
    """What the domains' weights in one step's loss do for F objectives at the end of the run.

    step:     number of the step, from 0.
    domains:  change of each objective when the logarithm of a domain's weight grows by 1, to first order (F, D).
    norms:    norm of each adjoint before the step (F,).
    """

    step: int
    domains: Float[Tensor, "F D"]
    norms: Float[Tensor, " F"]


@dataclass(frozen=True)
class FixedRun:
    """A proxy that trains on given rows with given coefficients.

    It has no dropout, computes in float32, and puts EPS_ROOT under Adam's root.
    """

    settings: Settings
    unrolled: Unrolled
    rows: Callable[[int], StepRows]
    place: Place
    count: int  # of domains

    def train(self, plan: MemoryPlan, *, on_step: Callable[[], None]) -> tuple[list[Segment], Tensor]:
        """Return the run, kept as the plan says on the CPU, and its last weights (P,).

        Raises UserError, with the step, where a gradient is not finite.
        """
        state, segments = self.unrolled.start(), []
        for first in range(0, self.settings.train.steps, plan.segment):
            numbers = range(first, min(first + plan.segment, self.settings.train.steps))
            before, kept = state.to("cpu"), list[RunStep]()
            memory = torch.empty(len(numbers) if plan.keep else 0, 4, len(state.theta))  # one piece: nothing is lost
            for step, place in zip_longest(self.unrolled.run(state, numbers), memory):
                state = step.after
                require_finite(step.gradient, f"the gradient of step {step.number + 1}")
                if plan.keep:
                    theta = kept[-1].after.theta if kept else before.theta
                    kept.append(keep(step, theta, place))
                on_step()
            segments.append(Segment(numbers, before, kept))
        return segments, state.theta

    def pull_back(self, segments: Sequence[Segment], end: Float[Tensor, "F P"]) -> Iterator[DomainEffects]:
        """Yield the effects of the domains' weights, last step first, until the adjoint becomes rough.

        An adjoint that grows beyond ROUGH times its median over the later half of the run says more about the run's
        first chaotic steps than about its text: products with it differ between seeds by as much as they are large.
        Raises UserError, with the step, where an adjoint or an effect is not finite in the later half.
        """
        steps, later = self.settings.train.steps, []
        for effects in self.unrolled.effects(segments, end):
            if effects.step >= steps // 2:
                later.append(effects.norms)
            elif not bool((effects.norms <= ROUGH * torch.stack(later).median(0).values).all()):  # NaN is rough, too
                return
            found = self._domains(effects)
            require_finite(torch.cat([found.domains.flatten(), found.norms]), f"the effect of step {found.step + 1}")
            yield found

    def _domains(self, effects: StepEffects) -> DomainEffects:
        """Sum the effects of rows, as often as their coefficients say, over the domains and all processes."""
        rows = self.rows(effects.step)
        found = torch.zeros(len(effects.rows), self.count, device=self.place.device)
        found.index_add_(1, rows.domains, effects.rows * rows.coefficients)
        found = found if self.place.reduce is None else self.place.reduce(found)
        return DomainEffects(effects.step, found.cpu(), effects.norms.cpu())


def require_finite(values: Tensor, what: str) -> None:
    """Raise UserError, which begins with `what`, if a value is not finite: the run diverges."""
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            f"{what} is not finite, because the proxy diverges; lower train.lr or train.max_grad_norm, or raise "
            "train.warmup_steps, in a new run_dir"
        )


def keep(step: RunStep, theta: Tensor, memory: Float[Tensor, "4 P"]) -> RunStep:
    """Return a step whose gradient and state after it lie in `memory`; `theta`: where its first weights lie."""
    for place, values in zip(memory, (step.gradient, step.after.theta, step.after.m, step.after.v), strict=True):
        place.copy_(values)
    return RunStep(step.number, theta, memory[0], RunState(memory[1], memory[2], memory[3]))


def fixed_run(settings: Settings, corpus: CorpusData, place: Place, rows: Callable[[int], StepRows]) -> FixedRun:
    """Return the run of the settings' model and steps on the rows that `rows(step)` gives."""
    sizes = {"vocab_size": corpus.vocab_size, "eos_id": corpus.eos_id, "row_tokens": corpus.row_tokens}
    model = build_model(settings.model, **sizes, seed=settings.seed).to(place.device).eval()
    train = settings.train
    optimizer, scheduler = optimization(model, train)
    adam = AdamW(
        decay_of(model, optimizer),
        betas=optimizer.defaults["betas"],
        eps=optimizer.defaults["eps"],
        eps_root=EPS_ROOT,
        max_grad_norm=train.max_grad_norm,
    )

    rows = lru_cache(maxsize=1)(rows)  # a step of the pull-back asks for its rows three times

    def read(step: int) -> tuple[Tensor, Tensor]:
        mine = rows(step)
        return mine.tokens, mine.coefficients

    unrolled = Unrolled(
        Weights(model),
        adam,
        learning_rates(scheduler, train),
        read,
        parts=train.accumulate,
        difference=DIFFERENCE,
        reduce=place.reduce,
    )
    return FixedRun(settings, unrolled, rows, place, len(corpus.domains))


def weighed_rows(
    settings: Settings, corpus: CorpusData, place: Place, weights: Float[Tensor, "S D"]
) -> Callable[[int], StepRows]:
    """Return the rows of a proxy run: equally many of every domain, which count as the weights of their step say."""
    groups, rows = groups_of(settings, corpus)[: len(corpus.domains)], settings.train.rows_per_domain
    each = rows // place.processes
    mine = slice(place.rank * each, (place.rank + 1) * each)
    domains = torch.arange(len(groups), device=place.device).repeat_interleave(each)

    def read(step: int) -> StepRows:
        batch = read_rows(groups, seed=settings.seed, step=step, rows=rows, row_tokens=corpus.row_tokens)
        coefficients = (weights[step] / rows).to(place.device, torch.float32)
        return StepRows(batch[:, mine].flatten(0, 1).to(place.device), domains, coefficients[domains])

    return read


def sampled_rows(settings: Settings, corpus: CorpusData, place: Place, mixture: Mixture) -> Callable[[int], StepRows]:
    """Return the rows that a trainer with this mixture reads, as many as a proxy run has; all count alike."""
    total = len(corpus.domains) * settings.train.rows_per_domain
    stream = MixtureStream(
        mixture,
        {name: corpus.tokens[name] for name in corpus.domains},
        row_tokens=corpus.row_tokens,
        rank=place.rank,
        world=place.processes,
        seed=settings.seed,
    )
    each = total // place.processes
    drawn = np.stack([np.stack(stream.draw(each)) for _ in range(settings.train.steps)])

    def read(step: int) -> StepRows:
        domains, ordinals = drawn[step]
        tokens = torch.from_numpy(stream.read(domains, ordinals)).to(place.device)
        coefficients = torch.full((each,), 1 / total, device=place.device)
        return StepRows(tokens, torch.from_numpy(domains).to(place.device), coefficients)

    return read


def learning_rates(scheduler: LRScheduler, train: Loop) -> list[float]:
    """Return the learning rate of every step."""
    assert isinstance(scheduler, LambdaLR)  # what transformers makes
    return [train.lr * scheduler.lr_lambdas[0](step) for step in range(train.steps)]


def decay_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the weight decay of every parameter's entries (P,), as the optimizer's groups have it."""
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return torch.cat([torch.full((p.numel(),), decay.get(id(p), 0.0), device=p.device) for p in model.parameters()])


def has_dropout(model: nn.Module) -> bool:
    """Say whether a model drops something out in training."""
    layers = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return layers or any(bool(getattr(model.config, name, 0)) for name in ("attention_dropout", "attn_pdrop"))
