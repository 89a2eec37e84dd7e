"""Three domains of very different document lengths, whose every token says which document it is from.

A token id is 16384 * domain + document, domain 1, 2, 3 for web, code, math, documents from 1; the last id of every
document is its separator, 16384 * domain. As words: `w` and the id, for trainers that tokenize; the tokenizer gives the
same ids, its end of text is 0.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixtures import Mixture
from mixtures.schedule.manifest import Manifest, store_manifest

SPAN = 16384
NAMES = ("web", "code", "math")
DOCUMENTS = {"web": 8_000, "code": 600, "math": 240}
MEAN_TOKENS = {"web": 60, "code": 480, "math": 120}
WANTED = {"web": 0.7, "code": 0.2, "math": 0.1}
SECOND = {"web": 0.3, "code": 0.4, "math": 0.3}
ZERO = {"web": 0.8, "code": 0.2, "math": 0.0}
VOCABULARY = 4 * SPAN
END_OF_TEXT = "</s>"


@functools.cache
def documents(name: str) -> list[np.ndarray]:
    """Token ids of every document, int64: lengths spread evenly from half to one and a half times the domain's mean."""
    number, count, mean = 1 + NAMES.index(name), DOCUMENTS[name], MEAN_TOKENS[name]
    lengths = np.random.default_rng(number).integers(mean // 2, mean + mean // 2 + 1, count)
    return [np.append(np.full(length - 1, SPAN * number + 1 + k), SPAN * number) for k, length in enumerate(lengths)]


def texts(name: str) -> list[str]:
    """The documents as words, without their separators."""
    return [" ".join(f"w{token}" for token in document[:-1]) for document in documents(name)]


def tokens_of(name: str) -> np.ndarray:
    """All documents one after the other, int64."""
    return np.concatenate(documents(name))


def word_tokenizer(folder: Path) -> Path:
    """tokenizer.json of these words; the end of text is id 0."""
    vocabulary = {END_OF_TEXT: 0, "<unk>": 1}
    vocabulary |= {f"w{token}": token for name in NAMES for token in np.unique(tokens_of(name)).tolist()}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    special = {
        "id": 0,
        "content": END_OF_TEXT,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    record = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special],
        "normalizer": None,
        "model": model,
    }
    record |= {"pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(record))
    return path


def domains_of(ids: np.ndarray) -> np.ndarray:
    """The number of the domain of every token (1, 2, 3), flat; an end of text of the tokenizer (id 0) goes with the
    token before it.
    """
    numbers = np.asarray(ids).ravel() // SPAN
    known = np.flatnonzero(numbers)
    before = np.searchsorted(known, np.arange(len(numbers)), side="right") - 1
    return numbers[known[np.maximum(before, 0)]]


def token_shares(ids: np.ndarray) -> dict[str, float]:
    """{name: share of these tokens}."""
    numbers = domains_of(ids)
    return {name: float((numbers == 1 + k).mean()) for k, name in enumerate(NAMES)}


def documents_in(ids: np.ndarray) -> set[int]:
    """Which documents some tokens are from, as their ids (separators tell none)."""
    return {int(token) for token in np.unique(ids) if token % SPAN}


def make_mixture(
    folder: Path,
    stages: Mapping[str, Mapping[str, float]] | None = None,
    *,
    tokens: int = 400_000,
    policies: Mapping[str, str] | None = None,
    **overrides: Mapping[str, Any],
) -> Path:
    """mixture.json of stages of equal length (default: WANTED, then SECOND). policies: {name: filter | multiplicity |
    sampling_weight | loss_weight} for every fourth document, dropped, or twice the weight; overrides: of a domain's
    record, by name.
    """
    stages = stages or {"first": WANTED, "second": SECOND}
    folder.mkdir(parents=True, exist_ok=True)
    records = [_domain(folder, name, (policies or {}).get(name)) | dict(overrides.get(name, {})) for name in NAMES]
    mixture = Mixture.model_validate(
        {
            "tokenizer": {"name": "words", "vocab_size": VOCABULARY, "fingerprint": "sha256:words"},
            "horizon": {"total_tokens": tokens},
            "domains": records,
            "stages": [
                {"name": name, "start_tokens": k * tokens // len(stages), "weights": dict(weights)}
                for k, (name, weights) in enumerate(stages.items())
            ],
            "provenance": {"tool": "test", "method": "test"},
        }
    )
    mixture.save(folder / "mixture.json")
    return folder / "mixture.json"


def kept(name: str, mode: str) -> list[np.ndarray]:
    """One pass over a domain's documents under the policy `mode` of make_mixture (filter, multiplicity)."""
    times = _weights(name, mode).astype(int).tolist()
    return [document for document, count in zip(documents(name), times, strict=True) for _ in range(count)]


def _weights(name: str, mode: str) -> np.ndarray:
    weights = np.ones(DOCUMENTS[name])
    weights[::4] = 0 if mode == "filter" else 2
    return weights


def _domain(folder: Path, name: str, mode: str | None) -> dict[str, Any]:
    lengths = np.array([len(document) for document in documents(name)])
    record: dict[str, Any] = {"name": name, "unique_tokens": int(lengths.sum()), "unique_documents": len(lengths)}
    if mode is None:
        return record
    weight = _weights(name, mode)
    if mode == "sampling_weight":
        weight /= (weight * lengths).sum() / lengths.sum()
    ids: Sequence[str] = [f"{name}.jsonl:{1 + row}" for row in range(len(lengths))]
    manifest = Manifest(name, None, int(lengths.sum()), mode, list(ids), np.cumsum(lengths) - lengths, lengths, weight)
    path, digest = store_manifest(folder / "mixture.samples", manifest)
    policy = {
        "mode": mode,
        "manifest_uri": f"mixture.samples/{path.name}",
        "manifest_sha256": digest,
        "kept_tokens": manifest.pass_tokens,
    }
    return record | {"sample_policy": policy}
