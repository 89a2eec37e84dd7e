"""Manifests: which documents of a domain are read, and how often, as one parquet file a domain.

A document is a span of the domain's tokens. Columns: document (its id), start (first token), tokens, and weight
(float64) or, where it is a whole number (filter: 0 or 1, multiplicity), multiplicity (int64); what they belong to
stands in the schema's metadata. Sorted by start, no overlaps. Tokens of the domain that no document of the manifest
covers are read once.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.schedule.records import Domain

FORMAT = 1
KEY = b"mixtures.manifest"  # in the schema's metadata
MODES = ("filter", "multiplicity", "sampling_weight", "loss_weight")
WHOLE = ("filter", "multiplicity")
HASH_DIGITS = 16  # of the hash, at the end of a file's name
REMEDY = "restore it from a copy, or export the mixture again"


@dataclass(frozen=True)
class Manifest:
    """S documents of one domain. start, tokens: int64 (S,); weight: float64 (S,), whole numbers for filter and
    multiplicity.

    domain_tokens: tokens of the whole domain, fingerprint: of these tokens; facts: how the weights came about.
    """

    domain: str
    fingerprint: str | None
    domain_tokens: int
    mode: str
    documents: list[str]
    start: np.ndarray
    tokens: np.ndarray
    weight: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pass_tokens(self) -> int:
        """Tokens of one pass over the domain: what is listed as often as it says, everything else once."""
        if self.mode not in WHOLE:
            return self.domain_tokens
        return self.domain_tokens + int(((self.weight.astype(np.int64) - 1) * self.tokens).sum())

    @property
    def effective_sample_size(self) -> float:
        """Of the whole domain, what is not listed with weight 1: a fraction of its tokens (`sample_weights`)."""
        rest = self.domain_tokens - int(self.tokens.sum())
        return effective_sample_size(np.append(self.weight, 1.0), np.append(self.tokens, rest))

    def kept_documents(self, documents: int | None) -> int | None:
        """How many of the domain's `documents` are read at all; None: not known."""
        return None if documents is None else documents - int((self.weight == 0).sum())


def write_manifest(path: str | Path, manifest: Manifest) -> str:
    """Write the file in one step; `sha256:` and the hash of its bytes. Raises OSError, the old file then stays."""
    data = _packed(manifest)
    write_atomic(path, data)
    return sha256_of(data)


def store_manifest(directory: str | Path, manifest: Manifest) -> tuple[Path, str]:
    """Write the file under a name of its domain and its hash, so that no other is replaced; its path, and `sha256:`
    with the hash.
    """
    data = _packed(manifest)
    digest = sha256_of(data)
    path = Path(directory) / f"{manifest.domain}-{digest.removeprefix('sha256:')[:HASH_DIGITS]}.parquet"
    write_atomic(path, data)
    return path, digest


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in the file `path`. Raises UserError for a missing or damaged file, and for one that is none."""
    return _unpack(_bytes(Path(path)), Path(path))


def open_manifest(domain: Domain, directory: Path | None) -> Manifest | None:
    """The manifest that a domain of the mixture.json in `directory` names; None for a domain without sample policy.

    Raises UserError where it is missing, not the file that the mixture was written with, or of another domain or text.
    """
    policy = domain.sample_policy
    if policy is None or policy.mode == "none":
        return None
    if policy.manifest_uri is None:
        raise UserError(
            f"the sample policy of {domain.name} ({policy.mode}) names no manifest; export the mixture again with "
            f"--samples"
        )
    if directory is None and not Path(policy.manifest_uri).is_absolute():
        raise UserError(
            f"the manifest of {domain.name}, {policy.manifest_uri}, is looked for beside the mixture's file, and this "
            "mixture never was in one; save it beside its manifests, or load it from there"
        )
    path = (directory or Path()) / policy.manifest_uri
    data = _bytes(path)
    if policy.manifest_sha256 not in (None, found := sha256_of(data)):
        raise UserError(
            f"{path} has {found}, the mixture was written with {policy.manifest_sha256}: it was replaced or damaged; "
            f"{REMEDY}"
        )
    manifest = _unpack(data, path)
    if faults := list(_mismatches(manifest, domain)):
        raise UserError(
            f"{path} does not belong to {domain.name} of this mixture:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
        )
    return manifest


@contextmanager
def samples_directory(output: str | Path) -> Iterator[Path]:
    """The directory for the manifests of the mixture file `output`; when the block ends, only those that the file names
    are left.

    So a failure on the way, a full disk included, leaves the old file and its manifests, and nothing else.
    """
    output = Path(output)
    directory = output.with_name(f"{output.name.removesuffix('.json')}.samples")
    try:
        yield directory
    finally:
        named = set(_named_manifests(output))
        for path in directory.glob(f"*-{'?' * HASH_DIGITS}.parquet"):
            if path.resolve() not in named:
                path.unlink()
        if directory.is_dir() and not os.listdir(directory):
            directory.rmdir()


def sha256_of(data: bytes) -> str:
    """`sha256:` and the hash."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _named_manifests(mixture_file: Path) -> Iterator[Path]:
    """The manifests that a mixture's file names; of a file that is none, none."""
    try:
        domains = json.loads(mixture_file.read_bytes())["domains"]
        uris = [(domain.get("sample_policy") or {}).get("manifest_uri") for domain in domains]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    yield from ((mixture_file.parent / uri).resolve() for uri in uris if isinstance(uri, str))


def _packed(manifest: Manifest) -> bytes:
    """The file's bytes: the same for the same manifest. Raises ValueError for what is no manifest."""
    if faults := list(_faults(manifest)):
        raise ValueError("\n".join(faults))
    whole = manifest.mode in WHOLE
    columns = {
        "document": pa.array(manifest.documents, type=pa.string()),
        "start": pa.array(manifest.start, type=pa.int64()),
        "tokens": pa.array(manifest.tokens, type=pa.int64()),
        "multiplicity" if whole else "weight": pa.array(manifest.weight.astype(np.int64) if whole else manifest.weight),
    }
    about = {name: getattr(manifest, name) for name in ("domain", "fingerprint", "domain_tokens", "mode", "facts")}
    text = json.dumps({"format": FORMAT, **about}, sort_keys=True, ensure_ascii=False)
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns).replace_schema_metadata({KEY: text}), buffer, compression="zstd", write_page_checksum=True
    )
    return buffer.getvalue()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"the manifest {path} is not there; keep it beside its mixture.json, or export the mixture again"
        ) from error


def _unpack(data: bytes, path: Path) -> Manifest:
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read: it is torn or damaged ({str(error).splitlines()[0]}); {REMEDY}"
        ) from error
    try:
        about = json.loads((table.schema.metadata or {})[KEY])
        if (version := about.pop("format")) != FORMAT:
            raise UserError(
                f"{path} has manifest format {version}, this version reads {FORMAT}; read it with the version that "
                f"wrote it"
            )
        weight = table["multiplicity" if about["mode"] in WHOLE else "weight"].to_numpy().astype(np.float64)
        numbers = {name: table[name].to_numpy().astype(np.int64) for name in ("start", "tokens")}
        manifest = Manifest(**about, documents=table["document"].to_pylist(), weight=weight, **numbers)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is not a manifest ({type(error).__name__}: {error}); give one that `mixtures export` wrote"
        ) from error
    if faults := list(_faults(manifest)):
        raise UserError(f"{path} is damaged:\n" + "\n".join(f"  - {fault}" for fault in faults) + f"\n{REMEDY}")
    return manifest


def _faults(manifest: Manifest) -> Iterator[str]:
    """What keeps it from being a manifest."""
    start, tokens, weight = manifest.start, manifest.tokens, manifest.weight
    if manifest.mode not in MODES:
        yield f"mode {manifest.mode!r}; known: {', '.join(MODES)}"
    if sizes := sorted({len(manifest.documents), len(start), len(tokens), len(weight)})[1:]:
        yield f"its columns have different lengths, up to {sizes[-1]}"
        return
    ends = start + tokens
    wrong = {
        "has no tokens": tokens < 1,
        "does not lie in the domain": (start < 0) | (ends > manifest.domain_tokens),
        "overlaps the one before it, or is out of order": np.concatenate(
            [np.zeros(min(1, len(start)), dtype=bool), start[1:] < ends[:-1]]
        ),
        "has a weight that is not finite and at least 0": ~(np.isfinite(weight) & (weight >= 0)),
    }
    if manifest.mode in WHOLE:
        allowed = "0 or 1" if manifest.mode == "filter" else "a whole number"
        wrong[f"has a multiplicity that is not {allowed}"] = (weight != np.floor(weight)) | (
            (manifest.mode == "filter") & (weight > 1)
        )
    for what, where in wrong.items():
        if where.any():
            first = int(where.argmax())
            place = (
                f"tokens {start[first]:,} to {ends[first]:,} of {manifest.domain_tokens:,}, weight {weight[first]:g}"
            )
            yield (
                f"document {manifest.documents[first]} of {manifest.domain} {what} ({place}; {int(where.sum()):,} "
                f"such documents)"
            )


def _mismatches(manifest: Manifest, domain: Domain) -> Iterator[str]:
    """What keeps a manifest from being the one of a domain."""
    if manifest.domain != domain.name:
        yield f"it lists documents of {manifest.domain}"
    if domain.sample_policy is not None and manifest.mode != domain.sample_policy.mode:
        yield f"it is for mode {manifest.mode}, the mixture says {domain.sample_policy.mode}"
    if manifest.domain_tokens != domain.unique_tokens:
        yield f"it is for a text of {manifest.domain_tokens:,} tokens, the mixture's has {domain.unique_tokens:,}"
    elif None not in (manifest.fingerprint, domain.fingerprint) and manifest.fingerprint != domain.fingerprint:
        yield f"it is for the text {manifest.fingerprint}, the mixture's is {domain.fingerprint}"


def effective_sample_size(weights: np.ndarray, tokens: np.ndarray) -> float:
    """(sum n w)^2 / (sum n sum n w^2), above 0 to 1: the fraction of the tokens that equal weights would need
    (Kish).
    """
    tokens = tokens.astype(np.float64)
    size = (tokens @ weights) ** 2 / (tokens.sum() * (tokens @ weights**2))
    return min(1.0, float(size))


def multiplicities(weights: np.ndarray, *, offset: float) -> np.ndarray:
    """How often every document is read in one epoch, int64 (S,): floor(w_i) or one more, and w_i on average over
    offsets in [0, 1).

    Systematic sampling: the increments of floor(w_1 + ... + w_i + offset).
    """
    steps = np.floor(np.cumsum(weights) + offset).astype(np.int64)
    return np.diff(steps, prepend=0)
