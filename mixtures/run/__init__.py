"""Records that a proxy run leaves in its directory, and what several runs learned together.

run.py         a run directory read as a whole: config.yaml, corpus.json, trajectory, evaluation
trajectory.py  weights, alignments, losses, norms and the gram of every step: written and read
evaluation.py  held-out losses: written and read
parts.py       tables in part files, the storage of trajectory and evaluation
grams.py       the gram as it is stored, and its means over blocks of steps, small enough to keep in memory
replicates.py  a run's average weights if its steps had been drawn again (bootstrap)
average.py     from weights over steps to average weights over spans of tokens
learned.py     the mean over runs, its intervals, and its shrinkage to the prior
reused.py      with --reuse: from weights over `reused` to weights over all domains
summary.py     the table that is printed at the end of a run
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixtures.run.run import read_run

__all__ = ["read_run"]


def __getattr__(name: str) -> Any:
    """Return `read_run` at its first use: single files of this folder need not wait for pandas."""
    if name == "read_run":
        from mixtures.run.run import read_run

        return read_run
    raise AttributeError(f"module 'mixtures.run' has no attribute {name!r}")
