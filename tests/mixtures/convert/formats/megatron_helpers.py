"""Megatron's data of the toy domains, and their conversion."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.convert import convert
from mixtures.convert.formats.megatron.idx import Index, read_index
from tests.trainers.support import toy


def make_index(lengths: list[int], *, borders: list[int] | None = None) -> Index:
    tokens = np.array(lengths, dtype=np.int32)
    ends = np.array(borders if borders is not None else range(len(lengths) + 1))
    return Index(8, tokens, 2 * (np.cumsum(tokens, dtype=np.int64) - tokens), ends)


def write_data(folder: Path, name: str, documents: list[np.ndarray]) -> str:
    prefix = folder / name
    np.concatenate(documents).astype("<u2").tofile(f"{prefix}.bin")
    make_index([len(document) for document in documents]).write(Path(f"{prefix}.idx"))
    return str(prefix)


def read_documents(prefix: str) -> list[list[int]]:
    """All documents, read token by token as the layout says."""
    index, ids = read_index(prefix), np.fromfile(f"{prefix}.bin", dtype="<u2")
    sequences = [
        ids[first // 2 : first // 2 + length].tolist()
        for first, length in zip(index.first_bytes, index.lengths, strict=True)
    ]
    return [
        [*itertools.chain(*sequences[low:high])]
        for low, high in zip(index.borders[:-1], index.borders[1:], strict=True)
    ]


def converted(
    mixture: Path, data: Path, to: str = "megatron", own: Mapping[str, Any] | None = None, **options: Any
) -> Path:
    """own: {name: path or paths} of domains whose data are not those of `data`."""
    out = mixture.parent / "out"
    flags: dict[str, Any] = {"sequence_length": 128, "batch_size": 16} | options
    convert(mixture, to=to, output=out, data={"*": f"{data}/{{domain}}"} | dict(own or {}), **flags)
    return out


def notes(out: Path) -> str:
    return "\n".join(json.loads((out / "export_report.json").read_text())["notes"])


def write_toys(folder: Path) -> Path:
    """The toy domains as NAME.bin and NAME.idx."""
    for name in toy.NAMES:
        write_data(folder, name, toy.documents(name))
    return folder
