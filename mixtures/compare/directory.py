"""A comparison's directory read as a whole; proxies/comparison/records.py writes it and says what is in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixtures.compare.comparison import Comparison, summarize
from mixtures.errors import UserError
from mixtures.files import read_json, read_yaml
from mixtures.run.run import CorpusRecord, natural_shares, read_corpus
from mixtures.schedule.mixture import Mixture

KEYS = ("mixtures", "seeds", "baseline", "objective")  # that are read of config.yaml
UNKNOWN = {"seconds": np.nan, "flops": np.nan}


@dataclass(frozen=True, eq=False)
class ComparisonRecord:
    """What a comparison's directory holds; `missing`: base runs (mixture, seed) of its settings that are not
    finished.
    """

    path: Path
    config: dict[str, Any]
    corpus: CorpusRecord
    mixtures: dict[str, Mixture]
    facts: tuple[dict[str, Any], ...]  # of every finished base run
    comparison: Comparison
    missing: tuple[tuple[str, int], ...]


def is_comparison(path: str | Path) -> bool:
    """Does this directory hold a comparison?"""
    return (Path(path) / "config.yaml").is_file() and (Path(path) / "bases").is_dir()


def base_path(run_path: Path, name: str, seed: int) -> Path:
    """Where a base run's files begin."""
    return run_path / "bases" / name / f"seed-{seed}"


def read_bases(
    run_path: Path, names: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """(results, rows, facts) of all finished base runs of the mixtures `names` (None: of all), ordered by mixture and
    seed.
    """
    found = [read_json(path) for path in sorted((run_path / "bases").glob("*/seed-*.json"))]
    order = list(dict.fromkeys(fact["mixture"] for fact in found)) if names is None else list(names)
    facts = sorted(
        (fact for fact in found if fact["mixture"] in order),
        key=lambda fact: (order.index(fact["mixture"]), fact["seed"]),
    )
    bases = [base_path(run_path, fact["mixture"], fact["seed"]) for fact in facts]

    def table(suffix: str) -> pd.DataFrame:
        return pd.concat([pd.read_parquet(base.with_name(base.name + suffix)) for base in bases], ignore_index=True)

    return table(".parquet"), table("-rows.parquet"), facts


def read_comparison(run_dir: str | Path, names: Sequence[str] | None = None) -> ComparisonRecord:
    """The comparison of the mixtures `names` (None: of all in its settings), as far as their base runs are finished.

    What learning a mixture took is NaN where costs.json does not say. Raises UserError for a directory that holds no
    comparison, one without a finished base run, and base runs that are not comparable.
    """
    path = Path(run_dir)
    if not is_comparison(path):
        raise UserError(
            f"{path} holds no comparison (config.yaml and bases/); give a directory that `proxies.compare` wrote"
        )
    config, corpus = read_yaml(path / "config.yaml"), read_corpus(path / "corpus.json")
    if absent := [key for key in KEYS if not isinstance(config, dict) or key not in config]:
        raise UserError(f"{path / 'config.yaml'} is damaged: it has no {', '.join(absent)}; restore it from a copy")
    asked = [(name, seed) for name in names or config["mixtures"] for seed in config["seeds"]]
    missing = tuple(run for run in asked if not base_path(path, *run).with_suffix(".json").is_file())
    started = list(dict.fromkeys(name for name, seed in asked if (name, seed) not in missing))
    if not started:
        raise UserError(
            f"{path} has no finished base run; give the command that started it again: it does what is missing"
        )
    results, rows, facts = read_bases(path, started)
    costs = read_json(path / "costs.json") if (path / "costs.json").is_file() else {}
    mixtures = {name: Mixture.load(path / "mixtures" / f"{name}.json") for name in started}
    domains = [domain for domain in corpus.domains if domain.role == "domain"]
    shares = natural_shares([domain.tokens for domain in domains])
    comparison = summarize(
        results,
        rows,
        baseline=config["baseline"],
        importance=_importance(config["objective"], corpus),
        natural=dict(zip([domain.name for domain in domains], shares.tolist(), strict=True)),
        costs={name: costs.get("mixtures", {}).get(name, UNKNOWN) for name in started},
        base_cost=costs.get("base_run", UNKNOWN),
        weights={name: mixture.average_weights() for name, mixture in mixtures.items()},
    )
    return ComparisonRecord(path, config, corpus, mixtures, tuple(facts), comparison, missing)


def _importance(objective: str | Mapping[str, float], corpus: CorpusRecord) -> dict[str, float]:
    """Importance by name: as given, of the targets alike, or of the domains alike."""
    if not isinstance(objective, str):
        return {name: value for name, value in objective.items() if value > 0}
    targets = [domain.name for domain in corpus.domains if domain.role == "target"]
    domains = [domain.name for domain in corpus.domains if domain.role == "domain"]
    return dict.fromkeys(targets if objective == "auto" and targets else domains, 1.0)
