"""Small comparisons: the generated domains and the model of train_helpers, runs of a few steps."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from accelerate.state import AcceleratorState

from mixtures.samples.scores import (
    Checkpoint,
    ScoredDomain,
    ScoresMeta,
    table_schema,
    write_meta,
    write_part,
)
from proxies.compare import main
from proxies.comparison.settings import CompareSettings
from proxies.config import load
from proxies.corpus.corpus import prepare
from tests.proxies.helpers import write_run

FIXED = {"uniform": {"fixed": "uniform"}, "natural": {"fixed": "natural"}}


def write_comparison(folder: Path, **blocks: Any) -> Path:
    """A comparison's YAML on the three generated domains; `blocks` replace it, or extend train and corpus."""
    run = yaml.safe_load(write_run(folder, targets=blocks.pop("targets", False)).read_text())
    settings = {
        "run_dir": "comparison",
        "seeds": [0],
        "corpus": run["corpus"] | blocks.pop("corpus", {}),
        "model": run["model"],
        "train": {
            "steps": 6,
            "batch_rows": 4,
            "lr": 0.01,
            "min_lr": 0.001,
            "warmup_steps": 2,
            "evaluate_every": 3,
            "evaluate_rows": 4,
        }
        | blocks.pop("train", {}),
        "proxy": {"train": run["train"]},
        "mixtures": FIXED,
        **blocks,
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def compare(*arguments: str | Path) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)
    return main([str(word) for word in arguments])


def message(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a failing command says on stderr; it exits with 2 and leaves no traceback."""
    capsys.readouterr()
    assert compare(*arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def results(folder: Path, name: str = "comparison") -> pd.DataFrame:
    return pd.read_parquet(folder / name / "results.parquet")


def stamps(folder: Path) -> dict[Path, int]:
    """Modification times of the files that only a base run or a proxy run writes."""
    parts = ("bases", "learned", "mixtures")
    return {
        path: path.stat().st_mtime_ns
        for part in parts
        for path in (folder / part).rglob("*.*")
        if path.suffix != ".lock"
    }


def write_scores(comparison: Path, run_dir: Path, *, seed: int = 0) -> Path:
    """Random scores `luck` of all documents of a comparison's training text, as proxies.score leaves them in a run
    directory.
    """
    settings = load(CompareSettings, comparison)
    corpus = prepare(settings.text, Path(settings.text.cache_dir), settings.draws)
    draw, domains = np.random.default_rng(seed), {}
    for number, name in enumerate(corpus.domains):
        frame = pd.read_parquet(corpus.documents[name]).query("split == 'train'")
        columns = {
            "domain": name,
            "document": frame["id"],
            "row": None,
            "start": frame["start"],
            "tokens": frame["tokens"],
        }
        table = pd.DataFrame({**columns, "luck": draw.normal(size=len(frame))}).astype({"row": "Int64"})
        write_part(run_dir, number, pa.Table.from_pandas(table, schema=table_schema(("luck",)), preserve_index=False))
        entry, count, tokens = corpus.entry(name), len(frame), int(frame["tokens"].sum())
        domains[name] = ScoredDomain(
            fingerprint=entry["fingerprint"],
            documents=count,
            tokens=entry["tokens"],
            scored_documents=count,
            scored_tokens=tokens,
            samples=count,
            parts=1,
        )
    meta = ScoresMeta(
        unit="document",
        scores=("luck",),
        checkpoints=(Checkpoint(step=6, lr=0.001),),
        max_rows=None,
        row_tokens=corpus.row_tokens,
        tokenizer=corpus.record["tokenizer"]["fingerprint"],
        domains=domains,
        complete=True,
    )
    write_meta(run_dir, meta)
    return run_dir


def write_language(path: Path, *, seed: int, documents: int = 120) -> None:
    """Texts of 20 made-up words, each followed by one of three: something to learn."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(3, 6))) for _ in range(20)]
    after = {word: draw.sample(words, 3) for word in words}
    lines = []
    for _ in range(documents):
        text = [draw.choice(words)]
        while len(text) < 25:
            text.append(draw.choice(after[text[-1]]))
        lines.append(json.dumps({"text": " ".join(text)}))
    path.write_text("\n".join(lines) + "\n")
