"""LitData's own combined dataset and loader on our module, over datasets that its own writer made."""

import itertools
import os
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # it asks PyPI
pytest.importorskip("litdata", reason="litdata is not installed: tests/trainers/envs/litdata.txt")

import torch
from litdata import CombinedStreamingDataset
from litdata.streaming.cache import Cache
from litdata.streaming.item_loader import TokensLoader
from litdata.utilities.env import _DistributedEnv
from toy import NAMES, SECOND, SPAN, WANTED, ZERO, documents, make_mixture, token_shares, tokens_of

from mixtures.convert import Report, convert
from mixtures.errors import UserError

LENGTH, BATCH = 64, 16
MANY = 2_000_000  # tokens, for shares that are drawn
APART = {"first": {"web": 1.0, "code": 0.0, "math": 0.0}, "second": {"web": 0.0, "code": 1.0, "math": 0.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of tokens a domain, in some chunks."""
    folder = tmp_path_factory.mktemp("datasets")
    for name in NAMES:
        cache = Cache(str(folder / name), chunk_bytes="64KB", item_loader=TokensLoader(block_size=LENGTH))
        for number, document in enumerate(documents(name)):
            cache[number] = torch.tensor(document, dtype=torch.int32)
        cache.done()
        cache.merge()
    return folder


def _convert(tmp_path: Path, data: Path, **mixture: Any) -> Report:
    return convert(
        make_mixture(tmp_path / "mixture", **mixture),
        to="litdata",
        output=tmp_path / "litdata",
        data=f"{data}/{{domain}}",
        sequence_length=LENGTH,
        batch_size=BATCH,
    )


def _module(report: Report) -> ModuleType:
    """litdata_mixture.py, imported from its directory."""
    spec = spec_from_file_location("litdata_mixture", report.directory / "litdata_mixture.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["litdata_mixture"] = module
    spec.loader.exec_module(module)
    return module


def _batches(report: Report, *, batch_size: int = BATCH, num_workers: int = 0) -> list[np.ndarray]:
    return [batch.numpy() for batch in _module(report).data_loader(batch_size, num_workers)]


def _by_stage(report: Report, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Ids of every stage, as the report says where it ends."""
    ids = np.concatenate(batches).ravel()
    ends = [stage["start_tokens"] + stage["tokens"] for stage in report.record["stages"]]
    assert ends[-1] == len(ids)
    return np.split(ids, ends[:-1])


def _rows(ids: np.ndarray, name: str) -> "Counter[bytes]":
    """How often every block of a domain is in some ids."""
    rows = ids.reshape(-1, LENGTH).astype(np.int64)
    return Counter(row.tobytes() for row in rows[rows[:, 0] // SPAN == 1 + NAMES.index(name)])


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Report, list[np.ndarray]]:
    report = _convert(tmp_path_factory.mktemp("staged"), data, tokens=MANY)
    return report, _batches(report)


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(staged: tuple[Report, list[np.ndarray]]) -> None:
    for ids, wanted in zip(_by_stage(*staged), (WANTED, SECOND), strict=True):
        assert token_shares(ids) == pytest.approx(wanted, abs=0.01)


def test_the_report_says_what_was_trained(staged: tuple[Report, list[np.ndarray]]) -> None:
    report, batches = staged
    for ids, stage in zip(_by_stage(report, batches), report.record["stages"], strict=True):
        width = {name: high - low for name, (low, high) in stage["token_shares_95"].items()}
        assert all(abs(share - stage["given"][name]) < width[name] for name, share in token_shares(ids).items())
    ids = np.concatenate(batches)
    passes = {name: token_shares(ids)[name] * ids.size / len(tokens_of(name)) for name in NAMES}
    assert passes == pytest.approx(report.record["epochs"], rel=0.02)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_stages_change_at_the_batch_next_to_their_tokens(tmp_path: Path, data: Path, workers: int) -> None:
    batches = _batches(_convert(tmp_path, data, stages=APART), num_workers=workers)
    boundary, end = (round(tokens / (LENGTH * BATCH)) for tokens in (200_000, 400_000))
    assert [token_shares(batch)["web"] for batch in batches] == [1.0] * boundary + [0.0] * (end - boundary)


def test_processes_divide_the_blocks_and_change_stages_together(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, read = _convert(tmp_path, data, stages=APART), []
    there = {name: _there(data, report, name) for name in ("web", "code")}
    for rank in range(2):
        monkeypatch.setattr(_DistributedEnv, "detect", lambda rank=rank: _DistributedEnv(2, rank, 1))
        read.append(_batches(report, batch_size=BATCH // 2))
    boundary, end = (round(tokens / (LENGTH * BATCH)) for tokens in (200_000, 400_000))
    for batches in read:
        assert [token_shares(batch)["web"] for batch in batches] == [1.0] * boundary + [0.0] * (end - boundary)
    for name, blocks in there.items():
        assert not _rows(np.concatenate(list(itertools.chain(*read))), name) - blocks


def _there(data: Path, report: Report, name: str) -> "Counter[bytes]":
    """How often every block is in a domain's dataset."""
    dataset = _module(report)._dataset(name, LENGTH, readers=1, batch_size=BATCH)
    assert str(data / name) == dataset.input_dir.path
    return _rows(np.stack([dataset[place].numpy() for place in range(len(dataset))]), name)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_read_twice_before_its_domain_is_used_up(tmp_path: Path, data: Path, workers: int) -> None:
    report = _convert(tmp_path, data)
    ids = np.concatenate(_batches(report, num_workers=workers))
    for name in ("web", "code"):
        assert report.record["epochs"][name] < 0.5
        assert not _rows(ids, name) - _there(data, report, name)


def test_a_small_domain_is_repeated_where_litdata_alone_would_end(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    batches = _batches(report)
    read = _rows(np.concatenate(batches), "math")
    assert report.record["epochs"]["math"] == pytest.approx(2.78, abs=0.01)
    assert set(read.values()) >= {2, 3}
    domains = _module(report).PLAN["domains"]
    for domain in domains.values():
        domain["sequences"] = 1  # so that none is repeated
    datasets = [sys.modules["litdata_mixture"]._dataset(name, LENGTH, readers=1, batch_size=BATCH) for name in domains]
    alone = CombinedStreamingDataset(datasets, seed=0, weights=list(WANTED.values()), iterate_over_all=False)
    assert sum(1 for _ in alone) < 0.8 * len(batches) * BATCH


def test_a_domain_without_weight_gives_nothing_in_that_stage(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": WANTED}, tokens=MANY)
    first, second = _by_stage(report, _batches(report))
    assert token_shares(first) == pytest.approx(ZERO, abs=0.01)
    assert token_shares(first)["math"] == 0
    assert token_shares(second) == pytest.approx(WANTED, abs=0.01)


def test_a_domain_that_is_never_used_needs_no_data(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"only": ZERO}, tokens=40_000)
    assert list(_module(report).PLAN["domains"]) == ["web", "code"]
    assert token_shares(np.concatenate(_batches(report)))["math"] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_goes_on_from_a_state_before_and_after_the_boundary(tmp_path: Path, data: Path, workers: int) -> None:
    report = _convert(tmp_path, data, tokens=100_000)
    module, whole = _module(report), _batches(report, num_workers=workers)
    for stop in (20, 70):
        loader = module.data_loader(BATCH, workers)
        for _ in zip(range(stop), loader, strict=False):
            pass
        again = module.data_loader(BATCH, workers)
        again.load_state_dict(loader.state_dict())
        rest = [batch.numpy() for batch in again]
        assert len(rest) == len(whole) - stop
        assert all((one == other).all() for one, other in zip(rest, whole[stop:], strict=True))


def test_a_resumed_run_with_workers_changes_stages_at_the_same_batch(tmp_path: Path, data: Path) -> None:
    module = _module(_convert(tmp_path, data, stages=APART, tokens=100_000))
    loader = module.data_loader(BATCH, 2)
    for _ in zip(range(21), loader, strict=False):
        pass
    again = module.data_loader(BATCH, 2)
    again.load_state_dict(loader.state_dict())
    boundary, end = (round(tokens / (LENGTH * BATCH)) - 21 for tokens in (50_000, 100_000))
    assert [token_shares(batch.numpy())["web"] for batch in again] == [1.0] * boundary + [0.0] * (end - boundary)


def test_filters_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"web \(filter\)"):
        _convert(tmp_path, data, policies={"web": "filter"})


def test_a_dataset_too_small_for_the_cap_is_refused_by_the_module(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, math={"max_epochs": 2.8})
    module = _module(report)
    module.data_loader(BATCH)
    module.PLAN["domains"]["math"]["sequences"] *= 1.1
    with pytest.raises(ValueError, match=r"math: the schedule reads .* and at most 2.8 passes are allowed"):
        module.data_loader(BATCH)


def test_what_is_printed_runs(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _convert(tmp_path, data, tokens=40_000)
    monkeypatch.syspath_prepend(str(report.directory))
    monkeypatch.delitem(sys.modules, "litdata_mixture", raising=False)
    names: dict[str, Any] = {"PER_PROCESS": BATCH}
    exec(report.record["use"].replace("num_workers=4", "num_workers=0"), names)
    assert sum(len(batch) for batch in names["loader"]) * LENGTH == sum(
        stage["tokens"] for stage in report.record["stages"]
    )
