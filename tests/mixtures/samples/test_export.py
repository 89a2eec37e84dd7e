"""`mixtures export --samples`, show and check: from a run with scores to files that say what they are."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtures import Mixture
from mixtures.__main__ import main
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.samples.rule import make_rule
from mixtures.schedule.check import check
from mixtures.schedule.manifest import open_manifest, write_manifest
from mixtures.schedule.show import mixture_text
from tests.mixtures.helpers import make_run
from tests.mixtures.samples.sample_helpers import write_scores

SCORE = "self_influence_all"
SOFTMAX = ["--samples", "softmax", "--score", SCORE]
FILTER = ["--samples", "filter", "--score", SCORE, "--drop-top", "0.2"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_scores(make_run(tmp_path / "run"))


def call(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_show_and_check_read_manifests_written_beside_the_mixture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--direction", "direct", "--temperature", 2, "--cap", 3, "--transform", "log", "--shuffle", "--seed", 5]
    code, out, err = call("export", run, *SOFTMAX, *flags, "-o", tmp_path / "out" / "new.json", capsys=capsys)
    assert (code, err) == (0, "")
    mixture = Mixture.load(tmp_path / "out" / "new.json")
    rule = {"rule": "softmax", "score": SCORE, "direction": "direct", "temperature": 2, "cap": 3, "transform": "log"}
    assert mixture.provenance.proxy["samples"] == {"scores": "run/scores", **rule, "shuffle": True, "seed": 5}
    uris = [domain.sample_policy.manifest_uri for domain in mixture.domains if domain.sample_policy]
    assert files(tmp_path / "out") == sorted(["new.json", *filter(None, uris)])
    assert all(uri and uri.startswith("new.samples/") for uri in uris)
    assert "scores run/scores, rule softmax, score self_influence_all, direction direct" in " ".join(out.split())
    assert call("show", tmp_path / "out" / "new.json", capsys=capsys)[1].strip() in out
    code, out, _ = call("check", tmp_path / "out" / "new.json", capsys=capsys)
    assert code == 0
    assert "pass samples: 3 manifest(s) agree with the recorded hashes and numbers" in out
    (tmp_path / "out").rename(tmp_path / "moved")
    assert call("check", tmp_path / "moved" / "new.json", capsys=capsys)[0] == 0


def test_a_run_with_scores_exports_as_before_unless_samples_are_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = export_mixture([run])
    assert export_mixture([write_scores(run)]) == before
    assert all(domain.sample_policy is None for domain in before.domains)


def test_of_several_runs_the_first_that_has_scores_gives_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_run(tmp_path / "bare", seed=1)
    code, out, _ = call("export", bare, run, *SOFTMAX, "-o", tmp_path / "two.json", capsys=capsys)
    assert code == 0
    assert "samples:   scores run/scores" in out


@pytest.mark.slow
def test_epochs_and_caps_count_passes_over_what_a_filter_keeps(run: Path, tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"token_budget": 60_000, "max_epochs": 4}
    rule = make_rule(rule="filter", score=SCORE, drop_top=0.2)
    mixture = export_mixture([run], samples=rule, samples_dir=tmp_path / "m.samples", **bounds)
    plain = export_mixture([run], **bounds)
    for domain, row in zip(mixture.domains, mixture.compute_expected(), strict=True):
        assert domain.pass_tokens < domain.unique_tokens
        assert row.epochs == pytest.approx(row.tokens / domain.pass_tokens)
        assert not domain.over_cap(row.epochs)
    assert mixture.average_weights()["wiki_en"] < plain.average_weights()["wiki_en"]
    mixture.save(tmp_path / "m.json")
    assert {result.id: result.status for result in check(tmp_path / "m.json")}["constraints"] == "pass"
    free = [export_mixture([run], **extra) for extra in ({}, {"samples": rule, "samples_dir": tmp_path / "m.samples"})]
    assert free[0].stages == free[1].stages


def test_caps_too_low_for_filtered_text_are_refused_with_the_arithmetic(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--token-budget", 20_000, "--max-epochs", 1]
    assert call("export", run, *arguments, "-o", tmp_path / "m.json", capsys=capsys)[0] == 0
    before = files(tmp_path)
    code, _, err = call("export", run, *FILTER, *arguments, "-o", tmp_path / "m.json", capsys=capsys)
    assert code == 2
    assert "these caps allow at most 17.0 k of 20.0 k tokens" in err
    assert files(tmp_path) == before


def test_exporting_again_leaves_the_manifests_of_the_new_mixture_only(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("export", run, *SOFTMAX, capsys=capsys)
    first = files(run / "mixture.samples")
    call("export", run, *FILTER, capsys=capsys)
    assert len(files(run / "mixture.samples")) == len(first) == 3
    assert not set(files(run / "mixture.samples")) & set(first)
    call("export", run, capsys=capsys)
    assert not (run / "mixture.samples").exists()


@pytest.mark.slow
@pytest.mark.parametrize("written", [0, 1, 5, 6, 7])
def test_a_full_disk_leaves_the_old_mixture_and_its_manifests(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], written: int
) -> None:
    """Every file is synchronised, then its directory: three manifests, then mixture.json."""
    call("export", run, *SOFTMAX, capsys=capsys)
    old = {name: (run / name).read_bytes() for name in files(run)}
    left, real = [written], os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = call("export", run, *FILTER, capsys=capsys)
    monkeypatch.undo()
    if written == 7:  # the rename is done; what failed is making it last
        assert Mixture.load(run / "mixture.json").provenance.proxy["samples"]["rule"] == "filter"  # type: ignore[index, call-overload]
    else:
        assert {name: (run / name).read_bytes() for name in files(run)} == old
    assert code == 2
    assert "No space left on device" in err
    assert call("check", run / "mixture.json", capsys=capsys)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            ["--samples", "filter", "--drop-top", "0.1"],
            "the rule filter needs a score; give one of self_influence_all, nll_mean (--score)",
        ),
        (
            ["--samples", "softmax", "--score", "loss"],
            "has no score 'loss'; give one of self_influence_all, nll_mean (--score)",
        ),
        (
            ["--score", SCORE, "--drop-top", "0.1"],
            "--score, --drop-top without --samples; name the rule for the scores",
        ),
        ([*SOFTMAX, "--temperature", "0"], "temperature 0 makes every weight 1"),
        ([*SOFTMAX, "--cap", "0.5"], "cap 0.5"),
        ([*FILTER, "--drop-bottom", "0.8"], "together less than 1, so that something stays"),
        ([*FILTER, "--drop-bottom", "0.79"], "of wiki_en, less than a row of 128"),
        ([*SOFTMAX, "--unique-tokens", "forum=3B"], "weights of documents cannot be combined with --unique-tokens"),
        ([*SOFTMAX, "--token-budget", "10", "--stages", "11"], "11 stages do not fit into 10 tokens"),
    ],
)
def test_what_cannot_be_is_one_message_and_nothing_is_written(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], found: str
) -> None:
    before = files(run)
    code, out, err = call("export", run, *words, capsys=capsys)
    assert (code, out) == (2, "")
    assert found in err
    assert files(run) == before


def test_incomplete_scores_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_scores(make_run(tmp_path / "run"), complete=False)
    code, _, err = call("export", run, *SOFTMAX, capsys=capsys)
    assert code == 2
    assert "are not complete" in err


def edited(run: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The run's mixture with a changed first domain, and the id that goes with it."""
    record = json.loads((run / "mixture.json").read_text())
    change(record["domains"][0])
    del record["id"]
    Mixture.from_record(record, where="edited").save(run / "mixture.json")
    return run / "mixture.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda domain: domain["sample_policy"].update(manifest_sha256="sha256:" + "0" * 64),
            "was written with sha256:0",
        ),
        (
            lambda domain: domain["sample_policy"].update(kept_tokens=3000),
            "wiki_en recorded kept_tokens 3,000, its manifest has 3,2",
        ),
        (
            lambda domain: domain["sample_policy"].update(scored_tokens=3),
            "wiki_en recorded scored_tokens 3, its manifest has 4,000",
        ),
        (
            lambda domain: domain["sample_policy"].update(kept_documents=3),
            "wiki_en recorded kept_documents 3, its manifest has",
        ),
        (
            lambda domain: domain["sample_policy"].update(effective_sample_size=0.5),
            "wiki_en recorded effective_sample_size 0.5",
        ),
        (
            lambda domain: domain["sample_policy"].update(mode="multiplicity"),
            "it is for mode filter, the mixture says multiplicity",
        ),
        (lambda domain: domain["sample_policy"].update(manifest_uri="gone.parquet"), "gone.parquet is not there"),
        (lambda domain: domain.update(fingerprint="sha256:other"), "the mixture's is sha256:other"),
        (lambda domain: domain.update(unique_tokens=4001), "it is for a text of 4,000 tokens, the mixture's has 4,001"),
    ],
)
def test_check_finds_a_mixture_that_its_manifests_contradict(
    run: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], found: str
) -> None:
    call("export", run, *FILTER, capsys=capsys)
    code, _, err = call("check", edited(run, change), capsys=capsys)
    assert code == 2
    assert "fail samples: " in err
    assert found in err


def test_check_finds_a_manifest_that_was_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("export", run, *FILTER, capsys=capsys)
    mixture = Mixture.load(run / "mixture.json")
    manifest, policy = open_manifest(mixture.domains[1], run), mixture.domains[1].sample_policy
    assert manifest is not None
    assert policy is not None
    manifest.weight[0] = 1 - manifest.weight[0]
    write_manifest(run / str(policy.manifest_uri), manifest)
    code, _, err = call("check", run / "mixture.json", capsys=capsys)
    assert code == 2
    assert "the file was replaced or damaged; restore it from a copy, or export the mixture again" in err


def test_show_prints_rule_effective_size_and_what_is_kept_by_domain(run: Path, tmp_path: Path) -> None:
    rule = make_rule(rule="filter", score=SCORE, drop_top=0.2)
    mixture = export_mixture([run], samples=rule, samples_dir=tmp_path / "m.samples")
    lines = mixture_text(mixture).splitlines()
    row = next(
        line.split()
        for line in lines[[line.startswith("samples of") for line in lines].index(True) :]
        if line.startswith("wiki_en")
    )
    policy = mixture.domains[0].sample_policy
    assert policy is not None
    assert row[1:3] == ["100.0%", f"{policy.effective_sample_size:.3f}"]
    assert "rule filter" in mixture_text(mixture)
    assert row[-2:] == [str(policy.kept_documents), "112"]
    assert max(map(len, lines)) <= 100


def test_a_sample_policy_of_an_older_file_keeps_its_id(run: Path) -> None:
    """Keys that came later are absent, not null: the id hashes what the file holds."""
    record = export_mixture([run]).model_dump(mode="json")
    policy = {"mode": "filter", "manifest_uri": "m.parquet", "manifest_sha256": None, "key": "document_id"}
    record["domains"][0]["sample_policy"] = {**policy, "kept_documents": None, "kept_tokens": None}
    del record["id"]
    older = Mixture.from_record(record, where="older")
    assert older.model_dump(mode="json")["domains"][0]["sample_policy"] == record["domains"][0]["sample_policy"]
    assert older.domains[0].pass_tokens == 4000


def test_where_a_mixture_lies_is_remembered_and_is_no_part_of_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = export_mixture([run])
    assert mixture.directory is None
    mixture.save(tmp_path / "a" / "m.json")
    assert mixture.directory == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    loaded = Mixture.load("a/m.json")
    assert loaded.directory == tmp_path / "a"
    mixture.save(tmp_path / "b" / "m.json")
    assert Mixture.load(tmp_path / "b" / "m.json") == loaded


def test_no_rule_is_made_without_scores_that_name_every_domain(run: Path, tmp_path: Path) -> None:
    other = write_scores(make_run(tmp_path / "other"), domains={})
    with pytest.raises(UserError, match="wiki_en: not scored"):
        export_mixture([other], samples=make_rule(rule="softmax", score=SCORE), samples_dir=tmp_path / "m.samples")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_weights_inside_add_up_to_the_text_of_the_domain(run: Path, tmp_path: Path, seed: int) -> None:
    rule = make_rule(rule="softmax", score=SCORE, transform="log", cap=1.0 + seed)
    mixture = export_mixture([run], samples=rule, samples_dir=tmp_path / "m.samples")
    for domain in mixture.domains:
        manifest = open_manifest(domain, mixture.directory)
        assert manifest is not None
        assert abs(manifest.weight @ manifest.tokens / domain.unique_tokens - 1) < 1e-12
        assert np.all(manifest.weight <= rule.cap * (1 + 1e-12))  # type: ignore[operator]
