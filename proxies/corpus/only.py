"""The setting `only`: the lines of a file that a domain takes, by the values of their fields."""

import datetime
import difflib
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixtures.errors import UserError, quoted

MISSING = object()
LISTED = 10  # most values in a message
LETTERS = 60  # most letters of a value in a message
KEPT = 10_000  # most values of one field that are counted


def conditions(given: Any) -> Any:
    """Return {field: values as text} of the setting as it was written: fields may be nested, a value may stand alone.

    Raises ValueError for what is no condition on a field.
    """
    if not isinstance(given, Mapping):
        raise ValueError("is not a block of fields and values; write it as {meta.source: books}")
    found: dict[str, list[str]] = {}
    for field, wanted in _flat(given):
        if field in found:
            raise ValueError(f"the field {field} is given twice; keep one of them")
        values = wanted if isinstance(wanted, list | tuple) else [wanted]
        if not values or any(not isinstance(value, str | int | float | datetime.date) for value in values):
            raise ValueError(
                f"{field} asks for {quoted(wanted)}; give text, a number, true or false, or a list of these "
                f"(`null` and `~` "
                "without quotes are no text)"
            )
        found[field] = list(map(as_text, values))
    return found


def _flat(block: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, inner in block.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def as_text(value: Any) -> str:
    """Return a value as text, as JSON writes it: 3, true, null; text and dates stay what they are."""
    if isinstance(value, str | datetime.date):
        return str(value)
    return json.dumps(value) if value is None or isinstance(value, bool | int | float) else reprlib.repr(value)


def field_of(record: Any, field: str) -> Any:
    """Return the value of a field such as `meta.source`, MISSING if a record lacks it.

    A name with dots is taken as a whole first; then its dots lead into nested objects.
    """
    if not isinstance(record, Mapping):
        return MISSING
    if field in record:
        return record[field]
    for place, character in enumerate(field):
        if character == "." and (value := field_of(record.get(field[:place]), field[place + 1 :])) is not MISSING:
            return value
    return MISSING


class Selection:
    """The records that a source takes, and counts of those that were read and taken so far."""

    def __init__(self, only: Mapping[str, Sequence[str]]) -> None:
        self.read = 0
        self.taken = 0
        self._only = {field: frozenset(values) for field, values in only.items()}
        self._found: dict[str, Counter[str]] = {field: Counter() for field in only}

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Say whether a record holds, in every field, one of the values asked for; count it."""
        self.read += 1
        fits = True
        for field, wanted in self._only.items():
            value = field_of(record, field)
            text = "" if value is MISSING else as_text(value)
            fits &= value is not MISSING and text in wanted
            counts, shown = self._found[field], text[:LETTERS]
            if value is not MISSING and (shown in counts or len(counts) < KEPT):
                counts[shown] += 1
        self.taken += fits
        return fits

    def columns(self, place: str, names: Sequence[str]) -> list[str]:
        """Return the columns of a table that are needed to decide. Raises UserError for a field of no column."""
        needed = []
        for field in self._only:
            steps = field.split(".")
            starts = [".".join(steps[:count]) for count in range(len(steps), 0, -1)]
            if not (columns := [start for start in starts if start in names]):
                raise UserError(
                    f"{place}: no column {quoted(steps[0])}, which `only` asks for; its columns: "
                    f"{', '.join(names)}; name a "
                    "field that it has"
                )
            needed += columns
        return list(dict.fromkeys(needed))

    def refuse_none(self, name: str) -> None:
        """Raise UserError if records were read and none of them was taken; it lists the values that were found."""
        if not self.read or self.taken:
            return
        wanted = ", ".join(f"{field} {' or '.join(map(repr, sorted(values)))}" for field, values in self._only.items())
        found = "; ".join(self._listed(field) for field in self._only)
        raise UserError(
            f"{name}: `only` asks for {wanted}, and none of the {self.read:,} lines matches; {found}; give values that "
            "are there"
        )

    def _listed(self, field: str) -> str:
        """Return the values that were found in a field, the nearest ones to what is asked for first."""
        counts = self._found[field]
        if not counts:
            return f"no line has the field {field}"
        near = [hit for value in sorted(self._only[field]) for hit in difflib.get_close_matches(value, counts, n=2)]
        values = list(dict.fromkeys([*near, *(value for value, _ in counts.most_common(LISTED))]))[:LISTED]
        shown = ", ".join(f"{quoted(value)} ({counts[value]:,})" for value in values)
        return f"values of {field}: {shown}{', ...' if len(counts) > len(values) else ''}"
