"""The trainers in docs/examples train from a mixture.json and a token cache: shares, resume, processes."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mixtures import Mixture
from tests.proxies.helpers import ALPHABETS, REPOSITORY, clean_environment, run, write_run

EXAMPLES = REPOSITORY / "docs" / "examples"
ROW, BATCH, STEPS = 16, 8, 30  # tokens, rows a step, steps of the whole schedule
SHARES = [
    {"vowels": 0.7, "consonants": 0.2, "digits": 0.1},
    {"vowels": 0.1, "consonants": 0.2, "digits": 0.7},
]  # of each half
TOLERANCE = 1e-5  # nats; what another order of the same float32 sums may change

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "no_gpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes cannot share one GPU, and a GPU's sums differ by more than TOLERANCE."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proxy run with its token cache and model.json; mixture.json is the run's with shares that cannot be
    mistaken.
    """
    folder = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert run(write_run(folder, update={"preset": "uniform"})) == 0
    record = Mixture.load(folder / "run" / "mixture.json").model_dump(mode="json", exclude={"id", "checks", "expected"})
    record["horizon"]["total_tokens"] = STEPS * BATCH * ROW
    record["stages"] = [
        {"name": f"half-{half}", "start_tokens": half * STEPS * BATCH * ROW // 2, "weights": weights}
        for half, weights in enumerate(SHARES)
    ]
    Mixture.from_record(record, where="test").save(folder / "mixture.json")
    return folder


class Watch:
    """The rows that the models of an example are given; `stop_at`: the batch at which the process is killed."""

    def __init__(self, example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[torch.Tensor] = []
        self.stop_at: int | None = None
        build: Callable[..., torch.nn.Module] = example.AutoModelForCausalLM.from_config

        def watched(*arguments: object) -> torch.nn.Module:
            model = build(*arguments)
            model.register_forward_pre_hook(self._look, with_kwargs=True)
            return model

        monkeypatch.setattr(example.AutoModelForCausalLM, "from_config", watched)

    def _look(self, module: torch.nn.Module, positional: tuple, named: dict[str, torch.Tensor]) -> None:
        if len(self.rows) == self.stop_at:
            raise KeyboardInterrupt
        self.rows.append(named["input_ids"].clone())

    def domains(self) -> list[str]:
        """The domain of every row, told by its letters."""
        texts = [bytes(row[row < 256].tolist()).decode() for row in torch.cat(self.rows)]
        letters = {name: set(ALPHABETS[name]) - {" "} for name in SHARES[0]}
        return [next(name for name in letters if letters[name] & set(text)) for text in texts]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def plain_words(job: Path, out: Path, *more: str | Path) -> list[str]:
    words = [
        job / "mixture.json",
        job / "cache",
        "--model",
        job / "model.json",
        "--out",
        out,
        "--row-tokens",
        ROW,
        "--batch-rows",
        BATCH,
    ]
    return [str(word) for word in (*words, *more)]


def hf_words(job: Path, out: Path, *more: str | Path, rows: int = BATCH) -> list[str]:
    words = [
        "--mixture",
        job / "mixture.json",
        "--cache",
        job / "cache",
        "--model",
        job / "model.json",
        "--output_dir",
        out,
    ]
    words += [
        "--row_tokens",
        ROW,
        "--per_device_train_batch_size",
        rows,
        "--logging_steps",
        1,
        "--save_steps",
        10,
        "--learning_rate",
        1e-2,
    ]
    return [str(word) for word in (*words, "--use_cpu", "--report_to", "none", "--disable_tqdm", "True", *more)]


def launched(name: str, words: list[str]) -> str:
    """What two processes of an example print."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        EXAMPLES / f"{name}.py",
        *words,
    ]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stream_state(out: Path, step: int) -> dict:
    """The state of the stream that the Hugging Face Trainer saved."""
    return json.loads((out / f"checkpoint-{step}" / "stream.json").read_text())


def assert_shares(domains: list[str], printed: str) -> None:
    half = STEPS * BATCH // 2
    for part, shares in zip((domains[:half], domains[half:]), SHARES, strict=True):
        for name, share in shares.items():
            assert abs(part.count(name) - share * half) <= 1, (name, part.count(name), share * half)
    for name in SHARES[0]:
        assert f"{name}: {domains.count(name) * ROW} tokens, {domains.count(name) / len(domains):.4f} of all" in printed


def test_the_plain_trainer_trains_on_the_tokens_that_the_mixture_says(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = example("plain_trainer")
    watch = Watch(plain, monkeypatch)
    losses = plain.main(plain_words(job, tmp_path))
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.1
    assert_shares(watch.domains(), capsys.readouterr().out)


def test_a_killed_plain_trainer_goes_on_with_the_next_row_bit_for_bit(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = example("plain_trainer")
    watch = Watch(plain, monkeypatch)
    whole = plain.main(plain_words(job, tmp_path / "whole"))
    rows = torch.cat(watch.rows)
    watch.rows, watch.stop_at = [], 17  # step 18 is under way, the checkpoint is of step 10
    with pytest.raises(KeyboardInterrupt):
        plain.main(plain_words(job, tmp_path / "killed", "--save-every", "10"))
    watch.rows, watch.stop_at = [], None
    assert plain.main(plain_words(job, tmp_path / "killed", "--resume", "--workers", "2")) == whole[10:]
    assert torch.equal(torch.cat(watch.rows), rows[10 * BATCH :])
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "killed")]
    assert states[0]["rows"] == states[1]["rows"]
    assert all(torch.equal(states[0]["model"][name], tensor) for name, tensor in states[1]["model"].items())


def test_two_processes_resume_one_plain_trainers_state_with_its_losses(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = example("plain_trainer")
    one = plain.main(plain_words(job, tmp_path / "one"))
    watch = Watch(plain, monkeypatch)
    watch.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        plain.main(plain_words(job, tmp_path / "two", "--save-every", "2"))
    printed = launched(
        "plain_trainer", plain_words(job, tmp_path / "two", "--save-every", "1", "--resume", "--workers", "2")
    )
    losses = [float(loss) for loss in re.findall(rf"step \d+ of {STEPS}: loss (\S+)", printed)]
    assert losses == pytest.approx(one[2:], abs=TOLERANCE)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True)["rows"] for name in ("one", "two")]
    assert states[0] == states[1]


def test_plain_trainer_never_overwrites_runs_and_refuses_uneven_splits(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = example("plain_trainer")
    (tmp_path / "state.pt").touch()
    with pytest.raises(SystemExit, match="there already: pass --resume"):
        plain.main(plain_words(job, tmp_path))
    with pytest.raises(SystemExit, match="nothing to resume"):
        plain.main(plain_words(job, tmp_path / "new", "--resume"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="give a multiple of 3"):
        plain.main(plain_words(job, tmp_path / "new"))


def test_the_hugging_face_trainer_reads_the_mixtures_tokens_and_resumes(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = example("hf_trainer")
    watch = Watch(hf, monkeypatch)
    whole = hf.main(hf_words(job, tmp_path / "whole"))
    assert len(whole) == STEPS
    assert whole[-1] < whole[0] - 0.1
    assert_shares(watch.domains(), capsys.readouterr().out)
    rows, watch.rows = torch.cat(watch.rows), []
    checkpoint = tmp_path / "whole" / "checkpoint-10"
    resumed = hf.main(
        hf_words(job, tmp_path / "resumed", "--resume_from_checkpoint", checkpoint, "--dataloader_num_workers", "2")
    )
    assert torch.equal(torch.cat(watch.rows), rows[10 * BATCH :])
    assert resumed == whole
    assert stream_state(tmp_path / "whole", STEPS) == stream_state(tmp_path / "resumed", STEPS)


def test_two_processes_of_the_hugging_face_trainer_have_the_losses_of_one(job: Path, tmp_path: Path) -> None:
    one = example("hf_trainer").main(hf_words(job, tmp_path / "one"))
    launched("hf_trainer", hf_words(job, tmp_path / "two", "--dataloader_num_workers", "2", rows=BATCH // 2))
    record = json.loads((tmp_path / "two" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    assert [entry["loss"] for entry in record["log_history"] if "loss" in entry] == pytest.approx(one, abs=TOLERANCE)
    assert stream_state(tmp_path / "one", STEPS) == stream_state(tmp_path / "two", STEPS)


def test_accumulated_batches_of_the_hugging_face_trainer_are_the_same_rows(job: Path, tmp_path: Path) -> None:
    hf = example("hf_trainer")
    one = hf.main(hf_words(job, tmp_path / "one"))
    two = hf.main(hf_words(job, tmp_path / "two", "--gradient_accumulation_steps", "2", rows=BATCH // 2))
    assert two == pytest.approx(one, abs=TOLERANCE)
    assert stream_state(tmp_path / "one", 10) == stream_state(tmp_path / "two", 10)
    assert stream_state(tmp_path / "two", 10)["position"] == 10 * BATCH


def test_the_examples_use_nothing_of_this_project_but_mixtures() -> None:
    for path in EXAMPLES.glob("*.py"):
        packages = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
        assert "mixtures" in packages
        assert not packages & {"doge", "proxies"}, path
