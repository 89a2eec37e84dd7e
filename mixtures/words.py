"""Numbers from the words of a command line."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from mixtures.errors import UserError
from mixtures.schedule.records import EVERY

Number = TypeVar("Number", int, float)


def parse_tokens(text: str) -> int:
    """Tokens from `300e9`, `300B`, `1.5T`, `20M`, `64k` or digits. Raises UserError for anything else."""
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)\s*([kmbt]?)", text.strip(), re.IGNORECASE)
    if match:
        number = float(re.sub("[_,]", "", match[1])) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[2].lower()]
        if number >= 1 and abs(number - round(number)) < 1e-6 * number:
            return round(number)
    raise UserError(f"{text!r} is no number of tokens; give a positive whole number such as 300e9, 300B, 1.5T, 20M or 64k")


def read_words(words: Sequence[str] | None, *, flag: str, read: Callable[[str], Number]) -> dict[str, Number]:
    """`["4", "wiki=2"]` -> `{"*": 4, "wiki": 2}`. Raises UserError listing what is no number and what is given twice."""
    pairs = [word.rpartition("=")[::2] for word in words or []]
    values, faults = {}, []
    for name, text in pairs:
        try:
            values[name or EVERY] = read(text)
        except ValueError as error:
            reason = str(error) if isinstance(error, UserError) else f"{text!r} is no number"
            faults.append(f"{name}: {reason}" if name else f"{reason}; give NUMBER for all domains or NAME=NUMBER for one")
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            faults.append(f"{name or 'the number for all domains'} is given {times} times; give it once")
    if faults:
        raise UserError("\n".join(f"{flag}: {fault}" for fault in faults))
    return values
