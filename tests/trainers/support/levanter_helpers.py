"""Data as Levanter keeps it, and Levanter's own reader of our YAML."""

import json
from pathlib import Path

import draccus
import numpy as np
import toy
from levanter.main.train_lm import TrainLmConfig
from levanter.store.cache import SerialCacheWriter

LENGTH = 128


def write_data(folder: Path, *, divisor: int = 1) -> Path:
    """A cache of every domain, as Levanter's tokenization leaves it, and the tokenizer. divisor: of every token id."""
    toy.word_tokenizer(folder)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": toy.END_OF_TEXT,
        "model_input_names": ["input_ids"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in toy.NAMES:
        with SerialCacheWriter(str(folder / name / "train"), {"input_ids": np.zeros(0, dtype=np.int32)}) as writer:
            writer.write_batch(
                [{"input_ids": (document // divisor).astype(np.int32)} for document in toy.documents(name)]
            )
    return folder


def read(path: Path) -> TrainLmConfig:
    """A YAML by Levanter's own reader."""
    with open(path) as file:
        return draccus.load(TrainLmConfig, file)
