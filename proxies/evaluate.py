"""Held-out loss of every domain and target, on the same rows at every step and in every process count."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import doge
from doge.grouped import Autocast
from proxies.corpus import CorpusData

TOKENS = 4096  # of one forward pass


@torch.no_grad()
def held_out_losses(
    model: nn.Module,
    corpus: CorpusData,
    *,
    rows: int,
    step: int,
    tokens: int,
    rank: int,
    processes: int,
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] | None,
    autocast: Autocast,
) -> list[dict[str, Any]]:
    """One record a domain and target: loss (nats per token), bits_per_byte, held_out_tokens, with the step and tokens given.

    Reads the first `rows` held-out rows of each, or all there are; rank r takes every processes-th.
    """
    length = corpus.row_tokens
    sums = torch.zeros(len(corpus.names), 2, dtype=torch.float64, device=device)
    model.eval()
    for index, name in enumerate(corpus.names):
        full = len(corpus.held_out[name]) // length
        held_out = corpus.held_out[name][: full * length].reshape(full, length)[:rows][rank::processes]
        for part in torch.from_numpy(held_out.astype(np.int64)).split(max(1, TOKENS // length)):
            losses = doge.row_losses(model, part.to(device), autocast=autocast)
            sums[index] += torch.stack([losses.double().sum() * (length - 1), torch.tensor(part.numel() - len(part), device=device)])
    model.train()
    sums = (sums if reduce is None else reduce(sums)).cpu()
    records = []
    for name, (total, count) in zip(corpus.names, sums.tolist(), strict=True):
        entry = corpus.entry(name)
        tokens_per_byte = entry["held_out_tokens"] / entry["held_out_bytes"]
        loss = total / count
        records.append(
            {
                "step": step,
                "tokens": tokens,
                "domain": name,
                "loss": loss,
                "bits_per_byte": loss * tokens_per_byte / math.log(2),
                "held_out_tokens": int(count),
            }
        )
    return records
