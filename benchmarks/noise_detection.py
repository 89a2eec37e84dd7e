"""Which score finds corrupted documents? Five corruptions planted in real text, every score, several points of
training.

    python benchmarks/noise_detection.py prepare [-o runs/noise] [--seeds 0 1 2]
    python benchmarks/noise_detection.py score   [-o runs/noise] [--runs seed-0 clean-0 seed-1 seed-2]
    python benchmarks/noise_detection.py report  [-o runs/noise] [--seeds 0 1 2] [-r
                                                 benchmarks/results/noise_detection.json]

prepare: documents of at most 1,600 characters, 0.8 M characters of each of the 11 domains of ../shared/corpora; for
every seed 20 % of each domain's documents corrupted (corruptions.py); a run's YAML for each, and two of proxies.compare
(launch/compare_samples.yaml, and its twin on the same documents uncorrupted).
score: a proxy of 300 steps on each, all its documents scored with the checkpoint of step 300, 800 rows of each domain
(about 150 documents) with those of steps 100 and 200 (not for clean-0). The same command again does only what is
missing. The seed is that of the corruptions and of the proxy.
report: AUROC and average precision of "a corrupted document has the higher score" inside every domain, corrupted ones
against the clean ones; AUROC below 0.5: the corrupted ones have the lower scores. A mean over domains is one of the
domains' values; that of a corruption takes its documents alone against the clean ones. Chance is 0.5, and for average
precision the corrupted share: 0.2 for all, 0.048 for one. The score self_influence_all_residual is what is left of its
logarithm after a line in the logarithm of the document's length.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from corruptions import CLEAN, CORRUPTIONS, SHARE, write_texts
from scipy.stats import rankdata
from step_cost import where

from mixtures.samples.scores import Scores, read_scores
from mixtures.text import table

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent / "launch" / "compare_samples.yaml"
STEPS = (100, 200, 300)
ROWS_BEFORE = 800  # of a domain that are scored at the steps before the last one
SCOPES = ("all", "first_block", "blocks", "embedding", "head")
TRAIN = {
    "steps": STEPS[-1],
    "rows_per_domain": 4,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup_steps": 30,
    "save_every": STEPS[0],
}
TRAIN |= {"keep_checkpoints": len(STEPS), "evaluate_every": STEPS[-1], "evaluate_rows": 32}
SCORES = (*(f"self_influence_{scope}" for scope in SCOPES), "self_influence_all_residual", "word_embedding")
SCORES += ("nll_mean", "nll_sum", "surprisal_mean", "information_v3")


def main() -> None:
    """The three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "score", "report"))
    parser.add_argument(
        "-o", "--output", type=Path, default=HERE.parent / "runs" / "noise", help="directory of texts and runs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=["seed-0", "clean-0", "seed-1", "seed-2"])
    parser.add_argument(
        "--last-rows", type=int, help="score at most so many rows of a domain at the last step, too (default: all)"
    )
    parser.add_argument("-r", "--result", type=Path, default=HERE / "results" / "noise_detection.json")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    if arguments.command == "prepare":
        prepare(folder, seeds=arguments.seeds)
    elif arguments.command == "score":
        for name in arguments.runs:
            train(folder, name)
            for step in STEPS if name.startswith("seed") else STEPS[-1:]:
                score(folder / name, step, last_rows=arguments.last_rows)
    else:
        rows = [row for seed in arguments.seeds for row in measure(folder, seed)]
        print(tables(rows))
        write_result(arguments.result, rows, read_scores(folder / f"seed-{arguments.seeds[0]}"))


def prepare(folder: Path, *, seeds: list[int]) -> None:
    """Write texts, labels and YAML files."""
    domains = comparison(folder, "seed-0")["corpus"]["domains"]
    sources = {name: Path(source["validation"].replace("/validation/", "/train/")) for name, source in domains.items()}
    write_texts(sources, folder / "text", seeds=seeds)
    for name in ("clean-0", *(f"seed-{seed}" for seed in seeds)):
        settings = comparison(folder, name)
        run = {
            "run_dir": str(folder / name),
            "seed": int(name.split("-")[1]),
            **{key: settings[key] for key in ("corpus", "model")},
        }
        _write_yaml(folder / f"{name}.yaml", run | {"train": TRAIN})
        if name.endswith("-0"):
            _write_yaml(Path(f"{settings['run_dir']}.yaml"), settings)


def comparison(folder: Path, run: str) -> dict[str, Any]:
    """launch/compare_samples.yaml with absolute paths, its text and its scores those of a run (seed-SEED or
    clean-0).
    """
    kind, seed = run.split("-")
    text = (
        TEMPLATE.read_text()
        .replace("../runs/compare_samples", f"{folder}/compare_corrupted")
        .replace("../runs/noise", str(folder))
        .replace("../../shared", str(HERE.parents[1] / "shared"))
    )
    text = text.replace("text/corrupted-0", "text/clean" if kind == "clean" else f"text/corrupted-{seed}").replace(
        "seed-0", run
    )
    settings: dict[str, Any] = yaml.safe_load(
        text.replace("compare_corrupted", "compare_clean") if kind == "clean" else text
    )
    return settings


def train(folder: Path, name: str) -> None:
    """The proxy run of a text, or what is left to do of it."""
    if not (folder / name / "mixture.json").is_file():
        _module("proxies.train", str(folder / f"{name}.yaml"), *(["--resume"] if (folder / name).is_dir() else []))


def score(run: Path, step: int, *, last_rows: int | None) -> None:
    """Every score with one checkpoint, in RUN/scores for the last one and in RUN/at-STEP/scores for one before it."""
    target = run if step == STEPS[-1] else run / f"at-{step}"
    if target != run and (target / "scores").is_dir():
        return
    most = last_rows if target == run else ROWS_BEFORE
    some = [] if most is None else ["--max-rows", str(most)]
    _module("proxies.score", str(run), "--checkpoints", str(step), "--scopes", *SCOPES, *some)
    if target != run:
        target.mkdir(exist_ok=True)
        os.rename(run / "scores", target / "scores")


def measure(folder: Path, seed: int) -> list[dict[str, Any]]:
    """One entry for every point of training and score of a seed: {seed, step, score, overall, by_domain,
    by_corruption}.
    """
    labels = pd.read_parquet(folder / "text" / f"corrupted-{seed}" / "labels.parquet")
    entries = []
    for step in STEPS:
        run = folder / f"seed-{seed}"
        scores = read_scores(run if step == STEPS[-1] else run / f"at-{step}")
        frames = {name: labelled(scores, name, labels) for name in scores.domains}
        entries += [{"seed": seed, "step": step, "score": score, **detection(frames, score)} for score in SCORES]
    return entries


def labelled(scores: Scores, domain: str, labels: pd.DataFrame) -> pd.DataFrame:
    """The scores of a domain's documents, their corruption, and the residual of self-influence."""
    frame = scores.frame(domain)
    frame["line"] = [int(name.rsplit(":", 1)[1]) for name in frame["document"]]
    frame = frame.merge(labels, on=["domain", "line"], validate="one_to_one")
    size, logs = np.log(frame["tokens"].to_numpy()), np.log(frame["self_influence_all"].to_numpy())
    frame["self_influence_all_residual"] = logs - np.polyval(np.polyfit(size, logs, 1), size)
    return frame


def detection(frames: dict[str, pd.DataFrame], score: str) -> dict[str, Any]:
    """{overall, by_domain, by_corruption}: (AUROC, average precision) of a score."""
    by_domain = {name: judged(frame[score], frame["corruption"] != CLEAN) for name, frame in frames.items()}
    by_corruption = {}
    for corruption in CORRUPTIONS:
        parts = [frame[frame["corruption"].isin((CLEAN, corruption))] for frame in frames.values()]
        by_corruption[corruption] = np.mean(
            [judged(part[score], part["corruption"] != CLEAN) for part in parts], axis=0
        )
    found = {"overall": np.mean([*by_domain.values()], axis=0), "by_domain": by_domain, "by_corruption": by_corruption}
    return {key: _rounded(value) for key, value in found.items()}


def judged(scores: pd.Series, positive: pd.Series) -> tuple[float, float]:
    """(AUROC, average precision) of "the positive ones have the higher scores"."""
    return auroc(scores.to_numpy(), positive.to_numpy()), average_precision(scores.to_numpy(), positive.to_numpy())


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive one has the higher score than a negative one, ties counting half: Mann and Whitney's U,
    scaled.
    """
    count = int(positive.sum())
    above = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean over the positive ones of the precision among all that score at least as high."""
    as_high = rankdata(-scores, method="max")
    as_high_and_positive = rankdata(-scores[positive], method="max")
    return float(np.mean(as_high_and_positive / as_high[positive]))


def tables(rows: list[dict[str, Any]]) -> str:
    """What a person reads: means over seeds of AUROC, by corruption, by domain and by point of training."""
    last = [row for row in rows if row["step"] == STEPS[-1]]
    domains, seeds = list(rows[0]["by_domain"]), sorted({row["seed"] for row in rows})
    corruptions = [
        [score, f"{mean(last, score, 'overall', 1):.3f}", f"{mean(last, score, 'overall'):.3f}"]
        + [f"{mean(last, score, 'by_corruption', name):.3f}" for name in CORRUPTIONS]
        for score in SCORES
    ]
    places = [[score, *(f"{mean(last, score, 'by_domain', name):.2f}" for name in domains)] for score in SCORES]
    points = [
        [score, *(f"{mean([row for row in rows if row['step'] == step], score, 'overall'):.3f}" for step in STEPS)]
        + [f"{row['overall'][0]:.3f}" for row in last if row["score"] == score]
        for score in SCORES
    ]
    return "\n\n".join(
        (
            f"AUROC after {STEPS[-1]} steps, mean over domains and seeds {seeds}; first column: average precision",
            table(["score", "precision", "all", *CORRUPTIONS], corruptions),
            table(["score", *domains], places),
            table(["score", *(f"step {step}" for step in STEPS), *(f"seed {seed}" for seed in seeds)], points),
        )
    )


def mean(rows: list[dict[str, Any]], score: str, *keys: Any) -> float:
    """Mean over a score's entries of the value under these keys; of a pair, its first."""
    values = []
    for row in rows:
        if row["score"] == score:
            value = row
            for key in keys:
                value = value[key]
            values.append(value[0] if isinstance(value, list) else value)
    return float(np.mean(values))


def write_result(path: Path, rows: list[dict[str, Any]], scores: Scores) -> None:
    """The JSON file: how it was made, then one line an entry."""
    facts = {"command": " ".join(["python", *sys.argv]), **where("cpu"), "corrupted": SHARE, "train": TRAIN}
    facts["documents"] = {name: domain.scored_documents for name, domain in scores.meta.domains.items()}
    facts["scored_with"] = scores.meta.environment["git_commit"]
    facts["values"] = ["AUROC, higher = corrupted", "average precision"]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    path.write_text(json.dumps(facts, indent=1)[:-2] + f',\n "entries": [\n{lines}\n ]\n}}\n')


def _rounded(value: Any) -> Any:
    return (
        {key: _rounded(each) for key, each in value.items()}
        if isinstance(value, dict)
        else [round(float(each), 4) for each in value]
    )


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=1_000))


def _module(name: str, *words: str) -> None:
    """`python -m NAME ...` on one thread, freed memory kept by the process (benchmarks/step_cost.py says why)."""
    print(f"\n== {name} {' '.join(words)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
    subprocess.run([sys.executable, "-m", name, *words], env=environment, check=True)


if __name__ == "__main__":
    main()
