"""Scopes: sets of parameters that a score is computed over, such as the whole model, its first block, or a pattern."""

from fnmatch import fnmatchcase

from torch import nn

SCOPES = ("all", "first_block", "blocks", "embedding", "head")
WORDS = "word_embedding"  # the input embedding, and only the gradient that it gets as the model's input (row_norms.py)


def scope_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    """Return the trainable parameters of a scope.

    all:                  all parameters of the model.
    first_block, blocks:  the first layer, or all layers, of the largest nn.ModuleList; in every Hugging Face model
                          these are the transformer blocks.
    embedding, head:      the input embedding, or the output embedding; in a tied model both are the same parameter.
    anything else:        a pattern of parameter names, such as `*.mlp.*`.

    Raises ValueError for a scope without trainable parameters and lists what is allowed.
    """
    if scope == "all":
        members = list(model.parameters())
    elif scope in ("first_block", "blocks"):
        blocks = _blocks(model)
        members = [p for block in (blocks[:1] if scope == "first_block" else blocks) for p in block.parameters()]
    elif scope in ("embedding", "head"):
        getter = getattr(model, f"get_{'input' if scope == 'embedding' else 'output'}_embeddings", None)
        layer = None if getter is None else getter()
        members = [] if layer is None else list(layer.parameters())
    else:
        members = [p for name, p in model.named_parameters(remove_duplicate=False) if fnmatchcase(name, scope)]
    members = [p for p in dict.fromkeys(members) if p.requires_grad]
    if not members:
        names = ", ".join(name for name, p in model.named_parameters() if p.requires_grad)
        raise ValueError(
            f"scope {scope!r} has no trainable parameter of this model; allowed: {', '.join((*SCOPES, WORDS))}, or a "
            f"pattern of its parameters' names: {names}"
        )
    return members


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=[]))
