import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.run.average import running_mean, span_average, stage_averages, tail_average
from mixtures.run.trajectory import read_trajectory
from mixtures.text import parse_tokens
from tests.mixtures.helpers import NAMES, make_run

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


def shares(mixture: Mixture) -> np.ndarray:
    return np.array([list(stage.weights.values()) for stage in mixture.stages])


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    steps, domains = draw(st.integers(1, 30)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.dirichlet(np.full(domains, 0.3), size=steps), np.cumsum(rng.integers(1, 1000, size=steps))


@pytest.mark.slow
@PROPERTY
@given(run=trajectories(), cut=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_averages_stay_on_the_simplex_and_between_the_extremes(
    run: tuple[np.ndarray, np.ndarray], cut: tuple[float, float]
) -> None:
    weights, tokens = run
    start, end = sorted(float(part * tokens[-1]) for part in cut)
    means = [tail_average(weights, tokens), *stage_averages(weights, tokens, stages=len(tokens))]
    if end - start > 1e-3:
        means.append(span_average(weights, tokens, start=start, end=end))
    for mean in means:
        assert abs(mean.sum() - 1) < 1e-12
        assert (mean >= weights.min(axis=0) - 1e-12).all()
        assert (mean <= weights.max(axis=0) + 1e-12).all()


@PROPERTY
@given(run=trajectories(), stages=st.integers(1, 9))
def test_the_mean_over_stages_is_the_average_over_all(run: tuple[np.ndarray, np.ndarray], stages: int) -> None:
    weights, tokens = run
    whole = span_average(weights, tokens, start=0, end=tokens[-1])
    np.testing.assert_allclose(stage_averages(weights, tokens, stages=stages).mean(axis=0), whole, atol=1e-12)


def test_a_span_counts_every_token_once() -> None:
    """The slow twin: one row a token."""
    rng = np.random.default_rng(3)
    weights, lengths = rng.dirichlet([1, 1, 1], size=5), np.array([3, 1, 4, 1, 5])
    by_token = np.repeat(weights, lengths, axis=0)
    for start, end in [(0, 14), (2, 9), (3, 4), (13, 14)]:
        expected = by_token[start:end].mean(axis=0)
        np.testing.assert_allclose(span_average(weights, np.cumsum(lengths), start=start, end=end), expected)


def test_a_running_mean_looks_back_over_its_window() -> None:
    values = np.array([[1.0], [3.0], [5.0], [9.0]])
    assert running_mean(values, window=2).tolist() == [[1], [2], [4], [7]]
    assert running_mean(values, window=1).tolist() == values.tolist()


def test_averages_and_stages_are_those_of_the_trajectory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    weights = read_trajectory(run).weights
    np.testing.assert_allclose(shares(export_mixture([run])), weights.mean(axis=0)[None])
    np.testing.assert_allclose(shares(export_mixture([run], average="tail")), weights[10:].mean(axis=0)[None])
    staged = export_mixture([run], stages=4, token_budget=1001)
    np.testing.assert_allclose(shares(staged), weights.reshape(4, 5, 3).mean(axis=1))
    assert [stage.start_tokens for stage in staged.stages] == [0, 250, 500, 750]
    assert staged.horizon.total_tokens == 1001


def test_an_odd_number_of_steps_has_its_larger_half_as_tail(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=5)
    expected = read_trajectory(run).weights[2:].mean(axis=0)
    np.testing.assert_allclose(shares(export_mixture([run], average="tail"))[0], expected)
    one = make_run(tmp_path / "one", steps=1)
    np.testing.assert_allclose(shares(export_mixture([one], average="tail")), read_trajectory(one).weights)


def test_the_record_says_where_the_mixture_comes_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20, flush_every=8, seed=7, targets=["catalan"])
    mixture = export_mixture([run])
    provenance = mixture.provenance
    assert (provenance.tool, provenance.method, provenance.seeds) == ("mixtures", "stable", (7,))
    assert provenance.git_commit == "abc123"
    assert provenance.objective == {"catalan": 1.0}
    assert provenance.average == "all"
    assert provenance.proxy["runs"][0]["steps"] == 20
    recorded = {entry.uri: entry.sha256 for entry in provenance.inputs}
    files = ["config.yaml", "corpus.json"] + [f"trajectory/{path.name}" for path in (run / "trajectory").iterdir()]
    assert recorded == {
        f"run/{name}": f"sha256:{hashlib.sha256((run / name).read_bytes()).hexdigest()}" for name in files
    }
    wiki = mixture.domains[0]
    assert (wiki.name, wiki.unique_tokens, wiki.unique_documents, wiki.max_epochs) == ("wiki_en", 4000, 112, None)
    assert wiki.on_exhausted == "repeat"
    assert wiki.sources[0].uri == "/data/wiki_en.parquet"
    assert wiki.held_out_documents == 15
    assert [domain.name for domain in mixture.domains] == list(NAMES[:3]), "targets are never trained on"
    assert mixture.horizon.total_tokens == 20 * 512
    assert mixture.expected == mixture.compute_expected()


def test_exporting_twice_and_from_elsewhere_gives_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert export_mixture([run]).id == export_mixture(["run"]).id == export_mixture(["./run/"]).id


def test_without_targets_the_objective_is_universal_or_as_importances_say(tmp_path: Path) -> None:
    assert export_mixture([make_run(tmp_path / "auto")]).provenance.objective == "universal"
    update = {"preset": "paper", "objective": {"forum": 2.0}}
    assert export_mixture([make_run(tmp_path / "named", update=update)]).provenance.objective == {"forum": 2.0}


def test_several_runs_are_averaged_by_name(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", domains=["a", "b", "c"], seed=1)
    two = make_run(tmp_path / "two", domains=["c", "a", "b"], seed=2)
    for path in (one, two):  # the same text in both, whatever the order
        corpus = json.loads((path / "corpus.json").read_text())
        for domain in corpus["domains"]:
            domain["tokens"] = 5000
        (path / "corpus.json").write_text(json.dumps(corpus))
    mixture = export_mixture([one, two], shrink="none")
    first, second = read_trajectory(one).weights.mean(axis=0), read_trajectory(two).weights.mean(axis=0)[[1, 2, 0]]
    assert list(mixture.stages[0].weights) == ["a", "b", "c"]
    np.testing.assert_allclose(shares(mixture)[0], (first + second) / 2)
    assert mixture.provenance.seeds == (1, 2)
    assert len(mixture.provenance.inputs) == 10


def test_runs_that_do_not_match_are_refused_with_every_difference(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", domains=["a", "b", "c"])
    two = make_run(tmp_path / "two", domains=["a", "b", "d"], tokenizer="sha256:other", update={"preset": "paper"})
    corpus = json.loads((two / "corpus.json").read_text())
    corpus["domains"][1]["fingerprint"] = "sha256:changed"
    (two / "corpus.json").write_text(json.dumps(corpus))
    with pytest.raises(UserError) as caught:
        export_mixture([one, two])
    message = str(caught.value)
    assert f"domains only in {one}: c" in message
    assert f"domains only in {two}: d" in message
    assert "sha256:bpe" in message
    assert "sha256:other" in message
    assert "the text of b is not the same" in message
    assert f"update.preset: stable in {one}, paper in {two}" in message


def test_runs_of_different_length_need_a_budget(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "short", steps=10), make_run(tmp_path / "long", steps=20)]
    with pytest.raises(UserError, match=r"short: 5,120\n.*long: 10,240\n.*--token-budget"):
        export_mixture(runs)
    assert export_mixture(runs, token_budget=10**9).horizon.total_tokens == 10**9


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="run is given twice"):
        export_mixture([run, f"{run}/../run"])


def checks(mixture: Mixture) -> dict[str, tuple[str, str]]:
    return {check.id: (check.status, check.detail) for check in mixture.checks}


def test_a_run_that_stopped_early_is_marked(tmp_path: Path) -> None:
    assert checks(export_mixture([make_run(tmp_path / "whole")]))["runs_finished"][0] == "pass"
    mixture = export_mixture([make_run(tmp_path / "half", steps=10, planned=20)])
    assert checks(mixture)["runs_finished"] == ("warn", "half stopped at step 10 of 20")


def test_many_epochs_are_warned_about(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", weights=np.full((20, 3), 1 / 3))
    assert checks(export_mixture([run], token_budget=40_000))["epochs"][0] == "pass"
    status, detail = checks(export_mixture([run], token_budget=60_000))["epochs"]
    assert status == "warn"
    assert detail == "epochs over 4: wiki_en 5.0"


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, -1, 21])
def test_an_impossible_number_of_stages_is_refused(tmp_path: Path, stages: int) -> None:
    with pytest.raises(UserError, match=f"{stages} stages: .*run has 20 steps; allowed: 1 to 20"):
        export_mixture([make_run(tmp_path / "run", steps=20)], stages=stages)


def test_more_stages_than_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 stages do not fit into 2 tokens"):
        export_mixture([make_run(tmp_path / "run")], stages=3, token_budget=2)


def test_a_tail_in_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"average tail with 2 stages.*give one of the two"):
        export_mixture([make_run(tmp_path / "run")], stages=2, average="tail")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("300e9", 300 * 10**9),
        ("300B", 300 * 10**9),
        ("1.5t", 15 * 10**11),
        ("20 M", 2 * 10**7),
        ("64k", 64000),
        ("7", 7),
        ("1_000", 1000),
        ("1,000", 1000),
        ("2e+3", 2000),
    ],
)
def test_token_budgets_are_read(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "0", "-5", "many", "1.5", "3GB", "nan", "inf", "1e-3", "300 B tokens"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"no number of tokens; give .*300e9, 300B"):
        parse_tokens(text)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.yaml and no corpus.json"):
        export_mixture([tmp_path])
    with pytest.raises(UserError, match="none is not there"):
        export_mixture([tmp_path / "none"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        export_mixture([tmp_path / "file"])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("config.yaml", "seed: [1", "config.yaml does not parse"),
        ("config.yaml", "seed: 1", "model: Field required"),
        ("config.yaml", "text", "config.yaml is damaged"),
        ("corpus.json", '{"tokenizer": ', "corpus.json is not complete JSON: line 1"),
        ("corpus.json", "{}", "domains: Field required"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, name: str, text: str, found: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(UserError, match=found):
        export_mixture([run])


def test_records_of_two_runs_in_one_directory_are_refused(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", domains=["a", "b"])
    (other / "corpus.json").rename(run / "corpus.json")
    with pytest.raises(UserError, match=r"mixes two runs: corpus.json has domains a, b, the trajectory wiki_en"):
        export_mixture([run])


@pytest.mark.parametrize(
    ("value", "found"),
    [(np.nan, "weight of wiki_de at step 4 is nan"), (-0.5, "step 4 is -0.5"), (0.9, "weights at step 4 sum to")],
)
def test_weights_that_are_no_mixture_are_named(tmp_path: Path, value: Any, found: str) -> None:
    weights = np.full((6, 3), 1 / 3)
    weights[3, 1] = value
    with pytest.raises(UserError, match=found):
        export_mixture([make_run(tmp_path / "run", steps=6, weights=weights)])


def test_further_keys_in_the_corpus_record_do_not_matter(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["tokenizer"]["kind"] = corpus["domains"][0]["sources"][0]["rows"] = "new"
    (run / "corpus.json").write_text(json.dumps(corpus))
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "samples": {"online": "none"}}))
    mixture = export_mixture([run])
    assert Mixture.from_record(json.loads(json.dumps(mixture.model_dump(mode="json"))), where="copy") == mixture


@pytest.mark.parametrize("text", ["9" * 400 + "e99", "1e30", "9" * 4400])
def test_more_tokens_than_any_table_holds_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no number of tokens") as caught:
        parse_tokens(text)
    assert len(str(caught.value)) < 300


def test_a_mixture_holds_no_directory_that_nobody_needs_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] = {"preset": "", "config": "/home/ann/secret/model.json", "pretrained": ""}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    mixture = export_mixture([run])
    assert mixture.provenance.proxy["runs"][0]["model"]["config"] == "model.json"
    assert mixture.domains[0].sources[0].uri.startswith("/data/"), "convert finds the text by it"
    monkeypatch.setenv("HOME", "/data")
    source = export_mixture([run]).domains[0].sources[0]
    assert (source.uri[:2], source.path[:6]) == ("~/", "/data/"), "the home directory names the user"
    bare = export_mixture([run], paths=False)
    assert bare.domains[0].sources[0].uri == f"{bare.domains[0].name}.parquet"
    assert '"/' not in bare.model_dump_json()
