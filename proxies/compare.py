"""The command `accelerate launch -m proxies.compare COMPARE.yaml [--section.key value ...]`: compare mixtures.

It trains base models, each on the rows that its mixture gives. All see the same number of tokens, start from the same
weights per seed, and are evaluated on the same held-out rows. If the command is given again, it does only what is
missing. proxies/comparison/records.py lists the files that it writes.
"""

import sys
from collections.abc import Sequence

from mixtures.errors import UserError
from proxies.command import command
from proxies.comparison.settings import CompareSettings
from proxies.config import load

USAGE = "usage: accelerate launch -m proxies.compare COMPARE.yaml [--section.key value ...]"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, or 2 after one message on an error that the user can correct."""
    return command(arguments, usage=USAGE, kind=CompareSettings, act=_compare)


def _compare(words: list[str]) -> None:
    if words[0].startswith("--"):
        raise UserError(f"the comparison's YAML file comes first; {USAGE}")
    # torch and transformers are loaded only for a comparison that will start
    from proxies.comparison.run import compare

    compare(load(CompareSettings, words[0], words[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
