"""Checkpoints: everything that the next step depends on, in a directory that appears complete or not at all.

Rows and dropout's random numbers are functions of (seed, step). A checkpoint therefore needs the number of the step,
but no position in the data and no random state. With P parameters it takes 12 P bytes (weights and Adam's two moments
in float32).

Every checkpoint has `_SHA256SUMS` (`mixtures.sums`): the id of its run, and the hashes of its files, which are checked
before it is loaded.
"""

import pickle
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel

import doge
from mixtures.boundary import remedy
from mixtures.errors import UserError
from mixtures.files import atomic_dir
from mixtures.sums import NAME, add_sums, fault_of, read_sums

STATE = "state.pt"
DAMAGED = (  # what torch, safetensors and transformers raise for files whose bytes were changed
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
    StrictDataclassError,
)


class HasState(Protocol):
    """Anything with a state to save and load: an optimizer or a scheduler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the directories of a run's finished checkpoints, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def newest(run_dir: Path) -> Path | None:
    """Return the directory of the last finished checkpoint; None if there is none."""
    return max(checkpoints(run_dir), default=None)


def fault(path: Path, *, run_id: str | None) -> str | None:
    """Return what keeps a checkpoint from being one of this run, whole and unchanged; None if nothing does.

    Every file is read. Checkpoints of earlier versions, whose run has no id (None), cannot be checked.
    """
    if run_id is None:
        return None
    try:
        sums = read_sums(path, run_id=run_id)
    except UserError as error:
        return str(error)
    if not sums:
        return f"{path} has no {NAME}: it is damaged, or comes from another run"
    faults = ((name, fault_of(path / name, digest)) for name, digest in sums.items())
    return next((f"{path / name} {found}" for name, found in faults if found), None)


def choose(run_dir: Path, *, run_id: str | None) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, and what is wrong with the newer ones; None if there is none at all.

    Raises UserError if there are checkpoints, but none of them is whole.
    """
    faults: list[str] = []
    for path in reversed(checkpoints(run_dir)):
        if (found := fault(path, run_id=run_id)) is None:
            return path, faults
        faults.append(found)
    if faults:
        raise UserError(
            "no checkpoint can be used:\n"
            + "\n".join(f"  - {found}" for found in faults)
            + f"\nrestore one from a copy, or remove {run_dir / 'checkpoints'}: --resume then starts from step 0"
        )
    return None, faults


def set_aside(run_dir: Path, *, after: Path) -> None:
    """Rename the checkpoints that are newer than `after` to `damaged-step-*`, which no command reads or removes."""
    for path in checkpoints(run_dir):
        if path > after:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def save(
    run_dir: Path,
    step: int,
    *,
    run_id: str | None,
    model: PreTrainedModel,
    optimizer: HasState,
    scheduler: HasState,
    rule: doge.State,
    keep: int,
) -> Path:
    """Write the checkpoint `checkpoints/step-SSSSSSSS`, remove all but the newest `keep`, and return its directory.

    The model is saved in Hugging Face's format (`from_pretrained` reads it). Raises UserError if the disk is full or
    the directory cannot be written; the older checkpoints then stay untouched.
    """
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    if path.exists():  # this run was resumed from this checkpoint
        return path
    try:
        with atomic_dir(path) as directory:
            model.save_pretrained(directory)
            state = {
                "step": step,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "rule": {name: getattr(rule, name) for name in rule.__dataclass_fields__},
            }
            torch.save(state, directory / STATE)
            add_sums(directory, [file.name for file in directory.iterdir()], run_id=run_id)
    except (OSError, RuntimeError, SafetensorError) as error:  # the libraries' own errors hide the system's
        raise UserError(
            f"{path} could not be written ({error}); the last good checkpoint is {newest(run_dir) or 'none'}; "
            f"{remedy(error)}, and continue with --resume"
        ) from error
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    return path


def load(path: Path, *, model: PreTrainedModel, optimizer: HasState, scheduler: HasState) -> tuple[int, doge.State]:
    """Load a checkpoint into model, optimizer and scheduler; return its step and the state of the update rule.

    Raises UserError for a damaged checkpoint.
    """
    try:
        # To the CPU: the optimizer moves its moments itself, and Adam's `step` stays there, where it costs no sync.
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        model.load_state_dict(read_model(path, like=model).state_dict())
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        step, rule_state = int(state["step"]), doge.State(**state["rule"])
    except DAMAGED as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove that directory and --resume from the checkpoint before it"
        ) from error
    return step, rule_state


def read_model(path: Path, *, like: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the config of `like` and the weights of a checkpoint, in float32 on the CPU.

    The config does not come from the checkpoint: without a config.json, transformers would build a model of its default
    size. Raises one of DAMAGED for a checkpoint that is not whole.
    """
    if not (path / "config.json").is_file():
        raise OSError("it has no config.json")
    model, loaded = type(like).from_pretrained(
        path, config=like.config, dtype=torch.float32, output_loading_info=True, use_safetensors=True
    )
    if lost := sorted(loaded["missing_keys"]):  # transformers drew them at random
        raise ValueError(f"its weights lack {', '.join(lost)}")
    return model
