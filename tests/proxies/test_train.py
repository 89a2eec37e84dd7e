"""proxies.train as a person runs it: records, resume, processes, and what it says when something is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError

from mixtures import Mixture
from mixtures.run.evaluation import read_evaluation
from mixtures.run.trajectory import read_trajectory
from proxies import checkpoints
from proxies.step import Stepper
from tests.proxies.helpers import (
    ALPHABETS,
    MODEL,
    REPOSITORY,
    TWO_WAY,
    alone_and_in_two_processes,
    clean_environment,
    config_of,
    forget_id,
    kill_at,
    launch,
    message,
    run,
    same,
    write_domain,
    write_run,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.usefixtures("pictures")
def test_a_run_leaves_the_records_of_the_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_run(tmp_path, targets=True)) == 0
    directory = tmp_path / "run"
    trajectory, evaluation = read_trajectory(directory), read_evaluation(directory)
    assert trajectory.domains == ("vowels", "consonants", "digits")
    assert trajectory.groups == ("vowels", "consonants", "digits", "mixed")
    assert trajectory.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert trajectory.tokens[-1] == 6 * 3 * 4 * 16
    assert np.allclose(trajectory.weights.sum(1), 1, atol=1e-12)
    for values in (
        trajectory.losses,
        trajectory.alignments,
        trajectory.norms,
        trajectory.self_products,
        trajectory.grams,
    ):
        assert np.isfinite(values).all()
    assert np.allclose(trajectory.alignments.shape, (6, 3))
    assert sorted(set(evaluation["step"])) == [0, 3, 6]
    assert set(evaluation["domain"]) == set(trajectory.groups)
    assert np.allclose(evaluation[evaluation["step"] == 0]["loss"], np.log(257), rtol=0.02)
    bits = evaluation["bits_per_byte"] / evaluation["loss"] * np.log(2)  # one token a byte, and one end of text per 120
    assert np.allclose(bits, 121 / 120)
    mixture = Mixture.load(directory / "mixture.json")
    assert mixture.provenance.uncertainty is not None
    assert mixture.provenance.uncertainty.mean[0] == pytest.approx(
        dict(zip(trajectory.domains, trajectory.weights.mean(0), strict=True))
    )
    assert (directory / "replicates.parquet").exists()
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["environment"]["world_size"] == 1
    assert config["train"]["weight_decay"] == 0.1  # also what the file left out
    assert [path.name for path in checkpoints.checkpoints(directory)] == ["step-00000004", "step-00000006"]
    assert len(list((directory / "plots").glob("*.png"))) >= 4
    assert json.loads((directory / "tokenizer.json").read_text())
    assert json.loads((directory / "corpus.json").read_text())["domains"][3]["role"] == "target"
    printed = capsys.readouterr().out
    for part in ("1 process(es) on cpu", "mixed for the objective", "learned weight", "mixture.json", "weights.png"):
        assert part in printed


def test_the_record_of_a_run_replays_it(tmp_path: Path) -> None:
    assert run(write_run(tmp_path)) == 0
    assert run(tmp_path / "run" / "config.yaml", "--run_dir", tmp_path / "again") == 0
    assert same(read_trajectory(tmp_path / "run"), read_trajectory(tmp_path / "again"))


@pytest.mark.parametrize(
    "update",
    [{"preset": "stable"}, {"preset": "official", "held_out": True}, {"geometry": "adam", "aggregate": "worst"}],
)
def test_resume_gives_the_same_trajectory_bit_for_bit(
    tmp_path: Path, update: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path, update=update)
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    kill_at(monkeypatch, Stepper, 5, lambda: run(path))  # after the checkpoint of step 4, with step 5 done and unsaved
    assert read_trajectory(tmp_path / "run").steps.tolist() == [1, 2, 3, 4]
    assert run(path, "--resume") == 0
    whole, resumed = read_trajectory(tmp_path / "whole"), read_trajectory(tmp_path / "run")
    assert same(whole, resumed)
    assert read_evaluation(tmp_path / "whole").equals(read_evaluation(tmp_path / "run"))
    last = [
        torch.load(tmp_path / name / "checkpoints/step-00000006/state.pt", weights_only=True)
        for name in ("whole", "run")
    ]
    for one, other in zip(*(state["optimizer"]["state"].values() for state in last), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert Mixture.load(tmp_path / "whole/mixture.json").weights_at(0) == Mixture.load(
        tmp_path / "run/mixture.json"
    ).weights_at(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_its_step_and_it_resumes_bit_for_bit(
    tmp_path: Path, number: int, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path, train={"save_every": 6})
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    made = Stepper.__call__

    def stepping(self: Stepper, step: int, lr: float) -> object:
        if step == 2:
            os.kill(os.getpid(), number)
        return made(self, step, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", stepping)
        assert run(path) == code
    name = signal.Signals(number).name
    assert (
        f"stopped by {name} after step 3 of 6, with its checkpoint; continue with --resume" in capsys.readouterr().err
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert read_trajectory(tmp_path / "run").steps.tolist() == [1, 2, 3]
    assert run(path, "--resume") == 0
    assert same(read_trajectory(tmp_path / "whole"), read_trajectory(tmp_path / "run"))


def test_resume_auto_starts_a_run_and_continues_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path)
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    kill_at(monkeypatch, Stepper, 5, lambda: run(path, "--resume", "auto"))
    assert run(path, "--resume", "auto") == 0
    assert same(read_trajectory(tmp_path / "whole"), read_trajectory(tmp_path / "run"))


def test_a_preempted_launch_of_two_processes_leaves_a_checkpoint(tmp_path: Path) -> None:
    path = write_run(tmp_path, train={"steps": 4000, "save_every": 4000, "evaluate_every": 4000})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *config_of(2), "-m", "proxies.train"]
    variables = {**clean_environment(), "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen([*command, str(path)], cwd=REPOSITORY, env=variables, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (tmp_path / "run/config.yaml").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2)
    process.terminate()  # as a cluster preempts: the launcher hands it on to both processes
    said = process.communicate(timeout=120)[1]
    newest = checkpoints.newest(tmp_path / "run")
    assert newest is not None, said
    assert newest.name == f"step-{len(read_trajectory(tmp_path / 'run').steps):08d}"


def test_a_killed_process_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    path = write_run(tmp_path, train={"steps": 400, "save_every": 5, "evaluate_every": 400})
    command = [sys.executable, "-m", "proxies.train", str(path)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not checkpoints.checkpoints(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = checkpoints.newest(tmp_path / "run")
    assert newest is not None
    reached = int(newest.name.removeprefix("step-"))
    assert 0 < reached < 400
    assert run(path, "--resume") == 0
    assert read_trajectory(tmp_path / "run").steps.tolist() == list(range(1, 401))


@pytest.mark.parametrize("update", [{"preset": "stable"}, {"preset": "official"}])
def test_two_processes_give_the_weights_of_one(tmp_path: Path, update: dict) -> None:
    path = write_run(tmp_path, targets=True, update=update)
    one, other = alone_and_in_two_processes(path)
    assert np.abs(one.weights - other.weights).max() < 1e-6
    assert np.allclose(one.grams, other.grams, rtol=1e-3, atol=1e-5)
    assert np.allclose(one.losses, other.losses, atol=1e-5)
    config = yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())
    assert config["environment"]["world_size"] == 2


def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    weights = []
    for accumulate in (1, 2, 4):
        directory = tmp_path / f"accumulate{accumulate}"
        assert run(path, "--train.accumulate", str(accumulate), "--run_dir", directory) == 0
        weights.append(read_trajectory(directory).weights)
    assert np.abs(weights[0] - weights[1]).max() < 1e-6
    assert np.abs(weights[0] - weights[2]).max() < 1e-6


def test_bf16_runs_and_stays_near_fp32(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert run(path, "--run_dir", tmp_path / "fp32") == 0
    assert run(path, "--train.precision", "bf16", "--run_dir", tmp_path / "bf16") == 0
    one, other = read_trajectory(tmp_path / "fp32"), read_trajectory(tmp_path / "bf16")
    assert np.abs(one.losses - other.losses).max() < 0.05
    assert np.abs(one.weights - other.weights).max() < 0.05


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    assert run(path) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    said = message(capsys, path)
    for part in ("already holds a run", "--resume", "--run_dir"):
        assert part in said
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_resume_with_changed_settings_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    assert run(path) == 0
    said = message(capsys, path, "--resume", "--train.lr", "0.02", "--update.tau", "3", "--train.timeout", "60")
    assert "train.lr: 0.01 -> 0.02" in said
    assert "update.tau: None -> 3.0" in said
    assert "timeout" not in said  # it changes no result


def test_resume_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run to resume" in message(capsys, write_run(tmp_path), "--resume")


def test_resume_on_changed_text_says_which_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    assert run(path) == 0
    write_domain(tmp_path / "digits.jsonl", ALPHABETS["digits"], seed=1)
    assert "digits changed since the run started" in message(capsys, path, "--resume")


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
def test_resume_without_an_id_names_a_torn_checkpoint_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    assert run(path) == 0
    forget_id(tmp_path / "run")
    torn = tmp_path / "run" / "checkpoints" / "step-00000002" / file
    torn.write_bytes(torn.read_bytes()[:100])
    said = message(capsys, path, "--resume")
    assert "step-00000002 cannot be read" in said
    assert "remove that directory and --resume from the checkpoint before it" in said


def test_resuming_a_finished_run_adds_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    assert run(path) == 0
    before = read_trajectory(tmp_path / "run")
    assert run(path, "--resume") == 0
    assert same(before, read_trajectory(tmp_path / "run"))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**MODEL, "vocab_size": 200}))
    said = message(capsys, path)
    assert "vocabulary of 200, the tokenizer has 257 tokens" in said
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_positions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = message(capsys, write_run(tmp_path, corpus={"row_tokens": 64}))
    assert "has 32 positions, corpus.row_tokens is 64; set corpus.row_tokens to at most 32" in said


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "is not a Hugging Face config"),
        ('{"model_type": "nothing"}', "nothing"),
        ('{"model_type": "llama", "model_type": "gpt2"}', "model.json gives model_type twice in one object"),
    ],
)
def test_a_broken_model_config_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, part: str
) -> None:
    path = write_run(tmp_path)
    (tmp_path / "model.json").write_text(content)
    said = message(capsys, path)
    assert part in said
    assert "model.json" in said


def test_a_run_with_a_model_that_sees_later_tokens_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(TWO_WAY))
    said = message(capsys, path)
    assert "sees later tokens" in said
    assert 'set "is_decoder": true in its config.json' in said
    assert not (tmp_path / "run").exists()
    (tmp_path / "model.json").write_text(json.dumps({**TWO_WAY, "is_decoder": True}))
    assert run(path) == 0


@pytest.mark.parametrize(
    ("error", "said_of_it"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ("No space left", "free some disk space")),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), ("Read-only", "this file system cannot be written")),
        (SafetensorError("I/O error: No space left on device"), ("No space left", "free some disk space")),
    ],
    ids=["full", "read-only", "safetensors"],
)
def test_a_disk_that_refuses_a_checkpoint_keeps_the_last_good_one(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said_of_it: tuple[str, str],
) -> None:
    path, save = write_run(tmp_path), torch.save

    def full(state: dict, target: Path) -> None:
        if state["step"] == 4:
            Path(target).write_bytes(b"half")
            raise error
        save(state, target)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        said = message(capsys, path)
    for part in (
        "step-00000004 could not be written",
        *said_of_it,
        "last good checkpoint",
        "step-00000002",
        "--resume",
    ):
        assert part in said
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert run(path, "--resume") == 0
    assert run(path, "--run_dir", tmp_path / "whole") == 0
    assert same(read_trajectory(tmp_path / "whole"), read_trajectory(tmp_path / "run"))


def test_a_full_disk_while_writing_records_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_run(tmp_path)
    monkeypatch.setattr("mixtures.run.trajectory.TrajectoryWriter.flush", full)
    assert "records of" in message(capsys, path)


def test_a_non_finite_gram_names_domain_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from doge.gram import Gram, GramSum

    result = GramSum.result

    def poisoned(self: GramSum) -> Gram:
        gram = result(self)
        gram.products[2, 2] = torch.inf
        return gram

    path = write_run(tmp_path)
    monkeypatch.setattr(GramSum, "result", poisoned)
    assert "non-finite squared gradient norm at step 1: digits (inf)" in message(capsys, path)
    assert checkpoints.newest(tmp_path / "run") is None


def test_a_non_finite_loss_names_domain_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from doge import algorithm

    backward, calls = algorithm.grouped_backward, []

    def poisoned(*arguments: object, **names: object) -> torch.Tensor:
        losses = backward(*arguments, **names)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 3:
            losses[1] = torch.nan
        return losses

    path = write_run(tmp_path)
    monkeypatch.setattr(algorithm, "grouped_backward", poisoned)
    assert "non-finite loss at step 3: consonants (nan)" in message(capsys, path)
    assert checkpoints.newest(tmp_path / "run").name == "step-00000002"  # type: ignore[union-attr]


def test_processes_that_did_not_form_a_group_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = type("Alone", (), {"num_processes": 1})()
    monkeypatch.setattr("proxies.learn.make_accelerator", lambda *_, **options: alone)
    said = message(capsys, path)
    for part in ("started 2 processes, but this one sees 1", "did not form a group", "cpu2.yaml"):
        assert part in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, --multi_gpu does form a group")
def test_a_real_launch_of_two_strangers_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    done = launch(path, options=("--multi_gpu", "--num_processes", "2"), environment={"ACCELERATE_USE_CPU": "false"})
    assert done.returncode != 0
    assert "started 2 processes, but this one sees 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_tracker_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = message(capsys, write_run(tmp_path), "--train.tracker", "wandb")
    assert "pip install wandb" in said


def test_held_out_objective_rows_are_not_those_of_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, update={"objective": {"digits": 1}, "held_out": True})
    said = message(capsys, path, "--train.evaluate_rows", "10000")
    assert "held-out rows of digits beside the 10000" in said
    assert run(path) == 0
    assert read_trajectory(tmp_path / "run").groups[-1] == "digits@held_out"


def test_constants_without_effect_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_run(tmp_path, train={"steps": 1}), "--update.mu", "0.05") == 0
    assert "update.mu has no effect with preset stable" in capsys.readouterr().out


def test_the_command_alone_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "usage: accelerate launch -m proxies.train RUN.yaml" in printed
    assert "--update.tau" in printed
    assert "the run's YAML file comes first" in message(capsys, "--train.steps", "3")
