"""Damage a run's records one fault at a time, and count what `--resume`, `proxies.score` and the readers do about each.

    python -m benchmarks.damage                  swaps with another run, flipped bits, lost files, kill -9
    python -m benchmarks.damage --hash 84        cost of the hashes, for a model of about 84 M parameters (1 GB)

Outcomes: `refused` (one message, exit 2), `healed` (the result is that of the undamaged run, and a line says so or the
file was written again), `other` (exit 0 and another result or another run's files in place), `crash` (traceback).
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from mixtures.errors import UserError
from mixtures.run.run import read_run
from mixtures.run.trajectory import read_trajectory
from mixtures.samples.scores import read_scores
from proxies import checkpoints
from proxies.score import main as score
from proxies.train import main as train
from tests.proxies.helpers import clean_environment, same, write_run

STEPS = ("step-00000004", "step-00000006")
SWAPS = (
    f"checkpoints/{STEPS[1]}/model.safetensors",
    f"checkpoints/{STEPS[1]}/state.pt",
    f"checkpoints/{STEPS[1]}",
    "trajectory/part-00000003-00000004.parquet",
    "trajectory",
    "evaluation/part-00000003-00000003.parquet",
    "evaluation",
    "scores",
)
FLIPS = tuple(f"checkpoints/{STEPS[1]}/{name}" for name in ("model.safetensors", "state.pt", "config.json"))
LOST = (
    f"checkpoints/{STEPS[1]}/config.json",
    "trajectory/part-00000005-00000006.parquet",
    "trajectory",
    "evaluation",
    "scores",
)


def quiet(command: Callable[[list[str]], int], *words: object) -> int:
    """Run a command in this process without its output; return its exit code."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return command([str(word) for word in words])


def make_two(folder: Path) -> None:
    """Train and score two runs of 6 steps that differ by their seed: `run` and `other`."""
    write_run(folder)
    for name, seed in (("run", 0), ("other", 1)):
        assert quiet(train, folder / "run.yaml", "--run_dir", folder / name, "--seed", seed) == 0
        assert quiet(score, folder / name, "--scores", "information") == 0


def is_same(one: Path, other: Path) -> bool:
    """Say whether two run directories hold the same results: records, scores, weights of the model and its moments."""
    runs = [read_run(path) for path in (one, other)]
    frames = [[read_scores(path).frame(name) for name in runs[0].trajectory.domains] for path in (one, other)]
    weights = [load_file(path / "checkpoints" / STEPS[1] / "model.safetensors") for path in (one, other)]
    states = [
        torch.load(path / "checkpoints" / STEPS[1] / "state.pt", weights_only=True)["optimizer"]["state"]
        for path in (one, other)
    ]
    return (
        same(runs[0].trajectory, runs[1].trajectory)
        and runs[0].evaluation.equals(runs[1].evaluation)
        and all(left.equals(right) for left, right in zip(*frames, strict=True))
        and all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
        and all(torch.equal(states[0][n][key], states[1][n][key]) for n in states[0] for key in states[0][n])
    )


def outcome(whole: Path, folder: Path, damage: Callable[[Path], None]) -> str:
    """Damage a copy of the run, resume and score it, and say what came of it."""
    run = whole / "run"
    kept = folder / "kept"
    shutil.copytree(run, kept)
    try:
        damage(run)
        codes = [
            quiet(train, whole / "run.yaml", "--run_dir", run, "--resume"),
            quiet(score, run, "--scores", "information"),
        ]
        return "refused" if any(codes) else "healed" if is_same(kept, run) else "other"
    except UserError:
        return "refused"
    except Exception as error:
        return f"crash ({type(error).__name__})"
    finally:
        shutil.rmtree(run)
        kept.rename(run)


def flip(path: Path, position: int) -> None:
    """Flip one bit of the byte at a position."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def lose(path: Path) -> None:
    """Remove a file or a directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def swap(whole: Path, name: str, run: Path) -> None:
    """Put the other run's file or directory in the place of the run's."""
    source, place = whole / "other" / name, run / name
    if source.is_dir():
        shutil.rmtree(place)
        shutil.copytree(source, place)
    else:
        shutil.copyfile(source, place)


def flips_of_a_part(whole: Path, positions: int) -> Counter[str]:
    """Flip a bit at evenly spread positions of a part of the trajectory, one at a time, and read the trajectory."""
    path = whole / "run" / "trajectory" / "part-00000003-00000004.parquet"
    content, before = path.read_bytes(), read_trajectory(whole / "run")
    grams = before.grams
    found: Counter[str] = Counter()
    for position in np.linspace(0, len(content) - 1, positions).astype(int).tolist():
        flip(path, position)
        try:
            read = read_trajectory(whole / "run")
            equal = read.frame.equals(before.frame) and np.array_equal(read.grams, grams)
            found["unnoticed, same values" if equal else "other"] += 1
        except UserError:
            found["refused"] += 1
        except Exception as error:
            found[f"crash ({type(error).__name__})"] += 1
        path.write_bytes(content)
    return found


def kills(folder: Path, moments: int) -> Counter[str]:
    """Kill a run of 150 steps at random moments, resume it, and compare it with one that was not killed."""
    folder.mkdir()
    path = write_run(folder, train={"steps": 150, "save_every": 2, "evaluate_every": 3})
    assert quiet(train, path, "--run_dir", folder / "whole") == 0
    whole, draw = read_trajectory(folder / "whole"), random.Random(0)
    found: Counter[str] = Counter()
    for number in range(moments):
        run = folder / f"killed-{number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "proxies.train", str(path), "--run_dir", str(run)],
            env=clean_environment() | {"ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        reached, until = run / "checkpoints" / f"step-{2 * draw.randrange(1, 74):08d}", time.monotonic() + 120
        while not reached.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed = process.wait() < 0
        step = max((path.name for path in checkpoints.checkpoints(run)), default="no checkpoint")
        code = quiet(train, path, "--run_dir", run, "--resume")
        last = "checkpoints/step-00000150/model.safetensors"
        weights = [load_file(folder / name / last) for name in ("whole", run.name)]
        equal = same(whole, read_trajectory(run)) and all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
        print(f"    kill {number}: {'killed' if killed else 'had ended'}, resumed from {step}, exit {code}, {equal=}")
        found["bit-equal" if equal and code == 0 else "other"] += 1
    return found


def hash_cost(millions: int) -> None:
    """Print the seconds of writing, hashing and loading a checkpoint, with and without an id."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import doge

    config = LlamaConfig(
        vocab_size=16_000, hidden_size=768, intermediate_size=2048, num_attention_heads=12, tie_word_embeddings=True,
        num_hidden_layers=max(1, round((millions * 1e6 - 16_000 * 768) / 7.1e6)),
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    parts = {"model": model, "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer)}
    rule = doge.start(torch.full((2,), 0.5), 2)
    for repeat in range(3):
        with tempfile.TemporaryDirectory(dir=os.environ.get("DAMAGE_DIR")) as folder:
            seconds = {}
            for name, run_id in (("without sums", None), ("with sums", "0123456789abcdef")):
                began = time.perf_counter()
                path = checkpoints.save(Path(folder, name), 1, run_id=run_id, **parts, rule=rule, keep=1)
                seconds[f"write {name}"] = time.perf_counter() - began
            size = sum(file.stat().st_size for file in path.iterdir())
            began = time.perf_counter()
            assert checkpoints.fault(path, run_id="0123456789abcdef") is None
            seconds["check at resume"] = time.perf_counter() - began
            began = time.perf_counter()
            checkpoints.load(path, **parts, device=torch.device("cpu"))
            seconds["load"] = time.perf_counter() - began
        print(f"{size / 1e9:.2f} GB, repeat {repeat}: " + ", ".join(f"{k} {v:.2f} s" for k, v in seconds.items()))


def main() -> None:
    """Run the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hash", type=int, metavar="MILLIONS", help="measure the hashes for a model of this size")
    parser.add_argument("--positions", type=int, default=400, help="positions of a part whose bits are flipped")
    parser.add_argument("--kills", type=int, default=10, help="moments of a kill")
    arguments = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    if arguments.hash:
        hash_cost(arguments.hash)
        return
    with tempfile.TemporaryDirectory() as place:
        whole, spare = Path(place, "whole"), Path(place)
        whole.mkdir()
        make_two(whole)
        for name in SWAPS:
            print(f"swap  {name}: {outcome(whole, spare, lambda run, name=name: swap(whole, name, run))}", flush=True)
        for path in (*FLIPS, "corpus.json"):
            size = (whole / "run" / path).stat().st_size
            found = Counter(
                outcome(whole, spare, lambda run, at=at, path=path: flip(run / path, at))
                for at in np.linspace(0, size - 1, 12).astype(int).tolist()
            )
            print(f"flip  {path}, 12 positions: {dict(found)}", flush=True)
        for name in LOST:
            print(f"lost  {name}: {outcome(whole, spare, lambda run, name=name: lose(run / name))}", flush=True)
        found = flips_of_a_part(whole, arguments.positions)
        print(f"flip  a trajectory part, {arguments.positions} positions: {dict(found)}", flush=True)
        print(f"kill  {dict(kills(Path(place, 'kills'), arguments.kills))}", flush=True)


if __name__ == "__main__":
    main()
