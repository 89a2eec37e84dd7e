"""The generated dataset for torchtitan after 0.3.0, under real grain; torchtitan's part is restated in
torchtitan_head.py.
"""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grain", reason="grain is not installed: tests/trainers/envs/torchtitan.txt")
pytest.importorskip("datasets", reason="datasets is not installed: tests/trainers/envs/torchtitan.txt")

import datasets
import torchtitan_head
from toy import NAMES, SECOND, SPAN, WANTED, ZERO, documents, documents_in, kept, make_mixture, token_shares

from mixtures.convert import Report, convert

LENGTH, BATCH = 64, 16


class Identity:
    """A tokenizer of documents that are ids already."""

    def encode(self, ids: list[int], *, add_bos: bool, add_eos: bool) -> list[int]:
        return ids


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """jsonl of every domain."""
    folder = tmp_path_factory.mktemp("data")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    datasets.disable_progress_bars()
    for name in NAMES:
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": ids.tolist()}) + "\n" for ids in documents(name))
        )
    return folder


def _convert(tmp_path: Path, data: Path, **kwargs: Any) -> Report:
    return convert(
        make_mixture(tmp_path / "mixture", **kwargs),
        to="torchtitan",
        output=tmp_path / "out",
        data=f"{data}/{{domain}}.jsonl",
        sequence_length=LENGTH,
        batch_size=BATCH,
        release="head",
    )


def _batches(report: Report, monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, ranks: int = 1) -> Any:
    torchtitan_head.install(monkeypatch)
    monkeypatch.syspath_prepend(report.directory)
    for name in ("torchtitan_data", "torchtitan_mixture"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    dataset = importlib.import_module("torchtitan_mixture").MixtureConfig()
    policy = torchtitan_head.Policy(dp_rank=rank, dp_world_size=ranks)
    context = torchtitan_head.Context(tokenizer=Identity(), seq_len=LENGTH)
    return torchtitan_head.batches(dataset, context=context, policy=policy, local_batch_size=BATCH // ranks)


def _stages(report: Report, batches: Any, *, ranks: int = 1) -> list[np.ndarray]:
    """What one rank trains on in every stage."""
    stages = report.record["stages"]
    steps = [stage["tokens"] // (LENGTH * BATCH) for stage in stages]
    return [np.concatenate([next(batches) for _ in range(count)]) for count in steps]


def test_every_stage_trains_the_shares_of_the_report_to_the_row(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data)
    for rows, wanted, stage in zip(
        _stages(report, _batches(report, monkeypatch)), (WANTED, SECOND), report.record["stages"], strict=True
    ):
        assert token_shares(rows) == pytest.approx(wanted, abs=0.002)
        assert token_shares(rows) == pytest.approx(stage["given"], abs=3 / len(rows))
        assert rows.size == stage["tokens"]
        assert stage["token_shares_95"] is None
    assert abs(report.record["stages"][1]["start_tokens"] - 200_000) <= LENGTH * BATCH / 2


def test_a_stage_reads_on_through_its_boundary_and_small_domains_repeat(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data)
    counts = Counter(np.concatenate(_stages(report, _batches(report, monkeypatch))).ravel().tolist())
    for name in ("web", "code"):
        lengths = {int(document[0]): len(document) - 1 for document in documents(name)}
        assert all(counts[token] <= length for token, length in lengths.items())
    assert {token for token in counts if token // SPAN == 3 and token % SPAN} == {
        int(document[0]) for document in documents("math")
    }
    assert report.record["epochs"]["math"] == pytest.approx(2.78, abs=0.02)


def test_a_domain_may_pause_and_goes_on_where_it_was(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data, stages={"a": WANTED, "b": ZERO, "c": WANTED}, tokens=150_000)
    first, second, third = _stages(report, _batches(report, monkeypatch))
    assert token_shares(second)["math"] == 0.0
    assert token_shares(second) == pytest.approx(ZERO, abs=0.003)
    math = [{token for token in documents_in(rows) if token // SPAN == 3} for rows in (first, third)]
    assert len(math[0] & math[1]) <= 1


def test_a_checkpoint_resumes_to_the_row(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _convert(tmp_path, data, tokens=60_000)
    whole = np.concatenate(_stages(report, _batches(report, monkeypatch)))
    boundary = report.record["stages"][1]["start_tokens"] // (LENGTH * BATCH)
    for done in (boundary - 3, boundary, boundary + 5):
        before, after = _batches(report, monkeypatch), _batches(report, monkeypatch)
        first = [next(before) for _ in range(done)]
        after.set_state(before.get_state())
        assert np.array_equal(
            np.concatenate([*first, *(next(after) for _ in range(len(whole) // BATCH - done))]), whole
        )


def test_ranks_read_different_documents(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _convert(tmp_path, data)
    ranks = [_stages(report, _batches(report, monkeypatch, rank=rank, ranks=2)) for rank in range(2)]
    for rows, wanted in zip(zip(*ranks, strict=True), (WANTED, SECOND), strict=True):
        assert token_shares(np.concatenate(rows)) == pytest.approx(wanted, abs=0.005)
    both = documents_in(np.concatenate(ranks[0])) & documents_in(np.concatenate(ranks[1]))
    assert {token // SPAN for token in both} == {3}  # math, which every pass shuffles and divides anew


def test_a_filter_leaves_documents_out(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _convert(tmp_path, data, policies={"math": "filter"}, stages={"only": SECOND})
    rows = np.concatenate(_stages(report, _batches(report, monkeypatch)))
    assert {token for token in documents_in(rows) if token // SPAN == 3} == {
        int(document[0]) for document in kept("math", "filter")
    }
