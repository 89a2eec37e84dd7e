"""`proxies.preflight`: a model that sees later tokens is refused, whatever its mode; a causal one passes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mixtures.errors import UserError
from proxies.models import build_model
from proxies.preflight import require_causal
from proxies.settings import Model
from tests.proxies.helpers import MODEL, TWO_WAY

ROW = 32
BERT = {**TWO_WAY, "model_type": "bert", "hidden_dropout_prob": 0.3}
REMBERT = {**TWO_WAY, "model_type": "rembert", "input_embedding_size": 16, "output_embedding_size": 16}
DROPPING = {**MODEL, "attention_dropout": 0.5}
GPT2 = {**MODEL, "model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5}


def built(folder: Path, values: dict[str, Any]) -> PreTrainedModel:
    path = folder / "model.json"
    path.write_text(json.dumps(values))
    return build_model(Model(config=str(path)), vocab_size=257, eos_id=256, row_tokens=ROW, seed=0)


@pytest.mark.parametrize("values", [TWO_WAY, BERT, REMBERT], ids=lambda values: values["model_type"])
def test_a_model_that_sees_later_tokens_is_refused_until_it_decodes(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'sees later tokens.*set "is_decoder": true in its config\.json') as caught:
        require_causal(built(tmp_path, values), row_tokens=ROW, source="model.config model.json")
    assert str(caught.value).startswith("model.config model.json (")
    require_causal(built(tmp_path, {**values, "is_decoder": True}), row_tokens=ROW, source="")


@pytest.mark.parametrize("values", [MODEL, DROPPING, GPT2], ids=["llama", "dropout", "gpt2"])
def test_a_causal_model_passes_and_keeps_its_mode(tmp_path: Path, values: dict[str, Any]) -> None:
    for training in (True, False):
        model = built(tmp_path, values).train(training)
        require_causal(model, row_tokens=ROW, source="")
        assert all(module.training is training for module in model.modules())


def test_a_model_without_a_decoder_mode_is_named_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(tmp_path, MODEL)
    forward = type(model).forward

    def leaking(self: PreTrainedModel, input_ids: Any, use_cache: bool) -> Any:
        output = forward(self, input_ids=input_ids)
        output.logits = output.logits + output.logits.mean(1, keepdim=True)
        return output

    monkeypatch.setattr(type(model), "forward", leaking)
    with pytest.raises(UserError, match=r"use a causal model, e\.g\. of model_type llama or gpt2"):
        require_causal(model, row_tokens=ROW, source="")


def test_a_model_that_cannot_compute_a_row_is_refused_by_its_keys(tmp_path: Path) -> None:
    model = built(tmp_path, {**MODEL, "model_type": "mistral", "num_attention_heads": 4})
    with pytest.raises(UserError, match=r"cannot compute a row of 32 tokens: RuntimeError: ") as caught:
        require_causal(model, row_tokens=ROW, source="model.config model.json")
    assert "num_key_value_heads is 8; it must divide num_attention_heads, which is 4" in str(caught.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_a_full_device_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    model = built(tmp_path, MODEL)

    def full(*words: object, **values: object) -> None:
        raise error

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(type(error)):
        require_causal(model, row_tokens=ROW, source="")
