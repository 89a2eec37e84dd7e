"""A data loader of torchtitan 0.3.0 that follows a mixture through its stages in one run; written by `mixtures convert --to torchtitan`.

Every stage is torchtitan's own InterleavedDataset over the same packed sources, so that a stage reads on where the one before stopped,
and a checkpoint resumes to the row. Documents come in file order in the first pass, shuffled in every later one, as in torchtitan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import IterableDataset
from torchtitan.components.dataloader import ParallelAwareDataloader
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.hf_datasets import DatasetConfig
from torchtitan.hf_datasets.interleaved import InterleavedDataset
from torchtitan.hf_datasets.text_datasets import DATASETS, HuggingFaceTextDataset
from torchtitan_data import load_domain, read_mixture, rows_by_stage


class StagedDataset(IterableDataset, Stateful):
    """Rows of one rank: `rows` (None: without end) of every stage, one InterleavedDataset of `blends` each."""

    def __init__(self, blends: list[InterleavedDataset], rows: list[int | None]) -> None:
        self._blends, self._rows = blends, rows
        self._stage, self._given = 0, 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            blend = iter(self._blends[self._stage])
            while self._given != self._rows[self._stage]:
                row = next(blend)
                self._given += 1
                yield row
            self._stage, self._given = self._stage + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self._stage, "given": self._given, "blend": self._blends[self._stage].state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stage, self._given = state["stage"], state["given"]
        self._blends[self._stage].load_state_dict(state["blend"])


class MixtureDataLoader(ParallelAwareDataloader):
    """In a config function: `config.dataloader = MixtureDataLoader.Config()`."""

    @dataclass(kw_only=True, slots=True)
    class Config(ParallelAwareDataloader.Config):
        text: str = "text"
        """Column of the documents' text"""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: BaseTokenizer,
        seq_len: int,
        local_batch_size: int,
        snapshot_every_n_steps: int | None = 1,
        **_: Any,
    ) -> None:
        if config.num_workers > 1:
            raise ValueError("every worker would give the same rows; take num_workers 0 or 1")
        mixture = read_mixture()
        rows = rows_by_stage(mixture, seq_len=seq_len, dp_world_size=dp_world_size)
        sources = []
        for domain in mixture["domains"]:
            key = f"mixture/{domain['name']}"
            DATASETS[key] = DatasetConfig(
                path=key, loader=lambda _, domain=domain: load_domain(domain), sample_processor=itemgetter(config.text)
            )
            sources.append(HuggingFaceTextDataset(key, None, tokenizer, seq_len, dp_rank, dp_world_size, infinite=True))
        blends = [
            InterleavedDataset(
                sources,
                [stage["weights"][domain["name"]] for domain in mixture["domains"]],
                seed=mixture["seed"] + number * dp_world_size + dp_rank,
            )
            for number, stage in enumerate(mixture["stages"])
        ]
        super().__init__(
            StagedDataset(blends, rows),
            dp_rank=dp_rank,
            dp_world_size=dp_world_size,
            num_workers=config.num_workers,
            persistent_workers=config.persistent_workers,
            pin_memory=config.pin_memory,
            prefetch_factor=config.prefetch_factor,
            snapshot_every_n_steps=snapshot_every_n_steps,
            batch_size=local_batch_size,
        )
