"""Checkpoints: everything that the next step depends on, in a directory that appears complete or not at all.

Rows and dropout's random numbers are functions of (seed, step). A checkpoint therefore needs the number of the step,
but no position in the data and no random state. With P parameters it takes 12 P bytes (weights and Adam's two moments
in float32).
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

import doge
from mixtures.boundary import remedy
from mixtures.errors import UserError
from mixtures.files import atomic_dir

STATE = "state.pt"


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


def save(
    run_dir: Path,
    step: int,
    *,
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
    except (OSError, RuntimeError, SafetensorError) as error:  # the libraries' own errors hide the system's
        raise UserError(
            f"{path} could not be written ({error}); the last good checkpoint is {newest(run_dir) or 'none'}; "
            f"{remedy(error)}, and continue with --resume"
        ) from error
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    return path


def load(
    path: Path, *, model: PreTrainedModel, optimizer: HasState, scheduler: HasState, device: torch.device
) -> tuple[int, doge.State]:
    """Load a checkpoint into model, optimizer and scheduler; return its step and the state of the update rule.

    Raises UserError for a damaged checkpoint.
    """
    try:
        state = torch.load(path / STATE, map_location=device, weights_only=True)
        saved, loaded = type(model).from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        if lost := sorted(loaded["missing_keys"]):  # transformers drew them at random
            raise ValueError(f"its weights lack {', '.join(lost)}")
        model.load_state_dict(saved.state_dict())
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        rule: dict[str, Any] = {
            name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in state["rule"].items()
        }
        step, rule_state = int(state["step"]), doge.State(**rule)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove that directory and --resume from the checkpoint before it"
        ) from error
    return step, rule_state
