"""Sums in float64, also over tensors of a device that has no float64 (Apple's MPS).

Such a device sums CHUNK entries at a time in float32; these sums are moved to the CPU and added there in float64. On
any other device nothing is moved, and all is summed in float64 at once.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 16384  # entries that are summed in float32 at a time, where not all is summed in float64
WITHOUT_FLOAT64 = frozenset({"mps"})  # types of devices


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def keeper(device: torch.device) -> torch.device:
    """Return the device that keeps float64 sums over tensors of `device`: itself, or the CPU if it has no float64."""
    return torch.device("cpu") if widest(device) != torch.float64 else device


def zeros(*shape: int, device: torch.device) -> Tensor:
    """Return zeros in float64, to which sums over tensors of `device` are added, on the device that keeps them."""
    return torch.zeros(shape, dtype=torch.float64, device=keeper(device))


def widened(x: Tensor) -> Tensor:
    """Return x in float64, on the device that keeps its sums."""
    return x.to(keeper(x.device)).double()  # in this order: a device without float64 cannot do both at once


def total(x: Float[Tensor, "*B n"]) -> Float[Tensor, "*B"]:
    """Return the sums over the last axis, in float64."""
    if widest(x.device) == torch.float64:
        return x.sum(-1, dtype=torch.float64)
    chunks = x.shape[-1] // CHUNK
    whole, rest = x.split([chunks * CHUNK, x.shape[-1] - chunks * CHUNK], -1)
    parts = [whole.unflatten(-1, (chunks, CHUNK)).sum(-1, dtype=torch.float32), rest.sum(-1, True, dtype=torch.float32)]
    return widened(torch.cat(parts, -1)).sum(-1)


def mean(x: Float[Tensor, "*B n"]) -> Float[Tensor, "*B"]:
    """Return the means over the last axis, in float64."""
    return x.mean(-1, dtype=torch.float64) if widest(x.device) == torch.float64 else total(x) / x.shape[-1]
