"""Files of other programs, read as shares, or as a whole mixture over the text of a known one."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mixtures.convert.paths import Places
from mixtures.convert.steps import BatchSize
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.files import sha256_file, write_atomic
from mixtures.imports.schedule import Lengths, Schedule, read_schedule
from mixtures.run.run import RunRecord
from mixtures.schedule.bounds import Bound, by_name, check_bounds
from mixtures.schedule.check import written_checks
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Domain, Horizon, Input, Provenance, Stage
from mixtures.schedule.shares import check_caps
from mixtures.version import VERSION


@dataclass(frozen=True)
class Imported:
    """What the files of another program say: a mixture over the text of `like`, or without `like` the shares alone."""

    shares: dict[str, float]  # {domain: share of trained tokens}, sum 1, over the whole schedule
    mixture: Mixture | None
    notes: tuple[str, ...]  # what the user should know

    def to_frame(self) -> pd.DataFrame:
        """Return the mixture's table (`Mixture.to_frame`), or one line per domain with its share."""
        if self.mixture is not None:
            return self.mixture.to_frame()
        return pd.DataFrame({"domain": list(self.shares), "share": list(self.shares.values())})

    def save(self, path: str | Path) -> None:
        """Write the mixture as a mixture.json, or the shares as {domain: share}. Raises OSError on a full disk."""
        if self.mixture is not None:
            self.mixture.save(path)
        else:
            write_atomic(path, json.dumps(self.shares, indent=1) + "\n")


def import_mixture(
    files: Sequence[str | Path],
    *,
    source: str,
    like: Mixture | str | Path | RunRecord | None = None,
    output: str | Path = "mixture.json",
    row: str | None = None,
    data: Places = "",
    starts: Sequence[int] = (),
    sequence_length: int | None = None,
    batch_size: BatchSize | None = None,
    document_tokens: Mapping[str, float] | None = None,
    cache: str | Path | None = None,
    max_document_tokens: int | None = None,
    packed: bool = False,
    token_budget: int | None = None,
    max_epochs: Bound = None,
) -> Imported:
    """Read the mixture in the files of a trainer or a method, as shares of trained tokens.

    source: the format (`mixtures.imports.files.READERS`). like: a mixture, its file, or a run, over the same text; with
    it the result is a whole mixture with the stages of the files, for the file `output`. row: which mixture of a table.
    data: how the files call the domains, as a pattern with `{domain}` or as {domain: what it is called}. starts: where
    each file after the first begins (tokens). sequence_length, batch_size: turn steps into tokens where the file does
    not say them. document_tokens, cache, max_document_tokens, packed: lengths of documents, where shares are of
    documents. token_budget: tokens of the schedule, and max_epochs: caps, instead of those of `like`.

    Raises UserError for files that cannot be read, and for values that do not fit together.
    """
    if like is None and (token_budget is not None or max_epochs):
        raise UserError(
            "--token-budget, --max-epochs: shares alone have neither tokens nor caps; give --like mixture.json or "
            "RUN_DIR"
        )
    if isinstance(like, RunRecord) or (isinstance(like, str | Path) and Path(like).is_dir()):
        like = export_mixture([like], token_budget=token_budget)
    elif isinstance(like, str | Path):
        like = Mixture.load(like)
    schedule = read_schedule(
        files,
        source=source,
        like=like,
        row=row,
        data=data,
        starts=starts,
        sequence_length=sequence_length,
        batch_size=batch_size,
        lengths=Lengths(means=document_tokens or {}, cache=cache, most_tokens=max_document_tokens),
        packed=packed,
    )
    if like is None:
        return Imported(schedule.only(files), None, schedule.notes)
    mixture = as_mixture(schedule, like, files, output=Path(output), token_budget=token_budget, max_epochs=max_epochs)
    return Imported(mixture.average_weights(), mixture, schedule.notes)


def as_mixture(
    schedule: Schedule,
    like: Mixture,
    paths: Sequence[str | Path],
    *,
    output: Path,
    token_budget: int | None = None,
    max_epochs: Bound = None,
) -> Mixture:
    """Return the schedule as a mixture over the text of `like`, for the file `output`, with its sample policies.

    max_epochs: caps that replace those of `like`. Raises UserError for a schedule that does not fit into the tokens,
    and for caps that do not hold.
    """
    names = [domain.name for domain in like.domains]
    check_bounds(names, max_epochs=max_epochs, min_share=None, unique_tokens=None)
    total, first = token_budget or like.horizon.total_tokens, like.horizon.start_tokens
    if (last := schedule.stages[-1][0]) >= total:
        raise UserError(
            f"the last stage starts after {last:,} tokens, the schedule has {total:,}; give more with --token-budget"
        )
    caps = by_name(max_epochs, names)
    titles = (
        ["fixed"] if len(schedule.stages) == 1 else [f"stage-{number + 1}" for number in range(len(schedule.stages))]
    )
    content: dict[str, Any] = {
        "tokenizer": like.tokenizer,
        "units": like.units,
        "horizon": Horizon(**(like.horizon.model_dump() | {"total_tokens": total})),
        "domains": tuple(
            _domain(domain, caps.get(domain.name), like.directory, output.absolute().parent) for domain in like.domains
        ),
        "stages": tuple(
            Stage(name=title, start_tokens=first + start, weights=shares)
            for title, (start, shares) in zip(titles, schedule.stages, strict=True)
        ),
        "sampling": like.sampling,
        "provenance": Provenance(
            tool="mixtures",
            tool_version=VERSION,
            method=f"import {schedule.record['format']}",
            proxy={"import": schedule.record | {"like": like.id}},
            inputs=tuple(Input(uri=Path(path).name, sha256=sha256_file(path)) for path in paths),
        ),
    }
    mixture = Mixture(**content)
    check_caps(
        mixture,
        where="the imported mixture",
        remedy="raise the caps with --max-epochs NAME=N (inf: none), or lower --token-budget",
    )
    return Mixture(**content, expected=mixture.compute_expected(), checks=tuple(written_checks(mixture))).placed(
        output.parent
    )


def _domain(domain: Domain, cap: float | None, here: Path | None, there: Path) -> Domain:
    """Return a domain of `like` for the new file, its cap replaced and its manifest's path relative to `there`.

    here: directory of the file of `like`. cap: None keeps the cap, inf removes it.
    """
    changes: dict[str, Any] = {}
    if cap is not None:
        changes |= (
            {"max_epochs": cap, "on_exhausted": "renormalize"}
            if cap < math.inf
            else {"max_epochs": None, "on_exhausted": "repeat"}
        )
    policy = domain.sample_policy
    if policy is not None and policy.manifest_uri is not None and here is not None:
        changes["sample_policy"] = policy.model_copy(
            update={"manifest_uri": os.path.relpath(here / policy.manifest_uri, there)}
        )
    return domain.model_copy(update=changes)
