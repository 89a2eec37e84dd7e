"""The held-out losses of a comparison's runs: tables, checked to be comparable and turned into arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixtures.errors import UserError

RUN = ["mixture", "seed"]
RESULTS = [*RUN, "step", "tokens", "domain", "loss", "bits_per_byte"]
ROWS = [*RUN, "domain", "row", "loss"]
TOLERANCE = 1e-3  # largest difference (nats) between a loss in the results and the mean of its rows
REMEDY = "remove the files of these runs from the comparison's bases/ and start it again: it repeats what is missing"


@dataclass(frozen=True)
class Runs:
    """The runs of a comparison at their last step. M mixtures (the baseline first), S seeds, K domains."""

    mixtures: tuple[str, ...]
    seeds: tuple[int, ...]
    domains: tuple[str, ...]
    step: int
    tokens: int
    losses: np.ndarray  # (M, S, K) nats per token; NaN if not run, or diverged
    bits_per_byte: np.ndarray  # (M, S, K)
    rows: tuple[np.ndarray, ...]  # losses of the rows, K tables (M, S, n), nats per token
    diverged: np.ndarray  # (M, S) bool

    @property
    def finished(self) -> np.ndarray:
        """Whether each run was done and did not diverge: bool (M, S)."""
        return np.asarray(np.isfinite(self.losses).all(axis=2))


def read_results(results: pd.DataFrame, rows: pd.DataFrame, *, baseline: str) -> Runs:
    """Read the runs from the tables `results` and `rows`, which need the columns RESULTS and ROWS.

    A run whose last losses are not all finite has diverged. Raises UserError that lists all offenders, for missing
    columns, a baseline that was not run or is the only mixture, an entry that is there twice, a run without all domains
    or rows, runs of different lengths, and rows that do not belong to the results.
    """
    _check_columns(results, rows)
    mixtures, seeds = list(results["mixture"].unique()), sorted(results["seed"].unique())
    if baseline not in mixtures or len(mixtures) == 1:
        raise UserError(
            f"baseline {baseline}: the results hold {', '.join(mixtures) or 'no mixture'}; a comparison needs the "
            "baseline and at least one other mixture"
        )
    mixtures.sort(key=lambda name: name != baseline)
    domains = list(results["domain"].unique())
    last = results[results["step"] == results.groupby(RUN)["step"].transform("max")]
    _check_domains(last, domains)
    grid = pd.MultiIndex.from_product([mixtures, seeds], names=RUN)
    shape = (len(mixtures), len(seeds), len(domains))
    losses, bits = (
        np.array(_grid(last, name, "domain", grid)[domains]).reshape(shape) for name in ("loss", "bits_per_byte")
    )
    ran = grid.isin(_runs(last)).reshape(shape[:2])
    endless = _runs(rows[~np.isfinite(rows["loss"])])
    diverged = ran & (~np.isfinite(losses).all(axis=2) | grid.isin(endless).reshape(shape[:2]))
    finished = [run for run, kept in zip(grid, (ran & ~diverged).ravel(), strict=True) if kept]
    step, tokens = _end(last, finished)
    losses[diverged], bits[diverged] = np.nan, np.nan
    tables = tuple(
        table.reshape(*shape[:2], -1)
        for table in (_domain_rows(rows, domain, grid, finished=finished) for domain in domains)
    )
    _check_means(losses, tables, grid, domains)
    names = tuple(map(str, mixtures)), tuple(map(int, seeds)), tuple(map(str, domains))
    return Runs(*names, step, tokens, losses, bits, tables, diverged)


def run_text(run: Sequence[object]) -> str:
    """Return the name of a run (mixture, seed) in messages, such as `uniform seed 0`."""
    return f"{run[0]} seed {run[1]}"


def _check_columns(results: pd.DataFrame, rows: pd.DataFrame) -> None:
    faults = []
    for name, frame, columns, keys in (
        ("results", results, RESULTS, [*RUN, "step", "domain"]),
        ("rows", rows, ROWS, [*RUN, "domain", "row"]),
    ):
        if missing := [column for column in columns if column not in frame.columns]:
            faults.append(f"{name} lacks the column(s) {', '.join(missing)}; needed: {', '.join(columns)}")
        elif frame.duplicated(keys).any():
            twice = _listed(_runs(frame[frame.duplicated(keys)]))
            faults.append(f"{name} holds the same {', '.join(keys[2:])} twice for {twice}; give every run once")
    if faults:
        raise UserError("\n".join(faults))


def _check_domains(last: pd.DataFrame, domains: Sequence[str]) -> None:
    evaluated = last.groupby(RUN)["domain"].agg(set)
    if short := [
        f"{run_text(run)} lacks {', '.join(sorted(set(domains) - names))}"
        for run, names in evaluated.items()
        if len(names) < len(domains)
    ]:
        raise UserError(f"runs without all domains at their last step: {'; '.join(short)}; {REMEDY}")


def _end(last: pd.DataFrame, finished: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """Return (step, tokens) at which every finished run ends; those of the longest run if all diverged."""
    ends = last.groupby(RUN)[["step", "tokens"]].max()
    chosen = ends.loc[finished] if finished else ends
    longest = chosen.sort_values(["step", "tokens"]).iloc[-1]
    if finished and (shorter := [run for run, end in chosen.iterrows() if not end.equals(longest)]):
        ends_text = "; ".join(
            f"{run_text(run)} at step {chosen.loc[run, 'step']}, {chosen.loc[run, 'tokens']:,} tokens"
            for run in shorter
        )
        raise UserError(
            f"runs end at different places: {ends_text}; others at step {longest['step']}, {longest['tokens']:,} "
            f"tokens; only runs of equal length are compared; {REMEDY}"
        )
    return int(longest["step"]), int(longest["tokens"])


def _domain_rows(
    rows: pd.DataFrame, domain: str, grid: pd.MultiIndex, *, finished: Sequence[tuple[str, int]]
) -> np.ndarray:
    """Return the losses (M * S, n) of one domain's rows; NaN for runs that are not in `finished`."""
    chosen = rows[rows["domain"] == domain]
    if not finished:
        return np.full((len(grid), max(chosen["row"].nunique(), 1)), np.nan)
    table = _grid(chosen[pd.MultiIndex.from_frame(chosen[RUN]).isin(finished)], "loss", "row", grid)
    kept = grid.isin(finished)
    if table.empty or table[kept].isna().any(axis=None):
        short = [run for run, values in table[kept].iterrows() if values.empty or values.isna().any()]
        raise UserError(
            f"held-out rows of {domain} are missing for {_listed(short)}; every run needs the same rows; {REMEDY}"
        )
    return table.to_numpy(dtype=np.float64)


def _check_means(losses: np.ndarray, tables: Sequence[np.ndarray], grid: pd.MultiIndex, domains: Sequence[str]) -> None:
    means = np.stack([table.mean(axis=2) for table in tables], axis=2)
    off = np.abs(means - losses).reshape(len(grid), len(domains))
    if faults := [(run, column) for run, column in np.argwhere(off > TOLERANCE)]:
        flat = losses.reshape(off.shape), means.reshape(off.shape)
        listed = [
            f"{run_text(grid[r])} {domains[c]} ({flat[0][r, c]:.4f}, rows {flat[1][r, c]:.4f})" for r, c in faults[:5]
        ]
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError(
            f"losses that are not the mean of their rows: {', '.join(listed)}{more}; rows and results come from "
            f"different runs; {REMEDY}"
        )


def _grid(frame: pd.DataFrame, values: str, columns: str, grid: pd.MultiIndex) -> pd.DataFrame:
    """Return the column `values` with one line per (mixture, seed) in `grid`; NaN where the table has none."""
    return frame.pivot(index=RUN, columns=columns, values=values).reindex(grid)


def _runs(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return list(frame[RUN].drop_duplicates().itertuples(index=False, name=None))


def _listed(runs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(map(run_text, runs))
