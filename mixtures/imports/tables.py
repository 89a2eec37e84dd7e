"""One mixture from a file of this package or of another program.

What is read (by suffix, then by content):

    .json   mixture.json of this package (a staged one becomes its average over the tokens, with a warning)
            DoReMi's domain config {"train_domain_weights": {name: share}, ...}
            Olmix's proposal [{"domain": name, "weight": share}, ...]
            {name: share}, or a list of such objects, one per mixture
    .csv    ratios of RegMix and Olmix: a header of domain names, one row per mixture

In rows the columns index, run, run_id, name and the unnamed one of pandas say which row it is; all others are domains.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mixtures.errors import UserError
from mixtures.files import read_json
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.shares import LABELS, ROUNDING, checked_shares, matched_shares

DOREMI = "train_domain_weights"
COMMENT = "#"  # begins a line of CSV that is left out
RESTORE = "it is truncated or damaged: write it again, or restore it from a copy"
FORMATS = (
    'mixture.json, {"name": share}, DoReMi\'s {"train_domain_weights": {...}}, Olmix\'s [{"domain": name, "weight": '
    "share}], "
    "a list of {name: share}, or a .csv with a header of domain names"
)


class Row(NamedTuple):
    """One mixture as it stands in a file, its values not checked yet."""

    where: str
    labels: dict[str, str]
    values: Mapping[str, Any]


def read_shares(
    path: str | Path, *, names: Sequence[str] | None = None, row: int | str | None = None
) -> dict[str, float]:
    """Read {domain: share of trained tokens}, sum 1, from the file `path`; this module's docstring lists the formats.

    names: the domains that the shares must be for, no more and no fewer; the result is in their order (None: the file's
    names and order). RegMix's prefix `train_` is dropped where the names match only without it. row: which of several
    mixtures, by the value of a label column, or by position from 0 where no label column holds numbers. Shares that sum
    to 1 within 0.01 are normalised.

    Raises UserError for a file that is damaged or of another format, a row that is not there, shares that are no
    mixture, and domains that do not match.
    """
    chosen = _choose(read_rows(Path(path)), row, Path(path))
    shares = checked_shares(chosen.values, where=chosen.where, tolerance=ROUNDING)
    return shares if names is None else matched_shares(shares, names, where=chosen.where)


def read_rows(path: Path) -> list[Row]:
    """Return all mixtures in a file, in its order. Raises UserError for a file that is damaged or of another format."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv"):
        raise UserError(f"{path} ends in {suffix or 'no suffix'!r}; allowed: .json, .csv; holding {FORMATS}")
    return csv_rows(path) if suffix == ".csv" else _json_rows(read_json(path), str(path))


def _json_rows(record: Any, where: str) -> list[Row]:
    """Return the mixtures in parsed JSON."""
    if isinstance(record, dict) and isinstance(record.get("kind"), str):
        return [Row(where, {}, _average(Mixture.from_record(record, where=where), where))]
    if isinstance(record, dict) and isinstance(record.get(DOREMI), dict):
        return [Row(f"{where}, {DOREMI}", {}, record[DOREMI])]
    if isinstance(record, dict) and record:
        return [Row(where, {}, record)]
    if isinstance(record, list) and record and all(isinstance(item, dict) and item for item in record):
        if all(isinstance(item.get("domain"), str) and "weight" in item for item in record):
            _refuse_twice([str(item["domain"]) for item in record], where)
            return [Row(where, {}, {str(item["domain"]): item["weight"] for item in record})]
        return [_row(item, f"{where}, item {position}") for position, item in enumerate(record)]
    raise UserError(f"{where} holds no mixture; give {FORMATS}")


def csv_rows(path: Path) -> list[Row]:
    """Return the lines of a CSV file under its header: label columns as text, other cells as numbers if they are.

    Raises UserError for a file that is missing, damaged or without a row, and for a repeated column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = _without_comments(
                [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
            )
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not complete CSV: {error}; {RESTORE}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a CSV file") from error
    if len(lines) < 2:
        raise UserError(f"{path} has no row under its header; {RESTORE}")
    header = lines[0][1]
    if all(name in LABELS or isinstance(_number(name), float) for name in header) and any(
        "." in name for name in header
    ):
        raise UserError(
            f"{path}, line {lines[0][0]}: {some(header)} are no names of domains; begin the file with a line of names"
        )
    _refuse_twice(header, f"{path}, line {lines[0][0]}")
    if torn := [f"line {number} has {len(cells)}" for number, cells in lines if len(cells) != len(header)]:
        raise UserError(f"{path}: the header has {len(header)} columns, {some(torn)}; {RESTORE}")
    return [
        _row(
            {name: cell if name in LABELS else _number(cell) for name, cell in zip(header, cells, strict=True)},
            f"{path}, line {number}",
        )
        for number, cells in lines[1:]
    ]


def _without_comments(lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Return the lines without comments: those that begin with `#` before the header, or are not as long as it."""
    header = next((number for number, (_, cells) in enumerate(lines) if not cells[0].startswith(COMMENT)), len(lines))
    length = len(lines[header][1]) if header < len(lines) else 0
    return [line for line in lines[header:] if not line[1][0].startswith(COMMENT) or len(line[1]) == length]


def _row(cells: Mapping[str, Any], where: str) -> Row:
    labels = {name: str(cells[name]) for name in LABELS if name in cells}
    return Row(where, labels, {name: value for name, value in cells.items() if name not in LABELS})


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _average(mixture: Mixture, where: str) -> dict[str, float]:
    """Return the mixture's weights, averaged over the tokens of its stages; warn where there are several stages."""
    if len(mixture.stages) > 1:
        warnings.warn(f"{where} has {len(mixture.stages)} stages; their average over its tokens is taken", stacklevel=5)
    return mixture.average_weights()


def _choose(rows: list[Row], row: int | str | None, path: Path) -> Row:
    """Return the row that `row` names by a label, or by position if no label column is numbers; None: the only row."""
    columns: dict[str, list[str]] = {}
    for label in dict.fromkeys(label for candidate in rows for label in candidate.labels):
        columns[label or "first column"] = [candidate.labels.get(label, "") for candidate in rows]
    if not any(all(value.isdecimal() for value in values) for values in columns.values()):
        columns["position"] = [str(number) for number in range(len(rows))]
    choices = "; ".join(f"{name}: {some(values)}" for name, values in columns.items())
    if row is None:
        if len(rows) > 1:
            raise UserError(f"{path} holds {len(rows)} mixtures; say which one with row, by {choices}")
        return rows[0]
    matches = [number for number in range(len(rows)) if any(values[number] == str(row) for values in columns.values())]
    if len(matches) != 1:
        several = (
            f"is {len(matches)} mixtures, {some([rows[number].where for number in matches])}"
            if matches
            else "is not there"
        )
        raise UserError(f"{path}: row {row} {several}; there are {len(rows)} mixtures, by {choices}")
    return rows[matches[0]]


def _refuse_twice(names: Sequence[str], where: str) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{where} gives {', '.join(twice)} twice; keep one of them")


def some(values: Sequence[str], most: int = 6) -> str:
    """Join values for a message: all of them, or the first `most` - 1 and the last one."""
    return ", ".join(values) if len(values) <= most else f"{', '.join(values[: most - 1])}, ... {values[-1]}"
