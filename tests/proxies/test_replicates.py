"""The replicates that a run leaves: of its own rule, on its own record."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import doge
import proxies.run
from doge.gram import Gram
from doge.stable import alignments
from doge.updates import Constants
from mixtures.diagnosis.weights import without_reach
from mixtures.errors import UserError
from mixtures.run.replicates import NAME, read_replicates
from mixtures.run.run import RunRecord, read_run
from mixtures.run.trajectory import record_bytes
from proxies.replicates import step_parts
from tests.proxies.helpers import forget_id, run, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.parametrize(
    "update",
    [{}, {"geometry": "adam", "averaging": 0.9}, {"objective": {"mixed": 1}, "floor": 0.2}, {"held_out": True}],
    ids=["stable", "adam", "target", "held out"],
)
def test_step_alignments_average_to_what_the_run_recorded(tmp_path: Path, update: dict) -> None:
    assert run(write_run(tmp_path, targets=True, update=update)) == 0
    found = read_run(tmp_path / "run")
    parts, lrs = step_parts(found, worst=False, sharpness=20.0), torch.tensor(found.trajectory.frame["lr"].to_numpy())
    keep, one = update.get("averaging", 1.0), torch.tensor([1.0, 0.0], dtype=torch.float64)
    for step in range(1, len(lrs)):
        counts = lrs[: step + 1] * keep ** torch.arange(step, -1, -1, dtype=torch.float64)
        mean = torch.einsum("s,spd->pd", counts, parts[: step + 1]) / counts.sum()
        assert np.allclose(alignments(mean.expand(2, 3, 3), one)[0], found.trajectory.alignments[step], rtol=1e-9)


def rewritten(run_dir: Path, change: Callable[[pa.Table], pa.Table]) -> RunRecord:
    """The run with every part of its trajectory changed, without an id, as runs of earlier versions."""
    forget_id(run_dir)
    for part in (run_dir / "trajectory").glob("*.parquet"):
        pq.write_table(change(pq.read_table(part)), part)
    return read_run(run_dir)


@pytest.mark.parametrize("update", [{"objective": {"mixed": 1}}, {"aggregate": "worst"}], ids=["target", "worst"])
def test_step_alignments_of_an_older_record_come_from_its_grams(tmp_path: Path, update: dict) -> None:
    assert run(write_run(tmp_path, targets=True, update=update)) == 0
    how = {"worst": "aggregate" in update, "sharpness": 20.0}
    recorded = step_parts(read_run(tmp_path / "run"), **how)
    older = rewritten(
        tmp_path / "run", lambda table: table.drop([name for name in table.column_names if name.startswith("step_")])
    )
    assert torch.allclose(step_parts(older, **how), recorded, rtol=1e-5, atol=1e-6 * float(recorded.abs().max()))
    last = older.trajectory.frame.columns.size
    neither = rewritten(
        older.path, lambda table: table.set_column(last, "gram", pa.nulls(len(table), table["gram"].type))
    )
    with pytest.raises(UserError, match="has neither alignments nor a gram of step 1, which the intervals"):
        step_parts(neither, **how)


def test_fewer_grams_change_nothing_that_the_run_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path)
    assert run(path) == 0
    assert "with the gram of 3 groups at every step\n" in capsys.readouterr().out
    assert run(path, "--run_dir", tmp_path / "fewer", "--train.gram_every", "3") == 0
    assert "with the gram of 3 groups at one of 3 steps\n" in capsys.readouterr().out
    whole, fewer = read_run(tmp_path / "run"), read_run(tmp_path / "fewer")
    columns = [name for name in whole.trajectory.frame if name != "tokens_per_second"]
    assert fewer.trajectory.frame[columns].equals(whole.trajectory.frame[columns])
    assert np.array_equal(read_replicates(fewer.path), read_replicates(whole.path))
    assert [place for place, _ in fewer.trajectory.measured_grams()] == [0, 3]
    assert np.array_equal(fewer.trajectory.grams[[0, 3]], whole.trajectory.grams[[0, 3]])


def test_a_large_record_is_told_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies.run, "LARGE_RECORD", 300.0)
    assert run(write_run(tmp_path)) == 0
    said = capsys.readouterr().out
    size = record_bytes(domains=3, groups=3, steps=6, grams=6)
    assert f"record: {size / 1e6:,.1f} MB at most in {tmp_path / 'run' / 'trajectory'}, with the gram" in said
    assert f"train.gram_every: {-(-size // 300)} keeps fewer grams" in said


def test_weights_without_reach_are_those_of_a_run_of_the_same_steps_without_it(tmp_path: Path) -> None:
    assert run(write_run(tmp_path, update={"reach": 0.001, "floor": 0.2})) == 0
    found = read_run(tmp_path / "run")
    assert (found.trajectory.reach_factors < 1).any()
    grams, products = torch.tensor(found.trajectory.grams), torch.tensor(found.trajectory.self_products)
    prior, weights = torch.from_numpy(found.prior), []
    state, objective = doge.start(prior, 3), doge.Objective(torch.ones(3).double(), torch.zeros(3, dtype=torch.bool))
    for gram, own, lr in zip(grams, products, found.trajectory.frame["lr"], strict=True):
        step = Gram(gram, gram.diagonal().sqrt(), own)
        free = {"constants": Constants("stable", floor=0.2, reach=1.0), "prior": prior, "objective": objective}
        state, decision = doge.update(step, torch.ones(3).double(), state, lr=lr, max_grad_norm=1.0, **free)
        assert decision.reach_factor == 1
        weights.append(decision.weights.numpy())
    assert np.allclose(without_reach(found), np.mean(weights, axis=0), atol=1e-6)


def test_a_domain_of_one_row_keeps_its_prior_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, update={"floor": 0.0})
    settings = yaml.safe_load(path.read_text())
    (tmp_path / "short.jsonl").write_text('{"text": "0123456789 0123456789 "}\n')
    source = settings["corpus"]["domains"]["digits"]
    source |= {"data_files": str(tmp_path / "short.jsonl"), "validation": source["data_files"]}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert run(path) == 0
    assert "digits fill(s) only one row" in capsys.readouterr().out
    found = read_run(tmp_path / "run")
    assert np.isnan(found.trajectory.self_products[:, 2]).all()
    assert np.isfinite(found.trajectory.self_products[:, :2]).all()
    assert np.abs(found.trajectory.weights[:, 2] - 1 / 3).max() < 1e-12
    assert found.replicates is not None
    assert "NaN" not in (tmp_path / "run" / "diagnosis.json").read_text()


def test_a_run_of_stable_leaves_replicates_and_other_rules_none(tmp_path: Path) -> None:
    for name, expected in (("stable", (200, 3)), ("official", None)):
        folder = tmp_path / name
        folder.mkdir()
        assert run(write_run(folder, update={"preset": name})) == 0
        kept = read_replicates(folder / "run")
        assert (None if kept is None else kept.shape) == expected
        assert (folder / "run" / NAME).exists() == (expected is not None)
