"""Reading a comparison's directory; proxies/comparison/records.py writes it and lists its files."""

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

KEYS = ("mixtures", "seeds", "baseline", "objective")  # keys of config.yaml that are read
UNKNOWN = {"seconds": np.nan, "flops": np.nan}


def is_comparison(path: str | Path) -> bool:
    """Say whether this directory holds a comparison."""
    return (Path(path) / "config.yaml").is_file() and (Path(path) / "bases").is_dir()


def base_path(run_path: Path, name: str, seed: int) -> Path:
    """Return the path that the names of a base run's files begin with."""
    return run_path / "bases" / name / f"seed-{seed}"


@dataclass(frozen=True, eq=False)
class Bases:
    """Finished base runs: facts about each, held-out losses over the steps (`results`) and by row (`rows`)."""

    facts: tuple[dict[str, Any], ...]
    _results: tuple[pd.DataFrame, ...]
    _rows: tuple[pd.DataFrame, ...]

    @property
    def results(self) -> pd.DataFrame:
        """Table with one line per run, step and domain: mixture, seed, step, tokens, domain, loss, bits_per_byte."""
        return pd.concat(self._results, ignore_index=True)

    @property
    def rows(self) -> pd.DataFrame:
        """Table with one line per run and held-out row, at the last step: mixture, seed, domain, row, loss."""
        return pd.concat(self._rows, ignore_index=True)

    def of(self, names: Sequence[str]) -> "Bases":
        """Return the base runs of these mixtures, ordered by mixture and seed."""
        chosen = [number for number, fact in enumerate(self.facts) if fact["mixture"] in names]
        chosen.sort(key=lambda number: (names.index(self.facts[number]["mixture"]), self.facts[number]["seed"]))
        facts, results, rows = (
            [column[number] for number in chosen] for column in (self.facts, self._results, self._rows)
        )
        return Bases(tuple(facts), tuple(results), tuple(rows))


@dataclass(frozen=True, eq=False)
class ComparisonRecord:
    """The content of a comparison's directory; `missing` lists the base runs (mixture, seed) that are not finished."""

    path: Path
    config: dict[str, Any]
    corpus: CorpusRecord
    mixtures: dict[str, Mixture]
    bases: Bases
    comparison: Comparison
    missing: tuple[tuple[str, int], ...]


def read_bases(run_path: Path) -> Bases:
    """Read all finished base runs of a comparison's directory, ordered by mixture and seed."""
    facts = [read_json(path) for path in sorted((run_path / "bases").glob("*/seed-*.json"))]
    places = [base_path(run_path, fact["mixture"], fact["seed"]) for fact in facts]
    results, rows = (
        tuple(pd.read_parquet(place.with_name(place.name + suffix)) for place in places)
        for suffix in (".parquet", "-rows.parquet")
    )
    return Bases(tuple(facts), results, rows).of(list(dict.fromkeys(fact["mixture"] for fact in facts)))


def read_comparison(
    run_dir: str | Path, names: Sequence[str] | None = None, *, bases: Bases | None = None
) -> ComparisonRecord:
    """Read a comparison's directory and compare the mixtures `names` whose base runs are finished.

    names:  None compares all mixtures in the comparison's settings.
    bases:  the directory's base runs, if they were read before.

    The cost of learning a mixture is NaN if costs.json does not give it. Raises UserError for a directory that holds no
    comparison or no finished base run, and for base runs that are not comparable.
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
            f"{path} has no finished base run; give the command that started the comparison again: it does what is "
            f"missing"
        )
    bases = (read_bases(path) if bases is None else bases).of(started)
    costs = read_json(path / "costs.json") if (path / "costs.json").is_file() else {}
    mixtures = {name: Mixture.load(path / "mixtures" / f"{name}.json") for name in started}
    domains = [domain for domain in corpus.domains if domain.role == "domain"]
    shares = natural_shares([domain.tokens for domain in domains])
    comparison = summarize(
        bases.results,
        bases.rows,
        baseline=config["baseline"],
        importance=_importance(config["objective"], corpus),
        natural=dict(zip([domain.name for domain in domains], shares.tolist(), strict=True)),
        costs={name: costs.get("mixtures", {}).get(name, UNKNOWN) for name in started},
        base_cost=costs.get("base_run", UNKNOWN),
        weights={name: mixture.average_weights() for name, mixture in mixtures.items()},
    )
    return ComparisonRecord(path, config, corpus, mixtures, bases, comparison, missing)


def _importance(objective: str | Mapping[str, float], corpus: CorpusRecord) -> dict[str, float]:
    """Return {name: importance}: as given, or equal for all targets, or equal for all domains."""
    if not isinstance(objective, str):
        return {name: value for name, value in objective.items() if value > 0}
    domains = [domain.name for domain in corpus.domains if domain.role == "domain"]
    return dict.fromkeys(corpus.targets if objective == "auto" and corpus.targets else domains, 1.0)
