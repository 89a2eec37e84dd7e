"""Manifests: which documents of a domain are read, and how often. One parquet file per domain.

A document is a span of the domain's tokens. Documents are sorted by start and do not overlap. Tokens that no document
of the manifest covers are read once. Columns:

document      its id
start         its first token in the domain
tokens        its length
multiplicity  (int64) how often it is read: 0 or 1 for a filter, any whole number for multiplicity; or
weight        (float64) in its place, for the other modes

The metadata of the schema names the domain, its text, the mode and how the weights were made.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixtures.errors import UserError, quoted
from mixtures.files import write_atomic
from mixtures.locks import lock_beside
from mixtures.schedule.records import Domain

FORMAT = 1
KEY = b"mixtures.manifest"  # of the schema's metadata
MODES = ("filter", "multiplicity", "sampling_weight", "loss_weight")
WHOLE = ("filter", "multiplicity")  # the modes whose weights are whole numbers
HASH_DIGITS = 16  # digits of the hash at the end of a file's name
REMEDY = "restore it from a copy, or export the mixture again"


@dataclass(frozen=True)
class Manifest:
    """S documents of one domain, with the number of times that each is read, or its weight.

    start, tokens: int64 (S,). weight: float64 (S,), whole numbers for filter and multiplicity. domain_tokens: tokens of
    the whole domain. fingerprint: hash of these tokens. facts: how the weights were made.
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
        """Return the tokens of one pass over the domain: documents as often as listed, all other text once."""
        if self.mode not in WHOLE:
            return self.domain_tokens
        return self.domain_tokens + int(((self.weight.astype(np.int64) - 1) * self.tokens).sum())

    @property
    def effective_sample_size(self) -> float:
        """Return the effective sample size as a fraction of the domain's tokens; unlisted text has weight 1."""
        rest = self.domain_tokens - int(self.tokens.sum())
        return effective_sample_size(np.append(self.weight, 1.0), np.append(self.tokens, rest))

    def kept_documents(self, documents: int | None) -> int | None:
        """Return how many of the domain's `documents` are read at all; None where `documents` is not known."""
        return None if documents is None else documents - int((self.weight == 0).sum())


def write_manifest(path: str | Path, manifest: Manifest) -> str:
    """Write the manifest as the file `path` in one step; return `sha256:` and the hash of its bytes.

    Raises OSError; the old file then stays.
    """
    data = _packed(manifest)
    write_atomic(path, data)
    return sha256_of(data)


def store_manifest(directory: str | Path, manifest: Manifest) -> tuple[Path, str]:
    """Write the manifest into `directory`; return its path and `sha256:` with the hash of its bytes.

    The file's name is made of the domain and the hash, so that no other manifest is replaced.
    """
    data = _packed(manifest)
    digest = sha256_of(data)
    path = Path(directory) / f"{manifest.domain}-{digest.removeprefix('sha256:')[:HASH_DIGITS]}.parquet"
    write_atomic(path, data)
    return path, digest


def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest in the file `path`. Raises UserError for a file that is missing, damaged or no manifest."""
    return _unpack(_bytes(Path(path)), Path(path))


def open_manifest(domain: Domain, directory: Path | None) -> Manifest | None:
    """Read the manifest that `domain` names; None for a domain without sample policy.

    directory: where the mixture.json lies. Raises UserError where the manifest is missing, is not the file that the
    mixture was written with, or belongs to another domain or text.
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
            f"the path of {domain.name}'s manifest, {policy.manifest_uri}, is relative to the mixture's file, but this "
            "mixture was never in a file; save it beside its manifests, or load it from the file beside them"
        )
    path = (directory or Path()) / policy.manifest_uri
    data = _bytes(path)
    if policy.manifest_sha256 not in (None, digest := sha256_of(data)):
        raise UserError(
            f"the file {path} has the hash {digest}, the mixture was written with {policy.manifest_sha256}: "
            f"the file was replaced or damaged; {REMEDY}"
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
    """Give the directory for the manifests of the mixture file `output`; clean it at the end.

    At the end only manifests are deleted that the replaced file named, or that were written here and that no file names
    now. Those that another mixture beside it names stay: a copy of the old file keeps working. So a failure on the way,
    a full disk included, leaves the old file and its manifests, and nothing else. Another command that writes there
    waits meanwhile.
    """
    output = Path(output)
    directory = output.with_name(f"{output.name.removesuffix('.json')}.samples")
    with ExitStack() as stack:
        if not output.parent.exists():
            stack.callback(_remove_empty, output.parent)
        stack.enter_context(lock_beside(directory))
        replaced, before = set(_named_manifests(output)), set(_manifests_in(directory))
        try:
            yield directory
        finally:
            written = set(_manifests_in(directory)) - before
            if candidates := {path for path in replaced | written if path.parent == directory.resolve()}:
                siblings = (path for path in {output, *output.parent.glob("*.json")} if path.is_file())
                for path in candidates - {named for sibling in siblings for named in _named_manifests(sibling)}:
                    path.unlink(missing_ok=True)
            _remove_empty(directory)


def require_replaceable(output: str | Path) -> None:
    """Check that writing a mixture into `output` destroys nothing but a mixture. Raises UserError.

    A file that is there must be a mixture, or shares by name; a run's config.yaml is neither.
    """
    path = Path(output)
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(
            f"{path} is {'a directory' if path.is_dir() else 'a device or a pipe'}; give the name of a file"
        )
    with suppress(ValueError, OSError):
        content = json.loads(path.read_bytes())
        named = isinstance(content, dict) and content and all(isinstance(v, int | float) for v in content.values())
        if named or (isinstance(content, dict) and "stages" in content and "domains" in content):
            return
    raise UserError(
        f"{path} is there and is no mixture; nothing was written. Give another -o, or remove that file if it is not "
        "needed"
    )


def _remove_empty(directory: Path) -> None:
    """Remove a directory if it is there and empty."""
    with suppress(OSError):
        directory.rmdir()


def sha256_of(data: bytes) -> str:
    """Return `sha256:` and the hash of the data in hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _named_manifests(mixture_file: Path) -> Iterator[Path]:
    """Yield the paths of the manifests that a mixture's file names; none where the file is missing or no mixture."""
    try:
        domains = json.loads(mixture_file.read_bytes())["domains"]
        uris = [(domain.get("sample_policy") or {}).get("manifest_uri") for domain in domains]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    yield from ((mixture_file.parent / uri).resolve() for uri in uris if isinstance(uri, str))


def _manifests_in(directory: Path) -> list[Path]:
    """Return the files in a directory that are named like manifests."""
    return [path.resolve() for path in directory.glob(f"*-{'?' * HASH_DIGITS}.parquet")]


def _packed(manifest: Manifest) -> bytes:
    """Return the bytes of the manifest's file, the same for the same manifest. Raises ValueError listing its faults."""
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
    """Read the bytes of a manifest's file. Raises UserError where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"the manifest {path} is not there; keep it beside its mixture.json, or export the mixture again"
        ) from error


def _unpack(data: bytes, path: Path) -> Manifest:
    """Read a manifest from the bytes of its file `path`. Raises UserError for damaged bytes and other formats."""
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
                f"{path} has manifest format {version}, this version of mixtures reads {FORMAT}; read it with the "
                f"version that wrote it"
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
    """Yield one message per fault of the manifest itself: mode, lengths of columns, spans, weights."""
    start, tokens, weight = manifest.start, manifest.tokens, manifest.weight
    if manifest.mode not in MODES:
        yield f"mode {quoted(manifest.mode)}; known: {', '.join(MODES)}"
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
    """Yield one message per way in which the manifest does not belong to this domain of the mixture."""
    if manifest.domain != domain.name:
        yield f"it lists documents of {manifest.domain}"
    if domain.sample_policy is not None and manifest.mode != domain.sample_policy.mode:
        yield f"it is for mode {manifest.mode}, the mixture says {domain.sample_policy.mode}"
    if manifest.domain_tokens != domain.unique_tokens:
        yield f"it is for a text of {manifest.domain_tokens:,} tokens, the mixture's has {domain.unique_tokens:,}"
    elif None not in (manifest.fingerprint, domain.fingerprint) and manifest.fingerprint != domain.fingerprint:
        yield f"it is for the text {manifest.fingerprint}, the mixture's is {domain.fingerprint}"


def effective_sample_size(weights: np.ndarray, tokens: np.ndarray) -> float:
    """Return (sum n w)^2 / (sum n sum n w^2), above 0 and at most 1, for weights w (S,) and tokens n (S,).

    This is the fraction of the tokens that would say as much if all weights were equal (Kish).
    """
    tokens = tokens.astype(np.float64)
    size = (tokens @ weights) ** 2 / (tokens.sum() * (tokens @ weights**2))
    return min(1.0, float(size))


def multiplicities(weights: np.ndarray, *, offset: float) -> np.ndarray:
    """Return how often every document is read in one epoch, int64 (S,): floor(w_i) or one more, on average w_i.

    The average is over offsets in [0, 1). Systematic sampling: the increments of floor(w_1 + ... + w_i + offset).
    """
    steps = np.floor(np.cumsum(weights) + offset).astype(np.int64)
    return np.diff(steps, prepend=0)
