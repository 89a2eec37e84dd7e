"""This process: its rank and device, sums over all processes, and what the main process decides for all."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor

from doge.grouped import Autocast
from mixtures.errors import UserError

Value = TypeVar("Value")
WAIT = timedelta(days=7)  # how long processes wait for each other, for example while the first one tokenizes all text


@dataclass(frozen=True)
class Place:
    """The process that a step runs in.

    rank, processes:  number of this process (from 0), and how many there are.
    device:           the device that it computes on.
    reduce:           function that sums a tensor over all processes; None if there is one process.
    autocast:         context of the forward pass, which sets its precision.
    """

    rank: int
    processes: int
    device: torch.device
    reduce: Callable[[Tensor], Tensor] | None
    autocast: Autocast

    def largest(self, number: int) -> int:
        """Return the largest of all processes' numbers, in every process."""
        if self.reduce is None:
            return number
        numbers = torch.zeros(self.processes, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        return int(self.reduce(numbers).max())


def make_accelerator(precision: str, **options: Any) -> Accelerator:
    """Return the accelerator of a command, whose processes wait for each other as long as tokenizing may take (WAIT).

    precision: as `train.precision`. options: further arguments of `Accelerator`.
    """
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        **options,
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's random numbers, which dropout draws, from seed, step and rank. Any seed of the settings will do."""
    torch.manual_seed((seed * 1_000_003 + step * 1_009 + rank) % 2**63)


def place_of(accelerator: Accelerator) -> Place:
    """Return the rank, device, reduction and autocast of this process, as accelerate set them up."""
    return Place(
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        device=accelerator.device,
        reduce=all_reduce if accelerator.num_processes > 1 else None,
        autocast=accelerator.autocast,
    )


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it; the bits are the same in every process."""
    torch.distributed.all_reduce(tensor)
    return tensor


def agree(value: Value, accelerator: Accelerator) -> Value:
    """Return the main process's value, in every process."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def decide(choose: Callable[[], Value], accelerator: Accelerator) -> Value:
    """Return what `choose()` returns in the main process, in every process; its UserError is raised in every process.

    For what a process finds on disk while another command writes there: only the main process looks.
    """
    chosen: list[Value | UserError] = []
    if accelerator.is_main_process:
        try:
            chosen.append(choose())
        except UserError as error:
            chosen.append(error)
    choice = agree(chosen, accelerator)[0]
    if isinstance(choice, UserError):
        raise choice
    return choice
