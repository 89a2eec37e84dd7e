"""Cost of the exact effects of a run (`doge.adjoint`), as a multiple of the same run without them.

    OMP_NUM_THREADS=1 python benchmarks/adjoint_cost.py

A run of STEPS steps of 8,192 tokens (256 rows of 32) with the study's model of 0.26 M parameters, plain (a backward
pass, the clip, torch's AdamW), beside the same run with its steps kept and pulled back for 1 and 3 objectives, by
central differences and exactly. Rounds are interleaved; a figure is the median over rounds of the ratio of CPU seconds.
D domains share the rows: their effects are sums of the rows' effects. Into results/adjoint_cost.json.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from estimator_settings import MODEL
from step_cost import where

from doge.adjoint import AdamW, Segment, Unrolled, Weights
from doge.grouped import row_losses

STEPS, ROWS, TOKENS, REPEATS = 2, 256, 32, 5
DOMAINS, OBJECTIVES = (7, 64, 256), (1, 3)
RESULT = Path(__file__).resolve().parent / "results" / "adjoint_cost.json"


def main() -> None:
    """Measure, print and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**MODEL)).eval()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rows = torch.randint(MODEL["vocab_size"], (STEPS, ROWS, TOKENS))
    coefficients = torch.full((ROWS,), 1 / ROWS)
    run = Unrolled(
        Weights(model), AdamW(torch.tensor(0.1), eps_root=1e-8), [1e-3] * STEPS, lambda step: (rows[step], coefficients)
    )

    def plain() -> None:
        model.load_state_dict(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        for step in range(STEPS):
            (row_losses(model, rows[step]) * coefficients).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def pulled(objectives: int, domains: int, difference: float | None) -> None:
        unrolled = replace(run, difference=difference)
        before = unrolled.start()
        segment = Segment(range(STEPS), before, list(unrolled.run(before, range(STEPS))))
        end = torch.randn(objectives, len(before.theta)) / len(before.theta) ** 0.5
        numbers = torch.arange(ROWS) * domains // ROWS
        for effects in unrolled.effects([segment], end):
            torch.zeros(objectives, domains).index_add_(1, numbers, effects.rows * coefficients)

    kinds: dict[str, Callable[[], None]] = {"plain": plain}
    for name, difference in (("differences", 2e-4), ("exact", None)):
        for objectives in OBJECTIVES:
            for domains in DOMAINS if name == "differences" else DOMAINS[:1]:
                label = f"{name}, {objectives} objective(s), {domains} domains"
                kinds[label] = lambda o=objectives, d=domains, h=difference: pulled(o, d, h)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(REPEATS):
        for name, act in kinds.items():
            began = time.process_time()
            act()
            seconds[name].append(time.process_time() - began)
    plain_seconds = np.array(seconds["plain"])
    ratios = {name: np.array(values) / plain_seconds for name, values in seconds.items() if name != "plain"}
    table = {
        name: {"ratio": float(np.median(values)), "least": float(values.min()), "most": float(values.max())}
        for name, values in ratios.items()
    }
    for name, values in table.items():
        print(f"{name:40s} {values['ratio']:5.2f}  ({values['least']:.2f} to {values['most']:.2f})")
    RESULT.write_text(
        json.dumps({"where": where("cpu"), "plain_seconds": seconds["plain"], "runs": table}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
