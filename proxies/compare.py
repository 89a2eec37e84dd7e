"""`accelerate launch -m proxies.compare COMPARE.yaml [--section.key value ...]`: is a mixture better than not
bothering?

Base models that see the same number of tokens, start from the same weights per seed and are measured on the same
held-out rows, each on the rows of its mixture. The same command again does only what is missing
(proxies/comparison/records.py has the directory).
"""

import sys
from collections.abc import Sequence

from mixtures.errors import UserError
from proxies.command import command
from proxies.comparison.settings import CompareSettings
from proxies.config import load

USAGE = "usage: accelerate launch -m proxies.compare COMPARE.yaml [--section.key value ...]"


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 0, or 2 with one message for what the user gave wrong."""
    return command(arguments, usage=USAGE, kind=CompareSettings, act=_compare)


def _compare(words: list[str]) -> None:
    if words[0].startswith("--"):
        raise UserError(f"the comparison's YAML file comes first; {USAGE}")
    from proxies.comparison.run import (
        compare,
    )  # torch and transformers are loaded only for a comparison that will start

    compare(load(CompareSettings, words[0], words[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
