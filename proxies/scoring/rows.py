"""Scores of a shard: its rows in batches of like length through every checkpoint, then combined by document.

TracIn's self-influence sums learning rate times squared gradient norm over checkpoints (arXiv 2002.08484, section 3.1);
divided by the sum of the learning rates it has the size of one checkpoint's. The same for the word-embedding part
(arXiv 2202.11844, eq. 4). Losses and information (arXiv 2406.14124: v1 = H(q), v3 = H(q) + H(f)) are those of the last
checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import doge
from doge.grouped import Autocast
from proxies.scoring.plan import Rows

COUNTED = 100_000_000  # tokens of a domain, from its beginning, that word frequencies are counted from


@dataclass(frozen=True)
class Scorer:
    """What scores: models of one or several checkpoints in evaluation mode, oldest first, and what is asked of them."""

    models: Sequence[nn.Module]
    lrs: Sequence[float]
    gradients: Mapping[str, str]  # {column: doge's scope}
    surprisal: np.ndarray | None  # (V,) nats, by token id; None: no information scores
    batch_tokens: int
    device: torch.device
    autocast: Autocast


def unigram_surprisal(domains: Sequence[np.ndarray], *, vocab_size: int) -> np.ndarray:
    """(V,) -log f(w), nats, f from the counts (plus one) of the first COUNTED tokens of every domain's flat ids."""
    counts = np.ones(vocab_size)
    for ids in domains:
        for start in range(0, min(len(ids), COUNTED), 2**22):
            counts += np.bincount(ids[start : min(start + 2**22, COUNTED)], minlength=vocab_size)
    return -np.log(counts / counts.sum())


def score_rows(
    scorer: Scorer, rows: Rows, ids: np.ndarray, *, on_batch: Callable[[int], object]
) -> dict[str, np.ndarray]:
    """{column: float64 (R,)} scores of every row; `nll` and `surprisal` are sums over its predicted tokens.

    `ids`: flat token ids that the rows lie in. `on_batch` gets the number of tokens predicted by each batch.
    """
    names = [*scorer.gradients, *(["nll", "surprisal"] if scorer.surprisal is not None else [])]
    scores = {name: np.zeros(len(rows.length)) for name in names}
    for batch in _batches(rows.length, scorer.batch_tokens):
        for name, values in _score_batch(scorer, *_padded(rows[batch], ids)).items():
            scores[name][batch] = values
        on_batch(int(rows.predicted[batch].sum()))
    return scores


def combine(scores: Mapping[str, np.ndarray], rows: Rows, *, by_row: bool) -> dict[str, np.ndarray]:
    """{column of the file: float64 (S,)} from row scores (R,): of every document, or of every row (`by_row`).

    A document's score is the mean of its rows' weighted by their predicted tokens, so that each of its tokens counts
    alike.
    """
    sample = np.arange(len(rows.length)) if by_row else rows.document
    size = np.bincount(sample, rows.predicted)
    found: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        if name in ("nll", "surprisal"):
            found[f"{name}_sum"] = np.bincount(sample, values)
            found[f"{name}_mean"] = found[f"{name}_sum"] / size
        else:
            found[name] = np.bincount(sample, values * rows.predicted) / size
    if "nll_mean" in found:
        found["information_v1"] = found["nll_mean"]
        found["information_v3"] = found["nll_mean"] + found["surprisal_mean"]
    return found


def _batches(length: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Indices of rows (R,), longest first, as many as fit `batch_tokens` when padded to the longest; at least one."""
    order = np.argsort(-length, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(length[order[start]]))
        yield order[start : start + size]
        start += size


def _padded(rows: Rows, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 (B, T) token ids padded with 0 to the longest row, lengths (B,))."""
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
        found = doge.row_scores(model, rows, scopes=scopes, lengths=sizes, autocast=scorer.autocast)
        share = lr / sum(scorer.lrs) if len(models) > 1 else 1.0
        for name, scope in scorer.gradients.items():
            total[name] += share * found.squared_norms[scope].numpy()
    if scorer.surprisal is not None:
        total["nll"] = found.token_losses.double().sum(1).cpu().numpy()
        predicted = np.arange(1, tokens.shape[1]) < lengths[:, None]
        total["surprisal"] = np.where(predicted, scorer.surprisal[tokens[:, 1:]], 0.0).sum(1)
    return total
