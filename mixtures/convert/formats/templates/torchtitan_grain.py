"""A dataset for torchtitan's grain loader that follows a mixture through its stages in one run: `mixtures convert --to torchtitan`.

For torchtitan after 0.3.0 (snapshot b5bcd76c6, 2026-08-21). Every domain is packed into rows, and the rows are mixed by grain's own
arithmetic. torchtitan's DatasetMixConfig does the same with one set of weights; it has no stages, refuses a weight of 0, and finds its
datasets in a checkpoint by their number.
"""

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import grain.python as grain
from torchtitan.components.data import ConcatThenSplitPackingConfig, SingleDatasetConfig
from torchtitan.hf_datasets.text_datasets import TextProcessor
from torchtitan_data import load_domain, read_mixture, rows_by_stage


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainSource:
    """A domain's documents, by number."""

    domain: dict[str, Any]

    def build(self, *, dataset_iteration_policy: Any) -> Any:
        return load_domain(self.domain)


def is_there(sample: Any) -> bool:
    """Not a document of one token, of which nothing can be predicted."""
    return sample is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """In a config function: `config.dataloader = GrainDataLoader.Config(dataset=MixtureConfig())`."""

    text: str = "text"
    """Column of the documents' text"""

    def build(self, *, context: Any, dataset_iteration_policy: Any) -> grain.IterDataset:
        mixture = read_mixture()
        policy = dataset_iteration_policy
        rows = rows_by_stage(mixture, seq_len=context.seq_len, dp_world_size=policy.dp_world_size)
        names = [domain["name"] for domain in mixture["domains"]]
        children = [
            ConcatThenSplitPackingConfig(
                dataset=SingleDatasetConfig(
                    source=DomainSource(domain=domain),
                    processor=TextProcessor.Config(text_fn=itemgetter(self.text)),
                    post_filters=(is_there,),
                )
            ).build(context=context, dataset_iteration_policy=replace(policy, seed=policy.seed + number))
            for number, domain in enumerate(mixture["domains"])
        ]
        weights = [[stage["weights"][name] for name in names] for stage in mixture["stages"]]
        return StagedMix(children, weights, rows)


class StagedMix(grain.IterDataset):
    """Rows of `children`: in stage s `rows[s]` of them (None: without end) in proportion to `weights[s]`."""

    def __init__(self, children: list[grain.IterDataset], weights: list[list[float]], rows: list[int | None]) -> None:
        super().__init__(children)
        self._children, self._rows = children, rows
        self._orders = [_order(stage) for stage in weights]

    def __iter__(self) -> grain.DatasetIterator:
        return _StagedIterator([iter(child) for child in self._children], self._orders, self._rows)


class _StagedIterator(grain.DatasetIterator):
    """Which child gives the next row stands in `orders`; all keep their place through the stages."""

    def __init__(self, children: list[grain.DatasetIterator], orders: list[grain.MapDataset], rows: list[int | None]) -> None:
        super().__init__(children)
        self._children, self._orders, self._rows = children, orders, rows
        self._stage, self._given = 0, 0

    def __next__(self) -> Any:
        while self._given == self._rows[self._stage]:
            self._stage, self._given = self._stage + 1, 0
        row = next(self._children[self._orders[self._stage][self._given]])
        self._given += 1
        return row

    def get_state(self) -> dict[str, Any]:
        return {"stage": self._stage, "given": self._given, "children": [child.get_state() for child in self._children]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._stage, self._given = state["stage"], state["given"]
        for child, saved in zip(self._children, state["children"], strict=True):
            child.set_state(saved)


def _order(weights: list[float]) -> grain.MapDataset:
    """Position -> number of the child that gives the row there, by grain's own mixing."""
    used = [number for number, weight in enumerate(weights) if weight > 0]
    return grain.MapDataset.mix(
        [grain.MapDataset.source([number]).repeat() for number in used], weights=[weights[number] for number in used]
    )
