"""The boundary of the commands: the true cause in one message, exit codes, and output that cannot steer a terminal."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from mixtures.__main__ import main
from mixtures.boundary import guard
from mixtures.errors import UserError
from mixtures.version import VERSION
from tests.mixtures.helpers import make_run


def raising(error: Exception) -> Callable[[], int]:
    def act() -> NoReturn:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("give another"), "give another"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "w.json"), "w.json: No space left on device; free some"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "w.json"), "w.json: Permission denied; allow it with chmod"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "w.json"), "w.json: Read-only file system; this file system"),
        (OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "a/b"), "a/b: Not a directory; a file stands where"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "n" * 999), "File name too long; a name has at"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "a file or a connection: Input/output error; the disk"),
        (OSError("no network"), "no network"),
        (OSError(), "error: OSError"),
        (RuntimeError("gloo: Connection closed by peer [::1]:4"), "another process of this run ended"),
        (RecursionError("maximum recursion depth exceeded"), "nests its brackets or blocks too deeply"),
        (OverflowError("int too large to convert to float"), "a number is larger than can be computed with"),
        (MemoryError(), "this needs more memory than there is"),
        (yaml.YAMLError("found a tab"), "a file is no valid YAML: correct it (YAMLError: found a tab)"),
        (ValueError("embedded null byte"), "a path has the character \\0"),
        (ValueError("Exceeds the limit (4300 digits) for integer string conversion"), "a number has too many digits"),
    ],
)
def test_what_is_no_fault_of_ours_is_one_message_and_exit_2(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard(raising(error)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert len(lines[0]) < 600


def test_links_in_a_circle_and_the_home_of_nobody_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert guard(lambda: len(loop.resolve(strict=True).name)) == 2
    assert "in a circle: remove one" in capsys.readouterr().err
    assert guard(lambda: len(Path("~nobody-by-this-name/x").expanduser().name)) == 2
    assert "write the whole path" in capsys.readouterr().err


def test_weights_that_cannot_be_written_are_named_without_loading_torch(capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import SafetensorError

    assert guard(raising(SafetensorError("I/O error: File too large"))) == 2
    assert "weights cannot be read or written: check the disk space" in capsys.readouterr().err


def test_anything_else_keeps_its_traceback_and_says_how_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(raising(ValueError("too many values to unpack"))) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    report = said[said.index("error: this is a fault of the program") :]
    assert f"the version: {VERSION}, Python " in report
    assert "  - the command: " in report
    form = Path(__file__).parents[2] / ".github/ISSUE_TEMPLATE/crash.md"
    asked = [line[2:].partition(":")[0] for line in form.read_text().splitlines() if line.startswith("- ")]
    assert len(asked) == report.count("\n  - "), "the form asks for the same"


def test_a_message_neither_fills_nor_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(raising(UserError("\n".join(["\x1b[2J" + "x" * 100_000] * 500)))) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[2J" in said
    assert len(said) < 500_000
    assert said.endswith("... and 300 more lines\n")


def test_show_writes_the_escape_sequences_of_a_file_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    assert main(["export", str(run)]) == 0
    record = json.loads((run / "mixture.json").read_text())
    record["tokenizer"]["name"] = "\x1b]0;pwned\x07\x1b[2J\u202egnp"
    del record["id"]
    (tmp_path / "w.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["show", str(tmp_path / "w.json")]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "\\x1b]0;pwned\\x07\\x1b[2J\\u202egnp" in out


def test_half_of_a_character_is_printed_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        print("a \ud800 b")
        return 0

    assert guard(act) == 0
    assert capsys.readouterr().out == "a \\ud800 b\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "end", "code", "said"),
    [
        ("--help", "| true", 0, ""),
        ("convert --list", "| true", 0, ""),
        ("convert --list", "> /dev/full", 2, "error: standard output: No space left on device"),
        ("show {run}/mixture.json", "> /dev/full", 2, "error: standard output: No space left on device"),
    ],
)
def test_output_that_goes_nowhere_is_no_traceback(words: str, end: str, code: int, said: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert main(["export", str(run)]) == 0
    command = f"{sys.executable} -m mixtures {words.format(run=run)} {end}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == (1 if said else 0)


def test_a_reader_that_stops_early_does_not_stop_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)

        def act() -> int:
            print("first", flush=True)
            (tmp_path / "w.json").write_text("{}")
            return 0

        assert guard(act) == 0
    assert (tmp_path / "w.json").exists()


def test_a_process_other_than_the_first_says_which_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert guard(raising(UserError("no rows")), rank=3) == 2
    assert capsys.readouterr().err == "[process 3] error: no rows\n"
    assert waited == [10]


def test_help_is_written_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "usage: mixtures" in out.getvalue()
