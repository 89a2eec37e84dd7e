"""torchtitan: generated Python for its config functions that goes through the stages in one run.

Release 0.3.0 draws packed rows at random (InterleavedDataset). The code after it mixes packed rows in fixed proportion
(grain, as MaxText). Both pack every domain before they mix, so that a share of rows is a share of tokens.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mixtures.convert.formats.grain import given_shares, kept_weights
from mixtures.convert.job import Draw, Job, Output, Span
from mixtures.convert.rows import selected_rows
from mixtures.convert.sources import one_text_column
from mixtures.convert.steps import Slot
from mixtures.convert.table import Format

TEMPLATES = {"0.3": "torchtitan_loader.py", "head": "torchtitan_grain.py"}
CONFIGS = {
    "0.3": "from torchtitan_mixture import MixtureDataLoader\nconfig.dataloader = "
    "MixtureDataLoader.Config(text=COLUMN)",
    "head": "from torchtitan_mixture import MixtureConfig\nconfig.dataloader = "
    "GrainDataLoader.Config(dataset=MixtureConfig(text=COLUMN))",
}
IN_ORDER = (
    "the first pass over a domain reads its documents in the order of the files, as torchtitan 0.3.0 does: "
    "shuffle them beforehand"
)


def write(job: Job) -> Output:
    """Return the loader, its numbers, and the rows that sample policies list.

    Raises UserError where the documents of a sample policy are no rows of files, and where the text of the domains is
    in columns of several names.
    """
    column = one_text_column(job, trainer="torchtitan")
    head = (release := job.options.get("release", "0.3")) == "head"
    slots = job.known_slots()
    places: Sequence[Slot | Span] = slots or job.spans
    weights = [kept_weights(job.unit_shares(span)) if head else job.unit_shares(span) for span in job.spans]
    selected, samples = selected_rows(job, trainer="torchtitan")
    record = {
        "seed": job.seed,
        "sequence_length": job.sequence_length,
        "domains": [
            {"name": name, "paths": list(paths), "samples": selected.get(name)} for name, paths in job.paths.items()
        ],
        "stages": _stages(job, slots, weights),
    }
    return Output(
        files={
            "mixture_torchtitan.json": json.dumps(record, indent=1) + "\n",
            "torchtitan_data.py": _template("torchtitan_data.py"),
            "torchtitan_mixture.py": _template(TEMPLATES[release]),
            **samples,
        },
        draws=[
            Draw(given_shares(shares) if head else shares, place.start, place.tokens, random=not head)
            for shares, place in zip(weights, places, strict=True)
        ],
        use=_use(job, slots, CONFIGS[release].replace("COLUMN", repr(column))),
        notes=[] if head else [IN_ORDER],
    )


def _stages(job: Job, slots: list[Slot], weights: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return for every stage its length in sequences and a weight for every domain; the last has no end (null)."""
    length = job.sequence_length or 1
    lengths = [*(slot.tokens // length for slot in slots[:-1]), None]
    return [
        {"name": span.name, "sequences": sequences, "weights": {name: shares.get(name, 0.0) for name in job.paths}}
        for span, sequences, shares in zip(job.spans, lengths, weights, strict=True)
    ]


def _template(name: str) -> str:
    return files("mixtures.convert.formats").joinpath("templates", name).read_text()


def _use(job: Job, slots: list[Slot], config: str) -> str:
    where = (
        f"# with PYTHONPATH={job.word()}:$PYTHONPATH, in your config function (config_registry.py); text: the "
        f"column of the text"
    )
    lines = [where, config]
    if job.sequence_length is not None:
        lines.append(f"config.training.seq_len = {job.sequence_length}")
    if slots:
        lines.append(f"config.training.steps = {slots[-1].step + slots[-1].steps}")
    if slots and job.batches is not None and job.batches.constant is not None:
        lines.append(f"config.training.global_batch_size = {job.batches.constant}")
    return "\n".join(lines)


FORMAT = Format(
    name="torchtitan",
    trainers="torchtitan 0.3.0 (--release head: its grain loader of August 2026)",
    unit="sequence",
    write=write,
    stages="code",
    zero_weights="kept",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="torchtitan 0.3.0: its text loader and its checkpoints; head: grain 0.2.18 with torchtitan's packing "
    "restated",
    samples=("filter", "multiplicity"),
    options=("release", "column"),
    reads=("parquet", "jsonl", "csv"),
)
