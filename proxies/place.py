"""This process: its rank and device, and sums over all processes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from doge.grouped import Autocast


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
