"""Row norms and products from one pass equal one autograd pass a row, for every family, scope and length."""

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import doge
from doge.row_norms import row_scores
from doge.scopes import scope_parameters
from tests.doge.helpers import FAMILIES, VOCAB, make_model, make_rows, slow_gradients


def relative(got: Tensor, wanted: Tensor) -> float:
    return float(((got - wanted).abs() / wanted.abs()).max())


def slow_norms(model: nn.Module, rows: Tensor, *, names: set[str] | None = None) -> Tensor:
    """(R,) from one autograd pass a row."""
    gradients = slow_gradients(model, rows, len(rows))
    return torch.stack(
        [g.flatten(1).double().square().sum(1) for name, g in gradients.items() if names is None or name in names]
    ).sum(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens", [5, 12, 30]
)  # token pairs are fewer, about as many, and more than the gradient's entries
@pytest.mark.parametrize("family", FAMILIES)
def test_self_influence_equals_one_autograd_pass_a_row_in_float64(family: str, tokens: int) -> None:
    model, rows = make_model(family), make_rows(4, tokens=tokens)
    got = doge.self_influence(model, rows)
    assert got.dtype == torch.float64
    assert relative(got, slow_norms(model, rows)) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_self_influence_equals_one_autograd_pass_a_row_in_float32(family: str) -> None:
    for tokens in (12, 30):
        rows = make_rows(4, tokens=tokens)
        got = doge.self_influence(make_model(family, dtype=torch.float32), rows)
        assert relative(got, slow_norms(make_model(family), rows)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gpt2-untied", "llama-tied-bias", "opt", "gemma"])
def test_every_scope_counts_its_parameters_and_no_other(family: str) -> None:
    model, rows = make_model(family), make_rows(4)
    scopes = ["all", "first_block", "blocks", "embedding", "head", "*bias*" if family != "gemma" else "*mlp*"]
    names = {parameter: name for name, parameter in model.named_parameters()}
    together = row_scores(model, rows, scopes=scopes).squared_norms
    for scope in scopes:
        own = {names[parameter] for parameter in scope_parameters(model, scope)}
        wanted = slow_norms(model, rows, names=own)
        assert relative(together[scope], wanted) < 1e-9, scope
        assert relative(doge.self_influence(model, rows, scope), wanted) < 1e-9, scope


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama-tied-bias", "llama"])
def test_under_bf16_autocast_norms_stay_near_those_in_full_precision(family: str) -> None:
    model, rows = make_model(family, dtype=torch.float32), make_rows(4)
    rough = doge.self_influence(model, rows, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert 1e-6 < relative(rough, doge.self_influence(model, rows)) < 0.05


def test_scopes_are_the_parameters_that_their_names_say() -> None:
    model = make_model("gpt2-untied")
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {scope: {names[p] for p in scope_parameters(model, scope)} for scope in doge.SCOPES}
    assert found["all"] == set(names.values())
    assert found["blocks"] == {name for name in names.values() if ".h." in name}
    assert found["first_block"] == {name for name in names.values() if ".h.0." in name}
    assert found["embedding"] == {"transformer.wte.weight"}
    assert found["head"] == {"lm_head.weight"}
    tied = make_model("gpt2")
    assert scope_parameters(tied, "head") == scope_parameters(tied, "embedding")


def test_a_scope_that_reaches_a_short_way_needs_no_rule_elsewhere() -> None:
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    rows = make_rows(3)
    with pytest.raises(doge.NoRuleError, match="experts"):
        doge.self_influence(model, rows)
    assert relative(doge.self_influence(model, rows, "head"), slow_norms(model, rows, names={"lm_head.weight"})) < 1e-4


@pytest.mark.slow
def test_the_word_embeddings_score_is_that_of_its_use_as_input_alone() -> None:
    untied, tied, rows = make_model("gpt2-untied"), make_model("gpt2"), make_rows(4)
    assert (
        relative(doge.self_influence(untied, rows, "word_embedding"), doge.self_influence(untied, rows, "embedding"))
        < 1e-12
    )
    twin = make_model("gpt2-untied")
    twin.load_state_dict(tied.state_dict() | {"lm_head.weight": tied.state_dict()["transformer.wte.weight"]})
    wanted = doge.self_influence(twin, rows, "embedding")
    both = row_scores(tied, rows, scopes=["all", "word_embedding"]).squared_norms
    assert relative(both["word_embedding"], wanted) < 1e-12
    assert relative(doge.self_influence(tied, rows, "word_embedding"), wanted) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama-tied-bias", "opt"])
def test_padding_never_counts(family: str) -> None:
    model = make_model(family)
    short = [make_rows(1, seed=seed, tokens=tokens) for seed, tokens in enumerate([4, 9, 12, 5])]
    lengths = torch.tensor([row.shape[1] for row in short])
    for padding in (0, 5):
        rows = torch.cat([nn.functional.pad(row, (0, 12 - row.shape[1]), value=padding) for row in short])
        scores = row_scores(model, rows, lengths=lengths)
        for number, row in enumerate(short):
            alone = row_scores(model, row)
            assert relative(scores.squared_norms["all"][number], alone.squared_norms["all"][0]) < 1e-9
            assert torch.allclose(scores.token_losses[number, : row.shape[1] - 1], alone.token_losses[0], atol=1e-12)
            assert not scores.token_losses[number, row.shape[1] - 1 :].any()


def test_a_row_of_one_token_has_no_loss_and_no_influence() -> None:
    scores = row_scores(make_model(), make_rows(2), lengths=torch.tensor([1, 12]))
    assert scores.squared_norms["all"][0] == 0 < scores.squared_norms["all"][1]
    assert not scores.token_losses[0].any()


def test_packed_documents_are_scored_as_if_each_stood_alone() -> None:
    model, rows = make_model("gpt2"), make_rows(3)
    begins = torch.zeros(3, 12, dtype=torch.bool)
    begins[0, 5] = begins[0, 7] = begins[2, 0] = begins[2, 4] = True
    documents, lengths, source = doge.unpack(rows, begins)
    pieces = [rows[0, :5], rows[0, 5:7], rows[0, 7:], rows[1], rows[2, :4], rows[2, 4:]]
    assert source.tolist() == [0, 0, 0, 1, 2, 2]
    assert [row[:length].tolist() for row, length in zip(documents, lengths, strict=True)] == [
        piece.tolist() for piece in pieces
    ]
    wanted = torch.cat([slow_norms(model, piece[None]) for piece in pieces])
    assert relative(doge.self_influence(model, documents, lengths=lengths), wanted) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "first_block", "embedding"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-tied-bias"])
def test_products_of_rows_equal_autograds(family: str, scope: str) -> None:
    model, rows, others = make_model(family), make_rows(3), make_rows(2, seed=7)
    names = {p: name for name, p in model.named_parameters()}
    own = {names[p] for p in scope_parameters(model, scope)}

    def flat(part: Tensor) -> Tensor:
        return torch.cat([g.flatten(1) for name, g in slow_gradients(model, part, len(part)).items() if name in own], 1)

    assert torch.allclose(doge.row_products(model, rows, others, scope), flat(rows) @ flat(others).T, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_products_with_a_targets_gradient_equal_autograds(family: str) -> None:
    model, rows, target = make_model(family), make_rows(4), make_rows(3, seed=9)
    gradient = doge.mean_gradient(model, target)
    slow = slow_gradients(model, target, 1)
    tolerance = 1e-6 if "gemma" in family else 1e-9  # its norm multiplies by the gain in float32
    assert all((gradient[name] - slow[name][0]).norm() <= tolerance * slow[name].norm() + 1e-14 for name in slow)
    wanted = sum((g * slow[name]).flatten(1).sum(1) for name, g in slow_gradients(model, rows, 4).items())
    assert torch.allclose(doge.products_with(model, rows, gradient), wanted, rtol=1e-6 if "gemma" in family else 1e-9)


@pytest.mark.slow
def test_a_copy_of_a_row_has_its_norm_as_product_and_is_first_proponent() -> None:
    model, rows = make_model("gpt2"), make_rows(6)
    products = doge.row_products(model, rows[2:3], torch.cat([rows[:2], rows[2:3], rows[3:]]))[0]
    assert relative(products[2], doge.self_influence(model, rows)[2]) < 1e-12
    assert products.argmax() == 2
    assert relative(doge.products_with(model, rows, doge.mean_gradient(model, rows[2:3])), products) < 1e-9


@pytest.mark.slow
def test_a_step_on_a_row_with_a_larger_product_lowers_the_loss_more() -> None:
    model, rows, others = make_model("gpt2"), make_rows(1), make_rows(5, seed=3)
    products = doge.row_products(model, rows, others)[0]
    before = doge.row_losses(model, rows).detach()
    fell = []
    for other in others:
        own = make_model("gpt2")
        doge.row_losses(own, other[None]).sum().backward()
        with torch.no_grad():
            for parameter in own.parameters():
                parameter -= 1e-5 * parameter.grad
        fell.append(float((before - doge.row_losses(own, rows).detach()) / 1e-5))
    assert torch.allclose(
        torch.tensor(fell, dtype=torch.float64), products, rtol=1e-2, atol=1e-3 * float(products.abs().max())
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_word_products_name_shared_words_and_sum_to_the_embedding_product(family: str) -> None:
    model, rows, others = make_model(family), make_rows(2), make_rows(3, seed=5)
    others[1, 4:8] = rows[1, 3:7]
    found = doge.word_products(model, rows, others)
    assert set(found.words.tolist()) == set(rows.flatten().tolist()) & set(others.flatten().tolist())
    layer = model.get_input_embeddings()

    def input_gradient(row: Tensor) -> Tensor:
        taken: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, args, output: taken.append(output))
        loss = doge.row_losses(model, row[None]).sum()
        handle.remove()
        (b,) = torch.autograd.grad(loss, taken)
        return torch.zeros(VOCAB, b.shape[-1], dtype=b.dtype).index_add_(0, row, b[0])

    for i, row in enumerate(rows):
        for j, other in enumerate(others):
            wanted = (input_gradient(row) * input_gradient(other)).sum(1)
            assert torch.allclose(found.products[i, j], wanted[found.words], rtol=1e-9, atol=1e-15)
            assert torch.allclose(found.products[i, j].sum(), wanted.sum(), rtol=1e-9)


def test_a_position_limit_that_is_not_reached_leaves_word_products_alone() -> None:
    model, rows, others = make_model("gpt2"), make_rows(2), make_rows(3, seed=5)
    everything = doge.word_products(model, rows, others)
    assert torch.equal(doge.word_products(model, rows, others, positions=12).products, everything.products)
    few = doge.word_products(model, rows, others, positions=2).products
    assert (few != 0).sum() < (everything.products != 0).sum()


def test_a_pass_leaves_nothing_on_the_model() -> None:
    model, rows = make_model(), make_rows(3)
    doge.self_influence(model, rows, "first_block")
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_without_scopes_there_are_losses_and_no_backward_pass() -> None:
    model, rows = make_model(), make_rows(3)
    found = row_scores(model, rows, scopes=())
    assert torch.equal(found.token_losses.mean(1), doge.row_losses(model, rows))
    assert not found.token_losses.requires_grad
    assert found.squared_norms == {}


def test_an_unknown_scope_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(
        ValueError,
        match=r"scope 'frist_block'.*allowed: all, first_block, blocks, embedding, head, word_embedding, or "
        r".*embed_tokens",
    ):
        doge.self_influence(make_model(), make_rows(2), "frist_block")


def test_a_gradient_of_another_model_is_refused_by_name_and_shape() -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"nonsense \(3,\).*allowed: model.embed_tokens.weight"):
        doge.products_with(model, make_rows(2), {"nonsense": torch.zeros(3)})
