"""How many tokens of a document the trainer trains on, which turns shares of tokens into shares of documents.

The first of these that is there counts: a mean that the user measured (--document-tokens), the documents in the token
cache of a proxy run (--cache), a manifest that lists all documents of the domain, and the counts in the mixture.
Separators are counted as the mixture counts them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mixtures.errors import UserError
from mixtures.schedule.manifest import WHOLE, Manifest, multiplicities, open_manifest
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Domain


@dataclass(frozen=True)
class DocumentLengths:
    """A domain's documents as they are trained on: after tokenizer, separators, truncation and sample policy.

    documents: number read in one pass; None: not known. mean_tokens: trained tokens per document; None: not known.
    sd_tokens: their standard deviation; 0 where only the mean is known. pass_tokens: trained tokens in one pass over
    the domain. origin: where the mean comes from, in words.
    """

    documents: float | None
    mean_tokens: float | None
    sd_tokens: float
    pass_tokens: float
    origin: str


@dataclass(frozen=True)
class Selection:
    """How often the documents that a sample policy lists are read; every other document is read once.

    All arrays are int64 (S,), one entry per listed document. times: how often it is read. start, tokens: its first
    token in the domain's tokens and its length. files, rows: its file, as an index into `names`, and its row there,
    from 0. names: paths of the files that the mixture was learned from. files and rows come from document ids
    `path:row`, whose rows count from 1; rows is None where some ids have another form.
    """

    mode: Literal["filter", "multiplicity"]
    start: np.ndarray
    tokens: np.ndarray
    times: np.ndarray
    names: tuple[str, ...]
    files: np.ndarray
    rows: np.ndarray | None


def read_manifests(mixture: Mixture, *, samples: str, honoured: Sequence[str], trainer: str) -> dict[str, Manifest]:
    """Return {name: manifest} of the domains whose sample policy the conversion has to honour.

    samples: keep | multiplicity | drop. honoured: modes of sample policies that the trainer honours. Raises UserError,
    listing every domain, where the trainer cannot honour a policy and the user did not say what to do.
    """
    if samples == "drop":
        return {}
    manifests = {
        domain.name: manifest for domain in mixture.domains if (manifest := open_manifest(domain, mixture.directory))
    }
    if samples == "multiplicity":
        manifests = {name: _whole(manifest, seed=mixture.sampling.seed) for name, manifest in manifests.items()}
    if lost := {name: manifest.mode for name, manifest in manifests.items() if manifest.mode not in honoured}:
        remedies = ["`--samples drop` leaves them out, which the report says"]
        if "sampling_weight" in lost.values() and set(honoured) & set(WHOLE):
            remedies.insert(0, "`--samples multiplicity` rounds weights to whole repetitions")
        if "loss_weight" not in lost.values():
            remedies.append("mixtures.MixtureStream honours them")
        domains = ", ".join(f"{name} ({mode})" for name, mode in lost.items())
        raise UserError(
            f"{trainer} has no way to honour the sample policies of {domains}; it honours "
            f"{', '.join(honoured) or 'none'}; {'; '.join(remedies)}"
        )
    return manifests


def _whole(manifest: Manifest, *, seed: int) -> Manifest:
    """Round a manifest's weights up or down to whole repetitions by systematic sampling, which keeps their sum."""
    if manifest.mode in WHOLE:
        return manifest
    if manifest.mode == "loss_weight":
        raise UserError(
            f"{manifest.domain}: loss weights do not say how often a document is read; take `--samples drop`"
        )
    offset = float(np.random.default_rng([seed, *manifest.domain.encode()]).random())
    times = multiplicities(manifest.weight, offset=offset)
    return Manifest(**{**vars(manifest), "mode": "multiplicity", "weight": times.astype(np.float64)})


def select(manifest: Manifest, domain: Domain) -> Selection:
    """Return the documents of a manifest in the form in which a trainer's reader picks them."""
    ids = [document.rpartition(":") for document in manifest.documents]
    known = [source.path for source in domain.sources]
    names = [*known, *sorted({path for path, _, _ in ids} - set(known))]
    number = {name: place for place, name in enumerate(names)}
    rows = (
        np.array([int(row) - 1 for _, _, row in ids], dtype=np.int64)
        if all(row.isdecimal() for _, _, row in ids)
        else None
    )
    return Selection(
        mode="filter" if manifest.mode == "filter" else "multiplicity",
        start=manifest.start,
        tokens=manifest.tokens,
        times=manifest.weight.astype(np.int64),
        names=tuple(names),
        files=np.array([number[path] for path, _, _ in ids], dtype=np.int64),
        rows=rows,
    )


def read_texts(
    mixture: Mixture,
    manifests: Mapping[str, Manifest],
    *,
    means: Mapping[str, float],
    cache: str | Path | None,
    most_tokens: int | None,
) -> dict[str, DocumentLengths]:
    """Return {name: what is known of the lengths of the domain's documents}.

    means: {name: trained tokens per document}, from the user. cache: token cache of the proxy run. most_tokens: tokens
    after which the trainer cuts a document off. Raises UserError where documents are to be cut and their lengths are
    not known.
    """
    tables = _cached(mixture, cache) if cache is not None else {}
    texts, unknown = {}, []
    for domain in mixture.domains:
        name, manifest = domain.name, manifests.get(domain.name)
        table = tables.get(name) or _listed(domain, manifest)
        if name in means:
            kept = manifest.pass_tokens if manifest else domain.unique_tokens
            texts[name] = DocumentLengths(kept / means[name], means[name], 0.0, kept, "--document-tokens")
        elif table is not None:
            origin = f"documents of {cache}" if name in tables else "its manifest"
            texts[name] = _measured(*table, manifest, most_tokens, unique_tokens=domain.unique_tokens, origin=origin)
        elif most_tokens is not None:
            unknown.append(name)
        else:
            texts[name] = _counted(domain, manifest)
    if unknown:
        raise UserError(
            f"--max-document-tokens {most_tokens}: the lengths of the documents of {', '.join(unknown)} are not "
            f"known; give the proxy "
            "run's token cache with --cache, or the means after the cut with --document-tokens NAME=MEAN"
        )
    return texts


def _cached(mixture: Mixture, cache: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read {name: (start, tokens)} of the training documents from a token cache, int64 (S,) each."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from mixtures.stream.cached import DOCUMENTS, META, REMEDY, SUMS, changed
    from mixtures.stream.tokens import find_sources

    tables = {}
    for name, path in find_sources(mixture.domains, mixture.tokenizer, Path(cache)).items():
        if fault := changed(path / SUMS, [META, DOCUMENTS]):
            raise UserError(f"{path} is damaged ({fault}); {REMEDY}")
        table = pq.read_table(path / DOCUMENTS, columns=["split", "start", "tokens"])
        table = table.filter(pc.equal(table["split"], "train"))
        tables[name] = (table["start"].to_numpy(), table["tokens"].to_numpy())
    return tables


def _listed(domain: Domain, manifest: Manifest | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the documents (start, tokens) of a manifest that lists the whole domain; None for any other."""
    if manifest is None or int(manifest.tokens.sum()) != domain.unique_tokens:
        return None
    return manifest.start, manifest.tokens


def _measured(
    start: np.ndarray,
    tokens: np.ndarray,
    manifest: Manifest | None,
    most_tokens: int | None,
    *,
    unique_tokens: int,
    origin: str,
) -> DocumentLengths:
    """Return the lengths from measured documents, each cut at `most_tokens` and read as often as the manifest says."""
    grown = unique_tokens / int(tokens.sum())  # the large run may have more text than the measured documents
    lengths = tokens if most_tokens is None else np.minimum(tokens, most_tokens)
    times = np.ones(len(tokens))
    if manifest is not None:
        times[np.searchsorted(start, manifest.start)] = manifest.weight
    documents = times.sum()
    mean = float(times @ lengths / documents)
    spread = float(np.sqrt(times @ (lengths - mean) ** 2 / documents))
    return DocumentLengths(float(documents) * grown, mean, spread, float(times @ lengths) * grown, origin)


def _counted(domain: Domain, manifest: Manifest | None) -> DocumentLengths:
    """Return the lengths from the mixture's counts of tokens and documents; the spread is not known then."""
    tokens, documents = float(domain.unique_tokens), domain.unique_documents
    if manifest is not None:
        tokens = float(manifest.pass_tokens)
        documents = None if documents is None else documents + int(manifest.weight.sum()) - len(manifest.weight)
    mean = tokens / documents if documents else None
    return DocumentLengths(documents, mean, 0.0, tokens, "the mixture's tokens and documents")
