"""Every setting of a comparison: mixtures, base models, seeds. One YAML file holds them; it is validated as a whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from mixtures.errors import quoted
from mixtures.samples.rule import SampleRule
from proxies.config import DomainName, Frozen, exactly_one, require_file_names
from proxies.corpus.settings import CorpusSettings, SourceSettings
from proxies.settings import Loop, Model, ObjectiveSetting, Settings, Train, Update

MADE_FOR = {
    "temperature": "fixed: temperature",
    "max_epochs": "fixed: unimax",
    "row": "file",
    "train": "learn",
    "model": "learn",
}


def _seeds(value: Any) -> Any:
    return [value] if isinstance(value, int | str) else value


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seeds)]


class BaseTrain(Loop):
    """The training loop of the base models."""

    steps: int = Field(1000, ge=1, description="updates of a base model (steps)")
    warmup_steps: int = Field(50, ge=0, description="linear warm-up (steps)")
    batch_rows: int = Field(16, ge=1, description="rows per update, over all domains and processes (rows)")


class Proxy(Frozen):
    """The settings that the proxy runs of all learned mixtures share."""

    seed: int = Field(0, ge=0, description="seed of the proxies' initial weights and data order")
    seeds: Seeds = Field(
        (),
        description="several seeds in place of `seed`: each learned mixture is the mean of one proxy run per seed",
    )
    model: Model | None = Field(None, description="the proxy model; if left out, the same as the base model")
    train: Train = Field(Train(), description="the proxies' training loop")


class ContenderSamples(SampleRule):
    """Sample weights inside the domains of a mixture: a rule, and the scores that it works on."""

    scores: str = Field(min_length=1, description="a run directory with the scores that `proxies.score` wrote")

    @property
    def rule_alone(self) -> SampleRule:
        """The rule without the path of the scores."""
        return SampleRule(**self.model_dump(exclude={"scores"}))


class Contender(Frozen):
    """One mixture: where its weights come from (exactly one of fixed, file, learn, run), and its sample weights."""

    fixed: Literal["uniform", "natural", "temperature", "unimax"] | None = Field(
        None, description="a rule that needs no learning"
    )
    temperature: float | None = Field(
        None, gt=0, description="with fixed: temperature: 1 is natural, larger is closer to uniform"
    )
    max_epochs: float | None = Field(
        None, gt=0, description="with fixed: unimax: most times that a domain is read (epochs)"
    )
    file: str = Field(
        "", description="a file of shares: mixture.json, DoReMi JSON, Olmix JSON, RegMix CSV, {name: share}"
    )
    row: int | str | None = Field(None, description="with file: the mixture to take from a file of several")
    learn: Update | None = Field(None, description="learn the mixture with a proxy: the update block of a run")
    model: Model | None = Field(None, description="with learn: its proxy model, instead of proxy.model")
    train: dict[str, Any] = Field(
        {}, description="with learn: settings of its training loop, instead of those in proxy.train"
    )
    run: str = Field("", description="a finished run directory of proxies.train")
    average: Literal["all", "tail"] = Field(
        "all", description="with learn or run: average the weights over all steps, or over the last half (tail)"
    )
    samples: ContenderSamples | None = Field(
        None, description="sample weights inside the domains; if left out, all documents count alike"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Contender":
        exactly_one(self, ("fixed", "file", "learn", "run"))
        here = {f"fixed: {self.fixed}"} | {name for name in ("file", "learn", "run") if getattr(self, name)}
        extras = [name for name in MADE_FOR if getattr(self, name) not in (None, {})]
        unused = [f"{name} (only with {MADE_FOR[name]})" for name in extras if MADE_FOR[name] not in here]
        if self.average != "all" and not here & {"learn", "run"}:
            unused.append("average (only with learn or run)")
        if unused:
            raise ValueError(f"{', '.join(unused)} has no effect here; take it out")
        if missing := [
            name for name in ("temperature", "max_epochs") if MADE_FOR[name] in here and getattr(self, name) is None
        ]:
            raise ValueError(f"fixed: {self.fixed} needs {missing[0]}; give it")
        return self


class CompareSettings(Frozen):
    """All settings of a comparison. `proxies.compare COMPARE.yaml --section.key value` overrides single ones."""

    run_dir: str = Field(description="directory of the comparison's records; in the YAML file, relative to that file")
    seeds: Seeds = Field(
        (0, 1),
        min_length=1,
        description="seeds of initial weights and row order; one base model is trained per mixture and seed",
    )
    baseline: str = Field("uniform", description="the mixture that the others are compared with")
    corpus: CorpusSettings = Field(description="the text")
    model: Model = Field(description="the base model")
    train: BaseTrain = Field(BaseTrain(), description="the base models' training loop")
    objective: ObjectiveSetting = Field(
        "auto",
        description="objective that mixtures are learned for and judged by; values as in a run's update.objective",
    )
    proxy: Proxy = Field(Proxy(), description="the proxies of learned mixtures")
    mixtures: dict[DomainName, Contender] = Field(
        description="the mixtures to compare, NAME: {fixed: RULE}, {file: PATH}, {learn: {preset: ...}} or {run: "
        "DIRECTORY}, each with `samples` if wanted"
    )

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "CompareSettings":
        if faults := list(_faults(self)):
            raise ValueError("\n".join(faults))
        require_file_names(self.mixtures, info)
        return self

    @property
    def run_path(self) -> Path:
        """Path of the comparison's directory; absolute if the settings were loaded from a file."""
        return Path(self.run_dir)

    @property
    def base_tokens(self) -> int:
        """Number of tokens that every base model trains on."""
        return self.train.steps * self.train.batch_rows * self.corpus.row_tokens

    @property
    def learned(self) -> list[str]:
        """Names of the mixtures that this comparison learns."""
        return [name for name, contender in self.mixtures.items() if contender.learn]

    @property
    def text(self) -> CorpusSettings:
        """The corpus settings for all runs: they share one cache, and read equally much of a streamed source."""
        corpus, draws = self.corpus, self.draws

        def bounded(sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
            return {
                name: source.model_copy(update={"max_tokens": draws[name]})
                if source.streaming and source.max_tokens is None
                else source
                for name, source in sources.items()
            }

        changes = {
            "cache_dir": corpus.cache_dir or str(self.run_path.parent / "cache"),
            "domains": bounded(corpus.domains),
            "targets": bounded(corpus.targets),
        }
        return corpus.model_copy(update=changes)

    @property
    def draws(self) -> dict[str, int]:
        """{domain or target: largest number of tokens that a base model or a proxy reads of it}."""
        proxy = self.proxy.train
        most = max(self.base_tokens, proxy.steps * proxy.rows_per_domain * self.corpus.row_tokens)
        return dict.fromkeys(self.corpus.sources, most)

    @property
    def resolved(self) -> "CompareSettings":
        """These settings with the objective of every learned mixture in its own block.

        So a mixture's entry in config.yaml still says what it was learned for after a command with another objective.
        """
        learned = {
            name: self.mixtures[name].model_copy(update={"learn": self.run_of(name).update}) for name in self.learned
        }
        return self.model_copy(update={"mixtures": {**self.mixtures, **learned}})

    @property
    def proxy_seeds(self) -> tuple[int, ...]:
        """The seeds of the proxy runs behind every learned mixture."""
        return self.proxy.seeds or (self.proxy.seed,)

    def runs_of(self, name: str) -> list[Settings]:
        """Return the settings of the proxy runs that learn the mixture `name`, one per seed."""
        return [self.run_of(name, seed) for seed in self.proxy_seeds]

    def run_of(self, name: str, seed: int | None = None) -> Settings:
        """Return the settings of the proxy run with this seed that learns the mixture `name`; None: the first seed.

        An objective `auto` in its update block stands for the comparison's objective (except with doremi, which has
        none).
        """
        contender = self.mixtures[name]
        assert contender.learn
        update = contender.learn
        if update.objective == "auto" and update.preset != "doremi":
            update = update.model_copy(update={"objective": self.objective})
        seed = self.proxy_seeds[0] if seed is None else seed
        place = self.run_path / "learned" / name
        return Settings(
            run_dir=str(place / f"seed-{seed}" if len(self.proxy_seeds) > 1 else place),
            seed=seed,
            corpus=self.text,
            model=contender.model or self.proxy.model or self.model,
            train=Train.model_validate({**self.proxy.train.model_dump(), **contender.train}),
            update=update,
        )


def _faults(settings: CompareSettings) -> Iterator[str]:
    names = list(settings.mixtures)
    if len(names) < 2:
        yield f"mixtures holds {len(names)}: a comparison needs the baseline and at least one other mixture; add one"
    if settings.baseline not in names:
        yield f"baseline is {quoted(settings.baseline)}, which is not in mixtures; allowed: {', '.join(names)}"
    for setting, seeds in (("seeds", settings.seeds), ("proxy.seeds", settings.proxy.seeds)):
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            yield f"{setting} gives {', '.join(map(str, twice))} twice; give each once"
    if settings.proxy.seeds and settings.proxy.seed:
        yield f"proxy.seed ({settings.proxy.seed}) has no effect beside proxy.seeds; give one of the two"
    known = list(settings.corpus.sources)
    if isinstance(settings.objective, dict) and (unknown := [name for name in settings.objective if name not in known]):
        yield (
            f"objective names {', '.join(unknown)}, which is neither a domain nor a target; allowed: {', '.join(known)}"
        )
        return
    for name in settings.learned:
        yield from (f"mixtures.{name}.{fault}" for fault in _proxy_faults(settings, name))


def _proxy_faults(settings: CompareSettings, name: str) -> Iterator[str]:
    try:
        run = settings.run_of(name)
    except ValidationError as error:
        for fault in error.errors():
            place = ".".join(["train", *map(str, fault["loc"])])
            yield f"{place}: {fault['msg'].removeprefix('Value error, ')} (found {quoted(fault['input'])})"
        return
    if run.train.precision != settings.train.precision:
        yield (
            f"train.precision is {run.train.precision}, but {settings.train.precision} for the base models; one "
            "command computes in one precision: set proxy.train.precision and train.precision to the same value"
        )
    if run.train.tracker != "none":
        yield (
            f"train.tracker is {run.train.tracker}; a comparison keeps its record in files: set "
            f"proxy.train.tracker to none"
        )
    if run.update.held_out and run.train.evaluate_rows < settings.train.evaluate_rows:
        yield (
            f"learn.held_out: its objective would use held-out rows that the base models are evaluated on "
            f"(train.evaluate_rows {settings.train.evaluate_rows}); raise proxy.train.evaluate_rows from "
            f"{run.train.evaluate_rows} to {settings.train.evaluate_rows}"
        )
