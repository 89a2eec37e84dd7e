"""UserError, the exception for wrong input, and how messages show values that they quote."""

import re
import reprlib
from collections.abc import Sequence

NAMED = 3  # names that a sentence lists of many
NOTHING = object()
# Characters that move the cursor, change colours or reorder text in a terminal, and halves of characters, which no
# output can encode; line breaks and tabs stay.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """Wrong input; the message says what was found, where, what is allowed, and what to do.

    Commands print the message and exit with code 2, without a traceback. One message lists all faults that were found
    together.
    """


class _Short(reprlib.Repr):
    """A `repr` that looks only at the beginning of large values: a few aliases in YAML stand for millions of items."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = most

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits, or how long the number is: Python refuses to write more than 4,300 digits."""
        return repr(value) if abs(value) < 10**40 else f"a number of about {value.bit_length() * 3 // 10:,} digits"


def quoted(value: object, most: int = 80) -> str:
    """Return how a message shows a value that it quotes: its `repr`, in at most about `most` characters."""
    return clipped(_Short(most).repr(value), most)


def clipped(text: str, most: int = 80, mark: str = "...") -> str:
    """Return the text; if it is longer than `most`, its middle is replaced by `mark`, since ends tell texts apart."""
    keep = most - len(mark)
    return text if len(text) <= most else f"{text[: keep - keep // 2]}{mark}{text[len(text) - keep // 2 :]}"


def printable(text: str) -> str:
    r"""Return the text with its control characters written out, as `\x1b`, so that a terminal does not obey them."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return the text in one printable line, as for a name that may hold any text."""
    return printable(" ".join(text.split()))


def grouped(faults: Sequence[tuple[str, str, object]]) -> list[str]:
    """Return one sentence per fault, or one for many places with an equal fault, with the value found at the first.

    faults: (place, or "" for none; what is wrong there; the value found there, or NOTHING to show none).
    """
    alike: dict[str, list[tuple[str, object]]] = {}
    for place, sentence, found in faults:
        alike.setdefault(sentence, []).append((place, found))
    lines = []
    for sentence, places in alike.items():
        groups = [places] if len(places) > NAMED + 1 else [[one] for one in places]
        for group in groups:
            place, found = some([place for place, _ in group]), group[0][1]
            first = " at the first" if len(group) > 1 else ""
            shown = "" if found is NOTHING else f" (found {quoted(found)}{first})"
            lines.append(f"{place}: {sentence}{shown}" if place else f"{sentence}{shown}")
    return lines


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the names in a list; of many, the first `most` and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most + 1 else ""
    return ", ".join(names[:most] if more else names) + more
