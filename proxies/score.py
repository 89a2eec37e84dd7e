"""The command `accelerate launch -m proxies.score RUN_DIR [--scores ...] [--scopes ...] ...`: score a run's documents.

The run's own checkpoints compute the scores. If the command is given again, it does only what is missing.
mixtures/samples/scores.py lists the files that it writes; docs/scores.md explains the scores.
"""

import sys
from collections.abc import Sequence

from proxies.command import command
from proxies.scoring.settings import ScoreSettings, parse

USAGE = (
    "usage: accelerate launch -m proxies.score RUN_DIR [--scores self_influence information word_embedding] "
    "[--scopes all first_block]\n"
    "           [--checkpoints last|all|STEP ...] [--unit document|row] [--max-rows N] [--batch-tokens N]"
)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, or 2 after one message on an error that the user can correct."""
    return command(arguments, usage=USAGE, kind=ScoreSettings, act=_score, given="as flags")


def _score(words: list[str]) -> None:
    settings = parse(words)
    from proxies.scoring.run import score  # torch and transformers are loaded only for a scoring that will start

    score(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
