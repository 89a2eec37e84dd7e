"""A directory belongs to one command at a time, and what killed processes left is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixtures.errors import UserError
from mixtures.locks import NAME, directory_lock

GONE = 2**22 + 1  # above the largest number of a process
HOLD = "import sys; from mixtures.locks import directory_lock\nwith directory_lock(sys.argv[1], remedy='wait'): "
HOLD += "print('held', flush=True); sys.stdin.read()"


def test_a_second_command_is_refused_with_who_holds_the_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refusal = pytest.raises(UserError, match=f"is in use by process {other.pid} on .*; wait until it ends")
        with refusal, directory_lock(run, remedy="wait until it ends"):
            raise AssertionError
        other.kill()
        other.wait()
    with directory_lock(run, remedy="wait"):  # the lock of a killed process holds nobody up
        (run / "file").write_text("kept")
    assert sorted(path.name for path in run.iterdir()) == [NAME, "file"]


def test_a_refused_command_leaves_no_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError), directory_lock(tmp_path / "run", remedy="wait"):
        raise UserError("bad settings")
    assert not (tmp_path / "run").exists()


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "parts" / f".step-8.{GONE}-0a1b2c3d.tmp").mkdir(parents=True)
    kept = [".mine.tmp", f".mixture.json.{os.getpid()}-0a1b2c3d.tmp", "a.tmp"]
    for name in [f".mixture.json.{GONE}-0a1b2c3d.tmp", *kept]:
        (tmp_path / name).write_text("x")
    with directory_lock(tmp_path, remedy="wait"):
        found = sorted(path.name for path in tmp_path.glob("**/*") if path.is_file())
    assert found == [NAME, *kept]
    assert not list((tmp_path / "parts").iterdir())
