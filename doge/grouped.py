"""One backward pass, every group's gradient.

Forward hooks keep each ruled layer's input; a hook on its output hands input and output gradient to the layer's rule as
soon as the backward pass reaches it. Ruled parameters have `requires_grad` off meanwhile (the embedding output starts
the graph), so autograd never forms the ordinary weight gradients and the pass costs about what a plain backward pass
costs.
"""

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from doge.rules import Rule, Sum, embedding, find_rule, lookup


class NoRuleError(ValueError):
    """A trainable parameter sits in a layer that no rule covers, or is used in a way that none does."""


@dataclass(frozen=True)
class Use:
    """One use of a parameter in a pass: the layer's input `x` (R, ..., d) and the gradient `b` of its output (R, ...,
    p).
    """

    rule: Rule
    module: nn.Module
    name: str
    x: Tensor
    b: Tensor

    def add(self, out: Sum, part: slice) -> None:
        """Add the groups' gradients, of the slice `part` of the parameter's first axis, to `out` (G, *shape of the
        part).
        """
        self.rule(self.module, self.name, self.x, self.b, out, part)


Autocast = Callable[[], AbstractContextManager[None]]
OnParameter = Callable[[nn.Parameter, list[Use]], None]
Rules = Mapping[nn.Module, tuple[Rule, dict[str, nn.Parameter]]]


def grouped_backward(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    *,
    groups: int,
    on_parameter: OnParameter,
    scale: float = 1.0,
    parameters: Collection[nn.Parameter] | None = None,
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> Float[Tensor, " G"]:
    """Run the model on `rows` (group-major: the R/G rows of a group are adjacent) and form every group's gradient.

    `on_parameter(parameter, uses)` is called once for each parameter that the loss depends on, as soon as the backward
    pass came back to its last use (tied embeddings have two); the sum over uses is the gradient of scale * loss
    (`Use.add`). Returns the groups' mean token losses (nats), unscaled. `parameters`: those that count; None: all that
    are trainable. `lengths`: real tokens of every row (`row_losses`).

    Memory beyond a plain step: what `on_parameter` allocates, and the output gradient of a tied head until the pass
    ends.
    Raises NoRuleError, ValueError for rows that do not split into groups.
    """
    if rows.ndim != 2 or rows.shape[0] % groups:
        raise ValueError(f"rows are {tuple(rows.shape)}; expected (R, T) with R a multiple of groups = {groups}")
    with ruled(model, rows, find_rules(model, parameters), on_parameter):
        losses = row_losses(model, rows, lengths=lengths, autocast=autocast).view(groups, -1).mean(1)
        (losses.sum() * scale).backward()
    return losses.detach()


def row_losses(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    *,
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> Float[Tensor, " R"]:
    """Mean next-token loss of every row, nats per token, in float32 or better; `autocast` is entered for the forward
    pass.

    `lengths` as in `token_losses`; a row of one token predicts nothing and has loss 0.
    """
    return mean_losses(token_losses(model, rows, lengths=lengths, autocast=autocast), lengths)


def mean_losses(losses: Float[Tensor, "R t"], lengths: Int[Tensor, " R"] | None) -> Float[Tensor, " R"]:
    """Every row's mean over the tokens that it predicts, one fewer than it has."""
    return losses.mean(1) if lengths is None else losses.sum(1) / (lengths.to(losses) - 1).clamp(min=1)


def token_losses(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    *,
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> Float[Tensor, "R T-1"]:
    """Loss of every token but a row's first, given those before it, nats, in float32 or better; `autocast` as in
    `row_losses`.

    `lengths`: how many tokens of a row are real, where others pad it on the right: the loss of these is zero, and no
    real token sees them.
    """
    inputs: dict[str, Any] = {"input_ids": rows}
    accepted = inspect.signature(model.forward).parameters
    if (
        "position_ids" in accepted
    ):  # else HF broadcasts one row of positions, whose gradient cannot be told apart by group
        inputs["position_ids"] = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    with autocast():
        logits = model(**inputs).logits
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    labels = F.pad(
        rows[:, 1:], (0, 1), value=-100
    )  # the last position predicts nothing; cheaper than a copy of the other logits
    if lengths is not None:
        labels = labels.masked_fill(
            torch.arange(1, rows.shape[1] + 1, device=rows.device) >= lengths.to(rows.device)[:, None], -100
        )
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    return nll.view(rows.shape)[:, :-1]


@contextmanager
def ruled(model: nn.Module, rows: Tensor, rules: Rules, on_parameter: OnParameter) -> Iterator[None]:
    """Hooks on the layers of `rules`, all parameters frozen; everything is as before on exit, also after an error."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    uses: Counter[nn.Parameter] = Counter()  # forward uses of a parameter that the backward pass has not come back to
    back: defaultdict[nn.Parameter, list[Use]] = defaultdict(list)  # uses that it did come back to

    def hand_over(parameter: nn.Parameter) -> None:
        with torch.no_grad():
            on_parameter(parameter, back.pop(parameter))

    def forward_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        rule, parameters = rules[module]
        x, factor = (
            lookup(module, args, kwargs)
            if rule is embedding
            else (args[0] if args else next(iter(kwargs.values())), None)
        )
        _require_rows(module, x, rows)
        uses.update(parameters.values())
        version = x._version
        output = output if output.requires_grad else output.requires_grad_()

        def backward_hook(b: Tensor) -> None:
            assert x._version == version, f"the input of {type(module).__name__} was changed in place after its use"
            b = b if factor is None else b * factor
            for name, parameter in parameters.items():
                back[parameter].append(Use(rule, module, name, x, b))
                uses[parameter] -= 1
                if not uses[parameter]:
                    hand_over(parameter)

        output.register_hook(backward_hook)
        return output

    handles = [module.register_forward_hook(forward_hook, with_kwargs=True) for module in rules]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
        for parameter in list(back):  # one of several uses did not reach the loss
            hand_over(parameter)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)


def find_rules(model: nn.Module, scope: Collection[nn.Parameter] | None = None) -> Rules:
    """Rule and trainable parameters by name, for every module that has any of its own (in `scope`; None: any).

    Raises NoRuleError naming every such parameter that no rule covers.
    """
    rules, missing = {}, []
    chosen = None if scope is None else set(scope)
    for path, module in model.named_modules():
        own = module.named_parameters(recurse=False)
        parameters = {name: p for name, p in own if p.requires_grad and (chosen is None or p in chosen)}
        if not parameters:
            continue
        if rule := find_rule(module):
            rules[module] = (rule, parameters)
        else:
            missing += [
                f"  {path}.{name} {tuple(p.shape)}, in {type(module).__name__}" for name, p in parameters.items()
            ]
    if missing:
        raise NoRuleError(
            f"{len(missing)} trainable parameters sit in layers that no rule of doge/rules.py covers:\n"
            + "\n".join(missing)
            + "\nEither write a rule for the layer (one function in doge/rules.py), or freeze it: "
            "parameter.requires_grad_(False)."
        )
    if not rules:
        raise NoRuleError("the model has no trainable parameter; unfreeze some: parameter.requires_grad_(True)")
    return rules


def _require_rows(module: nn.Module, x: Tensor, rows: Tensor) -> None:
    if x.shape[0] != rows.shape[0] and not (x.ndim == 2 and x.shape[0] == rows.numel()):
        raise NoRuleError(
            f"{type(module).__name__} got an input of shape {tuple(x.shape)} for {rows.shape[0]} rows of "
            f"{rows.shape[1]} tokens: its "
            f"gradient cannot be told apart by row. Layers that mix or broadcast rows (mixture-of-experts, one "
            f"shared row of "
            f"positions) are not supported; freeze the layer or pass its input expanded to every row."
        )
