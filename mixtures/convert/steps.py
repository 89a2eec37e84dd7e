"""From tokens to training steps, with one batch size or a schedule of batch sizes."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mixtures.errors import UserError, quoted

BatchSize = int | Mapping[int, int]  # sequences per step; or {first token: sequences per step}
MOST_MOVED = 0.005  # of the shorter stage beside a boundary: how far a multiple of sequences may move the boundary


class Slot(NamedTuple):
    """A stage in whole steps.

    step, steps: its first step, from 0, and how many it has. start, tokens: the same in tokens.
    """

    step: int
    steps: int
    start: int
    tokens: int


@dataclass(frozen=True)
class Batches:
    """Sequences per step over the schedule; a new size begins at the first step that starts at its token or later.

    pieces: (tokens since the beginning of the schedule, sequences per step), ascending from 0. sequence_length: tokens
    per sequence.
    """

    pieces: tuple[tuple[int, int], ...]
    sequence_length: int

    @property
    def constant(self) -> int | None:
        """Return the sequences per step where they never change; None where they do."""
        sizes = {size for _, size in self.pieces}
        return sizes.pop() if len(sizes) == 1 else None

    @cached_property
    def by_step(self) -> list[tuple[int, int, int]]:
        """Return (first step, sequences before it, sequences per step) of every piece."""
        pieces = [(0, 0, self.pieces[0][1])]
        for tokens, size in self.pieces[1:]:
            step, before, last = pieces[-1]
            steps = math.ceil(max(tokens - before * self.sequence_length, 0) / (last * self.sequence_length))
            pieces.append((step + steps, before + steps * last, size))
        return pieces

    def sequences_at(self, step: int) -> int:
        """Return the sequences in a step (from 0)."""
        return self._piece(step)[2]

    def sequences_before(self, step: int) -> int:
        """Return the sequences in all steps before a step (from 0)."""
        first, before, size = self._piece(step)
        return before + (step - first) * size

    def tokens_at(self, step: int) -> int:
        """Return the tokens trained when a step (from 0) begins."""
        return self.sequences_before(step) * self.sequence_length

    def steps_at(self, tokens: float) -> float:
        """Return the steps done when `tokens` tokens were trained; a part of a step counts as a fraction."""
        sequences = tokens / self.sequence_length
        pieces = self.by_step
        first, before, size = pieces[bisect_right([piece[1] for piece in pieces], sequences) - 1]
        return first + (sequences - before) / size

    def nearest(self, tokens: float, *, multiple: int = 1) -> int:
        """Return the step that begins nearest to `tokens`, of those after a multiple of `multiple` sequences.

        Raises UserError where the batch sizes leave no such step near it.
        """
        at = self.steps_at(tokens)
        for away in range(multiple + 1):  # the remainders repeat after at most `multiple` steps
            near = {math.floor(at) - away, math.ceil(at) + away}
            if fitting := [step for step in near if step >= 0 and self.sequences_before(step) % multiple == 0]:
                return min(fitting, key=lambda step: abs(self.tokens_at(step) - tokens))
        assert len(self.pieces) > 1, "step 0 fits, and so does every multiple-th one after it"
        raise UserError(
            f"near {tokens:,.0f} tokens no step begins after a multiple of {multiple} sequences, with these batch "
            "sizes; give sizes with a common divisor"
        )

    def _piece(self, step: int) -> tuple[int, int, int]:
        """Return the entry of `by_step` that a step belongs to."""
        pieces = self.by_step
        return pieces[bisect_right([piece[0] for piece in pieces], step) - 1]


def slots(
    starts: Sequence[int], names: Sequence[str], *, total: int, batches: Batches, multiple: int = 1
) -> list[Slot]:
    """Return the stages that begin at `starts` (tokens) in whole steps; the last ends at the step nearest to `total`.

    multiple: every stage begins after a multiple of so many sequences. Raises UserError where a stage has no whole
    step, and where such a multiple moves a boundary by more than both half a step and 0.5 % of the shorter stage beside
    it; the message names the nearest possible boundary.
    """
    ends = [*starts[1:], total]
    steps = [
        0,
        *(batches.nearest(start, multiple=multiple) for start in starts[1:]),
        max(1, round(batches.steps_at(total))),
    ]
    faults = []
    for number, start in enumerate(starts[1:], start=1):
        moved = abs(batches.tokens_at(steps[number]) - start)
        shorter = min(start - starts[number - 1], ends[number] - start)
        step_tokens = batches.sequences_at(steps[number]) * batches.sequence_length
        if multiple > 1 and moved > max(MOST_MOVED * shorter, step_tokens / 2):
            faults.append(
                f"stage {quoted(names[number])} starts at {start:,} tokens; the nearest that the trainer can "
                f"take, a step "
                f"after a multiple of "
                f"{multiple:,} sequences, is {batches.tokens_at(steps[number]):,} tokens (step {steps[number]:,})"
            )
    for name, (first, last) in zip(names, itertools.pairwise(steps), strict=True):
        if last <= first:
            faults.append(
                f"stage {quoted(name)} has no whole step "
                f"({batches.sequences_at(first) * batches.sequence_length:,} tokens "
                f"a step)"
            )
    if faults:
        raise UserError("\n".join(faults) + "\nmove the stages there, take smaller batches, or give --stages average")
    return [
        Slot(first, last - first, batches.tokens_at(first), batches.tokens_at(last) - batches.tokens_at(first))
        for first, last in itertools.pairwise(steps)
    ]


def batches_of(size: BatchSize, *, sequence_length: int) -> Batches:
    """Return the batches of one size, or of a schedule {first token: sequences per step}.

    Raises UserError for sizes that are no positive whole numbers, and for a schedule that does not ascend from 0.
    """
    pieces = [(0, size)] if isinstance(size, int) else list(size.items())
    if bad := [str(sequences) for _, sequences in pieces if not isinstance(sequences, int) or sequences < 1]:
        raise UserError(f"--batch-size {', '.join(bad)}: give positive whole numbers of sequences per step")
    return made_batches(pieces, sequence_length=sequence_length)


def made_batches(pieces: Sequence[tuple[int, int]], *, sequence_length: int) -> Batches:
    """Return the batches of pieces (first token, sequences per step). Raises UserError unless they ascend from 0."""
    begins = [start for start, _ in pieces]
    if begins[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(begins)):
        raise UserError(
            f"batch sizes from {', '.join(f'{start:,}' for start in begins)} tokens on; begin at 0 and ascend"
        )
    return Batches(tuple(pieces), sequence_length)
