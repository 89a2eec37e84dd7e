"""Tables kept as part files `part-FIRST-LAST.parquet`, named by the steps they contain; each is written atomically.

They keep a record that grows with a run: every flush adds one part, a kill loses at most what was not flushed, and a
resume cuts the record back to its checkpoint. In a run with an id, `_SHA256SUMS` beside the parts names the finished
ones, and every part is checked when it is read (`mixtures.sums`).
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
from mixtures.sums import NAME, add_sums, fault_of, file_sum, read_sums, write_sums

REMEDY = (
    "restore it from a copy, or remove the parts from here on and continue the run with "
    "`proxies.train --resume` from a checkpoint before that step, or repeat the run in a new run directory"
)


class Part(NamedTuple):
    """A part file, the first and last step that it contains, and its sha256; None where it is not recorded."""

    first: int
    last: int
    path: Path
    digest: str | None = None


def list_parts(directory: Path, *, run_id: str | None = None) -> list[Part]:
    """Return the parts in `directory`, sorted by first step; empty where there is no directory.

    run_id: only the finished parts of this run, those that its `_SHA256SUMS` names. None: every part that is there.

    Raises UserError for a file whose name is not that of a part, and for parts of another run.
    """
    names = re.compile(r"part-(\d{8,})-(\d{8,})\.parquet")
    sums = {} if run_id is None else read_sums(directory, run_id=run_id)
    paths = directory.glob("part-*.parquet") if run_id is None else [directory / name for name in sums]
    matches = [(names.fullmatch(path.name), path) for path in paths]
    if strange := sorted(path.name for match, path in matches if not match):
        raise UserError(
            f"{directory} holds {', '.join(strange)}; parts are named part-FIRST-LAST.parquet, with steps of 8 digits; "
            "move other files elsewhere"
        )
    return sorted(Part(int(match[1]), int(match[2]), path, sums.get(path.name)) for match, path in matches if match)


def absence(directory: Path) -> str:
    """Return in words why `list_parts` found nothing in a directory, for messages."""
    if any(directory.glob("part-*.parquet")):
        return f"{directory} has parts, but none that its {NAME} names: they are unfinished, or of another run"
    return f"{directory} {'is empty' if directory.is_dir() else 'is not there'}"


def write_part(directory: Path, table: pa.Table, *, run_id: str | None = None) -> None:
    """Write `table` (column `step`, ascending) as one part, and then its name into the run's `_SHA256SUMS`.

    Raises OSError on a full disk; the part then does not count as written.
    """
    part = _write_file(directory, table)
    add_sums(directory, [part.path.name], run_id=run_id)


def _write_file(directory: Path, table: pa.Table) -> Part:
    """Write `table` as the file of a part, in one step."""
    first, last = table["step"][0].as_py(), table["step"][-1].as_py()
    part = Part(first, last, directory / f"part-{first:08d}-{last:08d}.parquet")
    with atomic_file(part.path) as file:  # without dictionaries, which hold a column back until it is complete
        pq.write_table(table, file, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return part


def read_part(part: Part, columns: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Read the part's columns whose name `columns` accepts, and `step`; schema metadata included.

    Raises UserError for a file that is not the one in `_SHA256SUMS`, for a torn or damaged file, and for one whose
    steps are not those in its name.
    """
    _require_whole(part)
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            table = file.read([name for name in file.schema_arrow.names if name == "step" or columns(name)])
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
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


def truncate_parts(directory: Path, step: int, *, run_id: str | None = None) -> None:
    """Remove every row after `step`, and the parts that a kill left unfinished.

    A part that contains `step` is first written again without the later rows, so that a kill loses nothing. Raises
    UserError for a part that stays and is damaged.
    """
    kept: dict[str, str | None] = {}
    for part in list_parts(directory, run_id=run_id):
        if part.last > step >= part.first:
            table = read_part(part)
            part = _write_file(directory, table.filter(pc.less_equal(table["step"], step)))
        if part.last <= step:
            _require_whole(part)
            kept[part.path.name] = part.digest
    if run_id is not None:
        sums = {name: digest or file_sum(directory / name) for name, digest in kept.items()}
        write_sums(directory, sums, run_id=run_id)
    for part in list_parts(directory):
        if part.path.name not in kept:
            part.path.unlink()


def _require_whole(part: Part) -> None:
    """Check that a part with a recorded sha256 is the file that was written."""
    if part.digest is not None and (fault := fault_of(part.path, part.digest)):
        raise UserError(f"{part.path} {fault}; {REMEDY}")
