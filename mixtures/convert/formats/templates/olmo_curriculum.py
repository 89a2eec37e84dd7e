"""A mixture for OLMo-core: one instance source a stage, read in order by the ComposableDataLoader. `mixtures convert` wrote it.

    stages = curriculum.stages(tokenizer)                   # ExperimentConfig(dataset=stages, ...)
    data_loader = curriculum.data_loader(work_dir)          # ExperimentConfig(data_loader=data_loader, ...)

or, without an ExperimentConfig,

    sources = [stage.build(work_dir) for stage in curriculum.stages(tokenizer)]
    loader = curriculum.data_loader(work_dir).build(*sources, tokenizer=tokenizer, dp_process_group=...)

curriculum.json, beside this file, says how many sequences of which domain a stage has. No sequence comes twice before its domain is
used up, and the loader shuffles inside a stage only.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from olmo_core.aliases import PathOrStr
from olmo_core.data import NumpyDatasetDType, TokenizerConfig
from olmo_core.data.composable import (
    ComposableDataLoaderConfig,
    ConcatAndChunkInstanceSource,
    ConcatenatedInstanceSource,
    Instance,
    InstanceSource,
    InstanceSourceConfig,
    NumpyDocumentSourceConfig,
    ShuffleStrategy,
    TokenRange,
    TokenSource,
)
from olmo_core.exceptions import OLMoConfigurationError

HERE = Path(__file__).parent
PLAN = json.loads((HERE / "curriculum.json").read_text())
ROOM = 1.005  # of a cap: stages are whole steps


def stages(tokenizer: TokenizerConfig, dtype: NumpyDatasetDType | None = None) -> list[InstanceSourceConfig]:
    """One source a stage, in order; dtype of the .npy files (None: the smallest that holds the vocabulary, as OLMo-core takes it)."""
    return [Stage(number=number, tokenizer=tokenizer, dtype=dtype) for number in range(len(PLAN["stages"]))]


def data_loader(work_dir: str, **settings: Any) -> ComposableDataLoaderConfig:
    """The loader that keeps the stages in order; settings: its others, such as num_workers. One epoch is the whole schedule."""
    return ComposableDataLoaderConfig(
        work_dir=work_dir,
        global_batch_size=PLAN["batch_sequences"] * PLAN["sequence_length"],
        seed=PLAN["seed"],
        shuffle_strategy=ShuffleStrategy.intra_source,
        **settings,
    )


@dataclass
class Stage(InstanceSourceConfig):
    """The stage `number`, from 0."""

    number: int
    tokenizer: TokenizerConfig
    dtype: NumpyDatasetDType | None = None

    def build(self, work_dir: PathOrStr) -> InstanceSource:
        """Its sequences. Raises OLMoConfigurationError where a domain's files hold too little text, or another than was scored."""
        stage = PLAN["stages"][self.number]
        parts = []
        for name, count in stage["sequences"].items():
            before = sum(earlier["sequences"].get(name, 0) for earlier in PLAN["stages"][: self.number])
            parts.append(Part(self._domain(name, work_dir), before, count, work_dir=work_dir, label=name))
        return ConcatenatedInstanceSource(*parts, work_dir=work_dir, label=stage["name"])

    def _domain(self, name: str, work_dir: PathOrStr) -> InstanceSource:
        domain, length = PLAN["domains"][name], PLAN["sequence_length"]
        paths = NumpyDocumentSourceConfig(
            source_paths=domain["paths"], tokenizer=self.tokenizer, dtype=self.dtype, source_group_size=-1, label=name
        )
        tokens: TokenSource = paths.build(work_dir)[0]
        if domain["view"] is not None:
            if len(tokens) != domain["tokens"]:
                raise OLMoConfigurationError(
                    f"{name}: {len(tokens):,} tokens in its files, {domain['tokens']:,} in the text that was scored"
                )
            tokens = View(tokens, HERE / domain["view"], work_dir=work_dir)
        rows = ConcatAndChunkInstanceSource(tokens, sequence_length=length, work_dir=work_dir, label=name)
        wanted = sum(stage["sequences"].get(name, 0) for stage in PLAN["stages"])
        most = wanted if domain["max_epochs"] is None else domain["max_epochs"] * ROOM * (len(rows) + 1)
        if len(rows) == 0 or wanted > most:
            cap = f", at most {domain['max_epochs']:g} times" if domain["max_epochs"] else ""
            raise OLMoConfigurationError(f"{name}: the schedule reads {wanted:,} sequences, its files hold {len(rows):,}{cap}")
        return rows


class Part(InstanceSource):
    """`count` sequences of a domain, from the `start`-th of its schedule on.

    The schedule reads the n sequences again and again in the order 0, k, 2k, ... modulo n, k next to n times the golden ratio: any
    stretch of it is spread evenly over the domain, and no index has to be kept.
    """

    def __init__(self, source: InstanceSource, start: int, count: int, *, work_dir: PathOrStr, label: str) -> None:
        super().__init__(work_dir=work_dir, sequence_length=source.sequence_length, label=label)
        self._source, self._start, self._count = source, start, count
        self._stride = next(k for k in range(round(len(source) * (5**0.5 - 1) / 2) or 1, 2 * len(source)) if math.gcd(k, len(source)) == 1)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, idx: int) -> Instance:
        place = self._start + int(self.validate_index(idx))
        return self._source[place * self._stride % len(self._source)]

    @cached_property
    def fingerprint(self) -> str:
        return _hash(type(self).__name__, self._start, self._count, self._source.fingerprint)

    def children(self) -> list[InstanceSource]:
        return [self._source]


class View(TokenSource):
    """What a sample policy keeps of a domain's tokens, as often as it says: spans, one after the other.

    file: .npy int64 (2, K): where the spans begin in the domain, and where they end in this text.
    """

    def __init__(self, source: TokenSource, file: Path, *, work_dir: PathOrStr) -> None:
        super().__init__(work_dir=work_dir, label=source.label)
        self._source = source
        self._starts, self._ends = np.load(file, mmap_mode="r")

    @property
    def num_tokens(self) -> int:
        return int(self._ends[-1])

    def get_token_range(self, start_idx: int, end_idx: int) -> TokenRange:
        at, end = self.validate_indices(start_idx, end_idx)
        pieces = []
        for span in range(int(np.searchsorted(self._ends, at, side="right")), len(self._ends)):
            begins = int(self._ends[span - 1]) if span else 0
            shift, stop = int(self._starts[span]) - begins, min(end, int(self._ends[span]))
            pieces.append(self._source.get_token_range(at + shift, stop + shift)["input_ids"])
            at = stop
            if at == end:
                break
        return {"input_ids": np.concatenate(pieces)}

    @cached_property
    def fingerprint(self) -> str:
        return _hash(type(self).__name__, self._starts.tobytes(), self._ends.tobytes(), self._source.fingerprint)

    def children(self) -> list[TokenSource]:
        return [self._source]


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
