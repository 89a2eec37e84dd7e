"""Regression on a swarm of mixtures: predict what was measured from the shares, and find the best prediction.

fit.py          everything in one call: from a swarm's tables to the best mixture
swarm.py        reading a swarm: the mixtures that were tried, and what was measured of each
surrogate.py    a surrogate of the measurements, and its best mixture within what was tried
regressions.py  the regressions: ridge, law and boosting
validation.py   cross-validation of the predictions
hull.py         the search for the lowest value among combinations of the mixtures tried
optimum.py      the best mixture beside simple ones, its bounds, and whether to trust it
text.py         a fit in words
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixtures.fit.fit import fit_swarm
    from mixtures.fit.surrogate import best_mixture, fit_surrogate

__all__ = ["best_mixture", "fit_surrogate", "fit_swarm"]


def __getattr__(name: str) -> Any:
    """Return a public name at its first use: the names of the models need not wait for scipy."""
    if name == "fit_swarm":
        from mixtures.fit.fit import fit_swarm

        return fit_swarm
    if name in ("best_mixture", "fit_surrogate"):
        from mixtures.fit import surrogate

        return getattr(surrogate, name)
    raise AttributeError(f"module 'mixtures.fit' has no attribute {name!r}")
