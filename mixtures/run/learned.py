"""What runs learned: the mean of their weights, an interval per weight, and how far the mean is shrunk to the prior."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtures.errors import UserError
from mixtures.run.average import Average, Shrink, stage_averages, tail_average
from mixtures.run.run import RunRecord
from mixtures.schedule.records import Uncertainty
from mixtures.schedule.uncertainty import Estimate, estimate, shrunk


@dataclass(frozen=True)
class Learned:
    """Learned weights with their intervals and the record of both.

    weights: (stages, D), every row sums to 1. intervals: {name: (low, high)} per stage. Where nothing shows how the
    weights vary, intervals and record are None.
    """

    weights: np.ndarray
    intervals: tuple[dict[str, tuple[float, float]] | None, ...]
    record: Uncertainty | None


def average_runs(
    runs: Sequence[RunRecord],
    names: Sequence[str],
    *,
    stages: int = 1,
    average: Average = "all",
    shrink: Shrink = "auto",
) -> Learned:
    """Return the plain mean over `runs` of their average weights, domains in the order of `names`.

    shrink: auto draws the mean to the prior as far as its evidence is weak; none keeps it.
    Intervals are of the mean before shrinkage, widened where shrinkage moved a weight out of its interval. Replicates
    are of a run's average over all steps: for a tail or for stages only the spread between the runs counts. Raises
    UserError for impossible stages and damaged replicates.
    """
    if stages > 1 and average == "tail":
        raise UserError(
            f"average tail with {stages} stages: the tail is one average over the last half of the steps, stages are "
            "averages over the whole run; give one of the two"
        )
    shares = np.stack([_stage_weights(run, names, stages, average) for run in runs])
    replicates = _replicates(runs, names) if stages == 1 and average == "all" else []
    prior = np.mean([run.prior[_order(run, names)] for run in runs], axis=0)
    mean = shares.mean(axis=0)
    mean /= mean.sum(axis=1, keepdims=True)
    by_stage = [
        estimate(stage, prior=prior, replicates=replicates, targets=any(run.has_targets for run in runs))
        for stage in shares.swapaxes(0, 1)
    ]
    estimates = [each for each in by_stage if each is not None]
    if len(estimates) < stages:
        return Learned(mean, (None,) * stages, None)
    factors = [each.factor if shrink == "auto" else 1.0 for each in estimates]
    weights = np.stack([shrunk(row, prior=prior, factor=factor) for row, factor in zip(mean, factors, strict=True)])
    record = Uncertainty(
        runs=len(runs),
        replicates=sum(len(each) for each in replicates),
        prior=_named(names, prior),
        signal=tuple(each.signal for each in estimates),
        needed=tuple(each.needed for each in estimates),
        factor=tuple(factors),
        mean=tuple(_named(names, row) for row in mean) if shrink == "auto" else (),
    )
    return Learned(
        weights, tuple(_interval(names, each, row) for each, row in zip(estimates, weights, strict=True)), record
    )


def _interval(names: Sequence[str], estimate: Estimate, weights: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return {name: (low, high)} of a stage, widened to contain the weights (D,)."""
    low, high = np.minimum(estimate.low, weights), np.maximum(estimate.high, weights)
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _named(names: Sequence[str], shares: np.ndarray) -> dict[str, float]:
    """Return the shares (D,) as {name: share}."""
    return dict(zip(names, shares.tolist(), strict=True))


def _order(run: RunRecord, names: Sequence[str]) -> list[int]:
    """Return the place of every name among the run's domains."""
    return [run.trajectory.domains.index(name) for name in names]


def _replicates(runs: Sequence[RunRecord], names: Sequence[str]) -> list[np.ndarray]:
    """Return one array (B, D) per run that has replicates."""
    return [np.take(run.replicates, _order(run, names), axis=1) for run in runs if run.replicates is not None]


def _stage_weights(run: RunRecord, names: Sequence[str], stages: int, average: Average) -> np.ndarray:
    """Return one run's average weights (stages, D), domains in the order of `names`."""
    tokens = run.trajectory.tokens
    weights = run.trajectory.weights[:, _order(run, names)]
    if not 1 <= stages <= len(tokens):
        raise UserError(f"{stages} stages: {run.path} has {len(tokens)} steps; allowed: 1 to {len(tokens)}")
    if average == "tail":
        return tail_average(weights, tokens)[None]
    return stage_averages(weights, tokens, stages=stages)
