"""Hugging Face `datasets`: a JSON file and a loader beside it, for Trainer, TRL's trainers and any loop.

`interleave_datasets` draws rows, takes one mixture only, and stops or repeats at the end of the data. The loader
(templates/hf_loader.py) draws the same rows and goes on over the stages.
"""

import json
from importlib.resources import files

import numpy as np

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.rows import selected_rows
from mixtures.convert.sources import TEXT, text_columns
from mixtures.convert.table import Format

PLAN, LOADER = "hf_mixture.json", "hf_loader.py"


def write(job: Job) -> Output:
    """Return the loader and its JSON: rows and probabilities of every stage, files and selected rows of every domain.

    Raises UserError where the documents of a sample policy are no rows of files.
    """
    names = [domain.name for domain in job.mixture.domains]
    shares = [job.unit_shares(span) for span in job.spans]
    ends = np.rint(np.cumsum([job.units(span) for span in job.spans])).astype(int)
    stages = [
        {
            "name": span.name,
            "start_tokens": span.start,
            "tokens": span.tokens,
            "rows": int(rows),
            "probabilities": {name: share.get(name, 0.0) for name in names},
        }
        for span, share, rows in zip(job.spans, shares, np.diff(ends, prepend=0), strict=True)
    ]
    selected, written = selected_rows(job, trainer="hf")
    columns = text_columns(job, required=False) if job.unit == "document" else {}
    renamed = {name: column for name, column in columns.items() if column != TEXT}
    domains = {
        name: {
            "files": list(paths),
            "samples": selected.get(name),
            **({TEXT: renamed[name]} if name in renamed else {}),
        }
        for name, paths in job.paths.items()
    }
    plan = {"mixture": job.mixture.id, "row": job.unit, "seed": job.seed, "domains": domains, "stages": stages}
    return Output(
        files={
            PLAN: json.dumps(plan, indent=1) + "\n",
            LOADER: files("mixtures.convert.formats").joinpath("templates", LOADER).read_text(),
            **written,
        },
        draws=[
            Draw(share, span.start, span.tokens, random=True) for span, share in zip(job.spans, shares, strict=True)
        ],
        use=_use(job, rows=int(ends[-1])),
        notes=[*_notes(job), *(f"{name}: the loader calls its column {old} `{TEXT}`" for name, old in renamed.items())],
    )


def _notes(job: Job) -> list[str]:
    if job.unit != "document" or job.document_limit is not None:
        return []
    return ["a row that the trainer cuts off shifts the shares; say where with --max-document-tokens"]


def _use(job: Job, *, rows: int) -> str:
    length = f"{rows:,} rows are the schedule"
    if job.batches is not None:
        steps = job.batches.steps_at(job.mixture.horizon.total_tokens)
        length += f", {steps:,.0f} steps where it trains on rows packed to {job.sequence_length:,} tokens"
    return (
        f"import sys; sys.path.insert(0, {str(job.directory)!r})\n"
        "from hf_loader import load_mixture\n"
        f"train = load_mixture()                  # a stream without end: give the Trainer max_steps ({length})\n"
        "train = load_mixture(streaming=False)   # or these rows as a Dataset, with "
        "train_sampling_strategy='sequential'"
    )


FORMAT = Format(
    name="hf",
    trainers="HF datasets, Trainer, TRL's trainers, any PyTorch loop",
    unit="document",
    write=write,
    stages="code",
    zero_weights="kept",
    sums_to_one=True,
    exhausted="repeats",
    caps="checked here",
    tested="datasets 5.2.0: as its interleave_datasets; 200 steps with transformers 5.23.0 and TRL 1.16.0",
    packable=True,
    samples=("filter", "multiplicity"),
    reads=("parquet", "jsonl", "csv", "txt"),
)
