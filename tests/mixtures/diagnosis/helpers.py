"""Run directories whose grams come from planted directions, for the tests of matrix and diagnosis."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixtures.run.trajectory import TrajectoryWriter, step_row
from tests.mixtures.helpers import make_run


def domain_names(count: int) -> list[str]:
    return [f"domain_{number:02d}" for number in range(count)]


def planted_grams(directions: np.ndarray, *, noise: float, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(S, G, G) grams and (S, G) self products of gradients `directions` (G, P) plus noise of `noise` a half of the
    rows (norm).
    """
    rng = np.random.default_rng(seed)
    groups, size = directions.shape
    halves = directions + rng.normal(scale=noise / np.sqrt(size), size=(steps, 2, groups, size))
    whole = halves.mean(axis=1)
    return whole @ whole.transpose(0, 2, 1), (halves[:, 0] * halves[:, 1]).sum(axis=-1)


def planted_run(
    path: Path,
    directions: np.ndarray,
    *,
    noise: float = 1.0,
    steps: int = 60,
    targets: Sequence[str] = (),
    flush_every: int = 50,
    columns: dict[str, np.ndarray] | None = None,
    train: dict[str, Any] | None = None,
    **keywords: Any,
) -> Path:
    """A run whose grams have these directions (G, P): the training domains first, then `targets`.

    `columns`: whole columns in place of others, or None to leave one out (`gram`: of all steps); `train`: settings of
    config.yaml.
    """
    domains = domain_names(len(directions) - len(targets))
    make_run(path, domains=domains, targets=targets, steps=steps, **keywords)
    shutil.rmtree(path / "trajectory")
    groups = [*domains, *targets]
    grams, products = planted_grams(directions, noise=noise, steps=steps)
    arrays = {"gram": grams, "self_product": products, "weight": np.full((steps, len(domains)), 1 / len(domains))}
    arrays |= {
        "loss": np.linspace(4, 3, steps)[:, None].repeat(len(groups), axis=1),
        "gradient_norm": np.full(steps, 0.5),
    }
    arrays = {kind: values for kind, values in (arrays | (columns or {})).items() if values is not None}
    norms, factors = arrays.pop("gradient_norm"), arrays.pop("reach_factor", np.ones(steps))
    writer = TrajectoryWriter(path / "trajectory", domains=domains, groups=groups)
    for step in range(1, steps + 1):
        row = step_row(
            domains=domains,
            groups=groups,
            arrays={kind: values[step - 1] for kind, values in arrays.items()},
            step=step,
            tokens=512 * step,
            gradient_norm=float(norms[step - 1]),
            reach_factor=float(factors[step - 1]),
        )
        writer.append(row)
        if step % flush_every == 0 or step == steps:
            writer.flush()
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["train"] |= {"max_grad_norm": 1.0} | (train or {})
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path
