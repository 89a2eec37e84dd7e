"""replicates.parquet of a run: its average weights if its steps had been drawn again, one row per bootstrap replicate.

Columns `weight.NAME`, one per training domain, in the run's order; every row sums to 1. Steps are drawn in blocks,
because neighbouring steps are not independent. Runs of earlier versions, and of rules whose weights depend on the order
of the steps, have no such file.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.sums import add_sums, require_whole

NAME = "replicates.parquet"
PREFIX = "weight."
TOLERANCE = 1e-6  # how far a row may sum from 1
REMEDY = "restore it from a copy, or remove it to go on without the intervals that it gives"


def write_replicates(path: str | Path, names: Sequence[str], weights: np.ndarray, *, run_id: str | None = None) -> None:
    """Write replicates (R, D) of the average weights of the domains `names` (D,) as the file `path`, in one step.

    run_id: id of the run in whose directory they are (`mixtures.sums`); None: they are not checked when they are read.
    """
    weights = np.asarray(weights, dtype=np.float64)
    assert weights.ndim == 2, f"replicates are (R, D), found shape {weights.shape}"
    assert weights.shape[1] == len(names), f"{weights.shape[1]} columns, {len(names)} domains"
    assert (fault := _fault(weights)) is None, fault
    columns = {f"{PREFIX}{name}": column for name, column in zip(names, weights.T, strict=True)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())
    add_sums(Path(path).parent, [Path(path).name], run_id=run_id)


def read_replicates(
    run_dir: str | Path, names: Sequence[str] | None = None, *, run_id: str | None = None
) -> np.ndarray | None:
    """Read a run's replicates (R, D) of its average weights; None where it has none.

    Domains are in the run's order, or in the order of `names`. Raises UserError, naming the file and what to do, for a
    file that is torn, is about other domains than `names`, has rows that are no mixtures, or, in a run with an id,
    is not the one that was written.
    """
    path = Path(run_dir) / NAME
    if not path.is_file():
        return None
    require_whole(path, run_id=run_id, remedy=REMEDY)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: it is torn or damaged ({str(error).splitlines()[0]}); {REMEDY}"
        ) from error
    recorded = [column.removeprefix(PREFIX) for column in table.column_names if column.startswith(PREFIX)]
    names = recorded if names is None else list(names)
    if not recorded or sorted(recorded) != sorted(names):
        raise UserError(
            f"{path} has weights of {', '.join(recorded) or 'no domain'}, the run's domains are {', '.join(names)}; "
            f"{REMEDY}"
        )
    weights = np.column_stack([table[f"{PREFIX}{name}"].to_numpy().astype(np.float64) for name in names])
    if (fault := _fault(weights)) is not None:
        raise UserError(f"{path}: {fault}; {REMEDY}")
    return weights


def _fault(weights: np.ndarray) -> str | None:
    """Return what keeps the rows from being mixtures; None where nothing does."""
    if len(weights) < 2:
        return f"it has {len(weights)} rows; two or more say how the weights vary"
    bad = ~(weights >= 0).all(axis=1) | ~(np.abs(weights.sum(axis=1) - 1) <= TOLERANCE)  # also NaN
    row = int(bad.argmax())
    return (
        f"row {row + 1} is no mixture: weights sum to {weights[row].sum():.9g}, least {weights[row].min():.3g}"
        if bad.any()
        else None
    )
