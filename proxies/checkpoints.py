"""Checkpoints: everything that the next step depends on, there whole or not at all (one rename).

Rows are a function of (seed, step), and so are dropout's random numbers; a checkpoint therefore needs no data cursor
and no random state beside the step's number. With P parameters it takes 12 P bytes (weights and Adam's two moments in
float32).
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

import doge
from mixtures.errors import UserError
from mixtures.files import atomic_dir

STATE = "state.pt"


class HasState(Protocol):
    """An optimizer or a scheduler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def checkpoints(run_dir: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def newest(run_dir: Path) -> Path | None:
    """The last finished checkpoint, None where there is none."""
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
    """Write `checkpoints/step-SSSSSSSS` and remove all but the newest `keep`.

    The model is saved as Hugging Face does (`from_pretrained` reads it). Raises UserError where the disk is full or
    refuses; the older checkpoints are untouched then.
    """
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    if path.exists():  # the one that this run was resumed from
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
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        raise UserError(
            f"{path} could not be written ({error}); the last good checkpoint is {newest(run_dir) or 'none'}. "
            "Free some disk space and continue with --resume"
        ) from error
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    return path


def load(
    path: Path, *, model: PreTrainedModel, optimizer: HasState, scheduler: HasState, device: torch.device
) -> tuple[int, doge.State]:
    """Put a checkpoint into model, optimizer and scheduler; returns its step and the rule's state. UserError if it is
    damaged.
    """
    try:
        state = torch.load(path / STATE, map_location=device, weights_only=True)
        weights = type(model).from_pretrained(path, dtype=torch.float32).state_dict()
        model.load_state_dict(weights)
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
