"""Megatron-Energon: one MetadatasetV2 per stage, each over its own part of every dataset.

Energon draws documents (samples) one by one with the given probabilities, in single precision, and repeats a dataset
without end. It has no schedule over time, and every launch begins its datasets anew. So a domain that several stages
use is cut into parts by `subset`. Under a sample policy a dataset has several entries: the k-th holds the documents
that are read at least k times, by a split file that excludes the others.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixtures.convert.job import Draw, Job, Output, Span
from mixtures.convert.table import Format
from mixtures.errors import UserError
from mixtures.files import parse_yaml, read_json

META = ".nv-meta"
# {domain: [(split file, or None for the dataset's own; share of the domain's documents as read), ...]}
Layers = Mapping[str, list[tuple[str | None, float]]]


def write(job: Job) -> Output:
    """Return one YAML file per stage, and the split files of sample policies.

    Raises UserError for a domain with more than one path, and for a sample policy of a domain that is no webdataset on
    this machine.
    """
    _check_paths(job)
    splits = {name: _split_files(job, name) for name in job.selections}
    layers = {name: [(path, share) for path, _, share in split] for name, split in splits.items()}
    shares = [job.unit_shares(span) for span in job.spans]
    blends = [_blend(job, share, layers, ranges) for share, ranges in zip(shares, job.ranges(), strict=True)]
    files = {file_name(number): _yaml(blend) for number, blend in enumerate(blends)}
    places = (
        [(slot.start, slot.tokens) for slot in job.slots()]
        if job.stepped
        else [(span.start, span.tokens) for span in job.spans]
    )
    return Output(
        files={**files, **{path: text for split in splits.values() for path, text, _ in split if path is not None}},
        draws=[Draw(share, *place, random=True) for share, place in zip(shares, places, strict=True)],
        use=_use(job),
        notes=list(_notes(job)),
    )


def file_name(number: int) -> str:
    """Return the name of the file for the stage `number` (from 0)."""
    return f"stage-{number + 1}.yaml"


def _check_paths(job: Job) -> None:
    if several := [f"  - {name}: {len(paths)} paths" for name, paths in job.paths.items() if len(paths) != 1]:
        raise UserError(
            "a domain is one dataset (a folder with .nv-meta, or a .jsonl with its index):\n"
            + "\n".join(several)
            + "\nprepare them as one "
            "with `energon prepare`, or make each a domain of its own"
        )


def _blend(
    job: Job, shares: Mapping[str, float], layers: Layers, ranges: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Return the entries of a stage: every used domain, once per layer of its documents.

    ranges: the stage's part of each shared domain.
    """
    entries = []
    for name, share in shares.items():
        for split, part in layers.get(name, [(None, 1.0)]):
            entry: dict[str, Any] = {"weight": share * part, "path": job.paths[name][0]}
            if split is not None:
                entry["split_config"] = str(job.directory / split)
            if job.shared(name):
                low, high = ranges[name]
                entry["subset"] = {"range": [_percent(low), _percent(high)]}
            entries.append({**entry, "subflavors": {"domain": name}})
    return entries


def _percent(fraction: float) -> str:
    """Format the border of a part; two parts have the same text at their border, and so meet at the same document."""
    return f"{100 * fraction:.12g}%"


def _yaml(blend: list[dict[str, Any]]) -> str:
    record = {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": {"train": {"blend": blend}}}
    return yaml.safe_dump(record, sort_keys=False, width=10**6, allow_unicode=True)


def _split_files(job: Job, name: str) -> list[tuple[str | None, str, float]]:
    """Return (split file, its text, share of the domain's documents as read) of every layer of a domain's documents.

    The file is None where a layer holds all documents. Raises UserError where the domain is no webdataset on this
    machine.
    """
    folder = Path(job.paths[name][0]) / META
    if not job.here or not folder.is_dir():
        raise UserError(
            f"the sample policy of {name} needs a webdataset on this machine, and {job.paths[name][0]} is none ({META} "
            "is missing, or --elsewhere); prepare one, or leave the policy out with --samples drop"
        )
    try:
        split, keys = _split(folder), _sample_keys(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, sqlite3.Error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{name}: {folder} is not as `energon prepare` writes it ({reason}); prepare the "
            "dataset again, or leave the sample policy out with --samples drop"
        ) from error
    times, layers = _times(job, name, samples=len(keys)), []
    for number in range(1, int(times.max()) + 1):
        left_out = [key for key, kept in zip(keys, times >= number, strict=True) if not kept]
        record = {**split, "exclude": [*split.get("exclude", ()), *left_out]}
        path = f"splits/{name}-{number}.json" if left_out else None
        layers.append((path, json.dumps(record, indent=0), float((times >= number).sum() / times.sum())))
    return layers


def _times(job: Job, name: str, *, samples: int) -> np.ndarray:
    """Return how often each of the dataset's samples is read, int64 (samples,).

    Samples are found by their row where the dataset holds all rows of the one file that was scored, also those held
    out; by their order where it holds only the domain's documents and the policy lists all of them. Raises UserError
    for any other dataset.
    """
    selection, domain = job.selections[name], job.mixture.domain(name)
    if samples == len(selection.times) == domain.unique_documents:
        return selection.times
    if selection.rows is None or len(selection.names) != 1 or selection.rows.max(initial=0) >= samples:
        documents = "" if domain.unique_documents is None else f" of {domain.unique_documents:,}"
        raise UserError(
            f"the sample policy of {name} lists {len(selection.times):,}{documents} documents, of "
            f"{', '.join(selection.names)}, and {job.paths[name][0]} has {samples:,} samples: which are which cannot "
            "be told; give the dataset that was made of that file, one sample a row, in their order, or leave the "
            "policy out with --samples drop"
        )
    times = np.ones(samples, dtype=np.int64)
    times[selection.rows] = selection.times
    return times


def _split(folder: Path) -> dict[str, Any]:
    """Read the split file of a webdataset. Raises OSError where there is none, TypeError where it is no mapping."""
    path = next((path for path in (folder / "split.yaml", folder / "split.json") if path.exists()), None)
    if path is None:
        raise FileNotFoundError("it has neither split.yaml nor split.json")
    return {**parse_yaml(path.read_text(encoding="utf-8"), path)}


def _sample_keys(folder: Path) -> list[str]:
    """Return `shard/key` of every sample of a webdataset, in the order of its shards."""
    shards = list(read_json(folder / ".info.json")["shard_counts"])
    with closing(sqlite3.connect(f"file:{folder / 'index.sqlite'}?mode=ro", uri=True)) as index:
        rows = index.execute(
            "SELECT tar_file_id, sample_key FROM samples ORDER BY tar_file_id, sample_index"
        ).fetchall()
    return [f"{shards[shard]}/{key}" for shard, key in rows]


def _notes(job: Job) -> Iterator[str]:
    yield "energon draws every document at random, each worker on its own: shares scatter around those given"
    if len(job.spans) > 1:
        yield (
            "every worker needs a document of every domain's part of a stage; one that has none draws the other "
            "domains more often"
        )


def _use(job: Job) -> str:
    """Return how to launch, one run per stage."""
    slots = job.slots() if job.stepped else [None] * len(job.spans)
    lines = []
    for number, (span, slot) in enumerate(zip(job.spans, slots, strict=True)):
        end = f"to step {slot.step + slot.steps:,} (--train-iters)" if slot else _length(job, span)
        lines.append(f"# {span.title}: {end}\n--dataloader-type external --data-path {job.word(file_name(number))}")
    if len(lines) > 1:
        lines.insert(
            0, "# one launch a stage from the checkpoint of the one before, without its --dataloader-save state"
        )
    lines.append(
        "# in Python: get_train_dataset(PATH, worker_config=..., batch_size=..., shuffle_buffer_size=..., "
        "max_samples_per_sequence=...)"
    )
    return "\n".join(lines)


def _length(job: Job, span: Span) -> str:
    return f"{job.units(span):,.0f} {job.unit}s"


def _parts(path: str) -> Sequence[str]:
    """Return the files of a prepared dataset: JSONL and its index, another metadataset, or a webdataset's .nv-meta."""
    if path.endswith(".jsonl"):
        return (path, f"{path}.idx")
    return (path,) if path.endswith(".yaml") else (f"{path}/{META}",)


FORMAT = Format(
    name="energon",
    trainers="Megatron-Energon (Megatron-LM multimodal, Megatron-Bridge)",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="megatron-energon 7.4.1: its metadataset reader and its loader",
    packable=True,
    samples=("filter", "multiplicity"),
    parts=_parts,
)
