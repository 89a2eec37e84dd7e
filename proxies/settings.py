"""Every setting of a proxy run: one YAML file, validated as a whole, every fault reported at once."""

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
    """The proxy model: exactly one of the three."""

    preset: str = Field(
        "", description="a size from proxies/models.py: llama-1m, llama-5m, llama-25m, gpt2-82m, llama-125m"
    )
    config: str = Field("", description="a Hugging Face config.json; weights are drawn from the seed")
    pretrained: str = Field("", description="a directory to continue from, weights included")

    @model_validator(mode="after")
    def _one_kind(self) -> "Model":
        exactly_one(self, ("preset", "config", "pretrained"))
        return self


class Loop(Frozen):
    """What every training loop has, a proxy's and a base model's."""

    steps: int = Field(600, ge=1, description="updates of the model (steps)")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    min_lr: float = Field(1e-4, ge=0, description="learning rate at the last step (cosine decay)")
    warmup_steps: int = Field(30, ge=0, description="linear warm-up (steps)")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW's decoupled weight decay; biases and norm gains have none"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="the norm of the gradient that is stepped with is clipped to this"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the forward and backward pass (autocast)"
    )
    accumulate: int = Field(
        1, ge=1, description="micro-batches that an update's rows are split into (memory, not mathematics)"
    )
    evaluate_every: int = Field(
        100, ge=1, description="held-out loss every so many steps, and before and after the run"
    )
    evaluate_rows: int = Field(
        32, ge=1, description="held-out rows a domain for it, spread over the first half of them (rows)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}; it is where the decay ends")
        return self


class Train(Loop):
    """The proxy's training loop."""

    rows_per_domain: int = Field(4, ge=1, description="rows of every domain in each update, over all processes (rows)")
    save_every: int = Field(100, ge=1, description="checkpoint and flush of the records every so many steps")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    tracker: Literal["none", "tensorboard", "wandb"] = Field(
        "none", description="also log to this; the files are the record"
    )


def _not_nothing(value: str | dict[str, float]) -> str | dict[str, float]:
    if isinstance(value, dict) and not sum(value.values()) > 0:
        raise ValueError("an objective needs at least one importance above zero")
    return value


ObjectiveSetting = Annotated[Literal["auto", "universal"] | dict[DomainName, Importance], AfterValidator(_not_nothing)]


class Update(Frozen):
    """The rule that makes domain weights, from alignments or (doremi) excess losses; an empty constant takes the
    preset's value.
    """

    preset: Preset = Field("stable", description="rule and its constants; doremi trains its reference model first")
    objective: ObjectiveSetting = Field(
        "auto",
        description="universal, or importances by name over domains and targets; auto: the targets if there are any",
    )
    aggregate: Literal["mean", "worst"] = Field(
        "mean", description="importance-weighted mean, or lean to the worst objective domain"
    )
    held_out: bool = Field(
        False, description="the objective's gradients come from held-out rows, not from the training rows"
    )
    order: Literal["exact", "lagged"] | None = Field(
        None, description="step with the new weights, or with the previous ones (less memory)"
    )
    prior: Literal["uniform", "natural"] | None = Field(
        None, description="where the weights start and what stable is anchored to; doremi: what its reference trains on"
    )
    mu: float | None = Field(None, gt=0, description="paper, official: Bregman coefficient; smaller moves faster")
    tau: float | None = Field(
        None, gt=0, description="stable: how far the weights may leave the prior (log-odds per mean alignment)"
    )
    reach: Share | None = Field(
        None,
        description="stable: most KL divergence of the weights from the prior, as a share of log(number of domains)",
    )
    averaging: float | None = Field(
        None, ge=0, le=1, description="stable: decay of the running mean of the gram a step; 1: the whole run"
    )
    geometry: Literal["raw", "adam"] | None = Field(
        None, description="stable: inner products as they are, or in Adam's geometry"
    )
    floor: Share | None = Field(None, description="share of the prior mixed into the weights")
    score_min: float | None = Field(None, description="official: lower clip of the score, in learning rates")
    score_max: float | None = Field(None, description="official: upper clip of the score, in learning rates")
    sharpness: float | None = Field(
        None, ge=0, description="aggregate worst: a domain whose relative loss is behind by 1/this counts e times"
    )
    eta: float | None = Field(None, gt=0, description="doremi: step of the log-weights per nat of excess loss")
    smoothing: Share | None = Field(
        None, description="doremi: share of the uniform weights mixed into the weights at every step"
    )

    @model_validator(mode="after")
    def _doremi_has_no_objective(self) -> "Update":
        bad = {
            "objective": self.objective not in ("auto", "universal"),
            "aggregate": self.aggregate == "worst",
            "held_out": self.held_out,
        }
        if self.preset == "doremi" and any(bad.values()):
            found = ", ".join(f"{name} {getattr(self, name)}" for name in bad if bad[name])
            raise ValueError(
                f"preset doremi cannot use {found}: it weighs a domain by its own excess loss over a reference model, "
                "whatever the mixture is for; leave that out, or take preset stable"
            )
        return self


class PresenceSettings(Frozen):
    """Sample weights from each step's gradient norms: large ones count more at first, then less (arXiv 2311.00913)."""

    switch_at: Share = Field(
        0.1, description="share of the steps that large gradient norms count more in; then small ones do"
    )
    temperature: float = Field(
        1.0, gt=0, description="log-odds of a sample's weight per standard deviation of the norms"
    )
    scope: str = Field(
        "first_block",
        description="parameters of the norms: first_block, all, blocks, embedding, head, or a name pattern",
    )
    unit_rows: int = Field(1, ge=1, description="rows that are weighted as one; 1: every row for itself (rows)")

    @field_validator("scope")
    @classmethod
    def _parameters(cls, scope: str) -> str:
        if scope == WORDS:
            raise ValueError(f"{WORDS} is a use of parameters, not a set of them; take embedding")
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
        """The settings of online PRESENCE weights; None where there are none."""
        return self.online.get("presence")


class Settings(Frozen):
    """A whole run. `proxies.train RUN.yaml --section.key value` overrides single settings."""

    run_dir: str = Field(description="directory of the run's records; relative to the YAML file")
    seed: int = Field(0, ge=0, description="of initial weights, data order and shuffling")
    corpus: CorpusSettings = Field(description="the text")
    model: Model = Field(description="the proxy")
    train: Train = Field(Train(), description="the loop")
    update: Update = Field(Update(), description="the rule")
    samples: SampleSettings = Field(SampleSettings(), description="sample weights")
    reuse: str = Field(
        "",
        description="mixture.json: domains with the text that it names keep their relative weights, others are learned",
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
                "samples.online is presence, which weighs gradients, and preset doremi takes none by domain: set it to "
                "none, or take preset stable"
            )
        unit = presence.unit_rows
        if rows % unit or rows < 2 * unit:
            raise ValueError(
                f"train.rows_per_domain is {rows}, samples.online.presence.unit_rows {unit}: a domain needs at least "
                f"two whole units, which are weighted against each other; set rows_per_domain to a multiple of {unit}, "
                f"{2 * unit} or more"
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
            found = ", ".join(name for name in bad if bad[name])
            raise ValueError(f"reuse does not go with {found}; leave that out, or learn without reuse")
        return self

    @property
    def importance(self) -> dict[str, float]:
        """Importance of every domain and target that the objective counts.

        `auto` means the targets where there are any, all training domains alike where not (DESIGN 5.2) and with doremi.
        The universal objective is the sum over domains (DoGE eq. 4); from held-out rows it is their mean, as the
        official code's `mix`.
        """
        objective = "universal" if self.update.preset == "doremi" else self.update.objective
        if isinstance(objective, dict):
            return {name: value for name, value in objective.items() if value > 0}
        if objective == "auto" and self.corpus.targets:
            return dict.fromkeys(self.corpus.targets, 1.0)
        return dict.fromkeys(self.corpus.domains, 1 / len(self.corpus.domains) if self.update.held_out else 1.0)

    @property
    def constants(self) -> Constants:
        """The preset's constants with those given in their place."""
        given = {field.name: getattr(self.update, field.name, None) for field in dataclasses.fields(Constants)}
        return dataclasses.replace(
            PRESETS[self.update.preset], **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def run_path(self) -> Path:
        """The run directory, absolute once the settings were loaded from a file."""
        return Path(self.run_dir)

    @property
    def cache_path(self) -> Path:
        """Directory of the token cache."""
        return Path(self.corpus.cache_dir) if self.corpus.cache_dir else self.run_path.parent / "cache"

    @property
    def draws(self) -> dict[str, int]:
        """Tokens that the run reads of every domain and target."""
        tokens = self.train.steps * self.train.rows_per_domain * self.corpus.row_tokens
        return dict.fromkeys(self.corpus.sources, tokens)


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a run; see `load`."""
    return load(Settings, path, overrides)
