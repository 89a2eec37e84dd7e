"""Readers that turn a domain's source (files, a dataset, text on the machine) into documents, one at a time.

Memory does not grow with the size of the source.
"""

import hashlib
import io
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mixtures.errors import UserError, quoted
from mixtures.files import TOO_DEEP, is_url, sha256_file, unique_keys
from proxies.corpus import builtin, files, hub, stores
from proxies.corpus.csv_lines import csv_lines
from proxies.corpus.only import Selection
from proxies.corpus.settings import SourceSettings

Which = Literal["train", "validation"]
Record = tuple[str, Mapping[str, Any]]  # a place such as file:line, and the fields of one document


class Document(NamedTuple):
    """One text and the place that it came from."""

    id: str  # file:line (jsonl), file:row (parquet, csv, dataset), file (txt) or builtin:file:line; counted from 1
    text: str


def documents(source: SourceSettings, which: Which = "train", selection: Selection | None = None) -> Iterator[Document]:
    """Yield the documents of a source in a fixed order, without those whose text is empty or null.

    `which` chooses the training text or the source's `validation` files. `selection` counts the lines that were read
    and those that the source's `only` takes. Raises UserError for a source that cannot be read (the message names file
    and line), for one that holds no text, and for one of which `only` takes nothing.
    """
    selection = selection or Selection(source.only)
    total = 0
    empty = 0
    for document in _read(source, which, selection):
        total += 1
        if document.text.strip():
            yield document
        else:
            empty += 1
    selection.refuse_none(_name(source, which))
    if total == empty:
        what = f"holds {total} documents, all of them empty" if total else "holds no documents"
        raise UserError(f"{_name(source, which)} {what}; give text, or leave this domain out")


def describe(source: SourceSettings, which: Which = "train") -> list[dict[str, str]]:
    """Return what a source consists of, without reading its documents: [{format, uri, sha256}], one entry per file.

    The files are in reading order. The hash is over a file's bytes; for a dataset on the Hugging Face hub it is the
    revision or fingerprint, and for a file in an object store what the store says of it: these also change with the
    content. The format of a source with `only` names the fields and values, since its files hold other text as well.
    """
    part = f" (only {json.dumps(source.only, sort_keys=True, ensure_ascii=False)})" if source.only else ""
    if which == "train" and source.builtin:
        return [
            {"format": "builtin", "uri": f"builtin:{source.builtin}", "sha256": builtin.fingerprint(source.builtin)}
        ]
    if which == "train" and source.dataset:
        dataset_hash = _directory_hash(source) if os.path.isdir(source.dataset) else hub.identity(source)
        return [{"format": "hf" + part, "uri": _name(source, which), "sha256": dataset_hash}]
    paths = files.expand(source.data_files if which == "train" else source.validation)
    return [{"format": files.file_format(path)[0] + part, "uri": path, "sha256": _sha256(path)} for path in paths]


def _read(source: SourceSettings, which: Which, selection: Selection) -> Iterator[Document]:
    if which == "train" and source.builtin:
        yield from (Document(f"builtin:{place}", text) for place, text in builtin.texts(source.builtin))
        return
    records = _read_dataset(source, selection) if which == "train" and source.dataset else None
    for place, record in records or _read_files(source, which, selection):
        if source.only and not selection.takes(record):
            continue
        if source.text not in record:
            raise _no_column(place, source.text, record)
        yield _document(place, source.text, record[source.text])


def _read_files(source: SourceSettings, which: Which, selection: Selection) -> Iterator[Record]:
    readers = {"parquet": _read_parquet, "jsonl": _read_jsonl, "csv": _read_csv, "txt": _read_txt}
    for path in files.expand(source.data_files if which == "train" else source.validation):
        with _blamed(path), files.open_file(path) as stream:
            yield from readers[files.file_format(path)[0]](path, stream, source, selection)


@contextmanager
def _blamed(path: str) -> Iterator[None]:
    """Turn the errors of the libraries that read files into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_url(path) and not isinstance(error, files.ERRORS):  # the clients of stores raise what they like
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: not readable as {files.spoken_format(path)}: {reason}; replace it or leave it out"
        ) from error


def _read_parquet(path: str, stream: Any, source: SourceSettings, selection: Selection) -> Iterator[Record]:
    # A parquet reader jumps inside the file, so a file that is compressed as a whole is unpacked in memory.
    file = pq.ParquetFile(stream if stream.seekable() else pa.BufferReader(stream.read()))
    names = file.schema_arrow.names
    if source.text not in names:
        raise _no_column(path, source.text, names)
    columns = list(dict.fromkeys([source.text, *selection.columns(path, names)]))
    for column in columns:
        if names.count(column) > 1:
            raise UserError(
                f"{path}: has {names.count(column)} columns {quoted(column)}; give every column a name of its own"
            )
    row = 0
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for record in batch.to_pylist():
            row += 1
            yield f"{path}:{row}", record


def _read_jsonl(path: str, stream: Any, source: SourceSettings, selection: Selection) -> Iterator[Record]:
    wanted = f'every line must be one object such as {{"{source.text}": ...}}'
    for number, line in enumerate(io.BufferedReader(stream), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        hint = " (`jq -c '.[]'` writes the entries of a JSON array as lines)" if number == 1 else ""
        try:
            record = json.loads(line, object_pairs_hook=unique_keys(place))
        except UserError:
            raise
        except RecursionError as error:
            raise UserError(f"{place}: not a JSON line: {TOO_DEEP}; leave that field or line out") from error
        except ValueError as error:  # broken JSON, or bytes that are not UTF-8
            raise UserError(f"{place}: not a JSON line: {error}; {wanted}{hint}") from error
        if not isinstance(record, dict):
            raise UserError(
                f"{place}: the line holds a {type(record).__name__}, not an object such as "
                f'{{"{source.text}": ...}}{hint}'
            )
        yield place, record


def _read_csv(path: str, stream: Any, source: SourceSettings, selection: Selection) -> Iterator[Record]:
    lines = csv_lines(path, io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline=""))
    header = next(lines, None)
    if header is None:
        return
    if source.text not in header:
        raise _no_column(path, source.text, header)
    selection.columns(path, header)
    for row, fields in enumerate(lines, 1):
        yield f"{path}:{row}", dict(zip(header, fields, strict=True))


def _read_txt(path: str, stream: Any, source: SourceSettings, selection: Selection) -> Iterator[Record]:
    if source.only:
        raise UserError(f"{path}: a .txt file is one text without fields, and `only` asks for a field; leave it out")
    yield path, {source.text: stream.read().decode("utf-8-sig")}


def _read_dataset(source: SourceSettings, selection: Selection) -> Iterator[Record]:
    dataset = hub.open_dataset(source)
    name = _name(source, "train")
    if dataset.column_names is not None:  # some streams do not know them; then the first record tells
        if source.text not in dataset.column_names:
            raise _no_column(name, source.text, dataset.column_names)
        needed = selection.columns(name, dataset.column_names)
        dataset = dataset.select_columns(list(dict.fromkeys([source.text, *needed])))
    for row, record in enumerate(hub.rows(dataset, source), 1):
        yield f"{name}:{row}", record


def _document(place: str, column: str, value: object) -> Document:
    """Return the document of a column's value; null counts as empty text. Raises UserError for other values."""
    if value is None:
        return Document(place, "")
    if not isinstance(value, str):
        shown = reprlib.repr(value) if isinstance(value, list | dict) else repr(str(value)[:40])
        raise UserError(
            f"{place}: column {quoted(column)} holds {type(value).__name__} {shown}, not text; name the text "
            f"column with "
            "`text:`"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: column {quoted(column)} is not valid Unicode: {error.reason} at character {error.start}"
        ) from error
    return Document(place, value)


def _no_column(place: str, column: str, columns: Any) -> UserError:
    return UserError(
        f"{place}: no column {quoted(column)}; its columns: {', '.join(map(str, columns))}; name the text "
        f"column with `text:`"
    )


def _name(source: SourceSettings, which: Which) -> str:
    """Return the name of a source in messages and document ids."""
    if which == "train" and source.builtin:
        return f"builtin:{source.builtin}"
    if which == "train" and source.dataset:
        return ":".join(part for part in (source.dataset, source.name, source.split) if part)
    patterns = source.data_files if which == "train" else source.validation
    return patterns if isinstance(patterns, str) else ", ".join(patterns)


def _sha256(path: str) -> str:
    if is_url(path):
        return stores.identity(path)
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
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    listing = part + "".join(f"{path.relative_to(root)}\0{_sha256(str(path))}\n" for path in paths)
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
