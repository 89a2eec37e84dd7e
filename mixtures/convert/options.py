"""Words of `convert` and `import` on the command line as values, and the options of single formats."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixtures.errors import UserError, quoted
from mixtures.text import EVERY, parse_tokens

STAGES = ("keep", "average")  # values of --stages: what becomes of the stages
SAMPLES = ("keep", "multiplicity", "drop")  # values of --samples: what becomes of sample weights
DOMAIN = "{domain}"  # stands for the domain's name in a pattern


@dataclass(frozen=True)
class Option:
    """A flag that only some formats take, for example `--block-size 1024`.

    read: turns the flag's word into its value; raises ValueError for a word that is not allowed.
    """

    help: str
    read: Callable[[str], Any] = str
    metavar: str = "N"


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a reader that accepts only the words `allowed`."""

    def read(word: str) -> str:
        if word not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return word

    return read


def whole(word: str) -> int:
    """Read a positive whole number. Raises ValueError for anything else."""
    if not word.isdecimal() or int(word) < 1:
        raise ValueError("give a positive whole number")
    return int(word)


def read_option(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Turn a reader into a `type` for argparse that shows the ValueError's message to the user."""

    def convert(word: str) -> Any:
        try:
            return read(word)
        except ValueError as error:
            raise ArgumentTypeError(f"{quoted(word)}: {error}") from None

    return convert


def flag(name: str) -> str:
    """Return the flag of an option: `block_size` -> `--block-size`."""
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
            faults.append(f"{flag}: {quoted(word)} is neither a pattern with {DOMAIN} nor NAME=PATH")
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
        "sequences per block of the mixture (default: 2048, or what the weights and stages need)", whole, "SEQUENCES"
    ),
    "tokenizer": Option(
        "name or directory from which the trainer loads the tokenizer (default: its name in the mixture)", str, "NAME"
    ),
    "column": Option(
        "column of the data that holds the text (default: as in the proxy's corpus, else text)", str, "NAME"
    ),
    "recipe": Option(
        "the trainer's YAML file to put the blocks into; all else in it stays (default: the blocks alone)", str, "FILE"
    ),
    "ranks": Option(
        "number of data-parallel ranks, to check that they can share the files of every domain", whole, "RANKS"
    ),
    "sampling": Option(
        "how often domains are read: as the mixture says (mixture, the default), or by the size of their text, with "
        "their losses weighed instead (text)",
        one_of("mixture", "text"),
        "WHICH",
    ),
    "release": Option(
        "release of the trainer: 0.3 (default), or head, the code after it", one_of("0.3", "head"), "RELEASE"
    ),
}
