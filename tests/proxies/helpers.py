"""Small runs: generated text in three languages of letters, raw bytes, a model of a few thousand parameters."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState

from mixtures.run.trajectory import Trajectory, read_trajectory
from mixtures.sums import NAME, add_sums
from proxies.corpus.corpus import CorpusData, prepare
from proxies.settings import Settings
from proxies.train import main
from tests.faults.helpers import do_two

REPOSITORY = Path(__file__).parents[2]
MODEL = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
TWO_WAY = {**MODEL, "model_type": "electra", "embedding_size": 16, "pad_token_id": 0}  # not causal
ALPHABETS = {"vowels": "aeiou ", "consonants": "bcdfgh ", "digits": "0123456789 ", "mixed": "aeiou bcd "}


def write_domain(path: Path, alphabet: str, *, documents: int = 40, seed: int = 0) -> Path:
    """A jsonl file of random words."""
    draw = random.Random(f"{seed}{alphabet}")
    lines = [json.dumps({"text": "".join(draw.choice(alphabet) for _ in range(120))}) for _ in range(documents)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_run(folder: Path, *, targets: bool = False, held_out: float = 0.3, **blocks: dict[str, Any]) -> Path:
    """A run's YAML file with its data beside it; `blocks` replace or extend train, update, model, corpus."""
    names = ("vowels", "consonants", "digits")
    domains = {name: {"data_files": str(write_domain(folder / f"{name}.jsonl", ALPHABETS[name]))} for name in names}
    corpus: dict[str, Any] = {"tokenizer": {"bytes": True}, "row_tokens": 16, "held_out": held_out, "domains": domains}
    if targets:
        corpus["targets"] = {"mixed": {"data_files": str(write_domain(folder / "mixed.jsonl", ALPHABETS["mixed"]))}}
    (folder / "model.json").write_text(json.dumps(MODEL))
    settings = {
        "run_dir": "run",
        "corpus": corpus | blocks.pop("corpus", {}),
        "model": {"config": "model.json"},
        "train": {
            "steps": 6,
            "rows_per_domain": 4,
            "lr": 0.01,
            "min_lr": 0.001,
            "warmup_steps": 2,
            "save_every": 2,
            "evaluate_every": 3,
            "evaluate_rows": 4,
        }
        | blocks.pop("train", {}),
        **blocks,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def prepare_corpus(settings: Settings, *, draws: Mapping[str, int] | None = None) -> CorpusData:
    """The corpus of a run's settings; `draws` replaces what the run reads of some domains."""
    return prepare(settings.corpus, settings.cache_path, settings.draws | dict(draws or {}))


def run(*arguments: str | Path, command: Callable[[Sequence[str]], int] = main) -> int:
    """`proxies.train`, or another command, in this process, alone; its exit code.

    The test needs the fixture `fresh_accelerator`.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    return command([str(word) for word in arguments])


def message(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, command: Callable[[Sequence[str]], int] = main
) -> str:
    """What a failing command says on stderr; it exits with 2 and leaves no traceback."""
    capsys.readouterr()
    assert run(*arguments, command=command) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def forget_id(run_dir: Path) -> None:
    """Make the run one of an earlier version, without an id: nothing of it is checked."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["environment"].pop("run_id", None)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def seal(directory: Path) -> None:
    """Write the sums of a directory again, so that its files count as unchanged."""
    run_id = (directory / NAME).read_text().split()[2]
    add_sums(
        directory, [path.name for path in directory.iterdir() if path.is_file() and path.name != NAME], run_id=run_id
    )


def same(one: Trajectory, other: Trajectory) -> bool:
    """Bit for bit, but for the clock."""
    columns = [name for name in one.frame.columns if name != "tokens_per_second"]
    return one.frame[columns].equals(other.frame[columns]) and np.array_equal(one.grams, other.grams, equal_nan=True)


def config_of(processes: int) -> tuple[str, str]:
    """The launcher's options for one or two processes without a GPU: the file that we ship."""
    return "--config_file", str(REPOSITORY / "launch" / "accelerate" / f"cpu{processes}.yaml")


def launch(
    *arguments: str | Path,
    options: Sequence[str],
    environment: Mapping[str, str] | None = None,
    module: str = "proxies.train",
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch OPTIONS -m MODULE ARGUMENTS`, as a person types it."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        *options,
        "-m",
        module,
        *map(str, arguments),
    ]
    variables = {**clean_environment(), "ACCELERATE_USE_CPU": "true", **(environment or {})}
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=240)


def clean_environment() -> dict[str, str]:
    """This process's environment with one thread and no coverage of the launcher's own variables."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", "PYTHONPATH": str(REPOSITORY)}


def kill_at(monkeypatch: pytest.MonkeyPatch, stepper: type, step: int, act: Callable[[], object]) -> None:
    """Run `act`, which is killed when the stepper comes to step number `step` (from 0): that step and what follows is
    not made.
    """
    made = stepper.__call__

    def killed(self: object, number: int, lr: float) -> object:
        if number == step:
            raise KeyboardInterrupt
        return made(self, number, lr)

    with monkeypatch.context() as patch:
        patch.setattr(stepper, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            act()


def alone_and_in_two_processes(path: Path) -> tuple[Trajectory, Trajectory]:
    """What a run's YAML file records in one process, in `one` beside it, and in two gloo processes, in `two`."""
    directory = path.parent
    assert run(path, "--run_dir", directory / "one") == 0
    two = do_two("proxies.train", path, "--run_dir", directory / "two")
    assert two.code == 0, two
    assert "2 process(es)" in two.said
    return read_trajectory(directory / "one"), read_trajectory(directory / "two")
