"""From the slopes of the objective to the next mixture: a mirror step inside a trust region. Pure functions."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from doge.stable import within_reach

GROW = 2.0  # of the trust region after a step that kept its promise
FURTHEST = 1e4  # log-odds beyond which a step is not lengthened: all weight is on the best domain
LARGEST = 0.5  # KL divergence that steps grow to (nats); search.radius may be larger
PROMISE = 0.5  # share of the predicted gain that has to come for the next step to be longer


@dataclass(frozen=True)
class Slopes:
    """How the objective changes with the weights at a mixture.

    weights:  the mixture (D,).
    value:    change of the objective per unit of each domain's weight (D,), less its mean over the mixture; nats.
    error:    standard error of `value` over seeds (D,); NaN for one seed.
    """

    weights: Float[np.ndarray, " D"]
    value: Float[np.ndarray, " D"]
    error: Float[np.ndarray, " D"]

    @property
    def signal(self) -> float:
        """Share of the slopes' spread that seeds agree on, 0 to 1; 1 for a single seed, which cannot say."""
        spread = float(self.weights @ self.value**2)
        if not np.isfinite(self.error).all():
            return 1.0
        return max(0.0, 1 - float(self.weights @ self.error**2) / spread) if spread > 0 else 0.0

    def step(self, divergence: float) -> Float[np.ndarray, " D"]:
        """Return the weights in proportion to weights * exp(-t * value) whose KL divergence from these is given.

        This is the mixture with the lowest predicted objective within the divergence. A domain without weight stays
        without. Where all of the weight on the best domain is not that far, so much of it as is within 1e-6.
        """
        present = self.weights > 0
        value = self.value[present]
        scale = float(np.abs(value).max())
        if scale == 0:
            return self.weights
        scores = torch.from_numpy(-FURTHEST * value / scale)
        weights = np.zeros_like(self.weights)
        weights[present] = within_reach(scores, torch.from_numpy(self.weights[present]), divergence).numpy()
        return weights

    def predict(self, weights: Float[np.ndarray, " D"]) -> float:
        """Return the change of the objective from here to other weights, to first order."""
        return float((weights - self.weights) @ self.value)


def slopes(effects: Float[np.ndarray, "K D"], weights: Float[np.ndarray, " D"]) -> Slopes:
    """Return the slopes at `weights` from the effects of K seeds, in nats per unit of a weight's logarithm.

    A domain without weight has no slope; it counts as the mean.
    """
    per_weight = np.divide(effects, weights, out=np.zeros_like(effects), where=weights > 0)
    centred = np.where(weights > 0, per_weight - effects.sum(1, keepdims=True), 0.0)
    count = len(effects)
    error = centred.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(weights), np.nan)
    return Slopes(weights, centred.mean(0), error)


@dataclass(frozen=True)
class TrustRegion:
    """How far the next step may go.

    radius:  KL divergence of the step from its start (nats).
    failed:  number of steps from the same start that gained nothing.
    hope:    after such a step, the most that a shorter one can be expected to gain (nats).
    """

    radius: float
    failed: int = 0
    hope: float = math.inf

    def after(self, *, predicted: float, came: float, error: float) -> "TrustRegion":
        """Return the region after a step that should have changed the objective by `predicted` and did by `came`."""
        grown = max(self.radius, min(LARGEST, self.radius * GROW)) if came <= PROMISE * predicted else self.radius
        if not gained(came=came, error=error):
            if came <= PROMISE * predicted:  # as promised, but too short to be seen
                return TrustRegion(grown, self.failed + 1)
            share, hope = lowest(predicted=predicted, came=came)
            return TrustRegion(self.radius * share**2, self.failed + 1, hope)  # KL grows with the square of a step
        return TrustRegion(grown)


def lowest(*, predicted: float, came: float) -> tuple[float, float]:
    """Return at which share of a step the objective is lowest, at most a half, and the gain there.

    On the parabola with the predicted slope at the step's start and with what came at its end, which was less than half
    of the gain predicted.
    """
    bend = came - predicted
    share = min(0.5, -predicted / (2 * bend))
    return share, -(predicted * share + bend * share**2)


def gained(*, came: float, error: float) -> bool:
    """Say whether a change of the objective is a gain beyond its standard error."""
    return came < 0 and -came > error
