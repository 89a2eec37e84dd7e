"""The held-out loss of every domain and target, on the same rows at every step and for any number of processes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import doge
from doge import sums
from mixtures.stream.tokens import as_rows
from proxies.corpus.batches import evaluated_rows
from proxies.corpus.corpus import CorpusData
from proxies.place import Place

TOKENS = 4096  # about how many tokens one forward pass takes


def held_out_losses(
    model: nn.Module,
    corpus: CorpusData,
    *,
    rows: int,
    step: int,
    tokens: int,
    place: Place,
) -> list[dict[str, Any]]:
    """Evaluate the model and return one record per domain and target.

    A record has loss (nats per token), bits_per_byte, held_out_tokens, and the `step` and `tokens` of the call. `rows`
    held-out rows per domain are evaluated, or all if there are fewer (`proxies.corpus.batches.evaluated_rows`). Rank r
    of n processes evaluates every n-th of them. A run with reused domains has one more record, `reused`.
    """
    losses = held_out_row_losses(model, corpus, rows=rows, place=place)
    evaluation = records(losses, corpus, step=step, tokens=tokens)
    return evaluation if corpus.pool is None else [*evaluation, _together(evaluation, corpus)]


@torch.no_grad()
def held_out_row_losses(
    model: nn.Module,
    corpus: CorpusData,
    *,
    rows: int,
    place: Place,
) -> dict[str, Tensor]:
    """Return {domain or target: mean loss per evaluated held-out row (N,)}, float64 on the CPU.

    The result is the same in every process.
    """
    length = corpus.row_tokens
    chosen = {name: evaluated_rows(len(corpus.held_out[name]) // length, rows) for name in corpus.evaluated}
    counts = [len(numbers) for numbers in chosen.values()]
    losses = sums.zeros(sum(counts), device=place.device)
    model.eval()
    for name, row_losses in zip(corpus.evaluated, losses.split(counts), strict=True):
        held_out = as_rows(corpus.held_out[name], length)[chosen[name][place.rank :: place.processes]]
        if not len(held_out):  # fewer rows than processes
            continue
        parts = torch.from_numpy(held_out.astype(np.int64)).split(max(1, TOKENS // length))
        row_losses[place.rank :: place.processes] = torch.cat(
            [sums.widened(doge.row_losses(model, part.to(place.device), autocast=place.autocast)) for part in parts]
        )
    model.train()
    losses = (losses if place.reduce is None else place.reduce(losses)).cpu()
    return dict(zip(corpus.evaluated, losses.split(counts), strict=True))


def records(losses: Mapping[str, Tensor], corpus: CorpusData, *, step: int, tokens: int) -> list[dict[str, Any]]:
    """Return the records of an evaluation, one per domain, from the losses (N,) of every domain's rows."""
    evaluation = []
    for name, rows in losses.items():
        entry = corpus.entry(name)
        tokens_per_byte = entry["held_out_tokens"] / entry["held_out_bytes"]
        loss = float(rows.mean())
        evaluation.append(
            {
                "step": step,
                "tokens": tokens,
                "domain": name,
                "loss": loss,
                "bits_per_byte": loss * tokens_per_byte / math.log(2),
                "held_out_tokens": len(rows) * (corpus.row_tokens - 1),
            }
        )
    return evaluation


def _together(evaluation: list[dict[str, Any]], corpus: CorpusData) -> dict[str, Any]:
    """Return the record of the domain `reused`: means over its members, weighted by their relative weights."""
    name, relative = corpus.domains[0], corpus.record["reused"]["relative"]
    members = [record for record in evaluation if record["domain"] in relative]
    means = {key: sum(relative[each["domain"]] * each[key] for each in members) for key in ("loss", "bits_per_byte")}
    return {**members[0], "domain": name, **means, "held_out_tokens": sum(each["held_out_tokens"] for each in members)}
