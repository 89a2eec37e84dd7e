"""MixtureStream with sample policies: what is dropped never comes, what is repeated does, on every rank and after every
resume.
"""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mixtures import Mixture, MixtureStream
from mixtures.adapters import TorchRows
from mixtures.errors import UserError
from mixtures.schedule.manifest import Manifest
from mixtures.stream.policy import Policy
from mixtures.stream.shuffle import ROUNDS, epoch_key, shuffled
from tests.mixtures.stream.helpers import (
    ROW,
    epoch_of_lists,
    make_manifest,
    make_mixture,
    make_places,
    make_sampled,
)

SHARES = {"web": 0.5, "code": 0.2, "maths": 0.2, "news": 0.1}
LENGTHS = [3, 17, 8, 25, 1, 12, 30, 9, 5, 14] * 4  # tokens of 40 documents
WEIGHTS = [0.0, 0.3, 2.4, 0.9, 1.0, 0.1, 1.7, 3.0, 0.5, 0.8] * 4
ROWS = 600


def manifests() -> dict[str, Manifest]:
    mean_one = np.array(WEIGHTS) / (np.array(WEIGHTS) @ LENGTHS) * sum(LENGTHS)
    kinds = {
        "web": ("filter", np.array(WEIGHTS) > 0.5),
        "code": ("multiplicity", np.round(WEIGHTS)),
        "maths": ("sampling_weight", mean_one),
    }
    return {
        name: make_manifest(name, mode=mode, tokens=LENGTHS, weight=weight, gaps=[0, 4] * 20, after=11)
        for name, (mode, weight) in kinds.items()
    }


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A domain of every kind of policy, and one without."""
    return make_sampled(tmp_path_factory.mktemp("mixture"), SHARES, manifests(), rows=ROWS, news={"unique_tokens": 300})


def open_stream(mixture: Mixture, **options: Any) -> MixtureStream:
    return MixtureStream(mixture, make_places(mixture), row_tokens=ROW, **options)


def rows_of(rows: np.ndarray, number: int) -> np.ndarray:
    """The rows of one domain, as places in it."""
    return rows[rows[:, 0] // 10_000 == number] - 10_000 * number


def shuffled_twin(manifest: Manifest, rows: int, *, seed: int) -> np.ndarray:
    """A domain's first rows: every epoch's text as a list, cut, and shuffled row by row."""
    policy, out, epoch = Policy(manifest, seed=seed, row_tokens=ROW), [], 0
    while len(out) < rows:
        text = epoch_of_lists(manifest, policy.counts(epoch).tolist())
        size, key = (
            len(text) // ROW,
            np.array([epoch_key(seed, manifest.domain, epoch)], dtype=np.uint64).reshape(ROUNDS, 1),
        )
        for place in range(size):
            cut = int(shuffled(np.array([place]), sizes=np.array([size]), keys=key)[0])
            out.append(text[ROW * cut : ROW * cut + ROW])
        epoch += 1
    return np.array(out[:rows])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_every_domain_gives_its_epochs_texts_cut_and_shuffled(mixture: Mixture, seed: int) -> None:
    rows = open_stream(mixture, seed=seed).take(ROWS)
    for number, manifest in enumerate(manifests().values()):
        found = rows_of(rows, number)
        assert (found == shuffled_twin(manifest, len(found), seed=seed)).all()
        assert len(found) > manifest.pass_tokens / ROW  # more than one epoch was read


def test_a_dropped_document_is_never_given_and_a_kept_one_once_an_epoch(mixture: Mixture) -> None:
    manifest = manifests()["web"]
    spans = zip(manifest.start[manifest.weight == 0], manifest.tokens[manifest.weight == 0], strict=True)
    dropped = {place for start, length in spans for place in range(start, start + length)}
    assert len(dropped) > 100
    rows = rows_of(open_stream(mixture).take(ROWS), 0)
    assert not dropped & set(rows.ravel().tolist())
    size = manifest.pass_tokens // ROW
    kept = Counter(rows[:size].ravel().tolist())
    assert set(kept.values()) == {1}
    assert manifest.pass_tokens - len(kept) < ROW  # but for the last short row
    assert len(kept) + len(dropped) > manifest.domain_tokens - ROW


def test_policies_do_not_touch_the_shares_of_domains_or_their_order(mixture: Mixture) -> None:
    plain = make_mixture(
        SHARES, rows=ROWS, domains={domain.name: {"unique_tokens": domain.unique_tokens} for domain in mixture.domains}
    )
    streams = open_stream(mixture), open_stream(plain)
    rows = [stream.take(ROWS) for stream in streams]
    assert (rows[0][:, 0] // 10_000 == rows[1][:, 0] // 10_000).all()
    assert streams[0].drawn == streams[1].drawn == {name: ROWS * share for name, share in SHARES.items()}
    assert (rows_of(rows[0], 3) == rows_of(rows[1], 3)).all()  # a domain without policy reads what it read before


def test_policies_that_change_nothing_give_the_rows_of_none(tmp_path: Path) -> None:
    same = {
        name: make_manifest(name, mode=mode, tokens=LENGTHS, weight=[1] * 40, gaps=[0, 4] * 20, after=11)
        for name, mode in (("web", "filter"), ("code", "multiplicity"), ("maths", "sampling_weight"))
    }
    mixture = make_sampled(tmp_path, SHARES, same, rows=ROWS, news={"unique_tokens": 300})
    plain = make_mixture(
        SHARES, rows=ROWS, domains={domain.name: {"unique_tokens": domain.unique_tokens} for domain in mixture.domains}
    )
    assert (open_stream(mixture).take(ROWS) == open_stream(plain).take(ROWS)).all()


@pytest.mark.slow
def test_tokens_come_as_often_as_weights_say_over_many_epochs(tmp_path: Path) -> None:
    """Token by token through the stream: never more often, and less often only what the last short row of an epoch
    leaves out.
    """
    manifest = manifests()["maths"]
    size = manifest.domain_tokens // ROW
    mixture = make_sampled(tmp_path, {"maths": 1.0}, {"maths": manifest}, rows=300 * size)
    tokens = rows_of(open_stream(mixture).take(300 * size), 0)
    wanted = np.ones(manifest.domain_tokens)
    for start, length, weight in zip(manifest.start, manifest.tokens, manifest.weight, strict=True):
        wanted[start : start + length] = weight
    off = np.bincount(tokens.ravel(), minlength=manifest.domain_tokens) / 300 - wanted
    assert off.max() < 0.03
    assert -off[off < 0].sum() < ROW


def test_caps_count_passes_over_what_is_kept(tmp_path: Path) -> None:
    cap = {"max_epochs": 2.5, "on_exhausted": "renormalize"}
    kinds = manifests()
    mixture = make_sampled(
        tmp_path, {**SHARES, "news": 0.1}, kinds, rows=2000, web=cap, code=cap, maths=cap, news={"unique_tokens": 300}
    )
    stream = open_stream(mixture)
    stream.skip(2000)
    for name, manifest in kinds.items():
        assert stream.drawn[name] == np.ceil(2.5 * manifest.pass_tokens / ROW)


# ranks, workers, resuming


@pytest.mark.slow
@given(st.integers(1, 6))
def test_ranks_share_the_rows_out_without_overlap(mixture: Mixture, world: int) -> None:
    parts = [np.stack(list(open_stream(mixture, rank=rank, world=world))) for rank in range(world)]
    together = np.stack(parts, axis=1).reshape(-1, ROW)
    assert (together == open_stream(mixture).take(ROWS)[: len(together)]).all()


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 60)), min_size=1, max_size=4))
def test_a_resumed_stream_goes_on_exactly_at_any_world_size(mixture: Mixture, legs: list[tuple[int, int]]) -> None:
    expected, state, position = open_stream(mixture).take(ROWS), open_stream(mixture).state_dict(), 0
    for world, rows in legs:
        streams = [open_stream(mixture, rank=rank, world=world) for rank in range(world)]
        for stream in streams:
            stream.load_state_dict(json.loads(json.dumps(state)))
        together = np.stack([stream.take(rows) for stream in streams], axis=1).reshape(-1, ROW)
        assert (together == expected[position : position + len(together)]).all()
        states = [stream.state_dict() for stream in streams]
        assert all(other == states[0] for other in states)
        state, position = states[0], position + len(together)


@pytest.mark.slow
def test_copies_workers_and_iterating_are_the_same_rows(mixture: Mixture) -> None:
    expected = open_stream(mixture).take(ROWS)
    stream = open_stream(mixture)
    rows = [next(stream) for _ in range(5)]
    other = stream.copy()
    assert (other.take(ROWS) == expected[5:]).all()
    sent = pickle.loads(pickle.dumps(stream))
    assert (sent.take(ROWS) == expected[5:]).all()
    rows += list(stream)
    assert (np.stack(rows) == expected).all()
    for workers in (0, 2):
        loader = DataLoader(TorchRows(open_stream(mixture), batch_rows=16), batch_size=16, num_workers=workers)
        assert (torch.cat([batch["input_ids"] for batch in loader]).numpy() == expected).all()


def test_a_state_of_a_mixture_with_another_manifest_is_refused(mixture: Mixture, tmp_path: Path) -> None:
    changed = manifests()
    changed["web"].weight[0] = 1
    other = make_sampled(tmp_path, SHARES, changed, rows=ROWS, news={"unique_tokens": 300})
    state = open_stream(mixture).state_dict()
    with pytest.raises(UserError, match=r"state belongs to mixture sha256:\w+, this one is sha256:\w+"):
        open_stream(other).load_state_dict(state)
    stream = open_stream(other, new_weights=True)
    stream.load_state_dict(state)
    assert (stream.take(ROWS) == open_stream(other).take(ROWS)).all()
