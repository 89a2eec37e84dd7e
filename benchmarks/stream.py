"""How fast MixtureStream gives rows, beside `datasets.interleave_datasets`, MosaicML streaming and grain.

    python benchmarks/stream.py [-o benchmarks/results/stream.json] [--rounds 11] [--cpu 1] [--others VENV/bin/python]

What is read: 2^26 random tokens, uniform over 50,000, in 11 or 300 domains of equal size, as flat uint16 files (134 MB)
that stay in the page cache; shares between 1 and 5 to each other, drawn with seed 0. All readers (stream_readers.py)
mix the same rows with the same shares and give int64.

For every case (domains, row length, world size) each reader has a process of its own, one thread, bound to one
processor. In every round each of them reads for some tenths of a second of *processor* time in turn while the others
are stopped; the order is turned by one each round. Numbers are medians over rounds. Tokens per processor second leave
out the time in which other programs had the processor; the ratio is of these, to `stream, take(256)` in the same round.
Tokens per second are of the clock on the wall.

private_mb: private memory (anonymous and shared, not the page cache) after that many rows. share_error: largest
|achieved - wanted| share after the first 10,000 rows (and the rest of a block). first_row_s: processor seconds to open
everything and read one block.
resume_at_row_1e6: see stream_readers.resume. A world of 1024 is rank 0's part alone, in tokens of that rank.
--others: a Python that has mosaicml-streaming and grain; without it they are left out.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

TOKENS, VOCABULARY, SEED = 2**26, 50_000, 0
CASES = [(domains, row_tokens, world) for world in (1, 1024) for domains in (11, 300) for row_tokens in (128, 2048)]
OURS = ("stream, rows", "stream, take(256)", "stream, TorchRows + DataLoader")
DATASETS = ("datasets map, rows", "datasets map, 256 rows", "datasets iterable, 256 rows")
OTHERS = {"mosaicml-streaming": "mosaicml-streaming", "grain": "grain"}  # reader: package
ONE_WORLD = (
    "datasets iterable, 256 rows",
    "mosaicml-streaming",
)  # the first reads every row on every rank, the second wants all ranks there
FIRST = (
    "datasets map, rows",
    "mosaicml-streaming",
)  # write the copies in their own format, in a process that is not measured
LICENCES = {"datasets": "Apache-2.0", "mosaicml-streaming": "Apache-2.0", "grain": "Apache-2.0"}
REFERENCE = "stream, take(256)"
HERE = Path(__file__).resolve().parent


class Reader:
    """A process of stream_readers.py; stopped but for the time of an order."""

    def __init__(self, name: str, case: Path, python: str, cpu: int) -> None:
        self.name = name
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parent),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = ["taskset", "-c", str(cpu), python, str(HERE / "stream_readers.py"), name, str(case)]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.first_row_s = self._answer()["first_row_s"]
        os.kill(self._process.pid, signal.SIGSTOP)

    def __call__(self, order: str, value: Any) -> dict[str, Any]:
        """Its answer to an order."""
        os.kill(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(json.dumps([order, value]) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        answer = self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)
        return answer

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"the reader {self.name} ended (exit code {self._process.wait()}); its message is above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Run every case and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "stream.json")
    parser.add_argument(
        "--rounds", type=int, default=11, help="after one that is not counted; half as many for a world of 1024"
    )
    parser.add_argument("--seconds", type=float, default=0.2, help="of processor time that a reader reads in a round")
    parser.add_argument(
        "--cpu", type=int, default=max(os.sched_getaffinity(0)), help="the processor that all readers run on"
    )
    parser.add_argument("--others", help="Python with mosaicml-streaming and grain")
    arguments = parser.parse_args()
    result = {
        "command": " ".join(["python", *sys.argv]),
        **where(arguments.others),
        "rounds": arguments.rounds,
        "seed": SEED,
        "cases": [],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for domains, row_tokens, world in CASES:
        with tempfile.TemporaryDirectory(prefix="stream-") as folder:
            case = write_case(Path(folder), domains=domains, row_tokens=row_tokens, world=world)
            pythons = dict.fromkeys((*OURS, *DATASETS), sys.executable)
            if arguments.others:
                pythons |= dict.fromkeys(OTHERS, arguments.others)
            pythons = {name: python for name, python in pythons.items() if world == 1 or name not in ONE_WORLD}
            measured = {
                "domains": domains,
                "row_tokens": row_tokens,
                "world": world,
                **measure(case, pythons, arguments),
            }
        result["cases"].append(measured)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(measured), flush=True)


def write_case(folder: Path, *, domains: int, row_tokens: int, world: int) -> Path:
    """The token files of a case and its description, case.json."""
    generator = np.random.default_rng(SEED)
    shares = generator.uniform(1, 5, size=domains)
    rows_each = TOKENS // domains // row_tokens
    for number in range(domains):
        tokens = generator.integers(VOCABULARY, size=(rows_each, row_tokens), dtype=np.uint16)
        tokens[:, 0] = number
        tokens.tofile(folder / f"d{number:03}.bin")
    case = {
        "folder": str(folder),
        "shares": (shares / shares.sum()).tolist(),
        "row_tokens": row_tokens,
        "rows_each": rows_each,
        "world": world,
    }
    (folder / "case.json").write_text(json.dumps(case))
    return folder / "case.json"


def measure(case: Path, pythons: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one case."""
    known, before = json.loads(case.read_text()), os.getloadavg()
    for name in set(FIRST) & set(pythons):
        with Reader(name, case, pythons[name], arguments.cpu):
            pass
    readers = {name: Reader(name, case, python, arguments.cpu) for name, python in pythons.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"first_row_s": round(reader.first_row_s, 3)} for name, reader in readers.items()
    }
    extra = {}
    try:
        if known["world"] == 1:
            for name, reader in readers.items():
                found[name] |= reader("beginning", 200_000 if name in OURS else 10_000)
        rounds = []
        for number in range(1 + (arguments.rounds if known["world"] == 1 else max(arguments.rounds // 2, 2))):
            turn = number % len(readers)
            order = [*readers][turn:] + [*readers][:turn]
            rounds.append({name: readers[name]("speed", arguments.seconds) for name in order})
        for name in readers:
            found[name] |= summary(name, rounds[1:])
        if known["world"] == 1 and known["row_tokens"] == 128:
            extra["resume_at_row_1e6"] = readers[REFERENCE]("resume", 10**6)
    finally:
        for reader in readers.values():
            reader.__exit__()
    return {"readers": found, **extra, "load_average": {"before": before, "after": os.getloadavg()}}


def summary(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians and quartiles over rounds of one reader."""
    speeds = [one[name]["tokens_per_second"] for one in rounds]
    cpu = [one[name]["tokens_per_cpu_second"] for one in rounds]
    ratios = [one[name]["tokens_per_cpu_second"] / one[REFERENCE]["tokens_per_cpu_second"] for one in rounds]
    return {
        "tokens_per_second": round(statistics.median(speeds)),
        "tokens_per_second_quartiles": [round(value) for value in statistics.quantiles(speeds, n=4)[::2]],
        "tokens_per_cpu_second": round(statistics.median(cpu)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)[::2]],
    }


def where(others: str | None) -> dict[str, Any]:
    """Machine, versions and licences of what is compared, commit and the measured files that differ from it."""
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    versions = {"python": platform.python_version()} | versions_of(sys.executable, ["numpy", "torch", "datasets"])
    if others:
        versions["others"] = versions_of(others, ["numpy", *OTHERS.values()])
    changed = said(["git", "-C", str(HERE), "status", "--porcelain", "../mixtures", "stream.py", "stream_readers.py"])
    return {
        "machine": f"{model}, {os.cpu_count()} processors, one used",
        "versions": versions,
        "licences": LICENCES,
        "commit": said(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]),
        "changed_since_commit": changed.splitlines(),
        "date": time.strftime("%Y-%m-%d"),
    }


def versions_of(python: str, packages: list[str]) -> dict[str, str]:
    """Installed versions in the environment of a Python."""
    script = (
        "import importlib.metadata, json, sys; print(json.dumps({name: importlib.metadata.version(name) for "
        "name in sys.argv[1:]}))"
    )
    return json.loads(said([python, "-c", script, *packages]))


def said(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
