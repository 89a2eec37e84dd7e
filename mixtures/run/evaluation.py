"""A run's record of its held-out losses, in long form: one row per domain and evaluation."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from mixtures.errors import UserError
from mixtures.run.parts import absence, list_parts, read_part, truncate_parts, write_part
from mixtures.sums import read_run_id

EVALUATION = pa.schema(
    {name: pa.int64() for name in ("step", "tokens", "held_out_tokens")}
    | {"domain": pa.string(), "loss": pa.float64(), "bits_per_byte": pa.float64()}
)


class EvaluationWriter:
    """Appends held-out losses to the parts in `directory` (a run's `evaluation/`), one part per flush."""

    def __init__(self, directory: str | Path, *, run_id: str | None = None) -> None:
        self.directory, self.run_id = Path(directory), run_id
        self._rows: list[dict[str, Any]] = []

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Buffer the rows of one evaluation, one per domain, each with every column of EVALUATION."""
        new = [dict(row) for row in rows]
        assert all(set(row) == set(EVALUATION.names) for row in new), f"every row has {', '.join(EVALUATION.names)}"
        self._rows += new

    def flush(self) -> None:
        """Write the buffered rows, if there are any, as one part, atomically."""
        if self._rows:
            write_part(self.directory, pa.Table.from_pylist(self._rows, schema=EVALUATION), run_id=self.run_id)
            self._rows.clear()

    def truncate(self, step: int) -> None:
        """Remove every row after `step`, on disk and buffered; a negative step removes all.

        Raises UserError where the record of a run with an id is lost: it then holds losses from step 0 on.
        """
        self._rows = [row for row in self._rows if row["step"] <= step]
        truncate_parts(self.directory, step, run_id=self.run_id)
        if step >= 0 and self.run_id is not None and not list_parts(self.directory, run_id=self.run_id):
            raise UserError(f"the held-out losses are lost: {absence(self.directory)}; restore them from a copy")


def read_evaluation(run_dir: str | Path, *, run_id: str | None = None) -> pd.DataFrame:
    """Read held-out losses in long form: step, tokens, domain, loss (nats per token), bits_per_byte, held_out_tokens.

    The table is empty, with these columns, for a run of an earlier version without evaluation. `run_id` is the run's
    id, which config.yaml gives if it is left out. Raises UserError for a torn or damaged part, for parts of another
    run, and where the record of a run with an id is lost.
    """
    directory, run_id = Path(run_dir) / "evaluation", run_id or read_run_id(run_dir)
    tables = [read_part(part) for part in list_parts(directory, run_id=run_id)]
    if run_id is not None and not tables:
        raise UserError(f"the held-out losses are lost: {absence(directory)}; restore them from a copy")
    return pa.concat_tables(tables).to_pandas() if tables else EVALUATION.empty_table().to_pandas()
