"""The table of formats as text, and docs/trainers.md, which is made from it.

`python -m mixtures.convert.docs docs/trainers.md` writes the page again; a test compares the two.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files

from mixtures.convert.formats import MODULES, all_formats
from mixtures.convert.options import OPTIONS, flag
from mixtures.convert.table import Format
from mixtures.files import write_atomic
from mixtures.text import table

HEADER = ("format", "unit", "stages", "zero weights", "sum to 1", "at the end", "caps", "samples")

WORDS = files("mixtures.convert.formats") / "templates" / "trainers.md"
TABLE, FORMATS = "<!-- table -->\n", "<!-- formats -->\n"


def docs_text() -> str:
    """Return the text of docs/trainers.md: the hand-written part, the table, and one section per format."""
    forms = all_formats()
    rows = [[name, form.trainers, *rest] for form in forms for name, *rest in [cells(form)]]
    table = _table([HEADER[0], "trainers", *HEADER[1:]], rows)
    return (
        WORDS.read_text(encoding="utf-8")
        .replace(TABLE, table)
        .replace(FORMATS, "\n".join(_section(form) for form in forms))
    )


def _section(form: Format) -> str:
    """Return the section of one format: what its module says, its options and limits, and how it was tested."""
    facts = [f"`{flag(name)} {OPTIONS[name].metavar}`: {OPTIONS[name].help}" for name in form.options]
    facts += ["`--packed`: the data are rows of one length, and a weight is a share of these"] if form.packable else []
    facts += [f"at most {form.most_domains:,} domains"] if form.most_domains else []
    facts += [f"no {_characters(form.splits_on)} in a path"] if form.splits_on else []
    facts += [f"tested: {form.tested}"]
    about = (import_module(f"mixtures.convert.formats.{MODULES[form.name]}").__doc__ or "").strip()
    return "\n".join([f"### {form.name}", about, "", *(f"- {fact}" for fact in facts), ""])


def _characters(splits_on: str) -> str:
    return " or ".join(
        [
            *(["white space"] if splits_on.split() != [splits_on] else []),
            *(f"`{mark}`" for mark in "".join(splits_on.split())),
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(form: Format) -> list[str]:
    """Return the cells of a format's row in the table, in the order of HEADER."""
    unit = f"{form.unit} (--packed: sequence)" if form.packable else form.unit
    summing = "must" if form.sums_to_one else "any"
    return [
        form.name,
        unit,
        form.stages,
        form.zero_weights,
        summing,
        form.exhausted,
        form.caps,
        ", ".join(form.samples) or "refused",
    ]


def list_text() -> str:
    """Return the text that `mixtures convert --list` prints."""
    forms = all_formats()
    readers = [f"{form.name}: {form.trainers}; tested: {form.tested}" for form in forms]
    return "\n".join([table(HEADER, [cells(form) for form in forms]), "", *readers])


if __name__ == "__main__":
    write_atomic(sys.argv[1], docs_text())
    print(f"wrote {sys.argv[1]}")
