"""The mixture and its documents, for torchtitan_mixture.py beside this file; written by `mixtures convert --to torchtitan`."""

import glob
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset

HERE = Path(__file__).parent
READERS = {"parquet": "parquet", "jsonl": "json", "json": "json", "ndjson": "json", "csv": "csv", "arrow": "arrow"}  # a file's ending -> load_dataset's word


def read_mixture() -> dict[str, Any]:
    """Domains and stages."""
    record: dict[str, Any] = json.loads((HERE / "mixture_torchtitan.json").read_text())
    return record


def load_domain(domain: dict[str, Any]) -> Dataset:
    """Every document of a domain in the order of its files; under a sample policy as often as it says, copies a pass apart."""
    paths = [path for pattern in domain["paths"] for path in _expand(pattern)]
    if not paths:
        raise FileNotFoundError(f"{domain['name']}: no files at {domain['paths']}")
    parts = [load_dataset(_reader(path), data_files=path, split="train") for path in paths]
    documents = concatenate_datasets(parts)
    if domain["samples"] is None:
        return documents
    counts = np.concatenate(_counts(domain, paths, [len(part) for part in parts]))
    return documents.select(np.concatenate([np.flatnonzero(counts > turn) for turn in range(counts.max(initial=1))]))


def _counts(domain: dict[str, Any], paths: list[str], sizes: list[int]) -> list[np.ndarray]:
    """How often every row of every file is read in a pass; rows that the policy does not list once."""
    counts = [np.ones(size, dtype=np.int64) for size in sizes]
    listed = np.load(HERE / domain["samples"]["file"])
    for number, name in enumerate(domain["samples"]["files"]):
        rows, times = (listed[key][listed["files"] == number] for key in ("rows", "times"))
        here = [place for place, path in enumerate(paths) if _stem(path) == name]
        if len(rows) and (len(here) != 1 or rows.max() >= sizes[here[0]]):
            found = f"{sizes[here[0]]} rows" if len(here) == 1 else f"{len(here)} such files"
            raise ValueError(
                f"{domain['name']}: rows up to {rows.max()} of {name} are listed, its data have {found}; give the text that was scored"
            )
        if len(rows):
            counts[here[0]][rows] = times
    return counts


def _expand(pattern: str) -> list[str]:
    """The files of a pattern, a folder, or a file."""
    if "://" in pattern:
        return [pattern]
    pattern = f"{pattern}/*" if Path(pattern).is_dir() else pattern
    return sorted(path for path in glob.glob(pattern) if Path(path).is_file()) if glob.has_magic(pattern) else [pattern]


def _stem(path: str) -> str:
    """A file's name without the endings that say how to read it."""
    name = Path(path).name
    while (ending := Path(name).suffix.lstrip(".")) in {*READERS, "gz", "zst", "zstd", "bz2", "xz"}:
        name = name.removesuffix(f".{ending}")
    return name


def _reader(path: str) -> str:
    found = [READERS[ending] for ending in Path(path).name.split(".")[1:] if ending in READERS]
    if not found:
        raise ValueError(f"{path}: its name ends in none of {', '.join(READERS)}")
    return found[-1]


def rows_by_stage(mixture: dict[str, Any], *, seq_len: int, dp_world_size: int) -> list[int | None]:
    """Rows of every stage on one data-parallel rank; None for the last, which goes on."""
    *counted, _ = [stage["sequences"] for stage in mixture["stages"]]
    if counted and seq_len != mixture["sequence_length"]:
        raise ValueError(
            f"stages count sequences of {mixture['sequence_length']} tokens, training.seq_len is {seq_len}: convert again with it"
        )
    if any(count % dp_world_size for count in counted):
        raise ValueError(f"stages of {counted} sequences do not divide by {dp_world_size} ranks: convert with the batch size of this run")
    return [*(count // dp_world_size for count in counted), None]
