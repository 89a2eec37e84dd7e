"""The parts of mixture.json, as pydantic models; mixture.py puts them together."""

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from mixtures.text import EVERY

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[float, Field(gt=0)]
MANY_EPOCHS = 4.0  # up to here repeated text is about as good as new text (arXiv 2305.16264); above, a warning


class Record(BaseModel):
    """A part of the file: immutable, without NaN or unknown keys; an instance of a subclass becomes the part itself."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="subclass-instances"
    )


class GrownRecord(Record):
    """A part with later keys, which the first files did not have; without a value they are left out.

    So an older file keeps its id.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if key not in self.later or value is not None}


class Units(Record):
    """Units of the numbers in the file, stated so that no reader has to guess."""

    weight: Literal["trained_token_fraction"] = "trained_token_fraction"
    progress: Literal["tokens"] = "tokens"
    token_count: Literal["incl_separators", "excl_separators"] = "incl_separators"


class Tokenizer(Record):
    """The tokenizer whose tokens every count in the file means."""

    name: str
    vocab_size: Positive
    fingerprint: str
    separators_per_document: Count = 1


class Batch(Record):
    """Batch size from a position on, where the trainer has decided it."""

    from_tokens: Count
    sequences_per_step: Positive


class Horizon(Record):
    """The large run: total_tokens tokens, beginning at start_tokens."""

    start_tokens: Count = Field(default=0, description="tokens already trained when the schedule begins")
    total_tokens: Positive = Field(description="tokens that the schedule covers, counted from start_tokens")
    sequence_length: Positive | None = Field(default=None, description="null: the trainer decides")
    batch: tuple[Batch, ...] = Field(default=(), description="empty: the trainer decides")

    @property
    def end_tokens(self) -> int:
        """Return the position (tokens) at which the schedule ends."""
        return self.start_tokens + self.total_tokens


class Source(GrownRecord):
    """Origin of a domain's text."""

    later = ("text",)

    format: str = Field(description="parquet, jsonl, csv, txt, hf, builtin, or a trainer's own format")
    uri: str
    sha256: str | None = None
    text: str | None = Field(default=None, description="column that holds the text; left out: not known, or no columns")

    @property
    def path(self) -> str:
        """Return the uri with `~`, which stands for the home directory in a shared file, written out."""
        return os.path.expanduser(self.uri)


class SamplePolicy(GrownRecord):
    """Which documents of a domain are used, and how much, as listed in a manifest; unlisted text is used once."""

    later = ("rule", "score", "scored_tokens", "effective_sample_size")

    mode: Literal["none", "filter", "multiplicity", "sampling_weight", "loss_weight"] = "none"
    manifest_uri: str | None = Field(default=None, description="relative to the directory of the mixture's file")
    manifest_sha256: str | None = None
    key: Literal["document_index", "document_id", "sequence_index", "token"] = "document_id"
    kept_documents: Count | None = Field(default=None, description="documents that are used at all; null: not known")
    kept_tokens: Count | None = Field(
        default=None,
        description="tokens of one pass over the domain (filter, multiplicity); all tokens of the domain (weights)",
    )
    rule: str | None = Field(default=None, description="the rule that made weights of the scores")
    score: str | None = Field(default=None, description="name of the documents' score")
    scored_tokens: Count | None = Field(
        default=None, description="tokens of the documents in the manifest; all other text counts once"
    )
    effective_sample_size: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="(sum n w)^2 / (sum n sum n w^2) over documents of n tokens and weight w: the fraction of the "
        "domain's tokens that equal weights would need to say as much",
    )


class Domain(GrownRecord):
    """One domain's text and how often it may be repeated."""

    later = ("held_out_documents",)

    name: Name
    unique_tokens: Positive
    unique_documents: Positive | None = Field(default=None, description="null: not known")
    held_out_documents: Count | None = Field(
        default=None,
        description="documents of the sources that the proxy held out for evaluation, beside the unique ones; 0: it "
        "read others (validation files) for that; left out: not known",
    )
    complete: bool = Field(
        default=True, description="false: the domain has more text than was read; the counts are lower bounds"
    )
    fingerprint: str | None = Field(
        default=None, description="hash of the domain's tokens; null: not known, so texts are not compared"
    )
    max_epochs: Epochs | None = Field(
        default=None, description="most epochs over the whole schedule, all stages together; null: no cap"
    )
    on_exhausted: Literal["error", "repeat", "renormalize"] = Field(
        default="repeat",
        description=(
            "what a stream does when max_epochs is used up before the schedule ends (without max_epochs a domain is "
            "never used up). error: refuse at the start if the schedule would use up the domain. repeat: go on with "
            "another epoch, beyond max_epochs. renormalize: the domain gives no more rows, and its remaining share "
            "goes to the other domains in proportion to their shares"
        ),
    )
    sources: tuple[Source, ...] = ()
    sample_policy: SamplePolicy | None = None

    @property
    def pass_tokens(self) -> int:
        """Return the tokens of one epoch: those that the sample policy keeps, with repetitions, or all of the domain.

        Only the modes filter and multiplicity leave out or repeat documents.
        """
        policy = self.sample_policy
        if policy is None or policy.mode not in ("filter", "multiplicity") or policy.kept_tokens is None:
            return self.unique_tokens
        return policy.kept_tokens

    def over_cap(self, epochs: float) -> bool:
        """Say whether `epochs` epochs of the domain exceed its cap (max_epochs) by more than rounding."""
        return self.max_epochs is not None and epochs > self.max_epochs * (1 + 1e-9)

    def held_at_cap(self, epochs: float) -> bool:
        """Say whether `epochs` epochs of the domain use up its cap (max_epochs), up to rounding."""
        return self.max_epochs is not None and epochs >= self.max_epochs * (1 - 1e-6)


class Stage(Record):
    """Weights that hold from start_tokens to the start of the next stage, or to the end."""

    name: str
    start_tokens: Count
    weights: dict[Name, Share] = Field(min_length=1)
    weights_ci95: dict[Name, tuple[float, float]] | None = Field(
        default=None, description="95 % intervals of the learned weights, before bounds moved them; null: not known"
    )


class Sampling(Record):
    """How the rows of a domain are drawn."""

    seed: Count = 0
    data_order: Literal["continue_across_stages", "disjoint_shards", "restart_each_stage"] = "continue_across_stages"
    granularity: Literal["token", "sequence", "document"] = "sequence"


class Expected(Record):
    """Computed from stages and domains: what the whole schedule takes from a domain."""

    domain: Name
    tokens: Annotated[float, Field(ge=0)]
    epochs: Annotated[float, Field(ge=0)]


class Input(Record):
    """A file that the mixture was made from."""

    uri: str
    sha256: Sha256


class Constraint(Record):
    """Bounds asked for at export; the weights in `stages` are the ones closest to the learned weights that keep them.

    Close in the sense of KL. A name `*` stands for every domain that is not named.
    """

    max_epochs: dict[str, Epochs | None] = Field(
        default={}, description="caps asked for, in epochs over the whole schedule; null: no cap"
    )
    min_share: dict[str, Share] = Field(default={}, description="least shares asked for, in every stage")
    moved: Annotated[float, Field(ge=0)] = Field(
        default=0, description="fraction of the schedule's tokens that the bounds moved to other domains"
    )
    kl: Annotated[float, Field(ge=0)] | None = Field(
        default=0,
        description="mean over the tokens of KL(weights || learned), nats; null: infinite, a learned zero was raised",
    )
    learned: tuple[dict[Name, Share], ...] = Field(
        default=(),
        description="the learned weights (after shrinkage to the prior), one entry per stage; empty: the bounds moved "
        "nothing",
    )

    def cap(self, name: str) -> float | None:
        """Return the cap (epochs) asked for a domain; None for no cap."""
        return self.max_epochs.get(name, self.max_epochs.get(EVERY))

    def least(self, name: str) -> float:
        """Return the least share of every stage asked for a domain; 0 for none."""
        return self.min_share.get(name, self.min_share.get(EVERY, 0.0))


class Uncertainty(Record):
    """How sure the learned weights are: the source of their intervals, and how far they were shrunk to the prior."""

    runs: Positive
    replicates: Count = Field(default=0, description="bootstrap replicates of the steps, all runs together")
    prior: dict[Name, Share] = Field(description="the mixture that the runs started from")
    signal: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        description="signal to noise, one entry per stage: mean square of the departure from the prior in standard "
        "errors (log-odds); noise alone gives 1"
    )
    needed: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        description="one entry per stage: 95 % quantile of signal if the true weights were the prior"
    )
    factor: tuple[Share, ...] = Field(
        description="one entry per stage, multiplied with the log-ratios to the prior: 1 - 1/signal, 0 where signal < "
        "needed, 1 without shrinkage"
    )
    mean: tuple[dict[Name, Share], ...] = Field(
        default=(), description="mean over the runs before shrinkage, one entry per stage; empty: not shrunk"
    )


class Provenance(GrownRecord):
    """Who made the mixture, how, and from what."""

    later = ("uncertainty",)

    tool: str
    tool_version: str = ""
    git_commit: str | None = None
    method: str = Field(description="update rule of the proxy run, or the name of a fixed mixture")
    objective: Literal["universal"] | dict[Name, float] | None = None
    average: Literal["all", "tail"] | None = None
    constraints: tuple[Constraint, ...] = Field(default=(), max_length=1, description="empty: no bounds were asked for")
    uncertainty: Uncertainty | None = Field(default=None, description="left out: not known")
    proxy: dict[str, JsonValue] = Field(
        default={},
        description="the proxy runs; unique_tokens: tokens that they read of the domains whose count was given at "
        "export",
    )
    seeds: tuple[int, ...] = ()
    inputs: tuple[Input, ...] = ()
    parent_schedule: Sha256 | None = None


class Check(Record):
    """Result of one check of the file."""

    id: str
    status: Literal["pass", "warn", "fail"]
    detail: str = ""
