"""Where a step runs: one process of several, its device, sums over processes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from doge.grouped import Autocast


@dataclass(frozen=True)
class Place:
    """Where a step runs: this process (number `rank` of `processes`), its device, and `reduce`, the sum over processes
    (None: one).
    """

    rank: int
    processes: int
    device: torch.device
    reduce: Callable[[Tensor], Tensor] | None
    autocast: Autocast


def place_of(accelerator: Accelerator) -> Place:
    """Return where this process of the accelerator's group runs."""
    return Place(
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        device=accelerator.device,
        reduce=all_reduce if accelerator.num_processes > 1 else None,
        autocast=accelerator.autocast,
    )


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum over processes, in place, the same bits in each."""
    torch.distributed.all_reduce(tensor)
    return tensor
