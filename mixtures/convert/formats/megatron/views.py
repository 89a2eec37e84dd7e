"""What every stage of a Megatron run reads: prefixes with weights, and `.idx` views over some of the documents.

A stage restarts its datasets at the first sample, and would read again what the stages before it read. So every stage
gets its own documents: a seeded shuffle of each domain's documents is cut into one part per stage (`Job.ranges`).
Sample policies become views as well: a document that is dropped is not in the index, and one that is read twice is in
it twice.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mixtures.convert.formats.megatron.idx import Index, read_index
from mixtures.convert.formats.megatron.samples import times_read
from mixtures.convert.job import Content, Job, Span
from mixtures.errors import UserError


@dataclass(frozen=True)
class BlendPart:
    """A prefix in a stage's blend and its share of the stage's sequences; a domain has one part per prefix."""

    domain: str
    prefix: str
    share: float


@dataclass(frozen=True)
class Reading:
    """What the stages of a run read.

    restarting: domains that several stages read from their beginning, because no views can be written. parts: the blend
    of every stage, in the mixture's order of domains. files: {path in the directory: content} of the views.
    """

    restarting: frozenset[str]
    parts: list[list[BlendPart]] = field(default_factory=list)
    files: dict[str, Content] = field(default_factory=dict)


def stage_file(number: int, span: Span) -> str:
    """Return a stage's name for use in file names: its number, from 1, and its name without other characters."""
    return f"{number + 1}-{re.sub(r'[^A-Za-z0-9._-]+', '-', span.name)}"


def plan_reading(job: Job) -> Reading:
    """Return the prefixes and shares of every stage. Raises UserError where views are needed and cannot be made."""
    needed = {name for name in job.paths if name in job.selections or job.shared(name)}
    local = {name for name in job.paths if job.local(name)}
    _refuse_far(job, local)
    opened = [name for name in job.paths if name in local and (name in needed or len(job.paths[name]) > 1)]
    indexes = {name: [read_index(path) for path in job.paths[name]] for name in opened}
    times = {name: times_read(job, name, parts) for name, parts in indexes.items()}
    reading = Reading(frozenset(needed - local))
    for number, (span, ranges) in enumerate(zip(job.spans, job.ranges(), strict=True)):
        parts: list[BlendPart] = []
        for name, share in job.unit_shares(span).items():
            if name not in indexes:
                parts.append(BlendPart(name, job.paths[name][0], _short(share)))
                continue
            chosen = [
                _documents(count, ranges[name], seed=[job.seed, place]) for place, count in enumerate(times[name])
            ]
            sizes = [int(index.document_tokens[kept].sum()) for index, kept in zip(indexes[name], chosen, strict=True)]
            prefixes = _views(job, number, name) if name in needed else job.paths[name]
            parts += _split(span, name, share, prefixes, sizes)
            if name in needed:
                reading.files.update(_files(job, prefixes, name, indexes[name], chosen))
        reading.parts.append(parts)
    return reading


def _refuse_far(job: Job, local: Collection[str]) -> None:
    """Refuse what needs the .idx files of the data where these are not on this machine. Raises UserError."""
    if lost := [name for name in job.selections if name not in local]:
        raise UserError(
            f"the sample policies of {', '.join(lost)} become .idx files that leave documents out or repeat them, "
            "which need the .idx files of the data; run `mixtures convert` where the data are, or give --samples drop"
        )
    if several := [name for name in job.paths if name not in local and len(job.paths[name]) > 1]:
        raise UserError(
            f"{', '.join(several)}: how large each of several prefixes is stands in their .idx files; run `mixtures "
            "convert` where the data are, or join them with Megatron's tools/merge_datasets.py"
        )


def _views(job: Job, number: int, name: str) -> list[str]:
    """Return the prefixes of a stage's views of a domain.

    They end in the domain's name, with a number where the domain has several prefixes.
    """
    several = len(job.paths[name]) > 1
    folder = job.directory / "views" / stage_file(number, job.spans[number])
    return [str(folder / (f"{name}@{place + 1}" if several else name)) for place in range(len(job.paths[name]))]


def _files(
    job: Job, prefixes: Sequence[str], name: str, indexes: Sequence[Index], chosen: Sequence[np.ndarray]
) -> dict[str, Content]:
    """Return the views as functions that write them, so that only one view is in memory at a time."""
    files: dict[str, Content] = {}
    for prefix, source, index, documents in zip(prefixes, job.paths[name], indexes, chosen, strict=True):
        relative = str(Path(prefix).relative_to(job.directory))
        files[f"{relative}.idx"] = partial(_write_view, index=index, documents=documents)
        files[f"{relative}.bin"] = partial(_link, target=f"{source}.bin")
    return files


def _write_view(path: Path, *, index: Index, documents: np.ndarray) -> None:
    index.take(documents).write(path)


def _link(path: Path, *, target: str) -> None:
    path.symlink_to(target)


def _split(span: Span, name: str, share: float, prefixes: Sequence[str], sizes: Sequence[int]) -> list[BlendPart]:
    """Divide a domain's share over its prefixes by their tokens; leave out prefixes of which the stage reads nothing.

    Raises UserError where no document is left for the stage.
    """
    if not sum(sizes):
        raise UserError(
            f"stage {span.title!r}: no document of {name} is left for it, so few are there for the stages to share; "
            "give --stages average, or take the domain out of a stage"
        )
    return [
        BlendPart(name, prefix, _short(share * size / sum(sizes)))
        for prefix, size in zip(prefixes, sizes, strict=True)
        if size
    ]


def _short(share: float) -> float:
    """Remove the rounding error in the last digit of a share: 0.19999999999999998 becomes 0.2."""
    return float(f"{share:.15g}")


def _documents(times: np.ndarray, part: tuple[float, float], *, seed: Sequence[int]) -> np.ndarray:
    """Return the numbers of the documents in a stage's part, in file order, each as often as `times` (D,) says."""
    place = np.random.default_rng(seed).permutation(len(times))
    low, high = (round(edge * len(times)) for edge in part)
    return np.repeat(np.arange(len(times)), np.where((place >= low) & (place < high), times, 0))


def steps_before(job: Job, batch: int) -> int:
    """Return the steps that the run has done when the schedule begins, as if all had this batch size."""
    start = job.mixture.horizon.start_tokens
    return round(start / (batch * job.sequence_length)) if start and job.sequence_length else 0


def read_again(job: Job, restarting: frozenset[str]) -> list[str]:
    """Return notes on the stages that restart domains: about how much of what they read was read before."""
    notes, before = [], dict.fromkeys(job.paths, 0.0)
    for previous, span in itertools.pairwise(job.spans):
        for name in previous.used:
            before[name] += previous.tokens * previous.weights[name] / job.texts[name].pass_tokens
        shares = [
            f"{min(1.0, before[name]):.0%} of {name}" for name in span.used if name in restarting and before[name]
        ]
        if shares:
            notes.append(
                f"stage {span.title} restarts its datasets: of what it reads, about {', '.join(shares)} was read "
                "before; for documents of its own run `mixtures convert` where the data are"
            )
    return notes


def count_sequences(shares: Sequence[float], *, start: int, stop: int, most: int = 100_000) -> list[float]:
    """Return how many of the sequences start <= i < stop each part of Megatron's blend gives.

    The blend takes every sequence from the part that is furthest behind its share. Where stop is above `most`, the
    shares times (stop - start) are returned: the blend stays within a few sequences of these. The rule is that of
    megatron/core/datasets/helpers.cpp, build_blending_indices (0.16.1).
    """
    weights = np.array(shares) / np.sum(shares)
    weights /= weights.sum()  # a second time, as in Megatron: the builder normalises, and the blend again
    if stop > most:
        return (weights * (stop - start)).tolist()
    taken, before = np.zeros(len(weights)), np.zeros(len(weights))
    for number in range(stop):
        if number == start:
            before = taken.copy()
        taken[np.argmax(weights * max(number, 1) - taken)] += 1
    return (taken - before).tolist()


def domain_shares(parts: Sequence[BlendPart], *, start: int, stop: int) -> Mapping[str, float]:
    """Return {domain: share of a stage's sequences start <= i < stop} that the blend of these parts gives."""
    shares = dict.fromkeys((part.domain for part in parts), 0.0)
    counts = count_sequences([part.share for part in parts], start=start, stop=stop)
    for part, count in zip(parts, counts, strict=True):
        shares[part.domain] += count / sum(counts)
    return shares
