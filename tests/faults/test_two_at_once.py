"""Two commands at once on one directory or cache: one is refused by name or waits, and the results are right."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.helpers import (
    ALL,
    Command,
    comparison_result,
    do,
    note,
    only_faults,
    run_result,
    scores_result,
    start,
)
from tests.proxies.comparison.helpers import FIXED, write_comparison
from tests.proxies.helpers import write_run

pytestmark = pytest.mark.slow
TIMES = 3 if ALL else 1
LEARNED = {**FIXED, "stable": {"learn": {"preset": "stable"}}}


def require_refused(capsys: pytest.CaptureFixture[str], *commands: Command) -> int:
    """Check that one of two commands did its work and that the other names it; return the number of the first."""
    ended = [command.end() for command in commands]
    codes = [each.code for each in ended]
    assert sorted(codes) == [0, 2], ended
    worked, refused = codes.index(0), codes.index(2)
    note(capsys, commands[0].module, "twice at once", ended[refused].error)
    assert f"is in use by process {commands[worked].process.pid} on " in ended[refused].error
    return worked


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_two_trains_in_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, train={"steps": 30, "save_every": 10})
    expected = []
    for seed in (0, 1):
        assert do("proxies.train", path, "--seed", str(seed), "--run_dir", tmp_path / f"seed-{seed}").code == 0
        expected.append(run_result(tmp_path / f"seed-{seed}"))
    for number in range(TIMES):
        shutil.rmtree(tmp_path / "cache")
        place = ("--run_dir", tmp_path / f"run-{number}")
        commands = [start("proxies.train", path, *place, "--seed", str(seed)) for seed in (0, 1)]
        worked = require_refused(capsys, *commands)
        assert run_result(tmp_path / f"run-{number}") == expected[worked]


def test_two_scores_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert do("proxies.train", write_run(tmp_path)).code == 0
    assert do("proxies.score", run).code == 0
    expected = scores_result(run)
    for _ in range(TIMES):
        shutil.rmtree(run / "scores")
        require_refused(capsys, *(start("proxies.score", run) for _ in range(2)))
        assert scores_result(run) == expected


@only_faults
def test_two_trains_that_fill_one_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path)
    assert do("proxies.train", path, "--run_dir", tmp_path / "alone").code == 0
    expected = run_result(tmp_path / "alone")
    for number in range(TIMES):
        shutil.rmtree(tmp_path / "cache")
        runs = [tmp_path / f"{number}-{name}" for name in "ab"]
        ended = [each.end() for each in [start("proxies.train", path, "--run_dir", run) for run in runs]]
        note(capsys, "proxies.train", "one cache", [each.code for each in ended])
        assert [each.code for each in ended] == [0, 0], ended
        assert "damaged" not in ended[0].said + ended[1].said
        assert [run_result(run) for run in runs] == [expected, expected]


@only_faults
def test_two_compares_in_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(tmp_path, mixtures=LEARNED)
    assert do("proxies.compare", path, "--seeds", "[0, 1]").code == 0
    expected = comparison_result(tmp_path / "comparison")
    for seeds in [("0", "1"), ("[0, 1]", "[0, 1]")][: TIMES - 1 or 1]:
        shutil.rmtree(tmp_path / "comparison")
        shutil.rmtree(tmp_path / "cache")
        ended = [each.end() for each in [start("proxies.compare", path, "--seeds", seed) for seed in seeds]]
        note(capsys, "proxies.compare", f"seeds {' and '.join(seeds)}", [each.code for each in ended])
        assert [each.code for each in ended] == [0, 0], ended
        assert sum(each.said.count("learning stable") for each in ended) == 1
        assert comparison_result(tmp_path / "comparison") == expected


@only_faults
def test_a_train_while_its_scores_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run that is finished already changes nothing, and the scores come out right."""
    path, run = write_run(tmp_path), tmp_path / "run"
    assert do("proxies.train", path).code == 0
    expected = run_result(run)
    scoring = start("proxies.score", run)
    wait_for((run / "scores").exists)
    trained = do("proxies.train", path, "--resume", "auto")
    scored = scoring.end()
    note(capsys, "proxies.score", "with train --resume", [scored.code, trained.code])
    assert (scored.code, trained.code) == (0, 0)
    assert run_result(run) == expected
    assert scores_result(run)
