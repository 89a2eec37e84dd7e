"""MaxText's JSON under grain's own mixing, packing and checkpoints; MaxText's reader of the JSON is restated in
`_records`.

MaxText is not on PyPI: what it does with the JSON is in its src/maxtext/input_pipeline/grain_data_processing.py.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grain", reason="grain is not installed: tests/trainers/envs/torchtitan.txt")
pytest.importorskip("array_record", reason="array_record is not installed: tests/trainers/envs/torchtitan.txt")

import grain.python as grain
from array_record.python.array_record_module import ArrayRecordWriter
from grain.experimental import ConcatThenSplitIterDataset
from toy import NAMES, SECOND, WANTED, ZERO, documents, documents_in, make_mixture, token_shares

from mixtures.convert import Report, convert
from mixtures.errors import UserError

LENGTH, BATCH = 128, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ArrayRecord files, two a domain, one document a record."""
    folder = tmp_path_factory.mktemp("records")
    for name in NAMES:
        (folder / name).mkdir()
        for part in range(2):
            writer = ArrayRecordWriter(str(folder / name / f"{part}.array_record"), "group_size:1")
            for document in documents(name)[part::2]:
                writer.write(document.tobytes())
            writer.close()
    return folder


@dataclass
class Launch:
    """One launch of a stage: its rows, and the checkpoint at its end."""

    config: Path
    steps: int
    num_epoch: int
    seed: int
    rows: list[np.ndarray] = field(default_factory=list)
    stopped: bool = False

    def run(self, checkpoint: Mapping[str, Any] | None, *, done: int) -> dict[str, Any]:
        """Train to step `steps`, `done` of them before; the iterator's state."""
        rows = iter(ConcatThenSplitIterDataset(_records(self), length_struct={"ids": LENGTH}))
        if checkpoint is not None:
            rows.set_state(json.loads(json.dumps(checkpoint)))
        for _ in range((self.steps - done) * BATCH):
            try:
                self.rows.append(next(rows)["ids"])
            except StopIteration:
                self.stopped = True
                break
        state: dict[str, Any] = rows.get_state()
        return state


def _records(launch: Launch) -> Any:
    """What MaxText makes of its JSON: every pattern a dataset, shuffled and repeated; weights divided by their sum; a
    named mix.
    """
    config = json.loads(launch.config.read_text())
    datasets = {}
    for name, entry in config.items():
        assert entry.keys() == {"path", "weight"}
        path = Path(entry["path"])
        files = sorted(path.glob("*")) if path.is_dir() else sorted(path.parent.glob(path.name))
        source = grain.MapDataset.source(grain.ArrayRecordDataSource([str(file) for file in files]))
        records = source.map(lambda record: {"ids": np.frombuffer(record, dtype=np.int64)})
        repeated = records.shuffle(seed=launch.seed).repeat(launch.num_epoch)
        datasets[name] = repeated.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    total = sum(float(entry["weight"]) for entry in config.values())
    return grain.IterDataset.mix(datasets, {name: float(entry["weight"]) / total for name, entry in config.items()})


def _launches(report: Report) -> list[Launch]:
    """The launches as the report's commands say them."""
    commands = report.record["use"].split("python3 -m ")[1:]
    settings = [dict(re.findall(r"(\w+)=(\S+)", command)) for command in commands]
    assert all(found["use_truncation"] == "false" and found["max_target_length"] == str(LENGTH) for found in settings)
    return [
        Launch(
            Path(found["grain_train_mixture_config_path"]),
            int(found["steps"]),
            int(found["num_epoch"]),
            int(found["data_shuffle_seed"]),
        )
        for found in settings
    ]


def _trained(report: Report) -> list[Launch]:
    """All launches, one after the other from the other's checkpoint."""
    launches, state, done = _launches(report), None, 0
    for launch in launches:
        state = launch.run(state, done=done)
        done = launch.steps
    return launches


def _convert(tmp_path: Path, data: Path, **kwargs: Any) -> Report:
    mixture = make_mixture(tmp_path / "mixture", **kwargs)
    return convert(
        mixture,
        to="grain",
        output=tmp_path / "maxtext",
        data=f"{data}/{{domain}}",
        sequence_length=LENGTH,
        batch_size=BATCH,
    )


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Report, list[Launch]]:
    report = _convert(tmp_path_factory.mktemp("staged"), data)
    return report, _trained(report)


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(staged: tuple[Report, list[Launch]]) -> None:
    _, launches = staged
    for launch, wanted in zip(launches, (WANTED, SECOND), strict=True):
        assert token_shares(np.concatenate(launch.rows)) == pytest.approx(wanted, abs=0.01)


def test_stages_change_at_the_step_that_the_report_says(staged: tuple[Report, list[Launch]]) -> None:
    report, launches = staged
    first, second = report.record["stages"]
    assert abs(second["start_tokens"] - 200_000) <= LENGTH * BATCH / 2
    assert first["tokens"] == second["start_tokens"] == len(launches[0].rows) * LENGTH
    assert second["tokens"] == len(launches[1].rows) * LENGTH


def test_the_report_says_what_was_trained(staged: tuple[Report, list[Launch]]) -> None:
    report, launches = staged
    for launch, stage in zip(launches, report.record["stages"], strict=True):
        assert token_shares(np.concatenate(launch.rows)) == pytest.approx(stage["given"], abs=0.01)
    ids = np.concatenate([row for launch in launches for row in launch.rows])
    passes = {name: token_shares(ids)[name] * len(ids) / sum(map(len, documents(name))) for name in NAMES}
    assert passes == pytest.approx(report.record["epochs"], rel=0.03)


def test_a_relaunch_reads_on_and_repeats_only_used_up_domains(
    staged: tuple[Report, list[Launch]],
) -> None:
    _, (first, second) = staged
    seen, later = (documents_in(np.concatenate(launch.rows)) for launch in (first, second))
    again = {name: sum(token // 16384 == 1 + k for token in seen & later) for k, name in enumerate(NAMES)}
    assert (
        again["web"] + again["code"] <= 4
    )  # of the last row: grain packs it again after a restart, now with the new weights
    assert again["math"] > 0  # used up: 2.8 passes


def test_shares_of_records_come_out_to_the_record(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    records = iter(_records(_launches(report)[0]))
    drawn = [int(next(records)["ids"][0]) // 16384 for _ in range(2_000)]
    for k, name in enumerate(NAMES):
        assert drawn.count(1 + k) == pytest.approx(2_000 * report.record["stages"][0]["unit_shares"][name], abs=1.5)


def test_the_commands_num_epoch_lasts_a_small_domain_but_one_pass_does_not(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    launches = _trained(report)
    assert report.record["epochs"]["math"] == pytest.approx(2.78, abs=0.02)
    assert not any(launch.stopped for launch in launches)
    short = _launches(report)[1]
    short.num_epoch = 1
    short.run(None, done=0)
    assert short.stopped


def test_a_domain_without_weight_is_left_out_which_grain_would_refuse(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": WANTED})
    first, second = _trained(report)
    assert token_shares(np.concatenate(first.rows)) == pytest.approx(ZERO, abs=0.01)
    assert token_shares(np.concatenate(second.rows)) == pytest.approx(WANTED, abs=0.01)
    assert any("math" in note and "weight of 0" in note for note in report.record["notes"])
    config = json.loads(first.config.read_text())
    first.config.write_text(json.dumps(config | {"math": {"path": f"{data}/math", "weight": 0.0}}))
    with pytest.raises(ValueError, match="non-zero"):
        _records(first)


def test_a_domain_that_pauses_begins_anew_which_is_noted(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"a": WANTED, "b": ZERO, "c": WANTED}, tokens=150_000)
    first, _, last = _trained(report)
    assert any("math" in note and "begins it anew" in note for note in report.record["notes"])
    math = [
        {token for token in documents_in(np.concatenate(launch.rows)) if token // 16384 == 3}
        for launch in (first, last)
    ]
    assert len(math[0] & math[1]) > 0.9 * len(math[0])


def test_a_filter_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="web"):
        _convert(tmp_path, data, policies={"web": "filter"})
    assert not (tmp_path / "maxtext").exists()


def test_packed_rows_need_no_conversion(tmp_path: Path) -> None:
    """Rows of fixed length as records: shares of records are shares of tokens."""
    for name in NAMES:
        (tmp_path / "rows" / name).mkdir(parents=True)
        writer = ArrayRecordWriter(str(tmp_path / "rows" / name / "0.array_record"), "group_size:1")
        ids = np.concatenate(documents(name))
        for row in ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH):
            writer.write(row.tobytes())
        writer.close()
    report = convert(
        make_mixture(tmp_path / "mixture"),
        to="grain",
        output=tmp_path / "maxtext",
        data=f"{tmp_path}/rows/{{domain}}",
        sequence_length=LENGTH,
        batch_size=BATCH,
        packed=True,
    )
    for launch, wanted in zip(_trained(report), (WANTED, SECOND), strict=True):
        assert token_shares(np.concatenate(launch.rows)) == pytest.approx(wanted, abs=0.01)
