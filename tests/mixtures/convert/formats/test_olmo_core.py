"""The `olmo-core` format: whole sequences, caps, what it refuses. What OLMo-core makes of it is in
tests/trainers/test_olmo_core.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixtures.convert import convert
from mixtures.convert.simulate import whole_parts
from mixtures.errors import UserError
from tests.mixtures.stream.helpers import make_mixture
from tests.trainers.support import toy


def converted(
    folder: Path, stages: Mapping[str, Mapping[str, float]] | None = None, *, tokens: int = 400_000, **toys: Any
) -> Path:
    mixture = toy.make_mixture(folder, stages, tokens=tokens, **toys)
    data = "gs://bucket/{domain}/*.npy"
    convert(mixture, to="olmo-core", output=folder / "out", data=data, sequence_length=128, batch_size=16)
    return folder / "out"


def sources(output: Path, file: str) -> dict[str, dict[str, Any]]:
    return {source["source_name"]: source for source in yaml.safe_load((output / file).read_text())["sources"]}


def test_sequences_are_divided_by_largest_remainders() -> None:
    assert whole_parts({"a": 0.7, "b": 0.2, "c": 0.1}, 1000) == {"a": 700, "b": 200, "c": 100}
    assert whole_parts({"a": 0.46, "b": 0.34, "c": 0.2}, 7) == {"a": 3, "b": 2, "c": 2}
    assert whole_parts({"a": 0.99, "b": 0.01}, 10) == {"a": 10}


def test_stages_are_whole_steps_of_whole_sequences(tmp_path: Path) -> None:
    plan = json.loads((converted(tmp_path) / "curriculum.json").read_text())
    assert [sum(stage["sequences"].values()) for stage in plan["stages"]] == [98 * 16, 97 * 16]
    assert plan["stages"][0]["sequences"] == {"web": 1097, "code": 314, "math": 157}
    assert plan["domains"]["web"] == {
        "paths": ["gs://bucket/web/*.npy"],
        "tokens": 480_177,
        "max_epochs": None,
        "view": None,
    }


def test_ratios_of_the_source_mixture_are_those_of_the_curriculum(tmp_path: Path) -> None:
    output = converted(tmp_path, {"first": toy.ZERO, "second": toy.SECOND})
    plan = json.loads((output / "curriculum.json").read_text())
    for number, stage in enumerate(plan["stages"]):
        found = {name: source["target_ratio"] for name, source in sources(output, f"sources-{number + 1}.yaml").items()}
        assert found == {name: count / sum(stage["sequences"].values()) for name, count in stage["sequences"].items()}
        assert sum(found.values()) == pytest.approx(1, abs=1e-8)
    assert "math" not in sources(output, "sources-1.yaml")


def test_a_cap_on_the_schedule_gives_each_stage_what_the_others_leave(tmp_path: Path) -> None:
    output = converted(tmp_path, math={"max_epochs": 3.0}, web={"max_epochs": 0.5})
    first, second = (sources(output, f"sources-{number}.yaml") for number in (1, 2))
    assert first["math"]["max_repetition_ratio"] == 1
    assert first["math"]["max_source_fraction"] == pytest.approx(3 * 1.005 - 465 * 128 / 28_802, abs=0.01)
    assert second["math"]["max_repetition_ratio"] == pytest.approx(3 * 1.005 - 157 * 128 / 28_802, abs=0.01)
    assert first["web"]["max_repetition_ratio"] == 1
    assert first["web"]["max_source_fraction"] == pytest.approx(0.5 * 1.005 - 466 * 128 / 480_177, abs=0.01)
    assert first["code"]["max_repetition_ratio"] == first["code"]["max_source_fraction"] == 1


def test_a_cap_that_the_schedule_may_exceed_does_not_stop_the_trainer(tmp_path: Path) -> None:
    output = converted(tmp_path, {"only": toy.WANTED}, math={"max_epochs": 1.2, "on_exhausted": "repeat"})
    assert json.loads((output / "curriculum.json").read_text())["domains"]["math"]["max_epochs"] is None
    assert sources(output, "sources.yaml")["math"]["max_repetition_ratio"] == pytest.approx(
        1.01 * 0.1 * 400_000 / 28_802, rel=0.01
    )


def test_a_share_of_less_than_a_sequence_is_refused_with_what_would_do(tmp_path: Path) -> None:
    shares = {"web": 0.9989, "code": 0.001, "math": 0.0001}
    with pytest.raises(
        UserError, match=r"(?s)math in stage only: 0\.0001 asked, 0 given \(rounds to zero\).*shorter --sequence-length"
    ):
        converted(tmp_path, {"only": shares})
    assert not (tmp_path / "out").exists()


def test_it_asks_for_what_it_counts_in(tmp_path: Path) -> None:
    make_mixture({"a": 1.0}, rows=1000).save(tmp_path / "mixture.json")
    with pytest.raises(UserError, match=r"--sequence-length .* and --batch-size"):
        convert(tmp_path / "mixture.json", to="olmo-core", output=tmp_path / "out", data={"a": "s3://bucket/a.npy"})
