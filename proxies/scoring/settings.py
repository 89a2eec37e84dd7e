"""Settings of a scoring, read from the words of its command line."""

import argparse
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, StringConstraints, ValidationError, field_validator

from mixtures.errors import UserError
from mixtures.files import list_faults
from proxies.config import Frozen

Score = Literal["self_influence", "information", "word_embedding"]
Step = Annotated[str, StringConstraints(pattern=r"^(last|all|\d+)$")]
INFORMATION = ("nll_mean", "nll_sum", "surprisal_mean", "surprisal_sum", "information_v1", "information_v3")


class ScoreSettings(Frozen):
    """Settings of a scoring. Each is a flag of the command, in which `_` may be written `-`."""

    run_dir: str = Field(
        description="directory of the run whose documents are scored with its own checkpoints; comes first, without a "
        "flag"
    )
    scores: tuple[Score, ...] = Field(
        ("self_influence", "information", "word_embedding"),
        min_length=1,
        description="one or several of self_influence (squared gradient norm), information (losses and unigram "
        "surprisal), word_embedding (squared norm of the input embedding's gradient)",
    )
    scopes: tuple[str, ...] = Field(
        ("all", "first_block"),
        min_length=1,
        description="parameters that self_influence is computed over, one score for each: all, first_block, blocks, "
        "embedding, head, or patterns of parameter names",
    )
    checkpoints: tuple[Step, ...] = Field(
        ("last",),
        min_length=1,
        description="last, all, or numbers of steps; gradient scores of several checkpoints are averaged with their "
        "learning rates as weights (TracIn)",
    )
    unit: Literal["document", "row"] = Field(
        "document", description="what gets a score: every document, or every row of every document"
    )
    max_rows: int | None = Field(
        None, ge=1, description="score at most this many rows per domain, spread over its documents (rows)"
    )
    batch_tokens: int = Field(
        4096, ge=2, description="tokens in one pass, padding included; lower it if memory runs out (tokens)"
    )

    @field_validator("scores", "scopes", "checkpoints", mode="after")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("scopes", mode="after")
    @classmethod
    def _no_score(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "word_embedding" in value:
            raise ValueError("word_embedding is a score, not a scope; use --scores word_embedding")
        return value

    @property
    def gradient_columns(self) -> dict[str, str]:
        """Scopes (doge/scopes.py) by column, of the scores that need a backward pass."""
        columns = {f"self_influence_{scope}": scope for scope in self.scopes} if "self_influence" in self.scores else {}
        return columns | ({"word_embedding": "word_embedding"} if "word_embedding" in self.scores else {})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the score columns, in their order in the table."""
        names = list(self.gradient_columns)
        place = len(names) - ("word_embedding" in names)
        return (*names[:place], *(INFORMATION if "information" in self.scores else ()), *names[place:])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `--help` lists all settings")


def parse(words: Sequence[str]) -> ScoreSettings:
    """Return the settings in the words of a command line.

    Raises UserError listing every fault with what is allowed.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, field in ScoreSettings.model_fields.items():
        flag = f"--{name}" if name != "run_dir" else name
        parser.add_argument(flag, nargs="+" if "tuple" in str(field.annotation) else None)
    given: dict[str, Any] = vars(parser.parse_args([_spelled(word) for word in words]))
    try:
        return ScoreSettings.model_validate(given)
    except ValidationError as error:
        raise UserError("settings of the scoring cannot be used:\n" + "\n".join(list_faults(error))) from error


def _spelled(word: str) -> str:
    flag, joined, value = word.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + joined + value if word.startswith("--") else word
