"""The rounds of a search, from the prior on: which mixture is measured next, which is kept, and when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixtures.compare.statistics import Difference, paired_difference
from proxies.search.proxies import Losses, Proxies
from proxies.search.rule import Slopes, TrustRegion, gained, slopes
from proxies.search.settings import SearchSettings


@dataclass(frozen=True)
class Round:
    """A mixture that proxies measured.

    losses:     what every seed's proxy measured at it.
    start:      number of the round that the step went out from, and `predicted`, what that round's slopes promised
                (nats); None in round 0.
    came:       the objective here minus that at the start, paired by seed and row; None in round 0.
    kept:       whether it is better than its start beyond the standard error, and so the next start.
    slopes:     at this mixture; None where no step goes out from it.
    """

    weights: np.ndarray
    losses: list[Losses]
    start: int | None = None
    predicted: float | None = None
    came: Difference | None = None
    kept: bool = True
    slopes: Slopes | None = None


def search_rounds(settings: SearchSettings, proxies: Proxies, prior: np.ndarray) -> tuple[list[Round], str]:
    """Measure the prior, then what the slopes at the best mixture promise, and so on; return all, and why it ended."""
    done = [Round(prior, proxies.measure(0, prior))]
    best, region = 0, TrustRegion(settings.search.radius)
    for number in range(1, settings.search.rounds + 1):
        found = done[best].slopes or slopes(proxies.effects(best, done[best].weights), done[best].weights)
        done[best] = replace(done[best], slopes=found)
        if found.signal == 0:
            return done, f"Ended because the slopes of round {best} are noise: its seeds agree on none."
        weights = found.step(region.radius)
        losses = proxies.measure(number, weights)
        came = difference([*(each.losses for each in done), losses], proxies.objective, of=number, to=best)
        error = float(np.sqrt(came.seed_variance + came.row_variance))
        predicted = found.predict(weights)
        kept = gained(came=came.value, error=error)
        done.append(Round(weights, losses, best, predicted, came, kept))
        region = region.after(predicted=predicted, came=came.value, error=error)
        if kept:
            best = number
        elif region.hope < error:
            return done, (
                f"Ended because a shorter step from round {best} would gain {region.hope:.4f} nats, by the slopes "
                f"there and what came, which is less than a round's noise ({error:.4f})."
            )
        elif region.failed == 2:
            return done, f"Ended because two steps from round {best}, of two lengths, gained nothing beyond noise."
    return done, f"Ended because all {settings.search.rounds} rounds are done."


def difference(losses: list[list[Losses]], objective: dict[str, float], *, of: int, to: int) -> Difference:
    """Return the objective of round `of` minus that of round `to`, paired by seed and row, with its variances."""
    tables = [np.array([[seed[name] for seed in one] for one in losses]) for name in objective]
    pool = range(len(losses))
    found = paired_difference(tables, list(objective.values()), mixture=of, reference=to, pool=pool)
    assert found is not None  # every round has all seeds
    return found


def best_of(done: Sequence[Round]) -> int:
    """Return the number of the last mixture that was kept."""
    return max(number for number, one in enumerate(done) if one.kept)
