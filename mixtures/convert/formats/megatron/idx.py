"""Megatron's index files: PREFIX.idx says which tokens of PREFIX.bin are a document.

Layout, little endian:

magic        9 bytes
version      uint64, 1
type         uint8, code of the token type
S            uint64, number of sequences
B            uint64, number of document borders
lengths      int32 (S,), tokens per sequence
first bytes  int64 (S,), where each sequence begins in the .bin
borders      int64 (B,): document d is the sequences borders[d] up to borders[d + 1]
modes        int8 (S,), for multimodal data only

Documents need not follow each other in the .bin. So a view, which has some of the documents and may have some of them
several times, is another index over the same .bin.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixtures.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}  # bytes of a token, by the code of its type
REMEDY = "make it again with Megatron's tools/preprocess_data.py"


@dataclass(frozen=True)
class Index:
    """The content of an index file with S sequences and D documents.

    code: code of the token type. lengths (S,): tokens per sequence. first_bytes (S,): where each sequence begins in the
    .bin. borders (D + 1,): first sequence of every document, and S at the end. modes (S,): for multimodal data; else
    None.
    """

    code: int
    lengths: np.ndarray
    first_bytes: np.ndarray
    borders: np.ndarray
    modes: np.ndarray | None = None

    @property
    def document_tokens(self) -> np.ndarray:
        """Return the tokens of every document, int64 (D,)."""
        ends = np.append(0, np.cumsum(self.lengths, dtype=np.int64))
        return ends[self.borders[1:]] - ends[self.borders[:-1]]

    def take(self, documents: np.ndarray) -> "Index":
        """Return an index of the documents (N,), given by number, in this order; one may come several times."""
        counts = np.diff(self.borders)[documents]
        borders = np.append(0, np.cumsum(counts))
        sequences = np.arange(borders[-1]) + np.repeat(self.borders[documents] - borders[:-1], counts)
        modes = None if self.modes is None else self.modes[sequences]
        return Index(self.code, self.lengths[sequences], self.first_bytes[sequences], borders, modes)

    def write(self, path: Path) -> None:
        """Write the index to the file `path`. Raises OSError."""
        with open(path, "wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self.code, len(self.lengths), len(self.borders)))
            for array, kind in (
                (self.lengths, "<i4"),
                (self.first_bytes, "<i8"),
                (self.borders, "<i8"),
                (self.modes, "<i1"),
            ):
                if array is not None:
                    file.write(np.ascontiguousarray(array, dtype=kind).data)


def read_index(prefix: str) -> Index:
    """Read the index PREFIX.idx. Raises UserError where it is none, is torn, or points past the end of PREFIX.bin."""
    path, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
        magic, version, code, sequences, borders = (
            HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, 0, 0)
        )
        if (magic, version) != (MAGIC, VERSION) or code not in ITEM_BYTES:
            raise UserError(
                f"{path} is no index of Megatron's (magic {magic!r}, version {version}, type {code}); {REMEDY}"
            )
        plain = HEADER.size + 12 * sequences + 8 * borders
        if size not in (plain, plain + sequences):
            raise UserError(f"{path} has {size:,} bytes, its header says {plain:,}: it is torn; {REMEDY}")
    raw = np.memmap(path, mode="r")  # mapped into memory, as these files are large
    at, arrays = HEADER.size, []
    for kind, count in (
        ("<i4", sequences),
        ("<i8", sequences),
        ("<i8", borders),
        ("<i1", sequences if size > plain else 0),
    ):
        arrays.append(np.frombuffer(raw, dtype=kind, count=count, offset=at))
        at += arrays[-1].nbytes
    lengths, first_bytes, ends, modes = arrays
    last = int((first_bytes + lengths * np.int64(ITEM_BYTES[code])).max(initial=0))
    if borders < 1 or ends[0] != 0 or ends[-1] != sequences or last > data.stat().st_size:
        raise UserError(
            f"{path} and {data} do not belong together (tokens up to byte {last:,} of {data.stat().st_size:,}); "
            f"{REMEDY}"
        )
    return Index(code, lengths, first_bytes, ends, modes if size > plain else None)
