"""`proxies.score` in two processes, of which the second one looks after the run has saved another checkpoint."""

import os

from proxies import score
from proxies.scoring import run


def main(words: list[str]) -> int:
    """Score, in each process with the checkpoint that it would choose itself."""
    choose, steps = run.choose_checkpoints, ["4"] if os.environ["RANK"] == "0" else ["6"]
    vars(run)["choose_checkpoints"] = lambda path, wanted: choose(path, steps)
    return score.main(words)
