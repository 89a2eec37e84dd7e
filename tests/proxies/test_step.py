"""The global batch of a step is a function of (seed, step); processes and micro-batches only divide it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import proxies.step
from mixtures.errors import UserError
from proxies.preflight import require_divisible
from proxies.settings import Settings
from proxies.step import Group, adam_geometry, adam_metric, halves_of, read_rows, split


def settings(**blocks: dict) -> Settings:
    corpus = {
        "tokenizer": {"bytes": True},
        "row_tokens": 8,
        "domains": {"a": {"data_files": "a.txt"}, "b": {"data_files": "b.txt"}},
    }
    return Settings.model_validate({"run_dir": "run", "corpus": corpus, "model": {"preset": "llama-1m"}, **blocks})


@pytest.mark.slow
@given(groups=st.integers(1, 5), rows=st.integers(1, 12), halves=st.sampled_from([1, 2]), slices=st.integers(1, 12))
def test_parts_hold_every_row_once_in_its_own_half_group(groups: int, rows: int, halves: int, slices: int) -> None:
    if rows % slices or (halves == 2 and rows % 2):
        return
    batch = torch.arange(groups * rows * 3).view(groups, rows, 3)
    seen: dict[int, list[int]] = {slot: [] for slot in range(halves * groups)}
    weight = dict.fromkeys(seen, 0.0)
    for part in split(batch, halves=halves, slices=slices):
        for offset, rows_of_slot in enumerate(part.rows.view(part.count, -1, 3)):
            seen[part.first + offset] += rows_of_slot[:, 0].tolist()
            weight[part.first + offset] += part.share
    for slot, found in seen.items():
        half, group = divmod(slot, groups)
        size = rows // halves
        assert sorted(found) == batch[group, half * size : (half + 1) * size, 0].tolist()
        assert weight[slot] == pytest.approx(1 / halves)


def test_rows_of_a_step_depend_on_seed_and_step_only() -> None:
    groups = [Group(name, np.arange(400, dtype=np.uint16) + 400 * i, 1.0) for i, name in enumerate("ab")]

    def read(seed: int, step: int) -> torch.Tensor:
        return read_rows(groups, seed=seed, step=step, rows=4, row_tokens=10)

    assert torch.equal(read(0, 3), read(0, 3))
    assert not torch.equal(read(0, 3), read(0, 4))
    assert not torch.equal(read(0, 3), read(1, 3))
    alone = read_rows(groups[1:], seed=0, step=3, rows=4, row_tokens=10)
    assert torch.equal(read(0, 3)[1:], alone)  # nor on the other domains, or their order


def test_an_epoch_holds_every_row_once() -> None:
    group = Group("a", np.arange(120, dtype=np.uint16), 1.0)
    rows = torch.cat([read_rows([group], seed=0, step=step, rows=4, row_tokens=10)[0] for step in range(3)])
    assert sorted(rows[:, 0].tolist()) == list(range(0, 120, 10))


def test_rows_not_divisible_by_processes_are_refused_with_a_multiple() -> None:
    with pytest.raises(UserError, match=r"rows_per_domain is 4.*3 process\(es\) x 1.*e\.g\. 6"):
        require_divisible(settings(), 3)
    with pytest.raises(UserError, match=r"multiple of 8, e\.g\. 8"):
        require_divisible(settings(train={"accumulate": 4}), 2)
    require_divisible(settings(train={"accumulate": 2}), 2)


def test_stable_refuses_an_odd_number_of_rows() -> None:
    with pytest.raises(UserError, match="preset stable compares two halves"):
        require_divisible(settings(train={"rows_per_domain": 3}), 1)
    odd = settings(train={"rows_per_domain": 3}, update={"preset": "paper"})
    require_divisible(odd, 1)
    assert halves_of(odd) == 1


def adam_after(gradient: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
    """A parameter and its optimizer after one step with this gradient."""
    table = torch.nn.Parameter(torch.zeros_like(gradient))
    optimizer = torch.optim.AdamW([table], lr=1e-3)
    table.grad = gradient
    optimizer.step()
    return table, optimizer


def test_a_word_no_step_has_reached_does_not_dominate_adams_geometry() -> None:
    fresh = torch.nn.Parameter(torch.zeros(100, 4))
    assert adam_metric(torch.optim.AdamW([fresh], lr=1e-3), fresh, slice(0, 100)) is None
    table, optimizer = adam_after(torch.ones(100, 4).index_fill(0, torch.tensor([7]), 0.0))
    whole = adam_metric(optimizer, table, slice(0, 100))
    assert whole is not None
    assert whole[0, 0] == pytest.approx(1 / 1.1, rel=1e-5)  # v is 1 everywhere but in the word's four entries
    assert whole[7, 0] / whole[0, 0] == pytest.approx(11, rel=1e-5)
    part = adam_metric(optimizer, table, slice(5, 9))
    assert part is not None
    assert torch.equal(part, whole[5:9])


@pytest.mark.parametrize("unused", [1, 1000, 100_000])
def test_adams_geometry_does_not_depend_on_words_that_never_occur(unused: int) -> None:
    used = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    small = adam_metric(*reversed(adam_after(used)), slice(0, 50))
    large = adam_metric(*reversed(adam_after(torch.cat([used, torch.zeros(unused, 4)]))), slice(0, 50))
    torch.testing.assert_close(large, small, rtol=1e-6, atol=0)


def test_a_parameter_no_step_has_reached_counts_for_nothing() -> None:
    table, optimizer = adam_after(torch.zeros(8, 4))
    whole = adam_metric(optimizer, table, slice(0, 8))
    assert whole is not None
    assert not whole.any()


def test_a_parameter_in_parts_has_its_geometry_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table, optimizer = adam_after(torch.rand(40, 4, generator=torch.Generator().manual_seed(0)))
    expected = adam_metric(optimizer, table, slice(0, 40))
    calls: list[slice] = []

    def counted(*arguments: object) -> torch.Tensor | None:
        calls.append(arguments[2])  # type: ignore[arg-type]
        return adam_metric(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(proxies.step, "adam_metric", counted)
    metric = adam_geometry(optimizer)
    parts = [metric(table, slice(start, start + 10)) for start in range(0, 40, 10)]
    assert torch.equal(torch.cat(parts), expected)  # type: ignore[arg-type]
    assert len(calls) == 1
