"""The readers that benchmarks/stream.py compares, each in a process of its own that answers orders on its standard
input.

    python benchmarks/stream_readers.py READER CASE.json

Every reader gives blocks of rows of int64 token ids, (rows, row_tokens), without end, from the same tokens on disk:
DIR/NAME.bin, flat uint16, of which the readers of other libraries have a copy in their own format. The first token of a
row is its domain's number.
"""

import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 256  # rows
LOADER_ROWS = 32  # of a DataLoader's batch
VOCABULARY = 50_000


class Case:
    """What is read: `shares` of domains of `rows_each` rows of `row_tokens` tokens in `folder`, by rank 0 of
    `world`.
    """

    def __init__(self, *, folder: str, shares: list[float], row_tokens: int, rows_each: int, world: int) -> None:
        self.folder, self.shares, self.row_tokens, self.rows_each, self.world = (
            Path(folder),
            shares,
            row_tokens,
            rows_each,
            world,
        )
        self.names = [f"d{number:03}" for number in range(len(shares))]

    def tokens(self, name: str) -> np.ndarray:
        """(rows_each, row_tokens) of a domain, a memory map."""
        return np.memmap(self.folder / f"{name}.bin", dtype=np.uint16, mode="r").reshape(
            self.rows_each, self.row_tokens
        )


def our_stream(case: Case) -> Any:
    """A MixtureStream without end (10^12 rows), over the memory maps."""
    from mixtures import Mixture, MixtureStream

    unique = case.rows_each * case.row_tokens
    mixture = Mixture.model_validate(
        {
            "tokenizer": {"name": "random", "vocab_size": VOCABULARY, "fingerprint": "none"},
            "horizon": {"total_tokens": 10**12 * case.row_tokens, "sequence_length": case.row_tokens},
            "domains": [{"name": name, "unique_tokens": unique, "unique_documents": 1} for name in case.names],
            "stages": [{"name": "all", "start_tokens": 0, "weights": dict(zip(case.names, case.shares, strict=True))}],
            "provenance": {"tool": "benchmarks/stream.py", "method": "random"},
        }
    )
    return MixtureStream(mixture, {name: case.tokens(name).reshape(-1) for name in case.names}, world=case.world)


def stream_rows(case: Case) -> Iterator[np.ndarray]:
    """Ours, row by row, as a `for` loop has them."""
    for row in our_stream(case):
        yield row[None]


def stream_take(case: Case) -> Iterator[np.ndarray]:
    """Ours, `take(256)`."""
    stream = our_stream(case)
    while True:
        yield stream.take(BLOCK)


def stream_loader(case: Case) -> Iterator[np.ndarray]:
    """Ours, TorchRows in a DataLoader without workers, 32 rows a batch, moved on after each batch as a trainer does."""
    import torch
    from torch.utils.data import DataLoader

    from mixtures.adapters import TorchRows

    torch.set_num_threads(1)
    rows = TorchRows(our_stream(case), batch_rows=LOADER_ROWS)
    for batch in DataLoader(rows, batch_size=LOADER_ROWS):
        rows.advance()
        yield batch["input_ids"].numpy()


def saved_datasets(case: Case) -> list[Any]:
    """`datasets.Dataset` of every domain, memory-mapped from disk, where the first call writes them."""
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    for name in case.names:
        if not (path := case.folder / "arrow" / name).exists():
            column = pa.FixedSizeListArray.from_arrays(pa.array(case.tokens(name).reshape(-1)), case.row_tokens)
            datasets.Dataset(pa.table({"input_ids": column})).save_to_disk(str(path))
    return [datasets.load_from_disk(str(case.folder / "arrow" / name)) for name in case.names]


def datasets_map(case: Case, batch_rows: int | None) -> Iterator[np.ndarray]:
    """`interleave_datasets` of shuffled map-style datasets."""
    import datasets

    parts = [part.shuffle(seed=number) for number, part in enumerate(saved_datasets(case))]
    mixed = datasets.interleave_datasets(
        parts, probabilities=case.shares, seed=0, stopping_strategy="all_exhausted"
    ).with_format("numpy")
    if case.world > 1:
        mixed = mixed.shard(num_shards=case.world, index=0)
    while True:
        if batch_rows is None:
            yield from (row["input_ids"][None] for row in mixed)
        else:
            yield from (batch["input_ids"] for batch in mixed.iter(batch_size=batch_rows))


def datasets_iterable(case: Case) -> Iterator[np.ndarray]:
    """`interleave_datasets` of iterable datasets, in stored order (a shuffle buffer costs more), repeated, 256 rows at
    a time.
    """
    import datasets

    parts = [part.to_iterable_dataset().repeat(None) for part in saved_datasets(case)]
    mixed = datasets.interleave_datasets(parts, probabilities=case.shares, seed=0)
    for batch in mixed.with_format("numpy").iter(batch_size=BLOCK):
        yield batch["input_ids"]


def mosaic(case: Case) -> Iterator[np.ndarray]:
    """MosaicML streaming, local MDS shards, shuffled, one Stream a domain with its `proportion`, epochs of 2^20
    samples.
    """
    package = types.ModuleType("streaming")  # streaming/__init__.py loads its vision part, which wants torchvision
    package.__path__ = list(importlib.util.find_spec("streaming").submodule_search_locations)  # type: ignore[union-attr,arg-type]
    sys.modules["streaming"] = package
    from streaming.base import MDSWriter, Stream, StreamingDataset

    for name in case.names:
        if not (path := case.folder / "mds" / name).exists():
            with MDSWriter(out=str(path), columns={"ids": f"ndarray:uint16:{case.row_tokens}"}) as writer:
                for row in case.tokens(name):
                    writer.write({"ids": np.asarray(row)})
    streams = [
        Stream(local=str(case.folder / "mds" / name), proportion=share)
        for name, share in zip(case.names, case.shares, strict=True)
    ]
    dataset = StreamingDataset(streams=streams, epoch_size=2**20, batch_size=LOADER_ROWS, shuffle=True, shuffle_seed=0)
    while True:
        for sample in dataset:
            yield sample["ids"].astype(np.int64)[None]


def grain(case: Case) -> Iterator[np.ndarray]:
    """Grain, `MapDataset.mix` of shuffled, repeated domains over the memory maps, in this thread (16 threads were ten
    times slower).
    """
    import grain

    class Rows:
        def __init__(self, tokens: np.ndarray) -> None:
            self.tokens = tokens

        def __len__(self) -> int:
            return len(self.tokens)

        def __getitem__(self, row: int) -> np.ndarray:
            return self.tokens[row].astype(np.int64)

    parts = [
        grain.MapDataset.source(Rows(case.tokens(name))).seed(number).shuffle().repeat()
        for number, name in enumerate(case.names)
    ]
    mixed = grain.MapDataset.mix(parts, weights=case.shares)
    if case.world > 1:
        mixed = mixed[0 :: case.world]
    for row in mixed.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)):
        yield row[None]


READERS: dict[str, Callable[[Case], Iterator[np.ndarray]]] = {
    "stream, rows": stream_rows,
    "stream, take(256)": stream_take,
    "stream, TorchRows + DataLoader": stream_loader,
    "datasets map, rows": lambda case: datasets_map(case, None),
    "datasets map, 256 rows": lambda case: datasets_map(case, BLOCK),
    "datasets iterable, 256 rows": datasets_iterable,
    "mosaicml-streaming": mosaic,
    "grain": grain,
}


def speed(blocks: Iterator[np.ndarray], seconds: float, row_tokens: int, least: int) -> dict[str, float]:
    """Tokens a second of wall clock and of processor time, over `seconds` of the latter and whole runs of `least`
    rows.
    """
    rows, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.process_time() - cpu < seconds:
        got = 0
        while got < least:
            got += len(next(blocks))
        rows += got
    tokens, wall, cpu = rows * row_tokens, time.perf_counter() - wall, time.process_time() - cpu
    return {"tokens_per_second": tokens / wall, "tokens_per_cpu_second": tokens / cpu}


def beginning(blocks: Iterator[np.ndarray], rows: int, case: Case) -> dict[str, Any]:
    """Largest |achieved - wanted| share after 10,000 rows; private memory (MB) after 1,000 and after `rows` rows."""
    counts, read, error, megabytes = np.zeros(len(case.shares)), 0, 0.0, {}
    for until in (1_000, 10_000, rows):
        while read < until:
            block = next(blocks)
            read += len(block)
            counts += np.bincount(block[:, 0], minlength=len(counts))
        if until == 10_000:
            error = float(np.abs(counts / read - case.shares).max())
        megabytes[until] = private_megabytes()
    return {"share_error": error, "private_mb": megabytes}


def private_megabytes() -> float:
    """Anonymous and shared memory of this process; not the files that it maps, which the page cache holds."""
    lines = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return round(sum(int(lines[kind].split()[0]) for kind in ("Anonymous", "Pss_Shmem")) / 1024, 1)


def resume(case: Case, row: int) -> dict[str, float]:
    """Processor seconds to the first row after `row` rows: from our state, by skipping without reading, by reading
    everything again.
    """
    began = time.process_time()
    for _ in islice(stream_take(case), row // BLOCK + 1):
        pass
    replay = time.process_time() - began
    began = time.process_time()
    stream = our_stream(case)
    opened = time.process_time() - began
    stream.skip(row)
    skipped = time.process_time() - began - opened
    state = json.dumps(stream.state_dict())
    fresh = our_stream(case)
    began = time.process_time()
    fresh.load_state_dict(json.loads(state))
    first = fresh.take(1)
    loaded = time.process_time() - began
    assert np.array_equal(first, stream.take(1)), "the state leads to another row"
    return {"open_s": opened, "state_s": loaded, "skip_s": skipped, "replay_s": replay, "state_bytes": len(state)}


def main() -> None:
    """Answer orders, one JSON a line."""
    name, case = sys.argv[1], Case(**json.loads(Path(sys.argv[2]).read_text()))
    began = time.process_time()
    blocks = READERS[name](case)
    blocks = chain([next(blocks)], blocks)
    print(json.dumps({"first_row_s": time.process_time() - began}), flush=True)
    answers = {
        "speed": lambda seconds: speed(
            blocks, seconds, case.row_tokens, BLOCK if name == "stream, rows" else 1
        ),  # it reads ahead
        "beginning": lambda rows: beginning(blocks, rows, case),
        "resume": lambda row: resume(case, row),
    }
    for line in sys.stdin:
        order, value = json.loads(line)
        print(json.dumps(answers[order](value)), flush=True)


if __name__ == "__main__":
    main()
