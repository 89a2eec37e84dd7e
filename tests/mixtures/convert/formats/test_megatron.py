"""The format `megatron` without its trainer: blends, views, launch.sh. With megatron-core: tests/trainers."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixtures import Mixture
from mixtures.convert import convert
from mixtures.convert.formats.megatron.views import count_sequences
from mixtures.errors import UserError
from tests.mixtures.convert.formats.megatron_helpers import (
    converted,
    notes,
    read_documents,
    write_data,
    write_toys,
)
from tests.trainers.support import toy

STAND_IN = """#!/usr/bin/env bash
# pretrain_gpt.py as far as launch.sh sees it: trains to the next transition (or STOP_AT), and leaves the iteration in
# the checkpoints
while (($#)); do
    case $1 in
        --phase-transition-iterations) IFS=, read -ra phases <<< "$2" ;;
        --train-samples) samples=$2 ;;
        --global-batch-size) batch=$2 ;;
        --per-split-data-args-path) blend=$2 ;;
        --save) save=$2 ;;
    esac
    shift
done
at=0
[[ -f $save/latest_checkpointed_iteration.txt ]] && at=$(< "$save/latest_checkpointed_iteration.txt")
end=$((samples / batch))
for phase in "${phases[@]}"; do ((phase > at && phase < end)) && end=$phase; done
((STOP_AT > at && STOP_AT < end)) && end=$STOP_AT
mkdir -p "$save"
echo "$end" > "$save/latest_checkpointed_iteration.txt"
echo "$(basename "$blend") $at $end" >> "$save/log.txt"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("data"))


def test_a_static_blend_is_weights_and_prefixes_as_text_and_as_json(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path, {"only": toy.ZERO}), data, batch_size=None)
    assert (out / "blend.txt").read_text() == f"0.8 {data}/web\n0.2 {data}/code\n"
    record = {"train": ["0.8", f"{data}/web", "0.2", f"{data}/code"], "valid": None, "test": None}
    assert json.loads((out / "blend.json").read_text()) == record
    assert sorted(path.name for path in out.iterdir()) == ["blend.json", "blend.txt", "export_report.json"]


@pytest.mark.parametrize("start", [0, 7, 90])
def test_counted_takes_the_part_furthest_behind(start: int) -> None:
    """Against a loop over parts and sequences, and near the shares."""
    shares, taken = [0.5, 0.3, 0.15, 0.05], [0, 0, 0, 0]
    given = []
    for number in range(100):
        behind = [share * max(number, 1) - count for share, count in zip(shares, taken, strict=True)]
        taken[behind.index(max(behind))] += 1
        given.append(behind.index(max(behind)))
    assert count_sequences(shares, start=start, stop=100) == [given[start:].count(part) for part in range(4)]
    assert count_sequences(shares, start=10, stop=10**9) == pytest.approx([share * (10**9 - 10) for share in shares])
    assert count_sequences([1 - 1e-9, 1e-9], start=0, stop=1000) == [
        999,
        1,
    ]  # the smallest share gives the second sequence


def test_a_share_of_less_than_a_sequence_is_refused(tmp_path: Path, data: Path) -> None:
    mixture = toy.make_mixture(tmp_path, {"only": {"web": 0.9997, "code": 0.0, "math": 0.0003}}, tokens=128 * 1000)
    with pytest.raises(UserError, match=r"math in stage only: 0\.0003 asked, 0\.001 given"):
        converted(mixture, data)
    assert not (tmp_path / "out").exists()


def test_two_prefixes_share_a_domain_as_their_tokens_are(tmp_path: Path, data: Path) -> None:
    half = write_data(tmp_path, "half", toy.documents("math")[:60])
    own = {"math": [f"{data}/math", str(half)]}
    out = converted(toy.make_mixture(tmp_path, {"only": toy.WANTED}), data, own=own)
    blend = json.loads((out / "blend.json").read_text())["train"]
    sizes = [sum(map(len, toy.documents("math")[:count])) for count in (240, 60)]
    assert [float(blend[4]), float(blend[6])] == pytest.approx([0.1 * size / sum(sizes) for size in sizes])
    with pytest.raises(UserError, match=r"merge_datasets\.py"):
        convert(
            tmp_path / "mixture.json",
            to="megatron",
            output=tmp_path / "far",
            data={"*": f"{data}/{{domain}}"} | own,
            elsewhere=True,
        )


# stages


@pytest.mark.slow
def test_stages_have_views_of_their_own_documents_all_of_them_used(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path), data)
    for name in toy.NAMES:
        first, second = (read_documents(str(out / "views" / stage / name)) for stage in ("1-first", "2-second"))
        assert sorted(first + second) == sorted(document.tolist() for document in toy.documents(name))
        wanted = toy.WANTED[name] / (toy.WANTED[name] + toy.SECOND[name])
        assert len(first) / (len(first) + len(second)) == pytest.approx(wanted, abs=0.003)
        assert (
            first[0] != toy.documents(name)[0].tolist() or first[1] != toy.documents(name)[1].tolist()
        )  # not simply the first ones
    assert os.readlink(out / "views" / "1-first" / "web.bin") == f"{data}/web.bin"


def test_a_domain_of_one_stage_is_read_as_it_is(tmp_path: Path, data: Path) -> None:
    out = converted(
        toy.make_mixture(
            tmp_path, {"one": {"web": 0.5, "code": 0.5, "math": 0}, "two": {"web": 0.5, "code": 0, "math": 0.5}}
        ),
        data,
    )
    assert f"0.5 {data}/code" in (out / "blend-1-one.txt").read_text()
    assert f"0.5 {out}/views/2-two/web" in (out / "blend-2-two.txt").read_text()


def launch(out: Path, folder: Path, *, stop_at: int = 0) -> tuple[int, list[str]]:
    """Exit code, and `blend, from, to` of every launch so far."""
    (folder / "pretrain.sh").write_text(STAND_IN)
    environment = {**os.environ, "CHECKPOINTS": str(folder / "checkpoints"), "STOP_AT": str(stop_at)}
    done = subprocess.run(
        ["bash", out / "launch.sh", "bash", folder / "pretrain.sh", "--lr", "1"], env=environment, capture_output=True
    )
    log = folder / "checkpoints" / "log.txt"
    return done.returncode, log.read_text().splitlines() if log.exists() else []


@pytest.mark.slow
def test_launch_trains_stage_after_stage_with_their_blends(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path, {"a b": toy.WANTED, "c": toy.SECOND, "d": toy.ZERO}), data)
    assert launch(out, tmp_path) == (0, ["blend-1-a-b.json 0 65", "blend-2-c.json 65 130", "blend-3-d.json 130 195"])
    assert (out / "flags.txt").read_text().split()[:6] == [
        "--seq-length",
        "128",
        "--global-batch-size",
        "16",
        "--train-samples",
        "3120",
    ]
    assert launch(out, tmp_path)[0] == 0  # nothing is left to do


@pytest.mark.slow
def test_launch_goes_on_in_the_stage_where_it_was_interrupted(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path), data)
    assert launch(out, tmp_path, stop_at=120) == (1, ["blend-1-first.json 0 98", "blend-2-second.json 98 120"])
    assert launch(out, tmp_path) == (
        0,
        ["blend-1-first.json 0 98", "blend-2-second.json 98 120", "blend-2-second.json 120 195"],
    )


@pytest.mark.slow
def test_a_schedule_that_begins_later_counts_iterations_of_the_whole_run(tmp_path: Path, data: Path) -> None:
    path = toy.make_mixture(tmp_path)
    record = json.loads(path.read_text())
    record["horizon"]["start_tokens"] = 128 * 16 * 1000
    for stage in record["stages"]:
        stage["start_tokens"] += 128 * 16 * 1000
    del record["id"]
    Mixture.model_validate(record).save(path)
    out = converted(path, data)
    assert (out / "stages.txt").read_text().split("\n")[:2] == [
        "1000 1098 blend-1-first.json",
        "1098 1195 blend-2-second.json",
    ]
    assert "--train-samples 19120 " in (out / "flags.txt").read_text()
    assert "--phase-transition-iterations 1000,1098\n" in (out / "flags.txt").read_text()
    assert "begins at 1,000 of 16 sequences" in notes(out)
    assert launch(out, tmp_path) == (1, [])  # iterations before it are missing
    assert (
        yaml.safe_load((converted_again(path, data) / "stage-2-second.yaml").read_text())["step_scheduler"]["max_steps"]
        == 1195
    )


def converted_again(mixture: Path, data: Path) -> Path:
    out = mixture.parent / "automodel"
    convert(mixture, to="automodel", output=out, data=f"{data}/{{domain}}", sequence_length=128, batch_size=16)
    return out


@pytest.mark.parametrize(("to", "message"), [("megatron", "rampup"), ("automodel", "one global_batch_size")])
def test_a_batch_size_schedule_is_refused_with_stages(tmp_path: Path, data: Path, to: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        converted(toy.make_mixture(tmp_path), data, to=to, batch_size={0: 8, 100_000: 16})
    with pytest.raises(UserError, match="--batch-size"):
        converted(tmp_path / "mixture.json", data, to=to, batch_size=None)


def test_stages_away_from_the_data_restart_and_report_what_is_read_again(tmp_path: Path) -> None:
    out = converted(toy.make_mixture(tmp_path), Path("/far"), elsewhere=True)
    assert (out / "blend-2-second.txt").read_text().split()[1] == "/far/web"
    assert "about 29% of web, 14% of code, 69% of math was read before" in notes(out)
    assert [line.split()[3:] for line in (out / "stages.txt").read_text().splitlines()] == [
        ["--seed", "1234"],
        ["--seed", "1235"],
    ]


def test_an_output_path_with_a_space_is_refused_if_blends_point_into_it(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "a b"
    with pytest.raises(UserError, match="has a space"):
        converted(toy.make_mixture(folder), data)
    assert converted(toy.make_mixture(folder, {"only": toy.WANTED}), data).exists()


def test_too_few_documents_for_the_stages_are_named(tmp_path: Path, data: Path) -> None:
    one = write_data(tmp_path, "one", [np.arange(500)])
    with pytest.raises(UserError, match="no document of math is left"):
        converted(toy.make_mixture(tmp_path), data, own={"math": one})


def test_missing_files_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"none\.bin is not there\n.*none\.idx is not there"):
        converted(toy.make_mixture(tmp_path), data, own={"math": f"{data}/none"})


def test_nemo_2_takes_the_list_of_the_json(tmp_path: Path, data: Path) -> None:
    """NeMo's own check (nemo/collections/llm/gpt/data/pre_training.py), restated: numbers at every even place, then
    prefixes of files.
    """
    out = converted(toy.make_mixture(tmp_path), data)
    for blend in sorted(out.glob("blend-*.json")):
        paths = json.loads(blend.read_text())["train"]
        assert math.fsum(float(word) for word in paths[::2]) == pytest.approx(1)
        assert [Path(prefix).name for prefix in paths[1::2]] == list(toy.NAMES)
        assert all(Path(f"{prefix}.{ending}").is_file() for prefix in paths[1::2] for ending in ("bin", "idx"))
