"""Mixtures and token arrays for the tests of the stream: token ids say which domain and which row they are from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixtures import Mixture

ROW = 8  # tokens


def make_mixture(
    *stages: Mapping[str, float],
    rows: int,
    starts: Sequence[int] = (0,),
    domains: Mapping[str, Mapping[str, Any]] | None = None,
    **horizon: Any,
) -> Mixture:
    """A schedule of `rows` rows of ROW tokens; `starts` (tokens) of its stages; `domains` overrides records by name."""
    records = [{"name": name, "unique_tokens": 1000, "unique_documents": 10, **(domains or {}).get(name, {})} for name in stages[0]]
    return Mixture.model_validate(
        {
            "tokenizer": {"name": "test", "vocab_size": 2**20, "fingerprint": "sha256:test"},
            "horizon": {"total_tokens": rows * ROW, **horizon},
            "domains": records,
            "stages": [
                {"name": f"s{n}", "start_tokens": start, "weights": dict(w)}
                for n, (start, w) in enumerate(zip(starts, stages, strict=True))
            ],
            "provenance": {"tool": "test", "method": "test"},
        }
    )


def make_sources(rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """{name: tokens}: all tokens of row r of the d-th domain are 1000 * d + r; a last short row follows."""
    return {
        name: np.repeat(1000 * d + np.arange(count + 1), ROW)[: count * ROW + 3].astype(np.uint32)
        for d, (name, count) in enumerate(rows.items())
    }


def domain_of(rows: np.ndarray) -> np.ndarray:
    """(N,) the number of the domain that each row (N, ROW) is from; asserts that it is one whole row."""
    assert (rows == rows[:, :1]).all(), "a row mixes two rows of its domain"
    return rows[:, 0] // 1000
