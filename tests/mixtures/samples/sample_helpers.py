"""Score directories written by hand, for the tests of sample weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mixtures.run.run import CorpusRecord, read_run
from mixtures.samples.scores import ScoredDomain, ScoresMeta, table_schema, write_meta, write_part


def split(tokens: int, documents: int, *, seed: int = 0) -> np.ndarray:
    """Lengths of documents, int64 (documents,), at least 2 tokens each, that fill `tokens`."""
    free = tokens - 2 * documents
    cuts = np.sort(np.random.default_rng(seed).integers(0, free + 1, documents - 1))
    return np.diff(cuts, prepend=0, append=free) + 2


def write_scores(run: Path, scores: Mapping[str, Mapping[str, Any]] | None = None, **meta: Any) -> Path:
    """Scores of every domain of a run of `make_run`. scores: {domain: {"tokens": (S,), "start": (S,), NAME: (S,)}}, the
    rest made up.
    """
    corpus: CorpusRecord = read_run(run).corpus
    domains = {}
    for number, domain in enumerate(domain for domain in corpus.domains if domain.role == "domain"):
        given = dict((scores or {}).get(domain.name, {}))
        sizes = np.asarray(given.pop("tokens", split(domain.tokens, domain.documents, seed=number)), dtype=np.int64)
        starts = np.asarray(given.pop("start", np.cumsum(sizes) - sizes), dtype=np.int64)
        rng = np.random.default_rng(number)
        columns = {
            "self_influence_all": rng.lognormal(size=len(sizes)),
            "nll_mean": rng.normal(5, 1, size=len(sizes)),
        } | given
        names = [f"{domain.name}:{line}" for line in range(len(sizes))]
        keys = [[domain.name] * len(sizes), names, [None] * len(sizes), starts, sizes]
        arrays = [*keys, *(np.asarray(column, dtype=np.float64) for column in columns.values())]
        write_part(run, number, pa.table(arrays, schema=table_schema(list(columns))))
        domains[domain.name] = ScoredDomain(
            fingerprint=domain.fingerprint,
            documents=domain.documents,
            tokens=domain.tokens,
            scored_documents=len(sizes),
            scored_tokens=int(sizes.sum()),
            samples=len(sizes),
            parts=1,
        )
    facts = {"unit": "document", "checkpoints": (), "max_rows": None, "row_tokens": corpus.row_tokens, "complete": True}
    facts |= {"tokenizer": corpus.tokenizer.fingerprint, "scores": tuple(columns), "domains": domains}
    write_meta(run, ScoresMeta(**facts | meta))
    return run
