"""A swarm: the mixtures that were tried, and what was measured of each, read from files.

The files are two tables (as of RegMix and Olmix), or the directory of a comparison. RATIOS has one line per mixture and
one column per domain. METRICS has one line per run and one column per metric. Both may have label columns
(mixtures/imports/tables.py), by which their lines are joined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mixtures.compare.directory import ComparisonRecord, read_comparison
from mixtures.compare.tables import Runs, read_results
from mixtures.errors import UserError, quoted
from mixtures.export import export_mixture
from mixtures.imports.tables import Row, csv_rows, read_rows, some
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.shares import PREFIX, ROUNDING, checked_shares, matched_shares
from mixtures.text import EVERY

JOINED_BY = ("run_id", "run", "name", "index", "", "Unnamed: 0")  # the column that fits most lines is taken


@dataclass(frozen=True, eq=False)
class Swarm:
    """Shares (K, D) and metrics (K, M), lower is better; one line per run, with the same labels as index."""

    ratios: pd.DataFrame
    metrics: pd.DataFrame
    notes: tuple[str, ...]  # how lines were joined, and what was left out
    inputs: tuple[Path, ...]  # the files read
    importance: dict[str, float] | None = None  # the objective of a comparison
    like: Mixture | None = None  # a mixture over the same text, if one is known


def read_swarm(paths: Sequence[str | Path]) -> Swarm:
    """Read a swarm from the two files RATIOS and METRICS, or from the directory of a comparison.

    Raises UserError that lists all offenders, for damaged files, shares that do not make a mixture, metrics that are
    not finite numbers, and tables that cannot be joined.
    """
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _from_comparison(Path(paths[0]))
    if len(paths) != 2:
        raise UserError(
            f"{', '.join(map(str, paths))}: give two tables, RATIOS METRICS, or the directory of one comparison"
        )
    ratios, metrics = Path(paths[0]), Path(paths[1])
    return _from_tables(ratios, metrics)


def read_like(path: str | Path, names: Sequence[str]) -> Mixture:
    """Read the mixture at `path`, a mixture.json or a run directory, for its domains, tokenizer and token budget.

    Raises UserError if its domains are not those in `names`.
    """
    like = export_mixture([path]) if Path(path).is_dir() else Mixture.load(path)
    matched_shares(
        dict.fromkeys(names, 0.0), [domain.name for domain in like.domains], where=f"the swarm, beside {path}"
    )
    return like


def importances(swarm: Swarm, asked: Mapping[str, float]) -> dict[str, float] | None:
    """Return {metric: importance}: those in `asked`, or else those of the comparison; None: all metrics count alike.

    The name `*` in `asked` stands for every metric that is not named.
    """
    if EVERY in asked:
        return dict.fromkeys(map(str, swarm.metrics.columns), asked[EVERY]) | {
            name: asked[name] for name in asked if name != EVERY
        }
    return dict(asked) or swarm.importance


def _from_tables(ratios: Path, metrics: Path) -> Swarm:
    mixtures, runs = read_rows(ratios), csv_rows(metrics)
    shares, measured = _shares(mixtures), _measurements(runs)
    column = _join_column(mixtures, runs)
    if column is None:
        if len(mixtures) != len(runs):
            raise UserError(
                f"{ratios} has {len(mixtures)} mixtures, {metrics} has {len(runs)} lines, and no label column joins "
                f"them; give both a column named one of {', '.join(label for label in JOINED_BY if label)} with the "
                "same values, or the same number of lines in the same order"
            )
        shares.index = measured.index = pd.Index([f"line {number + 1}" for number in range(len(runs))])
        return Swarm(
            shares,
            measured,
            ("lines joined by their order: the tables have no label column in common",),
            (ratios, metrics),
        )
    shares.index = pd.Index([row.labels[column] for row in mixtures])
    measured.index = pd.Index([row.labels[column] for row in runs])
    notes = [f"lines joined by {repr(column) if column else 'the first column'}"]
    if alone := [label for label in shares.index if label not in measured.index]:
        notes.append(
            f"left out, as nothing was measured of them: {some(alone)} ({len(alone)} of {len(shares)} mixtures)"
        )
    if alone := [label for label in measured.index if label not in shares.index]:
        notes.append(
            f"left out, as they belong to no mixture: {some(alone)} ({len(alone)} of {len(measured)} lines of metrics)"
        )
    measured = measured[measured.index.isin(shares.index)]
    return Swarm(shares.loc[measured.index], measured, tuple(notes), (ratios, metrics))


def _shares(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the shares (K, D); if all domains have RegMix's prefix, it is removed from their names."""
    faults, lines = [], []
    for row in rows:
        try:
            shares = checked_shares(row.values, where=row.where, tolerance=ROUNDING)
            lines.append(matched_shares(shares, list(rows[0].values), where=row.where))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(_first(faults)))
    table = pd.DataFrame(lines)
    bare = all(name.startswith(PREFIX) for name in table.columns)
    return table.rename(columns=lambda name: name.removeprefix(PREFIX)) if bare else table


def _measurements(rows: Sequence[Row]) -> pd.DataFrame:
    faults = [
        f"{row.where}: {name} is {quoted(value)}; give a finite number, or take the line out"
        for row in rows
        for name, value in row.values.items()
        if isinstance(value, str) or not np.isfinite(value)
    ]
    if faults:
        raise UserError("\n".join(_first(faults)))
    return pd.DataFrame([row.values for row in rows], dtype=np.float64)


def _join_column(mixtures: Sequence[Row], runs: Sequence[Row]) -> str | None:
    """Return the label column that joins most runs with their mixture; None if the tables have none in common.

    Its labels must be unique among the mixtures. Raises UserError if no label column joins any line.
    """
    fits = {}
    for column in JOINED_BY:
        if column in mixtures[0].labels and column in runs[0].labels:
            labels = [row.labels.get(column, "") for row in mixtures]
            fits[column] = sum(row.labels.get(column) in labels for row in runs) if len({*labels}) == len(labels) else 0
    if fits and not any(fits.values()):
        columns = ", ".join(repr(column) for column in fits)
        raise UserError(
            f"{mixtures[0].where} and the lines after it have no label in common with {runs[0].where} and those "
            f"after it, by {columns}; "
            "a label stands for one mixture: correct the label columns, or take them out to join lines by their order"
        )
    return max(fits, key=fits.__getitem__) if fits else None


def _from_comparison(path: Path) -> Swarm:
    """Read the mixtures of a comparison with their held-out losses, averaged over the seeds that all of them have."""
    record = read_comparison(path)
    runs = read_results(record.bases.results, record.bases.rows, baseline=record.config["baseline"])
    weighted = [
        name for name, mixture in record.mixtures.items() if any(domain.sample_policy for domain in mixture.domains)
    ]
    diverged = [runs.mixtures[place] for place in np.flatnonzero(runs.diverged.any(axis=1))]
    kept = [place for place, name in enumerate(runs.mixtures) if name not in (*weighted, *diverged)]
    common = runs.finished[kept].all(axis=0)
    if not common.any():
        raise UserError(f"{path}: {_seeds(runs, kept)}; no seed is common to all mixtures: finish the comparison first")
    names = [runs.mixtures[place] for place in kept]
    seeds = ", ".join(str(runs.seeds[place]) for place in np.flatnonzero(common))
    notes = [f"metrics: held-out loss of every domain, nats per token, mean over seed(s) {seeds}"]
    notes += [f"left out, as a run diverged: {some(diverged)}"] if diverged else []
    notes += [f"left out, as their documents are weighted: {some(weighted)}"] if weighted else []
    return Swarm(
        ratios=pd.DataFrame([record.mixtures[name].average_weights() for name in names], index=names),
        metrics=pd.DataFrame(runs.losses[kept][:, common].mean(axis=1), index=names, columns=list(runs.domains)),
        notes=tuple(notes),
        inputs=_read_files(path, record),
        importance=record.comparison.importance,
        like=record.mixtures[record.config["baseline"]],
    )


def _seeds(runs: Runs, kept: Sequence[int]) -> str:
    listed = [
        f"{runs.mixtures[place]}: {', '.join(map(str, np.array(runs.seeds)[runs.finished[place]])) or 'none'}"
        for place in kept
    ]
    return f"finished seeds: {some(listed)}"


def _read_files(path: Path, record: ComparisonRecord) -> tuple[Path, ...]:
    files = [path / "config.yaml", *(path / "mixtures" / f"{name}.json" for name in record.mixtures)]
    return tuple(files) + tuple(
        path / "bases" / fact["mixture"] / f"seed-{fact['seed']}.parquet" for fact in record.bases.facts
    )


def _first(faults: Sequence[str], most: int = 10) -> list[str]:
    return [*faults[:most], *([f"and {len(faults) - most} more faults"] if len(faults) > most else [])]
