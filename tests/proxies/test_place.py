"""`proxies.place`: what the main process decides holds in every process, its refusals too."""

from types import SimpleNamespace
from typing import Any

import pytest

from mixtures.errors import UserError
from proxies import place


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
