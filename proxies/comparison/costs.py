"""What learning a mixture took, and what a base run takes: seconds as measured, floating-point operations by rule.

Training takes 6 operations a parameter and token (2 forward, 4 backward), a forward pass alone 2, after Kaplan et al.
2020 (arXiv 2001.08361, section 2.1), with every trainable parameter counted once, embeddings too. A proxy's tokens are
those of all its
groups: training domains, targets and held-out rows. DoReMi's are 6 for the reference, 6 for the proxy, 2 for the
reference's losses beside it (and 2 for the proxy's, where micro-batches ask for a pass before the one that is trained).
Inner products between gradients are not counted in operations; they are in the seconds. Evaluation and export are in
neither.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mixtures.run.run import RunRecord, read_run
from proxies.models import build_model, parameter_count
from proxies.settings import Settings, load_settings

Cost = dict[str, float]  # seconds, flops
FREE: Cost = {"seconds": 0.0, "flops": 0.0}
NOTE = (
    "FLOPs: 6 per parameter and token trained, 2 per forward pass alone (DoReMi's reference), over all rows that the "
    "proxy read; time: measured training steps, in the processes they ran on. A mixture from a file is counted as "
    "free: what it took is not known here."
)


def learning_cost(run: RunRecord) -> Cost:
    """What the steps of a proxy run took, its reference's included. Raises UserError for a damaged run."""
    settings = load_settings(run.path / "config.yaml")
    tokens = _group_tokens(run)
    each = 6.0
    seconds = run.training_seconds
    if settings.update.preset == "doremi":
        reference = read_run(run.path / "reference")
        each += 2 + (2 if settings.train.accumulate > 1 else 0) + 6 * _group_tokens(reference) / tokens
        seconds += reference.training_seconds
    return {"seconds": seconds, "flops": each * _parameters(settings, run) * tokens}


def base_cost(facts: Iterable[Mapping[str, Any]]) -> Cost:
    """The mean over base runs that did not diverge (over all where all did)."""
    whole = [fact for fact in facts if fact["diverged"] is None] or list(facts)
    seconds = [fact["seconds"] for fact in whole]
    flops = [6.0 * fact["parameters"] * fact["tokens"] for fact in whole]
    return {"seconds": float(np.mean(seconds)), "flops": float(np.mean(flops))}


def _group_tokens(run: RunRecord) -> float:
    """Tokens of all groups over the run; `tokens` of the trajectory are those of the training domains."""
    trajectory = run.trajectory
    return float(trajectory.tokens[-1]) * len(trajectory.groups) / len(trajectory.domains)


def _parameters(settings: Settings, run: RunRecord) -> int:
    sizes = {"vocab_size": run.corpus.tokenizer.vocab_size, "row_tokens": run.corpus.row_tokens}
    return parameter_count(build_model(settings.model, **sizes, eos_id=0, seed=0))
