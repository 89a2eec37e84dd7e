"""Files of text: which ones a glob names, what their endings say, and their bytes without compression."""

import bz2
import difflib
import glob
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import zstandard

from mixtures.errors import UserError
from mixtures.files import glob_paths, is_url
from proxies.corpus import stores

Kind = Literal["parquet", "jsonl", "csv", "txt"]

FORMATS: dict[str, Kind] = {
    "parquet": "parquet",
    "jsonl": "jsonl",
    "csv": "csv",
    "txt": "txt",
    "json": "jsonl",  # one object a line, as C4 is published
    "ndjson": "jsonl",
}
CHUNK = 1 << 18  # compressed bytes that are unpacked at a time
WINDOW = 1 << 31  # the longest window of `zstd --long=31`; zstd refuses windows over 2^27 unless it is told

# Each makes a decompressor of one part of a file: gzip members, zstd frames, bzip2 and xz streams.
CODECS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "zst": lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj(),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj(),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
NAMES = {"gz": "gzip", "zst": "zstd", "zstd": "zstd", "bz2": "bzip2", "xz": "xz"}

# What the libraries raise for a file that they cannot read.
ERRORS = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    pa.ArrowException,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
)


def expand(patterns: str | list[str]) -> list[str]:
    """Return the files that a glob or a list of globs names, sorted within each glob, and each file once.

    Addresses such as s3://bucket/*.parquet are looked up in their store. Raises UserError naming every glob that
    matches no file and every file with an unknown ending.
    """
    paths: dict[str, None] = {}
    faults = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            matches = stores.find(pattern) if is_url(pattern) else _find(pattern)
        except UserError as error:
            faults.append(str(error))
            continue
        for path in matches:
            paths[path] = None
            try:
                file_format(path)
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return list(paths)


def file_format(path: str) -> tuple[Kind, str]:
    """Return the format and the compression ("" for none) by a file's name.

    Raises UserError for an ending that no reader knows.
    """
    parts = Path(path).name.lower().split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in CODECS else ""
    if not parts or parts[-1] not in FORMATS:
        formats, codecs = (", ".join(f".{name}" for name in table) for table in (FORMATS, CODECS))
        raise UserError(
            f"{path}: unknown ending; allowed: {formats}, each also with one of {codecs}; rename or convert the file"
        )
    return FORMATS[parts[-1]], compression


def spoken_format(path: str) -> str:
    """Return the format and compression of a file for messages, such as `gzip compressed jsonl`."""
    name, compression = file_format(path)
    return f"{NAMES[compression]} compressed {name}" if compression else name


@contextmanager
def open_file(path: str) -> Iterator[Any]:
    """Open a file on this machine or in an object store for reading its bytes, unpacked if it is compressed."""
    compression = file_format(path)[1]
    with ExitStack() as stack:
        file = stack.enter_context(stores.open_url(path) if is_url(path) else pa.input_stream(path, None))
        if compression:
            file = stack.enter_context(io.BufferedReader(_Unpacked(unpack(file, CODECS[compression])), CHUNK))
        yield file


def unpack(packed: Any, codec: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the bytes in a compressed file, piece by piece.

    Several parts after each other are read as one, and zeros behind a part are padding, as from tapes and some tools.
    Raises EOFError for a file that is cut off, and the library's error for one that is damaged.
    """
    part, begun = None, False
    while chunk := packed.read(CHUNK):
        while chunk:
            if part is None:
                chunk = chunk.lstrip(b"\0") if begun else chunk
                if not chunk:
                    break
                part, begun = codec(), True
            yield part.decompress(chunk)
            chunk, part = (part.unused_data, None) if part.eof else (b"", part)
    if part is not None:
        raise EOFError("it ends in the middle of its compressed data")


class _Unpacked(io.RawIOBase):
    """A file of the bytes that an iterator yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece and (piece := next(self._pieces, None)) is not None:
            self._piece = memoryview(piece)
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size


def _find(pattern: str) -> list[str]:
    """Return the files on this machine that a glob names, sorted. Raises UserError if there is none."""
    paths = [pattern] if os.path.isfile(pattern) else list(filter(os.path.isfile, glob_paths(pattern)))
    if not paths:
        raise UserError(_missing(pattern))
    return paths


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
