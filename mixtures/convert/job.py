"""What a format's writer gets, the mixture as the trainer is to follow it (Job), and what it returns (Output)."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixtures.convert.lengths import DocumentLengths, Selection
from mixtures.convert.steps import Batches, Slot, slots
from mixtures.errors import UserError, one_line
from mixtures.schedule.mixture import Mixture

Content = str | bytes | Callable[[Path], None]  # text, bytes, or a function that writes the file

Unit = Literal["token", "sequence", "document"]

NEEDS = {
    "sequence_length": "--sequence-length TOKENS (of a row)",
    "batches": "--batch-size SEQUENCES (a step), or a schedule as 0=256 4B=512",
}


@dataclass(frozen=True)
class Span:
    """A stage as the mixture asks for it.

    start, tokens: its first token, counted from the beginning of the schedule, and its length in tokens. weights: share
    of trained tokens of every domain, sum 1.
    """

    name: str
    start: int
    tokens: int
    weights: Mapping[str, float]

    @property
    def title(self) -> str:
        """Return the name in one line, for a comment between commands: a name may hold any text."""
        return one_line(self.name)

    @property
    def used(self) -> tuple[str, ...]:
        """Return the names of the domains whose share is above 0."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True)
class Job:
    """A conversion as a format's writer sees it: the mixture, where its data are, and what the user asked for.

    spans: the stages; one with --stages average. paths: where the data of each domain are. texts: what is known of the
    domains' documents. unit: what the trainer counts a share in. document_limit: tokens after which the trainer cuts a
    document off, as the user said; None: not said. sequence_length: tokens per row; None: not known. batches: sequences
    per step; None: not known. options: options of the format that the user set. here: the data are on this machine and
    may be opened. directory: where the files will be written, absolute. selections: how often documents are read, for
    the domains whose sample policy is to be honoured.
    """

    mixture: Mixture
    spans: tuple[Span, ...]
    paths: Mapping[str, tuple[str, ...]]
    texts: Mapping[str, DocumentLengths]
    unit: Unit
    document_limit: int | None
    sequence_length: int | None
    batches: Batches | None
    seed: int
    options: Mapping[str, Any]
    here: bool
    directory: Path
    selections: Mapping[str, Selection]

    def word(self, name: str = "") -> str:
        """Return the path of a file in the directory, or of the directory, as a word for a shell."""
        return shlex.quote(str(self.directory / name))

    def require_sequence_length(self) -> int:
        """Return the tokens per row. Raises UserError naming the flag to give where they are not known."""
        if self.sequence_length is None:
            raise self._missing("sequence_length")
        return self.sequence_length

    def require_batches(self) -> Batches:
        """Return the sequences per step, with their length. Raises UserError naming the flags that are missing."""
        if self.sequence_length is None or self.batches is None:
            raise self._missing("sequence_length", "batches")
        return self.batches

    def _missing(self, *names: str) -> UserError:
        """Return the error for a trainer that counts in steps, naming the flags to give."""
        flags = " and ".join(NEEDS[name] for name in names if getattr(self, name) is None)
        return UserError(f"this trainer counts in steps and the mixture does not say them; give {flags}")

    def unit_shares(self, span: Span) -> dict[str, float]:
        """Return {name: share of units} of the domains that the span uses, sum 1.

        A share of documents is proportional to weight / mean tokens per document; shares of tokens and of sequences are
        the weights. Raises UserError where a mean is needed and not known.
        """
        scale = dict.fromkeys(span.used, 1.0)
        if self.unit == "document":
            scale = self.mean_tokens(span.used)
        shares = {name: span.weights[name] / scale[name] for name in span.used}
        total = math.fsum(shares.values())
        return {name: share / total for name, share in shares.items()}

    def unit_tokens(self, name: str) -> float:
        """Return the trained tokens in one unit of a domain; 1 for tokens and sequences, as these are all alike."""
        return self.mean_tokens([name])[name] if self.unit == "document" else 1.0

    def mean_tokens(self, names: list[str] | tuple[str, ...]) -> dict[str, float]:
        """Return {name: trained tokens per document}. Raises UserError naming every domain whose mean is not known."""
        means = {name: self.texts[name].mean_tokens for name in names}
        if unknown := [name for name, mean in means.items() if mean is None]:
            raise UserError(
                f"this trainer draws documents, and the mixture does not know how many tokens one of "
                f"{', '.join(unknown)} has; give "
                "--document-tokens NAME=MEAN (trained tokens a document), or the proxy run's token cache with --cache"
            )
        return {name: mean for name, mean in means.items() if mean is not None}

    def units(self, span: Span) -> float:
        """Return how many tokens, sequences or documents the span has."""
        if self.unit == "sequence":
            return span.tokens / self.require_sequence_length()
        return math.fsum(span.tokens * span.weights[name] / self.unit_tokens(name) for name in span.used)

    def slots(self, *, multiple: int = 1) -> list[Slot]:
        """Return the spans in whole steps, each beginning after a multiple of `multiple` sequences.

        Raises UserError as `steps.slots` does.
        """
        batches, total = self.require_batches(), self.mixture.horizon.total_tokens
        starts, names = [span.start for span in self.spans], [span.name for span in self.spans]
        return slots(starts, names, total=total, batches=batches, multiple=multiple)

    @property
    def stepped(self) -> bool:
        """Say whether it is known how many tokens a step has."""
        return self.sequence_length is not None and self.batches is not None

    def known_slots(self) -> list[Slot]:
        """Return the spans in whole steps; empty where there is one span and the tokens per step are not known.

        Raises UserError as `slots` does.
        """
        return self.slots() if len(self.spans) > 1 or self.stepped else []

    def shared(self, name: str) -> bool:
        """Say whether several spans read the domain."""
        return sum(name in span.used for span in self.spans) > 1

    def local(self, name: str) -> bool:
        """Say whether the domain's data may be opened on this machine."""
        return self.here and not any("://" in path for path in self.paths[name])

    def domain_tokens(self, name: str) -> float:
        """Return the tokens that the whole schedule takes from a domain."""
        return math.fsum(span.tokens * span.weights[name] for span in self.spans)

    def epochs(self, name: str) -> float:
        """Return how many passes over a domain the whole schedule makes."""
        return self.domain_tokens(name) / self.texts[name].pass_tokens

    def ranges(self) -> list[dict[str, tuple[float, float]]]:
        """Return for every span {name: (low, high)}: its part of each used domain, as fractions of the documents.

        The parts of one domain do not overlap, and each is as large as what the stage takes of the domain. So a trainer
        that restarts its data at every stage reads no document of another stage.
        """
        at = dict.fromkeys(self.texts, 0.0)
        parts = []
        for span in self.spans:
            part = {}
            for name in span.used:
                low = at[name]
                at[name] = min(1.0, low + span.tokens * span.weights[name] / self.domain_tokens(name))
                part[name] = (low, at[name])
            parts.append(part)
        last = {name: number for number, span in enumerate(self.spans) for name in span.used}
        for name, number in last.items():
            parts[number][name] = (parts[number][name][0], 1.0)
        return parts


@dataclass(frozen=True)
class Draw:
    """What the trainer's own code will do in one stage, after its rounding.

    shares: {domain: share of units}, sum 1, in the job's unit (tokens, sequences or documents). start, tokens: first
    token since the beginning of the schedule and length, as the trainer will do it: a boundary is moved to a step.
    random: units are drawn one by one with these probabilities, so that the shares of a run scatter around them. loss:
    {domain: share of the loss}, where the trainer weighs a domain's loss instead of reading it more often; None: the
    same as `shares`.
    """

    shares: Mapping[str, float]
    start: int
    tokens: int
    random: bool = False
    loss: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Output:
    """What a format's writer returns.

    files: {path in the directory: content}. draws: what the trainer will do, one per span. use: how to launch the
    trainer with the files. notes: what was changed or could not be carried over. remedy: advice for the user where
    rounding moves a share too far from what was asked; empty: the common advice.
    """

    files: Mapping[str, Content]
    draws: Sequence[Draw]
    use: str
    notes: Sequence[str] = ()
    remedy: str = ""
