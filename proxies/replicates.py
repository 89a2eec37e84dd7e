"""How a run's average weights would vary had its steps been drawn again: the rule, over resampled blocks of its
record.
"""

import torch
from torch import Tensor

from doge.stable import alignment_parts, replicates
from doge.updates import lean_to_worst
from mixtures.run.replicates import NAME, write_replicates
from mixtures.run.run import RunRecord, importance_of
from proxies.settings import Settings


def write_run_replicates(run: RunRecord, settings: Settings) -> None:
    """Write RUN_DIR/replicates.parquet of a finished run of preset stable; other presets, and runs of 3 steps, have no
    such file.

    The other rules' weights depend on the order of the steps, or do not vary.
    """
    if settings.update.preset != "stable" or settings.train.steps < 4:
        return
    constants = settings.constants
    found = replicates(
        step_parts(run, worst=settings.update.aggregate == "worst", sharpness=constants.sharpness),
        torch.tensor(run.trajectory.frame["lr"].to_numpy()),
        torch.from_numpy(run.prior),
        tau=constants.tau,
        reach=constants.reach,
        averaging=constants.averaging,
        floor=constants.floor,
    )
    write_replicates(run.path / NAME, run.trajectory.domains, found.numpy())


def step_parts(run: RunRecord, *, worst: bool, sharpness: float) -> Tensor:
    """(S, 3, D) `alignment_parts` of every single step with the unbiased diagonal; the run's own record holds the mean
    so far.

    `worst`: each step with its own lean, where the run leans the whole mean. One part of the record is in memory at a
    time.
    """
    trajectory, importance = run.trajectory, torch.from_numpy(importance_of(run))
    known = {domain.name for domain in run.corpus.domains if domain.role == "target"}
    targets = torch.tensor([group in known for group in trajectory.groups])
    losses, diagonals = torch.tensor(trajectory.losses), torch.tensor(trajectory.self_products)
    found: list[Tensor] = []
    for grams in trajectory.gram_parts():
        for gram in torch.tensor(grams):
            step = len(found)
            counted = lean_to_worst(importance, losses[step] / losses[0], sharpness) if worst else importance
            unbiased = gram.diagonal_scatter(diagonals[step])
            found.append(alignment_parts(unbiased, counted, targets, len(trajectory.domains)))
    return torch.stack(found)
