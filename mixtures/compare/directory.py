"""Reading a comparison's directory; proxies/comparison/records.py writes it and lists its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mixtures.compare.comparison import Comparison, summarize
from mixtures.errors import UserError
from mixtures.files import read_json, read_yaml
from mixtures.run.run import CorpusRecord, natural_shares, read_corpus
from mixtures.schedule.mixture import Mixture
from mixtures.sums import fault_of, read_run_id, read_sums, require_whole, run_id_in

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


def base_files(run_path: Path, name: str, seed: int) -> tuple[Path, Path, Path]:
    """Return the paths of a base run's files: held-out losses over its steps, by row, and the facts about it."""
    path = base_path(run_path, name, seed)
    return path.with_suffix(".parquet"), path.with_name(f"{path.name}-rows.parquet"), path.with_suffix(".json")


def finished_bases(run_path: Path) -> list[tuple[str, int]]:
    """Return (mixture, seed) of the finished base runs of a comparison, after a check that their files are whole.

    The files of a comparison without an id (earlier versions) are not checked. Raises UserError that lists the files
    that are damaged, or of another comparison.
    """
    paths = sorted((run_path / "bases").glob("*/seed-*.json"))
    found = [(path.parent.name, int(path.stem.removeprefix("seed-"))) for path in paths]
    if (run_id := read_run_id(run_path)) is None:
        return found
    finished, faults = [], []
    sums = {name: read_sums(run_path / "bases" / name, run_id=run_id) for name, _ in found}
    for name, seed in found:
        files = base_files(run_path, name, seed)
        if any(path.name in sums[name] for path in files):
            finished.append((name, seed))
            faults += [f"  - {path} {fault}" for path in files if (fault := fault_of(path, sums[name].get(path.name)))]
    if faults:
        raise UserError(
            "\n".join([f"base runs of {run_path} are not as they were written:", *faults])
            + "\nrestore them from a copy, or remove the seed-S.json of each and give the command that started the "
            "comparison again: it trains these base models again"
        )
    return finished


def read_bases(run_path: Path) -> Bases:
    """Read all finished base runs of a comparison's directory, ordered by mixture and seed.

    Raises UserError for a file that is damaged, or of another comparison.
    """
    files = [base_files(run_path, name, seed) for name, seed in finished_bases(run_path)]
    facts = tuple(read_json(path) for _, _, path in files)
    results, rows = (tuple(_read_table(three[number]) for three in files) for number in (0, 1))
    return Bases(facts, results, rows).of(list(dict.fromkeys(fact["mixture"] for fact in facts)))


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: it is torn or damaged ({str(error).splitlines()[0]}); restore it from a copy, or "
            "remove the base run's seed-S.json: the command that started the comparison then trains it again"
        ) from error


def _read_costs(path: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Read what learning each mixture cost, and a base run; NaN where the file, or a mixture in it, is not there."""
    content = read_json(path) if path.is_file() else {}
    try:
        learned = {name: content.get("mixtures", {}).get(name, UNKNOWN) for name in names}
        costs = {name: {kind: float(cost[kind]) for kind in UNKNOWN} for name, cost in learned.items()}
        base = content.get("base_run", UNKNOWN)
        return costs, {kind: float(base[kind]) for kind in UNKNOWN}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: it does not give seconds and flops of each mixture; remove it, and give the command "
            "that started the comparison again: it writes it anew"
        ) from error


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
    config = read_yaml(path / "config.yaml")
    if absent := [key for key in KEYS if not isinstance(config, dict) or key not in config]:
        raise UserError(f"{path / 'config.yaml'} is damaged: it has no {', '.join(absent)}; restore it from a copy")
    require_whole(path / "corpus.json", run_id=run_id_in(config.get("environment")))
    corpus = read_corpus(path / "corpus.json")
    asked = [(name, seed) for name in names or config["mixtures"] for seed in config["seeds"]]
    bases = read_bases(path) if bases is None else bases
    finished = {(fact["mixture"], fact["seed"]) for fact in bases.facts}
    missing = tuple(run for run in asked if run not in finished)
    started = list(dict.fromkeys(name for name, seed in asked if (name, seed) not in missing))
    if not started:
        raise UserError(
            f"{path} has no finished base run; give the command that started the comparison again: it does what is "
            f"missing"
        )
    bases = bases.of(started)
    costs, base_cost = _read_costs(path / "costs.json", started)
    mixtures = {name: Mixture.load(path / "mixtures" / f"{name}.json") for name in started}
    domains = [domain for domain in corpus.domains if domain.role == "domain"]
    shares = natural_shares([domain.tokens for domain in domains])
    comparison = summarize(
        bases.results,
        bases.rows,
        baseline=config["baseline"],
        importance=_importance(config["objective"], corpus),
        natural=dict(zip([domain.name for domain in domains], shares.tolist(), strict=True)),
        costs=costs,
        base_cost=base_cost,
        weights={name: mixture.average_weights() for name, mixture in mixtures.items()},
    )
    return ComparisonRecord(path, config, corpus, mixtures, bases, comparison, missing)


def _importance(objective: str | Mapping[str, float], corpus: CorpusRecord) -> dict[str, float]:
    """Return {name: importance}: as given, or equal for all targets, or equal for all domains."""
    if not isinstance(objective, str):
        return {name: value for name, value in objective.items() if value > 0}
    domains = [domain.name for domain in corpus.domains if domain.role == "domain"]
    return dict.fromkeys(corpus.targets if objective == "auto" and corpus.targets else domains, 1.0)
