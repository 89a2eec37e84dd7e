"""LLaMA-Factory: dataset_info.json with exact rows of every domain, and the YAML that trains on them.

`mix_strategy: interleave_*` is not used: when files are read as a whole, `interleave_over` goes on until the last
domain was read to its end and tokenizes all of it, and `interleave_under` stops when the first domain ends. Rows cut to
what a stage reads, with `concat`, give the shares exactly; the trainer shuffles them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mixtures.convert.job import Job, Output
from mixtures.convert.rows import Slices, as_draws, files_at, reader_of, row_slices
from mixtures.convert.sources import text_columns
from mixtures.convert.table import Format
from mixtures.errors import UserError

INFO = "dataset_info.json"


def write(job: Job) -> Output:
    """Return dataset_info.json and one YAML per stage; in every domain a stage goes on where the one before it ended.

    Raises UserError for a domain with more than one file or folder, and for files that `datasets` does not read as
    rows.
    """
    _check_paths(job)
    spans, counted = row_slices(job)
    columns = text_columns(job)
    entries = [
        _entries(job, slices, columns, stage=number if len(spans) > 1 else 0)
        for number, slices in enumerate(spans, start=1)
    ]
    names = ["train.yaml"] if len(spans) == 1 else [f"train_stage_{number}.yaml" for number in range(1, len(spans) + 1)]
    lines = [
        f"llamafactory-cli train {job.word(name)} "
        f"model_name_or_path={f'OUT_{number - 1}' if number > 1 else 'MODEL'} output_dir=OUT_{number} ..."
        for number, name in enumerate(names, start=1)
    ]
    info = {name: entry for stage in entries for name, entry in stage.items()}
    return Output(
        files={
            INFO: json.dumps(info, indent=1) + "\n",
            **{
                name: yaml.safe_dump(_config(job, list(stage)), sort_keys=False)
                for name, stage in zip(names, entries, strict=True)
            },
        },
        draws=as_draws(job, spans),
        use="\n".join(lines),
        notes=[*counted, *_notes(job)],
        remedy="train on more tokens, so that a row counts for less, or take `--to hf`",
    )


def _entries(job: Job, slices: Slices, columns: Mapping[str, str], *, stage: int) -> dict[str, Any]:
    """Return {name of a dataset: its entry}, one entry per pass over a domain.

    A colon sets the stage and the pass off from the domain's name, which has no colon.
    """
    entries = {}
    for name, parts in slices.items():
        for turn, (low, high) in enumerate(parts, start=1):
            label = ":".join(
                [name, *([f"stage{stage}"] if stage else []), *([f"pass{turn}"] if len(parts) > 1 else [])]
            )
            entries[label] = {
                "file_name": job.paths[name][0],
                "split": f"train[{low}:{high}]",
                "columns": {"prompt": columns[name]},
            }
    return entries


def _config(job: Job, datasets: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "stage": "pt",
        "do_train": True,
        "dataset_dir": str(job.directory),
        "dataset": ",".join(datasets),
    }
    config |= {"mix_strategy": "concat", "num_train_epochs": 1.0}
    return config | ({"cutoff_len": job.sequence_length} if job.sequence_length else {})


def _check_paths(job: Job) -> None:
    several = [
        f"  - {name}: {', '.join(paths)}" for name, paths in job.paths.items() if len(paths) > 1 or "*" in paths[0]
    ]
    if several:
        raise UserError(
            "LLaMA-Factory reads one file or one folder a dataset, these domains have more:\n"
            + "\n".join(several)
            + "\ngive the folder, "
            "with nothing else in it"
        )
    folders = {name: Path(path) for name, (path,) in job.paths.items() if job.local(name) and Path(path).is_dir()}
    others = {
        name: sorted({*map(str, folder.iterdir())} - {*files_at(str(folder))}) for name, folder in folders.items()
    }
    if listed := "\n".join(f"  - {name}: {', '.join(paths)}" for name, paths in others.items() if paths):
        raise UserError(f"LLaMA-Factory reads all that is in a folder, also:\n{listed}\nmove these elsewhere")
    for name, (path,) in job.paths.items():
        if "." in path.rpartition("/")[2]:
            reader_of(path, name)


def _notes(job: Job) -> list[str]:
    notes = ["give num_train_epochs: 1.0 as it stands; another number repeats the whole stage"]
    if len(job.spans) > 1:
        notes.append(
            "every stage is a launch of its own, with a fresh optimizer and learning-rate schedule; in one run: "
            "`--to hf` and HF's Trainer"
        )
    return notes


FORMAT = Format(
    name="llama-factory",
    trainers="LLaMA-Factory",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="llamafactory 0.9.5: its argument parser, get_dataset and train entry",
    options=("column",),
    reads=("parquet", "jsonl", "csv"),
)
