"""A run's record of its steps, the trajectory: one row per step.

Columns, for D training domains and G groups, the first D of which are the training domains:

step                updates done, from 1
tokens              tokens trained so far
lr, tokens_per_second, gradient_norm
reach_factor        stable: factor by which `update.reach` scaled the log-ratios to the prior down; 1 if it did not
weight.NAME         per training domain
alignment.NAME      per training domain; with DoReMi the excess loss (nats per token)
loss.NAME           per group; nats per token
norm.NAME           per group: norm of its gradient
self_product.NAME   per group: unbiased estimate of the gram's diagonal; NaN if the group has too few rows for it
sample_spread.NAME  per training domain: standard deviation of its online sample weights
sample_ess.NAME     per training domain: their effective sample size, as a fraction of the rows
step_alignment.NAME, step_target_alignment.NAME
                    stable, per training domain: alignment by this step's gram alone, with the groups that are no
                    targets and with the targets (parts 0 and 1 of `alignment_parts` in doge/stable.py)
gram                lower triangle, G * (G + 1) / 2 numbers in float32, row by row

What a rule does not measure is null: DoReMi has no gram, norm and self_product, and a run without online sample weights
has neither of the two sample columns. Records of earlier versions lack the sample columns, reach_factor and the two
step columns. Format 1 has the whole gram, G * G numbers in float64; a record may have parts of both formats.

Size: `record_bytes`. 11 groups and 600 steps are 0.6 MB; 1,000 groups and 10,000 steps are 21 GB with every gram, and
0.9 GB with every hundredth (`train.gram_every`). Grams are therefore read only when asked for: `Trajectory.grams`, or
one by one by `measured_grams`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from mixtures.errors import UserError
from mixtures.run.average import span_average
from mixtures.run.grams import GramBlocks, packed, unpacked
from mixtures.run.parts import REMEDY, Part, absence, list_parts, read_part, truncate_parts, write_part
from mixtures.sums import read_run_id

FORMAT = 2
FULL_GRAMS = 1  # the format before it, with whole grams in float64
STEP_ALIGNMENTS = ("step_alignment", "step_target_alignment")
SCALARS = ("lr", "tokens_per_second", "gradient_norm", "reach_factor")


def record_bytes(*, domains: int, groups: int, steps: int, grams: int) -> int:
    """Return the size of a trajectory before compression (bytes), with a gram at `grams` of its steps."""
    columns = len(_trajectory_schema([*map(str, range(domains))], [*map(str, range(groups))])) - 1
    return 8 * columns * steps + 2 * groups * (groups + 1) * grams


def step_row(
    *, domains: Sequence[str], groups: Sequence[str], arrays: Mapping[str, Any], **scalars: Any
) -> dict[str, Any]:
    """Return one row for `TrajectoryWriter.append` from the arrays of a step.

    arrays: weight (D,), alignment (D,), loss (G,), norm (G,), self_product (D,) or (G,), sample_spread (D,), sample_ess
    (D,), step_alignment (D,), step_target_alignment (D,), gram (G, G); a name that is left out is recorded as not
    measured.
    scalars: step, tokens, lr, tokens_per_second, gradient_norm, reach_factor.
    """
    row: dict[str, Any] = dict(scalars)
    for kind, values in arrays.items():
        if kind == "gram":
            row["gram"] = values
            continue
        assert len(values) in (len(domains), len(groups)), f"{kind} has {len(values)} values, groups are {groups}"
        row |= {f"{kind}.{name}": float(value) for name, value in zip(groups, values, strict=False)}
    return row


class _Row(NamedTuple):
    """A buffered step: its numbers in the order of the columns, NaN where `missing`, and its gram as it is written."""

    step: int
    tokens: int
    values: np.ndarray
    missing: np.ndarray
    gram: np.ndarray | None


class TrajectoryWriter:
    """Appends steps to the parts in `directory` (a run's `trajectory/`).

    `append` only buffers; `flush` writes the buffered rows as one part, atomically. If the directory already has parts,
    the record goes on after their last step (call `truncate` first when resuming from a checkpoint).
    """

    def __init__(
        self, directory: str | Path, *, domains: Sequence[str], groups: Sequence[str], run_id: str | None = None
    ) -> None:
        assert list(groups[: len(domains)]) == list(domains), "the first groups are the training domains"
        self.directory, self.run_id = Path(directory), run_id
        self.groups = list(groups)
        self.schema = _trajectory_schema(list(domains), self.groups)
        self._numbers = [name for name in self.schema.names if name not in ("step", "tokens", "gram")]
        self._rows: list[_Row] = []
        self._last = max((part.last for part in list_parts(self.directory, run_id=run_id)), default=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Buffer one step: keys are column names, `gram` is (G, G). Missing keys become null."""
        assert row["step"] == self._last + 1, f"step {row['step']} after step {self._last}"
        if unknown := sorted(set(row) - set(self.schema.names)):
            raise AssertionError(f"{', '.join(unknown)}: no such column; columns are {', '.join(self.schema.names)}")
        required = [name for name in self.schema.names if name == "tokens" or name.startswith(("weight.", "loss."))]
        if absent := [name for name in required if name not in row]:
            raise AssertionError(f"step {row['step']} has no {', '.join(absent)}")
        values = [row.get(name) for name in self._numbers]
        missing = np.array([value is None for value in values])
        gram = None if row.get("gram") is None else packed(np.reshape(row["gram"], (len(self.groups), -1)))
        self._rows.append(_Row(row["step"], row["tokens"], np.array(values, dtype=np.float64), missing, gram))
        self._last += 1

    def flush(self) -> None:
        """Write the buffered rows, if there are any, as one part. On an OSError the rows stay buffered."""
        if self._rows:
            values = np.stack([row.values for row in self._rows], axis=1)
            missing = np.stack([row.missing for row in self._rows], axis=1)
            columns = [[row.step for row in self._rows], [row.tokens for row in self._rows]]
            columns += [pa.array(each, mask=mask) for each, mask in zip(values, missing, strict=True)]
            kind = self.schema.field("gram").type
            grams = pa.chunked_array([_gram_array(row.gram, kind) for row in self._rows], kind)  # shares their memory
            write_part(self.directory, pa.table([*columns, grams], schema=self.schema), run_id=self.run_id)
            self._rows.clear()

    def truncate(self, step: int) -> None:
        """Remove every row after `step`, on disk and buffered, so that the next row is `step` + 1.

        Raises UserError when the record ends before `step`: parts that the checkpoint needs are missing.
        """
        self._rows = [row for row in self._rows if row.step <= step]
        truncate_parts(self.directory, step, run_id=self.run_id)
        parts = list_parts(self.directory, run_id=self.run_id)
        kept = [row.step for row in self._rows] + [part.last for part in parts]
        self._last = max(kept, default=0)
        if self._last < step:
            raise UserError(
                f"{self.directory} ends at step {self._last}, the checkpoint is from step {step}: parts are missing; "
                "restore them from a copy, or repeat the run in a new run directory"
            )


@dataclass(frozen=True)
class Trajectory:
    """A run's steps: S steps, D training domains, G groups. Arrays are float64, NaN where not measured."""

    domains: tuple[str, ...]
    groups: tuple[str, ...]
    frame: pd.DataFrame  # every column except the gram, one row per step
    parts: tuple[Part, ...]
    _blocks: list[np.ndarray] = field(default_factory=list, init=False, repr=False, compare=False)

    def _columns(self, kind: str, names: Iterable[str]) -> np.ndarray:
        """Return the columns `kind`.NAME as an array (S, names)."""
        return self.frame[[f"{kind}.{name}" for name in names]].to_numpy(dtype=np.float64)

    @property
    def steps(self) -> np.ndarray:
        """Return the numbers of the steps, (S,) int64, from 1."""
        return self.frame["step"].to_numpy()

    @property
    def tokens(self) -> np.ndarray:
        """Return the tokens trained after each step, (S,) int64."""
        return self.frame["tokens"].to_numpy()

    @property
    def weights(self) -> np.ndarray:
        """Return the weights (S, D); rows sum to 1."""
        return self._columns("weight", self.domains)

    @property
    def average(self) -> np.ndarray:
        """Return the mean (D,) of the weights over all trained tokens, sum 1: what the run learned."""
        return span_average(self.weights, self.tokens, start=0, end=self.tokens[-1])

    @property
    def alignments(self) -> np.ndarray:
        """Return the alignments (S, D)."""
        return self._columns("alignment", self.domains)

    @property
    def losses(self) -> np.ndarray:
        """Return the losses (S, G), nats per token."""
        return self._columns("loss", self.groups)

    @property
    def norms(self) -> np.ndarray:
        """Return the norms (S, G) of the groups' gradients."""
        return self._columns("norm", self.groups)

    @property
    def self_products(self) -> np.ndarray:
        """Return unbiased estimates (S, G) of the gram's diagonal."""
        return self._columns("self_product", self.groups)

    @property
    def reach_factors(self) -> np.ndarray:
        """Return the factors (S,) by which `update.reach` scaled the log-ratios down; NaN where not recorded."""
        return self.frame.reindex(columns=["reach_factor"]).to_numpy(dtype=np.float64)[:, 0]

    @property
    def sample_spreads(self) -> np.ndarray:
        """Return the standard deviations (S, D) of the domains' online sample weights, whose mean is 1."""
        return self._of_domains("sample_spread")

    @property
    def sample_ess(self) -> np.ndarray:
        """Return the effective sample sizes (S, D) of the domains' online sample weights, as fractions of the rows."""
        return self._of_domains("sample_ess")

    def _of_domains(self, kind: str) -> np.ndarray:
        """Return the columns `kind`.NAME of the domains as an array (S, D); NaN where the record lacks them."""
        return self.frame.reindex(columns=[f"{kind}.{name}" for name in self.domains]).to_numpy(dtype=np.float64)

    @property
    def step_alignments(self) -> np.ndarray:
        """Return the alignments (S, 2, D) by the grams of single steps, with non-targets (0) and with targets (1)."""
        return np.stack([self._of_domains(kind) for kind in STEP_ALIGNMENTS], axis=1)

    @cached_property
    def grams(self) -> np.ndarray:
        """Return the grams (S, G, G), NaN where none is kept; takes 8 * S * G * G bytes at the first use."""
        grams = np.full((len(self.frame), len(self.groups), len(self.groups)), np.nan)
        for place, gram in self.measured_grams():
            grams[place] = gram
        return grams

    def measured_grams(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the step, from 0, and the gram (G, G) of every step whose gram was measured and kept.

        Only one part is in memory at a time. A pass to the end also keeps `gram_blocks`, so that a run's grams, which
        can be gigabytes, are not read twice.
        """
        blocks = GramBlocks(self.self_products)
        for part in self.parts:
            for place, gram in _part_grams(part, len(self.groups)):
                blocks.add(place, gram)
                yield place, gram
        self._blocks[:] = [blocks.means()]

    @property
    def gram_blocks(self) -> np.ndarray:
        """Return means (B, G, G) of the gram over blocks of steps (`mixtures.run.grams`); reads the grams once."""
        if not self._blocks:
            for _ in self.measured_grams():
                pass
        return self._blocks[0]


def read_trajectory(run_dir: str | Path, *, run_id: str | None = None) -> Trajectory:
    """Read the whole trajectory of a run; `run_id` is the run's id, which config.yaml gives if it is left out.

    Raises UserError, naming the file and what to do, for a run without trajectory, a torn or damaged part, a gap or an
    overlap between parts, and parts of different runs.
    """
    directory = Path(run_dir) / "trajectory"
    parts = list_parts(directory, run_id=run_id or read_run_id(run_dir))
    if not parts:
        raise UserError(
            f"{run_dir} has no trajectory: {absence(directory)}; give a run directory that `proxies.train` wrote "
            "(it writes a part at every checkpoint and at the end)"
        )
    tables, names, expected = [], None, 1
    for part in parts:
        if part.first != expected:
            fault = f"steps {expected} to {part.first - 1} are missing" if part.first > expected else "steps overlap"
            raise UserError(f"{part.path} starts at step {part.first}, expected step {expected}: {fault}; {REMEDY}")
        table = read_part(part, lambda name: name != "gram")
        described = _described(part, table)
        if names is not None and described != names:
            raise UserError(
                f"{part.path} has groups {described[1]}, the parts before it {names[1]}: they are of different runs; "
                f"{REMEDY}"
            )
        if table["step"].to_pylist() != list(range(part.first, part.last + 1)):
            raise UserError(f"{part.path} does not hold every step from {part.first} to {part.last} once; {REMEDY}")
        names, expected = described, part.last + 1
        tables.append(table)
    assert names is not None
    return Trajectory(
        tuple(names[0]), tuple(names[1]), pa.concat_tables(tables, promote_options="default").to_pandas(), tuple(parts)
    )


def _trajectory_schema(domains: list[str], groups: list[str]) -> pa.Schema:
    """Return the columns of a trajectory's part; the metadata names groups, domains and format."""
    per_domain = [f"{kind}.{name}" for kind in ("weight", "alignment") for name in domains]
    later = [f"{kind}.{name}" for kind in ("sample_spread", "sample_ess", *STEP_ALIGNMENTS) for name in domains]
    per_group = [f"{kind}.{name}" for kind in ("loss", "norm", "self_product") for name in groups]
    fields = [("step", pa.int64()), ("tokens", pa.int64())]
    fields += [(name, pa.float64()) for name in [*SCALARS, *per_domain, *per_group, *later]]
    fields += [("gram", pa.list_(pa.float32()))]
    return pa.schema(fields, metadata={"doge": json.dumps({"groups": groups, "domains": domains, "format": FORMAT})})


def _described(part: Part, table: pa.Table) -> tuple[list[str], list[str]]:
    """Return (domains, groups) that a part was written for."""
    try:
        record = json.loads((table.schema.metadata or {})[b"doge"])
        domains, groups, version = record["domains"], record["groups"], record["format"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{part.path} does not name its groups: it was not written by a run; {REMEDY}") from error
    if version not in (FULL_GRAMS, FORMAT):
        raise UserError(
            f"{part.path} has format {version}; known: {FULL_GRAMS}, {FORMAT}; read it with the version that wrote it"
        )
    return domains, groups


def _gram_array(gram: np.ndarray | None, kind: pa.ListType) -> pa.Array:
    """Return a column of one row that holds a gram as it is written, in the same memory."""
    if gram is None:
        return pa.nulls(1, kind)
    return pa.ListArray.from_arrays(pa.array([0, len(gram)], pa.int32()), pa.array(gram))


def _part_grams(part: Part, groups: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the step, from 0, and the gram (G, G) of every row of a part that has one."""
    for row, gram in enumerate(read_part(part, lambda name: name == "gram")["gram"]):
        if gram.is_valid:
            values = gram.values.to_numpy(zero_copy_only=False)
            whole = len(values) == groups**2  # FULL_GRAMS
            yield part.first - 1 + row, values.reshape(groups, groups) if whole else unpacked(values, groups)
