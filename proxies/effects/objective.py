"""The objective at the end of a run, on held-out rows that nothing is evaluated on: its losses and its gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doge import sums
from doge.adjoint import Weights
from mixtures.errors import UserError
from mixtures.stream.tokens import as_rows
from proxies.corpus.corpus import CorpusData
from proxies.evaluate import TOKENS
from proxies.place import Place
from proxies.settings import Settings
from proxies.step import groups_of


@dataclass(frozen=True)
class HeldOut:
    """Rows (n, T) of every domain and target that an objective counts."""

    rows: Mapping[str, Tensor]
    place: Place

    def measure(
        self, weights: Weights, theta: Tensor, objectives: Sequence[Mapping[str, float]] = ()
    ) -> tuple[dict[str, Tensor], Float[Tensor, "F P"]]:
        """Return the loss of every row (n,), float64 on the CPU, and the gradients (F, P) of the objectives by theta.

        An objective is {domain or target: importance}; its value is the sum of importance times mean row loss. Without
        objectives, no gradient is computed. Rank r of n processes computes every n-th row.
        """
        losses = {name: sums.zeros(len(rows), device=self.place.device) for name, rows in self.rows.items()}
        ends = torch.zeros(len(objectives), len(theta), dtype=theta.dtype, device=theta.device)
        theta = theta.detach().requires_grad_(bool(objectives))
        for name, rows in self.rows.items():
            mine = torch.arange(len(rows))[self.place.rank :: self.place.processes]
            for part in mine.split(max(1, TOKENS // rows.shape[1])):
                values = weights.losses(theta, rows[part].to(self.place.device)).mean(1)
                losses[name][part] = sums.widened(values.detach())
                if objectives:
                    (gradient,) = torch.autograd.grad(values.sum() / len(rows), theta)
                    for end, objective in zip(ends, objectives, strict=True):
                        end += objective.get(name, 0.0) * gradient
        if self.place.reduce is not None:
            for each in (*losses.values(), ends):
                self.place.reduce(each)
        return {name: values.cpu() for name, values in losses.items()}, ends


def held_out(settings: Settings, corpus: CorpusData, place: Place, *, rows: int) -> HeldOut:
    """Return at most `rows` rows of every domain and target of the objective, evenly spread over their text.

    These are held-out rows beside those that are evaluated, and for a target its text. So what is chosen by them can be
    evaluated on the others. Raises UserError where a domain has fewer than two such rows: one has no standard error.
    """
    asked = settings.model_copy(update={"update": settings.update.model_copy(update={"held_out": True})})
    chosen = {}
    for group in groups_of(asked, corpus)[len(corpus.domains) :]:
        all_rows = as_rows(np.asarray(group.tokens), corpus.row_tokens)
        name, count = group.name.removesuffix("@held_out"), min(rows, len(all_rows))
        if count < 2:
            raise UserError(
                f"the objective is measured on held-out rows that are not evaluated, and {name} has {count} of them, "
                "too few for a standard error; lower train.evaluate_rows, raise corpus.held_out or give more text"
            )
        places = np.arange(count) * len(all_rows) // count
        chosen[name] = torch.from_numpy(all_rows[places].astype(np.int64))
    return HeldOut(chosen, place)
