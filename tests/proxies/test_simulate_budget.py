"""Simulated epoching: in the proxy a domain repeats as often as in the large run at equal shares, and never has more
text than there is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.run.run import RunRecord, read_run
from mixtures.run.trajectory import read_trajectory
from proxies.corpus.corpus import CorpusData
from proxies.settings import Settings, load_settings
from proxies.simulate import describe_cut, simulate
from tests.proxies.comparison.helpers import compare, write_comparison
from tests.proxies.helpers import ALPHABETS, message, prepare_corpus, run, same, write_domain, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

RUN_TOKENS = 3 * 6 * 4 * 16  # domains x steps x rows x tokens


def budgeted(tmp_path: Path, tokens: Any, unique: dict[str, Any] | None = None, **train: int) -> Path:
    return write_run(
        tmp_path, corpus={"simulate_budget": {"tokens": tokens, "unique_tokens": unique or {}}}, train=train
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusData, Settings]:
    """A corpus without a budget."""
    settings = load_settings(write_run(tmp_path_factory.mktemp("text")))
    return prepare_corpus(settings), settings


def cut(path: Path) -> tuple[CorpusData, CorpusData]:
    settings = load_settings(path)
    whole = prepare_corpus(settings)
    return whole, simulate(whole, settings)


def fault(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        cut(path)
    return str(caught.value)


def test_a_domain_repeats_in_the_proxy_as_in_the_large_run_at_equal_shares(tmp_path: Path) -> None:
    whole, corpus = cut(budgeted(tmp_path, "300B", {"vowels": "25e9", "digits": 50_000_000_000, "consonants": "9T"}))
    for name, unique in (("vowels", 25e9), ("digits", 50e9)):
        here = RUN_TOKENS / 3 / len(corpus.tokens[name])
        there = 300e9 / 3 / unique
        assert here == pytest.approx(there, rel=16 / len(corpus.tokens[name]))
        assert np.array_equal(corpus.tokens[name], whole.tokens[name][: len(corpus.tokens[name])])
        assert len(corpus.tokens[name]) == corpus.entry(name)["tokens"]


def test_without_a_budget_the_corpus_is_as_it_was(tmp_path: Path) -> None:
    whole, corpus = cut(write_run(tmp_path))
    assert corpus is whole


def test_domains_without_a_count_go_by_their_text(tmp_path: Path) -> None:
    whole = cut(write_run(tmp_path))[0]
    _, corpus = cut(budgeted(tmp_path, 4 * RUN_TOKENS))
    for name in corpus.domains:
        assert len(corpus.tokens[name]) == len(whole.tokens[name]) // 4 // 16 * 16


@given(budget=st.integers(100, 10**12), unique=st.integers(1, 10**12))
def test_never_more_than_there_is_and_always_whole_rows(
    generated: tuple[CorpusData, Settings], budget: int, unique: int
) -> None:
    corpus, settings = generated
    block = settings.corpus.simulate_budget.model_copy(
        update={"tokens": budget, "unique_tokens": dict.fromkeys(corpus.domains, unique)}
    )
    asked = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"simulate_budget": block})})
    rows = RUN_TOKENS * unique // budget // 16
    if rows == 0:
        with pytest.raises(UserError):
            simulate(corpus, asked)
        return
    found = simulate(corpus, asked)
    for name in corpus.domains:
        there = len(corpus.tokens[name])
        assert len(found.tokens[name]) == min(rows * 16, there)
        assert found.entry(name)["rows"] == len(found.tokens[name]) // 16


def test_the_record_says_what_is_read_and_what_there_was(tmp_path: Path) -> None:
    whole, corpus = cut(budgeted(tmp_path, "300B", {"vowels": "100B", "consonants": "9e12", "digits": "50B"}))
    entry, was = corpus.entry("vowels"), whole.entry("vowels")
    assert entry["complete"] is False
    assert entry["fingerprint"] == was["fingerprint"]
    assert entry["held_out_tokens"] == was["held_out_tokens"]
    frame = pd.read_parquet(corpus.documents["vowels"])
    begun = frame[(frame["split"] == "train") & (frame["start"] < entry["tokens"])]
    assert entry["documents"] == len(begun)
    assert entry["bytes"] == pytest.approx(begun["bytes"].sum() * entry["tokens"] / begun["tokens"].sum(), abs=1)
    assert entry["simulated"] == {
        "budget_tokens": 300_000_000_000,
        "unique_tokens": 100_000_000_000,
        "text_tokens": was["tokens"],
        "text_documents": was["documents"],
        "text_complete": True,
    }
    assert {key: value for key, value in corpus.entry("consonants").items() if key != "simulated"} == whole.entry(
        "consonants"
    )


def test_what_is_cut_and_what_is_too_little_is_said(tmp_path: Path) -> None:
    path = budgeted(tmp_path, "300B", {"vowels": "1B", "consonants": "9e12", "digits": "1e9"}, steps=600)
    said = describe_cut(cut(path)[1], load_settings(path))
    cuts, short = " ".join(said.split()).split(" note: ")
    assert cuts.startswith("text: repeats as in a run of 300 B tokens at equal shares; cut: vowels to 384 of 2.")
    assert "digits to 384" in cuts
    assert "consonants" not in cuts
    assert short.startswith("too little text, repeated more often than in the large run: consonants 1")
    assert short.endswith("epochs in this run, 0.01 in the large one")
    assert max(map(len, said.splitlines())) <= 100


def test_targets_and_held_out_text_stay_whole(tmp_path: Path) -> None:
    path = write_run(tmp_path, targets=True, corpus={"simulate_budget": {"tokens": 4 * RUN_TOKENS}})
    whole, corpus = cut(path)
    assert np.array_equal(corpus.tokens["mixed"], whole.tokens["mixed"])
    assert corpus.entry("mixed") == whole.entry("mixed")
    assert corpus.held_out == whole.held_out


def test_less_than_a_row_is_refused_for_every_such_domain(tmp_path: Path) -> None:
    said = fault(budgeted(tmp_path, "300B", {"vowels": "1B"}))
    for part in (
        "vowels: 1.15 k tokens of this run x 1.00 B unique tokens / 300 B is less than one row of 16",
        "digits: ",
        "raise train.steps",
    ):
        assert part in said


def test_text_read_in_part_needs_a_count(tmp_path: Path) -> None:
    path = budgeted(tmp_path, 5000)
    settings = yaml.safe_load(path.read_text())
    settings["corpus"]["domains"]["digits"]["max_tokens"] = 2000
    path.write_text(yaml.safe_dump(settings))
    assert "digits: only a part of its text was read, so its size is not known; give it in unique_tokens" in fault(path)


@pytest.mark.parametrize(
    ("tokens", "unique", "part"),
    [
        (None, {"vowels": 5}, "unique_tokens is set but tokens is not"),
        ("many", {}, "'many' is no number of tokens"),
        (0, {}, "greater than 0"),
        (1000, {"vowel": 5}, "names vowel, but there is no such training domain; allowed: vowels, consonants, digits"),
    ],
)
def test_a_budget_that_is_none_is_refused(tmp_path: Path, tokens: Any, unique: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(budgeted(tmp_path, tokens, unique))
    assert part in str(caught.value)


@pytest.mark.parametrize("tokens", ["300e9", "300B", 300_000_000_000, 3.0e11])
def test_tokens_are_read_as_elsewhere(tmp_path: Path, tokens: Any) -> None:
    assert load_settings(budgeted(tmp_path, tokens)).corpus.simulate_budget.tokens == 300_000_000_000
    flags = ["--corpus.simulate_budget.tokens", "64k", "--corpus.simulate_budget.unique_tokens", "{vowels: 2M}"]
    block = load_settings(budgeted(tmp_path, tokens), flags).corpus.simulate_budget
    assert (block.tokens, block.unique_tokens) == (64_000, {"vowels": 2_000_000})


def ran(tmp_path: Path) -> tuple[Path, RunRecord]:
    path = budgeted(tmp_path, "300B", {"vowels": "100B", "consonants": "50B", "digits": "30B"}, steps=8)
    assert run(path) == 0
    return path, read_run(tmp_path / "run")


def test_a_run_reads_the_cut_text_alone_and_its_epochs_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = ran(tmp_path)
    assert "repeats as in a run of 300 B tokens" in capsys.readouterr().out
    each = found.trajectory.tokens[-1] / 3
    for domain, epochs in zip(found.domains, (1.0, 2.0, 100 / 30), strict=True):
        assert each / domain.tokens == pytest.approx(epochs, rel=0.1)
    mixture = export_mixture([tmp_path / "run"])
    assert [row.epochs for row in mixture.expected] == pytest.approx([each * 3 * w / d.tokens for w, d in zip(
        mixture.average_weights().values(), found.domains, strict=True)])  # fmt: skip


def test_exported_for_a_large_run_epochs_count_its_own_text(tmp_path: Path) -> None:
    ran(tmp_path)
    mixture = export_mixture([tmp_path / "run"], token_budget=300_000_000_000, unique_tokens={"digits": 60_000_000_000})
    assert [domain.unique_tokens for domain in mixture.domains] == [100_000_000_000, 50_000_000_000, 60_000_000_000]
    assert all(domain.fingerprint is None for domain in mixture.domains)


def test_exported_for_a_large_run_of_the_same_text_it_is_the_whole_text(tmp_path: Path) -> None:
    assert run(budgeted(tmp_path, 2 * RUN_TOKENS)) == 0
    whole = prepare_corpus(load_settings(write_run(tmp_path)))
    for domain in export_mixture([tmp_path / "run"], token_budget=10**6).domains:
        assert domain.unique_tokens == whole.entry(domain.name)["tokens"]
        assert domain.complete
        assert domain.fingerprint == whole.entry(domain.name)["fingerprint"]
    assert not any(domain.complete for domain in export_mixture([tmp_path / "run"]).domains)


def test_the_same_in_every_run_and_after_a_resume(tmp_path: Path) -> None:
    path, _ = ran(tmp_path)
    assert run(tmp_path / "run" / "config.yaml", "--run_dir", tmp_path / "again") == 0
    assert same(read_trajectory(tmp_path / "run"), read_trajectory(tmp_path / "again"))
    assert run(path, "--resume") == 0
    records = [json.loads((tmp_path / name / "corpus.json").read_text()) for name in ("run", "again")]
    assert records[0] == records[1]


def test_a_resume_with_another_budget_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = ran(tmp_path)
    said = message(capsys, path, "--resume", "--corpus.simulate_budget.tokens", "200B")
    assert "corpus.simulate_budget.tokens: 300000000000 -> 200000000000" in said


def test_changed_text_is_still_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = ran(tmp_path)
    write_domain(tmp_path / "digits.jsonl", ALPHABETS["digits"], seed=1)
    assert "digits changed since the run started" in message(capsys, path, "--resume")


def test_a_comparison_learns_on_cut_text_and_trains_bases_on_the_whole(tmp_path: Path) -> None:
    block = {
        "simulate_budget": {"tokens": "300B", "unique_tokens": {"vowels": "100B", "consonants": "50B", "digits": "30B"}}
    }
    mixtures = {"uniform": {"fixed": "uniform"}, "stable": {"learn": {"preset": "stable"}}}
    path = write_comparison(tmp_path, corpus=block, mixtures=mixtures, train={"steps": 2, "evaluate_every": 2})
    assert compare(path) == 0
    learned = {domain.name: domain for domain in read_run(tmp_path / "comparison" / "learned" / "stable").domains}
    whole = json.loads((tmp_path / "comparison" / "corpus.json").read_text())["domains"]
    for entry in whole:
        assert learned[entry["name"]].tokens < entry["tokens"]
        assert entry["complete"]
