"""proxies.compare on bad input: every fault is named with what to do, before anything is trained."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from proxies import train
from tests.faults.helpers import do_two
from tests.proxies.comparison.helpers import FIXED, compare, message, write_comparison
from tests.proxies.helpers import MODEL, TWO_WAY, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.parametrize(
    ("blocks", "parts"),
    [
        (
            {"mixtures": {**FIXED, "odd": {"fixed": "unifrom"}}},
            ["mixtures.odd.fixed", "'uniform', 'natural', 'temperature' or 'unimax'", "unifrom"],
        ),
        (
            {"mixtures": {**FIXED, "odd": {"fixd": "uniform"}}},
            ["mixtures.odd.fixd: unknown setting; the nearest known one is fixed"],
        ),
        (
            {"mixtures": {**FIXED, "odd": {}}},
            ["mixtures.odd: give exactly one of fixed, file, learn, run; found none of them"],
        ),
        ({"mixtures": {**FIXED, "odd": {"fixed": "uniform", "run": "run"}}}, ["found fixed, run"]),
        ({"mixtures": {**FIXED, "odd": {"fixed": "unimax"}}}, ["fixed: unimax needs max_epochs"]),
        (
            {"mixtures": {**FIXED, "odd": {"fixed": "uniform", "temperature": 2, "average": "tail"}}},
            ["temperature (only with fixed: temperature)", "average (only with learn or run) has no effect here"],
        ),
        ({"mixtures": {**FIXED, "odd": {"learn": {"preset": "stabel"}}}}, ["mixtures.odd.learn.preset"]),
        (
            {"mixtures": {**FIXED, "odd": {"learn": {"taau": 1}}}},
            ["mixtures.odd.learn.taau: unknown", "the nearest known one is tau"],
        ),
        (
            {"mixtures": {**FIXED, "odd": {"learn": {}, "train": {"stepz": 1, "lr": -1}}}},
            ["mixtures.odd.train.stepz", "mixtures.odd.train.lr"],
        ),
        ({"mixtures": {"uniform": {"fixed": "uniform"}}}, ["mixtures holds 1"]),
        ({"mixtures": {**FIXED, "Natural": {"fixed": "natural"}}}, ["natural and Natural differ only by case"]),
        ({"baseline": "uniformm"}, ["baseline is 'uniformm', which is not in mixtures; allowed: uniform, natural"]),
        ({"seeds": [1, 1]}, ["seeds gives 1 twice"]),
        ({"seeds": []}, ["seeds"]),
        ({"objective": {"digit": 1}}, ["objective names digit", "allowed: vowels, consonants, digits"]),
        ({"train": {"lr": 1e-4}}, ["min_lr 0.001 is above lr 0.0001"]),
        ({"train": {"rows_per_domain": 4}}, ["train.rows_per_domain: unknown setting"]),
        (
            {
                "mixtures": {**FIXED, "odd": {"learn": {"preset": "official", "held_out": True}}},
                "train": {"evaluate_rows": 9},
            },
            ["mixtures.odd.learn.held_out", "raise proxy.train.evaluate_rows from 4"],
        ),
        (
            {"mixtures": {**FIXED, "odd": {"learn": {}}}, "train": {"precision": "bf16"}},
            ["proxy.train.precision and train.precision to the same value"],
        ),
        ({"mixtures": {**FIXED, "odd": {"file": "nothing.json"}}}, ["mixtures.odd", "nothing.json is not there"]),
        ({"mixtures": {**FIXED, "odd": {"run": "nothing"}}}, ["mixtures.odd", "nothing is not there"]),
        (
            {"mixtures": {**FIXED, "odd": {"fixed": "unimax", "max_epochs": 0.001}}},
            ["mixtures.odd", "raise max_epochs"],
        ),
    ],
)
def test_bad_settings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], blocks: dict, parts: list[str]
) -> None:
    said = message(capsys, write_comparison(tmp_path, **blocks))
    assert all(part in said for part in parts), said
    assert not (tmp_path / "comparison/bases").exists()


def test_a_file_for_other_domains_shows_both_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shares.json").write_text(json.dumps({"vowels": 0.5, "web": 0.25, "digits": 0.25}))
    said = message(capsys, write_comparison(tmp_path, mixtures={**FIXED, "odd": {"file": "shares.json"}}))
    for part in ("mixtures.odd", "only in these shares: web", "missing from these shares: consonants"):
        assert part in said


def test_two_mixtures_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(tmp_path)
    path.write_text(path.read_text() + "  natural: {fixed: unimax, max_epochs: 2}\n")
    assert "natural is given twice in the block that starts at line" in message(capsys, path)


def test_a_proxy_run_directory_is_not_taken_for_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([str(write_run(tmp_path))]) == 0
    assert "holds a run of proxies.train" in message(capsys, write_comparison(tmp_path), "--run_dir", tmp_path / "run")


def test_a_run_on_another_corpus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        train.main([str(write_run(tmp_path, corpus={"tokenizer": {"train_bpe": 300}})), "--model.preset", "llama-1m"])
        == 2
    )
    (tmp_path / "model.json").write_text(json.dumps({**MODEL, "vocab_size": 400}))
    run = yaml.safe_load((tmp_path / "run.yaml").read_text())
    del run["corpus"]["domains"]["digits"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train.main([str(tmp_path / "run.yaml")]) == 0
    said = message(capsys, write_comparison(tmp_path, mixtures={**FIXED, "mine": {"run": "run"}}))
    for part in (
        "mixtures.mine",
        "learned on another corpus",
        "domains only in the run: none",
        "domains only in the comparison: digits",
        "tokenizer bpe-300",
    ):
        assert part in said


def test_a_run_that_learned_from_the_held_out_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train.main(
            [str(write_run(tmp_path, update={"preset": "official", "held_out": True}, train={"evaluate_rows": 2}))]
        )
        == 0
    )
    path = write_comparison(tmp_path, mixtures={**FIXED, "mine": {"run": "run"}})
    assert "lower train.evaluate_rows to 2" in message(capsys, path)
    assert compare(path, "--train.evaluate_rows", "2") == 0


def test_rows_that_do_not_split_over_the_processes_are_refused(tmp_path: Path) -> None:
    path = write_comparison(tmp_path, train={"batch_rows": 5})
    done = do_two("proxies.compare", path)
    assert done.code == 2
    assert "train.batch_rows is 5, which does not split over 2 processes" in done.error


def test_a_model_that_does_not_fit_is_refused_before_anything_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.json"
    stable = {"learn": {"preset": "stable"}, "model": {"config": "model.json"}}
    path = write_comparison(tmp_path, model={"config": "small.json"}, mixtures={**FIXED, "stable": stable})
    small.write_text(json.dumps({**MODEL, "vocab_size": 200}))
    assert "vocabulary of 200" in message(capsys, path)
    assert not (tmp_path / "comparison/learned").exists()


def test_the_command_alone_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare() == 2
    assert compare("--help") == 0
    printed = capsys.readouterr().out
    assert "usage: accelerate launch -m proxies.compare COMPARE.yaml" in printed
    assert "--proxy.train.steps" in printed
    assert "the comparison's YAML file comes first" in message(capsys, "--train.steps", "3")


def test_a_base_model_that_sees_later_tokens_is_refused_before_learning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "learned": {"learn": {}}})
    (tmp_path / "model.json").write_text(json.dumps(TWO_WAY))
    assert "sees later tokens" in message(capsys, path)
    assert not (tmp_path / "comparison").exists()
