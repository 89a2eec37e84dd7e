"""Intervals of earlier comparisons by today's rule: their summary.txt was made with the rule before.

    python benchmarks/seed_intervals.py benchmarks/results/compare_samples_*

before: the variance between seeds pooled over mixtures, with all its degrees of freedom. now: the pair's own variance
where that is larger, with at most twice the pairs' degrees (mixtures/compare/statistics.py). Reads results.parquet and
config.yaml of a comparison. The losses of its held-out rows were not kept; their part of the variance is what explains
the width that summary.txt gives.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import t

from mixtures.compare.statistics import residual_variance
from mixtures.files import read_yaml
from mixtures.text import table

LINE = re.compile(r"^(\S+)\s+\d+\s+[+-]\S+\s+([+-]\S+) to ([+-]\S+)\s", re.MULTILINE)


def main() -> None:
    """Print one table per comparison."""
    for path in map(Path, sys.argv[1:]):
        losses, row_degrees = objective_losses(path)
        printed = {name: (float(high) - float(low)) / 2 for name, low, high in LINE.findall(read_summary(path))}
        error, degrees = residual_variance(losses.to_numpy())
        lines = []
        for name in losses.index[1:]:
            gaps = (losses.loc[name] - losses.iloc[0]).dropna().to_numpy()
            pooled, own = 2 * error / len(gaps), float(gaps.var(ddof=1)) / len(gaps)
            rows = row_variance(printed[name], pooled, degrees, row_degrees)
            few = min(degrees, 2 * (len(gaps) - 1))
            now = np.sqrt(quantile(few) ** 2 * max(pooled, own) + quantile(row_degrees) ** 2 * rows)
            words = [verdict(gaps.mean(), half) for half in (printed[name], now)]
            ends = f"{gaps.mean() - now:+.4f} to {gaps.mean() + now:+.4f}"
            lines.append([name, f"{gaps.mean():+.4f}", f"{printed[name]:.4f}", words[0], ends, words[1]])
        print(f"\n{path}, against {losses.index[0]}")
        print(table(["mixture", "difference", "before +-", "before", "now", "now"], lines))


def row_variance(half: float, seeds: float, degrees: int, row_degrees: int) -> float:
    """Return the rows' variance with which Welch and Satterthwaite's interval has this half width; 0 if none does."""

    def excess(rows: float) -> float:
        total = seeds + rows
        return float(quantile(total**2 / (seeds**2 / degrees + rows**2 / row_degrees)) * np.sqrt(total) - half)

    return float(brentq(excess, 0, half**2)) if excess(0) < 0 < excess(half**2) else 0.0


def quantile(degrees: float) -> float:
    """Return the 97.5 % quantile of Student's t."""
    return float(t.ppf(0.975, degrees))


def verdict(gap: float, half: float) -> str:
    """Return what an interval says."""
    return "not distinguishable" if abs(gap) <= half else "better" if gap < 0 else "worse"


def read_summary(path: Path) -> str:
    """Return the printed summary of a comparison."""
    return (path / "summary.txt").read_text(encoding="utf-8")


def objective_losses(path: Path) -> tuple[pd.DataFrame, int]:
    """Return the last loss over the objective of every run (a line per mixture, the baseline first, and a column per
    seed), and the degrees of freedom of the held-out rows.
    """
    config, results = read_yaml(path / "config.yaml"), pd.read_parquet(path / "results.parquet")
    domains, targets = list(config["corpus"]["domains"]), list(config["corpus"].get("targets") or {})
    objective = config["objective"]
    goal = list(objective) if isinstance(objective, dict) else targets if objective == "auto" and targets else domains
    last = results[(results["step"] == results["step"].max()) & results["domain"].isin(goal)]
    losses = last.groupby(["mixture", "seed"])["loss"].mean().unstack()
    ordered = [config["baseline"], *(name for name in losses.index if name != config["baseline"])]
    return losses.loc[ordered], len(goal) * (config["train"]["evaluate_rows"] - 1)


if __name__ == "__main__":
    main()
