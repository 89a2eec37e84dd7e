"""Levanter's own training, and what the model saw: `python levanter_train.py CONFIG.yaml SEEN.npy`.

In a process of its own, as Levanter's loader threads sometimes abort the interpreter when it ends.
"""

import functools
import os
import sys
from typing import Any

import draccus
import jax
import numpy as np
from levanter.main import train_lm


def main(config: str, output: str) -> None:
    """Train, and save the token ids of every step, int64 (steps, batch, length)."""
    seen: list[np.ndarray] = []
    loss = train_lm.compute_next_token_loss

    @functools.wraps(loss)
    def watched(model: Any, batch: Any, **settings: Any) -> Any:
        jax.debug.callback(lambda ids: seen.append(np.asarray(ids)), batch.tokens.array)
        return loss(model, batch, **settings)

    train_lm.compute_next_token_loss = watched
    with open(config) as file:
        settings = draccus.load(train_lm.TrainLmConfig, file)
    train_lm.main(settings)
    jax.effects_barrier()
    np.save(output, np.stack(seen).astype(np.int64))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
