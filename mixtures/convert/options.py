"""How the words of `convert` and `import` on the command line become values, and the options of single formats."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixtures.errors import UserError
from mixtures.text import EVERY, parse_tokens

STAGES = ("keep", "average")  # what becomes of the stages
SAMPLES = ("keep", "multiplicity", "drop")  # what becomes of sample weights
DOMAIN = "{domain}"  # in a pattern: the domain's name


@dataclass(frozen=True)
class Option:
    """A flag that only some formats take: `--block-size 1024`. read: its word -> its value, ValueError for what is
    none.
    """

    help: str
    read: Callable[[str], Any] = str
    metavar: str = "N"


def one_of(*allowed: str) -> Callable[[str], str]:
    """Reads one of some words."""

    def read(word: str) -> str:
        if word not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return word

    return read


def whole(word: str) -> int:
    """Reads a positive whole number."""
    if not word.isdecimal() or int(word) < 1:
        raise ValueError("give a positive whole number")
    return int(word)


def read_option(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse: what `read` says of a word that it refuses becomes the message."""

    def convert(word: str) -> Any:
        try:
            return read(word)
        except ValueError as error:
            raise ArgumentTypeError(f"{word!r}: {error}") from None

    return convert


def flag(name: str) -> str:
    """`block_size` -> `--block-size`."""
    return f"--{name.replace('_', '-')}"


def parse_places(words: Sequence[str], *, flag: str = "--data") -> dict[str, list[str]]:
    """Return {domain: paths} from `NAME=PATH` words; patterns with `{domain}` stand under `*`, for all other domains.

    Raises UserError listing every word that is neither.
    """
    places: dict[str, list[str]] = {}
    faults = []
    for word in words:
        name, equals, path = (EVERY, "=", word) if DOMAIN in word else word.partition("=")
        if equals and path:
            places.setdefault(name, []).append(path)
        else:
            faults.append(f"{flag}: {word!r} is neither a pattern with {DOMAIN} nor NAME=PATH")
    if faults:
        raise UserError("\n".join(faults))
    return places


def parse_batch_size(words: Sequence[str]) -> int | dict[int, int] | None:
    """Return `["512"]` as 512, and `["0=256", "4B=512"]` as {first token: sequences per step}; None for no words.

    Raises UserError for anything else.
    """
    sizes: dict[int, int] = {}
    for word in words:
        start, _, size = word.rpartition("=")
        if not size.isdecimal() or int(size) < 1:
            raise UserError(
                f"--batch-size {word}: give sequences a step as 512, or a schedule as 0=256 4B=512 "
                "(FROM_TOKENS=SEQUENCES)"
            )
        first = 0 if start in ("", "0") else parse_tokens(start)
        if first in sizes:
            raise UserError(f"--batch-size gives two sizes from {first:,} tokens on; give one")
        sizes[first] = int(size)
    return sizes[0] if list(sizes) == [0] else sizes or None


OPTIONS: dict[str, Option] = {
    "unit": Option(
        "what a weight is a share of: token (default), sequence or document",
        one_of("token", "sequence", "document"),
        "UNIT",
    ),
    "block_size": Option(
        "sequences in a block of the mixture (default: 2048, or what the weights and stages need)", whole, "SEQUENCES"
    ),
    "tokenizer": Option(
        "what the trainer is to load as tokenizer: a name or directory (default: the mixture's name of it)", str, "NAME"
    ),
    "column": Option("column of the data that holds the text (default: text)", str, "NAME"),
    "recipe": Option(
        "the trainer's YAML that the blocks are put into, nothing else changed (default: the blocks alone)", str, "FILE"
    ),
    "ranks": Option("data-parallel ranks of the run, to check what they can share", whole, "RANKS"),
    "sampling": Option(
        "how often domains are read: as the mixture says (default), or as large as their text is, their losses "
        "weighed instead",
        one_of("mixture", "text"),
        "WHICH",
    ),
    "release": Option("of the trainer: 0.3 (default) or head, what came after it", one_of("0.3", "head"), "RELEASE"),
}
