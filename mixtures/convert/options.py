"""The options of single formats on the command line, and how their words are read."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
