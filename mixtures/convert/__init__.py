"""Conversion of a mixture.json into the files of a trainer.

conversion  convert: the whole way from a mixture to a directory of files
options     words of the command line as values, and the options of single formats
table       Format: what a trainer counts in, what it accepts, and the function that writes its files
formats/    the formats, one file per trainer (Megatron: a folder)
job         what a format's writer gets (Job) and what it returns (Output)
lengths     trained tokens per document: from shares of tokens to shares of documents; sample policies
paths       where the data of every domain are
steps       from tokens to training steps
rows        rows of files that every stage reads, for trainers that take rows instead of shares
sources     what the files hold of the proxy's text: documents that it held out, the column of the text
simulate    what the trainer will really do: shares and epochs
report      export_report.json
docs        the table of formats as text, and docs/trainers.md

>>> from mixtures.convert import convert
>>> print(convert("mixture.json", to="hf", output="for_hf").text)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixtures.convert.conversion import convert
    from mixtures.convert.report import Report

__all__ = ["Report", "convert"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `mixtures --help` does not wait for pydantic."""
    if name == "convert":
        from mixtures.convert.conversion import convert

        return convert
    if name == "Report":
        from mixtures.convert.report import Report

        return Report
    raise AttributeError(f"module 'mixtures.convert' has no attribute {name!r}")
