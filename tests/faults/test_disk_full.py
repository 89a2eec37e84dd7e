"""A disk that is full at any size: one message, nothing half-written, and the same command goes on once there is room.

No file of the process may grow beyond a limit, which fails in every library as a full disk does (EFBIG for ENOSPC).
"""

import random
import shutil
from pathlib import Path

import pytest

from tests.faults.helpers import ALL, SEED, do, leftovers, note, run_result, scores_result
from tests.proxies.helpers import write_run

pytestmark = pytest.mark.slow
SAYS_SO = ("File too large", "ree some disk space")  # torch does not name the reason


def limits(folder: Path, count: int, *, name: str) -> list[int]:
    """Draw sizes of which each is too small for one more of the folder's files: some byte of a file of that rank."""
    sizes = sorted({path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_size})
    draw = random.Random(f"{SEED} {name}")
    below = [draw.randrange(smaller, larger) for smaller, larger in zip([0, *sizes], sizes, strict=False)]
    return sorted(draw.sample(below, min(count, len(below))))


def test_train_on_a_full_disk_says_so_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_run(source)
    whole = shutil.copytree(source, tmp_path / "whole")
    assert do("proxies.train", whole / "run.yaml").code == 0
    expected = run_result(whole / "run")
    for limit in limits(whole, 10 if ALL else 1, name="train"):
        folder = shutil.copytree(source, tmp_path / str(limit))
        full = do("proxies.train", folder / "run.yaml", file_size=limit)
        note(capsys, "train", f"{limit:,} bytes", f"exit {full.code}", full.error if full.code else "enough")
        assert full.code == 0 or any(words in full.error for words in SAYS_SO), (limit, full)
        assert not leftovers(folder), limit
        resumed = do("proxies.train", folder / "run.yaml", "--resume", "auto")
        assert resumed.code == 0, (limit, full, resumed)
        assert run_result(folder / "run") == expected, limit


def test_score_and_export_on_a_full_disk_say_so_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    run = tmp_path / "run"
    assert do("proxies.train", tmp_path / "run.yaml").code == 0
    assert do("proxies.score", run).code == 0
    expected, before = scores_result(run), (run / "mixture.json").read_bytes()
    for limit in limits(run / "scores", 10 if ALL else 1, name="score"):
        shutil.rmtree(run / "scores")
        full = do("proxies.score", run, file_size=limit)
        note(capsys, "score", f"{limit:,} bytes", f"exit {full.code}", full.error if full.code else "enough")
        assert full.code == 0 or any(words in full.error for words in SAYS_SO), (limit, full)
        assert not leftovers(run), limit
        assert do("proxies.score", run).code == 0
        assert scores_result(run) == expected, limit
    for words in (["export", run], ["report", run], ["plot", run]):
        held = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
        full = do("mixtures.__main__", *words, file_size=1000)
        note(capsys, words[0], "1,000 bytes", f"exit {full.code}", full.error if full.code else "enough")
        assert full.code == 2
        assert "File too large" in full.error
        assert all(path.read_bytes() == content for path, content in held.items())
        assert not leftovers(run)
    assert (run / "mixture.json").read_bytes() == before
