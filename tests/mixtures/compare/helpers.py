"""Synthetic tables of a comparison, and its directory, as `proxies.compare` writes them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mixtures.compare.comparison import Comparison, summarize
from mixtures.export import export_mixture
from mixtures.run.run import read_corpus
from mixtures.schedule.records import Domain
from mixtures.schedule.shares import fixed_mixture
from tests.mixtures.helpers import make_run, write_corpus

MIXTURES = ("uniform", "natural", "unimax", "doremi", "paper", "official", "stable", "temperature")
END = 1000


def make_tables(
    *,
    mixtures: Sequence[str] = MIXTURES[:3],
    domains: Sequence[str] = ("wiki", "code", "law"),
    seeds: Sequence[int] = (0, 1),
    rows: int = 12,
    effects: dict[str, float] | None = None,
    noise: float = 0.005,
    row_noise: float = 0.01,
    evaluations: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """Keyword arguments of `summarize`: mixtures differ by `effects` in every domain, plus noise of runs and of
    rows.
    """
    rng = np.random.default_rng(seed)
    level, height = rng.uniform(3, 5, len(domains)), rng.normal(0, 0.3, (len(domains), rows))
    steps = [END * number // evaluations for number in range(evaluations + 1)]
    results, losses = [], []
    for number in seeds:
        common = rng.normal(0, 0.05)
        for mixture in mixtures:
            own = (effects or {}).get(mixture, 0.0) + rng.normal(0, noise)
            for place, domain in enumerate(domains):
                final = level[place] + common + own + height[place] + rng.normal(0, row_noise, rows)
                run = {"mixture": mixture, "seed": number, "domain": domain}
                losses += [{**run, "row": row, "loss": loss} for row, loss in enumerate(final)]
                for step in steps:
                    loss = float(final.mean() + 4 * (1 - step / END))
                    results.append(
                        {**run, "step": step, "tokens": 512 * step, "loss": loss, "bits_per_byte": loss / 2.5}
                    )
    shares = {name: (index + 1) / sum(range(1, len(domains) + 1)) for index, name in enumerate(domains)}
    return {
        "results": pd.DataFrame(results),
        "rows": pd.DataFrame(losses),
        "baseline": mixtures[0],
        "importance": dict.fromkeys(domains, 1.0),
        "natural": shares,
        "costs": {name: {"seconds": 0.0, "flops": 0.0} for name in mixtures},
        "base_cost": {"seconds": 200.0, "flops": 1e12},
        "weights": {name: dict.fromkeys(domains, 1 / len(domains)) for name in mixtures},
    }


def summarized(tables: dict[str, Any]) -> Comparison:
    """`summarize` of what `make_tables` gave."""
    results, rows = tables["results"], tables["rows"]
    return summarize(
        results, rows, **{name: value for name, value in tables.items() if name not in ("results", "rows")}
    )


def change(
    tables: dict[str, Any], where: Callable[[pd.DataFrame], pd.Series], how: Callable[[pd.Series], Any]
) -> dict[str, Any]:
    """The tables with the losses changed where `where` says so, in results and rows."""
    changed = dict(tables)
    for name in ("results", "rows"):
        frame = tables[name].copy()
        frame.loc[where(frame), "loss"] = how(frame.loc[where(frame), "loss"])
        changed[name] = frame
    return changed


def drop(tables: dict[str, Any], where: Callable[[pd.DataFrame], pd.Series]) -> dict[str, Any]:
    """The tables without the lines of `where`."""
    return {**tables, **{name: tables[name][~where(tables[name])] for name in ("results", "rows")}}


def of_run(mixture: str, seed: int | None = None) -> Callable[[pd.DataFrame], pd.Series]:
    """The lines of one mixture, or of one of its runs."""
    return lambda frame: (frame["mixture"] == mixture) & (True if seed is None else frame["seed"] == seed)


def make_comparison(
    path: Path, *, learned: str | None = None, environment: dict[str, Any] | None = None, **given: Any
) -> Path:
    """A finished comparison's directory, as `proxies.compare` writes it, of `make_tables`; `learned`: a mixture with a
    proxy run.
    """
    tables = make_tables(**given)
    results, rows, mixtures = tables["results"], tables["rows"], list(tables["weights"])
    domains = list(tables["natural"])
    path.mkdir(parents=True)
    write_corpus(path, domains, [], "sha256:bpe")
    if learned:
        run = make_run(path / "learned" / learned, domains=domains)
        export_mixture([run]).save(run / "mixture.json")
    config = {
        "run_dir": str(path),
        "seeds": sorted(results["seed"].unique().tolist()),
        "baseline": mixtures[0],
        "objective": "auto",
    }
    config |= {"mixtures": {name: {"fixed": "uniform"} for name in mixtures}, "environment": environment or {}}
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    tokenizer = read_corpus(path / "corpus.json").tokenizer
    texts = tuple(Domain(name=name, unique_tokens=10_000) for name in domains)
    for name in mixtures:
        mixture = fixed_mixture(
            tables["weights"][name], domains=texts, tokenizer=tokenizer, total_tokens=512_000, method=name
        )
        mixture.save(path / "mixtures" / f"{name}.json")
        for seed in config["seeds"]:
            base = path / "bases" / name / f"seed-{seed}"
            base.parent.mkdir(parents=True, exist_ok=True)
            for table, suffix in ((results, ".parquet"), (rows, "-rows.parquet")):
                table[of_run(name, seed)(table)].to_parquet(base.with_name(base.name + suffix), index=False)
            facts = {"mixture": name, "seed": seed, "parameters": 1_000_000, "diverged": None}
            base.with_suffix(".json").write_text(json.dumps(facts))
    costs = {"base_run": tables["base_cost"], "mixtures": tables["costs"], "note": "FLOPs: 6 per parameter and token."}
    (path / "costs.json").write_text(json.dumps(costs))
    return path
