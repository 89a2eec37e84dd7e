"""A device without float64, played by the CPU: tensors with real numbers and the limits of Apple's MPS.

Its tensors say that they are on `meta`, a device that every build of torch has. They hold their numbers on the CPU, so
that whole commands run, also where they ask for numbers, and find what they find on the CPU. As on MPS, it is an error
to make a float64 tensor on the device, to move and widen a tensor at once, and to mix its tensors with the CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from doge import sums

DEVICE = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # these take indices on the CPU


class OnDevice(Tensor):
    """A tensor on the device; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        if held.dtype == torch.float64:
            raise TypeError("the device has no float64")
        tensor = Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), dtype=held.dtype, device=DEVICE)
        tensor.held = held
        return tensor

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        alone = OnDevice not in types and kwargs.get("device", "cpu") in (None, "cpu", torch.device("cpu"))
        return func(*args, **kwargs) if alone else _run(func, args, kwargs)


@contextmanager
def no_float64(patch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Open a context in which tensors can be made on the device, or moved to it; give the device."""
    patch.setattr(sums, "WITHOUT_FLOAT64", frozenset({DEVICE.type}))
    patch.setattr(
        torch.__future__, "_swap_module_params_on_conversion", True
    )  # else Module.to takes tied weights apart
    with _Device():
        yield DEVICE


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    asked = kwargs.get("device")
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    mine = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}
    if mine and func in COPIES:
        target = kwargs.get("dtype") or args[0].dtype
        if target == torch.float64:
            raise TypeError(f"{func}: a tensor of the device is widened to float64")
    elif mine and func not in INDEXED:
        others = [x for x in tensors if not isinstance(x, OnDevice)]
        if any(x.ndim or x.dtype == torch.float64 for x in others):
            raise RuntimeError(f"{func}: tensors are on the CPU and on the device")
    if func is torch.ops.aten.baddbmm.out and kwargs.get("beta") == 0:
        args[0].held.fill_(torch.nan)  # MPS multiplies what was in the memory by beta
        kwargs = {**kwargs, "beta": 1}
    there = bool(mine) if asked is None else torch.device(asked).type == DEVICE.type
    inner = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    args, inner = tree_map(lambda x: x.held if isinstance(x, OnDevice) else x, (args, inner))
    result = func(*args, **inner)

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in mine:  # an operation in place returns its argument
            return mine[id(x)]
        return OnDevice(x) if there else x

    return tree_map(outer, result)
