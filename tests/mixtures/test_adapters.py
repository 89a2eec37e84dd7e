"""The stream as a torch and as a datasets IterableDataset."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mixtures import MixtureStream, UserError
from mixtures.adapters import TorchRows, hf_dataset
from tests.mixtures.stream.helpers import ROW, make_mixture, make_sources

SHARES = {"web": 0.7, "code": 0.2, "maths": 0.1}
BATCH = 4


def torch_rows(*, rank: int = 0, world: int = 1) -> TorchRows:
    stream = MixtureStream(
        make_mixture(SHARES, rows=102),
        make_sources({"web": 60, "code": 30, "maths": 12}),
        row_tokens=ROW,
        rank=rank,
        world=world,
    )
    return TorchRows(stream, batch_rows=BATCH)


def batches(rows: TorchRows, workers: int) -> list[torch.Tensor]:
    return [batch["input_ids"] for batch in DataLoader(rows, batch_size=BATCH, num_workers=workers)]


@pytest.mark.slow
def test_batches_are_the_same_for_every_number_of_workers() -> None:
    rows = torch_rows()
    expected = rows.stream.copy().take(102)
    for workers in (0, 1, 2):
        found = batches(rows, workers)
        assert [len(batch) for batch in found] == [4] * 25 + [2]
        assert (torch.cat(found).numpy() == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "later"), [(0, 2), (2, 0), (2, 1)])
def test_resuming_is_exact_at_another_number_of_workers_and_ranks(workers: int, later: int) -> None:
    everything = torch_rows().stream.take(102)
    rows = torch_rows()
    loader = iter(DataLoader(rows, batch_size=BATCH, num_workers=workers))
    for _ in range(7):
        next(loader)
        rows.advance()
    state = copy.deepcopy(rows.state_dict())
    parts = []
    for rank in range(2):
        resumed = torch_rows(rank=rank, world=2)
        resumed.load_state_dict(state)
        parts.append(torch.cat(batches(resumed, later)).numpy())
    assert (np.stack(parts, axis=1).reshape(-1, ROW) == everything[7 * BATCH :]).all()


def test_labels_are_the_rows_themselves() -> None:
    row = next(iter(torch_rows()))
    assert row["labels"] is row["input_ids"]
    assert row["input_ids"].dtype == torch.int64


def test_the_datasets_adapter_gives_its_ranks_rows_from_the_streams_place() -> None:
    stream = torch_rows(rank=1, world=2).stream
    stream.skip(5)
    expected = stream.copy().take(100)
    dataset = hf_dataset(stream).with_format("numpy")
    found = np.stack([row["input_ids"] for row in dataset])
    assert (found == expected).all()
    assert (np.stack([row["input_ids"] for row in dataset]) == expected).all()  # the stream did not move


def prepared(loader: DataLoader, *, rank: int, dispatch: bool) -> DataLoader:
    """What `accelerator.prepare` makes of a loader in process `rank` of two."""
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader

    Accelerator(cpu=True)
    where = {"device": torch.device("cpu"), "num_processes": 2, "process_index": rank}
    return prepare_data_loader(loader, **where, put_on_device=dispatch, dispatch_batches=dispatch)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("hf", [False, True])
def test_rows_of_a_rank_are_not_dealt_out_a_second_time(
    fresh_accelerator: None, dispatch: bool, workers: int, hf: bool
) -> None:
    rows = torch_rows(rank=0, world=2)
    dataset = hf_dataset(rows.stream) if hf else rows
    plain = DataLoader(dataset, batch_size=BATCH, num_workers=workers)  # type: ignore[arg-type]
    assert len(list(plain)) > 10
    loader = prepared(plain, rank=0, dispatch=dispatch)
    with pytest.raises((UserError, RuntimeError), match="would deal its rows out to the processes once more"):
        next(iter(loader))


@pytest.mark.slow
def test_one_stream_for_all_processes_is_dealt_out_whole(fresh_accelerator: None) -> None:
    seen = []
    for rank in range(2):
        loader = prepared(DataLoader(torch_rows(), batch_size=BATCH), rank=rank, dispatch=False)
        seen += [tuple(row.tolist()) for batch in loader for row in batch["input_ids"]]
    assert len(set(seen)) == len({tuple(row) for row in torch_rows().stream.take(102).tolist()})
