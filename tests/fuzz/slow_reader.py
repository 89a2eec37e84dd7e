"""The texts of a file, read in the most obvious way: the slow twin of proxies/corpus/sources.py, of which it uses
nothing.
"""

import bz2
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zstandard

END = 256  # the end-of-text token of the tokenizer `bytes`


def read_texts(path: Path) -> Counter[str]:
    """Return how often each text is in a file, without those of white space alone. Raises what the libraries raise."""
    content = path.read_bytes()
    kind = path.name.split(".", 1)[1]
    kind, _, compression = kind.partition(".")
    if compression:
        content = DECOMPRESS[compression](content)
    return Counter(text for text in READERS[kind](content) if text is not None and text.strip())


def cached_texts(cache: Path, name: str) -> Counter[str]:
    """Return how often each text is in the token caches of a domain, of the tokenizer `bytes`, both splits together."""
    tokens = [np.fromfile(path, np.uint16) for path in sorted(cache.glob(f"{name}-*/*.bin"))]
    found: Counter[str] = Counter()
    for split in tokens:
        ends = np.flatnonzero(split == END)
        documents = np.split(split, ends + 1)
        assert not len(documents.pop()), "the tokens do not end with the end of a document"
        found.update(ids[:-1].astype(np.uint8).tobytes().decode() for ids in documents)
    return found


def _jsonl(content: bytes) -> list[str]:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [json.loads(line.decode())["text"] for line in lines if line.strip()]


def _csv(content: bytes) -> list[str]:
    records = [record for record in _records(content.decode("utf-8-sig")) if "".join(record).strip() or len(record) > 1]
    column = records[0].index("text") if records else 0
    assert all(len(record) == len(records[0]) for record in records), "lines of several lengths"
    return [record[column] for record in records[1:]]


def _records(text: str) -> list[list[str]]:
    """Return the records of CSV text, character by character (RFC 4180; a lone \\r also ends a line)."""
    records: list[list[str]] = []
    record: list[str] = []
    field, quoted, closed = "", False, False
    for character in [*text, "\n"]:
        if quoted and character == '"':
            quoted, closed = False, True
        elif quoted:
            field += character
        elif character == '"':
            assert closed or not field, "a quote inside a field without quotes"
            field += '"' if closed else ""
            quoted, closed = True, False
        elif character in ",\n\r":
            record.append(field)
            field, closed = "", False
            if character != ",":  # \r\n gives an empty record, which the caller leaves out like a blank line
                records.append(record)
                record = []
        else:
            assert not closed, "text behind a closing quote"
            field += character
    assert not quoted, "an open quote at the end"
    return records


def _parquet(content: bytes) -> list[str]:
    return list(pq.read_table(io.BytesIO(content), columns=["text"]).column("text").to_pylist())


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()


READERS: dict[str, Callable[[bytes], list[str]]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": _jsonl,
    "csv": _csv,
    "txt": lambda content: [content.decode("utf-8-sig")],
    "parquet": _parquet,
}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.decompress,
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
    "zst": _zstd,
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
