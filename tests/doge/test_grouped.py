"""One backward pass gives the same as one autograd pass a domain, and leaves no trace."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    CTRLConfig,
    CTRLLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import doge
from doge.grouped import Use, grouped_backward, row_losses
from doge.rules import Sum
from tests.doge.helpers import FAMILIES, VOCAB, make_model, make_rows, slow_gradients, slow_gram

QUICK = ("gpt2", "llama-tied-bias", "opt", "unforeseen-gemma2")  # families that `make check` looks at


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def collect(model: nn.Module, rows: torch.Tensor, groups: int, *, parts: int = 1) -> dict[str, torch.Tensor]:
    """Every parameter's group gradients, formed in parts of the first axis, in memory that starts as NaN."""
    names = {p: name for name, p in model.named_parameters()}
    found: dict[str, torch.Tensor] = {}

    def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
        assert names[parameter] not in found, "handed over twice"
        whole = torch.full((groups, *parameter.shape), torch.nan, dtype=parameter.dtype)
        length = len(parameter)
        for start in range(0, length, -(-length // parts)):
            part = slice(start, min(length, start + -(-length // parts)))
            block = torch.full_like(whole[:, part], torch.nan)
            total = Sum(block, fresh=True)
            for use in uses:
                use.add(total, part)
            whole[:, part] = block
        found[names[parameter]] = whole

    grouped_backward(model, rows, groups=groups, on_parameter=on_parameter)
    return found


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[] if family in QUICK else [pytest.mark.slow]) for family in FAMILIES]
)
def test_gram_equals_one_autograd_pass_a_domain_in_float64(family: str) -> None:
    model, rows = make_model(family), make_rows(6)
    got, wanted = doge.domain_gram(model, rows, groups=3), slow_gram(model, rows, 3)
    assert got.dtype == torch.float64
    assert relative(got, wanted) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_gram_equals_one_autograd_pass_a_domain_in_float32(family: str) -> None:
    model, rows = make_model(family, dtype=torch.float32), make_rows(6)
    assert relative(doge.domain_gram(model, rows, groups=3), slow_gram(make_model(family), rows, 3)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameters_group_gradients_equal_autograds(family: str, parts: int) -> None:
    model, rows = make_model(family), make_rows(4)
    got, wanted = collect(model, rows, 2, parts=parts), slow_gradients(model, rows, 2)
    assert set(got) == set(wanted)
    # Gemma's own norm multiplies by the gain in float32 whatever the model's precision, and so does autograd behind it
    tolerance = 1e-6 if "gemma" in family else 1e-9
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-14, name


@pytest.mark.slow
def test_single_rows_and_one_single_group_are_groups_too() -> None:
    model, rows = make_model(), make_rows(4)
    for groups in (1, 4):
        assert relative(doge.domain_gram(model, rows, groups=groups), slow_gram(model, rows, groups)) < 1e-9


def test_frozen_parameters_have_no_part_in_the_gram() -> None:
    model, rows = make_model(), make_rows(4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name and "bias" not in name)
    assert relative(doge.domain_gram(model, rows, groups=2), slow_gram(model, rows, 2)) < 1e-9
    assert not model.model.embed_tokens.weight.requires_grad


def test_a_tied_pair_with_one_use_outside_the_loss_still_counts_the_other() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCAB, 8)
            self.head = nn.Linear(8, VOCAB, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, input_ids: torch.Tensor) -> "Twice":
            hidden = self.embed(input_ids)
            self.unused = self.head(hidden.detach() * 0 + 1)  # does not reach the loss
            self.logits = self.head(hidden)
            return self

    torch.manual_seed(0)
    model, rows = Twice().double(), make_rows(4)
    assert relative(doge.domain_gram(model, rows, groups=2), slow_gram(model, rows, 2)) < 1e-9


def test_a_layer_called_twice_sums_both_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCAB, 8)
            self.block = nn.Linear(8, 8)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, VOCAB)

        def forward(self, input_ids: torch.Tensor) -> "Shared":
            hidden = self.embed(input_ids)
            for _ in range(3):
                hidden = hidden + torch.tanh(self.block(self.norm(hidden)))
            self.logits = self.head(hidden)
            return self

    torch.manual_seed(0)
    model, rows = Shared().double(), make_rows(4)
    assert relative(doge.domain_gram(model, rows, groups=2), slow_gram(model, rows, 2)) < 1e-9


def traces(model: nn.Module) -> list[object]:
    """Everything that a pass could leave behind."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    attributes = [sorted(vars(m)) for m in model.modules()] + [sorted(vars(p)) for p in model.parameters()]
    return [
        hooks,
        attributes,
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
    ]


@pytest.mark.slow
def test_nothing_is_left_on_the_model() -> None:
    model, rows = make_model(), make_rows(4)
    values = [p.clone() for p in model.parameters()]
    before = traces(model)
    doge.domain_gram(model, rows, groups=2)
    doge.verify(model, rows, groups=2)
    assert traces(model) == before
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["forward", "rule"])
def test_nothing_is_left_on_the_model_after_an_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make_model(), make_rows(4)
    before = traces(model)
    with monkeypatch.context() as patch:
        target = "doge.grouped.F.cross_entropy" if where == "forward" else "doge.rules.Sum.add_rows"
        patch.setattr(target, lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            doge.domain_gram(model, rows, groups=2)
    assert traces(model) == before
    assert relative(doge.domain_gram(model, rows, groups=2), slow_gram(model, rows, 2)) < 1e-9


def test_parameters_without_a_rule_are_all_named_with_the_remedies() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 8))
            self.mix = nn.Conv1d(8, 8, 1)

    model = make_model()
    model.model.layers[0].odd = Odd()
    with pytest.raises(doge.NoRuleError) as error:
        doge.domain_gram(model, make_rows(4), groups=2)
    message = str(error.value)
    for part in (
        "3 trainable parameters",
        "layers.0.odd.scale (3, 8), in Odd",
        "odd.mix.weight",
        "odd.mix.bias",
        "Conv1d",
        "freeze",
        "rule",
    ):
        assert part in message


def test_a_mixture_of_experts_is_refused_not_miscounted() -> None:
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_local_experts=2,
        num_key_value_heads=2,
    )
    with pytest.raises(ValueError, match=r"rule|row"):
        doge.domain_gram(MixtralForCausalLM(config), make_rows(4), groups=2)


def test_positions_shared_by_all_rows_are_refused() -> None:
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.positions = nn.Embedding(VOCAB, 8), nn.Embedding(32, 8)
            self.head = nn.Linear(8, VOCAB)

        def forward(self, input_ids: torch.Tensor) -> "Broadcast":
            self.logits = self.head(self.embed(input_ids) + self.positions(torch.arange(input_ids.shape[1])[None]))
            return self

    with pytest.raises(ValueError, match=r"Embedding got an input of shape \(1, 12\) for 4 rows"):
        doge.domain_gram(Broadcast(), make_rows(4), groups=2)


class Tiny(nn.Module):
    """An embedding, a layer and a head; `between` is what happens to the embedding's output."""

    def __init__(self, embed: nn.Embedding | None = None) -> None:
        super().__init__()
        self.embed = embed or nn.Embedding(VOCAB, 8)
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, VOCAB)
        self.logits = torch.empty(0)

    def forward(self, input_ids: torch.Tensor) -> "Tiny":
        self.logits = self.head(self.between(self.embed(input_ids)))
        return self

    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layer(hidden)


class Scaled(Tiny):
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden *= 2
        return self.layer(hidden)


class Residual(Tiny):
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + 0
        output = self.layer(hidden)
        hidden += 1
        return output + hidden


class Pair(nn.Embedding):
    def forward(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(index), index


class First(Tiny):
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layer(hidden[0])


class Halved(nn.Embedding):
    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return super().forward(index) + self.weight.view(VOCAB, 2, 4).mean()


def ctrl() -> nn.Module:
    config = CTRLConfig(vocab_size=VOCAB, n_positions=32, n_embd=16, dff=16, n_layer=1, n_head=2)
    return CTRLLMHeadModel(config)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ctrl, r"changes a tensor in place .*\(Embedding\)"),
        (Scaled, r"changes a tensor in place .*\(Embedding\)"),
        (Residual, "the input of Linear is changed in place after its use"),
        (lambda: First(Pair(VOCAB, 8)), "Pair returns a tuple, not one tensor"),
        (lambda: Tiny(Halved(VOCAB, 8)), "Halved is an embedding whose rows cannot be told from its output"),
    ],
)
def test_what_no_rule_can_follow_is_refused_by_name(model: Callable[[], nn.Module], message: str) -> None:
    built, rows = model(), make_rows(4)
    before = traces(built)
    with pytest.raises(doge.NoRuleError, match=f"{message}.*freeze the layer"):
        doge.verify(built, rows, groups=2)
    assert traces(built) == before


def test_verify_names_a_parameter_that_is_used_outside_its_layer() -> None:
    class Direct(LlamaForCausalLM):
        def forward(self, **inputs: object) -> object:
            output = super().forward(**inputs)
            output.logits = output.logits * self.model.norm.weight.mean()
            return output

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    with pytest.raises(doge.NoRuleError, match=r"model\.norm\.weight"):
        doge.verify(Direct(config), make_rows(4), groups=2)


def test_rows_that_do_not_split_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of groups = 4"):
        doge.domain_gram(make_model(), make_rows(6), groups=4)


def test_row_losses_are_the_models_own_mean_loss() -> None:
    model, rows = make_model("gpt2"), make_rows(3)
    for row, loss in zip(rows, row_losses(model, rows).detach(), strict=True):
        assert float(loss) == pytest.approx(
            model(row[None], labels=row[None]).loss.item(), rel=1e-6
        )  # HF takes it in float32


@pytest.mark.slow
def test_bf16_autocast_gives_the_gram_to_a_percent() -> None:
    model, rows = make_model("llama", dtype=torch.float32), make_rows(6)
    engine = doge.GroupGradients(model, groups=3, halves=1, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    step = engine.step([doge.MicroBatch(rows, 0, 3, 1.0)], decide=lambda losses, gram: torch.ones(3))
    assert relative(step.gram.products, slow_gram(make_model("llama"), rows, 3)) < 0.02
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_shapes_and_types_of_public_signatures_are_enforced_in_these_tests() -> None:
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        doge.domain_gram(make_model(), make_rows(4).float(), groups=2)
