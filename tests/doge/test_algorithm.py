"""A step of DoGE: gram, unbiased diagonal and combined gradient do not depend on how the rows were split."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

import doge
from proxies.step import split
from tests.doge.helpers import FAMILIES, make_model, make_rows, slow_gradients

G, N, D = 3, 4, 2  # two training domains and a group that only serves the objective
COEFFICIENTS = torch.tensor([0.7, 0.2], dtype=torch.float64)


def run(
    model: nn.Module,
    batch: Tensor,
    *,
    halves: int = 2,
    slices: int = 1,
    lagged: bool = False,
    metric: dict | None = None,
) -> tuple[doge.Step, dict[str, Tensor]]:
    """Step on the batch (G, N, T); returns losses and gram, and every parameter's combined gradient."""
    engine = doge.GroupGradients(model, groups=len(batch), halves=halves)
    step = engine.step(
        split(batch, halves=halves, slices=slices),
        decide=lambda losses, gram: COEFFICIENTS,
        lagged=COEFFICIENTS if lagged else None,
        metric=lambda parameter, part: None if metric is None else metric[parameter][part],
    )
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return step, gradients


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten(1) for g in gradients.values()], 1).double()


@pytest.mark.slow
@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_combined_gradient_is_the_weighted_sum_of_the_domains_gradients(family: str, lagged: bool) -> None:
    model, batch = make_model(family), make_rows(G * N).view(G, N, -1)
    _, got = run(model, batch, lagged=lagged)
    for name, gradients in slow_gradients(model, batch.flatten(0, 1), G).items():
        wanted = torch.einsum("d,d...->...", COEFFICIENTS, gradients[:D])
        tolerance = 1e-6 if "gemma" in family else 1e-9  # Gemma's own norm works in float32
        assert (got[name] - wanted).norm() <= tolerance * wanted.norm() + 1e-14, name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_combined_gradient_in_float32_is_within_1e_4(family: str) -> None:
    batch = make_rows(G * N).view(G, N, -1)
    _, got = run(make_model(family, dtype=torch.float32), batch)
    for name, gradients in slow_gradients(make_model(family), batch.flatten(0, 1), G).items():
        wanted = torch.einsum("d,d...->...", COEFFICIENTS, gradients[:D])
        assert (got[name] - wanted).norm() <= 1e-4 * wanted.norm() + 1e-8, name


@pytest.mark.slow
def test_unbiased_diagonal_is_the_product_of_the_two_halves_mean_gradients() -> None:
    model, batch = make_model(), make_rows(G * N).view(G, N, -1)
    step, _ = run(model, batch)
    first = flat(slow_gradients(model, batch[:, : N // 2].reshape(G * N // 2, -1), G))
    second = flat(slow_gradients(model, batch[:, N // 2 :].reshape(G * N // 2, -1), G))
    assert torch.allclose(step.gram.self_products, (first * second).sum(1), rtol=1e-9)
    both = (first + second) / 2
    assert torch.allclose(step.gram.products, both @ both.T, rtol=1e-9)
    assert torch.allclose(step.gram.norms, both.norm(dim=1), rtol=1e-9)
    unbiased = step.gram.unbiased
    assert torch.equal(unbiased.diagonal(), step.gram.self_products)
    assert torch.equal(unbiased - unbiased.diagonal().diag(), step.gram.products - step.gram.products.diagonal().diag())


@pytest.mark.slow
def test_unbiased_diagonal_but_not_the_plain_one_averages_to_the_true_norm() -> None:
    """Over all pairs of six rows, each as likely as the next: the average is the expectation itself.

    Llama's norms are in float32, whatever the model is.
    """
    model, rows = make_model("llama", dtype=torch.float64), make_rows(6, seed=5)
    truth = float(flat(slow_gradients(model, rows, 1)).square().sum())
    grams = [run_single(model, rows[list(pair)]) for pair in product(range(6), repeat=2)]
    plain = sum(float(gram.products) for gram in grams) / len(grams)
    assert sum(float(gram.self_products) for gram in grams) / len(grams) == pytest.approx(truth, rel=1e-6)
    assert plain > 1.1 * truth


def run_single(model: nn.Module, rows: Tensor) -> doge.Gram:
    engine = doge.GroupGradients(model, groups=1, halves=2)
    return engine.step(
        split(rows[None], halves=2, slices=1), decide=lambda losses, gram: torch.ones(1, dtype=torch.float64)
    ).gram


@pytest.mark.slow
@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize(("rows", "slices"), [(4, 2), (4, 4), (6, 3), (8, 4)])
def test_gram_does_not_depend_on_how_micro_batches_split_rows(rows: int, slices: int, lagged: bool) -> None:
    model, batch = make_model(), make_rows(G * rows).view(G, rows, -1)
    whole, whole_gradients = run(model, batch, lagged=lagged)
    parts, part_gradients = run(model, batch, slices=slices, lagged=lagged)
    for name in ("products", "norms", "self_products"):
        assert torch.allclose(getattr(whole.gram, name), getattr(parts.gram, name), rtol=1e-9), name
    assert torch.allclose(whole.losses, parts.losses, rtol=1e-9)
    assert all(
        torch.allclose(whole_gradients[name], part_gradients[name], rtol=1e-8, atol=1e-12) for name in whole_gradients
    )


@pytest.mark.slow
def test_without_halves_odd_rows_work_and_no_unbiased_diagonal_is_claimed() -> None:
    model, batch = make_model(), make_rows(G * 3).view(G, 3, -1)
    step, _ = run(model, batch, halves=1)
    wanted = flat(slow_gradients(model, batch.flatten(0, 1), G))
    assert torch.allclose(step.gram.products, wanted @ wanted.T, rtol=1e-9)
    assert step.gram.self_products is None
    with pytest.raises(ValueError, match="even number of rows"):
        _ = step.gram.unbiased


@pytest.mark.slow
def test_adams_geometry_weighs_products_and_leaves_the_gradient_alone() -> None:
    model, batch = make_model(), make_rows(G * N).view(G, N, -1)
    torch.manual_seed(3)
    metric = {p: torch.rand_like(p) for p in model.parameters()}
    step, got = run(model, batch, metric=metric)
    gradients = flat(slow_gradients(model, batch.flatten(0, 1), G))
    weights = torch.cat([metric[p].flatten() for p in model.parameters()])
    assert torch.allclose(step.gram.products, (gradients * weights) @ gradients.T, rtol=1e-9)
    assert torch.allclose(step.gram.norms, gradients.norm(dim=1), rtol=1e-9)
    _, plain = run(model, batch)
    assert all(torch.equal(got[name], plain[name]) for name in got)
    first = flat(slow_gradients(model, batch[:, : N // 2].reshape(G * N // 2, -1), G))
    second = flat(slow_gradients(model, batch[:, N // 2 :].reshape(G * N // 2, -1), G))
    assert torch.allclose(step.gram.self_products, (first * weights * second).sum(1), rtol=1e-9)


@pytest.mark.slow
def test_a_second_step_does_not_see_the_first_ones_memory() -> None:
    model, one, two = make_model(), make_rows(G * N).view(G, N, -1), make_rows(G * N, seed=9).view(G, N, -1)
    engine = doge.GroupGradients(model, groups=G, halves=2)

    def step(batch: Tensor, slices: int, lagged: bool) -> tuple[Tensor, list[Tensor]]:
        known = COEFFICIENTS if lagged else None
        outcome = engine.step(
            split(batch, halves=2, slices=slices), decide=lambda losses, gram: COEFFICIENTS, lagged=known
        )
        return outcome.gram.products, [p.grad.clone() for p in model.parameters()]

    for slices, lagged in ((1, True), (1, False), (4, True)):
        wanted = step(two, slices, lagged)
        step(one, slices, lagged)
        again = step(two, slices, lagged)
        assert torch.equal(wanted[0], again[0])
        assert all(torch.equal(a, b) for a, b in zip(wanted[1], again[1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "llama-tied-bias"])
def test_lagged_order_holds_at_most_one_largest_layer_gradient_per_group(family: str) -> None:
    model, batch = make_model(family), make_rows(G * N).view(G, N, -1)
    engine = doge.GroupGradients(model, groups=G, halves=2)
    engine.step(split(batch, halves=2, slices=1), decide=lambda losses, gram: COEFFICIENTS, lagged=COEFFICIENTS)
    entries = sum(workspace.entries for workspace in engine.workspaces.values())
    assert entries <= G * max(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_parts_of_a_layer_give_what_the_whole_layer_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_model(), make_rows(G * N).view(G, N, -1)
    wanted, gradients = run(model, batch, lagged=True)
    for limit in (1, 1000):
        monkeypatch.setattr("doge.algorithm.block_limit", lambda model, groups, limit=limit: limit)
        got, parts = run(model, batch, lagged=True)
        assert torch.allclose(got.gram.products, wanted.gram.products, rtol=1e-10)
        assert torch.allclose(got.gram.self_products, wanted.gram.self_products, rtol=1e-10)
        assert all(torch.allclose(parts[name], gradients[name], rtol=1e-9, atol=1e-13) for name in gradients)
