"""This process and the others: rank, device, sums, what the main process decides for all, and who is still there."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
LAUNCHED = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND")  # torchrun and accelerate launch set them for us


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


def follow_launcher() -> None:
    """Send this process a SIGTERM as soon as the launcher that started it is gone. Without a launcher, do nothing.

    A launcher that is killed (by a scheduler, or for memory) cannot stop its processes, which would train on, unseen.
    """
    if not any(name in os.environ for name in LAUNCHED):
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def leave_group() -> None:
    """End the gloo threads of this process, where a command ended before it left its group; else do nothing.

    Such a thread may still hold the tensor of the last sum. If it lets go of it while Python ends, the process aborts:
    "terminate called without an active exception", and 134 instead of its exit code.
    """
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    if group and torch.distributed.get_backend() == "gloo":  # NCCL would wait here for processes that are gone
        torch.distributed.destroy_process_group()


@contextmanager
def ending_alone(
    place: Place, *, seconds: int, remedy: str = "Finished checkpoints are kept; continue with --resume"
) -> Iterator[Callable[[], None]]:
    """Give a function to call after every step; without a call for `seconds`, this process ends with a message.

    A process that is stopped or hangs leaves the others waiting for it. Only time in which this process itself runs
    counts. With one process, or 0 seconds, nothing is watched. The exit code is 1.

    remedy: the end of the message: what is kept, and how to go on.
    """
    if place.processes == 1 or not seconds:
        yield lambda: None
        return
    steps, over = [0], threading.Event()

    def watch() -> None:
        waited, seen = 0, 0
        while not over.wait(1):
            waited = waited + 1 if steps[0] == seen else 0
            seen = steps[0]
            if waited >= seconds:
                print(
                    f"\nerror: process {place.rank} of {place.processes} waited {seconds} s (train.timeout) for a step "
                    f"to end: another process is stopped, hangs or is gone. {remedy}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)  # the main thread waits for the others, which nothing else ends

    def count() -> None:
        steps[0] += 1

    threading.Thread(target=watch, name="timeout", daemon=True).start()
    try:
        yield count
    finally:
        over.set()
