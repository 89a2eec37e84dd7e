"""The table of formats, as text."""

from mixtures.convert.formats import all_formats
from mixtures.convert.table import Format
from mixtures.text import table

HEADER = ("format", "unit", "stages", "zero weights", "sum to 1", "at the end", "caps", "samples")


def cells(form: Format) -> list[str]:
    """A format's line, in the order of HEADER."""
    unit = f"{form.unit} (--packed: sequence)" if form.packable else form.unit
    summing = "must" if form.sums_to_one else "any"
    return [form.name, unit, form.stages, form.zero_weights, summing, form.exhausted, form.caps, ", ".join(form.samples) or "refused"]


def list_text() -> str:
    """What `mixtures convert --list` prints."""
    forms = all_formats()
    readers = [f"{form.name}: {form.trainers}; tested: {form.tested}" for form in forms]
    return "\n".join([table(HEADER, [cells(form) for form in forms]), "", *readers])
