"""Scores of a shard: every checkpoint scores its rows, in batches of similar length; documents combine their rows.

TracIn's self-influence is the sum over checkpoints of learning rate times squared gradient norm (arXiv 2002.08484,
section 3.1). It is divided by the sum of the learning rates, so that it has the size of a single checkpoint's. The same
holds for its word-embedding part (arXiv 2202.11844, eq. 4). Losses and information (arXiv 2406.14124: v1 = H(q), v3 =
H(q) + H(f)) are those of the last checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import doge
from doge import sums
from doge.grouped import Autocast
from proxies.scoring.plan import Rows

COUNTED = 100_000_000  # first tokens of every domain, in which token frequencies are counted


@dataclass(frozen=True)
class Scorer:
    """Models of one or several checkpoints, in evaluation mode and oldest first, and the scores they compute."""

    models: Sequence[nn.Module]
    lrs: Sequence[float]  # learning rate at each checkpoint
    gradients: Mapping[str, str]  # {column: scope (doge/scopes.py)}
    surprisal: np.ndarray | None  # (V,) nats, by token id; None: no information scores
    batch_tokens: int  # largest size of a batch, padding included (tokens)
    device: torch.device
    autocast: Autocast


def unigram_surprisal(domains: Sequence[np.ndarray], *, vocab_size: int) -> np.ndarray:
    """Return -log f(w) (V,) by token id w, nats, with f the share of the token in the text of all `domains`.

    `domains` are flat arrays of token ids, of which the first COUNTED tokens each are counted; every count is increased
    by one.
    """
    counts = np.ones(vocab_size)
    for ids in domains:
        for start in range(0, min(len(ids), COUNTED), 2**22):
            counts += np.bincount(ids[start : min(start + 2**22, COUNTED)], minlength=vocab_size)
    return -np.log(counts / counts.sum())


def score_rows(
    scorer: Scorer, rows: Rows, ids: np.ndarray, *, on_batch: Callable[[int], object]
) -> dict[str, np.ndarray]:
    """Score every row; return arrays (R,), float64, by column.

    The columns `nll` and `surprisal` are sums over a row's predicted tokens. `ids` are the flat token ids that the rows
    are cut from. `on_batch` is called with the number of predicted tokens after each batch.
    """
    names = [*scorer.gradients, *(["nll", "surprisal"] if scorer.surprisal is not None else [])]
    scores = {name: np.zeros(len(rows.length)) for name in names}
    for batch in _batches(rows.length, scorer.batch_tokens):
        for name, values in _score_batch(scorer, *_padded(rows[batch], ids)).items():
            scores[name][batch] = values
        on_batch(int(rows.predicted[batch].sum()))
    return scores


def combine(scores: Mapping[str, np.ndarray], rows: Rows, *, by_row: bool) -> dict[str, np.ndarray]:
    """Combine row scores (R,) into the columns of the file, (S,) each, float64: one value per document, or per row.

    A document's score is the mean of its rows' scores weighted by their predicted tokens, so that all of its tokens
    count equally. With `by_row` every row is a sample of its own.
    """
    sample = np.arange(len(rows.length)) if by_row else rows.document
    size = np.bincount(sample, rows.predicted)
    columns: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        if name in ("nll", "surprisal"):
            columns[f"{name}_sum"] = np.bincount(sample, values)
            columns[f"{name}_mean"] = columns[f"{name}_sum"] / size
        else:
            columns[name] = np.bincount(sample, values * rows.predicted) / size
    if "nll_mean" in columns:
        columns["information_v1"] = columns["nll_mean"]
        columns["information_v3"] = columns["nll_mean"] + columns["surprisal_mean"]
    return columns


def _batches(length: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield batches as indices of rows, longest rows first.

    A batch holds as many rows as fit into `batch_tokens` when padded to its longest row, and at least one. `length`
    (R,) is the number of tokens of every row.
    """
    order = np.argsort(-length, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(length[order[start]]))
        yield order[start : start + size]
        start += size


def _padded(rows: Rows, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows' token ids (B, T), int64, padded with 0 to the longest row, and their lengths (B,)."""
    places = np.arange(rows.length.max())
    inside = places < rows.length[:, None]
    index = np.where(inside, rows.start[:, None] + places, 0)
    return np.where(inside, ids[index], 0).astype(np.int64), rows.length


def _score_batch(scorer: Scorer, tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    rows, sizes = torch.from_numpy(tokens).to(scorer.device), torch.from_numpy(lengths).to(scorer.device)
    scopes = list(scorer.gradients.values())
    models = list(zip(scorer.models, scorer.lrs, strict=True)) if scopes else [(scorer.models[-1], 1.0)]
    total = {name: np.zeros(len(tokens)) for name in scorer.gradients}
    for model, lr in models:
        result = doge.row_scores(model, rows, scopes=scopes, lengths=sizes, autocast=scorer.autocast)
        share = lr / sum(scorer.lrs) if len(models) > 1 else 1.0
        for name, scope in scorer.gradients.items():
            total[name] += share * result.squared_norms[scope].numpy()
    if scorer.surprisal is not None:
        total["nll"] = sums.widened(result.token_losses).sum(1).cpu().numpy()
        predicted = np.arange(1, tokens.shape[1]) < lengths[:, None]
        total["surprisal"] = np.where(predicted, scorer.surprisal[tokens[:, 1:]], 0.0).sum(1)
    return total
