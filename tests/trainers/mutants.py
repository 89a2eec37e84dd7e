"""Break the conversion on purpose, and see that the tests of every format notice:
`python tests/trainers/mutants.py [NAME ...]`.

Each mutant is one edit of a copy of `mixtures`. The edit is made where all formats begin, so that what was asked, the
report and the conversion's own checks are wrong together, and only a comparison with what the trainer gives can tell.
It leaves a mark when it runs: a test file that never reaches it (steps, in a format that counts none) is no witness and
gets a `-`. Run `run.py` first: it makes the virtual environments. Formats without a trainer here
(tests/mixtures/convert/formats) run in this Python. Standard library only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from run import HERE, OFFLINE, choose, environments

ROOT = HERE.parents[1]
FORMATS = "tests/mixtures/convert/formats"
MARK = "MUTANT_MARK"  # environment variable: the file that a mutant writes when it runs
REACHED = f"__import__('pathlib').Path(__import__('os').environ['{MARK}']).touch()"


@dataclass(frozen=True)
class Mutant:
    """In the file `path`, `old` (there once) becomes `new`."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "weights swapped",
        "mixtures/convert/conversion.py",
        "    return {name: weight / total for name, weight in weights.items()}",
        f"    {REACHED}\n    first, second, *rest = weights\n    places = dict(zip(weights, (second, first, *rest)))\n"
        "    return {name: weights[places[name]] / total for name in weights}",
    ),
    Mutant(
        "unit forgotten",
        "mixtures/convert/job.py",
        "        means = {name: self.texts[name].mean_tokens for name in names}",
        f"        {REACHED}\n        means = {{name: 1.0 for name in names}}",
    ),
    Mutant(
        "stage dropped",
        "mixtures/convert/conversion.py",
        "    spans = _spans(plan, stages)\n",
        "    spans = _spans(plan, stages)\n    if len(spans) > 1:\n"
        f"        {REACHED}\n        before, last = spans[-2:]\n"
        "        whole = __import__('dataclasses').replace(before, tokens=before.tokens + last.tokens)\n"
        "        spans = (*spans[:-2], whole)\n",
    ),
    Mutant(
        "step too many",
        "mixtures/convert/steps.py",
        "    return [\n        Slot(first,",
        f"    if len(starts) > 1:\n        {REACHED}\n        steps = [0, *(step + 1 for step in steps[1:-1]), "
        f"steps[-1]]\n"
        "    return [\n        Slot(first,",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every test file that reaches a mutant fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these environments or test files (a part of a name will do)"
    )
    parser.add_argument(
        "--venvs", type=Path, default=ROOT / ".venvs", help="where run.py made the environments (default: .venvs)"
    )
    arguments = parser.parse_args(argv)
    found = {
        test: [see(mutant, test, python) for mutant in MUTANTS]
        for test, python in witnesses(arguments.names, arguments.venvs.absolute())
    }
    width = max((len(test) for test in found), default=0)
    print(f"\n{'test':<{width}}  " + "  ".join(mutant.name for mutant in MUTANTS))
    for test, words in found.items():
        print(
            f"{test:<{width}}  "
            + "  ".join(word.ljust(len(mutant.name)) for word, mutant in zip(words, MUTANTS, strict=True)).rstrip()
        )
    survived = sum(word == "SURVIVED" for words in found.values() for word in words)
    print(f"{survived} survived, of {sum(word != '-' for words in found.values() for word in words)} that were reached")
    return int(survived > 0 or not found)


def witnesses(names: Sequence[str], venvs: Path) -> Iterator[tuple[str, Path]]:
    """(test file from the root, the Python to run it with)."""
    for environment in choose(environments(), names):
        python = venvs / environment.name / "bin" / "python"
        if not python.is_file():
            raise SystemExit(f"error: {python} is not there; run tests/trainers/run.py first")
        yield from ((f"tests/trainers/{test}", python) for test in environment.tests)
    for path in sorted((ROOT / FORMATS).glob("test_*.py")):
        tried = (HERE / path.name).exists()
        if not tried and (not names or any(name in path.name for name in names)):
            yield f"{FORMATS}/{path.name}", Path(sys.executable)


def see(mutant: Mutant, test: str, python: Path) -> str:
    """`failed` (as it should), `SURVIVED`, or `-` where the test file never ran the edited line."""
    with tempfile.TemporaryDirectory() as folder:
        root, mark = Path(folder) / "copy", Path(folder) / "mark"
        copy(root, mutant)
        settings = root / ("tests/trainers/pytest.ini" if "trainers/" in test else "pyproject.toml")
        words = [python, "-m", "pytest", "-c", settings, "-x", "--no-header", "-p", "no:cacheprovider", root / test]
        surroundings = {**os.environ, **OFFLINE, "PYTHONPATH": str(root), MARK: str(mark)}
        done = subprocess.run(
            words, cwd=(root / test).parent, env=surroundings, capture_output=True, text=True, check=False
        )
        word = "-" if not mark.exists() else "SURVIVED" if done.returncode == 0 else "failed"
    last = next((line for line in reversed(done.stdout.splitlines()) if line.startswith(("FAILED", "ERROR"))), "")
    print(f"{mutant.name}: {test}: {word} {last}", flush=True)
    return word


def copy(root: Path, mutant: Mutant) -> None:
    """Of what the tests need, mutated. Raises SystemExit where the code has moved on from under the mutant."""
    for name in ("mixtures", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    path = root / mutant.path
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(
            f"error: {mutant.name}: {mutant.path} has its line {text.count(mutant.old)} times; bring the mutant up "
            f"to date"
        )
    path.write_text(text.replace(mutant.old, mutant.new))


if __name__ == "__main__":
    sys.exit(main())
