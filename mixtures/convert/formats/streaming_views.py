"""Parts of a MosaicML stream without copying it: an index over links to whole shards, and pieces of others."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.convert.job import Content
from mixtures.errors import UserError
from mixtures.files import read_json

INDEX = "index.json"


@dataclass(frozen=True)
class Shard:
    """A shard of a stream.

    entry: its entry in the stream's index. folder: the folder with its files.
    """

    entry: Mapping[str, Any]
    folder: Path

    @property
    def samples(self) -> int:
        """Return the number of samples in the shard."""
        return int(self.entry["samples"])

    @property
    def files(self) -> list[str]:
        """Return the names of its files that are there, raw and compressed."""
        names = [part["basename"] for key, part in self.entry.items() if key.startswith(("raw_", "zip_")) and part]
        return [name for name in names if (self.folder / name).exists()]

    @property
    def raw(self) -> Path | None:
        """Return its file where samples can be taken out of it (uncompressed MDS that is there); else None."""
        path = self.folder / self.entry["raw_data"]["basename"] if self.entry["format"] == "mds" else None
        return path if path is not None and path.exists() else None


def read_shards(folder: Path) -> list[Shard]:
    """Return the shards that the folder's index lists. Raises UserError for an index that is none, or lists none."""
    index = read_json(folder / INDEX)
    entries = index.get("shards") if isinstance(index, dict) else None
    entries = entries if isinstance(entries, list) else []
    if not entries or not all(isinstance(entry, dict) and {"samples", "format"} <= entry.keys() for entry in entries):
        raise UserError(f"{folder / INDEX} lists no shards as Streaming writes them; write the dataset again")
    return [Shard(entry, folder) for entry in entries]


def border(shards: Sequence[Shard], fraction: float) -> int:
    """Return the sample at which a domain is cut.

    This is inside a shard where samples can be taken out of it, else at the nearer end of the shard.
    """
    ends = np.cumsum([0, *(shard.samples for shard in shards)])
    at = round(fraction * int(ends[-1]))
    place = min(int(np.searchsorted(ends, at, side="right")) - 1, len(shards) - 1)
    if at in ends or shards[place].raw is not None:
        return at
    return int(min(ends[place : place + 2], key=lambda end: abs(end - at)))


def view(shards: Sequence[Shard], first: int, last: int) -> dict[str, Content]:
    """Return the files of a stream with the samples from `first` up to `last`.

    These are an index, links to whole shards, and pieces of other shards.
    """
    entries, begin = [], 0
    files: dict[str, Content] = {}
    for shard in shards:
        low, high = max(first - begin, 0), min(last - begin, shard.samples)
        begin += shard.samples
        if low == 0 and high == shard.samples:
            entries.append(dict(shard.entry))
            files.update((name, _link(shard.folder / name)) for name in shard.files)
        elif low < high:
            assert shard.raw is not None, "borders lie inside shards that can be cut only"
            name, (sizes, head) = shard.entry["raw_data"]["basename"], _head(shard.raw)
            raw = {
                "basename": name,
                "bytes": len(head) + 4 * (high - low + 2) + int(sizes[low:high].sum()),
                "hashes": {},
            }
            entries.append(
                {
                    **shard.entry,
                    "samples": high - low,
                    "raw_data": raw,
                    "zip_data": None,
                    "compression": None,
                    "hashes": [],
                }
            )
            files[name] = partial(_write_piece, source=shard.raw, low=low, high=high)
    return {INDEX: json.dumps({"version": 2, "shards": entries}), **files}


def _link(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target.resolve())


def _head(path: Path) -> tuple[np.ndarray, bytes]:
    """Read (bytes of every sample, the description of the columns) from an MDS shard.

    Its layout is the number of samples (uint32), that number + 1 offsets (uint32), and the description.
    """
    with open(path, "rb") as file:
        count = int(np.fromfile(file, np.uint32, 1)[0])
        offsets = np.fromfile(file, np.uint32, count + 1).astype(np.int64)
        return np.diff(offsets), file.read(int(offsets[0]) - 4 * (count + 2))


def _write_piece(path: Path, *, source: Path, low: int, high: int) -> None:
    """Write the samples from `low` up to `high` of an MDS shard as a shard."""
    sizes, head = _head(source)
    begin = 4 * (len(sizes) + 2) + len(head) + int(sizes[:low].sum())
    offsets = np.cumsum([4 * (high - low + 2) + len(head), *sizes[low:high]]).astype(np.uint32)
    with open(source, "rb") as file:
        file.seek(begin)
        data = file.read(int(sizes[low:high].sum()))
    path.write_bytes(np.uint32(high - low).tobytes() + offsets.tobytes() + head + data)
