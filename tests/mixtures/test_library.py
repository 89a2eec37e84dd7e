"""The package as Python people call it: values in, objects out, tables and figures of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import mixtures
from mixtures import Mixture, UserError
from mixtures.__main__ import main
from mixtures.convert import convert
from mixtures.report.report import make_report
from mixtures.run.run import read_run
from tests.mixtures.fit.helpers import frames, law, swarm_shares, write_comparison
from tests.mixtures.helpers import make_run
from tests.trainers.support import toy


@pytest.mark.parametrize("name", mixtures.__all__)
def test_every_public_name_is_there_and_in_the_list(name: str) -> None:
    assert callable(getattr(mixtures, name))
    assert name in mixtures.PUBLIC


def test_an_export_takes_records_as_well_as_directories(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert mixtures.export_mixture([read_run(run)]).id == mixtures.export_mixture([run]).id
    with pytest.raises(UserError, match="given twice"):
        mixtures.export_mixture([run, read_run(run)])


def test_a_mixture_is_a_table_of_its_stages(tmp_path: Path) -> None:
    mixture = mixtures.export_mixture([make_run(tmp_path / "run")], stages=2, token_budget=10**5, max_epochs={"*": 9.0})
    frame = mixture.to_frame()
    assert len(frame) == 2 * len(mixture.domains)
    assert frame.groupby("stage")["share"].sum().to_numpy() == pytest.approx([1, 1])
    assert frame["tokens"].sum() == pytest.approx(mixture.horizon.total_tokens)
    epochs = frame.groupby("domain")["epochs"].sum()
    assert {row.domain: row.epochs for row in mixture.compute_expected()} == pytest.approx(epochs.to_dict())
    assert (frame["max_epochs"] == 9).all()
    assert frame["low"].isna().all()


def test_what_a_notebook_shows_escapes_names(tmp_path: Path) -> None:
    mixture = mixtures.export_mixture([make_run(tmp_path / "run")])
    shown = mixture._repr_html_()
    assert mixture.id in shown
    assert all(domain.name in shown for domain in mixture.domains)
    assert "NaN" not in shown
    comparison = mixtures.read_comparison(
        write_comparison(tmp_path / "c", {"<b>": {"a": 0.5, "b": 0.5}, "c": {"a": 0.6, "b": 0.4}})
    ).comparison
    assert "<b>" not in comparison._repr_html_()


def test_conversion_takes_values_and_gives_what_the_command_gives(tmp_path: Path) -> None:
    path = toy.make_mixture(tmp_path)
    values = {"batch_size": {0: 16, 100_000: 32}, "document_tokens": {"web": 100}, "sequence_length": 128}
    places = {"*": "/data/{domain}", "math": ["/a", "/b"]}
    convert(Mixture.load(path), to="json", output=tmp_path / "values", data=places, elsewhere=True, **values)  # type: ignore[arg-type]
    words = [
        "--batch-size",
        "0=16",
        "100k=32",
        "--document-tokens",
        "web=100",
        "--sequence-length",
        "128",
        "--elsewhere",
    ]
    places_words = ["--data", "/data/{domain}", "math=/a", "math=/b"]
    assert main(["convert", str(path), "--to", "json", "-o", str(tmp_path / "words"), *words, *places_words]) == 0
    one, other = (json.loads((tmp_path / name / "weights.json").read_text()) for name in ("values", "words"))
    assert one == other


def test_an_import_is_shares_alone_or_a_mixture(tmp_path: Path) -> None:
    (tmp_path / "shares.json").write_text(json.dumps({"wiki_en": 0.25, "wiki_de": 0.5, "forum": 0.25}))
    alone = mixtures.import_mixture([tmp_path / "shares.json"], source="json")
    assert alone.mixture is None
    assert alone.shares == {"wiki_en": 0.25, "wiki_de": 0.5, "forum": 0.25}
    assert alone.to_frame().set_index("domain")["share"].to_dict() == alone.shares
    whole = mixtures.import_mixture([tmp_path / "shares.json"], source="json", like=make_run(tmp_path / "run"))
    assert whole.mixture is not None
    assert whole.mixture.average_weights() == pytest.approx(alone.shares)
    whole.save(tmp_path / "mixture.json")
    assert Mixture.load(tmp_path / "mixture.json") == whole.mixture


@pytest.mark.slow
def test_a_fit_is_one_call_and_says_why_where_it_means_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = swarm_shares(rng)
    for name, values in (("law", law(shares)), ("noise", rng.normal(size=(len(shares), 2)))):
        ratios, metrics = frames(shares, values)
        ratios.to_csv(tmp_path / "ratios.csv")
        metrics.to_csv(tmp_path / f"{name}.csv")
    fit = mixtures.fit_swarm([tmp_path / "ratios.csv", tmp_path / "law.csv"], model="ridge")
    assert sum(fit.shares.values()) == pytest.approx(1)
    assert fit.mixture is None
    frame = fit.to_frame()
    assert frame["share"].is_monotonic_decreasing
    assert (frame["lowest_tried"] <= frame["highest_tried"]).all()
    noise = mixtures.fit_swarm([tmp_path / "ratios.csv", tmp_path / "noise.csv"], model="ridge")
    assert "not distinguishable from 0" in noise.refusal
    assert noise.refusal in noise._repr_html_()
    with pytest.raises(UserError, match="not distinguishable from 0"):
        _ = noise.shares
    with pytest.raises(UserError, match="not distinguishable from 0"):
        noise.save(tmp_path / "best.json")
    assert not (tmp_path / "best.json").exists()


def test_a_comparison_is_a_table_of_its_differences(tmp_path: Path) -> None:
    shares = {"uniform": {"a": 0.5, "b": 0.5}, "more": {"a": 0.8, "b": 0.2}}
    record = mixtures.read_comparison(write_comparison(tmp_path / "c", shares, seeds=(0, 1)))
    frame = record.comparison.to_frame().set_index("mixture")
    assert list(frame.index) == list(shares)
    assert np.isnan(frame.loc["uniform", "difference"])
    outcome = record.comparison.outcome("more")
    assert outcome.difference is not None
    assert frame.loc["more", "difference"] == outcome.difference.value
    assert frame.loc["more", "pairs"] == 2


@pytest.mark.slow
def test_every_record_has_figures_and_other_things_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    mixture = mixtures.export_mixture([run])
    comparison = mixtures.read_comparison(
        write_comparison(tmp_path / "c", {"u": {"a": 0.5, "b": 0.5}, "v": {"a": 0.6, "b": 0.4}})
    )
    for record in (read_run(run), mixture, comparison, comparison.comparison):
        assert isinstance(mixtures.plot(record), Figure)
    assert mixtures.plot(read_run(run), "losses").axes[0].get_ylabel() == "loss (nats per token)"
    with pytest.raises(UserError, match="allowed: weights, losses, matrix, mixture"):
        mixtures.plot(read_run(run), "weihgts")
    with pytest.raises(UserError, match="a str has no figures"):
        mixtures.plot("runs/mine")


def test_a_report_is_a_page_and_the_command_writes_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = make_report(read_run(run))
    assert page.html.startswith("<!DOCTYPE html>")
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == page.html


def test_diagnosis_takes_a_record_or_a_directory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert mixtures.diagnose(run) == mixtures.diagnose(read_run(run))


def test_the_scores_of_a_run_are_frames_by_domain(tmp_path: Path) -> None:
    from tests.mixtures.samples.sample_helpers import write_scores

    scores = mixtures.read_scores(write_scores(make_run(tmp_path / "run")))
    assert isinstance(scores.frame(scores.domains[0]), pd.DataFrame)
