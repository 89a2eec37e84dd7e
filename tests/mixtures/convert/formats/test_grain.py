"""The `grain` format: what MaxText's reader of the JSON takes, restated, and grain's whole numbers; grain itself is in
tests/trainers.

MaxText's rules are those of src/maxtext/input_pipeline/grain_data_processing.py: every entry has a `path` (a folder, a
file, or a pattern with * or ? in its last part) and a `weight` that float() takes; weights are divided by their sum;
grain refuses a 0 among them.
"""

import json
import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.convert import Report, convert
from mixtures.convert.formats.grain import given_shares, kept_weights
from mixtures.errors import UserError
from tests.trainers.support import toy

DATA = ["gs://bucket/{domain}.array_record*"]


def converted(folder: Path, stages: Any = None, *, data: list[str] = DATA, **options: Any) -> Report:
    options = {"sequence_length": 128, "batch_size": 16, **options}
    return convert(toy.make_mixture(folder, stages), to="grain", output=folder / "out", data=data, **options)


def read(report: Report, number: int) -> dict[str, float]:
    """{name: share of records}, the file read by MaxText's rules and mixed by grain's."""
    config = json.loads((report.directory / f"stage-{number}.json").read_text())
    for name, entry in config.items():
        assert entry.keys() == {"path", "weight"}
        assert PurePosixPath(entry["path"]).name == f"{name}.array_record*"
        assert not set("*?") & set(str(PurePosixPath(entry["path"]).parent))
    divided = {
        name: float(entry["weight"]) / sum(float(entry["weight"]) for entry in config.values())
        for name, entry in config.items()
    }
    assert 0 not in divided.values()
    parts = {name: int(share * (100 / min(divided.values()))) for name, share in divided.items()}
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def shares_of_tokens(records: dict[str, float]) -> dict[str, float]:
    means = {name: sum(map(len, toy.documents(name))) / len(toy.documents(name)) for name in records}
    tokens = {name: share * means[name] for name, share in records.items()}
    return {name: count / sum(tokens.values()) for name, count in tokens.items()}


def test_every_stage_files_record_shares_give_the_asked_token_shares(tmp_path):
    report = converted(tmp_path)
    for number, wanted in enumerate((toy.WANTED, toy.SECOND), start=1):
        records = read(report, number)
        assert records == pytest.approx(report.record["stages"][number - 1]["unit_shares"], rel=1e-12)
        assert shares_of_tokens(records) == pytest.approx(wanted, rel=0.005)
    assert sorted(path.name for path in report.directory.iterdir()) == [
        "export_report.json",
        "stage-1.json",
        "stage-2.json",
    ]


def test_rows_of_fixed_length_keep_the_shares(tmp_path):
    report = converted(tmp_path, packed=True)
    assert read(report, 1) == pytest.approx(toy.WANTED, rel=0.005)
    assert "packing=false" in report.record["use"]


def test_a_domain_without_weight_is_in_no_file_and_its_return_is_noted(tmp_path):
    report = converted(tmp_path, {"a": toy.WANTED, "b": toy.ZERO, "c": toy.WANTED})
    assert [sorted(read(report, number)) for number in (1, 2, 3)] == [
        ["code", "math", "web"],
        ["code", "web"],
        ["code", "math", "web"],
    ]
    assert any(note.startswith("math has no weight for a while") for note in report.record["notes"])
    assert not any(
        "for a while" in note for note in converted(tmp_path / "two", {"a": toy.ZERO, "b": toy.WANTED}).record["notes"]
    )


def test_commands_stop_at_the_end_of_a_stage_and_allow_enough_passes(tmp_path):
    use = converted(tmp_path).record["use"]
    assert re.findall(r"\bsteps=(\d+) learning_rate_schedule_steps=(\d+)", use) == [("98", "195"), ("195", "195")]
    assert re.findall(r"num_epoch=(\d+)", use) == ["3", "3"]  # math: 2.8
    assert re.findall(r"stage-\d\.json", use) == ["stage-1.json", "stage-2.json"]
    assert "add_eos=true add_bos=false" in use


def test_one_stage_needs_no_steps_and_several_name_the_flags_that_say_them(tmp_path):
    one = converted(tmp_path / "one", {"only": toy.WANTED}, sequence_length=None, batch_size=None)
    assert "learning_rate_schedule_steps" not in one.record["use"]
    with pytest.raises(UserError, match=r"--sequence-length.*--batch-size"):
        converted(tmp_path / "two", sequence_length=None, batch_size=None)


def test_paths_that_maxtext_would_not_expand_are_all_named(tmp_path):
    data = {"web": ["gs://b/1", "gs://b/2"], "code": "gs://b/*/code", "math": "gs://b/math"}
    with pytest.raises(UserError) as caught:
        converted(tmp_path, data=data)
    assert "web: 2 paths" in str(caught.value)
    assert "code: gs://b/*/code has a wildcard in a folder's name" in str(caught.value)
    assert "math" not in str(caught.value)


@pytest.mark.slow
@given(st.lists(st.floats(min_value=1e-4, max_value=1), min_size=1, max_size=30))
def test_weights_survive_grains_rounding_as_closely_as_conversion_allows(values):
    shares = {str(number): value / math.fsum(values) for number, value in enumerate(values)}
    for name, share in given_shares(kept_weights(shares)).items():
        assert abs(share - shares[name]) <= max(0.005 * shares[name], 1e-4)


def test_plain_shares_would_be_cut_by_up_to_a_hundredth():
    shares = {"a": 0.2501 / 0.9995, "b": 0.2499 / 0.9995, "c": 0.2475 / 0.9995, "d": 0.252 / 0.9995}
    assert max(abs(share / shares[name] - 1) for name, share in given_shares(shares).items()) > 0.005
    assert max(abs(share / shares[name] - 1) for name, share in given_shares(kept_weights(shares)).items()) < 0.005
