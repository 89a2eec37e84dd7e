"""Settings of the text: sources, tokenizer, rows, simulated budget."""

from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from mixtures.text import parse_tokens
from proxies.config import DomainName, Frozen, exactly_one

TokenCount = Annotated[
    int, BeforeValidator(lambda value: parse_tokens(value) if isinstance(value, str) else value), Field(gt=0)
]


class SourceSettings(Frozen):
    """Where the text of one domain comes from: files, a dataset, or text already on the machine."""

    data_files: str | list[str] = Field(
        "", description="file, glob, or list of them: .parquet, .jsonl, .csv, .txt (also .gz, .zst)"
    )
    dataset: str = Field("", description="dataset name on the Hugging Face hub, or a local dataset directory")
    name: str | None = Field(None, description="with dataset: its configuration")
    split: str = Field("train", description="with dataset: its split")
    streaming: bool = Field(False, description="with dataset: read on the fly, for data larger than disk")
    builtin: str = Field("", description="text already on this machine, for the demo")
    text: str = Field("text", description="column that holds the text")
    validation: str | list[str] = Field("", description="files of held-out text; empty: documents are held out by hash")
    max_tokens: int | None = Field(
        None,
        gt=0,
        description="stop reading after this many training tokens; a streamed source stops at what the run draws",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSettings":
        exactly_one(self, ("data_files", "dataset", "builtin"))
        return self


class TokenizerSettings(Frozen):
    """How text becomes tokens: exactly one of the four."""

    train_bpe: int = Field(0, ge=0, description="train a byte-level BPE of this vocabulary size on the corpus (tokens)")
    file: str = Field("", description="a tokenizer.json")
    pretrained: str = Field("", description="name or directory that transformers can load")
    bytes: bool = Field(False, description="raw bytes: 256 tokens and an end-of-text token")

    @model_validator(mode="after")
    def _one_kind(self) -> "TokenizerSettings":
        exactly_one(self, ("train_bpe", "file", "pretrained", "bytes"))
        if self.train_bpe and self.train_bpe < 300:
            raise ValueError(f"train_bpe is {self.train_bpe}; a byte-level vocabulary needs at least 300 tokens")
        return self


class SimulateBudget(Frozen):
    """Simulated epoching: the proxy repeats a domain as often as the large run would, at equal shares.

    Of every training domain the run reads the first (tokens of this run) * (unique tokens of the domain) / `tokens`, in
    whole rows, or all that there is.
    """

    tokens: TokenCount | None = Field(
        None,
        description="tokens of the large run, as 300e9 or 300B: a domain is cut to its first (tokens of this run) x "
        "(its unique tokens) / "
        "(this many) tokens, or all there are, and so repeats as often as in the large run at equal shares; empty: "
        "nothing is cut",
    )
    unique_tokens: dict[DomainName, TokenCount] = Field(
        {}, description="tokens of text the large run has, by domain; others: the corpus's"
    )

    @model_validator(mode="after")
    def _whole(self) -> "SimulateBudget":
        if self.unique_tokens and self.tokens is None:
            raise ValueError(
                "unique_tokens without tokens; say how many tokens the large run trains on, as in tokens: 300e9"
            )
        return self


class CorpusSettings(Frozen):
    """The text: domains to train on, targets to evaluate on, and how it becomes rows."""

    tokenizer: TokenizerSettings = Field(description="how text becomes tokens")
    row_tokens: int = Field(128, ge=2, description="length of a row (tokens)")
    domains: dict[DomainName, SourceSettings] = Field(description="training domains, name: source")
    targets: dict[DomainName, SourceSettings] = Field({}, description="domains that are only evaluated, name: source")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of documents held out by hash where no validation is given"
    )
    cache_dir: str = Field("", description="directory of the token cache; empty: `cache` beside the run directory")
    simulate_budget: SimulateBudget = Field(SimulateBudget(), description="repeat domains as a large run would")

    @model_validator(mode="after")
    def _names(self) -> "CorpusSettings":
        if len(self.domains) < 2:
            raise ValueError(
                f"domains holds {len(self.domains)}: a mixture needs at least two training domains; add another"
            )
        if both := sorted(set(self.domains) & set(self.targets)):
            raise ValueError(
                f"{', '.join(both)} is named in both domains and targets; give each target a name of its own"
            )
        if unknown := sorted(set(self.simulate_budget.unique_tokens) - set(self.domains)):
            raise ValueError(
                f"simulate_budget.unique_tokens names {', '.join(unknown)}, no training domain; allowed: "
                f"{', '.join(self.domains)}"
            )
        return self

    @property
    def sources(self) -> dict[str, SourceSettings]:
        """Name: source of the training domains, then of the targets: the order of the run."""
        return {**self.domains, **self.targets}
