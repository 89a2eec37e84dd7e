"""Sums in float64: exact in chunks, and the same on a device that has no float64."""

import pytest
import torch

import doge
from doge import sums
from doge.row_products import mean_gradient, products_with, row_products, word_products
from proxies.step import split
from tests.doge.helpers import make_model, make_rows
from tests.doge.test_algorithm import COEFFICIENTS, G, N
from tests.no_float64 import no_float64

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("entries", [0, 1, 100, sums.CHUNK, sums.CHUNK + 1, 3 * sums.CHUNK - 1])
def test_sums_without_float64_are_those_with_it(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 3, entries, generator=torch.Generator().manual_seed(0))
    wanted = x.double().sum(-1)
    assert torch.equal(sums.total(x), x.sum(-1, dtype=torch.float64))
    with no_float64(monkeypatch) as device:
        assert torch.allclose(sums.total(x.to(device)), wanted, rtol=1e-6)
        assert torch.allclose(sums.mean(x.to(device)), wanted / entries, rtol=1e-6, equal_nan=True)
        assert torch.equal(sums.widened(x.to(device)), x.double())


def test_a_sum_over_many_chunks_loses_nothing_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_float64(monkeypatch) as device:  # float32 has no 2^24 + 1
        assert sums.total(torch.ones(2**24 + 3, device=device)).item() == 2**24 + 3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama-tied-bias", "opt", "gemma"])
def test_row_scores_and_products_need_no_float64(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(device: torch.device) -> list[torch.Tensor]:
        model = make_model(family, dtype=torch.float32).to(device)
        rows, lengths = make_rows(6).to(device), torch.tensor([12, 9, 1, 12, 12, 5]).to(device)
        scores = doge.row_scores(model, rows, scopes=["all", "head", "word_embedding"], lengths=lengths)
        words = word_products(model, rows[:2], rows[2:], positions=3)
        return [
            *scores.squared_norms.values(),
            sums.widened(scores.token_losses),
            row_products(model, rows[:2], rows[2:]),
            products_with(model, rows, mean_gradient(model, rows), lengths=lengths),
            words.words,
            words.products,
        ]

    wanted = scored(torch.device("cpu"))
    with no_float64(monkeypatch) as device:
        got = scored(device)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("online", "lagged", "slices"), [(False, True, 1), (False, False, 2), (True, True, 1)])
def test_a_step_needs_no_float64(online: bool, lagged: bool, slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(device: torch.device) -> list[torch.Tensor]:
        model = make_model(dtype=torch.float32).to(device)
        metric = {p: 1 + p.detach().abs() for p in model.parameters()}
        step = doge.GroupGradients(model, groups=G, halves=2).step(
            split(make_rows(G * N).view(G, N, -1).to(device), halves=2, slices=slices),
            decide=lambda losses, gram: COEFFICIENTS,
            lagged=COEFFICIENTS if lagged else None,
            metric=lambda parameter, part: metric[parameter][part],
            presence=doge.Presence(1.0, domains=2, scope="all") if online else None,
        )
        gradients = [sums.widened(p.grad) for p in model.parameters()]
        weights = [] if step.sample_weights is None else [step.sample_weights]
        return [step.losses, step.gram.products, step.gram.norms, step.gram.self_products, *weights, *gradients]

    wanted = stepped(torch.device("cpu"))
    with no_float64(monkeypatch) as device:
        got = stepped(device)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, **TOLERANCE)
