"""The command `accelerate launch -m proxies.search RUN.yaml [--section.key value ...]`.

It measures the objective with proxies at the prior, moves the mixture along the exact slopes of the objective, measures
again, and so on. If the command is given again, it goes on where it was. proxies/search/proxies.py and results.py list
the files that it writes.
"""

import sys
from collections.abc import Sequence

from mixtures.errors import UserError
from proxies.command import command
from proxies.config import load
from proxies.search.settings import SearchSettings

USAGE = "usage: accelerate launch -m proxies.search RUN.yaml [--section.key value ...]"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, or 2 after one message on an error that the user can correct."""
    return command(arguments, usage=USAGE, kind=SearchSettings, act=_search)


def _search(words: list[str]) -> None:
    if words[0].startswith("--"):
        raise UserError(f"the run's YAML file comes first; {USAGE}")
    from proxies.search.run import search  # torch and transformers are loaded only for a search that will start

    search(load(SearchSettings, words[0], words[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
