"""Records are read once and handed on: the end of a run, a comparison, the plots of a scored run."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import proxies
from mixtures.__main__ import main as mixtures_main
from mixtures.run import evaluation, trajectory
from mixtures.run.parts import Part
from mixtures.run.run import RunRecord, read_run
from mixtures.samples import scores
from proxies.learn import finish
from proxies.settings import load_settings
from tests.mixtures.helpers import make_run
from tests.mixtures.samples.score_helpers import make_scores
from tests.proxies.comparison.helpers import FIXED, compare, write_comparison
from tests.proxies.helpers import run, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often every part of a run's records was read, by its path; parts with their grams by `grams PATH`."""
    count: Counter[str] = Counter()
    read = trajectory.read_part

    def counted(part: Part, *columns: Callable[[str], bool]) -> Any:
        grams = "grams " if columns and columns[0]("gram") else ""
        count[f"{grams}{part.path.parent.name}/{part.path.name}"] += 1
        return read(part, *columns)

    for module in (trajectory, evaluation):
        monkeypatch.setattr(module, "read_part", counted)
    return count


def test_the_end_of_a_run_reads_each_of_its_records_once(tmp_path: Path, reads: Counter[str]) -> None:
    path = write_run(tmp_path, targets=True)
    assert run(path) == 0
    reads.clear()
    finish(load_settings(path))
    parts = sorted(part.name for part in (tmp_path / "run" / "trajectory").glob("part-*"))
    held_out = sorted(part.name for part in (tmp_path / "run" / "evaluation").glob("part-*"))
    assert len(parts) == 3
    wanted = [*(f"trajectory/{name}" for name in parts), *(f"grams trajectory/{name}" for name in parts)]
    assert reads == Counter([*wanted, *(f"evaluation/{name}" for name in held_out)])


def test_a_run_from_python_is_the_run_of_the_command_and_returns_its_record(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    record = proxies.train(proxies.load_settings(path))  # type: ignore[operator]
    assert isinstance(record, RunRecord)
    assert record.path == tmp_path / "run"
    assert run(path, "--run_dir", tmp_path / "again") == 0
    assert (read_run(tmp_path / "again").trajectory.weights == record.trajectory.weights).all()


def test_a_comparison_reads_each_base_run_once_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_comparison(tmp_path, mixtures=FIXED)
    assert compare(path) == 0
    count: Counter[str] = Counter()
    read = pd.read_parquet

    def counted(source: Any, *arguments: Any, **keywords: Any) -> Any:
        count[Path(source).relative_to(tmp_path / "comparison").as_posix()] += 1
        return read(source, *arguments, **keywords)

    monkeypatch.setattr(pd, "read_parquet", counted)
    assert compare(path) == 0  # nothing to train: tables and verdict again
    bases = sorted((tmp_path / "comparison" / "bases").rglob("*.parquet"))
    assert bases
    assert count == Counter(base.relative_to(tmp_path / "comparison").as_posix() for base in bases)


def test_the_plots_of_a_scored_run_read_each_part_of_its_scores_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: Counter[str]
) -> None:
    directory = make_run(tmp_path / "run", steps=4)
    make_scores(directory, dict.fromkeys(("wiki_en", "wiki_de", "forum"), 30), few=True)
    count: Counter[int] = Counter()
    read = scores._read_part

    def counted(run_dir: Path, number: int, columns: list[str]) -> Any:
        count[number] += 1
        return read(run_dir, number, columns)

    monkeypatch.setattr(scores, "_read_part", counted)
    reads.clear()
    assert mixtures_main(["plot", str(directory), "-o", str(tmp_path / "plots")]) == 0
    assert count == Counter(range(3))
    assert set(reads.values()) == {1}
