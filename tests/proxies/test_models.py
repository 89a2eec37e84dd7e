"""`proxies.models`: no weight is drawn that was to be read, and every mistake in a config gets one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

import doge
from mixtures.errors import UserError
from proxies import checkpoints, models
from proxies.models import build_model
from proxies.settings import Model
from tests.proxies.helpers import MODEL

Weights = dict[str, torch.Tensor]


def llama(*, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(1)
    values = {name: value for name, value in MODEL.items() if name != "model_type"}
    return LlamaForCausalLM(LlamaConfig(**values | {"tie_word_embeddings": tied, "num_hidden_layers": 2}))


def built(folder: Path, *, seed: int = 0) -> PreTrainedModel:
    return build_model(Model(pretrained=str(folder)), vocab_size=257, eos_id=256, row_tokens=16, seed=seed)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        built(folder)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_weights_with_a_wrappers_prefix_are_refused(tmp_path: Path, prefix: str) -> None:
    llama().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {prefix + name: value for name, value in weights.items()})
    said = refusal(tmp_path)
    assert said.startswith(f"model.pretrained {tmp_path} does not have all weights of a LlamaForCausalLM")
    assert "missing (21): lm_head.weight, model.embed_tokens.weight, " in said
    assert " and 16 more" in said
    assert f"in the file but not in the model (21): {prefix}lm_head.weight" in said
    assert f"the names begin with {prefix!r}" in said


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    LlamaModel(llama().config).save_pretrained(tmp_path)
    said = refusal(tmp_path)
    assert "missing (1): lm_head.weight\nsave the whole model, with its head" in said


def test_weights_without_a_layer_are_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {k: v for k, v in weights.items() if ".layers.1." not in k})
    said = refusal(tmp_path)
    assert "missing (9): model.layers.1.input_layernorm.weight" in said
    assert "not in the model" not in said


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    model.config.vocab_size = 300
    model.config.save_pretrained(tmp_path)
    assert "of another shape (2): lm_head.weight is (257, 16), not (300, 16)" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_half_written_file_of_weights_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    llama().config.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path)
    assert said.startswith(f"model.pretrained {tmp_path} cannot be loaded: ")
    assert "give a directory with a config.json and whole weights" in said


@pytest.mark.parametrize("tied", [False, True])
def test_whole_weights_are_read_whatever_the_seed(tmp_path: Path, tied: bool) -> None:
    model = llama(tied=tied)
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    for name, value in built(tmp_path, seed=2).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_tied_head_may_be_absent_from_a_model_without_head(tmp_path: Path) -> None:
    model = LlamaModel(llama(tied=True).config)
    model.save_pretrained(tmp_path)
    assert torch.equal(built(tmp_path).lm_head.weight, model.embed_tokens.weight)


def test_a_checkpoint_that_lacks_weights_does_not_resume(tmp_path: Path) -> None:
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    rule = doge.start(torch.full((2,), 0.5), 2)
    path = checkpoints.save(tmp_path, 3, run_id=None, **parts, rule=rule, keep=1)
    assert checkpoints.load(path, **parts)[0] == 3
    rewrite(path, lambda weights: {k: v for k, v in weights.items() if k != "lm_head.weight"})
    with pytest.raises(UserError, match=r"its weights lack lm_head\.weight.*--resume from the checkpoint before it"):
        checkpoints.load(path, **parts)


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # the weights of a model on meta cannot be loaded
def test_adams_step_is_on_the_cpu_after_a_resumption(tmp_path: Path) -> None:
    def parts(device: str) -> dict[str, Any]:
        model = llama().to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        return {"model": model, "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer)}

    trained = parts("cpu")
    for parameter in trained["model"].parameters():
        parameter.grad = torch.ones_like(parameter)
    trained["optimizer"].step()
    rule = doge.start(torch.full((2,), 0.5), 2)
    path = checkpoints.save(tmp_path, 1, run_id=None, **trained, rule=rule, keep=1)
    resumed = parts("meta")
    assert checkpoints.load(path, **resumed)[1].weights.device.type == "cpu"
    for moments in resumed["optimizer"].state.values():
        assert (moments["step"].device.type, moments["exp_avg_sq"].device.type) == ("cpu", "meta")


def config_refusal(folder: Path, values: object) -> str:
    path = folder / "model.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        build_model(Model(config=str(path)), vocab_size=257, eos_id=256, row_tokens=16, seed=0)
    said = str(caught.value)
    assert said.startswith(f"model.config {path} ")
    return said


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"num_attention_heads": 3}, "num_attention_heads is 3; it must divide hidden_size, which is 16"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must divide hidden_size, which is 16"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads is 3; it must divide num_attention",
        ),
        ({"model_type": "gpt2", "num_attention_heads": 3}, "num_attention_heads is 3; it must divide hidden_size"),
        ({"num_hidden_layers": "2"}, "'num_hidden_layers' expected int, got str (value: '2')"),
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers 1000000000; allowed: 1 to 10,000"),
        ({"num_hidden_layers": -1}, "has num_hidden_layers -1; allowed: 1 to 10,000"),
        ({"vocab_size": "257"}, "'vocab_size' expected int, got str"),
        ({"attention_dropout": 1e300}, "attention_dropout is 1e+300; allowed: 0 to 1"),
        ({"attention_dropout": None}, "attention_dropout is None; allowed: 0 to 1"),
        ({"vocab_size": "9" * 10**6}, "'vocab_size' expected int, got str"),
        ({"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; allowed: gelu, "),
        ({"pad_token_id": 151643}, "pad_token_id is 151643, beyond the vocabulary; allowed: 0 to 256, or null"),
        ({"rope_parameters": {"rope_type": "none", "rope_theta": 1.0}}, "rope_parameters.rope_type is 'none', which"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation is 'flash_attention_2'; without further"),
        ({"attn_implementation": "fast"}, "attn_implementation is 'fast'; without further packages"),
        ({"dtype": "float99"}, "float99"),
        ({"hidden_size": -4}, "negative dimension -4"),
        ({"model_type": "t5"}, "model_type t5, for which transformers has an encoder and a decoder; use a decoder"),
        ({"model_type": "vit"}, "model_type vit, for which transformers has no causal language model"),
        ({"model_type": ["llama"]}, "is not a Hugging Face config: model_type is ['llama']; give JSON with"),
        ({"model_type": "gemma3"}, "several parts (text_config, vision_config); give the text model alone"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_in_a_config_is_one_message(tmp_path: Path, changed: dict[str, Any], part: str) -> None:
    assert part in config_refusal(tmp_path, MODEL | changed)


def test_keys_are_named_as_the_model_type_calls_them(tmp_path: Path) -> None:
    values = {"model_type": "gpt2", "vocab_size": 257, "n_embd": 34, "n_layer": 1}
    assert "n_head is 12; it must divide n_embd, which is 34" in config_refusal(tmp_path, values)


@pytest.mark.parametrize("values", [[1], "llama", {}])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, values: object) -> None:
    assert "is not a Hugging Face config: " in config_refusal(tmp_path, values)


def test_a_pretrained_config_is_checked_before_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**MODEL, "num_attention_heads": 3}))
    said = refusal(tmp_path)
    assert said.startswith(f"model.pretrained {tmp_path} cannot be loaded: ")
    assert "num_attention_heads is 3; it must divide hidden_size, which is 16" in said
    assert said.endswith(f"correct {tmp_path / 'config.json'}")


def test_a_mistake_of_our_own_is_no_fault_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL))

    def broken(*words: object, **values: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(models, "_check", broken)
    with pytest.raises(KeyError, match="ours"):
        build_model(Model(config=str(path)), vocab_size=257, eos_id=256, row_tokens=16, seed=0)


def test_a_config_nested_too_deeply_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text('{"model_type": "llama", "tree": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(UserError, match="is not a Hugging Face config: its brackets are nested too deeply"):
        build_model(Model(config=str(path)), vocab_size=257, eos_id=256, row_tokens=16, seed=0)
