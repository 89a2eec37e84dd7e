"""proxies.compare takes mixture x sample weights: what the bases then read, what is kept of it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtures import Mixture, MixtureStream
from mixtures.compare.directory import read_bases
from mixtures.schedule.manifest import read_manifest
from proxies.comparison.settings import CompareSettings
from proxies.config import load
from tests.faults.helpers import do_two
from tests.proxies.comparison.helpers import (
    FIXED,
    compare,
    message,
    results,
    stamps,
    write_comparison,
    write_scores,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

FILTER = {"scores": "scored", "rule": "filter", "score": "luck", "drop_top": 0.4}
SOFTMAX = {"scores": "scored", "rule": "softmax", "score": "luck", "direction": "inverse", "cap": 3.0}


def write_sampled(folder: Path, mixtures: dict[str, Any] | None = None, **blocks: Any) -> Path:
    """A comparison with scores in `scored`: uniform, natural, uniform with a filter and with sampling weights."""
    sampled = {
        "filtered": {"fixed": "uniform", "samples": FILTER},
        "weighted": {"fixed": "uniform", "samples": SOFTMAX},
    }
    write_scores(write_comparison(folder), folder / "scored")
    return write_comparison(folder, mixtures={**FIXED, **sampled, **(mixtures or {})}, **blocks)


def test_the_same_shares_are_read_under_every_policy_and_results_name_them(tmp_path: Path) -> None:
    learned = {
        "stable": {"learn": {"preset": "stable"}},
        "inverse": {"learn": {"preset": "stable"}, "samples": SOFTMAX},
    }
    assert compare(write_sampled(tmp_path, learned, train={"steps": 30, "evaluate_every": 30})) == 0
    directory = tmp_path / "comparison"
    facts = {fact["mixture"]: fact for fact in read_bases(directory).facts}
    assert facts["filtered"]["rows"] == facts["weighted"]["rows"] == facts["uniform"]["rows"]
    assert facts["inverse"]["rows"] == facts["stable"]["rows"]
    weights = {name: Mixture.load(directory / f"mixtures/{name}.json").weights_at(0) for name in facts}
    assert weights["filtered"] == weights["uniform"]
    assert weights["inverse"] == weights["stable"]
    last = results(tmp_path).query("step == 30").pivot(index="domain", columns="mixture", values="loss")
    assert np.isfinite(last).all(axis=None)
    for one, other in (
        ("filtered", "uniform"),
        ("weighted", "uniform"),
        ("filtered", "weighted"),
        ("inverse", "stable"),
    ):
        assert (last[one] != last[other]).all()
    summary = (directory / "summary.txt").read_text()
    for part in ("Samples of filtered: filter by luck; effective sample size 6", "Samples of inverse: softmax by luck"):
        assert part in " ".join(summary.split())


def test_bases_never_read_what_a_filter_dropped(tmp_path: Path) -> None:
    """The stream over places in place of tokens, as the bases had it: the mixture and manifests that the directory
    keeps.
    """
    path = write_sampled(tmp_path)
    assert compare(path) == 0
    mixture = Mixture.load(tmp_path / "comparison/mixtures/filtered.json")
    places = {domain.name: np.arange(domain.unique_tokens) for domain in mixture.domains}
    for number, domain in enumerate(mixture.domains):
        places[domain.name] += 10_000 * number
    content = mixture.model_dump(exclude={"id"}) | {
        "tokenizer": {**mixture.tokenizer.model_dump(), "vocab_size": 2**20}
    }
    wide = Mixture.model_validate(content).placed(mixture.directory)
    rows = MixtureStream(wide, places, row_tokens=16, seed=0, check_text=False).take(24)
    assert len(rows) == 24
    for number, domain in enumerate(mixture.domains):
        manifest = read_manifest(mixture.directory / domain.sample_policy.manifest_uri)
        assert manifest.weight.min() == 0
        for start, length in zip(
            manifest.start[manifest.weight == 0], manifest.tokens[manifest.weight == 0], strict=True
        ):
            here = rows - 10_000 * number
            assert not ((here >= start) & (here < start + length)).any()


def test_a_rerun_does_nothing_and_changed_scores_or_rules_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sampled(tmp_path)
    assert compare(path) == 0
    before = stamps(tmp_path / "comparison")
    assert any(".samples/" in str(file) for file in before)
    assert compare(path) == 0
    assert stamps(tmp_path / "comparison") == before
    said = message(capsys, path, "--mixtures.weighted.samples.cap", "2")
    assert "mixtures.weighted.samples.cap: 3.0 -> 2.0" in said
    said = message(
        capsys, path, "--mixtures.natural.samples", json.dumps({**FILTER, "scores": str(tmp_path / "scored")})
    )
    assert "mixtures.natural.samples" in said
    write_scores(path, tmp_path / "scored", seed=1)
    said = message(capsys, path)
    for part in ("mixtures.filtered differs from", "samples of vowels: filter sha256:", "give it a new name"):
        assert part in said
    assert stamps(tmp_path / "comparison") == before


def test_the_record_of_settings_replays_the_comparison(tmp_path: Path) -> None:
    path = write_sampled(tmp_path)
    assert compare(path) == 0
    record = load(CompareSettings, tmp_path / "comparison/config.yaml")
    assert record == load(CompareSettings, path)
    assert record.mixtures["filtered"].samples.scores == str(tmp_path / "scored")


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    path = write_sampled(tmp_path)
    assert compare(path, "--run_dir", tmp_path / "one") == 0
    two = do_two("proxies.compare", path, "--run_dir", tmp_path / "two")
    assert two.code == 0, two
    assert np.abs(results(tmp_path, "one")["loss"] - results(tmp_path, "two")["loss"]).max() < 1e-5


@pytest.mark.parametrize(
    ("samples", "parts"),
    [
        ({"rule": "filter", "drop_top": 0.1}, ["mixtures.odd.samples.scores: is missing"]),
        ({"rule": "filter", "scores": "scored"}, ["mixtures.odd.samples: a filter that drops nothing"]),
        ({"rule": "filtre", "scores": "scored"}, ["mixtures.odd.samples.rule", "filtre"]),
        (
            {**SOFTMAX, "temprature": 2},
            ["mixtures.odd.samples.temprature: unknown setting; the nearest known one is temperature"],
        ),
        ({**FILTER, "direction": "direct"}, ["mixtures.odd.samples: direction does nothing for the rule filter"]),
        ({**SOFTMAX, "scores": "nothing"}, ["mixtures.odd: ", "nothing has no sample scores", "proxies.score"]),
        ({**SOFTMAX, "score": "information"}, ["mixtures.odd: ", "no score 'information'", "luck"]),
    ],
)
@pytest.mark.parametrize("kind", [{"fixed": "uniform"}, {"learn": {"preset": "stable"}}])
def test_bad_samples_are_named_before_anything_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: dict, samples: dict, parts: list[str]
) -> None:
    said = message(capsys, write_sampled(tmp_path, {"odd": {**kind, "samples": samples}}))
    assert all(part in said for part in parts), said
    assert not (tmp_path / "comparison").exists()


def test_scores_of_another_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sampled(tmp_path)
    said = message(capsys, path, "--corpus.held_out", "0.4")
    for part in ("mixtures.filtered", "are of another text", "score the run that read this text"):
        assert part in said
    assert not (tmp_path / "comparison").exists()


def test_a_file_with_its_own_sample_weights_is_not_read_for_shares_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sampled(tmp_path)
    assert compare(path) == 0
    kept = tmp_path / "comparison/mixtures/filtered.json"
    said = message(
        capsys,
        write_comparison(tmp_path, mixtures={**FIXED, "mine": {"file": str(kept)}}),
        "--run_dir",
        tmp_path / "other",
    )
    assert "mixtures.mine" in said
    assert "has sample weights" in said
