"""A command that is killed (kill -9) at any moment is finished by the same command, bit for bit as if nothing was."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.helpers import (
    ALL,
    Ended,
    Moment,
    comparison_result,
    do,
    leftovers,
    moments,
    note,
    only_faults,
    run_result,
    scores_result,
)
from tests.proxies.comparison.helpers import FIXED, write_comparison
from tests.proxies.helpers import write_run

pytestmark = pytest.mark.slow


def train(folder: Path, moment: Moment | None = None) -> Ended:
    return do("proxies.train", folder / "run.yaml", "--resume", "auto", moment=moment)


def require_killed(killed: Ended, moment: Moment) -> str:
    """Return whether the moment came before the end; a moment by change always does."""
    assert killed.code == -9 or (killed.code == 0 and moment.change is None), killed
    return "killed" if killed.code == -9 else "was faster"


def test_a_killed_train_is_resumed_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_run(source)
    whole = shutil.copytree(source, tmp_path / "whole")
    undisturbed = train(whole)
    assert undisturbed.code == 0, undisturbed
    expected = run_result(whole / "run")
    drawn = moments(25 if ALL else 2, seconds=undisturbed.seconds, changes=undisturbed.changes, name="train")
    for number, moment in enumerate(drawn):
        folder = shutil.copytree(source, tmp_path / str(number))
        outcome = require_killed(train(folder, moment), moment)
        note(capsys, "train", moment, outcome, f"left {len(leftovers(folder))} temporaries")
        resumed = train(folder)
        assert resumed.code == 0, (moment, resumed)
        assert run_result(folder / "run") == expected, moment
        assert not leftovers(folder / "run"), moment


def test_a_killed_score_is_finished_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert train(tmp_path).code == 0
    run = tmp_path / "run"
    undisturbed = do("proxies.score", run)
    expected = scores_result(run)
    drawn = moments(10 if ALL else 1, seconds=undisturbed.seconds, changes=undisturbed.changes, name="score")
    for moment in drawn:
        shutil.rmtree(run / "scores")
        outcome = require_killed(do("proxies.score", run, moment=moment), moment)
        note(capsys, "score", moment, outcome, f"left {len(leftovers(run))} temporaries")
        assert do("proxies.score", run).code == 0
        assert scores_result(run) == expected, moment
        assert not leftovers(run), moment


@only_faults
def test_a_killed_compare_is_finished_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixtures: dict[str, Any] = {**FIXED, "stable": {"learn": {"preset": "stable"}}}
    path = write_comparison(tmp_path, mixtures=mixtures)
    undisturbed = do("proxies.compare", path)
    assert undisturbed.code == 0, undisturbed
    expected = comparison_result(tmp_path / "comparison")
    drawn = moments(5, seconds=undisturbed.seconds, changes=undisturbed.changes, name="compare")
    for moment in drawn:
        shutil.rmtree(tmp_path / "comparison")
        shutil.rmtree(tmp_path / "cache")
        outcome = require_killed(do("proxies.compare", path, moment=moment), moment)
        note(capsys, "compare", moment, outcome, f"left {len(leftovers(tmp_path))} temporaries")
        finished = do("proxies.compare", path)
        assert finished.code == 0, (moment, finished)
        assert comparison_result(tmp_path / "comparison") == expected, moment
