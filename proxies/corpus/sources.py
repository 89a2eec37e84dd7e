"""Readers that turn a domain's source (files, a dataset, text on the machine) into documents, one at a time.

Memory does not grow with the size of the source.
"""

import difflib
import glob
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mixtures.errors import UserError
from mixtures.files import glob_paths, sha256_file, unique_keys
from proxies.corpus import builtin, hub
from proxies.corpus.csv_lines import csv_lines
from proxies.corpus.settings import SourceSettings

Which = Literal["train", "validation"]

FORMATS = ("parquet", "jsonl", "csv", "txt")
COMPRESSIONS = ("gz", "zst")


class Document(NamedTuple):
    """One text and the place that it came from."""

    id: str  # file:line (jsonl), file:row (parquet, csv, dataset), file (txt) or builtin:file:line; counted from 1
    text: str


def documents(source: SourceSettings, which: Which = "train") -> Iterator[Document]:
    """Yield the documents of a source in a fixed order, without those whose text is empty or null.

    `which` chooses the training text or the source's `validation` files. Raises UserError for a source that cannot be
    read (the message names file and line) and for one that holds no text.
    """
    total = 0
    empty = 0
    for document in _read(source, which):
        total += 1
        if document.text.strip():
            yield document
        else:
            empty += 1
    if total == empty:
        what = f"holds {total} documents, all of them empty" if total else "holds no documents"
        raise UserError(f"{_name(source, which)} {what}; give text, or leave this domain out")


def describe(source: SourceSettings, which: Which = "train") -> list[dict[str, str]]:
    """Return what a source consists of, without reading its documents: [{format, uri, sha256}], one entry per file.

    The files are in reading order. The hash is over a file's bytes; for a dataset on the Hugging Face hub it is the
    revision or fingerprint, which also changes with the content.
    """
    if which == "train" and source.builtin:
        return [
            {"format": "builtin", "uri": f"builtin:{source.builtin}", "sha256": builtin.fingerprint(source.builtin)}
        ]
    if which == "train" and source.dataset:
        dataset_hash = _directory_hash(source) if os.path.isdir(source.dataset) else hub.identity(source)
        return [{"format": "hf", "uri": _name(source, which), "sha256": dataset_hash}]
    paths = expand(source.data_files if which == "train" else source.validation)
    return [{"format": file_format(path)[0], "uri": path, "sha256": _sha256(path)} for path in paths]


def expand(patterns: str | list[str]) -> list[str]:
    """Return the files that a glob or a list of globs names, sorted within each glob, and each file once.

    Raises UserError naming every glob that matches no file and every file with an unknown ending.
    """
    paths: dict[str, None] = {}
    faults = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [pattern] if os.path.isfile(pattern) else list(filter(os.path.isfile, glob_paths(pattern)))
        faults += [] if matches else [_missing(pattern)]
        for path in matches:
            paths[path] = None
            try:
                file_format(path)
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return list(paths)


def file_format(path: str) -> tuple[str, str]:
    """Return the format and the compression ("" for none) by a file's name.

    Raises UserError for an ending that no reader knows.
    """
    parts = Path(path).name.lower().split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    if not parts or parts[-1] not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise UserError(
            f"{path}: unknown ending; allowed: {allowed}, each also with .gz or .zst; rename or convert the file"
        )
    return parts[-1], compression


def _read(source: SourceSettings, which: Which) -> Iterator[Document]:
    if which == "train" and source.builtin:
        yield from (Document(f"builtin:{place}", text) for place, text in builtin.texts(source.builtin))
    elif which == "train" and source.dataset:
        with _blamed(_name(source, which), "dataset"):
            yield from _read_dataset(source)
    else:
        readers = {"parquet": _read_parquet, "jsonl": _read_jsonl, "csv": _read_csv, "txt": _read_txt}
        for path in expand(source.data_files if which == "train" else source.validation):
            name, compression = file_format(path)
            codec = {"": None, "gz": "gzip", "zst": "zstd"}[compression]
            with _blamed(path, f"{codec} compressed {name}" if codec else name), pa.input_stream(path, codec) as stream:
                yield from readers[name](path, stream, source.text)


@contextmanager
def _blamed(place: str, what: str) -> Iterator[None]:
    """Turn the errors of the libraries that read files into a UserError that names the place."""
    try:
        yield
    except UserError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place}: not readable as {what}: {reason}; replace it or leave it out") from error


def _read_parquet(path: str, stream: pa.NativeFile, column: str) -> Iterator[Document]:
    # A parquet reader jumps inside the file, so a file that is compressed as a whole is unpacked in memory.
    file = pq.ParquetFile(stream if stream.seekable() else pa.BufferReader(stream.read()))
    columns = file.schema_arrow.names
    if column not in columns:
        raise _no_column(path, column, columns)
    if columns.count(column) > 1:
        raise UserError(f"{path}: has {columns.count(column)} columns {column!r}; give every column a name of its own")
    row = 0
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        for value in batch.column(0).to_pylist():
            row += 1
            yield _document(f"{path}:{row}", column, value)


def _read_jsonl(path: str, stream: pa.NativeFile, column: str) -> Iterator[Document]:
    for number, line in enumerate(io.BufferedReader(stream), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=unique_keys(f"{path}:{number}"))
        except UserError:
            raise
        except ValueError as error:  # broken JSON, or bytes that are not UTF-8
            raise UserError(
                f'{path}:{number}: not a JSON line: {error}; every line must be one object such as {{"{column}": ...}}'
            ) from error
        if not isinstance(record, dict):
            raise UserError(
                f'{path}:{number}: the line holds a {type(record).__name__}, not an object such as {{"{column}": ...}}'
            )
        if column not in record:
            raise _no_column(f"{path}:{number}", column, record)
        yield _document(f"{path}:{number}", column, record[column])


def _read_csv(path: str, stream: pa.NativeFile, column: str) -> Iterator[Document]:
    lines = csv_lines(path, io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline=""))
    header = next(lines, None)
    if header is None:
        return
    if column not in header:
        raise _no_column(path, column, header)
    index = header.index(column)
    for row, fields in enumerate(lines, 1):
        yield _document(f"{path}:{row}", column, fields[index])


def _read_txt(path: str, stream: pa.NativeFile, column: str) -> Iterator[Document]:
    yield Document(path, stream.read().decode("utf-8-sig"))


def _read_dataset(source: SourceSettings) -> Iterator[Document]:
    dataset = hub.open_dataset(source)
    name = _name(source, "train")
    if dataset.column_names is not None:  # some streams do not know them; then the first record tells
        if source.text not in dataset.column_names:
            raise _no_column(name, source.text, dataset.column_names)
        dataset = dataset.select_columns([source.text])
    for row, record in enumerate(dataset, 1):
        if source.text not in record:
            raise _no_column(name, source.text, record)
        yield _document(f"{name}:{row}", source.text, record[source.text])


def _document(place: str, column: str, value: object) -> Document:
    """Return the document of a column's value; null counts as empty text. Raises UserError for other values."""
    if value is None:
        return Document(place, "")
    if not isinstance(value, str):
        raise UserError(
            f"{place}: column {column!r} holds {type(value).__name__} {str(value)[:40]!r}, not text; name the text "
            "column with `text:`"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: column {column!r} is not valid Unicode: {error.reason} at character {error.start}"
        ) from error
    return Document(place, value)


def _no_column(place: str, column: str, columns: Any) -> UserError:
    return UserError(
        f"{place}: no column {column!r}; its columns: {', '.join(map(str, columns))}; name the text column with `text:`"
    )


def _missing(pattern: str) -> str:
    """Return a message for a glob that matched no file, with the nearest directory and similar names in it."""
    if os.path.isdir(pattern):
        return f"{pattern}: is a directory; name its files with a glob such as {os.path.join(pattern, '*.parquet')}"
    parent = Path(pattern).parent
    while not parent.is_dir() and not glob.has_magic(str(parent)):
        parent = parent.parent
    fault = "no file matches this glob" if glob.has_magic(pattern) else "no such file"
    if not parent.is_dir():
        return f"{pattern}: {fault}; check the path"
    entries = sorted(os.listdir(parent))
    wanted = Path(pattern).relative_to(parent).parts[0]
    similar = difflib.get_close_matches(wanted, entries, n=5, cutoff=0.5) or entries[:5]
    more = ", ..." if len(entries) > len(similar) else ""
    return f"{pattern}: {fault}; {parent} holds {', '.join(similar) or 'nothing'}{more}; check the path"


def _name(source: SourceSettings, which: Which) -> str:
    """Return the name of a source in messages and document ids."""
    if which == "train" and source.builtin:
        return f"builtin:{source.builtin}"
    if which == "train" and source.dataset:
        return ":".join(part for part in (source.dataset, source.name, source.split) if part)
    patterns = source.data_files if which == "train" else source.validation
    return patterns if isinstance(patterns, str) else ", ".join(patterns)


def _sha256(path: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _directory_hash(source: SourceSettings) -> str:
    """Return the hash over the files of a local dataset; raises UserError for a split that a saved one does not have.

    A slice of a saved dataset has a hash of its own: versions before slices were read cached all rows under that name.
    """
    root, part = Path(source.dataset), ""
    if hub.is_saved(source):
        hub.open_dataset(source)
        part = source.split if "[" in source.split else ""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    listing = part + "".join(f"{path.relative_to(root)}\0{_sha256(str(path))}\n" for path in files)
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
