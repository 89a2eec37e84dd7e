"""Which estimator of "who helps whom" predicts what training really does? Logged proxies against base runs.

    python benchmarks/estimators.py screen runs/estimators balanced [--seeds 0 1 2]
    python benchmarks/estimators.py finals runs/estimators balanced
    python benchmarks/estimators.py report runs/estimators

Needs SETTING-swarm (a comparison of proxies.compare) and log-SETTING-SEED.npz (estimator_log.py). Truth, per pair: the
held-out loss of i in a base run with domain j's odds raised, minus that of the uniform one. An estimator is a matrix
(D, D+M): what a step on j does for i.
Columns of the table: correlation with the truth over all pairs, off the diagonal, for the objective (sum over its
domains), for each target; and the surrogate's loss minus that of uniform (nats), of mixtures a proportional to exp(tau
u) with a KL divergence from uniform of 0.05, 0.12 and 0.35, and with u scaled to mean |u| = 1 and tau as given.

finals: the surrogates' optima as files, and final-SETTING.yaml, a comparison of uniform, natural, these, and `stable`
learned for each objective, on seeds that the swarm did not use. report: what these comparisons say, into
results/estimators.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from estimator_settings import BASE, MODEL, PROXY, SETTINGS, TARGETS, write_comparison
from scipy.optimize import brentq
from scipy.stats import spearmanr
from step_cost import where

from mixtures import Mixture
from mixtures.compare.directory import read_bases
from mixtures.compare.statistics import distinct_mixtures, paired_difference
from mixtures.compare.tables import Runs, read_results
from mixtures.fit.surrogate import best_mixture, fit_surrogate
from mixtures.text import table

KINDS = ("raw", "adam", "damped", "fisher", "kfac", "kfac_half")
BUDGETS = (0.05, 0.12, 0.35)
FINAL_SEEDS = [1, 2, 3]
SHORT = {"objective": "own", "ood_ca_wiki": "ca", "ood_nl_wiki": "nl", "both targets": "both"}
RESULT = Path(__file__).resolve().parent / "results" / "estimators.json"
TAUS = (0.5, 1.0, 2.0, 3.0)


class Log:
    """A logged proxy."""

    def __init__(self, path: Path) -> None:
        self.data = dict(np.load(path))
        self.domains, self.targets = self.data["domains"].tolist(), self.data["targets"].tolist()
        self.count, self.groups = len(self.domains), len(self.domains) + len(self.targets)
        self.lr = self.data["lr"]

    def products(
        self, kind: str, *, self_term: str = "unbiased", held_out: bool = False, square: bool = False
    ) -> np.ndarray:
        """(S, D, D+M) products of every step; `square`: (S, D+M, D+M)."""
        every, groups = self.data[kind], self.groups
        blocks = [
            [every[:, a * groups : (a + 1) * groups, b * groups : (b + 1) * groups] for b in (0, 1)] for a in (0, 1)
        ]
        mean = (blocks[0][0] + blocks[0][1] + blocks[1][0] + blocks[1][1]) / 4
        place = np.arange(groups)
        if self_term != "published":
            mean[:, place, place] = 0
        if self_term == "unbiased":
            mean[:, place, place] = (blocks[0][1] + blocks[1][0])[:, place, place] / 2
        if square:
            return mean
        mean = mean[:, : self.count]
        if held_out:
            mean[:, :, : self.count] = (
                every[:, : self.count, 2 * groups :] + every[:, groups : groups + self.count, 2 * groups :]
            ) / 2
        return mean

    def unbiased_squares(self, kind: str) -> np.ndarray:
        """(S, D+M) squared norms without their noise."""
        place = np.arange(self.groups)
        return self.data[kind][:, place, self.groups + place]


def spans(steps: int) -> dict[str, np.ndarray]:
    """{name: (S,) what a step counts}."""
    number = np.arange(steps)
    whole = {
        "all": number >= 0,
        "first quarter": number < steps // 4,
        "half": number < steps // 2,
        "late half": number >= steps // 2,
    }
    return whole | {"window of 100": 0.99 ** (steps - 1 - number)}


def estimates(log: Log) -> dict[str, np.ndarray]:
    """{name: (D, D+M)}, larger is more helpful."""
    found = {}
    for kind in KINDS:
        if kind not in log.data:
            continue
        for label, options in {
            "published": {"self_term": "published"},
            "unbiased": {},
            "no self": {"self_term": "none"},
            "held out": {"held_out": True},
        }.items():
            products = log.products(kind, **options)
            for span, counted in spans(len(log.lr)).items():
                found[f"{kind}, {label}, {span}"] = np.einsum("s,sji->ji", log.lr * counted, products)
        unbiased = log.products(kind)
        published = np.einsum("sii->si", log.products(kind, self_term="published", square=True))
        squares = np.maximum(running(log.unbiased_squares(kind), 25), 0.02 * running(published, 25))
        for span, counted in spans(len(log.lr)).items():
            found[f"{kind}, objective normed, {span}"] = np.einsum(
                "s,sji,si->ji", log.lr * counted, unbiased, squares**-0.5
            )
            cosines = unbiased / np.sqrt(squares[:, : log.count, None] * squares[:, None, :])
            found[f"{kind}, cosines, {span}"] = np.einsum("s,sji->ji", log.lr * counted, cosines)
        ahead = log.data[f"ahead_{kind}"]
        windows = len(ahead)
        for gap in (0, 1, 2, 4, 8):
            found[f"{kind}, later model +{gap}"] = sum(ahead[w, w + gap] for w in range(windows - gap))
        found[f"{kind}, final model"] = sum(ahead[w, windows - 1] for w in range(windows))
        found[f"{kind}, mean of later models"] = sum(ahead[w, w:].mean(0) for w in range(windows))
    forks = log.data["forks"]
    for place, horizon in enumerate((5, 15, 40) if len(forks) else ()):
        found[f"forks {horizon}"] = -forks[:, place].sum(0)
        for checkpoint in range(len(forks)):
            found[f"forks {horizon}, checkpoint {checkpoint}"] = -forks[checkpoint, place]
    return found


def running(values: np.ndarray, window: int) -> np.ndarray:
    """(S, ...) mean over a window around every step."""
    kernel = np.ones(window)
    return np.apply_along_axis(
        lambda v: np.convolve(v, kernel, "same") / np.convolve(np.ones_like(v), kernel, "same"), 0, values
    )


def read_swarm(folder: Path, setting: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(ratios (K, D), losses (K, D+M)) of the runs that are there, uniform first."""
    mixtures = pd.read_csv(folder / f"{setting}-swarm.csv")
    names = ["uniform", *(f"m{row:02d}" for row in range(len(mixtures)))]
    ratios = pd.concat(
        [pd.DataFrame([np.full(len(mixtures.columns), 1 / len(mixtures.columns))], columns=mixtures.columns), mixtures]
    )
    ratios.index = pd.Index(names)
    losses = {}
    for name in names:
        if (path := folder / f"{setting}-swarm" / "bases" / name / "seed-0.parquet").exists():
            frame = pd.read_parquet(path)
            losses[name] = frame[frame["step"] == frame["step"].max()].set_index("domain")["loss"]
    if (folder / f"{setting}-more").is_dir():  # mixtures tried besides, with another seed
        for path in sorted((folder / f"{setting}-more" / "bases").glob("*/seed-1.parquet")):
            frame, name = pd.read_parquet(path), f"more {path.parent.name}"
            losses[name] = frame[frame["step"] == frame["step"].max()].set_index("domain")["loss"]
            ratios.loc[name] = Mixture.load(
                folder / f"{setting}-more" / "mixtures" / f"{path.parent.name}.json"
            ).average_weights()
    table = pd.DataFrame(losses).T
    ratios = ratios.loc[table.index]
    return ratios / ratios.sum(axis=1).to_numpy()[:, None], table


def objectives(setting: str, domains: list[str]) -> dict[str, dict[str, float]]:
    """What a setting's mixtures are judged by."""
    own = SETTINGS[setting]["objective"]
    found = {"objective": dict.fromkeys(domains, 1.0) if own == "universal" else own}
    if SETTINGS[setting]["targets"]:
        found |= {target: {target: 1.0} for target in TARGETS} | {"both targets": dict.fromkeys(TARGETS, 1.0)}
    return found


def at_budget(u: np.ndarray, prior: np.ndarray, budget: float) -> np.ndarray:
    """prior exp(tau u), normalised, tau such that KL from the prior is `budget` (nats), or as far as it goes."""
    u = (u - u.max()) / (np.ptp(u) or 1)

    def mixture(tau: float) -> np.ndarray:
        weights = prior * np.exp(tau * u)
        return weights / weights.sum()

    def excess(tau: float) -> float:
        weights = mixture(tau)
        return float((weights * np.log(np.maximum(weights, 1e-300) / prior)).sum() - budget)

    return mixture(brentq(excess, 0, 200)) if excess(200) > 0 else mixture(200)


def screen(folder: Path, setting: str, seeds: list[int]) -> pd.DataFrame:
    """One line an estimator (mean over the logged seeds)."""
    ratios, losses = read_swarm(folder, setting)
    domains = list(ratios.columns)
    pushed = [f"m{row:02d}" for row in range(len(domains)) if f"m{row:02d}" in losses.index]
    pushes = [int(name[1:]) for name in pushed]
    truth = -(losses.loc[pushed] - losses.loc["uniform"]).to_numpy()
    columns = list(losses.columns)
    goals = objectives(setting, domains)
    surrogates = {
        name: fit_surrogate(ratios, losses, importance=goal, model="auto", seed=0) for name, goal in goals.items()
    }
    uniform = np.full(len(domains), 1 / len(domains))
    lines = []
    for name, surrogate in surrogates.items():
        best = best_mixture(surrogate, ratios)
        gain = float(surrogate.predict(best[None])[0] - surrogate.predict(uniform[None])[0])
        shares = ", ".join(f"{d} {w:.2f}" for d, w in zip(domains, best, strict=True) if w > 0.03)
        lines.append(
            f"{name}: {surrogate.model}, spearman {surrogate.spearman:.2f}, rmse {surrogate.rmse:.4f}; best "
            f"{gain:+.4f}: {shares}"
        )
    print("\n".join(lines))
    results = []
    logs = [Log(folder / f"log-{setting}-{seed}.npz") for seed in seeds]
    every = [estimates(log) for log in logs]
    every = [one | {"truth": _filled(truth, pushes, len(domains))} for one in every]
    for name in dict.fromkeys(name for one in every for name in one):
        values = [
            measure(one[name], truth, pushes, columns, goals, surrogates, uniform, domains)
            for one in every
            if name in one
        ]
        results.append({"estimator": name} | {key: float(np.mean([v[key] for v in values])) for key in values[0]})
    return pd.DataFrame(results).set_index("estimator")


def _filled(truth: np.ndarray, pushes: list[int], domains: int) -> np.ndarray:
    full = np.zeros((domains, truth.shape[1]))
    full[pushes] = truth
    return full


def measure(
    estimate: np.ndarray,
    truth: np.ndarray,
    pushes: list[int],
    columns: list[str],
    goals: dict[str, dict[str, float]],
    surrogates: dict[str, Any],
    uniform: np.ndarray,
    domains: list[str],
) -> dict[str, float]:
    """Agreement of an estimate (D, D+M) with the truth (pushed, D+M), and what mixtures made of it reach by the
    surrogate.
    """
    own = estimate[pushes] - estimate[pushes].mean(0)
    real = truth - truth.mean(0)
    square = [columns.index(name) for name in domains]
    off = np.array([[pushes[row] != column for column in range(len(domains))] for row in range(len(pushes))])
    found = {
        "pairs r": correlation(own[:, square], real[:, square]),
        "off diagonal r": correlation(own[:, square][off], real[:, square][off]),
    }
    for name, goal in goals.items():
        weights = np.array([goal.get(column, 0.0) for column in columns])
        found[f"{name} r"] = correlation(own @ weights, real @ weights)
        found[f"{name} rank"] = float(spearmanr(own @ weights, real @ weights)[0])
    for name, goal in goals.items():
        weights = np.array([goal.get(column, 0.0) for column in columns])
        for budget in BUDGETS:
            mixture = at_budget(estimate @ weights, uniform, budget)
            change = surrogates[name].predict(mixture[None])[0] - surrogates[name].predict(uniform[None])[0]
            found[f"{name} {budget}"] = float(change)
        scaled = estimate @ weights / np.abs(estimate @ weights).mean()
        for tau in TAUS:
            raised = np.exp(tau * (scaled - scaled.max()))
            change = (
                surrogates[name].predict((raised / raised.sum())[None])[0] - surrogates[name].predict(uniform[None])[0]
            )
            found[f"{name} tau {tau:g}"] = float(change)
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's."""
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def finals(folder: Path, setting: str) -> None:
    """Write the best known mixtures and the comparison that measures them and what `stable` learns."""
    ratios, losses = read_swarm(folder, setting)
    mixtures: dict[str, Any] = {"uniform": {"fixed": "uniform"}, "natural": {"fixed": "natural"}}
    for name, goal in objectives(setting, list(ratios.columns)).items():
        if name == "both targets":
            learn = {"preset": "stable", "objective": goal}
            mixtures |= {"stable_both": {"learn": learn}, "stable_worst": {"learn": learn | {"aggregate": "worst"}}}
            continue
        surrogate = fit_surrogate(ratios, losses, importance=goal, model="auto", seed=0)
        best = best_mixture(surrogate, ratios)
        path = folder / f"best-{setting}-{SHORT[name]}.json"
        path.write_text(json.dumps(dict(zip(ratios.columns, (best / best.sum()).tolist(), strict=True))))
        mixtures[f"best_{SHORT[name]}"] = {"file": str(path)}
        learn = {"preset": "stable"} | ({} if name == "objective" else {"objective": goal})
        mixtures[f"stable_{SHORT[name]}"] = {"learn": learn}
    write_comparison(
        folder, f"final-{setting}", setting, mixtures=mixtures, seeds=FINAL_SEEDS, proxy={"seed": 11, "train": PROXY}
    )


def report(folder: Path) -> dict[str, Any]:
    """For every objective: each mixture's loss minus those of uniform and natural, with intervals, and the share of the
    headroom.
    """
    found: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        **where("cpu"),
        "base": BASE,
        "proxy": PROXY,
        "model": MODEL,
    }
    found["screen"] = {}
    for setting in SETTINGS:
        path = folder / f"final-{setting}"
        if (screened := folder / f"screen-{setting}.csv").exists():
            found["screen"][setting] = pd.read_csv(screened, index_col=0).round(4).to_dict("index")
        if not (path / "bases").is_dir():
            continue
        bases = read_bases(path)
        results, rows = bases.results, bases.rows
        runs = read_results(results, rows, baseline="uniform")
        weights = {name: Mixture.load(path / "mixtures" / f"{name}.json").average_weights() for name in runs.mixtures}
        found[setting] = {"seeds": runs.seeds, "weights": weights}
        goals = objectives(setting, list(next(iter(weights.values()))))
        for name, goal in goals.items():
            found[setting][name] = judged(runs, goal, stable=f"stable_{SHORT[name]}")
    return found


def judged(runs: Runs, goal: dict[str, float], *, stable: str) -> dict[str, Any]:
    """Differences of every mixture to uniform and natural in the mean loss over `goal`; headroom is that of the best
    one to uniform.
    """
    counts = np.array([goal.get(name, 0.0) for name in runs.domains])
    pool = distinct_mixtures(runs.rows, among=range(len(runs.mixtures)))
    lines: dict[str, Any] = {}
    for number, name in enumerate(runs.mixtures):
        line: dict[str, Any] = {"loss": float((runs.losses[number] @ counts).mean() / counts.sum())}
        for reference in ("uniform", "natural"):
            if name != reference:
                difference = paired_difference(
                    runs.rows,
                    counts / counts.sum(),
                    mixture=number,
                    reference=runs.mixtures.index(reference),
                    pool=pool,
                )
                line[f"against {reference}"] = [
                    round(v, 5) for v in (difference.value, difference.low, difference.high)
                ]
        relative = runs.losses[number].mean(0) / runs.losses[0].mean(0) - 1
        trained = [place for place, domain in enumerate(runs.domains) if domain in goal]
        worst = max(trained, key=lambda place: relative[place])
        line["worst of the objective"] = [runs.domains[worst], round(float(relative[worst]), 4)]
        lines[name] = line
    if stable in lines:
        headroom = -min(line["against uniform"][0] for line in lines.values() if "against uniform" in line)
        lines["headroom"] = headroom
        lines["share of it"] = -lines[stable]["against uniform"][0] / headroom if headroom > 0 else None
    return lines


def print_report(found: dict[str, Any]) -> None:
    """The tables."""
    for setting in (name for name in SETTINGS if name in found):
        for name, lines in found[setting].items():
            if name in ("seeds", "weights"):
                continue
            rows = []
            for mixture, line in lines.items():
                if isinstance(line, dict):
                    gaps = [
                        "{:+.4f} ({:+.4f} to {:+.4f})".format(*line[f"against {other}"])
                        if f"against {other}" in line
                        else "-"
                        for other in ("uniform", "natural")
                    ]
                    worst, change = line["worst of the objective"]
                    rows.append([mixture, f"{line['loss']:.4f}", *gaps, f"{worst} {change:+.1%}"])
            print(
                f"\n{setting}, {name}: headroom {lines.get('headroom')}, stable reaches {lines.get('share of it')} "
                f"of it"
            )
            print(table(["mixture", "loss", "against uniform", "against natural", "worst"], rows))
        weights = found[setting]["weights"]
        names = list(next(iter(weights.values())))
        print("\n" + table(["mixture", *names], [[m, *(f"{w[n]:.3f}" for n in names)] for m, w in weights.items()]))


def main() -> None:
    """The commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("screen", "finals", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("setting", choices=list(SETTINGS), nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="file of a report")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    if arguments.command == "report":
        found = report(arguments.folder)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
        print_report(found)
        return
    if arguments.command == "finals":
        finals(arguments.folder, arguments.setting)
        return
    found = screen(arguments.folder, arguments.setting, arguments.seeds)
    found.to_csv(arguments.folder / f"screen-{arguments.setting}.csv")
    rows = [
        [str(name), *(f"{value:+.3f}" for value in row)]
        for name, row in zip(found.index, found.to_numpy(), strict=True)
    ]
    print(table(["estimator", *found.columns], rows))


if __name__ == "__main__":
    main()
