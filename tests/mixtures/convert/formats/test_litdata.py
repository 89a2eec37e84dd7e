"""The `litdata` format: its numbers, and what it refuses. What LitData makes of it is in
tests/trainers/test_litdata.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtures.convert import convert
from mixtures.errors import UserError
from tests.trainers.support import toy


def plan(folder: Path, **toys: Any) -> dict[str, Any]:
    mixture = toy.make_mixture(folder, **toys)
    convert(
        mixture,
        to="litdata",
        output=folder / "out",
        data="s3://bucket/{domain}",
        sequence_length=128,
        batch_size=16,
    )
    found: dict[str, Any] = json.loads((folder / "out" / "litdata_mixture.json").read_text())
    return found


def test_stages_are_weights_and_their_ends_in_sequences(tmp_path: Path) -> None:
    found = plan(tmp_path, stages={"first": toy.ZERO, "second": toy.SECOND})
    assert [stage["end_sequences"] for stage in found["stages"]] == [98 * 16, 195 * 16]
    assert found["stages"][0]["weights"] == pytest.approx({"web": 0.8, "code": 0.2})
    assert found["stages"][1]["weights"] == pytest.approx(toy.SECOND)


def test_a_domain_knows_how_many_sequences_the_schedule_takes(tmp_path: Path) -> None:
    found = plan(tmp_path, math={"max_epochs": 3.0}, web={"max_epochs": 0.3})["domains"]
    assert found["math"] == {
        "path": "s3://bucket/math",
        "sequences": pytest.approx(98 * 16 * 0.1 + 97 * 16 * 0.3),
        "max_epochs": 3.0,
    }
    assert found["web"]["max_epochs"] is None, "0.42 passes, which on_exhausted: repeat allows"


def test_one_batch_size_and_one_directory_a_domain(tmp_path: Path) -> None:
    places = {"*": "s3://bucket/{domain}", "web": ["s3://bucket/a", "s3://bucket/b"]}
    with pytest.raises(UserError) as raised:
        convert(
            toy.make_mixture(tmp_path),
            to="litdata",
            output=tmp_path / "out",
            data=places,
            sequence_length=128,
            batch_size={0: 16, 100000: 32},
        )
    assert "web: 2 directories" in str(raised.value)
    assert "batch sizes 16, 32" in str(raised.value)


def test_a_directory_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.json is not there"):
        convert(toy.make_mixture(tmp_path), to="litdata", output=tmp_path / "out", data=f"{tmp_path}/{{domain}}")
