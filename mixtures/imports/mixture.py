"""What was imported as a Mixture of the text of another one."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixtures.errors import UserError
from mixtures.files import sha256_file
from mixtures.imports.schedule import Schedule
from mixtures.schedule.bounds import Bound, by_name, check_bounds
from mixtures.schedule.check import written_checks
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Domain, Horizon, Input, Provenance, Stage
from mixtures.schedule.shares import check_caps
from mixtures.version import VERSION


def as_mixture(
    schedule: Schedule,
    like: Mixture,
    paths: Sequence[str | Path],
    *,
    output: Path,
    token_budget: int | None = None,
    max_epochs: Bound = None,
) -> Mixture:
    """The schedule over the text of `like`, with its caps (`max_epochs` replaces them) and sample policies, for the
    file `output`.

    Raises UserError for a schedule that does not fit into the tokens, and caps that do not hold.
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
    """The domain of `like`, its manifest named relative to the new file, with another cap where one is given."""
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
