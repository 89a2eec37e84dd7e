"""From what a file says (`imports.files`) to shares of trained tokens by domain, and the token where a stage begins."""

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

Stages = list[tuple[str, dict[str, float]]]  # (file and place in it, {domain: share})

# after a domain's name: what Megatron's preprocessing adds, and what `convert` adds to its views (@NUMBER)
ENDINGS = re.compile(r"((_text)?_(document|sentence)|@\d+)?(\.bin|\.idx)?$")


@dataclass(frozen=True)
class Schedule:
    """The mixture that files say, stage by stage.

    stages: (first token, counted from the beginning of the schedule; {domain: share of trained tokens}, sum 1). notes:
    what the user should know. record: where it comes from, for the new mixture's provenance.
    """

    stages: tuple[tuple[int, dict[str, float]], ...]
    notes: tuple[str, ...]
    record: dict[str, Any]

    def only(self, paths: Sequence[str | Path]) -> dict[str, float]:
        """Return the shares of the one stage.

        Raises UserError where there are several: without a mixture it is not known how long each of them is.
        """
        if len(self.stages) > 1:
            raise UserError(
                f"{', '.join(map(str, paths))}: {len(self.stages)} stages, and {{name: share}} holds one; give --like "
                "mixture.json or RUN_DIR to write a mixture with its stages"
            )
        return self.stages[0][1]


@dataclass(frozen=True)
class Lengths:
    """What the user said about the lengths of documents, as for `convert` (`convert.lengths`).

    means: {domain: tokens per document}. cache: token cache of the proxy run. most_tokens: tokens after which a
    document is cut off.
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

    like: the mixture whose domains these are; a domain that no file names gets share 0. row: which mixture of a table.
    data: how the files call the domains, as {name: what it is called} or a pattern with `{domain}`. starts: where every
    file after the first begins (tokens). sequence_length, batch_size: turn the steps of a staged file into tokens,
    where the file does not say them. lengths: lengths of documents, where `like` does not know them or they differ.
    packed: what the file counts as documents are rows of a fixed length. Raises UserError for values that do not fit
    together.
    """
    files = _read(paths, source=source, row=row, starts=starts)
    begins = (
        list(starts)
        if len(files) > 1
        else _begins(files[0], like, sequence_length=sequence_length, batch_size=batch_size)
    )
    places, prefix = as_places(data), READERS[source].prefix
    found = [(file.where, shares) for file in files for _, shares in file.stages]
    notes = [note for file in files for note in file.notes]
    if prefix and _prefixed(
        found, prefix, known=[domain.name for domain in like.domains] if like else [], places=places
    ):
        found = [(where, {name.removeprefix(prefix): shares[name] for name in shares}) for where, shares in found]
        notes.append(f"{prefix} is dropped, with which every name begins")
    stages = [(where, _named(shares, places, source=source, where=where)) for where, shares in found]
    if like is not None:
        stages, absent = _over(stages, [domain.name for domain in like.domains])
        notes += [f"not in the file, so share 0: {', '.join(absent)}"] if absent else []
    file_unit = files[0].unit or READERS[source].unit
    record: dict[str, Any] = {"format": source, "unit": "sequence" if packed else file_unit}
    if record["unit"] == "document":
        means = record["document_tokens"] = _means(stages, like, lengths or Lengths())
        stages = [(where, _as_tokens(shares, means)) for where, shares in stages]
        notes.append(
            f"documents turned into tokens by their means: "
            f"{', '.join(f'{name} {mean:,.4g}' for name, mean in means.items())}"
        )
    elif lengths not in (None, Lengths()) or (packed and file_unit != "document"):
        raise UserError(
            "--document-tokens, --cache, --max-document-tokens, --packed: they make shares of tokens from shares of "
            f"documents, those of {files[0].where} are of {record['unit']}s already: leave them out"
        )
    return Schedule(tuple(zip([0, *begins], [shares for _, shares in stages], strict=True)), tuple(notes), record)


def _read(paths: Sequence[str | Path], *, source: str, row: str | None, starts: Sequence[int]) -> list[TrainerFile]:
    """Read all files. Raises UserError where `starts` does not fit their number, or where one of several has stages."""
    if len(paths) != len(starts) + 1 or any(later <= earlier for earlier, later in itertools.pairwise([0, *starts])):
        raise UserError(
            f"{len(paths)} file(s), --starts {' '.join(map(str, starts)) or 'not given'}: give one file, or say after "
            "how many tokens each file after the first begins, ascending"
        )
    files = [read_found(path, source=source, row=row) for path in paths]
    if len(files) > 1 and (staged := [file.where for file in files if len(file.stages) > 1]):
        raise UserError(f"{', '.join(staged)}: has stages of its own; give it alone")
    return files


def _begins(
    found: TrainerFile, like: Mixture | None, *, sequence_length: int | None, batch_size: BatchSize | None
) -> list[int]:
    """Return where the stages after the first begin, in tokens.

    Steps are turned into tokens by the sequence length and batch size of the arguments, or else of the file; the
    sequence length may also come from the mixture. Raises UserError where one of the two is not known.
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
    """Return the batches of a schedule that is given as (first step, sequences per step)."""
    pieces = [by_step[0]]
    for (step, size), (later, sequences) in itertools.pairwise(by_step):
        pieces.append((pieces[-1][0] + (later - step) * size * sequence_length, sequences))
    return made_batches(pieces, sequence_length=sequence_length)


def _named(
    shares: Mapping[str, float], places: Mapping[str, Sequence[str]], *, source: str, where: str
) -> dict[str, float]:
    """Return {domain: share} from the names in the file; the shares of several names of one domain are added up.

    Raises UserError where Megatron's prefixes in different directories share a file name, and `places` does not say
    which domains they are.
    """
    named: dict[str, float] = {}
    prefixes: dict[str, dict[str, str]] = {}  # {domain: {prefix without its ending: prefix}}
    guessed = set()
    for called, share in shares.items():
        name = _name(called, places)
        if name is None and source == "megatron":
            name = ENDINGS.sub("", Path(called).name)
            guessed.add(name)
        name = called if name is None else name
        named[name] = named.get(name, 0.0) + share
        prefixes.setdefault(name, {}).setdefault(os.path.normpath(ENDINGS.sub("", called)), called)
    if alike := {name: found for name, found in prefixes.items() if name in guessed and len(found) > 1}:
        lines = "\n".join(f"  - {name}: {', '.join(found.values())}" for name, found in alike.items())
        raise UserError(
            f"{where}: several prefixes share a file name, and the file name is what a domain is called:\n{lines}\n"
            f"say which domain each of them is with --data NAME=PATH (two paths of one NAME are added up), or with a "
            f"pattern such as --data 'data/{DOMAIN}/all'"
        )
    return named


def _prefixed(stages: Stages, prefix: str, *, known: Sequence[str], places: Mapping[str, Sequence[str]]) -> bool:
    """Say whether all names have the prefix, and none is, with it, among the `known` or in `places`."""
    names = [name for _, shares in stages for name in shares]
    return all(name.startswith(prefix) and name not in known and _name(name, places) is None for name in names)


def _name(called: str, places: Mapping[str, Sequence[str]]) -> str | None:
    """Return the domain that the file calls `called`, or None.

    A name in `places` is compared as it stands and as an absolute path, because `convert` writes absolute paths.
    """
    for name, paths in places.items():
        for path in paths:
            for form in (path, os.path.abspath(path)):
                if match := re.fullmatch(re.escape(form).replace(re.escape(DOMAIN), "([^/]+)"), called):
                    return match[1] if name == EVERY else name
    return None


def _over(stages: Stages, names: Sequence[str]) -> tuple[Stages, list[str]]:
    """Return the stages with a share for each of `names`, and the names that no stage has.

    Raises UserError where a stage has a domain that is not among them.
    """
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
    """Return {name: mean tokens per document} of every domain with a share. Raises UserError where one is not known."""
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
    """Return shares of tokens from shares of documents and mean tokens per document; sum 1."""
    amounts = {name: share * means[name] if share else 0.0 for name, share in shares.items()}
    total = math.fsum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}
