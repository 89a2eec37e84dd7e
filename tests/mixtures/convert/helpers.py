"""Jobs for the tests of conversion."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtures.convert.job import Job, Span
from mixtures.convert.lengths import DocumentLengths
from tests.mixtures.stream.helpers import ROW, make_mixture


def make_job(
    *stages: Mapping[str, float],
    means: Mapping[str, float | None] | None = None,
    rows: int = 100,
    unit: str = "document",
    **fields: Any,
) -> Job:
    """Stages of equal length; documents of `means` tokens (default 10), 1000 tokens a domain."""
    span = rows * ROW // len(stages)
    mixture = make_mixture(*stages, rows=rows, starts=[n * span for n in range(len(stages))])
    names: Sequence[str] = list(stages[0])
    sizes = {name: (means or {}).get(name, 10.0) for name in names}
    texts = {
        name: DocumentLengths(1000 / mean if mean else None, mean, 0.0, 1000.0, "a test")
        for name, mean in sizes.items()
    }
    spans = tuple(Span(f"s{n}", n * span, span, dict(weights)) for n, weights in enumerate(stages))
    rest: dict[str, Any] = {
        "paths": {},
        "document_limit": None,
        "sequence_length": ROW,
        "batches": None,
        "seed": 0,
        "options": {},
        "here": True,
    }
    rest |= {"directory": Path("/nowhere"), "selections": {}, "texts": texts}
    return Job(mixture=mixture, spans=spans, unit=unit, **rest | fields)  # type: ignore[arg-type]
