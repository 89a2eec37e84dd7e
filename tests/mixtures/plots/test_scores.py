import json
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import spearmanr

from mixtures.__main__ import main
from mixtures.export import export_mixture
from mixtures.plots.looks import Look
from mixtures.plots.mixture import rule_text, samples_figure
from mixtures.plots.scores import distributions_figure, length_figure, plot_scores, rho_figure, sizes_figure
from mixtures.run.run import read_run
from mixtures.samples.documents import CHARACTERS, printable, write_documents
from mixtures.samples.rule import SampleRule, rule_weights
from mixtures.samples.scores import read_meta, read_scores, write_meta
from mixtures.samples.summary import (
    POINTS,
    TEMPERATURES,
    Summary,
    length_trend,
    rank_correlation,
    summarise,
)
from mixtures.schedule.manifest import Manifest, effective_sample_size
from tests.mixtures.helpers import NAMES, make_run
from tests.mixtures.samples.sample_helpers import write_scores
from tests.mixtures.samples.score_helpers import make_cache, make_scores

PNG = b"\x89PNG"
FILES = ["scores.png", "score_length.png", "score_length_rho.png", "sample_size.png"]
LOOK = Look("#000000", "-", True)


def names_of(count: int) -> list[str]:
    return (
        list(NAMES[:count])
        if count <= len(NAMES)
        else [f"domain_{number:02d}_of_a_rather_long_name" for number in range(count)]
    )


def scored_run(path: Path, *, domains: int = 2, documents: int = 60, **settings: Any) -> Path:
    names = names_of(domains)
    run = make_run(path / "run", domains=names, steps=4)
    make_scores(run, dict.fromkeys(names, documents), **settings)
    return run


def summary_of(path: Path, **settings: Any) -> Summary:
    return summarise(read_scores(scored_run(path, **settings)))


def sizes_of(summary: Summary) -> dict[tuple[str, str], np.ndarray]:
    shape = (len(summary.domains), len(TEMPERATURES))
    return {
        (score, transform): np.full(shape, 0.5) for score in summary.names for transform in summary.transforms(score)
    }


def drawn_texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {label for axis in axes for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)}
    shown = {tick.label1 for axis in axes for tick in axis._update_ticks() if tick.label1.get_visible()}  # type: ignore[attr-defined]
    return [text for text in texts if text not in ticks or text in shown]


@pytest.fixture(scope="module")
def summary_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Summary]:
    """The summary of a scored run with so many domains; those who draw it do not change it."""
    return cache(lambda domains: summary_of(tmp_path_factory.mktemp("scored"), domains=domains))


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["distributions", "length", "rho", "sizes"])
@pytest.mark.parametrize("domains", [2, 11, 40])
def test_no_label_is_on_another(summary_with: Callable[[int], Summary], domains: int, draw: str) -> None:
    summary = summary_with(domains)
    looks = {domain.name: LOOK for domain in summary.domains}
    figure = {
        "distributions": lambda: distributions_figure(summary),
        "length": lambda: length_figure(summary, looks),
        "rho": lambda: rho_figure(summary),
        "sizes": lambda: sizes_figure(summary, sizes_of(summary), looks),
    }[draw]()
    boxes = [(text.get_text(), text.get_window_extent().padded(-1.5)) for text in drawn_texts(figure)]
    assert len(boxes) > 10
    assert [(one, other) for (one, box), (other, second) in combinations(boxes, 2) if box.overlaps(second)] == []


@pytest.mark.slow
def test_a_scored_run_is_drawn_in_four_plots_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = scored_run(tmp_path, few=True)
    first, second = (
        plot_scores(summarise(read_scores(run), sizes=True), read_run(run), tmp_path / "first"),
        plot_scores(summarise(read_scores(run), sizes=True), read_run(run), tmp_path / "second"),
    )
    assert [path.name for path in first] == FILES
    assert all(path.read_bytes().startswith(PNG) for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"constant": True}, {"documents": 1}, {"domains": 1}, {"unit": "row"}])
def test_scores_that_say_little_are_drawn(tmp_path: Path, settings: dict) -> None:
    run = scored_run(tmp_path, few=True, **settings)
    assert len(plot_scores(summarise(read_scores(run), sizes=True), read_run(run), tmp_path / "plots")) == 4
    assert write_documents(summarise(read_scores(run)), read_run(run), tmp_path / "plots").is_file()


@pytest.mark.slow
def test_domains_without_scores_and_scores_that_are_not_finite_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:3], steps=4)
    tables = make_scores(run, {NAMES[0]: 30, NAMES[1]: 0, NAMES[2]: 30}, few=True)
    tables[NAMES[2]]["nll_mean"][:10] = np.nan
    write_scores(run, tables)
    assert len(plot_scores(summarise(read_scores(run), sizes=True), read_run(run), tmp_path / "plots")) == 4
    text = write_documents(summarise(read_scores(run)), read_run(run), tmp_path / "plots").read_text()
    assert f"{NAMES[1]}: 0 documents scored" in text
    assert "nan" not in text


@pytest.mark.slow
def test_hundreds_of_domains_are_drawn_on_a_bounded_page(tmp_path: Path) -> None:
    figure = distributions_figure(summary_of(tmp_path, domains=150, documents=3, few=True))
    assert max(figure.get_size_inches()) < 21
    assert "90 domains between" in figure.get_supxlabel()


@pytest.mark.slow
def test_points_are_thinned_and_stay_the_same(tmp_path: Path) -> None:
    scores = read_scores(scored_run(tmp_path, documents=POINTS, few=True))
    first, second = summarise(scores), summarise(scores)
    assert [len(domain.points) for domain in first.domains] == [POINTS // 2] * 2
    assert all(one.points.equals(two.points) for one, two in zip(first.domains, second.domains, strict=True))


def test_quantiles_are_those_of_the_documents_of_each_domain(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:2], steps=4)
    tables = make_scores(run, {NAMES[0]: 40, NAMES[1]: 50})
    summary = summarise(read_scores(run))
    for domain in summary.domains:
        found = domain.quantiles["nll_mean"]
        values = tables[domain.name]["nll_mean"]
        assert (found[0], found[3], found[6]) == pytest.approx((values.min(), np.median(values), values.max()))


def test_scores_of_equal_values_are_one_panel_with_both_names(tmp_path: Path) -> None:
    names = summary_of(tmp_path).names
    assert names["nll_mean"] == ("nll_mean", "information_v1")
    assert "information_v1" not in names


@pytest.mark.slow
def test_heavy_tailed_scores_have_a_log_axis_and_a_panel_of_logarithms(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, documents=300)
    assert summary.transforms("self_influence_all") == ("none", "log")
    assert summary.transforms("nll_mean") == ("none",)
    scales = [axes.get_xscale() for axes in distributions_figure(summary).axes]
    assert [scale == "log" for scale in scales] == [summary.heavy_tailed(score) for score in summary.names]


def test_no_logarithm_of_scores_that_may_be_0_or_below(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:1], steps=4)
    tables = make_scores(run, {NAMES[0]: 300})
    tables[NAMES[0]]["self_influence_all"][0] = 0
    tables[NAMES[0]]["word_embedding"][0] = -1
    write_scores(run, tables)
    summary = summarise(read_scores(run))
    assert summary.heavy_tailed("self_influence_all")
    assert summary.transforms("self_influence_all") == ("none",)
    assert not summary.heavy_tailed("word_embedding")


def test_the_correlation_with_length_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 30, 200)  # with ties
    values = rng.normal(size=200) - 0.1 * tokens
    assert rank_correlation(tokens, values) == pytest.approx(spearmanr(tokens, values).statistic, abs=1e-12)
    assert np.isnan(rank_correlation(tokens, np.ones(200)))
    assert np.isnan(rank_correlation(tokens[:2], values[:2]))


def test_the_trend_is_the_median_of_each_octave_of_length() -> None:
    tokens = np.array([4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 100])
    values = np.array([1.0, 2, 3, 4, 50, 5, 6, 7, 8, 9, 1000])
    trend = length_trend(tokens, values)
    np.testing.assert_allclose(trend[:, 1], [3, 7])  # one document of 100 tokens is no trend
    np.testing.assert_allclose(trend[0, 0], np.prod(tokens[:5].astype(float)) ** 0.2)
    assert len(length_trend(tokens[-1:], values[-1:])) == 1
    assert len(length_trend(tokens[:0], values[:0])) == 0


@pytest.mark.slow
def test_effective_sample_sizes_match_the_weights_an_export_would_make(tmp_path: Path) -> None:
    scores = read_scores(scored_run(tmp_path, documents=300))
    sizes = summarise(scores, sizes=True).sizes("self_influence_all", "log")
    frame = scores.frame(scores.domains[1])
    for temperature, direction in ((-1.5, "inverse"), (1.0, "direct")):
        rule = SampleRule(
            rule="softmax",
            score="self_influence_all",
            direction=direction,
            temperature=abs(temperature),
            transform="log",
        )
        size = effective_sample_size(rule_weights(rule, frame), frame["tokens"].to_numpy())
        assert sizes[1, TEMPERATURES.tolist().index(temperature)] == pytest.approx(size, rel=1e-12)
    assert (sizes[:, TEMPERATURES == 0] == 1).all()


def test_documents_at_both_ends_are_listed_with_text_from_the_token_cache(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:2], steps=4)
    texts = [f"document {number} of wiki \u00e9" for number in range(20)]
    tables = make_cache(run, {NAMES[0]: texts, NAMES[1]: ["a\n\x1b[31mred\u202e", "b" * 500]})
    for table in tables.values():
        table["nll_mean"] = np.arange(len(table["tokens"]), dtype=np.float64)
    write_scores(run, {name: {"self_influence_all": table["nll_mean"] + 1} | table for name, table in tables.items()})
    lines = write_documents(summarise(read_scores(run)), read_run(run), tmp_path).read_text().splitlines()
    first = lines.index("nll_mean, highest")
    assert [line.split()[0] for line in lines[first + 2 : first + 7]] == ["19", "18", "17", "16", "15"]
    assert "document 19 of wiki \u00e9  " in lines[first + 2]
    assert lines[first + 2].endswith("wiki_en:19")
    assert "<|endoftext|>" not in "".join(lines)
    few = lines.index("nll_mean, highest first")
    assert f"  {'b' * CHARACTERS}  wiki_de:1" in lines[few + 2]
    assert "a\\n\\x1b[31mred\\u202e" in lines[few + 3]


def test_text_is_read_from_the_cache_that_the_settings_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:1], steps=4)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("row_tokens: 128", f"cache_dir: {tmp_path / 'elsewhere'}"))
    write_scores(run, make_cache(run, {NAMES[0]: ["some words", "more words"]}, cache=tmp_path / "elsewhere"))
    assert "some words" in write_documents(summarise(read_scores(run)), read_run(run), tmp_path).read_text()


def gone_cache(run: Path) -> None:
    (run.parent / "cache" / f"{NAMES[0]}-0123456789abcdef" / "meta.json").unlink()


def other_text(run: Path) -> None:
    path = run.parent / "cache" / f"{NAMES[0]}-0123456789abcdef" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "sha256:other"}))


def gone_tokenizer(run: Path) -> None:
    (run / "tokenizer.json").unlink()


def damaged_tokenizer(run: Path) -> None:
    (run / "tokenizer.json").write_text("{}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (gone_cache, f"no directory {NAMES[0]}-*"),
        (other_text, "hold another text"),
        (gone_tokenizer, "tokenizer.json is not there"),
        (damaged_tokenizer, "is not a tokenizer.json"),
    ],
)
def test_documents_without_readable_text_are_listed_and_the_file_says_why(
    tmp_path: Path, damage: object, reason: str
) -> None:
    run = make_run(tmp_path / "run", domains=NAMES[:1], steps=4)
    write_scores(run, make_cache(run, {NAMES[0]: ["some words", "more words"]}))
    damage(run)  # type: ignore[operator]
    text = write_documents(summarise(read_scores(run)), read_run(run), tmp_path).read_text()
    assert "without the text of the documents" in text
    assert reason in text
    assert "some words" not in text
    assert f"{NAMES[0]}:1" in text


def test_nothing_that_a_terminal_would_obey_is_left_in_a_text() -> None:
    assert (
        printable("tab\there \x07\x9b\u202e\ufeff caf\u00e9 \u4e2d")
        == "tab\\there \\x07\\x9b\\u202e\\ufeff caf\u00e9 \u4e2d"
    )


@pytest.mark.slow
def test_the_plot_command_adds_the_plots_of_scores_and_the_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scored_run(tmp_path, few=True)
    assert main(["plot", str(run)]) == 0
    assert all((run / "plots" / name).is_file() for name in ("weights.png", *FILES, "documents.txt"))
    assert f"wrote {run / 'plots' / 'documents.txt'}" in capsys.readouterr().out


@pytest.mark.slow
def test_unfinished_scores_are_said_and_the_plots_of_the_run_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scored_run(tmp_path, few=True)
    meta = read_meta(run)
    assert meta is not None
    write_meta(run, meta.model_copy(update={"complete": False}))
    assert main(["plot", str(run)]) == 2
    error = capsys.readouterr().err
    assert "proxies.score" in error
    assert f"the plots of the run itself are in {run / 'plots'}" in error
    assert (run / "plots" / "weights.png").is_file()


@pytest.mark.slow
def test_a_mixture_with_sample_policies_has_a_plot_of_them(tmp_path: Path) -> None:
    run = write_scores(make_run(tmp_path / "run", domains=names_of(11), steps=4))
    file = tmp_path / "out" / "mixture.json"
    assert main(["export", str(run), "-o", str(file), "--samples", "softmax", "--score", "self_influence_all"]) == 0
    assert main(["plot", str(file)]) == 0
    assert (file.parent / "samples.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_a_mixture_without_sample_policies_has_none(tmp_path: Path) -> None:
    export_mixture([make_run(tmp_path / "run", steps=4)]).save(tmp_path / "mixture.json")
    assert main(["plot", str(tmp_path / "mixture.json")]) == 0
    assert not (tmp_path / "samples.png").exists()


def test_the_size_of_a_manifest_counts_text_that_it_does_not_list_once() -> None:
    start, tokens = np.array([0, 30]), np.array([30, 30])
    manifest = Manifest(
        "wiki", None, 100, "filter", ["a", "b"], start, tokens, np.array([0.0, 1.0]), {"rule": {"rule": "filter"}}
    )
    figure = samples_figure([manifest])
    bar = figure.axes[0].patches[0]
    assert bar.get_width() == pytest.approx(0.7)  # type: ignore[attr-defined]
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(0.7)  # type: ignore[index]


def test_a_rule_is_told_in_a_line() -> None:
    facts = {"rule": {"cap": 4.0, "rule": "softmax", "score": "nll_mean"}}
    manifest = Manifest("wiki", None, 1, "sampling_weight", [], np.empty(0), np.empty(0), np.empty(0), facts)
    assert rule_text(manifest) == "rule softmax, score nll_mean, cap 4"
