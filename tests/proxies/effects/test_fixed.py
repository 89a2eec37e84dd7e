"""Effects of domains on the end of a proxy run, against whole runs with other weights."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mixtures.run.run import CorpusRecord
from mixtures.schedule.shares import fixed_mixture
from proxies.corpus.corpus import CorpusData
from proxies.effects import fixed
from proxies.effects.fixed import FixedRun, StepRows, fixed_run, sampled_rows, weighed_rows
from proxies.effects.memory import MemoryPlan, plan_memory
from proxies.effects.objective import held_out
from proxies.place import Place, place_of
from proxies.settings import Settings, load_settings
from tests.proxies.helpers import prepare_corpus, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

SHARES = [0.2, 0.3, 0.5]
OBJECTIVE = {"vowels": 0.75, "mixed": 0.25}


def setting(folder: Path) -> tuple[Settings, CorpusData, Place]:
    settings = load_settings(write_run(folder, targets=True, update={"objective": OBJECTIVE}))
    return settings, prepare_corpus(settings), place_of(Accelerator())


def source(kind: str, settings: Settings, corpus: CorpusData, place: Place) -> Callable[[int], StepRows]:
    if kind == "weighed":
        return weighed_rows(settings, corpus, place, torch.tensor([SHARES] * settings.train.steps))
    record = CorpusRecord.model_validate(corpus.record)
    mixture = fixed_mixture(
        dict(zip(corpus.domains, SHARES, strict=True)),
        tokenizer=record.tokenizer,
        domains=[domain.as_domain() for domain in record.domains if domain.role == "domain"],
        total_tokens=settings.train.steps * 12 * 16,
        method="test",
    )
    return sampled_rows(settings, corpus, place, mixture)


def whole(run: FixedRun) -> MemoryPlan:
    parameters = len(run.unrolled.weights.flat())
    return plan_memory(parameters=parameters, steps=run.settings.train.steps, runs=1, limit=1e9)


@pytest.mark.parametrize("kind", ["weighed", "sampled"])
def test_effects_are_what_runs_with_other_weights_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(fixed, "ROUGH", math.inf)
    settings, corpus, place = setting(tmp_path)
    rows, objective = source(kind, settings, corpus, place), held_out(settings, corpus, place, rows=8)
    run = fixed_run(settings, corpus, place, rows)
    segments, theta = run.train(whole(run), on_step=lambda: None)
    _, end = objective.measure(run.unrolled.weights, theta, [OBJECTIVE])
    effects = torch.stack([step.domains[0] for step in run.pull_back(segments, end)]).sum(0)
    assert len(effects) == 3

    def pushed(domain: int, change: float) -> float:
        def read(step: int) -> StepRows:
            mine = rows(step)
            factor = torch.where(mine.domains == domain, math.exp(change), 1.0)
            return replace(mine, coefficients=mine.coefficients * factor)

        moved = fixed_run(settings, corpus, place, read)
        losses, _ = objective.measure(moved.unrolled.weights, moved.train(whole(moved), on_step=lambda: None)[1])
        return sum(share * float(losses[name].mean()) for name, share in OBJECTIVE.items())

    for domain in range(3):
        difference = (pushed(domain, 0.02) - pushed(domain, -0.02)) / 0.04
        assert float(effects[domain]) == pytest.approx(difference, rel=0.02, abs=1e-4)


def test_what_is_kept_in_memory_changes_no_effect(tmp_path: Path) -> None:
    settings, corpus, place = setting(tmp_path)
    run = fixed_run(settings, corpus, place, source("sampled", settings, corpus, place))
    objective = held_out(settings, corpus, place, rows=4)
    found = []
    for plan in (MemoryPlan(6, keep=True, size=0), MemoryPlan(4, keep=False, size=0)):
        segments, theta = run.train(plan, on_step=lambda: None)
        _, end = objective.measure(run.unrolled.weights, theta, [OBJECTIVE])
        found.append(torch.stack([step.domains for step in run.pull_back(segments, end)]))
    assert torch.equal(*found)


def test_a_rough_adjoint_ends_the_pull_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, corpus, place = setting(tmp_path)
    run = fixed_run(settings, corpus, place, source("sampled", settings, corpus, place))
    segments, theta = run.train(whole(run), on_step=lambda: None)
    _, end = held_out(settings, corpus, place, rows=4).measure(run.unrolled.weights, theta, [OBJECTIVE])
    monkeypatch.setattr(fixed, "ROUGH", math.inf)
    assert [step.step for step in run.pull_back(segments, end)] == [5, 4, 3, 2, 1, 0]
    monkeypatch.setattr(fixed, "ROUGH", 0.0)
    assert [step.step for step in run.pull_back(segments, end)] == [5, 4, 3]


def test_the_objective_reads_no_row_that_is_evaluated(tmp_path: Path) -> None:
    settings, corpus, place = setting(tmp_path)
    rows = held_out(settings, corpus, place, rows=100).rows
    assert set(rows) == {"vowels", "mixed"}
    count = len(corpus.held_out["vowels"]) // 16
    every = np.asarray(corpus.held_out["vowels"])[: count * 16].reshape(-1, 16)
    evaluated = {tuple(row) for row in every[: count // 2].tolist()}
    assert len(rows["vowels"]) == count - max(count // 2, settings.train.evaluate_rows)
    assert not evaluated & {tuple(row) for row in rows["vowels"].tolist()}
