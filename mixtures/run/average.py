"""From weights over steps to average weights over spans of tokens. Pure functions."""

import itertools
from typing import Literal

import numpy as np

Average = Literal["all", "tail"]  # over all steps, or over the last half of them
Shrink = Literal["auto", "none"]  # shrink the average to the prior as far as its evidence is weak, or keep it


def span_average(weights: np.ndarray, tokens: np.ndarray, *, start: float, end: float) -> np.ndarray:
    """Return the mean (D,) of `weights` (S, D) over the tokens from `start` to `end`, sum 1.

    tokens (S,): tokens trained after each step. The weights of step s hold for the tokens between tokens[s-1] and
    tokens[s]. A step that lies partly in the span counts by its part inside.
    """
    assert start < end <= tokens[-1], f"span from {start} to {end} of {tokens[-1]} tokens"
    before = np.concatenate([[0], tokens[:-1]])
    inside = np.clip(np.minimum(tokens, end) - np.maximum(before, start), 0, None).astype(np.float64)
    mean = inside @ weights / inside.sum()
    return mean / mean.sum()


def stage_averages(weights: np.ndarray, tokens: np.ndarray, *, stages: int) -> np.ndarray:
    """Return averages (stages, D) over equal spans of tokens, from the first token to the last."""
    borders = np.linspace(0, tokens[-1], stages + 1)
    spans = itertools.pairwise(borders)
    return np.stack([span_average(weights, tokens, start=start, end=end) for start, end in spans])


def tail_average(weights: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the average (D,) over the last half of the steps (the larger half of an odd number)."""
    half = len(tokens) // 2
    return span_average(weights, tokens, start=tokens[half - 1] if half else 0, end=tokens[-1])


def running_mean(values: np.ndarray, *, window: int) -> np.ndarray:
    """Return the mean (S, ...) of each step's last `window` values; fewer at the start."""
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    index = np.arange(1, len(values) + 1)
    first = np.maximum(index - window, 0)
    counts = (index - first).reshape((-1,) + (1,) * (values.ndim - 1))
    return (sums[index] - sums[first]) / counts
