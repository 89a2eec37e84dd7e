"""Nanotron: `data_stages`, each with folders of tokens and their weights, from a training step (the first is 1) on.

run_train.py builds only the data of the last stage in its config, and accepts a new stage only where a checkpoint ends
right before it (huggingface/nanotron, pull request 380 is open). So there is one config per launch: the first has one
stage, and each later one adds the next. A resumed launch goes on in every folder where the checkpoint left it. Nanotron
blends as Megatron does: every sequence comes from the domain that is furthest behind its share.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from mixtures.convert.job import Draw, Job, Output, Span
from mixtures.convert.steps import Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError

MOST_DOMAINS = 32766  # Nanotron numbers them in 16 bits


def write(job: Job) -> Output:
    """Return stage1.yaml, stage2.yaml, ...: the mixture's keys for the configs of the launches, one after the other.

    Raises UserError for batch sizes that change, a domain in several folders, and shares of less than one sequence.
    """
    slots, size = job.slots(), _batch_size(job)
    _check_folders(job)
    _check_reached(job, slots, size)
    stages = [_stage(job, span, slot) for span, slot in zip(job.spans, slots, strict=True)]
    names = [f"stage{number}.yaml" for number in range(1, len(stages) + 1)]
    ends = [slot.step + slot.steps for slot in slots]
    return Output(
        files={
            name: _text(
                {
                    "data_stages": stages[: number + 1],
                    "tokens": {"sequence_length": job.sequence_length, "train_steps": ends[number]},
                }
            )
            for number, name in enumerate(names)
        },
        draws=[
            Draw(job.unit_shares(span), slot.start, slot.tokens) for span, slot in zip(job.spans, slots, strict=True)
        ],
        use=_use(job, names, size=size, steps=ends[-1]),
        notes=[
            "run_train.py of 2025 and later trains on the last stage of a config only; the stages are one launch "
            "after the other",
            "in launchers with the older class Nanoset the shares hold too, but the same first sequences of a folder "
            "are read again",
        ],
    )


def _stage(job: Job, span: Span, slot: Slot) -> dict[str, Any]:
    """Return an entry of `data_stages`; its step, from 1, is the first that is trained on it."""
    dataset = {
        "dataset_folder": [paths[0] for paths in job.paths.values()],
        "dataset_weights": [span.weights[name] for name in job.paths],
    }
    return {
        "name": span.name,
        "start_training_step": slot.step + 1,
        "data": {"dataset": dataset, "num_loading_workers": 1, "seed": job.seed},
    }


def _batch_size(job: Job) -> int:
    if (size := job.require_batches().constant) is None:
        raise UserError(
            "Nanotron has one batch size for the whole run, and this one changes; give --batch-size SEQUENCES"
        )
    return size


def _check_folders(job: Job) -> None:
    if several := [f"{name}: {', '.join(paths)}" for name, paths in job.paths.items() if len(paths) > 1]:
        raise UserError(
            "Nanotron gives a weight to each folder; put every domain in one folder:\n"
            + "\n".join(f"  - {line}" for line in several)
        )


def _check_reached(job: Job, slots: list[Slot], size: int) -> None:
    """Refuse a share of a stage that is less than one sequence. Raises UserError listing these domains."""
    if never := [
        f"  - {name} in stage {span.title}: {weight:.3g} of {slot.steps * size:,} sequences"
        for span, slot in zip(job.spans, slots, strict=True)
        for name, weight in span.weights.items()
        if 0 < weight * slot.steps * size < 1
    ]:
        raise UserError(
            "shares of less than one sequence, which Nanotron may never read:\n"
            + "\n".join(never)
            + "\nraise them (`mixtures export ... --min-share`) or give --stages average"
        )


def _use(job: Job, names: list[str], *, size: int, steps: int) -> str:
    lines = [
        f"put the keys of each file into a whole config of its own; there micro_batch_size x "
        f"batch_accumulation_per_replica x dp = {size},",
        f"and optimizer.learning_rate_scheduler.lr_decay_steps for all {steps:,} steps (left out, it would end with "
        f"the stage)",
    ]
    for number, name in enumerate(names):
        resumed = ", checkpoints.resume_checkpoint_path: the last checkpoint of the launch before" if number else ""
        saved = ", checkpoints.save_final_state: true" if number < len(names) - 1 else ""
        lines.append(
            f"torchrun --nproc_per_node=8 run_train.py --config-file {job.word(name)}   # whole config{saved}{resumed}"
        )
    return "\n".join(lines)


def _parts(path: str) -> tuple[str, ...]:
    """Return the files that datatrove's tokenizer writes into a folder."""
    return (f"{path}/*.ds", f"{path}/*.metadata")


def _text(record: Mapping[str, Any]) -> str:
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=140)


FORMAT = Format(
    name="nanotron",
    trainers="Nanotron",
    unit="sequence",
    write=write,
    stages="relaunch",
    zero_weights="kept",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="golden files and the rules of its config: it needs flash-attn",
    most_domains=MOST_DOMAINS,
    parts=_parts,
)
