"""Synthetic run directories, deterministic, for the tests of `mixtures`."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mixtures.run.evaluation import EvaluationWriter
from mixtures.run.trajectory import TrajectoryWriter, step_row

NAMES = ("wiki_en", "wiki_de", "forum", "python", "legal", "manual.prose", "noise", "news", "maths", "chat", "ops")


def make_run(
    path: Path,
    *,
    domains: Sequence[str] = NAMES[:3],
    targets: Sequence[str] = (),
    steps: int = 20,
    planned: int | None = None,
    flush_every: int = 8,
    seed: int = 0,
    tokens_per_step: int = 512,
    weights: np.ndarray | None = None,
    update: dict | None = None,
    tokenizer: str = "sha256:bpe",
    evaluate_every: int = 10,
) -> Path:
    """A finished run of `steps` steps: config.yaml, corpus.json, trajectory in parts, evaluation."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    groups = [*domains, *targets, *(f"{name}@held_out" for name in domains[:1] if targets)]
    if weights is None:
        weights = drifting_weights(rng, steps, len(domains))
    _write_config(path, planned or steps, seed, update)
    write_corpus(path, domains, targets, tokenizer)
    writer = TrajectoryWriter(path / "trajectory", domains=domains, groups=groups)
    level = 5 + rng.random(len(groups))
    decay = 1 + rng.random(len(groups))
    base = rng.normal(size=(len(groups), 40)) + 0.7
    for step in range(1, steps + 1):
        loss = level - decay * np.log1p(10 * step / steps) + rng.normal(scale=0.06, size=len(groups))
        noisy = base + rng.normal(scale=0.5, size=base.shape)
        gram = noisy @ noisy.T
        alignment = gram[: len(domains)].mean(axis=1)
        arrays = {"weight": weights[step - 1], "alignment": alignment, "loss": loss, "norm": np.sqrt(np.diag(gram))}
        arrays |= {"self_product": 0.9 * np.diag(gram), "gram": gram}
        scalars = {"step": step, "tokens": step * tokens_per_step, "lr": 1e-3, "tokens_per_second": 1e4}
        scalars["reach_factor"] = 1.0
        writer.append(step_row(domains=domains, groups=groups, arrays=arrays, gradient_norm=1.0, **scalars))
        if step % flush_every == 0 or step == steps:
            writer.flush()
    if evaluate_every:
        _write_evaluation(path, [*domains, *targets], level, decay, steps, tokens_per_step, evaluate_every)
    return path


def drifting_weights(rng: np.random.Generator, steps: int, count: int) -> np.ndarray:
    """(steps, count) on the simplex: from uniform to somewhere, with noise."""
    goal = rng.normal(scale=1.2, size=count)
    progress = np.linspace(0, 1, steps)[:, None]
    walk = np.cumsum(rng.normal(scale=0.3 / np.sqrt(steps), size=(steps, count)), axis=0)
    weights = np.exp(goal * (1 - np.exp(-3 * progress)) + walk)
    return weights / weights.sum(axis=1, keepdims=True)


def _write_config(path: Path, planned: int, seed: int, update: dict | None) -> None:
    config = {
        "run_dir": str(path),
        "seed": seed,
        "corpus": {"row_tokens": 128},
        "model": {"preset": "llama-1m"},
        "train": {"steps": planned},
        "update": update or {"preset": "stable", "objective": "auto"},
        "environment": {"git_commit": "abc123", "world_size": 1, "started_utc": "2026-09-01T00:00:00Z"},
    }
    config["environment"]["rule"] = {"preset": "stable", "reach": 0.1, "floor": 0.0} | config["update"]
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def write_corpus(path: Path, domains: Sequence[str], targets: Sequence[str], tokenizer: str) -> None:
    """The corpus.json of a run or a comparison in `path`."""
    records = [
        {
            "name": name,
            "role": "domain" if name in domains else "target",
            "sources": [{"format": "parquet", "uri": f"/data/{name}.parquet", "sha256": "ab" * 32}],
            "documents": 112 + number,
            "tokens": 4000 + 3000 * (number % 7),
            "rows": 31 + 23 * (number % 7),
            "bytes": 9000,
            "complete": True,
            "held_out_documents": 15,
            "held_out_tokens": 1000,
            "held_out_rows": 7,
            "held_out_bytes": 4000,
            "fingerprint": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
        }
        for number, name in enumerate([*domains, *targets])
    ]
    info = {"name": "bpe-4096", "vocab_size": 4096, "fingerprint": tokenizer, "separators_per_document": 1}
    (path / "corpus.json").write_text(json.dumps({"tokenizer": info, "row_tokens": 128, "domains": records}))


def _write_evaluation(
    path: Path, names: Sequence[str], level: np.ndarray, decay: np.ndarray, steps: int, tokens_per_step: int, every: int
) -> None:
    writer = EvaluationWriter(path / "evaluation")
    for step in sorted({*range(0, steps + 1, every), steps}):
        losses = level - decay * np.log1p(10 * step / steps) + 0.15
        common = {"step": step, "tokens": step * tokens_per_step, "held_out_tokens": 896}
        writer.append(
            {**common, "domain": name, "loss": float(loss), "bits_per_byte": float(loss) / 2.5}
            for name, loss in zip(names, losses, strict=False)
        )
        writer.flush()
