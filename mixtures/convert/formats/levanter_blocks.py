"""Sequences per block of Levanter, so that every share survives its rounding and every stage begins with a block.

The rules are those in the source of levanter 1.2.dev1644, data/mixture.py. In each block every domain has its share of
the block, rounded down, and the largest domain also has the rest; their order is random. A stage that does not begin
with a block is an assertion error. A block has less than 2**16 sequences.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mixtures.convert.job import Job
from mixtures.convert.simulate import ABSOLUTE, RELATIVE, off, whole_parts
from mixtures.convert.steps import Slot
from mixtures.errors import UserError

MOST = 2**16 - 1  # sequences per block
# Levanter's default first; powers of two, because shares that are binary fractions lose nothing to floats
PREFERRED = (2048, 4096, 8192, 16384, 32768)


class BlockPlan(NamedTuple):
    """Sequences per block, the stages in steps, and the weights to write for each stage."""

    block: int
    slots: list[Slot]
    weights: list[Mapping[str, float]]


def choose(job: Job) -> BlockPlan:
    """Return the block size that keeps every share and whose last, unfinished block matters least, with its stages.

    Of several such, the weights of the mixture come before weights that are whole sequences of a block, and then the
    first of the sizes that the stages allow. Where none keeps every share, the largest block is returned, and the
    report refuses its shares. Raises UserError where a stage cannot begin with a block of --block-size.
    """
    allowed = {block: slots for block in _sizes(job) if (slots := _slots(job, block))}
    if not allowed:
        job.slots(multiple=job.options["block_size"])  # raises UserError, which names the nearest possible boundary
    plans = [
        BlockPlan(block, slots, [write_as(span.weights, block) for span in job.spans])
        for write_as, (block, slots) in itertools.product((_unchanged, _whole), allowed.items())
    ]
    kept = [plan for plan in plans if _keeps(job, plan)]
    return (
        min(kept, key=lambda plan: excess(job, plan))
        if kept
        else max(plans[len(allowed) :], key=lambda plan: plan.block)
    )


def counts(weights: Mapping[str, float], block: int) -> dict[str, int]:
    """Return {name: sequences per block}, computed as Levanter does."""
    total = sum(weights.values())
    sequences = {name: int(weight / total * block) for name, weight in weights.items()}
    largest = max(sequences, key=lambda name: sequences[name])
    sequences[largest] += block - sum(sequences.values())
    return sequences


def scatter(job: Job, plan: BlockPlan) -> dict[str, float]:
    """Return {name: how far its share of the last stage may be off}; empty where the sequence length is not known.

    The run may end inside a block. The value is 2 standard deviations of what the part of that block that is read may
    hold.
    """
    if job.sequence_length is None:
        return {}
    sequences = plan.slots[-1].tokens // job.sequence_length
    rest = sequences % plan.block
    shares = {name: count / plan.block for name, count in counts(plan.weights[-1], plan.block).items()}
    return {
        name: 2 * math.sqrt(rest * share * (1 - share) * (1 - rest / plan.block)) / sequences
        for name, share in shares.items()
    }


def excess(job: Job, plan: BlockPlan) -> float:
    """Return by how much the scatter is larger than rounding may be; 0 where it is not larger."""
    weights = job.spans[-1].weights
    return max([0.0, *(moved - max(RELATIVE * weights[name], ABSOLUTE) for name, moved in scatter(job, plan).items())])


def remedy(job: Job, plan: BlockPlan) -> str:
    """Return advice for the user where no block is fine enough."""
    raised = "raise the small shares: `mixtures export ... --min-share`"
    if len(job.spans) == 1 or plan.block >= PREFERRED[-1] or job.sequence_length is None:
        return raised
    return (
        f"the stages allow blocks of {plan.block:,} sequences; begin them at multiples of "
        f"{PREFERRED[-1] * job.sequence_length:,} tokens ({PREFERRED[-1]:,} sequences) for the finest, with a batch "
        f"size that is a power of two; or give --stages average; or {raised}"
    )


def _sizes(job: Job) -> Iterator[int]:
    """Give the block sizes to try, in this order.

    First Levanter's default and larger powers of two. Then, from large to small: smaller powers of two, powers of two
    times the greatest common divisor of the batch sizes, and the common divisors of the places where stages begin (with
    one stage: of where it ends), all in sequences. With --block-size only that size; raises UserError where it is too
    large.
    """
    if "block_size" in job.options:
        if job.options["block_size"] > MOST:
            raise UserError(
                f"--block-size {job.options['block_size']}: Levanter takes at most {MOST:,} sequences in a block"
            )
        yield job.options["block_size"]
        return
    yield from PREFERRED
    sizes = {2**power for power in range(11)}
    if job.batches is not None:
        step, slots = math.gcd(*(size for _, size in job.batches.pieces)), job.slots()
        begins = [slot.step for slot in slots[1:]] or [slots[-1].steps]
        common = math.gcd(*map(job.batches.sequences_before, begins))
        sizes |= {step * 2**power for power in range(16)}
        sizes |= {size for size in range(1, min(common, MOST) + 1) if common % size == 0}
    yield from sorted((size for size in sizes if size <= MOST), reverse=True)


def _slots(job: Job, block: int) -> list[Slot] | None:
    """Return the stages in steps; None where a boundary would move too far for a block to begin there."""
    if job.batches is None:
        return [Slot(0, 0, 0, job.spans[0].tokens)]
    try:
        return job.slots(multiple=block)
    except UserError:
        return None


def _keeps(job: Job, plan: BlockPlan) -> bool:
    """Say whether every share stays where it was asked, but for the rounding that is allowed."""
    return not any(
        off(span.weights[name], count / plan.block)
        for span, shares in zip(job.spans, plan.weights, strict=True)
        for name, count in counts(shares, plan.block).items()
    )


def _unchanged(weights: Mapping[str, float], block: int) -> Mapping[str, float]:
    """Return the weights of the mixture as they are."""
    return weights


def _whole(weights: Mapping[str, float], block: int) -> dict[str, float]:
    """Return shares that are whole sequences of a block, sum 1."""
    parts = whole_parts(weights, block)
    return {name: parts.get(name, 0) / block for name in weights}
