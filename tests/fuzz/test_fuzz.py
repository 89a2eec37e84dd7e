"""The fuzzer finds nothing, and would find what is planted."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import mutators, run, slow_reader, targets
from tests.proxies.helpers import REPOSITORY, clean_environment

UNHARMED = """
import sys
from tests.fuzz import mutators, run
mutators.file = mutators.directory = lambda *_: "unharmed"
mutators.value = lambda draw, old=None: old
mutators.words = lambda draw, line: line
mutators.text = mutators.binary = lambda draw, content: content
sys.exit(run.main(sys.argv[1:]))
"""


def fuzz(*words: str, start: tuple[str, ...] = ("-m", "tests.fuzz.run")) -> subprocess.CompletedProcess[str]:
    """The fuzzer in a process of its own, which loads everything once."""
    command = [sys.executable, *start, *words]
    return subprocess.run(command, cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_hundred_damaged_inputs_are_refused_or_read_whole() -> None:
    done = fuzz("--seed", "0", "--cases", "100")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_inputs_without_damage_are_read_whole_by_every_target() -> None:
    done = fuzz("--seed", "0", "--cases", "40", "--all", start=("-c", UNHARMED))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    refused = re.findall(r"refused: \n.*\n.*", done.stdout)
    assert len(refused) <= 2, refused  # the default of a setting may not fit the others


def work_inside(_: list[str]) -> int:
    Path("out").mkdir()
    Path("out/result").write_text("in its place")
    return 0


def refuse(_: list[str]) -> int:
    print("error: data.csv has no line; give one", file=sys.stderr)
    return 2


def fail(_: list[str]) -> int:
    raise KeyError("text")


def end_with_1(_: list[str]) -> int:
    return 1


def crash(_: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def hang(_: list[str]) -> int:
    time.sleep(60)
    return 0


def change_input(_: list[str]) -> int:
    Path("data.csv").write_text("changed")
    return 0


def leave_temporary(_: list[str]) -> int:
    Path("out").mkdir()
    Path("out/.result.12-ab.tmp").write_text("half")
    return 0


def write_elsewhere(_: list[str]) -> int:
    try:
        Path("../elsewhere").write_text("outside")
    except PermissionError:
        return 0
    return 1


def start_program(_: list[str]) -> int:
    subprocess.run(["true"])
    return 0


def refuse_twice(_: list[str]) -> int:
    return refuse(_) and refuse(_)


def refuse_mutely(_: list[str]) -> int:
    return 2


def color_the_terminal(_: list[str]) -> int:
    print("\x1b[31mvowels\x1b[0m")
    return 0


def flood(_: list[str]) -> int:
    print("error: " + "x" * 50_000, file=sys.stderr)
    return 2


PLANTED = {
    work_inside: "ok",
    refuse: "refused",
    fail: "traceback",
    end_with_1: "traceback",
    crash: "crash",
    hang: "hang",
    change_input: "stray file",
    leave_temporary: "stray file",
    write_elsewhere: "stray file",
    start_program: "stray file",
    refuse_twice: "bad message",
    refuse_mutely: "bad message",
    color_the_terminal: "bad message",
    flood: "bad message",
}


def judged(work: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[list[str]], int], lost: str = "") -> run.Result:
    """What a case is judged as whose command is `act`, in a directory with one input."""
    for name in ("base", "home"):
        (work / name).mkdir()
    (work / "base" / "data.csv").write_text("text\n")
    case = targets.Case(act, ["act"], "nothing", ("out",), lambda: lost)
    monkeypatch.setattr(targets, "make_case", lambda *_: ("planted", case))
    return run.in_child(work, "case", lambda: run.one_case(work, 0, 0, ""), seconds=2)


@pytest.mark.slow
@pytest.mark.parametrize("act", PLANTED, ids=lambda act: act.__name__)
def test_a_planted_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable) -> None:
    result = judged(tmp_path, monkeypatch, act)
    assert result.outcome == PLANTED[act], result


@pytest.mark.slow
def test_a_success_without_some_text_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(tmp_path, monkeypatch, work_inside, lost="vowels: 3 texts").outcome == "lost text"


@pytest.mark.parametrize("damage", [mutators.text, mutators.binary, mutators.csv_table])
def test_the_same_seed_does_the_same_damage(damage: Callable[[random.Random, bytes], bytes]) -> None:
    content = b"index,vowels,digits\n1,0.25,0.75\n2,0.5,0.5\n"
    once, again, other = ([damage(random.Random(f"{seed}-{n}"), content) for n in range(30)] for seed in (1, 1, 2))
    assert once == again
    assert once != other


@pytest.mark.parametrize("kind", slow_reader.READERS)
@pytest.mark.parametrize("compression", ["", *slow_reader.COMPRESS])
def test_the_slow_reader_reads_what_is_written(tmp_path: Path, kind: str, compression: str) -> None:
    texts = ["plain", 'a "quoted", text', "two\nlines", "two\nlines", "漢字 😀"]
    content = targets.written(texts, kind)
    path = tmp_path / f"text.{kind}{'.' * bool(compression)}{compression}"
    path.write_bytes(slow_reader.COMPRESS[compression](content) if compression else content)
    assert slow_reader.read_texts(path) == Counter(["\n".join(texts)] if kind == "txt" else texts)
