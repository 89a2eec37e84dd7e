"""Every setting of a proxy run. One YAML file holds them; it is validated as a whole, and all faults are reported."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from doge.scopes import WORDS
from doge.updates import PRESETS, Constants, Preset
from proxies.config import DomainName, Frozen, Share, exactly_one, load
from proxies.corpus.settings import CorpusSettings

Importance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Model(Frozen):
    """The proxy model: exactly one of preset, config and pretrained."""

    preset: str = Field(
        "", description="a size from proxies/models.py: llama-1m, llama-5m, llama-25m, gpt2-82m, llama-125m"
    )
    config: str = Field("", description="a Hugging Face config.json; weights are drawn from the seed")
    pretrained: str = Field("", description="directory of a Hugging Face model to continue from, with its weights")

    @model_validator(mode="after")
    def _one_kind(self) -> "Model":
        exactly_one(self, ("preset", "config", "pretrained"))
        return self

    @property
    def source(self) -> str:
        """Where the model comes from, as a message names it: `model.config FILE`."""
        kind = "preset" if self.preset else "config" if self.config else "pretrained"
        return f"model.{kind} {getattr(self, kind)}"


class Loop(Frozen):
    """The settings that the training loops of proxies and base models have in common."""

    steps: int = Field(600, ge=1, description="updates of the model (steps)")
    lr: float = Field(1e-3, gt=0, le=1e6, description="peak learning rate of AdamW")
    min_lr: float = Field(1e-4, ge=0, description="learning rate at the last step (cosine decay)")
    warmup_steps: int = Field(30, ge=0, description="linear warm-up (steps)")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW's decoupled weight decay; biases and norm gains have none"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient of an update is clipped to this norm")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the forward and backward pass (autocast)"
    )
    accumulate: int = Field(
        1, ge=1, description="number of micro-batches that an update's rows are split into; more need less memory"
    )
    evaluate_every: int = Field(
        100,
        ge=1,
        description="steps between evaluations of the held-out loss; also before the first step and after the last",
    )
    evaluate_rows: int = Field(
        32,
        ge=1,
        description="held-out rows per domain that are evaluated, spread over the first half of its held-out text",
    )

    timeout: int = Field(
        1800,
        ge=0,
        description="with several processes: end them all if none of them finishes a step or an evaluation in this "
        "time, because one is stopped or hangs; 0: never (seconds)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}, from which it decays; lower min_lr")
        return self


class Train(Loop):
    """The proxy's training loop."""

    rows_per_domain: int = Field(4, ge=1, description="rows of every domain in each update, over all processes (rows)")
    save_every: int = Field(100, ge=1, description="steps between checkpoints; the records are written then too")
    gram_every: int = Field(
        1,
        ge=1,
        description="steps between recorded grams; more make trajectory/ smaller and the diagnosis noisier (steps)",
    )
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    tracker: Literal["none", "tensorboard", "wandb"] = Field(
        "none", description="log to this as well; the run's files are complete without it"
    )


def _not_nothing(value: str | dict[str, float]) -> str | dict[str, float]:
    if isinstance(value, dict) and not sum(value.values()) > 0:
        raise ValueError("an objective needs at least one importance above zero")
    return value


ObjectiveSetting = Annotated[Literal["auto", "universal"] | dict[DomainName, Importance], AfterValidator(_not_nothing)]


class Update(Frozen):
    """The rule that turns alignments, or excess losses (doremi), into domain weights.

    A constant that is left out takes the preset's value.
    """

    preset: Preset = Field("stable", description="the rule and its constants; doremi first trains its reference model")
    objective: ObjectiveSetting = Field(
        "auto",
        description="universal: all domains; {name: importance} over domains and targets; auto: the targets, or "
        "universal if there are none",
    )
    aggregate: Literal["mean", "worst"] = Field(
        "mean", description="how the objective's domains count: by importance (mean), or more the worse they do (worst)"
    )
    held_out: bool = Field(
        False, description="take the objective's gradients from held-out rows instead of the training rows"
    )
    order: Literal["exact", "lagged"] | None = Field(
        None, description="update the model with the new weights (exact), or the previous ones (lagged, less memory)"
    )
    prior: Literal["uniform", "natural"] | None = Field(
        None,
        description="weights to start from: equal, or by token counts; stable stays close to them, doremi's reference "
        "trains on them",
    )
    mu: float | None = Field(None, gt=0, description="paper, official: Bregman coefficient; smaller moves faster")
    tau: float | None = Field(
        None, gt=0, description="stable: how far the weights may leave the prior (log-odds per mean alignment)"
    )
    reach: Share | None = Field(
        None,
        description="stable: largest KL divergence of the weights from the prior, as a share of log(number of domains)",
    )
    averaging: float | None = Field(
        None,
        ge=0,
        le=1,
        description="stable: decay per step of the running mean of the gram; 1: all steps count alike",
    )
    geometry: Literal["raw", "adam"] | None = Field(
        None, description="stable: plain inner products (raw), or inner products in Adam's geometry (adam)"
    )
    floor: Share | None = Field(None, description="share of the prior that is mixed into the weights")
    score_min: float | None = Field(
        None, description="official: lower limit of the score, in multiples of the learning rate"
    )
    score_max: float | None = Field(
        None, description="official: upper limit of the score, in multiples of the learning rate"
    )
    sharpness: float | None = Field(
        None,
        ge=0,
        description="aggregate worst: a domain whose relative loss (loss divided by its first value) is higher by "
        "1/sharpness counts e times as much",
    )
    eta: float | None = Field(None, gt=0, description="doremi: step of the log-weights per nat of excess loss")
    smoothing: Share | None = Field(
        None, description="doremi: share of the uniform weights that is mixed into the weights at every step"
    )

    @model_validator(mode="after")
    def _doremi_has_no_objective(self) -> "Update":
        bad = {
            "objective": self.objective not in ("auto", "universal"),
            "aggregate": self.aggregate == "worst",
            "held_out": self.held_out,
        }
        if self.preset == "doremi" and any(bad.values()):
            unusable = ", ".join(f"{name} {getattr(self, name)}" for name in bad if bad[name])
            raise ValueError(
                f"preset doremi cannot use {unusable}: it weighs a domain by its own excess loss over a reference "
                "model, whatever the mixture is for; leave that out, or take preset stable"
            )
        return self


class PresenceSettings(Frozen):
    """Sample weights from each step's gradient norms: large norms count more at first, then less (arXiv 2311.00913)."""

    switch_at: Share = Field(
        0.1, description="share of the steps in which large gradient norms count more; small ones do in the rest"
    )
    temperature: float = Field(
        1.0, gt=0, description="log-odds of a sample's weight per standard deviation of the norms"
    )
    scope: str = Field(
        "first_block",
        description="parameters that the norms are computed over: first_block, all, blocks, embedding, head, or a name "
        "pattern",
    )
    unit_rows: int = Field(1, ge=1, description="rows that share one weight; 1: every row has its own (rows)")

    @field_validator("scope")
    @classmethod
    def _parameters(cls, scope: str) -> str:
        if scope == WORDS:
            raise ValueError(f"{WORDS} is not a set of parameters but a way to use the embedding; take embedding")
        return scope


def _online(value: Any) -> Any:
    if value in ("none", "presence"):
        return {"presence": {}} if value == "presence" else {}
    if not isinstance(value, dict):
        raise ValueError("give none, presence, or presence with its settings: {presence: {temperature: 1.0}}")
    return value


Online = Annotated[
    dict[Literal["presence"], PresenceSettings],
    BeforeValidator(_online),
    PlainSerializer(lambda value: {name: block.model_dump() for name, block in value.items()} or "none"),
]


class SampleSettings(Frozen):
    """Sample weights inside domains."""

    online: Online = Field(
        "none", validate_default=True, description="sample weights while the proxy trains: none or presence"
    )

    @property
    def presence(self) -> PresenceSettings | None:
        """The settings of online PRESENCE weights; None if they are not used."""
        return self.online.get("presence")


class Settings(Frozen):
    """All settings of a run. `proxies.train RUN.yaml --section.key value` overrides single ones."""

    run_dir: str = Field(description="directory of the run's records; in the YAML file, relative to that file")
    seed: int = Field(0, ge=0, description="seed of the initial weights, the data order and shuffling")
    corpus: CorpusSettings = Field(description="the text")
    model: Model = Field(description="the proxy model")
    train: Train = Field(Train(), description="the training loop")
    update: Update = Field(Update(), description="the rule that gives the domain weights")
    samples: SampleSettings = Field(SampleSettings(), description="sample weights")
    reuse: str = Field(
        "",
        description="a mixture.json: domains whose text is the same in it keep their relative weights, only the others "
        "are learned",
    )

    @model_validator(mode="after")
    def _objective_names(self) -> "Settings":
        if isinstance(self.update.objective, dict):
            known = list(self.corpus.sources)
            if unknown := [name for name in self.update.objective if name not in known]:
                raise ValueError(
                    f"update.objective names {', '.join(unknown)}, which is neither a domain nor a target; allowed: "
                    f"{', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _presence_fits(self) -> "Settings":
        presence, rows = self.samples.presence, self.train.rows_per_domain
        if presence is None:
            return self
        if self.update.preset == "doremi":
            raise ValueError(
                "samples.online is presence, which weighs gradients, but preset doremi computes no gradients per "
                "domain; set samples.online to none, or take preset stable"
            )
        unit = presence.unit_rows
        if rows % unit or rows < 2 * unit:
            raise ValueError(
                f"train.rows_per_domain is {rows} and samples.online.presence.unit_rows is {unit}, but a domain needs "
                f"at least two whole units, which are weighted against each other; set rows_per_domain to a multiple "
                f"of {unit}, {2 * unit} or more"
            )
        return self

    @model_validator(mode="after")
    def _reuse_fits(self) -> "Settings":
        bad = {
            "update.preset doremi": self.update.preset == "doremi",
            "update.held_out": self.update.held_out,
            "samples.online": self.samples.presence is not None,
            "corpus.simulate_budget": self.corpus.simulate_budget.tokens is not None,
        }
        if self.reuse and any(bad.values()):
            excluded = ", ".join(name for name in bad if bad[name])
            raise ValueError(f"reuse cannot be combined with {excluded}; leave that out, or learn without reuse")
        return self

    @property
    def importance(self) -> dict[str, float]:
        """Importance of every domain and target that the objective counts.

        `auto` means all targets, with equal importance. If there are no targets, and with doremi, it means all training
        domains, with equal importance (the universal objective). The universal objective is the sum over domains (DoGE,
        arXiv 2310.15393, eq. 4); from held-out rows it is their mean, like `mix` in the official code.
        """
        objective = "universal" if self.update.preset == "doremi" else self.update.objective
        if isinstance(objective, dict):
            return {name: value for name, value in objective.items() if value > 0}
        if objective == "auto" and self.corpus.targets:
            return dict.fromkeys(self.corpus.targets, 1.0)
        return dict.fromkeys(self.corpus.domains, 1 / len(self.corpus.domains) if self.update.held_out else 1.0)

    @property
    def constants(self) -> Constants:
        """The constants of the preset, with the values from the `update` block in place of its own."""
        values = {field.name: getattr(self.update, field.name, None) for field in dataclasses.fields(Constants)}
        return dataclasses.replace(
            PRESETS[self.update.preset], **{name: value for name, value in values.items() if value is not None}
        )

    @property
    def run_path(self) -> Path:
        """Path of the run directory; absolute if the settings were loaded from a file."""
        return Path(self.run_dir)

    @property
    def cache_path(self) -> Path:
        """Directory of the token cache."""
        return Path(self.corpus.cache_dir) if self.corpus.cache_dir else self.run_path.parent / "cache"

    @property
    def draws(self) -> dict[str, int]:
        """{domain or target: number of tokens that the run reads of it}."""
        tokens = self.train.steps * self.train.rows_per_domain * self.corpus.row_tokens
        return dict.fromkeys(self.corpus.sources, tokens)


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a run from a YAML file, with overrides; see `proxies.config.load`."""
    return load(Settings, path, overrides)
