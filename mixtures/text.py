"""Tables, names and numbers as text for the terminal, at most 100 columns wide."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from mixtures.errors import UserError, clipped, quoted

Number = TypeVar("Number", int, float)

MOST_TOKENS = 2**63  # numbers from here on fit into no table
EVERY = "*"  # name in bounds that stands for every domain that is not named

WIDTH = 100
NAME_WIDTH = 28


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, titles: Sequence[str] = ()) -> str:
    """Return a table as text; columns are as wide as their widest cell, the first to the left, the others to the right.

    titles: for a line above the header, each over an equal number of the columns after the first.
    """
    lines = [[shorten(cells[0]), *cells[1:]] for cells in (header, *rows)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    text = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    ]
    if titles:
        columns_per_title = (len(header) - 1) // len(titles)
        spans = [
            sum(widths[first : first + columns_per_title]) + 2 * (columns_per_title - 1)
            for first in range(1, len(header), columns_per_title)
        ]
        above = [f" {shorten(title, span - 4)} ".center(span, "-") for title, span in zip(titles, spans, strict=True)]
        text.insert(0, "  ".join([" " * widths[0], *above]))
    return "\n".join(text)


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """Return the name; if it is longer than `width`, its middle is replaced by `…`."""
    return clipped(name, width, "…")


def tokens_text(tokens: float) -> str:
    """Return a number of tokens with three digits and a unit: `300 B`, `1.05 M`, `640`."""
    size, unit = token_unit(tokens)
    return f"{tokens / size:#.3g} {unit}".replace(". ", " ") if unit else f"{tokens:.0f}"


def token_unit(tokens: float) -> tuple[float, str]:
    """Return (size, letter) of the unit that fits a number of tokens; (1, "") below a thousand."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    return next((unit for unit in units if tokens >= 0.9995 * unit[0]), (1.0, ""))


def epochs_text(epochs: float) -> str:
    """Return a number of epochs with two decimals (`0.25`, `12.50`), from a thousand on as `1.67 M`."""
    return f"{epochs:.2f}" if epochs < 999.995 else tokens_text(epochs)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def capital(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def parse_tokens(text: str) -> int:
    """Return the tokens that `300e9`, `300B`, `1.5T`, `20M`, `64k` or digits say. Raises UserError for other text."""
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)\s*([kmbt]?)", text.strip(), re.IGNORECASE)
    if match:
        number = (
            float(re.sub("[_,]", "", match[1])) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[2].lower()]
        )
        if 1 <= number < MOST_TOKENS and abs(number - round(number)) < 1e-6 * number:
            return round(number)
    raise UserError(
        f"{quoted(text)} is no number of tokens; give a positive whole number such as 300e9, 300B, 1.5T, 20M or 64k"
    )


def read_words(words: Sequence[str] | None, *, flag: str, read: Callable[[str], Number]) -> dict[str, Number]:
    """Return the numbers of a flag's words by name: `["4", "wiki=2"]` gives `{"*": 4, "wiki": 2}`.

    Raises UserError listing every word that is no number and every name that is given twice.
    """
    pairs = [word.rpartition("=")[::2] for word in words or []]
    values, faults = {}, []
    for name, text in pairs:
        try:
            values[name or EVERY] = read(text)
        except ValueError as error:
            reason = str(error) if isinstance(error, UserError) else f"{quoted(text)} is no number"
            faults.append(
                f"{name}: {reason}" if name else f"{reason}; give NUMBER for all domains or NAME=NUMBER for one"
            )
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            faults.append(f"{name or 'the number for all domains'} is given {times} times; give it once")
    if faults:
        raise UserError("\n".join(f"{flag}: {fault}" for fault in faults))
    return values
