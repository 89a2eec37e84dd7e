"""The adjoint of a run against two slow twins: autograd through the whole unrolled run, and whole runs once more."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from doge.adjoint import AdamW, RunState, Segment, StepEffects, Unrolled, Weights, advance
from tests.doge.helpers import TOKENS, VOCAB, make_model

STEPS, ROWS = 6, 8
LRS = (1e-3, 2e-3, 3e-3, 3e-3, 2e-3, 1e-3)  # with warm-up


def unrolled(name: str = "llama", *, clip: float = 1.0, part: slice = slice(None)) -> Unrolled:
    """A run of six steps in float64 whose first gradients are clipped; `part` are the rows of one process."""
    torch.manual_seed(0)
    weights = Weights(make_model(name))
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, VOCAB, (STEPS, ROWS, TOKENS), generator=generator)
    coefficients = torch.rand(STEPS, ROWS, generator=generator, dtype=torch.float64) / ROWS
    decay = 0.1 * (torch.arange(len(weights.flat())) % 3 > 0).double()
    return Unrolled(
        weights,
        AdamW(decay, betas=(0.9, 0.99), eps=1e-6, eps_root=1e-8, max_grad_norm=clip),
        LRS,
        lambda step: (rows[step, part], coefficients[step, part]),
    )


def held_out(run: Unrolled, theta: Tensor, seed: int = 2) -> Tensor:
    """An objective: the mean loss of other rows."""
    rows = torch.randint(0, VOCAB, (4, TOKENS), generator=torch.Generator().manual_seed(seed))
    return run.weights.losses(theta, rows).mean()


def gradients(run: Unrolled, theta: Tensor, seeds: tuple[int, ...]) -> Tensor:
    """The gradients (F, P) of the objectives at the last weights."""
    theta = theta.detach().requires_grad_()
    return torch.stack([torch.autograd.grad(held_out(run, theta, seed), theta)[0] for seed in seeds])


def pulled(run: Unrolled, *, every: int = 2, keep: int = 0, seeds: tuple[int, ...] = (2,)) -> list[StepEffects]:
    """The effects of all steps, first to last, with segments of `every` steps; the last `keep` are kept."""
    state, segments = run.start(), []
    for first in range(0, STEPS, every):
        steps = list(run.run(state, range(first, min(first + every, STEPS))))
        kept = steps if first >= STEPS - keep else ()
        segments.append(Segment(range(first, first + len(steps)), state, kept))
        state = steps[-1].after
    return list(run.effects(segments, gradients(run, state.theta, seeds)))[::-1]


def last_weights(run: Unrolled) -> Tensor:
    """The weights after the last step."""
    return list(run.run(run.start(), range(STEPS)))[-1].after.theta


def slow_twin(run: Unrolled, seed: int = 2) -> Tensor:
    """The effects (S, R, T-1) by autograd through the whole run, all of whose graph is kept."""
    theta = run.weights.flat().requires_grad_()
    state = RunState(theta, torch.zeros_like(theta), torch.zeros_like(theta))
    kept = []
    for step in range(STEPS):
        rows, coefficients = run.rows(step)
        losses = run.weights.losses(state.theta, rows, twice=True)
        kept.append((coefficients[:, None] / losses.shape[1]).expand_as(losses).clone().requires_grad_())
        loss = (losses * kept[-1]).sum()
        (gradient,) = torch.autograd.grad(loss, state.theta, create_graph=True)
        state = advance(state, gradient, lr=run.lrs[step], step=step, optimizer=run.optimizer)
    return torch.stack(torch.autograd.grad(held_out(run, state.theta, seed), kept))


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.05, 100.0])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neox", "gemma"])
def test_the_effects_are_those_of_autograd_through_the_whole_run(name: str, clip: float) -> None:
    run = unrolled(name, clip=clip)
    exact = slow_twin(run)
    found = torch.stack([effects.tokens[0] for effects in pulled(run)])
    assert exact.abs().max() > 1e-5
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.slow
def test_the_effects_are_the_central_differences_of_whole_runs() -> None:
    run = unrolled("gpt2", clip=0.2)  # Llama's norms are in float32, whatever the model is
    effects = pulled(run)
    for step, row in ((0, 3), (2, 0), (5, 7)):
        losses = []
        for change in (1e-6, -1e-6):
            rows, coefficients = run.rows(step)
            moved = coefficients.clone()
            moved[row] += change
            pushed = replace(run, rows={**{t: run.rows(t) for t in range(STEPS)}, step: (rows, moved)}.__getitem__)
            losses.append(held_out(run, last_weights(pushed)).item())
        assert effects[step].rows[0, row].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("every", "keep", "parts"), [(1, 0, 1), (4, 2, 1), (6, 6, 1), (3, 0, 4)])
def test_segments_and_parts_of_any_size_give_the_same_effects(every: int, keep: int, parts: int) -> None:
    run = replace(unrolled(), parts=parts)
    for one, other in zip(pulled(run, every=every, keep=keep), pulled(unrolled()), strict=True):
        torch.testing.assert_close(one.rows, other.rows, rtol=1e-10, atol=0)
        torch.testing.assert_close(one.norms, other.norms, rtol=1e-10, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neox", "gemma"])
def test_central_differences_come_close_to_the_exact_effects(name: str) -> None:
    exact, near = (pulled(replace(unrolled(name), difference=each)) for each in (None, 1e-4))
    for one, other in zip(exact, near, strict=True):
        torch.testing.assert_close(other.tokens, one.tokens, rtol=1e-3, atol=1e-3 * float(one.tokens.abs().max()))
        torch.testing.assert_close(other.norms, one.norms, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_several_objectives_are_pulled_back_as_each_alone() -> None:
    both = pulled(unrolled(), seeds=(2, 3))
    for index, seed in enumerate((2, 3)):
        alone = pulled(unrolled(), seeds=(seed,))
        for one, other in zip(both, alone, strict=True):
            torch.testing.assert_close(one.rows[index], other.rows[0], rtol=1e-12, atol=0)


def test_the_state_moves_as_torch_moves_it() -> None:
    run = unrolled(clip=0.2)
    run = replace(run, optimizer=replace(run.optimizer, eps_root=0.0))
    parameter = torch.nn.Parameter(run.weights.flat())
    run = replace(run, optimizer=replace(run.optimizer, decay=torch.full_like(parameter.detach(), 0.1)))
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    for step in range(STEPS):
        rows, coefficients = run.rows(step)
        (run.weights.losses(parameter, rows).mean(1) * coefficients).sum().backward()
        torch.nn.utils.clip_grad_norm_([parameter], 0.2)
        optimizer.param_groups[0]["lr"] = LRS[step]
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(last_weights(run), parameter.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_two_processes_find_the_effects_of_one() -> None:
    """Two threads stand for the processes: what a run sees of the other one is the sums alone."""
    meet = Barrier(2, timeout=60)
    summands: dict[int, Tensor] = {}

    def reduce(rank: int, tensor: Tensor) -> Tensor:
        summands[rank] = tensor.clone()
        meet.wait()
        total = summands[0] + summands[1]
        meet.wait()
        return total

    parts = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
    runs = [replace(unrolled(part=part), reduce=partial(reduce, rank)) for rank, part in enumerate(parts)]
    with sdpa_kernel(SDPBackend.MATH), ThreadPoolExecutor(2) as pool:  # set for all threads, and taken back by neither
        halves = list(pool.map(pulled, runs))
    for alone, first, second in zip(pulled(unrolled()), *halves, strict=True):
        torch.testing.assert_close(torch.cat([first.rows, second.rows], 1), alone.rows, rtol=1e-9, atol=1e-12)
        assert torch.equal(first.norms, second.norms)
