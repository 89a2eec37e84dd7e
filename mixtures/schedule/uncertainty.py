"""How sure learned weights are: an interval per weight, and how far the weights may leave the prior. Pure functions.

Everything is in log-odds, log(w / (1 - w)): there noise is about the same for small and large weights, and intervals
stay inside 0 to 1. D domains; R runs that differ by their seed. Two sources say how much a run's weights vary:

- *seeds*: the spread between the runs. It contains all noise, but two or three runs say little about one domain. So
  every domain's variance is drawn to the mean over the domains (moderated variances: Smyth 2004, doi
  10.2202/1544-6115.1027).
- *replicates*: a run's weights if its steps had been drawn again in blocks (`mixtures.run.replicates`). They say how
  the noise differs between domains, and are the only source with one run. They cannot show what another seed would
  change: that is added with one run, and with several runs their spread sets the level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import expit, logit, stdtrit

LEVEL = 0.95
# degrees of freedom of the variance that the domains share; measured: tests/mixtures/schedule/test_uncertainty.py
POOLED = 4
REPLICATED = 6  # degrees of freedom of how replicates differ between domains
# Variance over seeds of a run's log-odds, in variances of its replicates, without and with targets in the objective.
# Pairs of real runs had at most 0.8 and 2.9 (docs/intervals.md); where steps are correlated, replicates are too narrow:
# simulated runs had 1.6
SEEDS, SEEDS_TARGETS = 2.0, 3.0
SEEDS_FREEDOM = 2  # as how many degrees of freedom that counts beside the spread between runs
LEAST_VARIANCE = 0.1  # least variance of a domain's replicates, as a fraction of the domains' mean
LEAST_SHARE = 1e-6  # smaller shares count as this one: the log-odds of 0 are not finite
NULL_STUDIES = 4000  # simulated studies behind `needed_signal`


@dataclass(frozen=True)
class Estimate:
    """Mean weights of runs, their interval and their signal to noise; arrays are (D,).

    With several runs, the interval is that of the mean over all seeds; with one run, it is where the weights of another
    seed would lie.
    signal: mean over domains of the square of (log-odds of the mean - log-odds of the prior) / standard error; noise
    alone gives about 1.
    needed: its 95 % quantile if the runs varied around the prior (`needed_signal`).
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


def estimate(
    shares: np.ndarray, *, prior: np.ndarray, replicates: Sequence[np.ndarray] = (), targets: bool = False
) -> Estimate | None:
    """Return the mean over runs of `shares` (R, D) with its 95 % interval; None where nothing shows how weights vary.

    prior: (D,). replicates: one array (B, D) per run that has replicates. targets: whether the objective has targets;
    seeds then change the weights more. The result is None for one run without replicates, for weights that never vary
    (a rule that does not learn), and for one domain.
    """
    runs, count = shares.shape
    if count < 2 or (runs < 2 and not replicates):
        return None
    variance = _variance(log_odds(shares), _expected(replicates, SEEDS_TARGETS if targets else SEEDS))
    if variance.max() < 1e-20:
        return None
    mean = shares.mean(axis=0)
    centre, error = log_odds(mean), np.sqrt(variance / runs)
    reach = _quantile(runs, count, replicated=bool(replicates)) * error
    return Estimate(
        mean=mean,
        low=np.minimum(expit(centre - reach), mean),
        high=np.maximum(expit(centre + reach), mean),
        signal=float((((centre - log_odds(prior)) / error) ** 2).mean()),
        needed=needed_signal(runs, count, replicated=bool(replicates)),
    )


@lru_cache(maxsize=64)
def needed_signal(runs: int, domains: int, *, replicated: bool) -> float:
    """Return the 95 % quantile of `signal` for runs that vary around the prior, over simulated studies.

    The noise is normal and alike in all domains before weights are scaled to sum 1. With replicates, its variance is
    the one that they let expect (SEEDS). For one run this is close to the quantile of chi-squared over its degrees of
    freedom. With few runs it is larger, since the variance itself is uncertain, but far less so with many domains.
    """
    rng = np.random.default_rng(0)
    count = max(NULL_STUDIES * 10 // max(domains, 10), 500)
    logits = 0.1 * rng.normal(size=(count, runs, domains))
    shares = np.exp(logits)
    shares /= shares.sum(axis=-1, keepdims=True)
    odds = log_odds(shares)
    around = 0.1**2 * domains / (domains - 1)  # variance of a run's log-odds, to first order
    variance = _variance(odds, np.full(domains, around) if replicated else None)
    departures = log_odds(shares.mean(axis=1)) + np.log(domains - 1)
    return float(np.quantile((departures**2 / (variance / runs)).mean(axis=-1), LEVEL))


def shrink_factor(signal: float, needed: float) -> float:
    """Return the factor for log-ratios to the prior: 1 - 1/signal, and 0 where signal is less than needed.

    Squared departures are the true ones plus noise, and `signal` counts noise as 1, so the fraction 1 - 1/signal of
    them is true: the positive part of James and Stein's estimator (1961) without its correction for few domains. That
    estimator alone leaves the prior in half of the studies in which the prior is the truth; after the test against
    `needed` it does so in one of twenty.
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


def _expected(replicates: Sequence[np.ndarray], seeds: float) -> np.ndarray | None:
    """Return the variance (D,) of a run's log-odds over seeds that replicates let expect; None without replicates.

    It is `seeds` times the mean variance of the runs' replicates.
    """
    if not replicates:
        return None
    within = np.mean([log_odds(each).var(axis=0, ddof=1) for each in replicates], axis=0)
    return seeds * np.maximum(within, LEAST_VARIANCE * within.mean())


def _variance(odds: np.ndarray, expected: np.ndarray | None) -> np.ndarray:
    """Return the variance (*B, D) of one run's log-odds, from those of the runs (*B, R, D).

    It is the mean of level * expected and of the domain's own spread between the runs, weighted by their degrees of
    freedom. expected: (D,); None without replicates: the same in every domain. level: mean over the domains of spread /
    expected, in which 1 counts as SEEDS_FREEDOM more degrees if there are replicates.
    """
    runs, count = odds.shape[-2:]
    if runs == 1:
        assert expected is not None, "one run needs replicates"
        return np.broadcast_to(expected, (*odds.shape[:-2], count))
    spread = odds.var(axis=-2, ddof=1)
    if expected is None:
        return (POOLED * spread.mean(axis=-1, keepdims=True) + (runs - 1) * spread) / (POOLED + runs - 1)
    measured = (count - 1) * (runs - 1)
    ratio = np.divide(spread, expected, out=np.zeros_like(spread), where=expected > 0).mean(axis=-1, keepdims=True)
    level = (SEEDS_FREEDOM + measured * ratio) / (SEEDS_FREEDOM + measured)
    return (REPLICATED * level * expected + (runs - 1) * spread) / (REPLICATED + runs - 1)


def _quantile(runs: int, domains: int, *, replicated: bool) -> float:
    """Return the half width of the intervals in standard errors of the mean.

    With one run, it is that of the difference to another run: so the weights of another seed lie inside.
    """
    if runs == 1:
        return float(np.sqrt(2) * stdtrit(np.inf, (1 + LEVEL) / 2))
    measured = (domains - 1) * (runs - 1)
    freedom = min(REPLICATED + runs - 1, SEEDS_FREEDOM + measured) if replicated else min(POOLED + runs - 1, measured)
    return float(stdtrit(freedom, (1 + LEVEL) / 2))
