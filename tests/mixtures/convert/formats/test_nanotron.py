"""The `nanotron` format: golden files, and the rules of its config and of its blend, restated from huggingface/nanotron
(2026).

Nanotron itself does not install here: it needs flash-attn, and the package on PyPI (0.4) has neither `data_stages` nor
weights.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixtures.convert import convert
from mixtures.errors import UserError
from tests.trainers.support import toy

GOLDEN = Path(__file__).parent / "golden" / "nanotron"
LENGTH, BATCH = 128, 16


@dataclass
class Dataset:
    """config.py, NanosetDatasetsArgs: what of it a mixture sets."""

    dataset_folder: list[str]
    dataset_weights: list[float]

    def __post_init__(self) -> None:
        assert isinstance(self.dataset_folder, list), "a string becomes one folder of weight 1"
        assert len(self.dataset_folder) == len(self.dataset_weights)
        assert sum(self.dataset_weights) > 0


@dataclass
class Data:
    """config.py, DataArgs."""

    dataset: Dataset
    seed: int
    num_loading_workers: int


@dataclass
class Stage:
    """config.py, DatasetStageArgs."""

    name: str
    start_training_step: int
    data: Data


def parse(kind: type, record: dict[str, Any]) -> Any:
    """As dacite does with strict=True: unknown keys and keys that are missing raise."""
    assert set(record) <= {field.name for field in fields(kind)}
    nested = {"data": Data, "dataset": Dataset}
    return kind(**{key: parse(nested[key], value) if key in nested else value for key, value in record.items()})


def read(path: Path) -> tuple[list[Stage], int]:
    """The stages and the last step of a launch, by the rules of config.py, Config.__post_init__."""
    record = yaml.safe_load(path.read_text())
    assert set(record) == {"data_stages", "tokens"}
    stages = [parse(Stage, stage) for stage in record["data_stages"]]
    starts = [stage.start_training_step for stage in stages]
    assert starts[0] == 1
    assert starts == sorted(set(starts))
    assert len({stage.name for stage in stages}) == len(stages)
    assert record["tokens"]["sequence_length"] == LENGTH
    return stages, record["tokens"]["train_steps"]


def blend(weights: list[float], size: int) -> np.ndarray:
    """int64 (size,): the folder of every sequence, as helpers.cpp, build_blending_indices has it."""
    shares, given, chosen = np.array(weights) / sum(weights), np.zeros(len(weights)), []
    for place in range(size):
        chosen.append(int(np.argmax(shares * max(place, 1) - given)))
        given[chosen[-1]] += 1
    return np.array(chosen)


def launches(output: Path) -> list[tuple[dict[str, float], int]]:
    """For every launch the shares of sequences by folder, and how many, as run_train.py goes through the configs."""
    done, found = 0, []
    for number in range(1, len(list(output.glob("stage*.yaml"))) + 1):
        stages, last = read(output / f"stage{number}.yaml")
        assert len(stages) == number
        assert stages[-1].start_training_step == done + 1, (
            "a new stage begins right after the checkpoint, or run_train.py raises"
        )
        dataset, size = stages[-1].data.dataset, (last - done) * BATCH
        counts = np.bincount(blend(dataset.dataset_weights, size), minlength=len(dataset.dataset_folder))
        found.append(
            (
                {Path(folder).name: count / size for folder, count in zip(dataset.dataset_folder, counts, strict=True)},
                size,
            )
        )
        done = last
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of a tokenizer's files for every domain."""
    for name in toy.NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "000_text.ds").touch()
        (tmp_path / "data" / name / "000_text.ds.metadata").write_text("words|2\n")
    return tmp_path / "data"


def converted(folder: Path, data: Path, stages: Any = None, **options: Any) -> Path:
    mixture = toy.make_mixture(folder, stages, **options.pop("mixture", {}))
    options = {"sequence_length": LENGTH, "batch_size": BATCH} | options
    convert(
        mixture,
        to="nanotron",
        output=folder / "out",
        data={"*": f"{data}/{{domain}}"} | options.pop("places", {}),
        **options,
    )
    return folder / "out"


def test_the_files_are_these(tmp_path: Path) -> None:
    output = converted(tmp_path, Path("/data"), elsewhere=True)
    for path in sorted(GOLDEN.iterdir()):
        assert (output / path.name).read_text() == path.read_text(), (
            f"if this is wanted: cp {output / path.name} {path}"
        )
    assert len(list(output.glob("*.yaml"))) == len(list(GOLDEN.iterdir()))


def test_every_launch_draws_the_shares_of_its_stage_from_its_first_step_on(tmp_path: Path, data: Path) -> None:
    output = converted(tmp_path, data)
    report = json.loads((output / "export_report.json").read_text())
    assert len(launches(output)) == 2
    for (shares, size), wanted, stage in zip(launches(output), (toy.WANTED, toy.SECOND), report["stages"], strict=True):
        assert abs(size - 3125 / 2) <= BATCH
        assert stage["tokens"] == size * LENGTH
        assert all(abs(shares[name] - wanted[name]) < 1 / size * 2 for name in toy.NAMES)
        assert stage["given"] == pytest.approx(shares, abs=2 / size)


def test_a_weight_of_zero_stands_there(tmp_path: Path, data: Path) -> None:
    shares, _ = launches(converted(tmp_path, data, {"without": toy.ZERO, "with": toy.WANTED}))[0]
    assert shares["math"] == 0
    assert shares["web"] == pytest.approx(0.8, abs=0.001)


def test_a_repeated_domain_is_said(tmp_path: Path, data: Path) -> None:
    report = json.loads((converted(tmp_path, data) / "export_report.json").read_text())
    assert report["epochs"]["math"] == pytest.approx(80_000 / len(toy.tokens_of("math")), rel=0.01)


def test_what_nanotron_cannot_do_is_refused(tmp_path: Path, data: Path) -> None:
    faults: list[tuple[str, dict[str, Any]]] = [
        ("one batch size for the whole run", {"batch_size": {0: 16, 100_000: 32}}),
        ("no way to honour the sample policies of web", {"mixture": {"policies": {"web": "filter"}}}),
        (
            r"put every domain in one folder:\n  - web: .*web, .*code",
            {"places": {"web": [f"{data}/web", f"{data}/code"]}},
        ),
        (
            r"math in stage rare: 0\.0001 of 3,120 sequences",
            {"stages": {"rare": {"web": 0.8, "code": 0.1999, "math": 0.0001}}},
        ),
        ("--sequence-length", {"sequence_length": None, "batch_size": None}),
        (r"\*\.ds is not there", {"places": {"math": f"{data}/none"}}),
    ]
    for number, (message, options) in enumerate(faults):
        with pytest.raises(UserError, match=message):
            converted(tmp_path / str(number), data, **options)
