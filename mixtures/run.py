"""A run directory read as a whole: settings, corpus, trajectory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mixtures.errors import UserError
from mixtures.reading import list_faults, read_json
from mixtures.records import Source, Tokenizer
from mixtures.trajectory import Trajectory, read_trajectory

Checked = TypeVar("Checked", bound=BaseModel)


class Config(BaseModel):
    """What is needed of config.yaml; the settings themselves are checked by proxies."""

    model_config = ConfigDict(frozen=True)

    seed: int
    corpus: dict[str, Any] = {}
    model: dict[str, Any]
    train: dict[str, Any]
    update: dict[str, Any]
    environment: dict[str, Any] = {}


class CorpusSource(Source):
    """A source of corpus.json (more keys may stand there)."""

    model_config = ConfigDict(extra="ignore")


class CorpusTokenizer(Tokenizer):
    """The tokenizer of corpus.json (more keys may stand there)."""

    model_config = ConfigDict(extra="ignore")


class CorpusDomain(BaseModel):
    """One domain or target of corpus.json (more keys may stand there)."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["domain", "target"]
    documents: int
    tokens: int
    complete: bool = True
    fingerprint: str | None = None
    sources: tuple[CorpusSource, ...] = ()


class CorpusRecord(BaseModel):
    """corpus.json: training domains first, in the run's order, then targets."""

    model_config = ConfigDict(frozen=True)

    tokenizer: CorpusTokenizer
    row_tokens: int
    domains: tuple[CorpusDomain, ...]


@dataclass(frozen=True)
class Run:
    """A run's records; D training domains in the run's order."""

    path: Path
    config: Config
    corpus: CorpusRecord
    trajectory: Trajectory

    @property
    def domains(self) -> tuple[CorpusDomain, ...]:
        """The D training domains."""
        return tuple(domain for domain in self.corpus.domains if domain.role == "domain")

    @property
    def natural(self) -> np.ndarray:
        """(D,) share of every domain in the corpus, by tokens."""
        return natural_shares([domain.tokens for domain in self.domains])

    @property
    def objective(self) -> str | dict[str, float]:
        """What the mixture was learned for: `universal`, or importances by name."""
        objective = self.config.update.get("objective", "auto")
        targets = [domain.name for domain in self.corpus.domains if domain.role == "target"]
        if objective == "auto" and targets and self.config.update.get("preset") != "doremi":  # DoReMi only evaluates targets
            return {name: 1 / len(targets) for name in targets}
        return "universal" if objective == "auto" else objective


def natural_shares(tokens: list[int]) -> np.ndarray:
    """(D,) tokens of every domain as fractions of all."""
    return np.array(tokens, dtype=np.float64) / sum(tokens)


def read_run(run_dir: str | Path) -> Run:
    """The records of a run.

    Raises UserError, naming the file and what to do, for a directory that is none of a run, damaged records, and
    weights in the trajectory that are no mixture.
    """
    path = Path(run_dir)
    if not path.is_dir():
        found = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {found}; give a run directory that `proxies.train` wrote")
    if missing := [name for name in ("config.yaml", "corpus.json") if not (path / name).is_file()]:
        raise UserError(f"{path} is not a run directory: it has no {' and no '.join(missing)}; give one that `proxies.train` wrote")
    config = _validated(Config, _read_yaml(path / "config.yaml"), path / "config.yaml")
    corpus = _validated(CorpusRecord, read_json(path / "corpus.json"), path / "corpus.json")
    run = Run(path, config, corpus, read_trajectory(path))
    names = tuple(domain.name for domain in run.domains)
    if names != run.trajectory.domains:
        raise UserError(
            f"{path} mixes two runs: corpus.json has domains {', '.join(names)}, the trajectory "
            f"{', '.join(run.trajectory.domains)}; restore the file that was replaced"
        )
    _check_weights(run)
    return run


def _check_weights(run: Run) -> None:
    weights, domains = run.trajectory.weights, run.trajectory.domains
    bad = ~(weights >= 0)  # also NaN
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{run.path}: weight of {domains[column]} at step {row + 1} is {weights[row, column]}; weights are finite "
            "and at least 0: the run went wrong there, repeat it"
        )
    off = np.abs(weights.sum(axis=1) - 1)
    if off.max() > 1e-6:
        row = int(off.argmax())
        raise UserError(
            f"{run.path}: weights at step {row + 1} sum to {weights[row].sum():.9g}, not 1: the trajectory was edited "
            "or damaged; restore it from a copy"
        )


def _validated(model: type[Checked], record: Any, path: Path) -> Checked:
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{path} is damaged:\n" + "\n".join(list_faults(error)) + "\nrestore it from a copy") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} does not parse: {error}; restore it from a copy") from error
