"""Synthetic swarms: planted optima, tables as RegMix and Olmix write them, a comparison's directory."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mixtures.schedule.records import Domain, Tokenizer
from mixtures.schedule.shares import fixed_mixture

DOMAINS = 7


def frames(shares: np.ndarray, values: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares (K, D) as domains d0, d1, ... and values (K, M) as metrics m0, m1, ..."""
    return (
        pd.DataFrame(shares, columns=[f"d{number}" for number in range(shares.shape[1])]),
        pd.DataFrame(values, columns=[f"m{number}" for number in range(values.shape[1])]),
    )


def swarm_shares(rng: np.random.Generator, *, count: int = 32, domains: int = DOMAINS) -> np.ndarray:
    """(count, D): towards every corner, the rest drawn around uniform."""
    corners = 0.7 * np.eye(domains) + 0.3 / domains
    return np.vstack([corners, rng.dirichlet(np.full(domains, 2.0), count - domains)])


def planted(shares: np.ndarray, optimum: np.ndarray, *, shift: float = 0.1, power: float = 0.5) -> np.ndarray:
    """(N, D) losses a_j (w_j + shift)^-power whose mean is lowest, over all mixtures, at `optimum`: Lagrange gives
    a_j.
    """
    return np.asarray(3 + (optimum + shift) ** (1 + power) * (shares + shift) ** -power)


def law(shares: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(N, D) losses that keep the data mixing law, without noise."""
    domains = shares.shape[1]
    rng = np.random.default_rng(seed)
    slopes = -np.diag(rng.uniform(2, 6, domains)) - rng.uniform(0, 1, (domains, domains))
    return np.asarray(rng.uniform(2, 4, domains) + np.exp(shares @ slopes))


def write_comparison(path: Path, mixtures: Mapping[str, Mapping[str, float]], *, seeds: tuple[int, ...] = (0,)) -> Path:
    """A finished comparison: the loss of domain d is 4 - its share + 0.01 * seed, in two rows. The first mixture is the
    baseline.
    """
    names = list(next(iter(mixtures.values())))
    config = {
        "baseline": next(iter(mixtures)),
        "seeds": list(seeds),
        "mixtures": dict.fromkeys(mixtures),
        "objective": "auto",
    }
    (path / "mixtures").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    tokenizer = Tokenizer(name="bpe", vocab_size=512, fingerprint="sha256:x")
    records = [
        {"name": name, "role": "domain", "documents": 9, "tokens": 1000 * (place + 1)}
        for place, name in enumerate(names)
    ]
    (path / "corpus.json").write_text(
        json.dumps({"tokenizer": tokenizer.model_dump(), "row_tokens": 8, "domains": records})
    )
    domains = [Domain(name=record["name"], unique_tokens=record["tokens"]) for record in records]
    for name, shares in mixtures.items():
        mixture = fixed_mixture(shares, tokenizer=tokenizer, domains=domains, total_tokens=4000, method=name)
        mixture.save(path / "mixtures" / f"{name}.json")
        for seed in seeds:
            write_base(path, name, seed, {domain: 4 - share + 0.01 * seed for domain, share in shares.items()})
    return path


def write_base(path: Path, mixture: str, seed: int, losses: Mapping[str, float]) -> None:
    """The files of one base run."""
    base = path / "bases" / mixture / f"seed-{seed}"
    base.parent.mkdir(parents=True, exist_ok=True)
    run = {"mixture": mixture, "seed": seed}
    results = [
        {**run, "step": 5, "tokens": 4000, "domain": name, "loss": loss, "bits_per_byte": loss / 3}
        for name, loss in losses.items()
    ]
    rows = [{**run, "domain": name, "row": row, "loss": loss} for name, loss in losses.items() for row in range(2)]
    pd.DataFrame(results).to_parquet(base.with_suffix(".parquet"))
    pd.DataFrame(rows).to_parquet(base.with_name(f"{base.name}-rows.parquet"))
    base.with_suffix(".json").write_text(json.dumps(run))
