"""Update rules: the published cases, the simplex, and problems whose optimum is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from doge.gram import Gram
from doge.updates import PRESETS, Constants, Decision, Objective, State, lean_to_worst, start, update, without_effect

OFFICIAL = Path(__file__).parents[3] / "shared" / "reference" / "official_update.json"


def uniform(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def gram_of(gradients: Tensor, *, halves: tuple[Tensor, Tensor] | None = None) -> Gram:
    gradients = gradients.double()
    self_products = None if halves is None else (halves[0].double() * halves[1].double()).sum(1)
    return Gram(gradients @ gradients.T, gradients.norm(dim=1), self_products)


def decide(
    constants: Constants,
    gram: Gram,
    state: State,
    importance: Tensor,
    *,
    lr: float = 1e-3,
    losses: Tensor | None = None,
    worst: bool = False,
    targets: bool = False,
) -> tuple[State, Decision]:
    return update(
        gram,
        torch.ones(len(importance), dtype=torch.float64) if losses is None else losses,
        state,
        constants=constants,
        prior=uniform(len(state.weights)),
        objective=Objective(
            importance=importance,
            targets=torch.arange(len(importance)) >= len(state.weights)
            if targets
            else torch.zeros(len(importance), dtype=torch.bool),
            worst=worst,
        ),
        lr=lr,
        max_grad_norm=5.0,
    )


def official_cases() -> list[dict]:
    return json.loads(OFFICIAL.read_text())["cases"] if OFFICIAL.exists() else []


@pytest.mark.skipif(
    not OFFICIAL.exists(), reason="../shared/reference/official_update.json is not beside this checkout"
)
@pytest.mark.parametrize("case", official_cases(), ids=lambda case: case["name"])
def test_official_reproduces_the_released_code(case: dict) -> None:
    train, targets = case["train_ids"], case["tgt_ids"]
    groups = train + [index for index in targets if index not in train]  # training domains first
    importance = torch.tensor([1.0 if index in targets else 0.0 for index in groups], dtype=torch.float64)
    constants = replace(
        PRESETS["official"],
        mu=case["mu"],
        floor=case["reweight_eps"],
        score_min=case["dw_min"],
        score_max=case["dw_max"],
    )
    state, total = start(uniform(len(train)), len(groups)), torch.zeros(len(train), dtype=torch.float64)
    for number, step in enumerate(case["steps"], 1):
        assert not step["absent"]  # rows are stratified here: no domain is ever absent
        gradients = torch.tensor(step["grads"], dtype=torch.float64)[groups]
        state, decision = decide(constants, gram_of(gradients), state, importance, lr=step["lr"])
        total += decision.weights
        close = {"rtol": 1e-5, "atol": 1e-8}
        assert torch.allclose(decision.weights, torch.tensor(step["alpha"], dtype=torch.float64)[train], **close)
        assert torch.allclose(total / number, torch.tensor(step["avg_alpha"], dtype=torch.float64)[train], **close)
        combined = decision.coefficients @ gradients[: len(train)]
        assert torch.allclose(combined, torch.tensor(step["update_grad"], dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_paper_is_the_mirror_step_on_the_raw_sum_with_the_self_term() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]], dtype=torch.float64)
    state = start(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 3)
    _, decision = decide(PRESETS["paper"], gram_of(gradients), state, torch.ones(3, dtype=torch.float64), lr=0.002)
    alignment = [sum(float(g @ h) for h in gradients) for g in gradients]
    unnormalised = [
        a * torch.exp(torch.tensor(0.002 * w / 0.01)).item() for a, w in zip((0.5, 0.3, 0.2), alignment, strict=True)
    ]
    assert decision.alignment.tolist() == pytest.approx(alignment)
    assert decision.weights.tolist() == pytest.approx([u / sum(unnormalised) for u in unnormalised])


@pytest.mark.slow
@given(
    preset=st.sampled_from(sorted(PRESETS.keys() - {"doremi"})),
    groups=st.integers(2, 9),
    extra=st.integers(0, 3),
    scale=st.floats(1e-8, 1e8),
    seed=st.integers(0, 1000),
    floor=st.floats(0, 1),
    worst=st.booleans(),
    targets=st.booleans(),
)
def test_weights_stay_on_the_simplex(
    preset: str, groups: int, extra: int, scale: float, seed: int, floor: float, worst: bool, targets: bool
) -> None:
    torch.manual_seed(seed)
    state = start(uniform(groups), groups + extra)
    constants = replace(PRESETS[preset], floor=floor)
    importance = torch.rand(groups + extra, dtype=torch.float64)
    for _ in range(3):
        a, b = scale * torch.randn(2, groups + extra, 5, dtype=torch.float64)
        losses = 5 * torch.rand(groups + extra, dtype=torch.float64) + 0.1
        state, decision = decide(
            constants,
            gram_of((a + b) / 2, halves=(a, b)),
            state,
            importance,
            losses=losses,
            worst=worst,
            targets=targets,
        )
        assert float(decision.weights.sum()) == pytest.approx(1, abs=1e-12)
        assert bool((decision.weights >= floor / groups - 1e-15).all())


def test_uniform_stays_at_the_prior_and_still_reports_the_alignment() -> None:
    gradients = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    _, decision = decide(
        PRESETS["uniform"], gram_of(gradients), start(uniform(3), 3), torch.tensor([1.0, 0, 0], dtype=torch.float64)
    )
    assert torch.equal(decision.weights, uniform(3))
    assert decision.alignment.tolist() == pytest.approx((gradients.double() @ gradients.double()[0]).tolist())


def test_stable_averages_the_runs_alignment_weighted_by_learning_rate() -> None:
    generator, constants = torch.Generator().manual_seed(0), replace(PRESETS["stable"], floor=0.0)
    state, importance = start(uniform(3), 3), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    summed, rates = torch.zeros(3, dtype=torch.float64), [0.0, 1e-3, 2e-3, 3e-3, 1e-3]
    for lr in rates:
        a, b = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
        gram = gram_of((a + b) / 2, halves=(a, b))
        state, decision = decide(constants, gram, state, importance, lr=lr)
        summed += lr * torch.stack([gram.unbiased[j] @ importance for j in range(3)])
    assert torch.allclose(decision.alignment, summed / sum(rates))


def test_stable_stays_at_the_prior_until_it_can_tell_signal_from_noise() -> None:
    gradients = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    gram, state, importance = (
        gram_of(gradients, halves=(gradients, gradients)),
        start(uniform(2), 2),
        torch.tensor([1.0, 0.0]).double(),
    )
    state, decision = decide(PRESETS["stable"], gram, state, importance)
    assert torch.equal(decision.weights, uniform(2))  # one step: nothing to compare with
    _, decision = decide(PRESETS["stable"], gram, state, importance)
    assert float(decision.weights[0]) > 0.6


def test_stable_divides_a_gain_for_a_target_by_the_domains_own_progress() -> None:
    gradients = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    gram, state, importance = (
        gram_of(gradients, halves=(gradients, gradients)),
        start(uniform(3), 4),
        torch.tensor([0.0, 0, 0, 1]).double(),
    )
    alignment = {
        kind: decide(PRESETS["stable"], gram, state, importance, targets=kind)[1].alignment.tolist()
        for kind in (False, True)
    }
    assert alignment[False] == pytest.approx([4, 2, 0])
    mean = (16 + 4 + 9) / 3
    assert alignment[True] == pytest.approx(
        [4 * mean / 16, 2 * mean / 4, 0]
    )  # the second gives as much for half of the way


def test_leaning_to_the_worst_moves_importance_to_the_least_improved() -> None:
    importance = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    ratio = torch.tensor([0.9, 0.5, 1.5], dtype=torch.float64)  # the third does not count, however bad it is
    lean = lean_to_worst(importance, ratio, 20.0)
    assert float(lean.sum()) == pytest.approx(2)
    assert lean[0] > 100 * lean[1] > 0
    assert lean[2] == 0
    assert torch.allclose(lean_to_worst(importance, ratio, 0.0), importance)


def test_constants_of_another_preset_are_named_as_without_effect() -> None:
    assert without_effect("stable", ["mu", "tau", "floor", "order"]) == ["mu"]
    assert without_effect("official", ["mu", "tau", "score_max"]) == ["tau"]
    assert without_effect("doremi", ["mu", "prior", "floor", "order", "sharpness", "eta", "smoothing"]) == [
        "mu",
        "floor",
        "order",
        "sharpness",
    ]
    assert without_effect("stable", ["eta", "smoothing"]) == ["eta", "smoothing"]


# Quadratic domains: loss_j = |theta - c_j|^2 / 2. Training at weights a pulls theta to sum_j a_j c_j, so a target at
# sum_j a*_j c_j of affinely independent c_j has exactly one best mixture, a*.
CENTRES = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]], dtype=torch.float64)
BEST = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def descend(
    constants: Constants,
    *,
    steps: int,
    noise: float = 0.0,
    lr: float = 0.05,
    target: Tensor | None = None,
    coefficients: bool = False,
) -> Tensor:
    """Mean weights over the second half of a run on the quadratic problem (`coefficients`: of what the gradients are
    combined with).
    """
    target = BEST @ CENTRES if target is None else target
    generator = torch.Generator().manual_seed(0)
    theta, state, total = torch.zeros(2, dtype=torch.float64), start(uniform(3), 4), torch.zeros(3, dtype=torch.float64)
    importance = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    for step in range(steps):
        mean = theta - torch.cat([CENTRES, target[None]])
        a, b = mean + noise * torch.randn(2, 4, 2, dtype=torch.float64, generator=generator)
        state, decision = decide(constants, gram_of((a + b) / 2, halves=(a, b)), state, importance, lr=lr)
        theta = theta - lr * decision.coefficients @ ((a + b) / 2)[:3]
        if step >= steps // 2:
            total += (decision.coefficients if coefficients else decision.weights) / (steps - steps // 2)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_paper_arrives_at_the_best_mixture(noise: float) -> None:
    found = descend(replace(PRESETS["paper"], mu=5.0), steps=6000, noise=noise)
    assert (found - BEST).abs().max() < 0.03, found


@pytest.mark.slow
def test_official_reaches_the_optimum_but_its_clip_favours_long_gradients() -> None:
    constants = replace(PRESETS["official"], mu=0.5)
    combined = descend(constants, steps=6000, coefficients=True)
    assert (combined / combined.sum() - BEST).abs().max() < 0.01
    weights = descend(constants, steps=6000)  # the third centre is farthest: its gradients are the longest, and clipped
    assert weights[2] > BEST[2] + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["stable", "paper", "official"])
@pytest.mark.parametrize("favoured", [0, 1, 2])
def test_every_rule_moves_towards_the_domain_that_the_target_resembles(preset: str, favoured: int) -> None:
    constants = replace(PRESETS[preset], mu=5.0 if preset == "paper" else 0.5)
    found = descend(constants, steps=60, noise=0.1, target=CENTRES[favoured])
    assert int(found.argmax()) == favoured
    assert found[favoured] > 0.4


def random_stream(
    constants: Constants, *, steps: int = 1500, noise: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Final weights for domains with the same mean gradient and the given noise of a row; universal objective."""
    generator, spread = torch.Generator().manual_seed(1), torch.tensor(noise, dtype=torch.float64)[:, None]
    state = start(uniform(4), 4)
    for _ in range(steps):
        a, b = 0.3 + spread * torch.randn(2, 4, 20, dtype=torch.float64, generator=generator)
        state, decision = decide(
            constants, gram_of((a + b) / 2, halves=(a, b)), state, torch.ones(4, dtype=torch.float64), lr=1e-3
        )
    return decision.weights


@pytest.mark.slow
def test_stable_holds_identical_domains_to_ten_percent_and_official_drifts() -> None:
    assert (random_stream(PRESETS["stable"]) * 4 - 1).abs().max() < 0.1
    assert (random_stream(PRESETS["official"]) * 4 - 1).abs().max() > 0.3


@pytest.mark.slow
def test_stable_does_not_mistake_a_domains_noise_for_use_but_paper_does() -> None:
    noisy = (1.0, 1.0, 1.0, 3.0)
    assert abs(float(random_stream(PRESETS["stable"], noise=noisy)[3]) * 4 - 1) < 0.15
    assert float(random_stream(replace(PRESETS["paper"], mu=10.0), noise=noisy)[3]) * 4 > 1.5
