"""Sample weights from each step's gradient norms: one backward pass gives what a loop over rows gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

import doge
from doge.grouped import row_losses
from doge.presence import Presence, presence_weights
from doge.scopes import scope_parameters
from proxies.step import split
from tests.doge.helpers import FAMILIES, make_model, make_rows, slow_gradients

G, N, D = 3, 4, 2  # two training domains and a group that only serves the objective
COEFFICIENTS = torch.tensor([0.7, 0.2], dtype=torch.float64)


def fast(
    model: nn.Module,
    batch: Tensor,
    presence: Presence | None,
    *,
    halves: int = 2,
    slices: int = 1,
    lagged: bool = False,
) -> tuple[doge.Step, Tensor]:
    """A step on the batch (G, N, T), and the combined gradient, flat."""
    step = doge.GroupGradients(model, groups=len(batch), halves=halves).step(
        split(batch, halves=halves, slices=slices),
        decide=lambda losses, gram: COEFFICIENTS,
        lagged=COEFFICIENTS if lagged else None,
        presence=presence,
    )
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    model.zero_grad()
    return step, gradient


def slow(model: nn.Module, batch: Tensor, presence: Presence) -> dict[str, Tensor]:
    """The same from one autograd pass a row, one unit and one group at a time."""
    rows = batch.shape[1]
    gradients = slow_gradients(model, batch.flatten(0, 1), G * rows)
    named = dict(model.named_parameters())
    scope = set(scope_parameters(model, presence.scope))
    whole = torch.cat([g.flatten(1) for g in gradients.values()], 1).double().view(G, rows, -1)
    scoped = (
        torch.cat([g.flatten(1) for name, g in gradients.items() if named[name] in scope], 1).double().view(G, rows, -1)
    )
    weights = torch.ones(G, rows, dtype=torch.float64)
    units = rows // presence.unit_rows
    for group in range(presence.domains):
        norms = [
            scoped[group, i * presence.unit_rows : (i + 1) * presence.unit_rows].mean(0).square().sum()
            for i in range(units)
        ]
        mean = sum(norms) / units
        deviation = (sum((s - mean) ** 2 for s in norms) / units + (1e-4 * mean) ** 2) ** 0.5
        odds = [torch.exp(presence.temperature * (s - mean) / deviation) for s in norms]
        weights[group] = torch.stack([units * o / sum(odds) for o in odds]).repeat_interleave(presence.unit_rows)
    one, other = (
        (weights[:, part, None] * whole[:, part]).mean(1) for part in (slice(0, rows // 2), slice(rows // 2, rows))
    )
    mean_gradients = (weights[:, :, None] * whole).mean(1)
    return {
        "weights": weights[:D, :: presence.unit_rows],
        "losses": row_losses(model, batch.flatten(0, 1)).detach().view(G, rows).mean(1).double(),
        "products": mean_gradients @ mean_gradients.T,
        "norms": mean_gradients.norm(dim=1),
        "self_products": (one * other).sum(1),
        "gradient": COEFFICIENTS @ mean_gradients[:D],
    }


def require_equal(step: doge.Step, gradient: Tensor, wanted: dict[str, Tensor], *, tolerance: float = 1e-9) -> None:
    assert step.sample_weights is not None
    found = {
        "weights": step.sample_weights,
        "losses": step.losses,
        "products": step.gram.products,
        "norms": step.gram.norms,
        "self_products": step.gram.self_products,
        "gradient": gradient,
    }
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize("unit_rows", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_one_of_a_loop_over_rows(family: str, unit_rows: int, lagged: bool) -> None:
    model, batch = make_model(family), make_rows(G * N).view(G, N, -1)
    presence = Presence(temperature=1.5, domains=D, unit_rows=unit_rows)
    tolerance = 1e-5 if "gemma" in family else 1e-9  # Gemma's own norm works in float32
    require_equal(*fast(model, batch, presence, lagged=lagged), slow(model, batch, presence), tolerance=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "embedding", "*mlp*"])
@pytest.mark.parametrize("family", ["llama", "llama-tied-bias", "opt"])
def test_a_step_follows_its_scope_and_the_sign_of_the_temperature(family: str, scope: str) -> None:
    if family == "opt" and scope == "*mlp*":
        scope = "*fc?.weight"
    model, batch = make_model(family), make_rows(G * N).view(G, N, -1)
    for temperature in (1.0, -1.0):
        presence = Presence(temperature=temperature, domains=D, scope=scope)
        require_equal(*fast(model, batch, presence), slow(model, batch, presence))


@pytest.mark.slow
@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize(
    ("rows", "slices", "unit_rows"), [(4, 2, 1), (4, 2, 2), (4, 4, 1), (6, 3, 1), (8, 4, 2), (12, 3, 2)]
)
@pytest.mark.parametrize(("family", "tolerance"), [("gpt2", 1e-9), ("opt-untied-projected", 1e-9), ("llama", 1e-6)])
def test_weights_do_not_depend_on_how_micro_batches_split_rows(
    family: str, tolerance: float, rows: int, slices: int, unit_rows: int, lagged: bool
) -> None:
    model, batch = make_model(family), make_rows(G * rows).view(G, rows, -1)
    presence = Presence(temperature=-1.0, domains=D, unit_rows=unit_rows)
    wanted = slow(model, batch, presence)
    require_equal(
        *fast(model, batch, presence, slices=slices, lagged=lagged), wanted, tolerance=tolerance
    )  # Llama's norm: float32


@pytest.mark.slow
def test_halves_do_not_matter_for_odd_rows() -> None:
    model, batch = make_model("gpt2"), make_rows(G * 3).view(G, 3, -1)
    presence = Presence(temperature=1.0, domains=D)
    step, gradient = fast(model, batch, presence, halves=1)
    wanted = slow(model, batch, presence)
    assert step.gram.self_products is None
    assert torch.allclose(step.sample_weights, wanted["weights"], rtol=1e-9)
    assert torch.allclose(step.gram.products, wanted["products"], rtol=1e-9)
    assert (gradient - wanted["gradient"]).norm() <= 1e-9 * wanted["gradient"].norm()


@pytest.mark.slow
def test_processes_decide_over_the_rows_of_all_of_them() -> None:
    model, batch = make_model("gpt2"), make_rows(G * N).view(G, N, -1)
    presence = Presence(temperature=1.0, domains=D)
    parts = split(batch, halves=2, slices=2)
    shared: list[Tensor] = []

    def alone(tensor: Tensor) -> Tensor:
        shared.append(tensor.clone())
        raise StopIteration  # the first thing that a process sends are its norms

    for part in parts:
        with pytest.raises(StopIteration):
            doge.GroupGradients(model, groups=G, halves=2).step(
                [part], decide=lambda *_: COEFFICIENTS, presence=presence, reduce=alone
            )
    assert [tuple(sent.shape) for sent in shared] == [(G, N)] * 2
    assert torch.equal(shared[0] != 0, shared[1] == 0)
    got = presence_weights(sum(shared), temperature=1.0)[:D]
    assert torch.allclose(got, slow(model, batch, presence)["weights"], rtol=1e-9)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_in_float32_the_step_is_within_1e_4() -> None:
    batch, presence = make_rows(G * N).view(G, N, -1), Presence(temperature=1.0, domains=D)
    step, gradient = fast(make_model(dtype=torch.float32), batch, presence)
    require_equal(step, gradient, slow(make_model(), batch, presence), tolerance=1e-4)


@pytest.mark.slow
def test_under_autocast_the_step_stays_near_full_precision() -> None:
    model, batch, presence = (
        make_model("gpt2", dtype=torch.float32),
        make_rows(G * N).view(G, N, -1),
        Presence(temperature=1.0, domains=D),
    )
    engine = doge.GroupGradients(model, groups=G, halves=2, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    for slices in (1, 2):
        step = engine.step(split(batch, halves=2, slices=slices), decide=lambda *_: COEFFICIENTS, presence=presence)
        wanted = slow(make_model("gpt2"), batch, presence)
        assert (step.sample_weights - wanted["weights"]).norm() < 0.05 * wanted["weights"].norm()
        assert (step.gram.products - wanted["products"]).norm() < 0.05 * wanted["products"].norm()


@pytest.mark.slow
def test_rows_that_are_all_alike_change_nothing() -> None:
    model, batch = make_model("llama"), make_rows(G).view(G, 1, -1).expand(G, N, -1).contiguous()
    step, gradient = fast(model, batch, Presence(temperature=1.0, domains=D, unit_rows=2))
    plain, wanted = fast(model, batch, None)
    assert torch.allclose(step.sample_weights, torch.ones(D, 2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(step.gram.products, plain.gram.products, rtol=1e-9)
    assert torch.allclose(gradient, wanted, atol=1e-10)
    assert plain.sample_weights is None


@pytest.mark.slow
def test_every_pass_of_an_accumulated_step_drops_the_same() -> None:
    model, batch, seen = make_model("gpt2"), make_rows(G * N).view(G, N, -1), []
    model.register_forward_hook(lambda *_: seen.append(torch.rand(1)))  # as dropout would draw
    fast(model, batch, Presence(temperature=1.0, domains=D), slices=2)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


@pytest.mark.slow
def test_one_micro_batch_takes_one_forward_pass() -> None:
    model, batch, seen = make_model("gpt2"), make_rows(G * N).view(G, N, -1), []
    model.register_forward_hook(lambda *_: seen.append(1))
    fast(model, batch, Presence(temperature=1.0, domains=D))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("rows", "slices", "unit_rows", "part"),
    [(4, 1, 4, "two whole"), (6, 1, 4, "two whole"), (6, 1, 2, "3 rows of a"), (4, 4, 2, "1 rows of a")],
)
def test_rows_that_are_no_whole_units_are_refused(rows: int, slices: int, unit_rows: int, part: str) -> None:
    model, batch = make_model("gpt2"), make_rows(G * rows).view(G, rows, -1)
    with pytest.raises(ValueError, match=part):
        fast(model, batch, Presence(temperature=1.0, domains=D, unit_rows=unit_rows), slices=slices)


norms = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.floats(1e-12, 1e12))


@pytest.mark.slow
@given(norms=norms, temperature=st.floats(-20, 20), scale=st.floats(1e-6, 1e6))
def test_weights_have_mean_one_follow_the_norms_and_ignore_their_scale(
    norms: np.ndarray, temperature: float, scale: float
) -> None:
    squared = torch.tensor(norms)
    weights = presence_weights(squared, temperature=temperature)
    assert torch.allclose(weights.mean(1), torch.ones(len(norms), dtype=torch.float64), atol=1e-12)
    assert (weights >= 0).all()
    for one, found in zip(norms, weights.numpy(), strict=True):
        order = np.argsort(one, kind="stable")
        steps = np.diff(found[order]) * np.sign(temperature)
        assert (steps >= -1e-9 * found.max()).all()
        assert np.allclose(
            presence_weights(torch.tensor(one)[None], temperature=temperature)[0], found
        )  # other groups do not matter
    assert torch.allclose(presence_weights(squared * scale, temperature=temperature), weights, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@given(value=st.floats(0, 1e300), units=st.integers(2, 60), temperature=st.floats(-100, 100))
def test_equal_norms_give_weights_of_exactly_one(value: float, units: int, temperature: float) -> None:
    weights = presence_weights(torch.full((2, units), value, dtype=torch.float64), temperature=temperature)
    assert torch.equal(weights, torch.ones_like(weights))
