"""The replicates that a run leaves: of its own rule, on its own record."""

from pathlib import Path

import numpy as np
import pytest
import torch

from doge.stable import alignments
from mixtures.run.replicates import NAME, read_replicates
from mixtures.run.run import read_run
from proxies.replicates import step_parts
from tests.proxies.helpers import run, write_run

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


def test_a_run_of_stable_leaves_replicates_and_other_rules_none(tmp_path: Path) -> None:
    for name, expected in (("stable", (200, 3)), ("official", None)):
        folder = tmp_path / name
        folder.mkdir()
        assert run(write_run(folder, update={"preset": name})) == 0
        kept = read_replicates(folder / "run")
        assert (None if kept is None else kept.shape) == expected
        assert (folder / "run" / NAME).exists() == (expected is not None)
