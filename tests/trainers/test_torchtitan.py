"""The generated loader in torchtitan 0.3.0: its own text dataset, tokenizer, InterleavedDataset and stateful loader."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchtitan", reason="torchtitan is not installed: tests/trainers/envs/torchtitan.txt")
pytest.importorskip("datasets", reason="datasets is not installed: tests/trainers/envs/torchtitan.txt")

import datasets
from torchtitan.components.tokenizer import HuggingFaceTokenizer
from toy import (
    END_OF_TEXT,
    NAMES,
    SECOND,
    SPAN,
    WANTED,
    ZERO,
    documents,
    documents_in,
    kept,
    make_mixture,
    texts,
    token_shares,
    word_tokenizer,
)

from mixtures.convert import Report, convert
from mixtures.errors import UserError

LENGTH, BATCH = 16, 64  # short rows: many draws
DISJOINT = {"first": {"web": 0.0, "code": 0.8, "math": 0.2}, "second": {"web": 1.0, "code": 0.0, "math": 0.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """jsonl of every domain, and the tokenizer; Hugging Face's cache in a folder of its own."""
    folder = tmp_path_factory.mktemp("data")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    datasets.disable_progress_bars()
    for name in NAMES:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(name)))
    word_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_TEXT}))
    return folder


def _convert(tmp_path: Path, data: Path, *, options: dict[str, Any] | None = None, **kwargs: Any) -> Report:
    return convert(
        make_mixture(tmp_path / "mixture", **kwargs),
        to="torchtitan",
        output=tmp_path / "out",
        data=f"{data}/{{domain}}.jsonl",
        sequence_length=LENGTH,
        batch_size=BATCH,
        **(options or {}),
    )


def _generated(report: Report, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generated module, imported as a config function does."""
    monkeypatch.syspath_prepend(report.directory)
    for name in ("torchtitan_data", "torchtitan_mixture"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("torchtitan_mixture")


def _loader(
    report: Report, data: Path, monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, ranks: int = 1, length: int = LENGTH
) -> Any:
    """Built as torchtitan's trainer builds it."""
    return (
        _generated(report, monkeypatch)
        .MixtureDataLoader.Config()
        .build(
            dp_world_size=ranks,
            dp_rank=rank,
            tokenizer=HuggingFaceTokenizer(tokenizer_path=str(data)),
            seq_len=length,
            local_batch_size=BATCH // ranks,
            snapshot_every_n_steps=1,
        )
    )


def _steps(report: Report) -> int:
    return sum(stage["tokens"] for stage in report.record["stages"]) // (LENGTH * BATCH)


def _train(loader: Any, steps: int) -> np.ndarray:
    """Rows of `steps` steps on one rank, (N, LENGTH)."""
    batches = iter(loader)
    return np.concatenate([next(batches)[0]["input"].numpy() for _ in range(steps)])


def _by_stage(report: Report, rows: np.ndarray) -> list[np.ndarray]:
    starts = [stage["start_tokens"] // LENGTH for stage in report.record["stages"]]
    return np.split(rows, starts[1:])


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Report, np.ndarray]:
    """The whole schedule in one run."""
    report = _convert(tmp_path_factory.mktemp("staged"), data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        return report, _train(_loader(report, data, monkeypatch), _steps(report))


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(staged: tuple[Report, np.ndarray]) -> None:
    report, rows = staged
    for stage, wanted in zip(_by_stage(report, rows), (WANTED, SECOND), strict=True):
        assert token_shares(stage) == pytest.approx(wanted, abs=0.01)


def test_the_report_says_what_was_trained(staged: tuple[Report, np.ndarray]) -> None:
    report, rows = staged
    for trained, stage in zip(_by_stage(report, rows), report.record["stages"], strict=True):
        assert trained.size == stage["tokens"]
        shares = token_shares(trained)
        assert shares == pytest.approx(stage["given"], abs=0.01)
        for name, (low, high) in stage["token_shares_95"].items():
            assert high - low < 0.03
            assert low - (high - low) / 2 < shares[name] < high + (high - low) / 2
    passes = {name: token_shares(rows)[name] * rows.size / sum(map(len, documents(name))) for name in NAMES}
    assert passes == pytest.approx(report.record["epochs"], rel=0.04)


def test_a_stage_reads_on_and_repeats_tokens_only_of_used_up_domains(
    staged: tuple[Report, np.ndarray],
) -> None:
    _, rows = staged
    counts = Counter(rows.ravel().tolist())
    for name in ("web", "code"):
        lengths = {int(document[0]): len(document) - 1 for document in documents(name)}
        read = [token for token in lengths if counts[token]]
        assert all(counts[token] <= lengths[token] for token in read)
        assert (
            sum(counts[token] < lengths[token] for token in read) <= 1
        )  # the last one is cut by the end of the run, no other loses a token


def test_a_small_domain_repeats_after_its_end_and_passes_are_reported(
    staged: tuple[Report, np.ndarray],
) -> None:
    report, rows = staged
    assert report.record["epochs"]["math"] == pytest.approx(2.78, abs=0.02)
    assert {token for token in documents_in(rows) if token // SPAN == 3} == {
        int(document[0]) for document in documents("math")
    }


def test_stages_change_at_the_very_row_that_the_report_says(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data, stages=DISJOINT, tokens=100_000)
    first, second = _by_stage(report, _train(_loader(report, data, monkeypatch), _steps(report)))
    assert abs(first.size - 50_000) <= LENGTH * BATCH / 2
    assert token_shares(first)["web"] == 0.0
    assert token_shares(second) == {"web": 1.0, "code": 0.0, "math": 0.0}


def test_a_weight_of_zero_is_kept_and_never_drawn(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": WANTED})
    first, second = _by_stage(report, _train(_loader(report, data, monkeypatch), _steps(report)))
    assert token_shares(first)["math"] == 0.0
    assert token_shares(first) == pytest.approx(ZERO, abs=0.01)
    assert token_shares(second) == pytest.approx(WANTED, abs=0.01)


def test_a_checkpoint_resumes_to_the_row_within_a_stage_and_at_its_end(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data, tokens=60_000)
    whole = _train(_loader(report, data, monkeypatch), _steps(report))
    boundary = report.record["stages"][1]["start_tokens"] // (LENGTH * BATCH)
    for done in (boundary - 3, boundary, boundary + 5):
        before = _loader(report, data, monkeypatch)
        first = _train(before, done)
        after = _loader(report, data, monkeypatch)
        after.load_state_dict(before.state_dict())
        assert np.array_equal(np.concatenate([first, _train(after, _steps(report) - done)]), whole)


def test_ranks_read_different_documents_and_follow_the_stages_together(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _convert(tmp_path, data)
    ranks = [_train(_loader(report, data, monkeypatch, rank=rank, ranks=2), _steps(report)) for rank in range(2)]
    half = report.record["stages"][1]["start_tokens"] // LENGTH // 2
    for part, wanted in ((slice(0, half), WANTED), (slice(half, None), SECOND)):
        assert token_shares(np.concatenate([rows[part] for rows in ranks])) == pytest.approx(wanted, abs=0.01)
    assert not documents_in(ranks[0]) & documents_in(ranks[1])
    assert not np.array_equal(ranks[0][:200] // SPAN, ranks[1][:200] // SPAN)
    with pytest.raises(ValueError, match="7 ranks"):
        _loader(report, data, monkeypatch, ranks=7)
    with pytest.raises(ValueError, match="convert again"):
        _loader(report, data, monkeypatch, length=LENGTH * 2)


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_documents_come_as_often_as_a_sample_policy_says(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    report = _convert(tmp_path, data, policies={"math": mode}, stages={"only": SECOND}, tokens=300_000)
    rows = _train(_loader(report, data, monkeypatch), _steps(report))
    assert token_shares(rows) == pytest.approx(SECOND, abs=0.01)
    one_pass = kept("math", mode)
    wanted = Counter(int(document[0]) for document in one_pass)
    assert {token for token in documents_in(rows) if token // SPAN == 3} == set(wanted)
    trained = rows.ravel()[rows.ravel() // SPAN == 3][: sum(len(document) - 1 for document in one_pass)]
    lengths = {int(document[0]): len(document) - 1 for document in documents("math")}
    assert {token: count / lengths[token] for token, count in Counter(trained.tolist()).items()} == wanted
    assert report.record["epochs"]["math"] == pytest.approx(0.3 * 300_000 / sum(map(len, one_pass)), rel=0.01)


def test_sampling_weights_are_refused_until_reduced(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="math"):
        _convert(tmp_path, data, policies={"math": "sampling_weight"})
    report = _convert(tmp_path, data, policies={"math": "sampling_weight"}, options={"samples": "multiplicity"})
    assert any("rounded to whole repetitions" in note for note in report.record["notes"])
