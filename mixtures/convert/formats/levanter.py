"""Levanter and Marin: one YAML with `train_weights`, which gives every domain a weight from a step (from 0) on.

Levanter draws blocks of `mixture_block_size` sequences. In each block every domain has a fixed number of sequences: its
share of the block, rounded down, and the largest domain also gets the rest. A stage can only begin where a block does.
At the start of a stage every domain goes on where it was. A domain that was read to its end begins anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from mixtures.convert.formats.levanter_blocks import BlockPlan, choose, counts, excess, remedy, scatter
from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.sources import TEXT as TEXT_COLUMN
from mixtures.convert.sources import text_columns
from mixtures.convert.steps import Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError

TEXT = {".jsonl", ".json", ".parquet"}


def write(job: Job) -> Output:
    """Return levanter.yaml (domains under `configs`) and marin.yaml (under `components`), the same mixture twice.

    Raises UserError where a stage cannot begin with a block, and for data that are neither text files nor one cache.
    """
    if len(job.spans) > 1:
        job.require_batches()
    plan = choose(job)
    weights = [
        [slot.step, {name: shares[name] for name in job.paths}]
        for slot, shares in zip(plan.slots, plan.weights, strict=True)
    ]
    sources = {name: _source(name, paths) for name, paths in job.paths.items()}
    formats = _text_formats(job, [name for name, source in sources.items() if "train_urls" in source])
    components = {name: _component(source) | formats.get(name, {}) for name, source in sources.items()}
    sources = {name: source | formats.get(name, {}) for name, source in sources.items()}
    common = {
        "train_weights": weights if len(weights) > 1 else weights[0][1],
        "mixture_block_size": plan.block,
        "stop_strategy": "restart",
        "tokenizer": job.options.get("tokenizer", job.mixture.tokenizer.name),
        "shuffle": True,
        "permutation_type": "feistel",
    }
    tail = _trainer(job, plan.slots) | {"data_seed": job.seed}
    length = (
        f"; seq_len of the model (in Marin max_seq_len) must be {job.sequence_length}" if job.sequence_length else ""
    )
    return Output(
        files={
            "levanter.yaml": _text({"data": {"configs": sources, **common}, **tail}),
            "marin.yaml": _text({"data": {"components": components, **common}, **tail}),
        },
        draws=[
            Draw(
                {name: count / plan.block for name, count in counts(shares, plan.block).items() if count},
                slot.start,
                slot.tokens,
            )
            for slot, shares in zip(plan.slots, plan.weights, strict=True)
        ],
        use=f"add `model:` and `optimizer:` to levanter.yaml (in Marin's copy of Levanter: marin.yaml){length}, then\n"
        f"python -m levanter.main.train_lm --config_path {job.word('levanter.yaml')}",
        notes=[
            f"each block of {plan.block:,} sequences has the same shares; a stage starts with a block",
            *_end_note(job, plan),
            *_tokenizer_note(job),
            "shuffle: true reads every domain in a random order, the same in every epoch; Levanter's own default is "
            "the order of the files",
        ],
        remedy=remedy(job, plan),
    )


def _end_note(job: Job, plan: BlockPlan) -> list[str]:
    if not excess(job, plan):
        return []
    most = max(scatter(job, plan).values())
    return [f"the run ends inside a block, so that shares of the last stage may be off by another {most:.2g} (2 sd)"]


def _tokenizer_note(job: Job) -> list[str]:
    if "tokenizer" in job.options:
        return []
    return [
        f"tokenizer: {job.mixture.tokenizer.name} is the mixture's name of it; where Levanter is to load it by "
        f"another, give --tokenizer"
    ]


def _source(name: str, paths: tuple[str, ...]) -> dict[str, Any]:
    """Return where the data of a domain are: text files, or one directory of a token cache that Levanter built."""
    if all(is_text(path) for path in paths):
        return {"train_urls": list(paths)}
    if len(paths) > 1:
        raise UserError(
            f"{name}: {', '.join(paths)}: give text files ({', '.join(sorted(TEXT))}), or one directory of a "
            f"Levanter cache"
        )
    return {"cache_dir": paths[0]}


def _text_formats(job: Job, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {name: {"format": ...}} of the domains `names` whose text is in another column than Levanter's own."""
    texts = replace(job, paths={name: job.paths[name] for name in names})
    return {
        name: {"format": {"type": "text", "text_key": column}}
        for name, column in text_columns(texts).items()
        if column != TEXT_COLUMN
    }


def _component(source: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": {"type": "url", **source}} if "train_urls" in source else dict(source)


def is_text(path: str) -> bool:
    """Say whether the path is a file of text that Levanter tokenizes, or a pattern for such files."""
    return bool(TEXT & set(PurePosixPath(path).suffixes[-2:]))


def _parts(path: str) -> tuple[str, ...]:
    return (path,) if is_text(path) else (f"{path}/train/shard_ledger.json",)


def _trainer(job: Job, slots: list[Slot]) -> dict[str, Any]:
    """Return the trainer's batch size and number of steps; empty where they are not known."""
    if job.batches is None:
        return {}
    sizes: Any = [{"start": step, "value": size} for step, _, size in job.batches.by_step]
    return {
        "trainer": {
            "train_batch_size": job.batches.constant or sizes,
            "num_train_steps": slots[-1].step + slots[-1].steps,
        }
    }


def _text(record: Mapping[str, Any]) -> str:
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=140)


FORMAT = Format(
    name="levanter",
    trainers="Levanter, Marin",
    unit="sequence",
    write=write,
    stages="native",
    zero_weights="kept",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="levanter 1.2.dev1644: its MixtureDataset and train_lm",
    options=("block_size", "tokenizer", "column"),
    reads=("jsonl", "parquet"),
    parts=_parts,
)
