"""How a run's average weights would vary if its steps were drawn again: the rule, over resampled blocks of steps."""

import torch
from torch import Tensor

from doge.stable import alignment_parts, replicates
from doge.updates import lean_to_worst
from mixtures.errors import UserError
from mixtures.run.replicates import NAME, write_replicates
from mixtures.run.run import RunRecord, importance_of
from proxies.settings import Settings


def write_run_replicates(run: RunRecord, settings: Settings) -> None:
    """Write RUN_DIR/replicates.parquet of a finished run with preset stable and at least 4 steps.

    Other runs get no such file: with the other presets the weights depend on the order of the steps, or do not vary.
    """
    if settings.update.preset != "stable" or settings.train.steps < 4:
        return
    constants = settings.constants
    weights = replicates(
        step_parts(run, worst=settings.update.aggregate == "worst", sharpness=constants.sharpness),
        torch.tensor(run.trajectory.frame["lr"].to_numpy()),
        torch.from_numpy(run.prior),
        tau=constants.tau,
        reach=constants.reach,
        averaging=constants.averaging,
        floor=constants.floor,
    )
    write_replicates(run.path / NAME, run.trajectory.domains, weights.numpy(), run_id=run.run_id)


def step_parts(run: RunRecord, *, worst: bool, sharpness: float) -> Tensor:
    """Return the `alignment_parts` (S, 3, D) of every single step, with the unbiased diagonal.

    They were recorded at every step; for steps of earlier versions, which recorded every gram, they come from it.

    `worst`: the importance of each step leans to the domains that are worst at that step (`lean_to_worst` with
    `sharpness`). The run itself leans the importance that it applies to the mean over all steps. Raises UserError for a
    step that has neither.
    """
    trajectory, importance = run.trajectory, torch.from_numpy(importance_of(run))
    losses, diagonals = torch.tensor(trajectory.losses), torch.tensor(trajectory.self_products)
    domains = len(trajectory.domains)
    parts = torch.cat([torch.tensor(trajectory.step_alignments), diagonals[:, None, :domains]], dim=1)
    absent = parts[:, :2].isnan().all(dim=(1, 2))
    if not absent.any():
        return parts
    targets = torch.tensor([group in run.corpus.targets for group in trajectory.groups])
    for step, gram in trajectory.measured_grams():
        if absent[step]:
            counted = lean_to_worst(importance, losses[step] / losses[0], sharpness) if worst else importance
            unbiased = torch.tensor(gram).diagonal_scatter(diagonals[step])
            parts[step] = alignment_parts(unbiased, counted, targets, domains)
            absent[step] = False
    if absent.any():
        raise UserError(
            f"{run.path} has neither alignments nor a gram of step {int(absent.nonzero()[0]) + 1}, which the intervals "
            "of its weights need; repeat the run in a new run directory"
        )
    return parts
