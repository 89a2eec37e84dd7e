"""Run cases one after the other, each in a process of its own, and print what became of them.

`python -m tests.fuzz.run --seed 7 --cases 1000`; one case again: `--seed 7 --only 123`. The exit code is 1 if a case
failed. Everything happens in a temporary directory; what a failed case left stays there, with what it said. With --work
and this directory, the same good inputs are damaged again, byte by byte; new ones hold other times and other paths.
"""

import argparse
import faulthandler
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
    "MPLBACKEND": "agg",
}
MEMORY = 3 << 30  # address space that a case may take beyond that of the fuzzer (bytes)
FILE_SIZE = 1 << 30  # largest file that a case may write (bytes)
STEPS = 8  # updates of weights after which a case is ended: settings may ask for a million, and that is no hang
OUTCOMES = ("ok", "refused", "traceback", "crash", "hang", "stray file", "lost text", "bad message", "fuzzer")
GOOD = OUTCOMES[:2]


@dataclass(frozen=True)
class Result:
    """What became of a case: `outcome` is one of OUTCOMES, `kind` groups equal findings, `detail` is for the reader."""

    outcome: str
    kind: str = ""
    detail: str = ""
    target: str = ""
    what: str = ""
    words: str = ""


class Enough(BaseException):
    """A case trained long enough."""


def in_child(work: Path, name: str, act: Callable[[], Result], *, seconds: int) -> Result:
    """Return what `act` returns in a process of its own; a hang or a crash if that process does not return it.

    What the process prints is in `work`/`name`.out and .err.
    """
    answer = work / f"{name}.json"
    for left in (answer, work / f"{name}.about"):
        left.unlink(missing_ok=True)
    streams = [open(work / f"{name}.{stream}", "w+b") for stream in ("out", "err")]  # noqa: SIM115
    child = os.fork()
    if not child:
        try:
            for number, stream in enumerate(streams, 1):
                os.dup2(stream.fileno(), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            faulthandler.enable(sys.stderr)
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
            result = act()
            answer_text = json.dumps(asdict(result))
            with open(answer, "w", encoding="utf-8") as file:
                file.write(answer_text)
        except BaseException as error:  # the fuzzer's own fault
            traceback.print_exception(error)
            sys.stderr.flush()
        finally:
            os._exit(0)
    for stream in streams:
        stream.close()
    began = time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > seconds + 15:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    if answer.exists():
        return Result(**json.loads(answer.read_text(encoding="utf-8")))
    said = (work / f"{name}.err").read_text(encoding="utf-8", errors="replace")
    stack = [line.strip() for line in said.splitlines() if line.strip().startswith("File ")]
    place = next((line for line in stack if any(f"/{name}/" in line for name in ("proxies", "mixtures", "doge"))), "")
    place = " in ".join(part.strip().split("/work/")[-1] for part in place.split(", line")[:1])
    detail = "\n".join(f"  {line}" for line in [*said.splitlines()[-1:], *stack[:6]])
    if time.monotonic() - began >= seconds:
        return Result("hang", f"over {seconds} s, {place}", detail)
    number = os.waitstatus_to_exitcode(ended[1])
    if number < 0:
        return Result("crash", f"{signal.Signals(-number).name}, {place}", detail)
    return Result("fuzzer", "no answer", said[-2000:])


def prepare_process() -> None:
    """Load everything, once for all cases, which are forks of this process; nothing may start a thread here."""
    import torch
    from matplotlib.figure import Figure
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    import mixtures.convert.conversion
    import mixtures.diagnosis.diagnosis
    import mixtures.fit.fit
    import mixtures.imports.mixture
    import mixtures.plots.mixture
    import mixtures.report.report  # noqa: F401
    import proxies.comparison.run
    import proxies.learn
    import proxies.scoring.run  # noqa: F401
    from tests.fuzz import base, targets  # noqa: F401

    torch.set_num_threads(1)
    updates = [0]

    def count(*_: Any) -> None:
        updates[0] += 1
        if updates[0] > STEPS and Path.cwd().name == "case":
            raise Enough

    register_optimizer_step_post_hook(count)
    # drawing takes most of the time of a small run, and is matplotlib's
    Figure.savefig = lambda self, file, **_: file.write(b"no picture")  # type: ignore[method-assign, assignment]
    gc.freeze()


def one_case(work: Path, seed: int, number: int, only: str) -> Result:
    """Make a case in the current process, which is the case's own, run its command, and judge it."""
    from tests.fuzz import judge, targets

    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "base", folder, symlinks=True)
    os.chdir(folder)
    target, case = targets.make_case(seed, number, only)
    about = {"target": target, "what": case.what, "words": " ".join(case.words)[:300]}
    about = {name: word.encode("utf-8", "backslashreplace").decode() for name, word in about.items()}
    (work / "case.about").write_text(json.dumps(about))
    fence = judge.Fence([folder, work / "home", work / "case.json"], case.outputs, folder)
    before = judge.snapshot(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    judge.install(fence)
    failure: BaseException | None = None
    code = 0
    try:
        code = case.act(list(case.words))
    except Enough:
        code = -1  # neither a success nor a failure
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        failure = error
    sys.stdout.flush()
    sys.stderr.flush()
    return Result(*_judged(work, case, code, failure, fence, before), **about)


def _judged(work: Path, case: Any, code: int, failure: Any, fence: Any, before: Any) -> tuple[str, ...]:
    """Return outcome, kind and detail of a case that came to its end."""
    from tests.fuzz import judge

    folder = work / "case"
    if failure is not None:
        return "traceback", *judge.describe(failure)
    if code not in (-1, 0, 2):
        return "traceback", f"exit code {code}", ""
    stray = judge.strays(before, judge.snapshot(folder), folder, case.outputs)
    stray += [f"outside: {path}" for path in fence.crossed]
    stray += [f"program: {name}" for name in fence.programs if os.path.basename(name) != "git"]
    if stray:
        return "stray file", f"{case.words[0]}: {stray[0]}", f"exit code {code}: {', '.join(stray[:6])}"
    if code == 0 and (lost := case.lost()):
        return "lost text", lost.split(":")[0], lost[:500]
    out, err = ((work / f"case.{name}").read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    if fault := judge.message_fault(out, err, code):
        return "bad message", fault[:60], f"exit code {code}: {fault}: {(err or out)[-300:]!r}"
    return "refused" if code == 2 else "ok", "", (err if code == 2 else out)[-500:]


def main(arguments: list[str]) -> int:
    """Run the cases and print the table; return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--target", default="", help="take all cases from this target")
    parser.add_argument("--all", action="store_true", help="print every case, not only those that failed")
    parser.add_argument("--seconds", type=int, default=60, help="from when on a case hangs")
    place = "directory for the cases (default: a new temporary one); the good inputs in it are used"
    parser.add_argument("--work", type=Path, help=place)
    given = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="fuzz-")) if given.work is None else given.work.resolve()
    for name in ("home", "kept", "case"):
        (work / name).mkdir(parents=True, exist_ok=True)
    os.environ.update(ENVIRONMENT, HOME=str(work / "home"), TMPDIR=str(work / "home"))
    tempfile.tempdir = None
    prepare_process()
    if not (work / "base").exists():
        _make_base(work)
    began = time.monotonic()
    results: list[Result] = []
    numbers = range(given.cases) if given.only is None else [given.only]
    for number in numbers:
        result = in_child(
            work, "case", lambda number=number: one_case(work, given.seed, number, given.target), seconds=given.seconds
        )
        if not result.target:  # it did not come to its end
            about = work / "case.about"
            result = Result(**{**asdict(result), **(json.loads(about.read_text()) if about.exists() else {})})
        results.append(result)
        if result.outcome not in GOOD:
            _keep(work, f"{given.seed}-{number}")
        if given.all or result.outcome not in GOOD:
            again = f"python -m tests.fuzz.run --work {work} --seed {given.seed} --only {number}"
            again += f" --target {given.target}" if given.target else ""
            print(f"{number}: {result.outcome}: {result.kind}\n  {result.target}: {result.what}; {result.words}")
            print(f"{result.detail}\n  again: {again}\n", flush=True)
    print(_table(results))
    print(f"{len(results)} cases, seed {given.seed}, {time.monotonic() - began:.0f} s")
    failed = any(result.outcome not in GOOD for result in results)
    if failed:
        print(f"what the failed cases left and said: {work / 'kept'}")
    elif given.work is None:
        shutil.rmtree(work)
    return int(failed)


def _make_base(work: Path) -> None:
    """Make the good inputs in `work`/case, so that the paths in them are those of the cases, and move them."""
    from tests.fuzz.base import write_base

    def make() -> Result:
        os.chdir(work)
        write_base(work / "case")
        return Result("ok")

    if in_child(work, "base", make, seconds=600).outcome != "ok":
        raise RuntimeError(f"the good inputs cannot be made: {(work / 'base.err').read_text()[-2000:]}")
    (work / "case").rename(work / "base")


def _keep(work: Path, name: str) -> None:
    """Keep the directory of a failed case, and what it said."""
    shutil.rmtree(work / "kept" / name, ignore_errors=True)
    if (work / "case").exists():
        (work / "case").rename(work / "kept" / name)
    for stream in ("out", "err"):
        shutil.copyfile(work / f"case.{stream}", work / "kept" / f"{name}.{stream}")


def _table(results: list[Result]) -> str:
    """Return the number of cases by target and outcome."""
    from mixtures.text import table

    counts = Counter((result.target, result.outcome) for result in results)
    targets = sorted({result.target for result in results})
    rows = [[target, *(str(counts[target, outcome] or "-") for outcome in OUTCOMES)] for target in targets]
    sums = Counter(result.outcome for result in results)
    return table(["target", *OUTCOMES], [*rows, ["all", *(str(sums[outcome] or "-") for outcome in OUTCOMES)]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
