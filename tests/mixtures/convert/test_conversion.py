"""mixtures convert: the line from mixture.json to a directory, its report, and its messages, with the plain formats."""

import csv
import hashlib
import json
import re

import pytest

from mixtures import Mixture
from mixtures.__main__ import main
from mixtures.convert import convert
from mixtures.errors import UserError
from mixtures.imports.tables import read_shares
from tests.trainers.support import toy


def test_json_holds_the_asked_shares_and_the_report_says_what_they_give(tmp_path, capsys):
    mixture = toy.make_mixture(tmp_path)
    assert main(["convert", str(mixture), "--to", "json", "-o", str(tmp_path / "out"), "--unit", "document"]) == 0
    shown = capsys.readouterr().out
    stages = json.loads((tmp_path / "out" / "weights.json").read_text())["stages"]
    assert [(stage["name"], stage["start_tokens"], stage["tokens"]) for stage in stages] == [
        ("first", 0, 200_000),
        ("second", 200_000, 200_000),
    ]
    means = {name: sum(map(len, toy.documents(name))) / len(toy.documents(name)) for name in toy.NAMES}
    for stage, wanted in zip(stages, (toy.WANTED, toy.SECOND), strict=True):
        tokens = {name: share * means[name] for name, share in stage["weights"].items()}
        assert {name: count / sum(tokens.values()) for name, count in tokens.items()} == pytest.approx(wanted)
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert [stage["asked"] for stage in report["stages"]] == [toy.WANTED, toy.SECOND]
    assert report["stages"][1]["given"] == pytest.approx(toy.SECOND)
    assert report["mixture"] == Mixture.load(mixture).id
    digest = hashlib.sha256((tmp_path / "out" / "weights.json").read_bytes()).hexdigest()
    assert report["files"] == {"weights.json": f"sha256:{digest}"}
    assert report["epochs"]["math"] == pytest.approx(80_000 / sum(map(len, toy.documents("math"))))
    assert "stage second: 200 k tokens from 200 k" in shown
    assert "shares of documents were computed from tokens a document" in shown


def test_csv_is_read_back_as_shares(tmp_path):
    convert(toy.make_mixture(tmp_path), to="csv", output=tmp_path / "out")
    assert read_shares(tmp_path / "out" / "weights.csv", row="second") == toy.SECOND
    with open(tmp_path / "out" / "weights.csv") as file:
        assert next(csv.reader(file)) == ["name", *toy.NAMES]


def test_an_average_is_weighted_by_the_tokens_of_the_stages(tmp_path):
    report = convert(toy.make_mixture(tmp_path), to="json", output=tmp_path / "out", stages="average")
    (stage,) = report.record["stages"]
    assert stage["asked"] == pytest.approx({name: (toy.WANTED[name] + toy.SECOND[name]) / 2 for name in toy.NAMES})
    assert (stage["start_tokens"], stage["tokens"]) == (0, 400_000)
    assert "2 stages became their average over the tokens; the schedule over time is lost" in report.record["notes"]


def test_means_given_by_hand_go_first(tmp_path):
    report = convert(
        toy.make_mixture(tmp_path, {"only": toy.WANTED}), to="json", output=tmp_path / "out", unit="document",
        document_tokens={"web": 100, "code": 100, "math": 100},
    )  # fmt: skip
    assert report.record["stages"][0]["unit_shares"] == pytest.approx(toy.WANTED)
    assert report.record["documents"]["web"]["from"] == "--document-tokens"


def test_lengths_from_a_manifest_are_cut_where_the_trainer_cuts(tmp_path):
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies=dict.fromkeys(toy.NAMES, "filter"))
    job = {"to": "json", "unit": "document", "samples": "drop", "max_document_tokens": 100}
    with pytest.raises(UserError, match="lengths of the documents of web, code, math are not known"):
        convert(mixture, output=tmp_path / "out", **job)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "jsno"], r"'jsno' is no format; formats: megatron, .*json, csv"),
        (["--to", "csv", "--packed"], None),
        ([], "convert needs --to FORMAT"),
        (
            ["--to", "json", "--samples", "keep", "--document-tokens", "wbe=3"],
            "'wbe' is no domain; domains: web, code, math",
        ),
        (["--to", "json", "--document-tokens", "web=-3"], "web=-3 is no number of tokens"),
        (["--to", "json", "--batch-size", "4"], "--sequence-length"),
        (["--to", "json", "--data", "wbe=x"], "'wbe' is no domain"),
        (["--to", "json", "--data", "x"], "neither a pattern"),
        (["--to", "json", "--data", "{domain}/a", "{domain}/b"], "2 patterns"),
        (["--to", "json", "--data", "nowhere/{domain}"], r"web: nowhere/web is not there\n.*code: nowhere/code"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(tmp_path, capsys, words, message):
    mixture = toy.make_mixture(tmp_path)
    code = main(["convert", str(mixture), *words, "-o", str(tmp_path / "out")])
    if message is None:
        assert code == 0
        return
    assert code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert main(["convert", str(toy.make_mixture(tmp_path)), "--to", "json", "-o", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_edited_mixture_is_refused(tmp_path, capsys):
    path = toy.make_mixture(tmp_path)
    path.write_text(path.read_text().replace("0.7,", "0.6,").replace("0.1\n", "0.2\n"))
    assert main(["convert", str(path), "--to", "json", "-o", str(tmp_path / "out")]) == 2
    assert "the content hashes to" in capsys.readouterr().err


def test_an_option_of_another_format_is_refused_with_its_own(tmp_path):
    with pytest.raises(UserError, match=r"--block-size: no option of json; its options: --unit"):
        convert(toy.make_mixture(tmp_path), to="json", output=tmp_path / "out", block_size=4)


def test_sample_weights_are_never_silently_lost(tmp_path):
    mixture = toy.make_mixture(tmp_path, policies={"web": "filter", "code": "loss_weight"})
    with pytest.raises(UserError, match=r"web \(filter\), code \(loss_weight\); it honours none; `--samples drop`"):
        convert(mixture, to="json", output=tmp_path / "out")
    report = convert(mixture, to="json", output=tmp_path / "out", samples="drop")
    assert (
        "sample weights inside web, code were left out (--samples drop): all documents count alike"
        in report.record["notes"]
    )


def test_a_cap_that_the_trainer_would_not_hold_is_refused(tmp_path):
    capped = {"max_epochs": 2.0, "on_exhausted": "renormalize"}
    with pytest.raises(
        UserError,
        match=r"math: 2\.78 epochs, at most 2 \(on_exhausted: renormalize\)\nexport the mixture again with "
        r"--max-epochs",
    ):
        convert(toy.make_mixture(tmp_path / "a", math=capped), to="json", output=tmp_path / "out")
    allowed = toy.make_mixture(tmp_path / "b", math={**capped, "on_exhausted": "repeat"})
    notes = convert(allowed, to="json", output=tmp_path / "out").record["notes"]
    assert notes == ["over its cap, which on_exhausted: repeat allows: math: 2.78 epochs, at most 2"]


def test_a_domain_that_repeats_often_is_noted(tmp_path):
    report = convert(toy.make_mixture(tmp_path, tokens=1_000_000), to="json", output=tmp_path / "out")
    assert "more than 4 epochs: math 6.94; repeated text teaches less" in report.record["notes"]


def test_the_list_names_every_format(capsys):
    from mixtures.convert.formats import MODULES

    assert main(["convert", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in MODULES)
