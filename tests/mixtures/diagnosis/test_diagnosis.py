import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.__main__ import main
from mixtures.diagnosis.diagnosis import diagnose, diagnosis_text, read_diagnosis, write_diagnosis
from mixtures.diagnosis.finding import Finding
from mixtures.diagnosis.gradients import split_half
from mixtures.errors import UserError
from mixtures.run.evaluation import EvaluationWriter
from mixtures.run.parts import list_parts
from mixtures.run.run import read_run
from proxies.learn import write_results
from tests.mixtures.diagnosis.helpers import domain_names, planted_run

STEPS = 60
IDS = [
    "settled",
    "reliability",
    "effective_domains",
    "clipped",
    "negative",
    "floor",
    "reach",
    "repetition",
    "memorised",
    "too_small",
    "pairs",
]


def directions(count: int = 4, *, spread: float = 1.0) -> np.ndarray:
    """(count, 60): all share one direction, the first ones more of it."""
    return np.eye(count, 60, k=1) + spread * np.linspace(1, 0.2, count)[:, None] * np.eye(1, 60)


def look(run: Path, name: str, **keywords: object) -> Finding:
    found = {finding.id: finding for finding in diagnose(run, **keywords).findings}  # type: ignore[arg-type]
    assert list(found) == IDS
    return found[name]


def weights_of(*shares: float | Sequence[float], steps: int = STEPS) -> np.ndarray:
    """(steps, D): constant shares, or shares along a curve; normalised."""
    columns = np.column_stack([np.broadcast_to(share, steps) for share in shares]).astype(np.float64)
    return columns / columns.sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_a_sound_run_has_nothing_to_warn_of(tmp_path: Path) -> None:
    diagnosis = diagnose(planted_run(tmp_path / "run", directions()))
    assert [finding.id for finding in diagnosis.findings] == IDS
    assert {finding.status for finding in diagnosis.findings} == {"pass"}
    assert diagnosis_text(diagnosis) == f"diagnosis: nothing to warn of in {len(IDS)} findings"


def test_the_step_at_which_weights_settled_is_the_one_a_loop_finds(tmp_path: Path) -> None:
    weights = weights_of(1, np.linspace(1, 3, STEPS), np.exp(-np.arange(STEPS) / 10) + 0.3, 1)
    run = planted_run(tmp_path / "run", directions(), columns={"weight": weights})
    ends = weights.mean(axis=0)
    near = [bool((np.abs(weights[:step].mean(axis=0) - ends) <= 0.1 * ends).all()) for step in range(1, STEPS + 1)]
    step = next(step for step in range(1, STEPS + 1) if all(near[step - 1 :]))
    assert 1 < step < STEPS
    assert look(run, "settled").value["step"] == step


@pytest.mark.slow
def test_weights_that_drift_have_not_settled_and_weights_that_stay_have(tmp_path: Path) -> None:
    drifting = planted_run(
        tmp_path / "drift", directions(), columns={"weight": weights_of(1, np.linspace(1, 20, STEPS), 1, 1)}
    )
    found = look(drifting, "settled")
    assert found.status == "warn"
    assert found.value["step"] > STEPS / 2  # type: ignore[operator]
    still = look(planted_run(tmp_path / "still", directions()), "settled")
    assert (still.status, still.value["step"]) == ("pass", 1)


@pytest.mark.slow
def test_reliability_tells_signal_from_noise(tmp_path: Path) -> None:
    signal = look(planted_run(tmp_path / "signal", directions()), "reliability")
    assert signal.status == "pass"
    assert signal.value["objective"] > 0.9  # type: ignore[operator]
    noise = look(planted_run(tmp_path / "noise", directions(6, spread=0), noise=6.0), "reliability")
    assert noise.status == "warn"
    assert noise.value["objective"] < 0.5  # type: ignore[operator]


def test_reliability_is_the_share_of_the_means_variance_that_is_not_noise() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=200)
    for noise in (0.5, 2.0, 8.0):
        alignments = true + noise * rng.normal(size=(50, 200))
        expected = 1 / (1 + noise**2 / 50)
        assert split_half(alignments) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
@given(st.integers(2, 30), st.integers(3, 8), st.integers(0, 2**32 - 1), st.floats(0.1, 100), st.floats(-10, 10))
def test_reliability_is_a_share_whatever_the_unit_and_the_level(
    blocks: int, count: int, seed: int, unit: float, level: float
) -> None:
    alignments = np.random.default_rng(seed).normal(size=(blocks, count))
    found = split_half(alignments)
    assert 0 <= found <= 1
    assert split_half(unit * alignments + level) == pytest.approx(found, abs=1e-6)
    assert split_half(np.full((blocks, count), level)) == 0


def test_every_target_has_its_own_reliability(tmp_path: Path) -> None:
    planted = np.vstack([directions(4), directions(1), np.zeros((1, 60))])
    found = look(planted_run(tmp_path / "run", planted, targets=["catalan", "noise"], noise=3.0), "reliability")
    members = found.value["members"]
    assert isinstance(members, dict)
    assert set(members) == {"catalan", "noise"}
    assert members["catalan"] > members["noise"]  # type: ignore[operator]
    assert "noise" in found.sentence


@pytest.mark.slow
def test_a_mixture_of_one_domain_is_not_spread_out(tmp_path: Path) -> None:
    found = look(
        planted_run(tmp_path / "run", directions(), columns={"weight": weights_of(97, 1, 1, 1)}), "effective_domains"
    )
    assert found.status == "warn"
    assert found.value["largest"] == "domain_00"
    shares = np.array([0.97, 0.01, 0.01, 0.01])
    assert found.value["effective"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    even = look(planted_run(tmp_path / "even", directions()), "effective_domains")
    assert even.value["effective"] == pytest.approx(4)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "status"), [(0.0, "pass"), (0.5, "pass"), (0.6, "warn"), (1.0, "warn")])
def test_steps_with_a_clipped_gradient_are_counted(tmp_path: Path, share: float, status: str) -> None:
    norms = np.where(np.arange(STEPS) < share * STEPS, 1.5, 0.5)
    found = look(planted_run(tmp_path / "run", directions(), columns={"gradient_norm": norms}), "clipped")
    assert (found.status, found.value["share"]) == (status, share)


@pytest.mark.slow
def test_a_domain_against_the_objective_is_named_but_mere_noise_is_not(tmp_path: Path) -> None:
    planted = np.vstack([directions(4), -1.5 * directions(1), np.zeros((1, 60)), np.zeros((1, 60))])
    found = look(planted_run(tmp_path / "run", planted), "negative")
    assert found.status == "warn"
    assert found.value["negative"] == ["domain_04"]
    assert "domain_04 raises" in found.sentence
    assert set(found.value["within_noise"]) <= {"domain_05", "domain_06"}  # type: ignore[arg-type]
    alignments = found.value["alignments"]
    assert isinstance(alignments, dict)
    assert np.abs(list(alignments.values())).mean() == pytest.approx(1)  # type: ignore[arg-type]


@pytest.mark.slow
def test_domains_left_with_the_floor_are_named(tmp_path: Path) -> None:
    falling = np.concatenate([np.linspace(1, 0.01, STEPS // 2), np.full(STEPS // 2, 0.01)])
    run = planted_run(tmp_path / "run", directions(), columns={"weight": weights_of(1, falling, 1, 1)})
    found = look(run, "floor")
    assert found.status == "warn"
    assert list(found.value["shares_of_prior"]) == ["domain_01"]  # type: ignore[arg-type]
    given_floor = planted_run(
        tmp_path / "given",
        directions(),
        columns={"weight": weights_of(1, 0.3, 1, 1)},
        update={"preset": "stable", "floor": 0.4},
    )
    assert look(given_floor, "floor").status == "warn"


def test_text_that_the_proxy_read_many_times_is_named(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", directions(), tokens_per_step=512)
    often = look(run, "repetition")
    assert often.status == "pass"
    assert often.value["base_epochs"] is None
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["domains"][2]["tokens"] = 600
    (run / "corpus.json").write_text(json.dumps(corpus))
    found = look(run, "repetition")
    assert found.status == "warn"
    assert found.value["mismatched"] == ["domain_02"]
    assert found.value["proxy_epochs"]["domain_02"] == pytest.approx(512 * STEPS / 4 / 600)  # type: ignore[index, call-overload]


def test_epochs_in_the_base_stand_beside_those_in_the_proxy(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", directions())
    found = look(run, "repetition", token_budget=400_000, unique_tokens={"*": 1e6, "domain_01": 10_000})
    base = found.value["base_epochs"]
    assert isinstance(base, dict)
    assert base["domain_01"] == pytest.approx(0.25 * 400_000 / 10_000)
    assert base["domain_00"] == pytest.approx(0.1)
    assert found.value["mismatched"] == ["domain_01"]
    assert "domain_01 10.00 (" in found.sentence
    with pytest.raises(UserError, match="no domain nope"):
        diagnose(run, token_budget=1e6, unique_tokens={"nope": 1e6})


@pytest.mark.slow
def test_a_simulated_budget_is_the_base_unless_another_is_given(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", directions())
    corpus = json.loads((run / "corpus.json").read_text())
    for domain in corpus["domains"]:
        was = {"text_tokens": domain["tokens"], "text_documents": 5, "text_complete": True}
        domain["simulated"] = {"budget_tokens": 800_000, "unique_tokens": 50_000, **was}
    (run / "corpus.json").write_text(json.dumps(corpus))
    found = look(run, "repetition")
    assert found.value["token_budget"] == 800_000
    assert found.value["base_epochs"] == pytest.approx(dict.fromkeys(domain_names(4), 4))
    assert look(run, "repetition", token_budget=80_000).value["base_epochs"]["domain_00"] == pytest.approx(0.4)  # type: ignore[index, call-overload]


def with_held_out(run: Path, curves: dict[str, Sequence[float]], *, tokens: int = 2000) -> Path:
    """The run with these held-out losses at equal distances from step 0 on, every domain's text `tokens` long."""
    for part in list_parts(run / "evaluation"):
        part.path.unlink()
    writer = EvaluationWriter(run / "evaluation")
    count = len(next(iter(curves.values())))
    for number in range(count):
        step = number * STEPS // (count - 1)
        common = {"step": step, "tokens": 512 * step, "held_out_tokens": 896, "bits_per_byte": 1.0}
        writer.append({**common, "domain": name, "loss": curve[number]} for name, curve in curves.items())
        writer.flush()
    corpus = json.loads((run / "corpus.json").read_text())
    for domain in corpus["domains"]:
        domain["tokens"] = tokens
    (run / "corpus.json").write_text(json.dumps(corpus))
    return run


SOUND = {name: [4.0, 3.6, 3.4, 3.1 + 0.02 * number] for number, name in enumerate(domain_names(4))}  # training: 4 to 3


def test_held_out_loss_rising_while_training_loss_falls_is_memorisation(tmp_path: Path) -> None:
    run = with_held_out(planted_run(tmp_path / "run", directions()), SOUND | {"domain_01": [4.0, 3.2, 3.3, 3.4]})
    found = look(run, "memorised")
    assert (found.status, found.value["rising"], found.value["far"]) == ("warn", ["domain_01"], ["domain_01"])


def test_a_domain_whose_gap_is_far_above_the_others_was_learned_by_heart(tmp_path: Path) -> None:
    run = with_held_out(planted_run(tmp_path / "run", directions()), SOUND | {"domain_02": [4.5, 4.2, 4.0, 3.9]})
    found = look(run, "memorised")
    assert (found.status, found.value["rising"], found.value["far"]) == ("warn", [], ["domain_02"])


@pytest.mark.slow
def test_losses_that_fall_alike_or_text_read_once_are_not_called_memorised(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", directions())
    assert look(with_held_out(run, SOUND), "memorised").status == "pass"
    once = with_held_out(run, SOUND | {"domain_01": [4.0, 3.2, 3.3, 3.9]}, tokens=512 * STEPS)
    assert look(once, "memorised").status == "pass"


def test_what_a_run_does_not_record_is_unknown_and_says_so(tmp_path: Path) -> None:
    columns = {"gram": None, "self_product": None, "gradient_norm": np.full(STEPS, np.nan)}
    columns["reach_factor"] = np.full(STEPS, np.nan)
    run = planted_run(tmp_path / "run", directions(), columns=columns, evaluate_every=0)
    unknown = [finding for finding in diagnose(run).findings if finding.status == "unknown"]
    assert [finding.id for finding in unknown] == [
        "reliability",
        "clipped",
        "negative",
        "reach",
        "memorised",
        "too_small",
        "pairs",
    ]
    assert all(finding.sentence and not finding.value for finding in unknown)


@pytest.mark.slow
def test_an_odd_row_count_leaves_universal_runs_unknown_but_not_targets(tmp_path: Path) -> None:
    universal = planted_run(tmp_path / "universal", directions(), columns={"self_product": None})
    assert [look(universal, name).status for name in ("reliability", "negative", "pairs")] == [
        "unknown",
        "unknown",
        "pass",
    ]
    target = planted_run(tmp_path / "target", directions(5), targets=["catalan"], columns={"self_product": None})
    assert [look(target, name).status for name in ("reliability", "negative", "pairs")] == ["pass"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_a_few_steps_is_diagnosed(tmp_path: Path, steps: int) -> None:
    run = planted_run(tmp_path / "run", directions(), steps=steps)
    assert [finding.id for finding in diagnose(run).findings] == IDS


def test_two_domains_that_teach_the_same_are_warned_of(tmp_path: Path) -> None:
    planted = directions(4)
    planted[3] = planted[2]
    found = look(planted_run(tmp_path / "run", planted, noise=0.5), "pairs")
    assert found.status == "warn"
    assert "domain_02 and domain_03 teach mostly the same" in found.sentence


def test_a_diagnosis_survives_its_file(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", directions(), columns={"weight": weights_of(97, 1, 1, 1)})
    assert read_diagnosis(run) is None
    diagnosis = diagnose(run)
    path = write_diagnosis(run, diagnosis)
    assert path == run / "diagnosis.json"
    assert read_diagnosis(run) == diagnosis
    assert "NaN" not in path.read_text()


def test_a_damaged_diagnosis_is_one_message_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "diagnosis.json").write_text('{"steps": 3, "findings": [{"id": "settled"}]}')
    with pytest.raises(
        UserError, match=r"diagnosis\.json is damaged:(.|\n)*sentence: Field required\n`mixtures diagnose`"
    ):
        read_diagnosis(tmp_path)


def test_the_command_prints_every_finding_and_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted_run(tmp_path / "run", directions())
    assert main(["diagnose", str(run), "--token-budget", "400k", "--unique-tokens", "domain_01=10k"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in IDS)
    assert "warn    repetition: With 400 k tokens" in printed
    found = read_diagnosis(run)
    assert found is not None
    assert [finding.id for finding in found.warnings] == ["repetition"]
    assert main(["diagnose", str(tmp_path / "nowhere")]) == 2


@pytest.mark.slow
def test_a_finished_run_has_its_diagnosis_and_prints_the_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted_run(tmp_path / "run", directions(), columns={"weight": weights_of(97, 1, 1, 1)})
    write_results(read_run(run))
    printed = capsys.readouterr().out
    assert "effective_domains: The mixture is as spread out as 1.2 equal domains of 4" in printed
    assert "reliability" not in printed
    assert read_diagnosis(run) == diagnose(run)


@pytest.mark.slow
def test_sentences_stay_short_and_within_the_page_at_forty_domains(tmp_path: Path) -> None:
    names = 40
    weights = weights_of(*([1.0] * 20 + [0.001] * 20))
    run = planted_run(tmp_path / "run", directions(names), columns={"weight": weights})
    text = diagnosis_text(diagnose(run), everything=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "and 14 more" in text


def test_weights_that_reach_held_are_told_with_what_they_would_be(tmp_path: Path) -> None:
    free, factors = weights_of(6, 2, 1, 1), np.linspace(1, 0.4, STEPS)
    kept = free ** factors[:, None]
    kept = 0.9 * kept / kept.sum(axis=1, keepdims=True) + 0.1 * 0.25  # floor 0.1 of a uniform prior
    columns = {"weight": kept, "reach_factor": factors}
    run = planted_run(tmp_path / "run", directions(), columns=columns, update={"preset": "stable", "floor": 0.1})
    found = look(run, "reach")
    assert found.status == "warn"
    without = found.value["without"]
    assert list(without.values()) == pytest.approx((0.9 * free[0] + 0.025).tolist())
    assert f"domain_00 {without['domain_00']:.2f} instead of {kept[:, 0].mean():.2f}" in found.sentence
    assert look(planted_run(tmp_path / "inside", directions()), "reach").status == "pass"


@pytest.mark.slow
def test_a_domain_of_a_single_row_is_named_and_left_out_of_what_needs_it(tmp_path: Path) -> None:
    planted = directions(4)
    products = np.full((STEPS, 4), 1.0)
    products[:, 1] = np.nan
    run = planted_run(tmp_path / "run", planted, columns={"self_product": products})
    found = look(run, "too_small")
    assert (found.status, found.value["names"]) == ("warn", ["domain_01"])
    negative = look(run, "negative")
    assert negative.value["alignments"]["domain_01"] is None
    assert negative.value["alignments"]["domain_00"] > 0
    assert 0 < look(run, "reliability").value["objective"] <= 1
