"""One base model: trained with the plain loss on the rows that a mixture gives, and evaluated on held-out rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import doge
from doge import sums
from mixtures import Mixture, MixtureStream
from proxies.comparison.settings import CompareSettings
from proxies.corpus.corpus import CorpusData
from proxies.evaluate import held_out_row_losses, records
from proxies.models import build_model, optimization, parameter_count
from proxies.place import Place, seed_step

OnStep = Callable[[int, float, float], None]  # step (from 1), its loss, tokens per second


@dataclass(frozen=True)
class BaseRun:
    """Results of a base run: held-out losses over its steps, the loss of every row at its last step, and facts."""

    evaluation: list[dict[str, Any]]  # step, tokens, domain, loss, bits_per_byte, held_out_tokens
    rows: list[dict[str, Any]]  # domain, row, loss
    facts: dict[str, Any]  # steps, tokens, rows {domain: trained rows}, parameters, seconds, diverged


def train_base(
    settings: CompareSettings,
    corpus: CorpusData,
    mixture: Mixture,
    *,
    seed: int,
    place: Place,
    on_step: OnStep | None = None,
) -> BaseRun:
    """Train a base model for settings.train.steps updates on the rows of MixtureStream(mixture, seed=seed).

    For one seed, the initial weights, the order of rows inside domains, the number of tokens and the held-out rows are
    the same for every mixture. A run diverges if its loss or gradient is not finite. It then stops, its last losses are
    NaN, and facts["diverged"] is the number of that step.
    """
    train = settings.train
    stream = _stream(mixture, corpus, seed=seed, place=place)
    sizes = {"vocab_size": corpus.vocab_size, "eos_id": corpus.eos_id, "row_tokens": corpus.row_tokens}
    model = build_model(settings.model, **sizes, seed=seed).to(place.device)
    optimizer, scheduler = optimization(model, train)
    step_tokens = train.batch_rows * corpus.row_tokens
    held_out = held_out_row_losses(model, corpus, rows=train.evaluate_rows, place=place)
    evaluation = records(held_out, corpus, step=0, tokens=0)
    seconds = 0.0
    for step in range(1, train.steps + 1):
        began = time.perf_counter()
        seed_step(seed, step, place.rank)
        rows = torch.from_numpy(stream.take(train.batch_rows // place.processes)).to(place.device)
        loss = base_gradient(model, rows, batch_rows=train.batch_rows, accumulate=train.accumulate, place=place)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        finite = bool(torch.isfinite(loss) and torch.isfinite(norm))
        if finite:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        spent = time.perf_counter() - began
        seconds += spent
        if on_step is not None:
            on_step(step, float(loss), step_tokens / spent)
        if not finite or step == train.steps or step % train.evaluate_every == 0:
            diverged = {name: torch.full_like(losses, torch.nan) for name, losses in held_out.items()}
            held_out = held_out_row_losses(model, corpus, rows=train.evaluate_rows, place=place) if finite else diverged
            evaluation += records(held_out, corpus, step=step, tokens=step * step_tokens)
        if not finite:
            break
    facts = {
        "steps": step,
        "tokens": step * step_tokens,
        "rows": stream.drawn,
        "parameters": parameter_count(model),
        "seconds": seconds,
        "diverged": None if finite else step,
    }
    return BaseRun(evaluation, _row_table(held_out), facts)


def base_gradient(model: nn.Module, rows: Tensor, *, batch_rows: int, accumulate: int, place: Place) -> Tensor:
    """Add the gradient of the global batch's mean token loss to `.grad`, and return that loss.

    The global batch has `batch_rows` rows. `rows` (N, T) is this process's part of it; it is computed in `accumulate`
    micro-batches. Gradients and loss are summed over all processes.
    """
    total = sums.zeros(device=rows.device)
    for part in rows.chunk(accumulate):
        loss = doge.row_losses(model, part, autocast=place.autocast).sum() / batch_rows
        loss.backward()
        total += sums.widened(loss.detach())
    if place.reduce is not None:
        place.reduce(total)
        for parameter in model.parameters():
            if parameter.grad is not None:
                place.reduce(parameter.grad)
    return total


def _stream(mixture: Mixture, corpus: CorpusData, *, seed: int, place: Place) -> MixtureStream:
    sources = {name: corpus.tokens[name] for name in corpus.domains}
    return MixtureStream(
        mixture, sources, row_tokens=corpus.row_tokens, rank=place.rank, world=place.processes, seed=seed
    )


def _row_table(losses: dict[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"domain": name, "row": row, "loss": loss}
        for name, values in losses.items()
        for row, loss in enumerate(values.tolist())
    ]
