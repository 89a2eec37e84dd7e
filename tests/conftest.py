"""One thread, no randomness that a rerun would not repeat."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

collect_ignore = ["trainers"]  # these need the trainers: `make test-trainers`

install_import_hook(
    "doge", "beartype.beartype"
)  # shapes and types of public signatures hold at every call of every test

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that train a model in this process as slow: `make check` leaves them out."""
    for item in items:
        if "fresh_accelerator" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture
def pictures() -> None:
    """For tests with `fresh_accelerator` whose runs draw their plots in full."""


@pytest.fixture
def fresh_accelerator(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests that run `proxies.train` in this process: the CPU, one thread, and nothing left of an earlier run's
    accelerator.

    Figures are made, but not drawn: that takes two thirds of a small run's time, and is matplotlib's.
    """
    import torch
    from accelerate.state import AcceleratorState, PartialState
    from matplotlib.figure import Figure

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"no picture"))
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
