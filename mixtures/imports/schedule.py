"""From what a file says (`import_files`) to shares of trained tokens of our domains, by tokens since the beginning."""

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixtures.convert.lengths import read_texts
from mixtures.convert.options import DOMAIN
from mixtures.convert.paths import Places, as_places
from mixtures.convert.steps import Batches, BatchSize, batches_of, made_batches
from mixtures.errors import UserError
from mixtures.imports.files import READERS, TrainerFile, read_found
from mixtures.schedule.manifest import open_manifest
from mixtures.schedule.mixture import Mixture
from mixtures.text import EVERY

Stages = list[tuple[str, dict[str, float]]]  # where it stands, {domain: share}

ENDINGS = re.compile(
    r"((_text)?_(document|sentence)|@\d+)?(\.bin|\.idx)?$"
)  # after a name: Megatron's preprocessing, `convert` (views)


@dataclass(frozen=True)
class Schedule:
    """stages: (tokens since its beginning, {domain: share of trained tokens, sum 1}).

    notes: what a reader should know.
    """

    stages: tuple[tuple[int, dict[str, float]], ...]
    notes: tuple[str, ...]
    record: dict[str, Any]  # for the provenance

    def only(self, paths: Sequence[str | Path]) -> dict[str, float]:
        """The shares of its one stage. Raises UserError where it has several: how long they are is not known without a
        mixture.
        """
        if len(self.stages) > 1:
            raise UserError(
                f"{', '.join(map(str, paths))}: {len(self.stages)} stages, and {{name: share}} holds one; give --like "
                "mixture.json or RUN_DIR to write a mixture with its stages"
            )
        return self.stages[0][1]


@dataclass(frozen=True)
class Lengths:
    """Of documents, as for `convert` (`convert.lengths`): means in tokens by name, a token cache, where documents are
    cut.
    """

    means: Mapping[str, float] = field(default_factory=dict)
    cache: str | Path | None = None
    most_tokens: int | None = None


def read_schedule(
    paths: Sequence[str | Path],
    *,
    source: str,
    like: Mixture | None = None,
    row: str | None = None,
    data: Places = "",
    starts: Sequence[int] = (),
    sequence_length: int | None = None,
    batch_size: BatchSize | None = None,
    lengths: Lengths | None = None,
    packed: bool = False,
) -> Schedule:
    """Read the schedule in the files `paths` of the format `source`, in tokens.

    like: whose domains these are; one that no file names gets 0. data: how the files call the domains, as {name: what
    it is called} or a pattern with `{domain}`. starts: where every file after the first begins (tokens).
    sequence_length, batch_size: turn the steps of a staged file into tokens, where it does not say them. lengths: of
    documents, where `like` does not know them or they differ. packed: the documents of a document-counting file are
    rows of a fixed length. Raises UserError for all that does not fit together.
    """
    files = _read(paths, source=source, row=row, starts=starts)
    begins = (
        list(starts)
        if len(files) > 1
        else _begins(files[0], like, sequence_length=sequence_length, batch_size=batch_size)
    )
    stages = [
        (found.where, _named(shares, as_places(data), source=source)) for found in files for _, shares in found.stages
    ]
    notes = [note for found in files for note in found.notes]
    if like is not None:
        stages, absent = _over(stages, [domain.name for domain in like.domains])
        notes += [f"not in the file, so share 0: {', '.join(absent)}"] if absent else []
    counted = files[0].unit or READERS[source].unit
    record: dict[str, Any] = {"format": source, "unit": "sequence" if packed else counted}
    if record["unit"] == "document":
        means = record["document_tokens"] = _means(stages, like, lengths or Lengths())
        stages = [(where, _as_tokens(shares, means)) for where, shares in stages]
        notes.append(
            f"documents turned into tokens by their means: "
            f"{', '.join(f'{name} {mean:,.4g}' for name, mean in means.items())}"
        )
    elif lengths not in (None, Lengths()) or (packed and counted != "document"):
        raise UserError(
            "--document-tokens, --cache, --max-document-tokens, --packed: they make shares of tokens from shares of "
            f"documents, those of {files[0].where} are of {record['unit']}s already: leave them out"
        )
    return Schedule(tuple(zip([0, *begins], [shares for _, shares in stages], strict=True)), tuple(notes), record)


def _read(paths: Sequence[str | Path], *, source: str, row: str | None, starts: Sequence[int]) -> list[TrainerFile]:
    if len(paths) != len(starts) + 1 or any(later <= earlier for earlier, later in itertools.pairwise([0, *starts])):
        raise UserError(
            f"{len(paths)} file(s), --starts {' '.join(map(str, starts)) or 'not given'}: give one file, or say after "
            "how many tokens each file after the first begins, ascending"
        )
    files = [read_found(path, source=source, row=row) for path in paths]
    if len(files) > 1 and (staged := [found.where for found in files if len(found.stages) > 1]):
        raise UserError(f"{', '.join(staged)}: has stages of its own; give it alone")
    return files


def _begins(
    found: TrainerFile, like: Mixture | None, *, sequence_length: int | None, batch_size: BatchSize | None
) -> list[int]:
    """Where the stages after the first begin, in tokens: by what was given, by the file, by the mixture, in this
    order.
    """
    if len(found.stages) == 1 or found.by_tokens:
        return [start for start, _ in found.stages[1:]]
    length = sequence_length or found.sequence_length or (like.horizon.sequence_length if like else None)
    missing = [] if length else ["--sequence-length"]
    missing += [] if batch_size is not None or found.batches else ["--batch-size"]
    if length is None or missing:
        raise UserError(
            f"{found.where}: its {len(found.stages)} stages begin at steps; to know their tokens, give "
            f"{', '.join(missing)}"
        )
    batches = (
        batches_of(batch_size, sequence_length=length) if batch_size is not None else _batches(found.batches, length)
    )
    return [batches.tokens_at(step) for step, _ in found.stages[1:]]


def _batches(by_step: Sequence[tuple[int, int]], sequence_length: int) -> Batches:
    """From (first step, sequences a step)."""
    pieces = [by_step[0]]
    for (step, size), (later, sequences) in itertools.pairwise(by_step):
        pieces.append((pieces[-1][0] + (later - step) * size * sequence_length, sequences))
    return made_batches(pieces, sequence_length=sequence_length)


def _named(shares: Mapping[str, float], places: Mapping[str, Sequence[str]], *, source: str) -> dict[str, float]:
    """The shares by domain: what the file calls in several ways is added up."""
    named: dict[str, float] = {}
    for called, share in shares.items():
        name = _name(called, places) or (ENDINGS.sub("", Path(called).name) if source == "megatron" else called)
        named[name] = named.get(name, 0.0) + share
    return named


def _name(called: str, places: Mapping[str, Sequence[str]]) -> str | None:
    """Return the domain that is called so, by a path from here or from the root as `convert` writes it, or None."""
    for name, paths in places.items():
        for path in paths:
            for form in (path, os.path.abspath(path)):
                if match := re.fullmatch(re.escape(form).replace(re.escape(DOMAIN), "([^/]+)"), called):
                    return match[1] if name == EVERY else name
    return None


def _over(stages: Stages, names: Sequence[str]) -> tuple[Stages, list[str]]:
    """The stages with a share for each of `names`, and those that no stage has."""
    unknown = [
        f"  - {where}: {', '.join(extra)}"
        for where, shares in stages
        if (extra := [name for name in shares if name not in names])
    ]
    if unknown:
        raise UserError(
            "not among the domains of --like:\n"
            + "\n".join(unknown)
            + f"\nits domains are {', '.join(names)}; say how the file calls "
            f"them with --data NAME=CALLED, or with a pattern such as --data 'data/{DOMAIN}_text_document'"
        )
    absent = [name for name in names if not any(name in shares for _, shares in stages)]
    return [(where, {name: shares.get(name, 0.0) for name in names}) for where, shares in stages], absent


def _means(stages: Stages, like: Mixture | None, lengths: Lengths) -> dict[str, float]:
    """{name: mean tokens of a document} of every domain that is used."""
    where, shares = stages[0]
    if wrong := [
        f"{name}={mean:g}" for name, mean in lengths.means.items() if name not in shares or not 0 < mean < math.inf
    ]:
        raise UserError(
            f"--document-tokens {' '.join(wrong)}: give a positive number for a domain; the domains are "
            f"{', '.join(shares)}"
        )
    known: dict[str, float | None] = dict(lengths.means)
    if like is not None:
        manifests = {
            domain.name: manifest for domain in like.domains if (manifest := open_manifest(domain, like.directory))
        }
        drawn = {name: manifest for name, manifest in manifests.items() if manifest.mode != "loss_weight"}
        texts = read_texts(like, drawn, means=lengths.means, cache=lengths.cache, most_tokens=lengths.most_tokens)
        known = {name: text.mean_tokens for name, text in texts.items()}
    used = list(dict.fromkeys(name for _, shares in stages for name, share in shares.items() if share > 0))
    means = {name: known.get(name) for name in used}
    if missing := [name for name, mean in means.items() if mean is None]:
        raise UserError(
            f"{where}: its shares are of documents, and nobody knows how many tokens a document of "
            f"{', '.join(missing)} has; give --like a mixture or a run that counted them, --document-tokens NAME=MEAN, "
            "or --packed where rows are of a fixed length"
        )
    return {name: mean for name, mean in means.items() if mean is not None}


def _as_tokens(shares: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
    amounts = {name: share * means[name] if share else 0.0 for name, share in shares.items()}
    total = math.fsum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}
