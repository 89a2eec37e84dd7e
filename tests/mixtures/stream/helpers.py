"""Mixtures and token arrays for the tests of the stream: token ids say which domain and which row they are from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixtures import Mixture
from mixtures.schedule.manifest import Manifest, write_manifest

ROW = 8  # tokens


def make_mixture(
    *stages: Mapping[str, float],
    rows: int,
    starts: Sequence[int] = (0,),
    domains: Mapping[str, Mapping[str, Any]] | None = None,
    **horizon: Any,
) -> Mixture:
    """A schedule of `rows` rows of ROW tokens; `starts` (tokens) of its stages; `domains` overrides records by name."""
    records = [
        {"name": name, "unique_tokens": 1000, "unique_documents": 10, **(domains or {}).get(name, {})}
        for name in stages[0]
    ]
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


def make_manifest(
    domain: str,
    *,
    mode: str,
    tokens: Sequence[int],
    weight: Sequence[float],
    gaps: Sequence[int] | None = None,
    after: int = 0,
) -> Manifest:
    """Documents of `tokens` (S,) tokens, before each a gap of `gaps` tokens that no document covers, `after` tokens at
    the end.
    """
    lengths, before = (
        np.asarray(tokens, dtype=np.int64),
        np.zeros(len(tokens), dtype=np.int64) if gaps is None else np.asarray(gaps),
    )
    ends = np.cumsum(lengths + before)
    return Manifest(
        domain=domain,
        fingerprint=None,
        domain_tokens=int(ends[-1]) + after,
        mode=mode,
        documents=[f"{domain}/{number}" for number in range(len(lengths))],
        start=ends - lengths,
        tokens=lengths,
        weight=np.asarray(weight, dtype=np.float64),
    )


def make_sampled(
    folder: Path, shares: Mapping[str, float], manifests: Mapping[str, Manifest], *, rows: int, **overrides: Any
) -> Mixture:
    """A saved mixture of `rows` rows whose domains have these manifests; `overrides` of their records by name."""
    records = {}
    for name, manifest in manifests.items():
        found = write_manifest(folder / "mixture.samples" / f"{name}.parquet", manifest)
        policy = {"mode": manifest.mode, "manifest_uri": f"mixture.samples/{name}.parquet", "manifest_sha256": found}
        policy |= {"kept_tokens": manifest.pass_tokens}
        records[name] = {"unique_tokens": manifest.domain_tokens, "sample_policy": policy, **overrides.pop(name, {})}
    mixture = make_mixture(shares, rows=rows, domains={**records, **overrides})
    mixture.save(folder / "mixture.json")
    return mixture


def make_places(mixture: Mixture, *, rows: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """{name: tokens}: token t of the d-th domain is 10,000 * d + t."""
    sizes = {domain.name: domain.unique_tokens for domain in mixture.domains} | {
        n: ROW * count for n, count in (rows or {}).items()
    }
    return {name: (10_000 * d + np.arange(size)).astype(np.uint32) for d, (name, size) in enumerate(sizes.items())}


def epoch_of_lists(manifest: Manifest, counts: Sequence[int]) -> list[int]:
    """The slow obvious twin of an epoch's text: places in the domain, pass by pass, every token on its own."""
    document = {
        place: n
        for n in range(len(counts))
        for place in range(manifest.start[n], manifest.start[n] + manifest.tokens[n])
    }
    times = [counts[document[place]] if place in document else 1 for place in range(manifest.domain_tokens)]
    return [place for turn in range(max(times)) for place in range(manifest.domain_tokens) if times[place] > turn]
