"""`_SHA256SUMS`: what is named there is finished, unchanged and of one run."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from mixtures.errors import UserError
from mixtures.sums import (
    NAME,
    add_sums,
    fault_of,
    merge_sums,
    new_run_id,
    read_run_id,
    read_sums,
    require_whole,
    write_sums,
)


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_sums_are_read_back_by_the_run_that_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "a b.parquet").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    add_sums(tmp_path, ["a b.parquet"], run_id="1234")
    add_sums(tmp_path, ["c"], run_id="1234")
    assert read_sums(tmp_path, run_id="1234") == {"a b.parquet": sum_of(b"one"), "c": sum_of(b"two")}
    with pytest.raises(UserError, match=r"belongs to run 1234, this is run 5678.*restore them from a copy"):
        add_sums(tmp_path, ["c"], run_id="5678")
    add_sums(tmp_path, ["c"], run_id="5678", new=True)
    assert list(read_sums(tmp_path, run_id="5678")) == ["c"]


def test_a_run_without_an_id_writes_and_checks_nothing(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"one")
    add_sums(tmp_path, ["part"], run_id=None)
    assert not (tmp_path / NAME).exists()
    require_whole(tmp_path / "part", run_id=None)
    with pytest.raises(UserError, match=r"part is not in _SHA256SUMS.*; make it again"):
        require_whole(tmp_path / "part", run_id="1234", remedy="make it again")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
def test_sha256sum_checks_them(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"one")
    add_sums(tmp_path, ["part"], run_id=new_run_id())
    command = ["sha256sum", "--check", "--strict", NAME]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "part: OK\n"
    (tmp_path / "part").write_bytes(b"two")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("damage", "line"), [((0, "!"), "first line"), ((3, "\n"), "first line"), ((11, "X"), "line 2")]
)
def test_a_damaged_file_of_sums_is_one_message(tmp_path: Path, damage: tuple[int, str], line: str) -> None:
    write_sums(tmp_path, {"part": sum_of(b"one")}, run_id="1234")
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(text[: damage[0]] + damage[1] + text[damage[0] + 1 :])
    with pytest.raises(UserError, match=rf"{NAME} is damaged: (its )?{line}.*restore it from a copy"):
        read_sums(tmp_path, run_id="1234")


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "part"
    assert fault_of(path, sum_of(b"one")) == "is missing"
    path.write_bytes(b"one")
    assert fault_of(path, sum_of(b"one")) is None
    assert "damaged, or comes from another run" in (fault_of(path, sum_of(b"two")) or "")
    assert "unfinished, or comes from another run" in (fault_of(path, None) or "")


def test_processes_unite_their_sums_without_a_torn_line(tmp_path: Path) -> None:
    write_sums(tmp_path, {"old": sum_of(b"0"), "again": sum_of(b"0")}, run_id="1234")
    for process in range(2):
        for name in (f"first-{process}", f"second-{process}"):
            (tmp_path / name).write_text(name)
            add_sums(tmp_path, [name], run_id="1234", process=process)
    (tmp_path / "again").write_bytes(b"1")
    add_sums(tmp_path, ["again"], run_id="1234", process=1)
    torn = tmp_path / f"{NAME}-0"
    torn.write_text(torn.read_text()[:-20])  # killed while it wrote second-0
    sums = merge_sums(tmp_path, run_id="1234")
    assert sorted(sums) == ["again", "first-0", "first-1", "old", "second-1"]
    assert sums["again"] == sum_of(b"1")
    assert read_sums(tmp_path, run_id="1234") == sums
    assert [path.name for path in tmp_path.glob("_*")] == [NAME]


@pytest.mark.parametrize(
    ("config", "run_id"),
    [("environment: {run_id: '0123'}", "0123"), ("environment: {python: x}", None), ("seed: 1", None), (None, None)],
)
def test_the_id_of_a_run_is_in_its_config(tmp_path: Path, config: str | None, run_id: str | None) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    assert read_run_id(tmp_path) == run_id
