"""The YAML for Levanter, read by its own configuration and drawn by its own MixtureDataset."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from mixtures.convert import convert
from mixtures.errors import UserError

pytest.importorskip("levanter.data.mixture", reason="levanter 1.2.dev1644 is not installed")

import haliax
import jax
from levanter.data.text import LMMixtureDatasetConfig, preprocessor_for_format
from levanter.main.train_lm import TrainLmConfig
from levanter.store.cache import SerialCacheWriter
from levanter.utils.thread_utils import blocking_wait
from levanter_helpers import LENGTH, read, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def converted(
    folder: Path,
    data: Path,
    stages: Mapping[str, Any] | None = None,
    *,
    batch: Any = 16,
    **options: Any,
) -> Path:
    mixture, output = toy.make_mixture(folder, stages, **options.pop("mixture", {})), folder / "out"
    places = f"{data}/{{domain}}{options.pop('data_suffix', '')}"
    options = {"sequence_length": LENGTH, "batch_size": batch, "tokenizer": str(data)} | options
    convert(mixture, to="levanter", output=output, data=places, **options)
    return output


def rows(config: TrainLmConfig, most: int | None = None) -> np.ndarray:
    """int64 (N, LENGTH): the sequences of the run (of its first `most`), in the order of training."""
    schedule, steps = config.trainer.batch_schedule, config.trainer.num_train_steps
    assert isinstance(config.data, LMMixtureDatasetConfig)
    dataset = config.data.train_set(haliax.Axis("position", LENGTH), schedule, key=jax.random.PRNGKey(config.data_seed))
    total = most or schedule.global_data_offset_by_step(steps)
    examples = [
        example
        for at in range(0, total, 512)
        for example in blocking_wait(dataset.get_batch(range(at, min(at + 512, total))))
    ]
    return np.stack([np.asarray(example.tokens.array) for example in examples]).astype(np.int64)


def report(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "export_report.json").read_text())
    return record


def close(found: Mapping[str, float], wanted: Mapping[str, float], within: float) -> bool:
    return all(abs(found[name] - wanted[name]) <= within for name in toy.NAMES)


def of(name: str, sequences: np.ndarray) -> np.ndarray:
    """The sequences of one domain."""
    return sequences[sequences[:, 0] // toy.SPAN == 1 + toy.NAMES.index(name)]


def times_read(name: str, sequences: np.ndarray) -> np.ndarray:
    """float64 (documents,): how often each document's tokens were read."""
    first = toy.SPAN * (1 + toy.NAMES.index(name)) + 1
    lengths = np.array([len(document) - 1 for document in toy.documents(name)])
    return (
        np.bincount(sequences[sequences // toy.SPAN == first // toy.SPAN] % toy.SPAN, minlength=len(lengths) + 1)[1:]
        / lengths
    )


@pytest.fixture(scope="module")
def staged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    output = converted(tmp_path_factory.mktemp("staged"), data)
    return output, rows(read(output / "levanter.yaml"))


def test_levanter_draws_the_shares_of_both_stages(staged: tuple[Path, np.ndarray]) -> None:
    output, found = staged
    at = report(output)["stages"][1]["start_tokens"] // LENGTH
    assert abs(at - 3125 / 2) <= 8
    assert len(found) == 3120
    for wanted, stage, part in zip(
        (toy.WANTED, toy.SECOND), report(output)["stages"], (found[:at], found[at:]), strict=True
    ):
        assert close(toy.token_shares(part), wanted, 0.005)
        assert stage["tokens"] == part.size
    assert close(toy.token_shares(found[:at]), report(output)["stages"][0]["given"], 1e-12), "whole blocks are exact"


def test_the_report_says_how_often_levanter_reads_each_domain(staged: tuple[Path, np.ndarray]) -> None:
    output, found = staged
    for name, epochs in report(output)["epochs"].items():
        assert of(name, found).size / sum(map(len, toy.documents(name))) == pytest.approx(epochs, rel=0.01)


def test_a_domain_goes_on_over_the_boundary_and_restarts_only_at_its_end(staged: tuple[Path, np.ndarray]) -> None:
    output, found = staged
    assert times_read("web", found).max() == 1
    assert times_read("code", found).max() == 1
    often = times_read("math", found)
    assert 2 < report(output)["epochs"]["math"] < 3
    assert often.max() == 3
    assert np.sort(often)[2] >= 2, "the last sequence, which is not full, is left out"


def test_a_stage_without_a_domain_reads_none_of_it(data: Path, tmp_path: Path) -> None:
    output = converted(tmp_path, data, {"without": toy.ZERO, "with": toy.WANTED})
    found, at = rows(read(output / "levanter.yaml")), report(output)["stages"][1]["start_tokens"] // LENGTH
    assert close(toy.token_shares(found[:at]), toy.ZERO, 0.005)
    assert not len(of("math", found[:at]))
    assert close(toy.token_shares(found[at:]), toy.WANTED, 0.01)


def test_a_domain_without_any_share_needs_no_data(data: Path, tmp_path: Path) -> None:
    output = converted(tmp_path, data, {"only": toy.ZERO}, batch=None)
    config = read(output / "levanter.yaml")
    assert isinstance(config.data, LMMixtureDatasetConfig)
    assert sorted(config.data.configs) == ["code", "web"]
    assert config.data.train_weights == {"web": 0.8, "code": 0.2}


def test_a_small_share_is_not_rounded_away(data: Path, tmp_path: Path) -> None:
    rare = {"web": 0.9451, "code": 0.05, "math": 0.0049}
    output = converted(tmp_path, data, {"rare": rare, "more": toy.WANTED}, mixture={"tokens": 2**20})
    config = read(output / "levanter.yaml")
    assert config.data.mixture_block_size == 2048
    assert len(of("math", rows(config, 2048))) == 10


def test_batch_sizes_that_change_move_no_boundary(data: Path, tmp_path: Path) -> None:
    output = converted(tmp_path, data, batch={0: 16, 100_000: 24})
    found, at = rows(read(output / "levanter.yaml")), report(output)["stages"][1]["start_tokens"] // LENGTH
    assert abs(at - 3125 / 2) <= 12
    assert close(toy.token_shares(found[:at]), toy.WANTED, 0.005)
    assert close(toy.token_shares(found[at:]), toy.SECOND, 0.005)


def test_levanter_reads_the_text_files_that_are_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in toy.NAMES:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in toy.texts(name)))
    config = read(converted(tmp_path, tmp_path, data_suffix=".jsonl", tokenizer=str(data)) / "levanter.yaml")
    assert isinstance(config.data, LMMixtureDatasetConfig)
    monkeypatch.chdir(tmp_path)
    for (
        name,
        source,
    ) in config.data.configs.items():  # Levanter's own tokenization and cache, without the Ray cluster around them
        processor, shards = (
            preprocessor_for_format(source.format, config.data.the_tokenizer),
            source.get_shard_source("train"),
        )
        assert shards is not None
        with SerialCacheWriter(f"{config.data.cache_dir}/{name}/train", processor.output_exemplar) as writer:
            writer.write_batch(processor(list(shards)))
    assert close(toy.token_shares(rows(config, 1568)), toy.WANTED, 0.001)


def test_a_filter_is_refused_or_left_out_on_request(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Levanter, Marin has no way to honour the sample policies of web"):
        converted(tmp_path / "refused", data, mixture={"policies": {"web": "filter"}})
    output = converted(tmp_path / "dropped", data, mixture={"policies": {"web": "filter"}}, samples="drop")
    assert any("left out" in note for note in report(output)["notes"])
