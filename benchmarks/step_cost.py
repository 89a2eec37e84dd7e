"""What a step with every domain's gradient costs, beside a plain training step and the loop of D backward passes.

    python benchmarks/step_cost.py [-o benchmarks/results/step_cost.json] [--rounds 5] [--device cpu]

For every case (model size, D domains, tokens a step) the kinds of step run interleaved on the same rows, in a process
of their own on one thread; the result is the median over rounds of each kind's time divided by the plain step's of the
same round.

    plain    forward, backward, clipping, AdamW on the mean loss of all rows
    lagged   ours: gram with unbiased diagonal, weights of the step before
    adam     lagged, with the gram in Adam's geometry: preset stable
    exact    ours: gram with unbiased diagonal, weights of this step
    loop     the published code's way: one forward and backward a domain, D gradients kept, products and combination
             from them
    presence, presence_all    lagged, with the samples inside domains weighted by their gradient norms of the first
                              block, of all layers

Rows per domain are two (the least that gives an unbiased diagonal), of tokens / (2 D) tokens. Extra memory is what each
kind allocates beyond the plain step: for ours the workspace, counted exactly; for all, the peak resident size of a
process that runs this kind alone, minus the plain one's (at the larger number of tokens only).

glibc hands every tensor above 32 MB back to the system and faults its pages in again at the next use, which on a
virtual machine costs
more than what is measured here, and most in the plain step; the processes run with that switched off
(MALLOC_MMAP_MAX_=0).
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {  # name: LlamaConfig values; tied embeddings, vocabulary 4,096
    "4M": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 688},
    "23M": {"hidden_size": 512, "num_hidden_layers": 7, "num_attention_heads": 8, "intermediate_size": 1344},
}
DOMAINS = (7, 22, 64)
TOKENS = (1024, 4096)
KINDS = ("plain", "lagged", "adam", "exact", "loop", "presence", "presence_all")
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run every case in processes of their own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "step_cost.json")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds a case, after one that is not counted")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", help="internal: one case as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(**json.loads(arguments.case))))
        return
    cases = []
    for size in SIZES:
        for tokens in TOKENS:
            for domains in DOMAINS:
                case = {"size": size, "domains": domains, "tokens": tokens, "device": arguments.device}
                timed = in_process({**case, "kinds": KINDS, "rounds": arguments.rounds})
                del timed["peak_mb"]
                if tokens == max(TOKENS):
                    peak = {kind: in_process({**case, "kinds": [kind], "rounds": 1})["peak_mb"] for kind in KINDS}
                    timed["extra_peak_mb"] = {kind: round(peak[kind] - peak["plain"]) for kind in KINDS}
                cases.append(timed)
                print(json.dumps(timed), flush=True)
    result = {"command": " ".join(["python", *sys.argv]), **where(arguments.device), "cases": cases}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def in_process(case: dict[str, Any]) -> dict[str, Any]:
    """`measure(**case)` in a fresh process with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(*, size: str, domains: int, tokens: int, device: str, kinds: list[str], rounds: int) -> dict[str, Any]:
    """Median ratios to the plain step, its milliseconds, and the process's peak memory."""
    import torch

    torch.set_num_threads(1)
    steps, engine, facts = build(size, domains, tokens, device)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind in kinds:
            began = time.perf_counter()
            steps[kind]()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[kind].append(time.perf_counter() - began)
    peak = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if device == "cpu"
        else torch.cuda.max_memory_allocated() / 2**20
    )
    result = {"size": size, "domains": domains, **facts, "peak_mb": peak}
    held = {"exact" if keep else "lagged": space.entries * 4 / 2**20 for keep, space in engine.workspaces.items()}
    result["workspace_mb"] = {kind: round(megabytes, 1) for kind, megabytes in held.items()}
    if "plain" in kinds:
        result["plain_ms"] = round(1e3 * statistics.median(seconds["plain"][1:]), 1)
        ratios = {kind: [s / p for s, p in zip(seconds[kind][1:], seconds["plain"][1:], strict=True)] for kind in kinds}
        result["ratio"] = {kind: round(statistics.median(values), 3) for kind, values in ratios.items()}
        result["ratio_quartiles"] = {kind: [round(q, 3) for q in quartiles(values)] for kind, values in ratios.items()}
    return result


def quartiles(values: list[float]) -> list[float]:
    """First and third quartile."""
    return [values[0], values[0]] if len(values) < 2 else statistics.quantiles(values, n=4)[::2]


def build(
    size: str, domains: int, tokens: int, device: str
) -> tuple[dict[str, Callable[[], None]], Any, dict[str, Any]]:
    """The kinds of step on one model and one batch, the engine of ours, and the case's facts."""
    import torch
    from torch.nn import functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    from doge import GroupGradients, MicroBatch
    from doge.presence import Presence
    from proxies.step import adam_geometry

    length = tokens // (2 * domains)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, max_position_embeddings=1024, tie_word_embeddings=True, use_cache=False, **SIZES[size]
    )
    model = LlamaForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rows = torch.randint(4096, (2, domains, length), device=device)  # half-major: the halves' rows are adjacent
    weights = torch.full((domains,), 1 / domains, dtype=torch.float64)
    engine = GroupGradients(model, groups=domains, halves=2)

    def loss(part: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=part).logits
        return F.cross_entropy(
            logits.flatten(0, 1), F.pad(part[:, 1:], (0, 1), value=-100).flatten(), ignore_index=-100
        )

    def finish() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def plain() -> None:
        loss(rows.flatten(0, 1)).backward()
        finish()

    def ours(lagged: bool, scope: str = "", **geometry: Any) -> None:
        engine.step(
            [MicroBatch(rows.flatten(0, 1), 0, 2 * domains, 0.5)],
            decide=lambda losses, gram: weights,
            lagged=weights if lagged else None,
            presence=Presence(temperature=-1.0, domains=domains, scope=scope) if scope else None,
            **geometry,
        )
        finish()

    def loop() -> None:
        kept = [torch.empty((domains, p.numel()), device=device) for p in model.parameters()]
        for domain in range(domains):
            optimizer.zero_grad()
            loss(rows[:, domain]).backward()
            for all_gradients, p in zip(kept, model.parameters(), strict=True):
                all_gradients[domain] = p.grad.flatten()  # type: ignore[union-attr]
        sum(g @ g.T for g in kept)
        for all_gradients, p in zip(kept, model.parameters(), strict=True):
            p.grad = (weights.to(all_gradients) @ all_gradients).view_as(p)
        finish()

    parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "parameters": parameters,
        "tokens": 2 * domains * length,
        "row_tokens": length,
    }
    steps = {
        "plain": plain,
        "lagged": lambda: ours(True),
        "adam": lambda: ours(True, metric=adam_geometry(optimizer)),
        "exact": lambda: ours(False),
        "loop": loop,
        "presence": lambda: ours(True, "first_block"),
        "presence_all": lambda: ours(True, "all"),
    }
    return steps, engine, facts


def where(device: str) -> dict[str, Any]:
    """Machine, versions and commit."""
    import torch
    import transformers

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")),
            model,
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    return {
        "machine": model if device == "cpu" else torch.cuda.get_device_name(),
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
