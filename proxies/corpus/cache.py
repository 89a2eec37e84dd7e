"""The token cache of one domain: a directory on disk that is there whole or not at all.

`train.bin` and `held_out.bin` are flat arrays of token ids, every document followed by the end-of-text token;
`documents.parquet` leads from tokens back to documents; `meta.json` counts all of it. The directory is written beside
its place and renamed: of several processes that build the same one the first wins and the others open it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mixtures.errors import UserError
from mixtures.files import atomic_dir
from mixtures.stream.tokens import token_dtype
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import Document, describe, documents
from proxies.corpus.tokenizer import TextEncoder

FORMAT = 1  # another number: everything is built again
SPLITS = ("train", "held_out")
FILES = ("train.bin", "held_out.bin", "documents.parquet")
BATCH_CHARACTERS = 1_000_000  # tokenized at once
TABLE_ROWS = 8_192  # documents listed at once
TABLE = pa.schema([("id", "string"), ("split", "string"), ("start", "int64"), ("tokens", "int64"), ("bytes", "int64")])


def reading(source: SourceSettings, *, held_out: float, draws: int) -> dict[str, Any]:
    """All that decides the documents of a domain and their split.

    `draws` (tokens) is where a streamed source without max_tokens stops.
    """
    return {
        "train": describe(source),
        "validation": describe(source, "validation") if source.validation else [],
        "held_out": None if source.validation else held_out,
        "limit": source.max_tokens or (draws if source.streaming else None),
        "text": source.text,
    }


def is_held_out(text: str, share: float | None) -> bool:
    """Whether a document is in the held-out share (None: nothing is).

    By its content alone, so that a copy in another domain is held out as well.
    """
    return share is not None and int.from_bytes(_digest(text)[:8], "big") < share * 2**64


def content_hash(content: Any) -> str:
    """Short hash of something that JSON can hold, for names of files."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def open_domain(
    cache: Path, name: str, source: SourceSettings, tokenizer: TextEncoder, inputs: dict[str, Any], bar: tqdm
) -> tuple[Path, dict[str, Any]]:
    """The cache directory of a domain and its meta.json; built where it is missing or damaged.

    Raises UserError for a source that is at fault and for a cache that cannot be written.
    """
    path = cache / f"{name}-{content_hash([FORMAT, inputs, tokenizer.fingerprint])}"
    meta = _read_meta(path)
    if meta is None:
        bar.set_description_str(name)
        try:
            if path.exists():
                bar.write(f"the token cache {path} is damaged: built again")
                shutil.rmtree(path, ignore_errors=True)
            _build(path, source, tokenizer, inputs, bar)
        except OSError as error:
            if not path.exists():  # else another process was faster: its directory is opened
                raise unwritable(cache, error) from error
        meta = _read_meta(path)
        if meta is None:
            raise RuntimeError(f"the token cache {path} is damaged right after it was written; check the disk")
    return path, meta


def open_tokens(path: Path, split: str, tokenizer: TextEncoder) -> np.ndarray:
    """The token ids of a split (uint16 or uint32), a read-only memory map of a cache directory."""
    return np.memmap(path / f"{split}.bin", token_dtype(tokenizer.vocab_size), mode="r")


def unwritable(cache: Path, error: OSError) -> UserError:
    """What to say when the cache cannot be written."""
    return UserError(
        f"the token cache cannot be written in {cache}: {error.strerror or error}; make room, or set "
        f"corpus.cache_dir to another place"
    )


class _Writer:
    """The files of a cache directory while they grow, and what they hold so far."""

    def __init__(self, directory: Path, tokenizer: TextEncoder) -> None:
        self.counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
        self.content = hashlib.sha256()  # of the text and its split
        self._end = np.array([tokenizer.eos_id])
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._rows: list[dict[str, Any]] = []
        stack = self._stack = ExitStack()
        self._table = stack.enter_context(pq.ParquetWriter(directory / "documents.parquet", TABLE))
        paths = {split: directory / f"{split}.bin" for split in SPLITS}
        self._files = {split: stack.enter_context(open(path, "wb")) for split, path in paths.items()}  # noqa: SIM115

    def add(self, split: str, document: Document, ids: np.ndarray) -> int:
        """Append a document to a split; returns its size (bytes)."""
        count, size = self.counts[split], len(document.text.encode())
        self._rows.append(
            {"id": document.id, "split": split, "start": count["tokens"], "tokens": len(ids) + 1, "bytes": size}
        )
        if len(self._rows) >= TABLE_ROWS:
            self._flush()
        self._files[split].write(np.concatenate([ids, self._end]).astype(self._dtype).tobytes())
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
    """Tokenize a domain into the cache directory `path`, a batch at a time."""
    limit = inputs["limit"]
    complete = True
    with atomic_dir(path) as directory:
        with _Writer(directory, tokenizer) as writer:
            for document, ids in _tokenized(documents(source), tokenizer):
                if limit is not None and writer.counts["train"]["tokens"] >= limit:
                    complete = False
                    break
                split = "held_out" if is_held_out(document.text, inputs["held_out"]) else "train"
                bar.update(writer.add(split, document, ids))
            if source.validation:
                for document, ids in _tokenized(documents(source, "validation"), tokenizer):
                    bar.update(writer.add("held_out", document, ids))
        meta = {
            **writer.counts,
            "complete": complete,
            "fingerprint": "sha256:" + writer.content.hexdigest(),
            "inputs": inputs,
            "tokenizer": tokenizer.record(),
            "format": FORMAT,
            "sizes": {name: (directory / name).stat().st_size for name in FILES},
        }
        (directory / "meta.json").write_text(json.dumps(meta, indent=1))


def _tokenized(texts: Iterable[Document], tokenizer: TextEncoder) -> Iterator[tuple[Document, np.ndarray]]:
    """Documents with their token ids, read ahead by about `BATCH_CHARACTERS`."""
    batch: list[Document] = []
    size = 0
    for document in texts:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield from zip(batch, tokenizer.encode([each.text for each in batch]), strict=True)
            batch, size = [], 0
    yield from zip(batch, tokenizer.encode([each.text for each in batch]), strict=True)


def _read_meta(path: Path) -> dict[str, Any] | None:
    """meta.json of a cache directory; None where it is missing or the files do not have the sizes that it names."""
    try:
        meta: dict[str, Any] = json.loads((path / "meta.json").read_text())
        return meta if meta["sizes"] == {name: (path / name).stat().st_size for name in FILES} else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
