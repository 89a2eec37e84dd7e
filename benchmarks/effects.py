"""What pushing a domain really does to the objective, beside what the proxy's alignments say.

    python benchmarks/effects.py launch/demo.yaml runs/demo -o benchmarks/results/effects_demo.json [--steps 300]
    [--processes 2]

One plain run at uniform shares and one for every domain with its odds times 2.5 (the others share the rest alike): rows
are resampled, the loss is the plain mean, initial weights and the order of every domain's rows are the same in all. The
gain of a domain is the importance-weighted held-out loss of the uniform run minus that of its run. One seed, one size:
a check of the order, no proof.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from step_cost import where

import doge
from mixtures.run.trajectory import read_trajectory
from proxies.corpus.batches import step_indices
from proxies.corpus.corpus import CorpusData, prepare
from proxies.evaluate import held_out_losses
from proxies.models import build_model, optimization
from proxies.place import Place
from proxies.settings import Settings, load_settings

ODDS = 2.5
EVALUATED = 100  # held-out rows a domain, or all there are


def main() -> None:
    """Train the plain runs, one process each, and compare their gains with a proxy run's alignments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yaml", type=Path)
    parser.add_argument("run", type=Path, help="finished proxy run of the same YAML")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--push", help="internal: train this run alone")
    arguments = parser.parse_args()
    settings = load_settings(arguments.yaml)
    corpus = prepare(settings.corpus, settings.cache_path, settings.draws)
    if arguments.push:
        print(json.dumps(plain_run(settings, corpus, push=arguments.push, steps=arguments.steps)))
        return

    def alone(push: str) -> dict[str, float]:
        command = [
            sys.executable,
            __file__,
            str(arguments.yaml),
            str(arguments.run),
            "-o",
            "-",
            "--steps",
            str(arguments.steps),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--push", push], env=environment, capture_output=True, text=True, check=True)
        losses = json.loads(done.stdout.splitlines()[-1])
        print(push, losses, flush=True)
        return losses

    with ThreadPoolExecutor(arguments.processes) as pool:
        pushes = ("uniform", *corpus.domains)
        losses = dict(zip(pushes, pool.map(alone, pushes), strict=True))
    importance = settings.importance
    value = {
        push: sum(importance[n] * loss[n] for n in importance) / sum(importance.values())
        for push, loss in losses.items()
    }
    gains = {name: value["uniform"] - value[name] for name in corpus.domains}
    result = {
        "command": " ".join(["python", *sys.argv]),
        **where("cpu"),
        "steps": arguments.steps,
        "odds": ODDS,
        "losses": losses,
        "gains": gains,
        **compare(arguments.run, gains, importance),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("gains", "agreement")}, indent=1))


def plain_run(settings: Settings, corpus: CorpusData, *, push: str, steps: int) -> dict[str, float]:
    """Held-out loss of every domain (nats per token) after plain training at shares with `push`'s odds raised."""
    torch.set_num_threads(1)
    domains, length, rows_a_step = (
        corpus.domains,
        corpus.row_tokens,
        len(corpus.domains) * settings.train.rows_per_domain,
    )
    shares = np.full(len(domains), 1 / len(domains))
    if push != "uniform":
        odds = ODDS / (len(domains) - 1)
        shares[:] = (1 - odds / (1 + odds)) / (len(domains) - 1)
        shares[domains.index(push)] = odds / (1 + odds)
    model = build_model(
        settings.model, vocab_size=corpus.vocab_size, eos_id=corpus.eos_id, row_tokens=length, seed=settings.seed
    )
    train = settings.train.model_copy(update={"steps": steps})
    optimizer, scheduler = optimization(model, train)
    drawn = np.zeros(len(domains), dtype=int)
    for _ in range(steps):
        rows = []
        for _ in range(rows_a_step):
            domain = int(np.argmax(shares * (drawn.sum() + 1) - drawn))  # the one furthest behind its share
            tokens = corpus.tokens[domains[domain]]
            number = step_indices(
                len(tokens) // length,
                seed=settings.seed,
                domain=domains[domain],
                step=int(drawn[domain]),
                rows_per_step=1,
            )[0]
            rows.append(tokens[number * length : (number + 1) * length].astype(np.int64))
            drawn[domain] += 1
        optimizer.zero_grad()
        doge.row_losses(model, torch.from_numpy(np.stack(rows))).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        scheduler.step()
    place = Place(rank=0, processes=1, device=torch.device("cpu"), reduce=None, autocast=nullcontext)
    records = held_out_losses(model, corpus, rows=EVALUATED, step=steps, tokens=0, place=place)
    return {record["domain"]: round(record["loss"], 5) for record in records}


def compare(run: Path, gains: dict[str, float], importance: dict[str, float]) -> dict[str, Any]:
    """How the run's alignments, summed with the learning rate, agree with the measured gains."""
    trajectory = read_trajectory(run)
    grams = trajectory.grams.copy()
    for gram, diagonal in zip(grams, trajectory.self_products, strict=True):
        np.fill_diagonal(gram, diagonal)
    summed = np.einsum("s,sij->ij", trajectory.frame["lr"].to_numpy(), grams)
    groups = trajectory.groups
    columns = [groups.index(f"{name}@held_out" if f"{name}@held_out" in groups else name) for name in importance]
    alignment = summed[: len(gains), columns] @ np.array(list(importance.values()))
    measured = np.array(list(gains.values()))
    return {
        "alignment": dict(zip(gains, alignment.tolist(), strict=True)),
        "agreement": {
            "pearson": round(float(np.corrcoef(alignment, measured)[0, 1]), 3),
            "spearman": round(float(spearmanr(alignment, measured)[0]), 3),
        },
    }


if __name__ == "__main__":
    main()
