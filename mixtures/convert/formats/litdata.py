"""LitData: generated Python for a CombinedStreamingDataset whose weights follow the stages, with its numbers in JSON.

LitData has no file for weights, ends at the first dataset that is used up, and never repeats one. `litdata_mixture.py`
changes the weights of its iterator at the batch where a stage begins, so that nothing is read again there, and lets
StreamingDataset repeat a domain (`subsample` above 1) as often as the schedule needs. One block of TokensLoader is one
sequence.
"""

import json
import math
from collections.abc import Sequence
from importlib.resources import files

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.simulate import cap_to_hold
from mixtures.convert.steps import Batches, Slot
from mixtures.convert.table import Format
from mixtures.errors import UserError


def write(job: Job) -> Output:
    """Return litdata_mixture.py and its JSON.

    Raises UserError for a domain in several directories, and for a batch size that changes.
    """
    batches = job.require_batches()
    _check(job, batches)
    slots = job.slots()
    return Output(
        files={
            "litdata_mixture.py": files("mixtures.convert.formats")
            .joinpath("templates/litdata_mixture.py")
            .read_text(),
            "litdata_mixture.json": json.dumps(_plan(job, slots, batches.sequence_length), indent=1) + "\n",
        },
        draws=[
            Draw(job.unit_shares(span), slot.start, slot.tokens, random=True)
            for span, slot in zip(job.spans, slots, strict=True)
        ],
        use=_use(job, slots, batches),
        notes=NOTES,
    )


def _plan(job: Job, slots: Sequence[Slot], sequence_length: int) -> dict[str, object]:
    """Return the record that litdata_mixture.py reads.

    Stages have weights and their end in sequences since the beginning of the schedule; domains have the sequences that
    the whole schedule takes of them.
    """
    shares = [job.unit_shares(span) for span in job.spans]
    lengths = [slot.tokens // sequence_length for slot in slots]
    domains = {}
    for domain in (domain for domain in job.mixture.domains if domain.name in job.paths):
        sequences = math.fsum(count * share.get(domain.name, 0.0) for count, share in zip(lengths, shares, strict=True))
        passes = sequences * sequence_length / job.texts[domain.name].pass_tokens
        cap = cap_to_hold(domain, passes)
        domains[domain.name] = {"path": job.paths[domain.name][0], "sequences": sequences, "max_epochs": cap}
    stages = [
        {"name": span.name, "end_sequences": (slot.start + slot.tokens) // sequence_length, "weights": share}
        for span, slot, share in zip(job.spans, slots, shares, strict=True)
    ]
    return {
        "mixture": job.mixture.id,
        "sequence_length": sequence_length,
        "seed": job.seed,
        "domains": domains,
        "stages": stages,
    }


def _check(job: Job, batches: Batches) -> None:
    faults = [
        f"{name}: {len(paths)} directories; LitData streams one, `litdata.merge_datasets` makes one of them"
        for name, paths in job.paths.items()
        if len(paths) != 1
    ]
    if batches.constant is None:
        sizes = ", ".join(str(size) for _, size in batches.pieces)
        faults.append(
            f"batch sizes {sizes}: a StreamingDataLoader keeps one, and goes on from a state with the same one only; "
            f"give one"
        )
    if faults:
        raise UserError("\n".join(faults))


NOTES = (
    "the range of shares is for one reader; every worker of every process draws the same sequence of domains, which "
    "widens it by the root of their number",
    "going on from a state with several workers LitData 0.2.76 forgets the place in a domain by less than a batch a "
    "worker; with one or none it goes on exactly",
)


def _use(job: Job, slots: Sequence[Slot], batches: Batches) -> str:
    return "\n".join(
        [
            f"# in the training script, with {job.word()} on PYTHONPATH",
            "import litdata_mixture",
            "loader = litdata_mixture.data_loader(batch_size=PER_PROCESS, num_workers=4)  # PER_PROCESS x processes "
            f"divides {batches.constant} sequences, a step",
            f"# {slots[-1].step + slots[-1].steps:,} steps; LitGPT reads blocks of sequence length + 1: "
            f"data_loader(..., block_size={batches.sequence_length + 1})",
        ]
    )


def _index(path: str) -> Sequence[str]:
    return (f"{path}/index.json",)


FORMAT = Format(
    name="litdata",
    trainers="LitData, LitGPT",
    unit="sequence",
    write=write,
    stages="code",
    zero_weights="kept",
    sums_to_one=False,
    exhausted="stops",
    caps="checked here",
    tested="litdata 0.2.76: its combined dataset and loader, with workers and from a state",
    parts=_index,
)
