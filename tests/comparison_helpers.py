"""Synthetic tables of a comparison, as `proxies.compare` writes them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixtures.comparison import Comparison, summarize

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
    """Keyword arguments of `summarize`: mixtures differ by `effects` in every domain, plus noise of runs and of rows."""
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
                    results.append({**run, "step": step, "tokens": 512 * step, "loss": loss, "bits_per_byte": loss / 2.5})
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
    return summarize(results, rows, **{name: value for name, value in tables.items() if name not in ("results", "rows")})


def change(tables: dict[str, Any], where: Callable[[pd.DataFrame], pd.Series], how: Callable[[pd.Series], Any]) -> dict[str, Any]:
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
