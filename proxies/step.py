"""One update of the proxy and the domain weights: rows of every group, one backward pass, the rule, the optimizer."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

import doge
from doge import sums
from doge.presence import presence_temperature
from mixtures.errors import UserError
from mixtures.schedule.manifest import effective_sample_size
from proxies.corpus import batches
from proxies.corpus.batches import evaluated_part, step_rows
from proxies.corpus.corpus import CorpusData
from proxies.corpus.pool import Pool
from proxies.place import Place, seed_step
from proxies.settings import Settings


@dataclass(frozen=True)
class Group:
    """Rows whose gradient is taken together: a training domain, a target, or held-out rows for the objective."""

    name: str
    tokens: np.ndarray | Pool
    importance: float
    target: bool = False  # nothing trains on it

    def is_divided(self, row_tokens: int) -> bool:
        """Say whether the halves of a step read different rows; they need two rows of every domain in the group."""
        members = self.tokens.tokens.values() if isinstance(self.tokens, Pool) else [self.tokens]
        return all(len(tokens) >= 2 * row_tokens for tokens in members)

    def rows(self, *, seed: int, step: int, rows: int, row_tokens: int) -> np.ndarray:
        """Return the rows (N, T) of token ids, int64, that `step` (from 0) reads."""
        if isinstance(self.tokens, Pool):
            return self.tokens.step_rows(seed=seed, step=step, rows=rows, row_tokens=row_tokens)
        return step_rows(self.tokens, seed=seed, domain=self.name, step=step, rows_per_step=rows, row_tokens=row_tokens)


def groups_of(settings: Settings, corpus: CorpusData) -> list[Group]:
    """Return the groups of a run: the D training domains first, then the groups that only serve the objective.

    These are the objective's targets and, with `update.held_out`, a group of held-out rows per domain. A held-out group
    reads the part of the held-out text that is never evaluated. Raises UserError if that part is empty.
    """
    importance = settings.importance
    held_out = settings.update.held_out
    groups = []
    for name in corpus.domains:
        members = corpus.members(name)
        tokens = corpus.tokens[name] if corpus.pool is None or members == (name,) else corpus.pool
        groups.append(Group(name, tokens, 0.0 if held_out else sum(importance.get(each, 0.0) for each in members)))
    for name, value in importance.items():
        if name in corpus.targets:
            groups.append(Group(name, corpus.tokens[name], value, target=True))
        elif held_out:
            rows = len(corpus.held_out[name]) // corpus.row_tokens
            evaluated = evaluated_part(rows, settings.train.evaluate_rows)
            rest = corpus.held_out[name][evaluated * corpus.row_tokens :]
            if evaluated == rows:
                raise UserError(
                    f"the objective needs held-out rows of {name} beside the {settings.train.evaluate_rows} that "
                    f"train.evaluate_rows takes; {name} has {rows} in all. "
                    "Lower train.evaluate_rows or raise corpus.held_out"
                )
            groups.append(Group(f"{name}@held_out", rest, value))
    return groups


def halves_of(settings: Settings) -> int:
    """Return 2 if every group's rows split into two equal halves, which makes the gram's diagonal unbiased; else 1."""
    return batches.halves_of(settings.train.rows_per_domain)


def read_rows(groups: list[Group], *, seed: int, step: int, rows: int, row_tokens: int) -> Tensor:
    """Return the global batch (G, N, T) of a step (from 0), int64; it depends on seed and step alone."""
    return torch.from_numpy(
        np.stack([group.rows(seed=seed, step=step, rows=rows, row_tokens=row_tokens) for group in groups])
    )


def split(batch: Tensor, *, halves: int, slices: int) -> list[doge.MicroBatch]:
    """Split the batch (G, N, T) along N into `slices` micro-batches, each with N/slices rows of every group.

    The processes take consecutive micro-batches. The first N/2 rows of a group are its first half. A micro-batch has
    rows of one half; if the number of micro-batches is odd, the middle one has rows of both.
    """
    groups, rows, row_tokens = batch.shape
    size = rows // slices
    parts = []
    for start in range(0, rows, size):
        part = batch[:, start : start + size]
        if halves == 1:
            parts.append(doge.MicroBatch(part.reshape(-1, row_tokens), 0, groups, size / rows, start))
        elif start < rows // 2 < start + size:
            half_major = part.unflatten(1, (2, size // 2)).transpose(0, 1)
            parts.append(doge.MicroBatch(half_major.reshape(-1, row_tokens), 0, 2 * groups, size / 2 / rows, start))
        else:
            first = groups if start >= rows // 2 else 0
            parts.append(doge.MicroBatch(part.reshape(-1, row_tokens), first, groups, size / rows, start))
    return parts


@dataclass(frozen=True)
class StepOutcome:
    """What a step computed, for the records.

    losses:          mean loss of every group over the global batch (G,), in nats per token.
    decision:        the domain weights and alignments.
    gradient_norm:   norm of the combined gradient before clipping.
    gram:            inner products of the groups' gradients; None if the rule uses none.
    sample_weights:  weights (D, U) of the U units of every domain; None if samples are not weighted.
    """

    losses: Tensor
    decision: doge.Decision
    gradient_norm: float
    gram: doge.Gram | None = None
    sample_weights: Tensor | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The trajectory's values by kind of column, as `mixtures.run.trajectory.step_row` takes them."""
        arrays = {"weight": self.decision.weights, "alignment": self.decision.alignment, "loss": self.losses}
        if self.gram is not None:
            arrays |= {"norm": self.gram.norms, "gram": self.gram.products}
            if self.gram.self_products is not None:
                arrays["self_product"] = self.gram.self_products
        if self.decision.parts is not None:  # the third part, the self products, is recorded already
            arrays |= {"step_alignment": self.decision.parts[0], "step_target_alignment": self.decision.parts[1]}
        columns = {kind: values.numpy() for kind, values in arrays.items()}
        if self.sample_weights is not None:
            weights = self.sample_weights.numpy()
            alike = np.ones(weights.shape[1])  # units have equally many tokens
            columns["sample_spread"] = weights.std(1)
            columns["sample_ess"] = np.array([effective_sample_size(one, alike) for one in weights])
        return columns


@dataclass
class Stepper:
    """One update of the proxy and the domain weights, called once per step; `state` is the state of the rule."""

    settings: Settings
    groups: list[Group]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    place: Place
    gradients: doge.GroupGradients
    prior: Tensor
    state: doge.State

    def __call__(self, step: int, lr: float) -> StepOutcome:
        """Do step number `step` (from 0)."""
        train, constants = self.settings.train, self.settings.constants
        mine = read_part(self.settings, self.groups, self.place, step=step, halves=self.gradients.halves)
        seed_step(self.settings.seed, step, self.place.rank)
        objective = doge.Objective(
            importance=torch.tensor([group.importance for group in self.groups], dtype=torch.float64),
            targets=torch.tensor([group.target for group in self.groups]),
            worst=self.settings.update.aggregate == "worst",
        )
        decisions: list[doge.Decision] = []

        def decide(losses: Tensor, gram: doge.Gram) -> Tensor:
            names = [group.name for group in self.groups]
            require_finite("loss", losses, names, step)
            require_finite("squared gradient norm", gram.products.diagonal(), names, step)
            require_finite("gram", gram.products.sum(1), names, step)
            self.state, decision = doge.update(
                gram,
                losses,
                self.state,
                constants=constants,
                prior=self.prior,
                objective=objective,
                lr=lr,
                max_grad_norm=train.max_grad_norm,
            )
            require_finite("weight", decision.weights, names, step)
            decisions.append(decision)
            return decision.coefficients

        computed = self.gradients.step(
            mine,
            decide=decide,
            lagged=self.state.weights if constants.order == "lagged" else None,
            metric=adam_geometry(self.optimizer) if constants.geometry == "adam" else lambda parameter, part: None,
            reduce=self.place.reduce,
            presence=self._presence(step),
        )
        norm = descend(self.model, self.optimizer, max_grad_norm=train.max_grad_norm, step=step)
        return StepOutcome(computed.losses, decisions[0], norm, computed.gram, computed.sample_weights)

    def _presence(self, step: int) -> doge.Presence | None:
        """Return how this step weighs the samples inside domains; None if they are not weighted."""
        online = self.settings.samples.presence
        if online is None:
            return None
        temperature = presence_temperature(
            step / self.settings.train.steps, temperature=online.temperature, switch_at=online.switch_at
        )
        return doge.Presence(temperature, domains=len(self.prior), scope=online.scope, unit_rows=online.unit_rows)


def adam_metric(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, part: slice) -> Tensor | None:
    """Return Adam's geometry for a part of a parameter: 1 / (sqrt(v) + 0.1 * typical sqrt(v) + eps).

    v is Adam's second moment, corrected for its bias. Before Adam's first step the function returns None. Without the
    second term, embeddings of words that no step has seen yet (v = 0) would outweigh all others at their first
    gradient. The typical sqrt(v) is sum(v) / sum(sqrt(v)), the mean in which an entry counts by its own sqrt(v): rows
    that no step has reached add nothing, so it does not depend on how many words a vocabulary has beside those that
    occur. A parameter that no step has reached at all counts for nothing.
    """
    state = optimizer.state.get(parameter)
    if not state:
        return None
    root = (state["exp_avg_sq"] / (1 - optimizer.defaults["betas"][1] ** state["step"].item())).sqrt_()
    total = sums.total(root.flatten())
    typical = sums.total(root.square().flatten()) / total.clamp(min=torch.finfo(torch.float64).tiny)
    return (total > 0).to(root) / (root[part] + (0.1 * typical).to(root) + optimizer.defaults["eps"])


def adam_geometry(optimizer: torch.optim.Optimizer) -> Callable[[nn.Parameter, slice], Tensor | None]:
    """Return `adam_metric` for one step: a parameter that comes in several parts, one after the other, is done once."""
    parameter_done: nn.Parameter | None = None
    whole: Tensor | None = None

    def metric(parameter: nn.Parameter, part: slice) -> Tensor | None:
        nonlocal parameter_done, whole
        if parameter is not parameter_done:
            parameter_done, whole = parameter, adam_metric(optimizer, parameter, slice(None))
        return None if whole is None else whole[part]

    return metric


def read_part(
    settings: Settings, groups: list[Group], place: Place, *, step: int, halves: int
) -> list[doge.MicroBatch]:
    """Return this process's rows of step number `step` (from 0), as train.accumulate micro-batches on its device."""
    train = settings.train
    batch = read_rows(
        groups, seed=settings.seed, step=step, rows=train.rows_per_domain, row_tokens=settings.corpus.row_tokens
    )
    parts = split(batch, halves=halves, slices=place.processes * train.accumulate)
    mine = parts[place.rank * train.accumulate : (place.rank + 1) * train.accumulate]
    return [replace(part, rows=part.rows.to(place.device)) for part in mine]


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float, step: int) -> float:
    """Clip the combined gradient, do the optimizer's step, and clear the gradient; return its norm before clipping.

    Raises UserError if the norm is not finite.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    require_finite("combined gradient", torch.tensor([norm]), ["all domains"], step)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def require_finite(what: str, values: Tensor, names: list[str], step: int) -> None:
    """Raise UserError that names the step and every domain whose value is not finite, if there are any."""
    bad = [f"{name} ({value})" for name, value in zip(names, values.tolist(), strict=False) if not np.isfinite(value)]
    if bad:
        raise UserError(
            f"non-finite {what} at step {step + 1}: {', '.join(bad)}. The last checkpoint is from before it. Look at "
            "that domain's text, lower train.lr, raise train.warmup_steps, or use precision fp32"
        )
