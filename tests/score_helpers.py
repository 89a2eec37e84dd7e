"""Synthetic scores of a synthetic run, deterministic, as `proxies.score` writes them; and the token cache beside the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixtures.files import write_atomic
from proxies.tokenizer import raw_bytes

SCORES = (
    "self_influence_all",
    "self_influence_first_block",
    "nll_mean",
    "nll_sum",
    "surprisal_mean",
    "surprisal_sum",
    "information_v1",
    "information_v3",
    "word_embedding",
)


def make_scores(
    run: Path,
    documents: Mapping[str, int],
    *,
    unit: str = "document",
    constant: bool = False,
    values: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Write RUN/scores: so many documents by domain, log-normal lengths; `values` overrides scores by name, over all domains."""
    frames = [score_table(name, count, unit=unit, rng=np.random.default_rng([seed, n])) for n, (name, count) in enumerate(documents.items())]
    table = pd.concat(frames, ignore_index=True)
    if constant:
        table[list(SCORES)] = 2.5
    for score, column in (values or {}).items():
        table[score] = np.asarray(column, dtype=np.float64)
    write_scores(run, table, documents, unit)
    return table


def score_table(name: str, count: int, *, unit: str, rng: np.random.Generator) -> pd.DataFrame:
    """Self-influence falls with length and has a long tail, the mean loss hardly depends on it, sums grow with it."""
    tokens = np.clip(np.exp(rng.normal(5.5 + rng.normal(scale=0.6), 1.1, count)), 2, 60_000).astype(np.int64)
    tokens = np.full(count, 128) if unit == "row" else tokens
    level = rng.normal(scale=0.5)
    norm = np.exp(level + 6 - 0.55 * np.log(tokens) + rng.standard_t(4, count) * 0.5)
    loss = np.clip(3.2 + level + rng.normal(scale=0.5, size=count) - 0.05 * np.log(tokens), 0.2, None)
    surprisal = 7.5 + rng.normal(scale=0.4, size=count)
    scores = {
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
    ids = [f"/data/{name}.parquet:{number + 1}" for number in range(count)]
    rows = np.arange(count) if unit == "row" else [None] * count
    place = {"domain": name, "document": ids, "row": pd.array(rows, dtype="Int64"), "start": np.cumsum(tokens) - tokens, "tokens": tokens}
    return pd.DataFrame({**place, **scores})


def write_scores(run: Path, table: pd.DataFrame, domains: Sequence[str] | Mapping[str, int], unit: str) -> None:
    """RUN/scores: one part and meta.json."""
    directory = run / "scores"
    directory.mkdir()
    table.to_parquet(directory / "part-00000000.parquet", index=False)
    corpus = json.loads((run / "corpus.json").read_text())
    known = {domain["name"]: domain for domain in corpus["domains"]}
    counts = {name: table[table["domain"] == name] for name in domains}
    meta = {
        "format": 1,
        "unit": unit,
        "scores": list(SCORES),
        "checkpoints": [{"step": 20, "lr": 1e-3}],
        "max_rows": None,
        "row_tokens": 128,
        "tokenizer": corpus["tokenizer"]["fingerprint"],
        "domains": {
            name: {
                "fingerprint": known[name]["fingerprint"],
                "documents": len(rows),
                "tokens": int(rows["tokens"].sum()),
                "scored_documents": len(rows),
                "scored_tokens": int(rows["tokens"].sum()),
            }
            for name, rows in counts.items()
        },
        "complete": True,
        "environment": {},
    }
    (directory / "meta.json").write_text(json.dumps(meta))


def make_cache(run: Path, texts: Mapping[str, Sequence[str]], *, cache: Path | None = None) -> dict[str, list[tuple[int, int]]]:
    """The token cache beside the run, one token a byte, with the run's fingerprints; {domain: (start, tokens) of its documents}."""
    tokenizer = raw_bytes()
    write_atomic(run / "tokenizer.json", tokenizer.backend.to_str())
    corpus = json.loads((run / "corpus.json").read_text())
    spans = {}
    for domain in corpus["domains"]:
        pieces = [np.append(ids, tokenizer.eos_id) for ids in tokenizer.encode(list(texts.get(domain["name"], ["nothing"])))]
        ends = np.cumsum([len(ids) for ids in pieces])
        spans[domain["name"]] = [(int(end - len(ids)), len(ids)) for end, ids in zip(ends, pieces, strict=True)]
        directory = (cache or run.parent / "cache") / f"{domain['name']}-0123456789abcdef"
        directory.mkdir(parents=True)
        np.concatenate(pieces).astype(np.uint16).tofile(directory / "train.bin")
        meta = {"tokenizer": corpus["tokenizer"], "fingerprint": domain["fingerprint"], "train": {"tokens": int(ends[-1])}}
        (directory / "meta.json").write_text(json.dumps(meta))
    return spans
