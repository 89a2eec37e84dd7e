"""Whether a mixture was worth it: base models trained on several mixtures, compared with a baseline's.

`summarize` turns the held-out losses of all runs into numbers (mixtures/compare/statistics.py has the intervals);
mixtures/compare/text.py says them in words, mixtures/plots/comparison.py draws them.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixtures.compare.statistics import (
    Difference,
    distinct_mixtures,
    mean_losses,
    paired_difference,
    residual_variance,
)
from mixtures.compare.tables import RUN, Runs, read_results
from mixtures.errors import UserError

SETTLED = 0.5  # differences before this part may leave the axis of differences


@dataclass(frozen=True)
class Outcome:
    """One mixture. Losses are nats per held-out token, means over the mixture's seeds; NaN where a seed diverged."""

    name: str
    weights: dict[str, float]  # share of trained tokens
    seeds: tuple[int, ...]  # run, diverged ones included
    diverged: tuple[int, ...]
    losses: dict[str, float]  # by domain
    mean_loss: float  # over the objective
    natural_loss: float  # over the training domains by their share of the corpus
    worst_loss: float  # of the objective's domains
    worst_domain: str  # "" where NaN
    perplexity: float  # geometric: exp of the mean loss
    arithmetic_perplexity: float  # mean over the objective of exp(loss)
    bits_per_byte: float  # mean over the objective
    difference: Difference | None  # of the mean loss to the baseline's; None for the baseline, diverged, no common seed
    by_seed: dict[int, float]  # difference of each pair, also where another seed diverged
    by_domain: dict[str, Difference]  # empty where `difference` is None
    flops_percent: float  # what learning the mixture took, in percent of one base run
    seconds_percent: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """All mixtures, the baseline first."""

    baseline: str
    outcomes: tuple[Outcome, ...]
    importance: dict[str, float]  # sum 1, domains of the objective only
    rows: dict[str, int]  # held-out rows of every domain
    step: int
    tokens: int
    seed_residual: float  # standard deviation (nats) between seeds that the seeds' and mixtures' means leave
    seed_degrees: int  # its degrees of freedom; 0: too few seeds to tell anything about other seeds
    best: str | None  # lowest of those distinguishably better than the baseline
    tied: tuple[str, ...]  # not distinguishable from the best
    curves: pd.DataFrame  # mixture, seed, step, tokens, loss over the objective

    def outcome(self, name: str) -> Outcome:
        """The outcome of the mixture `name`."""
        return next(outcome for outcome in self.outcomes if outcome.name == name)

    @property
    def compared(self) -> tuple[Outcome, ...]:
        """Mixtures with a difference to the baseline."""
        return tuple(outcome for outcome in self.outcomes if outcome.difference is not None)

    def to_frame(self) -> pd.DataFrame:
        """Return one line per mixture: mean_loss over the objective (nats per token), difference to the baseline with
        its 95 % interval low and high, pairs of seeds, and what learning it took in percent of a base run.

        Differences are NaN for the baseline, and for mixtures that diverged or share no seed with it.
        """
        rows = []
        for outcome in self.outcomes:
            end = outcome.difference
            ends = (np.nan, np.nan, np.nan, 0) if end is None else (end.value, end.low, end.high, len(outcome.by_seed))
            rows.append((outcome.name, outcome.mean_loss, *ends, outcome.flops_percent, outcome.seconds_percent))
        names = ["mixture", "mean_loss", "difference", "low", "high", "pairs", "flops_percent", "seconds_percent"]
        return pd.DataFrame(rows, columns=names)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table of `to_frame`."""
        title = f"<p>differences to {html.escape(self.baseline)}, nats per token</p>"
        return title + self.to_frame().to_html(index=False, float_format="{:.4g}".format)


def summarize(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    baseline: str,
    importance: Mapping[str, float],
    natural: Mapping[str, float],
    costs: Mapping[str, Mapping[str, float]],
    base_cost: Mapping[str, float],
    weights: Mapping[str, Mapping[str, float]],
) -> Comparison:
    """The comparison of every mixture in `results` with `baseline`.

    `results`: mixture, seed, step, tokens, domain, loss (nats per token), bits_per_byte. `rows`: mixture, seed, domain,
    row, loss, at the last step. `importance` {domain: weight} is the objective, `natural` {training domain: share},
    `costs` {mixture: {"seconds", "flops"}} what learning it took, `base_cost` the same of one base run, `weights`
    {mixture: {domain: share}}. A run with a loss that is not finite has diverged: its mixture gets no average and no
    difference; where it is the baseline, the seed is left out of the pairs. Raises UserError for tables that are not
    comparable and names that are not in them.
    """
    runs = read_results(results, rows, baseline=baseline)
    _check_names(runs, importance=importance, natural=natural, costs=costs, weights=weights)
    objective, shares = (
        _normalized(importance, runs.domains, "importance"),
        _normalized(natural, runs.domains, "natural"),
    )
    whole = [0, *(index for index in range(1, len(runs.mixtures)) if not runs.diverged[index].any())]
    pool = distinct_mixtures(runs.rows, among=whole)
    outcomes = []
    for index, name in enumerate(runs.mixtures):
        percent = {kind: _percent(costs[name][kind], base_cost[kind]) for kind in ("flops", "seconds")}
        levels = _levels(runs, index, objective=objective, natural=shares)
        differences = _differences(runs, index, objective=objective, pool=pool)
        facts: dict[str, Any] = {
            "weights": dict(weights[name]),
            "flops_percent": percent["flops"],
            "seconds_percent": percent["seconds"],
        }
        outcomes.append(Outcome(name=name, **levels, **differences, **facts))
    residual, degrees = residual_variance(mean_losses(runs.rows, objective)[pool])
    best, tied = _best(runs, outcomes, objective=objective, pool=pool)
    return Comparison(
        baseline=baseline,
        outcomes=tuple(outcomes),
        importance={name: float(weight) for name, weight in zip(runs.domains, objective, strict=True) if weight},
        rows={name: table.shape[2] for name, table in zip(runs.domains, runs.rows, strict=True)},
        step=runs.step,
        tokens=runs.tokens,
        seed_residual=float(np.sqrt(residual)),
        seed_degrees=degrees,
        best=best,
        tied=tied,
        curves=_curves(results, dict(zip(runs.domains, objective, strict=True))),
    )


def _levels(runs: Runs, index: int, *, objective: np.ndarray, natural: np.ndarray) -> dict[str, Any]:
    """Seeds and averages over them of one mixture."""
    diverged = runs.diverged[index]
    finished = runs.finished[index]
    whole = not diverged.any()
    losses = runs.losses[index][finished] if whole else np.full((1, len(runs.domains)), np.nan)
    bits = runs.bits_per_byte[index][finished].mean(axis=0) if whole else losses[0]
    mean = losses.mean(axis=0)  # (K,)
    used = objective > 0
    worst = int(np.argmax(np.where(used, mean, -np.inf)))
    with np.errstate(over="ignore"):  # a run that blew up without ending in NaN has perplexity inf
        perplexity = float(np.exp(mean @ objective))
        arithmetic = float((np.exp(losses[:, used]) @ objective[used]).mean())
    return {
        "seeds": tuple(np.array(runs.seeds)[finished | diverged].tolist()),
        "diverged": tuple(np.array(runs.seeds)[diverged].tolist()),
        "losses": dict(zip(runs.domains, mean.tolist(), strict=True)),
        "mean_loss": float(mean @ objective),
        "natural_loss": float(mean @ natural),
        "worst_loss": float(mean[worst]),
        "worst_domain": runs.domains[worst] if whole else "",
        "perplexity": perplexity,
        "arithmetic_perplexity": arithmetic,
        "bits_per_byte": float(bits @ objective),
    }


def _differences(runs: Runs, index: int, *, objective: np.ndarray, pool: Sequence[int]) -> dict[str, Any]:
    """Difference to the baseline (mixture 0) overall, by seed and by domain."""
    pairs = runs.finished[0] & runs.finished[index]
    gaps = (runs.losses[index] - runs.losses[0]) @ objective
    by_seed = {seed: float(gap) for seed, gap, pair in zip(runs.seeds, gaps, pairs, strict=True) if pair and index}
    if index == 0 or runs.diverged[index].any() or not pairs.any():
        return {"difference": None, "by_seed": by_seed, "by_domain": {}}
    place: dict[str, Any] = {"mixture": index, "reference": 0, "pool": pool}
    by_domain = {
        name: paired_difference([table], [1.0], **place) for name, table in zip(runs.domains, runs.rows, strict=True)
    }
    return {"difference": paired_difference(runs.rows, objective, **place), "by_seed": by_seed, "by_domain": by_domain}


def _best(
    runs: Runs, outcomes: Sequence[Outcome], *, objective: np.ndarray, pool: Sequence[int]
) -> tuple[str | None, tuple[str, ...]]:
    """(the best mixture, those not distinguishable from it); (None, ()) where none is better than the baseline."""
    values = {index: outcome.difference for index, outcome in enumerate(outcomes) if outcome.difference is not None}
    better = {index: difference.value for index, difference in values.items() if difference.better}
    if not better:
        return None, ()
    best = min(better, key=better.__getitem__)
    tied = []
    for index in values:
        lead = paired_difference(runs.rows, objective, mixture=index, reference=best, pool=pool)
        if index != best and (lead is None or not (lead.better or lead.worse)):
            tied.append(runs.mixtures[index])
    return runs.mixtures[best], tuple(tied)


def _curves(results: pd.DataFrame, objective: Mapping[str, float]) -> pd.DataFrame:
    """Mean loss over the objective at every evaluation of every run; NaN from where it diverged."""
    used = results[results["domain"].map(objective) > 0]
    weighted = used.assign(loss=used["loss"].where(np.isfinite(used["loss"])) * used["domain"].map(objective))
    return (
        weighted.groupby([*RUN, "step", "tokens"], sort=False)["loss"]
        .sum(min_count=used["domain"].nunique())
        .reset_index()
    )


def _normalized(values: Mapping[str, float], domains: Sequence[str], what: str) -> np.ndarray:
    """(K,) the values in the order of `domains`, sum 1; 0 for those left out."""
    array = np.array([values.get(name, 0.0) for name in domains], dtype=np.float64)
    if not (np.isfinite(array) & (array >= 0)).all() or not array.sum() > 0:
        raise UserError(f"{what} is {dict(values)}; give finite numbers of at least 0, one of them above 0")
    return array / array.sum()


def _percent(cost: float, base: float) -> float:
    """`cost` in percent of `base`; NaN where a base run's cost is not known (0 or NaN) and there is one."""
    return 0.0 if cost == 0 else 100 * cost / base if base > 0 else np.nan


def _check_names(
    runs: Runs,
    *,
    importance: Mapping[str, float],
    natural: Mapping[str, float],
    costs: Mapping[str, object],
    weights: Mapping[str, object],
) -> None:
    faults = []
    for what, names in (("importance", importance), ("natural", natural)):
        if unknown := [name for name in names if name not in runs.domains]:
            faults.append(f"{what} names {', '.join(unknown)}; the results hold {', '.join(runs.domains)}")
    for what, known in (("costs", costs), ("weights", weights)):
        if missing := [name for name in runs.mixtures if name not in known]:
            faults.append(f"{what} lack the mixture(s) {', '.join(missing)}; give one for every mixture in the results")
    if faults:
        raise UserError("\n".join(faults))


def curve_table(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (P,), losses (M, S, P)): NaN where a run has no value. Tokens at which no run has one are left out."""
    frame = comparison.curves
    seeds = sorted(frame["seed"].unique())
    table = frame.pivot(index=["mixture", "seed"], columns="tokens", values="loss").sort_index(axis=1)
    if comparison.curves["loss"].notna().any():  # a run that diverged between two evaluations ends there, with NaN
        table = table.dropna(axis=1, how="all")
    runs = [(outcome.name, seed) for outcome in comparison.outcomes for seed in seeds]
    losses = table.reindex(runs).to_numpy(dtype=np.float64)
    return table.columns.to_numpy(), losses.reshape(len(comparison.outcomes), len(seeds), -1)


def late(tokens: np.ndarray, part: float) -> np.ndarray:
    """The evaluations after `part` of the tokens, where these are more than a few; otherwise all."""
    late = tokens >= part * tokens[-1]
    return late if late.sum() > 3 else np.ones_like(late)
