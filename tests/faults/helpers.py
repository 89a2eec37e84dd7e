"""Commands in processes of their own, to be killed, held to a file size or started together; and what they leave.

The processes are forked from a server that has loaded torch and the commands already, so that one starts in a moment.
"""

import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch.distributed import TCPStore

from mixtures import Mixture
from mixtures.run.evaluation import read_evaluation
from mixtures.run.trajectory import read_trajectory
from mixtures.samples.scores import read_scores

SEED = int(os.environ.get("SEED", 0))  # of the moments, sizes and damages
ALL = bool(os.environ.get("ALL_FAULTS"))  # `make faults`; else a few of each
only_faults = pytest.mark.skipif(not ALL, reason="`make faults` runs it")
LIMIT = 240  # seconds after which a process counts as hung
MEMORY = 6 << 30  # bytes of addresses that a process may have: a damaged size must not fill the machine
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # audit events; and opening to write:
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
COUNTED = "\n[changes of files, seconds] "
PRELOADED = ["proxies.learn", "proxies.scoring.run", "proxies.comparison.run", "mixtures.__main__", __name__]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Moment:
    """When to kill: after so many seconds, or before the process changes the files for the so-manieth time."""

    seconds: float | None = None
    change: int | None = None

    def __str__(self) -> str:
        return f"after {self.seconds:.2f} s" if self.change is None else f"before change {self.change}"


@dataclass
class Command:
    """A command that runs: `Command("proxies.train", "run.yaml")`."""

    module: str
    words: tuple[str, ...]
    moment: Moment | None = None
    file_size: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    store: TCPStore | None = None  # by which its group meets

    def __post_init__(self) -> None:
        self._reads, writes = _processes.Pipe(duplex=False)
        change = self.moment.change if self.moment else None
        arguments = (self.module, self.words, writes, change, self.file_size, self.environment)
        self.process = _processes.Process(target=_child, args=arguments)
        self.process.start()
        writes.close()
        seconds = self.moment.seconds if self.moment else None
        self._killer = threading.Timer(LIMIT if seconds is None else seconds, self.process.kill)
        self._killer.start()

    def end(self) -> "Ended":
        """Wait until the process ends, and return how."""
        said = b"".join(iter(lambda: os.read(self._reads.fileno(), 1 << 16), b"")).decode(errors="replace")
        self.process.join()
        self._killer.cancel()
        assert self.process.exitcode is not None
        said, _, changes = said.partition(COUNTED)
        said = "\n".join(line.rsplit("\r", 1)[-1] for line in said.split("\n"))  # what a progress bar leaves
        made, seconds = changes.split() or ("0", "nan")  # nothing of a killed process
        ended = Ended(self.process.exitcode, said, float(seconds), int(made))
        assert "Traceback" not in said, f"{self.module} {' '.join(self.words)}: {said}"
        assert self.moment or ended.code in (0, 2), f"{self.module} {' '.join(self.words)}: {ended}"
        return ended

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()
        self._killer.cancel()


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (-9: killed), what it printed, its seconds, how often it changed files."""

    code: int
    said: str
    seconds: float
    changes: int

    @property
    def error(self) -> str:
        """The message after `error:`; it is the last thing that a refused command says, and says it once."""
        assert self.said.count("error: ") == 1, self.said
        return self.said.split("error: ")[1].strip()


def start(module: str, *words: str | Path, moment: Moment | None = None, file_size: int | None = None) -> Command:
    """Start the command `python -m MODULE WORDS`.

    moment: when it is killed (SIGKILL). file_size: no file may grow beyond so many bytes, as on a full disk.
    """
    return Command(module, tuple(map(str, words)), moment, file_size)


def start_two(module: str, *words: str | Path, moment: Moment | None = None) -> list[Command]:
    """Start the command in two processes of one gloo group, which are killed at `moment`.

    They have the variables that `accelerate launch` gives, and meet by a store of this process, as by their launcher's.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    group["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    given = tuple(map(str, words))
    return [
        Command(module, given, moment, environment={**group, "RANK": rank, "LOCAL_RANK": rank}, store=store)
        for rank in ("0", "1")
    ]


def do(module: str, *words: str | Path, moment: Moment | None = None, file_size: int | None = None) -> Ended:
    """Run the command to its end (see `start`)."""
    return start(module, *words, moment=moment, file_size=file_size).end()


def do_two(module: str, *words: str | Path) -> Ended:
    """Run the command in two processes to its end (see `start_two`), and return how the first one ended.

    If the first one is refused, the second one is stopped, as a launcher does.
    """
    first, second = start_two(module, *words)
    ended = first.end()
    if ended.code:
        second.stop()
    else:
        assert second.end().code == 0
    return ended


def moments(count: int, *, seconds: float, changes: int, name: str) -> list[Moment]:
    """Draw moments of a command that takes so long and changes files so often, by time and by change in turn."""
    draw = random.Random(f"{SEED} {name}")
    return [
        Moment(change=draw.randint(1, changes)) if number % 2 else Moment(seconds=draw.uniform(0, 0.9 * seconds))
        for number in range(count)
    ]


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and directories below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.tmp"))


def run_result(run: Path) -> dict[str, Any]:
    """Return what a run learned, bit for bit: weights, steps but for the clock, held-out losses, and the proxy."""
    trajectory = read_trajectory(run)
    frame = trajectory.frame.drop(columns="tokens_per_second")
    last = max((run / "checkpoints").glob("step-*"))
    return {
        "mixture": mixture_result(run / "mixture.json"),
        "steps": frame.to_json(double_precision=15) + str(pd.util.hash_pandas_object(frame).sum()),
        "grams": hashlib.sha256(trajectory.grams.tobytes()).hexdigest(),
        "evaluation": read_evaluation(run).to_json(double_precision=15),
        "proxy": hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest(),
    }


def mixture_result(path: Path) -> dict[str, Any]:
    """Return what a trainer reads of a mixture, and the rows of its manifests' files."""
    mixture = Mixture.load(path)
    record = json.loads(path.read_text())
    policies = [domain.sample_policy for domain in mixture.domains if domain.sample_policy]
    return {key: record[key] for key in ("domains", "stages", "horizon", "sampling", "tokenizer")} | {
        "manifests": [(path.parent / policy.manifest_uri).read_bytes() for policy in policies if policy.manifest_uri]
    }


def scores_result(run: Path) -> dict[str, str]:
    """Return the scores of a run, domain by domain."""
    scores = read_scores(run)
    return {domain: scores.frame(domain).to_json(double_precision=15) for domain in scores.domains}


def comparison_result(directory: Path) -> dict[str, Any]:
    """Return the results of a comparison and its mixtures."""
    results = pd.read_parquet(directory / "results.parquet").sort_values(["mixture", "seed", "step", "domain"])
    mixtures = {path.name: mixture_result(path) for path in sorted((directory / "mixtures").glob("*.json"))}
    return {"results": results.to_json(orient="records", double_precision=15), "mixtures": mixtures}


def note(capsys: pytest.CaptureFixture[str], *columns: object) -> None:
    """Print one line of the table of outcomes, which `make faults` shows."""
    if ALL:
        with capsys.disabled():
            print("  ".join(map(str, columns)), flush=True)


def _child(
    module: str,
    words: tuple[str, ...],
    said: Connection,
    change: int | None,
    file_size: int | None,
    environment: Mapping[str, str],
) -> None:
    """Be the process: say everything into `said`, die before that change, write no file beyond that size."""
    began = time.monotonic()
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    said.close()
    os.environ.update(environment, ACCELERATE_USE_CPU="true")
    sys.argv = [module, *words]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails with EFBIG
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if not ALL:  # most of a small run's time goes into its plots
        vars(import_module("proxies.learn"))["plot_run"] = lambda run, directory: []
    made = [0]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
            made[0] += 1
            if made[0] == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    code = import_module(module).main(list(words))
    print(f"{COUNTED}{made[0]} {time.monotonic() - began}", flush=True)
    sys.exit(code)
