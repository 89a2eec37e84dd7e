"""NeMo Automodel: the blocks `dataset`, `step_scheduler` and `domain_mixture` of a recipe, one YAML file per stage.

Automodel reads Megatron's data and blend (a weight is a share of sequences), and multiplies the loss of each domain by
objective_weight / sampling_weight. The objective weights are the mixture. By default domains are read by the mixture,
too, and all losses count alike. With --sampling text domains are read by the size of their text: then none is read more
often than another, and the multiplier makes up for it.

nemo-automodel 0.7.0 (components/datasets/llm/megatron_dataset.py, components/training/domain_mixture.py) requires that
order, paths and weights of `domain_mixture` are those of the blend, and that the blend is a list in the YAML. It
refuses a path to Megatron's JSON together with domain_mixture.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

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
from mixtures.files import parse_yaml

DATASET = "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining"
RESERVED = "weighted"  # Automodel's name for the aggregate over the domains
BLOCKS = ("dataset", "domain_mixture")  # blocks that replace those of the recipe


def write(job: Job) -> Output:
    """Return one YAML file per stage, and the views that these read.

    Raises UserError for a domain with a name that Automodel keeps for itself, a recipe that cannot be read, batch sizes
    that change, and views that cannot be made.
    """
    if RESERVED in job.paths:
        raise UserError(
            f"a domain is called {RESERVED!r}, which Automodel keeps for itself; rename the domain and export again"
        )
    recipe, sampled = (
        _recipe(job.options.get("recipe")),
        _by_text(job) if job.options.get("sampling") == "text" else job,
    )
    reading = plan_reading(sampled)
    batch = _batch(job)
    slots: list[Slot | None] = [*job.slots()] if batch else [None]
    out: dict[str, Content] = dict(reading.files)
    draws = []
    for number, (span, parts, slot) in enumerate(zip(job.spans, reading.parts, slots, strict=True)):
        name = f"stage-{stage_file(number, span)}.yaml" if len(job.spans) > 1 else "mixture.yaml"
        objective = job.unit_shares(span)
        out[name] = yaml.safe_dump(_filled(recipe, _blocks(job, parts, objective, slot, batch)), sort_keys=False)
        # a launch goes on where the checkpoint's data loader was, so a stage reads a window of its blend
        first = steps_before(job, batch) + slot.step if slot and batch else 0
        start, stop = (first * batch, (first + slot.steps) * batch) if slot and batch else (0, 10**9)
        tokens = (slot.start, slot.tokens) if slot else (span.start, span.tokens)
        drawn = domain_shares(parts, start=start, stop=stop)
        draws.append(Draw(drawn, *tokens, loss=None if sampled is job else _weighed(parts, drawn, objective)))
    return Output(
        out,
        draws,
        use=_use(job, [name for name in out if name.endswith(".yaml")]),
        notes=_notes(job, reading.restarting),
    )


def _by_text(job: Job) -> Job:
    """Return the job with weights that are the sizes of the domains' texts; every stage keeps its domains."""
    spans = []
    for span in job.spans:
        sizes = {name: job.texts[name].pass_tokens if name in span.used else 0.0 for name in span.weights}
        total = math.fsum(sizes.values())
        spans.append(replace(span, weights={name: size / total for name, size in sizes.items()}))
    return replace(job, spans=tuple(spans))


def _sampled(parts: Sequence[BlendPart]) -> dict[str, float]:
    """Return {domain: its share of the blend}, all of its prefixes together."""
    return {
        name: math.fsum(part.share for part in parts if part.domain == name)
        for name in dict.fromkeys(part.domain for part in parts)
    }


def _weighed(
    parts: Sequence[BlendPart], drawn: Mapping[str, float], objective: Mapping[str, float]
) -> dict[str, float]:
    """Return {domain: share of the loss}: what is drawn of the domain times its multiplier.

    Automodel computes the multiplier from the shares in the YAML.
    """
    sampled = _sampled(parts)
    weighed = {name: drawn[name] * objective[name] / sampled[name] for name in objective}
    total = math.fsum(weighed.values())
    return {name: share / total for name, share in weighed.items()}


def _batch(job: Job) -> int | None:
    """Return the sequences per step; None where the recipe is to say it.

    Raises UserError where there are several stages and not one number of sequences for all steps.
    """
    if job.batches is None and len(job.spans) == 1:
        return None
    if (size := job.require_batches().constant) is None:
        raise UserError(
            "Automodel has one global_batch_size for the whole run, no schedule of them; give one --batch-size"
        )
    return size


def _blocks(
    job: Job, parts: Sequence[BlendPart], objective: Mapping[str, float], slot: Slot | None, batch: int | None
) -> dict[str, Any]:
    """Return the recipe's blocks for one stage; max_steps counts from the beginning of the run."""
    dataset: dict[str, Any] = {
        "_target_": DATASET,
        "paths": {"train": [word for part in parts for word in (repr(part.share), part.prefix)]},
        "splits_to_build": "train",
    }
    if job.sequence_length:
        dataset["seq_length"] = job.sequence_length
    blocks: dict[str, Any] = {"dataset": dataset}
    if slot and batch:
        blocks["step_scheduler"] = {
            "global_batch_size": batch,
            "max_steps": steps_before(job, batch) + slot.step + slot.steps,
        }
    if len(parts) > 1:
        blocks["domain_mixture"] = {"domains": _domains(parts, objective)}
    return blocks


def _domains(parts: Sequence[BlendPart], objective: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the entries of `domain_mixture`, one per prefix, in the blend's order.

    An entry has the domain's name, numbered where the domain has several prefixes.
    """
    sampled = _sampled(parts)
    prefixes, seen, entries = Counter(part.domain for part in parts), Counter[str](), []
    for part in parts:
        seen[part.domain] += 1
        name = part.domain if prefixes[part.domain] == 1 else f"{part.domain}@{seen[part.domain]}"
        weight = objective[part.domain] * (part.share / sampled[part.domain])
        entries.append({"name": name, "sampling_weight": part.share, "objective_weight": weight, "path": part.prefix})
    return entries


def _recipe(path: str | None) -> dict[str, Any]:
    """Read the recipe that the blocks go into; empty without a path. Raises UserError where the file is no recipe."""
    if path is None:
        return {}
    try:
        recipe = parse_yaml(Path(path).read_text(encoding="utf-8"), f"--recipe {path}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"--recipe {path} cannot be read: {error}; give the YAML file that `automodel` is started with"
        ) from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("step_scheduler", {}), dict | None):
        raise UserError(
            f"--recipe {path} is no mapping of blocks (or its step_scheduler is none); give the YAML file that "
            "`automodel` is started with"
        )
    return recipe


def _filled(recipe: dict[str, Any], blocks: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe with the blocks: data and mixture replaced, the steps merged into its step_scheduler."""
    rest = {name: block for name, block in recipe.items() if name not in BLOCKS}
    steps = {**(rest.pop("step_scheduler", None) or {}), **blocks.get("step_scheduler", {})}
    return {
        **rest,
        **({"step_scheduler": steps} if steps else {}),
        **{name: blocks[name] for name in BLOCKS if name in blocks},
    }


def _use(job: Job, names: Sequence[str]) -> str:
    put = "" if "recipe" in job.options else "put the blocks into your recipe (or convert with --recipe FILE), then\n"
    lines = "\n".join(f"automodel {job.word(name)}" for name in names)
    staged = (
        "\none after another with the same checkpoint.checkpoint_dir; give lr_scheduler.lr_decay_steps, which "
        "otherwise end with a stage"
        if len(names) > 1
        else ""
    )
    by_text = job.options.get("sampling") == "text"
    multipliers = "" if by_text else "loss multipliers are 1, and the block may be left out: "
    return f"{put}{lines}{staged}\n{multipliers}domain_mixture takes no packing, pipeline or context parallelism"


def _notes(job: Job, restarting: frozenset[str]) -> list[str]:
    notes = read_again(job, restarting)
    if job.options.get("sampling") == "text":
        notes.append(
            "given is the share of the loss: domains are read by the size of their text, and their losses are weighed"
        )
    if job.mixture.horizon.start_tokens and job.batches:
        notes.append("max_steps counts from the beginning of the run, as if all of it had this batch size")
    return notes


FORMAT = Format(
    name="automodel",
    trainers="NeMo Automodel",
    unit="sequence",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="nemo-automodel 0.7.0: its recipe reader, domain_mixture, datasets and data loader",
    samples=("filter", "multiplicity"),
    options=("recipe", "sampling"),
    most_domains=32_766,
    reads=("megatron",),
    parts=lambda path: (f"{path}.bin", f"{path}.idx"),
)
