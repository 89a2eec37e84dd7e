"""The `levanter` format: which block size it takes, what it refuses. What Levanter makes of it is in
tests/trainers/test_levanter.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixtures.convert import convert
from mixtures.convert.formats.levanter_blocks import counts
from mixtures.errors import UserError
from tests.mixtures.stream.helpers import make_mixture
from tests.trainers.support import toy

EVEN = {"first": {"web": 0.5, "code": 0.25, "math": 0.25}, "second": {"web": 0.25, "code": 0.25, "math": 0.5}}


def converted(
    folder: Path, stages: Mapping[str, Mapping[str, float]] | None = None, *, tokens: int = 400_000, **options: Any
) -> Path:
    mixture = toy.make_mixture(folder, stages, tokens=tokens)
    options = {"sequence_length": 128, "batch_size": 16, "data": "gs://bucket/{domain}.jsonl.gz"} | options
    convert(mixture, to="levanter", output=folder / "out", **options)
    return folder / "out"


def data_of(output: Path, file: str = "levanter.yaml") -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((output / file).read_text())["data"]
    return data


def test_a_block_is_whole_parts_and_the_largest_domain_gets_the_rest() -> None:
    assert counts({"web": 0.7, "code": 0.2, "math": 0.1}, 2048) == {"web": 1435, "code": 409, "math": 204}
    assert counts({"web": 7, "code": 2, "math": 1}, 8) == {"web": 7, "code": 1, "math": 0}
    assert counts({"web": 0.5, "code": 0.5}, 3) == {"web": 2, "code": 1}


def test_large_runs_keep_levanters_own_block_and_the_mixtures_own_numbers(tmp_path: Path) -> None:
    data = data_of(converted(tmp_path, tokens=10**9, batch_size=256))
    assert data["mixture_block_size"] == 2048
    assert [weights for _, weights in data["train_weights"]] == [toy.WANTED, toy.SECOND]
    assert [step for step, _ in data["train_weights"]] == [0, 15256], "15,259 steps of 256, the nearest multiple of 8"


def test_a_smaller_share_gets_a_larger_block(tmp_path: Path) -> None:
    small = {"web": 0.8989, "code": 0.1, "math": 0.0011}
    assert data_of(converted(tmp_path, {"only": small}, tokens=10**9))["mixture_block_size"] == 8192


def test_an_odd_batch_size_gets_a_block_of_whole_steps(tmp_path: Path) -> None:
    data = data_of(converted(tmp_path, tokens=10**9, batch_size=999))
    assert data["mixture_block_size"] == 999 * 64
    assert data["train_weights"][1][0] % 64 == 0


def test_short_stages_get_a_block_that_ends_with_them(tmp_path: Path) -> None:
    data = data_of(converted(tmp_path, EVEN, tokens=2 * 128 * 16 * 7))
    assert [step for step, _ in data["train_weights"]] == [0, 7]
    assert 16 * 7 % data["mixture_block_size"] == 0


def test_shares_that_a_block_rounds_are_written_in_whole_sequences(tmp_path: Path) -> None:
    """Each of 50 domains would lose a part of a sequence to the largest, which would get more than 0.5 % too much in
    any block.
    """
    weights = {"large": 0.1} | {f"d{number}": 0.018 + 0.00001 * (number - 24.5) for number in range(50)}
    mixture = make_mixture(weights, rows=10**7)
    mixture.save(tmp_path / "mixture.json")
    convert(tmp_path / "mixture.json", to="levanter", output=tmp_path / "out", data="gs://bucket/{domain}.jsonl")
    data = data_of(tmp_path / "out")
    written, block = data["train_weights"], data["mixture_block_size"]
    assert counts(weights, block)["large"] / block > 0.1 * 1.005
    assert {name: count / block for name, count in counts(written, block).items()} == written


def test_marin_has_the_same_under_its_own_names(tmp_path: Path) -> None:
    output = converted(tmp_path)
    levanter, marin = data_of(output), data_of(output, "marin.yaml")
    assert levanter.pop("configs") == {name: {"train_urls": [f"gs://bucket/{name}.jsonl.gz"]} for name in toy.NAMES}
    sources = {name: {"source": {"type": "url", "train_urls": [f"gs://bucket/{name}.jsonl.gz"]}} for name in toy.NAMES}
    assert marin.pop("components") == sources
    assert levanter == marin


def test_a_directory_is_a_cache(tmp_path: Path) -> None:
    output = converted(tmp_path, data="gs://bucket/cache/{domain}")
    assert data_of(output)["configs"]["web"] == {"cache_dir": "gs://bucket/cache/web"}
    assert data_of(output, "marin.yaml")["components"]["web"] == {"cache_dir": "gs://bucket/cache/web"}


def test_steps_are_those_of_a_batch_size_schedule(tmp_path: Path) -> None:
    output = converted(tmp_path, EVEN, batch_size={0: 16, 100_000: 32})
    record = yaml.safe_load((output / "levanter.yaml").read_text())
    assert record["trainer"]["train_batch_size"] == [{"start": 0, "value": 16}, {"start": 49, "value": 32}]
    report = json.loads((output / "export_report.json").read_text())
    step = record["data"]["train_weights"][1][0]
    assert report["stages"][1]["start_tokens"] == (49 * 16 + (step - 49) * 32) * 128


def test_what_levanter_cannot_do_is_refused_with_what_would_do(tmp_path: Path) -> None:
    rare = {"first": {"web": 0.8995, "code": 0.1, "math": 0.0005}, "second": toy.WANTED}
    faults: list[tuple[str, dict[str, Any]]] = [
        (
            r"math in stage first: 0\.0005 asked, .* given(.|\n)*begin them at multiples of 4,194,304 "
            r"tokens.*--min-share",
            {"stages": rare, "tokens": 100_000},
        ),
        ("the nearest that the trainer can take, a step after a multiple of 1,024 sequences, is", {"block_size": 1024}),
        ("at most 65,535 sequences in a block", {"block_size": 65536}),
        (
            r"math in stage only: 1e-07 asked, 0 given \(rounds to zero\)",
            {"stages": {"only": {"web": 0.8, "code": 0.1999999, "math": 1e-7}}},
        ),
        (r"--sequence-length .* and --batch-size", {"sequence_length": None, "batch_size": None}),
        (
            r"web: gs://a, gs://b: give text files .* or one directory",
            {"data": {"*": "gs://c/{domain}", "web": ["gs://a", "gs://b"]}},
        ),
        (r"train/shard_ledger.json is not there", {"data": f"{tmp_path}/{{domain}}"}),
    ]
    for number, (message, options) in enumerate(faults):
        with pytest.raises(UserError, match=message):
            converted(tmp_path / str(number), **options)


def test_a_short_run_ends_with_a_block_or_says_what_may_be_off(tmp_path: Path) -> None:
    whole = converted(tmp_path / "whole", {"only": {"web": 0.41, "code": 0.34, "math": 0.25}}, tokens=16 * 100 * 128)
    assert data_of(whole)["mixture_block_size"] == 1600
    ragged = {"first": {"web": 0.41, "code": 0.34, "math": 0.25}, "second": {"web": 0.34, "code": 0.41, "math": 0.25}}
    notes = json.loads(
        (converted(tmp_path / "part", ragged, tokens=16 * 203 * 128) / "export_report.json").read_text()
    )["notes"]
    assert any("ends inside a block" in note for note in notes)
    assert not any(
        "ends inside a block" in note for note in json.loads((whole / "export_report.json").read_text())["notes"]
    )
