"""Proxy models: a preset size, any Hugging Face config, or a pretrained directory; and their optimizer."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from mixtures.errors import UserError, quoted
from mixtures.files import TOO_DEEP, unique_keys
from proxies.model_faults import ERRORS, cause, explicit_faults, faults
from proxies.settings import Loop, Model

MOST_LAYERS = 10_000


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
    UserError for an unknown preset, a config or directory that transformers cannot use or that is not of a causal
    language model of text, weights that lack a parameter or have it in another shape, a vocabulary smaller than the
    tokenizer's, and fewer positions than a row has tokens.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(seed % 2**63)
    if settings.pretrained:
        path, values = Path(settings.pretrained) / "config.json", {}
        try:
            values, _ = PretrainedConfig.get_config_dict(settings.pretrained)
            config = AutoConfig.from_pretrained(settings.pretrained)
        except ERRORS as error:
            raise _refused(f"{settings.source} cannot be loaded", error, values, path) from error
        _check(config, values, settings.source, vocab_size=vocab_size, row_tokens=row_tokens)
        return _pretrained(settings.pretrained, settings.source, values).train()
    if settings.preset:
        config, values = _preset(settings.preset, vocab_size=vocab_size, eos_id=eos_id, row_tokens=row_tokens), {}
    else:
        config, values = _config(Path(settings.config))
    _check(config, values, settings.source, vocab_size=vocab_size, row_tokens=row_tokens)
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ERRORS as error:
        raise _refused(f"{settings.source} cannot be built", error, values, settings.config) from error
    return model.train()


def _refused(what: str, error: Exception, values: dict[str, Any], path: Path | str) -> UserError:
    """Return the UserError for what transformers refuses: its cause in a line, and the keys of config.json to blame."""
    kind = CONFIG_MAPPING[name] if (name := str(values.get("model_type"))) in CONFIG_MAPPING else None
    blamed = faults(values, error, kind)
    return UserError(f"{what}: {cause(error)}{blamed}\ncorrect {path}")


def _pretrained(directory: str, where: str, values: dict[str, Any]) -> PreTrainedModel:
    """Load the model of a directory. Raises UserError if transformers would draw some of its weights at random."""
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except ERRORS as error:
        raise UserError(
            f"{where} cannot be loaded: {cause(error)}{faults(values, error)}\ngive a directory with a config.json and "
            "whole weights, as save_pretrained writes it"
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
        f"the names begin with {quoted(min(prefixes))}, as a wrapper (torch.compile, DistributedDataParallel) "
        f"names them: "
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


def _preset(name: str, *, vocab_size: int, eos_id: int, row_tokens: int) -> PretrainedConfig:
    if name not in PRESETS:
        raise UserError(f"model.preset is {quoted(name)}; allowed: {', '.join(PRESETS)}")
    kind, values = PRESETS[name]
    return kind(
        **values,
        vocab_size=vocab_size,
        max_position_embeddings=max(1024, row_tokens),
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        use_cache=False,
    )


def _config(path: Path) -> tuple[PretrainedConfig, dict[str, Any]]:
    """Return the config of a config.json, and the file's content."""
    try:
        values = json.loads(path.read_text(), object_pairs_hook=unique_keys(path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"model.config {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"model.config {path} is not a Hugging Face config: {TOO_DEEP}; give the right file") from error
    except ValueError as error:
        raise UserError(f"model.config {path} is not a Hugging Face config: it is not JSON ({error})") from error
    if not isinstance(values, dict) or str(values.get("model_type")) not in CONFIG_MAPPING:
        kind = quoted(values.get("model_type")) if isinstance(values, dict) else ""
        found = f"model_type is {kind}" if kind else "it is not an object"
        raise UserError(
            f"model.config {path} is not a Hugging Face config: {found}; give JSON with a model_type that transformers "
            "knows, e.g. llama or gpt2"
        )
    try:
        return AutoConfig.for_model(**values), values
    except ERRORS as error:
        raise _refused(f"model.config {path} cannot be built", error, values, path) from error


def _check(config: PretrainedConfig, values: dict[str, Any], where: str, *, vocab_size: int, row_tokens: int) -> None:
    """Check that a config is of a causal language model of text, with enough tokens and positions.

    `values` is the content of its config.json; empty for a preset.
    """
    parts = [name for name in getattr(config, "sub_configs", {}) if getattr(config, name, None) is not None]
    if "text_config" in parts:
        raise UserError(
            f"{where} is a model of several parts ({', '.join(parts)}); give the text model alone: the keys of its "
            f"text_config, whose model_type is {config.text_config.model_type}, as a config.json"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = "an encoder and a decoder" if config.is_encoder_decoder else "no causal language model"
        raise UserError(
            f"{where} has model_type {config.model_type}, for which transformers has {what}; use a decoder that "
            "predicts the next token, e.g. of model_type llama or gpt2"
        )
    if blamed := explicit_faults(values, type(config)):
        raise UserError(f"{where} cannot be built:{blamed}\ncorrect it")
    layers = getattr(config, "num_hidden_layers", 1)
    if isinstance(layers, int) and not 1 <= layers <= MOST_LAYERS:  # building more takes hours before memory ends
        raise UserError(f"{where} has num_hidden_layers {quoted(layers)}; allowed: 1 to {MOST_LAYERS:,}")
    tokens = getattr(config, "vocab_size", None)
    if not isinstance(tokens, int):
        raise UserError(
            f"{where} has vocab_size {quoted(tokens)}; allowed: a number, at least the tokenizer's {vocab_size}"
        )
    if tokens < vocab_size:
        raise UserError(
            f"{where} has a vocabulary of {tokens}, the tokenizer has {vocab_size} tokens; "
            f"use a tokenizer of at most {tokens} tokens (corpus.tokenizer) or raise the model's vocab_size"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 <= positions < row_tokens:  # XLNet, without a limit, says -1
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
