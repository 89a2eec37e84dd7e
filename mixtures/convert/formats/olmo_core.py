"""OLMo-core: a curriculum in Python for its composable data loader, and source-mixture YAML for its older dataset.

A stage is a whole number of sequences of every domain (largest remainders), so shares are exact to one sequence.
`curriculum.py` makes one instance source per stage and lets the loader read them in order. It refuses files that would
be read more often than max_epochs. The YAML (olmo_core/data/source_mixture.py) has the same shares, one file per stage,
and caps. The dataset that reads it takes the first tokens of every file, again in every launch.
"""

import io
import itertools
import json
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import yaml

from mixtures.convert.job import Content, Draw, Job, Output
from mixtures.convert.simulate import RELATIVE, cap_to_hold, whole_parts
from mixtures.convert.steps import Batches, Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError
from mixtures.stream.policy import compose

# factor on the repetitions that a domain without a cap needs: every repetition loses the rest of a file's last sequence
SLACK = 1.01


def write(job: Job) -> Output:
    """Return curriculum.py with its numbers, and one YAML file per stage.

    Raises UserError for batch sizes that the loader cannot change to.
    """
    batches = job.require_batches()
    _check_batches(batches)
    slots = job.slots()
    sequences = [
        whole_parts(job.unit_shares(span), slot.tokens // batches.sequence_length)
        for span, slot in zip(job.spans, slots, strict=True)
    ]
    written: dict[str, Content] = {
        "curriculum.py": files("mixtures.convert.formats").joinpath("templates/olmo_curriculum.py").read_text(),
        "curriculum.json": json.dumps(_plan(job, sequences, batches), indent=1) + "\n",
    }
    written |= {_view(name): _spans(job, name) for name in job.selections}
    if not job.selections:
        written |= {_yaml(job, number): _source_mixture(job, sequences, number) for number in range(len(slots))}
    return Output(
        files=written,
        draws=[
            Draw({name: count / sum(stage.values()) for name, count in stage.items()}, slot.start, slot.tokens)
            for stage, slot in zip(sequences, slots, strict=True)
        ],
        use=_use(job, slots, batches),
        notes=list(_notes(job)),
        remedy="a share is a whole number of sequences in every stage; take fewer stages, or a shorter "
        "--sequence-length",
    )


def _plan(job: Job, sequences: list[dict[str, int]], batches: Batches) -> dict[str, object]:
    """Return the record that curriculum.py reads."""
    caps = _caps(job, sequences)
    domains = {
        domain.name: {
            "paths": job.paths[domain.name],
            "tokens": domain.unique_tokens,
            "max_epochs": caps[domain.name],
            "view": _view(domain.name) if domain.name in job.selections else None,
        }
        for domain in job.mixture.domains
        if domain.name in job.paths
    }
    return {
        "mixture": job.mixture.id,
        "sequence_length": batches.sequence_length,
        "batch_sequences": batches.sequences_at(0),
        "seed": job.seed,
        "domains": domains,
        "stages": [{"name": span.name, "sequences": stage} for span, stage in zip(job.spans, sequences, strict=True)],
    }


def _caps(job: Job, sequences: list[dict[str, int]]) -> dict[str, float | None]:
    """Return {name: passes that the trainer may make}; None without a cap, or where the schedule may exceed the cap."""
    return {
        domain.name: cap_to_hold(domain, sum(_passes(job, sequences, domain.name))) for domain in job.mixture.domains
    }


def _passes(job: Job, sequences: list[dict[str, int]], name: str) -> list[float]:
    """Return the passes over a domain, one number per stage."""
    return [stage.get(name, 0) * job.require_sequence_length() / job.texts[name].pass_tokens for stage in sequences]


def _view(name: str) -> str:
    return f"views/{name}.npy"


def _spans(job: Job, name: str) -> bytes:
    """Return the .npy of the tokens that a sample policy keeps: starts and ends."""
    picked = job.selections[name]
    text = compose(picked.start, picked.tokens, picked.times, domain_tokens=job.mixture.domain(name).unique_tokens)
    buffer = io.BytesIO()
    np.save(buffer, np.stack([text.starts, text.ends]))
    return buffer.getvalue()


def _yaml(job: Job, number: int) -> str:
    return "sources.yaml" if len(job.spans) == 1 else f"sources-{number + 1}.yaml"


def _source_mixture(job: Job, sequences: list[dict[str, int]], number: int) -> str:
    """Return the SourceMixtureList of a stage: ratios sum to 1, caps leave room for what the other stages take."""
    caps, stage, sources = _caps(job, sequences), sequences[number], []
    for name, count in stage.items():
        passes, cap = _passes(job, sequences, name), caps[name]
        most = passes[number] * SLACK if cap is None else cap * (1 + RELATIVE) - sum(passes) + passes[number]
        source = {"source_name": name, "target_ratio": count / sum(stage.values()), "paths": list(job.paths[name])}
        sources.append(
            source
            | {"max_repetition_ratio": max(1.0, most), "max_source_fraction": 1.0 if cap is None else min(1.0, most)}
        )
    return yaml.safe_dump({"sources": sources}, sort_keys=False)


def _check_batches(batches: Batches) -> None:
    sizes = [size for _, size in batches.pieces]
    if bad := [f"{a} to {b}" for a, b in itertools.pairwise(sizes) if a == b or max(a, b) % min(a, b)]:
        raise UserError(
            f"--batch-size: OLMo-core changes it by whole factors only, not from {', '.join(bad)} sequences; give "
            f"such sizes"
        )


def _notes(job: Job) -> Iterator[str]:
    if job.selections:
        yield (
            f"no source-mixture YAML: it cannot say which documents of {', '.join(job.selections)} are read; "
            f"curriculum.py does"
        )
    elif len(job.spans) > 1:
        yield (
            f"sources-1.yaml to sources-{len(job.spans)}.yaml each begin their domains anew: every stage reads the "
            "same first tokens of a file; curriculum.py does not"
        )
    if len(job.batches.pieces if job.batches else ()) > 1:
        yield (
            "OLMo-core's BatchSizeSchedulerCallback multiplies the learning rate by the root of the batch sizes' ratio"
        )


def _use(job: Job, slots: list[Slot], batches: Batches) -> str:
    """Return the lines for the training script."""
    steps = slots[-1].step + slots[-1].steps
    lines = [
        f"# in the training script, with {job.word()} on PYTHONPATH",
        "import curriculum",
        "dataset = curriculum.stages(tokenizer_config)  # ExperimentConfig(dataset=dataset, data_loader=data_loader, "
        "...)",
        "data_loader = curriculum.data_loader(work_dir)",
        f"max_duration = Duration.epochs(1)  # of the trainer: the whole schedule, {steps:,} steps",
    ]
    if len(batches.pieces) > 1:
        sizes = [size * batches.sequence_length for _, size in batches.pieces]
        starts = ", ".join(f"Duration.tokens({start})" for start, _ in batches.pieces)
        lines.append(f"batch_size_scheduler = BatchSizeSchedulerCallback(batch_sizes={sizes}, schedule=[{starts}])")
    if not job.selections:
        lines.append("# or, for NumpyFSLDatasetConfig.from_src_mix(mixture, ...), one launch a stage:")
        for number, slot in enumerate(slots):
            lines += [
                f"sources = SourceMixtureList.from_yaml({str(job.directory / _yaml(job, number))!r})",
                f"mixture = SourceMixtureDatasetConfig(source_list=sources, requested_tokens={slot.tokens}, "
                f"global_batch_size={batches.sequences_at(slot.step) * batches.sequence_length}, seed={job.seed})",
            ]
    return "\n".join(lines)


FORMAT = Format(
    name="olmo-core",
    trainers="OLMo-core",
    unit="token",
    write=write,
    stages="code",
    zero_weights="dropped",
    sums_to_one=True,
    exhausted="refuses",
    caps="trainer",
    tested="ai2-olmo-core 3.0.0: its sources and loader, 200 steps of its trainer, its source mixture",
    samples=("filter", "multiplicity"),
)
