"""A run directory read as a whole: settings, corpus, trajectory."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from mixtures.errors import UserError
from mixtures.files import list_faults, read_json, read_yaml
from mixtures.run.evaluation import read_evaluation
from mixtures.run.replicates import read_replicates
from mixtures.run.trajectory import Trajectory, read_trajectory
from mixtures.schedule.records import Domain, Source, Tokenizer
from mixtures.sums import require_whole, run_id_in

REUSED = "reused"  # in a run with --reuse: name of the domain that stands for all reused domains
Checked = TypeVar("Checked", bound=BaseModel)


class Config(BaseModel):
    """The part of config.yaml that is needed here; proxies checks the settings themselves."""

    model_config = ConfigDict(frozen=True)

    seed: int
    corpus: dict[str, Any] = {}
    model: dict[str, Any]
    train: dict[str, Any]
    update: dict[str, Any]
    environment: dict[str, Any] = {}


class CorpusSource(Source):
    """A source of corpus.json; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")


class CorpusTokenizer(Tokenizer):
    """The tokenizer of corpus.json; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")


class Simulated(BaseModel):
    """How `corpus.simulate_budget` cut a domain: tokens of the large run, and the domain's text before the cut.

    budget_tokens: tokens of the large run. unique_tokens: the domain's unique tokens in the large run. text_tokens,
    text_documents, text_complete: the text before the cut.
    """

    model_config = ConfigDict(frozen=True)

    budget_tokens: int
    unique_tokens: int
    text_tokens: int
    text_documents: int
    text_complete: bool


class CorpusDomain(BaseModel):
    """One domain or target of corpus.json; other keys are ignored."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["domain", "target"]
    documents: int
    tokens: int
    complete: bool = True
    fingerprint: str | None = None
    sources: tuple[CorpusSource, ...] = ()
    validation_sources: tuple[CorpusSource, ...] = ()
    held_out_documents: int | None = None
    simulated: Simulated | None = None

    def as_domain(self) -> Domain:
        """Return the domain as the record of a mixture: its text, without bounds or sample weights."""
        return Domain(
            name=self.name,
            unique_tokens=self.tokens,
            unique_documents=self.documents,
            held_out_documents=self.held_out_in_sources,
            complete=self.complete,
            fingerprint=self.fingerprint,
            sources=self.sources,
        )

    @property
    def held_out_in_sources(self) -> int | None:
        """Return how many documents of the sources were held out for evaluation; None where it is not recorded.

        With validation files none were: the documents held out are those of these files.
        """
        return 0 if self.validation_sources else self.held_out_documents

    @property
    def uncut(self) -> "CorpusDomain":
        """Return the domain as it was before `corpus.simulate_budget` cut it."""
        if (was := self.simulated) is None:
            return self
        return self.model_copy(
            update={"tokens": was.text_tokens, "documents": was.text_documents, "complete": was.text_complete}
        )

    @property
    def elsewhere(self) -> int | None:
        """Return the domain's unique tokens in the large run if they differ from the uncut text's; None otherwise.

        `corpus.simulate_budget` gives them; a difference means that the large run has another text of this domain.
        """
        return (
            None
            if self.simulated is None or self.simulated.unique_tokens == self.uncut.tokens
            else self.simulated.unique_tokens
        )


class Reused(BaseModel):
    """The domains behind `reused`, with their shares among themselves.

    mixture: id of the mixture that the shares come from. relative: {name: share}, sum 1. order: names of all domains of
    the new mixture, in order.
    """

    model_config = ConfigDict(frozen=True)

    mixture: str
    relative: dict[str, float]
    order: tuple[str, ...]
    domains: tuple[CorpusDomain, ...]


class CorpusRecord(BaseModel):
    """Content of corpus.json: training domains first, in the run's order, then targets."""

    model_config = ConfigDict(frozen=True)

    tokenizer: CorpusTokenizer
    row_tokens: int
    domains: tuple[CorpusDomain, ...]
    reused: Reused | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the names of the targets."""
        return tuple(domain.name for domain in self.domains if domain.role == "target")


@dataclass(frozen=True)
class RunRecord:
    """A run's records, each read once; D training domains in the run's order."""

    path: Path
    config: Config
    corpus: CorpusRecord
    trajectory: Trajectory

    @property
    def run_id(self) -> str | None:
        """Return the id that the run got when it started; None for runs of earlier versions."""
        return run_id_in(self.config.environment)

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """Return the held-out losses in long form (`read_evaluation`); read at the first use."""
        return read_evaluation(self.path, run_id=self.run_id)

    @cached_property
    def replicates(self) -> np.ndarray | None:
        """Return average weights (R, D) if the steps had been drawn again; None where the run has none.

        `read_replicates` reads them at the first use.
        """
        return read_replicates(self.path, self.trajectory.domains, run_id=self.run_id)

    @property
    def domains(self) -> tuple[CorpusDomain, ...]:
        """Return the D training domains."""
        return tuple(domain for domain in self.corpus.domains if domain.role == "domain")

    @property
    def mixed(self) -> tuple[CorpusDomain, ...]:
        """Return the domains of the mixture: with --reuse, `reused` is replaced by the domains behind it.

        They are then in the order of the settings.
        """
        if (reused := self.corpus.reused) is None:
            return self.domains
        known = {domain.name: domain for domain in [*self.domains, *reused.domains]}
        return tuple(known[name] for name in reused.order)

    @property
    def uniform(self) -> np.ndarray:
        """Return equal shares (D,) of all domains; `reused` counts once per domain behind it."""
        counts = {REUSED: len(self.corpus.reused.domains)} if self.corpus.reused else {}
        return natural_shares([counts.get(domain.name, 1) for domain in self.domains])

    @property
    def natural(self) -> np.ndarray:
        """Return the share (D,) of every training domain in the corpus, by tokens."""
        return natural_shares([domain.tokens for domain in self.domains])

    @property
    def training_seconds(self) -> float:
        """Return the time that the steps took, in seconds, from the measured speeds."""
        step_tokens = np.diff(self.trajectory.tokens, prepend=0)
        return float((step_tokens / self.trajectory.frame["tokens_per_second"].to_numpy()).sum())

    @property
    def prior(self) -> np.ndarray:
        """Return the weights (D,) at the start: the mixture without any evidence."""
        natural = self.config.update.get("prior") == "natural" and self.config.update.get("preset") != "doremi"
        return self.natural if natural else self.uniform

    @property
    def rule(self) -> dict[str, Any]:
        """Return {constant of the update rule: value}, those of the preset included; earlier versions kept only some.

        Those runs recorded the constants that their settings gave.
        """
        given = {name: value for name, value in self.config.update.items() if value is not None}
        return given | self.config.environment.get("rule", {})

    @property
    def parameters(self) -> int:
        """Return the number of parameters of the proxy.

        Runs of earlier versions did not record it: the parameters of their newest checkpoint are counted. Raises
        UserError where there is neither.
        """
        if (recorded := self.config.environment.get("parameters")) is not None:
            return int(recorded)
        from safetensors import SafetensorError, safe_open

        path = max((self.path / "checkpoints").glob("step-*/model.safetensors"), default=None)
        if path is None:
            raise UserError(
                f"{self.path} does not say how large its proxy was: config.yaml has no environment.parameters, and "
                "there is no checkpoint to count; write `parameters: NUMBER` into the environment block of config.yaml"
            )
        try:
            with safe_open(path, framework="numpy") as file:
                return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from error

    @property
    def objective(self) -> str | dict[str, float]:
        """Return the objective of the run: `universal`, or {name: importance} of the domains and targets that count."""
        objective = self.config.update.get("objective", "auto")
        targets = self.corpus.targets
        if (
            objective == "auto" and targets and self.config.update.get("preset") != "doremi"
        ):  # DoReMi only evaluates targets
            return {name: 1 / len(targets) for name in targets}
        return "universal" if objective == "auto" else objective

    @property
    def has_targets(self) -> bool:
        """Return whether a target counts in the objective."""
        objective = self.objective
        return not isinstance(objective, str) and any(objective.get(name, 0) > 0 for name in self.corpus.targets)


def natural_shares(tokens: list[int]) -> np.ndarray:
    """Return the tokens of every domain as fractions (D,) of all tokens."""
    return np.array(tokens, dtype=np.float64) / sum(tokens)


def read_run(run: str | Path | RunRecord) -> RunRecord:
    """Read the records of a run from its directory; a record that was already read is returned as it is.

    Raises UserError, naming the file and what to do, for a directory that is not a run's, damaged records, and weights
    in the trajectory that are no mixture.
    """
    if isinstance(run, RunRecord):
        return run
    path = Path(run)
    if not path.is_dir():
        state = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {state}; give a run directory that `proxies.train` wrote")
    if missing := [name for name in ("config.yaml", "corpus.json") if not (path / name).is_file()]:
        raise UserError(
            f"{path} is not a run directory: it has no {' and no '.join(missing)}; give one that `proxies.train` wrote"
        )
    config = _validated(Config, read_yaml(path / "config.yaml"), path / "config.yaml")
    run_id = run_id_in(config.environment)
    require_whole(path / "corpus.json", run_id=run_id)
    trajectory = read_trajectory(path, run_id=run_id)
    record = RunRecord(path, config, read_corpus(path / "corpus.json"), trajectory)
    names = tuple(domain.name for domain in record.domains)
    if names != record.trajectory.domains:
        raise UserError(
            f"{path} mixes two runs: corpus.json has domains {', '.join(names)}, the trajectory "
            f"{', '.join(record.trajectory.domains)}; restore the file that was replaced"
        )
    _check_weights(record)
    return record


def _check_weights(run: RunRecord) -> None:
    """Raise UserError where the trajectory's weights are not finite, are negative, or do not sum to 1."""
    weights, domains = run.trajectory.weights, run.trajectory.domains
    bad = ~(weights >= 0)  # also NaN
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{run.path}: weight of {domains[column]} at step {row + 1} is {weights[row, column]}; weights must be "
            "finite and at least 0: the run went wrong at this step, repeat it"
        )
    off = np.abs(weights.sum(axis=1) - 1)
    if off.max() > 1e-6:
        row = int(off.argmax())
        raise UserError(
            f"{run.path}: weights at step {row + 1} sum to {weights[row].sum():.9g}, not 1: the trajectory was edited "
            "or damaged; restore it from a copy"
        )


def _validated(model: type[Checked], record: Any, path: Path) -> Checked:
    """Build the model from a parsed file. Raises UserError listing the faults of the file `path`."""
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{path} is damaged:\n" + "\n".join(list_faults(error)) + "\nrestore it from a copy") from error


def read_corpus(path: Path) -> CorpusRecord:
    """Read the corpus.json of a run or a comparison. Raises UserError for a missing or damaged file."""
    return _validated(CorpusRecord, read_json(path), path)


def importance_of(run: RunRecord) -> np.ndarray:
    """Return the importance (G,) of every group in the run's objective, before any lean to the worst group."""
    domains, objective = run.trajectory.domains, run.objective
    if isinstance(objective, str):
        named = dict(zip(domains, run.uniform * len(run.mixed), strict=True))
    else:
        reused = {domain.name for domain in run.corpus.reused.domains} if run.corpus.reused else set()
        named = dict.fromkeys([REUSED, *objective], 0.0)
        for name, value in objective.items():
            named[REUSED if name in reused else name] += value
    if run.config.update.get("held_out"):
        named = {f"{name}@held_out" if name in domains else name: value for name, value in named.items()}
    return np.array([named.get(group, 0.0) for group in run.trajectory.groups])
