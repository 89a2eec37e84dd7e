"""What a trainer's format is: one `Format` for each, and the options that only some of them take."""

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
    """A line of the table: what one unit of a weight buys in the trainer, what the trainer accepts, and who writes
    it.
    """

    name: str
    trainers: str  # that read it
    unit: Unit  # in which the trainer counts a share
    write: Callable[[Job], Output]
    stages: Literal["native", "code", "relaunch"]  # in one config, in generated Python, or one file a stage
    zero_weights: Literal["kept", "dropped"]
    sums_to_one: bool  # must the weights?
    exhausted: Literal["repeats", "stops", "refuses", "-"]  # what it does at the end of a domain's text
    caps: Literal["trainer", "checked here"]  # who holds max_epochs
    tested: str
    packable: bool = False  # --packed: the data are fixed-length rows already, and the unit is a sequence
    samples: tuple[str, ...] = ()  # sample policies that it honours: filter, multiplicity
    options: tuple[str, ...] = ()  # of OPTIONS
    most_domains: int | None = None
    splits_on: str = ""  # characters that a path must not have
    needs_data: bool = True
    reads: tuple[str, ...] = ()  # formats of the text that the mixture was learned on which the trainer reads as it is
    parts: Callable[[str], Sequence[str]] = _one_path  # the files that a path stands for

    def check_options(self, given: Sequence[str]) -> None:
        """Raises UserError where an option is another format's."""
        if foreign := [name for name in given if name not in self.options]:
            own = ", ".join(map(flag, self.options)) or "none of its own"
            raise UserError(f"{', '.join(map(flag, foreign))}: no option of {self.name}; its options: {own}")
