"""Exact effects of domain weights (`doge.adjoint`) of the study's settings, beside the true slopes of base runs.

    python benchmarks/exact_effects.py pull runs/estimators balanced --seeds 0 1 2 [--rows 2] [--mixture FILE.json]
    python benchmarks/exact_effects.py report runs/estimators balanced --runs runs/pairs
    python benchmarks/exact_effects.py searches runs/estimators

searches: what every search-NAME found, and what base models on it did (verify-NAME), into results/searches.json.
report: correlations over domains with the true slopes, into results/exact_effects.json. The truth is SETTING-pushes, a
comparison of proxies.compare: each domain's odds times and divided by 2.5. Its slope (r) is that of the parabola by
both and uniform, at uniform, per unit of the domain's weight with the others in proportion; its push (r_push) is the
difference between the two. Estimates are compared by what they say of the same changes. --runs: directory with
runs of proxies.train, NAME-SEED (the study's proxy-NAME.yaml), for the products of single steps: sums over the run
weighed by the learning rate, in Adam's geometry with unbiased self products; for targets also in proportion to own
progress.

pull: a proxy of 400 steps at uniform weights and its pull-back for the setting's objective (and for each target of
balanced) into FOLDER/effects-SETTING-SEED.npz: effects (S, D, F) by unit of log-weight, NaN for the steps that are not
pulled back to (above 10 times the median); norms (S, F); losses of the objective's held-out rows; seconds.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from estimator_settings import HERE, PROXY, SETTINGS, settings_of
from step_cost import where
from tqdm import tqdm

from mixtures import read_comparison
from mixtures.run.run import CorpusRecord, read_run
from mixtures.schedule.shares import fixed_mixture
from proxies.comparison.contenders import domains_of
from proxies.corpus.corpus import prepare
from proxies.effects.fixed import ROUGH, fixed_run, sampled_rows, weighed_rows
from proxies.effects.memory import plan_memory
from proxies.effects.objective import held_out
from proxies.place import place_of
from proxies.settings import Settings

RESULT = HERE / "results" / "exact_effects.json"


def main() -> None:
    """Pull back, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pull", "report", "searches"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("setting", nargs="?", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--cache", default="")
    parser.add_argument("--tag", default="")
    parser.add_argument("--sampled", action="store_true", help="rows as a trainer reads them, instead of weighed ones")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "pairs")
    parser.add_argument("--steps", type=int, default=PROXY["steps"])
    given = parser.parse_args()
    if given.what != "pull":
        report(given) if given.what == "report" else searches(given.folder)
        return
    for seed in given.seeds:
        pull(given, seed)


def pull(given: argparse.Namespace, seed: int) -> None:
    """One proxy and its pull-back."""
    content = settings_of(given.folder.resolve(), given.setting)
    objective = content.pop("objective")
    if given.cache:
        content["corpus"]["cache_dir"] = given.cache
    train = PROXY | {"rows_per_domain": given.rows, "steps": given.steps}
    targets = SETTINGS[given.setting]["targets"]
    names = list(content["corpus"]["domains"])
    own = dict.fromkeys(names, 1.0) if objective == "universal" else objective
    objectives = {"own": {name: value / len(own) for name, value in own.items()}} | {
        name: {name: 1.0} for name in targets
    }
    settings = Settings.model_validate(
        content
        | {
            "run_dir": str(given.folder / "none"),
            "train": train,
            "seed": seed,
            "update": {"objective": own | dict.fromkeys(targets, 1.0)},
        }
    )
    corpus = prepare(settings.corpus, settings.cache_path, settings.draws)
    place = place_of(Accelerator(cpu=True))
    weights = torch.full((given.steps, len(names)), 1 / len(names), dtype=torch.float64)
    if given.sampled:
        record = CorpusRecord.model_validate(corpus.record)
        total = given.steps * given.rows * len(names) * corpus.row_tokens
        mixture = fixed_mixture(
            dict.fromkeys(names, 1 / len(names)),
            tokenizer=record.tokenizer,
            domains=domains_of(record),
            total_tokens=total,
            method="uniform",
        )
        source = sampled_rows(settings, corpus, place, mixture)
    else:
        source = weighed_rows(settings, corpus, place, weights)
    run = fixed_run(settings, corpus, place, source)
    rows = held_out(settings, corpus, place, rows=64)
    unrolled = run.unrolled
    plan = plan_memory(parameters=len(unrolled.weights.flat()), steps=given.steps, runs=1, limit=4e9)
    print(plan.text, {name: tuple(part.shape) for name, part in rows.rows.items()}, flush=True)
    began = time.process_time()
    segments, theta = run.train(plan, on_step=lambda: None)
    forward, began = time.process_time() - began, time.process_time()
    losses, end = rows.measure(unrolled.weights, theta, list(objectives.values()))
    effects = np.full((given.steps, len(names), len(objectives)), np.nan)
    norms = np.full((given.steps, len(objectives)), np.nan)
    for step in tqdm(run.pull_back(segments, end), total=given.steps, mininterval=30):
        effects[step.step], norms[step.step] = step.domains.T, step.norms
    np.savez(
        given.folder / f"effects-{given.setting}{given.tag}-{seed}.npz",
        effects=effects,
        norms=norms,
        domains=names,
        objectives=list(objectives),
        losses=np.array([values.mean() for values in losses.values()]),
        held_out=list(losses),
        cpu_seconds=[forward, time.process_time() - began],
        lrs=unrolled.lrs,
    )
    print(f"seed {seed}: run {forward:.0f} s, pull-back {time.process_time() - began:.0f} s", flush=True)


class Truth:
    """Pushes of a setting: what base runs did, and what an estimate predicts for the same mixtures."""

    def __init__(self, folder: Path, setting: str) -> None:
        mixtures = pd.read_csv(folder / f"{setting}-pushes.csv")
        self.names, count = list(mixtures.columns), len(mixtures.columns)
        own = SETTINGS[setting]["objective"]
        own = dict.fromkeys(self.names, 1.0) if own == "universal" else own
        self.objectives = {"own": {name: value / sum(own.values()) for name, value in own.items()}}
        self.objectives |= {target: {target: 1.0} for target in SETTINGS[setting]["targets"]}
        shares = mixtures.to_numpy().reshape(count, 2, count)
        self.uniform = np.full(count, 1 / count)
        self.up, self.down = shares[:, 0] - self.uniform, self.uniform - shares[:, 1]
        folder = folder / f"{setting}-pushes" / "bases"
        found = {
            name: [self._pushed(folder, seed, parts) for seed in (0, 1)] for name, parts in self.objectives.items()
        }
        self.pushes = {name: np.array([up + down for up, down in seeds]) for name, seeds in found.items()}
        high, low = np.diag(self.up), np.diag(self.down)
        self.slopes = {
            name: np.array([(up / high * low + down / low * high) / (high + low) for up, down in seeds])
            for name, seeds in found.items()
        }

    def _pushed(self, folder: Path, seed: int, parts: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """The objective with every domain's odds raised minus uniform, and uniform minus lowered (D,)."""
        up, down = (
            np.array([self._value(folder / f"{way}_{name}", seed, parts) for name in self.names])
            for way in ("up", "down")
        )
        uniform = self._value(folder / "uniform", seed, parts)
        return up - uniform, uniform - down

    def _value(self, folder: Path, seed: int, parts: dict[str, float]) -> float:
        path = folder / f"seed-{seed}.parquet"
        if not path.exists():
            return np.nan
        table = pd.read_parquet(path)
        last = table[table["step"] == table["step"].max()].set_index("domain")["loss"]
        return float(sum(share * last[name] for name, share in parts.items()))

    def predict(self, per_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slopes and pushes (D,) that follow from a slope per unit of every weight (D,)."""
        return self.up @ per_weight / np.diag(self.up), (self.up + self.down) @ per_weight


def report(given: argparse.Namespace) -> None:
    """Correlate every estimate with the truth, and print and write the table."""
    truth = Truth(given.folder, given.setting)
    lines = []
    for objective, slopes in truth.slopes.items():
        true, agree = slopes.mean(0), correlation(*slopes)
        for name, found in estimates(given, truth, objective).items():
            predicted, pushed = (np.array(each) for each in zip(*map(truth.predict, found), strict=True))
            mean = predicted.mean(0)
            others = [correlation(a, b) for a, b in itertools.combinations(predicted, 2)]
            lines.append(
                {
                    "setting": given.setting,
                    "objective": objective,
                    "estimate": name,
                    "seeds": len(found),
                    "r": correlation(mean, true),
                    "r_push": correlation(pushed.mean(0), truth.pushes[objective].mean(0)),
                    "r_one_seed": float(np.mean([correlation(one, true) for one in predicted])),
                    "seeds_agree": float(np.mean(others)) if others else None,
                    "truth_seeds_agree": agree,
                    # of the mean of two seeds whose noise is alike: sqrt(2 r / (1 + r))
                    "ceiling": float(np.sqrt(2 * agree / (1 + agree))) if agree > 0 else None,
                    "scale": float(mean @ true / (mean @ mean)) if "adjoint" in name else None,
                }
            )
    table = pd.DataFrame(lines)
    print(table.drop(columns=["setting"]).round(2).to_string(index=False))
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    content[given.setting] = {"where": where("cpu"), "estimates": lines}
    content[given.setting]["slopes"] = {
        name: dict(zip(truth.names, np.round(slopes, 5).T.tolist(), strict=True))
        for name, slopes in truth.slopes.items()
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


def searches(folder: Path) -> None:
    """Gather the searches' rounds and the comparisons of what they found."""
    content: dict[str, Any] = {"where": where("cpu")}
    for path in sorted(folder.glob("search-*/rounds.json")):
        name = path.parent.name.removeprefix("search-")
        content[name] = {"rounds": json.loads(path.read_text())}
        bases = folder / f"verify-{name}"
        if (bases / "results.parquet").exists():
            table = read_comparison(bases).comparison.to_frame()
            content[name]["bases"] = json.loads(table.to_json(orient="records", double_precision=6))
            print(name, table.to_string(), sep="\n")
    (HERE / "results" / "searches.json").write_text(json.dumps(content, indent=1) + "\n")


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r over the domains that both have."""
    both = np.isfinite(one) & np.isfinite(other)
    return float(np.corrcoef(one[both], other[both])[0, 1]) if both.sum() > 2 else np.nan


def estimates(given: argparse.Namespace, truth: Truth, objective: str) -> dict[str, list[np.ndarray]]:
    """{name: slopes per unit of weight (D,), one for every seed}."""
    found: dict[str, list[np.ndarray]] = {}
    for tag, label in (("", "adjoint, weighed rows"), ("-sampled", "adjoint, sampled rows")):
        for path in sorted(given.folder.glob(f"effects-{given.setting}{tag}-[0-9].npz")):
            data = np.load(path)
            effects = data["effects"][:, :, data["objectives"].tolist().index(objective)]
            norms = data["norms"][:, data["objectives"].tolist().index(objective)]
            rough = np.flatnonzero(~(norms <= ROUGH * np.median(norms[len(norms) // 2 :])))
            smooth = rough[rough < len(norms) // 2].max(initial=-1) + 1
            spans = {
                "": smooth,
                ", all steps": 0,
                ", last half": len(effects) // 2,
                ", last 50 steps": len(effects) - 50,
            }
            for span, first in spans.items():
                found.setdefault(label + span, []).append(np.nansum(effects[first:], 0) / truth.uniform)
            one_step = np.nansum(effects[len(effects) - 1 :], 0) / truth.uniform
            found.setdefault(label + ", last step", []).append(one_step)
    short = {"own": given.setting, "ood_ca_wiki": "ca", "ood_nl_wiki": "nl"}[objective]
    for path in sorted(given.runs.glob(f"{short}-[0-9]*")):
        run = read_run(path)
        names, frame = [*truth.names], run.trajectory.frame
        groups = [column.removeprefix("norm.") for column in frame.columns if column.startswith("norm.")]
        grams, place = np.array(run.trajectory.grams), np.arange(len(groups))
        grams[:, place, place] = frame[[f"self_product.{name}" for name in groups]].to_numpy()
        products = np.nansum(frame["lr"].to_numpy()[:, None, None] * grams, 0)
        parts = truth.objectives[objective]
        judged = [groups.index(name) for name in parts]
        helped = products[: len(names), judged] @ np.array(list(parts.values()))
        found.setdefault("products of single steps", []).append(-helped)
        if objective != "own":
            found.setdefault("products by own progress", []).append(-helped / np.diag(products)[: len(names)])
    return found


if __name__ == "__main__":
    main()
