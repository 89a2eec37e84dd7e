"""Settings of the corpus: sources of text, tokenizer, rows, simulated budget."""

from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from mixtures.errors import quoted
from mixtures.files import is_url
from mixtures.text import parse_tokens
from proxies.config import DomainName, Frozen, exactly_one, require_file_names
from proxies.corpus.only import conditions

TokenCount = Annotated[
    int, BeforeValidator(lambda value: parse_tokens(value) if isinstance(value, str) else value), Field(gt=0)
]


MOST_BPE_TOKENS = (
    1_000_000  # four times the largest vocabularies in use; a BPE's trainer reserves memory for all of them
)


class SourceSettings(Frozen):
    """Source of one domain's text: files, a dataset, or text that is on this machine anyway."""

    data_files: str | list[str] = Field(
        "",
        description="a file, a glob, or a list of these, on this machine or in an object store (s3://, gs://, hf://): "
        ".parquet, .jsonl, .ndjson, .json (one object a line), .csv, .txt, each also with .gz, .zst, .bz2 or .xz",
    )
    dataset: str = Field("", description="name of a dataset on the Hugging Face hub, or a local dataset directory")
    name: str | None = Field(None, description="with dataset: name of the dataset's configuration")
    split: str = Field("train", description="with dataset: split of the dataset")
    streaming: bool = Field(False, description="with dataset: read it as a stream, for data larger than the disk")
    builtin: str = Field("", description="a kind of text that is on this machine anyway, for the demo")
    text: str = Field("text", description="name of the column that holds the text")
    only: Annotated[dict[str, list[str]], BeforeValidator(conditions)] = Field(
        {},
        description="take only the lines (rows) whose fields have these values, as {meta.source: books}; dots lead "
        "into nested objects, a list allows several values, several fields must all fit; also in the validation files",
    )
    validation: str | list[str] = Field("", description="files of held-out text; empty: documents are held out by hash")
    max_tokens: int | None = Field(
        None,
        gt=0,
        description="stop reading after this many training tokens; empty: read everything, or with streaming as much "
        "as the run trains on",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSettings":
        exactly_one(self, ("data_files", "dataset", "builtin"))
        given = {"name": self.name, "split": self.split}
        defaults = {key: type(self).model_fields[key].default for key in given}
        if not self.dataset and (unused := [key for key, value in given.items() if value != defaults[key]]):
            raise ValueError(f"{', '.join(unused)}: only for a `dataset`, and this source has none; leave it out")
        if is_url(self.dataset) and not self.dataset.startswith("hf://"):
            raise ValueError(
                f"dataset: {self.dataset} is an address; give its files as `data_files`, such as "
                f"{self.dataset.rstrip('/')}/*.parquet"
            )
        if self.builtin and self.only:
            raise ValueError("only: a `builtin` text has no fields; leave `only` out, or give `data_files`")
        return self


class TokenizerSettings(Frozen):
    """Choice of the tokenizer: exactly one of the first four settings."""

    train_bpe: int = Field(0, ge=0, description="train a byte-level BPE of this vocabulary size on the corpus (tokens)")
    file: str = Field("", description="path of a tokenizer.json")
    pretrained: str = Field("", description="name or directory of a tokenizer that transformers can load")
    bytes: bool = Field(False, description="use raw bytes: 256 tokens and an end-of-text token")
    end: str = Field(
        "",
        description="with file or pretrained: the token that is put after every document; empty: the one that a file "
        "beside tokenizer.json names (corpus.json of a run, tokenizer_config.json), or else the only known one",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "TokenizerSettings":
        exactly_one(self, ("train_bpe", "file", "pretrained", "bytes"))
        if self.train_bpe and self.train_bpe < 300:
            raise ValueError(f"train_bpe is {self.train_bpe}; a byte-level vocabulary needs at least 300 tokens")
        if self.train_bpe > MOST_BPE_TOKENS:
            raise ValueError(
                f"train_bpe is {self.train_bpe}; a vocabulary of at most {MOST_BPE_TOKENS:,} tokens can be trained; "
                "lower it (32,000 to 256,000 are usual)"
            )
        if self.end and not (self.file or self.pretrained):
            raise ValueError(
                f"end ({quoted(self.end)}): only with `file` or `pretrained`; other tokenizers have an "
                f"end-of-text token of "
                "their own; leave it out"
            )
        return self


class SimulateBudget(Frozen):
    """Simulated epoching: at equal shares, the proxy repeats each domain as often as the large run would.

    For this the run reads only the first (tokens of this run) * (unique tokens of the domain) / `tokens` tokens of
    every training domain, in whole rows, or the whole domain if that is less.
    """

    tokens: TokenCount | None = Field(
        None,
        description="tokens that the large run trains on, as 300e9 or 300B; every domain is cut to its first (tokens "
        "of this run) x (its unique tokens) / (this number) tokens, or kept whole if it has fewer, so that it repeats "
        "as often as in the large run at equal shares; empty: nothing is cut",
    )
    unique_tokens: dict[DomainName, TokenCount] = Field(
        {},
        description="tokens of text that the large run has, by domain; for domains not named: as many as this corpus "
        "has",
    )

    @model_validator(mode="after")
    def _whole(self) -> "SimulateBudget":
        if self.unique_tokens and self.tokens is None:
            raise ValueError(
                "unique_tokens is set but tokens is not; say how many tokens the large run trains on, as in tokens: "
                "300e9"
            )
        return self


class CorpusSettings(Frozen):
    """Settings of the corpus: domains to train on, targets to evaluate on, and how their text becomes rows."""

    tokenizer: TokenizerSettings = Field(description="how text becomes tokens")
    row_tokens: int = Field(128, ge=2, description="length of a row (tokens)")
    domains: dict[DomainName, SourceSettings] = Field(description="training domains, as name: source")
    targets: dict[DomainName, SourceSettings] = Field(
        {}, description="domains that are not trained on but evaluated, as name: source"
    )
    held_out: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of documents that are held out by hash, in domains without validation files",
    )
    cache_dir: str = Field("", description="directory of the token cache; empty: `cache` beside the run directory")
    check_tokens: bool = Field(
        True,
        description="compare the token caches with the hashes that they were written with, once at the start of every "
        "command, and build damaged ones again (about 1 GB per second, by one process per machine); false: compare the "
        "sizes of their files alone",
    )
    simulate_budget: SimulateBudget = Field(
        SimulateBudget(), description="repeat domains as often as a large run would"
    )

    @model_validator(mode="after")
    def _names(self, info: ValidationInfo) -> "CorpusSettings":
        require_file_names([*self.domains, *(name for name in self.targets if name not in self.domains)], info)
        if len(self.domains) < 2:
            raise ValueError(
                f"the number of domains is {len(self.domains)}: a mixture needs at least two training domains; add "
                "another"
            )
        if both := sorted(set(self.domains) & set(self.targets)):
            raise ValueError(
                f"{', '.join(both)} is named in both domains and targets; give each target a name of its own"
            )
        if unknown := sorted(set(self.simulate_budget.unique_tokens) - set(self.domains)):
            raise ValueError(
                f"simulate_budget.unique_tokens names {', '.join(unknown)}, but there is no such training domain; "
                f"allowed: {', '.join(self.domains)}"
            )
        return self

    @property
    def sources(self) -> dict[str, SourceSettings]:
        """Sources by name, of the training domains and then of the targets; this is the order of the run."""
        return {**self.domains, **self.targets}
