"""MaxText's JSON for grain, one file per stage: {domain: {"path": ArrayRecord files, "weight": share of records}}.

MaxText (src/maxtext/input_pipeline/grain_data_processing.py) divides the weights by their sum and hands them to grain's
IterDataset.mix. This scales the smallest weight to 100 and cuts the others to whole numbers; records then come in that
fixed proportion, not at random. The weights in the file are chosen so that this arithmetic gives the nearest shares
that it can. A relaunch from a checkpoint with the next stage's file goes on where every dataset was, by name.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.table import Format
from mixtures.errors import UserError

LEAST = 100  # parts that grain gives to the smallest weight
# factors near 1 to try: the smallest share may be a little off, so that the others fit better
STRETCHES = tuple(1 + k / 2000 for k in range(-10, 11))
# how far above a whole number of parts a weight may be put, so that floats do not cut it to the number below
OVER = (0.5, 0.4, 0.6, 0.3, 0.7)
MARGIN = 1.01  # factor on the passes for num_epoch: records come in small runs, and the last steps are rounded


def write(job: Job) -> Output:
    """Return one JSON file per stage. Raises UserError for paths that MaxText cannot expand."""
    _check_paths(job)
    shares = [job.unit_shares(span) for span in job.spans]
    weights = [kept_weights(share) for share in shares]
    places = [(slot.start, slot.tokens) for slot in job.known_slots() or job.spans]
    files = {
        file_name(number): json.dumps(
            {name: {"path": job.paths[name][0], "weight": w} for name, w in stage.items()}, indent=1
        )
        + "\n"
        for number, stage in enumerate(weights)
    }
    return Output(
        files=files,
        draws=[Draw(given_shares(stage), *place) for stage, place in zip(weights, places, strict=True)],
        use=_use(job),
        notes=list(_notes(job)),
        remedy=f"grain counts in parts of 1/{LEAST} of the smallest weight; change a share that is a little above "
        f"the smallest one",
    )


def file_name(number: int) -> str:
    """Return the name of the file for the stage `number` (from 0)."""
    return f"stage-{number + 1}.json"


def kept_weights(shares: Mapping[str, float]) -> dict[str, float]:
    """Return {name: weight}, sum 1, for which MaxText and grain give the shares nearest to `shares` (all above 0)."""
    tries = [_weights(shares, stretch=stretch, over=over) for stretch in STRETCHES for over in OVER]
    return min(
        tries, key=lambda weights: max(abs(given / shares[name] - 1) for name, given in given_shares(weights).items())
    )


def _weights(shares: Mapping[str, float], *, stretch: float, over: float) -> dict[str, float]:
    """Return weights, sum 1, that are about a whole number of parts each: LEAST parts for the smallest share.

    The others have `stretch` times their exact number of parts, rounded, and `over` more where that is above LEAST.
    """
    least = min(shares.values())
    parts = {name: max(LEAST, round(LEAST * stretch * share / least)) for name, share in shares.items()}
    parts[min(shares, key=lambda name: shares[name])] = LEAST
    return _with_sum_one({name: part + over * (part > LEAST) for name, part in parts.items()})


def given_shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return {name: share of records} that MaxText and grain make of the weights.

    The operations and their order are those of MaxText and grain, because floats are cut to whole numbers.
    """
    total = sum(weights.values())
    divided = [weight / total for weight in weights.values()]
    scale = LEAST / min(divided)
    parts = [int(share * scale) for share in divided]
    return {name: part / sum(parts) for name, part in zip(weights, parts, strict=True)}


def _with_sum_one(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _check_paths(job: Job) -> None:
    faults = []
    for name, paths in job.paths.items():
        if len(paths) != 1:
            faults.append(f"{name}: {len(paths)} paths; MaxText takes one: a folder, or * in the last part")
        faults += [
            f"{name}: {path} has a wildcard in a folder's name"
            for path in paths
            if set("*?") & set(str(PurePosixPath(path).parent))
        ]
    if faults:
        raise UserError("\n".join(faults) + "\ngive a folder, a file, or a pattern such as DIR/web.array_record*")


def _notes(job: Job) -> Iterator[str]:
    """Give notes on what MaxText does differently from what one would expect."""
    if job.unit == "document" and job.document_limit is None:
        yield (
            "shares of records assume that whole documents are trained on (use_truncation=false below); for MaxText's "
            "default, which cuts them at max_target_length, convert with --max-document-tokens"
        )
    if job.document_limit not in (None, job.sequence_length):
        yield (
            f"shares are for documents cut at {job.document_limit:,} tokens; MaxText cuts at max_target_length, "
            f"{job.sequence_length}"
        )
    for name in job.paths:
        stages = [number for number, span in enumerate(job.spans) if name in span.used]
        if stages != list(range(stages[0], stages[-1] + 1)):
            yield f"{name} has no weight for a while and then again: MaxText forgets its place and begins it anew"


def _use(job: Job) -> str:
    """Return the launch commands, one per stage."""
    passes = max(job.epochs(name) for name in job.paths)
    separators = job.mixture.tokenizer.separators_per_document
    whole = (
        "tokenize_train_data=false packing=false"
        if job.unit == "sequence"
        else "packing=true grain_packing_type=concat_then_split"
    )
    fixed = [
        "run_name=RUN dataset_type=grain grain_file_type=arrayrecord enable_data_shuffling=true",
        f"data_shuffle_seed={job.seed} num_epoch={max(1, math.ceil(passes * MARGIN))}",
        f"{whole} use_truncation={_word(job.document_limit is not None)} add_eos={_word(separators > 0)} "
        f"add_bos={_word(separators > 1)}",
    ]
    slots = job.known_slots()
    commands = []
    for number in range(len(job.spans)):
        flags = [f"grain_train_mixture_config_path={job.word(file_name(number))}"]
        if slots:
            done, end = (slots[place].step + slots[place].steps for place in (number, -1))
            flags.append(f"max_target_length={job.sequence_length} steps={done} learning_rate_schedule_steps={end}")
        if len(slots) > 1:
            flags.append("enable_checkpointing=true save_checkpoint_on_completion=true")
        commands.append(
            " \\\n  ".join(["python3 -m maxtext.trainers.pre_train.train src/maxtext/configs/base.yml", *fixed, *flags])
        )
    if len(slots) > 1:
        commands.insert(
            0, "# one launch a stage, each with the same RUN: it goes on from the checkpoint of the one before"
        )
    return "\n".join(commands)


def _word(value: bool) -> str:
    return str(value).lower()


FORMAT = Format(
    name="grain",
    trainers="MaxText",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="stops",
    caps="checked here",
    tested="grain 0.2.18: its mixing and its checkpoints, with MaxText's reader restated (MaxText itself is not on "
    "PyPI)",
    packable=True,
)
