"""Realistic scores for the plots of a synthetic run, deterministic; and the token cache beside the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.files import write_atomic
from proxies.corpus.tokenizer import raw_bytes
from tests.mixtures.samples.sample_helpers import write_scores

FEW = ("self_influence_all", "nll_mean")  # what `write_scores` would make up; drawn in less time than all


def make_scores(
    run: Path, documents: Mapping[str, int], *, few: bool = False, constant: bool = False, **meta: Any
) -> dict[str, dict[str, np.ndarray]]:
    """Write RUN/scores with so many documents by domain; the columns by domain. few: only the scores FEW."""
    tables = {name: score_columns(count, seed=number) for number, (name, count) in enumerate(documents.items())}
    if few:
        tables = {name: {column: table[column] for column in ("tokens", *FEW)} for name, table in tables.items()}
    if constant:
        for table in tables.values():
            table |= {name: np.full(len(values), 2.5) for name, values in table.items() if name != "tokens"}
    write_scores(run, tables, **meta)
    return tables


def score_columns(count: int, *, seed: int) -> dict[str, np.ndarray]:
    """Self-influence falls with length and has a long tail, the mean loss hardly depends on it, sums grow with it."""
    rng = np.random.default_rng(seed)
    tokens = np.clip(np.exp(rng.normal(5.5 + rng.normal(scale=0.6), 1.1, count)), 2, 60_000).astype(np.int64)
    level = rng.normal(scale=0.5)
    norm = np.exp(level + 6 - 0.55 * np.log(tokens) + rng.standard_t(4, count) * 0.5)
    loss = np.clip(3.2 + level + rng.normal(scale=0.5, size=count) - 0.05 * np.log(tokens), 0.2, None)
    surprisal = 7.5 + rng.normal(scale=0.4, size=count)
    return {
        "tokens": tokens,
        "self_influence_all": norm,
        "self_influence_first_block": 0.08 * norm * np.exp(rng.normal(scale=0.3, size=count)),
        "nll_mean": loss,
        "nll_sum": loss * (tokens - 1),
        "surprisal_mean": surprisal,
        "surprisal_sum": surprisal * (tokens - 1),
        "information_v1": loss,
        "information_v3": loss + surprisal,
        "word_embedding": 0.3 * norm * np.exp(rng.normal(scale=0.5, size=count)),
    }


def make_cache(
    run: Path, texts: Mapping[str, Sequence[str]], *, cache: Path | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """The token cache beside the run, one token a byte, with the run's fingerprints; {domain: tokens (S,) of its
    documents}.
    """
    tokenizer = raw_bytes()
    write_atomic(run / "tokenizer.json", tokenizer.backend.to_str())
    corpus = json.loads((run / "corpus.json").read_text())
    sizes = {}
    for domain in corpus["domains"]:
        pieces = [
            np.append(ids, tokenizer.eos_id) for ids in tokenizer.encode(list(texts.get(domain["name"], ["nothing"])))
        ]
        sizes[domain["name"]] = {"tokens": np.array([len(ids) for ids in pieces])}
        directory = (cache or run.parent / "cache") / f"{domain['name']}-0123456789abcdef"
        directory.mkdir(parents=True)
        ids = np.concatenate(pieces).astype(np.uint16)
        ids.tofile(directory / "train.bin")
        meta = {"tokenizer": corpus["tokenizer"], "fingerprint": domain["fingerprint"], "train": {"tokens": len(ids)}}
        (directory / "meta.json").write_text(json.dumps(meta))
    return sizes
