"""`--reuse mixture.json`: a domain was added, split or merged; the others keep their weights among themselves.

Untouched domains (the same name and the same text as in the mixture) become one virtual domain, `reused`, whose rows
are drawn by those weights; the run learns over it and what is new. The mixture that comes out has all domains again
(`mixtures/run/reused.py`).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

from mixtures.errors import UserError
from mixtures.run.run import REUSED
from mixtures.schedule.mixture import Mixture
from mixtures.text import WIDTH, shorten
from proxies.corpus.cache import content_hash
from proxies.corpus.corpus import CorpusData
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
    """The corpus with its untouched domains as one; the same corpus without `settings.reuse`.

    Raises UserError for a file that is no mixture, another tokenizer, a corpus in which nothing or everything changed,
    a weight of 0 of all that is left, an objective that tells the reused domains apart, and a domain or target that is
    named `reused`.
    """
    if not settings.reuse:
        return corpus
    mixture, where = Mixture.load(settings.reuse), f"reuse {settings.reuse}"
    if REUSED in corpus.names:
        raise UserError(
            f"{where}: a domain or target is named {REUSED!r}, which the untouched domains are called together; "
            f"rename it"
        )
    _require_tokenizer(mixture, corpus, where)
    changed = changes(mixture, corpus)
    kept = [name for name in corpus.domains if name not in changed]
    _require_something(mixture, corpus, changed, where)
    weights = mixture.average_weights()
    total = sum(weights[name] for name in kept)
    if total <= 0:
        raise UserError(
            f"{where}: the untouched domains ({', '.join(kept)}) have no weight there; learn without --reuse"
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
    """{training domain that has to be learned: why}, in the order of the run."""
    known = {domain.name: domain.fingerprint for domain in mixture.domains}
    found = {}
    for name in corpus.domains:
        if name not in known:
            found[name] = "new"
        elif known[name] is None:
            found[name] = "the mixture does not say its text"
        elif known[name] != corpus.entry(name)["fingerprint"]:
            found[name] = "other text"
    return found


def describe_reuse(corpus: CorpusData) -> str:
    """What a person reads of it."""
    record = corpus.record["reused"]
    lines = [
        f"reused: {len(record['relative'])} domain(s) keep their relative weights, as one: "
        f"{_listed(record['relative'])}",
        f"learned: {', '.join(f'{shorten(name)} ({why})' for name, why in record['changed'].items())}",
    ]
    if record["removed"]:
        gone = ", ".join(f"{shorten(name)} ({share:.4f})" for name, share in record["removed"].items())
        lines.append(f"gone: {gone}, spread over all others")
    lines.append(f"cost: {len(corpus.domains)} groups a step in the place of {len(record['order'])}")
    return "\n".join(fill(line, WIDTH, subsequent_indent=" " * 7) for line in lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shorten(name) for name in names)


def _entry(entries: list[Entry], relative: dict[str, float]) -> Entry:
    """What corpus.json says of the virtual domain; its fingerprint changes with any text and any weight."""
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


def _require_tokenizer(mixture: Mixture, corpus: CorpusData, where: str) -> None:
    ours = corpus.record["tokenizer"]
    if mixture.tokenizer.fingerprint != ours["fingerprint"]:
        raise UserError(
            f"{where}: its shares are in tokens of {mixture.tokenizer.name} ({mixture.tokenizer.fingerprint}), this "
            f"run's tokenizer is {ours['name']} ({ours['fingerprint']}); take the one that the mixture was learned "
            f"with: corpus.tokenizer: {{file: {Path(where.removeprefix('reuse ')).parent / 'tokenizer.json'}}}"
        )


def _require_something(mixture: Mixture, corpus: CorpusData, changed: dict[str, str], where: str) -> None:
    if not changed:
        gone = [domain.name for domain in mixture.domains if domain.name not in corpus.domains]
        without = (
            f", but for {', '.join(gone)}: its shares without that, scaled to 1, are all there is to say"
            if gone
            else ""
        )
        raise UserError(
            f"{where}: nothing changed, every domain has the text that it had{without}; there is nothing to learn"
        )
    if len(changed) == len(corpus.domains):
        lines = "\n".join(f"  - {name}: {why}" for name, why in changed.items())
        raise UserError(f"{where}: no domain is as it was:\n{lines}\nlearn without --reuse")


def _require_alike(settings: Settings, kept: list[str], where: str) -> None:
    """The gradients of the reused domains are taken together, so the objective can only count them alike."""
    importance = {name: settings.importance.get(name, 0.0) for name in kept}
    if len(set(importance.values())) > 1:
        found = ", ".join(f"{name} {value:g}" for name, value in importance.items())
        raise UserError(
            f"{where}: update.objective tells the reused domains apart ({found}), and their gradients are only known "
            "together; give them one importance, name targets, or learn without --reuse"
        )
