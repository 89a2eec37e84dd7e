"""From a run's scores to sample policies: domain shares stay, and every fault has its message."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.samples.rule import RULES, SampleRule, attach_samples, make_rule, rule_weights
from mixtures.samples.scores import read_scores
from mixtures.schedule.manifest import Manifest, open_manifest
from tests.mixtures.helpers import make_run
from tests.mixtures.samples.sample_helpers import write_scores

SCORE = "self_influence_all"
EVERY_RULE = [
    {"rule": "softmax", "score": SCORE, "cap": 2.0, "transform": "log"},
    {
        "rule": "softmax",
        "score": SCORE,
        "direction": "direct",
        "temperature": 3.0,
        "transform": "rank",
        "shuffle": True,
    },
    {"rule": "multiplicity", "score": SCORE, "transform": "rank"},
    {"rule": "filter", "score": SCORE, "drop_top": 0.2, "drop_bottom": 0.1},
    {"rule": "linear_upper"},
]


def frame(scores: Any, tokens: Any, **columns: Any) -> pd.DataFrame:
    names = [f"d{number}" for number in range(len(scores))]
    return pd.DataFrame(
        {"domain": "wiki", "document": names, "tokens": np.asarray(tokens), SCORE: np.asarray(scores, float), **columns}
    )


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    return write_scores(make_run(tmp_path / "run"))


def manifests(mixture: Mixture) -> dict[str, Manifest]:
    opened = {domain.name: open_manifest(domain, mixture.directory) for domain in mixture.domains}
    return {name: manifest for name, manifest in opened.items() if manifest is not None}


# what does not change

LENGTHS = st.lists(st.integers(1, 10**7), min_size=1, max_size=40)
RULE = st.one_of(
    st.builds(
        SampleRule,
        rule=st.just("softmax"),
        score=st.just(SCORE),
        direction=st.sampled_from(["direct", "inverse"]),
        temperature=st.floats(0.01, 100),
        cap=st.none() | st.floats(1, 30),
        transform=st.sampled_from(["none", "log", "rank"]),
        shuffle=st.booleans(),
    ),
    st.builds(
        SampleRule,
        rule=st.just("linear_upper"),
        score=st.just(SCORE),
        temperature=st.floats(0.1, 10),
        shuffle=st.booleans(),
    ),
)


@pytest.mark.slow
@given(st.data(), RULE, st.lists(LENGTHS, min_size=1, max_size=4))
def test_domain_shares_before_and_after_are_equal(
    data: st.DataObject, rule: SampleRule, lengths: list[list[int]]
) -> None:
    domains = [
        frame(data.draw(st.lists(st.floats(1e-9, 1e9), min_size=len(tokens), max_size=len(tokens))), tokens)
        for tokens in lengths
    ]
    before = [int(domain["tokens"].sum()) for domain in domains]
    after = [
        math.fsum(w * n for w, n in zip(rule_weights(rule, domain).tolist(), domain["tokens"].tolist(), strict=True))
        for domain in domains
    ]
    shares = np.array([before, after]) / np.array([[sum(before)], [math.fsum(after)]])
    assert np.abs(shares[1] - shares[0]).max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("settings", EVERY_RULE, ids=lambda settings: settings["rule"])
def test_no_rule_changes_the_shares_of_the_domains(scored: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = export_mixture([scored], stages=3)
    sampled = attach_samples(plain, read_scores(scored), make_rule(**settings), tmp_path / "new.samples")
    assert sampled.stages == plain.stages
    for name, share in plain.average_weights().items():
        assert abs(sampled.average_weights()[name] - share) < 1e-12
    for domain, manifest in zip(sampled.domains, manifests(sampled).values(), strict=True):
        if manifest.mode == "sampling_weight":
            assert abs(manifest.weight @ manifest.tokens / manifest.tokens.sum() - 1) < 1e-12
            assert domain.pass_tokens == domain.unique_tokens
        policy = domain.sample_policy
        assert policy is not None
        assert (policy.mode, policy.rule) == (RULES[settings["rule"]][0], settings["rule"])
        assert policy.kept_tokens == domain.pass_tokens == manifest.pass_tokens
        assert policy.kept_documents == domain.unique_documents - int((manifest.weight == 0).sum())  # type: ignore[operator]
        assert policy.effective_sample_size == manifest.effective_sample_size < 1


@pytest.mark.parametrize("settings", EVERY_RULE, ids=lambda settings: settings["rule"])
def test_equal_scores_or_a_single_document_give_weights_of_exactly_one(
    settings: dict[str, Any],
) -> None:
    for tokens in ([700], [3, 20, 100, 7]):
        constant = [0.3] * len(tokens)
        assert (rule_weights(make_rule(**settings), frame(constant, tokens, nll_mean=constant)) == 1).all()
    assert len(rule_weights(make_rule(**settings), frame([], np.zeros(0, dtype=np.int64), nll_mean=[]))) == 0


def test_zscores_are_taken_inside_the_domain(scored: Path, tmp_path: Path) -> None:
    scores = {
        "wiki_en": {"tokens": [40, 100, 60], SCORE: [1, 2, 3]},
        "forum": {"tokens": [40, 100, 60], SCORE: [1e6, 2e6, 3e6]},
    }
    run = write_scores(make_run(tmp_path / "other"), scores)
    found = manifests(
        attach_samples(
            export_mixture([run]), read_scores(run), make_rule(rule="softmax", score=SCORE), tmp_path / "x.samples"
        )
    )
    np.testing.assert_allclose(found["wiki_en"].weight, found["forum"].weight, rtol=1e-12)


def test_rules_go_in_their_direction() -> None:
    made = frame([5.0, 1, 3, 4], [10, 10, 10, 10])
    inverse = rule_weights(make_rule(rule="softmax", score=SCORE), made)
    direct = rule_weights(make_rule(rule="softmax", score=SCORE, direction="direct"), made)
    assert np.argsort(inverse).tolist() == [0, 3, 2, 1]
    assert np.argsort(direct).tolist() == [1, 2, 3, 0]
    assert rule_weights(make_rule(rule="filter", score=SCORE, drop_top=0.25), made).tolist() == [0, 1, 1, 1]
    assert rule_weights(make_rule(rule="filter", score=SCORE, drop_bottom=0.25), made).tolist() == [1, 0, 1, 1]


def test_a_shuffled_rule_has_the_same_weights_on_other_documents() -> None:
    made = frame(np.random.default_rng(0).lognormal(size=50), np.full(50, 30))
    plain, mixed = (
        rule_weights(make_rule(rule="softmax", score=SCORE, transform="log", shuffle=shuffle), made)
        for shuffle in (False, True)
    )
    assert (plain != mixed).any()
    np.testing.assert_allclose(np.sort(plain), np.sort(mixed), rtol=1e-12)
    kept = [
        rule_weights(make_rule(rule="filter", score=SCORE, drop_top=0.3, shuffle=shuffle), made)
        for shuffle in (False, True)
    ]
    assert kept[0].sum() == kept[1].sum() == 35
    assert (kept[0] != kept[1]).any()
    other = rule_weights(make_rule(rule="softmax", score=SCORE, transform="log", shuffle=True, seed=1), made)
    assert (other != mixed).any()


def test_multiplicities_are_the_softmax_weights_rounded_up_or_down() -> None:
    made = frame(np.random.default_rng(0).lognormal(size=500), np.random.default_rng(1).integers(2, 90, size=500))
    weights = rule_weights(make_rule(rule="softmax", score=SCORE, transform="rank"), made)
    counts = rule_weights(make_rule(rule="multiplicity", score=SCORE, transform="rank"), made)
    assert (np.abs(counts - weights) < 1).all()
    assert (counts == np.floor(counts)).all()
    assert counts @ made["tokens"] / made["tokens"].sum() == pytest.approx(1, abs=0.1)


def test_text_that_was_not_scored_counts_once(tmp_path: Path) -> None:
    run = write_scores(make_run(tmp_path / "run"), {"forum": {"tokens": [50, 50], "start": [100, 200], SCORE: [1, 9]}})
    mixture = attach_samples(
        export_mixture([run]),
        read_scores(run),
        make_rule(rule="filter", score=SCORE, drop_top=0.5),
        tmp_path / "m.samples",
    )
    policy = mixture.domains[2].sample_policy
    assert policy is not None
    assert (policy.kept_tokens, policy.kept_documents, policy.scored_tokens) == (10_000 - 50, 113, 100)
    assert policy.effective_sample_size == pytest.approx(0.995)


def test_scores_of_rows_give_manifests_of_rows(tmp_path: Path) -> None:
    run = write_scores(make_run(tmp_path / "run"), unit="row")
    mixture = attach_samples(
        export_mixture([run]), read_scores(run), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples"
    )
    policy = mixture.domains[0].sample_policy
    assert policy is not None
    assert (policy.key, policy.kept_documents) == ("sequence_index", None)
    assert len(manifests(mixture)["wiki_en"].documents) == 112


def test_the_same_command_gives_the_same_mixture_and_names_the_scores(scored: Path, tmp_path: Path) -> None:
    rule = make_rule(rule="softmax", score=SCORE)
    one, two = (
        attach_samples(export_mixture([scored]), read_scores(scored), rule, tmp_path / each / "m.samples")
        for each in "ab"
    )
    assert one.id == two.id != export_mixture([scored]).id
    assert one == two
    samples = one.provenance.proxy["samples"]
    expected = {
        "rule": "softmax",
        "score": SCORE,
        "direction": "inverse",
        "temperature": 1.0,
        "cap": None,
        "transform": "none",
    }
    assert samples == {"scores": "run/scores", **expected}
    assert {entry.uri for entry in one.provenance.inputs} >= {"run/scores/meta.json", "run/scores/part-000002.parquet"}
    one.save(tmp_path / "a" / "m.json")
    assert Mixture.load(tmp_path / "a" / "m.json") == one


# what is refused


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"rule": "softmax", "temperature": 0},
            "temperature 0 makes every weight 1: leave the sample weights out for that",
        ),
        ({"rule": "softmax", "cap": 0.99}, "give 1 or more, or no cap"),
        ({"rule": "filter"}, "a filter that drops nothing; give drop_top, drop_bottom or both"),
        ({"rule": "filter", "drop_top": 0.5, "drop_bottom": 0.5}, "together less than 1, so that something stays"),
        (
            {"rule": "filter", "drop_top": 0.5, "cap": 2.0},
            "cap does nothing for the rule filter, which has drop_top, drop_bottom; leave it out",
        ),
        ({"rule": "softmax", "drop_top": 0.5}, "drop_top does nothing for the rule softmax"),
        (
            {"rule": "linear_upper", "direction": "direct"},
            "direction does nothing for the rule linear_upper, which has temperature",
        ),
        ({"rule": "best"}, "rule: Input should be 'softmax', 'filter', 'multiplicity' or 'linear_upper'"),
        ({"rule": "softmax", "temprature": 1}, "temprature: Extra inputs"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        make_rule(score=SCORE, **settings)


def test_a_score_without_a_value_is_named(tmp_path: Path) -> None:
    tokens = [40, 100, 60]
    run = write_scores(
        make_run(tmp_path / "run"),
        {name: {"tokens": tokens, SCORE: [1, math.nan, math.inf]} for name in ("wiki_de", "forum")},
    )
    with pytest.raises(UserError) as caught:
        attach_samples(
            export_mixture([run]), read_scores(run), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples"
        )
    for name in ("wiki_de", "forum"):
        assert (
            f"{SCORE} of document {name}:1 of {name} is nan, and 1 more of its documents; score the run again"
            in str(caught.value)
        )


def test_a_logarithm_of_zero_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        UserError, match=r"document d1 of wiki is 0.0; there is no logarithm of it; use the transform rank or none"
    ):
        rule_weights(make_rule(rule="softmax", score=SCORE, transform="log"), frame([1, 0], [5, 5]))


def test_a_filter_that_leaves_less_than_a_row_names_the_domain(tmp_path: Path) -> None:
    run = write_scores(make_run(tmp_path / "run"), {"wiki_en": {"tokens": [3900, 100], SCORE: [9, 1]}})
    with pytest.raises(
        UserError, match=r"filter leaves 100 of 4,000 tokens of wiki_en, less than a row of 128; keep more"
    ):
        attach_samples(
            export_mixture([run]),
            read_scores(run),
            make_rule(rule="filter", score=SCORE, drop_top=0.98),
            tmp_path / "m.samples",
        )


def test_an_unknown_score_lists_the_ones_there_are(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"run has no score 'loss'; give one of self_influence_all, nll_mean \(--score\)"
    ):
        attach_samples(
            export_mixture([scored]),
            read_scores(scored),
            make_rule(rule="softmax", score="loss"),
            tmp_path / "m.samples",
        )
    with pytest.raises(UserError, match=r"the rule filter needs a score; give one of self_influence_all, nll_mean"):
        attach_samples(
            export_mixture([scored]),
            read_scores(scored),
            make_rule(rule="filter", drop_top=0.1),
            tmp_path / "m.samples",
        )


def test_scores_of_another_text_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    mixture = export_mixture([run])
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["domains"][0]["fingerprint"] = "sha256:edited"
    corpus["domains"][1]["tokens"] += 10
    (run / "corpus.json").write_text(json.dumps(corpus))
    write_scores(run)
    with pytest.raises(UserError) as caught:
        attach_samples(mixture, read_scores(run), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples")
    assert "wiki_en: scored in the text sha256:edited, the mixture's is sha256:" in str(caught.value)
    assert "wiki_de: scored in a text of 7,010 tokens, the mixture's has 7,000" in str(caught.value)
    other = write_scores(make_run(tmp_path / "other", domains=["wiki_en", "news"]))
    with pytest.raises(UserError, match=r"forum: not scored; the scores are of wiki_en, news"):
        attach_samples(mixture, read_scores(other), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples")


def test_a_run_without_scores_says_how_to_make_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"run has no sample scores .*proxies.score"):
        attach_samples(
            export_mixture([run]), read_scores(run), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples"
        )


def test_a_filter_that_would_break_a_cap_is_refused_with_the_way_out(scored: Path, tmp_path: Path) -> None:
    mixture = export_mixture([scored], token_budget=40_000, max_epochs=2)
    with pytest.raises(
        UserError, match=r"exceeds its caps: .*at most 2; export it again with --samples and --max-epochs"
    ):
        attach_samples(
            mixture, read_scores(scored), make_rule(rule="filter", score=SCORE, drop_top=0.5), tmp_path / "m.samples"
        )


def test_a_full_disk_is_an_error_that_names_the_file(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    mixture = export_mixture([scored])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*m.samples/wiki_en-"):
        attach_samples(mixture, read_scores(scored), make_rule(rule="softmax", score=SCORE), tmp_path / "m.samples")


@pytest.mark.parametrize("rule", ["softmax", "multiplicity"])
def test_without_a_score_the_rule_is_the_one_that_was_measured_best(rule: str) -> None:
    expected = {
        "rule": rule,
        "score": "word_embedding",
        "direction": "inverse",
        "temperature": 1.0,
        "cap": 4.0,
        "transform": "log",
    }
    assert {**make_rule(rule=rule).settings(), "seed": 0} == {**expected, "seed": 0}
    assert (
        make_rule(rule=rule, cap=2.0, transform="rank").settings().items() >= {"cap": 2.0, "transform": "rank"}.items()
    )
    assert (
        make_rule(rule=rule, score=SCORE).settings().items()
        >= {"score": SCORE, "cap": None, "transform": "none"}.items()
    )
