"""What the trainers cannot take, as one message each: what was found, where, what is allowed, what to do; nothing is
written.
"""

import json
from pathlib import Path

import pytest

from mixtures import Mixture
from mixtures.__main__ import main
from tests.trainers.support import toy

STEPS = ["--sequence-length", "128", "--batch-size", "16"]


def refused(capsys, tmp_path: Path, mixture: Path, *words: str) -> str:
    """The message of a conversion that is refused; asserts the exit code, and that nothing was written."""
    assert main(["convert", str(mixture), "-o", str(tmp_path / "out"), *words]) == 2
    assert not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


def test_missing_data_are_listed_by_domain_and_file(tmp_path, capsys):
    (tmp_path / "web.bin").touch()
    words = ["--to", "megatron", "--data", f"{tmp_path}/{{domain}}", *STEPS]
    message = refused(capsys, tmp_path, toy.make_mixture(tmp_path), *words)
    assert f"web: {tmp_path}/web.idx is not there" in message
    assert f"code: {tmp_path}/code.bin is not there" in message
    assert "web.bin is not there" not in message
    assert "--elsewhere where the data are on another machine" in message


def test_no_data_at_all_says_how_to_give_them(tmp_path, capsys):
    message = refused(capsys, tmp_path, toy.make_mixture(tmp_path), "--to", "megatron", *STEPS)
    assert "web: no data given" in message
    assert "--data 'DIR/{domain}' for all domains, NAME=PATH for one" in message


def test_a_domain_without_a_share_needs_no_data(tmp_path):
    mixture = toy.make_mixture(tmp_path, {"only": toy.ZERO})
    words = ["--to", "levanter", "--data", "web=/w/a.jsonl", "code=/c/b.jsonl", "--elsewhere"]
    assert main(["convert", str(mixture), "-o", str(tmp_path / "out"), *words]) == 0


def test_a_path_with_a_space_is_refused_where_the_trainer_splits_on_it(tmp_path, capsys):
    words = ["--to", "megatron", "--data", "/my tokens/{domain}", "--elsewhere", *STEPS]
    message = refused(capsys, tmp_path, toy.make_mixture(tmp_path), *words)
    assert "web: '/my tokens/web' has a space, where this format splits; rename it, or link to it" in message


def test_a_boundary_that_the_trainer_cannot_take_names_the_nearest(tmp_path, capsys):
    words = ["--to", "levanter", "--data", "/d/{domain}.jsonl", "--elsewhere", "--block-size", "1024", *STEPS]
    message = refused(capsys, tmp_path, toy.make_mixture(tmp_path), *words)
    assert "stage 'second' starts at 200,000 tokens; the nearest that the trainer can take" in message
    assert "multiple of 1,024 sequences, is 262,144 tokens (step 128)" in message


def test_a_share_that_rounds_to_zero_is_refused_with_what_would_do(tmp_path, capsys):
    mixture = toy.make_mixture(tmp_path, {"only": {"web": 0.9, "code": 0.0995, "math": 0.0005}})
    words = ["--to", "levanter", "--data", "/d/{domain}.jsonl", "--elsewhere", "--block-size", "128"]
    message = refused(capsys, tmp_path, mixture, *words)
    assert "math in stage only: 0.0005 asked, 0 given (rounds to zero)" in message
    assert "--min-share" in message


@pytest.mark.slow
def test_more_domains_than_the_trainer_can_number_are_refused(tmp_path, capsys, monkeypatch):
    from mixtures.convert.formats import find_format

    assert find_format("megatron").most_domains <= 32_767  # int16 in megatron-core's blend
    small = toy.make_mixture(tmp_path, {"only": toy.WANTED})
    record = json.loads(small.read_text())
    count = 32_768
    record["domains"] = [{**record["domains"][0], "name": f"d{number}"} for number in range(count)]
    record["stages"][0]["weights"] = {f"d{number}": 1 / count for number in range(count)}
    many = Mixture.model_validate(
        {key: value for key, value in record.items() if key not in ("id", "expected", "checks")}
    )
    many.save(tmp_path / "many.json")
    message = refused(
        capsys, tmp_path, tmp_path / "many.json", "--to", "megatron", "--data", "/d/{domain}", "--elsewhere", *STEPS
    )
    assert "32,768 domains, megatron can number 32,766 at most; merge small domains" in message


def test_steps_are_asked_for_where_the_trainer_counts_in_them(tmp_path, capsys):
    words = ["--to", "levanter", "--data", "/d/{domain}.jsonl", "--elsewhere"]
    message = refused(capsys, tmp_path, toy.make_mixture(tmp_path), *words)
    assert "--sequence-length TOKENS (of a row) and --batch-size SEQUENCES (a step)" in message


@pytest.mark.parametrize("to", ["levanter", "trl", "grain"])
def test_a_filter_is_refused_where_the_trainer_has_no_way(tmp_path, capsys, to):
    mixture = toy.make_mixture(tmp_path, policies={"web": "filter"})
    ending = {"grain": "array_record"}.get(to, "jsonl")
    message = refused(capsys, tmp_path, mixture, "--to", to, "--data", f"/d/{{domain}}.{ending}", "--elsewhere", *STEPS)
    assert "no way to honour the sample policies of web (filter)" in message
    assert "`--samples drop` leaves them out" in message


def test_sampling_weights_are_reduced_to_repetitions_on_request_only(tmp_path, capsys):
    mixture = toy.make_mixture(tmp_path, policies={"web": "sampling_weight"})
    words = ["--to", "hf", "--data", "/d/{domain}.jsonl", "--elsewhere"]
    message = refused(capsys, tmp_path, mixture, *words)
    assert "`--samples multiplicity` rounds weights to whole repetitions" in message
    assert main(["convert", str(mixture), "-o", str(tmp_path / "out"), *words, "--samples", "multiplicity"]) == 0
    assert "rounded to whole repetitions" in (tmp_path / "out" / "export_report.json").read_text()
