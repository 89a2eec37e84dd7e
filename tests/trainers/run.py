"""Run the trainers' own code on our files: `make test-trainers`. Standard library only; each environment gets a virtual
one of its own.

    python tests/trainers/run.py [--venvs DIR] [NAME ...]      # NAME: of an environment, or part of a test file's name

envs/NAME.txt holds the pins of one environment, the complete list (installed with --no-deps: nothing is resolved,
nothing fights), and in its first line the test files that run in it. A virtual environment is made again when its pins
change. An environment that cannot be installed (no wheel for this machine, no network) is a skip with a reason, as a
test is whose package is missing.
"""

import argparse
import ast
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = "# tests:"
PINNED_FOR = (3, 11)
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Environment:
    """One file of envs/: pins as pip reads them, and the test files that need them."""

    name: str
    pins: Path
    tests: tuple[str, ...]


@dataclass
class Outcome:
    """Of one test file, or of an environment that could not be made."""

    environment: str
    test: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    skips: list[str] = field(default_factory=list)  # reasons


def main(argv: Sequence[str] | None = None) -> int:
    """0 where something ran and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these environments or test files (a part of a name will do)"
    )
    parser.add_argument(
        "--venvs",
        type=Path,
        default=HERE.parents[1] / ".venvs",
        help="where the virtual environments are (default: .venvs)",
    )
    arguments = parser.parse_args(argv)
    chosen = list(choose(environments(), arguments.names))
    if not chosen:
        names = ", ".join(environment.name for environment in environments())
        print(
            f"error: no environment or test file is called {', '.join(arguments.names)}; environments: {names}",
            file=sys.stderr,
        )
        return 2
    if sys.version_info[:2] != PINNED_FOR:
        print(
            f"note: the pins are for Python {'.'.join(map(str, PINNED_FOR))}; with another one packages may be missing",
            flush=True,
        )
    began = time.monotonic()
    outcomes = [
        outcome for environment in chosen for outcome in run_environment(environment, arguments.venvs.absolute())
    ]
    print(f"\n{summary(outcomes)}\n{time.monotonic() - began:.0f} seconds, with the installation of what was not there")
    return int(any(outcome.failed for outcome in outcomes) or not any(outcome.passed for outcome in outcomes))


def environments(folder: Path = HERE / "envs") -> list[Environment]:
    """All of them, by name. Raises SystemExit for a file without its line of tests, and for tests that are in no or in
    two of them.
    """
    found = []
    for path in sorted(folder.glob("*.txt")):
        first = path.read_text().split("\n", 1)[0]
        if not first.startswith(TESTS) or not first.removeprefix(TESTS).split():
            raise SystemExit(f"error: {path}: the first line is {first!r}; begin with `{TESTS} test_a.py test_b.py`")
        found.append(Environment(path.stem, path, tuple(first.removeprefix(TESTS).split())))
    named, there = (
        Counter(test for each in found for test in each.tests),
        {path.name for path in folder.parent.glob("test_*.py")},
    )
    if wrong := sorted({test for test, times in named.items() if times > 1} | named.keys() ^ there):
        raise SystemExit(
            f"error: {', '.join(wrong)}: every test file stands in the first line of one file of {folder}, and is there"
        )
    return found


def choose(known: Sequence[Environment], names: Sequence[str]) -> Iterator[Environment]:
    """The environments of these names whole, of others the test files whose names contain one; all without names."""
    for environment in known:
        whole = not names or environment.name in names
        tests = tuple(test for test in environment.tests if whole or any(name in test for name in names))
        if tests:
            yield Environment(environment.name, environment.pins, tests)


def run_environment(environment: Environment, venvs: Path) -> Iterator[Outcome]:
    """Its test files one by one, each in a process of its own."""
    try:
        python = make(environment, venvs / environment.name)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout or str(error)).strip().splitlines()[-1]
        for test in environment.tests:
            yield Outcome(environment.name, test, skips=[f"its environment cannot be installed: {reason}"])
        return
    for test in environment.tests:
        yield run_test(python, environment.name, HERE / test)


def make(environment: Environment, venv: Path) -> Path:
    """The environment's interpreter; the environment is made where it is not there or has other pins. Raises
    CalledProcessError.
    """
    python, stamp = venv / "bin" / "python", venv / "pins.sha256"
    pins = hashlib.sha256("\n".join(environment.pins.read_text().split("\n")[1:]).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    print(f"installing {environment.name} into {venv}", flush=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-compile", "-r"]
    for command in ([sys.executable, "-m", "venv", "--clear", venv], [*pip, environment.pins]):
        subprocess.run(command, check=True, capture_output=True, text=True)
    stamp.write_text(pins)
    return python


def run_test(python: Path, environment: str, test: Path) -> Outcome:
    """What pytest says of one test file; its own output is printed. A process that dies is a failure."""
    print(f"{environment}: {test.name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [
            python,
            "-m",
            "pytest",
            "-c",
            test.with_name("pytest.ini"),
            f"--junitxml={report}",
            "--no-header",
            test,
        ]
        subprocess.run(words, cwd=test.parent, env={**os.environ, **OFFLINE}, check=False)
        outcome = read_report(report, Outcome(environment, test.name))
    outcome.seconds = time.monotonic() - began
    return outcome


def read_report(report: Path, outcome: Outcome) -> Outcome:
    """The outcome with what pytest's XML counts: passed, failed (errors too), reasons of the skips."""
    if not report.is_file():
        outcome.failed = 1
        return outcome
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif skipped is not None:
            whole_file = skipped.get("message") == "collection skipped"  # its text is a tuple: path, line, reason
            reason = ast.literal_eval(skipped.text or "")[2] if whole_file else skipped.get("message", "no reason")
            outcome.skips.append(reason.removeprefix("Skipped: "))
        else:
            outcome.passed += 1
    return outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line a test file, then the skips with their reasons and how often each."""
    header = ("environment", "test", "passed", "skipped", "failed", "seconds")
    rows = [
        (o.environment, o.test, str(o.passed), str(len(o.skips)), str(o.failed), f"{o.seconds:.0f}") for o in outcomes
    ]
    total = ("all", f"{len(rows)} files", *(str(sum(int(row[column]) for row in rows)) for column in (2, 3, 4, 5)))
    lines = [header, *rows, total]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            cell.ljust(w) if c < 2 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    skips = Counter((outcome.test, reason) for outcome in outcomes for reason in outcome.skips)
    text.append(f"skipped: {sum(skips.values())}")
    return "\n".join([*text, *(f"  {times} x {test}: {reason}" for (test, reason), times in skips.items())])


if __name__ == "__main__":
    sys.exit(main())
