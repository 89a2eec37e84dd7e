"""docs/trainers.md from the table of formats: `python -m mixtures.convert.docs docs/trainers.md`; a test compares."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files

from mixtures.convert.formats import MODULES, all_formats
from mixtures.convert.listing import HEADER, cells
from mixtures.convert.table import OPTIONS, Format, flag
from mixtures.files import write_atomic

WORDS = files("mixtures.convert.formats") / "templates" / "trainers.md"
TABLE, FORMATS = "<!-- table -->\n", "<!-- formats -->\n"


def docs_text() -> str:
    """The page: what is written by hand, the table, and a section for each format."""
    forms = all_formats()
    rows = [[name, form.trainers, *rest] for form in forms for name, *rest in [cells(form)]]
    table = _table([HEADER[0], "trainers", *HEADER[1:]], rows)
    return WORDS.read_text(encoding="utf-8").replace(TABLE, table).replace(FORMATS, "\n".join(_section(form) for form in forms))


def _section(form: Format) -> str:
    """What its file says of it, its options and limits, and how it was tested."""
    facts = [f"`{flag(name)} {OPTIONS[name].metavar}`: {OPTIONS[name].help}" for name in form.options]
    facts += ["`--packed`: the data are rows of one length, and a weight is a share of these"] if form.packable else []
    facts += [f"at most {form.most_domains:,} domains"] if form.most_domains else []
    facts += [f"no {_characters(form.splits_on)} in a path"] if form.splits_on else []
    facts += [f"tested: {form.tested}"]
    about = (import_module(f"mixtures.convert.formats.{MODULES[form.name]}").__doc__ or "").strip()
    return "\n".join([f"### {form.name}", about, "", *(f"- {fact}" for fact in facts), ""])


def _characters(splits_on: str) -> str:
    return " or ".join(
        [*(["white space"] if splits_on.split() != [splits_on] else []), *(f"`{mark}`" for mark in "".join(splits_on.split()))]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    write_atomic(sys.argv[1], docs_text())
    print(f"wrote {sys.argv[1]}")
