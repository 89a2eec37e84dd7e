"""`doge.rules`: what a layer cannot do is no rule; what goes wrong for another reason is not taken for that."""

import pytest
import torch
from torch import Tensor, nn

from doge.rules import find_rule


class Norm(nn.Module):
    """An RMSNorm whose forward first raises `error`, if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Gated(Norm):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x) * torch.sigmoid(gate.to(x.dtype))  # type: ignore[union-attr]


class TwoInputs(Norm):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().forward(x) * gate


class FourAxes(Norm):
    def forward(self, x: Tensor) -> Tensor:
        rows, heads, tokens, width = x.shape
        return super().forward(x.view(rows, heads, tokens, width))


class ThirdAxis(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / x.shape[2]


class Pair(Norm):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


def test_a_norm_has_a_rule() -> None:
    assert find_rule(Norm()) is not None


@pytest.mark.parametrize("kind", [Gated, TwoInputs, FourAxes, ThirdAxis, Pair])
def test_a_layer_that_needs_other_inputs_has_no_rule(kind: type[Norm]) -> None:
    assert find_rule(kind()) is None


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), KeyError("key"), AssertionError("shape"), ZeroDivisionError(), OSError()]
)
def test_another_error_of_a_layer_is_not_taken_for_no_rule(error: Exception) -> None:
    with pytest.raises(type(error)):
        find_rule(Norm(error))


def test_a_broken_device_is_not_taken_for_no_rule() -> None:
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("torch reports it as a RuntimeError before 2.8")
    with pytest.raises(torch.AcceleratorError):
        find_rule(Norm(torch.AcceleratorError("device-side assert")))
