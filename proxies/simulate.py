"""Simulated epoching (`corpus.simulate_budget`): text is cut so that the proxy repeats it as the large run will.

The proxy run trains on the same number d of tokens of each of its D domains, which is D * d in all. At equal shares, a
large run of B tokens repeats a domain with U unique tokens B / (D * U) times. If the domain is cut to D * d * U / B
tokens, the proxy repeats it equally often.
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
    """Return the corpus with every training domain cut to its first rows; unchanged without a token budget.

    Held-out text and targets stay whole. Raises UserError that lists every domain that would keep less than one row,
    and every domain whose text was read in part and whose size the settings do not give.
    """
    budget = settings.corpus.simulate_budget.tokens
    if budget is None:
        return corpus
    sizes = settings.corpus.simulate_budget.unique_tokens
    unique = {name: sizes.get(name, corpus.entry(name)["tokens"]) for name in corpus.domains}
    run_tokens = len(corpus.domains) * settings.train.steps * settings.train.rows_per_domain * corpus.row_tokens
    rows = {name: run_tokens * unique[name] // budget // corpus.row_tokens for name in corpus.domains}
    faults = [
        f"{name}: only a part of its text was read, so its size is not known; give it in unique_tokens"
        for name in corpus.domains
        if name not in sizes and not corpus.entry(name)["complete"]
    ]
    faults += [
        f"{name}: {tokens_text(run_tokens)} tokens of this run x {tokens_text(unique[name])} unique tokens / "
        f"{tokens_text(budget)} is less "
        f"than one row of {corpus.row_tokens}; raise train.steps or train.rows_per_domain, or shorten corpus.row_tokens"
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
    """Return the lines that a run prints at its start about the cut.

    They name the domains that were cut, and those with too little text for the repetition of the large run: the proxy
    repeats them more often.
    """
    budget = settings.corpus.simulate_budget.tokens
    assert budget is not None
    cut, short = [], []
    domain_tokens = settings.train.steps * settings.train.rows_per_domain * corpus.row_tokens
    for name in corpus.domains:
        entry = corpus.entry(name)
        was = entry["simulated"]["text_tokens"]
        proxy_epochs = domain_tokens / entry["tokens"]
        large_epochs = budget / len(corpus.domains) / entry["simulated"]["unique_tokens"]
        if entry["tokens"] < was:
            cut.append(f"{name} to {tokens_text(entry['tokens'])} of {tokens_text(was)}")
        elif proxy_epochs > 1.05 * max(large_epochs, 1):
            short.append(
                f"{name} {epochs_text(proxy_epochs)} epochs in this run, {epochs_text(large_epochs)} in the large one"
            )
    lines = [
        f"text:  repeats as in a run of {tokens_text(budget)} tokens at equal shares; cut: "
        f"{', '.join(cut) or 'nothing'}"
    ]
    lines += [f"note:  too little text, repeated more often than in the large run: {', '.join(short)}"] if short else []
    return "\n".join(fill(line, WIDTH, subsequent_indent=" " * 7) for line in lines)


def _cut(entry: dict[str, Any], kept: int, corpus: CorpusData) -> dict[str, Any]:
    """Return a domain's entry in corpus.json for its first `kept` tokens.

    Documents that begin in these tokens are counted; the last one may be cut, and its bytes count in part.
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
    """Return (documents, bytes) of the first `kept` training tokens."""
    table = pq.read_table(
        path, columns=["start", "tokens", "bytes"], filters=(pc.field("split") == "train") & (pc.field("start") < kept)
    )
    listed = pc.sum(table["tokens"]).as_py()
    return table.num_rows, round(pc.sum(table["bytes"]).as_py() * kept / listed)


def _simulated(entry: dict[str, Any], budget: int, unique: int) -> dict[str, Any]:
    """Return facts about the large run, and about the text before the cut, for corpus.json."""
    text = {f"text_{key}": entry[key] for key in ("tokens", "documents", "complete")}
    return {"budget_tokens": budget, "unique_tokens": unique, **text}
