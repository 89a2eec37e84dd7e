"""What the other processes do when one of them is stopped, or when their launcher is killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from mixtures.run.trajectory import read_trajectory
from proxies import checkpoints
from tests.faults.helpers import Moment, start_two
from tests.proxies.helpers import REPOSITORY, clean_environment, config_of, write_run

pytestmark = pytest.mark.slow
ENDLESS = {"steps": 100_000, "save_every": 100_000, "evaluate_every": 100_000}


@contextmanager
def two_processes_that_train(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A launch of two processes in the middle of a run, and the two; whatever is left of them is killed at the end."""
    path = write_run(folder, train=ENDLESS)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *config_of(2), "-m", "proxies.train"]
    variables = {**clean_environment(), "ACCELERATE_USE_CPU": "true"}
    launcher = subprocess.Popen([*command, str(path)], cwd=REPOSITORY, env=variables, stderr=subprocess.PIPE, text=True)
    ranks: list[psutil.Process] = []
    try:
        wait_for((folder / "run/config.yaml").exists)
        ranks = [child for child in psutil.Process(launcher.pid).children() if "proxies.train" in child.cmdline()]
        assert len(ranks) == 2
        time.sleep(2)
        yield launcher, ranks
    finally:
        for process in (launcher, *ranks):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        launcher.communicate()


def wait_for(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    """Return as soon as the condition holds, or after that many seconds."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_waits_for_a_stopped_one_ends_by_itself(tmp_path: Path, stopped: int) -> None:
    path = write_run(tmp_path, train=ENDLESS)
    ranks = start_two("proxies.train", path, "--train.timeout", "3", moment=Moment(seconds=120))
    wait_for((tmp_path / "run/config.yaml").exists)
    time.sleep(2)
    psutil.Process(ranks[stopped].process.pid).suspend()
    ended = ranks[1 - stopped].end()
    ranks[stopped].stop()
    assert ended.code == 1
    assert "waited 3 s (train.timeout) for a step to end: another process is stopped, hangs or is gone" in ended.said


def test_processes_whose_launcher_was_killed_save_and_end(tmp_path: Path) -> None:
    with two_processes_that_train(tmp_path) as (launcher, ranks):
        launcher.kill()
        psutil.wait_procs(ranks, timeout=60)
        assert not any(rank.is_running() for rank in ranks)
    newest = checkpoints.newest(tmp_path / "run")
    assert newest is not None
    assert newest.name == f"step-{len(read_trajectory(tmp_path / 'run').steps):08d}"
