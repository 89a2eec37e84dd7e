"""`--reuse mixture.json`: untouched domains keep their weights among themselves and cost one group; only what changed
is learned.
"""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.run.evaluation import read_evaluation
from mixtures.run.learned import Learned
from mixtures.run.reused import unfolded
from mixtures.run.run import read_run
from mixtures.run.summary import summary
from mixtures.run.trajectory import read_trajectory
from mixtures.schedule.check import check
from mixtures.schedule.records import Uncertainty
from mixtures.schedule.show import mixture_text
from proxies.corpus.pool import WINDOW, WINDOW_ROWS, make_pool
from proxies.preflight import require_same_corpus
from proxies.reuse import reuse
from proxies.run import prior_of
from proxies.settings import load_settings
from proxies.step import Stepper, groups_of
from tests.proxies.helpers import (
    ALPHABETS,
    alone_and_in_two_processes,
    forget_id,
    kill_at,
    message,
    prepare_corpus,
    run,
    same,
    write_domain,
    write_run,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

OLD = ("vowels", "consonants", "digits")
WEIGHTS = {"vowels": 0.5, "consonants": 0.2, "digits": 0.3}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run over three domains, of the shares WEIGHTS."""
    folder = tmp_path_factory.mktemp("old")
    assert run(write_run(folder, train={"steps": 2})) == 0
    reweigh(folder / "run" / "mixture.json", WEIGHTS)
    return folder


def reweigh(path: Path, weights: dict[str, float]) -> None:
    """Put other weights into a mixture.json."""
    record = json.loads(path.read_text())
    record["stages"][0] |= {"weights": weights, "weights_ci95": None}
    record["provenance"].pop("uncertainty", None)
    record |= {"expected": [], "checks": []}
    del record["id"]
    Mixture.from_record(record, where=str(path)).save(path)


def grown(folder: Path, old: Path, *, added: tuple[str, ...] = ("mixed",), **blocks: Any) -> Path:
    """A run's YAML over the text of `old` and further domains; it reuses the mixture of `old`."""
    path = write_run(folder, update=blocks.pop("update", {}), **blocks)
    settings = yaml.safe_load(path.read_text())
    for name in added:
        file = write_domain(folder / f"{name}.jsonl", ALPHABETS.get(name, "xyz "), seed=len(name))
        settings["corpus"]["domains"][name] = {"data_files": str(file)}
    settings["reuse"] = str(old / "run" / "mixture.json")
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def edited(path: Path, **domains: Any) -> Path:
    """The YAML with other `corpus.domains`; None removes one."""
    settings = yaml.safe_load(path.read_text())
    settings["corpus"]["domains"] = {
        name: source for name, source in (settings["corpus"]["domains"] | domains).items() if source
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def reused(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    settings = load_settings(path, overrides)
    return reuse(prepare_corpus(settings), settings)


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        reused(path, overrides)
    return str(caught.value)


def file_of(folder: Path, name: str, alphabet: str) -> dict[str, str]:
    return {"data_files": str(write_domain(folder / f"{name}.jsonl", alphabet, seed=7))}


# The run


def test_an_added_domain_is_learned_and_others_keep_relative_weights(
    tmp_path: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grown(tmp_path, learned)) == 0
    mixture = Mixture.load(tmp_path / "run" / "mixture.json")
    after = mixture.average_weights()
    assert list(after) == [*OLD, "mixed"]
    assert sum(after.values()) == pytest.approx(1)
    for name in OLD:
        assert after[name] / (1 - after["mixed"]) == pytest.approx(WEIGHTS[name])
    trajectory = read_trajectory(tmp_path / "run")
    assert trajectory.domains == ("reused", "mixed")
    assert mixture.provenance.parent_schedule == Mixture.load(learned / "run" / "mixture.json").id
    assert all(one.fingerprint for one in mixture.domains)
    assert all(result.status != "fail" for result in check(tmp_path / "run" / "mixture.json"))
    printed = capsys.readouterr().out
    for part in ("reused: 3 domain(s) keep their relative weights, as one: vowels, consonants, "
                 "digits", "learned: mixed (new)",
                 "cost: 2 groups per step instead of 4", "2 domains x 4 rows", "mixture.json has all 4 "
                                                                                  "domains"):  # fmt: skip
        assert part in " ".join(printed.split())
    assert f"reused: 3 domain(s) keep the relative weights of {mixture.provenance.parent_schedule}" in " ".join(
        mixture_text(mixture).split()
    )


def test_a_step_trains_on_one_group_for_all_reused_domains(tmp_path: Path, learned: Path) -> None:
    assert run(grown(tmp_path, learned, train={"steps": 2})) == 0
    assert read_trajectory(tmp_path / "run").tokens.tolist() == [2 * 4 * 16, 2 * 2 * 4 * 16]
    assert read_trajectory(learned / "run").tokens.tolist()[0] == 3 * 4 * 16


def test_every_domain_is_evaluated_and_the_reused_ones_together_too(tmp_path: Path, learned: Path) -> None:
    assert run(grown(tmp_path, learned, train={"steps": 2})) == 0
    frame = read_evaluation(tmp_path / "run")
    last = frame[frame["step"] == 2].set_index("domain")["loss"]
    assert set(last.index) == {"reused", "mixed", *OLD}
    relative = read_run(tmp_path / "run").corpus.reused.relative  # type: ignore[union-attr]
    assert last["reused"] == pytest.approx(sum(share * last[name] for name, share in relative.items()))
    assert "reused" in summary(read_run(tmp_path / "run"))


def test_the_record_replays_and_resumes_bit_for_bit(
    tmp_path: Path, learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grown(tmp_path, learned)
    kill_at(monkeypatch, Stepper, 5, lambda: run(path))
    assert run(path, "--resume") == 0
    assert run(tmp_path / "run" / "config.yaml", "--run_dir", tmp_path / "again") == 0
    assert same(read_trajectory(tmp_path / "run"), read_trajectory(tmp_path / "again"))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["reuse"] == str(
        learned / "run" / "mixture.json"
    )


def test_two_processes_give_the_weights_of_one(tmp_path: Path, learned: Path) -> None:
    one, other = alone_and_in_two_processes(grown(tmp_path, learned, train={"steps": 3}))
    assert np.abs(one.weights - other.weights).max() < 1e-6
    assert np.allclose(one.losses, other.losses, atol=1e-5)


def test_a_resume_with_another_mixture_is_refused(
    tmp_path: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes((learned / "run" / "mixture.json").read_bytes())
    path = grown(tmp_path, learned, train={"steps": 2})
    assert run(path, "--reuse", copy) == 0
    reweigh(copy, {"vowels": 0.5, "consonants": 0.3, "digits": 0.2})
    assert "reused changed since the run started" in message(capsys, path, "--reuse", copy, "--resume")
    assert "reuse: " in message(capsys, path, "--resume")


def test_the_text_of_a_reused_run_can_be_scored(
    tmp_path: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grown(tmp_path, learned, train={"steps": 2})
    assert run(path) == 0
    settings = load_settings(path)
    record = prepare_corpus(settings).record
    require_same_corpus(settings.run_path, record)
    path = settings.run_path / "corpus.json"
    older = json.loads(path.read_text())
    assert older["tokenizer"].pop("end") == "<|endoftext|>"
    path.write_text(json.dumps(older))
    forget_id(settings.run_path)
    require_same_corpus(settings.run_path, record)
    write_domain(tmp_path / "digits.jsonl", ALPHABETS["digits"], seed=1)
    with pytest.raises(UserError, match="digits changed"):
        require_same_corpus(settings.run_path, prepare_corpus(settings).record)


def test_runs_that_reuse_one_mixture_are_averaged_with_intervals(tmp_path: Path, learned: Path) -> None:
    path = grown(tmp_path, learned)
    runs = [tmp_path / f"seed{seed}" for seed in range(3)]
    for seed, directory in enumerate(runs):
        assert run(path, "--seed", str(seed), "--run_dir", directory) == 0
    mixture = export_mixture(runs, token_budget=10**6, max_epochs={"digits": 60.0})
    mixture.save(tmp_path / "mixture.json")
    assert [result.id for result in check(tmp_path / "mixture.json") if result.status == "fail"] == []
    intervals = mixture.stages[0].weights_ci95
    assert intervals is not None
    assert list(intervals) == [*OLD, "mixed"]
    relative = read_run(runs[0]).corpus.reused.relative  # type: ignore[union-attr]
    widths = [(intervals[name][1] - intervals[name][0]) / relative[name] for name in OLD]
    assert widths == pytest.approx([widths[0]] * 3)


def test_one_reused_domain_is_the_plain_run_bit_for_bit(tmp_path: Path, learned: Path) -> None:
    path = edited(grown(tmp_path, learned), consonants=None, digits=None)
    assert run(path) == 0
    plain = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "reuse"}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    assert run(tmp_path / "plain.yaml", "--run_dir", tmp_path / "plain") == 0
    one, other = read_trajectory(tmp_path / "run"), read_trajectory(tmp_path / "plain")
    assert (one.domains, other.domains) == (("reused", "mixed"), ("vowels", "mixed"))
    for mine, theirs in ((one.weights, other.weights), (one.losses, other.losses), (one.grams, other.grams)):
        assert np.array_equal(mine, theirs)


# What counts as changed


def test_text_that_changed_under_its_name_is_learned_again(tmp_path: Path, learned: Path) -> None:
    path = grown(tmp_path, learned, added=())
    corpus = reused(edited(path, digits=file_of(tmp_path, "digits2", ALPHABETS["digits"])))
    assert corpus.domains == ("reused", "digits")
    assert corpus.record["reused"]["changed"] == {"digits": "other text"}


def test_a_split_domain_is_learned_in_its_parts(tmp_path: Path, learned: Path) -> None:
    parts = {f"digits_{part}": file_of(tmp_path, f"digits_{part}", ALPHABETS["digits"]) for part in "ab"}
    corpus = reused(edited(grown(tmp_path, learned, added=()), digits=None, **parts))
    assert corpus.domains == ("reused", "digits_a", "digits_b")
    assert list(corpus.record["reused"]["removed"]) == ["digits"]
    assert corpus.names == corpus.domains
    assert list(corpus.record["reused"]["relative"]) == ["vowels", "consonants"]


def test_a_removed_domain_is_said_and_its_share_spread(
    tmp_path: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(grown(tmp_path, learned, train={"steps": 2}), consonants=None)
    assert run(path) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "gone: consonants (0.2000), spread over all others" in said
    assert "consonants" not in Mixture.load(tmp_path / "run" / "mixture.json").average_weights()


def test_a_reused_mixture_can_be_reused_again(tmp_path: Path, learned: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert run(grown(tmp_path / "one", learned, train={"steps": 2})) == 0
    corpus = reused(grown(tmp_path / "two", tmp_path / "one", added=("mixed", "more")))
    assert list(corpus.record["reused"]["relative"]) == [*OLD, "mixed"]
    assert corpus.domains == ("reused", "more")


# Objective and prior


@pytest.mark.parametrize(
    ("update", "wanted"),
    [
        ({}, [3.0, 1.0]),
        ({"objective": {"mixed": 2}}, [0.0, 2.0]),
        ({"objective": {"vowels": 2, "consonants": 2, "digits": 2, "mixed": 1}}, [6.0, 1.0]),
    ],
)
def test_reused_counts_as_many_domains_as_it_holds(
    tmp_path: Path, learned: Path, update: dict, wanted: list[float]
) -> None:
    path = grown(tmp_path, learned, update=update)
    settings, corpus = load_settings(path), reused(path)
    assert [group.importance for group in groups_of(settings, corpus)] == wanted
    assert prior_of("uniform", corpus).tolist() == [0.75, 0.25]
    tokens = [corpus.entry(name)["tokens"] for name in (*OLD, "mixed")]
    assert prior_of("natural", corpus).tolist() == pytest.approx(
        [sum(tokens[:3]) / sum(tokens), tokens[3] / sum(tokens)]
    )


def test_the_prior_in_the_records_is_that_of_the_run(tmp_path: Path, learned: Path) -> None:
    assert run(grown(tmp_path, learned, train={"steps": 2})) == 0
    found = read_run(tmp_path / "run")
    assert found.prior.tolist() == [0.75, 0.25]
    assert [domain.name for domain in found.mixed] == [*OLD, "mixed"]


# Refusals


def test_nothing_changed_is_refused(tmp_path: Path, learned: Path) -> None:
    assert "nothing changed, every domain has the text that it had; there is nothing to learn" in fault(
        grown(tmp_path, learned, added=())
    )
    said = fault(edited(grown(tmp_path, learned, added=()), digits=None))
    assert "nothing changed" in said
    assert "but for digits" in said


def test_nothing_left_is_refused_with_every_reason(tmp_path: Path, learned: Path) -> None:
    sources = {name: file_of(tmp_path, f"{name}2", ALPHABETS[name]) for name in OLD}
    said = fault(edited(grown(tmp_path, learned), **sources))
    for part in (
        "every domain is new or changed",
        "- vowels: other text",
        "- digits: other text",
        "- mixed: new",
        "learn without --reuse",
    ):
        assert part in said


def test_a_mixture_of_unknown_text_is_no_help(tmp_path: Path, learned: Path) -> None:
    export_mixture([learned / "run"], unique_tokens=10.0**9).save(tmp_path / "large.json")
    said = fault(grown(tmp_path, learned), "--reuse", str(tmp_path / "large.json"))
    assert "- vowels: the mixture has no fingerprint of its text" in said


def test_another_tokenizer_is_refused_with_the_remedy(tmp_path: Path, learned: Path) -> None:
    path = grown(tmp_path, learned, corpus={"tokenizer": {"train_bpe": 300}})
    edited(path, **{name: {"data_files": str(tmp_path / f"{name}.jsonl")} for name in OLD})
    said = fault(path)
    assert "its shares are in tokens of " in said
    assert f"corpus.tokenizer: {{file: {learned / 'run' / 'tokenizer.json'}}}" in said


def test_the_tokenizer_of_the_run_before_is_accepted_with_its_end(tmp_path: Path) -> None:
    tokenizer = Backend(models.BPE({letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}, []))
    tokenizer.add_tokens(list("0123456789"))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    tokenizer.save(str(tmp_path / "chat.json"))
    named = {"tokenizer": {"file": str(tmp_path / "chat.json"), "end": "<|im_end|>"}}
    assert run(write_run(tmp_path, corpus=named, train={"steps": 2})) == 0
    before = tmp_path / "run"
    asked = {"tokenizer": {"file": str(before / "tokenizer.json")}}
    path = grown(tmp_path, tmp_path, corpus=asked)
    assert reused(path).domains == ("reused", "mixed")
    (before / "corpus.json").unlink()
    said = fault(path)
    assert "only the end-of-text token differs, here '<|endoftext|>'" in said
    assert 'set corpus.tokenizer.end: "<|im_end|>"' in said
    assert reused(path, ("--corpus.tokenizer.end", "<|im_end|>")).domains == ("reused", "mixed")
    tokenizer.add_tokens(["more"])
    tokenizer.save(str(before / "tokenizer.json"))
    assert "set corpus.tokenizer.file to the tokenizer.json in the directory of the run that" in fault(path)


def test_the_name_of_the_virtual_domain_is_taken(tmp_path: Path, learned: Path) -> None:
    assert "a domain or target is named 'reused'" in fault(grown(tmp_path, learned, added=("reused",)))


def test_an_objective_that_tells_reused_domains_apart_is_refused(tmp_path: Path, learned: Path) -> None:
    said = fault(grown(tmp_path, learned, update={"objective": {"vowels": 1, "mixed": 1}}))
    assert "gives the reused domains different importances (vowels 1, consonants 0, digits 0)" in said


def test_reused_domains_without_weight_are_refused(tmp_path: Path, learned: Path) -> None:
    (tmp_path / "mixture.json").write_bytes((learned / "run" / "mixture.json").read_bytes())
    reweigh(tmp_path / "mixture.json", {"vowels": 0.0, "consonants": 0.0, "digits": 1.0})
    path = edited(grown(tmp_path, learned, added=()), digits=file_of(tmp_path, "digits2", "123 "))
    assert "the untouched domains (vowels, consonants) have no weight in that mixture" in fault(
        path, "--reuse", str(tmp_path / "mixture.json")
    )


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"update": {"held_out": True}}, "update.held_out"),
        ({"update": {"preset": "doremi"}}, "update.preset doremi"),
        ({"samples": {"online": "presence"}}, "samples.online"),
        ({"corpus": {"simulate_budget": {"tokens": 5000}}}, "corpus.simulate_budget"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, learned: Path, block: dict, part: str) -> None:
    with pytest.raises(UserError, match=rf"reuse cannot be combined with {part}"):
        load_settings(grown(tmp_path, learned, **block))


def test_a_file_that_is_no_mixture_is_refused_before_anything_is_written(
    tmp_path: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = message(capsys, grown(tmp_path, learned), "--reuse", tmp_path / "nothing.json")
    assert "nothing.json is not there" in said
    assert not (tmp_path / "run").exists()


# The rows of the virtual domain


shares_of = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(
    lambda values: [value / sum(values) for value in values]
)


@given(shares=shares_of, steps=st.integers(1, 40), rows=st.integers(1, 9), seed=st.integers(0, 3))
def test_rows_are_dealt_out_by_the_shares_at_every_window(
    shares: list[float], steps: int, rows: int, seed: int
) -> None:
    tokens = {f"d{number}": np.arange(64) for number in range(len(shares))}
    pool = make_pool(tokens, shares, steps=steps, rows=rows, seed=seed)
    assert pool.turns.shape == (steps, rows)
    halves, window = 2 if rows % 2 == 0 else 1, max(WINDOW, WINDOW_ROWS * len(shares))
    for half in np.split(pool.turns, halves, axis=1):
        order = half.ravel()
        for end in {*range(window, len(order), window), len(order)}:
            counts = np.bincount(order[:end], minlength=len(shares))
            assert np.abs(counts - end * np.array(shares)).max() <= 1


@pytest.mark.parametrize("rows", [3, 4])
def test_a_pool_reads_every_domain_in_epochs_and_its_halves_share_no_row(rows: int) -> None:
    tokens = {name: np.arange(70, dtype=np.uint16) + start for name, start in (("a", 0), ("b", 1000), ("c", 2000))}
    pool = make_pool(tokens, [0.6, 0.3, 0.1], steps=20, rows=rows, seed=5)
    halves = 2 if rows == 4 else 1
    for name, start in (("a", 0), ("b", 1000), ("c", 2000)):
        seen: list[list[int]] = [[] for _ in range(halves)]
        for step in range(20):
            for number, row in enumerate(pool.step_rows(seed=5, step=step, rows=rows, row_tokens=10)):
                if row[0] // 1000 * 1000 == start:
                    seen[number * halves // rows].append(int(row[0] - start) // 10)
        assert halves == 1 or not set(seen[0]) & set(seen[1]), name
        for half in seen:
            counts = np.bincount(half, minlength=7)[sorted(set(half))]
            assert counts.max() - counts.min() <= 1


def test_a_step_is_a_function_of_seed_and_step() -> None:
    tokens = {"a": np.arange(500), "b": np.arange(500)}
    one, again, other = (make_pool(tokens, [0.5, 0.5], steps=40, rows=4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.turns, again.turns)
    assert not np.array_equal(one.turns, other.turns)
    assert np.array_equal(
        one.step_rows(seed=0, step=7, rows=4, row_tokens=10), again.step_rows(seed=0, step=7, rows=4, row_tokens=10)
    )


def test_the_two_halves_of_a_step_are_dealt_out_independently() -> None:
    """Else the product of their gradients would not be that of the mixed gradient with itself."""
    pool = make_pool({"a": np.arange(9), "b": np.arange(9)}, [0.5, 0.5], steps=4000, rows=2, seed=0)
    pairs = Counter(map(tuple, pool.turns.tolist()))
    for pair in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert pairs[pair] / 4000 == pytest.approx(0.25, abs=0.03)


# Back to all domains


def test_intervals_and_the_prior_are_unfolded_with_the_weights() -> None:
    corpus = SimpleNamespace(reused=SimpleNamespace(relative={"a": 0.25, "b": 0.75}, order=("a", "new", "b")))
    record = Uncertainty(runs=2, prior={"reused": 0.6, "new": 0.4}, signal=(4.0,), needed=(2.0,), factor=(0.75,),
                         mean=({"reused": 0.8, "new": 0.2},))  # fmt: skip
    given = Learned(np.array([[0.7, 0.3]]), ({"reused": (0.6, 0.8), "new": (0.2, 0.4)},), record)
    names, found = unfolded(corpus, ("reused", "new"), given)  # type: ignore[arg-type]
    assert names == ("a", "new", "b")
    np.testing.assert_allclose(found.weights, [[0.175, 0.3, 0.525]])
    assert found.intervals[0]["a"] == pytest.approx((0.15, 0.2))  # type: ignore[index]
    assert found.record.prior == pytest.approx({"a": 0.15, "new": 0.4, "b": 0.45})  # type: ignore[union-attr]
    assert found.record.mean[0] == pytest.approx({"a": 0.2, "new": 0.2, "b": 0.6})  # type: ignore[union-attr]
