"""MosaicML Streaming and LLM-Foundry: one YAML file per stage; a stage is one epoch over its part of every domain.

The epoch has exactly the samples of the stage. Streaming takes a whole number of samples from every stream: its
proportion of `epoch_size`, rounded down, and one more for streams that its random generator picks until the sum is
right. A stream without weight may be picked as well, so it is left out here. Every launch begins the streams anew. So a
domain that several stages use is cut into views: an index over links to whole shards, and a shard at a border is
written in two pieces.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixtures.convert.formats.streaming_views import INDEX, Shard, border, read_shards, view
from mixtures.convert.job import Content, Draw, Job, Output
from mixtures.convert.table import Format
from mixtures.errors import UserError

DIFFERENT = 0.01  # relative difference of samples and documents, above which samples seem to be no documents
Shards = Mapping[str, Sequence[Shard]]  # {domain: its shards}, of domains whose data are here


def write(job: Job) -> Output:
    """Return one YAML file per stage, and views of the domains that several stages use.

    Raises UserError for a domain with more than one path.
    """
    _check_paths(job)
    shares = [job.unit_shares(span) for span in job.spans]
    samples = _samples(job)
    counts = [chosen(share, total, seed=job.seed) for share, total in zip(shares, samples, strict=True)]
    shards = {name: read_shards(Path(job.paths[name][0])) for name in job.paths if job.local(name)}
    views = {
        (number, name): files
        for number, ranges in enumerate(job.ranges())
        for name, files in _views(job, ranges, shards).items()
    }
    files: dict[str, Content] = {}
    for number, share in enumerate(shares):
        folders = {
            name: str(job.directory / _folder(number, name)) if (number, name) in views else job.paths[name][0]
            for name in share
        }
        files[file_name(number)] = _yaml(job, number, share, folders, samples[number])
    for (number, name), contents in views.items():
        files |= {f"{_folder(number, name)}/{file}": content for file, content in contents.items()}
    return Output(
        files=files,
        draws=[
            Draw({n: c / sum(count.values()) for n, c in count.items()}, *_place(job, k, samples))
            for k, count in enumerate(counts)
        ],
        use=_use(job, samples),
        notes=list(_notes(job, views, shards)),
        remedy="a stage needs more samples for its smallest shares: make it longer, or raise them with `mixtures "
        "export ... --min-share`",
    )


def file_name(number: int) -> str:
    """Return the name of the file for the stage `number` (from 0)."""
    return f"stage-{number + 1}.yaml"


def chosen(shares: Mapping[str, float], total: int, *, seed: int) -> dict[str, int]:
    """Return {name: samples of an epoch of `total`} that streaming makes of the shares.

    The operations and their order are those of streaming, because floats are cut to whole numbers.
    """
    parts = np.array(list(shares.values()), dtype=np.float64)
    parts /= parts.sum()
    counts = (total * parts).astype(np.int64)
    counts[np.random.default_rng(seed).choice(len(counts), total - counts.sum(), False)] += 1
    return dict(zip(shares, counts.tolist(), strict=True))


def _check_paths(job: Job) -> None:
    if several := [f"  - {name}: {len(paths)} paths" for name, paths in job.paths.items() if len(paths) != 1]:
        raise UserError(
            "a domain is one stream, the folder of an index.json:\n"
            + "\n".join(several)
            + "\njoin them with streaming's merge_index, or "
            "make each a domain of its own"
        )


def _samples(job: Job) -> list[int]:
    """Return the samples of every stage: whole steps where a sample is a row and the steps are known."""
    if job.unit == "sequence" and job.batches is not None:
        return [slot.tokens // job.batches.sequence_length for slot in job.slots()]
    return [max(1, round(job.units(span))) for span in job.spans]


def _place(job: Job, number: int, samples: Sequence[int]) -> tuple[int, int]:
    """Return the first token and the tokens of a stage, as the trainer will do it."""
    if job.unit != "sequence" or job.sequence_length is None:
        return job.spans[number].start, job.spans[number].tokens
    return sum(samples[:number]) * job.sequence_length, samples[number] * job.sequence_length


def _yaml(job: Job, number: int, shares: Mapping[str, float], folders: Mapping[str, str], samples: int) -> str:
    """Return the YAML that LLM-Foundry reads for a stage."""
    streams = {
        name: {"remote" if "://" in folders[name] else "local": folders[name], "proportion": share}
        for name, share in shares.items()
    }
    dataset: dict[str, Any] = {"streams": streams, "epoch_size": samples, "shuffle": True, "shuffle_seed": job.seed}
    if job.sequence_length is not None:
        dataset["max_seq_len"] = job.sequence_length
    loader = {"name": "text", "dataset": dataset, "drop_last": True, "num_workers": 8}
    return yaml.safe_dump(
        {"max_duration": f"{number + 1}ep", "train_loader": loader}, sort_keys=False, width=10**6, allow_unicode=True
    )


def _folder(number: int, name: str) -> str:
    return f"views/{number + 1}/{name}"


def _views(job: Job, ranges: Mapping[str, tuple[float, float]], shards: Shards) -> dict[str, dict[str, Content]]:
    """Return {name: files of its view} for the domains of a stage that other stages use too and whose data are here.

    ranges: the stage's part of each domain, as fractions of its samples.
    """
    views = {}
    for name in [name for name in ranges if name in shards and job.shared(name)]:
        first, last = (border(shards[name], fraction) for fraction in ranges[name])
        if first < last:
            views[name] = view(shards[name], first, last)
    return views


def _notes(job: Job, views: Mapping[tuple[int, str], Any], shards: Shards) -> Iterator[str]:
    shared = [name for name in job.paths if job.shared(name)]
    again = [
        n for n in shared if any(n in span.used and (number, n) not in views for number, span in enumerate(job.spans))
    ]
    if again:
        why = "their shards are not on this machine, or compressed and too few to be divided"
        yield f"the stages draw from the same samples of {', '.join(again)}, and read some twice: {why}"
    if job.unit == "document" and job.document_limit is None:
        yield (
            "a sample is taken for a whole document; where LLM-Foundry cuts documents at max_seq_len, convert with "
            "--max-document-tokens, and where the samples are rows of a fixed length (--concat_tokens), with --packed"
        )
    if rows := list(_not_documents(job, shards)):
        yield f"{'; '.join(rows)}: if these samples are rows of a fixed length, the shares are wrong without --packed"
    if job.sequence_length is None:
        yield "max_seq_len is not in the YAML: give --sequence-length, or set it"


def _not_documents(job: Job, shards: Shards) -> Iterator[str]:
    """Describe the domains whose streams have another number of samples than the mixture has documents."""
    for name, domain_shards in shards.items():
        documents = job.texts[name].documents
        if job.unit == "document" and documents:
            samples = sum(shard.samples for shard in domain_shards)
            if abs(samples / documents - 1) > DIFFERENT:
                yield f"{name} has {samples:,} samples, in the mixture {documents:,.0f} documents"


def _use(job: Job, samples: Sequence[int]) -> str:
    """Return how to launch, one run per stage."""
    lines = []
    for number, (span, count) in enumerate(zip(job.spans, samples, strict=True)):
        path = str(job.directory / file_name(number))
        merge = (
            "from omegaconf import OmegaConf as o; o.save(o.merge("
            f'o.load("train.yaml"), o.load({json.dumps(path)})), "train-{number + 1}.yaml")'
        )
        lines += [
            f"# {span.title}: {count:,} samples",
            f"python -c {shlex.quote(merge)}",
            f"composer train/train.py train-{number + 1}.yaml autoresume=true",
        ]
    head = ["# LLM-Foundry; train.yaml is yours, without train_loader and max_duration"]
    if len(samples) > 1:
        head.append(
            "# every stage is an epoch: keep save_interval: 1ep and one save_folder, and t_max of the scheduler as "
            "the total in ba"
        )
    tail = [
        "# streaming alone: d = yaml['train_loader']['dataset']; StreamingDataset(streams=[Stream(**s) for s in "
        "d['streams'].values()],",
        "#   epoch_size=d['epoch_size'], shuffle=True, shuffle_seed=d['shuffle_seed'], batch_size=...)",
    ]
    return "\n".join([*head, *lines, *tail])


def _parts(path: str) -> Sequence[str]:
    return (f"{path}/{INDEX}",)


FORMAT = Format(
    name="streaming",
    trainers="MosaicML Streaming, LLM-Foundry, Composer",
    unit="document",
    write=write,
    stages="relaunch",
    zero_weights="dropped",
    sums_to_one=False,
    exhausted="repeats",
    caps="checked here",
    tested="mosaicml-streaming 0.13.0: its streams and its dataset; LLM-Foundry's YAML by its keys",
    packable=True,
    parts=_parts,
)
