"""What a pull-back keeps of its run in memory: every step, or the states at some of them, chosen so that they fit."""

import math
from dataclasses import dataclass

from mixtures.errors import UserError

STATE, STEP = 12, 16  # bytes per parameter: weights and two moments in float32; the same with the gradient


@dataclass(frozen=True)
class MemoryPlan:
    """How many steps a segment has, whether its steps are kept, and the bytes that all of it takes."""

    segment: int
    keep: bool
    size: float

    @property
    def text(self) -> str:
        """Say in a line what is kept."""
        what = "every step" if self.keep else f"the state at every {self.segment} steps"
        return f"{what}, {self.size / 1e9:,.2f} GB" + ("" if self.keep else "; each step is done twice")


def plan_memory(*, parameters: int, steps: int, runs: int, limit: float) -> MemoryPlan:
    """Return what to keep of `runs` runs at a time, within `limit` bytes: all steps if they fit, else states at some.

    Raises UserError with the memory that would be enough.
    """
    whole = runs * steps * STEP * parameters
    if whole <= limit:
        return MemoryPlan(steps, keep=True, size=whole)
    segment = math.ceil(math.sqrt(runs * steps * STATE / STEP))  # where states and one segment's steps take least
    size = (runs * math.ceil(steps / segment) * STATE + segment * STEP) * parameters
    if size > limit:
        raise UserError(
            f"search.memory is {limit / 1e9:,.2f} GB, but the states of {runs} run(s) of {steps} steps with "
            f"{parameters / 1e6:,.1f} M parameters take {size / 1e9:,.2f} GB at least; give more memory, or take a "
            "smaller model, fewer steps or fewer search.seeds"
        )
    return MemoryPlan(segment, keep=False, size=size)
