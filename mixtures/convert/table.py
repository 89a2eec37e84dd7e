"""Format: what a trainer's format counts in, what it accepts, and the function that writes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mixtures.convert.job import Job, Output, Unit
from mixtures.convert.options import flag
from mixtures.errors import UserError


def _one_path(path: str) -> Sequence[str]:
    return (path,)


@dataclass(frozen=True)
class Format:
    """A row of the table of formats: what a weight means to the trainer, what the trainer accepts, and the writer."""

    name: str
    trainers: str  # the trainers that read the format
    unit: Unit  # what a weight is a share of in the trainer
    write: Callable[[Job], Output]
    stages: Literal["native", "code", "relaunch"]  # one config, generated Python, or one file per stage
    zero_weights: Literal["kept", "dropped"]  # whether domains with weight 0 are in the files
    sums_to_one: bool  # whether the trainer wants weights with sum 1
    exhausted: Literal["repeats", "stops", "refuses", "-"]  # what the trainer does at the end of a domain's text
    caps: Literal["trainer", "checked here"]  # who refuses to read a domain more often than its max_epochs
    tested: str  # against which version of the trainer, and what of it
    packable: bool = False  # whether --packed is allowed: the data are fixed-length rows, the unit is a sequence
    samples: tuple[str, ...] = ()  # modes of sample policies that are honoured: filter, multiplicity
    options: tuple[str, ...] = ()  # names in OPTIONS that the format takes
    most_domains: int | None = None  # None: no limit
    splits_on: str = ""  # characters that a path must not have, as the trainer splits there
    needs_data: bool = True  # whether the files name the data
    reads: tuple[str, ...] = ()  # formats of the mixture's source files that the trainer reads as they are
    parts: Callable[[str], Sequence[str]] = _one_path  # the files that must be there for a path

    def check_options(self, given: Sequence[str]) -> None:
        """Refuse options that this format does not have. Raises UserError naming the options that it has."""
        if foreign := [name for name in given if name not in self.options]:
            own = ", ".join(map(flag, self.options)) or "none of its own"
            raise UserError(f"{', '.join(map(flag, foreign))}: no option of {self.name}; its options: {own}")
