"""The page of `mixtures report`: that it says what the records say, and that it is well formed, escaped and
self-contained.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixtures.__main__ import main
from mixtures.compare.directory import read_comparison
from mixtures.compare.text import verdicts
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.report.report import write_report
from mixtures.report.steps import matrix_part
from mixtures.schedule.mixture import Mixture
from tests.mixtures.compare.helpers import make_comparison
from tests.mixtures.helpers import NAMES, make_run
from tests.mixtures.report.helpers import Page
from tests.mixtures.samples.sample_helpers import write_scores
from tests.mixtures.samples.score_helpers import make_cache, make_scores

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>\" & 'x'"


def report(source: Path) -> Page:
    return Page(write_report(source, source / "report.html").read_text())


def with_intervals(tmp_path: Path, weights: np.ndarray, *, spread: float = 0.02, **arguments: object) -> Path:
    """A run whose mixture.json is the export of four seeds that learned `weights` (D,) about alike."""
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(4):
        shares = weights * np.exp(rng.normal(scale=spread, size=len(weights)))
        path = np.repeat((shares / shares.sum())[None], 20, axis=0)
        runs.append(make_run(tmp_path / f"seed-{seed}", domains=NAMES[: len(weights)], weights=path, seed=seed))
    export_mixture(runs, **arguments).save(runs[0] / "mixture.json")  # type: ignore[arg-type]
    return runs[0]


def test_a_run_is_told_section_by_section_with_the_verdict_first(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", domains=NAMES[:5], targets=["catalan"]))
    sections = [facts["id"] for facts in page.all("section")]
    assert sections == [
        "verdict",
        "mixture",
        "weights",
        "matrix",
        "losses",
        "comparison",
        "diagnosis",
        "cost",
        "provenance",
        "replay",
    ]
    assert [facts["href"] for facts in page.all("a")] == [f"#{name}" for name in sections]
    for name in (*NAMES[:5], "catalan", "abc123", "llama-1m", "proxies.compare"):
        assert name in page.text


@pytest.mark.slow
def test_the_table_of_shares_is_the_mixture(tmp_path: Path) -> None:
    run = with_intervals(tmp_path, np.array([0.5, 0.3, 0.2]), max_epochs={"wiki_en": 1.0}, token_budget=20_000)
    page, mixture = report(run), Mixture.load(run / "mixture.json")
    shares, learned = page.column("The mixture over", "share"), page.column("The mixture over", "learned")
    intervals = page.column("The mixture over", "95 % interval")
    for name, share in mixture.average_weights().items():
        assert shares[name] == f"{share:.4f}"
        assert learned[name] == f"{mixture.provenance.constraints[0].learned[0][name]:.4f}"
        low, high = (mixture.stages[0].weights_ci95 or {})[name]
        assert intervals[name] == f"{low:.4f} to {high:.4f}"
    assert list(shares) == sorted(shares, key=lambda name: -float(shares[name]))
    assert "held to bounds: epochs at most" in page.text
    assert "before bounds moved some" in page.text


@pytest.mark.slow
def test_the_verdict_names_what_to_raise_and_what_to_lower_by_how_much(tmp_path: Path) -> None:
    text = report(with_intervals(tmp_path, np.array([0.6, 0.25, 0.15]))).text
    assert re.search(
        r"The run proposes more of wiki_en \((59|60)\.\d %, 1\.\d\d times its prior\); less of forum", text
    )
    assert "3 of 3 domains differ from the prior by more than their 95 % intervals" in text


@pytest.mark.slow
def test_the_verdict_calls_noise_no_reason_to_leave_the_prior(tmp_path: Path) -> None:
    text = report(with_intervals(tmp_path, np.array([0.34, 0.33, 0.33]), spread=0.4)).text
    assert "The run found no reason to leave the prior: no interval leaves its prior." in text
    assert "There is no evidence for a departure from uniform: the weights are the uniform prior" in text


@pytest.mark.slow
def test_without_intervals_the_verdict_says_other_seeds_are_unknown(tmp_path: Path) -> None:
    flat = np.full((20, 3), 1 / 3)
    text = report(make_run(tmp_path / "flat", weights=flat)).text
    assert "every share is within 10 % of it" in text
    assert "There are no intervals" in text


def test_warnings_of_the_diagnosis_stand_in_the_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    finding = {
        "id": "reliability",
        "status": "warn",
        "value": {},
        "sentence": "Half of it is noise: raise `train.steps`.",
    }
    (run / "diagnosis.json").write_text(json.dumps({"format": 1, "steps": 20, "findings": [finding]}))
    page = report(run)
    assert page.text.count("Half of it is noise: raise train.steps.") == 2
    assert "The diagnosis warns of 1 of 1 thing" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 3, 7])
def test_every_stage_is_in_the_table_and_few_have_charts(tmp_path: Path, stages: int) -> None:
    run = make_run(tmp_path / "run", steps=40)
    export_mixture([run], stages=stages).save(run / "mixture.json")
    page = report(run)
    header = next(cells[0] for caption, cells in page.tables.items() if caption.startswith("The mixture"))
    assert [name for name in header if name.startswith("stage-")] == [
        f"stage-{n + 1}" for n in range(stages) if stages > 1
    ]
    charts = [facts for facts in page.all("svg") if "largest" in str(facts["aria-label"])]
    assert len(charts) == (stages if stages <= 4 else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("domains", "steps"), [(2, 1), (2, 3), (40, 30), (90, 6)])
def test_short_runs_and_many_domains_are_shown(tmp_path: Path, domains: int, steps: int) -> None:
    names = [f"domain_{number:02d}" for number in range(domains)]
    page = report(make_run(tmp_path / "run", domains=names, steps=steps))
    assert len(page.column("The mixture over", "share")) == domains
    assert ("80 of 90 domains are drawn" in page.text) == (domains == 90)


def test_losses_are_those_of_the_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", targets=["catalan"], update={"preset": "stable", "objective": "universal"})
    page = report(run)
    first, last, change = (page.column("Losses", name) for name in ("held out, first", "held out, last", "change"))
    assert set(first) == {*NAMES[:3], "catalan"}
    for name in first:
        assert float(last[name]) - float(first[name]) == pytest.approx(float(change[name]), abs=2e-4)


def test_the_command_that_does_it_again_names_the_settings_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "it's")
    command = "accelerate launch --num_processes 1 -m proxies.train {} --run_dir NEW_DIRECTORY"
    page = write_report(run, tmp_path / "page.html", full_paths=True)
    assert command.format(shlex.quote(f"{run}/config.yaml")) in Page(page.read_text()).text
    run = make_run(tmp_path / "run")
    assert command.format(".../config.yaml") in report(run).text


def test_a_rule_without_gradients_has_no_matrix_and_says_so() -> None:
    assert "takes no gradients by domain" in matrix_part(None)


@pytest.mark.slow
def test_samples_are_shown_with_their_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    texts = {name: [f"{name} text {number} " + "x" * number for number in range(9)] for name in NAMES[:3]}
    sizes = make_cache(run, texts)
    scores = make_scores(run, dict.fromkeys(NAMES[:3], 9), few=True)
    write_scores(run, {name: {**scores[name], **sizes[name]} for name in sizes})
    page = report(run)
    assert page.column("What was scored", "documents") == dict.fromkeys(NAMES[:3], "9")
    lowest = int(np.argmin(scores["wiki_en"]["self_influence_all"]))
    assert page.column("wiki_en: lowest first", "text begins")[f"wiki_en:{lowest}"].startswith(f"wiki_en text {lowest}")


def test_scores_that_cannot_be_read_are_said_to_be_so_and_the_page_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "scores").mkdir()
    page = report(run)
    assert "The scores cannot be shown" in page.text
    assert "Do it again" in page.text


def test_nothing_in_the_records_becomes_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["environment"]["started_utc"] = HOSTILE
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["domains"][0]["sources"][0]["uri"] = HOSTILE
    (run / "corpus.json").write_text(json.dumps(corpus))
    page = report(run)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert page.text.count(HOSTILE) == 2


@pytest.mark.slow
def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    for source in (make_run(tmp_path / "run"), make_comparison(tmp_path / "comparison", learned="natural")):
        text = write_report(source, tmp_path / "page.html").read_text()
        page = Page(text)
        assert {facts["href"] for facts in page.all("link")} == {"data:,"}
        assert not [facts for _, facts in page.elements if "src" in facts]
        assert not re.search(r"url\(|@import|https?:", text.split("<body>")[0])
        policy = next(facts["content"] for facts in page.all("meta") if "http-equiv" in facts)
        assert str(policy).startswith("default-src 'none'")


@pytest.mark.slow
def test_anchors_are_unique_and_every_chart_and_box_has_a_name(tmp_path: Path) -> None:
    page = report(make_comparison(tmp_path / "comparison", learned="natural"))
    anchors = [facts["id"] for _, facts in page.elements if "id" in facts]
    assert len(anchors) == len(set(anchors))
    assert {str(facts["href"])[1:] for facts in page.all("a")} <= set(anchors)
    assert all(facts["role"] == "img" and facts["aria-label"] for facts in page.all("svg"))
    boxes = [facts for facts in page.all("div") if facts.get("class") == "scroll"]
    assert len(boxes) > 10
    assert all(facts["tabindex"] == "0" and facts["aria-label"] for facts in boxes)


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert write_report(run, tmp_path / "a.html").read_bytes() == write_report(run, tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_a_comparison_is_told_with_the_sentences_of_its_summary(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "comparison", effects={"natural": -0.2, "unimax": 0.1})
    page, comparison = report(path), read_comparison(path).comparison
    assert comparison.best == "natural"
    for sentence in verdicts(comparison)[1:]:
        assert sentence in page.text
    assert "Best: natural, better than uniform by" in page.text
    differences = page.column("Differences to uniform", "difference")
    assert list(differences) == ["natural", "uniform", "unimax"]
    assert float(differences["natural"]) == pytest.approx(comparison.outcome("natural").difference.value, abs=5e-5)  # type: ignore[union-attr]
    assert page.column("Shares of trained tokens", "natural") == {"wiki": "0.3333", "code": "0.3333", "law": "0.3333"}
    by_domain = page.column("Loss of every domain", "natural")
    assert all(value.endswith("*") and float(value[:-1]) < 0 for value in by_domain.values())
    assert "-m proxies.compare" in page.text


@pytest.mark.slow
def test_a_comparison_and_the_runs_it_learned_from_show_each_other(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "comparison", learned="natural", effects={"natural": -0.2})
    page = report(path)
    assert "The run that learned natural" in page.text
    assert "natural-matrix" in [facts.get("id") for facts in page.all("section")]
    of_run = report(path / "learned" / "natural")
    assert "natural: better than uniform by" in of_run.text
    assert f"mixtures report .../{path.name}" in of_run.text


@pytest.mark.slow
def test_a_comparison_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "comparison")
    (path / "bases" / "unimax" / "seed-1.json").unlink()
    (path / "costs.json").unlink()
    page = report(path)
    assert "1 base run not finished: unimax seed 1." in page.text
    assert page.column("Differences to uniform", "FLOPs")["natural"] == "? %"
    for name in ("uniform", "natural", "unimax"):
        for file in (path / "bases" / name).glob("*.json"):
            file.unlink()
    with pytest.raises(UserError, match="no finished base run"):
        write_report(path, tmp_path / "page.html")


@pytest.mark.slow
def test_the_command_writes_into_the_directory_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert main(["report", str(run), "-o", str(tmp_path / "deep" / "page.html")]) == 0
    assert (tmp_path / "deep" / "page.html").read_bytes() == (run / "report.html").read_bytes()
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\nwrote {tmp_path / 'deep' / 'page.html'}\n"


@pytest.mark.parametrize(
    ("source", "found"), [("none", "is not there"), ("file", "is a file"), ("empty", "is not a run directory")]
)
def test_what_is_no_run_and_no_comparison_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, found: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / source)]) == 2
    assert found in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_a_page_holds_neither_the_command_line_nor_the_users_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    run = make_run(tmp_path / "ann" / "runs" / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["environment"]["command"] = "/home/ann/.local/train.py secret.yaml " + "--corpus.held_out 0.1 " * 20
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_report(run, tmp_path / "page.html").read_text()
    assert "secret.yaml" not in text
    assert "corpus.held_out" not in text
    assert str(tmp_path / "ann") not in text
    assert ".../config.yaml" in text
    assert "/data/" not in text, "where the text is"
    assert "git_commit" in text, "the rest of the environment is there"
    assert str(run) in write_report(run, tmp_path / "page.html", full_paths=True).read_text()
