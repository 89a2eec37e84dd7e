"""Meta Lingua: one YAML file per stage, and a script that puts a stage's weights into the last checkpoint before it.

Lingua draws every document at random, each rank on its own, by `data.sources`. A checkpoint holds these weights too, so
that a run which is resumed with other weights goes on with the old ones. The script changes them in the checkpoint and
leaves every rank's place in its files: no document comes twice. Every rank reads one of a domain's chunk files, so the
number of these must divide the number of ranks; chunk files beyond the number of ranks are never read.
"""

import glob
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from mixtures.convert.job import Content, Draw, Job, Output
from mixtures.convert.steps import Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError

CHUNKS = "*.chunk.*.jsonl"
SCRIPT = "next_stage.py"


def write(job: Job) -> Output:
    """Return one YAML file per stage, with all domains in each, and with several stages the script.

    Raises UserError for chunk files that the ranks cannot share, and for batch sizes that change.
    """
    _check_paths(job)
    _check_chunks(job)
    slots = _slots(job)
    shares = [job.unit_shares(span) for span in job.spans]
    written: dict[str, Content] = {
        file_name(number): _yaml(job, number, share, slots) for number, share in enumerate(shares)
    }
    if len(shares) > 1:
        written[SCRIPT] = files("mixtures.convert.formats").joinpath("templates", f"lingua_{SCRIPT}").read_text()
    places = (
        [(slot.start, slot.tokens) for slot in slots] if slots else [(span.start, span.tokens) for span in job.spans]
    )
    return Output(
        files=written,
        draws=[Draw(share, *place, random=True) for share, place in zip(shares, places, strict=True)],
        use=_use(job, slots),
        notes=list(_notes(job)),
    )


def file_name(number: int) -> str:
    """Return the name of the file for the stage `number` (from 0)."""
    return f"stage-{number + 1}.yaml"


def _check_paths(job: Job) -> None:
    remote = [f"  - {name}: {path}" for name, paths in job.paths.items() for path in paths if "://" in path]
    if remote:
        raise UserError(
            "Lingua reads folders of a file system, these are none:\n"
            + "\n".join(remote)
            + "\ngive the folders that its machines see, with --elsewhere where this machine does not"
        )
    if several := [f"  - {name}: {len(paths)} paths" for name, paths in job.paths.items() if len(paths) != 1]:
        raise UserError(
            f"a domain is one folder with {CHUNKS}:\n"
            + "\n".join(several)
            + "\nput the chunks of a domain into one folder"
        )


def _chunks(job: Job) -> dict[str, int]:
    """Return {name: number of chunk files of the domain}; empty where the data are not on this machine."""
    return (
        {name: len(glob.glob(os.path.join(glob.escape(paths[0]), CHUNKS))) for name, paths in job.paths.items()}
        if job.here
        else {}
    )


def _check_chunks(job: Job) -> None:
    """Refuse chunk files whose number does not divide the number of --ranks. Raises UserError."""
    ranks = job.options.get("ranks")
    if ranks and (
        bad := [f"  - {name}: {count} chunks" for name, count in _chunks(job).items() if count > ranks or ranks % count]
    ):
        raise UserError(
            f"{ranks} ranks cannot share these chunk files (Lingua leaves out files above the number of ranks "
            f"without a word, and stops "
            "where they do not divide it):\n"
            + "\n".join(bad)
            + "\nwrite them again as as many chunks as there are ranks, or as a divisor of that"
        )


def _slots(job: Job) -> list[Slot]:
    """Return the stages in steps; empty where there is one stage and the steps are not known."""
    if job.batches is not None and job.batches.constant is None:
        raise UserError("Lingua trains with one batch size, and this schedule has several; give one with --batch-size")
    return job.known_slots()


def _yaml(job: Job, number: int, shares: Mapping[str, float], slots: Sequence[Slot]) -> str:
    """Return the stage's part of Lingua's settings."""
    root = _root([paths[0] for paths in job.paths.values()])
    separators = job.mixture.tokenizer.separators_per_document
    sources = {
        os.path.relpath(paths[0], root) if root else paths[0]: shares.get(name, 0.0)
        for name, paths in job.paths.items()
    }
    data: dict[str, Any] = {
        "root_dir": root,
        "sources": sources,
        "seed": job.seed,
        "add_bos": separators > 1,
        "add_eos": separators > 0,
    }
    record: dict[str, Any] = {"data": data}
    if job.sequence_length is not None:
        data["seq_len"] = job.sequence_length
    if slots:
        record |= {
            "steps": slots[-1].step + slots[-1].steps,
            "checkpoint": {"dump": {"every": slots[number].step + slots[number].steps}},
        }
    return yaml.safe_dump(record, sort_keys=False, width=10**6, allow_unicode=True)


def _root(folders: Sequence[str]) -> str:
    """Return the directory that holds all of the folders; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.normpath(folder)) for folder in folders])
    except ValueError:
        return ""


def _notes(job: Job) -> Iterator[str]:
    yield "Lingua draws every document at random, each rank on its own: shares scatter around those given"
    if chunks := _chunks(job):
        most = ", ".join(f"{name} {count}" for name, count in chunks.items())
        yield (
            f"chunk files: {most}; the number of data-parallel ranks must be a multiple of {math.lcm(*chunks.values())}"
        )
    if len(job.spans) > 1:
        yield (
            "at a stage's start up to prefetch_size batches a rank come again, none where its first step is a "
            "multiple of prefetch_size"
        )


def _use(job: Job, slots: Sequence[Slot]) -> str:
    """Return how to launch, one run per stage."""
    lines = ["# train.yaml is yours, without data.sources"]
    if job.batches is not None:
        lines.append(f"# data.batch_size * grad_acc_steps * data-parallel ranks = {job.batches.constant:,}")
    for number, span in enumerate(job.spans):
        path, config = str(job.directory / file_name(number)), f"train-{number + 1}.yaml"
        merge = (
            "from omegaconf import OmegaConf as o; o.save(o.merge("
            f'o.load("train.yaml"), o.load({json.dumps(path)})), "{config}")'
        )
        lines += [
            f"# {span.title}",
            f"python -c {shlex.quote(merge)}",
            f"torchrun --nproc-per-node 8 -m apps.main.train config={config}",
        ]
        if number + 1 < len(job.spans):
            folder = f"{slots[number].step + slots[number].steps:010d}"
            lines += [
                "# steps are the whole run's, for the learning rate: stop it once this checkpoint is complete, and "
                "leave no later one",
                f"python {job.word(SCRIPT)} DUMP_DIR/checkpoints/{folder} {job.word(file_name(number + 1))}",
            ]
    return "\n".join(lines)


def _parts(path: str) -> Sequence[str]:
    return (os.path.join(glob.escape(path), CHUNKS),)


FORMAT = Format(
    name="lingua",
    trainers="Meta Lingua",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="kept",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="golden files and its rules restated (it is on no package index; `pip install lingua` is something else)",
    options=("ranks",),
    parts=_parts,
)
