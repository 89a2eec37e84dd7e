"""A CSV file as lines of fields, every line as long as the header; anything else is refused with its line number."""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from mixtures.errors import UserError

REMEDY = (
    "write each text that holds commas, quotes or line breaks in double quotes, with each quote inside it doubled "
    '("a ""b"", c")'
)


def csv_lines(path: str, text: Iterable[str]) -> Iterator[list[str]]:
    """Yield the fields of the header, then of every line under it; blank lines are left out.

    text: the file's lines with their line breaks. Raises UserError naming file and line (counted from 1, where the
    record begins) for a column name given twice, for a line with more or fewer fields than the header, and for quotes
    that do not fit.
    """
    csv.field_size_limit(sys.maxsize)  # 128 KiB otherwise, and documents are longer
    reader = csv.reader(text, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{line}: no line of CSV: {error}; {REMEDY}") from error
        if not fields or (len(fields) == 1 and fields[0].isspace()):
            continue
        if not header:
            header = fields
            if twice := [name for name, times in Counter(header).items() if name and times > 1]:
                raise UserError(
                    f"{path}:{line}: the header gives {', '.join(map(repr, twice))} twice; give every column a name of "
                    "its own"
                )
        if len(fields) != len(header):
            raise UserError(_torn(f"{path}:{line}", fields, header))
        yield fields


def _torn(place: str, fields: list[str], header: list[str]) -> str:
    """Return the message for a line that is longer or shorter than the header."""
    remedy = REMEDY
    if len(fields) > len(header) and not any(fields[len(header) :]):
        remedy = "remove the commas at the line's end, or name these columns in the header"
    elif len(fields) < len(header):
        remedy = "give every column a field, if need be an empty one"
    count = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
    names = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    return f"{place}: {count}, the header has {len(header)} ({names}); {remedy}"
