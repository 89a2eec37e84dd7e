"""What the generated dataset needs of torchtitan after 0.3.0 (snapshot b5bcd76c6), which is on no package index:
restated over real grain.

In torchtitan: components/data/dataset.py, packing.py, loader.py, types.py, and TextProcessor in
hf_datasets/text_datasets.py.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grain.python as grain
import numpy as np
import pytest
from grain.experimental import ConcatThenSplitIterDataset, ThreadPrefetchIterDataset


@dataclass(frozen=True, kw_only=True)
class Context:
    tokenizer: Any
    seq_len: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    seed: int = 42
    shuffle: bool = True
    repeat: bool = True
    dp_rank: int = 0
    dp_world_size: int = 1


class TextProcessor:
    @dataclass(kw_only=True)
    class Config:
        text_fn: Callable[[dict[str, Any]], str]

        def build(self, *, context: Context) -> "TextProcessor":
            return TextProcessor(self.text_fn, context)

    def __init__(self, text_fn: Callable[[dict[str, Any]], str], context: Context) -> None:
        self._text_fn, self._tokenizer = text_fn, context.tokenizer

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> np.ndarray | None:
        ids = np.asarray(self._tokenizer.encode(self._text_fn(sample), add_bos=True, add_eos=True), dtype=np.int64)
        return None if len(ids) < 2 else ids[:-1]


@dataclass(frozen=True, kw_only=True)
class SingleDatasetConfig:
    source: Any
    pre_filters: tuple[Callable[[Any], bool], ...] = ()
    processor: TextProcessor.Config | None = None
    post_filters: tuple[Callable[[Any], bool], ...] = ()

    def build(self, *, context: Context, dataset_iteration_policy: Policy) -> grain.MapDataset:
        """Processed, shuffled as a whole, a contiguous part of it for a rank, repeated."""
        policy = dataset_iteration_policy
        data = grain.MapDataset.source(self.source.build(dataset_iteration_policy=policy))
        if self.processor is not None:
            data = data.random_map(self.processor.build(context=context), seed=policy.seed)
        for keep in self.post_filters:
            data = data.filter(keep)
        if policy.shuffle:
            data = data.shuffle(seed=policy.seed)
        size, rest = divmod(len(data), policy.dp_world_size)
        start = policy.dp_rank * size + min(policy.dp_rank, rest)
        data = data[start : start + size + (policy.dp_rank < rest)]
        return data.repeat() if policy.repeat else data


@dataclass(frozen=True, kw_only=True)
class ConcatThenSplitPackingConfig:
    dataset: Any

    def build(self, *, context: Context, dataset_iteration_policy: Policy) -> grain.IterDataset:
        data = self.dataset.build(context=context, dataset_iteration_policy=dataset_iteration_policy)
        data = data.map(lambda ids: {"input_ids": ids}).to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        )
        return ConcatThenSplitIterDataset(data, length_struct={"input_ids": context.seq_len}).map(
            lambda packed: packed["input_ids"]
        )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As modules of torchtitan."""
    data, texts = ModuleType("torchtitan.components.data"), ModuleType("torchtitan.hf_datasets.text_datasets")
    data.__dict__.update(
        SingleDatasetConfig=SingleDatasetConfig, ConcatThenSplitPackingConfig=ConcatThenSplitPackingConfig
    )
    texts.__dict__.update(TextProcessor=TextProcessor)
    for module in (data, texts):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def batches(dataset: Any, *, context: Context, policy: Policy, local_batch_size: int) -> Any:
    """The iterator of GrainDataLoader."""
    rows = dataset.build(context=context, dataset_iteration_policy=policy)
    return iter(
        ThreadPrefetchIterDataset(rows.batch(local_batch_size, drop_remainder=policy.repeat), prefetch_buffer_size=2)
    )
