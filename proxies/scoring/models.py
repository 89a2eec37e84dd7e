"""Choice of the checkpoints that score, and their models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mixtures.errors import UserError, quoted
from mixtures.run.trajectory import read_trajectory
from mixtures.samples.scores import Checkpoint
from mixtures.sums import read_run_id
from proxies import checkpoints
from proxies.corpus.corpus import CorpusData
from proxies.models import build_model
from proxies.settings import Settings

VOLATILE = {"_name_or_path", "transformers_version", "architectures", "dtype"}  # config keys that may differ


@dataclass(frozen=True)
class ScoredCheckpoint:
    """Directory of a checkpoint, and what is recorded about it."""

    path: Path
    record: Checkpoint


def choose_checkpoints(run_dir: Path, wanted: Sequence[str]) -> list[ScoredCheckpoint]:
    """Return the checkpoints that `wanted` names (last, all, steps), oldest first, with their steps' learning rates.

    Raises UserError for a run without checkpoints, for steps without one, listing the steps that have one, and for
    checkpoints that are damaged or of another run.
    """
    paths = {int(path.name.removeprefix("step-")): path for path in checkpoints.checkpoints(run_dir)}
    if not paths:
        raise UserError(
            f"{run_dir} has no checkpoint (checkpoints/step-*) to score with; a run saves one every train.save_every "
            "steps and at its end: continue the run with --resume, or restore its checkpoints"
        )
    steps = {max(paths) if word == "last" else int(word) for word in wanted if word != "all"} | (
        set(paths) if "all" in wanted else set()
    )
    if unknown := sorted(steps - set(paths)):
        raise UserError(
            f"{run_dir} has no checkpoint of step {', '.join(map(str, unknown))}; allowed: "
            f"{', '.join(map(str, paths))}, last, all (train.keep_checkpoints says how many are kept)"
        )
    run_id = read_run_id(run_dir)
    if faults := [fault for step in sorted(steps) if (fault := checkpoints.fault(paths[step], run_id=run_id))]:
        raise UserError(
            "\n".join(faults) + "\nrestore the checkpoint, make it again with `proxies.train --resume`, or score with "
            "another one (--checkpoints)"
        )
    frame = read_trajectory(run_dir, run_id=run_id).frame
    lrs = dict(zip(frame["step"], frame["lr"], strict=True))
    if lost := [step for step in sorted(steps) if step not in lrs]:
        raise UserError(
            f"the trajectory of {run_dir} ends before step {lost[0]}, although the run has a checkpoint of that step; "
            "restore the trajectory from a copy"
        )
    return [ScoredCheckpoint(paths[step], Checkpoint(step=step, lr=lrs[step])) for step in sorted(steps)]


def load_models(
    settings: Settings, corpus: CorpusData, found: Sequence[ScoredCheckpoint], *, device: torch.device
) -> list[PreTrainedModel]:
    """Load the checkpoints' models to the device, in evaluation mode and float32.

    Raises UserError for a checkpoint that is damaged or not of this run's model.
    """
    expected = build_model(
        settings.model,
        vocab_size=corpus.vocab_size,
        eos_id=corpus.eos_id,
        row_tokens=corpus.row_tokens,
        seed=settings.seed,
    )
    return [_load(expected, checkpoint.path).to(device).eval() for checkpoint in found]


def _load(expected: PreTrainedModel, path: Path) -> PreTrainedModel:
    try:
        config, _ = PretrainedConfig.get_config_dict(path)
        if not config:
            raise OSError("it has no config.json")
        changed = _differences(expected.config, config)
        if not changed:
            return checkpoints.read_model(path, like=expected)
    except checkpoints.DAMAGED as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or score with another checkpoint (--checkpoints)"
        ) from error
    raise UserError(
        f"{path} is not a checkpoint of this run's model (the run's -> the checkpoint's):\n"
        + "\n".join(f"  {line}" for line in changed)
        + "\nrestore it, or score with another checkpoint (--checkpoints)"
    )


def _differences(run: PretrainedConfig, checkpoint: dict[str, Any]) -> list[str]:
    """Return the differences of a checkpoint's config.json from the run's, one line per key."""
    if run.model_type != (kind := checkpoint.get("model_type")):
        return [f"model_type: {quoted(run.model_type)} -> {quoted(kind)}"]
    before, after = run.to_dict(), type(run).from_dict(checkpoint).to_dict()
    keys = [key for key in {**before, **after} if key not in VOLATILE]
    return [
        f"{key}: {quoted(before.get(key))} -> {quoted(after.get(key))}"
        for key in keys
        if before.get(key) != after.get(key)
    ]
