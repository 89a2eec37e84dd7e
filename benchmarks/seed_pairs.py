"""What another seed really changes: pairs of proxy runs that differ by their seed alone.

    python benchmarks/estimator_settings.py -o runs/estimators
    for s in 11 12 13; do for n in balanced junk skew ca nl; do
        accelerate launch --config_file launch/accelerate/cpu1.yaml -m proxies.train runs/estimators/proxy-$n.yaml \\
            --seed $s --run_dir runs/pairs/$n-$s
    done; done
    python benchmarks/seed_pairs.py runs/pairs/*

Runs are named NAME-SEED. For every setting NAME, over all pairs of its runs:
weights     mean over domains of (difference of the log-odds of the average weights)^2 / 2, in mean variances of the two
            runs' replicates. mixtures/schedule/uncertainty.py widens one run's interval by SEEDS or SEEDS_TARGETS.
alignments  the same for the mean alignments, in their squared standard errors within a run (SEEDS of
            mixtures/diagnosis/noise.py)
held        how often the interval that one run prints holds the weight of another seed; as before: the interval of the
            replicates alone, Student's t with 6 degrees of freedom
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t
from step_cost import where

from mixtures.diagnosis.gradients import objective_alignments
from mixtures.diagnosis.noise import mean_noise
from mixtures.run.run import RunRecord, importance_of, read_run
from mixtures.schedule.uncertainty import LEAST_VARIANCE, estimate, log_odds
from mixtures.text import table

RESULT = Path(__file__).resolve().parent / "results" / "seed_pairs.json"


def main() -> None:
    """Print and write what the runs say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    runs: dict[str, list[RunRecord]] = {}
    for path in sorted(parser.parse_args().runs):
        runs.setdefault(path.name.rsplit("-", 1)[0], []).append(read_run(path))
    rows = [{"setting": name, **compared(of)} for name, of in runs.items() if len(of) > 1]
    total = {key: float(np.average([row[key] for row in rows], weights=[row["pairs"] for row in rows])) for key in HELD}
    header = list(rows[0])
    print(table(header, [[_cell(row[key]) for key in header] for row in rows]))
    print(f"all {sum(row['pairs'] for row in rows)} pairs: " + ", ".join(f"{k} {v:.1%}" for k, v in total.items()))
    found = {"command": " ".join(["python", *sys.argv]), **where("cpu"), "rows": rows, "all": total}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


HELD = ("held", "held as before")


def compared(runs: list[RunRecord]) -> dict[str, Any]:
    """What all pairs of these runs say."""
    odds = np.array([log_odds(run.trajectory.average) for run in runs])
    within = np.array([log_odds(run.replicates).var(axis=0, ddof=1) for run in runs if run.replicates is not None])
    within = np.maximum(within, LEAST_VARIANCE * within.mean(axis=1, keepdims=True))
    signals = [objective_alignments(run, run.trajectory.gram_blocks, importance_of(run)) for run in runs]
    scales = [np.abs(each.mean(axis=0)).mean() for each in signals]
    means = np.array([each.mean(axis=0) / scale for each, scale in zip(signals, scales, strict=True)])
    noise = np.array([mean_noise(each) / scale for each, scale in zip(signals, scales, strict=True)])
    weights, alignments, held, before = [], [], [], []
    for a, b in itertools.combinations(range(len(runs)), 2):
        weights.append(float(((odds[a] - odds[b]) ** 2 / (within[a] + within[b])).mean()))
        alignments.append(float(((means[a] - means[b]) ** 2 / (noise[a] ** 2 + noise[b] ** 2)).mean()))
        for one, other in ((a, b), (b, a)):
            run = runs[one]
            assert run.replicates is not None
            found = estimate(
                run.trajectory.average[None], prior=run.prior, replicates=[run.replicates], targets=run.has_targets
            )
            assert found is not None
            weight = runs[other].trajectory.average
            held.append(((found.low <= weight) & (weight <= found.high)).mean())
            before.append((np.abs(odds[one] - odds[other]) <= t.ppf(0.975, 6) * np.sqrt(within[one])).mean())
    return {
        "pairs": len(weights),
        "weights": [round(value, 2) for value in weights],
        "alignments": [round(value, 2) for value in alignments],
        "held": float(np.mean(held)),
        "held as before": float(np.mean(before)),
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:.2f}" for each in value)
    return f"{value:.0%}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
