"""A tiny Llama, trained by Levanter's own train_lm on our YAML: the shares of what the model saw."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml

from mixtures.convert import convert

pytest.importorskip("levanter.data.mixture", reason="levanter 1.2.dev1644 is not installed")

from levanter_helpers import LENGTH, write_data

TINY = {
    "type": "llama",
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_heads": 2,
    "num_kv_heads": 2,
    "num_layers": 1,
    "seq_len": LENGTH,
}
HUGGING_FACE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Every token is the number of its domain, so that the model needs an embedding for each domain only."""
    write_data(tmp_path, divisor=toy.SPAN)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    record["model"]["vocab"] = {
        toy.END_OF_TEXT: 0,
        **{name: 1 + number for number, name in enumerate(toy.NAMES)},
        "<unk>": 4,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
    return tmp_path


def test_a_model_sees_both_stages_in_their_shares(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sequence_length": LENGTH, "batch_size": 16, "tokenizer": str(data)}
    convert(toy.make_mixture(tmp_path), to="levanter", output=tmp_path / "out", data=f"{data}/{{domain}}", **options)
    record = yaml.safe_load((tmp_path / "out" / "levanter.yaml").read_text())
    record["model"] = TINY | {"reference_checkpoint": str(data)}
    record["trainer"] |= {
        "tracker": {"type": "noop"},
        "require_accelerator": False,
        "ray": {"auto_start_cluster": False},
    }
    record["trainer"] |= {
        "checkpointer": {"base_path": str(tmp_path / "checkpoints")},
        "log_dir": str(tmp_path / "logs"),
    }
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(record))
    words = [
        sys.executable,
        Path(__file__).parent / "support" / "levanter_train.py",
        tmp_path / "whole.yaml",
        tmp_path / "seen.npy",
    ]
    done = subprocess.run(words, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert (tmp_path / "seen.npy").is_file(), done.stderr[-3000:]
    seen = np.load(tmp_path / "seen.npy")
    assert len(seen) == 195
    for wanted, part in ((toy.WANTED, seen[:98]), (toy.SECOND, seen[98:])):
        assert all(abs((part == 1 + number).mean() - wanted[name]) < 0.005 for number, name in enumerate(toy.NAMES))
