import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtures import Mixture
from mixtures.__main__ import main
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.plots.shares import mixture_panels, whiskers_figure
from mixtures.run.replicates import read_replicates, write_replicates
from mixtures.run.run import read_run
from mixtures.run.summary import summary
from mixtures.schedule.check import check
from mixtures.schedule.records import Uncertainty
from mixtures.schedule.show import departure_text, mixture_text
from tests.mixtures.helpers import NAMES, make_run

GOAL = (0.8, 0.0, -0.8)


def make_runs(
    path: Path, *, count: int = 3, goal: tuple[float, ...] = GOAL, noise: float = 0.1, **keywords: Any
) -> list[Path]:
    """Runs whose weights are about softmax(goal)."""
    rng = np.random.default_rng(len(goal))
    runs = []
    for seed in range(count):
        logits = np.array(goal) + noise * rng.normal(size=len(goal)) + 0.2 * rng.normal(size=(20, len(goal)))
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        domains = NAMES[: len(goal)]
        runs.append(make_run(path / f"run-{seed}", domains=domains, seed=seed, weights=weights, **keywords))
    return runs


def add_replicates(run: Path, *, noise: float = 0.1) -> Path:
    record = read_run(run)
    mean = record.trajectory.weights.mean(axis=0)
    drawn = mean * np.exp(noise * np.random.default_rng(0).normal(size=(200, len(mean))))
    write_replicates(run / "replicates.parquet", record.trajectory.domains, drawn / drawn.sum(axis=1, keepdims=True))
    return run


def intervals_of(mixture: Mixture, stage: int = 0) -> dict[str, tuple[float, float]]:
    found = mixture.stages[stage].weights_ci95
    assert found is not None
    return found


def record_of(mixture: Mixture) -> Uncertainty:
    assert mixture.provenance.uncertainty is not None
    return mixture.provenance.uncertainty


def results(mixture: Mixture, path: Path) -> dict[str, tuple[str, str]]:
    mixture.save(path)
    return {each.id: (each.status, each.detail) for each in check(path)}


def test_replicates_come_back_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=200)
    write_replicates(tmp_path / "replicates.parquet", ["a", "b", "c"], weights)
    found, turned = read_replicates(tmp_path), read_replicates(tmp_path, ["c", "a", "b"])
    assert found is not None
    assert turned is not None
    assert (found == weights).all()
    assert (turned == weights[:, [2, 0, 1]]).all()
    assert read_replicates(tmp_path / "older") is None


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["torn", "other domains", "no mixture"])
def test_damaged_replicates_are_refused_with_a_remedy(tmp_path: Path, damage: str) -> None:
    run = add_replicates(make_runs(tmp_path, count=1)[0])
    path = run / "replicates.parquet"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:100])
    if damage == "other domains":
        write_replicates(path, ["a", "b"], np.full((9, 2), 0.5))
    if damage == "no mixture":
        import pandas as pd

        frame = pd.read_parquet(path)
        frame.iloc[4, 0] = np.nan
        frame.to_parquet(path)
    with pytest.raises(UserError, match=r"replicates\.parquet.*restore it from a copy, or remove it"):
        export_mixture([run])


@pytest.mark.slow
def test_several_runs_give_every_weight_an_interval_that_more_runs_narrow(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, count=5)
    few, many = export_mixture(runs[:2]), export_mixture(runs)
    for mixture in (few, many):
        assert all(low < mixture.stages[0].weights[name] < high for name, (low, high) in intervals_of(mixture).items())
    widths = [np.mean([high - low for low, high in intervals_of(mixture).values()]) for mixture in (few, many)]
    assert widths[1] < widths[0]
    record = record_of(many)
    assert (record.runs, record.replicates) == (5, 0)
    assert record.prior == pytest.approx(dict.fromkeys(NAMES[:3], 1 / 3))


@pytest.mark.slow
def test_without_shrinkage_the_weights_are_the_plain_mean(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    mean = np.mean([read_run(run).trajectory.weights.mean(axis=0) for run in runs], axis=0)
    plain, shrunk = export_mixture(runs, shrink="none"), export_mixture(runs)
    np.testing.assert_allclose(list(plain.stages[0].weights.values()), mean)
    assert record_of(plain).factor == (1.0,)
    factor = record_of(shrunk).factor[0]
    assert 0.8 < factor < 1
    expected = (3 * mean) ** factor
    np.testing.assert_allclose(list(shrunk.stages[0].weights.values()), expected / expected.sum())
    np.testing.assert_allclose(list(record_of(shrunk).mean[0].values()), mean)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["uniform", "natural"])
def test_unsupported_weights_become_the_prior_and_show_says_so(tmp_path: Path, prior: str) -> None:
    natural = np.array([4000, 7000, 10000]) / 21000
    start = natural if prior == "natural" else np.full(3, 1 / 3)
    runs = make_runs(tmp_path, goal=tuple(np.log(start)), noise=0.3, update={"preset": "stable", "prior": prior})
    mixture = export_mixture(runs)
    np.testing.assert_allclose(list(mixture.stages[0].weights.values()), start, atol=1e-15)
    named, whole = ("uniform", "the uniform prior") if prior == "uniform" else ("the prior", "the prior")
    assert f"there is no evidence for a departure from {named}: the weights are {whole} (signal to noise" in " ".join(
        mixture_text(mixture).split()
    )
    assert results(mixture, tmp_path / "mixture.json")["intervals"][0] == "pass"


def test_a_run_with_replicates_has_intervals_and_others_export_as_before(tmp_path: Path) -> None:
    run = make_runs(tmp_path, count=1)[0]
    before = export_mixture([run])
    assert before.stages[0].weights_ci95 is None
    assert "uncertainty" not in before.model_dump(mode="json")["provenance"]
    assert "interval" not in mixture_text(before) + summary(read_run(run))
    after = export_mixture([add_replicates(run)])
    assert intervals_of(after)
    assert record_of(after).replicates == 200
    assert after.provenance.inputs[-1].uri == "run-0/replicates.parquet"
    assert "for the weights of another seed" in " ".join(mixture_text(after).split())
    text = summary(read_run(run))
    assert "95 % interval" in text
    assert "signal to noise" in text


@pytest.mark.slow
def test_replicates_of_a_whole_run_say_nothing_of_stages_or_a_tail(tmp_path: Path) -> None:
    runs = [add_replicates(run) for run in make_runs(tmp_path)]
    assert export_mixture(runs[:1], stages=2).stages[0].weights_ci95 is None
    assert export_mixture(runs[:1], average="tail").stages[0].weights_ci95 is None
    staged = export_mixture(runs, stages=2)
    assert all(stage.weights_ci95 is not None for stage in staged.stages)
    assert record_of(staged).replicates == 0
    assert len(record_of(staged).factor) == 2
    assert not [entry for entry in staged.provenance.inputs if "replicates" in entry.uri]
    assert results(staged, tmp_path / "mixture.json")["intervals"][0] == "pass"
    assert max(len(line) for line in mixture_text(staged).splitlines()) <= 100


@pytest.mark.slow
def test_bounds_hold_after_shrinkage_and_intervals_are_of_learned_weights(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    free, held = export_mixture(runs), export_mixture(runs, token_budget=16_000, max_epochs=1)
    assert held.stages[0].weights_ci95 == free.stages[0].weights_ci95
    assert held.provenance.constraints[0].learned == (free.stages[0].weights,)
    assert held.stages[0].weights["wiki_en"] < intervals_of(held)["wiki_en"][0]
    assert results(held, tmp_path / "mixture.json")["intervals"][0] == "pass"
    assert "they are of the learned weights, before bounds moved these" in " ".join(mixture_text(held).split())


def rewritten(mixture: Mixture, path: Path, edit: Any) -> dict[str, tuple[str, str]]:
    record = mixture.model_dump(mode="json")
    edit(record)
    del record["id"]
    path.write_text(json.dumps(record))
    return {each.id: (each.status, each.detail) for each in check(path)}


def test_check_finds_intervals_and_factors_that_do_not_fit_the_weights(tmp_path: Path) -> None:
    mixture = export_mixture(make_runs(tmp_path))

    def narrow(record: dict) -> None:
        record["stages"][0]["weights_ci95"]["forum"] = [0.9, 0.95]

    def more(record: dict) -> None:
        record["provenance"]["uncertainty"]["factor"] = [0.5]

    status, detail = rewritten(mixture, tmp_path / "narrow.json", narrow)["intervals"]
    assert status == "fail"
    assert "forum has learned weight 0.1" in detail
    assert "its interval is 0.9 to 0.95" in detail
    status, detail = rewritten(mixture, tmp_path / "more.json", more)["intervals"]
    assert status == "fail"
    assert "factor of stage 1 recorded 0.5, its signal gives 0.9" in detail
    assert "shrinkage gives" in detail


def test_intervals_and_records_of_other_domains_or_stages_are_refused(tmp_path: Path) -> None:
    record = export_mixture(make_runs(tmp_path)).model_dump(mode="json", exclude={"id"})
    record["stages"][0]["weights_ci95"]["other"] = [0.1, 0.2]
    del record["provenance"]["uncertainty"]["prior"]["forum"]
    record["provenance"]["uncertainty"]["signal"] = []
    with pytest.raises(UserError) as caught:
        Mixture.from_record(record, where="edited")
    message = str(caught.value)
    assert "weights_ci95 and domains do not match in other" in message
    assert "prior and domains do not match in forum" in message
    assert "uncertainty: prior sum to" in message
    assert "signal of 0 stages, the mixture has 1" in message


@pytest.mark.slow
def test_runs_of_one_seed_are_warned_about(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seed=seed) for name, seed in (("a", 4), ("b", 4), ("c", 5))]
    warned = {each.id: each.detail for each in export_mixture(runs).checks if each.status == "warn"}
    assert "several runs have seed 4" in warned["seeds"]
    assert "seeds" not in {each.id for each in export_mixture(runs[1:]).checks}


def test_the_command_says_whether_to_shrink(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(run) for run in make_runs(tmp_path)]
    assert main(["export", *runs, "-o", str(tmp_path / "mixture.json"), "--shrink", "none"]) == 0
    assert "the learned departure from uniform is kept in full, without shrinkage (signal to noise" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["show", str(tmp_path / "mixture.json")]) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("count", "stages"), [(2, 1), (11, 3), (40, 1), (70, 1)])
def test_whiskers_name_every_domain_that_is_drawn_and_fit_their_intervals(
    tmp_path: Path, count: int, stages: int
) -> None:
    names = [f"domain_{number:02d}" for number in range(count)]
    rng = np.random.default_rng(0)
    runs = [make_run(tmp_path / f"run-{seed}", domains=names, seed=seed) for seed in range(2)]
    mixture = export_mixture(runs, stages=stages)
    figure = whiskers_figure(
        mixture_panels(mixture, ["title"] * stages),
        names,
        prior=rng.dirichlet(np.ones(count)),
        natural=rng.random(count),
    )
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == len(set(labels)) == min(count, 60)
    assert len(figure.axes) == stages
    highest = max(high for stage in range(stages) for _, high in intervals_of(mixture, stage).values())
    assert axes.get_xlim()[1] >= highest or count > 60
    assert ("10 smaller domains are not drawn" in figure.get_supxlabel()) == (count == 70)


@pytest.mark.slow
def test_intervals_of_mixtures_and_runs_are_drawn_and_bounds_are_marked(tmp_path: Path) -> None:
    runs = [add_replicates(run) for run in make_runs(tmp_path)]
    export_mixture(runs, token_budget=16_000, max_epochs=1).save(tmp_path / "mixture.json")
    assert main(["plot", str(tmp_path / "mixture.json")]) == 0
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
    panel = mixture_panels(Mixture.load(tmp_path / "mixture.json"), ["title"])[0]
    texts = (
        whiskers_figure([panel], NAMES[:3], prior=np.full(3, 1 / 3), natural=np.full(3, 1 / 3)).legends[0].get_texts()
    )
    assert [text.get_text() for text in texts] == [
        "weight",
        "weight, interval holds the prior",
        "learned, before bounds",
        "prior (natural)",
    ]
    assert main(["plot", str(runs[0])]) == 0


@pytest.mark.parametrize(
    ("signal", "factor", "shrunk", "said"),
    [
        ((82.8,), (0.988,), True, "evidence is strong: 99 % of the learned departure from uniform is kept"),
        ((787.0,), (0.9987,), True, "evidence is strong: more than 99 % of the learned departure"),
        ((6.0,), (5 / 6,), True, "evidence is moderate: 83 % of the learned departure"),
        ((1.4,), (0.286,), True, "evidence is weak: 29 % of the learned departure"),
        ((1.1,), (0.0,), True, "no evidence for a departure from uniform: the weights are the uniform prior"),
        ((1.1, 0.9), (0.0, 0.0), True, "no evidence for a departure from uniform in any stage: the weights are"),
        ((20.0, 0.9), (0.95, 0.0), True, "evidence by stage: 95 %, 0 % of the learned departure"),
        ((20.0,), (1.0,), False, "the learned departure from uniform is kept in full, without shrinkage (signal"),
        ((1.1,), (1.0,), False, "without shrinkage, although there is no evidence for it (signal"),
    ],
)
def test_the_departure_from_the_prior_is_said_in_words(
    signal: tuple[float, ...], factor: tuple[float, ...], shrunk: bool, said: str
) -> None:
    def text(prior: dict[str, float]) -> str:
        needed, mean = ((1.3 if signal[0] == 1.4 else 4.53),) * len(signal), (prior,) * len(signal) if shrunk else ()
        return departure_text(Uncertainty(runs=1, prior=prior, signal=signal, needed=needed, factor=factor, mean=mean))

    assert said in text({"a": 0.5, "b": 0.5})
    assert f"needed {'1.3' if signal[0] == 1.4 else '4.5'})" in text({"a": 0.5, "b": 0.5})
    other = said.replace("from uniform", "from the prior").replace("the uniform prior", "the prior")
    assert other in text({"a": 0.4, "b": 0.6})
