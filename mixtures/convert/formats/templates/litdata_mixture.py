"""A mixture for LitData: one stream whose weights change with the tokens. `mixtures convert` wrote it.

    loader = litdata_mixture.data_loader(batch_size=8, num_workers=4)     # batch_size: of this process

is a StreamingDataLoader over litdata_mixture.json, beside this file: iterated once it gives the whole schedule, and its state_dict and
load_state_dict go on in the middle of any stage. A domain that the schedule reads more than once is repeated. Every worker of every
process draws the same sequence of domains, as LitData does it, so that one process has to do with all of them.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset
from litdata.streaming.item_loader import TokensLoader
from torch.utils.data import get_worker_info

PLAN = json.loads(Path(__file__).with_suffix(".json").read_text())
SPREAD = 6  # standard deviations of what chance may take of a domain beyond its share
ROUNDING = 1.01  # a chunk's last tokens fill no block


def data_loader(batch_size: int, num_workers: int = 0, *, block_size: int | None = None, **settings: Any) -> StreamingDataLoader:
    """The schedule, in batches of `batch_size` blocks a process.

    block_size: tokens of a block (None: the mixture's sequence length; LitGPT reads one more, for the label). settings: the other
    settings of the StreamingDataLoader. Raises ValueError where a domain would be read more often than its max_epochs.
    """
    size, readers = block_size or PLAN["sequence_length"], max(1, num_workers)
    datasets = [_dataset(name, size, readers=readers, batch_size=batch_size) for name in PLAN["domains"]]
    return StreamingDataLoader(StagedDataset(datasets), batch_size=batch_size, num_workers=num_workers, **settings)


class StagedDataset(CombinedStreamingDataset):
    """Draws every block from the weights of the stage that its batch belongs to, and ends with the last stage.

    Batch n of a process comes from its worker n modulo their number, and all processes take batch n together.
    """

    def __init__(self, datasets: list[StreamingDataset]) -> None:
        self._stages = [[stage["weights"].get(name, 0.0) for name in PLAN["domains"]] for stage in PLAN["stages"]]
        super().__init__(datasets, seed=PLAN["seed"], weights=self._stages[0], iterate_over_all=False)

    def __iter__(self) -> Iterator[Any]:
        blocks = super().__iter__()
        info, processes = get_worker_info(), self._datasets[0].distributed_env.world_size
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        ends = [stage["end_sequences"] for stage in PLAN["stages"]]
        while True:
            batch = sum(blocks._num_samples_yielded) // self.batch_size * workers + worker
            stage = bisect_right(ends, batch * self.batch_size * processes)
            if stage == len(ends):
                return
            blocks._weights = self._stages[stage]
            try:
                block = next(blocks)
            except StopIteration:
                raise RuntimeError("a domain is used up before the schedule ends: its dataset has become smaller") from None
            yield block


def _dataset(name: str, block_size: int, *, readers: int, batch_size: int) -> StreamingDataset:
    """The domain's blocks, repeated where the schedule needs more than there are."""
    domain = PLAN["domains"][name]
    settings = {"item_loader": TokensLoader(block_size=block_size), "shuffle": True, "seed": PLAN["seed"], "drop_last": True}
    dataset = StreamingDataset(domain["path"], **settings)
    blocks = sum(last - first for first, last in dataset.region_of_interest)
    if domain["max_epochs"] is not None and domain["sequences"] > domain["max_epochs"] * ROUNDING * blocks:
        raise ValueError(
            f"{name}: the schedule reads {domain['sequences']:,.0f} blocks, {domain['path']} holds {blocks:,}, and at most "
            f"{domain['max_epochs']:g} passes are allowed"
        )
    readers *= dataset.distributed_env.world_size
    needed = domain["sequences"] + SPREAD * math.sqrt(domain["sequences"] * readers) + 2 * readers * batch_size
    return dataset if needed <= blocks else StreamingDataset(domain["path"], subsample=needed / blocks, **settings)
