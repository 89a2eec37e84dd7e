"""What a format's writer is given: the mixture, as the trainer is to follow it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixtures.convert.lengths import DocumentLengths, Selection
from mixtures.convert.steps import Batches, Slot, slots
from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture

Content = str | bytes | Callable[[Path], None]  # text, bytes, or what writes the file

Unit = Literal["token", "sequence", "document"]

NEEDS = {
    "sequence_length": "--sequence-length TOKENS (of a row)",
    "batches": "--batch-size SEQUENCES (a step), or a schedule as 0=256 4B=512",
}


@dataclass(frozen=True)
class Span:
    """A stage as it was asked for: start (tokens since the beginning of the schedule), length, share of trained tokens
    of every domain.
    """

    name: str
    start: int
    tokens: int
    weights: Mapping[str, float]

    @property
    def used(self) -> tuple[str, ...]:
        """The domains with a share."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True)
class Job:
    """spans: one with --stages average. paths: of every domain's data. unit: what the trainer counts a share in.

    document_limit: where the trainer cuts a document off (tokens), as the user said.
    here: the data are on this machine and may be opened. directory: where the files will be, absolute. selections: of
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

    def require_sequence_length(self) -> int:
        """Return the tokens per row. Raises UserError naming its flag where nobody gave it."""
        if self.sequence_length is None:
            raise self._missing("sequence_length")
        return self.sequence_length

    def require_batches(self) -> Batches:
        """Return the sequences per step, with their length. Raises UserError naming the flags that are missing."""
        if self.sequence_length is None or self.batches is None:
            raise self._missing("sequence_length", "batches")
        return self.batches

    def _missing(self, *names: str) -> UserError:
        flags = " and ".join(NEEDS[name] for name in names if getattr(self, name) is None)
        return UserError(f"this trainer counts in steps and the mixture does not say them; give {flags}")

    def unit_shares(self, span: Span) -> dict[str, float]:
        """{name: share of units} of the span's domains, sum 1: for documents proportional to w / mean tokens a
        document, else w.

        Raises UserError where a mean is needed and not known.
        """
        scale = dict.fromkeys(span.used, 1.0)
        if self.unit == "document":
            scale = self.mean_tokens(span.used)
        shares = {name: span.weights[name] / scale[name] for name in span.used}
        total = math.fsum(shares.values())
        return {name: share / total for name, share in shares.items()}

    def unit_tokens(self, name: str) -> float:
        """Trained tokens of one unit of a domain; a sequence counts 1, as all are equally long."""
        return self.mean_tokens([name])[name] if self.unit == "document" else 1.0

    def mean_tokens(self, names: list[str] | tuple[str, ...]) -> dict[str, float]:
        """{name: trained tokens a document}. Raises UserError naming every domain whose mean is not known."""
        means = {name: self.texts[name].mean_tokens for name in names}
        if unknown := [name for name, mean in means.items() if mean is None]:
            raise UserError(
                f"this trainer draws documents, and the mixture does not know how many tokens one of "
                f"{', '.join(unknown)} has; give "
                "--document-tokens NAME=MEAN (trained tokens a document), or the proxy run's token cache with --cache"
            )
        return {name: mean for name, mean in means.items() if mean is not None}

    def units(self, span: Span) -> float:
        """How many tokens, sequences or documents the span is."""
        if self.unit == "sequence":
            return span.tokens / self.require_sequence_length()
        return math.fsum(span.tokens * span.weights[name] / self.unit_tokens(name) for name in span.used)

    def slots(self, *, multiple: int = 1) -> list[Slot]:
        """The spans in whole steps, every first step after a multiple of `multiple` sequences; raises UserError as
        `steps.slots`.
        """
        batches, total = self.require_batches(), self.mixture.horizon.total_tokens
        starts, names = [span.start for span in self.spans], [span.name for span in self.spans]
        return slots(starts, names, total=total, batches=batches, multiple=multiple)

    @property
    def stepped(self) -> bool:
        """Is it known how many tokens a step has?"""
        return self.sequence_length is not None and self.batches is not None

    def known_slots(self) -> list[Slot]:
        """The spans in whole steps; empty where there is one and nobody said how long a step is. Raises UserError as
        `slots`.
        """
        return self.slots() if len(self.spans) > 1 or self.stepped else []

    def shared(self, name: str) -> bool:
        """Do several spans read the domain?"""
        return sum(name in span.used for span in self.spans) > 1

    def local(self, name: str) -> bool:
        """May the domain's data be opened here?"""
        return self.here and not any("://" in path for path in self.paths[name])

    def domain_tokens(self, name: str) -> float:
        """Tokens that the schedule takes from a domain."""
        return math.fsum(span.tokens * span.weights[name] for span in self.spans)

    def epochs(self, name: str) -> float:
        """Passes over a domain that the schedule takes."""
        return self.domain_tokens(name) / self.texts[name].pass_tokens

    def ranges(self) -> list[dict[str, tuple[float, float]]]:
        """For every span {name: (low, high)}: disjoint parts of each used domain, as fractions of its documents, sized
        by what the stage takes of it, so that a trainer which restarts its data at a stage reads no document of another
        stage.
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
    """What the trainer's own code will give in one stage, after its rounding.

    shares: of units (tokens, sequences, documents: the job's unit), sum 1, of the domains that it names. start, tokens:
    since the beginning of the schedule, as the trainer will do it (a boundary moved to a step). random: units are drawn
    one by one with these probabilities, so that the shares of a run scatter around them. loss: shares of the loss,
    where the trainer weighs the loss of a domain instead of drawing more of it; None: as the units.
    """

    shares: Mapping[str, float]
    start: int
    tokens: int
    random: bool = False
    loss: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Output:
    """files: {path in the directory: content}. use: how to launch with it. notes: what was changed or could not be
    carried over.

    remedy: the setting that would do where rounding takes a share too far from what was asked.
    """

    files: Mapping[str, Content]
    draws: Sequence[Draw]
    use: str
    notes: Sequence[str] = ()
    remedy: str = ""
