"""What transformers refuses in a model's config, in the words of its config.json.

transformers reports the same mistake in many ways: an assertion of torch, a KeyError of a table, a mismatch of shapes
in the first forward pass. `faults` names the keys that explain it.
"""

from collections.abc import Iterator
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from mixtures.errors import quoted

# All that transformers and torch raise for a config or for weights that they cannot use. Put only their own calls into
# the `try`: the same exceptions of our code are bugs.
ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    StrictDataclassError,
    SafetensorError,
    UnpicklingError,
)
ATTENTION = ("eager", "sdpa")  # what needs no further package


def raise_if_memory(error: Exception) -> None:
    """Raise the error again if the device ran out of memory, which is no fault of the config."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error


def cause(error: Exception, *, most: int = 300) -> str:
    """Return the kind and the message of an error in one line of at most about `most` characters."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= most else text[:most] + " ..."


def faults(values: dict[str, Any], error: Exception, kind: type[PretrainedConfig] | None = None) -> str:
    """Return lines that name the keys of a config.json to blame for an error, each with what is allowed; "" if none.

    values: the content of the config.json.
    kind:   the config's class; it knows the names and the defaults of keys that the file lacks.
    """
    return "".join(f"\n  {line}" for line in (*_sizes(values, kind), *_names(values, error)))


def explicit_faults(values: dict[str, Any], kind: type[PretrainedConfig]) -> str:
    """Return what is wrong with key-value heads and dropout that the file gives: torch notices in the first step."""
    lines = [*_divides(values, "num_attention_heads", "num_key_value_heads", None), *_dropout(values, kind)]
    return "".join(f"\n  {line}" for line in lines)


def _sizes(values: dict[str, Any], kind: type[PretrainedConfig] | None) -> Iterator[str]:
    yield from _divides(values, "hidden_size", "num_attention_heads", kind)
    yield from _divides(values, "num_attention_heads", "num_key_value_heads", kind)
    (_, vocabulary), (pad_name, pad) = _get(values, "vocab_size", kind), _get(values, "pad_token_id", kind)
    if isinstance(vocabulary, int) and isinstance(pad, int) and not -vocabulary <= pad < vocabulary:
        yield f"{pad_name} is {pad}, beyond the vocabulary; allowed: 0 to {vocabulary - 1}, or null"


def _divides(values: dict[str, Any], whole: str, part: str, kind: type[PretrainedConfig] | None) -> Iterator[str]:
    (whole_name, size), (part_name, count) = _get(values, whole, kind), _get(values, part, kind)
    if isinstance(size, int) and isinstance(count, int) and (count < 1 or size % count):
        yield f"{part_name} is {count}; it must divide {whole_name}, which is {size}"


def _dropout(values: dict[str, Any], kind: type[PretrainedConfig]) -> Iterator[str]:
    for name, value in values.items():
        is_rate = str(name).endswith(("dropout", "pdrop")) and isinstance(getattr(kind, str(name), None), int | float)
        if is_rate and not (isinstance(value, int | float) and 0 <= value <= 1):
            yield f"{name} is {quoted(value)}; allowed: 0 to 1"


def _names(values: dict[str, Any], error: Exception) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{line}" for line in _names(value, error))
        if isinstance(value, str) and isinstance(error, KeyError) and error.args == (value,):
            allowed = f"; allowed: {', '.join(ACT2FN)}" if "act" in str(name) else ", which is unknown"
            yield f"{name} is {quoted(value)}{allowed}"
        if str(name).removeprefix("_") == "attn_implementation" and value not in ATTENTION:
            yield f"{name} is {quoted(value)}; without further packages and in float32, {' and '.join(ATTENTION)} work"


def _get(values: dict[str, Any], name: str, kind: type[PretrainedConfig] | None) -> tuple[str, Any]:
    """Return the name of a key in this kind of config (GPT-2 calls hidden_size n_embd), and its value."""
    own = getattr(kind, "attribute_map", {}).get(name, name)
    written = next((key for key in (own, name) if key in values), own)
    return written, values.get(written, getattr(kind, own, None))
