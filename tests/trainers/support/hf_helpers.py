"""What the tests of HF's trainers share: the toy documents as files of rows, a tiny model, and a record of what a model
saw.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import toy

SMALLER = 256  # toy ids are divided by this for the tiny model: 256 ids, 64 a domain


def write_rows(folder: Path, *, smaller: int = 1) -> str:
    """Rows {"input_ids"} of every document, as parquet; the words of --data."""
    for name in toy.NAMES:
        pq.write_table(
            pa.table({"input_ids": [ids // smaller for ids in toy.documents(name)]}), folder / f"{name}.parquet"
        )
    return f"{folder}/{{domain}}.parquet"


def write_texts(folder: Path) -> str:
    """Rows {"text", "url"} of every document as JSON lines, in words of the ids divided by SMALLER; the words of
    --data.
    """
    for name in toy.NAMES:
        texts = (" ".join(f"w{token // SMALLER}" for token in ids[:-1]) for ids in toy.documents(name))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text, "url": name}) + "\n" for text in texts))
    return f"{folder}/{{domain}}.jsonl"


def small_tokenizer(folder: Path) -> Path:
    """A directory with the tokenizer of these words; the end of text is id 0."""
    record = json.loads(toy.word_tokenizer(folder).read_text())
    record["model"]["vocab"] = {toy.END_OF_TEXT: 0, "<unk>": 1} | {
        f"w{token}": token for token in range(2, toy.VOCABULARY // SMALLER)
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": toy.END_OF_TEXT, "pad_token": toy.END_OF_TEXT}
    (folder / "tokenizer").mkdir()
    for name, content in (("tokenizer.json", record), ("tokenizer_config.json", config)):
        (folder / "tokenizer" / name).write_text(json.dumps(content))
    return folder / "tokenizer"


def check_rows(rows: int, tokens: int) -> None:
    """Before they are read: so many documents can be `tokens` tokens."""
    assert rows < tokens / 40, f"{rows:,} documents are no {tokens:,} tokens"


@contextmanager
def loader_in(directory: Path) -> Iterator[ModuleType]:
    """The module that a user imports from the directory."""
    sys.path.insert(0, str(directory))
    invalidate_caches()
    sys.modules.pop("hf_loader", None)
    try:
        yield import_module("hf_loader")
    finally:
        sys.path.remove(str(directory))


def flat(dataset: Any) -> np.ndarray:
    """All token ids of the rows of a Dataset."""
    return pa.chunked_array(dataset.with_format("arrow")["input_ids"]).combine_chunks().flatten().to_numpy()


def tiny_model(vocabulary: int = toy.VOCABULARY // SMALLER) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, **sizes)
    )


def record_inputs(model: Any) -> list[np.ndarray]:
    """A list that every forward pass in training appends its (rows, tokens) to."""
    seen: list[np.ndarray] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        if module.training:
            seen.append(kwargs["input_ids"].numpy().copy())

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return seen
