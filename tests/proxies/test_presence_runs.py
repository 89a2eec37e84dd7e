"""Online sample weights as a person asks for them: settings, refusals, records, resume, processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import doge
from mixtures.errors import UserError
from mixtures.run.trajectory import read_trajectory
from proxies.config import dump
from proxies.preflight import require_divisible
from proxies.settings import Settings, load_settings
from proxies.step import Stepper
from tests.proxies.helpers import alone_and_in_two_processes, forget_id, kill_at, message, run, same, write_run
from tests.proxies.test_config import GOOD, write

PRESENCE = {"switch_at": 0.5, "temperature": 2.0, "scope": "all", "unit_rows": 1}


def settings(**samples: Any) -> dict[str, Any]:
    return {**GOOD, "samples": samples}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("online", "wanted"),
    [
        ("none", None),
        ("presence", (0.1, 1.0, "first_block", 1)),
        ({"presence": {}}, (0.1, 1.0, "first_block", 1)),
        ({"presence": PRESENCE}, (0.5, 2.0, "all", 1)),
    ],
)
def test_a_word_or_a_block_says_which_weights(tmp_path: Path, online: Any, wanted: tuple | None) -> None:
    found = load_settings(write(tmp_path, settings(online=online)))
    presence = found.samples.presence
    assert (presence and (presence.switch_at, presence.temperature, presence.scope, presence.unit_rows)) == wanted
    record = tmp_path / "config.yaml"
    record.write_text(dump(found))
    assert load_settings(record) == found
    assert yaml.safe_load(record.read_text())["samples"] == {
        "online": {"presence": presence.model_dump()} if presence else "none"
    }


def test_flags_reach_the_weights(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_settings(path).samples.presence is None
    assert load_settings(path, ["--samples.online", "presence"]).samples.presence is not None
    found = load_settings(path, ["--samples.online.presence.temperature", "3"]).samples.presence
    assert found is not None
    assert (found.temperature, found.switch_at) == (3.0, 0.1)


@pytest.mark.parametrize(
    ("online", "more", "part"),
    [
        ("direct", {}, "give none, presence, or presence with its settings"),
        ({"presense": {}}, {}, "presense: Input should be 'presence'"),
        ({"presence": {"temprature": 1}}, {}, "temprature: unknown setting; the nearest known one is temperature"),
        ({"presence": {"temperature": 0}}, {}, "temperature: Input should be greater than 0 (found 0)"),
        ({"presence": {"switch_at": 2}}, {}, "switch_at: Input should be less than or equal to 1"),
        ({"presence": {"scope": "word_embedding"}}, {}, "take embedding"),
        ("presence", {"update": {"preset": "doremi"}}, "preset doremi computes no gradients per domain"),
        ("presence", {"train": {"rows_per_domain": 1}}, "at least two whole units"),
        ({"presence": {"unit_rows": 3}}, {}, "set rows_per_domain to a multiple of 3, 6 or more"),
        ({"presence": {"unit_rows": 4}}, {}, "set rows_per_domain to a multiple of 4, 8 or more"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path: Path, online: Any, more: dict, part: str) -> None:
    with pytest.raises(UserError) as error:
        load_settings(write(tmp_path, settings(online=online) | more))
    assert part in str(error.value)
    assert "1 setting(s)" in str(error.value)


def test_units_cut_by_processes_or_halves_are_refused_with_a_multiple(tmp_path: Path) -> None:
    def loaded(rows: int, accumulate: int) -> Settings:
        train = {"rows_per_domain": rows, "accumulate": accumulate}
        return load_settings(write(tmp_path, settings(online={"presence": {"unit_rows": 2}}) | {"train": train}))

    for rows, accumulate, processes in ((4, 1, 1), (4, 1, 2), (4, 2, 1), (8, 2, 2), (12, 1, 3)):
        require_divisible(loaded(rows, accumulate), processes)
    for rows, accumulate, processes, multiple in ((6, 1, 1, 4), (4, 2, 2, 8), (6, 1, 3, 12)):
        with pytest.raises(UserError, match=rf"use a multiple of {multiple}, e\.g\. \d+, or smaller units"):
            require_divisible(loaded(rows, accumulate), processes)


ONLINE: dict[str, Any] = {"samples": {"online": {"presence": PRESENCE}}}


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_run_records_spread_and_effective_sample_size_of_every_domain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_run(tmp_path, targets=True, **ONLINE)) == 0
    read = read_trajectory(tmp_path / "run")
    assert read.sample_spreads.shape == read.sample_ess.shape == (6, 3)
    assert (read.sample_spreads > 0).all()
    assert np.allclose(read.sample_ess, 1 / (1 + read.sample_spreads**2))  # of weights with mean 1
    assert "sample_ess.mixed" not in read.frame
    assert "samples: presence, all, units of 1 row(s)" in capsys.readouterr().out


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_temperature_changes_its_sign_at_switch_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = doge.GroupGradients.step

    def watched(self: doge.GroupGradients, *parts: Any, presence: doge.Presence, **others: Any) -> doge.Step:
        seen.append(presence.temperature)
        assert (presence.domains, presence.scope) == (3, "all")
        return step(self, *parts, presence=presence, **others)

    monkeypatch.setattr(doge.GroupGradients, "step", watched)
    assert run(write_run(tmp_path, **ONLINE)) == 0
    assert seen == [2.0] * 3 + [-2.0] * 3


@pytest.mark.usefixtures("fresh_accelerator")
def test_without_online_weights_columns_are_null_and_old_records_are_read(tmp_path: Path) -> None:
    assert run(write_run(tmp_path)) == 0
    forget_id(tmp_path / "run")
    read = read_trajectory(tmp_path / "run")
    assert np.isnan(read.sample_spreads).all()
    first = min((tmp_path / "run" / "trajectory").glob("part-*"))
    table = pq.read_table(first)
    pq.write_table(table.select([name for name in table.column_names if not name.startswith("sample_")]), first)
    again = read_trajectory(tmp_path / "run")
    assert same(read, again)
    for part in (tmp_path / "run" / "trajectory").glob("part-*"):
        table = pq.read_table(part)
        pq.write_table(table.select([name for name in table.column_names if not name.startswith("sample_")]), part)
    old = read_trajectory(tmp_path / "run")
    assert "sample_ess.vowels" not in old.frame
    assert np.isnan(old.sample_ess).all()
    assert old.sample_ess.shape == (6, 3)


@pytest.mark.usefixtures("fresh_accelerator")
def test_resume_gives_the_same_trajectory_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path, **ONLINE)
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    kill_at(monkeypatch, Stepper, 3, lambda: run(path))  # between the checkpoint of step 2 and the switch
    assert run(path, "--resume") == 0
    assert same(read_trajectory(tmp_path / "whole"), read_trajectory(tmp_path / "run"))


@pytest.mark.usefixtures("fresh_accelerator")
def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path) -> None:
    path, found = write_run(tmp_path, **ONLINE), []
    for accumulate in ("1", "2", "4"):
        directory = tmp_path / f"accumulate{accumulate}"
        assert run(path, "--train.accumulate", accumulate, "--run_dir", directory) == 0
        found.append(read_trajectory(directory))
    for other in found[1:]:
        assert np.allclose(found[0].weights, other.weights, atol=1e-5)
        assert np.allclose(found[0].sample_spreads, other.sample_spreads, atol=1e-3)
        assert np.allclose(found[0].losses, other.losses, atol=1e-4)


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("unit_rows", [1, 2])
def test_two_processes_give_the_weights_of_one(tmp_path: Path, unit_rows: int) -> None:
    path = write_run(tmp_path, targets=True, samples={"online": {"presence": {**PRESENCE, "unit_rows": unit_rows}}})
    one, other = alone_and_in_two_processes(path)
    assert np.allclose(one.weights, other.weights, atol=1e-5)
    assert np.allclose(one.sample_spreads, other.sample_spreads, atol=1e-3)
    assert np.allclose(one.losses, other.losses, atol=1e-4)


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_scope_that_the_model_lacks_is_refused_with_what_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = message(capsys, write_run(tmp_path, samples={"online": {"presence": {"scope": "first_blok"}}}))
    assert "samples.online.presence.scope: scope 'first_blok' has no trainable parameter" in said
    assert "first_block" in said
    assert not (tmp_path / "run").exists()
