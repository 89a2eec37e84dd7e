"""What the mixture knows of the text that the trainer's files hold: documents held out by the proxy, and the column."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mixtures.convert.job import Job
from mixtures.convert.rows import COMPRESSED, ending_of, files_at
from mixtures.errors import UserError, quoted
from mixtures.text import counted

TEXT = "text"  # column that trainers read where nothing else is said
LISTED = 8  # most domains named in a note


def held_out_notes(job: Job) -> Iterator[str]:
    """Give notes on documents that the proxy held out for evaluation and that the trainer's files hold, or may hold."""
    domains = [job.mixture.domain(name) for name in job.paths]
    counts = {domain.name: domain.held_out_documents for domain in domains}
    known = {name: count for name, count in counts.items() if count}
    read = {name: count for name, count in known.items() if _reads_sources(job, name)}
    if read:
        yield f"the files hold {_amount(job, read)}: losses on them are no longer held out"
    if other := {name: count for name, count in known.items() if name not in read}:
        yield (
            f"the text that the mixture was learned from has {_amount(job, other)}; where the data hold them, losses "
            "on them are no longer held out"
        )
    if unknown := [name for name, count in counts.items() if count is None]:
        yield (
            f"the mixture does not say how many documents of {_listed(unknown)} the proxy held out for evaluation; "
            "where the data hold them, losses on them are no longer held out"
        )


def _amount(job: Job, counts: Mapping[str, int]) -> str:
    """Return how many documents were held out, in words: their number, their share of all documents, the domains."""
    held_out, kept = sum(counts.values()), [job.mixture.domain(name).unique_documents for name in counts]
    known = [documents for documents in kept if documents is not None]
    share = f"{100 * held_out / (held_out + sum(known)):.3g} %: " if len(known) == len(kept) else ""
    where = _listed([f"{name} {count:,}" for name, count in counts.items()])
    return f"{counted(held_out, 'document')} that the proxy held out for evaluation ({share}{where})"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:LISTED]) + (f" and {len(words) - LISTED} more" if len(words) > LISTED else "")


def _reads_sources(job: Job, name: str) -> bool:
    """Say whether the data of a domain are the files that the mixture was learned from."""
    sources = {os.path.abspath(source.path) for source in job.mixture.domain(name).sources}
    files = [file for path in job.paths[name] for file in (files_at(path) if job.local(name) else [path])]
    return {os.path.abspath(file) for file in files} == sources


def text_columns(job: Job, *, required: bool = True) -> dict[str, str]:
    """Return {name: column that holds the text} for every domain with data.

    --column counts first, then the mixture's record of the sources, then `text`. The record is of the files that the
    mixture was learned from, so where other files have only a column `text`, it is that. required: raise UserError,
    listing the domains, where files on this machine do not have the column; otherwise such a domain is left out.
    """
    if (given := job.options.get("column")) is not None:
        return dict.fromkeys(job.paths, given)
    chosen, faults = {}, []
    for name in job.paths:
        recorded = {source.text for source in job.mixture.domain(name).sources} - {None}
        column = recorded.pop() if len(recorded) == 1 else TEXT
        file, there = _first_columns(job, name)
        if there is None or column in there:
            chosen[name] = str(column)
        elif TEXT in there:
            chosen[name] = TEXT
        else:
            faults.append(
                f"  - {name}: {file} has no column {quoted(column)}; its columns: {', '.join(there) or 'none'}"
            )
    if faults and required:
        raise UserError(
            "the column of the text is not known:\n" + "\n".join(faults) + "\ngive its name with --column, or rename it"
        )
    return chosen


def one_text_column(job: Job, *, trainer: str) -> str:
    """Return the column that holds the text of all domains.

    Raises UserError as `text_columns` does, and for columns of several names.
    """
    columns = text_columns(job)
    if len(set(columns.values())) > 1:
        listed = "\n".join(f"  - {name}: {column}" for name, column in columns.items())
        raise UserError(
            f"{trainer} reads the text of all domains from one column, and these differ:\n{listed}\nwrite the files "
            "with one name for it and give them with --data, or take a format that knows the column of every domain "
            "(`--to hf`)"
        )
    return next(iter(columns.values()))


def _first_columns(job: Job, name: str) -> tuple[str, list[str] | None]:
    """Return the domain's first file and its columns; None where it is elsewhere, or does not say them."""
    if not job.local(name) or not (files := [file for path in job.paths[name] for file in files_at(path)]):
        return "", None
    return files[0], _columns(files[0])


def _columns(file: str) -> list[str] | None:
    """Return the columns of a parquet, JSON-lines or CSV file; None where they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    suffix = PurePath(file).suffix
    if suffix == ".xz":
        return None
    try:
        if ending_of(file) == ".parquet" and suffix == ".parquet":
            return list(map(str, pq.read_schema(file).names))
        with pa.input_stream(file, COMPRESSED.get(suffix)) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
            if ending_of(file) == ".jsonl":
                record: Any = json.loads(next((line for line in lines if line.strip()), "{}"))
                return list(record) if isinstance(record, dict) else None
            return next(csv.reader(lines), None) if ending_of(file) == ".csv" else None
    except (OSError, pa.ArrowException, ValueError, csv.Error):
        return None  # the trainer's own reader says what is wrong
