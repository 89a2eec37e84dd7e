"""`--reuse mixture.json`: after a domain was added, split or merged, the others keep their weights among themselves.

Untouched domains (with the same name and the same text as in the mixture) become one virtual domain, `reused`. Its rows
are drawn from them in proportion to their weights in the mixture. The run learns weights over `reused` and the changed
domains. The resulting mixture has all domains again (`mixtures/run/reused.py`).
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

from tokenizers import Tokenizer as Backend

from mixtures.errors import UserError
from mixtures.run.run import REUSED
from mixtures.schedule.mixture import Mixture
from mixtures.text import WIDTH, shorten
from proxies.corpus.cache import content_hash
from proxies.corpus.corpus import CorpusData
from proxies.corpus.ends import end_of_fingerprint
from proxies.corpus.pool import make_pool
from proxies.settings import Settings

SUMS = (
    "documents",
    "tokens",
    "bytes",
    "rows",
    "held_out_documents",
    "held_out_tokens",
    "held_out_bytes",
    "held_out_rows",
)
Entry = dict[str, Any]


def reuse(corpus: CorpusData, settings: Settings) -> CorpusData:
    """Return the corpus with all untouched domains as one domain, `reused`; unchanged without `settings.reuse`.

    Raises UserError for a file that is not a mixture, another tokenizer, a corpus in which nothing or everything
    changed, untouched domains that have no weight in the mixture, an objective that gives them different importances,
    and a domain or target that is named `reused`.
    """
    if not settings.reuse:
        return corpus
    mixture, where = Mixture.load(settings.reuse), f"reuse {settings.reuse}"
    if REUSED in corpus.names:
        raise UserError(
            f"{where}: a domain or target is named {REUSED!r}, which is the name for all untouched domains together; "
            f"rename it"
        )
    _require_tokenizer(mixture, corpus, Path(settings.reuse), settings.corpus.tokenizer.file)
    changed = changes(mixture, corpus)
    kept = [name for name in corpus.domains if name not in changed]
    _require_something(mixture, corpus, changed, where)
    weights = mixture.average_weights()
    total = sum(weights[name] for name in kept)
    if total <= 0:
        raise UserError(
            f"{where}: the untouched domains ({', '.join(kept)}) have no weight in that mixture; learn without --reuse"
        )
    _require_alike(settings, kept, where)
    relative = {name: weights[name] / total for name in kept}
    entries = [corpus.entry(name) for name in kept]
    record = {
        "mixture": mixture.id,
        "relative": relative,
        "changed": changed,
        "removed": {name: weights[name] for name in weights if name not in corpus.domains},
        "order": list(corpus.domains),
        "domains": entries,
    }
    rest = [entry for entry in corpus.record["domains"] if entry["name"] not in kept]
    train = settings.train
    tokens = {name: corpus.tokens[name] for name in kept}
    return replace(
        corpus,
        names=(REUSED, *(name for name in corpus.names if name not in kept)),
        domains=(REUSED, *changed),
        pool=make_pool(
            tokens, list(relative.values()), steps=train.steps, rows=train.rows_per_domain, seed=settings.seed
        ),
        record={**corpus.record, "domains": [_entry(entries, relative), *rest], "reused": record},
    )


def changes(mixture: Mixture, corpus: CorpusData) -> dict[str, str]:
    """Return {training domain that has to be learned: reason}, in the order of the run."""
    known = {domain.name: domain.fingerprint for domain in mixture.domains}
    reasons = {}
    for name in corpus.domains:
        if name not in known:
            reasons[name] = "new"
        elif known[name] is None:
            reasons[name] = "the mixture has no fingerprint of its text"
        elif known[name] != corpus.entry(name)["fingerprint"]:
            reasons[name] = "other text"
    return reasons


def describe_reuse(corpus: CorpusData) -> str:
    """Return the lines that a run prints at its start about the domains it reuses."""
    record = corpus.record["reused"]
    lines = [
        f"reused: {len(record['relative'])} domain(s) keep their relative weights, as one: "
        f"{_listed(record['relative'])}",
        f"learned: {', '.join(f'{shorten(name)} ({why})' for name, why in record['changed'].items())}",
    ]
    if record["removed"]:
        gone = ", ".join(f"{shorten(name)} ({share:.4f})" for name, share in record["removed"].items())
        lines.append(f"gone: {gone}, spread over all others")
    lines.append(f"cost: {len(corpus.domains)} groups per step instead of {len(record['order'])}")
    return "\n".join(fill(line, WIDTH, subsequent_indent=" " * 7) for line in lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shorten(name) for name in names)


def _entry(entries: list[Entry], relative: dict[str, float]) -> Entry:
    """Return the entry of the virtual domain in corpus.json; its fingerprint depends on all texts and weights."""
    text = [[entry["fingerprint"], relative[entry["name"]]] for entry in entries]
    return {
        "name": REUSED,
        "role": "domain",
        "sources": [],
        "validation_sources": [],
        "complete": all(entry["complete"] for entry in entries),
        "fingerprint": f"reused:{content_hash(text)}",
        **{key: sum(entry[key] for entry in entries) for key in SUMS},
    }


def _require_tokenizer(mixture: Mixture, corpus: CorpusData, path: Path, file: str) -> None:
    """Check that the mixture at `path` was learned with this run's tokenizer; `file` is corpus.tokenizer.file."""
    ours, wanted = corpus.record["tokenizer"], mixture.tokenizer.fingerprint
    if wanted == ours["fingerprint"]:
        return
    end = end_of_fingerprint(Backend.from_file(str(corpus.tokenizer_path)), wanted)
    beside = path.parent / "tokenizer.json"
    if end is not None:
        remedy = (
            f"only the end-of-text token differs, here {ours['end']!r}: set corpus.tokenizer.end: "
            f"{json.dumps(end, ensure_ascii=False)}"
        )
    elif beside.exists() and (not file or not beside.samefile(file)):
        remedy = f"use the one that the mixture was learned with: corpus.tokenizer: {{file: {beside}}}"
    else:
        remedy = (
            "set corpus.tokenizer.file to the tokenizer.json in the directory of the run that the mixture comes from, "
            "or learn without --reuse"
        )
    raise UserError(
        f"reuse {path}: its shares are in tokens of {mixture.tokenizer.name} ({wanted}), this run's tokenizer is "
        f"{ours['name']} ({ours['fingerprint']}); {remedy}"
    )


def _require_something(mixture: Mixture, corpus: CorpusData, changed: dict[str, str], where: str) -> None:
    if not changed:
        gone = [domain.name for domain in mixture.domains if domain.name not in corpus.domains]
        without = (
            f", but for {', '.join(gone)}, which is no longer in the corpus: take the mixture's other shares, scaled "
            f"to sum to 1"
            if gone
            else ""
        )
        raise UserError(
            f"{where}: nothing changed, every domain has the text that it had{without}; there is nothing to learn"
        )
    if len(changed) == len(corpus.domains):
        lines = "\n".join(f"  - {name}: {why}" for name, why in changed.items())
        raise UserError(f"{where}: every domain is new or changed:\n{lines}\nlearn without --reuse")


def _require_alike(settings: Settings, kept: list[str], where: str) -> None:
    """Check that the objective gives all reused domains one importance, as their gradient is taken together."""
    importance = {name: settings.importance.get(name, 0.0) for name in kept}
    if len(set(importance.values())) > 1:
        listed = ", ".join(f"{name} {value:g}" for name, value in importance.items())
        raise UserError(
            f"{where}: update.objective gives the reused domains different importances ({listed}), but their gradient "
            "is only computed for all of them together; give them one importance, name targets, or learn without "
            "--reuse"
        )
