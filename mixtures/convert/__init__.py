"""mixture.json -> the files of a trainer.

    conversion  convert: the line from file to files
    table       Format, Option: what a trainer counts in and accepts; the formats themselves are in formats/, one file
    each
    lengths     trained tokens a document: shares of tokens <-> shares of documents; sample policies
    paths       where the data are
    steps       tokens -> steps
    job         what a format's writer is given; output: what it gives back
    simulate    what the trainer will really do; report: export_report.json

>>> from mixtures.convert import convert
>>> print(convert("mixture.json", to="hf", output="for_hf").text)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixtures.convert.conversion import convert
    from mixtures.convert.report import Report

__all__ = ["Report", "convert"]


def __getattr__(name: str) -> Any:
    """The public names at their first use: `mixtures --help` need not wait for pydantic."""
    if name == "convert":
        from mixtures.convert.conversion import convert

        return convert
    if name == "Report":
        from mixtures.convert.report import Report

        return Report
    raise AttributeError(f"module 'mixtures.convert' has no attribute {name!r}")
