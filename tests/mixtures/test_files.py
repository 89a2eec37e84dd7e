import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from mixtures.errors import UserError
from mixtures.files import (
    atomic_dir,
    check_path,
    is_url,
    read_json,
    read_yaml,
    without_home,
    without_places,
    write_atomic,
)


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_and_missing_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "file.json"
    write_atomic(path, "old")
    write_atomic(path, "neu: ä".encode())
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_parent_that_is_a_file_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"directory|exists") as caught:
        write_atomic(tmp_path / "file" / "child", "")
    assert caught.value.filename == str(tmp_path / "file" / "child")


def test_a_directory_appears_only_when_its_block_ended_well(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "checkpoint") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "state").write_text("1")
        assert not (tmp_path / "checkpoint").exists()
        assert directory.parent == tmp_path
    assert (tmp_path / "checkpoint" / "sub" / "state").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failing_block_leaves_no_directory(tmp_path: Path) -> None:
    def half(directory: Path) -> None:
        (directory / "half").write_text("1")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), atomic_dir(tmp_path / "checkpoint") as directory:
        half(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"), atomic_dir(tmp_path / "checkpoint") as directory:
        (directory / "state").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(FileExistsError, match="already exists"), atomic_dir(tmp_path / "checkpoint"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint"]


def test_a_directory_is_replaced_where_asked_once_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "old").touch()
    with suppress(RuntimeError), atomic_dir(tmp_path / "cache", replace=True):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "old"]
    with atomic_dir(tmp_path / "cache", replace=True) as directory:
        (directory / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "new"]


@pytest.mark.parametrize("text", ["a:\n  x: 1\n  y: 2\n  x: 3\n", "a: {x: 1,\n y: 2,\n 'x': 3}\n"])
def test_a_key_given_twice_in_yaml_is_refused_with_its_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert f"{path}: x is given twice in the block that starts at line" in str(caught.value)
    assert "lines" in str(caught.value)


def test_yaml_keys_that_replace_those_of_a_merged_block_are_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nouter:\n  b: &b\n    <<: *a\n    x: 2\nc:\n  <<: *b\n")
    assert read_yaml(path) == {"a": {"x": 1}, "outer": {"b": {"x": 2}}, "c": {"x": 2}}


def test_files_nested_too_deeply_are_one_message(tmp_path: Path) -> None:
    for name, levels, read in (("a.json", 100_000, read_json), ("a.yaml", 500, read_yaml)):
        path = tmp_path / name
        path.write_text("[" * levels + "]" * levels)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: its brackets are nested too deeply to be read; ")


@pytest.mark.parametrize("value", ["2024-02-30", "1" * 5000, "!!int one", "!!float x", "!!bool perhaps"])
def test_a_yaml_value_that_its_type_does_not_allow_is_one_message(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {value}\n")
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: YAML takes a value for a number or a date, and it is none: ")


def test_addresses_are_told_from_paths() -> None:
    assert all(map(is_url, ["s3://bucket/a", "hf://datasets/a/b", "memory:///a", "https://host/a"]))
    assert not any(map(is_url, ["a/b", "/a//b", "s3:/bucket", "a b://c", "://a", "run [s3://]"]))


def test_aliases_that_stand_for_very_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"its aliases \(\*name\) repeat blocks") as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 500
    path.write_text("a: &a [*a]")
    with pytest.raises(UserError, match="holds itself"):
        read_yaml(path)


def test_few_aliases_and_large_files_without_any_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}
    path.write_text("")
    assert read_yaml(path) is None


def test_a_number_of_4400_digits_in_json_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"a": {"9" * 4400}}}')
    with pytest.raises(UserError, match="cannot be read: Exceeds the limit"):
        read_json(path)


@pytest.mark.parametrize(
    ("path", "said"), [("a\0b", "has the character"), ("x" * 256, "too long"), ("x/" * 3000, "too long")]
)
def test_a_path_that_no_file_system_takes_is_refused_by_its_setting(path: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^run_dir: .*{said}"):
        check_path(path, "run_dir")
    check_path("é" * 127, "run_dir")


def test_the_home_directory_is_written_without_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert without_home("in /home/ann/runs, '/home/ann'; /home/anna/x /data/home/ann/y") == (
        "in ~/runs, '~'; /home/anna/x /data/home/ann/y"
    )
    monkeypatch.setenv("HOME", "/")
    assert without_home("/a/b") == "/a/b"


def test_a_directory_that_a_full_disk_stops_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, atomic_dir(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "out")


def test_a_page_for_sharing_shows_only_the_last_names_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    page = "<script>x=/a/b/.test(y)</script><p class='/x/y/z'>/mnt/secret/a.parquet, '/home/ann/b/c.yaml' https://h/a/b</p>"
    assert without_places(page) == (
        "<script>x=/a/b/.test(y)</script><p class='/x/y/z'>.../a.parquet, '.../c.yaml' https://h/a/b</p>"
    )
