"""Tiny models of many families, and the slow twin: one autograd pass a domain."""

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from doge.grouped import row_losses

transformers.logging.set_verbosity_error()

VOCAB, TOKENS = 97, 12
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
OPT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "word_embed_proj_dim": 32,
    "dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

# name: (model_type, values). The families that the product promises, tied and untied, with and without biases, and
# families that no line of doge/ knows by name.
FAMILIES: dict[str, tuple[str, dict]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied": ("gpt2", {**GPT2, "tie_word_embeddings": False}),
    "llama": ("llama", {**GROUPED, "tie_word_embeddings": False}),
    "llama-tied-bias": ("llama", {**GROUPED, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "gpt-neox": ("gpt_neox", SMALL),
    "opt": ("opt", OPT),
    "opt-untied-projected": ("opt", {**OPT, "tie_word_embeddings": False, "word_embed_proj_dim": 16}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "mistral": ("mistral", GROUPED),
    "gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "phi": ("phi", SMALL),
    "unforeseen-gemma2": ("gemma2", {**GROUPED, "head_dim": 8}),
    "unforeseen-olmo2": ("olmo2", GROUPED),
    "unforeseen-stablelm": ("stablelm", GROUPED),
    "unforeseen-granite": ("granite", GROUPED),
}


def make_model(family: str = "llama-tied-bias", *, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A tiny model whose every parameter is moved off its initial value (zero biases would hide a missing term)."""
    kind, values = FAMILIES[family]
    torch.manual_seed(seed)
    config: PretrainedConfig = transformers.AutoConfig.for_model(kind, **values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.to(dtype)


def make_rows(count: int, *, seed: int = 1, tokens: int = TOKENS) -> Tensor:
    """Random rows with repeated tokens, int64 (count, tokens)."""
    rows = torch.randint(2, VOCAB, (count, tokens), generator=torch.Generator().manual_seed(seed))
    rows[:, 3] = rows[:, 1]
    rows[:, -2] = rows[0, 0]
    return rows


def slow_gradients(model: nn.Module, rows: Tensor, groups: int) -> dict[str, Tensor]:
    """Gradient of each group's mean token loss by one autograd pass a group: name -> (G, *shape)."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    passes = []
    for part in rows.view(groups, -1, rows.shape[1]):
        gradients = torch.autograd.grad(row_losses(model, part).mean(), list(named.values()), allow_unused=True)
        passes.append([torch.zeros_like(p) if g is None else g for g, p in zip(gradients, named.values(), strict=True)])
    return {name: torch.stack([one[i] for one in passes]) for i, name in enumerate(named)}


def slow_gram(model: nn.Module, rows: Tensor, groups: int) -> Tensor:
    """(G, G) in float64."""
    flat = torch.cat([g.flatten(1) for g in slow_gradients(model, rows, groups).values()], 1).double()
    return flat @ flat.T
