"""200 steps of OLMo-core's own trainer on our curriculum: shares of tokens counted in what the model saw."""

from pathlib import Path

import pytest

pytest.importorskip("olmo_core.train", reason="ai2-olmo-core is not installed: tests/trainers/envs/olmo_core.txt")

import torch
from olmo_core.data import TokenizerConfig
from olmo_core.nn.transformer import TransformerConfig
from olmo_core.optim import AdamWConfig
from olmo_core.train import Duration, TrainerConfig
from olmo_core.train.train_module import TransformerTrainModuleConfig
from olmo_helpers import LENGTH, convert_toy, load_curriculum, write_tokens
from toy import SECOND, WANTED, token_shares

STEPS, BATCH, DIVISOR = 200, 4, 64
TOKENIZER = TokenizerConfig(vocab_size=65536 // DIVISOR, eos_token_id=0, pad_token_id=0)


def test_the_model_sees_the_shares_of_both_stages(tmp_path: Path) -> None:
    data = write_tokens(tmp_path / "tokens", divisor=DIVISOR)
    report = convert_toy(tmp_path, data, batch_size=BATCH, tokens=STEPS * BATCH * LENGTH)
    curriculum, work = load_curriculum(report), str(tmp_path / "work")
    sources = [stage.build(work) for stage in curriculum.stages(TOKENIZER)]
    loader = curriculum.data_loader(work, display_source_visualization=False).build(*sources, tokenizer=TOKENIZER)
    model = TransformerConfig.llama_like(
        d_model=16, vocab_size=TOKENIZER.padded_vocab_size(), n_layers=1, n_heads=2
    ).build(init_device="cpu")
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    module = TransformerTrainModuleConfig(
        rank_microbatch_size=BATCH * LENGTH, max_sequence_length=LENGTH, optim=AdamWConfig(lr=1e-2)
    )
    settings = TrainerConfig(
        save_folder=str(tmp_path / "run"), max_duration=Duration.epochs(1), no_checkpoints=True, no_evals=True
    )
    trainer = settings.build(module.build(model, device=torch.device("cpu")), loader)
    torch.set_num_threads(1)
    trainer.fit()
    assert trainer.global_step == STEPS
    batches = seen[-STEPS:]  # before them a dry run
    for part, wanted in zip((batches[: STEPS // 2], batches[STEPS // 2 :]), (WANTED, SECOND), strict=True):
        assert token_shares(torch.cat(part).numpy() * DIVISOR) == pytest.approx(wanted, abs=0.002)
