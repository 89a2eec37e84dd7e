"""proxies.compare again on the same directory: only what is missing, and never results of different settings
together.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixtures import Mixture
from mixtures.compare.directory import read_comparison
from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.locks import locked
from mixtures.sums import add_sums
from proxies.comparison import base
from proxies.comparison.records import require_same, save_base
from proxies.comparison.settings import CompareSettings
from proxies.config import load
from proxies.step import Stepper
from tests.faults.helpers import start
from tests.proxies.comparison.helpers import FIXED, compare, message, results, stamps, write_comparison
from tests.proxies.helpers import forget_id, kill_at, write_domain

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(method of the mixture, seed) of every base run that is started."""
    started: list[tuple[str, int]] = []
    train_base = base.train_base

    def noted(*arguments: Any, seed: int, **names: Any) -> base.BaseRun:
        started.append((arguments[2].provenance.method, seed))
        return train_base(*arguments, seed=seed, **names)

    monkeypatch.setattr("proxies.comparison.run.train_base", noted)
    return started


def test_a_rerun_does_nothing_and_a_new_seed_or_mixture_only_itself(tmp_path: Path, trained: list) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    assert compare(path) == 0
    before, first = stamps(tmp_path / "comparison"), results(tmp_path)
    assert trained == [("uniform", 0), ("natural", 0), ("stable", 0)]
    assert compare(path) == 0
    assert stamps(tmp_path / "comparison") == before
    assert results(tmp_path).equals(first)
    trained.clear()
    assert compare(path, "--seeds", "[0, 3]") == 0
    assert trained == [("uniform", 3), ("natural", 3), ("stable", 3)]
    trained.clear()
    assert (
        compare(path, "--seeds", "[0, 3]", "--mixtures.warm.fixed", "temperature", "--mixtures.warm.temperature", "2")
        == 0
    )
    assert trained == [("temperature", 0), ("temperature", 3)]
    assert before.items() <= stamps(tmp_path / "comparison").items()
    kept = load(CompareSettings, tmp_path / "comparison/config.yaml")
    assert (kept.seeds, list(kept.mixtures)) == ((0, 3), ["uniform", "natural", "stable", "warm"])


def test_seeds_of_two_commands_come_together(tmp_path: Path) -> None:
    path = write_comparison(tmp_path)
    assert compare(path, "--seeds", "0") == 0
    assert compare(path, "--seeds", "1") == 0
    assert compare(path, "--seeds", "[0, 1]", "--run_dir", tmp_path / "whole") == 0
    order = ["mixture", "seed", "step", "domain"]
    parts, whole = (results(tmp_path, name).sort_values(order, ignore_index=True) for name in ("comparison", "whole"))
    assert parts.equals(whole)
    assert "2 seeds (0, 1)" in " ".join((tmp_path / "comparison/summary.txt").read_text().split())


def test_an_interrupted_base_is_retrained_and_finished_ones_are_kept(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_comparison(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("proxies.comparison.run.save_base", _interrupt_at("natural"))
        with pytest.raises(KeyboardInterrupt):
            compare(path)
    assert not (tmp_path / "comparison/bases/natural").exists()
    trained.clear()
    assert compare(path) == 0
    assert trained == [("natural", 0)]


def _interrupt_at(name: str) -> Any:
    def save(run_path: Path, mixture: str, *arguments: Any) -> None:
        if mixture == name:
            raise KeyboardInterrupt
        save_base(run_path, mixture, *arguments)

    return save


def test_a_learned_run_that_stopped_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    kill_at(monkeypatch, Stepper, 5, lambda: compare(path))
    assert compare(path) == 0
    assert compare(path, "--run_dir", tmp_path / "whole") == 0
    weights = [Mixture.load(tmp_path / name / "mixtures/stable.json").weights_at(0) for name in ("comparison", "whole")]
    assert weights[0] == weights[1]


def test_another_command_may_look_at_the_directory_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    other, replace, looks = load(CompareSettings, path), os.replace, []

    def replace_and_look(*places: Any) -> None:
        replace(*places)
        require_same(other)
        looks.append(places)

    monkeypatch.setattr(os, "replace", replace_and_look)
    assert compare(path) == 0
    assert len(looks) > 10


def test_a_directory_that_disappears_while_another_command_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    assert compare(path) == 0
    checkpoints, scan = tmp_path / "comparison/learned/stable/checkpoints", os.scandir

    def removed_first(place: Any) -> Any:
        if not isinstance(place, int) and Path(place).parent == checkpoints:
            shutil.rmtree(place)
        return scan(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", removed_first)
        require_same(load(CompareSettings, path))


def test_a_lock_keeps_a_second_command_from_learning_the_same_mixture(tmp_path: Path) -> None:
    with locked(tmp_path / "x.lock") as held:
        assert held
        with locked(tmp_path / "x.lock", wait=False) as also:
            assert not also
    with locked(tmp_path / "x.lock", wait=False) as free:
        assert free


def test_changed_settings_are_refused_with_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    assert compare(path) == 0
    before = stamps(tmp_path / "comparison")
    for flags, part in (
        (("--train.lr", "0.02"), "train.lr: 0.01 -> 0.02"),
        (("--corpus.held_out", "0.4"), "corpus.held_out: 0.3 -> 0.4"),
        (("--mixtures.natural.fixed", "uniform"), "mixtures.natural.fixed: 'natural' -> 'uniform'"),
        (("--mixtures.stable.learn.tau", "2"), "mixtures.stable.learn.tau: None -> 2.0"),
        (("--proxy.train.steps", "7"), "mixtures.stable.train.steps: 6 -> 7"),
        (("--objective.digits", "1"), "mixtures.stable.learn.objective"),
    ):
        if flags[0].startswith("--objective"):
            path.write_text(path.read_text() + "objective: {digits: 1}\n")
        said = message(capsys, path, *flags)
        assert part in said
        assert "results of different settings are not compared" in said
        assert "new run_dir" in said
    assert stamps(tmp_path / "comparison") == before


def test_a_mixture_whose_shares_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = tmp_path / "shares.json"
    shares.write_text(json.dumps({"vowels": 0.5, "consonants": 0.25, "digits": 0.25}))
    path = write_comparison(tmp_path, mixtures={**FIXED, "mine": {"file": "shares.json"}})
    assert compare(path) == 0
    shares.write_text(json.dumps({"vowels": 0.25, "consonants": 0.25, "digits": 0.5}))
    said = message(capsys, path)
    for part in ("mixtures.mine differs from", "vowels: 0.5 -> 0.25", "digits: 0.25 -> 0.5", "new name"):
        assert part in said


def test_changed_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(tmp_path)
    assert compare(path) == 0
    write_domain(tmp_path / "digits.jsonl", "0123456789 ", seed=1)
    assert "digits changed since the run started" in message(capsys, path)


def test_a_full_disk_says_that_finished_bases_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes | str) -> None:
        if "bases" in path.parts:
            raise OSError(28, "No space left on device")
        write_atomic(path, data)

    monkeypatch.setattr("proxies.comparison.records.write_atomic", full)
    said = message(capsys, write_comparison(tmp_path))
    for part in ("base run of uniform, seed 0", "No space left", "the same command again"):
        assert part in said


@pytest.mark.parametrize("name", ["seed-0.json", "seed-0.parquet", "seed-0-rows.parquet", "_SHA256SUMS"])
def test_base_runs_of_another_comparison_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = write_comparison(tmp_path, mixtures=FIXED)
    assert compare(path) == 0
    whole = results(tmp_path)
    assert compare(path, "--run_dir", tmp_path / "other", "--train.lr", 0.02) == 0
    place = tmp_path / "comparison" / "bases" / "natural" / name
    shutil.copyfile(tmp_path / "other" / "bases" / "natural" / name, place)
    with pytest.raises(UserError, match=r"comes from another run|belongs to run"):
        read_comparison(tmp_path / "comparison")
    assert "from a copy" in message(capsys, path)
    if name != "_SHA256SUMS":
        (place.parent / "seed-0.json").unlink()  # what the message says
        assert compare(path) == 0
        assert results(tmp_path).equals(whole)


def test_a_kill_before_the_sums_of_a_base_run_trains_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_comparison(tmp_path, mixtures=FIXED)
    assert compare(path, "--run_dir", tmp_path / "whole") == 0

    def killed(directory: Path, *arguments: Any, **keywords: Any) -> None:
        if "bases" in directory.parts:
            raise KeyboardInterrupt
        add_sums(directory, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("proxies.comparison.records.add_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(path)
    assert (tmp_path / "comparison" / "bases" / "uniform" / "seed-0.json").is_file()
    assert compare(path) == 0
    assert results(tmp_path).equals(results(tmp_path, "whole"))


def test_base_runs_of_an_earlier_version_are_read_unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(tmp_path, mixtures=FIXED)
    assert compare(path) == 0
    forget_id(tmp_path / "comparison")
    for sums in (tmp_path / "comparison").rglob("_SHA256SUMS"):
        sums.unlink()
    assert compare(path, "--seeds", "[0, 1]") == 0
    assert not list((tmp_path / "comparison" / "bases").rglob("_SHA256SUMS"))
    torn = tmp_path / "comparison" / "bases" / "natural" / "seed-0.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    assert "seed-0.parquet cannot be read: it is torn or damaged" in message(capsys, path)


def test_two_commands_at_once_with_different_seeds_share_what_is_learned(tmp_path: Path) -> None:
    mixtures = {**FIXED, "stable": {"learn": {"preset": "stable"}}, "paper": {"learn": {"preset": "paper"}}}
    path = write_comparison(
        tmp_path, mixtures=mixtures, proxy={"train": {"steps": 10, "rows_per_domain": 4, "evaluate_rows": 4}}
    )
    commands = [start("proxies.compare", path, "--seeds", str(seed)) for seed in (0, 1)]
    ended = [command.end() for command in commands]
    assert [each.code for each in ended] == [0, 0], ended
    assert sum(each.said.count(f"learning {name}") for each in ended for name in ("stable", "paper")) == 2
    assert compare(path, "--seeds", "[0, 1]", "--run_dir", tmp_path / "whole") == 0
    assert compare(path, "--seeds", "[0, 1]") == 0
    order = ["mixture", "seed", "step", "domain"]
    parts, whole = (results(tmp_path, name).sort_values(order, ignore_index=True) for name in ("comparison", "whole"))
    assert parts.equals(whole)
