"""One backward pass that gives the gradient of every group of rows.

A forward hook keeps the input of each layer that has a rule. A hook on the layer's output passes that input and the
output gradient to the rule as soon as the backward pass reaches the layer. Meanwhile all parameters have
`requires_grad` off (the graph starts at the embedding's output), so autograd never forms the ordinary weight gradients,
and the pass costs about as much as a plain backward pass.
"""

import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from doge.rules import BROKEN, Rule, Sum, embedding, find_rule, lookup


class NoRuleError(ValueError):
    """Raised for a trainable parameter whose layer no rule covers, or that is used in a way that no rule covers."""


@dataclass(frozen=True)
class Use:
    """One use of a parameter in a pass: the layer's input `x` (R, ..., d) and its output gradient `b` (R, ..., p).

    `module` is the layer, `name` the parameter's name in it, and `rule` gives the parameter's gradient from x and b.
    """

    rule: Rule
    module: nn.Module
    name: str
    x: Tensor
    b: Tensor

    def add(self, out: Sum, part: slice) -> None:
        """Add the groups' gradients for the slice `part` of the parameter's first axis to `out` (G, *shape of part)."""
        self.rule(self.module, self.name, self.x, self.b, out, part)


REMEDY = "freeze the layer (parameter.requires_grad_(False)), or use another model"

LARGE_LOGITS = 2**28  # entries of logits from which on the loss is computed in chunks: 1 GiB in float32
CHUNK = 2**24  # entries of a chunk of logits, of which three copies exist at a time

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
    """Run a forward and a backward pass on `rows` and return the groups' mean token losses (G,), nats.

    rows:          token ids (R, T); the first R/G rows are group 0, the next R/G rows group 1, and so on.
    on_parameter:  called as on_parameter(parameter, uses), once for each parameter that the loss depends on, as soon as
                   the backward pass has reached its last use (a tied embedding has two). The sum of the uses is the
                   groups' gradients of scale * loss (`Use.add`).
    scale:         factor of the losses in the backward pass; the losses that are returned are unscaled.
    parameters:    the parameters whose gradients are wanted; None: all trainable ones.
    lengths:       number of real tokens of every row (`row_losses`).

    Memory beyond a plain step: what `on_parameter` allocates, and the output gradient of a tied head until the pass
    ends. Raises NoRuleError, and ValueError for rows that do not split into groups.
    """
    if rows.ndim != 2 or rows.shape[0] % groups:
        raise ValueError(
            f"rows have the shape {tuple(rows.shape)}; expected (R, T) with R a multiple of groups = {groups}"
        )
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
    """Return the mean next-token loss (R,) of every row, nats per token, in float32 or better.

    The forward pass runs inside `autocast`. `lengths` as in `token_losses`; a row of one token predicts nothing and has
    the loss 0.
    """
    return mean_losses(token_losses(model, rows, lengths=lengths, autocast=autocast), lengths)


def mean_losses(losses: Float[Tensor, "R t"], lengths: Int[Tensor, " R"] | None) -> Float[Tensor, " R"]:
    """Return every row's mean (R,) of its token losses (R, T-1), over the tokens that it predicts: all but the first.

    `lengths`: number of real tokens of every row; None: all are real.
    """
    return losses.mean(1) if lengths is None else losses.sum(1) / (lengths.to(losses) - 1).clamp(min=1)


def token_losses(
    model: nn.Module,
    rows: Int[Tensor, "R T"],
    *,
    lengths: Int[Tensor, " R"] | None = None,
    autocast: Autocast = nullcontext,
) -> Float[Tensor, "R T-1"]:
    """Return the loss (R, T-1) of every token but a row's first, given the tokens before it, nats, float32 or better.

    `lengths`: number of real tokens of every row; None: all are real. Padding follows on the right; its loss is zero,
    and no real token sees it. The forward pass runs inside `autocast`. The loss of more than LARGE_LOGITS logits is
    computed in chunks, to the same numbers in less memory.
    """
    inputs: dict[str, Any] = {"input_ids": rows}
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" in accepted:  # Hugging Face would share one row of positions, whose gradient has no groups
        inputs["position_ids"] = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    with autocast():
        logits = model(**inputs).logits
    # The last position predicts nothing. To mask its label is cheaper than to copy the logits of all other positions.
    labels = F.pad(rows[:, 1:], (0, 1), value=-100)
    if lengths is not None:
        labels = labels.masked_fill(
            torch.arange(1, rows.shape[1] + 1, device=rows.device) >= lengths.to(rows.device)[:, None], -100
        )
    large = logits.numel() > LARGE_LOGITS
    nll = (_ChunkedLoss.apply if large else _label_losses)(logits.flatten(0, 1), labels.flatten())
    return nll.view(rows.shape)[:, :-1]


def _label_losses(logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the loss (N,) of every label, in float32 or better; zero where the label is -100."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=-100)


class _ChunkedLoss(torch.autograd.Function):
    """`_label_losses` chunk by chunk, computed again for the gradient: beyond logits and gradient it needs a chunk."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,) of every label."""
        ctx.save_for_backward(logits, labels)
        return torch.cat([_label_losses(logits[part], labels[part]) for part in _chunks(logits)])

    @staticmethod
    @once_differentiable  # or a second derivative would be 0 without a word
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient (N, V) of the logits, in their precision."""
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for part in _chunks(logits):
            with torch.enable_grad():
                chunk = logits[part].detach().requires_grad_()
                losses = _label_losses(chunk, labels[part])
            (gradient[part],) = torch.autograd.grad(losses, chunk, gradients[0][part])
        return gradient, None


def _chunks(logits: Float[Tensor, "N V"]) -> Iterator[slice]:
    """Yield slices of the rows of logits, each with CHUNK entries or a single row."""
    rows = max(1, CHUNK // logits.shape[1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


@contextmanager
def ruled(model: nn.Module, rows: Tensor, rules: Rules, on_parameter: OnParameter) -> Iterator[None]:
    """Open a context in which a backward pass hands every parameter's uses to `on_parameter` (`grouped_backward`).

    Inside, the layers of `rules` have hooks and all parameters are frozen. Both are undone on exit, also after an
    error.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    uses: Counter[nn.Parameter] = Counter()  # number of a parameter's uses that the backward pass has not reached yet
    back: defaultdict[nn.Parameter, list[Use]] = defaultdict(list)  # uses that the backward pass has reached
    first: list[str] = []  # classes of layers at which the graph starts, whose output must stay as it is

    def hand_over(parameter: nn.Parameter) -> None:
        with torch.no_grad():
            on_parameter(parameter, back.pop(parameter))

    def forward_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        rule, parameters = rules[module]
        if not isinstance(output, Tensor):
            raise NoRuleError(f"{type(module).__name__} returns a {type(output).__name__}, not one tensor; {REMEDY}")
        x, factor = _input(module, rule, args, kwargs)
        _require_rows(module, x, rows)
        uses.update(parameters.values())
        version = x._version
        if not output.requires_grad:
            first.append(type(module).__name__)
            output.requires_grad_()

        def backward_hook(b: Tensor) -> None:
            if x._version != version:
                raise NoRuleError(f"the input of {type(module).__name__} is changed in place after its use; {REMEDY}")
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
        for parameter in list(back):  # the loss does not depend on some use of these parameters
            hand_over(parameter)
    except RuntimeError as error:
        if not re.search("in-?place operation", str(error)):
            raise
        reason, layers = str(error).rstrip("."), ", ".join(dict.fromkeys(first))
        raise NoRuleError(
            f"the model changes a tensor in place ({reason}), such as the output of its first layers ({layers}), so "
            f"that no rule can be used there; {REMEDY}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)


def find_rules(model: nn.Module, scope: Collection[nn.Parameter] | None = None) -> Rules:
    """Return the rule and the trainable parameters by name of every module that holds some itself.

    Only parameters in `scope` count (None: all). Raises NoRuleError naming every such parameter that no rule covers.
    """
    rules, missing = {}, []
    chosen = None if scope is None else set(scope)
    for path, module in model.named_modules():
        direct = module.named_parameters(recurse=False)
        parameters = {name: p for name, p in direct if p.requires_grad and (chosen is None or p in chosen)}
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


def _input(
    module: nn.Module, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's input, or the rows that an embedding looks up and its factor. Raises NoRuleError for others."""
    if rule is not embedding:
        x, factor = next(iter([*args, *kwargs.values()]), None), None
    else:
        try:
            x, factor = lookup(module, args, kwargs)
        except BROKEN:
            raise
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
            raise NoRuleError(
                f"{type(module).__name__} is an embedding whose rows cannot be told from its output "
                f"({type(error).__name__}: {error}); {REMEDY}"
            ) from error
    if not isinstance(x, Tensor):
        raise NoRuleError(f"{type(module).__name__} got a {type(x).__name__}, not a tensor; {REMEDY}")
    return x, factor


def _require_rows(module: nn.Module, x: Tensor, rows: Tensor) -> None:
    if x.shape[0] != rows.shape[0] and not (x.ndim == 2 and x.shape[0] == rows.numel()):
        raise NoRuleError(
            f"{type(module).__name__} got an input of shape {tuple(x.shape)} for {rows.shape[0]} rows of "
            f"{rows.shape[1]} tokens, so its gradient cannot be split by row. Layers that mix rows or share an input "
            f"between rows (mixture-of-experts, one shared row of positions) are not supported; freeze the layer, or "
            f"pass its input expanded to every row."
        )
