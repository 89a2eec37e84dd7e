"""The comparison of base models trained on several mixtures with those trained on a baseline mixture.

`summarize` turns the held-out losses of all runs into numbers. mixtures/compare/statistics.py computes the intervals,
mixtures/compare/text.py writes the comparison in words, mixtures/plots/comparison.py draws it.
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

SAME = 1e-6  # largest difference of two shares that count as the same
SETTLED = 0.5  # share of the tokens before which differences may lie outside the plotted axis of differences


@dataclass(frozen=True)
class Outcome:
    """The results of one mixture. Losses are means over `averaged`, in nats per held-out token; NaN if one diverged."""

    name: str
    weights: dict[str, float]  # {domain: share of trained tokens}
    seeds: tuple[int, ...]  # seeds that were run, diverged ones included
    diverged: tuple[int, ...]
    averaged: tuple[int, ...]  # seeds of the mean losses: those that all mixtures have, or all of its own
    losses: dict[str, float]  # by domain
    mean_loss: float  # over the objective
    natural_loss: float  # mean over the training domains, weighted by their shares of the corpus
    worst_loss: float  # largest loss of a domain of the objective
    worst_domain: str  # the domain of worst_loss; "" where that is NaN
    perplexity: float  # geometric: exp of the mean loss
    arithmetic_perplexity: float  # mean over the objective of exp(loss)
    bits_per_byte: float  # mean over the objective
    # mean loss minus the baseline's; None for the baseline, a mixture that diverged, or no common seed
    difference: Difference | None
    by_seed: dict[int, float]  # difference of each pair of runs, also if another seed diverged
    by_domain: dict[str, Difference]  # difference of every domain's loss; empty if `difference` is None
    # difference over all training domains alike; None if they are the objective, or if `difference` is None
    trained: Difference | None
    against: dict[str, Difference]  # to the mixtures with uniform and with natural shares that are not the baseline
    flops_percent: float  # cost of learning the mixture, in percent of one base run
    seconds_percent: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of several mixtures; `outcomes` lists them, the baseline first."""

    baseline: str
    outcomes: tuple[Outcome, ...]
    importance: dict[str, float]  # {domain of the objective: importance}, sum 1
    rows: dict[str, int]  # {domain: number of held-out rows}
    step: int  # last step of the base runs
    tokens: int  # tokens trained up to that step
    seed_residual: float  # standard deviation (nats) over seeds that the means of seeds and of mixtures do not explain
    seed_degrees: int  # its degrees of freedom; 0 if there are too few seeds to say anything about other seeds
    best: str | None  # the mixture of lowest loss among those distinguishably better than the baseline
    tied: tuple[str, ...]  # mixtures not distinguishable from the best
    curves: pd.DataFrame  # mixture, seed, step, tokens, loss over the objective

    def outcome(self, name: str) -> Outcome:
        """Return the outcome of the mixture `name`."""
        return next(outcome for outcome in self.outcomes if outcome.name == name)

    @property
    def compared(self) -> tuple[Outcome, ...]:
        """Mixtures with a difference to the baseline."""
        return tuple(outcome for outcome in self.outcomes if outcome.difference is not None)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one line per mixture.

        Columns: mixture; mean_loss over the objective (nats per token); difference to the baseline, with low and high,
        the ends of its 95 % interval; pairs, the number of common seeds; flops_percent and seconds_percent, the cost of
        learning the mixture in percent of a base run. Differences are NaN for the baseline, and for mixtures that
        diverged or share no seed with it.
        """
        rows = []
        for outcome in self.outcomes:
            end = outcome.difference
            ends = (np.nan, np.nan, np.nan, 0) if end is None else (end.value, end.low, end.high, len(outcome.by_seed))
            rows.append((outcome.name, outcome.mean_loss, *ends, outcome.flops_percent, outcome.seconds_percent))
        names = ["mixture", "mean_loss", "difference", "low", "high", "pairs", "flops_percent", "seconds_percent"]
        return pd.DataFrame(rows, columns=names)

    def _repr_html_(self) -> str:
        """Return the table of `to_frame` as HTML, which a notebook shows."""
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
    """Compare every mixture in `results` with `baseline`.

    results:     table with columns mixture, seed, step, tokens, domain, loss (nats per token), bits_per_byte.
    rows:        table of the last step with columns mixture, seed, domain, row, loss.
    importance:  {domain: weight}, the objective.
    natural:     {training domain: share of the corpus}.
    costs:       {mixture: {"seconds", "flops"}}, the cost of learning it.
    base_cost:   {"seconds", "flops"} of one base run.
    weights:     {mixture: {domain: share}}.

    A run with a loss that is not finite has diverged: its mixture gets no average and no difference. If the run is one
    of the baseline, its seed is left out of the pairs. Raises UserError for tables that are not comparable, and for
    names that are not in them.
    """
    runs = read_results(results, rows, baseline=baseline)
    _check_names(runs, importance=importance, natural=natural, costs=costs, weights=weights)
    objective, shares = (
        _normalized(importance, runs.domains, "importance"),
        _normalized(natural, runs.domains, "natural"),
    )
    whole = [0, *(index for index in range(1, len(runs.mixtures)) if not runs.diverged[index].any())]
    pool = distinct_mixtures(runs.rows, among=whole)
    shared = np.logical_and.reduce(runs.finished[whole])
    references = _references(runs.mixtures, weights, natural)
    outcomes = []
    for index, name in enumerate(runs.mixtures):
        percent = {kind: _percent(costs[name][kind], base_cost[kind]) for kind in ("flops", "seconds")}
        levels = _levels(runs, index, objective=objective, natural=shares, shared=shared)
        differences = _differences(runs, index, objective=objective, trained=shares > 0, pool=pool)
        against = {
            runs.mixtures[other]: difference
            for other in references
            if other not in (0, index)  # 0: the baseline, which `difference` is about
            and not runs.diverged[[index, other]].any()
            and (difference := paired_difference(runs.rows, objective, mixture=index, reference=other, pool=pool))
        }
        facts: dict[str, Any] = {
            "weights": dict(weights[name]),
            "flops_percent": percent["flops"],
            "seconds_percent": percent["seconds"],
        }
        outcomes.append(Outcome(name=name, **levels, **differences, against=against, **facts))
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


def _references(
    names: Sequence[str], weights: Mapping[str, Mapping[str, float]], natural: Mapping[str, float]
) -> list[int]:
    """Return the numbers of the first mixture with uniform and of the first with natural shares, if they are there."""
    total = sum(natural.values())
    found = []
    for shares in (dict.fromkeys(natural, 1 / len(natural)), {name: share / total for name, share in natural.items()}):
        same = (
            number
            for number, name in enumerate(names)
            if all(abs(weights[name].get(domain, 0.0) - share) < SAME for domain, share in shares.items())
        )
        found += [number] if (number := next(same, None)) is not None else []
    return list(dict.fromkeys(found))


def _levels(
    runs: Runs, index: int, *, objective: np.ndarray, natural: np.ndarray, shared: np.ndarray
) -> dict[str, Any]:
    """Return one mixture's seeds and its averages over them, as fields of `Outcome`.

    shared: seeds (S,) that all mixtures have, bool.
    """
    diverged = runs.diverged[index]
    finished = runs.finished[index]
    whole = not diverged.any()
    averaged = shared if shared.any() else finished
    losses = runs.losses[index][averaged] if whole else np.full((1, len(runs.domains)), np.nan)
    bits = runs.bits_per_byte[index][averaged].mean(axis=0) if whole else losses[0]
    mean = losses.mean(axis=0)  # (K,)
    used = objective > 0
    worst = int(np.argmax(np.where(used, mean, -np.inf)))
    with np.errstate(over="ignore"):  # a run whose loss became very large, but not NaN, has perplexity inf
        perplexity = float(np.exp(mean @ objective))
        arithmetic = float((np.exp(losses[:, used]) @ objective[used]).mean())
    return {
        "seeds": tuple(np.array(runs.seeds)[finished | diverged].tolist()),
        "diverged": tuple(np.array(runs.seeds)[diverged].tolist()),
        "averaged": tuple(np.array(runs.seeds)[averaged].tolist()) if whole else (),
        "losses": dict(zip(runs.domains, mean.tolist(), strict=True)),
        "mean_loss": float(mean @ objective),
        "natural_loss": float(mean @ natural),
        "worst_loss": float(mean[worst]),
        "worst_domain": runs.domains[worst] if whole else "",
        "perplexity": perplexity,
        "arithmetic_perplexity": arithmetic,
        "bits_per_byte": float(bits @ objective),
    }


def _differences(
    runs: Runs, index: int, *, objective: np.ndarray, trained: np.ndarray, pool: Sequence[int]
) -> dict[str, Any]:
    """Return one mixture's differences to the baseline (mixture 0), as fields of `Outcome`.

    trained: which domains (K,) are training domains, bool.
    """
    pairs = runs.finished[0] & runs.finished[index]
    gaps = (runs.losses[index] - runs.losses[0]) @ objective
    by_seed = {seed: float(gap) for seed, gap, pair in zip(runs.seeds, gaps, pairs, strict=True) if pair and index}
    if index == 0 or runs.diverged[index].any() or not pairs.any():
        return {"difference": None, "by_seed": by_seed, "by_domain": {}, "trained": None}
    place: dict[str, Any] = {"mixture": index, "reference": 0, "pool": pool}
    by_domain = {
        name: paired_difference([table], [1.0], **place) for name, table in zip(runs.domains, runs.rows, strict=True)
    }
    alike = trained / trained.sum()
    return {
        "difference": paired_difference(runs.rows, objective, **place),
        "by_seed": by_seed,
        "by_domain": by_domain,
        "trained": None if np.allclose(alike, objective) else paired_difference(runs.rows, alike, **place),
    }


def _best(
    runs: Runs, outcomes: Sequence[Outcome], *, objective: np.ndarray, pool: Sequence[int]
) -> tuple[str | None, tuple[str, ...]]:
    """Return (best mixture, mixtures not distinguishable from it); (None, ()) if none is better than the baseline."""
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
    """Return the mean loss over the objective at every evaluation of every run; NaN after the run diverged."""
    used = results[results["domain"].map(objective) > 0]
    weighted = used.assign(loss=used["loss"].where(np.isfinite(used["loss"])) * used["domain"].map(objective))
    return (
        weighted.groupby([*RUN, "step", "tokens"], sort=False)["loss"]
        .sum(min_count=used["domain"].nunique())
        .reset_index()
    )


def _normalized(values: Mapping[str, float], domains: Sequence[str], what: str) -> np.ndarray:
    """Return the values (K,) in the order of `domains`, scaled to sum 1; 0 for domains that have none."""
    array = np.array([values.get(name, 0.0) for name in domains], dtype=np.float64)
    if not (np.isfinite(array) & (array >= 0)).all() or not array.sum() > 0:
        raise UserError(f"{what} is {dict(values)}; give finite numbers of at least 0, one of them above 0")
    return array / array.sum()


def _percent(cost: float, base: float) -> float:
    """Return `cost` in percent of `base`: 0 for a cost of 0; NaN if the cost of a base run is not known (0 or NaN)."""
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
    """Return (tokens (P,), losses (M, S, P)) of all evaluations; NaN where a run has no value.

    Evaluations at which no run has a value are left out.
    """
    frame = comparison.curves
    seeds = sorted(frame["seed"].unique())
    table = frame.pivot(index=["mixture", "seed"], columns="tokens", values="loss").sort_index(axis=1)
    if comparison.curves["loss"].notna().any():  # a run that diverged between two evaluations ends with NaN
        table = table.dropna(axis=1, how="all")
    runs = [(outcome.name, seed) for outcome in comparison.outcomes for seed in seeds]
    losses = table.reindex(runs).to_numpy(dtype=np.float64)
    return table.columns.to_numpy(), losses.reshape(len(comparison.outcomes), len(seeds), -1)


def late(tokens: np.ndarray, part: float) -> np.ndarray:
    """Mark the evaluations after `part` of the tokens, bool (P,); mark all if those are three or fewer."""
    late = tokens >= part * tokens[-1]
    return late if late.sum() > 3 else np.ones_like(late)
