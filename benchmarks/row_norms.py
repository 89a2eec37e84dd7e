"""What squared gradient norms by row cost (doge.self_influence), beside a plain forward and backward pass and other
packages.

    python benchmarks/row_norms.py [-o benchmarks/results/row_norms.json] [--rounds 3] [--python VENV/bin/python]
    python benchmarks/row_norms.py --table benchmarks/results/row_norms.json

A row is a sample, its loss the mean over its tokens, its score the squared norm of the gradient over all parameters of
a Llama model with tied embeddings (sizes of step_cost.py). Random weights; tokens drawn with shares 1 / rank, so that
words repeat in a row.

    plain    forward and backward on the mean loss of the same rows; gradients are set to None before, which is not
             timed
    ours     doge.self_influence
    others   row_norms_rivals.py: vmap(grad), the loop of one backward pass a row, and packages; what each is asked is
             said there

Every case (size, tokens a row, rows) has a process of its own on one thread. In every round all run in turn; the number
is the median over rounds of *processor* seconds a row, divided by plain's in the same round (time in which other
programs have the processor does not count). A round before is not counted; its results give the errors: the largest
|norm - exact| / exact over the first rows, exact by float64 backward passes, over all parameters and over those that
the package covers. What is not exact, or slow, is timed in the first round only; dattri gets as many rows as one of its
batches has.

--python: a Python with torch, transformers and the packages (docs/row_norms.md says how to make one); those missing are
left out. Memory of processes as in step_cost.py. About ten minutes.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from step_cost import SIZES, quartiles, where

TOKENS = {32: 64, 128: 16, 512: 4}  # {tokens a row: rows}
MANY = 64  # rows of 128 tokens in the case without the others
CHECKED = 2  # rows whose norms are compared with float64's
COVERED = {
    "all": "all parameters",
    "untied": "all, both uses of the embedding apart",
    "linear": "linear layers and head",
}
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run every case in a process of its own and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "row_norms.json")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds a case, after one that is not counted")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the other packages")
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--table", type=Path, help="print the table of a result and stop")
    parser.add_argument("--case", help="internal: one case as JSON")
    arguments = parser.parse_args()
    if arguments.table:
        return print(table(json.loads(arguments.table.read_text())))
    if arguments.case:
        return print(json.dumps(measure(**json.loads(arguments.case))))
    cases = []
    for size in arguments.sizes:
        for length, rows, rivals in [*((length, rows, True) for length, rows in TOKENS.items()), (128, MANY, False)]:
            case = {"size": size, "length": length, "rows": rows, "rivals": rivals, "rounds": arguments.rounds}
            cases.append(in_process(case, arguments.python))
            print(json.dumps(cases[-1]), flush=True)
    result = {"command": " ".join(["python", *sys.argv]), **cases[0].pop("where"), "cases": cases}
    for case in cases[1:]:
        del case["where"]
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def in_process(case: dict[str, Any], python: str) -> dict[str, Any]:
    """`measure(**case)` in a fresh process of another Python with one thread."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parent),
        "HF_HUB_OFFLINE": "1",
    }
    environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
    done = subprocess.run(
        [python, __file__, "--case", json.dumps(case)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{case}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(*, size: str, length: int, rows: int, rivals: bool, rounds: int) -> dict[str, Any]:
    """Processor seconds a row of every kind, as ratios to plain's, and errors."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = (1 / torch.arange(1, 4097)).multinomial(rows * length, replacement=True).view(rows, length)
    plain = build(size)
    kinds, facts = prepare(size, length, plain, batch, rivals)
    exact = reference(size, batch[:CHECKED])
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    gc.collect()
    gc.freeze()  # some packages collect garbage in every call
    for done in range(rounds + 1):
        for name, run in kinds.items():
            fact = facts[name]
            if done > 1 and fact["once"]:
                continue
            plain.zero_grad(set_to_none=True)
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                began = time.process_time()
                norms = run()
                seconds[name].append((time.process_time() - began) / fact["rows"])
            if done == 0 and norms is not None:
                fact["error"] = error(norms, exact["all"])
                fact["error_of_covered"] = error(norms, exact[fact["covers"]])
    for name, fact in facts.items():
        ratios = [s / p for s, p in zip(seconds[name][1:], seconds["plain"][1:], strict=False)]
        fact["ms_a_row"] = round(1e3 * statistics.median(seconds[name][1:]), 2)
        fact["ratio"] = round(statistics.median(ratios), 3)
        fact["quartiles"] = [round(q, 3) for q in quartiles(ratios)]
    parameters = sum(p.numel() for p in plain.parameters())
    return {
        "size": size,
        "parameters": parameters,
        "row_tokens": length,
        "rows": rows,
        "kinds": facts,
        "where": here(facts),
    }


def prepare(
    size: str, length: int, plain: Any, batch: Any, rivals: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, Any]]]:
    """What each kind runs, and facts of each: rows, what it covers, whether it is timed once."""
    from row_norms_rivals import RIVALS, row_means

    from doge import self_influence

    kinds = {
        "plain": lambda: row_means(plain(input_ids=batch).logits, batch).mean().backward(),
        "ours": lambda: self_influence(plain, batch),
    }
    facts: dict[str, dict[str, Any]] = {name: {"covers": "all", "rows": len(batch), "once": False} for name in kinds}
    for name, rival in RIVALS.items() if rivals else ():
        if rival.only not in (None, (size, length)):
            continue
        model, twin = build(size, rival.attention), build(size, tied=False)
        part = batch[: rival.batch] if rival.slow else batch
        try:
            norms = rival.make(model, twin, length)
        except ImportError as missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
            continue
        kinds[name] = lambda norms=norms, part=part: norms(part)
        facts[name] = {
            "covers": rival.covers,
            "rows": len(part),
            "once": rival.slow or rival.covers != "all",
            "package": rival.package,
        }
    return kinds, facts


def build(size: str, attention: str = "sdpa", *, tied: bool = True) -> Any:
    """The model, always with the same weights; not tied: the same weights twice."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": 4096,
        "max_position_embeddings": 1024,
        "use_cache": False,
        "attn_implementation": attention,
        **SIZES[size],
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **config))
    if tied:
        return model
    twin = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **config))
    twin.load_state_dict(model.state_dict())
    return twin


def reference(size: str, batch: Any) -> dict[str, Any]:
    """float64 squared norms, one backward pass a row: over all parameters, with the embedding's uses apart, over linear
    layers and head.
    """
    import torch
    from row_norms_rivals import row_means

    twin = build(size, tied=False).double()
    found: dict[str, list[Any]] = {name: [] for name in COVERED}
    for row in batch.split(1):
        names, parameters = zip(*twin.named_parameters(), strict=True)
        gradients = dict(
            zip(names, torch.autograd.grad(row_means(twin(input_ids=row).logits, row)[0], parameters), strict=True)
        )
        squares = {name: g.square().sum() for name, g in gradients.items()}
        head, lookup = gradients["lm_head.weight"], gradients["model.embed_tokens.weight"]
        found["untied"].append(sum(squares.values()))
        found["all"].append(found["untied"][-1] + 2 * (head * lookup).sum())
        found["linear"].append(
            sum(square for name, square in squares.items() if gradients[name].ndim == 2 and "embed" not in name)
        )
    return {name: torch.stack(values) for name, values in found.items()}


def error(norms: Any, exact: Any) -> float:
    """Largest relative difference."""
    return float(f"{(norms[: len(exact)].detach().double() / exact - 1).abs().max():.2g}")


def here(facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Machine, versions and commit."""
    packages = {package for fact in facts.values() if (package := fact.pop("package", None))}
    found = where("cpu")
    found["versions"] |= {package: importlib.metadata.version(package) for package in sorted(packages)}
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: ratios by case, then what each computes and its errors."""
    names = list(dict.fromkeys(name for case in result["cases"] for name in case["kinds"] if name != "plain"))
    lines = [
        f"| parameters | tokens a row | rows | plain, ms a row | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for case in result["cases"]:
        kinds = case["kinds"]
        cells = [f"{kinds[name]['ratio']:.2f}" if name in kinds else "" for name in names]
        begin = [
            f"{case['parameters'] / 1e6:.1f} M",
            str(case["row_tokens"]),
            str(case["rows"]),
            f"{kinds['plain']['ms_a_row']:.1f}",
        ]
        lines.append(f"| {' | '.join([*begin, *cells])} |")
    lines += ["", "| | version | computes | error | error of what it computes |", "|---|---|---|---|---|"]
    for name in names:
        found = [case["kinds"][name] for case in result["cases"] if name in case["kinds"]]
        version = result["versions"].get(name.split()[0], "")
        errors = [max(fact[key] for fact in found) for key in ("error", "error_of_covered")]
        lines.append(f"| {name} | {version} | {COVERED[found[0]['covers']]} | {errors[0]:.1g} | {errors[1]:.1g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
