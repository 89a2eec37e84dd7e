"""Tables kept as part files `part-FIRST-LAST.parquet`, named by the steps they contain; each is written atomically.

They keep a record that grows with a run: every flush adds one part, a kill loses at most what was not flushed, and a
resume cuts the record back to its checkpoint.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixtures.errors import UserError
from mixtures.files import atomic_file

REMEDY = (
    "restore it from a copy, or remove the parts from here on and continue the run with "
    "`proxies.train --resume` from a checkpoint before that step, or repeat the run in a new run directory"
)


class Part(NamedTuple):
    """A part file and the first and last step that it contains."""

    first: int
    last: int
    path: Path


def list_parts(directory: Path) -> list[Part]:
    """Return the parts in `directory`, sorted by first step; empty where there is no directory.

    Raises UserError for a file whose name is not that of a part.
    """
    names = re.compile(r"part-(\d{8,})-(\d{8,})\.parquet")
    matches = [(names.fullmatch(path.name), path) for path in directory.glob("part-*.parquet")]
    if strange := sorted(path.name for match, path in matches if not match):
        raise UserError(
            f"{directory} holds {', '.join(strange)}; parts are named part-FIRST-LAST.parquet, with steps of 8 digits; "
            "move other files elsewhere"
        )
    return sorted(Part(int(match[1]), int(match[2]), path) for match, path in matches if match)


def write_part(directory: Path, table: pa.Table) -> Part:
    """Write `table` (column `step`, ascending) as one part. Raises OSError on a full disk, leaving nothing behind."""
    first, last = table["step"][0].as_py(), table["step"][-1].as_py()
    part = Part(first, last, directory / f"part-{first:08d}-{last:08d}.parquet")
    with atomic_file(part.path) as file:  # without dictionaries, which hold a column back until it is complete
        pq.write_table(table, file, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return part


def read_part(part: Part, columns: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Read the part's columns whose name `columns` accepts, and `step`; schema metadata included.

    Raises UserError for a torn or damaged file, and for one whose steps are not those in its name.
    """
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            table = file.read([name for name in file.schema_arrow.names if name == "step" or columns(name)])
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{part.path} cannot be read: it is torn or damaged ({reason}); {REMEDY}") from error
    if "step" not in table.column_names or table.num_rows == 0:
        raise UserError(f"{part.path} holds no steps: it is not a part of this record; {REMEDY}")
    ends = pc.min_max(table["step"]).as_py()
    if (ends["min"], ends["max"]) != (part.first, part.last):
        raise UserError(
            f"{part.path} holds steps {ends['min']} to {ends['max']}, its name says {part.first} to {part.last}: "
            f"it was renamed or damaged; {REMEDY}"
        )
    return table


def truncate_parts(directory: Path, step: int) -> None:
    """Remove every row after `step`.

    A part that contains `step` is first written again without the later rows, so that a kill loses nothing.
    """
    for part in reversed(list_parts(directory)):
        if part.last <= step:
            continue
        if part.first <= step:
            table = read_part(part)
            write_part(directory, table.filter(pc.less_equal(table["step"], step)))
        part.path.unlink()
