"""A fit in one call: from a swarm's tables to the mixture with the best prediction."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.fit.optimum import Bounds, Optimum, as_mixture, find_optimum, limits, require_enough, unsupported
from mixtures.fit.surrogate import Surrogate, distinct, fit_surrogate
from mixtures.fit.swarm import Swarm, importances, read_like, read_swarm
from mixtures.fit.text import optimum_text, surrogate_text
from mixtures.schedule.bounds import Bound
from mixtures.schedule.mixture import Mixture


@dataclass(frozen=True)
class Fit:
    """A surrogate of a swarm, how good its predictions are, and the mixture with the best prediction."""

    swarm: Swarm
    surrogate: Surrogate
    optimum: Optimum | None  # None if the surrogate cannot rank mixtures
    bounds: Bounds
    refusal: str = ""  # why there is no optimum, and what to do

    @property
    def best(self) -> Optimum:
        """The mixture with the lowest predicted objective. Raises UserError if the surrogate cannot rank mixtures."""
        if self.optimum is None:
            raise UserError(self.refusal)
        return self.optimum

    @property
    def shares(self) -> dict[str, float]:
        """{domain: share} of the best mixture. Raises UserError as `best`."""
        return self.best.shares

    @property
    def mixture(self) -> Mixture | None:
        """The best mixture over the text of `like`; None if `like` was not given. Raises UserError as `best`."""
        if self.swarm.like is None:
            return None
        return as_mixture(self.best, self.surrogate, self.swarm, self.bounds)

    @property
    def worth(self) -> str:
        """The data of the fit, and how well each surrogate ranks mixtures that it has not seen, as text."""
        return surrogate_text(self.surrogate, self.swarm)

    @property
    def text(self) -> str:
        """The best mixture beside the mixtures tried, as text. Raises UserError as `best`."""
        return optimum_text(self.best, self.surrogate, self.swarm)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one line per domain, largest share first.

        Columns: domain, share, and the domain's mean_tried, lowest_tried and highest_tried share in the swarm.
        """
        tried = distinct(self.swarm.ratios, self.swarm.metrics)[0]
        names = sorted(self.shares, key=lambda name: -self.shares[name])
        columns = {"mean_tried": tried.mean(), "lowest_tried": tried.min(), "highest_tried": tried.max()}
        frame = pd.DataFrame({"domain": names, "share": [self.shares[name] for name in names]})
        return frame.assign(**{column: values[names].to_numpy() for column, values in columns.items()})

    def _repr_html_(self) -> str:
        """Return the table of `to_frame` and the text `worth` as HTML, which a notebook shows."""
        worth = f"<pre>{html.escape(self.worth)}</pre>"
        if self.optimum is None:
            return f"{worth}<p>{html.escape(self.refusal)}</p>"
        return worth + self.to_frame().to_html(index=False, float_format="{:.4f}".format)

    def save(self, path: str | Path) -> None:
        """Write the best mixture over the text of `like`; without `like`, write {domain: share}.

        Raises UserError as `best`, and OSError on a full disk.
        """
        if (mixture := self.mixture) is not None:
            mixture.save(path)
        else:
            write_atomic(path, json.dumps(self.shares, indent=1) + "\n")


def fit_swarm(
    tables: Sequence[str | Path],
    *,
    objective: Mapping[str, float] | None = None,
    model: str = "auto",
    like: str | Path | None = None,
    max_epochs: Bound = None,
    min_share: Bound = None,
    unique_tokens: Bound = None,
    token_budget: int | None = None,
    seed: int = 0,
    force: bool = False,
) -> Fit:
    """Regress a swarm's measurements on its mixtures' shares, and find the mixture with the best prediction.

    tables:     the files RATIOS and METRICS, or the directory of a comparison.
    objective:  {metric: importance}, lower is better; `*` stands for every metric that is not named.
    model:      the surrogate; auto takes the one with the best cross-validated rank correlation.
    like:       a mixture.json or run over the same text; caps count its tokens.
    max_epochs, min_share, unique_tokens, token_budget:  as in an export.
    seed:       seed of the folds and of boosting.
    force:      continue with too few mixtures, and if the surrogate cannot rank mixtures that it has not seen.

    If the surrogate cannot rank mixtures that it has not seen, the result has no optimum and says why. Raises UserError
    for damaged tables, and for too few mixtures.
    """
    swarm = read_swarm(tables)
    if like is not None:
        swarm = replace(swarm, like=read_like(like, list(swarm.ratios.columns)))
    importance = importances(swarm, objective or {})
    bounds = limits(
        swarm, max_epochs=max_epochs, min_share=min_share, unique_tokens=unique_tokens, token_budget=token_budget
    )
    if not force:
        require_enough(swarm)
    surrogate = fit_surrogate(swarm.ratios, swarm.metrics, importance=importance, model=model, seed=seed)
    if not force and (refusal := unsupported(surrogate)):
        return Fit(swarm, surrogate, None, bounds, refusal)
    return Fit(swarm, surrogate, find_optimum(surrogate, swarm, bounds), bounds)
