"""Megatron-LM, Megatron-Bridge, NeMo: one blend per stage, as text (--data-args-path) and as JSON.

The JSON is for --per-split-data-args-path. A weight is a share of sequences of one fixed length, and so a share of
tokens. Several stages are several launches: --phase-transition-iterations makes Megatron-LM save a checkpoint and exit
at the end of a stage, and launch.sh starts it again with the next blend. The rules are those in the source of
megatron-core 0.16.1 (core/datasets/blended_dataset.py, utils.py) and Megatron-LM (megatron/training/training.py).
"""

import json
import re
from collections.abc import Sequence
from importlib.resources import files

from mixtures.convert.formats.megatron.views import (
    BlendPart,
    domain_shares,
    plan_reading,
    read_again,
    stage_file,
    steps_before,
)
from mixtures.convert.job import Content, Draw, Job, Output
from mixtures.convert.steps import Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError

TEMPLATE = files("mixtures.convert.formats") / "templates" / "megatron_launch.sh"
ENOUGH = 1 / 200  # prefixes per sequence of a stage, up to which Megatron's own reserve is enough


def write(job: Job) -> Output:
    """Return the blends, the views that they read, and with several stages launch.sh.

    Raises UserError for views that cannot be made, a directory with a space for them, and a batch size that changes
    between stages.
    """
    reading = plan_reading(job)
    if reading.files and re.search(r"\s", str(job.directory)):
        raise UserError(
            f"{str(job.directory)!r} has a space, where Megatron-LM splits, and the blends name files in it; give "
            f"another -o"
        )
    names = (
        [f"blend-{stage_file(number, span)}" for number, span in enumerate(job.spans)]
        if len(job.spans) > 1
        else ["blend"]
    )
    out: dict[str, Content] = dict(reading.files)
    for name, parts in zip(names, reading.parts, strict=True):
        blend = [word for part in parts for word in (repr(part.share), part.prefix)]
        out[f"{name}.json"] = json.dumps({"train": blend, "valid": None, "test": None}, indent=1) + "\n"
        out[f"{name}.txt"] = "".join(f"{part.share!r} {part.prefix}\n" for part in parts)
    if len(job.spans) == 1:
        sequences = _sequences(job)
        draw = Draw(domain_shares(reading.parts[0], start=0, stop=sequences), job.spans[0].start, job.spans[0].tokens)
        return Output(out, [draw], use=_use_static(job, _surplus(reading.parts, [sequences])))
    batch, slots = _constant_batch(job), job.slots()
    surplus = _surplus(reading.parts, [slot.steps * batch for slot in slots])
    out |= _launch(job, slots, names, batch=batch, surplus=surplus, seeds=bool(reading.restarting))
    draws = [
        Draw(domain_shares(parts, start=0, stop=slot.steps * batch), slot.start, slot.tokens)
        for parts, slot in zip(reading.parts, slots, strict=True)
    ]
    return Output(
        out, draws, use=_use_staged(job), notes=[*_offset_note(job, batch), *read_again(job, reading.restarting)]
    )


def _sequences(job: Job) -> int:
    """Return the sequences of a run of one stage; a large number where the sequence length is not known."""
    return max(1, job.spans[0].tokens // job.sequence_length) if job.sequence_length else 10**9


def _surplus(parts: Sequence[Sequence[BlendPart]], sequences: Sequence[int]) -> str:
    """Return the flag --mid-level-dataset-surplus for a run of few sequences and many prefixes; empty for other runs.

    Megatron rounds the sequences of every prefix up, which makes the blend longer. A large prefix then has to give more
    than the 0.5 % that Megatron builds in reserve: an IndexError (Megatron-LM issue 705). A larger reserve, by one part
    in `sequences` for each prefix, is enough.
    """
    most = max(len(blend) / count for blend, count in zip(parts, sequences, strict=True))
    return f" --mid-level-dataset-surplus {0.005 + most:.4f}" if most > ENOUGH else ""


def _constant_batch(job: Job) -> int:
    """Return the sequences per step.

    Raises UserError for a schedule of batch sizes, which Megatron-LM does not take together with phases.
    """
    if (size := job.require_batches().constant) is None:
        raise UserError(
            "Megatron-LM takes no batch size schedule together with phases (it asserts that --rampup-batch-size is not "
            "given); give one --batch-size, or --stages average"
        )
    return size


def _launch(
    job: Job, slots: Sequence[Slot], names: Sequence[str], *, batch: int, surplus: str, seeds: bool
) -> dict[str, Content]:
    """Return launch.sh and the two files that it reads.

    flags.txt has the flags of all launches. stages.txt has one line per stage: first iteration, end, blend, and flags
    of this stage alone. seeds: every stage gets its own --seed, so that it does not read the same sequences again in
    the same order.
    """
    first = steps_before(job, batch)
    begins = [first + slot.step for slot in slots]
    end = begins[-1] + slots[-1].steps
    phases = ",".join(str(step) for step in begins if step)
    flags = f"--seq-length {job.sequence_length} --global-batch-size {batch} --train-samples {end * batch}"
    lines = [
        f"{begin} {stop} {name}.json{f' --seed {1234 + number}' if seeds else ''}\n"
        for number, (begin, stop, name) in enumerate(zip(begins, [*begins[1:], end], names, strict=True))
    ]
    return {
        "launch.sh": TEMPLATE.read_text(),
        "flags.txt": f"{flags} --dataloader-type single{surplus} --phase-transition-iterations {phases}\n",
        "stages.txt": "".join(lines),
    }


def _offset_note(job: Job, batch: int) -> list[str]:
    if not job.mixture.horizon.start_tokens:
        return []
    first = steps_before(job, batch)
    return [
        f"iterations in stages.txt and flags.txt count from the beginning of the run, the schedule begins at "
        f"{first:,} of {batch} sequences"
    ]


def _use_static(job: Job, surplus: str) -> str:
    blend = job.word("blend.json")
    return (
        f"Megatron-LM: --per-split-data-args-path {blend} --eval-iters 0{surplus}\n"
        f"         or: --data-args-path {job.word('blend.txt')} --split 99,1,0{surplus}\n"
        f"Megatron-Bridge: per_split_data_args_path={blend}; NeMo: "
        f"paths=json.load(open({str(job.directory / 'blend.json')!r}))['train']\n"
        "for validation put prefixes under `valid` of the JSON, and leave --eval-iters 0 out"
    )


def _use_staged(job: Job) -> str:
    return (
        f"CHECKPOINTS=DIR bash {job.word('launch.sh')} torchrun ... pretrain_gpt.py FLAGS --eval-iters 0\n"
        "FLAGS are those of the model, tokenizer and optimizer; lengths of the learning rate in samples "
        "(--lr-decay-samples), as the run "
        "is given in --train-samples\n"
        "Megatron-Bridge, NeMo: one launch for each line of stages.txt, with the blend in it\n"
        "for validation put prefixes under `valid` of every JSON, and leave --eval-iters 0 out"
    )


FORMAT = Format(
    name="megatron",
    trainers="Megatron-LM, Megatron-Bridge, NeMo",
    unit="sequence",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="megatron-core 0.16.1: its datasets and blend; launch.sh with a stand-in for pretrain_gpt.py; NeMo's list "
    "by its rules",
    samples=("filter", "multiplicity"),
    most_domains=32_766,
    splits_on=" \t\n\r\f\v",
    reads=("megatron",),
    parts=lambda path: (f"{path}.bin", f"{path}.idx"),
)
