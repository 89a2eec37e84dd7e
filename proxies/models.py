"""Proxy models: a preset size, any Hugging Face config, or a pretrained directory; and their optimizer."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedModel

from mixtures.errors import UserError
from mixtures.files import unique_keys
from proxies.settings import Loop, Model


def _llama(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "tie_word_embeddings": True,
    }


# The sizes without embeddings follow Llama's proportions. With a vocabulary of 4,096, llama-1m, llama-5m and llama-25m
# have 1.3 M, 5.0 M and 24 M parameters. gpt2-82m is the proxy of the DoGE paper (6 layers, hidden size 768). gpt2-82m
# and llama-125m have the size in their names with a vocabulary of 50,257.
PRESETS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama-1m": (LlamaConfig, _llama(128, 4, 4, 344)),
    "llama-5m": (LlamaConfig, _llama(256, 5, 4, 688)),
    "llama-25m": (LlamaConfig, _llama(512, 7, 8, 1376)),
    "llama-125m": (LlamaConfig, _llama(768, 12, 12, 2048)),
    "gpt2-82m": (
        GPT2Config,
        {"n_embd": 768, "n_layer": 6, "n_head": 12, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
}


def build_model(settings: Model, *, vocab_size: int, eos_id: int, row_tokens: int, seed: int) -> PreTrainedModel:
    """Return the proxy model in float32 on the CPU, in training mode.

    Its weights are drawn from `seed`, or read from the pretrained directory, which must have all of them. Raises
    UserError for an unknown preset, an unreadable config or directory, weights that lack a parameter or have it in
    another shape, a vocabulary smaller than the tokenizer's, and fewer positions than a row has tokens.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(seed)
    if settings.pretrained:
        model = _pretrained(settings.pretrained, settings.source)
        _check(model.config, settings.source, vocab_size=vocab_size, row_tokens=row_tokens)
    else:
        config = _config(settings, vocab_size=vocab_size, eos_id=eos_id, row_tokens=row_tokens)
        _check(config, settings.source, vocab_size=vocab_size, row_tokens=row_tokens)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.train()


def _pretrained(directory: str, where: str) -> PreTrainedModel:
    """Load the model of a directory. Raises UserError if transformers would draw some of its weights at random."""
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
        raise UserError(
            f"{where} cannot be loaded: {error}; give a directory with a config.json and whole weights, as "
            "save_pretrained writes it"
        ) from error
    missing, unexpected = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    others = [f"{name} is {(*was,)}, not {(*now,)}" for name, was, now in sorted(loaded["mismatched_keys"])]
    if not missing and not others:
        return model
    lines = [f"{where} does not have all weights of a {type(model).__name__} with its config.json:"]
    lines += [f"  {line}" for line in (_some("missing", missing), _some("of another shape", others)) if line]
    lines += [f"  {line}" for line in (_some("in the file but not in the model", unexpected),) if line]
    prefixes = {name.removesuffix(lost) for lost in missing[:1] for name in unexpected if name.endswith("." + lost)}
    lines.append(
        f"the names begin with {min(prefixes)!r}, as a wrapper (torch.compile, DistributedDataParallel) names them: "
        "save the model inside the wrapper with save_pretrained"
        if prefixes
        else "save the whole model, with its head, with save_pretrained (AutoModelForCausalLM), or draw new weights: "
        "model.config with its config.json"
    )
    raise UserError("\n".join(lines))


def _some(what: str, names: list[str], *, most: int = 5) -> str:
    """Return a line with the number of names and the first of them; "" without names."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} ({len(names)}): {', '.join(names[:most])}{rest}" if names else ""


def _config(settings: Model, *, vocab_size: int, eos_id: int, row_tokens: int) -> PretrainedConfig:
    if settings.preset:
        if settings.preset not in PRESETS:
            raise UserError(f"model.preset is {settings.preset!r}; allowed: {', '.join(PRESETS)}")
        kind, values = PRESETS[settings.preset]
        return kind(
            **values,
            vocab_size=vocab_size,
            max_position_embeddings=max(1024, row_tokens),
            bos_token_id=eos_id,
            eos_token_id=eos_id,
            use_cache=False,
        )
    path = Path(settings.config)
    try:
        values = json.loads(path.read_text(), object_pairs_hook=unique_keys(path))
        return AutoConfig.for_model(values.pop("model_type"), **values)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"model.config {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"model.config {path} is not a Hugging Face config (JSON with a known model_type): "
            f"{type(error).__name__}: {error}"
        ) from error


def _check(config: PretrainedConfig, where: str, *, vocab_size: int, row_tokens: int) -> None:
    if config.vocab_size < vocab_size:
        raise UserError(
            f"{where} has a vocabulary of {config.vocab_size}, the tokenizer has {vocab_size} tokens; "
            f"use a tokenizer of at most {config.vocab_size} tokens (corpus.tokenizer) or raise the model's vocab_size"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < row_tokens:
        raise UserError(
            f"{where} has {positions} positions, corpus.row_tokens is {row_tokens}; "
            f"set corpus.row_tokens to at most {positions} or raise the model's positions"
        )


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def optimization(model: nn.Module, train: Loop) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and its learning-rate schedule: linear warm-up, then a cosine down to `train.min_lr`.

    Weight decay acts on matrices, not on biases and norm gains.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=train.lr)
    scheduler = transformers.get_scheduler(
        "cosine_with_min_lr",
        optimizer,
        num_warmup_steps=train.warmup_steps,
        num_training_steps=train.steps,
        scheduler_specific_kwargs={"min_lr": train.min_lr},
    )
    return optimizer, scheduler
