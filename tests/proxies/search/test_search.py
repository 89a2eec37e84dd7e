"""Whole searches with a tiny model: what they leave, that they go on after a kill, and what they refuse."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mixtures import Mixture
from mixtures.schedule.check import check
from proxies.config import load
from proxies.search import proxies as proxies_of_a_search
from proxies.search.__main__ import main
from proxies.search.proxies import Proxies
from proxies.search.settings import Search, SearchSettings
from tests.proxies import helpers
from tests.proxies.helpers import MODEL, config_of, launch, seal, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

DONE = ("rounds.json", "summary.txt")


def write_search(folder: Path, *, steps: int = 10, objective: dict[str, float] | None = None, **search: Any) -> Path:
    """A search's YAML file: 10 steps, two seeds, two rounds, judged by the vowels."""
    return write_run(
        folder,
        train={"steps": steps, "rows_per_domain": 2, "lr": 0.02},
        update={"objective": objective or {"vowels": 1.0}},
        search={"rounds": 2, "objective_rows": 8, **search},
    )


run, message = partial(helpers.run, command=main), partial(helpers.message, command=main)


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run/rounds.json").read_text()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that nothing interrupted; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        assert run(write_search(folder)) == 0
    return folder


def test_a_search_moves_to_the_objectives_own_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_search(tmp_path)) == 0
    said, found = capsys.readouterr().out, record(tmp_path)
    mixture = Mixture.load(tmp_path / "run/mixture.json")
    best = found["rounds"][found["best"]]
    assert mixture.average_weights() == pytest.approx(best["weights"])
    assert mixture.average_weights()["vowels"] > 1 / 3
    assert mixture.provenance.method == "search"
    assert {line.status for line in check(tmp_path / "run/mixture.json")} <= {"pass", "warn"}
    assert best["against_prior"]["value"] < 0
    assert {path.name for path in (tmp_path / "run/plots").iterdir()} == {"rounds.png", "weights.png", "effects.png"}
    assert (tmp_path / "run/summary.txt").read_text() in said
    assert "at most 3 mixtures x 2 seed(s)" in said


def test_rounds_say_what_was_measured(whole: Path) -> None:
    found = record(whole)
    for number, one in enumerate(found["rounds"]):
        folder = whole / f"run/rounds/{number:02d}"
        assert Mixture.load(folder / "mixture.json").average_weights() == pytest.approx(one["weights"])
        for seed, value in enumerate(one["objective"]):
            assert pd.read_parquet(folder / f"seed-{seed}.parquet")["loss"].mean() == pytest.approx(value)
        if number:
            before = found["rounds"][one["start"]]
            assert one["came"]["value"] == pytest.approx(np.mean(one["objective"]) - np.mean(before["objective"]))
            gain = sum(
                (one["weights"][name] - before["weights"][name]) * slope for name, slope in before["slopes"].items()
            )
            assert one["predicted"] == pytest.approx(gain)


@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 8])
def test_a_killed_search_goes_on_to_the_same_bits(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    path = write_search(tmp_path)
    writes, kept = [0], Proxies._save

    def killed(self: Proxies, *arguments: Any, **options: Any) -> None:
        writes[0] += 1
        if writes[0] == write:
            raise KeyboardInterrupt
        kept(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Proxies, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert not (tmp_path / "run/mixture.json").exists()
    assert run(path) == 0
    for name in DONE:
        assert (tmp_path / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()


def test_a_stopped_search_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = write_search(tmp_path), Proxies._save

    def stopped(self: Proxies, *arguments: Any, **options: Any) -> None:
        kept(self, *arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Proxies, "_save", stopped)
        assert run(path) == 143
    assert "stopped by SIGTERM in round 0, seed 0; finished proxies are kept" in capsys.readouterr().err
    assert run(path) == 0


def test_more_rounds_go_on_from_those_that_are_done(tmp_path: Path, whole: Path) -> None:
    path = write_search(tmp_path)
    assert run(path, "--search.rounds", "1") == 0
    before = (tmp_path / "run/rounds/01/seed-0.parquet").stat().st_mtime_ns
    assert run(path) == 0
    assert record(tmp_path) == record(whole)
    assert (tmp_path / "run/rounds/01/seed-0.parquet").stat().st_mtime_ns == before


def test_two_processes_search_as_one(tmp_path: Path, whole: Path) -> None:
    alone = record(whole)
    two = launch(write_search(tmp_path), options=config_of(2), module="proxies.search")
    assert two.returncode == 0, two.stderr
    both = record(tmp_path)
    assert len(both["rounds"]) == len(alone["rounds"])
    for one, other in zip(both["rounds"], alone["rounds"], strict=True):
        assert one["weights"] == pytest.approx(other["weights"], abs=1e-3)
        assert one["objective"] == pytest.approx(other["objective"], abs=1e-3)


def test_one_seed_searches_and_claims_nothing_about_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_search(tmp_path, seeds=1)) == 0
    assert "one seed says nothing about others" in " ".join(capsys.readouterr().out.split())
    for one in record(tmp_path)["rounds"][1:]:
        assert one["against_prior"]["low"] is one["came"]["high"] is None


def test_a_memory_that_holds_few_states_gives_the_same_search(tmp_path: Path, whole: Path) -> None:
    assert run(write_search(tmp_path), "--search.memory", "0.001") == 0
    assert record(tmp_path) == record(whole)


def test_dropout_is_switched_off_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"attention_dropout": 0.5}))
    assert run(path) == 0
    assert "dropout is switched off" in capsys.readouterr().out


def test_a_search_with_other_settings_does_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path)
    assert run(path, "--search.rounds", "1") == 0
    said = message(capsys, path, "--train.lr", "0.5")
    assert "train.lr: 0.02 -> 0.5" in said
    assert "new run_dir" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--update.aggregate", "worst"), "update.aggregate is worst, but a search lowers a mean"),
        (("--update.preset", "doremi", "--update.objective", "auto"), "leave it out: a search has no other rule"),
        (("--samples.online", "presence"), "samples.online is presence"),
        (("--search.memory", "1e-6"), "search.memory is 0.00 GB"),
        (("--train.evaluate_rows", "100000"), "needs held-out rows of vowels"),
        (("--train.accumulate", "5"), "make train.rows_per_domain a multiple of 5"),
    ],
)
def test_a_search_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], says: str
) -> None:
    assert says in message(capsys, write_search(tmp_path), *flags)
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_directory_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path)
    (tmp_path / "run/trajectory").mkdir(parents=True)
    assert "holds another kind of run" in message(capsys, path)
    (tmp_path / "run/trajectory").rmdir()
    assert run(path, "--search.rounds", "1") == 0
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    del settings["search"]  # a proxy run that has no records yet
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(settings))
    assert "holds another kind of run" in message(capsys, path, "--search.objective_rows", "64")


def test_a_damaged_round_is_refused_and_can_be_made_again(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_search(tmp_path)
    assert run(path) == 0
    table = tmp_path / "run/rounds/00/seed-1.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert "remove it, and it is computed again" in message(capsys, path)
    table.unlink()
    assert run(path) == 0
    assert record(tmp_path) == record(whole)


def test_a_file_that_a_killed_search_did_not_name_is_made_again(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = write_search(tmp_path), proxies_of_a_search.add_sums

    def killed(directory: Path, names: list[str], **options: Any) -> None:
        if names == ["seed-1-effects.parquet"]:
            raise KeyboardInterrupt
        kept(directory, names, **options)

    with monkeypatch.context() as patch:
        patch.setattr(proxies_of_a_search, "add_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert (tmp_path / "run/rounds/00/seed-1-effects.parquet").exists()
    assert run(path) == 0
    assert record(tmp_path) == record(whole)


def test_a_round_of_another_mixture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path)
    assert run(path, "--search.rounds", "1") == 0
    folder = tmp_path / "run/rounds/00"
    for table in folder.glob("*-effects.parquet"):  # as another version might have computed them
        frame = pd.read_parquet(table)
        frame["effect"] = frame["effect"].to_numpy()[::-1]
        frame.to_parquet(table)
    seal(folder)
    assert "round 1 was measured at another mixture" in message(capsys, path)
    shutil.rmtree(tmp_path / "run/rounds/01")
    assert run(path) == 0


@pytest.mark.parametrize(
    ("lr", "says"),
    [("1e6", "error: round 0, seed 0: the "), ("300", "error: round 0, seed 0, back: the effect of step ")],
)
def test_a_proxy_that_diverges_ends_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lr: str, says: str
) -> None:
    said = message(capsys, write_search(tmp_path), "--train.lr", lr)
    assert says in said
    assert "is not finite, because the proxy diverges; lower train.lr" in said


def test_the_mixture_counts_the_text_of_the_large_run(tmp_path: Path) -> None:
    path = write_search(tmp_path)
    settings = yaml.safe_load(path.read_text())
    settings["corpus"]["simulate_budget"] = {"tokens": 20_000, "unique_tokens": {"digits": 5000}}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert run(path, "--search.rounds", "1") == 0
    large, proxy = (Mixture.load(tmp_path / "run" / name) for name in ("mixture.json", "rounds/00/mixture.json"))
    text = {domain["name"]: domain for domain in json.loads((tmp_path / "run/corpus.json").read_text())["domains"]}
    found = {domain.name: (domain.unique_tokens, domain.unique_documents) for domain in large.domains}
    whole = text["vowels"]["simulated"]
    assert found["vowels"] == (whole["text_tokens"], whole["text_documents"])
    assert found["digits"] == (5000, None)
    assert [domain.unique_tokens for domain in proxy.domains] == [
        text[domain.name]["tokens"] for domain in proxy.domains
    ]


def test_a_single_row_of_the_objective_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path)
    settings = yaml.safe_load(path.read_text())
    settings["corpus"]["domains"]["vowels"]["validation"] = "two.jsonl"  # one row is evaluated
    (tmp_path / "two.jsonl").write_text(json.dumps({"text": "aeiou " * 6}) + "\n")
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert "vowels has 1 of them, too few for a standard error" in message(capsys, path, "--train.evaluate_rows", "1")


def test_the_run_file_of_a_search_names_its_block(tmp_path: Path) -> None:
    path = write_search(tmp_path)
    assert run(path, "--search.rounds", "1") == 0
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["search"]["rounds"] == 1


def test_help_lists_every_setting_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in Search.model_fields:
        assert f"--search.{name} (default" in said


def test_a_domain_can_fill_a_whole_proxy_without_repeating(tmp_path: Path) -> None:
    settings = load(SearchSettings, write_search(tmp_path))
    assert settings.draws == dict.fromkeys(("vowels", "consonants", "digits"), 10 * 2 * 3 * 16)
