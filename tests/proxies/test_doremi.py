"""DoReMi: the update by hand, the step against plain autograd, and the run of two phases as a person starts it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import doge
from doge.doremi import excess_losses, reweight
from mixtures import Mixture
from mixtures.__main__ import main as mixtures_main
from mixtures.errors import UserError
from mixtures.run.evaluation import read_evaluation
from mixtures.run.trajectory import read_trajectory
from proxies.corpus.batches import step_rows
from proxies.doremi import DoremiStepper, reference_settings
from proxies.models import build_model, optimization
from proxies.place import Place
from proxies.settings import Settings, load_settings
from proxies.step import Group, StepOutcome, Stepper
from tests.doge.helpers import VOCAB, make_model
from tests.proxies.helpers import alone_and_in_two_processes, kill_at, message, prepare_corpus, run, same, write_run

pytestmark = pytest.mark.usefixtures("fresh_accelerator")
DOREMI = {"preset": "doremi"}
NAMES = ("vowels", "consonants", "digits")


def test_the_update_is_the_one_worked_by_hand() -> None:
    # token losses in nats; domain A: excess 0.5 and (below the reference) 0, mean 0.25; domain B: 2 and 0, mean 1
    excess = excess_losses(torch.tensor([[2.0, 1.0], [3.0, 1.0]]), torch.tensor([[1.5, 1.5], [1.0, 1.0]]))
    assert excess.tolist() == [0.25, 1.0]
    # weights before: 0.6 and 0.4; times exp(0.25) = 1.284025 and exp(1) = 2.718282: 0.770415 and 1.087313, sum
    # 1.857728; shares 0.414708 and 0.585292; 0.9 of them and 0.1 of 1/2: 0.423238 and 0.576762
    weights = reweight(torch.tensor([0.6, 0.4], dtype=torch.float64), excess, eta=1.0, smoothing=0.1)
    assert weights.tolist() == pytest.approx([0.423238, 0.576762], abs=1e-6)
    # once more, with eta = 2 and no smoothing: 0.423238 exp(0.5) = 0.697802 and 0.576762 exp(2) = 4.261727, sum
    # 4.959529
    assert reweight(weights, excess, eta=2.0, smoothing=0.0).tolist() == pytest.approx([0.140699, 0.859301], abs=1e-6)


def test_excess_is_clipped_token_by_token_not_by_domain() -> None:
    # both domains are on average as good as the reference: a clip of the mean would give 0 for both
    excess = excess_losses(torch.tensor([[5.0, 1.0], [3.0, 3.0]]), torch.full((2, 2), 3.0))
    assert excess.tolist() == [1.0, 0.0]


@given(
    domains=st.integers(2, 9),
    scale=st.floats(0, 1e3),
    smoothing=st.floats(0, 1),
    eta=st.floats(1e-3, 10),
    seed=st.integers(0, 1000),
)
def test_weights_stay_on_the_simplex_and_above_the_smoothing(
    domains: int, scale: float, smoothing: float, eta: float, seed: int
) -> None:
    draw, weights = torch.Generator().manual_seed(seed), torch.full((domains,), 1 / domains, dtype=torch.float64)
    for _ in range(3):
        excess = scale * torch.rand(domains, dtype=torch.float64, generator=draw)
        weights = reweight(weights, excess, eta=eta, smoothing=smoothing)
        assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
        assert bool((weights >= smoothing / domains - 1e-15).all())


def test_the_paper_s_constants_are_the_preset_s(tmp_path: Path) -> None:
    constants = load_settings(write_run(tmp_path, update=DOREMI)).constants
    assert (constants.eta, constants.smoothing) == (1.0, 1e-3)
    constants = load_settings(
        write_run(tmp_path, update=DOREMI), ["--update.eta", "0.5", "--update.smoothing", "0.1"]
    ).constants
    assert (constants.eta, constants.smoothing) == (0.5, 0.1)


def make_stepper(
    folder: Path,
    *,
    family: str = "llama",
    accumulate: int = 1,
    rank: int = 0,
    processes: int = 1,
    reduce: Callable | None = None,
) -> DoremiStepper:
    """A step in float64 on random tokens; the reference is another model than the proxy."""
    settings = load_settings(
        write_run(folder, update={**DOREMI, "smoothing": 0.05}), ["--train.accumulate", str(accumulate)]
    )
    draw = np.random.default_rng(0)
    groups = [Group(name, draw.integers(2, VOCAB, 400), 1.0) for name in NAMES]
    model = make_model(family)
    start = doge.start(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0)
    place = Place(rank, processes, torch.device("cpu"), reduce, lambda: torch.autocast("cpu", enabled=False))
    reference = make_model(family, seed=1).eval().requires_grad_(False)
    return DoremiStepper(settings, groups, model, torch.optim.SGD(model.parameters(), lr=1.0), place, start, reference)


def slow_losses(model: nn.Module, rows: Tensor) -> Tensor:
    """(R, T - 1): a token at a time, from the log-probabilities."""
    logged = model(input_ids=rows).logits.log_softmax(-1)
    return torch.stack(
        [torch.stack([-logged[r, t, row[t + 1]] for t in range(len(row) - 1)]) for r, row in enumerate(rows)]
    )


def slow_step(stepper: DoremiStepper, step: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Losses, excess, weights and the combined gradient by algorithm 1 as it is written, one domain at a time."""
    settings, losses, excess, gradients = stepper.settings, [], [], []
    for group in stepper.groups:
        rows = torch.from_numpy(
            step_rows(group.tokens, seed=0, domain=group.name, step=step, rows_per_step=4, row_tokens=16)
        )
        proxy, reference = slow_losses(stepper.model, rows), slow_losses(stepper.reference, rows)  # type: ignore[arg-type]
        pairs = list(zip(proxy.flatten().tolist(), reference.flatten().tolist(), strict=True))
        excess.append(sum(max(one - other, 0) for one, other in pairs) / len(pairs))
        losses.append(proxy.mean())
        gradients.append(torch.autograd.grad(losses[-1], list(stepper.model.parameters())))
    raw = [float(a) * np.exp(settings.constants.eta * e) for a, e in zip(stepper.state.weights, excess, strict=True)]
    smoothing = settings.constants.smoothing
    weights = [(1 - smoothing) * r / sum(raw) + smoothing / 3 for r in raw]
    names = [name for name, _ in stepper.model.named_parameters()]
    combined = {name: sum(a * g[i] for a, g in zip(weights, gradients, strict=True)) for i, name in enumerate(names)}
    return (
        torch.stack(losses).detach(),
        torch.tensor(excess, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        combined,
    )


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_step_is_algorithm_1_with_plain_autograd(tmp_path: Path, family: str, accumulate: int) -> None:
    stepper = make_stepper(tmp_path, family=family, accumulate=accumulate)
    for step in range(3):
        losses, excess, weights, gradient = slow_step(stepper, step)
        before = values(stepper.model)
        outcome = stepper(step, 1e-3)
        close = {"rtol": 1e-9 if family == "gpt2" else 1e-7, "atol": 1e-12}  # Llama's own norm works in float32
        assert torch.allclose(outcome.losses, losses, **close)
        assert torch.allclose(outcome.decision.alignment, excess, **close)
        assert torch.allclose(outcome.decision.weights, weights, **close)
        assert torch.equal(stepper.state.weights, outcome.decision.weights)
        norm = float(torch.stack([g.norm() for g in gradient.values()]).norm())
        assert outcome.gradient_norm == pytest.approx(norm, rel=close["rtol"])
        clip = min(1, 1 / (norm + 1e-6))  # SGD with lr 1 and max_grad_norm 1: the change is the clipped gradient
        for name, after in values(stepper.model).items():
            assert torch.allclose(
                before[name] - after, clip * gradient[name], rtol=10 * close["rtol"], atol=10 * close["rtol"]
            ), name


def test_ranks_add_their_parts_before_the_weights_are_decided(tmp_path: Path) -> None:
    parts: list[list[Tensor]] = []

    def collect(tensor: Tensor) -> Tensor:
        parts[-1].append(tensor.clone())
        return tensor * 2  # what it adds up to when both ranks saw the same rows

    one = make_stepper(tmp_path)
    whole = one(0, 1e-3)
    for rank in range(2):
        parts.append([])
        make_stepper(tmp_path, rank=rank, processes=2, reduce=collect)(0, 1e-3)
    losses, excess = parts[0][0] + parts[1][0]
    assert torch.allclose(losses, whole.losses, rtol=1e-9)
    assert torch.allclose(excess, whole.decision.alignment, rtol=1e-9)
    trained = list(one.model.parameters())
    assert [len(sent) for sent in parts] == [1 + len(trained)] * 2


@pytest.mark.parametrize(("accumulate", "forwards"), [(1, 1), (2, 4)])
def test_a_step_costs_one_forward_pass_of_the_reference_beyond_a_plain_one(
    tmp_path: Path, accumulate: int, forwards: int
) -> None:
    stepper, calls = make_stepper(tmp_path, accumulate=accumulate), []
    assert stepper.reference is not None
    stepper.model.register_forward_hook(lambda *arguments: calls.append("proxy"))
    stepper.reference.register_forward_hook(lambda *arguments: calls.append("reference"))
    stepper(0, 1e-3)
    assert calls.count("proxy") == forwards  # several micro-batches: once for the weights, once for the gradient
    assert calls.count("reference") == accumulate
    assert not any(p.requires_grad or p.grad is not None for p in stepper.reference.parameters())


def test_both_forward_passes_of_an_accumulated_step_drop_the_same(tmp_path: Path) -> None:
    stepper, seen = make_stepper(tmp_path, accumulate=2), []
    stepper.model.register_forward_hook(lambda *arguments: seen.append(torch.rand(1)))  # as dropout would draw
    stepper(0, 1e-3)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.usefixtures("pictures")
def test_one_command_trains_reference_and_proxy_and_leaves_every_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_run(tmp_path, targets=True, update=DOREMI)) == 0
    directory = tmp_path / "run"
    trajectory, evaluation = read_trajectory(directory), read_evaluation(directory)
    assert trajectory.domains == trajectory.groups == NAMES
    assert trajectory.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert np.allclose(trajectory.weights.sum(1), 1, atol=1e-12)
    assert np.isfinite(trajectory.losses).all()
    assert (trajectory.alignments > 0).all()
    assert np.isnan(trajectory.grams).all()
    assert np.isnan(trajectory.norms).all()
    assert np.isfinite(trajectory.frame["gradient_norm"]).all()
    assert set(evaluation["domain"]) == {*NAMES, "mixed"}  # the target is evaluated and serves nothing else
    mixture = Mixture.load(directory / "mixture.json")
    mean = dict(zip(NAMES, trajectory.weights.mean(0), strict=True))
    assert mixture.weights_at(0) == pytest.approx(mean, abs=1e-9)
    assert (mixture.provenance.method, mixture.provenance.objective) == ("doremi", "universal")
    assert sorted(path.name for path in (directory / "plots").glob("*.png")) == [
        "losses.png",
        "mixture.png",
        "weights.png",
    ]
    reference = read_trajectory(directory / "reference")
    assert reference.groups == NAMES
    assert np.allclose(reference.weights, 1 / 3)
    config = yaml.safe_load((directory / "reference" / "config.yaml").read_text())
    assert (config["update"]["preset"], config["seed"]) == ("uniform", 0)
    printed = capsys.readouterr().out
    for part in (
        "rule:  doremi; starts",
        "the same model is first trained on the prior (uniform)",
        "rule:  uniform; starts",
        "learned weight",
        "mixture.json",
    ):
        assert part in printed


def test_the_mixtures_commands_read_both_of_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_run(tmp_path, update=DOREMI)) == 0
    directory, out = tmp_path / "run", tmp_path / "out.json"
    for command in (
        ["export", directory, "-o", out, "--stages", "2", "--token-budget", "20k"],
        ["show", out],
        ["check", directory / "mixture.json"],
        ["plot", directory],
        ["plot", directory / "reference"],
        ["export", directory / "reference"],
    ):
        assert mixtures_main([str(word) for word in command]) == 0, capsys.readouterr().err
    assert (directory / "reference" / "plots" / "matrix.png").exists()


def test_the_reference_is_trained_on_the_prior_with_the_plain_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[list[Tensor]] = []
    step = DoremiStepper.__call__

    def watched(self: DoremiStepper, number: int, lr: float) -> StepOutcome:
        assert self.reference is not None
        assert not self.reference.training
        met.append([p.clone() for p in self.reference.parameters()])
        return step(self, number, lr)

    monkeypatch.setattr(DoremiStepper, "__call__", watched)
    path, flags = (
        write_run(tmp_path, update={**DOREMI, "prior": "natural"}),
        ["--corpus.domains.vowels.max_tokens", "600"],
    )
    assert run(path, *flags) == 0
    settings = load_settings(path, flags)
    trained, prior, start = train_plainly(settings)
    assert float(prior[0]) < 0.1 < 0.5 < float(prior[2])
    assert np.allclose(read_trajectory(tmp_path / "run" / "reference").weights, prior)
    assert len(met) == 6
    for found in (met[0], met[-1]):
        off = torch.stack([(one - other).norm() for one, other in zip(found, trained, strict=True)]).norm()
        way = torch.stack([(one - other).norm() for one, other in zip(trained, start, strict=True)]).norm()
        assert off < 1e-3 * way
    trajectory = read_trajectory(tmp_path / "run")  # its own weights start uniform all the same
    first = reweight(
        torch.full((3,), 1 / 3, dtype=torch.float64), torch.tensor(trajectory.alignments[0]), eta=1.0, smoothing=1e-3
    )
    assert np.allclose(trajectory.weights[0], first, atol=1e-12)


def train_plainly(settings: Settings) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Slow twin of the reference run: one autograd pass a step on the weighted loss. Parameters, natural prior, and
    parameters before.
    """
    corpus = prepare_corpus(settings)
    length, train = corpus.row_tokens, settings.train
    model = build_model(
        settings.model, vocab_size=corpus.vocab_size, eos_id=corpus.eos_id, row_tokens=length, seed=settings.seed
    )
    start = [p.detach().clone() for p in model.parameters()]
    optimizer, scheduler = optimization(model, train)
    tokens = torch.tensor([len(corpus.tokens[name]) for name in NAMES])
    prior = tokens / tokens.sum()
    for step in range(train.steps):
        loss = torch.zeros(())
        for share, name in zip(prior, NAMES, strict=True):
            rows = step_rows(corpus.tokens[name], seed=0, domain=name, step=step, rows_per_step=4, row_tokens=length)
            loss = loss + share * slow_losses(model, torch.from_numpy(rows)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        scheduler.step()
    return [p.detach() for p in model.parameters()], prior, start


@pytest.mark.parametrize(("phase", "missing"), [(Stepper, [4, 5]), (DoremiStepper, [])], ids=["reference", "proxy"])
def test_resume_in_either_phase_gives_the_same_run_bit_for_bit(
    tmp_path: Path, phase: type, missing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path, update=DOREMI)
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    kill_at(monkeypatch, phase, 5, lambda: run(path))  # after the checkpoint of step 4, with step 5 done and unsaved
    made: list[int] = []
    plain = Stepper.__call__
    monkeypatch.setattr(Stepper, "__call__", lambda self, number, lr: (made.append(number), plain(self, number, lr))[1])
    assert run(path, "--resume") == 0
    assert made == missing  # only what the reference had not trained yet
    for part in ("reference", "."):
        assert same(read_trajectory(tmp_path / "whole" / part), read_trajectory(tmp_path / "run" / part))
        assert read_evaluation(tmp_path / "whole" / part).equals(read_evaluation(tmp_path / "run" / part))
    assert Mixture.load(tmp_path / "whole/mixture.json").weights_at(0) == Mixture.load(
        tmp_path / "run/mixture.json"
    ).weights_at(0)


def test_a_run_killed_before_the_reference_s_first_record_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    path = write_run(tmp_path, update=DOREMI, train={"steps": 2})
    with monkeypatch.context() as patch:
        patch.setattr("proxies.learn.train_reference", killed)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert not (tmp_path / "run" / "reference").exists()
    assert run(path, "--resume") == 0
    assert read_trajectory(tmp_path / "run" / "reference").steps.tolist() == [1, 2]
    before = read_trajectory(tmp_path / "run")
    assert before.steps.tolist() == [1, 2]
    shutil.rmtree(tmp_path / "run" / "reference")
    assert run(path, "--resume") == 0  # a finished run adds nothing and needs no reference any more
    assert same(before, read_trajectory(tmp_path / "run"))
    assert not (tmp_path / "run" / "reference").exists()


def test_the_record_of_a_run_replays_it(tmp_path: Path) -> None:
    assert run(write_run(tmp_path, update=DOREMI)) == 0
    assert run(tmp_path / "run" / "config.yaml", "--run_dir", tmp_path / "again") == 0
    assert same(read_trajectory(tmp_path / "run"), read_trajectory(tmp_path / "again"))
    assert run(tmp_path / "run" / "reference" / "config.yaml", "--run_dir", tmp_path / "alone") == 0
    assert same(read_trajectory(tmp_path / "run" / "reference"), read_trajectory(tmp_path / "alone"))


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    path = write_run(tmp_path, targets=True, update=DOREMI)
    one, other = alone_and_in_two_processes(path)
    assert np.abs(one.weights - other.weights).max() < 1e-6
    assert np.allclose(one.alignments, other.alignments, atol=1e-5)
    assert np.allclose(one.losses, other.losses, atol=1e-5)
    assert np.allclose(one.frame["gradient_norm"], other.frame["gradient_norm"], rtol=1e-4)


def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path) -> None:
    path, weights = write_run(tmp_path, update=DOREMI), []
    for accumulate in ("1", "2", "4"):
        directory = tmp_path / f"accumulate{accumulate}"
        assert run(path, "--train.accumulate", accumulate, "--run_dir", directory) == 0
        weights.append(read_trajectory(directory).weights)
    assert np.abs(weights[0] - weights[1]).max() < 1e-6
    assert np.abs(weights[0] - weights[2]).max() < 1e-6


def test_bf16_runs_and_stays_near_fp32(tmp_path: Path) -> None:
    path = write_run(tmp_path, update=DOREMI)
    assert run(path, "--run_dir", tmp_path / "fp32") == 0
    assert run(path, "--train.precision", "bf16", "--run_dir", tmp_path / "bf16") == 0
    one, other = read_trajectory(tmp_path / "fp32"), read_trajectory(tmp_path / "bf16")
    assert 0 < np.abs(one.losses - other.losses).max() < 0.05
    assert np.abs(one.weights - other.weights).max() < 0.01


@pytest.mark.parametrize(
    ("update", "found"),
    [
        ({"objective": {"digits": 1}}, "objective {'digits': 1.0}"),
        ({"aggregate": "worst"}, "aggregate worst"),
        ({"held_out": True, "objective": {"mixed": 1}}, "objective {'mixed': 1.0}, held_out True"),
    ],
)
def test_an_objective_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], update: dict, found: str
) -> None:
    said = message(capsys, write_run(tmp_path, targets=True, update={**DOREMI, **update}))
    for part in (
        f"preset doremi cannot use {found}:",
        "own excess loss over a reference model",
        "leave that out, or take preset stable",
    ):
        assert part in said
    assert not (tmp_path / "run").exists()


def test_constants_out_of_range_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = message(capsys, write_run(tmp_path, update=DOREMI), "--update.eta", "0", "--update.smoothing", "1.5")
    assert "update.eta: Input should be greater than 0 (found 0)" in said
    assert "update.smoothing: Input should be less than or equal to 1 (found 1.5)" in said


def test_constants_without_effect_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, train={"steps": 1}, update={**DOREMI, "objective": "universal"})
    assert run(path, "--update.mu", "0.05", "--update.floor", "0.1") == 0
    assert "update.mu, update.floor has no effect with preset doremi" in capsys.readouterr().out


def test_a_reference_left_behind_is_never_reused_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, update=DOREMI, train={"steps": 1})
    (tmp_path / "run" / "reference").mkdir(parents=True)
    assert "already holds a run (reference)" in message(capsys, path)


def test_a_reference_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    path = write_run(tmp_path, update=DOREMI, train={"steps": 1})
    with monkeypatch.context() as patch:
        patch.setattr(DoremiStepper, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    record = tmp_path / "run" / "reference" / "config.yaml"
    record.write_text(record.read_text().replace("lr: 0.01", "lr: 0.02"))
    said = message(capsys, path, "--resume")
    assert "reference was started with other settings" in said
    assert "train.lr: 0.02 -> 0.01" in said


@pytest.mark.parametrize(("model", "what"), [("model", "loss"), ("reference", "excess loss")])
def test_a_non_finite_loss_of_either_model_names_domain_and_step(tmp_path: Path, model: str, what: str) -> None:
    stepper = make_stepper(tmp_path)
    stepper.groups[1].tokens[:] = 3  # a token that only this domain has
    for group in (stepper.groups[0], stepper.groups[2]):
        group.tokens[group.tokens == 3] = 4
    broken = getattr(stepper, model)
    with torch.no_grad():
        broken.get_input_embeddings().weight[3] = torch.nan
    before, weights = values(stepper.model), stepper.state.weights
    with pytest.raises(
        UserError, match=rf"non-finite {what} at step 8: consonants \(nan\)\. The last checkpoint is from before it"
    ):
        stepper(7, 1e-3)
    assert torch.equal(stepper.state.weights, weights)
    assert all(
        torch.equal(p, before[name]) or name.endswith("embed_tokens.weight")
        for name, p in stepper.model.named_parameters()
    )


def test_a_non_finite_gradient_stops_before_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = make_stepper(tmp_path)
    first = next(stepper.model.parameters())
    first.register_hook(lambda gradient: gradient * torch.inf)
    before = values(stepper.model)
    with pytest.raises(UserError, match="non-finite combined gradient at step 1"):
        stepper(0, 1e-3)
    assert all(torch.equal(p, before[name]) for name, p in stepper.model.named_parameters())


def test_the_rule_of_alignments_does_not_take_it() -> None:
    gram = doge.Gram(torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    half = torch.full((2,), 0.5, dtype=torch.float64)
    arguments = {
        "prior": half,
        "objective": doge.Objective(half, half > 1),
        "lr": 1.0,
        "max_grad_norm": 1.0,
    }
    with pytest.raises(AssertionError, match="excess losses"):
        doge.update(gram, half, doge.start(half, 2), constants=doge.PRESETS["doremi"], **arguments)


def test_the_reference_reads_the_cache_of_its_run(tmp_path: Path) -> None:
    settings = load_settings(write_run(tmp_path, update={**DOREMI, "prior": "natural"}))
    own = reference_settings(settings)
    assert own.run_path == settings.run_path / "reference"
    assert own.corpus.cache_dir == str(tmp_path / "cache")
    assert (own.seed, own.model, own.train, own.constants.prior) == (
        settings.seed,
        settings.model,
        settings.train,
        "natural",
    )
