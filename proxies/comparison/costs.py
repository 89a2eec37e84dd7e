"""The cost of learning a mixture and of a base run: measured seconds, and floating-point operations by a rule.

Training takes 6 operations per parameter and token (2 forward, 4 backward), a forward pass alone takes 2, after Kaplan
et al. 2020 (arXiv 2001.08361, section 2.1). Every trainable parameter is counted once, embeddings too. A proxy's tokens
are those of all its groups: training domains, targets and held-out rows. DoReMi takes 6 for the reference, 6 for the
proxy and 2 for the reference's losses during the proxy's training; with several micro-batches 2 more, for the proxy's
losses before it is trained on them. Inner products between gradients are not counted in the operations, but their time
is in the seconds. Evaluation and export are in neither.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mixtures.run.run import RunRecord, read_run
from proxies.models import build_model, parameter_count
from proxies.settings import Settings, load_settings

Cost = dict[str, float]  # seconds, flops
NOTE = (
    "FLOPs: 6 per parameter and token trained, 2 per forward pass alone (DoReMi's reference), over all rows that the "
    "proxy read; time: measured training steps, in the processes they ran on. A mixture from a file is counted as "
    "free: what it cost is not known here."
)


def total_cost(runs: Iterable[RunRecord]) -> Cost:
    """Return the cost of all proxy runs that a mixture was learned with; 0 for a mixture that was not learned."""
    costs = [learning_cost(run) for run in runs]
    return {kind: float(sum(cost[kind] for cost in costs)) for kind in ("seconds", "flops")}


def learning_cost(run: RunRecord) -> Cost:
    """Return the cost of a proxy run's steps, with those of its reference run. Raises UserError for a damaged run."""
    settings = load_settings(run.path / "config.yaml")
    tokens = _group_tokens(run)
    operations = 6.0  # per parameter and token
    seconds = run.training_seconds
    if settings.update.preset == "doremi":
        reference = read_run(run.path / "reference")
        operations += 2 + (2 if settings.train.accumulate > 1 else 0) + 6 * _group_tokens(reference) / tokens
        seconds += reference.training_seconds
    return {"seconds": seconds, "flops": operations * _parameters(settings, run) * tokens}


def base_cost(facts: Iterable[Mapping[str, Any]]) -> Cost:
    """Return the mean cost over the base runs that did not diverge (over all runs if all diverged)."""
    whole = [fact for fact in facts if fact["diverged"] is None] or list(facts)
    seconds = [fact["seconds"] for fact in whole]
    flops = [6.0 * fact["parameters"] * fact["tokens"] for fact in whole]
    return {"seconds": float(np.mean(seconds)), "flops": float(np.mean(flops))}


def _group_tokens(run: RunRecord) -> float:
    """Return the number of tokens that all groups read in a run.

    The trajectory's `tokens` count those of the training domains only.
    """
    trajectory = run.trajectory
    return float(trajectory.tokens[-1]) * len(trajectory.groups) / len(trajectory.domains)


def _parameters(settings: Settings, run: RunRecord) -> int:
    sizes = {"vocab_size": run.corpus.tokenizer.vocab_size, "row_tokens": run.corpus.row_tokens}
    return parameter_count(build_model(settings.model, **sizes, eos_id=0, seed=0))
