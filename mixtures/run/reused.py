"""From weights over `reused` and the domains learned beside it to weights over all domains."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from mixtures.run.learned import Learned
from mixtures.run.run import REUSED, CorpusRecord, Reused

Value = TypeVar("Value", float, np.ndarray)
Interval = tuple[float, float]


def unfolded(corpus: CorpusRecord, names: Sequence[str], learned: Learned) -> tuple[tuple[str, ...], Learned]:
    """Return (names of all domains, what was learned about them), with `reused` replaced by the domains behind it.

    A domain behind `reused` has weight(reused) times its share among them; its interval likewise. A run without --reuse
    comes back unchanged.
    """
    if (reused := corpus.reused) is None:
        return tuple(names), learned
    columns = _unfold(dict(zip(names, learned.weights.T, strict=True)), reused)
    intervals = tuple(None if stage is None else _intervals(stage, reused) for stage in learned.intervals)
    record = learned.record
    if record is not None:
        mean = tuple(_unfold(stage, reused) for stage in record.mean)
        record = record.model_copy(update={"prior": _unfold(record.prior, reused), "mean": mean})
    return reused.order, Learned(np.stack(list(columns.values()), axis=1), intervals, record)


def _unfold(values: Mapping[str, Value], reused: Reused) -> dict[str, Value]:
    """Return {name: value} of all domains from the values of `reused` and the domains beside it."""
    whole = values[REUSED]
    return {name: whole * reused.relative[name] if name in reused.relative else values[name] for name in reused.order}


def _intervals(stage: Mapping[str, Interval], reused: Reused) -> dict[str, Interval]:
    """Return {name: (low, high)} of all domains from the intervals of `reused` and the domains beside it."""
    low, high = (_unfold({name: ends[side] for name, ends in stage.items()}, reused) for side in (0, 1))
    return {name: (low[name], high[name]) for name in reused.order}
