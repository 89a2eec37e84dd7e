"""The token cache of one domain: a directory on disk that appears complete or not at all.

`train.bin` and `held_out.bin` are flat arrays of token ids, every document followed by the end-of-text token;
`documents.parquet` lists which tokens belong to which document; `meta.json` holds counts, fingerprints and sizes;
`_SHA256SUMS` holds the hashes of these files (mixtures/stream/cached.py). The directory is written under another name
beside its place and then renamed, with a lock held: other commands wait and open it. Only who holds the lock replaces a
damaged directory, after another look.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mixtures.boundary import remedy
from mixtures.errors import UserError
from mixtures.files import atomic_dir, read_json
from mixtures.locks import lock_beside
from mixtures.stream.cached import DOCUMENTS, META, SUMS, TOKENS, changed, write_sums
from mixtures.stream.tokens import token_dtype
from proxies.corpus.only import Selection
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import Document, describe, documents
from proxies.corpus.spelling import SAMPLE_CHARACTERS
from proxies.corpus.tokenizer import TextEncoder, head

FORMAT = 1  # changes with the layout of the files; caches with another number are built again
SPLITS = ("train", "held_out")
FILES = (TOKENS, "held_out.bin", DOCUMENTS)
BATCH_CHARACTERS = 1_000_000  # about how many characters are tokenized at a time
TABLE_ROWS = 8_192  # number of documents that are written to documents.parquet at a time
TABLE = pa.schema([("id", "string"), ("split", "string"), ("start", "int64"), ("tokens", "int64"), ("bytes", "int64")])


def reading(source: SourceSettings, *, held_out: float, draws: int) -> dict[str, Any]:
    """Return everything that decides which documents a domain has and how they are split, as recorded in meta.json.

    A streamed source without max_tokens stops after `draws` tokens.
    """
    return {
        "train": describe(source),
        "validation": describe(source, "validation") if source.validation else [],
        "held_out": None if source.validation else held_out,
        "limit": source.max_tokens or (draws if source.streaming else None),
        "text": source.text,
    }


def is_held_out(text: str, share: float | None) -> bool:
    """Say whether a document belongs to the held-out `share` (None: no document does).

    Only its text decides, so a copy of it in another domain is held out as well.
    """
    return share is not None and int.from_bytes(_digest(text)[:8], "big") < share * 2**64


def content_hash(content: Any) -> str:
    """Return a short hash of a value that JSON can hold, for use in file names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def open_domain(
    cache: Path,
    name: str,
    source: SourceSettings,
    tokenizer: TextEncoder,
    inputs: dict[str, Any],
    bar: tqdm,
    *,
    check: bool,
) -> tuple[Path, dict[str, Any]]:
    """Return the cache directory of a domain and its meta.json; build the cache if it is missing or damaged.

    `inputs` is what `reading` returned; `bar` shows the progress; `check` compares the files with their hashes. Raises
    UserError for a source that cannot be read and for a cache that cannot be written.
    """
    # caches of older versions lack the count of what is lost: another name builds them again
    counted = [] if tokenizer.spells_all else ["spelling"]
    path = cache / f"{name}-{content_hash([FORMAT, inputs, tokenizer.fingerprint, *counted])}"
    bar.set_description_str(f"checking {name}" if check else name)
    with suppress(UserError):
        return path, _read_meta(path, inputs, tokenizer, check=check)
    try:
        with _turn(path, bar):
            try:  # another command may have built it by now
                return path, _read_meta(path, inputs, tokenizer, check=check)
            except UserError as fault:
                if path.exists():
                    bar.write(f"the token cache {path} is damaged ({fault}); it is built again")
            bar.set_description_str(name)
            _build(path, source, tokenizer, inputs, bar)
            return path, _read_meta(path, inputs, tokenizer, check=False)
    except OSError as error:
        raise unwritable(cache, error) from error


def is_hashed(path: Path) -> bool:
    """Say whether a cache directory has hashes to compare its files with; those of earlier versions have none."""
    return (path / SUMS).exists()


def open_tokens(path: Path, split: str, tokenizer: TextEncoder) -> np.ndarray:
    """Open the token ids of a split (uint16 or uint32) in a cache directory, as a read-only memory map."""
    return np.memmap(path / f"{split}.bin", token_dtype(tokenizer.vocab_size), mode="r")


def unwritable(cache: Path, error: OSError) -> UserError:
    """Return the error for a cache directory that cannot be written."""
    return UserError(
        f"the token cache cannot be written in {cache}: {error.strerror or error}; {remedy(error)}, or set "
        "corpus.cache_dir to another directory"
    )


@contextmanager
def _turn(path: Path, bar: tqdm) -> Iterator[None]:
    """Hold the lock of the cache directory `path` while the block runs, without what killed processes left of it."""
    waiting = f"another command builds the token cache {path}; waiting for it"
    with lock_beside(path, on_wait=lambda: bar.write(waiting)):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


class _Writer:
    """Writer of the files of a cache directory, with counts and a hash of what they hold so far."""

    def __init__(self, directory: Path, tokenizer: TextEncoder) -> None:
        self.counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
        self.content = hashlib.sha256()  # of the text and its split
        self._end = np.array([tokenizer.eos_id])
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._rows: list[dict[str, Any]] = []
        stack = self._stack = ExitStack()
        self._table = stack.enter_context(pq.ParquetWriter(directory / DOCUMENTS, TABLE))
        paths = {split: directory / f"{split}.bin" for split in SPLITS}
        self._files = {split: stack.enter_context(open(path, "wb")) for split, path in paths.items()}  # noqa: SIM115

    def add(self, split: str, document: Document, ids: np.ndarray) -> int:
        """Append a document to a split and return the size of its text (bytes)."""
        count, size = self.counts[split], len(document.text.encode())
        self._rows.append(
            {"id": document.id, "split": split, "start": count["tokens"], "tokens": len(ids) + 1, "bytes": size}
        )
        if len(self._rows) >= TABLE_ROWS:
            self._flush()
        for each in (ids, self._end):
            self._files[split].write(each.astype(self._dtype).data)
        self.content.update(split.encode() + _digest(document.text))
        count["documents"] += 1
        count["tokens"] += len(ids) + 1
        count["bytes"] += size
        return size

    def _flush(self) -> None:
        self._table.write_batch(pa.RecordBatch.from_pylist(self._rows, TABLE))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._stack:
            if kind is None:
                self._flush()


def _build(path: Path, source: SourceSettings, tokenizer: TextEncoder, inputs: dict[str, Any], bar: tqdm) -> None:
    """Tokenize a domain into the cache directory `path`, one batch of documents at a time."""
    limit = inputs["limit"]
    complete = True
    selection = Selection(source.only)
    lost: Counter[str] | None = None if tokenizer.spells_all else Counter()
    with atomic_dir(path, replace=True) as directory:
        with _Writer(directory, tokenizer) as writer:
            for document, ids in _tokenized(documents(source, selection=selection), tokenizer, lost):
                if limit is not None and writer.counts["train"]["tokens"] >= limit:
                    complete = False
                    break
                split = "held_out" if is_held_out(document.text, inputs["held_out"]) else "train"
                bar.update(writer.add(split, document, ids))
            if source.validation:
                for document, ids in _tokenized(documents(source, "validation"), tokenizer, lost):
                    bar.update(writer.add("held_out", document, ids))
        meta = {
            **writer.counts,
            "complete": complete,
            **({"only": {"lines": selection.read, "matched": selection.taken}} if source.only else {}),
            "fingerprint": "sha256:" + writer.content.hexdigest(),
            "inputs": inputs,
            "tokenizer": tokenizer.record(),
            "format": FORMAT,
            **({} if lost is None else {"spelling": dict(lost)}),
            "sizes": {name: (directory / name).stat().st_size for name in FILES},
        }
        (directory / META).write_text(json.dumps(meta, indent=1))
        write_sums(directory / SUMS, [META, *FILES])


def _tokenized(
    texts: Iterable[Document], tokenizer: TextEncoder, lost: Counter[str] | None
) -> Iterator[tuple[Document, np.ndarray]]:
    """Yield documents with their token ids, tokenized in batches of about BATCH_CHARACTERS characters.

    Add what the tokenizer loses of the beginning of every batch to `lost`, if given.
    """

    def encoded(batch: list[Document]) -> Iterator[tuple[Document, np.ndarray]]:
        batch_texts = [document.text for document in batch]
        ids = tokenizer.encode(batch_texts)
        if lost is not None:
            lost.update(tokenizer.count_lost(head(batch_texts, SAMPLE_CHARACTERS)))
        return zip(batch, ids, strict=True)

    batch: list[Document] = []
    size = 0
    for document in texts:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield from encoded(batch)
            batch, size = [], 0
    yield from encoded(batch)


def _read_meta(path: Path, inputs: dict[str, Any], tokenizer: TextEncoder, *, check: bool) -> dict[str, Any]:
    """Read the meta.json of a cache directory. Raises UserError where the directory is missing, damaged or another one.

    The sizes of the files are compared with those in meta.json, and with `check` also their hashes.
    """
    try:
        meta: dict[str, Any] = read_json(path / META)
        found = content_hash([meta["inputs"], meta["tokenizer"]["fingerprint"]])
        same_sizes = meta["sizes"] == {name: (path / name).stat().st_size for name in FILES}
        fault = changed(path / SUMS, [META, *FILES]) if check and same_sizes else None
    except (OSError, TypeError, KeyError) as error:
        raise UserError(f"{type(error).__name__}: {error}") from error
    if found != content_hash([inputs, tokenizer.fingerprint]):
        raise UserError("it holds another text, or tokens of another tokenizer")
    if not same_sizes:
        raise UserError(f"files have other sizes than {META} names")
    if fault:
        raise UserError(fault)
    return meta


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
