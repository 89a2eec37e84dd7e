"""proxies.compare is a fair ruler: what all base models share, what each trains on, and what comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mixtures import Mixture, MixtureStream
from mixtures.compare.directory import read_bases
from mixtures.run.run import read_run
from proxies import train
from proxies.comparison import base
from proxies.comparison.costs import learning_cost
from proxies.comparison.settings import CompareSettings
from proxies.config import load
from proxies.corpus.corpus import prepare
from proxies.models import build_model, optimization
from tests.proxies.comparison.helpers import FIXED, compare, results, write_comparison, write_language
from tests.proxies.helpers import MODEL, config_of, launch, write_domain, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.usefixtures("pictures")
def test_a_comparison_leaves_its_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_comparison(
        tmp_path,
        seeds=[0, 1],
        targets=True,
        mixtures={
            **FIXED,
            "warm": {"fixed": "temperature", "temperature": 2},
            "unimax": {"fixed": "unimax", "max_epochs": 1},
            "stable": {"learn": {"preset": "stable"}},
            "doremi": {"learn": {"preset": "doremi"}},
        },
    )
    assert compare(path) == 0
    directory, table = tmp_path / "comparison", results(tmp_path)
    assert list(table.columns) == [
        "mixture",
        "seed",
        "step",
        "tokens",
        "domain",
        "loss",
        "bits_per_byte",
        "held_out_tokens",
    ]
    assert len(table) == 6 * 2 * 3 * 4  # mixtures, seeds, evaluations, domains with the target
    assert sorted(set(table["tokens"])) == [0, 3 * 4 * 16, 6 * 4 * 16]
    assert np.isfinite(table["loss"]).all()
    bases = read_bases(directory)
    rows, facts = bases.rows, bases.facts
    means = rows.groupby(["mixture", "seed", "domain"])["loss"].mean()
    last = table[table["step"] == 6].set_index(["mixture", "seed", "domain"])["loss"]
    assert np.allclose(means.sort_index(), last.sort_index(), atol=1e-12)
    assert {fact["mixture_id"] for fact in facts} == {
        Mixture.load(file).id for file in (directory / "mixtures").glob("*.json")
    }
    costs = json.loads((directory / "costs.json").read_text())
    assert costs["mixtures"]["uniform"] == {"seconds": 0, "flops": 0}
    assert costs["mixtures"]["stable"]["seconds"] > 0
    parameters, tokens = facts[0]["parameters"], 6 * 4 * 16
    assert costs["base_run"]["flops"] == 6 * parameters * tokens
    assert (
        costs["mixtures"]["stable"]["flops"] == 6 * parameters * 6 * 4 * 4 * 16
    )  # steps, rows, four groups, the target's too
    assert costs["mixtures"]["doremi"]["flops"] == (6 + 6 + 2) * parameters * 6 * 4 * 3 * 16
    summary = (directory / "summary.txt").read_text()
    for part in ("Objective: mixed", "95 % interval", "not distinguishable", "FLOPs: 6 per parameter"):
        assert part in " ".join(summary.split())
    assert len(list((directory / "plots").glob("*.png"))) == 2
    assert summary in capsys.readouterr().out


def test_bases_of_a_seed_start_alike_and_are_measured_on_the_same_rows(tmp_path: Path) -> None:
    assert compare(write_comparison(tmp_path, seeds=[0, 1])) == 0
    start = results(tmp_path).query("step == 0").pivot(index=["seed", "domain"], columns="mixture", values="loss")
    assert (start["uniform"] == start["natural"]).all()
    assert (start.loc[0] != start.loc[1]).all(axis=None)
    rows = read_bases(tmp_path / "comparison").rows
    assert (rows.groupby(["mixture", "seed", "domain"])["row"].agg(list).map(tuple).nunique()) == 1


def test_all_bases_train_on_equally_many_rows_in_their_mixtures_shares(tmp_path: Path) -> None:
    path = write_comparison(tmp_path, train={"steps": 25})
    (tmp_path / "shares.json").write_text(json.dumps({"vowels": 0.123, "consonants": 0, "digits": 0.877}))
    assert compare(path, "--mixtures.skewed.file", tmp_path / "shares.json") == 0
    for fact in read_bases(tmp_path / "comparison").facts:
        weights = Mixture.load(tmp_path / "comparison" / "mixtures" / f"{fact['mixture']}.json").weights_at(0)
        assert sum(fact["rows"].values()) == 25 * 4
        assert fact["tokens"] == 25 * 4 * 16
        assert all(abs(fact["rows"][name] - 100 * share) < 1 for name, share in weights.items())


def test_a_learned_mixture_is_laid_on_the_tokens_of_the_base_models(tmp_path: Path) -> None:
    mixtures = {"uniform": {"fixed": "uniform"}, "stable": {"learn": {"preset": "stable"}, "average": "tail"}}
    assert compare(write_comparison(tmp_path, mixtures=mixtures)) == 0
    mixture = Mixture.load(tmp_path / "comparison/mixtures/stable.json")
    assert mixture.horizon.total_tokens == 6 * 4 * 16
    assert len(mixture.stages) == 1
    learned = Mixture.load(tmp_path / "comparison/learned/stable/mixture.json")
    assert learned.horizon.total_tokens == 6 * 3 * 4 * 16
    assert mixture.provenance.average == "tail"


def test_settings_of_the_proxy_reach_the_learned_runs(tmp_path: Path) -> None:
    mixtures = {
        **FIXED,
        "stable": {"learn": {"preset": "stable"}, "train": {"steps": 2}},
        "doremi": {"learn": {"preset": "doremi"}},
        "paper": {"learn": {"preset": "paper", "objective": "universal"}},
    }
    settings = load(
        CompareSettings, write_comparison(tmp_path, mixtures=mixtures, objective={"digits": 1}), ["--proxy.seed", "5"]
    )
    runs = {name: settings.run_of(name) for name in settings.learned}
    assert [run.seed for run in runs.values()] == [5, 5, 5]
    assert [run.train.steps for run in runs.values()] == [2, 6, 6]
    assert [run.update.objective for run in runs.values()] == [{"digits": 1}, "auto", "universal"]
    assert runs["stable"].run_dir == str(tmp_path / "comparison/learned/stable")


def test_a_mixture_is_the_mean_of_the_proxies_of_all_seeds(tmp_path: Path) -> None:
    mixtures = {"uniform": {"fixed": "uniform"}, "stable": {"learn": {"preset": "stable"}}}
    path = write_comparison(tmp_path, mixtures=mixtures)
    assert compare(path, "--proxy.seeds", "[3, 4]") == 0
    places = [tmp_path / f"comparison/learned/stable/seed-{seed}" for seed in (3, 4)]
    kept = Mixture.load(tmp_path / "comparison/mixtures/stable.json")
    assert kept.provenance.uncertainty is not None
    assert kept.provenance.uncertainty.runs == 2
    mean = np.mean([read_run(place).trajectory.average for place in places], axis=0)
    assert list(kept.provenance.uncertainty.mean[0].values()) == pytest.approx(mean.tolist())
    costs = json.loads((tmp_path / "comparison/costs.json").read_text())["mixtures"]["stable"]
    assert costs["flops"] == pytest.approx(2 * learning_cost(read_run(places[0]))["flops"])
    assert compare(path, "--proxy.seeds", "[3, 4, 5]") == 2  # other proxies would give another mixture


def test_what_a_mixture_was_learned_for_stays_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = {"uniform": {"fixed": "uniform"}, "stable": {"learn": {"preset": "stable"}}}
    path = write_comparison(tmp_path, mixtures=learned, objective={"digits": 1})
    assert compare(path) == 0
    path = write_comparison(tmp_path, mixtures=FIXED, objective={"vowels": 1})
    assert compare(path) == 0
    record = yaml.safe_load((tmp_path / "comparison/config.yaml").read_text())
    assert record["objective"] == {"vowels": 1}
    assert record["mixtures"]["stable"]["learn"]["objective"] == {"digits": 1}
    capsys.readouterr()
    path = write_comparison(tmp_path, mixtures=learned, objective={"vowels": 1})
    assert compare(path) == 2
    assert "mixtures.stable.learn.objective" in capsys.readouterr().err


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    path = write_comparison(tmp_path, mixtures={**FIXED, "stable": {"learn": {"preset": "stable"}}})
    assert compare(path, "--run_dir", tmp_path / "one") == 0
    two = launch(path, "--run_dir", tmp_path / "two", options=config_of(2), module="proxies.compare")
    assert two.returncode == 0, two.stderr
    assert "2 process(es) on cpu" in two.stdout
    one, other = results(tmp_path, "one"), results(tmp_path, "two")
    assert np.abs(one["loss"] - other["loss"]).max() < 1e-5
    facts = [read_bases(tmp_path / name).facts for name in ("one", "two")]
    assert [fact["rows"] for fact in facts[0]] == [fact["rows"] for fact in facts[1]]


def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path) -> None:
    path = write_comparison(tmp_path)
    assert compare(path) == 0
    assert compare(path, "--train.accumulate", "3", "--run_dir", tmp_path / "parts") == 0
    assert np.abs(results(tmp_path)["loss"] - results(tmp_path, "parts")["loss"]).max() < 1e-5


def test_a_base_model_is_trained_on_the_plain_loss_of_its_stream(tmp_path: Path) -> None:
    """The slow obvious twin: torch's own loss over the stream's rows, one row at a time, and torch's AdamW."""
    path = write_comparison(tmp_path, seeds=[4])
    assert compare(path) == 0
    settings = load(CompareSettings, path)
    corpus = prepare(settings.text, Path(settings.text.cache_dir), settings.draws)
    model = build_model(settings.model, vocab_size=257, eos_id=256, row_tokens=16, seed=4)
    optimizer, scheduler = optimization(model, settings.train)
    mixture = Mixture.load(tmp_path / "comparison/mixtures/natural.json")
    stream = MixtureStream(mixture, {name: corpus.tokens[name] for name in corpus.domains}, row_tokens=16, seed=4)
    for _ in range(6):
        for _ in range(4):
            row = torch.from_numpy(next(stream))[None]
            (torch.nn.functional.cross_entropy(model(row).logits[0, :-1], row[0, 1:]) / 4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    held_out = np.asarray(corpus.held_out["digits"]).astype(np.int64)
    second = len(held_out) // 16 // 2 // 4  # of four rows spread over the first half
    row = torch.from_numpy(held_out[16 * second : 16 * second + 16])[None]
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model.eval()(row).logits[0, :-1], row[0, 1:]).item()
    rows = read_bases(tmp_path / "comparison").rows
    found = rows.query("mixture == 'natural' and domain == 'digits' and row == 1")["loss"]
    assert found.item() == pytest.approx(loss, abs=1e-5)


def test_noise_ranks_last_and_a_duplicate_is_worth_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two languages to be good at; beside them random letters, and a copy of one of the two."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for name, seed in (("first", 1), ("copy", 1), ("second", 2)):
        write_language(folder / f"{name}.jsonl", seed=seed)
    write_domain(folder / "noise.jsonl", "abcdefghijklmnopqrstuvwxyz ", documents=120)
    shares = {
        "noisy": {"first": 0.05, "copy": 0.05, "second": 0.05, "noise": 0.85},
        "doubled": {"first": 0.4, "copy": 0.4, "second": 0.2, "noise": 0},
        "distinct": {"first": 0.4, "copy": 0, "second": 0.6, "noise": 0},
    }
    mixtures: dict[str, Any] = {"uniform": {"fixed": "uniform"}}
    for name, share in shares.items():
        (folder / f"{name}.json").write_text(json.dumps(share))
        mixtures[name] = {"file": f"{name}.json"}
    path = write_comparison(
        folder,
        seeds=[0, 1],
        corpus={
            "row_tokens": 32,
            "domains": {name: {"data_files": f"{name}.jsonl"} for name in ("first", "copy", "second", "noise")},
        },
        train={"steps": 150, "batch_rows": 8, "evaluate_every": 150, "evaluate_rows": 16},
        objective={"first": 1, "second": 1},
        mixtures=mixtures,
    )
    (folder / "model.json").write_text(json.dumps({**MODEL, "hidden_size": 32, "intermediate_size": 64}))
    assert compare(path) == 0
    last = results(folder).query("step == 150 and domain in ('first', 'second')")
    ranked = last.groupby("mixture")["loss"].mean().sort_values()
    assert ranked.index[-1] == "noisy"
    assert ranked["distinct"] <= ranked["doubled"]
    assert ranked["distinct"] < ranked["uniform"]
    said = " ".join(capsys.readouterr().out.split())
    assert "noisy: worse than uniform by" in said
    assert "distinct: better than uniform by" in said


def test_a_diverged_base_is_reported_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gradient, steps = base.base_gradient, []

    def poisoned(*arguments: Any, **names: Any) -> torch.Tensor:
        steps.append(1)
        loss = gradient(*arguments, **names)
        return loss * torch.nan if len(steps) == 6 + 2 else loss  # the second step of the second mixture

    monkeypatch.setattr(base, "base_gradient", poisoned)
    path = write_comparison(tmp_path, mixtures={**FIXED, "warm": {"fixed": "temperature", "temperature": 2}})
    assert compare(path) == 0
    assert "natural seed 0: diverged at step 2" in capsys.readouterr().out
    summary = (tmp_path / "comparison/summary.txt").read_text()
    assert "natural: diverged" in summary
    assert results(tmp_path).query("mixture == 'natural' and step == 2")["loss"].isna().all()


def test_a_finished_run_can_be_compared(tmp_path: Path) -> None:
    assert train.main([str(write_run(tmp_path))]) == 0
    path = write_comparison(tmp_path, mixtures={**FIXED, "mine": {"run": "run"}})
    assert compare(path) == 0
    assert json.loads((tmp_path / "comparison/costs.json").read_text())["mixtures"]["mine"]["flops"] > 0
