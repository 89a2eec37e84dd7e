"""How sure learned weights are: an interval per weight, and how far the weights may leave the prior. Pure functions.

Everything is in log-odds, log(w / (1 - w)): there noise is about the same for small and large weights, and intervals
stay inside 0 to 1. D domains; R runs that differ by their seed. Two sources say how much a run's weights vary:

- *seeds*: the spread between the runs. It contains all noise, but two or three runs say little about one domain. So
  every domain's variance is drawn to the mean over the domains (moderated variances: Smyth 2004, doi
  10.2202/1544-6115.1027).
- *replicates*: a run's weights if its steps had been drawn again in blocks (`mixtures.run.replicates`). They say how
  the noise differs between domains, and are the only source with one run. They cannot show what another seed would
  change. With several runs the spread between the runs sets their level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, fdtri, logit, stdtrit

LEVEL = 0.95
# degrees of freedom of the variance that the domains share; measured: tests/mixtures/schedule/test_uncertainty.py
POOLED = 4
REPLICATED = 6  # degrees of freedom of the variance of replicates
LEAST_VARIANCE = 0.1  # least variance of a domain's replicates, as a fraction of the domains' mean
LEAST_SHARE = 1e-6  # smaller shares count as this one: the log-odds of 0 are not finite


@dataclass(frozen=True)
class Estimate:
    """Mean weights of runs, their interval and their signal to noise; arrays are (D,).

    signal: mean square of (log-odds of the mean - log-odds of the prior) / standard error, over D - 1; noise alone
    gives 1.
    needed: its 95 % quantile if the runs varied around the prior (F distribution).
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    signal: float
    needed: float

    @property
    def factor(self) -> float:
        """Return the `shrink_factor` of this signal."""
        return shrink_factor(self.signal, self.needed)


def estimate(shares: np.ndarray, *, prior: np.ndarray, replicates: Sequence[np.ndarray] = ()) -> Estimate | None:
    """Return the mean over runs of `shares` (R, D) with its 95 % interval; None where nothing shows how weights vary.

    prior: (D,). replicates: one array (B, D) per run that has replicates. The result is None for one run without
    replicates, for weights that never vary (a rule that does not learn), and for one domain.
    """
    runs, count = shares.shape
    if count < 2 or (runs < 2 and not replicates):
        return None
    variance, freedom = _variance(shares, replicates)
    if variance.max() < 1e-20:
        return None
    mean = shares.mean(axis=0)
    centre, error = log_odds(mean), np.sqrt(variance / runs)
    reach = stdtrit(freedom, (1 + LEVEL) / 2) * error
    departure = (centre - log_odds(prior)) / error
    return Estimate(
        mean=mean,
        low=np.minimum(expit(centre - reach), mean),
        high=np.maximum(expit(centre + reach), mean),
        signal=float((departure**2).sum() / (count - 1)),
        needed=float(fdtri(count - 1, freedom, LEVEL)),
    )


def shrink_factor(signal: float, needed: float) -> float:
    """Return the factor for log-ratios to the prior: 1 - 1/signal, and 0 where signal is less than needed.

    Squared departures are the true ones plus noise, and `signal` counts noise as 1, so the fraction 1 - 1/signal of
    them is true: the positive part of James and Stein's estimator (1961) without its correction for few domains. That
    estimator alone leaves the prior in half of the studies in which the prior is the truth; after the F test it does so
    in one of twenty.
    """
    return 0.0 if signal < needed else max(0.0, 1 - 1 / signal)


def shrunk(mean: np.ndarray, *, prior: np.ndarray, factor: float) -> np.ndarray:
    """Return weights (D,) proportional to prior * (mean / prior)^factor, sum 1: 0 gives the prior, 1 the mean."""
    if factor in (0, 1):  # exactly, to the last bit
        return mean if factor else prior
    weights = prior * (mean / prior) ** factor
    return weights / weights.sum()


def log_odds(shares: np.ndarray) -> np.ndarray:
    """Return log(w / (1 - w)) of shares, which are first clipped to LEAST_SHARE and 1 - LEAST_SHARE."""
    return logit(np.clip(shares, LEAST_SHARE, 1 - LEAST_SHARE))


def _variance(shares: np.ndarray, replicates: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Return ((D,) variance of one run's log-odds, its degrees of freedom).

    The variance is (d * level * shape + (R - 1) * spread) / (d + R - 1), with d degrees of freedom for the common
    level. shape: variance of the replicates, or 1 for every domain without them. level: mean over the domains of spread
    / shape.
    """
    runs, count = shares.shape
    shape = np.ones(count)
    if replicates:
        within = np.mean([log_odds(each).var(axis=0, ddof=1) for each in replicates], axis=0)
        shape = np.maximum(within, LEAST_VARIANCE * within.mean())
    if runs == 1:
        return shape, REPLICATED
    spread = log_odds(shares).var(axis=0, ddof=1)
    if not replicates:
        variance = (POOLED * spread.mean() + (runs - 1) * spread) / (POOLED + runs - 1)
        return variance, min(POOLED + runs - 1, (count - 1) * (runs - 1))
    level = max(1.0, float((spread / shape).mean())) if shape.any() else 1.0  # a run varies by its steps at least
    return (REPLICATED * level * shape + (runs - 1) * spread) / (REPLICATED + runs - 1), REPLICATED + runs - 1
