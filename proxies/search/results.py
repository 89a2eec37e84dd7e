"""What a search leaves: the table of rounds, the best mixture measured, and plots.

rounds.json   every round: mixture, objective, slopes with their errors, what was predicted and what came
mixture.json  the best mixture that was measured
summary.txt   the table of rounds, as it is printed
plots/        rounds.png, weights.png, effects.png
"""

import json
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from mixtures.compare.statistics import Difference
from mixtures.files import write_atomic
from mixtures.plots.search import plot_search
from mixtures.text import WIDTH, table
from proxies.search.proxies import Proxies
from proxies.search.rounds import Round, best_of, difference
from proxies.search.settings import SearchSettings


def write_results(settings: SearchSettings, proxies: Proxies, rounds: Sequence[Round], why: str) -> None:
    """Write all results into the search's directory, and print the summary."""
    path, names, best = settings.run_path, list(proxies.corpus.domains), best_of(rounds)
    changes = [difference([one.losses for one in rounds], proxies.objective, of=n, to=0) for n in range(len(rounds))]
    records = [record(names, proxies.objective, one, change) for one, change in zip(rounds, changes, strict=True)]
    content = {"objective": proxies.objective, "seeds": proxies.seeds, "best": best, "ended": why, "rounds": records}
    write_atomic(path / "rounds.json", json.dumps(content, indent=1))
    mixture = proxies.mixture(rounds[best].weights, whole=True)
    mixture.save(path / "mixture.json")
    pulled = max(number for number, one in enumerate(rounds) if one.slopes)
    effects = proxies.step_effects(pulled)
    text = summary(names, proxies, rounds, changes, [why, smooth(effects, pulled, settings.train.steps)])
    write_atomic(path / "summary.txt", text)
    plots = plot_search(content, effects, path / "plots")
    print(f"\n{text}\nmixture: {path / 'mixture.json'}\nplots:   {', '.join(map(str, plots))}", flush=True)


def record(names: Sequence[str], objective: dict[str, float], one: Round, change: Difference) -> dict[str, Any]:
    """Return what rounds.json says of a round; NaN becomes null."""
    values = {
        "weights": dict(zip(names, one.weights.tolist(), strict=True)),
        "objective": [value_of(losses, objective) for losses in one.losses],
        "against_prior": interval(change),
        "start": one.start,
        "predicted": one.predicted,
        "came": one.came and interval(one.came),
        "kept": one.kept,
        "slopes": one.slopes and dict(zip(names, one.slopes.value.tolist(), strict=True)),
        "slope_errors": one.slopes and dict(zip(names, one.slopes.error.tolist(), strict=True)),
        "signal": one.slopes and one.slopes.signal,
    }
    return json.loads(pd.Series([values]).to_json(orient="records", double_precision=15))[0]


def interval(change: Difference) -> dict[str, float]:
    """Return a difference with its interval over seeds and rows; without several seeds, the interval is NaN."""
    low, high = (change.low, change.high) if change.over_seeds else (np.nan, np.nan)
    return {"value": change.value, "low": low, "high": high}


def value_of(losses: dict[str, np.ndarray], objective: dict[str, float]) -> float:
    """Return the objective of one proxy, nats per token."""
    return float(sum(share * losses[name].mean() for name, share in objective.items()))


def summary(
    names: Sequence[str],
    proxies: Proxies,
    rounds: Sequence[Round],
    changes: Sequence[Difference],
    facts: Sequence[str],
) -> str:
    """Return the table of rounds, the mixture beside the prior, the verdict and further facts, as text."""
    best = best_of(rounds)
    lines = [
        [
            str(number),
            f"{np.mean([value_of(losses, proxies.objective) for losses in one.losses]):.4f}",
            f"{change.value:+.4f}" if number else "prior",
            f"{change.low:+.4f} to {change.high:+.4f}" if number and change.over_seeds else "-",
            "-" if one.start is None else str(one.start),
            f"{one.predicted:+.4f}" if one.predicted is not None else "-",
            f"{one.came.value:+.4f}" if one.came else "-",
            "yes" if one.kept else "no",
            f"{one.slopes.signal:.0%}" if one.slopes and np.isfinite(one.slopes.error).all() else "-",
        ]
        for number, (one, change) in enumerate(zip(rounds, changes, strict=True))
    ]
    header = ("round", "objective", "to prior", "95 % interval", "from", "predicted", "came", "kept", "signal")
    ratio = [[name, f"{rounds[0].weights[n]:.3f}", f"{rounds[best].weights[n]:.3f}"] for n, name in enumerate(names)]
    ratio += [["sum", "1.000", "1.000"]]
    notes = [
        verdict(best, changes[best], len(proxies.seeds)),
        *facts,
        "Objective: mean loss over held-out rows of " + shares_text(proxies.objective) + " (nats per token), of "
        f"{len(proxies.seeds)} seed(s) per mixture; these rows are none of those that comparisons evaluate. from: the "
        "round whose slopes made the mixture; predicted: what they promise to first order; signal: share of the slopes "
        "that seeds agree on. Intervals cover seeds and held-out rows, and not that the lowest of several was chosen.",
    ]
    return "\n".join(
        [
            table(header, lines),
            "",
            table(("domain", "prior", f"round {best}"), ratio),
            "",
            *(fill(note, WIDTH, subsequent_indent="  ") for note in notes),
            "",
        ]
    )


def smooth(effects: pd.DataFrame, number: int, steps: int) -> str:
    """Say from which step on the effects of a round were counted."""
    first = effects.groupby("seed")["step"].min()
    if first.max() == 1:
        return f"Slopes of round {number}: effects of all {steps} steps."
    return (
        f"Slopes of round {number}: effects of step {', '.join(map(str, first))} (by seed) to {steps}; before, the "
        "adjoint was rough, and seeds would not agree."
    )


def verdict(best: int, change: Difference, seeds: int) -> str:
    """Return what the search may claim."""
    if not best:
        return "The best mixture measured is the prior: no step from it gained anything beyond noise."
    gain = f"round {best} is {-change.value:.4f} nats below the prior"
    if seeds == 1:
        return f"The best mixture measured: {gain}; one seed says nothing about others."
    if change.better:
        return f"The best mixture measured: {gain} (95 % {-change.high:.4f} to {-change.low:.4f})."
    return (
        f"The best mixture measured: {gain}, but the interval ({change.low:+.4f} to {change.high:+.4f}) holds 0: "
        "more seeds (search.seeds) would have to confirm it."
    )


def shares_text(objective: dict[str, float]) -> str:
    """Return the objective in words."""
    if len(set(objective.values())) == 1:
        return ", ".join(objective) if len(objective) < 4 else f"{len(objective)} domains alike"
    return ", ".join(f"{name} ({share:.0%})" for name, share in objective.items())
