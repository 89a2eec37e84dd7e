"""Simulated epoching (`corpus.simulate_budget`): a training domain's text is cut so that the proxy repeats it as the
large run will.

A run reads every domain equally often, so with d its tokens of one domain and D domains, it trains D * d tokens. A
large run of B tokens with U unique tokens of a domain repeats it B / (D * U) times at equal shares; cut to D * d * U /
B tokens the proxy does the same.
"""

from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixtures.errors import UserError
from mixtures.text import WIDTH, epochs_text, tokens_text
from proxies.corpus.corpus import CorpusData
from proxies.settings import Settings


def simulate(corpus: CorpusData, settings: Settings) -> CorpusData:
    """The corpus as this run reads it: every training domain's first tokens, whole rows; the same corpus without a
    budget.

    Held-out text and targets stay whole. Raises UserError listing every domain that would not keep a row, and every one
    whose text was read in part while its size is not given.
    """
    budget = settings.corpus.simulate_budget.tokens
    if budget is None:
        return corpus
    given = settings.corpus.simulate_budget.unique_tokens
    unique = {name: given.get(name, corpus.entry(name)["tokens"]) for name in corpus.domains}
    run_tokens = len(corpus.domains) * settings.train.steps * settings.train.rows_per_domain * corpus.row_tokens
    rows = {name: run_tokens * unique[name] // budget // corpus.row_tokens for name in corpus.domains}
    faults = [
        f"{name}: its text was read in part, so how much there is is not known; name it in unique_tokens"
        for name in corpus.domains
        if name not in given and not corpus.entry(name)["complete"]
    ]
    faults += [
        f"{name}: {tokens_text(run_tokens)} tokens of this run x {tokens_text(unique[name])} unique tokens / "
        f"{tokens_text(budget)} is less "
        f"than a row of {corpus.row_tokens}; raise train.steps or train.rows_per_domain, or shorten corpus.row_tokens"
        for name in corpus.domains
        if not rows[name]
    ]
    if faults:
        raise UserError("corpus.simulate_budget cannot be kept:\n" + "\n".join(f"  - {fault}" for fault in faults))
    kept = {name: min(rows[name] * corpus.row_tokens, corpus.entry(name)["tokens"]) for name in corpus.domains}
    entries = {
        name: {
            **_cut(corpus.entry(name), kept[name], corpus),
            "simulated": _simulated(corpus.entry(name), budget, unique[name]),
        }
        for name in corpus.domains
    }
    domains = [entries.get(entry["name"], entry) for entry in corpus.record["domains"]]
    tokens = {name: ids[: kept.get(name)] for name, ids in corpus.tokens.items()}
    return replace(corpus, tokens=tokens, record={**corpus.record, "domains": domains})


def describe_cut(corpus: CorpusData, settings: Settings) -> str:
    """What a person reads of it: how many domains were cut, and which have too little text to be repeated as seldom as
    they will be.
    """
    budget = settings.corpus.simulate_budget.tokens
    assert budget is not None
    cut, short = [], []
    each = settings.train.steps * settings.train.rows_per_domain * corpus.row_tokens
    for name in corpus.domains:
        entry = corpus.entry(name)
        was = entry["simulated"]["text_tokens"]
        here, there = each / entry["tokens"], budget / len(corpus.domains) / entry["simulated"]["unique_tokens"]
        if entry["tokens"] < was:
            cut.append(f"{name} to {tokens_text(entry['tokens'])} of {tokens_text(was)}")
        elif here > 1.05 * max(there, 1):
            short.append(f"{name} {epochs_text(here)} epochs here, {epochs_text(there)} there")
    lines = [
        f"text:  repeats as in a run of {tokens_text(budget)} tokens at equal shares; cut: "
        f"{', '.join(cut) or 'nothing'}"
    ]
    lines += [f"note:  too little text to be repeated as seldom: {', '.join(short)}"] if short else []
    return "\n".join(fill(line, WIDTH, subsequent_indent=" " * 7) for line in lines)


def _cut(entry: dict[str, Any], kept: int, corpus: CorpusData) -> dict[str, Any]:
    """The record of the first `kept` tokens; documents and bytes are those of the documents that begin there, the last
    one in part.
    """
    if kept == entry["tokens"]:
        return entry
    documents, size = _begun(corpus.documents[entry["name"]], kept)
    return {
        **entry,
        "complete": False,
        "documents": documents,
        "tokens": kept,
        "bytes": size,
        "rows": kept // corpus.row_tokens,
    }


def _begun(path: Path, kept: int) -> tuple[int, int]:
    """(documents, bytes) of the first `kept` training tokens."""
    table = pq.read_table(
        path, columns=["start", "tokens", "bytes"], filters=(pc.field("split") == "train") & (pc.field("start") < kept)
    )
    listed = pc.sum(table["tokens"]).as_py()
    return table.num_rows, round(pc.sum(table["bytes"]).as_py() * kept / listed)


def _simulated(entry: dict[str, Any], budget: int, unique: int) -> dict[str, Any]:
    """What the large run has, and what the text was before the cut."""
    text = {f"text_{key}": entry[key] for key in ("tokens", "documents", "complete")}
    return {"budget_tokens": budget, "unique_tokens": unique, **text}
