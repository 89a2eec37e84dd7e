"""DoReMi's training step (arXiv 2305.10429, algorithm 1) and the settings of its reference run.

The mathematics is in doge/doremi.py.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import doge
from doge import sums
from doge.doremi import excess_losses, reweight
from proxies.place import Place, seed_step
from proxies.settings import Settings, Update
from proxies.step import Group, StepOutcome, descend, read_part, require_finite


def reference_settings(settings: Settings) -> Settings:
    """Return the settings of the run that trains the reference model, in RUN_DIR/reference.

    Model, seed, text and training loop are the same; it trains on the plain loss, weighted by the prior, and reads the
    same token cache.
    """
    path = settings.run_path
    return settings.model_copy(
        update={
            "run_dir": str(path / "reference"),
            "corpus": settings.corpus.model_copy(
                update={"cache_dir": settings.corpus.cache_dir or str(path.parent / "cache")}
            ),
            "train": settings.train.model_copy(update={"tracker": "none"}),
            "update": Update(preset="uniform", objective="universal", prior=settings.update.prior),
        }
    )


@dataclass
class DoremiStepper:
    """One update of the proxy and the domain weights (`state.weights`), called once per step.

    `reference` must be set before the first step. A step costs one forward pass of the reference more than a plain
    step. With train.accumulate above 1 it costs one of the proxy as well, because the weights depend on the losses of
    all micro-batches and must be known before the first of them is trained on.
    """

    settings: Settings
    groups: list[Group]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    place: Place
    state: doge.State
    reference: nn.Module | None = None

    def __call__(self, step: int, lr: float) -> StepOutcome:
        """Do step number `step` (from 0). `lr` is not used: the step size of the weights is `update.eta`."""
        names, constants = [group.name for group in self.groups], self.settings.constants
        mine = read_part(self.settings, self.groups, self.place, step=step, halves=1)
        losses, excess, graph = self._measure(mine, step)
        require_finite("loss", losses, names, step)
        require_finite("excess loss", excess, names, step)
        weights = reweight(self.state.weights, excess, eta=constants.eta, smoothing=constants.smoothing)
        require_finite("weight", weights, names, step)
        self.state = replace(self.state, weights=weights)
        self._backward(mine, weights, graph, step)
        norm = descend(self.model, self.optimizer, max_grad_norm=self.settings.train.max_grad_norm, step=step)
        return StepOutcome(losses, doge.Decision(weights, weights, excess), norm)

    def _measure(self, mine: list[doge.MicroBatch], step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the mean loss and the mean excess loss of every domain over the global batch, and token losses.

        Both means are (D,), float64, on the CPU. The token losses, with their graph, are returned if there is a single
        micro-batch; otherwise None.
        """
        assert self.reference is not None, "the reference is trained before the first step"
        means = sums.zeros(2, len(self.groups), device=self.place.device)
        single = len(mine) == 1
        seed_step(self.settings.seed, step, self.place.rank)
        for part in mine:
            with torch.no_grad():
                known = self._token_losses(self.reference, part)
            with torch.set_grad_enabled(single):
                tokens = self._token_losses(self.model, part)
            means += part.share * torch.stack([sums.mean(tokens.detach()), excess_losses(tokens, known)])
        losses, excess = (means if self.place.reduce is None else self.place.reduce(means)).cpu()
        return losses, excess, tokens if single else None

    def _backward(self, mine: list[doge.MicroBatch], weights: Tensor, graph: Tensor | None, step: int) -> None:
        """Add the gradient of sum_j weight_j * (mean token loss of domain j), over the global batch, to `.grad`."""
        seed_step(self.settings.seed, step, self.place.rank)  # a second forward pass drops what the first one dropped
        for part in mine:
            tokens = self._token_losses(self.model, part) if graph is None else graph
            factors = (weights * part.share).to(tokens)
            (factors @ tokens.mean(1)).backward()
        if self.place.reduce is not None:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.place.reduce(parameter.grad)

    def _token_losses(self, model: nn.Module, part: doge.MicroBatch) -> Tensor:
        """Return the losses (D, n) of the n tokens in every domain's rows, in nats."""
        return doge.token_losses(model, part.rows, autocast=self.place.autocast).reshape(len(self.groups), -1)
