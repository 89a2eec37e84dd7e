"""MixtureStream as the datasets that trainers take. Only this module of the package imports torch and datasets."""

import gc
import sys
from collections.abc import Iterator
from typing import Any

import datasets
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mixtures.errors import UserError
from mixtures.stream.stream import MixtureStream

SHARDING = ("IterableDatasetShard", "DataLoaderDispatcher")  # accelerate's, which deal a dataset out to the processes


class TorchRows(IterableDataset):
    """The stream's rows for a torch DataLoader: {"input_ids", "labels"}, int64 (row_tokens,) each.

    Use it as `DataLoader(rows, batch_size=batch_rows, num_workers=any)`; `batch_rows` must be the loader's batch_size.
    Every worker yields whole batches in turn, so the batches are the same for any number of workers.

    Workers read ahead. This object itself keeps the position of the *training*: the trainer calls `advance()` after
    each batch, so `state_dict()` is exact whatever was read ahead. The state continues at another world size and worker
    count. Every new iterator of a loader starts at this object's position, except with `persistent_workers=True`, whose
    workers keep their first copy of it: leave that off. torchdata's StatefulDataLoader is not needed: it keeps one
    state per worker and cannot go on with another number of them.
    """

    def __init__(self, stream: MixtureStream, *, batch_rows: int) -> None:
        self.stream, self.batch_rows = stream, batch_rows

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        _require_undivided(self.stream, self)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        stream = self.stream.copy()
        stream.skip(first * self.batch_rows)
        while len(batch := stream.take(self.batch_rows)):
            for row in torch.from_numpy(batch):
                yield {"input_ids": row, "labels": row}
            stream.skip((step - 1) * self.batch_rows)

    def advance(self, batches: int = 1) -> None:
        """Record that this rank has trained on `batches` more batches."""
        self.stream.skip(batches * self.batch_rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's state after the batches trained on."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a loader's next iterator begins with the batch after it."""
        self.stream.load_state_dict(state)


def hf_dataset(stream: MixtureStream) -> datasets.IterableDataset:
    """Return this rank's remaining rows as a `datasets.IterableDataset` with column input_ids.

    It has one shard: in a loader with several workers only the first reads it. Its own `state_dict` replays what was
    read. To resume without a replay, save the stream's state (call `stream.skip` as training goes) and make the dataset
    from the stream again.
    """
    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int64"), length=stream.row_tokens)})
    return datasets.IterableDataset.from_generator(_examples, features=features, gen_kwargs={"stream": stream})


def _examples(stream: MixtureStream) -> Iterator[dict[str, Any]]:
    """Yield the stream's rows as examples; the stream itself stays at its position."""
    _require_undivided(stream, None)
    for row in stream.copy():
        yield {"input_ids": row}


def _require_undivided(stream: MixtureStream, rows: TorchRows | None) -> None:
    """Refuse a stream of one rank of several whose dataset accelerate deals out to the ranks once more.

    `rows`: the dataset of the stream; None for one of `hf_dataset`.
    """
    if stream.world == 1 or "accelerate.data_loader" not in sys.modules:
        return
    kinds = [getattr(sys.modules["accelerate.data_loader"], name) for name in SHARDING]
    dividing = [thing.dataset for thing in gc.get_objects() if type(thing) in kinds]
    if any(dataset is rows if rows is not None else stream in _streams(dataset) for dataset in dividing):
        raise UserError(
            f"this stream reads rank {stream.rank} of {stream.world}, and accelerate (`accelerator.prepare`, the "
            "Trainer) would deal its rows out to the processes once more, so that most rows are never read; give it a "
            "stream of rank=0, world=1, or leave the loader out of `prepare`"
        )


def _streams(dataset: Any) -> list[MixtureStream]:
    """Return the streams that a dataset of `hf_dataset` reads, also behind `map` and the like."""
    streams, examples = [], getattr(dataset, "_ex_iterable", None)
    while examples is not None:
        streams += [
            value for value in (getattr(examples, "kwargs", None) or {}).values() if type(value) is MixtureStream
        ]
        examples = getattr(examples, "ex_iterable", None)
    return streams
