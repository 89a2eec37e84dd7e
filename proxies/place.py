"""This process: its rank and device, sums over all processes, and what the main process decides for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from doge.grouped import Autocast
from mixtures.errors import UserError

Value = TypeVar("Value")


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
