"""Kinds of files of a run, kinds of damage to a file, and the commands that read it, with what each must give."""

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtures.errors import UserError
from tests.faults.helpers import Ended, do, mixture_result, run_result, scores_result

Change = Callable[[bytes, random.Random], bytes | None]
Act = Callable[[Path], tuple[Ended, Callable[[], Any]]]
SAMPLES = ("--samples", "softmax", "--score", "word_embedding")


def _flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]


DAMAGES: dict[str, Change] = {
    "bit flipped": _flipped,
    "truncated": lambda content, draw: content[: draw.randrange(1, len(content))],
    "zeros": _zeroed,
    "emptied": lambda content, draw: b"",
    "removed": lambda content, draw: None,
}
REPLACED = "of another run"


def resume(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Finish the run, as after a kill."""
    return do("proxies.train", home / "run.yaml", "--resume", "auto"), lambda: run_result(home / "run")


def train(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Make the run once more, with the token caches that are there."""
    return do("proxies.train", home / "run.yaml", "--run_dir", home / "again"), lambda: run_result(home / "again")


def score(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Score the run's documents from the beginning."""
    shutil.rmtree(home / "run/scores")
    return rescore(home)


def rescore(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Score what is missing."""
    return do("proxies.score", home / "run"), lambda: scores_result(home / "run")


def export(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Export the run's mixture."""
    path = home / "exported.json"
    return do("mixtures.__main__", "export", home / "run", "-o", path), lambda: mixture_result(path)


def export_samples(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Export the run's mixture with sample weights."""
    path = home / "weighted.json"
    return do("mixtures.__main__", "export", home / "run", "-o", path, *SAMPLES), lambda: mixture_result(path)


def report(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Write the run's report, whose figures are those of its tables."""
    ended = do("mixtures.__main__", "report", home / "run")
    return ended, lambda: hashlib.sha256((home / "run/report.html").read_bytes()).hexdigest()


def check(home: Path) -> tuple[Ended, Callable[[], Any]]:
    """Check a mixture with manifests."""
    return do("mixtures.__main__", "check", home / "sampled.json"), lambda: mixture_result(home / "sampled.json")


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it is, whether the run was interrupted, and who reads it."""

    pattern: str
    interrupted: bool
    acts: tuple[Act, ...]


def _both(name: str, pattern: str, *acts: Act) -> dict[str, Kind]:
    return {f"{name}, interrupted": Kind(pattern, True, (resume,)), name: Kind(pattern, False, acts)}


KINDS: dict[str, Kind] = {
    "weights": Kind("run/checkpoints/step-00000004/model.safetensors", True, (resume,)),
    "optimizer": Kind("run/checkpoints/step-00000004/state.pt", True, (resume,)),
    "model's config": Kind("run/checkpoints/step-00000004/config.json", True, (resume,)),
    "last weights": Kind("run/checkpoints/step-00000006/model.safetensors", False, (score,)),
    **_both("trajectory part", "run/trajectory/part-00000003-*.parquet", export, report),
    **_both("evaluation part", "run/evaluation/part-00000000-*.parquet", report),
    **_both("corpus.json", "run/corpus.json", export, score, report),
    **_both("config.yaml", "run/config.yaml", export, score),
    **_both("tokenizer.json", "run/tokenizer.json", score),
    "scores part": Kind("run/scores/part-000001.parquet", False, (export_samples, rescore)),
    "scores' meta.json": Kind("run/scores/meta.json", False, (export_samples, rescore)),
    "mixture.json": Kind("sampled.json", False, (check,)),
    "manifest": Kind("sampled.samples/*vowels*", False, (check,)),
    "train tokens": Kind("cache/vowels-*/train.bin", False, (train, score)),
    "held-out tokens": Kind("cache/vowels-*/held_out.bin", False, (train,)),
    "document table": Kind("cache/vowels-*/documents.parquet", False, (score,)),
    "cache's meta.json": Kind("cache/vowels-*/meta.json", False, (train, score)),
}


def damage(home: Path, kind: Kind, name: str, *, other: Path, draw: random.Random) -> None:
    """Damage the file of this kind in `home`; REPLACED takes the same file of `other`. Its content changes."""
    (path,) = home.glob(kind.pattern)
    content = path.read_bytes()
    if name == REPLACED:
        (source,) = other.glob(kind.pattern)
        changed: bytes | None = source.read_bytes()
        assert changed != content or path.name in ("tokenizer.json", "config.json", "corpus.json"), path
    else:
        while (changed := DAMAGES[name](content, draw)) == content:
            pass
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)


def outcome(act: Act, home: Path, expected: Any) -> str:
    """Run the command and say what came of the damage: refused, healed, or what is wrong."""
    ended, result = act(home)
    if ended.code:
        return f"refused: {ended.error}"
    try:
        return "same" if result() == expected else "WRONG: another result"
    except (UserError, OSError, ValueError) as error:
        return f"WRONG: exit 0, and then {error}"
