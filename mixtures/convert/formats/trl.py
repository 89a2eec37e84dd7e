"""TRL's `datasets:` list, for `trl sft` and its other scripts: exact rows of every domain, which the trainer shuffles.

TRL's own `fraction` is not used: it keeps the first rows of every dataset, cuts the whole mixture to what the scarcest
domain has, and repeats no domain. A `split` such as `train[100:200]` says the same share in rows, and a domain can be
listed again for another pass.
"""

from typing import Any

import yaml

from mixtures.convert.job import Job, Output
from mixtures.convert.rows import Slices, as_draws, reader_of, row_slices
from mixtures.convert.sources import TEXT, one_text_column
from mixtures.convert.table import Format


def write(job: Job) -> Output:
    """Return one YAML file per stage; in every domain a stage goes on where the stage before it ended.

    Raises UserError where the text of the domains is in columns of several names, as TRL has one for all.
    """
    column = _column(job)
    field = {} if column == TEXT or job.unit == "sequence" else {"dataset_text_field": column}
    spans, counted = row_slices(job)
    names = ["trl.yaml"] if len(spans) == 1 else [f"trl_stage_{number}.yaml" for number in range(1, len(spans) + 1)]
    configs = [
        {"datasets": _datasets(job, slices, column), "streaming": False, "num_train_epochs": 1, **field}
        for slices in spans
    ]
    lines = [f"trl sft --config {job.word(names[0])} --model_name_or_path MODEL --output_dir OUT_1 ..."]
    lines += [
        f"trl sft --config {job.word(name)} --model_name_or_path OUT_{number - 1} --output_dir OUT_{number} ..."
        for number, name in enumerate(names[1:], start=2)
    ]
    return Output(
        files={name: yaml.safe_dump(config, sort_keys=False) for name, config in zip(names, configs, strict=True)},
        draws=as_draws(job, spans),
        use="\n".join(lines),
        notes=[*counted, *_notes(job)],
        remedy="train on more tokens, so that a row counts for less, or take `--to hf` and give its stream to TRL's "
        "trainer",
    )


def _column(job: Job) -> str:
    """Return the column that TRL is given: the text, or with --packed the tokens, in all domains."""
    if job.unit == "sequence":
        return str(job.options.get("column", TEXT))
    return one_text_column(job, trainer="TRL")


def _datasets(job: Job, slices: Slices, column: str) -> list[dict[str, Any]]:
    return [
        {
            "path": reader_of(job.paths[name][0], name),
            "data_files": list(job.paths[name]),
            "split": f"train[{low}:{high}]",
            "columns": [column],
        }
        for name, parts in slices.items()
        for low, high in parts
    ]


def _notes(job: Job) -> list[str]:
    notes = ["give num_train_epochs: 1 as it stands; another number repeats the whole stage"]
    if job.unit == "document" and job.document_limit is None:
        notes.append(
            "rows beyond TRL's max_length are cut or split: give --max-document-tokens with its value where packing "
            "cuts them"
        )
    if len(job.spans) > 1:
        notes.append(
            "every stage is a launch of its own, with a fresh optimizer and learning-rate schedule; one run over all "
            "stages: `--to hf`, its stream given to TRL's trainer"
        )
    return notes


FORMAT = Format(
    name="trl",
    trainers="TRL's scripts (trl sft, ...)",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="trl 1.16.0: its YAML reader, get_dataset and SFTTrainer",
    packable=True,
    options=("column",),
    reads=("parquet", "jsonl", "csv"),
)
