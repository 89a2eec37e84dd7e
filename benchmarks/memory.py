"""Peak memory of what once grew without bound: many domains, a long line, many documents, a large vocabulary.

    python benchmarks/memory.py [-o benchmarks/results/memory.json] [--limit 6000000] [CASE ...]

Every case runs in a process of its own, with one thread and at most --limit KiB of addresses (ulimit -v).

trajectory    1,000 domains: 100 steps with their grams are buffered and flushed, as at a checkpoint
line_bytes    a file with one line of 20 MB becomes a token cache, as bytes
line_bpe      the same, with a BPE of 2,048 tokens that is trained on its beginning
documents     200,000 documents of 200 characters become a token cache, as bytes
vocabulary    a forward and a backward pass of 2 domains x 4 rows x 160 tokens, with 262,144 tokens in the vocabulary

idle_mb: memory (resident) when everything is imported and made. peak_mb: the most during the case. Both are of the
system (VmRSS, VmHWM). bytes: size of what the case reads or buffers: the file, the grams in float64, the logits in
float32. A case that needs more than the limit has `failed` in place of numbers. To measure another version, put it on
PYTHONPATH; the file keeps the results of other commits.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

WORDS = "the quick brown fox jumps over the lazy dog and 12 other words, "
PACKAGES = ("numpy", "pyarrow", "tokenizers", "torch", "transformers")
SECONDS = 600  # a case takes no longer


def main() -> None:
    """Measure the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; all of them unless given")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    parser.add_argument("--limit", type=int, default=6_000_000, help="most addresses of a case (KiB)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the one case, in this process
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(CASES[options.cases[0]])))
        return
    results = {"command": " ".join(["python", *sys.argv]), **where(), "limit_kib": options.limit, "cases": {}}
    for case in options.cases or CASES:
        results["cases"][case] = in_process(case, options.limit)
        print(case, results["cases"][case], flush=True)
    before = json.loads(options.output.read_text()) if options.output.exists() else []
    kept = [each for each in before if each["commit"] != results["commit"]]
    options.output.write_text(json.dumps([*kept, results], indent=1) + "\n")


def in_process(case: str, limit: int) -> dict[str, Any]:
    """Run a case in a process of its own, with a limit of its addresses (KiB)."""
    done = subprocess.run(
        [sys.executable, __file__, "--here", case],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit * 1024, limit * 1024)),
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in lines if "memory" in line.lower()), lines[-1])
        return {"failed": f"exit {done.returncode}: {reason[:200]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(case: Callable[[Path], tuple[int, Callable[[], None]]]) -> dict[str, Any]:
    """Make a case in this process, run it, and return its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        size, act = case(Path(folder))
        idle, began = memory("VmRSS"), time.perf_counter()
        act()
        seconds = time.perf_counter() - began
    peak = memory("VmHWM")
    return {
        "bytes": size,
        "idle_mb": round(idle / 1e6),
        "peak_mb": round(peak / 1e6),
        "beyond_idle_per_byte": round((peak - idle) / size, 2),
        "seconds": round(seconds, 1),
    }


def memory(kind: str) -> int:
    """A number of /proc/self/status (bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])


def trajectory(folder: Path) -> tuple[int, Callable[[], None]]:
    """1,000 domains, 100 steps."""
    import numpy as np

    from mixtures.run.trajectory import TrajectoryWriter, step_row

    count, steps = 1000, 100
    names, one = [f"domain_{number}" for number in range(count)], np.full(count, 1 / count)
    draw = np.random.default_rng(0)
    writer = TrajectoryWriter(folder / "trajectory", domains=names, groups=names)

    def act() -> None:
        for step in range(1, steps + 1):
            half = draw.normal(size=(count, 8))
            arrays = dict.fromkeys(("weight", "alignment", "loss", "norm", "self_product"), one)
            row = step_row(domains=names, groups=names, arrays=arrays | {"gram": half @ half.T}, step=step, tokens=step)
            writer.append(row)
        writer.flush()

    return 8 * count**2 * steps, act


def line_bytes(folder: Path) -> tuple[int, Callable[[], None]]:
    """A line of 20 MB, as bytes."""
    return corpus(folder, {"bytes": True}, [(WORDS * (20_000_000 // len(WORDS) + 1))[:20_000_000]])


def line_bpe(folder: Path) -> tuple[int, Callable[[], None]]:
    """A line of 20 MB, with a trained BPE."""
    return corpus(folder, {"train_bpe": 2048}, [(WORDS * (20_000_000 // len(WORDS) + 1))[:20_000_000]])


def documents(folder: Path) -> tuple[int, Callable[[], None]]:
    """200,000 documents of 200 characters."""
    return corpus(folder, {"bytes": True}, [f"{number} {WORDS * 4}"[:200] for number in range(200_000)])


def corpus(folder: Path, tokenizer: dict[str, Any], texts: list[str]) -> tuple[int, Callable[[], None]]:
    """Token caches of a domain with these texts and of a small one."""
    from proxies.corpus.corpus import prepare
    from proxies.corpus.settings import CorpusSettings

    for name, content in (("train", texts), ("validation", [WORDS * 100])):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in content)
    texts.clear()
    validation = str(folder / "validation.jsonl")
    domains = {
        "large": {"data_files": str(folder / "train.jsonl"), "validation": validation},
        "small": {"data_files": validation, "validation": validation},
    }
    settings = CorpusSettings(tokenizer=tokenizer, row_tokens=128, domains=domains)
    size = (folder / "train.jsonl").stat().st_size

    def act() -> None:
        prepare(settings, folder / "cache", dict.fromkeys(domains, 10_000))

    return size, act


def vocabulary(folder: Path) -> tuple[int, Callable[[], None]]:
    """A pass with 262,144 tokens in the vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import doge

    words, row_tokens, domains = 2**18, 160, 2
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=words, **sizes))
    rows = torch.randint(words, (4 * domains, row_tokens))
    engine = doge.GroupGradients(model, groups=domains, halves=2)
    prior = torch.full((domains,), 1 / domains)

    def act() -> None:
        batch = doge.MicroBatch(rows, 0, 2 * domains, 0.5)
        engine.step([batch], decide=lambda losses, gram: prior, lagged=prior)

    return 4 * rows.numel() * words, act


CASES = {each.__name__: each for each in (trajectory, line_bytes, line_bpe, documents, vocabulary)}


def where() -> dict[str, Any]:
    """Machine, versions and commit of what is measured."""
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    spec = importlib.util.find_spec("doge")
    assert spec is not None
    assert spec.origin is not None
    git = ["git", "-C", str(Path(spec.origin).parents[1])]
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "machine": f"{model}, {os.cpu_count()} processors, one thread",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "changed_since_commit": changed.stdout.splitlines(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
