"""`proxies.place`: what the main process decides holds in every process, its refusals too."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import proxies.comparison.run
import proxies.learn
import proxies.scoring.run
from mixtures.errors import UserError
from proxies import place
from proxies.corpus.corpus import prepare
from proxies.evaluate import held_out_row_losses
from proxies.models import build_model
from proxies.place import Place, make_accelerator, seed_step
from proxies.settings import load_settings
from tests.proxies.helpers import write_run


def processes(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Stand-ins for the accelerators of two processes; the first one's broadcast is what the second one gets."""
    sent: list[Any] = []

    def broadcast(values: list[Any]) -> list[Any]:
        if not sent:
            sent.extend(values)
        return sent

    monkeypatch.setattr(place, "broadcast_object_list", broadcast)
    first, second = (SimpleNamespace(num_processes=2, is_main_process=main) for main in (True, False))
    return first, second


def test_every_process_takes_what_the_main_process_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = processes(monkeypatch)
    assert place.decide(lambda: "step 4", first) == "step 4"
    assert place.decide(lambda: "step 6", second) == "step 4"


def test_a_refusal_of_the_main_process_is_raised_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise UserError("no checkpoint")

    first, second = processes(monkeypatch)
    for accelerator, choose in ((first, refuse), (second, lambda: "step 6")):
        with pytest.raises(UserError, match="no checkpoint"):
            place.decide(choose, accelerator)


def test_one_process_alone_decides_without_a_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(place, "broadcast_object_list")
    alone: Any = SimpleNamespace(num_processes=1, is_main_process=True)
    assert place.decide(lambda: None, alone) is None


@pytest.mark.parametrize("seed", [0, 20_261_121_235_959, 2**63, 2**70])
def test_any_seed_of_the_settings_seeds_a_step(seed: int) -> None:
    seed_step(seed, 5, 1)
    first = torch.rand(3)
    seed_step(seed, 5, 2)
    assert not torch.equal(first, torch.rand(3))
    seed_step(seed, 5, 1)
    assert torch.equal(first, torch.rand(3))


def test_processes_wait_for_each_other_while_text_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default is 10 or 30 minutes, after which a rank died while the first one still tokenized."""
    given: list[Any] = []
    monkeypatch.setattr(place, "Accelerator", lambda **options: given.append(options))
    make_accelerator("bf16")
    assert given[0]["kwargs_handlers"][0].timeout >= timedelta(days=7)
    assert given[0]["mixed_precision"] == "bf16"
    for module in (proxies.learn, proxies.scoring.run, proxies.comparison.run):
        assert module.make_accelerator is make_accelerator


def test_a_process_without_held_out_rows_evaluates_nothing(tmp_path: Path) -> None:
    settings = load_settings(write_run(tmp_path))
    corpus = prepare(settings.corpus, tmp_path / "cache", settings.draws)
    corpus = replace(corpus, held_out={name: tokens[: 2 * 16] for name, tokens in corpus.held_out.items()})
    model = build_model(settings.model, vocab_size=257, eos_id=256, row_tokens=16, seed=0)
    alone = held_out_row_losses(model, corpus, rows=8, place=here(0, 1))
    parts = [held_out_row_losses(model, corpus, rows=8, place=here(rank, 3)) for rank in range(3)]
    assert not parts[2]["digits"].any()
    for name, losses in alone.items():
        torch.testing.assert_close(sum(part[name] for part in parts), losses)


def here(rank: int, processes: int) -> Place:
    """A process of several that sums nothing."""
    return Place(rank, processes, torch.device("cpu"), None, nullcontext)
