"""How often do our tests find something where there is nothing, and do 95 % intervals hold what they claim?

    python benchmarks/null_studies.py [departures comparisons rankings trends]

Studies are simulated with numbers of domains, runs and mixtures from small to large, and go through the functions that
the commands use. Every table also stands in results/null_studies.json; docs/intervals.md shows them.

departures   runs of a rule whose true weights are the prior: how often are the exported weights not the prior, how
             often does an interval hold the prior, and how often the weights of one more seed?
comparisons  base models of mixtures that do not differ: how often does an interval hold 0, and how often is a mixture
             called better or worse?
rankings     swarms whose losses have nothing to do with the shares: how often does a fit claim to rank mixtures?
trends       runs of several proxy sizes without a trend: how often does a ladder claim one?
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from step_cost import where

from mixtures.compare.statistics import paired_difference
from mixtures.diagnosis.ladder import Ladder, fit_trend
from mixtures.fit.surrogate import CHANCE, LEAST, fit_surrogate
from mixtures.fit.validation import permutation_p
from mixtures.schedule.uncertainty import SEEDS, SEEDS_TARGETS, estimate
from mixtures.text import table

DOMAINS = (2, 3, 7, 30, 300)
RUNS = (1, 2, 3, 5)  # runs of a rule, or seeds of base models
RESULT = Path(__file__).resolve().parent / "results" / "null_studies.json"
Row = dict[str, Any]


def main() -> None:
    """Run the studies that are named, print their tables, and replace them in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES], default=[])
    chosen = parser.parse_args().studies or list(STUDIES)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in chosen:
        rows = list(STUDIES[name]())
        print(f"\n{name}")
        header = list(rows[0])
        print(table(header, [[_cell(row[column]) for column in header] for row in rows]), flush=True)
        found[name] = {"command": " ".join(["python", *sys.argv]), **where("cpu"), "rows": rows}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def departures(studies: int = 1000) -> Iterator[Row]:
    """Log-weights of runs are normal around a uniform prior; in one domain e times as far as in another if `unequal`.

    between seeds: variance over seeds in variances of the replicates; none: no run has replicates.
    """
    for domains in DOMAINS:
        for runs in RUNS:
            for level, targets in ((None, False), (1.0, False), (SEEDS, False), (SEEDS_TARGETS, True)):
                if runs == 1 and level is None:
                    continue
                for unequal in (False, True):
                    rng = np.random.default_rng(0)
                    count = studies if domains < 100 else studies // 5
                    each = [_departure(rng, domains, runs, level, targets, unequal) for _ in range(count)]
                    left, prior, other = np.mean(each, axis=0)
                    yield {
                        "domains": domains,
                        "runs": runs,
                        "objective": "-" if level is None else "targets" if targets else "universal",
                        "between seeds": "-" if level is None else f"{level:g} x",
                        "noise": "unequal" if unequal else "equal",
                        "left the prior": left,
                        "held the prior": prior,
                        "held another seed": other,
                    }


def _departure(
    rng: np.random.Generator, domains: int, runs: int, level: float | None, targets: bool, unequal: bool
) -> tuple[float, float, float]:
    prior = np.full(domains, 1 / domains)
    size = 0.1 * np.exp(np.linspace(-0.5, 0.5, domains) if unequal else np.zeros(domains))
    *odds, other = np.sqrt(level or 1) * size * rng.normal(size=(runs + 1, domains))
    replicates = [_softmax(each + size * rng.normal(size=(200, domains))) for each in odds] if level else []
    found = estimate(_softmax(np.array(odds)), prior=prior, replicates=replicates, targets=targets)
    assert found is not None
    held = [float(((found.low <= w) & (w <= found.high)).mean()) for w in (prior, _softmax(other))]
    return float(found.factor > 0), held[0], held[1]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def comparisons(studies: int = 2000) -> Iterator[Row]:
    """Losses of 64 held-out rows under mixtures that do not differ: noise of runs (0.01 nats; in one mixture three
    times as much if `unequal`), of mixtures and rows (0.03), and of all three (0.01).
    """
    for mixtures in (2, 3, 7, 30):
        for seeds in RUNS:
            for ratio in (1.0, 3.0):
                rng = np.random.default_rng(0)
                held, called = np.zeros(2), np.zeros(2)
                for _ in range(studies // 4 if mixtures == 30 else studies):
                    noise = rng.normal(0, 0.01, (mixtures, seeds, 1))
                    noise[1] *= ratio
                    rows = rng.normal(0, 0.03, (mixtures, 1, 64)) + rng.normal(0, 0.01, (mixtures, seeds, 64))
                    for place, mixture in enumerate((1, mixtures - 1)):
                        gap = paired_difference(
                            [noise + rows], [1.0], mixture=mixture, reference=0, pool=range(mixtures)
                        )
                        assert gap is not None
                        held[place] += gap.low <= 0 <= gap.high
                        called[place] += gap.better or gap.worse
                count = studies // 4 if mixtures == 30 else studies
                yield {
                    "mixtures": mixtures,
                    "seeds": seeds,
                    "noise": "unequal" if ratio > 1 else "equal",
                    "held 0, noisy": held[0] / count,
                    "held 0, other": held[1] / count if mixtures > 2 else None,
                    "called, noisy": called[0] / count,
                    "called, other": called[1] / count if mixtures > 2 else None,
                }


def rankings(studies: int = 200) -> Iterator[Row]:
    """Swarms of mixtures from a flat Dirichlet distribution, with a normal loss.

    claimed: `mixtures fit` with model auto claims to rank (few domains only: it takes a second a table). p: the share
    of permutation tests at or below what the claim needs, with 199 permutations. interval: claims without that test.
    """
    warnings.filterwarnings("ignore")
    for domains in DOMAINS:
        for count in sorted({max(8, domains + 2), max(12, 3 * domains)} if domains < 300 else {domains + 2}):
            rng, claims, below = np.random.default_rng(0), [], []
            for number in range(studies if domains < 30 else studies // 4 if domains < 300 else 5):
                shares, losses = rng.dirichlet(np.ones(domains), count), rng.normal(size=count)
                folds = count if count <= 20 else 10
                below.append(permutation_p(shares, losses, folds=folds, seed=0, permutations=199) <= CHANCE)
                if domains <= 7 and number < 40 and count > LEAST:
                    names = [f"d{place}" for place in range(domains)]
                    fit = fit_surrogate(pd.DataFrame(shares, columns=names), pd.DataFrame({"loss": losses}))
                    claims.append((fit.ranks, fit.spearman_ci[0] > 0))
            claimed, interval = np.mean(claims, axis=0) if claims else (None, None)
            yield {
                "domains": domains,
                "mixtures": count,
                "tables": len(below),
                "p": np.mean(below),
                "claimed": claimed,
                "interval": interval,
            }


def trends(studies: int = 1000) -> Iterator[Row]:
    """Log-ratios of three or five proxy sizes without a trend; between domains noise differs seven times, and three
    times between the smallest size and the others.
    """
    for domains in DOMAINS:
        for sizes in (3, 5):
            for seeds in (1, 2, 3, 5):
                row: Row = {"domains": domains, "sizes": sizes, "seeds": seeds}
                for label, unequal, small in (
                    ("equal", 1.0, 1.0),
                    ("unequal domains", 7.0, 1.0),
                    ("unequal sizes", 1.0, 3.0),
                    ("both", 7.0, 3.0),
                ):
                    rng, count = np.random.default_rng(0), studies if domains < 100 else studies // 4
                    parameters = np.repeat(10 ** (6 + 0.7 * np.arange(sizes)), seeds)
                    scale = 0.1 * np.where(parameters == parameters.min(), small, 1.0)[:, None]
                    scale = scale * np.geomspace(1, unequal, domains)
                    row[label] = np.mean([_trend(rng, parameters, scale) for _ in range(count)])
                yield row


def _trend(rng: np.random.Generator, parameters: np.ndarray, scale: np.ndarray) -> bool:
    log_ratios = scale * rng.normal(size=scale.shape)
    log_ratios -= log_ratios.mean(axis=1, keepdims=True)
    domains = scale.shape[1]
    names = tuple(f"d{place}" for place in range(domains))
    return fit_trend(Ladder(names, parameters, log_ratios, np.full(domains, 1 / domains), ())).p <= 0.05


STUDIES: dict[str, Callable[[], Iterator[Row]]] = {
    "departures": departures,
    "comparisons": comparisons,
    "rankings": rankings,
    "trends": trends,
}


def _cell(value: Any) -> str:
    """A share in percent, a count or a word as it is, `-` for what was not measured."""
    return "-" if value is None else f"{value:.1%}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
