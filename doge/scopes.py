"""Which parameters a score looks at: the whole model, its first block, its embedding, or a pattern of names."""

from fnmatch import fnmatchcase

from torch import nn

SCOPES = ("all", "first_block", "blocks", "embedding", "head")
WORDS = "word_embedding"  # no set of parameters but one use of one: what the embedding gets as the model's input


def scope_parameters(model: nn.Module, scope: str) -> list[nn.Parameter]:
    """The trainable parameters of a scope.

    all; first_block, blocks: the first of, or all layers in the largest nn.ModuleList (the transformer blocks of every
    Hugging Face model); embedding, head: the input and the output embedding, one and the same parameter in a tied
    model; or a pattern of parameter names (`*.mlp.*`). Raises ValueError for a scope without any, listing what is
    allowed.
    """
    if scope == "all":
        found = list(model.parameters())
    elif scope in ("first_block", "blocks"):
        blocks = _blocks(model)
        found = [p for block in (blocks[:1] if scope == "first_block" else blocks) for p in block.parameters()]
    elif scope in ("embedding", "head"):
        getter = getattr(model, f"get_{'input' if scope == 'embedding' else 'output'}_embeddings", None)
        layer = None if getter is None else getter()
        found = [] if layer is None else list(layer.parameters())
    else:
        found = [p for name, p in model.named_parameters(remove_duplicate=False) if fnmatchcase(name, scope)]
    found = [p for p in dict.fromkeys(found) if p.requires_grad]
    if not found:
        names = ", ".join(name for name, p in model.named_parameters() if p.requires_grad)
        raise ValueError(
            f"scope {scope!r} has no trainable parameter of this model; allowed: {', '.join((*SCOPES, WORDS))}, or a "
            f"pattern of its "
            f"parameters' names: {names}"
        )
    return found


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=[]))
