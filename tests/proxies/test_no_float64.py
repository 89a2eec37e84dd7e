"""Whole commands on a device without float64: they find there what they find on the CPU."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from accelerate.state import PartialState

from mixtures.run.evaluation import read_evaluation
from mixtures.run.trajectory import read_trajectory
from mixtures.samples.scores import read_scores
from tests.no_float64 import DEVICE, no_float64
from tests.proxies.comparison.helpers import compare, results, write_comparison
from tests.proxies.helpers import run, write_run
from tests.proxies.test_score import score

ACCUMULATE = {"train": {"accumulate": 2}}
CASES: dict[str, dict[str, Any]] = {
    "stable": {},
    "paper, in two micro-batches": {"update": {"preset": "paper"}, **ACCUMULATE},
    "doremi, in two micro-batches": {"update": {"preset": "doremi"}, **ACCUMULATE},
    "presence, in two micro-batches": {"samples": {"online": "presence"}, **ACCUMULATE},
}


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Accelerate's default device is the device, where it is not told to use the CPU: as on a Mac."""
    monkeypatch.setattr(PartialState, "default_device", property(lambda self: DEVICE))
    return monkeypatch


def close(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Assert that two tables hold the same names and, to 1e-4, the same numbers; the clock does not count."""
    one, other = (table.drop(columns="tokens_per_second", errors="ignore") for table in (one, other))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("case", CASES)
def test_a_run_needs_no_float64(case: str, tmp_path: Path, on_device: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path, targets=True, **CASES[case])
    assert run(path, "--run_dir", tmp_path / "cpu") == 0
    on_device.delenv("ACCELERATE_USE_CPU")
    with no_float64(on_device):
        assert run(path, "--run_dir", tmp_path / "there") == 0
    assert "device: meta" in (tmp_path / "there" / "config.yaml").read_text()
    here, there = (read_trajectory(tmp_path / name) for name in ("cpu", "there"))
    close(there.frame, here.frame)
    assert np.allclose(there.grams, here.grams, rtol=1e-4, atol=1e-5, equal_nan=True)
    close(read_evaluation(tmp_path / "there"), read_evaluation(tmp_path / "cpu"))


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # so torch says of every copy to meta
def test_resuming_and_scoring_need_no_float64(tmp_path: Path, on_device: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path)
    assert run(path) == 0
    assert score(tmp_path / "run") == 0
    here, scores = read_trajectory(tmp_path / "run"), read_scores(tmp_path / "run")
    frames = {domain: scores.frame(domain) for domain in scores.domains}
    shutil.rmtree(tmp_path / "run" / "scores")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    on_device.delenv("ACCELERATE_USE_CPU")
    with no_float64(on_device):
        assert run(path, "--resume") == 0
        assert score(tmp_path / "run") == 0
    close(read_trajectory(tmp_path / "run").frame, here.frame)
    for domain, frame in frames.items():
        close(read_scores(tmp_path / "run").frame(domain), frame)


@pytest.mark.usefixtures("fresh_accelerator")
def test_base_runs_need_no_float64(tmp_path: Path, on_device: pytest.MonkeyPatch) -> None:
    path = write_comparison(tmp_path)
    assert compare(path, "--run_dir", tmp_path / "cpu") == 0
    on_device.delenv("ACCELERATE_USE_CPU")
    with no_float64(on_device):
        assert compare(path, "--run_dir", tmp_path / "there") == 0
    close(results(tmp_path, "there"), results(tmp_path, "cpu"))
