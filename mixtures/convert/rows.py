"""Rows of files that every stage reads of each domain, for trainers that take rows (slices) instead of shares."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mixtures.convert.job import Content, Draw, Job
from mixtures.convert.lengths import Selection
from mixtures.errors import UserError
from mixtures.files import glob_paths

Slices = dict[str, list[tuple[int, int]]]  # {domain: [(first row, row after the last), ...]}
# names of the readers in `datasets`, by ending
READERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": ""}
DIFFERENT = 0.02  # relative difference to the rows that the mixture knows of, above which a note says so


def row_slices(job: Job) -> tuple[list[Slices], list[str]]:
    """Return for every span the rows that it reads of each used domain, and notes on the number of rows assumed.

    Every stage begins where the stage before it ended, so that no row is read again before the whole domain was read.
    Each further pass over a domain is a slice of its own. The rows of the files are counted where they are on this
    machine, because `datasets` shortens a slice past the end of a file without a warning.
    """
    expected = {name: max(1, round(job.texts[name].pass_tokens / _row_tokens(job, name))) for name in job.paths}
    counted = {name: count for name, paths in job.paths.items() if job.here and (count := count_rows(paths))}
    sizes = expected | counted
    at = dict.fromkeys(sizes, 0.0)
    spans = []
    for span in job.spans:
        slices = {}
        for name in span.used:
            begin, at[name] = at[name], at[name] + span.tokens * span.weights[name] / _row_tokens(job, name)
            slices[name] = _cut(round(begin), round(at[name]), size=sizes[name])
        spans.append(slices)
    return spans, list(_notes(expected, counted, read_whole=[name for name in sizes if at[name] >= 0.9 * sizes[name]]))


def as_draws(job: Job, spans: list[Slices]) -> list[Draw]:
    """Return what the trainer does with these rows: the share of rows of every domain, one draw per span."""
    draws = []
    for span, slices in zip(job.spans, spans, strict=True):
        rows = {name: sum(high - low for low, high in parts) for name, parts in slices.items()}
        draws.append(
            Draw({name: count / max(1, sum(rows.values())) for name, count in rows.items()}, span.start, span.tokens)
        )
    return draws


def count_rows(paths: Sequence[str]) -> int | None:
    """Count the rows of parquet and JSON-lines files; None where a file is of another kind, or no file is here.

    A file compressed by zstd with a long window is not counted, because pyarrow does not read it. Raises UserError for
    a file that cannot be read as what its name says.
    """
    import pyarrow as pa

    files = [file for path in paths for file in files_at(path)]
    counted = (".parquet", ".jsonl", ".ndjson")
    if any(ending_of(file) not in counted or PurePath(file).suffix == ".xz" for file in files):
        return None
    rows = 0
    for file in files:
        try:
            with pa.input_stream(file, COMPRESSED.get(PurePath(file).suffix)) as stream:
                rows += _rows_in(stream, parquet=ending_of(file) == ".parquet")
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            if "too much memory" in reason:  # a long window
                return None
            raise UserError(f"{file} is not as its name says: {reason}; replace it, or leave it out") from error
    return rows or None


def _rows_in(stream: Any, *, parquet: bool) -> int:
    """Count the rows of an open file; one that is compressed as a whole is unpacked in memory if it is parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if parquet:
        return int(pq.read_metadata(stream if stream.seekable() else pa.BufferReader(stream.read())).num_rows)
    return sum(1 for line in io.BufferedReader(stream) if line.strip())


def files_at(path: str) -> list[str]:
    """Return the files that a path stands for, sorted: the file, all files in a folder, or all that match a pattern.

    Folders in it and hidden files, as file browsers leave them, do not count.
    """
    found = sorted(map(str, Path(path).glob("[!.]*"))) if Path(path).is_dir() else glob_paths(path)
    return [file for file in found if Path(file).is_file()]


def reader_of(path: str, name: str) -> str:
    """Return how `datasets` calls the reader for a file. Raises UserError for an ending that it does not read."""
    if (ending := ending_of(path)) not in READERS:
        allowed = ", ".join(READERS)
        raise UserError(
            f"data of {name}: {path} ends in {ending or 'nothing'}; allowed: {allowed}, each also compressed; rename "
            f"or convert it"
        )
    return READERS[ending]


def stem(path: str) -> str:
    """Return a file's name without the endings that say how to read it: `web.en.jsonl.gz` -> `web.en`."""
    name = PurePath(path).name
    while (ending := PurePath(name).suffix) in READERS or ending in COMPRESSED or ending == ".txt":
        name = name.removesuffix(ending)
    return name


def ending_of(path: str) -> str:
    """Return the last ending of a file's name that is not one of compression; empty where there is none."""
    return next((ending for ending in reversed(PurePath(path).suffixes) if ending not in COMPRESSED), "")


def _row_tokens(job: Job, name: str) -> float:
    """Return the trained tokens in one row of a domain's data."""
    if job.unit == "document":
        return job.unit_tokens(name)
    return float(job.require_sequence_length())


def _cut(begin: int, end: int, *, size: int) -> list[tuple[int, int]]:
    """Return rows `begin` to `end` of a text that repeats every `size` rows, as one slice per pass."""
    passes = range(begin // size, math.ceil(end / size))
    return [(max(begin, turn * size) - turn * size, min(end, (turn + 1) * size) - turn * size) for turn in passes]


def _notes(expected: dict[str, int], counted: dict[str, int], *, read_whole: list[str]) -> Iterator[str]:
    for name, rows in counted.items():
        if abs(rows - expected[name]) > DIFFERENT * expected[name]:
            yield (
                f"{name}: its data have {rows:,} rows, the mixture knows of {expected[name]:,}; a pass is the "
                f"{rows:,} rows"
            )
    if unknown := [f"{name} {expected[name]:,}" for name in read_whole if name not in counted]:
        yield (
            f"a pass ends at the rows that the mixture knows of, as these were not counted: {', '.join(unknown)}; a "
            "file with fewer is read short without a word"
        )


def selected_rows(job: Job, *, trainer: str) -> tuple[dict[str, dict[str, Any]], dict[str, Content]]:
    """Return {name: {file, files}} of the domains with a sample policy, and {path: content} of these files.

    `file` is an .npz that lists the documents that are not read exactly once: files (N,), indexes into the record's
    `files` (file names without endings); rows (N,) from 0; times (N,), how often each is read. Paths are in the
    directory of the conversion. Raises UserError where the documents are no rows of files, or where the data do not
    have those files.
    """
    faults = [
        f"{name}: {fault}" for name, selection in job.selections.items() if (fault := _fault(job, name, selection))
    ]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise UserError(
            f"{trainer} picks documents by file and row:\n{listed}\ngive the files that were scored, or --samples drop"
        )
    records = {
        name: {"file": f"samples/{name}.npz", "files": [stem(path) for path in selection.names]}
        for name, selection in job.selections.items()
    }
    return records, {f"samples/{name}.npz": _packed(selection) for name, selection in job.selections.items()}


def _fault(job: Job, name: str, selection: Selection) -> str | None:
    """Say why the policy's documents cannot be found in the data; None where they can."""
    if selection.rows is None:
        return "its documents are no rows of files"
    stems = [stem(path) for path in selection.names]
    if len(set(stems)) < len(stems):
        return f"two of the files that were scored have the same name, in {', '.join(selection.names)}"
    if not job.local(name):
        return None
    data_files = [file for path in job.paths[name] for file in files_at(path)]
    missing = [
        path
        for path, scored in zip(selection.names, stems, strict=True)
        if [stem(file) for file in data_files].count(scored) != 1
    ]
    return (
        f"{', '.join(missing)} was scored, its data have not one file of that name: {', '.join(data_files)}"
        if missing
        else None
    )


def _packed(selection: Selection) -> bytes:
    """Return the .npz of the documents that are not read exactly once."""
    assert selection.rows is not None
    listed = selection.times != 1
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, files=selection.files[listed], rows=selection.rows[listed], times=selection.times[listed]
    )
    return buffer.getvalue()
