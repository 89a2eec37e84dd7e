"""200 steps of a tiny model with HF's Trainer, and with TRL's SFTTrainer, on the stream of our loader: what the model
saw.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hf_helpers import SMALLER, loader_in, record_inputs, small_tokenizer, tiny_model, write_rows

from mixtures.convert import convert

pytest.importorskip("transformers", reason="transformers is not installed")
ROW, BATCH, STEPS = 128, 64, 200
TOKENS = ROW * BATCH * STEPS


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert(
        toy.make_mixture(folder, tokens=TOKENS),
        to="hf",
        output=folder / "out",
        data=write_rows(folder, smaller=SMALLER),
    )
    return folder / "out"


def packed(batch: dict[str, list]) -> dict[str, list]:
    """Rows of ROW tokens, as HF's example scripts group texts; what is left of a batch of documents is dropped."""
    ids = np.concatenate(batch["input_ids"])
    rows = ids[: len(ids) // ROW * ROW].reshape(-1, ROW).tolist()
    return {"input_ids": rows, "labels": rows}


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    fixed = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "use_cpu": True,
    }
    return fixed | {"report_to": "none", "save_strategy": "no", "logging_steps": 50, "disable_tqdm": True} | more


def check_shares(directory: Path, ids: np.ndarray) -> None:
    """The token shares that the model saw, before and after the boundary, lie where the report says."""
    plan, report = (json.loads((directory / name).read_text()) for name in ("hf_mixture.json", "export_report.json"))
    assert len(ids) == TOKENS
    with loader_in(directory) as loader:
        lengths = [len(row["input_ids"]) for row in islice(loader.load_mixture(), plan["stages"][0]["rows"])]
    boundary = sum(lengths)
    assert boundary == pytest.approx(TOKENS / 2, rel=0.05)
    for part, stage, wanted in zip(
        (ids[:boundary], ids[boundary:]), report["stages"], (toy.WANTED, toy.SECOND), strict=True
    ):
        shares = toy.token_shares(part * SMALLER)
        assert shares == pytest.approx(wanted, abs=0.02)
        assert all(
            low - 0.005 <= shares[name] <= high + 0.005 for name, (low, high) in stage["token_shares_95"].items()
        )


def test_the_trainer_sees_both_stages_in_200_steps(converted, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = tiny_model()
    seen = record_inputs(model)
    with loader_in(converted) as loader:
        rows = loader.load_mixture().map(packed, batched=True, batch_size=1000, remove_columns=["input_ids"])
    trainer = Trainer(model, TrainingArguments(**settings(tmp_path)), train_dataset=rows)
    trainer.train()
    assert len(seen) == STEPS
    check_shares(converted, np.concatenate([batch.ravel() for batch in seen]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_sft_trainer_sees_both_stages_in_200_steps(converted, tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed")
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = tiny_model()
    seen = record_inputs(model)
    with loader_in(converted) as loader:
        rows = loader.load_mixture()
    packing = {
        "packing": True,
        "packing_strategy": "wrapped",
        "max_length": ROW,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer(tmp_path))
    SFTTrainer(
        model, args=SFTConfig(**settings(tmp_path / "run", **packing)), train_dataset=rows, processing_class=tokenizer
    ).train()
    assert len(seen) == STEPS
    check_shares(converted, np.concatenate([batch.ravel() for batch in seen]))


def test_a_resumed_trainer_sees_what_an_uninterrupted_one_sees(converted, tmp_path):
    from transformers import Trainer, TrainingArguments

    def run(steps: int, **resume: Any) -> list[np.ndarray]:
        model = tiny_model()
        seen = record_inputs(model)
        with loader_in(converted) as loader:
            rows = loader.load_mixture().map(packed, batched=True, batch_size=1000, remove_columns=["input_ids"])
        changed = {"max_steps": steps, "save_strategy": "steps", "save_steps": 5}
        Trainer(model, TrainingArguments(**settings(tmp_path, **changed)), train_dataset=rows).train(**resume)
        return seen

    begun = run(5)
    resumed = run(12, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    whole = run(12)
    assert np.array_equal(np.concatenate([*begun, *resumed]), np.concatenate(whole))
